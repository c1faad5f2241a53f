"""Classes that were never trained on: CPF against other embedding losses."""

from functools import partial

import numpy as np

from _papers._compare import Part, Row, Task, compare
from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder
from sklearn_cbir.metrics import (
    best_f1_radius,
    per_class_thresholds,
    threshold_f1,
    threshold_f1_curve,
)

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
COMPONENTS = 128
RADII = np.linspace(0, 2, 401)  # 1 - cosine
COLUMNS = ("recall@1", "map_at_r", "threshold_f1", "threshold_spread")


def others(n_classes):
    """Return losses of pytorch-metric-learning by name, with its own defaults."""
    from pytorch_metric_learning import losses

    proxies = {"num_classes": n_classes, "embedding_size": COMPONENTS}
    return {
        "ArcFace": losses.ArcFaceLoss(**proxies),
        "ProxyNCA": losses.ProxyNCALoss(**proxies),
        "multi-similarity": losses.MultiSimilarityLoss(),
    }


def rows_of(n_classes, rates, constants):
    """Return one row per loss, CPF last."""
    named = {"softmax": "softmax", "contrastive": "contrastive", "triplet": "triplet"}
    named |= others(n_classes)
    rows = [Row(name, partial(extractor, loss), rates) for name, loss in named.items()]
    return [*rows, Row("CPF", partial(embedder, constants), rates)]


def extractor(loss, *, lr, seed, **settings):
    """Return an embedding under any loss."""
    return CNNFeatureExtractor(
        loss=loss, n_components=COMPONENTS, lr=lr, random_state=seed, **settings
    )


def embedder(constants, *, lr, seed, **settings):
    """Return CPF's embedding; the classes that choose the threshold are held out for all rows."""
    return CPFEmbedder(
        COMPONENTS, threshold_fraction=0, lr=lr, random_state=seed, **constants, **settings
    )


def task_of(images, y, unseen):
    """Return the task; a fifth of the seen classes chooses the rate and the threshold."""
    seen = np.unique(y[~unseen])
    n_validation = max(2, round(len(seen) / 5))
    validation = np.random.default_rng(0).permutation(seen)[:n_validation]
    held_out = np.isin(y, validation)
    train = np.flatnonzero(~unseen & ~held_out)
    return Task(
        inputs={"images": images},
        y=y,
        tuning=Part(train, np.flatnonzero(held_out)),
        final=Part(train, np.flatnonzero(unseen)),
        scoring=("map_at_r", "recall@1", "map"),
        finish=thresholds,
    )


def thresholds(task, part, estimator):
    """Return what one threshold, chosen on other classes, is worth, and how classes differ."""
    own, y, distances = _compared(task, task.tuning.gallery, estimator)
    curve = threshold_f1_curve(y, y, distances, radii=RADII, exclude=own)
    radius, _ = best_f1_radius(RADII, curve)
    own, y, distances = _compared(task, part.gallery, estimator)
    per_class = per_class_thresholds(y, y, distances, radii=RADII, radius=radius, exclude=own)
    return {
        "threshold": float(1 - radius),
        "threshold_f1": float(threshold_f1(y, y, distances, radius=radius, exclude=own)),
        "threshold_spread": per_class.spread,
    }


class CosineDistances:
    """Cosine distances of rows of length 1 among themselves, computed when they are read.

    All at once, those of the 60,502 test photos of SOP would fill 15 GB.
    """

    def __init__(self, rows):
        self.rows = rows
        self.shape = len(rows), len(rows)

    def __getitem__(self, rows):
        return np.clip(1 - self.rows[rows] @ self.rows.T, 0, 2)


def _compared(task, rows, estimator):
    """Return which row is the query itself, the labels and the cosine distances."""
    embeddings = estimator.transform(task.take("images", rows))
    return np.arange(len(rows)), task.y[rows], CosineDistances(embeddings)


def run(cells, task, options, settings, constants=None):
    """Fill the table: every loss on the same net, trials, epochs and seeds."""
    n_classes = len(np.unique(task.y[task.final.train]))
    rows = rows_of(n_classes, options.rates or RATES, constants or {})
    settings = {"max_epochs": options.epochs, "batch_size": 90, "n_per_class": 2} | settings
    return compare(cells, rows, task, seeds=options.seeds, final=settings)
