"""Batches for training: lists of row numbers, drawn from the generator that the caller gives."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._labels import labeled_rows, shared_labels
from sklearn_cbir._typing import Positions
from sklearn_cbir._validation import check_integer

Decks: TypeAlias = dict[str, object]  # where an epoch ends in the rows; empty to begin with

PAIRS_AT_ONCE = 2**24  # distances between queries and pool that are held in memory


def uniform_batches(n: int, batch_size: int, rng: np.random.Generator) -> list[Positions]:
    """Shuffle all rows and cut them into batches; every row is used once.

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


def balanced_batches(
    y: NDArray[np.generic],
    batch_size: int,
    n_per_class: int,
    rng: np.random.Generator,
    decks: Decks | None = None,
) -> list[Positions]:
    """Draw batches with several rows of each of their classes (P x K).

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_labels)
        One label per row, or 0/1 columns. Rows without a label are left out, and
        n counts those with one.

    batch_size : int
        Rows per batch, at least 4 and at most n; ``batch_size //
        n_per_class`` classes share them. If `y` has no more classes than that,
        each class gets an equal part of the batch.

    n_per_class : int
        Rows of each class in a batch, at least 2 and at most half a batch.

    rng : numpy.random.Generator
        Source of randomness.

    decks : dict, default=None
        The position of every class in its own rows. Pass an empty dict to the
        first epoch, which fills it, and the same dict to the next ones, with the
        same `y`: each class then goes on from there. None starts again.

    Returns
    -------
    list of ndarray of int64
        Row numbers of every batch, about ``n / batch_size`` batches of equal
        size. Each class goes through its own rows in a shuffled order and
        starts again at the end. So over all epochs that share `decks`, the
        counts of its rows differ by at most one. A class with fewer than
        `n_per_class` rows repeats them within a batch. With 0/1 columns, a label
        is drawn and then rows that have it.

    Notes
    -----
    All classes come equally often, whatever their sizes. So most rows of a
    class that is much larger than the others are not used in an epoch, and in
    a short training never.

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
    n_rows = len(labeled_rows(y))
    # Repeated rows teach nothing, and pairs need two classes of two rows.
    batch_size = max(4, min(batch_size, n_rows))
    n_per_class = max(2, min(n_per_class, batch_size // 2))
    n_classes = min(batch_size // n_per_class, len(members))
    shares = np.full(n_classes, n_per_class)
    if n_classes == len(members):
        shares = np.diff(np.linspace(0, batch_size, n_classes + 1).astype(np.int64))
    kept: dict[str, Any] = {} if decks is None else decks
    if not kept:
        kept["classes"] = _Deck(np.arange(len(members)))
        kept["rows"] = [_Deck(row_numbers) for row_numbers in members]
    return [
        np.concatenate(
            [
                kept["rows"][c].deal(k, rng)
                for c, k in zip(kept["classes"].deal(n_classes, rng), shares)
            ]
        )
        for _ in range(max(1, round(n_rows / batch_size)))
    ]


def class_random_batches(
    y: NDArray[np.generic], batch_size: int, n_per_class: int, rng: np.random.Generator
) -> list[Positions]:
    """Draw classes with replacement, then rows of each with replacement [1]_.

    Unlike in `balanced_batches`, a row may come twice in a batch and a class
    may be missing from an epoch. Every draw takes all classes with equal
    probability.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_labels)
        One label per row, or 0/1 columns. Rows without a label are left out, and
        n counts those with one.

    batch_size : int
        Rows per batch, rounded down to a multiple of `n_per_class`, but at
        least two classes.

    n_per_class : int
        Rows drawn for every drawn class, at least 2.

    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    list of ndarray of int64
        Row numbers of every batch, ``n // batch_size`` batches, at least one.
        With 0/1 columns, a label is drawn and then rows that have it.

    References
    ----------
    .. [1] C. Liu, W. She, M. Chen, X. Li, S. X. Yang. "Consistent penalizing
       field loss for zero-shot image retrieval". Expert Systems with
       Applications 236, 2024: its published code.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    >>> batches = class_random_batches(y, 6, 2, np.random.default_rng(0))
    >>> [y[batch].tolist() for batch in batches]
    [[2, 2, 1, 1, 1, 1], [2, 2, 1, 1, 2, 2]]
    """
    check_integer(batch_size, "batch_size", minimum=1)
    check_integer(n_per_class, "n_per_class", minimum=2)
    members = _members(y)
    n_classes = max(2, batch_size // n_per_class)
    return [
        np.concatenate(
            [
                rng.choice(members[c], n_per_class)
                for c in rng.integers(len(members), size=n_classes)
            ]
        )
        for _ in range(max(1, len(labeled_rows(y)) // batch_size))
    ]


def mined_batches(
    y: NDArray[np.generic],
    batch_size: int,
    n_negatives: int,
    pool_size: int,
    rng: np.random.Generator,
    embed: Callable[[Positions], NDArray[np.floating]] | None = None,
    decks: Decks | None = None,
) -> list[Positions]:
    """Draw tuples: a query, a positive, and the hardest negatives of a pool [1]_.

    The positive of a query is another row that shares a label, drawn at random.
    Each call draws one pool at random. The negatives of a query are the nearest
    rows of the pool that share no label with it, at most one of each class, or
    of each set of labels.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_labels)
        One label per row, or 0/1 columns. Rows without a label are left out, and
        n counts those with one.

    batch_size : int
        Rows per batch, rounded down to whole tuples, but at least one tuple.

    n_negatives : int
        Negatives of every query; fewer if the pool has fewer classes.

    pool_size : int
        Maximum number of rows that are searched for negatives.

    rng : numpy.random.Generator
        Source of randomness.

    embed : callable, default=None
        Called once as ``embed(rows)`` with row numbers; returns their
        embeddings, (n_rows, width), by the network as it is now. None adds
        no negatives, for example before there is a network.

    decks : dict, default=None
        Which rows have been queries, as in `balanced_batches`.

    Returns
    -------
    list of ndarray of int64
        Row numbers of every batch, tuple after tuple with the query first,
        its positive second and its negatives nearest first; about ``n /
        batch_size`` batches. The queries go through all rows that share a
        label with another one, in a shuffled order, on and on over all
        epochs that share `decks`.

    References
    ----------
    .. [1] F. Radenović, G. Tolias, O. Chum. "Fine-tuning CNN image retrieval
       with no human annotation". IEEE TPAMI 41, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([0, 0, 1, 1, 2, 2])
    >>> places = np.array([[0.0], [0.1], [0.2], [0.3], [0.9], [1.0]])
    >>> rng = np.random.default_rng(0)
    >>> mined_batches(y, 4, 2, 6, rng, embed=places.__getitem__)
    [array([3, 2, 1, 4]), array([2, 3, 1, 4])]
    """
    check_integer(batch_size, "batch_size", minimum=1)
    check_integer(n_negatives, "n_negatives", minimum=1)
    check_integer(pool_size, "pool_size", minimum=1)
    n_tuples = max(1, batch_size // (2 + n_negatives))
    labeled = labeled_rows(y)
    n_batches = max(1, round(len(labeled) / batch_size))
    decks = {} if decks is None else decks
    queries, positives = _draw_pairs(y, n_batches * n_tuples, rng, decks)
    tuples = list(np.stack([queries, positives], axis=1))
    if embed is not None:
        pool = rng.permutation(labeled)[:pool_size]
        rows = np.union1d(queries, pool)
        vectors = embed(rows)
        found = _hardest_negatives(
            y[queries],
            vectors[np.searchsorted(rows, queries)],
            y[pool],
            vectors[np.searchsorted(rows, pool)],
            n_negatives,
        )
        tuples = [np.concatenate([pair, pool[chosen]]) for pair, chosen in zip(tuples, found)]
    return [np.concatenate(tuples[i * n_tuples : (i + 1) * n_tuples]) for i in range(n_batches)]


def _draw_pairs(
    y: np.ndarray, n: int, rng: np.random.Generator, decks: dict[str, Any]
) -> tuple[Positions, Positions]:
    """Draw `n` queries without favor, and for each another row that shares a label."""
    members = [rows for rows in _members(y) if len(rows) > 1]
    if not members:
        raise ValueError("No two rows of y share a label. Give the same label to some rows.")
    groups = [[] for _ in range(len(y))]  # of every row
    for number, rows in enumerate(members):
        for row in rows:
            groups[row].append(number)
    if not decks:
        decks["queries"] = _Deck(np.unique(np.concatenate(members)))
    queries = decks["queries"].deal(n, rng)
    positives = np.empty_like(queries)
    for i, query in enumerate(queries):
        rows = members[rng.choice(groups[query])]
        # One of the others: the place of the query itself is skipped.
        place = rng.integers(len(rows) - 1)
        positives[i] = rows[place + (place >= np.searchsorted(rows, query))]
    return queries, positives


def _hardest_negatives(
    y_queries: np.ndarray,
    queries: np.ndarray,
    y_pool: np.ndarray,
    pool: np.ndarray,
    n_negatives: int,
) -> list[Positions]:
    """Rows of the pool nearest to each query, one per class and of no label of its own."""
    classes, class_of = np.unique(y_pool, axis=0, return_inverse=True)
    class_of = class_of.reshape(-1)  # numpy 2.0 gives a column
    order = np.argsort(class_of, kind="stable")
    starts = np.searchsorted(class_of[order], np.arange(len(classes)))
    ends = np.append(starts[1:], len(order))
    pool = pool[order]
    lengths = np.einsum("ij,ij->i", pool, pool)
    n_negatives = min(n_negatives, len(classes))
    found = []
    step = max(1, PAIRS_AT_ONCE // len(pool))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        # Squared distances but for the query's own length, which no order depends on.
        distances = lengths - 2 * queries[part] @ pool.T
        nearest = np.minimum.reduceat(distances, starts, axis=1)  # (n_queries, n_classes)
        nearest[shared_labels(y_queries[part], classes) > 0] = np.inf
        hardest = np.argpartition(nearest, n_negatives - 1, axis=1)[:, :n_negatives]
        for row, of_class, chosen in zip(distances, nearest, hardest):
            chosen = chosen[np.isfinite(of_class[chosen])]
            chosen = chosen[np.argsort(of_class[chosen], kind="stable")]
            places = [starts[c] + np.argmin(row[starts[c] : ends[c]]) for c in chosen]
            found.append(order[np.array(places, dtype=np.int64)])
    return found


class _Deck:
    """Cards dealt in a shuffled order, shuffled again whenever they run out."""

    def __init__(self, cards: Positions) -> None:
        self.cards = cards
        self.left = cards[:0]

    def deal(self, n_cards: int, rng: np.random.Generator) -> Positions:
        """Next cards; none comes twice in one deal unless there are too few."""
        dealt = self.left[:n_cards]
        self.left = self.left[n_cards:]
        while len(dealt) < n_cards:
            fresh = rng.permutation(self.cards)
            fresh = fresh[np.argsort(np.isin(fresh, dealt), kind="stable")]
            missing = n_cards - len(dealt)
            dealt = np.concatenate([dealt, fresh[:missing]])
            self.left = fresh[missing:]
        return dealt


def _members(y: np.ndarray) -> list[Positions]:
    """Row numbers of every class or label that has any."""
    if y.ndim == 2:
        members = [np.flatnonzero(column) for column in y.T]
    else:
        order = np.argsort(y, kind="stable")
        starts = np.flatnonzero(np.diff(y[order])) + 1
        members = np.split(order, starts)
    members = [row_numbers for row_numbers in members if len(row_numbers)]
    if not members:
        raise ValueError("No row of y has a label. Label some rows.")
    return members
