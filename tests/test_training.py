"""The training loop: repeatable, resumable, interruptible, and loud when it goes wrong."""

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher
from sklearn_cbir._files import replace_file
from sklearn_cbir._training import Checkpoint
from sklearn_cbir.datasets import make_shapes


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


@pytest.mark.parametrize("lr", [float("inf"), 1e30])
def test_divergence_stops_with_epoch_batch_and_rate(shapes, lr):
    with pytest.raises(FloatingPointError, match=r"loss became .* at epoch \d+, batch \d+, learn"):
        small(lr=lr, schedule="constant", optimizer="sgd").fit(*shapes)


@pytest.mark.filterwarnings("ignore:.*fits failed")
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


class _Interrupt:
    """A callback that presses Ctrl-C after the second epoch."""

    def setup(self, estimator, context):
        self.n = 0

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n += context.task_name == "epoch"
        if self.n == 2:
            raise KeyboardInterrupt

    def teardown(self, estimator, context):
        pass


def test_ctrl_c_propagates_and_leaves_the_estimator_unfitted(shapes):
    extractor = small().set_callbacks(_Interrupt())
    with pytest.raises(KeyboardInterrupt):
        extractor.fit(*shapes)
    assert not hasattr(extractor, "n_iter_")


@pytest.mark.parametrize(
    ("schedule", "optimizer"), [("one_cycle", "adamw"), ("cosine", "sgd"), ("constant", "adam")]
)
def test_a_run_that_was_cut_off_goes_on_and_ends_bit_equal(shapes, tmp_path, schedule, optimizer):
    params = {"max_epochs": 4, "head_epochs": 1, "schedule": schedule, "optimizer": optimizer}
    whole = small(**params).fit(*shapes)
    cut = small(**params, checkpoint_dir=tmp_path).set_callbacks(_Interrupt())
    with pytest.raises(KeyboardInterrupt):
        cut.fit(*shapes)
    assert len(list(tmp_path.iterdir())) == 1
    resumed = small(**params, checkpoint_dir=tmp_path).fit(*shapes)
    assert same(whole, resumed)
    assert [r["loss"] for r in whole.history_] == [r["loss"] for r in resumed.history_]


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


def test_early_stopping_keeps_the_best_weights(shapes):
    extractor = small(
        max_epochs=30, early_stopping=True, validation_fraction=0.25, n_iter_no_change=2, lr=1e-2
    ).fit(*shapes)
    losses = [row["valid_loss"] for row in extractor.history_]
    assert extractor.n_iter_ < 30
    assert np.argmin(losses) == len(losses) - 3


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
    with pytest.raises(ValueError, match="nothing to pull together"):
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
    with pytest.raises(ValueError, match=r"fitted on images of shape \(32, 32, 3\)"):
        small(max_epochs=1).fit(*shapes).transform(np.zeros((2, 40, 40, 3), np.uint8))


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
    with pytest.warns(UserWarning, match="got 3 classes.*too few to hold any out"):
        CPFEmbedder(8, max_epochs=1, random_state=0).fit(images[few], y[few])
