"""What a gallery knows of its rows: ids that stay what they are, whatever they are."""

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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


@pytest.mark.parametrize("name", [name for name in IDS if name not in ("timestamps", "dates")])
def test_ids_come_back_from_a_file(name, tmp_path):
    persistence.save(fit(IDS[name]), tmp_path / "gallery")
    loaded = persistence.load(tmp_path / "gallery")
    assert list(loaded.ids_) == list(IDS[name])
    assert [type(id_) for id_ in loaded.ids_] == [type(id_) for id_ in fit(IDS[name]).ids_]


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


def test_what_may_be_asked_does_not_depend_on_the_other_queries():
    retriever = fit(["a", "b", "c"])
    for ids in (["x"], ["a"], ["x", "a"]):
        X = np.eye(3)[: len(ids)]
        assert retriever.kneighbors(X, 2, ids=ids)[1].shape == (len(ids), 2)
        with pytest.raises(ValueError, match="Expected n_neighbors < n_samples_fit"):
            retriever.kneighbors(X, 3, ids=ids)
    alone = retriever.kneighbors(np.eye(3)[:1], 2, ids=["x"])[1]
    np.testing.assert_array_equal(alone, retriever.kneighbors(np.eye(3)[:1], 2)[1])
