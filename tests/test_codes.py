"""Packed codes against loops over single bits, compiled and by numpy alone."""

import os
import subprocess
import sys
from functools import lru_cache

import joblib
import numpy as np
import pytest

from sklearn_cbir import _compiled
from sklearn_cbir._threads import in_threads, slices
from sklearn_cbir.codes import (
    HammingDistances,
    _search,
    hamming_distances,
    hamming_radius,
    hamming_top_k,
    pack_codes,
    unpack_codes,
)
from sklearn_cbir.metrics import hamming_mean_average_precision

# Around the borders of words (64 bits), of search steps (64 items) and of tiles (2048 items).
SIZES = [(1, 1), (3, 8), (63, 12), (64, 63), (65, 64), (130, 65), (2049, 48), (2200, 130)]


@pytest.fixture(params=["compiled", "numpy"])
def route(request, monkeypatch):
    """Both ways to the same result."""
    if request.param == "numpy":
        monkeypatch.setattr(_search, "kernels", lambda: None)
    return request.param


def codes(rng, n, n_bits):
    return rng.integers(0, 2, size=(n, n_bits), dtype=np.uint8)


def count_differing(queries, gallery):
    """The matrix of distances, bit by bit."""
    return sum(
        (queries[:, None, j] != gallery[None, :, j]).astype(int) for j in range(queries.shape[1])
    )


@pytest.mark.parametrize("n_bits", [1, 7, 8, 48, 63, 64, 65, 128, 200])
def test_unpacking_undoes_packing(rng, n_bits):
    bits = codes(rng, 9, n_bits)
    packed = pack_codes(bits)
    assert packed.dtype == np.uint64
    assert packed.shape == (9, -(-n_bits // 64))
    assert np.array_equal(unpack_codes(packed, n_bits), bits)


def test_bit_j_has_the_value_two_to_the_j():
    bits = np.zeros((1, 70), dtype=np.uint8)
    bits[0, [0, 3, 63, 64, 69]] = 1
    assert pack_codes(bits).tolist() == [[2**0 + 2**3 + 2**63, 2**0 + 2**5]]


def test_padding_bits_are_zero():
    packed = pack_codes(np.ones((2, 5)))
    assert (packed == 2**5 - 1).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_every_numeric_type_packs_alike(rng, dtype):
    bits = codes(rng, 4, 20)
    assert np.array_equal(pack_codes(bits.astype(dtype)), pack_codes(bits))


def test_packing_leaves_the_codes_alone(rng):
    bits = codes(rng, 4, 20)
    before = bits.copy()
    bits.flags.writeable = False
    pack_codes(bits)
    assert np.array_equal(bits, before)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ([[0, 1], [2, 0]], r"codes\[1, 0\] is 2, but codes hold only 0 and 1"),
        ([[-1, 1]], r"codes\[0, 0\] is -1"),
        ([[0.5, 1]], r"codes\[0, 0\] is 0.5"),
        ([[0.0, np.nan]], r"codes\[0, 1\] is nan"),
        ([0, 1, 1], r"shape \(3,\).*\(n, n_bits\)"),
        (np.empty((3, 0)), r"shape \(3, 0\)"),
        ([["0", "1"]], "dtype"),
    ],
    ids=["two", "minus one", "half", "nan", "one row", "no bits", "text"],
)
def test_only_rows_of_zeros_and_ones_are_packed(bits, message):
    with pytest.raises(ValueError, match=message):
        pack_codes(bits)


@pytest.mark.parametrize(("n", "n_bits"), SIZES)
def test_distances_count_differing_bits(rng, route, n, n_bits):
    queries, gallery = codes(rng, 5, n_bits), codes(rng, n, n_bits)
    distances = hamming_distances(pack_codes(queries), pack_codes(gallery))
    assert distances.dtype == np.int32
    assert np.array_equal(distances, count_differing(queries, gallery))


@pytest.mark.parametrize(("n", "n_bits"), SIZES)
def test_top_k_orders_by_distance_then_row(rng, route, n, n_bits):
    queries, gallery = codes(rng, 70, n_bits), codes(rng, n, n_bits)
    expected = count_differing(queries, gallery)
    order = np.argsort(expected, axis=1, kind="stable")
    for k in sorted({1, min(2, n), min(10, n), min(100, n), n}):
        distances, indices = hamming_top_k(pack_codes(queries), pack_codes(gallery), k)
        assert np.array_equal(indices, order[:, :k])
        assert np.array_equal(distances, np.take_along_axis(expected, indices.astype(int), axis=1))


@pytest.mark.parametrize("order", ["nearest first", "farthest first", "all equal"])
def test_top_k_of_sorted_galleries(route, order):
    bits = np.tri(64, dtype=np.uint8)[:, :64].repeat(50, axis=0)  # 1, 2, ... ones
    if order == "farthest first":
        bits = bits[::-1]
    if order == "all equal":
        bits = np.ones_like(bits)
    query = np.zeros((1, 64), dtype=np.uint8)
    distances, indices = hamming_top_k(pack_codes(query), pack_codes(bits), k=120)
    expected = np.argsort(bits.sum(axis=1), kind="stable")[:120]
    assert np.array_equal(indices[0], expected)
    assert np.array_equal(distances[0], bits.sum(axis=1)[expected])


@pytest.mark.parametrize("radius", [0, 2, 3.7, 1e9])
def test_radius_finds_everything_within(rng, route, radius):
    queries, gallery = codes(rng, 6, 12), codes(rng, 300, 12)
    expected = count_differing(queries, gallery)
    distances, indices = hamming_radius(pack_codes(queries), pack_codes(gallery), radius)
    for row, near, found in zip(expected, distances, indices):
        within = np.flatnonzero(row <= radius)
        within = within[np.argsort(row[within], kind="stable")]
        assert np.array_equal(found, within)
        assert np.array_equal(near, row[within])
        assert (near.dtype, found.dtype) == (np.int32, np.int64)


def test_threads_find_the_same(rng, monkeypatch):
    queries, gallery = pack_codes(codes(rng, 50, 40)), pack_codes(codes(rng, 500, 40))
    alone = hamming_top_k(queries, gallery, 7), hamming_distances(queries, gallery)
    monkeypatch.setattr(_search, "PAIRS_PER_THREAD", 100)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    together = hamming_top_k(queries, gallery, 7), hamming_distances(queries, gallery)
    for x, y in zip(alone[0], together[0]):
        assert np.array_equal(x, y)
    assert np.array_equal(alone[1], together[1])


@pytest.mark.parametrize("n_threads", ["1", "2"])
@pytest.mark.parametrize("n_bits", [3, 130])
@pytest.mark.parametrize("n_queries", [1, 7])
def test_few_queries_share_threads_by_gallery(rng, monkeypatch, n_queries, n_bits, n_threads):
    bits = codes(rng, 5003, n_bits)  # with 3 bits, almost everything ties
    queries, gallery = pack_codes(bits[:n_queries]), pack_codes(bits)
    alone = {k: hamming_top_k(queries, gallery, k) for k in (1, 9, 150, 900, 5003)}
    parts, search = [], _search._top_k_of
    monkeypatch.setattr(_search, "_top_k_of", lambda *args: parts.append(args[-1]) or search(*args))
    monkeypatch.setattr(_search, "PAIRS_PER_THREAD", 1000)
    monkeypatch.setenv("OMP_NUM_THREADS", n_threads)
    for k, expected in alone.items():
        found = hamming_top_k(queries, gallery, k)
        for values, others in zip(found, expected):
            assert values.dtype == others.dtype
            np.testing.assert_array_equal(values, others)
    assert len(parts) == 3 * 8  # not for the last two


def test_errors_in_threads_come_through(monkeypatch):
    def work(rows):
        raise KeyboardInterrupt

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(KeyboardInterrupt):
        list(in_threads(work, slices(10, 2), n_wanted=5))


def test_other_layouts_and_read_only_codes_give_the_same(rng, route):
    bits = codes(rng, 200, 100)
    packed = pack_codes(bits)
    expected = hamming_top_k(packed[:5], packed, 3)
    frozen = np.ascontiguousarray(packed)
    frozen.flags.writeable = False
    sparse_rows = np.repeat(packed, 2, axis=0)[::2]
    for gallery in (frozen, sparse_rows):
        for x, y in zip(expected, hamming_top_k(gallery[:5], gallery, 3)):
            assert np.array_equal(x, y)


def test_memory_mapped_codes_are_searched(rng, tmp_path):
    packed = pack_codes(codes(rng, 200, 100))
    joblib.dump(packed, tmp_path / "codes.joblib")
    mapped = joblib.load(tmp_path / "codes.joblib", mmap_mode="r")
    assert mapped.flags.f_contiguous
    for x, y in zip(hamming_top_k(packed[:5], packed, 3), hamming_top_k(mapped[:5], mapped, 3)):
        assert np.array_equal(x, y)


def test_no_queries_give_empty_results(route):
    gallery = pack_codes(np.eye(4))
    none = gallery[:0]
    assert hamming_distances(none, gallery).shape == (0, 4)
    assert [x.shape for x in hamming_top_k(none, gallery, 2)] == [(0, 2), (0, 2)]
    assert hamming_radius(none, gallery, 1) == ([], [])


def test_lazy_distances_are_those_of_the_slice(rng):
    queries, gallery = pack_codes(codes(rng, 7, 30)), pack_codes(codes(rng, 9, 30))
    lazy = HammingDistances(queries, gallery)
    assert lazy.shape == (7, 9)
    assert np.array_equal(lazy[2:5], hamming_distances(queries, gallery)[2:5])


@pytest.mark.parametrize("n_bits", [2**16 - 64, 2**16, 2**16 + 64])
@pytest.mark.parametrize("multi_label", [False, True], ids=["classes", "labels"])
def test_scores_count_the_longest_distances(multi_label, n_bits):
    query, gallery = np.ones((1, n_bits), np.uint8), np.zeros((2, n_bits), np.uint8)
    gallery[1, : n_bits // 2] = 1  # the second is nearer; the first differs in every bit
    y = np.array([[0, 1], [1, 0]]) if multi_label else np.array([0, 1])
    assert hamming_mean_average_precision(y[1:], y, query, gallery) == 1.0
    assert hamming_mean_average_precision(y[:1], y, query, gallery) == 0.5


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3", None, 5])
def test_k_must_fit_the_gallery(k):
    gallery = pack_codes(np.eye(4))
    with pytest.raises(ValueError, match=f"k={k!r}"):
        hamming_top_k(gallery, gallery, k)


def test_lengths_of_codes_must_agree():
    short, long = pack_codes(np.ones((2, 64))), pack_codes(np.ones((2, 65)))
    with pytest.raises(ValueError, match="1 words of 64 bits per code, the gallery has 2"):
        hamming_distances(short, long)


def test_codes_must_be_packed():
    gallery = pack_codes(np.eye(4))
    with pytest.raises(ValueError, match=r"queries has shape \(4, 4\) and dtype float64"):
        hamming_top_k(np.eye(4), gallery, 1)
    with pytest.raises(ValueError, match=r"gallery has shape \(4,\)"):
        hamming_top_k(gallery, gallery[:, 0], 1)


@pytest.mark.parametrize("radius", [-1, np.nan, "2", None])
def test_radius_must_be_a_number_of_bits(radius):
    gallery = pack_codes(np.eye(4))
    with pytest.raises(ValueError, match="radius="):
        hamming_radius(gallery, gallery, radius)


def test_numpy_does_the_work_where_numba_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn_cbir.codes._kernels", None)
    monkeypatch.delattr("sklearn_cbir.codes._kernels", raising=False)
    _search.kernels.cache_clear()
    try:
        assert _search.kernels() is None
        assert hamming_distances(pack_codes(np.eye(2)), pack_codes(np.eye(2))).tolist() == [
            [0, 2],
            [2, 0],
        ]
    finally:
        _search.kernels.cache_clear()


def test_numpy_does_the_work_where_numba_is_told_not_to_compile():
    program = "from sklearn_cbir.codes._search import kernels; print(kernels())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None"


def test_machine_code_that_cannot_be_stored_is_compiled_all_the_same(monkeypatch):
    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(_compiled, "njit", njit)
    assert _compiled.compiled(abs) is abs


@pytest.mark.parametrize("n", [1, 63, 64, 65, 3000])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
@pytest.mark.parametrize("how", ["compiled", "in threads", "numpy"])
def test_codes_that_are_left_out_are_not_found(how, share, n, rng, monkeypatch):
    if how == "numpy":
        monkeypatch.setattr(_search, "kernels", lru_cache(lambda: None))
    if how == "in threads":
        monkeypatch.setattr(_search, "PAIRS_PER_THREAD", 100)
    _search.kernels()
    gallery, queries = (pack_codes(rng.integers(0, 2, (size, 70))) for size in (n, 3))
    mask = rng.random(n) < share
    mask[n // 2] = True
    left = np.flatnonzero(mask)
    words, n_before, n_left = _search.pack_bools(mask)
    assert n_left == len(left)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    assert bits[:n].tolist() == mask.tolist()
    assert not bits[n:].any()
    assert n_before.tolist() == [mask[:start].sum() for start in range(0, n, 64)]
    for k in {1, min(5, n_left), n_left}:
        expected = hamming_top_k(queries, gallery[left], k)
        for left_in in (words, mask):
            distances, positions = _search.nearest_codes(queries, gallery, k, left_in)
            np.testing.assert_array_equal(distances, expected[0])
            np.testing.assert_array_equal(positions, left[expected[1]])
    for radius in (20, 35, 70):
        found = _search.codes_within(queries, gallery, radius, words)
        expected = hamming_radius(queries, gallery[left], radius)
        for row in range(3):
            np.testing.assert_array_equal(found[0][row], expected[0][row])
            np.testing.assert_array_equal(found[1][row], left[expected[1][row]])


@pytest.mark.parametrize("n", [4096, 20_001, 300_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_query_of_few_codes_that_are_left_in(n, threads, rng, monkeypatch):
    if threads == 2:
        monkeypatch.setattr(_search, "PAIRS_PER_THREAD", 100)
    gallery = pack_codes(rng.integers(0, 2, (n, 70)))
    few, run, hidden = np.zeros((3, n), dtype=bool)
    few[rng.choice(n, n // 100, replace=False)] = True
    run[n // 3 : n // 3 + n // 100] = True  # many of `LANES` in some places
    sampled = np.arange(n) // 64 % max(n // (64 * 64), 1) == 0
    hidden[~sampled] = True  # where no sample looks
    for mask in (few, run, hidden) if hidden.any() else (few, run):
        left = np.flatnonzero(mask)
        for k in (1, 10, min(len(left), 900)):
            expected = hamming_top_k(gallery[5:6], gallery[left], k)
            distances, positions = _search.nearest_codes(gallery[5:6], gallery, k, mask)
            np.testing.assert_array_equal(distances, expected[0])
            np.testing.assert_array_equal(positions, left[expected[1]])
