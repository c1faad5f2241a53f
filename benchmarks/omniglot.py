"""Characters that were never trained on: CPF against pixels and a softmax extractor.

    python benchmarks/omniglot.py [--data omniglot_small1.npz] [--epochs 30] [--out FOLDER]

The five alphabets are split into three that are trained on and two that are not; every drawing of
an unseen character asks for all the others. Five seeds; finished cells are kept.
"""

import argparse
from pathlib import Path

import numpy as np
from _data import Cells, keep_freed_memory

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, NeighborsRetriever
from sklearn_cbir.datasets import load_drawings

SHIPPED = Path(__file__).parent.parent / "tests" / "data" / "omniglot_small1.npz"
METRICS = ["recall@1", "map", "map_at_r"]


def measure(rows, y):
    results = NeighborsRetriever().fit(rows, y).evaluate(scoring=METRICS)
    return {name: float(result.score) for name, result in results.items()}


def pixels(drawings, unseen):
    rows = drawings.data[unseen].reshape(unseen.sum(), -1).astype(np.float32)
    return measure(rows, drawings.target[unseen])


def learned(estimator, drawings, unseen):
    estimator.fit(drawings.data[~unseen], drawings.target[~unseen])
    rows = estimator.transform(drawings.data[unseen])
    return measure(rows, drawings.target[unseen])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHIPPED)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    cells = Cells(options.out / "omniglot.json")
    drawings = load_drawings(options.data)
    unseen = np.isin(drawings.alphabet, np.unique(drawings.alphabet)[-2:])
    print(f"{(~unseen).sum()} drawings to train on, {unseen.sum()} of unseen characters")
    rows = {"raw pixels": [cells.run("pixels", pixels, drawings, unseen)]}
    methods = {
        "softmax": lambda seed: CNNFeatureExtractor(
            "resnet9",
            weights=None,
            loss="softmax",
            n_components=128,
            lr=1e-3,
            augment="crop",
            autocast=True,
            batch_size=90,
            max_epochs=options.epochs,
            random_state=seed,
        ),
        "CPF": lambda seed: CPFEmbedder(
            max_epochs=options.epochs,
            lr=1e-3,
            augment="crop",
            autocast=True,
            threshold_fraction=0.0,
            random_state=seed,
        ),
    }
    for name, make in methods.items():
        rows[name] = [
            cells.run(
                f"{name}, {options.epochs} epochs, seed {seed}",
                learned,
                make(seed),
                drawings,
                unseen,
            )
            for seed in range(options.seeds)
        ]
    print("\n| | recall@1 | mAP | MAP@R |\n|---|---|---|---|")
    for name, results in rows.items():
        values = [[r[metric] for r in results] for metric in METRICS]
        print(
            f"| {name} | "
            + " | ".join(f"{np.mean(v):.4f} ± {np.std(v):.4f}" for v in values)
            + " |"
        )


if __name__ == "__main__":
    keep_freed_memory()
    main()
