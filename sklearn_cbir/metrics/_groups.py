"""From labels and distances to groups of equally distant items, the form every metric reads.

Items at one distance have no order. A metric is the mean over all their orders, which has a
closed form per group [1]_, [2]_; only groups that hold something relevant contribute.

.. [1] F. McSherry, M. Najork. "Computing information retrieval performance measures
   efficiently in the presence of tied scores". ECIR 2008.
.. [2] K. He, F. Cakir, S. A. Bargal, S. Sclaroff. "Hashing as tie-aware learning to rank".
   CVPR 2018.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._typing import Positions, Ties
from sklearn_cbir.metrics._relevance import Relevance

PAIRS_TO_COMPILE = 2e8  # below this, importing compiled loops takes longer than they save
COMPILED_FOR = (np.float32, np.float64, np.int64)


# How many results count: of every query, or one number for all.
Cutoff: TypeAlias = int | Positions | None
Relevant: TypeAlias = tuple[Positions, Positions | None]  # gallery rows, and shared labels


@dataclass
class TieGroups:
    """Groups of equally distant items with at least one relevant item, by query and distance.

    Arrays have one entry per group unless said otherwise.
    """

    query: np.ndarray  # which query the group belongs to, ascending
    before: np.ndarray  # items nearer than the group
    size: np.ndarray  # items of the group
    hits: np.ndarray  # relevant items of the group
    hits_before: np.ndarray  # relevant items nearer than the group
    gains: np.ndarray | None  # sum of the gains of the group; None: one per relevant item
    gains_before: np.ndarray | None  # sum of the gains nearer than the group
    n_relevant: np.ndarray  # (n_queries,)
    levels: np.ndarray  # (n_queries, n_levels): relevant items that share 0, 1, 2, ... labels
    n_results: np.ndarray  # (n_queries,): items that were ranked

    @property
    def gain(self):
        """Sum of the gains of the group."""
        return self.hits if self.gains is None else self.gains

    @property
    def gain_before(self):
        """Sum of the gains nearer than the group."""
        return self.hits_before if self.gains is None else self.gains_before

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add one value per group up to one per query."""
        return np.bincount(self.query, weights=values, minlength=len(self.n_relevant))


@dataclass
class RadiusCounts:
    """How many items, and relevant ones, lie within each of some radii of every query."""

    found: np.ndarray  # (n_queries, n_radii): items
    hits: np.ndarray  # (n_queries, n_radii): relevant items
    n_relevant: np.ndarray  # (n_queries,): relevant items at any distance


class Rankings:
    """The rankings of a few queries, of which every metric asks what it needs.

    What was sorted for one metric is kept for the next.

    Parameters
    ----------
    block : ndarray of shape (n_queries, n_gallery)
        Distances.

    relevance : Relevance
        Labels.

    queries : slice
        Which of the labelled queries they are.

    exclude : list of n_queries arrays, or None
        Gallery rows that are not ranked.

    n_pairs : int
        How many distances all queries have: of many, compiled loops pay.
    """

    def __init__(
        self,
        block: np.ndarray,
        relevance: Relevance,
        queries: slice,
        exclude: list[np.ndarray] | None,
        n_pairs: int,
    ):
        self.block, self.exclude, self.n_levels = block, exclude, relevance.n_levels
        self.place = _place if n_pairs < PAIRS_TO_COMPILE else _compiled_place()
        self.all_relevant = list(relevance.rows(queries))
        self.relevant = self.all_relevant
        if exclude is not None:
            self.relevant = [_without(*pair, skip) for pair, skip in zip(self.relevant, exclude)]
        self.n_relevant = np.array([len(items) for items, _ in self.relevant])
        self._runs = {}  # by how ties are broken

    @cached_property
    def ordered(self) -> np.ndarray:
        """Distances to all gallery rows, excluded ones too, ascending."""
        return np.sort(self.block, axis=1)

    @cached_property
    def left_out(self) -> list[np.ndarray]:
        """Distances to the excluded rows of every query, ascending."""
        if self.exclude is None:
            return [self.block[0, :0]] * len(self.block)
        return [np.sort(row[skip]) for row, skip in zip(self.block, self.exclude)]

    def groups(self, ties: Ties = "average", gains: Callable | None = None) -> TieGroups:
        """Return the groups of equally distant items.

        ``gains(n_levels)`` are the gains of items that share 0, 1, 2, ... labels; None is 0, 1,
        1, ...
        """
        if ties not in self._runs:
            self._runs[ties] = self._find_groups(ties)
        block, first, ends, groups = self._runs[ties]
        if gains is None:
            return groups
        gain = np.add.reduceat(_sorted_gains(block, self.relevant, gains(self.n_levels)), first)
        return replace(groups, gains=gain, gains_before=_sums_before(gain, ends))

    def count_within(self, radii: ArrayLike, max_results: int | None = None) -> RadiusCounts:
        """Count the items within each radius, at most the nearest `max_results`."""
        limits = np.asarray(radii, dtype=np.float64)
        if self.block.dtype.kind == "f":  # rounded as the distances are: 0.3 is within 0.3
            with np.errstate(over="ignore"):
                limits = limits.astype(self.block.dtype)
        found = np.empty((len(self.block), len(limits)))
        hits = np.empty_like(found)
        for i, (row, ordered, left_out) in enumerate(zip(self.block, self.ordered, self.left_out)):
            relevant = np.sort(row[self.relevant[i][0]])
            found[i] = ordered.searchsorted(limits, side="right")
            found[i] -= left_out.searchsorted(limits, side="right")
            hits[i] = relevant.searchsorted(limits, side="right")
            if max_results is not None and len(ordered) - len(left_out) > max_results:
                ranked = np.delete(ordered, _places_of(left_out, ordered))
                _cap(found[i], hits[i], ranked, relevant, max_results)
        return RadiusCounts(found, hits, self.n_relevant)

    def _find_groups(self, ties):
        """Return the groups, what they were found in, where each begins, and each query's end."""
        block, ordered, left_out = self.block, self.ordered, self.left_out
        if ties != "average":
            block = _ranks(block, self.all_relevant, ties)
            ordered = np.sort(block, axis=1)
            if self.exclude is not None:
                left_out = [np.sort(row[skip]) for row, skip in zip(block, self.exclude)]
        query = np.repeat(np.arange(len(block)), self.n_relevant)
        before, size = self._find(block, ordered, left_out)
        first = _starts_of_runs(before, query)
        hits = np.diff(first, append=len(before))
        if len(first) < len(before):
            query, before, size = query[first], before[first], size[first]
        ends = np.cumsum(np.bincount(query, minlength=len(block)))
        n_results = np.full(len(block), block.shape[1])
        if self.exclude is not None:
            n_results -= [len(skip) for skip in self.exclude]
        groups = TieGroups(
            query=query,
            before=before,
            size=size,
            hits=hits,
            hits_before=_sums_before(hits, ends),
            gains=None,
            gains_before=None,
            n_relevant=self.n_relevant,
            levels=_levels(self.relevant, self.n_levels),
            n_results=n_results,
        )
        return block, first, ends, groups

    def _find(self, block, ordered, left_out):
        """Return, for relevant items by distance, how many are nearer and how many as far."""
        found = []
        for row, everything, skipped, (items, _) in zip(block, ordered, left_out, self.relevant):
            values = np.sort(row[items])
            before, size = self.place(everything, values)
            if len(skipped):
                smaller = skipped.searchsorted(values)
                before -= smaller
                size -= skipped.searchsorted(values, side="right") - smaller
            found.append((before, size))
        return [np.concatenate(parts) for parts in zip(*found)]


def _without(items, shared, skip):
    """Leave out items that are not ranked."""
    keep = ~np.isin(items, skip, assume_unique=True)
    return items[keep], None if shared is None else shared[keep]


def _places_of(some, ordered):
    """Return where some of sorted numbers, sorted too, stand among them; equal ones in a row."""
    return ordered.searchsorted(some) + np.arange(len(some)) - some.searchsorted(some)


def _cap(found, hits, everything, relevant, max_results):
    """Keep the nearest `max_results` items, on average over the orders of equal ones."""
    last = everything[max_results - 1]
    nearer, within = np.searchsorted(everything, last), np.searchsorted(everything, last, "right")
    sure, possible = np.searchsorted(relevant, last), np.searchsorted(relevant, last, "right")
    share = (max_results - nearer) / (within - nearer)
    capped = found > max_results
    found[capped] = max_results
    hits[capped] = sure + share * (possible - sure)


def _sorted_gains(block, relevant, gains):
    """Return the gains of the relevant items in order of distance."""
    ordered = [
        np.full(len(items), gains[1]) if shared is None else gains[shared[np.argsort(row[items])]]
        for row, (items, shared) in zip(block, relevant)
    ]
    return np.concatenate(ordered)


def _place(ordered, values):
    """Return, for sorted values, how many of all are smaller, and how many as large or itself.

    Sorting values is several times faster than sorting positions, and only the relevant ones have
    to be found again.
    """
    before = ordered.searchsorted(values)
    size = np.ones_like(before)
    # Found by what follows. The largest has nothing after it, and finds itself.
    tied = np.flatnonzero(ordered.take(before + 1, mode="clip") == values)
    if len(tied):
        size[tied] = ordered.searchsorted(values[tied], side="right") - before[tied]
    return before, size


@lru_cache(maxsize=1)
def _compiled_place():
    """Return `_place_compiled` with its loops, or `_place` where numba cannot compile them."""
    try:
        from sklearn_cbir.metrics._kernels import place_sorted
    except ImportError:
        return _place
    return partial(_place_compiled, place_sorted)


def _place_compiled(place_sorted, ordered, values):
    """Do what `_place` does, in one pass over both arrays."""
    if ordered.dtype not in COMPILED_FOR:
        return _place(ordered, values)
    before, size = np.empty((2, len(values)), dtype=np.int64)
    place_sorted(ordered, values, before, size)
    return before, size


def _starts_of_runs(before, query):
    """Return where a new distance or a new query begins."""
    changes = np.ones(len(before), dtype=bool)
    np.not_equal(before[1:], before[:-1], out=changes[1:])
    changes[1:] |= query[1:] != query[:-1]
    return np.flatnonzero(changes)


def _sums_before(values, ends):
    """Sum up, within each query, the values before each group."""
    sums = np.cumsum(values) - values
    for start, end in itertools.pairwise(ends):
        if start < end:
            sums[start:end] -= sums[start]
    return sums


def _levels(relevant: list[Relevant], n_levels: int) -> Positions:
    """Count the relevant items of each query that share 0, 1, 2, ... labels."""
    levels = np.zeros((len(relevant), n_levels), dtype=np.int64)
    for level, (items, shared) in zip(levels, relevant):
        if shared is None:
            level[1] = len(items)
        else:
            level += np.bincount(shared, minlength=n_levels)
    return levels


def _ranks(block: np.ndarray, relevant: list[Relevant], ties: Ties) -> Positions:
    """Replace distances by positions in the ranking, in which no two items are equal."""
    if ties == "stable":
        order = np.argsort(block, axis=1, kind="stable")
    else:
        order = np.lexsort((_precedence(block.shape, relevant, ties), block), axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(block.shape[1])[None, :], axis=1)
    return ranks


def _precedence(shape: tuple[int, ...], relevant: list[Relevant], ties: Ties) -> Positions:
    """Return the keys (n_queries, n_gallery) that order equally distant items by shared labels."""
    shared_labels = np.zeros(shape, dtype=np.int64)
    for number, (items, shared) in enumerate(relevant):
        shared_labels[number, items] = 1 if shared is None else shared
    return -shared_labels if ties == "optimistic" else shared_labels
