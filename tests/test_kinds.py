"""Files and pickles call what they hold by kinds and public names, so that classes can move."""

import copy
import importlib
import io
import json
import pickle
import zipfile

import cloudpickle
import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir._kinds import FORMER, KINDS, Kept, class_of, former_classes, kind_of, of_kind
from sklearn_cbir.index._approximate import FilteredIndex
from sklearn_cbir.index._exact import CosineEngine
from sklearn_cbir.index._hamming import FilteredHammingEngine
from sklearn_cbir.persistence import save

ROWS = np.random.default_rng(0).normal(size=(1300, 4)).astype(np.float32)
LABELS = np.arange(1300) % 3
# Algorithm, or storage, or metric: all that a gallery can consist of.
GALLERIES = {
    "exact": {"algorithm": "exact"},
    "euclidean": {"metric": "euclidean", "algorithm": "exact"},
    "hamming": {"metric": "hamming"},
    "float16": {"storage": "float16"},
    "float16 euclidean": {"storage": "float16", "metric": "euclidean"},
    "memory_map": {"storage": "memory_map"},
    "memory_map euclidean": {"storage": "memory_map", "metric": "euclidean"},
    "nndescent": {"algorithm": "nndescent", "random_state": 0},
    "faiss": {"algorithm": "faiss", "random_state": 0},
    "milvus": {"algorithm": "milvus"},
}
PUBLIC = {"sklearn_cbir.neighbors.NeighborsRetriever", "sklearn_cbir.index.of_kind"}


@pytest.fixture(params=GALLERIES)
def retriever(request, tmp_path):
    parameters = GALLERIES[request.param]
    rows = (ROWS > 0).astype(np.uint8) if request.param == "hamming" else ROWS
    if "memory_map" in request.param:
        np.save(tmp_path / "rows.npy", rows)
        rows = tmp_path / "rows.npy"
    if request.param == "faiss":
        pytest.importorskip("faiss")
    if request.param == "milvus":
        pytest.importorskip("milvus_lite")
        parameters = parameters | {"uri": str(tmp_path / "rows.db")}
    y = LABELS + 0.5 if request.param == "euclidean" else LABELS  # targets, or labels
    return NeighborsRetriever(3, **parameters).fit(rows, y, ids=[f"{i}.jpg" for i in range(1300)])


class Reader(pickle.Unpickler):
    """Notes what a pickle names."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))
        self.names = set()

    def find_class(self, module, name):
        self.names.add(f"{module}.{name}")
        return super().find_class(module, name)


def names_in(content):
    reader = Reader(content)
    reader.load()
    return {name for name in reader.names if name.startswith("sklearn_cbir")}


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_of_a_gallery_names_no_private_module(retriever, protocol):
    assert names_in(pickle.dumps(retriever, protocol)) == PUBLIC
    assert names_in(cloudpickle.dumps(retriever, protocol)) == PUBLIC


def test_a_file_of_a_gallery_names_no_module_but_of_public_classes(retriever, tmp_path):
    save(retriever, tmp_path / "gallery.cbir")
    with zipfile.ZipFile(tmp_path / "gallery.cbir") as archive:
        names = set()

        def note(node):
            names.update({node["class"]} if "class" in node else ())
            return node

        json.loads(archive.read("estimator.json"), object_hook=note)
    assert names - KINDS.keys() == {"sklearn_cbir.neighbors.NeighborsRetriever"}
    assert {"gallery", "gallery ids"} < names


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_that_of_its_class(kind):
    assert kind_of(class_of(kind)) == kind


def subclasses(cls):
    found = [sub for sub in cls.__subclasses__() if sub.__module__.startswith("sklearn_cbir.")]
    return found + [each for sub in found for each in subclasses(sub)]


def test_every_class_that_is_kept_has_a_kind():
    for kind in KINDS:
        class_of(kind)
    # Of what a filter leaves in, engines are remembered and never kept.
    filtered = FilteredHammingEngine, FilteredIndex
    without = [cls for cls in subclasses(Kept) if kind_of(cls) is None and cls not in filtered]
    assert all(subclasses(cls) for cls in without)  # what others derive from is never made


@pytest.mark.parametrize("name", FORMER)
def test_a_class_is_found_where_old_pickles_look_for_it(name):
    # One that fails has moved: `__getattr__ = former_classes(__name__)` goes into its old module.
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute) is class_of(FORMER[name])


def test_a_module_that_classes_have_left_knows_them_and_nothing_else():
    find = former_classes("sklearn_cbir.index._exact")
    assert find("CosineEngine") is CosineEngine
    with pytest.raises(AttributeError, match=r"'sklearn_cbir.index._exact' has no attribute 'Old'"):
        find("Old")


def test_every_kind_was_named_otherwise_once_or_is_new():
    assert set(FORMER.values()) <= KINDS.keys()


class Own(CosineEngine):
    """An engine of a user."""

    pickled = (*CosineEngine.pickled, "of_its_own")


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_a_subclass_of_a_user_stays_what_it_is(again):
    engine = Own().build(ROWS)
    engine.of_its_own = [1]
    copied = again(engine)
    assert type(copied) is Own
    assert copied.of_its_own == [1]
    np.testing.assert_array_equal(copied.query(ROWS[:2], 3)[1], engine.query(ROWS[:2], 3)[1])
    assert f"{__name__}.Own" in pickle.dumps(engine, 0).decode("latin1").replace("\n", ".")


def test_a_pickle_of_a_later_version_says_so():
    with pytest.raises(ValueError, match="'quantum gallery', which this version of sklearn_cbir d"):
        of_kind("quantum gallery")
