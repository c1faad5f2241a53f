"""Which rows a server may answer with, as an expression over their keys, and how much to ask for.

A filter leaves some rows of a gallery in. There are two ways to find the nearest of them:

- Ask for more than is wanted and pass over the rest here. That is cheap if few rows are left out,
  and in vain if all that is near is.
- Have the server leave the others out, by an expression that names keys and ranges of keys. It
  travels with every call and the server reads it each time, so it must be short.

An expression may let in more than the filter, since everything is looked at again here, but
never less.
"""

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir.index._filter import RowFilter

KEYS = 20_000  # that an expression may name, at 20 bytes each: servers read it slowly
KEY_BYTES = 20  # of a key, in text
RANGES = 32  # in an expression at most: from 50 alternatives on, servers of Milvus 2.3 refuse it
KEYS_PER_RANGE = 200  # a range takes a server as long as so many keys


class KeyFilter:
    """The rows that a filter leaves in, for a server.

    Parameters
    ----------
    keys : ndarray of shape (n,), int64
        Keys of all rows of the gallery, ascending.

    row_filter : RowFilter
        What is left in of them.
    """

    def __init__(self, keys: NDArray[np.int64], row_filter: RowFilter) -> None:
        self.share = len(row_filter) / len(keys)
        ways = [Terms(keys, row_filter.mask), Terms(keys, ~row_filter.mask)]
        self.is_negated = ways[1].cost < ways[0].cost
        self.terms = ways[self.is_negated]

    @property
    def is_short(self) -> bool:
        """Whether there is an expression that says what is left in."""
        return 0 < self.terms.cost <= KEYS

    @cached_property
    def expression(self) -> str:
        """The expression; it is empty where it would be long, or nothing is left out."""
        if not self.is_short:
            return ""
        text = str(self.terms)
        return f"not ({text})" if self.is_negated else text

    def among_all(self, wanted: int) -> int:
        """Return among how many results of all rows as many as are wanted should be left in."""
        return math.ceil(wanted / self.share)

    def costs_more_than(self, n_bytes: int) -> bool:
        """Say whether the expression takes longer to read than so many bytes of results."""
        return KEY_BYTES * self.terms.cost > n_bytes

    def and_leading(self, expression: str) -> str:
        """Return the expression with another that must hold too."""
        return f"({self.expression}) and {expression}" if self.expression else expression


class Terms:
    """Rows of a gallery by ranges of keys, for the longest runs, and by their keys for the rest.

    Parameters
    ----------
    keys : ndarray of shape (n,), int64
        Keys of all rows of the gallery, ascending.

    mask : ndarray of shape (n,), bool
        The rows that are meant.
    """

    def __init__(self, keys: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
        # First position of every run of rows that are meant, and that behind its last.
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
        lengths = edges[:, 1] - edges[:, 0]
        ranges = np.flatnonzero(lengths > KEYS_PER_RANGE)
        if len(ranges) > RANGES:
            longest = np.argsort(-lengths[ranges], kind="stable")[:RANGES]
            ranges = np.sort(ranges[longest])
        self.keys, self.mask = keys, mask
        self.ranges = edges[ranges]
        self.n_keys = int(lengths.sum() - lengths[ranges].sum())
        self.cost = self.n_keys + KEYS_PER_RANGE * len(ranges)  # in keys that take as long

    def __str__(self) -> str:
        rest, terms = self.mask.copy(), []
        for start, stop in self.ranges:
            rest[start:stop] = False
            # Not as `low <= key <= high`, which milvus-lite takes for `(low <= key) <= high`.
            terms.append(f"(key >= {self.keys[start]} and key <= {self.keys[stop - 1]})")
        if self.n_keys:
            terms.append(f"key in {self.keys[rest].tolist()}")
        return " or ".join(terms)
