"""Batches: what they hold, how often rows come, and that the generator alone decides."""

import numpy as np
import pytest
import torch

from sklearn_cbir.losses import LRMLLoss, staircase_loss
from sklearn_cbir.sampling import (
    _hardest_negatives,
    balanced_batches,
    class_random_batches,
    mined_batches,
    uniform_batches,
)


def counts(batches, n):
    return np.bincount(np.concatenate(batches), minlength=n)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (12, 4), (3, 8), (1, 4), (7, 1)])
def test_uniform_batches_hold_every_row_once(n, batch_size, rng):
    batches = uniform_batches(n, batch_size, rng)
    np.testing.assert_array_equal(counts(batches, n), 1)
    assert all(batch.dtype == np.int64 for batch in batches)


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (5, 4, [5]), (4, 4, [4])],
)
def test_a_last_batch_of_one_joins_the_one_before(n, batch_size, sizes, rng):
    assert [len(batch) for batch in uniform_batches(n, batch_size, rng)] == sizes


def test_uniform_batches_differ_between_epochs_and_repeat_with_the_seed(rng):
    first, second = uniform_batches(20, 5, rng), uniform_batches(20, 5, rng)
    assert not np.array_equal(first, second)
    again = uniform_batches(20, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(first, again)


def test_balanced_batches_hold_p_classes_of_k_rows(rng):
    y = np.repeat(np.arange(30), 10)
    batches = balanced_batches(y, 40, 4, rng)
    assert len(batches) == 8  # 300 / 40, rounded
    for batch in batches:
        _, sizes = np.unique(y[batch], return_counts=True)
        np.testing.assert_array_equal(sizes, [4] * 10)
        assert len(np.unique(batch)) == 40


def test_batches_of_few_classes_hold_all_of_them_equally(rng):
    y = np.repeat([0, 1, 2], 100)
    for batch in balanced_batches(y, 32, 4, rng):
        assert sorted(np.bincount(y[batch])) == [10, 11, 11]


def test_rows_of_equal_classes_come_equally_often(rng):
    y = np.tile(np.arange(10), 50)
    np.testing.assert_array_equal(counts(balanced_batches(y, 50, 5, rng), 500), 1)


def test_rows_within_a_class_come_equally_often_whatever_its_size(rng):
    y = np.repeat([0, 1, 2], [200, 40, 7])
    for label in (0, 1, 2):
        seen = counts(balanced_batches(y, 30, 5, rng), 247)[y == label]
        assert seen.max() - seen.min() <= 1
        assert seen.min() > 0 or label == 0


def test_classes_come_equally_often(rng):
    y = np.repeat(np.arange(12), 7)
    drawn = [np.unique(y[batch]) for batch in balanced_batches(y, 10, 2, rng)]
    times = np.bincount(np.concatenate(drawn), minlength=12)
    assert times.max() - times.min() <= 1


def test_a_class_smaller_than_its_share_repeats_its_rows(rng):
    y = np.array([0, 1, 1, 1, 1, 1, 1, 1])
    batch = balanced_batches(y, 8, 4, rng)[0]
    np.testing.assert_array_equal(np.bincount(y[batch]), [4, 4])
    assert len(np.unique(batch[y[batch] == 1])) == 4


def test_a_large_class_never_repeats_a_row_within_a_batch(rng):
    y = np.repeat([0, 1], [7, 50])
    for batch in balanced_batches(y, 10, 5, rng):
        assert len(np.unique(batch)) == 10


@pytest.mark.parametrize(
    ("n_classes", "n_each", "batch_size", "n_per_class"),
    [(5, 4, 3, 2), (5, 4, 8, 50), (2, 2, 256, 4), (1, 9, 4, 2), (9, 1, 6, 2)],
)
def test_batches_of_any_size_have_pairs(n_classes, n_each, batch_size, n_per_class, rng):
    y = np.repeat(np.arange(n_classes), n_each)
    for batch in balanced_batches(y, batch_size, n_per_class, rng):
        _, sizes = np.unique(y[batch], return_counts=True)
        assert sizes.min() >= 2
        assert len(sizes) >= min(2, n_classes)
        assert len(batch) <= max(4, min(batch_size, len(y)))


def test_multi_label_batches_hold_k_rows_of_every_drawn_label(rng):
    y = (rng.random((200, 8)) < 0.2).astype(np.float32)
    y[:5] = 0
    batches = balanced_batches(y, 20, 5, rng)
    assert len(batches) == round(y.any(axis=1).sum() / 20)
    for batch in batches:
        assert len(batch) == 20
        for group in batch.reshape(4, 5):
            assert y[group].all(axis=0).any()
    assert not set(range(5)) & set(np.concatenate(batches))


@pytest.mark.parametrize("draw", [balanced_batches, class_random_batches, mined_batches])
@pytest.mark.parametrize("batch_size", [8, 100])
def test_batches_are_those_of_the_labeled_rows_alone(draw, batch_size):
    y = np.eye(4)[np.arange(60) % 4]
    y[::3] = 0
    labeled = np.flatnonzero(y.any(axis=1))
    places = np.random.default_rng(0).normal(size=(60, 2))

    def batches(y, places):
        options = [5, 9] if draw is mined_batches else [2]
        given = {"embed": places.__getitem__} if draw is mined_batches else {}
        return draw(y, batch_size, *options, np.random.default_rng(1), **given)

    alone = [labeled[batch] for batch in batches(y[labeled], places[labeled])]
    assert [batch.tolist() for batch in batches(y, places)] == [b.tolist() for b in alone]


def test_a_label_that_nothing_carries_is_not_drawn(rng):
    y = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]])
    batches = balanced_batches(y, 4, 2, rng)
    np.testing.assert_array_equal(counts(batches, 4), 1)


def test_balanced_batches_repeat_with_the_seed():
    y = np.repeat(np.arange(6), 9)
    first, second, other = (
        balanced_batches(y, 8, 2, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_rows_of_a_class_come_equally_often_over_all_epochs():
    y = np.repeat(np.arange(30), [200] + 29 * [5])
    decks = {}
    epochs = [
        balanced_batches(y, 32, 4, np.random.default_rng(epoch), decks=decks) for epoch in range(5)
    ]
    used = counts(np.concatenate(epochs), len(y))
    assert all(np.ptp(used[y == c]) <= 1 for c in range(30))
    assert np.ptp(np.bincount(y[np.concatenate(epochs).ravel()])) <= 5 * 4


def test_queries_go_on_over_all_epochs():
    y = np.repeat(np.arange(10), 5)
    decks = {}
    epochs = [
        mined_batches(y, 15, 3, 20, np.random.default_rng(epoch), decks=decks) for epoch in range(6)
    ]
    queries = np.concatenate(epochs)[:, ::2]  # pairs, without negatives
    assert np.ptp(counts(queries, len(y))) <= 1


def test_bad_sizes_and_unlabelled_rows_raise(rng):
    with pytest.raises(ValueError, match="batch_size=0 must be an integer of at least 1"):
        uniform_batches(4, 0, rng)
    with pytest.raises(ValueError, match="n_per_class=1 must be an integer of at least 2"):
        balanced_batches(np.zeros(4), 4, 1, rng)
    with pytest.raises(ValueError, match="No row of y has a label"):
        balanced_batches(np.zeros((4, 3)), 4, 2, rng)


# Classes at random, with replacement.


def test_class_random_batches_hold_pairs_of_rows_of_one_class(rng):
    y = rng.permutation(np.repeat(np.arange(20), 5))
    batches = class_random_batches(y, 30, 2, rng)
    assert len(batches) == 3  # 100 // 30
    for batch in batches:
        assert batch.shape == (30,)
        first, second = y[batch].reshape(15, 2).T
        np.testing.assert_array_equal(first, second)


def test_class_random_batches_favor_no_class_and_no_row_of_a_class(rng):
    y = np.repeat([0, 1], [4, 96])
    batches = [batch for _ in range(200) for batch in class_random_batches(y, 20, 2, rng)]
    drawn = counts(batches, 100)
    assert len(batches) == 1000
    # 10,000 draws of a class, so that 5 standard deviations of its share are 0.025.
    assert drawn[y == 0].sum() / drawn.sum() == pytest.approx(0.5, abs=0.025)
    np.testing.assert_allclose(drawn[y == 0] / drawn[y == 0].sum(), 0.25, atol=0.025)
    same = np.mean([pair[0] == pair[1] for batch in batches for pair in batch.reshape(-1, 2)])
    assert same == pytest.approx((1 / 4 + 1 / 96) / 2, abs=0.02)


def test_class_random_batches_of_labels_and_of_few_rows(rng):
    y = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=np.float32)
    (batch,) = class_random_batches(y, 90, 2, rng)
    assert len(batch) == 90
    assert 2 not in batch
    assert (y[batch.reshape(45, 2)].sum(axis=1) == 2).any(axis=1).all()
    assert len(class_random_batches(np.arange(3), 3, 2, rng)[0]) == 4


# Mining.


def nearest_of_other_classes(query, y, vectors, pool, n):
    """Plain loop: the nearest row of every class that shares no label with the query."""
    nearest = {}
    for row in pool:
        if not (y[row] == y[query] if y.ndim == 1 else (y[row] * y[query]).any()):
            distance = ((vectors[row] - vectors[query]) ** 2).sum()
            key = y[row].tobytes()
            nearest[key] = min(nearest.get(key, (np.inf, None)), (distance, row))
    return [row for _, row in sorted(nearest.values())[:n]]


def share(y, i, j):
    return y[i] == y[j] if y.ndim == 1 else (y[i] * y[j]).any()


@pytest.mark.parametrize("kind", ["single", "multiple"])
@pytest.mark.parametrize("pairs_at_once", [1, 2**24])
def test_mined_tuples_hold_the_nearest_rows_of_other_classes(kind, pairs_at_once, rng, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.sampling.PAIRS_AT_ONCE", pairs_at_once)
    y = rng.integers(9, size=120)
    if kind == "multiple":
        y = (rng.random((120, 6)) < 0.3).astype(np.float32)
    vectors = rng.normal(size=(120, 3))
    batches = mined_batches(y, 30, 5, 1000, rng, embed=vectors.__getitem__)
    assert [len(batch) for batch in batches] == [28] * 4
    labelled = np.flatnonzero(y.reshape(120, -1).any(axis=1)) if y.ndim == 2 else range(120)
    for query, positive, *negatives in np.concatenate(batches).reshape(-1, 7):
        assert query != positive
        assert share(y, query, positive)
        assert negatives == nearest_of_other_classes(query, y, vectors, labelled, 5)


def test_many_negatives_of_very_many_classes_are_the_nearest(rng):
    y = np.arange(3000) % 1500
    vectors = rng.normal(size=(3000, 3))
    found = _hardest_negatives(y[:2], vectors[:2], y, vectors, 700)
    for query, negatives in enumerate(found):
        expected = nearest_of_other_classes(query, y, vectors, range(3000), 700)
        assert negatives.tolist() == expected


def test_queries_go_through_all_rows_and_positives_through_all_others():
    y = np.repeat(np.arange(4), 3)
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pairs = np.concatenate(mined_batches(y, 12, 1, 12, rng)).reshape(-1, 2)
        assert len(np.unique(pairs[:, 0])) == len(pairs) == 4
        seen |= set(map(tuple, pairs))
    assert seen == {(i, j) for i in range(12) for j in range(12) if i != j and y[i] == y[j]}


def test_only_the_pool_and_the_queries_are_embedded_and_only_once(rng):
    y = np.tile(np.arange(50), 10)
    asked = []

    def embed(rows):
        asked.append(rows)
        return np.zeros((len(rows), 2))

    batches = mined_batches(y, 70, 5, 40, rng, embed=embed)
    (rows,) = asked
    tuples = np.concatenate(batches).reshape(-1, 7)
    assert len(np.unique(rows)) == len(rows) <= 40 + len(tuples)
    assert len(np.unique(tuples[:, 2:])) <= 40
    assert all(len(set(classes)) == 6 for classes in y[tuples].tolist())


def test_tuples_are_shorter_where_there_are_too_few_classes(rng):
    y = np.array([0, 0, 1, 1, 2])
    for batch in mined_batches(y, 7, 5, 5, rng, embed=lambda rows: rows[:, None] * 1.0):
        assert len(batch) == 4
    one_class = mined_batches(np.zeros(4), 7, 5, 4, rng, embed=lambda rows: rows[:, None] * 1.0)
    assert [len(batch) for batch in one_class] == [2]


def test_batches_before_there_is_a_network_are_as_many_and_of_pairs():
    y = np.repeat(np.arange(10), 10)
    before = mined_batches(y, 21, 5, 100, np.random.default_rng(0))
    after = mined_batches(y, 21, 5, 100, np.random.default_rng(0), embed=lambda r: r[:, None] * 1.0)
    assert len(before) == len(after) == 5
    for pairs, tuples in zip(before, after):
        np.testing.assert_array_equal(pairs.reshape(3, 2), tuples.reshape(3, 7)[:, :2])


def test_a_batch_of_one_tuple_costs_what_it_and_its_mirror_image_cost(rng):
    y = np.repeat(np.arange(8), 4)
    vectors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(32, 4))))
    for batch in mined_batches(y, 7, 5, 32, rng, embed=vectors.numpy().__getitem__):
        rows = vectors[batch]
        distances = (rows[:, None] - rows).square().sum(dim=2).sqrt()
        costs = staircase_loss(distances[[0, 1], [1, 0]], distances[:2, 2:])
        loss = LRMLLoss()(rows, torch.from_numpy(y[batch]))
        assert loss.item() == pytest.approx(costs.mean().item(), rel=1e-5)


def test_bad_sizes_of_tuples_and_lonely_rows_raise(rng):
    with pytest.raises(ValueError, match="n_negatives=0 must be an integer of at least 1"):
        mined_batches(np.zeros(4), 4, 0, 4, rng)
    with pytest.raises(ValueError, match="pool_size=0 must be an integer of at least 1"):
        mined_batches(np.zeros(4), 4, 5, 0, rng)
    with pytest.raises(ValueError, match="No two rows of y share a label"):
        mined_batches(np.arange(4), 4, 5, 4, rng)
    with pytest.raises(ValueError, match="n_per_class=1 must be an integer of at least 2"):
        class_random_batches(np.zeros(4), 4, 1, rng)
