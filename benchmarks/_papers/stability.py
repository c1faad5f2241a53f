"""Epochs until a loss is stable: squared hinge against softmax at a constant rate.

Whole networks on photos, and linear heads alone on stored features of frozen ones.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy.stats import loguniform
from torch import nn

from _papers import squared_hinge
from _papers._compare import (
    Plan,
    Row,
    chance_of,
    compare,
    rates_at_an_end,
    report,
    table,
    verdicts,
)
from _papers._losses import loss_of
from sklearn_cbir import NeighborsRetriever

LOSSES = squared_hinge.LOSSES
PAIRS = [(LOSSES[1], LOSSES[0])]
IN_LOSS = "epochs to 99 % of the way in loss"
IN_MAP = "epochs to 99 % of the way in held-out mAP"
COLUMNS = (IN_LOSS, IN_MAP)
RATES = {3e-4: None, 1e-4: 1, 1e-3: 1}  # constant ones, and their seeds; None: the rule
HEAD_RATES = loguniform(1e-4, 1)
BATCH = 32


class HeldOut:
    """A callback that scores the network after every epoch, on photos that did not train."""

    def __init__(self, photos, y):
        self.photos = photos
        self.y = y
        self.scores = []

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "epoch":
            self.scores.append(map_among(fitted_estimator.transform(self.photos), self.y))

    def teardown(self, estimator, context):
        pass


def map_among(rows, y):
    """Return the mAP of rows that each ask for the others."""
    return float(NeighborsRetriever(algorithm="exact").fit(rows, y).evaluate(scoring="map").score)


class Watched:
    """An estimator that is scored after every epoch, on a seventh of the rows that it is given."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        asking, kept = _parted(y)
        watch = HeldOut(X[asking], y[asking])
        self.estimator.set_callbacks(watch).fit(X[kept], y[kept])
        self.history_ = self.estimator.history_
        self.scores_ = watch.scores
        return self

    def transform(self, X):
        return self.estimator.transform(X)


def _parted(y):
    """Return rows that are held out, each with something to find there, and rows that train."""
    rows = np.random.default_rng(1).permutation(len(y))
    drawn = rows[: max(2, len(y) // 7)]
    _, number, counts = np.unique(y[drawn], return_inverse=True, return_counts=True)
    asking = drawn[counts[number] > 1]
    return asking, np.setdiff1d(rows, asking)


def whole(loss, *, lr, **settings):
    """Return a network of which everything trains from the first epoch on, at one rate."""
    one_rate = {"schedule": "constant", "lr": lr, "trunk_lr": lr}
    return Watched(squared_hinge.extractor(loss, **one_rate, **settings))


class LinearHead:
    """A linear layer on rows, trained at a constant rate; its outputs are what is searched."""

    def __init__(self, loss, lr, epochs, seed, device="cpu"):
        self.loss = loss
        self.lr = lr
        self.epochs = epochs
        self.seed = seed
        self.device = device

    def fit(self, X, y):
        asking, kept = _parted(y)
        classes, targets = np.unique(y, return_inverse=True)
        X = torch.as_tensor(np.asarray(X, dtype=np.float32))
        targets = torch.as_tensor(targets)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.layer = nn.Linear(X.shape[1], len(classes))
            optimizer = torch.optim.AdamW(self.layer.parameters(), lr=self.lr)
            self.history_, self.scores_ = [], []
            for _ in range(self.epochs):
                loss = self._epoch(X, targets, torch.as_tensor(kept), optimizer)
                self.history_.append({"loss": loss, "seconds": 0.0})
                self.scores_.append(map_among(self.transform(X[asking]), y[asking]))
        return self

    def _epoch(self, X, targets, rows, optimizer):
        total = 0.0
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            optimizer.zero_grad()
            loss = self.loss(self.layer(X[batch]), targets[batch])
            if not torch.isfinite(loss):
                raise FloatingPointError(f"The loss is {loss.item()}.")
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        return total / len(rows)

    def transform(self, X):
        with torch.inference_mode():
            outputs = self.layer(torch.as_tensor(np.asarray(X, dtype=np.float32)))
        return nn.functional.normalize(outputs).numpy()


def head(loss, *, lr, seed, epochs, precision, device):
    """Return a linear head; it is small enough for float32 on the processor."""
    return LinearHead(loss_of(loss, {}, seed), lr, epochs, seed)


def curves(task, part, estimator):
    """Return the held-out mAP of every epoch, and the epochs to 99 % of both ways."""
    losses = [epoch["loss"] for epoch in estimator.history_]
    return {
        "held_out": [round(score, 5) for score in estimator.scores_],
        IN_LOSS: epochs_of_way(losses),
        IN_MAP: epochs_to_best(estimator.scores_),
    }


def epochs_of_way(losses):
    """Return the epochs until the loss has gone 99 % of the way from its first to its last value.

    Losses of other scales and other smallest values compare by this.
    """
    far = np.abs(np.array(losses) - losses[-1]) > 0.01 * abs(losses[0] - losses[-1])
    return int(np.flatnonzero(far)[-1]) + 2 if far.any() else 1


def epochs_to_best(scores):
    """Return the first epoch with 99 % of the way from the first score to the best one."""
    scores = np.array(scores)
    return int(np.argmax(scores >= scores[0] + 0.99 * (scores.max() - scores[0]))) + 1


def run_whole(cells, task, options):
    """Fill the table of whole networks: both losses at the same rates, none of them chosen."""
    task = replace(task, finish=curves)
    (backbone, weights), *_ = squared_hinge.networks(options).items()
    rates = dict.fromkeys(options.rates) if options.rates else RATES
    named = {rate: [f"{loss}, lr={rate:g}" for loss in LOSSES] for rate in rates}
    rows = [
        Row(name, partial(whole, loss, lr=rate), seeds=seeds)
        for rate, seeds in rates.items()
        for name, loss in zip(named[rate], LOSSES)
    ]
    pairs = [(hinge, softmax) for softmax, hinge in named.values()]
    final = squared_hinge.settings_of(options, backbone, weights, task, head=0)["final"]
    found = {"final": final, "label": f" {backbone}", "deciding": pairs}
    results = compare(cells, rows, task, replace(Plan.of(options), rates=()), **found)
    columns = [*task.scoring, *COLUMNS, "cpu_seconds"]
    return report(results, task, columns, first=backbone, pairs=pairs)


def run_heads(cells, tasks, options):
    """Fill the table of heads alone, two rows per network and set of photos.

    A training takes seconds, so that trials are whole trainings; both losses try the same rates.
    """
    plan, results = Plan.of(options), {}
    rows = [Row(loss, partial(head, loss), {"lr": HEAD_RATES}) for loss in LOSSES]
    for name, task in tasks.items():
        task = replace(task, finish=curves, kept_of_trials=COLUMNS)
        budgets = {"final": {"epochs": options.epochs}, "label": f" {name}", "deciding": PAIRS}
        found = compare(cells, rows, task, plan, **budgets)
        results |= {f"{name}: {loss}": records for loss, records in found.items()}
    pairs = [tuple(f"{name}: {loss}" for loss in pair) for name in tasks for pair in PAIRS]
    lines = table(results, [*task.scoring, "cpu_seconds"], first="head of")
    parts = [lines, _chances(tasks), rates_at_an_end(results), verdicts(results, task, pairs)]
    parts += [epochs_at_equal_rates(results, tasks, of) for of in COLUMNS]
    return "\n\n".join(part for part in parts if part)


def _chances(tasks):
    """Return what a row that knows nothing has in every set of photos."""
    levels = {name.partition(",")[0]: chance_of(task) for name, task in tasks.items()}
    shown = (
        ", ".join(f"{measure} {level:.4f}" for measure, level in of.items())
        for of in levels.values()
    )
    return f"Chance: {'; '.join(f'{name}: {of}' for name, of in zip(levels, shown))}."


def epochs_at_equal_rates(results, names, column):
    """Return a table of how many epochs both losses needed in the trials at each rate."""
    heads = ["", *LOSSES, f"rates at which {LOSSES[1]} needed fewer, as many, more"]
    lines = [f"{column.capitalize()}, medians over the rates:", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in names:
        records = [results.get(f"{name}: {loss}") for loss in LOSSES]
        if not all(records):
            lines.append(f"| {name} | not run | not run | |")
            continue
        first, second = (_by_rate(of[0], column) for of in records)
        shared = sorted(first.keys() & second.keys())
        difference = np.array([second[rate] - first[rate] for rate in shared])
        medians = [f"{np.median([of[rate] for rate in shared]):g}" for of in (first, second)]
        counts = [(difference < 0).sum(), (difference == 0).sum(), (difference > 0).sum()]
        lines.append(f"| {name} | {' | '.join(medians)} | {', '.join(map(str, counts))} |")
    return "\n".join(lines)


def _by_rate(record, column):
    """Return a measure of the trials by their rates, without those that diverged.

    Where one rate was given, and none was tried, that of the record.
    """
    trials = record["trials"] or [record]
    return {trial["setting"]["lr"]: trial[column] for trial in trials if column in trial}
