"""The parts of an estimator that displays use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from sklearn_cbir._unwrapped import unwrapped

if TYPE_CHECKING:
    from sklearn_cbir.duplicates import NearDuplicates
    from sklearn_cbir.neighbors import NeighborsRetriever


def split_steps(estimator: object) -> tuple[Pipeline | None, NeighborsRetriever]:
    """Return the steps that make vectors (None without any) and the fitted retriever."""
    steps, last = _split_last(estimator)
    if not hasattr(last, "kneighbors"):
        raise ValueError(
            f"{type(last).__name__} does not search. Pass a fitted NeighborsRetriever, or a "
            "fitted Pipeline that ends in one."
        )
    check_is_fitted(last)
    return steps, last


def split_clusterer(estimator: object) -> tuple[Pipeline | None, NearDuplicates]:
    """Return the steps that make vectors (None without any) and the fitted `NearDuplicates`."""
    steps, last = _split_last(estimator)
    if not hasattr(last, "leaks"):
        raise ValueError(
            f"{type(last).__name__} finds no duplicates. Pass a fitted NearDuplicates, or a "
            "fitted Pipeline that ends in one."
        )
    check_is_fitted(last)
    return steps, last


def _split_last(estimator: object) -> tuple[Pipeline | None, Any]:
    """Return the steps before the last one (None without any), and the last one."""
    last = unwrapped(estimator)
    if not isinstance(last, Pipeline):
        return None, last
    return last[:-1] if len(last) > 1 else None, last[-1]


def n_rows(X: Any) -> int:
    """Count the rows of an array, sequence, data frame or sparse matrix."""
    return X.shape[0] if sparse.issparse(X) else len(X)


def take_rows(X: Any, rows: NDArray[np.int64]) -> Any:
    """Return some rows of an array, sequence, data frame or sparse matrix."""
    if sparse.issparse(X):
        return cast(Any, X).tocsr()[rows]
    is_table = hasattr(X, "shape") or hasattr(X, "to_pylist")  # pyarrow's columns have no shape
    return _safe_indexing(X, rows) if is_table else [X[int(row)] for row in rows]
