"""Images with several labels: similarity in levels against similar or not."""

from dataclasses import replace
from functools import partial

import numpy as np
from scipy.stats import loguniform

from _papers._compare import Part, Plan, Row, Task, compare, report, trial_of
from _papers._losses import loss_of, parted, trained_in
from sklearn_cbir import DeepHasher

RANGES = {
    "lr": loguniform(3e-4, 3e-2),
    "loss__quantization_weight": loguniform(1e-2, 1),
    "loss__beta": loguniform(1, 40),
}
COLUMNS = ("map", "ndcg@100", "acg@100", "wmap")
BINARY = {"loss__similarity": "binary"}
ALIKE = {"loss__similar_weight": "balanced"}
BOTH = "both kinds alike"
LOSSES = {
    "binary similarity": BINARY,
    f"binary similarity, {BOTH}": BINARY | ALIKE,
    "multi-level, IDHN form": {"loss__form": "idhn"},
    f"multi-level, IDHN form, {BOTH}": {"loss__form": "idhn"} | ALIKE,
    "multi-level, ISDH form": {"loss__form": "isdh"},
    "multi-level, cosine form": {"loss__form": "cosine"},
}
UNUSED = {"multi-level, cosine form": "loss__beta"}  # which its equation does not have
PAIRS = [(name, other) for name in [*LOSSES][2:] for other in [*LOSSES][:2]]


def mosaics(images, y, n, *, repeats, seed, tiles=(2, 2)):
    """Return `n` tilings, uint8 (n, 2 h, 2 w, 3) of four images, and their 0/1 labels.

    `tiles` are rows and columns. Without `repeats` every image is used at most once.
    """
    rng = np.random.default_rng(seed)
    n_rows, n_columns = tiles
    size = n * n_rows * n_columns
    rows = rng.integers(len(y), size=size) if repeats else rng.permutation(len(y))[:size]
    rows = rows.reshape(n, n_rows, n_columns)
    tiled = images[rows]  # (n, rows, columns, h, w, 3)
    height, width = images.shape[1:3]
    joined = tiled.transpose(0, 1, 3, 2, 4, 5).reshape(n, n_rows * height, n_columns * width, 3)
    labels = (y[rows].reshape(n, -1, 1) == np.arange(y.max() + 1)).any(axis=1)
    return joined, labels.astype(np.uint8)


def mosaic_task(train, test, *, n_train, n_gallery, n_queries, tiles=(2, 2)):
    """Return the task on mosaics: those that ask and are searched show images never trained on.

    Nor do those that ask where settings are chosen show what trains then.
    """
    (images, y), (test_images, y_test) = train, test
    rng = np.random.default_rng(0)
    n_tiles = tiles[0] * tiles[1]
    asking, searched = np.split(rng.permutation(len(y_test)), [n_tiles * n_queries])
    chosen, kept = np.split(rng.permutation(len(y)), [min(n_tiles * n_queries, len(y) // 5)])
    n_chosen = len(chosen) // n_tiles
    how = {"tiles": tiles}
    parts = [
        mosaics(images[kept], y[kept], n_train, repeats=True, seed=1, **how),
        mosaics(test_images[searched], y_test[searched], n_gallery, repeats=True, seed=2, **how),
        mosaics(test_images[asking], y_test[asking], n_queries, repeats=False, seed=3, **how),
        mosaics(images[chosen], y[chosen], n_chosen, repeats=False, seed=4, **how),
    ]
    ends = np.cumsum([len(part[1]) for part in parts])
    training, gallery, queries, choosing = np.split(np.arange(ends[-1]), ends[:-1])
    joined = (np.concatenate(values) for values in zip(*parts))
    task = task_of(*joined, training, gallery, queries)
    return replace(task, tuning=Part(training, training, choosing))


def task_of(images, y, train, gallery, queries, *, scoring=COLUMNS):
    """Return the task; a tenth of the training images asks the others when rates are chosen."""
    rows = np.random.default_rng(0).permutation(train)
    asking, kept = np.split(rows, [max(2, len(train) // 10)])
    return Task(
        inputs={"images": images},
        y=y,
        tuning=Part(np.sort(kept), np.sort(kept), np.sort(asking)),
        final=Part(train, gallery, queries),
        scoring=scoring,
        metric="hamming",
    )


def hasher(loss, *, lr, seed, precision, **settings):
    """Return codes under one of the losses."""
    of_loss, settings = parted(settings)
    return DeepHasher(
        48,
        loss=loss_of(loss, of_loss, seed),
        lr=lr,
        random_state=seed,
        verbose=1,
        **trained_in(precision),
        **settings,
    )


def _ranges(name):
    return {of: values for of, values in RANGES.items() if of != UNUSED.get(name)}


def run(cells, task, options, settings):
    """Fill the table: the same net, trials, epochs and seeds for every similarity."""
    rows = [
        Row(name, partial(hasher, "multilevel", **own), _ranges(name))
        for name, own in LOSSES.items()
    ]
    settings = {"batch_size": 128, "backbone": options.backbone} | settings
    tuning = settings | {"max_epochs": trial_of(options.epochs, task)}
    final = settings | {"max_epochs": options.epochs}
    budgets = {"final": final, "tuning": tuning, "deciding": PAIRS}
    results = compare(cells, rows, task, Plan.of(options), **budgets)
    columns = [*task.scoring, "cpu_seconds"]
    return report(results, task, columns, first="similarity", pairs=PAIRS)
