"""Rows of a table on one task: a rate for each by the same trials, then the seeds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import joblib
import numpy as np

from _data import fingerprint
from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.metrics import mean_average_precision


def published_map(y_queries, y_gallery, distances, *, k=5000, **options):
    """Return mAP as NUS-WIDE is mostly published: over `k` results, divided by the hits there."""
    k = min(k, len(y_gallery))
    return mean_average_precision(
        y_queries, y_gallery, distances, k=k, denominator="hits", **options
    )


# Scores that are no name of a metric of the package.
SCORES = {"map@5000, hits": published_map}


@dataclass(frozen=True)
class Row:
    """One method of a table.

    ``make(lr=..., seed=..., **settings)`` returns an estimator that learns; it is a partial, whose
    own arguments tell its cells from those of other methods. `rates` is the grid that its rate is
    chosen from, empty where there is nothing to choose.
    """

    name: str
    make: Callable
    rates: tuple = ()
    features: str = "images"  # which input of the task it takes
    paper: dict = field(default_factory=dict)  # figures of the paper by column


@dataclass(frozen=True)
class Part:
    """Rows to train on, to search and to ask with; no queries: each of the gallery asks."""

    train: np.ndarray
    gallery: np.ndarray
    queries: np.ndarray | None = None


@dataclass(frozen=True)
class Task:
    """What a table is measured on.

    `inputs` are named arrays or lists of paths over the same images, `y` their labels. `tuning`
    chooses rates and never holds what `final` asks with.
    """

    inputs: dict
    y: np.ndarray
    tuning: Part
    final: Part
    scoring: tuple = ("map",)
    metric: str = "cosine"
    finish: Callable | None = None  # more measures: (task, part, estimator) -> dict

    def take(self, kind, rows):
        """Return the images of `rows` in the form that a method takes."""
        return self.inputs[kind][rows]

    def fingerprint(self, part):
        """Return a short name of the images, their labels and a part of them."""
        return joblib.hash([self._content, part.train, part.gallery, part.queries])[:8]

    @cached_property
    def _content(self):
        return fingerprint(self.inputs["images"], self.y)


def described(make, settings, **others):
    """Return, as plain values, what the result of ``make(**settings)`` depends on."""
    plain = {name: value for name, value in settings.items() if name != "checkpoints"}
    if plain.get("weights") is not None:
        plain["weights"] = joblib.hash(Path(plain["weights"]).read_bytes())[:8]
    method = f"{make.func.__name__}{make.args}{make.keywords}"
    return {"method": method, **others, **plain}


def measured(cells, name, function, row, task, part, settings):
    """Return the cell of a row, trained and scored on a part of the task."""
    depends = {"input": row.features, "scoring": task.scoring, "data": task.fingerprint(part)}
    return cells.run(
        name,
        function,
        row.make,
        task,
        part,
        row.features,
        settings,
        settings=described(row.make, settings, **depends),
    )


def measure(make, task, part, kind, settings):
    """Train, search and score once."""
    estimator = make(**settings)
    started = time.perf_counter()
    estimator.fit(task.take(kind, part.train), task.y[part.train])
    fitted = time.perf_counter() - started
    retriever = NeighborsRetriever(metric=task.metric, algorithm="exact")
    retriever.fit(estimator.transform(task.take(kind, part.gallery)), task.y[part.gallery])
    asked = ()
    if part.queries is not None:
        asked = estimator.transform(task.take(kind, part.queries)), task.y[part.queries]
    metrics = [SCORES.get(name, name) for name in task.scoring]
    results = retriever.evaluate(*asked, scoring=metrics)
    record = {name: float(results[key].score) for name, key in zip(task.scoring, metrics)}
    record["per_query"] = np.round(results[metrics[0]].per_query, 5).tolist()
    history = getattr(estimator, "history_", [])
    record["losses"] = [round(epoch["loss"], 5) for epoch in history]
    # Epochs before a training was cut off count, too.
    trained = sum(epoch["seconds"] for epoch in history) if history else fitted
    record["training_seconds"] = round(trained, 1)
    if task.finish is not None:
        record |= task.finish(task, part, estimator)
    return record


def choose_rate(cells, row, task, label, settings):
    """Return the rate of the grid with the best score on the tuning part; None without a grid.

    Where the best rate is the last of the grid, the grid goes on for up to two rates more.
    """
    if len(row.rates) < 2:
        return row.rates[0] if row.rates else None
    scores = {}
    rates = sorted(row.rates)
    for _ in range(3):
        for lr in rates:
            if lr not in scores:
                cell = f"choose {row.name}{label}, lr={lr:g}"
                chosen = settings | {"lr": lr, "seed": 0}
                found = measured(cells, cell, _or_lost, row, task, task.tuning, chosen)
                scores[lr] = found[task.scoring[0]]
        best = max(rates, key=scores.get)
        if best not in (rates[0], rates[-1]):
            break
        factor = 0.33 if best == rates[0] else 3.2  # 0.001, 0.003, 0.01, ...
        rates = sorted([*rates, float(f"{best * factor:.0e}")])
    return best


def _or_lost(make, task, part, kind, settings):
    """Measure, or score 0 where the rate is so high that the loss diverged."""
    try:
        record = measure(make, task, part, kind, settings)
    except FloatingPointError as error:
        return {task.scoring[0]: 0.0, "diverged": str(error)}
    return {key: record[key] for key in (*task.scoring, "training_seconds")}


def compare(cells, rows, task, *, seeds, final, tuning=None, label=""):
    """Return the records of every row, one per seed; rows that are not finished are left out.

    `final` are the settings of the last training, such as epochs; `tuning` those of the trials
    that choose the rate, where they differ.
    """
    results = {}
    for row in rows:
        with cells.row(row.name):
            lr = choose_rate(cells, row, task, label, tuning or final)
            at = "" if lr is None else f", lr={lr:g}"
            settings = final | ({} if lr is None else {"lr": lr})
            results[row.name] = [
                measured(
                    cells,
                    f"{row.name}{label}{at}, seed {seed}",
                    measure,
                    row,
                    task,
                    task.final,
                    settings | {"seed": seed},
                )
                | {"lr": lr}
                for seed in range(seeds)
            ]
    return results


def table(results, columns, *, first="method", paper=None):
    """Return a Markdown table: mean and spread over seeds, and what a paper has, by name."""
    beside = [] if paper is None else ["the paper"]
    heads = [first, *columns, *beside]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, records in results.items():
        shown = [spread([record[column] for record in records]) for column in columns]
        shown += [paper.get(name, "") for _ in beside]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def spread(values):
    """Return a mean and, over several seeds, their sample standard deviation and number as text."""
    if any(isinstance(value, str) for value in values):
        return values[0]
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.4f} (n={len(values)})"
