"""Binary codes: pack them into 64-bit words and search them by Hamming distance, exactly."""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
