"""Photos of groceries in two levels of classes: Grocery Store."""

import csv
import os

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._typing import PathLike
from sklearn_cbir._validation import printable
from sklearn_cbir.datasets._files import Distribution, check_folder

__all__ = ["load_grocery"]

GROCERY = Distribution(
    "load_grocery",
    "classes.csv, train.txt, val.txt and test.txt (or the same as .csv) and the folders of images "
    "that they list, in the folder, in dataset/ or in GroceryStoreDataset/dataset/",
    "https://github.com/marcusklasson/GroceryStoreDataset",
)
ROOTS = ("dataset", *(f"GroceryStoreDataset{branch}/dataset" for branch in ("", "-master")))
PARTS = ("train", "val", "test")
HEADER = ["path", "fine", "coarse"]
NAME, NUMBER, COARSE_NAME, COARSE_NUMBER = (
    *("Class Name (str)", "Class ID (int)"),
    *("Coarse Class Name (str)", "Coarse Class ID (int)"),
)


class Groceries(Bunch):
    """Result of `load_grocery`."""

    data: NDArray[np.str_]
    target: NDArray[np.int64]
    target_names: list[str]
    coarse_target: NDArray[np.int64]
    coarse_names: list[str]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    DESCR: str


def load_grocery(folder: PathLike) -> Groceries:
    r"""List Grocery Store [1]_: 5,421 photos of 81 products in 43 coarse classes.

    The photos were taken with phones in shops. The official parts share all classes;
    for unseen products, see `split_unseen_products`.

    Parameters
    ----------
    folder : str or path-like
        ``dataset`` of the repository, or the folder that contains it or the
        repository.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,), as listed, training photos
        first; ``target``, the official numbers of the products, int64 of shape
        (n,); ``target_names``; ``coarse_target`` and ``coarse_names``, the same
        of the coarse classes, such as "Apple"; ``train``, ``validation`` and
        ``test``, the rows of the official parts; ``DESCR``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] M. Klasson, C. Zhang, H. Kjellström. "A hierarchical grocery store image
       dataset with visual and semantic labels". WACV 2019.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_grocery
    >>> head = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"
    >>> files = {"classes.csv": f"{head}\nGranny,0,Apple,0\nGala,1,Apple,0\n"}
    >>> with TemporaryDirectory() as folder:
    ...     for number, part in enumerate(["train", "val", "test"]):
    ...         files[f"{part}.txt"] = f"{part}/{number}.jpg, {number % 2}, 0\n"
    ...         files[f"{part}/{number}.jpg"] = ""
    ...     for name, text in files.items():
    ...         Path(folder, name).parent.mkdir(exist_ok=True)
    ...         size = Path(folder, name).write_text(text)
    ...     groceries = load_grocery(folder)
    >>> groceries.target, groceries.target_names, groceries.coarse_names, groceries.test
    (array([0, 1, 0]), ['Granny', 'Gala'], ['Apple'], array([2]))
    """
    folder = check_folder(folder)
    root = GROCERY.locate(folder, ROOTS, "classes.csv") or folder
    names, coarse_names, coarse_of = _read_classes(GROCERY.find(root, "classes.csv"))
    rows = [_read_part(root, part, coarse_of) for part in PARTS]
    paths, target = zip(*(row for part in rows for row in part))
    ends = np.cumsum([len(part) for part in rows])
    train, validation, test = np.split(np.arange(ends[-1]), ends[:-1])
    target = np.array(target, dtype=np.int64)
    return Groceries(
        data=GROCERY.existing(root, paths, "train, val or test"),
        target=target,
        target_names=names,
        coarse_target=coarse_of[target],
        coarse_names=coarse_names,
        train=train,
        validation=validation,
        test=test,
        DESCR=f"Grocery Store, {len(paths)} photos of {len(names)} products in "
        f"{len(coarse_names)} coarse classes in {printable(root)}; MIT licence.",
    )


def _read_classes(path: str) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Return the names of products and coarse classes, and the coarse class of each product."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    wanted = (NAME, NUMBER, COARSE_NAME, COARSE_NUMBER)
    if not rows or any(row.get(name) is None for row in rows for name in wanted):
        raise GROCERY.damaged(path, f"lacks values in the columns {', '.join(wanted)}")
    numbers = GROCERY.integers(path, [row[NUMBER] for row in rows])
    coarse = GROCERY.integers(path, [row[COARSE_NUMBER] for row in rows])
    coarse_names = dict(zip(coarse.tolist(), [row[COARSE_NAME] for row in rows]))
    for kind, found in (("products", sorted(numbers)), ("coarse classes", sorted(coarse_names))):
        if found != list(range(len(found))):
            raise GROCERY.damaged(path, f"does not number its {kind} 0, 1, 2, ...")
    order = np.argsort(numbers)
    return (
        [rows[row][NAME] for row in order],
        [coarse_names[number] for number in range(len(coarse_names))],
        coarse[order],
    )


def _read_part(root: str, part: str, coarse_of: NDArray[np.int64]) -> list[tuple[str, int]]:
    """Return path and product of every photo of an official part."""
    listed = GROCERY.find(root, f"{part}.txt", f"{part}.csv")
    with open(listed, encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
    rows = rows[1:] if rows[:1] == [HEADER] else rows
    if not rows or any(len(row) != len(HEADER) for row in rows):
        raise GROCERY.damaged(
            listed, "is not a list of path, product and coarse class on every line"
        )
    fine, coarse = (GROCERY.integers(listed, [row[column] for row in rows]) for column in (1, 2))
    if fine.min() < 0 or fine.max() >= len(coarse_of):
        raise GROCERY.damaged(
            listed, f"has products from {fine.min()} to {fine.max()}, of {len(coarse_of)}"
        )
    other = np.flatnonzero(coarse_of[fine] != coarse)
    if len(other):
        raise GROCERY.damaged(
            listed, f"has {rows[other[0]][0]!r} in another coarse class than classes.csv"
        )
    paths = [os.path.join(root, *row[0].split("/")) for row in rows]
    return list(zip(paths, fine.tolist()))
