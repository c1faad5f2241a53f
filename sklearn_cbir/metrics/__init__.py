"""Retrieval metrics: labels and distances in, one number out; larger is better."""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
