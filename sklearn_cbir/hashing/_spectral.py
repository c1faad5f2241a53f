"""SpectralHasher: waves along the principal axes."""

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._typing import Floats, Positions
from sklearn_cbir._validation import check_choice
from sklearn_cbir.hashing._base import RowHasher, center, principal_axes


class SpectralHasher(RowHasher):
    """Spectral hashing: signs of the smoothest waves along the principal axes.

    If rows are spread evenly over a box, the smoothest balanced and uncorrelated
    functions are cosines along its sides [1]_. Every principal axis is one side;
    long sides get more waves, and so more bits.

    Parameters
    ----------
    n_bits : int, default=48
        Length of the codes.

    range : {"minmax", "percentile"}, default="minmax"
        Where a side begins and ends: at the extreme training rows, or at the
        5th and 95th percentile, which outliers do not move. For rows beyond it,
        the wave continues.

    Attributes
    ----------
    components_ : ndarray of shape (n_axes, n_features)
        The principal axes, at most `n_bits`.

    mean_ : ndarray of shape (n_features,)
        Mean of the training rows.

    modes_ : ndarray of shape (n_bits, 2)
        Axis and number of half waves of every bit, smoothest first.

    minimum_, extent_ : ndarray of shape (n_axes,)
        Beginning and length of every side.

    eigenvalues_ : ndarray of shape (n_bits,)
        Squared spatial frequency of every wave; never decreasing.

    n_features_in_ : int
        Number of features.

    References
    ----------
    .. [1] Y. Weiss, A. Torralba, R. Fergus. "Spectral hashing". NIPS 2008.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cbir.hashing import SpectralHasher
    >>> X, _ = load_digits(return_X_y=True)
    >>> hasher = SpectralHasher(16).fit(X)
    >>> hasher.transform(X).shape
    (1797, 16)
    >>> [(axis, waves) for axis, waves in hasher.modes_.tolist() if axis == 0]
    [(0, 1), (0, 2)]
    """

    mean_: Floats
    components_: Floats
    modes_: Positions
    minimum_: Floats
    extent_: Floats
    eigenvalues_: Floats

    def __init__(
        self, n_bits: int = 48, *, range: Literal["minmax", "percentile"] = "minmax"
    ) -> None:
        self.n_bits = n_bits
        self.range = range

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Find the principal axes and the waves along them.

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
            If all rows are equal: no axis has an extent.
        """
        X = self._check_training_rows(X)
        check_choice(self.range, "range", ["minmax", "percentile"])
        self.mean_, X = center(X)
        self.components_ = principal_axes(X, min(self.n_bits, X.shape[1]))
        along = X @ self.components_.T  # (n, n_axes)
        bounds = [0, 100] if self.range == "minmax" else [5, 95]
        self.minimum_, end = np.percentile(along, bounds, axis=0)
        self.extent_ = end - self.minimum_
        if self.extent_.max() <= 1e-12 * np.abs(self.mean_).max():  # rounding is no extent
            raise ValueError(
                f"All {len(X)} rows of X are equal (with range={self.range!r}), so no axis has "
                "an extent. Pass rows that differ."
            )
        self.modes_, self.eigenvalues_ = smoothest_modes(self.extent_, self.n_bits)
        return self

    def project(self, X: ArrayLike) -> Floats:
        """Return the waves whose signs are the bits.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Feature rows.

        Returns
        -------
        ndarray of shape (n_samples, n_bits), float64
            Cosines; a bit of the code is 1 where this is 0 or more.
        """
        along = super().project(X)  # (n, n_axes)
        axes, waves = self.modes_.T
        # sin(pi / 2 + u) of the paper, as a cosine.
        return np.cos(waves * np.pi * (along - self.minimum_)[:, axes] / self.extent_[axes])

    @property
    def _n_features_out(self) -> int:
        return len(self.modes_)


def smoothest_modes(extent: Floats, n_modes: int) -> tuple[Positions, Floats]:
    """Return axis and number of half waves of the smoothest modes, and their eigenvalues.

    As in [1], an axis has the more candidates the longer it is, and every mode runs along one.
    """
    # Relative to the longest first, so that this has all of n_modes waves.
    n_waves = np.ceil((n_modes + 1) * (extent / extent.max())).astype(int) - 1
    n_waves = np.maximum(n_waves, 0)  # no side
    axes = np.repeat(np.arange(len(extent)), n_waves)
    waves = np.concatenate([np.arange(1, count + 1) for count in n_waves])
    eigenvalues = (waves * np.pi / extent[axes]) ** 2
    order = np.argsort(eigenvalues, kind="stable")[:n_modes]
    return np.column_stack([axes[order], waves[order]]), eigenvalues[order]
