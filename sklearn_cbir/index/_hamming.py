"""Exact search over packed binary codes under the Hamming distance, in bits."""

import copy

import numpy as np

from sklearn_cbir.codes import HammingDistances, hamming_radius, hamming_top_k, pack_codes


class HammingEngine:
    """Codes of 64-bit words, searched exactly."""

    name = "exact"
    metric = "hamming"
    recall = 1.0

    def build(self, rows):
        """Hold rows of {0, 1} as packed codes."""
        self.rows = self.encode(rows)
        return self

    @property
    def exact(self):
        """The engine that answers exactly."""
        return self

    def __len__(self):
        return len(self.rows)

    def encode(self, rows):
        """Return packed codes, (n, n_words)."""
        return pack_codes(rows)

    def query(self, queries, k):
        """Return differing bits and positions of the `k` nearest codes, both (n_queries, k)."""
        return hamming_top_k(queries, self.rows, k)

    def query_radius(self, queries, radius):
        """Return lists of the distances and positions of all codes within `radius` bits."""
        return hamming_radius(queries, self.rows, radius)

    def distances(self, queries):
        """Return the distances to all codes, computed when they are asked for."""
        return HammingDistances(queries, self.rows)

    def add(self, rows):
        """Return an engine with `rows` appended."""
        return self._with(np.concatenate([self.rows, self.encode(rows)]))

    def remove(self, positions):
        """Return an engine without the codes at `positions`."""
        return self._with(np.delete(self.rows, positions, axis=0))

    def _with(self, rows):
        """Return an engine like this one over other codes."""
        engine = copy.copy(self)
        engine.rows = np.asfortranarray(rows)
        return engine
