"""NeighborsRetriever: neighbors, ids, scores, growing, bad input, pipelines and processes."""

import math
import os
import pickle
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pandas
import pytest
from scipy import sparse
from sklearn import clone, config_context
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.callback import ProgressBar
from sklearn.exceptions import DataConversionWarning, NotFittedError, UndefinedMetricWarning
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsTransformer, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from sklearn_cbir import NeighborsRetriever, neighbors
from sklearn_cbir.index import _checking
from sklearn_cbir.metrics import mean_average_precision, precision_at_k

METRICS = ["cosine", "euclidean", "hamming"]


@parametrize_with_checks(
    [
        NeighborsRetriever(),
        NeighborsRetriever(metric="euclidean", algorithm="nndescent"),
        NeighborsRetriever(algorithm="faiss"),
    ]
)
def test_sklearn_checks(estimator, check):
    check(estimator)


def test_at_least_40_checks_run():
    assert len(list(estimator_checks_generator(NeighborsRetriever()))) >= 40


def make_rows(rng, n, metric="cosine", n_features=12):
    if metric == "hamming":
        return rng.integers(2, size=(n, n_features)).astype(np.uint8)
    return rng.standard_normal((n, n_features))


def loop_average_precision(distances, relevant):
    """Average precision of one query without ties, from its definition."""
    order = np.argsort(distances)
    precisions = []
    for rank, item in enumerate(order, start=1):
        if relevant[item]:
            precisions.append((len(precisions) + 1) / rank)
    return sum(precisions) / len(precisions)


# ---------------------------------------------------------------- neighbors


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_kneighbors_agrees_with_scikit_learn(metric, rng):
    gallery, queries = make_rows(rng, 90), make_rows(rng, 11)
    reference = NearestNeighbors(n_neighbors=7, metric=metric, algorithm="brute").fit(gallery)
    retriever = NeighborsRetriever(7, metric=metric).fit(gallery)
    for X in (queries, None):
        expected, found = reference.kneighbors(X), retriever.kneighbors(X)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_allclose(found[0], expected[0], atol=1e-12)


def test_hamming_distances_are_numbers_of_bits(rng):
    gallery = make_rows(rng, 90, "hamming")
    reference = NearestNeighbors(n_neighbors=5, metric="hamming", algorithm="brute").fit(gallery)
    distances = NeighborsRetriever(5, metric="hamming").fit(gallery).kneighbors()[0]
    np.testing.assert_allclose(distances, reference.kneighbors()[0] * 12)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32], ids=lambda dtype: dtype.__name__)
def test_codes_of_any_dtype_give_the_same_neighbors(dtype, rng):
    gallery = make_rows(rng, 60, "hamming")
    expected = NeighborsRetriever(metric="hamming").fit(gallery).kneighbors(gallery[:5])
    found = NeighborsRetriever(metric="hamming").fit(gallery.astype(dtype)).kneighbors(gallery[:5])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("metric", METRICS)
def test_copies_of_a_row_do_not_hide_it_from_the_others(metric):
    # Rows 0, 1, 2 and 4 are equal: each finds the other three, never itself.
    rows = np.array([[0, 1], [0, 1], [0, 1], [1, 0], [0, 1]])
    retriever = NeighborsRetriever(2, metric=metric).fit(rows)
    positions = retriever.kneighbors(return_distance=False)
    assert positions.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_ids_given_to_fit_and_to_the_query_leave_it_out(rng):
    gallery = make_rows(rng, 20)
    retriever = NeighborsRetriever(3).fit(gallery, ids=[f"{i}.jpg" for i in range(20)])
    alone = retriever.kneighbors(return_distance=False)[[4, 9]]
    by_id = retriever.kneighbors(gallery[[4, 9]], ids=["4.jpg", "9.jpg"], return_distance=False)
    np.testing.assert_array_equal(by_id, alone)
    mixed = retriever.kneighbors(gallery[[4, 9]], ids=["4.jpg", "new.jpg"], return_distance=False)
    np.testing.assert_array_equal(mixed, [alone[0], [9, *alone[1, :2]]])
    assert retriever.predict(gallery[[4]], ids=["4.jpg"])[0, 0] == f"{alone[0, 0]}.jpg"


@pytest.mark.parametrize("first", [-(2**63), -1000, 2**63, 2**64 - 3])
def test_ids_are_any_whole_numbers_of_64_bits(first, rng):
    X, ids = rng.normal(size=(3, 4)), [first, first + 1, first + 2]
    retriever = NeighborsRetriever(1).fit(X, ids=ids)
    assert retriever.predict(X)[:, 0].tolist() == ids
    for wrong in (-(2**63) - 1, 2**64):
        with pytest.raises(ValueError, match=rf"ids\[1\]={wrong} does not fit into 64 bits"):
            NeighborsRetriever(1).fit(X[:2], ids=[0, wrong])


def test_counted_ids_leave_nothing_out(rng):
    gallery = make_rows(rng, 20)
    retriever = NeighborsRetriever(3).fit(gallery)
    positions = retriever.kneighbors(gallery, ids=np.arange(20), return_distance=False)
    np.testing.assert_array_equal(positions[:, 0], np.arange(20))


@pytest.mark.parametrize("metric", METRICS)
def test_radius_neighbors_agrees_with_scikit_learn(metric, rng):
    gallery, queries = make_rows(rng, 80, metric), make_rows(rng, 9, metric)
    radius = {"cosine": 0.7, "euclidean": 4.5, "hamming": 4}[metric]
    scale = 12 if metric == "hamming" else 1
    reference = NearestNeighbors(metric=metric, algorithm="brute").fit(gallery)
    retriever = NeighborsRetriever(metric=metric).fit(gallery)
    for X in (queries, None):
        expected = reference.radius_neighbors(X, (radius + 1e-9) / scale, sort_results=False)
        found = retriever.radius_neighbors(X, radius)
        for i in range(len(expected[0])):
            np.testing.assert_array_equal(found[1][i], np.sort(expected[1][i]))
        ordered = retriever.radius_neighbors(X, radius, sort_results=True)[0]
        assert all((np.diff(row) >= 0).all() for row in ordered)


def test_radius_neighbors_without_results_are_empty():
    retriever = NeighborsRetriever().fit([[1.0, 0.0]])
    assert [len(x) for x in retriever.radius_neighbors([[0.0, 1.0]], 0.1)[0]] == [0]
    assert len(retriever.radius_neighbors(None, 1.0, return_distance=False)[0]) == 0


def test_graph_and_transform_agree_with_scikit_learn(rng):
    gallery, queries = make_rows(rng, 40), make_rows(rng, 6)
    reference = KNeighborsTransformer(n_neighbors=4, metric="euclidean").fit(gallery)
    retriever = NeighborsRetriever(4, metric="euclidean")
    found = retriever.fit_transform(gallery)
    np.testing.assert_allclose(found.toarray(), reference.transform(gallery).toarray(), atol=1e-7)
    assert found.nnz == 40 * 5
    assert (np.diff(found.data.reshape(40, 5), axis=1) >= 0).all()
    assert (found.indices.reshape(40, 5)[:, 0] == np.arange(40)).all()
    for X in (queries, None):
        np.testing.assert_array_equal(
            retriever.kneighbors_graph(X).toarray(), reference.kneighbors_graph(X).toarray()
        )
    assert len(retriever.get_feature_names_out()) == 40


@pytest.mark.parametrize(
    ("interface", "kind"), [("spmatrix", sparse.csr_matrix), ("sparray", sparse.csr_array)]
)
def test_transform_follows_the_sparse_interface(interface, kind, rng):
    retriever = NeighborsRetriever(2).fit(make_rows(rng, 9))
    with config_context(sparse_interface=interface):
        assert type(retriever.transform(make_rows(rng, 3))) is kind


def test_predict_gives_ids_nearest_first(rng):
    gallery = make_rows(rng, 30)
    paths = np.array([Path(f"{i}.jpg") for i in range(30)])
    retriever = NeighborsRetriever(4).fit(gallery, ids=paths)
    np.testing.assert_array_equal(
        retriever.predict(gallery[:3]), paths[retriever.kneighbors(gallery[:3])[1]]
    )
    assert retriever.predict(gallery[:3])[1, 0] == Path("1.jpg")


# ------------------------------------------------------------------- scores


def test_score_is_the_mean_of_average_precisions(rng):
    gallery, queries = make_rows(rng, 50), make_rows(rng, 8)
    y, y_queries = rng.integers(3, size=50), rng.integers(3, size=8)
    retriever = NeighborsRetriever(metric="euclidean").fit(gallery, y)
    expected = [
        loop_average_precision([math.dist(q, g) for g in gallery], y == label)
        for q, label in zip(queries, y_queries)
    ]
    assert retriever.score(queries, y_queries) == pytest.approx(np.mean(expected))
    weights = rng.random(8)
    assert retriever.score(queries, y_queries, weights) == pytest.approx(
        np.average(expected, weights=weights)
    )


@pytest.mark.parametrize("metric", METRICS)
def test_score_leaves_one_out_with_x_none_and_with_equal_ids(metric, rng):
    rows, y = make_rows(rng, 40, metric), rng.integers(3, size=40)
    ids = [f"{i}.jpg" for i in range(40)]
    retriever = NeighborsRetriever(metric=metric).fit(rows, y, ids=ids)
    others = []
    for i in range(40):
        rest = np.arange(40) != i
        one = NeighborsRetriever(metric=metric).fit(rows[rest], y[rest])
        others.append(one.score(rows[i : i + 1], y[i : i + 1]))
    assert retriever.score() == pytest.approx(np.mean(others))
    assert retriever.score(rows, y, ids=ids) == pytest.approx(np.mean(others))
    assert retriever.score(None, y) == pytest.approx(np.mean(others))


def test_score_averages_ties_of_codes():
    # All at distance 0, one of two relevant: (1 + 1/2) / 2.
    retriever = NeighborsRetriever(metric="hamming").fit([[0, 1], [0, 1]], [0, 1])
    assert retriever.score([[0, 1]], [0]) == pytest.approx(0.75)


@pytest.mark.parametrize("metric", METRICS)
def test_score_averages_ties_of_equal_rows(metric, rng):
    rows = make_rows(rng, 4, metric, n_features=33)
    gallery = rows[rng.integers(4, size=301)]
    y = rng.integers(2, size=301)
    shuffled = rng.permutation(301)
    retriever = NeighborsRetriever(metric=metric)
    queries = make_rows(rng, 5, metric, n_features=33)
    first = retriever.fit(gallery, y).score(queries, [0, 1, 0, 1, 1])
    second = retriever.fit(gallery[shuffled], y[shuffled]).score(queries, [0, 1, 0, 1, 1])
    assert first == pytest.approx(second, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_multi_label_rows_are_relevant_if_they_share_a_label(metric, rng):
    rows, y = make_rows(rng, 30, metric), rng.integers(2, size=(30, 4))
    y[:, 0] |= y.sum(axis=1) == 0
    queries, y_queries = make_rows(rng, 5, metric), y[:5]
    retriever = NeighborsRetriever(metric=metric).fit(rows, y)
    distances = np.empty((5, 30))
    found = retriever.kneighbors(queries, 30)
    np.put_along_axis(distances, found[1], found[0], axis=1)
    expected = mean_average_precision(y_queries, y, distances)
    assert retriever.score(queries, y_queries) == pytest.approx(expected)
    assert retriever.score(queries, sparse.csr_array(y_queries)) == pytest.approx(expected)


@pytest.mark.parametrize("scoring", ["map@5", "recall@1", "precision@3", "ndcg@10", precision_at_k])
def test_score_takes_any_metric(scoring, rng):
    rows, y = make_rows(rng, 30), rng.integers(3, size=30)
    if callable(scoring):

        def scoring(*arguments, **options):
            return precision_at_k(*arguments, k=3, **options)

    retriever = NeighborsRetriever(scoring=scoring).fit(rows, y)
    assert 0 <= retriever.score(make_rows(rng, 9), rng.integers(3, size=9)) <= 1


def test_evaluate_tells_queries_and_classes_apart(rng):
    rows, y = make_rows(rng, 40), np.array(["cat", "dog"] * 20)
    queries, y_queries = make_rows(rng, 6), np.array(["cat", "dog", "dog", "cat", "dog", "eel"])
    retriever = NeighborsRetriever().fit(rows, y)
    with pytest.warns(UndefinedMetricWarning, match="1 of 6"):
        result = retriever.evaluate(queries, y_queries)
    values = result.per_query
    assert np.isnan(values[5])
    assert result.classes.tolist() == ["cat", "dog", "eel"]
    np.testing.assert_allclose(
        result.per_class[:2], [values[[0, 3]].mean(), values[[1, 2, 4]].mean()]
    )
    assert result.worst.tolist() == np.argsort(values[:5]).tolist()
    assert result.score == pytest.approx(values[:5].mean())
    both = retriever.evaluate(queries[:5], y_queries[:5], scoring=["map", "precision@3"])
    assert both["map"].score == pytest.approx(result.score)
    assert both["precision@3"].per_query.shape == (5,)


def test_queries_without_anything_relevant_are_counted_and_a_way_out_is_named(rng):
    retriever = NeighborsRetriever().fit(make_rows(rng, 10), [0] * 5 + [1] * 5)
    with pytest.warns(UndefinedMetricWarning, match="2 of 3 .*StratifiedKFold.*ClassDisjointKFold"):
        retriever.score(make_rows(rng, 3), [0, 2, 3])
    with pytest.raises(ValueError, match="None of the 2 queries"):
        retriever.score(make_rows(rng, 2), [2, 3])


def test_an_unshuffled_kfold_on_sorted_classes_is_explained(rng):
    X, y = make_rows(rng, 30), np.repeat([0, 1, 2], 10)
    search = GridSearchCV(NeighborsRetriever(), {"metric": ["cosine"]}, cv=KFold(3))
    with pytest.raises(ValueError, match="StratifiedKFold"):
        GridSearchCV(NeighborsRetriever(), {}, cv=KFold(3), error_score="raise").fit(X, y)
    search.set_params(cv=StratifiedKFold(3, shuffle=True, random_state=0)).fit(X, y)
    assert 0 < search.best_score_ < 1


def test_queries_that_are_gallery_rows_are_warned_of(rng):
    rows, y = make_rows(rng, 20).astype(np.float32), rng.integers(2, size=20)
    retriever = NeighborsRetriever().fit(rows, y)
    with pytest.warns(UserWarning, match="100% of the queries .* X=None"):
        retriever.score(rows, y)
    retriever.score(np.vstack([rows[:5], make_rows(rng, 6)]), np.arange(11) % 2)  # fewer than half


@pytest.mark.parametrize("n_other", [0, 1, 5, 6, 7])
def test_columns_of_other_names_are_listed_five_at_most(n_other, rng):
    names = [f"a{i}" for i in range(7)]
    rows = pandas.DataFrame(rng.normal(size=(9, 7)), columns=names)
    retriever = NeighborsRetriever(2).fit(rows)
    others = [f"b{name[1:]}" for name in names[:n_other]]
    shown = ["".join(f"- {name}\n" for name in part[:5]) for part in (others, names[:n_other])]
    unseen, missing = (part + "- ...\n" * (n_other > 5) for part in shown)
    message = "The feature names should match those that were passed during fit.\n" + (
        f"Feature names unseen at fit time:\n{unseen}"
        f"Feature names seen at fit time, yet now missing:\n{missing}"
        if n_other
        else "Feature names must be in the same order as they were in fit.\n"
    )
    columns = others + names[n_other:]
    with pytest.raises(ValueError, match="feature names should match") as raised:
        retriever.kneighbors(rows.set_axis(columns, axis=1)[columns[::-1]])
    assert str(raised.value) == message
    one_less = rows.drop(columns="a3")
    with pytest.raises(ValueError, match="yet now missing:\n- a3\n$") as raised:
        retriever.kneighbors(one_less)
    assert "unseen" not in str(raised.value)


def is_warned_of(retriever, queries, **ids):
    """Whether scoring these queries warns that they find themselves, and nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        retriever.score(queries, np.arange(len(queries)) % 2, **ids)
    assert all("find themselves" in str(warning.message) for warning in caught)
    return bool(caught)


@pytest.mark.parametrize("n_equal", [0, 3, 4, 5, 8])
def test_queries_are_warned_of_if_more_than_half_are_rows_of_the_gallery(n_equal, rng):
    rows = make_rows(rng, 20)
    retriever = NeighborsRetriever().fit(rows, np.arange(20) % 2)
    queries = np.vstack([rows[:n_equal], make_rows(rng, 8 - n_equal)])
    assert is_warned_of(retriever, queries) == (n_equal > 4)


@pytest.mark.parametrize("n_pairs", [0, 2, 4])
@pytest.mark.parametrize("n_equal", [10, 11, 12, 14])
def test_codes_are_warned_of_if_they_collide_more_than_those_of_the_gallery(n_equal, n_pairs, rng):
    numbers = np.unpackbits(np.arange(40, dtype=np.uint8)[:, None], axis=1)
    codes, others = numbers[:20], numbers[20:]
    codes[:n_pairs] = codes[n_pairs : 2 * n_pairs]  # each is there twice: a tenth per pair
    retriever = NeighborsRetriever(metric="hamming").fit(codes, np.arange(20) % 2)
    queries = np.vstack([codes[:n_equal], others[n_equal:]])
    assert is_warned_of(retriever, queries) == (n_equal / 20 > max(0.5, n_pairs / 10 + 0.25))


def test_codes_that_collide_are_not_taken_for_copies(rng):
    codes = np.eye(2, dtype=np.uint8)[rng.integers(2, size=40)]
    NeighborsRetriever(metric="hamming").fit(codes, codes[:, 0]).score(codes[:9], codes[:9, 0])


def test_copies_of_codes_are_warned_of_where_codes_rarely_collide(rng):
    codes = rng.integers(2, size=(40, 32), dtype=np.uint8)
    retriever = NeighborsRetriever(metric="hamming").fit(codes, codes[:, 0])
    with pytest.warns(UserWarning, match="100% of the queries"):
        retriever.score(codes[:9], codes[:9, 0])


def test_labels_of_another_type_never_score_0_silently(rng):
    retriever = NeighborsRetriever().fit(make_rows(rng, 4), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="can never be equal"):
        retriever.score(make_rows(rng, 2), ["0", "1"])


def test_score_without_labels_says_where_they_are_missing(rng):
    rows = make_rows(rng, 12)
    with pytest.raises(ValueError, match="pass y to fit"):
        NeighborsRetriever().fit(rows).score(rows, np.zeros(12))
    with pytest.raises(ValueError, match="y is None"):
        NeighborsRetriever().fit(rows, np.zeros(12)).score(rows)
    with pytest.raises(ValueError, match="12 rows in X, 3 labels"):
        NeighborsRetriever().fit(rows, [1, 2, 3])


def test_a_column_of_labels_is_taken_with_scikit_learns_warning(rng):
    with pytest.warns(DataConversionWarning):
        NeighborsRetriever().fit(make_rows(rng, 4), [[0], [1], [0], [1]])


@pytest.mark.parametrize("rerank", [None, "query_expansion"])
@pytest.mark.parametrize("metric", METRICS)
def test_verbose_scores_show_a_full_bar_and_the_same_number(metric, rerank, rng, capfd):
    rows, y = make_rows(rng, 40, metric), rng.integers(3, size=40)
    retriever = NeighborsRetriever(metric=metric, rerank=rerank).fit(rows, y)
    quiet = retriever.score()
    assert capfd.readouterr() == ("", "")
    assert retriever.set_params(verbose=1).score() == quiet
    retriever.evaluate(scoring=["map", "precision_in_radius"])
    shown = capfd.readouterr().err
    assert shown.count("Scoring") == shown.count("100%") == 2


def test_the_bar_of_a_score_counts_the_queries_that_were_read(rng, monkeypatch):
    steps = []

    @contextmanager
    def bar(total, description, enabled):
        steps.append(total)
        yield steps.append

    monkeypatch.setattr(neighbors, "progress_bar", bar)
    for metric in METRICS:
        rows, y = make_rows(rng, 40, metric), rng.integers(3, size=40)
        NeighborsRetriever(metric=metric).fit(rows, y).evaluate(scoring=["map", "ndcg@5"])
        assert steps[0] == sum(steps[1:]) == 80
        steps.clear()


# ---------------------------------------------------------------- re-ranking


def furthest_first(queries, distances, positions, engine):
    return -distances


@pytest.mark.parametrize("metric", METRICS)
def test_rerank_reorders_the_first_results_only(metric, rng):
    rows = make_rows(rng, 30, metric, n_features=40)
    plain = NeighborsRetriever(12, metric=metric).fit(rows)
    turned = NeighborsRetriever(12, metric=metric, rerank=furthest_first, rerank_depth=5).fit(rows)
    expected, found = plain.kneighbors(), turned.kneighbors()
    order = np.argsort(-expected[0][:, :5], axis=1, kind="stable")
    for before, after in zip(expected, found):
        np.testing.assert_array_equal(after[:, :5], np.take_along_axis(before[:, :5], order, 1))
        np.testing.assert_array_equal(after[:, 5:], before[:, 5:])
    # Fewer results than the depth come out of the whole depth.
    np.testing.assert_array_equal(turned.kneighbors(n_neighbors=2)[1], found[1][:, :2])


@pytest.mark.parametrize("metric", METRICS)
def test_rerank_counts_in_the_score(metric, rng):
    rows, y = make_rows(rng, 30, metric, n_features=40), rng.integers(3, size=30)
    queries, y_queries = make_rows(rng, 6, metric, n_features=40), rng.integers(3, size=6)
    turned = NeighborsRetriever(30, metric=metric, rerank=furthest_first, rerank_depth=5)
    positions = turned.fit(rows, y).kneighbors(queries)[1]
    distances = np.empty((6, 30))
    np.put_along_axis(distances, positions, np.arange(30.0)[None], axis=1)
    if metric == "hamming":  # ties beyond the depth are averaged: only a bound is simple
        plain = NeighborsRetriever(metric=metric).fit(rows, y).score(queries, y_queries)
        assert turned.score(queries, y_queries) != plain
    else:
        expected = mean_average_precision(y_queries, y, distances)
        assert turned.score(queries, y_queries) == pytest.approx(expected)
    assert turned.score() != NeighborsRetriever(metric=metric).fit(rows, y).score()


@pytest.mark.parametrize(
    ("rerank", "message"),
    [
        ("difusion", "rerank='difusion' is not known. Did you mean 'diffusion'"),
        (lambda *_: np.zeros(3), r"shape \(3,\).* finite number per result: shape \(9, 8\)"),
        (lambda *_: np.full((9, 8), np.nan), "returned nan for result 0 of query 0"),
    ],
    ids=["name", "shape", "nan"],
)
def test_rerank_of_a_wrong_kind_is_an_error(rerank, message, rng):
    with pytest.raises(ValueError, match=message):
        NeighborsRetriever(2, rerank=rerank).fit(make_rows(rng, 9)).kneighbors()


# ------------------------------------------------------- growing and shrinking


@pytest.mark.parametrize("metric", METRICS)
def test_partial_fit_and_remove_are_as_if_fitted_at_once(metric, rng):
    rows, y = make_rows(rng, 40, metric), rng.integers(4, size=40)
    names = np.array([f"{i}.jpg" for i in range(40)])
    retriever = NeighborsRetriever(metric=metric)
    for part in (slice(0, 15), slice(15, 16), slice(16, 40)):
        retriever.partial_fit(rows[part], y[part], ids=names[part])
    gone = [3, 15, 39]
    retriever.remove(names[gone])
    fresh = NeighborsRetriever(metric=metric)
    fresh.fit(np.delete(rows, gone, 0), np.delete(y, gone), ids=np.delete(names, gone))
    np.testing.assert_array_equal(retriever.predict(rows[:9]), fresh.predict(rows[:9]))
    np.testing.assert_array_equal(retriever.ids_, fresh.ids_)
    assert retriever.n_samples_fit_ == 37
    assert retriever.score() == pytest.approx(fresh.score())
    retriever.partial_fit(rows[gone], y[gone], ids=names[gone])
    assert retriever.predict(rows[gone])[:, 0].tolist() == names[gone].tolist() or (
        metric == "hamming"
    )


def test_counted_ids_go_on_after_remove(rng):
    rows = make_rows(rng, 12)
    retriever = NeighborsRetriever(1).fit(rows[:10]).remove([8, 9]).partial_fit(rows[10:])
    assert retriever.ids_.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]
    assert retriever.predict(rows[10:]).ravel().tolist() == [10, 11]


def test_new_classes_arrive_with_partial_fit(rng):
    retriever = NeighborsRetriever().fit([[0.0, 1.0], [0.1, 1.0]], ["b", "b"])
    retriever.partial_fit([[1.0, 0.0], [1.0, 0.1]], ["a", "long name"])
    assert retriever.score([[1.0, 0.05], [0.05, 1.0]], ["long name", "b"]) > 0.5


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], r"ids\[2\]='a' repeats ids\[0\]"),
        (["a", "b"], "2 ids for 3 rows"),
        (["a", None, "b"], r"ids\[1\] is None"),
        ([[1], [2], [3]], r"ids\[0\] is \[1\]"),
        ("abc", "one string"),
        (5, "ids=5 is one id. Wrap it in a list"),
        ({1, 2, 3}, "set, which has no order"),
        ([1, 2**70, 3], r"ids\[1\]=1180591620717411303424 does not fit into 64 bits"),
    ],
    ids=["twice", "too few", "missing", "lists", "string", "number", "set", "huge"],
)
def test_ids_must_name_one_row_each(ids, message):
    with pytest.raises(ValueError, match=message):
        NeighborsRetriever().fit(np.eye(3), ids=ids)


@pytest.mark.parametrize("kind", [list, tuple, set, np.array, iter], ids=lambda kind: kind.__name__)
def test_rows_are_removed_by_any_collection_of_ids(kind):
    retriever = NeighborsRetriever().fit(np.eye(4), ids=[4, 5, 6, 7])
    assert retriever.remove(kind([6, 5])).ids_.tolist() == [4, 7]
    with pytest.raises(ValueError, match="ids=4 is one id. Wrap it in a list"):
        retriever.remove(4)


def test_ids_of_a_gallery_cannot_be_added_or_removed_twice():
    retriever = NeighborsRetriever().fit(np.eye(3), ids=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"ids\[1\]='c' is in the gallery already"):
        retriever.partial_fit(np.eye(3)[:2], ids=["d", "c"])
    with pytest.raises(ValueError, match="1 of 2 ids are not in the gallery, such as 'z'"):
        retriever.remove(["a", "z"])
    with pytest.raises(ValueError, match="all 3 rows"):
        retriever.remove(["a", "b", "c"])
    with pytest.raises(ValueError, match="own ids, such as 'a'"):
        retriever.partial_fit(np.eye(3))
    with pytest.raises(ValueError, match="can never be equal"):
        retriever.remove([1])
    with pytest.raises(ValueError, match="counted ids"):
        NeighborsRetriever().fit(np.eye(3)).partial_fit(np.eye(3), ids=["a", "b", "c"])
    assert retriever.ids_.tolist() == ["a", "b", "c"]
    assert retriever.remove([]).n_samples_fit_ == 3


@pytest.mark.parametrize("y", [["b", "a", "b"], [[1, 0], [0, 1], [1, 1]], None])
def test_the_labels_of_the_gallery_can_be_read(y):
    retriever = NeighborsRetriever().fit(np.eye(3), y)
    assert retriever.y_ is None if y is None else retriever.y_.tolist() == y
    assert "y_" in retriever._repr_html_()
    assert not hasattr(NeighborsRetriever(), "y_")


def test_labels_come_with_all_rows_or_none():
    with pytest.raises(ValueError, match="y is None"):
        NeighborsRetriever().fit(np.eye(3), [0, 1, 2]).partial_fit(np.eye(3))
    with pytest.raises(ValueError, match="has no labels"):
        NeighborsRetriever().fit(np.eye(3)).partial_fit(np.eye(3), [0, 1, 2])
    with pytest.raises(ValueError, match="can never be equal"):
        NeighborsRetriever().fit(np.eye(3), [0, 1, 2]).partial_fit(np.eye(3), ["0", "1", "2"])


def test_a_failed_fit_leaves_the_old_gallery_working(rng):
    rows = make_rows(rng, 20)
    retriever = NeighborsRetriever(2).fit(rows)
    before = retriever.predict(rows)
    with pytest.raises(ValueError, match="repeats"):
        retriever.fit(rows[:, :3], ids=["same"] * 20)
    np.testing.assert_array_equal(retriever.predict(rows), before)
    assert retriever.n_features_in_ == 12


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3", 3.0])
def test_n_neighbors_of_a_wrong_kind_is_an_error(k):
    with pytest.raises(ValueError, match="n_neighbors="):
        NeighborsRetriever(k).fit(np.eye(3))
    with pytest.raises(ValueError, match="n_neighbors="):
        NeighborsRetriever().fit(np.eye(3)).kneighbors(np.eye(3), k)


def test_more_neighbors_than_rows_is_an_error_with_both_numbers():
    retriever = NeighborsRetriever(30).fit(np.eye(20))
    message = "Expected n_neighbors <= n_samples_fit, but n_neighbors = 30, n_samples_fit = 20"
    for method in (retriever.kneighbors, retriever.predict):
        with pytest.raises(ValueError, match=message):
            method(np.eye(20))
    with pytest.raises(ValueError, match="n_neighbors = 31"):
        retriever.transform(np.eye(20))
    with pytest.raises(ValueError, match="Expected n_neighbors < n_samples_fit.* = 20.* = 20"):
        retriever.kneighbors(n_neighbors=20)
    assert retriever.kneighbors(np.eye(20), 20)[1].shape == (20, 20)
    assert retriever.kneighbors(n_neighbors=19)[1].shape == (20, 19)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_finite_are_named(value, metric):
    rows = np.eye(5)
    rows[3, 1] = value
    with pytest.raises(ValueError, match=r"\[3, 1\]"):
        NeighborsRetriever(metric=metric).fit(rows)
    with pytest.raises(ValueError, match=r"\[3, 1\]"):
        NeighborsRetriever(metric=metric).fit(np.eye(5)).kneighbors(rows, 1)


ENGINES = [("cosine", "exact"), ("euclidean", "exact"), ("hamming", "exact"), ("cosine", "faiss")]


@pytest.mark.parametrize(("metric", "algorithm"), ENGINES)
def test_hostile_galleries_and_queries_are_one_clear_error(metric, algorithm, rng):
    rows = make_rows(rng, 1200, metric)  # enough for an index
    retriever = NeighborsRetriever(1, metric=metric, algorithm=algorithm).fit(rows)
    assert retriever.algorithm_ == algorithm
    for query, message in (
        (rows[0], "Reshape your data"),
        (np.zeros((2, 11)), "X has 11 features.*expecting 12"),
        (np.zeros((2, 13)), "X has 13 features.*expecting 12"),
        (np.zeros((1, 100_000)), "X has 100000 features.*expecting 12"),
        (np.zeros((0, 12)), "0 sample"),
        (np.zeros((1, 12, 1)), "dim 3"),
        (np.full((1, 12), np.nan), r"\[0, 0\]"),
        ([["a"] * 12], "(?i)convert"),
    ):
        with pytest.raises(ValueError, match=message):
            retriever.kneighbors(query)
    for k in (0, -1, 2.5, True, "3"):
        with pytest.raises(ValueError, match="n_neighbors="):
            retriever.kneighbors(rows[:2], k)
    with pytest.raises(ValueError, match="n_neighbors = 1201, n_samples_fit = 1200"):
        retriever.kneighbors(rows[:2], 1201)
    assert (np.sort(retriever.kneighbors(rows[:2], 1200)[1]) == np.arange(1200)).all()
    rows = rows.astype(float)
    rows[700, 3] = np.nan
    with pytest.raises(ValueError, match=r"\[700, 3\]"):
        retriever.fit(rows)
    assert retriever.n_samples_fit_ == 1200


def test_classes_that_collapsed_to_one_code_fill_every_slot(rng):
    codes = np.repeat(make_rows(rng, 20, "hamming", n_features=48), 100, axis=0)
    distances, positions = NeighborsRetriever(100, metric="hamming").fit(codes).kneighbors(codes)
    assert (distances == 0).all()
    assert (positions // 100 == np.arange(2000)[:, None] // 100).all()


@pytest.mark.parametrize(("metric", "algorithm"), ENGINES)
def test_threads_and_forked_children_get_the_answers_of_one(metric, algorithm, rng):
    rows = make_rows(rng, 1200, metric)
    retriever = NeighborsRetriever(5, metric=metric, algorithm=algorithm, random_state=0).fit(rows)
    expected = retriever.kneighbors(rows[:40])[1]
    right = []

    def ask():
        alone = [retriever.kneighbors(rows[row : row + 1])[1][0] for row in range(40)]
        right.append((np.array(alone) == expected).all())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 4
    if not hasattr(os, "fork"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons: forking is unwise
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if (retriever.kneighbors(rows[:40])[1] == expected).all() else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_queries_too_large_for_the_gallerys_type_are_an_error():
    retriever = NeighborsRetriever(1, metric="euclidean").fit(np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="too large for float32"):
        retriever.kneighbors([[1.0, 2.0, 1e300]])


@pytest.mark.parametrize("metric", METRICS)
def test_wrong_widths_are_an_error_with_both_numbers(metric):
    retriever = NeighborsRetriever(1, metric=metric).fit(np.eye(5))
    for width in (4, 6):
        rows = np.zeros((3, width))
        calls = [retriever.kneighbors, retriever.predict, retriever.transform, retriever.score]
        for call in [*calls, retriever.partial_fit, retriever.evaluate]:
            with pytest.raises(ValueError, match=f"X has {width} features.*expecting 5"):
                call(rows)


@pytest.mark.parametrize("metric", METRICS)
def test_arrays_that_a_gallery_can_search_as_they_are_are_not_checked_twice(
    metric, rng, monkeypatch
):
    rows = (rng.random((40, 5)) > 0.5).astype(np.uint8) if metric == "hamming" else None
    rows = rng.normal(size=(40, 5)).astype(np.float32) if rows is None else rows
    retriever = NeighborsRetriever(3, metric=metric).fit(rows)
    checked, check = [], _checking.check_rows
    monkeypatch.setattr(
        _checking, "check_rows", lambda X, *arguments: checked.append(X) or check(X, *arguments)
    )
    expected = retriever.kneighbors(rows[:4])
    assert not checked
    retriever.kneighbors(rows[:1])
    assert not checked
    others = [rows[:4].tolist(), pandas.DataFrame(rows[:4])]
    if metric != "hamming":
        others.append(rows[:4].astype(np.float64))
    for n_checked, queries in enumerate(others, start=1):
        for found, known in zip(retriever.kneighbors(queries), expected):
            np.testing.assert_array_equal(found, known)
        assert len(checked) == n_checked
    for queries, message in [
        (rows[:0], "0 sample"),
        (rows[:, :4], "X has 4 features"),
        (rows[0], "Reshape your data"),
        (np.pad(rows, ((0, 0), (0, 1))), "X has 6 features"),
    ]:
        with pytest.raises(ValueError, match=message):
            retriever.kneighbors(queries)


@pytest.mark.parametrize("value", [2, -1, 0.5, 256.7])
def test_codes_are_zeros_and_ones_only(value):
    codes = np.eye(4)
    codes[2, 3] = value
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        NeighborsRetriever(metric="hamming").fit(codes)
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        NeighborsRetriever(1, metric="hamming").fit(np.eye(4)).predict(codes)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.zeros(5), ValueError, "Reshape your data"),
        (np.zeros((0, 5)), ValueError, "0 sample"),
        (np.zeros((3, 0)), ValueError, "0 feature"),
        (np.zeros((2, 2, 2)), ValueError, "dim 3"),
        (sparse.csr_matrix(np.eye(3)), TypeError, "dense data is required"),
        ([["a", "b"]], ValueError, "(?i)convert"),
        (np.eye(3) * 1j, ValueError, "Complex data"),
    ],
    ids=["1-D", "no rows", "no columns", "3-D", "sparse", "text", "complex"],
)
@pytest.mark.parametrize("metric", ["cosine", "hamming"])
def test_galleries_of_a_wrong_kind_are_an_error(X, error, message, metric):
    with pytest.raises(error, match=message):
        NeighborsRetriever(metric=metric).fit(X)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"metric": "l1"}, "metric='l1' is not known"),
        ({"algorithm": "kd_tree"}, "algorithm='kd_tree' is not known"),
        ({"metric": "hamming", "algorithm": "nndescent"}, "does not search binary codes"),
        ({"metric": "hamming", "algorithm": "faiss"}, "does not search binary codes"),
        ({"rerank_depth": 0}, "rerank_depth=0"),
        ({"expected_queries": -1}, "expected_queries=-1"),
        ({"recall_target": 1.5}, "recall_target=1.5"),
        ({"scoring": "mapp"}, "Did you mean 'map'"),
        ({"scoring": "precision"}, "number of results"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_parameters_of_a_wrong_kind_are_an_error_in_fit(parameters, message):
    with pytest.raises(ValueError, match=message):
        NeighborsRetriever(**parameters).fit(np.eye(3))


def test_a_radius_is_needed_and_not_negative():
    retriever = NeighborsRetriever().fit(np.eye(3))
    for radius in (None, -1, "far", np.nan):
        with pytest.raises(ValueError, match="radius"):
            retriever.radius_neighbors(np.eye(3), radius)


@pytest.mark.parametrize(
    "method",
    [
        "kneighbors",
        "radius_neighbors",
        "kneighbors_graph",
        "transform",
        "predict",
        "score",
        "remove",
    ],
)
def test_a_retriever_without_gallery_says_so(method):
    with pytest.raises(NotFittedError):
        getattr(NeighborsRetriever(), method)(np.eye(3))


@pytest.mark.parametrize("name", ["ids_", "y_", "algorithm_", "recall_", "n_samples_fit_"])
def test_attributes_of_a_retriever_without_gallery_say_so(name):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(NeighborsRetriever(), name)
    assert not hasattr(NeighborsRetriever(), name)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_in_place_of_rows_is_told_from_rows(kind, tmp_path):
    path = kind(tmp_path / "rows.npy")
    with pytest.raises(ValueError, match=r"rows.npy' is a path, .*storage='memory_map'"):
        NeighborsRetriever().fit(path)
    with pytest.raises(ValueError, match="is a path, not rows"):
        NeighborsRetriever(2).fit(np.eye(3)).kneighbors(path)


def test_a_number_of_jobs_is_checked():
    with pytest.raises(ValueError, match="n_jobs='all' must be an integer"):
        NeighborsRetriever(n_jobs="all").fit(np.eye(3))


# ------------------------------------------------------------- kinds of input


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "kind", ["list", "fortran", "read-only", "strided", "memmap", "big-endian", "pandas"]
)
def test_every_kind_of_array_gives_the_same_neighbors(kind, metric, rng, tmp_path):
    rows = make_rows(rng, 40, metric)
    expected = NeighborsRetriever(metric=metric).fit(rows).kneighbors()[1]
    if kind == "list":
        X = rows.tolist()
    elif kind == "fortran":
        X = np.asfortranarray(rows)
    elif kind == "read-only":
        X = rows.copy()
        X.flags.writeable = False
    elif kind == "strided":
        X = np.repeat(rows[::-1], 2, axis=0)[::-2]
    elif kind == "memmap":
        np.save(tmp_path / "rows.npy", rows)
        X = np.load(tmp_path / "rows.npy", mmap_mode="r")
    elif kind == "big-endian":
        X = rows.astype(rows.dtype.newbyteorder(">"))
    else:
        X = pandas.DataFrame(rows).add_prefix("f")
    before = np.array(X).tobytes()
    retriever = NeighborsRetriever(metric=metric).fit(X)
    np.testing.assert_array_equal(retriever.kneighbors()[1], expected)
    np.testing.assert_array_equal(retriever.kneighbors(X, 11)[1][:, 0], np.arange(40))
    assert np.array(X).tobytes() == before


def test_rows_changed_after_fit_change_nothing(rng):
    for metric in METRICS:
        rows = make_rows(rng, 30, metric)
        retriever = NeighborsRetriever(metric=metric).fit(rows)
        before = retriever.kneighbors()[1]
        rows[:] = 1
        np.testing.assert_array_equal(retriever.kneighbors()[1], before)


def test_pandas_ids_and_labels_are_taken_by_position(rng):
    rows, y = make_rows(rng, 10), np.arange(10) % 2
    shuffled = rng.permutation(10)
    ids = pandas.Series([f"{i}" for i in range(10)], index=shuffled)
    retriever = NeighborsRetriever(1).fit(rows, pandas.Series(y, index=shuffled), ids=ids)
    assert retriever.predict(rows).ravel().tolist() == ids.tolist()
    plain = NeighborsRetriever(1).fit(rows, y)
    assert retriever.score() == plain.score()


# ------------------------------------------------------ pipelines and processes


class Centered(TransformerMixin, BaseEstimator):
    """A step that asks for nothing."""

    def fit(self, X, y=None):
        self.mean_ = np.mean(X, axis=0)
        return self

    def transform(self, X):
        return np.asarray(X) - self.mean_


def test_a_pipeline_scores_predicts_and_is_tuned(rng):
    y = np.arange(60) % 3
    X = make_rows(rng, 60) + y[:, None] * np.eye(12)[:1]
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    pipe = make_pipeline(StandardScaler(), NeighborsRetriever())
    grid = {"neighborsretriever__metric": ["cosine", "euclidean"]}
    search = GridSearchCV(pipe, grid, cv=cv).fit(X, y, neighborsretriever__ids=np.arange(60))
    assert search.predict(X[:2]).shape == (2, 10)
    parallel = GridSearchCV(pipe, grid, cv=cv, n_jobs=2).fit(X, y)
    assert search.best_params_ == parallel.best_params_
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], parallel.cv_results_["mean_test_score"], atol=1e-9
    )


def test_progress_bars_of_a_search_reach_the_retriever(rng, capfd):
    X, y = make_rows(rng, 30), np.arange(30) % 3
    search = GridSearchCV(
        make_pipeline(StandardScaler(), NeighborsRetriever(3)),
        {"neighborsretriever__metric": ["cosine", "euclidean"]},
        cv=StratifiedKFold(2),
    )
    with warnings.catch_warnings():
        # scikit-learn's own scaler takes no callbacks.
        warnings.filterwarnings("ignore", message="The estimator StandardScaler does not")
        search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    assert capfd.readouterr().out.count("NeighborsRetriever - fit") >= 1
    assert not [name for name in vars(search.best_estimator_[-1]) if "callback" in name]


def test_callbacks_are_torn_down_when_a_fit_fails(rng):
    class Watch:
        seen = ()

        def setup(self, estimator, context):
            self.seen += ("setup",)

        def on_fit_task_begin(self, estimator, context):
            self.seen += ("begin",)

        def on_fit_task_end(self, estimator, context):
            self.seen += ("end",)

        def teardown(self, estimator, context):
            self.seen += ("teardown",)

    watch = Watch()
    retriever = NeighborsRetriever(2).set_callbacks(watch).fit(make_rows(rng, 9))
    assert watch.seen == ("setup", "begin", "end", "teardown")
    with pytest.raises(ValueError, match="NaN"):
        retriever.fit(np.full((9, 12), np.nan))
    assert watch.seen[4:] == ("setup", "begin", "teardown")
    assert retriever.predict(make_rows(rng, 3)).shape == (3, 2)


def test_ids_are_routed_to_fit_and_score(rng):
    X, y = make_rows(rng, 30), np.arange(30) % 2
    ids = np.array([f"{i}.jpg" for i in range(30)])
    with config_context(enable_metadata_routing=True):
        retriever = NeighborsRetriever().set_fit_request(ids=True)
        retriever.set_score_request(ids=True, sample_weight=True)
        pipe = make_pipeline(Centered(), retriever).fit(X, y, ids=ids)
        routed = pipe.score(X, y, ids=ids)
        assert pipe.predict(X[:1])[0, 0] == "0.jpg"
        cv = StratifiedKFold(3, shuffle=True, random_state=0)
        search = GridSearchCV(pipe, {"neighborsretriever__n_neighbors": [2]}, cv=cv)
        search.fit(X, y, ids=ids)
        weighted = pipe.score(X, y, sample_weight=np.ones(30), ids=ids)
    alone = make_pipeline(Centered(), NeighborsRetriever()).fit(X, y)
    assert routed == pytest.approx(alone[-1].score())
    assert weighted == pytest.approx(routed)
    without = GridSearchCV(alone, {"neighborsretriever__n_neighbors": [2]}, cv=cv).fit(X, y)
    assert search.best_score_ == pytest.approx(without.best_score_)


def test_clone_forgets_the_gallery(rng):
    retriever = NeighborsRetriever(3, metric="euclidean").fit(make_rows(rng, 9))
    copy = clone(retriever)
    assert copy.get_params() == retriever.get_params()
    assert not hasattr(copy, "ids_")


@pytest.mark.parametrize("metric", METRICS)
def test_a_saved_retriever_is_hardly_larger_than_its_rows(metric, rng, tmp_path):
    rows = make_rows(rng, 5000, metric, n_features=64)
    rows = rows if metric == "hamming" else rows.astype(np.float32)
    size = 5000 * 8 if metric == "hamming" else rows.nbytes
    retriever = NeighborsRetriever(metric=metric).fit(rows)
    retriever.kneighbors(rows[:3])
    joblib.dump(retriever, tmp_path / "saved.joblib")
    assert (tmp_path / "saved.joblib").stat().st_size < 1.05 * size + 2000
    if metric != "hamming":
        retriever.fit(rows, np.array(["some class", "another"] * 2500))
        joblib.dump(retriever, tmp_path / "saved.joblib")
        assert (tmp_path / "saved.joblib").stat().st_size < 1.05 * size


def test_another_process_loads_and_answers_without_heavy_libraries(rng, tmp_path):
    rows = make_rows(rng, 50)
    retriever = NeighborsRetriever(3).fit(rows, np.arange(50) % 2, ids=[f"{i}" for i in range(50)])
    joblib.dump(retriever, tmp_path / "saved.joblib")
    np.save(tmp_path / "queries.npy", rows[:4])
    program = (
        "import sys, joblib, numpy as np\n"
        f"retriever = joblib.load({str(tmp_path / 'saved.joblib')!r})\n"
        f"queries = np.load({str(tmp_path / 'queries.npy')!r})\n"
        "print(retriever.predict(queries).tolist(), retriever.score() > 0)\n"
        "heavy = ('torch', 'torchvision', 'pynndescent', 'numba', 'skorch', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{retriever.predict(rows[:4]).tolist()} True", "[]"]


def test_a_memory_mapped_gallery_answers_alike(rng, tmp_path):
    rows = make_rows(rng, 50)
    for metric in ("cosine", "euclidean"):
        retriever = NeighborsRetriever(metric=metric).fit(rows)
        joblib.dump(retriever, tmp_path / "saved.joblib")
        mapped = joblib.load(tmp_path / "saved.joblib", mmap_mode="r")
        np.testing.assert_array_equal(mapped.kneighbors()[1], retriever.kneighbors()[1])
        mapped.partial_fit(rows[:1] + 1)
        assert mapped.n_samples_fit_ == 51


def test_a_pickle_of_a_newer_format_is_refused(rng):
    state = NeighborsRetriever().fit(make_rows(rng, 12)).__getstate__()
    assert state["_state_format"] == neighbors.STATE_FORMAT
    state["_state_format"] += 1
    with pytest.raises(ValueError, match="saved in format 3.* reads up to 2. Install a newer"):
        NeighborsRetriever().__setstate__(state)


def test_a_pickle_remembers_which_ids_were_used(rng):
    retriever = pickle.loads(pickle.dumps(NeighborsRetriever().fit(np.eye(4)).remove([3])))
    assert retriever.partial_fit(np.eye(4)[:1]).ids_.tolist() == [0, 1, 2, 4]


def test_threads_that_search_while_another_changes_see_one_gallery(rng):
    rows = make_rows(rng, 300)
    retriever = NeighborsRetriever(5).fit(rows, ids=[f"row {i}" for i in range(300)])
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            found = retriever.predict(rows[:20])[:, 0].tolist()
            if found != [f"row {i}" for i in range(20)]:
                wrong.append(found)

    def change(name):
        for i in range(40):
            retriever.partial_fit(rows[:1] + 5, ids=[f"{name} {i}"])
            retriever.remove([f"row {299 - i}" if name == "a" else f"row {258 - i}"])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        searching = [threading.Thread(target=search) for _ in range(2)]
        changing = [threading.Thread(target=change, args=(name,)) for name in "ab"]
        for thread in searching + changing:
            thread.start()
        for thread in changing:
            thread.join()
        stop.set()
        for thread in searching:
            thread.join()
    assert wrong == []
    assert retriever.n_samples_fit_ == 300
    assert len(set(retriever.ids_)) == 300


def test_small_galleries_are_searched_exactly():
    retriever = NeighborsRetriever().fit(np.eye(12))
    assert retriever.algorithm_ == "exact"
    assert retriever.recall_ == 1.0
