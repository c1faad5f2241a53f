"""Weights of rows: in every loss that takes them, through batches, and by metadata routing."""

import numpy as np
import pytest
import torch
from loss_cases import MULTIPLE_LABELS, SINGLE_LABELS, make_loss, make_outputs
from sklearn import config_context
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever
from sklearn_cbir.losses import LOSSES, SquaredHingeLoss, output_of, takes_sample_weight

# A few steps of tiny networks.
pytestmark = pytest.mark.filterwarnings("ignore:.* training images get the same")
X, Y = make_blobs(30, 5, centers=3, cluster_std=3.0, random_state=0)
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
WEIGHTS = np.random.default_rng(0).integers(1, 4, 30)
WEIGHED = sorted(name for name, loss in LOSSES.items() if takes_sample_weight(loss))
OF_CODES = ["cnnh", "csq", "dlbhc", "greedyhash", "orthohash"]
EVERY_WEIGHED_LOSS = pytest.mark.parametrize("name", WEIGHED)
HINGES = [
    SquaredHingeLoss(form) for form in ("ovr", "ovr_mean", "crammer_singer", "crammer_singer_max")
]


def of_loss(name, **parameters):
    parameters = {"loss": name, "max_epochs": 2, "batch_size": 8, "random_state": 0} | parameters
    if isinstance(name, str) and output_of(LOSSES[name]()) == "bits":
        return DeepHasher(6, **parameters)
    return CNNFeatureExtractor(weights=None, **parameters)


def small():
    """A network without batch norms, whose outputs for a row depend on no other row."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())


def same(image):
    return image


def weights_of(fitted):
    return fitted._network_state["weights"]


def assert_same_network(one, other, **tolerance):
    for key, value in weights_of(one).items():
        np.testing.assert_allclose(value, weights_of(other)[key], **{"rtol": 0} | tolerance)


# The losses alone.


def test_losses_of_single_rows_take_weights():
    assert set(WEIGHED) == {"cpf", "softmax", "squared_hinge", *OF_CODES}


@EVERY_WEIGHED_LOSS
@pytest.mark.parametrize("y", [SINGLE_LABELS, MULTIPLE_LABELS], ids=["single", "multiple"])
def test_a_row_of_weight_two_counts_as_two_rows_and_one_of_zero_as_none(name, y):
    loss, outputs = make_loss(name, y), make_outputs().requires_grad_()
    weights = torch.tensor([2, 0, 1, 3, 1, 1])
    expected = loss(outputs.repeat_interleave(weights, 0), y.repeat_interleave(weights, 0))
    slope = torch.autograd.grad(expected, outputs)[0]
    cost = loss(outputs, y, sample_weight=weights.double())
    torch.testing.assert_close(cost, expected)
    torch.testing.assert_close(torch.autograd.grad(cost, outputs)[0], slope)
    torch.testing.assert_close(loss(outputs, y, sample_weight=torch.ones(6)), loss(outputs, y))


@pytest.mark.parametrize("loss", [*HINGES, SquaredHingeLoss(class_weight=[1, 2, 3, 4.0])], ids=str)
def test_every_form_of_the_hinge_weighs_rows(loss):
    outputs, weights = make_outputs(), torch.tensor([2, 0, 1, 3, 1, 1])
    repeated = [part.repeat_interleave(weights, 0) for part in (outputs, SINGLE_LABELS)]
    cost = loss(outputs, SINGLE_LABELS, sample_weight=weights)
    torch.testing.assert_close(cost, loss(*repeated))


@EVERY_WEIGHED_LOSS
def test_rows_without_labels_have_no_weight(name):
    y = MULTIPLE_LABELS.clone()
    y[1] = 0
    loss, outputs = make_loss(name), make_outputs()
    weights = torch.tensor([2.0, 9, 1, 3, 1, 1])
    alone = loss(outputs[y.any(1)], y[y.any(1)], sample_weight=weights[y.any(1)])
    assert loss(outputs, y, sample_weight=weights) == alone
    assert torch.isfinite(loss(outputs, y, sample_weight=torch.zeros(6)))


# Trainings.


@EVERY_WEIGHED_LOSS
def test_a_step_on_all_rows_weighs_them_as_repeating_them_does(name):
    weights = np.empty(30, dtype=int)
    for label in range(3):  # as many of every class: codes made before the training look at that
        weights[label == Y] = [1, 2] * 5
    parameters = {"backbone": small(), "augment": same, "head_epochs": 0, "max_epochs": 1}
    parameters |= {"batch_size": 60, "optimizer": "sgd", "sampling": "uniform"}
    weighed = of_loss(name, **parameters).fit(IMAGES, Y, sample_weight=weights)
    repeated = of_loss(name, **parameters).fit(IMAGES.repeat(weights, 0), Y.repeat(weights))
    assert_same_network(weighed, repeated, atol=1e-5)
    assert weighed.history_[0]["loss"] == pytest.approx(repeated.history_[0]["loss"], rel=1e-4)


@EVERY_WEIGHED_LOSS
@pytest.mark.parametrize("sampling", ["uniform", "balanced", "class_random", "mined"])
def test_rows_of_weight_zero_are_as_if_they_were_not_there(name, sampling):
    weights = WEIGHTS * (np.arange(30) % 3 > 0)
    kept = weights > 0
    parameters = {"sampling": sampling, "early_stopping": True, "validation_fraction": 0.3}
    fitted = of_loss(name, **parameters).fit(X, Y, sample_weight=weights)
    alone = of_loss(name, **parameters).fit(X[kept], Y[kept], sample_weight=weights[kept])
    assert_same_network(fitted, alone)
    assert [e["valid_loss"] for e in fitted.history_] == [e["valid_loss"] for e in alone.history_]


def test_a_class_without_weight_is_no_class():
    fitted = of_loss("softmax").fit(X, np.array(["ant", "bee", "cow"])[Y], sample_weight=Y != 1)
    assert fitted.classes_.tolist() == ["ant", "cow"]


def test_weights_of_one_value_change_nothing():
    alone = of_loss("softmax").fit(X, Y)
    assert_same_network(of_loss("softmax").fit(X, Y, sample_weight=0.5), alone, atol=1e-5)
    assert_same_network(of_loss("softmax").fit(X, Y, sample_weight=np.ones(30)), alone, atol=1e-5)


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_of_one_value_are_left_to_the_batch_under_cpf_alone(name):
    alone, weighed = of_loss(name).fit(X, Y), of_loss(name).fit(X, Y, sample_weight=np.full(30, 3))
    if name != "cpf":
        assert_same_network(weighed, alone, atol=1e-5)
    else:
        with pytest.raises(AssertionError):
            assert_same_network(weighed, alone, atol=1e-5)


def test_weights_may_be_tensors_with_gradients_and_of_half_precision():
    weights = torch.tensor(WEIGHTS, dtype=torch.bfloat16, requires_grad=True)
    fitted = of_loss("softmax").fit(X, Y, sample_weight=weights)
    assert_same_network(fitted, of_loss("softmax").fit(X, Y, sample_weight=WEIGHTS))


def own_loss(outputs, y, sample_weight=None):
    seen.append((len(y), sample_weight))
    costs = torch.nn.functional.cross_entropy(outputs, y, reduction="none")
    if sample_weight is None:
        return costs.mean()
    assert len(sample_weight) == len(outputs)
    return (sample_weight * costs).sum() / sample_weight.sum()


own_loss.output, own_loss.sample_weight = "classes", True
seen = []


def test_an_own_loss_that_says_so_is_given_weights():
    seen.clear()
    fitted = of_loss(own_loss, batch_size=30, lr=1e-9).fit(X, Y, sample_weight=WEIGHTS)
    assert all(sorted(weights.tolist()) == sorted(WEIGHTS) for _, weights in seen)
    builtin = of_loss("softmax", batch_size=30, lr=1e-9).fit(X, Y, sample_weight=WEIGHTS)
    losses = [[e["loss"] for e in one.history_] for one in (fitted, builtin)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    seen.clear()
    of_loss(own_loss).fit(X, Y)
    assert all(weights is None for _, weights in seen)


def test_the_loss_of_an_epoch_is_weighed_over_its_batches():
    parameters = {"backbone": small(), "augment": same, "head_epochs": 0, "lr": 1e-9}
    losses = [
        of_loss("softmax", batch_size=size, **parameters)
        .fit(IMAGES, Y, sample_weight=WEIGHTS)
        .history_[0]["loss"]
        for size in (7, 30)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_mixed_rows_cost_what_their_two_rows_would():
    seen_by = []

    class Linear(torch.nn.Module):
        output, soft_targets, sample_weight = "classes", True, True

        def forward(self, outputs, y, sample_weight):
            seen_by.append((sample_weight[:, None] * y).sum(0))
            return torch.nn.functional.cross_entropy(outputs, y)

    extractor = of_loss(Linear(), mixup=0.5, batch_size=30, max_epochs=1)
    extractor.fit(X, Y, sample_weight=WEIGHTS)
    # Of every pair both rows are mixed: labels keep their weights as a whole.
    np.testing.assert_allclose(seen_by, [np.bincount(Y, WEIGHTS)], rtol=1e-5)


def test_embedders_take_weights_and_hold_out_classes():
    y = np.arange(30) % 10
    embedder = CPFEmbedder(4, max_epochs=1, threshold_fraction=0.3, random_state=0)
    assert np.isfinite(embedder.fit(X, y, sample_weight=WEIGHTS).threshold_)


# What is refused.


@pytest.mark.parametrize("loss", ["dsh", "triplet", None, torch.nn.CrossEntropyLoss()], ids=str)
def test_weights_that_a_loss_does_not_take_are_refused(loss):
    with pytest.raises(ValueError, match="sample_weight was given, but loss=.*'softmax'"):
        of_loss(loss or None).fit(X, Y, sample_weight=WEIGHTS)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(30), "zero for all rows"),
        (-np.ones(30), r"sample_weight\[0\] is -1.0"),
        ([*np.ones(29), np.nan], r"sample_weight\[29\] is nan"),
        ([*np.ones(29), np.inf], r"sample_weight\[29\] is inf"),
        ([*np.ones(29), 1e60], r"sample_weight\[29\] is inf"),
        (np.ones(29), r"shape \(29,\), but X has 30 rows"),
        (np.ones((30, 1)), r"shape \(30, 1\)"),
        (["a"] * 30, "one number per row"),
        (np.full(30, np.datetime64("2020")), "one number per row: dates"),
        (np.full(30, 1j), "Complex data not supported: sample_weight"),
    ],
    ids=[
        "zero",
        "negative",
        "nan",
        "infinite",
        "large",
        "short",
        "columns",
        "text",
        "date",
        "complex",
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        of_loss("softmax").fit(X, Y, sample_weight=weights)


def test_weights_are_no_position():
    with pytest.raises(TypeError, match="positional"):
        of_loss("softmax").fit(X, Y, WEIGHTS)


# scikit-learn.


def test_a_checkpoint_belongs_to_its_weights(tmp_path):
    for weights in (None, WEIGHTS, WEIGHTS + 1, WEIGHTS):
        of_loss("softmax", checkpoint_dir=str(tmp_path)).fit(X, Y, sample_weight=weights)
    assert len(list(tmp_path.iterdir())) == 3


def test_metadata_routing_brings_weights_to_the_fit():
    with config_context(enable_metadata_routing=True):
        extractor = of_loss("softmax").set_fit_request(sample_weight=True)
        search = make_pipeline(
            extractor, NeighborsRetriever(1).set_score_request(sample_weight=True)
        )
        search.fit(X, Y, sample_weight=WEIGHTS)
        assert_same_network(search[0], of_loss("softmax").fit(X, Y, sample_weight=WEIGHTS))
        grid = GridSearchCV(search, {"cnnfeatureextractor__lr": [1e-3, 1e-2]}, cv=2)
        grid.fit(X, Y, sample_weight=WEIGHTS)
        found = of_loss("softmax", lr=grid.best_params_["cnnfeatureextractor__lr"])
        found.fit(X, Y, sample_weight=WEIGHTS)
        assert_same_network(grid.best_estimator_[0], found)
