"""What the displays need to know of an estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from sklearn_cbir.neighbors import NeighborsRetriever


def split_steps(estimator: object) -> tuple[Pipeline | None, NeighborsRetriever]:
    """Return the steps that make vectors (None without any) and the fitted retriever."""
    last: Any = getattr(estimator, "best_estimator_", estimator)
    steps = None
    if isinstance(last, Pipeline):
        steps = last[:-1] if len(last) > 1 else None
        last = last[-1]
    if not hasattr(last, "kneighbors"):
        raise ValueError(
            f"{type(last).__name__} does not search. Pass a fitted NeighborsRetriever, or a "
            "fitted Pipeline that ends in one."
        )
    check_is_fitted(last)
    return steps, last


def n_rows(X: Any) -> int:
    """Count the rows of an array, sequence, data frame or sparse matrix."""
    return X.shape[0] if sparse.issparse(X) else len(X)


def take_rows(X: Any, rows: NDArray[np.int64]) -> Any:
    """Return some rows of an array, sequence, data frame or sparse matrix."""
    if sparse.issparse(X):
        return cast(Any, X).tocsr()[rows]
    is_table = hasattr(X, "shape") or hasattr(X, "to_pylist")  # pyarrow's columns have no shape
    return _safe_indexing(X, rows) if is_table else [X[int(row)] for row in rows]
