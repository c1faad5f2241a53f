"""scikit-learn's own checks on 2-D rows, counted, and that they met estimators that train."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import estimator_checks_generator

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever

FEW_CLASSES = "ignore:CPFEmbedder got .* classes"
ESTIMATORS = {
    "CNNFeatureExtractor": CNNFeatureExtractor(max_epochs=2, random_state=0),
    "DeepHasher": DeepHasher(n_bits=8, max_epochs=2, random_state=0),
    "DeepHasher, csq": DeepHasher(n_bits=8, loss="csq", max_epochs=2, random_state=0),
    "CPFEmbedder": CPFEmbedder(n_components=8, max_epochs=2, random_state=0),
    "NeighborsRetriever": NeighborsRetriever(n_neighbors=1),
}


def _checks(estimator):
    with warnings.catch_warnings():
        # The array-API check skips itself where array-api-compat is missing.
        warnings.simplefilter("ignore")
        return list(estimator_checks_generator(estimator, legacy=True))


def _name(check):
    return getattr(check, "func", check).__name__


def _marks(name, check):
    """Say which checks fail, by the nature of what is checked."""
    if "equivalence" in _name(check) and name != "NeighborsRetriever":
        return pytest.mark.xfail(strict=True, reason="other batches, as of SGD in MLPClassifier")
    if "sample_weight" in _name(check) and name == "DeepHasher":
        return pytest.mark.xfail(strict=True, reason="its loss compares rows, and refuses weights")
    return ()


CASES = [
    pytest.param(estimator, check, id=f"{name}-{_name(check)}", marks=_marks(name, check))
    for name, estimator in ESTIMATORS.items()
    for estimator, check in _checks(estimator)
]


@pytest.mark.filterwarnings(FEW_CLASSES)
@pytest.mark.parametrize(("estimator", "check"), CASES)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_at_least_40_checks_run_and_pass(name):
    passing = [check for _, check in _checks(ESTIMATORS[name]) if not _marks(name, check)]
    assert len(passing) >= 40


@pytest.mark.parametrize("name", ["CNNFeatureExtractor", "DeepHasher", "CPFEmbedder"])
def test_fit_on_rows_changes_the_weights(name):
    X, y = make_blobs(60, 5, centers=4, random_state=0)
    estimator = clone(ESTIMATORS[name])
    barely = clone(estimator).set_params(lr=1e-12, max_epochs=1).fit(X, y)
    trained = clone(estimator).set_params(lr=1e-2, max_epochs=5).fit(X, y)
    start, end = (e._network_state["weights"] for e in (barely, trained))
    assert start.keys() == end.keys()
    moved = [np.abs(end[key] - start[key]).max() for key in start if key.endswith("weight")]
    assert min(moved) > 1e-3
    assert trained.history_[-1]["loss"] < trained.history_[0]["loss"]
