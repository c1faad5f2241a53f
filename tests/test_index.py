"""Search engines against plain loops: exact, stable at ties, safe at every scale."""

import itertools
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from sklearn import config_context

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import ENGINES, choose_algorithm
from sklearn_cbir.index._exact import BYTES_PER_PAIR, ExactEngine
from sklearn_cbir.index._gallery import GalleryIds, GalleryLabels
from sklearn_cbir.index._norms import row_max_abs, row_norms, safe_norms
from sklearn_cbir.index._prefilter import Prefilter
from sklearn_cbir.index._rows import find_copies, row_blocks, row_keys, summed_row_keys

METRICS = ["cosine", "euclidean", "hamming"]
FLOATS = METRICS[:2]


def loop_distance(a, b, metric):
    if metric == "hamming":
        return sum(x != y for x, y in zip(a, b))
    if metric == "euclidean":
        return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b)))
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    if lengths == 0:
        return 1.0
    return 1 - math.fsum(x * y for x, y in zip(a, b)) / lengths


def loop_search(queries, gallery, metric, k):
    """Sort the whole gallery by distance, then by position."""
    distances, positions = [], []
    for query in queries.tolist():
        pairs = [(loop_distance(query, row, metric), i) for i, row in enumerate(gallery.tolist())]
        pairs = sorted(pairs)[:k]
        distances.append([pair[0] for pair in pairs])
        positions.append([pair[1] for pair in pairs])
    return np.array(distances), np.array(positions)


def make_rows(rng, n, metric, n_features=16, dtype=np.float32):
    if metric == "hamming":
        return rng.integers(2, size=(n, n_features)).astype(np.uint8)
    return rng.standard_normal((n, n_features)).astype(dtype)


def build(rows, metric):
    return ENGINES["exact"](metric).build(rows)


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_query_finds_what_a_loop_finds(metric, dtype, k, rng):
    gallery = make_rows(rng, 300, metric, dtype=dtype)
    queries = make_rows(rng, 9, metric, dtype=dtype)
    engine = build(gallery, metric)
    distances, positions = engine.query(engine.encode(queries), k)
    expected_distances, expected_positions = loop_search(queries, gallery, metric, k)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("k", [1, 10, 100, 2000])
def test_ties_come_in_the_order_of_positions(k, rng):
    # Whole numbers: squared distances are exact, and most of them are tied.
    gallery = rng.integers(-2, 3, size=(2000, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(20, 3)).astype(np.float32)
    squares = ((queries[:, None] - gallery[None]).astype(np.float64) ** 2).sum(axis=2)
    engine = build(gallery, "euclidean")
    distances, positions = engine.query(engine.encode(queries), k)
    expected = np.argsort(squares, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_array_equal(distances, np.sqrt(np.sort(squares, axis=1)[:, :k]))


@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_are_exactly_tied_wherever_they_stand(metric, rng):
    gallery = make_rows(rng, 3001, metric, n_features=37)
    copies = rng.choice(3001, 500, replace=False)
    gallery[copies] = gallery[copies[0]]
    engine = build(gallery, metric)
    queries = engine.encode(np.vstack([gallery[copies[:1]], make_rows(rng, 4, metric, 37)]))
    distances, positions = engine.query(queries, 600)
    np.testing.assert_array_equal(positions[0, :500], np.sort(copies))
    assert (distances[0, :500] == 0).all()
    full = np.asarray(engine.distances(queries)[:])
    assert (full[:, copies] == full[:, copies[:1]]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_an_answer_does_not_depend_on_what_else_is_asked(metric, rng):
    gallery = make_rows(rng, 1500, metric, n_features=70)
    engine = build(gallery, metric)
    queries = engine.encode(make_rows(rng, 40, metric, n_features=70))
    distances, positions = engine.query(queries, 12)
    for row in range(40):
        alone = engine.query(engine.encode(make_rows(rng, 1, metric, 70))[:0], 12)
        assert alone[0].shape == (0, 12)
        alone = engine.query(queries[row : row + 1], 12)
        np.testing.assert_array_equal(alone[0][0], distances[row])
        np.testing.assert_array_equal(alone[1][0], positions[row])


@pytest.mark.parametrize("metric", METRICS)
def test_little_working_memory_gives_the_same_answer(metric, rng):
    engine = build(make_rows(rng, 700, metric), metric)
    queries = engine.encode(make_rows(rng, 30, metric))
    expected = engine.query(queries, 5)
    with config_context(working_memory=0.01):
        small = engine.query(queries, 5)
    np.testing.assert_array_equal(small[0], expected[0])
    np.testing.assert_array_equal(small[1], expected[1])


@pytest.mark.parametrize("rows_to_copy", [0, 5000])
@pytest.mark.parametrize("metric", FLOATS)
def test_galleries_of_several_tiles_are_searched_whole(metric, rows_to_copy, rng, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._exact.SIMILARITIES_AT_ONCE", 2**10)
    monkeypatch.setattr("sklearn_cbir.index._exact.BYTES_TO_COPY", rows_to_copy * 64)
    gallery = make_rows(rng, 5000, metric)
    queries = gallery[[0, 1023, 1024, 4999]]
    engine = build(gallery, metric)
    positions = engine.query(engine.encode(queries), 20)[1]
    np.testing.assert_array_equal(positions, loop_search(queries, gallery, metric, 20)[1])


@pytest.mark.parametrize("n_behind", [1, 31, 40])
@pytest.mark.parametrize("metric", FLOATS)
def test_a_last_tile_of_few_rows_is_searched_too(metric, n_behind, rng, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._exact.SIMILARITIES_AT_ONCE", 2**10)
    gallery = make_rows(rng, 1024 + n_behind, metric)
    engine = build(gallery, metric)
    queries = gallery[[0, 1023, 1024, -1]]
    distances, positions = engine.query(engine.encode(queries), 1)
    np.testing.assert_array_equal(positions[:, 0], [0, 1023, 1024, len(gallery) - 1])
    assert (distances < 1e-12).all()


@pytest.mark.parametrize("storage", ["copy", "float16"])
@pytest.mark.parametrize("n_queries", [1, 40])
@pytest.mark.parametrize("k", [5, 100])
@pytest.mark.parametrize("length", [0.3, 1, 20])
@pytest.mark.parametrize("metric", FLOATS)
def test_a_search_measures_little_more_than_it_finds(
    metric, length, k, n_queries, storage, rng, monkeypatch
):
    # What products leave is measured again, pair by pair, which takes far longer.
    measured = []
    rescore = ExactEngine.rescore
    monkeypatch.setattr(
        ExactEngine,
        "rescore",
        lambda self, queries, which, positions: (
            measured.append(len(which)) or rescore(self, queries, which, positions)
        ),
    )
    rows = length / 4 * make_rows(rng, 4000, metric)
    retriever = NeighborsRetriever(k, metric=metric, algorithm="exact", storage=storage).fit(rows)
    queries = length / 4 * make_rows(rng, n_queries, metric)
    distances = retriever.kneighbors(queries)[0]
    assert k * n_queries <= sum(measured) <= (3 + 1.1 * k) * n_queries
    measured.clear()
    found = retriever.radius_neighbors(queries, distances.max(), return_distance=False)
    n_found = sum(map(len, found))
    assert n_found <= sum(measured) <= n_found + 2 + n_found // 20


@pytest.mark.parametrize("length", [1e-30, 1e-8, 1.0, 1e9, 1e30])
def test_rows_come_back_as_they_were_given(length, rng):
    rows = length * make_rows(rng, 20, "euclidean")
    retriever = NeighborsRetriever(1, metric="euclidean", algorithm="exact").fit(rows)
    np.testing.assert_array_equal(retriever.rows(), rows)
    np.testing.assert_array_equal(retriever.rows([3, 1]), rows[[3, 1]])
    assert not np.shares_memory(retriever.rows(), retriever.rows())


@pytest.mark.parametrize("n_queries", [2, 16, 17, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", FLOATS)
def test_large_galleries_are_searched_as_small_ones_are(metric, dtype, n_queries, rng, monkeypatch):
    gallery = make_rows(rng, 1000, metric, n_features=70, dtype=dtype)
    engine = build(gallery, metric)
    queries = engine.encode(make_rows(rng, n_queries, metric, n_features=70, dtype=dtype))
    expected = [engine.query(queries, 9), engine.within(queries, np.full(n_queries, 0.9))]
    scores = engine.distances(queries)
    monkeypatch.setattr("sklearn_cbir.index._exact.BYTES_TO_COPY", 0)
    large = build(gallery, metric)
    found = [large.query(queries, 9), large.within(queries, np.full(n_queries, 0.9))]
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected)):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(large.distances(queries), scores, rtol=1e-5, atol=1e-6)
    assert "_transposed" not in vars(large)


@pytest.mark.parametrize("metric", FLOATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_radius_reaches_what_is_measured_at_it(metric, dtype, rng):
    rows = make_rows(rng, 400, metric, n_features=40, dtype=dtype)
    rows[100:] = rows[rng.integers(100, size=300)]  # copies are at the same distance
    engine = build(rows, metric)
    queries = engine.encode(make_rows(rng, 30, metric, n_features=40, dtype=dtype))
    queries[:5] = engine.rows[:5]
    distances, positions = engine.query(queries, 400)
    for rank in (0, 50, 399):
        which, found, measured = engine.within(queries, distances[:, rank])
        for row in range(30):
            last = np.searchsorted(distances[row], distances[row, rank], side="right")
            np.testing.assert_array_equal(found[which == row], np.sort(positions[row, :last]))
            assert measured[which == row].max() == distances[row, rank]


@pytest.mark.parametrize("n_queries", [1, 2, 40])
@pytest.mark.parametrize(
    ("size", "largest", "dtype"),
    [(1, 1e22, np.float32), (1e-22, 1, np.float32), (1e-161, 1, np.float64), (1e-38, 0, "f4")],
)
def test_rows_that_stay_when_far_larger_ones_go_are_told_apart(
    size, largest, dtype, n_queries, rng
):
    rows = (size * rng.normal(size=(3000, 16))).astype(dtype)
    queries = (size * rng.normal(size=(n_queries, 16))).astype(dtype)
    alone = build(rows, "euclidean")
    left = build(np.full((1, 16), largest, dtype), "euclidean").add(rows).remove(np.array([0]))
    expected = alone.query(alone.encode(queries), 5)
    found = left.query(left.encode(queries), 5)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5 if dtype != "f4" else 1e-2)
    which, inside, _ = left.within(left.encode(queries), expected[0][:, -1] * (1 + 1e-3))
    for row in range(n_queries):
        assert set(expected[1][row]) <= set(inside[which == row])
    full = left.distances(left.encode(queries))
    np.testing.assert_array_equal(np.argsort(full, axis=1, kind="stable")[:, :5], expected[1])


def test_a_turned_product_holds_no_second_one(rng, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._exact.BYTES_TO_COPY", 0)
    rows = rng.standard_normal((200_000, 4), dtype=np.float32)
    engine = build(rows, "cosine")
    tracemalloc.start()
    products = engine._product(rows[:16], slice(None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(products, rows[:16] @ engine.rows.T, rtol=1e-4, atol=1e-6)
    assert peak < 1.25 * products.nbytes


@pytest.mark.parametrize("metric", FLOATS)
def test_the_copy_by_columns_is_neither_pickled_nor_kept_for_other_rows(metric, rng):
    gallery, queries = make_rows(rng, 200, metric), make_rows(rng, 5, metric)
    engine = build(gallery, metric)
    engine.query(engine.encode(queries), 3)
    assert engine._transposed.shape == (16, 200)
    assert "_transposed" not in vars(pickle.loads(pickle.dumps(engine)))
    for changed in (engine.add(queries), engine.remove(np.arange(100))):
        positions = changed.query(changed.encode(queries), 3)[1]
        rows = np.concatenate([gallery, queries]) if len(changed) > 200 else gallery[100:]
        np.testing.assert_array_equal(positions, loop_search(queries, rows, metric, 3)[1])


@pytest.mark.parametrize("metric", METRICS)
def test_radius_finds_what_a_loop_finds(metric, rng):
    gallery, queries = make_rows(rng, 200, metric), make_rows(rng, 6, metric)
    radius = {"cosine": 0.8, "euclidean": 5.0, "hamming": 6}[metric]
    engine = build(gallery, metric)
    found = zip(*engine.query_radius(engine.encode(queries), radius))
    all_distances, all_positions = loop_search(queries, gallery, metric, 200)
    for (distances, positions), expected, order in zip(found, all_distances, all_positions):
        inside = expected <= radius
        assert inside.any()
        np.testing.assert_array_equal(positions, order[inside])
        np.testing.assert_allclose(distances, expected[inside], rtol=1e-5, atol=1e-7)


def test_radius_includes_its_border():
    engine = build(np.array([[3.0, 4.0], [3.0, 4.1], [0.0, 1.0]]), "euclidean")
    assert engine.query_radius(engine.encode(np.zeros((1, 2))), 5.0)[1][0].tolist() == [2, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_full_distances_match_a_loop(metric, rng):
    gallery, queries = make_rows(rng, 50, metric), make_rows(rng, 6, metric)
    engine = build(gallery, metric)
    expected = [[loop_distance(q, g, metric) for g in gallery.tolist()] for q in queries.tolist()]
    found = engine.distances(engine.encode(queries))[:]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_added_and_removed_are_as_if_built_at_once(metric, rng):
    rows = make_rows(rng, 120, metric)
    removed = np.array([0, 7, 50, 119])
    first = build(rows[:70], metric)
    first.query(first.encode(rows[:2]), 3)  # fills what an engine remembers
    first.distances(first.encode(rows[:2]))[:]
    engine = first.add(rows[70:]).remove(removed)
    fresh = build(np.delete(rows, removed, axis=0), metric)
    queries = fresh.encode(rows[:10])
    for found, expected in zip(engine.query(queries, 20), fresh.query(queries, 20)):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(engine.distances(queries)[:], fresh.distances(queries)[:])
    assert len(first) == 70
    assert len(engine) == 116


@pytest.mark.parametrize("metric", METRICS)
def test_engines_hold_a_copy(metric, rng):
    rows = make_rows(rng, 60, metric)
    engine = build(rows, metric)
    before = engine.query(engine.rows, 5)[1]
    rows[:] = 0
    np.testing.assert_array_equal(engine.query(engine.rows, 5)[1], before)


@pytest.mark.parametrize("metric", METRICS)
def test_pickle_holds_the_rows_and_little_else(metric, rng):
    engine = build(make_rows(rng, 5000, metric, n_features=64), metric)
    before = engine.query(engine.rows[:7], 5)
    engine.distances(engine.rows[:2])[:]
    stored = pickle.dumps(engine)
    assert len(stored) < 1.01 * engine.rows.nbytes + 1000
    after = pickle.loads(stored).query(engine.rows[:7], 5)
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(before[0], after[0])


def test_a_zero_row_has_the_norm_1_by_which_it_can_be_divided():
    rows = np.array([[0, 0], [3, -4]], dtype=np.float32)
    np.testing.assert_array_equal(row_max_abs(rows), [[1], [4]])
    np.testing.assert_array_equal(row_norms(rows), [[1], [5]])
    np.testing.assert_array_equal(safe_norms(rows.astype(float)), [0, 5])


def test_zero_rows_are_at_cosine_distance_1_from_everything():
    gallery = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    engine = build(gallery, "cosine")
    queries = engine.encode(np.array([[0.0, 0.0], [5.0, 0.0]]))
    distances, positions = engine.query(queries, 5)
    assert positions.tolist() == [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2]]
    assert distances.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 2]]
    np.testing.assert_array_equal(engine.distances(queries), [[1] * 5, [1, 0, 2, 1, 1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", FLOATS)
@pytest.mark.parametrize("exponent", [-36, -30, -12, 12, 30, 36])
def test_the_scale_of_the_rows_changes_nothing(exponent, metric, dtype, rng):
    rows = make_rows(rng, 200, metric, dtype=dtype)
    scaled = rows * dtype(10.0**exponent)
    plain, engine = build(rows, metric), build(scaled, metric)
    expected = plain.query(plain.rows[:9], 12)
    distances, positions = engine.query(engine.rows[:9], 12)
    factor = 10.0**exponent if metric == "euclidean" else 1
    np.testing.assert_array_equal(positions, expected[1])
    np.testing.assert_allclose(distances, expected[0] * factor, rtol=1e-5, atol=factor * 1e-6)
    full = engine.distances(engine.rows[:9])
    np.testing.assert_array_equal(np.argsort(full[:, :50], axis=1)[:, 0], np.arange(9))


def test_float64_rows_at_the_end_of_their_range(rng):
    rows = rng.standard_normal((50, 4)) * 1e200
    engine = build(rows, "euclidean")
    distances, positions = engine.query(engine.rows, 2)
    assert (positions[:, 0] == np.arange(50)).all()
    expected = [[math.dist(a / 1e200, b / 1e200) for b in rows] for a in rows]
    np.testing.assert_allclose(distances[:, 1], np.sort(expected)[:, 1] * 1e200)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_queries_far_beyond_the_gallery_are_answered(dtype, rng):
    rows = rng.standard_normal((40, 3)).astype(dtype)
    engine = build(rows, "euclidean")
    huge = np.full((2, 3), 1e30 if dtype == np.float32 else 1e160, dtype=dtype)
    huge[1] = rows[5]
    distances, positions = engine.query(engine.encode(huge), 40)
    np.testing.assert_allclose(distances[0], float(huge[0, 0]) * math.sqrt(3), rtol=1e-6)
    assert sorted(positions[0]) == list(range(40))
    assert positions[1, 0] == 5
    assert np.isfinite(engine.distances(engine.encode(huge))).all()


def test_rows_too_far_beyond_the_gallery_to_be_compared_are_an_error():
    engine = build(np.full((4, 3), 1e-30, dtype=np.float32), "euclidean")
    rows = np.full((2, 3), 1e30, dtype=np.float32)
    for take_in in (engine.encode, engine.add):
        with pytest.raises(ValueError, match="X holds 1e.30, but the largest number"):
            take_in(rows)


@pytest.mark.parametrize("n_queries", [1, 2])
def test_rows_of_which_products_overflow_are_found(n_queries):
    engine = build(np.arange(-6, 6, dtype=np.float32).reshape(6, 2), "euclidean")
    far = np.array([[1, -1], [-1, 1], [-1, -1], [1, 1]], dtype=np.float32) * np.float32(1e18)
    engine = engine.add(far)
    queries = np.full((n_queries, 2), 1e21, dtype=np.float32)
    distances, positions = engine.query(engine.encode(queries), 10)
    rows = engine.rows.astype(float)
    expected = np.sqrt(((rows - queries[0].astype(float)) ** 2).sum(axis=1))
    assert positions[0][0] == 9
    assert positions[0][-1] == 8
    for row in range(n_queries):
        assert sorted(positions[row]) == list(range(10))
        np.testing.assert_allclose(distances[row], np.sort(expected), rtol=1e-12)


@pytest.mark.parametrize("metric", FLOATS)
def test_no_more_pairs_are_held_than_the_working_memory_says(metric, monkeypatch):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=8) + 1e-8 * rng.normal(size=(1000, 8))).astype(np.float32)
    rows += np.float32(1e-6) * rng.normal(size=rows.shape).astype(np.float32)
    engine, held = build(rows, metric), []
    candidates = ExactEngine._candidates

    def counted(self, queries, *arguments):
        pairs = candidates(self, queries, *arguments)
        if pairs is not None and len(queries) > 1:
            held.append(len(pairs))
        return pairs

    expected = engine.query(engine.rows[:100], 5)
    monkeypatch.setattr(ExactEngine, "_candidates", counted)
    with config_context(working_memory=1):
        found = engine.query(engine.rows[:100], 5)
    assert 1000 < max(held) <= 2**20 // BYTES_PER_PAIR
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("metric", FLOATS)
def test_up_to_three_queries_of_a_large_gallery_are_prefiltered(metric, rng, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._prefilter.QUERIES_BEFORE", 0)
    engine = build(make_rows(rng, 500, metric, dtype=np.float32), metric)
    assert engine._prefilter_for(3) is None
    monkeypatch.setattr("sklearn_cbir.index._exact.BYTES_TO_PREFILTER", engine.rows.nbytes)
    assert engine._prefilter_for(3) is None
    monkeypatch.setattr("sklearn_cbir.index._exact.BYTES_TO_PREFILTER", engine.rows.nbytes - 1)
    ready = [engine._prefilter_for(n) is not None for n in (3, 2, 1, 0, 4, 5)]
    assert ready == [True, True, True, False, False, False]


def test_a_prefilter_looks_at_no_row_where_a_64th_of_them_is_wanted(rng):
    engine = build(make_rows(rng, 640, "euclidean"), "euclidean")
    prefilter, asked = Prefilter(engine.rows), []

    class Rounded:
        def multiply(self, query):
            asked.append(query)
            return engine.rows @ query, np.zeros(640, dtype=np.float32)

    prefilter.int8_rows = Rounded()
    query, error = engine.rows[:1], np.zeros(1, dtype=np.float32)
    (nearest,) = engine.query(query, 10)[1]
    found = prefilter.candidates(engine, query, 10, error, None)
    np.testing.assert_array_equal(found, np.sort(nearest))
    for k in (11, 40, 640):
        assert prefilter.candidates(engine, query, k, error, None) is None
    assert len(asked) == 1


def test_rows_far_from_the_origin_keep_their_neighbors(rng):
    # The squares lose all digits in float32; the measured differences do not.
    rows = (rng.standard_normal((400, 5)) * 4).round().astype(np.float32) / 8 + 4096
    engine = build(rows, "euclidean")
    expected = loop_search(rows[:20], rows, "euclidean", 10)
    distances, positions = engine.query(engine.rows[:20], 10)
    np.testing.assert_array_equal(positions, expected[1])
    np.testing.assert_allclose(distances, expected[0])


def test_one_long_row_spoils_no_answer(rng):
    rows = rng.standard_normal((500, 6)).astype(np.float32)
    rows[100] *= 1e6
    engine = build(rows, "euclidean")
    positions = engine.query(engine.rows[:30], 5)[1]
    np.testing.assert_array_equal(positions, loop_search(rows[:30], rows, "euclidean", 5)[1])


@pytest.mark.parametrize("metric", FLOATS)
def test_distances_are_never_negative(metric, rng):
    rows = make_rows(rng, 500, metric, n_features=99)
    engine = build(rows, metric)
    distances = engine.query(engine.rows, 3)[0]
    assert (distances[:, 0] == 0).all()
    assert (distances >= 0).all()
    assert (engine.distances(engine.rows) >= 0).all()


def test_a_read_only_gallery_is_not_written_to(rng):
    rows = rng.standard_normal((30, 4))
    rows[3] = 0
    rows.flags.writeable = False
    before = rows.copy()
    for metric in FLOATS:
        engine = build(rows, metric)
        engine.query(engine.encode(rows), 3)
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize(
    "rows",
    [
        np.array([[1, 2], [3, 4], [1, 2], [1, 2], [3, 4.5]], dtype=np.float32),
        np.array([[1, 2, 3], [3, 4, 3], [1, 2, 3], [1, 2, 3], [3, 4, 4]], dtype=np.float32),
        np.array([[1.0], [2.0], [1.0], [1.0], [3.0]]),
        np.array([[1], [2], [1], [1], [3]], dtype=np.uint64),
    ],
    ids=["one word", "padded", "float64", "codes"],
)
def test_copies_are_found_with_their_first_row(rows):
    copies, firsts = find_copies(rows)
    assert sorted(zip(copies.tolist(), firsts.tolist())) == [(2, 0), (3, 0)]


def test_keys_of_different_rows_differ(rng):
    rows = rng.integers(2, size=(20000, 40)).astype(np.float32)
    assert len(np.unique(row_keys(rows))) == len(np.unique(rows, axis=0))


@pytest.mark.parametrize(
    ("metric", "n_rows", "n_features", "expected_queries", "algorithm"),
    [
        ("hamming", 10**7, 64, None, "exact"),
        ("cosine", 20_000, 4096, None, "exact"),
        ("cosine", 20_001, 4096, None, "nndescent"),
        ("cosine", 78_125, 64, None, "exact"),
        ("euclidean", 78_126, 64, None, "nndescent"),
        ("cosine", 200_000, 64, 10_000, "exact"),
        ("cosine", 200_000, 64, 1_000_000, "nndescent"),
        ("cosine", 200_000, 64, 0, "exact"),
        # 22 s + 13.5 s to build, 0.512 ms saved per query: even at 69,335.9 queries.
        ("euclidean", 200_000, 64, 69_335, "exact"),
        ("euclidean", 200_000, 64, 69_336, "nndescent"),
        ("hamming", 200_000, 64, 69_336, "exact"),
        # 22 s + 7.2 s, 0.6912 ms: even at 42,245.4.
        ("cosine", 60_000, 512, 42_245, "exact"),
        ("cosine", 60_000, 512, 42_246, "nndescent"),
    ],
)
def test_auto_takes_the_graph_only_where_it_pays(
    metric, n_rows, n_features, expected_queries, algorithm
):
    assert choose_algorithm(metric, n_rows, n_features, expected_queries) == algorithm


def test_counted_ids_are_never_used_twice():
    ids = GalleryIds(None, 3).remove(np.array([2])).add(None, 2)
    assert ids.values.tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("given", [None, ["a", "b", "c"]], ids=["counted", "given"])
def test_ids_survive_a_pickle(given):
    ids = GalleryIds(given, 3)
    restored = pickle.loads(pickle.dumps(ids))
    assert restored.values.tolist() == ids.values.tolist()
    more = None if given is None else ["d"]
    assert restored.add(more, 1).values.tolist() == ids.add(more, 1).values.tolist()
    gaps = ids.remove(np.array([1]))
    assert pickle.loads(pickle.dumps(gaps)).values.tolist() == gaps.values.tolist()


def test_a_million_counted_ids_take_no_space():
    tracemalloc.start()
    ids = GalleryIds(None, 10**6).remove(np.arange(5)).add(None, 3)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 5000
    assert len(pickle.dumps(ids)) < 300
    assert ids.at(np.array([[0, 999_997]])).tolist() == [[5, 1_000_002]]
    asked = np.array([4, 5, 1_000_002, 1_000_003, -(2**63), 2**63 - 1])
    assert ids.find(asked).tolist() == [-1, 0, 999_997, -1, -1, -1]
    assert (ids.values == np.arange(5, 1_000_003)).all()
    assert len(pickle.dumps(ids)) < 300


@pytest.mark.parametrize("given", [None, ["a", "b", "c"]], ids=["counted", "given"])
def test_the_ids_of_a_gallery_cannot_be_written_by_accident(given):
    retriever = NeighborsRetriever(1).fit(np.eye(3), ids=given)
    with pytest.raises(ValueError, match="read-only"):
        retriever.ids_[0] = retriever.ids_[1]


def test_labels_of_a_gallery_are_stored_small_and_given_back():
    y = np.array(["a long name of a class", "b"] * 1000)
    labels = GalleryLabels(y, 2000)
    assert len(pickle.dumps(labels)) < 3000
    assert labels.values.tolist() == y.tolist()
    grown = labels.add(["aa", "b"], 2).remove(np.arange(1999))
    assert grown.values.tolist() == ["b", "aa", "b"]


def test_label_columns_of_a_gallery_grow_and_shrink():
    labels = GalleryLabels([[1, 0], [1, 1]], 2).add([[0, 1]], 1).remove(np.array([0]))
    assert labels.values.tolist() == [[1, 1], [0, 1]]


def drawn_together(kind, n=1000, n_classes=20):
    """Float32 rows whose classes are clear, but lie within rounding errors of a product."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    classes, noise = rng.normal(size=(n_classes, 64)), rng.normal(size=(n, 64))
    if kind == "far from the origin":
        return (3000 + classes[y] + 0.8 * noise).astype(np.float32), y
    if kind == "one direction":
        return (rng.normal(size=64) + 3e-4 * (classes[y] + 0.3 * noise)).astype(np.float32), y
    centers = rng.normal(size=(4, 64))[y % 4]  # several directions
    return (centers + 3e-4 * (classes[y] + 0.3 * noise)).astype(np.float32), y


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("euclidean", "far from the origin"),
        ("cosine", "one direction"),
        ("euclidean", "one direction"),
        ("cosine", "several directions"),
        ("euclidean", "several directions"),
    ],
)
@pytest.mark.parametrize("storage", ["copy", "memory_map"])
def test_scores_tell_rows_apart_as_neighbors_do(metric, kind, storage, tmp_path):
    X, y = drawn_together(kind)
    gallery = X[200:]
    if storage == "memory_map":
        np.save(tmp_path / "rows.npy", gallery)
        gallery = tmp_path / "rows.npy"
    retriever = NeighborsRetriever(1, metric=metric, algorithm="exact", storage=storage)
    retriever.fit(gallery, y[200:])
    hits = y[200:][retriever.kneighbors(X[:200])[1][:, 0]] == y[:200]
    assert hits.mean() > 0.95
    results = retriever.evaluate(X[:200], y[:200], scoring=["recall@1", "map"])
    assert results["recall@1"].score == hits.mean()
    precise = NeighborsRetriever(1, metric=metric, algorithm="exact")
    precise.fit(X[200:].astype(np.float64), y[200:])
    expected = precise.score(X[:200].astype(np.float64), y[:200])
    assert results["map"].score == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("tile", [20_000, 2_000])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("spread", "k"), [(0.0, 10), (1e-9, 10), (1.0, 5_000)])
def test_ties_and_many_neighbors_stay_within_the_working_memory(
    metric, spread, k, tile, monkeypatch
):
    monkeypatch.setattr("sklearn_cbir.index._exact.SIMILARITIES_AT_ONCE", tile * 256)
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=8) + spread * rng.normal(size=(20_000, 8))).astype(np.float32)
    retriever = NeighborsRetriever(k, metric=metric, algorithm="exact").fit(rows)
    expected = retriever.kneighbors(rows[:256])
    result = sum(array.nbytes for array in expected)
    with config_context(working_memory=16):
        tracemalloc.start()
        try:
            found = retriever.kneighbors(rows[:256])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < result + 18 * 2**20
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("peak", [1e-44, 1e-40, 1e-38, 3e38])
def test_rows_near_the_limits_of_single_precision_are_compared(peak, dtype, rng):
    rows = (rng.uniform(-1, 1, size=(40, 3)) * peak).astype(dtype)
    distances, positions = build(rows, "euclidean").query(build(rows, "euclidean").encode(rows), 5)
    exact = rows.astype(np.float64) / peak
    expected = np.linalg.norm(exact[:, None] - exact, axis=2)
    order = np.argsort(expected, axis=1, kind="stable")[:, :5]
    np.testing.assert_allclose(
        distances / peak, np.take_along_axis(expected, order, 1), rtol=1e-6, atol=1e-9
    )
    assert (positions == order).mean() > (0.5 if peak == 1e-44 else 0.99)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_one_query_of_rows_beyond_the_cache_gets_the_answer_of_many(metric, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._exact.BYTES_TO_STREAM", 0)
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, size=(500, 6)).astype(np.float32)  # many ties
    engine = ENGINES["exact"](metric).build(rows)
    queries = engine.encode(rows[:50])
    distances, positions = engine.query(queries, 7)
    for row in range(50):
        one = engine.query(queries[row : row + 1], 7)
        np.testing.assert_array_equal(one[0][0], distances[row])
        np.testing.assert_array_equal(one[1][0], positions[row])


@pytest.mark.parametrize("n_features", [3, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", FLOATS)
def test_rounding_errors_of_products_are_bounded_and_the_bound_is_not_loose(
    metric, dtype, n_features, rng
):
    # A bound that is too small loses neighbors; one that is too large measures too many again.
    engine = build(make_rows(rng, 400, metric, n_features, dtype), metric)
    queries = engine.encode(make_rows(rng, 20, metric, n_features, dtype))
    found = engine._similarity(queries, slice(None)).astype(np.longdouble)
    long_queries, long_rows = queries.astype(np.longdouble), engine.rows.astype(np.longdouble)
    expected, largest = long_queries @ long_rows.T, 1.0
    if metric == "euclidean":
        expected -= (long_rows**2).sum(axis=1) / 2
        norms = [np.sqrt((x.astype(np.float64) ** 2).sum(axis=1)) for x in (queries, engine.rows)]
        largest = (norms[0] + norms[1].max()) ** 2
    bound = engine._error(queries)
    assert (np.abs(found - expected) <= bound[:, None] / 2).all()
    relative = bound / (np.finfo(dtype).eps * largest)
    assert (relative > 1.5 * n_features).all()
    assert (relative < 3 * n_features + 20).all()


@pytest.mark.parametrize("shift", [0, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", FLOATS)
def test_distances_of_a_product_are_close_enough_wherever_they_are_not_measured(
    metric, dtype, shift, rng
):
    rows = make_rows(rng, 300, metric, 20, dtype)
    near = rows + (rng.standard_normal(rows.shape) * 10.0 ** -rng.uniform(0, 8, (300, 1))).astype(
        dtype
    )
    engine = build(rows + dtype(shift), metric)
    queries = engine.encode(near + dtype(shift))
    distances = engine._by_product(queries)
    exact = engine.rescore(queries, *np.divmod(np.arange(300 * 300), 300)).reshape(300, 300)
    close = engine._close(queries)[:, None]
    far = distances > close
    np.testing.assert_allclose(distances[far], exact[far], rtol=0.05)
    if metric == "euclidean" or not shift:
        # What is measured again is little: rows that agree in half of their digits.
        assert (close < exact.max() * (0.01 if dtype == np.float64 else 0.2)).all()
    np.testing.assert_allclose(engine.distances(queries), exact, rtol=0.05, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "keys", "summed"),
    [
        (
            np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5,
            ["0x7b0f76d010b5d4ea", "0x2972243354418edd"],
            ["0x6f2da1992ae00000", "0x2e9daf1885200000"],
        ),
        (
            np.arange(4, dtype=np.float64).reshape(2, 2) / 3,
            ["0xc04c507a3206e024", "0x5092b3a1db8d1b2d"],
            ["0xf8cfc0ad29b762f5", "0x6db006bab769d48b"],
        ),
        (
            np.array([[7], [2**63]], dtype=np.uint64),
            ["0x5706dd0e840b4ecb", "0x605785d06f75fd11"],
            ["0x756f72aef4519099", "0x8000000000000000"],
        ),
    ],
    ids=["padded", "float64", "codes"],
)
def test_keys_of_rows_stay_what_galleries_elsewhere_hold(rows, keys, summed):
    assert [hex(key) for key in row_keys(rows)] == keys
    assert [hex(key) for key in summed_row_keys(rows)] == summed


@pytest.mark.parametrize(("n_columns", "itemsize"), [(100, 8), (1, 1), (10**6, 4), (0, 8)])
@pytest.mark.parametrize("largest", [7, 1024])
def test_blocks_of_rows_are_as_large_as_the_working_memory_allows(n_columns, itemsize, largest):
    with config_context(working_memory=0.25):
        blocks = list(row_blocks(3000, n_columns, itemsize=itemsize, largest=largest))
    assert [row for block in blocks for row in range(3000)[block]] == list(range(3000))
    fits = 2**18 // max(1, n_columns * itemsize)
    assert blocks[0] == slice(0, min(largest, max(1, fits)))
    assert {block.stop - block.start for block in blocks[:-1]} == {blocks[0].stop}
