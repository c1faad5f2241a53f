"""Precision-recall curves of ranked lists, averaged over queries."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._typing import Distances, Floats, LabelsLike, Ties
from sklearn_cbir._validation import check_choice
from sklearn_cbir.metrics._averaging import check_weights, mean_over_queries
from sklearn_cbir.metrics._relevance import Relevance, check_distances, check_exclude
from sklearn_cbir.metrics._walk import TIES, count_within_radii, walk

__all__ = ["precision_recall_curve", "radius_precision_recall_curve"]


def precision_recall_curve(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """Precision and recall after every rank, averaged over queries.

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

    Returns
    -------
    precision : ndarray of shape (n_ranks,), float64
        Mean share of the first 1, 2, ... results that are relevant. There are
        as many ranks as the longest list has results.

    recall : ndarray of shape (n_ranks,), float64
        Mean share of the relevant items among them. Queries with nothing
        relevant are left out of both with a warning.

    Examples
    --------
    >>> from sklearn_cbir.metrics import precision_recall_curve
    >>> precision, recall = precision_recall_curve([1], [1, 0, 1], [[0.1, 0.2, 0.3]])
    >>> precision
    array([1.        , 0.5       , 0.66666667])
    >>> recall
    array([0.5, 0.5, 1. ])
    """
    distances = check_distances(distances)
    relevance = Relevance(y_queries, y_gallery, distances.shape)
    exclude = check_exclude(exclude, distances.shape)
    check_choice(ties, "ties", TIES)
    n_ranks = distances.shape[1]
    # Expected hits grow evenly within a group: sum the slopes of all groups, then integrate.
    slopes = np.zeros((2, n_ranks + 1))  # of hits, and of hits / n_relevant
    defined = np.full(distances.shape[0], np.nan)
    weights = check_weights(sample_weight, len(defined))
    longest = 0
    for block, groups in walk(
        lambda rankings: rankings.groups(ties),
        relevance,
        distances,
        exclude,
        needs_rows=ties != "average",
    ):
        defined[block] = np.where(groups.n_relevant > 0, 1.0, np.nan)
        slope = groups.hits / groups.size * weights[block][groups.query]
        for line, per_item in zip(slopes, (slope, slope / groups.n_relevant[groups.query])):
            np.add.at(line, groups.before, per_item)
            np.add.at(line, groups.before + groups.size, -per_item)
        longest = max(longest, groups.n_results.max())
    mean_over_queries(defined, sample_weight)  # warns or raises
    hits, recall = np.cumsum(np.cumsum(slopes, axis=1), axis=1)[:, :longest]
    total = weights[~np.isnan(defined)].sum()
    return hits / np.arange(1, longest + 1) / total, recall / total


def radius_precision_recall_curve(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radii: ArrayLike,
    average: Literal["macro", "micro"] = "macro",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """Precision and recall within every radius, averaged over queries.

    The usual curve of binary codes: it has no ties.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    radii : array-like of shape (n_radii,)
        Largest distances, themselves included; for codes ``range(n_bits + 1)``.

    average : {"macro", "micro"}, default="macro"
        "macro": the mean over queries; the precision at a radius leaves out queries
        without any item within it. "micro": all pairs of queries and gallery items
        together, so the weight of a query is the number of items that it finds
        (precision) or should find (recall).

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`.

    sample_weight : array-like of shape (n_queries,), default=None
        Weights of the queries.

    Returns
    -------
    precision : ndarray of shape (n_radii,), float64
        NaN if no query has an item within the radius.

    recall : ndarray of shape (n_radii,), float64
        Queries with nothing relevant are left out of both with a warning.

    Examples
    --------
    >>> from sklearn_cbir.metrics import radius_precision_recall_curve
    >>> precision, recall = radius_precision_recall_curve(
    ...     [1], [1, 0, 1], [[0, 1, 2]], radii=range(3)
    ... )
    >>> recall
    array([0.5, 0.5, 1. ])
    """
    check_choice(average, "average", ("macro", "micro"))
    within = count_within_radii(y_queries, y_gallery, distances, radii=radii, exclude=exclude)
    found, hits, n_relevant = within.found, within.hits, within.n_relevant
    defined = np.where(n_relevant > 0, 1.0, np.nan)
    mean_over_queries(defined, sample_weight)  # warns or raises
    weights = np.where(n_relevant > 0, check_weights(sample_weight, len(defined)), 0.0)
    n_relevant = np.maximum(n_relevant, 1)[:, None]  # the weight of none is 0
    if average == "micro":
        return _ratio(weights @ hits, weights @ found), weights @ hits / (weights @ n_relevant)
    precision = _ratio(weights @ (hits / np.maximum(found, 1)), weights @ (found > 0))
    return precision, weights @ (hits / n_relevant) / weights.sum()


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
