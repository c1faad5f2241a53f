"""Storage of rows: in files next to the table, or on a Milvus server. `keeper_of` chooses.

Both keep one promise. Written rows do not exist before the table counts them, and rows past its
count are overwritten. So if a process dies at any moment, the table is right.
"""

import os
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir.collection._segments import (
    Batch,
    RowFormat,
    Segment,
    SegmentRows,
    StoredValues,
    append_rows,
)
from sklearn_cbir.collection._table import Table
from sklearn_cbir.index._hamming import PackedRows
from sklearn_cbir.neighbors import NeighborsRetriever


class Values(Protocol):
    """Encoded rows, read on access: by a slice, or by positions."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: Any) -> NDArray: ...


class RowKeeper(ABC):
    """Interface between a collection and the storage of its rows.

    Parameters
    ----------
    table : Table
        The table, which counts the rows.
    """

    def __init__(self, table: Table) -> None:
        self.table, self.folder = table, table.folder

    @property
    def uri(self) -> str | None:
        """The address of the server that has the rows, if one does."""
        return None

    @abstractmethod
    def append(
        self,
        format: RowFormat,
        segments: list[Segment],
        n_rows: int,
        values: NDArray,
        generation: int,
    ) -> list[Segment]:
        """Write encoded rows after `n_rows` others, for good; return all segments.

        They do not exist before the table counts them.
        """

    @abstractmethod
    def read(self, format: RowFormat, segments: list[Segment], n_rows: int) -> Any:
        """Return the `Values` that the table counts; rows that no photo uses may be missing."""

    @abstractmethod
    def retriever(self, values: Any, format: RowFormat) -> NeighborsRetriever:
        """Return a retriever that searches all values in place."""

    @abstractmethod
    def batch(self, first: int, values: NDArray) -> Batch:
        """Return the batch of one commit, whose first row has that number."""

    @abstractmethod
    def fault(self, batch: Batch, values: Any, has_photo: NDArray[np.bool_] | None) -> str | None:
        """Return what is wrong if rows of a batch that photos use have changed.

        `has_photo` says which rows a photo has; None: all.
        """

    @abstractmethod
    def take_away_leftovers(self) -> None:
        """Delete rows that the table no longer counts; the caller holds the lock."""

    @abstractmethod
    def close(self) -> None:
        """Close open files and connections."""


class FileKeeper(RowKeeper):
    """Rows in files of the collection's folder."""

    def append(self, format, segments, n_rows, values, generation):
        """Write rows into the files and send them to the disk."""
        return append_rows(self.folder, format, segments, n_rows, values, generation)

    def read(self, format, segments, n_rows) -> StoredValues:
        """Return the rows of the files, which are mapped."""
        return StoredValues(self.folder, format, segments, n_rows)

    def retriever(self, values: StoredValues, format):
        """Return a retriever of the mapped rows, or of codes, which are read into memory."""
        if format.kind == "codes":
            codes: Any = PackedRows(values.in_columns(), format.n_features)
            return NeighborsRetriever(metric="hamming", algorithm="exact").fit(codes)
        rows: Any = SegmentRows(values)
        return NeighborsRetriever(algorithm="exact", storage="memory_map").fit(rows)

    def batch(self, first, values):
        """Return a batch with one checksum."""
        return Batch.of(first, values)

    def fault(self, batch, values, has_photo):
        """Compare a batch as a whole: nothing of it is erased."""
        return batch.fault(values)

    def take_away_leftovers(self):
        """Delete files of rows that the table does not name."""
        with self.table.reading():
            named = {segment.name for segment in self.table.segments()}
        for name in os.listdir(self.folder):
            if name.startswith("rows-") and name.endswith(".npy") and name not in named:
                with suppress(OSError):  # Windows does not delete what somebody has mapped
                    os.unlink(os.path.join(self.folder, name))

    def close(self):
        """Leave the files to the rows that are mapped."""
