"""The HTML picture of an estimator links to no page that does not exist."""

import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.whitening import LearnedWhitening

spec = importlib.util.spec_from_file_location(
    "public_api", Path(__file__).parent.parent / "docs" / "public_api.py"
)
public_api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(public_api)

ESTIMATORS = {
    f"{cls.__module__}.{name}": cls
    for module in public_api.public_modules().values()
    for name, cls in public_api.public_objects(module).items()
    if inspect.isclass(cls) and issubclass(cls, BaseEstimator)
}


ARGUMENTS = {"sklearn_cbir.onnx_extractor.OnnxExtractor": ("network.onnx",)}  # that are needed


def links(estimator):
    return re.findall(r'href="([^"]*)"', estimator._repr_html_())


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_no_estimator_links_to_a_page_that_is_not_there(name):
    estimator = ESTIMATORS[name](*ARGUMENTS.get(name, ()))
    assert links(estimator) == []
    assert estimator._get_doc_link() == ""


def test_a_pipeline_links_to_the_pages_of_other_packages_alone():
    X, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 4
    pipeline = make_pipeline(
        PCA(2), LearnedWhitening(), CNNFeatureExtractor(loss=None), NeighborsRetriever()
    )
    for shown in (clone(pipeline), pipeline.fit(X, y)):
        assert any("sklearn.decomposition.PCA" in link for link in links(shown))
        assert not [link for link in links(shown) if "cbir" in link]
