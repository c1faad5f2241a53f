"""What the displays need to know of an estimator."""

from scipy import sparse
from sklearn.pipeline import Pipeline
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
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    if sparse.issparse(X):
        return X.tocsr()[rows]
    return X[rows] if hasattr(X, "shape") else [X[row] for row in rows]
