"""Approximate search through a graph of near rows, which pynndescent finds.

The graph is part of the pickle: reading it takes milliseconds, finding it again seconds, and some
20 more in every process, for compiling pynndescent. It adds some 90 bytes to every row.
pynndescent's own search is not used: it cannot be called by two threads, compiles for seconds
when a saved graph is loaded, fills places that it has no row for with any row, and is slower.
"""

import os
import warnings
from contextlib import contextmanager

import numpy as np
from joblib import effective_n_jobs
from threadpoolctl import threadpool_limits

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.codes._search import in_threads, slices
from sklearn_cbir.index._approximate import NEIGHBORS, ROWS_HELD_OUT, ApproximateEngine
from sklearn_cbir.index._exact import EuclideanEngine
from sklearn_cbir.index._graph import link_rows

DEGREE = 30  # neighbors of a row, from which its links are chosen
# Walking further than to some hundred rows costs more than comparing all of them.
NEIGHBORS_AT_MOST = 256
# Up to so many rows, comparing all with all takes less time than compiling pynndescent.
EXACT_UP_TO_ROWS = 20_000
ROWS_MET = 15  # about, for each that is kept in mind
# Products of numbers below which a second thread costs more than it saves.
PRODUCTS_PER_THREAD = 5e8

# One lock for the process: a graph is made once, whichever thread needs it first, and numba's
# simplest threading layer ends the process when two threads enter it.
LOCK = ProcessLock()
_started = []  # the process in which numba's threads were started


class NNDescentEngine(ApproximateEngine):
    """A graph in which every row is linked to near ones."""

    algorithm = "nndescent"
    index_name = "graph"
    skips_removed = True
    # Rows that are kept in mind on the way, for each neighbor that is asked for.
    efforts = (*np.arange(10, 20) / 10, *(2, 2.2, 2.5, 2.8, 3.2, 3.6, 4, 5, 6, 8, 12, 18, 27, 40))

    def __setstate__(self, state):
        vars(self).update(state)
        if self.index_name in state and not (
            len(self.members) == len(self.graph)
            and self.members.max() < len(self.rows)
            and self.graph.first_rows.shape[1] == self.rows.shape[1]
        ):
            raise ValueError("The graph is not that of this gallery. Fit the retriever again.")

    @property
    def most(self):
        """Number of neighbors up to which the graph is asked; more are searched exactly."""
        return min(max(NEIGHBORS, self.n_neighbors + 1), NEIGHBORS_AT_MOST)

    def _can_build(self):
        return not _is_forked()

    def _index(self):
        with LOCK:
            if self.index_name not in vars(self) and _is_forked():
                return None
            return super()._index()

    def _make(self, rows):
        graph, order = link_rows(rows, self._find_neighbors)
        self.members = self.members[order]
        return graph

    def _n_held_out(self, n):
        # They are linked in the end, so that many of them cost nothing.
        return min(ROWS_HELD_OUT * 5, max(ROWS_HELD_OUT, n // 10))

    def _admit(self, positions):
        rows = self.exact.rows
        near = self.exact.query_distinct(rows[positions], DEGREE + 1)[1]
        squares = np.array(
            [((rows[n] - rows[p]) ** 2).sum(axis=1) for n, p in zip(near, positions)]
        )
        near[near == positions[:, None]] = -1
        number = np.full(len(rows), -1, dtype=np.int32)
        number[self.members] = np.arange(len(self.members))
        number[positions] = len(self.members) + np.arange(len(positions))
        self.graph.extend(rows, near.astype(np.int32), squares, number)
        return True

    def _find_neighbors(self, rows):
        """Return numbers and squared distances of the rows nearest to every row but itself."""
        if len(rows) <= EXACT_UP_TO_ROWS:
            distances, numbers = EuclideanEngine().build(rows).query(rows, DEGREE + 1)
            return _without_self(numbers), distances**2
        nndescent = _import_nndescent()
        centered = np.ascontiguousarray(rows - rows.mean(axis=0), dtype=np.float32)
        with _numba_threads(self.n_jobs) as n_threads, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = nndescent(
                centered,
                metric="euclidean",
                n_neighbors=DEGREE,
                random_state=self.seed,
                n_jobs=n_threads,
            )
            numbers, distances = found.neighbor_graph
        return _without_self(numbers), distances**2

    def _ask(self, index, queries, k, effort):
        kept = int(np.ceil(effort * max(k, self.n_neighbors + 1)))
        rows = self.exact.rows
        block = np.ascontiguousarray(queries, dtype=rows.dtype)
        n_wanted = block.size * ROWS_MET * kept / PRODUCTS_PER_THREAD
        # Pieces of about 0.1 s at most, so that Ctrl-C is heard, and several per thread.
        step = len(block) if n_wanted < 2 else int(len(block) / max(8, n_wanted))
        found = list(
            in_threads(
                lambda part: index.search(rows, self.members, block[part], k, kept),
                slices(len(block), max(1, step)),
                n_wanted,
            )
        )
        numbers, squares = (np.concatenate(parts) for parts in zip(*found))
        return np.maximum(numbers, 0), squares


def _without_self(numbers):
    """Return the neighbors of all rows, -1 in place of a row itself."""
    own = np.arange(len(numbers))[:, None]
    return np.where(numbers == own, -1, numbers).astype(np.int32)


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
    """Give the number of threads to build with; afterwards all is as before.

    Numba leaves its number of threads in the OpenMP that it shares with torch, whose sums, and so
    the bits of a network that is trained later, depend on it.
    """
    with threadpool_limits(limits=None):  # no limit, but puts back what was
        import numba

        before = numba.get_num_threads()  # starts them
        if not _started:
            _started.append(os.getpid())
        try:
            yield min(effective_n_jobs(n_jobs), numba.config.NUMBA_NUM_THREADS)
        finally:
            numba.set_num_threads(before)
