"""Approximate search over float rows through a neighbor graph, pynndescent's.

The graph is never trusted alone: distances are measured on the rows themselves, and a
query for which it gives too few, repeated or removed rows is answered exactly.

It is not part of the pickle but built again, from the same seed, when it is first needed
after loading. Its pickle holds compiled functions, so that it is bound to one version of
Python and numba, and 1.2 to 2.5 times the size of the rows; and reading it saves little,
since every process compiles the search for some 20 seconds while building takes a few.
"""

import os
import warnings
from contextlib import contextmanager

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils import check_random_state

from sklearn_cbir.index._exact import CosineEngine, EuclideanEngine
from sklearn_cbir.index._gallery import ProcessLock

EXACT = {"cosine": CosineEngine, "euclidean": EuclideanEngine}
# Fewer rows are searched exactly: comparing them all is faster than walking a graph.
ROWS_AT_LEAST = 1000
# Rows that stay out of the graph, are searched exactly, and tell its recall.
ROWS_HELD_OUT = 200
# Share of rows outside the graph (added since, or removed) at which it is built again.
STALE = 0.05
DEGREE = 30
DEGREE_AT_MOST = 100
# Width of the search; the first that reaches the target is taken.
EPSILONS = (0.2, 0.3, 0.4)

# One lock for the process: an index must not be queried by two threads, and numba's
# simplest threading layer ends the process when two threads enter it.
LOCK = ProcessLock()
_started = []  # the process in which numba's threads were started


class NNDescentEngine:
    """A graph over most rows, and an exact search over the others.

    Rows are compared by the Euclidean distance, those of unit length too: it orders
    them as the cosine does, compiles once for both, and marks what was not found.
    """

    def __init__(
        self, metric, *, n_neighbors=10, recall_target=0.95, n_jobs=None, random_state=None
    ):
        self.exact = EXACT[metric]()
        self.degree = min(max(DEGREE, n_neighbors + 1), DEGREE_AT_MOST)
        self.n_probed = min(n_neighbors, self.degree - 1)
        self.recall_target = recall_target
        self.n_jobs = n_jobs
        self.random_state = random_state

    def build(self, rows):
        """Hold a copy of `rows` and build the graph."""
        return self.build_on(self.exact.build(rows))

    def build_on(self, exact):
        """Build the graph over the rows of an exact engine."""
        self.exact = exact
        self.seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._build()
        return self

    def __len__(self):
        return len(self.exact)

    def __getstate__(self):
        state = {key: value for key, value in vars(self).items() if not key.startswith("_cached")}
        # A graph that is built again holds only rows that are still there.
        return {**state, "members": self.members[self.members >= 0]}

    @property
    def name(self):
        """What answers: few rows have no graph."""
        return "nndescent" if len(self.members) else "exact"

    @property
    def rows(self):
        """The gallery, as it is compared."""
        return self.exact.rows

    def encode(self, rows):
        """Return rows in the form in which they are compared."""
        return self.exact.encode(rows)

    def query_radius(self, queries, radius):
        """Return lists of the distances and positions of all rows within `radius`, exactly."""
        return self.exact.query_radius(queries, radius)

    def distances(self, queries):
        """Return the exact distances to all rows."""
        return self.exact.distances(queries)

    def query(self, queries, k):
        """Return distances and positions of about the `k` nearest rows, both (n_queries, k)."""
        graph = self._graph() if len(self.members) and k <= self.degree else None
        if graph is None:
            return self.exact.query(queries, k)
        positions, lacking = self._from_graph(graph, queries, k)
        positions = np.hstack([positions, self._from_loose(queries, k)])
        which, column = np.nonzero(positions >= 0)
        distances = np.full(positions.shape, np.inf)
        distances[which, column] = self.exact.measure(queries, which, positions[which, column])
        order = np.lexsort((positions, distances), axis=1)[:, :k]
        distances = np.take_along_axis(distances, order, axis=1)
        positions = np.take_along_axis(positions, order, axis=1)
        if lacking.any():
            distances[lacking], positions[lacking] = self.exact.query(queries[lacking], k)
        return distances, positions

    def add(self, rows):
        """Return an engine with `rows` appended: they are searched exactly until it is rebuilt."""
        loose = np.r_[self.loose, np.arange(len(self), len(self) + len(rows))]
        return self._with(self.exact.add(rows), self.members, loose)

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        moved = np.cumsum(np.r_[0, np.bincount(positions, minlength=len(self))[:-1] == 0])
        moved[positions] = -1
        loose = moved[self.loose]
        members = moved[self.members]
        if "_cached_graph" not in vars(self):
            members = members[members >= 0]
        return self._with(self.exact.remove(positions), members, loose[loose >= 0])

    def _with(self, exact, members, loose):
        """Return an engine over other rows, its graph built again if too much has changed."""
        engine = object.__new__(type(self))
        vars(engine).update(vars(self))  # the graph with it, unlike a copy
        engine.exact, engine.members, engine.loose = exact, members, loose
        vars(engine).pop("_cached_loose", None)
        outside = len(loose) - self.n_loose + np.count_nonzero(members < 0)
        if outside > STALE * len(exact):
            vars(engine).pop("_cached_graph", None)
            engine._build()
        return engine

    def _build(self):
        """Choose the rows of the graph, build it and measure its recall."""
        rows = self.exact.rows
        eligible = np.flatnonzero(rows.any(axis=1))
        if len(eligible) < ROWS_AT_LEAST or _is_forked():
            self.members, self.loose = np.arange(0), np.arange(len(rows))
            self.n_loose, self.recall = 0, 1.0
            return
        generator = np.random.default_rng(self.seed)
        held_out = generator.choice(eligible, ROWS_HELD_OUT, replace=False)
        self.members = np.setdiff1d(eligible, held_out)
        self.loose = np.setdiff1d(np.arange(len(rows)), self.members)
        self.n_loose = len(self.loose)
        self._measure_recall(rows[held_out])

    def _measure_recall(self, queries):
        """Widen the search until it finds enough of the neighbors of rows it does not hold."""
        k = self.n_probed
        furthest = self.exact.query(queries, k + 1)[0][:, -1:]
        for epsilon in EPSILONS:
            self.epsilon = epsilon
            found = self.query(queries, k + 1)[0] <= furthest  # the row itself is among them
            self.recall = float((np.count_nonzero(found, axis=1) - 1).mean() / k)
            if self.recall >= self.recall_target:
                return
        warnings.warn(
            f"The graph finds {self.recall:.3f} of the true {k} nearest neighbors, less than "
            f"recall_target={self.recall_target}. Use algorithm='exact', or a lower target if "
            "that is enough.",
            UserWarning,
            stacklevel=6,
        )

    def _from_graph(self, graph, queries, k):
        """Return what the graph finds, -1 where it found nothing, and which answers lack rows."""
        wanted = k + min(k, np.count_nonzero(self.members < 0))
        with LOCK:
            vertices, distances = graph.query(
                np.ascontiguousarray(queries, dtype=np.float32), k=wanted, epsilon=self.epsilon
            )
        # A slot that was not filled holds an infinite distance and the number of some row.
        filled = np.isfinite(distances)
        positions = np.where(filled, self.members[vertices], -1)
        in_order = np.sort(vertices, axis=1)
        lacking = ~filled.all(axis=1) | (in_order[:, 1:] == in_order[:, :-1]).any(axis=1)
        lacking |= np.count_nonzero(positions >= 0, axis=1) < k
        lacking |= ~queries.any(axis=1)  # a zero row has no direction to follow
        return positions, lacking

    def _from_loose(self, queries, k):
        """Return the nearest rows that the graph does not hold."""
        if "_cached_loose" not in vars(self):
            self._cached_loose = self.exact._with(self.exact.rows[self.loose])
        return self.loose[self._cached_loose.query(queries, min(k, len(self.loose)))[1]]

    def _graph(self):
        """Return the graph, built if it is not there; None where it cannot be built."""
        if "_cached_graph" not in vars(self):
            with LOCK:
                if "_cached_graph" not in vars(self):
                    if _is_forked():
                        return None
                    self._cached_graph = self._compile_and_build()
        return self._cached_graph

    def _compile_and_build(self):
        nndescent = _import_nndescent()
        rows = np.ascontiguousarray(self.exact.rows[self.members], dtype=np.float32)
        with _numba_threads(self.n_jobs) as n_threads, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = nndescent(
                rows,
                metric="euclidean",
                n_neighbors=self.degree,
                search_tree_leaf_budget=16 if rows.shape[1] < 256 else 32,
                random_state=self.seed,
                n_jobs=n_threads,
            )
            graph.prepare()
        return graph


def _is_forked():
    """Say whether numba's threads were started by a parent: to use them ends this process."""
    return bool(_started) and _started[0] != os.getpid()


def _import_nndescent():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pynndescent import NNDescent
    except RuntimeError as error:
        raise ImportError(
            "pynndescent could not be compiled, because numba has no folder for its cache. Set "
            "the environment variable NUMBA_CACHE_DIR to a folder that can be written, or use "
            "algorithm='exact'."
        ) from error
    return NNDescent


@contextmanager
def _numba_threads(n_jobs):
    """Give the number of threads to build with, and restore numba's own afterwards."""
    import numba

    before = numba.get_num_threads()
    if not _started:
        _started.append(os.getpid())
    try:
        yield min(effective_n_jobs(n_jobs), numba.config.NUMBA_NUM_THREADS)
    finally:
        numba.set_num_threads(before)
