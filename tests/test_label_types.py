"""Labels of every type: compared with all of their digits, or refused by name."""

import copy
import datetime
import decimal
import enum
import tracemalloc
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.datasets import make_blobs
from sklearn.exceptions import UndefinedMetricWarning

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever, persistence
from sklearn_cbir._labels import check_labels, encode_labels
from sklearn_cbir.display import RetrievalDisplay
from sklearn_cbir.hashing import KSHHasher
from sklearn_cbir.metrics import (
    cluster_agreement,
    mean_average_precision,
    mean_per_class,
    per_class_thresholds,
    precision_at_k,
)
from sklearn_cbir.model_selection import ClassDisjointKFold, split_protocol
from sklearn_cbir.whitening import LearnedWhitening

LARGE = 2**62
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(40, 8)), np.repeat(np.arange(20), 2)
D, OWN = rng.random((40, 40)), np.arange(40)
FORMS = {
    "int64": lambda y: y.astype(np.int64),
    "uint64": lambda y: y.astype(np.uint64),
    "list": lambda y: y.tolist(),
    "objects": lambda y: y.astype(object),
    "series": lambda y: pd.Series(y, dtype="UInt64"),
    "mixed scalars": lambda y: [np.uint64(v) if i % 2 else int(v) for i, v in enumerate(y)],
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Word(str, enum.Enum):  # noqa: UP042
    ANT = "ant"
    BEE = "bee"


# Numbers of 64 bits.


@EVERY_FORM
def test_numbers_of_64_bits_are_compared_with_all_of_their_digits(form):
    expected = mean_average_precision(Y, Y, D, exclude=OWN)
    y = FORMS[form](Y + LARGE)
    for other in (Y + LARGE, (Y + LARGE).astype(np.uint64)):
        assert mean_average_precision(y, other, D, exclude=OWN) == expected
        assert mean_average_precision(other, y, D, exclude=OWN) == expected


@EVERY_FORM
def test_a_gallery_keeps_the_digits_of_numbers_that_are_added(form, tmp_path):
    expected = NeighborsRetriever(algorithm="exact").fit(X, Y).score()
    y = FORMS[form](Y + LARGE)
    retriever = NeighborsRetriever(algorithm="exact").fit(X[:20], (Y + LARGE)[:20], ids=OWN[:20])
    retriever.partial_fit(X[20:], y[20:], ids=OWN[20:])
    assert retriever.y_.tolist() == (Y + LARGE).tolist()
    assert retriever.score() == expected
    assert retriever.score(X, y, ids=OWN) == expected
    persistence.save(retriever, tmp_path / "r.cbir")
    assert persistence.load(tmp_path / "r.cbir").y_.tolist() == (Y + LARGE).tolist()


@EVERY_FORM
def test_classes_of_64_bits_stay_apart_everywhere(form):
    y = FORMS[form](Y + LARGE)
    encoded, classes = encode_labels(y)
    np.testing.assert_array_equal(encoded, Y)
    assert classes.tolist() == (np.arange(20) + LARGE).tolist()
    assert mean_per_class(y, D[0])[0].tolist() == classes.tolist()
    assert per_class_thresholds(y, y, D, exclude=OWN).classes.tolist() == classes.tolist()
    assert cluster_agreement(X, y, random_state=0) == cluster_agreement(X, Y, random_state=0)
    found = [test.tolist() for _, test in ClassDisjointKFold(4).split(X, y)]
    assert found == [test.tolist() for _, test in ClassDisjointKFold(4).split(X, Y)]
    split = split_protocol("zero-shot", y)
    np.testing.assert_array_equal(split.query, split_protocol("zero-shot", Y).query)
    for estimator in (KSHHasher(4, random_state=0), LearnedWhitening(3)):
        expected = estimator.fit(X, Y).transform(X)
        np.testing.assert_array_equal(estimator.fit(X, y).transform(X), expected)


def test_classes_of_a_training_keep_the_digits_of_numbers():
    y = [2**63 + 1 + i % 4 for i in range(40)]
    extractor = CNNFeatureExtractor(weights=None, max_epochs=1, random_state=0).fit(X, y)
    assert extractor.classes_.tolist() == [2**63 + 1, 2**63 + 2, 2**63 + 3, 2**63 + 4]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([1.0, 2.0]), np.array([1, 2], dtype=np.int8)),
        (np.array([1.0, 2.0], dtype=np.float32), np.array([1.0, 2.0])),
        (np.array([1.0, 2.0], dtype=np.float16), [1, 2]),
        ([1, 2.0], np.array([1, 2], dtype=np.uint64)),
        (np.array([2.0**53, 2**53 + 2]), [2**53, 2**53 + 2]),
        (np.array([2.0**64, -0.0]), np.array([2.0**64, 0.0])),
        ([Size.SMALL, Size.LARGE], [1, 2]),
        ([Word.ANT, Word.BEE], ["ant", "bee"]),
    ],
    ids=str,
)
def test_equal_labels_of_two_types_are_equal(one, other):
    distances = [[0.0, 1.0], [1.0, 0.0]]
    assert precision_at_k(one, other, distances, k=1) == 1
    assert precision_at_k(other, one, distances, k=1) == 1


def test_an_integer_and_the_float_next_to_it_are_two_classes():
    floats, integers = np.array([2.0**53, 1.0]), np.array([2**53 + 1, 1])
    distances = [[0.0, 1.0], [1.0, 0.0]]
    assert mean_average_precision(integers[1:], floats, distances[1:]) == 1
    with pytest.warns(UserWarning, match="1 of 2 queries"):
        assert mean_average_precision(integers, floats, distances) == 1
    retriever = NeighborsRetriever().fit(X[:2], floats).partial_fit(X[2:4], integers)
    assert retriever.y_.tolist() == [2**53, 1, 2**53 + 1, 1]


def test_a_display_compares_numbers_of_64_bits_exactly():
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    labels = np.array([LARGE, LARGE + 1])
    display = RetrievalDisplay.from_predictions(
        np.array([[0], [1]]),
        images=images,
        gallery_images=images,
        y=labels[[1, 1]].astype(np.uint64),
        gallery_labels=labels,
    )
    assert display.right.ravel().tolist() == [False, True]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1, 2**70], r"y\[1\] is 1180591620717411303424, which does not fit into 64 bits"),
        ([1.0, 2**70], "does not fit into 64 bits. Use text instead"),
        ([-1, 2**63], "-1 and 9223372036854775808: no 64-bit type can hold both"),
        ([True, 1, 0, 2], r"types \['bool', 'number'\]"),
        (np.array([True, 1, 0, 2], dtype=object), r"types \['bool', 'number'\]"),
        ([np.True_, 1.0], r"types \['bool', 'number'\]"),
        ([Path("a"), Path("b")], "type PosixPath, such as PosixPath"),
        ([Color.RED, Color.BLUE], "type Color.*makes strings of them"),
        ([decimal.Decimal(1), 2], "Decimal"),
        ([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)], "type date"),
        ([1j, 2j], "continuous"),
        (np.array(["2020", "NaT"], dtype="M8[D]"), r"y\[1\] is NaT"),
        (np.array([1, "NaT"], dtype="m8[s]"), r"y\[1\] is NaT"),
        ([b"a", b"b"], "holds bytes"),
        (np.array([b"a", b"b"], dtype=object), "holds bytes"),
        (["a", None], r"y\[1\] being None. Use one type and no missing"),
        (np.array(["a", pd.NA], dtype=object), r"y\[1\] being <NA>"),
        (pd.Series([1, None], dtype="Int64"), r"y\[1\] is nan"),
        ([1, 0.5], "continuous"),
        ([1, float("nan")], r"y\[1\] is nan"),
        ([2**60 + 1, float("nan")], r"y\[1\] is nan"),
        ([1, np.ma.masked, 2], r"types \['MaskedConstant', 'number'\]"),
        (np.array([["1", "0"]], dtype=object), "must be 0 or 1"),
        (np.array([[1, None]], dtype=object), "must be 0 or 1"),
        (np.ma.array([1, 2, 1], mask=[0, 1, 1]), r"y\[1\] is masked, one of 2 rows"),
        (np.ma.array(np.eye(2), mask=[[0, 0], [0, 1]]), r"y\[1\] is masked, one of 1 rows"),
        (np.array(["a", None], dtype=np.dtypes.StringDType(na_object=None)), "being None"),
        (np.array([(1, 2)], dtype="i,i"), "Labels are integers or strings"),
    ],
    ids=str,
)
def test_labels_that_cannot_be_compared_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        check_labels(y)


def test_two_numbers_that_no_type_holds_are_refused_when_they_are_added():
    retriever = NeighborsRetriever().fit(X[:2], [-1, 1])
    with pytest.raises(ValueError, match="y holds -1 and 9223372036854775808: no 64-bit type"):
        retriever.partial_fit(X[2:4], [2**63, 1])
    assert retriever.y_.tolist() == [-1, 1]


# Text.


def test_text_of_every_type_is_text():
    words = ["ant", "bee", "ant", "cow"]
    for y in (
        np.array(words),
        np.array(words, dtype=object),
        np.array(words, dtype=np.dtypes.StringDType()),
        np.ma.array(words, mask=False),
        pd.Series(words, dtype="string"),
        pd.Categorical(words),
    ):
        encoded, classes = encode_labels(y)
        assert encoded.tolist() == [0, 1, 0, 2]
        assert classes.tolist() == ["ant", "bee", "cow"]
        assert NeighborsRetriever().fit(X[:4], y).y_.tolist() == words


def test_text_that_ends_in_nul_is_another_text():
    y = ["a", "a\0", "a\0"]
    assert encode_labels(y)[0].tolist() == [0, 1, 1]
    assert NeighborsRetriever().fit(X[:3], y).y_.tolist() == y


def test_a_long_label_that_is_added_or_asked_with_does_not_widen_the_others():
    rows, y = np.arange(3000.0)[:, None], [f"label {i}" for i in range(3000)]
    search = NeighborsRetriever(1, algorithm="exact", metric="euclidean", scoring="precision@1")
    search.fit(rows, y)
    tracemalloc.start()
    with pytest.warns(UndefinedMetricWarning, match="1 of 2 queries"):
        score = search.score(rows[:2] + 0.1, [y[0], 40_000 * "long"])
    search.partial_fit(rows[:1] - 1, [30_000 * "long"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e7  # 1.9 GB if all were as long
    assert score == 1.0  # of the one query that has something relevant
    assert search.y_.tolist() == [*y, 30_000 * "long"]


def test_memory_of_labels_follows_the_sum_of_their_lengths(tmp_path):
    y = [f"label {i % 500}" for i in range(5000)] + [5000 * "long"]
    rows = np.ones((len(y), 1), dtype=np.float32) * np.arange(1, len(y) + 1)[:, None]
    search = NeighborsRetriever(1, algorithm="exact", metric="euclidean")
    tracemalloc.start()
    search.fit(rows, y)
    search.partial_fit(rows[:1] + 9999, [4000 * "long"])
    assert search.y_.tolist() == [*y, 4000 * "long"]
    assert mean_average_precision(y[-2:], search.y_, np.ones((2, len(search.y_)))) > 0
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2e6
    assert peak < 2e7  # a fixed width takes 400 MB
    persistence.save(search, tmp_path / "long.cbir")
    assert persistence.load(tmp_path / "long.cbir").y_.tolist() == search.y_.tolist()
    joblib.dump(search, tmp_path / "long.joblib")
    assert joblib.load(tmp_path / "long.joblib").y_.tolist() == search.y_.tolist()
    assert (tmp_path / "long.joblib").stat().st_size < 1e6


def test_labels_of_few_long_classes_are_expanded_without_padding():
    y = np.array(["ant", 20_000 * "bee"])[(np.arange(4000) == 7).astype(int)]
    search = NeighborsRetriever(1).fit(make_blobs(4000, 2, random_state=0)[0], y.tolist())
    tracemalloc.start()
    assert search.y_[7] == 20_000 * "bee"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_columns_of_other_forms_are_columns():
    columns = np.eye(3, dtype=int)
    frame = pd.DataFrame(columns).astype({0: bool})  # an array of objects
    torch_columns = torch.eye(3, dtype=torch.bfloat16)
    for y in (columns == 1, sparse.csr_array(columns), np.ma.array(columns), frame, torch_columns):
        np.testing.assert_array_equal(check_labels(y), columns)


def test_dates_of_two_units_are_equal_or_do_not_fit():
    days = np.array(["2000-01-01", "2001-01-01"], dtype="M8[D]")
    distances = [[0.0, 1.0], [1.0, 0.0]]
    assert precision_at_k(days, days.astype("M8[ns]"), distances, k=1) == 1
    retriever = NeighborsRetriever().fit(X[:2], days).partial_fit(X[2:4], days.astype("M8[ns]"))
    assert len(set(retriever.y_.tolist())) == 2
    far = np.array(["3000-01-01", "2001-01-01"], dtype="M8[D]")
    with pytest.raises(ValueError, match="label 3000-01-01 does not fit into datetime64"):
        mean_average_precision(far, days.astype("M8[ns]"), distances)


def _tables():
    """Yield the kind of a table, and how it is made of a dictionary of columns."""
    yield "pandas", pd.DataFrame
    yield "numbers as names", lambda columns: pd.DataFrame(columns).rename(columns=ord)
    for name in ("polars", "pyarrow"):
        try:
            library = __import__(name)
        except ImportError:
            continue
        yield name, getattr(library, "DataFrame", None) or library.table


@pytest.mark.parametrize(("kind", "table"), list(_tables()))
def test_columns_of_labels_in_another_order_or_of_others_are_an_error(kind, table, rng, tmp_path):
    y = {name: rng.integers(2, size=20) for name in "abc"}
    turned, others = {name: y[name] for name in "bac"}, {"b": y["a"], "c": y["b"], "d": y["c"]}
    X = rng.normal(size=(20, 3))
    retriever = NeighborsRetriever(algorithm="exact").fit(X, table(y))
    same = np.stack(list(y.values()), axis=1)
    persistence.save(retriever, tmp_path / "gallery")
    loaded = persistence.load(tmp_path / "gallery")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        assert retriever.score(X + 1, table(y)) == retriever.score(X + 1, same)
        more = copy.deepcopy(loaded).partial_fit(X, table(y)).remove([0])
        assert more.score(X + 1, same) == more.score(X + 1, table(y))
        of_arrays = NeighborsRetriever(algorithm="exact").fit(X, same)
        assert of_arrays.score(X + 1, table(y)) == of_arrays.score(X + 1, same)
    for wrong in map(table, (turned, others)):
        for refuse in (retriever.score, loaded.evaluate, loaded.partial_fit, more.partial_fit):
            with pytest.raises(ValueError, match="compared by position, but column 0 of y is"):
                refuse(X, wrong)
        with pytest.raises(ValueError, match="compared by position, but column 0 of y is"):
            mean_average_precision(wrong, table(y), rng.random((20, 20)))
    assert loaded.n_samples_fit_ == 20
