"""Norms of rows, and rows of norm 1, without over- or underflow."""

import numpy as np
from numpy.typing import NDArray


def l2_normalize(rows: NDArray, out: NDArray | None = None) -> NDArray:
    """Return rows of norm 1, in `out` if given; zero rows stay zero."""
    rows = np.divide(rows, row_max_abs(rows), out=out)  # squares neither over- nor underflow now
    rows /= row_norms(rows)
    return rows


def row_max_abs(rows: NDArray) -> NDArray:
    """Return the largest number of every row, in size, (n, 1); 1 for zero rows."""
    found = np.maximum(rows.max(axis=1, keepdims=True), -rows.min(axis=1, keepdims=True))
    return np.where(found > 0, found, 1)


def row_norms(rows: NDArray) -> NDArray:
    """Return the norm of every row, (n, 1), whose largest number is about 1; 1 for zero rows."""
    found = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return np.where(found > 0, found, 1)


def safe_norms(rows: NDArray) -> NDArray:
    """Return the norm of every row of float64, (n,), of any size."""
    with np.errstate(over="ignore", under="ignore"):
        squares = np.vecdot(rows, rows)
    odd = np.flatnonzero(~((squares > 1e-290) & (squares < np.inf)))
    norms = np.sqrt(squares)
    if len(odd):
        largest = np.abs(rows[odd]).max(axis=1)
        scaled = rows[odd] / np.where(largest > 0, largest, 1)[:, None]
        norms[odd] = np.sqrt(np.einsum("ij,ij->i", scaled, scaled)) * largest
    return norms


def is_zero(rows: NDArray) -> NDArray:
    """Say which rows are zero, (n,)."""
    return np.asarray(~rows.any(axis=1))


def half_squared_norms(rows: NDArray) -> NDArray:
    """Return half the squared norm of every row, (n,), in the type of the rows."""
    return np.einsum("ij,ij->i", rows, rows) / 2
