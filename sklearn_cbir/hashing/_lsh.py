"""LSHHasher: the sides of random hyperplanes."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from sklearn_cbir._typing import Floats, RandomState
from sklearn_cbir._validation import check_boolean
from sklearn_cbir.hashing._base import RowHasher


class LSHHasher(RowHasher):
    """Locality-sensitive hashing: the side of a row for each random hyperplane.

    The expected share of bits in which two rows differ is the angle between
    them divided by pi [1]_. Only the mean is learned.

    Parameters
    ----------
    n_bits : int, default=48
        Length of the codes.

    center : bool, default=True
        Subtract the mean of the training rows. Without it, features that are
        never negative fall on the same side of most hyperplanes.

    orthogonal : bool, default=False
        Draw hyperplanes in groups of up to `n_features` that are orthogonal to
        each other, which estimates angles with less variance [2]_.

    random_state : int, RandomState instance or None, default=None
        Seed of everything random; equal seeds give equal codes.

    Attributes
    ----------
    components_ : ndarray of shape (n_bits, n_features)
        Normals of the hyperplanes.

    mean_ : ndarray of shape (n_features,)
        The vector that is subtracted: the mean, or zeros.

    n_features_in_ : int
        Number of features.

    References
    ----------
    .. [1] M. Charikar. "Similarity estimation techniques from rounding
       algorithms". STOC 2002.
    .. [2] J. Ji, J. Li, S. Yan, B. Zhang, Q. Tian. "Super-bit
       locality-sensitive hashing". NIPS 2012.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cbir.hashing import LSHHasher
    >>> X, _ = load_digits(return_X_y=True)
    >>> LSHHasher(16, random_state=0).fit_transform(X).shape
    (1797, 16)
    """

    mean_: Floats
    components_: Floats

    def __init__(
        self,
        n_bits: int = 48,
        *,
        center: bool = True,
        orthogonal: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.n_bits = n_bits
        self.center = center
        self.orthogonal = orthogonal
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Draw the hyperplanes.

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
        """
        X = self._check_training_rows(X)
        check_boolean(self.center, "center")
        check_boolean(self.orthogonal, "orthogonal")
        n_features = X.shape[1]
        self.mean_ = X.mean(axis=0) if self.center else np.zeros(n_features)
        normals = check_random_state(self.random_state).standard_normal((self.n_bits, n_features))
        self.components_ = _orthogonal_groups(normals) if self.orthogonal else normals
        return self


def _orthogonal_groups(normals: Floats) -> Floats:
    """Make every group of n_features rows orthonormal."""
    n_features = normals.shape[1]
    groups = [normals[i : i + n_features] for i in range(0, len(normals), n_features)]
    return np.concatenate([np.linalg.qr(group.T)[0].T for group in groups])
