"""Classes that were never trained on: CPF against other embedding losses."""

from functools import partial

import numpy as np
from scipy.stats import loguniform, uniform

from _papers._chance import chance_levels, chance_of_f1
from _papers._compare import Part, Plan, Row, Task, compare, report, trial_of
from _papers._losses import loss_of, parted, trained_in
from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder
from sklearn_cbir.losses import CPF_CONSTANTS
from sklearn_cbir.metrics import (
    best_f1_radius,
    evaluate,
    per_class_thresholds,
    threshold_f1,
    threshold_f1_curve,
)
from sklearn_cbir.model_selection import split_unseen_products

COMPONENTS = 128
RADII = np.linspace(0, 2, 401)  # 1 - cosine
COLUMNS = ("map_at_r", "recall@1", "threshold_f1", "f1_lost", "threshold_spread")
JUNK = ("map_at_r", "recall@1")
WITHOUT_JUNK = tuple(f"{name}, without junk" for name in JUNK)
RATES = loguniform(3e-4, 3e-2)  # of a network from scratch
PROXY_RATES = loguniform(1e-3, 1e-1)
# What the settings of every loss are drawn from: margins and scales, and the rate of proxies.
RANGES = {
    "softmax": {},
    "contrastive": {"loss__margin": uniform(0.4, 0.8)},
    "triplet": {"loss__margin": loguniform(0.05, 0.5)},
    "ArcFace": {
        "loss__scale": [8.0, 16.0, 32.0, 64.0],
        "loss__margin": [6.0, 17.0, 29.0],  # degrees
        "loss_lr": PROXY_RATES,
    },
    "ProxyNCA": {"loss__softmax_scale": [1.0, 8.0, 16.0, 32.0], "loss_lr": PROXY_RATES},
    "multi-similarity": {
        "loss__alpha": [2.0, 5.0],
        "loss__beta": [10.0, 25.0, 50.0],
        "loss__base": uniform(0.3, 0.7),
    },
    "CPF": {
        "constants": ["cub", "shopee", "sop"],  # those of Cars are those of CUB
        "tau": uniform(0.2, 0.4),
        "loss_lr": PROXY_RATES,
    },
}
PML = {
    "ArcFace": "arcface",
    "ProxyNCA": "proxy_nca",
    "multi-similarity": "multi_similarity",
}
PROXIES = ("ArcFace", "ProxyNCA")
UNTRAINED = "untrained"
DECIDING = [("CPF", name) for name in RANGES if name != "CPF"]
PAIRS = [*DECIDING, ("CPF", UNTRAINED)]


def rows_of(n_classes, constants=None, pretrained=False):
    """Return one row per loss, CPF last; with `constants` CPF has these, and they are not drawn.

    Of a `pretrained` network the first row has the features as they are.
    """
    proxies = {"loss__num_classes": n_classes, "loss__embedding_size": COMPONENTS}
    as_it_is = partial(extractor, None, lr=1e-3, n_components=None)
    rows = [Row(UNTRAINED, as_it_is, seeds=1)] if pretrained else []
    for name, drawn in RANGES.items():
        ranges = {"lr": RATES} | drawn
        make = partial(extractor, PML.get(name, name), **(proxies if name in PROXIES else {}))
        if name == "CPF":
            make = partial(embedder)
            if constants is not None:
                make = partial(embedder, constants=constants)
                ranges.pop("constants")
        rows.append(Row(name, make, ranges))
    return rows


def extractor(loss, *, lr, seed, precision, n_components=COMPONENTS, **settings):
    """Return an embedding under any loss."""
    of_loss, settings = parted(settings)
    return CNNFeatureExtractor(
        loss=loss_of(loss, of_loss, seed),
        n_components=n_components,
        lr=lr,
        random_state=seed,
        verbose=1,
        **trained_in(precision),
        **settings,
    )


def embedder(*, lr, seed, precision, constants=None, tau=None, **settings):
    """Return CPF's embedding; the classes that choose the threshold are held out for all rows.

    Of a set of published constants, `tau` takes the place of both of its bounds.
    """
    given = dict(CPF_CONSTANTS[constants]) if constants is not None else {}
    if tau is not None:
        given |= {"tau": tau, "psi": tau}
    return CPFEmbedder(
        COMPONENTS,
        threshold_fraction=0,
        lr=lr,
        random_state=seed,
        verbose=1,
        **trained_in(precision),
        **given,
        **settings,
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
        finish_chance=chance_of_thresholds,
        by_class=True,
    )


def products_task(groceries):
    """Return the task on Grocery Store: test photos of unseen products ask the training photos."""
    parts = {"train": groceries.train, "test": groceries.test}
    split = split_unseen_products(groceries.target, groceries.coarse_target, **parts)
    chosen = split.validation
    coarse = groceries.coarse_target
    return Task(
        inputs={"images": groceries.data},
        y=groceries.target,
        tuning=Part(split.train, chosen.gallery, chosen.query),
        final=Part(split.train, split.gallery, split.query),
        scoring=("map_at_r", "recall@1", "map"),
        finish=partial(of_products, coarse),
        finish_chance=partial(chance_of_products, coarse),
        by_class=True,
    )


def junk(task, part, coarse):
    """Return, per query, the rows of the gallery of its coarse class and another product."""
    gallery, y = part.gallery, task.y
    alike = [
        (coarse[gallery] == coarse[row]) & (y[gallery] != y[row]) for row in part.queries.tolist()
    ]
    return [np.flatnonzero(row) for row in alike]


def of_products(coarse, task, part, estimator):
    """Return what one threshold is worth, and the scores without junk."""
    exclude, y, distances = _compared(task, part, estimator)
    exclude = junk(task, part, coarse)
    found = {
        of: float(evaluate(name, *y, distances, exclude=exclude))
        for name, of in zip(JUNK, WITHOUT_JUNK)
    }
    return found | thresholds(task, part, estimator)


def chance_of_products(coarse, task, part):
    """Return what these are for a row that knows nothing."""
    labels = task.y[part.asking], task.y[part.gallery]
    found = chance_levels(*labels, JUNK, exclude=junk(task, part, coarse))
    return dict(zip(WITHOUT_JUNK, found.values())) | chance_of_thresholds(task, part)


def thresholds(task, part, estimator):
    """Return what one threshold, chosen on other classes, is worth, and how classes differ.

    What one threshold loses against the best of every class has no scale, which the spread of the
    best ones has.
    """
    exclude, y, distances = _compared(task, task.tuning, estimator)
    curve = threshold_f1_curve(*y, distances, radii=RADII, exclude=exclude)
    radius, _ = best_f1_radius(RADII, curve)
    exclude, y, distances = _compared(task, part, estimator)
    per_class = per_class_thresholds(*y, distances, radii=RADII, radius=radius, exclude=exclude)
    return {
        "threshold": float(1 - radius),
        "threshold_f1": float(threshold_f1(*y, distances, radius=radius, exclude=exclude)),
        "f1_lost": float(per_class.f1.mean() - per_class.universal_f1.mean()),
        "threshold_spread": per_class.spread,
    }


def chance_of_thresholds(task, part):
    """Return these where all distances are equal."""
    labels = task.y[part.asking], task.y[part.gallery]
    found = chance_of_f1(*labels, exclude=part.left_out)
    return {"threshold_f1": found, "f1_lost": 0.0, "threshold_spread": 0.0}


class CosineDistances:
    """Cosine distances of rows of length 1 to others, computed when they are read.

    All at once, those of the 60,502 test photos of SOP would fill 15 GB.
    """

    def __init__(self, rows, gallery):
        self.rows = rows
        self.gallery = gallery
        self.shape = len(rows), len(gallery)

    def __getitem__(self, rows):
        return np.clip(1 - self.rows[rows] @ self.gallery.T, 0, 2)


def _compared(task, part, estimator):
    """Return what is not ranked, the labels of queries and gallery, and the cosine distances."""
    gallery = asked = estimator.transform(task.take("images", part.gallery))
    if part.queries is not None:
        asked = estimator.transform(task.take("images", part.queries))
    labels = task.y[part.asking], task.y[part.gallery]
    return part.left_out, labels, CosineDistances(asked, gallery)


def run(cells, task, options, settings, constants=None, columns=COLUMNS):
    """Fill the table: every loss on the same net, trials, epochs and seeds."""
    n_classes = len(np.unique(task.y[task.final.train]))
    rows = rows_of(n_classes, constants, pretrained=settings["weights"] is not None)
    settings = {"batch_size": 90, "n_per_class": 2} | settings
    tuning = settings | {"max_epochs": trial_of(options.epochs, task)}
    final = settings | {"max_epochs": options.epochs}
    budgets = {"final": final, "tuning": tuning, "deciding": DECIDING}
    results = compare(cells, rows, task, Plan.of(options), **budgets)
    return report(results, task, [*columns, "cpu_seconds"], first="loss", pairs=PAIRS)
