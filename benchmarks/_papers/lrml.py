"""Learning to rank: distances that grow with the rank of a negative against equal ones."""

from dataclasses import replace
from functools import partial

import numpy as np
from scipy.stats import loguniform, uniform

from _papers import squared_hinge, zero_shot
from _papers._compare import (
    Part,
    Plan,
    Row,
    Task,
    by_rule,
    chance_of,
    choose,
    compare,
    finished,
    report,
    table,
    verdicts,
)
from _papers.zero_shot import UNTRAINED
from sklearn_cbir.metrics import evaluate
from sklearn_cbir.model_selection import split_group_folds
from sklearn_cbir.whitening import LearnedWhitening

EQUAL, STAIRCASE = "equal distances (delta = 0)", "staircase"
MARGIN = {"loss__margin": uniform(0.6, 0.5)}
# What is a row's own, and what its settings are drawn from: the margin is tuned for all.
LOSSES = {
    "triplet": ("triplet", {}, {"loss__margin": loguniform(0.05, 0.5)}),
    EQUAL: ("lrml", {"loss__step": 0.0}, MARGIN),
    STAIRCASE: ("lrml", {}, MARGIN | {"loss__step": loguniform(0.01, 0.1)}),
    "ranked list": (
        "lrml",
        {"loss__form": "ranked_list"},
        {
            "loss__boundary": uniform(1.0, 0.4),
            "loss__gap": uniform(0.2, 0.4),
            "loss__temperature": [5.0, 10.0, 20.0],
        },
    ),
}
PAIRS = [(STAIRCASE, name) for name in LOSSES if name != STAIRCASE] + [(STAIRCASE, UNTRAINED)]
DECIDING = [(STAIRCASE, EQUAL)]
RATES = loguniform(1e-4, 1e-2)  # of a pretrained network
SCALES = (1.0, 2**-0.5, 0.5)
STEPS = ("whitened", "3 scales", "3 scales, whitened")


def rows_of(make, rates=RATES, **own):
    """Return a row per loss."""
    return [
        Row(name, partial(make, loss, **of_loss, **own), {"lr": rates} | ranges)
        for name, (loss, of_loss, ranges) in LOSSES.items()
    ]


def pretrained_rows(core=False, **own):
    """Return the untrained row first, the losses with GeM pooling, and two with the average.

    Every row trains on tuples of an image, another of its class and the hardest negatives.
    """
    own = {"sampling": "mined"} | own
    make, gem = squared_hinge.extractor, {"pooling": "gem"} | own
    rows = [Row(UNTRAINED, partial(make, None, **gem), seeds=1), *rows_of(make, **gem)]
    if core:
        return rows
    average = {"pooling": "avg"} | own
    loss, of_loss, ranges = LOSSES[STAIRCASE]
    return [
        *rows,
        Row(f"{UNTRAINED}, average pooling", partial(make, None, **average), seeds=1),
        Row(
            f"{STAIRCASE}, average pooling",
            partial(make, loss, **of_loss, **average),
            {"lr": RATES} | ranges,
        ),
    ]


def products_task(groceries):
    """Return the task on unseen products of Grocery Store."""
    task = zero_shot.products_task(groceries)
    return replace(task, scoring=("map", "recall@1", "map_at_r"))


def tuned_on_products(cells, rows, groceries, options):
    """Return the rows under the settings that `lrml-grocery` chooses, as far as they are chosen.

    Photos of Holidays ask in every fold, so that none is left to choose by.
    """
    task, plan, cells = products_task(groceries), Plan.of(options), cells.beside("lrml-grocery")
    (backbone, weights), *_ = squared_hinge.networks(options).items()
    budgets = squared_hinge.settings_of(options, backbone, weights, task, head=0)
    fixed = []
    for row in rows:
        with cells.row(row.name):
            tuning = plan.settings(budgets["tuning"])
            setting, _ = choose(cells, row, task, plan, tuning, f" {backbone}")
            fixed.append(row.fixed(setting))
    return fixed


def every_row(cells, results, options):
    """Return the results of every row of the table; a row without a setting has none yet."""
    names = [row.name for row in pretrained_rows(options.core)]
    return finished(cells, {name: results.get(name, []) for name in names})


def run_photos(cells, task, options, rows=None):
    """Fill the table of a pretrained network with its own features, and the steps behind it."""
    task = replace(task, finish=steps, finish_chance=chance_of_steps)
    (backbone, weights), *_ = squared_hinge.networks(options).items()
    # The features are the trunk's own: there is no head to train before.
    budgets = squared_hinge.settings_of(options, backbone, weights, task, head=0)
    rows = pretrained_rows(options.core) if rows is None else rows
    found = {"label": f" {backbone}", "deciding": DECIDING}
    results = compare(cells, rows, task, Plan.of(options), **budgets, **found)
    results = every_row(cells, results, options)
    columns = [*task.scoring, *STEPS, "cpu_seconds"]
    return report(results, task, columns, first="loss", pairs=PAIRS)


def run_drawings(cells, task, options):
    """Fill the table on drawings of unseen characters: a small net from scratch, GeM pooling."""
    task = replace(task, scoring=("map", "recall@1", "map_at_r"), finish=None, finish_chance=None)
    rows = rows_of(zero_shot.extractor, zero_shot.RATES)
    final = {
        "backbone": options.backbone,
        "weights": None,
        "pooling": "gem",
        "augment": "crop",
        "max_epochs": options.epochs,
        "batch_size": 90,
        "n_per_class": 2,
    }
    budgets = {"final": final, "deciding": DECIDING}  # trials of half a minute are whole trainings
    results = compare(cells, rows, task, Plan.of(options), **budgets)
    return report(results, task, [*task.scoring, "cpu_seconds"], first="loss", pairs=PAIRS)


def steps(task, part, estimator):
    """Return the first score with whitening, which learns from the training photos, and scales."""
    found = {}
    for name, scales in (("", (1.0,)), (STEPS[1], SCALES)):
        estimator.set_params(scales=scales)
        rows = [estimator.transform(task.take("images", of)) for of in (part.gallery, part.asking)]
        if name:
            found[name] = _score(task, part, *rows)
        learned = estimator.transform(task.take("images", part.train))
        whitening = LearnedWhitening().fit(learned, task.y[part.train])
        whitened = [whitening.transform(of) for of in rows]
        found[f"{name}, whitened".removeprefix(", ")] = _score(task, part, *whitened)
    return found


def _score(task, part, gallery, asked):
    labels = task.y[part.asking], task.y[part.gallery]
    distances = 1 - asked @ gallery.T
    return float(evaluate(task.scoring[0], *labels, distances, exclude=part.left_out))


def chance_of_steps(task, part):
    """Return the chance of the first score, whatever the step."""
    plain = replace(task, finish_chance=None, scoring=task.scoring[:1], final=part)
    return dict.fromkeys(STEPS, chance_of(plain)[task.scoring[0]])


# Places --------------------------------------------------------------------------------------


def fold_tasks(places):
    """Return a task per fold of Holidays: trained on the other four, or three for the trials."""
    y = np.asarray(places.target)
    tasks = []
    for split in split_group_folds(y):
        chosen = split.validation
        tasks.append(
            Task(
                inputs={"images": places.data},
                y=y,
                tuning=Part(chosen.train, chosen.gallery, chosen.query, chosen.exclude),
                final=Part(split.train, split.gallery, split.query, split.exclude),
                scoring=("trapezoid_map",),
                finish=steps,
                finish_chance=chance_of_steps,
            )
        )
    return tasks


def run_transfer(cells, groceries, places, options):
    """Fill the table of training on products and asking in Holidays."""
    rows = tuned_on_products(cells, pretrained_rows(options.core), groceries, options)
    return run_photos(cells, transfer_task(groceries, places), options, rows)


def transfer_task(groceries, places):
    """Return the task that trains on seen products, which choose too, and asks in Holidays."""
    products = zero_shot.products_task(groceries)
    first = len(groceries.data)
    asking = first + np.asarray(places.query)
    return Task(
        inputs={"images": np.concatenate([groceries.data, places.data])},
        y=np.concatenate([groceries.target, places.target]),
        tuning=products.tuning,
        final=Part(
            products.final.train,
            first + np.arange(len(places.data)),
            asking,
            np.asarray(places.query),
        ),
        scoring=("trapezoid_map",),
    )


def run_folds(cells, places, groceries, options):
    """Fill the table on Holidays: every query is asked in the fold of its group."""
    tasks = fold_tasks(places)
    plan = replace(Plan.of(options), rates=())
    (backbone, weights), *_ = squared_hinge.networks(options).items()
    rows = tuned_on_products(cells, pretrained_rows(options.core), groceries, options)
    budgets = [squared_hinge.settings_of(options, backbone, weights, of, head=0) for of in tasks]

    def fill(rows, seeds):
        of_seeds = replace(plan, seeds=seeds)
        found = [
            compare(cells, rows, task, of_seeds, label=f" {backbone}, fold {number}", **budget)
            for number, (task, budget) in enumerate(zip(tasks, budgets), start=1)
        ]
        return {row.name: _pooled([of.get(row.name, []) for of in found], tasks) for row in rows}

    columns = [*tasks[0].scoring, *STEPS, "cpu_seconds"]
    results = every_row(cells, by_rule(fill, rows, plan, columns[0], DECIDING), options)
    of_folds = [chance_of(task) for task in tasks]
    weights = [len(task.final.asking) for task in tasks]
    chance = {
        name: np.average([of[name] for of in of_folds], weights=weights) for name in of_folds[0]
    }
    lines = table(results, columns, first="loss", chance=chance)
    return "\n\n".join(part for part in (lines, verdicts(results, tasks[0], PAIRS)) if part)


def _pooled(of_folds, tasks):
    """Return one record per seed that all folds have: means over all queries, and all seconds."""
    weights = [len(task.final.asking) for task in tasks]
    pooled = []
    for records in zip(*of_folds):
        means = {
            name: float(np.average([record[name] for record in records], weights=weights))
            for name in (*tasks[0].scoring, *STEPS)
        }
        per_query = [score for record in records for score in record["per_query"]]
        seconds = {"cpu_seconds": sum(record["cpu_seconds"] for record in records)}
        setting = records[0]["setting"] if _all_alike(records) else {"of each": "fold"}
        pooled.append(means | seconds | {"per_query": per_query, "setting": setting})
    return pooled


def _all_alike(records):
    return all(record["setting"] == records[0]["setting"] for record in records)
