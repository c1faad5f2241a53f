"""Masked arrays: numpy drops a mask without a word, so what is masked is refused everywhere."""

import numpy as np
import pytest

from sklearn_cbir import CNNFeatureExtractor, DeepHasher, NeighborsRetriever
from sklearn_cbir.codes import pack_codes
from sklearn_cbir.hashing import ITQHasher
from sklearn_cbir.metrics import (
    cluster_agreement,
    hamming_mean_average_precision,
    mean_average_precision,
    mean_over_queries,
    precision_in_radius,
    threshold_f1_curve,
    worst_queries,
)
from sklearn_cbir.model_selection import retrieval_scorer
from sklearn_cbir.whitening import LearnedWhitening

ROWS = np.random.default_rng(0).normal(size=(12, 4))
LABELS = np.arange(12) % 3
NEAR = np.array([[0.1, 0.2], [0.3, 0.4]])


def masked(values):
    """Return the same numbers, of which the second in memory is masked."""
    values = np.asarray(values)
    mask = np.zeros(values.shape, dtype=bool)
    mask.flat[1] = True
    return np.ma.array(values, mask=mask)


class Fitted:
    """A transformer of which the output is what it was given."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


RETRIEVER = NeighborsRetriever(2, algorithm="exact").fit(ROWS, LABELS)
CODES = (ROWS > 0).astype(np.uint8)
CALLS = {
    "rows of a gallery": (lambda: NeighborsRetriever().fit(masked(ROWS)), r"X\[0, 1\]"),
    "new rows": (lambda: RETRIEVER.partial_fit(masked(ROWS), LABELS), r"X\[0, 1\]"),
    "queries": (lambda: RETRIEVER.kneighbors(masked(ROWS)), r"X\[0, 1\]"),
    "one query": (lambda: RETRIEVER.predict(masked(ROWS[:1])), r"X\[0, 1\]"),
    "queries that are scored": (lambda: RETRIEVER.score(masked(ROWS), LABELS), r"X\[0, 1\]"),
    "codes": (lambda: NeighborsRetriever(metric="hamming").fit(masked(CODES)), r"X\[0, 1\]"),
    "radii": (
        lambda: RETRIEVER.radius_neighbors(ROWS[:3], masked([1.0, 2.0, 3.0])),
        r"radius\[1\]",
    ),
    "bits to pack": (lambda: pack_codes(masked(CODES)), r"codes\[0, 1\]"),
    "a classical hasher": (lambda: ITQHasher(2).fit(masked(ROWS)), r"X\[0, 1\]"),
    "whitening": (lambda: LearnedWhitening(2).fit(masked(ROWS), LABELS), r"X\[0, 1\]"),
    "rows of a network": (
        lambda: DeepHasher(4, max_epochs=1).fit(masked(ROWS), LABELS),
        r"X\[0, 1\]",
    ),
    "images": (
        lambda: CNNFeatureExtractor(weights=None, max_epochs=0).fit(
            masked(np.zeros((6, 32, 32), dtype=np.uint8)), [0, 1] * 3
        ),
        r"X\[0, 0, 1\]",
    ),
    "one of several images": (
        lambda: CNNFeatureExtractor(weights=None, max_epochs=0).fit(
            [np.zeros((32, 32), dtype=np.uint8)] * 3 + [masked(np.zeros((32, 32), np.uint8))],
            [0, 1] * 2,
        ),
        r"X\[3\]\[0, 1\]",
    ),
    "distances": (lambda: mean_average_precision([1, 1], [1, 0], masked(NEAR)), r"distances\[0, 1"),
    "excluded rows": (
        lambda: mean_average_precision([1, 1], [1, 0], NEAR, exclude=masked([0, 1])),
        r"exclude\[1\]",
    ),
    "weights of queries": (
        lambda: precision_in_radius([1, 1], [1, 0], NEAR, sample_weight=masked([1.0, 1.0])),
        r"sample_weight\[1\]",
    ),
    "radii of a curve": (
        lambda: threshold_f1_curve([1, 1], [1, 0], NEAR, radii=masked([0.1, 0.2])),
        r"radii\[1\]",
    ),
    "codes to score": (
        lambda: hamming_mean_average_precision([1], [1, 0], masked([[0, 1]]), [[0, 1], [1, 1]]),
        r"codes\[0, 1\]",
    ),
    "rows to cluster": (lambda: cluster_agreement(masked(ROWS), LABELS), r"embeddings\[0, 1\]"),
    "values to average": (lambda: mean_over_queries(masked([0.5, 1.0])), r"values\[1\]"),
    "values to sort": (lambda: worst_queries(masked([0.5, 1.0])), r"values\[1\]"),
    "what a transformer gives": (
        lambda: retrieval_scorer("map", gallery="queries")(Fitted(), masked(ROWS), LABELS),
        r"transform\(X\)\[0, 1\]",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_masked_is_refused_by_its_place(name):
    call, place = CALLS[name]
    with pytest.raises(ValueError, match=f"{place}.* is masked, the first of 1 such entries"):
        call()


def test_masked_arrays_of_which_nothing_is_masked_are_arrays():
    rows = np.ma.array(ROWS)
    found = NeighborsRetriever(2, algorithm="exact").fit(rows).kneighbors(rows)[1]
    np.testing.assert_array_equal(found, RETRIEVER.kneighbors(ROWS)[1])
    assert mean_average_precision([1], [1, 0], np.ma.array([[0.1, 0.2]])) == 1


def test_complex_rows_are_refused_without_being_printed():
    with pytest.raises(ValueError, match=r"^Complex data not supported: X has dtype complex128\."):
        RETRIEVER.kneighbors(ROWS + 1j)
