"""What a retriever holds: ids that stay what they are, and changes that come as a whole."""

import copy
import datetime
import enum
import os
import pickle
import threading
import uuid
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from sklearn_cbir import NeighborsRetriever, persistence


def fit(ids, **parameters):
    return NeighborsRetriever(1, **parameters).fit(np.eye(len(ids)), ids=ids)


IDS = {
    "text and numbers": ["a", 1, "b", 2],
    "numbers and text": [1, 2, 3, "1"],
    "text that ends in NUL": ["a", "a\0", "a\0\0", "\0"],
    "nanoseconds": np.arange(4).astype("M8[ns]"),
    "days": np.arange(4).astype("M8[D]"),
    "durations": np.arange(4).astype("m8[ns]"),
    "timestamps": pd.date_range("2020-01-01", periods=4),
    "dates": [datetime.date(2020, 1, day) for day in range(1, 5)],
    "pairs": [("a", 1), ("a", 2), ("b", 1), ("b", 2)],
    "paths": [Path("a"), Path("b"), Path("c"), "c"],
    "bytes": [b"a", b"a\0", b"", b"\xff\n"],
    "UUIDs": [uuid.UUID(int=i) for i in range(4)],
    "moments": [datetime.datetime(2020, 1, 1, 12, 0, 0, i, tzinfo=datetime.UTC) for i in range(4)],
    "sets": [frozenset(), frozenset([1, "a"]), frozenset("ab"), frozenset([frozenset([1])])],
    "numbers of other kinds": [Decimal("0.1"), Fraction(1, 3), 0.1, 1 + 2j],
    "numbers that need 64 bits without a sign": np.array([2**63, 2**64 - 1, 5, 0], np.uint64),
    "truth values and numbers": [True, 1, 0, False],
    "moments of pandas": list(
        pd.date_range("2020-01-01", periods=4, tz="Europe/Berlin", freq="7ns")
    ),
    "spans of time": [datetime.timedelta(days, 1, 2) for days in (-3, 0, 1, 9999)],
    "paths of other systems": [
        PureWindowsPath(r"C:\a\b"),
        PureWindowsPath("a/b"),
        PurePosixPath("a/b"),
        PurePosixPath(r"a\b"),
    ],
    "pairs of many kinds": [("a", uuid.UUID(int=0)), (b"a", 1), (Path("a"), None), ((1,), 2)],
}


@pytest.mark.parametrize("ids", IDS.values(), ids=list(IDS))
def test_ids_stay_what_the_user_gave(ids):
    retriever = fit(ids)
    assert list(retriever.ids_) == list(ids)
    assert list(retriever.predict(np.eye(4))[:, 0]) == list(ids)
    assert retriever.predict(np.eye(4)[:1], ids=ids[:1])[0, 0] == ids[1]
    retriever.remove(ids[1:2])
    assert list(retriever.ids_) == [ids[0], *ids[2:]]
    retriever.partial_fit(np.eye(4)[1:2], ids=ids[1:2])
    with pytest.raises(ValueError, match=r"ids\[0\]=.* is in the gallery already"):
        retriever.partial_fit(np.eye(4)[1:2], ids=ids[1:2])
    assert list(retriever.predict(np.eye(4))[:, 0]) == list(ids)


@pytest.mark.parametrize("name", IDS)
def test_ids_come_back_from_a_file(name, tmp_path):
    persistence.save(fit(IDS[name]), tmp_path / "gallery")
    loaded = persistence.load(tmp_path / "gallery")
    assert list(loaded.ids_) == list(IDS[name])
    assert [type(id_) for id_ in loaded.ids_] == [type(id_) for id_ in fit(IDS[name]).ids_]


def test_ids_that_a_file_cannot_hold_are_an_error_whose_advice_helps(tmp_path):
    ids = [enum.Enum("Place", "here").here]
    with pytest.raises(ValueError, match=r"^GalleryIds\.values\[0\] is a .* Fit with ids that are"):
        persistence.save(fit(ids), tmp_path / "gallery")
    assert not list(tmp_path.iterdir())


def test_what_a_gallery_holds_cannot_be_written(rng):
    columns = rng.integers(2, size=(4, 3))
    retriever = NeighborsRetriever(1).fit(np.eye(4), columns, ids=list("abcd"))
    for held in (retriever.y_, retriever.ids_):
        with pytest.raises(ValueError, match="read-only"):
            held[0] = held[1]
    np.testing.assert_array_equal(retriever.y_, columns)


def test_true_is_not_1_where_ids_are_of_several_kinds():
    retriever = fit([True, 2, "a"])
    for id_ in (1, 1.0, np.int64(1), 0, False):
        for ask in (retriever.rows, retriever.remove):
            with pytest.raises(ValueError, match="1 of 1 ids are not in the gallery"):
                ask([id_])
    assert retriever.predict(np.eye(3)[:2], ids=[1, np.True_])[:, 0].tolist() == [True, 2]
    assert retriever.partial_fit(np.eye(3)[:1], ids=[1]).remove([True]).ids_.tolist() == [2, "a", 1]
    assert type(retriever.ids_[2]) is int


def test_hashes_of_64_bits_are_ids_whichever_come_first():
    low, high = [1, 2**62], np.array([2**63, 2**64 - 1], dtype=np.uint64)
    for first, second in [(low, high), (high, low), (None, None)]:
        retriever = fit([0, 3] if first is None else first)
        retriever.partial_fit(np.eye(2), ids=high if second is None else second)
        assert retriever.ids_.dtype == np.uint64
        assert retriever.remove([2**64 - 1]).ids_.tolist()[-1] == (
            2**62 if second is low else 2**63
        )
    counted = NeighborsRetriever(1).fit(np.eye(2))
    with pytest.raises(ValueError, match="1 of 1 ids are not in the gallery, such as 18446744"):
        counted.rows(high[1:])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([-1, 2**63], None, "ids hold -1 and 9223372036854775808: no 64-bit type can hold both"),
        ([-1, 0], [2**63], "ids hold -1 and 9223372036854775808: no 64-bit type can hold both"),
        ([2**63], [-1], "ids hold -1 and 9223372036854775808: no 64-bit type can hold both"),
        ([0, 2**64], None, r"ids\[1\]=18446744073709551616 does not fit into 64 bits"),
        ([0, -(2**63) - 1], None, r"ids\[1\]=-9223372036854775809 does not fit into 64 bits"),
    ],
)
def test_ids_that_no_type_of_64_bits_has_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        fit(first).partial_fit(np.eye(len(first))[:1], ids=second)


def test_new_text_that_ends_in_nul_is_another_id():
    retriever = fit(["a", "b"]).partial_fit(np.eye(2)[:1], ids=["a\0"])
    assert retriever.ids_.tolist() == ["a", "b", "a\0"]
    assert retriever.remove(["a"]).ids_.tolist() == ["b", "a\0"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (b"ab", "ids=b'ab' is one string. Wrap it in a list"),
        ([97, "b"], r"ids\[1\]='b' is not one of whole numbers such as 97, .* never be equal"),
        ([97, True], r"ids\[1\]=True is not one of whole numbers"),
        ([97, pd.NA], r"ids\[1\] is <NA>"),
        ([97, np.datetime64("NaT")], r"ids\[1\] is .*NaT"),
        ([97, np.ones(2)], r"ids\[1\] is array"),
    ],
    ids=["bytes", "text", "bool", "NA", "NaT", "array"],
)
def test_ids_that_name_nothing_are_refused(ids, message):
    retriever = fit([97, 98, 99])
    with pytest.raises(ValueError, match=message):
        retriever.remove(ids)
    assert retriever.n_samples_fit_ == 3


@pytest.mark.parametrize("n_letters", [1, 97, 98, 99, 5000])
def test_a_message_shows_ids_of_up_to_100_characters_whole(n_letters):
    unknown = "ab" * (n_letters // 2) + "c" * (n_letters % 2)
    shown = repr(unknown)
    shown = shown if n_letters <= 98 else f"{shown[:97]}..."
    with pytest.raises(ValueError, match="not in the gallery") as raised:
        fit(["x", "y"]).remove([unknown])
    assert f"such as {shown}. " in str(raised.value)


def test_what_may_be_asked_does_not_depend_on_the_other_queries():
    retriever = fit(["a", "b", "c"])
    for ids in (["x"], ["a"], ["x", "a"]):
        X = np.eye(3)[: len(ids)]
        assert retriever.kneighbors(X, 2, ids=ids)[1].shape == (len(ids), 2)
        with pytest.raises(ValueError, match="Expected n_neighbors < n_samples_fit"):
            retriever.kneighbors(X, 3, ids=ids)
    alone = retriever.kneighbors(np.eye(3)[:1], 2, ids=["x"])[1]
    np.testing.assert_array_equal(alone, retriever.kneighbors(np.eye(3)[:1], 2)[1])


# ---------------------------------------------------------------- changes


@pytest.mark.parametrize("parameters", [{}, {"metric": "cosine"}])
def test_parameters_set_after_fit_do_not_mix_with_the_gallery(parameters, rng):
    codes = rng.integers(0, 2, size=(30, 8))
    retriever = NeighborsRetriever(3, metric="hamming").fit(codes)
    retriever.set_params(algorithm="faiss", **parameters)
    with pytest.raises(ValueError, match="'faiss' does not search binary codes"):
        retriever.partial_fit(codes)
    assert retriever.n_samples_fit_ == 30
    retriever.set_params(algorithm="auto").partial_fit(codes)
    expected = NeighborsRetriever(3, metric="hamming").fit(np.vstack([codes, codes]))
    np.testing.assert_array_equal(retriever.kneighbors(codes), expected.kneighbors(codes))


def test_a_gallery_that_moves_into_an_index_keeps_its_metric(rng):
    pytest.importorskip("faiss")
    rows = rng.standard_normal((2000, 8))
    retriever = NeighborsRetriever(3, metric="euclidean").fit(rows[:1900])
    retriever.set_params(metric="cosine", algorithm="faiss").partial_fit(rows[1900:])
    assert (retriever.algorithm_, retriever._gallery.engine.exact.metric) == ("faiss", "euclidean")
    expected = NeighborsRetriever(1, metric="euclidean").fit(rows).kneighbors(rows[1990:] + 1e-3)
    np.testing.assert_allclose(retriever.kneighbors(rows[1990:] + 1e-3, 1), expected)


def after(action, error=None):
    """Counted ids of three rows, after something else was done; then an error if there is one."""
    yield from range(2)
    action()
    if error is not None:
        raise error
    yield 2


def test_a_refit_that_fails_keeps_what_others_did_meanwhile(rng):
    rows = rng.standard_normal((50, 6))
    retriever = fit([f"{i}" for i in range(50)])
    retriever.fit(rows, ids=[f"{i}" for i in range(50)])

    def work():
        assert retriever.n_features_in_ == 6
        assert retriever.predict(rows[:1])[0, 0] == "0"
        retriever.partial_fit(rows[:1], ids=["new"])

    with pytest.raises(KeyboardInterrupt):
        retriever.fit(
            pd.DataFrame(rows[:3, :4]).add_prefix("x"), ids=after(work, KeyboardInterrupt)
        )
    assert retriever.n_samples_fit_ == 51
    assert retriever.remove(["new"]).n_samples_fit_ == 50
    assert not hasattr(retriever, "feature_names_in_")
    retriever.fit(pd.DataFrame(rows[:3, :4]).add_prefix("x"), ids=after(work))
    assert (retriever.n_features_in_, retriever.n_samples_fit_) == (4, 3)
    assert list(retriever.feature_names_in_) == ["x0", "x1", "x2", "x3"]
    assert not hasattr(retriever.fit(rows), "feature_names_in_")


def test_counted_ids_stay_with_their_rows_when_the_first_or_others_are_removed():
    rows = np.eye(8)
    retriever = NeighborsRetriever(1).fit(rows).remove([0, 1])
    assert retriever.predict(rows[2:]).ravel().tolist() == [2, 3, 4, 5, 6, 7]
    retriever.remove([4]).partial_fit(rows[:2])
    kept = [2, 3, 5, 6, 7]
    assert retriever.predict(rows[kept]).ravel().tolist() == kept
    assert retriever.predict(rows[:2]).ravel().tolist() == [8, 9]


def test_ids_that_a_later_gallery_was_given_are_unknown_to_an_earlier_one():
    first = fit(["a", "b", "c"])
    assert first.remove(["c"]).ids_.tolist() == ["a", "b"]  # the table of ids is made
    later = copy.copy(first).partial_fit(np.eye(3)[:2], ids=["x", "y"])
    for unknown in ("x", "y", "z"):
        with pytest.raises(ValueError, match=unknown):
            first.rows([unknown])
    assert later.remove(["x", "y"]).ids_.tolist() == ["a", "b"]


def test_a_first_fit_that_fails_leaves_nothing():
    retriever = NeighborsRetriever()
    before = vars(retriever).copy()
    with pytest.raises(KeyboardInterrupt):
        retriever.fit(np.eye(3), ids=after(list, KeyboardInterrupt))
    assert vars(retriever) == before


def test_a_callback_that_fails_at_the_end_leaves_the_gallery_before(rng):
    class Stop:
        def setup(self, estimator, context):
            pass

        on_fit_task_begin = teardown = setup

        def on_fit_task_end(self, estimator, context):
            raise KeyboardInterrupt

    retriever = NeighborsRetriever(1).fit(np.eye(6)).set_callbacks(Stop())
    with pytest.raises(KeyboardInterrupt):
        retriever.fit(pd.DataFrame(np.eye(3)).add_prefix("x"))
    assert (retriever.n_features_in_, retriever.n_samples_fit_) == (6, 6)
    assert not hasattr(retriever, "feature_names_in_")


def test_queries_while_another_thread_fits_other_widths_see_one_gallery(rng):
    wide, narrow = rng.standard_normal((40, 9)), rng.standard_normal((40, 6))
    retriever, wrong, done = NeighborsRetriever(3).fit(wide), [], threading.Event()
    expected = {len(X[0]): retriever.fit(X).kneighbors(X)[1].tolist() for X in (narrow, wide)}

    def ask():
        while not done.is_set():
            for X in (wide, narrow):
                try:
                    found = retriever.kneighbors(X)[1].tolist()
                except ValueError as error:
                    found = expected[len(X[0])] if "features" in str(error) else str(error)
                if found != expected[len(X[0])]:  # or the other width was there
                    wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        retriever.fit(narrow).fit(wide)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_change_that_takes_long_holds_up_no_other_retriever():
    slow, goes_on = fit(["a", "b", "c"]), threading.Event()
    slow.partial_fit(np.eye(3), ids=["d", "e", "f"])
    others = [fit(["a", "b", "c"]), copy.deepcopy(slow), pickle.loads(pickle.dumps(slow))]
    others.append(clone(slow).fit(np.eye(3), ids=["a", "b", "c"]))
    ids = (goes_on.wait(60) and id_ for id_ in ["g"])
    thread = threading.Thread(target=slow.partial_fit, args=(np.eye(3)[:1],), kwargs={"ids": ids})
    thread.start()
    try:
        for other in [*others, copy.deepcopy(slow)]:
            work = threading.Thread(
                target=other.partial_fit, args=(np.eye(3)[:1],), kwargs={"ids": ["h"]}
            )
            work.start()
            work.join(30)
            assert "h" in other.ids_
        assert slow.predict(np.eye(3)).shape == (3, 1)
        if hasattr(os, "fork"):  # the thread that holds the lock is not there in a child
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons
                child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = int("i" not in slow.partial_fit(np.eye(3)[:1], ids=["i"]).ids_)
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        goes_on.set()
        thread.join()
    assert slow.ids_.tolist() == ["a", "b", "c", "d", "e", "f", "g"]
