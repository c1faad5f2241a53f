"""Losses, optimizers and augmentations of one's own that give back something else."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, DeepHasher
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.images._batches import Images
from sklearn_cbir.losses import HashNetLoss, SquaredHingeLoss

X, Y = make_blobs(24, 4, centers=4, random_state=0)
QUICK = {"max_epochs": 2, "batch_size": 8, "random_state": 0}


@pytest.fixture(autouse=True)
def _seed_new_modules():
    torch.manual_seed(0)


def fit(loss, **parameters):
    return CNNFeatureExtractor(loss=loss, **QUICK | parameters).fit(X, Y)


RESULTS = {
    "vector": (lambda o, y: o.mean(dim=1), r"a tensor of shape \(8,\) of torch.float32"),
    "tuple": (lambda o, y: (o.mean(), 1), "tuple, no tensor"),
    "dict": (lambda o, y: {"loss": o.mean()}, "dict, no tensor"),
    "float": (lambda o, y: 0.5, "float, no tensor"),
    "None": (lambda o, y: None, "None"),
    "numpy": (lambda o, y: np.float32(0.5), "float32, no tensor"),
    "empty": (lambda o, y: o[:0, 0], r"a tensor of shape \(0,\)"),
    "complex": (lambda o, y: o.mean() + 1j, ".*of torch.complex64"),
    "sparse": (lambda o, y: o.mean().to_sparse(), ".*in torch.sparse_coo"),
    "elsewhere": (lambda o, y: o.mean().to("meta"), ".*on meta"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_loss_must_return_one_number(name):
    loss, returned = RESULTS[name]
    with pytest.raises(ValueError, match=f"loss=.*returned {returned}.*must return one number"):
        fit(loss)


@pytest.mark.parametrize("name", ["item", "detach", "integer"])
def test_a_loss_must_depend_on_the_outputs(name):
    losses = {
        "item": lambda o, y: torch.tensor(o.mean().item()),
        "detach": lambda o, y: o.detach().square().mean(),
        "integer": lambda o, y: (o > 0).sum(),
    }
    with pytest.raises(ValueError, match="loss=.*returned a constant.*depends on the outputs"):
        fit(losses[name])


class Sometimes(nn.Module):
    """A constant for every second batch, as where there is nothing to compare."""

    output = "features"

    def __init__(self):
        super().__init__()
        self.n_batches = 0

    def forward(self, outputs, y):
        self.n_batches += 1
        return torch.tensor(0.0) if self.n_batches % 2 else outputs.square().mean()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_batches_with_nothing_to_compare_move_no_weight(optimizer):
    once = {"sampling": "uniform", "max_epochs": 1, "schedule": "constant", "batch_size": 12}
    estimator = fit(Sometimes(), optimizer=optimizer, **once)
    assert estimator.history_[0]["loss"] > 0

    class First(nn.Module):
        output = "features"
        seen = False

        def forward(self, outputs, y):
            first, self.seen = not self.seen, True
            return outputs.square().mean() if first else torch.zeros(())

    one = fit(First(), optimizer=optimizer, **once)
    two = fit(First(), optimizer=optimizer, **once | {"max_epochs": 2})
    np.testing.assert_array_equal(one.transform(X), two.transform(X))


def test_a_loss_may_be_float64_or_have_one_dimension():
    plain = fit(lambda o, y: o.square().mean()).transform(X)
    np.testing.assert_allclose(fit(lambda o, y: o.double().square().mean()).transform(X), plain)
    np.testing.assert_array_equal(fit(lambda o, y: o.square().mean()[None]).transform(X), plain)


@pytest.mark.parametrize(
    "loss",
    [
        SquaredHingeLoss(class_weight=[1.0, 2.0]),
        nn.CrossEntropyLoss(weight=torch.ones(3)),
        nn.BCEWithLogitsLoss(pos_weight=torch.ones(5)),
        nn.MultiMarginLoss(weight=torch.ones(2)),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_weights_of_another_number_of_classes_are_found_before_training(loss):
    seen = []
    estimator = CNNFeatureExtractor("small", weights=None, loss=loss, augment=seen.append, **QUICK)
    images, y = make_shapes(8, n_classes=4, random_state=0)
    columns = np.eye(4, dtype=int)[y] if isinstance(loss, nn.BCEWithLogitsLoss) else y
    with pytest.raises(ValueError, match="weight.* but there are 4 classes"):
        estimator.fit(images, columns)
    assert not seen


def test_a_loss_of_nan_stops_the_training():
    with pytest.raises(FloatingPointError, match="The loss became nan at epoch 1, batch 1"):
        fit(lambda o, y: o.mean() * torch.nan)


def test_held_out_losses_are_checked_too():
    class Odd(nn.Module):
        output = "features"

        def forward(self, outputs, y):
            return outputs.square().mean() if torch.is_grad_enabled() else None

    with pytest.raises(ValueError, match="loss=.*returned None"):
        fit(Odd(), early_stopping=True, validation_fraction=0.5)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda groups, lr, weight_decay: None, "made NoneType, which is not a torch optimizer"),
        (lambda groups: None, "could not be made"),
        (torch.optim.LBFGS, "could not be made"),
        (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), "is neither a name nor a"),
    ],
    ids=["nothing", "other arguments", "one group only", "an instance"],
)
def test_an_optimizer_that_is_none_is_named(optimizer, message):
    with pytest.raises(ValueError, match=f"(?s)optimizer=.*{message}"):
        fit("softmax", optimizer=optimizer)


AUGMENTATIONS = {
    "float": (lambda image: image / 255, "torch.float32"),
    "another shape": (lambda image: image[:, 1:], r"torch.uint8 \(3, 31, 32\)"),
    "None": (lambda image: None, "NoneType"),
    "numpy": (lambda image: image.numpy(), "uint8"),
    "list": (lambda image: [image], "list"),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_must_return_what_it_was_given(name):
    images, y = make_shapes(8, n_classes=2, random_state=0)
    augment, returned = AUGMENTATIONS[name]
    with pytest.raises(ValueError, match=f"augment returned {returned}"):
        DeepHasher(4, backbone="small", augment=augment, **QUICK).fit(images, y)


def raising(error):
    def loss(outputs, y):
        raise error

    return loss


@pytest.mark.parametrize(
    "error",
    [KeyError("key"), ZeroDivisionError("0"), AssertionError("no"), OSError(5, "disk")],
    ids=repr,
)
def test_an_error_of_a_loss_keeps_its_type_and_is_given_the_name_of_the_loss(error):
    with pytest.raises(type(error)) as caught:
        fit(raising(error))
    assert "loss=raising.<locals>.loss failed on outputs (8, 256)" in caught.value.__notes__[0]


class Odd(nn.Module):
    output = "features"

    def forward(self, outputs, y):
        return outputs.square().mean()


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("start_epoch", r"start_epoch\(epoch, n_epochs\)"),
        ("setup", r"setup\(n_outputs=..., y=...,"),
    ],
)
@pytest.mark.parametrize("own", [lambda: None, lambda a: None, 3], ids=["none", "one", "number"])
def test_a_loss_that_cannot_be_told_is_named(method, how, own):
    loss = Odd()
    setattr(loss, method, own)
    with pytest.raises(ValueError, match=f"loss=Odd is called as {how}"):
        fit(loss)


def test_an_error_inside_of_setup_is_given_the_name_of_the_loss():
    loss = Odd()
    loss.setup = lambda **known: 1 / 0
    with pytest.raises(ZeroDivisionError) as caught:
        fit(loss)
    assert "Raised by loss=Odd" in caught.value.__notes__[0]


def test_a_class_of_losses_is_called_without_arguments():
    class Needs(Odd):
        def __init__(self, margin):
            super().__init__()

    with pytest.raises(ValueError, match="loss=.*Needs is called as a class, without .*margin"):
        fit(Needs)
    plain = fit(Odd()).transform(X)
    np.testing.assert_array_equal(fit(Odd).transform(X), plain)


@pytest.mark.parametrize(
    "loss",
    [nn.NLLLoss, nn.NLLLoss(), nn.functional.nll_loss, partial(nn.functional.nll_loss)],
    ids=["class", "module", "function", "part"],
)
def test_log_probabilities_are_refused_in_every_form(loss):
    with pytest.raises(ValueError, match="needs log-probabilities. Use torch.nn.CrossEntropyLoss"):
        fit(loss)


def test_torchs_functions_for_classes_are_given_one_score_per_class():
    module = fit(nn.CrossEntropyLoss(label_smoothing=0.1)).transform(X)
    function = partial(nn.functional.cross_entropy, label_smoothing=0.1)
    np.testing.assert_array_equal(fit(function).transform(X), module)
    plain = fit(nn.CrossEntropyLoss(), mixup=0.2).transform(X)
    np.testing.assert_array_equal(fit(nn.functional.cross_entropy, mixup=0.2).transform(X), plain)


class Shift:
    def __call__(self, image):
        return image


UNDECODED = {
    "augment": ({"augment": Shift}, r"augment=.*Shift.* is a class. Pass an object of it"),
    "optimizer": ({"optimizer": lambda groups: None}, "(?s)optimizer=.*could not be made"),
    "early stopping": ({"early_stopping": True, "validation_fraction": 0.0}, "early_stopping=True"),
    "nothing to train": ({"max_epochs": 0, "head_epochs": 0}, "max_epochs=0"),
}


@pytest.mark.parametrize("name", UNDECODED)
def test_what_cannot_be_trained_is_found_before_images_are_decoded(name, monkeypatch):
    images, y = make_shapes(8, n_classes=2, random_state=0)
    parameters, message = UNDECODED[name]
    read = []
    monkeypatch.setattr(Images, "cached", lambda self, *args, **kwargs: read.append(self))
    estimator = CNNFeatureExtractor("small", weights=None, **QUICK | parameters)
    with pytest.raises(ValueError, match=message):
        estimator.fit(images, y)
    assert not read


def test_parameters_of_losses_beyond_any_float_are_named():
    for value in (1e300, 10**400):
        with pytest.raises(ValueError, match="final_beta"):
            HashNetLoss(final_beta=value)
    with pytest.raises(ValueError, match="class_weight"):
        SquaredHingeLoss(class_weight=[1.0, 10**400])
