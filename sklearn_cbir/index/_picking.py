"""Which of many affinities may be among the largest: picked without a sort of all."""

from functools import lru_cache

import numpy as np

finfo = lru_cache(np.finfo)  # its own look-up takes longer than a step of a small search


class Nearest:
    """Pick out of tiles of affinities all that may be among the `k` largest of their row.

    The largest of every group of columns is enough to find a floor that `k`
    affinities reach; only groups whose largest reaches it are looked into.
    """

    def __init__(self, k, n, slack):
        self.k = k
        self.width = _group_width(k, n)
        self.slack = slack
        self.best = None

    def __call__(self, affinity, room):
        """Return where they are in the flattened tile; None if they may be more than `room`."""
        n_queries, n = affinity.shape
        n_groups = n // self.width
        first_rest = n_groups * self.width
        # Column g of the view holds the affinities g, g + n_groups, g + 2 * n_groups, ...
        groups = affinity[:, :first_rest].reshape(n_queries, self.width, n_groups)
        rest = affinity[:, first_rest:]
        largest = groups.max(axis=1)  # (n_queries, n_groups)
        self._raise_floor(largest, rest)
        hot = np.flatnonzero(largest >= self.limit[:, None])
        if len(hot) * self.width > room:
            return None
        which, group = np.divmod(hot, n_groups)
        members = which * n + group + np.arange(self.width)[:, None] * n_groups
        picked = members[affinity.take(members) >= self.limit.take(which)]
        if first_rest == n:
            return picked
        in_rest = np.flatnonzero(rest >= self.limit[:, None])
        which, column = np.divmod(in_rest, n - first_rest)
        return np.concatenate([picked, which * n + first_rest + column])

    def _raise_floor(self, largest, rest):
        """Take in a tile: `limit` is what `k` affinities of each query reach, less the slack."""
        parts = [part for part in (self.best, largest, rest) if part is not None and part.size]
        # The rest is a view of the tile, whose memory the next one takes.
        best = largest if len(parts) == 1 and largest.size else np.concatenate(parts, axis=1)
        if best.shape[1] >= self.k:
            best = np.partition(best, -self.k, axis=1)[:, -self.k :]
            self.limit = np.maximum(best[:, 0] - self.slack, lowest(best.dtype))
        else:
            self.limit = np.full(len(best), lowest(best.dtype), dtype=best.dtype)
        self.best = best


class Within:
    """Pick out of tiles of affinities all that reach the limit of their row."""

    def __init__(self, limit):
        self.limit = np.maximum(limit, lowest(limit.dtype))

    def __call__(self, affinity, room):
        """Return where they are in the flattened tile; None if they are more than `room`."""
        inside = affinity >= self.limit[:, None]
        if np.count_nonzero(inside) > room:
            return None
        return np.flatnonzero(inside)


def first_of_ties(pairs, affinity, n, k, exact):
    """Leave out pairs that tie with the `k`-th nearest of their query and come after it.

    Only where affinities are `exact`, per query, do they say what ties.
    """
    which, position = np.divmod(pairs, n)
    order = np.lexsort((position, -affinity, which))
    which = which[order]
    rank = np.arange(len(pairs)) - which.searchsorted(which)
    return pairs[order[(rank < k) | ~exact[which]]]


def lowest(dtype):
    """Return the lowest affinity: what is left out has less."""
    return finfo(dtype).min


def reached(values, k):
    """Return a number that at least `k` of the values reach, mostly the `k`-th largest."""
    width = _group_width(k, len(values), largest=len(values))
    n_groups = len(values) // width
    largest = values[: n_groups * width].reshape(width, n_groups).max(axis=0)
    return np.partition(largest, -k)[-k]


def _group_width(k, n, largest=32):
    """Return how many columns are a group: there are many more groups than `k`, or all columns."""
    return max(1, min(largest, n // (25 * k)))
