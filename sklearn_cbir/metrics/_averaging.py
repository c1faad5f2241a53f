"""Numbers per query in, one number (or one per class) out."""

import warnings

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import UndefinedMetricWarning

from sklearn_cbir._labels import check_labels
from sklearn_cbir._typing import Floats, Labels, LabelsLike, Positions
from sklearn_cbir._validation import check_integer, check_not_masked

__all__ = ["mean_over_queries", "mean_per_class", "worst_queries"]

WAY_OUT = (
    "In cross-validation this happens when the folds follow sorted rows: use "
    "StratifiedKFold(shuffle=True), or, if the gallery must not contain the classes of the "
    "queries, ClassDisjointKFold with retrieval_scorer(gallery='queries')."
)


def mean_over_queries(values: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Average a metric over the queries for which it is defined.

    Parameters
    ----------
    values : array-like of shape (n_queries,)
        A metric per query, NaN for a query with nothing relevant in the gallery.

    sample_weight : array-like of shape (n_queries,), default=None
        Non-negative weights of the queries.

    Returns
    -------
    float
        The (weighted) mean of the values that are not NaN; a warning counts the others.

    Raises
    ------
    ValueError
        If no query is left, or a weight is not valid.

    Examples
    --------
    >>> mean_over_queries([1.0, 0.5])
    0.75
    """
    values = _check_values(values)
    weights = check_weights(sample_weight, len(values))
    defined = ~np.isnan(values)
    n_left_out = len(values) - np.count_nonzero(defined)
    if n_left_out == len(values):
        raise ValueError(
            f"None of the {len(values)} queries has anything relevant in the gallery, so there is "
            f"nothing to average. {WAY_OUT}"
        )
    if n_left_out:
        warnings.warn(
            f"{n_left_out} of {len(values)} queries have nothing relevant in the gallery and are "
            f"left out of the mean. {WAY_OUT}",
            UndefinedMetricWarning,
            stacklevel=3,
        )
    if weights[defined].sum() == 0:
        raise ValueError(
            "sample_weight is 0 for every query that has something relevant in the gallery. "
            "Give at least one of them a positive weight."
        )
    return float(np.average(values[defined], weights=weights[defined]))


def mean_per_class(y_queries: LabelsLike, values: ArrayLike) -> tuple[Labels, Floats]:
    """Average a metric over the queries of each class.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        Labels of the queries; with 0/1 columns a query counts for each of its
        labels.

    values : array-like of shape (n_queries,)
        A metric per query (``per_query=True``); NaN is left out.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The labels, sorted, or the numbers of the columns.

    means : ndarray of shape (n_classes,), float64
        NaN for a class without a query for which the metric is defined.

    Examples
    --------
    >>> mean_per_class(["cat", "dog", "cat"], [1.0, 0.25, 0.5])
    (array(['cat', 'dog'], dtype='<U3'), array([0.75, 0.25]))
    """
    values = _check_values(values)
    y_queries = check_labels(y_queries, name="y_queries", n=len(values))
    if y_queries.ndim == 2:
        classes = np.arange(y_queries.shape[1])
        member = y_queries > 0
    else:
        classes = np.unique(y_queries)
        member = y_queries[:, None] == classes[None, :]
    defined = ~np.isnan(values)
    count = member[defined].sum(axis=0)
    total = values[defined] @ member[defined]
    means = np.full(len(classes), np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return classes, means


def worst_queries(values: ArrayLike, n: int = 10) -> Positions:
    """Find the queries with the lowest values.

    Parameters
    ----------
    values : array-like of shape (n_queries,)
        A metric per query (``per_query=True``); NaN is left out.

    n : int, default=10
        Maximum number of queries.

    Returns
    -------
    ndarray of shape (min(n, n_defined),), int64
        Positions of queries, the worst first; of equal values the earlier query.

    Examples
    --------
    >>> worst_queries([0.5, float("nan"), 0.1, 0.9], n=2)
    array([2, 0])
    """
    values = _check_values(values)
    n = check_integer(n, "n", minimum=1)
    order = np.argsort(values, kind="stable")  # NaN last
    return order[: min(n, np.count_nonzero(~np.isnan(values)))]


def check_weights(sample_weight: ArrayLike | None, n_queries: int) -> Floats:
    """Return one non-negative finite weight per query."""
    if sample_weight is None:
        return np.ones(n_queries)
    check_not_masked(sample_weight, "sample_weight")
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (n_queries,):
        raise ValueError(
            f"sample_weight has shape {weights.shape}, but there are {n_queries} queries. "
            "Pass one weight per query."
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("sample_weight must hold finite numbers of at least 0.")
    with np.errstate(over="ignore"):
        overflows = np.isinf(weights.sum())
    return weights / weights.max() / len(weights) if overflows else weights


def _check_values(values: ArrayLike) -> Floats:
    """Return a metric as float64, one number per query."""
    check_not_masked(values, "values")
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"values has shape {values.shape}. Pass one number per query, as metrics return with "
            "per_query=True."
        )
    return values
