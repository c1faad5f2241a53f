"""The faiss engine: close to exact on hard data, never wrong silently, modest with threads."""

import copy
import os
import pickle
import sys
import threading
import warnings

import numpy as np
import pytest
from search_cases import assert_sound, make_clusters, recall

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


def test_tight_clusters_are_searched_with_high_recall(retriever, exact, queries):
    assert retriever.recall_ >= 0.95
    expected, found = exact.kneighbors(queries), retriever.kneighbors(queries)
    assert recall(found[1], expected[1]) >= 0.95
    # Nobody ends in another cluster.
    np.testing.assert_allclose(found[0][:, 0], expected[0][:, 0], atol=0.05)


@pytest.mark.parametrize("k", [1, 10, 30, 128, 129, N])
def test_any_number_of_neighbors_is_answered_soundly(k, retriever, exact, queries):
    assert_sound(retriever, queries[:40], k)
    if k > 128:  # beyond what the recall speaks for: exact
        np.testing.assert_array_equal(
            retriever.kneighbors(queries[:40], k)[1], exact.kneighbors(queries[:40], k)[1]
        )


def test_the_gallery_asked_about_itself_leaves_each_row_out(retriever, exact):
    positions = retriever.kneighbors(return_distance=False)
    assert not (positions == np.arange(N)[:, None]).any()
    assert recall(positions, exact.kneighbors(return_distance=False)) >= 0.95


def test_radii_and_scores_are_exact(rows, queries):
    y, y_queries = np.arange(N) % 7, np.arange(300) % 7
    approximate = NeighborsRetriever(algorithm="faiss", random_state=0).fit(rows, y)
    exact = NeighborsRetriever(algorithm="exact").fit(rows, y)
    assert approximate.score(queries, y_queries) == exact.score(queries, y_queries)
    for found, expected in zip(
        approximate.radius_neighbors(queries, 0.01)[1], exact.radius_neighbors(queries, 0.01)[1]
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_index_that_scans_every_list_is_exact_in_everything(metric, dtype, rng, monkeypatch):
    monkeypatch.setattr(_faiss.FaissEngine, "ef_searches", (10**6,))
    rows = rng.standard_normal((1600, 10)).astype(dtype)
    y, names = rng.integers(5, size=1600), np.array([f"{i}.jpg" for i in range(1600)])
    queries = rng.standard_normal((60, 10))
    rows[3], rows[90:100] = 0, rows[7]
    pair = [
        NeighborsRetriever(5, metric=metric, algorithm=algorithm, random_state=0)
        for algorithm in ("faiss", "exact")
    ]
    for retriever in pair:
        retriever.fit(rows[:1500], y[:1500], ids=names[:1500])
    assert pair[0].recall_ == 1
    for change in (None, "add", "remove", "pickle"):
        for retriever in pair:
            if change == "add":
                retriever.partial_fit(rows[1500:], y[1500:], ids=names[1500:])
            if change == "remove":
                retriever.remove(names[40:130])
        if change == "pickle":
            pair = [pickle.loads(pickle.dumps(retriever)) for retriever in pair]
        assert [retriever.algorithm_ for retriever in pair] == ["faiss", "exact"]
        for ask in (
            lambda r: r.kneighbors(queries),
            lambda r: r.kneighbors(),
            lambda r: r.predict(rows[:50], ids=names[:50]),
            lambda r: r.transform(queries).toarray(),
        ):
            np.testing.assert_array_equal(*map(ask, pair))
        assert pair[0].score(queries, y[:60]) == pair[1].score(queries, y[:60])


def test_hostile_answers_of_the_index_are_replaced(retriever, queries, monkeypatch):
    def ask(self, index, queries, k, ef_search):
        numbers = np.tile(np.arange(k), (len(queries), 1))
        distances = np.ones(numbers.shape, dtype=np.float32)
        numbers[::3, 1:] = numbers[::3, :1]  # the same row again and again
        distances[1::3, 2:] = np.inf  # slots that were not filled
        return numbers, distances

    monkeypatch.setattr(_faiss.FaissEngine, "_ask", ask)
    engine = retriever._gallery.engine
    encoded = engine.encode(queries)
    found, expected = engine.query(encoded, 10), engine.exact.query(encoded, 10)
    for row in [*range(0, 300, 3), *range(1, 300, 3)]:
        np.testing.assert_array_equal(found[1][row], expected[1][row])
    assert all(len(set(row)) == 10 for row in found[1])


def test_slots_that_faiss_leaves_empty_are_filled_exactly(retriever, exact, queries):
    # One list, or a short walk, does not hold 30 rows: faiss answers -1.
    engine = copy.copy(retriever._gallery.engine)
    distances = engine._ask(engine.index, engine.encode(queries), 30, 1)[1]
    found = engine._query(engine.encode(queries), 30, 1)[1]
    lacking = np.isinf(distances).any(axis=1)
    expected = exact.kneighbors(queries, 30)[1]
    np.testing.assert_array_equal(found[lacking], expected[lacking])
    assert all(len(set(row)) == 30 for row in found)


def test_one_neighbor_is_found_by_the_index(rows, queries, monkeypatch):
    retriever = NeighborsRetriever(1, algorithm="faiss", random_state=0).fit(rows)
    engine = retriever._gallery.engine
    asked = []
    exact = engine.exact.query
    monkeypatch.setattr(engine.exact, "query", lambda q, k: asked.append(len(q)) or exact(q, k))
    found = retriever.kneighbors(queries)[1]
    assert asked == []  # no query was given to the exact engine
    assert (found == exact(engine.encode(queries), 1)[1]).mean() >= 0.95


def test_a_gallery_of_mostly_zero_rows(rows):
    gallery = np.vstack([rows[:1100], np.zeros((15_000, rows.shape[1]), np.float32)])
    retriever = NeighborsRetriever(5, algorithm="faiss", random_state=0).fit(gallery)
    assert (retriever.kneighbors(rows[:50])[1][:, 0] == np.arange(50)).mean() > 0.95


def test_zero_and_repeated_rows(rows, queries, kind):
    gallery = np.vstack([rows, np.zeros((50, 32), np.float32), np.tile(rows[:1], (300, 1))])
    retriever = NeighborsRetriever(algorithm="faiss", random_state=0, recall_target=0).fit(gallery)
    distances, positions = retriever.kneighbors(np.zeros((2, 32)), 5)
    assert (distances == 1).all()
    assert positions.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert_sound(retriever, queries, 10)
    assert not np.isin(retriever.kneighbors(queries)[1], np.arange(N, N + 50)).any()
    assert (retriever.kneighbors(rows[:1], 30)[0] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_euclidean_rows_of_any_scale(scale, queries, rows, kind):
    retriever = NeighborsRetriever(algorithm="faiss", metric="euclidean", random_state=0)
    exact = NeighborsRetriever(algorithm="exact", metric="euclidean")
    scaled = rows * np.float32(scale)
    found = retriever.fit(scaled).kneighbors(queries * np.float32(scale))
    expected = exact.fit(scaled).kneighbors(queries * np.float32(scale))
    assert recall(found[1], expected[1]) >= 0.95
    far = np.full((2, 32), 1e5 * scale, dtype=np.float32)
    assert_sound(retriever, far, 10)


def test_rows_added_and_removed_show_at_once(rows, queries, kind):
    more = make_clusters(400, seed=3)
    retriever = NeighborsRetriever(algorithm="faiss", random_state=0).fit(rows)
    built = index_of(retriever)
    retriever.partial_fit(more[:100])
    assert (retriever.predict(more[:100])[:, 0] == np.arange(N, N + 100)).all()
    victims = retriever.predict(queries[:3])[:, :9].ravel()
    retriever.remove(np.unique(victims))
    assert index_of(retriever) is built  # too little has changed to build again
    assert not np.isin(retriever.predict(queries), victims).any()
    assert_sound(retriever, queries, 10)
    retriever.partial_fit(more[100:])
    assert index_of(retriever) is not built
    expected = NeighborsRetriever(algorithm="exact").fit(
        np.delete(np.vstack([rows, more]), np.unique(victims), axis=0)
    )
    found = retriever.kneighbors(queries, return_distance=False)
    assert recall(found, expected.kneighbors(queries, return_distance=False)) >= 0.95
    assert retriever.remove(retriever.ids_[900:]).algorithm_ == "exact"  # too few for an index


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


def test_the_seed_fixes_the_index_and_leaves_the_global_generator(rows, queries, retriever):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    again = NeighborsRetriever(algorithm="faiss", random_state=0).fit(rows)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    np.testing.assert_array_equal(again.kneighbors(queries)[1], retriever.kneighbors(queries)[1])


def test_low_recall_warns(rng, monkeypatch, recwarn):
    monkeypatch.setattr(_faiss.FaissEngine, "ef_searches", (1,))
    rows = rng.standard_normal((N, 200)).astype(np.float32)
    with pytest.warns(UserWarning, match="algorithm='faiss' finds 0.* less than recall_target"):
        retriever = NeighborsRetriever(algorithm="faiss", random_state=0).fit(rows)
    assert retriever.recall_ < 0.5


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


def test_few_rows_are_searched_exactly():
    retriever = NeighborsRetriever(3, algorithm="faiss").fit(np.eye(5))
    assert retriever.algorithm_ == "exact"
    assert retriever.recall_ == 1.0
    assert retriever.predict(np.eye(5))[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_bad_queries_are_refused(retriever):
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="Input X contains"):
            retriever.kneighbors(np.full((1, 32), value))
    for width in (31, 33):
        with pytest.raises(ValueError, match="expecting 32"):
            retriever.kneighbors(np.zeros((1, width)))
    with pytest.raises(ValueError, match="Reshape your data"):
        retriever.kneighbors(np.zeros(32))
    with pytest.raises(ValueError, match="n_samples_fit = 3000"):
        retriever.kneighbors(np.zeros((1, 32)), N + 1)


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


@pytest.mark.slow
@pytest.mark.parametrize("n_features", [64, 512])
@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
def test_recall_or_a_warning_on_20000_rows(n_features, spread, kind):
    rows = make_clusters(20_000, n_features, 100, spread)
    queries = make_clusters(500, n_features, 100, spread, seed=2)
    retriever = NeighborsRetriever(algorithm="faiss", random_state=0).fit(rows)
    exact = NeighborsRetriever(algorithm="exact").fit(rows)
    expected = exact.kneighbors(queries, return_distance=False)
    found = retriever.kneighbors(queries, return_distance=False)
    assert recall(found, expected) >= 0.94
    assert abs(recall(found, expected) - retriever.recall_) < 0.03
