"""Galleries whose rows are in a file or on a server, after they were moved."""

import os
import pickle
import shutil

import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.persistence import load, save


def mapped(folder, rows):
    """Return a retriever over a file of rows in a new folder."""
    folder.mkdir()
    np.save(folder / "rows.npy", rows)
    retriever = NeighborsRetriever(3, storage="memory_map")
    return retriever.fit(folder / "rows.npy", ids=[f"{i}.jpg" for i in range(len(rows))])


@pytest.fixture
def rows(rng):
    return rng.normal(size=(60, 5)).astype(np.float32)


@pytest.mark.parametrize("how", ["pickle", "save", "here"])
def test_a_file_of_rows_is_found_at_its_new_place(how, rows, tmp_path):
    retriever = mapped(tmp_path / "old", rows)
    retriever.partial_fit(rows[:2] + 1, ids=["a", "b"]).remove(["5.jpg"])
    expected = retriever.kneighbors(rows)
    stored = pickle.dumps(retriever)
    save(retriever, tmp_path / "gallery.cbir")
    (tmp_path / "new").mkdir()
    os.rename(tmp_path / "old" / "rows.npy", tmp_path / "new" / "moved.npy")
    if how != "here":
        retriever = pickle.loads(stored) if how == "pickle" else load(tmp_path / "gallery.cbir")
    assert retriever.n_samples_fit_ == 61  # what is not in the file is there
    with pytest.raises(FileNotFoundError, match=r"rows\.npy', which is missing.*relocate\(path\)"):
        retriever.kneighbors(rows)
    retriever.relocate(tmp_path / "new" / "moved.npy")
    np.testing.assert_array_equal(retriever.kneighbors(rows), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(retriever)).kneighbors(rows), expected)
    retriever.partial_fit(rows[:1], ids=["c"])
    assert retriever.ids_[-1] == "c"


def test_another_file_is_not_taken_for_that_of_the_gallery(rows, tmp_path):
    retriever = mapped(tmp_path / "old", rows)
    expected = retriever.kneighbors(rows)
    other = rows.copy()
    other[30, 2] += 1
    np.save(tmp_path / "other.npy", other)
    np.save(tmp_path / "fewer.npy", rows[:59])
    for name in ("other.npy", "fewer.npy"):
        with pytest.raises(ValueError, match=f"{name}' is not the file on which this gallery"):
            retriever.relocate(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nowhere.npy"):
        retriever.relocate(tmp_path / "nowhere.npy")
    np.testing.assert_array_equal(retriever.kneighbors(rows), expected)
    # Another file at the old place keeps nobody from loading and relocating.
    stored = pickle.dumps(retriever)
    shutil.move(tmp_path / "old" / "rows.npy", tmp_path / "rows.npy")
    shutil.move(tmp_path / "other.npy", tmp_path / "old" / "rows.npy")
    loaded = pickle.loads(stored)
    with pytest.raises(OSError, match=r"has changed since.*relocate\(path\)"):
        loaded.kneighbors(rows)
    loaded.relocate(tmp_path / "rows.npy")
    np.testing.assert_array_equal(loaded.kneighbors(rows), expected)


def test_a_file_that_moves_together_with_the_saved_gallery_is_found(rows, tmp_path):
    retriever = mapped(tmp_path / "old", rows)
    save(retriever, tmp_path / "old" / "gallery.cbir")
    expected = retriever.kneighbors(rows)
    os.rename(tmp_path / "old", tmp_path / "new")
    loaded = load(tmp_path / "new" / "gallery.cbir")
    np.testing.assert_array_equal(loaded.kneighbors(rows), expected)
    rows[0] += 1
    np.save(tmp_path / "new" / "rows.npy", rows)  # another of the same name is not taken
    with pytest.raises(FileNotFoundError, match="which is missing"):
        load(tmp_path / "new" / "gallery.cbir").kneighbors(rows)


@pytest.mark.parametrize("parameters", [{}, {"metric": "hamming"}, {"storage": "float16"}])
def test_a_gallery_in_memory_is_nowhere_else(parameters, tmp_path):
    retriever = NeighborsRetriever(1, **parameters).fit(np.eye(3))
    with pytest.raises(ValueError, match="rows of this gallery are in memory"):
        retriever.relocate(tmp_path / "rows.npy")


@pytest.mark.parametrize("how", ["pickle", "save", "beside"])
def test_a_milvus_file_is_found_at_its_new_place(how, rows, tmp_path):
    pytest.importorskip("milvus_lite")
    (tmp_path / "old").mkdir()
    uri = str(tmp_path / "old" / "gallery.db")
    retriever = NeighborsRetriever(3, algorithm="milvus", uri=uri, metric="euclidean").fit(rows)
    expected = retriever.kneighbors(rows)
    stored = pickle.dumps(retriever)
    save(retriever, tmp_path / "old" / "gallery.cbir")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    new = tmp_path / "new" / "gallery.db"
    folder = tmp_path / "new" if how == "beside" else tmp_path
    if how != "beside":
        os.rename(tmp_path / "new" / "gallery.cbir", tmp_path / "gallery.cbir")
    loaded = pickle.loads(stored) if how == "pickle" else load(folder / "gallery.cbir")
    if how != "beside":
        with pytest.raises(FileNotFoundError, match=r"is missing.*relocate\(uri\)"):
            loaded.kneighbors(rows)
        loaded.relocate(new)
        assert loaded.uri == new
    np.testing.assert_array_equal(loaded.kneighbors(rows), expected)


def test_a_uri_that_is_set_after_fit_is_not_ignored(rows, tmp_path):
    pytest.importorskip("milvus_lite")
    uri, other = str(tmp_path / "a.db"), str(tmp_path / "b.db")
    retriever = NeighborsRetriever(3, algorithm="milvus", uri=uri).fit(rows)
    retriever.set_params(uri=other)
    for action in (
        lambda: retriever.kneighbors(rows),
        lambda: retriever.partial_fit(rows),
        lambda: retriever.remove([0]),
    ):
        with pytest.raises(ValueError, match=r"b\.db' was set after fit, but the gallery is at"):
            action()
    with pytest.raises(FileNotFoundError, match=r"b\.db, is missing"):
        retriever.relocate(other)
    assert retriever.set_params(uri=uri).kneighbors(rows)[1].shape == (60, 3)
    retriever.set_params(uri=other).fit(rows)  # a new gallery there
    assert retriever.kneighbors(rows)[1].shape == (60, 3)
