"""Approximate search through a graph of near rows, which pynndescent finds.

The graph is part of the pickle: reading it takes milliseconds, finding it again seconds, and some
20 more on a machine that has not compiled pynndescent yet. It adds some 90 bytes to every row.
pynndescent's own search is not used: it cannot be called by two threads, compiles for seconds
when a saved graph is loaded, fills places that it has no row for with any row, and is slower.
"""

import os
import warnings
from contextlib import contextmanager, suppress

import numpy as np
from joblib import effective_n_jobs
from threadpoolctl import threadpool_limits

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._threads import in_threads, slices
from sklearn_cbir.index._approximate import (
    PROBE_ROWS,
    PRODUCTS_PER_THREAD,
    ApproximateEngine,
)
from sklearn_cbir.index._exact_engines import EXACT
from sklearn_cbir.index._graph import LOOPS, link_rows

DEGREE = 30  # neighbors of a row, from which its edges are chosen
# Up to so many rows, comparing all with all takes less time than compiling pynndescent.
PAIRWISE_UP_TO_ROWS = 20_000
ROWS_MET = 15  # about, for each in the candidate list
_started = []  # the process in which numba's threads were started


class NNDescentEngine(ApproximateEngine):
    """A graph in which every row has edges to near ones."""

    algorithm = "nndescent"
    pickled = (*ApproximateEngine.pickled, "index")
    # Of its own: to make a graph takes seconds. And numba's simplest threading layer ends the
    # process when two threads enter it.
    lock = ProcessLock()
    # Walking further than to some hundred rows costs more than comparing all of them.
    neighbors_limit = 256
    rows_per_neighbor = 100
    skips_removed = True
    # Length of the candidate list, for each neighbor that is asked for.
    ef_searches = (
        *(1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9),
        *(2, 2.2, 2.5, 2.8, 3.2, 3.6, 4, 5, 6, 8, 12, 18, 27, 40),
    )

    def __setstate__(self, state):
        super().__setstate__(state)
        if self.knows("index") and not (
            len(self.indexed) == len(self.index)
            and self.indexed.max() < len(self.rows)
            and self.index.entry_rows.shape[1] == self.rows.shape[1]
        ):
            raise ValueError("The graph is not that of this gallery. Fit the retriever again.")

    def _can_build(self) -> bool:
        return not _is_forked()

    def _usable_index(self, queries):
        if not self.knows("index"):
            return None if _is_forked() else self.index
        # One that was loaded needs them for the first time.
        return self.index if LOOPS.once_it_pays(queries.size * len(self)) else None

    def _make(self, rows):
        graph, order = link_rows(rows, self._find_neighbors)
        self.indexed = self.indexed[order]
        return graph

    def _n_probe(self, n: int) -> int:
        # They are linked in the end, so that many of them cost nothing.
        return min(PROBE_ROWS * 5, max(PROBE_ROWS, n // 10))

    def _measure_recall(self, queries):
        k = min(self.n_neighbors, self.most_neighbors - 1) + 1
        block = np.ascontiguousarray(queries, dtype=self.rows.dtype)
        self.index.choose_codes(self.rows, self.indexed, block, k)
        super()._measure_recall(queries)

    def _admit(self, positions):
        rows = self.exact.rows
        near = self.exact.query_distinct(rows[positions], DEGREE + 1)[1]
        squares = np.array(
            [((rows[n] - rows[p]) ** 2).sum(axis=1) for n, p in zip(near, positions)]
        )
        near[near == positions[:, None]] = -1
        node = np.full(len(rows), -1, dtype=np.int32)
        node[self.indexed] = np.arange(len(self.indexed))
        node[positions] = len(self.indexed) + np.arange(len(positions))
        self.index.extend(rows, near.astype(np.int32), squares, node)
        self.index.code_all()
        return True

    def _find_neighbors(self, rows):
        """Return positions and squared distances of the rows nearest to every row but itself."""
        if len(rows) <= PAIRWISE_UP_TO_ROWS:
            distances, found = EXACT("euclidean").build(rows).query(rows, DEGREE + 1)
            return _without_self(found), distances**2
        nndescent = _import_nndescent()
        centered = np.ascontiguousarray(rows - rows.mean(axis=0), dtype=np.float32)
        with _numba_threads(self.n_jobs) as n_threads, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            neighbors = nndescent(
                centered,
                metric="euclidean",
                n_neighbors=DEGREE,
                random_state=self.seed,
                n_jobs=n_threads,
            )
            found, distances = neighbors.neighbor_graph
        return _without_self(found), distances**2

    def _ask(self, index, queries, k, ef_search):
        n_candidates = int(np.ceil(ef_search * max(k, self.n_neighbors + 1)))
        rows = self.exact.rows
        block = np.ascontiguousarray(queries, dtype=rows.dtype)
        n_wanted = block.size * ROWS_MET * n_candidates / PRODUCTS_PER_THREAD
        # Pieces of about 0.1 s at most, so that Ctrl-C is heard, and several per thread.
        step = len(block) if n_wanted < 2 else int(len(block) / max(8, n_wanted))
        if step >= len(block):
            nodes, squares = index.search(rows, self.indexed, block, k, n_candidates)
            return np.maximum(nodes, 0), squares
        found = list(
            in_threads(
                lambda part: index.search(rows, self.indexed, block[part], k, n_candidates),
                slices(len(block), max(1, step)),
                n_wanted,
            )
        )
        nodes, squares = (np.concatenate(parts) for parts in zip(*found))
        return np.maximum(nodes, 0), squares


def _without_self(neighbors):
    """Return the neighbors of all rows, -1 in place of a row itself."""
    itself = np.arange(len(neighbors))[:, None]
    return np.where(neighbors == itself, -1, neighbors).astype(np.int32)


def _is_forked():
    """Say whether numba's threads were started by a parent: to use them ends this process."""
    return bool(_started) and _started[0] != os.getpid()


def _import_nndescent():
    """Import pynndescent, with its compiled loops kept on disk if it is a version that we know."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pynndescent import NNDescent

            with suppress(ImportError, AttributeError):
                from sklearn_cbir.index._kept_descent import kept_class

                return kept_class() or NNDescent
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
