"""Parameters of the wrong kind are named, wherever they are read."""

import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from sklearn_cbir import (
    CNNFeatureExtractor,
    CPFEmbedder,
    DeepHasher,
    NeighborsRetriever,
    hashing,
    metrics,
)
from sklearn_cbir.datasets import load_image_folder, load_svhn, make_shapes
from sklearn_cbir.hashing import CCAITQHasher, LSHHasher
from sklearn_cbir.losses import LRMLLoss, SquaredHingeLoss
from sklearn_cbir.model_selection import ClassDisjointKFold

X, y = make_blobs(24, 4, centers=4, random_state=0)
QUICK = {"max_epochs": 1, "batch_size": 8, "random_state": 0}
ESTIMATORS = {
    "extractor": CNNFeatureExtractor(**QUICK),
    "hasher": DeepHasher(8, **QUICK),
    "embedder": CPFEmbedder(8, threshold_fraction=0, **QUICK),
}


def raises(parameter, value):
    return pytest.raises(ValueError, match=re.escape(f"{parameter}={value!r}"))


def fresh(name, **params):
    estimator = ESTIMATORS[name]
    return type(estimator)(**estimator.get_params() | params)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("batch_size", 0),
        ("batch_size", "32"),
        ("batch_size", -3),
        ("batch_size", 2.5),
        ("batch_size", None),
        ("batch_size", True),
        ("verbose", None),
        ("verbose", "yes"),
        ("verbose", -1),
        ("device", None),
        ("device", 3),
        ("device", "tpu9"),
        ("device", "cuda:77"),
        ("device", "meta"),
        ("device", torch.device("meta")),
        ("device", "mps:5"),
        ("device", "xpu:9"),
    ],
    ids=str,
)
def test_parameters_that_transform_reads_are_checked_like_in_fit(name, parameter, value):
    with raises(parameter, value):
        fresh(name, **{parameter: value}).fit(X, y)
    fitted = fresh(name).fit(X, y)
    expected = fitted.transform(X)
    fitted.set_params(**{parameter: value})
    with raises(parameter, value):
        fitted.transform(X)
    if hasattr(fitted, "project"):
        with raises(parameter, value):
            fitted.project(X)
    fitted.set_params(batch_size=np.int64(3), verbose=False, device=torch.device("cpu"))
    np.testing.assert_allclose(fitted.transform(X), expected, atol=1e-6)


def test_a_device_that_is_not_there_names_the_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fitted = fresh("extractor").fit(X, y).set_params(device="cuda:77")
    with pytest.raises(ValueError, match=r"device='cuda:77' cannot be .*set_params\(device='auto'"):
        fitted.transform(X)
    assert len(fitted.set_params(device="auto").transform(X)) == len(X)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("autocast", "float16"),
        ("autocast", 1),
        ("early_stopping", "yes"),
        ("early_stopping", None),
        ("checkpoint_dir", 3),
        ("image_size", "32"),
        ("augment", 3),
        ("max_epochs", "5"),
        ("head_epochs", -1),
        ("num_workers", None),
        ("num_workers", 1.0),
        ("lr", None),
        ("lr", float("nan")),
        ("mean", (123.7, 116.3, 103.5)),
        ("mean", -0.5),
        ("std", (58.4, 57.1, 57.4)),
        ("std", 1e-300),
        ("trunk_lr", "auto"),
        ("weight_decay", float("inf")),
        ("tol", None),
        ("validation_fraction", 10**20),
        ("sampling", None),
        ("schedule", 1),
        ("optimizer", 1),
        ("pool_size", 0),
        ("n_iter_no_change", 0),
    ],
    ids=str,
)
def test_a_parameter_of_the_wrong_kind_is_named_by_fit(name, parameter, value):
    with raises(parameter, value):
        fresh(name, **{parameter: value}).fit(X, y)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("rate", [1e38, 1e300, 10**400], ids=["1e38", "1e300", "integer"])
def test_a_rate_too_large_for_float32_stops_the_training(optimizer, rate):
    for name in ("lr", "trunk_lr"):
        with pytest.raises(FloatingPointError, match="at epoch 1, batch .*, learning rate"):
            fresh("extractor", optimizer=optimizer, **{name: rate}).fit(X, y)


def test_integers_too_large_for_floats_are_no_numbers():
    for name in ("weight_decay", "tol"):
        with pytest.raises(ValueError, match=f"{name}=1000.* must be a finite number of at least"):
            fresh("extractor", **{name: 10**400}).fit(X, y)
    with pytest.raises(ValueError, match="lr=-1000.* must be a positive number"):
        fresh("extractor", lr=-(10**400)).fit(X, y)


def test_a_decay_may_be_an_integer_too_large_for_64_bits():
    with pytest.raises(FloatingPointError, match="at epoch 1"):
        fresh("extractor", weight_decay=10**60).fit(X, y)


@pytest.mark.parametrize("n", [10**20, 10**15])
def test_layers_too_large_for_any_memory_are_an_error_that_names_both_sides(n):
    with pytest.raises(ValueError, match=f"from 256 to {n} numbers cannot be made"):
        CNNFeatureExtractor(loss="contrastive", n_components=n, **QUICK).fit(X, y)
    with pytest.raises(ValueError, match=f"from 256 to {n} numbers cannot be made.*fewer bits"):
        DeepHasher(n, **QUICK).fit(X, y)


def test_normalize_is_a_switch():
    for value in ("l1", None, 1):
        with raises("normalize", value):
            CNNFeatureExtractor(normalize=value).fit(X, y)
    length = np.linalg.norm(fresh("extractor", normalize=np.True_).fit_transform(X, y), axis=1)
    assert np.allclose(length, 1, atol=1e-5)


def test_a_file_is_no_folder_of_checkpoints(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="checkpoint_dir='.*file' is a file"):
        fresh("extractor", checkpoint_dir=tmp_path / "file").fit(X, y)


def test_scales_set_after_fit_are_checked_before_images_are_read():
    fitted = fresh("extractor").fit(X, y).set_params(scales="half")
    with raises("scales", "half"):
        fitted.transform(["not there.jpg"])
    with raises("scales", b"half"):
        fitted.set_params(scales=b"half").transform(["not there.jpg"])


SWITCHES = {
    "per_query": lambda on: metrics.mean_average_precision([0], [0, 1], [[1, 2]], per_query=on),
    "per_query ": lambda on: metrics.threshold_f1([0], [0, 1], [[1, 2]], radius=1, per_query=on),
    "scale": lambda on: CCAITQHasher(2, scale=on).fit(X, y),
    "center": lambda on: LSHHasher(2, center=on).fit(X),
    "orthogonal": lambda on: LSHHasher(2, orthogonal=on).fit(X),
    "one_per_class": lambda on: LRMLLoss(one_per_class=on),
    "shuffle": lambda on: list(ClassDisjointKFold(2, shuffle=on).split(X, y)),
    "shuffle ": lambda on: load_image_folder("no folder", shuffle=on),
    "labels": lambda on: load_image_folder("no folder", labels=on),
    "multilabel": lambda on: make_shapes(4, multilabel=on),
    "extra": lambda on: load_svhn("no folder", extra=on),
    "return_distance": lambda on: NeighborsRetriever(2).fit(X).kneighbors(X, return_distance=on),
    "sort_results": lambda on: (
        NeighborsRetriever().fit(X).radius_neighbors(X, 0.1, sort_results=on)
    ),
}


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["no", None, 0, np.zeros(2)], ids=str)
def test_switches_are_true_or_false(name, value):
    with pytest.raises(ValueError, match=rf"{name.strip()}=.* must be True or False"):
        SWITCHES[name](value)


HASHERS = {
    "LSHHasher": {},
    "SpectralHasher": {},
    "ITQHasher": {},
    "CCAITQHasher": {},
    "BREHasher": {"kernel": "linear"},
    "KSHHasher": {},
    "MLHHasher": {"max_epochs": 1},
}


@pytest.mark.parametrize("name", HASHERS)
def test_parameters_set_after_fit_change_no_code_and_no_name(name):
    hasher = getattr(hashing, name)(3, **HASHERS[name]).fit(X, y)
    codes, names = hasher.project(X), list(hasher.get_feature_names_out())
    assert len(names) == codes.shape[1] == 3
    values = ["text", None, 7]
    for parameter in hasher.get_params():
        for value in values:
            changed = pickle.loads(pickle.dumps(hasher)).set_params(**{parameter: value})
            np.testing.assert_array_equal(changed.project(X), codes)
            assert list(changed.get_feature_names_out()) == names


@pytest.mark.parametrize("value", ["text", None, 0, [1]], ids=str)
@pytest.mark.parametrize("rerank", [None, "query_expansion"])
def test_what_the_retriever_reads_after_fit_is_checked(value, rerank):
    retriever = NeighborsRetriever(3, rerank=rerank).fit(X, y)
    for parameter in ("rerank_depth", "verbose"):
        changed = pickle.loads(pickle.dumps(retriever)).set_params(**{parameter: value})
        if (parameter, value) == ("verbose", 0):
            continue
        with raises(parameter, value):
            changed.score(X + 0.5, y)


LARGE = list(range(30_000))
PAIR = [0, 1], [0, 1], np.zeros((2, 2))


@pytest.mark.parametrize(
    "act",
    [
        lambda: fresh("extractor", device=LARGE).fit(X, y),
        lambda: fresh("extractor", checkpoint_dir=LARGE).fit(X, y),
        lambda: SquaredHingeLoss(class_weight=[*LARGE, -1]),
        lambda: metrics.threshold_f1_curve(*PAIR, radii=[*LARGE, np.inf]),
        lambda: NeighborsRetriever(metric="hamming", rerank=LARGE).fit(X, y).kneighbors(X),
        lambda: NeighborsRetriever(rerank=lambda *_, **__: str(LARGE)).fit(X, y).kneighbors(X),
        lambda: NeighborsRetriever(uri=str(LARGE)).fit(X, y),
        lambda: ClassDisjointKFold(random_state=str(LARGE)).split(X, y).send(None),
        lambda: next(ClassDisjointKFold(2).split(X, [str(LARGE)] * len(X))),
    ],
)
def test_no_message_prints_a_large_value(act):
    with pytest.raises((ValueError, TypeError)) as raised:
        act()
    assert len(str(raised.value)) < 600
