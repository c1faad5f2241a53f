"""How far a pretrained network finds photos before any training.

    python benchmarks/untrained.py --data FOLDER --weights mobilenet_v2.pt [--out FOLDER]

FOLDER has one sub-folder per class; every photo asks for the others. Finished cells are kept in
untrained.json and not run again.
"""

import argparse
from pathlib import Path

from _data import Cells, keep_freed_memory
from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.datasets import load_image_folder


def leave_one_out(options, photos, rerank=None, pooling="auto"):
    extractor = CNNFeatureExtractor(
        options.backbone,
        weights=options.weights,
        loss=None,
        pooling=pooling,
        image_size=options.image_size,
        batch_size=32,
    )
    rows = extractor.fit(photos.data).transform(photos.data)
    retriever = NeighborsRetriever(rerank=rerank, rerank_depth=len(rows))
    results = retriever.fit(rows, photos.target).evaluate(scoring=["map", "precision@1"])
    return {name: float(result.score) for name, result in results.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    cells = Cells(options.out / "untrained.json")
    photos = load_image_folder(options.data)
    at = f"{options.backbone}, leave-one-out at {options.image_size} px"
    cells.run(f"{at}, cosine", leave_one_out, options, photos)
    cells.run(f"{at}, k-reciprocal", leave_one_out, options, photos, "k_reciprocal")
    for pooling in ("gem", "max"):
        cells.run(f"{at}, {pooling} pooling", leave_one_out, options, photos, None, pooling)


if __name__ == "__main__":
    keep_freed_memory()
    main()
