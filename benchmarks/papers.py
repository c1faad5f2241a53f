"""The comparisons of the five papers, one command each.

    python benchmarks/papers.py TABLE --data PATH [--weights-dir FOLDER] [--full] [--out FOLDER]

Every table writes its finished cells to OUT/TABLE.json and does not run them again, so that a run
that was cut off goes on; at the end it prints a Markdown table, and where its cells ran. A cell
belongs to its settings and its data: under others, such as more epochs, it is another one, kept
beside the first. With --rows, only these rows are run, and the table shows them and what else is
finished. Rates are chosen by the same trials for every row, on images that never ask in the end.
WEIGHTS-DIR holds torchvision's state dicts as NAME.pt. The tables:

"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from _data import Cells, find_weights, keep_freed_memory, load_cifar10_parts

# Papers rank all images, or 5,000 and divide by the hits among them; which, many do not say.
NUSWIDE_SCORES = ("map", "map@5000, hits")

# DFEH ----------------------------------------------------------------------------------------


def dfeh_cifar10(cells, options):
    """DFEH's table on CIFAR-10: thirteen methods and five later losses."""
    from _papers import hashing

    return hashing.run(cells, _cifar10(options), options, hashing.CIFAR10_PAPER)


def hashers_cifar10(cells, options):
    """The classical hashers on GIST of CIFAR-10 against their bars; fails if one is missed."""
    from _papers import hashing

    return hashing.check_hashers(cells, _cifar10(options), options)


def dfeh_ablation(cells, options):
    """DFEH's ablations on CIFAR-10: weights, terms, enhancement layer, network."""
    return _ablation(cells, _cifar10(options, gist=False), options, "cifar10")


def dfeh_svhn(cells, options):
    """DFEH's ablations on training digits of SVHN: DATA holds train_32x32.mat, test_32x32.mat."""
    from _papers import hashing
    from sklearn_cbir.datasets import load_svhn

    digits = load_svhn(options.data)
    n_train = len(digits.train)
    task = hashing.task_of(digits.data, digits.target, n_train, options.out, gist=False)
    return _ablation(cells, task, options, "svhn")


def dfeh_nuswide(cells, options):
    """DFEH's table on NUS-WIDE, mAP over all and over 5,000: DATA is unpacked as distributed."""
    from _papers import hashing
    from sklearn_cbir.datasets import load_nuswide
    from sklearn_cbir.model_selection import split_protocol

    photos = load_nuswide(options.data, skip_missing=True)
    numbers = {"n_queries": options.n_queries, "n_train": options.n_train}
    split = split_protocol("nuswide-2100", photos.target, **numbers)
    searched_only = np.setdiff1d(split.gallery, split.train)
    rows = np.concatenate([split.train, searched_only, split.query])
    images, y = photos.data[rows], photos.target[rows]
    parts = {"n_train": len(split.train), "n_gallery": len(split.gallery)}
    task = hashing.task_of(images, y, out=options.out, scoring=NUSWIDE_SCORES, **parts)
    return hashing.run(cells, task, options, hashing.NUSWIDE_PAPER)


def _ablation(cells, task, options, name):
    from _papers import _compare, hashing

    results = hashing.ablations(cells, task, options)
    paper = hashing.ABLATION_PAPER[name]
    return _compare.table(results, ["map"], first="DFEH, 12 bits", paper=paper)


def _cifar10(options, **kwargs):
    from _papers import hashing

    images, y, n_train = load_cifar10_parts(options.data)
    return hashing.task_of(images, y, n_train, options.out, **kwargs)


# Squared hinge and LRML ----------------------------------------------------------------------


def squared_hinge(cells, options):
    """Squared hinge against softmax: DATA holds train and validation, a folder per class each."""
    from _papers import squared_hinge

    return squared_hinge.run(cells, _photos(options), options)


def lrml_photos(cells, options):
    """LRML's staircase against equal distances and triplets, on photos as in squared-hinge."""
    from _papers import _compare, lrml

    results = lrml.run_photos(cells, _photos(options), options)
    return _compare.table(results, ["map", "precision@10"], first="loss")


def lrml_omniglot(cells, options):
    """LRML's staircase against equal distances and triplets, on unseen alphabets."""
    from _papers import _compare, lrml

    results = lrml.run_drawings(cells, _drawings(options), options)
    return _compare.table(results, ["map", "recall@1", "map_at_r"], first="loss")


def lrml_places(name, cells, options):
    """LRML on Oxford5k, Paris6k or Holidays; --train-data holds a folder per place."""
    from _papers import _compare, places
    from sklearn_cbir.datasets import load_image_folder

    if options.train_data is None:
        raise SystemExit("--train-data is missing: a folder with one sub-folder of photos a place.")
    photos = load_image_folder(options.train_data)
    results = places.run(cells, name, photos, options)
    return _compare.table(results, places.COLUMNS, first="loss")


def _photos(options):
    from _papers import squared_hinge
    from sklearn_cbir.datasets import load_image_folder

    train = load_image_folder(options.data / "train")
    return squared_hinge.task_of(train, load_image_folder(options.data / "validation"))


# Multi-level similarity ----------------------------------------------------------------------


def multi_label_mosaics(cells, options):
    """Multi-level similarity against binary similarity, on mosaics of four CIFAR-10 images."""
    from _papers import multi_label

    images, y, n_train = load_cifar10_parts(options.data)
    parts = (images[:n_train], y[:n_train]), (images[n_train:], y[n_train:])
    n = min(1000, len(parts[1][1]) // 10)  # of the images that ask, four a query
    task = multi_label.mosaic_task(*parts, n_train=6 * n, n_gallery=6 * n, n_queries=n)
    return _multi_label(cells, task, options)


def multi_label_nuswide(cells, options):
    """Multi-level similarity against binary similarity, on NUS-WIDE with 21 labels."""
    from _papers import multi_label
    from sklearn_cbir.datasets import load_nuswide

    scores = *NUSWIDE_SCORES, *multi_label.COLUMNS[1:]
    photos = load_nuswide(options.data, skip_missing=True)
    return _multi_label_photos(photos, "nuswide-5k", scores, cells, options)


def multi_label_mirflickr(cells, options):
    """Multi-level similarity against binary similarity, on MIRFLICKR-25K with 38 labels."""
    from _papers import multi_label
    from sklearn_cbir.datasets import load_mirflickr

    photos = load_mirflickr(options.data, n_labels=38)
    return _multi_label_photos(photos, "mirflickr", multi_label.COLUMNS, cells, options)


def multi_label_fashion(cells, options):
    """Multi-level similarity against binary similarity, on product photos with 76 labels."""
    from _papers import _compare, multi_label
    from sklearn_cbir.datasets import load_fashion_multilabel
    from sklearn_cbir.model_selection import split_multilabel

    photos = load_fashion_multilabel(options.data)
    numbers = {"n_queries": options.n_queries, "n_train": options.n_train}
    split = split_multilabel(photos.target, n_validation=options.n_queries, **numbers)
    parts = split.train, split.gallery, split.query
    task = multi_label.task_of(photos.data, photos.target, *parts)
    chosen_on = _compare.Part(split.train, split.gallery, split.validation.query)
    task = replace(task, tuning=chosen_on)
    return _multi_label(cells, task, options, image_size=options.image_size)


def _multi_label_photos(photos, protocol, scores, cells, options):
    from _papers import multi_label
    from sklearn_cbir.model_selection import split_protocol

    numbers = {"n_queries": options.n_queries, "n_train": options.n_train}
    split = split_protocol(protocol, photos.target, **numbers)
    parts = split.train, split.gallery, split.query
    task = multi_label.task_of(photos.data, photos.target, *parts, scoring=scores)
    weights = options.weights_dir and _weights(options)
    size = {"image_size": options.image_size, "weights": weights}
    return _multi_label(cells, task, options, **size)


def _multi_label(cells, task, options, **settings):
    from _papers import _compare, multi_label

    results = multi_label.run(cells, task, options, settings)
    return _compare.table(results, task.scoring, first="similarity")


# Zero-shot -----------------------------------------------------------------------------------


def zero_shot_omniglot(cells, options):
    """CPF against other losses on alphabets that were never trained on."""
    settings = {"backbone": options.backbone, "weights": None, "augment": "crop"}
    return _zero_shot(cells, _drawings(options), options, settings | {"autocast": True})


def zero_shot_products(load, constants, cells, options):
    """CPF against other losses on unseen classes of CUB-200, Cars196, SOP or Shopee."""
    from _papers import zero_shot
    from sklearn_cbir import datasets
    from sklearn_cbir.losses import CPF_CONSTANTS
    from sklearn_cbir.model_selection import ClassDisjointKFold, split_protocol

    photos = getattr(datasets, load)(options.data)
    if load == "load_shopee":
        folds = ClassDisjointKFold(5, shuffle=True, random_state=0)
        unseen_rows = next(folds.split(photos.data, photos.target))[1]
    else:
        test = {"test": photos.test} if load == "load_sop" else {}
        unseen_rows = split_protocol("zero-shot", photos.target, **test).query
    unseen = np.isin(np.arange(len(photos.target)), unseen_rows)
    task = zero_shot.task_of(photos.data, photos.target, unseen)
    settings = {"backbone": options.backbone, "image_size": options.image_size}
    settings["weights"] = _weights(options)
    return _zero_shot(cells, task, options, settings, CPF_CONSTANTS[constants])


def _zero_shot(cells, task, options, settings, constants=None):
    from _papers import _compare, zero_shot

    results = zero_shot.run(cells, task, options, settings, constants)
    return _compare.table(results, zero_shot.COLUMNS, first="loss")


def _drawings(options):
    from _papers import zero_shot
    from sklearn_cbir.datasets import load_drawings

    drawings = load_drawings(options.data)
    unseen = np.isin(drawings.alphabet, np.unique(drawings.alphabet)[-2:])
    return zero_shot.task_of(drawings.data, drawings.target, unseen)


def _weights(options):
    """Return the path of the pretrained weights of the table's network."""
    found = find_weights(options.weights_dir, options.backbone)
    if found is None:
        raise SystemExit(
            f"No {options.backbone}*.pt in --weights-dir={options.weights_dir}. Put torchvision's "
            "state dict of it there."
        )
    return str(found)


# The command ---------------------------------------------------------------------------------

PHOTOS = {"epochs": 8, "seeds": 3, "image_size": 128}
CODES = {"epochs": 15, "seeds": 1, "backbone": "small"}
DRAWINGS = {"epochs": 30, "seeds": 5, "backbone": "small"}
UNSEEN = {"epochs": 100, "seeds": 5, "backbone": "resnet34", "image_size": 224}
SEVERAL = {"epochs": 20, "seeds": 3, "backbone": "resnet50", "image_size": 224}
FASHION = {"epochs": 20, "seeds": 3, "backbone": "small", "image_size": 64}
PLACES = {"epochs": 20, "seeds": 3, "image_size": 362}
TABLES = {
    "squared-hinge": (squared_hinge, PHOTOS),
    "dfeh-cifar10": (dfeh_cifar10, CODES | {"epochs": 12}),
    "dfeh-ablation": (dfeh_ablation, CODES),
    "dfeh-svhn": (dfeh_svhn, CODES),
    "dfeh-nuswide": (dfeh_nuswide, CODES | {"image_size": 64}),
    "hashers-cifar10": (hashers_cifar10, {"seeds": 3}),
    "multi-label-mosaics": (multi_label_mosaics, {"epochs": 8, "seeds": 2, "backbone": "small"}),
    "multi-label-fashion": (multi_label_fashion, FASHION | {"n_queries": 1000, "n_train": 5000}),
    "multi-label-nuswide": (multi_label_nuswide, SEVERAL),
    "multi-label-mirflickr": (multi_label_mirflickr, SEVERAL),
    "zero-shot-omniglot": (zero_shot_omniglot, DRAWINGS),
    "zero-shot-cub": (partial(zero_shot_products, "load_cub", "cub"), UNSEEN),
    "zero-shot-cars": (partial(zero_shot_products, "load_cars", "cars"), UNSEEN),
    "zero-shot-sop": (partial(zero_shot_products, "load_sop", "sop"), UNSEEN),
    "zero-shot-shopee": (partial(zero_shot_products, "load_shopee", "shopee"), UNSEEN),
    "lrml-photos": (lrml_photos, PHOTOS | {"epochs": 3, "seeds": 2}),
    "lrml-omniglot": (lrml_omniglot, DRAWINGS | {"seeds": 3}),
    "lrml-oxford5k": (partial(lrml_places, "oxford5k"), PLACES),
    "lrml-paris6k": (partial(lrml_places, "paris6k"), PLACES),
    "lrml-holidays": (partial(lrml_places, "holidays"), PLACES),
}


def _summary(function):
    return getattr(function, "func", function).__doc__.splitlines()[0]


def parse(arguments=None):
    lines = [f"  {name:<22}{_summary(function)}" for name, (function, _) in TABLES.items()]
    parser = argparse.ArgumentParser(
        description=__doc__ + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=TABLES, help="which comparison")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, help="folder of NAME*.pt state dicts")
    parser.add_argument("--full", action="store_true", help="every length, network and variant")
    parser.add_argument("--rows", nargs="+", help="run only these, by their names in the table")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--train-data", type=Path, help="labelled places, for lrml-oxford5k etc.")
    for name in ("epochs", "seeds", "image-size", "n-queries", "n-train"):
        parser.add_argument(f"--{name}", type=int, help="instead of the table's own")
    parser.add_argument("--backbone", help="instead of the table's own")
    parser.add_argument("--rates", type=float, nargs="+", help="instead of the table's grid")
    options = parser.parse_args(arguments)
    for name, value in TABLES[options.table][1].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main(arguments=None):
    options = parse(arguments)
    cells = Cells(options.out / f"{options.table}.json", options.rows)
    text = f"{TABLES[options.table][0](cells, options)}\n\n{cells.origin()}"
    (options.out / f"{options.table}.md").write_text(text + "\n")
    print(f"\n{text}")
    _fail(cells)


def _fail(cells):
    """End with an error if a row to run does not exist or a table misses its bars."""
    unknown = cells.unknown_rows()
    if unknown:
        raise SystemExit(
            f"--rows has {', '.join(map(repr, unknown))}, and the table has no such row. Its rows "
            f"are {', '.join(map(repr, dict.fromkeys(cells.known_rows)))}."
        )
    if cells.problems:
        raise SystemExit("\n".join(cells.problems))


if __name__ == "__main__":
    keep_freed_memory()
    main()
