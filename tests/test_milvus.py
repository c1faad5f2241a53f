"""The external gallery: a real milvus-lite server over gRPC, and a local file."""

import copy
import gc
import os
import pickle
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cbir import NeighborsRetriever, persistence
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.index import _milvus, _milvus_client, _milvus_collection
from sklearn_cbir.index._milvus_collection import Collection

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

N, D = 150, 6
METRICS = ["cosine", "euclidean", "hamming"]


class Server:
    """A `milvus-lite server` of its own process, which can be killed and started again."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = Path(sys.executable).with_name("milvus-lite")
        where = ["--data-dir", self.folder, "--port", str(self.port), "--host", "127.0.0.1"]
        self.process = subprocess.Popen(
            [command, "server", *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.wait()

    def wait(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("the server did not start")

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    _milvus_client.forget(server.uri)
    server.kill()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(tmp_path_factory.mktemp("file") / "gallery.db")


@pytest.fixture(params=["server", "file"])
def uri(request):
    return request.getfixturevalue(request.param) if request.param == "file" else _uri(request)


def _uri(request):
    return request.getfixturevalue("server").uri


def make_rows(metric, n=N, seed=0):
    """Rows of four classes with copies, a zero row, and codes that tie all the time."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    rows = (rng.normal(size=(n, D)) + 2 * np.eye(D)[y]).astype(np.float32)
    rows[20:30] = rows[19]
    rows[5] = 0
    return ((rows > 0.5).astype(np.uint8) if metric == "hamming" else rows), y


def make_retriever(uri, metric="cosine", **options):
    return NeighborsRetriever(
        5, metric=metric, algorithm="milvus", uri=uri, collection="test", **options
    )


def collections(uri):
    """What is on the server once everything unused was dropped."""
    gc.collect()
    _milvus_client.clean_up()
    return set(_milvus_client.call(uri, "list_collections", doing="listing"))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        np.testing.assert_array_equal(ours, theirs)


def engine_of(retriever):
    return retriever._gallery.engine


@pytest.mark.parametrize("metric", METRICS)
def test_all_answers_are_those_of_the_exact_engine(uri, metric):
    rows, y = make_rows(metric)
    queries, _ = make_rows(metric, 25, seed=1)
    exact = NeighborsRetriever(5, metric=metric, algorithm="exact").fit(rows, y)
    ours = make_retriever(uri, metric).fit(rows, y)
    for change in ("none", "add", "remove"):
        for retriever in (exact, ours):
            if change == "add":
                retriever.partial_fit(rows[:40], y[:40])
            if change == "remove":
                retriever.remove([0, 19, 25, 160, 189])
        for k in (1, 12, ours.n_samples_fit_):
            assert_same(ours.kneighbors(queries, k), exact.kneighbors(queries, k))
        np.testing.assert_array_equal(ours.predict(queries), exact.predict(queries))
        np.testing.assert_array_equal(engine_of(ours).rows[:], engine_of(exact).rows)
    assert ours.algorithm_ == "milvus"
    assert ours.recall_ == 1.0
    assert_same(ours.kneighbors(), exact.kneighbors())
    radius = float(np.median(exact.kneighbors(queries, 12)[0]))
    for part in range(2):
        both = (r.radius_neighbors(queries, radius, sort_results=True)[part] for r in (ours, exact))
        assert_same(*both)


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_those_of_the_exact_engine(file, metric):
    rows, y = make_rows(metric)
    queries, y_queries = make_rows(metric, 25, seed=1)
    exact = NeighborsRetriever(5, metric=metric, algorithm="exact").fit(rows, y)
    ours = make_retriever(file, metric).fit(rows, y)
    for scoring in ("map", "map@20", "precision@3", "recall@1", "ndcg@10"):
        for args in [(queries, y_queries), (None, None)]:
            expected, found = (r.evaluate(*args, scoring=scoring) for r in (exact, ours))
            np.testing.assert_allclose(found.per_query, expected.per_query, rtol=0, atol=1e-12)
    for retriever in (exact, ours):
        retriever.set_params(rerank="query_expansion", rerank_depth=12, scoring="precision@5")
    assert ours.score(queries[:5], y_queries[:5]) == exact.score(queries[:5], y_queries[:5])


def test_metrics_of_the_first_results_do_not_read_the_gallery(file, monkeypatch):
    rows, y = make_rows("cosine")
    retriever = make_retriever(file, scoring="precision@3").fit(rows, y)
    monkeypatch.setattr(Collection, "read", None)
    assert retriever.score(rows[:9] + np.float32(0.01), y[:9]) > 0


def test_double_precision_and_extreme_rows_are_rounded_once(file):
    rows = make_rows("euclidean")[0].astype(np.float64) * 1e30
    ours = make_retriever(file, "euclidean").fit(rows)
    exact = NeighborsRetriever(5, metric="euclidean", algorithm="exact").fit(rows)
    np.testing.assert_array_equal(ours.kneighbors(rows)[1], exact.kneighbors(rows)[1])
    np.testing.assert_allclose(ours.kneighbors(rows)[0], exact.kneighbors(rows)[0], rtol=1e-5)
    assert engine_of(ours).rows.dtype == np.float32


@pytest.mark.parametrize(
    ("metric", "scale"),
    [("cosine", 1e-60), ("cosine", 1.0), ("cosine", 1e60), ("euclidean", 1.0), ("euclidean", 1e30)],
)
def test_queries_of_double_precision_are_rounded_as_the_rows_were(file, metric, scale):
    rows = np.random.default_rng(0).normal(size=(40, D)) * scale
    ours = make_retriever(file, metric).fit(rows, np.arange(40) % 2)
    assert not ours.kneighbors(rows, 1)[0].any()
    exact = NeighborsRetriever(5, metric=metric, algorithm="exact").fit(rows)
    np.testing.assert_array_equal(ours.kneighbors(rows)[1], exact.kneighbors(rows)[1])
    with pytest.warns(UserWarning, match="100% of the queries are equal to rows of the gallery"):
        ours.score(rows, np.arange(40) % 2)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_distances_beyond_single_precision_are_refused(file, scale):
    with pytest.raises(ValueError, match="numbers of about .* Scale all rows first"):
        make_retriever(file, "euclidean").fit(np.eye(8) * scale)


def test_a_row_of_one_number_is_searched(file):
    rows = np.arange(12, dtype=np.float32)[:, None]
    ours = make_retriever(file, "euclidean").fit(rows)
    exact = NeighborsRetriever(5, metric="euclidean", algorithm="exact").fit(rows)
    assert_same(ours.kneighbors(rows), exact.kneighbors(rows))


@pytest.mark.parametrize("metric", METRICS)
def test_more_ties_than_a_server_gives_are_in_order(file, metric, monkeypatch):
    monkeypatch.setattr(_milvus, "MOST", 16)
    rows, _ = make_rows(metric)
    rows[60:120] = rows[19]
    ours = make_retriever(file, metric).fit(rows).remove([19, 70, 71])
    exact = NeighborsRetriever(5, metric=metric, algorithm="exact").fit(rows).remove([19, 70, 71])
    for k in (3, 15, 16, 50):
        assert_same(ours.kneighbors(rows[18:24], k), exact.kneighbors(rows[18:24], k))


def test_a_server_without_bits_gets_codes_of_minus_one_and_one(file):
    retriever = make_retriever(file, "hamming").fit(make_rows("hamming")[0])
    assert not engine_of(retriever).collection.is_binary


def test_an_engine_does_not_change_when_rows_come_and_go(file):
    rows, _ = make_rows("cosine")
    before = _milvus.MilvusEngine("cosine", uri=file).build(rows)
    queries = before.encode(rows[:5])
    expected = before.query(queries, 9)
    after = before.add(rows[:20]).remove(np.arange(30))
    assert_same(before.query(queries, 9), expected)
    assert after.collection.count() == N + 20
    del before
    after.query(queries, 9)
    assert after.collection.count() == N - 10 == len(after)


def test_rows_travel_in_batches_with_progress(file, monkeypatch, capsys):
    monkeypatch.setattr(_milvus_collection, "ROWS_PER_CALL", 40)
    rows, _ = make_rows("cosine")
    retriever = make_retriever(file, verbose=1).fit(rows)
    assert "Inserting" in capsys.readouterr().err
    assert_same(retriever.predict(rows), NeighborsRetriever(5).fit(rows).predict(rows))


def test_a_gallery_that_nobody_saved_is_dropped(server):
    rows, _ = make_rows("cosine")
    before = collections(server.uri)
    retriever = make_retriever(server.uri).fit(rows)
    first = retriever.collection_
    retriever.fit(rows)
    assert collections(server.uri) - before == {retriever.collection_} != {first}
    del retriever
    assert collections(server.uri) == before


def test_clones_and_copies_never_touch_the_gallery_of_another(server):
    rows, _ = make_rows("cosine")
    retriever = make_retriever(server.uri).fit(rows)
    expected = retriever.kneighbors(rows)
    other = clone(retriever).fit(rows[:50])
    twin = copy.deepcopy(retriever)
    assert other.collection_ != retriever.collection_ == twin.collection_
    twin.remove(range(40)).partial_fit(rows[:3])
    twin.predict(rows)
    del twin, other
    gc.collect()
    assert_same(retriever.kneighbors(rows), expected)
    twin = copy.deepcopy(retriever)
    del retriever
    collections(server.uri)
    assert_same(twin.kneighbors(rows), expected)


def test_a_saved_gallery_outlives_all_that_happens_to_the_retriever(server, tmp_path):
    rows, y = make_rows("cosine")
    retriever = make_retriever(server.uri).fit(rows, y)
    expected = retriever.kneighbors(rows)
    saved = pickle.dumps(retriever)
    persistence.save(retriever, tmp_path / "gallery.cbir")
    retriever.remove(range(50)).partial_fit(rows[:7], y[:7])
    retriever.predict(rows)
    assert retriever.n_samples_fit_ == N - 43
    retriever.fit(rows[:20], y[:20])
    del retriever
    gc.collect()
    name = pickle.loads(saved).collection_
    assert name in collections(server.uri)
    loaded = [pickle.loads(saved), persistence.load(tmp_path / "gallery.cbir")]
    for each in loaded:
        assert_same(each.kneighbors(rows), expected)
        assert engine_of(each).collection.count() == N  # what was added and not saved is gone
    # Two that were loaded add rows of their own.
    for each, part in zip(loaded, (rows[:9], rows[9:11])):
        each.partial_fit(part, y[: len(part)])
    assert [each.n_samples_fit_ for each in loaded] == [N + 9, N + 2]
    assert_same(engine_of(loaded[0]).rows[N:], engine_of(loaded[0]).encode(rows[:9]))
    assert_same(pickle.loads(saved).kneighbors(rows), expected)
    _milvus_client.call(server.uri, "drop_collection", name, doing="dropping")
    with pytest.raises(RuntimeError, match=f"has no collection '{name}'"):
        pickle.loads(saved).predict(rows)


def test_two_that_load_one_gallery_never_write_the_same_row(server, monkeypatch):
    # The clock of what wrote the gallery is ahead: what counts on from its keys would meet.
    rows, _ = make_rows("cosine")
    saved = pickle.dumps(make_retriever(server.uri).fit(rows))
    clock = SimpleNamespace(time=lambda: time.time() - 600)
    monkeypatch.setattr(_milvus_collection, "time", clock)
    loaded = [pickle.loads(saved) for _ in range(2)]
    added = make_rows("cosine", 20, seed=1)[0].reshape(2, 10, D)
    for retriever, new in zip(loaded, added):
        retriever.partial_fit(new)
    for retriever, new in zip(loaded, added):
        exact = NeighborsRetriever(5).fit(np.vstack([rows, new]))
        assert_same(retriever.kneighbors(rows), exact.kneighbors(rows))


def test_a_gallery_that_something_else_changed_is_refused(server):
    rows, _ = make_rows("cosine")
    retriever = make_retriever(server.uri).fit(rows)
    saved = pickle.dumps(retriever)
    engine = engine_of(retriever)
    zeros = np.zeros_like(engine.rows[:1])
    engine.collection.write(engine.keys[:1], zeros)
    with pytest.raises(RuntimeError, match="something else has changed it. Fit again."):
        pickle.loads(saved).predict(rows)
    _milvus_client.call(
        server.uri, "delete", retriever.collection_, ids=engine.keys[3:9].tolist(), doing="testing"
    )
    with pytest.raises(RuntimeError, match="has 144 rows"):
        pickle.loads(saved).predict(rows)
    with pytest.raises(RuntimeError, match="6 rows of this gallery are no longer in"):
        retriever.kneighbors(rows, N)


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120
    )


LOAD = """
import pickle, sys
retriever = pickle.load(open(sys.argv[1], "rb"))
print("imported", "pymilvus" in sys.modules)
try:
    print(retriever.predict([[1.0, 0, 0, 0, 0, 0]]).tolist())
except ConnectionError as error:
    print(error)
"""


def test_another_process_loads_it_from_a_server_but_not_from_a_file_in_use(server, file, tmp_path):
    rows, _ = make_rows("cosine")
    for uri in (server.uri, file):
        retriever = make_retriever(uri).fit(rows, ids=[f"photo{i}" for i in range(N)])
        path = tmp_path / "retriever.pickle"
        path.write_bytes(pickle.dumps(retriever))
        done = run(LOAD, path)
        assert done.stderr == ""
        if uri == server.uri:
            answer = str(retriever.predict([[1.0, 0, 0, 0, 0, 0]]).tolist())
        else:
            answer = f"{file} is open in another process, and a local file serves one process"
        first, second = done.stdout.splitlines()
        assert first == "imported False"
        assert second.startswith(answer)


LEAVE = """
import sys
import numpy as np
from sklearn_cbir import NeighborsRetriever
rows = np.eye(4, dtype=np.float32)
keep, drop = [
    NeighborsRetriever(1, algorithm="milvus", uri=sys.argv[1], collection=name).fit(rows)
    for name in ("keep", "drop")
]
import pickle
pickle.dump(keep, open(sys.argv[2], "wb"))
keep.partial_fit(rows)
"""


def test_a_process_that_ends_leaves_what_it_saved(tmp_path):
    path = str(tmp_path / "end.db")
    done = run(LEAVE, path, tmp_path / "retriever.pickle")
    assert (done.returncode, done.stderr) == (0, "")
    names = _milvus_client.call(path, "list_collections", doing="listing")
    assert [name.partition("_")[0] for name in names] == ["keep"]
    retriever = pickle.loads((tmp_path / "retriever.pickle").read_bytes())
    np.testing.assert_array_equal(retriever.predict(np.eye(4)), [[0], [1], [2], [3]])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_asks_the_server_and_leaves_the_file_alone(server, file):
    program = """
import os, sys
import numpy as np
from sklearn_cbir import NeighborsRetriever
uri, rows = sys.argv[1], np.eye(4, dtype=np.float32)
retriever = NeighborsRetriever(1, algorithm="milvus", uri=uri, collection="fork").fit(rows)
if os.fork() == 0:
    for work in (lambda: retriever.predict(rows).ravel(), lambda: retriever.partial_fit(rows)):
        try:
            print(work())
        except (ConnectionError, RuntimeError) as error:
            print(error)
    sys.exit()
os.wait()
print(retriever.predict(rows).ravel())
"""
    done = run(program, server.uri)
    assert done.stdout.startswith("[0 1 2 3]\nThis gallery (collection 'fork_")
    assert "Save it there first, or fit here.\n[0 1 2 3]\n" in done.stdout
    done = run(program, file + "2.db")
    assert "is open in the parent process" in done.stdout
    assert done.stdout.endswith("\n[0 1 2 3]\n")


def test_a_grid_search_over_a_pipeline_leaves_one_gallery(server):
    rows, y = make_rows("euclidean")
    before = collections(server.uri)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), make_retriever(server.uri, scoring="precision@3")),
        {"neighborsretriever__metric": ["cosine", "euclidean"]},
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(rows, y)
    params = {"neighborsretriever__algorithm": "exact", "neighborsretriever__uri": None}
    again = (
        clone(search)
        .set_params(
            estimator=search.estimator.set_params(
                **{
                    name.replace("neighborsretriever", "neighborsretriever"): v
                    for name, v in params.items()
                }
            )
        )
        .fit(rows, y)
    )
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"], atol=1e-12
    )
    last = search.best_estimator_[-1]
    assert collections(server.uri) - before == {last.collection_}


def test_a_lost_server_is_one_error_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_milvus_client, "SECONDS_OF_RETRIES", 0.5)
    monkeypatch.setattr(_milvus_collection, "ROWS_PER_CALL", 50)
    server = Server(tmp_path / "data")
    rows, _ = make_rows("cosine")
    try:
        retriever = make_retriever(server.uri).fit(rows)
        saved = pickle.dumps(retriever)
        expected = retriever.kneighbors(rows)
        server.kill()
        with pytest.raises(ConnectionError, match=f"Milvus at {server.uri} does not answer"):
            retriever.predict(rows)
        server.start()
        assert_same(retriever.kneighbors(rows), expected)

        write = Collection.write

        def write_and_kill(collection, keys, part):
            write(collection, keys, part)
            if len(part) == 50 and server.process.poll() is None:
                server.kill()

        with monkeypatch.context() as patch:
            patch.setattr(Collection, "write", write_and_kill)
            with pytest.raises(ConnectionError, match="It had confirmed 50 of 120 new rows"):
                retriever.partial_fit(rows[:120])
        assert retriever.n_samples_fit_ == N
        server.start()
        assert_same(retriever.kneighbors(rows), expected)
        assert engine_of(retriever).collection.count() == N  # the part was erased
        retriever.partial_fit(rows[:120])
        exact = NeighborsRetriever(5).fit(np.vstack([rows, rows[:120]]))
        assert_same(retriever.kneighbors(rows), exact.kneighbors(rows))
        assert_same(pickle.loads(saved).kneighbors(rows), expected)
    finally:
        server.kill()
        _milvus_client.forget(server.uri)


def test_an_answer_that_was_lost_does_not_double_rows(file, monkeypatch):
    rows, _ = make_rows("cosine")
    upsert, calls = pymilvus.MilvusClient.upsert, []

    def lose_the_answer(client, *arguments, **options):
        upsert(client, *arguments, **options)
        calls.append(1)
        if len(calls) == 1:
            raise pymilvus.MilvusException(2, "Fail connecting to server")

    monkeypatch.setattr(pymilvus.MilvusClient, "upsert", lose_the_answer)
    retriever = make_retriever(file).fit(rows)
    assert len(calls) == 2
    assert engine_of(retriever).collection.count() == N
    assert_same(retriever.predict(rows), NeighborsRetriever(5).fit(rows).predict(rows))


def test_a_fit_that_fails_leaves_the_gallery_before_it(file, monkeypatch):
    rows, _ = make_rows("cosine")
    retriever = make_retriever(file).fit(rows)
    expected, before = retriever.kneighbors(rows), collections(file)
    monkeypatch.setattr(_milvus_collection, "ROWS_PER_CALL", 50)
    calls = []

    def interrupt(collection, keys, part):
        calls.append(len(keys))
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            retriever.fit(rows[::-1])
    assert collections(file) == before
    assert_same(retriever.kneighbors(rows), expected)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"uri": None}, "needs the place of the gallery"),
        ({"uri": "gallery.sqlite"}, "is neither a local file nor a server"),
        ({"uri": "http://me:secret@localhost:19530"}, "environment variables MILVUS_TOKEN="),
        ({"uri": "/no/such/folder/x.db"}, "There is no folder /no/such/folder"),
        ({"uri": "x.db", "collection": "7 x"}, "is not a name of a collection"),
        ({"uri": "x.db", "algorithm": "exact"}, "keeps the gallery in memory"),
    ],
)
def test_bad_addresses_are_named(params, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make_retriever("unused.db").set_params(**params).fit(np.eye(8))


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(_milvus_client, "SECONDS_OF_RETRIES", 0.2)
    with pytest.raises(ConnectionError, match="Milvus at http://127.0.0.1:9 does not answer"):
        make_retriever("http://127.0.0.1:9").fit(np.eye(8))


@pytest.mark.parametrize("package", ["pymilvus", "milvus_lite"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-cbir\[milvus\]"'):
        make_retriever(str(tmp_path / "x.db")).fit(np.eye(8))


def token_at(uri):
    _milvus_client.forget(uri)
    _milvus_client.call(uri, "list_collections", doing="testing")
    return _milvus_client._clients[uri][1]._config.token


def test_the_token_comes_from_the_environment_and_is_not_stored(server, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "user:secret-word")
    monkeypatch.setenv("MILVUS_URI", server.uri + "/")
    assert token_at(server.uri) == "user:secret-word"
    assert b"secret-word" not in pickle.dumps(make_retriever(server.uri).fit(np.eye(8)))
    _milvus_client.forget(server.uri)


def test_the_token_goes_to_no_address_that_a_file_has_chosen(server, monkeypatch, tmp_path):
    persistence.save(make_retriever(server.uri).fit(np.eye(8)), tmp_path / "of somebody else")
    monkeypatch.setenv("MILVUS_TOKEN", "user:secret-word")
    _milvus_client.forget(server.uri)
    with pytest.raises(
        PermissionError, match=f"If the token is for it, set MILVUS_URI to '{server.uri}'"
    ):
        persistence.load(tmp_path / "of somebody else").predict(np.eye(8))
    monkeypatch.setenv("MILVUS_URI", "http://127.0.0.1:19530")
    loaded = persistence.load(tmp_path / "of somebody else")
    assert loaded.predict(np.eye(8))[:, 0].tolist() == list(range(8))
    assert token_at(server.uri) == ""
    _milvus_client.forget(server.uri)


def test_a_gallery_in_memory_moves_when_rows_are_added(file):
    rows, _ = make_rows("cosine")
    retriever = NeighborsRetriever(5).fit(rows)
    retriever.set_params(algorithm="milvus", uri=file).partial_fit(rows[:9])
    assert retriever.algorithm_ == "milvus"
    exact = NeighborsRetriever(5).fit(np.vstack([rows, rows[:9]]))
    np.testing.assert_array_equal(retriever.predict(rows), exact.predict(rows))


def test_a_gallery_that_was_scaled_moves_too(file):
    rows = make_rows("euclidean")[0] * np.float32(1e8)
    retriever = NeighborsRetriever(5, metric="euclidean").fit(rows)
    retriever.set_params(algorithm="milvus", uri=file).partial_fit(rows[:9] + 1)
    exact = NeighborsRetriever(5, metric="euclidean").fit(np.vstack([rows, rows[:9] + 1]))
    assert_same(retriever.kneighbors(rows + 2), exact.kneighbors(rows + 2))


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_a_large_gallery_is_searched_exactly(uri, metric):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 64)).astype(np.float32)
    if metric == "hamming":
        rows = (rows > 0).astype(np.uint8)
    exact = NeighborsRetriever(10, metric=metric, algorithm="exact").fit(rows)
    ours = make_retriever(uri, metric).fit(rows)
    assert_same(ours.kneighbors(rows[:200], 100), exact.kneighbors(rows[:200], 100))


def test_writes_of_several_threads_go_to_the_server_one_after_the_other(monkeypatch):
    collection = object.__new__(Collection)
    collection.uri, collection.name, collection._writing = "a.db", "rows", ProcessLock()
    running, most = [], []

    def call(uri, method, name, *, doing, **options):
        running.append(method)
        most.append(len(running))
        time.sleep(0.01)
        running.remove(method)

    monkeypatch.setattr(_milvus.server, "call", call)
    methods = [*_milvus_collection.WRITES] * 4
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda method: collection._call(method, doing="writing"), methods))
    assert len(most) == 12
    assert max(most) == 1


@pytest.mark.parametrize(
    ("known", "is_sent"),
    [
        ("http://b.example:19530", True),
        ("http://b.example:19530/", True),
        ("http://a.example:19530", False),
        ("http://c.example:19530", False),
        ("http://b.example", False),
    ],
)
def test_the_token_goes_to_the_one_address_that_it_is_for(known, is_sent, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "user:secret-word")
    monkeypatch.setenv("MILVUS_URI", known)
    for address in ("http://b.example:19530", "http://b.example:19530/"):
        assert _milvus_client._token(address) == ("user:secret-word" if is_sent else "")
