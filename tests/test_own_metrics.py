"""Metrics of the user's own, and distances that are not what they should be."""

import warnings
from functools import partial

import numpy as np
import pytest
from scipy import sparse
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import FunctionTransformer

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.codes import HammingDistances, pack_codes
from sklearn_cbir.metrics import (
    METRICS,
    acg_at_k,
    mean_average_precision,
    mean_over_queries,
    per_class_thresholds,
    precision_at_k,
    precision_in_radius,
    threshold_f1,
)
from sklearn_cbir.model_selection import retrieval_scorer

CASES = {
    "exact": {"algorithm": "exact"},
    "codes": {"metric": "hamming"},
    "re-ranked": {"rerank": "diffusion"},
    "milvus": {"algorithm": "milvus"},
}


@pytest.fixture(params=CASES)
def gallery(request, tmp_path, rng):
    """A retriever, its rows, its labels and its ids."""
    options = CASES[request.param]
    X, y = rng.normal(size=(150, 16)).astype(np.float32), rng.integers(5, size=150)
    if "metric" in options:
        X = (X > 0).astype(np.uint8)
    if "algorithm" in options and options["algorithm"] == "milvus":
        pytest.importorskip("milvus_lite")
        options = {**options, "uri": str(tmp_path / "gallery.db")}
    ids = [f"{i}.jpg" for i in range(150)]
    return NeighborsRetriever(3, **options).fit(X, y, ids=ids), X, y, ids


def first_is_right(y_queries, y_gallery, distances):
    """What anybody writes."""
    return y_gallery[distances.argmin(axis=1)] == y_queries


def with_exclude(y_queries, y_gallery, distances, *, exclude=None):
    distances = np.array(distances, dtype=float)
    if exclude is not None:
        found = np.flatnonzero(exclude >= 0)
        distances[found, exclude[found]] = np.inf
    return first_is_right(y_queries, y_gallery, distances)


def as_the_package(*arguments, **options):
    return precision_at_k(*arguments, k=1, ties="stable", **options)


@pytest.mark.parametrize("own", [first_is_right, with_exclude, as_the_package])
def test_own_metrics_leave_each_query_out(own, gallery):
    retriever, X, y, ids = gallery
    expected = retriever.evaluate(scoring=as_the_package).per_query
    asked = {"scoring": own}
    np.testing.assert_array_equal(retriever.evaluate(**asked).per_query, expected)
    np.testing.assert_array_equal(retriever.evaluate(X, y, ids=ids, **asked).per_query, expected)
    some = [*ids[:75], *[f"new {i}" for i in range(75)]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of queries that find themselves
        found = retriever.evaluate(X, y, ids=some, **asked).per_query
    np.testing.assert_array_equal(found[:75], expected[:75])
    retriever.set_params(scoring=own)
    assert retriever.score() == pytest.approx(expected.mean())


def test_own_metrics_get_arrays(gallery):
    retriever, X, y, _ = gallery
    seen = []

    def look(y_queries, y_gallery, distances):
        seen.append((y_queries, y_gallery, distances))
        return np.zeros(len(y_queries))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        retriever.evaluate(X, y, scoring=look)
    assert all(type(part) is np.ndarray for call in seen for part in call)
    np.testing.assert_array_equal(np.concatenate([call[0] for call in seen]), y)
    assert all(call[2].shape == (len(call[0]), 150) for call in seen)
    np.testing.assert_array_equal(seen[0][1], y)


def test_own_metrics_score_pipelines_and_transformers(rng):
    X, y = rng.normal(size=(60, 5)), np.arange(60) % 4
    for options in ({}, {"gallery": "queries"}):
        own, name = (retrieval_scorer(m, **options) for m in (first_is_right, "recall@1"))
        expected = cross_val_score(NeighborsRetriever(), X, y, scoring=name, cv=3)
        found = cross_val_score(NeighborsRetriever(), X, y, scoring=own, cv=3)
        np.testing.assert_allclose(found, expected)
    step = FunctionTransformer().fit(X)
    assert own(step, X, y) == pytest.approx(name(step, X, y))
    weight = rng.random(60)
    weighted = (scorer(step, X, y, sample_weight=weight) for scorer in (own, name))
    assert next(weighted) == pytest.approx(next(weighted))


def test_a_query_that_does_not_count_is_left_out_of_the_mean(rng):
    X, y = rng.normal(size=(30, 4)), np.arange(30) % 3

    def without_class_0(y_queries, y_gallery, distances):
        return np.where(y_queries == 0, np.nan, 0.5)

    retriever = NeighborsRetriever(3, scoring=without_class_0).fit(X, y)
    with pytest.warns(UserWarning, match="10 of 30 queries"):
        assert retriever.score() == 0.5


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda n: 0.5, "returned float for 1 queries. A metric returns one number per query"),
        (lambda n: np.zeros((n, 2)), r"returned numbers of shape \(1, 2\)"),
        (lambda n: np.full(n, np.inf), "returned infinity"),
        (lambda n: ["good"] * n, "returned list"),
        (lambda n: [[1, 2], [1]], "returned list"),
        (lambda n: None, "returned NoneType"),
        (lambda n: np.zeros(n + 1), r"returned numbers of shape \(2,\)"),
        (lambda n: np.zeros(n, complex), "returned ndarray"),
    ],
)
def test_what_is_no_number_per_query_is_one_clear_error(returned, message, rng):
    def mine(y_queries, y_gallery, distances):
        return returned(len(y_queries))

    retriever = NeighborsRetriever(3, scoring=mine).fit(rng.normal(size=(9, 4)), np.arange(9) % 3)
    with pytest.raises(ValueError, match=f"scoring=mine {message}"):
        retriever.score()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda y_queries, y_gallery: 1, "<lambda> is not a function of .*too many positional"),
        (
            lambda a, b, c, *, k: 1,
            "<lambda> is not a function .*missing .*'k'.* with functools.partial",
        ),
        (threshold_f1, "threshold_f1 is not a function .*missing a required .*'radius'"),
        (per_class_thresholds, "per_class_thresholds is not a function .* one number per query"),
    ],
)
def test_what_cannot_be_called_is_one_clear_error(metric, message, rng):
    retriever = NeighborsRetriever(3, scoring=metric).fit(rng.normal(size=(9, 4)), [0, 1, 2] * 3)
    with pytest.raises(ValueError, match=f"scoring={message}"):
        retriever.score()


def test_metrics_of_the_package_may_have_parameters(rng):
    X, y = rng.normal(size=(40, 4)), np.arange(40) % 4
    retriever = NeighborsRetriever(3, scoring=partial(precision_at_k, k=3)).fit(X, y)
    assert retriever.score() == retriever.set_params(scoring="precision@3").score()


# ---------------------------------------------------------------- re-rankers and radii


def test_what_lies_within_a_radius_does_so_in_any_order(rng):
    X, y = rng.normal(size=(80, 4)), np.arange(80) % 4
    plain = NeighborsRetriever(3).fit(X, y)
    ranked = NeighborsRetriever(3, rerank="diffusion").fit(X, y)
    for metric in (partial(precision_in_radius, radius=0.1), "recall_in_radius"):
        one, other = (r.evaluate(scoring=metric).per_query for r in (plain, ranked))
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="rerank orders results without distances"):
        ranked.evaluate(scoring="map_in_radius")


@pytest.mark.parametrize(
    ("rerank", "message"),
    [
        (lambda *a: "nearest", "returned 'nearest', which holds no real numbers"),
        (lambda *a: [["a"] * 9] * 10, "which holds no real numbers"),
        (lambda *a: None, "returned None, which holds no real numbers"),
        (lambda *a: [[1, 2], [3]], "which holds no real numbers"),
    ],
)
def test_rerankers_that_return_no_numbers_are_one_clear_error(rerank, message, rng):
    retriever = NeighborsRetriever(3, rerank=rerank).fit(rng.normal(size=(10, 4)))
    with pytest.raises(ValueError, match=message):
        retriever.kneighbors()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_distance_that_is_the_radius_in_its_own_type_is_inside(dtype):
    for radius in (0.1, 0.2, 0.3, 0.7):
        distances = np.array([[radius, 0.9]], dtype=dtype)
        assert (distances <= radius).tolist() == [[True, False]]
        assert precision_in_radius([1], [1, 0], distances, radius=radius) == 1
        assert threshold_f1([1], [1, 0], distances, radius=radius) == 1
        found = per_class_thresholds([1], [1, 0], distances, radii=[radius])
        assert found.f1.tolist() == [1]


# ---------------------------------------------------------------- distances that are none


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, sparse.coo_array])
def test_sparse_distances_are_refused(kind):
    distances = kind(np.array([[0.0, 0.2], [0.1, 0.0]]))
    for name, metric in METRICS.items():
        with pytest.raises(ValueError, match="sparse matrix .* that holds 2 of them"):
            metric([0, 1], [0, 1], distances), name
    with pytest.raises(ValueError, match="sparse matrix"):
        per_class_thresholds([0, 1], [0, 1], distances)


def test_masked_distances_are_refused():
    distances = np.ma.array([[0.1, 0.2]], mask=[[False, True]])
    with pytest.raises(ValueError, match=r"distances\[0, 1\] is masked"):
        mean_average_precision([1], [1, 0], distances)
    assert mean_average_precision([1], [1, 0], np.ma.array(distances.data)) == 1


@pytest.mark.parametrize(
    "exclude", [[-2], np.array([2**64 - 1], np.uint64), [2], [[-1]], [np.array([2**63], np.uint64)]]
)
def test_excluded_rows_that_do_not_exist_are_refused(exclude):
    with pytest.raises(ValueError, match=r"exclude\[0\] names a gallery row outside 0 to 1"):
        mean_average_precision([1], [1, 0], [[0.1, 0.2]], exclude=exclude)


def test_weights_of_any_size_average():
    values = [0.0, 1.0, float("nan")]
    for size in (1e308, 1.7e308, 1.0, 1e-320):
        with pytest.warns(UserWarning, match="1 of 3 queries"):
            assert mean_over_queries(values, [size, size, 1e308]) == 0.5
    with pytest.raises(ValueError, match=r"values has shape \(1, 2\)\. Pass one number per query"):
        mean_over_queries([[0.5, 1.0]])


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (sparse.csr_matrix, r"transform gave a sparse matrix of shape \(6, 2\)"),
        (lambda X: np.where(X > 10, np.nan, X), "transform gave nan for row 5, column 1"),
        (lambda X: np.where(X > 10, np.inf, X), "transform gave inf for row 5, column 1"),
        (lambda X: X + 1j, r"Complex data not supported: transform\(X\) has"),
        (lambda X: X[:, 0], r"transform gave float64 of shape \(6,\)"),
    ],
    ids=["sparse", "NaN", "infinity", "complex", "one number"],
)
def test_a_transformer_whose_rows_cannot_be_compared_is_named(turn, message):
    scorer = retrieval_scorer("map", gallery="queries")
    X = np.arange(12.0).reshape(6, 2)
    with pytest.raises(ValueError, match=message):
        scorer(FunctionTransformer(turn).fit(X), X, [0, 1] * 3)


@pytest.mark.parametrize("metric", [precision_at_k, acg_at_k, mean_average_precision])
def test_a_query_that_excludes_everything_is_no_number(metric):
    exclude = np.array([[True, True], [False, False]])
    values = metric([1, 1], [1, 0], [[0.1, 0.2]] * 2, k=None, exclude=exclude, per_query=True)
    assert np.isnan(values).tolist() == [True, False]


def test_lazy_distances_are_arrays_too(rng):
    codes = pack_codes(rng.integers(2, size=(9, 20)))
    distances = HammingDistances(codes, codes)
    assert len(distances) == 9
    assert np.asarray(distances).shape == np.asarray(distances, dtype=float).shape == (9, 9)
    np.testing.assert_array_equal(np.argmin(distances, axis=1)[:1], [0])


def test_options_that_cannot_be_named_are_not_passed(rng):
    y, distances = np.arange(20) % 4, rng.random((20, 20))

    def no_names(y_queries, y_gallery, distances, exclude="default", /):
        assert exclude == "default"
        return np.ones(len(y_queries))

    retriever = NeighborsRetriever(3).fit(distances, y)
    assert (retriever.evaluate(scoring=no_names).per_query == 1).all()
