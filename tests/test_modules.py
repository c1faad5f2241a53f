"""Modules of one's own as backbones: sizes, channels, floating types, and what they remember."""

import copy
import io
import pickle
import threading

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.nn.utils import parametrizations
from training_cases import Interrupt

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.datasets import make_shapes

QUICK = {"max_epochs": 2, "head_epochs": 0, "batch_size": 8, "random_state": 0}


@pytest.fixture(autouse=True)
def _seed_new_modules():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(16, n_classes=2, random_state=0)


def fitted(backbone, shapes, **parameters):
    return CNNFeatureExtractor(backbone, **QUICK | parameters).fit(*shapes)


def one_size(side, width=6):
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * (side // 4) ** 2, width))


def lazy():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.LazyLinear(6))


def dumped_by_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    return file.getvalue()


def again(estimator):
    return pickle.loads(pickle.dumps(estimator))


# Sizes.


@pytest.mark.parametrize("make", [lambda: one_size(32), lazy], ids=["one size", "lazy"])
def test_a_net_for_one_size_takes_arrays_of_that_size(make, shapes):
    estimator = fitted(make(), shapes)
    rows = estimator.transform(shapes[0])
    assert rows.shape == (16, 6)
    np.testing.assert_array_equal(again(estimator).transform(shapes[0]), rows)


def test_lazy_layers_take_arrays_that_are_not_square_and_files(shapes):
    images, y = shapes
    assert fitted(lazy(), (images[:, :20], y)).transform(images[:, :20]).shape == (16, 6)
    by_size = fitted(lazy(), shapes, image_size=24)
    assert by_size._network.trunk.features[2].in_features == 3 * 6 * 6
    mixed = [image[: 24 + i] for i, image in enumerate(images)]
    assert fitted(lazy(), (mixed, y))._network.trunk.features[2].in_features == 3 * 16 * 16


def test_lazy_layers_take_the_weights_of_a_file(tmp_path, shapes):
    torch.save(one_size(32).state_dict(), tmp_path / "net.pt")
    estimator = fitted(lazy(), shapes, weights=tmp_path / "net.pt", loss=None)
    linear = estimator._network.trunk.features[2]
    assert torch.equal(linear.weight, torch.load(tmp_path / "net.pt")["2.weight"])


def test_another_size_is_an_error_that_says_which_it_takes(shapes):
    message = "Sequential does not take images of 32 x 32 pixels .* it takes 64: set image_size"
    with pytest.raises(ValueError, match=message):
        fitted(one_size(64), shapes)
    assert fitted(one_size(64), shapes, image_size=64).transform(shapes[0]).shape == (16, 6)


@pytest.mark.parametrize(("name", "side"), [("squeezenet1_1", 8), ("alexnet", 32)])
def test_images_too_small_for_a_named_net_are_refused_before_training(name, side):
    images, y = make_shapes(8, n_classes=2, image_size=max(8, side), random_state=0)
    with pytest.raises(ValueError, match=rf"'{name}' does not take images of {side} x {side} pix"):
        CNNFeatureExtractor(name, weights=None, **QUICK).fit(images, y)


# Channels, floating types, devices.


@pytest.mark.parametrize("n_channels", [1, 4])
def test_backbones_are_told_that_they_get_three_channels(n_channels, shapes):
    gray = shapes[0][..., 0], shapes[1]
    with pytest.raises(ValueError, match=f"takes images with {n_channels} channel.*always get 3"):
        fitted(nn.Sequential(nn.Conv2d(n_channels, 8, 3)), gray)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_modules_of_other_floating_types_train_in_float32(dtype, shapes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(dtype)
    estimator = fitted(net, shapes)
    assert net[0].weight.dtype == dtype
    rows = estimator.transform(shapes[0])
    assert rows.dtype == np.float32
    expected = fitted(copy.deepcopy(net).float(), shapes).transform(shapes[0])
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(again(estimator).transform(shapes[0]), rows)


def test_modules_without_weights_are_refused(shapes):
    with pytest.raises(ValueError, match="backbone=Conv2d is on the device 'meta'"):
        fitted(nn.Conv2d(3, 8, 3, device="meta"), shapes)


class Faulty(nn.Module):
    def __init__(self, only_training=False):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.only_training = only_training

    def forward(self, x):
        if self.only_training and not self.training:
            return self.layer(x)
        return self.layer(x).no_such_method()


def test_an_error_in_forward_keeps_its_line_and_names_the_backbone(shapes):
    with pytest.raises(ValueError, match="backbone=Faulty .*no_such_method") as caught:
        fitted(Faulty(), shapes)
    assert isinstance(caught.value.__cause__, AttributeError)
    with pytest.raises(AttributeError, match="no_such_method") as caught:
        fitted(Faulty(only_training=True), shapes)
    assert "Raised by backbone=Faulty" in caught.value.__notes__[0]


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        maps = self.layer(x)
        return (maps, maps) if self.training else maps


def test_a_second_output_in_training_is_named(shapes):
    with pytest.raises(ValueError, match="backbone=TwoOutputs gives tuple in training"):
        fitted(TwoOutputs(), shapes)


def test_a_module_that_cannot_be_copied_is_named(shapes):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net.lock = threading.Lock()
    with pytest.raises(ValueError, match="backbone=Sequential cannot be copied"):
        fitted(net, shapes)


# Nothing to train.


@pytest.mark.parametrize("frozen", [True, False])
def test_a_net_without_free_parameters_is_refused(frozen, shapes):
    net = nn.Conv2d(3, 4, 3).requires_grad_(False) if frozen else nn.AvgPool2d(4)
    with pytest.raises(ValueError, match="Nothing can be trained: backbone=.*requires_grad=True"):
        fitted(net, shapes, loss="contrastive")
    before = copy.deepcopy(net).state_dict()
    trained = fitted(net, shapes, loss="contrastive", n_components=4)
    after = trained._network.trunk.features.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert trained.transform(shapes[0]).shape == (16, 4)


# State beside the state dict.


class Remembering(nn.Module):
    """Its output depends on buffers that are not persistent, counters and extra state."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.register_buffer("mean", torch.zeros(4, 1, 1), persistent=False)
        self.n_batches = 0
        self._seen = {"steps": [0]}
        self.extra = {"scale": 1.0}

    def forward(self, x):
        maps = self.layer(x)
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * maps.detach().mean(dim=(0, 2, 3))[:, None, None]
            self.n_batches += 1
            self._seen["steps"].append(self.n_batches)
            self.extra["scale"] *= 1.1
        drift = self.n_batches + sum(self._seen["steps"])
        return self.extra["scale"] * (maps - self.mean) + drift * maps[:, :1].cos()


class WithExtraState(Remembering):
    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = dict(state)


@pytest.mark.parametrize("pooling", ["auto", "own"])
def test_a_pickled_copy_remembers_what_the_network_does(pooling, shapes):
    backbone = WithExtraState()
    pooled = "auto" if pooling == "auto" else RememberingPooling()
    estimator = fitted(backbone, shapes, pooling=pooled, early_stopping=True)
    assert backbone.n_batches == 0
    rows = estimator.transform(shapes[0])
    copied = again(estimator)
    np.testing.assert_array_equal(copied.transform(shapes[0]), rows)
    np.testing.assert_array_equal(again(copied).transform(shapes[0]), rows)
    np.testing.assert_array_equal(copy.deepcopy(estimator).transform(shapes[0]), rows)


class RememberingPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, maps):
        self.calls += self.training
        return maps.mean(dim=(2, 3)) + self.calls * maps.amax(dim=(2, 3))


class Counting(nn.Module):
    """It counts in evaluation too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) + self.calls


def test_a_pickled_copy_goes_on_counting_where_the_network_is(shapes):
    estimator = fitted(Counting(), shapes, normalize=False)
    estimator.transform(shapes[0])
    copied = again(estimator)
    np.testing.assert_array_equal(copied.transform(shapes[0]), estimator.transform(shapes[0]))


@pytest.mark.parametrize("kind", [Remembering, WithExtraState])
def test_a_checkpoint_remembers_what_the_network_does(kind, shapes, tmp_path):
    torch.manual_seed(0)
    backbone = kind()
    whole = fitted(backbone, shapes, max_epochs=4)
    parameters = QUICK | {"max_epochs": 4, "checkpoint_dir": tmp_path}
    cut_off = CNNFeatureExtractor(backbone, **parameters).set_callbacks(Interrupt(3))
    with pytest.raises(KeyboardInterrupt):
        cut_off.fit(*shapes)
    resumed = CNNFeatureExtractor(backbone, **parameters).fit(*shapes)
    assert [row["epoch"] for row in resumed.history_] == [1, 2, 3, 4]
    np.testing.assert_array_equal(resumed.transform(shapes[0]), whole.transform(shapes[0]))


@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_parametrized_modules_train_and_say_that_they_cannot_be_pickled(wrap, shapes):
    net = nn.Sequential(wrap(nn.Conv2d(3, 4, 3)))
    with pytest.warns(UserWarning, match="cannot be pickled.*remove_parametrizations"):
        estimator = fitted(net, shapes)
    rows = estimator.transform(shapes[0])
    np.testing.assert_array_equal(copy.deepcopy(estimator).transform(shapes[0]), rows)


def test_modules_that_keep_a_result_as_an_attribute_train_and_are_pickled(shapes):
    net = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)))
    net(torch.zeros(1, 3, 8, 8))
    assert net[0].weight.grad_fn is not None
    estimator = fitted(nn.Sequential(*net), shapes)
    rows = estimator.transform(shapes[0])
    net[0].weight = net[0].weight.detach()  # torch pickles no results, in the parameter either
    np.testing.assert_array_equal(again(estimator).transform(shapes[0]), rows)


def wide():
    return nn.Sequential(nn.Conv2d(3, 256, 3), nn.Conv2d(256, 64, 3))


def size_of(net):
    return sum(tensor.nbytes for tensor in net.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dump", [pickle.dumps, dumped_by_joblib], ids=["pickle", "joblib"])
def test_a_module_that_is_not_trained_is_stored_once(dtype, dump, shapes):
    size = size_of(wide())
    estimator = fitted(wide().to(dtype), shapes, loss=None)
    assert len(dump(estimator)) < 1.05 * size
    assert len(dump(again(estimator))) < 1.05 * size


def test_what_training_changes_is_stored_as_it_was_and_as_it_is(shapes):
    net = wide()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    estimator = fitted(net, shapes, max_epochs=1)
    assert len(pickle.dumps(estimator)) < 2.1 * size_of(net)
    copied = again(estimator)
    for name, tensor in copied.backbone.state_dict().items():
        assert torch.equal(tensor, before[name])
    np.testing.assert_array_equal(copied.transform(shapes[0]), estimator.transform(shapes[0]))


def test_a_module_whose_head_alone_is_trained_is_stored_once(shapes):
    net = wide()
    parameters = {"head_epochs": 1, "max_epochs": 0, "n_components": 4, "weights": "pretrained"}
    estimator = fitted(net, shapes, **parameters)
    assert len(pickle.dumps(estimator)) < 1.05 * size_of(net)
    np.testing.assert_array_equal(
        again(estimator).transform(shapes[0]), estimator.transform(shapes[0])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("own", ["backbone", "pooling"])
@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
def test_a_stored_module_has_all_that_it_had(dtype, own, shapes):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(dtype)
    net[0].bias.requires_grad_(False)
    net[1].running_mean.fill_(-0.0)
    wholes = {"backbone": net, "pooling": "avg"}
    if own == "pooling":
        wholes = {"backbone": "small", "pooling": ScaledPooling().to(dtype)}
    estimator = CNNFeatureExtractor(**QUICK, **wholes, weights=None, loss=None).fit(shapes[0])
    for copied in (again(estimator), copy.deepcopy(estimator), copy.copy(estimator)):
        given, found = wholes[own], getattr(copied, own)
        for (name, tensor), other in zip(given.named_parameters(), found.parameters(), strict=True):
            assert (tensor.dtype, tensor.requires_grad) == (other.dtype, other.requires_grad)
            assert torch.equal(tensor, other), name
        for tensor, other in zip(given.buffers(), found.buffers(), strict=True):
            assert torch.equal(tensor.signbit(), other.signbit())
        # The network and the parameter are apart: what is done to one does not reach the other.
        rows = copied.transform(shapes[0])
        with torch.no_grad():
            next(found.parameters()).zero_()
        np.testing.assert_array_equal(again(copied).transform(shapes[0]), rows)
        assert next(given.parameters()).any()


class ScaledPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(256))

    def forward(self, maps):
        return maps.mean(dim=(2, 3)) * self.scale


def test_who_needs_no_other_fit_leaves_out_what_it_would_begin_with(shapes):
    net = wide()
    estimator = fitted(net, shapes, max_epochs=1)
    rows = estimator.transform(shapes[0])
    stored = pickle.dumps(estimator.set_params(backbone=None))
    assert len(stored) < 1.05 * size_of(net)
    np.testing.assert_array_equal(pickle.loads(stored).transform(shapes[0]), rows)


def test_a_fit_of_what_was_stored_is_that_of_what_was_given(shapes):
    estimator = fitted(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), shapes)
    expected = clone(estimator).fit(*shapes).transform(shapes[0])
    np.testing.assert_array_equal(again(estimator).fit(*shapes).transform(shapes[0]), expected)


def test_one_weight_in_two_places_stays_one(shapes):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    net[2].weight = net[1].weight
    copied = again(fitted(net, shapes, loss=None)).backbone
    assert copied[2].weight is copied[1].weight
    assert torch.equal(copied[1].weight, net[1].weight)


def test_building_a_trunk_leaves_no_trace_in_what_the_module_counts():
    assert build_backbone(Counting()).features.calls == 0
