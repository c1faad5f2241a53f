"""Scorers of retrieval for scikit-learn's searches."""

from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest

from sklearn_cbir._labels import check_labels
from sklearn_cbir._typing import Floats, ImagesLike, LabelsLike, Metric, Sliced
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
        What is searched: what the retriever was fitted on (the training fold), or
        the queries themselves (the test fold), each left out of its own results.
        ``"queries"`` is the protocol for classes that were not trained on, with
        `ClassDisjointKFold`.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, *, sample_weight=None, ids=None)``; it can be
        pickled and has `set_score_request` for metadata routing. `estimator` is a
        pipeline that ends in a `NeighborsRetriever`, or that alone. With
        ``gallery="queries"`` it may also be any fitted transformer, whose output is
        then compared by Hamming distance (codes of type uint8 or bool) or else by
        cosine. `ids` leave a query out of its own results in the fitted gallery.

    Raises
    ------
    ValueError
        If the name of the metric or the gallery is not known.

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
        self._requests = {"sample_weight": None, "ids": None}

    def __repr__(self) -> str:
        return f"retrieval_scorer({self.metric!r}, gallery={self.gallery!r})"

    def __call__(
        self,
        estimator: BaseEstimator,
        X: ImagesLike,
        y: LabelsLike,
        *,
        sample_weight: ArrayLike | None = None,
        ids: ArrayLike | None = None,
    ) -> float:
        rows, retriever = _embed(estimator, X)
        if self.gallery == "queries":
            return self._score_queries(rows, y, retriever, sample_weight)
        if retriever is None:
            raise ValueError(
                f"gallery='fitted' needs a fitted NeighborsRetriever as the last step, not "
                f"{type(estimator).__name__}. Add one, or use gallery='queries'."
            )
        return retriever.evaluate(rows, y, sample_weight, scoring=self.metric, ids=ids).score

    def set_score_request(
        self, *, sample_weight: bool | str | None = None, ids: bool | str | None = None
    ) -> Self:
        """Say whether metadata routing passes `sample_weight` and `ids` on.

        Parameters
        ----------
        sample_weight, ids : bool, str or None
            As in scikit-learn: whether to pass it on, or under which name it comes.

        Returns
        -------
        callable
            The scorer itself.
        """
        self._requests = {"sample_weight": sample_weight, "ids": ids}
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Return the parameters of `score` that scikit-learn is asked to route to this scorer."""
        request = MetadataRequest(owner=self)
        for name, alias in self._requests.items():
            request.score.add_request(param=name, alias=alias)
        return request

    def _accept_sample_weight(self) -> bool:
        # What scikit-learn asks the scorers of a dict when routing is off.
        return True

    def _score_queries(
        self, rows: Any, y: LabelsLike, retriever: Any, sample_weight: ArrayLike | None
    ) -> float:
        """Search the queries among themselves, each left out of its own results."""
        if retriever is not None:
            alone = retriever._alone().fit(rows, y)
            return alone.evaluate(None, y, sample_weight, scoring=self.metric).score
        distances = _distances(rows)
        n_queries = distances.shape[0]
        y, own = check_labels(y, n=n_queries), np.arange(n_queries)
        function = parse_metric(self.metric)[0]
        if is_own(function):
            values = evaluate_each([function], y, y, distances, own)[0]
            return mean_over_queries(values, sample_weight)
        check_callable(function, exclude=own, sample_weight=sample_weight)
        mean = evaluate(self.metric, y, y, distances, exclude=own, sample_weight=sample_weight)
        return cast(float, mean)  # without per_query


def _embed(estimator: Any, X: ImagesLike) -> tuple[Any, Any]:
    """Return the rows to compare, and the retriever that compares them if there is one."""
    estimator = _unwrapped(estimator)
    last = estimator
    if isinstance(estimator, Pipeline):
        last = _unwrapped(estimator.steps[-1][1])
    if not hasattr(last, "evaluate"):
        return estimator.transform(X), None
    if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
        X = estimator[:-1].transform(X)
    return X, last


def _unwrapped(estimator: Any) -> Any:
    """Return the estimator that a refitted search or a frozen estimator holds."""
    while True:
        if hasattr(estimator, "best_estimator_"):  # of a frozen search, too
            estimator = estimator.best_estimator_
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        else:
            return estimator


def _distances(rows: Any) -> Sliced:
    """Return the distances of rows among themselves, to be computed block by block."""
    if sparse.issparse(rows):
        raise ValueError(
            f"The estimator's transform gave a sparse matrix of shape {rows.shape}. Retrieval "
            "needs a dense array: put TruncatedSVD, or a step that calls toarray, behind it."
        )
    rows = np.asarray(as_numpy(rows, "transform(X)"))
    if rows.dtype in (np.uint8, bool):
        packed = pack_codes(rows)
        return HammingDistances(packed, packed)
    return _CosineDistances(rows)


class _CosineDistances:
    """Cosine distances of rows among themselves, computed when rows are asked for.

    In float64: single precision cannot tell rows apart that training has drawn together.
    """

    def __init__(self, rows: np.ndarray) -> None:
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
        self.shape = len(rows), len(rows)
        # A product may round the distances of equal rows differently.
        as_bytes = (self.rows + 0.0).view(f"V{8 * rows.shape[1]}").ravel()  # -0.0 equals 0.0
        _, first, self.place = np.unique(as_bytes, return_index=True, return_inverse=True)
        self.different = self.rows[first]

    def __getitem__(self, rows: slice) -> Floats:
        distances = np.clip(1 - self.rows[rows] @ self.different.T, 0, 2)
        return distances[:, self.place]
