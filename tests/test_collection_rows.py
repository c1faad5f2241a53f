"""Rows in segments answer as the same rows in memory do, without being read into memory."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.collection import _segments
from sklearn_cbir.collection._keeper import FileKeeper
from sklearn_cbir.collection._segments import RowFormat, SegmentRows, StoredValues
from sklearn_cbir.index import _stored
from sklearn_cbir.index._stored import HalfRows

N, N_FEATURES = 700, 24


def make_rows():
    """Rows around few centers, among them equal ones, zeros, and such that float16 hardly holds."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(9, N_FEATURES))
    rows = centers[rng.integers(9, size=N)] + 0.01 * rng.normal(size=(N, N_FEATURES))
    rows[40:60] = rows[300:320]  # equal rows
    rows[[5, 450]] = 0
    rows[70:80] = 1e-8 * rng.normal(size=(10, N_FEATURES))
    rows[70:80, 3] = 1  # what is beside it has few bits left, or none
    return rows.astype(np.float32)


@pytest.fixture(params=["float16", "float32"])
def stored(request, tmp_path, monkeypatch):
    """The rows in segments of 100, of which blocks of 16 are read at once, and in memory."""
    monkeypatch.setattr(_segments, "ROWS_AT_LEAST", 100)
    monkeypatch.setattr(_segments, "ROWS_AT_MOST", 100)
    monkeypatch.setattr(_stored, "NUMBERS_IN_CACHE", 16 * N_FEATURES)
    monkeypatch.setattr(_stored, "BYTES_AT_ONCE", 4 * 210 * N_FEATURES)
    format = RowFormat(request.param, N_FEATURES)
    values = format.encoded(make_rows())
    segments = _segments.append_rows(str(tmp_path), format, [], 0, values, 0)
    held = StoredValues(str(tmp_path), format, segments, N)
    in_memory = HalfRows.of_unit_values(values) if request.param == "float16" else values
    return SegmentRows(held), in_memory


def retrievers(stored):
    """A retriever over segments, and one over memory that has to say the same."""
    in_files, in_memory = stored
    of_files = NeighborsRetriever(algorithm="exact", storage="memory_map").fit(in_files)
    storage = "float16" if isinstance(in_memory, HalfRows) else "copy"
    return of_files, NeighborsRetriever(algorithm="exact", storage=storage).fit(in_memory)


def queries(n):
    rng = np.random.default_rng(1)
    asked = make_rows()[rng.integers(N, size=n)]
    asked[::3] += 0.02 * rng.normal(size=asked[::3].shape)
    return asked.astype(np.float32)


@pytest.mark.parametrize("n", [1, 3, 17, 300])
@pytest.mark.parametrize("share", [None, 0.9, 0.5, 0.03])
def test_rows_in_segments_answer_as_rows_in_memory(stored, n, share):
    of_files, of_memory = retrievers(stored)
    where = None if share is None else np.random.default_rng(2).random(N) < share
    for k in (1, 7):
        for _ in range(2):  # the second time, more is known of the rows
            for one, other in zip(
                of_files.kneighbors(queries(n), k, where=where),
                of_memory.kneighbors(queries(n), k, where=where),
            ):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("radius", [1e-7, 0.02, 1.0])
def test_rows_in_segments_are_as_far_as_rows_in_memory(stored, radius):
    of_files, of_memory = retrievers(stored)
    for one, other in zip(
        of_files.radius_neighbors(queries(30), radius),
        of_memory.radius_neighbors(queries(30), radius),
    ):
        for row, same in zip(one, other):
            np.testing.assert_array_equal(row, same)


def test_zero_rows_and_zero_queries_are_as_far_from_everything(stored):
    of_files, _ = retrievers(stored)
    distances, found = of_files.kneighbors(np.zeros((1, N_FEATURES), np.float32), 3)
    assert found.tolist() == [[0, 1, 2]]
    assert distances.tolist() == [[1.0, 1.0, 1.0]]
    distances, found = of_files.kneighbors(queries(1), N)
    assert distances[0][np.isin(found[0], [5, 450])].tolist() == [1.0, 1.0]


def test_rows_in_segments_grow_and_shrink(stored):
    of_files, of_memory = retrievers(stored)
    of_files.remove([3, 99, 100, 650])
    of_memory.remove([3, 99, 100, 650])
    for one, other in zip(of_files.kneighbors(queries(5), 9), of_memory.kneighbors(queries(5), 9)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("where", [None, 0.9])
def test_a_search_takes_few_bytes_of_memory_for_a_row(tmp_path, where):
    n, n_features = 50_000, 64
    format, rng = RowFormat("float16", n_features), np.random.default_rng(0)
    values = format.encoded(rng.normal(size=(n, n_features)))
    segments = _segments.append_rows(str(tmp_path), format, [], 0, values, 0)
    asked, mask = rng.normal(size=(1, n_features)).astype(np.float32), rng.random(n) < 0.9
    searched = NeighborsRetriever(algorithm="exact", storage="memory_map")
    searched.fit(SegmentRows(StoredValues(str(tmp_path), format, segments, n)))
    tracemalloc.start()
    searched.kneighbors(asked, 5, where=None if where is None else mask)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 50 * n + 2 * 4 * _stored.NUMBERS_IN_CACHE


@pytest.mark.parametrize("n_bits", [7, 64, 130])
def test_codes_in_segments_answer_as_codes_in_memory(tmp_path, monkeypatch, n_bits):
    monkeypatch.setattr(_segments, "ROWS_AT_LEAST", 100)
    monkeypatch.setattr(_segments, "ROWS_AT_MOST", 100)
    rng, format = np.random.default_rng(0), RowFormat("codes", n_bits)
    codes = rng.integers(0, 2, (N, n_bits), dtype=np.uint8)
    segments = _segments.append_rows(str(tmp_path), format, [], 0, format.encoded(codes), 0)
    values = StoredValues(str(tmp_path), format, segments, N)
    of_files = searched(values, format)
    of_memory = NeighborsRetriever(metric="hamming").fit(codes)
    for where in (None, rng.random(N) < 0.5):
        for one, other in zip(
            of_files.kneighbors(codes[:9], 5, where=where),
            of_memory.kneighbors(codes[:9], 5, where=where),
        ):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="features"):
        of_files.kneighbors(np.zeros((1, n_bits + 1), np.uint8), 1)


def test_codes_are_not_unpacked_to_be_searched(tmp_path):
    n, format = 50_000, RowFormat("codes", 256)
    values = np.random.default_rng(0).integers(0, 2**63, (n, 4)).astype(np.uint64)
    segments = _segments.append_rows(str(tmp_path), format, [], 0, values, 0)
    stored = StoredValues(str(tmp_path), format, segments, n)
    tracemalloc.start()
    searched(stored, format)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 1.1 * values.nbytes


def searched(values, format):
    """What a collection searches its rows with."""
    return FileKeeper(SimpleNamespace(folder=None)).retriever(values, format)


def test_all_numbers_of_half_precision_are_widened_to_themselves():
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits.view(np.float16)[None]
    halves = halves[:, np.isfinite(halves[0])]
    found = _segments.widened(halves, np.empty(halves.shape, np.int32))
    expected = halves.astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
