"""Metrics of the first k results, exact over all orders of equally distant items."""

from functools import lru_cache
from typing import Literal, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from sklearn_cbir._typing import (
    Distances,
    Floats,
    LabelsLike,
    Positions,
    Ranked,
    Ties,
)
from sklearn_cbir.metrics._groups import Cutoff, TieGroups
from sklearn_cbir.metrics._walk import GroupMetric, evaluate_metric

__all__ = ["acg_at_k", "ndcg_at_k", "precision_at_k", "recall_at_k", "set_recall_at_k"]


@overload
def precision_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def precision_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = ...,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def precision_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = 10,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Share of the first `k` results that are relevant.

    The divisor is `k` even if `exclude` leaves a query fewer results.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    k : int, default=10
        Number of results that count; None means all.

    ties : {"average", "stable", "optimistic", "pessimistic"}, default="average"
        As in `mean_average_precision`.

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`.

    sample_weight : array-like of shape (n_queries,), default=None
        Weights of the queries.

    per_query : bool, default=False
        Whether to return one value per query.

    Returns
    -------
    float, or ndarray of shape (n_queries,), float64
        From 0 to 1; NaN as in `mean_average_precision`.

    Examples
    --------
    >>> from sklearn_cbir.metrics import precision_at_k
    >>> precision_at_k([1], [1, 0, 1, 0], [[0.1, 0.2, 0.3, 0.4]], k=2)
    0.5
    """
    return evaluate_metric(
        precision_metric(k, ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def recall_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def recall_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = ...,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def recall_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = 1,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Share of the queries with something relevant among the first `k` results.

    Papers on metric learning and on unseen classes call this recall@k; other names
    are hit rate, top-k accuracy, and CMC at rank k. For the share of the relevant
    items that were found, see `set_recall_at_k`.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    k : int, default=1
        Number of results that count; None means all.

    ties : {"average", "stable", "optimistic", "pessimistic"}, default="average"
        As in `mean_average_precision`: the chance of a hit over all orders.

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`.

    sample_weight : array-like of shape (n_queries,), default=None
        Weights of the queries.

    per_query : bool, default=False
        Whether to return one value per query.

    Returns
    -------
    float, or ndarray of shape (n_queries,), float64
        From 0 to 1; NaN as in `mean_average_precision`.

    Examples
    --------
    >>> from sklearn_cbir.metrics import recall_at_k
    >>> recall_at_k([1, 0], [1, 0, 1], [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]], k=1)
    0.5
    """
    return evaluate_metric(
        recall_metric(k, ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def set_recall_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def set_recall_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = ...,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def set_recall_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = 10,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Share of the relevant gallery items that are among the first `k` results.

    The recall of information retrieval; for the recall@k of metric learning see
    `recall_at_k`.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    k : int, default=10
        Number of results that count; None means all.

    ties : {"average", "stable", "optimistic", "pessimistic"}, default="average"
        As in `mean_average_precision`.

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`.

    sample_weight : array-like of shape (n_queries,), default=None
        Weights of the queries.

    per_query : bool, default=False
        Whether to return one value per query.

    Returns
    -------
    float, or ndarray of shape (n_queries,), float64
        From 0 to 1; NaN as in `mean_average_precision`.

    Examples
    --------
    >>> from sklearn_cbir.metrics import set_recall_at_k
    >>> set_recall_at_k([1], [1, 0, 1, 0], [[0.1, 0.2, 0.3, 0.4]], k=2)
    0.5
    """
    return evaluate_metric(
        set_recall_metric(k, ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def acg_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def acg_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = ...,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def acg_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int = 10,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Mean number of labels that the first `k` results share with the query [1]_.

    The divisor is `k` even if `exclude` leaves a query fewer results.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    k : int, default=10
        Number of results that count; None means all.

    ties : {"average", "stable", "optimistic", "pessimistic"}, default="average"
        As in `mean_average_precision`.

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`.

    sample_weight : array-like of shape (n_queries,), default=None
        Weights of the queries.

    per_query : bool, default=False
        Whether to return one value per query.

    Returns
    -------
    float, or ndarray of shape (n_queries,), float64
        From 0 to the number of labels; NaN as in `mean_average_precision`.

    References
    ----------
    .. [1] K. Järvelin, J. Kekäläinen. "IR evaluation methods for retrieving highly
       relevant documents". SIGIR 2000.

    Examples
    --------
    >>> from sklearn_cbir.metrics import acg_at_k
    >>> gallery = [[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]]  # shared: 2, 0, 1, 3
    >>> acg_at_k([[1, 1, 1]], gallery, [[0.1, 0.2, 0.3, 0.4]], k=2)
    1.0
    """
    return evaluate_metric(
        acg_metric(k, ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def ndcg_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def ndcg_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = ...,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def ndcg_at_k(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = None,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Discounted gain of the first `k` results, relative to the best order [1]_.

    A result that shares ``c`` labels gains ``2 ** c - 1``, divided by ``log2(rank +
    1)``. The best order is that of the whole gallery.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    k : int, default=None
        Number of results that count; None means all.

    ties : {"average", "stable", "optimistic", "pessimistic"}, default="average"
        As in `mean_average_precision`.

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`.

    sample_weight : array-like of shape (n_queries,), default=None
        Weights of the queries.

    per_query : bool, default=False
        Whether to return one value per query.

    Returns
    -------
    float, or ndarray of shape (n_queries,), float64
        From 0 to 1; NaN as in `mean_average_precision`.

    References
    ----------
    .. [1] K. Järvelin, J. Kekäläinen. "Cumulated gain-based evaluation of IR
       techniques". ACM TOIS 2002; gains as in C. Burges et al. "Learning to rank
       using gradient descent". ICML 2005.

    Examples
    --------
    >>> from sklearn_cbir.metrics import ndcg_at_k
    >>> gallery = [[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]]  # shared: 2, 0, 1, 3
    >>> ndcg_at_k([[1, 1, 1]], gallery, [[0.1, 0.2, 0.3, 0.4]])
    0.6935...
    """
    return evaluate_metric(
        ndcg_metric(k, ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


def precision_metric(k: int, ties: Ties) -> GroupMetric:
    """Return the metric of `precision_at_k`."""
    return GroupMetric(lambda groups, k: _share(groups, k, groups.hits), k=k, ties=ties)


def recall_metric(k: int, ties: Ties) -> GroupMetric:
    """Return the metric of `recall_at_k`."""
    return GroupMetric(chance_of_a_hit, k=k, ties=ties)


def set_recall_metric(k: int, ties: Ties) -> GroupMetric:
    """Return the metric of `set_recall_at_k`."""
    return GroupMetric(
        lambda groups, k: _expected(groups, k, groups.hits) / np.maximum(groups.n_relevant, 1),
        k=k,
        ties=ties,
    )


def acg_metric(k: int, ties: Ties) -> GroupMetric:
    """Return the metric of `acg_at_k`."""
    return GroupMetric(
        lambda groups, k: _share(groups, k, groups.gain), k=k, ties=ties, gains=linear_gains
    )


def ndcg_metric(k: int | None, ties: Ties) -> GroupMetric:
    """Return the metric of `ndcg_at_k`."""
    return GroupMetric(_normalized_gain, k=k, ties=ties, gains=exponential_gains)


def _cutoff(groups: TieGroups, k: Cutoff) -> Positions:
    """Return the number of results that count, per query."""
    return groups.n_results if k is None else np.full(len(groups.n_results), k)


def _inside(groups: TieGroups, k: Cutoff) -> Positions:
    """Return how many positions of each group are among the first `k`."""
    return np.clip(_cutoff(groups, k)[groups.query] - groups.before, 0, groups.size)


def _expected(groups: TieGroups, k: Cutoff, amount: np.ndarray) -> Floats:
    """Sum what the first `k` results hold of an amount that each group shares out evenly."""
    return groups.sum(amount * _inside(groups, k) / groups.size)


def _share(groups: TieGroups, k: Cutoff, amount: np.ndarray) -> Floats:
    """Return `_expected` per result; 0 for a query of which nothing is ranked."""
    return _expected(groups, k, amount) / np.maximum(_cutoff(groups, k), 1)


def chance_of_a_hit(groups: TieGroups, k: Cutoff) -> Floats:
    """Return the chance that something relevant is among the first `k`."""
    values = np.zeros(len(groups.n_relevant))
    # Only the nearest group matters: k either ends before it, or hits it by chance.
    queries, nearest = np.unique(groups.query, return_index=True)
    size, hits = groups.size[nearest], groups.hits[nearest]
    drawn = _inside(groups, k)[nearest]
    misses = size - hits
    # All `drawn` are misses in C(misses, drawn) of C(size, drawn) cases.
    possible = drawn <= misses
    left = np.where(possible, misses - drawn, 0)
    log = gammaln(misses + 1) - gammaln(left + 1) - gammaln(size + 1) + gammaln(size - drawn + 1)
    values[queries] = np.where(possible, -np.expm1(np.minimum(log, 0.0)), 1.0)
    return values


def linear_gains(n_levels: int) -> Floats:
    """Return the gains 0, 1, 2, ... of items that share so many labels."""
    return np.arange(n_levels, dtype=np.float64)


def exponential_gains(n_levels: int) -> Floats:
    """Return the gains of items that share 0, 1, 2, ... labels."""
    return np.exp2(np.minimum(np.arange(n_levels), 1000)) - 1  # 2 ** 1024 overflows


@lru_cache(maxsize=1)
def _discounts(n_bits: int) -> Floats:
    """Return the discounted cumulative gain of 0 to ``2 ** n_bits`` - 1 results of gain 1."""
    return np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 2**n_bits + 1)))])


def _normalized_gain(groups: TieGroups, k: Cutoff) -> Floats:
    """Return the expected discounted gain relative to that of the best order."""
    discounts = _discounts(int(_cutoff(groups, k).max()).bit_length())
    inside = _inside(groups, k)
    start = np.where(inside > 0, groups.before, 0)
    worth = discounts[start + inside] - discounts[start]
    reached = groups.sum(groups.gain * worth / groups.size)
    gains = exponential_gains(groups.levels.shape[1])
    # Items that share most labels first.
    descending = groups.levels[:, :0:-1]  # (n_queries, n_levels - 1)
    last = np.minimum(np.cumsum(descending, axis=1), _cutoff(groups, k)[:, None])
    steps = np.diff(discounts[last], axis=1, prepend=0.0)
    best = steps @ gains[:0:-1]
    return reached / np.where(best > 0, best, 1.0)
