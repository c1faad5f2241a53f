"""Exact search over packed binary codes under the Hamming distance, in bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._typing import PackedCodes, Positions
from sklearn_cbir.codes import (
    HammingDistances,
    hamming_radius,
    hamming_top_k,
    pack_codes,
    unpack_codes,
)
from sklearn_cbir.codes._search import codes_within, nearest_codes
from sklearn_cbir.index._engine import Engine
from sklearn_cbir.index._left_in import Filtered

WORD = 64


class PackedRows:
    """Codes that are packed already, which a retriever takes in the place of rows.

    Parameters
    ----------
    codes : ndarray of shape (n, n_words), uint64
        Packed codes, as `pack_codes` makes them. They are not copied.

    n_bits : int
        Bits of a code.
    """

    def __init__(self, codes: PackedCodes, n_bits: int) -> None:
        self.codes, self.shape = codes, (len(codes), n_bits)

    def __len__(self) -> int:
        return len(self.codes)


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
        """Hold packed codes of `rows`, (n, n_bits), or those that are given."""
        self.rows = rows.codes if isinstance(rows, PackedRows) else self.encode(rows)
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
            found = self._within(queries[rows], radius)
            for row, counted, near in zip(rows, *found):
                distances[row], positions[row] = counted, near
        return distances, positions

    def _within(self, queries, radius):
        """Return lists of the distances and positions of all codes within one radius."""
        return hamming_radius(queries, self.rows, radius)

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

    def masked(self, mask):
        """Return the codes with a mask, which is read only where a code is near."""
        return MaskedCodes(self.rows, mask)

    def _left_in(self, row_filter):
        """Return an engine over the codes that a filter leaves in."""
        return FilteredHammingEngine.of(self, row_filter)

    def _over(self, rows):
        """Return an engine like this one over other codes."""
        return self._like(rows=np.asfortranarray(rows))


class MaskedCodes:
    """Codes of which a query may find those of a mask."""

    def __init__(self, rows: PackedCodes, mask: NDArray[np.bool_]) -> None:
        self.rows, self.mask = rows, mask

    def __len__(self) -> int:
        return len(self.rows)

    def query(self, queries: PackedCodes, k: int) -> tuple[NDArray, Positions]:
        """Return differing bits and positions of the `k` nearest codes, both (n_queries, k)."""
        return nearest_codes(queries, self.rows, k, self.mask)


class FilteredHammingEngine(Filtered, HammingEngine):
    """Codes of another engine that a filter leaves in.

    Few queries are compared with all codes, of which the loops leave the others out bit by bit.
    """

    queries_per_copy = 30
    queries_to_list = 2
    bytes_to_keep = np.inf  # codes are small

    def query(self, queries, k):
        """Return differing bits and numbers of the `k` nearest codes, both (n_queries, k)."""
        self._keep_if_it_pays(len(queries))
        if self.is_kept:
            return super().query(queries, k)
        distances, positions = nearest_codes(queries, self.whole.rows, k, self.row_filter.words)
        return distances, self.row_filter.numbers(positions)

    def _within(self, queries, radius):
        """Return lists of the distances and numbers of all codes within one radius."""
        self._keep_if_it_pays(len(queries))
        if self.is_kept:
            return super()._within(queries, radius)
        words = self.row_filter.words
        distances, positions = codes_within(queries, self.whole.rows, radius, words)
        return distances, [self.row_filter.numbers(found) for found in positions]

    def distances(self, queries):
        """Return the distances to all codes that are left in."""
        if not self.is_kept:
            self._keep()
        return super().distances(queries)

    def _keep(self):
        """Copy the codes for good, word by word."""
        self.rows = np.asfortranarray(self.rows[:])
        self.is_kept = True
