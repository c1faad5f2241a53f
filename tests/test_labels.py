"""Labels that a loss can do little with: an error that names them, or the right result."""

import functools

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import make_blobs
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever
from sklearn_cbir._labels import shared_labels
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.losses import LOSSES, SquaredHingeLoss, output_of, sampling_of

X, Y = make_blobs(24, 5, centers=4, cluster_std=0.5, random_state=0)
COLUMNS = np.eye(4, dtype=int)[Y]
OF_CLASSES = {name for name in LOSSES if output_of(LOSSES[name]()) == "classes"}
OF_SINGLE_ROWS = {name for name in LOSSES if sampling_of(LOSSES[name]()) == "uniform"}
EVERY_LOSS = pytest.mark.parametrize("name", sorted(LOSSES))


def estimator(name, **parameters):
    parameters = {"loss": name, "max_epochs": 1, "batch_size": 8, "random_state": 0} | parameters
    if output_of(LOSSES[name]()) == "bits":
        return DeepHasher(12, **parameters)
    return CNNFeatureExtractor(weights=None, n_components=6, **parameters)


def outputs(fitted, X):
    return getattr(fitted, "project", fitted.transform)(X)


def test_every_loss_has_cases():
    assert sorted(OF_CLASSES) == ["softmax", "squared_hinge"]
    assert {"cnnh", "csq", "dlbhc", "greedyhash", "orthohash"} == OF_SINGLE_ROWS - OF_CLASSES
    assert len(LOSSES) >= 18


# One class, or one row per class.


@EVERY_LOSS
def test_a_single_class_is_named(name):
    with pytest.raises(ValueError, match="at least 2 classes to train, got 1 class: 'cat'"):
        estimator(name).fit(X, ["cat"] * len(X))


@EVERY_LOSS
@pytest.mark.parametrize("row", [[1, 0, 0], [1, 1, 0]], ids=str)
def test_equal_rows_of_labels_are_a_single_class(name, row):
    y = np.tile(row, (len(X), 1))
    y[:4] = 0
    with pytest.raises(ValueError, match="different labels.*all 20 labeled rows of y are equal"):
        estimator(name).fit(X, y)


@EVERY_LOSS
def test_labels_that_are_all_zeros_are_none(name):
    with pytest.raises(ValueError, match="no row of y has one: all are zeros. Label some"):
        estimator(name).fit(X, np.zeros((len(X), 3), dtype=int))


@EVERY_LOSS
def test_a_label_of_all_rows_is_named(name):
    y = np.column_stack([COLUMNS, np.ones(len(X), dtype=int)])
    with pytest.warns(UserWarning, match="Column 4 of y is 1 in all rows.*Drop this"):
        assert np.isfinite(outputs(estimator(name).fit(X, y), X)).all()


@EVERY_LOSS
@pytest.mark.parametrize("columns", [False, True], ids=["classes", "columns"])
def test_one_row_per_class_trains_losses_on_single_rows_and_no_others(name, columns):
    y = np.eye(len(X), dtype=int) if columns else np.arange(len(X))
    if name in OF_SINGLE_ROWS:
        fitted = estimator(name).fit(X, y)
        assert len(fitted.classes_) == len(X)
        assert np.isfinite(outputs(fitted, X)).all()
    else:
        with pytest.raises(ValueError, match=f"{LOSSES[name].__name__} has no similar images"):
            estimator(name).fit(X, y)


# Few rows of each of many classes.


@EVERY_LOSS
@pytest.mark.parametrize("columns", [False, True], ids=["classes", "columns"])
def test_more_classes_than_a_batch_train(name, columns):
    y = np.arange(len(X)) // 2
    y = np.eye(12, dtype=int)[y] if columns else y
    fitted = estimator(name, batch_size=4, max_epochs=2).fit(X, y)
    assert len(fitted.classes_) == 12
    assert np.isfinite(outputs(fitted, X)).all()
    assert np.ptp(outputs(fitted, X), axis=0).min() > 0


# Rows without labels, and labels that stand for no row.


@EVERY_LOSS
@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_rows_without_labels_do_not_stop_the_others_from_being_learned(name, sampling):
    y = COLUMNS.copy()
    y[::3] = 0
    parameters = {"sampling": sampling, "max_epochs": 25, "lr": 0.01}
    fitted = estimator(name, **parameters).fit(X, y)
    labeled = np.flatnonzero(y.any(axis=1))
    metric = "hamming" if isinstance(fitted, DeepHasher) else "cosine"
    retriever = NeighborsRetriever(metric=metric)
    retriever.fit(fitted.transform(X[labeled]), y[labeled])
    assert retriever.score() > 0.75  # by chance 0.3; some seeds merge two of the classes


def weights(fitted):
    return fitted._network_state["weights"]


def assert_same_network(one, other):
    assert weights(one).keys() == weights(other).keys()
    for key, value in weights(one).items():
        np.testing.assert_array_equal(value, weights(other)[key])


MOSTLY_UNLABELED = np.vstack([COLUMNS, np.zeros((72, 4), dtype=int)])
WITH_UNLABELED = np.vstack([X, np.random.default_rng(0).normal(size=(72, 5))])


@EVERY_LOSS
@pytest.mark.parametrize("sampling", ["uniform", "balanced", "class_random", "mined"])
def test_rows_without_labels_are_as_if_they_were_not_there(name, sampling):
    parameters = {"sampling": sampling, "early_stopping": True, "validation_fraction": 0.3}
    alone = estimator(name, **parameters).fit(X, COLUMNS)
    fitted = estimator(name, **parameters).fit(WITH_UNLABELED, MOSTLY_UNLABELED)
    assert_same_network(fitted, alone)
    kept = [{k: v for k, v in e.items() if k != "seconds"} for e in fitted.history_]
    assert kept == [{k: v for k, v in e.items() if k != "seconds"} for e in alone.history_]


def own_loss(outputs, y):
    assert y.any(dim=1).all()
    return (outputs - y).square().mean()


own_loss.output = "classes"


@pytest.mark.parametrize(
    "parameters",
    [
        {"loss": own_loss},
        {"loss": "softmax", "mixup": 0.5},
        {"loss": "cpf", "mixup": 0.5},
        {"loss": SquaredHingeLoss(class_weight="balanced")},
        {"loss": torch.nn.BCEWithLogitsLoss()},
    ],
    ids=["own", "softmax", "cpf", "balanced", "torch"],
)
def test_no_loss_sees_a_row_without_labels(parameters):
    make = functools.partial(CNNFeatureExtractor, weights=None, max_epochs=2, batch_size=8)
    fitted = make(random_state=0, **parameters).fit(WITH_UNLABELED, MOSTLY_UNLABELED)
    assert_same_network(fitted, make(random_state=0, **parameters).fit(X, COLUMNS))


def test_thresholds_of_embeddings_are_chosen_on_labeled_rows():
    alone = CPFEmbedder(4, max_epochs=2, random_state=0).fit(X, COLUMNS)
    embedder = CPFEmbedder(4, max_epochs=2, random_state=0).fit(WITH_UNLABELED, MOSTLY_UNLABELED)
    assert_same_network(embedder, alone)
    assert embedder.threshold_ == alone.threshold_


def test_images_without_labels_are_as_if_they_were_not_there():
    images, y = make_shapes(24, multilabel=True, random_state=0)
    y[::2] = 0
    labeled = y.any(axis=1)
    alone = estimator("dsh", backbone="small").fit(images[labeled], y[labeled])
    assert_same_network(estimator("dsh", backbone="small").fit(images, y), alone)


def test_losses_called_alone_leave_rows_without_labels_out():
    y = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    values, labeled = torch.randn(5, 4), y.any(dim=1)
    for name in sorted(LOSSES):
        costs = []
        for rows in (y, y[labeled]):
            loss = LOSSES[name]()
            if hasattr(loss, "setup"):
                generator = torch.Generator().manual_seed(0)
                loss.setup(n_outputs=4, y=rows, generator=generator)
            costs.append(loss(values if rows is y else values[labeled], rows))
        assert costs[0] == costs[1], name


def test_a_batch_of_rows_without_labels_costs_nothing():
    for name in sorted(LOSSES):
        loss, values = LOSSES[name](), torch.randn(4, 4, requires_grad=True)
        if hasattr(loss, "setup"):
            loss.setup(n_outputs=4, y=torch.eye(4))
        cost = loss(values, torch.zeros(4, 4))
        cost.backward()
        assert cost == 0, name
        assert (values.grad == 0).all(), name


@EVERY_LOSS
def test_minus_one_is_a_class_like_any_other(name):
    y = np.where(Y == 0, -1, Y)
    fitted, renamed = estimator(name).fit(X, y), estimator(name).fit(X, Y)
    assert fitted.classes_.tolist() == [-1, 1, 2, 3]
    np.testing.assert_array_equal(outputs(fitted, X), outputs(renamed, X))


@EVERY_LOSS
def test_a_label_that_no_row_has_changes_no_similarity(name):
    y = np.column_stack([COLUMNS, np.zeros(len(X), dtype=int)])
    fitted = estimator(name).fit(X, y)
    assert len(fitted.classes_) == 5
    assert np.isfinite(outputs(fitted, X)).all()


# One kind of labels, in every form of it.


@EVERY_LOSS
def test_dense_sparse_and_boolean_columns_are_one(name):
    expected = outputs(estimator(name).fit(X, COLUMNS), X)
    for y in (sparse.csr_matrix(COLUMNS), sparse.csr_array(COLUMNS), COLUMNS.astype(bool)):
        np.testing.assert_array_equal(outputs(estimator(name).fit(X, y), X), expected)


@EVERY_LOSS
def test_labels_of_another_type_are_refused_at_scoring(name):
    fitted = estimator(name)
    metric = "hamming" if isinstance(fitted, DeepHasher) else "cosine"
    search = make_pipeline(fitted, NeighborsRetriever(metric=metric)).fit(X, Y)
    queries = X + 0.01  # equal rows would find themselves
    assert 0 <= search.score(queries, Y) <= 1
    with pytest.raises(ValueError, match="can never be equal"):
        search.score(queries, Y.astype(str))
    with pytest.raises(ValueError, match="one label per row, or both as 0/1 columns"):
        search.score(queries, COLUMNS)


@pytest.mark.parametrize(
    "y", [np.tile([1, 0], (24, 1)), np.zeros(24, dtype=int)], ids=["2-D", "1-D"]
)
def test_proxies_need_different_labels_too(y):
    with pytest.raises(ValueError, match="CPFEmbedder needs"):
        CPFEmbedder(4, max_epochs=1).fit(X, y)


def test_a_residual_network_learns_multi_level_similarity_from_balanced_batches():
    images, y = make_shapes(24, multilabel=True, random_state=0)
    hasher = DeepHasher(
        8, loss="multilevel", backbone="resnet18", max_epochs=4, batch_size=12, random_state=0
    )
    dense = hasher.fit(images, y).project(images)
    assert hasher.history_[-1]["loss"] < hasher.history_[0]["loss"]
    again = hasher.set_params(sampling="balanced").fit(images, sparse.csr_array(y))
    np.testing.assert_array_equal(again.project(images), dense)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("as_type", [np.asarray, torch.as_tensor])
def test_shared_labels_are_counted_however_many_and_of_whatever_type(dtype, as_type):
    y = np.ones((2, 300), dtype=dtype)
    y[1, 44:] = 0
    shared = shared_labels(as_type(y), as_type(y))
    assert shared.tolist() == [[300, 44], [44, 44]]
