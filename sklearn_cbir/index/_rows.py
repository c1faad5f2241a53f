"""Helpers for rows of memory: blocks of bounded size, and equality of whole rows."""

import numpy as np
from sklearn import get_config


def row_blocks(n_rows, n_columns, *, itemsize=8, largest=1024):
    """Yield slices of rows whose (rows, n_columns) results fit into the working memory."""
    budget = get_config()["working_memory"] * 2**20
    step = int(min(largest, max(1, budget // max(1, n_columns * itemsize))))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def row_keys(rows):
    """Return one 64-bit key per row; equal rows have equal keys, others all but never."""
    keys = np.empty(len(rows), dtype=np.uint64)
    factors = None
    for part in row_blocks(len(rows), rows.shape[1], itemsize=64, largest=len(rows) or 1):
        words = np.ascontiguousarray(rows[part])
        padding = -words.shape[1] * words.itemsize % 8 // words.itemsize
        if padding:
            words = np.pad(words, ((0, 0), (0, padding)))
        words = words.view(np.uint64)  # (n, n_words)
        if factors is None:
            factors = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64)
        mixed = (words ^ (words >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
        keys[part] = (mixed * (2 * factors + np.uint64(1))).sum(axis=1)
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
