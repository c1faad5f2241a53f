"""What modules, losses and optimizers hold beside their state dicts, kept over a cut-off fit."""

import collections

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn
from training_cases import Interrupt

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import make_shapes

X, Y = make_blobs(24, 4, centers=3, random_state=0)
QUICK = {"max_epochs": 4, "head_epochs": 0, "batch_size": 8, "random_state": 0}


class Tally:
    def __init__(self):
        self.n = 0


class Holding(nn.Module):
    """A loss that grows with what it holds; `count` changes that and returns its size."""

    output = "features"

    def __init__(self, start, count):
        super().__init__()
        self.held = start
        self.count = count

    def forward(self, outputs, y):
        if torch.is_grad_enabled():
            self.held, n = self.count(self.held, outputs)
        else:
            n = 1.0
        return (outputs - 0.01 * n).square().mean()


def _append(held, outputs):
    held.append(float(outputs.detach().mean()))
    return held, len(held) + sum(held)


def _add(held, outputs):
    held.add(len(held))
    return held, len(held)


def _tally(held, outputs):
    held.n += 1
    return held, held.n


def _count_in(held, outputs):
    held["n"] = held.get("n", 0) + 1
    return held, held["n"]


KEPT = {
    "array": (np.zeros(3), lambda a, o: (a + float(o.detach().mean()), a.sum() + 1)),
    "scalar": (np.float32(0), lambda a, o: (a + np.float32(1), float(a))),
    "array of text": (np.array(["a"]), lambda a, o: (np.append(a, "b"), len(a))),
    "empty array": (
        np.zeros((0, 2), "M8[s]"),
        lambda a, o: (np.vstack([a, np.zeros((1, 2), a.dtype)]), len(a)),
    ),
    "set": (set(), _add),
    "list": ([], _append),
    "deque": (collections.deque(maxlen=4), _append),
    "ordered": (collections.OrderedDict(), _count_in),
    "tuple of arrays": ((np.zeros(2), {}), lambda t, o: ((t[0] + 1, {"a": t[0]}), t[0].sum())),
    "tensor": (torch.zeros(2), lambda t, o: (t + o.detach().mean(), float(t.sum()))),
}


@pytest.fixture(autouse=True)
def _seed_new_modules():
    torch.manual_seed(0)


def estimator(loss, **parameters):
    return CNNFeatureExtractor(loss=loss, **QUICK | parameters)


def cut_off(make, data=(X, Y)):
    with pytest.raises(KeyboardInterrupt):
        make().set_callbacks(Interrupt(2)).fit(*data)


@pytest.mark.parametrize("name", KEPT)
def test_a_cut_off_fit_goes_on_with_what_a_loss_holds(name, tmp_path):
    start, count = KEPT[name]
    whole = estimator(Holding(start, count)).fit(X, Y)
    cut_off(lambda: estimator(Holding(start, count), checkpoint_dir=tmp_path))
    resumed = estimator(Holding(start, count), checkpoint_dir=tmp_path).fit(X, Y)
    assert len(list(tmp_path.iterdir())) == 1
    assert [row["loss"] for row in resumed.history_] == [row["loss"] for row in whole.history_]
    np.testing.assert_array_equal(resumed.transform(X), whole.transform(X))


NOT_KEPT = {
    "own object": (Tally(), _tally),
    "list of objects": ([Tally()], lambda t, o: (t, _tally(t[0], o)[1])),
    "counter": (collections.Counter(), _count_in),
    "default": (collections.defaultdict(int), _count_in),
}


@pytest.mark.parametrize("name", NOT_KEPT)
def test_a_fit_whose_loss_changes_an_object_keeps_no_checkpoint_and_says_why(name, tmp_path):
    start, count = NOT_KEPT[name]
    whole = estimator(Holding(start, count)).fit(X, Y)
    with pytest.warns(UserWarning, match="checkpoint_dir: Holding.held changes.*epoch 1 on"):
        cut_off(lambda: estimator(Holding(start, count), checkpoint_dir=tmp_path))
    assert not list(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="checkpoint_dir: Holding.held changes"):
        again = estimator(Holding(start, count), checkpoint_dir=tmp_path).fit(X, Y)
    np.testing.assert_array_equal(again.transform(X), whole.transform(X))


def test_an_object_that_does_not_change_is_no_reason(tmp_path):
    start, count = Tally(), lambda held, outputs: (held, held.n + 1)
    whole = estimator(Holding(start, count)).fit(X, Y)
    cut_off(lambda: estimator(Holding(start, count), checkpoint_dir=tmp_path))
    resumed = estimator(Holding(start, count), checkpoint_dir=tmp_path).fit(X, Y)
    np.testing.assert_array_equal(resumed.transform(X), whole.transform(X))


class Callable:
    """A loss that is no module."""

    output = "features"

    def __init__(self):
        self.n = 0

    def __call__(self, outputs, y):
        self.n += 1
        return (outputs - 0.01 * self.n).square().mean()


def test_a_loss_that_is_no_module_and_changes_is_not_continued(tmp_path):
    with pytest.warns(UserWarning, match="checkpoint_dir: _CallableLoss.function changes"):
        estimator(Callable(), checkpoint_dir=tmp_path).fit(X, Y)
    assert not list(tmp_path.iterdir())


class Extra(nn.Module):
    """Its extra state is an array, or an object."""

    output = "features"

    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def get_extra_state(self):
        return {"extra": self.extra}

    def set_extra_state(self, state):
        self.extra = state["extra"]

    def forward(self, outputs, y):
        self.extra = self.extra + 1
        return (outputs - 0.01 * float(self.extra)).square().mean()


class Number(float):
    def __add__(self, other):
        return Number(float(self) + other)


def test_extra_state_is_kept_or_said_not_to_be(tmp_path):
    whole = estimator(Extra(np.float64(0))).fit(X, Y)
    cut_off(lambda: estimator(Extra(np.float64(0)), checkpoint_dir=tmp_path))
    resumed = estimator(Extra(np.float64(0)), checkpoint_dir=tmp_path).fit(X, Y)
    np.testing.assert_array_equal(resumed.transform(X), whole.transform(X))
    folder = tmp_path / "other"
    with pytest.warns(UserWarning, match="checkpoint_dir: .*extra.* changes in training"):
        estimator(Extra(Number(0)), checkpoint_dir=folder).fit(X, Y)
    assert not folder.exists()


class Slowing(torch.optim.SGD):
    """It counts its steps beside its state dict."""

    def __init__(self, groups, lr, weight_decay):
        super().__init__(groups, lr=lr, weight_decay=weight_decay)
        self.n = 0
        self.first = self.param_groups[0]["params"][:1]

    def step(self, closure=None):
        self.n += 1
        for group in self.param_groups:
            group["lr"] = group["lr"] / self.n
        return super().step(closure)


class SlowingByTally(Slowing):
    def __init__(self, groups, lr, weight_decay):
        super().__init__(groups, lr, weight_decay)
        self.tally = Tally()

    def step(self, closure=None):
        self.tally.n += 1
        return super().step(closure)


def test_a_cut_off_fit_goes_on_with_what_an_optimizer_counts(tmp_path):
    whole = estimator("contrastive", optimizer=Slowing).fit(X, Y)
    parameters = {"optimizer": Slowing, "checkpoint_dir": tmp_path}
    cut_off(lambda: estimator("contrastive", **parameters))
    resumed = estimator("contrastive", **parameters).fit(X, Y)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(resumed.transform(X), whole.transform(X))
    parameters = {"optimizer": SlowingByTally, "checkpoint_dir": tmp_path / "other"}
    with pytest.warns(UserWarning, match="checkpoint_dir: SlowingByTally.tally changes"):
        estimator("contrastive", **parameters).fit(X, Y)


class Rising(nn.Module):
    """A held-out loss that rises after the second epoch, and a network that counts its batches."""

    output = "features"

    def __init__(self):
        super().__init__()
        self.epoch = 0

    def forward(self, outputs, y):
        self.epoch += torch.is_grad_enabled()
        return outputs.square().mean() + abs(self.epoch - 4)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.n = np.zeros(1)
        self.shared = [self.layer, self.layer.weight]

    def forward(self, x):
        self.n = self.n + self.training
        return self.shared[0](x) + float(self.n[0])


def test_early_stopping_restores_what_the_network_counted_at_its_best(tmp_path):
    data = make_shapes(16, n_classes=2, random_state=0)
    parameters = {"early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 9}
    parameters |= {"batch_size": 12, "max_epochs": 6, "normalize": False, "sampling": "uniform"}
    stopped = estimator(Rising(), **parameters).set_params(backbone=Counting()).fit(*data)
    losses = [row["valid_loss"] for row in stopped.history_]
    counted = stopped._network.trunk.features
    assert counted.n.tolist() == [np.argmin(losses) + 1]
    assert counted.shared[0] is counted.layer
    kept = parameters | {"checkpoint_dir": tmp_path}
    cut_off(lambda: estimator(Rising(), **kept).set_params(backbone=Counting()), data)
    torch.manual_seed(0)
    resumed = estimator(Rising(), **kept).set_params(backbone=Counting()).fit(*data)
    assert resumed._network.trunk.features.shared[0] is resumed._network.trunk.features.layer
    assert [row["epoch"] for row in resumed.history_] == [1, 2, 3, 4, 5, 6]
