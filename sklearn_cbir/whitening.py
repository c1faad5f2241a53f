"""Whitening learned from labels: feature rows to rows of unit length with better distances.

Plain whitening is ``make_pipeline(PCA(whiten=True), Normalizer())``.
"""

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, eigh
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_cbir._labels import encode_labels, labeled_rows, shared_labels
from sklearn_cbir._typing import Floats, LabelsLike
from sklearn_cbir._validation import as_numpy, check_integer, check_real

__all__ = ["LearnedWhitening"]

PAIRS_AT_ONCE = 2**22


class LearnedWhitening(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Whiten features by the differences of similar images, to unit length.

    Differences between images that share a label are noise: the projection makes
    them equally large in all directions. Then it rotates to the directions in which
    other images differ most, so the first components separate images best [1]_. In
    image retrieval this is known as learned whitening [2]_ (equation 10).

    `fit` uses all pairs of rows; a pair is similar if its rows share a label.

    Parameters
    ----------
    n_components : int, default=None
        Length of the transformed rows; None keeps the length of the features.

    shrinkage : float, default=0.5
        From 0 to 1: how much the covariance of similar pairs is shrunk towards a
        multiple of the identity. [1]_ and [2]_ have no such term. Without it,
        directions in which few pairs differ get too much weight, and fewer rows than
        features cannot be whitened. Small values are better for the classes of
        `fit`, large values for new classes.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features_in_,)
        Mean of the features, which is subtracted first.

    components_ : ndarray of shape (n_components, n_features_in_)
        The projection; rows are directions.

    separation_ : ndarray of shape (n_components,)
        Mean squared difference of dissimilar pairs along each component, divided by
        that of similar pairs; largest first.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` had names.

    References
    ----------
    .. [1] K. Mikolajczyk, J. Matas. "Improving descriptors for fast tree matching by
       optimal linear projection". ICCV 2007.
    .. [2] F. Radenović, G. Tolias, O. Chum. "Fine-tuning CNN image retrieval with no
       human annotation". IEEE Transactions on Pattern Analysis and Machine
       Intelligence 41(7), 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.whitening import LearnedWhitening
    >>> X = [[0.0, 0.0], [9.0, 0.1], [0.0, 1.0], [9.0, 0.9]]  # the first column is noise
    >>> whitening = LearnedWhitening(1, shrinkage=0.0).fit(X, ["a", "a", "b", "b"])
    >>> np.sign(whitening.transform(X)).ravel()
    array([-1., -1.,  1.,  1.])
    """

    mean_: NDArray[np.floating]
    components_: NDArray[np.floating]
    separation_: Floats
    n_features_in_: int
    feature_names_in_: NDArray[np.object_]

    if TYPE_CHECKING:

        def fit_transform(
            self, X: ArrayLike, y: LabelsLike | None = None, **fit_params: object
        ) -> NDArray[np.floating]:
            """Fit, and transform the same rows."""
            ...

    def __init__(self, n_components: int | None = None, *, shrinkage: float = 0.5) -> None:
        self.n_components = n_components
        self.shrinkage = shrinkage

    def fit(self, X: ArrayLike, y: LabelsLike | None = None) -> Self:
        """Learn the projection from features and labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite features.

        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels of one type, or 0/1 columns, dense or sparse. Rows of zeros are
            unlabeled and left out.

        Returns
        -------
        LearnedWhitening
            The fitted transformer.

        Raises
        ------
        ValueError
            If no two rows share a label, or all do.
        """
        shrinkage = check_real(self.shrinkage, "shrinkage", minimum=0, maximum=1)
        features: np.ndarray = validate_data(
            self, as_numpy(X), dtype=[np.float64, np.float32], ensure_min_samples=2
        )
        n_components = self.n_components
        if n_components is not None:
            check_integer(n_components, "n_components", minimum=1, maximum=features.shape[1])
        if y is None:
            raise ValueError(
                "LearnedWhitening requires y to be passed, but the target y is None. Without "
                "labels, use make_pipeline(PCA(whiten=True), Normalizer())."
            )
        labels, _ = encode_labels(y, n=len(features))
        labeled = labeled_rows(labels)
        labels, rows = labels[labeled], features[labeled].astype(np.float64)
        mean = rows.mean(axis=0)
        rows -= mean
        similar, others = _pair_covariances(rows, labels)
        noise = np.trace(similar) / len(similar)
        if noise > 0:
            similar *= 1 - shrinkage
            similar[np.diag_indices_from(similar)] += shrinkage * noise
        else:
            similar = np.eye(len(similar))  # similar rows are equal: nothing to whiten
        try:
            separation, components = eigh(others, similar)
        except LinAlgError as error:
            raise ValueError(
                f"Similar rows do not differ in all {features.shape[1]} directions, so they cannot "
                f"be whitened with shrinkage={self.shrinkage!r}. Use a larger one, or PCA first."
            ) from error
        components = components[:, ::-1][:, :n_components].T
        # A sign that does not depend on the machine: the largest entry is positive.
        largest = np.abs(components).argmax(axis=1)
        components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
        self.mean_ = mean.astype(features.dtype)
        self.components_ = np.ascontiguousarray(components, dtype=features.dtype)
        self.separation_ = np.ascontiguousarray(separation[::-1][:n_components])
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Project features and scale them to unit length.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite features.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Rows of unit length, float32 if `X` is; a row that equals the mean stays
            zero.
        """
        check_is_fitted(self)
        features: np.ndarray = validate_data(
            self, as_numpy(X), dtype=[np.float64, np.float32], reset=False
        )
        rows: np.ndarray = (
            features - self.mean_.astype(features.dtype)
        ) @ self.components_.T.astype(features.dtype)
        peaks = np.abs(rows).max(axis=1, keepdims=True)
        rows /= np.where(peaks > 0, peaks, 1)
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
        rows /= np.where(lengths > 0, lengths, 1)
        return rows

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.two_d_labels = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _pair_covariances(rows: Floats, y: np.ndarray) -> tuple[Floats, Floats]:
    """Return the mean outer products of differences, of similar pairs and of all others.

    A sum over pairs i < j of weights a_ij (x_i - x_j)(x_i - x_j)' is X'(diag(a 1) - a)X.
    """
    n = len(rows)
    similar = np.zeros((rows.shape[1],) * 2)
    n_similar = 0
    if y.ndim == 1:
        sizes = np.bincount(y)
        means = np.zeros((len(sizes), rows.shape[1]))
        np.add.at(means, y, rows)
        means /= sizes[:, None]
        deviations = (rows - means[y]) * np.sqrt(sizes[y])[:, None]
        similar = deviations.T @ deviations
        n_similar = int((sizes * (sizes - 1) // 2).sum())
    else:
        step = max(1, PAIRS_AT_ONCE // n)
        for start in range(0, n, step):
            part = rows[start : start + step]
            shares = (shared_labels(y[start : start + step], y) > 0).astype(np.float64)
            shares[np.arange(len(part)), start + np.arange(len(part))] = 0
            degrees = shares.sum(axis=1)
            similar += (part * degrees[:, None]).T @ part - part.T @ (shares @ rows)
            n_similar += int(degrees.sum())
        n_similar //= 2
    n_others = n * (n - 1) // 2 - n_similar
    if n_similar == 0 or n_others == 0:
        raise ValueError(
            f"LearnedWhitening needs similar and other pairs, got {n_similar} and {n_others} of "
            f"{n} rows" + (": 1 class." if n_others == 0 else ". Give at least one label two rows.")
        )
    everything = n * (rows.T @ rows)  # rows are centered
    return similar / n_similar, (everything - similar) / n_others
