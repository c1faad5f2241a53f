"""Splits with a part to choose settings on: what is where, what never meets, what a seed fixes."""

import numpy as np
import pytest

from sklearn_cbir.metrics import mean_average_precision
from sklearn_cbir.model_selection import (
    split_group_folds,
    split_multilabel,
    split_unseen_products,
)

# Twelve products in six coarse classes of two; 4 and 5 lie on both sides of the cut before 5.
PRODUCTS = np.tile(np.arange(12), 5)
COARSE = np.tile(np.repeat(["a", "b", "c", "d", "e", "f"], 2), 5)
PARTS = {"train": np.arange(24), "test": np.arange(36, 60)}
CUT = {"first_unseen": 5, "n_validation": 2}
GROUPS = np.repeat([10, 3, 7, 5, 8, 1, 2], [2, 3, 2, 4, 1, 2, 3])


@pytest.fixture(scope="module")
def labels():
    """Rows with some of four labels, a few of them with none."""
    return (np.random.default_rng(0).random((200, 4)) < 0.3).astype(np.uint8)


def unseen_products(**options):
    return split_unseen_products(PRODUCTS, COARSE, **{**PARTS, **CUT, **options})


def same(first, second):
    parts = ("query", "train", "gallery")
    return all(np.array_equal(first[part], second[part]) for part in parts)


def test_products_are_seen_or_unseen_and_never_both():
    split = unseen_products()
    assert set(PRODUCTS[split.query]) == set(PRODUCTS[split.gallery]) == {6, 7, 8, 9, 10, 11}
    chosen = set(PRODUCTS[split.validation.query])
    assert chosen == set(PRODUCTS[split.validation.gallery])
    assert len(chosen) == 2
    assert chosen | set(PRODUCTS[split.train]) == {0, 1, 2, 3}
    assert not chosen & set(PRODUCTS[split.train])
    assert split.validation.train.tolist() == split.train.tolist()
    for part in (split, split.validation):
        assert set(part.query) <= set(PARTS["test"])  # and the rows 24 to 35 are in no part
        assert set(part.gallery) | set(part.train) <= set(PARTS["train"])
        assert part.exclude is None
        assert part.query.dtype == part.train.dtype == part.gallery.dtype == np.int64
    assert len(split.query) == len(split.gallery) == 6 * 2


def test_junk_is_of_the_coarse_class_and_of_another_product():
    split = unseen_products(junk=True)
    for part in (split, split.validation):
        for query, rows in zip(part.query, part.exclude, strict=True):
            beside = PRODUCTS[query] ^ 1  # the other product of two
            assert PRODUCTS[part.gallery[rows]].tolist() == [beside, beside] or (
                beside not in PRODUCTS[part.gallery] and not len(rows)
            )
    y_queries, y_gallery = PRODUCTS[split.query], PRODUCTS[split.gallery]
    same_coarse = COARSE[split.query][:, None] == COARSE[split.gallery]
    score = mean_average_precision(y_queries, y_gallery, ~same_coarse * 1.0, exclude=split.exclude)
    assert score == 1.0
    # Two of a product and two of its neighbour, in any order: the mean over the 6 orders of hits.
    by_hand = np.mean([1, 5 / 6, 3 / 4, 7 / 12, 1 / 2, 5 / 12])
    assert mean_average_precision(y_queries, y_gallery, ~same_coarse * 1.0) == pytest.approx(
        by_hand
    )


def test_masks_are_rows():
    masks = {name: np.isin(np.arange(60), rows) for name, rows in PARTS.items()}
    assert same(unseen_products(), unseen_products(**masks))


def test_the_seed_fixes_what_chooses():
    first, again = unseen_products(random_state=1), unseen_products(random_state=1)
    assert same(first, again)
    assert same(first.validation, again.validation)
    others = [unseen_products(random_state=seed).validation for seed in range(8)]
    assert len({tuple(split.query) for split in others}) > 1
    for seed in range(8):  # what is searched in the end is not drawn
        drawn = unseen_products(random_state=seed)
        assert np.array_equal(drawn.query, first.query)
        assert np.array_equal(drawn.gallery, first.gallery)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": [1, 1]}, "train names a row twice"),
        ({"test": [60]}, "test names rows outside 0 to 59"),
        ({"test": PARTS["train"]}, "train and test share 24 rows"),
        ({"n_validation": 4}, "n_validation=4 of 4 seen products leave none to train on"),
        ({"n_validation": 0}, "n_validation=0 must be an integer"),
        ({"first_unseen": "5"}, "first_unseen='5' must be a finite number"),
        ({"first_unseen": 12}, "No query is left of the unseen products"),
        ({"test": [36]}, "No query is left of the unseen products"),
        ({"junk": "yes"}, "junk='yes' must be True or False"),
    ],
    ids=str,
)
def test_products_that_cannot_be_split_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        unseen_products(**options)


@pytest.mark.parametrize(
    ("y", "coarse", "message"),
    [
        (PRODUCTS.astype(str), COARSE, "Pass numbers of products"),
        (PRODUCTS, COARSE[:-1], "coarse"),
        (PRODUCTS, np.where(np.arange(60) == 12, "f", COARSE), "Product 0 has two coarse classes"),
        (PRODUCTS, np.eye(6, dtype=int)[PRODUCTS // 2], "coarse has 6 label columns"),
    ],
    ids=["text", "short", "two", "columns"],
)
def test_products_need_numbers_and_one_coarse_class(y, coarse, message):
    with pytest.raises(ValueError, match=message):
        split_unseen_products(y, coarse, **PARTS, **CUT)


def test_folds_share_no_group():
    folds = split_group_folds(GROUPS, n_folds=3)
    assert sorted(np.concatenate([fold.gallery for fold in folds])) == list(range(len(GROUPS)))
    asked = sorted(np.concatenate([fold.query for fold in folds]))
    assert asked == [0, 2, 5, 7, 12, 14]  # the first of every group but that of one photo
    for fold in folds:
        assert sorted([*fold.gallery, *fold.train]) == list(range(len(GROUPS)))
        chosen = fold.validation
        assert sorted([*chosen.gallery, *chosen.train]) == fold.train.tolist()
        for part in (fold, chosen):
            assert not set(GROUPS[part.train]) & set(GROUPS[part.gallery])
            assert part.gallery[part.exclude].tolist() == part.query.tolist()
    sizes = sorted(len(np.unique(GROUPS[fold.gallery])) for fold in folds)
    assert sizes == [2, 2, 3]


def test_queries_of_folds_find_their_group_without_themselves():
    for fold in split_group_folds(GROUPS, n_folds=3):
        y_queries, y_gallery = GROUPS[fold.query], GROUPS[fold.gallery]
        distances = (y_queries[:, None] != y_gallery).astype(float)
        distances[np.arange(len(fold.query)), fold.exclude] = 9.0
        asked = y_queries, y_gallery, distances
        assert mean_average_precision(*asked, exclude=fold.exclude) == 1.0
        assert mean_average_precision(*asked) < 1.0


def test_the_seed_fixes_the_folds():
    first, again = split_group_folds(GROUPS, n_folds=3), split_group_folds(GROUPS, n_folds=3)
    assert all(same(one, other) for one, other in zip(first, again, strict=True))
    others = [split_group_folds(GROUPS, n_folds=3, random_state=seed)[0] for seed in range(8)]
    assert len({tuple(fold.gallery) for fold in others}) > 1
    text = split_group_folds(np.array([f"g{group:02d}" for group in GROUPS]), n_folds=3)
    assert all(same(one, other) for one, other in zip(first, text, strict=True))


@pytest.mark.parametrize(
    ("n_folds", "message"), [(2, "n_folds=2 must be an integer"), (8, "more than the 7 groups")]
)
def test_folds_that_cannot_be_made_are_refused(n_folds, message):
    with pytest.raises(ValueError, match=message):
        split_group_folds(GROUPS, n_folds=n_folds)


def test_rows_that_ask_neither_train_nor_are_searched(labels):
    split = split_multilabel(labels, n_queries=20, n_validation=15, n_train=60)
    asked = set(split.query) | set(split.validation.query)
    assert len(asked) == len(split.query) + len(split.validation.query) == 35
    assert sorted([*asked, *split.gallery]) == list(range(200))
    assert set(split.train) < set(split.gallery)
    assert len(split.train) == 60
    for rows in (split.query, split.validation.query, split.train):
        assert labels[rows].any(axis=1).all()
        assert (np.diff(rows) > 0).all()
    assert not labels[split.gallery].any(axis=1).all()  # they can still be found
    for part in ("train", "gallery"):
        assert np.array_equal(split.validation[part], split[part])
    again = split_multilabel(labels, n_queries=20, n_validation=15, n_train=60)
    other = split_multilabel(labels, n_queries=20, n_validation=15, n_train=60, random_state=1)
    assert same(split, again)
    assert not same(split, other)


def test_too_few_labelled_rows_are_named(labels):
    n = int(labels.any(axis=1).sum())
    with pytest.raises(ValueError, match=f"n_train=5000 are more than the {n} labelled rows"):
        split_multilabel(labels)
    exactly = split_multilabel(labels, n_queries=1, n_validation=1, n_train=n - 2)
    assert len(exactly.train) == n - 2
    with pytest.raises(ValueError, match="n_validation=0 must be an integer"):
        split_multilabel(labels, n_validation=0)
