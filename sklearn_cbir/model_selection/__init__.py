"""Splits of the papers, and folds and scorers to tune retrieval with scikit-learn's searches."""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
