"""Rows that equal an earlier one: searched once, and placed next to it in the answers."""

import numpy as np

from sklearn_cbir.index._rows import find_copies

PAIRS_AT_ONCE = 2**22


class Copies:
    """Which rows repeat an earlier one, the first of their group.

    The `k` nearest of the first rows, equal distances by position, are those of which the groups
    hold the `k` nearest of all rows: whatever comes before the first of a group has its own first
    before it too.

    Parameters
    ----------
    n : int
        Number of rows.

    positions, firsts : ndarray of shape (n_copies,)
        Positions of rows that repeat an earlier one, and the first position of each.
    """

    def __init__(self, n, positions=(), firsts=()):
        self.positions, self.firsts = positions, firsts
        self.n_copies, self.n_distinct = len(positions), n - len(positions)
        if self.n_copies:
            first = np.arange(n)
            first[positions] = firsts
            self._is_copy = first != np.arange(n)
            self._members = np.argsort(first, kind="stable")  # group by group, each by position
            self._sizes = np.bincount(first, minlength=n)
            self._starts = np.cumsum(self._sizes) - self._sizes

    @classmethod
    def among(cls, rows):
        """Find the copies among rows."""
        return cls(len(rows), *find_copies(rows))

    def __len__(self):
        return self.n_copies

    def leave_out(self, similarity, start=0):
        """Give copies no similarity; the first column is that of row `start`."""
        if len(self):
            columns = np.flatnonzero(self._is_copy[start : start + similarity.shape[-1]])
            similarity[..., columns] = -np.inf

    def without(self, positions):
        """Return those of some positions that are first."""
        return positions[~self._is_copy[positions]] if len(self) else positions

    def nearest(self, distances, firsts, k):
        """Return distances and positions of the `k` nearest rows, given the nearest firsts."""
        if not len(self):
            return distances, firsts
        found = np.empty((len(firsts), k)), np.empty((len(firsts), k), dtype=np.int64)
        step = max(1, PAIRS_AT_ONCE // (k * firsts.shape[1]))
        for start in range(0, len(firsts), step):
            part = slice(start, start + step)
            sizes = np.minimum(self._sizes[firsts[part]], k)
            enough = (sizes.cumsum(axis=1) >= k).argmax(axis=1)[:, None]
            furthest = np.take_along_axis(distances[part], enough, axis=1)
            which, column = np.nonzero(distances[part] <= furthest)
            pair, position = self._spread(firsts[part][which, column], sizes[which, column])
            which, measured = which[pair], distances[part][which, column][pair]
            order = np.lexsort((position, measured, which))
            place = which.searchsorted(np.arange(len(sizes)))
            order = order[place[:, None] + np.arange(k)]
            found[0][part], found[1][part] = measured[order], position[order]
        return found

    def within(self, which, firsts, distances):
        """Return pairs with all rows, by query and then by position, given those with firsts."""
        if not len(self):
            return which, firsts, distances
        pair, position = self._spread(firsts, self._sizes[firsts])
        order = np.lexsort((position, which[pair]))
        pair = pair[order]
        return which[pair], position[order], distances[pair]

    def moved(self, moved):
        """Return what is left where positions move to `moved`, -1 for what goes.

        Returns the copies, and the new position of every old one with that of the next of its
        group in place of a first that goes.
        """
        n_after = np.count_nonzero(moved >= 0)
        if not len(self):
            return Copies(n_after), moved
        stays = moved[self.positions] >= 0
        copies, firsts = self.positions[stays], self.firsts[stays]
        heirs = np.full(len(moved), len(moved))
        np.minimum.at(heirs, firsts, copies)
        inherits = (moved < 0) & (heirs < len(moved))
        moved = moved.copy()
        moved[inherits] = moved[heirs[inherits]]
        is_heir = moved[copies] == moved[firsts]
        copies, firsts = copies[~is_heir], firsts[~is_heir]
        return Copies(n_after, moved[copies], moved[firsts]), moved

    def _spread(self, firsts, sizes):
        """Return the positions of as many members of every group, and which group each is of."""
        group = np.repeat(np.arange(len(firsts)), sizes)
        rank = np.arange(len(group)) - np.repeat(sizes.cumsum() - sizes, sizes)
        return group, self._members[self._starts[firsts][group] + rank]
