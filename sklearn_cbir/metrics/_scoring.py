"""Metrics by name: "map@100" is `mean_average_precision` with ``k=100``."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar, overload

from numpy.typing import ArrayLike

from sklearn_cbir._typing import Distances, Floats, LabelsLike, Metric, Positions
from sklearn_cbir._validation import resolve, shortened
from sklearn_cbir.metrics._cutoff import (
    acg_at_k,
    acg_metric,
    ndcg_at_k,
    ndcg_metric,
    precision_at_k,
    precision_metric,
    recall_at_k,
    recall_metric,
    set_recall_at_k,
    set_recall_metric,
)
from sklearn_cbir.metrics._own import OwnMetric, shown_name
from sklearn_cbir.metrics._precision import (
    map_at_r,
    map_at_r_metric,
    map_c,
    map_c_metric,
    map_metric,
    mean_average_precision,
    trapezoid_map_metric,
    trapezoid_mean_average_precision,
    weighted_map_metric,
    weighted_mean_average_precision,
)
from sklearn_cbir.metrics._radius import (
    average_precision_within,
    mean_average_precision_in_radius,
    precision_in_radius,
    precision_within,
    recall_in_radius,
    recall_within,
    success_in_radius,
    success_within,
)
from sklearn_cbir.metrics._relevance import Relevance, check_distances, check_exclude
from sklearn_cbir.metrics._thresholds import f1_within, threshold_f1
from sklearn_cbir.metrics._walk import GroupMetric, RadiusMetric, evaluate_metrics

__all__ = ["METRICS", "evaluate", "parse_metric"]

Value = TypeVar("Value", bound=ArrayLike)


@overload
def parse_metric(name: str) -> tuple[Callable[..., float | Floats], int | None]: ...
@overload
def parse_metric(name: Callable[..., Value]) -> tuple[Callable[..., Value], None]: ...
def parse_metric(
    name: str | Callable[..., ArrayLike],
) -> tuple[Callable[..., ArrayLike], int | None]:
    """Split the name of a metric into its function and its number of results.

    Parameters
    ----------
    name : str or callable
        A key of `METRICS`, alone or with ``@k``: ``"map"``, ``"map@100"``,
        ``"recall@1"``. A callable is returned as it is.

    Returns
    -------
    function : callable
        Takes ``(y_queries, y_gallery, distances)`` and, if there is one, ``k``.

    k : int or None
        None if the name has none.

    Raises
    ------
    ValueError
        If the name is unknown, its cut-off is not a number, or a cut-off is
        missing or not allowed.

    Examples
    --------
    >>> parse_metric("ndcg@100")
    (<function ndcg_at_k at 0x...>, 100)
    """
    if callable(name):
        return name, None
    if not isinstance(name, str):
        raise ValueError(
            f"scoring={shortened(name)} is not a metric. Use a name such as 'map' or a function "
            "of the labels of queries and gallery and their distances."
        )
    base, at, cutoff = name.partition("@")
    function = resolve(base.strip(), METRICS, "scoring", own="a function")
    if not at:
        if base.strip() in NEED_K:
            raise ValueError(f"scoring={name!r} needs a number of results, such as '{base}@10'.")
        return function, None
    if base.strip() in WITHOUT_K:
        raise ValueError(f"scoring={name!r} takes no number of results. Use '{base.strip()}'.")
    if not cutoff.strip().isdecimal() or int(cutoff) == 0:
        raise ValueError(
            f"scoring={shortened(name)} needs a whole number of at least 1 after '@', such as "
            f"'{base}@10'."
        )
    return function, int(cutoff)


@overload
def evaluate(
    scoring: str,
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    per_query: Literal[False] = ...,
    **options: object,
) -> float: ...
@overload
def evaluate(
    scoring: str,
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    per_query: Literal[True],
    **options: object,
) -> Floats: ...
@overload
def evaluate(
    scoring: Callable[..., Value],
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    **options: object,
) -> Value: ...
def evaluate(
    scoring: str | Callable[..., ArrayLike],
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    **options: object,
) -> ArrayLike:
    """Compute a metric by its name.

    Parameters
    ----------
    scoring : str or callable
        A name that `parse_metric` knows, or a function like those of this
        package.

    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    **options : dict
        Passed on: `exclude`, `sample_weight`, `per_query`, `ties`, ...

    Returns
    -------
    float, or ndarray of shape (n_queries,), float64
        What the metric returns.

    Examples
    --------
    >>> evaluate("precision@2", [1], [1, 0, 1, 0], [[0.1, 0.2, 0.3, 0.4]])
    0.5
    """
    function, k = parse_metric(scoring)
    if k is not None:
        options["k"] = k
    return function(y_queries, y_gallery, distances, **options)


def is_own(function: Callable[..., object]) -> bool:
    """Say whether a metric is the user's, and not one of this package, with parameters or not."""
    while isinstance(function, partial):
        function = function.func
    return not str(getattr(function, "__module__", None)).startswith("sklearn_cbir.metrics.")


def check_callable(function: Callable[..., object], **options: object) -> None:
    """Raise unless a metric can be called with labels, distances and these options."""
    try:
        inspect.signature(function).bind("y_queries", "y_gallery", "distances", **options)
    except ValueError:  # of compiled functions nothing is known
        return
    except TypeError as error:
        raise ValueError(
            f"scoring={shown_name(function)} is not a function of y_queries, y_gallery and "
            f"distances with one number per query as result: {error}. Set other parameters with "
            "functools.partial."
        ) from error


def evaluate_each(
    scorings: list[str | Metric],
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    query_positions: Positions | None = None,
    advance: Callable[[int], None] = lambda n_values: None,
) -> Floats:
    """Return one value per query of every metric, from one reading of the distances.

    Parameters
    ----------
    scorings : list of str or callable
        Metrics, as `parse_metric` takes them; functions of the user's are called as `OwnMetric`
        says.

    y_queries, y_gallery : array-like
        Labels.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer; also any object that returns rows of it for a slice.

    query_positions : ndarray of shape (n_queries,), default=None
        Row of the gallery that is not ranked for a query, -1 for none.

    advance : callable
        Called with a number of values of single queries, whenever so many more are there.

    Returns
    -------
    ndarray of shape (n_metrics, n_queries), float64
        NaN where nothing is relevant.
    """
    distances = check_distances(distances)
    relevance = Relevance(y_queries, y_gallery, distances.shape)
    n_gallery = distances.shape[1]
    metrics = [_metric(scoring, query_positions).checked(n_gallery) for scoring in scorings]
    exclude = check_exclude(query_positions, distances.shape)
    return evaluate_metrics(metrics, relevance, distances, exclude, advance)[0]


def _metric(scoring, query_positions):
    """Return the metric of a name or function, with the parameters that a `partial` of it has."""
    function, k = parse_metric(scoring)
    if is_own(function):
        metric = OwnMetric(function, query_positions)
        check_callable(function, **metric.options)
        return metric
    check_callable(function, exclude=query_positions, per_query=True)
    given = {} if k is None else {"k": k}
    base = function
    while isinstance(base, partial):
        given = {**base.keywords, **given}
        base = base.func
    make = MAKERS.get(base)
    if make is None:  # not of this package, though its module says so
        return OwnMetric(function, query_positions)
    defaults = inspect.signature(base).parameters
    names = inspect.signature(make).parameters
    return make(**{name: given.get(name, defaults[name].default) for name in names})


def reads_order(scoring: str | Metric) -> bool:
    """Say whether a metric depends on the order of results, and not only on a distance.

    Raises if it depends on both, and on neither alone.
    """
    function = parse_metric(scoring)[0]
    while isinstance(function, partial):
        function = function.func
    if function is mean_average_precision_in_radius:
        raise ValueError(
            "scoring='map_in_radius' ranks results within a distance, but rerank orders "
            "results without distances. Use rerank=None, or another metric such as 'map@100'."
        )
    return function not in (precision_in_radius, recall_in_radius, success_in_radius)


METRICS: dict[str, Callable[..., float | Floats]] = {
    "map": mean_average_precision,
    "precision": precision_at_k,
    "recall": recall_at_k,
    "set_recall": set_recall_at_k,
    "ndcg": ndcg_at_k,
    "acg": acg_at_k,
    "wmap": weighted_mean_average_precision,
    "map_at_r": map_at_r,
    "trapezoid_map": trapezoid_mean_average_precision,
    "precision_in_radius": precision_in_radius,
    "recall_in_radius": recall_in_radius,
    "map_in_radius": mean_average_precision_in_radius,
    "success_in_radius": success_in_radius,
}
NEED_K = {"precision", "recall", "set_recall", "acg"}
WITHOUT_K = {"map_at_r", "trapezoid_map", *(name for name in METRICS if "in_radius" in name)}
MAKERS: dict[Callable[..., object], Callable[..., GroupMetric | RadiusMetric]] = {
    mean_average_precision: map_metric,
    precision_at_k: precision_metric,
    recall_at_k: recall_metric,
    set_recall_at_k: set_recall_metric,
    ndcg_at_k: ndcg_metric,
    acg_at_k: acg_metric,
    weighted_mean_average_precision: weighted_map_metric,
    map_at_r: map_at_r_metric,
    map_c: map_c_metric,
    trapezoid_mean_average_precision: trapezoid_map_metric,
    precision_in_radius: precision_within,
    recall_in_radius: recall_within,
    mean_average_precision_in_radius: average_precision_within,
    success_in_radius: success_within,
    threshold_f1: f1_within,
}
