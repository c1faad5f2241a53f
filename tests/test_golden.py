"""What an earlier version saved loads, to the same answers: `tests/data/golden` holds its files."""

import os
import pickle
import shutil
import sqlite3
import sys
import tarfile
import types
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cbir import _kinds
from sklearn_cbir._checkpoint import Checkpoint
from sklearn_cbir.collection import PhotoCollection, _table
from sklearn_cbir.extraction import load_features
from sklearn_cbir.index import _exact
from sklearn_cbir.persistence import load, save

FOLDER = Path(__file__).parent / "data/golden"
ELSEWHERE = ("memory_map_cosine", "memory_map_euclidean", "milvus")  # rows beside the file


def names_in(archive):
    with tarfile.open(FOLDER / f"{archive}.tar.xz") as members:
        return sorted(Path(name).stem for name in members.getnames() if name.endswith(".cbir"))


NAMES = {archive: names_in(archive) for archive in ("format_1", "format_1_later", "format_2")}
FILES = [(archive, name) for archive, names in NAMES.items() for name in names]
HERE = [(archive, name) for archive, name in FILES if name not in ELSEWHERE]


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """Folders of what was saved, and of it the answers, by archive."""
    folder, answers = tmp_path_factory.mktemp("golden"), {}
    for archive in (*NAMES, "format_3", "collection_1"):
        with tarfile.open(FOLDER / f"{archive}.tar.xz") as members:
            members.extraction_filter = getattr(tarfile, "data_filter", None)  # from 3.11.4 on
            members.extractall(folder / archive)
        with np.load(folder / archive / "answers.npz") as file:
            answers[archive] = dict(file)
    return folder, answers


def check(estimator, name, answers):
    X = answers[f"{name}/X"]
    if f"{name}/transform" in answers:
        found, wanted = estimator.transform(X), answers[f"{name}/transform"]
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    if f"{name}/predict" in answers:
        predicted = np.vectorize(str)(estimator.predict(X))
        np.testing.assert_array_equal(predicted, answers[f"{name}/predict"])
    if f"{name}/distances" in answers:
        distances, positions = estimator.kneighbors(X)
        np.testing.assert_allclose(distances, answers[f"{name}/distances"], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(positions, answers[f"{name}/positions"])
    if f"{name}/score" in answers:
        assert estimator.score() == pytest.approx(answers[f"{name}/score"], abs=1e-12)


def test_every_kind_of_file_is_among_the_golden_ones():
    assert [len(names) for names in NAMES.values()] == [25, 13, 13]


def test_the_golden_files_are_few_bytes():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 500_000


# Of what it holds of scikit-learn it says so itself.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
@pytest.mark.parametrize(("archive", "name"), HERE)
def test_a_file_of_an_earlier_version_loads_to_the_same_answers(archive, name, golden):
    folder, answers = golden
    check(load(folder / archive / f"{name}.cbir"), name, answers[archive])


@pytest.mark.parametrize(("archive", "name"), [pair for pair in HERE if pair[1] != "pipeline"])
def test_a_pickle_of_an_earlier_version_loads_to_the_same_answers(archive, name, golden):
    folder, answers = golden
    check(joblib.load(folder / archive / f"{name}.joblib"), name, answers[archive])


@pytest.mark.parametrize("name", ["trained", "untrained"])
def test_a_module_of_an_earlier_version_loads_to_the_same_answers(name, golden):
    def net():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    folder, answers = golden[0] / "format_3", golden[1]["format_3"]
    check(load(folder / f"{name}.cbir", modules={"net": net}), name, answers)
    check(joblib.load(folder / f"{name}.joblib"), name, answers)


@pytest.mark.parametrize("archive", NAMES)
@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("how", ["cbir", "joblib"])
def test_a_gallery_of_an_earlier_version_is_found_where_it_was_moved(archive, name, how, golden):
    if name == "milvus":
        pytest.importorskip("milvus_lite")
    folder, answers = golden
    retriever = (load if how == "cbir" else joblib.load)(folder / archive / f"{name}.{how}")
    place = "gallery.db" if name == "milvus" else "rows.npy"
    retriever.relocate(folder / archive / place)
    check(retriever, name, answers[archive])


def test_shards_of_an_earlier_version_are_read(golden):
    folder, answers = golden
    rows = load_features(folder / "format_1/shards")
    np.testing.assert_array_equal(rows, answers["format_1"]["shards/rows"])


def test_a_checkpoint_of_an_earlier_version_holds_the_network(golden):
    folder, answers = golden[0] / "format_1", golden[1]["format_1"]
    checkpoint = Checkpoint(folder, "CNNFeatureExtractor", "any")
    (checkpoint.path,) = (folder / "checkpoints").iterdir()
    state = checkpoint.load()
    trained = joblib.load(folder / "module.joblib")
    for name, value in trained._network_state["weights"].items():
        assert torch.equal(state["network"][name], torch.from_numpy(value))
    np.testing.assert_allclose(
        trained.transform(answers["checkpoints/X"]), answers["checkpoints/transform"], atol=1e-6
    )


@pytest.fixture(params=["floats", "codes"])
def photos(request, golden, tmp_path):
    """A folder of photos with a collection that an earlier version has made, and its answers."""
    folder, answers = golden
    copy = tmp_path / request.param
    shutil.copytree(folder / "collection_1" / request.param, copy)
    start = f"{request.param}/"
    of_it = answers["collection_1"].items()
    return copy, {name[len(start) :]: value for name, value in of_it if name.startswith(start)}


def check_collection(collection, photos, answers):
    queries = [photos / "ab"[number % 2] / f"{number}.png" for number in range(1, 6)]
    hits = collection.search(queries, k=4)
    assert [[hit.number for hit in of] for of in hits] == answers["numbers"].tolist()
    distances = [[hit.distance for hit in of] for of in hits]
    np.testing.assert_allclose(distances, answers["distances"], atol=1e-5)
    assert collection.score("precision@1") == pytest.approx(answers["score"])
    items = collection.items()
    for name, values in answers.items():
        if name.startswith("items/"):
            np.testing.assert_array_equal(items[name.removeprefix("items/")], values)


def test_a_collection_of_an_earlier_version_is_read_and_left_alone(photos):
    folder, answers = photos
    files = sorted((folder / ".cbir").iterdir())
    before = [file.read_bytes() for file in files]
    with PhotoCollection.open(folder / ".cbir", read_only=True) as collection:
        check_collection(collection, folder, answers)
        collection.check()
    assert [file.read_bytes() for file in files] == before


def test_a_collection_of_an_earlier_version_keeps_up(photos):
    folder, answers = photos
    with PhotoCollection.open(folder / ".cbir") as collection:
        check_collection(collection, folder, answers)
        report = collection.sync()
        assert (report.n_changes, report.unchanged, report.unreadable) == (0, 6, 1)
        check_collection(collection, folder, answers)
        os.rename(folder / "a/2.png", folder / "b/two.png")
        shutil.copy2(folder / "b/3.png", folder / "b/three.png")
        (folder / "no photo.jpg").unlink()
        labels = folder / "labels.csv"
        labels.write_text(labels.read_text().replace("a/2.png", "b/two.png"))
        report = collection.sync()
        assert (report.moved, report.added, report.removed) == (1, 1, 1)
        assert collection.compact() == 1
        collection.check()
        hits = collection.search([folder / "b/3.png"], k=2)[0]
        assert {os.path.basename(hit.path) for hit in hits} == {"3.png", "three.png"}
        assert len(collection) == 6


def test_the_newest_format_of_collections_is_among_the_golden_ones(golden):
    table = golden[0] / f"collection_{_table.FORMAT}" / "floats/.cbir/collection.sqlite"
    connection = sqlite3.connect(table)
    assert connection.execute("PRAGMA user_version").fetchone() == (_table.FORMAT,)
    connection.close()


@pytest.mark.parametrize("archive", ["format_1", "format_2"])
def test_what_is_loaded_is_saved_in_the_newest_format(archive, golden, tmp_path):
    retriever = load(golden[0] / archive / "exact_cosine.cbir")
    save(retriever, tmp_path / "again.cbir")
    assert b"sklearn_cbir format 2," in (tmp_path / "again.cbir").read_bytes()[-200:]
    check(load(tmp_path / "again.cbir"), "exact_cosine", golden[1][archive])


@pytest.fixture
def moved(monkeypatch):
    """The engine of the cosine has another module and another name, as after a change."""
    engine, elsewhere = _exact.CosineEngine, types.ModuleType("sklearn_cbir.index._elsewhere")
    elsewhere.Renamed = engine
    monkeypatch.setitem(sys.modules, elsewhere.__name__, elsewhere)
    monkeypatch.delattr(_exact, "CosineEngine")
    former = _kinds.former_classes(_exact.__name__)
    monkeypatch.setattr(_exact, "__getattr__", former, raising=False)
    monkeypatch.setitem(_kinds.KINDS, "cosine", "index._elsewhere.Renamed")
    monkeypatch.setitem(_kinds._KIND_AT, "sklearn_cbir.index._elsewhere.Renamed", "cosine")
    before = engine.__module__, engine.__name__, engine.__qualname__
    engine.__module__, engine.__name__, engine.__qualname__ = elsewhere.__name__, *2 * ["Renamed"]
    yield
    engine.__module__, engine.__name__, engine.__qualname__ = before


@pytest.mark.parametrize("archive", NAMES)
def test_all_that_was_saved_loads_after_a_class_has_moved(archive, golden, moved, tmp_path):
    folder, answers = golden[0] / archive, golden[1][archive]
    file, stored = load(folder / "exact_cosine.cbir"), joblib.load(folder / "exact_cosine.joblib")
    save(file, tmp_path / "again.cbir")
    again = pickle.loads(pickle.dumps(stored)), load(tmp_path / "again.cbir")
    for retriever in (file, stored, *again):
        assert type(retriever._gallery.engine).__name__ == "Renamed"
        check(retriever, "exact_cosine", answers)
