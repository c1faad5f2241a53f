"""Filters of a gallery on a server: who leaves rows out, what is asked, and what travels."""

import ast
import os
import pickle
import re

import numpy as np
import pytest
from milvus_fake import FakeClient

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import _milvus, _milvus_client, _milvus_filter

pytest.importorskip("pymilvus")

URI = "http://fake.example:19530"
METRICS = ["cosine", "euclidean", "hamming"]
N, WIDTH = 600, 6
FIRST = 5 + _milvus.SPARE  # results that a query of five neighbors asks for


@pytest.fixture
def server():
    client = FakeClient()
    _milvus_client._clients[URI] = os.getpid(), client
    return client


def make_rows(metric, n=N, seed=0):
    """Rows of four classes with many copies, and codes that tie all the time."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    rows = (rng.normal(size=(n, WIDTH)) + 2 * np.eye(4, WIDTH)[y]).astype(np.float32)
    rows[20:30] = rows[19]
    return ((rows > 0.5).astype(np.uint8) if metric == "hamming" else rows), y


def masks(n=N):
    """Masks by name: shares of the rows, spread and in runs, and those of classes of rows."""
    rng = np.random.default_rng(1)
    place = np.arange(n)
    return {
        "all": np.ones(n, dtype=bool),
        "all but a few": ~np.isin(place, [0, 19, 22, 23, n - 1]),
        "nine of ten": rng.random(n) < 0.9,
        "half": rng.random(n) < 0.5,
        "every other": place % 2 == 0,
        "a tenth": rng.random(n) < 0.1,
        "a few": np.isin(place, rng.choice(n, 24, replace=False)),
        "one run": (place >= 100) & (place < 450),
        "all but one run": (place < 100) | (place >= 450),
        "runs and others": (place < 250) | (place >= 300) & (place % 7 == 0),
    }


each_mask = pytest.mark.parametrize("mask", masks().values(), ids=masks())


def of_server(metric, rows, y=None, uri=URI, **options):
    options |= {"algorithm": "milvus", "uri": uri, "collection": "test"}
    return NeighborsRetriever(5, metric=metric, **options).fit(rows, y)


def in_memory(metric, rows, mask, y=None, **options):
    """A retriever of those rows only that are left in."""
    retriever = NeighborsRetriever(5, metric=metric, algorithm="exact", **options)
    return retriever.fit(rows[mask], None if y is None else y[mask], ids=np.flatnonzero(mask))


def assert_same_neighbors(ours, alone, queries, mask, k):
    distances, positions = ours.kneighbors(queries, k, where=mask)
    expected, numbers = alone.kneighbors(queries, k)
    np.testing.assert_array_equal(distances, expected)
    np.testing.assert_array_equal(positions, alone.ids_[numbers])


def results_asked_for(server):
    """How many results could come back in all."""
    return sum(len(asked["data"]) * asked["limit"] for asked in server._options("search"))


@each_mask
@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_those_of_a_gallery_of_the_rows_left_in(server, metric, mask):
    rows, y = make_rows(metric)
    ours, alone = of_server(metric, rows, y), in_memory(metric, rows, mask, y)
    queries, y_queries = make_rows(metric, 22, seed=2)
    n = int(mask.sum())
    for k in (1, 5, min(40, n), n):
        assert_same_neighbors(ours, alone, queries, mask, k)
    radius = float(np.median(alone.kneighbors(queries, 5)[0]))
    found = ours.radius_neighbors(queries, radius, sort_results=True, where=mask)
    expected = alone.radius_neighbors(queries, radius, sort_results=True)
    for row in range(22):
        np.testing.assert_array_equal(found[0][row], expected[0][row])
        np.testing.assert_array_equal(found[1][row], alone.ids_[expected[1][row]])
    for scoring in ("map", "precision@3", "recall@1"):
        scores = [
            ours.evaluate(queries, y_queries, scoring=scoring, where=mask),
            alone.evaluate(queries, y_queries, scoring=scoring),
        ]
        np.testing.assert_allclose(*(each.per_query for each in scores), rtol=0, atol=1e-12)


def _passing(server, expression, keys):
    """Which keys the server lets in."""
    return server._passing(ast.parse(expression, mode="eval").body, keys)


@each_mask
def test_an_expression_lets_in_what_a_filter_leaves_in_and_nothing_else(server, mask, monkeypatch):
    monkeypatch.setattr(_milvus_filter, "KEYS_PER_RANGE", 20)
    rows, _ = make_rows("cosine")
    keys = of_server("cosine", rows)._gallery.engine.keys
    for wanted in (mask, ~mask):
        if wanted.any():
            text = str(_milvus_filter.Terms(keys, wanted))
            np.testing.assert_array_equal(_passing(server, text, keys), wanted)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a few", r"key in \[(\d+, ){23}\d+\]"),
        ("all but a few", r"not \(key in \[(\d+, ){4}\d+\]\)"),
        ("one run", r"\(key >= \d+ and key <= \d+\)"),
        ("all but one run", r"not \(\(key >= \d+ and key <= \d+\)\)"),
        ("runs and others", r"\(key >= \d+ and key <= \d+\) or key in \[[\d, ]+\]"),
    ],
)
def test_the_server_is_told_which_rows_may_come(server, name, shape):
    mask = masks()[name]
    rows, _ = make_rows("cosine")
    ours = of_server("cosine", rows)
    server.calls.clear()
    ours.kneighbors(rows[:100] + np.float32(0.01), where=mask)
    asked = server._options("search")
    assert {options["limit"] for options in asked} <= {FIRST, 4 * FIRST, 16 * FIRST}
    for options in asked:
        assert re.fullmatch(shape, options["filter"])
    assert set(server._counts()) == {"search"}


def test_what_travels_is_bounded_however_large_the_gallery_is(server):
    """Few rows left in of many: of those, as many as are wanted and a few to spare."""
    rows, y = make_rows("euclidean", 5000)
    ours = of_server("euclidean", rows, y)
    mask = np.isin(np.arange(5000), np.arange(7, 5000, 250))
    server.calls.clear()
    ours.kneighbors(rows[:1] + np.float32(0.01), where=mask)
    assert results_asked_for(server) == FIRST
    server.calls.clear()
    ours.radius_neighbors(rows[:3], 1.0, where=mask)
    ours.evaluate(rows[:3], y[:3], scoring="map", where=mask)
    read = [len(options["ids"]) for options in server._options("query")]
    assert max(read) <= mask.sum()  # never a row that is left out
    assert set(server._counts()) == {"query"}


def test_where_little_is_left_out_the_server_is_told_nothing(server):
    rows, _ = make_rows("cosine")
    ours = of_server("cosine", rows)
    for name, limit in (("all", FIRST), ("nine of ten", 15), ("half", 26)):
        mask = masks()[name]
        server.calls.clear()
        ours.kneighbors(rows[40:41] + np.float32(0.01), where=mask)
        (asked,) = server._options("search")
        assert asked["filter"] == ""
        assert abs(asked["limit"] - limit) <= 1


def test_a_query_whose_neighbors_are_all_left_out_has_the_server_leave_them_out(server):
    """Passing over what is left out does not do here, and the expression does at once."""
    rows, y = make_rows("euclidean", 400)
    rows[y == 0] += 100
    mask = y != 0
    ours, alone = of_server("euclidean", rows), in_memory("euclidean", rows, mask)
    server.calls.clear()
    query = rows[np.flatnonzero(y == 0)[:1]]
    assert_same_neighbors(ours, alone, query, mask, 5)
    first, second = server._options("search")
    assert first["filter"] == "" != second["filter"]
    assert second["limit"] == FIRST < first["limit"]


def test_stretches_of_a_gallery_are_searched_where_one_expression_would_be_long(
    server, monkeypatch
):
    monkeypatch.setattr(_milvus_filter, "KEYS", 50)
    rows, y = make_rows("euclidean", 400)
    rows[y == 0] += 100
    mask = y != 0
    mask[200:280] = False
    ours, alone = of_server("euclidean", rows), in_memory("euclidean", rows, mask)
    server.calls.clear()
    assert_same_neighbors(ours, alone, rows[np.flatnonzero(y == 0)[:1]], mask, 5)
    first, *parts = server._options("search")
    assert first["filter"] == ""
    assert first["limit"] == int(np.ceil(FIRST / mask.mean()))
    assert {options["limit"] for options in parts} == {FIRST}
    keys = ours._gallery.engine.keys
    passing = np.array([_passing(server, options["filter"], keys) for options in parts])
    np.testing.assert_array_equal(passing.sum(axis=0), mask)
    assert all(options["filter"].count(",") < 50 for options in parts)
    assert 1 < len(parts) < _milvus_filter.STRETCHES
    assert set(server._counts()) == {"search"}


@each_mask
@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_the_same_from_as_many_stretches_as_it_takes(server, monkeypatch, metric, mask):
    monkeypatch.setattr(_milvus_filter, "KEYS", 25)
    monkeypatch.setattr(_milvus_filter, "KEYS_PER_RANGE", 10)
    monkeypatch.setattr(_milvus_filter, "STRETCHES", 100)
    # Few are passed over, so that the stretches are searched.
    monkeypatch.setattr(_milvus_filter.KeyFilter, "costs_more_than", lambda *_: False)
    rows, _ = make_rows(metric)
    ours, alone = of_server(metric, rows), in_memory(metric, rows, mask)
    queries, _ = make_rows(metric, 30, seed=2)
    for k in (1, 5, 20, int(mask.sum())):
        assert_same_neighbors(ours, alone, queries, mask, k)


def test_of_a_filter_too_long_to_tell_only_the_rows_left_in_are_read(server, monkeypatch):
    monkeypatch.setattr(_milvus_filter, "KEYS", 10)
    monkeypatch.setattr(_milvus_filter, "STRETCHES", 4)
    monkeypatch.setattr(_milvus, "MOST", 64)
    rows, y = make_rows("euclidean", 400)
    rows[y == 0] += 100
    mask = y != 0
    ours, alone = of_server("euclidean", rows), in_memory("euclidean", rows, mask)
    server.calls.clear()
    assert_same_neighbors(ours, alone, rows[np.flatnonzero(y == 0)[:1]], mask, 5)
    limits = [options["limit"] for options in server._options("search")]
    assert limits == [int(np.ceil(FIRST / mask.mean())), 64]
    assert {options["filter"] for options in server._options("search")} == {""}
    keys = ours._gallery.engine.keys
    read = np.concatenate([options["ids"] for options in server._options("query")])
    np.testing.assert_array_equal(read, keys[mask])


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("name", ["half", "every other", "all but one run", "a tenth"])
def test_of_many_codes_that_tie_the_first_left_in_are_found(server, monkeypatch, name, is_told):
    monkeypatch.setattr(_milvus, "MOST", 16)
    if not is_told:
        monkeypatch.setattr(_milvus_filter, "STRETCHES", 0)
    rows, _ = make_rows("hamming")
    rows[60:120] = rows[19]
    mask = masks()[name]
    ours, alone = of_server("hamming", rows), in_memory("hamming", rows, mask)
    queries = rows[[0, 19, 70, 399]]
    for k in (1, 3, 8, 12, 15):
        server.calls.clear()
        assert_same_neighbors(ours, alone, queries, mask, k)
        if is_told:
            assert set(server._counts()) == {"search"}


def test_an_expression_has_few_ranges_however_many_runs_there_are(server, monkeypatch):
    monkeypatch.setattr(_milvus_filter, "KEYS_PER_RANGE", 2)
    rows, _ = make_rows("cosine")
    mask = np.arange(N) % 4 < 3
    ours, alone = of_server("cosine", rows), in_memory("cosine", rows, mask)
    assert_same_neighbors(ours, alone, rows[:200], mask, 5)
    terms = _milvus_filter.Terms(ours._gallery.engine.keys, mask)
    assert str(terms).count(">=") == _milvus_filter.RANGES
    assert terms.n_keys == mask.sum() - 3 * _milvus_filter.RANGES


@pytest.mark.parametrize("metric", METRICS)
def test_filters_go_on_after_rows_came_and_went_and_after_loading(server, metric):
    rows, y = make_rows(metric)
    ours = of_server(metric, rows, y)
    ours.partial_fit(rows[:50], y[:50]).remove(np.r_[0, 19, 300:350, 640])
    left = np.delete(np.vstack([rows, rows[:50]]), np.r_[0, 19, 300:350, 640], axis=0)
    loaded = pickle.loads(pickle.dumps(ours))
    for mask in masks(len(left)).values():
        alone = in_memory(metric, left, mask)
        for retriever in (ours, loaded):
            assert_same_neighbors(retriever, alone, rows[:9], mask, 5)


def test_a_loaded_gallery_is_looked_at_as_a_whole_before_it_is_filtered(server):
    rows, _ = make_rows("cosine")
    loaded = pickle.loads(pickle.dumps(of_server("cosine", rows)))
    (table,) = server.tables.values()
    table["rows"][min(table["rows"])] += 1
    with pytest.raises(RuntimeError, match=f"has {N} rows and is not the collection"):
        loaded.kneighbors(rows[:1], where=np.arange(N) > 300)


def test_a_filter_that_is_used_again_is_put_into_words_once(server, monkeypatch):
    rows, _ = make_rows("cosine")
    ours, made = of_server("cosine", rows), []
    words = _milvus_filter.Terms.__str__
    monkeypatch.setattr(
        _milvus_filter.Terms, "__str__", lambda terms: made.append(1) or words(terms)
    )
    for _ in range(3):
        ours.kneighbors(rows[:50], where=masks()["a few"].copy())
    assert made == [1]


def test_rows_that_somebody_else_erased_are_missed_in_a_filtered_search_too(server):
    rows, _ = make_rows("cosine")
    ours = of_server("cosine", rows)
    mask = masks()["a few"]
    (table,) = server.tables.values()
    del table["rows"][int(ours._gallery.engine.keys[mask][3])]
    with pytest.raises(RuntimeError, match="1 rows of this gallery are no longer"):
        ours.kneighbors(rows[:1], 24, where=mask)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_reranking_asks_the_rows_left_in(server, metric):
    rows, _ = make_rows(metric)
    options = {"rerank": "diffusion", "rerank_depth": 30}
    for name in ("a tenth", "half", "one run"):
        mask = masks()[name]
        ours = of_server(metric, rows, **options)
        assert_same_neighbors(ours, in_memory(metric, rows, mask, **options), rows[:5], mask, 5)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    pytest.importorskip("milvus_lite")
    return str(tmp_path_factory.mktemp("file") / "gallery.db")


@pytest.mark.parametrize("metric", METRICS)
def test_milvus_lite_reads_the_expressions(file, metric, monkeypatch):
    calls, call = [], _milvus_client.call

    def noted(*arguments, **options):
        calls.append(options.get("filter"))
        return call(*arguments, **options)

    monkeypatch.setattr(_milvus_client, "call", noted)
    rows, _ = make_rows(metric)
    ours = of_server(metric, rows, uri=file)
    queries, _ = make_rows(metric, 30, seed=2)
    for name in ("all but a few", "half", "a few", "all but one run", "runs and others"):
        mask = masks()[name]
        calls.clear()
        assert_same_neighbors(ours, in_memory(metric, rows, mask), queries, mask, 5)
        assert any(calls)
