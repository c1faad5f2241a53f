"""A graph of near rows, with edges between groups of them, that queries walk through.

Edges are chosen as in NSG [1]_ and, with a factor alpha, as `RobustPrune` of Vamana [2]_ does. A
query is a beam search from an entry point near it, as on the lowest layer of HNSW [3]_. Unlike
there, entry points are compared with the query by groups, and edges between groups of rows come
from the same step again, over rows of which all others are neighbors. On its way, the search reads
rows in one byte per number, as that of LVQ [4]_ does, and those it has found themselves in the end.

References
----------
.. [1] C. Fu, C. Xiang, C. Wang, D. Cai. "Fast Approximate Nearest Neighbor Search With The
   Navigating Spreading-out Graph". VLDB 2019.
.. [2] S. J. Subramanya, Devvrit, R. Kadekodi, R. Krishnaswamy, H. V. Simhadri. "DiskANN: Fast
   Accurate Billion-point Nearest Neighbor Search on a Single Node". NeurIPS 2019.
.. [3] Y. Malkov, D. Yashunin. "Efficient and robust approximate nearest neighbor search using
   Hierarchical Navigable Small World graphs". TPAMI 42 (4), 2020 (arXiv 2016, v4 2018).
.. [4] C. Aguerrebere, I. S. Bhati, M. Hildebrand, M. Tepper, T. Willke. "Similarity Search in the
   Blink of an Eye with Compressed Indices". VLDB 2023.
"""

from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._kinds import Kept
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._loops import Loops
from sklearn_cbir.index._node_codes import BYTES_AT_LEAST, NodeCodes, code_range
from sklearn_cbir.index._rows import read_only

# Edges that a row chooses among its neighbors, and at most has with those of rows that chose it.
DEGREE, MAX_DEGREE = 24, 48
# A neighbor is left out if a chosen one is nearer to it by this factor, in squares. With 1 the
# graph is smallest, but a query meets more rows on its way.
ALPHA = 1.2
# The same for edges between groups.
LONG_DEGREE, LONG_MAX_DEGREE, LONG_ALPHA = 6, 12, 1.0
# Entry points at most, and how many make a group: a query is compared with the middle of each, and
# enters the graph at those of the nearest groups.
MAX_ENTRY_POINTS = 1500
ENTRIES_PER_GROUP = 8
GROUPS_AT_LEAST = 64
STEPS_OF_GROUPS = 3  # of k-means
# Codes are used if the walk finds such a share of what it finds by rows, and searches so much.
CODES_AGREE, EF_TO_AGREE = 0.9, 3
BLURRED = 16  # candidates, of which codes take one for another that they leave out
# Numbers that are compared exactly, one query at a time, while the compiled loops are loaded.
NUMBERS_TO_LOAD = 2e9
MADE_AGAIN = ("_made_codes", "_made_groups")  # in every process
ONE_TURN = np.zeros(1, dtype=np.int64)
QUERIES_AT_ONCE = 256  # whose products with them stay in the processor's cache


def link_rows(rows, find_neighbors):
    """Return a `NeighborGraph` of `rows`, and the row of every node of it.

    `find_neighbors(rows)` returns positions and squared distances of the rows nearest to every row,
    (n, k) each, nearest first, -1 where none was found and for the row itself. Rows of which all
    others are neighbors get edges among each other in the same way, and so on, until few are left:
    the entry points. So every row can be reached from an entry point.
    """
    starts, edges, chosen = _linked(rows, find_neighbors, DEGREE, MAX_DEGREE, ALPHA)
    while len(chosen) > MAX_ENTRY_POINTS:
        long_starts, long_edges, chosen_again = _linked(
            rows[chosen], find_neighbors, LONG_DEGREE, LONG_MAX_DEGREE, LONG_ALPHA
        )
        heads = np.repeat(chosen, np.diff(long_starts))
        starts, edges = _with_edges(starts, edges, heads, chosen[long_edges])
        before, chosen = chosen, chosen[chosen_again]
        if len(chosen) > max(MAX_ENTRY_POINTS, len(before) / 2):
            # All have the same few neighbors, if they are equally far from each other, say.
            some = chosen[np.linspace(0, len(chosen) - 1, MAX_ENTRY_POINTS).astype(np.int64)]
            starts, edges = _linked_from(rows, starts, edges, some, chosen)
            chosen = some
    lost = np.flatnonzero(~_kernels().reachable(starts, edges, chosen))
    starts, edges = _linked_from(rows, starts, edges, chosen, lost)
    graph = NeighborGraph(starts, edges, chosen, rows[chosen])
    return graph, graph.renumber(rows)


class NeighborGraph(Kept):
    """Edges between near rows, and between groups of rows, however small and far apart.

    Those of node i lead to ``edges[starts[i]:starts[i + 1]]``; a search begins near the nearest of
    the nodes `entry_points`, whose rows it holds. On its way it reads the first `n_coded` nodes in
    one byte per number; `code_range`, center and steps, says how they are written. These codes and
    the groups of entry points are made when they are needed.
    """

    n_coded = 0  # what earlier versions saved was probed without
    code_range: tuple[NDArray, NDArray] | None = None
    lock = ProcessLock()
    _made_codes: NodeCodes | None = None
    _made_groups: tuple[NDArray, NDArray, NDArray, NDArray] | None = None

    renamed: ClassVar[dict[str, str]] = {
        "links": "edges",
        "first": "entry_points",
        "first_rows": "entry_rows",
        "first_squares": "entry_squares",
    }

    def __init__(self, starts, edges, entry_points, entry_rows):
        self.starts, self.edges, self.entry_points = starts, edges, entry_points
        self.enter_at(entry_rows)

    def enter_at(self, entry_rows):
        """Hold the rows of the entry points."""
        self.entry_rows = entry_rows
        self.entry_squares = np.einsum("ij,ij->i", entry_rows, entry_rows)

    def renumber(self, rows):
        """Give near rows near node ids, so that a walk stays in few places of the memory.

        Returns the id that each had before.
        """
        order = np.argsort(self._nearest_entry(rows), kind="stable")
        new = np.empty(len(rows), dtype=np.int32)
        new[order] = np.arange(len(rows), dtype=np.int32)
        degrees = np.diff(self.starts)[order]
        starts = np.concatenate([[0], np.cumsum(degrees)])
        old = np.repeat(self.starts[order] - starts[:-1], degrees) + np.arange(starts[-1])
        self.edges, self.entry_points = new[self.edges[old]], new[self.entry_points]
        fits = starts[-1] <= np.iinfo(np.int32).max
        self.starts = starts.astype(np.int32 if fits else np.int64)
        return order

    def __len__(self):
        return len(self.starts) - 1

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in MADE_AGAIN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was stored, unless the compiled loops, which check nothing, would leave it."""
        vars(self).update({self.renamed.get(name, name): value for name, value in state.items()})
        degrees, n = np.diff(self.starts), len(self)
        nodes = np.concatenate([self.edges, self.entry_points])
        arrays = self.starts, self.edges, self.entry_points
        n_entries = {len(self.entry_points), len(self.entry_rows), len(self.entry_squares)}
        if (
            self.starts[0] != 0
            or self.starts[-1] != len(self.edges)
            or (degrees < 0).any()
            or len(n_entries) > 1
            or 0 in n_entries
            or any(array.dtype.kind != "i" for array in arrays)
            or not ((nodes >= 0) & (nodes < n)).all()
            or not self._are_codes_sound()
        ):
            raise ValueError("The graph of this gallery is damaged. Fit the retriever again.")

    def _are_codes_sound(self):
        shape, parts = self.entry_rows.shape[1:], self.code_range
        if parts is None:
            return self.n_coded == 0
        return 0 < self.n_coded <= len(self) and all(part.shape == shape for part in parts)

    def compact(self):
        """Return where the edges of every node start, and the edges."""
        return self.starts, self.edges

    def extend(self, rows, neighbors, squares, node):
        """Add rows, given their neighbors among `rows`; ``node[i]`` is the id of ``rows[i]``.

        The new ids are those behind the last; a row without an id (-1) gets no edge.
        """
        kept = _kernels().prune(rows, neighbors, squares, DEGREE, ALPHA)
        new = np.repeat(np.arange(len(self), len(self) + len(kept)), kept.shape[1])
        old = node[kept.ravel()]
        linked = (old >= 0) & (kept.ravel() >= 0)
        new, old = new[linked], old[linked]
        heads, tails = np.concatenate([new, old]), np.concatenate([old, new])
        order = np.argsort(heads, kind="stable")
        starts = np.pad(self.starts, (0, len(kept)), mode="edge")
        starts, edges = _with_edges(starts, self.edges, heads[order], tails[order])
        self.starts, self.edges = starts, edges.astype(np.int32)

    def search(self, rows, indexed, queries, k, ef_search, scale=1):
        """Return nodes and squared distances of about the `k` nearest rows, nearest first.

        The row of node i is ``rows[indexed[i]]``; -1 is the position of one that was removed, and
        the node of one that was not found. `ef_search`, at least `k`, is the length of the
        candidate list. With codes, which blur its end, it is a little longer. Rows may
        be the bits of half precision, and may be multiplied by `scale`, a power of two.
        """
        if self.n_coded:
            ef_search += 1 + ef_search // BLURRED
        centers, half_squares, group_starts, entry_points = self._entry_groups()
        similarity = queries @ centers.T
        similarity -= half_squares
        if len(queries) == 1:
            turns = ONE_TURN
        else:  # near queries meet the same rows
            turns = np.argsort(similarity.argmax(axis=1), kind="stable")
        if scale != 1:
            queries = queries * np.float32(scale)
        found = np.full((len(queries), k), -1, dtype=np.int32)
        squares = np.full(found.shape, np.inf, dtype=np.float32)
        arrays = rows, indexed, self.starts, self.edges, queries
        codes = self._codes(rows, indexed, scale).arrays
        ways = similarity, group_starts, entry_points, turns
        arguments = [*map(read_only, arrays + codes + ways), ef_search, found, squares]
        _kernels().walk(*arguments)
        if scale != 1:
            squares /= np.float32(scale) ** 2
        return found, squares

    def choose_codes(self, rows, indexed, queries, k):
        """Use codes if they are shorter, and lead to nearly the same `k` rows of some queries.

        Any node may get a code, whose row is one of `rows`.
        """
        self._use_codes(None, 0)
        if rows.shape[1] * rows.itemsize < BYTES_AT_LEAST:
            return
        by_rows = self.search(rows, indexed, queries, k, EF_TO_AGREE * k)[0]
        self._use_codes(code_range(rows), len(self))
        by_codes = self.search(rows, indexed, queries, k, EF_TO_AGREE * k)[0]
        shares = [np.isin(*nodes).mean() for nodes in zip(by_rows, by_codes)]
        if np.mean(shares) < CODES_AGREE:
            self._use_codes(None, 0)

    def code_all(self):
        """Use codes of nodes that came later, too, if codes are used and the range is theirs."""
        if self.n_coded:
            self._use_codes(self.code_range, len(self))

    def _use_codes(self, code_range, n_coded):
        self.code_range, self.n_coded, self._made_codes = code_range, n_coded, None

    def forget_codes(self):
        """Make the codes again, of other rows that are the same but for rounding and scale."""
        self._made_codes = None

    def _codes(self, rows, indexed, scale=1):
        """Return codes of the nodes, those of none if they are not used."""
        if not self.n_coded:
            none = self.entry_rows[:0, 0]
            return NodeCodes(rows[:0], indexed[:0], none, none.astype(np.float32))
        codes = self._made_codes
        if codes is None:
            with self.lock:
                codes = self._made_codes
                if codes is None:
                    coded = indexed[: self.n_coded]
                    center, steps = self.code_range or code_range(rows)
                    if scale != 1:
                        center, steps = (part * np.float32(scale) for part in (center, steps))
                    codes = NodeCodes(rows, coded, center, steps, _kernels().quantize)
                    self._made_codes = codes
        return codes

    def _entry_groups(self):
        """Return middles of groups of entry points, half their squares, starts, and the nodes."""
        groups = self._made_groups
        if groups is None:
            groups = self._made_groups = _grouped(self.entry_rows, self.entry_points)
        return groups

    def _nearest_entry(self, queries):
        """Return which of the entry points is nearest to each query."""
        return _nearest_of(queries, self.entry_rows, self.entry_squares / 2)


def _grouped(rows, nodes):
    """Return the mean of every group of rows, where its nodes start, and the nodes by group."""
    n_groups = max(len(rows) // ENTRIES_PER_GROUP, min(len(rows), GROUPS_AT_LEAST))
    centers = rows[np.linspace(0, len(rows) - 1, n_groups).astype(np.int64)]
    for _ in range(STEPS_OF_GROUPS - 1):
        centers = _means(rows, centers)[0]
    centers, starts, order = _means(rows, centers)
    return centers, _half_squares(centers), starts, nodes[order]


def _half_squares(rows):
    return np.einsum("ij,ij->i", rows, rows) / 2


def _means(rows, centers):
    """Return the means of the rows nearest to each center, where these start, and their order."""
    nearest = _nearest_of(rows, centers, _half_squares(centers))
    group = np.unique(nearest, return_inverse=True)[1]
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group)
    starts = np.append(0, np.cumsum(sizes))
    sums = np.add.reduceat(rows[order], starts[:-1])
    return (sums / sizes[:, None]).astype(rows.dtype), starts, order


def _linked_from(rows, starts, edges, few, others):
    """Return starts and edges with one more to each of the `others`, from the nearest of `few`."""
    near = few[_nearest_of(rows[others], rows[few], _half_squares(rows[few]))]
    order = np.argsort(near, kind="stable")
    return _with_edges(starts, edges, near[order], others[order].astype(np.int32))


def _nearest_of(queries, rows, half_squares):
    """Return which of a few rows is nearest to every query."""
    nearest = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        similarity = queries[part] @ rows.T
        similarity -= half_squares
        nearest[part] = similarity.argmax(axis=1)
    return nearest


def _linked(rows, find_neighbors, degree, max_degree, alpha):
    """Return where the edges of each row start, the edges, and rows of which all are neighbors."""
    compiled = _kernels()
    neighbors, squares = find_neighbors(rows)
    kept = compiled.prune(rows, neighbors, squares, degree, alpha)
    return *compiled.symmetrize(rows, kept, max_degree), compiled.dominating_set(neighbors)


def _with_edges(starts, edges, heads, tails):
    """Return starts and edges with more edges, given in the order of their heads."""
    edges = np.insert(edges, starts[heads + 1], tails)
    more = np.cumsum(np.bincount(heads, minlength=len(starts) - 1))
    return np.concatenate([starts[:1], starts[1:] + more.astype(starts.dtype)]), edges


def _kernels():
    """Return the compiled loops, which are imported, and numba with them, when they are needed."""
    return LOOPS.load()


@cache
def _import_kernels():
    try:
        from sklearn_cbir.index import _graph_kernels
    except ImportError as error:
        raise ImportError(
            f"The loops for a graph of rows cannot be compiled: {error} Use algorithm='exact'."
        ) from error
    return _graph_kernels


LOOPS = Loops(_import_kernels, NUMBERS_TO_LOAD)
