"""Hashers: images or features to binary codes, uint8 {0, 1} of shape (n, n_bits)."""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
