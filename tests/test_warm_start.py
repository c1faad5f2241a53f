"""A fit that goes on from a fitted network, and one that must not."""

import pickle

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_cbir import (
    CNNFeatureExtractor,
    CPFEmbedder,
    DeepHasher,
    NeighborsRetriever,
    persistence,
)
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.losses import LOSSES, SquaredHingeLoss, output_of

# A few steps of tiny networks.
pytestmark = pytest.mark.filterwarnings("ignore:.* training images get the same")
X, Y = make_blobs(30, 5, centers=3, cluster_std=3.0, random_state=0)
IMAGES, OF_IMAGES = make_shapes(24, random_state=0)
EVERY_LOSS = pytest.mark.parametrize("name", sorted(LOSSES))
STILL = {"lr": 1e-12, "weight_decay": 0.0}  # a fit that moves nothing shows where it began


def of_loss(name, **parameters):
    parameters = {"loss": name, "max_epochs": 2, "batch_size": 8, "random_state": 0} | parameters
    if isinstance(name, str) and output_of(LOSSES[name]()) == "bits":
        return DeepHasher(6, **parameters)
    return CNNFeatureExtractor(**{"weights": None} | parameters)


def weights_of(fitted):
    return {k: v.copy() for k, v in fitted._network_state["weights"].items()}


def learned(fitted):
    kept = fitted._training_state["loss"]
    return {} if kept is None else kept["state"]


def assert_equal(one, other, but="num_batches_tracked"):
    assert one.keys() == other.keys()
    for key in one:
        if but not in key:
            np.testing.assert_allclose(one[key], other[key], rtol=0, atol=1e-6, err_msg=key)


@EVERY_LOSS
def test_fit_goes_on_from_the_network_and_from_what_the_loss_has_learned(name):
    estimator = of_loss(name, lr=0.01).fit(X, Y)
    network, loss = weights_of(estimator), learned(estimator)
    estimator.set_params(warm_start=True, **STILL).fit(X[::-1], Y[::-1])
    assert_equal(weights_of(estimator), network)
    assert_equal(learned(estimator), loss)
    assert estimator.n_iter_ == 4
    assert [epoch["epoch"] for epoch in estimator.history_] == [1, 2, 3, 4]
    estimator.set_params(warm_start=False).fit(X, Y)
    assert estimator.n_iter_ == 2
    assert any((v != network[k]).any() for k, v in weights_of(estimator).items())


def test_losses_with_proxies_and_codes_hand_them_on():
    of = {name for name in LOSSES if learned(of_loss(name, max_epochs=1).fit(X, Y))}
    assert of == {"cnnh", "cpf", "csq", "dlbhc", "greedyhash", "orthohash"}


def test_a_first_fit_is_the_same_with_and_without():
    cold, warm = of_loss("softmax").fit(X, Y), of_loss("softmax", warm_start=True).fit(X, Y)
    assert_equal(weights_of(cold), weights_of(warm))


def test_going_on_lowers_the_loss():
    estimator = of_loss("softmax", warm_start=True, lr=0.01, random_state=None)
    for _ in range(4):
        estimator.fit(X, Y)
    assert estimator.history_[-1]["loss"] < estimator.history_[0]["loss"] / 2
    assert [epoch["epoch"] for epoch in estimator.history_] == list(range(1, 9))


@pytest.mark.parametrize("way", ["pickle", "file"])
@pytest.mark.parametrize("name", ["cpf", "csq"])
def test_saved_estimators_go_on_with_their_proxies_and_codes(name, way, tmp_path):
    estimator = of_loss(name, warm_start=True).fit(X, Y)
    if way == "pickle":
        again = pickle.loads(pickle.dumps(estimator))
    else:
        persistence.save(estimator, tmp_path / "one.cbir")
        again = persistence.load(tmp_path / "one.cbir")
    again.fit(X, Y), estimator.fit(X, Y)
    assert_equal(weights_of(again), weights_of(estimator), but="nothing")
    assert_equal(learned(again), learned(estimator), but="nothing")
    assert again.n_iter_ == 4


def test_what_an_earlier_version_saved_goes_on_with_new_proxies():
    estimator = of_loss("cpf").fit(X, Y)
    state = estimator.__getstate__()
    for name in ("_training_state", "warm_start"):
        del state[name]
    old = CNNFeatureExtractor.__new__(CNNFeatureExtractor)
    old.__setstate__(state)
    assert "CNNFeatureExtractor" in repr(old)
    old.set_params(warm_start=True, **STILL).fit(X, Y)
    assert_equal(weights_of(old), weights_of(estimator))


def test_images_go_on_and_pretrained_statistics_stay():
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    backbone[1].running_mean.fill_(0.25)
    extractor = CNNFeatureExtractor(backbone, loss="softmax", max_epochs=1, random_state=0)
    extractor.set_params(warm_start=True, batch_size=8).fit(IMAGES, OF_IMAGES)
    assert extractor.n_iter_ == 6
    extractor.fit(IMAGES, OF_IMAGES)
    assert [epoch["phase"] for epoch in extractor.history_][6:] == ["all"]
    means = [v for k, v in weights_of(extractor).items() if k.endswith("running_mean")]
    assert np.all(means[0] == 0.25)


def test_state_of_a_module_beside_its_weights_goes_on():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = torch.nn.Conv2d(3, 4, 3), 0

        def forward(self, x):
            self.calls += self.training
            return self.layer(x)

    extractor = CNNFeatureExtractor(Counting(), loss="softmax", head_epochs=0, max_epochs=1)
    extractor.set_params(warm_start=True, batch_size=8).fit(IMAGES, OF_IMAGES)
    calls = extractor._network.trunk.features.calls
    assert calls > 0
    extractor.fit(IMAGES, OF_IMAGES)
    assert extractor._network.trunk.features.calls == 2 * calls


def test_embedders_hold_the_same_classes_out():
    X, y = make_blobs(90, 5, centers=12, random_state=0)
    embedder = CPFEmbedder(4, max_epochs=1, threshold_fraction=0.3, warm_start=True)
    held_out = embedder.fit(X, y)._training_state["held_out"]
    assert len(held_out) == 4
    proxies = learned(embedder)["proxies"].copy()
    embedder.set_params(**STILL).fit(X, y)
    np.testing.assert_array_equal(embedder._training_state["held_out"], held_out)
    np.testing.assert_allclose(learned(embedder)["proxies"], proxies, atol=1e-6)


def test_early_stopping_keeps_the_proxies_of_the_best_network():
    estimator = of_loss("cpf", early_stopping=True, validation_fraction=0.3, max_epochs=6)
    estimator.set_params(lr=0.5, n_iter_no_change=6).fit(X, Y)
    best = int(np.argmin([epoch["valid_loss"] for epoch in estimator.history_]))
    estimator.set_params(warm_start=True, max_epochs=1, **STILL).fit(X, Y)
    expected = estimator.history_[best]["valid_loss"]
    assert estimator.history_[-1]["valid_loss"] == pytest.approx(expected, rel=1e-4)


def test_balanced_class_weights_are_counted_anew():
    loss = SquaredHingeLoss(class_weight="balanced")
    estimator = of_loss(loss, warm_start=True).fit(X, Y)
    estimator.set_params(**STILL).fit(X, Y)
    few = np.flatnonzero((Y > 0) | (np.arange(30) % 2 > 0))
    assert learned(estimator) == {}
    cold = of_loss(loss, **STILL).fit(X[few], Y[few])
    assert learned(cold) == {}


def test_another_loss_of_the_same_kind_may_go_on():
    estimator = of_loss("contrastive", n_components=6).fit(X, Y)
    network = weights_of(estimator)
    estimator.set_params(loss="cpf", warm_start=True, **STILL).fit(X, Y)
    assert_equal(weights_of(estimator), network)
    assert learned(estimator).keys() == {"proxies"}


# What differs.


@pytest.mark.parametrize(
    ("change", "y", "message"),
    [
        ({}, Y + 1, r"the classes in y differs: \[0, 1, 2\] then, \[1, 2, 3\] now"),
        ({}, Y % 2, r"the classes in y differs: \[0, 1, 2\] then, \[0, 1\] now"),
        ({}, Y.astype(str), "the classes in y differs"),
        ({}, np.eye(3, dtype=int)[Y], "y differs: one label per row then, 0/1 columns now"),
        ({"n_components": 5}, Y, "n_components differs: None then, 5 now"),
        ({"normalize": False}, Y, "normalize differs: True then, False now"),
        ({"loss": "contrastive"}, Y, "3 class scores then, no class scores now"),
        ({"loss": None}, Y, "loss=None trains nothing"),
    ],
    ids=["other", "fewer", "text", "columns", "width", "length", "loss", "none"],
)
def test_what_differs_is_named_and_the_estimator_stays_as_it_was(change, y, message):
    estimator = of_loss("softmax", warm_start=True).fit(X, Y)
    before = vars(estimator).copy()
    estimator.set_params(**change)
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, y)
    estimator.set_params(**{name: before[name] for name in change})
    assert vars(estimator) == before
    estimator.fit(X, Y)


def test_rows_of_another_width_and_images_are_named():
    estimator = of_loss("softmax", warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match="X differs: 5 features then, 4 features now"):
        estimator.fit(X[:, :4], Y)
    with pytest.raises(ValueError, match="X differs: 5 features then, images now"):
        estimator.set_params(backbone="small").fit(IMAGES, OF_IMAGES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet9"}, "backbone differs: small then, resnet9 now"),
        ({"pooling": "gem"}, "pooling differs: auto then, gem now"),
        ({"image_size": 40}, "image_size differs: None then, 40 now"),
        ({"mean": [0.1, 0.2, 0.3]}, "mean differs"),
    ],
    ids=["backbone", "pooling", "size", "mean"],
)
def test_other_layers_and_other_preprocessing_are_named(change, message):
    estimator = of_loss("softmax", backbone="small", warm_start=True, max_epochs=1)
    estimator.fit(IMAGES, OF_IMAGES)
    with pytest.raises(ValueError, match=message):
        estimator.set_params(**change).fit(IMAGES, OF_IMAGES)


def test_images_of_another_size_and_other_modules_are_named():
    def net(width):
        return torch.nn.Sequential(torch.nn.Conv2d(3, width, 3))

    estimator = of_loss("softmax", backbone=net(4), warm_start=True, head_epochs=0, max_epochs=1)
    estimator.fit(IMAGES, OF_IMAGES)
    with pytest.raises(ValueError, match=r"images differs: \(32, 32\) then, \(16, 32\)"):
        estimator.fit(IMAGES[:, :16], OF_IMAGES)
    with pytest.raises(ValueError, match=r"backbone differs: \(0\): Conv2d\(3, 4.* then, \(0\)"):
        estimator.set_params(backbone=net(5)).fit(IMAGES, OF_IMAGES)


class Scaled(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.layer, self.factor = torch.nn.Conv2d(3, 4, 3), factor

    def forward(self, images):
        return self.layer(images) * self.factor


@pytest.mark.parametrize("way", ["here", "pickle"])
def test_other_attributes_of_a_module_are_named_and_not_left_out(way):
    estimator = of_loss("softmax", backbone=Scaled(1.0), warm_start=True, head_epochs=0)
    estimator.set_params(max_epochs=1).fit(IMAGES, OF_IMAGES)
    if way == "pickle":
        estimator = pickle.loads(pickle.dumps(estimator))
    with pytest.raises(ValueError, match=r"the attribute backbone\.factor differs"):
        estimator.set_params(backbone=Scaled(3.0)).fit(IMAGES, OF_IMAGES)
    estimator.set_params(backbone=Scaled(1.0)).fit(IMAGES, OF_IMAGES)
    assert estimator.n_iter_ == 2


def test_long_modules_are_not_printed():
    layers = [torch.nn.Conv2d(3, 4, 3), *(torch.nn.Conv2d(4, 4, 1) for _ in range(30))]
    estimator = of_loss("softmax", backbone=torch.nn.Sequential(*layers), warm_start=True)
    estimator.set_params(head_epochs=0, max_epochs=1).fit(IMAGES, OF_IMAGES)
    estimator.set_params(backbone=torch.nn.Sequential(*layers[:-1]))
    with pytest.raises(ValueError, match=r"backbone differs: .*Conv2d") as caught:
        estimator.fit(IMAGES, OF_IMAGES)
    assert len(str(caught.value)) < 400


def test_features_of_other_names_are_named():
    frame = pandas.DataFrame(X, columns=list("abcde"))
    estimator = of_loss("softmax", warm_start=True).fit(frame, Y)
    with pytest.raises(ValueError, match="the names of features differs: a then, e now"):
        estimator.fit(frame[list("edcba")], Y)
    assert estimator.feature_names_in_.tolist() == list("abcde")
    assert estimator.fit(frame, Y).n_iter_ == 4
    assert estimator.fit(X, Y).n_iter_ == 6


@pytest.mark.parametrize("way", ["here", "pickle", "file"])
@pytest.mark.parametrize("of", ["name", "module"])
def test_weights_are_not_read_again(of, way, tmp_path):
    """The same network as if they were there, its statistics kept, but for new batch norms."""

    def net(n_norms):
        norms = [torch.nn.BatchNorm2d(4) for _ in range(n_norms)]
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), *norms)

    if of == "name":
        backbone, trained = "small", build_backbone("small").features
    else:
        backbone, trained = net(2), net(2)
        trained[1].running_mean.fill_(0.25)
    torch.save(trained.state_dict(), tmp_path / "one.pth")
    parameters = {"backbone": backbone, "weights": tmp_path / "one.pth", "batch_size": 8}
    parameters |= {"max_epochs": 1, "warm_start": True, "checkpoint_dir": tmp_path / "kept"}
    estimator = of_loss("softmax", **parameters).fit(IMAGES, OF_IMAGES)
    if way == "pickle":
        estimator = pickle.loads(pickle.dumps(estimator))
    if way == "file" and of == "name":
        persistence.save(estimator.set_params(checkpoint_dir=None), tmp_path / "one.cbir")
        estimator = persistence.load(tmp_path / "one.cbir")
    (tmp_path / "one.pth").unlink()
    before = weights_of(estimator)
    estimator.fit(IMAGES, OF_IMAGES)
    assert estimator._network.trunk.frozen_batch_norm
    assert estimator.history_[-1]["lr"] == estimator.history_[5]["lr"]
    if of == "module":
        kept, learned_anew = (f"trunk.features.{n}.running_mean" for n in (1, 2))
        assert np.all(weights_of(estimator)[kept] == 0.25)
        assert (weights_of(estimator)[learned_anew] != before[learned_anew]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n_bits": 5}, "n_bits differs"), ({"hash_layer": "latent"}, "hash_layer")],
)
def test_other_bits_are_named(change, message):
    hasher = of_loss("dsh", warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        hasher.set_params(**change).fit(X, Y)


def test_the_switch_is_a_boolean():
    with pytest.raises(ValueError, match="warm_start='yes' must be True or False"):
        of_loss("softmax", warm_start="yes").fit(X, Y)


def test_a_fit_that_fails_leaves_the_network_and_its_history():
    estimator = of_loss("cpf", warm_start=True).fit(X, Y)
    network, history = weights_of(estimator), list(estimator.history_)
    rows = estimator.transform(X)
    with pytest.raises(FloatingPointError):
        estimator.set_params(lr=float("inf")).fit(X, Y)
    assert_equal(weights_of(estimator), network, but="nothing")
    assert estimator.history_ == history
    np.testing.assert_array_equal(estimator.transform(X), rows)


# Clones, searches and checkpoints.


def test_clones_and_searches_carry_no_weights():
    estimator = of_loss("softmax", warm_start=True, lr=0.05).fit(X, Y)
    cold = of_loss("softmax", warm_start=False, lr=0.05).fit(X, Y)
    estimator.fit(X, Y)
    assert not hasattr(clone(estimator), "n_iter_")
    assert_equal(weights_of(clone(estimator).fit(X, Y)), weights_of(cold), but="nothing")
    search = make_pipeline(estimator, NeighborsRetriever(1))
    grid = GridSearchCV(search, {"cnnfeatureextractor__lr": [0.05]}, cv=2).fit(X, Y)
    assert grid.best_estimator_[0].n_iter_ == 2
    assert_equal(weights_of(grid.best_estimator_[0]), weights_of(cold), but="nothing")


def test_a_checkpoint_belongs_to_the_weights_that_a_fit_began_with(tmp_path):
    estimator = of_loss("cpf", warm_start=True, checkpoint_dir=str(tmp_path)).fit(X, Y)
    assert len(list(tmp_path.iterdir())) == 1
    estimator.fit(X, Y)
    assert len(list(tmp_path.iterdir())) == 2
    again = of_loss("cpf", warm_start=True, checkpoint_dir=str(tmp_path)).fit(X, Y).fit(X, Y)
    assert len(list(tmp_path.iterdir())) == 2
    assert_equal(weights_of(again), weights_of(estimator), but="nothing")
    assert again.n_iter_ == 4
    alone = of_loss("cpf", warm_start=True).fit(X, Y).fit(X, Y)
    assert_equal(weights_of(again), weights_of(alone), but="nothing")
