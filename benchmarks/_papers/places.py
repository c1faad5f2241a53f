"""LRML on photos of places: Oxford5k, Paris6k and Holidays, with their own protocols."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from _data import fingerprint
from _papers import squared_hinge
from _papers._compare import (
    Part,
    Plan,
    Row,
    Task,
    by_rule,
    choose,
    described,
    finished,
    shown,
    table,
    verdicts,
)
from _papers.lrml import DECIDING, PAIRS, SCALES, UNTRAINED, rows_of
from sklearn_cbir.datasets import crop_images, load_holidays, load_oxford5k, load_paris6k
from sklearn_cbir.metrics import trapezoid_mean_average_precision
from sklearn_cbir.whitening import LearnedWhitening

COLUMNS = ("map", "map_whitened")


@dataclass(frozen=True)
class Place:
    """What is searched, what asks, and the official score of their distances."""

    gallery: np.ndarray
    read_queries: Callable
    score: Callable
    content: str  # short name of the images and their labels
    n_queries: int

    def chance(self):
        """Return what a row that knows nothing has."""
        equal = np.broadcast_to(np.float64(0), (self.n_queries, len(self.gallery)))
        return float(self.score(equal))


def buildings(load, folder):
    """Return Oxford5k or Paris6k: junk is not ranked, trapezoids."""
    data = load(folder)

    def score(distances, **options):
        return trapezoid_mean_average_precision(
            data.query_target, data.target, distances, exclude=data.junk, **options
        )

    def queries():
        return crop_images(data.query_data, data.query_boxes)

    content = fingerprint(data.data, data.target, data.query, data.query_boxes, data.junk)
    return Place(data.data, queries, score, content, len(data.query_target))


def holidays(folder):
    """Return Holidays, or the part that is there: the query itself is not ranked, trapezoids."""
    data = load_holidays(folder, skip_missing=True)
    y_queries = data.target[data.query]

    def score(distances, **options):
        return trapezoid_mean_average_precision(
            y_queries, data.target, distances, exclude=data.query, **options
        )

    content = fingerprint(data.data, data.target)
    return Place(data.data, lambda: data.data[data.query], score, content, len(data.query))


PLACES = {
    "oxford5k": partial(buildings, load_oxford5k),
    "paris6k": partial(buildings, load_paris6k),
    "holidays": holidays,
}


def training_task(photos):
    """Return the task that rates are chosen on: a third of the training photos asks the rest."""
    rows = np.random.default_rng(0).permutation(len(photos.data))
    asking, kept = np.split(rows, [len(rows) // 3])
    return Task(
        inputs={"images": photos.data},
        y=photos.target,
        tuning=Part(kept, kept, asking),
        final=Part(rows, rows),
    )


def measure(make, photos, place, settings):
    """Train on labelled places and score others, as they are and whitened by the training set."""
    network = make(**settings).fit(photos.data, photos.target)
    rows, queries = network.transform(place.gallery), network.transform(place.read_queries())
    whitening = LearnedWhitening().fit(network.transform(photos.data), photos.target)
    whitened = whitening.transform(queries), whitening.transform(rows)
    per_query = np.asarray(place.score(1 - queries @ rows.T, per_query=True))
    return {
        "map": float(np.nanmean(per_query)),
        "map_whitened": float(place.score(1 - whitened[0] @ whitened[1].T)),
        "per_query": np.round(per_query, 5).tolist(),
        "losses": [round(epoch["loss"], 5) for epoch in network.history_],
    }


def run(cells, name, photos, options):
    """Fill the table: every loss with GeM pooling and three scales, with and without whitening."""
    place = PLACES[name](options.data)
    task, plan = training_task(photos), Plan.of(options)
    ((backbone, weights), *_) = squared_hinge.networks(options).items()
    own = {"pooling": "gem", "scales": SCALES}
    rows = [Row(UNTRAINED, partial(squared_hinge.extractor, None, **own), seeds=1)]
    rows += rows_of(squared_hinge.extractor, sampling="mined", **own)
    budgets = squared_hinge.settings_of(options, backbone, weights, task, head=0)  # there is none
    final, tuning = (plan.settings(budgets[of]) for of in ("final", "tuning"))

    def fill(rows, seeds):
        return {row.name: records(row, min(seeds, row.seeds or seeds)) for row in rows}

    def records(row, seeds):
        found = []
        with cells.row(row.name):
            setting, trials = choose(cells, row, task, plan, tuning)
            for seed in range(seeds):
                how = final | setting | {"seed": seed}
                cell = _final(cells, row, photos, place, how, shown(setting), trials)
                found.append(cell | {"setting": setting})
        return found

    results = finished(cells, by_rule(fill, rows, plan, "map", DECIDING))
    columns = [*COLUMNS, "cpu_seconds"]
    lines = table(results, columns, first="loss", chance=dict.fromkeys(COLUMNS, place.chance()))
    return "\n\n".join(part for part in (lines, verdicts(results, task, PAIRS)) if part)


def _final(cells, row, photos, place, settings, at, trials):
    """Return the cell of a row that trains on all photos."""
    data = [place.content, fingerprint(photos.data, photos.target)]

    def trained():
        return measure(row.make, photos, place, settings) | {"trials": trials}

    return cells.run(
        f"{row.name}{at and f', {at}'}, seed {settings['seed']}",
        trained,
        settings=described(row.make, settings, data=data),
        kind=f"{row.name}, final",
    )
