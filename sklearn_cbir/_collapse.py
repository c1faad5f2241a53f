"""A look at what a training has led to: one code or vector for all images is no use."""

import numpy as np

from sklearn_cbir._devices import derived_seed
from sklearn_cbir._labels import shared_labels
from sklearn_cbir._training import infer
from sklearn_cbir._validation import warn_user

N_ROWS = 128  # training images that are looked at
BATCH_SIZE = 32
ROUNDING = 4 * np.finfo(np.float32).eps  # of the largest value: what a search no longer sees


def warn_of_collapse(network, source, y, seed, device, *, gives, loss, lr):
    """Warn if training images of different labels all get the same; -1 is no label."""
    rows = np.arange(len(y)) if y.ndim == 2 else np.flatnonzero(y >= 0)
    rng = np.random.default_rng(derived_seed(seed, 5))
    rows = np.sort(rng.permutation(rows)[:N_ROWS])
    try:
        vectors = infer(network, source.subset(rows), BATCH_SIZE, device)
    except ValueError:
        return  # a file gone meanwhile, or NaN: no reason to lose the training
    if gives == "code":
        alike = _equal(vectors >= 0)
    elif network.unit_length and network.width == 1:
        return  # 1 or -1, whatever they are of
    else:
        alike = _close(vectors)
    y = y[rows[alike]]
    if alike.mean() >= 0.95 and (shared_labels(y, y) == 0).mean() >= 0.1:
        name = getattr(loss, "__qualname__", type(loss).__name__)
        warn_user(
            f"{alike.sum()} of {len(rows)} training images get the same {gives} after training "
            f"with loss {name} at lr={lr!r}, though not all share a label: a search cannot tell "
            "them apart. Lower lr, train longer, or take another loss."
        )


def _equal(codes):
    """Return which rows are the most frequent one."""
    _, numbers, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return numbers.reshape(-1) == counts.argmax()  # numpy 2.0 gives a column


def _close(vectors):
    """Return which rows are the same but for rounding."""
    far = np.abs(vectors - np.median(vectors, axis=0)).max(axis=1)
    return far <= ROUNDING * np.abs(vectors).max()
