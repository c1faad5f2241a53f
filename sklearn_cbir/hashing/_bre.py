"""BREHasher: signs of kernel sums whose Hamming distances reconstruct given distances."""

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.preprocessing import normalize
from sklearn.utils import Tags, check_random_state

from sklearn_cbir._typing import Floats, LabelsLike, Positions, RandomState
from sklearn_cbir._validation import check_choice, check_integer, check_real
from sklearn_cbir.hashing._base import (
    RowHasher,
    gaussian_kernel,
    in_blocks,
    label_groups,
    mean_squared_distance,
)


class BREHasher(RowHasher):
    """Binary reconstructive embedding: Hamming distances like given distances.

    A bit is the sign of a weighted sum of kernels at a few anchors. `fit` sets
    one weight after the other to its best value, which it finds exactly [1]_.
    The distances to reconstruct are those of the rows, or with labels 0 for
    rows that share a label and 1 for others.

    Parameters
    ----------
    n_bits : int, default=48
        Length of the codes.

    n_anchors_per_bit : int, default=20
        Number of anchors of a bit: training rows, drawn at random, whose kernels
        the bit sums; at most all that are used.

    neighbor_frac : float, default=0.05
        The distances of every training row to this share of the training rows,
        drawn at random, are reconstructed.

    n_train : int, default=1000
        Number of training rows, drawn at random; at most all.

    kernel : {"linear", "rbf"}, default="linear"
        Kernel of the centered rows of unit length. The width of "rbf" is the
        square root of their mean squared distance.

    supervised : bool, default=None
        Whether distances come from the labels; None means that they do if
        there are labels.

    max_iter : int, default=50
        Maximum number of sweeps; each sets every weight of every bit once.

    tol : float, default=0.001
        `fit` stops after a sweep that lowers the objective by a smaller share.

    random_state : int, RandomState instance or None, default=None
        Seed of everything random; equal seeds give equal codes.

    Attributes
    ----------
    anchors_ : ndarray of shape (n_anchors, n_features)
        Rows with a kernel, centered and of unit length.

    components_ : ndarray of shape (n_bits, n_anchors)
        Weights of the kernels; 0 for anchors that a bit does not use.

    mean_ : ndarray of shape (n_features,)
        Mean of the training rows.

    squared_width_ : float
        Squared width of the kernel "rbf".

    losses_ : ndarray of shape (n_iter_ + 1,)
        Half the sum of squared errors of the distances, before the first and
        after every sweep.

    n_iter_ : int
        Number of sweeps.

    n_features_in_ : int
        Number of features.

    Notes
    -----
    Unlike in [1]_, a sweep visits all weights of a bit, not a random one.

    References
    ----------
    .. [1] B. Kulis, T. Darrell. "Learning to hash with binary reconstructive
       embeddings". NIPS 2009, equation 3 and section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cbir.hashing import BREHasher
    >>> X, y = load_digits(return_X_y=True)
    >>> hasher = BREHasher(8, n_train=200, max_iter=2, random_state=0).fit(X, y)
    >>> hasher.transform(X).shape
    (1797, 8)
    """

    mean_: Floats
    components_: Floats
    anchors_: Floats
    squared_width_: float
    losses_: Floats
    n_iter_: int

    def __init__(
        self,
        n_bits: int = 48,
        *,
        n_anchors_per_bit: int = 20,
        neighbor_frac: float = 0.05,
        n_train: int = 1000,
        kernel: Literal["linear", "rbf"] = "linear",
        supervised: bool | None = None,
        max_iter: int = 50,
        tol: float = 0.001,
        random_state: RandomState = None,
    ) -> None:
        self.n_bits = n_bits
        self.n_anchors_per_bit = n_anchors_per_bit
        self.neighbor_frac = neighbor_frac
        self.n_train = n_train
        self.kernel = kernel
        self.supervised = supervised
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: LabelsLike | None = None) -> Self:
        """Draw rows, anchors and pairs, and set the weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Feature rows.

        y : array-like of shape (n_samples,) or (n_samples, n_labels), default=None
            Labels of one type, or 0/1 columns, dense or sparse. Rows of zeros are
            unlabeled and left out.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            For ``supervised=True`` without labels, for a single class, or if
            of the drawn rows all pairs share a label, or none.
        """
        X = self._check_training_rows(X)
        self._check_settings()
        supervised = y is not None if self.supervised is None else self.supervised
        X, labels = self._check_labeled_rows(X, y) if supervised else (X, None)
        rng = check_random_state(self.random_state)
        self.mean_ = X.mean(axis=0)
        rows = rng.permutation(len(X))[: self.n_train]
        drawn: Floats = normalize(X[rows] - self.mean_)
        self.squared_width_ = mean_squared_distance(drawn, drawn)
        self._kernel_name = self.kernel
        self.anchors_ = drawn
        kernels = self._kernel(drawn)  # (n_train, n_train)
        distances = kernel_distances(kernels) if labels is None else label_distances(labels[rows])
        i, j = random_pairs(len(drawn), self.neighbor_frac, rng)
        anchors = _draw_anchors(len(drawn), self.n_bits, self.n_anchors_per_bit, rng)
        weights = 0.001 * rng.standard_normal(anchors.shape)
        descent = Descent(kernels, anchors, weights, i, j, distances[i, j])
        self.losses_ = descent.run(self.max_iter, self.tol, rng)
        self.n_iter_ = len(self.losses_) - 1
        self._keep_used_anchors(anchors, descent.weights)
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
        weights = sparse.csr_array(self.components_)
        if self._fitted_kernel() == "linear":
            directions = (weights @ self.anchors_).T  # (n_features, n_bits)
            return in_blocks(lambda rows: normalize(rows - self.mean_) @ directions, X)
        return in_blocks(lambda rows: (weights @ self._kernel(normalize(rows - self.mean_)).T).T, X)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.supervised is True
        tags.target_tags.two_d_labels = self.supervised is not False
        return tags

    def _check_settings(self) -> None:
        check_choice(self.kernel, "kernel", ["linear", "rbf"])
        check_choice(self.supervised, "supervised", [None, True, False])
        for name in ("n_anchors_per_bit", "max_iter"):
            check_integer(getattr(self, name), name, minimum=1)
        check_integer(self.n_train, "n_train", minimum=2)
        check_real(self.neighbor_frac, "neighbor_frac", minimum=0, maximum=1)
        check_real(self.tol, "tol", minimum=0)

    def _fitted_kernel(self) -> str:
        """Return the kernel of `fit`; the parameter may have been set since."""
        return getattr(self, "_kernel_name", self.kernel)  # earlier versions did not store it

    def _kernel(self, X: Floats) -> Floats:
        """Return the kernels of centered rows of unit length, (n, n_anchors)."""
        if self._fitted_kernel() == "linear":
            return X @ self.anchors_.T
        return gaussian_kernel(X, self.anchors_, self.squared_width_)

    def _keep_used_anchors(self, anchors: Positions, weights: Floats) -> None:
        """Store the anchors that some bit uses, and the weights in their order."""
        used, places = np.unique(anchors, return_inverse=True)
        self.anchors_ = self.anchors_[used]
        self.components_ = np.zeros((len(anchors), len(used)))
        np.put_along_axis(self.components_, places.reshape(anchors.shape), weights, axis=1)


def kernel_distances(kernels: Floats) -> Floats:
    """Return half the squared distances in the kernel's space, at most 1."""
    own = np.diag(kernels)
    distances = np.maximum((own[:, None] + own - 2 * kernels) / 2, 0)
    return distances / (distances.max() or 1.0)


def label_distances(labels: np.ndarray) -> Floats:
    """Return 0 for rows that share a label and 1 for others."""
    groups, similarities = label_groups(labels, "n_train")
    return (similarities[np.ix_(groups, groups)] < 0).astype(np.float64)


def random_pairs(
    n: int, fraction: float, rng: np.random.RandomState
) -> tuple[Positions, Positions]:
    """Return every row with a share of the others, at least one, as two arrays of rows."""
    count = min(n - 1, max(1, round(fraction * n)))
    keys = rng.random_sample((n, n))
    np.fill_diagonal(keys, np.inf)
    others = np.argsort(keys, axis=1)[:, :count]
    return np.repeat(np.arange(n), count), others.ravel()


def _draw_anchors(
    n: int, n_bits: int, n_anchors_per_bit: int, rng: np.random.RandomState
) -> Positions:
    """Return different rows for every bit, (n_bits, n_anchors_per_bit)."""
    return np.stack([rng.permutation(n)[:n_anchors_per_bit] for _ in range(n_bits)])


class Descent:
    """Sets one weight after the other to its best value.

    `errors` are Hamming distances of the pairs (i, j), as a share of the bits, minus the given
    distances; half the sum of their squares is the objective.
    """

    def __init__(
        self,
        kernels: Floats,
        anchors: Positions,
        weights: Floats,
        i: Positions,
        j: Positions,
        wanted: Floats,
    ) -> None:
        self.kernels, self.anchors, self.weights = kernels, anchors, weights
        self.i, self.j, self.wanted = i, j, wanted
        self.n_bits = len(anchors)
        sums = [kernels[:, rows] @ w for rows, w in zip(anchors, weights)]
        self.sums = np.stack(sums)  # (n_bits, n)
        self.errors = sum(self._differ(bit) for bit in range(self.n_bits)) / self.n_bits - wanted

    @property
    def objective(self) -> float:
        """Half the sum of squared errors."""
        return float(self.errors @ self.errors) / 2

    def run(self, max_iter: int, tol: float, rng: np.random.RandomState) -> Floats:
        """Sweep until it does not pay; return the objectives."""
        losses = [self.objective]
        for _ in range(max_iter):
            for bit in range(self.n_bits):
                for k in rng.permutation(self.anchors.shape[1]):
                    self.update(bit, k)
            losses.append(self.objective)
            if losses[-2] - losses[-1] <= tol * losses[-2]:
                break
        return np.array(losses)

    def update(self, bit: int, k: int) -> None:
        """Set one weight to the middle of the interval with the lowest objective."""
        kernel, sums = self.kernels[:, self.anchors[bit, k]], self.sums[bit]
        rest = self.errors - self._differ(bit) / self.n_bits  # errors without this bit
        weight = best_weight(kernel, sums, self.weights[bit, k], self.i, self.j, rest, self.n_bits)
        if weight is None:
            return
        changed = sums + (weight - self.weights[bit, k]) * kernel
        bits = changed >= 0
        errors = rest + (bits[self.i] != bits[self.j]) / self.n_bits
        if errors @ errors < self.errors @ self.errors:
            self.weights[bit, k], self.sums[bit], self.errors = weight, changed, errors

    def _differ(self, bit):
        bits = self.sums[bit] >= 0
        return bits[self.i] != bits[self.j]


def best_weight(
    kernel: Floats,
    sums: Floats,
    weight: float,
    i: Positions,
    j: Positions,
    rest: Floats,
    n_bits: int,
) -> float | None:
    """Return the best value of one weight of one bit, or None if the bit cannot change.

    As the weight grows, the bit of every row flips once, at its crossing. A pair differs between
    the crossings of its two rows or everywhere else, so that two steps per pair and a running
    sum give the objective in all intervals.
    """
    movable = np.flatnonzero(kernel != 0)
    if len(movable) == 0:
        return None
    crossings = weight - sums[movable] / kernel[movable]
    order = np.argsort(crossings)
    crossings, n = crossings[order], len(order)
    rank = np.full(len(kernel), n)  # never
    rank[movable[order]] = np.arange(n)
    first = np.where(kernel == 0, sums >= 0, kernel < 0)  # the bits at weight = -infinity
    # A pair that differs costs this more than one that does not: (r + 1/q)^2 / 2 - r^2 / 2.
    cost = rest / n_bits + 1 / (2 * n_bits**2)
    cost = np.where(first[i] == first[j], cost, -cost)  # of flipping one of the two
    start = np.bincount(np.minimum(rank[i], rank[j]) + 1, cost, minlength=n + 2)
    end = np.bincount(np.maximum(rank[i], rank[j]) + 1, cost, minlength=n + 2)
    objective = np.cumsum(start - end)[: n + 1]  # interval t lies before crossing t
    empty = np.flatnonzero(crossings[1:] <= crossings[:-1]) + 1
    objective[empty] = np.inf
    best = objective.argmin()
    beyond = 1e-6 * max(1.0, crossings[-1] - crossings[0])
    left = crossings[best - 1] if best > 0 else crossings[0] - 2 * beyond
    right = crossings[best] if best < n else crossings[-1] + 2 * beyond
    return (left + right) / 2
