"""How many codes, relevant or not, lie at every Hamming distance of a query: no matrix, no sort."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sklearn_cbir._typing import Floats, Positions
from sklearn_cbir.codes import HammingDistances, pack_codes
from sklearn_cbir.codes._search import WORD, kernels, layout, measure, run_in_threads
from sklearn_cbir.metrics._relevance import Relevance

CODES_AT_ONCE = 1024  # queries whose counts are held at once


@dataclass
class Counts:
    """Counts of a block of queries by distance, (n_queries, n_distances) unless said otherwise."""

    totals: np.ndarray
    hits: np.ndarray  # relevant items
    gain: np.ndarray | None  # sum of their gains; None: one per relevant item
    levels: np.ndarray  # (n_queries, n_levels): relevant items that share 0, 1, 2, ... labels
    n_results: np.ndarray  # (n_queries,): items that were ranked

    def part(self, rows):
        """Return the counts of some of the queries, sharing memory."""
        gain = None if self.gain is None else self.gain[rows]
        return Counts(
            self.totals[rows], self.hits[rows], gain, self.levels[rows], self.n_results[rows]
        )


def count_codes(
    relevance: Relevance,
    distances: HammingDistances,
    gains: Floats | None,
    exclude: list[Positions] | None,
) -> Iterator[Counts]:
    """Yield the `Counts` of one block of queries after the other.

    `distances` are `HammingDistances`; `gains` and `exclude` are as in `tie_groups`.
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
            gain=None if gains is None else np.zeros(shape),
            levels=np.zeros((len(queries), relevance.n_levels), dtype=np.int64),
            n_results=np.full(len(queries), n_gallery),
        )
        _fill(count, queries, counts, n_gallery)
        if exclude is not None:
            _take_out(counts, relevance, distances, gains, queries, exclude)
        if distances.on_read is not None:
            distances.on_read(len(queries))
        yield counts


def _fill(count, queries, counts, n_gallery):
    """Fill the counts of a block."""
    run_in_threads(lambda rows: count(queries[rows], counts.part(rows)), (len(queries), n_gallery))


def _counter(relevance, distances, gains):
    """Return a function that fills the `Counts` of some queries."""
    compiled = kernels()
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
        if gains is not None:
            counts.gain[:] = gains[1] * counts.hits
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
            np.zeros(relevance.n_levels) if gains is None else gains,
            counts.totals,
            counts.hits,
            np.zeros(counts.totals.shape) if gains is None else counts.gain,
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
            if gains is not None:
                counts.gain[row] = np.bincount(near, weights=gains[shared], minlength=n_distances)
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
    if gains is not None:
        np.subtract.at(counts.gain, (row, far), np.where(relevant, gains[shared], 0))
    np.subtract.at(counts.levels, (row[relevant], shared[relevant]), 1)
