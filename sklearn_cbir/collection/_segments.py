"""Rows on the disk: segments of a fixed number of rows, filled one after the other.

A segment is a ``.npy`` file that has its final header and length from the beginning, so that numpy
reads it as it is. Rows are written and sent to the disk, never through a mapping: a full disk is an
error there, and a signal that ends the process here. How many rows there are stands in the table;
what is past them is whatever a process that died has left.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir.codes import pack_codes, unpack_codes
from sklearn_cbir.index._norms import l2_normalize
from sklearn_cbir.index._stored import UNIT_FACTOR, HalfRows, RowStore, rows_in_cache

ROWS_AT_LEAST, ROWS_AT_MOST = 2**12, 2**16  # of a segment; it grows with what is there
ROWS_AT_ONCE = 2**12  # that are copied
SIGN_AND_HALF = np.int32(-(2**31) + (2**28 - 2**13))  # bits of float32 that a half can have


class Segment(NamedTuple):
    """A file of rows."""

    name: str  # in the folder of the collection
    first: int  # number of its first row
    capacity: int  # rows that fit

    @property
    def end(self) -> int:
        """Number behind that of its last row."""
        return self.first + self.capacity


class Batch(NamedTuple):
    """Rows that were committed at once."""

    first: int
    n_rows: int
    checksum: bytes

    @classmethod
    def of(cls, first: int, values: NDArray) -> "Batch":
        """Return the batch of encoded rows, the first of which has that number."""
        return cls(first, len(values), checksum(values))

    def fault(self, values: Any) -> str | None:
        """Return what is wrong if these rows, of all, have changed since they were written."""
        end = self.first + self.n_rows
        if values is not None and checksum(values[self.first : end]) == self.checksum:
            return None
        return f"rows {self.first:,} to {end - 1:,} have changed since they were written"


class RowFormat(NamedTuple):
    """How rows are stored, for good; it follows from what the extractor gives."""

    kind: str  # "float16", "float32" or "codes"
    n_features: int  # numbers, or bits, of a row as the extractor gives it

    @classmethod
    def of(cls, rows: NDArray, dtype: str) -> "RowFormat":
        """Return how rows of an extractor are stored; codes of {0, 1} are uint8 or bool."""
        kind = "codes" if rows.dtype.kind in "bu" else dtype
        return cls(kind, rows.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers in the file."""
        return np.dtype({"float16": "<f2", "float32": "<f4", "codes": "<u8"}[self.kind])

    @property
    def n_columns(self) -> int:
        """Numbers of a row in the file: of codes, words of 64 bits."""
        return -(-self.n_features // 64) if self.kind == "codes" else self.n_features

    @property
    def metric(self) -> Literal["hamming", "cosine"]:
        """The distance between rows."""
        return "hamming" if self.kind == "codes" else "cosine"

    def encoded(self, rows: NDArray) -> NDArray:
        """Return rows of the extractor as they are stored, (n, n_columns)."""
        if self.kind == "codes":
            return np.ascontiguousarray(pack_codes(rows), dtype=self.dtype)
        rows = np.asarray(rows, dtype=np.float32)
        if self.kind == "float16":
            return HalfRows(rows, unit=True).values.astype(self.dtype, copy=False)
        return l2_normalize(rows).astype(self.dtype, copy=False)

    def decoded(self, values: NDArray) -> NDArray:
        """Return rows of a file as codes, uint8, or as floats of unit length."""
        if self.kind == "codes":
            return unpack_codes(values.astype(np.uint64), self.n_features)
        rows = values.astype(np.float32)
        if self.kind == "float16":
            rows *= np.float32(1 / UNIT_FACTOR)
        return rows

    def header(self, capacity: int) -> bytes:
        """Return the header of a segment."""
        file = io.BytesIO()
        about = {"descr": self.dtype.str, "fortran_order": False}
        about["shape"] = (capacity, self.n_columns)
        np.lib.format.write_array_header_1_0(file, about)
        return file.getvalue()

    def row_bytes(self) -> int:
        """Return the bytes of a row in the file."""
        return self.n_columns * self.dtype.itemsize


def new_segment(number: int, first: int, generation: int) -> Segment:
    """Return the segment that comes behind `first` rows, whose file is not there yet."""
    capacity = min(max(ROWS_AT_LEAST, first), ROWS_AT_MOST)
    return Segment(f"rows-{generation:04d}-{number:04d}.npy", first, capacity)


# Writing -----------------------------------------------------------------------------------------


def append_rows(
    folder: str,
    format: RowFormat,
    segments: list[Segment],
    n_rows: int,
    values: NDArray,
    generation: int,
) -> list[Segment]:
    """Write encoded rows behind `n_rows` others and send them to the disk; return all segments.

    They do not exist yet: the table has to count them.
    """
    segments, end = list(segments), n_rows + len(values)
    while not segments or segments[-1].end < end:
        first = segments[-1].end if segments else 0
        segments.append(new_segment(len(segments), first, generation))
        _make_segment(os.path.join(folder, segments[-1].name), format, segments[-1].capacity)
    for segment in segments:
        start, stop = max(n_rows, segment.first), min(end, segment.end)
        if start < stop:
            path = os.path.join(folder, segment.name)
            header = len(format.header(segment.capacity))
            place = header + (start - segment.first) * format.row_bytes()
            _write(path, place, values[start - n_rows : stop - n_rows].tobytes())
    return segments


def _make_segment(path: str, format: RowFormat, capacity: int) -> None:
    """Make the file of a segment; one that the table does not know may be in its place."""
    header = format.header(capacity)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with _naming(path):
            _write_all(file, header)
            os.ftruncate(file, len(header) + capacity * format.row_bytes())
            os.fsync(file)
    finally:
        os.close(file)
    sync_folder(os.path.dirname(path))


def _write(path: str, place: int, content: bytes) -> None:
    file = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.lseek(file, place, os.SEEK_SET)
        with _naming(path):
            _write_all(file, content)
            os.fsync(file)
    finally:
        os.close(file)


def _write_all(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Have an error, such as that of a full disk, name the file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def sync_folder(folder: str) -> None:
    """Have the disk know which files are in a folder."""
    with suppress(OSError):  # not every system opens folders
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


# Reading -----------------------------------------------------------------------------------------


def open_segment(folder: str, format: RowFormat, segment: Segment) -> NDArray:
    """Return the memory map of a segment, (capacity, n_columns), if the file is what it was."""
    path = os.path.join(folder, segment.name)
    header = format.header(segment.capacity)
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            found = file.read(len(header))
        if size != len(header) + segment.capacity * format.row_bytes() or found != header:
            raise damaged(
                folder, f"{segment.name} has another size or another beginning than before"
            )
        return np.load(path, mmap_mode="r").view(np.ndarray)
    except FileNotFoundError:
        raise SegmentGoneError(*damaged(folder, f"{segment.name} is missing").args) from None


def checksum(values: NDArray) -> bytes:
    """Return the checksum of encoded rows."""
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).digest()


def damaged(folder: str, what: str) -> ValueError:
    """Return the error for a collection that is not as it was committed."""
    return ValueError(
        f"The collection in {folder!r} is damaged: {what}. Put back a copy of the whole folder, "
        "or delete it and create the collection again; your photos stay unchanged."
    )


def not_of_photos(folder: str) -> ValueError:
    """Return the error for rows that were found and have no photo."""
    return damaged(folder, "rows belong to other photos than before")


class SegmentGoneError(ValueError):
    """A file of rows is not there: a compaction of another process took it away, or who knows."""


class StoredValues:
    """The encoded rows of a collection, as they are in its files: read where they are asked for."""

    def __init__(self, folder: str, format: RowFormat, segments: list[Segment], n_rows: int):
        self.format = format
        self.shape, self.dtype = (n_rows, format.n_columns), format.dtype
        self.firsts = np.array([segment.first for segment in segments], dtype=np.int64)
        self.maps = [open_segment(folder, format, segment) for segment in segments]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: Any) -> NDArray:
        if isinstance(part, slice):
            return self._between(*part.indices(len(self))[:2])
        values = np.empty((len(part), self.shape[1]), self.dtype)
        of = self.firsts.searchsorted(part, side="right") - 1
        for number in np.unique(of):
            here = of == number
            values[here] = self.maps[number][part[here] - self.firsts[number]]
        return values

    def pieces(self, start: int, stop: int, n: int) -> Iterator[tuple[int, NDArray]]:
        """Yield rows from `start` to before `stop` as views of at most `n`, behind their first."""
        for first, rows in zip(self.firsts.tolist(), self.maps):
            end = min(first + len(rows), stop)
            for at in range(max(start, first), end, n):
                yield at, rows[at - first : min(at + n, end) - first]

    def in_columns(self) -> NDArray:
        """Return a copy of all rows, column by column, in the byte order of this machine."""
        copy = np.empty(self.shape, self.dtype.newbyteorder("="), order="F")
        for first, rows in self.pieces(0, len(self), ROWS_AT_ONCE):
            copy[first : first + len(rows)] = rows
        return copy

    def _between(self, start: int, stop: int) -> NDArray:
        """Return the rows from `start` to before `stop`, as a view if one segment has them."""
        parts = [rows for _, rows in self.pieces(start, stop, max(1, stop - start))]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, self.shape[1]), self.dtype), *parts])


class SegmentRows(RowStore):
    """Rows of unit length in segments, as engines read them: float32, some of them left out."""

    dtype = np.dtype(np.float32)
    peak = 1.0  # what was stored was finite, and made so long
    is_unit = True

    def __init__(self, values: StoredValues, positions: NDArray[np.int64] | None = None) -> None:
        self.values, self.positions = values, positions
        self.rounds = values.format.kind == "float16"

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self), self.values.shape[1]

    def __len__(self) -> int:
        return len(self.values) if self.positions is None else len(self.positions)

    def __getitem__(self, part: Any) -> NDArray[np.float32]:
        found = self.values[part if self.positions is None else self.positions[part]]
        return self.values.format.decoded(found)

    def stream(self, start: int, stop: int) -> Iterator[tuple[int, NDArray]]:
        """Yield rows in blocks that caches hold; those in half precision times a power of two."""
        if self.positions is not None:
            yield from super().stream(start, stop)
            return
        step = rows_in_cache(self.shape[1])
        memory = np.empty((step, self.shape[1]), np.int32)
        for first, values in self.values.pieces(start, stop, step):
            yield first, widened(values, memory[: len(values)]) if self.rounds else values

    def rounded(self, rows: NDArray) -> NDArray[np.float32]:
        """Return rows as they would be read if they were stored."""
        return HalfRows(rows, unit=True)[:]

    def remove(self, positions: NDArray) -> "SegmentRows":
        """Return a store without the rows at `positions`; nothing is read."""
        held = np.arange(len(self)) if self.positions is None else self.positions
        return SegmentRows(self.values, np.delete(held, positions))

    def add(self, rows: NDArray) -> HalfRows:
        """Return a store of these rows and others, in memory and in half precision."""
        return HalfRows(np.concatenate([self[:], rows]), unit=True)


def widened(values: NDArray[np.float16], memory: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return finite numbers of half precision as float32, in `memory`, some times as fast as numpy.

    The bits move to where float32 has them: the sign, 5 of 8 of the exponent, and the fraction.
    The exponent of a half is less by 15 and that of float32 by 127.
    """
    np.copyto(memory, values.view("<i2"))  # the sign fills what is above
    np.left_shift(memory, 13, out=memory)
    np.bitwise_and(memory, SIGN_AND_HALF, out=memory)
    floats = memory.view(np.float32)
    return np.multiply(floats, np.float32(2.0 ** (127 - 15)), out=floats)


def distances_from(row: NDArray, rows: NDArray, metric: str) -> NDArray:
    """Return the distances of one row from others, all decoded."""
    if metric == "hamming":
        return np.count_nonzero(row != rows, axis=1)
    difference = l2_normalize(rows.astype(np.float64)) - l2_normalize(row[None].astype(np.float64))
    return np.vecdot(difference, difference) / 2
