"""Equal rows and equal distances: the same answers as one by one, in about the same time."""

import pickle
import time
import tracemalloc

import numpy as np
import pytest
from sklearn import config_context

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index._exact import ExactEngine

PLACES = {
    "copy": {"algorithm": "exact"},
    "float16": {"storage": "float16"},
    "memory_map": {"storage": "memory_map"},
}


def some_equal(n, n_equal, width, rng):
    rows = rng.normal(size=(n, width)).astype(np.float32)
    rows[rng.permutation(n)[:n_equal]] = rows[0]
    return rows


def tied(kind, n, rng):
    """Return `n` rows of which many are equally far from each other."""
    if kind == "equal":
        return np.ones((n, 8), np.float32)
    if kind == "many equal":
        return some_equal(n, n // 2, 16, rng)
    if kind == "six values":
        return np.repeat(rng.normal(size=(6, 16)), -(-n // 6), axis=0)[:n][rng.permutation(n)]
    if kind == "zeros":
        return some_equal(n, 0, 8, rng) * (rng.random((n, 1)) < 0.5)
    if kind == "zeros of both signs":
        rows = np.where(rng.random((n, 4)) < 0.5, 0.0, -0.0)
        return np.vstack([rows[: n // 2], rng.integers(-1, 2, (n - n // 2, 4)) * 1.0])
    if kind == "whole numbers":
        return rng.integers(0, 4, (n, 5)).astype(np.float32)
    if kind == "one of many":
        return np.eye(n, dtype=np.float32)
    if kind == "quantized":
        return np.round(rng.normal(size=(n, 3)) * 4) / 4
    if kind == "huge and equal":
        return np.where(rng.random((n, 1)) < 0.5, 3e38, some_equal(n, 0, 3, rng)).astype(np.float32)
    rows = rng.normal(size=(1, 16)) * (
        1 + 1e-7 * rng.normal(size=(n, 16))
    )  # equal but for rounding
    return rows.astype(np.float32)


KINDS = [
    "equal", "many equal", "six values", "zeros", "zeros of both signs", "whole numbers",
    "one of many", "quantized", "huge and equal", "nearly equal",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_distances_come_by_position(kind, metric, place, rng, tmp_path):
    rows = tied(kind, 300, rng)
    rows = rows.astype(np.float32) if place == "float16" else rows
    queries = np.vstack([rows[:20], rng.normal(size=(20, rows.shape[1]))]).astype(rows.dtype)
    queries[25] = 0
    given = rows
    if place == "memory_map":
        np.save(tmp_path / "rows.npy", rows)
        given = tmp_path / "rows.npy"
    if place == "float16" and kind == "huge and equal" and metric == "euclidean":
        rows = given = rows / 2  # queries beside the gallery would leave the range
    retriever = NeighborsRetriever(7, metric=metric, **PLACES[place]).fit(given, ids=range(300))
    engine = retriever._gallery.engine
    try:
        encoded = engine.encode(queries)
    except ValueError:
        queries = queries[:20]
        encoded = engine.encode(queries)
    which, positions = np.divmod(np.arange(len(queries) * 300), 300)
    every = engine.rescore(encoded, which, positions).reshape(len(queries), 300)
    order = np.argsort(every, axis=1, kind="stable")
    for _ in range(2):  # before and after it is known what is equal
        for k in (1, 7, 299, 300):
            distances, found = retriever.kneighbors(queries, k)
            np.testing.assert_array_equal(found, order[:, :k])
            np.testing.assert_array_equal(distances, np.take_along_axis(every, order, 1)[:, :k])
        for row in range(0, len(queries), 9):
            one = retriever.kneighbors(queries[row : row + 1], 7)
            np.testing.assert_array_equal(one[1], order[row : row + 1, :7])
        own = retriever.kneighbors(None, 3)[1]
        assert (own != np.arange(300)[:, None]).all()
        radius = float(np.median(every))
        near = retriever.radius_neighbors(queries, radius, return_distance=False)
        for row, found in enumerate(near):
            np.testing.assert_array_equal(found, np.flatnonzero(every[row] <= radius))
        engine.find_copies()
    retriever.partial_fit(queries[:3].copy(), ids=range(300, 303)).remove([0, 301])
    fresh = NeighborsRetriever(7, metric=metric, algorithm="exact")
    if place == "copy":
        fresh.fit(np.vstack([rows[1:], queries[:1], queries[2:3]]))
        np.testing.assert_array_equal(retriever.kneighbors(queries), fresh.kneighbors(queries))


def processor_time(action):
    start = time.thread_time()
    action()
    return time.thread_time() - start


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["equal", "many equal", "six values", "zeros", "one of many"])
def test_ties_take_no_more_than_a_few_times_as_long(kind, metric, rng):
    rows = tied(kind, 1000 if kind == "one of many" else 2000, rng)
    other = rng.normal(size=rows.shape).astype(rows.dtype)
    times = []
    for X in (rows, other):
        retriever = NeighborsRetriever(10, metric=metric, algorithm="exact").fit(X)
        times.append(min(processor_time(retriever.kneighbors) for _ in range(2)))
    assert times[0] < 6 * times[1] + 0.05  # 30 to 50 times where every tie is measured


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("far", [1, 1e-3, 1e-30])
def test_groups_of_nearly_equal_rows_are_told_apart(far, dtype, metric, rng):
    rows = far * rng.normal(size=(4, 1, 24)) * (1 + 1e-7 * rng.normal(size=(4, 150, 24)))
    rows = rng.permutation(np.vstack([*rows, *far * rng.normal(size=(3, 40, 24))])).astype(dtype)
    rows[::90] = 0
    engine = NeighborsRetriever(6, metric=metric, algorithm="exact").fit(rows)._gallery.engine
    n = len(rows)
    queries = engine.rows
    every = engine.rescore(queries, *np.divmod(np.arange(n * n), n)).reshape(n, n)
    order = np.argsort(every, axis=1, kind="stable")[:, :6]
    for _ in range(2):
        distances, positions = engine.query(queries, 6)
        np.testing.assert_array_equal(positions, order)
        np.testing.assert_array_equal(distances, np.take_along_axis(every, order, 1))


def test_nearly_equal_rows_take_no_more_than_some_times_as_long(rng):
    nearly = 1 + 1e-7 * rng.normal(size=(2000, 128))
    rows = (rng.normal(size=(1, 128)) * nearly).astype(np.float32)
    times = []
    for X in (rows, rng.normal(size=rows.shape).astype(np.float32)):
        retriever = NeighborsRetriever(10, algorithm="exact").fit(X)
        times.append(min(processor_time(retriever.kneighbors) for _ in range(2)))
    assert times[0] < 30 * times[1] + 0.05  # 60 times and more where every pair is measured


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearly_equal_rows_are_told_apart_within_the_working_memory(metric, rng, monkeypatch):
    nearly = 1 + 1e-7 * rng.normal(size=(5000, 256))
    rows = (rng.normal(size=256) * nearly).astype(np.float32)
    retriever = NeighborsRetriever(10, metric=metric, algorithm="exact").fit(rows)
    expected = retriever.kneighbors(rows[:64])
    measured = []
    rescore = ExactEngine.rescore
    monkeypatch.setattr(
        ExactEngine,
        "rescore",
        lambda self, queries, which, positions: (
            measured.append(len(which)) or rescore(self, queries, which, positions)
        ),
    )
    retriever.kneighbors(rows[:64])
    assert 64 * 10 <= sum(measured) < 64 * 30  # a second product leaves little to measure
    tracemalloc.start()
    try:
        with config_context(working_memory=4):  # which does not hold what it takes
            found = retriever.kneighbors(rows[:64])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * 2**20
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------- indexes


@pytest.fixture(params=["nndescent", "faiss"])
def algorithm(request):
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return request.param


def test_an_index_of_equal_rows_only_is_not_needed(algorithm):
    retriever = NeighborsRetriever(10, algorithm=algorithm, metric="euclidean")
    assert processor_time(lambda: retriever.fit(np.ones((4000, 16)))) < 2  # it did not end
    assert retriever.algorithm_ == "exact"
    assert retriever.kneighbors(np.ones((1, 16)))[1].tolist() == [list(range(10))]


@pytest.mark.parametrize("kind", ["many equal", "zeros", "two groups"])
def test_an_index_knows_equal_rows_by_one_of_them(algorithm, kind, rng):
    rows = tied("zeros" if kind == "zeros" else "many equal", 3500, rng)
    rows[rng.permutation(3500)[:400]] = rows[-1] if kind == "two groups" else rows[0]
    rows[1000:1300, 0] *= -1
    ids = np.arange(3500)
    retriever = NeighborsRetriever(5, algorithm=algorithm, random_state=0).fit(rows, ids=ids)
    _values, inverse = np.unique(rows, axis=0, return_inverse=True)
    groups = [np.flatnonzero(inverse == group) for group in np.argsort(-np.bincount(inverse))[:2]]
    for turn in range(4):
        exact = NeighborsRetriever(5, algorithm="exact").fit(rows, ids=ids)
        queries = np.vstack([rows[::17], rng.normal(size=(50, rows.shape[1]))]).astype(rows.dtype)
        for k in (1, 5, 90):
            found, true = (r.kneighbors(queries, k)[0] for r in (retriever, exact))
            assert (found <= true[:, -1:] * (1 + 1e-12) + 1e-15).mean() > 0.93
        of_group = [np.isin(ids, group) for group in groups]
        for member in of_group:  # all are as near, and the first are taken
            found = retriever.predict(rows[member][:1])
            np.testing.assert_array_equal(found, exact.predict(rows[member][:1]))
        assert retriever.algorithm_ == algorithm
        # The first of both groups go, and some of the others; then rows that equal them come.
        gone = np.concatenate([ids[member][: 1 + turn] for member in of_group] + [ids[50:80]])
        gone = np.unique(gone)
        retriever.remove(gone)
        kept = ~np.isin(ids, gone)
        new = np.vstack([rows[of_group[0]][:2], rows[of_group[1]][:1]])
        rows, ids = np.vstack([rows[kept], new]), np.r_[ids[kept], ids.max() + 1 + np.arange(3)]
        retriever.partial_fit(new, ids=ids[-3:])
        if turn == 1:
            retriever = pickle.loads(pickle.dumps(retriever))
        np.testing.assert_array_equal(retriever.ids_, ids)


def test_a_graph_of_rows_that_are_all_equally_far_is_made(rng):
    rows = np.eye(2000, dtype=np.float32)
    retriever = NeighborsRetriever(5, algorithm="nndescent", metric="euclidean", random_state=0)
    assert processor_time(lambda: retriever.fit(rows)) < 20  # it did not end
    graph = retriever._gallery.engine.index
    reached, new = np.zeros(len(graph), dtype=bool), graph.entry_points
    while len(new):
        reached[new] = True
        new = np.unique(
            np.concatenate([graph.edges[graph.starts[i] : graph.starts[i + 1]] for i in new])
        )
        new = new[~reached[new]]
    assert reached.all()


def test_rows_that_were_removed_before_never_stand_for_the_last_one(algorithm, rng):
    rows = rng.normal(size=(3000, 8))
    retriever = NeighborsRetriever(5, algorithm=algorithm, random_state=0).fit(rows)
    near = retriever.kneighbors(rows[:1], 60)[1][0]
    retriever.remove(near[:30]).remove(near[30:])
    kept = np.setdiff1d(np.arange(3000), near)
    exact = NeighborsRetriever(5, algorithm="exact").fit(rows[kept], ids=kept)
    np.testing.assert_array_equal(retriever.predict(rows[:1]), exact.predict(rows[:1]))


@pytest.mark.parametrize("metric", ["euclidean", "hamming"])
def test_equal_queries_are_asked_of_a_server_once(metric, rng, tmp_path, monkeypatch):
    pytest.importorskip("milvus_lite")
    rows = some_equal(120, 80, 6, rng)
    rows = (rows > 0).astype(np.uint8) if metric == "hamming" else rows
    places = {"exact": {}, "milvus": {"uri": str(tmp_path / "gallery.db")}}
    found = [
        NeighborsRetriever(3, metric=metric, algorithm=algorithm, **place).fit(rows)
        for algorithm, place in places.items()
    ]
    collection, asked = type(found[1]._gallery.engine.collection), []
    search = collection.search

    def counted(self, queries, *args, **options):
        asked.extend(queries.tolist())
        return search(self, queries, *args, **options)

    monkeypatch.setattr(collection, "search", counted)
    np.testing.assert_array_equal(found[1].kneighbors(), found[0].kneighbors())
    assert len(asked) < 120
