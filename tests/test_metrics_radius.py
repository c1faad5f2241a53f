"""Metrics of what lies within a distance, and curves: hand-worked lists and plain loops."""

from functools import partial

import numpy as np
import pytest
from metric_cases import IN_RADIUS, coded, over_orders
from sklearn.exceptions import UndefinedMetricWarning

from sklearn_cbir.codes import HammingDistances, pack_codes
from sklearn_cbir.metrics import (
    METRICS,
    best_f1_radius,
    mean_average_precision,
    mean_average_precision_in_radius,
    per_class_thresholds,
    precision_at_k,
    precision_in_radius,
    precision_recall_curve,
    radius_precision_recall_curve,
    recall_in_radius,
    set_recall_at_k,
    success_in_radius,
    threshold_f1,
    threshold_f1_curve,
)

# Radius


def test_precision_in_a_radius():
    y_gallery, distances = [1, 1, 0, 1], [[0, 2, 2, 3], [5, 5, 5, 5]]
    values = precision_in_radius([1, 1], y_gallery, distances, per_query=True)
    assert values.tolist() == [2 / 3, 0]  # nothing within the second radius
    assert precision_in_radius([1, 1], y_gallery, distances, radius=5) == 0.75


def test_recall_and_success_in_a_radius():
    y_gallery, distances = [1, 1, 0, 1], [[0, 2, 2, 3], [5, 5, 5, 5], [9, 9, 1, 9]]
    values = recall_in_radius([1, 1, 1], y_gallery, distances, per_query=True)
    assert values.tolist() == [2 / 3, 0, 0]
    values = success_in_radius([1, 1, 1], y_gallery, distances, per_query=True)
    assert values.tolist() == [1, 0, 1]  # the third finds an item, though not a relevant one
    assert success_in_radius([1, 1, 1], y_gallery, distances) == pytest.approx(2 / 3)
    assert recall_in_radius([1, 1, 1], y_gallery, distances, radius=9) == 1


def test_average_precision_in_a_radius():
    # Within the radius: 1, 0, 1 | nothing | 0.
    y_gallery, distances = [1, 0, 1, 1], [[0, 1, 2, 3], [5, 5, 5, 5], [9, 1, 9, 9]]
    score = partial(mean_average_precision_in_radius, [1, 1, 1], y_gallery, distances)
    assert score(per_query=True).tolist() == pytest.approx([(1 + 2 / 3) / 2, 0, 0])
    assert score() == pytest.approx(5 / 18)
    values = score(no_hits="skip", per_query=True)  # an empty ball counts all the same
    np.testing.assert_allclose(values, [5 / 6, 0, np.nan])
    assert score(no_hits="skip") == pytest.approx(5 / 12)
    everything = mean_average_precision([1, 1, 1], y_gallery, distances)
    assert score(radius=9) == pytest.approx(everything)


@pytest.mark.parametrize("radius", [0, 1, 2.5])
def test_average_precision_in_a_radius_averages_ties(rng, radius):
    def loop(shared, k):
        hits = sum(shared[:k])
        return sum(sum(shared[:t]) / t for t in range(1, k + 1) if shared[t - 1]) / max(hits, 1)

    for _ in range(10):
        y_gallery, distances = rng.permutation([0, 0, 0, 1, 1, 1]), rng.integers(0, 4, 6)
        k = np.count_nonzero(distances <= radius)
        values = over_orders(loop, y_gallery.tolist(), distances.tolist(), k)
        score = partial(mean_average_precision_in_radius, [1], y_gallery, distances[None])
        assert score(radius=radius) == pytest.approx(np.mean(values))
        assert score(radius=radius, ties="optimistic") == pytest.approx(max(values))
        assert score(radius=radius, ties="pessimistic") == pytest.approx(min(values))


def test_in_a_radius_of_all_bits_everything_is_found(rng):
    y_queries, y_gallery, *codes = coded(rng, graded=True)
    known = y_queries, y_gallery, HammingDistances(*map(pack_codes, codes))
    assert success_in_radius(*known, radius=12) == recall_in_radius(*known, radius=12) == 1
    share = (y_queries @ y_gallery.T > 0).mean()
    assert precision_in_radius(*known, radius=12) == pytest.approx(share)
    everything = mean_average_precision(*known)
    assert mean_average_precision_in_radius(*known, radius=12) == pytest.approx(everything)


def test_radii_beyond_all_bits_are_those_of_all_bits_and_below_zero_find_nothing(rng):
    y_queries, y_gallery, *codes = coded(rng, graded=True)
    known = y_queries, y_gallery, HammingDistances(*map(pack_codes, codes))
    for name in IN_RADIUS:
        score = partial(METRICS[name], *known)
        assert score(radius=12.5) == score(radius=13) == score(radius=1e6) == score(radius=12)
        assert score(radius=-0.5) == score(radius=-1e6) == 0


def test_perfect_codes_score_one_in_a_radius():
    y = np.arange(20) % 4
    distances = (y[:, None] != y) * 9
    for name in IN_RADIUS:
        assert METRICS[name](y, y, distances) == 1


def test_f1_takes_the_nearest_up_to_a_number(rng):
    y = np.array([1, 1, 1, 0])
    score = partial(threshold_f1, [1], y, [[0.0, 0.1, 0.2, 0.1]], radius=0.3)
    assert score() == pytest.approx(2 * 3 / (4 + 3))
    assert score(max_results=1) == pytest.approx(2 * 1 / (1 + 3))
    assert score(max_results=2) == pytest.approx(2 * 1.5 / (2 + 3))  # one of two equal ones
    assert score(max_results=4) == score(max_results=9) == score()


def test_f1_of_codes_takes_the_nearest_up_to_a_number(rng):
    y_queries, y_gallery, *codes = coded(rng, graded=False)
    packed = HammingDistances(*map(pack_codes, codes))
    distances = (codes[0][:, None] != codes[1]).sum(axis=2)
    for limit in (1, 3, 10):
        options = {"radius": 5, "max_results": limit, "per_query": True}
        found = threshold_f1(y_queries, y_gallery, packed, **options)
        expected = threshold_f1(y_queries, y_gallery, distances, **options)
        np.testing.assert_array_equal(found, expected)
        assert (found != threshold_f1(y_queries, y_gallery, packed, radius=5, per_query=True)).any()


def test_f1_of_a_curve_is_that_of_each_radius(rng):
    y, distances = rng.integers(0, 4, 30), rng.integers(0, 9, (30, 30)).astype(float)
    radii = np.array([3.0, 0.0, 8.0])
    for limit in (None, 5):
        options = {"max_results": limit, "exclude": np.arange(30)}
        curve = threshold_f1_curve(y, y, distances, radii=radii, **options)
        for column, radius in zip(curve.T, radii):
            values = threshold_f1(y, y, distances, radius=radius, per_query=True, **options)
            assert np.array_equal(values, column)
        hits = [np.delete((y == y[i]) & (distances[i] <= 3), i).sum() for i in range(30)]
        found = [np.delete(distances[i] <= 3, i).sum() for i in range(30)]
        relevant = [(y == y[i]).sum() - 1 for i in range(30)]
        if limit is None:
            assert np.allclose(curve[:, 0], 2 * np.array(hits) / (np.array(found) + relevant))


def test_best_radius_for_all_and_for_each_class():
    y_queries, y_gallery = ["a", "b"], ["a", "a", "b"]
    curve = threshold_f1_curve(y_queries, y_gallery, [[1, 2, 9], [5, 6, 4]], radii=[9, 4, 2])
    radius, f1 = best_f1_radius([9, 4, 2], curve)
    assert (radius, f1) == (4, 1)
    radii, f1 = best_f1_radius([9, 4, 2], curve, y_queries=y_queries)
    assert radii.tolist() == [2, 4]
    assert f1.tolist() == [1, 1]


@pytest.mark.parametrize(
    "radii",
    [[], [np.nan], [0.2, np.nan], [np.inf], [[1.0, 2.0]], 3.0, ["far"], None],
    ids=["empty", "NaN", "NaN among others", "infinite", "2-D", "number", "text", "None"],
)
def test_radii_must_be_numbers(radii):
    known = [0, 1], [0, 1, 1], np.ones((2, 3))
    calls = [
        partial(threshold_f1_curve, *known),
        partial(radius_precision_recall_curve, *known),
        partial(best_f1_radius, curve=np.ones((2, 2))),
        partial(per_class_thresholds, *known),
    ]
    for call in calls[: 3 if radii is None else 4]:  # None: candidates of its own
        with pytest.raises(ValueError, match="radii=.* at least one finite number"):
            call(radii=radii)


@pytest.mark.filterwarnings("ignore:A column-vector y")
def test_labels_in_a_column_have_thresholds_of_their_own():
    y_queries, y_gallery, rows = np.array([1, 2]), [1, 1, 2], [[0.1, 0.5, 0.9], [0.9, 0.5, 0.3]]
    expected = per_class_thresholds(y_queries, y_gallery, rows)
    found = per_class_thresholds(y_queries[:, None], y_gallery, rows)
    assert found.classes.tolist() == [1, 2]
    assert found.radius.tolist() == expected.radius.tolist()


# Curves


def test_curve_by_rank_is_the_mean_of_precision_and_recall(rng):
    y_queries, y_gallery = rng.integers(0, 3, 9), rng.integers(0, 3, 40)
    distances = rng.integers(0, 7, (9, 40))
    weights = rng.random(9)
    precision, recall = precision_recall_curve(
        y_queries, y_gallery, distances, sample_weight=weights
    )
    for k in (1, 2, 17, 40):
        options = {"k": k, "sample_weight": weights}
        assert precision[k - 1] == pytest.approx(
            precision_at_k(y_queries, y_gallery, distances, **options)
        )
        assert recall[k - 1] == pytest.approx(
            set_recall_at_k(y_queries, y_gallery, distances, **options)
        )


def test_curve_leaves_the_query_itself_out(rng):
    y, distances = rng.integers(0, 3, 30), rng.random((30, 30))
    precision, recall = precision_recall_curve(y, y, distances, exclude=np.arange(30))
    assert len(precision) == 29
    assert recall[-1] == pytest.approx(1)


def test_curve_by_radius(rng):
    y_queries, y_gallery, *codes = coded(rng, graded=False)
    y_queries %= 3
    lazy = HammingDistances(*map(pack_codes, codes))
    precision, recall = radius_precision_recall_curve(y_queries, y_gallery, lazy, radii=range(13))
    assert recall[-1] == 1
    share = np.mean([(y_gallery == label).mean() for label in y_queries])
    assert precision[-1] == pytest.approx(share)  # everything is within n_bits
    found = lazy[:] <= 3
    some = found.any(axis=1)
    hits = (found & (y_queries[:, None] == y_gallery)).sum(axis=1)
    assert precision[3] == pytest.approx((hits[some] / found.sum(axis=1)[some]).mean())


@pytest.mark.parametrize("ties", ["average", "stable", "optimistic", "pessimistic"])
@pytest.mark.parametrize("graded", [False, True])
def test_curves_of_codes_are_those_of_their_distances(rng, ties, graded):
    y_queries, y_gallery, *codes = coded(rng, graded)
    y_queries %= 3
    lazy = HammingDistances(*map(pack_codes, codes))
    labels, exclude = (y_queries, y_gallery), np.arange(20)
    radii = {"radii": [2, 4.5, 12]}
    for curve, options in (
        (precision_recall_curve, {"ties": ties}),
        (radius_precision_recall_curve, radii | {"average": "macro"}),
        (radius_precision_recall_curve, radii | {"average": "micro"}),
    ):
        found, expected = (curve(*labels, d, exclude=exclude, **options) for d in (lazy, lazy[:]))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_micro_curve_counts_all_pairs_together():
    # Relevant: 3 and 1. Within 1: 1 of 1 and 1 of 3 items; within 2: 2 of 3 and 1 of 4.
    y_gallery, distances = [1, 0, 1, 1], [[0, 2, 2, 9], [1, 1, 1, 2]]
    curve = partial(radius_precision_recall_curve, [1, 0], y_gallery, distances, radii=[1, 2])
    precision, recall = curve(average="micro")
    np.testing.assert_allclose(precision, [2 / 4, 3 / 7])
    np.testing.assert_allclose(recall, [2 / 4, 3 / 4])
    precision, recall = curve()
    np.testing.assert_allclose(precision, [(1 + 1 / 3) / 2, (2 / 3 + 1 / 4) / 2])
    np.testing.assert_allclose(recall, [(1 / 3 + 1) / 2, (2 / 3 + 1) / 2])
    precision, recall = curve(average="micro", sample_weight=[2, 1])
    np.testing.assert_allclose(precision, [3 / 5, 5 / 10])
    np.testing.assert_allclose(recall, [3 / 7, 5 / 7])


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_nothing_within_a_radius_has_no_precision_and_no_recall(average):
    with pytest.warns(UndefinedMetricWarning, match="1 of 2 queries"):
        precision, recall = radius_precision_recall_curve(
            [0, 5], [0, 1], [[1, 2], [0, 0]], radii=[0, 2], average=average
        )
    assert np.array_equal(precision, [np.nan, 0.5], equal_nan=True)
    assert recall.tolist() == [0, 1]


def test_average_of_a_curve_is_checked():
    with pytest.raises(ValueError, match="average='weighted' is not known"):
        radius_precision_recall_curve([0], [0], [[0]], radii=[0], average="weighted")


def test_curve_warns_once_of_queries_without_anything_relevant():
    with pytest.warns(UndefinedMetricWarning, match="1 of 2 queries"):
        precision, recall = precision_recall_curve([0, 5], [0, 1], [[1, 2], [1, 2]])
    assert precision.tolist() == [1, 0.5]
    assert recall.tolist() == [1, 1]
