"""The faiss engine: close to exact on hard data, never wrong silently, modest with threads."""

import copy
import os
import pickle
import sys
import threading
import warnings

import numpy as np
import pytest
from search_cases import make_clusters, recall

from sklearn_cbir import NeighborsRetriever, persistence
from sklearn_cbir.index import _faiss

faiss = pytest.importorskip("faiss")

N = 3000


@pytest.fixture(scope="module")
def rows():
    return make_clusters(N)


@pytest.fixture(scope="module")
def queries():
    return make_clusters(300, seed=2)


@pytest.fixture(params=["lists", "graph"])
def kind(request, monkeypatch):
    """Both indexes, whichever the size of the gallery asks for."""
    if request.param == "graph":
        monkeypatch.setattr(_faiss, "GRAPH_FROM_ROWS", 1000)
    return request.param


@pytest.fixture
def retriever(rows, kind):
    return NeighborsRetriever(algorithm="faiss", random_state=0).fit(rows)


@pytest.fixture(scope="module")
def exact(rows):
    return NeighborsRetriever(algorithm="exact").fit(rows)


def index_of(retriever):
    return retriever._gallery.engine.index


def test_the_size_chooses_lists_or_a_graph(retriever, kind):
    kinds = {"lists": faiss.IndexIVFFlat, "graph": faiss.IndexHNSWFlat}
    assert type(index_of(retriever)) is kinds[kind]
    assert retriever.algorithm_ == "faiss"


def test_an_index_has_the_sizes_that_were_measured(retriever, kind):
    index = index_of(retriever)
    n_indexed = np.count_nonzero(retriever._gallery.engine.indexed >= 0)
    assert index.ntotal == n_indexed == N - 200  # the others tell how much it finds
    if kind == "lists":
        assert index.nlist == int(2 * np.sqrt(n_indexed))
        assert index.cp.seed == retriever._gallery.engine.seed
    else:
        assert (index.hnsw.nb_neighbors(1), index.hnsw.efConstruction) == (16, 100)


def test_what_an_index_searches_grows_step_by_step(retriever):
    steps = np.array(retriever._gallery.engine.ef_searches)
    assert (steps[1:] > steps[:-1]).all()
    assert (steps[1:] <= 2 * steps[:-1]).all()


def test_slots_that_faiss_leaves_empty_are_filled_exactly(retriever, exact, queries):
    # One list, or a short walk, does not hold 30 rows: faiss answers -1.
    engine = copy.copy(retriever._gallery.engine)
    distances = engine._ask(engine.index, engine.encode(queries), 30, 1)[1]
    found = engine._query(engine.index, engine.encode(queries), 30, 1)[1]
    lacking = np.isinf(distances).any(axis=1)
    expected = exact.kneighbors(queries, 30)[1]
    np.testing.assert_array_equal(found[lacking], expected[lacking])
    assert all(len(set(row)) == 30 for row in found)


@pytest.mark.parametrize("how", ["pickle", "save"])
def test_a_file_holds_the_rows_once_and_answers_alike(how, retriever, queries, rows, tmp_path):
    before = retriever.kneighbors(queries)
    if how == "pickle":
        (tmp_path / "saved").write_bytes(pickle.dumps(retriever))
        loaded = pickle.loads((tmp_path / "saved").read_bytes())
    else:
        persistence.save(retriever, tmp_path / "saved")
        loaded = persistence.load(tmp_path / "saved")
    n_lists = int(2 * np.sqrt(N))
    assert (tmp_path / "saved").stat().st_size < rows.nbytes + N * 8 + n_lists * 32 * 4 + 8000
    for found, expected in zip(loaded.kneighbors(queries), before):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("pays", [False, True], ids=["one thread", "many threads"])
def test_threads_get_the_answers_of_one_and_leave_the_counts(pays, retriever, queries, monkeypatch):
    if pays:
        monkeypatch.setattr(_faiss, "PRODUCTS_PER_THREAD", 1)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    expected = retriever.kneighbors(queries, return_distance=False)
    wrong = []

    def ask():
        before = faiss.omp_get_max_threads()
        for row in range(0, len(queries), 60):
            part = slice(row, row + 60)
            found = retriever.kneighbors(queries[part], return_distance=False)
            if (found != expected[part]).any():
                wrong.append(row)
        if faiss.omp_get_max_threads() != before:
            wrong.append("count")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []


def test_thread_counts_are_restored_even_if_building_fails(rows, monkeypatch):
    before = faiss.omp_get_max_threads()
    try:
        for count in (1, 2):
            faiss.omp_set_num_threads(count)
            NeighborsRetriever(algorithm="faiss", n_jobs=2).fit(rows).predict(rows[:3])
            assert faiss.omp_get_max_threads() == count

        def fail(*arguments):
            raise MemoryError

        monkeypatch.setattr(_faiss.FaissEngine, "_lists", fail)
        with pytest.raises(MemoryError):
            NeighborsRetriever(algorithm="faiss", n_jobs=1).fit(rows)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_an_index_that_is_ready_while_rows_are_removed_fits_what_is_left(rows, monkeypatch):
    fitted = NeighborsRetriever(algorithm="faiss", random_state=0).fit(rows)
    engine = fitted.remove([int(fitted._gallery.engine.indexed[0])])._gallery.engine
    del engine.index
    remove = type(engine.exact).remove

    def remove_meanwhile(exact, positions):
        assert engine.index is not None  # as a query of another thread does
        return remove(exact, positions)

    monkeypatch.setattr(type(engine.exact), "remove", remove_meanwhile)
    left = engine.remove(engine.indexed[1:2])
    asked = left.rows[:200]
    assert recall(left.query(asked, 10)[1], left.exact.query(asked, 10)[1]) > 0.95


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_answers_and_builds(rows, queries, retriever, exact):
    # Two threads in the parent: a child that wanted them too would wait forever.
    NeighborsRetriever(algorithm="faiss", n_jobs=2).fit(rows).predict(queries)
    unbuilt = pickle.loads(pickle.dumps(retriever))
    expected = exact.kneighbors(queries, return_distance=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons: forking is unwise
        child = os.fork()
    if child == 0:
        code = 1
        try:
            fresh = NeighborsRetriever(algorithm="faiss", n_jobs=2).fit(rows)
            answers = [r.kneighbors(queries)[1] for r in (retriever, unbuilt, fresh)]
            code = 0 if all((found == expected).mean() > 0.95 for found in answers) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_missing_faiss_is_explained():
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name == "faiss":
                raise ModuleNotFoundError("No module named 'faiss'")

    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "faiss")
        patch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
        with pytest.raises(ImportError, match=r'pip install "sklearn-cbir\[faiss\]"'):
            NeighborsRetriever(algorithm="faiss").fit(np.eye(3))
