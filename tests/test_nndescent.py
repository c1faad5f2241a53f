"""The graph engine: close to exact on hard data, never wrong silently."""

import copy
import os
import pickle
import subprocess
import sys
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


@pytest.mark.parametrize("n", [1200, 2500])
def test_the_recall_of_few_rows_is_that_of_other_queries(n):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 16)).astype(np.float32)
    queries = rng.normal(size=(1500, 16)).astype(np.float32)
    wanted = NeighborsRetriever(5, metric="euclidean", algorithm="exact").fit(rows)
    wanted = wanted.kneighbors(queries)[1]
    promised, found = [], []
    for seed in range(6):
        graph = NeighborsRetriever(
            5, metric="euclidean", algorithm="nndescent", random_state=seed
        ).fit(rows)
        promised.append(graph.recall_)
        found.append(recall(graph.kneighbors(queries)[1], wanted))
    assert min(found) > 0.95
    assert np.mean(promised) - np.mean(found) < 0.006


def test_more_neighbors_than_the_graph_finds_surely_are_found_exactly(rows, queries, exact):
    class Hasty(_nndescent.NNDescentEngine):
        def _enough(self, queries, k, nearest):
            return super()._enough(queries, k, nearest) if k == 10 else (1, 0.5)

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


@pytest.mark.parametrize("k", [1, 2, 10, 60])
def test_one_query_is_answered_as_many_are(k, graph, queries, monkeypatch):
    engine = graph._gallery.engine
    encoded = engine.encode(queries[:40])
    expected = engine.query(encoded, k)
    alone = [engine._query_one(engine.index, query[None], k, 2.0) for query in encoded]
    assert all(found is not None for found in alone)
    monkeypatch.setattr(_nndescent.NNDescentEngine, "_query", None)
    for query, *those in zip(encoded, *expected):
        for one, other in zip(engine.query(query[None], k), those):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other[None])


def test_one_query_that_needs_more_than_the_graph_is_answered_as_many_are(rows, queries):
    rows = np.vstack([rows[:1200], rows[:3]])
    retriever = NeighborsRetriever(algorithm="nndescent", random_state=0).fit(rows)
    changed = copy.copy(retriever).partial_fit(queries[:5])
    asked = np.vstack([queries[:20], rows[:3], 0 * rows[:1]])
    for one in (retriever, changed, changed.remove(np.arange(7))):
        expected = one.kneighbors(asked, 4)
        for i, query in enumerate(asked):
            for found, of_many in zip(one.kneighbors(query[None], 4), expected):
                np.testing.assert_array_equal(found[0], of_many[i])


def test_hostile_answers_of_the_graph_are_replaced(graph, queries):
    class Broken:
        def search(self, rows, indexed, queries, k, ef_search, scale):
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


def test_queries_that_an_index_cannot_answer_get_what_is_exact_beside_copies(rows):
    # Nothing is near to a query of zeros, and the second row is one that only the first stands for.
    rows = np.vstack([rows[:1], rows[:1], rows])
    found, expected = (
        NeighborsRetriever(3, algorithm=algorithm, random_state=0).fit(rows)
        for algorithm in ("nndescent", "exact")
    )
    queries = np.vstack([0 * rows[:1], rows[:1], 0 * rows[:1]])
    for one, other in zip(found.kneighbors(queries), expected.kneighbors(queries)):
        np.testing.assert_array_equal(one, other)


def test_the_more_neighbors_are_asked_for_the_more_an_index_searches(graph, queries, monkeypatch):
    engine = copy.copy(graph._gallery.engine)
    engine.ef_search, engine.widest, engine.reach = 2.0, (engine.widest[0], 8.0), 256
    asked = {}
    search = _nndescent.NNDescentEngine._ask
    monkeypatch.setattr(
        _nndescent.NNDescentEngine,
        "_ask",
        lambda self, index, queries, k, ef_search: (
            asked.update({k: ef_search}) or search(self, index, queries, k, ef_search)
        ),
    )
    for k in range(2, engine.widest[0] + 1, 5):
        engine.query(engine.encode(queries[:1]), k)
    engine.query(engine.encode(queries[:1]), engine.widest[0])
    few, many = (
        [ef for k, ef in asked.items() if (k > 11) == is_many] for is_many in (False, True)
    )
    assert few == [2.0] * len(few)
    assert (np.diff(many) > 0).all()
    # The logarithm of the number of neighbors says how far it is from the one to the other.
    steps = np.log([k for k in asked if k > 11])
    np.testing.assert_allclose(many, 2 + 6 * (steps - np.log(10)) / (steps[-1] - np.log(10)))


def test_what_a_graph_searches_grows_by_at_most_a_half_each_step(graph):
    steps = np.array(graph._gallery.engine.ef_searches)
    assert steps[0] == 1  # the neighbors that are asked for, and no more
    assert (steps[1:] > steps[:-1]).all()
    assert (steps[1:] <= 1.5 * steps[:-1]).all()


@pytest.mark.parametrize(
    ("n", "n_probe"), [(1000, 200), (2009, 200), (2010, 201), (9999, 999), (20_000, 1000)]
)
def test_a_tenth_of_the_rows_but_200_to_1000_tell_what_a_graph_finds(n, n_probe, monkeypatch):
    asked = []
    monkeypatch.setattr(
        _nndescent.NNDescentEngine,
        "_make",
        lambda self, rows: asked.append(len(rows)) or (_ for _ in ()).throw(InterruptedError),
    )
    rows = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    with pytest.raises(InterruptedError):
        NeighborsRetriever(algorithm="nndescent", random_state=0).fit(rows)
    assert asked == [n - n_probe]


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


def test_a_pickle_holds_the_graph(graph, queries, monkeypatch):
    stored = pickle.dumps(graph)
    assert len(stored) < graph._gallery.engine.rows.nbytes * 1.1 + 130 * N
    monkeypatch.setattr(_nndescent.NNDescentEngine, "_make", None)  # it is not made again
    loaded = pickle.loads(stored)
    for found, expected in zip(loaded.kneighbors(queries), graph.kneighbors(queries)):
        np.testing.assert_array_equal(found, expected)


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


@pytest.mark.ann
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_far_from_the_origin_are_entered_at_themselves(dtype, rows, queries, monkeypatch):
    monkeypatch.setattr(_nndescent, "PAIRWISE_UP_TO_ROWS", 1000)
    far, asked = ((50 + part).astype(dtype) for part in (rows, queries))
    before = far.copy()
    graph = NeighborsRetriever(10, metric="euclidean", algorithm="nndescent", random_state=0)
    graph.fit(far)
    np.testing.assert_array_equal(far, before)
    engine = graph._gallery.engine
    held = engine.index.entry_rows
    np.testing.assert_array_equal(held, far[engine.indexed[engine.index.entry_points]])
    np.testing.assert_allclose(engine.index.entry_squares, (held**2).sum(axis=1), rtol=1e-6)
    exact = NeighborsRetriever(10, metric="euclidean", algorithm="exact").fit(far)
    assert recall(graph.kneighbors(asked)[1], exact.kneighbors(asked)[1]) >= 0.95


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


def test_auto_builds_the_graph_when_the_gallery_grows(rows, queries, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._engines.EXACT_UP_TO_ROWS", 1500)
    monkeypatch.setattr("sklearn_cbir.index._engines.EXACT_UP_TO_NUMBERS", 1500)
    retriever = NeighborsRetriever(random_state=0).fit(rows[:1500])
    assert retriever.algorithm_ == "exact"
    assert retriever.partial_fit(rows[1500:]).algorithm_ == "nndescent"
    assert_sound(retriever, queries, 10)
    assert NeighborsRetriever(expected_queries=10).fit(rows).algorithm_ == "exact"


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


# In half precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_features", [12, 48])  # walked by rows, and by codes
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_half_precision_finds_what_single_precision_finds(metric, n_features):
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(8, n_features))
    rows, queries = (
        (rng.normal(size=(n, 8)) @ basis + 0.3 * rng.normal(size=(n, n_features))).astype("f4")
        for n in (3000, 200)
    )
    of = {
        storage: NeighborsRetriever(
            10, metric=metric, algorithm="nndescent", storage=storage, random_state=0
        ).fit(rows)
        for storage in ("copy", "float16")
    }
    engine = of["float16"]._gallery.engine
    assert (engine.name, bool(engine.index.n_coded)) == ("nndescent", n_features == 48)
    assert abs(of["copy"].recall_ - of["float16"].recall_) < 0.003
    held = of["float16"].rows()
    exact = NeighborsRetriever(10, metric=metric, algorithm="exact").fit(held)
    wanted_distances, wanted = exact.kneighbors(queries)
    distances, found = of["float16"].kneighbors(queries)
    assert recall(found, wanted) >= recall(of["copy"].kneighbors(queries)[1], wanted) - 0.003
    same = found == wanted
    np.testing.assert_allclose(distances[same], wanted_distances[same], rtol=1e-6, atol=1e-8)
    # Six bytes a number less than twice the rows: they are held once, in two.
    sizes = {storage: len(pickle.dumps(retriever)) for storage, retriever in of.items()}
    assert sizes["copy"] - sizes["float16"] > 1.9 * rows.size


def test_half_precision_is_built_anew_once_enough_rows_have_come(rows, queries):
    graph = NeighborsRetriever(algorithm="nndescent", storage="float16", random_state=0).fit(rows)
    linked = graph._gallery.engine.index
    graph.partial_fit(queries[:100])
    assert graph._gallery.engine.index is linked
    assert (graph.kneighbors(queries[:100], 1)[1][:, 0] == np.arange(N, N + 100)).all()
    graph.partial_fit(queries[100:])
    assert graph._gallery.engine.index is not linked
    assert (graph.kneighbors(queries, 1)[1][:, 0] == np.arange(N, N + 300)).mean() >= 0.95
    assert graph.recall_ >= 0.95
