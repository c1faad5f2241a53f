"""From labels and distances to groups of equally distant items, the form every metric reads.

Items at one distance have no order. A metric is the mean over all their orders, which has a
closed form per group [1]_, [2]_; only groups that hold something relevant contribute.

.. [1] F. McSherry, M. Najork. "Computing information retrieval performance measures
   efficiently in the presence of tied scores". ECIR 2008.
.. [2] K. He, F. Cakir, S. A. Bargal, S. Sclaroff. "Hashing as tie-aware learning to rank".
   CVPR 2018.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_cbir._typing import Distances, Floats, LabelsLike, Positions, Sliced, Ties
from sklearn_cbir._validation import check_boolean, check_choice
from sklearn_cbir.codes import HammingDistances
from sklearn_cbir.codes._search import in_threads, kernels, slices
from sklearn_cbir.metrics._averaging import check_weights, mean_over_queries
from sklearn_cbir.metrics._counts import count_codes
from sklearn_cbir.metrics._relevance import (
    Relevance,
    blocks,
    check_distances,
    check_exclude,
    check_k,
    read_block,
)

Relevant: TypeAlias = tuple[Positions, Positions | None]  # gallery rows, and shared labels
Cutoff: TypeAlias = int | Positions | None  # one for all queries, one for each, or no end

TIES = ("average", "stable", "optimistic", "pessimistic")
PAIRS_AT_ONCE = 2**18  # whose groups fit into a cache
PAIRS_PER_THREAD = 2**20  # below this a second thread costs more than it saves
PAIRS_TO_COMPILE = 2e8  # below this, importing compiled loops takes longer than they save
COMPILED_FOR = (np.float32, np.float64, np.int64)


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
    def gain(self) -> np.ndarray:
        """Sum of the gains of the group."""
        return self.hits if self.gains is None else self.gains

    @property
    def gain_before(self) -> np.ndarray:
        """Sum of the gains nearer than the group."""
        return self.hits_before if self.gains_before is None else self.gains_before

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add one value per group up to one per query."""
        return np.bincount(self.query, weights=values, minlength=len(self.n_relevant))


def tie_groups(
    relevance: Relevance,
    distances: Sliced,
    *,
    ties: Ties = "average",
    gains: Floats | None = None,
    exclude: list[Positions] | None = None,
) -> Iterator[TieGroups]:
    """Yield the `TieGroups` of one block of queries after the other.

    `gains` gives the gain of an item that shares 0, 1, 2, ... labels; None is 0, 1, 1, ...
    """
    check_choice(ties, "ties", TIES)
    if isinstance(distances, HammingDistances) and ties == "average":
        yield from map(_groups_of_counts, count_codes(relevance, distances, gains, exclude))
        return
    n_queries, n_gallery = distances.shape
    compiled = kernels() if n_queries * n_gallery >= PAIRS_TO_COMPILE else None
    place = _place if compiled is None else partial(_place_compiled, compiled)
    for rows in blocks(distances.shape, distances):
        block = read_block(distances, rows)

        def groups_of(part, block=block, first=rows.start):
            queries = slice(first + part.start, first + part.stop)
            excluded = None if exclude is None else exclude[queries]
            return _groups_of_rows(block[part], relevance, queries, ties, gains, excluded, place)

        step = max(1, PAIRS_AT_ONCE // block.shape[1])
        yield from in_threads(groups_of, slices(len(block), step), block.size / PAIRS_PER_THREAD)


def _groups_of_rows(block, relevance, queries, ties, gains, exclude, place):
    """Return the `TieGroups` of a few queries."""
    relevant = list(relevance.rows(queries))
    if ties != "average":
        block = _ranks(block, relevant, ties)
    n_results = np.full(len(block), block.shape[1])
    if exclude is not None:
        relevant = [_without(*pair, skip) for pair, skip in zip(relevant, exclude)]
        n_results -= [len(skip) for skip in exclude]
    n_relevant = np.array([len(items) for items, _ in relevant])
    query = np.repeat(np.arange(len(block)), n_relevant)
    before, size = _find(block, relevant, exclude, place)
    first = _starts_of_runs(before, query)
    hits = np.diff(first, append=len(before))
    gain = None
    if gains is not None:
        gain = np.add.reduceat(_sorted_gains(block, relevant, gains), first)
    if len(first) < len(before):
        query, before, size = query[first], before[first], size[first]
    ends = np.cumsum(np.bincount(query, minlength=len(block)))
    return TieGroups(
        query=query,
        before=before,
        size=size,
        hits=hits,
        hits_before=_sums_before(hits, ends),
        gains=gain,
        gains_before=None if gain is None else _sums_before(gain, ends),
        n_relevant=n_relevant,
        levels=_levels(relevant, relevance.n_levels),
        n_results=n_results,
    )


def _without(items, shared, skip):
    """Leave out what is not ranked."""
    keep = ~np.isin(items, skip, assume_unique=True)
    return items[keep], None if shared is None else shared[keep]


def _find(block, relevant, exclude, place):
    """Return, for relevant items in order of distance, how many are nearer and how many as far."""
    found = []
    ordered = np.empty_like(block[0])  # one for all: fresh memory costs as much as sorting it
    for i, (row, (items, _)) in enumerate(zip(block, relevant)):
        np.copyto(ordered, row)
        ordered.sort()
        values = row[items]
        values.sort()
        before, size = place(ordered, values)
        if exclude is not None and len(exclude[i]):
            left_out = np.sort(row[exclude[i]])
            smaller = left_out.searchsorted(values)
            before -= smaller
            size -= left_out.searchsorted(values, side="right") - smaller
        found.append((before, size))
    return [np.concatenate(parts) for parts in zip(*found)]


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


def _place_compiled(compiled, ordered, values):
    """Return the same in one pass over both."""
    if ordered.dtype not in COMPILED_FOR:
        return _place(ordered, values)
    before, size = np.empty((2, len(values)), dtype=np.int64)
    compiled.place_sorted(ordered, values, before, size)
    return before, size


def _starts_of_runs(before, query):
    """Return where a new distance or a new query begins."""
    changes = np.ones(len(before), dtype=bool)
    np.not_equal(before[1:], before[:-1], out=changes[1:])
    changes[1:] |= query[1:] != query[:-1]
    return np.flatnonzero(changes)


def _sums_before(values, ends):
    """Sum up, within each query, what comes before each group."""
    sums = np.cumsum(values) - values
    for start, end in zip(ends[:-1], ends[1:]):
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
    """Return what equally distant items are sorted by: how many labels they share."""
    shared_labels = np.zeros(shape, dtype=np.int64)
    for row, (items, shared) in zip(shared_labels, relevant):
        row[items] = 1 if shared is None else shared
    return -shared_labels if ties == "optimistic" else shared_labels


def _groups_of_counts(counts):
    """Return the groups of a block of queries: the distances that hold something relevant."""
    place = np.nonzero(counts.hits)
    sums = [np.cumsum(x, axis=1) - x for x in (counts.totals, counts.hits)]
    gain = counts.gain
    return TieGroups(
        query=place[0],
        before=sums[0][place],
        size=counts.totals[place],
        hits=counts.hits[place],
        hits_before=sums[1][place],
        gains=None if gain is None else gain[place],
        gains_before=None if gain is None else (np.cumsum(gain, axis=1) - gain)[place],
        n_relevant=counts.hits.sum(axis=1),
        levels=counts.levels,
        n_results=counts.n_results,
    )


def evaluate_groups(
    value: Callable[[TieGroups, Cutoff], np.ndarray],
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    k: int | None = None,
    cutoffs: Positions | None = None,
    gains: Callable[[int], Floats] | None = None,
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Evaluate ``value(groups, k)`` block by block, then average over queries.

    `cutoffs` are one `k` per query. A query whose value is NaN although something in the gallery
    is relevant is one that the metric skips.
    """
    per_query = check_boolean(per_query, "per_query")
    distances = check_distances(distances)
    relevance = Relevance(y_queries, y_gallery, distances.shape)
    k = check_k(k, len(relevance.y_gallery))
    left_out = check_exclude(exclude, distances.shape)
    of_levels = None if gains is None else gains(relevance.n_levels)
    values = np.full(len(relevance.y_queries), np.nan)
    skipped = np.zeros(len(values), dtype=bool)
    start = 0
    for groups in tie_groups(relevance, distances, ties=ties, gains=of_levels, exclude=left_out):
        block = slice(start, start + len(groups.n_relevant))
        of_block = value(groups, k if cutoffs is None else cutoffs[block])
        values[block] = np.where(groups.n_relevant > 0, of_block, np.nan)
        skipped[block] = np.isnan(values[block]) & (groups.n_relevant > 0)
        start = block.stop
    if per_query:
        return values
    if skipped.any():
        values, sample_weight = _without_skipped(values, skipped, sample_weight)
    return mean_over_queries(values, sample_weight)


def _without_skipped(
    values: Floats, skipped: NDArray[np.bool_], sample_weight: ArrayLike | None
) -> tuple[Floats, Floats]:
    """Return values and weights of the queries that count, of which there must be some."""
    weights = check_weights(sample_weight, len(values))
    if np.isnan(values[~skipped]).all():
        raise ValueError(
            f"no_hits='skip' leaves none of the {len(values)} queries: no result of any is "
            "relevant. Use no_hits='zero'."
        )
    return values[~skipped], weights[~skipped]
