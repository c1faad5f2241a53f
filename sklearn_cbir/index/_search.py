"""Searching with any engine: queries left out of their own results, re-ranking, scores."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sklearn_cbir._typing import Floats, Metric, Positions, Reranker
from sklearn_cbir._validation import check_integer, shortened
from sklearn_cbir.index._checking import Asked
from sklearn_cbir.index._engine import Engine
from sklearn_cbir.index._evaluation import Evaluation
from sklearn_cbir.index._rows import find_copies, find_rows
from sklearn_cbir.metrics import parse_metric
from sklearn_cbir.metrics._scoring import evaluate_each, reads_order
from sklearn_cbir.reranking import resolve_reranker

__all__ = ["Evaluation"]  # pickles look for it here


def search_asked(
    asked: Asked, k: int, rerank: str | Reranker | None, depth: int
) -> tuple[np.ndarray, Positions]:
    """Return distances and numbers of the nearest rows, by the re-ranker of a user if there is one.

    `rerank` and `depth` are parameters of a retriever.
    """
    if rerank is None:
        return search(asked.engine, asked.queries, k, asked.excluded)
    reranker = resolve_reranker(rerank, asked.engine.metric)
    depth = check_integer(depth, "rerank_depth", minimum=1)
    return search_reranked(asked.engine, asked.queries, k, asked.excluded, reranker, depth)


def search(
    engine: Engine, queries: np.ndarray, k: int, excluded: Positions | None = None
) -> tuple[np.ndarray, Positions]:
    """Return the `k` nearest rows, without the excluded ones.

    `excluded` is the position of each query in the gallery, -1 where it has none, or the positions
    of all that each query leaves out, (n_queries, n_excluded); None without ids.
    """
    n_excluded = _n_excluded(excluded)
    if k > len(engine) - n_excluded:
        raise ValueError(
            f"Expected n_neighbors {'<=' if excluded is None else '<'} n_samples_fit, but "
            f"n_neighbors = {k}, n_samples_fit = {len(engine)}, n_samples = {len(queries)}."
        )
    if excluded is None:
        return engine.query(queries, k)
    distances, positions = engine.query(queries, k + n_excluded)
    if excluded.ndim == 1:
        keep = positions != excluded[:, None]
    else:
        keep = np.array([np.isin(*row, invert=True) for row in zip(positions, excluded)])
    keep &= keep.cumsum(axis=1) <= k  # where not all that is excluded was found
    shape = len(queries), k
    return distances[keep].reshape(shape), positions[keep].reshape(shape)


def _n_excluded(excluded: Positions | None) -> int:
    """Return how many rows every query leaves out at most."""
    return 0 if excluded is None else 1 if excluded.ndim == 1 else excluded.shape[1]


def search_radius(
    engine: Engine, queries: np.ndarray, radii: Floats, excluded: Positions | None = None
) -> Iterator[tuple[np.ndarray, Positions]]:
    """Yield distances and positions of all rows within each radius but for those excluded."""
    for row, (distances, positions) in enumerate(zip(*engine.query_radius(queries, radii))):
        keep = slice(None) if excluded is None else positions != excluded[row]
        yield distances[keep], positions[keep]


def search_reranked(
    engine: Engine,
    queries: np.ndarray,
    k: int,
    excluded: Positions | None,
    rerank: Reranker,
    depth: int,
) -> tuple[np.ndarray, Positions]:
    """Return the `k` first results after `rerank` has put the first `depth` into its order."""
    depth = min(depth, len(engine) - _n_excluded(excluded))
    distances, positions = search(engine, queries, max(k, depth), excluded)
    new = _rerank(rerank, engine, queries, distances, positions, depth)
    order = np.argsort(new, axis=1, kind="stable")
    for result in (distances, positions):
        result[:, :depth] = np.take_along_axis(result[:, :depth], order, axis=1)
    return distances[:, :k], positions[:, :k]


def score_queries(
    engine: Engine,
    queries: np.ndarray,
    excluded: Positions | None,
    y: np.ndarray,
    y_gallery: np.ndarray,
    names: list[str | Metric],
    rerank: Reranker | None,
    depth: int,
    advance: Callable[[int], None],
) -> list[Floats]:
    """Return, for every metric, one value per query; `excluded` is left out of the ranking.

    Metrics of one ranking share one reading of the gallery. `advance` is told how many values of
    single queries are there.
    """
    values: dict[int, Any] = dict.fromkeys(range(len(names)))
    for ranking, numbers in _rankings(engine, queries, excluded, names, rerank, depth):
        some = [names[number] for number in numbers]
        values.update(zip(numbers, evaluate_each(some, y, y_gallery, ranking, excluded, advance)))
    return list(values.values())


def _rankings(
    engine: Engine,
    queries: np.ndarray,
    excluded: Positions | None,
    names: list[str | Metric],
    rerank: Reranker | None,
    depth: int,
) -> Iterator[tuple[Any, list[int]]]:
    """Yield the rankings that metrics are computed from, and the numbers of those metrics.

    The rows within a distance do not depend on the order, so they are not re-ranked. If reading the
    whole gallery is expensive, metrics of the first results share the longest list of them.
    """
    cutoffs = [parse_metric(name)[1] for name in names]
    longest = max((k for k in cutoffs if k is not None), default=len(engine))
    first_results = engine.cut_off(longest + (excluded is not None))
    readings: dict[tuple[bool, bool], list[int]] = {}
    for number, (name, k) in enumerate(zip(names, cutoffs)):
        is_reranked = rerank is not None and reads_order(name)
        is_whole = k is None or first_results is engine
        readings.setdefault((is_reranked, is_whole), []).append(number)
    for (is_reranked, is_whole), numbers in readings.items():
        source, used = engine if is_whole else first_results, rerank if is_reranked else None
        if engine.metric == "hamming" and is_whole and not is_reranked:
            yield engine.distances(queries), numbers  # metrics count its distances
        else:
            yield FullRanking(source, queries, excluded, rerank=used, depth=depth), numbers


class FullRanking:
    """Exact distances, in the re-ranker's order, in the blocks of queries that a metric reads."""

    ndim = 2

    def __init__(self, engine, queries, excluded, *, rerank, depth):
        self.engine, self.queries, self.excluded = engine, queries, excluded
        self.rerank, self.depth = rerank, min(depth, len(engine) - (excluded is not None))
        self.shape = len(queries), len(engine)
        self.block_size = engine.block_size

    def __len__(self):
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        found = np.asarray(self[:])
        return found if dtype is None else found.astype(dtype, copy=False)

    def __getitem__(self, rows):
        queries = self.queries[rows]
        distances = self.engine.distances(queries)
        if self.rerank is not None:
            excluded = None if self.excluded is None else self.excluded[rows]
            distances = self._reranked(queries, distances, excluded)
        return distances

    def _reranked(self, queries, distances, excluded):
        """Give the re-ranked results negative distances, so that they come first, in order."""
        nearest, positions = search(self.engine, queries, self.depth, excluded)
        new = _rerank(self.rerank, self.engine, queries, nearest, positions, self.depth)
        distances = np.array(distances[:], dtype=np.float64)
        for row, (values, found) in enumerate(zip(new, positions)):
            distances[row, found] = np.unique(values, return_inverse=True)[1] - self.depth
        return distances


def warn_of_copies(asked: Asked, ids: Any) -> None:
    """Warn if most queries that were not found by id are in the gallery, and find themselves.

    `ids` are those of the gallery. Rows that a filter leaves out are not found.
    """
    engine, queries = asked.engine, asked.queries
    if asked.places is not None:
        queries = queries[asked.places < 0]
    if not len(queries):
        return
    equal = find_rows(engine.exact.as_held(queries), engine.rows)
    _warn_if_many(engine, ids, equal, asked.places is not None)


def warn_of_found_copies(asked: Asked, ids: Any, distances: Any, found: Any) -> None:
    """Warn if most queries whose ids were not found are at distance 0 from what they found.

    One query alone may well equal a row of another id. `ids` are those of the gallery; `found` are
    rows of the engine that was asked.
    """
    assert asked.places is not None
    lost = np.flatnonzero(asked.places < 0)
    if len(lost) < 2:
        return
    equal = np.zeros(len(lost), dtype=bool)
    place = [row for row, query in enumerate(lost) if len(found[query])]
    nearest = [int(np.argmin(distances[query])) for query in lost[place]]
    queries = asked.queries[lost[place]]
    held = asked.engine.exact.as_held(queries)
    if held is queries:  # no row is at distance 0 but an equal one
        equal[place] = [distances[query][near] == 0 for query, near in zip(lost[place], nearest)]
    else:
        rows = np.array([found[query][near] for query, near in zip(lost[place], nearest)], np.int64)
        equal[place] = (held == asked.engine.rows[rows]).all(axis=1)
    _warn_if_many(asked.engine, ids, equal, has_ids=True)


def _warn_if_many(engine, ids, equal, has_ids):
    """Warn if more queries are equal to rows of an engine than chance explains."""
    share, rows = equal.mean(), engine.rows
    expected = 0.0
    if rows.dtype.kind == "u" and share > 0.5:
        # Different images may well have one code: then those of the gallery share theirs as often.
        copies, firsts = find_copies(rows)
        expected = (len(copies) + len(np.unique(firsts))) / len(rows)
    if share <= max(0.5, expected + 0.25):
        return
    which = "the queries"
    way = (
        "pass X=None, or pass the same ids to fit and to score; for a Pipeline, use "
        "retrieval_scorer. (Training scores have this problem, too: set "
        "return_train_score=False in HalvingGridSearchCV.)"
    )
    if has_ids:
        which = f"the {len(equal)} queries whose ids the gallery does not have"
        way = f"spell their ids like those of the gallery, such as {shortened(ids.values[0])}."
    warnings.warn(
        f"{share:.0%} of {which} are equal to rows of the gallery, so they find themselves. To "
        f"leave each query out of its own results, {way}",
        UserWarning,
        stacklevel=5,
    )


def _rerank(rerank, engine, queries, distances, positions, depth):
    """Return the re-ranker's numbers for the first `depth` results."""
    returned = rerank(queries, distances[:, :depth], positions[:, :depth], engine)
    must = f"It must return one finite number per result: shape {(len(queries), depth)}."
    try:
        new = np.asarray(returned)
    except (TypeError, ValueError):  # lists of several lengths
        new = np.asarray("")
    if new.dtype.kind not in "buif":
        raise ValueError(
            f"rerank={shortened(rerank)} returned {shortened(returned)}, which holds no real "
            f"numbers. {must}"
        )
    if new.shape != (len(queries), depth):
        raise ValueError(
            f"rerank={shortened(rerank)} returned an array of shape {new.shape}. {must}"
        )
    if not np.isfinite(new).all():
        row, rank = np.argwhere(~np.isfinite(new))[0]
        raise ValueError(
            f"rerank={shortened(rerank)} returned {new[row, rank]} for result {rank} of query "
            f"{row}. {must}"
        )
    return new
