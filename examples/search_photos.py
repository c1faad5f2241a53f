"""Train an image search, measure it, save it, load it in another process and draw its answers.

python examples/search_photos.py                     # drawings that ship with the project
python examples/search_photos.py --photos FOLDER     # your photos; sub-folders are labels
python examples/search_photos.py --photos FOLDER --queries OTHER     # others to ask with
python examples/search_photos.py --photos FOLDER --no-labels --skip-unreadable     # any tree
python examples/search_photos.py --load out/search.joblib --query photo.jpg
"""

import argparse
import glob
import os
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, NeighborsRetriever
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.datasets import IGNORED_NAMES, load_drawings, load_image_folder
from sklearn_cbir.display import RetrievalDisplay
from sklearn_cbir.images import ImageReadError, check_images, readable_images

DRAWINGS = Path(__file__).parent.parent / "tests" / "data" / "omniglot_small1.npz"
TRAINED = {"head_epochs": 5, "max_epochs": 3}  # of a network that knows photos already
PACKAGED = {"backbone": "timm/tf_efficientnet_lite0", "weights": "packaged"}  # the extra demo
DRAWING_EPOCHS = 20
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

    shown = queries[one_per_class(drawings.target[queries])]
    ask_elsewhere(save(search, out), drawings.data[shown[0]], out)
    draw(out, search, drawings.data[shown], drawings.target[shown], drawings.data[gallery])


def search_photos(options):
    """Search photos: sub-folders are labels; a flat folder or any tree is searched as it is."""
    photos, labels = list_photos(options.photos, options)
    parameters = choose_network(options.weights)
    if options.epochs is not None:
        parameters = parameters | {"max_epochs": options.epochs}
    if labels is None or count(labels) < 2:
        search_plain_photos(photos, parameters, options)
    else:
        search_labeled_photos(photos, labels, parameters, options)


def list_photos(folder, options):
    """Return photos and labels, without what an earlier run has written."""
    folder = os.path.abspath(folder)  # ids that mean the same in every folder
    exclude = IGNORED_NAMES
    picture = Path(os.path.abspath(options.out)) / "results.png"
    if picture.is_relative_to(folder):
        exclude = (*exclude, glob.escape(str(picture.relative_to(folder))))
    try:
        photos = load_image_folder(folder, labels=not options.no_labels, exclude=exclude)
    except (OSError, ValueError) as error:
        way = "\nHere, labels=False is the option --no-labels." * ("labels=" in str(error))
        sys.exit(f"{shown(error)}{way}")
    print(shown(photos.DESCR))
    images = check_images(photos.data, max_pixels=options.max_pixels)
    if not options.skip_unreadable:
        images.check_readable(progress=True)  # all, before any is trained on
        return images, photos.target
    found = readable_images(images, photos.target, progress=True)
    for fault in found.faults:
        print(f"Left out {shown(fault.path)}: {shown(fault.reason)}")
    return found.data, found.arrays[0]


def search_labeled_photos(photos, labels, parameters, options):
    """Search for photos of another folder, or for a fifth of every class, which is held out."""
    if options.queries is None:
        held_out = split_classes(labels)
        gallery, queries = photos[~held_out], photos[held_out]
        y, y_queries = labels[~held_out], labels[held_out]
    else:
        gallery, y = photos, labels
        queries, y_queries = list_photos(options.queries, options)
        if y_queries is None or not np.isin(y_queries, y).any():
            sys.exit(f"--queries {shown(options.queries)} has no sub-folder named as in --photos.")
    print(f"{len(gallery)} photos of {count(labels)} classes, {len(queries)} as queries")
    epochs = parameters["max_epochs"]
    if "head_epochs" in parameters:
        epochs = f"{parameters['head_epochs']} of its last layer, then {epochs} of all"
    print(f"Training {parameters['backbone']}, epochs: {epochs}", flush=True)
    search = make_pipeline(
        CNNFeatureExtractor(**parameters, random_state=0, verbose=1),
        NeighborsRetriever(n_neighbors=max(1, min(10, len(gallery) - 1))),
    )
    search.fit(gallery, y, neighborsretriever__ids=gallery.paths)
    score = search.score(queries, y_queries)
    print(f"Mean average precision on {len(queries)} photos that were held out: {score:.3f}")
    few = one_per_class(y_queries)
    ask_elsewhere(save(search, options.out), queries.paths[few[0]], options.out, options.max_pixels)
    draw(options.out, search, queries[few], y_queries[few], gallery)


def search_plain_photos(photos, parameters, options):
    """Search photos of no or one class: nothing can be trained or measured."""
    print(f"{len(photos)} photos without two classes: the network is used as it is")
    network = {name: parameters[name] for name in parameters if not name.endswith("epochs")}
    extractor = CNNFeatureExtractor(**network, loss=None, random_state=0, verbose=1)
    if len(photos) < 2:
        sys.exit("One photo is not enough to search.")
    n_neighbors = min(10, len(photos) - 1)
    search = make_pipeline(extractor, NeighborsRetriever(n_neighbors=n_neighbors))
    search.fit(photos, neighborsretriever__ids=photos.paths)
    ask_elsewhere(save(search, options.out), photos.paths[0], options.out, options.max_pixels)
    draw(
        options.out, search, photos, gallery_images=photos, ids=photos.paths
    )  # ids: no photo finds itself


def choose_network(weights):
    """Return the parameters of a network that knows photos, or of the small net if there is none.

    Weights that are installed come first, then a file or the published weights of MobileNetV2.
    """
    if weights is None:
        try:
            build_backbone(PACKAGED["backbone"], weights="packaged")
            return PACKAGED | TRAINED
        except ImportError:  # the extra demo is not installed
            pass
    try:
        build_backbone("mobilenet_v2", weights=weights or "pretrained")
    except (OSError, ImportError, ValueError) as error:
        if weights is not None:
            sys.exit(f"--weights {shown(weights)} cannot be used: {shown(error)}")
        print(f"No ImageNet weights: {error}\nUsing the small net, which knows nothing yet.")
        print("For a network that knows photos: pip install 'sklearn-cbir[demo]'")
        return SMALL_NET
    return {"backbone": "mobilenet_v2", "weights": weights or "pretrained"} | TRAINED


def split_classes(y):
    """Say which photos are held out as queries: a fifth of every class, at least one of two."""
    held_out = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        members = np.random.default_rng(0).permutation(np.flatnonzero(y == label))
        if len(members) == 1:
            print(f"{shown(label)} has one photo, which is searched but never asked for")
        else:
            held_out[members[: max(1, round(0.2 * len(members)))]] = True
    if not held_out.any():
        sys.exit("No class has two photos: there is nothing to ask for.")
    return held_out


def save(search, out):
    """Write the trained search to a file."""
    path = out / "search.joblib"
    joblib.dump(search, path)
    print(f"Saved {path} ({path.stat().st_size / 1e6:.1f} MB); another process answers:")
    return path


def ask_elsewhere(saved, query, out, max_pixels=None):
    """Ask the saved search in a process that knows nothing else."""
    if isinstance(query, np.ndarray):
        np.save(out / "query.npy", query[None])
        query = out / "query.npy"
    command = [sys.executable, __file__, "--load", str(saved), "--query", str(query)]
    if max_pixels is not None:
        command += ["--max-pixels", str(max_pixels)]
    subprocess.run(command, check=True)


def answer(saved, query, max_pixels=None):
    """Load a saved search and print the nearest gallery images of one query."""
    try:
        search = joblib.load(saved)
        search.predict  # noqa: B018
    except Exception as error:  # whatever a file of another kind raises
        sys.exit(
            f"--load {shown(saved)} is not a search that this example saved "
            f"({type(error).__name__}: {shown(error)})."
        )
    query = os.path.abspath(query)  # as the gallery's ids: a photo does not find itself
    images = np.load(query) if query.endswith(".npy") else [query]
    images = check_images(images, max_pixels=max_pixels)
    found = list(map(str, search.predict(images, ids=[query])[0][:5]))
    print(f"  nearest to {shown(query)}: {', '.join(map(shown, found))}")
    gone = [name for name in found if os.path.isabs(name) and not os.path.exists(name)]
    if gone:
        print(f"  {len(gone)} of them are not there any more; after a move run --photos again")


def draw(out, search, queries, y=None, gallery_images=None, ids=None):
    """Draw up to five queries with their nearest images."""
    display = RetrievalDisplay.from_estimator(
        search,
        queries,
        y,
        gallery_images=gallery_images,
        n_neighbors=min(5, search[-1].n_neighbors),
        ids=ids,
    )
    display.figure_.savefig(out / "results.png", dpi=100)
    print(f"Drew {out / 'results.png'}")


def shown(name):
    """Return a name on one line: names of files may hold line breaks and any bytes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))


def one_per_class(y, n=5):
    """Return the first row of each of `n` classes."""
    return np.unique(y, return_index=True)[1][:n]


def count(labels):
    """Return the number of different labels."""
    return len(np.unique(labels))


def at_least_1(text):
    """Return a number from the command line."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def main():
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos",
        type=Path,
        help="folder of photos; sub-folders are labels (default: drawings that ship)",
    )
    parser.add_argument(
        "--queries",
        type=Path,
        help="another such folder, to ask with (default: a fifth of every class is held out)",
    )
    parser.add_argument("--no-labels", action="store_true", help="sub-folders are no labels")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out damaged photos")
    parser.add_argument("--max-pixels", type=at_least_1, help="larger photos are not read")
    parser.add_argument(
        "--weights",
        help="state dict of a MobileNetV2 (.pt) (default: the network of the extra demo if it is "
        "installed, otherwise the published weights of MobileNetV2)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out"),
        help="where results are written (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=at_least_1,
        help=f"epochs of training (default: {DRAWING_EPOCHS} on drawings, on photos "
        f"{TRAINED['max_epochs']}, or {SMALL_NET['max_epochs']} without trained weights)",
    )
    parser.add_argument("--load", help="a saved search to ask")
    parser.add_argument("--query", help="the image to ask it for")
    options = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):  # names may hold what a terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if options.load and not options.query:
        parser.error("--load FILE needs --query IMAGE, the image to ask it for")
    if options.query and not options.load:
        parser.error("--query IMAGE needs --load FILE, the saved search to ask")
    if options.load and options.photos:
        parser.error("--load FILE asks a saved search, --photos FOLDER makes one: pass one of them")
    if options.queries and (options.photos is None or options.no_labels):
        parser.error("--queries FOLDER needs --photos FOLDER with labels")
    if options.load and not os.path.exists(options.load):
        parser.error(f"--load {shown(options.load)}: the file does not exist")
    try:
        run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as behind "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ImageReadError as error:
        for fault in error.faults:
            print(f"Cannot be read: {shown(fault.path)}: {shown(fault.reason)}")
        way = "; --skip-unreadable leaves them out"
        way = "" if options.load or options.skip_unreadable else way
        sys.exit(f"{len(error.faults)} images cannot be read{way}.")


def run(options):
    """Answer one query of a saved search, or make a search."""
    if options.load:
        answer(options.load, options.query, options.max_pixels)
        return
    started = time.perf_counter()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"--out {shown(options.out)} is not a folder that can be made: {error.strerror}")
    if options.photos is None:
        search_drawings(options.out, options.epochs or DRAWING_EPOCHS)
    else:
        search_photos(options)
    print(f"Done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
