"""Rows so near to each other that a product cannot tell them: a second one, around one of them."""

import numpy as np
from sklearn import get_config

PAIRS_PER_NEIGHBOR = 16  # that the first product leaves where a second one pays
QUERIES_AT_LEAST = 8  # with the same rows around


def narrowed(engine, queries, pairs, k):
    """Leave out pairs of which a second product says that they are not among the `k` nearest.

    Pairs are query * n + position. Queries of which the same row comes first have the same rows
    around them, as a rule. Around that row all numbers are small, and so is what is rounded.
    """
    n = len(engine)
    which, position = np.divmod(pairs, n)
    first = np.full(len(queries), n)
    np.minimum.at(first, which, position)
    first[np.bincount(which, minlength=len(queries)) <= PAIRS_PER_NEIGHBOR * k] = n
    keep = np.ones(len(pairs), dtype=bool)
    for center in np.unique(first[first < n]):
        group = np.flatnonzero(first == center)
        if len(group) >= QUERIES_AT_LEAST:
            here = np.flatnonzero((first == center)[which])
            reached = _reached(engine, queries[group], center, position[here], k)
            if reached is not None:
                place, lookup = np.zeros(len(queries), dtype=np.int64), np.zeros(n, dtype=np.int64)
                place[group], lookup[reached[0]] = np.arange(len(group)), np.arange(len(reached[0]))
                keep[here] = reached[1][place[which[here]], lookup[position[here]]]
    return pairs[keep]


def _reached(engine, queries, center, positions, k):
    """Return some positions, in order and once, and which of them every query may want.

    None if each query asks for a few of them only, if they are more than the working memory
    holds, or if zero rows, which have a distance of their own, are among them.
    """
    is_there = np.zeros(len(engine), dtype=bool)
    is_there[positions] = True
    columns = np.flatnonzero(is_there)
    n_numbers = len(columns) * (engine.rows.shape[1] + 2 * len(queries))
    if n_numbers * 8 > get_config()["working_memory"] * 2**20:
        return None
    if len(columns) * len(queries) > 4 * len(positions):
        return None
    rows, queries = engine.rows[columns].astype(np.float64), queries.astype(np.float64)
    if engine.metric == "cosine" and not (rows.any(axis=1).all() and queries.any(axis=1).all()):
        return None
    middle = rows[columns.searchsorted(center)].copy()
    rows -= middle
    queries -= middle
    squares = np.einsum("ij,ij->i", rows, rows)
    similarity = queries @ rows.T - squares / 2
    norms = np.sqrt(np.einsum("ij,ij->i", queries, queries)) + np.sqrt(squares.max())
    limits = np.finfo(np.float64)
    error = (2 * rows.shape[1] + 16) * (limits.eps * norms**2 + limits.tiny)
    best = np.partition(similarity, -k, axis=1)[:, -k]
    return columns, similarity >= (best - 2 * error)[:, None]
