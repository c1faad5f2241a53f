"""What computes vectors: the same rows by every runtime, and torch where another one cannot."""

import os
import pickle
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_cases import CASES, IMAGES, LABELS, fitted, small_extractor
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, DeepHasher, NeighborsRetriever
from sklearn_cbir._runtimes import _choice, _computed, _openvino
from sklearn_cbir.extraction import extract

pytest.importorskip("openvino")
RUNTIMES = ["torch", "openvino"]


def _rows(estimator, images, runtime):
    """Return what `transform` gives by a runtime, real numbers of a hasher."""
    asked = pickle.loads(pickle.dumps(estimator)).set_params(runtime=runtime)
    return asked.project(images) if isinstance(asked, DeepHasher) else asked.transform(images)


def _assert_alike(found, expected, tolerance=1e-5):
    lengths = np.linalg.norm(expected, axis=1)
    assert found.dtype == expected.dtype == np.float32
    assert (np.linalg.norm(found - expected, axis=1) <= tolerance * lengths).all()


@pytest.fixture
def conversions(monkeypatch):
    """Networks that were converted, with the sizes of their images."""
    seen = []

    def converted(network, size):
        seen.append(size)
        return convert(network, size)

    convert = _computed._converted
    monkeypatch.setattr(_computed, "_converted", converted)
    return seen


@pytest.mark.parametrize("name", CASES)
def test_every_runtime_gives_the_rows_of_torch(name, conversions):
    estimator = fitted(CASES[name]())
    expected = _rows(estimator, IMAGES, "torch")
    assert conversions == []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _assert_alike(_rows(estimator, IMAGES, "openvino"), expected)
    assert conversions == [IMAGES.shape[1:3]]
    # OpenVINO 2026.4 gives others for CBAM: that is noticed, and torch computes.
    assert len(told) <= ("CBAM" in name)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_row_depends_on_its_batch_by_rounding_alone(runtime):
    extractor = small_extractor(runtime=runtime)
    rows = extractor.transform(IMAGES)
    extractor.set_params(batch_size=5)
    _assert_alike(extractor.transform(IMAGES), rows, 1e-6)
    _assert_alike(extractor.transform(IMAGES[3:4]), rows[3:4], 1e-6)


@pytest.mark.parametrize(("gallery", "query"), [RUNTIMES, RUNTIMES[::-1]])
def test_queries_by_another_runtime_find_themselves_and_their_copies(gallery, query):
    extractor = small_extractor()
    twice = np.concatenate([_rows(extractor, IMAGES, gallery), _rows(extractor, IMAGES, query)])
    retriever = NeighborsRetriever(metric="cosine").fit(twice)
    queries = _rows(extractor, IMAGES, query)
    _, positions = retriever.kneighbors(queries, 2)
    n = len(IMAGES)
    np.testing.assert_array_equal(
        np.sort(positions % n, axis=1), np.arange(n)[:, None].repeat(2, 1)
    )
    alone = NeighborsRetriever(metric="cosine").fit(twice[:n])
    np.testing.assert_array_equal(alone.kneighbors(queries, 1)[1][:, 0], np.arange(n))


# From when on ----------------------------------------------------------------------------------


def test_auto_begins_with_torch_and_converts_once_it_pays(conversions, monkeypatch):
    monkeypatch.setattr(_computed, "ENOUGH", 60 * IMAGES[0, :, :, 0].size)
    extractor = small_extractor()
    assert extractor.runtime_ == "openvino"
    expected = extractor.transform(IMAGES)  # 24
    np.testing.assert_array_equal(extractor.transform(IMAGES), expected)  # 48
    assert conversions == []
    _assert_alike(extractor.transform(IMAGES), expected)  # 72
    _assert_alike(extractor.transform(IMAGES[:1]), expected[:1])
    assert len(conversions) == 1


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_few_images_are_computed_by_torch_to_the_bit(runtime, conversions):
    rows = small_extractor(runtime=runtime, random_state=0).transform(IMAGES)
    np.testing.assert_array_equal(
        rows, small_extractor(runtime="torch", random_state=0).transform(IMAGES)
    )
    assert conversions == []


def test_graphics_cards_and_rows_are_left_to_torch():
    spec = {"image_size": 32, "backbone": "small", "pooling": "auto"}
    for runtime in ("auto", "openvino"):
        assert _computed.usable(runtime, spec, torch.device("cpu")) == ("openvino", None)
        assert _computed.usable(runtime, spec, torch.device("cuda")) == ("torch", None)
    rows = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    on_rows = fitted(CNNFeatureExtractor(max_epochs=1, runtime="openvino"), rows)
    assert on_rows.runtime_ == "torch"
    assert np.isfinite(on_rows.transform(rows)).all()


def test_large_batches_are_given_to_torch_in_pieces(monkeypatch):
    extractor = small_extractor(runtime="torch", batch_size=24)
    expected = extractor.transform(IMAGES)
    sizes = []
    embed = extractor._network.embed
    monkeypatch.setattr(extractor._network, "embed", lambda x: sizes.append(len(x)) or embed(x))
    monkeypatch.setattr(_computed, "AT_ONCE", 10 * IMAGES[0, :, :, 0].size)
    _assert_alike(extractor.transform(IMAGES), expected, 1e-6)
    assert sizes == [10, 10, 4]


@pytest.mark.parametrize("runtime", ["onnx", None, 1])
def test_a_runtime_that_is_none_is_refused(runtime):
    with pytest.raises(ValueError, match="runtime="):
        fitted(CNNFeatureExtractor("small", weights=None, loss=None, runtime=runtime))
    with pytest.raises(ValueError, match="runtime="):
        small_extractor().set_params(runtime=runtime).transform(IMAGES)


# Where it cannot -------------------------------------------------------------------------------


class Deciding(nn.Module):
    """Does to the photos of a batch what their mean says."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        maps = self.layer(x)
        return maps if x.mean() > 0 else maps.abs()


def test_a_network_that_decides_by_values_is_left_to_torch_and_said_once():
    dark = IMAGES // 4
    extractor = fitted(CNNFeatureExtractor(Deciding(), weights=None, loss=None, batch_size=24))
    expected = extractor.transform(dark)
    asked = clone(extractor).set_params(runtime="openvino").fit(IMAGES)
    asked._network.load_state_dict(extractor._network.state_dict())
    with pytest.warns(
        UserWarning, match=r"cannot be converted \(its code depends on values.*test_runt"
    ):
        found = asked.transform(dark)
    np.testing.assert_array_equal(found, expected)
    assert asked.runtime_ == "torch"
    np.testing.assert_array_equal(asked.transform(dark), expected)


def test_modules_of_ones_own_are_converted_by_name_alone():
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    extractor = fitted(CNNFeatureExtractor(own, weights=None, loss=None))
    assert extractor.runtime_ == "torch"
    _assert_alike(_rows(extractor, IMAGES, "openvino"), extractor.transform(IMAGES))
    assert clone(extractor).set_params(runtime="openvino").fit(IMAGES).runtime_ == "openvino"


def test_a_graph_with_other_vectors_is_not_used(monkeypatch):
    extractor = small_extractor(runtime="torch")
    expected = extractor.transform(IMAGES)
    right = _openvino.Converted._run
    # At once, or only for one size of a batch.
    for wrong in (_openvino.N_COMPARED, len(IMAGES)):
        monkeypatch.setattr(
            _openvino.Converted,
            "_run",
            lambda self, x, n=wrong: right(self, x) + 1e-3 * (len(x) == n),
        )
        asked = pickle.loads(pickle.dumps(extractor)).set_params(runtime="openvino")
        with pytest.warns(UserWarning, match="its vectors differ from those of torch"):
            np.testing.assert_array_equal(asked.transform(IMAGES), expected)
        assert asked.runtime_ == "torch"
        asked.transform(IMAGES)  # said once, and not tried again


def test_without_the_library_torch_computes(monkeypatch):
    expected = small_extractor(runtime="torch", random_state=0).transform(IMAGES)
    saved = pickle.dumps(small_extractor(runtime="openvino", random_state=0))
    monkeypatch.setattr(_computed, "is_installed", lambda: False)
    extractor = small_extractor(random_state=0)
    assert extractor.runtime_ == "torch"
    np.testing.assert_array_equal(extractor.transform(IMAGES), expected)
    loaded = pickle.loads(saved)
    with pytest.warns(UserWarning, match=r"pip install 'sklearn-cbir\[openvino\]'"):
        np.testing.assert_array_equal(loaded.transform(IMAGES), expected)
    np.testing.assert_array_equal(loaded.transform(IMAGES), expected)  # said once
    with pytest.raises(ImportError, match="Other workers compute with OpenVINO"):
        loaded._settled(24).transform(IMAGES)


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
def test_what_is_missing_is_said_by_fit_and_once(monkeypatch):
    monkeypatch.setattr(_computed, "is_installed", lambda: False)
    extractor = CNNFeatureExtractor("small", weights=None, loss=None, runtime="openvino")
    assert not hasattr(extractor, "runtime_")
    with pytest.warns(UserWarning, match=r"pip install 'sklearn-cbir\[openvino\]'"):
        extractor.fit(IMAGES)
    before = {name: id(value) for name, value in vars(extractor).items()}
    extractor.transform(IMAGES)
    assert {name: id(value) for name, value in vars(extractor).items()} == before
    assert extractor.runtime_ == "torch"
    monkeypatch.undo()
    assert extractor.runtime_ == "openvino"


# What is saved ---------------------------------------------------------------------------------


def test_the_runtime_is_saved_and_found_anew_for_earlier_files():
    extractor = small_extractor(runtime="openvino")
    loaded = pickle.loads(pickle.dumps(extractor))
    assert (loaded.runtime, loaded.runtime_) == ("openvino", "openvino")
    _assert_alike(loaded.transform(IMAGES), extractor.transform(IMAGES))
    state = extractor.__getstate__()
    earlier = CNNFeatureExtractor.__new__(CNNFeatureExtractor)
    earlier.__setstate__({k: v for k, v in state.items() if k != "runtime"} | {"runtime_": "torch"})
    assert (earlier.runtime, earlier.runtime_) == ("auto", "openvino")
    assert "runtime_" not in vars(earlier)
    assert earlier.get_params()["runtime"] == "auto"


def test_another_runtime_continues_no_shards(tmp_path, monkeypatch):
    extractor = small_extractor()
    pipeline = make_pipeline(extractor)
    rows = np.array(extract(pipeline, IMAGES, tmp_path, shard_size=10))
    extractor.set_params(runtime="torch")  # what "auto" was for so few
    np.testing.assert_array_equal(extract(pipeline, IMAGES, tmp_path, shard_size=10), rows)
    for runtime, enough in (("openvino", _computed.ENOUGH), ("auto", 1)):
        monkeypatch.setattr(_computed, "ENOUGH", enough)
        extractor.set_params(runtime=runtime)
        with pytest.raises(
            ValueError, match=r"differs: .*\.runtime\. Only the same runtime can continue"
        ):
            extract(pipeline, IMAGES, tmp_path, shard_size=10)


def test_all_shards_are_made_by_one_runtime(tmp_path, conversions, monkeypatch):
    monkeypatch.setattr(_computed, "ENOUGH", 20 * IMAGES[0, :, :, 0].size)
    extractor = small_extractor()
    rows = np.array(extract(extractor, IMAGES, tmp_path, shard_size=5))
    np.testing.assert_array_equal(rows, _rows(extractor, IMAGES, "openvino"))
    assert len(conversions) == 2
    assert "_n_settled" not in vars(extractor)


def test_checkpoints_are_of_every_runtime(tmp_path):
    # They hold weights and no rows, and torch alone trains.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = (
            CNNFeatureExtractor(
                "small",
                weights=None,
                max_epochs=1,
                checkpoint_dir=tmp_path,
                random_state=0,
                runtime=runtime,
            ).fit(IMAGES, LABELS)
            for runtime in RUNTIMES
        )
    assert len(list(tmp_path.iterdir())) == 1
    assert first.history_ == second.history_


# Threads ---------------------------------------------------------------------------------------


def test_threads_and_two_extractors_transform_at_once():
    extractors = [small_extractor(runtime="openvino", random_state=seed) for seed in (0, 1)]
    expected = [extractor.transform(IMAGES) for extractor in extractors]
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(extractors[i % 2].transform, IMAGES) for i in range(8)]
        for i, rows in enumerate(found):
            np.testing.assert_array_equal(rows.result(), expected[i % 2])


FORKING = """
import gc, os, sys, warnings
import numpy as np, torch
from onnx_cases import IMAGES, small_extractor

extractor = small_extractor(runtime="openvino")
rows = extractor.transform(IMAGES)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = extractor.transform(IMAGES)
    assert "forked" in str(told[-1].message), told
    np.testing.assert_allclose(found, rows, rtol=1e-4, atol=1e-6)
    del extractor  # and with it what was compiled, unless that is kept
    gc.collect()
    sys.exit()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
np.testing.assert_array_equal(extractor.transform(IMAGES), rows)
"""


SIGNALLING = """
import gc, os, signal, sys, threading
import faulthandler
from onnx_cases import IMAGES, small_extractor

faulthandler.enable()  # it has a stack for signals, as Python's own handlers ask for
extractors = [small_extractor(runtime="openvino")]
extractors[0].transform(IMAGES)
freeing = threading.Thread(target=lambda: (extractors.clear(), gc.collect()))
freeing.start()
freeing.join()
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(True))
os.kill(os.getpid(), signal.SIGUSR1)
assert heard == [True]
"""


def run_alone(script):
    """Run a script in a process of its own, which has to end well."""
    places = [str(Path(__file__).parent), *sys.path]
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-W", "ignore", "-c", script]
    ended = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal here")
def test_signals_are_heard_after_a_graph_was_freed_by_another_thread():
    run_alone(SIGNALLING)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_torch_computes_in_a_forked_child_of_one_that_has_used_openvino():
    run_alone(FORKING)


def test_the_names_are_those_of_the_type():
    assert _choice.check_runtime.keywords["options"] == ("auto", "torch", "openvino")
