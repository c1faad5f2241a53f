"""Thresholds: distances within which everything counts as the same, for all classes or each."""

from typing import Literal, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from sklearn_cbir._labels import check_labels
from sklearn_cbir._typing import Distances, Floats, Labels, LabelsLike, Sliced, Weighted
from sklearn_cbir._validation import check_integer, check_real
from sklearn_cbir.metrics._averaging import mean_over_queries, mean_per_class
from sklearn_cbir.metrics._relevance import check_distances, check_radii, query_blocks, read_block
from sklearn_cbir.metrics._walk import RadiusMetric, count_within_radii, evaluate_metric

__all__ = ["best_f1_radius", "per_class_thresholds", "threshold_f1", "threshold_f1_curve"]


class ClassThresholds(Bunch):
    """Result of `per_class_thresholds`."""

    classes: Labels
    radius: Floats  # (n_classes,)
    f1: Floats  # (n_classes,)
    spread: float
    universal_radius: float
    universal_f1: Floats  # (n_classes,)


@overload
def threshold_f1(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float,
    max_results: int | None = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Weighted],
) -> float: ...
@overload
def threshold_f1(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float,
    max_results: int | None = ...,
    per_query: Literal[True],
    **options: Unpack[Weighted],
) -> Floats: ...
def threshold_f1(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radius: float,
    max_results: int | None = None,
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """F1 if everything within one radius counts as the same.

    Per query ``2 |P & T| / (|P| + |T|)``, where P are the items within the radius and
    T the relevant items [1]_. For a cosine threshold t pass ``radius=1 - t``. The query
    itself counts if it is in the gallery and not excluded, as in the Shopee challenge.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    radius : float
        Largest distance, itself included, in the unit of `distances`.

    max_results : int, default=None
        Maximum number of nearest items that count as the same.

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
    .. [1] C. Liu, W. She, M. Chen, X. Li, S. X. Yang. "Consistent penalizing field
       loss for zero-shot image retrieval". Expert Systems with Applications 2024.

    Examples
    --------
    >>> from sklearn_cbir.metrics import threshold_f1
    >>> threshold_f1([1], [1, 0, 1], [[0.0, 0.2, 0.6]], radius=0.3)  # 2 * 1 / (2 + 2)
    0.5
    """
    return evaluate_metric(
        f1_within(radius, max_results),
        y_queries,
        y_gallery,
        distances,
        exclude=exclude,
        sample_weight=sample_weight,
        per_query=per_query,
    )


def threshold_f1_curve(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radii: ArrayLike,
    max_results: int | None = None,
    exclude: ArrayLike | None = None,
) -> Floats:
    """F1 of every query at every radius.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    radii : array-like of shape (n_radii,)
        Largest distances, themselves included.

    max_results : int, default=None
        Maximum number of nearest items that count as the same.

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`.

    Returns
    -------
    ndarray of shape (n_queries, n_radii), float64
        As `threshold_f1` with ``per_query=True``.

    Examples
    --------
    >>> from sklearn_cbir.metrics import threshold_f1_curve
    >>> threshold_f1_curve([1], [1, 0, 1], [[0.0, 0.2, 0.6]], radii=[0.1, 0.3, 0.7])
    array([[0.66666667, 0.5       , 0.8       ]])
    """
    within = count_within_radii(
        y_queries,
        y_gallery,
        distances,
        radii=radii,
        max_results=_check_max_results(max_results),
        exclude=exclude,
    )
    values = _f1(within.found, within.hits, within.n_relevant[:, None])
    values[within.n_relevant == 0] = np.nan
    return values


@overload
def best_f1_radius(
    radii: ArrayLike, curve: ArrayLike, *, y_queries: None = None
) -> tuple[float, float]: ...
@overload
def best_f1_radius(
    radii: ArrayLike, curve: ArrayLike, *, y_queries: LabelsLike
) -> tuple[Floats, Floats]: ...
def best_f1_radius(
    radii: ArrayLike, curve: ArrayLike, *, y_queries: LabelsLike | None = None
) -> tuple[float, float] | tuple[Floats, Floats]:
    """Find the radius with the highest mean F1, for all queries or for each class.

    The spread of the best radii of the classes shows how well one threshold can
    work for all of them.

    Parameters
    ----------
    radii : array-like of shape (n_radii,)
        Candidates.

    curve : ndarray of shape (n_queries, n_radii)
        Result of `threshold_f1_curve` for these radii.

    y_queries : array-like of shape (n_queries,), default=None
        Labels of the queries, to find one radius per class.

    Returns
    -------
    radius : float, or ndarray of shape (n_classes,)
        The smallest of equally good radii; classes are sorted by label.

    f1 : float, or ndarray of shape (n_classes,)
        Mean F1 at that radius.

    Examples
    --------
    >>> from sklearn_cbir.metrics import best_f1_radius, threshold_f1_curve
    >>> radii = [0.1, 0.3, 0.7]
    >>> curve = threshold_f1_curve([1], [1, 0, 1], [[0.0, 0.2, 0.6]], radii=radii)
    >>> best_f1_radius(radii, curve)
    (0.7, 0.8)
    """
    radii = check_radii(radii)
    order = np.argsort(radii, kind="stable")
    radii, curve = radii[order], np.asarray(curve)[:, order]
    if y_queries is None:
        mean_over_queries(curve[:, 0])  # warns or raises
        f1 = curve[~np.isnan(curve[:, 0])].mean(axis=0)
        best = int(np.argmax(f1))
        return float(radii[best]), float(f1[best])
    # (n_classes, n_radii); a class with nothing relevant anywhere is left out.
    f1 = np.stack([mean_per_class(y_queries, column)[1] for column in curve.T], axis=1)
    f1 = f1[~np.isnan(f1).any(axis=1)]
    return radii[np.argmax(f1, axis=1)], f1.max(axis=1)


def per_class_thresholds(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radii: ArrayLike | None = None,
    radius: float | None = None,
    max_results: int | None = None,
    exclude: ArrayLike | None = None,
) -> ClassThresholds:
    """Find the best radius of every class, and how far they spread.

    The closer the best radii of the classes are, the better one threshold works for
    all of them: [1]_ claims that its loss makes the spread shrink. Choose the one
    `radius` on other classes, as `CPFEmbedder` does; on the same queries, it looks
    better than it will be.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,)
        One label per query.

    y_gallery : array-like of shape (n_gallery,)
        Labels of the gallery.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    radii : array-like of shape (n_radii,), default=None
        Candidates; None takes 201 quantiles of `distances`, most of them small.

    radius : float, default=None
        The one radius for all classes; None takes the candidate with the highest
        mean F1 over these queries.

    max_results : int, default=None
        Maximum number of nearest items that count as the same.

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`.

    Returns
    -------
    Bunch
        With ``classes``, sorted, without those whose queries have nothing relevant;
        ``radius`` and ``f1`` of shape (n_classes,), the smallest best radius of
        each class and the mean F1 of its queries there; ``spread``, the standard
        deviation of ``radius``; ``universal_radius``, the one radius;
        ``universal_f1`` of shape (n_classes,), the mean F1 of each class there.

    References
    ----------
    .. [1] C. Liu, W. She, M. Chen, X. Li, S. X. Yang. "Consistent penalizing field
       loss for zero-shot image retrieval". Expert Systems with Applications 2024.

    Examples
    --------
    >>> from sklearn_cbir.metrics import per_class_thresholds
    >>> rows = [[0.1, 0.5, 0.9], [0.9, 0.5, 0.3]]
    >>> found = per_class_thresholds(["a", "b"], ["a", "a", "b"], rows, radii=[0.1, 0.3, 0.5])
    >>> found.radius, found.universal_radius
    (array([0.5, 0.3]), 0.3)
    >>> round(found.spread, 3)
    0.1
    """
    distances = check_distances(distances)
    y_queries = check_labels(y_queries, name="y_queries")
    if y_queries.ndim == 2:
        raise ValueError("y_queries has several columns. Thresholds of classes need one label.")
    if radii is None:
        radii = _candidates(distances)
    given = [] if radius is None else [check_real(radius, "radius")]
    radii = np.sort(check_radii(radii))
    curve = threshold_f1_curve(
        y_queries,
        y_gallery,
        distances,
        radii=[*radii, *given],
        max_results=max_results,
        exclude=exclude,
    )
    defined = ~np.isnan(curve[:, 0])
    mean_over_queries(curve[:, 0])  # warns or raises
    classes, members = np.unique(y_queries[defined], return_inverse=True)
    f1 = np.stack([curve[defined][members == i].mean(axis=0) for i in range(len(classes))])
    if radius is None:
        column = int(np.argmax(curve[defined, : len(radii)].mean(axis=0)))
        radius = float(radii[column])
    else:
        column = len(radii)
    best = np.argmax(f1[:, : len(radii)], axis=1)
    return ClassThresholds(
        classes=classes,
        radius=radii[best],
        f1=f1[np.arange(len(classes)), best],
        spread=float(np.std(radii[best])),
        universal_radius=radius,
        universal_f1=f1[:, column],
    )


def f1_within(radius: float, max_results: int | None) -> RadiusMetric:
    """Return the metric of `threshold_f1`."""
    return RadiusMetric(_f1, radius, _check_max_results(max_results))


def _check_max_results(max_results):
    if max_results is None:
        return None
    return check_integer(max_results, "max_results", minimum=1)


def _f1(found, hits, n_relevant):
    """Return the harmonic mean of precision and recall."""
    return 2 * hits / np.maximum(found + n_relevant, 1)


def _candidates(distances: Sliced) -> Floats:
    """Return quantiles of distances; similar pairs are near, so most of them are small ones."""
    values = np.concatenate(
        [read_block(distances, rows).ravel() for rows in query_blocks(distances.shape, distances)]
    )
    return np.unique(np.quantile(values, np.linspace(0, 1, 201) ** 2))
