"""The methods of a retriever that return neighbors as sparse matrices."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn import get_config

from sklearn_cbir._typing import IdsLike
from sklearn_cbir._validation import check_boolean, check_choice, check_integer
from sklearn_cbir.index._gallery import Gallery

MODES = ("connectivity", "distance")


Graph: TypeAlias = sparse.csr_array | sparse.csr_matrix  # (n_queries, n_samples_fit_)


class NeighborGraphsMixin:
    """Graphs of neighbors, as scikit-learn's estimators of neighbors give them."""

    n_neighbors: int
    _fitted: Callable[[], Gallery]
    _nearest: Callable[..., tuple[np.ndarray, np.ndarray]]
    _within: Callable[..., tuple[np.ndarray, np.ndarray]]

    def kneighbors_graph(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        mode: Literal["connectivity", "distance"] = "connectivity",
        *,
        ids: IdsLike | None = None,
    ) -> Graph:
        """Return the nearest gallery rows of every query as a sparse matrix.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries, as in `kneighbors`.

        n_neighbors : int, default=None
            Number of results; None means that of the retriever.

        mode : {"connectivity", "distance"}, default="connectivity"
            Whether entries are 1 or the distance.

        ids : array-like of shape (n_queries,), default=None
            Ids of the queries, as in `kneighbors`.

        Returns
        -------
        sparse matrix in CSR format of shape (n_queries, n_samples_fit_), float64
            With `n_neighbors` explicit entries per row, nearest first. It is a
            `scipy.sparse.csr_matrix`, or a ``csr_array`` where scikit-learn's
            ``sparse_interface`` is "sparray".
        """
        check_choice(mode, "mode", MODES)
        gallery = self._fitted()
        distances, positions = self._nearest(gallery, X, n_neighbors, ids)
        return _sparse(distances, positions, mode, len(gallery))

    def radius_neighbors_graph(
        self,
        X: ArrayLike | None = None,
        radius: ArrayLike | None = None,
        mode: Literal["connectivity", "distance"] = "connectivity",
        sort_results: bool = False,
        *,
        ids: IdsLike | None = None,
    ) -> Graph:
        """Return all gallery rows within a distance of every query as a sparse matrix, exactly.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries, as in `radius_neighbors`.

        radius : float or array-like of shape (n_queries,)
            Largest distance, itself included, or one per query.

        mode : {"connectivity", "distance"}, default="connectivity"
            Whether entries are 1 or the distance.

        sort_results : bool, default=False
            Whether the nearest come first; otherwise the smaller positions do.

        ids : array-like of shape (n_queries,), default=None
            Ids of the queries, as in `kneighbors`.

        Returns
        -------
        sparse matrix in CSR format of shape (n_queries, n_samples_fit_), float64
            With an explicit entry, which may be 0, for every row within the radius.

        Examples
        --------
        >>> from sklearn_cbir import NeighborsRetriever
        >>> retriever = NeighborsRetriever(metric="euclidean").fit([[0.0], [1.0], [3.0]])
        >>> retriever.radius_neighbors_graph([[0.5], [2.0]], [0.5, 1.0]).toarray()
        array([[1., 1., 0.],
               [0., 1., 1.]])
        """
        check_choice(mode, "mode", MODES)
        check_boolean(sort_results, "sort_results")
        gallery = self._fitted()
        distances, positions = self._within(gallery, X, radius, ids, sort_results)
        return _sparse(distances, positions, mode, len(gallery))

    def transform(self, X: ArrayLike) -> Graph:
        """Return the graph of distances, as scikit-learn's `KNeighborsTransformer` does.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.

        Returns
        -------
        sparse matrix in CSR format of shape (n_queries, n_samples_fit_), float64
            Distances to the nearest ``n_neighbors + 1`` rows: one more, because a
            row of the gallery finds itself.
        """
        self._fitted()
        more = check_integer(self.n_neighbors, "n_neighbors", minimum=1) + 1
        return self.kneighbors_graph(X, more, mode="distance")


def _sparse(distances: Any, positions: Any, mode: str, n: int) -> Graph:
    """Return the results of every query as a sparse matrix of n columns."""
    starts = np.concatenate([[0], np.cumsum([len(found) for found in positions])])
    columns = np.concatenate(positions)
    values = np.ones(len(columns)) if mode == "connectivity" else np.concatenate(distances)
    as_array = get_config()["sparse_interface"] == "sparray"
    graph = sparse.csr_array if as_array else sparse.csr_matrix
    return graph((values.astype(np.float64), columns, starts), shape=(len(starts) - 1, n))
