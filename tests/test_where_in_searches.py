"""`where` in pipelines, scorers and searches over parameters: passed on or refused, never lost."""

import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.metrics import mean_average_precision
from sklearn_cbir.model_selection import retrieval_scorer

HALVES = StratifiedKFold(2, shuffle=True, random_state=0)  # as many queries as gallery rows
THIRDS = StratifiedKFold(3, shuffle=True, random_state=0)  # galleries of twice as many
N = 120
IDS = np.array([f"{row}.jpg" for row in range(N)])


@pytest.fixture(scope="module")
def data():
    """Six classes that overlap, of 20 rows each."""
    return make_blobs([20] * 6, n_features=6, cluster_std=4.0, random_state=0)


@pytest.fixture(scope="module")
def mask():
    return np.random.default_rng(0).random(N) < 0.7


@pytest.fixture
def search():
    return make_pipeline(StandardScaler(), PCA(3), NeighborsRetriever(5, metric="euclidean"))


def only(mask, search, data):
    """The same steps, but a gallery of those rows only that are left in."""
    X, y = data
    rows = search[:-1].transform(X)
    return NeighborsRetriever(5, metric="euclidean").fit(rows[mask], y[mask], ids=IDS[mask])


class Signs(TransformerMixin, BaseEstimator):
    """Codes of one bit per column."""

    def fit(self, X, y=None):
        self.n_features_in_ = np.shape(X)[1]
        return self

    def transform(self, X):
        return (np.asarray(X) >= 0).astype(np.uint8)


# Pipelines


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("as_ids", [False, True])
def test_a_pipeline_passes_where_to_its_last_step(data, search, mask, routing, as_ids):
    X, y = data
    where = IDS[mask] if as_ids else mask
    with config_context(enable_metadata_routing=routing):
        if routing:
            search[-1].set_fit_request(ids=True).set_predict_request(where=True)
        search.fit(X, y, **{"ids" if routing else "neighborsretriever__ids": IDS})
        found = search.predict(X[:30] + 0.1, where=where)
        expected = only(mask, search, data).predict(search[:-1].transform(X[:30] + 0.1))
    np.testing.assert_array_equal(found, expected)


def test_with_routing_where_must_be_asked_for(data, search, mask):
    X, y = data
    with config_context(enable_metadata_routing=True):
        search.fit(X, y)
        with pytest.raises(UnsetMetadataPassedError, match="where"):
            search.predict(X[:30], where=mask)
        with pytest.raises(UnsetMetadataPassedError, match="where"):
            search.score(X[:30], y[:30], where=mask)


def test_a_pipeline_scores_among_the_rows_left_in(data, search, mask):
    X, y = data
    with config_context(enable_metadata_routing=True):
        search[-1].set_score_request(where=True)
        search.fit(X, y)
        score = search.score(X[:30] + 0.1, y[:30], where=mask)
        alone = only(mask, search, data).score(search[:-1].transform(X[:30] + 0.1), y[:30])
        assert score == pytest.approx(alone)
        assert score != pytest.approx(search.score(X[:30] + 0.1, y[:30]))


@pytest.mark.parametrize("routing", [False, True])
def test_a_refitted_search_takes_where_through_its_best_pipeline(data, search, mask, routing):
    X, y = data
    with config_context(enable_metadata_routing=routing):
        if routing:
            search[-1].set_predict_request(where=True)
        tuned = GridSearchCV(search, {"pca__n_components": [2, 3]}, cv=THIRDS).fit(X, y)
        best = tuned.best_estimator_
        found = best.predict(X[:9], where=mask)
    assert mask[found].all()


# Searches over parameters: scikit-learn cuts what is as long as X to the queries of a fold


def scored_by(kind, search):
    """The scorer of a kind, which asks for `where`: that of the estimator, or one of ours."""
    if kind == "score":
        search[-1].set_score_request(where=True, ids=False)
        return None
    return retrieval_scorer("map").set_score_request(where=True, ids=False)


@pytest.mark.parametrize("kind", ["score", "retrieval_scorer"])
@pytest.mark.parametrize("cv", [HALVES, ShuffleSplit(2, test_size=0.5, random_state=0), THIRDS])
def test_a_mask_of_the_rows_of_x_is_refused_however_long_the_folds_are(
    data, search, mask, kind, cv
):
    X, y = data
    with config_context(enable_metadata_routing=True):
        scorer = scored_by(kind, search)
        options = {"scoring": scorer, "cv": cv, "params": {"where": mask}}
        for where in (mask, mask.tolist()):
            options["params"] = {"where": where}
            with pytest.raises(ValueError, match="where is a mask of"):
                cross_val_score(search, X, y, error_score="raise", **options)
        with pytest.warns(UserWarning, match="where is a mask of"):
            assert np.isnan(cross_val_score(search, X, y, **options)).all()
        grid = GridSearchCV(
            search, {"pca__n_components": [2]}, cv=cv, scoring=scorer, error_score="raise"
        )
        with pytest.raises(ValueError, match="where is a mask of"):
            grid.fit(X, y, where=mask)


@pytest.mark.parametrize("kind", ["score", "retrieval_scorer"])
def test_a_mask_of_the_training_rows_cannot_pass_for_one_of_the_queries(data, search, mask, kind):
    """With training scores, a mask cut to the training rows has the length of the gallery."""
    X, y = data
    with config_context(enable_metadata_routing=True):
        scorer = scored_by(kind, search)
        with pytest.raises(ValueError, match="where is a mask of"):
            cross_validate(
                search,
                X,
                y,
                scoring=scorer,
                cv=THIRDS,
                params={"where": mask},
                return_train_score=True,
                error_score="raise",
            )


@pytest.mark.parametrize("kind", ["score", "retrieval_scorer"])
def test_ids_of_rows_that_are_not_in_the_gallery_of_a_fold_are_refused(data, search, mask, kind):
    X, y = data
    with config_context(enable_metadata_routing=True):
        search[-1].set_fit_request(ids=True)
        scorer = scored_by(kind, search)
        for where in (IDS, IDS[mask]):
            with pytest.raises(ValueError, match="ids of where are not in the gallery"):
                cross_val_score(
                    search,
                    X,
                    y,
                    scoring=scorer,
                    cv=THIRDS,
                    params={"ids": IDS, "where": where},
                    error_score="raise",
                )


@pytest.mark.parametrize("kind", ["score", "retrieval_scorer"])
def test_a_mask_of_the_length_of_each_gallery_reaches_it_as_it_is(data, search, kind):
    X, y = data
    where = np.arange(80) % 2 == 0
    with config_context(enable_metadata_routing=True):
        scorer = scored_by(kind, search)
        scores = cross_val_score(
            search, X, y, scoring=scorer, cv=THIRDS, params={"where": where}, error_score="raise"
        )
    expected = []
    for train, test in THIRDS.split(X, y):
        search.fit(X[train], y[train])
        rows = search[:-1].transform(X[test])
        expected.append(search[-1].evaluate(rows, y[test], scoring="map", where=where).score)
    np.testing.assert_allclose(scores, expected)


def test_a_gallery_that_is_not_fitted_again_takes_ids_in_every_fold(data, search, mask):
    X, y = data
    with config_context(enable_metadata_routing=True):
        search[-1].set_fit_request(ids=True)
        scorer = scored_by("retrieval_scorer", search)
        search.fit(X, y, ids=IDS)
        scores = cross_val_score(
            FrozenEstimator(search),
            X[:90] + 0.1,
            y[:90],
            scoring=scorer,
            cv=THIRDS,
            params={"where": IDS[mask]},
            error_score="raise",
        )
    rows = search[:-1].transform(X[:90] + 0.1)
    alone = only(mask, search, data)
    expected = [alone.score(rows[test], y[test]) for _, test in THIRDS.split(X[:90], y[:90])]
    np.testing.assert_allclose(scores, expected)


def test_score_says_where_to_go_with_a_mask_that_could_be_of_queries(data, mask):
    X, y = data
    retriever = NeighborsRetriever(5).fit(X, y)
    message = "120 bools, and there are 120 queries and 120 rows.* or call evaluate"
    with pytest.raises(ValueError, match=message):
        retriever.score(X + 0.1, y, where=mask)
    assert retriever.evaluate(X + 0.1, y, where=mask).score > 0
    assert retriever.score(X[1:] + 0.1, y[1:], where=mask) > 0
    assert retriever.score(where=mask) > 0
    assert retriever.score(X + 0.1, y, where=np.flatnonzero(mask)) > 0


# Scorers


def test_a_scorer_passes_where_to_the_fitted_gallery(data, search, mask):
    X, y = data
    search.fit(X, y, neighborsretriever__ids=IDS)
    for where in (mask, IDS[mask], set(IDS[mask])):
        score = retrieval_scorer("precision@3")(search, X[:30], y[:30], ids=IDS[:30], where=where)
        rows = search[:-1].transform(X[:30])
        result = only(mask, search, data).evaluate(
            rows, y[:30], scoring="precision@3", ids=IDS[:30]
        )
        assert score == pytest.approx(result.score)


@pytest.mark.parametrize("metric", ["map", "precision@3", mean_average_precision])
@pytest.mark.parametrize("kind", ["retriever", "transformer", "codes", "transformer of codes"])
def test_queries_are_searched_among_those_of_them_that_are_left_in(data, mask, kind, metric):
    X, y = data
    is_code = kind.endswith("codes")
    steps = [StandardScaler(), Signs()] if is_code else [StandardScaler(), PCA(3)]
    if not kind.startswith("transformer"):
        steps.append(NeighborsRetriever(metric="hamming" if is_code else "cosine"))
    search = make_pipeline(*steps).fit(X, y)
    score = retrieval_scorer(metric, gallery="queries")(search, X, y, where=mask)
    rows = make_pipeline(*steps[:2]).transform(X).astype(float)
    if is_code:
        distances = (rows[:, None] != rows).sum(axis=2)
    else:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        distances = 1 - rows @ rows.T
    own = np.where(mask, np.cumsum(mask) - 1, -1)  # every query is left out where it is left in
    by_hand = NeighborsRetriever(metric="hamming" if is_code else "cosine")
    if metric == "precision@3":
        by_hand.fit(rows[mask].astype(np.uint8 if is_code else float), y[mask], ids=IDS[mask])
        asked = rows.astype(np.uint8 if is_code else float)
        expected = by_hand.evaluate(asked, y, scoring=metric, ids=IDS).score
    else:
        expected = mean_average_precision(y, y[mask], distances[:, mask], exclude=own)
    assert score == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("last", [NeighborsRetriever(), None], ids=["retriever", "transformer"])
def test_searches_cut_a_mask_of_queries_as_they_cut_the_queries(data, mask, last):
    X, y = data
    search = make_pipeline(*[StandardScaler(), PCA(3), last][: 2 + (last is not None)])
    scorer = retrieval_scorer("map", gallery="queries").set_score_request(where=True)
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(
            search, X, y, scoring=scorer, cv=HALVES, params={"where": mask}, error_score="raise"
        )
    expected = []
    for train, test in HALVES.split(X, y):
        rows = search.fit(X[train], y[train])
        rows = make_pipeline(*search[:2]).transform(X[test])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        left_in = mask[test]
        own = np.where(left_in, np.cumsum(left_in) - 1, -1)
        distances = 1 - rows @ rows[left_in].T
        expected.append(mean_average_precision(y[test], y[test][left_in], distances, exclude=own))
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("last", [NeighborsRetriever(), None], ids=["retriever", "transformer"])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        (np.arange(5), "where is int64 of shape .5,.* of one bool for each of the 120 queries"),
        (IDS, "where is <U7 of shape .120,.*ids do not work"),
        (np.ones(119, bool), "where is bool of shape .119,"),
        (np.ones((120, 1), bool), "where is bool of shape .120, 1."),
        (np.zeros(120, bool), "where matches no row.*all 120 queries"),
    ],
    ids=["numbers", "ids", "short", "table", "nothing"],
)
def test_among_queries_anything_but_a_mask_of_them_is_refused(data, last, where, message):
    X, y = data
    search = make_pipeline(*[StandardScaler(), PCA(3), last][: 2 + (last is not None)]).fit(X, y)
    with pytest.raises(ValueError, match=message):
        retrieval_scorer(gallery="queries")(search, X, y, where=where)


def test_scorers_ask_for_where_only_if_they_are_told_to(data, search, mask):
    X, y = data
    with config_context(enable_metadata_routing=True):
        for gallery in ("fitted", "queries"):
            scorer = retrieval_scorer(gallery=gallery)
            with pytest.raises(UnsetMetadataPassedError, match="where"):
                cross_val_score(search, X, y, cv=HALVES, scoring=scorer, params={"where": mask})
    named = retrieval_scorer(gallery="queries").set_score_request(where="left_in")
    for scorer in (named, pickle.loads(pickle.dumps(named))):
        requests = scorer.get_metadata_routing().score.requests
        assert requests == {"sample_weight": None, "ids": None, "where": "left_in"}
        with config_context(enable_metadata_routing=True):
            scores = cross_val_score(
                search, X, y, cv=HALVES, scoring=scorer, params={"left_in": mask}
            )
        assert np.isfinite(scores).all()
