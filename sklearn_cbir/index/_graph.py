"""A graph of near rows, with links between groups of them, that queries walk through."""

import numpy as np

from sklearn_cbir._kinds import Kept
from sklearn_cbir.index._rows import read_only

# Links that a row makes to its neighbors, and has with those that others make to it.
LINKS, LINKS_AT_MOST = 24, 48
# A neighbor is not linked if a linked row is nearer to it by this factor, in squares. With 1 the
# graph is smallest, but a query meets more rows on its way.
SLACK = 1.2
# The same for links between groups.
LONG_LINKS, LONG_LINKS_AT_MOST, LONG_SLACK = 6, 12, 1.0
# So few rows are all compared with a query, to begin at the nearest.
ROWS_TO_BEGIN = 1500
QUERIES_AT_ONCE = 256  # whose products with them stay in the processor's cache


def link_rows(rows, find_neighbors):
    """Return a `NeighborGraph` of `rows`, and the row of every number of it.

    `find_neighbors(rows)` returns numbers and squared distances of the rows nearest to every row,
    (n, k) each, nearest first, -1 where none was found and for the row itself. Rows of which all
    others are neighbors are linked among each other in the same way, and so on, until few are left:
    there a search begins. So every row can be reached from a row where a search begins.
    """
    starts, links, chosen = _linked(rows, find_neighbors, LINKS, LINKS_AT_MOST, SLACK)
    while len(chosen) > ROWS_TO_BEGIN:
        long_starts, long_links, chosen_again = _linked(
            rows[chosen], find_neighbors, LONG_LINKS, LONG_LINKS_AT_MOST, LONG_SLACK
        )
        heads = np.repeat(chosen, np.diff(long_starts))
        starts, links = _with_links(starts, links, heads, chosen[long_links])
        before, chosen = chosen, chosen[chosen_again]
        if len(chosen) > max(ROWS_TO_BEGIN, len(before) / 2):
            # All have the same few neighbors, if they are equally far from each other, say.
            some = chosen[np.linspace(0, len(chosen) - 1, ROWS_TO_BEGIN).astype(np.int64)]
            starts, links = _linked_from(rows, starts, links, some, chosen)
            chosen = some
    lost = np.flatnonzero(~_kernels().reach(starts, links, chosen))
    starts, links = _linked_from(rows, starts, links, chosen, lost)
    graph = NeighborGraph(starts, links, chosen, rows[chosen])
    return graph, graph.renumber(rows)


class NeighborGraph(Kept):
    """Links between near rows, and between groups of rows, however small and far apart.

    Those of number i are ``links[starts[i]:starts[i + 1]]``; a search begins at the nearest of the
    numbers `first`, whose rows it holds.
    """

    def __init__(self, starts, links, first, first_rows):
        self.starts, self.links, self.first, self.first_rows = starts, links, first, first_rows
        self.first_squares = np.einsum("ij,ij->i", first_rows, first_rows)

    def renumber(self, rows):
        """Give near rows near numbers, so that a walk stays in few places of the memory.

        Returns the number that each had before.
        """
        order = np.argsort(self._begin(rows), kind="stable")
        new = np.empty(len(rows), dtype=np.int32)
        new[order] = np.arange(len(rows), dtype=np.int32)
        lengths = np.diff(self.starts)[order]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        old = np.repeat(self.starts[order] - starts[:-1], lengths) + np.arange(starts[-1])
        self.links, self.first = new[self.links[old]], new[self.first]
        fits = starts[-1] <= np.iinfo(np.int32).max
        self.starts = starts.astype(np.int32 if fits else np.int64)
        return order

    def __len__(self):
        return len(self.starts) - 1

    def __setstate__(self, state):
        """Take what was stored, unless the compiled loops, which check nothing, would leave it."""
        vars(self).update(state)
        lengths, n = np.diff(self.starts), len(self)
        numbers = np.concatenate([self.links, self.first])
        if (
            self.starts[0] != 0
            or self.starts[-1] != len(self.links)
            or (lengths < 0).any()
            or not len(self.first) == len(self.first_rows) == len(self.first_squares) > 0
            or any(array.dtype.kind != "i" for array in (self.starts, self.links, self.first))
            or not ((numbers >= 0) & (numbers < n)).all()
        ):
            raise ValueError("The graph of this gallery is damaged. Fit the retriever again.")

    def extend(self, rows, neighbors, squares, number):
        """Add rows, given their neighbors among `rows`; ``number[i]`` is that of ``rows[i]``.

        The new numbers are those behind the last; a row without a number is not linked.
        """
        kept = _kernels().prune(rows, neighbors, squares, LINKS, SLACK)
        new = np.repeat(np.arange(len(self), len(self) + len(kept)), kept.shape[1])
        old = number[kept.ravel()]
        linked = (old >= 0) & (kept.ravel() >= 0)
        new, old = new[linked], old[linked]
        heads, tails = np.concatenate([new, old]), np.concatenate([old, new])
        order = np.argsort(heads, kind="stable")
        starts = np.pad(self.starts, (0, len(kept)), mode="edge")
        starts, links = _with_links(starts, self.links, heads[order], tails[order])
        self.starts, self.links = starts, links.astype(np.int32)

    def search(self, rows, places, queries, k, effort):
        """Return numbers and squared distances of about the `k` nearest rows, nearest first.

        The row of number i is ``rows[places[i]]``; -1 is the place of one that was removed, and the
        number of one that was not found. `effort`, at least `k`, is how many of the
        nearest rows are kept in mind on the way.
        """
        begin = self._begin(queries)
        turns = np.argsort(begin, kind="stable")  # near queries meet the same rows
        found = np.full((len(queries), k), -1, dtype=np.int32)
        squares = np.full(found.shape, np.inf, dtype=np.float32)
        arrays = rows, places, self.starts, self.links, queries, self.first[begin], turns
        _kernels().walk(*map(read_only, arrays), effort, found, squares)
        return found, squares

    def _begin(self, queries):
        """Return which of the first rows is nearest."""
        return _nearest_of(queries, self.first_rows, self.first_squares / 2)


def _linked_from(rows, starts, links, few, others):
    """Return starts and links with one more to each of the `others`, from the nearest of `few`."""
    half_squares = np.einsum("ij,ij->i", rows[few], rows[few]) / 2
    near = few[_nearest_of(rows[others], rows[few], half_squares)]
    order = np.argsort(near, kind="stable")
    return _with_links(starts, links, near[order], others[order].astype(np.int32))


def _nearest_of(queries, rows, half_squares):
    """Return which of a few rows is nearest to every query."""
    nearest = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        affinity = queries[part] @ rows.T
        affinity -= half_squares
        nearest[part] = affinity.argmax(axis=1)
    return nearest


def _linked(rows, find_neighbors, n_links, at_most, slack):
    """Return where the links of each row start, the links, and rows of which all are neighbors."""
    compiled = _kernels()
    neighbors, squares = find_neighbors(rows)
    kept = compiled.prune(rows, neighbors, squares, n_links, slack)
    return *compiled.join(rows, kept, at_most), compiled.cover(neighbors)


def _with_links(starts, links, heads, tails):
    """Return starts and links with more links, given in the order of their heads."""
    links = np.insert(links, starts[heads + 1], tails)
    more = np.cumsum(np.bincount(heads, minlength=len(starts) - 1))
    return np.concatenate([starts[:1], starts[1:] + more.astype(starts.dtype)]), links


def _kernels():
    """Import the compiled loops, and numba with them, when they are needed."""
    try:
        from sklearn_cbir.index import _graph_kernels
    except ImportError as error:
        raise ImportError(
            f"The loops of a graph of rows cannot be compiled: {error} Use algorithm='exact'."
        ) from error
    return _graph_kernels
