"""Link new rows into a graph, while readers use its earlier state.

As in HNSW [1]_, a new row is searched for in the graph. Its edges are chosen among what is found,
and edges lead back to it, by the rule of relative neighborhoods [2]_ that also made the graph: the
heuristic of HNSW, or `RobustPrune` of Vamana [3]_. A node whose places are all taken prunes its
edges by the same rule.

Unlike there, a tree of edges from the entry points to every node is never pruned, so no row is
lost. Some new rows search the graph before they are linked; they measure its recall, as the recall
probe of `fit` does.

References
----------
.. [1] Y. Malkov, D. Yashunin. "Efficient and robust approximate nearest neighbor search using
   Hierarchical Navigable Small World graphs". TPAMI 42 (4), 2020 (arXiv 2016, v4 2018).
.. [2] G. Toussaint. "The relative neighbourhood graph of a finite planar set". Pattern Recognition
   12 (4), 1980.
.. [3] S. J. Subramanya, Devvrit, R. Kadekodi, R. Krishnaswamy, H. V. Simhadri. "DiskANN: Fast
   Accurate Billion-point Nearest Neighbor Search on a Single Node". NeurIPS 2019.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.index._graph import ALPHA, DEGREE, MAX_DEGREE, MAX_ENTRY_POINTS, NeighborGraph
from sklearn_cbir.index._growing import ROOM_AT_LEAST, ROOM_SHARE, append
from sklearn_cbir.index._rows import read_only

ENTRIES = "entry_points", "entry_rows", "entry_squares"
NOT_SAVED = "_held", "_n", "_rooms"
# Nodes near a new row that its edges are chosen among: the length of the candidate list, too.
CANDIDATES = 48
# No row is near a new one whose nearest node has such a share of edges that are shorter by such a
# factor, in squares: it is a place to begin at.
MOST, FAR = 0.75, 2.0
# Entry points are compared with every query.
MOST_ENTRY_POINTS = 2 * MAX_ENTRY_POINTS
# Rows that come between two that are asked before they are linked, at least.
ROWS_PER_PROBE = 32
# So many of them are compared together with all nodes, so many numbers for every row that comes.
ROWS_AT_ONCE, NUMBERS_COMPARED = 16, 2**16
# The last so many probe rows tell the recall, if there are so many at least.
PROBE_ROWS, PROBE_ROWS_AT_LEAST = 200, 50
# Squared distances that differ by less than this share may be rounded into any order.
ROUNDING = 1e-5


class Edges:
    """Memory of the edges of a graph that grows, and of the graphs before it.

    Every node has places for at least `MAX_DEGREE` edges. Unused places hold the node itself, so a
    reader finds a node in every place while an edge is written. A graph is a number of first nodes.
    New rows can be linked to the longest graph; linking to a shorter one makes a copy.
    """

    def __init__(self, graph):
        starts, edges = graph.compact()
        n, degrees = len(starts) - 1, np.diff(starts)
        capacity = n + max(ROOM_AT_LEAST, n // ROOM_SHARE)
        widths = np.full(capacity, MAX_DEGREE, dtype=np.int64)
        np.maximum(degrees, MAX_DEGREE, out=widths[:n])
        self.starts = np.concatenate([[0], np.cumsum(widths)])
        fits = self.starts[-1] <= np.iinfo(np.int32).max
        self.starts = self.starts.astype(np.int32 if fits else np.int64)
        self.edges = np.repeat(np.arange(capacity, dtype=np.int32), widths)
        place = np.repeat(self.starts[:n] - starts[:-1], degrees) + np.arange(len(edges))
        self.edges[place] = edges
        self.parents = np.full(capacity, -1, dtype=np.int32)
        self.parents[:n] = kernels().spanning_tree(starts, edges, graph.entry_points)
        self.length = n
        self.lock = ProcessLock()  # held while edges are written, or copied

    def has_room(self, n):
        """Say whether a graph of `n` nodes may be linked to here."""
        return self.length == n < len(self.parents)


class LinkedGraph(NeighborGraph):
    """A graph that rows were linked into. It is saved as any graph, without room for more."""

    _held: Edges
    _n: int
    _rooms: tuple[Any, ...] = (None, None, None)  # behind the entry points

    @classmethod
    def of(cls, graph, **changes):
        """Return a graph that differs from another one by `changes`."""
        linked = object.__new__(cls)
        vars(linked).update({**vars(graph), **changes})
        return linked

    def __len__(self):
        return self._n

    def __getstate__(self) -> dict[str, Any]:
        starts, edges = self.compact()
        state = {**super().__getstate__(), "starts": starts, "edges": edges}
        return {name: value for name, value in state.items() if name not in NOT_SAVED}

    def compact(self):
        """Return starts and edges of these nodes, without room and later nodes."""
        n = len(self)
        with self._held.lock:
            edges = self.edges[: self.starts[n]].copy()
        heads = np.repeat(np.arange(n, dtype=np.int32), np.diff(self.starts[: n + 1]))
        used = (edges != heads) & (edges < n)
        degrees = np.bincount(heads[used], minlength=n)
        starts = np.concatenate([[0], np.cumsum(degrees)]).astype(self.starts.dtype)
        return starts, edges[used]

    def link(self, rows, indexed, near, squares):
        """Return a graph with one more node, the last of `indexed`; None if no place is left.

        `near` are nodes near it, nearest first, and `squares` their squared distances.
        """
        n, held = len(self), self._held
        with held.lock:
            if not held.has_room(n):
                return linkable(self, anew=True).link(rows, indexed, near, squares)
            arguments = [*map(read_only, (rows, indexed, held.starts)), held.edges, held.parents]
            arguments += [n, near, squares, DEGREE, ALPHA]
            if not kernels().link(*arguments):
                return None
            held.length = n + 1
        return self.of(self, _n=n + 1)

    def is_far(self, rows, indexed, node, square):
        """Say whether a square is far beyond those of most edges of a node."""
        with self._held.lock:
            arrays = map(read_only, (rows, indexed, self.starts, self.edges))
            arguments = [*arrays, node, square / FAR, MOST]
            return kernels().is_far(*arguments)

    def with_entry(self, row):
        """Return the graph with its last node, whose row is (1, n_features), as an entry point."""
        new = np.array([len(self) - 1]), row, np.einsum("ij,ij->i", row, row)
        entries = [getattr(self, name) for name in ENTRIES]
        entries, rooms = zip(*map(append, entries, new, self._rooms))
        return self.of(self, **dict(zip(ENTRIES, entries)), _rooms=rooms, _made_groups=None)


def linkable(graph, anew=False):
    """Return a graph of the same edges that rows can be linked into."""
    if isinstance(graph, LinkedGraph) and not anew:
        return graph
    held = Edges(graph)
    changes = {"_held": held, "_n": len(graph), "starts": held.starts, "edges": held.edges}
    return LinkedGraph.of(graph, **changes)


@dataclass(frozen=True)
class Probe:
    """Recall of a graph, measured with new rows before they are linked.

    Now and then a row is taken for it. Once there are `ROWS_AT_ONCE`, they are compared with all
    nodes, a few for every new row. The last measured recalls are kept.
    """

    shares: tuple[float, ...] = ()
    n_waited: int = 0  # rows since the last that asked
    asked: tuple[tuple, ...] = ()  # queries, squared distances they have found, numbers of nodes
    nearest: Any = None  # squared distances of the nearest nodes so far, (n_queries, k)
    n_compared: int = 0  # nodes that they were compared with

    @property
    def is_waiting(self):
        """Whether another row may be asked for."""
        return self.nearest is None and self.n_waited >= ROWS_PER_PROBE

    @property
    def recall(self):
        """Share of the neighbors that were found; None while too few rows have told."""
        return None if len(self.shares) < PROBE_ROWS_AT_LEAST else float(np.mean(self.shares))

    def ask(self, query, found, n):
        """Return the probe with a row that has found such squared distances among `n` nodes."""
        asked, nearest = (*self.asked, (query, found, n)), None
        if len(asked) == ROWS_AT_ONCE:
            nearest = np.full((len(asked), len(found)), np.inf, dtype=query.dtype)
        return replace(self, n_waited=0, asked=asked, nearest=nearest)

    def step(self, rows, indexed):
        """Return the probe after a row more, with those that ask compared with more nodes."""
        waited = self.n_waited + 1
        if self.nearest is None:
            return replace(self, n_waited=waited)
        start, n = self.n_compared, self.asked[-1][2]
        stop = min(n, start + max(1, NUMBERS_COMPARED // rows.shape[1]))
        queries, found, ns = zip(*self.asked)
        nearest, arrays = self.nearest.copy(), map(read_only, (rows, indexed, np.stack(queries)))
        arguments = [*arrays, np.array(ns), start, stop, nearest]
        kernels().compare(*arguments)
        if stop < n:
            return replace(self, n_waited=waited, nearest=nearest, n_compared=stop)
        shares = *self.shares, *map(_share, found, nearest)
        return Probe(shares[-PROBE_ROWS:], waited)


def _share(found, nearest):
    """Return which share of the nearest were found, by their squared distances."""
    nearest = nearest[np.isfinite(nearest)]
    if not len(nearest):
        return 1.0
    n_found = np.count_nonzero(found <= nearest[-1] * (1 + ROUNDING))
    return min(1.0, n_found / len(nearest))


class Linking:
    """What changes of an engine while the last rows of `exact` are linked into its graph.

    Parameters
    ----------
    engine : NNDescentEngine
        An engine that has a graph.

    exact : ExactEngine
        Its rows, with more behind them.
    """

    def __init__(self, engine, exact):
        self.rows, self.graph, self.indexed = exact.rows, linkable(engine.index), engine.indexed
        self.copies, self.firsts = (
            np.asarray(positions, dtype=np.int64) for positions in (engine.copies, engine.firsts)
        )
        self.rooms, self.probe = dict(engine.rooms), engine.probe
        self.unindexed = []
        self._k = min(engine.n_neighbors, engine.most_neighbors - 1)
        self._n_candidates = engine.n_candidates(self._k, engine.ef_search)
        if self.graph is not engine.index:  # the first call waits for all loops
            row = self.rows[0], np.zeros(1), 0
            Probe(asked=(row,), nearest=self.rows[:1, :1]).step(self.rows, self.indexed)
        for position in range(len(engine), len(exact)):
            self._add(position)

    def _add(self, position):
        """Link a row, or note why it is not: it repeats another, or no place is left for it."""
        row = self.rows[position : position + 1]
        self.probe = self.probe.step(self.rows, self.indexed)
        if not row.any():
            self.unindexed.append(position)
            return
        nodes, squares = self._search(row, CANDIDATES, CANDIDATES)
        equal = self.indexed[nodes[squares == 0]]
        equal = equal[(self.rows[equal] == row).all(axis=1)]
        if len(equal):
            self._append("copies", position)
            self._append("firsts", equal[0])
            return
        if self.probe.is_waiting:
            found = np.full(self._k, np.inf)
            squares_found = self._search(row, self._k, self._n_candidates)[1]
            found[: len(squares_found)] = squares_found
            self.probe = self.probe.ask(row[0], found, len(self.graph))
        before, room = self.indexed, self.rooms.get("indexed")
        self._append("indexed", position)
        graph = self.graph.link(self.rows, self.indexed, nodes, squares)
        if graph is None:
            self.indexed, self.rooms["indexed"] = before, room
            self.unindexed.append(position)
            return
        self.graph = graph
        may_begin = len(graph.entry_points) < MOST_ENTRY_POINTS
        if may_begin and graph.is_far(self.rows, self.indexed, nodes[0], squares[0]):
            self.graph = graph.with_entry(row)

    def _search(self, row, k, n_candidates):
        """Return nodes and squared distances of what is near a row, as far as it was found."""
        nodes, squares = self.graph.search(self.rows, self.indexed, row, k, n_candidates)
        found = nodes[0] >= 0
        return nodes[0][found], squares[0][found]

    def _append(self, name, value):
        """Append to an array that the engines before share."""
        array = getattr(self, name)
        more = np.array([value], dtype=array.dtype)
        grown, self.rooms[name] = append(array, more, self.rooms.get(name))
        setattr(self, name, grown)


def kernels():
    """Return the compiled loops, which are imported when they are needed."""
    from sklearn_cbir.index import _linking_kernels

    return _linking_kernels
