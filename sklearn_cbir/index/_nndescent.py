"""Approximate search through a neighbor graph, pynndescent's.

The graph is not part of the pickle but built again, from the same seed, when it is first
needed after loading. Its own pickle holds compiled functions, which binds it to one version
of Python and numba, and 1.2 to 2.5 times the size of the rows; and reading it saves little,
since every process compiles the search for some 20 seconds while building takes a few.
"""

import os
import warnings
from contextlib import contextmanager

import numpy as np
from joblib import effective_n_jobs

from sklearn_cbir.index._approximate import ApproximateEngine
from sklearn_cbir.index._gallery import ProcessLock

DEGREE = 30
DEGREE_AT_MOST = 100

# One lock for the process: an index must not be queried by two threads, and numba's
# simplest threading layer ends the process when two threads enter it.
LOCK = ProcessLock()
_started = []  # the process in which numba's threads were started


class NNDescentEngine(ApproximateEngine):
    """A graph in which every row knows its neighbors; compiled once for both metrics."""

    algorithm = "nndescent"

    @property
    def efforts(self):
        """Leaves of a tree to start from, and epsilon: how much further than the best to look.

        From too few leaves, queries end in the wrong one of well separated clusters.
        """
        few = 4 if self.rows.shape[1] < 256 else 8
        epsilons = (0.1, 0.15, 0.2, 0.3)
        return *((few, epsilon) for epsilon in epsilons), (32, 0.2), (32, 0.3), (32, 0.4)

    @property
    def most(self):
        """Number of neighbors that every row knows; more are searched exactly."""
        return min(max(DEGREE, self.n_neighbors + 1), DEGREE_AT_MOST)

    def _can_build(self):
        return not _is_forked()

    def _index(self):
        with LOCK:
            if "_cached_index" not in vars(self) and _is_forked():
                return None
            n_leaves = getattr(vars(self).get("_cached_index"), "search_tree_leaf_budget", None)
            if n_leaves not in (None, self.effort[0]):  # fixed when a graph is made
                del self._cached_index
            return super()._index()

    def _make(self, rows):
        nndescent = _import_nndescent()
        with _numba_threads(self.n_jobs) as n_threads, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = nndescent(
                rows,
                metric="euclidean",
                n_neighbors=self.most,
                search_tree_leaf_budget=self.effort[0],
                random_state=self.seed,
                n_jobs=n_threads,
            )
            graph.prepare()
        return graph

    def _ask(self, index, queries, k, effort):
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        with LOCK:
            return index.query(queries, k=k, epsilon=effort[1])


def _is_forked():
    """Say whether numba's threads were started by a parent: to use them ends this process."""
    return bool(_started) and _started[0] != os.getpid()


def _import_nndescent():
    """Import pynndescent, which takes more than a second."""
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
