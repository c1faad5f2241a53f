"""Rows in bytes: the bounds hold, answers stay those of the rows, and it is made when it pays."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn import config_context

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import ENGINES
from sklearn_cbir.index._filter import RowFilter
from sklearn_cbir.index._int8_kernels import Int8Rows

EXACT = "sklearn_cbir.index._exact"
PREFILTER = "sklearn_cbir.index._prefilter"


@pytest.fixture
def at_once(monkeypatch):
    """Screen galleries of any size from the first query on."""
    monkeypatch.setattr(f"{EXACT}.BYTES_TO_PREFILTER", 0)
    monkeypatch.setattr(f"{PREFILTER}.QUERIES_BEFORE", 0)


def rows_of(kind, rng, n=2000, d=24):
    rows = rng.normal(size=(n, d))
    if kind == "lengths of all sizes":
        rows *= 10.0 ** rng.uniform(-6, 6, size=(n, 1))
    elif kind == "one large number per row":
        rows[np.arange(n), rng.integers(d, size=n)] *= 1e4
    elif kind == "some zero rows":
        rows[::3] = 0
    elif kind == "copies":
        rows = rows[rng.integers(min(n, 50), size=n)]
    elif kind == "whole numbers":
        rows = np.rint(2 * rows)
    elif kind == "columns of all sizes":
        rows *= 10.0 ** np.linspace(-4, 4, d)
    return rows


KINDS = [
    "normal",
    "lengths of all sizes",
    "one large number per row",
    "some zero rows",
    "copies",
    "whole numbers",
    "columns of all sizes",
]


def test_a_row_by_hand():
    screen = Int8Rows(np.array([[127.0, -63.4, 0.0], [0.0, 0.0, 0.0]]))
    assert screen._codes.tolist() == [[127, -63, 0], [0, 0, 0]]
    assert screen._scales.tolist() == [1, 0]
    np.testing.assert_allclose(screen._residuals, [0.4, 0], rtol=1e-5)
    products, slack = screen.multiply(np.array([3.0, 4.0, 0.0]))
    assert products.tolist() == [3 * 127 - 4 * 63, 0]
    np.testing.assert_allclose(slack, [5 * 0.4, 0], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e15])
@pytest.mark.parametrize("kind", KINDS)
def test_products_lie_within_their_bounds(kind, scale, dtype, rng):
    with np.errstate(under="ignore"):
        rows = (rows_of(kind, rng) * scale).astype(dtype)
    screen = Int8Rows(rows)
    for query in rng.normal(size=(5, rows.shape[1])).astype(dtype):
        products, slack = screen.multiply(query)
        exact = rows.astype(np.longdouble) @ query.astype(np.longdouble)
        lengths = np.linalg.norm(rows.astype(np.longdouble), axis=1) * np.linalg.norm(query)
        rounding = 2 * rows.shape[1] * np.finfo(dtype).eps * lengths + np.finfo(dtype).tiny
        assert (abs(products - exact) <= slack + rounding).all()
        assert np.median(slack) <= 0.05 * np.median(lengths)  # and they say something


@pytest.mark.parametrize("d", [1, 2, 3, 24])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_answers_are_those_of_the_rows(metric, kind, dtype, d, rng, at_once):
    rows = rows_of(kind, rng, d=d).astype(dtype)
    engine = ENGINES["exact"](metric).build(rows)
    asked = np.concatenate([rows[:3], rows_of(kind, rng, n=30, d=d).astype(dtype)])
    queries = engine.encode(asked)
    for k in (1, 4, 10):
        expected = engine.query(queries, k)  # many queries are not screened
        for start in (0, 1, 2, *range(3, 33, 3)):
            part = slice(start, start + 1 if start < 3 else start + 3)
            for found, known in zip(engine.query(queries[part], k), expected):
                np.testing.assert_array_equal(found, known[part])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("left", ["half", "the furthest", "a hundredth"])
def test_answers_are_those_of_the_rows_that_a_filter_leaves_in(
    left, metric, kind, dtype, rng, at_once
):
    rows = rows_of(kind, rng).astype(dtype)
    engine = ENGINES["exact"](metric).build(rows)
    queries = engine.encode(np.concatenate([rows[:3], rows_of(kind, rng, n=3).astype(dtype)]))
    engine.query(queries[:1], 3)  # there is a screen now
    distances = engine.distances(queries[:1])[0]
    mask = {
        "half": rng.random(len(rows)) < 0.5,
        "the furthest": distances >= np.quantile(distances, 0.8),
        "a hundredth": rng.random(len(rows)) < 0.01,
    }[left]
    alone = engine._over(engine.rows[mask])
    k = min(4, mask.sum())
    for start in range(6):
        part = slice(start, start + (1 if start < 3 else 3))
        filtered = engine.filtered(RowFilter(mask))
        found, expected = filtered.query(queries[part], k), alone.query(queries[part], k)
        for values, known in zip(found, expected):
            np.testing.assert_array_equal(values, known)
        again = filtered.query(queries[part], k)
        np.testing.assert_array_equal(again, expected)
        assert not filtered.find_copies() or len(np.unique(rows[mask], axis=0)) < mask.sum()
        np.testing.assert_array_equal(filtered.query(queries[part], k), expected)


def test_a_screen_that_a_filter_spoils_is_kept_for_all_rows(rng, at_once):
    engine = ENGINES["exact"]("euclidean").build(rng.normal(size=(3000, 8)).astype(np.float32))
    rows = engine.rows
    rows[1500:] = 100 + 1e-3 * rng.normal(size=(1500, 8))  # which bytes cannot tell apart
    engine.query(rows[:1], 3)
    filtered = engine.filtered(RowFilter(np.arange(3000) >= 1500))
    for query in rows[:20]:
        filtered.query(query[None], 3)
    assert filtered._prefilter.int8_rows is None
    assert engine._prefilter.int8_rows is not None


@pytest.mark.parametrize("n_queries", [0, 1, 3])
def test_queries_that_overflow_and_none_at_all_are_answered(n_queries, rng, at_once):
    rows = rng.normal(size=(50, 4)).astype(np.float32)
    engine = ENGINES["exact"]("euclidean").build(rows)
    engine.query(rows[:1], 3)
    far = (rng.normal(size=(n_queries, 4)) * 1e25).astype(np.float32)
    distances, positions = engine.query(far, 3)
    assert distances.shape == positions.shape == (n_queries, 3)
    exact = np.linalg.norm(far[:, None].astype(float) - rows.astype(float), axis=2)
    np.testing.assert_array_equal(positions, np.argsort(exact, axis=1, kind="stable")[:, :3])


def test_a_screen_leaves_few_rows_to_measure(rng, at_once):
    engine = ENGINES["exact"]("cosine").build(rng.normal(size=(5000, 64)).astype(np.float32))
    measured = []
    rescore = engine.rescore
    engine.rescore = lambda *pairs: measured.append(len(pairs[1])) or rescore(*pairs)
    engine.query(engine.encode(rng.normal(size=(1, 64)).astype(np.float32)), 10)
    assert 10 <= measured[0] < 100


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rows_that_bytes_cannot_tell_apart_are_read_as_they_are(metric, rng, at_once):
    rows = (rng.normal(size=16) + 1e-4 * rng.normal(size=(3000, 16))).astype(np.float32)
    engine = ENGINES["exact"](metric).build(rows)
    queries = engine.encode(rows[:20])
    expected = engine.query(queries, 5)
    for row in range(9):
        assert row == 0 or isinstance(engine._prefilter.int8_rows, Int8Rows)
        for found, known in zip(engine.query(queries[row : row + 1], 5), expected):
            np.testing.assert_array_equal(found, known[row : row + 1])
    assert engine._prefilter.int8_rows is None  # given up


def test_odd_queries_now_and_then_do_not_end_a_screen(rng, at_once):
    engine = ENGINES["exact"]("cosine").build(rng.normal(size=(2000, 32)).astype(np.float32))
    blank, other = np.zeros((1, 32), np.float32), engine.rows[:1]
    for _ in range(4):
        for _ in range(5):
            assert engine.query(blank, 2)[1].tolist() == [[0, 1]]
        assert engine.query(other, 1)[1].tolist() == [[0]]
    assert isinstance(engine._prefilter.int8_rows, Int8Rows)


def test_threads_that_come_together_make_one_screen(rng, at_once, monkeypatch):
    made = []
    monkeypatch.setattr(f"{PREFILTER}._quantized", lambda rows: made.append(1) or Int8Rows(rows))
    engine = ENGINES["exact"]("cosine").build(rng.normal(size=(20_000, 64)).astype(np.float32))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: engine.query(engine.rows[row : row + 1], 1), range(8)))
    assert [int(positions[0, 0]) for _, positions in found] == list(range(8))
    assert len(made) == 1


def test_many_neighbors_are_read_as_they_are(rng, at_once):
    rows = rng.normal(size=(1000, 8)).astype(np.float32)
    engine = ENGINES["exact"]("euclidean").build(rows)
    expected = engine.query(rows[:9], 500)
    for found, known in zip(engine.query(rows[:1], 500), expected):
        np.testing.assert_array_equal(found, known[:1])
    assert engine._prefilter.int8_rows is not None  # it serves the next question


def test_a_screen_is_made_once_enough_was_asked_and_not_kept_for_other_rows(rng, monkeypatch):
    monkeypatch.setattr(f"{EXACT}.BYTES_TO_PREFILTER", 0)
    monkeypatch.setattr(f"{PREFILTER}.QUERIES_BEFORE", 5)
    retriever = NeighborsRetriever(3, algorithm="exact").fit(rng.normal(size=(500, 8)))
    queries = rng.normal(size=(40, 8))
    retriever.kneighbors(queries)
    for n_queries in (2, 1, 2):
        retriever.kneighbors(queries[:n_queries])
        assert retriever._gallery.engine._prefilter.int8_rows is None
    retriever.kneighbors(queries[:1])
    assert isinstance(retriever._gallery.engine._prefilter.int8_rows, Int8Rows)
    copy = pickle.loads(pickle.dumps(retriever))
    assert "_prefilter" not in vars(copy._gallery.engine)
    retriever.partial_fit(queries)
    assert "_prefilter" not in vars(retriever._gallery.engine)
    assert retriever.kneighbors(queries[7:8])[1][0, 0] == 507


def test_a_screen_is_not_made_beyond_the_working_memory(rng, at_once):
    engine = ENGINES["exact"]("euclidean").build(rng.normal(size=(40_000, 32)))
    with config_context(working_memory=1):  # and 40,000 x 32 bytes are more
        assert engine.query(engine.rows[5:6], 1)[1].tolist() == [[5]]
        assert engine._prefilter.int8_rows is None
    with config_context(working_memory=2):
        assert engine.query(engine.rows[5:6], 1)[1].tolist() == [[5]]
    assert isinstance(engine._prefilter.int8_rows, Int8Rows)


def test_where_numba_cannot_compile_rows_are_read_as_they_are(rng, at_once, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn_cbir.index._int8_kernels", None)
    rows = rng.normal(size=(300, 8))
    engine = ENGINES["exact"]("euclidean").build(rows)
    assert engine.query(rows[5:6], 1)[1].tolist() == [[5]]
    assert engine._prefilter.int8_rows is None


def test_rows_that_are_not_in_memory_are_not_screened(rng, at_once, tmp_path):
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    half = NeighborsRetriever(1, storage="float16").fit(rows)
    file = NeighborsRetriever(1, storage="memory_map").fit(np.load(tmp_path / "rows.npy", "r"))
    for retriever in (half, file):
        assert retriever.kneighbors(rows[4:5])[1].tolist() == [[4]]
        assert "_prefilter" not in vars(retriever._gallery.engine)
