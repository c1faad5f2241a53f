"""CCAITQHasher: directions of features that correlate with labels, rotated towards corners."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cholesky, solve, solve_triangular
from sklearn.utils.extmath import svd_flip

from sklearn_cbir._typing import Floats, LabelsLike, RandomState
from sklearn_cbir._validation import check_boolean, check_integer, check_real
from sklearn_cbir.hashing._base import RowHasher, center
from sklearn_cbir.hashing._itq import quantizing_rotation


class CCAITQHasher(RowHasher):
    """Iterative quantization of the directions that correlate most with the labels.

    Like `ITQHasher`, but with canonical correlation analysis of features and
    labels instead of principal components [1]_. Codes of new rows need no
    labels.

    Parameters
    ----------
    n_bits : int, default=48
        Length of the codes. There are at most ``n_classes - 1`` correlated
        directions; more bits are redundant, but not useless.

    reg : float, default=1e-4
        Regularization: added to the diagonals of the covariances, as a share of
        their mean.

    scale : bool, default=True
        Scale every direction by its correlation, so that directions without
        information about the labels do not become bits of noise.

    n_iter : int, default=50
        Number of iterations; each finds the signs, then the rotation.

    random_state : int, RandomState instance or None, default=None
        Seed of everything random; equal seeds give equal codes.

    Attributes
    ----------
    components_ : ndarray of shape (n_bits, n_features)
        The rotated directions.

    mean_ : ndarray of shape (n_features,)
        Mean of the training rows.

    correlations_ : ndarray of shape (n_bits,)
        Canonical correlations, largest first; 0 for bits beyond their number.

    losses_ : ndarray of shape (n_iter,)
        Squared distance between components and signs, before every rotation.

    n_features_in_ : int
        Number of features.

    Notes
    -----
    [1]_ adds `reg` as it is. Here it is relative to the mean variance of the
    features and of the labels, so multiplying all features by a number changes
    nothing.

    References
    ----------
    .. [1] Y. Gong, S. Lazebnik, A. Gordo, F. Perronnin. "Iterative
       quantization: a Procrustean approach to learning binary codes for
       large-scale image retrieval". TPAMI 35(12), 2013, section 3.3.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cbir.hashing import CCAITQHasher
    >>> X, y = load_digits(return_X_y=True)
    >>> hasher = CCAITQHasher(16, random_state=0).fit(X, y)
    >>> hasher.transform(X).shape
    (1797, 16)
    """

    mean_: Floats
    components_: Floats
    correlations_: Floats
    losses_: Floats

    _needs_labels = True

    def __init__(
        self,
        n_bits: int = 48,
        *,
        reg: float = 1e-4,
        scale: bool = True,
        n_iter: int = 50,
        random_state: RandomState = None,
    ) -> None:
        self.n_bits = n_bits
        self.reg = reg
        self.scale = scale
        self.n_iter = n_iter
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: LabelsLike | None = None) -> Self:
        """Find the correlated directions and rotate them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Feature rows.

        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels of one type, or 0/1 columns, dense or sparse. Rows of zeros are
            unlabeled and left out.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            Without labels, or for a single class.
        """
        X = self._check_training_rows(X)
        X, labels = self._check_labeled_rows(X, y)
        check_real(self.reg, "reg", minimum=0)
        check_integer(self.n_iter, "n_iter", minimum=1)
        check_boolean(self.scale, "scale")
        columns = labels if labels.ndim == 2 else np.eye(labels.max() + 1)[labels]
        self.mean_, X = center(X)
        W, correlations = canonical_directions(X, center(columns.astype(np.float64))[1], self.reg)
        W, self.correlations_ = _fill(W, self.n_bits), _fill(correlations, self.n_bits)
        if self.scale:
            W = W * self.correlations_
        rotation, self.losses_ = quantizing_rotation(X @ W, self.n_iter, self.random_state)
        self.components_ = (W @ rotation).T
        return self


def canonical_directions(X: Floats, Y: Floats, reg: float) -> tuple[Floats, Floats]:
    """Return the directions of centered X, W' C_xx W = I, and their correlations with Y."""
    n = len(X)
    C_xx, C_yy, C_xy = X.T @ X / n, Y.T @ Y / n, X.T @ Y / n
    _regularize(C_xx, reg)
    _regularize(C_yy, reg)
    # C_xx = L L': the generalized problem becomes an ordinary, symmetric one.
    L = cholesky(C_xx, lower=True)
    across = solve_triangular(L, C_xy, lower=True)
    symmetric = across @ solve(C_yy, across.T, assume_a="pos")
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)  # ascending
    W = solve_triangular(L.T, vectors[:, ::-1], lower=False)
    W = svd_flip(None, W.T, u_based_decision=False)[1].T
    return W, np.sqrt(np.clip(values[::-1], 0, 1))


def _regularize(covariance: Floats, reg: float) -> None:
    """Add to the diagonal; never nothing, as labels of one class each are dependent."""
    mean = np.trace(covariance) / len(covariance)
    covariance.flat[:: len(covariance) + 1] += max(reg, 1e-10) * mean or 1.0


def _fill(directions: Floats, n_bits: int) -> Floats:
    """Return as many columns as bits, zeros beyond what exists."""
    missing = max(0, n_bits - directions.shape[-1])
    widths = [(0, 0)] * (directions.ndim - 1) + [(0, missing)]
    return np.pad(directions[..., :n_bits], widths)
