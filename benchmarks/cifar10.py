"""DFEH codes on CIFAR-10, trained from scratch on the 50,000 training images.

    python benchmarks/cifar10.py --data cifar10_jpeg.npz [--held-out] [--out FOLDER]

The full protocol: the 10,000 test images are queries and are read once, at the end; the training
set is the gallery; mean average precision over the whole Hamming ranking, ties averaged exactly.
With --held-out, 5,000 of the training images are the queries instead and the rest trains and is
searched: that is how the settings below were chosen. A run that was cut off goes on; one with other
settings is another cell, beside the first.
"""

import argparse
from pathlib import Path

import joblib
import numpy as np

from _data import Cells, cell_key, fingerprint, keep_freed_memory, load_cifar10
from sklearn_cbir import DeepHasher
from sklearn_cbir.losses import DFEHLoss
from sklearn_cbir.metrics import hamming_mean_average_precision

# What every run has in common; the rest is on the command line.
SETTINGS = {"weight_decay": 5e-4, "pooling": "max", "autocast": True}


def split(options):
    """Return training images and labels, and those of the queries."""
    images, y = load_cifar10(options.data, "train")
    if not options.held_out:
        return images, y, *load_cifar10(options.data, "test")
    rows = np.random.default_rng(0).permutation(len(y))
    queries, kept = rows[:5000], np.sort(rows[5000:])
    return images[kept], y[kept], images[queries], y[queries]


def run(options):
    images, y, query_images, y_queries = split(options)
    hasher = DeepHasher(
        options.bits,
        loss=DFEHLoss(similar_weight=options.similar_weight),
        backbone=options.backbone,
        max_epochs=options.epochs,
        optimizer=options.optimizer,
        lr=options.lr,
        batch_size=options.batch_size,
        checkpoint_dir=options.out / "checkpoints",
        random_state=options.seed,
        verbose=1,
        **SETTINGS,
    ).fit(images, y)
    key = cell_key(name(options), settings(options))
    joblib.dump(hasher, options.out / f"{key.replace(' ', '-')}.joblib")
    gallery, queries = hasher.transform(images), hasher.transform(query_images)
    return {
        "map": hamming_mean_average_precision(y_queries, y, queries, gallery),
        "training_seconds": round(sum(record["seconds"] for record in hasher.history_)),
        "loss": [round(record["loss"], 4) for record in hasher.history_],
    }


def name(options):
    part = "held-out" if options.held_out else "test"
    return f"dfeh {part}, {options.bits} bits, seed {options.seed}"


def settings(options):
    """Return what the result depends on; the folders are not part of it."""
    chosen = {k: v for k, v in vars(options).items() if k not in ("data", "out")}
    return SETTINGS | chosen | {"data": fingerprint([options.data])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--held-out", action="store_true", help="part of the training set as queries"
    )
    parser.add_argument("--bits", type=int, default=48)
    parser.add_argument("--backbone", default="resnet9")
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--similar-weight", type=float, default=2.0)
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    cells = Cells(options.out / "cifar10.json")
    cells.run(name(options), run, options, settings=settings(options))


if __name__ == "__main__":
    keep_freed_memory()
    main()
