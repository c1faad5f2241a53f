"""The common part of all hashers: ``project(X)`` is real, and a bit is 1 where it is 0 or more."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import Tags, gen_batches
from sklearn.utils.extmath import svd_flip
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_cbir._labels import encode_labels, labeled_rows, shared_labels
from sklearn_cbir._typing import Codes, Floats, ImagesLike, LabelsLike, Positions
from sklearn_cbir._validation import as_numpy, check_integer, shortened

ROWS = 4096  # rows projected at a time where a kernel is in between


class HasherMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Give `transform` to a class whose ``project(X)`` has one column per bit.

    `fit` stores what `project` needs. `get_feature_names_out` reads the
    number of bits from ``_n_features_out``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator
    >>> from sklearn_cbir.hashing import HasherMixin
    >>> class SignHasher(HasherMixin, BaseEstimator):
    ...     def fit(self, X, y=None):
    ...         self.n_features_in_ = self._n_features_out = np.shape(X)[1]
    ...         return self
    ...
    ...     def project(self, X):
    ...         return np.asarray(X)
    >>> SignHasher().fit_transform([[-1.0, 0.0], [2.0, -3.0]])
    array([[0, 1],
           [1, 0]], dtype=uint8)
    """

    project: Callable[..., NDArray[np.floating]]  # what a class owes

    if TYPE_CHECKING:

        def fit_transform(
            self, X: ImagesLike, y: LabelsLike | None = None, **fit_params: object
        ) -> Codes:
            """Fit, and transform the same rows."""
            ...

    def transform(self, X: ImagesLike) -> Codes:
        """Return one binary code per image or row.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            As for `fit`, of the same kind.

        Returns
        -------
        ndarray of shape (n_samples, n_bits), uint8
            0 or 1; in the order of `X`.
        """
        check_is_fitted(self)
        return (self.project(X) >= 0).astype(np.uint8)


class RowHasher(HasherMixin, BaseEstimator):
    """Base of the hashers of feature rows; `project` here is linear.

    A subclass defines `fit`, which sets ``mean_`` and ``components_``, or a `project` of its own.
    """

    n_bits: int
    n_features_in_: int
    mean_: Floats
    components_: Floats
    _needs_labels: ClassVar[bool] = False

    def project(self, X: ArrayLike) -> Floats:
        """Return the real outputs whose signs are the bits.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Feature rows.

        Returns
        -------
        ndarray of shape (n_samples, n_bits), float64
            A bit of the code is 1 where this is 0 or more.
        """
        return (self._check_rows(X) - self.mean_) @ self.components_.T

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self._needs_labels
        tags.target_tags.two_d_labels = self._needs_labels
        tags.transformer_tags.preserves_dtype = []
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)  # n_bits may have been set since

    def _check_training_rows(self, X: ArrayLike) -> Floats:
        """Return the rows of a fit, float64."""
        check_integer(self.n_bits, "n_bits", minimum=1)
        return validate_data(self, as_numpy(X), dtype=np.float64, ensure_min_samples=2)

    def _check_rows(self, X: ArrayLike) -> Floats:
        """Return the rows of a projection, float64."""
        check_is_fitted(self)
        return validate_data(self, as_numpy(X), dtype=np.float64, reset=False)

    def _check_labeled_rows(self, X: Floats, y: LabelsLike | None) -> tuple[Floats, np.ndarray]:
        """Return the rows that have a label, and their class indices or 0/1 columns.

        A row of zeros is unlabeled, not unlike all others. At least two labels must differ.
        """
        if y is None:
            raise ValueError(
                f"{type(self).__name__} learns from labels: it requires y to be passed, but the "
                "target y is None. Pass one label per row, or use ITQHasher, which needs no "
                "labels."
            )
        labels, _ = encode_labels(y, n=len(X))
        if labels.ndim == 2:
            labeled = labeled_rows(labels)
            X, labels = X[labeled], labels[labeled]
        if len(np.unique(labels, axis=0)) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes, but y holds one class: all "
                f"{len(X)} rows are labeled {shortened(np.asarray(y, dtype=object).ravel()[0])}."
                if labels.ndim == 1
                else f"{type(self).__name__} needs rows with different labels, but the {len(X)} "
                "rows of y that have a label are equal."
            )
        return X, labels


def signs(values: Floats) -> Floats:
    """Return -1.0 and +1.0, and +1 for 0, because a bit is 1 where its projection is 0 or more."""
    return np.where(values >= 0, 1.0, -1.0)


def center(X: Floats) -> tuple[Floats, Floats]:
    """Return the mean and the centered rows, which may take the place of `X`."""
    mean = X.mean(axis=0)
    return mean, X - mean


def principal_axes(centered: Floats, n_axes: int) -> Floats:
    """Return the directions of largest variance, one per row, their signs fixed."""
    n_features = centered.shape[1]
    largest = [n_features - n_axes, n_features - 1]  # eigh counts from the smallest
    _, vectors = eigh(centered.T @ centered, subset_by_index=largest)
    axes = svd_flip(None, vectors.T[::-1], u_based_decision=False)[1]
    # In the order that a pickle keeps: NumPy 2.0 rounds products of rows laid backwards otherwise.
    return np.ascontiguousarray(axes)


def label_groups(labels: np.ndarray, drawn_by: str) -> tuple[Positions, Floats]:
    """Return the group of every row, and the similarities of the groups, +1 or -1.

    Rows of a group have equal labels: one group per class, or per set of labels. Every row has a
    label. `drawn_by` is the parameter that says how many rows are drawn, for messages.
    """
    distinct, groups = np.unique(labels, axis=0, return_inverse=True)
    similar = shared_labels(distinct, distinct) > 0
    drawn = f"of the {len(labels)} rows that {drawn_by} draws"
    if similar.all():
        columns = ", or drop the columns of y that are set in all rows" * (labels.ndim == 2)
        raise ValueError(
            f"Every two {drawn} share a label, so no rows are dissimilar. Raise "
            f"{drawn_by}{columns}."
        )
    if len(distinct) == len(labels) == similar.sum():
        raise ValueError(
            f"No two {drawn} share a label, so no rows are similar. Raise {drawn_by}, or give "
            "at least one label two rows."
        )
    return groups.ravel(), np.where(similar, 1.0, -1.0)


def gaussian_kernel(X: Floats, anchors: Floats, squared_width: float) -> Floats:
    """Return ``exp(-d**2 / (2 * squared_width))`` of all rows and anchors."""
    return np.exp(euclidean_distances(X, anchors, squared=True) / (-2 * squared_width))


def mean_squared_distance(X: Floats, anchors: Floats) -> float:
    """Return the width for `gaussian_kernel`; 1 if all rows are equal."""
    return euclidean_distances(X, anchors, squared=True).mean() or 1.0


def in_blocks(function: Callable[[Floats], Floats], X: Floats) -> Floats:
    """Return ``function(rows)`` of all rows, called on a bounded number of them at a time."""
    return np.concatenate([function(X[rows]) for rows in gen_batches(len(X), ROWS)])
