"""Images with several labels: similarity in levels against similar or not."""

from functools import partial

import numpy as np

from _papers._compare import Part, Row, Task, compare
from sklearn_cbir import DeepHasher
from sklearn_cbir.losses import MultilevelLoss

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
COLUMNS = ("map", "ndcg@100", "acg@100", "wmap")
LOSSES = {
    "binary similarity": MultilevelLoss(similarity="binary"),
    "binary similarity, both kinds alike": MultilevelLoss(
        similarity="binary", similar_weight="balanced"
    ),
    "multi-level, IDHN form": MultilevelLoss("idhn"),
    "multi-level, ISDH form": MultilevelLoss("isdh"),
    "multi-level, cosine form": MultilevelLoss("cosine"),
}


def mosaics(images, y, n, *, repeats, seed):
    """Return `n` tilings of four images, uint8 (n, 2 h, 2 w, 3), and their 0/1 labels.

    Without `repeats` every image is used at most once.
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(y), size=4 * n) if repeats else rng.permutation(len(y))[: 4 * n]
    rows = rows.reshape(n, 2, 2)
    tiles = images[rows]  # (n, 2, 2, h, w, 3)
    height, width = images.shape[1:3]
    joined = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * height, 2 * width, 3)
    labels = (y[rows].reshape(n, 4, 1) == np.arange(y.max() + 1)).any(axis=1)
    return joined, labels.astype(np.uint8)


def mosaic_task(train, test, *, n_train, n_gallery, n_queries):
    """Return the task on mosaics: those that ask and are searched show images never trained on."""
    images, y = train
    test_images, y_test = test
    order = np.random.default_rng(0).permutation(len(y_test))
    asking, searched = np.split(order, [4 * n_queries])
    parts = [
        mosaics(images, y, n_train, repeats=True, seed=1),
        mosaics(test_images[searched], y_test[searched], n_gallery, repeats=True, seed=2),
        mosaics(test_images[asking], y_test[asking], n_queries, repeats=False, seed=3),
    ]
    rows = np.split(np.arange(sum(len(part[1]) for part in parts)), [n_train, n_train + n_gallery])
    return task_of(*(np.concatenate(values) for values in zip(*parts)), *rows)


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


def hasher(loss, *, lr, seed, **settings):
    """Return codes under one of the losses."""
    return DeepHasher(48, loss=loss, lr=lr, random_state=seed, autocast=True, verbose=1, **settings)


def run(cells, task, options, settings):
    """Fill the table: the same net, trials, epochs and seeds for every similarity."""
    rows = [
        Row(name, partial(hasher, loss), options.rates or RATES) for name, loss in LOSSES.items()
    ]
    settings = {"batch_size": 128, "backbone": options.backbone} | settings
    tuning = settings | {"max_epochs": max(1, options.epochs // 4)}
    final = settings | {"max_epochs": options.epochs}
    return compare(cells, rows, task, seeds=options.seeds, final=final, tuning=tuning)
