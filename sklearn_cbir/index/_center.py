"""Rows far from the origin: centered on their mean, because a product would lose distances."""

import numpy as np

from sklearn_cbir.index._rows import row_blocks

# Rows are far if the square of their mean is so many times that of their spread.
FAR = 16
ROWS_AT_ONCE = 2**12


class Center:
    """The mean of rows, in their type, and how far the furthest of them is.

    A row less the mean is as exact as the row, where both are of one size: distances stay.
    """

    def __init__(self, rows, mean):
        self.mean = mean.astype(rows.dtype)
        self.reach = max(
            np.sqrt(np.vecdot(near, near).max()) for _, near in self._blocks(rows, np.float64)
        )

    @classmethod
    def of(cls, rows):
        """Return the center of rows that are far from the origin; None of others."""
        total, squares = np.zeros(rows.shape[1]), 0.0
        for part in _parts(rows):
            block = rows[part].astype(np.float64)
            total += block.sum(axis=0)
            squares += np.vecdot(block, block).sum()
        mean = total / len(rows)
        square = mean @ mean
        if not square > FAR * (squares / len(rows) - square):
            return None
        return cls(rows, mean)

    def similarities(self, rows, queries):
        """Return queries seen from here, and q.g - |g|^2 / 2 with all rows, (n_queries, n)."""
        queries = queries - self.mean
        found = np.empty((len(queries), len(rows)), dtype=rows.dtype)
        for part, near in self._blocks(rows, rows.dtype):
            found[:, part] = queries @ near.T - np.vecdot(near, near) / 2
        return queries, found

    def _blocks(self, rows, dtype):
        for part in _parts(rows):
            yield part, rows[part].astype(dtype) - self.mean


def _parts(rows):
    return row_blocks(*rows.shape, itemsize=32, largest=ROWS_AT_ONCE)
