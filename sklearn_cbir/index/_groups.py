"""Groups of rows: the connected components of all pairs within a radius.

There may be as many pairs as the square of the rows, so they are never stored. A row that finds few
others is linked to them. If it finds many, they are followed: all found rows leave the gallery
before the next of them searches, so each is found about once, even if very many are near each
other.
"""

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from sklearn_cbir._typing import Positions
from sklearn_cbir.codes._search import count_within, list_within
from sklearn_cbir.index._engine import Engine
from sklearn_cbir.index._exact import ExactEngine
from sklearn_cbir.index._exact_engines import EXACT
from sklearn_cbir.index._rows import find_copies

CROWD = 64  # others within the radius
PAIRS_AT_ONCE = 2**20  # found in one go
# Comparisons in one go: codes are counted before any pair is listed, and floats are not.
CODES_AT_ONCE, FLOATS_AT_ONCE = 2**28, 2**24
LINKS_AT_ONCE = 2**20


def group_rows(
    rows: NDArray,
    metric: str,
    radius: float,
    forms: NDArray | None = None,
    links: tuple[Positions, Positions] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Positions:
    """Return the number of the group of every row, (n,), counted by the first rows of the groups.

    Two rows are linked if they are equal, or within the radius, or in `links`; rows that links
    lead to, one after the other, are a group.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
        Checked rows: floats, or bits under the Hamming distance.

    metric : str
        Name of the distance.

    radius : float
        Largest distance, itself included.

    forms : ndarray of shape (n, n_forms, n_features), default=None
        What every row asks with in its place, itself among them, such as the codes of a photo
        turned and mirrored. A form of one row is as near to the other row as a form of the other
        is to it.

    links : pair of arrays of positions, default=None
        Rows that are linked whatever their distance is.

    advance : callable
        Is told how many rows are finished.
    """
    n = len(rows)
    found = _Links(n)
    if links is not None:
        found.add(*links)
    engine = EXACT(metric).build(rows)
    asking = engine.rows[:, None] if forms is None else _encoded(engine, forms)
    copies, firsts = find_copies(asking.reshape(n, -1))
    found.add(copies, firsts)
    advance(len(copies))
    _link_near(_Remaining(engine, asking, radius, copies), found, advance)
    return found.groups()


def _encoded(engine: Engine, forms: NDArray) -> NDArray:
    """Return forms as the engine compares them, (n, n_forms, n_columns)."""
    return engine.encode(forms.reshape(-1, forms.shape[2])).reshape(*forms.shape[:2], -1)


def _link_near(remaining: "_Remaining", found: "_Links", advance: Callable[[int], None]) -> None:
    """Link all rows within the radius of each other.

    A row asks those that did not ask before it. The group of a row that finds a crowd goes as a
    whole: nothing that is left is near to any of it.
    """
    while len(block := remaining.first()):
        for given in remaining.parts(block):
            part = given[remaining.has(given)]
            which, near = remaining.near(part)
            for row in part[np.bincount(which, minlength=len(part)) > CROWD]:
                if remaining.has(row):
                    group = remaining.follow(row)
                    found.add(group, np.full(len(group), row))
                    advance(len(group))
            stays = remaining.has(part)[which]
            found.add(part[which[stays]], near[stays])
        advance(remaining.take_out(block[remaining.has(block)]))


class _Remaining:
    """Rows that still have to be compared, and the search among them.

    Parameters
    ----------
    engine : Engine
        All rows, in memory.

    asking : ndarray of shape (n, n_forms, n_columns)
        What each of them asks with, encoded.

    radius : float
        Largest distance.

    copies : ndarray of shape (n_copies,)
        Rows that are not compared, as they equal others.
    """

    def __init__(self, engine: Engine, asking: NDArray, radius: float, copies: Positions) -> None:
        n, self.n_forms, self.n_columns = asking.shape
        self.engine = engine
        self.asking = asking
        self.radius = radius
        self.positions = np.arange(n)  # of the rows of the engine
        self.is_left = np.ones(n, dtype=bool)
        self.n_left = n
        self.step = 1
        self.take_out(copies)

    @property
    def at_once(self) -> int:
        """How many rows ask in one go."""
        pairs = CODES_AT_ONCE if self.engine.metric == "hamming" else FLOATS_AT_ONCE
        return max(1, pairs // (self.n_forms * len(self.positions)))

    def first(self) -> Positions:
        """Return the first of those that are left, as many as ask in one go."""
        return self.positions[self.has(self.positions)][: self.at_once]

    def has(self, positions: Positions) -> NDArray[np.bool_]:
        """Say which of some rows are left."""
        return self.is_left[positions]

    def take_out(self, positions: Positions) -> int:
        """Take rows out, and return how many; the gallery shrinks once a quarter of it is gone."""
        self.is_left[positions] = False
        self.n_left -= len(positions)
        if self.n_left and 4 * self.n_left <= 3 * len(self.positions):
            stays = self.has(self.positions)
            self.engine = self.engine.remove(np.flatnonzero(~stays))
            self.positions = self.positions[stays]
        return len(positions)

    def parts(self, block: Positions) -> Iterator[Positions]:
        """Yield parts of a block of rows, each of which finds a bounded number of pairs.

        Those that find nothing may be in none.
        """
        if self.engine.metric != "hamming":
            while len(block):
                part, block = block[: self.step], block[self.step :]
                self.step *= 2  # until a crowd is met
                yield part
        elif self.n_left:
            counts = count_within(self._queries(block), self.engine.rows, self._n_bits)
            counts = counts.reshape(-1, self.n_forms).sum(axis=1)
            finds = counts > self.has(block)  # itself
            ends = np.cumsum(counts[finds]) // PAIRS_AT_ONCE
            yield from np.split(block[finds], np.flatnonzero(np.diff(ends)) + 1)

    def near(self, block: Positions) -> tuple[Positions, Positions]:
        """Return pairs of a row of the block, by its place there, and another row that is left."""
        nothing = np.empty(0, dtype=np.int64)
        if not (self.n_left and len(block)):
            return nothing, nothing
        queries = self._queries(block)
        if self.engine.metric == "hamming":
            counts, _, found = list_within(queries, self.engine.rows, self._n_bits)
            which = np.repeat(np.arange(len(queries)), counts)
        else:
            engine = cast(ExactEngine, self.engine)
            which, found, _ = engine.within(queries, np.full(len(queries), self.radius))
        which, found = which // self.n_forms, self.positions[found]
        others = self.has(found) & (found != block[which])
        which, found = which[others], found[others]
        if self.n_forms > 1:  # which may find one row several times
            pairs = np.unique(which * len(self.asking) + found)
            which, found = np.divmod(pairs, len(self.asking))
        return which, found

    def follow(self, row: int) -> Positions:
        """Take out all that links lead to from a row, and return it."""
        self.step = 1
        self.take_out(np.array([row]))
        group = [np.array([row])]
        waiting = group[0]
        while self.n_left and len(waiting):
            block, waiting = waiting[: self.at_once], waiting[self.at_once :]
            for part in self.parts(block):
                found = np.unique(self.near(part)[1])
                self.take_out(found)
                group.append(found)
                waiting = np.concatenate([waiting, found])
        self.step = 1
        return np.concatenate(group)

    def _queries(self, block: Positions) -> NDArray:
        return self.asking[block].reshape(-1, self.n_columns)

    @property
    def _n_bits(self) -> int:
        """The radius of codes, which differ in whole numbers of bits."""
        return int(min(self.radius, 64 * self.n_columns))


class _Links:
    """Which rows are linked: as many links as rows, or some more until they are counted again.

    Parameters
    ----------
    n : int
        Number of rows.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.n_links = 0
        self.links: list[tuple[Positions, Positions]] = []

    def add(self, left: Positions, right: Positions) -> None:
        """Link rows with others, one by one."""
        self.links.append((left, right))
        self.n_links += len(left)
        if self.n_links > self.n + LINKS_AT_ONCE:
            firsts = self._firsts()
            others = np.flatnonzero(firsts != np.arange(self.n))
            self.links, self.n_links = [(others, firsts[others])], len(others)

    def groups(self) -> Positions:
        """Return the number of the group of every row, counted by their first rows."""
        return np.unique(self._firsts(), return_inverse=True)[1]

    def _firsts(self) -> Positions:
        """Return the first row of the group of every row."""
        left, right = map(np.concatenate, zip(*self.links))
        graph = csr_array((np.ones(len(left), dtype=bool), (left, right)), shape=(self.n, self.n))
        labels = connected_components(graph, directed=False)[1]
        _, first, number = np.unique(labels, return_index=True, return_inverse=True)
        return first[number]
