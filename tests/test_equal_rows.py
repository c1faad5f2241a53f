"""Equal means equal: what is taken for one row is compared number by number, not by its key."""

import itertools
import pickle
import warnings

import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import _milvus, _rows
from sklearn_cbir.index._rows import find_copies, find_rows, row_keys
from sklearn_cbir.metrics import mean_average_precision

ENGINES = {
    "exact": {"algorithm": "exact"},
    "float16": {"storage": "float16"},
    "nndescent": {"algorithm": "nndescent"},
    "faiss": {"algorithm": "faiss"},
    "milvus": {"algorithm": "milvus"},
}
N = 300
KINDS = {
    "signs": lambda rng, n: rng.choice([-1, 1], (n, 16)),
    "zeros and ones": lambda rng, n: rng.integers(2, size=(n, 24)),
    "one-hot": lambda rng, n: np.eye(64)[rng.integers(64, size=n)],
    "three of many": lambda rng, n: rng.permuted(np.tile([1] * 3 + [0] * 117, (n, 1)), axis=1),
    "sparse counts": lambda rng, n: rng.poisson(0.05, (n, 100)),
    "whole numbers": lambda rng, n: rng.integers(-3, 4, (n, 5)),
    "quarters": lambda rng, n: np.round(4 * rng.normal(size=(n, 6))) / 4,
}


@pytest.fixture(params=ENGINES)
def options(request, tmp_path):
    if request.param == "milvus":
        pytest.importorskip("milvus_lite")
        return {**ENGINES["milvus"], "uri": str(tmp_path / "gallery.db")}
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return ENGINES[request.param]


def fit(X, y, metric, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an index of few different rows is none
        return NeighborsRetriever(5, metric=metric, random_state=0, **options).fit(X, y)


def squares(X):
    """Exact for small whole numbers and quarters."""
    lengths = (X**2).sum(axis=1)
    return lengths[:, None] + lengths - 2 * (X @ X.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_different_rows_differ(kind, dtype, rng):
    rows = KINDS[kind](rng, 20000).astype(dtype)
    assert len(np.unique(row_keys(rows))) == len(np.unique(rows, axis=0))


def test_keys_of_rows_that_differ_in_their_highest_bits_differ():
    signs = np.array(list(itertools.product([-1, 1], repeat=8)), dtype=np.float64)
    assert len(np.unique(row_keys(signs))) == 256
    codes = np.array([[0, 0], [1 << 63, 0], [0, 1 << 63], [1 << 63, 1 << 63]], dtype=np.uint64)
    assert len(np.unique(row_keys(codes))) == 4


def test_zero_and_negative_zero_are_equal():
    rows = np.array([[0.0, -0.0], [-0.0, 0.0], [0.0, 1.0], [-0.0, 1.0]], dtype=np.float32)
    copies, firsts = find_copies(rows)
    assert sorted(zip(copies.tolist(), firsts.tolist())) == [(1, 0), (3, 2)]
    assert find_rows(-rows[:2], rows).all()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_plain_distances(kind, options, rng):
    X = KINDS[kind](rng, N).astype(np.float32)
    y = rng.integers(12, size=N)
    expected = mean_average_precision(y, y, squares(X.astype(float)), exclude=np.arange(N))
    retriever = fit(X, y, "euclidean", options)
    assert retriever.score() == pytest.approx(expected, abs=1e-12)
    retriever.set_params(scoring=f"map@{N}")
    assert retriever.score() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "hamming"])
def test_a_key_never_stands_for_a_row(metric, options, rng, monkeypatch):
    if metric == "hamming" and options.get("algorithm") not in ("exact", "milvus"):
        pytest.skip("not for codes")
    n = 120
    X = rng.integers(2, size=(n, 7)).astype(np.uint8 if metric == "hamming" else np.float32)
    X[:, 0] = 1
    y = rng.integers(4, size=n)
    expected = fit(X, y, metric, {"algorithm": "exact"}).score()
    monkeypatch.setattr(_rows, "_mixed", lambda words, salts: np.zeros(len(words), np.uint64))
    retriever = fit(X, y, metric, options)
    assert retriever.score() == pytest.approx(expected, abs=1e-12)
    assert not find_rows(retriever._gallery.engine.rows[:][:3] * 0, X[3:] * 0 + 1).any()


def test_queries_that_only_share_keys_with_the_gallery_raise_no_warning(rng, monkeypatch):
    monkeypatch.setattr(_rows, "_mixed", lambda words, salts: np.zeros(len(words), np.uint64))
    X, y = rng.normal(size=(40, 8)), np.arange(40) % 4
    retriever = NeighborsRetriever(5, algorithm="exact").fit(X, y)
    retriever.score(rng.normal(size=(20, 8)), y[:20])
    with pytest.warns(UserWarning, match="100% of the queries are equal to rows"):
        retriever.score(X, y)


def test_equal_rows_behind_another_of_their_key_are_found(monkeypatch):
    monkeypatch.setattr(_rows, "_mixed", lambda words, salts: np.zeros(len(words), np.uint64))
    rows = np.array([[1.0], [2.0], [2.0], [3.0], [1.0], [3.0], [2.0]])
    copies, firsts = find_copies(rows)
    assert sorted(zip(copies.tolist(), firsts.tolist())) == [(2, 1), (4, 0), (5, 3), (6, 1)]


def test_a_collection_with_keys_of_before_is_read_and_answers_right(tmp_path, rng, monkeypatch):
    pytest.importorskip("milvus_lite")
    X = (0.3 * rng.choice([-1, 1], (150, 6))).astype(np.float32)
    y = rng.integers(5, size=150)
    options = {"algorithm": "milvus", "uri": str(tmp_path / "gallery.db")}
    with monkeypatch.context() as patch:  # what an earlier version wrote
        patch.setattr(_milvus, "row_keys", _rows.summed_row_keys)
        before = fit(X[:120], y[:120], "cosine", options)
    del before._gallery.engine.hash_format
    loaded = pickle.loads(pickle.dumps(before))
    exact = fit(X, y, "cosine", {"algorithm": "exact"})
    loaded.partial_fit(X[120:], y[120:])
    assert loaded.score() == pytest.approx(exact.score(), abs=1e-12)
    again = pickle.loads(pickle.dumps(loaded))
    assert again.score() == loaded.score()
    np.testing.assert_array_equal(again.kneighbors(X)[1], exact.kneighbors(X)[1])
