"""ITQHasher: principal components, rotated towards the corners of the cube."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from sklearn_cbir._typing import Floats, RandomState
from sklearn_cbir._validation import check_integer
from sklearn_cbir.hashing._base import RowHasher, center, principal_axes, signs


class ITQHasher(RowHasher):
    """Iterative quantization: principal components, rotated to be near their signs.

    `fit` finds the rotation and the signs in turn, each the best for the other,
    so the squared distance between components and signs never grows [1]_.

    Parameters
    ----------
    n_bits : int, default=48
        Length of the codes; at most `n_features` and ``n_samples - 1``.

    n_iter : int, default=50
        Number of iterations; each finds the signs, then the rotation.

    random_state : int, RandomState instance or None, default=None
        Seed of everything random; equal seeds give equal codes.

    Attributes
    ----------
    components_ : ndarray of shape (n_bits, n_features)
        The rotated principal axes; they are orthonormal.

    mean_ : ndarray of shape (n_features,)
        Mean of the training rows.

    losses_ : ndarray of shape (n_iter,)
        Squared distance between components and signs, before every rotation.

    n_features_in_ : int
        Number of features.

    References
    ----------
    .. [1] Y. Gong, S. Lazebnik. "Iterative quantization: a Procrustean
       approach to learning binary codes". CVPR 2011, equation 2.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cbir.hashing import ITQHasher
    >>> X, _ = load_digits(return_X_y=True)
    >>> ITQHasher(16, random_state=0).fit_transform(X).shape
    (1797, 16)
    """

    mean_: Floats
    components_: Floats
    losses_: Floats

    def __init__(
        self, n_bits: int = 48, *, n_iter: int = 50, random_state: RandomState = None
    ) -> None:
        self.n_bits = n_bits
        self.n_iter = n_iter
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Find the principal axes and rotate them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Feature rows.

        y : None
            Not used.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If there are fewer principal axes than `n_bits`.
        """
        X = self._check_training_rows(X)
        check_integer(self.n_iter, "n_iter", minimum=1)
        n_samples, n_features = X.shape
        if self.n_bits > min(n_features, n_samples - 1):
            raise ValueError(
                f"n_bits={self.n_bits} is more than the principal axes of X, with "
                f"n_samples={n_samples} and n_features={n_features}: at most "
                f"{min(n_features, n_samples - 1)}. Use fewer bits, or LSHHasher, which has no "
                "such limit."
            )
        self.mean_, X = center(X)
        axes = principal_axes(X, self.n_bits)
        rotation, self.losses_ = quantizing_rotation(X @ axes.T, self.n_iter, self.random_state)
        self.components_ = rotation.T @ axes
        return self


def quantizing_rotation(
    components: Floats, n_iter: int, random_state: RandomState
) -> tuple[Floats, Floats]:
    """Return the rotation R that makes signs(components @ R) closest to it, and the losses."""
    n_bits = components.shape[1]
    start = check_random_state(random_state).standard_normal((n_bits, n_bits))
    rotation = np.linalg.svd(start)[0]
    length = np.square(components).sum()
    losses = np.empty(n_iter)
    for i in range(n_iter):
        codes = signs(components @ rotation)
        product = codes.T @ components  # (n_bits, n_bits)
        # |B - V R|^2, where V R is as long as V.
        losses[i] = codes.size + length - 2 * np.vdot(product.T, rotation)
        left, _, right = np.linalg.svd(product)
        rotation = right.T @ left.T  # orthogonal Procrustes
    return rotation, losses
