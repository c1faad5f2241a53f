"""The comparisons of the five papers, one command each.

    python benchmarks/papers.py TABLE --data PATH [--weights-dir FOLDER] [--full] [--out FOLDER]

Every table writes its finished cells to OUT/TABLE.json and does not run them again, so that a run
that was cut off goes on; at the end it prints a Markdown table. Rates are chosen by the same trials
for every row, on images that never ask in the end. `--list` says what there is.
"""

import argparse
from pathlib import Path

from _data import Cells, keep_freed_memory, load_cifar10


def dfeh_cifar10(cells, options):
    """DFEH's table on CIFAR-10: thirteen methods and five later losses."""
    from _papers import hashing

    return hashing.run(cells, _cifar10(options), options, hashing.CIFAR10_PAPER)


def hashers_cifar10(cells, options):
    """The classical hashers on GIST of CIFAR-10: above chance, at chance without labels, time."""
    from _papers import hashing

    return hashing.check_hashers(cells, _cifar10(options), options)


def dfeh_ablation(cells, options):
    """DFEH's ablations on CIFAR-10: weights, terms, enhancement layer, network."""
    from _papers import _compare, hashing

    results = hashing.ablations(cells, _cifar10(options, gist=False), options)
    return _compare.table(results, ["map"], first="DFEH, 12 bits")


def _cifar10(options, **kwargs):
    import numpy as np
    from _papers import hashing

    images, y = load_cifar10(options.data, "train")
    test_images, y_test = load_cifar10(options.data, "test")
    images, y = np.concatenate([images, test_images]), np.concatenate([y, y_test])
    return hashing.task_of(images, y, len(images) - len(y_test), options.out, **kwargs)


def squared_hinge(cells, options):
    """Squared hinge against softmax: DATA holds train and validation, a folder per class each."""
    from _papers import squared_hinge

    return squared_hinge.run(cells, _photos(options), options)


def lrml_photos(cells, options):
    """LRML's staircase against equal distances and triplets, on photos as in squared-hinge."""
    from _papers import _compare, lrml

    results = lrml.run_photos(cells, _photos(options), options)
    return _compare.table(results, ["map", "precision@10"], first="loss")


def _photos(options):
    from _papers import squared_hinge

    from sklearn_cbir.datasets import load_image_folder

    train = load_image_folder(options.data / "train")
    return squared_hinge.task_of(train, load_image_folder(options.data / "validation"))


def lrml_omniglot(cells, options):
    """LRML's staircase against equal distances and triplets, on unseen alphabets."""
    from _papers import _compare, lrml

    results = lrml.run_drawings(cells, _drawings(options), options)
    return _compare.table(results, ["map", "recall@1", "map_at_r"], first="loss")


def _drawings(options):
    import numpy as np
    from _papers import zero_shot

    from sklearn_cbir.datasets import load_drawings

    drawings = load_drawings(options.data)
    unseen = np.isin(drawings.alphabet, np.unique(drawings.alphabet)[-2:])
    return zero_shot.task_of(drawings.data, drawings.target, unseen)


def zero_shot_omniglot(cells, options):
    """CPF against other losses on alphabets that were never trained on."""
    from _papers import _compare, zero_shot

    task = _drawings(options)
    settings = {"backbone": options.backbone, "weights": None, "augment": "crop", "autocast": True}
    results = zero_shot.run(cells, task, options, settings)
    return _compare.table(results, zero_shot.COLUMNS, first="loss")


def multi_label_mosaics(cells, options):
    """Multi-level similarity against binary similarity, on mosaics of four CIFAR-10 images."""
    from _papers import _compare, multi_label

    parts = load_cifar10(options.data, "train"), load_cifar10(options.data, "test")
    results = multi_label.run(cells, multi_label.mosaic_task(*parts), options, {})
    return _compare.table(results, multi_label.COLUMNS, first="similarity")


PHOTOS = {"epochs": 8, "seeds": 3, "image_size": 128}
TABLES = {
    "squared-hinge": (squared_hinge, PHOTOS),
    "lrml-photos": (lrml_photos, PHOTOS),
    "lrml-omniglot": (lrml_omniglot, {"epochs": 30, "seeds": 3, "backbone": "small"}),
    "dfeh-cifar10": (dfeh_cifar10, {"epochs": 12, "seeds": 1, "backbone": "small"}),
    "multi-label-mosaics": (multi_label_mosaics, {"epochs": 12, "seeds": 2, "backbone": "small"}),
    "zero-shot-omniglot": (zero_shot_omniglot, {"epochs": 30, "seeds": 5, "backbone": "small"}),
    "hashers-cifar10": (hashers_cifar10, {"seeds": 3}),
    "dfeh-ablation": (dfeh_ablation, {"epochs": 15, "seeds": 1, "backbone": "small"}),
}


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES, help="which comparison")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, help="folder of NAME*.pt state dicts")
    parser.add_argument("--full", action="store_true", help="every length, network and variant")
    parser.add_argument("--out", type=Path, default=Path("out"))
    for name, kind in (("epochs", int), ("seeds", int), ("image-size", int), ("backbone", str)):
        parser.add_argument(f"--{name}", type=kind, help="instead of the table's own")
    parser.add_argument("--rates", type=float, nargs="+", help="instead of the table's grid")
    options = parser.parse_args(arguments)
    for name, value in TABLES[options.table][1].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main(arguments=None):
    options = parse(arguments)
    cells = Cells(options.out / f"{options.table}.json")
    text = TABLES[options.table][0](cells, options)
    (options.out / f"{options.table}.md").write_text(text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    keep_freed_memory()
    main()
