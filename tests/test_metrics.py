"""Metrics against hand-worked lists and scikit-learn, invariances, and input that is refused."""

import math
from functools import partial

import numpy as np
import pytest
from metric_cases import (
    IN_RADIUS,
    REFERENCES,
    WITHOUT_K,
    coded,
    labels_that_share,
)
from sklearn import config_context
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score

from sklearn_cbir.codes import HammingDistances, _search, hamming_distances, pack_codes
from sklearn_cbir.metrics import (
    METRICS,
    _groups,
    _walk,
    acg_at_k,
    evaluate,
    hamming_mean_average_precision,
    map_at_r,
    mean_average_precision,
    mean_per_class,
    ndcg_at_k,
    parse_metric,
    precision_at_k,
    precision_in_radius,
    precision_recall_curve,
    recall_at_k,
    threshold_f1,
    trapezoid_mean_average_precision,
    weighted_mean_average_precision,
    worst_queries,
)


def test_every_metric_has_a_reference():
    assert REFERENCES.keys() == METRICS.keys()


def test_average_precision_is_that_of_scikit_learn_without_ties(rng):
    y_queries, y_gallery = rng.integers(0, 4, 20), rng.integers(0, 4, 300)
    distances = rng.normal(size=(20, 300)).astype(np.float32)
    values = mean_average_precision(y_queries, y_gallery, distances, per_query=True)
    for value, label, row in zip(values, y_queries, distances):
        assert value == pytest.approx(average_precision_score(y_gallery == label, -row), abs=1e-12)


# Hand-worked lists


def test_average_precision_of_two_groups():
    # d = [0, 0 | 1, 1, 1], relevant = [1, 0 | 1, 0, 1].
    # First group: 1/2 (1/1 + 1/2) = 3/4. Second: 2/3 ((2 + 0)/3 + (2 + 1/2)/4 + (2 + 1)/5).
    expected = (3 / 4 + 2 / 3 * (2 / 3 + 2.5 / 4 + 3 / 5)) / 3
    value = mean_average_precision([1], [1, 0, 1, 0, 1], [[0, 0, 1, 1, 1]])
    assert value == pytest.approx(expected)
    assert value == pytest.approx(0.6703703704)


def test_one_relevant_among_ten_equal():
    value = mean_average_precision([1], [0] * 9 + [1], np.zeros((1, 10)))
    assert value == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 10)
    assert value == pytest.approx(0.2928968254)


def test_three_denominators_of_a_cut_list():
    # relevant = [1, 0, 1 | 1]: the first three results score 1/1 + 2/3.
    score = partial(mean_average_precision, [1], [1, 0, 1, 1], [[1, 2, 3, 4]], k=3)
    assert score(denominator="hits") == pytest.approx(5 / 3 / 2)
    assert score(denominator="min_k") == score(denominator="relevant")
    assert score(denominator="relevant") == pytest.approx(5 / 3 / 3)
    score = partial(score, k=2)
    assert score(denominator="min_k") == pytest.approx(1 / 2)
    assert score(denominator="relevant") == pytest.approx(1 / 3)
    assert score(denominator="hits") == 1


def test_nothing_found_scores_zero_over_hits():
    assert mean_average_precision([1], [0, 1], [[1, 2]], k=1, denominator="hits") == 0


def test_queries_that_find_nothing_may_be_skipped():
    known = [1, 1, 1], [0, 1], [[1, 2], [2, 1], [2, 1]]
    score = partial(mean_average_precision, *known, k=1, denominator="hits")
    assert score() == pytest.approx(2 / 3)
    assert score(no_hits="skip") == 1
    values = score(no_hits="skip", per_query=True)
    assert np.array_equal(values, [np.nan, 1, 1], equal_nan=True)
    assert score(no_hits="skip", sample_weight=[9, 1, 1]) == 1
    codes = [[1, 1], [0, 0], [0, 0]], [[1, 1], [0, 0]]
    score = partial(hamming_mean_average_precision, *known[:2], *codes, k=1)
    assert (score(), score(no_hits="skip")) == (pytest.approx(2 / 3), 1)


def test_skipping_every_query_is_an_error():
    known = [1, 1, 7], [0, 1], [[1, 2], [1, 2], [1, 2]]
    with pytest.raises(ValueError, match="no_hits='skip' leaves none of the 3 queries"):
        mean_average_precision(*known, k=1, no_hits="skip")
    with pytest.warns(UndefinedMetricWarning, match="1 of 3 queries"):
        assert mean_average_precision(*known, k=1) == 0


def test_graded_metrics_of_four_results():
    # Shared labels 2, 0, 1, 3. DCG = 3/log2(2) + 1/log2(4) + 7/log2(5) = 6.5147...
    arguments = *labels_that_share([2, 0, 1, 3], 3), [[1, 2, 3, 4]]
    ideal = 7 + 3 / math.log2(3) + 1 / 2
    assert ndcg_at_k(*arguments) == pytest.approx((3 + 1 / 2 + 7 / math.log2(5)) / ideal)
    assert ndcg_at_k(*arguments, k=4) == pytest.approx(0.69358906)
    assert acg_at_k(*arguments, k=4) == 1.5
    assert weighted_mean_average_precision(*arguments) == pytest.approx(1.5)  # (2 + 1 + 1.5) / 3
    assert mean_average_precision(*arguments) == pytest.approx(0.80555556)


def test_gains_of_thousands_of_labels_stay_finite():
    y_gallery = np.zeros((2, 1100), dtype=int)
    y_gallery[0, :2] = y_gallery[1, 0] = 1
    # Shared labels 1, 2: gains 1 and 3 in the wrong order.
    value = ndcg_at_k(np.ones((1, 1100)), y_gallery, [[2, 1]])
    assert value == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_trapezoids_of_three_ranks():
    # Relevant at ranks 0, 2, 3: ((1 + 1)/2 + (1/2 + 2/3)/2 + (2/3 + 3/4)/2) / 3.
    value = trapezoid_mean_average_precision([1], [1, 0, 1, 1], [[1, 2, 3, 4]])
    assert value == pytest.approx(0.76388889)


def unit_rows():
    rows = np.array([[1, 0], [0.98, 0.2], [0.6, 0.8], [0, 1], [-0.1, 1]])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.array([0, 0, 0, 1, 1]), 1 - rows @ rows.T


def test_zero_shot_metrics_of_five_rows():
    y, distances = unit_rows()
    own = np.arange(5)
    assert recall_at_k(y, y, distances, k=1, exclude=own) == pytest.approx(0.8)
    assert recall_at_k(y, y, distances, k=2, exclude=own) == 1
    assert map_at_r(y, y, distances, exclude=own) == pytest.approx(0.85)


@pytest.mark.parametrize(("cosine", "f1"), [(0.68, 0.79428571), (0.90, 0.82), (0.99, 0.7)])
def test_threshold_f1_of_five_rows(cosine, f1):
    y, distances = unit_rows()
    assert threshold_f1(y, y, distances, radius=1 - cosine) == pytest.approx(f1)


def test_perfect_rankings_score_one(rng):
    y = rng.integers(0, 3, 30)
    distances = (y[:, None] != y[None, :]) * 1.0
    for name in METRICS:
        base = partial(evaluate, f"{name}@5" if name in ("precision", "recall") else name, y, y)
        if name in {"set_recall", "acg", *IN_RADIUS}:
            continue  # depend on how many are relevant
        assert base(distances) == 1
        assert base(rng.random((30, 30)) / 2 + distances) == 1


def test_reversed_rankings_are_worst(rng):
    y = np.repeat([0, 1], 10)
    distances = rng.random((20, 20)) / 2 + (y[:, None] == y[None, :])
    assert precision_at_k(y, y, distances, k=10) == 0
    assert recall_at_k(y, y, distances, k=10) == 0
    reverse = mean_average_precision(y, y, distances)
    assert reverse < mean_average_precision(y, y, rng.random((20, 20)))


# Invariances


@pytest.mark.parametrize("name", METRICS)
def test_order_of_rows_and_monotone_distances_change_nothing(rng, name):
    y_queries, y_gallery = rng.integers(0, 2, (8, 4)), rng.integers(0, 2, (50, 4))
    y_queries[:, 0] = y_gallery[:, 0] = 1
    distances = rng.integers(0, 6, (8, 50)).astype(float)
    k = {} if name in WITHOUT_K else {"k": 20}
    score = partial(METRICS[name], per_query=True, **k)
    values = score(y_queries, y_gallery, distances)
    columns, rows = rng.permutation(50), rng.permutation(8)
    assert np.allclose(score(y_queries, y_gallery[columns], distances[:, columns]), values)
    assert np.allclose(score(y_queries[rows], y_gallery, distances[rows]), values[rows])
    if name not in IN_RADIUS:
        assert np.allclose(score(y_queries, y_gallery, np.exp(distances) - 9), values)
    if name != "wmap":
        assert ((values >= 0) & (values <= (1 if name != "acg" else 4))).all()


def test_one_column_per_class_scores_like_single_labels(rng):
    y_queries, y_gallery = rng.integers(0, 4, 12), rng.integers(0, 4, 60)
    distances = rng.integers(0, 9, (12, 60))
    for name in METRICS:
        k = "@10" if name in ("precision", "recall", "set_recall", "acg", "map") else ""
        single = evaluate(name + k, y_queries, y_gallery, distances)
        columns = evaluate(name + k, np.eye(4)[y_queries], np.eye(4)[y_gallery], distances)
        assert single == pytest.approx(columns)
    binary = mean_average_precision(y_queries, y_gallery, distances)
    assert weighted_mean_average_precision(y_queries, y_gallery, distances) == pytest.approx(binary)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32, np.float64])
def test_distances_of_every_type_score_alike(rng, dtype):
    y = rng.integers(0, 3, 20)
    distances = rng.integers(0, 50, (20, 20))
    expected = mean_average_precision(y, y, distances)
    assert mean_average_precision(y, y, distances.astype(dtype)) == pytest.approx(expected)


DAYS = np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]")


@pytest.mark.parametrize(
    "labels", [["cat", "dog"], [3, -1], [True, False], [2.0, 7.0], DAYS], ids=str
)
def test_labels_of_every_kind_score_alike(rng, labels):
    y = rng.integers(0, 2, 20)
    distances = rng.random((20, 20))
    named = np.array(labels)[y]
    assert mean_average_precision(named, list(named), distances) == pytest.approx(
        mean_average_precision(y, y, distances)
    )


# Leaving gallery rows out


@pytest.mark.parametrize("form", ["mask", "rows of a mask", "lists of a mask", "own", "lists"])
@pytest.mark.parametrize("ties", ["average", "stable"])
@pytest.mark.parametrize("name", METRICS)
def test_excluded_rows_are_as_if_they_were_not_there(rng, name, ties, form):
    y_queries, y_gallery = rng.integers(0, 2, (6, 3)), rng.integers(0, 2, (30, 3))
    y_queries[:, 0] = y_gallery[:, 0] = 1
    distances = rng.integers(0, 5, (6, 30))
    out = [rng.choice(30, 1 if form == "own" else 4, replace=False) for _ in range(6)]
    exclude = out
    if form == "own":
        exclude = np.concatenate(out)
    if "mask" in form:
        exclude = np.zeros((6, 30), dtype=bool)
        for row, items in zip(exclude, out):
            row[items] = True
    if form == "rows of a mask":
        exclude = list(exclude)
    if form == "lists of a mask":
        exclude = exclude.tolist()
    options = {} if name in IN_RADIUS else {"ties": ties}
    metric, k = parse_metric(f"{name}@9" if name not in WITHOUT_K else name)
    options |= {} if k is None else {"k": k}
    values = metric(y_queries, y_gallery, distances, exclude=exclude, per_query=True, **options)
    for i, items in enumerate(out):
        keep = np.delete(np.arange(30), items)
        alone = metric(y_queries[[i]], y_gallery[keep], distances[[i]][:, keep], **options)
        assert values[i] == pytest.approx(alone)


def test_results_that_are_left_out_are_missing_among_the_first_k():
    known = [1], [1, 1, 0], [[1, 2, 3]]
    for metric in (precision_at_k, acg_at_k):
        assert metric(*known, k=3, exclude=[[0]]) == pytest.approx(1 / 3)
        assert metric(*known, k=None, exclude=[[0]]) == pytest.approx(1 / 2)


def test_no_own_row_is_minus_one():
    score = partial(mean_average_precision, [1, 1], [1, 0], [[0, 1], [0, 1]], per_query=True)
    assert np.array_equal(score(exclude=[0, -1]), [np.nan, 1], equal_nan=True)
    assert score(exclude=[-1, -1]).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (np.zeros((2, 3), dtype=int), r"exclude has shape \(2, 3\)"),
        ([0], r"exclude has shape \(1,\)"),
        ([0, 3], r"exclude\[1\] names a gallery row outside 0 to 2"),
        ([[0], [1], [2]], "3 lists of gallery rows for 2 queries"),
        ([[0], [-1]], r"exclude\[1\] names a gallery row"),
        ([0.0, 1.0], "dtype float64"),
        ([[0.0], [1.7]], r"exclude\[0\] has shape \(1,\) and dtype float64"),
        ([[], [True, False]], r"exclude\[1\] has shape \(2,\) and dtype bool.*\(3,\)"),
        ([["0"], ["1"]], r"exclude\[0\].*numbers of gallery rows"),
    ],
    ids=[
        "number mask",
        "too few",
        "too large",
        "too many lists",
        "negative",
        "floats",
        "lists of floats",
        "short mask",
        "text",
    ],
)
def test_what_is_excluded_must_exist(exclude, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision([0, 1], [0, 1, 1], np.zeros((2, 3)), exclude=exclude)


# Codes


@pytest.fixture(params=["compiled", "numpy"])
def route(request, monkeypatch):
    """Both ways to the same result."""
    if request.param == "numpy":
        monkeypatch.setattr(_search, "kernels", lambda: None)
    return request.param


@pytest.mark.parametrize("graded", [False, True], ids=["single", "graded"])
@pytest.mark.parametrize("exclude", [False, True], ids=["all", "excluded"])
@pytest.mark.parametrize("name", METRICS)
def test_codes_score_like_their_matrix(rng, route, name, exclude, graded):
    y_queries, y_gallery, *codes = coded(rng, graded, n_bits=70)
    queries, gallery = map(pack_codes, codes)
    own = rng.integers(-1, 150, 20) if exclude else None
    lazy, matrix = HammingDistances(queries, gallery), hamming_distances(queries, gallery)
    for k in ("",) if name in WITHOUT_K else ("@1", "@30", "@149"):
        score = partial(evaluate, name + k, y_queries, y_gallery, per_query=True, exclude=own)
        assert np.allclose(score(lazy), score(matrix), atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("graded", [False, True], ids=["single", "graded"])
def test_flipping_and_reordering_bits_changes_nothing(rng, route, graded):
    y_queries, y_gallery, *codes = coded(rng, graded)
    y_queries = y_queries if graded else y_queries % 3
    value = hamming_mean_average_precision(y_queries, y_gallery, *codes)
    mask, order = rng.integers(0, 2, 12, dtype=np.uint8), rng.permutation(12)
    flipped = [(bits ^ mask)[:, order] for bits in codes]
    assert hamming_mean_average_precision(y_queries, y_gallery, *flipped) == pytest.approx(value)
    wide = [np.hstack([bits, np.ones((len(bits), 80), np.uint8)]) for bits in codes]
    assert hamming_mean_average_precision(y_queries, y_gallery, *wide) == pytest.approx(value)


def test_codes_in_stable_order(rng):
    y_queries, y_gallery, *codes = coded(rng, graded=True)
    matrix = hamming_distances(*map(pack_codes, codes))
    assert hamming_mean_average_precision(
        y_queries, y_gallery, *codes, ties="stable", k=40
    ) == pytest.approx(mean_average_precision(y_queries, y_gallery, matrix, ties="stable", k=40))


def test_equal_codes_score_the_share_of_relevant_items_and_more(rng):
    y = np.repeat([0, 1], [30, 70])
    zeros = np.zeros((100, 16), dtype=np.uint8)
    # Every order is as likely: close to, but a little above, the share.
    values = hamming_mean_average_precision(y, y, zeros, zeros, per_query=True)
    assert 0.3 < values[0] < 0.35
    assert 0.7 < values[-1] < 0.72


def test_codes_of_two_lengths_do_not_compare():
    with pytest.raises(ValueError, match="query_codes have 3 bits, gallery_codes have 2"):
        hamming_mean_average_precision([0], [0], np.ones((1, 3)), np.ones((1, 2)))


# Blocks, threads, lazy distances


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("ties", ["average", "stable"])
def test_compiled_loops_change_nothing(dtype, ties, rng, monkeypatch):
    distances = rng.integers(0, 12, (7, 40)).astype(dtype)  # many ties
    distances[0] = distances[0, 0]
    y_queries, y_gallery = rng.integers(0, 3, 7), rng.integers(0, 3, 40)
    exclude = np.array([3, -1, 0, 39, 5, -1, 7])
    score = partial(
        mean_average_precision, y_queries, y_gallery, distances, exclude=exclude, ties=ties
    )
    plain = score(per_query=True)
    monkeypatch.setattr(_groups, "PAIRS_TO_COMPILE", 0)
    np.testing.assert_array_equal(score(per_query=True), plain)


def test_small_blocks_and_threads_change_nothing(rng, monkeypatch):
    y_queries, y_gallery = rng.integers(0, 3, 50), rng.integers(0, 3, 80)
    distances = rng.integers(0, 20, (50, 80)).astype(np.float32)
    score = partial(evaluate, "map@30", y_queries, y_gallery, distances, per_query=True)
    expected = score()
    with config_context(working_memory=0.01):
        assert np.array_equal(score(), expected)
    monkeypatch.setattr(_walk, "PAIRS_PER_THREAD", 10)
    monkeypatch.setattr(_walk, "PAIRS_AT_ONCE", 200)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert np.array_equal(score(), expected)


def test_distances_may_be_made_when_they_are_asked_for(rng, tmp_path):
    y = rng.integers(0, 3, 300)
    distances = rng.random((300, 300))
    np.save(tmp_path / "distances.npy", distances)
    asked = []

    class Lazy:
        shape = distances.shape

        def __getitem__(self, rows):
            asked.append(rows)
            return distances[rows]

    expected = mean_average_precision(y, y, distances)
    assert mean_average_precision(y, y, Lazy()) == expected
    assert len(asked) > 1
    mapped = np.load(tmp_path / "distances.npy", mmap_mode="r")
    assert mean_average_precision(y, y, mapped) == expected


def test_inputs_stay_as_they_are(rng):
    y, distances = rng.integers(0, 3, 30), rng.random((30, 30))
    copies = y.copy(), distances.copy()
    y.flags.writeable = distances.flags.writeable = False
    for name in METRICS:
        evaluate(
            name + ("@5" if name in ("precision", "recall", "set_recall", "acg") else ""),
            y,
            y,
            distances,
        )
    assert np.array_equal(y, copies[0])
    assert np.array_equal(distances, copies[1])


# Averages over queries


def test_a_query_without_anything_relevant_is_left_out_with_one_warning():
    arguments = [0, 1, 7], [0, 1], [[1, 2], [1, 2], [1, 2]]
    with pytest.warns(UndefinedMetricWarning, match="1 of 3 queries") as caught:
        value = mean_average_precision(*arguments)
    assert len(caught) == 1
    assert "StratifiedKFold" in str(caught[0].message)
    assert value == (1 + 1 / 2) / 2
    values = mean_average_precision(*arguments, per_query=True)
    assert values.dtype == np.float64
    assert np.array_equal(values, [1, 0.5, np.nan], equal_nan=True)


@pytest.mark.parametrize("name", METRICS)
def test_no_query_with_anything_relevant_is_an_error(name):
    scoring = f"{name}@1" if name in ("precision", "recall", "set_recall", "acg") else name
    with pytest.raises(ValueError, match="None of the 2 queries"):
        evaluate(scoring, [5, 6], [0, 1, 2], np.ones((2, 3)))


def test_weights_count_queries(rng):
    y, distances = rng.integers(0, 3, 30), rng.random((30, 30))
    weights = rng.integers(0, 4, 30)
    for name in METRICS:
        scoring = f"{name}@5" if name in ("precision", "recall", "set_recall", "acg") else name
        repeated = evaluate(
            scoring, np.repeat(y, weights), y, np.repeat(distances, weights, axis=0)
        )
        assert evaluate(scoring, y, y, distances, sample_weight=weights) == pytest.approx(repeated)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"shape \(1,\), but there are 2"),
        ([1, -1], "at least 0"),
        ([np.nan, 1], "finite"),
        ([0, 0], "0 for every"),
    ],
    ids=["too few", "negative", "NaN", "all zero"],
)
def test_weights_must_be_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision([0, 1], [0, 1], np.ones((2, 2)), sample_weight=weights)
    with pytest.raises(ValueError, match=message):
        precision_recall_curve([0, 1], [0, 1], np.ones((2, 2)), sample_weight=weights)


def test_means_per_class():
    classes, means = mean_per_class([2, 1, 2, 1, 3], [0.5, 1.0, np.nan, 0.0, np.nan])
    assert classes.tolist() == [1, 2, 3]
    assert np.array_equal(means, [0.5, 0.5, np.nan], equal_nan=True)
    columns, means = mean_per_class([[1, 1, 0], [0, 1, 0]], [0.5, 1.0])
    assert columns.tolist() == [0, 1, 2]
    assert np.array_equal(means, [0.5, 0.75, np.nan], equal_nan=True)


def test_worst_queries_come_in_order():
    assert worst_queries([0.3, np.nan, 0.1, 0.3], n=10).tolist() == [2, 0, 3]
    assert worst_queries([0.3, np.nan, 0.1, 0.3], n=1).tolist() == [2]


# Names and bad input


@pytest.mark.parametrize(
    ("name", "function", "k"),
    [
        ("map", mean_average_precision, None),
        ("map@100", mean_average_precision, 100),
        ("recall@1", recall_at_k, 1),
        ("ndcg", ndcg_at_k, None),
        ("map_at_r", map_at_r, None),
    ],
)
def test_names_of_metrics(name, function, k):
    assert parse_metric(name) == (function, k)


def test_a_function_is_a_metric():
    assert evaluate(lambda y, z, distances, **options: options["k"], [], [], [], k=3) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mpa", r"scoring='mpa' is not known. Did you mean 'map'"),
        ("accuracy", "is not known. Use one of"),
        ("map@", "whole number of at least 1 after '@'"),
        ("map@0", "whole number of at least 1"),
        ("map@1.5", "whole number of at least 1"),
        ("map@-3", "whole number of at least 1"),
        ("map@k", "whole number of at least 1"),
        ("recall", "'recall@10'"),
        ("map_at_r@5", "takes no number of results"),
        (None, "scoring=None is not a metric"),
        (3, "scoring=3 is not a metric"),
    ],
)
def test_names_that_are_no_metric(name, message):
    with pytest.raises(ValueError, match=message):
        parse_metric(name)


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3", 4])
def test_k_must_fit_the_gallery(k):
    for metric in (mean_average_precision, precision_at_k, recall_at_k, ndcg_at_k, acg_at_k):
        with pytest.raises(ValueError, match=f"k={k!r}"):
            metric([0], [0, 1, 0], [[1, 2, 3]], k=k)


@pytest.mark.parametrize(
    ("y_queries", "y_gallery", "distances", "message"),
    [
        ([0], [0, 1], [[1, 2], [3, 4]], r"shape \(2, 2\), but there are 1 labels"),
        ([0, 1], [0, 1], [1, 2], r"shape \(2,\)"),
        ([0], [0, 1], [[1, np.nan]], r"distances\[0, 1\] is NaN"),
        ([0], [0, 1], [["1", "2"]], "dtype"),
        ([0], ["0", "1"], [[1, 2]], "never be equal"),
        ([True], [0, 1], [[1, 2]], r"bool \(boolean\), the gallery's are int64 \(number\)"),
        (["2026-01-01"], DAYS, [[1, 2]], r"\(text\), .* datetime64\[D\] \(date\): .* never"),
        ([2026], DAYS, [[1, 2]], r"\(number\), .* \(date\): .* never be equal"),
        ([b"a"], [b"a", b"b"], [[1, 2]], "y_queries holds bytes such as b'a'.*np.char.decode"),
        (["a"], np.array([b"a", b"b"]), [[1, 2]], "y_gallery holds bytes"),
        ([[0, 1]], [0, 1], [[1, 2]], "0/1 columns"),
        ([[0, 1]], [[0, 1, 1]], [[1]], "2 label columns"),
        ([[0, 2]], [[0, 1]], [[1]], "0 or 1"),
        ([np.nan], [0.0, 1.0], [[1, 2]], "NaN"),
        (None, [0, 1], [[1, 2]], "y_queries is None"),
        ([0], [], np.empty((1, 0)), "at least one query and one gallery item"),
    ],
    ids=[
        "queries",
        "one row",
        "NaN",
        "text",
        "kinds",
        "booleans",
        "dates and text",
        "dates and numbers",
        "bytes",
        "text and bytes",
        "forms",
        "columns",
        "counts",
        "NaN label",
        "None",
        "empty",
    ],
)
def test_bad_input_is_named(y_queries, y_gallery, distances, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision(y_queries, y_gallery, distances)
    with pytest.raises(ValueError, match=message):
        threshold_f1(y_queries, y_gallery, distances, radius=1)


def test_infinite_distances_are_the_farthest():
    values = mean_average_precision([1], [0, 1, 1], [[np.inf, np.inf, 0]], per_query=True)
    # Rank 1, then ranks 2 and 3 by half each.
    assert values[0] == pytest.approx((1 + (2 / 2 + 2 / 3) / 2) / 2)


def test_choices_are_checked():
    with pytest.raises(ValueError, match="denominator='hit' is not known"):
        mean_average_precision([0], [0], [[1]], denominator="hit")
    with pytest.raises(ValueError, match="no_hits='nan' is not known"):
        mean_average_precision([0], [0], [[1]], no_hits="nan")
    with pytest.raises(ValueError, match="ties=None is not known"):
        ndcg_at_k([0], [0], [[1]], ties=None)
    with pytest.raises(ValueError, match="radius='2'"):
        precision_in_radius([0], [0], [[1]], radius="2")
    with pytest.raises(ValueError, match="max_results=0"):
        threshold_f1([0], [0], [[1]], radius=1, max_results=0)
