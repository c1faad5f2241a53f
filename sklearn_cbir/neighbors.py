"""Search a gallery: nearest neighbors, ids, and retrieval scores, as a scikit-learn estimator."""

from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any, Literal, Self, TypeAlias, TypeVar, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
)
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_cbir._labels import check_labels, check_same_columns
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._typing import (
    Floats,
    Found,
    Ids,
    IdsLike,
    Labels,
    LabelsLike,
    Metric,
    PathLike,
    Positions,
    RandomState,
    Reranker,
    WhereLike,
)
from sklearn_cbir._validation import (
    check_boolean,
    check_integer,
    check_real,
    check_verbose,
    progress_bar,
    state_of_version,
)
from sklearn_cbir.index._checking import ask, check_queries, check_radius, check_uncut
from sklearn_cbir.index._engines import (
    add_rows,
    check_engine_parameters,
    check_gallery,
    exact_in_memory,
    make_engine,
)
from sklearn_cbir.index._evaluation import (
    Evaluation,
    Evaluations,
    ids_by_query,
    summarize_scores,
)
from sklearn_cbir.index._feedback import Judged, ask_like
from sklearn_cbir.index._gallery import Gallery, GalleryIds, check_ids
from sklearn_cbir.index._graph_methods import NeighborGraphsMixin
from sklearn_cbir.index._search import (
    score_queries,
    search_asked,
    search_radius,
    warn_of_copies,
    warn_of_found_copies,
)
from sklearn_cbir.index._targets import GalleryTargets, hold_labels
from sklearn_cbir.metrics import mean_over_queries, parse_metric
from sklearn_cbir.reranking import resolve_reranker

__all__ = ["NeighborsRetriever"]

Lists: TypeAlias = NDArray[np.object_]  # (n_queries,), one array per query
Name = TypeVar("Name", bound=str | Metric)

STATE_FORMAT = 2  # of what is pickled
IN_GALLERY = ("n_features_in_", "feature_names_in_")  # what format 1 has twice


class NeighborsRetriever(
    CallbackSupportMixin,
    NeighborGraphsMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Find the nearest neighbors of queries in a gallery of features or codes.

    The last step of a retrieval pipeline: `predict` returns the ids of the nearest
    gallery rows, nearest first, and `score` a retrieval metric such as mean average
    precision, so `GridSearchCV` can tune all steps before it.

    A query is left out of its own results by id, never by position or distance:
    with ``X=None``, when the gallery searches itself, or if you pass the same ids
    to `fit` and to the query.

    Parameters
    ----------
    n_neighbors : int, default=10
        Number of results per query.

    metric : {"cosine", "euclidean", "hamming"}, default="cosine"
        Distance. ``"cosine"`` is 1 - cosine, from 0 to 2, and 1 between a zero row
        and anything. ``"hamming"`` takes rows of {0, 1} and counts the bits that
        differ (scikit-learn's gives the fraction).

    algorithm : {"auto", "exact", "nndescent", "faiss", "milvus"}, default="auto"
        How neighbors are found. ``"exact"`` compares with every row.
        ``"nndescent"`` searches a graph [1]_, approximately, which is faster for large
        galleries and many queries; the first process on a machine compiles for some
        seconds. ``"faiss"`` is ready in a second and needs the extra ``[faiss]``.
        ``"milvus"`` keeps the rows at `uri` and is exact; it needs ``[milvus]``.
        ``"auto"`` takes the graph for floats beyond 20,000 rows and
        5,000,000 numbers. `score`, `radius_neighbors` and `like` are always exact, so
        ``"exact"`` saves building graphs in a parameter search.

    storage : {"copy", "float16", "memory_map"}, default="copy"
        How floats are stored. ``"float16"`` rounds the gallery to half precision, in
        half the memory, and compares it in float32, exactly or by the graph.
        ``"memory_map"`` searches a file exactly, block by block: `fit` takes its
        path or ``numpy.load(path, mmap_mode="r")``, and a pickle its path. The file
        must not change.

    rerank : str or callable, default=None
        Reorders the first `rerank_depth` results of every query: a key of
        `sklearn_cbir.reranking.RERANKERS`, one of its re-rankers with parameters, or
        a function. ``rerank(queries, distances, positions, engine)`` returns one
        number per result, smaller is nearer. `distances` and `positions` have the shape
        (n_queries, depth); `queries` and ``engine.rows`` are the compared rows (of
        unit length for the cosine distance), and ``engine.query(rows, k)``
        searches further.

    rerank_depth : int, default=100
        How many results `rerank` may reorder; the others keep their order.

    scoring : str or callable, default="map"
        What `score` returns: a key of `sklearn_cbir.metrics.METRICS`, with or
        without a number of results, such as ``"map@100"`` or ``"recall@1"``. Or a
        function ``scoring(y_queries, y_gallery, distances)`` of the labels of some
        queries, those of the gallery and an array (n_queries, n_gallery), that
        returns one number per query, NaN for one that does not count. A query from
        the gallery comes alone, without its own row, unless the function has a
        keyword `exclude`: the position of every query (-1: none), or None.

    expected_queries : int, default=None
        How many queries one process will have, for ``algorithm="auto"``; None means
        many.

    recall_target : float, default=0.95
        `fit` warns if the index finds a smaller share of the true neighbors.

    n_jobs : int, default=None
        Threads that build the index; None means 1. The graph depends on it.

    random_state : int, RandomState instance or None, default=None
        Seed of the index.

    uri : str, default=None
        Where ``algorithm="milvus"`` keeps the rows: a local file that ends in ``.db``, or
        the address of a server or cluster such as ``"http://127.0.0.1:19530"``. The
        environment variable ``MILVUS_TOKEN`` holds its token, and ``MILVUS_URI`` the
        one address that the token is sent to.

    collection : str, default=None
        Beginning of the name of the collection there; None means ``"sklearn_cbir"``.
        Every `fit` makes a new one. It is dropped with the retriever, and kept for
        good if the retriever was pickled or saved.

    verbose : int, default=0
        Above 0, `score` and sending rows to `uri` show their progress.

    Attributes
    ----------
    ids_ : ndarray of shape (n_samples_fit_,)
        Id of every gallery row: your ids, or numbers that are never used again after
        `remove`. Text has fixed width, or is stored as objects if one text is much
        longer than most.

    y_ : ndarray of shape (n_samples_fit_,) or (n_samples_fit_, n_labels), or None
        Label of every gallery row; None if it was fitted without labels.

    algorithm_ : str
        The algorithm in use: ``"exact"`` or a key of `algorithm`.

    collection_ : str
        Name of the collection at `uri`; only with ``algorithm="milvus"``.

    recall_ : float
        Share of the true neighbors that the algorithm found for rows that the
        index does not hold; 1.0 if it is exact.

    n_samples_fit_ : int
        Number of gallery rows.

    n_features_in_ : int
        Numbers, or bits, per row.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` had names.

    References
    ----------
    .. [1] W. Dong, C. Moses, K. Li. "Efficient k-nearest neighbor graph construction
       for generic similarity measures". WWW 2011.

    Examples
    --------
    >>> from sklearn_cbir import NeighborsRetriever
    >>> gallery = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
    >>> retriever = NeighborsRetriever(n_neighbors=2)
    >>> retriever = retriever.fit(gallery, ["a", "a", "b", "b"], ids=["p", "q", "r", "s"])
    >>> retriever.predict([[1.0, 0.2]])
    array([['q', 'p']], dtype='<U1')
    >>> retriever.score([[1.0, 0.2], [0.2, 1.0]], ["a", "b"])
    1.0
    """

    _gallery: Gallery | None = None  # all that is fitted, replaced as a whole

    def __init__(
        self,
        n_neighbors: int = 10,
        *,
        metric: Literal["cosine", "euclidean", "hamming"] = "cosine",
        algorithm: Literal["auto", "exact", "nndescent", "faiss", "milvus"] = "auto",
        storage: Literal["copy", "float16", "memory_map"] = "copy",
        rerank: str | Reranker | None = None,
        rerank_depth: int = 100,
        scoring: str | Metric = "map",
        expected_queries: int | None = None,
        recall_target: float = 0.95,
        n_jobs: int | None = None,
        random_state: RandomState = None,
        uri: str | None = None,
        collection: str | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.algorithm = algorithm
        self.storage = storage
        self.rerank = rerank
        self.rerank_depth = rerank_depth
        self.scoring = scoring
        self.expected_queries = expected_queries
        self.recall_target = recall_target
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.uri = uri
        self.collection = collection
        self.verbose = verbose

    @with_callbacks
    def fit(
        self, X: ArrayLike | PathLike, y: LabelsLike | None = None, *, ids: IdsLike | None = None
    ) -> Self:
        """Index a gallery.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or path
            Rows to search, copied. Floats, or {0, 1} under the Hamming distance. The
            path of a ``.npy`` file only with ``storage="memory_map"``.

        y : array-like of shape (n_samples,) or (n_samples, n_labels), default=None
            Labels for `score`: one per row, or 0/1 columns. Or targets of a regressor
            that follows, which are kept in `y_` and cannot be scored.

        ids : array-like of shape (n_samples,), default=None
            What `predict` returns: unique text, whole numbers or other hashable
            objects, such as paths. None counts the rows.

        Returns
        -------
        NeighborsRetriever
            The fitted retriever.
        """
        self._check_parameters(self.metric)
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        rows, names = check_gallery(X, self, type(self).__name__)
        of_rows = GalleryIds(ids, len(rows))
        labels = None if y is None else hold_labels(y, len(rows))
        engine = make_engine(self, self.metric, *rows.shape).build(rows)
        gallery = Gallery(self.metric, engine, of_rows, labels, rows.shape[1], names)
        with self._changing:
            before, self._gallery = self._gallery, gallery
            try:
                context.call_on_fit_task_end(estimator=self, X=rows, y=y)
            except BaseException:  # whatever was fitted before goes on working
                self._gallery = before
                raise
        return self

    def partial_fit(
        self, X: ArrayLike, y: LabelsLike | None = None, *, ids: IdsLike | None = None
    ) -> Self:
        """Add rows to the gallery; the next query finds them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to add.

        y : array-like of shape (n_samples,) or (n_samples, n_labels), default=None
            Labels; needed if, and only if, the gallery has labels.

        ids : array-like of shape (n_samples,), default=None
            New ids; needed if, and only if, you passed ids to `fit`.

        Returns
        -------
        NeighborsRetriever
            The retriever.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y, ids=ids)
        with self._changing:
            gallery = self._fitted()
            self._check_parameters(gallery.metric)
            rows = check_queries(X, gallery, type(self).__name__)
            gallery.check_labels(y)
            all_ids = gallery.ids.add(ids, len(rows))
            labels = None if gallery.labels is None else gallery.labels.add(y, len(rows))
            engine = add_rows(gallery.engine, rows, self)
            self._gallery = replace(gallery, engine=engine, ids=all_ids, labels=labels)
        return self

    def remove(self, ids: IdsLike | Set[object]) -> Self:
        """Remove rows from the gallery.

        Parameters
        ----------
        ids : array-like of shape (n_samples,) or set
            Ids of the rows, as `ids_` has them.

        Returns
        -------
        NeighborsRetriever
            The retriever. Positions of later rows move up; ids stay.
        """
        check_is_fitted(self)
        with self._changing:
            gallery = self._fitted()
            ids = check_ids(ids)
            if len(ids):
                self._gallery = gallery.remove(gallery.find_to_remove(ids))
        return self

    def relocate(self, place: PathLike) -> Self:
        """Set the new place of the gallery's rows after a move; they are not copied.

        Parameters
        ----------
        place : str or path
            The ``.npy`` file of ``storage="memory_map"``, whose whole content is
            compared, or the `uri` of ``algorithm="milvus"``, where a sample of rows is
            compared; the parameter `uri` is set to it.

        Returns
        -------
        NeighborsRetriever
            The retriever. After an error it is unchanged.
        """
        check_is_fitted(self)
        with self._changing:
            self._gallery = gallery = self._held().relocate(place)
            if gallery.engine.needs_address:
                self.uri = gallery.engine.given_uri
        return self

    @overload
    def kneighbors(
        self,
        X: ArrayLike | None = ...,
        n_neighbors: int | None = ...,
        return_distance: Literal[True] = ...,
        *,
        ids: IdsLike | None = ...,
        where: WhereLike | None = ...,
    ) -> tuple[Found, Positions]: ...
    @overload
    def kneighbors(
        self,
        X: ArrayLike | None = ...,
        n_neighbors: int | None = ...,
        *,
        return_distance: Literal[False],
        ids: IdsLike | None = ...,
        where: WhereLike | None = ...,
    ) -> Positions: ...
    @overload
    def kneighbors(
        self,
        X: ArrayLike | None,
        n_neighbors: int | None,
        return_distance: Literal[False],
        *,
        ids: IdsLike | None = ...,
        where: WhereLike | None = ...,
    ) -> Positions: ...
    def kneighbors(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
        *,
        ids: IdsLike | None = None,
        where: WhereLike | None = None,
    ) -> tuple[Found, Positions] | Positions:
        """Find the nearest gallery rows of every query.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries. None searches with the rows of the gallery that have the `ids`, or
            with all rows, each left out of its own results.

        n_neighbors : int, default=None
            Number of results; None means `n_neighbors` of the retriever.

        return_distance : bool, default=True
            Whether to return the distances too.

        ids : array-like of shape (n_queries,), default=None
            Ids of the queries. A query whose id you also passed to `fit` is left out of
            its own results, so with such ids there is one result fewer. Without `X`:
            ids of the gallery, as in `ids_`, in any order.

        where : array-like of bool of shape (n_samples_fit_,), or ids, default=None
            Rows of the gallery that may be found; None means all. One bool for each
            row, or the ids of these rows in any order, also as a set. Positions are
            still those of the whole gallery.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors)
            Nearest first (with `rerank`, in its order); numbers of bits for the Hamming
            distance. Only if `return_distance`.

        positions : ndarray of shape (n_queries, n_neighbors), int64
            Current positions in the gallery; at equal distance the smaller first.
        """
        check_boolean(return_distance, "return_distance")
        distances, positions = self._nearest(self._fitted(), X, n_neighbors, ids, where)
        return (distances, positions) if return_distance else positions

    @overload
    def radius_neighbors(
        self,
        X: ArrayLike | None = ...,
        radius: ArrayLike | None = ...,
        return_distance: Literal[True] = ...,
        sort_results: bool = ...,
        *,
        ids: IdsLike | None = ...,
        where: WhereLike | None = ...,
    ) -> tuple[Lists, Lists]: ...
    @overload
    def radius_neighbors(
        self,
        X: ArrayLike | None = ...,
        radius: ArrayLike | None = ...,
        *,
        return_distance: Literal[False],
        sort_results: bool = ...,
        ids: IdsLike | None = ...,
        where: WhereLike | None = ...,
    ) -> Lists: ...
    @overload
    def radius_neighbors(
        self,
        X: ArrayLike | None,
        radius: ArrayLike | None,
        return_distance: Literal[False],
        sort_results: bool = ...,
        *,
        ids: IdsLike | None = ...,
        where: WhereLike | None = ...,
    ) -> Lists: ...
    def radius_neighbors(
        self,
        X: ArrayLike | None = None,
        radius: ArrayLike | None = None,
        return_distance: bool = True,
        sort_results: bool = False,
        *,
        ids: IdsLike | None = None,
        where: WhereLike | None = None,
    ) -> tuple[Lists, Lists] | Lists:
        """Find all gallery rows within a distance of every query, exactly.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries. None searches with the rows of the gallery that have the `ids`, or
            with all rows, each left out of its own results.

        radius : float or array-like of shape (n_queries,)
            Largest distance, included, or one per query: a number of bits for the
            Hamming distance. Infinity finds all rows. It is compared with distances in
            double precision, as `kneighbors` returns them.

        return_distance : bool, default=True
            Whether to return the distances too.

        sort_results : bool, default=False
            Whether the nearest come first; otherwise the smallest positions.

        ids : array-like of shape (n_queries,), default=None
            Ids of the queries, as in `kneighbors`.

        where : array-like of bool of shape (n_samples_fit_,), or ids, default=None
            Rows of the gallery that may be found, as in `kneighbors`.

        Returns
        -------
        distances : ndarray of shape (n_queries,) of arrays
            Only if `return_distance`.

        positions : ndarray of shape (n_queries,) of arrays, int64
            Current positions in the gallery.
        """
        check_boolean(return_distance, "return_distance")
        check_boolean(sort_results, "sort_results")
        distances, positions = self._within(self._fitted(), X, radius, ids, sort_results, where)
        return (distances, positions) if return_distance else positions

    def predict(
        self,
        X: ArrayLike | None = None,
        *,
        ids: IdsLike | None = None,
        where: WhereLike | None = None,
    ) -> Ids:
        """Return the ids of the nearest gallery rows.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries, as in `kneighbors`.

        ids : array-like of shape (n_queries,), default=None
            Ids of the queries, as in `kneighbors`.

        where : array-like of bool of shape (n_samples_fit_,), or ids, default=None
            Rows of the gallery that may be found, as in `kneighbors`.

        Returns
        -------
        ndarray of shape (n_queries, n_neighbors)
            Ids, nearest first.
        """
        gallery = self._fitted()
        return gallery.ids.at(self._nearest(gallery, X, None, ids, where)[1])

    def like(
        self,
        ids: IdsLike | Set[object] | None = (),
        unlike: IdsLike | Set[object] | None = (),
        *,
        X: ArrayLike | None = None,
        unlike_X: ArrayLike | None = None,
        unlike_weight: float = 0.5,
        n_neighbors: int | None = None,
        where: WhereLike | None = None,
    ) -> tuple[Found, Positions]:
        """Find rows similar to some and not to others: relevance feedback [1]_.

        All arguments make one query, and rows with an id are left out of its results.
        For floats it is Rocchio's: the mean of the liked rows less `unlike_weight`
        times the mean of the others (of unit length for the cosine distance). Results
        are ranked by their mean distance to the liked rows, less `unlike_weight` times
        that to the others. This also holds for squared Euclidean distances, after a
        division by ``1 - unlike_weight``. For codes, each bit is a vote: it is 1 if the
        share of liked rows with a 1 is above a half by more than `unlike_weight` times
        that of the others, and 0 at a tie. The search is exact, whatever `algorithm`
        is.

        Parameters
        ----------
        ids : array-like of shape (n_liked,) or set, default=()
            Ids of liked rows, in any order; an id that is there twice counts once.

        unlike : array-like of shape (n_unliked,) or set, default=()
            Ids of disliked rows. No id may be in both.

        X : array-like of shape (n_rows, n_features), default=None
            Liked rows that are not in the gallery. If a row is in the gallery, it is
            not left out.

        unlike_X : array-like of shape (n_rows, n_features), default=None
            Disliked rows that are not in the gallery.

        unlike_weight : float, default=0.5
            Weight of the mean of `unlike` and `unlike_X`, from 0 to below 1; the mean
            of `ids` and `X` has weight 1. 0 only leaves them out of the results. [2]_
            calls ``0.15 / 0.75``, which is 0.2, usual for text.

        n_neighbors : int, default=None
            Number of results; None means `n_neighbors` of the retriever.

        where : array-like of bool of shape (n_samples_fit_,), or ids, default=None
            Rows of the gallery that may be found, as in `kneighbors`; liked and
            disliked rows may be others.

        Returns
        -------
        distances : ndarray of shape (1, n_neighbors)
            Distances to the one query, as in `kneighbors`.

        positions : ndarray of shape (1, n_neighbors), int64
            Current positions in the gallery; ``ids_[positions]`` are their ids.

        Raises
        ------
        ValueError
            If nothing is liked, an id is not in the gallery or is in both, liked and
            disliked rows cancel each other for the cosine distance, or fewer than
            `n_neighbors` rows are left.

        References
        ----------
        .. [1] J. J. Rocchio. "Relevance feedback in information retrieval". In G. Salton
           (ed.), "The SMART retrieval system", Prentice Hall, 1971.
        .. [2] C. D. Manning, P. Raghavan, H. Schütze. "Introduction to information
           retrieval". Cambridge University Press, 2008, section 9.1.1.

        Examples
        --------
        >>> retriever = NeighborsRetriever(n_neighbors=2)
        >>> retriever = retriever.fit([[4, 0], [4, 2], [4, -1], [4, -3]], ids=["a", "b", "c", "d"])
        >>> retriever.ids_[retriever.like(["a"])[1]]
        array([['c', 'b']], dtype='<U1')
        >>> retriever.ids_[retriever.like(["a"], unlike=["b"])[1]]
        array([['c', 'd']], dtype='<U1')
        """
        gallery = self._fitted()
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        k = check_integer(k, "n_neighbors", minimum=1)
        liked, unliked = Judged("ids", ids, "X", X), Judged("unlike", unlike, "unlike_X", unlike_X)
        asked = ask_like(liked, unliked, unlike_weight, where, gallery, type(self).__name__, k)
        distances, found = search_asked(asked, k, self.rerank, self.rerank_depth)
        return distances, asked.positions(found)

    def score(
        self,
        X: ArrayLike | None = None,
        y: LabelsLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        ids: IdsLike | None = None,
        where: WhereLike | None = None,
    ) -> float:
        """Return the mean of the metric `scoring` over queries, by exact search.

        Gallery rows are relevant if they share a label with the query. Equal
        distances are averaged over all their orders.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries. None searches with the rows of the gallery that have the `ids`, or
            with all rows, each left out of its own results.

        y : array-like of shape (n_queries,) or (n_queries, n_labels), default=None
            Labels of the queries; None means those of the gallery if `X` is None.

        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries.

        ids : array-like of shape (n_queries,), default=None
            Ids of the queries, as in `kneighbors`. A warning counts queries that are
            equal to rows of the gallery, but do not have their ids.

        where : array-like of bool of shape (n_samples_fit_,), or ids, default=None
            Rows of the gallery that may be found, as in `kneighbors`. Only these are
            ranked or relevant. Parameter searches cut a mask of the length of their
            data to the queries of a fold, so a mask is refused if there are as many
            queries as rows in the gallery; `evaluate` takes it.

        Returns
        -------
        float
            Larger is better. Queries without anything relevant in the gallery are left
            out; a warning counts them.

        Raises
        ------
        ValueError
            If labels are missing or of another type than those of the gallery, or
            no query has anything relevant.
        """
        self._check_uncut(X, where)
        values = self._per_query(X, y, ids, where, [self.scoring])[1][0]
        return mean_over_queries(values, sample_weight)

    @overload
    def evaluate(
        self,
        X: ArrayLike | None = ...,
        y: LabelsLike | None = ...,
        sample_weight: ArrayLike | None = ...,
        *,
        scoring: str | Metric | None = ...,
        ids: IdsLike | None = ...,
        where: WhereLike | None = ...,
    ) -> Evaluation: ...
    @overload
    def evaluate(
        self,
        X: ArrayLike | None = ...,
        y: LabelsLike | None = ...,
        sample_weight: ArrayLike | None = ...,
        *,
        scoring: list[Name],
        ids: IdsLike | None = ...,
        where: WhereLike | None = ...,
    ) -> dict[Name, Evaluation]: ...
    def evaluate(
        self,
        X: ArrayLike | None = None,
        y: LabelsLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        scoring: Any = None,
        ids: IdsLike | None = None,
        where: WhereLike | None = None,
    ) -> Any:
        """Compute any metric per query and per class, with the worst queries first.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries, as in `score`.

        y : array-like of shape (n_queries,) or (n_queries, n_labels), default=None
            Labels of the queries, as in `score`.

        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries in the mean.

        scoring : str, callable or list of them, default=None
            Metrics, as in the constructor; None means `scoring` of the retriever.

        ids : array-like of shape (n_queries,), default=None
            Ids of the queries, as in `score`.

        where : array-like of bool of shape (n_samples_fit_,), or ids, default=None
            Rows of the gallery that may be found, as in `score`.

        Returns
        -------
        :class:`~sklearn.utils.Bunch`, or a dict of them by metric for a list
            ``score``: the mean; ``per_query``: (n_queries,), NaN where nothing is
            relevant; ``classes`` and ``per_class``: labels and their means;
            ``worst``: positions of all scored queries, worst first. A notebook shows
            the mean, the lowest classes and the worst queries, with their photos
            where ids are file names; `print` shows one line.

        Examples
        --------
        >>> retriever = NeighborsRetriever().fit([[1, 0], [2, 1], [0, 1]], [0, 0, 1])
        >>> result = retriever.evaluate([[3, 1], [1, 3], [0, 2]], [0, 0, 1], scoring="precision@1")
        >>> result.score, result.per_class, result.worst
        (0.666..., array([0.5, 1. ]), array([1, 0, 2]))
        """
        names = scoring if isinstance(scoring, list) else [scoring or self.scoring]
        y, per_metric, ids_of = self._per_query(X, y, ids, where, names)
        results = Evaluations(
            (name, summarize_scores(y, values, sample_weight, name, ids_of))
            for name, values in zip(names, per_metric)
        )
        return results if isinstance(scoring, list) else results[names[0]]

    def rows(self, ids: IdsLike | None = None) -> Found:
        """Return rows of the gallery that you can use as queries.

        Parameters
        ----------
        ids : array-like of shape (n_rows,), default=None
            Ids of the gallery, as in `ids_`, in any order; None means all.

        Returns
        -------
        ndarray of shape (n_rows, n_features_in_)
            Rows as they are compared: of unit length for the cosine distance; rounded,
            as float32, in half precision; {0, 1} as uint8 for the Hamming distance.

        Examples
        --------
        >>> retriever = NeighborsRetriever().fit([[3.0, 4.0], [0.0, 2.0]], ids=["a", "b"])
        >>> retriever.rows(["b", "a"])
        array([[0. , 1. ],
               [0.6, 0.8]])
        """
        gallery = self._fitted()
        return gallery.engine.decode(gallery.queries(ids)[0], gallery.n_features)

    @property
    def ids_(self) -> Ids:
        """Id of every gallery row."""
        return self._fitted().ids.values

    @property
    def y_(self) -> Labels | None:
        """Label of every gallery row, or None."""
        labels = self._fitted().labels
        return None if labels is None else labels.values

    @property
    def algorithm_(self) -> str:
        """The algorithm in use."""
        return self._fitted().engine.name

    @property
    def collection_(self) -> str:
        """Name of the collection of an external gallery."""
        collection = self._fitted().engine.collection
        if collection is None:
            raise AttributeError("The gallery is not in a collection.")
        return collection.name

    @property
    def recall_(self) -> float:
        """Share of the true neighbors that the algorithm finds."""
        return self._fitted().engine.recall

    @property
    def n_samples_fit_(self) -> int:
        """Number of gallery rows."""
        return len(self._fitted())

    @property
    def n_features_in_(self) -> int:
        """Numbers, or bits, per row."""
        return self._held().n_features

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """Names of the columns, if the gallery was fitted with such."""
        names = self._held().feature_names
        if names is None:
            raise AttributeError("The gallery was fitted without names of columns.")
        return names

    @property
    def _n_features_out(self) -> int:
        return len(self._held())

    def __sklearn_is_fitted__(self) -> bool:
        return self._gallery is not None

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_state_format": STATE_FORMAT}
        return {name: value for name, value in state.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = state_of_version(type(self), state, STATE_FORMAT)
        super().__setstate__({k: v for k, v in state.items() if k not in IN_GALLERY})

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check_parameters(self, metric: str) -> None:
        """Raise unless the parameters are sound, and go with the metric of the gallery."""
        check_integer(self.n_neighbors, "n_neighbors", minimum=1)
        check_integer(self.rerank_depth, "rerank_depth", minimum=1)
        if self.expected_queries is not None:
            check_integer(self.expected_queries, "expected_queries", minimum=0)
        check_real(self.recall_target, "recall_target", minimum=0, maximum=1)
        if self.n_jobs is not None:
            check_integer(self.n_jobs, "n_jobs")
        check_verbose(self.verbose)
        check_engine_parameters(self, metric)
        if self.rerank is not None:
            resolve_reranker(self.rerank, metric)
        parse_metric(self.scoring)

    def _alone(self) -> Self:
        """Return an unfitted retriever with these parameters that searches arrays exactly."""
        return clone(self).set_params(**exact_in_memory(self))

    @property
    def _changing(self) -> ProcessLock:
        """The lock that is held while the gallery is replaced; no copy shares it."""
        return self.__dict__.setdefault("_lock", ProcessLock())

    def _held(self) -> Gallery:
        """Return the gallery, wherever its rows are; an error if there is none."""
        check_is_fitted(self)
        return cast(Gallery, self._gallery)

    def _fitted(self) -> Gallery:
        """Return the gallery as it is now: one state, whatever other threads do to it."""
        gallery = self._gallery
        if gallery is None:
            return self._held()
        given = gallery.engine.given_uri
        if given is not None and given != self.uri:
            raise gallery.elsewhere(self.uri)
        return gallery

    def _positions(self, ids: IdsLike) -> Positions:
        """Return the current positions of ids of the gallery."""
        return self._fitted().ask(ids)

    def _nearest(
        self,
        gallery: Gallery,
        X: ArrayLike | None,
        n_neighbors: int | None,
        ids: IdsLike | None,
        where: WhereLike | None = None,
    ) -> tuple[Found, Positions]:
        """Return distances and positions of the nearest rows that are not the queries."""
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        k = check_integer(k, "n_neighbors", minimum=1)
        asked = ask(X, ids, where, gallery, type(self).__name__, k, self.rerank is None)
        distances, found = search_asked(asked, k, self.rerank, self.rerank_depth)
        if asked.places is not None:
            warn_of_found_copies(asked, gallery.ids, distances, found)
        return distances, asked.positions(found)

    def _within(
        self,
        gallery: Gallery,
        X: ArrayLike | None,
        radius: ArrayLike | None,
        ids: IdsLike | None,
        in_order: bool,
        where: WhereLike | None = None,
    ) -> tuple[Lists, Lists]:
        """Return distances and positions of the rows within the radius that are not the queries.

        Both are arrays of one array per query, which is ordered by distance if `in_order`, else
        by position.
        """
        asked = ask(X, ids, where, gallery, type(self).__name__)
        n = len(asked.queries)
        radii = check_radius(radius, n)
        distances, found = (np.empty(n, dtype=object) for _ in range(2))
        results = search_radius(asked.engine, asked.queries, radii, asked.excluded)
        for row, (values, rows) in enumerate(results):
            order = slice(None) if in_order else np.argsort(rows)
            distances[row], found[row] = values[order], rows[order]
        if asked.places is not None:
            warn_of_found_copies(asked, gallery.ids, distances, found)
        for row, rows in enumerate(found):
            found[row] = asked.positions(rows)
        return distances, found

    def _check_uncut(self, X: ArrayLike | None, where: WhereLike | None) -> None:
        """Raise if a search over parameters may have cut a mask to the queries of a fold."""
        if X is not None and where is not None:
            check_uncut(where, X, len(self._fitted()))

    def _per_query(
        self,
        X: ArrayLike | None,
        y: LabelsLike | None,
        ids: IdsLike | None,
        where: WhereLike | None,
        names: list[str | Metric],
    ) -> tuple[np.ndarray, list[Floats], Callable[[Positions], Any] | None]:
        """Return the queries' labels, values per metric and query, and a function to their ids."""
        gallery = self._fitted()
        asked = ask(X, ids, where, gallery, type(self).__name__)
        if gallery.labels is None:
            raise ValueError("Scoring needs the labels of the gallery: pass y to fit.")
        y_gallery = gallery.labels.values
        if isinstance(gallery.labels, GalleryTargets):
            raise ValueError(
                f"The gallery was fitted with continuous y, such as {y_gallery.flat[0]:.6g}, in "
                "which no two rows share a label. Fit with classes to score."
            )
        check_same_columns(y, gallery.labels.names)
        n = len(asked.queries)
        y = y_gallery[asked.places] if X is None and y is None else check_labels(y, n=n)
        if X is not None:
            warn_of_copies(asked, gallery.ids)
        if asked.row_filter is not None:
            y_gallery = y_gallery[asked.row_filter.positions]
        rerank = None
        if self.rerank is not None:
            rerank = resolve_reranker(self.rerank, gallery.metric)
        is_shown = check_verbose(self.verbose) > 0
        depth = check_integer(self.rerank_depth, "rerank_depth", minimum=1)
        with progress_bar(len(names) * n, "Scoring", is_shown) as advance:
            values = score_queries(
                asked.engine.exact,
                asked.queries,
                asked.excluded,
                y,
                y_gallery,
                names,
                rerank,
                depth,
                advance,
            )
        own = gallery.ids if X is None and gallery.ids.given else None
        return y, values, ids_by_query(ids, own, asked.places)
