"""Feature rows and images as batches of tensors, epoch by epoch."""

import multiprocessing

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


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
    """One epoch of `(inputs, targets)` at a time, the same for any number of workers.

    `plan(rng, embed)` gives the epoch's list of index arrays, equally many in every epoch;
    `embed(indices)` are embeddings under the network as it is, and None before the training.
    Every batch draws its augmentation and its mixup from a generator of its own, made from the
    seed, the epoch and the number of the batch.
    """

    def __init__(self, source, y, plan, *, seed, augmented, mixup=0.0, num_workers=0):
        self.source = source
        self.y = y
        self.plan = plan
        self.seed = seed
        self.augmented = augmented
        self.mixup = mixup
        self.num_workers = num_workers
        self.start_epoch(0)

    def start_epoch(self, epoch, embed=None):
        """Choose the order of the images of this epoch."""
        self.epoch = epoch
        self.indices = self.plan(np.random.default_rng((self.seed, epoch)), embed)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, number):
        indices = self.indices[number]
        if not self.augmented:
            return self.source.read(indices), torch.from_numpy(self.y[indices])
        rng = np.random.default_rng((self.seed, self.epoch, number))
        inputs = self.source.read(indices, rng)
        if not self.mixup:
            return inputs, torch.from_numpy(self.y[indices])
        targets = torch.from_numpy(self.y[indices])
        if targets.ndim == 1:
            targets = nn.functional.one_hot(targets, int(self.y.max()) + 1).float()
        return mix(inputs, targets, self.mixup, rng)

    def __iter__(self):
        # Loader workers cannot be started from joblib's own workers.
        if self.num_workers == 0 or multiprocessing.parent_process() is not None:
            return (self[number] for number in range(len(self)))
        return self._from_workers()

    def _from_workers(self):
        loader = DataLoader(
            _Guarded(self), batch_size=None, num_workers=self.num_workers, collate_fn=_as_it_is
        )
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch


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


class _Guarded(Dataset):
    """Batches, or the error of reading them: a worker would wrap it and lose what it carries."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        try:
            return self.batches[number]
        except Exception as error:
            return error


def _as_it_is(batch):
    return batch
