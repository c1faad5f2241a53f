"""Make an archive of what one version saved, with the answers that it gave.

Run with the package of the commit whose files are to be kept, as ``python make.py FOLDER ARCHIVE``.
The galleries in a file and in Milvus remember the absolute FOLDER, which need not exist when the
archive is read. The archives, their commits and what they hold:

- `format_1.tar.xz`, 49d6c76: everything;
- `format_1_later.tar.xz`, ae80d5f, ``--galleries``: the last that named private modules;
- `format_2.tar.xz`, c1793d4, ``--galleries``: the first that named kinds;
- `format_3.tar.xz`, e4d3ca6, ``--modules``: the first that saved modules of the user's own;
- `collection_1.tar.xz`, 5e53d7a, ``--collections``: collections of format 1, of floats and of
  codes, each in `.cbir` among its photos.

`network_1.onnx` is a file of `to_onnx` in its format 1, of a random convolution at two scales, and
`network_1.npy` what the network gives for ``make_shapes(6, random_state=0)``.
"""

import os
import sys
import tarfile
from pathlib import Path

import joblib
import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor, PerceptualHash
from sklearn_cbir.extraction import extract
from sklearn_cbir.hashing import (
    BREHasher,
    CCAITQHasher,
    ITQHasher,
    KSHHasher,
    LSHHasher,
    MLHHasher,
    SpectralHasher,
)
from sklearn_cbir.losses import DFEHLoss
from sklearn_cbir.persistence import save
from sklearn_cbir.reranking import AverageQueryExpansion
from sklearn_cbir.whitening import LearnedWhitening

rng = np.random.default_rng(0)
ROWS = np.round(rng.normal(size=(64, 8)), 2).astype(np.float32)
CODES = (ROWS > 0).astype(np.uint8)
LABELS = np.arange(64) % 4
COLUMNS = np.eye(4, dtype=int)[LABELS]
NAMES = np.array([f"photo {i}.jpg" for i in range(64)])
PAIRS = [(i, "x") for i in range(64)]
IMAGES, SHAPES = make_shapes(16, random_state=0)


def retrievers(folder):
    """Yield name, fitted retriever and queries of every engine and kind of ids and labels."""
    np.save(folder / "rows.npy", ROWS)
    in_file = np.load(folder / "rows.npy", mmap_mode="r")
    kinds = {
        "exact_cosine": ({"algorithm": "exact"}, ROWS, LABELS, NAMES),
        "exact_euclidean": ({"algorithm": "exact", "metric": "euclidean"}, ROWS, COLUMNS, None),
        "hamming": ({"metric": "hamming"}, CODES, np.array(list("abcd"))[LABELS], NAMES),
        "float16_cosine": ({"storage": "float16"}, ROWS, LABELS, None),
        "float16_euclidean": ({"storage": "float16", "metric": "euclidean"}, ROWS, None, NAMES),
        "memory_map_cosine": ({"storage": "memory_map"}, in_file, LABELS, NAMES),
        "memory_map_euclidean": (
            {"storage": "memory_map", "metric": "euclidean"},
            in_file,
            LABELS,
            None,
        ),
        "nndescent": ({"algorithm": "nndescent"}, ROWS, LABELS, NAMES),
        "faiss": ({"algorithm": "faiss"}, ROWS, LABELS, None),
        "reranked": (
            {"rerank": AverageQueryExpansion()},
            ROWS,
            LABELS,
            [(i, "x") for i in range(64)],
        ),
    }
    for name, (parameters, rows, y, ids) in kinds.items():
        retriever = NeighborsRetriever(3, random_state=0, **parameters).fit(rows, y, ids=ids)
        if name in ("exact_cosine", "hamming"):  # rows that were added and removed since
            more = rows[:2]
            retriever.partial_fit(more, y[:2], ids=["new 1", "new 2"]).remove(["photo 3.jpg"])
        yield name, retriever, rows[10:20]
    near = np.round(rng.normal(size=(1100, 3)), 1).astype(np.float32)
    graph = NeighborsRetriever(3, algorithm="nndescent", metric="euclidean", random_state=0)
    yield "nndescent_graph", graph.fit(near).remove([5]), near[10:20]
    targets = NeighborsRetriever(3).fit(ROWS, ROWS[:, 0])
    yield "targets", targets.partial_fit(ROWS[:2], ROWS[:2, 0]), ROWS[10:20]
    milvus = NeighborsRetriever(
        3, algorithm="milvus", uri=str(folder / "gallery.db"), collection="golden"
    )
    yield "milvus", milvus.fit(ROWS, LABELS, ids=NAMES), ROWS[10:20]


def networks():
    """Yield name, fitted estimator and input of every estimator with a network."""
    common = {"max_epochs": 1, "batch_size": 16, "random_state": 0}
    of_rows = {
        "features_rows": CNNFeatureExtractor(weights=None, **common),
        "hasher_rows": DeepHasher(8, loss=DFEHLoss(), **common),
        "embedder_rows": CPFEmbedder(4, **common),
    }
    for name, estimator in of_rows.items():
        yield name, _thinned(estimator.fit(ROWS, LABELS)), ROWS
    extractor = CNNFeatureExtractor("small", weights=None, n_components=4, **common)
    yield "features_images", _thinned(extractor.fit(IMAGES, SHAPES)), IMAGES


def _thinned(estimator):
    """Set all but a few weights of every large array to 0, so that the archive stays small."""
    for name, value in estimator._network_state["weights"].items():
        if value.size > 4000:
            keep = np.random.default_rng(value.size).random(value.shape) < 2000 / value.size
            estimator._network_state["weights"][name] = np.where(keep, 30 * value, 0)
    vars(estimator).pop("_network", None)
    return estimator


def others():
    """Yield name, fitted estimator and input of everything else."""
    for hasher in (ITQHasher(4), LSHHasher(4), SpectralHasher(4), CCAITQHasher(3), BREHasher(4)):
        yield type(hasher).__name__, hasher.set_params(**_seed(hasher)).fit(ROWS, LABELS), ROWS
    for hasher in (KSHHasher(4, n_anchors=16), MLHHasher(4)):
        yield type(hasher).__name__, hasher.set_params(**_seed(hasher)).fit(ROWS, LABELS), ROWS
    yield "whitening", LearnedWhitening(4).fit(ROWS, LABELS), ROWS
    yield "gist", GISTDescriptor().fit(IMAGES), IMAGES
    pipeline = make_pipeline(PCA(4, random_state=0), NeighborsRetriever(2))
    yield "pipeline", pipeline.fit(ROWS, LABELS, neighborsretriever__ids=NAMES), ROWS[:5]


def _seed(hasher):
    return {"random_state": 0} if "random_state" in hasher.get_params() else {}


def net():
    """Return the module of one's own."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def main(folder, archive, only=None):
    """Save galleries, and all else unless `only` some are asked for, as .cbir and as pickles."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    answers = {}
    if only == "--modules":
        save_modules(folder, answers)
    elif only == "--collections":
        save_collections(folder, answers)
    else:
        save_galleries(folder, answers)
    if only is None:
        save_others(folder, answers)
    np.savez_compressed(folder / "answers.npz", **answers)
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.endswith((".lock", ".part")):
                tar.add(path, arcname=str(path.relative_to(folder)))
    print(Path(archive).stat().st_size, "bytes")


def save_galleries(folder, answers):
    """Save retrievers of every engine."""
    for name, retriever, queries in retrievers(folder):
        save(retriever, folder / f"{name}.cbir")
        joblib.dump(retriever, folder / f"{name}.joblib")
        answers[f"{name}/X"] = queries
        answers[f"{name}/distances"], answers[f"{name}/positions"] = retriever.kneighbors(queries)
        answers[f"{name}/predict"] = np.vectorize(str)(retriever.predict(queries))
        if retriever.y_ is not None and name != "targets":
            answers[f"{name}/score"] = retriever.score()


def save_modules(folder, answers):
    """Save networks with a module of one's own: one that was trained, one that was not."""
    for name, loss in (("trained", "softmax"), ("untrained", None)):
        extractor = CNNFeatureExtractor(net(), loss=loss, max_epochs=1, random_state=0)
        extractor.fit(IMAGES, SHAPES)
        save(extractor, folder / f"{name}.cbir", modules={"net": net})
        joblib.dump(extractor, folder / f"{name}.joblib")
        answers[f"{name}/X"], answers[f"{name}/transform"] = IMAGES, extractor.transform(IMAGES)


def save_collections(folder, answers):
    """Save collections of floats, labeled by a table, and of codes, labeled by top folders."""
    kinds = {
        "floats": (GISTDescriptor(), {"labels": folder / "floats/labels.csv"}),
        "codes": (PerceptualHash(), {"labels": "folder", "exclude": ["left out"]}),
    }
    for name, (extractor, options) in kinds.items():
        photos = folder / name
        for number in range(6):
            save_photo(photos / "ab"[number % 2] / f"{number}.png", number)
        table = "".join(f"{'ab'[n % 2]}/{n}.png,kind {n % 2}\n" for n in range(1, 6))
        (photos / "labels.csv").write_text(f"path,label\n{table}")
        with PhotoCollection.create(photos / ".cbir", photos, extractor, **options) as collection:
            collection.sync()
            (photos / "a/0.png").unlink()
            (photos / "no photo.jpg").write_bytes(b"no photo")
            os.utime(photos / "no photo.jpg", (1.6e9, 1.6e9))
            collection.sync()
            queries = [photos / "ab"[n % 2] / f"{n}.png" for n in range(1, 6)]
            hits = collection.search(queries, k=4)
            answers[f"{name}/numbers"] = [[hit.number for hit in of] for of in hits]
            answers[f"{name}/distances"] = [[hit.distance for hit in of] for of in hits]
            answers[f"{name}/score"] = collection.score("precision@1")
            for column, values in collection.items().items():
                if column != "path":
                    answers[f"{name}/items/{column}"] = values


def save_photo(path, number):
    """Save a photo that was changed long ago, at a whole second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(IMAGES[number]).save(path)
    os.utime(path, (1.6e9 + number, 1.6e9 + number))


def save_others(folder, answers):
    """Save what is no gallery: networks, hashers, shards, a checkpoint."""
    for name, estimator, X in (*networks(), *others()):
        save(estimator, folder / f"{name}.cbir")
        joblib.dump(estimator, folder / f"{name}.joblib")
        method = "predict" if name == "pipeline" else "transform"
        answers[f"{name}/X"], answers[f"{name}/{method}"] = X, getattr(estimator, method)(X)
    shards = extract(PCA(2).fit(ROWS), ROWS, folder / "shards", shard_size=24)
    answers["shards/rows"] = shards.load()
    trained = CNNFeatureExtractor(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        weights=None,
        max_epochs=1,
        random_state=0,
        checkpoint_dir=folder / "checkpoints",
    ).fit(IMAGES, SHAPES)
    answers["checkpoints/X"], answers["checkpoints/transform"] = IMAGES, trained.transform(IMAGES)
    joblib.dump(trained, folder / "module.joblib")


if __name__ == "__main__":
    main(*sys.argv[1:])
