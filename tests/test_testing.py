"""The package's own suite for image input, on all its image estimators, and that it can fail."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher
from sklearn_cbir.testing import check_image_estimator

FEW = {"max_epochs": 1, "batch_size": 8, "random_state": 0}
ESTIMATORS = {
    "softmax": CNNFeatureExtractor("small", weights=None, loss="softmax", **FEW),
    "squared_hinge": CNNFeatureExtractor("small", weights=None, **FEW),
    "DeepHasher": DeepHasher(8, backbone="small", **FEW),
    "CPFEmbedder": CPFEmbedder(8, backbone="small", **FEW),
}
CASES = [
    pytest.param(check, id=f"{key}-{name}")
    for key, estimator in ESTIMATORS.items()
    for name, check in check_image_estimator(estimator, generate_only=True)
]


@pytest.mark.filterwarnings("ignore:CPFEmbedder got .* classes")
@pytest.mark.parametrize("check", CASES)
def test_image_check(check):
    check()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_kind_of_input_is_checked(name):
    names = {name for name, _ in check_image_estimator(ESTIMATORS[name], generate_only=True)}
    assert len(names) >= 15
    assert {
        "check_image_with_arrays",
        "check_image_with_paths",
        "check_multi_label_targets",
    } <= names


class Careless(TransformerMixin, BaseEstimator):
    """Takes anything that numpy takes and remembers the batch."""

    def fit(self, X, y=None):
        self.mean_ = np.asarray(X).mean()
        return self

    def transform(self, X):
        X = np.asarray(X, dtype=np.float32)
        return (X - X.mean()).reshape(len(X), -1)


def test_a_careless_transformer_fails_the_suite():
    failed = 0
    for _, check in check_image_estimator(Careless(), generate_only=True):
        try:
            check()
        except (AssertionError, ValueError, AttributeError, TypeError, RuntimeWarning):
            failed += 1
    assert failed >= 6
