"""Galleries in half precision and in files: exact for what is stored, and small in memory."""

import copy
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn import clone, config_context

from sklearn_cbir import NeighborsRetriever, persistence
from sklearn_cbir.index import _stored

METRICS = ["cosine", "euclidean"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of rows and of queries even for small galleries."""
    monkeypatch.setattr(_stored, "ROWS_AT_ONCE", 64)
    monkeypatch.setattr("sklearn_cbir.index._exact.QUERIES_AT_ONCE", 16)
    monkeypatch.setattr("sklearn_cbir.index._exact.SIMILARITIES_AT_ONCE", 2**10)


def save_rows(folder, rows, order="C"):
    path = folder / "rows.npy"
    np.save(path, np.asarray(rows, order=order))
    return path


def assert_same(first, second, queries, y, k=7):
    """Two retrievers give the same bits, whatever they are asked."""
    for ask in (
        lambda r: r.kneighbors(queries, k),
        lambda r: r.kneighbors(n_neighbors=k),
        lambda r: r.transform(queries).toarray(),
        lambda r: r.predict(queries),
    ):
        np.testing.assert_array_equal(ask(first), ask(second))
    for ask in (  # ranked by products of other blocks: the same but for the last digits
        lambda r: r.score(queries, y[: len(queries)]),
        lambda r: r.score(),
        lambda r: r.evaluate(queries, y[: len(queries)], scoring="ndcg@5").per_query,
    ):
        np.testing.assert_allclose(ask(first), ask(second), rtol=1e-5)
    for found, expected in zip(
        np.concatenate(first.radius_neighbors(queries, 0.9)),
        np.concatenate(second.radius_neighbors(queries, 0.9)),
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("storage", ["float16", "memory_map"])
@pytest.mark.parametrize("metric", METRICS)
def test_tiles_of_fewer_rows_than_neighbors_give_the_same(metric, storage, rng, tmp_path):
    rows = rng.normal(size=(500, 24))
    X = save_rows(tmp_path, rows) if storage == "memory_map" else rows
    retriever = NeighborsRetriever(10, metric=metric, storage=storage).fit(X)
    queries = np.concatenate([rows[:40], rng.normal(size=(3, 24))])
    for part in (queries, queries[1:3], queries[39:41], queries[41:42]):
        expected = retriever.kneighbors(part)
        for working_memory in (0, 1e-3, 5e-3):
            with config_context(working_memory=working_memory):
                for found, known in zip(retriever.kneighbors(part), expected):
                    np.testing.assert_array_equal(found, known)


# ------------------------------------------------------------ files


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_file_is_searched_bit_for_bit_like_its_rows(metric, dtype, order, rng, tmp_path):
    rows = rng.standard_normal((500, 9)).astype(dtype)
    rows[5], rows[400], rows[60:80] = 0, 0, rows[3]
    queries, y = rng.standard_normal((50, 9)), rng.integers(5, size=500)
    queries[1], queries[2] = rows[3], 0
    path = save_rows(tmp_path, rows, order)
    retriever = NeighborsRetriever(metric=metric, storage="memory_map").fit(path, y)
    plain = NeighborsRetriever(metric=metric).fit(rows.astype(dtype[-2:]), y)
    assert (retriever.algorithm_, retriever.recall_, retriever.n_features_in_) == ("exact", 1.0, 9)
    assert_same(retriever, plain, queries, y)
    mapped = NeighborsRetriever(metric=metric, storage="memory_map")
    assert_same(mapped.fit(np.load(path, mmap_mode="r"), y), plain, queries, y)
    raw = np.memmap(path, dtype, "r", rows.nbytes and 128, rows.shape, order)
    assert_same(mapped.fit(raw, y), plain, queries, y)
    with config_context(working_memory=0.05):
        assert_same(mapped, plain, queries, y)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int32, bool])
def test_numbers_of_other_types_are_compared_as_floats_that_hold_them(dtype, rng, tmp_path):
    rows = (rng.standard_normal((300, 6)) * 9).astype(dtype)
    path = save_rows(tmp_path, rows)
    retriever = NeighborsRetriever(metric="euclidean", storage="memory_map").fit(path)
    wide = np.float64 if dtype is np.int32 else np.float32
    assert retriever._gallery.engine.rows.dtype == wide
    plain = NeighborsRetriever(metric="euclidean").fit(rows.astype(wide))
    np.testing.assert_array_equal(retriever.kneighbors(), plain.kneighbors())


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("metric", METRICS)
def test_files_of_any_scale(metric, scale, rng, tmp_path):
    rows = rng.standard_normal((300, 6)).astype(np.float32) * np.float32(scale)
    y = rng.integers(3, size=300)
    retriever = NeighborsRetriever(metric=metric, storage="memory_map")
    plain = NeighborsRetriever(metric=metric).fit(rows, y)
    assert_same(retriever.fit(save_rows(tmp_path, rows), y), plain, rows[:9] + rows[9:18], y)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_come_and_go_beside_the_file(metric, warm, rng, tmp_path):
    rows, y = rng.standard_normal((400, 8)).astype(np.float32), rng.integers(4, size=400)
    queries, names = rng.standard_normal((20, 8)), np.array([f"{i}.jpg" for i in range(400)])
    path = save_rows(tmp_path, rows[:300])
    before = path.read_bytes()
    retriever = NeighborsRetriever(metric=metric, storage="memory_map")
    retriever.fit(path, y[:300], ids=names[:300])
    plain = NeighborsRetriever(metric=metric).fit(rows[:300], y[:300], ids=names[:300])
    for step in ("add", "remove", "add more", "remove more", "pickle"):
        if warm:
            retriever.kneighbors(queries)
        for r in (retriever, plain):
            if step.startswith("add"):
                part = slice(300, 350) if step == "add" else slice(350, 400)
                r.partial_fit(rows[part], y[part], ids=names[part])
            elif step.startswith("remove"):
                r.remove(names[[0, 7, 299, 300, 349]] if step == "remove" else names[20:290])
        if step == "pickle":
            retriever = pickle.loads(pickle.dumps(retriever))
        assert_same(retriever, plain, queries, y)
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", ["pickle", "save", "deepcopy"])
def test_a_copy_holds_the_path_and_not_the_rows(how, rng, tmp_path):
    rows = rng.standard_normal((1000, 50)).astype(np.float32)
    retriever = NeighborsRetriever(storage="memory_map").fit(save_rows(tmp_path, rows))
    before = retriever.kneighbors(rows[:9])
    if how == "deepcopy":
        loaded = copy.deepcopy(retriever)
    elif how == "pickle":
        stored = pickle.dumps(retriever)
        assert len(stored) < 3000
        loaded = pickle.loads(stored)
    else:
        persistence.save(retriever, tmp_path / "saved")
        assert (tmp_path / "saved").stat().st_size < 6000
        loaded = persistence.load(tmp_path / "saved")
    for found, expected in zip(loaded.kneighbors(rows[:9]), before):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("how", ["pickle", "save"])
def test_a_file_that_is_gone_or_other_is_named_at_the_first_search(how, rng, tmp_path):
    rows = rng.standard_normal((50, 4))
    path = save_rows(tmp_path, rows)
    retriever = NeighborsRetriever(storage="memory_map").fit(path)
    stored = pickle.dumps(retriever)
    persistence.save(retriever, tmp_path / "saved")

    def load():
        elsewhere = tmp_path / "elsewhere"  # the file itself is not looked for beside this one
        elsewhere.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "saved", elsewhere)
        return pickle.loads(stored) if how == "pickle" else persistence.load(elsewhere / "saved")

    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))  # the same content
    assert load().n_samples_fit_ == 50
    rows[30, 2] += 1e-9
    save_rows(tmp_path, rows)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    with pytest.raises(OSError, match="rows.npy' has changed since .* fit again"):
        load().kneighbors(rows)
    save_rows(tmp_path, rows[:40])
    with pytest.raises(OSError, match="rows.npy' has changed since"):
        load().kneighbors(rows)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="rows.npy', which is missing. Put the file back"):
        load().kneighbors(rows)


def test_a_file_that_changes_under_a_retriever_is_never_searched(rng, tmp_path):
    rows = rng.standard_normal((50, 4))
    path = save_rows(tmp_path, rows)
    writer = np.lib.format.open_memmap(path, mode="r+")
    writer[3] = 1  # on its way to the disk: a later write to the same page moves no time
    retriever = NeighborsRetriever(1, storage="memory_map").fit(path)
    stored = pickle.dumps(retriever)
    retriever.kneighbors(rows)
    writer[3] = 0
    with pytest.raises(OSError, match="has changed since this gallery was fitted"):
        retriever.kneighbors(rows)
    with pytest.raises(OSError, match="has changed since this gallery was fitted"):
        pickle.loads(stored).kneighbors(rows)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="rows.npy"):
        retriever.kneighbors(rows)


@pytest.mark.parametrize("change", [-32, -1, 1, 32])
@pytest.mark.parametrize("was_opened", [True, False])
def test_a_file_that_is_shorter_or_longer_than_it_was_is_never_searched(
    change, was_opened, rng, tmp_path
):
    rows = rng.standard_normal((50, 4))
    path = save_rows(tmp_path, rows)
    retriever = NeighborsRetriever(1, storage="memory_map").fit(path)
    retriever.kneighbors(rows)
    stored, status = pickle.dumps(retriever), path.stat()
    retriever = retriever if was_opened else pickle.loads(stored)
    os.truncate(path, status.st_size + change)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(OSError, match="rows.npy' has changed since"):
        retriever.kneighbors(rows)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_changed_without_a_trace_are_not_measured(metric, rng, tmp_path):
    rows = rng.standard_normal((500, 4))
    path = save_rows(tmp_path, rows)
    retriever = NeighborsRetriever(1, metric=metric, storage="memory_map").fit(path)
    expected = retriever.kneighbors(rows)
    status = path.stat()
    np.lib.format.open_memmap(path, mode="r+")[3] *= 1000
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(OSError, match="has changed since this gallery was fitted"):
        retriever.kneighbors(rows[:9])
    save_rows(tmp_path, rows)
    fresh = NeighborsRetriever(1, metric=metric, storage="memory_map").fit(path)
    np.testing.assert_array_equal(fresh.kneighbors(rows), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": os.devnull, "size": 0}, "not a regular file"),
        ({"file_dtype": "|O"}, r"cannot be in a file of \|O"),
    ],
    ids=["device", "objects"],
)
def test_a_file_of_somebody_else_cannot_name_what_is_no_file_of_rows(
    change, message, rng, tmp_path
):
    path = save_rows(tmp_path, rng.standard_normal((50, 4)))
    retriever = NeighborsRetriever(storage="memory_map").fit(path)
    vars(retriever._gallery.engine.store).update(change)
    persistence.save(retriever, tmp_path / "crafted")
    with pytest.raises((OSError, ValueError), match=message):
        persistence.load(tmp_path / "crafted")


def test_what_is_no_file_of_rows_is_an_error(rng, tmp_path):
    def fit(X):
        return NeighborsRetriever(1, storage="memory_map").fit(X)

    rows = rng.standard_normal((20, 4))
    path = save_rows(tmp_path, rows)
    mapped = np.load(path, mmap_mode="r")
    for X, message in (
        (rows, "X is in memory. Pass the path"),
        (mapped[:5], "X is a part of a memory map"),
        (np.load(path, mmap_mode="c"), "mode 'c', whose changes are not in its file"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(X)
    with pytest.raises(FileNotFoundError, match="nowhere.npy"):
        fit(tmp_path / "nowhere.npy")
    (tmp_path / "text.npy").write_text("no numbers")
    with pytest.raises(ValueError, match="text.npy' is not a .npy file of numbers"):
        fit(str(tmp_path / "text.npy"))
    for array, message in (
        (np.zeros(5), "Reshape your data"),
        (np.zeros((0, 5)), "0 sample"),
        (np.zeros((5, 0)), "0 feature"),
        (np.zeros((2, 2, 2)), "dim 3"),
        (np.array([["a"]]), "holds no numbers"),
        (np.eye(2) * 1j, "holds no numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(save_rows(tmp_path, array))
    for value, kind in ((np.nan, "NaN"), (np.inf, "infinity")):
        rows[17, 2] = value
        with pytest.raises(ValueError, match=rf"contains {kind}.*X\[17, 2\]"):
            fit(save_rows(tmp_path, rows))
    with pytest.raises(ValueError, match="has 3 features.*expecting 4"):
        fit(save_rows(tmp_path, np.eye(4))).partial_fit(np.eye(3))


@pytest.mark.parametrize("storage", ["float16", "memory_map"])
@pytest.mark.parametrize(
    "parameters", [{"metric": "hamming"}, {"algorithm": "nndescent"}, {"algorithm": "faiss"}]
)
def test_an_engine_without_a_storage_names_those_that_it_has(storage, parameters):
    if (storage, parameters.get("algorithm")) == ("float16", "nndescent"):
        return
    others = "'copy' or 'float16'" if parameters.get("algorithm") == "nndescent" else "'copy'"
    message = rf"storage='{storage}' cannot be used for.*Use {others}\.$"
    with pytest.raises(ValueError, match=message):
        NeighborsRetriever(storage=storage, **parameters).fit(np.eye(3))
    with pytest.raises(ValueError, match="storage='disk' is not known"):
        NeighborsRetriever(storage="disk").fit(np.eye(3))


def test_reranking_and_queries_by_id_read_single_rows(rng, tmp_path):
    rows, names = rng.standard_normal((200, 8)), [f"{i}.jpg" for i in range(200)]
    path = save_rows(tmp_path, rows)
    parameters = {"rerank": "query_expansion", "rerank_depth": 20}
    retriever = NeighborsRetriever(storage="memory_map", **parameters).fit(path, ids=names)
    plain = NeighborsRetriever(**parameters).fit(rows, ids=names)
    np.testing.assert_array_equal(retriever.kneighbors(), plain.kneighbors())
    np.testing.assert_array_equal(
        retriever.predict(rows[:5], ids=names[:5]), plain.predict(rows[:5], ids=names[:5])
    )
    view, array = retriever._gallery.engine.rows, plain._gallery.engine.rows
    for part in (slice(3, 9), 7, [4, 4, 1], np.array([[1, 2], [3, 4]]), np.arange(200) % 3 == 0):
        np.testing.assert_array_equal(view[part], array[part])
    np.testing.assert_array_equal(np.asarray(view), array)


def test_auto_stays_exact_however_a_stored_gallery_grows(rng, tmp_path, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._engines.EXACT_UP_TO_ROWS", 100)
    monkeypatch.setattr("sklearn_cbir.index._engines.EXACT_UP_TO_NUMBERS", 100)
    rows = rng.standard_normal((1500, 4))
    for storage, X in (("memory_map", save_rows(tmp_path, rows)), ("float16", rows)):
        retriever = NeighborsRetriever(storage=storage).fit(X)
        retriever.set_params(storage="copy").partial_fit(rows + 9)
        assert retriever.algorithm_ == "exact"
        assert not hasattr(clone(retriever), "ids_")


SEARCH = """
import resource, sys
import numpy as np, sklearn
from sklearn_cbir import NeighborsRetriever

rng = np.random.default_rng(0)
queries, y = rng.standard_normal((40, 256)).astype(np.float32), rng.integers(50, size=400_000)
NeighborsRetriever(metric=sys.argv[2]).fit(queries, y[:40]).score(queries[:5] + 1, y[:5])
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with sklearn.config_context(working_memory=16):
    retriever = NeighborsRetriever(metric=sys.argv[2], storage="memory_map")
    retriever.fit(sys.argv[1], y)
    retriever.kneighbors(queries)
    retriever.radius_neighbors(queries[:2], 0.5)
    retriever.score(queries, y[:40])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
@pytest.mark.parametrize("metric", METRICS)
def test_searching_400_megabytes_takes_little_memory(metric, tmp_path):
    path = tmp_path / "rows.npy"
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(400_000, 256))
    rng = np.random.default_rng(0)
    for start in range(0, 400_000, 20_000):
        rows[start : start + 20_000] = rng.standard_normal((20_000, 256), dtype=np.float32)
    rows.flush()
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, str(path), metric], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120 * 2**20


# ------------------------------------------------------------ half precision


def rounded(rows, metric):
    """What half precision leaves of rows, on a scale that no number leaves."""
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * 64).astype(np.float16).astype(np.float64) / 64


@pytest.mark.parametrize("metric", METRICS)
def test_half_precision_is_exact_for_the_rounded_rows(metric, rng):
    rows, y = rng.standard_normal((600, 12)), rng.integers(5, size=600)
    queries = rng.standard_normal((30, 12))
    retriever = NeighborsRetriever(metric=metric, storage="float16").fit(rows, y)
    plain = NeighborsRetriever(metric=metric).fit(rounded(rows, metric).astype(np.float32), y)
    found, expected = retriever.kneighbors(queries, 600), plain.kneighbors(queries, 600)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    assert (found[1] == expected[1]).mean() > 0.99
    assert retriever.score(queries, y[:30]) == pytest.approx(plain.score(queries, y[:30]), abs=1e-4)
    exact = NeighborsRetriever(metric=metric).fit(rows).kneighbors(queries, 600)
    np.testing.assert_allclose(found[0], exact[0], rtol=0.02)


@pytest.mark.parametrize("metric", METRICS)
def test_half_precision_takes_half_the_file(metric, rng):
    rows = rng.standard_normal((5000, 64)).astype(np.float32)
    retriever = NeighborsRetriever(metric=metric, storage="float16").fit(rows)
    before = retriever.kneighbors(rows[:5])
    stored = pickle.dumps(retriever)
    assert len(stored) < 1.05 * rows.nbytes / 2
    np.testing.assert_array_equal(pickle.loads(stored).kneighbors(rows[:5]), before)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30, 1e38])
@pytest.mark.parametrize("metric", METRICS)
def test_half_precision_of_any_scale(metric, scale, rng):
    rows = rng.uniform(-1, 1, size=(300, 6)).astype(np.float32)
    plain = NeighborsRetriever(metric=metric, storage="float16").fit(rows)
    scaled = NeighborsRetriever(metric=metric, storage="float16").fit(rows * np.float32(scale))
    found, expected = scaled.kneighbors(n_neighbors=1), plain.kneighbors(n_neighbors=1)
    assert (found[1] == expected[1]).mean() > 0.99
    factor = scale if metric == "euclidean" else 1
    np.testing.assert_allclose(found[0] / factor, expected[0], rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_half_precision_grows_and_shrinks(metric, rng):
    rows = rng.standard_normal((300, 6)).astype(np.float32)
    rows[4] = 0
    retriever = NeighborsRetriever(metric=metric, storage="float16").fit(rows[:200])
    retriever.kneighbors(rows[:3])
    retriever.partial_fit(rows[200:]).remove([0, 199, 250])
    fresh = NeighborsRetriever(metric=metric, storage="float16")
    fresh.fit(np.delete(rows, [0, 199, 250], axis=0))
    np.testing.assert_array_equal(retriever.kneighbors(), fresh.kneighbors())
    if metric == "euclidean":
        with pytest.raises(ValueError, match="more than half precision can store .* Fit again"):
            retriever.partial_fit(rows[:2] * 1000)


@pytest.mark.parametrize("metric", METRICS)
def test_copies_of_rounded_rows_are_warned_of(metric, rng):
    rows, y = rng.standard_normal((50, 6)), np.arange(50) % 2
    retriever = NeighborsRetriever(metric=metric, storage="float16").fit(rows, y)
    with pytest.warns(UserWarning, match="of the queries are equal to rows"):
        retriever.score(rows, y)
    retriever.score(rows + 0.1, y)


@pytest.mark.parametrize("metric", METRICS)
def test_queries_of_unknown_ids_that_find_nothing_within_a_radius_are_no_copies(metric, rng):
    rows = rng.standard_normal((50, 6))
    retriever = NeighborsRetriever(metric=metric, storage="float16")
    retriever.fit(rows, ids=[f"{i}.jpg" for i in range(50)])
    distances, positions = retriever.radius_neighbors(rows[:2] + 9, 0, ids=["a.jpg", "b.jpg"])
    assert [len(found) for found in [*distances, *positions]] == [0, 0, 0, 0]


def test_float64_beyond_float32_is_refused_in_half_precision():
    with pytest.raises(ValueError, match=r"too large for float32: X\[0, 0\]"):
        NeighborsRetriever(storage="float16").fit(np.eye(3) * 1e200)


@pytest.mark.parametrize("metric", METRICS)
def test_many_queries_with_a_filter_read_what_is_left_in_and_nothing_else(
    metric, tmp_path, rng, monkeypatch
):
    rows = rng.normal(size=(2000, 6)).astype(np.float32)
    retriever = NeighborsRetriever(3, metric=metric, storage="memory_map")
    retriever.fit(save_rows(tmp_path, rows))
    queries, mask = rng.normal(size=(16, 6)), rng.random(2000) < 0.1
    retriever.kneighbors(queries)  # norms of all rows are known now
    numbers, read = retriever._gallery.engine.store, []
    original = type(numbers).__getitem__

    def noting(self, part):
        found = original(self, part)
        read.append(len(found))
        return found

    monkeypatch.setattr(type(numbers), "__getitem__", noting)
    positions = retriever.kneighbors(queries, where=mask)[1]
    assert mask[positions].all()
    assert sum(read) < 1.5 * mask.sum() + 16 * 3 * 2  # once, and the nearest again
