"""Exact search over packed binary codes under the Hamming distance, in bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir.codes import (
    HammingDistances,
    hamming_radius,
    hamming_top_k,
    pack_codes,
    unpack_codes,
)
from sklearn_cbir.index._engine import Engine

WORD = 64


class HammingEngine(Engine):
    """Codes of 64-bit words, searched exactly."""

    name = "exact"
    metric = "hamming"
    metrics = ("hamming",)
    pickled = ("rows",)
    rows: NDArray  # packed codes, (n, n_words), word by word in memory

    def __len__(self) -> int:
        return len(self.rows)

    def build(self, rows):
        """Hold packed codes of `rows`, (n, n_bits)."""
        self.rows = self.encode(rows)
        return self

    def encode(self, rows):
        """Return packed codes, (n, n_words)."""
        return pack_codes(rows)

    def decode(self, rows, n_features):
        """Return bits of packed codes, uint8; all of their words if the number is None."""
        return unpack_codes(rows[:], WORD * rows.shape[1] if n_features is None else n_features)

    def query(self, queries, k):
        """Return differing bits and positions of the `k` nearest codes, both (n_queries, k)."""
        return hamming_top_k(queries, self.rows, k)

    def query_radius(self, queries, radii):
        """Return lists of the distances and positions of all codes within each query's radius."""
        radii = np.minimum(np.broadcast_to(radii, len(queries)), WORD * self.rows.shape[1])
        distances: list[Any] = [None] * len(queries)
        positions: list[Any] = [None] * len(queries)
        for radius in np.unique(np.floor(radii)):  # codes differ in whole numbers of bits
            rows = np.flatnonzero(np.floor(radii) == radius)
            found = hamming_radius(queries[rows], self.rows, radius)
            for row, counted, near in zip(rows, *found):
                distances[row], positions[row] = counted, near
        return distances, positions

    def distances(self, queries):
        """Return the distances to all codes, computed when they are asked for."""
        return HammingDistances(queries, self.rows)

    def add(self, rows):
        """Return an engine with `rows` appended; codes are few bytes, word by word in memory."""
        more = self.encode(rows)
        codes = np.empty((len(self) + len(more), more.shape[1]), more.dtype, order="F")
        codes[: len(self)], codes[len(self) :] = self.rows, more
        return self._like(rows=codes)

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        return self._over(np.delete(self.rows, positions, axis=0))

    def _left_in(self, row_filter):
        """Return an engine over copies of the codes that a filter leaves in."""
        return self._over(self.rows[row_filter.positions])

    def _over(self, rows):
        """Return an engine like this one over other codes."""
        return self._like(rows=np.asfortranarray(rows))
