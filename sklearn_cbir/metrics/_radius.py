"""Metrics of everything within a distance."""

from typing import Literal, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._typing import Distances, Floats, LabelsLike, NoHits, Ranked, Ties, Weighted
from sklearn_cbir._validation import check_choice
from sklearn_cbir.metrics._precision import NO_HITS, average_precision
from sklearn_cbir.metrics._walk import GroupMetric, RadiusMetric, evaluate_metric

__all__ = [
    "mean_average_precision_in_radius",
    "precision_in_radius",
    "recall_in_radius",
    "success_in_radius",
]


@overload
def precision_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Weighted],
) -> float: ...
@overload
def precision_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = ...,
    per_query: Literal[True],
    **options: Unpack[Weighted],
) -> Floats: ...
def precision_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = 2,
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Share of the items within `radius` that are relevant; 0 if there are none.

    With codes and ``radius=2`` this is the precision of hash lookup.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    radius : float, default=2
        Largest distance, itself included, in the unit of `distances`.

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
    >>> from sklearn_cbir.metrics import precision_in_radius
    >>> precision_in_radius([1], [1, 0, 1, 1], [[0, 2, 2, 5]])  # two of three
    0.6666...
    """
    return evaluate_metric(
        precision_within(radius),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def recall_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Weighted],
) -> float: ...
@overload
def recall_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = ...,
    per_query: Literal[True],
    **options: Unpack[Weighted],
) -> Floats: ...
def recall_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = 2,
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Share of the relevant items that are within `radius`.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    radius : float, default=2
        Largest distance, itself included, in the unit of `distances`.

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
    >>> from sklearn_cbir.metrics import recall_in_radius
    >>> recall_in_radius([1], [1, 0, 1, 1], [[0, 2, 2, 5]])  # two of three
    0.6666...
    """
    return evaluate_metric(
        recall_within(radius),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def success_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Weighted],
) -> float: ...
@overload
def success_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = ...,
    per_query: Literal[True],
    **options: Unpack[Weighted],
) -> Floats: ...
def success_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = 2,
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Share of the queries with any item within `radius`, relevant or not.

    1 minus this is the share of empty balls: hash lookups that return nothing.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    radius : float, default=2
        Largest distance, itself included, in the unit of `distances`.

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
    >>> from sklearn_cbir.metrics import success_in_radius
    >>> success_in_radius([1, 0], [1, 0], [[3, 1], [4, 3]])  # nothing for the second
    0.5
    """
    return evaluate_metric(
        success_within(radius),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


@overload
def mean_average_precision_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = ...,
    no_hits: NoHits = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def mean_average_precision_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = ...,
    no_hits: NoHits = ...,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def mean_average_precision_in_radius(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float = 2,
    no_hits: NoHits = "zero",
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Average precision of the items within `radius`, averaged over queries.

    With codes and ``radius=2`` this is the MAP@H<=2 of [1]_: the precision at the
    rank of every relevant item within the radius, divided by their number; 0 if
    there are none. Unlike the authors' code, which ranks by the real outputs of the
    network, this ranks by `distances` also within the radius.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    radius : float, default=2
        Largest distance, itself included, in the unit of `distances`.

    no_hits : {"zero", "skip"}, default="zero"
        Value of a query with items within the radius, but no relevant one. "zero":
        0. "skip": NaN, and the mean leaves it out, as in the authors' code. A query
        without any item there always has 0.

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
    .. [1] Y. Cao, M. Long, B. Liu, J. Wang. "Deep Cauchy hashing for Hamming
       space retrieval". CVPR 2018.

    Examples
    --------
    >>> from sklearn_cbir.metrics import mean_average_precision_in_radius
    >>> mean_average_precision_in_radius([1], [1, 0, 1, 1], [[0, 1, 2, 5]])  # (1/1 + 2/3) / 2
    0.8333...
    """
    return evaluate_metric(
        average_precision_within(radius, no_hits, ties),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


def precision_within(radius: float) -> RadiusMetric:
    """Return the metric of `precision_in_radius`."""
    return RadiusMetric(lambda found, hits, n_relevant: hits / np.maximum(found, 1), radius)


def recall_within(radius: float) -> RadiusMetric:
    """Return the metric of `recall_in_radius`."""
    return RadiusMetric(lambda found, hits, n_relevant: hits / np.maximum(n_relevant, 1), radius)


def success_within(radius: float) -> RadiusMetric:
    """Return the metric of `success_in_radius`."""
    return RadiusMetric(lambda found, hits, n_relevant: np.where(found > 0, 1.0, 0.0), radius)


def average_precision_within(radius: float, no_hits: NoHits, ties: Ties) -> GroupMetric:
    """Return the metric of `mean_average_precision_in_radius`."""
    check_choice(no_hits, "no_hits", NO_HITS)

    def value(groups, found):
        values = average_precision(groups, found, "hits", no_hits)
        return np.where(found > 0, values, 0.0)

    return GroupMetric(value, radius=radius, ties=ties)
