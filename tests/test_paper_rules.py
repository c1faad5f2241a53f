"""The rules of the papers' tables, against values by hand and plain references."""

import importlib
import itertools
import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sklearn_cbir.metrics import evaluate

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def rules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("_papers._rules")


@pytest.fixture
def chance(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("_papers._chance").chance_levels


# Settings -------------------------------------------------------------------------------------

RANGES = {"lr": stats.loguniform(1e-4, 1e-1), "margin": stats.uniform(0.5, 1), "scale": [1, 8, 16]}


def test_settings_are_drawn_from_the_ranges_of_the_row(rules):
    drawn = rules.draw_settings(RANGES)
    assert len(drawn) == len({tuple(sorted(setting.items())) for setting in drawn}) == 12
    for setting in drawn:
        assert 1e-4 <= setting["lr"] <= 1e-1
        assert 0.5 <= setting["margin"] <= 1.5
        assert setting["scale"] in (1, 8, 16)
        assert [type(setting[name]) for name in ("lr", "margin", "scale")] == [float, float, int]
        assert setting["lr"] == float(f"{setting['lr']:.3g}")
    many = [setting["lr"] for setting in rules.draw_settings(RANGES, n=2000)]
    below = np.mean(
        np.array(many) < 10**-2.5
    )  # half of them, as rates are drawn by their logarithm
    assert below == pytest.approx(0.5, abs=0.05)


def test_no_part_of_a_range_is_left_out_and_rows_share_what_they_share(rules):
    drawn = rules.draw_settings(RANGES)
    parts = [12 * RANGES["lr"].cdf(setting["lr"]) for setting in drawn]
    # A number that was rounded to three digits may cross the border of a part.
    assert sorted(int(part) for part in parts) == pytest.approx(range(12), abs=1)
    assert np.diff(sorted(parts)).max() < 2
    scales = [setting["scale"] for setting in drawn]
    assert [scales.count(scale) for scale in (1, 8, 16)] == [4, 4, 4]
    alone = rules.draw_settings({"lr": RANGES["lr"]})
    assert [setting["lr"] for setting in alone] == [setting["lr"] for setting in drawn]
    order = {name: np.argsort([of[name] for of in drawn]).tolist() for name in ("lr", "margin")}
    assert order["lr"] != order["margin"]


def test_the_seed_fixes_the_settings_and_the_order_of_names_does_not(rules):
    drawn = rules.draw_settings(RANGES, seed=3)
    assert drawn == rules.draw_settings(dict(reversed(RANGES.items())), seed=3)
    assert drawn != rules.draw_settings(RANGES, seed=4)


def test_a_row_with_few_settings_tries_all_of_them(rules):
    drawn = rules.draw_settings({"lr": [0.1, 0.01], "scale": (1, 8)})
    assert sorted((setting["lr"], setting["scale"]) for setting in drawn) == [
        *((0.01, 1), (0.01, 8), (0.1, 1), (0.1, 8)),
    ]
    assert len(rules.draw_settings({"lr": list(range(100))})) == 12
    assert rules.draw_settings({}) == [{}]


@pytest.mark.parametrize(("epochs", "trial"), [(1, 1), (8, 1), (12, 2), (40, 5), (100, 12)])
def test_a_trial_is_an_eighth_of_a_training(rules, epochs, trial):
    assert rules.trial_epochs(epochs) == trial


def test_rows_within_two_spreads_need_five_seeds(rules):
    row = [0.5, 0.6, 0.7]  # a standard deviation of 0.1
    assert rules.seeds_needed(row, [0.79, 0.8, 0.79]) == 5
    assert rules.seeds_needed([0.79, 0.8, 0.79], row) == 5
    assert rules.seeds_needed(row, [0.81, 0.82, 0.81]) == 3


# Differences ----------------------------------------------------------------------------------


def resampled(row, other, number, rng):
    """Return one difference of means of the bootstrap, in plain steps."""
    things = np.unique(number)
    drawn = rng.choice(things, len(things))
    queries = np.concatenate([np.flatnonzero(number == thing) for thing in drawn])
    freedom = len(row) + len(other) - 2
    wider = math.sqrt(freedom / rng.chisquare(freedom))
    means = []
    for of in (row, other):
        n = len(of)
        of_seeds = of[:, queries].mean(axis=1)
        chosen = of_seeds[rng.integers(n, size=n)].mean()
        unbiased = math.sqrt(n / (n - 1))
        means.append(of_seeds.mean() + wider * unbiased * (chosen - of_seeds.mean()))
    return means[0] - means[1]


@pytest.mark.parametrize("classes", [None, ["a", "b", "a", "c"]], ids=["queries", "classes"])
def test_the_bootstrap_draws_seeds_and_queries_or_classes(rules, classes):
    rng = np.random.default_rng(5)
    row, other = rng.random((2, 4)) + 0.2, rng.random((3, 4))
    number = np.arange(4) if classes is None else np.unique(classes, return_inverse=True)[1]
    expected = np.array([resampled(row, other, number, rng) for _ in range(20_000)])
    found = rules.bootstrap_difference(row, other, classes=classes, n=40_000)
    assert found.mean == pytest.approx(row.mean() - other.mean(), abs=1e-12)
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        assert (expected < end).mean() == pytest.approx(share, abs=0.005)
    p = 2 * min((expected <= 0).mean(), (expected >= 0).mean())
    assert 0.02 < p < 0.9  # else it says nothing
    assert found.p == pytest.approx(p, abs=0.02)


def test_seeds_alone_give_the_interval_of_student(rules):
    # Queries agree, so that seeds are all that differs: many of them are about normal.
    rng = np.random.default_rng(2)
    row, other = rng.normal(0.5, 0.01, (12, 1)), rng.normal(0.5, 0.01, (12, 1))
    found = rules.bootstrap_difference(row, other, n=100_000)
    theirs = stats.ttest_ind(row[:, 0], other[:, 0]).confidence_interval()
    width = theirs.high - theirs.low
    assert found.high - found.low == pytest.approx(width, rel=0.03)
    assert found.p == pytest.approx(stats.ttest_ind(row[:, 0], other[:, 0]).pvalue, abs=0.03)


def test_rows_that_do_not_differ_are_seldom_told_apart(rules):
    rng = np.random.default_rng(3)
    n_tables, verdicts = 150, 0
    for _ in range(n_tables):
        queries = rng.normal(0.5, 0.02, 200)
        rows = [queries + rng.normal(0, 0.02, 200) + rng.normal(0, 0.004, (3, 1)) for _ in range(2)]
        verdicts += rules.bootstrap_difference(*rows, n=1000).p <= 0.05
    assert verdicts / n_tables < 0.08


def test_two_queries_by_hand(rules):
    # Their differences are 0 and 1: the mean of two draws is 0, 1/2 and 1 in 1, 2 and 1 of 4.
    found = rules.bootstrap_difference([0.5, 1.0], [0.5, 0.0])
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert found.p == pytest.approx(0.5, abs=0.03)
    same = rules.bootstrap_difference([[0.2, 0.7]] * 3, [0.2, 0.7])
    assert (same.mean, same.p) == (0, 1)
    assert [same.low, same.high] == pytest.approx([0, 0], abs=1e-12)
    always = rules.bootstrap_difference([0.6, 0.7], [0.5, 0.6], n=999)
    assert [always.mean, always.low, always.high] == pytest.approx([0.1] * 3)
    assert always.p == 2 / 1000


def test_the_bootstrap_of_one_seed_is_that_of_scipy(rules):
    rng = np.random.default_rng(0)
    difference = rng.normal(0.02, 0.2, 400)
    base = rng.random(400)
    found = rules.bootstrap_difference(base + difference, base)
    theirs = stats.bootstrap(
        (difference,), np.mean, method="percentile", random_state=1
    ).confidence_interval
    assert [found.low, found.high] == pytest.approx([theirs.low, theirs.high], abs=0.002)


def test_unlike_classes_widen_the_interval(rules):
    # Within a class all queries agree: 200 queries of 4 classes say no more than 4 queries do.
    row = np.repeat([0.9, 0.6, 0.4, 0.7], 50)
    classes = np.repeat(np.arange(4), 50)
    by_query = rules.bootstrap_difference(row, np.full(200, 0.5))
    by_class = rules.bootstrap_difference(row, np.full(200, 0.5), classes=classes)
    four = rules.bootstrap_difference(row[::50], np.full(4, 0.5))
    assert astuple(by_class) == pytest.approx(astuple(four))
    assert by_class.high - by_class.low > 4 * (by_query.high - by_query.low)


def test_blocks_change_no_draw_of_the_bootstrap_and_rows_are_checked(rules, monkeypatch):
    rng = np.random.default_rng(1)
    row, other = rng.random((3, 50)), rng.random((2, 50))
    whole = rules.bootstrap_difference(row, other, n=500)
    assert whole == rules.bootstrap_difference(row, other, n=500)
    monkeypatch.setattr(rules, "AT_ONCE", 50 * 64)
    parts = rules.bootstrap_difference(row, other, n=500)
    assert [parts.low, parts.high] == pytest.approx([whole.low, whole.high], abs=0.03)
    with pytest.raises(ValueError, match="has 50 queries and the other 49"):
        rules.bootstrap_difference(row, other[:, 1:])
    with pytest.raises(ValueError, match="finite scores"):
        rules.bootstrap_difference([0.5, np.nan], [0.5, 0.5])
    with pytest.raises(ValueError, match="classes has 3 entries for 50 queries"):
        rules.bootstrap_difference(row, other, classes=[1, 2, 3])


# Verdicts -------------------------------------------------------------------------------------


def test_holm_by_hand(rules):
    assert rules.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert rules.holm([0.5, 0.9]).tolist() == [1, 1]
    assert rules.holm([0.04]).tolist() == [0.04]


def test_holm_is_the_closure_of_bonferroni(rules):
    # A hypothesis falls where every set of hypotheses that holds it falls, each by Bonferroni.
    for seed in range(20):
        p = np.random.default_rng(seed).random(5) ** 2
        sets = [s for n in range(1, 6) for s in itertools.combinations(range(5), n)]
        expected = [
            max(min(1, len(s) * min(p[list(s)])) for s in sets if one in s) for one in range(5)
        ]
        assert rules.holm(p) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ends", "adjusted", "expected"),
    [
        ((0.01, 0.03), 0.04, "better"),
        ((0.01, 0.03), 0.051, "level"),
        ((-0.03, -0.01), 0.001, "worse"),
        ((-0.01, 0.03), 0.3, "level"),
        ((-0.01, 0.03), 0.049, "level"),
    ],
)
def test_verdicts(rules, ends, adjusted, expected):
    difference = rules.Difference(mean=sum(ends) / 2, low=ends[0], high=ends[1], p=adjusted / 3)
    assert rules.verdict(difference, adjusted) == expected


def test_one_comparison_of_many_has_to_be_clearer_than_one_alone(rules):
    rng = np.random.default_rng(0)
    base = rng.random(200)
    noise = rng.normal(0, 0.15, 200)  # 0.026 is 2.5 standard errors
    scores = {"base": base, "near": base + noise - noise.mean() + 0.026, "far": base + 0.1}
    scores |= {f"other {i}": base + rng.normal(0, 0.15, 200) for i in range(8)}
    (alone,) = rules.compare_rows(scores, [("near", "base")])
    assert alone[-1] == "better"
    pairs = [(name, "base") for name in scores if name != "base"]
    found = {row: word for row, _, _, _, word in rules.compare_rows(scores, pairs)}
    assert found["far"] == "better"
    assert found["near"] == "level"
    reverse = rules.compare_rows(scores, [("base", "far")])
    assert reverse[0][-1] == "worse"
    text = rules.verdicts_table(reverse)
    assert text.splitlines()[2].startswith("| base | far | -0.1000 | -0.1000 to -0.1000 | 0.0002 |")


# Chance ---------------------------------------------------------------------------------------


def test_chance_by_hand(chance):
    # Two of four are relevant; their ranks are one of six pairs.
    y = ["a"], ["a", "a", "b", "b"]
    found = chance(*y, ["map", "recall@1", "precision@3", "map_at_r"])
    by_hand = np.mean([1, 5 / 6, 3 / 4, 7 / 12, 1 / 2, 5 / 12])
    assert found["map"] == pytest.approx(by_hand)
    assert found["recall@1"] == found["precision@3"] == pytest.approx(0.5)
    assert found["map_at_r"] == pytest.approx(np.mean([1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 0]))
    without_one = chance(*y, ["map", "recall@1"], exclude=[0])  # one of three
    assert without_one["map"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert without_one["recall@1"] == pytest.approx(1 / 3)
    labels = np.array([[1, 1]]), np.array([[1, 1], [0, 1], [0, 0]])
    found = chance(*labels, ["acg@1", "acg@3", "ndcg@1", "ndcg@3"])
    assert found["acg@1"] == found["acg@3"] == pytest.approx(1)  # 2, 1 and 0 shared labels
    assert found["ndcg@1"] == pytest.approx((3 + 1) / 3 / 3)  # gains 3, 1 and 0
    discounts = 1 / np.log2([2, 3, 4])
    ideal = 3 * discounts[0] + discounts[1]
    assert found["ndcg@3"] == pytest.approx(discounts.mean() * 4 / ideal)


def test_chance_of_map_is_its_closed_form(chance):
    # P(rank i is relevant) = R / N, and then (R - 1) / (N - 1) of the i - 1 ranks before it.
    rng = np.random.default_rng(0)
    y_queries, y_gallery = rng.integers(0, 4, 5), rng.integers(0, 4, 300)
    values = []
    for label in y_queries:
        n, relevant = len(y_gallery), int((y_gallery == label).sum())
        harmonic = math.fsum(1 / i for i in range(1, n + 1))
        values.append((harmonic + (relevant - 1) / (n - 1) * (n - harmonic)) / n)
    assert chance(y_queries, y_gallery, ["map"])["map"] == pytest.approx(np.mean(values))


NAMES = [
    "map",
    "map@3",
    "map_at_r",
    "recall@1",
    "precision@2",
    "acg@2",
    "ndcg@3",
    "wmap",
    "trapezoid_map",
]


@pytest.mark.parametrize("several", [False, True], ids=["classes", "labels"])
def test_chance_is_the_mean_over_all_orders(chance, several):
    y_queries, y_gallery = np.array([0, 1]), np.array([0, 0, 1, 2, 1])
    if several:
        y_queries = np.array([[1, 1, 0], [0, 1, 0]])
        y_gallery = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1]])
    orders = [np.array([order, order]) for order in itertools.permutations(range(5))]
    found = chance(y_queries, y_gallery, NAMES, exclude=[3, -1])
    for name in NAMES:
        scores = [evaluate(name, y_queries, y_gallery, o, exclude=[3, -1]) for o in orders]
        assert found[name] == pytest.approx(np.mean(scores)), name


def test_chance_of_a_large_gallery_is_that_of_random_orders(chance):
    rng = np.random.default_rng(0)
    y_queries = (rng.random((40, 12)) < 0.2).astype(np.uint8) | np.eye(12, dtype=np.uint8)[0]
    y_gallery = (rng.random((500, 12)) < 0.2).astype(np.uint8)
    names = ["map", "acg@100", "ndcg@100"]
    found = chance(y_queries, y_gallery, names)
    for name in names:
        drawn = [evaluate(name, y_queries, y_gallery, rng.random((40, 500))) for _ in range(40)]
        assert found[name] == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 40**0.5)
