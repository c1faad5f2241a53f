"""CPFEmbedder: its threshold, chosen on some classes and used unchanged on others."""

import numpy as np
import pytest

from sklearn_cbir import CPFEmbedder, NeighborsRetriever
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.embedding import _best_threshold
from sklearn_cbir.losses import CPF_CONSTANTS
from sklearn_cbir.metrics import threshold_f1


@pytest.fixture(scope="module")
def shapes():
    images, y = make_shapes(160, n_classes=8, random_state=0)
    classes = np.unique(y)
    return images, y, np.isin(y, classes[:6])


@pytest.fixture(scope="module")
def fitted(shapes):
    images, y, seen = shapes
    embedder = CPFEmbedder(16, backbone="small", threshold_fraction=0.3, max_epochs=4)
    return embedder.set_params(random_state=0).fit(images[seen], y[seen])


def held_out_rows(embedder, y):
    """Images of the classes that chose the threshold, by the seed that `fit` draws."""
    seed = np.random.RandomState(embedder.random_state).randint(np.iinfo(np.int32).max)
    encoded = np.unique(y, return_inverse=True)[1]
    return np.flatnonzero(embedder._hold_out_classes(encoded, seed) == -1)


def mean_f1(embeddings, y, threshold):
    """Plain loops: F1 of "everything else above the threshold is the same", mean over images."""
    values = []
    for i in range(len(y)):
        others = [j for j in range(len(y)) if j != i]
        found = {j for j in others if embeddings[i] @ embeddings[j] >= threshold - 1e-6}
        same = {j for j in others if y[j] == y[i]}
        values.append(2 * len(found & same) / (len(found) + len(same)))
    return np.mean(values)


def test_threshold_is_the_best_one_for_the_classes_that_were_held_out(shapes, fitted):
    images, y, seen = shapes
    images, y = images[seen], y[seen]
    rows = held_out_rows(fitted, y)
    assert len(np.unique(y[rows])) == 2
    embeddings = fitted.transform(images[rows])
    grid = np.linspace(-1, 1, 401)
    best = max(mean_f1(embeddings, y[rows], threshold) for threshold in grid)
    assert mean_f1(embeddings, y[rows], fitted.threshold_) >= best - 0.005


def test_classes_that_choose_the_threshold_are_not_trained_on(shapes, fitted):
    images, y, seen = shapes
    images, y = images[seen].copy(), y[seen]
    rows = held_out_rows(fitted, y)
    images[rows] = images[rows][::-1] // 2
    other = CPFEmbedder(**fitted.get_params()).fit(images, y)
    state, other_state = fitted._network_state["weights"], other._network_state["weights"]
    assert all(np.array_equal(state[name], other_state[name]) for name in state)
    assert other.threshold_ != fitted.threshold_


def test_threshold_is_used_unchanged_on_classes_that_fit_never_saw(shapes, fitted):
    images, y, seen = shapes
    embeddings, labels = fitted.transform(images[~seen]), y[~seen]
    own = np.eye(len(labels), dtype=bool)
    distances = 1 - embeddings @ embeddings.T
    radius = 1 - fitted.threshold_
    score = threshold_f1(labels, labels, distances, radius=radius, exclude=own)
    assert score == pytest.approx(mean_f1(embeddings, labels, fitted.threshold_), abs=0.01)
    retriever = NeighborsRetriever(metric="cosine").fit(embeddings, labels)
    found = retriever.radius_neighbors(embeddings, radius=radius, return_distance=False)
    expected = (distances <= radius).sum(axis=1)
    assert np.abs(np.array([len(rows) for rows in found]) - expected).max() <= 1


def test_constants_of_every_data_set_make_an_embedder():
    X, y = np.random.default_rng(0).normal(size=(40, 4)), np.tile(np.arange(8), 5)
    for constants in CPF_CONSTANTS.values():
        embedder = CPFEmbedder(4, **constants, max_epochs=1, random_state=0).fit(X, y)
        assert embedder.get_params().items() >= constants.items()
        assert np.isfinite(embedder.transform(X)).all()


def test_no_image_is_a_match_of_itself_where_the_threshold_is_chosen():
    # Three things, two images of each, all equally near: with itself an image would match best
    # where nothing else does, at 1.
    embeddings = np.sqrt(0.5) * np.column_stack([np.ones(6), np.eye(6)])
    assert _best_threshold(embeddings, np.repeat(np.arange(3), 2)) == pytest.approx(0.5)
