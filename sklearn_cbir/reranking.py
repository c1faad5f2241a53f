"""Re-rankers: reorder the first results of every query by the distances among these results.

``reranker(queries, distances, positions, engine)`` returns one number per result, smaller is
nearer. Every query is re-ranked alone: only the query and its results count.
"""

from typing import Any, ClassVar, Literal, cast, get_args, overload

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from sklearn_cbir._typing import Floats, Positions, Reranker, SearchedRows
from sklearn_cbir._validation import check_choice, check_integer, check_real, resolve, shortened
from sklearn_cbir.codes import hamming_distances

__all__ = [
    "RERANKERS",
    "AlphaQueryExpansion",
    "AverageQueryExpansion",
    "DiffusionReranker",
    "KReciprocalReranker",
]

Form = Literal["paper", "code"]


class _Reranker(BaseEstimator):
    """Base of the re-rankers; a subclass implements `_check_parameters` and `_reorder`.

    ``_reorder(square, metric)`` returns one number per result, at most about 1, from the
    matrix of distances, (1 + n_results, 1 + n_results), whose first row is the query. These
    are Hamming distances, cosine distances or squared Euclidean distances: all three are
    (half) the squared length of a difference.
    """

    metrics: ClassVar[tuple[str, ...]] = ("cosine", "euclidean", "hamming")
    n_neighbors: int

    def _check_parameters(self) -> None:
        raise NotImplementedError

    def _reorder(self, square: Floats, metric: str) -> Floats:
        raise NotImplementedError

    def __call__(
        self,
        queries: np.ndarray,
        distances: np.ndarray,
        positions: np.ndarray,
        engine: SearchedRows,
    ) -> Floats:
        self._check_parameters()
        metric = engine.exact.metric
        new = np.empty(positions.shape)
        for row, found in enumerate(positions):
            rows = np.concatenate([queries[row : row + 1], engine.rows[found]])
            values = self._reorder(_square_distances(rows, metric), metric)
            # What differs by rounding alone stays in the order of the distances.
            pairs = np.column_stack([np.round(values, 12), distances[row]])
            new[row] = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()
        return new


class AverageQueryExpansion(_Reranker):
    """Search with the mean of the query and of its nearest results [1]_.

    A result is ranked by its distance to the mean of these rows; for the cosine
    distance, rows have unit length. For codes, it is ranked by the mean number of bits
    in which it differs from these rows.

    Parameters
    ----------
    n_neighbors : int, default=5
        Results that join the query; 0 leaves the order as it is.

    References
    ----------
    .. [1] O. Chum, J. Philbin, J. Sivic, M. Isard, A. Zisserman. "Total recall:
       automatic query expansion with a generative feature model for object
       retrieval". ICCV 2007.

    Examples
    --------
    >>> from sklearn_cbir import NeighborsRetriever
    >>> from sklearn_cbir.reranking import AverageQueryExpansion
    >>> gallery = [[1.0], [2.0], [-1.5], [3.0]]
    >>> plain = NeighborsRetriever(4, metric="euclidean").fit(gallery)
    >>> plain.predict([[0.0]])
    array([[0, 2, 1, 3]])
    >>> plain.set_params(rerank=AverageQueryExpansion(1)).predict([[0.0]])
    array([[0, 1, 2, 3]])
    """

    def __init__(self, n_neighbors: int = 5) -> None:
        self.n_neighbors = n_neighbors

    def _check_parameters(self) -> None:
        check_integer(self.n_neighbors, "n_neighbors", minimum=0)

    def _reorder(self, square: Floats, metric: str) -> Floats:
        # |mean - x|^2 is the mean of |member - x|^2 less what is the same for all x.
        members = square[: 1 + self.n_neighbors, 1:]
        return members.mean(axis=0) / (square.max() or 1)


class AlphaQueryExpansion(_Reranker):
    """Search with a mean in which nearer results weigh more [1]_.

    As `AverageQueryExpansion`, but the weight of a result is its cosine to the query,
    to the power of `alpha` (section 3.4 of [1]_), or 0 if the cosine is negative. Only
    for the cosine distance.

    Parameters
    ----------
    n_neighbors : int, default=10
        Results that join the query; 0 leaves the order as it is.

    alpha : float, default=3.0
        Exponent; with 0 all weights are equal.

    References
    ----------
    .. [1] F. Radenović, G. Tolias, O. Chum. "Fine-tuning CNN image retrieval with no
       human annotation". IEEE Transactions on Pattern Analysis and Machine
       Intelligence 41(7), 2019.

    Examples
    --------
    >>> from sklearn_cbir import NeighborsRetriever
    >>> from sklearn_cbir.reranking import AlphaQueryExpansion
    >>> gallery = [[1.0, 0.3], [1.0, 0.8], [1.0, -0.6]]
    >>> plain = NeighborsRetriever(3).fit(gallery)
    >>> plain.predict([[1.0, 0.0]])
    array([[0, 2, 1]])
    >>> plain.set_params(rerank=AlphaQueryExpansion(1)).predict([[1.0, 0.0]])
    array([[0, 1, 2]])
    """

    metrics: ClassVar[tuple[str, ...]] = ("cosine",)

    def __init__(self, n_neighbors: int = 10, *, alpha: float = 3.0) -> None:
        self.n_neighbors = n_neighbors
        self.alpha = alpha

    def _check_parameters(self) -> None:
        check_integer(self.n_neighbors, "n_neighbors", minimum=0)
        check_real(self.alpha, "alpha", minimum=0)

    def _reorder(self, square: Floats, metric: str) -> Floats:
        cosines = 1 - square[0, : 1 + self.n_neighbors]
        weights = np.where(cosines > 0, cosines, 0) ** self.alpha * (cosines > 0)
        weights[0] = 1  # the query, be it a row of zeros
        return weights @ square[: len(weights), 1:] / weights.sum()


class KReciprocalReranker(_Reranker):
    """Rank by how many neighbors the query and a result have in common [1]_.

    Two rows are k-reciprocal neighbors if each is among the `n_neighbors` nearest of
    the other. Every row is described by its k-reciprocal neighbors, weighted by
    their nearness; the Jaccard distance of two descriptions is mixed with the plain
    distance (equations 2 to 12 of [1]_).

    Unlike in [1]_, neighbors are searched among the query and its first results, not
    in the whole gallery, so the time depends only on `rerank_depth`. Distances are
    divided by the largest of them. The authors' code differs from the equations;
    ``form="code"`` is as there.

    Parameters
    ----------
    n_neighbors : int, default=20
        Number of neighbors that must be mutual, k1 of [1]_.

    n_averaged : int, default=6
        Number of nearest rows, including the row itself, over which a description is
        averaged, k2 of [1]_; 1 does not average.

    distance_weight : float, default=0.3
        Share of the plain distance, from 0 to 1, lambda of [1]_; 1 leaves the order
        as it is.

    form : {"paper", "code"}, default="paper"
        "code" does what the authors' code does. Euclidean distances are squared, and
        the distances of every row are divided by its own largest one. A neighbor adds
        its own neighbors if more than two thirds of these are known; in [1]_ it is two
        thirds or more. Half of an odd `n_neighbors` is rounded to the nearest even
        number; "paper" rounds it up.

    References
    ----------
    .. [1] Z. Zhong, L. Zheng, D. Cao, S. Li. "Re-ranking person re-identification
       with k-reciprocal encoding". CVPR 2017.

    Examples
    --------
    >>> from sklearn_cbir import NeighborsRetriever
    >>> from sklearn_cbir.reranking import KReciprocalReranker
    >>> gallery = [[1.0], [2.0], [3.0], [-1.8], [-1.9], [-2.0]]
    >>> plain = NeighborsRetriever(6, metric="euclidean").fit(gallery)
    >>> plain.predict([[0.0]])
    array([[0, 3, 4, 1, 5, 2]])
    >>> plain.set_params(rerank=KReciprocalReranker(2, n_averaged=1)).predict([[0.0]])
    array([[0, 1, 3, 4, 5, 2]])
    """

    form: Form = "paper"  # of what was saved before there was a choice

    def __init__(
        self,
        n_neighbors: int = 20,
        *,
        n_averaged: int = 6,
        distance_weight: float = 0.3,
        form: Form = "paper",
    ) -> None:
        self.n_neighbors = n_neighbors
        self.n_averaged = n_averaged
        self.distance_weight = distance_weight
        self.form = form

    def _check_parameters(self) -> None:
        check_integer(self.n_neighbors, "n_neighbors", minimum=1)
        check_integer(self.n_averaged, "n_averaged", minimum=1)
        check_real(self.distance_weight, "distance_weight", minimum=0, maximum=1)
        check_choice(self.form, "form", get_args(Form))

    def _reorder(self, square: Floats, metric: str) -> Floats:
        as_code = self.form == "code"
        distances = np.sqrt(square) if metric == "euclidean" and not as_code else square
        largest = distances.max(axis=1 if as_code else None, keepdims=True)
        distances = distances / np.where(largest > 0, largest, 1)
        order = _neighbor_order(distances)
        mutual = _mutual(order, self.n_neighbors)
        n_half = round(self.n_neighbors / 2) if as_code else (self.n_neighbors + 1) // 2
        half = _mutual(order, n_half)
        # R*: what a neighbor agrees with in two thirds of its own adds all of it.
        shared = mutual.astype(np.float64) @ half.T
        known, enough = 3 * shared, 2 * half.sum(axis=1)
        agree = mutual & (known > enough if as_code else known >= enough)
        expanded = mutual | (agree.astype(np.float64) @ half > 0)
        weights = np.where(expanded, np.exp(-distances), 0)
        weights /= weights.sum(axis=1, keepdims=True)
        weights = weights[order[:, : self.n_averaged]].mean(axis=1)
        common = np.minimum(weights[0], weights[1:]).sum(axis=1)
        jaccard = 1 - common / (2 - common)  # rows sum to 1
        share = self.distance_weight
        return (1 - share) * jaccard + share * distances[0, 1:]


class DiffusionReranker(_Reranker):
    """Let similarity to the query spread over the graph of its results [1]_.

    The results form a graph of mutual neighbors. Similarity flows from the nearest
    results of the query along the edges until it is in balance. So results that a
    chain of near rows connects to the query rank before others at the same distance
    (equations 3 to 7 of [1]_, solved exactly).

    [1]_ cuts the graph of the whole gallery down to the first results; here the graph
    is built among these results. The Euclidean and the Hamming distance have no
    cosine, so there the similarity of two rows is ``exp(-d / sqrt(s * t))``: ``d`` is
    their squared distance, or number of bits, and ``s`` and ``t`` are the same from
    each row to its last neighbor in the graph.

    Parameters
    ----------
    n_neighbors : int, default=10
        Neighbors in the graph, without the row itself: k - 1 for the k of [1]_, since
        the authors' lists of neighbors include the row.

    n_sources : int, default=5
        Results from which similarity flows, kq of [1]_.

    alpha : float, default=0.9
        How far similarity flows, from 0 to below 1. [1]_ has 0.99; among a hundred
        results, the order then depends mainly on the number of neighbors of each.

    gamma : float, default=3.0
        Exponent of cosines.

    References
    ----------
    .. [1] A. Iscen, G. Tolias, Y. Avrithis, T. Furon, O. Chum. "Efficient diffusion on
       region manifolds: recovering small objects with compact CNN
       representations". CVPR 2017.

    Examples
    --------
    >>> from sklearn_cbir import NeighborsRetriever
    >>> from sklearn_cbir.reranking import DiffusionReranker
    >>> gallery = [[1.0], [2.0], [3.0], [4.0], [-2.5], [-3.6]]
    >>> plain = NeighborsRetriever(6, metric="euclidean").fit(gallery)
    >>> plain.predict([[0.0]])
    array([[0, 1, 4, 2, 5, 3]])
    >>> plain.set_params(rerank=DiffusionReranker(2, n_sources=1, alpha=0.5)).predict([[0.0]])
    array([[0, 1, 2, 3, 4, 5]])
    """

    def __init__(
        self, n_neighbors: int = 10, *, n_sources: int = 5, alpha: float = 0.9, gamma: float = 3.0
    ) -> None:
        self.n_neighbors = n_neighbors
        self.n_sources = n_sources
        self.alpha = alpha
        self.gamma = gamma

    def _check_parameters(self) -> None:
        check_integer(self.n_neighbors, "n_neighbors", minimum=1)
        check_integer(self.n_sources, "n_sources", minimum=1)
        check_real(self.gamma, "gamma", minimum=0)
        if check_real(self.alpha, "alpha", minimum=0, maximum=1) == 1:
            raise ValueError("alpha=1 never converges. Use less than 1, such as 0.9.")

    def _reorder(self, square: Floats, metric: str) -> Floats:
        order = _neighbor_order(square)
        similar = self._similarities(square, order, metric)
        sources = np.zeros(len(square) - 1)
        nearest = order[0, 1 : 1 + self.n_sources] - 1
        sources[nearest] = similar[0, 1:][nearest]
        graph = np.where(_mutual(_neighbor_order(square[1:, 1:]), self.n_neighbors), 1, 0)
        graph = graph * similar[1:, 1:]
        np.fill_diagonal(graph, 0)
        degrees = np.sqrt(graph.sum(axis=1))
        scale = np.divide(1, degrees, out=np.zeros_like(degrees), where=degrees > 0)
        graph *= scale[:, None] * scale
        return -np.linalg.solve(np.eye(len(graph)) - self.alpha * graph, sources)

    def _similarities(self, square: Floats, order: Positions, metric: str) -> Floats:
        """Return similarities from 0 to 1."""
        if metric == "cosine":
            cosines = 1 - square
            return np.where(cosines > 0, cosines, 0) ** self.gamma * (cosines > 0)
        last = order[:, min(self.n_neighbors, len(order) - 1)]
        reach = np.sqrt(square[np.arange(len(order)), last])
        unit = reach[:, None] * reach
        return np.exp(-np.divide(square, unit, out=np.where(square > 0, np.inf, 0), where=unit > 0))


RERANKERS: dict[str, type[_Reranker]] = {
    "query_expansion": AverageQueryExpansion,
    "alpha_query_expansion": AlphaQueryExpansion,
    "k_reciprocal": KReciprocalReranker,
    "diffusion": DiffusionReranker,
}


@overload
def resolve_reranker(rerank: None, metric: str) -> None: ...
@overload
def resolve_reranker(rerank: str | Reranker, metric: str) -> Reranker: ...
def resolve_reranker(rerank: str | Reranker | None, metric: str) -> Reranker | None:
    """Return the re-ranker that a parameter stands for, or None."""
    if rerank is None:
        return None
    own = "a re-ranker with parameters, or a function as NeighborsRetriever describes it"
    reranker: Any = resolve(rerank, RERANKERS, "rerank", own=own)
    if isinstance(reranker, type):
        reranker = reranker()
    if isinstance(reranker, _Reranker):
        reranker._check_parameters()
    if not callable(reranker):
        raise ValueError(
            f"rerank={shortened(rerank)} is not known. Use one of {sorted(RERANKERS)} or {own}."
        )
    metrics = getattr(reranker, "metrics", (metric,))
    if metric not in metrics:
        raise ValueError(
            f"rerank={shortened(rerank)} is not defined for metric={metric!r}. It needs metric="
            f"{' or '.join(map(repr, metrics))}."
        )
    return cast(Reranker, reranker)


def _square_distances(rows: np.ndarray, metric: str) -> Floats:
    """Return all distances between rows, squared if they are Euclidean, float64 (n, n)."""
    if metric == "hamming":
        return hamming_distances(rows, rows).astype(np.float64)
    rows = rows.astype(np.float64)
    if metric == "cosine":
        square = np.minimum(1 - rows @ rows.T, 2)
    else:
        rows -= rows[:1]  # far from the origin, squares would cancel
        halves = np.einsum("ij,ij->i", rows, rows)
        square = halves[:, None] + halves - 2 * (rows @ rows.T)
    np.fill_diagonal(square, 0)
    return np.maximum(square, 0, out=square)


def _neighbor_order(distances: Floats) -> Positions:
    """Return the rows in the order of their distance to each; every row is its own first."""
    distances = distances.copy()
    np.fill_diagonal(distances, -1)
    return np.argsort(distances, axis=1, kind="stable")


def _mutual(order: Positions, k: int) -> NDArray[np.bool_]:
    """Say which rows are among the `k` nearest of each other, themselves included."""
    near = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(near, order[:, : 1 + k], True, axis=1)
    return near & near.T
