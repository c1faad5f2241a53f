"""Shards on disk: the rows of transform, whatever was killed, and by whomever they were made."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer

from sklearn_cbir import CNNFeatureExtractor, DeepHasher, NeighborsRetriever
from sklearn_cbir._fingerprint import fingerprint, fitted_parts
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.extraction import FeatureShards, _shards, _source, _work, extract, load_features
from sklearn_cbir.images import ImageReadError, check_images

IMAGES, LABELS = make_shapes(22, random_state=0)
ROWS = np.random.default_rng(0).normal(size=(10, 3))


def extractor(**params):
    defaults = {"weights": None, "max_epochs": 1, "image_size": 32, "random_state": 0}
    return CNNFeatureExtractor("small", **defaults | params)


@pytest.fixture(scope="module")
def fitted():
    return extractor(batch_size=8).fit(IMAGES, LABELS)


@pytest.fixture(scope="module")
def hasher():
    return DeepHasher(n_bits=12, max_epochs=1, random_state=0).fit(IMAGES, LABELS)


@pytest.fixture
def paths(tmp_path):
    """Files of the images, which a test may damage."""
    (tmp_path / "photos").mkdir()
    found = [tmp_path / "photos" / f"{i:02d}.png" for i in range(len(IMAGES))]
    for path, image in zip(found, IMAGES):
        Image.fromarray(image).save(path)
    return [str(path) for path in found]


def forbid(X):
    raise AssertionError("nothing is left to transform")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, pd.Series, check_images, lambda x: pd.DataFrame({"path": x})]
)
def test_shards_of_paths_are_the_rows_of_transform(fitted, paths, tmp_path, kind):
    features = extract(fitted, kind(paths), tmp_path / "out", shard_size=8)
    expected = fitted.transform(paths)
    assert [np.load(path).shape[0] for path in features.shards] == [8, 8, 6]
    assert features.load().tobytes() == expected.tobytes()
    assert features.shape == expected.shape == (len(features), 256)
    assert features.dtype == np.float32
    assert features.positions.tolist() == list(range(22))
    assert features.ids.tolist() == paths
    assert features.skipped == {}


def test_shards_of_arrays_hold_codes(hasher, tmp_path):
    features = extract(hasher, IMAGES, tmp_path / "out", shard_size=5)
    assert features.dtype == np.uint8
    assert np.array_equal(features, hasher.transform(IMAGES))
    assert features.ids.tolist() == list(range(22))


def test_shards_of_pil_images(fitted, tmp_path):
    pictures = [Image.fromarray(image) for image in IMAGES]
    features = extract(fitted, pictures, tmp_path / "out", shard_size=8)
    assert np.array_equal(features, fitted.transform(pictures))


@pytest.mark.parametrize("kind", [np.array, pd.DataFrame])
def test_shards_of_rows(tmp_path, kind):
    features = extract(Normalizer(), kind(ROWS), tmp_path / "out", shard_size=4)
    np.testing.assert_allclose(features, Normalizer().fit_transform(ROWS), rtol=1e-15)


@pytest.mark.parametrize("kind", [sparse.coo_array, sparse.csr_matrix])
def test_shards_of_sparse_rows(tmp_path, kind):
    dense = FunctionTransformer(lambda X: X.toarray(), accept_sparse=True)
    for _ in range(2):  # the second call knows them again
        features = extract(dense, kind(ROWS), tmp_path / "out", shard_size=4)
        assert np.array_equal(features, ROWS)


def test_an_estimator_takes_shards_as_rows(fitted, tmp_path):
    features = extract(fitted, IMAGES, tmp_path / "out", shard_size=8)
    a = NeighborsRetriever(3).fit(features, ids=features.ids)
    b = NeighborsRetriever(3).fit(fitted.transform(IMAGES))
    assert np.array_equal(a.predict(features), b.predict(features))
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(features, copy=False)


def test_the_folder_is_opened_without_the_estimator(fitted, paths, tmp_path):
    made = extract(fitted, paths, tmp_path / "out", shard_size=8)
    found = load_features(str(tmp_path / "out"))
    assert isinstance(found, FeatureShards)
    assert repr(found) == repr(made) == "FeatureShards(22 rows x 256, float32, 3 shards)"
    assert np.array_equal(found, made)
    assert found.ids.tolist() == paths


def test_opening_the_folder_loads_no_torch():
    program = "import sys; from sklearn_cbir.extraction import load_features; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "torch" not in done.stdout.split()


@pytest.mark.parametrize("shard_size", [1, 4, 22, 100])
def test_merged_shards_are_one_file_that_is_mapped(hasher, tmp_path, shard_size):
    features = extract(hasher, IMAGES, tmp_path / "out", shard_size=shard_size)
    path = features.merge(tmp_path / "gallery.npy")
    gallery = np.load(path, mmap_mode="r")
    assert isinstance(gallery, np.memmap)
    assert gallery.dtype == np.uint8
    assert np.array_equal(gallery, hasher.transform(IMAGES))


def test_merging_holds_one_shard_at_a_time(tmp_path):
    rows = np.random.default_rng(0).normal(size=(64, 2000))
    features = extract(Normalizer(), rows, tmp_path / "out", shard_size=4)
    tracemalloc.start()
    features.merge(tmp_path / "gallery.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 4 * 2000 * 8 < rows.nbytes / 5


def test_a_progress_bar_counts_images(fitted, tmp_path, capfd):
    extract(fitted, IMAGES, tmp_path / "out", shard_size=8, verbose=1)
    assert "Extracting" in capfd.readouterr().err


# Going on --------------------------------------------------------------------------------------


def counting(rows):
    """Rows as they are; the environment says where to be interrupted."""
    if float(os.environ.get("INTERRUPT_AT", "nan")) in rows[:, 0]:
        raise KeyboardInterrupt
    return rows


def test_an_interrupted_call_goes_on_where_it_was(tmp_path, monkeypatch):
    rows = np.arange(20.0).reshape(10, 2)
    monkeypatch.setenv("INTERRUPT_AT", "8.0")
    with pytest.raises(KeyboardInterrupt):
        extract(FunctionTransformer(counting), rows, tmp_path, shard_size=2)
    assert sorted(contents(tmp_path)) == [
        "manifest.json",
        *[f"shard-0000{i}.{kind}" for i in (0, 1) for kind in ("json", "npy")],
    ]
    with pytest.raises(ValueError, match=r"is not complete: 2 of 5 shards are finished"):
        load_features(tmp_path)
    monkeypatch.setenv("INTERRUPT_AT", "0.0")  # the first shard is not done again
    assert np.array_equal(
        extract(FunctionTransformer(counting), rows, tmp_path, shard_size=2), rows
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_at_any_write_leaves_whole_shards(tmp_path):
    # The n-th file that is flushed kills the process, for n = 1, 2, ... until one gets through.
    program = """
import itertools, os, signal, stat, sys
from pathlib import Path
import numpy as np
import sklearn_cbir._fingerprint
from sklearn.preprocessing import Normalizer
from sklearn_cbir.extraction import extract, load_features

rows = np.random.default_rng(0).normal(size=(7, 3))
flush = os.fsync

def kill_at(n):
    calls = itertools.count(1)
    def fsync(file):
        is_folder = stat.S_ISDIR(os.fstat(file).st_mode)
        if not is_folder and next(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(file)
    return fsync

for n in itertools.count(1):
    folder = Path(sys.argv[1], str(n))
    child = os.fork()
    if not child:
        os.fsync = kill_at(n)
        extract(Normalizer(), rows, folder, shard_size=3)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    for path in folder.glob("shard-*.npy"):
        assert len(np.load(path)) == (1 if path.name == "shard-00002.npy" else 3)
    if status:
        assert list(folder.glob(".*.part"))
        assert not list(folder.glob("shard-00002.npy")) or n == 9
    features = extract(Normalizer(), rows, folder, shard_size=3)
    assert np.array_equal(features, Normalizer().fit_transform(rows))
    assert np.array_equal(load_features(folder), features)
    assert not list(folder.glob(".*"))
    if not status:
        break
print(n)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    # Manifest, estimator, description and rows of three shards, manifest again: 9 writes.
    assert (done.stdout.strip(), done.stderr) == ("10", "")


@pytest.mark.parametrize("change", ["none", "refit", "reload", "map", "place"])
def test_the_same_estimator_is_known_again(fitted, tmp_path, change, monkeypatch):
    images = IMAGES[:8]
    extract(fitted, images, tmp_path / "out", shard_size=4)
    joblib.dump(fitted, tmp_path / "extractor.joblib")
    if change == "refit":
        fitted = extractor(batch_size=8).fit(IMAGES, LABELS)
    if change in ("reload", "map"):
        mode = "r" if change == "map" else None
        fitted = joblib.load(tmp_path / "extractor.joblib", mmap_mode=mode)
    if change == "place":
        fitted = joblib.load(tmp_path / "extractor.joblib").set_params(device="cpu", verbose=0)
    monkeypatch.setattr(CNNFeatureExtractor, "transform", lambda self, X: forbid(X))
    extract(fitted, images.copy(), tmp_path / "out", shard_size=4)


def test_networks_and_functions_of_the_users_own_are_known_again():
    def estimator(width=4, shift=0.0):
        module = torch.nn.Linear(width, 2)
        torch.nn.init.constant_(module.weight, 1 + shift)
        torch.nn.init.constant_(module.bias, 0)
        return make_pipeline(
            FunctionTransformer(lambda X: X + width, kw_args={"net": module}), PCA(2)
        )

    keys = [fingerprint(fitted_parts(estimator(*args))) for args in [(), (), (5,), (4, 0.5)]]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


# Refusals --------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused_and_left_alone(fitted, paths, tmp_path):
    folder = tmp_path / "out"
    extract(fitted, paths, folder, shard_size=8)
    before = contents(folder)
    other = extractor(batch_size=8, random_state=1).fit(IMAGES, LABELS)
    larger = extractor(batch_size=16).fit(IMAGES, LABELS)
    for arguments, what in [
        ((other, paths, folder, 8), "another estimator or other parameters"),
        ((larger, paths, folder, 8), "another estimator or other parameters"),
        ((fitted, paths[::-1], folder, 8), "other images"),
        ((fitted, paths[:-1], folder, 8), "other images"),
        ((fitted, IMAGES, folder, 8), "other images"),
        ((fitted, paths, folder, 4), "another shard_size"),
    ]:
        with pytest.raises(ValueError, match=f"out' holds shards of {what}. Use another folder"):
            extract(*arguments[:3], shard_size=arguments[3])
    assert contents(folder) == before


def test_other_pixels_are_other_images(hasher, tmp_path):
    extract(hasher, IMAGES, tmp_path / "out")
    changed = IMAGES.copy()
    changed[21, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="other images"):
        extract(hasher, changed, tmp_path / "out")


def test_a_file_that_changed_after_its_shard_is_named(fitted, paths, tmp_path):
    features = extract(fitted, paths, tmp_path / "out", shard_size=8)
    Image.fromarray(IMAGES[0]).resize((40, 40)).save(paths[9])
    with pytest.raises(ValueError, match=r"09.png' has changed since .*shard-00001.npy' was"):
        extract(fitted, paths, tmp_path / "out", shard_size=8)
    features.shards[1].unlink()  # the way out that the message names
    features = extract(fitted, paths, tmp_path / "out", shard_size=8)
    assert np.array_equal(features, fitted.transform(paths))


def test_a_file_repaired_before_its_shard_is_no_change(fitted, paths, tmp_path):
    Path(paths[20]).write_bytes(b"no image")
    with pytest.raises(ImageReadError):
        extract(fitted, paths, tmp_path / "out", shard_size=8)
    Image.fromarray(IMAGES[20]).save(paths[20])
    features = extract(fitted, paths, tmp_path / "out", shard_size=8)
    assert np.array_equal(features, fitted.transform(paths))


@pytest.mark.parametrize("damage", ["truncate", "replace", "empty"])
def test_a_damaged_shard_is_named(fitted, tmp_path, damage):
    features = extract(fitted, IMAGES, tmp_path / "out", shard_size=8)
    if damage == "replace":
        np.save(features.shards[1], np.zeros((8, 3), dtype=np.float32))
    else:
        size = 0 if damage == "empty" else features.shards[1].stat().st_size // 2
        os.truncate(features.shards[1], size)
    with pytest.raises(ValueError, match=r"shard-00001.npy' has changed since it was written"):
        features.load()
    with pytest.raises(ValueError, match=r"shard-00001.npy' has changed since it was written"):
        features.merge(tmp_path / "gallery.npy")
    assert not (tmp_path / "gallery.npy").exists()
    features.shards[1].unlink()
    with pytest.raises(ValueError, match=r"2 of 3 shards are finished. Call extract again"):
        load_features(tmp_path / "out")


def test_a_shard_of_other_length_is_not_taken_for_whole(tmp_path):
    features = extract(Normalizer(), ROWS, tmp_path, shard_size=4)
    np.save(features.shards[1], ROWS[:1])
    with pytest.raises(ValueError, match=r"shard-00001.npy' has changed since it was written"):
        extract(Normalizer(), ROWS, tmp_path, shard_size=4)


def test_files_of_the_user_stay(tmp_path):
    mine, left = tmp_path / ".mine.part", tmp_path / ".manifest.json.1.2.part"
    for path in (mine, left):
        path.touch()
    extract(Normalizer(), ROWS, tmp_path)
    assert mine.exists()
    assert not left.exists()


def test_folders_that_are_not_of_extract(fitted, tmp_path):
    with pytest.raises(ValueError, match=r"holds no manifest.json"):
        load_features(tmp_path)
    np.save(tmp_path / "shard-00000.npy", np.eye(3))
    with pytest.raises(ValueError, match=r"holds shards but no manifest.json. Use another"):
        extract(fitted, IMAGES, tmp_path)
    for text in ("[]", '{"format": 1, "name": "of something else"}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"manifest.json' was not written by extract"):
            load_features(tmp_path)
        with pytest.raises(ValueError, match=r"manifest.json' was not written by extract"):
            extract(fitted, IMAGES, tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": _shards.FORMAT + 1}))
    with pytest.raises(ValueError, match=r"reads up to 1. Install a newer version"):
        extract(fitted, IMAGES, tmp_path)


@pytest.mark.parametrize(
    ("estimator", "X", "message"),
    [
        (NeighborsRetriever, ROWS, "not fitted"),
        (object, ROWS, "has no transform"),
        (Normalizer, ROWS[:0], "0 sample"),
        (Normalizer, "photo.jpg", "wrap it in a list"),
        (lambda: NeighborsRetriever(2).fit(ROWS), ROWS, "pass pipeline\\[:-1\\]"),
        (lambda: FunctionTransformer(lambda X: X[:, 0]), ROWS, r"float64 of shape \(10,\) for 10"),
        (lambda: FunctionTransformer(lambda X: X[:3]), ROWS, r"shape \(3, 3\) for 10 images"),
        (lambda: FunctionTransformer(lambda X: X.astype(str)), ROWS, "one row of numbers"),
    ],
)
def test_what_cannot_be_extracted_is_refused(tmp_path, estimator, X, message):
    with pytest.raises((ValueError, NotFittedError), match=message):
        extract(estimator(), X, tmp_path)
    assert not list(tmp_path.glob("shard-*"))


@pytest.mark.parametrize(
    ("name", "value"), [("shard_size", 0), ("shard_size", 2.0), ("on_error", "ignore")]
)
def test_bad_parameters_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        extract(Normalizer(), ROWS, tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


def test_images_that_are_no_files_are_extracted(hasher, tmp_path):
    features = extract(hasher, check_images(IMAGES), tmp_path, shard_size=8)
    np.testing.assert_array_equal(features.load(), hasher.transform(IMAGES))
    with pytest.raises(ValueError, match="other images"):
        extract(hasher, check_images(IMAGES[::-1]), tmp_path, shard_size=8)


def test_shards_of_different_width_are_refused(tmp_path):
    growing = FunctionTransformer(lambda X: X[:, : 1 + int(X[0, 0])])
    with pytest.raises(ValueError, match=r"<f8 of width 1 in .*00000.npy', <f8 of width 2 in"):
        extract(growing, np.tile(np.arange(2.0)[:, None], 3), tmp_path, shard_size=1)


# Images that cannot be read --------------------------------------------------------------------


SKIPPED = (
    "3 of 22 images have no row, because they cannot be read: 1 x not an image that can be read; "
)


def damage(paths):
    """Three faults: no image, truncated behind a good header, no file."""
    Path(paths[3]).write_bytes(b"no image")
    os.truncate(paths[9], os.path.getsize(paths[9]) // 2)
    os.remove(paths[11])


def test_an_image_that_cannot_be_read_is_named(fitted, paths, tmp_path):
    damage(paths)
    with pytest.raises(ImageReadError, match=r"^X\[3\] .*03.png': not an image") as caught:
        extract(fitted, paths, tmp_path / "out", shard_size=8)
    assert (caught.value.index, caught.value.path) == (3, paths[3])
    Image.fromarray(IMAGES[3]).save(paths[3])
    with pytest.raises(
        ImageReadError,
        match=r"^X\[9\] .*09.png': truncated .* 1 more cannot be read: X\[11\].*on_error=",
    ) as caught:
        extract(fitted, paths, tmp_path / "out", shard_size=8)
    assert (caught.value.index, caught.value.path) == (9, paths[9])
    assert (tmp_path / "out" / "shard-00000.npy").exists()


def test_skipped_images_have_no_row(fitted, paths, tmp_path):
    expected = fitted.transform(paths)
    damage(paths)
    with pytest.warns(UserWarning, match=SKIPPED):
        features = extract(fitted, paths, tmp_path / "out", shard_size=8, on_error="skip")
    kept = [i for i in range(22) if i not in (3, 9, 11)]
    assert features.positions.tolist() == kept
    assert features.ids.tolist() == [paths[i] for i in kept]
    np.testing.assert_allclose(features, expected[kept], atol=1e-6)
    assert list(features.skipped) == [3, 9, 11]
    assert features.skipped[11].startswith(f"X[11] {paths[11]!r}: the file does not exist")
    assert load_features(tmp_path / "out").skipped == features.skipped
    with pytest.raises(ImageReadError, match=r"X\[3\] .* An earlier call has skipped it"):
        extract(fitted, paths, tmp_path / "out", shard_size=8)


def test_whole_shards_may_be_skipped(fitted, paths, tmp_path):
    damage(paths)
    with pytest.warns(UserWarning, match="3 of 12 images have no row"):
        features = extract(fitted, paths[:12], tmp_path / "out", shard_size=1, on_error="skip")
    assert features.shape == (9, 256)
    assert len(np.load(features.merge(tmp_path / "gallery.npy"), mmap_mode="r")) == 9


def test_nothing_readable_is_an_error(fitted, paths, tmp_path):
    damage(paths)
    with pytest.raises(ImageReadError, match=r"None of 2 images can be read. X\[0\]"):
        extract(fitted, [paths[3], paths[11]], tmp_path / "out", on_error="skip")


# Many processes --------------------------------------------------------------------------------


def task_of(folder, number=0):
    """A task as another process receives it, and the pickle that it names."""
    pickled = pickle.dumps(Normalizer())
    path = folder / "estimator"
    path.write_bytes(pickled)
    source = _source.Source(ROWS, 4)
    key = hashlib.sha256(pickled).hexdigest()
    look = _shards.Shard(folder, number).look(source)
    return _work.Task(look, source, path, key, "raise")


def test_a_worker_loads_the_estimator_once(tmp_path, monkeypatch):
    loads, real = [], pickle.loads
    monkeypatch.setattr(_work.pickle, "loads", lambda data: loads.append(1) or real(data))
    monkeypatch.setattr(_work, "_LOADED", {})
    written = [_work._write_shard(task_of(tmp_path, number)) for number in range(3)]
    assert written == [(4, 0), (4, 0), (2, 0)]
    assert len(loads) == 1


def test_a_worker_loads_no_other_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr(_work, "_LOADED", {})
    task = task_of(tmp_path)
    task.estimator_path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ValueError, match="estimator' has changed since it was written"):
        _work._write_shard(task)


def test_processes_write_the_same_bits(tmp_path):
    def whoami(X):
        return np.column_stack([Normalizer().fit_transform(X), np.full(len(X), os.getpid())])

    found = extract(FunctionTransformer(whoami), ROWS, tmp_path, shard_size=1, n_jobs=2).load()
    assert np.array_equal(found[:, :3], Normalizer().fit_transform(ROWS))
    assert os.getpid() not in found[:, 3]


@pytest.fixture(scope="module")
def dask():
    """A real cluster: a scheduler and two worker processes, over loopback."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        yield


def test_dask_extracts_the_same_bits(fitted, paths, tmp_path, dask):
    damage(paths)
    with pytest.warns(UserWarning, match=SKIPPED):
        features = extract(fitted, paths, tmp_path / "dask", shard_size=8, on_error="skip")
    with (
        joblib.parallel_config(backend="sequential"),
        pytest.warns(UserWarning, match=SKIPPED),
    ):
        alone = extract(fitted, paths, tmp_path / "alone", shard_size=8, on_error="skip")
    assert contents(features.folder) == contents(alone.folder)
    with pytest.raises(ImageReadError, match=r"^X\[(3|9)\] .*0\1.png'") as caught:
        extract(fitted, paths, tmp_path / "other", shard_size=8)
    # Each shard has a fault: the one that a worker meets first is told.
    assert caught.value.path == paths[caught.value.index]


def test_dask_goes_on_without_a_worker_that_died(tmp_path, dask):
    flag = str(tmp_path / "died")

    def once_fatal(X):
        if X[0, 0] == 5 and not os.path.exists(flag):
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        whoami = np.full((len(X), 2), [os.getpid(), torch.get_num_threads()])
        return np.column_stack([X, whoami])

    rows = np.arange(16.0)[:, None]
    found = extract(FunctionTransformer(once_fatal), rows, tmp_path / "out", shard_size=1).load()
    assert os.path.exists(flag)
    assert np.array_equal(found[:, :1], rows)
    assert os.getpid() not in found[:, 1]
    assert set(found[:, 2]) == {1}


def test_grids_and_scores_under_dask_are_those_without(dask):
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    images, y = make_shapes(40, n_classes=2, random_state=0)
    features = make_pipeline(extractor(), NeighborsRetriever(3))
    codes = make_pipeline(
        DeepHasher(max_epochs=1, random_state=0), NeighborsRetriever(3, metric="hamming")
    )

    def results():
        grid = {"cnnfeatureextractor__n_components": [8, 16]}
        search = GridSearchCV(features, grid, cv=folds).fit(images, y)
        scores = cross_val_score(codes, images, y, cv=folds)
        return search.cv_results_["mean_test_score"], scores, search.predict(images)

    under_dask = results()
    with joblib.parallel_config(backend="sequential"):
        alone = results()
    for one, other in zip(under_dask, alone):
        assert np.array_equal(one, other)
