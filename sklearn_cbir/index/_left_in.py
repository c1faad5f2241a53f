"""Engines over the rows that a filter leaves in, which are copied only if it pays."""

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir.index._engine import derived, remembered
from sklearn_cbir.index._filter import RowFilter

# Copies of rows of floats are kept if they have no more bytes.
BYTES_TO_KEEP = 2**25


class RowsLeftIn:
    """Rows that a filter leaves in, copied on access; it replaces an array of them.

    Parameters
    ----------
    rows : array of shape (n, n_columns), or `StoredRows`
        All rows, as they are compared.

    row_filter : RowFilter
        Which of them are left in.
    """

    ndim = 2

    def __init__(self, rows: Any, row_filter: RowFilter) -> None:
        self.whole, self.row_filter = rows, row_filter
        self.shape = len(row_filter), rows.shape[1]
        self.dtype, self.itemsize = rows.dtype, rows.itemsize
        self.nbytes = self.shape[0] * self.shape[1] * self.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: Any) -> NDArray:
        if not isinstance(part, slice):
            numbers = np.asarray(part)
            numbers = np.flatnonzero(numbers) if numbers.dtype == bool else numbers
            return self.whole[self.row_filter.at(numbers)]
        positions = self.row_filter.positions[part]
        if _is_run(positions):
            return self.whole[positions[0] : positions[-1] + 1]
        if isinstance(self.whole, np.ndarray):
            return self.whole.take(positions, axis=0)
        return self.whole.read(positions)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)


def _is_run(positions):
    """Say whether ascending positions follow each other."""
    return len(positions) and positions[-1] - positions[0] == len(positions) - 1


class Filtered:
    """The common part of engines over the rows of another, the whole one, that a filter leaves in.

    A class that inherits this and an engine compares few queries with all rows, which takes less
    than to copy those that are left in, and asks `_keep_if_it_pays` first. Once many were asked,
    `rows` are copies.
    """

    queries_per_copy: ClassVar[int]  # with which a row is compared in the time that its copy takes
    queries_to_list: ClassVar[int] = 0  # that take the time of listing what is left in
    bytes_to_keep: ClassVar[float]  # copies of more are not kept
    whole: Any
    row_filter: RowFilter
    rows: Any
    is_kept = False  # whether the rows are copies
    n_asked = 0  # queries so far

    @classmethod
    def of(cls, whole: Any, row_filter: RowFilter) -> Any:
        """Return an engine over the rows of `whole` that the filter leaves in."""
        engine = object.__new__(cls)
        rows = RowsLeftIn(whole.rows, row_filter)
        vars(engine).update(whole.__getstate__(), rows=rows, whole=whole, row_filter=row_filter)
        return engine

    def _keep_if_it_pays(self, n_queries: int) -> None:
        """Copy the rows for good if so many more queries pay for it."""
        self.n_asked += n_queries
        if (
            not self.is_kept
            and self.whole.in_memory
            and self.rows.nbytes <= self.bytes_to_keep
            and self._pays_to_copy(self.n_asked, len(self.row_filter), self.row_filter.n_rows)
        ):
            self._keep()

    def _keep(self) -> None:
        """Copy the rows for good."""
        self.rows = self.rows[:]
        self.is_kept = True  # last: other threads look at it first

    def _pays_to_copy(self, n_queries: int, n_left: int, n: int) -> bool:
        """Return whether copying rows and comparing the copies is faster than comparing all `n`."""
        n_paid = n_queries - self.queries_to_list
        return n_left * (n_queries + self.queries_per_copy) < n * n_paid


class FilteredExact(Filtered):
    """The common part of exact engines of floats over the rows that a filter leaves in.

    Few queries are compared with all rows: that takes less than to copy those that are left in. For
    many these are copied, tile by tile, or kept if they are few. What the whole engine knows of
    its rows is taken over.
    """

    queries_per_copy = 30
    bytes_to_keep = BYTES_TO_KEEP
    _known_copies: Any
    _copies_to_leave_out: Callable[[], Any]

    @derived
    def in_memory(self) -> bool:
        """Whether the rows are copies that were kept."""
        return self.is_kept

    def query(self, queries, k):
        """Return distances and numbers of the `k` nearest rows, both (n_queries, k)."""
        self._keep_if_it_pays(len(queries))
        engine: Any = super()
        return engine.query(queries, k)

    def within(self, queries, radii):
        """Return all pairs within the radius of their query, by query and then by number."""
        self._keep_if_it_pays(len(queries))
        engine: Any = super()
        return engine.within(queries, radii)

    def distances(self, queries):
        """Return the distances to all rows that are left in."""
        self._keep_if_it_pays(len(queries))
        engine: Any = super()
        return engine.distances(queries)

    def _similarity(self, queries, part, memory=None):
        """Return similarities of queries to a slice of the rows, by products with those or all."""
        engine: Any = super()
        similarity = engine._similarity
        if self.is_kept:
            return similarity(queries, part, memory)
        positions = self.row_filter.positions[part]
        first, last = positions[0], positions[-1] + 1
        n, n_left = last - first, len(positions)
        if n == n_left or self._pays_to_copy(len(queries), n_left, n):
            return similarity(queries, part, memory)
        of_all = self.whole._similarity(queries, slice(first, last))
        return of_all.take(positions - first if first else positions, axis=1)

    def _prefilter_for(self, n_queries):
        """Return the prefilter of all rows, unless few are left in, which are copied."""
        if self.is_kept or self._pays_to_copy(n_queries, len(self.row_filter), self._n_screened):
            return None
        prefilter = self.whole._prefilter_for(n_queries)
        return None if prefilter is None else self._prefilter

    @derived
    def _n_screened(self) -> int:
        """As many products of floats as the prefilter takes, all in all."""
        return self.row_filter.n_rows // 2

    @remembered
    def _prefilter(self):
        """The prefilter of all rows; where it fails for those left in, it may not for others."""
        return copy.copy(self.whole._prefilter)

    def _screened(self, int8_rows, query):
        """Return similarities of one query by an int8 copy, and how far they may be off.

        They are those of all rows, of which those left out have none, unless copies are known.
        """
        similarity, margin = self.whole._screened(int8_rows, query)
        if self._copies_to_leave_out() is not None:
            return [values.take(self.row_filter.positions) for values in (similarity, margin)]
        similarity += self._without
        return similarity, margin

    @remembered
    def _without(self):
        """Terms that, added to the similarities of all rows, exclude the rows left out."""
        dtype = self.rows.dtype
        bits = np.dtype(f"i{dtype.itemsize}")
        left_out = self.row_filter.mask.view(np.int8) - np.int8(1)  # all bits set, else none
        summand = left_out.astype(bits)
        summand &= np.array(-np.inf, dtype).view(bits)
        return summand.view(dtype)

    def rescore(self, queries, which, numbers):
        """Return the distances of the pairs ``(queries[which], rows[numbers])``, float64."""
        return self.whole.rescore(queries, which, self.row_filter.at(numbers))

    @derived
    def _longest(self) -> float:
        """An upper bound for all rows of the whole engine."""
        return self.whole._longest

    @derived
    def _largest_whole(self) -> float:
        """The largest number of all rows, in size, if all are whole numbers; else infinity."""
        return self.whole._largest_whole

    @remembered
    def _copies(self):
        """Which rows repeat an earlier one that is left in, too."""
        self._known_copies = self.whole.find_copies().moved(self.row_filter.all_numbers)[0]
        return self._known_copies


@lru_cache
def filtered_class(cls: Any) -> Any:
    """Return the class of the filtered engines of a class of `ExactEngine`."""
    names = dict.fromkeys(cls._per_row)
    return type(f"Filtered{cls.__name__}", (FilteredExact, cls), {n: _of_rows(n) for n in names})


def _of_rows(name):
    """Return an attribute: the part of a per-row value of the whole engine for the rows left in."""
    attribute: Any = remembered(lambda self: getattr(self.whole, name)[self.row_filter.positions])
    return attribute
