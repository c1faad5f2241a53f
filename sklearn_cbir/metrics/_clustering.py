"""How well clusters of embeddings agree with the classes."""

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_array

from sklearn_cbir._labels import check_labels
from sklearn_cbir._typing import Labels, RandomState
from sklearn_cbir._validation import as_numpy, check_integer

__all__ = ["cluster_agreement", "pair_f1"]


def pair_f1(y: ArrayLike, clusters: ArrayLike) -> float:
    """F1 of predicting "same class" from "same cluster", over all pairs.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels.

    clusters : array-like of shape (n,)
        Cluster of every row.

    Returns
    -------
    float
        Twice the pairs that share both, divided by the pairs that share the class
        plus those that share the cluster. NaN if no pair shares either.

    Raises
    ------
    ValueError
        If labels have several columns or the lengths differ.

    Examples
    --------
    >>> from sklearn_cbir.metrics import pair_f1
    >>> pair_f1([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])  # 2 * 2 / (4 + 4)
    0.5
    """
    y = _single(y, "y")
    clusters = _single(clusters, "clusters", n=len(y))
    _, y = np.unique(y, return_inverse=True)
    _, clusters = np.unique(clusters, return_inverse=True)
    _, both = np.unique(np.stack([y, clusters]), axis=1, return_counts=True)
    shared, same_class, same_cluster = map(_n_pairs, (both, np.bincount(y), np.bincount(clusters)))
    total = same_class + same_cluster
    return float(2 * shared / total) if total else float("nan")


def cluster_agreement(
    embeddings: ArrayLike,
    y: ArrayLike,
    *,
    n_clusters: int | None = None,
    max_iter: int = 20,
    random_state: RandomState = 0,
) -> tuple[float, float]:
    """Cluster embeddings by k-means and compare the clusters with the classes.

    Papers on metric learning call these two numbers NMI and F1. Both depend on the
    start of k-means, so compare means over several seeds.

    Parameters
    ----------
    embeddings : array-like of shape (n, n_features)
        Rows, usually of unit length.

    y : array-like of shape (n,)
        Labels.

    n_clusters : int, default=None
        Number of clusters; None means the number of classes in `y`. The code of CPF
        takes the number of training classes.

    max_iter : int, default=20
        Maximum number of steps of k-means; 20 as in the code of CPF.

    random_state : int, RandomState instance or None, default=0
        Seed of k-means.

    Returns
    -------
    nmi : float
        Normalized mutual information of clusters and classes, from 0 to 1.

    pair_f1 : float
        As `pair_f1`.

    Raises
    ------
    ValueError
        If labels have several columns, lengths differ, or there are more clusters
        than rows.

    Examples
    --------
    >>> from sklearn_cbir.metrics import cluster_agreement
    >>> cluster_agreement([[0.0], [0.1], [5.0], [5.1]], ["a", "a", "b", "b"])
    (1.0, 1.0)
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    rows = check_array(as_numpy(embeddings, "embeddings"))
    y = _single(y, "y", n=len(rows))
    if n_clusters is None:
        n_clusters = len(np.unique(y))
    n_clusters = check_integer(n_clusters, "n_clusters", minimum=1, maximum=len(y))
    means = KMeans(n_clusters, n_init=1, max_iter=max_iter, random_state=random_state)
    clusters = means.fit_predict(rows)
    return float(normalized_mutual_info_score(y, clusters)), pair_f1(y, clusters)


def _single(labels: ArrayLike, name: str, n: int | None = None) -> Labels:
    """Return one label per row."""
    labels = check_labels(labels, name=name, n=n)
    if labels.ndim == 2:
        raise ValueError(
            f"{name} has {labels.shape[1]} columns, but clusters are compared with classes. Pass "
            "one label per row."
        )
    return labels


def _n_pairs(sizes: npt.NDArray[np.integer]) -> int:
    """Return how many pairs lie inside groups of these sizes."""
    sizes = sizes.astype(np.int64)
    return int((sizes * (sizes - 1) // 2).sum())
