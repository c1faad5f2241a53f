"""Distances stay within their range, and what lies at a radius is inside, whoever measures."""

import numpy as np
import pytest
from sklearn.preprocessing import FunctionTransformer

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import ENGINES
from sklearn_cbir.model_selection import retrieval_scorer
from sklearn_cbir.model_selection._scorer import _CosineDistances
from sklearn_cbir.reranking import RERANKERS

CASES = {
    "exact": {"algorithm": "exact"},
    "float16": {"storage": "float16"},
    "file": {"storage": "memory_map"},
    "nndescent": {"algorithm": "nndescent"},
    "faiss": {"algorithm": "faiss"},
    "milvus": {"algorithm": "milvus"},
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    options = CASES[request.param]
    if options.get("algorithm") == "milvus":
        pytest.importorskip("milvus_lite")
        options = {**options, "uri": str(tmp_path / "gallery.db")}
    if options.get("algorithm") == "faiss":
        pytest.importorskip("faiss")

    def fit(X, y=None, **more):
        if options.get("storage") == "memory_map":
            np.save(tmp_path / "X.npy", X)
            X = tmp_path / "X.npy"
        return NeighborsRetriever(3, **options, **more).fit(X, y)

    return fit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cosine_distances_are_at_most_2_and_a_radius_of_2_finds_all(case, dtype, rng):
    X = rng.normal(size=(300, 7)).astype(dtype)
    retriever = case(X)
    queries = np.vstack([-X, X[:20]])
    distances = retriever.kneighbors(queries, 300)[0]
    assert distances.min() >= 0
    assert distances.max() <= 2
    assert not np.isnan(np.arccos(1 - distances)).any()
    distances, positions = retriever.radius_neighbors(queries, 2.0)
    assert [len(found) for found in positions] == [300] * len(queries)
    assert np.concatenate(distances).max() <= 2
    engine = retriever._gallery.engine
    scores = np.asarray(engine.distances(engine.encode(queries)))
    assert scores.min() >= 0
    assert scores.max() <= 2


def test_cosine_distances_of_a_scorer_are_from_0_to_2(rng):
    X = rng.normal(size=(200, 5))
    distances = _CosineDistances(np.vstack([X, -X]))[:]
    assert distances.min() >= 0
    assert distances.max() <= 2


@pytest.mark.parametrize("size", [1e-300, 1e-162, 1e154, 1e307])
def test_a_scorer_compares_rows_of_any_size(size, rng):
    X, y = rng.normal(size=(60, 5)), np.arange(60) % 6
    scorer = retrieval_scorer(gallery="queries")
    expected = scorer(FunctionTransformer().fit(X), X, y)
    assert scorer(FunctionTransformer().fit(X), size * X, y) == pytest.approx(expected)


def test_a_scorer_ties_equal_rows(rng):
    rows = np.repeat(rng.normal(size=(67, 37)), 3, axis=0)
    rows[1::3, 0] = rows[::3, 0] = 0.0
    rows[1::3, 0] *= -1  # -0.0
    distances = _CosineDistances(np.asfortranarray(rows))[:]
    np.testing.assert_array_equal(distances[:, ::3], distances[:, 1::3])


@pytest.mark.parametrize("name", [name for name in RERANKERS if name != "alpha_query_expansion"])
def test_rerankers_take_opposite_rows(name, rng):
    X = rng.normal(size=(20, 5)).astype(np.float32)
    retriever = NeighborsRetriever(20, rerank=name).fit(np.vstack([X, -X]))
    distances = retriever.kneighbors(X)[0]
    assert distances.min() >= 0
    assert distances.max() <= 2


def test_euclidean_distances_are_not_negative_and_codes_differ_in_at_most_all_bits(rng):
    X = 1e4 + rng.normal(size=(100, 5)).astype(np.float32)
    engine = ENGINES["exact"]("euclidean").build(X)
    assert engine.distances(X).min() >= 0
    codes = rng.integers(2, size=(50, 70)).astype(np.uint8)
    engine = ENGINES["exact"]("hamming").build(np.vstack([codes, 1 - codes]))
    assert engine.query(engine.encode(codes), 100)[0].max() == 70
    assert np.asarray(engine.distances(engine.encode(codes))[:]).max() == 70


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 30, 1e3, 1e5])
def test_scores_far_from_the_origin_follow_the_distances_of_neighbors(case, dtype, offset, rng):
    X = (offset + rng.normal(size=(400, 16))).astype(dtype)
    retriever = case(X, metric="euclidean")
    engine = retriever._gallery.engine
    in_single = retriever.storage == "float16" or retriever.algorithm == "milvus"
    queries = (X[:50] + dtype(0.5)).astype(np.float32 if in_single else dtype)
    scores = engine.distances(engine.encode(queries))
    distances, positions = retriever.kneighbors(queries, 400)
    np.testing.assert_allclose(
        np.take_along_axis(scores, positions, axis=1), distances, rtol=2e-5, atol=1e-6
    )
    if queries.dtype == np.float64 and not in_single:
        np.testing.assert_array_equal(np.argsort(scores, axis=1, kind="stable"), positions)


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e30, 3e37])
def test_scores_of_tiny_and_huge_rows_are_those_of_others(case, size, rng):
    X, y = rng.normal(size=(200, 8)), rng.integers(5, size=200)
    one = case(X.astype(np.float32), y, metric="euclidean")
    expected = one.score()
    rows = (size * X).astype(np.float32)
    if one.algorithm == "milvus" and size > 1e36:
        with pytest.raises(ValueError, match="for Euclidean distances in single precision"):
            case(rows, y, metric="euclidean")
        return
    found = case(rows, y, metric="euclidean").score()
    assert found == pytest.approx(expected, abs=1e-4 if size > 1e-31 else 1e-2)
