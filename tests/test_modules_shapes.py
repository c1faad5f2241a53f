"""Modules of one's own that work in their own way: layouts, shapes, gradients, scripts."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, DeepHasher
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.hashing import ITQHasher

QUICK = {"max_epochs": 2, "head_epochs": 0, "batch_size": 8, "random_state": 0}


@pytest.fixture(autouse=True)
def _seed_new_modules():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(16, n_classes=2, random_state=0)


def fitted(backbone, shapes, **parameters):
    return CNNFeatureExtractor(backbone, **QUICK | parameters).fit(*shapes)


class Own(nn.Module):
    """One convolution, and a function of the module and its maps."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self, self.layer(x))


def flat(module, maps):
    return maps.view(len(maps), -1)


def reshaped(module, maps):
    return maps.reshape(len(maps), -1)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.9)], ids=str)
def test_a_module_may_view_its_maps_as_vectors(shapes, scales):
    images = shapes[0]
    net = Own(flat)
    same_in_any_size = nn.Sequential(nn.AdaptiveAvgPool2d(24), net)
    estimator = fitted(same_in_any_size, shapes, scales=scales)
    rows = estimator.transform(images)
    assert rows.shape == (16, 4 * 22 * 22)
    for copied in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
        np.testing.assert_array_equal(copied.transform(images), rows)
    net.function = reshaped  # it may have the other layout, which adds up in another order
    other = fitted(same_in_any_size, shapes, scales=scales).transform(images)
    np.testing.assert_allclose(rows, other, atol=1e-4)


BAD = {
    "complex": (lambda m, maps: torch.fft.fft2(maps), r"\(1, 4, 30, 30\) of complex numbers"),
    "no columns": (lambda m, maps: maps.mean(dim=(2, 3))[:, :0], r"shape \(1, 0\)"),
    "no pixels": (lambda m, maps: maps[:, :, :0], r"shape \(1, 4, 0, 30\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_comes_out_must_be_real_numbers_and_some(name, shapes):
    function, message = BAD[name]
    with pytest.raises(ValueError, match=f"backbone=Own turns images .*{message}.*real numbers"):
        fitted(Own(function), shapes)


CHANGING = {
    "fewer rows": (lambda m, maps: maps[: max(1, len(maps) - 1)], "7, 4, 30, 30"),
    "all in one row": (lambda m, maps: maps.mean(dim=(2, 3)).reshape(1, -1), "1, 32"),
    "fewer channels": (lambda m, maps: maps[:, :2] if m.training else maps, "8, 2, 30, 30"),
    "vectors": (lambda m, maps: maps.mean((2, 3)) if m.training else maps, "8, 4"),
}


@pytest.mark.parametrize("name", CHANGING)
def test_a_module_that_changes_its_shape_is_named(name, shapes):
    function, shape = CHANGING[name]
    message = rf"backbone=Own gives a tensor of shape \({shape}\) for 8 images in training"
    for estimator in (CNNFeatureExtractor(loss="contrastive", **QUICK), DeepHasher(4, **QUICK)):
        with pytest.raises(ValueError, match=message):
            estimator.set_params(backbone=Own(function)).fit(*shapes)


class Rows(nn.Module):
    def forward(self, maps):
        return maps.mean(dim=(2, 3))[:, : 4 - self.training]


def test_a_pooling_that_changes_its_shape_is_named(shapes):
    estimator = fitted(nn.Conv2d(3, 4, 3), shapes, pooling=Rows(), loss=None)
    with pytest.raises(ValueError, match=r"pooling=Rows makes \(8, 4\).*vectors \(8, 3\)"):
        estimator.transform(shapes[0])


WITHOUT_GRADIENT = {
    "detached": lambda m, maps: maps.detach(),
    "counts": lambda m, maps: (maps > 0).sum(dim=(2, 3)),
}


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_a_backbone_that_cannot_learn_is_warned_of_once(name, shapes):
    net = Own(WITHOUT_GRADIENT[name])
    with pytest.warns(UserWarning, match="No weight of backbone=Own is trained") as caught:
        fitted(net, shapes)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="No parameter that transform uses is trained") as caught:
        fitted(Own(WITHOUT_GRADIENT[name]).requires_grad_(False), shapes)
    assert len(caught) == 1


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_where_nothing_else_can_learn_the_backbone_is_blamed_and_not_the_loss(name, shapes):
    with pytest.raises(ValueError, match="outputs of backbone=Own have no gradients"):
        fitted(Own(WITHOUT_GRADIENT[name]), shapes, loss="contrastive")


def test_an_error_of_the_gradients_names_loss_and_backbone(shapes):
    with pytest.raises(RuntimeError, match="modified by an inplace") as caught:
        fitted(Own(lambda m, maps: maps.relu_().add_(1)), shapes)
    assert "loss=SquaredHingeLoss and backbone=Own" in caught.value.__notes__[0]


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_scripted_modules_train_and_say_that_they_cannot_be_pickled(how, shapes):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    example = [torch.zeros(1, 3, 32, 32)] if how == "trace" else []
    net = getattr(torch.jit, how)(net, *example)
    with pytest.warns(UserWarning, match="cannot be pickled.*scripted or traced"):
        assert fitted(net, shapes).transform(shapes[0]).shape == (16, 4)


def test_lazy_batch_norms_train(shapes):
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    estimator = fitted(net, shapes)
    rows = estimator.transform(shapes[0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator)).transform(shapes[0]), rows)


class Quiet(nn.Module):
    """It shows nothing of its weights, as wrappers of large networks do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.layer(x)

    def state_dict(self, *args, destination=None, prefix="", keep_vars=False):
        return {} if destination is None else destination


def test_a_module_that_hides_its_weights_is_pickled_and_goes_on(shapes):
    estimator = fitted(nn.Sequential(Quiet(), nn.ReLU()), shapes, warm_start=True)
    rows = estimator.transform(shapes[0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator)).transform(shapes[0]), rows)
    assert estimator.fit(*shapes).n_iter_ == 4


class Versioned(nn.Module):
    """Layers may read older files by their version; that of their own is the newest."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.layer(x)

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        assert metadata.get("version") == 2
        super()._load_from_state_dict(state, prefix, metadata, *args)


def test_layers_see_the_version_of_their_own_weights(shapes, tmp_path):
    parameters = {"early_stopping": True, "validation_fraction": 0.25, "checkpoint_dir": tmp_path}
    estimator = fitted(Versioned(), shapes, **parameters)
    rows = estimator.transform(shapes[0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator)).transform(shapes[0]), rows)
    np.testing.assert_array_equal(fitted(Versioned(), shapes).transform(shapes[0]).shape, (16, 4))
    fitted(Versioned(), shapes, **parameters)


@pytest.mark.parametrize("kind", ["bfloat16", "gradients"])
def test_rows_may_be_tensors_of_any_floating_type(kind):
    X, y = make_blobs(24, 4, centers=4, random_state=0)
    rows = torch.tensor(X).bfloat16() if kind == "bfloat16" else torch.tensor(X).requires_grad_()
    expected = rows.detach().float().numpy() if kind == "bfloat16" else X
    for estimator in (CNNFeatureExtractor(**QUICK), ITQHasher(2, random_state=0)):
        found = estimator.fit(rows, y).transform(rows)
        np.testing.assert_array_equal(found, estimator.fit(expected, y).transform(expected))
