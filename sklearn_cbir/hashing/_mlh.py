"""MLHHasher: hyperplanes for a hinge loss on Hamming distances, by structured prediction."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.utils import check_random_state

from sklearn_cbir._typing import Floats, LabelsLike, Positions, RandomState
from sklearn_cbir._validation import check_integer, check_real
from sklearn_cbir.hashing._base import RowHasher, center, signs

DRAWS = 1000  # of pairs with several labels, until enough of them share none


class MLHHasher(RowHasher):
    """Minimal loss hashing: similar rows within a Hamming radius, others outside.

    The hinge loss on Hamming distances has no gradient. Stochastic gradient
    descent minimizes an upper bound of it: the loss of the worst pair of codes
    near the scores of a pair, which can be found exactly [1]_.

    Parameters
    ----------
    n_bits : int, default=48
        Length of the codes.

    rho : int, default=None
        Similar rows should differ in fewer than `rho` bits, others in more;
        None means ``round(0.35 * n_bits)``, but at least 1.

    lam : float, default=0.5
        Share of similar pairs in every batch, the weight lambda of [1]_.

    lr : float, default=0.1
        Highest learning rate; it falls linearly to 0.

    momentum : float, default=0.9
        Momentum of the descent.

    batch_size : int, default=100
        Pairs per step.

    weight_decay : float, default=0.01
        Weight of half the squared norm of the hyperplanes.

    balance : float, default=1.0
        Weight of a term that pulls the mean score of every bit to 0. Without it,
        many bits end up equal for all rows.

    max_epochs : int, default=100
        Number of passes; each has ``n_samples / batch_size`` steps.

    random_state : int, RandomState instance or None, default=None
        Seed of everything random; equal seeds give equal codes.

    Attributes
    ----------
    components_ : ndarray of shape (n_bits, n_features)
        Normals of the hyperplanes.

    intercept_ : ndarray of shape (n_bits,)
        Added to the products with the normals.

    mean_ : ndarray of shape (n_features,)
        Mean of the training rows.

    losses_ : ndarray of shape (max_epochs,)
        Mean of the bound over the pairs of every pass.

    n_features_in_ : int
        Number of features.

    Notes
    -----
    Features are standardized first. As in later code of the authors, but unlike
    in [1]_, the losses of similar and of dissimilar pairs are scaled to at most
    1, lambda is a share of pairs, and bits can be balanced.

    References
    ----------
    .. [1] M. Norouzi, D. J. Fleet. "Minimal loss hashing for compact binary
       codes". ICML 2011, equations 4 and 8.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cbir.hashing import MLHHasher
    >>> X, y = load_digits(return_X_y=True)
    >>> hasher = MLHHasher(16, max_epochs=5, random_state=0).fit(X, y)
    >>> hasher.transform(X).shape
    (1797, 16)
    """

    mean_: Floats
    components_: Floats
    intercept_: Floats
    losses_: Floats

    _needs_labels = True

    def __init__(
        self,
        n_bits: int = 48,
        *,
        rho: int | None = None,
        lam: float = 0.5,
        lr: float = 0.1,
        momentum: float = 0.9,
        batch_size: int = 100,
        weight_decay: float = 0.01,
        balance: float = 1.0,
        max_epochs: int = 100,
        random_state: RandomState = None,
    ) -> None:
        self.n_bits = n_bits
        self.rho = rho
        self.lam = lam
        self.lr = lr
        self.momentum = momentum
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.balance = balance
        self.max_epochs = max_epochs
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: LabelsLike | None = None) -> Self:
        """Learn the hyperplanes.

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
            Without labels, for a single class, or if all pairs of rows share a
            label, or none.
        """
        rows, labels = self._check_labeled_rows(self._check_training_rows(X), y)
        table = hinge_table(self.n_bits, self._check_settings())
        rng = check_random_state(self.random_state)
        self.mean_, rows = center(rows)
        scale = rows.std(axis=0)
        # Rows of about unit length; constant features stay 0.
        scale = np.where(scale > 0, scale, 1.0) * np.sqrt(rows.shape[1])
        rows /= scale
        weights = 0.1 * rng.standard_normal((self.n_bits, rows.shape[1]))
        start = -np.median(rows @ weights.T, axis=0)  # every bit starts balanced
        rows = np.column_stack([rows, np.ones(len(rows))])
        weights = np.column_stack([weights, start])
        weights, self.losses_ = self._descend(rows, Pairs(labels), table, weights, rng)
        self.components_, self.intercept_ = weights[:, :-1] / scale, weights[:, -1]
        return self

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
        linear = super().project(X)
        return linear + self.intercept_

    def _check_settings(self) -> int:
        """Check the parameters and return rho."""
        for name in ("lr", "weight_decay", "balance"):
            check_real(getattr(self, name), name, minimum=0)
        for name in ("lam", "momentum"):
            check_real(getattr(self, name), name, minimum=0, maximum=1)
        check_integer(self.batch_size, "batch_size", minimum=1)
        check_integer(self.max_epochs, "max_epochs", minimum=1)
        if self.rho is None:
            return max(1, round(0.35 * self.n_bits))
        return check_integer(self.rho, "rho", minimum=1, maximum=self.n_bits)

    def _descend(
        self, X: Floats, pairs: "Pairs", table: Floats, weights: Floats, rng: np.random.RandomState
    ) -> tuple[Floats, Floats]:
        """Return the trained weights and the mean bound of every pass."""
        velocity = np.zeros_like(weights)
        n_steps = max(1, len(X) // self.batch_size)
        n_similar = round(self.lam * self.batch_size)
        similar = (np.arange(self.batch_size) < n_similar).astype(int)
        losses = np.zeros(self.max_epochs)
        for epoch in range(self.max_epochs):
            near = pairs.similar(n_steps * n_similar, rng).reshape(n_steps, -1, 2)
            n_far = self.batch_size - n_similar
            far = pairs.dissimilar(n_steps * n_far, rng).reshape(n_steps, -1, 2)
            for step, (i, j) in enumerate(np.concatenate([near, far], axis=1).swapaxes(1, 2)):
                bound, descent = bound_and_descent(weights, X[i], X[j], table[similar])
                descent = descent / self.batch_size - self.weight_decay * weights
                mean_scores = weights @ (X[i] + X[j]).mean(axis=0) / 2
                descent[:, -1] -= self.balance * np.clip(mean_scores, -0.5, 0.5)
                rate = self.lr * (1 - (epoch + step / n_steps) / self.max_epochs)
                velocity = self.momentum * velocity + rate * descent
                weights = weights + velocity
                losses[epoch] += bound / (self.batch_size * n_steps)
        return weights, losses


def hinge_table(n_bits: int, rho: int) -> Floats:
    """Return the loss of a dissimilar and of a similar pair (2, n_bits + 1), by distance."""
    distance = np.arange(n_bits + 1)
    dissimilar = np.maximum(rho - distance + 1, 0) / (rho + 1)
    similar = np.maximum(distance - rho + 1, 0) / (n_bits - rho + 1)
    return np.stack([dissimilar, similar])


def worst_codes(a: Floats, b: Floats, losses: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the codes that maximize loss(distance) + g'a + h'b for every pair, and that maximum.

    `a`, `b` are scores (n, n_bits), `losses` is (n, n_bits + 1). The bits that gain most, or
    lose least, by differing differ; how many do is tried in full.
    """
    differ, agree = np.abs(a - b), np.abs(a + b)
    gain = differ - agree
    order = np.argsort(-gain, axis=1, kind="stable")
    gains = np.take_along_axis(gain, order, axis=1).cumsum(axis=1)
    totals = losses.copy()
    totals[:, 1:] += gains
    distance = totals.argmax(axis=1)[:, None]
    maximum = np.take_along_axis(totals, distance, axis=1)[:, 0] + agree.sum(axis=1)
    ranks = np.argsort(order, axis=1)
    apart, together = signs(a - b), signs(a + b)
    g = np.where(ranks < distance, apart, together)
    h = np.where(ranks < distance, -apart, together)
    return g, h, maximum


def bound_and_descent(
    weights: Floats, x: Floats, z: Floats, losses: Floats
) -> tuple[float, Floats]:
    """Return the bound of [1], equation 4, summed over pairs, and minus its gradient."""
    a, b = x @ weights.T, z @ weights.T  # (n, n_bits)
    g, h, maximum = worst_codes(a, b, losses)
    bound = (maximum - np.abs(a).sum(axis=1) - np.abs(b).sum(axis=1)).sum()
    return bound, (signs(a) - g).T @ x + (signs(b) - h).T @ z


class Pairs:
    """Draws pairs of rows that share a label, and pairs that share none."""

    def __init__(self, labels: np.ndarray) -> None:
        n = len(labels)
        self.labels = labels
        if labels.ndim == 1:
            columns = sparse.csr_array((np.ones(n), labels, np.arange(n + 1)))
        else:
            columns = sparse.csr_array(labels)
        by_label = columns.tocsc()
        by_label.sort_indices()
        self.members, self.starts = by_label.indices, by_label.indptr
        self.counts = np.diff(self.starts)
        # One entry for each label of each row, where another row has it too.
        entries = columns.tocoo()
        shared = self.counts[entries.col] > 1
        self.rows, self.columns = entries.row[shared], entries.col[shared]
        places = np.empty(len(self.members), dtype=np.int64)
        order = np.lexsort((entries.row, entries.col))
        places[order] = np.arange(len(order))
        self.places = (places - self.starts[entries.col])[shared]
        if not len(self.rows):
            raise ValueError(
                f"No two of the {n} rows of y share a label, so no rows are similar. Give at "
                "least one label two rows."
            )

    def similar(self, n: int, rng: np.random.RandomState) -> Positions:
        """Return n pairs (n, 2): a label of a row, then another row with that label."""
        if n == 0:
            return np.empty((0, 2), dtype=np.int64)
        drawn = rng.randint(len(self.rows), size=n)
        label = self.columns[drawn]
        count = self.counts[label]
        other = (self.places[drawn] + 1 + rng.randint(count - 1)) % count
        return np.column_stack([self.rows[drawn], self.members[self.starts[label] + other]])

    def dissimilar(self, n: int, rng: np.random.RandomState) -> Positions:
        """Return n pairs (n, 2) without a common label."""
        i = rng.randint(len(self.labels), size=n)
        if self.labels.ndim == 1:
            label = self.labels[i]
            # Uniform over the members of the other classes, which stand in order.
            other = rng.randint(len(self.labels) - self.counts[label])
            other += np.where(other >= self.starts[label], self.counts[label], 0)
            return np.column_stack([i, self.members[other]])
        pairs = np.column_stack([i, i])
        wrong = np.arange(n)
        for _ in range(DRAWS):
            pairs[wrong] = rng.randint(len(self.labels), size=(len(wrong), 2))
            i, j = pairs[wrong].T
            wrong = wrong[((self.labels[i] * self.labels[j]).sum(axis=1) > 0) | (i == j)]
            if not len(wrong):
                return pairs
        raise ValueError(
            f"In {DRAWS} draws of pairs, (almost) every two rows of y share a label. Drop the "
            "columns of y that are set in nearly all rows."
        )
