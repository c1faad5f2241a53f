"""What trains, chooses and asks in the tables of the papers, on tiny stand-ins of their data."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paper_folders
import pytest

from sklearn_cbir.datasets import load_grocery, load_holidays
from sklearn_cbir.metrics import threshold_f1

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def groceries(tmp_path):
    return load_grocery(paper_folders.whole_grocery(tmp_path / "grocery"))


def module(name):
    return importlib.import_module(f"_papers.{name}")


class AsTheyAre:
    """Rows that were embedded before, by the number in the place of the photo."""

    def __init__(self, rows):
        self.rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def transform(self, numbers):
        return self.rows[numbers]


def numbered(task, rows):
    """Return the task with numbers in the place of photos, and what embeds them."""
    numbers = np.arange(len(task.y))
    return replace(task, inputs={"images": numbers}), AsTheyAre(rows)


def test_unseen_products_choose_nothing(groceries):
    task = module("zero_shot").products_task(groceries)
    trained, chosen, asked = (
        set(task.y[rows]) for rows in (task.final.train, task.tuning.queries, task.final.queries)
    )
    assert len(chosen) == 8
    assert max(trained | chosen) < 40  # 40 and 41 share a coarse class across the cut
    assert min(asked) > 41
    assert not trained & chosen
    assert task.tuning.train.tolist() == task.final.train.tolist()
    assert set(task.final.queries) <= set(groceries.test)
    assert set(task.final.gallery) <= set(groceries.train)
    assert task.by_class


@pytest.mark.filterwarnings("ignore:100% of the queries are equal to rows")
def test_photos_of_the_coarse_class_of_a_query_can_be_junk(groceries):
    zero_shot = module("zero_shot")
    task = zero_shot.products_task(groceries)
    coarse = groceries.coarse_target
    # Photos of a coarse class are all alike: without junk every first result is right.
    task, embedded = numbered(task, np.eye(26)[coarse])
    found = zero_shot.of_products(coarse, task, task.final, embedded)
    assert found["recall@1, without junk"] == found["map_at_r, without junk"] == 1
    with_junk = module("_compare").scores_of(task, task.final, embedded)
    assert with_junk["recall@1"] == pytest.approx(0.5)
    assert found[zero_shot.ONE_F1] == pytest.approx(2 / 3)  # half of what is found is right
    assert found[zero_shot.KEPT] == 1
    chance = zero_shot.chance_of_products(coarse, task, task.final)
    part = task.final
    equal = np.zeros((len(part.queries), len(part.gallery)))
    everything = threshold_f1(task.y[part.queries], task.y[part.gallery], equal, radius=0)
    assert chance[zero_shot.ONE_F1] == chance[zero_shot.BEST_F1] == pytest.approx(everything)
    assert 0 < chance["recall@1, without junk"] < 0.2


def test_one_threshold_loses_f1_where_classes_are_of_unlike_width(groceries):
    zero_shot = module("zero_shot")
    task = zero_shot.products_task(groceries)
    rng = np.random.default_rng(0)
    width = np.where(np.isin(task.y, np.unique(task.y)[::2]), 0.05, 0.4)
    rows = np.eye(60)[task.y] + width[:, None] * rng.normal(size=(len(task.y), 60))
    task, embedded = numbered(task, rows)
    found = zero_shot.thresholds(task, task.final, embedded)
    best, one = found[zero_shot.BEST_F1], found[zero_shot.ONE_F1]
    assert found[zero_shot.KEPT] == pytest.approx(one / best)
    assert 0.1 < one < best - 0.01
    of_classes = found["per_class"]
    assert np.mean(of_classes[zero_shot.ONE_F1]) == pytest.approx(one, abs=1e-5)
    assert len(of_classes[zero_shot.KEPT]) == len(np.unique(task.y[task.final.queries]))
    assert max(of_classes[zero_shot.KEPT]) <= 1


def test_verdicts_by_classes_compare_what_every_class_keeps():
    zero_shot = module("zero_shot")
    rng = np.random.default_rng(0)
    base = rng.uniform(0.6, 0.8, 37)

    def records(more):
        return [{"per_class": {zero_shot.KEPT: base + more + 0.001 * seed}} for seed in range(3)]

    results = {"CPF": records(0.1), "softmax": records(0.0), "triplet": records(0.1), "ArcFace": []}
    text = zero_shot.by_classes(results, zero_shot.KEPT)
    assert text.startswith("By share kept:")
    assert text.count("| CPF | softmax |") == text.count("| better |") == 1
    assert text.count("| level |") == 1
    assert "ArcFace" not in text
    assert zero_shot.by_classes({"CPF": records(0)}, zero_shot.KEPT) == ""


def test_folds_of_holidays_ask_every_group_once_and_never_train_on_it(tmp_path):
    places = load_holidays(paper_folders.holidays(tmp_path, n=60))
    tasks = module("lrml").fold_tasks(places)
    assert sorted(np.concatenate([task.final.queries for task in tasks])) == sorted(places.query)
    for task in tasks:
        for part in (task.tuning, task.final):
            assert not set(task.y[part.train]) & set(task.y[part.gallery])
            assert (part.gallery[part.exclude] == part.queries).all()
        assert not set(task.y[task.tuning.train]) & set(task.y[task.final.gallery])
        assert not set(task.tuning.queries) & set(task.final.queries)


def test_rows_whose_setting_is_not_chosen_yet_are_not_run():
    lrml, options = module("lrml"), SimpleNamespace(core=True)
    records = [{"map": 0.5, "setting": {}}]
    results = lrml.every_row(SimpleNamespace(rows=None), {"staircase": records}, options)
    assert list(results) == [lrml.UNTRAINED, *lrml.LOSSES]
    assert results.pop("staircase") is records
    assert not any(results.values())
    asked = lrml.every_row(SimpleNamespace(rows=["staircase"]), {"staircase": records}, options)
    assert asked == {"staircase": records}


def test_folds_are_pooled_by_their_queries(tmp_path):
    lrml = module("lrml")
    tasks = [
        SimpleNamespace(final=SimpleNamespace(asking=range(n)), scoring=("trapezoid_map",))
        for n in (1, 3)
    ]

    def record(score, n, setting):
        means = dict.fromkeys(("trapezoid_map", *lrml.STEPS), score)
        return means | {"per_query": [score] * n, "cpu_seconds": 2.0, "setting": setting}

    folds = [[record(1.0, 1, {"lr": 1})], [record(0.0, 3, {"lr": 2}), record(0.5, 3, {"lr": 2})]]
    (pooled,) = lrml._pooled(folds, tasks)  # the first fold has one seed
    assert pooled["trapezoid_map"] == pooled["whitened"] == 0.25
    assert pooled["per_query"] == [1.0, 0.0, 0.0, 0.0]
    assert pooled["cpu_seconds"] == 4


def test_products_train_what_is_asked_among_places(groceries, tmp_path):
    places = load_holidays(paper_folders.holidays(tmp_path / "places", n=12))
    task = module("lrml").transfer_task(groceries, places)
    photos = task.inputs["images"]
    assert set(photos[task.final.gallery]) == set(places.data)
    assert (photos[task.final.queries] == places.data[places.query]).all()
    assert (task.final.gallery[task.final.exclude] == task.final.queries).all()
    assert set(photos[task.final.train]) <= set(groceries.data)
    assert not set(task.y[task.final.queries]) & set(task.y[task.final.train])
    assert set(photos[task.tuning.queries]) <= set(groceries.data)


def test_mosaics_of_two_tiles_choose_with_images_that_neither_train_nor_ask():
    multi_label = module("multi_label")
    images = np.arange(120).reshape(120, 1, 1, 1) * np.ones((1, 2, 2, 3), dtype=int)
    y = np.arange(120) % 4
    parts = (images[:80], y[:80]), (images[80:], y[80:])
    numbers = {"n_train": 30, "n_gallery": 20, "n_queries": 5}
    task = multi_label.mosaic_task(*parts, tiles=(1, 2), **numbers)
    assert task.inputs["images"].shape[1:] == (2, 4, 3)

    def shown(rows):
        return set(task.inputs["images"][rows].ravel())

    tuning, final = task.tuning, task.final
    assert [len(of) for of in (final.train, final.gallery, final.queries)] == [30, 20, 5]
    assert len(tuning.queries) == 5
    assert not shown(tuning.queries) & shown(tuning.train)
    assert max(shown(final.train) | shown(tuning.queries)) < 80
    assert not shown(final.queries) & shown(final.gallery)
    assert (task.y.sum(axis=1) <= 2).all()


def test_ablations_choose_with_images_that_do_not_ask_in_the_end():
    compare, hashing = module("_compare"), module("hashing")
    rows = np.arange(100)
    for n_kept in (30, 75):  # with others left, and without
        tuning = compare.Part(rows[20 : 20 + n_kept], rows[20 : 20 + n_kept], rows[:20])
        final = compare.Part(rows, rows, rows)
        task = compare.Task({"images": rows}, rows % 3, tuning=tuning, final=final)
        part = hashing.apart(task)
        assert not set(part.queries) & set(tuning.queries)
        assert not set(part.queries) & set(part.train)
        assert len(part.queries) >= 20


def test_classical_hashers_learn_from_the_same_rows():
    hashing = module("hashing")
    seen = {}

    class Seen:
        def __init__(self, n_bits):
            self.n_labeled = None

        def get_params(self):
            return {"n_labeled": 0, "random_state": 0}

        def set_params(self, **params):
            vars(self).update(params)

        def fit(self, X, y):
            seen[len(seen)] = (X, y, self.n_labeled)

    hashing.CLASSICAL["seen"] = Seen
    try:
        X, y = np.arange(40)[:, None], np.arange(40) % 3
        for _ in range(2):
            hashing.classical("seen", bits=8, seed=1, n_rows=10).fit(X, y)
    finally:
        del hashing.CLASSICAL["seen"]
    (first, labels, n), (second, _, _) = seen.values()
    assert len(first) == n == 10
    assert (first == second).all()
    assert (labels == first[:, 0] % 3).all()


def test_epochs_to_the_best_score():
    stability = module("stability")
    assert stability.epochs_to_best([0.1, 0.5, 0.897, 0.9, 0.8]) == 3  # .892 is 99 % of the way
    assert stability.epochs_to_best([0.3, 0.2]) == 1


def test_a_head_alone_is_scored_after_every_epoch():
    stability, losses = module("stability"), module("_losses")
    rng = np.random.default_rng(0)
    y = np.arange(140) % 4
    X = np.eye(4)[y] + 0.3 * rng.normal(size=(140, 4))
    heads = [
        stability.head("softmax", lr=0.05, seed=seed, epochs=4, precision="float32", device="cpu")
        for seed in (0, 0, 1)
    ]
    first, again, other = (head.fit(X, y) for head in heads)
    assert first.history_ == again.history_ != other.history_
    assert len(first.scores_) == 4
    assert first.history_[-1]["loss"] < first.history_[0]["loss"]
    assert first.scores_[-1] > 0.6
    assert losses.loss_settings(stability.partial(stability.head, "softmax"), {}) is not None
