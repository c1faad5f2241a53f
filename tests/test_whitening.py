"""Learned whitening against loops over all pairs, its own definition, and what it is for."""

import itertools
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.whitening import LearnedWhitening


def _checks():
    with warnings.catch_warnings():
        # The array-API check skips itself where array-api-compat is missing.
        warnings.simplefilter("ignore")
        return list(estimator_checks_generator(LearnedWhitening(), legacy=True))


CHECKS = [pytest.param(*case, id=getattr(case[1], "func", case[1]).__name__) for case in _checks()]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_at_least_40_checks_run():
    assert len(CHECKS) >= 40


def make_data(rng, n_classes=4, n_per_class=8, n_features=5):
    y = np.repeat(np.arange(n_classes), n_per_class)
    noise = rng.normal(size=(n_features, n_features))
    X = (
        rng.normal(size=(len(y), n_features)) @ noise
        + 3 * rng.normal(size=(n_classes, n_features))[y]
    )
    return X + 10, y


def pair_covariances(X, similar):
    """Mean outer products of differences, pair by pair."""
    sums, counts = {True: 0, False: 0}, {True: 0, False: 0}
    for i, j in itertools.combinations(range(len(X)), 2):
        kind = bool(similar(i, j))
        sums[kind] = sums[kind] + np.outer(X[i] - X[j], X[i] - X[j])
        counts[kind] += 1
    return sums[True] / counts[True], sums[False] / counts[False]


def reference(X, similar, shrinkage):
    """Equation 10 of Radenovic et al., step by step: whiten, then rotate."""
    same, others = pair_covariances(X, similar)
    same = (1 - shrinkage) * same + shrinkage * np.trace(same) / len(same) * np.eye(len(same))
    values, vectors = np.linalg.eigh(same)
    whiten = vectors @ np.diag(values**-0.5) @ vectors.T
    separation, rotation = np.linalg.eigh(whiten @ others @ whiten)
    rows = (X - X.mean(axis=0)) @ whiten @ rotation[:, ::-1]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), separation[::-1]


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_whitening_agrees_with_loops_over_pairs(shrinkage, rng):
    X, y = make_data(rng)
    whitening = LearnedWhitening(shrinkage=shrinkage)
    found = whitening.fit_transform(X, np.array(["ant", "bee", "cat", "dog"])[y])
    expected, separation = reference(X, lambda i, j: y[i] == y[j], shrinkage)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-9)
    # Without shrinkage, what 4 classes of one size leave of 5 directions is equally separated.
    unique = slice(3 if shrinkage == 0 else 5)
    np.testing.assert_allclose(np.abs(found[:, unique]), np.abs(expected[:, unique]), atol=1e-9)
    np.testing.assert_allclose(whitening.separation_, separation)


def test_many_labels_agree_with_loops_over_pairs(rng):
    X, _ = make_data(rng)
    y = rng.integers(0, 2, (len(X), 3))
    X, y = X[y.any(axis=1)], y[y.any(axis=1)]
    whitening = LearnedWhitening(shrinkage=0.2)
    found = whitening.fit_transform(X, y)
    expected, separation = reference(X, lambda i, j: (y[i] & y[j]).any(), 0.2)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(whitening.separation_, separation)


def test_rows_without_labels_are_as_if_they_were_not_there(rng):
    X, _ = make_data(rng)
    y = rng.integers(0, 2, (len(X), 3))
    y[::3] = 0
    labeled = y.any(axis=1)
    alone = LearnedWhitening().fit(X[labeled], y[labeled])
    np.testing.assert_array_equal(LearnedWhitening().fit(X, y).transform(X), alone.transform(X))


def test_columns_of_one_label_each_agree_with_single_labels(rng):
    X, y = make_data(rng)
    single, columns = LearnedWhitening().fit(X, y), LearnedWhitening().fit(X, np.eye(4)[y])
    np.testing.assert_allclose(single.components_, columns.components_, rtol=1e-8)


def test_similar_differences_become_white_and_others_lie_along_the_axes(rng):
    X, y = make_data(rng)
    whitening = LearnedWhitening(shrinkage=0.0).fit(X, y)
    rows = (X - whitening.mean_) @ whitening.components_.T
    same, others = pair_covariances(rows, lambda i, j: y[i] == y[j])
    np.testing.assert_allclose(same, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(others, np.diag(whitening.separation_), atol=1e-9)
    assert (np.diff(whitening.separation_) <= 0).all()


def test_any_scale_and_shift_of_the_features_is_undone(rng):
    X, y = make_data(rng)
    mix = rng.normal(size=(5, 5))
    plain = LearnedWhitening(shrinkage=0.0).fit_transform(X, y)
    mixed = LearnedWhitening(shrinkage=0.0).fit_transform(X @ mix + 7, y)
    np.testing.assert_allclose(plain @ plain.T, mixed @ mixed.T, atol=1e-8)
    scaled = LearnedWhitening().fit_transform(X * 1e-8, y)
    np.testing.assert_allclose(scaled, LearnedWhitening().fit_transform(X, y), atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_components", [None, 1, 3])
def test_rows_have_unit_length_and_keep_their_type(n_components, dtype, rng):
    X, y = make_data(rng)
    whitening = LearnedWhitening(n_components).fit(X.astype(dtype), y)
    rows = whitening.transform(X.astype(dtype))
    assert rows.dtype == dtype
    assert rows.shape == (len(X), n_components or 5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert len(whitening.get_feature_names_out()) == rows.shape[1]


def test_fewer_components_are_the_first_ones(rng):
    X, y = make_data(rng)
    whole, part = LearnedWhitening().fit(X, y), LearnedWhitening(2).fit(X, y)
    np.testing.assert_array_equal(part.components_, whole.components_[:2])


def test_the_mean_itself_has_no_direction(rng):
    X, y = make_data(rng)
    whitening = LearnedWhitening().fit(X, y)
    assert not whitening.transform(whitening.mean_[None]).any()
    assert np.isfinite(whitening.transform(np.full((1, 5), 1e300))).all()


def test_the_order_of_the_rows_does_not_matter(rng):
    X, y = make_data(rng)
    order = rng.permutation(len(X))
    one, other = LearnedWhitening().fit(X, y), LearnedWhitening().fit(X[order], y[order])
    np.testing.assert_allclose(one.components_, other.components_, rtol=1e-8)


def test_more_features_than_rows_need_shrinkage(rng):
    X, y = make_data(rng, n_features=50)
    assert np.isfinite(LearnedWhitening().fit_transform(X, y)).all()
    with pytest.raises(ValueError, match=r"in all 50 directions.*shrinkage=0.0"):
        LearnedWhitening(shrinkage=0.0).fit(X, y)


def test_similar_rows_that_are_equal_leave_nothing_to_whiten():
    X = np.repeat(np.eye(3), 2, axis=0)
    rows = LearnedWhitening().fit_transform(X, [0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(rows[::2], rows[1::2])


def test_whitening_finds_more_among_classes_it_never_saw(rng):
    # Large nuisance directions that all classes share.
    nuisance = 6 * rng.normal(size=(3, 20))
    centers = rng.normal(size=(40, 20))
    y = np.repeat(np.arange(40), 10)
    X = centers[y] + rng.normal(size=(400, 3)) @ nuisance + 0.3 * rng.normal(size=(400, 20))
    seen = y < 20
    whitening = LearnedWhitening(shrinkage=0.01).fit(X[seen], y[seen])
    plain = NeighborsRetriever().fit(X[~seen], y[~seen]).score()
    white = NeighborsRetriever().fit(whitening.transform(X[~seen]), y[~seen]).score()
    assert white > plain + 0.3


def test_whitening_is_tuned_inside_a_pipeline(rng):
    X, y = make_data(rng)
    search = make_pipeline(LearnedWhitening(), NeighborsRetriever(3))
    grid = {"learnedwhitening__shrinkage": [0.1, 0.9], "learnedwhitening__n_components": [2, 4]}
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    assert GridSearchCV(search, grid, cv=folds).fit(X, y).best_score_ > 0.5


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({}, None, "requires y to be passed.*PCA"),
        ({}, [0] * 6, "needs similar and other pairs, got 15 and 0 of 6 rows: 1 class"),
        ({}, range(6), "got 0 and 15 of 6 rows. Give at least one label two rows"),
        ({}, [0, 1], "inconsistent numbers of samples: 6 rows in X, 2 labels"),
        ({"shrinkage": -0.1}, [0, 0, 1, 1, 2, 2], "shrinkage=-0.1"),
        ({"shrinkage": 1.1}, [0, 0, 1, 1, 2, 2], "shrinkage=1.1"),
        ({"n_components": 4}, [0, 0, 1, 1, 2, 2], "n_components=4 must be .* from 1 to 3"),
        ({"n_components": 0}, [0, 0, 1, 1, 2, 2], "n_components=0"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_learned_is_an_error(parameters, y, message, rng):
    y = y if y is None else list(y)
    with pytest.raises(ValueError, match=message):
        LearnedWhitening(**parameters).fit(rng.normal(size=(6, 3)), y)


def test_parameters_are_left_as_they_are(rng):
    X, y = make_data(rng)
    whitening = LearnedWhitening(np.int64(2))
    assert clone(whitening.fit(X, y)).get_params() == {"n_components": 2, "shrinkage": 0.5}
