"""Every loss inside its estimator, and losses of others with parameters of their own."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses as others
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.pipeline import make_pipeline
from training_cases import Interrupt

from sklearn_cbir import CNNFeatureExtractor, DeepHasher, NeighborsRetriever
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.losses import LOSSES, HashNetLoss, output_of
from sklearn_cbir.metrics import hamming_mean_average_precision, mean_average_precision

NAMES = sorted(LOSSES)
X, Y = make_blobs(80, 6, centers=4, cluster_std=1.0, random_state=0)
ROWS = Y[:, None] == np.arange(4)  # the same labels as 0/1 columns
ROWS = (ROWS | (Y[:, None] == 0) & (np.arange(4) == 1)).astype(int)  # class 0 has label 1 too


def estimator(name, **parameters):
    parameters = {"loss": name, "max_epochs": 6, "batch_size": 40, "random_state": 0} | parameters
    if output_of(LOSSES[name]()) == "bits":
        return DeepHasher(12, **parameters)
    return CNNFeatureExtractor(weights=None, n_components=8, **parameters)


def score(estimator, X, y):
    out = estimator.transform(X)
    if out.dtype == np.uint8:
        return hamming_mean_average_precision(y, y, out, out)
    return mean_average_precision(y, y, 1 - out @ out.T)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_falls_in_its_estimator_and_separates_classes(name):
    fitted = estimator(name, lr=0.01, max_epochs=10).fit(X, Y)
    assert fitted.history_[-1]["loss"] < 0.9 * fitted.history_[0]["loss"]
    assert score(fitted, X, Y) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_learns_from_several_labels_per_row(name):
    fitted = estimator(name, lr=0.01, max_epochs=3).fit(X, ROWS)
    assert fitted.history_[-1]["loss"] < fitted.history_[0]["loss"]


def score_unseen(name, y):
    """Train codes on 200 rows of five blobs and score those of 400 others, half of them queries."""
    rows = make_blobs(600, 16, centers=5, cluster_std=4.0, random_state=0)[0]
    codes = estimator(name, lr=0.01, max_epochs=10).fit(rows[:200], y[:200]).transform(rows)
    return hamming_mean_average_precision(y[200:400], y[400:], codes[200:400], codes[400:])


@pytest.mark.parametrize("name", [name for name in NAMES if output_of(LOSSES[name]()) == "bits"])
def test_codes_of_unseen_rows_find_their_class_and_nothing_under_permuted_labels(name):
    y = make_blobs(600, 16, centers=5, cluster_std=4.0, random_state=0)[1]
    assert score_unseen(name, y) > 0.8
    assert score_unseen(name, np.random.default_rng(0).permutation(y)) < 0.24  # by chance 0.21


@pytest.mark.parametrize("name", ["triplet", "lrml", "multilevel", "csq", "greedyhash"])
def test_loss_falls_on_images(name):
    images, y = make_shapes(48, random_state=0)
    parameters = {"backbone": "small", "lr": 0.001, "augment": None}
    history = estimator(name, **parameters).fit(images, y).history_
    assert history[-1]["loss"] < history[0]["loss"]


def test_bits_of_a_classified_code_vary():
    codes = estimator("dlbhc", lr=0.01).fit(X, Y).transform(X)
    assert (codes.mean(axis=0) > 0.02).mean() > 0.5
    assert (codes.mean(axis=0) < 0.98).all()


# Losses that change as they train.


class Recorder(torch.nn.Module):
    """A loss that notes when its epochs start."""

    output = "bits"
    epochs = []

    def start_epoch(self, epoch, n_epochs):
        self.epochs.append((epoch, n_epochs))

    def forward(self, outputs, y):
        return outputs.square().mean()


def test_a_loss_is_told_of_every_epoch_of_both_phases():
    Recorder.epochs.clear()
    DeepHasher(4, loss=Recorder(), head_epochs=2, max_epochs=3, random_state=0).fit(X, Y)
    assert Recorder.epochs == [(epoch, 5) for epoch in range(5)]


class Scheduled:
    """A loss that is no module and whose value is its setting."""

    output = "bits"

    def start_epoch(self, epoch, n_epochs):
        self.setting = epoch + 1.0

    def __call__(self, outputs, y):
        return self.setting + 0 * outputs.sum()


def test_held_out_images_are_scored_at_the_setting_of_the_last_epoch():
    """Losses of epochs with different settings cannot be compared."""
    hasher = DeepHasher(4, loss=Scheduled(), max_epochs=3, early_stopping=True, random_state=0)
    history = hasher.fit(X, Y).history_
    assert [row["loss"] for row in history] == [1, 2, 3]
    assert [row["valid_loss"] for row in history] == [3, 3, 3]


def test_early_stopping_is_not_misled_by_the_schedule_of_hashnet():
    params = {"lr": 1e-12, "max_epochs": 8, "n_iter_no_change": 8, "random_state": 0}
    hasher = DeepHasher(4, loss="hashnet", early_stopping=True, **params).fit(X, Y)
    losses = [row["valid_loss"] for row in hasher.history_]
    assert max(losses) - min(losses) < 0.1 * min(losses)


@pytest.mark.parametrize("name", ["hashnet", "csq", "cnnh", "greedyhash"])
def test_a_loss_with_a_state_goes_on_where_it_was_cut_off(name, tmp_path):
    whole = estimator(name, max_epochs=4).fit(X, Y)
    cut = estimator(name, max_epochs=4, checkpoint_dir=tmp_path).set_callbacks(Interrupt(2))
    with pytest.raises(KeyboardInterrupt):
        cut.fit(X, Y)
    resumed = estimator(name, max_epochs=4, checkpoint_dir=tmp_path).fit(X, Y)
    assert [r["loss"] for r in resumed.history_] == [r["loss"] for r in whole.history_]
    assert np.array_equal(resumed.project(X), whole.project(X))


def test_hashnet_ends_sharper_than_it_began():
    loss = HashNetLoss()
    estimator("hashnet", loss=loss).fit(X, Y)
    assert loss.beta == 1  # the user's object is left alone
    plain = estimator("hashnet", loss=HashNetLoss(final_beta=1)).fit(X, Y)
    sharp = estimator("hashnet").fit(X, Y)
    assert plain.history_[0]["loss"] == sharp.history_[0]["loss"]
    assert plain.history_[-1]["loss"] != sharp.history_[-1]["loss"]


# Losses of another library.


@pytest.mark.parametrize(
    "make",
    [
        others.MultiSimilarityLoss,
        others.TripletMarginLoss,
        lambda: others.ProxyAnchorLoss(num_classes=4, embedding_size=8),
        lambda: others.ArcFaceLoss(num_classes=4, embedding_size=8),
    ],
    ids=["multi-similarity", "triplet margin", "proxy anchor", "arcface"],
)
def test_losses_of_pytorch_metric_learning_train_with_their_own_parameters(make):
    loss = make()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    extractor = CNNFeatureExtractor(
        weights=None, loss=loss, n_components=8, max_epochs=6, lr=0.01, random_state=0
    )
    fitted = clone(extractor).fit(X, Y)
    assert fitted.history_[-1]["loss"] < fitted.history_[0]["loss"]
    assert score(fitted, X, Y) > 0.9
    for name, value in loss.state_dict().items():  # the user's object is left alone
        assert torch.equal(value, before[name])
    if before:
        still = extractor.set_params(loss_lr=1e-12).fit(X, Y)
        assert still.history_[-1]["loss"] != fitted.history_[-1]["loss"]


CLASSES_OF_OTHERS = {
    name: cls
    for name, cls in vars(others).items()
    if inspect.isclass(cls) and issubclass(cls, torch.nn.Module)
}
BASES = {"BaseLossWrapper", "BaseMetricLossFunction", "GenericPairLoss"}
FAILING = {  # and what they say; docs/guide/losses.md has the reasons
    "DynamicSoftMarginLoss": "backward through the graph a second time",
    "ManifoldLoss": "not supported for this loss",
    "SelfSupervisedLoss": "same number of dimensions",
    "VICRegLoss": "not supported for this loss",
}
SIZES = {"num_classes": 4, "embedding_size": 8, "descriptors_dim": 8, "l": 8}
SETTINGS = {
    "CrossBatchMemory": {"loss": others.ContrastiveLoss(), "memory_size": 64},
    "HistogramLoss": {"n_bins": 20},
    "MultipleLosses": {"losses": [others.ContrastiveLoss(), others.TripletMarginLoss()]},
    "RankedListLoss": {"margin": 1.0, "Tn": 0.5},
    "SelfSupervisedLoss": {"loss": others.NTXentLoss()},
}


def loss_of_others(name):
    """A loss of pytorch-metric-learning with the arguments that it cannot do without."""
    cls = CLASSES_OF_OTHERS[name]
    known = [inspect.signature(base.__init__).parameters.values() for base in cls.__mro__]
    needed = {p.name for parameters in known for p in parameters if p.default is p.empty}
    return cls(**{size: SIZES[size] for size in needed & SIZES.keys()}, **SETTINGS.get(name, {}))


def fit_to(loss):
    extractor = CNNFeatureExtractor(
        weights=None, loss=loss, n_components=8, max_epochs=3, batch_size=40, random_state=0
    )
    return extractor.set_params(lr=0.01).fit(X, Y)


# pytorch-metric-learning is older than the numpy and torch that warn of it.
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:__array_wrap__ must")
@pytest.mark.parametrize("name", sorted(CLASSES_OF_OTHERS.keys() - BASES - FAILING.keys()))
def test_every_loss_of_pytorch_metric_learning_falls(name):
    fitted = fit_to(loss_of_others(name))
    first, *later = (epoch["loss"] for epoch in fitted.history_)
    assert min(later) < first
    assert np.isfinite(fitted.transform(X)).all()


@pytest.mark.parametrize("name", FAILING)
def test_losses_of_pytorch_metric_learning_that_do_not_train_say_so(name):
    with pytest.raises((ValueError, RuntimeError), match=FAILING[name]):
        fit_to(loss_of_others(name))
    page = Path(__file__).parent.parent / "docs" / "guide" / "losses.md"
    assert f"`{name}`" in page.read_text(encoding="utf-8")


class _OwnPairLoss(others.GenericPairLoss):
    """A loss of one's own on pytorch-metric-learning's base for pairs."""

    def __init__(self):
        super().__init__(mat_based_loss=True)

    def _compute_loss(self, mat, similar, dissimilar):
        losses = (mat * similar).sum() / similar.sum() - (mat * dissimilar).mean()
        return {
            "loss": {"losses": losses, "indices": None, "reduction_type": "already_reduced"},
        }


def test_a_loss_on_the_pairs_of_pytorch_metric_learning_falls():
    fitted = fit_to(_OwnPairLoss())
    assert fitted.history_[-1]["loss"] < fitted.history_[0]["loss"]


def test_proxies_of_another_library_are_part_of_the_checkpoint(tmp_path):
    def make(**parameters):
        loss = others.ProxyAnchorLoss(num_classes=4, embedding_size=8)
        with torch.no_grad():
            loss.proxies.copy_(torch.linspace(-1, 1, 32).reshape(4, 8))
        return estimator("triplet", loss=loss, max_epochs=4, **parameters)

    whole = make().fit(X, Y)
    with pytest.raises(KeyboardInterrupt):
        make(checkpoint_dir=tmp_path).set_callbacks(Interrupt(2)).fit(X, Y)
    resumed = make(checkpoint_dir=tmp_path).fit(X, Y)
    assert [r["loss"] for r in resumed.history_] == [r["loss"] for r in whole.history_]


def all_alike(outputs, y):
    return (outputs - 1).square().mean()


@pytest.mark.parametrize(
    ("estimator", "what"),
    [
        (
            DeepHasher(4, loss=all_alike, max_epochs=20),
            "60 of 60 .* same code .* loss all_alike at lr=0.003",
        ),
        (
            DeepHasher(4, loss="dpsh", hash_std=None, backbone="small", lr=0.3, max_epochs=5),
            "DPSHLoss at lr=0.3",
        ),
    ],
)
def test_one_code_for_all_is_a_warning_that_names_loss_and_rate(estimator, what):
    data = make_shapes(64, random_state=0) if estimator.backbone else (X[:60], Y[:60])
    estimator.set_params(random_state=0, batch_size=16, weights=None)
    with pytest.warns(UserWarning, match=what) as caught:
        estimator.fit(*data)
    assert [warning.filename for warning in caught] == [__file__]


def test_vectors_that_are_all_one_are_a_warning_and_others_are_none():
    class Dead(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return self.convolution(images) * 0 + 1

    images, y = make_shapes(16, image_size=16, random_state=0)
    extractor = CNNFeatureExtractor(Dead(), weights=None, max_epochs=1, lr=0.02, random_state=0)
    with pytest.warns(UserWarning, match="16 of 16 .* same vector .* SquaredHingeLoss at lr=0.02"):
        extractor.fit(images, y)
    extractor.set_params(backbone="small").fit(images, y)


class Faint(torch.nn.Module):
    """A network whose vectors differ by `share` of their length."""

    def __init__(self, share):
        super().__init__()
        self.share, self.layer = share, torch.nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return 1 + self.share * self.layer(images)


@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_that_a_search_still_ranks_are_no_reason_to_warn(normalize):
    y = np.arange(20) % 2
    images = np.uint8(100 + 100 * y)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    parameters = {"weights": None, "loss": "contrastive", "max_epochs": 1, "head_epochs": 0}
    parameters |= {"lr": 1e-6, "augment": None, "normalize": normalize, "random_state": 0}
    extractor = CNNFeatureExtractor(Faint(1e-5), **parameters).fit(images, y)
    search = NeighborsRetriever(1, metric="euclidean").fit(extractor.transform(images), y)
    assert search.score() == 1
    with pytest.warns(UserWarning, match="20 of 20 .* same vector .* not all share a label"):
        extractor.set_params(backbone=Faint(1e-9)).fit(images, y)


def test_one_code_for_rows_that_share_a_label_is_right():
    alike = np.column_stack([np.ones(60, dtype=int), Y[:60] == 0, Y[:60] == 1])
    hasher = DeepHasher(4, loss=all_alike, max_epochs=20, batch_size=16, random_state=0)
    with pytest.warns(UserWarning, match="Column 0 of y is 1 in all rows") as caught:
        hasher.fit(X[:60], alike)
    assert len(caught) == 1
    few = np.where(np.arange(60) < 12, 1, 0)  # one in five, which one code loses
    with pytest.warns(UserWarning, match="60 of 60 .* same code"):
        hasher.fit(X[:60], few)


def test_warnings_of_a_fit_name_the_line_that_asked_for_it():
    alike = np.column_stack([np.ones(60, dtype=int), Y[:60] == 0, Y[:60] == 1])
    extractor = CNNFeatureExtractor(max_epochs=1, head_epochs=1, loss="contrastive")
    for fit in (extractor.fit, extractor.fit_transform, make_pipeline(extractor).fit):
        with pytest.warns(UserWarning, match="Column 0 of y|left out") as caught:
            fit(X[:60], alike)
        assert {warning.filename for warning in caught} == {__file__}
        assert len(caught) == 2
