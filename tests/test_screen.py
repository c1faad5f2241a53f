"""Rows in bytes: the bounds hold, answers stay those of the rows, and it is made when it pays."""

import pickle
import sys

import numpy as np
import pytest
from sklearn import config_context

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import ENGINES
from sklearn_cbir.index._screen import ByteScreen

EXACT = "sklearn_cbir.index._exact"


@pytest.fixture
def at_once(monkeypatch):
    """Screen galleries of any size from the first query on."""
    monkeypatch.setattr(f"{EXACT}.BYTES_TO_SCREEN", 0)
    monkeypatch.setattr(f"{EXACT}.QUERIES_BEFORE_SCREEN", 0)


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
    return rows


KINDS = [
    "normal",
    "lengths of all sizes",
    "one large number per row",
    "some zero rows",
    "copies",
    "whole numbers",
]


def test_a_row_by_hand():
    screen = ByteScreen(np.array([[127.0, -63.4, 0.0], [0.0, 0.0, 0.0]]))
    assert screen._codes.tolist() == [[127, -63, 0], [0, 0, 0]]
    assert screen._scales.tolist() == [1, 0]
    np.testing.assert_allclose(screen._rests, [0.4, 0], rtol=1e-5)
    products, slack = screen.multiply(np.array([3.0, 4.0, 0.0]))
    assert products.tolist() == [3 * 127 - 4 * 63, 0]
    np.testing.assert_allclose(slack, [5 * 0.4, 0], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e15])
@pytest.mark.parametrize("kind", KINDS)
def test_products_lie_within_their_bounds(kind, scale, dtype, rng):
    with np.errstate(under="ignore"):
        rows = (rows_of(kind, rng) * scale).astype(dtype)
    screen = ByteScreen(rows)
    for query in rng.normal(size=(5, rows.shape[1])).astype(dtype):
        products, slack = screen.multiply(query)
        exact = rows.astype(np.longdouble) @ query.astype(np.longdouble)
        lengths = np.linalg.norm(rows.astype(np.longdouble), axis=1) * np.linalg.norm(query)
        rounding = 2 * rows.shape[1] * np.finfo(dtype).eps * lengths + np.finfo(dtype).tiny
        assert (abs(products - exact) <= slack + rounding).all()
        assert np.median(slack) <= 0.05 * np.median(lengths)  # and they say something


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_answers_are_those_of_the_rows(metric, kind, dtype, k, rng, at_once):
    rows = rows_of(kind, rng).astype(dtype)
    engine = ENGINES["exact"](metric).build(rows)
    queries = engine.encode(np.concatenate([rows[:3], rows_of(kind, rng, n=9).astype(dtype)]))
    expected = engine.query(queries, k)  # many queries are not screened
    for start, stop in [(0, 1), (1, 2), (3, 4), (4, 6), (6, 9)]:
        for found, known in zip(engine.query(queries[start:stop], k), expected):
            np.testing.assert_array_equal(found, known[start:stop])


def test_a_screen_leaves_few_rows_to_measure(rng, at_once):
    engine = ENGINES["exact"]("cosine").build(rng.normal(size=(5000, 64)).astype(np.float32))
    measured = []
    measure = engine.measure
    engine.measure = lambda *pairs: measured.append(len(pairs[1])) or measure(*pairs)
    engine.query(engine.encode(rng.normal(size=(1, 64)).astype(np.float32)), 10)
    assert 10 <= measured[0] < 100


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rows_that_bytes_cannot_tell_apart_are_read_as_they_are(metric, rng, at_once):
    rows = (rng.normal(size=16) + 1e-4 * rng.normal(size=(3000, 16))).astype(np.float32)
    engine = ENGINES["exact"](metric).build(rows)
    queries = engine.encode(rows[:20])
    expected = engine.query(queries, 5)
    for found, known in zip(engine.query(queries[:1], 5), expected):
        np.testing.assert_array_equal(found, known[:1])
    assert engine._cached_screen is None


def test_many_neighbors_are_read_as_they_are(rng, at_once):
    rows = rng.normal(size=(1000, 8)).astype(np.float32)
    engine = ENGINES["exact"]("euclidean").build(rows)
    expected = engine.query(rows[:9], 500)
    for found, known in zip(engine.query(rows[:1], 500), expected):
        np.testing.assert_array_equal(found, known[:1])
    assert engine._cached_screen is not None  # it serves the next question


def test_a_screen_is_made_once_enough_was_asked_and_not_kept_for_other_rows(rng, monkeypatch):
    monkeypatch.setattr(f"{EXACT}.BYTES_TO_SCREEN", 0)
    monkeypatch.setattr(f"{EXACT}.QUERIES_BEFORE_SCREEN", 5)
    retriever = NeighborsRetriever(3, algorithm="exact").fit(rng.normal(size=(500, 8)))
    queries = rng.normal(size=(40, 8))
    retriever.kneighbors(queries)
    for n_queries in (2, 1, 2):
        retriever.kneighbors(queries[:n_queries])
        assert "_cached_screen" not in vars(retriever._gallery.engine)
    retriever.kneighbors(queries[:1])
    assert isinstance(retriever._gallery.engine._cached_screen, ByteScreen)
    copy = pickle.loads(pickle.dumps(retriever))
    assert not {"_cached_screen", "_cached_asked"} & set(vars(copy._gallery.engine))
    retriever.partial_fit(queries)
    assert "_cached_screen" not in vars(retriever._gallery.engine)
    assert retriever.kneighbors(queries[7:8])[1][0, 0] == 507


def test_a_screen_is_not_made_beyond_the_working_memory(rng, at_once):
    engine = ENGINES["exact"]("euclidean").build(rng.normal(size=(40_000, 32)))
    with config_context(working_memory=1):  # and 40,000 x 32 bytes are more
        assert engine.query(engine.rows[5:6], 1)[1].tolist() == [[5]]
        assert "_cached_screen" not in vars(engine)
    with config_context(working_memory=2):
        assert engine.query(engine.rows[5:6], 1)[1].tolist() == [[5]]
    assert isinstance(engine._cached_screen, ByteScreen)


def test_where_numba_cannot_compile_rows_are_read_as_they_are(rng, at_once, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn_cbir.index._screen", None)
    rows = rng.normal(size=(300, 8))
    engine = ENGINES["exact"]("euclidean").build(rows)
    assert engine.query(rows[5:6], 1)[1].tolist() == [[5]]
    assert engine._cached_screen is None


def test_rows_that_are_not_in_memory_are_not_screened(rng, at_once, tmp_path):
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    half = NeighborsRetriever(1, storage="float16").fit(rows)
    file = NeighborsRetriever(1, storage="memory_map").fit(np.load(tmp_path / "rows.npy", "r"))
    for retriever in (half, file):
        assert retriever.kneighbors(rows[4:5])[1].tolist() == [[4]]
        assert "_cached_screen" not in vars(retriever._gallery.engine)
