"""KSHHasher: signs of kernel sums, fitted to the similarities of labels bit by bit."""

from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.special import expit
from sklearn.utils import check_random_state
from sklearn.utils.extmath import svd_flip

from sklearn_cbir._typing import Floats, LabelsLike, Positions, RandomState
from sklearn_cbir._validation import check_choice, check_integer
from sklearn_cbir.hashing._base import (
    RowHasher,
    gaussian_kernel,
    in_blocks,
    label_groups,
    mean_squared_distance,
    signs,
)

KernelRows = Literal["labeled", "all"]

TOLERANCE = 1e-2  # change of the objective per row at which a bit is done, as in [1]
RIDGE = 1e-8  # of the mean of the diagonal: kernels of near anchors are nearly dependent


class KSHHasher(RowHasher):
    """Supervised hashing with kernels: products of codes follow the labels.

    A bit is the sign of a weighted sum of Gaussian kernels at anchors.
    Similarities are +1 for rows that share a label and -1 for others; `fit`
    fits one bit after the other to the residual of the bits before [1]_.

    Parameters
    ----------
    n_bits : int, default=48
        Length of the codes.

    n_anchors : int, default=300
        Number of training rows with a kernel, drawn at random; at most all.

    n_labeled : int, default=5000
        Number of training rows whose similarities are fitted, drawn at random; at
        most all.

    max_iter : int, default=500
        Maximum number of gradient steps per bit.

    kernel_rows : {"labeled", "all"}, default="labeled"
        Rows for the width and the mean of the kernels: those whose similarities
        are fitted, or all training rows, as in the authors' code.

    random_state : int, RandomState instance or None, default=None
        Seed of everything random; equal seeds give equal codes.

    Attributes
    ----------
    anchors_ : ndarray of shape (n_anchors, n_features)
        Rows with a kernel.

    squared_width_ : float
        Square of the kernel's width: the mean squared distance between the
        `kernel_rows` and the anchors.

    kernel_mean_ : ndarray of shape (n_anchors,)
        Mean of the kernels over the `kernel_rows`, which is subtracted.

    components_ : ndarray of shape (n_bits, n_anchors)
        Weights of the kernels.

    n_iter_ : int
        Largest number of gradient steps of a bit.

    n_features_in_ : int
        Number of features.

    Notes
    -----
    The matrix of similarities is never formed: one row per class, or per
    existing set of labels, takes its place.

    References
    ----------
    .. [1] W. Liu, J. Wang, R. Ji, Y.-G. Jiang, S.-F. Chang. "Supervised
       hashing with kernels". CVPR 2012, algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cbir.hashing import KSHHasher
    >>> X, y = load_digits(return_X_y=True)
    >>> hasher = KSHHasher(8, n_anchors=50, n_labeled=500, random_state=0).fit(X, y)
    >>> hasher.transform(X).shape
    (1797, 8)
    """

    components_: Floats
    anchors_: Floats
    squared_width_: float
    kernel_mean_: Floats
    n_iter_: int

    kernel_rows: KernelRows = "labeled"  # of what was saved before there was a choice

    _needs_labels = True

    def __init__(
        self,
        n_bits: int = 48,
        *,
        n_anchors: int = 300,
        n_labeled: int = 5000,
        max_iter: int = 500,
        kernel_rows: KernelRows = "labeled",
        random_state: RandomState = None,
    ) -> None:
        self.n_bits = n_bits
        self.n_anchors = n_anchors
        self.n_labeled = n_labeled
        self.max_iter = max_iter
        self.kernel_rows = kernel_rows
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: LabelsLike | None = None) -> Self:
        """Draw anchors and fit the bits.

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
            Without labels, for a single class, or if of the drawn rows all
            pairs share a label, or none.
        """
        X = self._check_training_rows(X)
        X, labels = self._check_labeled_rows(X, y)
        for name in ("n_anchors", "n_labeled", "max_iter"):
            check_integer(getattr(self, name), name, minimum=1)
        check_choice(self.kernel_rows, "kernel_rows", get_args(KernelRows))
        rng = check_random_state(self.random_state)
        self.anchors_ = X[rng.permutation(len(X))[: self.n_anchors]]
        rows = rng.permutation(len(X))[: self.n_labeled]
        seen = X if self.kernel_rows == "all" else X[rows]
        self.squared_width_ = mean_squared_distance(seen, self.anchors_)
        self.kernel_mean_ = np.zeros(len(self.anchors_))
        self.kernel_mean_ = self._kernel(seen).mean(axis=0)
        residual = Residual(*label_groups(labels[rows], "n_labeled"), self.n_bits)
        kernels = self._kernel(X[rows])
        self.components_, self.n_iter_ = fit_bits(kernels, residual, self.n_bits, self.max_iter)
        return self

    def project(self, X: ArrayLike) -> Floats:
        """Return the kernel sums whose signs are the bits.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Feature rows.

        Returns
        -------
        ndarray of shape (n_samples, n_bits), float64
            A bit of the code is 1 where this is 0 or more.
        """
        X = self._check_rows(X)
        return in_blocks(lambda rows: self._kernel(rows) @ self.components_.T, X)

    def _kernel(self, X: Floats) -> Floats:
        """Return the centered kernels, (n, n_anchors)."""
        return gaussian_kernel(X, self.anchors_, self.squared_width_) - self.kernel_mean_


class Residual:
    """``n_bits * S - B B'``: the residual of the similarities after the bits so far."""

    def __init__(self, groups: Positions, similarities: Floats, n_bits: int) -> None:
        n = len(groups)
        shape = (n, len(similarities))
        self.members = sparse.csr_array((np.ones(n), (np.arange(n), groups)), shape=shape)
        self.similarities = n_bits * similarities
        self.codes = np.empty((n, 0))

    def __matmul__(self, v: Floats) -> Floats:
        grouped = self.members @ (self.similarities @ (self.members.T @ v))
        return grouped - self.codes @ (self.codes.T @ v)

    def subtract(self, code: Floats) -> None:
        """Subtract the part of one more bit."""
        self.codes = np.column_stack([self.codes, code])


def fit_bits(K: Floats, residual: Residual, n_bits: int, max_iter: int) -> tuple[Floats, int]:
    """Return the weights of all bits, (n_bits, n_anchors), and the most steps of a bit."""
    n_anchors = K.shape[1]
    gram = K.T @ K
    ridge = RIDGE * np.trace(gram) / n_anchors
    gram.flat[:: n_anchors + 1] += ridge or 1.0
    L = cholesky(gram, lower=True)
    # In the coordinates L' a, the generalized eigenproblem is an ordinary one.
    objective = solve_triangular(L, K.T @ (residual @ K), lower=True)
    objective = solve_triangular(L, objective.T, lower=True)  # (n_anchors, n_anchors)
    components = np.empty((n_bits, n_anchors))
    n_iter = 0
    for bit in range(n_bits):
        start = _spectral_start(objective, L, K)
        climbed, n_steps = ascend(K, residual, start, max_iter)
        n_iter = max(n_iter, n_steps)
        a = best_of(K, residual, [start, climbed])
        code = signs(K @ a)
        residual.subtract(code)
        part = solve_triangular(L, K.T @ code, lower=True)
        objective -= np.outer(part, part)
        components[bit] = a
    return components, n_iter


def _spectral_start(objective: Floats, L: Floats, K: Floats) -> Floats:
    """Return the weights that are best without signs, scaled to |K a|^2 = n_rows."""
    last = len(objective) - 1
    _, vectors = eigh((objective + objective.T) / 2, subset_by_index=[last, last])
    vector = svd_flip(None, vectors.T, u_based_decision=False)[1][0]
    a = solve_triangular(L.T, vector, lower=False)
    length = np.linalg.norm(K @ a)
    return a * (np.sqrt(len(K)) / length) if length > 0 else a


def best_of(K: Floats, residual: Residual, candidates: list[Floats]) -> Floats:
    """Return the weights whose bits explain most of the residual; the first, if they tie."""

    def explained(a):
        code = signs(K @ a)
        return code @ (residual @ code)

    return max(candidates, key=explained)


def ascend(K: Floats, residual: Residual, a: Floats, max_iter: int) -> tuple[Floats, int]:
    """Climb the objective with smooth signs; return the weights and the number of steps.

    Nesterov's accelerated gradient with two products with K per step: K times a point follows from
    K times the gradient.
    """
    # As in [1]: momentum (older - 1) / old, step 1 / L, with L doubled until it suffices.
    older, old, L = 0.0, 1.0, 1.0
    previous, previous_sums = a, K @ a
    sums = previous_sums
    cost, _ = smooth_cost(sums, residual)
    new_cost = cost
    n_steps = 0
    while n_steps < max_iter:
        n_steps += 1
        momentum = (older - 1) / old
        point = a + momentum * (a - previous)
        point_sums = sums + momentum * (sums - previous_sums)
        here, slope = smooth_cost(point_sums, residual)
        gradient = K.T @ slope
        gradient_sums = K @ gradient
        steepness = gradient @ gradient
        for _ in range(50):
            new_cost, _ = smooth_cost(point_sums - gradient_sums / L, residual)
            if new_cost <= here - steepness / (2 * L):
                break
            L *= 2
        previous, previous_sums = a, sums
        a, sums = point - gradient / L, point_sums - gradient_sums / L
        older, old = old, (1 + np.sqrt(1 + 4 * old**2)) / 2
        if abs(new_cost - cost) <= TOLERANCE * len(K):
            break
        cost = new_cost
    return a, n_steps


def smooth_cost(sums: Floats, residual: Residual) -> tuple[float, Floats]:
    """Return ``-phi' R phi`` of the smooth signs of K a, and its slope in every row's sum."""
    phi = 2 * expit(sums) - 1
    product = residual @ phi
    # phi' = (1 - phi^2) / 2, and the quadratic form gives another 2.
    return -(phi @ product), -product * (1 - phi**2)
