"""Relevance feedback: one query made of liked and disliked rows.

All three metrics have one criterion. A row x should be near the positives p and far from the
negatives n; with w the weight of the negatives, from 0 to below 1, it is ranked by

    mean of d(x, p) over p  -  w * mean of d(x, n) over n.

Where d is the cosine distance, or the square of the Euclidean one, the distance to one point ranks
in the same way, which is Rocchio's: (mean of p - w * mean of n) / (1 - w). The divisor does not
turn it, and makes it move with the rows wherever their origin is. Where d is the Hamming distance,
the code for which the criterion is least has those bits of the point that are above a half.
"""

from typing import Any, NamedTuple

import numpy as np

from sklearn_cbir._typing import Floats, Positions
from sklearn_cbir._validation import as_numpy, check_real, shortened
from sklearn_cbir.index._checking import Asked, check_queries
from sklearn_cbir.index._gallery import Gallery, check_ids

ERRORS_OF_ZERO = 8  # of rounding: so much is left of opposite rows, at most


class Judged(NamedTuple):
    """Rows of one judgment: ids, and rows without an id, with the names of both arguments."""

    name: str
    ids: Any
    name_of_rows: str
    rows: Any

    def positions(self, gallery: Gallery) -> Positions:
        """Return positions of the ids, ascending, each once: their order says nothing."""
        ids = check_ids(() if self.ids is None else self.ids, unique=False, name=self.name)
        way_out = f"Pass the rows of such photos as {self.name_of_rows}."
        return np.unique(gallery.find(ids, way_out, self.name))

    def encoded(self, gallery: Gallery, positions: Positions, owner: str) -> np.ndarray:
        """Return the rows at `positions` with those without ids behind them, encoded."""
        held, rows = gallery.engine.rows[positions], as_numpy(self.rows, self.name_of_rows)
        if rows is None or (hasattr(rows, "__len__") and not len(rows)):
            return held
        rows = check_queries(rows, gallery, owner, self.name_of_rows)
        return np.concatenate([held, gallery.engine.encode(rows)])


def ask_like(
    liked: Judged,
    unliked: Judged,
    unlike_weight: float,
    where: Any,
    gallery: Gallery,
    owner: str,
    k: int,
) -> Asked:
    """Return the request to a gallery for judged rows: one query, which leaves these rows out.

    `k` is the number of results. An exact engine answers: the mean of different rows lies where
    there are no rows, and there an index finds less than for queries like its rows.
    """
    weight = check_real(unlike_weight, "unlike_weight", minimum=0, maximum=1)
    if weight == 1:
        raise ValueError("unlike_weight=1 must be below 1, the weight of the liked rows.")
    row_filter = None if where is None else gallery.filter(gallery.mask(where))
    liked_at, unliked_at = liked.positions(gallery), unliked.positions(gallery)
    _check_one_side(gallery, liked_at, unliked_at)
    positives = liked.encoded(gallery, liked_at, owner)
    if not len(positives):
        raise ValueError("Nothing is liked. Pass at least one id of the gallery, or one row as X.")
    negatives = unliked.encoded(gallery, unliked_at, owner)
    query = _combined(gallery, positives, negatives if weight else negatives[:0], weight)
    engine, excluded = gallery.engine.exact, np.concatenate([liked_at, unliked_at])
    if row_filter is None:
        _check_left(k, len(gallery), len(excluded), "")
        return Asked(engine, query, excluded[None], None, None)
    excluded = row_filter.numbers(excluded)
    excluded = excluded[excluded >= 0]  # what is left out has no number
    _check_left(k, len(row_filter), len(excluded), " that where leaves in")
    return Asked(engine.filtered(row_filter), query, excluded[None], None, row_filter)


def _check_one_side(gallery: Gallery, liked_at: Positions, unliked_at: Positions) -> None:
    """Raise if a row is liked and is not."""
    both = np.intersect1d(liked_at, unliked_at)
    if len(both):
        shown = shortened(gallery.ids.at(both[:1]).tolist()[0])
        raise ValueError(f"{shown} is in ids and in unlike. Take it out of one of them.")


def _check_left(k: int, n: int, n_judged: int, of: str) -> None:
    """Raise unless `k` of `n` rows, `of` which kind, are left beside those that were judged."""
    if k > n - n_judged:
        raise ValueError(
            f"n_neighbors={k}, but of {n} rows{of} {n - n_judged} are left without the "
            f"{n_judged} of ids and unlike. Ask for fewer results."
        )


def _combined(
    gallery: Gallery, positives: np.ndarray, negatives: np.ndarray, weight: float
) -> np.ndarray:
    """Return one encoded query, (1, n_columns), of encoded rows."""
    if len(positives) == 1 and not len(negatives):
        return positives  # as it is: to encode it again would round it again
    engine, n_features = gallery.engine, gallery.n_features
    rows = engine.decode(positives, n_features)
    point = _point(rows, engine.decode(negatives, n_features), weight)
    if gallery.metric == "cosine":
        _check_direction(point * (1 - weight), rows.dtype)
    return engine.encode(_query_of(gallery.metric, point, rows.dtype)[None])


def _point(positives: np.ndarray, negatives: np.ndarray, weight: float) -> Floats:
    """Return the point of the criterion, (n_features,)."""
    if not len(negatives):
        return _mean(positives)
    return (_mean(positives) - weight * _mean(negatives)) / (1 - weight)


def _mean(rows: np.ndarray) -> Floats:
    return np.full(len(rows), 1 / len(rows)) @ rows  # a sum could overflow


def _check_direction(mean: Floats, dtype: np.dtype) -> None:
    """Raise for a mean of rows of unit length that is zero, but for how they were rounded."""
    if np.linalg.norm(mean) < ERRORS_OF_ZERO * np.finfo(dtype).eps:
        raise ValueError(
            "The liked and unliked rows cancel each other: their weighted mean is zero, which "
            "has no direction. Pass other rows, or another unlike_weight."
        )


def _query_of(metric: str, point: Floats, dtype: np.dtype) -> np.ndarray:
    """Return a point as a query of a metric, of the type of the rows that it was made of."""
    if metric == "hamming":
        return (np.round(point, 12) > 0.5).astype(dtype)  # a tie is one, whatever was rounded
    with np.errstate(over="ignore"):
        query = point.astype(dtype)
    if not np.isfinite(query).all():
        raise ValueError(
            "The liked rows are so far from the unliked ones that their weighted mean, up to "
            f"{np.abs(point).max():.3g}, does not fit into {dtype}. Lower unlike_weight, or "
            "scale all rows first."
        )
    return query
