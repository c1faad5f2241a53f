"""Galleries that grow row by row: fast, within memory, and under readers of what they were."""

import copy
import enum
import pickle
import threading
import time
import tracemalloc

import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.persistence import load, save

PLACES = {
    "cosine": {"algorithm": "exact"},
    "euclidean": {"algorithm": "exact", "metric": "euclidean"},
    "hamming": {"metric": "hamming"},
    "float16": {"storage": "float16"},
    "graph": {"algorithm": "nndescent"},
}


def gallery_of(place, n, rng):
    """Return a retriever without rows, rows for it, labels and ids."""
    rows = rng.normal(size=(n, 12)).astype(np.float32)
    rows = (rows > 0).astype(np.uint8) if place == "hamming" else rows
    ids = [f"photo{i}.jpg" for i in range(n)]
    return NeighborsRetriever(3, **PLACES[place]), rows, rng.integers(0, 5, n), ids


def same_answers(left, right, queries):
    np.testing.assert_array_equal(left.ids_, right.ids_)
    np.testing.assert_array_equal(left.y_, right.y_)
    np.testing.assert_array_equal(left.kneighbors(queries), right.kneighbors(queries))
    np.testing.assert_array_equal(left.predict(queries), right.predict(queries))
    assert left.score(queries, left.y_[: len(queries)]) == pytest.approx(
        right.score(queries, right.y_[: len(queries)])
    )


@pytest.mark.filterwarnings("ignore:.*queries are equal to rows")
@pytest.mark.parametrize("place", ["cosine", "euclidean", "hamming", "float16"])
def test_rows_that_come_and_go_one_by_one_answer_like_a_new_fit(place, rng):
    retriever, rows, y, ids = gallery_of(place, 150, rng)
    retriever.fit(rows[:40], y[:40], ids=ids[:40])
    for i in range(40, 150):
        retriever.partial_fit(rows[i : i + 1], y[i : i + 1], ids=ids[i : i + 1])
        retriever.kneighbors(rows[:1])  # what is remembered of the rows grows with them
        if i % 10 == 0:
            retriever.remove([ids[i - 3]])
            retriever.partial_fit(rows[i - 3 : i - 2], y[i - 3 : i - 2], ids=[ids[i - 3]])
    order = [ids.index(id_) for id_ in retriever.ids_]
    assert sorted(order) == list(range(150))
    fresh = NeighborsRetriever(3, **PLACES[place])
    fresh.fit(rows[order], y[order], ids=[ids[i] for i in order])
    same_answers(retriever, fresh, rows[:20])


@pytest.mark.filterwarnings("ignore:.*queries are equal to rows")
@pytest.mark.parametrize("place", PLACES)
def test_two_that_grow_from_one_gallery_do_not_meet(place, rng):
    n = 1300 if place == "graph" else 40
    retriever, rows, y, ids = gallery_of(place, n, rng)
    retriever.fit(rows[:-20], y[:-20], ids=ids[:-20])
    retriever.partial_fit(rows[-20:-18], y[-20:-18], ids=ids[-20:-18])
    twin, frozen = copy.copy(retriever), copy.copy(retriever)  # all of the same gallery
    for i in range(-18, -9):
        retriever.partial_fit(rows[i : i + 1], y[i : i + 1], ids=ids[i : i + 1])
        twin.partial_fit(rows[i + 9 :][:1], y[i + 9 :][:1], ids=ids[i + 9 :][:1])
    assert frozen.ids_.tolist() == ids[:-18]
    assert retriever.ids_.tolist() == ids[:-9]
    assert twin.ids_.tolist() == [*ids[:-18], *ids[-9:]]
    if place != "graph":
        fresh = NeighborsRetriever(3, **PLACES[place])
        order = [*range(n - 18), *range(n - 9, n)]
        fresh.fit(rows[order], y[order], ids=[ids[i] for i in order])
        same_answers(twin, fresh, rows[:20])
        same_answers(frozen, fresh.fit(rows[:-18], y[:-18], ids=ids[:-18]), rows[:20])
    for each, new in ((retriever, ids[-1]), (twin, ids[-10]), (frozen, ids[-18])):
        with pytest.raises(ValueError, match="not in the gallery"):
            each.remove([new])


def test_an_addition_that_fails_leaves_the_gallery_as_it_was(rng):
    retriever, rows, y, ids = gallery_of("cosine", 40, rng)
    retriever.fit(rows[:30], y[:30], ids=ids[:30])
    for _ in range(3):
        with pytest.raises(ValueError, match="labels"):
            retriever.partial_fit(rows[30:31], ["text"], ids=ids[30:31])
    retriever.partial_fit(rows[30:31], y[30:31], ids=ids[30:31])
    assert retriever.ids_.tolist() == ids[:31]
    fresh = NeighborsRetriever(3, algorithm="exact").fit(rows[:31], y[:31], ids=ids[:31])
    np.testing.assert_array_equal(retriever.kneighbors(rows), fresh.kneighbors(rows))


def test_readers_of_the_gallery_see_it_whole_while_it_grows(rng):
    retriever, rows, y, ids = gallery_of("cosine", 400, rng)
    retriever.fit(rows[:50], y[:50], ids=ids[:50])
    done, wrong = threading.Event(), []

    def read():
        while not done.is_set():
            found = retriever.predict(rows[:5])[:, 0].tolist()
            n = retriever.kneighbors(rows[:1], 1, ids=["none"])[1][0, 0]
            if found != ids[:5] or n != 0 or retriever.ids_.tolist()[:50] != ids[:50]:
                wrong.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(50, 400):
        retriever.partial_fit(rows[i : i + 1], y[i : i + 1], ids=ids[i : i + 1])
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong


@pytest.mark.parametrize("place", PLACES)
def test_what_is_pickled_and_saved_has_no_room_for_more(place, rng, tmp_path):
    n = 1300 if place == "graph" else 400
    retriever, rows, y, ids = gallery_of(place, n, rng)
    retriever.fit(rows, y, ids=ids)
    before = len(pickle.dumps(retriever))
    retriever.partial_fit(rows[:1], y[:1], ids=["new"])
    assert len(pickle.dumps(retriever)) < before + 500
    save(retriever, tmp_path / "a")
    loaded = load(tmp_path / "a")
    assert loaded.partial_fit(rows[:1], y[:1], ids=["newer"]).ids_.tolist() == [
        *ids, "new", "newer",
    ]  # fmt: skip


def test_one_row_with_a_text_id_comes_to_100_000_in_milliseconds(rng):
    rows = rng.normal(size=(100_100, 32)).astype(np.float32)
    ids = [f"folder/photo{i}.jpg" for i in range(100_100)]
    retriever = NeighborsRetriever(3, algorithm="exact").fit(rows[:100_000], ids=ids[:100_000])
    times = []
    for i in range(100_000, 100_100):
        start = time.thread_time()
        retriever.partial_fit(rows[i : i + 1], ids=ids[i : i + 1])
        times.append(time.thread_time() - start)
    assert np.median(times) < 0.005
    assert retriever.predict(rows[-1:])[0, 0] == ids[-1]
    with pytest.raises(ValueError, match="in the gallery already"):
        retriever.partial_fit(rows[:1], ids=ids[50_000:50_001])


def traced(action):
    """Return what an action returns, and the bytes that it held at most."""
    tracemalloc.start()
    try:
        result = action()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_ids_follows_the_sum_of_their_lengths(tmp_path):
    rows = np.eye(2)[np.arange(5000) % 2]
    ids = [f"{i:020d}" for i in range(4999)] + ["data:" + "x" * 20_000]
    retriever, fit = traced(lambda: NeighborsRetriever(1).fit(rows, ids=ids))
    _, add = traced(lambda: retriever.partial_fit(rows[:1], ids=["new"]))
    _, ask = traced(lambda: retriever.kneighbors(rows[:9], ids=ids[:9]))
    _, see = traced(lambda: (retriever.ids_, retriever.predict(rows[:3])))
    pickled, dump = traced(lambda: pickle.dumps(retriever))
    _, write = traced(lambda: save(retriever, tmp_path / "a"))
    _, remove = traced(lambda: retriever.remove(["new"]))
    assert max(fit, add, ask, see, dump, write, remove) < 6e6  # 400 MB if all were as long
    assert len(pickled) < 500_000
    for each in (retriever, pickle.loads(pickled).remove(["new"]), load(tmp_path / "a")):
        assert each.ids_.tolist()[:5000] == ids
    late = NeighborsRetriever(1).fit(rows[:4999], ids=ids[:4999])
    assert late.ids_.dtype == "<U20"
    _, add = traced(lambda: late.partial_fit(rows[:1], ids=ids[4999:]))
    assert add < 6e6
    assert late.ids_.tolist() == ids
    # They are used as text of fixed width is.
    assert np.isin(late.ids_, ids[7:9]).sum() == np.count_nonzero(late.ids_ == ids[7]) + 1 == 2
    with pytest.raises(ValueError, match=r"ids\[0\]=7 is not one of text"):
        late.remove([7])


def test_ids_become_wider_with_the_widest():
    retriever = NeighborsRetriever(1).fit(np.eye(2), ids=["a", "b"])
    for n in (2, 3, 40, 5):
        retriever.partial_fit(np.eye(2)[:1], ids=["c" * n])
        assert retriever.ids_[-1] == "c" * n
    assert retriever.ids_.dtype == "<U40"
    assert retriever.remove(["cc"]).ids_.tolist() == ["a", "b", "c" * 3, "c" * 40, "c" * 5]


def test_text_of_other_classes_is_the_text_itself():
    class Place(str, enum.Enum):  # noqa: UP042
        here = "here.jpg"

    retriever = NeighborsRetriever(1).fit(np.eye(2), ids=[Place.here, np.str_("there.jpg")])
    assert retriever.ids_.tolist() == ["here.jpg", "there.jpg"]
    assert retriever.remove(["here.jpg"]).ids_.tolist() == ["there.jpg"]
