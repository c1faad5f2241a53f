"""Squared hinge against softmax and no training, on photos of clothes.

    python benchmarks/clothing.py --data FOLDER --weights mobilenet_v2.pt [--out FOLDER]

FOLDER holds `train` and `validation`, each with one sub-folder per class. First the frozen network
alone, leave-one-out on `validation`. Then three rows with `train` as gallery and `validation` as
queries; the rates of both losses are chosen from one grid by two folds inside `train`. Finished
cells are kept in clothing.json and not run again.
"""

import argparse
from pathlib import Path

import numpy as np
from _data import Cells, keep_freed_memory, paired_bootstrap
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.datasets import load_image_folder

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)


def search(options, **params):
    extractor = CNNFeatureExtractor(
        options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        batch_size=32,
        autocast=True,
        **params,
    )
    return make_pipeline(extractor, NeighborsRetriever(n_neighbors=10))


def trained(options, loss, lr, seed):
    return search(
        options,
        loss=loss,
        lr=lr,
        head_epochs=options.head_epochs,
        max_epochs=options.max_epochs,
        random_state=seed,
    )


def leave_one_out(options, photos, rerank=None, pooling="auto"):
    extractor = search(options, loss=None, pooling=pooling)[0]
    rows = extractor.fit(photos.data).transform(photos.data)
    retriever = NeighborsRetriever(rerank=rerank, rerank_depth=len(rows))
    results = retriever.fit(rows, photos.target).evaluate(scoring=["map", "precision@1"])
    return {name: float(result.score) for name, result in results.items()}


def choose(options, train, loss, lr):
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    pipeline = trained(options, loss, lr, seed=0)
    scores = cross_val_score(pipeline, train.data, train.target, cv=folds)
    return {"map": float(scores.mean())}


def evaluate(pipeline, train, queries):
    """Fit on `train` and return both metrics of every query, and the losses."""
    pipeline.fit(train.data, train.target)
    rows = pipeline[:-1].transform(queries.data)
    results = pipeline[-1].evaluate(rows, queries.target, scoring=["map", "precision@10"])
    losses = [record["loss"] for record in pipeline[0].history_]
    return {
        "map": results["map"].score,
        "precision@10": results["precision@10"].score,
        "losses": losses,
        "epochs_until_stable": epochs_until_stable(losses),
        "per_query": results["map"].per_query.round(6).tolist(),
    }


def epochs_until_stable(losses):
    """Epochs until the loss stays within 1 % of the way from its first value to its last."""
    if not losses:
        return 0
    near = np.abs(np.array(losses) - losses[-1]) <= 0.01 * abs(losses[0] - losses[-1])
    return int(len(near) - np.argmin(near[::-1])) if not near.all() else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--head-epochs", type=int, default=5)
    parser.add_argument("--max-epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    cells = Cells(options.out / "clothing.json")
    train = load_image_folder(options.data / "train")
    queries = load_image_folder(options.data / "validation")

    at_224 = argparse.Namespace(**vars(options) | {"image_size": 224})
    cells.run("frozen, leave-one-out at 224 px", leave_one_out, at_224, queries)
    cells.run("the same, k-reciprocal", leave_one_out, at_224, queries, "k_reciprocal")
    for pooling in ("gem", "max"):
        cells.run(f"the same, {pooling} pooling", leave_one_out, at_224, queries, None, pooling)
    rows = {
        "untrained": [cells.run("untrained", evaluate, search(options, loss=None), train, queries)]
    }
    for loss in ("softmax", "squared_hinge"):
        scores = [
            cells.run(f"{loss}, lr={lr:g}, folds", choose, options, train, loss, lr)["map"]
            for lr in RATES
        ]
        lr = RATES[int(np.argmax(scores))]
        rows[loss] = [
            cells.run(
                f"{loss}, lr={lr:g}, seed {seed}",
                evaluate,
                trained(options, loss, lr, seed),
                train,
                queries,
            )
            for seed in SEEDS[: options.seeds]
        ]
    report(rows)


def report(rows):
    print("\n| | mAP | P@10 | epochs until stable |\n|---|---|---|---|")
    for name, results in rows.items():
        shown = [
            f"{np.mean([r[key] for r in results]):.4f} ± {np.std([r[key] for r in results]):.4f}"
            for key in ("map", "precision@10")
        ]
        stable = np.mean([r["epochs_until_stable"] for r in results])
        print(f"| {name} | {shown[0]} | {shown[1]} | {stable:.1f} |")
    mean = {
        name: np.mean([r["per_query"] for r in results], axis=0) for name, results in rows.items()
    }
    for a, b in (("untrained", "softmax"), ("softmax", "squared_hinge")):
        difference, low, high = paired_bootstrap(mean[a], mean[b])
        print(f"{b} - {a}: {difference:+.4f} mAP, 95 % from {low:+.4f} to {high:+.4f}")


if __name__ == "__main__":
    keep_freed_memory()
    main()
