"""Batches for training: lists of row numbers, drawn from the generator that the caller gives."""

import numpy as np

from sklearn_cbir._validation import check_integer


def uniform_batches(n, batch_size, rng):
    """Shuffle all rows and cut them into batches; every row comes once.

    Parameters
    ----------
    n : int
        Number of rows.

    batch_size : int
        Rows per batch.

    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    list of ndarray of int64
        Row numbers of every batch. The last one may be smaller; a single row
        left over joins the batch before it, for batch normalization.

    Examples
    --------
    >>> import numpy as np
    >>> [len(batch) for batch in uniform_batches(9, 4, np.random.default_rng(0))]
    [4, 5]
    """
    check_integer(batch_size, "batch_size", minimum=1)
    rows = rng.permutation(n)
    starts = np.arange(batch_size, n, batch_size)
    if len(starts) and n - starts[-1] == 1:
        starts = starts[:-1]
    return np.split(rows, starts)


def balanced_batches(y, batch_size, n_per_class, rng):
    """Draw batches that hold several rows of each of their classes (P x K).

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_labels)
        One label per row, or 0/1 columns. Rows without a label are left out.

    batch_size : int
        Rows per batch, at least 4 and at most n; ``batch_size //
        n_per_class`` classes share them. Where there are no more classes than
        that, each of them gets an equal part of the batch.

    n_per_class : int
        Rows of each class in a batch, at least 2 and at most half a batch.

    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    list of ndarray of int64
        Row numbers of every batch, about ``n / batch_size`` batches of equal
        size. Each class goes through its own rows in a shuffled order and
        starts again when it reaches the end, so that its rows come equally
        often; a class with fewer than `n_per_class` rows repeats them within
        a batch. With 0/1 columns, a label is drawn and then rows that carry it.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    >>> batches = balanced_batches(y, 4, 2, np.random.default_rng(0))
    >>> [np.unique(y[batch], return_counts=True)[1].tolist() for batch in batches]
    [[2, 2], [2, 2], [2, 2]]
    """
    check_integer(batch_size, "batch_size", minimum=1)
    check_integer(n_per_class, "n_per_class", minimum=2)
    members = _members(y)
    n_rows = len(y)
    # Repeated rows teach nothing, and pairs need two classes of two rows.
    batch_size = max(4, min(batch_size, n_rows))
    n_per_class = max(2, min(n_per_class, batch_size // 2))
    n_classes = min(batch_size // n_per_class, len(members))
    shares = np.full(n_classes, n_per_class)
    if n_classes == len(members):
        shares = np.diff(np.linspace(0, batch_size, n_classes + 1).astype(np.int64))
    classes = _Deck(np.arange(len(members)), rng)
    rows = [_Deck(row_numbers, rng) for row_numbers in members]
    return [
        np.concatenate([rows[c].deal(k) for c, k in zip(classes.deal(n_classes), shares)])
        for _ in range(max(1, round(n_rows / batch_size)))
    ]


class _Deck:
    """Cards dealt in a shuffled order, shuffled again whenever they run out."""

    def __init__(self, cards, rng):
        self.cards = cards
        self.rng = rng
        self.left = cards[:0]

    def deal(self, n_cards):
        """Next cards; none comes twice in one deal unless there are too few."""
        dealt = self.left[:n_cards]
        self.left = self.left[n_cards:]
        while len(dealt) < n_cards:
            fresh = self.rng.permutation(self.cards)
            fresh = fresh[np.argsort(np.isin(fresh, dealt), kind="stable")]
            missing = n_cards - len(dealt)
            dealt = np.concatenate([dealt, fresh[:missing]])
            self.left = fresh[missing:]
        return dealt


def _members(y):
    """Row numbers of every class or label that has any."""
    if y.ndim == 2:
        members = [np.flatnonzero(column) for column in y.T]
    else:
        order = np.argsort(y, kind="stable")
        starts = np.flatnonzero(np.diff(y[order])) + 1
        members = np.split(order, starts)
    members = [row_numbers for row_numbers in members if len(row_numbers)]
    if not members:
        raise ValueError("No row of y carries a label. Label some rows.")
    return members
