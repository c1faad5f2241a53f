"""Approximate search through a graph of near rows, which pynndescent finds.

The graph is part of the pickle: reading it takes milliseconds, finding it again seconds, and some
20 more on a machine that has not compiled pynndescent yet. It adds some 90 bytes to every row.
pynndescent's own search is not used: it cannot be called by two threads, compiles for seconds
when a saved graph is loaded, fills places that it has no row for with any row, and is slower.
"""

import math
import os
import warnings
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from threadpoolctl import threadpool_limits

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._threads import in_threads, slices
from sklearn_cbir.index._approximate import (
    MORE,
    PROBE_ROWS,
    PRODUCTS_PER_THREAD,
    STALE,
    ApproximateEngine,
)
from sklearn_cbir.index._exact_engines import EXACT
from sklearn_cbir.index._graph import LOOPS, link_rows
from sklearn_cbir.index._linking import Linking, Probe, kernels
from sklearn_cbir.index._rows import row_blocks
from sklearn_cbir.index._stored import StoredEngine

DEGREE = 30  # neighbors of a row, from which its edges are chosen
# Up to so many rows, comparing all with all takes less time than compiling pynndescent.
PAIRWISE_UP_TO_ROWS = 20_000
# Of so few rows, the probe rows are a large part, and a graph that holds them finds less: .015 less
# for 1,200, .008 for 2,000, nothing to be seen for 10,000. To search more by their share makes up.
FEW_ROWS = 5000
# Share of new rows from which it takes less time to build anew than to link them.
NEW = 0.25
# Share of nodes that queries pass though their rows were removed; of more, it is built anew.
REMOVED = 0.2
ROWS_MET = 15  # about, for each in the candidate list
_started = []  # the process in which numba's threads were started


class NNDescentEngine(ApproximateEngine):
    """A graph in which every row has edges to near ones."""

    algorithm = "nndescent"
    pickled = (*ApproximateEngine.pickled, "index", "built_recall", "built_ef_search")
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

    # What was measured when the graph was built; earlier versions saved only what is now.
    built_recall: float | None = None
    built_ef_search: float | None = None
    probe = Probe()  # what new rows have told since
    rooms: Any = ()  # names of arrays that grow, and what is behind them

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
        return self.index if LOOPS.once_it_pays(math.prod(queries.shape) * len(self)) else None

    def _make(self, rows):
        is_large = len(rows) > PAIRWISE_UP_TO_ROWS
        if is_large:  # for pynndescent, in place: no distance depends on where the middle is
            rows -= rows.mean(axis=0)
        graph, order = link_rows(rows, self._find_neighbors)
        self.indexed = self.indexed[order]
        if is_large:
            graph.enter_at(self.rows[self.indexed[graph.entry_points]])
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
        if len(near) + len(self.indexed) < FEW_ROWS:
            self._search_more(self.ef_search * (1 + len(near) / len(self.indexed)))
        self.built_recall, self.built_ef_search = self.recall, self.ef_search
        self.probe, self.rooms = Probe(), ()
        return True

    def _once_admitted(self, shares):
        # The probe rows, compared one by one until then, will be missed as often as others.
        share_indexed = len(self.indexed) / (len(self.indexed) + len(self.unindexed))
        return 1 - (1 - shares) / share_indexed

    def add(self, rows):
        """Return an engine with `rows` appended, each linked into the graph."""
        if not self._can_link(len(rows)):
            return super().add(rows)
        exact = self.exact.add(rows)
        linking = Linking(self, exact)
        engine = self._over(
            exact,
            linking.indexed,
            np.append(self.unindexed, np.array(linking.unindexed, dtype=self.unindexed.dtype)),
            index=linking.graph,
            copies=linking.copies,
            firsts=linking.firsts,
            probe=linking.probe,
            rooms=linking.rooms,
        )
        return engine._tuned()

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        engine = super().remove(positions)
        graph = engine._held_index().get("index")  # none if too few rows are left
        if graph is not None and graph is self._held_index().get("index"):
            engine.probe = self.probe
        return engine

    def _can_link(self, n):
        """Say whether `n` new rows are to be linked, and can be."""
        if not len(self.indexed) or not self.knows("index") or n > NEW * (len(self) + n):
            return False
        with suppress(ImportError):
            return bool(kernels())
        return False

    def _tuned(self):
        """Return this engine with the recall that new rows tell; below the target, it has to act.

        It searches more first, up to four times as much as when it was built, and is then built
        anew; unless the target was not reached then either.
        """
        if self.built_recall is None or self.built_ef_search is None:
            self.built_recall, self.built_ef_search = self.recall, self.ef_search
        recall = self.probe.recall
        if recall is None:
            return self
        self.recall = min(self.built_recall, recall)
        if recall >= self.recall_target or self.built_recall < self.recall_target:
            return self
        more = [step for step in self.ef_searches if step > self.ef_search]
        if not more or more[0] > MORE * self.built_ef_search:
            del vars(self)["index"]
            self._build()
            return self
        self._search_more(more[0])
        self.probe = replace(self.probe, shares=())
        return self

    def _search_more(self, ef_search: float) -> None:
        """Search so much, and as much more for many neighbors and for filters."""
        factor, (k, widest) = ef_search / self.ef_search, self.widest
        self.ef_search, self.widest = ef_search, (k, factor * widest)
        self.filter_ef_search *= factor

    def _is_stale(self, n_not_indexed, n_removed):
        return n_not_indexed > STALE * len(self) or n_removed > REMOVED * len(self.indexed)

    def _find_neighbors(self, rows):
        """Return positions and squared distances of the rows nearest to every row but itself."""
        if len(rows) <= PAIRWISE_UP_TO_ROWS:
            distances, found = EXACT("euclidean").build(rows).query(rows, DEGREE + 1)
            return _without_self(found), distances**2
        nndescent = _import_nndescent()
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        with _numba_threads(self.n_jobs) as n_threads, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            neighbors = nndescent(
                rows,
                metric="euclidean",
                n_neighbors=DEGREE,
                random_state=self.seed,
                n_jobs=n_threads,
            )
            found, distances = neighbors.neighbor_graph
        return _without_self(found), distances**2

    def n_candidates(self, k, ef_search):
        """Return the length of the candidate list for `k` neighbors."""
        return int(np.ceil(ef_search * max(k, self.n_neighbors + 1)))

    def _walked(self) -> tuple[Any, float]:
        """Return the rows that a walk reads, and what they are multiplied by."""
        return self.exact.rows, 1

    def _ask(self, index, queries, k, ef_search):
        n_candidates, (rows, scale) = self.n_candidates(k, ef_search), self._walked()
        block = np.ascontiguousarray(queries, dtype=self.exact.rows.dtype)
        n_wanted = block.size * ROWS_MET * n_candidates / PRODUCTS_PER_THREAD
        # Pieces of about 0.1 s at most, so that Ctrl-C is heard, and several per thread.
        step = len(block) if n_wanted < 2 else int(len(block) / max(8, n_wanted))
        if step >= len(block):
            nodes, squares = index.search(rows, self.indexed, block, k, n_candidates, scale)
            return np.maximum(nodes, 0), squares
        found = list(
            in_threads(
                lambda part: index.search(rows, self.indexed, block[part], k, n_candidates, scale),
                slices(len(block), max(1, step)),
                n_wanted,
            )
        )
        nodes, squares = (np.concatenate(parts) for parts in zip(*found))
        return np.maximum(nodes, 0), squares


class HalfNNDescentEngine(NNDescentEngine):
    """The same over rows in half precision, which are held in single precision to build alone.

    New rows are not linked: they are searched exactly beside the graph, until it is built again.
    """

    storages = ("float16",)

    def __init__(self, metric, **options):
        super().__init__(metric, **options)
        self.exact = EXACT(metric, storage="float16")

    def query(self, queries, k):
        """Return distances and positions of about the `k` nearest rows, both (n_queries, k)."""
        answer = super().query
        if isinstance(queries, np.ndarray):
            return answer(queries, k)
        blocks = row_blocks(*queries.shape, itemsize=32)  # the gallery itself, which is read
        distances, positions = zip(*(answer(queries[block], k) for block in blocks))
        return np.concatenate(distances), np.concatenate(positions)

    @contextmanager
    def _rows_as_compared(self):
        stored = self.exact
        self.exact = self._exact_over(stored.rows[:])
        try:
            yield
        finally:
            self.exact = stored
            self._forget()
            if self.knows("index"):
                self.index.forget_codes()

    def _exact_over(self, rows):
        engine = EXACT(self.metric)._over(rows)
        engine.scale = self.exact.scale
        return engine

    def _can_link(self, n):
        return False

    def _walked(self):
        if not isinstance(self.exact, StoredEngine):  # while the graph is built
            return super()._walked()
        store, scale = self.exact.store, self.exact.scale
        return store.values.view(np.uint16), store.factor / scale

    def _ask(self, index, queries, k, ef_search):
        nodes, squares = super()._ask(index, queries, k, ef_search)
        if self.metric == "cosine":
            # Rounded, rows have norm 1 no more, but are equally far from the origin all the same.
            squares[~queries.any(axis=1)] = 1
        return nodes, squares


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
