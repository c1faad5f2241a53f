"""OnnxExtractor gives what the exported estimator gives, without torch, of safe files only."""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_cases import IMAGES, fitted, small_extractor
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from sklearn_cbir import (
    DeepHasher,
    NeighborsRetriever,
    OnnxExtractor,
    Text,
    _onnx_file,
    to_onnx,
)
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.extraction import extract
from sklearn_cbir.persistence import load, save
from sklearn_cbir.testing import check_image_estimator

GOLDEN = Path(__file__).parent / "data" / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def hasher():
    return fitted(DeepHasher(12, backbone="small", max_epochs=1, batch_size=12, random_state=0))


@pytest.fixture(scope="module")
def extractor(folder):
    """An extractor that squashes photos, by which none could be taken for another way."""
    estimator = small_extractor(image_size=24)
    estimator._network_state["reading"] |= {"resize_mode": "squash", "interpolation": "bicubic"}
    to_onnx(estimator, folder / "extractor.onnx")
    return estimator


@pytest.fixture(scope="module")
def path(extractor, folder):
    """The path of a file of vectors."""
    return folder / "extractor.onnx"


@pytest.fixture(scope="module")
def code_path(hasher, folder):
    to_onnx(hasher, folder / "hasher.onnx")
    return folder / "hasher.onnx"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Paths of photos that are no squares."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number}.png" for number in range(12)]
    rng = np.random.default_rng(2)
    for number, path in enumerate(paths):
        coarse = rng.integers(0, 256, (6 + number % 3, 9, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((90, 60 + 10 * (number % 3))).save(path)
    return [str(path) for path in paths]


# What it gives ---------------------------------------------------------------------------------


def _assert_near(actual, expected):
    distances = np.linalg.norm(actual - expected, axis=1)
    assert actual.dtype == np.float32
    assert (distances <= 1e-5 * np.linalg.norm(expected, axis=1)).all()


def test_photos_are_read_as_the_estimator_reads_them(extractor, path, photos):
    _assert_near(OnnxExtractor(path).transform(photos), extractor.transform(photos))


def test_arrays_are_read_as_the_estimator_reads_them(extractor, path):
    _assert_near(OnnxExtractor(path).transform(IMAGES), extractor.transform(IMAGES))


def test_codes_are_those_of_the_hasher(hasher, code_path, photos):
    for images in (IMAGES, photos):
        codes = OnnxExtractor(code_path).transform(images)
        sure = np.abs(hasher.project(images)) > 1e-5
        assert codes.dtype == np.uint8
        np.testing.assert_array_equal(codes[sure], hasher.transform(images)[sure])


def test_a_batch_of_any_size_gives_the_same_rows(path):
    rows = OnnxExtractor(path).fit_transform(IMAGES)
    for batch_size in (1, 7, 1000):
        again = OnnxExtractor(path, batch_size=batch_size).transform(IMAGES)
        np.testing.assert_allclose(again, rows, atol=1e-6)


def test_columns_are_called_as_those_of_the_estimator(hasher, code_path):
    names = OnnxExtractor(code_path).get_feature_names_out()
    np.testing.assert_array_equal(names, hasher.get_feature_names_out())
    frame = OnnxExtractor(code_path).set_output(transform="pandas").fit_transform(IMAGES)
    assert list(frame.columns) == list(names)


CHECKS = check_image_estimator(OnnxExtractor("any.onnx"), generate_only=True)


@pytest.mark.parametrize("check", [check.func for _, check in CHECKS], ids=lambda c: c.__name__)
def test_image_check(check, path):
    check(OnnxExtractor(path))


# Those of scikit-learn's that need no 2-D rows; its own list leaves them out with all others.
OF_SCIKIT_LEARN = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
]


@pytest.mark.parametrize("name", OF_SCIKIT_LEARN)
def test_scikit_learn_check(name, path):
    getattr(estimator_checks, name)("OnnxExtractor", OnnxExtractor(path))


def test_words_are_refused_as_by_all_who_read_images(path):
    for X in ([Text("a red dress")], Text("a red dress")):
        with pytest.raises(ValueError, match="words have no pixels"):
            OnnxExtractor(path).transform(X)
        with pytest.raises(ValueError, match="words have no pixels"):
            OnnxExtractor(path).fit(X)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"n_threads": 0}, "n_threads=0 must be an integer of at least 1"),
        ({"verbose": -1}, "verbose=-1 must be an integer of at least 0"),
        ({"providers": ["MagicProvider"]}, r"providers=\['MagicProvider'\] must be a list of some"),
        ({"providers": "CPUExecutionProvider"}, "must be a list of some of"),
        ({"path": 3}, "path=3 must be the path of a file of to_onnx"),
    ],
)
def test_a_bad_parameter_is_named(parameters, message, path):
    extractor = OnnxExtractor(path).set_params(**parameters)
    for method in (extractor.fit, extractor.transform):
        with pytest.raises(ValueError, match=message):
            method(IMAGES)


def test_providers_and_threads_change_no_answer(path):
    rows = OnnxExtractor(path).transform(IMAGES)
    other = OnnxExtractor(path, n_threads=2, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(other.transform(IMAGES), rows, atol=1e-6)


def test_progress_is_drawn_if_it_is_asked_for(path, capfd):
    OnnxExtractor(path, verbose=1).transform(IMAGES)
    assert "OnnxExtractor: transform" in capfd.readouterr().err


def test_nothing_is_said_of_onnxruntime_that_is_missing_but_how_to_install_it(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="OnnxExtractor needs onnxruntime.*pip install"):
        OnnxExtractor(path).transform(IMAGES)


def test_a_file_of_format_1_is_read_for_good():
    rows = OnnxExtractor(GOLDEN / "network_1.onnx").transform(make_shapes(6, random_state=0)[0])
    _assert_near(rows, np.load(GOLDEN / "network_1.npy"))


# Saving, copying, processes --------------------------------------------------------------------


@pytest.fixture
def gone(path, tmp_path):
    """An extractor whose file is not there any more, and the rows that it gives."""
    extractor = OnnxExtractor(tmp_path / "passing.onnx")
    (tmp_path / "passing.onnx").write_bytes(path.read_bytes())
    rows = extractor.transform(IMAGES)
    (tmp_path / "passing.onnx").unlink()
    return extractor, rows


def _by_persistence(estimator, folder):
    save(estimator, folder / "saved.cbir")
    return load(folder / "saved.cbir")


def _by_joblib(estimator, folder):
    joblib.dump(estimator, folder / "saved.joblib")
    return joblib.load(folder / "saved.joblib")


COPIES = {
    "persistence": _by_persistence,
    "joblib": _by_joblib,
    "pickle": lambda estimator, _: pickle.loads(pickle.dumps(estimator)),
    "copy": lambda estimator, _: copy.deepcopy(estimator),
    "clone": lambda estimator, _: clone(estimator),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_needs_the_path_no_more(way, gone, tmp_path):
    extractor, rows = gone
    again = COPIES[way](extractor, tmp_path)
    np.testing.assert_array_equal(again.fit(IMAGES).transform(IMAGES), rows)
    twice = COPIES[way](again, tmp_path)
    np.testing.assert_array_equal(twice.transform(IMAGES), rows)


def test_what_was_never_used_is_saved_with_its_file(path, tmp_path):
    expected = OnnxExtractor(path).transform(IMAGES)
    again = _by_persistence(OnnxExtractor(path), tmp_path)
    np.testing.assert_array_equal(again.transform(IMAGES), expected)
    with pytest.raises(FileNotFoundError):
        save(OnnxExtractor(tmp_path / "missing.onnx"), tmp_path / "other.cbir")
    assert not (tmp_path / "other.cbir").exists()


def test_another_path_is_another_file(gone, code_path):
    extractor, _ = gone
    assert extractor.set_params(path=code_path).transform(IMAGES).dtype == np.uint8
    with pytest.raises(FileNotFoundError):
        extractor.set_params(path="missing.onnx").transform(IMAGES)


def test_a_saved_file_that_was_forged_is_refused_when_it_is_loaded(path, tmp_path):
    extractor = OnnxExtractor(path)
    extractor._model().content = b"\x08\x0a" + path.read_bytes()
    save(extractor, tmp_path / "saved.cbir")
    with pytest.raises(ValueError, match="damaged, or has been changed since"):
        load(tmp_path / "saved.cbir")


def test_the_bytes_are_saved_once_and_as_they_are(path, tmp_path):
    save(OnnxExtractor(path), tmp_path / "saved.cbir")
    assert (tmp_path / "saved.cbir").stat().st_size < path.stat().st_size + 4000


def test_a_gallery_is_searched_through_a_pipeline_that_is_saved(code_path, photos, tmp_path):
    search = make_pipeline(OnnxExtractor(code_path), NeighborsRetriever(3, metric="hamming"))
    search.fit(photos, neighborsretriever__ids=photos)
    nearest = search.predict(photos)
    assert search[-1].kneighbors(search[0].transform(photos))[0][:, 0].max() == 0
    np.testing.assert_array_equal(_by_persistence(search, tmp_path).predict(photos), nearest)


def test_extraction_goes_on_if_it_is_the_same_file(path, code_path, photos, tmp_path):
    rows = extract(OnnxExtractor(path), photos, tmp_path / "shards", shard_size=5)
    again = OnnxExtractor(path, n_threads=2, verbose=0)
    np.testing.assert_array_equal(extract(again, photos, tmp_path / "shards", shard_size=5), rows)
    with pytest.raises(ValueError, match="estimator"):
        extract(OnnxExtractor(code_path), photos, tmp_path / "shards", shard_size=5)


def test_threads_share_one_session(path):
    extractor, found = OnnxExtractor(path), []
    rows = OnnxExtractor(path).transform(IMAGES)
    threads = [
        threading.Thread(target=lambda: found.append(extractor.transform(IMAGES))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for each in found:
        np.testing.assert_array_equal(each, rows)


FORKED = """
import multiprocessing, sys
import numpy as np
from sklearn_cbir import OnnxExtractor

def look(channel):
    channel.send(np.allclose(extractor.transform(images), rows, atol=1e-6))

images = np.arange(5 * 24 * 24 * 3).reshape(5, 24, 24, 3).astype(np.uint8)
extractor = OnnxExtractor(sys.argv[1], n_threads=2)
rows = extractor.transform(images)
context = multiprocessing.get_context("fork")
here, there = context.Pipe()
child = context.Process(target=look, args=(there,))
child.start()
print(here.recv())
child.join()
print(child.exitcode)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_computes(path):
    command = [sys.executable, "-c", FORKED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("True\n0\n", "")


# Without torch ---------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys

class Missing:
    NAMES = {"torch", "torchvision", "skorch", "timm", "open_clip", "onnx", "onnxscript"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())

import joblib
import numpy as np
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
import sklearn_cbir
from sklearn_cbir import NeighborsRetriever, OnnxExtractor
from sklearn_cbir.codes import hamming_top_k
from sklearn_cbir.datasets import load_image_folder, make_shapes
from sklearn_cbir.extraction import extract
from sklearn_cbir.images import images_of, readable_images
from sklearn_cbir.metrics import mean_average_precision
from sklearn_cbir.persistence import load, save
from sklearn_cbir.reranking import AverageQueryExpansion
from sklearn_cbir.whitening import LearnedWhitening

vectors, codes, folder, *photos = sys.argv[1:]
labels = np.arange(len(photos)) % 3
for file, retriever in (
    (vectors, NeighborsRetriever(3, rerank=AverageQueryExpansion(3))),
    (codes, NeighborsRetriever(3, metric="hamming")),
):
    search = make_pipeline(OnnxExtractor(file, batch_size=5), retriever)
    search.fit(photos, labels, neighborsretriever__ids=photos)
    nearest = search.predict(photos)
    distances, _ = search[-1].kneighbors(search[0].transform(photos))
    assert np.allclose(distances[:, 0], 0, atol=1e-5)
    save(search, f"{folder}/search.cbir")
    assert (load(f"{folder}/search.cbir").predict(photos) == nearest).all()
    joblib.dump(search, f"{folder}/search.joblib")
    assert (joblib.load(f"{folder}/search.joblib").predict(photos) == nearest).all()
    assert search[-1].score(None, labels) > 0
extractor = OnnxExtractor(vectors)
rows = np.asarray(extract(extractor, photos, f"{folder}/shards", shard_size=5))
np.testing.assert_allclose(rows, extractor.transform(photos), atol=1e-6)
whitened = make_pipeline(extractor, LearnedWhitening(4), NeighborsRetriever(2)).fit(photos, labels)
assert whitened.predict(photos).shape == (len(photos), 2)
images, y = make_shapes(20, random_state=0)
assert extractor.transform(images).shape == (20, rows.shape[1])
assert len(readable_images(photos).data) == len(photos)
try:
    sklearn_cbir.CNNFeatureExtractor
except ModuleNotFoundError as error:
    assert error.name in Missing.NAMES
    assert str(error).startswith("CNNFeatureExtractor needs torch, which is not installed. Run: ")
else:
    raise AssertionError("There is torch.")
print([name for name in sys.modules if name.partition(".")[0] in Missing.NAMES])
"""


def test_all_but_training_works_where_torch_cannot_be_imported(path, code_path, photos, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path), str(code_path), str(tmp_path)]
    done = subprocess.run([*command, *photos], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


# Files that are not run ------------------------------------------------------------------------


def _file(content, tmp_path):
    (tmp_path / "other.onnx").write_bytes(content)
    return OnnxExtractor(tmp_path / "other.onnx")


def _assert_refused(content, tmp_path, message, monkeypatch):
    """The file is refused before a session is made, in one sentence that names it."""

    def fail(*args, **kwargs):
        raise AssertionError("a session was made")

    monkeypatch.setattr("onnxruntime.InferenceSession", fail)
    extractor = _file(content, tmp_path)
    for method in (extractor.fit, extractor.transform):
        with pytest.raises(ValueError, match=message) as error:
            method(IMAGES)
        assert "other.onnx" in str(error.value)


def _resealed(path, change):
    """Return the bytes of a file whose model was changed by who knows how files are sealed."""
    model = onnx.load(path)
    description = {entry.key: entry.value for entry in model.metadata_props}["sklearn_cbir"]
    del model.metadata_props[:]
    change(model)
    found = _onnx_file._description(description, "")
    return _onnx_file.sealed(model.SerializeToString(), found)


def test_a_file_that_is_loaded_and_sealed_again_is_the_same(path):
    assert _resealed(path, lambda model: None) == path.read_bytes()


def test_a_saved_estimator_is_no_onnx_file(tmp_path):
    path = tmp_path / "search.cbir"
    save(NeighborsRetriever(1).fit(np.eye(2)), path)
    with pytest.raises(ValueError, match="is not an ONNX file but a zip archive, as persist"):
        OnnxExtractor(path).fit(IMAGES)


def test_a_file_of_another_maker_is_told_what_is_expected(tmp_path, monkeypatch):
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3, 8, 8])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["pixels"], ["out"])], "net", [pixels], [out]
    )
    content = helper.make_model(graph).SerializeToString()
    message = (
        r"an ONNX file of another program and has the inputs \['pixels'\]: expected a file of "
        r"sklearn_cbir.export.to_onnx, with one input 'images', uint8 of shape \(n, height, width"
    )
    _assert_refused(content, tmp_path, message, monkeypatch)


@pytest.mark.parametrize(
    "content", [b"", b"no network", b"\xff" * 40, b"PK\x03\x04" + bytes(60), b"\x0b\x00"], ids=repr
)
def test_what_is_no_onnx_file_is_said_to_be_none(content, tmp_path, monkeypatch):
    message = "is not an ONNX file|of another program and has no inputs|holds field"
    _assert_refused(content, tmp_path, message, monkeypatch)


def test_any_changed_byte_and_any_missing_end_are_noticed(path, tmp_path, monkeypatch):
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, 5, len(content) - 1, *rng.integers(0, len(content), 40)]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError, match="'a file'"):
            _onnx_file.describe(bytes(changed), "'a file'")
        with pytest.raises(ValueError, match="'a file'"):
            _onnx_file.describe(content[:place], "'a file'")


def _with_external_data(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.ClearField("raw_data")


def _with_external_data_in_a_branch(model):
    constant = helper.make_tensor("inner", TensorProto.FLOAT, [1], [0.0])
    _ = constant.external_data.add(key="location", value="weights.bin")
    value = helper.make_node("Constant", [], ["c"], value=constant)
    out = helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])
    branch = helper.make_graph([value], "branch", [], [out])
    node = helper.make_node("If", ["condition"], ["d"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)


def _with_custom_operator(model):
    model.graph.node[0].domain = "com.example"


def _with_custom_domain(model):
    model.opset_import.add(domain="com.microsoft", version=1)


def _with_function(model):
    model.functions.add(name="f", domain="")


def _with_training(model):
    model.training_info.add(initialization=model.graph)


def _with_sparse_weights(model):
    model.graph.sparse_initializer.add()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_with_external_data, "numbers that (are|may be) in another file"),
        (_with_external_data_in_a_branch, "numbers that are in another file"),
        (_with_custom_operator, "operators of 'com.example'"),
        (_with_custom_domain, "operators of 'com.microsoft'"),
        (_with_function, "functions of its own"),
        (_with_training, "a training"),
        (_with_sparse_weights, "field 15 of a message 'graph'"),
    ],
)
def test_what_reaches_out_of_the_file_is_refused_however_it_is_sealed(
    change, what, path, tmp_path, monkeypatch
):
    content = _resealed(path, change)
    _assert_refused(content, tmp_path, f"holds {what}, which to_onnx never writes", monkeypatch)


def _parts(path):
    """Return the model of a file without its metadata, and its description."""
    content = path.read_bytes()
    description = _onnx_file.describe(content, "")
    return content[: -len(_onnx_file.sealed(b"", description))], description


def test_the_other_format_of_onnxruntime_is_not_read(path, tmp_path):
    """Bytes that are an ONNX file to whoever looks, and begin as a file of the other format."""
    model, description = _parts(path)
    both = b"\x12\x08XXORTMXX" + model  # a producer's name
    extractor = _file(_onnx_file.sealed(both, description), tmp_path)
    _assert_near(extractor.transform(IMAGES), OnnxExtractor(path).transform(IMAGES))


def test_a_newer_format_is_said_to_be_newer(path, tmp_path, monkeypatch):
    monkeypatch.setattr(_onnx_file, "FORMAT", 0)
    _assert_refused(path.read_bytes(), tmp_path, "in format 1; this version", monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (12, 24)}, "has a wrong description"),
        ({"width": 3}, "has a description that cannot be read"),
        ({"outputs": ("codes",)}, "has a description that cannot be read"),
        ({"resize_mode": "magic"}, "resize_mode='magic' is not known"),
    ],
)
def test_a_description_that_is_not_of_the_network_is_refused(change, message, path, tmp_path):
    model, description = _parts(path)
    content = _onnx_file.sealed(model, dataclasses.replace(description, **change))
    with pytest.raises(ValueError, match=message):
        _file(content, tmp_path).transform(IMAGES)


def test_weights_that_are_no_numbers_are_told_by_the_image(path, tmp_path):
    def spoil(model):
        tensor = max(model.graph.initializer, key=lambda part: len(part.raw_data))
        n = len(tensor.raw_data) // 4
        tensor.raw_data = np.full(n, np.nan, dtype="<f4").tobytes()

    extractor = _file(_resealed(path, spoil), tmp_path)
    with pytest.raises(ValueError, match=r"X\[0\]: the network gave NaN or infinity"):
        extractor.transform(IMAGES)


def test_what_onnxruntime_cannot_run_is_one_error_with_its_version(path, tmp_path):
    def rename(model):
        model.graph.node[-1].op_type = "NoSuchOperator"

    extractor = _file(_resealed(path, rename), tmp_path)
    with pytest.raises(ValueError, match=r"other.onnx' cannot be run by onnxruntime \d"):
        extractor.transform(IMAGES)
