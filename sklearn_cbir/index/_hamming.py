"""Exact search over packed binary codes under the Hamming distance, in bits."""

import numpy as np

from sklearn_cbir.codes import HammingDistances, hamming_radius, hamming_top_k, pack_codes
from sklearn_cbir.index._every_row import EveryRow

WORD = 64


class HammingEngine(EveryRow):
    """Codes of 64-bit words, searched exactly."""

    metric = "hamming"

    def encode(self, rows):
        """Return packed codes, (n, n_words)."""
        return pack_codes(rows)

    def query(self, queries, k):
        """Return differing bits and positions of the `k` nearest codes, both (n_queries, k)."""
        return hamming_top_k(queries, self.rows, k)

    def query_radius(self, queries, radii):
        """Return lists of the distances and positions of all codes within each query's radius."""
        radii = np.minimum(np.broadcast_to(radii, len(queries)), WORD * self.rows.shape[1])
        found = [[None] * len(queries), [None] * len(queries)]
        for radius in np.unique(np.floor(radii)):  # codes differ in whole numbers of bits
            rows = np.flatnonzero(np.floor(radii) == radius)
            for row, *result in zip(rows, *hamming_radius(queries[rows], self.rows, radius)):
                found[0][row], found[1][row] = result
        return found

    def distances(self, queries):
        """Return the distances to all codes, computed when they are asked for."""
        return HammingDistances(queries, self.rows)

    def add(self, rows):
        """Return an engine with `rows` appended; codes are few bytes, word by word in memory."""
        more = self.encode(rows)
        codes = np.empty((len(self) + len(more), more.shape[1]), more.dtype, order="F")
        codes[: len(self)], codes[len(self) :] = self.rows, more
        return self._with(codes)

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        return self._with(np.delete(self.rows, positions, axis=0))

    def _with(self, rows):
        """Return an engine like this one over other codes, word by word in memory."""
        return super()._with(np.asfortranarray(rows))
