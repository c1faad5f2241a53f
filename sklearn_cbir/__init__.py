"""Content-based image retrieval as scikit-learn estimators."""

from sklearn_cbir._lazy import lazy_exports

__version__ = "0.1.0.dev0"

__getattr__, __dir__, __all__ = lazy_exports(__name__)
