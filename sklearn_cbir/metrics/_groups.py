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
from sklearn_cbir.metrics._counts import count_codes
from sklearn_cbir.metrics._relevance import (
    Relevance,
    blocks,
    check_distances,
    check_exclude,
    check_k,
    read_block,
)
from sklearn_cbir.metrics.averaging import mean_over_queries

TIES = ("average", "stable")


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
    gain: np.ndarray  # sum of the gains of the group
    gain_before: np.ndarray  # sum of the gains nearer than the group
    n_relevant: np.ndarray  # (n_queries,)
    levels: np.ndarray  # (n_queries, n_levels): relevant items that share 0, 1, 2, ... labels
    n_results: np.ndarray  # (n_queries,): items that were ranked

    def sum(self, values):
        """Add one value per group up to one per query."""
        return np.bincount(self.query, weights=values, minlength=len(self.n_relevant))


def tie_groups(relevance, distances, *, ties="average", gains=None, exclude=None):
    """Yield the `TieGroups` of one block of queries after the other.

    `gains` gives the gain of an item that shares 0, 1, 2, ... labels (default: 0, 1, 1, ...).
    """
    check_choice(ties, "ties", TIES)
    if gains is None:
        gains = np.minimum(np.arange(relevance.n_levels), 1.0)
    if isinstance(distances, HammingDistances) and ties == "average":
        yield from map(_groups_of_counts, count_codes(relevance, distances, gains, exclude))
        return
    for rows in blocks(distances.shape, distances):
        block = read_block(distances, rows)
        if ties == "stable":
            block = _ranks(block)
        skipped = [None] * len(block) if exclude is None else exclude[rows]
        yield _collect(
            [
                _groups_of_row(row, positions, shared, skip, relevance.n_levels, gains)
                for row, skip, (positions, shared) in zip(block, skipped, relevance.rows(rows))
            ]
        )


def _ranks(block):
    """Replace distances by positions in the ranking, the earlier row first at equal distance."""
    order = np.argsort(block, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(block.shape[1])[None, :], axis=1)
    return ranks


def _groups_of_row(row, positions, shared, skip, n_levels, gains):
    """Return the groups of one query: before, size, hits, gain, levels and number of results."""
    n_results = len(row)
    if skip is not None and len(skip):
        n_results -= len(skip)
        keep = ~np.isin(positions, skip, assume_unique=True)
        positions = positions[keep]
        shared = None if shared is None else shared[keep]
    # Sorting values is several times faster than sorting positions, and only the relevant ones
    # have to be found again.
    ordered = np.sort(row)
    if shared is None:
        values = np.sort(row[positions])
        gain_of = None
        levels = np.array([0, len(positions)])
    else:
        order = np.argsort(row[positions])
        values = row[positions][order]
        gain_of = gains[shared[order]]
        levels = np.bincount(shared, minlength=n_levels)
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
    hits = np.diff(np.append(first, len(values)))
    values = values[first]
    before = np.searchsorted(ordered, values)
    after = np.searchsorted(ordered, values, side="right")
    if skip is not None and len(skip):
        left_out = np.sort(row[skip])
        before -= np.searchsorted(left_out, values)
        after -= np.searchsorted(left_out, values, side="right")
    if gain_of is None:
        gain = hits * gains[1]
    else:
        gain = np.add.reduceat(gain_of, first) if len(first) else np.zeros(0)
    return before, after - before, hits, gain, levels, n_results


def _collect(rows):
    """Join the groups of several queries."""
    before, size, hits, gain, levels, n_results = zip(*rows)
    lengths = [len(x) for x in before]
    hits_before = [np.cumsum(x) - x for x in hits]
    gain_before = [np.cumsum(x) - x for x in gain]
    levels = np.stack(levels)
    return TieGroups(
        query=np.repeat(np.arange(len(rows)), lengths),
        before=np.concatenate(before),
        size=np.concatenate(size),
        hits=np.concatenate(hits),
        hits_before=np.concatenate(hits_before),
        gain=np.concatenate(gain),
        gain_before=np.concatenate(gain_before),
        n_relevant=levels[:, 1:].sum(axis=1),
        levels=levels,
        n_results=np.array(n_results),
    )


def _groups_of_counts(counts):
    """Return the groups of a block of queries: the distances that hold something relevant."""
    place = np.nonzero(counts.hits)
    sums = [np.cumsum(x, axis=1) - x for x in (counts.totals, counts.hits, counts.gain)]
    return TieGroups(
        query=place[0],
        before=sums[0][place],
        size=counts.totals[place],
        hits=counts.hits[place],
        hits_before=sums[1][place],
        gain=counts.gain[place],
        gain_before=sums[2][place],
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
