"""What users get wrong. Pyright must report every line that ends in a comment, and no other."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever, Text
from sklearn_cbir.codes import hamming_top_k, pack_codes
from sklearn_cbir.datasets import load_nuswide, make_shapes
from sklearn_cbir.duplicates import NearDuplicates
from sklearn_cbir.hashing import BREHasher, ITQHasher, LSHHasher, SpectralHasher
from sklearn_cbir.images import readable_images
from sklearn_cbir.losses import DSHLoss, quantization_loss
from sklearn_cbir.metrics import (
    evaluate,
    mean_average_precision,
    precision_at_k,
    precision_in_radius,
    radius_precision_recall_curve,
)
from sklearn_cbir.model_selection import retrieval_scorer, split_protocol
from sklearn_cbir.reranking import DiffusionReranker
from sklearn_cbir.testing import check_image_estimator
from sklearn_cbir.whitening import LearnedWhitening


def names_that_are_not_there() -> None:
    from sklearn_cbir import NeighbourRetriever  # pyright: ignore[reportAttributeAccessIssue]
    from sklearn_cbir.hashing import ITQ  # pyright: ignore[reportAttributeAccessIssue]
    from sklearn_cbir.metrics import map_at_k  # pyright: ignore[reportAttributeAccessIssue]


def choices_that_are_not_there(y: NDArray[np.int64], distances: NDArray[np.float64]) -> None:
    NeighborsRetriever(metric="manhattan")  # pyright: ignore[reportArgumentType]
    NeighborsRetriever(algorithm="hnsw")  # pyright: ignore[reportArgumentType]
    NeighborsRetriever(storage="float8")  # pyright: ignore[reportArgumentType]
    NearDuplicates("sift")  # pyright: ignore[reportArgumentType]
    BREHasher(kernel="poly")  # pyright: ignore[reportArgumentType]
    SpectralHasher(range="max")  # pyright: ignore[reportArgumentType]
    retrieval_scorer("map", gallery="all")  # pyright: ignore[reportArgumentType]
    load_nuswide("folder", n_labels=80)  # pyright: ignore[reportArgumentType]
    readable_images([], verify="head")  # pyright: ignore[reportArgumentType]
    mean_average_precision(y, y, distances, ties="mean")  # pyright: ignore[reportArgumentType]
    mean_average_precision(y, y, distances, no_hits="nan")  # pyright: ignore[reportArgumentType]
    radius_precision_recall_curve(
        y,
        y,
        distances,
        radii=[1],
        average="mean",  # pyright: ignore[reportArgumentType]
    )


def parameters_that_are_not_there(y: NDArray[np.int64], distances: NDArray[np.float64]) -> None:
    NeighborsRetriever(k=5)  # pyright: ignore[reportCallIssue]
    NeighborsRetriever(5, "cosine")  # pyright: ignore[reportCallIssue]
    LSHHasher(n_bit=8)  # pyright: ignore[reportCallIssue]
    DSHLoss(margins=2.0)  # pyright: ignore[reportCallIssue]
    DiffusionReranker(k=3)  # pyright: ignore[reportCallIssue]
    precision_at_k(y, y, distances, top=5)  # pyright: ignore[reportCallIssue]
    precision_in_radius(y, y)  # pyright: ignore[reportCallIssue]
    make_shapes(n=10)  # pyright: ignore[reportCallIssue]


def values_of_another_type(X: NDArray[np.float64], y: NDArray[np.int64]) -> None:
    ITQHasher("48")  # pyright: ignore[reportArgumentType]
    LSHHasher(orthogonal="yes")  # pyright: ignore[reportArgumentType]
    LearnedWhitening(shrinkage=None)  # pyright: ignore[reportArgumentType]
    NeighborsRetriever(n_neighbors=2.5)  # pyright: ignore[reportArgumentType]
    NeighborsRetriever(scoring=len)  # pyright: ignore[reportArgumentType]
    NeighborsRetriever(rerank=len)  # pyright: ignore[reportArgumentType]
    NeighborsRetriever().relocate(5)  # pyright: ignore[reportArgumentType]
    NeighborsRetriever().like(["a"], unlike_weight="all")  # pyright: ignore[reportArgumentType]
    hamming_top_k(X, X, "all")  # pyright: ignore[reportArgumentType]
    split_protocol(5, y)  # pyright: ignore[reportArgumentType]
    quantization_loss(X)  # pyright: ignore[reportArgumentType]
    pack_codes(Path("codes.npy"))  # pyright: ignore[reportArgumentType]
    Text(b"a red dress")  # pyright: ignore[reportArgumentType]
    Text("a red dress") + 5  # pyright: ignore[reportOperatorIssue]
    CNNFeatureExtractor().encode_text(5)  # pyright: ignore[reportArgumentType]
    check_image_estimator(object())  # pyright: ignore[reportArgumentType]


def results_taken_for_others(X: NDArray[np.float64], y: NDArray[np.int64]) -> None:
    NeighborsRetriever().fit(X, y).nearest(X)  # pyright: ignore[reportAttributeAccessIssue]
    NeighborsRetriever().fit(X).kneighbors(X).shape  # pyright: ignore[reportAttributeAccessIssue]
    NeighborsRetriever().fit(X).score(X, y).mean  # pyright: ignore[reportAttributeAccessIssue]
    mean_average_precision(y, y, X).mean()  # pyright: ignore[reportAttributeAccessIssue]
    round(evaluate("map", y, y, X, per_query=True))  # pyright: ignore[reportArgumentType]
    split_protocol("svhn", y).exclude.shape  # pyright: ignore[reportOptionalMemberAccess]
    ITQHasher(8).fit(X).rotation_  # pyright: ignore[reportAttributeAccessIssue]
