"""From labels and distances to groups of equally distant items, the form every metric reads.

Items at one distance have no order. A metric is the mean over all their orders, which has a
closed form per group [1]_, [2]_; only groups that hold something relevant contribute.

.. [1] F. McSherry, M. Najork. "Computing information retrieval performance measures
   efficiently in the presence of tied scores". ECIR 2008.
.. [2] K. He, F. Cakir, S. A. Bargal, S. Sclaroff. "Hashing as tie-aware learning to rank".
   CVPR 2018.
"""

from dataclasses import dataclass

import numpy as np

from sklearn_cbir._validation import check_choice
from sklearn_cbir.codes import HammingDistances
from sklearn_cbir.codes._search import in_threads, slices
from sklearn_cbir.metrics._averaging import mean_over_queries
from sklearn_cbir.metrics._counts import count_codes
from sklearn_cbir.metrics._relevance import (
    Relevance,
    blocks,
    check_distances,
    check_exclude,
    check_k,
    read_block,
)

TIES = ("average", "stable")
PAIRS_AT_ONCE = 2**19  # whose groups fit into a cache
PAIRS_PER_THREAD = 2**20  # below this a second thread costs more than it saves


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

    def sum(self, values):
        """Add one value per group up to one per query."""
        return np.bincount(self.query, weights=values, minlength=len(self.n_relevant))


def tie_groups(relevance, distances, *, ties="average", gains=None, exclude=None):
    """Yield the `TieGroups` of one block of queries after the other.

    `gains` gives the gain of an item that shares 0, 1, 2, ... labels; None is 0, 1, 1, ...
    """
    check_choice(ties, "ties", TIES)
    if isinstance(distances, HammingDistances) and ties == "average":
        yield from map(_groups_of_counts, count_codes(relevance, distances, gains, exclude))
        return
    for rows in blocks(distances.shape, distances):
        block = read_block(distances, rows)

        def groups_of(part, block=block, first=rows.start):
            queries = slice(first + part.start, first + part.stop)
            excluded = None if exclude is None else exclude[queries]
            return _groups_of_rows(block[part], relevance, queries, ties, gains, excluded)

        step = max(1, PAIRS_AT_ONCE // block.shape[1])
        yield from in_threads(groups_of, slices(len(block), step), block.size / PAIRS_PER_THREAD)


def _groups_of_rows(block, relevance, queries, ties, gains, exclude):
    """Return the `TieGroups` of a few queries."""
    if ties == "stable":
        block = _ranks(block)
    n_results = np.full(len(block), block.shape[1])
    if exclude is None:
        exclude = [None] * len(block)
    else:
        n_results -= [len(items) for items in exclude]
    groups = [
        _groups_of_row(row, items, shared, skip, gains)
        for row, skip, (items, shared) in zip(block, exclude, relevance.rows(queries))
    ]
    before, size, hits, gain = zip(*(group[:4] for group in groups))
    levels = np.zeros((len(block), relevance.n_levels), dtype=np.int64)
    for level, group in zip(levels, groups):
        level[: len(group[4])] = group[4]
    return TieGroups(
        query=np.repeat(np.arange(len(groups)), [len(x) for x in before]),
        before=np.concatenate(before),
        size=np.concatenate(size),
        hits=np.concatenate(hits),
        hits_before=np.concatenate([np.cumsum(x) - x for x in hits]),
        gains=None if gains is None else np.concatenate(gain),
        gains_before=None if gains is None else np.concatenate([np.cumsum(x) - x for x in gain]),
        n_relevant=levels.sum(axis=1),
        levels=levels,
        n_results=n_results,
    )


def _ranks(block):
    """Replace distances by positions in the ranking, the earlier row first at equal distance."""
    order = np.argsort(block, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(block.shape[1])[None, :], axis=1)
    return ranks


def _groups_of_row(row, items, shared, skip, gains):
    """Return before, size, hits and gains of the groups of one query, and its levels."""
    skip = None if skip is None or len(skip) == 0 else skip
    if skip is not None:
        keep = ~np.isin(items, skip, assume_unique=True)
        items = items[keep]
        shared = None if shared is None else shared[keep]
    # Sorting values is several times faster than sorting positions, and only the relevant ones
    # have to be found again.
    ordered = np.sort(row)
    values = row[items]
    levels = [0, len(items)] if shared is None else np.bincount(shared)
    if gains is None:
        gain = None
        values.sort()
    else:
        shared = np.ones(len(items), dtype=np.int64) if shared is None else shared
        order = np.argsort(values)
        values, gain = values[order], gains[shared[order]]
    values, hits, gain = _merge_equal(values, gain)
    before = np.searchsorted(ordered, values)
    after = _end_of_group(ordered, values, before + hits)
    if skip is not None:
        left_out = np.sort(row[skip])
        before -= np.searchsorted(left_out, values)
        after -= np.searchsorted(left_out, values, side="right")
    return before, after - before, hits, gain, levels


def _merge_equal(values, gain):
    """Return the distinct ones of sorted values, how often each occurs, and their gains' sums."""
    changes = values[1:] != values[:-1]
    if changes.all():
        return values, np.ones(len(values), dtype=np.int64), gain
    first = np.append(0, np.flatnonzero(changes) + 1)
    gain = None if gain is None else np.add.reduceat(gain, first)
    return values[first], np.diff(first, append=len(values)), gain


def _end_of_group(ordered, values, after):
    """Move `after`, which counts relevant items only, past others at the same distance."""
    more = ordered.take(after, mode="clip") == values
    more[-1:] &= after[-1:] < len(ordered)
    if more.any():
        after[more] = np.searchsorted(ordered, values[more], side="right")
    return after


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
    value,
    y_queries,
    y_gallery,
    distances,
    *,
    k=None,
    gains=None,
    ties="average",
    exclude=None,
    sample_weight=None,
    per_query=False,
):
    """Evaluate ``value(groups, k)`` block by block, then average over queries."""
    distances = check_distances(distances)
    relevance = Relevance(y_queries, y_gallery, distances.shape)
    k = check_k(k, len(relevance.y_gallery))
    exclude = check_exclude(exclude, distances.shape)
    gains = None if gains is None else gains(relevance.n_levels)
    values = np.full(len(relevance.y_queries), np.nan)
    start = 0
    for groups in tie_groups(relevance, distances, ties=ties, gains=gains, exclude=exclude):
        stop = start + len(groups.n_relevant)
        values[start:stop] = np.where(groups.n_relevant > 0, value(groups, k), np.nan)
        start = stop
    return values if per_query else mean_over_queries(values, sample_weight)
