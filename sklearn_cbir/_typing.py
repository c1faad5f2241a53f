"""Types that signatures share: arrays, choices, and protocols for the user's own objects.

Types of arguments are as wide as the code accepts (``ArrayLike``), types of results as narrow as
they are. A protocol declares only what is called; a class need not inherit from it. Torch is named
here, but not imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, SupportsIndex, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch

Floats: TypeAlias = NDArray[np.float64]
Positions: TypeAlias = NDArray[np.int64]  # rows of a gallery, or of queries
Labels: TypeAlias = NDArray[np.generic]  # one per row, or columns of 0/1; of any type that sorts
Codes: TypeAlias = NDArray[np.uint8]  # 0 or 1, one column per bit
PackedCodes: TypeAlias = NDArray[np.uint64]  # 64 bits in a word

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
FilePaths: TypeAlias = NDArray[np.str_ | np.object_]  # text, or objects where widths differ much
Ids: TypeAlias = NDArray[np.generic]  # of rows of a gallery
Found: TypeAlias = NDArray[np.number]  # floats, or numbers of bits

RandomState: TypeAlias = int | np.random.RandomState | None
Ties: TypeAlias = Literal["average", "stable", "optimistic", "pessimistic"]
NoHits: TypeAlias = Literal["zero", "skip"]
Denominator: TypeAlias = Literal["relevant", "hits", "min_k"]
LastLayer: TypeAlias = Literal["classes", "features", "bits"]  # what a network gives to its loss
Sampling: TypeAlias = Literal["uniform", "balanced", "class_random", "mined"]
HashLayer: TypeAlias = Literal["linear", "divided", "latent"]
# What estimators that train a network are given.
Enhancement: TypeAlias = Literal["se", "cbam", "conv"]
EstimatorSampling: TypeAlias = Literal["auto"] | Sampling  # "auto" is what the loss asks for
Pooling: TypeAlias = Literal["auto", "avg", "max", "gem"]
ResizeMode: TypeAlias = Literal["cover", "shortest", "squash", "longest"]
Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Color: TypeAlias = tuple[int, int, int]  # RGB in 0..255
ResizeSize: TypeAlias = int | Literal["source"] | None  # in px; "source" is that of the weights
Schedule: TypeAlias = Literal["one_cycle", "cosine", "constant"]
Runtime: TypeAlias = Literal["auto", "torch", "openvino"]  # what computes vectors on a processor


class OptimizerClass(Protocol):
    """A class of torch's optimizers, or a function that is called like one."""

    def __call__(
        self, groups: list[dict[str, Any]], /, *, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return an optimizer of groups of parameters."""
        ...


Optimizer: TypeAlias = Literal["adamw", "adam", "sgd"] | OptimizerClass


class Sparse(Protocol):
    """A sparse matrix of scipy."""

    def toarray(self) -> np.ndarray:
        """Return all of it."""
        ...


LabelsLike: TypeAlias = ArrayLike | Sparse


class Weighted(TypedDict, total=False):
    """Options of every metric: rows that are not ranked, and weights of queries."""

    exclude: ArrayLike | None
    sample_weight: ArrayLike | None


class Ranked(Weighted, total=False):
    """Options of metrics of ranked lists."""

    ties: Ties


class Elements(Protocol):
    """A sequence in the widest sense, as data sets of torch and columns of a table are."""

    def __len__(self) -> int:
        """Return the number of elements."""
        ...

    def __getitem__(self, position: int, /) -> object:
        """Return the element at a position from 0."""
        ...


# An array of images, or a sequence of paths, encoded photos, PIL images, dictionaries or arrays.
ImagesLike: TypeAlias = ArrayLike | Elements
# Unique text, whole numbers or other hashable objects.
IdsLike: TypeAlias = ArrayLike | Elements
# Rows of a gallery that may be found: one bool for each, or their ids, in any order.
WhereLike: TypeAlias = IdsLike | Set[object]
# Some rows: their positions, or one bool for each row.
Rows: TypeAlias = slice | Sequence[int] | Sequence[bool] | NDArray[np.integer] | NDArray[np.bool_]
Indices: TypeAlias = SupportsIndex | Rows


class Estimator(Protocol):
    """An estimator of scikit-learn, or what acts like one: a pipeline, a search."""

    def get_params(self, deep: bool = True) -> Mapping[str, object]:
        """Return its parameters."""
        ...


class Transformer(Protocol):
    """An object that makes rows from images, or from other rows."""

    # Any: each takes what it takes.
    def transform(self, X: Any, /) -> object:
        """Return one row per row."""
        ...


class Sliced(Protocol):
    """Distances (n_queries, n_gallery) that are computed when they are sliced."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of queries and of items of the gallery."""
        ...

    def __getitem__(self, rows: slice, /) -> ArrayLike:
        """Return the distances of some queries."""
        ...


Distances: TypeAlias = ArrayLike | Sliced


class LossFunction(Protocol):
    """A loss: a module of torch, a function, or any other callable."""

    def __call__(self, outputs: torch.Tensor, y: torch.Tensor, /) -> torch.Tensor:
        """Return a scalar to minimize."""
        ...


class Metric(Protocol):
    """A metric: of the labels of queries and gallery and their distances, numbers per query.

    It may take the keywords `exclude` and `per_query`.
    """

    # Any: a function of the user's own asks for the type that its labels have.
    def __call__(
        self, y_queries: NDArray[Any], y_gallery: NDArray[Any], distances: NDArray[Any], /
    ) -> ArrayLike:
        """Return one number per query, NaN for one that does not count."""
        ...


class SearchedRows(Protocol):
    """The engine of a search, as a re-ranker sees it."""

    @property
    def rows(self) -> NDArray[Any]:
        """The gallery in the form in which it is compared: floats, or words of packed codes."""
        ...

    @property
    def exact(self) -> HasDistance:
        """What says which distance is used."""
        ...

    def query(self, queries: NDArray[Any], k: int, /) -> tuple[NDArray[Any], Positions]:
        """Return the distances and positions of the nearest rows."""
        ...


class HasDistance(Protocol):
    """Names a distance."""

    @property
    def metric(self) -> str:
        """Either "cosine", "euclidean" or "hamming"."""
        ...


class Reranker(Protocol):
    """Gives the results of every query a new order; smaller numbers are nearer."""

    def __call__(
        self,
        queries: NDArray[Any],
        distances: NDArray[Any],
        positions: NDArray[Any],
        engine: SearchedRows,
        /,
    ) -> ArrayLike:
        """Return one number per result (n_queries, n_results)."""
        ...


class ImageTransformer(Protocol):
    """An estimator that turns images into rows, as `check_image_estimator` checks it."""

    def fit(self, X: ImagesLike, y: LabelsLike | None = None, /) -> Self:
        """Learn from images, and their labels if it needs them."""
        ...

    def transform(self, X: ImagesLike, /) -> np.ndarray:
        """Return one row per image."""
        ...

    def fit_transform(self, X: ImagesLike, y: LabelsLike | None = None, /) -> np.ndarray:
        """Fit, and transform the same images."""
        ...

    def get_feature_names_out(self) -> np.ndarray:
        """Return one name per column."""
        ...
