"""What the displays need to know of an estimator."""

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


def labels_of(retriever):
    """Return the labels of the gallery, None if it was fitted without."""
    labels = retriever._gallery.labels
    return None if labels is None else labels.values


def n_rows(X):
    """Count the rows of an array, sequence or data frame."""
    return X.shape[0] if hasattr(X, "shape") else len(X)
