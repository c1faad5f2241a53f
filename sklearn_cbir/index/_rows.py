"""Helpers for rows of memory: blocks of bounded size, and equality of whole rows."""

import numpy as np
from sklearn import get_config

WORDS = 2**16  # that are mixed at once, in the processor's cache
MIXING = [
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
]


def row_blocks(n_rows, n_columns, *, itemsize, largest=1024):
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
    """Return one 64-bit key per row: equal rows have equal keys, others mostly different ones.

    A key never stands for a row: what has the same key has to be compared.
    """
    return _keys(rows, _mixed) if not hasattr(rows, "row_keys") else rows.row_keys


def summed_row_keys(rows):
    """Return the keys of before format 2 of galleries elsewhere, which hold them.

    Those of rows with few different numbers are often equal.
    """
    return _keys(rows, _as_is)


def _keys(rows, mix):
    """Return the sum of the mixed words of every row, modulo 2**64."""
    padding = -rows.shape[1] * rows.itemsize % 8 // rows.itemsize
    n_words = (rows.shape[1] + padding) * rows.itemsize // 8
    factors = np.random.default_rng(0).integers(2**63, size=n_words, dtype=np.uint64)
    factors = 2 * factors + np.uint64(1)
    keys = np.empty(len(rows), dtype=np.uint64)
    for part in row_blocks(len(rows), n_words, itemsize=16, largest=max(1, WORDS // n_words)):
        words = np.ascontiguousarray(rows[part])
        if padding:
            words = np.pad(words, ((0, 0), (0, padding)))
        keys[part] = mix(words, factors)
    return keys


def _as_is(words, factors):
    return np.einsum("ij,j->i", words.view(np.uint64), factors)


def _mixed(words, salts):
    """Mix every word with the salt of its column, until each bit reaches all bits of the key.

    The steps are those that end a turn of splitmix64.
    """
    if words.dtype.kind == "f":
        words = words + words.dtype.type(0)  # -0.0 equals 0.0
    words = words.view(np.uint64) ^ salts
    for shift, factor in MIXING:
        words ^= words >> shift
        words *= factor
    words ^= words >> np.uint64(31)
    return words.sum(axis=1, dtype=np.uint64)


def find_copies(rows):
    """Return positions of rows that repeat an earlier one, and the first position of each."""
    keys = row_keys(rows)
    order = np.argsort(keys, kind="stable")
    order = order[_is_run(keys[order])]
    copies, firsts = [], []
    while len(order):  # in each turn, the first row of every key and all that equal it
        is_first = np.r_[True, keys[order][1:] != keys[order][:-1]]
        first = order[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]]
        rest, first = order[~is_first], first[~is_first]
        same = equal_rows(rows, rest, rows, first)
        copies.append(rest[same])
        firsts.append(first[same])
        order = rest[~same]
    empty = [np.empty(0, dtype=np.int64)]
    return np.concatenate(copies or empty), np.concatenate(firsts or empty)


def find_rows(wanted, rows):
    """Return, for every row of `wanted`, whether `rows` has one that equals it."""
    keys, wanted_keys = row_keys(rows), row_keys(wanted)
    order = np.argsort(keys, kind="stable")
    place = keys[order].searchsorted(wanted_keys)
    found = np.zeros(len(wanted), dtype=bool)
    open_ = np.arange(len(wanted))
    while len(open_):  # one row of the key after the other
        here = place[open_]
        inside = here < len(order)
        open_, here = open_[inside], order[here[inside]]
        alike = keys[here] == wanted_keys[open_]
        open_, here = open_[alike], here[alike]
        same = equal_rows(wanted, open_, rows, here)
        found[open_[same]] = True
        open_ = open_[~same]
        place[open_] += 1
    return found


def equal_rows(left, of_left, right, of_right):
    """Say of pairs of rows, by their positions in two sets, which are equal."""
    same = np.empty(len(of_left), dtype=bool)
    for part in row_blocks(len(of_left), left.shape[1], itemsize=32):
        same[part] = (left[of_left[part]] == right[of_right[part]]).all(axis=1)
    return same


def _is_run(ordered):
    """Say which of sorted values are there more than once."""
    same = ordered[1:] == ordered[:-1]
    return np.r_[False, same] | np.r_[same, False]
