"""Rows to search: clusters made here, and principal components of photos."""

from functools import lru_cache

import numpy as np
from sklearn.decomposition import PCA

from _data import load_cifar10

N_QUERIES = 1000


def clustered(n, d, n_clusters=100, spread=1.0, seed=0):
    """Return float32 rows and 1,000 queries around random centers, components falling off.

    A small `spread` gives the tight clusters of a learned embedding.
    """
    rng = np.random.default_rng(seed)
    scales = np.arange(1, d + 1) ** -0.5
    centers = rng.normal(size=(n_clusters, d)) * scales
    cluster = rng.integers(0, n_clusters, n + N_QUERIES)
    rows = centers[cluster] + spread * rng.normal(size=(n + N_QUERIES, d)) * scales
    rows = rows.astype(np.float32)
    return rows[:n], rows[n:]


@lru_cache(maxsize=1)
def photo_components(path, d=512):
    """Return principal components of CIFAR-10's pixels, the first ones first, and 1,000 queries."""
    gallery, queries = (
        load_cifar10(path, part)[0].reshape(-1, 3072).astype(np.float32) / 255
        for part in ("train", "test")
    )
    fitted = PCA(d, svd_solver="randomized", random_state=0).fit(gallery[:10_000])
    return fitted.transform(gallery), fitted.transform(queries[:N_QUERIES])
