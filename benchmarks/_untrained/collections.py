"""The collections of photos that the encoders search, each with its protocol."""

import csv
import json
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
    y: np.ndarray  # the label of every photo
    queries: np.ndarray  # positions of the photos that ask


def leave_one_out(y, rows, rerank=None):
    """Every photo asks for the others of its label."""
    retriever = NeighborsRetriever(rerank=rerank, rerank_depth=len(rows))
    results = retriever.fit(rows, y).evaluate(scoring=list(COLUMNS))
    return {name: float(results[name].score) for name in COLUMNS}


def labelled(name, photos, y):
    content, queries = fingerprint(photos, y), np.arange(len(y))
    return Collection(name, photos, partial(leave_one_out, y), content, np.asarray(y), queries)


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
    """Return Holidays: a query of every group, itself its junk, trapezoids.

    A part of the collection lists its queries and their junk in ``gnd.json``.
    """
    listed = Path(folder, "gnd.json")
    photos, y, query, junk = listed_places(listed) if listed.exists() else whole_holidays(folder)

    def score(rows, rerank=None):
        if rerank is not None:
            raise SystemExit("--rerank is not part of Holidays' protocol. Leave out --holidays.")
        rows = np.asarray(rows, dtype=np.float64)
        asked = y[query], y, 1 - rows[query] @ rows.T
        return {
            "map": float(trapezoid_mean_average_precision(*asked, exclude=junk)),
            "precision@1": float(precision_at_k(*asked, k=1, exclude=junk)),
        }

    content = fingerprint(photos, y, query, junk)
    return Collection("Holidays", photos, score, content, y, query)


def whole_holidays(folder):
    data = load_holidays(folder)
    junk = data.query[:, None] == np.arange(len(data.data))
    return data.data, data.target, data.query, junk


def listed_places(file):
    """Return photos, their places, the rows that ask and their junk (n_queries, n_photos)."""
    content = json.loads(file.read_text())
    names, queries = content["images"], content["queries"]
    paths = {path.name: str(path) for path in file.parent.rglob("*.jpg")}
    photos = np.array([paths[name] for name in names])
    place = np.array([int(name.removesuffix(".jpg")) // 100 for name in names])
    query = np.array([names.index(entry["query"]) for entry in queries])
    junk = np.array([np.isin(names, entry["junk"]) for entry in queries])
    return photos, place, query, junk


COLLECTIONS = {"photos": photos_of, "grocery": grocery, "holidays": holidays}


def add_folders(parser):
    """Let a command take the folder of each collection."""
    for name in COLLECTIONS:
        parser.add_argument(f"--{name}", type=Path, help="folder of these photos")


def load_given(parser, options):
    """Load the collections whose folders were given; end the command if none was."""
    folders = {name: getattr(options, name) for name in COLLECTIONS}
    if not any(folders.values()):
        parser.error(f"give at least one of {', '.join(f'--{name}' for name in COLLECTIONS)}")
    return [COLLECTIONS[name](folder) for name, folder in folders.items() if folder]
