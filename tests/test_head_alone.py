"""max_epochs=0 trains what is new beside the trunk, and nothing of the trunk."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.losses import LOSSES, output_of

# A few steps of tiny networks.
pytestmark = pytest.mark.filterwarnings("ignore:.* training images get the same")
IMAGES, Y = make_shapes(24, random_state=0)
COMMON = {"max_epochs": 0, "batch_size": 8, "random_state": 0, "image_size": 16}


def trunk():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
    layers[1].running_mean.fill_(0.25)
    return layers


def of_loss(name, **parameters):
    parameters = COMMON | {"backbone": trunk(), "loss": name, "head_epochs": 2} | parameters
    if output_of(LOSSES[name]()) == "bits":
        return DeepHasher(6, **parameters)
    return CNNFeatureExtractor(n_components=6, **parameters)


def trunk_of(fitted):
    weights = fitted._network_state["weights"]
    return {k.removeprefix("trunk."): v for k, v in weights.items() if k.startswith("trunk.")}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_head_alone_learns_and_the_trunk_stays_bit_for_bit(name):
    estimator = of_loss(name, optimizer="sgd", weight_decay=0.1)
    untouched = CNNFeatureExtractor(estimator.backbone, loss=None, image_size=16).fit(IMAGES)
    one, two = estimator.fit(IMAGES, Y), of_loss(name).set_params(**estimator.get_params())
    expected = trunk_of(untouched)
    assert trunk_of(one).keys() == expected.keys()
    for key, value in trunk_of(one).items():
        np.testing.assert_array_equal(value, expected[key])
    assert [epoch["phase"] for epoch in one.history_] == ["head", "head"]
    assert one.n_iter_ == 2
    neck = [w._network_state["weights"] for w in (one, two.set_params(lr=1e-9).fit(IMAGES, Y))]
    assert any((neck[0][k] != neck[1][k]).any() for k in neck[0] if "trunk" not in k)


def test_epochs_of_a_head_alone_stop_early():
    estimator = of_loss("softmax", head_epochs=9, early_stopping=True, lr=1e-12)
    estimator.set_params(validation_fraction=0.3, n_iter_no_change=2)
    assert estimator.fit(IMAGES, Y).n_iter_ == 3


def test_a_pretrained_trunk_gets_five_epochs_of_its_head():
    assert of_loss("softmax", head_epochs=None).fit(IMAGES, Y).n_iter_ == 5


def test_rows_train_a_head_on_a_random_trunk():
    X, y = make_blobs(30, 5, centers=3, random_state=0)
    embedder = CPFEmbedder(4, max_epochs=0, head_epochs=1, threshold_fraction=0, random_state=0)
    assert embedder.fit(X, y).transform(X).shape == (30, 4)


@pytest.mark.parametrize("parameters", [{"head_epochs": 0}, {"head_epochs": None, "weights": None}])
def test_no_epoch_at_all_is_refused(parameters):
    with pytest.raises(ValueError, match="max_epochs=0 trains only the head.*Use head_epochs=1"):
        of_loss("softmax", **parameters).fit(IMAGES, Y)


def test_a_trunk_without_a_head_is_refused():
    extractor = CNNFeatureExtractor(trunk(), loss="contrastive", head_epochs=3, **COMMON)
    with pytest.raises(ValueError, match="there are no new layers"):
        extractor.fit(IMAGES, Y)


def test_an_extractor_that_is_not_trained_needs_no_epochs():
    extractor = CNNFeatureExtractor(trunk(), loss=None, **COMMON)
    assert extractor.fit(IMAGES).n_iter_ == 0


def test_a_head_that_is_left_behind_after_fit_is_warned_of():
    extractor = CNNFeatureExtractor("small", weights=None, loss="softmax", head_epochs=1, **COMMON)
    with pytest.warns(UserWarning, match="No parameter that transform uses.*n_components"):
        extractor.fit(IMAGES, Y)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "No parameter")
        extractor.set_params(n_components=4).fit(IMAGES, Y)
