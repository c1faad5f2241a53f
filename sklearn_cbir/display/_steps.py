"""What the displays need to know of an estimator."""

from scipy import sparse
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted


def split_steps(estimator):
    """Return the steps that make vectors (None without any) and the fitted retriever."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    steps = None
    if isinstance(estimator, Pipeline):
        steps = estimator[:-1] if len(estimator) > 1 else None
        estimator = estimator[-1]
    if not hasattr(estimator, "kneighbors"):
        raise ValueError(
            f"{type(estimator).__name__} does not search. Pass a fitted NeighborsRetriever, or a "
            "fitted Pipeline that ends in one."
        )
    check_is_fitted(estimator)
    return steps, estimator


def n_rows(X):
    """Count the rows of an array, sequence, data frame or sparse matrix."""
    return X.shape[0] if sparse.issparse(X) else len(X)


def take_rows(X, rows):
    """Return some rows of an array, sequence, data frame or sparse matrix."""
    if sparse.issparse(X):
        return X.tocsr()[rows]
    is_table = hasattr(X, "shape") or hasattr(X, "to_pylist")  # pyarrow's columns have no shape
    return _safe_indexing(X, rows) if is_table else [X[int(row)] for row in rows]
