"""The graph engine: close to exact on hard data, never wrong silently."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from search_cases import assert_sound, make_clusters, recall

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import _nndescent

N = 3000
THREADS_OF_TORCH = torch.get_num_threads()  # before numba starts its own


@pytest.fixture(scope="module")
def rows():
    return make_clusters(N)


@pytest.fixture(scope="module")
def queries():
    return make_clusters(300, seed=2)


@pytest.fixture(scope="module")
def graph(rows):
    return NeighborsRetriever(algorithm="nndescent", random_state=0).fit(rows)


@pytest.fixture(scope="module")
def exact(rows):
    return NeighborsRetriever(algorithm="exact").fit(rows)


def test_tight_clusters_are_searched_with_high_recall(graph, exact, queries):
    assert graph.algorithm_ == "nndescent"
    assert graph.recall_ >= 0.95
    expected, found = exact.kneighbors(queries), graph.kneighbors(queries)
    assert recall(found[1], expected[1]) >= 0.95
    # Nobody ends in another cluster.
    np.testing.assert_allclose(found[0][:, 0], expected[0][:, 0], atol=0.05)


@pytest.mark.parametrize("k", [1, 10, 11, 30, 128, 129, N])
def test_any_number_of_neighbors_is_answered_soundly(k, graph, exact, queries):
    assert_sound(graph, queries[:40], k)
    found, expected = graph.kneighbors(queries, k)[1], exact.kneighbors(queries, k)[1]
    if k <= 128:
        assert recall(found, expected) >= 0.95
    else:  # beyond what the graph supports: exact
        np.testing.assert_array_equal(found, expected)


def test_more_neighbors_than_the_graph_finds_surely_are_found_exactly(rows, queries, exact):
    class Hasty(_nndescent.NNDescentEngine):
        def _enough(self, queries, k):
            return super()._enough(queries, k) if k == 10 else (1, 0.5)

    engine = Hasty("cosine", random_state=0).build(rows)
    assert engine.reach == 11
    encoded = engine.encode(queries)
    np.testing.assert_array_equal(engine.query(encoded, 12)[1], exact.kneighbors(queries, 12)[1])


def test_re_rankers_ask_the_graph(rows, queries, monkeypatch):
    asked = []
    search = _nndescent.NNDescentEngine._ask
    graph = NeighborsRetriever(algorithm="nndescent", rerank="query_expansion", random_state=0)
    graph.fit(rows)
    monkeypatch.setattr(
        _nndescent.NNDescentEngine,
        "_ask",
        lambda self, index, queries, k, ef_search: (
            asked.append(k) or search(self, index, queries, k, ef_search)
        ),
    )
    graph.kneighbors(queries)
    assert 100 in asked


def test_the_gallery_asked_about_itself_leaves_each_row_out(graph, exact):
    positions = graph.kneighbors(return_distance=False)
    assert not (positions == np.arange(N)[:, None]).any()
    assert recall(positions, exact.kneighbors(return_distance=False)) >= 0.95


def test_radii_are_exact(graph, exact, queries):
    for found, expected in zip(
        graph.radius_neighbors(queries, 0.01)[1], exact.radius_neighbors(queries, 0.01)[1]
    ):
        np.testing.assert_array_equal(found, expected)


def test_scores_are_exact(rows, queries, graph):
    labelled = NeighborsRetriever(algorithm="nndescent", random_state=0)
    labelled.fit(rows, np.arange(N) % 7)
    exact = NeighborsRetriever(algorithm="exact").fit(rows, np.arange(N) % 7)
    y_queries = np.arange(300) % 7
    assert labelled.score(queries, y_queries) == exact.score(queries, y_queries)
    assert labelled.algorithm_ == "nndescent"


def test_hostile_answers_of_the_graph_are_replaced(graph, queries):
    class Broken:
        def search(self, rows, indexed, queries, k, ef_search):
            numbers = np.tile(np.arange(k), (len(queries), 1))
            squares = np.tile(np.arange(1, k + 1, dtype=np.float32), (len(queries), 1))
            numbers[::3, 1:] = numbers[::3, :1]  # the same row again and again
            numbers[1::3, 2:], squares[1::3, 2:] = -1, np.inf  # slots that were not filled
            return numbers, squares

    engine = copy.copy(graph._gallery.engine)
    engine.index = Broken()
    encoded = engine.encode(queries)
    found, expected = engine.query(encoded, 10), engine.exact.query(encoded, 10)
    for row in [*range(0, 300, 3), *range(1, 300, 3)]:
        np.testing.assert_array_equal(found[1][row], expected[1][row])
    assert all(len(set(row)) == 10 for row in found[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("far", [1e4, 1e7, 1e12])
def test_queries_far_away_find_what_is_nearest(far, dtype, rows, queries):
    rows, queries = rows.astype(dtype), (far * queries[:50]).astype(dtype)
    graph = NeighborsRetriever(algorithm="nndescent", metric="euclidean", random_state=0)
    exact = NeighborsRetriever(algorithm="exact", metric="euclidean").fit(rows)
    expected = exact.kneighbors(queries, return_distance=False)
    assert recall(graph.fit(rows).kneighbors(queries)[1], expected) >= 0.95


def test_rows_far_from_the_origin(rows, queries):
    graph = NeighborsRetriever(algorithm="nndescent", metric="euclidean", random_state=0)
    exact = NeighborsRetriever(algorithm="exact", metric="euclidean")
    found = graph.fit(rows.astype(float) + 1e5).kneighbors(queries.astype(float) + 1e5)[1]
    expected = exact.fit(rows.astype(float) + 1e5).kneighbors(queries.astype(float) + 1e5)[1]
    assert recall(found, expected) >= 0.95


def test_many_small_groups_are_all_reached():
    # Each has fewer rows than a row has neighbors in the graph, or just more.
    for n_clusters in (40, 200):
        rows = make_clusters(4000, 16, n_clusters, spread=1e-3)
        queries = make_clusters(500, 16, n_clusters, spread=1e-3, seed=2)
        graph = NeighborsRetriever(algorithm="nndescent", random_state=0).fit(rows)
        exact = NeighborsRetriever(algorithm="exact").fit(rows)
        assert recall(graph.kneighbors(queries)[1], exact.kneighbors(queries)[1]) >= 0.95


def test_one_neighbor_is_found_by_the_index(rows, queries, monkeypatch):
    retriever = NeighborsRetriever(1, algorithm="nndescent", random_state=0).fit(rows)
    engine = retriever._gallery.engine
    asked = []
    exact = engine.exact.query
    monkeypatch.setattr(engine.exact, "query", lambda q, k: asked.append(len(q)) or exact(q, k))
    found = retriever.kneighbors(queries)[1]
    assert asked == []  # no query was given to the exact engine
    assert (found == exact(engine.encode(queries), 1)[1]).mean() >= 0.95


def test_a_gallery_of_mostly_zero_rows(rows):
    gallery = np.vstack([rows[:1100], np.zeros((15_000, rows.shape[1]), np.float32)])
    retriever = NeighborsRetriever(5, algorithm="nndescent", random_state=0).fit(gallery)
    assert (retriever.kneighbors(rows[:50])[1][:, 0] == np.arange(50)).mean() > 0.95


def test_zero_and_repeated_rows(rows, queries):
    gallery = np.vstack([rows, np.zeros((50, 32), np.float32), np.tile(rows[:1], (300, 1))])
    graph = NeighborsRetriever(algorithm="nndescent", random_state=0, recall_target=0).fit(gallery)
    distances, positions = graph.kneighbors(np.zeros((2, 32)), 5)
    assert (distances == 1).all()
    assert positions.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert_sound(graph, queries, 10)
    assert not np.isin(graph.kneighbors(queries)[1], np.arange(N, N + 50)).any()
    distances = graph.kneighbors(rows[:1], 30)[0]
    assert (distances == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_euclidean_rows_of_any_scale(scale, queries, rows):
    graph = NeighborsRetriever(algorithm="nndescent", metric="euclidean", random_state=0)
    exact = NeighborsRetriever(algorithm="exact", metric="euclidean")
    scaled = rows * np.float32(scale)
    found = graph.fit(scaled).kneighbors(queries * np.float32(scale))
    expected = exact.fit(scaled).kneighbors(queries * np.float32(scale))
    assert recall(found[1], expected[1]) >= 0.95
    assert graph.recall_ >= 0.95


def test_rows_added_and_removed_show_at_once(rows, queries):
    more = make_clusters(400, seed=3)
    graph = NeighborsRetriever(algorithm="nndescent", random_state=0).fit(rows)
    built = graph._gallery.engine.index
    graph.partial_fit(more[:100])
    assert (graph.predict(more[:100])[:, 0] == np.arange(N, N + 100)).all()
    victims = graph.predict(queries[:3])[:, :9].ravel()
    graph.remove(np.unique(victims))
    assert graph._gallery.engine.index is built  # too little has changed to build again
    assert not np.isin(graph.predict(queries), victims).any()
    assert_sound(graph, queries, 10)
    loaded = pickle.loads(pickle.dumps(graph))
    np.testing.assert_array_equal(loaded.predict(queries), graph.predict(queries))
    graph.partial_fit(more[100:])
    assert graph._gallery.engine.index is not built
    expected = NeighborsRetriever(algorithm="exact").fit(
        np.delete(np.vstack([rows, more]), np.unique(victims), axis=0)
    )
    found = graph.kneighbors(queries, return_distance=False)
    assert recall(found, expected.kneighbors(queries, return_distance=False)) >= 0.95
    assert graph.remove(graph.ids_[900:]).algorithm_ == "exact"  # too few rows for a graph


def test_a_pickle_holds_the_graph(graph, queries, monkeypatch):
    stored = pickle.dumps(graph)
    assert len(stored) < graph._gallery.engine.rows.nbytes * 1.1 + 130 * N
    monkeypatch.setattr(_nndescent.NNDescentEngine, "_make", None)  # it is not made again
    loaded = pickle.loads(stored)
    for found, expected in zip(loaded.kneighbors(queries), graph.kneighbors(queries)):
        np.testing.assert_array_equal(found, expected)


def test_the_seed_fixes_the_graph_and_leaves_the_global_generator(rows, queries, graph):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    again = NeighborsRetriever(algorithm="nndescent", random_state=0).fit(rows)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    np.testing.assert_array_equal(again.kneighbors(queries)[1], graph.kneighbors(queries)[1])


def test_low_recall_warns(rows, monkeypatch):
    monkeypatch.setattr(_nndescent.NNDescentEngine, "ef_searches", (1,))
    with pytest.warns(UserWarning, match="less than recall_target=1.0"):
        NeighborsRetriever(algorithm="nndescent", random_state=0, recall_target=1.0).fit(
            np.random.default_rng(0).standard_normal((N, 200)).astype(np.float32)
        )


@pytest.fixture(scope="module")
def by_pynndescent(rows):
    """A graph whose neighbors pynndescent finds, few as the rows are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_nndescent, "PAIRWISE_UP_TO_ROWS", 1000)
        return NeighborsRetriever(algorithm="nndescent", random_state=0).fit(rows)


@pytest.mark.ann
def test_the_neighbors_of_pynndescent_make_as_good_a_graph(by_pynndescent, exact, queries):
    assert by_pynndescent.recall_ >= 0.95
    expected = exact.kneighbors(queries, return_distance=False)
    assert recall(by_pynndescent.kneighbors(queries)[1], expected) >= 0.95


def test_threads_get_the_answers_of_one(graph, queries):
    expected = graph.kneighbors(queries, return_distance=False)
    wrong = []

    def ask():
        for row in range(len(queries)):
            if (graph.kneighbors(queries[row : row + 1])[1][0] != expected[row]).any():
                wrong.append(row)

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


@pytest.mark.ann
def test_thread_counts_are_restored(rows, monkeypatch, by_pynndescent):
    import numba

    monkeypatch.setattr(_nndescent, "PAIRWISE_UP_TO_ROWS", 1000)
    before = numba.get_num_threads()
    NeighborsRetriever(algorithm="nndescent", n_jobs=1, random_state=0).fit(rows)
    assert numba.get_num_threads() == before
    NeighborsRetriever(algorithm="nndescent", n_jobs=64, random_state=0).fit(rows)
    assert numba.get_num_threads() == before
    # They share one OpenMP: networks that are trained later would have other bits.
    assert torch.get_num_threads() == THREADS_OF_TORCH

    def fail(*arguments, **options):
        numba.set_num_threads(1)
        raise MemoryError

    monkeypatch.setattr(_nndescent, "_import_nndescent", lambda: fail)
    with pytest.raises(MemoryError):
        NeighborsRetriever(algorithm="nndescent").fit(rows)
    assert numba.get_num_threads() == before


def test_few_rows_are_searched_exactly():
    retriever = NeighborsRetriever(3, algorithm="nndescent").fit(np.eye(5))
    assert retriever.algorithm_ == "exact"
    assert retriever.recall_ == 1.0
    assert retriever.predict(np.eye(5))[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_auto_builds_the_graph_when_the_gallery_grows(rows, queries, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._engines.EXACT_UP_TO_ROWS", 1500)
    monkeypatch.setattr("sklearn_cbir.index._engines.EXACT_UP_TO_NUMBERS", 1500)
    retriever = NeighborsRetriever(random_state=0).fit(rows[:1500])
    assert retriever.algorithm_ == "exact"
    assert retriever.partial_fit(rows[1500:]).algorithm_ == "nndescent"
    assert_sound(retriever, queries, 10)
    assert NeighborsRetriever(expected_queries=10).fit(rows).algorithm_ == "exact"


def test_bad_queries_are_refused(graph):
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="Input X contains"):
            graph.kneighbors(np.full((1, 32), value))
    for width in (31, 33):
        with pytest.raises(ValueError, match="expecting 32"):
            graph.kneighbors(np.zeros((1, width)))
    with pytest.raises(ValueError, match="Reshape your data"):
        graph.kneighbors(np.zeros(32))
    with pytest.raises(ValueError, match="n_samples_fit = 3000"):
        graph.kneighbors(np.zeros((1, 32)), N + 1)


def test_no_place_for_compiled_code_is_explained(monkeypatch, rows):
    class NoLocator:
        def find_spec(self, name, path=None, target=None):
            if name == "pynndescent":
                raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(_nndescent, "PAIRWISE_UP_TO_ROWS", 1000)
    monkeypatch.delitem(sys.modules, "pynndescent", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoLocator(), *sys.meta_path])
    with pytest.raises(ImportError, match="NUMBA_CACHE_DIR"):
        NeighborsRetriever(algorithm="nndescent").fit(rows)


def test_a_graph_without_compiled_code_is_explained(tmp_path):
    program = (
        "import numpy as np\n"
        "from sklearn_cbir import NeighborsRetriever\n"
        "rows = np.random.default_rng(0).normal(size=(1500, 4))\n"
        "try:\n"
        "    NeighborsRetriever(algorithm='nndescent').fit(rows)\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "NUMBA_DISABLE_JIT" in done.stdout
    assert "algorithm='exact'" in done.stdout


@pytest.mark.ann
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_answers(rows, queries, by_pynndescent, exact):
    # Its parent's threads cannot be used to build: the child answers exactly instead.
    graph = by_pynndescent
    expected = exact.kneighbors(queries, return_distance=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons: forking is unwise
        child = os.fork()
    if child == 0:
        code = 1
        try:
            same = (graph.kneighbors(queries)[1] == expected).mean() > 0.95
            fresh = NeighborsRetriever(algorithm="nndescent").fit(rows)
            same &= (fresh.kneighbors(queries)[1] == expected).all()
            code = 0 if same else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_saved_graph_retriever_answers_in_another_process(graph, queries, tmp_path):
    (tmp_path / "saved.pickle").write_bytes(pickle.dumps(graph))
    np.save(tmp_path / "queries.npy", queries)
    program = (
        "import pickle, sys, numpy as np\n"
        f"stored = open({str(tmp_path / 'saved.pickle')!r}, 'rb').read()\n"
        "retriever = pickle.loads(stored)\n"
        f"positions = retriever.kneighbors(np.load({str(tmp_path / 'queries.npy')!r}))[1]\n"
        "assert 'pynndescent' not in sys.modules\n"
        f"np.save({str(tmp_path / 'found.npy')!r}, positions)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_array_equal(found, graph.kneighbors(queries)[1])


@pytest.mark.slow
@pytest.mark.parametrize("n_features", [64, 512])
@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
def test_recall_or_a_warning_on_20000_rows(n_features, spread):
    rows = make_clusters(20_000, n_features, 100, spread)
    queries = make_clusters(500, n_features, 100, spread, seed=2)
    graph = NeighborsRetriever(algorithm="nndescent", random_state=0).fit(rows)
    exact = NeighborsRetriever(algorithm="exact").fit(rows)
    expected = exact.kneighbors(queries, return_distance=False)
    found = graph.kneighbors(queries, return_distance=False)
    assert recall(found, expected) >= 0.95
    assert abs(recall(found, expected) - graph.recall_) < 0.03
