"""Metrics of the user's own: one number per query, of labels and distances."""

import inspect
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._typing import Floats, Positions


class OwnMetric:
    """A metric of the user's, asked for one number per query, NaN for one that does not count.

    Parameters
    ----------
    function : callable
        ``function(y_queries, y_gallery, distances)`` of some queries at a time: their labels,
        the gallery's, and an array of shape (n_queries, n_gallery). It returns one number per
        query. It is given the keywords `exclude`, if it has it, the position in the gallery of
        every query (-1: none, None: of none), and ``per_query=True``.

    query_positions : ndarray of shape (n_queries,), default=None
        Position of every query in the gallery, -1 if it is not there. A function without
        `exclude` is asked about such a query alone, and a gallery without it.
    """

    needs_rows = True
    gains = None

    def __init__(
        self, function: Callable[..., ArrayLike], query_positions: Positions | None = None
    ) -> None:
        self.function, self.query_positions = function, query_positions
        keywords = _keywords(function)
        self.takes_exclude = "exclude" in keywords
        self.options: dict[str, bool] = {"per_query": True} if "per_query" in keywords else {}

    def checked(self, n_gallery: int) -> "OwnMetric":
        """Return the metric for a gallery of this size."""
        return self

    def of_block(self, block) -> Floats:
        """Return one value per query of those whose distances were read at once."""
        y_queries, y_gallery = block.relevance.y_queries[block.rows], block.relevance.y_gallery
        positions = None if self.query_positions is None else self.query_positions[block.rows]
        if positions is not None and not (positions >= 0).any():
            positions = None
        if self.takes_exclude:
            return self._values(y_queries, y_gallery, block.distances, exclude=positions)
        if positions is None:
            return self._values(y_queries, y_gallery, block.distances)
        values = np.empty(len(positions))
        for row, position in enumerate(positions):
            rest = np.arange(len(y_gallery)) != position
            alone = y_queries[row : row + 1], y_gallery[rest], block.distances[row, rest][None]
            values[row] = self._values(*alone)[0]
        return values

    def _values(self, y_queries, y_gallery, distances, **exclude):
        found = self.function(y_queries, y_gallery, distances, **self.options, **exclude)
        return _checked(self.function, found, len(y_queries))


def shown_name(function: Callable[..., object]) -> str:
    """Return the name of a function in messages."""
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
    """Return the values that a function found, or raise unless they are one number per query."""
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
        f"scoring={shown_name(function)} returned {what} for {n_queries} queries. A metric returns "
        f"one number per query, here an array of shape ({n_queries},), and NaN for one that does "
        "not count."
    )
