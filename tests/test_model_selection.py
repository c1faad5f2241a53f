"""Splits by class, and scorers inside scikit-learn's searches."""

import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.codes import hamming_distances, pack_codes
from sklearn_cbir.metrics import mean_average_precision, recall_at_k
from sklearn_cbir.model_selection import ClassDisjointKFold, retrieval_scorer
from sklearn_cbir.model_selection._scorer import _CosineDistances

FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def data():
    """Eight overlapping classes."""
    return make_blobs(160, n_features=6, centers=8, cluster_std=4.0, random_state=0)


@pytest.fixture
def search():
    return make_pipeline(StandardScaler(), PCA(3), NeighborsRetriever(metric="euclidean"))


class Signs(TransformerMixin, BaseEstimator):
    """Codes of one bit per column."""

    def fit(self, X, y=None):
        self.n_features_in_ = np.shape(X)[1]
        return self

    def transform(self, X):
        return (np.asarray(X) >= 0).astype(np.uint8)


# Splits


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n_splits", [2, 3, 7])
@pytest.mark.parametrize("labels", ["numbers", "text"])
def test_no_class_is_in_training_and_test(rng, n_splits, shuffle, labels):
    y = rng.integers(0, 7, 60)
    y = np.array([f"class {label}" for label in y]) if labels == "text" else y
    X = np.zeros((60, 1))
    tested = []
    for train, test in ClassDisjointKFold(n_splits, shuffle=shuffle).split(X, y):
        assert not set(y[train]) & set(y[test])
        assert len(set(y[test])) in (7 // n_splits, 7 // n_splits + 1)
        assert sorted([*train, *test]) == list(range(60))
        tested.extend(test)
    assert sorted(tested) == list(range(60))


def test_unshuffled_folds_take_classes_in_sorted_order():
    y = np.array(["d", "a", "b", "c", "a", "d"])
    folds = [test.tolist() for _, test in ClassDisjointKFold(2).split(y, y)]
    assert folds == [[1, 2, 4], [0, 3, 5]]


def test_a_seed_repeats_the_split(rng):
    y = rng.integers(0, 20, 100)

    def folds(seed):
        splitter = ClassDisjointKFold(4, shuffle=True, random_state=seed)
        return [test.tolist() for _, test in splitter.split(y, y)]

    assert folds(0) == folds(0)
    assert folds(0) != folds(1)


def test_paths_can_be_split():
    paths = ["a.jpg", "b.jpg", "c.jpg"]
    assert len(list(ClassDisjointKFold(3).split(paths, [0, 1, 2]))) == 3


@pytest.mark.parametrize(
    ("splitter", "y", "message"),
    [
        (ClassDisjointKFold(5), [0, 1, 2], "n_splits=5 is more than the 3 classes"),
        (ClassDisjointKFold(2), [4, 4, 4], "single class 4"),
        (ClassDisjointKFold(2), None, "y is None"),
        (ClassDisjointKFold(2), np.eye(3), "several labels|label columns"),
        (ClassDisjointKFold(1), [0, 1, 2], "n_splits=1 must be an integer of at least 2"),
        (ClassDisjointKFold(2.0), [0, 1, 2], "n_splits=2.0"),
        (ClassDisjointKFold(2, random_state=0), [0, 1, 2], "no effect without shuffling"),
        (ClassDisjointKFold(2), [0.5, 1.0, np.nan], "NaN"),
    ],
    ids=["few classes", "one class", "no y", "columns", "one", "float", "seed", "NaN"],
)
def test_what_cannot_be_split_is_named(splitter, y, message):
    with pytest.raises(ValueError, match=message):
        list(splitter.split(np.zeros((3, 1)), y))


def test_splitter_shows_its_parameters():
    assert repr(ClassDisjointKFold(3)) == (
        "ClassDisjointKFold(n_splits=3, random_state=None, shuffle=False)"
    )
    assert ClassDisjointKFold(3).get_n_splits() == 3


# Scores


def test_the_fitted_gallery_is_searched(data, search):
    X, y = data
    search.fit(X[:100], y[:100])
    score = retrieval_scorer("map")(search, X[100:], y[100:])
    assert score == pytest.approx(search.score(X[100:], y[100:]))
    rows, gallery = search[:-1].transform(X[100:]), search[:-1].transform(X[:100])
    distances = np.linalg.norm(rows[:, None] - gallery, axis=2)
    expected = recall_at_k(y[100:], y[:100], distances, k=1)
    assert retrieval_scorer("recall@1")(search, X[100:], y[100:]) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_queries_are_searched_among_themselves(data, search, metric):
    X, y = data
    search.set_params(neighborsretriever__metric=metric).fit(X[:50], y[:50])
    rows = search[:-1].transform(X[50:])
    if metric == "cosine":
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        distances = 1 - unit @ unit.T
    else:
        distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    expected = mean_average_precision(y[50:], y[50:], distances, exclude=np.arange(110))
    score = retrieval_scorer("map", gallery="queries")(search, X[50:], y[50:])
    assert score == pytest.approx(expected, abs=1e-6)
    assert len(search[-1].ids_) == 50  # the fitted gallery is untouched


def test_equal_rows_of_the_test_fold_find_each_other(search):
    X = np.repeat(np.eye(4), 2, axis=0)
    y = np.repeat(np.arange(4), 2)
    search = make_pipeline(NeighborsRetriever()).fit(X, y)
    assert retrieval_scorer("recall@1", gallery="queries")(search, X, y) == 1


def test_rows_that_differ_in_the_sign_of_a_zero_are_equal():
    rows = np.array([[0.0, 1.0], [-0.0, 2.0], [1.0, -0.0], [1.0, 0.0]])
    assert len(_CosineDistances(rows).different) == 2


def test_codes_are_searched_among_themselves(data):
    X, y = data
    search = make_pipeline(Signs(), NeighborsRetriever(metric="hamming")).fit(X, y)
    packed = pack_codes(search[0].transform(X))
    distances = hamming_distances(packed, packed)
    expected = mean_average_precision(y, y, distances, exclude=np.arange(len(y)))
    scorer = retrieval_scorer(gallery="queries")
    assert scorer(search, X, y) == pytest.approx(expected)
    # A transformer alone is scored by what it gives: codes by bits, floats by cosine.
    assert scorer(search[0], X, y) == pytest.approx(expected)


def test_a_transformer_alone_is_scored_by_cosine(data):
    X, y = data
    pca = PCA(3).fit(X)
    with_retriever = make_pipeline(pca, NeighborsRetriever()).fit(X, y)
    scorer = retrieval_scorer("map@20", gallery="queries")
    assert scorer(pca, X, y) == pytest.approx(scorer(with_retriever, X, y), abs=1e-6)
    assert scorer(make_pipeline(StandardScaler(), PCA(3)).fit(X), X, y) > 0


def test_a_retriever_alone_is_scored(data):
    X, y = data
    retriever = NeighborsRetriever().fit(X[:80], y[:80])
    assert retrieval_scorer()(retriever, X[80:], y[80:]) == retriever.score(X[80:], y[80:])
    assert 0 < retrieval_scorer(gallery="queries")(retriever, X[80:], y[80:]) < 1


def outside(kind, folder):
    """What makes a retriever keep its gallery elsewhere."""
    if kind == "milvus":
        pytest.importorskip("milvus_lite")
        return {"algorithm": "milvus", "uri": str(folder / "gallery.db")}
    return {"storage": kind}


@pytest.mark.parametrize("kind", ["memory_map", "float16", "milvus"])
def test_queries_are_searched_in_memory_wherever_the_gallery_is(kind, data, tmp_path):
    X, y = data
    np.save(tmp_path / "rows.npy", X)
    retriever = NeighborsRetriever(**outside(kind, tmp_path))
    retriever.fit(tmp_path / "rows.npy" if kind == "memory_map" else X, y)
    expected = NeighborsRetriever().fit(X[80:], y[80:]).score()
    score = retrieval_scorer(gallery="queries")(retriever, X[80:], y[80:])
    assert score == pytest.approx(expected, abs=1e-3 if kind == "float16" else 1e-9)


@pytest.mark.parametrize("gallery", ["fitted", "queries"])
def test_frozen_estimators_score_like_what_they_freeze(gallery, data, search):
    X, y = data
    retriever, search = NeighborsRetriever().fit(X[:80], y[:80]), search.fit(X[:80], y[:80])
    scorer = retrieval_scorer(gallery=gallery)
    alone, piped = scorer(retriever, X[80:], y[80:]), scorer(search, X[80:], y[80:])
    assert scorer(FrozenEstimator(retriever), X[80:], y[80:]) == alone
    assert scorer(make_pipeline(FrozenEstimator(retriever)), X[80:], y[80:]) == alone
    assert scorer(FrozenEstimator(search), X[80:], y[80:]) == piped
    assert len(retriever.ids_) == 80


def test_reranking_counts_in_both_galleries(data):
    X, y = data

    def nearest_last(queries, distances, positions, engine):
        return -distances

    plain = NeighborsRetriever().fit(X, y)
    turned = NeighborsRetriever(rerank=nearest_last, rerank_depth=50).fit(X, y)
    scorer = retrieval_scorer("precision@10", gallery="queries")
    assert scorer(turned, X, y) < scorer(plain, X, y)


def test_many_labels_are_scored(rng):
    X, y = rng.normal(size=(60, 5)), rng.integers(0, 2, (60, 4))
    y[:, 0] = 1
    search = make_pipeline(StandardScaler(), NeighborsRetriever()).fit(X[:30], y[:30])
    for gallery in ("fitted", "queries"):
        scorer = retrieval_scorer("ndcg@10", gallery=gallery)
        assert 0 < scorer(search, X[30:], y[30:]) < 1


def test_weights_reach_the_mean(data, search):
    X, y = data
    search.fit(X, y)
    weights = np.arange(len(y)) % 3
    for gallery in ("fitted", "queries"):
        scorer = retrieval_scorer(gallery=gallery)
        weighted = scorer(search, X + 0.1, y, sample_weight=weights)
        assert weighted != pytest.approx(scorer(search, X + 0.1, y))
    pca = PCA(3).fit(X)
    scorer = retrieval_scorer(gallery="queries")
    assert scorer(pca, X, y, sample_weight=weights) != pytest.approx(scorer(pca, X, y))


# Inside searches


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("gallery", ["fitted", "queries"])
def test_searches_with_metadata_routing_on_and_off(data, search, gallery, routing):
    X, y = data
    cv = ClassDisjointKFold(2) if gallery == "queries" else FOLDS
    with config_context(enable_metadata_routing=routing):
        tuned = GridSearchCV(
            search,
            {"pca__n_components": [1, 5]},
            cv=cv,
            scoring=retrieval_scorer("map", gallery=gallery),
        ).fit(X, y)
    assert tuned.best_params_ == {"pca__n_components": 5}
    assert 0 < tuned.best_score_ < 1


@pytest.mark.parametrize("routing", [False, True])
def test_several_metrics_at_once(data, search, routing):
    X, y = data
    scoring = {
        "map": retrieval_scorer("map", gallery="queries"),
        "first": retrieval_scorer("recall@1", gallery="queries"),
        "own": retrieval_scorer("map"),
    }
    with config_context(enable_metadata_routing=routing):
        tuned = GridSearchCV(
            search, {"pca__n_components": [1, 5]}, cv=FOLDS, scoring=scoring, refit="map"
        ).fit(X, y)
    assert np.isfinite([tuned.cv_results_[f"mean_test_{name}"] for name in scoring]).all()


def test_two_jobs_score_what_one_does(data, search):
    X, y = data
    scorer = retrieval_scorer("map@10", gallery="queries")
    scores = [
        cross_val_score(search, X, y, cv=ClassDisjointKFold(2), scoring=scorer, n_jobs=n_jobs)
        for n_jobs in (1, 2)
    ]
    assert np.array_equal(*scores)


def test_a_search_inside_a_cross_validation_is_scored(data, search):
    X, y = data
    scorer = retrieval_scorer()
    inner = GridSearchCV(search, {"pca__n_components": [1, 5]}, cv=FOLDS, scoring=scorer)
    scores = cross_validate(inner, X, y, cv=FOLDS, scoring=scorer, return_train_score=False)
    assert (scores["test_score"] > 0.1).all()


def test_routed_ids_leave_each_query_out(data, search):
    X, y = data
    ids = np.arange(len(y)) + 100
    with config_context(enable_metadata_routing=True):
        search[-1].set_fit_request(ids=True).set_score_request(ids=True)
        scorer = retrieval_scorer().set_score_request(ids=True)
        search.fit(X, y, ids=ids)
        assert scorer(search, X, y, ids=ids) == pytest.approx(search.score(X, y, ids=ids))
        scores = cross_val_score(search, X, y, cv=FOLDS, scoring=scorer, params={"ids": ids})
    assert np.isfinite(scores).all()


def test_routed_weights_must_be_asked_for(data):
    X, y = data
    search = make_pipeline(PCA(3), NeighborsRetriever())
    weights = np.arange(len(y)) % 3
    with config_context(enable_metadata_routing=True):
        params = {"sample_weight": weights}
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            cross_val_score(search, X, y, cv=FOLDS, scoring=retrieval_scorer(), params=params)
        asking = retrieval_scorer().set_score_request(sample_weight=True)
        weighted = cross_val_score(search, X, y, cv=FOLDS, scoring=asking, params=params)
        plain = cross_val_score(search, X, y, cv=FOLDS, scoring=retrieval_scorer())
    assert not np.allclose(weighted, plain)


def test_scorers_are_copied_with_their_requests(data, search):
    X, y = data
    search.fit(X, y)
    scorer = retrieval_scorer("recall@5", gallery="queries").set_score_request(ids="names")
    for copy in (pickle.loads(pickle.dumps(scorer)), clone(scorer, safe=False)):
        assert repr(copy) == repr(scorer) == "retrieval_scorer('recall@5', gallery='queries')"
        assert copy(search, X, y) == scorer(search, X, y)
        requests = copy.get_metadata_routing().score.requests
        assert requests == {"sample_weight": None, "ids": "names", "where": None}


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "mpa"}, "Did you mean 'map'"),
        ({"metric": "recall"}, "'recall@10'"),
        ({"gallery": "query"}, "gallery='query' is not known. Use one of 'fitted', 'queries'"),
    ],
    ids=["metric", "no k", "gallery"],
)
def test_names_are_checked_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        retrieval_scorer(**arguments)


def test_a_fitted_gallery_needs_a_retriever(data):
    X, y = data
    with pytest.raises(ValueError, match="NeighborsRetriever as the last step, not PCA"):
        retrieval_scorer()(PCA(2).fit(X), X, y)


@pytest.mark.parametrize("last", [True, False])
def test_labels_are_needed(data, last):
    X, y = data
    steps = [("pca", PCA(2)), ("retriever", NeighborsRetriever())]
    search = Pipeline(steps if last else steps[:1]).fit(X, y)
    with pytest.raises(ValueError, match="labels"):
        retrieval_scorer(gallery="queries")(search, X, None)


def test_a_fold_of_single_images_says_what_to_do(data, search):
    X, _ = data
    y = np.arange(len(X))
    search.fit(X, y)
    with pytest.raises(ValueError, match="None of the 160 queries"):
        retrieval_scorer(gallery="queries")(search, X, y)
