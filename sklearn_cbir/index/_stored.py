"""Exact search over rows that are not held as they are compared: in half precision, in a file."""

import hashlib
import mmap
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array

from sklearn_cbir._kinds import Kept
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.index._checking import check_finite
from sklearn_cbir.index._engine import derived, remembered
from sklearn_cbir.index._exact import (
    FEW_QUERIES,
    CosineEngine,
    EuclideanEngine,
    ExactEngine,
)
from sklearn_cbir.index._growing import append, delete, with_room
from sklearn_cbir.index._norms import is_zero, l2_normalize, row_max_abs, row_norms
from sklearn_cbir.index._picking import finfo
from sklearn_cbir.index._rows import row_blocks

ROWS_AT_ONCE = 2**14
BYTES_AT_ONCE = 2**25  # of rows as they are compared
NUMBERS_IN_CACHE = 2**18  # of rows that are converted, and used while they are there
# Where the largest number of a gallery is put: 16 times larger ones still fit into half precision.
HALF_EXPONENT = 12
NUMBERS = "buif"  # kinds of types that a file may hold
HALF_MAX = float(np.finfo(np.float16).max)
# How far the numbers of one row may differ, relatively, by the order in which they are added up.
ROUNDING = 1e-3


class StoredRows(ABC):
    """Rows as they are compared, computed on access; it replaces an array of them."""

    ndim = 2
    lock = ProcessLock()  # held while norms are computed

    def __init__(self, store, scale):
        self.store, self.scale = store, scale
        self.shape, self.dtype = store.shape, store.dtype
        self.itemsize = self.dtype.itemsize

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, part):
        if isinstance(part, slice):
            return self.compared(self.store[part], part)
        positions = np.asarray(part)
        if positions.dtype == bool:
            positions = np.flatnonzero(positions)
        found = self._checked(positions.ravel())
        return found.reshape(*positions.shape, self.shape[1])

    @abstractmethod
    def norms_of(self, rows: NDArray) -> NDArray:
        """Return numbers that are computed once per row of the store, (n_numbers, n)."""

    @abstractmethod
    def compared(self, rows: NDArray, part: Any) -> NDArray:
        """Turn rows of the store, which are `part` of it, into those that are compared."""

    def read(self, positions):
        """Return the rows at many positions, which are not looked at twice, as slices are not."""
        return self.compared(self.store[positions], positions)

    def take(self, positions, axis):
        """Return the rows at `positions`, as an array's `take` along `axis` 0 does."""
        if axis != 0:
            raise ValueError(f"axis={axis!r}: stored rows are taken along axis 0 only.")
        return self[positions]

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    @remembered
    def norms(self):
        """What is computed once per row, (n_numbers, n)."""
        parts = stored_blocks(self.store)
        return np.concatenate([self.norms_of(self.store[part]) for part in parts], axis=1)

    def _checked(self, positions):
        """Return single rows, few enough to look at twice: an answer is measured on them."""
        rows = self.store[positions]
        if self.store.may_change:
            norms = self.norms_of(rows.copy())
            if not np.allclose(norms, self.norms[:, positions], rtol=ROUNDING, atol=0):
                raise self.store.changed()
        return self.compared(rows, positions)


class UnitRows(StoredRows):
    """Rows of norm 1: the factors that make them so are kept, and which rows are zero."""

    def norms_of(self, rows):
        """Return the largest number of every row, the norm of the rest, and whether it is zero."""
        largest = row_max_abs(rows)
        return np.hstack([largest, row_norms(rows / largest), ~rows.any(axis=1, keepdims=True)]).T

    def compared(self, rows, part):
        """Make rows of the store unit rows, in place."""
        largest, norm, _ = self.norms_of(rows) if self.store.is_unit else self.norms[:, part]
        rows /= largest[:, None]
        rows /= norm[:, None]
        return rows


class ScaledRows(StoredRows):
    """Rows times a power of two; half their squared norms are kept."""

    def norms_of(self, rows):
        """Return half the squared norm of every row."""
        rows = self.compared(rows, None)
        return np.einsum("ij,ij->i", rows, rows)[None] / 2

    def compared(self, rows, part):
        """Scale rows of the store, in place."""
        if self.scale != 1:
            rows *= rows.dtype.type(self.scale)
        return rows


class RowStore(ABC):
    """Where rows are that are read block by block: floats, as a slice or positions ask for them.

    A retriever whose `storage` reads its rows takes one of these in the place of rows.
    """

    dtype: np.dtype  # of the rows as they are read
    rounds: bool = False  # whether rows are rounded when they are stored
    may_change: bool = False  # whether somebody else may write what is read
    peak: float | None = None  # no number is larger in size, and all are finite; None: not known
    # Whether rows have norm 1, as nearly as their type holds it: then norms are computed of what is
    # read, and rows need not be read to be known.
    is_unit: bool = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def __getitem__(self, part: Any) -> NDArray:
        """Return a copy of some rows."""

    def stream(self, start: int, stop: int) -> Iterator[tuple[int, NDArray]]:
        """Yield rows in blocks that caches hold, behind the position of the first of each.

        All may be times one positive number, and the next block may overwrite the memory of one.
        """
        step = rows_in_cache(self.shape[1])
        for first in range(start, stop, step):
            yield first, self[first : min(first + step, stop)]

    @abstractmethod
    def add(self, rows: NDArray) -> "RowStore":
        """Return a store with `rows` appended."""

    @abstractmethod
    def remove(self, positions: NDArray) -> "RowStore":
        """Return a store without the rows at `positions`."""


def rows_in_cache(n_features: int) -> int:
    """Return how many rows are converted before they are used."""
    return max(1, NUMBERS_IN_CACHE // n_features)


class StoredEngine(ExactEngine):
    """The common part of exact engines that read their rows block by block."""

    storages = ("float16", "memory_map")
    pickled = ("store", "scale")
    in_memory = False
    row_class: type[StoredRows] = UnitRows  # of the rows as they are compared
    rows: Any  # of this class

    def build(self, rows):
        """Hold rows in half precision, or a store of them, whose numbers are checked here."""
        is_store = isinstance(rows, RowStore)
        store = rows if is_store else HalfRows(rows, unit=self.metric == "cosine")
        self._fit_range(_peak(store) if store.peak is None else store.peak)
        return self._hold(store)

    def __setstate__(self, state):
        super().__setstate__(state)
        self._hold(self.store)

    def relocate(self, place):
        """Return an engine whose file is in another place."""
        if not isinstance(self.store, RowFile):
            return None
        return self._with_store(self.store.at(place), lambda norms, _: norms)

    def as_held(self, queries):
        """Return queries as they would be if they were rows of the gallery."""
        if not self.store.rounds:
            return queries
        scale = queries.dtype.type(self.scale)
        return self.encode(self.store.rounded(queries / scale))

    def add(self, rows):
        """Return an engine with `rows` appended."""

        def longer(norms, new):
            more = new.norms_of(new.store[len(self) :])
            return np.concatenate([norms, more], axis=1)

        return self._with_store(self.store.add(rows), longer)

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        return self._with_store(
            self.store.remove(positions), lambda norms, _: np.delete(norms, positions, axis=1)
        )

    def _tile(self, n_queries):
        """Return how many rows are compared at once."""
        at_most = BYTES_AT_ONCE // (self.rows.shape[1] * self.rows.itemsize)
        return max(1, min(super()._tile(n_queries), at_most))

    def _hold(self, store):
        self.store, self.rows = store, self.row_class(store, self.scale)
        return self

    def _with_store(self, store, norms_after):
        """Return an engine over another store; known norms become ``norms_after(norms, rows)``."""
        engine = self._like()._hold(store)
        if "norms" in vars(self.rows):
            engine.rows.norms = norms_after(self.rows.norms, engine.rows)
        return engine


class StoredCosineEngine(StoredEngine, CosineEngine):
    """Stored rows under the cosine distance."""

    @derived
    def _is_zero(self) -> NDArray:
        return self.rows.norms[2] > 0

    def _are_zero(self, positions):
        if self.store.is_unit:
            return is_zero(self.store[positions])
        return super()._are_zero(positions)

    def _error(self, queries):
        if not self.store.is_unit:
            return super()._error(queries)
        eps = float(finfo(self.rows.dtype).eps)  # and once more for a norm of its own
        return np.full(len(queries), (3 * self.rows.shape[1] + 16) * eps)

    def _product(self, queries, part, memory=None):
        """Return products of queries and a slice of the rows, (n_queries, n_rows).

        Those of rows of nearly norm 1 are divided by the norm, without unit rows being made.
        """
        if not (self.store.is_unit and isinstance(self.rows, StoredRows)):
            return super()._product(queries, part, memory)
        start, stop, _ = part.indices(len(self))
        n_queries, n = len(queries), stop - start
        if memory is None:
            memory = np.empty(n_queries * n, dtype=self.rows.dtype)
        products = memory[: n_queries * n].reshape(n_queries, n)
        for first, rows in self.store.stream(start, stop):
            out = products[:, first - start : first - start + len(rows)]
            if n_queries <= FEW_QUERIES:
                np.matmul(rows, queries.T, out=out.T)
            else:
                np.matmul(queries, rows.T, out=out)
            norms = np.sqrt(np.vecdot(rows, rows))
            out /= np.where(norms > 0, norms, 1)
        return products


class StoredEuclideanEngine(StoredEngine, EuclideanEngine):
    """Stored rows under the Euclidean distance."""

    row_class = ScaledRows

    @derived
    def _half_squares(self) -> NDArray:
        return self.rows.norms[0]


class HalfRows(Kept, RowStore):
    """Rows in half precision, which are float32 when they are read."""

    dtype = np.dtype(np.float32)
    rounds = True

    def __init__(self, rows, *, unit):
        self.unit = unit
        self.factor = _half_factor(1.0 if unit else float(max(rows.max(), -rows.min())))
        self.values, self._room = with_room(rows.shape, np.float16)
        self._halve(rows, self.values)

    @classmethod
    def of_unit_values(cls, values: NDArray[np.float16]) -> "HalfRows":
        """Return the store whose `values` these are, of rows of unit length."""
        store = object.__new__(cls)
        store.unit, store.factor, store.values, store._room = True, UNIT_FACTOR, values, None
        return store

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    @property
    def shape(self):
        """Number of rows and of columns."""
        return self.values.shape

    def __len__(self):
        return len(self.values)

    def __getitem__(self, part):
        rows = self.values[part].astype(np.float32)
        rows *= np.float32(1 / self.factor)
        return rows

    def rounded(self, rows):
        """Return rows as they would be read if they were stored."""
        return self._with(self._halved(rows), None)[:]

    def add(self, rows):
        """Return a store with `rows` appended."""
        room = vars(self).get("_room")
        return self._with(*append(self.values, self._halved(rows), room))

    def remove(self, positions):
        """Return a store without the rows at `positions`."""
        return self._with(*delete(self.values, positions))

    def _halved(self, rows):
        return self._halve(rows, np.empty(rows.shape, dtype=np.float16))

    def _halve(self, rows, values):
        """Write rows into `values`, in half precision."""
        for part in row_blocks(*rows.shape, itemsize=32, largest=ROWS_AT_ONCE):
            block = l2_normalize(rows[part]) if self.unit else rows[part]
            scaled = np.multiply(block, self.factor, dtype=np.float64)
            if np.abs(scaled).max() > HALF_MAX:
                raise ValueError(
                    f"X holds {np.abs(block).max():.3g}, more than half precision can store in "
                    f"this gallery: {HALF_MAX / self.factor:.3g}. Fit again with all rows."
                )
            values[part] = scaled
        return values

    def _with(self, values, room):
        store = object.__new__(HalfRows)
        store.unit, store.factor, store.values, store._room = self.unit, self.factor, values, room
        return store


def _half_factor(peak: float) -> float:
    """Return what rows are multiplied by in half precision, if no number is larger in size."""
    exponent = HALF_EXPONENT - int(np.frexp(peak)[1]) if peak > 0 else 0
    return 2.0 ** min(exponent, 140)  # its inverse is a float32


UNIT_FACTOR = _half_factor(1.0)


class ChangedError(OSError):
    """The content of a file has changed."""


# What is met where a file has been, if it is elsewhere now.
ELSEWHERE = FileNotFoundError, PermissionError, ChangedError


class RowFile(Kept, RowStore):
    """Rows of a file that are read when they are asked for, some left out, new ones behind them.

    What is pickled is where they are and how to know them again, never the rows of the file.
    """

    may_change = True
    _rooms: tuple  # behind `numbers` and `added`, for more
    order: Literal["C", "F"]

    def __init__(self, array):
        self.path = os.path.abspath(array.filename)
        self.offset, self.file_dtype, self.file_shape = array.offset, array.dtype.str, array.shape
        self.order = "C" if array.flags.c_contiguous else "F"
        self.size = os.stat(self.path).st_size
        self.modified = self._status().st_mtime_ns
        self.digest = _digest(self.path)
        self.numbers = None  # of the rows in the file, or behind it; None is all of the file
        self.added = np.empty((0, array.shape[1]), dtype=self.dtype)
        self._open()

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __setstate__(self, state):
        vars(self).update(state)
        if np.dtype(self.file_dtype).kind not in NUMBERS:  # of objects, a file would hold addresses
            raise ValueError(f"A gallery cannot be in a file of {self.file_dtype}.")
        with suppress(*ELSEWHERE):  # the first search says so
            self._find()

    def _find(self):
        """Open the file if it is there, and is that on which this gallery was fitted."""
        modified = self._status().st_mtime_ns
        if modified != self.modified:
            if _digest(self.path) != self.digest:
                raise self.changed()
            self.modified = modified
        self._open()

    def look_in(self, folder):
        """Take the file of the same name in a folder if it is the one, and not where it was."""
        beside = os.path.join(os.path.abspath(folder), re.split(r"[\\/]", self.path)[-1])
        if "_map" not in vars(self) and os.path.isfile(beside):
            with suppress(OSError, ValueError):
                vars(self).update(vars(self.at(beside)))

    def at(self, path):
        """Return the same rows in another place, of which the content is compared."""
        store = self._with(self.numbers, self.added, vars(self).get("_rooms", (None, None)))
        store.path, store.modified = os.path.abspath(os.fsdecode(path)), None
        try:
            store._find()
        except ChangedError as error:
            raise ValueError(
                f"{store.path!r} is not the file on which this gallery was fitted: its content "
                "is different. Pass the moved file, or fit again."
            ) from error
        return store

    @derived
    def dtype(self) -> np.dtype:
        """Type of the rows as they are read: float32 if it holds all numbers of the file."""
        return np.result_type(np.dtype(self.file_dtype).newbyteorder("="), np.float32)

    @property
    def shape(self):
        """Number of rows and of columns."""
        return len(self), self.file_shape[1]

    def __len__(self):
        return self.file_shape[0] if self.numbers is None else len(self.numbers)

    def __getitem__(self, part):
        if "_map" not in vars(self):
            self._find()
        if self._status().st_mtime_ns != self.modified:
            raise self.changed()
        if self.numbers is None:
            rows = np.array(self._in_file[part], dtype=self.dtype, order="C")
        else:
            numbers = self.numbers[part]
            in_file = numbers < self.file_shape[0]
            rows = np.empty((len(numbers), self.file_shape[1]), dtype=self.dtype)
            rows[in_file] = self._in_file[numbers[in_file]]
            rows[~in_file] = self.added[numbers[~in_file] - self.file_shape[0]]
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)  # or what was read counts as our memory
        return rows

    def add(self, rows):
        """Return a store with `rows` appended, in memory."""
        first = self.file_shape[0] + len(self.added)
        new = np.arange(first, first + len(rows))
        rooms = vars(self).get("_rooms", (None, None))
        numbers, of_numbers = append(self._numbers(), new, rooms[0])
        added, of_added = append(self.added, rows, rooms[1])
        return self._with(numbers, added, (of_numbers, of_added))

    def remove(self, positions):
        """Return a store without the rows at `positions`; the file stays as it is."""
        rooms = vars(self).get("_rooms", (None, None))
        numbers, of_numbers = delete(self._numbers(), positions)
        return self._with(numbers, self.added, (of_numbers, rooms[1]))

    def _numbers(self):
        return np.arange(self.file_shape[0]) if self.numbers is None else self.numbers

    def _with(self, numbers, added, rooms):
        store = object.__new__(RowFile)
        vars(store).update(vars(self))
        store.numbers, store.added, store._rooms = numbers, added, rooms
        return store

    def _open(self):
        with open(self.path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._in_file = np.ndarray(
            self.file_shape, self.file_dtype, self._map, self.offset, order=self.order
        )

    def _status(self):
        """Return the status of the file, if it is there and of the length that it had."""
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f"The rows of this gallery are in {self.path!r}, which is missing. Put the file "
                "back, call relocate(path) with its new place, or fit again with another file."
            ) from error
        if not stat.S_ISREG(status.st_mode):  # reading a device or a pipe may never end
            raise OSError(f"{self.path!r} is not a regular file, and no gallery was fitted on it.")
        if status.st_size != self.size:
            raise self.changed()
        return status

    def changed(self):
        """Return the error for a file of rows that has changed since the fit."""
        return ChangedError(
            f"{self.path!r} has changed since this gallery was fitted on it. Put the original "
            "file back, call relocate(path) with its new place, or fit again."
        )


def _peak(store: RowStore) -> float:
    """Return the largest number of a store in size; one that is not finite is an error."""
    largest = 0.0
    for part in stored_blocks(store):
        rows = store[part]
        check_finite(rows, first=part.start)
        largest = max(largest, float(rows.max()), -float(rows.min()))
    return largest


def stored_blocks(store):
    """Yield slices of rows of a store that fit into the working memory."""
    return row_blocks(*store.shape, itemsize=32, largest=ROWS_AT_ONCE)


def check_file(X, owner):
    """Return the rows that a path or a memory map of a user stands for; none is read."""
    array = open_rows(X)
    check_array(array, input_name="X", estimator=owner, dtype=None, ensure_all_finite=False)
    return RowFile(array)


def open_rows(X):
    """Return the memory map that a path or an array of a user stands for."""
    if isinstance(X, (str, os.PathLike)):
        try:
            X = np.lib.format.open_memmap(X, mode="r")
        except ValueError as error:
            raise ValueError(f"X={str(X)!r} is not a .npy file of numbers ({error}).") from error
    way = "Pass the path of a .npy file, or what numpy.load(path, mmap_mode='r') returns."
    if not isinstance(X, np.memmap) or X.filename is None:
        raise ValueError(f"storage='memory_map' searches rows in a file; X is in memory. {way}")
    if X.mode == "c":
        raise ValueError(f"X is a memory map of mode 'c', whose changes are not in its file. {way}")
    if not isinstance(X.base, mmap.mmap) or X.dtype.kind not in NUMBERS:
        raise ValueError(f"X is a part of a memory map, or holds no numbers: {X.dtype}. {way}")
    return X


def _digest(path):
    """Return a fingerprint of the content of a file.

    What a memory map of another has written moves the time of the file only once per page and
    way to the disk: all is sent there first, so that the next write moves it again.
    """
    with open(path, "rb") as file:
        with suppress(OSError):  # some systems want the right to write for it
            os.fsync(file.fileno())
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
