"""What the papers on metric learning report besides mAP, on lists worked by hand and by loops."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.preprocessing import normalize

from sklearn_cbir.metrics import (
    cluster_agreement,
    map_at_r,
    map_c,
    pair_f1,
    per_class_thresholds,
    recall_at_k,
    threshold_f1,
    threshold_f1_curve,
)

# Five points on the unit circle, of two classes. Order of the others, nearest first, hits marked:
# 0: 1* 2* 3 4;  1: 0* 2* 3 4;  2: 3 1* 4 0*;  3: 4* 2 1 0;  4: 3* 2 1 0.
POINTS = normalize([[1, 0], [0.98, 0.2], [0.6, 0.8], [0, 1], [-0.1, 1]])
CLASSES = np.array([0, 0, 0, 1, 1])
DISTANCES = np.clip(1 - POINTS @ POINTS.T, 0, 2)
OWN = np.arange(5)


# Precision over a class -----------------------------------------------------------------------


def test_values_of_the_five_points():
    known = CLASSES, CLASSES, DISTANCES
    assert recall_at_k(*known, k=1, exclude=OWN) == pytest.approx(0.8)
    assert recall_at_k(*known, k=2, exclude=OWN) == pytest.approx(1.0)
    assert map_at_r(*known, exclude=OWN) == pytest.approx((1 + 1 + 1 / 4 + 1 + 1) / 5)  # 0.85
    per_query = map_c(*known, exclude=OWN, per_query=True)
    assert per_query == pytest.approx([2 / 3, 2 / 3, 1 / 6, 1 / 2, 1 / 2])
    assert map_c(*known, exclude=OWN) == pytest.approx(0.5)
    for theta, f1 in ((0.68, 0.79428571), (0.90, 0.82), (0.99, 0.7)):
        assert threshold_f1(*known, radius=1 - theta) == pytest.approx(f1)


def test_precision_over_a_class_equals_a_loop(rng):
    y = rng.integers(0, 4, 30)
    distances = rng.random((30, 30))
    expected = []
    for query in range(30):
        order = [item for item in np.argsort(distances[query]) if item != query]
        class_size = np.count_nonzero(y == y[query])
        hits, total = 0, 0.0
        for rank, item in enumerate(order[:class_size], start=1):
            if y[item] == y[query]:
                hits += 1
                total += hits / rank
        expected.append(total / class_size)
    got = map_c(y, y, distances, exclude=np.arange(30), per_query=True)
    assert got == pytest.approx(expected, abs=1e-12)


def test_precision_over_a_class_averages_ties():
    # One of the two equally near items is relevant: (1/1)/2 or (1/2)/2, each in half the orders.
    assert map_c([1], [1, 0, 0], [[3, 3, 5]]) == pytest.approx((1 / 2 + 1 / 4) / 2)


# Clusters -------------------------------------------------------------------------------------


def test_pair_f1_counts_pairs(rng):
    assert pair_f1([0, 0, 0, 1, 1], [0, 0, 1, 1, 1]) == 0.5  # 2 * 2 / (4 + 4)
    assert pair_f1(["a", "a", "b"], [7, 7, 3]) == 1.0
    assert pair_f1([0, 0, 1, 1], [0, 1, 0, 1]) == 0.0
    assert np.isnan(pair_f1([0, 1, 2], [0, 1, 2]))
    y, clusters = rng.integers(0, 3, (2, 40))
    pairs = list(combinations(range(40), 2))
    same_class = {(i, j) for i, j in pairs if y[i] == y[j]}
    same_cluster = {(i, j) for i, j in pairs if clusters[i] == clusters[j]}
    expected = 2 * len(same_class & same_cluster) / (len(same_class) + len(same_cluster))
    assert pair_f1(y, clusters) == pytest.approx(expected)
    assert pair_f1(y[::-1], (clusters[::-1] + 1) % 3) == pytest.approx(expected)


def test_clusters_agree_with_classes_that_lie_apart():
    X, y = make_blobs(60, centers=[[0, 0], [9, 0], [0, 9]], cluster_std=0.3, random_state=0)
    assert cluster_agreement(X, y) == pytest.approx((1.0, 1.0))
    nmi, f1 = cluster_agreement(X, y, n_clusters=2)
    # Two of the three classes of 20 fall into one cluster.
    assert f1 == pytest.approx(2 * 3 * 190 / (3 * 190 + 190 + 780))
    assert 0 < nmi < 1
    shuffled = np.random.default_rng(0).permutation(y)
    assert cluster_agreement(X, shuffled)[0] < 0.1
    assert cluster_agreement(X, shuffled, random_state=3) == cluster_agreement(
        X, shuffled, random_state=3
    )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([[0.0], [1.0]], [0]), {}, "2 rows in X, 1 labels"),
        (([[0.0], [1.0]], [[1, 0], [0, 1]]), {}, "y has 2 columns"),
        (([[0.0], [1.0]], [0, 1]), {"n_clusters": 3}, "n_clusters=3 must be an integer from 1"),
        (([[0.0], [np.nan]], [0, 1]), {}, "NaN"),
    ],
    ids=["lengths", "columns", "clusters", "nan"],
)
def test_clusters_that_cannot_be_made_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        cluster_agreement(*arguments, **options)


# Thresholds of classes ------------------------------------------------------------------------


def test_every_class_has_its_best_radius():
    # Class 0 finds its second image at 0.1 and others from 0.6 on, class 1 at 0.5 and from 0.8 on.
    distances = [[0.0, 0.1, 0.6, 0.9], [0.1, 0.0, 0.7, 0.9], [0.6, 0.8, 0.0, 0.5]]
    distances = np.array([*distances, [0.9, 0.9, 0.5, 0.0]])
    y = np.array(["x", "x", "z", "z"])
    radii = np.array([0.5, 0.05, 0.2])  # in any order
    found = per_class_thresholds(y, y, distances, radii=radii)
    assert found.classes.tolist() == ["x", "z"]
    assert found.radius.tolist() == [0.2, 0.5]
    assert found.f1.tolist() == [1.0, 1.0]
    assert found.spread == pytest.approx(0.15)  # standard deviation of 0.2 and 0.5
    assert found.universal_radius == 0.5
    assert found.universal_f1.tolist() == [1.0, 1.0]
    # One radius from elsewhere: class z finds itself alone, 2 * 1 / (1 + 2).
    chosen = per_class_thresholds(y, y, distances, radii=radii, radius=0.3)
    assert chosen.universal_radius == 0.3
    assert chosen.universal_f1 == pytest.approx([1.0, 2 / 3])
    assert chosen.radius.tolist() == found.radius.tolist()


def test_thresholds_equal_a_loop_over_classes(rng):
    y = rng.integers(0, 5, 40)
    distances = rng.random((40, 40))
    own, radii = np.arange(40), np.linspace(0, 1, 30)
    found = per_class_thresholds(y, y, distances, radii=radii, radius=0.37, exclude=own)
    curve = threshold_f1_curve(y, y, distances, radii=radii, exclude=own)
    for i, label in enumerate(found.classes):
        means = [curve[y == label, column].mean() for column in range(30)]
        assert found.f1[i] == pytest.approx(max(means))
        assert found.radius[i] == radii[np.argmax(means)]
        rest = threshold_f1(y, y, distances, radius=0.37, exclude=own, per_query=True)
        assert found.universal_f1[i] == pytest.approx(rest[y == label].mean())
    alone = per_class_thresholds(y, y, distances, radii=radii, exclude=own)
    assert alone.universal_radius == radii[np.argmax(curve.mean(axis=0))]


def test_a_threshold_from_validation_classes_is_used_unchanged(rng):
    X = normalize(
        np.repeat(rng.normal(size=(8, 6)), 10, axis=0) + rng.normal(scale=0.3, size=(80, 6))
    )
    y = np.repeat(np.arange(8), 10)
    own = np.arange(40)
    validation, test = (np.clip(1 - part @ part.T, 0, 2) for part in (X[:40], X[40:]))
    chosen = per_class_thresholds(y[:40], y[:40], validation, exclude=own).universal_radius
    found = per_class_thresholds(y[40:], y[40:], test, radius=chosen, exclude=own)
    f1 = threshold_f1(y[40:], y[40:], test, radius=chosen, exclude=own)
    assert found.universal_f1.mean() == pytest.approx(f1)  # classes of equal size
    assert found.f1.mean() >= f1


def test_classes_without_anything_relevant_have_no_threshold():
    distances = np.array([[0.0, 0.2, 0.9], [0.2, 0.0, 0.8], [0.9, 0.8, 0.0]])
    y = np.array([0, 0, 1])
    with pytest.warns(UndefinedMetricWarning, match="1 of 3 queries"):
        found = per_class_thresholds(y, y, distances, radii=[0.1, 0.3], exclude=np.arange(3))
    assert found.classes.tolist() == [0]
    assert found.spread == 0.0
    with pytest.raises(ValueError, match="y_queries has several columns"):
        per_class_thresholds(np.eye(3), np.eye(3), distances)
