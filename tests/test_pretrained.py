"""Whether a network counts as pretrained, and what follows: rates, head epochs, batch norms."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher
from sklearn_cbir.backbones import freeze_batch_norm
from sklearn_cbir.datasets import make_shapes


@pytest.fixture(autouse=True)
def _seed_new_modules():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(16, n_classes=4, random_state=0)


def net(norm=None, *, trained=False):
    """Convolution and norm; a trained one has statistics, yet has counted no batch."""
    norm = nn.BatchNorm2d(4) if norm is None else norm
    if trained:
        norm.running_mean.fill_(0.25)
        norm.running_var.fill_(2.0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm)


def fitted(shapes, backbone, *, cls=CNNFeatureExtractor, weights="pretrained", **parameters):
    defaults = {"max_epochs": 1, "batch_size": 8, "random_state": 0}
    return cls(backbone=backbone, weights=weights, **defaults | parameters).fit(*shapes)


def phases(estimator):
    return [row["phase"] for row in estimator.history_]


def mean_of(estimator, layer=1):
    return estimator._network_state["weights"][f"trunk.features.{layer}.running_mean"]


PRETRAINED, NEW = ["head"] * 5 + ["all"], ["all"]


@pytest.mark.parametrize("cls", [CNNFeatureExtractor, DeepHasher, CPFEmbedder])
def test_a_file_counts_as_pretrained_for_a_module_as_for_a_name(cls, shapes, tmp_path):
    torch.save(net(trained=True).state_dict(), tmp_path / "net.pt")
    by_file = fitted(shapes, net(), cls=cls, weights=tmp_path / "net.pt", lr=0.003)
    assert phases(by_file) == PRETRAINED
    assert np.all(mean_of(by_file) == 0.25)
    trunk = fitted(shapes, "small", weights=None)._network.trunk.features.state_dict()
    torch.save(trunk, tmp_path / "small.pt")
    by_name = fitted(shapes, "small", cls=cls, weights=tmp_path / "small.pt", lr=0.003)
    assert phases(by_name) == PRETRAINED


def test_the_trunk_of_a_file_trains_at_a_tenth_of_the_rate(shapes, tmp_path):
    torch.save(net(trained=True).state_dict(), tmp_path / "net.pt")
    rates = {"optimizer": "sgd", "weight_decay": 0.0, "head_epochs": 0, "schedule": "constant"}
    by_file = fitted(shapes, net(), weights=tmp_path / "net.pt", **rates)
    same = fitted(shapes, net(), weights=tmp_path / "net.pt", trunk_lr=0.0003, **rates)
    weight = "trunk.features.0.weight"
    np.testing.assert_array_equal(
        by_file._network_state["weights"][weight], same._network_state["weights"][weight]
    )


def test_a_file_without_trained_statistics_is_pretrained_but_learns_them(shapes, tmp_path):
    torch.save(net().state_dict(), tmp_path / "net.pt")
    by_file = fitted(shapes, net(), weights=tmp_path / "net.pt")
    assert phases(by_file) == PRETRAINED
    assert mean_of(by_file).any()


NORMS = {
    "batch": nn.BatchNorm2d,
    "no momentum": lambda n: nn.BatchNorm2d(n, momentum=None),
    "synchronized": nn.SyncBatchNorm,
    "instance": lambda n: nn.InstanceNorm2d(n, track_running_stats=True),
}


@pytest.mark.parametrize("name", sorted(NORMS))
def test_norms_are_fresh_by_their_statistics(name, shapes):
    if name == "synchronized":  # it trains on GPUs alone
        backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4).eval())
        backbone[1].running_mean.fill_(0.25)
        assert phases(fitted(shapes, backbone, max_epochs=1)) == PRETRAINED
        return
    trained = fitted(shapes, net(NORMS[name](4), trained=True))
    assert phases(trained) == PRETRAINED
    assert np.all(mean_of(trained) == 0.25)
    fresh = fitted(shapes, net(NORMS[name](4)))
    assert phases(fresh) == NEW
    assert mean_of(fresh).any()


def test_a_count_of_batches_alone_is_no_training(shapes):
    counted = net()
    counted[1].num_batches_tracked.fill_(7)
    assert phases(fitted(shapes, counted)) == NEW


def test_frozen_batch_norms_of_torchvision_tell_as_others_do(shapes):
    ops = pytest.importorskip("torchvision.ops")
    assert phases(fitted(shapes, net(ops.FrozenBatchNorm2d(4), trained=True))) == PRETRAINED
    assert phases(fitted(shapes, net(ops.FrozenBatchNorm2d(4)))) == NEW


def test_a_fresh_norm_on_a_trained_trunk_learns_its_statistics(shapes):
    backbone = nn.Sequential(*net(trained=True), nn.BatchNorm2d(4))
    half = fitted(shapes, backbone, head_epochs=0, max_epochs=2)
    assert np.all(mean_of(half, 1) == 0.25)
    assert mean_of(half, 2).any()


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False)])
def test_a_module_without_statistics_is_pretrained_unless_weights_is_none(norm, shapes):
    assert phases(fitted(shapes, net(norm))) == PRETRAINED
    assert phases(fitted(shapes, net(norm), weights=None)) == NEW
    assert phases(fitted(shapes, net(trained=True), weights=None)) == NEW


def test_freezing_keeps_statistics_of_instance_norms_too():
    network = nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True), nn.InstanceNorm2d(2))
    freeze_batch_norm(network)
    assert [layer.training for layer in network] == [False, True]
