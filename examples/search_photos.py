"""Train an image search, measure it, save it, load it in another process and draw its answers.

python examples/search_photos.py                     # drawings that ship with the project
python examples/search_photos.py --photos FOLDER     # your photos; sub-folders are labels
python examples/search_photos.py --load search.joblib --query photo.jpg
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, NeighborsRetriever
from sklearn_cbir.datasets import load_drawings, load_image_folder
from sklearn_cbir.display import RetrievalDisplay

DRAWINGS = Path(__file__).parent.parent / "tests" / "data" / "omniglot_small1.npz"
SMALL_NET = {"backbone": "resnet9", "weights": None, "image_size": 64, "max_epochs": 30}


def search_drawings(out, epochs):
    """Train on three alphabets; search the characters of two that were never trained on."""
    drawings = load_drawings(DRAWINGS)
    unseen = np.isin(drawings.alphabet, np.unique(drawings.alphabet)[-2:])
    print(f"Training on {np.sum(~unseen)} drawings of {count(drawings.target[~unseen])} characters")
    embedder = CPFEmbedder(max_epochs=epochs, augment="crop", random_state=0, verbose=1)
    embedder.fit(drawings.data[~unseen], drawings.target[~unseen])

    # The first half of the drawers is the gallery, the others ask.
    asks = drawings.drawer >= np.median(drawings.drawer)
    gallery, queries = np.flatnonzero(unseen & ~asks), np.flatnonzero(unseen & asks)
    search = make_pipeline(FrozenEstimator(embedder), NeighborsRetriever())
    search.fit(drawings.data[gallery], drawings.target[gallery])
    score = search.score(drawings.data[queries], drawings.target[queries])
    print(
        f"Mean average precision on {count(drawings.target[unseen])} characters that were never "
        f"trained on: {score:.3f} ({len(queries)} queries, {len(gallery)} drawings searched)"
    )
    print(f"Same character above a cosine of {embedder.threshold_:.2f}")

    shown = spread(queries, drawings.target[queries])
    np.save(out / "query.npy", drawings.data[shown[:1]])
    finish(
        search,
        out,
        drawings.data[shown],
        drawings.target[shown],
        out / "query.npy",
        gallery_images=drawings.data[gallery],
    )


def search_photos(folder, weights, out, epochs):
    """Search photos: sub-folders are labels; a flat folder is searched as it is."""
    photos = load_image_folder(folder)
    parameters = backbone(weights)
    if photos.target is None:
        print(f"{len(photos.data)} photos without labels: the network is used as it is")
        for name in ("max_epochs", "head_epochs"):
            parameters.pop(name, None)
        extractor = CNNFeatureExtractor(**parameters, loss=None, random_state=0, verbose=1)
        search = make_pipeline(extractor, NeighborsRetriever(n_neighbors=min(9, len(photos.data))))
        search.fit(photos.data, neighborsretriever__ids=photos.data)
        finish(search, out, photos.data[:5], None, photos.data[0])
        return
    gallery, queries, y, y_queries = train_test_split(
        photos.data, photos.target, test_size=0.2, stratify=photos.target, random_state=0
    )
    print(f"{len(gallery)} photos of {count(photos.target)} classes, {len(queries)} as queries")
    if epochs is not None:
        parameters["max_epochs"] = epochs
    search = make_pipeline(
        CNNFeatureExtractor(**parameters, random_state=0, verbose=1),
        NeighborsRetriever(n_neighbors=min(10, len(gallery))),
    )
    search.fit(gallery, y, neighborsretriever__ids=gallery)
    score = search.score(queries, y_queries)
    print(f"Mean average precision on {len(queries)} photos that were held out: {score:.3f}")
    shown = spread(np.arange(len(queries)), y_queries)
    finish(search, out, queries[shown], y_queries[shown], queries[shown[0]])


def backbone(weights):
    """Return the parameters of a pretrained MobileNetV2, or of the small net without weights."""
    pretrained = {"backbone": "mobilenet_v2", "weights": weights or "imagenet"}
    pretrained |= {"head_epochs": 5, "max_epochs": 3}
    if weights is not None:
        return pretrained
    from sklearn_cbir.backbones import build_backbone

    try:
        build_backbone("mobilenet_v2", weights="imagenet")
    except (OSError, ValueError) as error:
        print(f"No ImageNet weights: {error}\nUsing the small net instead.")
        return dict(SMALL_NET)
    return pretrained


def finish(search, out, queries, y_queries, query, **gallery):
    """Save the search, load it in another process, and draw queries with their results."""
    saved = out / "search.joblib"
    joblib.dump(search, saved)
    print(f"Saved {saved} ({saved.stat().st_size / 1e6:.1f} MB); another process answers:")
    command = [sys.executable, __file__, "--load", str(saved), "--query", str(query)]
    subprocess.run(command, check=True)
    display = RetrievalDisplay.from_estimator(search, queries, y_queries, **gallery)
    display.figure_.savefig(out / "results.png", dpi=100)
    print(f"Drew {out / 'results.png'}")


def answer(saved, query):
    """Load a saved search and print the nearest gallery images of one query."""
    search = joblib.load(saved)
    image = np.load(query) if query.endswith(".npy") else [query]
    print(f"  nearest to {query}: {', '.join(map(str, search.predict(image)[0][:5]))}")


def spread(rows, y, n=5):
    """Return one row of each of `n` classes."""
    return np.array([rows[np.flatnonzero(y == label)[0]] for label in np.unique(y)[:n]])


def count(labels):
    """Return the number of different labels."""
    return len(np.unique(labels))


def main():
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photos; sub-folders are labels")
    parser.add_argument("--weights", help="state dict of a MobileNetV2 (.pt)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where results are written")
    parser.add_argument("--epochs", type=int, help="epochs of training")
    parser.add_argument("--load", help="a saved search to ask")
    parser.add_argument("--query", help="the image to ask it for")
    options = parser.parse_args()
    if options.load:
        answer(options.load, options.query)
        return
    started = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.photos is None:
        search_drawings(options.out, options.epochs or 30)
    else:
        search_photos(options.photos, options.weights, options.out, options.epochs)
    print(f"Done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
