"""Rows -> batches of tensors, epoch by epoch: feature rows and images, in a drawn order."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from sklearn_cbir._forward import Source
from sklearn_cbir._plan import Plan
from sklearn_cbir._workers import loader_processes
from sklearn_cbir.images import Resizing
from sklearn_cbir.sampling import (
    balanced_batches,
    class_random_batches,
    mined_batches,
    uniform_batches,
)

if TYPE_CHECKING:
    from sklearn_cbir.images import Images
    from sklearn_cbir.images._augmentation import BatchTransform

COVERING = Resizing()
GO_ON = {"balanced", "mined"}  # samplings whose decks of rows go on from epoch to epoch
Embed = Callable[[NDArray[Any]], NDArray[Any]]  # of rows, by the network as it is
Batch = tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor | None]]


class ArraySource:
    """Feature rows (n, n_features) as batches of their own floating type."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: NDArray[Any], rng: np.random.Generator | None = None) -> torch.Tensor:
        """Return the rows at `indices` as a tensor; rows are never augmented."""
        return torch.from_numpy(np.array(self.rows[indices], order="C"))

    def subset(self, indices: NDArray[Any]) -> ArraySource:
        """Return a source of some of the rows."""
        return ArraySource(self.rows[indices])


class ImageSource:
    """Images as batches of uint8 tensors (n, 3, height, width).

    Of images that are pixels of the right size already, `selected` are the pixels of all, and the
    rows of them that are read; `images` may then be more.
    """

    def __init__(
        self,
        images: Images,
        size: int | tuple[int, int] | None,
        resize: int | None,
        augment: BatchTransform | None = None,
        selected: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None,
        resizing: Resizing = COVERING,
    ) -> None:
        self.images = images
        self.size = size
        self.resize = resize
        self.augment = augment
        self.selected = selected
        self.resizing = resizing

    def __len__(self) -> int:
        return len(self.images) if self.selected is None else len(self.selected[1])

    @property
    def n_pixels(self) -> int:
        """Pixels of one image as it is read."""
        size = self.size or (self.images.image_shape or (1, 1))[:2]
        height, width = size if isinstance(size, tuple) else (size, size)
        return height * width

    def read(self, indices: NDArray[Any], rng: np.random.Generator | None = None) -> torch.Tensor:
        """Return the images at `indices`, augmented if a generator is given."""
        if self.selected is None:
            batch = self.images.read(indices, self.size, self.resize, **vars(self.resizing))
        else:
            pixels, rows = self.selected
            batch = pixels[rows[indices]]
        if rng is not None and self.augment is not None:
            batch = self.augment(batch, rng)
        # (n, H, W, 3) memory seen as (n, 3, H, W): torch's channels-last layout, no copy.
        return torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2)

    def subset(self, indices: NDArray[Any]) -> ImageSource:
        """Return a source of some of the images."""
        images, selected = self.images, self.selected
        if selected is None:
            images = images[indices]
        else:
            selected = selected[0], selected[1][indices]
        return ImageSource(
            images, self.size, self.resize, self.augment, selected, resizing=self.resizing
        )


def make_batches(
    plan: Plan, source: Source, y: NDArray[Any], rows: NDArray[np.int64], *, training: bool
) -> Batches:
    """Return epochs over `rows`, class-balanced if the loss compares images in the batch."""
    sampling = plan.sampling
    if not training and sampling != "uniform":
        sampling = "balanced"  # the same held-out images in every epoch
    size = min(plan.batch_size, len(rows))
    draw: Callable[..., Any]
    if sampling == "uniform":
        draw = functools.partial(uniform_batches, len(rows), size)
    elif sampling == "mined":
        draw = functools.partial(mined_batches, y[rows], size, plan.n_negatives, plan.pool_size)
    else:
        n_classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        # Classes held out may be small: more of each would be copies of the same images.
        n_per_class = (plan.n_per_class or max(4, size // n_classes)) if training else 2
        kind = balanced_batches if sampling == "balanced" else class_random_batches
        draw = functools.partial(kind, y[rows], size, n_per_class)
    seed = plan.seeds.batches if training else plan.seeds.held_out_batches
    return Batches(
        BatchReader(source, y, seed, plan.mixup, plan.weights, augmented=training),
        _Epochs(draw, rows, seed, mines=sampling == "mined", goes_on=sampling in GO_ON),
        plan.num_workers,
    )


class Batches(Dataset[Batch]):
    """One epoch of `(inputs, (targets, weights))` at a time, the same for any number of workers.

    An epoch is a list of index arrays, equally many in every epoch.
    """

    def __init__(self, reader: BatchReader, epochs: _Epochs, num_workers: int = 0) -> None:
        self.reader = reader
        self.epochs = epochs
        self.num_workers = num_workers
        self.elsewhere: Callable[..., Iterator[Batch]] | None = None
        self.epoch = 0
        self.indices = epochs.draw(0)

    def start_epoch(self, epoch: int, embed: Embed | None = None) -> None:
        """Choose the order of the images of this epoch."""
        if epoch != self.epoch or self.epochs.mines:
            self.epoch = epoch
            self.indices = self.epochs.draw(epoch, embed)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        keys = [(self.epoch, number, rows) for number, rows in enumerate(self.indices)]
        if self.elsewhere is None:
            return (self.reader.read(*key) for key in keys)
        return self.elsewhere(keys)


class _Epochs:
    """Epochs of batches of some of the rows, each with a generator of its own.

    Decks go on from epoch to epoch. They depend on the seed alone: an epoch that does not follow
    the last one draws those before it again. One that mines is given embeddings of its rows.
    """

    def __init__(
        self,
        draw: Callable[..., list[NDArray[np.int64]]],
        rows: NDArray[np.int64],
        seed: int,
        *,
        mines: bool,
        goes_on: bool,
    ) -> None:
        self.rows = rows
        self.seed = seed
        self.mines = mines
        self.goes_on = goes_on
        self.decks: dict[str, Any] = {}
        self.next = 0  # epoch that the decks are ready for
        self._batches_of = draw

    def draw(self, epoch: int, embed: Embed | None = None) -> list[NDArray[np.int64]]:
        """Return the batches of one epoch; `embed` is None before the training."""
        if self.goes_on:
            if epoch < self.next:
                self.decks, self.next = {}, 0
            for earlier in range(self.next, epoch):
                self._draw(earlier, None)
            self.next = epoch + 1
        return [self.rows[indices] for indices in self._draw(epoch, embed)]

    def _draw(self, epoch: int, embed: Embed | None) -> list[NDArray[np.int64]]:
        options: dict[str, Any] = {"decks": self.decks} if self.goes_on else {}
        if self.mines and embed is not None:
            options["embed"] = lambda indices: embed(self.rows[indices])
        return self._batches_of(rng=np.random.default_rng((self.seed, epoch)), **options)


@contextlib.contextmanager
def shared_workers(*parts: Batches | None) -> Iterator[None]:
    """Let `Batches` be read by the same processes inside the block, num_workers of the first."""
    read_there = [part for part in parts if part is not None]
    num_workers = read_there[0].num_workers
    # Loader workers cannot be started from joblib's own workers.
    if num_workers == 0 or multiprocessing.parent_process() is not None:
        yield
        return
    with loader_processes([part.reader for part in read_there], num_workers) as read:

        def read_part(number, keys):
            return read([(number, *key) for key in keys])

        for number, part in enumerate(read_there):
            part.elsewhere = functools.partial(read_part, number)
        try:
            yield
        finally:
            for part in read_there:
                part.elsewhere = None


class BatchReader:
    """Reads one batch, the same in every process.

    Every batch draws its augmentation and its mixup from a generator of its own, made from the
    seed, the epoch and the number of the batch.
    """

    def __init__(
        self,
        source: Source,
        y: NDArray[Any],
        seed: int,
        mixup: float,
        weights: NDArray[np.float32] | None,
        *,
        augmented: bool,
    ) -> None:
        self.source = source
        self.y = y
        self.seed = seed
        self.augmented = augmented
        self.weights = weights
        self.mixup = mixup

    def read(self, epoch: int, number: int, indices: NDArray[np.int64]) -> Batch:
        """Return the inputs of the rows at `indices`, their targets and their weights."""
        targets = torch.from_numpy(self.y[indices])
        weights = None if self.weights is None else torch.from_numpy(self.weights[indices])
        if not self.augmented:
            return self.source.read(indices), (targets, weights)
        rng = np.random.default_rng((self.seed, epoch, number))
        inputs = self.source.read(indices, rng)
        if not self.mixup:
            return inputs, (targets, weights)
        if targets.ndim == 1:
            targets = nn.functional.one_hot(targets, int(self.y.max()) + 1).float()
        if weights is None:
            inputs, targets = mix(inputs, targets, self.mixup, rng)
            return inputs, (targets, None)
        # Labels are mixed by share and weight, so that a mixed row costs what its two rows would.
        weighted = torch.column_stack([weights[:, None] * targets, weights])
        inputs, weighted = mix(inputs, weighted, self.mixup, rng)
        return inputs, (weighted[:, :-1] / weighted[:, -1:], weighted[:, -1])


def mix(
    inputs: torch.Tensor, targets: torch.Tensor, alpha: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix every row with its mirror image in the batch, by a share from Beta(alpha, alpha)."""
    shares = rng.beta(alpha, alpha, size=(len(inputs) + 1) // 2)
    # Both rows of a pair have one share; the middle row of an odd batch is its own mirror image.
    shares = torch.from_numpy(np.concatenate([shares, shares[: len(inputs) // 2][::-1]]))

    def blend(rows):
        share = shares.to(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
        return share * rows + (1 - share) * rows.flip(0)

    # Not rounded to uint8: the network takes floats from 0 to 255 as well.
    return blend(inputs if inputs.is_floating_point() else inputs.float()), blend(targets)
