"""Wherever a gallery is held: hostile queries are one clear error, threads get one answer."""

import os
import threading
import warnings

import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever

PLACES = [
    ("memory_map", "cosine"),
    ("memory_map", "euclidean"),
    ("float16", "cosine"),
    ("float16", "euclidean"),
    ("milvus", "cosine"),
    ("milvus", "euclidean"),
    ("milvus", "hamming"),
    ("faiss", "cosine"),
    ("faiss", "euclidean"),
]
EACH_PLACE = pytest.mark.parametrize(
    ("place", "metric"), PLACES, ids=["-".join(case) for case in PLACES]
)


def make_rows(rng, n, metric):
    rows = rng.standard_normal((n, 12))
    return (rows > 0).astype(np.uint8) if metric == "hamming" else rows.astype(np.float32)


def fit(place, metric, rows, folder, **options):
    parameters = {"storage": place} if place in ("memory_map", "float16") else {"algorithm": place}
    if place == "milvus":
        pytest.importorskip("milvus_lite")
        parameters["uri"] = str(folder / "gallery.db")
    elif place == "faiss":
        pytest.importorskip("faiss")
        parameters["random_state"] = 0
    X = rows
    if place == "memory_map":
        X = folder / "rows.npy"
        np.save(X, rows)
    return NeighborsRetriever(5, metric=metric, **parameters).fit(X, **options)


def join(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@EACH_PLACE
def test_hostile_queries_are_one_clear_error(place, metric, rng, tmp_path):
    rows = make_rows(rng, 1200, metric)
    retriever = fit(place, metric, rows, tmp_path)
    for query, message in (
        (rows[0], "Reshape your data"),
        (np.zeros((2, 11)), "X has 11 features.*expecting 12"),
        (np.zeros((2, 13)), "X has 13 features.*expecting 12"),
        (np.zeros((1, 100_000)), "X has 100000 features.*expecting 12"),
        (np.zeros((0, 12)), "0 sample"),
        (np.full((1, 12), np.nan), r"\[0, 0\]"),
        (np.full((1, 12), np.inf), r"\[0, 0\]"),
        ([["a"] * 12], "(?i)convert"),
    ):
        with pytest.raises(ValueError, match=message):
            retriever.kneighbors(query)
        with pytest.raises(ValueError, match=message):
            retriever.partial_fit(query)
    for k in (0, -1, 2.5, True, "3"):
        with pytest.raises(ValueError, match="n_neighbors="):
            retriever.kneighbors(rows[:2], k)
    with pytest.raises(ValueError, match="n_neighbors = 1201, n_samples_fit = 1200"):
        retriever.kneighbors(rows[:2], 1201)
    with pytest.raises(ValueError, match="Expected n_neighbors < n_samples_fit.* = 1200"):
        retriever.kneighbors(None, 1200)
    assert (np.sort(retriever.kneighbors(rows[:2], 1200)[1]) == np.arange(1200)).all()
    assert retriever.n_samples_fit_ == 1200


@EACH_PLACE
def test_copies_of_a_row_fill_every_slot_in_order(place, metric, rng, tmp_path):
    rows = np.repeat(make_rows(rng, 300, metric), 4, axis=0)
    rows = rows[np.argsort(np.arange(1200) % 4, kind="stable")]  # copies lie 300 rows apart
    distances, positions = fit(place, metric, rows, tmp_path).kneighbors(rows[:30], 4)
    expected = NeighborsRetriever(4, metric=metric, algorithm="exact").fit(rows)
    if place == "float16":  # rounded rows are a little away from their queries
        assert (np.diff(positions, axis=1) == 300).all()
    else:
        assert (distances == 0).all()
    if metric != "hamming":  # codes of 12 bits have other copies, too
        np.testing.assert_array_equal(positions, expected.kneighbors(rows[:30])[1])


@EACH_PLACE
def test_threads_and_forked_children_get_the_answers_of_one(place, metric, rng, tmp_path):
    rows = make_rows(rng, 1200, metric)
    retriever = fit(place, metric, rows, tmp_path)
    expected = retriever.kneighbors(rows[:10])[1]
    right = []

    def ask():
        alone = [retriever.kneighbors(rows[row : row + 1])[1][0] for row in range(10)]
        right.append((np.array(alone) == expected).all())

    join([threading.Thread(target=ask) for _ in range(4)])
    assert right == [True] * 4
    if place == "milvus" or not hasattr(os, "fork"):  # what a child may ask is in test_milvus.py
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons: forking is unwise
        child = os.fork()
    if child == 0:
        code = 1
        try:
            grown = retriever.partial_fit(rows[:1])
            found = [r.kneighbors(rows[5:10])[1] for r in (retriever, grown)]
            code = 0 if all((each == expected[5:]).mean() > 0.9 for each in found) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@EACH_PLACE
def test_threads_that_search_while_others_change_see_one_gallery(place, metric, rng, tmp_path):
    rows = make_rows(rng, 1100, metric)
    rows = np.unique(rows, axis=0) if metric == "hamming" else rows
    n, names = len(rows), [f"row {i}" for i in range(len(rows))]
    retriever = fit(place, metric, rows, tmp_path, ids=names)
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            found = retriever.predict(rows[:9])[:, 0].tolist()
            if found != names[:9]:
                wrong.append(found)

    def change(name, first):
        for i in range(6):
            retriever.partial_fit(rows[20 + i : 21 + i], ids=[f"{name} {i}"])
            retriever.remove(names[first + i : first + i + 1])

    searching = [threading.Thread(target=search) for _ in range(2)]
    for thread in searching:
        thread.start()
    try:
        join([threading.Thread(target=change, args=args) for args in (("a", 30), ("b", 40))])
    finally:
        stop.set()
        for thread in searching:
            thread.join()
    assert wrong == []
    assert len(set(retriever.ids_)) == retriever.n_samples_fit_ == n
    assert {f"{name} {i}" for name in "ab" for i in range(6)} < set(retriever.ids_)
