"""Classes that were never trained on: CPF against other embedding losses."""

from dataclasses import replace
from functools import partial

import numpy as np
from scipy.stats import loguniform, uniform

from _papers._chance import chance_levels, chance_of_f1
from _papers._compare import (
    Part,
    Plan,
    Row,
    Task,
    compare,
    compared,
    finished_pairs,
    report,
    trial_of,
)
from _papers._losses import loss_of, parted, trained_in
from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder
from sklearn_cbir.losses import CPF_CONSTANTS
from sklearn_cbir.metrics import (
    best_f1_radius,
    evaluate,
    per_class_thresholds,
    threshold_f1_curve,
)
from sklearn_cbir.model_selection import split_unseen_products

COMPONENTS = 128
RADII = np.linspace(0, 2, 401)  # 1 - cosine
BEST_F1, ONE_F1, KEPT = "best F1 of each class", "F1 at one threshold", "share kept"
COLUMNS = ("map_at_r", "recall@1", BEST_F1, ONE_F1, KEPT)
JUNK = ("map_at_r", "recall@1")
WITHOUT_JUNK = tuple(f"{name}, without junk" for name in JUNK)
RATES = loguniform(3e-4, 3e-2)  # of a network from scratch
PROXY_RATES = loguniform(1e-3, 1e-1)
# What the settings of every loss are drawn from: margins, scales, weights, and the rate of proxies.
RANGES = {
    "softmax": {},
    "contrastive": {
        "loss__margin": uniform(0.4, 0.8),
        "loss__similar_weight": [None, "balanced"],
    },
    "triplet": {"loss__margin": loguniform(0.05, 0.5)},
    "equal distances": {"loss__margin": uniform(0.6, 0.5)},
    "ArcFace": {
        "loss__scale": loguniform(4, 64),
        "loss__margin": uniform(5, 30),  # degrees
        "loss_lr": PROXY_RATES,
    },
    "ProxyNCA": {"loss__softmax_scale": loguniform(0.3, 32), "loss_lr": PROXY_RATES},
    "multi-similarity": {
        "loss__alpha": loguniform(1, 10),
        "loss__beta": loguniform(5, 60),
        "loss__base": uniform(0.3, 0.7),
    },
    "CPF": {
        "constants": ["cub", "shopee", "sop"],  # those of Cars are those of CUB
        "tau": [None, None, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # None: that of the constants, and psi
        "loss_lr": PROXY_RATES,
    },
}
OWN = {"equal distances": ("lrml", {"loss__step": 0.0})}  # LRML's, without steps
PML = {
    "ArcFace": "arcface",
    "ProxyNCA": "proxy_nca",
    "multi-similarity": "multi_similarity",
}
PROXIES = ("ArcFace", "ProxyNCA")
UNTRAINED = "untrained"
DECIDING = [("CPF", name) for name in RANGES if name != "CPF"]
PAIRS = [*DECIDING, ("CPF", UNTRAINED), ("softmax", UNTRAINED)]


def rows_of(n_classes, constants=None, pretrained=False):
    """Return one row per loss, CPF last; with `constants` CPF has these, and they are not drawn.

    Of a `pretrained` network the first row has the features as they are.
    """
    proxies = {"loss__num_classes": n_classes, "loss__embedding_size": COMPONENTS}
    as_it_is = partial(extractor, None, lr=1e-3, n_components=None)
    rows = [Row(UNTRAINED, as_it_is, seeds=1)] if pretrained else []
    for name, drawn in RANGES.items():
        loss, own = OWN.get(name, (PML.get(name, name), proxies if name in PROXIES else {}))
        make = partial(embedder) if name == "CPF" else partial(extractor, loss, **own)
        rows.append(Row(name, make, {"lr": RATES} | drawn))
    return rows if constants is None else [_given(row, constants) for row in rows]


def _given(row, constants):
    """Return a row with these constants, if it draws them."""
    if "constants" not in row.ranges:
        return row
    ranges = {name: of for name, of in row.ranges.items() if name != "constants"}
    return replace(row, make=partial(row.make, constants=constants), ranges=ranges)


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

    Of a set of published constants, `tau` takes the place of both of its bounds. Weights decay as
    in the other rows.
    """
    given = dict(CPF_CONSTANTS[constants]) if constants is not None else {}
    if tau is not None:
        given |= {"tau": tau, "psi": tau}
    return CPFEmbedder(
        COMPONENTS,
        threshold_fraction=0,
        weight_decay=CNNFeatureExtractor().weight_decay,
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
    """Return what one threshold, chosen on other classes, is worth for every class.

    What it keeps is a share of the best of each class: rows that find little lose little.
    """
    exclude, y, distances = _compared(task, task.tuning, estimator)
    curve = threshold_f1_curve(*y, distances, radii=RADII, exclude=exclude)
    radius, _ = best_f1_radius(RADII, curve)
    exclude, y, distances = _compared(task, part, estimator)
    found = per_class_thresholds(*y, distances, radii=RADII, radius=radius, exclude=exclude)
    best, one = found.f1, found.universal_f1
    return {
        "threshold": float(1 - radius),
        BEST_F1: float(best.mean()),
        ONE_F1: float(one.mean()),
        KEPT: float(one.mean() / best.mean()),
        "per_class": {ONE_F1: _rounded(one), KEPT: _rounded(one / best)},
    }


def _rounded(of):
    return np.round(of, 5).tolist()


def chance_of_thresholds(task, part):
    """Return the F1 where all distances are equal."""
    labels = task.y[part.asking], task.y[part.gallery]
    found = chance_of_f1(*labels, exclude=part.left_out)
    return {BEST_F1: found, ONE_F1: found}


def by_classes(results, measure):
    """Return the verdicts by a measure that every class has once."""
    pairs = finished_pairs(results, PAIRS)
    names = {name for pair in pairs for name in pair}
    scores = {name: np.array([r["per_class"][measure] for r in results[name]]) for name in names}
    return compared(measure, scores, pairs)


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


def run(cells, task, options, settings, constants=None, columns=COLUMNS, whole_trials=False):
    """Fill the table: every loss on the same net, trials, epochs and seeds."""
    n_classes = len(np.unique(task.y[task.final.train]))
    rows = rows_of(n_classes, constants, pretrained=settings["weights"] is not None)
    settings = {"batch_size": 90, "n_per_class": 2} | settings
    final = settings | {"max_epochs": options.epochs}
    short = settings | {"max_epochs": trial_of(options.epochs, task)}
    budgets = {"final": final, "tuning": final if whole_trials else short, "deciding": DECIDING}
    results = compare(cells, rows, task, Plan.of(options), **budgets)
    text = report(results, task, [*columns, "cpu_seconds"], first="loss", pairs=PAIRS)
    return "\n\n".join(filter(None, [text, *(by_classes(results, of) for of in (ONE_F1, KEPT))]))
