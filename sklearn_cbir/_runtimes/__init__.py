"""What computes vectors on a processor: torch, or a runtime that a fitted network is converted to.

A graph of operators, made once and compiled for this processor, is faster than torch, and takes
about a second to make. So "auto" begins with torch. Training and GPUs are torch's alone.
"""

from sklearn_cbir._runtimes._choice import ByRuntime, check_runtime

__all__ = ["ByRuntime", "check_runtime"]
