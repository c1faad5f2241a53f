"""Feature rows and images as batches of tensors, epoch by epoch."""

import contextlib
import functools
import multiprocessing

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from sklearn_cbir._workers import loader_processes


class ArraySource:
    """Feature rows (n, n_features) as batches of their own floating type."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def read(self, indices, rng=None):
        """Return the rows at `indices` as a tensor; rows are never augmented."""
        return torch.from_numpy(np.array(self.rows[indices], order="C"))

    def subset(self, indices):
        """Return a source of some of the rows."""
        return ArraySource(self.rows[indices])


class ImageSource:
    """Images as batches of uint8 tensors (n, 3, height, width)."""

    def __init__(self, images, size, resize, augment=None):
        self.images = images
        self.size = size
        self.resize = resize
        self.augment = augment

    def __len__(self):
        return len(self.images)

    def read(self, indices, rng=None):
        """Return the images at `indices`, augmented if a generator is given."""
        batch = self.images.read(indices, self.size, resize=self.resize)
        if rng is not None and self.augment is not None:
            batch = self.augment(batch, rng)
        # (n, H, W, 3) memory seen as (n, 3, H, W): torch's channels-last layout, no copy.
        return torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2)

    def subset(self, indices):
        """Return a source of some of the images."""
        return ImageSource(self.images[indices], self.size, self.resize, self.augment)


class Batches(Dataset):
    """One epoch of `(inputs, (targets, weights))` at a time, the same for any number of workers.

    `plan(epoch, embed)` gives the epoch's list of index arrays, equally many in every epoch;
    `embed(indices)` are embeddings under the network as it is, and None before the training.
    """

    def __init__(self, source, y, plan, *, seed, augmented, weights=None, mixup=0.0, num_workers=0):
        self.source = source
        self.plan = plan
        self.reader = BatchReader(
            source, y, seed, augmented=augmented, weights=weights, mixup=mixup
        )
        self.num_workers = num_workers
        self.elsewhere = None
        self.start_epoch(0)

    def start_epoch(self, epoch, embed=None):
        """Choose the order of the images of this epoch."""
        self.epoch = epoch
        self.indices = self.plan(epoch, embed)

    def __len__(self):
        return len(self.indices)

    def __iter__(self):
        keys = [(self.epoch, number, rows) for number, rows in enumerate(self.indices)]
        if self.elsewhere is None:
            return (self.reader.read(*key) for key in keys)
        return self.elsewhere(keys)


@contextlib.contextmanager
def shared_workers(*parts):
    """Let `Batches` be read by the same processes inside the block, num_workers of the first."""
    num_workers = parts[0].num_workers
    parts = [part for part in parts if part is not None]
    # Loader workers cannot be started from joblib's own workers.
    if num_workers == 0 or multiprocessing.parent_process() is not None:
        yield
        return
    with loader_processes([part.reader for part in parts], num_workers) as read:

        def read_part(number, keys):
            return read([(number, *key) for key in keys])

        for number, part in enumerate(parts):
            part.elsewhere = functools.partial(read_part, number)
        try:
            yield
        finally:
            for part in parts:
                part.elsewhere = None


class BatchReader:
    """Reads one batch, the same in every process.

    Every batch draws its augmentation and its mixup from a generator of its own, made from the
    seed, the epoch and the number of the batch.
    """

    def __init__(self, source, y, seed, *, augmented, weights, mixup):
        self.source = source
        self.y = y
        self.seed = seed
        self.augmented = augmented
        self.weights = weights
        self.mixup = mixup

    def read(self, epoch, number, indices):
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


def mix(inputs, targets, alpha, rng):
    """Mix every row with its mirror image in the batch, by a share from Beta(alpha, alpha)."""
    shares = rng.beta(alpha, alpha, size=(len(inputs) + 1) // 2)
    # Both rows of a pair have one share; the middle row of an odd batch is its own mirror image.
    shares = torch.from_numpy(np.concatenate([shares, shares[: len(inputs) // 2][::-1]]))

    def blend(rows):
        share = shares.to(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
        return share * rows + (1 - share) * rows.flip(0)

    # Not rounded to uint8: the network takes floats from 0 to 255 as well.
    return blend(inputs if inputs.is_floating_point() else inputs.float()), blend(targets)
