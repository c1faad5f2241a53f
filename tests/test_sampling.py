"""Batches: what they hold, how often rows come, and that the generator alone decides."""

import numpy as np
import pytest

from sklearn_cbir.sampling import balanced_batches, uniform_batches


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
    assert len(batches) == 10
    for batch in batches:
        assert len(batch) == 20
        for group in batch.reshape(4, 5):
            assert y[group].all(axis=0).any()
    assert not set(range(5)) & set(np.concatenate(batches))


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


def test_bad_sizes_and_unlabelled_rows_raise(rng):
    with pytest.raises(ValueError, match="batch_size=0 must be an integer of at least 1"):
        uniform_batches(4, 0, rng)
    with pytest.raises(ValueError, match="n_per_class=1 must be an integer of at least 2"):
        balanced_batches(np.zeros(4), 4, 1, rng)
    with pytest.raises(ValueError, match="No row of y carries a label"):
        balanced_batches(np.zeros((4, 3)), 4, 2, rng)
