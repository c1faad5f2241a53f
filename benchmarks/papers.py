"""The comparisons of the five papers, one command each, and one that runs them all.

    python benchmarks/papers.py TABLE --data PATH [--weights-dir FOLDER] [--full] [--out FOLDER]
    python benchmarks/papers.py all --data-dir FOLDER --hours HOURS [--threads N] [--out FOLDER]

Every table writes its finished cells to OUT/TABLE.json and does not run them again, so that a run
that was cut off goes on, with the cell that it was cut off in from its beginning; at the end it
prints a Markdown table, and where its cells ran. A cell belongs to its settings, its data, its
precision and its device: under others, such as more epochs, it is another one, kept beside the
first. With --rows, only these rows are run, and the table shows them and what else is finished.
With --again, nothing new is run, but seed 0 of the rows is trained once more, and the command fails
if other digits come out than the table shows: with the same torch and threads on the same kind of
processor they are the same.

All tables have the same rules. Twelve settings of every row, the rate among them, are drawn once
from all parts of its own ranges and tried, each for an eighth of a training (a whole one where that
takes half a minute), on images that ask nothing in the end; the cells list them. The best is run
with three seeds, five where rows that decide are within two spreads. "Better" and "worse" are said
where the 95 % interval of a bootstrap over seeds and queries (classes, where these were never
trained on) leaves out 0, after Holm's correction over the table; else rows are level. --rates takes
the place of the settings and --seeds that of the rule.

WEIGHTS-DIR holds torchvision's state dicts as NAME.pt. `all` takes what is in its folder, in the
order of what is worth most: the rows that a table is about in all tables, then the other seeds and
lengths. What does not fit into HOURS is not begun, and is listed at the end. The tables:

"""

import argparse
import contextlib
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import numpy as np

from _data import (
    Cells,
    find_weights,
    fingerprint,
    keep_freed_memory,
    load_cifar10_parts,
    stored,
)

# Papers rank all images, or 5,000 and divide by the hits among them; which, many do not say.
NUSWIDE_SCORES = ("map", "map@5000, hits")

# DFEH ----------------------------------------------------------------------------------------


def dfeh_cifar10(cells, options):
    """DFEH's table on CIFAR-10: thirteen methods and five later losses."""
    from _papers import hashing

    task = _cifar10(options)
    return hashing.run(cells, task, options, hashing.CIFAR10_PAPER)


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

    results, task, pairs = hashing.ablations(cells, task, options)
    more = {"paper": hashing.ABLATION_PAPER[name], "pairs": pairs}
    return _compare.report(results, task, ["map", "cpu_seconds"], first="DFEH, 12 bits", **more)


def dfeh_goal(cells, options):
    """DFEH and DSH with a residual network of nine layers, at most twelve epochs, on CIFAR-10."""
    from _papers import hashing

    return hashing.goal(cells, _cifar10(options, gist=False), options)


def dfeh_clothing(cells, options):
    """Codes of six losses on features of a frozen network: DATA is as in squared-hinge."""
    from _papers import hashing

    photos, weights = _photos(options), _weights(options)
    rows = stored_features(photos.inputs["images"], options, options.backbone, weights)
    task = replace(photos, inputs={"images": rows}, scoring=("map",), metric="hamming")
    return hashing.second_set(cells, task, options)


def _cifar10(options, **kwargs):
    from _papers import hashing

    images, y, n_train = load_cifar10_parts(options.data)
    return hashing.task_of(images, y, n_train, options.out, **kwargs)


# Squared hinge and LRML ----------------------------------------------------------------------


def squared_hinge(cells, options):
    """Squared hinge against softmax: DATA holds train and validation, a folder per class each."""
    from _papers import squared_hinge

    return squared_hinge.run(cells, _photos(options), options)


def squared_hinge_grocery(cells, options):
    """Squared hinge against softmax on the 81 products of Grocery Store."""
    from _papers import squared_hinge
    from sklearn_cbir.datasets import load_grocery

    task = squared_hinge.products_task(load_grocery(options.data))
    return squared_hinge.run(cells, task, options, norm=False)


def squared_hinge_epochs(cells, options):
    """Epochs until squared hinge and softmax are stable, whole networks at a constant rate."""
    from _papers import stability

    return stability.run_whole(cells, _photos(options), options)


def squared_hinge_heads(cells, options):
    """The same of heads alone on stored features: DATA holds clothing and, if there, grocery."""
    from _papers import squared_hinge, stability
    from sklearn_cbir.datasets import load_grocery

    clothing = argparse.Namespace(**vars(options) | {"data": options.data / "clothing"})
    photos = {"clothing": _photos(clothing)}
    if (options.data / "grocery").exists():
        photos["Grocery"] = squared_hinge.products_task(load_grocery(options.data / "grocery"))
    tasks = {}
    for backbone, weights in squared_hinge.networks(options, squared_hinge.HEADS).items():
        for name, task in photos.items():
            rows = stored_features(task.inputs["images"], options, backbone, weights)
            tasks[f"{name}, {backbone}"] = replace(task, inputs={"images": rows})
    return stability.run_heads(cells, tasks, options)


def lrml_photos(cells, options):
    """LRML's staircase against equal distances and triplets, on photos as in squared-hinge."""
    from _papers import lrml

    return lrml.run_photos(cells, _photos(options), options)


def lrml_omniglot(cells, options):
    """LRML's staircase against equal distances and triplets, on unseen alphabets."""
    from _papers import lrml

    return lrml.run_drawings(cells, _drawings(options), options)


def lrml_grocery(cells, options):
    """LRML on unseen products of Grocery Store, with the steps behind it."""
    from _papers import lrml
    from sklearn_cbir.datasets import load_grocery

    return lrml.run_photos(cells, lrml.products_task(load_grocery(options.data)), options)


def lrml_holidays_folds(cells, options):
    """LRML on Holidays in five folds of its groups; products in --train-data choose settings."""
    from _papers import lrml

    return lrml.run_folds(cells, *_places_and_products(options), options)


def lrml_transfer(cells, options):
    """LRML trained on Grocery Store, in --train-data, and asked on Holidays."""
    from _papers import lrml

    places, products = _places_and_products(options)
    return lrml.run_transfer(cells, products, places, options)


def _places_and_products(options):
    from sklearn_cbir.datasets import load_grocery, load_holidays

    if options.train_data is None:
        raise SystemExit("--train-data is missing: the folder of Grocery Store.")
    places = load_holidays(options.data, skip_missing=True)
    return places, load_grocery(options.train_data)


def lrml_places(name, cells, options):
    """LRML on Oxford5k, Paris6k or Holidays; --train-data holds a folder per place."""
    from _papers import places
    from sklearn_cbir.datasets import load_image_folder

    if options.train_data is None:
        raise SystemExit("--train-data is missing: a folder with one sub-folder of photos a place.")
    photos = load_image_folder(options.train_data)
    return places.run(cells, name, photos, options)


def _photos(options):
    from _papers import squared_hinge
    from sklearn_cbir.datasets import load_image_folder

    train = load_image_folder(options.data / "train")
    return squared_hinge.task_of(train, load_image_folder(options.data / "validation"))


# Multi-level similarity ----------------------------------------------------------------------


def multi_label_mosaics(tiles, cells, options):
    """Multi-level similarity against binary similarity, on mosaics of CIFAR-10 images."""
    from _papers import multi_label

    images, y, n_train = load_cifar10_parts(options.data)
    parts = (images[:n_train], y[:n_train]), (images[n_train:], y[n_train:])
    n = min(1000, len(parts[1][1]) // 10)  # of the images that ask, one a tile
    numbers = {"n_train": 6 * n, "n_gallery": 6 * n, "n_queries": n}
    task = multi_label.mosaic_task(*parts, tiles=tiles, **numbers)
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
    from _papers import multi_label

    return multi_label.run(cells, task, options, settings)


# Zero-shot -----------------------------------------------------------------------------------


def zero_shot_omniglot(cells, options):
    """CPF against other losses on alphabets that were never trained on."""
    settings = {"backbone": options.backbone, "weights": None, "augment": "crop"}
    settings["pooling"] = "gem"
    return _zero_shot(cells, _drawings(options), options, settings, whole_trials=True)


def zero_shot_grocery(cells, options):
    """CPF against other losses on unseen products of Grocery Store, with and without junk."""
    from _papers import zero_shot
    from sklearn_cbir.datasets import load_grocery

    task = zero_shot.products_task(load_grocery(options.data))
    columns = [*zero_shot.COLUMNS[:2], *zero_shot.WITHOUT_JUNK, *zero_shot.COLUMNS[2:]]
    settings = {"backbone": options.backbone, "image_size": options.image_size}
    settings |= {"weights": _weights(options), "head_epochs": 1}
    return _zero_shot(cells, task, options, settings, columns=columns)


def zero_shot_products(load, constants, cells, options):
    """CPF against other losses on unseen classes of CUB-200, Cars196, SOP or Shopee."""
    from _papers import zero_shot
    from sklearn_cbir import datasets
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
    return _zero_shot(cells, task, options, settings, constants=constants)


def _zero_shot(cells, task, options, settings, **others):
    from _papers import zero_shot

    return zero_shot.run(cells, task, options, settings, **others)


def _drawings(options):
    from _papers import zero_shot
    from sklearn_cbir.datasets import load_drawings

    drawings = load_drawings(options.data)
    unseen = np.isin(drawings.alphabet, np.unique(drawings.alphabet)[-2:])
    return zero_shot.task_of(drawings.data, drawings.target, unseen)


def stored_features(photos, options, backbone, weights):
    """Return the features of an untrained network, from the file that an earlier run wrote."""
    from sklearn_cbir import CNNFeatureExtractor

    size = {"image_size": options.image_size}
    network = CNNFeatureExtractor(backbone, weights=weights, loss=None, words=False, **size)
    of_weights = joblib.hash(Path(weights).read_bytes())[:8]
    at = f"{fingerprint(photos)}-{backbone.rpartition('/')[2]}-{of_weights}-{options.image_size}"
    return stored(
        options.out / f"features-{at}.npy", lambda: network.fit(photos[:1]).transform(photos)
    )


def _weights(options):
    """Return the path of the pretrained weights of the table's network."""
    found = find_weights(options.weights_dir, options.backbone)
    if found is None:
        raise SystemExit(
            f"No {options.backbone}*.pt in --weights-dir={options.weights_dir}. Put torchvision's "
            "state dict of it there."
        )
    return str(found)


# Search without training ---------------------------------------------------------------------


def untrained_steps(cells, options):
    """What each step of a search without training is worth: DATA holds clothing, grocery etc."""
    import untrained_steps

    from _untrained.encoders import chosen

    folders = {name: options.data / name for name in ("clothing", "grocery", "holidays")}
    given = argparse.Namespace(**vars(options) | folders)
    if not folders["holidays"].exists():
        given.holidays = None
    names = options.backbone.split(",") if options.backbone else untrained_steps.ENCODERS
    return untrained_steps.run(cells, chosen(names), given)


# The command ---------------------------------------------------------------------------------

PHOTOS = {"epochs": 8, "image_size": 128}
CODES = {"epochs": 15, "backbone": "small"}
DRAWINGS = {"epochs": 30, "backbone": "small"}
UNSEEN = {"epochs": 100, "backbone": "resnet34", "image_size": 224}
PRODUCTS = PHOTOS | {"backbone": "mobilenet_v2"}
SEVERAL = {"epochs": 20, "backbone": "resnet50", "image_size": 224}
FASHION = {"epochs": 20, "backbone": "small", "image_size": 64}
PLACES = {"epochs": 20, "image_size": 362}
MOSAICS = {"epochs": 8, "backbone": "small"}
TABLES = {
    "squared-hinge": (squared_hinge, PHOTOS),
    "squared-hinge-grocery": (squared_hinge_grocery, PHOTOS),
    "squared-hinge-epochs": (
        squared_hinge_epochs,
        PHOTOS | {"epochs": 40, "backbone": "mobilenet_v2"},
    ),
    "squared-hinge-heads": (squared_hinge_heads, PHOTOS | {"epochs": 200}),
    "dfeh-cifar10": (dfeh_cifar10, CODES | {"epochs": 12}),
    "dfeh-goal": (dfeh_goal, CODES | {"epochs": 12, "backbone": "resnet9"}),
    "dfeh-clothing": (dfeh_clothing, PRODUCTS | {"epochs": 40}),
    "dfeh-ablation": (dfeh_ablation, CODES | {"epochs": 5}),
    "dfeh-svhn": (dfeh_svhn, CODES | {"epochs": 5}),
    "dfeh-nuswide": (dfeh_nuswide, CODES | {"image_size": 64}),
    "hashers-cifar10": (hashers_cifar10, {"seeds": 3}),
    "multi-label-mosaics": (partial(multi_label_mosaics, (1, 2)), MOSAICS),
    "multi-label-mosaics-4": (partial(multi_label_mosaics, (2, 2)), MOSAICS),
    "multi-label-fashion": (multi_label_fashion, FASHION | {"n_queries": 1000, "n_train": 5000}),
    "multi-label-nuswide": (multi_label_nuswide, SEVERAL),
    "multi-label-mirflickr": (multi_label_mirflickr, SEVERAL),
    "zero-shot-omniglot": (zero_shot_omniglot, DRAWINGS),
    "zero-shot-grocery": (zero_shot_grocery, PRODUCTS | {"epochs": 8}),
    "zero-shot-cub": (partial(zero_shot_products, "load_cub", "cub"), UNSEEN),
    "zero-shot-cars": (partial(zero_shot_products, "load_cars", "cars"), UNSEEN),
    "zero-shot-sop": (partial(zero_shot_products, "load_sop", "sop"), UNSEEN),
    "zero-shot-shopee": (partial(zero_shot_products, "load_shopee", "shopee"), UNSEEN),
    "lrml-photos": (lrml_photos, PHOTOS | {"epochs": 3}),
    "lrml-omniglot": (lrml_omniglot, DRAWINGS),
    "lrml-grocery": (lrml_grocery, PRODUCTS),
    "lrml-holidays-folds": (lrml_holidays_folds, PRODUCTS),
    "lrml-transfer": (lrml_transfer, PRODUCTS),
    "lrml-oxford5k": (partial(lrml_places, "oxford5k"), PLACES),
    "lrml-paris6k": (partial(lrml_places, "paris6k"), PLACES),
    "lrml-holidays": (partial(lrml_places, "holidays"), PLACES),
    "untrained-steps": (untrained_steps, {}),
}
# What `all` runs, what is worth most first: the table, its data in --data-dir, its --train-data.
ORDER = (
    ("zero-shot-grocery", "grocery"),
    ("dfeh-cifar10", "cifar10_jpeg.npz"),
    ("multi-label-fashion", "fashion_multilabel.npz"),
    ("lrml-grocery", "grocery"),
    ("lrml-holidays-folds", "holidays", "grocery"),
    ("squared-hinge", "clothing"),
    ("untrained-steps", "."),
    ("dfeh-clothing", "clothing"),
    ("zero-shot-omniglot", "omniglot_small1.npz"),
    ("lrml-transfer", "holidays", "grocery"),
    ("squared-hinge-grocery", "grocery"),
    ("squared-hinge-heads", "."),
    ("multi-label-mosaics", "cifar10_jpeg.npz"),
    ("dfeh-ablation", "cifar10_jpeg.npz"),
    ("lrml-omniglot", "omniglot_small1.npz"),
    ("dfeh-goal", "cifar10_jpeg.npz"),
    ("squared-hinge-epochs", "clothing"),
    ("hashers-cifar10", "cifar10_jpeg.npz"),
)


def _summary(function):
    return getattr(function, "func", function).__doc__.splitlines()[0]


def parse(arguments=None):
    lines = [f"  {name:<23}{_summary(function)}" for name, (function, _) in TABLES.items()]
    parser = argparse.ArgumentParser(
        description=__doc__ + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=[*TABLES, "all"], metavar="TABLE", help="which comparison")
    parser.add_argument("--data", type=Path, help="the data of the table")
    parser.add_argument("--data-dir", type=Path, help="of all: the folder with the data of each")
    parser.add_argument("--hours", type=float, help="of all: no cell begins later")
    parser.add_argument("--weights-dir", type=Path, help="folder of NAME*.pt state dicts")
    parser.add_argument("--full", action="store_true", help="every length, network and variant")
    parser.add_argument("--core", action="store_true", help="the rows that decide, three seeds")
    parser.add_argument("--rows", nargs="+", help="run only these, by their names in the table")
    parser.add_argument("--again", action="store_true", help="train finished cells once more")
    parser.add_argument("--tables", nargs="+", choices=TABLES, help="of all: only these")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--train-data", type=Path, help="labelled places, for lrml-oxford5k etc.")
    for name in ("epochs", "seeds", "image-size", "n-queries", "n-train"):
        parser.add_argument(f"--{name}", type=int, help="instead of the table's own")
    parser.add_argument("--backbone", help="instead of the table's own")
    parser.add_argument("--rates", type=float, nargs="+", help="tried instead of drawn settings")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="of torch and BLAS")
    parser.add_argument("--quick", action="store_true", help="a few photos; of untrained-steps")
    options = parser.parse_args(arguments)
    needed = ("data_dir", "hours") if options.table == "all" else ("data",)
    for name in needed:
        if getattr(options, name) is None:
            parser.error(f"{options.table} needs --{name.replace('_', '-')}.")
    if options.table == "all" and options.again:
        parser.error("--again is for one table.")
    return options if options.table == "all" else of_table(options, options.table)


def of_table(options, table):
    """Return the options with the table's own where none were given."""
    given = argparse.Namespace(**vars(options) | {"table": table})
    for name, value in TABLES[table][1].items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def main(arguments=None):
    options = parse(arguments)
    with _threads(options.threads):
        if options.table == "all":
            run_all(options)
        else:
            path = options.out / f"{options.table}.json"
            cells = Cells(path, options.rows, again=options.again)
            run_table(cells, options)
            _fail(cells)


def run_table(cells, options):
    """Run a table as far as its cells may, and print and write it."""
    from _papers._losses import one_precision

    with one_precision(options.precision):
        text = TABLES[options.table][0](cells, options)
    how = f"Networks are trained in {options.precision} on {options.device}."
    again = [f"{key}: {what}." for key, what in cells.compared.items()]
    text = "\n\n".join([text, f"{how} {cells.origin()}", *again])
    (options.out / f"{options.table}.md").write_text(text + "\n")
    print(f"\n{text}", flush=True)


def run_all(options):
    """Run the tables in the order of their worth: the rows that decide in all, then the rest."""
    until = time.monotonic() + 3600 * options.hours
    left, problems = {}, []
    for core in (True,) if options.core else (True, False):
        for table, data, *train_data in ORDER:
            if options.tables and table not in options.tables:
                continue
            paths = [options.data_dir / of for of in (data, *train_data)]
            absent = [path for path in paths if not path.exists()]
            if absent:
                left[table] = [f"its data are not there: {', '.join(map(str, absent))}"]
                continue
            of_it = of_table(options, table)
            of_it.core, of_it.data, of_it.train_data = core, paths[0], [*paths, None][1]
            of_it.weights_dir = options.weights_dir or options.data_dir / "weights"
            cells = Cells(options.out / f"{table}.json", options.rows, until)
            print(f"\n## {table}", flush=True)
            try:
                run_table(cells, of_it)
            except SystemExit as error:  # weights are not there
                left[table] = [str(error)]
                continue
            left[table] = cells.missing
            problems += [f"{table}: {problem}" for problem in cells.problems]
    print(f"\n{summary(left)}", flush=True)
    if problems:
        raise SystemExit("\n".join(problems))


def summary(left):
    """Return which tables are finished, and from which cells on the rows of the others are not."""
    lines = [f"Finished: {', '.join(name for name, of in left.items() if not of) or 'none'}."]
    for name, missing in left.items():
        lines += [f"Not run, {name}:", *(f"  {cell}" for cell in missing)] if missing else []
    return "\n".join(lines)


def _threads(n):
    """Return a context in which torch and BLAS have so many threads; None changes nothing."""
    if n is None:
        return contextlib.nullcontext()
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(n)
    return threadpool_limits(n)


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
