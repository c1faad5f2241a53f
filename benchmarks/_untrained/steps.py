"""What each step of a search without training is worth, each chosen before the next one."""

import time
from dataclasses import dataclass, replace
from functools import partial

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid

from _data import fingerprint
from _papers._chance import chance_levels
from _untrained.encoders import of_encoder
from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.datasets import load_grocery, load_holidays, load_image_folder
from sklearn_cbir.model_selection import split_unseen_products
from sklearn_cbir.pooling import GeMPooling
from sklearn_cbir.reranking import (
    AlphaQueryExpansion,
    AverageQueryExpansion,
    DiffusionReranker,
    KReciprocalReranker,
)
from sklearn_cbir.whitening import LearnedWhitening

CUT = 7 / 8  # of a photo's side is kept where a photo is cut beyond the square
EXPONENTS = (2.0, 3.0, 4.0, 5.0)
SCALES = ((1.0,), (1.0, 2**-0.5), (1.0, 2**0.5), (1.0, 2**-0.5, 0.5), (2**0.5, 1.0, 2**-0.5))
SHRINKAGES = (0.1, 0.5, 0.9)
DEPTH = 100  # results that are ranked again
RERANKERS = {
    "average query expansion": (AverageQueryExpansion(), {"n_neighbors": [1, 2, 3, 5, 10]}),
    "alpha query expansion": (
        AlphaQueryExpansion(),
        {"n_neighbors": [3, 5, 10, 20], "alpha": [1.0, 3.0]},
    ),
    "k-reciprocal": (
        KReciprocalReranker(),
        {"n_neighbors": [5, 10, 20], "distance_weight": [0.3, 0.6, 0.8]},
    ),
    "diffusion": (DiffusionReranker(), {"n_neighbors": [5, 10, 20], "n_sources": [1, 3, 5]}),
}
TIMED = 50  # queries
PHOTOS_TIMED, ROUNDS = 8, 5
CANDIDATES = {
    "cut": CUT,
    "pooling": EXPONENTS,
    "scales": SCALES,
    "shrinkage": SHRINKAGES,
    "rerankers": {name: grid for name, (_, grid) in RERANKERS.items()},
    "depth": DEPTH,
}
QUICK, QUICK_OF_LABEL = 10, 6  # labels, and photos of each
UNSEEN = "Grocery, unseen"


@dataclass(frozen=True)
class Learned:
    """Photos and labels from which whitening learns."""

    photos: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Searched:
    """Photos that ask and are searched; a query of the gallery does not find itself."""

    name: str
    photos: np.ndarray
    y: np.ndarray
    query: np.ndarray
    gallery: np.ndarray
    scoring: str = "map"

    @property
    def content(self):
        """A short name of what is searched."""
        return fingerprint(self.photos, self.y, self.query, self.gallery, self.scoring)

    def reduced(self):
        """Return a few photos of a few labels."""
        labels = some_labels(self.y[self.query])
        parts = [rows[some(self.y[rows], labels)] for rows in (self.query, self.gallery)]
        kept = np.union1d(*parts)
        query, gallery = (np.searchsorted(kept, part) for part in parts)
        return replace(self, photos=self.photos[kept], y=self.y[kept], query=query, gallery=gallery)

    @property
    def asking(self):
        """The queries that have something to find."""
        y = self.y[self.query].tolist()
        labels, counts = np.unique(self.y[self.gallery], return_counts=True)
        n_found = dict(zip(labels.tolist(), counts.tolist()))
        own = np.isin(self.query, self.gallery)
        return self.query[[n_found.get(label, 0) > is_own for label, is_own in zip(y, own)]]

    def asked(self, rows, rerank=None):
        """Return the retriever, and its queries: rows, labels and who they are in the gallery."""
        retriever = NeighborsRetriever(rerank=rerank, rerank_depth=DEPTH, algorithm="exact")
        retriever.fit(rows[self.gallery], self.y[self.gallery], ids=self.gallery)
        queries = {"X": rows[self.asking], "y": self.y[self.asking]}
        own = np.isin(self.asking, self.gallery)
        if own.any():
            if not own.all():
                raise ValueError(f"{self.name}: some queries are in the gallery and some are not.")
            queries["ids"] = self.asking
        return retriever, queries

    def chance(self):
        """Return the average precision of an order that knows nothing."""
        exclude = None
        if np.isin(self.asking, self.gallery).all():  # a query does not find itself
            exclude = np.argmax(self.asking[:, None] == self.gallery, axis=1)
        labels = self.y[self.asking], self.y[self.gallery]
        return chance_levels(*labels, [self.scoring], exclude=exclude)[self.scoring]

    def scores(self, rows, rerank=None):
        """Return the average precision of every query that has something to find."""
        retriever, queries = self.asked(rows, rerank)
        return retriever.evaluate(**queries, scoring=self.scoring).per_query

    def milliseconds(self, rows, rerank=None):
        """Return the processor time of a query, asked alone, the median of some."""
        retriever, queries = self.asked(rows, rerank)
        times = []
        for row in queries["X"][:TIMED, None]:
            started = time.process_time()
            retriever.kneighbors(row, n_neighbors=min(DEPTH, len(self.gallery)))
            times.append(1000 * (time.process_time() - started))
        return float(np.median(times))


def load(options):
    """Return what whitening learns from, the sets that choose, and those that ask.

    Of Grocery Store's seen products 8 choose and the rest is learned from; so are the two halves
    of the clothing photos for training.
    """
    train = load_image_folder(options.clothing / "train")  # in an order drawn by a seed
    half = len(train.data) // 2
    groceries = load_grocery(options.grocery)
    parts = {"train": groceries.train, "test": groceries.test}
    split = split_unseen_products(groceries.target, groceries.coarse_target, **parts)
    learned = Learned(
        np.concatenate([train.data[:half], groceries.data[split.train]]),
        np.concatenate([train.target[:half], groceries.target[split.train].astype(str)]),
    )
    choosing = [
        leave_one_out("clothing/train", train.data[half:], train.target[half:]),
        of_split("Grocery, seen", groceries, split.validation),
    ]
    asking = [of_split(UNSEEN, groceries, split)]
    photos = load_image_folder(options.clothing / "validation")
    asking.append(leave_one_out("clothing", photos.data, photos.target))
    if options.holidays is not None:
        places = load_holidays(options.holidays, skip_missing=True)
        every = np.arange(len(places.data))
        rows = places.query, every
        asking.append(Searched("Holidays", places.data, places.target, *rows, "trapezoid_map"))
    if options.quick:
        rows = some(learned.y, some_labels(learned.y))
        learned = Learned(learned.photos[rows], learned.y[rows])
        choosing, asking = ([part.reduced() for part in parts] for parts in (choosing, asking))
    return learned, choosing, asking


def leave_one_out(name, photos, y):
    every = np.arange(len(y))
    return Searched(name, photos, np.asarray(y), every, every)


def of_split(name, groceries, split):
    rows = np.concatenate([split.query, split.gallery])
    every = np.arange(len(rows))
    query, gallery = np.split(every, [len(split.query)])
    return Searched(name, groceries.data[rows], groceries.target[rows], query, gallery)


def some_labels(y):
    """Return a few labels, drawn by a seed."""
    return np.random.default_rng(0).permutation(np.unique(y))[:QUICK]


def some(y, labels):
    """Return a few rows of each of these labels."""
    rows = [np.flatnonzero(y == label)[:QUICK_OF_LABEL] for label in labels]
    return np.sort(np.concatenate(rows))


@dataclass(frozen=True)
class Way:
    """How a photo becomes a vector: cut, pooled, seen at several scales."""

    cut: bool = False
    pooling: str | float = "auto"
    scales: tuple = (1.0,)

    def network(self, encoder, weights, photos, device):
        """Return the extractor, which learns nothing."""
        size = encoder.image_size
        pooling = GeMPooling(self.pooling) if isinstance(self.pooling, float) else self.pooling
        return CNNFeatureExtractor(
            encoder.backbone,
            weights=weights,
            loss=None,
            pooling=pooling,
            image_size=size,
            resize_size=round(size / CUT) if self.cut else size,
            scales=self.scales,
            batch_size=32,
            words=False,
            device=device,
        ).fit(photos[:1])


class Ladder:
    """The steps of one encoder; vectors are kept in a folder and not computed again."""

    def __init__(self, encoder, weights, data, folder, device="cpu"):
        self.encoder, self.weights, self.device = encoder, weights, device
        self.learned, self.choosing, self.asking = data
        self.folder = folder
        self.rows = []

    def run(self):
        """Return the rows of the table, as plain values."""
        way, whitening, reranker = Way(), None, None
        self._add("as it is", "", [], way, whitening, reranker)
        for step, field, values in (
            ("cut", "cut", (False, True)),
            ("pooling", "pooling", ("auto", *EXPONENTS, "max")),
            ("scales", "scales", SCALES),
        ):
            ways = [replace(way, **{field: value}) for value in values]
            best, trials = self._choose([(of, None, None) for of in ways])
            way = ways[best]
            self._add(step, _shown(values[best]), trials, way, whitening, reranker)
        whitenings = [None, *map(partial(self._whitening, way), SHRINKAGES)]
        best, trials = self._choose([(way, of, None) for of in whitenings])
        whitening = whitenings[best]
        chosen = "none" if whitening is None else f"shrinkage {whitening.shrinkage}"
        self._add("whitening", chosen, trials, way, whitening, reranker)
        for name, (kind, grid) in RERANKERS.items():
            settings = list(ParameterGrid(grid))
            rerankers = [clone(kind).set_params(**setting) for setting in settings]
            best, trials = self._choose([(way, whitening, of) for of in rerankers])
            self._add(name, _shown(settings[best]), trials, way, whitening, rerankers[best])
        return {"rows": self.rows}

    def _choose(self, candidates):
        """Return the best of several ways, the first among equals, and the score of each."""
        trials = [
            float(
                np.mean([of.scores(self._vectors(of, *how), rerank).mean() for of in self.choosing])
            )
            for *how, rerank in candidates
        ]
        return int(np.argmax(trials)), trials

    def _add(self, step, chosen, trials, way, whitening, reranker):
        found = {}
        for of in self.asking:
            rows = self._vectors(of, way, whitening)
            found[of.name] = {
                "scores": np.round(of.scores(rows, reranker), 5).tolist(),
                "ms": of.milliseconds(rows, reranker),
            }
        ms = self._milliseconds(way, whitening)
        trials = [round(trial, 5) for trial in trials]
        self.rows.append(
            {"step": step, "chosen": chosen, "trials": trials, "asked": found, "ms": ms}
        )
        means = {name: round(float(np.mean(of["scores"])), 4) for name, of in found.items()}
        print(f"  {step} {chosen}: {means}", flush=True)

    def _whitening(self, way, shrinkage):
        rows = self._encoded(self.learned.photos, way)
        return LearnedWhitening(shrinkage=shrinkage).fit(rows, self.learned.y)

    def _vectors(self, of, way, whitening):
        rows = self._encoded(of.photos, way)
        return rows if whitening is None else whitening.transform(rows)

    def _encoded(self, photos, way):
        key = joblib.hash([of_encoder(self.encoder, self.weights), way, fingerprint(photos)])
        file = self.folder / f"{key[:16]}.npy"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            network = way.network(self.encoder, self.weights, photos, self.device)
            part = file.with_suffix(".part.npy")
            np.save(part, network.transform(photos))
            part.replace(file)
        return np.load(file)

    def _milliseconds(self, way, whitening):
        """Return the processor time of a photo, read, encoded and whitened: a median of rounds."""
        photos = self.asking[0].photos[:PHOTOS_TIMED]
        network = way.network(self.encoder, self.weights, photos, self.device)
        times = []
        for _ in range(ROUNDS):
            started = time.process_time()
            rows = network.transform(photos)
            if whitening is not None:
                whitening.transform(rows)
            times.append(1000 * (time.process_time() - started) / len(photos))
        return float(np.median(times))


def _shown(value):
    """Return what was chosen as text."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={_shown(one)}" for name, one in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "cut" if value else "whole square"
    return value if isinstance(value, str) else f"{value:.3g}"
