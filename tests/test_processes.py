"""Threads do not wait for each other, forked children answer, and nothing needs a fork."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.preprocessing import FunctionTransformer

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, _devices
from sklearn_cbir._devices import OwnDraws
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._network import Placement
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.extraction import extract

IMAGES, LABELS = make_shapes(24, random_state=0)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def small(**params):
    params = {"weights": None, "max_epochs": 1, "batch_size": 12, "random_state": 0} | params
    return CNNFeatureExtractor("small", **params)


def run(program, *arguments, **environment):
    """Run a program in a process of its own; a hang is an error."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# Threads ---------------------------------------------------------------------------------------

started, may_end = threading.Event(), threading.Event()


def waiting_loss(outputs, y):
    started.set()
    assert may_end.wait(60)
    return outputs.square().mean()


@pytest.fixture
def fit_elsewhere():
    """A fit in another thread that does not end before the test does."""
    started.clear()
    may_end.clear()
    thread = threading.Thread(target=small(loss=waiting_loss).fit, args=(IMAGES, LABELS))
    thread.start()
    assert started.wait(60)
    yield
    may_end.set()
    thread.join()


def in_time(function, *args):
    """Return ``function(*args)``, which must not wait for another thread."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function(*args)), daemon=True)
    thread.start()
    thread.join(20)
    assert result, "still waiting"
    return result[0]


def untrained():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    return CNNFeatureExtractor(module, loss=None)


FITTED = {
    "extractor": small().fit(IMAGES, LABELS),
    "scales": small(scales=(1, 0.5)).fit(IMAGES, LABELS),
    "untrained": untrained().fit(IMAGES),
    "hasher": DeepHasher(8, backbone="small", max_epochs=1, random_state=0).fit(IMAGES, LABELS),
    "embedder": CPFEmbedder(
        8, backbone="small", max_epochs=1, threshold_fraction=0, random_state=0
    ).fit(IMAGES, LABELS),
    "rows": small().fit(IMAGES.reshape(24, -1), LABELS),
    "untrained rows": small(loss=None).fit(IMAGES.reshape(24, -1)),
}


@pytest.mark.parametrize("name", FITTED)
def test_transform_does_not_wait_for_a_fit_elsewhere(name, tmp_path, fit_elsewhere):
    fitted = FITTED[name]
    X = IMAGES.reshape(24, -1) if "rows" in name else IMAGES
    rows = in_time(fitted.transform, X)
    loaded = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(in_time(loaded.transform, X), rows)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(in_time(extract, again, X, tmp_path), rows)


def test_a_fit_that_trains_nothing_does_not_wait_for_one_that_does(fit_elsewhere):
    rows = in_time(untrained().fit_transform, IMAGES)
    assert np.array_equal(rows, FITTED["untrained"].transform(IMAGES))


def test_fits_in_several_threads_give_what_they_give_alone():
    alone = [small(random_state=seed).fit(IMAGES, LABELS).transform(IMAGES) for seed in (0, 1, 2)]
    together = {}

    def fit(seed):
        fitted = small(random_state=seed).fit(IMAGES, LABELS)
        together[seed] = pickle.loads(pickle.dumps(fitted)).transform(IMAGES)

    threads = [threading.Thread(target=fit, args=(seed,)) for seed in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, rows in enumerate(alone):
        assert np.array_equal(together[seed], rows)


def test_what_other_threads_draw_meanwhile_changes_no_new_weight(monkeypatch):
    alone = small().fit(IMAGES, LABELS).transform(IMAGES)

    def disturbed(*args, **kwargs):
        torch.manual_seed(5)  # as another thread might, just then
        return build_backbone(*args, **kwargs)

    monkeypatch.setattr("sklearn_cbir._base.build_backbone", disturbed)
    assert np.array_equal(small().fit(IMAGES, LABELS).transform(IMAGES), alone)


def test_a_fit_on_the_cpu_seeds_no_other_device(monkeypatch):
    seeded = []
    for place in ("cuda", "mps", "xpu"):
        monkeypatch.setattr(f"torch.{place}.manual_seed", seeded.append)
        monkeypatch.setattr(f"torch.{place}.manual_seed_all", seeded.append, raising=False)
    small(device="cpu").fit(IMAGES, LABELS)
    assert not seeded


def test_several_threads_share_an_extractor_that_was_just_loaded():
    rows = FITTED["extractor"].transform(IMAGES)
    loaded = pickle.loads(pickle.dumps(FITTED["extractor"]))
    barrier, found = threading.Barrier(4), []

    def transform():
        barrier.wait()
        found.extend(np.array_equal(loaded.transform(IMAGES), rows) for _ in range(3))

    threads = [threading.Thread(target=transform) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 12


@pytest.mark.parametrize("name", FITTED)
def test_the_first_transform_after_loading_leaves_the_global_generator_alone(name):
    loaded = pickle.loads(pickle.dumps(FITTED[name]))
    before = torch.get_rng_state()
    loaded.transform(IMAGES.reshape(24, -1) if "rows" in name else IMAGES)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["small", "resnet9", "resnet18", "vit_b_32", "mobilenet_v3_small"])
def test_weights_of_a_network_are_drawn_from_a_generator_of_its_own(name):
    before = torch.get_rng_state()
    with OwnDraws(7):
        own = build_backbone(name).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        other = build_backbone(name).state_dict()
    assert all(torch.equal(own[key], other[key]) for key in own)


def times(rows, factor):
    return factor * rows


def test_extracting_by_several_threads_at_once(tmp_path):
    rows = np.arange(40.0).reshape(20, 2)
    found = {}

    def run_extract(factor):
        transformer = FunctionTransformer(times, kw_args={"factor": factor})
        folder = tmp_path / str(factor)
        with parallel_config("threading", n_jobs=2):
            features = extract(transformer, rows, folder, shard_size=1)
        found[factor] = np.array_equal(features, factor * rows)

    threads = [threading.Thread(target=run_extract, args=(factor,)) for factor in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {1: True, 2: True, 3: True}


class Moved:
    """A network that only notes where it is put."""

    memory_format = None

    def __init__(self):
        self.device = None

    def to(self, device, memory_format):
        self.device = device
        return self

    def eval(self):
        return self


def test_a_network_is_not_moved_while_a_thread_computes_with_it():
    placement, network = Placement(), Moved()

    def use(device, entered):
        with placement.keep(network, device):
            entered.set()
            assert network.device == device

    same, other = threading.Event(), threading.Event()
    with placement.keep(network, "cpu"):
        threads = [
            threading.Thread(target=use, args=("cuda", other)),
            threading.Thread(target=use, args=("cpu", same)),
        ]
        for thread in threads:
            thread.start()
        assert same.wait(10)
        assert not other.wait(0.1)
        assert network.device == "cpu"
    for thread in threads:
        thread.join()
    assert other.is_set()


# Forked processes ------------------------------------------------------------------------------

FORKED = """
import multiprocessing, os, pickle, threading
import numpy as np
from joblib import Parallel, delayed, parallel_config
from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import make_shapes

images, y = make_shapes(24, random_state=0)
params = {"backbone": "small", "weights": None, "max_epochs": 1, "batch_size": 12}
extractor = CNNFeatureExtractor(random_state=0, **params).fit(images, y)
rows = extractor.transform(images)
started, may_end = threading.Event(), threading.Event()

def child():
    assert np.allclose(extractor.transform(images), rows, atol=1e-5)
    loaded = pickle.loads(pickle.dumps(extractor))
    assert np.allclose(loaded.transform(images), rows, atol=1e-5)
    assert np.allclose(extractor.fit(images, y).transform(images), rows, atol=1e-3)
    return "answered"

def by_hand():
    if os.fork():
        return os.wait()[1]
    print(child(), flush=True)
    os._exit(0)

def waiting(outputs, y):
    started.set()
    may_end.wait(60)
    return outputs.square().mean()

with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.apply(child))
with parallel_config("multiprocessing", n_jobs=2):
    print(*Parallel()(delayed(child)() for _ in range(2)))
print(by_hand(), flush=True)
thread = threading.Thread(target=CNNFeatureExtractor(loss=waiting, **params).fit, args=(images, y))
thread.start()
started.wait(60)
print(by_hand())
may_end.set()
thread.join()
"""


@needs_fork
def test_forked_children_answer_and_train():
    # They have none of the threads that torch has started in their parent. By multiprocessing, by
    # joblib, by hand, and while another thread of the parent holds the lock of all fits.
    said = run(FORKED, OMP_NUM_THREADS="2")
    assert said == ["answered"] * 4 + ["0", "answered", "0"]


def test_a_forked_child_is_told_once_to_compute_with_one_thread(monkeypatch):
    asked = []  # what the child sets itself afterwards stays
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(_devices, "_forked", True)
    for _ in range(3):
        _devices.use_one_thread_if_forked()
    assert asked == [1]


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_can_take_a_lock_that_another_thread_held():
    lock, held, done = ProcessLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if not child:  # many threads at once: the lock is one and the same for all of them
        os._exit(_count_together(lock) != 2000)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    thread.join()


def _count_together(lock):
    """Let four threads count under the lock; return how far they came."""
    sys.setswitchinterval(1e-6)
    counter = [0]

    def count():
        for _ in range(500):
            with lock, lock:  # it is reentrant
                seen = counter[0]
                counter[0] = seen + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counter[0]


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_lock_stays_with_the_thread_that_forks():
    with ProcessLock():
        child = os.fork()
    if not child:
        os._exit(0)  # here, its own lock has been given back without an error
    assert os.waitpid(child, 0)[1] == 0


# Systems without fork --------------------------------------------------------------------------

WITHOUT_FORK = """
import os, signal
import joblib, numpy, pandas, PIL, scipy, sklearn, skorch, torch, torchvision  # may look for it
for name in ("fork", "register_at_fork", "forkpty", "getuid", "fchmod", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
del signal.SIGKILL
import importlib, pkgutil, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
import sklearn_cbir
for module in pkgutil.walk_packages(sklearn_cbir.__path__, "sklearn_cbir."):
    importlib.import_module(module.name)
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.extraction import extract
from sklearn_cbir.persistence import load, save

images, y = make_shapes(24, random_state=0)
extractor = CNNFeatureExtractor(
    "small", weights=None, max_epochs=1, batch_size=12, checkpoint_dir=sys.argv[1]
)
pipeline = make_pipeline(extractor, NeighborsRetriever()).fit(images, y)
save(pipeline, sys.argv[1] + "/pipeline.cbir")
same = load(sys.argv[1] + "/pipeline.cbir").predict(images) == pipeline.predict(images)
features = extract(pipeline[:-1], images, sys.argv[1] + "/shards", shard_size=10)
print(same.all(), features.merge(sys.argv[1] + "/rows.npy").exists())
"""


def test_everything_works_where_nothing_can_be_forked(tmp_path):
    assert run(WITHOUT_FORK, str(tmp_path)) == ["True", "True"]


@pytest.mark.slow  # a spawned process imports all libraries anew
def test_a_spawned_process_answers():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows = pool.apply(FITTED["extractor"].transform, (IMAGES,))
    assert np.array_equal(rows, FITTED["extractor"].transform(IMAGES))
