"""The same network for any number of loader processes, which live as long as the fit."""

import contextlib
import functools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from torch import nn
from training_cases import plan_batches

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir._batches import ArraySource
from sklearn_cbir._workers import _Readers
from sklearn_cbir.datasets import make_shapes

IMAGES, Y = make_shapes(24, n_classes=3, image_size=16, random_state=0)
RNG = np.random.default_rng(0)


def network():
    """Return a network that draws numbers of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout2d(0.5))


def tiny(**params):
    defaults = {"max_epochs": 2, "batch_size": 8, "weights": None, "random_state": 0}
    return CNNFeatureExtractor(network(), **defaults | params)


def weights(estimator):
    return estimator._network_state["weights"]


def same(a, b):
    return all(np.array_equal(weights(a)[k], weights(b)[k]) for k in weights(a))


def shifted(image, by):
    return image.roll(int(by), dims=1)


def by_numpy(image):
    return shifted(image, np.random.randint(16))  # noqa: NPY002


def by_random(image):
    return shifted(image, random.randrange(16))


def by_torch(image):
    return shifted(image, torch.randint(16, (1,)))


def by_module_generator(image):
    return shifted(image, RNG.integers(16))


class Own:
    """Holds its generator, as transforms of albumentations and monai do."""

    def __init__(self, rng, draw):
        self.rng = rng
        self.draw = draw

    def __call__(self, image):
        return shifted(image, self.draw(self.rng))


class OfClass:
    rng = random.Random(0)

    def __call__(self, image):
        return shifted(image, self.rng.randrange(16))


def closure():
    rng = np.random.RandomState(0)
    return lambda image: shifted(image, 8 * rng.normal())


def draw_integers(rng):
    return rng.integers(16)


def draw_range(rng):
    return rng.randrange(16)


def draw_tensor(rng):
    return torch.randint(16, (1,), generator=rng)


def by_worker(image):
    """Asks for its process, as some libraries do to seed themselves."""
    info = torch.utils.data.get_worker_info()
    return shifted(image, torch.randint(16, (1,)) + (8 if info is None else info.id))


class Odd:
    """Fails when asked for anything, as some proxies do."""

    def __getattribute__(self, name):
        raise RuntimeError("not to be asked")


AUGMENTS = {
    "auto": lambda: "auto",
    "numpy": lambda: by_numpy,
    "random": lambda: by_random,
    "torch": lambda: by_torch,
    "worker": lambda: by_worker,
    "module": lambda: by_module_generator,
    "class": OfClass,
    "closure": closure,
    "numpy's own": lambda: Own(np.random.default_rng(0), draw_integers),
    "random's own": lambda: Own(random.Random(0), draw_range),
    "torch's own": lambda: Own(torch.Generator(), draw_tensor),
    "composed": lambda: functools.partial(
        lambda image, steps: steps[1](steps[0](image)),
        steps=[by_numpy, Own(random.Random(0), draw_range), Odd()],
    ),
    "method": lambda: Own(np.random.default_rng(0), draw_integers).__call__,
}


class Interrupt:
    """A callback that ends a fit after its second epoch."""

    def __init__(self, exception=KeyboardInterrupt):
        self.exception = exception

    def setup(self, estimator, context):
        self.n = 0

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n += context.task_name == "epoch"
        if self.n == 2:
            raise self.exception

    def teardown(self, estimator, context):
        pass


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_augmentation_draws_from_random_state_alone(name):
    """...and so repeats, with and without processes, whatever else was drawn before."""
    augment = AUGMENTS[name]()
    alone = tiny(augment=augment).fit(IMAGES, Y)
    assert not same(alone, tiny(augment=None).fit(IMAGES, Y))
    assert same(alone, tiny(augment=augment).fit(IMAGES, Y))
    assert same(alone, tiny(augment=augment, num_workers=2).fit(IMAGES, Y))
    assert not same(alone, tiny(augment=augment, random_state=1).fit(IMAGES, Y))


def test_all_generators_are_left_as_they_were():
    own = np.random.RandomState(5)
    expected = random.Random(5).random(), np.random.RandomState(5).random(2).tolist()
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    tiny(augment=Own(own, lambda rng: rng.normal() + random.random())).fit(IMAGES, Y)
    assert random.random() == expected[0]
    assert np.random.random(2).tolist() == expected[1]  # noqa: NPY002
    assert own.random(2).tolist() == expected[1]


def test_an_augmentation_runs_in_one_torch_thread_as_in_a_process():
    """...since the number of threads changes the order of sums."""
    seen = set()

    def augment(image):
        seen.add(torch.get_num_threads())
        return image

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tiny(augment=augment).fit(IMAGES, Y)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


@pytest.mark.parametrize(
    "params",
    [
        {"sampling": "uniform", "mixup": 0.3, "loss": "softmax", "head_epochs": 1},
        {"sampling": "balanced", "loss": "contrastive", "early_stopping": True},
        {"sampling": "class_random", "loss": "triplet"},
        {"sampling": "mined", "loss": "lrml", "pool_size": 12},
    ],
    ids=lambda params: params["sampling"],
)
def test_workers_and_resuming_change_no_bit(params, tmp_path):
    params |= {"validation_fraction": 0.3, "max_epochs": 3}
    augment = Own(np.random.default_rng(0), draw_integers)
    whole = tiny(**params, augment=augment).fit(IMAGES, Y)
    assert same(whole, tiny(**params, augment=augment, num_workers=2).fit(IMAGES, Y))
    cut = tiny(**params, augment=augment, checkpoint_dir=tmp_path, num_workers=1)
    with pytest.raises(KeyboardInterrupt):
        cut.set_callbacks(Interrupt()).fit(IMAGES, Y)
    assert same(whole, tiny(**params, augment=augment, checkpoint_dir=tmp_path).fit(IMAGES, Y))
    assert len(list(tmp_path.iterdir())) == 1


class Noisy(nn.Module):
    """A loss that draws from everything, generators of its own among it."""

    output = "features"

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def forward(self, outputs, y):
        drawn = self.rng.random(), np.random.rand(), random.random()  # noqa: NPY002
        return outputs.square().mean() * (sum(drawn) + torch.rand(()))


def test_a_loss_that_draws_numbers_repeats_and_resumes(tmp_path):
    whole = tiny(loss=Noisy()).fit(IMAGES, Y)
    np.random.rand(), random.random()  # noqa: NPY002
    assert same(whole, tiny(loss=Noisy(), num_workers=1).fit(IMAGES, Y))
    with pytest.raises(KeyboardInterrupt):
        tiny(loss=Noisy(), checkpoint_dir=tmp_path).set_callbacks(Interrupt()).fit(IMAGES, Y)
    assert same(whole, tiny(loss=Noisy(), checkpoint_dir=tmp_path).fit(IMAGES, Y))


def test_balanced_epochs_deal_every_row_of_a_class_equally_often_and_resume():
    """...within one, and each epoch is the same whether those before it were drawn or not."""
    y = np.repeat([0, 1, 2], [30, 3, 3])
    estimator = tiny(sampling="balanced", n_per_class=2)
    source = ArraySource(np.arange(36.0)[:, None])

    def batches():
        return plan_batches(estimator, source, y, np.arange(36), None, 0, training=True)

    going = batches()
    epochs = []
    for epoch in range(6):
        going.start_epoch(epoch)
        epochs.append(np.concatenate(going.indices))
    used = np.bincount(np.concatenate(epochs), minlength=36)
    assert all(np.ptp(used[y == c]) <= 1 for c in range(3))
    resumed = batches()
    for epoch in (4, 5, 0):
        resumed.start_epoch(epoch)
        assert np.array_equal(np.concatenate(resumed.indices), epochs[epoch])


@pytest.mark.slow  # joblib's processes import torch
def test_n_jobs_changes_no_bit_of_a_score_with_loader_processes_or_without():
    pipeline = make_pipeline(
        tiny(augment=by_numpy, num_workers=1), NeighborsRetriever(n_neighbors=3)
    )
    scores = [cross_val_score(pipeline, IMAGES, Y, cv=2, n_jobs=n_jobs) for n_jobs in (1, 2)]
    assert np.array_equal(*scores)
    assert np.isfinite(scores).all()


# Processes -----------------------------------------------------------------------------------


@pytest.fixture
def start_method(request):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def loader_processes_left():
    children = multiprocessing.active_children()
    return [child for child in children if "Loky" not in type(child).__name__]  # joblib's stay


METHODS = ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)]


@pytest.mark.parametrize("start_method", METHODS, indirect=True)
def test_processes_are_started_once_and_end_with_the_fit(start_method, monkeypatch, tmp_path):
    """...under every start method, with functions that have no name, and arrays sent once."""
    monkeypatch.setattr("sklearn_cbir._workers.IN_LINE", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    note = tmp_path / "pids"
    rng = np.random.default_rng(0)

    def augment(image):
        with open(note, "a") as file:
            file.write(f"{os.getpid()}\n")
        return shifted(image, rng.integers(16))

    params = {"augment": augment, "max_epochs": 4, "early_stopping": True}
    params |= {"validation_fraction": 0.3}
    num_workers = 2 if start_method == "fork" else 1  # others take seconds to start
    fitted = tiny(**params, num_workers=num_workers).fit(IMAGES, Y)
    pids = set(note.read_text().split())
    assert len(pids) == num_workers
    assert str(os.getpid()) not in pids
    assert not loader_processes_left()
    assert not list(tmp_path.glob("sklearn_cbir-*"))
    assert same(fitted, tiny(**params).fit(IMAGES, Y))


def fail(image):
    raise LookupError("no such color")


class Unpicklable(Exception):
    def __init__(self, message, lock):
        super().__init__(message)
        self.lock = lock


def fail_oddly(image):
    raise Unpicklable("odd thing", threading.Lock())


def leave(image):
    raise SystemExit("no such color")


class Mute(Exception):
    add_note = None

    def __str__(self):
        raise OSError("no such color")


def fail_mutely(image):
    raise Mute


def test_an_error_that_cannot_be_shown_comes_out_of_a_process_too():
    with pytest.raises(Mute) as raised:
        tiny(augment=fail_mutely, num_workers=1).fit(IMAGES, Y)
    assert "in fail_mutely\n    raise Mute" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("augment", "error"),
    [(fail, LookupError), (fail_oddly, RuntimeError), (leave, SystemExit)],
)
def test_an_error_in_a_process_shows_its_own_line(augment, error):
    with pytest.raises(error, match="no such color|failed with Unpicklable: odd thing") as raised:
        tiny(augment=augment, num_workers=1).fit(IMAGES, Y)
    assert f"in {augment.__name__}\n    raise " in raised.value.__notes__[0]
    assert not loader_processes_left()


def die(image):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_an_error_that_names_num_workers():
    with pytest.raises(RuntimeError, match=r"exit code -9 .* Use fewer than num_workers=1, or 0"):
        tiny(augment=die, num_workers=1).fit(IMAGES, Y)
    assert not loader_processes_left()


@pytest.mark.parametrize("start_method", ["spawn"], indirect=True)
def test_what_cannot_be_sent_is_named(start_method):
    augment = Own(threading.Lock(), lambda lock: 0)
    with pytest.raises(ValueError, match="num_workers=1 sends X and augment .* Use num_workers=0"):
        tiny(augment=augment, num_workers=1).fit(IMAGES, Y)


def test_a_mapped_array_is_sent_by_the_name_of_its_file(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(40_000.0).reshape(400, 100))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    sources = [ArraySource(rows) for rows in (mapped, np.asarray(mapped)[100:], mapped[:, ::2])]
    with contextlib.ExitStack() as stack:
        readers = _Readers(sources, 1, stack)
        readers.pack()
        assert len(readers.packed[2]) == 0  # nothing to be mapped from a file of ours
        copies = pickle.loads(pickle.dumps(readers)).readers
    for source, copy in zip(sources, copies):
        assert np.array_equal(source.rows, copy.rows)
    assert all(isinstance(copy.rows, np.memmap) for copy in copies[:2])


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ValueError])
def test_processes_end_when_a_callback_ends_the_fit(exception):
    with pytest.raises(exception) as raised:
        tiny(num_workers=1).set_callbacks(Interrupt(exception)).fit(IMAGES, Y)
    assert raised.value  # whose traceback holds everything
    assert not loader_processes_left()


KILLED = """
import multiprocessing, os, signal
from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import make_shapes

def augment(image):
    print(os.getpid(), flush=True)
    os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)
    return image

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    images, y = make_shapes(24, random_state=0)
    CNNFeatureExtractor("small", weights=None, augment=augment, num_workers=1).fit(images, y)
"""


@pytest.mark.slow  # the server and its process import torch
def test_processes_end_when_that_of_the_training_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    # All that hold its output have ended when this returns.
    done = subprocess.run([sys.executable, script], capture_output=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL
