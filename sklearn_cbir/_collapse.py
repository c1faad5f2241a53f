"""A look at what a training has led to: one code or vector for all images is no use."""

import warnings

import numpy as np

from sklearn_cbir._devices import derived_seed
from sklearn_cbir._training import infer

N_ROWS = 128  # training images that are looked at
BATCH_SIZE = 32


def warn_of_collapse(network, source, y, seed, device, *, gives, loss, lr):
    """Warn if training images of different labels all get the same; -1 is no label."""
    rows = np.arange(len(y)) if y.ndim == 2 else np.flatnonzero(y >= 0)
    rng = np.random.default_rng(derived_seed(seed, 5))
    rows = np.sort(rng.permutation(rows)[:N_ROWS])
    try:
        vectors = infer(network, source.subset(rows), BATCH_SIZE, device)
    except ValueError:
        return  # a file gone meanwhile, or NaN: no reason to lose the training
    n_alike = _n_equal(vectors >= 0) if gives == "code" else _n_close(vectors)
    if n_alike >= 0.95 * len(rows) and _n_equal(y[rows]) < 0.75 * len(rows):
        name = getattr(loss, "__qualname__", type(loss).__name__)
        warnings.warn(
            f"{n_alike} of {len(rows)} training images get the same {gives} after training with "
            f"loss {name} at lr={lr!r}: a search cannot tell them apart. Lower lr, train longer, "
            "or take another loss.",
            UserWarning,
            stacklevel=5,
        )


def _n_equal(rows):
    """Return how often the most frequent row comes."""
    return int(np.unique(rows, axis=0, return_counts=True)[1].max())


def _n_close(vectors):
    """Return how many vectors are the same but for rounding."""
    if vectors.shape[1] == 1:
        return 0  # of unit length: 1 or -1, whatever they are of
    far = np.abs(vectors - np.median(vectors, axis=0)).max(axis=1)
    return int((far <= 1e-5 * np.abs(vectors).max()).sum())
