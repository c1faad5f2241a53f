"""How many codes, relevant or not, lie at every Hamming distance of a query: no matrix, no sort."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._typing import Ties
from sklearn_cbir.codes import HammingDistances, pack_codes
from sklearn_cbir.codes._search import WORD, kernels_for, layout, measure, run_in_threads
from sklearn_cbir.metrics._groups import RadiusCounts, TieGroups
from sklearn_cbir.metrics._relevance import Relevance

CODES_AT_ONCE = 1024  # queries whose counts are held at once


@dataclass
class Counts:
    """Counts of a block of queries by distance, (n_queries, n_distances) unless said otherwise."""

    totals: np.ndarray
    hits: np.ndarray  # relevant items
    gain: np.ndarray  # (n_queries, n_gains, n_distances): sums of their gains
    levels: np.ndarray  # (n_queries, n_levels): relevant items that share 0, 1, 2, ... labels
    n_results: np.ndarray  # (n_queries,): items that were ranked

    def part(self, rows):
        """Return the counts of some of the queries, sharing memory."""
        arrays = self.totals, self.hits, self.gain, self.levels, self.n_results
        return Counts(*(array[rows] for array in arrays))


class CountedRankings:
    """The rankings of a block of queries by Hamming distance: all that `Rankings` says of ties.

    Parameters
    ----------
    counts : Counts
        What lies at each distance.

    gains : list of callables
        Which gains were counted.
    """

    def __init__(self, counts: Counts, gains: list[Callable]):
        self.counts, self.gains = counts, gains
        self.n_relevant = counts.hits.sum(axis=1)

    def groups(self, ties: Ties = "average", gains: Callable | None = None) -> TieGroups:
        """Return the groups of equally distant items: the distances that hold a relevant one."""
        counts = self.counts
        place = np.nonzero(counts.hits)
        sums = [np.cumsum(x, axis=1) - x for x in (counts.totals, counts.hits)]
        gain = None if gains is None else counts.gain[:, self.gains.index(gains)]
        return TieGroups(
            query=place[0],
            before=sums[0][place],
            size=counts.totals[place],
            hits=counts.hits[place],
            hits_before=sums[1][place],
            gains=None if gain is None else gain[place],
            gains_before=None if gain is None else (np.cumsum(gain, axis=1) - gain)[place],
            n_relevant=self.n_relevant,
            levels=counts.levels,
            n_results=counts.n_results,
        )

    def count_within(self, radii: ArrayLike, max_results: int | None = None) -> RadiusCounts:
        """Count the items within each radius."""
        n_distances = self.counts.totals.shape[1]
        reached = np.clip(np.floor(radii), -1, n_distances - 1).astype(np.int64) + 1
        found, hits = (
            np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1)[:, reached]
            for counts in (self.counts.totals, self.counts.hits)
        )
        found, hits = found.astype(np.float64, order="C"), hits.astype(np.float64, order="C")
        return RadiusCounts(found, hits, self.n_relevant)


def count_codes(
    relevance: Relevance,
    distances: HammingDistances,
    gains: np.ndarray,
    exclude: list[np.ndarray] | None,
) -> Iterator[tuple[slice, Counts]]:
    """Yield blocks of queries and their `Counts`.

    ``gains[i]`` are gains of items that share 0, 1, 2, ... labels, (n_gains, n_levels).
    """
    n_queries, n_gallery = distances.shape
    n_distances = WORD * distances.gallery.shape[1] + 1
    count = _counter(relevance, distances, gains)
    for start in range(0, n_queries, CODES_AT_ONCE):
        queries = np.arange(start, min(start + CODES_AT_ONCE, n_queries))
        shape = len(queries), n_distances
        counts = Counts(
            totals=np.zeros(shape, dtype=np.int64),
            hits=np.zeros(shape, dtype=np.int64),
            gain=np.zeros((len(queries), len(gains), n_distances)),
            levels=np.zeros((len(queries), relevance.n_levels), dtype=np.int64),
            n_results=np.full(len(queries), n_gallery),
        )
        _fill(count, queries, counts, n_gallery)
        if exclude is not None:
            _take_out(counts, relevance, distances, gains, queries, exclude)
        yield slice(start, start + len(queries)), counts


def _fill(count, queries, counts, n_gallery):
    """Fill the counts of a block."""
    run_in_threads(lambda rows: count(queries[rows], counts.part(rows)), (len(queries), n_gallery))


def _counter(relevance, distances, gains):
    """Return a function that fills the `Counts` of some queries."""
    compiled = kernels_for(*distances.shape)
    if compiled is None:
        return _numpy_counter(relevance, distances, gains)
    if relevance.graded:
        return _label_counter(compiled, relevance, distances, gains)
    return _class_counter(compiled, relevance, distances, gains)


def _class_counter(compiled, relevance, distances, gains):
    """Count with the gallery sorted by class: what is relevant lies side by side."""
    by_query, by_word = layout(distances.queries, distances.gallery[relevance.by_class])
    starts = relevance.starts[relevance.query_class]
    stops = relevance.starts[relevance.query_class + 1]

    def count(queries, counts):
        compiled.count_by_class(
            by_query[queries],
            by_word,
            starts[queries],
            stops[queries],
            counts.totals,
            counts.hits,
        )
        counts.gain[:] = gains[:, 1, None] * counts.hits[:, None]
        counts.levels[:, 1] = stops[queries] - starts[queries]

    return count


def _label_counter(compiled, relevance, distances, gains):
    """Count with the labels packed like codes: shared labels are ones of both."""
    by_query, by_word = layout(distances.queries, distances.gallery)
    query_labels, gallery_labels = layout(
        pack_codes(relevance.y_queries), pack_codes(relevance.y_gallery)
    )

    def count(queries, counts):
        compiled.count_by_labels(
            by_query[queries],
            by_word,
            query_labels[queries],
            gallery_labels,
            gains,
            counts.totals,
            counts.hits,
            counts.gain,
            counts.levels,
        )

    return count


def _numpy_counter(relevance, distances, gains):
    """Count without compiled loops."""

    def count(queries, counts):
        n_distances = counts.totals.shape[1]
        relevant = relevance.rows(slice(queries[0], queries[-1] + 1))
        for row, (query, (items, shared)) in enumerate(zip(queries, relevant)):
            far = measure(distances.queries[query : query + 1], distances.gallery)[0]
            near = far[items]
            shared = np.ones(len(items), dtype=np.int64) if shared is None else shared
            counts.totals[row] = np.bincount(far, minlength=n_distances)
            counts.hits[row] = np.bincount(near, minlength=n_distances)
            for gain, worth in zip(counts.gain[row], gains):
                gain[:] = np.bincount(near, weights=worth[shared], minlength=n_distances)
            counts.levels[row] = np.bincount(shared, minlength=relevance.n_levels)

    return count


def _take_out(counts, relevance, distances, gains, queries, exclude):
    """Subtract the gallery rows that are not ranked for a query."""
    excluded = [exclude[query] for query in queries]
    n_excluded = [len(items) for items in excluded]
    row = np.repeat(np.arange(len(queries)), n_excluded)
    items = np.concatenate(excluded)
    differing = distances.queries[queries[row]] ^ distances.gallery[items]
    far = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
    shared = relevance.shared(queries[row], items)
    relevant = shared > 0
    counts.n_results -= n_excluded
    np.subtract.at(counts.totals, (row, far), 1)
    np.subtract.at(counts.hits, (row, far), relevant)
    for number, worth in enumerate(gains):
        np.subtract.at(counts.gain[:, number], (row, far), np.where(relevant, worth[shared], 0))
    np.subtract.at(counts.levels, (row[relevant], shared[relevant]), 1)
