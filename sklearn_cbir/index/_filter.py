"""Which rows of a gallery a search may find: the filter, and its forms in the API."""

from collections.abc import Iterable, Set
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._typing import Positions
from sklearn_cbir._validation import as_numpy, shortened
from sklearn_cbir.codes._search import pack_bools
from sklearn_cbir.index._rows import read_only

BOOLS = (bool, np.bool_)
WORD, LAST_BIT = 64, np.uint64(63)
BOOLS_TO_COUNT = 4096  # at once


class RowFilter:
    """The rows of a gallery that are left in; they have positions there, and numbers among them.

    Its length is the number of rows left in. It holds one bit per row, and finds the number of a
    position, and the position of a number, by counts of the bits before every word: a filter that
    is seen for the first time costs far less than a search.

    Parameters
    ----------
    mask : ndarray of shape (n,), bool
        Whether each row is left in. It is copied.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.n_rows = len(mask)
        self.words, self._n_before, self._n_left = pack_bools(mask)  # bit by bit, from the lowest

    def __len__(self) -> int:
        return self._n_left

    def is_like(self, other: "RowFilter") -> bool:
        """Say whether another filter of the same gallery leaves the same rows in."""
        return np.array_equal(self.words, other.words)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Whether each row is left in, (n_rows,); it cannot be written."""
        bits = np.unpackbits(self.words.view(np.uint8), count=self.n_rows, bitorder="little")
        return read_only(bits.view(np.bool_))

    @cached_property
    def positions(self) -> Positions:
        """Positions of the rows that are left in, ascending, (n_left,); they cannot be written."""
        return read_only(np.flatnonzero(self.mask))

    @cached_property
    def all_numbers(self) -> Positions:
        """The number of every row among those left in, -1 for those left out, (n_rows,)."""
        return read_only(np.where(self.mask, np.cumsum(self.mask) - 1, -1))

    def numbers(self, positions: Positions) -> Positions:
        """Return the number of each position among those left in, -1 for what is left out.

        Position -1, which stands for no row, is left out.
        """
        place, bit = positions >> 6, (positions & (WORD - 1)).astype(np.uint64)
        words = self.words[place] << (LAST_BIT - bit)  # what comes behind is gone
        numbers = self._n_before[place] + np.bitwise_count(words)
        is_left = (positions >= 0) & (words >> LAST_BIT).astype(bool)
        return np.where(is_left, numbers - 1, -1)

    def at(self, numbers: Positions) -> Positions:
        """Return the position of each number among those left in."""
        if "positions" in vars(self) or numbers.size > len(self.words):
            return self.positions[numbers]
        place = self._n_before.searchsorted(numbers, side="right") - 1
        words = np.ascontiguousarray(self.words[place])[..., None].view(np.uint8)
        bits = np.unpackbits(words, axis=-1, bitorder="little")
        rank = bits.cumsum(axis=-1, dtype=np.uint8)
        wanted = (numbers - self._n_before[place] + 1)[..., None]
        return place * WORD + (rank == wanted).argmax(axis=-1)


def has_at_least(mask: NDArray[np.bool_], k: int) -> bool:
    """Say whether a mask leaves in `k` rows, and read no more of it than that takes."""
    for start in range(0, len(mask), BOOLS_TO_COUNT):
        k -= int(np.count_nonzero(mask[start : start + BOOLS_TO_COUNT]))
        if k <= 0:
            return True
    return False


def as_mask(where: Any, n: int) -> NDArray[np.bool_] | None:
    """Return the mask that a user gives for `n` rows, of shape (n,), or None for ids."""
    is_plain = type(where) is np.ndarray and where.dtype == bool and where.shape == (n,)
    if is_plain and n and where[where.argmax()]:  # `any` takes seven times as long
        return where  # as below, in the time that a single query has
    where = as_numpy(where, "where")
    mask = _as_bools(where)
    if mask is None:
        return None
    if mask.ndim != 1:
        raise ValueError(
            f"where has shape {mask.shape}. A mask has one bool for each of the {n} rows of the "
            "gallery, in one dimension."
        )
    if len(mask) != n:
        raise ValueError(
            f"where is a mask of {len(mask)} bools, but the gallery has {n} rows. Give one for "
            "each row, in the order of ids_, or ids of the gallery."
        )
    if not mask.any():
        raise ValueError(
            f"where matches no row: it is False for all {n} rows of the gallery. Match at least "
            "one."
        )
    return mask


def _as_bools(where):
    """Return what is of dtype bool, or begins with a bool, as an array; None for all else."""
    dtype = getattr(where, "dtype", None)  # of numpy or of pandas, whose own have names alone
    if isinstance(where, np.ndarray) and where.dtype.kind != "O":
        return where if where.dtype.kind == "b" else None
    is_bool = "bool" in str(dtype).lower()
    if not is_bool and not (dtype is None or str(dtype) == "object"):
        return None
    listed = _listed(where)
    return _checked(listed) if is_bool or (listed and isinstance(listed[0], BOOLS)) else None


def _listed(where):
    """Return a sequence as a list; an empty one of what is no sequence."""
    if isinstance(where, (str, bytes, bytearray, Set)) or not isinstance(where, Iterable):
        return []
    as_list = getattr(where, "to_pylist", None)  # of Arrow
    if as_list is not None:
        return as_list()
    return list(where) if hasattr(where, "__len__") else []  # an iterator would be used up


def _checked(listed):
    """Return a list of bools as an array; one that is missing, or something else, is an error."""
    wrong = next((row for row, value in enumerate(listed) if not isinstance(value, BOOLS)), None)
    if wrong is not None:
        raise ValueError(
            f"where[{wrong}] is {shortened(listed[wrong])}, among bools. A mask must be True or "
            "False for every row: fill in the missing values."
        )
    return np.array(listed, dtype=bool)


def check_no_numbers_for_bools(ids: NDArray[Any], n: int) -> None:
    """Raise for ids that are a mask of `n` rows in numbers, by all appearances."""
    if len(ids) == n > 2 and all(id_ in (0, 1) for id_ in ids.tolist()):
        raise ValueError(
            f"where holds nothing but 0 and 1, one for each of the {n} rows, of dtype "
            f"{ids.dtype}: these count as ids. For a mask, pass dtype bool, such as where == 1; "
            "for ids, pass each once."
        )
