"""Modules of one's own in files without pickle: built by whoever loads, filled from the file."""

import json
import zipfile

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever, persistence
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.persistence import load, save

QUICK = {"max_epochs": 1, "head_epochs": 0, "batch_size": 8, "random_state": 0}


class Own(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return self.last(self.layers(x))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(8))

    def forward(self, maps):
        return maps.mean(dim=(2, 3)) * self.factor


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(16, n_classes=2, random_state=0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "search.cbir"


def fitted(shapes, backbone=None, **parameters):
    torch.manual_seed(0)
    return CNNFeatureExtractor(backbone or Own(), **QUICK | parameters).fit(*shapes)


@pytest.mark.parametrize("loss", ["softmax", None], ids=["trained", "as it was"])
def test_a_pipeline_with_a_module_is_loaded_to_the_same_answers(loss, shapes, path):
    extractor = fitted(shapes, loss=loss, pooling=Scale())
    search = make_pipeline(extractor, NeighborsRetriever(3)).fit(*shapes)
    save(search, path, modules=[Own, Scale])
    generator = torch.get_rng_state()
    loaded = load(path, modules=[Own, Scale])
    assert torch.equal(torch.get_rng_state(), generator)
    np.testing.assert_array_equal(loaded.predict(shapes[0]), search.predict(shapes[0]))
    np.testing.assert_array_equal(loaded[0].transform(shapes[0]), extractor.transform(shapes[0]))


def test_what_is_loaded_is_saved_again(shapes, path):
    extractor = fitted(shapes)
    for _ in range(3):
        save(extractor, path, modules=[Own])
        extractor = load(path, modules=[Own])
    rows = fitted(shapes).transform(shapes[0])
    np.testing.assert_array_equal(extractor.transform(shapes[0]), rows)


def test_a_loaded_module_fits_as_the_one_that_was_saved(shapes, path):
    net = Own()
    net.last.bias.requires_grad_(False)
    extractor = fitted(shapes, net)
    save(extractor, path, modules=[Own])
    loaded = load(path, modules=[Own])
    for (name, tensor), other in zip(net.named_parameters(), loaded.backbone.parameters()):
        assert torch.equal(tensor, other), name
        assert tensor.requires_grad == other.requires_grad
    expected = extractor.fit(*shapes).transform(shapes[0])
    np.testing.assert_array_equal(loaded.fit(*shapes).transform(shapes[0]), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_types_are_kept(dtype, shapes, path):
    net = Own().to(dtype)
    save(CNNFeatureExtractor(net), path, modules=[Own])
    found = load(path, modules=[Own]).backbone
    for tensor, other in zip(net.state_dict().values(), found.state_dict().values()):
        assert tensor.dtype == other.dtype
        assert torch.equal(tensor, other)


def test_a_module_is_in_the_file_once(shapes, path):
    net = nn.Sequential(nn.Conv2d(3, 256, 3), nn.Conv2d(256, 64, 3))
    modules = {"net": lambda: nn.Sequential(nn.Conv2d(3, 256, 3), nn.Conv2d(256, 64, 3))}
    extractor = fitted(shapes, net, loss=None)
    save(extractor, path, modules)
    assert path.stat().st_size < 1.05 * sum(tensor.nbytes for tensor in net.parameters())
    np.testing.assert_array_equal(
        load(path, modules).transform(shapes[0]), extractor.transform(shapes[0])
    )


def test_classes_that_take_arguments_are_built_by_functions(shapes, path):
    search = fitted(shapes, Own(4))
    modules = {"wide": Own, "narrow": lambda: Own(4)}
    save(search, path, modules)
    assert b'"narrow"' in path.read_bytes()
    np.testing.assert_array_equal(
        load(path, modules).transform(shapes[0]), search.transform(shapes[0])
    )


def test_tied_weights_stay_tied(shapes, path):
    def tied():
        net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
        net[2].weight = net[1].weight
        return net

    net = tied()
    save(fitted(shapes, net, loss=None), path, {"tied": tied})
    found = load(path, {"tied": tied}).backbone
    assert found[2].weight is found[1].weight
    assert torch.equal(found[1].weight, net[1].weight)


class Distance(nn.Module):
    """A loss that learns."""

    def __init__(self):
        super().__init__()
        self.margin = nn.Parameter(torch.ones(1))

    def forward(self, outputs, y):
        return torch.cdist(outputs, outputs).mean() + self.margin.square().sum()


@pytest.mark.filterwarnings("ignore:.*training images get the same")
def test_a_loss_of_ones_own_is_saved_as_other_modules_are(shapes, path):
    extractor = fitted(shapes, loss=Distance(), pooling="avg")
    save(extractor, path, modules=[Own, Distance])
    loaded = load(path, modules=[Own, Distance])
    assert isinstance(loaded.loss, Distance)
    np.testing.assert_array_equal(loaded.transform(shapes[0]), extractor.transform(shapes[0]))


# What is refused --------------------------------------------------------------------------------


def test_a_module_that_nothing_builds_says_what_to_pass(shapes, path):
    with pytest.raises(ValueError, match=r"backbone is a .*Own, which is not saved without pickle"):
        save(fitted(shapes), path)
    with pytest.raises(ValueError, match=r"Pass modules=\[Own\].*to_onnx.*joblib\.dump"):
        save(fitted(shapes), path, modules=[Scale])
    assert not path.exists()


def test_a_file_gets_no_module_that_its_reader_did_not_name(shapes, path):
    save(fitted(shapes), path, modules=[Own])
    for modules in (None, [], [Scale], {"own": Own}):
        with pytest.raises(ValueError, match=r"holds a module 'Own'. Pass modules=\[Own\]"):
            load(path, modules)


def test_a_file_with_a_module_is_of_a_format_that_earlier_versions_refuse(shapes, path):
    save(fitted(shapes), path, modules=[Own])
    assert b"sklearn_cbir format 3," in path.read_bytes()[-200:]
    save(fitted(shapes, "small", weights=None), path, modules=[Own])
    assert b"sklearn_cbir format 2," in path.read_bytes()[-200:]


def test_a_file_holds_neither_a_class_nor_attributes_of_a_module(shapes, path):
    save(fitted(shapes), path, modules=[Own])
    with zipfile.ZipFile(path) as archive:
        backbone = json.loads(archive.read("estimator.json"))["estimator"]["state"]["backbone"]
    assert backbone.keys() == {"is", "name", "tensors", "frozen"}


def test_another_module_of_that_name_is_refused(shapes, path):
    save(fitted(shapes), path, modules=[Own])
    with pytest.raises(
        ValueError, match=r"modules\['Own'\] builds other tensors .* differ \(layers"
    ):
        load(path, {"Own": lambda: Own(9)})
    with pytest.raises(ValueError, match=r"modules\['Own'\] builds other tensors than the file"):
        load(path, {"Own": Scale})


class Needy(Own):
    def __init__(self, width):
        super().__init__(width)


class Remembering(Own):
    calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x) + self.calls


def test_a_class_that_takes_arguments_says_how_to_pass_them(path):
    with pytest.raises(ValueError, match=r"'Needy'\] cannot be called without arguments.*lambda"):
        save(CNNFeatureExtractor(Needy(4)), path, modules=[Needy])


def test_what_a_training_changes_beside_the_state_dict_is_not_lost_in_silence(shapes, path):
    with pytest.raises(ValueError, match=r"another Remembering: calls differs, which is not part"):
        save(fitted(shapes, Remembering()), path, modules=[Remembering])


@pytest.mark.parametrize(
    ("net", "difference"),
    [
        (Own(4), r"layers\.0\.weight has shape \(4, 3, 3, 3\), and not \(8, 3, 3, 3\)"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), "lazy layers"),
    ],
    ids=["width", "lazy"],
)
def test_a_module_that_differs_from_what_is_built_says_how(net, difference, path):
    with pytest.raises(ValueError, match=f"another .*: .*{difference}"):
        save(CNNFeatureExtractor(net), path, [Own, type(net)][: 1 + isinstance(net, nn.Sequential)])


@pytest.mark.parametrize(
    ("modules", "fault"),
    [
        ([Own(), Scale], "modules holds an object of class Own, not the class"),
        ({"net": Own()}, "modules holds an object of class Own, not the class"),
        ({1: Own}, "modules holds <class .*Own'>, called 1"),
        (["Own"], "modules holds 'Own', called 'Own'"),
        (3, "modules=3 is not a list"),
        ("Own", "modules='Own' is not a list"),
        (Own, "modules=<class .*Own'> is not a list"),
        (nn.Sequential(Own()), r"modules=Sequential\(.* is not a list"),
    ],
)
def test_modules_that_build_nothing_are_refused(modules, fault, path):
    for call in (
        lambda: save(CNNFeatureExtractor(Own()), path, modules),
        lambda: load(path, modules),
    ):
        with pytest.raises(ValueError, match=f"{fault}.* Pass a list of classes of modules, or a"):
            call()


def test_two_classes_of_one_name_are_refused(path):
    other = type("Own", (Scale,), {})
    with pytest.raises(ValueError, match="two classes with the name 'Own'"):
        save(CNNFeatureExtractor(Own()), path, [Own, other])


def test_what_builds_no_module_is_refused(path):
    with pytest.raises(ValueError, match=r"modules\['net'\] gives None, which is not a module"):
        save(CNNFeatureExtractor(Own()), path, {"net": lambda: None})


def test_a_file_whose_tensors_are_of_another_type_is_refused(shapes, path):
    save(fitted(shapes), path, modules=[Own])
    content = path.read_bytes().replace(b'["float32", {', b'["float16", {')
    digest = persistence.hashlib.sha256(content[:-64]).hexdigest().encode()
    path.write_bytes(content[:-64] + digest)
    with pytest.raises(ValueError, match="search.cbir"):
        load(path, modules=[Own])
