"""Which rows of a gallery a search may find: a filter, and what users give for one."""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._typing import Positions
from sklearn_cbir._validation import as_numpy, shortened
from sklearn_cbir.index._rows import read_only

BOOLS = (bool, np.bool_)


@dataclass(frozen=True, eq=False)
class RowFilter:
    """The rows of a gallery that are left in; they have positions there, and numbers among them.

    Its length is the number of rows left in.

    Parameters
    ----------
    mask : ndarray of shape (n,), bool
        Whether each row is left in; at least one is. It is never changed.
    """

    mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return self._n_left

    @cached_property
    def _n_left(self) -> int:
        return int(np.count_nonzero(self.mask))

    @cached_property
    def positions(self) -> Positions:
        """Positions of the rows that are left in, ascending, (n_left,); they cannot be written."""
        return read_only(np.flatnonzero(self.mask))

    def numbers(self, positions: Positions) -> Positions:
        """Return the number of each position among those left in, -1 for what is left out.

        Position -1, which stands for no row, is left out.
        """
        is_left = (positions >= 0) & self.mask[positions]
        return np.where(is_left, self.positions.searchsorted(positions), -1)

    def at(self, numbers: Positions) -> Positions:
        """Return the position of each number among those left in."""
        return self.positions[numbers]


def as_mask(where: Any, n: int) -> NDArray[np.bool_] | None:
    """Return the mask that a user gives for `n` rows, of shape (n,), or None for ids."""
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
            f"where leaves nothing to search: it is False for all {n} rows of the gallery. Leave "
            "one in at least."
        )
    return mask


def _as_bools(where):
    """Return what holds nothing but bools as an array of them, or None."""
    if isinstance(where, np.ndarray) and where.dtype.kind != "O":
        return where if where.dtype.kind == "b" else None
    dtype = getattr(where, "dtype", None)
    if dtype is None or getattr(dtype, "kind", None) in ("b", "O") or "bool" in str(dtype).lower():
        listed = _listed(where)
        if listed and isinstance(listed[0], BOOLS):
            return _checked(listed)
    return None


def _listed(where):
    """Return a sequence as a list; an empty one of what is no sequence."""
    if isinstance(where, (str, bytes, bytearray, Set)) or not isinstance(where, Iterable):
        return []
    if not hasattr(where, "__len__"):  # an iterator would be used up
        return []
    return list(where)


def _checked(listed):
    """Return a list of bools as an array; one that is missing, or something else, is an error."""
    wrong = next((row for row, value in enumerate(listed) if not isinstance(value, BOOLS)), None)
    if wrong is not None:
        raise ValueError(
            f"where[{wrong}] is {shortened(listed[wrong])}, among bools. A mask says True or "
            "False of every row."
        )
    return np.array(listed, dtype=bool)
