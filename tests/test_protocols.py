"""Splits of the papers: sizes, what may overlap, equal shares, and the same rows for a seed."""

import numpy as np
import pytest

from sklearn_cbir.metrics import mean_average_precision
from sklearn_cbir.model_selection import PROTOCOLS, split_protocol

FULL = np.repeat(np.arange(10), 6000)  # CIFAR-10, sorted
TEST = np.concatenate([np.arange(6000 * i, 6000 * i + 1000) for i in range(10)])


@pytest.fixture(scope="module")
def cifar10():
    """The 60,000 labels of CIFAR-10, in no order."""
    return np.random.default_rng(0).permutation(FULL)


@pytest.fixture(scope="module")
def tags():
    """Rows with none to four of six labels, the first label rare."""
    rng = np.random.default_rng(1)
    return (rng.random((3000, 6)) < [0.02, 0.1, 0.2, 0.3, 0.3, 0.4]).astype(np.uint8)


def sizes(split):
    return len(split.query), len(split.train), len(split.gallery)


@pytest.mark.parametrize(
    ("protocol", "expected", "per_class"),
    [
        ("cifar10-59k", (1000, 5000, 59000), (100, 500, 5900)),
        ("cifar10-54k", (1000, 5000, 54000), (100, 500, 5400)),
        ("cifar10-full", (10000, 50000, 50000), (1000, 5000, 5000)),
    ],
    ids=["59k", "54k", "full"],
)
def test_splits_of_cifar10_have_their_sizes(cifar10, protocol, expected, per_class):
    split = split_protocol(protocol, cifar10)
    assert sizes(split) == expected
    assert split.exclude is None
    for rows, n in zip((split.query, split.train, split.gallery), per_class):
        assert np.bincount(cifar10[rows]).tolist() == [n] * 10
        assert (np.diff(rows) > 0).all()  # ascending, none twice
        assert rows.dtype == np.int64
    assert not set(split.query) & set(split.train)
    assert not set(split.query) & set(split.gallery)
    in_gallery = np.isin(split.train, split.gallery)
    assert in_gallery.all() if protocol != "cifar10-54k" else not in_gallery.any()


def test_official_test_images_are_queries():
    mask = np.zeros(60000, dtype=bool)
    mask[TEST] = True
    for test in (TEST, TEST[::-1], mask):
        for protocol in ("cifar10-full", "svhn"):
            split = split_protocol(protocol, FULL, test=test)
            assert split.query.tolist() == TEST.tolist()
            assert sizes(split) == (10000, 50000, 50000)
            assert split.train.tolist() == split.gallery.tolist()
    released = split_protocol("dsh-released", FULL, test=TEST)
    assert sizes(released) == (10000, 50000, 10000)
    assert released.query.tolist() == released.gallery.tolist()
    assert released.exclude is None  # as published: every query finds itself


@pytest.mark.parametrize("protocol", ["cifar10-59k", "cifar10-full", "nuswide-10k", "coco"])
def test_the_seed_fixes_the_split(cifar10, protocol):
    first, again, other = (split_protocol(protocol, cifar10, random_state=s) for s in (0, 0, 1))
    for part in ("query", "train", "gallery"):
        assert np.array_equal(first[part], again[part])
    assert not np.array_equal(first.query, other.query)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    split_protocol(protocol, cifar10, random_state=5)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_the_split_of_seed_0_stays_what_it_is():
    # Rows of a published number must be found again with later versions.
    split = split_protocol("cifar10-59k", np.repeat(["a", "b"], 4), n_queries=1, n_train=1)
    rng = np.random.RandomState(0)
    query = [rng.permutation([0, 1, 2, 3])[0], rng.permutation([4, 5, 6, 7])[0]]
    assert split.query.tolist() == query
    train = [rng.permutation(np.setdiff1d(part, query))[0] for part in ([0, 1, 2, 3], [4, 5, 6, 7])]
    assert split.train.tolist() == train


def test_labels_may_be_text_and_counts_other_ones():
    y = np.repeat(["cat", "dog", "cow"], [7, 9, 8])
    split = split_protocol("cifar10-54k", y, n_queries=2, n_train=3)
    assert sizes(split) == (6, 9, 9)
    assert np.unique(y[split.query], return_counts=True)[1].tolist() == [2, 2, 2]
    assert sorted([*split.query, *split.train, *split.gallery]) == list(range(24))


def test_every_label_gets_its_share_of_images(tags):
    split = split_protocol("nuswide-2100", tags, n_queries=10, n_train=30)
    assert sizes(split) == (60, 180, 2940)
    assert (tags[split.query].sum(axis=0) >= 10).all()
    assert (tags[split.train].sum(axis=0) >= 30).all()
    assert not set(split.query) & set(split.train)
    assert set(split.train) < set(split.gallery)
    assert tags[split.query].any(axis=1).all()


def test_full_size_of_nuswide():
    rng = np.random.default_rng(0)
    y = np.eye(21, dtype=np.uint8)[rng.integers(0, 21, 195834)]
    assert sizes(split_protocol("nuswide-2100", y)) == (2100, 10500, 193734)
    assert sizes(split_protocol("nuswide-10k", y)) == (10000, 185834, 185834)
    assert sizes(split_protocol("nuswide-5k", y)) == (5000, 10000, 190834)


def test_random_splits_draw_labelled_rows_only(tags):
    split = split_protocol("mirflickr", tags, n_queries=500, n_train=800)
    assert sizes(split) == (500, 800, 2500)
    assert tags[split.query].any(axis=1).all()
    assert tags[split.train].any(axis=1).all()
    assert not tags[split.gallery].any(axis=1).all()  # they can still be found
    assert not set(split.query) & set(split.gallery)
    assert set(split.train) < set(split.gallery)
    assert sizes(split_protocol("nuswide-10k", tags, n_queries=100)) == (100, 2900, 2900)


@pytest.mark.parametrize(("n_classes", "n_train"), [(200, 100), (196, 98), (5, 3)])
def test_zero_shot_trains_on_the_first_half_of_the_classes(n_classes, n_train):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(n_classes), 4))
    split = split_protocol("zero-shot", y)
    assert set(y[split.train]) == set(range(n_train))
    assert set(y[split.query]) == set(range(n_train, n_classes))
    assert split.query.tolist() == split.gallery.tolist()
    assert split.exclude.tolist() == list(range(len(split.query)))


def test_official_classes_of_the_test_are_the_queries():
    y = np.array([5, 5, 1, 1, 9, 9])
    split = split_protocol("zero-shot", y, test=[2, 3])
    assert split.train.tolist() == [0, 1, 4, 5]
    assert split.gallery.tolist() == [2, 3]
    with pytest.raises(ValueError, match="test shares 1 classes with the other rows, such as 1"):
        split_protocol("zero-shot", y, test=[2, 4, 5])


def test_what_is_excluded_is_the_query_itself():
    y = np.array([1000, 1000, 1001, 1001, 1001])
    split = split_protocol("holidays", y)
    assert split.query.tolist() == [0, 2]
    assert split.gallery.tolist() == [0, 1, 2, 3, 4]
    assert len(split.train) == 0
    # Itself at distance 0, then 1001, 1000: 1/2; and both of its group first: 1.
    distances = np.array([[0, 3, 2, 4, 5], [9, 8, 0, 1, 2]])
    score = mean_average_precision(
        y[split.query], y[split.gallery], distances, exclude=split.exclude, per_query=True
    )
    assert score.tolist() == [0.5, 1.0]
    zero_shot = split_protocol("zero-shot", y)
    y_test = y[zero_shot.gallery]
    itself_first = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0]])
    assert mean_average_precision(y_test, y_test, itself_first, exclude=zero_shot.exclude) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "cifar10"}, "protocol='cifar10' is not known. Use one of 'cifar10-59k'"),
        ({"protocol": "dsh-released"}, "needs test, the rows of the official test part"),
        (
            {"protocol": "cifar10-59k", "test": [1]},
            "does not use test. It takes n_queries, n_train",
        ),
        ({"protocol": "holidays", "n_train": 1}, "does not use n_train. It takes no options"),
        ({"protocol": "cifar10-full", "test": [1], "n_queries": 1}, "n_queries has no effect"),
        ({"protocol": "cifar10-59k"}, "n_queries=100 rows of every class.*class 0 has 6 left"),
        (
            {"protocol": "cifar10-59k", "n_queries": 4, "n_train": 3},
            "n_train=3 rows of every class are needed, but class 0 has 2 left",
        ),
        ({"protocol": "cifar10-59k", "n_queries": 0}, "n_queries=0 must be an integer"),
        ({"protocol": "coco"}, "n_queries=5000 and n_train=10000 are more than the 18 labelled"),
        ({"protocol": "nuswide-10k"}, "n_queries=10000 are more than the 18 labelled rows"),
        ({"protocol": "nuswide-10k", "n_queries": 18}, "leaves no gallery of the 18 rows"),
        ({"protocol": "svhn", "test": [1, 1]}, "test names a row twice"),
        ({"protocol": "svhn", "test": [18]}, "test names rows outside 0 to 17"),
        ({"protocol": "svhn", "test": [0.5]}, "test has dtype float64"),
        ({"protocol": "svhn", "test": [True]}, "test has dtype bool and shape"),
    ],
    ids=str,
)
def test_splits_that_cannot_be_made_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_protocol(y=np.repeat([0, 1, 2], 6), **arguments)


@pytest.mark.parametrize("protocol", ["zero-shot", "holidays"])
def test_splits_of_classes_need_one_label(tags, protocol):
    with pytest.raises(ValueError, match="y has 6 label columns"):
        split_protocol(protocol, tags)


def test_the_docs_name_every_protocol():
    assert [name for name in PROTOCOLS if f"``{name}``" not in split_protocol.__doc__] == []
