"""Approximate search with faiss, an optional dependency: inverted lists, or a graph of layers.

The index is not part of the pickle: it holds a copy of the rows, which would double the file. What
takes most of the time, the centers of the lists, is stored, and the lists are filled again when
they are first needed after loading. A graph of layers is built anew, from the same rows.
"""

import os
from contextlib import contextmanager

import numpy as np
from joblib import effective_n_jobs

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._threads import in_threads, slices
from sklearn_cbir.index._approximate import PRODUCTS_PER_THREAD, ApproximateEngine
from sklearn_cbir.index._engine import derived

# From this many rows on, walking a graph costs less than scanning lists of rows.
GRAPH_FROM_ROWS = 500_000
MAX_DEGREE = 16  # M of the paper on HNSW
EF_CONSTRUCTION = 100
_PROCESS = os.getpid()


class FaissEngine(ApproximateEngine):
    """Lists of rows around centers that k-means finds (IVFFlat), or a layered graph (HNSW [1]_).

    References
    ----------
    .. [1] Y. Malkov, D. Yashunin. "Efficient and robust approximate nearest neighbor search using
       Hierarchical Navigable Small World graphs". TPAMI 42 (4), 2020 (arXiv 2016, v4 2018).
    """

    algorithm = "faiss"
    pickled = (*ApproximateEngine.pickled, "centers")
    lock = ProcessLock()  # of its own: to build an index takes seconds
    neighbors_limit = 1000
    rows_per_neighbor = 50
    centers = None  # of the lists, (n_lists, n_features), once they are found

    def __init__(self, metric, **options):
        _import_faiss()  # few rows need no index: say all the same that it is missing
        super().__init__(metric, **options)

    @derived
    def ef_searches(self) -> tuple[float, ...]:
        """Lists to scan (nprobe), or the size of the candidate list of a walk (efSearch)."""
        return (64, 128, 256, 512) if self._is_graph() else (6, 8, 12, 16, 24, 32, 64, 128)

    def _is_graph(self):
        return len(self.indexed) >= GRAPH_FROM_ROWS

    def _build(self):
        self.centers = None
        super()._build()

    def _make(self, rows):
        faiss = _import_faiss()
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        # A forked child waits forever for the threads that its parent had.
        n_threads = effective_n_jobs(self.n_jobs) if os.getpid() == _PROCESS else 1
        with _openmp_threads(faiss, n_threads):
            index = (self._graph if self._is_graph() else self._lists)(faiss, rows)
            index.add(rows)
        return index

    def _graph(self, faiss, rows):
        """Return an empty graph."""
        index = faiss.IndexHNSWFlat(rows.shape[1], MAX_DEGREE)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        return index

    def _lists(self, faiss, rows):
        """Return empty lists around centers."""
        n_lists = int(2 * np.sqrt(len(rows))) if self.centers is None else len(self.centers)
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(rows.shape[1]), rows.shape[1], n_lists)
        if self.centers is None:
            index.cp.seed = self.seed
            index.cp.min_points_per_centroid = 1  # or it prints a warning
            index.train(rows)
            self.centers = index.quantizer.reconstruct_n(0, n_lists)
        else:
            index.quantizer.add(self.centers)
            index.is_trained = True
        return index

    def _ask(self, index, queries, k, ef_search):
        faiss, k = _import_faiss(), int(k)  # faiss takes no integers of numpy
        ef_search = int(np.ceil(ef_search))
        if isinstance(index, faiss.IndexHNSWFlat):
            parameters = faiss.SearchParametersHNSW(efSearch=max(ef_search, 2 * k))
            n_compared = 2 * MAX_DEGREE * parameters.efSearch
        else:
            parameters = faiss.SearchParametersIVF(nprobe=min(ef_search, index.nlist))
            n_compared = index.nlist + index.ntotal * parameters.nprobe / index.nlist

        def ask(part):
            # Threads of OpenMP wait in loops, which is ruinous where others need the cores.
            with _openmp_threads(faiss, 1):
                return index.search(block[part], k, params=parameters)

        block = np.ascontiguousarray(queries, dtype=np.float32)
        n_wanted = block.size * n_compared / PRODUCTS_PER_THREAD
        pieces = slices(len(block), max(1, -(-len(block) // 8)) if n_wanted >= 2 else len(block))
        found = list(in_threads(ask, pieces, n_wanted))
        squares, nodes = (np.concatenate(parts) for parts in zip(*found))
        return np.maximum(nodes, 0), np.where(nodes >= 0, squares, np.inf)


def _import_faiss():
    """Import faiss, which not everybody has."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "algorithm='faiss' needs faiss, which is not installed. Install it with "
            "'pip install \"sklearn-cbir[faiss]\"', or use algorithm='nndescent' or 'exact'."
        ) from error
    return faiss


@contextmanager
def _openmp_threads(faiss, n_threads):
    """Let faiss use so many threads when this thread calls it, and restore what was set."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
