"""The training loop: repeatable, resumable, interruptible, and loud when it goes wrong."""

import dataclasses
import functools
import pickle
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from torch import nn
from training_cases import Interrupt, plan_batches

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, _devices, _plan
from sklearn_cbir._batches import mix
from sklearn_cbir._checkpoint import Checkpoint
from sklearn_cbir._files import replace_file
from sklearn_cbir._labels import check_labels
from sklearn_cbir._plan import OPTIMIZERS, split_rows
from sklearn_cbir._randomness import Draws
from sklearn_cbir._training import train
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.images import ImageReadError
from sklearn_cbir.losses import LOSSES, ContrastiveLoss, DSHLoss, LRMLLoss
from sklearn_cbir.sampling import mined_batches


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(64, random_state=0)


def small(**params):
    defaults = {"weights": None, "max_epochs": 3, "batch_size": 16, "random_state": 0}
    return CNNFeatureExtractor("small", **defaults | params)


def weights(estimator):
    return estimator._network_state["weights"]


def same(a, b):
    return all(np.array_equal(weights(a)[k], weights(b)[k]) for k in weights(a))


def test_two_fits_with_one_seed_are_bit_equal(shapes):
    a, b = (small().fit(*shapes) for _ in range(2))
    assert same(a, b)
    assert np.array_equal(a.transform(shapes[0]), b.transform(shapes[0]))
    assert not same(a, small(random_state=1).fit(*shapes))


def test_fit_leaves_the_global_generators_alone(shapes):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    small(max_epochs=1).fit(*shapes)
    assert torch.equal(torch.rand(3), expected)


def test_loader_workers_do_not_change_the_result(shapes):
    assert same(small(max_epochs=1).fit(*shapes), small(max_epochs=1, num_workers=1).fit(*shapes))


def test_bfloat16_is_taken_where_it_is_faster(shapes, monkeypatch):
    plain = small().fit(*shapes)
    monkeypatch.setattr(_plan, "bfloat16_cost", lambda: 0.5)
    assert not same(small(autocast=True).fit(*shapes), plain)
    monkeypatch.setattr(_plan, "bfloat16_cost", lambda: 12.3)
    with pytest.warns(UserWarning, match=r"autocast=True trains in float32.*12\.3 times as long"):
        slow = small(autocast=True).fit(*shapes)
    assert same(slow, plain)


def test_the_cost_of_bfloat16_is_measured_once_and_draws_nothing():
    before = torch.get_rng_state()
    _devices.bfloat16_cost.cache_clear()
    found = _devices.bfloat16_cost()
    assert found > 0
    assert _devices.bfloat16_cost() == found
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [17, 33])
def test_a_last_batch_of_one_does_not_break_batch_norm(shapes, n):
    images, y = shapes
    small(max_epochs=1).fit(images[:n], y[:n])


def test_loss_falls_and_history_names_every_epoch(shapes):
    extractor = small(max_epochs=8, lr=3e-3).fit(*shapes)
    assert [row["epoch"] for row in extractor.history_] == list(range(1, 9))
    assert extractor.n_iter_ == 8
    assert extractor.history_[-1]["loss"] < 0.7 * extractor.history_[0]["loss"]


def test_head_epochs_leave_the_trunk_as_it_was(shapes):
    start = small(head_epochs=1, max_epochs=1, trunk_lr=1e-12).fit(*shapes)
    longer = small(head_epochs=4, max_epochs=1, trunk_lr=1e-12).fit(*shapes)
    assert [row["phase"] for row in longer.history_] == ["head"] * 4 + ["all"]
    name = next(k for k in weights(start) if k.startswith("trunk.") and weights(start)[k].ndim == 4)
    assert np.allclose(weights(start)[name], weights(longer)[name], atol=1e-6)
    assert not np.allclose(
        weights(start)["classifier.weight"], weights(longer)["classifier.weight"]
    )


def test_head_epochs_without_a_head_are_left_out_with_a_warning(shapes):
    bare = small(loss="lrml", pooling="gem", head_epochs=5, max_epochs=1)
    with pytest.warns(UserWarning, match="head_epochs=5 are left out: .* max_epochs=1 epochs"):
        bare.fit(*shapes)
    assert [row["phase"] for row in bare.history_] == ["all"]
    bare.set_params(head_epochs=None).fit(*shapes)  # nothing was asked for


@pytest.mark.parametrize("lr", [float("inf"), 1e30])
def test_divergence_stops_with_epoch_batch_and_rate(shapes, lr):
    with pytest.raises(FloatingPointError, match=r"loss became .* at epoch \d+, batch \d+, learn"):
        small(lr=lr, schedule="constant", optimizer="sgd").fit(*shapes)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_a_search_ranks_the_diverged_candidate_last():
    X, y = make_blobs(60, 4, centers=3, random_state=0)
    pipeline = CNNFeatureExtractor(max_epochs=1, optimizer="sgd", random_state=0)
    search = GridSearchCV(
        pipeline, {"lr": [float("inf"), 0.01]}, scoring=_spread, cv=2, error_score=np.nan
    ).fit(X, y)
    assert search.best_params_ == {"lr": 0.01}


def _spread(estimator, X, y):
    return float(estimator.transform(X).std())


def test_ctrl_c_propagates_and_leaves_the_estimator_unfitted(shapes):
    extractor = small().set_callbacks(Interrupt(2))
    with pytest.raises(KeyboardInterrupt):
        extractor.fit(*shapes)
    assert not hasattr(extractor, "n_iter_")


@pytest.mark.parametrize(
    ("schedule", "optimizer"), [("one_cycle", "adamw"), ("cosine", "sgd"), ("constant", "adam")]
)
def test_a_run_that_was_cut_off_goes_on_and_ends_bit_equal(shapes, tmp_path, schedule, optimizer):
    params = {"max_epochs": 4, "head_epochs": 1, "schedule": schedule, "optimizer": optimizer}
    whole = small(**params).fit(*shapes)
    cut = small(**params, checkpoint_dir=tmp_path).set_callbacks(Interrupt(2))
    with pytest.raises(KeyboardInterrupt):
        cut.fit(*shapes)
    assert len(list(tmp_path.iterdir())) == 1
    resumed = small(**params, checkpoint_dir=tmp_path).fit(*shapes)
    assert same(whole, resumed)
    assert [r["loss"] for r in whole.history_] == [r["loss"] for r in resumed.history_]


@pytest.mark.parametrize("sampling", ["class_random", "mined"])
def test_a_run_with_drawn_or_mined_batches_goes_on_bit_equal(shapes, tmp_path, sampling):
    params = {"loss": "lrml", "sampling": sampling, "max_epochs": 4, "pool_size": 40}
    whole = small(**params).fit(*shapes)
    assert same(whole, small(**params, num_workers=1).fit(*shapes))
    with pytest.raises(KeyboardInterrupt):
        small(**params, checkpoint_dir=tmp_path).set_callbacks(Interrupt(2)).fit(*shapes)
    assert same(whole, small(**params, checkpoint_dir=tmp_path).fit(*shapes))


def test_the_network_as_it_is_before_every_epoch_says_which_negatives_are_hard(monkeypatch):
    X, y = make_blobs(60, 4, centers=6, random_state=0)
    asked = []

    def spy(y, batch_size, n_negatives, pool_size, rng, embed=None, decks=None):
        asked.append(None if embed is None else embed(np.arange(len(y))))
        return mined_batches(y, batch_size, n_negatives, pool_size, rng, embed, decks)

    monkeypatch.setattr("sklearn_cbir._batches.mined_batches", spy)
    extractor = CNNFeatureExtractor(loss="lrml", sampling="mined", random_state=0)
    states = [clone(extractor).set_params(max_epochs=1, lr=1e-12).fit(X, y).transform(X)]
    # At a constant rate a run of n epochs is the beginning of a longer one.
    extractor.set_params(schedule="constant", lr=0.01)
    states += [clone(extractor).set_params(max_epochs=n).fit(X, y).transform(X) for n in (1, 2, 3)]
    before, *embeddings = asked[-4:]
    assert before is None
    for state, embedding in zip(states, embeddings):
        assert np.allclose(state, embedding, atol=1e-5)
    assert not np.allclose(embeddings[0], embeddings[2], atol=1e-2)


def test_mining_leaves_out_what_is_held_out_and_takes_as_many_negatives_as_the_loss():
    extractor = small(loss=LRMLLoss(n_negatives=3), sampling="mined", batch_size=20)
    y = np.tile(np.arange(8), 20)
    y[:40] = -1
    rows = np.arange(40, 160)
    batches = plan_batches(extractor, None, y, rows, extractor.loss, 0, training=True)
    assert [len(batch) for batch in batches.indices] == [8] * 6  # pairs: no network yet
    batches.start_epoch(1, lambda indices: indices[:, None] * 1.0)
    assert [len(batch) for batch in batches.indices] == [20] * 6
    assert min(map(min, batches.indices)) >= 40


@pytest.mark.parametrize("sampling", ["class_random", "mined"])
def test_early_stopping_sees_the_same_held_out_images_in_every_epoch(sampling):
    X, y = make_blobs(60, 4, centers=6, random_state=0)
    extractor = CNNFeatureExtractor(loss="lrml", sampling=sampling, max_epochs=3, lr=1e-12)
    extractor.set_params(early_stopping=True, validation_fraction=0.25, random_state=0).fit(X, y)
    first, *others = [row["valid_loss"] for row in extractor.history_]
    assert others == pytest.approx([first] * 2, abs=1e-6)
    _kept, held_out = split_rows(extractor, y, LRMLLoss(), 0)
    batches = plan_batches(extractor, None, y, held_out, LRMLLoss(), 0, training=False)
    assert sorted(np.concatenate(batches.indices)) == sorted(held_out)


@pytest.mark.parametrize("sampling", ["class_random", "mined"])
def test_codes_embeddings_rows_and_several_labels_train_from_drawn_batches(sampling):
    images, y = make_shapes(48, multilabel=True, random_state=0)
    params = {"sampling": sampling, "max_epochs": 1, "random_state": 0}
    assert DeepHasher(8, backbone="small", **params).fit(images, y).transform(images).any()
    X, labels = make_blobs(60, 4, centers=6, random_state=0)
    rows = CPFEmbedder(8, **params).fit(X, labels).transform(X)
    assert np.isfinite(rows).all()


class SoftLoss(torch.nn.Module):
    """Cross entropy that keeps the targets it was given."""

    output = "classes"
    soft_targets = True
    seen = []

    def forward(self, outputs, y):
        self.seen.append((self.training, outputs.requires_grad, y.clone()))
        return torch.nn.functional.cross_entropy(outputs, y)


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_mixup_blends_images_and_labels_of_a_pair_by_one_share(n, dtype, rng):
    images = torch.from_numpy(rng.integers(256, size=(n, 3, 4, 4))).to(dtype)
    labels = torch.eye(n)
    mixed, targets = mix(images, labels, 0.35, np.random.default_rng(5))
    again, _ = mix(images, labels, 0.35, np.random.default_rng(5))
    assert torch.equal(mixed, again)
    assert mixed.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for i in range(n):
        j = n - 1 - i
        share = targets[i, i].item() if i != j else 1.0
        expected = share * images[i].double() + (1 - share) * images[j].double()
        assert torch.allclose(mixed[i].double(), expected, atol=1e-3)
        assert targets[i].sum() == pytest.approx(1)
        assert targets[j, j] == pytest.approx(targets[i, i])
        assert i == j or targets[i, j] == pytest.approx(1 - share, abs=1e-6)


def test_shares_of_mixup_come_from_the_beta_distribution(rng):
    labels = torch.eye(2)
    pairs = [mix(labels, labels, 0.35, rng)[1][0, 0].item() for _ in range(2000)]
    assert scipy.stats.kstest(pairs, scipy.stats.beta(0.35, 0.35).cdf).pvalue > 0.01


def test_mixup_reaches_the_loss_in_training_only(shapes):
    images, y = shapes
    SoftLoss.seen.clear()
    fitted = small(loss=SoftLoss(), mixup=0.35, early_stopping=True, validation_fraction=0.25)
    fitted.fit(images, y)
    trained = [y for _, with_slope, y in SoftLoss.seen if with_slope]
    held_out = [y for _, with_slope, y in SoftLoss.seen if not with_slope]
    assert all(y.shape[1] == 4 and torch.allclose(y.sum(dim=1), torch.ones(1)) for y in trained)
    assert any(((y > 0.01) & (y < 0.99)).any() for y in trained)
    assert held_out
    assert all(y.ndim == 1 for y in held_out)


def test_mixup_repeats_with_the_seed_the_workers_and_the_checkpoint(shapes, tmp_path):
    params = {"loss": "softmax", "mixup": 0.35, "max_epochs": 3}
    whole = small(**params).fit(*shapes)
    assert not same(whole, small(**params | {"mixup": 0.0}).fit(*shapes))
    assert same(whole, small(**params, num_workers=1).fit(*shapes))
    with pytest.raises(KeyboardInterrupt):
        small(**params, checkpoint_dir=tmp_path).set_callbacks(Interrupt(2)).fit(*shapes)
    assert same(whole, small(**params, checkpoint_dir=tmp_path).fit(*shapes))


def test_mixup_of_rows_embeddings_and_several_labels():
    X, y = make_blobs(90, 4, centers=6, random_state=0)
    embedder = CPFEmbedder(8, mixup=0.35, max_epochs=3, random_state=0).fit(X, y)
    plain = clone(embedder).set_params(mixup=0.0).fit(X, y)
    assert np.isfinite(embedder.transform(X)).all()
    assert not np.allclose(embedder.transform(X), plain.transform(X), atol=1e-3)
    images, y = make_shapes(48, multilabel=True, random_state=0)
    assert len(small(loss="softmax", mixup=0.35).fit(images, y).history_) == 3


@pytest.mark.parametrize("loss", ["squared_hinge", "lrml"])
def test_mixup_is_refused_by_losses_without_soft_targets(shapes, loss):
    with pytest.raises(ValueError, match=r"mixup=0.35 makes shares of labels, which \w+Loss does"):
        small(loss=loss, mixup=0.35).fit(*shapes)
    with pytest.raises(ValueError, match="mixup=-1 must be a number of at least 0"):
        small(loss="softmax", mixup=-1).fit(*shapes)


def test_other_data_or_parameters_never_meet_the_wrong_checkpoint(shapes, tmp_path):
    images, y = shapes
    small(max_epochs=1, checkpoint_dir=tmp_path).fit(images, y)
    small(max_epochs=1, checkpoint_dir=tmp_path).fit(images[::-1], y[::-1])
    small(max_epochs=1, lr=0.01, checkpoint_dir=tmp_path).fit(images, y)
    assert len(list(tmp_path.iterdir())) == 3
    small(max_epochs=1, checkpoint_dir=tmp_path, verbose=0).fit(images, y)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_corrupt_checkpoint_is_named(shapes, tmp_path):
    small(max_epochs=1, checkpoint_dir=tmp_path).fit(*shapes)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="truncated or corrupt. Delete it"):
        small(max_epochs=1, checkpoint_dir=tmp_path).fit(*shapes)


@pytest.mark.parametrize("failing", ["open", "fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    target = "builtins.open" if failing == "open" else f"os.{failing}"
    monkeypatch.setattr(target, fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_checkpoints_of_a_newer_format_are_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path, "Net", "key")
    torch.save({"format": 99}, checkpoint.path)
    with pytest.raises(ValueError, match="has format 99"):
        checkpoint.load()


@pytest.mark.parametrize("sampling", ["uniform", "class_random", "mined"])
def test_a_loss_may_ask_for_every_sampling_that_an_estimator_has(shapes, sampling):
    asking, silent = ContrastiveLoss(), ContrastiveLoss()
    asking.sampling = sampling
    options = {"early_stopping": True, "max_epochs": 1}
    assert same(
        small(loss=asking, **options).fit(*shapes),
        small(loss=silent, sampling=sampling, **options).fit(*shapes),
    )


def test_early_stopping_keeps_the_best_weights(shapes):
    extractor = small(
        max_epochs=30, early_stopping=True, validation_fraction=0.25, n_iter_no_change=2, lr=1e-2
    ).fit(*shapes)
    losses = [row["valid_loss"] for row in extractor.history_]
    assert extractor.n_iter_ < 30
    assert np.argmin(losses) == len(losses) - 3


class Seeing(nn.Conv2d):
    """A network that notes which images, of one color each, it is trained on or asked about."""

    trained, scored = set(), set()

    def __init__(self):
        super().__init__(3, 4, 1)

    def forward(self, images):
        colors = images.mean(dim=(1, 2, 3)).mul(1e3).round().tolist()
        (self.trained if self.training else self.scored).update(colors)
        return super().forward(images)


@pytest.mark.parametrize("columns", [False, True])
def test_no_image_that_is_held_out_is_trained_on(columns):
    images = np.tile(np.arange(60, dtype=np.uint8)[:, None, None, None], (1, 16, 16, 3))
    y = np.arange(60) % 3
    Seeing.trained.clear()
    Seeing.scored.clear()
    parameters = {"early_stopping": True, "validation_fraction": 0.25, "head_epochs": 0}
    extractor = CNNFeatureExtractor(Seeing(), max_epochs=2, batch_size=8, **parameters)
    extractor.fit(images, np.eye(3)[y] if columns else y)
    assert len(Seeing.trained) == 45
    only_scored = Seeing.scored - Seeing.trained  # and an image that shapes are found out with
    Seeing.scored.clear()
    extractor.transform(images)
    assert len(only_scored & Seeing.scored) == 15


class Decaying(torch.optim.SGD):
    """It notes which weights decay, by their shape."""

    decays, stays = set(), set()

    def __init__(self, groups, lr, weight_decay):
        super().__init__(groups, lr=lr, weight_decay=weight_decay)
        for group in self.param_groups:
            noted = self.decays if group["weight_decay"] else self.stays
            noted.update(tuple(parameter.shape) for parameter in group["params"])
            assert group["weight_decay"] in (0, weight_decay)


class Rated(torch.optim.SGD):
    """It notes the rates of every step."""

    rates = []

    def __init__(self, groups, lr, weight_decay):
        super().__init__(groups, lr=lr, weight_decay=weight_decay)

    def step(self, closure=None):
        self.rates.append({group["lr"] for group in self.param_groups})
        return super().step(closure)


def one_cycle(done):
    return done / 0.25 if done < 0.25 else (1 + np.cos(np.pi * (done - 0.25) / 0.75)) / 2


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("one_cycle", one_cycle),
        ("cosine", lambda done: (1 + np.cos(np.pi * done)) / 2),
        ("constant", lambda done: 1),
    ],
)
def test_every_step_has_the_rates_of_the_middle_of_the_step(schedule, factor, shapes):
    rates = {"lr": 0.01, "trunk_lr": 0.002, "loss_lr": 0.03, "schedule": schedule}
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    Rated.rates.clear()
    extractor = CNNFeatureExtractor(net, n_components=5, loss=WithProxies(), optimizer=Rated)
    extractor.set_params(max_epochs=4, head_epochs=2, batch_size=32, **rates).fit(*shapes)
    # 64 images: two steps an epoch. Each phase, that of the head first, has a schedule of its own.
    head = [{f * rate for rate in (0.01, 0.03)} for f in map(factor, (np.arange(4) + 0.5) / 4)]
    everything = [
        {f * rate for rate in (0.002, 0.01, 0.03)} for f in map(factor, (np.arange(8) + 0.5) / 8)
    ]
    assert len(Rated.rates) == 12
    for found, expected in zip(Rated.rates, head + everything):
        assert sorted(found) == pytest.approx(sorted(expected))


def test_sgd_has_the_momentum_of_nesterov():
    made = OPTIMIZERS["sgd"]([nn.Parameter(torch.ones(1))], lr=0.5, weight_decay=0.25)
    assert {"lr": 0.5, "weight_decay": 0.25, "momentum": 0.9, "nesterov": True}.items() <= (
        made.defaults.items()
    )


class WithProxies(nn.Module):
    """A loss with weights of its own."""

    def __init__(self):
        super().__init__()
        self.proxies = nn.Parameter(torch.ones(4, 5))

    def forward(self, outputs, y):
        return (outputs @ self.proxies.T).square().mean()


def test_weights_decay_but_biases_norms_and_parameters_of_the_loss_do_not(shapes):
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 7, 1, bias=False))
    Decaying.decays.clear()
    Decaying.stays.clear()
    parameters = {"optimizer": Decaying, "weight_decay": 0.25, "max_epochs": 1, "head_epochs": 1}
    CNNFeatureExtractor(net, n_components=5, loss=WithProxies(), **parameters).fit(*shapes)
    assert Decaying.decays == {(6, 3, 3, 3), (7, 6, 1, 1), (5, 7)}
    assert Decaying.stays == {(6,), (5,), (4, 5)}


def test_early_stopping_says_when_classes_are_too_small_to_split(shapes):
    images, y = shapes
    first = [np.flatnonzero(y == c)[:2] for c in np.unique(y)]
    rows = np.concatenate(first)
    with pytest.raises(ValueError, match="no class is large enough"):
        DeepHasher(8, early_stopping=True).fit(images[rows], y[rows])


def test_read_only_and_mapped_input_is_safe_and_unchanged(shapes, tmp_path):
    images, y = shapes
    before = images.tobytes()
    path = tmp_path / "images.npy"
    np.save(path, images)
    mapped = np.load(path, mmap_mode="r")
    expected = small(max_epochs=1).fit(images, y)
    assert same(expected, small(max_epochs=1).fit(mapped, y))
    X, labels = make_blobs(40, 4, centers=3, random_state=0)
    joblib.dump(X, tmp_path / "rows")
    rows = joblib.load(tmp_path / "rows", mmap_mode="r")
    DeepHasher(8, max_epochs=1).fit(rows, labels).transform(rows)
    assert images.tobytes() == before


def test_a_user_module_and_loss_are_copied_and_never_trained(shapes):
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    before = backbone[0].weight.detach().clone()
    extractor = small(loss=loss, max_epochs=1).set_params(backbone=backbone, mean=[0.5] * 3)
    extractor.set_params(std=[0.25] * 3).fit(*shapes)
    assert torch.equal(backbone[0].weight, before)
    assert extractor.transform(shapes[0]).shape == (64, 8)
    assert same(extractor, clone(extractor).fit(*shapes))


def test_progress_bars_of_scikit_learn_and_verbose_work(shapes, capsys):
    small(max_epochs=1).set_callbacks(ProgressBar()).fit(*shapes)
    small(max_epochs=1, verbose=1).fit(*shapes).transform(shapes[0])
    shown = capsys.readouterr()
    assert "CNNFeatureExtractor" in shown.out
    assert "loss" in shown.err


def test_single_class_and_lonely_classes_are_named(shapes):
    images, _ = shapes
    with pytest.raises(ValueError, match="at least 2 classes to train, got 1 class: 'cat'"):
        small().fit(images, ["cat"] * len(images))
    with pytest.raises(ValueError, match="no similar images to move together"):
        DeepHasher(8).fit(images, np.arange(len(images)))


def test_losses_that_end_another_way_point_to_the_right_estimator(shapes):
    with pytest.raises(ValueError, match=r"Use DeepHasher\(loss='dfeh'\)"):
        small(loss="dfeh").fit(*shapes)
    with pytest.raises(ValueError, match="one output per class"):
        DeepHasher(loss="softmax").fit(*shapes)
    with pytest.raises(ValueError, match="Did you mean 'dfeh'"):
        DeepHasher(loss="dfhe").fit(*shapes)


def test_rows_and_images_are_not_mixed_up(shapes):
    X, y = make_blobs(40, 4, centers=3, random_state=0)
    with pytest.raises(ValueError, match="fitted on images, but X holds 2-D feature rows"):
        small(max_epochs=1).fit(*shapes).transform(X)
    hasher = DeepHasher(8, max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="fitted on 2-D feature rows, but X holds images"):
        hasher.transform(shapes[0])
    larger = np.zeros((2, 40, 40, 3), np.uint8)  # images of any size are images
    assert small(max_epochs=1).fit(*shapes).transform(larger).shape == (2, 256)


def test_codes_are_signs_and_multi_label_rows_train(shapes):
    images, y = make_shapes(48, multilabel=True, random_state=0)
    hasher = DeepHasher(8, max_epochs=1, random_state=0).fit(images, y)
    codes = hasher.transform(images)
    assert codes.dtype == np.uint8
    assert np.array_equal(codes, hasher.project(images) >= 0)


def test_threshold_is_chosen_on_classes_that_were_not_trained_on():
    images, y = make_shapes(90, n_classes=5, random_state=0)
    embedder = CPFEmbedder(8, max_epochs=1, random_state=0).fit(images, y)
    assert -1 <= embedder.threshold_ <= 1
    assert len(embedder.classes_) == 5
    few = np.isin(y, np.unique(y)[:3])
    with pytest.warns(UserWarning, match="got 3 classes.*too few to hold out 2"):
        CPFEmbedder(8, max_epochs=1, random_state=0).fit(images[few], y[few])


class Scaled(torch.nn.Module):
    """Cross entropy of scaled scores; the scale is a plain attribute."""

    output = "classes"

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, outputs, y):
        return torch.nn.functional.cross_entropy(self.scale * outputs, y)


def darker(image, by):
    return image // by


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("loss", [torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(label_smoothing=0.9)]),
        ("loss", [Scaled(1.0), Scaled(5.0)]),
        ("augment", [functools.partial(darker, by=2), functools.partial(darker, by=3)]),
        ("augment", [lambda image: image // 2, lambda image: image // 3]),
    ],
    ids=["attribute of a torch loss", "attribute of an own loss", "partial", "lambda"],
)
def test_objects_that_differ_inside_have_checkpoints_of_their_own(shapes, tmp_path, name, values):
    for value in [*values, values[0]]:
        small(max_epochs=1, checkpoint_dir=tmp_path, **{name: value}).fit(*shapes)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_keeps_the_seed_that_was_drawn(shapes, tmp_path):
    params = {"random_state": None, "early_stopping": True, "checkpoint_dir": tmp_path}
    first = small(max_epochs=1, **params).fit(*shapes)
    assert same(first, small(max_epochs=1, **params).fit(*shapes))


def test_divergence_in_the_very_last_step_is_seen(shapes):
    with pytest.raises(FloatingPointError, match="weights became NaN or infinite at epoch 1"):
        DeepHasher(8, backbone="small", lr=np.inf, max_epochs=1).fit(*shapes)


def test_the_seconds_of_all_epochs_are_no_more_than_went_by(shapes):
    started = time.perf_counter()
    extractor = small(max_epochs=2).fit(*shapes)
    went_by = time.perf_counter() - started
    seconds = [epoch["seconds"] for epoch in extractor.history_]
    assert min(seconds) > 0
    assert sum(seconds) <= went_by


def test_a_network_that_gives_nan_names_the_image(shapes):
    class Broken(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) / 0.0 * 0.0

    extractor = CNNFeatureExtractor(Broken(), loss=None)
    with pytest.raises(ValueError, match=r"X\[0\]: the network gave NaN"):
        extractor.fit_transform(shapes[0])


def test_a_single_step_trains(shapes):
    images, y = shapes
    outputs = [
        DeepHasher(8, backbone="small", lr=lr, max_epochs=1, batch_size=64, random_state=0)
        .fit(images, y)
        .project(images)
        for lr in (1e-4, 1e-2)
    ]
    assert not np.allclose(*outputs)


def test_balanced_batches_hold_each_image_once_when_classes_are_large_enough():
    hasher = DeepHasher(8, batch_size=200)
    y = np.repeat(np.arange(10), 10)
    plan = plan_batches(hasher, None, y, np.arange(100), hasher._training_loss(), 0, training=True)
    (batch,) = plan.indices
    assert len(np.unique(batch)) == 100


@pytest.mark.parametrize(
    ("n_classes", "batch_size", "n_of_each"),
    [(2, 32, 16), (7, 35, 5), (8, 32, 4), (9, 32, 4), (20, 32, 4)],
)
def test_batches_hold_four_of_a_class_or_as_many_as_fill_them(n_classes, batch_size, n_of_each):
    hasher, rows = DeepHasher(8, batch_size=batch_size), np.arange(40 * n_classes)
    y = rows % n_classes
    plan = plan_batches(hasher, None, y, rows, hasher._training_loss(), 0, training=True)
    for batch in plan.indices:
        assert len(batch) == batch_size
        assert set(np.bincount(y[batch])) <= {0, n_of_each}


@pytest.mark.parametrize("columns", [False, True], ids=["classes", "columns"])
@pytest.mark.parametrize(
    ("n_per_class", "batch_size", "n_of_each"),
    [(None, 36, 6), (None, 12, 4), (9, 36, 9)],
    ids=["fill", "four", "given"],
)
def test_drawn_classes_give_what_would_fill_the_batch_from_all(
    columns, n_per_class, batch_size, n_of_each
):
    rows = np.arange(240)
    hasher = DeepHasher(8, batch_size=batch_size, sampling="class_random", n_per_class=n_per_class)
    y = np.eye(6, dtype=np.float32)[rows % 6] if columns else rows % 6
    plan = plan_batches(hasher, None, y, rows, hasher._training_loss(), 0, training=True)
    for batch in plan.indices:
        assert len(batch) == batch_size
        for group in (batch % 6).reshape(-1, n_of_each):
            assert len(np.unique(group)) == 1


def test_validation_of_pair_losses_holds_different_images_of_a_class():
    hasher = DeepHasher(8, early_stopping=True, validation_fraction=0.2)
    y = np.repeat(np.arange(10), 10)
    loss = hasher._training_loss()
    _kept, held_out = split_rows(hasher, y, loss, seed=0)
    assert (np.bincount(y[held_out]) == 2).all()
    plan = plan_batches(hasher, None, y, held_out, loss, 0, training=False)
    assert sorted(np.concatenate(plan.indices)) == sorted(held_out)
    _kept, held_out = split_rows(
        DeepHasher(8, early_stopping=True, validation_fraction=0.25),
        np.repeat(np.arange(12), [4] * 11 + [8]),
        loss,
        seed=0,
    )
    assert len(held_out) == 2


@pytest.mark.parametrize(("estimator", "least"), [(DeepHasher, 2), (CNNFeatureExtractor, 1)])
def test_a_class_gives_its_share_but_keeps_the_least_that_its_loss_compares(estimator, least):
    sizes = np.array([1, 2, 3, 4, 5, 20])
    y = np.repeat(np.arange(6), sizes)
    for share in (0.1, 0.5, 0.9):
        estimator_ = estimator(early_stopping=True, validation_fraction=share)
        kept, held_out = split_rows(estimator_, y, estimator_._training_loss(), seed=0)
        assert sorted([*kept, *held_out]) == list(range(35))
        wanted = np.minimum(np.round(share * sizes), sizes - least)
        wanted[wanted < least] = 0
        assert np.bincount(y[held_out], minlength=6).tolist() == wanted.tolist()


def test_a_failed_refit_leaves_the_fitted_estimator_as_it_was(shapes):
    images, _y = shapes
    X, labels = make_blobs(40, 4, centers=3, random_state=0)
    fitted = DeepHasher(8, max_epochs=1, random_state=0).fit(X, labels)
    expected = fitted.project(X)
    for bad in ((X[:, :3], None), (images, None), (np.full((40, 4), np.nan), labels)):
        with pytest.raises(ValueError, match="y|NaN"):
            fitted.fit(*bad)
        assert np.array_equal(fitted.project(X), expected)
    unfitted = DeepHasher(8)
    with pytest.raises(ValueError, match="requires y"):
        unfitted.fit(X)
    with pytest.raises(NotFittedError):
        unfitted.transform(X)


def test_ctrl_c_in_a_refit_keeps_the_model_and_its_callbacks_end(shapes):
    images, y = shapes
    extractor = small().fit(images, y)
    expected = extractor.transform(images)
    ended = []

    class Ending(Interrupt):
        def teardown(self, estimator, context):
            ended.append(True)

    extractor.set_callbacks(Ending(2))
    with pytest.raises(KeyboardInterrupt):
        extractor.fit(images[:, 2:30, 2:30], y)
    assert ended == [True]
    assert np.array_equal(extractor.transform(images), expected)


def test_a_head_without_parameters_is_not_trained_alone(shapes):
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    extractor = CNNFeatureExtractor(backbone, loss=DSHLoss().forward, max_epochs=1, batch_size=16)
    extractor.fit(*shapes)
    assert [row["phase"] for row in extractor.history_] == ["all"]


def test_batch_norm_of_an_untrained_module_is_trained(shapes):
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    fresh = CNNFeatureExtractor(backbone, max_epochs=1, batch_size=16).fit(*shapes)
    name = next(key for key in weights(fresh) if key.endswith("running_mean"))
    assert np.abs(weights(fresh)[name]).max() > 0
    assert [row["phase"] for row in fresh.history_] == ["all"]


def test_a_module_changed_after_fit_does_not_reach_the_pickle(shapes):
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    extractor = CNNFeatureExtractor(backbone, max_epochs=1, batch_size=16).fit(*shapes)
    expected = extractor.transform(shapes[0])
    backbone[0] = torch.nn.Conv2d(3, 4, 5)
    assert np.array_equal(pickle.loads(pickle.dumps(extractor)).transform(shapes[0]), expected)


def test_fits_in_threads_are_repeatable_and_leave_the_generator(shapes):
    expected = small(max_epochs=1).fit(*shapes)
    torch.manual_seed(5)
    after = torch.rand(2)
    torch.manual_seed(5)
    fitted = [small(max_epochs=1) for _ in range(4)]
    threads = [threading.Thread(target=e.fit, args=shapes) for e in fitted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(expected, e) for e in fitted)
    assert torch.equal(torch.rand(2), after)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_file_is_named_from_loader_workers_too(tmp_path, monkeypatch, num_workers):
    images, y = make_shapes(12, n_classes=2, random_state=0)
    paths = [str(tmp_path / f"{i}.png") for i in range(12)]
    for image, path in zip(images, paths):
        Image.fromarray(image).save(path)
    monkeypatch.setattr("sklearn_cbir._base.CACHE_BYTES", 0)
    broken = Path(paths[7])
    content = broken.read_bytes()
    # The header and the end are whole: only decoding finds it.
    broken.write_bytes(content[:60] + bytes(20) + content[80:])
    with pytest.raises(ImageReadError, match=r"X\[7\]") as raised:
        small(max_epochs=1, num_workers=num_workers).fit(paths, y)
    assert raised.value.index == 7


@pytest.mark.parametrize(
    ("params", "culprit"),
    [
        ({"loss": 42}, "loss=42 cannot be called"),
        ({"loss": torch.nn.TripletMarginLoss()}, "loss=TripletMarginLoss failed on outputs"),
        ({"loss": torch.nn.NLLLoss()}, "Use torch.nn.CrossEntropyLoss"),
        ({"optimizer": 42}, "optimizer=42"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer=.*LBFGS.* could not be made"),
        ({"weights": 3}, "weights=3"),
    ],
)
def test_wrong_objects_are_named(shapes, params, culprit):
    with pytest.raises(ValueError, match=culprit):
        small(max_epochs=1, **params).fit(*shapes)


@pytest.mark.parametrize(
    ("y", "culprit"),
    [
        (["a", "b", float("nan")], "mixes labels"),
        (["1", 2, "3"], "mixes labels"),
        ([[1], [2, 3], [1]], "MultiLabelBinarizer"),
        ([{1}, {2, 3}, {1}], "MultiLabelBinarizer"),
        (["a", None, "b"], "mixes labels"),
        ([0.5, 1.5, 2.25], "continuous"),
    ],
)
def test_labels_that_are_no_classes_are_refused(y, culprit):
    with pytest.raises(ValueError, match=culprit):
        check_labels(y)


def test_strings_of_any_kind_are_one_kind():
    assert check_labels(["a", np.str_("b")]).tolist() == ["a", "b"]


def test_multi_label_rows_without_a_common_label_are_refused_before_training():
    images, _ = make_shapes(12, random_state=0)
    with pytest.raises(ValueError, match="No two of the 12 images share a label"):
        CPFEmbedder(8, backbone="small", max_epochs=1).fit(images, np.eye(12))


@pytest.mark.parametrize("sampling", ["auto", "mined"])
@pytest.mark.parametrize("loss", ["contrastive", "softmax"])
def test_no_label_loses_its_last_pair_to_early_stopping(loss, sampling):
    common = np.repeat(np.eye(2, dtype=int), 20, axis=0)
    y = np.column_stack([common, np.arange(40) < 2])  # two rows have a third label
    least = 1 if (loss, sampling) == ("softmax", "auto") else 2
    extractor = CNNFeatureExtractor(
        loss=loss, sampling=sampling, early_stopping=True, validation_fraction=0.3
    )
    for seed in range(10):
        kept, held_out = split_rows(extractor, y.astype(np.float32), LOSSES[loss](), seed)
        assert len(held_out) == 12
        assert sorted([*kept, *held_out]) == list(range(40))
        assert (y[kept].sum(axis=0) >= least).all()


def test_mined_pairs_are_left_by_early_stopping_and_missed_by_name():
    y = np.arange(40) // 2 % 8
    rows = np.random.default_rng(0).normal(size=(40, 4))
    parameters = {"loss": "softmax", "sampling": "mined", "max_epochs": 1, "random_state": 0}
    extractor = CNNFeatureExtractor(early_stopping=True, validation_fraction=0.5, **parameters)
    extractor.fit(rows, y)
    for labels in (np.arange(40), np.eye(40, dtype=int)):
        with pytest.raises(ValueError, match="so .*sampling='mined' has no pairs to draw"):
            extractor.fit(rows, labels)
    alone = np.eye(39, dtype=int)[[0, *range(39)]]
    with pytest.raises(ValueError, match="no label is large enough .*has 1, the largest 2"):
        extractor.fit(rows, alone)


def test_generators_are_looked_for_only_where_code_of_others_runs(shapes, monkeypatch):
    looked = []

    def look(*sources):
        looked.append(sources)
        return Draws(*sources)

    monkeypatch.setattr("sklearn_cbir._training.Draws", look)
    small(max_epochs=1).fit(*shapes)
    assert not looked
    small(max_epochs=2, loss=torch.nn.CrossEntropyLoss()).fit(*shapes)
    assert len(looked) == 1  # once a fit, not once an epoch


def test_a_training_is_asked_for_in_one_plan_that_nothing_changes(shapes, monkeypatch):
    plans = []

    def keep(*args):
        plans.append(args[4])
        return train(*args)

    monkeypatch.setattr("sklearn_cbir._training.train", keep)
    small(max_epochs=2, head_epochs=1, lr=1, early_stopping=True).fit(*shapes)
    (plan,) = plans
    assert (plan.n_epochs, plan.lr, plan.trunk_lr, plan.sampling) == (3, 1.0, 1.0, "uniform")
    assert sorted([*plan.train_rows, *plan.held_out_rows]) == list(range(64))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.lr = 2.0
