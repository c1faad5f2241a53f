"""The methods of a retriever that return neighbors as sparse matrices."""

import numpy as np
from scipy import sparse
from sklearn import get_config

from sklearn_cbir._validation import check_boolean, check_choice, check_integer

MODES = ("connectivity", "distance")


class NeighborGraphsMixin:
    """Graphs of neighbors, as scikit-learn's estimators of neighbors give them."""

    def kneighbors_graph(self, X=None, n_neighbors=None, mode="connectivity", *, ids=None):
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
            With `n_neighbors` explicit entries per row, nearest first.
        """
        check_choice(mode, "mode", MODES)
        gallery = self._fitted()
        distances, positions = self._nearest(gallery, X, n_neighbors, ids)
        return _sparse(distances, positions, mode, len(gallery))

    def radius_neighbors_graph(
        self, X=None, radius=None, mode="connectivity", sort_results=False, *, ids=None
    ):
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

    def transform(self, X):
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


def _sparse(distances, positions, mode, n):
    """Return the results of every query as a sparse matrix of n columns."""
    starts = np.concatenate([[0], np.cumsum([len(found) for found in positions])])
    positions = np.concatenate(positions)
    values = np.ones(len(positions)) if mode == "connectivity" else np.concatenate(distances)
    as_array = get_config()["sparse_interface"] == "sparray"
    graph = sparse.csr_array if as_array else sparse.csr_matrix
    return graph((values.astype(np.float64), positions, starts), shape=(len(starts) - 1, n))
