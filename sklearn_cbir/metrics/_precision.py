"""Average precision and its relatives, exact over all orders of equally distant items."""

from typing import Literal, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, gammaln

from sklearn_cbir._typing import (
    Denominator,
    Distances,
    Floats,
    LabelsLike,
    NoHits,
    Ranked,
    Ties,
)
from sklearn_cbir._validation import check_choice
from sklearn_cbir.metrics._cutoff import chance_of_a_hit, linear_gains
from sklearn_cbir.metrics._walk import GroupMetric, evaluate_metric

__all__ = [
    "map_at_r",
    "map_c",
    "mean_average_precision",
    "trapezoid_mean_average_precision",
    "weighted_mean_average_precision",
]

DENOMINATORS = ("relevant", "hits", "min_k")
NO_HITS = ("zero", "skip")


@overload
def mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = ...,
    denominator: Denominator = ...,
    no_hits: NoHits = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = ...,
    denominator: Denominator = ...,
    no_hits: NoHits = ...,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = None,
    denominator: Denominator = "relevant",
    no_hits: NoHits = "zero",
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Average precision of ranked lists, averaged over queries (mAP).

    The precision at the rank of every relevant item of the first `k`, summed and
    divided by the number of relevant items in the gallery (``denominator``). Items
    at equal distance are averaged over all their orders [1]_, [2]_, in closed form;
    scikit-learn's `average_precision_score` treats them as one threshold instead.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer. Also any object with this `shape` that returns such an
        array for a slice of rows, such as `codes.HammingDistances` or a
        memory-mapped array.

    k : int, default=None
        Number of results that count; None means all.

    denominator : {"relevant", "hits", "min_k"}, default="relevant"
        Divisor of the sum. "relevant": the number of relevant items in the gallery.
        "hits": the number of those among the first `k` (published mAP@5000 and
        mAP@1000 of hashing; a single hit at rank 1 scores 1, no hit scores 0).
        "min_k": the smaller of `k` and the number of relevant items. They differ
        only if `k` is given.

    no_hits : {"zero", "skip"}, default="zero"
        Value of a query with nothing relevant among the first `k`. "zero": 0.
        "skip": NaN, and the mean leaves it out, as in the code of HashNet [3]_; if
        ties are averaged, only orders that find something relevant count.

    ties : {"average", "stable", "optimistic", "pessimistic"}, default="average"
        Order of equally distant items. "average": the mean over all their orders.
        "stable": the smaller gallery row first, as in some published numbers.
        "optimistic", "pessimistic": those that share most labels first, or last;
        these are the bounds over all orders [2]_, except for the denominator
        "hits" with a `k`.

    exclude : array-like, default=None
        Gallery rows that are not ranked for a query: one row per query, shape
        (n_queries,), -1 for none (leave-one-out); a boolean mask of shape
        (n_queries, n_gallery), or one array of rows or one mask per query in a
        list (junk images).

    sample_weight : array-like of shape (n_queries,), default=None
        Weights of the queries.

    per_query : bool, default=False
        Whether to return one value per query.

    Returns
    -------
    float, or ndarray of shape (n_queries,), float64
        From 0 to 1. A query with nothing relevant in the gallery is NaN, and left
        out of the mean with a warning.

    Raises
    ------
    ValueError
        If labels, distances or `k` do not fit, or no query has anything relevant.

    References
    ----------
    .. [1] F. McSherry, M. Najork. "Computing information retrieval performance
       measures efficiently in the presence of tied scores". ECIR 2008.
    .. [2] K. He, F. Cakir, S. A. Bargal, S. Sclaroff. "Hashing as tie-aware
       learning to rank". CVPR 2018.
    .. [3] Z. Cao, M. Long, J. Wang, P. S. Yu. "HashNet: deep learning to hash by
       continuation". ICCV 2017.

    Examples
    --------
    >>> from sklearn_cbir.metrics import mean_average_precision
    >>> y_gallery = [1, 0, 1, 0, 1]
    >>> mean_average_precision([1], y_gallery, [[0.1, 0.2, 0.3, 0.4, 0.5]])  # (1/1+2/3+3/5)/3
    0.7555...
    >>> mean_average_precision([1], y_gallery, [[0, 0, 1, 1, 1]])
    0.6703...
    """
    return evaluate_metric(
        map_metric(k, denominator, no_hits, ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def weighted_mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = ...,
    denominator: Denominator = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def weighted_mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = ...,
    denominator: Denominator = ...,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def weighted_mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = None,
    denominator: Denominator = "hits",
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Average precision in which an item counts once per shared label.

    For every relevant item among the first `k`, at rank ``t``, take the mean number
    of shared labels of the first ``t`` results (`acg_at_k`); then average over these
    items [1]_. With one label per item it is the mean average precision.

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

    denominator : {"hits", "relevant", "min_k"}, default="hits"
        As in `mean_average_precision`; "hits" is the published form.

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
        From 0 to the largest number of shared labels; NaN as in
        `mean_average_precision`.

    References
    ----------
    .. [1] F. Zhao, Y. Huang, L. Wang, T. Tan. "Deep semantic ranking based hashing
       for multi-label image retrieval". CVPR 2015.

    Examples
    --------
    >>> from sklearn_cbir.metrics import weighted_mean_average_precision
    >>> gallery = [[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]]  # shared: 2, 0, 1, 3
    >>> weighted_mean_average_precision([[1, 1, 1]], gallery, [[0.1, 0.2, 0.3, 0.4]])
    1.5
    """
    return evaluate_metric(
        weighted_map_metric(k, denominator, ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def map_at_r(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def map_at_r(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def map_at_r(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Average precision over as many results as are relevant (MAP@R).

    ``k`` and the denominator are R, the number of items relevant to the query [1]_.
    Unlike recall@1, it also depends on the order; unlike mAP, it ignores everything
    after R results.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

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
    .. [1] K. Musgrave, S. Belongie, S.-N. Lim. "A metric learning reality check".
       ECCV 2020.

    Examples
    --------
    >>> from sklearn_cbir.metrics import map_at_r
    >>> map_at_r([1], [1, 0, 1, 0], [[0.1, 0.2, 0.3, 0.4]])  # one of the first two
    0.5
    """
    return evaluate_metric(
        map_at_r_metric(ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def map_c(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def map_c(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def map_c(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Average precision as the code of CPF computes it, to compare with its numbers.

    Unlike in `map_at_r`, the query counts as a member of its class: with R relevant
    items, the first R + 1 results count and the sum is divided by R + 1 [1]_. A
    perfect ranking scores R / (R + 1), not 1. You must still exclude the query from
    the ranking.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

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
        From 0 to below 1; NaN as in `mean_average_precision`.

    References
    ----------
    .. [1] C. Liu, W. She, M. Chen, X. Li, S. X. Yang. "Consistent penalizing field
       loss for zero-shot image retrieval". Expert Systems with Applications 2024.

    Examples
    --------
    >>> from sklearn_cbir.metrics import map_c
    >>> map_c([1], [1, 1, 0], [[0.1, 0.2, 0.3]])  # (1 + 1) / 3
    0.6666...
    """
    return evaluate_metric(
        map_c_metric(ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def trapezoid_mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def trapezoid_mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def trapezoid_mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Area under the precision-recall curve by trapezoids, as Oxford and Paris score.

    Every relevant item adds the mean of two precisions, just before it (1 at the
    first rank) and at it, divided by the number of relevant items [1]_.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    ties : {"average", "stable", "optimistic", "pessimistic"}, default="average"
        As in `mean_average_precision`.

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`: the
        junk images of each query.

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
    .. [1] J. Philbin, O. Chum, M. Isard, J. Sivic, A. Zisserman. "Object retrieval
       with large vocabularies and fast spatial matching". CVPR 2007.

    Examples
    --------
    >>> from sklearn_cbir.metrics import trapezoid_mean_average_precision
    >>> trapezoid_mean_average_precision([1], [1, 0, 1, 1], [[0.1, 0.2, 0.3, 0.4]])
    0.7638...
    """
    return evaluate_metric(
        trapezoid_map_metric(ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


def map_metric(k: int | None, denominator: Denominator, no_hits: NoHits, ties: Ties) -> GroupMetric:
    """Return the metric of `mean_average_precision`."""
    check_choice(denominator, "denominator", DENOMINATORS)
    check_choice(no_hits, "no_hits", NO_HITS)
    return GroupMetric(
        lambda groups, k: average_precision(groups, k, denominator, no_hits), k=k, ties=ties
    )


def weighted_map_metric(k: int | None, denominator: Denominator, ties: Ties) -> GroupMetric:
    """Return the metric of `weighted_mean_average_precision`."""
    check_choice(denominator, "denominator", DENOMINATORS)
    return GroupMetric(
        lambda groups, k: _average_precision(groups, k, denominator),
        k=k,
        ties=ties,
        gains=linear_gains,
    )


def map_at_r_metric(ties: Ties) -> GroupMetric:
    """Return the metric of `map_at_r`."""
    return GroupMetric(
        lambda groups, k: _average_precision(groups, groups.n_relevant, "relevant"), ties=ties
    )


def map_c_metric(ties: Ties) -> GroupMetric:
    """Return the metric of `map_c`."""
    return GroupMetric(lambda groups, k: _average_precision_of_class(groups), ties=ties)


def trapezoid_map_metric(ties: Ties) -> GroupMetric:
    """Return the metric of `trapezoid_mean_average_precision`."""
    return GroupMetric(lambda groups, k: _trapezoid_average_precision(groups), ties=ties)


def _harmonic_difference(before, n):
    """Return H(before + n) - H(before), 1 / (before + 1) + ... + 1 / (before + n), per group."""
    # A single term directly: what has no ties comes out to the last digit.
    return np.where(n == 1, 1 / (before + 1), digamma(before + n + 1.0) - digamma(before + 1.0))


def average_precision(groups, k, denominator, no_hits):
    """Return the expected average precision of each query, NaN where it has no hits to skip it."""
    values = _average_precision(groups, k, denominator)
    if no_hits == "zero":
        return values
    chance = chance_of_a_hit(groups, k)
    return np.divide(values, chance, out=np.full(len(values), np.nan), where=chance > 0)


def _average_precision(groups, k, denominator):
    """Return the expected (gain-weighted) average precision of each query."""
    cutoff = groups.n_results if k is None else np.broadcast_to(k, groups.n_results.shape)
    # What an item alone at its distance adds: the mean gain up to its rank.
    sums = (groups.gain_before + groups.gain) / (groups.before + 1)
    tied = np.flatnonzero(groups.size > 1)
    sums[tied] = _sums_of_ties(groups, tied, groups.size[tied])
    if k is not None:
        inside = np.clip(cutoff[groups.query] - groups.before, 0, groups.size)
        sums[inside == 0] = 0
        split = np.flatnonzero((inside > 0) & (inside < groups.size))
        sums[split] = _sums_of_ties(groups, split, inside[split])
        if denominator == "hits":
            return _over_hits(groups, inside, sums, split)
    divisor = groups.n_relevant
    if denominator == "min_k":
        divisor = np.minimum(divisor, cutoff)
    return groups.sum(sums) / np.maximum(divisor, 1)


def _average_precision_of_class(groups):
    """Return the average precision of CPF's code, for which the query belongs to its class."""
    class_size = groups.n_relevant + 1
    over_relevant = _average_precision(groups, class_size, "relevant")
    return over_relevant * groups.n_relevant / class_size


def _sums_of_ties(groups, tied, inside):
    """Return the expected sum of precisions at the first `inside` positions of tied groups."""
    before, size, hits = groups.before[tied], groups.size[tied], groups.hits[tied]
    mean_gain = groups.gain[tied] / hits
    # Mean gain of each other position of the group, given that a relevant item stands at one.
    slope = (groups.gain[tied] - mean_gain) / (size - 1)
    # Sum over t = 1..inside of (gain_before + mean_gain + (t - 1) slope) / (before + t).
    start = groups.gain_before[tied] + mean_gain - slope * (before + 1)
    return hits / size * (start * _harmonic_difference(before, inside) + slope * inside)


def _over_hits(groups, inside, sums, split):
    """Divide by the number of hits, which is random where the cut-off splits a group."""
    whole = inside == groups.size
    total = groups.sum(np.where(whole, sums, 0.0))
    n_hits = groups.sum(np.where(whole, groups.hits, 0))
    values = total / np.maximum(n_hits, 1)
    differences = _harmonic_difference(groups.before[split], inside[split])
    for group, difference in zip(split, differences):
        query, drawn = groups.query[group], inside[group]
        hits, chance = _hypergeometric(groups.size[group], groups.hits[group], drawn)
        mean_gain = groups.gain[group] / groups.hits[group]
        slope = mean_gain * (hits - 1) / max(drawn - 1, 1)
        start = groups.gain_before[group] + mean_gain - slope * (groups.before[group] + 1)
        sums_of_group = hits / drawn * (start * difference + slope * drawn)
        values[query] = chance @ (
            (total[query] + sums_of_group) / np.maximum(n_hits[query] + hits, 1)
        )
    return values


def _hypergeometric(size, hits, drawn):
    """Return the possible numbers of hits among `drawn` of `size` items, and their chances."""
    x = np.arange(max(0, drawn - (size - hits)), min(hits, drawn) + 1)
    log = -(
        gammaln(x + 1)
        + gammaln(hits - x + 1)
        + gammaln(drawn - x + 1)
        + gammaln(size - hits - drawn + x + 1)
    )
    chance = np.exp(log - log.max())
    return x, chance / chance.sum()


def _trapezoid_average_precision(groups):
    """Return the expected trapezoid average precision of each query."""
    before, size, hits_before = groups.before, groups.size, groups.hits_before
    slope = (groups.hits - 1) / np.maximum(size - 1, 1)
    # Precision at the item: (hits_before + 1 + (t - 1) slope) / (before + t).
    difference = _harmonic_difference(before, size)
    at = (hits_before + 1 - slope * (before + 1)) * difference + slope * size
    # Precision just before it: (hits_before + (t - 1) slope) / (before + t - 1), and 1 at rank 1.
    at_top = before == 0
    difference = _harmonic_difference(np.maximum(before - 1, 0), np.where(at_top, 0, size))
    just_before = (hits_before - slope * before) * difference + slope * size
    just_before = np.where(at_top, 1 + slope * (size - 1), just_before)
    sums = groups.hits / size * (at + just_before) / 2
    return groups.sum(sums) / np.maximum(groups.n_relevant, 1)
