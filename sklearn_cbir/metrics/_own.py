"""Metrics of the user's own: one number per query, of labels and distances."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._labels import check_labels, check_same_columns, check_same_kind, label_names
from sklearn_cbir._typing import Distances, Floats, LabelsLike, Positions
from sklearn_cbir.metrics._relevance import blocks, check_distances, read_block


def is_own(function: Callable[..., object]) -> bool:
    """Say whether a metric is the user's, and not one of this package, with parameters or not."""
    while isinstance(function, partial):
        function = function.func
    return not str(getattr(function, "__module__", None)).startswith("sklearn_cbir.metrics.")


def score_by_own(
    function: Callable[..., ArrayLike],
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    own: Positions | None = None,
) -> Floats:
    """Return what a metric of the user's says of every query, NaN for one that does not count.

    Parameters
    ----------
    function : callable
        ``function(y_queries, y_gallery, distances)`` of some queries at a time: their labels,
        the gallery's, and an array of shape (n_queries, n_gallery). It returns one number per
        query. It is given the keywords `exclude`, if it has it, the position in the gallery of
        every query (-1: none, None: of none), and ``per_query=True``.

    y_queries, y_gallery : array-like
        Labels.

    distances : array-like of shape (n_queries, n_gallery)
        Smaller is nearer.

    own : ndarray of shape (n_queries,), default=None
        Position of every query in the gallery, -1 if it is not there. A function without
        `exclude` is asked about such a query alone, and a gallery without it.

    Returns
    -------
    ndarray of shape (n_queries,), float64
    """
    distances = check_distances(distances)
    check_same_columns(y_queries, label_names(y_gallery))
    y_queries = check_labels(y_queries, name="y_queries", n=distances.shape[0])
    y_gallery = check_labels(y_gallery, name="y_gallery", n=distances.shape[1])
    check_same_kind(y_queries, y_gallery)
    keywords = _keywords(function)
    options: dict[str, Any] = {"per_query": True} if "per_query" in keywords else {}
    check_callable(function, **options)
    values = np.empty(len(y_queries))
    for rows in blocks(distances.shape, distances):
        y, block, skip = y_queries[rows], read_block(distances, rows), None
        if own is not None and (own[rows] >= 0).any():
            skip = own[rows]
        if "exclude" in keywords:
            options["exclude"] = skip
        elif skip is not None:
            for row, position in enumerate(skip):
                rest = np.arange(len(y_gallery)) != position
                found = function(
                    y[row : row + 1], y_gallery[rest], block[row, rest][None], **options
                )
                values[rows.start + row] = _checked(function, found, 1)[0]
            continue
        values[rows] = _checked(function, function(y, y_gallery, block, **options), len(block))
    return values


def check_callable(function: Callable[..., object], **options: object) -> None:
    """Raise unless a metric can be called with labels, distances and these options."""
    try:
        inspect.signature(function).bind("y_queries", "y_gallery", "distances", **options)
    except ValueError:  # of compiled functions nothing is known
        return
    except TypeError as error:
        raise ValueError(
            f"scoring={_name(function)} is no function of y_queries, y_gallery and distances that "
            f"returns one number per query: {error}. Set other parameters with functools.partial."
        ) from error


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", None) or f"{function!r:.60}"


def _keywords(function: Callable[..., object]) -> set[str]:
    """Return those of the two keywords that a function takes."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of compiled functions nothing is known
        return set()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return {"exclude", "per_query"}
    named = {
        name
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.POSITIONAL_ONLY
    }
    return named & {"exclude", "per_query"}


def _checked(function: Callable[..., object], found: ArrayLike, n_queries: int) -> Floats:
    """Return what a function said of `n_queries` queries as numbers, if that is what it is."""
    try:
        values = np.asarray(found)
        if values.dtype.kind == "O":  # a list that holds None, say
            values = values.astype(np.float64)
    except (TypeError, ValueError):
        values = np.empty(0, dtype=object)
    is_numeric = values.dtype.kind in "buif"
    if is_numeric and values.shape == (n_queries,) and not np.isinf(values).any():
        return values
    what = type(found).__name__
    if is_numeric and values.ndim:
        what = "infinity" if values.shape == (n_queries,) else f"numbers of shape {values.shape}"
    raise ValueError(
        f"scoring={_name(function)} returned {what} for {n_queries} queries. A metric returns one "
        f"number per query, here an array of shape ({n_queries},), and NaN for one that does not "
        "count."
    )
