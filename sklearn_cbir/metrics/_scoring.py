"""Metrics by name: "map@100" is `mean_average_precision` with ``k=100``."""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._typing import Distances, Floats, LabelsLike, Metric, Positions
from sklearn_cbir._validation import resolve, shortened
from sklearn_cbir.metrics._cutoff import (
    acg_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    set_recall_at_k,
)
from sklearn_cbir.metrics._own import check_callable, is_own, score_by_own
from sklearn_cbir.metrics._precision import (
    map_at_r,
    mean_average_precision,
    trapezoid_mean_average_precision,
    weighted_mean_average_precision,
)
from sklearn_cbir.metrics._radius import (
    mean_average_precision_in_radius,
    precision_in_radius,
    recall_in_radius,
    success_in_radius,
)

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
        If the name is not known, its cut-off is no number, or a cut-off is
        missing or out of place.

    Examples
    --------
    >>> parse_metric("ndcg@100")
    (<function ndcg_at_k at 0x...>, 100)
    """
    if callable(name):
        return name, None
    if not isinstance(name, str):
        raise ValueError(
            f"scoring={shortened(name)} is no metric. Use a name such as 'map' or 'recall@1', or "
            "a function of the labels of queries and gallery and their distances."
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
    """Evaluate a metric by its name.

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
        Smaller is nearer; also anything that gives rows of it when sliced.

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


def evaluate_each(
    scoring: str | Metric,
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    own: Positions | None = None,
) -> Floats:
    """Return the value of a metric for every query, whose own gallery row is not ranked.

    `own` is its position, -1 if it has none. Metrics of the user's own are called as `score_by_own`
    says.
    """
    function = parse_metric(scoring)[0]
    if is_own(function):
        return score_by_own(function, y_queries, y_gallery, distances, own)
    check_callable(function, exclude=own, per_query=True)
    values = evaluate(scoring, y_queries, y_gallery, distances, exclude=own, per_query=True)
    return np.asarray(values)


def reads_order(scoring: str | Metric) -> bool:
    """Say whether a metric depends on the order of results, and not only on a distance.

    Raises if it depends on both, and on neither alone.
    """
    function = parse_metric(scoring)[0]
    while isinstance(function, partial):
        function = function.func
    if function is mean_average_precision_in_radius:
        raise ValueError(
            "scoring='map_in_radius' ranks what lies within a distance, but rerank gives results "
            "an order without distances. Use rerank=None, or another metric such as 'map@100'."
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
