"""Metrics of lists with equally distant items against loops over all their orders."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from metric_cases import (
    VARIANTS,
    call,
    coded,
    labels_that_share,
    loop_average_precision,
    over_orders,
)

from sklearn_cbir.codes import HammingDistances, pack_codes
from sklearn_cbir.metrics import mean_average_precision, ndcg_at_k, recall_at_k


@pytest.mark.parametrize("name", VARIANTS)
def test_ties_are_averaged_over_all_their_orders(rng, name):
    metric, loop = VARIANTS[name]
    for n_distances in (1, 2, 3):
        shared = rng.integers(0, 4, size=6)
        shared[rng.integers(6)] = 2  # something is relevant
        distances = rng.integers(0, n_distances, size=6)
        y_query, y_gallery = labels_that_share(shared, 4)
        for k in (1, 2, 4, 6):
            value = call(metric, name, y_query, y_gallery, distances[None], k=k)
            expected = np.mean(over_orders(loop, shared.tolist(), distances.tolist(), k))
            assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_single_labels_with_ties(rng, name):
    metric, loop = VARIANTS[name]
    y_gallery = rng.permutation([1, 1, 1, 0, 0, 2])
    distances = rng.integers(0, 3, size=6) / 7
    for k in (1, 3, 6):
        value = call(metric, name, [1], y_gallery, distances[None], k=k)
        shared = (y_gallery == 1).astype(int).tolist()
        expected = np.mean(over_orders(loop, shared, distances.tolist(), k))
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("n_nearer", [1, 2])
def test_ties_behind_nearer_items_are_averaged_over_all_their_orders(rng, name, n_nearer):
    metric, loop = VARIANTS[name]
    distances = np.minimum(np.arange(n_nearer + 4), n_nearer)
    for shared in rng.permuted(np.tile([0, 3, 1, 2, 0, 1][: n_nearer + 4], (3, 1)), axis=1):
        labels = labels_that_share(shared, 4)
        for k in range(1, n_nearer + 5):
            value = call(metric, name, *labels, distances[None], k=k)
            expected = np.mean(over_orders(loop, shared.tolist(), distances.tolist(), k))
            assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("ties", ["average", "stable"])
def test_lists_without_ties_and_stable_lists(rng, name, ties):
    metric, loop = VARIANTS[name]
    shared = rng.integers(0, 3, size=(3, 40))
    distances = rng.permuted(np.tile(np.arange(40.0), (3, 1)), axis=1)
    if ties == "stable":
        distances //= 4
    for counts, row in zip(shared, distances):
        ranked = counts[np.argsort(row, kind="stable")].tolist()
        y_query, y_gallery = labels_that_share(counts, 2)
        for k in (1, 7, 40):
            value = call(metric, name, y_query, y_gallery, row[None], k=k, ties=ties)
            assert value == pytest.approx(loop(ranked, k), abs=1e-12)


@pytest.mark.parametrize("denominator", ["relevant", "hits", "min_k"])
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_orders_without_hits_are_skipped(rng, denominator, k):
    def loop(shared, k):
        found = any(shared[:k])
        return loop_average_precision(shared, k, denominator) if found else np.nan

    for n_distances in (1, 2, 3, 6):
        y_gallery, distances = rng.permutation([0, 0, 0, 0, 1, 1]), rng.integers(0, n_distances, 6)
        values = over_orders(loop, y_gallery.tolist(), distances.tolist(), k)
        expected = np.nan if np.isnan(values).all() else np.nanmean(values)
        value = mean_average_precision(
            [1],
            y_gallery,
            distances[None],
            k=k,
            denominator=denominator,
            no_hits="skip",
            per_query=True,
        )
        assert value[0] == pytest.approx(expected, nan_ok=True)


# Large groups of ties, where summing over orders is out of reach


def test_long_groups_sum_term_by_term(rng):
    sizes, hits = [1500, 700, 1800], [300, 0, 40]
    total = before = found = 0
    for size, hit in zip(sizes, hits):
        for t in range(1, size + 1):
            total += hit / size * (found + 1 + (t - 1) * (hit - 1) / (size - 1)) / (before + t)
        before, found = before + size, found + hit
    y_gallery = np.concatenate([np.arange(s) < h for s, h in zip(sizes, hits)])
    distances = np.repeat([1, 2, 3], sizes)[None]
    value = mean_average_precision([True], y_gallery, distances)
    assert value == pytest.approx(total / found, rel=1e-12)


@pytest.mark.parametrize("k", [3, 40, 61, 119])
def test_a_cut_through_a_long_group_is_hypergeometric(k):
    # 20 items, the first 8 relevant (precision 1 at each), then 100 equally distant ones, 30
    # of them relevant.
    y_gallery = np.concatenate([np.arange(20) < 8, np.arange(100) < 30])
    distances = np.concatenate([np.arange(20), np.full(100, 20)])[None]
    sure, drawn = min(k, 8), max(k - 20, 0)
    expected = Fraction(0)
    for x in range(max(0, drawn - 70), min(30, drawn) + 1):
        chance = Fraction(math.comb(30, x) * math.comb(70, drawn - x), math.comb(100, drawn))
        tail = sum(
            Fraction(x, drawn) * (9 + Fraction((t - 1) * (x - 1), max(drawn - 1, 1))) / (20 + t)
            for t in range(1, drawn + 1)
        )
        expected += chance * (sure + tail) / (sure + x)
    value = mean_average_precision([True], y_gallery, distances, k=k, denominator="hits")
    assert value == pytest.approx(float(expected), rel=1e-10)


def test_chance_of_a_hit_in_a_long_group():
    y_gallery = np.arange(1000) < 7
    value = recall_at_k([True], y_gallery, np.zeros((1, 1000)), k=50)
    assert value == pytest.approx(1 - math.comb(993, 50) / math.comb(1000, 50), rel=1e-10)


# Bounds


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("graded", [True, False])
def test_bounds_are_the_best_and_the_worst_order(rng, name, graded):
    metric, loop = VARIANTS[name]
    distances = rng.integers(0, 2, size=6)
    shared = np.array([0, 2, 1, 0, 3, 1]) if graded else np.array([0, 1, 1, 0, 0, 1])
    labels = labels_that_share(shared, 3) if graded else ([1], shared)
    for k in (1, 2, 4, 6):
        values = over_orders(loop, shared.tolist(), distances.tolist(), k)
        low, high = (
            call(metric, name, *labels, distances[None], k=k, ties=ties)
            for ties in ("pessimistic", "optimistic")
        )
        if k == 6 or name not in ("wmap", "map over hits", "wmap over hits"):
            assert low == pytest.approx(min(values), abs=1e-12)
            assert high == pytest.approx(max(values), abs=1e-12)


def test_bounds_of_two_groups():
    # d = [0, 0 | 1, 1, 1], relevant = [1, 0 | 1, 0, 1]: at ranks 1, 3, 4 at best, 2, 4, 5 at worst.
    score = partial(mean_average_precision, [1], [1, 0, 1, 0, 1], [[0, 0, 1, 1, 1]])
    assert score(ties="optimistic") == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert score(ties="pessimistic") == pytest.approx((1 / 2 + 2 / 4 + 3 / 5) / 3)


@pytest.mark.parametrize("ties", ["optimistic", "pessimistic"])
@pytest.mark.parametrize("graded", [True, False])
def test_bounds_of_codes_leave_excluded_rows_out(rng, ties, graded):
    y_queries, y_gallery, *codes = coded(rng, graded)
    distances = HammingDistances(*map(pack_codes, codes))
    exclude = rng.integers(-1, 150, 20)
    score = partial(ndcg_at_k, k=40, ties=ties)
    values = score(y_queries, y_gallery, distances, exclude=exclude, per_query=True)
    for query, row in enumerate(distances[:]):
        keep = np.flatnonzero(np.arange(150) != exclude[query])
        alone = score(y_queries[[query]], y_gallery[keep], row[None, keep], per_query=True)
        np.testing.assert_allclose(alone, values[query])


def test_stable_order_lies_between_the_best_and_the_worst(rng):
    y_queries, y_gallery = rng.integers(0, 3, 10), rng.integers(0, 3, 200)
    distances = rng.integers(0, 10, (10, 200))
    relevant = y_queries[:, None] == y_gallery
    score = partial(mean_average_precision, y_queries, y_gallery, per_query=True)
    average, stable = score(distances), score(distances, ties="stable")
    best, worst = score(distances - relevant / 2), score(distances + relevant / 2)
    for values in (average, stable):
        assert ((worst < values) & (values < best)).all()
