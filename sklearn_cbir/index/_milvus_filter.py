"""Rows that a server may return, as expressions over their keys.

A filter leaves some rows of a gallery in. There are two ways to find the nearest of them:

- Ask for more rows than needed and ignore the others here. That is cheap if few rows are left out,
  and useless if all near rows are.
- Let the server leave the others out, by an expression that names keys and ranges of keys. It is
  sent with every call and the server parses it each time, so it must be short: if it would be long,
  parts of the gallery are searched one after the other.

An expression may match more rows than the filter, because all results are checked again here, but
never fewer.
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
STRETCHES = 16  # that are searched one after the other at most
Answer = tuple[NDArray, NDArray, NDArray | None]  # keys, values and rows, the nearest first


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
        self._stretches = _split(keys, row_filter.mask)

    @property
    def can_be_told(self) -> bool:
        """Whether expressions say what is left in."""
        return len(self._stretches) <= STRETCHES

    @cached_property
    def expressions(self) -> list[str]:
        """The expressions; an empty one where they would be long, or nothing is left out."""
        if not self.can_be_told:
            return [""]
        if len(self._stretches) == 1:
            return [str(self._stretches[0])]
        return [stretch.within_bounds() for stretch in self._stretches]

    @property
    def expression(self) -> str:
        """The expression if it is a single one; else it is empty."""
        return self.expressions[0] if len(self.expressions) == 1 else ""

    def among_all(self, wanted: int) -> int:
        """Return among how many results of all rows as many as are wanted should be left in."""
        return math.ceil(wanted / self.share)

    def costs_more_than(self, n_bytes: int) -> bool:
        """Say whether expressions take a server longer to read than so many bytes of results."""
        cost = sum(stretch.cost for stretch in self._stretches)
        return len(self._stretches) > 1 or KEY_BYTES * cost > n_bytes

    def and_leading(self, expression: str) -> str:
        """Return the expression, if it is a single one, with another that must hold too."""
        return f"({self.expression}) and {expression}" if self.expression else expression


class Stretch:
    """A stretch of a gallery, of which some rows are left in.

    Parameters
    ----------
    keys : ndarray of shape (n,), int64
        Keys of its rows, ascending.

    mask : ndarray of shape (n,), bool
        Which of them are left in.
    """

    def __init__(self, keys: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
        ways = [Terms(keys, mask), Terms(keys, ~mask)]
        self.is_negated = ways[1].cost < ways[0].cost
        self.terms = ways[self.is_negated]
        self.keys, self.cost = keys, self.terms.cost

    def __str__(self) -> str:
        text = str(self.terms)
        return f"not ({text})" if self.is_negated and text else text

    def within_bounds(self) -> str:
        """Return the expression for these rows alone of the whole gallery."""
        bounds, text = _range(self.keys), str(self)
        return f"{bounds} and ({text})" if text else bounds


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
        for start, stop in self.ranges.tolist():
            rest[start:stop] = False
            terms.append(f"({_range(self.keys[start:stop])})")
        if self.n_keys:
            terms.append(f"key in {self.keys[rest].tolist()}")
        return " or ".join(terms)


def _range(keys: NDArray[np.int64]) -> str:
    """Return the expression of all keys from the first to the last."""
    # Of `low <= key <= high`, milvus-lite compares `low <= key`, a bool, with `high`.
    low, high = keys[[0, -1]].tolist()
    return f"key >= {low} and key <= {high}"


def _split(keys: NDArray[np.int64], mask: NDArray[np.bool_]) -> list[Stretch]:
    """Return stretches of a gallery whose expressions are short, without those all left out."""
    if not mask.any():
        return []
    whole = Stretch(keys, mask)
    if whole.cost <= KEYS:
        return [whole]
    middle = len(keys) // 2
    return _split(keys[:middle], mask[:middle]) + _split(keys[middle:], mask[middle:])


def join_answers(parts: tuple[Answer, ...], limit: int, *, largest_first: bool) -> Answer:
    """Return the nearest of all rows of what was found in parts of a gallery, `limit` or more.

    Where a part gave as many as `limit`, it held back what is not nearer than its last. So only
    what is as near as the nearest of these last ones is known to come first.
    """
    values = np.concatenate([part[1] for part in parts])
    ranked = -values if largest_first else values
    order = np.argsort(ranked, kind="stable")
    lasts = [part[1][-1] for part in parts if len(part[0]) == limit]
    if lasts:
        bound = -max(lasts) if largest_first else min(lasts)
        order = order[: np.searchsorted(ranked[order], bound, side="right")]
    keys = np.concatenate([part[0] for part in parts])[order]
    rows = [part[2] for part in parts if part[2] is not None]  # none of codes
    return keys, values[order], np.concatenate(rows)[order] if rows else None
