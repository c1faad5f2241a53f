"""LRML on photos of places: Oxford5k, Paris6k and Holidays, with their own protocols."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from _data import fingerprint
from _papers import squared_hinge
from _papers._compare import Part, Row, Task, choose_rate, described
from _papers.lrml import LOSSES
from sklearn_cbir.datasets import crop_images, load_holidays, load_oxford5k, load_paris6k
from sklearn_cbir.metrics import trapezoid_mean_average_precision
from sklearn_cbir.whitening import LearnedWhitening

SCALES = (1.0, 2**-0.5, 0.5)
RATES = (1e-4, 3e-4, 1e-3)
COLUMNS = ("map", "map_whitened")


@dataclass(frozen=True)
class Place:
    """What is searched, what asks, and the official score of their distances."""

    gallery: np.ndarray
    read_queries: Callable
    score: Callable
    content: str  # short name of the images and their labels


def buildings(load, folder):
    """Return Oxford5k or Paris6k: junk is not ranked, trapezoids."""
    data = load(folder)

    def score(distances):
        return trapezoid_mean_average_precision(
            data.query_target, data.target, distances, exclude=data.junk
        )

    def queries():
        return crop_images(data.query_data, data.query_boxes)

    content = fingerprint(data.data, data.target, data.query, data.query_boxes, data.junk)
    return Place(data.data, queries, score, content)


def holidays(folder):
    """Return Holidays, or the part that is there: the query itself is not ranked, trapezoids."""
    data = load_holidays(folder, skip_missing=True)
    y_queries = data.target[data.query]

    def score(distances):
        return trapezoid_mean_average_precision(
            y_queries, data.target, distances, exclude=data.query
        )

    content = fingerprint(data.data, data.target)
    return Place(data.data, lambda: data.data[data.query], score, content)


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
    return {
        "map": float(place.score(1 - queries @ rows.T)),
        "map_whitened": float(
            place.score(1 - whitening.transform(queries) @ whitening.transform(rows).T)
        ),
        "losses": [round(epoch["loss"], 5) for epoch in network.history_],
    }


def run(cells, name, photos, options):
    """Fill the table: every loss with GeM pooling and three scales, with and without whitening."""
    place = PLACES[name](options.data)
    ((backbone, weights), *_) = squared_hinge.networks(options).items()
    network = partial(squared_hinge.extractor, pooling="gem", scales=SCALES)
    budgets = squared_hinge.settings_of(options, backbone, weights, head=0)  # there is none
    rows = [Row("untrained", partial(network, None))]
    rows += [
        Row(loss, partial(network, LOSSES[loss], sampling="mined"), options.rates or RATES)
        for loss in LOSSES
    ]
    task = training_task(photos)
    results = {}
    for row in rows:
        with cells.row(row.name):
            lr = choose_rate(cells, row, task, "", budgets["tuning"])
            at = {} if lr is None else {"lr": lr}
            results[row.name] = [
                _final(cells, row, photos, place, budgets["final"] | {"seed": seed} | at)
                for seed in range(options.seeds if at else 1)
            ]
    return results


def _final(cells, row, photos, place, settings):
    """Return the cell of a row that trains on all photos."""
    at = f", lr={settings['lr']:g}" if "lr" in settings else ""
    data = [place.content, fingerprint(photos.data, photos.target)]
    return cells.run(
        f"{row.name}{at}, seed {settings['seed']}",
        measure,
        row.make,
        photos,
        place,
        settings,
        settings=described(row.make, settings, data=data),
    )
