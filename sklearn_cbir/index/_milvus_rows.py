"""Reading a gallery on a server: its rows in blocks, or only the nearest of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir.index._milvus_collection import WORD, Collection


class FirstResults:
    """Distances for metrics of the first `k` results; all others are infinite."""

    block_size = None

    def __init__(self, engine, k):
        self.engine, self.k = engine, k

    def __len__(self):
        return len(self.engine)

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def distances(self, queries):
        """Return the distances up to the k-th nearest row and all that tie with it."""
        distances = np.full((len(queries), len(self)), np.inf)
        for row, found in enumerate(self.engine.up_to_kth(queries, self.k, ties=True)):
            values, positions = found
            near = values <= np.partition(values, self.k - 1)[self.k - 1]
            distances[row, positions[near]] = values[near]
        return distances


class ServerRows:
    """The rows of an engine, read when they are sliced."""

    ndim = 2

    def __init__(self, engine):
        self._engine = engine
        is_code = engine.metric == "hamming"
        self.dtype = np.dtype(np.uint64 if is_code else np.float32)
        width = engine.collection.width
        self.shape = len(engine), -(-width // WORD) if is_code else width

    @property
    def row_keys(self):
        """One 64-bit key per row, as `row_keys` would make it."""
        return self._engine.comparable_hashes

    def __len__(self):
        return len(self._engine)

    def __getitem__(self, rows):
        positions = np.arange(len(self))[rows]
        found = np.empty((positions.size, self.shape[1]), dtype=self.dtype)
        engine = self._engine
        engine._ready()
        step = engine.collection.rows_per_read
        flat = positions.ravel()
        for start in range(0, len(flat), step):
            part = flat[start : start + step]
            unique, place = np.unique(part, return_inverse=True)
            found[start : start + step] = engine.read(unique)[place]
        return found.reshape(*positions.shape, self.shape[1])

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype=dtype)


class KeptRows:
    """Rows that a collection has already, and that somebody else keeps: under the keys from 0 on.

    They are encoded: floats of unit length, or packed codes. A retriever with
    ``algorithm="milvus"`` takes them in the place of rows, and neither writes nor erases any.

    Parameters
    ----------
    collection : Collection
        What has the rows, and perhaps others.

    row_hashes : ndarray of shape (n,), uint64
        The hash of every row, as `row_keys` makes it. Those of rows that nobody asks for may be
        missing in the collection.
    """

    def __init__(self, collection: Collection, row_hashes: NDArray[np.uint64]) -> None:
        self.collection, self.row_hashes = collection, row_hashes
        self.shape = len(row_hashes), collection.width

    def __len__(self) -> int:
        return len(self.row_hashes)

    def __getitem__(self, part: Any) -> NDArray:
        """Return rows at a slice, or at positions, each of which must be there."""
        keys, place = np.unique(np.arange(len(self))[part], return_inverse=True)
        return self.read(keys)[place]

    def read(self, keys: NDArray[np.int64]) -> NDArray:
        """Return the rows of ascending keys."""
        step = self.collection.rows_per_read
        parts = [keys[start : start + step] for start in range(0, max(1, len(keys)), step)]
        found = [self.collection.read(part) for part in parts]
        n_lost = len(keys) - sum(len(there) for there, _ in found)
        if n_lost:
            raise RuntimeError(
                f"{n_lost} rows are no longer in the collection {self.collection.name!r} of "
                f"{self.collection.uri}: something else has erased them."
            )
        return np.concatenate([rows for _, rows in found])
