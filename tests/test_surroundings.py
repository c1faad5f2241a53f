"""What the caller has set for all of torch changes no result."""

import contextlib

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.losses import LOSSES, output_of

ROWS = make_blobs(24, 4, centers=4, random_state=0)
QUICK = {"max_epochs": 2, "batch_size": 8, "random_state": 0}


@pytest.fixture(autouse=True)
def _seed_new_modules():
    torch.manual_seed(0)


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "cpu": lambda: default_device("cpu"),
    "a device as context": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "deterministic": deterministic,
}


def outputs(estimator, X, y):
    estimator.fit(X, y)
    return getattr(estimator, "project", estimator.transform)(X)


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("kind", ["built-in", "module", "rows"])
def test_fit_and_transform_give_the_same_in_any_surroundings(name, kind):
    X, y = ROWS if kind == "rows" else make_shapes(12, n_classes=3, random_state=0)
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    backbone = own if kind == "module" else "small"

    def make():
        return CNNFeatureExtractor(
            backbone, weights=None, pooling="gem", n_components=5, **QUICK | {"max_epochs": 1}
        )

    expected = make()
    rows = outputs(expected, X, y)
    with SURROUNDINGS[name]():
        estimator = make()
        found = outputs(estimator, X, y)
        estimator.__setstate__(estimator.__getstate__())
        estimator._network = None
        again = estimator.transform(X)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(again, rows)
    np.testing.assert_array_equal(expected.transform(X), rows)


@pytest.mark.parametrize(
    ("labels", "dtype"), [("classes", torch.float64), ("columns", torch.bfloat16)], ids=str
)
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_trains_alike_under_every_default_dtype(loss, labels, dtype):
    X, y = ROWS
    if labels == "columns":
        y = np.eye(4, dtype=np.uint8)[y] | np.eye(4, dtype=np.uint8)[np.roll(y, 1)]

    def make():
        if output_of(LOSSES[loss]()) == "bits":
            return DeepHasher(8, loss=loss, **QUICK)
        return CNNFeatureExtractor(loss=loss, **QUICK)

    expected = outputs(make(), X, y)
    with default_dtype(dtype):
        found = outputs(make(), X, y)
    np.testing.assert_array_equal(found, expected)


def test_the_embedder_and_its_threshold_do_not_change_either():
    plain = CPFEmbedder(8, threshold_fraction=0, **QUICK).fit(*ROWS)
    with default_dtype(torch.float64), torch.inference_mode():
        other = CPFEmbedder(8, threshold_fraction=0, **QUICK).fit(*ROWS)
    assert other.threshold_ == plain.threshold_


class Proxies(nn.Module):
    """A loss with parameters in the dtype of the moment it is made."""

    output = "features"

    def __init__(self):
        super().__init__()
        self.proxies = nn.Parameter(torch.ones(4, 256))

    def forward(self, outputs, y):
        return (outputs - self.proxies[y]).square().mean()


def test_modules_and_losses_made_in_float64_train():
    images, y = make_shapes(12, random_state=0)
    with default_dtype(torch.float64):
        estimator = CNNFeatureExtractor(nn.Conv2d(3, 256, 3), loss=Proxies(), **QUICK)
        assert estimator.fit(images, y).transform(images).dtype == np.float32


def test_the_callers_settings_are_as_they_were():
    with default_dtype(torch.float64), torch.inference_mode():
        CNNFeatureExtractor(**QUICK).fit(*ROWS)
        assert torch.zeros(1).dtype == torch.float64
        assert torch.is_inference_mode_enabled()
    with pytest.raises(ValueError, match="y"), default_dtype(torch.float64), torch.no_grad():
        CNNFeatureExtractor(**QUICK).fit(ROWS[0], None)
    assert torch.zeros(1).dtype == torch.float32
    assert torch.is_grad_enabled()


def test_anomaly_detection_finds_nothing():
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        CNNFeatureExtractor(**QUICK).fit(*ROWS)
