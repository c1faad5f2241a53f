"""Splits of the papers, folds and scorers with which scikit-learn's searches tune retrieval."""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
