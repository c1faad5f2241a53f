"""What `to_onnx` writes gives what the estimator gives, alone and whole, or nothing is written."""

import json
import logging
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx_cases import CASES, IMAGES, LARGE_CASES, fitted
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_cbir import (
    CNNFeatureExtractor,
    CPFEmbedder,
    DeepHasher,
    NeighborsRetriever,
    OnnxExtractor,
    export,
    to_onnx,
)
from sklearn_cbir.codes import pack_codes

NOISE = np.random.default_rng(1).integers(0, 256, (9, *IMAGES.shape[1:])).astype(np.uint8)


def _session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _outputs(path, images):
    """Return what a file gives by onnxruntime alone, by name."""
    session = _session(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images})))


def _description(path):
    metadata = _session(path).get_modelmeta().custom_metadata_map
    return json.loads(metadata["sklearn_cbir"])


def _assert_equal(estimator, path, images):
    """Vectors within 1e-5 of their lengths, bits but for projections within 1e-5 of 0."""
    found = _outputs(path, images)
    if "vectors" in found:
        expected = estimator.transform(images)
        assert found["vectors"].dtype == np.float32
        distances = np.linalg.norm(found["vectors"] - expected, axis=1)
        assert (distances <= 1e-5 * np.linalg.norm(expected, axis=1)).all()
    else:
        sure = np.abs(estimator.project(images)) > 1e-5
        assert found["codes"].dtype == np.uint8
        assert sure.mean() > 0.9
        np.testing.assert_array_equal(found["codes"][sure], estimator.transform(images)[sure])
        words = found["packed"].view("<u8")
        np.testing.assert_array_equal(words, pack_codes(found["codes"]))
        np.testing.assert_array_equal(found["codes"], found["projections"] >= 0)


@pytest.mark.parametrize("name", CASES)
def test_the_file_gives_what_the_estimator_gives(name, tmp_path):
    estimator = fitted(CASES[name]())
    path = tmp_path / "network.onnx"
    to_onnx(estimator, path)
    for images in (IMAGES, NOISE, IMAGES[:1]):
        _assert_equal(estimator, path, images)


@pytest.mark.slow  # networks of torchvision and timm take up to half a minute to export
@pytest.mark.parametrize("name", LARGE_CASES)
def test_the_file_of_a_large_network_gives_what_it_gives(name, tmp_path):
    estimator = fitted(LARGE_CASES[name]())
    path = tmp_path / "network.onnx"
    to_onnx(estimator, path)
    height, width = _description(path)["size"]
    rng = np.random.default_rng(1)
    for n in (1, 5):
        _assert_equal(estimator, path, rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8))


# What the file says ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hasher():
    return fitted(
        DeepHasher(12, backbone="small", image_size=24, max_epochs=1, batch_size=12, random_state=0)
    )


@pytest.fixture(scope="module")
def written(hasher, tmp_path_factory):
    """The file of the hasher, which tests only read."""
    path = tmp_path_factory.mktemp("written") / "hasher.onnx"
    to_onnx(hasher, path)
    return path


def test_the_file_says_how_photos_become_pixels_and_what_comes_out(hasher, written):
    description = _description(written)
    assert description["gives"] == "code"
    assert description["width"] == 12
    assert description["size"] == [24, 24]
    assert description["resize"] == 24
    assert description["resize_mode"] == "cover"
    assert description["interpolation"] == "bilinear"
    assert description["fill"] == [0, 0, 0]
    assert description["outputs"] == ["codes", "packed", "projections"]
    assert description["feature_names"] == list(hasher.get_feature_names_out())
    assert description["estimator"] == "DeepHasher"
    assert description["package"].startswith("sklearn_cbir 0.")
    assert description["backbone"]["name"] == "small"


def test_the_batch_is_free_and_the_size_of_images_is_not(written):
    (images,) = _session(written).get_inputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert isinstance(images.shape[0], str)
    assert images.shape[1:] == [24, 24, 3]


def test_the_file_is_a_valid_model_of_plain_operators(written):
    onnx.checker.check_model(str(written), full_check=True)
    model = onnx.load(written)
    assert [(part.domain, part.version) for part in model.opset_import] == [("", 18)]
    assert len(model.functions) == 0


def test_the_same_estimator_gives_the_same_bytes_which_name_no_place_of_this_machine(
    hasher, written, tmp_path
):
    to_onnx(hasher, tmp_path / "again.onnx")
    content = written.read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == content
    assert b".py" not in content
    assert str(export.__file__).rpartition("/")[0].encode() not in content


def test_arrays_that_are_no_squares_keep_their_shape(tmp_path):
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None), IMAGES[:, :20])
    to_onnx(estimator, tmp_path / "network.onnx")
    assert _description(tmp_path / "network.onnx")["size"] == [20, 32]
    _assert_equal(estimator, tmp_path / "network.onnx", IMAGES[:5, :20])


# Nothing is lost -------------------------------------------------------------------------------


def test_the_estimator_goes_on_as_before(hasher, written):
    before = hasher.project(IMAGES)
    network = hasher._fitted_network()
    assert not network.training
    np.testing.assert_array_equal(hasher.project(IMAGES), before)
    assert next(network.parameters()).requires_grad


def test_an_export_that_fails_leaves_the_file_that_was_there(
    hasher, written, tmp_path, monkeypatch
):
    path = tmp_path / "network.onnx"
    path.write_bytes(b"the one before")

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(export, "_traced", lambda *args: onnx.load(written))  # takes seconds
    monkeypatch.setattr(export, "sealed", fail)
    with pytest.raises(MemoryError):
        to_onnx(hasher, path)
    assert path.read_bytes() == b"the one before"
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]


def test_more_than_a_file_of_onnx_holds_is_refused_before_it_is_traced(
    hasher, tmp_path, monkeypatch
):
    monkeypatch.setattr(export, "LARGEST_FILE", 1000)
    with pytest.raises(ValueError, match=r"of weights, and an ONNX file holds at most 2 GB"):
        to_onnx(hasher, tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_for_words_do_not_count_as_they_stay_out(monkeypatch):
    network = nn.Module()
    network.trunk = nn.Module()
    network.trunk.words = nn.Linear(100, 100)
    monkeypatch.setattr(export, "LARGEST_FILE", 1000)
    export._check_bytes([network])


# Pipelines ------------------------------------------------------------------------------------


LATER_STEPS = {
    "vectors": lambda: CNNFeatureExtractor(None, n_components=6, max_epochs=1, random_state=0),
    "unseen classes": lambda: CPFEmbedder(6, backbone=None, max_epochs=1, random_state=0),
    "codes": lambda: DeepHasher(12, backbone=None, max_epochs=1, random_state=0),
}


@pytest.mark.parametrize("name", LATER_STEPS)
def test_the_networks_of_a_pipeline_are_one_file_and_its_gallery_stays(name, tmp_path):
    metric = "hamming" if name == "codes" else "cosine"
    network = CNNFeatureExtractor("small", weights=None, loss=None, scales=(1, 0.5), random_state=0)
    steps = network, "passthrough", FrozenEstimator(fitted(network)), NeighborsRetriever()
    search = make_pipeline(network, LATER_STEPS[name](), NeighborsRetriever(3, metric=metric))
    search = fitted(search)
    path = tmp_path / "search.onnx"
    to_onnx(search, path)
    described = _description(path)
    assert described["estimator"] == type(search[1]).__name__
    assert described["scales"] == [1, 0.5]
    assert described["backbone"]["name"] == "small"
    _assert_equal(_Behind(search[0], search[1]), path, NOISE)
    served = make_pipeline(OnnxExtractor(path), search[-1])
    np.testing.assert_array_equal(served.predict(IMAGES), search.predict(IMAGES))
    names = served[0].get_feature_names_out()
    assert names.tolist() == search[1].get_feature_names_out().tolist()
    to_onnx(make_pipeline(*steps[1:]), path)  # frozen, with a step that does nothing
    _assert_equal(steps[2].estimator, path, NOISE)


def test_a_search_over_parameters_exports_what_it_found(tmp_path):
    network = CNNFeatureExtractor("small", weights=None, loss=None, random_state=0)
    grid = {"cnnfeatureextractor__pooling": ["max"]}
    search = GridSearchCV(make_pipeline(network, NeighborsRetriever(3)), grid, cv=2, refit=False)
    with pytest.raises(ValueError, match=r"estimator=GridSearchCV\(.* is not one of"):
        to_onnx(fitted(search), tmp_path / "search.onnx")
    fitted(search.set_params(refit=True))
    for estimator in (search, FrozenEstimator(search)):
        to_onnx(estimator, tmp_path / "search.onnx")
        _assert_equal(search.best_estimator_[0], tmp_path / "search.onnx", NOISE)


class _Behind:
    """An estimator of rows behind one of images."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def transform(self, images):
        return self.last.transform(self.first.transform(images))

    def project(self, images):
        return self.last.project(self.first.transform(images))


# What is refused -------------------------------------------------------------------------------


def test_what_has_no_network_of_images_is_refused(tmp_path):
    rows = np.random.default_rng(0).normal(size=(24, 4))
    path = tmp_path / "network.onnx"
    with pytest.raises(ValueError, match="was fitted on 2-D feature rows"):
        to_onnx(CNNFeatureExtractor(loss=None).fit(rows), path)
    with pytest.raises(ValueError, match="not one of CNNFeatureExtractor, DeepHasher"):
        to_onnx(NeighborsRetriever(), path)
    extractor = fitted(CNNFeatureExtractor("small", weights=None, max_epochs=1))
    whitened = make_pipeline(extractor, PCA(4), NeighborsRetriever())
    with pytest.raises(ValueError, match=r"Step 1 of .*PCA.*first 1 steps, pipeline\[:1\]"):
        to_onnx(whitened, path)
    with pytest.raises(ValueError, match="pass the pipeline whose first step"):
        to_onnx(make_pipeline(CNNFeatureExtractor(loss=None).fit(rows)), path)
    hasher = fitted(DeepHasher(8, backbone="small", weights=None, max_epochs=1))
    with pytest.raises(ValueError, match="DeepHasher gives codes.*Export it alone"):
        to_onnx(make_pipeline(hasher, CNNFeatureExtractor(loss=None).fit(rows)), path)
    with pytest.raises(ValueError, match="is not fitted yet"):
        to_onnx(make_pipeline(extractor, DeepHasher(), NeighborsRetriever()), path)
    with pytest.raises(ValueError, match="is not fitted yet"):
        to_onnx(DeepHasher(), path)
    assert not path.exists()


class _Counting(nn.Module):
    """Maps that are laid out again by the number of images."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.layer(x).view(len(x), 4, -1).mean(dim=2)


class _Deciding(nn.Module):
    """A network that looks at the pixels before it decides what to do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        maps = self.layer(x)
        return maps if maps.sum() > 0 else -maps


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (_Counting, "its network works only for the number of images"),
        (_Deciding, "CNNFeatureExtractor cannot be exported: torch.onnx.export fails"),
    ],
)
def test_a_module_that_cannot_be_traced_is_one_clear_error(module, reason, tmp_path):
    torch.manual_seed(0)
    estimator = fitted(CNNFeatureExtractor(module(), weights=None, loss=None))
    with pytest.raises(ValueError, match=reason):
        to_onnx(estimator, tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []
    assert np.isfinite(estimator.transform(IMAGES)).all()


class _Thirds(nn.Module):
    """A parameter in three parts, of which onnxscript logs that it leaves them as they are."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.parts = nn.Parameter(torch.ones(3))

    def forward(self, x):
        a, b, c = self.parts.chunk(3)
        return self.layer(x).mean((2, 3)) * (a * b + c)


def test_what_onnxscript_logs_of_its_own_work_is_not_shown(tmp_path, caplog):
    before = logging.getLogger("onnxscript").level
    estimator = fitted(CNNFeatureExtractor(_Thirds(), weights=None, loss=None))
    to_onnx(estimator, tmp_path / "thirds.onnx")
    assert not [record for record in caplog.records if record.name.startswith("onnxscript")]
    assert logging.getLogger("onnxscript").level == before


@pytest.mark.parametrize(("package", "old"), [("onnx", "1.19.0"), ("onnxscript", "0.5.7")])
def test_versions_that_wrote_other_vectors_are_refused(hasher, package, old, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{package}.__version__", old)
    path = tmp_path / "network.onnx"
    with pytest.raises(ImportError, match=rf"needs {package} [\d.]+ or later, and this is {old}"):
        to_onnx(hasher, path)
    assert not path.exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_what_is_not_installed_is_named_with_the_extra(hasher, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"to_onnx needs {package}.*sklearn-cbir\[export\]"):
        to_onnx(hasher, tmp_path / "network.onnx")
