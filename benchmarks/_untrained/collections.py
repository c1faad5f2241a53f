"""The collections of photos that the encoders search, each with its protocol."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from _data import fingerprint
from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.datasets import load_holidays, load_image_folder
from sklearn_cbir.metrics import precision_at_k, trapezoid_mean_average_precision

FIRST_UNSEEN = 41  # of Grocery's products 0 to 80: those before it are for training
COLUMNS = ("map", "precision@1")


@dataclass(frozen=True)
class Collection:
    """Photos, and ``score(rows, rerank)``: mAP and P@1 of their vectors."""

    name: str
    photos: np.ndarray
    score: Callable
    content: str  # short name of photos and labels


def leave_one_out(y, rows, rerank=None):
    """Every photo asks for the others of its label."""
    retriever = NeighborsRetriever(rerank=rerank, rerank_depth=len(rows))
    results = retriever.fit(rows, y).evaluate(scoring=list(COLUMNS))
    return {name: float(results[name].score) for name in COLUMNS}


def labelled(name, photos, y):
    return Collection(name, photos, partial(leave_one_out, y), fingerprint(photos, y))


def photos_of(folder):
    """Return any photos in one sub-folder a label."""
    photos = load_image_folder(folder)
    return labelled("photos", photos.data, photos.target)


def grocery(folder):
    """Return the test photos of Grocery Store's products that are for nothing but tests.

    ``test.csv`` lists path, product and kind of product.
    """
    with open(Path(folder, "test.csv"), newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["fine"]) >= FIRST_UNSEEN]
    photos = np.array([str(Path(folder, row["path"])) for row in rows])
    return labelled("Grocery", photos, np.array([int(row["fine"]) for row in rows]))


def holidays(folder):
    """Return Holidays: a query of every group, itself its junk, trapezoids."""
    data = load_holidays(folder)
    y = data.target

    def score(rows, rerank=None):
        if rerank is not None:
            raise SystemExit("--rerank is not part of Holidays' protocol. Leave out --holidays.")
        rows = np.asarray(rows, dtype=np.float64)
        asked = y[data.query], y, 1 - rows[data.query] @ rows.T
        return {
            "map": float(trapezoid_mean_average_precision(*asked, exclude=data.query)),
            "precision@1": float(precision_at_k(*asked, k=1, exclude=data.query)),
        }

    return Collection("Holidays", data.data, score, fingerprint(data.data, y))


COLLECTIONS = {"photos": photos_of, "grocery": grocery, "holidays": holidays}
