"""Rows of a table on one task: settings for each by the same trials, then seeds and verdicts."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import joblib
import numpy as np

from _data import fingerprint
from _papers._chance import chance_levels
from _papers._losses import loss_settings
from _papers._rules import compare_rows, draw_settings, seeds_needed, trial_epochs, verdicts_table
from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.metrics import evaluate, mean_average_precision

NOT_RUN = "not run"
SECONDS = "cpu_seconds"  # of a training, and of all that is scored
HEADS = {SECONDS: "s a cell"}
SEEDS, CLOSE_SEEDS = 3, 5


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

    ``make(seed=..., **settings)`` returns an estimator that learns; it is a partial, whose own
    arguments tell its cells from those of other methods. `ranges` has what its settings are drawn
    from, by name; empty where there is nothing to choose. Of a row with `tuned_as`, the setting is
    the one that another row has chosen, but for what is its own.
    """

    name: str
    make: Callable
    ranges: dict = field(default_factory=dict)
    features: str = "images"  # which input of the task it takes
    seeds: int | None = None  # where more would say the same
    tuned_as: "Row | None" = None

    def fixed(self, setting):
        """Return the row with one setting, which there is no need to choose."""
        ranges = {name: [value] for name, value in setting.items()}
        return replace(self, ranges=ranges, tuned_as=None)


@dataclass(frozen=True)
class Part:
    """Rows to train on, to search and to ask with; no queries: each of the gallery asks.

    `exclude` has, per query, the rows of the gallery that are not ranked; of a gallery that asks
    itself the query is left out in any case.
    """

    train: np.ndarray
    gallery: np.ndarray
    queries: np.ndarray | None = None
    exclude: list | np.ndarray | None = None

    @property
    def asking(self):
        """The rows that ask."""
        return self.gallery if self.queries is None else self.queries

    @property
    def left_out(self):
        """What metrics take as `exclude`."""
        return np.arange(len(self.gallery)) if self.queries is None else self.exclude


@dataclass(frozen=True)
class Task:
    """What a table is measured on.

    `inputs` are named arrays or lists of paths over the same images, `y` their labels. `tuning`
    chooses settings and never holds what `final` asks with. The first of `scoring` chooses, and
    verdicts are about it; with `by_class` over resampled classes, which were never trained on.
    Trials keep the scores, and those of `finish` that are `kept_of_trials`.
    """

    inputs: dict
    y: np.ndarray
    tuning: Part
    final: Part
    scoring: tuple = ("map",)
    metric: str = "cosine"
    finish: Callable | None = None  # more measures: (task, part, estimator) -> dict
    finish_chance: Callable | None = None  # what these are by chance: (task, part) -> dict
    by_class: bool = False
    kept_of_trials: tuple = ()

    def take(self, kind, rows):
        """Return the images of `rows` in the form that a method takes."""
        return self.inputs[kind][rows]

    @property
    def trial_share(self):
        """The images of a trial's epoch, as a part of those of a training."""
        return len(self.tuning.train) / len(self.final.train)

    def fingerprint(self, part):
        """Return a short name of the images, their labels and a part of them."""
        content = [self._content, part.train, part.gallery, part.queries]
        return joblib.hash([*content, *([] if part.exclude is None else [part.exclude])])[:8]

    @cached_property
    def _content(self):
        return fingerprint(self.inputs["images"], self.y)


@dataclass(frozen=True)
class Plan:
    """How the rows of a table are run.

    `seeds` None is the rule: three, and five where two rows that decide are close. With `core` the
    rule stops at three. `rates` are tried instead of the settings of the rows. All rows have one
    `precision`, "float32" or "bf16", and one `device`.
    """

    seeds: int | None = None
    rates: tuple = ()
    core: bool = False
    precision: str = "float32"
    device: str = "cpu"

    @classmethod
    def of(cls, options):
        rates = tuple(options.rates or ())
        return cls(options.seeds, rates, options.core, options.precision, options.device)

    def ranges(self, row):
        """Return what the settings of a row are drawn from."""
        return {"lr": list(self.rates)} if self.rates and "lr" in row.ranges else row.ranges

    def settings(self, settings):
        """Return settings with what all rows share."""
        return {"precision": self.precision, "device": self.device} | settings


def described(make, settings, **others):
    """Return, as plain values, what the result of ``make(**settings)`` depends on."""
    plain = {name: value for name, value in settings.items() if name != "checkpoints"}
    if plain.get("weights") is not None:
        plain["weights"] = joblib.hash(Path(plain["weights"]).read_bytes())[:8]
    method = f"{make.func.__name__}{make.args}{make.keywords}"
    loss = loss_settings(make, settings)
    return {"method": method, **({} if loss is None else {"loss": loss}), **others, **plain}


def measured(cells, name, function, row, task, part, settings, **extra):
    """Return the cell of a row, trained and scored on a part of the task; `extra` is kept there."""
    depends = {"input": row.features, "scoring": task.scoring, "data": task.fingerprint(part)}

    def run():
        return function(row.make, task, part, row.features, settings) | extra

    depends = described(row.make, settings, **depends)
    epochs, kind = settings.get("epochs", settings.get("max_epochs")), function.__name__
    kind = f"{row.name}, {kind}, {settings.get('backbone')}, {epochs} epochs"
    return cells.run(name, run, settings=depends, kind=kind)


def measure(make, task, part, kind, settings):
    """Train, search and score once."""
    record, estimator = _measured(make, task, part, kind, settings)
    return record if task.finish is None else record | task.finish(task, part, estimator)


def _measured(make, task, part, kind, settings):
    estimator = make(**settings)
    started = time.perf_counter()
    estimator.fit(task.take(kind, part.train), task.y[part.train])
    fitted = time.perf_counter() - started
    record = scores_of(task, part, estimator, kind)
    history = getattr(estimator, "history_", [])
    record["losses"] = [round(epoch["loss"], 5) for epoch in history]
    # Epochs before a training was cut off count, too.
    trained = sum(epoch["seconds"] for epoch in history) if history else fitted
    record["training_seconds"] = round(trained, 1)
    return record, estimator


def scores_of(task, part, estimator, kind="images"):
    """Return the scores of a fitted estimator by name, and the first for every query."""
    rows = estimator.transform(task.take(kind, part.gallery))
    metrics = {name: SCORES.get(name, name) for name in task.scoring}
    if part.exclude is not None:  # which a retriever knows by ids alone
        asked = estimator.transform(task.take(kind, part.queries))
        compared = task.y[part.queries], task.y[part.gallery], 1 - asked @ rows.T
        found = {
            name: np.asarray(evaluate(metric, *compared, exclude=part.exclude, per_query=True))
            for name, metric in metrics.items()
        }
        record = {name: float(np.nanmean(of)) for name, of in found.items()}
        per_query = found[task.scoring[0]]
    else:
        retriever = NeighborsRetriever(metric=task.metric, algorithm="exact")
        retriever.fit(rows, task.y[part.gallery])
        asked = ()
        if part.queries is not None:
            asked = estimator.transform(task.take(kind, part.queries)), task.y[part.queries]
        results = retriever.evaluate(*asked, scoring=[*metrics.values()])
        record = {name: float(results[key].score) for name, key in metrics.items()}
        per_query = results[metrics[task.scoring[0]]].per_query
    return record | {"per_query": np.round(per_query, 5).tolist()}


def _trial(make, task, part, kind, settings):
    """Measure, or score 0 where the rate is so high that the loss diverged."""
    try:
        record, estimator = _measured(make, task, part, kind, settings)
    except FloatingPointError as error:
        return {task.scoring[0]: 0.0, "diverged": str(error)}
    if task.kept_of_trials:
        record |= task.finish(task, part, estimator)
    return {key: record[key] for key in (*task.scoring, *task.kept_of_trials, "training_seconds")}


def choose(cells, row, task, plan, settings, label=""):
    """Return the drawn setting with the best score on the tuning part, and all trials."""
    drawn = draw_settings(plan.ranges(row))
    if len(drawn) < 2:
        return drawn[0], []
    trials = []
    for setting in drawn:
        cell = f"choose {row.name}{label}, {shown(setting)}"
        how = settings | setting | {"seed": 0}
        found = measured(cells, cell, _trial, row, task, task.tuning, how)
        kept = {name: found[name] for name in task.kept_of_trials if name in found}
        trials.append({"setting": setting, task.scoring[0]: found[task.scoring[0]]} | kept)
    return max(trials, key=lambda trial: trial[task.scoring[0]])["setting"], trials


def compare(cells, rows, task, plan, *, final, tuning=None, label="", deciding=()):
    """Return the records of every row, one per seed, as far as they are finished.

    `final` are the settings of the last training, such as epochs; `tuning` those of the trials,
    where they differ. `deciding` are pairs of rows that get five seeds if they are close.
    """
    final = plan.settings(final)
    tuning = plan.settings(tuning) if tuning else final

    def fill(rows, seeds):
        return {
            row.name: _records(cells, row, task, plan, (final, tuning), label, seeds)
            for row in rows
        }

    return finished(cells, by_rule(fill, rows, plan, task.scoring[0], deciding))


def _records(cells, row, task, plan, settings, label, seeds):
    final, tuning = settings
    records = []
    with cells.row(row.name):
        setting, trials = choose(cells, row.tuned_as or row, task, plan, tuning, label)
        setting = {name: of for name, of in setting.items() if name not in row.make.keywords}
        at = f", {shown(setting)}" if setting else ""
        for seed in range(min(seeds, row.seeds or seeds)):
            name = f"{row.name}{label}{at}, seed {seed}"
            how = final | setting | {"seed": seed}
            found = measured(cells, name, measure, row, task, task.final, how, trials=trials)
            records.append(found | {"setting": setting})
    return records


def by_rule(fill, rows, plan, column, deciding=()):
    """Return what ``fill(rows, seeds)`` finds, with as many seeds as the rule says."""
    results = fill(rows, plan.seeds or SEEDS)
    if plan.seeds is None and not plan.core:
        close = {name for pair in deciding for name in pair if is_close(results, pair, column)}
        results |= fill([row for row in rows if row.name in close], CLOSE_SEEDS)
    return results


def is_close(results, pair, column):
    """Return whether two rows of three seeds need five."""
    scores = [[record[column] for record in results.get(name, [])[:SEEDS]] for name in pair]
    return all(len(of) == SEEDS for of in scores) and seeds_needed(*scores) == CLOSE_SEEDS


def finished(cells, results):
    """Return the results; where only some rows were asked for, without the others."""
    if cells.rows is None:
        return results
    return {name: records for name, records in results.items() if records}


def trial_of(epochs, task):
    """Return the epochs of a trial, an eighth of the images of a training."""
    return trial_epochs(epochs, task.trial_share)


def shown(setting):
    """Return a setting as text."""
    parts = (f"{name.removeprefix('loss__')}={_plain(of)}" for name, of in setting.items())
    return ", ".join(parts)


def _plain(value):
    return f"{value:g}" if isinstance(value, float) else value


# Tables --------------------------------------------------------------------------------------


def report(results, task, columns, *, first="method", paper=None, pairs=()):
    """Return the table with what a row that knows nothing has, and the verdicts on its pairs."""
    lines = table(results, columns, first=first, paper=paper, chance=chance_of(task))
    parts = lines, rates_at_an_end(results), verdicts(results, task, pairs)
    return "\n\n".join(part for part in parts if part)


def rates_at_an_end(results):
    """Return which rows chose the lowest or highest rate that was tried; "" if none did.

    Such a row may be better at a rate that its range does not hold.
    """
    found = []
    for name, records in results.items():
        trials = records[0].get("trials", []) if records else []
        rates = sorted(trial["setting"]["lr"] for trial in trials if "lr" in trial["setting"])
        if len(rates) > 1:
            ends = {rates[0]: "lowest", rates[-1]: "highest"}
            end = ends.get(records[0]["setting"]["lr"])
            found += [f"{name} ({end})"] if end else []
    return f"At an end of the rates that were tried: {', '.join(found)}." if found else ""


def chance_of(task):
    """Return what a row that knows nothing has, by name of the measure."""
    part = task.final
    metrics = {name: SCORES.get(name, name) for name in task.scoring}
    labels = task.y[part.asking], task.y[part.gallery]
    found = chance_levels(*labels, metrics, exclude=part.left_out)
    return found if task.finish_chance is None else found | task.finish_chance(task, part)


def table(results, columns, *, first="method", paper=None, chance=None):
    """Return a Markdown table: mean and spread over seeds, and what a paper has, by name."""
    beside = [] if paper is None else ["the paper"]
    heads = [first, *(HEADS.get(column, column) for column in columns), "settings", *beside]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, records in results.items():
        cells = [_shown_column(column, records) for column in columns]
        cells.append(shown(records[0]["setting"]) if records else "")
        cells += [paper.get(name, "") for _ in beside]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if chance is not None:
        levels = [f"{chance[column]:.4f}" if column in chance else "" for column in columns]
        lines.append(f"| {' | '.join(['chance', *levels, '', *('' for _ in beside)])} |")
    return "\n".join(lines)


def _shown_column(column, records):
    values = [record[column] for record in records]
    if column == SECONDS and values:  # of the processor, which other work disturbs least
        return f"{np.mean(values):.0f}"
    return spread(values)


def spread(values):
    """Return a mean and, over several seeds, their sample standard deviation and number as text."""
    if not values:
        return NOT_RUN
    if any(isinstance(value, str) for value in values):
        return values[0]
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.4f} (n={len(values)})"


def verdicts(results, task, pairs):
    """Return which rows of finished pairs are better, by the first measure; "" without any."""
    pairs = finished_pairs(results, pairs)
    names = {name for pair in pairs for name in pair}
    scores = {name: np.array([r["per_query"] for r in results[name]]) for name in names}
    # Queries without anything to find have no score, in any row.
    scored = {name: np.isfinite(of).all(axis=0) for name, of in scores.items()}
    classes = None
    if task.by_class and pairs:
        classes = task.y[task.final.asking][scored[pairs[0][0]]]
    scores = {name: of[:, scored[name]] for name, of in scores.items()}
    return compared(task.scoring[0], scores, pairs, classes=classes)


def finished_pairs(results, pairs):
    """Return the pairs of which both rows have records."""
    return [pair for pair in pairs if all(results.get(name) for name in pair)]


def compared(measure, scores, pairs, **bootstrap):
    """Return the verdicts on pairs of rows by a measure, as text; "" without any."""
    if not pairs:
        return ""
    return f"By {measure}:\n\n{verdicts_table(compare_rows(scores, pairs, **bootstrap))}"
