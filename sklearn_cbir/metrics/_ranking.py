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
from sklearn import get_config

from sklearn_cbir._labels import check_labels, check_same_kind, shared_labels
from sklearn_cbir._validation import check_choice, check_integer
from sklearn_cbir.metrics.averaging import mean_over_queries

TIES = ("average", "stable")
MAX_ROWS_AT_ONCE = 128


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


class Relevance:
    """Checked labels of queries and gallery, ready to say which gallery rows are relevant."""

    def __init__(self, y_queries, y_gallery, shape):
        self.y_queries = check_labels(y_queries, name="y_queries")
        self.y_gallery = check_labels(y_gallery, name="y_gallery")
        check_same_kind(self.y_queries, self.y_gallery)
        if len(shape) != 2 or shape != (len(self.y_queries), len(self.y_gallery)):
            raise ValueError(
                f"distances has shape {tuple(shape)}, but there are {len(self.y_queries)} labels "
                f"of queries and {len(self.y_gallery)} of the gallery. It needs one row per query "
                "and one column per gallery item."
            )
        if 0 in shape:
            raise ValueError(
                f"distances has shape {tuple(shape)}: there must be at least one query and one "
                "gallery item."
            )
        if self.graded:
            self.n_levels = self.y_gallery.shape[1] + 1
        else:
            self.n_levels = 2
            self._group_gallery()

    @property
    def graded(self):
        """Whether items may share more than one label."""
        return self.y_queries.ndim == 2

    def rows(self, queries):
        """Yield the relevant gallery rows, ascending, of a slice of queries, and shared labels."""
        if self.graded:
            for shared in shared_labels(self.y_queries[queries], self.y_gallery):
                positions = np.flatnonzero(shared)
                yield positions, shared[positions].astype(np.int64)
        else:
            for code in self.query_class[queries]:
                yield self.by_class[self.starts[code] : self.starts[code + 1]], None

    def _group_gallery(self):
        """Sort the gallery by class, once, and find the class of every query."""
        classes, members = np.unique(self.y_gallery, return_inverse=True)
        self.by_class = np.argsort(members, kind="stable")
        # The last class, without members, is that of labels that the gallery lacks.
        counts = np.bincount(members, minlength=len(classes) + 1)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        place = np.searchsorted(classes, self.y_queries)
        known = classes[np.minimum(place, len(classes) - 1)] == self.y_queries
        self.query_class = np.where(known, place, len(classes))


def blocks(shape, distances=None):
    """Yield slices of queries that fit into scikit-learn's working memory."""
    n_queries, n_gallery = shape
    # Distances and their sorted copy, float64 at worst.
    fitting = int(get_config()["working_memory"] * 2**20 // (16 * n_gallery))
    step = getattr(distances, "block_size", None) or max(1, min(MAX_ROWS_AT_ONCE, fitting))
    for start in range(0, n_queries, step):
        yield slice(start, min(start + step, n_queries))


def check_distances(distances):
    """Return distances as an array, or as they are if they are made when sliced."""
    if hasattr(distances, "shape") and not isinstance(distances, np.ndarray):
        return distances
    distances = np.asarray(distances)
    if distances.dtype.kind not in "buif":
        raise ValueError(f"distances has dtype {distances.dtype}. Pass real numbers.")
    return distances


def read_block(distances, rows):
    """Return the distances of a slice of queries, all of them numbers."""
    block = np.asarray(distances[rows])
    if block.dtype.kind == "f" and np.isnan(block).any():
        row, column = np.argwhere(np.isnan(block))[0]
        raise ValueError(
            f"distances[{rows.start + row}, {column}] is NaN: it has no place in a ranking. "
            "Look for NaN or zero vectors in what the distances were computed from."
        )
    return block


def check_k(k, n_gallery):
    """Return `k` as an int of at most the size of the gallery, or None."""
    if k is None:
        return None
    k = check_integer(k, "k", minimum=1)
    if k > n_gallery:
        raise ValueError(
            f"k={k} is more than the {n_gallery} items of the gallery. Use a smaller k, or k=None "
            "for all of them."
        )
    return k


def check_exclude(exclude, shape):
    """Return, per query, the gallery rows that are not ranked; None if all are."""
    if exclude is None:
        return None
    n_queries, n_gallery = shape
    if isinstance(exclude, (list, tuple)) and any(np.ndim(rows) for rows in exclude):
        rows = [np.unique(np.asarray(row, dtype=np.int64)) for row in exclude]
        _check_excluded(rows, n_queries, n_gallery)
        return rows
    exclude = np.asarray(exclude)
    if exclude.dtype == bool and exclude.shape == (n_queries, n_gallery):
        return [np.flatnonzero(row) for row in exclude]
    if exclude.dtype.kind in "iu" and exclude.shape == (n_queries,):
        rows = [own[own >= 0] for own in exclude.astype(np.int64)[:, None]]
        _check_excluded(rows, n_queries, n_gallery)
        return rows
    raise ValueError(
        f"exclude has shape {exclude.shape} and dtype {exclude.dtype}. Pass a boolean mask of "
        f"shape ({n_queries}, {n_gallery}), one gallery row per query (-1: none), or a list of "
        "arrays of gallery rows."
    )


def _check_excluded(rows, n_queries, n_gallery):
    """Raise unless there is one list of existing gallery rows per query."""
    if len(rows) != n_queries:
        raise ValueError(
            f"exclude holds {len(rows)} lists of gallery rows for {n_queries} queries."
        )
    for query, row in enumerate(rows):
        if len(row) and not (row[0] >= 0 and row[-1] < n_gallery):
            raise ValueError(
                f"exclude[{query}] names a gallery row outside 0 to {n_gallery - 1}: {row}."
            )


def tie_groups(relevance, distances, *, ties="average", gains=None, exclude=None):
    """Yield the `TieGroups` of one block of queries after the other.

    `gains` gives the gain of an item that shares 0, 1, 2, ... labels (default: 0, 1, 1, ...).
    """
    check_choice(ties, "ties", TIES)
    if gains is None:
        gains = np.minimum(np.arange(relevance.n_levels), 1.0)
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
