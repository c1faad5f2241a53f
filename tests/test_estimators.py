"""scikit-learn's own checks on 2-D rows, counted, and that they met estimators that train."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import estimator_checks_generator

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever
from sklearn_cbir.duplicates import NearDuplicates

FEW_CLASSES = "ignore:CPFEmbedder got .* classes"
ESTIMATORS = {
    "CNNFeatureExtractor": CNNFeatureExtractor(max_epochs=2, random_state=0),
    "DeepHasher": DeepHasher(n_bits=8, max_epochs=2, random_state=0),
    "DeepHasher, csq": DeepHasher(n_bits=8, loss="csq", max_epochs=2, random_state=0),
    "CPFEmbedder": CPFEmbedder(n_components=8, max_epochs=2, random_state=0),
    "NeighborsRetriever": NeighborsRetriever(n_neighbors=1),
    "NearDuplicates": NearDuplicates(radius=1.0, metric="euclidean"),
}


REFUSED = "its loss compares rows, and refuses weights"
BATCHES = "weights change no batch: repeated rows, shuffled, come into others, as in any SGD"


def _names(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {_name(check) for _, check in estimator_checks_generator(estimator, legacy=True)}


def _name(check):
    return getattr(check, "func", check).__name__


def _expected_failed_checks(name):
    """Return what scikit-learn's runners of checks take: names of checks, and why they fail."""
    if name in ("NeighborsRetriever", "NearDuplicates"):
        return {}
    names = _names(ESTIMATORS[name])
    refused = {check: REFUSED for check in names if "sample_weight" in check}
    batches = {check: BATCHES for check in names if "sample_weight_equivalence" in check}
    return batches | (refused if name == "DeepHasher" else {})


def _checks(name):
    expected = _expected_failed_checks(name)
    with warnings.catch_warnings():
        # The array-API check skips itself where array-api-compat is missing.
        warnings.simplefilter("ignore")
        return list(
            estimator_checks_generator(
                ESTIMATORS[name],
                legacy=True,
                expected_failed_checks=expected,
                mark="xfail",
                xfail_strict=True,
            )
        )


def _case(name, case):
    values, marks = (case.values, case.marks) if hasattr(case, "marks") else (case, ())
    return pytest.param(*values, id=f"{name}-{_name(values[1])}", marks=marks)


CASES = [_case(name, case) for name in ESTIMATORS for case in _checks(name)]


@pytest.mark.filterwarnings(FEW_CLASSES)
@pytest.mark.parametrize(("estimator", "check"), CASES)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_at_least_40_checks_run_and_pass(name):
    passing = [case for case in _checks(name) if not hasattr(case, "marks")]
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
