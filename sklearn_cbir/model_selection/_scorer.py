"""Scorers of retrieval for scikit-learn's searches."""

from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import _num_samples

from sklearn_cbir._labels import check_labels
from sklearn_cbir._typing import (
    Floats,
    IdsLike,
    ImagesLike,
    LabelsLike,
    Metric,
    Sliced,
    WhereLike,
)
from sklearn_cbir._unwrapped import unwrapped
from sklearn_cbir._validation import as_numpy, check_choice
from sklearn_cbir.codes import HammingDistances, pack_codes
from sklearn_cbir.metrics import evaluate, mean_over_queries, parse_metric
from sklearn_cbir.metrics._scoring import check_callable, evaluate_each, is_own

__all__ = ["retrieval_scorer"]

GALLERIES = ("fitted", "queries")


def retrieval_scorer(
    metric: str | Metric = "map", *, gallery: Literal["fitted", "queries"] = "fitted"
) -> "_RetrievalScorer":
    """Make a scorer of retrieval for `GridSearchCV` and `cross_val_score`.

    Parameters
    ----------
    metric : str or callable, default="map"
        A key of `sklearn_cbir.metrics.METRICS`, with or without a number of
        results, such as ``"map@100"`` or ``"recall@1"``; or a function, as `scoring` of
        `NeighborsRetriever` describes it.

    gallery : {"fitted", "queries"}, default="fitted"
        What is searched: the gallery of the fitted retriever (the training fold), or
        the queries themselves (the test fold), each left out of its own results.
        ``"queries"`` is the protocol for unseen classes, with `ClassDisjointKFold`.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, *, sample_weight=None, ids=None, where=None)``; it can
        be pickled and has `set_score_request` for metadata routing. `estimator` is a
        `NeighborsRetriever`, or a pipeline that ends in one. With
        ``gallery="queries"`` it may also be any fitted transformer; its output is
        compared by Hamming distance (codes of type uint8 or bool), else by cosine.
        `ids` leave a query out of its own results in the fitted gallery.

        `where` says which rows of the gallery may be found. For the fitted gallery it
        is what `NeighborsRetriever.score` takes, a mask or ids; searches do not cut it
        to the gallery of a fold. With ``gallery="queries"`` it is a mask of the
        queries, one bool for each row of `X`, which searches cut as they cut `X`; all
        rows are queries.

    Raises
    ------
    ValueError
        If the name of the metric or of the gallery is unknown.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_cbir import NeighborsRetriever
    >>> from sklearn_cbir.model_selection import ClassDisjointKFold, retrieval_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> search = make_pipeline(StandardScaler(), NeighborsRetriever(metric="euclidean"))
    >>> scorer = retrieval_scorer("recall@1", gallery="queries")
    >>> cross_val_score(search, X, y, cv=ClassDisjointKFold(2), scoring=scorer)
    array([1., 1.])
    """
    return _RetrievalScorer(metric, gallery)


class _RetrievalScorer:
    """Ranks a gallery for every query and averages a metric; see `retrieval_scorer`."""

    def __init__(self, metric: str | Metric, gallery: Literal["fitted", "queries"]) -> None:
        parse_metric(metric)
        self.metric = metric
        self.gallery = check_choice(gallery, "gallery", GALLERIES)
        self._requests = {"sample_weight": None, "ids": None, "where": None}

    def __repr__(self) -> str:
        return f"retrieval_scorer({self.metric!r}, gallery={self.gallery!r})"

    def __call__(
        self,
        estimator: BaseEstimator,
        X: ImagesLike,
        y: LabelsLike,
        *,
        sample_weight: ArrayLike | None = None,
        ids: IdsLike | None = None,
        where: WhereLike | None = None,
    ) -> float:
        rows, retriever = _embed(estimator, X)
        if self.gallery == "queries":
            return self._score_queries(rows, y, retriever, sample_weight, where)
        if retriever is None:
            raise ValueError(
                f"gallery='fitted' needs a fitted NeighborsRetriever as the last step, not "
                f"{type(estimator).__name__}. Add one, or use gallery='queries'."
            )
        retriever._check_uncut(rows, where)
        options: dict[str, Any] = {"scoring": self.metric, "ids": ids, "where": where}
        return retriever.evaluate(rows, y, sample_weight, **options).score

    def set_score_request(
        self,
        *,
        sample_weight: bool | str | None = None,
        ids: bool | str | None = None,
        where: bool | str | None = None,
    ) -> Self:
        """Say whether metadata routing passes `sample_weight`, `ids` and `where` on.

        Parameters
        ----------
        sample_weight, ids, where : bool, str or None
            As in scikit-learn: whether to pass it on, or the name under which it comes.

        Returns
        -------
        callable
            The scorer itself.
        """
        self._requests = {"sample_weight": sample_weight, "ids": ids, "where": where}
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Return the parameters of `score` that scikit-learn should route to this scorer."""
        request = MetadataRequest(owner=self)
        for name, alias in self._requests.items():
            request.score.add_request(param=name, alias=alias)
        return request

    def _accept_sample_weight(self) -> bool:
        # What scikit-learn asks the scorers of a dict when routing is off.
        return True

    def _score_queries(
        self,
        rows: Any,
        y: LabelsLike,
        retriever: Any,
        sample_weight: ArrayLike | None,
        where: WhereLike | None,
    ) -> float:
        """Search the queries among themselves, each left out of its own results."""
        mask = None if where is None else _check_mask(where, _num_samples(rows))
        if retriever is not None:
            alone = retriever._alone().fit(rows, y)
            return alone.evaluate(None, y, sample_weight, scoring=self.metric, where=mask).score
        distances = _distances(rows, mask)
        y = check_labels(y, n=distances.shape[0])
        own = np.arange(len(y))  # column of each query
        y_gallery = y
        if mask is not None:
            y_gallery, own = y[mask], np.where(mask, np.cumsum(mask) - 1, -1)
        function = parse_metric(self.metric)[0]
        if is_own(function):
            values = evaluate_each([function], y, y_gallery, distances, own)[0]
            return mean_over_queries(values, sample_weight)
        options: dict[str, Any] = {"exclude": own, "sample_weight": sample_weight}
        check_callable(function, **options)
        mean = evaluate(self.metric, y, y_gallery, distances, **options)
        return cast(float, mean)  # without per_query


def _embed(estimator: Any, X: ImagesLike) -> tuple[Any, Any]:
    """Return the rows to compare, and the retriever that compares them if there is one."""
    estimator = unwrapped(estimator)
    last = estimator
    if isinstance(estimator, Pipeline):
        last = unwrapped(estimator.steps[-1][1])
    if not hasattr(last, "evaluate"):
        return estimator.transform(X), None
    if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
        X = estimator[:-1].transform(X)
    return X, last


def _check_mask(where: Any, n_queries: int) -> NDArray[np.bool_]:
    """Return the mask of the queries that may be found among themselves."""
    mask = np.asarray(as_numpy(where, "where"))
    if mask.dtype != bool or mask.shape != (n_queries,):
        raise ValueError(
            f"where is {mask.dtype} of shape {mask.shape}. With gallery='queries' it is a mask "
            f"of one bool for each of the {n_queries} queries; ids do not work, because there "
            "is no gallery."
        )
    if not mask.any():
        raise ValueError(
            f"where matches no row: it is False for all {n_queries} queries. In a parameter "
            "search, each test fold needs rows that may be found."
        )
    return mask


def _distances(rows: Any, mask: NDArray[np.bool_] | None) -> Sliced:
    """Return the distances of rows to those in a mask, or to all, computed block by block."""
    if sparse.issparse(rows):
        raise ValueError(
            f"The estimator's transform gave a sparse matrix of shape {rows.shape}. Retrieval "
            "needs a dense array: add TruncatedSVD, or a step that calls toarray, after it."
        )
    rows = np.asarray(as_numpy(rows, "transform(X)"))
    if rows.dtype in (np.uint8, bool):
        packed = pack_codes(rows)
        return HammingDistances(packed, packed if mask is None else packed[mask])
    return _CosineDistances(rows, mask)


class _CosineDistances:
    """Cosine distances of rows to those in a mask, or to all, computed on access.

    In float64: single precision cannot distinguish rows that training has moved together.
    """

    def __init__(self, rows: np.ndarray, mask: NDArray[np.bool_] | None = None) -> None:
        if rows.ndim != 2 or rows.dtype.kind not in "iuf" or not rows.shape[1]:
            raise ValueError(
                f"The estimator's transform gave {rows.dtype} of shape {rows.shape}. Retrieval "
                "needs one row of numbers per query."
            )
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise ValueError(
                f"The estimator's transform gave {rows[row, column]} for row {row}, column "
                f"{column}. Distances need finite numbers."
            )
        rows = rows.astype(np.float64, order="C")
        peaks = np.abs(rows).max(axis=1, initial=0, keepdims=True)
        rows /= np.where(peaks > 0, peaks, 1)  # squares can neither over- nor underflow now
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        self.rows = rows / np.where(norms > 0, norms, 1)
        # A product may round the distances of equal rows differently.
        as_bytes = (self.rows + 0.0).view(f"V{8 * rows.shape[1]}").ravel()  # -0.0 equals 0.0
        _, first, place = np.unique(as_bytes, return_index=True, return_inverse=True)
        self.different, self.place = self.rows[first], place if mask is None else place[mask]
        self.shape = len(rows), len(self.place)

    def __getitem__(self, rows: slice) -> Floats:
        distances = np.clip(1 - self.rows[rows] @ self.different.T, 0, 2)
        return distances[:, self.place]
