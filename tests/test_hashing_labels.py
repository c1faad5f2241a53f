"""What labels teach the classical hashers, and which labels they refuse."""

import numpy as np
import pytest
from hasher_cases import LABELED, N_TRAIN, PAIRWISE, SUPERVISED, easy, hasher_of, map_of
from scipy.sparse import csr_array
from sklearn.datasets import make_multilabel_classification
from sklearn.utils import get_tags


@pytest.mark.parametrize("name", LABELED)
def test_labels_help(name):
    X, y = easy()
    X[:, :3] += 20 * np.random.default_rng(1).standard_normal((len(X), 3))  # noise to be ignored
    hasher = hasher_of(name, 16).fit(X[:N_TRAIN], y[:N_TRAIN])
    assert map_of(hasher, X, y) > map_of(hasher_of("ITQHasher", 16).fit(X[:N_TRAIN]), X, y) + 0.05


@pytest.mark.parametrize("name", LABELED)
def test_unseen_rows_find_their_class_and_nothing_under_permuted_labels(name, rng):
    X, y = easy(n_rows=600)
    unseen = slice(N_TRAIN, None)
    hasher = hasher_of(name, 16).fit(X[:N_TRAIN], y[:N_TRAIN])
    assert map_of(hasher, X[unseen], y[unseen]) > 0.9
    y = rng.permutation(y)
    hasher.fit(X[:N_TRAIN], y[:N_TRAIN])
    assert map_of(hasher, X[unseen], y[unseen]) < 0.24  # by chance 0.21


@pytest.mark.parametrize("name", LABELED)
def test_labels_of_any_type_and_one_hot_columns_mean_the_same(name):
    X, y = easy()
    expected = hasher_of(name, 8).fit(X, y).transform(X)
    words = np.array(["ant", "bee", "cow", "dog", "elk"])[y]
    np.testing.assert_array_equal(hasher_of(name, 8).fit(X, words).transform(X), expected)
    if name != "MLHHasher":  # which draws pairs from columns in another way
        columns = csr_array(np.eye(5)[y])
        codes = hasher_of(name, 8).fit(X, columns).transform(X)
        assert (codes == expected).mean() > 0.98  # sums in another order


@pytest.mark.parametrize("name", LABELED)
def test_multi_label_targets(name):
    X, Y = make_multilabel_classification(
        400, n_features=16, n_classes=6, n_labels=1, allow_unlabeled=False, random_state=0
    )
    hasher = hasher_of(name, 16).fit(X[:N_TRAIN], Y[:N_TRAIN])
    shuffled = np.random.default_rng(0).permutation(Y)
    assert map_of(hasher, X, Y) > map_of(hasher, X, shuffled) + 0.05
    assert get_tags(hasher).target_tags.two_d_labels


@pytest.mark.parametrize("name", LABELED)
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(40, dtype=int), "one class"),
        (["cat"] * 40, "'cat'"),
        (np.ones((40, 3)), "are equal"),
        (np.linspace(0, 1, 40), "continuous"),
        ([np.nan] * 40, "NaN"),
        (np.arange(39) % 3, "inconsistent numbers"),
        (np.full((40, 2), 2), "0 or 1"),
        ([1, "a"] * 20, "types"),
    ],
    ids=["single", "words", "columns", "continuous", "nan", "length", "counts", "mixed"],
)
def test_bad_labels_are_an_error(name, y, message, rng):
    with pytest.raises(ValueError, match=message):
        hasher_of(name, 4).fit(rng.standard_normal((40, 6)), y)


@pytest.mark.parametrize("name", LABELED)
def test_rows_without_labels_are_as_if_they_were_not_there(name, rng):
    X, y = easy()
    Y = np.eye(5)[y]
    Y[rng.permutation(len(Y))[:300]] = 0
    labeled = Y.any(axis=1)
    codes = hasher_of(name, 16).fit(X, Y).transform(X)
    alone = hasher_of(name, 16).fit(X[labeled], Y[labeled]).transform(X)
    np.testing.assert_array_equal(codes, alone)


@pytest.mark.parametrize("name", LABELED)
def test_codes_separate_classes_when_most_rows_have_no_label(name, rng):
    X, y = easy(spread=1.0)
    Y = np.eye(5)[y]
    Y[rng.permutation(N_TRAIN)[: N_TRAIN * 3 // 4]] = 0
    assert map_of(hasher_of(name, 16).fit(X[:N_TRAIN], Y[:N_TRAIN]), X, y) > 0.8


@pytest.mark.parametrize("name", LABELED)
def test_too_few_rows_with_labels_are_an_error(name, rng):
    X, Y = rng.standard_normal((40, 6)), np.zeros((40, 3))
    with pytest.raises(ValueError, match="the 0 rows of y that have a label"):
        hasher_of(name, 4).fit(X, Y)
    Y[:2, 1] = 1
    with pytest.raises(ValueError, match="the 2 rows of y that have a label are equal"):
        hasher_of(name, 4).fit(X, Y)


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_label_of_all_rows_is_an_error(name, rng):
    Y = np.column_stack([np.ones(40), np.arange(40) % 2])
    with pytest.raises(ValueError, match="(every|Every) two.*rows.*columns"):
        hasher_of(name, 4).fit(rng.standard_normal((40, 6)), Y)


@pytest.mark.parametrize(
    ("name", "drawn_by"), [("KSHHasher", "n_labeled"), ("BREHasher", "n_train")]
)
def test_rows_drawn_from_one_class_are_an_error_that_says_so(name, drawn_by, rng):
    X, y = rng.standard_normal((2000, 6)), np.arange(2000) == 0
    with pytest.raises(ValueError, match=f"the 20 rows that {drawn_by} draws.*Raise {drawn_by}.$"):
        hasher_of(name, 4, **{drawn_by: 20}).fit(X, y)


@pytest.mark.parametrize("name", SUPERVISED)
def test_missing_labels_are_an_error(name, rng):
    with pytest.raises(ValueError, match="requires y"):
        hasher_of(name, 4).fit(rng.standard_normal((40, 6)))


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("columns", [False, True])
def test_one_row_per_class_leaves_pairs_nothing_to_learn(name, columns, rng):
    y = np.eye(12) if columns else np.arange(12)
    with pytest.raises(ValueError, match="No two.*no rows are similar"):
        hasher_of(name, 4).fit(rng.standard_normal((12, 6)), y)


def test_one_row_per_class_has_correlated_directions(rng):
    X = rng.standard_normal((12, 6))
    assert hasher_of("CCAITQHasher", 4).fit(X, np.arange(12)).transform(X).shape == (12, 4)
