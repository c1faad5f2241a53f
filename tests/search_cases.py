"""What tests of engines share."""

import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever


def fit_case(options, X, folder, *, k, y=None, ids=None):
    """Fit a retriever with such parameters; return it and the rows, or codes, that it holds."""
    gallery = X
    if options.get("metric") == "hamming":
        gallery = X = (X > 0).astype(np.uint8)
    if options.get("algorithm") == "milvus":
        pytest.importorskip("milvus_lite")
        options = {**options, "uri": str(folder / "gallery.db")}
    if options.get("algorithm") == "faiss":
        pytest.importorskip("faiss")
    if options.get("storage") == "memory_map":
        np.save(folder / "X.npy", X)
        gallery = folder / "X.npy"
    return NeighborsRetriever(k, **options).fit(gallery, y, ids=ids), X


def make_clusters(n, n_features=32, n_clusters=30, spread=0.1, seed=0):
    """Tight, well separated clusters: what metric learning makes, and graphs get lost in."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(1).standard_normal((n_clusters, n_features))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    noise = spread * rng.standard_normal((n, n_features)) / np.sqrt(n_features)
    return (centers[rng.integers(n_clusters, size=n)] + noise).astype(np.float32)


def shares_found(found, expected):
    """Share of the true neighbors that were found, one per query."""
    return np.array([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected)])


def recall(found, expected):
    return shares_found(found, expected).mean()


def assert_sound(retriever, queries, k):
    """Distances are those of the positions, sorted; positions are different rows."""
    distances, positions = retriever.kneighbors(queries, k)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert np.isfinite(distances).all()
    assert all(len(set(row)) == k for row in positions)
    engine = retriever._gallery.engine
    which = np.repeat(np.arange(len(queries)), k)
    measured = engine.exact.rescore(engine.encode(queries), which, positions.ravel())
    np.testing.assert_array_equal(distances.ravel(), measured)
