"""Runtimes that compute vectors on a processor: torch, or one for a converted network.

A graph of operators, compiled once for this processor, is faster than torch, but it takes about a
second to make. So "auto" begins with torch. Training and GPUs always use torch.
"""

from sklearn_cbir._runtimes._choice import ByRuntime, check_runtime

__all__ = ["ByRuntime", "check_runtime"]
