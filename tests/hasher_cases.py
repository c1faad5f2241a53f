"""The classical hashers, and rows that they can tell apart."""

import numpy as np
from sklearn.base import clone
from sklearn.datasets import make_blobs

from sklearn_cbir.hashing import (
    BREHasher,
    CCAITQHasher,
    ITQHasher,
    KSHHasher,
    LSHHasher,
    MLHHasher,
    SpectralHasher,
)
from sklearn_cbir.metrics import hamming_mean_average_precision

HASHERS = {
    "LSHHasher": LSHHasher(random_state=0),
    "SpectralHasher": SpectralHasher(),
    "ITQHasher": ITQHasher(random_state=0),
    "CCAITQHasher": CCAITQHasher(random_state=0),
    "BREHasher": BREHasher(n_train=100, max_iter=3, random_state=0),
    "MLHHasher": MLHHasher(max_epochs=40, random_state=0),
    "KSHHasher": KSHHasher(n_anchors=60, max_iter=50, random_state=0),
}
SUPERVISED = ["CCAITQHasher", "MLHHasher", "KSHHasher"]
LABELED = [*SUPERVISED, "BREHasher"]
PAIRWISE = ["MLHHasher", "KSHHasher", "BREHasher"]
RANDOM = [name for name in HASHERS if name != "SpectralHasher"]
N_TRAIN = 200


def hasher_of(name, n_bits, **parameters):
    return clone(HASHERS[name]).set_params(n_bits=n_bits, **parameters)


def easy(n_classes=5, seed=0, spread=2.0, n_rows=400):
    """Rows in overlapping blobs of different widths, and their classes."""
    rng = np.random.default_rng(seed)
    centers = 3 * rng.standard_normal((n_classes, 16))
    X, y = make_blobs(n_rows, centers=centers, cluster_std=spread, random_state=seed)
    return X + 5, y  # not centered


def map_of(hasher, X, y):
    codes = hasher.transform(X)
    return hamming_mean_average_precision(
        y[N_TRAIN:], y[:N_TRAIN], codes[N_TRAIN:], codes[:N_TRAIN]
    )
