"""Helpers for rows of memory: blocks of bounded size, and equality of whole rows."""

import numpy as np
from sklearn import get_config


def row_blocks(n_rows, n_columns, *, itemsize=8, largest=1024):
    """Yield slices of rows whose (rows, n_columns) results fit into the working memory."""
    budget = get_config()["working_memory"] * 2**20
    step = int(min(largest, max(1, budget // max(1, n_columns * itemsize))))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def read_only(array):
    """Return a view that cannot be written: to compiled loops that is a type of its own."""
    view = array.view()
    view.flags.writeable = False
    return view


def row_keys(rows):
    """Return one 64-bit key per row; equal rows have equal keys, others all but never."""
    if hasattr(rows, "row_keys"):  # rows that are not in memory
        return rows.row_keys
    padding = -rows.shape[1] * rows.itemsize % 8 // rows.itemsize
    n_words = (rows.shape[1] + padding) * rows.itemsize // 8
    factors = np.random.default_rng(0).integers(2**63, size=n_words, dtype=np.uint64)
    factors = 2 * factors + np.uint64(1)
    keys = np.empty(len(rows), dtype=np.uint64)
    for part in row_blocks(len(rows), n_words, itemsize=16, largest=2**16):
        words = np.ascontiguousarray(rows[part])
        if padding:
            words = np.pad(words, ((0, 0), (0, padding)))
        keys[part] = np.einsum("ij,j->i", words.view(np.uint64), factors)  # modulo 2**64
    return keys


def find_copies(rows):
    """Return positions of rows that repeat an earlier one, and the first position of each."""
    keys = row_keys(rows)
    order = np.argsort(keys, kind="stable")
    is_new = np.r_[True, keys[order][1:] != keys[order][:-1]]
    firsts = order[np.flatnonzero(is_new)[np.cumsum(is_new) - 1]]
    copies, firsts = order[~is_new], firsts[~is_new]
    same = np.empty(len(copies), dtype=bool)
    for part in row_blocks(len(copies), rows.shape[1], itemsize=32):
        same[part] = (rows[copies[part]] == rows[firsts[part]]).all(axis=1)
    return copies[same], firsts[same]
