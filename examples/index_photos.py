"""Index a folder of photos, search it, and draw what is found.

python examples/index_photos.py                     # photos that ship with the project
python examples/index_photos.py --photos FOLDER     # your photos, in any tree of folders

The index lies in out/index. Another run opens it, and takes in what is new, changed or gone.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from PIL import Image

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.display import RetrievalDisplay

CLOTHING = Path(__file__).parent.parent / "tests" / "data" / "clothing"
NEARLY_SAME = 0.1  # cosine distance within which two photos are copies of one, as a rule


def open_index(index, photos, labels):
    """Open the index of an earlier run, or make one with a network that pip has brought."""
    try:
        return PhotoCollection.open(index)
    except FileNotFoundError:
        network = CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None)
        network.fit([Image.new("RGB", (64, 64))])  # it learns nothing
        return PhotoCollection.create(index, photos, network, labels=labels)


def take_in(collection):
    """Take in what is new, changed or gone, and return the paths that can be searched."""
    report = collection.sync(verbose=1)
    items = collection.items()
    ready = items["state"] == "ready"
    for path, reason in zip(items["path"][~ready], items["reason"][~ready]):
        print(f"Left out {shown(path)}: {shown(reason)}")
    print(f"{ready.sum()} photos: {report.added} files are new, {report.removed} are gone")
    if ready.sum() < 3:
        sys.exit("Too few photos to search: 3 are needed.")
    return items["path"][ready]


def ask(collection, query):
    """Print what a photo finds, what some of these find together, and copies."""
    root = collection.roots[0]
    (hits,) = collection.search([query], k=5)
    show("Nearest to the last photo, which finds itself first:", hits, root)
    liked, unliked = [hits[0].number, hits[1].number], hits[-1].number
    likes = collection.like(liked, [unliked], k=4)
    show(f"Like {liked[0]} and {liked[1]}, and unlike {unliked}:", likes, root)
    groups = collection.duplicates(radius=NEARLY_SAME)
    print(f"Photos of which there are copies: {len(groups)}")
    for group in groups[:5]:
        show("  one to keep, and its copies:", group, root)


def draw(collection, path, n_neighbors):
    """Draw five photos with the nearest of the others."""
    search = collection.retriever(ids="path")
    display = RetrievalDisplay.from_estimator(search, None, n_neighbors=n_neighbors)
    display.figure_.savefig(path, dpi=120)
    print(f"Drew {path}")


def show(title, hits, root):
    """Print the distances, numbers and names of what was found."""
    print(title)
    for hit in hits:
        print(f"  {hit.distance:.3f} {hit.number:6d}  {shown(os.path.relpath(hit.path, root))}")


def shown(name):
    """Return a name on one line: names of files may hold line breaks and any bytes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))


def run(photos, out, labels):
    """Make or open the index, take in the photos, ask it, and draw."""
    started = time.perf_counter()
    with open_index(out / "index", photos, labels) as collection:
        if not os.path.samefile(photos, collection.roots[0]):
            sys.exit(f"{out / 'index'} is of {shown(collection.roots[0])}: give another --out.")
        paths = take_in(collection)
        ask(collection, paths[-1])
        if labels:
            print(f"Mean average precision, by labels: {collection.score():.2f}")
        draw(collection, out / "results.png", min(5, len(paths) - 1))
    print(f"Done in {time.perf_counter() - started:.0f} s")


def main():
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photos, in any tree of folders")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where results are written")
    options = parser.parse_args()
    labels = "folder" if options.photos is None else None
    try:
        run(options.photos or CLOTHING, options.out, labels)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(shown(error))


if __name__ == "__main__":
    main()
