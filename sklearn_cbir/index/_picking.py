"""Which of many similarities may be among the largest: picked without a sort of all."""

from functools import lru_cache

import numpy as np

finfo = lru_cache(np.finfo)  # its own look-up takes longer than a step of a small search


class Nearest:
    """Pick out of tiles of similarities all that may be among the `k` largest of their row.

    The largest of every group of columns is enough to find a floor that `k`
    similarities reach; only groups whose largest reaches it are looked into.
    """

    def __init__(self, k, n, margin):
        self.k = k
        self.width = _group_width(k, n)
        self.margin = margin
        self.best = None

    def __call__(self, similarity, room):
        """Return where they are in the flattened tile; None if they may be more than `room`."""
        n_queries, n = similarity.shape
        n_groups = n // self.width
        first_rest = n_groups * self.width
        # Column g of the view holds the similarities g, g + n_groups, g + 2 * n_groups, ...
        groups = similarity[:, :first_rest].reshape(n_queries, self.width, n_groups)
        rest = similarity[:, first_rest:]
        largest = groups.max(axis=1)  # (n_queries, n_groups)
        self._raise_floor(largest, rest)
        hot = np.flatnonzero(largest >= self.limit[:, None])
        if len(hot) * self.width > room:
            return None
        which, group = np.divmod(hot, n_groups)
        members = which * n + group + np.arange(self.width)[:, None] * n_groups
        picked = members[similarity.take(members) >= self.limit.take(which)]
        if first_rest == n:
            return picked
        in_rest = np.flatnonzero(rest >= self.limit[:, None])
        which, column = np.divmod(in_rest, n - first_rest)
        return np.concatenate([picked, which * n + first_rest + column])

    def _raise_floor(self, largest, rest):
        """Take in a tile: `limit` is what `k` similarities of each query reach, less the margin."""
        parts = [part for part in (self.best, largest, rest) if part is not None and part.size]
        # The rest is a view of the tile, whose memory the next one takes.
        best = largest if len(parts) == 1 and largest.size else np.concatenate(parts, axis=1)
        if best.shape[1] >= self.k:
            best = np.partition(best, -self.k, axis=1)[:, -self.k :]
            self.limit = np.maximum(best[:, 0] - self.margin, lowest(best.dtype))
        else:
            self.limit = np.full(len(best), lowest(best.dtype), dtype=best.dtype)
        self.best = best


class Within:
    """Pick out of tiles of similarities all that reach the limit of their row."""

    def __init__(self, limit):
        self.limit = np.maximum(limit, lowest(limit.dtype))

    def __call__(self, similarity, room):
        """Return where they are in the flattened tile; None if they are more than `room`."""
        inside = similarity >= self.limit[:, None]
        if np.count_nonzero(inside) > room:
            return None
        return np.flatnonzero(inside)


def first_of_ties(pairs, similarity, n, k, exact):
    """Leave out pairs that tie with the `k`-th nearest of their query and come after it.

    Only where similarities are `exact`, per query, do they say what ties.
    """
    which, position = np.divmod(pairs, n)
    order = np.lexsort((position, -similarity, which))
    which = which[order]
    rank = np.arange(len(pairs)) - which.searchsorted(which)
    return pairs[order[(rank < k) | ~exact[which]]]


def lowest(dtype):
    """Return the lowest similarity: what is left out has less."""
    return finfo(dtype).min


def kth_bound(values, k):
    """Return a lower bound of the `k`-th largest of the values, mostly that value itself."""
    width = _group_width(k, len(values), largest=len(values))
    n_groups = len(values) // width
    largest = values[: n_groups * width].reshape(width, n_groups).max(axis=0)
    return np.partition(largest, -k)[-k]


def _group_width(k, n, largest=32):
    """Return how many columns are a group: there are many more groups than `k`, or all columns."""
    return max(1, min(largest, n // (25 * k)))
