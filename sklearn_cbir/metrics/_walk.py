"""One walk over the distances, block by block of queries, from which every metric is evaluated."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._threads import in_threads, slices
from sklearn_cbir._typing import Distances, Floats, LabelsLike, Positions, Sliced, Ties
from sklearn_cbir._validation import check_boolean, check_choice, check_real
from sklearn_cbir.codes import HammingDistances
from sklearn_cbir.metrics._averaging import check_weights, mean_over_queries
from sklearn_cbir.metrics._counts import CountedRankings, count_codes
from sklearn_cbir.metrics._groups import Cutoff, RadiusCounts, Rankings, TieGroups
from sklearn_cbir.metrics._own import OwnMetric
from sklearn_cbir.metrics._relevance import (
    Relevance,
    check_distances,
    check_exclude,
    check_k,
    check_radii,
    query_blocks,
    read_block,
)

Made = TypeVar("Made")

TIES = get_args(Ties)
PAIRS_AT_ONCE = 2**18  # whose groups fit into a cache
PAIRS_PER_THREAD = 2**20  # below this a second thread costs more than it saves


@dataclass(frozen=True)
class GroupMetric:
    """A metric of groups of equally distant items: ``value(groups, k)`` is one number per query.

    ``gains(n_levels)`` are the gains of items that share 0, 1, 2, ... labels. With a `radius`, `k`
    is how many items lie within it, for every query.
    """

    value: Callable[[TieGroups, Cutoff], np.ndarray]
    k: int | None = None
    ties: Ties = "average"
    gains: Callable[[int], np.ndarray] | None = None
    radius: float | None = None

    @property
    def needs_rows(self) -> bool:
        """Whether counts of what lies at each distance do not do."""
        return self.ties != "average"

    def checked(self, n_gallery: int) -> "GroupMetric":
        """Return the metric for a gallery of this size."""
        check_choice(self.ties, "ties", TIES)
        radius = None if self.radius is None else check_real(self.radius, "radius")
        return replace(self, k=check_k(self.k, n_gallery), radius=radius)

    def __call__(self, rankings: Rankings | CountedRankings) -> np.ndarray:
        """Return one value per query."""
        k = self.k
        if self.radius is not None:
            k = rankings.count_within(np.array([self.radius])).found[:, 0].astype(np.int64)
        return self.value(rankings.groups(self.ties, self.gains), k)


@dataclass(frozen=True)
class RadiusMetric:
    """A metric of the items within a radius: ``value(found, hits, n_relevant)``, per query."""

    value: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    radius: float
    max_results: int | None = None
    gains = None

    @property
    def needs_rows(self) -> bool:
        """Whether counts of what lies at each distance do not do."""
        return self.max_results is not None

    def checked(self, n_gallery: int) -> "RadiusMetric":
        """Return the metric for a gallery of this size."""
        return replace(self, radius=check_real(self.radius, "radius"))

    def __call__(self, rankings: Rankings | CountedRankings) -> np.ndarray:
        """Return one value per query."""
        within = rankings.count_within(np.array([self.radius]), self.max_results)
        return self.value(within.found[:, 0], within.hits[:, 0], within.n_relevant)


def evaluate_metric(
    metric: GroupMetric | RadiusMetric,
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    exclude: ArrayLike | None,
    sample_weight: ArrayLike | None,
    per_query: bool,
) -> float | Floats:
    """Return one value per query, NaN where nothing is relevant, or their mean.

    If the value is NaN although something in the gallery is relevant, the metric skips the query.
    """
    per_query = check_boolean(per_query, "per_query")
    distances = check_distances(distances)
    relevance = Relevance(y_queries, y_gallery, distances.shape)
    metric = metric.checked(distances.shape[1])
    exclude = check_exclude(exclude, distances.shape)
    (values,), has_relevant = evaluate_metrics([metric], relevance, distances, exclude)
    if per_query:
        return values
    skipped = np.isnan(values) & has_relevant
    if skipped.any():
        values, sample_weight = _without_skipped(values, skipped, sample_weight)
    return mean_over_queries(values, sample_weight)


class _Block:
    """Queries whose distances were read at once."""

    def __init__(self, rows, distances, relevance, exclude, n_pairs):
        self.rows, self.distances, self.relevance = rows, distances, relevance
        self.exclude = None if exclude is None else exclude[rows]
        self.n_pairs = n_pairs

    def rank(self, consume):
        """Yield slices of queries and ``consume(rankings)`` of them, in threads if that pays."""

        def consumed(part):
            queries = slice(self.rows.start + part.start, self.rows.start + part.stop)
            exclude = None if self.exclude is None else self.exclude[part]
            distances = self.distances[part]
            rankings = Rankings(distances, self.relevance, queries, exclude, self.n_pairs)
            return queries, consume(rankings)

        n_queries, n_gallery = self.distances.shape
        parts = slices(n_queries, max(1, PAIRS_AT_ONCE // n_gallery))
        return in_threads(consumed, parts, self.distances.size / PAIRS_PER_THREAD)


class _CountedBlock:
    """Queries whose distances were counted at once."""

    distances = None

    def __init__(self, rows, counts, gains):
        self.rows, self.rankings = rows, CountedRankings(counts, gains)

    def rank(self, consume):
        """Yield the queries and ``consume(rankings)`` of them."""
        yield self.rows, consume(self.rankings)


def read_blocks(relevance, distances, exclude):
    """Yield blocks of queries whose distances fit into the working memory."""
    n_pairs = distances.shape[0] * distances.shape[1]
    for rows in query_blocks(distances.shape, distances):
        yield _Block(rows, read_block(distances, rows), relevance, exclude, n_pairs)


def count_blocks(relevance, distances, exclude, gains=()):
    """Yield blocks of queries by codes, of which nothing but counts is held."""
    gains = list(gains)
    worth = np.empty((len(gains), relevance.n_levels))
    for row, gain in zip(worth, gains):
        row[:] = gain(relevance.n_levels)
    for rows, counts in count_codes(relevance, distances, worth, exclude):
        yield _CountedBlock(rows, counts, gains)


def walk(
    consume: Callable[[Rankings | CountedRankings], Made],
    relevance: Relevance,
    distances: Sliced,
    exclude: list[Positions] | None,
    *,
    needs_rows: bool = False,
) -> Iterator[tuple[slice, Made]]:
    """Yield slices of queries, in order, and ``consume(rankings)`` of them.

    Codes are counted unless `consume` `needs_rows` of distances.
    """
    is_counted = isinstance(distances, HammingDistances) and not needs_rows
    for block in (count_blocks if is_counted else read_blocks)(relevance, distances, exclude):
        yield from block.rank(consume)


def count_within_radii(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    distances: Distances,
    *,
    radii: ArrayLike,
    max_results: int | None = None,
    exclude: ArrayLike | None = None,
) -> RadiusCounts:
    """Count the items within each radius of all queries."""
    radii = check_radii(radii)
    distances = check_distances(distances)
    relevance = Relevance(y_queries, y_gallery, distances.shape)
    exclude = check_exclude(exclude, distances.shape)
    parts = walk(
        lambda rankings: rankings.count_within(radii, max_results),
        relevance,
        distances,
        exclude,
        needs_rows=max_results is not None,
    )
    found = [(part.found, part.hits, part.n_relevant) for _, part in parts]
    return RadiusCounts(*map(np.concatenate, zip(*found)))


def evaluate_metrics(
    metrics: list[GroupMetric | RadiusMetric | OwnMetric],
    relevance: Relevance,
    distances: Sliced,
    exclude: list[Positions] | None,
    advance: Callable[[int], None] = lambda n_values: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one value per metric and query, and which queries have something relevant.

    The distances are read once for all metrics. Codes are counted, once too, but for the metrics
    that need rows of distances. `advance` is told how many more values are there.
    """
    n_queries = distances.shape[0]
    values = np.full((len(metrics), n_queries), np.nan)
    has_relevant = np.zeros(n_queries, dtype=bool)
    is_codes = isinstance(distances, HammingDistances)
    counted = [n for n, metric in enumerate(metrics) if is_codes and not metric.needs_rows]
    read = [n for n in range(len(metrics)) if n not in counted]
    gains = {metrics[n].gains for n in counted} - {None}
    common = relevance, distances, exclude
    if counted:
        _fill(values, has_relevant, metrics, counted, count_blocks(*common, gains), advance)
    if read:
        _fill(values, has_relevant, metrics, read, read_blocks(*common), advance)
    return values, has_relevant


def _fill(values, has_relevant, metrics, numbers, blocks, advance):
    """Write what some of the metrics say of every query, block by block."""
    ranked = [number for number in numbers if not isinstance(metrics[number], OwnMetric)]

    def evaluate(rankings):
        return rankings.n_relevant > 0, [metrics[number](rankings) for number in ranked]

    for block in blocks:
        for number in set(numbers).difference(ranked):
            values[number, block.rows] = metrics[number].of_block(block)
        if ranked:
            for part, (is_defined, found) in block.rank(evaluate):
                values[ranked, part] = np.where(is_defined, found, np.nan)
                has_relevant[part] = is_defined
        advance(len(numbers) * (block.rows.stop - block.rows.start))


def _without_skipped(values, skipped, sample_weight):
    """Return values and weights of the queries that count, of which there must be some."""
    weights = check_weights(sample_weight, len(values))
    if np.isnan(values[~skipped]).all():
        raise ValueError(
            f"no_hits='skip' leaves none of the {len(values)} queries: none has a relevant "
            "result. Use no_hits='zero'."
        )
    return values[~skipped], weights[~skipped]
