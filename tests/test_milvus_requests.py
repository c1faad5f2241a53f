"""What a Milvus server is asked, and how often: a fake one tells, which also knows binary codes."""

import gc
import logging
import os
import pickle
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn
from milvus_fake import MOST, FakeClient

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.codes import pack_codes
from sklearn_cbir.index import _milvus, _milvus_client, _milvus_collection
from sklearn_cbir.index._milvus_collection import Collection
from sklearn_cbir.index._milvus_rows import FirstResults, KeptRows
from sklearn_cbir.index._rows import row_keys

pymilvus = pytest.importorskip("pymilvus")
grpc = pytest.importorskip("grpc")

URI = "http://fake.example:19530"
METRICS = ["cosine", "euclidean", "hamming"]


@pytest.fixture
def server():
    client = FakeClient()
    _milvus_client._clients[URI] = os.getpid(), client  # and stays, for what is dropped later
    return client


def make_rows(metric, n=150, width=6, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    rows = (rng.normal(size=(n, width)) + 2 * (np.arange(width) % 4 == y[:, None])).astype("f4")
    rows[20:30] = rows[19]
    return ((rows > 0.5).astype(np.uint8) if metric == "hamming" else rows), y


def both(metric, rows, y=None, **options):
    """A retriever that asks the server, and one that compares here."""
    exact = NeighborsRetriever(5, metric=metric, algorithm="exact", **options).fit(rows, y)
    options |= {"algorithm": "milvus", "uri": URI, "collection": "test"}
    return NeighborsRetriever(5, metric=metric, **options).fit(rows, y), exact


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("width", [3, 64, 70, 130])
def test_a_server_gets_codes_as_bits_in_whole_words(server, width):
    rows, y = make_rows("hamming", width=width)
    ours, exact = both("hamming", rows, y)
    (table,) = server.tables.values()
    words = -(-width // 64)
    assert (table["metric"], table["dim"]) == ("HAMMING", 64 * words)
    assert {len(row) for row in table["rows"].values()} == {8 * words}
    queries, _ = make_rows("hamming", 25, width, seed=1)
    for k in (1, 12, 150):
        assert_same(ours.kneighbors(queries, k), exact.kneighbors(queries, k))
    for scoring in ("map", "precision@3"):
        found, expected = (r.evaluate(queries, y[:25], scoring=scoring) for r in (ours, exact))
        np.testing.assert_array_equal(found.per_query, expected.per_query)
    for retriever in (ours, exact):
        retriever.partial_fit(rows[:40], y[:40])
        retriever.remove([0, 19, 25, 160, 189])
    assert_same(ours.kneighbors(queries, 12), exact.kneighbors(queries, 12))
    assert_same(pickle.loads(pickle.dumps(ours)).kneighbors(queries), exact.kneighbors(queries))


def test_a_server_that_knows_no_bits_is_asked_for_floats(server):
    rows, _ = make_rows("hamming")
    server.fail["create_collection"] = [pymilvus.MilvusException(1, "no binary vectors")]
    ours, exact = both("hamming", rows)
    (table,) = server.tables.values()
    assert (table["metric"], table["dim"]) == ("IP", 6)
    np.testing.assert_array_equal(np.array([*table["rows"].values()]), 2.0 * rows - 1)
    assert_same(ours.kneighbors(rows, 12), exact.kneighbors(rows, 12))


def test_a_server_that_refuses_floats_is_asked_once(server):
    server.fail["create_collection"] = [pymilvus.MilvusException(1, "full")]
    with pytest.raises(RuntimeError, match="failed at making a collection: full"):
        both("cosine", make_rows("cosine")[0])
    assert server._counts()["create_collection"] == 1


@pytest.mark.parametrize(("metric", "on_the_server"), [("cosine", "IP"), ("euclidean", "L2")])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_server_gets_rows_of_two_numbers_at_least(server, metric, on_the_server, width):
    rows, _ = make_rows(metric, width=width)
    ours, exact = both(metric, rows)
    (table,) = server.tables.values()
    assert (table["metric"], table["dim"]) == (on_the_server, max(2, width))
    assert_same(ours.kneighbors(rows, 12), exact.kneighbors(rows, 12))


def sizes(server, method, name):
    return [len(options[name]) for options in server._options(method) if options.get(name)]


@pytest.mark.parametrize(("metric", "row_bytes"), [("cosine", 280), ("hamming", 16)])
def test_no_call_carries_more_than_its_bytes(server, monkeypatch, metric, row_bytes):
    monkeypatch.setattr(_milvus_collection, "BYTES_PER_WRITE", 20 * row_bytes)
    for module in (_milvus, _milvus_collection):
        monkeypatch.setattr(module, "BYTES_PER_ANSWER", 30 * row_bytes)
    rows, _ = make_rows(metric, width=70)
    ours, exact = both(metric, rows)
    assert sizes(server, "upsert", "data") == [20] * 7 + [10]
    assert_same(ours.kneighbors(rows[:9], 8), exact.kneighbors(rows[:9], 8))
    of_result = 8 if metric == "hamming" else row_bytes
    for options in server._options("search"):
        least = min(len(options["data"]), 30 * row_bytes // (of_result * options["limit"]))
        assert len(options["data"]) == max(1, least)
        if metric != "hamming":
            assert options["limit"] <= 30
    server.calls.clear()
    assert len(ours._gallery.engine.rows[:]) == 150
    assert sizes(server, "query", "ids") == [30] * 5


def test_no_call_carries_more_than_its_rows(server, monkeypatch):
    monkeypatch.setattr(_milvus_collection, "ROWS_PER_CALL", 50)
    rows, _ = make_rows("cosine")
    ours, _ = both("cosine", rows)
    assert sizes(server, "upsert", "data") == [50] * 3
    assert server._counts()["flush"] == 1
    ours.partial_fit(rows[:50])
    assert server._counts()["flush"] == 1  # few rows are found as they are
    ours.partial_fit(rows[:51])
    assert server._counts()["flush"] == 2
    ours.remove(np.arange(60))
    gc.collect()
    ours.kneighbors(rows[:1])
    assert sizes(server, "delete", "ids") == [50, 10]


def test_progress_counts_every_row_that_is_inserted(server, monkeypatch):
    monkeypatch.setattr(_milvus_collection, "ROWS_PER_CALL", 40)
    shown, steps = [], []

    @contextmanager
    def bar(total, description, enabled):
        shown.append((total, enabled))
        yield steps.append

    monkeypatch.setattr(_milvus, "progress_bar", bar)
    rows, _ = make_rows("cosine")
    for verbose in (0, 1, 2):
        both("cosine", rows, verbose=verbose)
    assert shown == [(150, False), (150, True), (150, True)]
    assert steps == [40, 40, 40, 30] * 3


def test_a_query_asks_for_a_few_to_spare_and_for_more_only_if_they_do_not_do(server):
    rows, _ = make_rows("euclidean", n=2000)
    rows[300:400] = rows[19]
    ours, exact = both("euclidean", rows)
    limits = {}
    for row in (0, 19):
        server.calls.clear()
        assert_same(ours.kneighbors(rows[[row]], 5), exact.kneighbors(rows[[row]], 5))
        limits[row] = [options["limit"] for options in server._options("search")]
    first = 5 + _milvus.SPARE
    assert limits == {0: [first], 19: [first, 4 * first, 16 * first]}


def test_only_queries_that_are_open_are_asked_again(server):
    rows, _ = make_rows("euclidean", n=400)
    rows[100:200] = rows[19]
    ours, exact = both("euclidean", rows)
    server.calls.clear()
    which = [0, 19, 1, 2]
    assert_same(ours.kneighbors(rows[which], 5), exact.kneighbors(rows[which], 5))
    assert sizes(server, "search", "data") == [4, 1, 1]


def test_equal_queries_are_asked_once_and_zero_rows_of_cosine_never(server, monkeypatch):
    monkeypatch.setattr(_milvus, "QUERIES_PER_CALL", 10)
    rows, _ = make_rows("cosine")
    ours, exact = both("cosine", rows)
    queries = rows[[0, 1, 0, 2, 1, 0, 3, 4, 5, 6, 7, 7, 8]] + np.float32(0.01)
    queries[12] = 0
    server.calls.clear()
    assert_same(ours.kneighbors(queries, 5), exact.kneighbors(queries, 5))
    assert sizes(server, "search", "data") == [7, 1]
    server.calls.clear()
    assert_same(ours.kneighbors(queries[12:], 5), exact.kneighbors(queries[12:], 5))
    assert not server.calls


def test_as_many_results_as_a_server_gives_at_most(server):
    rows = np.arange(17_000, dtype=np.float32)[:, None]
    ours, exact = both("euclidean", rows)
    for k, limits in [(MOST - 9, [MOST - 1]), (MOST - 2, [MOST]), (MOST + 1, [])]:
        server.calls.clear()
        assert_same(ours.kneighbors(rows[:1], k), exact.kneighbors(rows[:1], k))
        assert [options["limit"] for options in server._options("search")] == limits


@pytest.mark.parametrize("removed", [[], [19, 70, 71]])
def test_of_many_codes_as_far_the_first_are_found_without_reading_rows(
    server, monkeypatch, removed
):
    monkeypatch.setattr(_milvus, "MOST", 16)
    rows, _ = make_rows("hamming", n=400)
    rows[60:120] = rows[19]
    ours, exact = both("hamming", rows)
    if removed:
        ours.remove(removed)
        exact.remove(removed)
        ours.kneighbors(rows[:1], 1)
    queries = rows[[0, 19, 70, 399]]
    for k in (1, 3, 8, 12, 15):
        server.calls.clear()
        assert_same(ours.kneighbors(queries, k), exact.kneighbors(queries, k))
        assert set(server._counts()) <= {"search"}
        assert server._counts()["search"] <= 2 + 3 * (1 + np.ceil(np.log2(400)))


@pytest.mark.parametrize("n", [17, 18, 31, 100, 399])
def test_of_equal_codes_the_first_are_found_without_reading_rows(server, monkeypatch, n):
    monkeypatch.setattr(_milvus, "MOST", 16)
    rows = np.ones((n, 3), dtype=np.uint8)
    ours, exact = both("hamming", rows)
    server.calls.clear()
    for k in range(1, 16):
        assert_same(ours.kneighbors(rows[:1], k), exact.kneighbors(rows[:1], k))
    assert set(server._counts()) == {"search"}


@pytest.mark.parametrize("scoring", ["precision@3", "recall@1", "ndcg@15", "map@12"])
def test_metrics_count_all_that_tie_however_many(server, monkeypatch, scoring):
    monkeypatch.setattr(_milvus, "MOST", 16)
    rows, y = make_rows("hamming", n=200)
    rows[60:120] = rows[19]
    retrievers = both("hamming", rows, y)
    found, expected = (r.evaluate(rows[10:25], y[10:25], scoring=scoring) for r in retrievers)
    np.testing.assert_allclose(found.per_query, expected.per_query, rtol=0, atol=1e-12)


def test_first_use_of_a_saved_gallery_compares_some_rows_from_first_to_last(server):
    rows, _ = make_rows("cosine")
    ours, exact = both("cosine", rows)
    loaded = pickle.loads(pickle.dumps(ours))
    server.calls.clear()
    loaded.kneighbors(rows[:3])
    assert list(server._counts()) == ["has_collection", "load_collection", "query", "search"]
    (read,) = [options["ids"] for options in server._options("query") if "ids" in options]
    keys = loaded._gallery.engine.keys
    assert len(read) == 16
    assert (read[0], read[-1]) == (keys[0], keys[-1])
    server.calls.clear()
    assert_same(loaded.kneighbors(rows[:3]), exact.kneighbors(rows[:3]))
    assert list(server._counts()) == ["search"]


@pytest.mark.parametrize("changed", [0, 149])
def test_a_saved_gallery_whose_row_was_changed_is_refused(server, changed):
    rows, _ = make_rows("cosine")
    loaded = pickle.loads(pickle.dumps(both("cosine", rows)[0]))
    (table,) = server.tables.values()
    key = sorted(table["rows"])[changed]
    kept, table["rows"][key] = table["rows"][key], table["rows"][key] + 1
    for _ in range(2):
        with pytest.raises(RuntimeError, match="has 150 rows and is not the collection"):
            loaded.kneighbors(rows[:3])
    table["rows"][key] = kept
    loaded.kneighbors(rows[:3])
    del table["rows"][key]
    with pytest.raises(RuntimeError, match="1 rows of this gallery are no longer"):
        loaded.kneighbors(rows[:3], 150)
    with pytest.raises(RuntimeError, match="1 rows of this gallery are no longer"):
        loaded._gallery.engine.rows[:]


@pytest.mark.parametrize(("memory", "times"), [(1, 1), (0.01, 3), (1e-9, 9)])
def test_all_rows_are_read_once_for_as_many_queries_as_fit_into_memory(server, memory, times):
    rows, y = make_rows("euclidean")  # 16 bytes for each of 150 rows: 4 queries in 0.01 MiB
    ours, exact = both("euclidean", rows, y)
    queries = rows[:9] + np.float32(0.01)
    expected = exact.evaluate(queries, y[:9], scoring="map").per_query
    ours.evaluate(queries, y[:9], scoring="map")  # what is read once for good is here
    server.calls.clear()
    with sklearn.config_context(working_memory=memory):
        found = ours.evaluate(queries, y[:9], scoring="map").per_query
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert sizes(server, "query", "ids") == [150] * times


def test_distances_of_angles_take_single_precision(server):
    rows, _ = make_rows("cosine")
    engine = both("cosine", rows)[0]._gallery.engine
    assert engine.distances(engine.encode(rows[:9])).dtype == np.float32


@pytest.mark.parametrize(("scale", "kind"), [(1e-30, float), (1.0, "f4"), (1e30, float)])
def test_distances_have_room_for_what_was_scaled(server, scale, kind):
    rows = make_rows("euclidean")[0].astype(float) * scale
    ours, exact = both("euclidean", rows)
    engine = ours._gallery.engine
    found = engine.distances(engine.encode(rows[:9]))
    assert found.dtype == kind
    positions = np.argsort(found, axis=1, kind="stable")[:, :1]
    np.testing.assert_array_equal(positions, exact.kneighbors(rows[:9], 1)[1])
    expected = np.sqrt(((rows[:9, None] - rows) ** 2).sum(axis=2))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3 * scale)


def in_year(year, monkeypatch):
    now = datetime(year, 1, 1, tzinfo=UTC).timestamp()
    monkeypatch.setattr(_milvus_collection, "time", SimpleNamespace(time=lambda: now))
    return int(now - datetime(2020, 1, 1, tzinfo=UTC).timestamp())


def test_keys_begin_with_the_time_and_grow_even_where_the_clock_went_back(server, monkeypatch):
    rows, _ = make_rows("cosine")
    seconds = in_year(2030, monkeypatch)
    ours, exact = both("cosine", rows)
    first = ours._gallery.engine.keys
    assert first[0] >> 31 == seconds
    np.testing.assert_array_equal(np.diff(first), 1)
    in_year(2025, monkeypatch)
    ours.partial_fit(rows[:3])
    np.testing.assert_array_equal(np.diff(ours._gallery.engine.keys), 1)
    loaded = [pickle.loads(pickle.dumps(ours)).partial_fit(rows[3:6]) for _ in range(2)]
    keys = [retriever._gallery.engine.keys[-3:] for retriever in loaded]
    assert not np.isin(*keys).any()
    exact.partial_fit(rows[:6])
    for retriever, added in zip(loaded, keys):
        assert added[0] >> 31 == seconds + 1
        assert_same(retriever.kneighbors(rows), exact.kneighbors(rows))
    monkeypatch.setattr(_milvus_collection, "random", SimpleNamespace(SystemRandom=Largest))
    last = pickle.loads(pickle.dumps(ours)).partial_fit(rows[:1])._gallery.engine.keys[-1]
    assert last == ((seconds + 2) << 31) - 1


class Largest:
    """Draws the largest number of so many bits."""

    def getrandbits(self, n):
        return (1 << n) - 1


def test_what_was_removed_is_erased_once_nobody_holds_it_and_nothing_that_was_saved(server):
    rows, _ = make_rows("cosine")
    ours, _ = both("cosine", rows)
    (table,) = server.tables.values()
    ours.remove([0, 1])
    ours.kneighbors(rows[:1])
    assert len(table["rows"]) == 148
    pickle.dumps(ours)
    ours.partial_fit(rows[:2])
    ours.remove([5, 150, 151])  # one that was saved, and two that were not
    gc.collect()
    ours.kneighbors(rows[:1])
    assert len(table["rows"]) == 148
    ours.kneighbors(rows[:1])
    assert sizes(server, "delete", "ids") == [2, 2]


def test_a_server_that_has_not_loaded_a_collection_is_told_to(server):
    rows, _ = make_rows("cosine")
    ours, exact = both("cosine", rows)
    for method in ("search", "query"):
        server.fail[method] = [pymilvus.MilvusException(101, "collection not loaded")]
    server.calls.clear()
    assert_same(ours.kneighbors(rows[:5]), exact.kneighbors(rows[:5]))
    assert [name for name, _ in server.calls] == ["search", "load_collection", "search"]
    assert ours._gallery.engine.rows[:].shape == (150, 6)
    assert server._counts()["load_collection"] == 2
    server.fail["upsert"] = [pymilvus.MilvusException(1, "full")]
    with pytest.raises(RuntimeError, match=f"Milvus at {URI} failed at inserting rows: full"):
        ours.partial_fit(rows[:1])
    assert server._counts()["load_collection"] == 2


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_however_a_server_rounds_the_nearest_are_found(server, metric):
    rng = np.random.default_rng(0)
    rows = np.ones((600, 64), dtype=np.float32)
    rows[np.arange(600), rng.integers(0, 64, 600)] += rng.integers(-3, 4, 600) * np.float32(1e-3)
    ours, exact = both(metric, rows)
    error = (64 / 4 + 16) * np.finfo(np.float32).eps

    def shift(query, rows, values):
        length = 1 if metric == "cosine" else 4 * (query.astype(float) @ query)
        return np.maximum(0, values + rng.choice([-1, 1], len(values)) * error * length)

    server.shift = shift
    for k in (1, 5, 40):
        assert_same(ours.kneighbors(rows[:20], k), exact.kneighbors(rows[:20], k))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_row_that_a_server_has_rounded_away_is_found(server, metric):
    # The server takes the first row for further than twenty that it gives. What it gave would
    # do for one nearest row if it rounded by a little less than it does.
    width = 64
    error = 0.995 * 2 * (width / 4 + 16) * np.finfo(np.float32).eps
    rows = np.zeros((22, width), dtype=np.float32)
    query = np.eye(1, width, dtype=np.float32)
    if metric == "cosine":
        cosines = 0.2 - np.r_[0, 6e-8, np.full(20, error - 5e-8)]
        rows[:, 0], rows[:, 1] = cosines, np.sqrt(1 - cosines**2)
        shift = -error
    else:
        shift = error * (2 + 1) ** 2  # twice the query, and the way to the furthest
        rows[:, 0] = 1 + np.sqrt(1 + np.r_[0, 6e-7, np.full(20, shift - 5e-7)])
    server.shift = lambda query, rows, values: values + shift * (np.arange(22) == 0)
    ours, exact = both(metric, rows)
    assert exact.kneighbors(query, 1)[1] == 0
    assert_same(ours.kneighbors(query, 1), exact.kneighbors(query, 1))
    first = 1 + _milvus.SPARE
    assert [options["limit"] for options in server._options("search")] == [first, 4 * first]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now, self.pauses = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


class Lost(grpc.RpcError):
    def __init__(self, code):
        self._code = code

    def code(self):
        return self._code


def caused_by(error):
    try:
        raise pymilvus.MilvusException(1, "odd") from error
    except pymilvus.MilvusException as caught:
        return caught


AWAY = {
    "unavailable": Lost(grpc.StatusCode.UNAVAILABLE),
    "too late": Lost(grpc.StatusCode.DEADLINE_EXCEEDED),
    "cancelled": Lost(grpc.StatusCode.CANCELLED),
    "by its cause": caused_by(Lost(grpc.StatusCode.UNAVAILABLE)),
    "connecting": pymilvus.MilvusException(2, "Fail connecting to server on a:1"),
    "retried": pymilvus.MilvusException(1, "Retry timeout: 10s"),
    "closed": pymilvus.MilvusException(1, "Cannot use a closed channel!"),
}


@pytest.fixture
def clock(server, monkeypatch):
    """Time of the client; what is forgotten connects again to the same server."""
    clock, closed = Clock(), []
    monkeypatch.setattr(_milvus_client, "time", clock)
    monkeypatch.setattr(server, "close", lambda: closed.append(clock.now), raising=False)
    monkeypatch.setattr(pymilvus, "MilvusClient", lambda address, **options: server)
    clock.closed = closed
    return clock


@pytest.mark.parametrize("error", AWAY.values(), ids=AWAY)
def test_a_server_that_is_away_for_a_moment_is_asked_again(server, clock, error):
    server.fail["list_collections"] = [error] * 4
    assert _milvus_client.call(URI, "list_collections", doing="listing") == []
    assert clock.pauses == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert len(clock.closed) == 4  # the connection is made anew
    assert {options["timeout"] for _, options in server.calls} == {120}


def test_a_server_that_stays_away_is_given_up_after_ten_seconds(server, clock):
    server.fail["list_collections"] = [AWAY["unavailable"]] * 100
    with pytest.raises(ConnectionError, match=r"does not answer \(listing\)") as caught:
        _milvus_client.call(URI, "list_collections", doing="listing")
    assert clock.pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2, 2, 2])
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    server.calls.clear()
    clock.pauses.clear()
    with pytest.raises(ConnectionError):
        _milvus_client.call(URI, "list_collections", doing="listing", patience=0.35)
    assert clock.pauses == pytest.approx([0.1, 0.2])
    assert len(server.calls) == 3


def test_connecting_may_take_the_rest_of_the_patience_and_half_a_second_at_least(
    server, clock, monkeypatch
):
    seconds = []

    def connect(address, **options):
        seconds.append(options["timeout"])
        return server

    monkeypatch.setattr(pymilvus, "MilvusClient", connect)
    for patience in (None, 0.9, 0):
        _milvus_client.forget(URI)
        server.fail["list_collections"] = [AWAY["unavailable"]] * 4
        gives_up = nullcontext() if patience is None else pytest.raises(ConnectionError)
        with gives_up:
            _milvus_client.call(URI, "list_collections", doing="listing", patience=patience)
    assert seconds == pytest.approx([10, 9.9, 9.7, 9.3, 8.5, 0.9, 0.8, 0.6, 0.5, 0.5])


@pytest.mark.parametrize(
    "error",
    [
        Lost(grpc.StatusCode.NOT_FOUND),
        caused_by(Lost(grpc.StatusCode.INVALID_ARGUMENT)),
        caused_by(ValueError("no code")),
        pymilvus.MilvusException(1100, "invalid"),
    ],
)
def test_an_answer_that_refuses_is_not_asked_for_again(server, clock, error):
    server.fail["list_collections"] = [error]
    with pytest.raises(RuntimeError, match=f"Milvus at {URI} failed at listing: ") as caught:
        _milvus_client.call(URI, "list_collections", doing="listing")
    assert caught.value.__cause__ is error
    assert (clock.pauses, clock.closed) == ([], [])


@pytest.mark.parametrize("rows", [None, range(5, 9)])
def test_what_cannot_be_erased_at_once_is_left(server, clock, rows):
    method = "drop_collection" if rows is None else "delete"
    for error in (AWAY["unavailable"], pymilvus.MilvusException(1, "busy")):
        server.calls.clear()
        server.fail[method] = [error]
        _milvus_client.erase(URI, "test", rows)
        ((name, options),) = server.calls
        assert (name, options["timeout"]) == (method, 5)
        if rows is not None:
            assert options["filter"] == "key >= 5 and key < 9"
    assert clock.pauses == []


def test_at_the_end_of_a_process_galleries_that_nobody_saved_are_dropped(server):
    rows, _ = make_rows("cosine")
    kept = [both("cosine", rows)[0] for _ in range(3)]
    pickle.dumps(kept[1])
    saved = kept[1]._gallery.engine.collection.name
    assert len(server.tables) == 3
    _milvus_client._finish()
    assert list(server.tables) == [saved]
    assert {options["timeout"] for options in server._options("drop_collection")} == {5}


def test_metrics_of_first_results_take_rows_in_any_order(rng):
    values, positions = rng.permutation(1200) // 2, rng.permutation(2000)[:1200]

    class Engine:
        def __len__(self):
            return 2000

        def up_to_kth(self, queries, k, *, ties):
            assert (k, ties) == (401, True)
            for first in (0, 300):
                yield values[first:].astype(float), positions[first:]

    found = FirstResults(Engine(), 401).distances(np.zeros((2, 3)))
    for row, first in enumerate((0, 300)):
        near = values[first:] <= np.sort(values[first:])[400]
        expected = np.full(2000, np.inf)
        expected[positions[first:][near]] = values[first:][near]
        np.testing.assert_array_equal(found[row], expected)


@pytest.fixture
def logged():
    """What reaches two loggers; pymilvus passes nothing on to the root, where caplog listens."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("pymilvus.decorators", "of somebody else")]
    level = loggers[0].level
    loggers[0].setLevel(logging.INFO)
    for log in loggers:
        log.addHandler(handler)
    yield messages
    for log in loggers:
        log.removeHandler(handler)
    loggers[0].setLevel(level)


def test_what_the_client_logs_of_errors_stays_off_the_screen(server, logged):
    def noisy(name):
        log = logging.getLogger("pymilvus.decorators")
        log.warning("hidden")
        log.error("hidden")
        log.info("shown")
        logging.getLogger("of somebody else").error("shown")

    noisy("before")
    logged.clear()
    server.has_collection = noisy
    _milvus_client.call(URI, "has_collection", "test", doing="looking")
    assert logged == ["shown", "shown"]
    logged.clear()
    noisy("afterwards all is as it was")
    assert logged == ["hidden", "hidden", "shown", "shown"]


@pytest.mark.parametrize("metric", ["cosine", "hamming"])
def test_rows_that_somebody_else_keeps_are_searched_and_left_alone(server, metric):
    rows, _ = make_rows(metric)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
    exact = NeighborsRetriever(5, metric=metric, algorithm="exact").fit(rows)
    encoded = pack_codes(rows) if metric == "hamming" else rows
    collection = Collection.named(URI, "kept", metric, rows.shape[1])
    collection.create()
    collection.write(np.arange(160), np.concatenate([encoded, encoded[:10]]))  # 10 are not counted
    kept = KeptRows(collection, row_keys(encoded))
    ours = NeighborsRetriever(5, metric=metric, algorithm="milvus", uri=URI).fit(kept)
    mask = np.arange(len(rows)) % 3 > 0
    for where in (None, mask):
        found, expected = (one.kneighbors(rows[:9], where=where) for one in (ours, exact))
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    np.testing.assert_array_equal(kept[3:5], encoded[3:5])
    np.testing.assert_array_equal(kept[np.array([7, 2, 7])], encoded[[7, 2, 7]])
    del ours
    gc.collect()
    _milvus_client.clean_up()
    assert len(server.tables["kept"]["rows"]) == 160
    collection.erase(np.arange(3))
    collection.erase_from(150)
    assert sorted(server.tables["kept"]["rows"]) == list(range(3, 150))
    with pytest.raises(RuntimeError, match="1 rows are no longer in the collection 'kept'"):
        kept[2:5]


def test_a_password_in_an_address_is_in_no_message(server):
    for uri in ("http://me:secret@host:19530", "ftp://me:secret@host", "me:secret@host:19530"):
        with pytest.raises(ValueError, match="contains a password") as raised:
            NeighborsRetriever(algorithm="milvus", uri=uri).fit(np.eye(3))
        assert "secret" not in str(raised.value)
