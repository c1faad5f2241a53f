"""Splitters and scorers with which scikit-learn's searches tune retrieval."""

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import BaseCrossValidator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.metadata_routing import UNUSED, MetadataRequest

from sklearn_cbir._labels import check_labels
from sklearn_cbir._validation import check_choice, check_integer
from sklearn_cbir.codes import HammingDistances, pack_codes
from sklearn_cbir.metrics import evaluate, parse_metric

__all__ = ["ClassDisjointKFold", "retrieval_scorer"]

GALLERIES = ("fitted", "queries")


class ClassDisjointKFold(BaseCrossValidator):
    """K folds of classes: no class of a test fold is in its training fold.

    The split for searching things that were never trained on, to be used with
    ``retrieval_scorer(gallery="queries")``: the fitted gallery holds nothing of the
    test classes. Every fold gets the same number of classes, give or take one.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2 and at most the number of classes.

    shuffle : bool, default=False
        Whether classes are dealt out in random order. Otherwise each fold takes
        neighbors in sorted order; ``n_splits=2`` trains on the last half of the
        classes and tests on the first, then the other way round.

    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.model_selection import ClassDisjointKFold
    >>> y = np.array(["cat", "dog", "cat", "cow", "ant"])
    >>> for train, test in ClassDisjointKFold(n_splits=2).split(np.zeros((5, 1)), y):
    ...     print(y[train], y[test])
    ['dog' 'cow'] ['cat' 'cat' 'ant']
    ['cat' 'cat' 'ant'] ['dog' 'cow']
    """

    # scikit-learn passes groups to every splitter; this one has none.
    __metadata_request__split = {"groups": UNUSED}

    def __init__(self, n_splits=5, *, shuffle=False, random_state=None):
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def get_n_splits(self, X=None, y=None, groups=None):
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups : object
            Ignored.

        Returns
        -------
        int
            Number of folds.
        """
        return check_integer(self.n_splits, "n_splits", minimum=2)

    def split(self, X, y=None, groups=None):
        """Yield the rows of training and test folds.

        Parameters
        ----------
        X : sequence of length n_samples
            Only its length counts.

        y : array-like of shape (n_samples,)
            One label per row.

        groups : object
            Ignored.

        Yields
        ------
        train : ndarray of int
            Rows of the other classes.

        test : ndarray of int
            All rows of the classes of this fold.

        Raises
        ------
        ValueError
            If `y` is missing or has several labels per row, or there are fewer
            classes than folds.
        """
        yield from super().split(X, y, groups)

    def _iter_test_masks(self, X=None, y=None, groups=None):
        """Yield, fold by fold, which rows are of its classes."""
        n_splits = self.get_n_splits()
        if not self.shuffle and self.random_state is not None:
            raise ValueError(
                f"random_state={self.random_state!r} has no effect without shuffling. Leave it out "
                "or set shuffle=True."
            )
        y = check_labels(y)
        if y.ndim == 2:
            raise ValueError(
                f"y has {y.shape[1]} label columns, but rows that share labels cannot be split "
                "into disjoint classes. Pass one label per row."
            )
        classes, members = np.unique(y, return_inverse=True)
        if len(classes) == 1:
            only = classes.tolist()[0]
            raise ValueError(
                f"y holds the single class {only!r}. At least two are needed to split."
            )
        if len(classes) < n_splits:
            raise ValueError(
                f"n_splits={n_splits} is more than the {len(classes)} classes in y. Use at most "
                f"n_splits={len(classes)}."
            )
        order = np.arange(len(classes))
        if self.shuffle:
            check_random_state(self.random_state).shuffle(order)
        for fold in np.array_split(order, n_splits):
            yield np.isin(members, fold)


def retrieval_scorer(metric="map", *, gallery="fitted"):
    """Make a scorer of retrieval for `GridSearchCV` and `cross_val_score`.

    Parameters
    ----------
    metric : str or callable, default="map"
        A key of `sklearn_cbir.metrics.METRICS`, with or without a number of
        results, such as ``"map@100"`` or ``"recall@1"``; or a function of the labels
        of queries and gallery and their distances.

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

    def __init__(self, metric, gallery):
        parse_metric(metric)
        self.metric = metric
        self.gallery = check_choice(gallery, "gallery", GALLERIES)
        self._requests = {"sample_weight": None, "ids": None}

    def __repr__(self):
        return f"retrieval_scorer({self.metric!r}, gallery={self.gallery!r})"

    def __call__(self, estimator, X, y, *, sample_weight=None, ids=None):
        rows, retriever = _embed(estimator, X)
        if self.gallery == "queries":
            return self._score_queries(rows, y, retriever, sample_weight)
        if retriever is None:
            raise ValueError(
                f"gallery='fitted' needs a fitted NeighborsRetriever as the last step, not "
                f"{type(estimator).__name__}. Add one, or use gallery='queries'."
            )
        return retriever.evaluate(rows, y, sample_weight, scoring=self.metric, ids=ids).score

    def set_score_request(self, *, sample_weight=None, ids=None):
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

    def get_metadata_routing(self):
        """Return what this scorer asks metadata routing for."""
        request = MetadataRequest(owner=self)
        for name, alias in self._requests.items():
            request.score.add_request(param=name, alias=alias)
        return request

    def _accept_sample_weight(self):
        # What scikit-learn asks the scorers of a dict when routing is off.
        return True

    def _score_queries(self, rows, y, retriever, sample_weight):
        """Search the queries among themselves, each left out of its own results."""
        if retriever is not None:
            alone = clone(retriever).set_params(algorithm="exact").fit(rows, y)
            return alone.evaluate(None, y, sample_weight, scoring=self.metric).score
        y = check_labels(y, n=len(rows))
        own = np.arange(len(rows))
        return evaluate(
            self.metric, y, y, _distances(rows), exclude=own, sample_weight=sample_weight
        )


def _embed(estimator, X):
    """Return what is compared, and the retriever that compares it if there is one."""
    estimator = _unwrapped(estimator)
    last = estimator
    if isinstance(estimator, Pipeline):
        last = _unwrapped(estimator.steps[-1][1])
    if not hasattr(last, "evaluate"):
        return estimator.transform(X), None
    if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
        X = estimator[:-1].transform(X)
    return X, last


def _unwrapped(estimator):
    """Return the estimator that a refitted search or a frozen estimator holds."""
    while True:
        if hasattr(estimator, "best_estimator_"):  # of a frozen search, too
            estimator = estimator.best_estimator_
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        else:
            return estimator


def _distances(rows):
    """Return the distances of rows among themselves, to be computed block by block."""
    rows = np.asarray(rows)
    if rows.dtype in (np.uint8, bool):
        packed = pack_codes(rows)
        return HammingDistances(packed, packed)
    return _CosineDistances(rows)


class _CosineDistances:
    """Cosine distances of rows among themselves, computed when rows are asked for."""

    def __init__(self, rows):
        if rows.ndim != 2 or rows.dtype.kind not in "iuf":
            raise ValueError(
                f"The estimator's transform gave {rows.dtype} of shape {rows.shape}. Retrieval "
                "needs one row of numbers per query."
            )
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        self.rows = rows / np.where(norms > 0, norms, 1)
        self.shape = len(rows), len(rows)

    def __getitem__(self, rows):
        return np.maximum(1 - self.rows[rows] @ self.rows.T, 0)
