"""Data sets of zero-shot retrieval: CUB, Cars, Stanford Online Products and Shopee."""

import csv
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._files import is_there
from sklearn_cbir._typing import PathLike
from sklearn_cbir._validation import printable
from sklearn_cbir.datasets._files import Distribution, check_folder
from sklearn_cbir.datasets._pixels import read_matlab

__all__ = ["load_cars", "load_cub", "load_shopee", "load_sop"]

CUB = Distribution(
    "load_cub",
    "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt and images/, in the "
    "folder or in CUB_200_2011/",
    "https://www.vision.caltech.edu/datasets/cub_200_2011/",
)
CARS = Distribution(
    "load_cars",
    "cars_annos.mat and car_ims/, or cars_train/, cars_test/, devkit/ and "
    "cars_test_annos_withlabels.mat",
    "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
)
SOP = Distribution(
    "load_sop",
    "Ebay_train.txt, Ebay_test.txt and the folders of images that they list, in the folder or in "
    "Stanford_Online_Products/",
    "https://cvgl.stanford.edu/projects/lifted_struct/",
)
SHOPEE = Distribution(
    "load_shopee",
    "train.csv and train_images/",
    "https://www.kaggle.com/c/shopee-product-matching/data",
)


class Photos(Bunch):
    """Photos with one label each, in two official parts."""

    data: NDArray[np.str_]
    target: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    DESCR: str


class NamedPhotos(Photos):
    """Result of `load_cub` and `load_cars`."""

    target_names: list[str]


class Products(Photos):
    """Result of `load_sop`."""

    super_target: NDArray[np.str_]


class Offers(Bunch):
    """Result of `load_shopee`."""

    data: NDArray[np.str_]
    target: NDArray[np.int64]
    title: NDArray[np.str_]
    posting_id: NDArray[np.str_]
    DESCR: str


def load_cub(folder: PathLike) -> NamedPhotos:
    r"""List CUB-200-2011 [1]_: 11,788 photos of 200 species of birds.

    Parameters
    ----------
    folder : str or path-like
        ``CUB_200_2011``, or the folder that contains it.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,); ``target``, class indices
        in the official order, int64 of shape (n,); ``target_names``; ``train``
        and ``test``, the rows of the official parts, which share all classes;
        ``DESCR``. Zero-shot retrieval trains on the first 100 classes instead:
        ``split_protocol("zero-shot", birds.target)``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie. "The
       Caltech-UCSD Birds-200-2011 dataset". Technical report CNS-TR-2011-001,
       California Institute of Technology, 2011.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_cub
    >>> files = {"images.txt": "1 a/1.jpg\n2 b/2.jpg", "image_class_labels.txt": "1 1\n2 2"}
    >>> files |= {"classes.txt": "1 a\n2 b", "train_test_split.txt": "1 0\n2 1"}
    >>> files |= {"images/a/1.jpg": "", "images/b/2.jpg": ""}
    >>> with TemporaryDirectory() as folder:
    ...     for name, text in files.items():
    ...         Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
    ...         size = Path(folder, name).write_text(text)
    ...     birds = load_cub(folder)
    >>> birds.target, birds.target_names, birds.train
    (array([0, 1]), ['a', 'b'], array([1]))
    """
    folder = check_folder(folder)
    root = CUB.locate(folder, ["CUB_200_2011"], "images.txt") or folder
    files = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    images, labels, parts, classes = (dict(CUB.rows(CUB.find(root, f), 2)) for f in files)
    for name, table in zip(files[1:3], (labels, parts)):
        if table.keys() != images.keys():
            raise CUB.damaged(os.path.join(root, name), "lists other images than images.txt")
    if not set(labels.values()) <= classes.keys():
        raise CUB.damaged(os.path.join(root, files[1]), "names classes that classes.txt lacks")
    position = {number: i for i, number in enumerate(classes)}
    paths = [os.path.join(root, "images", *name.split("/")) for name in images.values()]
    in_training = np.array([parts[number] == "1" for number in images])
    return NamedPhotos(
        data=CUB.existing(root, paths, "images.txt"),
        target=np.array([position[labels[number]] for number in images], dtype=np.int64),
        target_names=list(classes.values()),
        train=np.flatnonzero(in_training),
        test=np.flatnonzero(~in_training),
        DESCR=f"CUB-200-2011, {len(paths)} photos of {len(classes)} classes in {printable(root)}.",
    )


def load_cars(folder: PathLike) -> NamedPhotos:
    """List Cars-196 [1]_: 16,185 photos of 196 models of cars.

    It was distributed in two layouts; both can be read. Rows are in the order of
    the annotations; in the second layout, training photos come first.

    Parameters
    ----------
    folder : str or path-like
        Folder with ``cars_annos.mat`` and ``car_ims``; or with ``cars_train``,
        ``cars_test``, ``devkit`` and ``cars_test_annos_withlabels.mat``, the last
        also inside ``devkit``.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,); ``target``, class indices
        in the official order, int64 of shape (n,); ``target_names``; ``train``
        and ``test``, the rows of the official parts, which share all classes;
        ``DESCR``. Zero-shot retrieval trains on the first 98 classes instead:
        ``split_protocol("zero-shot", cars.target)``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] J. Krause, M. Stark, J. Deng, L. Fei-Fei. "3D object representations for
       fine-grained categorization". ICCV workshops 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from scipy.io import savemat
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_cars
    >>> fields = [("relative_im_path", object), ("class", object), ("test", object)]
    >>> rows = [("car_ims/000001.jpg", 1, 0), ("car_ims/000002.jpg", 2, 1)]
    >>> names = np.array(["Audi", "BMW"], dtype=object)
    >>> with TemporaryDirectory() as folder:
    ...     Path(folder, "car_ims").mkdir()
    ...     for path, _, _ in rows:
    ...         Path(folder, path).touch()
    ...     file = {"annotations": np.array(rows, dtype=fields), "class_names": names}
    ...     savemat(f"{folder}/cars_annos.mat", file)
    ...     cars = load_cars(folder)
    >>> cars.target, cars.target_names, cars.test
    (array([0, 1]), ['Audi', 'BMW'], array([1]))
    """
    folder = check_folder(folder)
    if is_there(os.path.join(folder, "cars_annos.mat")):
        names, rows = _read_cars_of_one_list(folder)
    else:
        names, rows = _read_cars_of_the_devkit(folder)
    paths, numbers, in_test = zip(*rows)
    target = np.array(numbers, dtype=np.int64) - 1
    if target.min() < 0 or target.max() >= len(names):
        raise CARS.damaged(folder, f"has classes from {target.min() + 1} to {target.max() + 1}")
    in_test = np.array(in_test, dtype=bool)
    return NamedPhotos(
        data=CARS.existing(folder, paths, "its annotations"),
        target=target,
        target_names=names,
        train=np.flatnonzero(~in_test),
        test=np.flatnonzero(in_test),
        DESCR=f"Cars-196, {len(paths)} photos of {len(names)} classes in {printable(folder)}.",
    )


def _read_cars_of_one_list(folder: str) -> tuple[list[str], list[tuple[str, int, bool]]]:
    """Return the class names, and path, class and part of every image of cars_annos.mat."""
    path = os.path.join(folder, "cars_annos.mat")
    file = _read_annotations(path, ["relative_im_path", "class", "test"])
    rows = [(os.path.join(folder, *name.split("/")), *rest) for name, *rest in file["rows"]]
    return _class_names(path, file), rows


def _read_cars_of_the_devkit(folder: str) -> tuple[list[str], list[tuple[str, int, bool]]]:
    """Return the photos and labels from the two lists of the newer layout."""
    meta = CARS.find(folder, "devkit/cars_meta.mat", "cars_annos.mat")
    train = CARS.find(folder, "devkit/cars_train_annos.mat")
    test = CARS.find(
        folder, "cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"
    )
    names = _class_names(meta, read_matlab(CARS, meta, squeeze_me=True))
    rows = [
        (os.path.join(folder, part, name), number, part == "cars_test")
        for part, path in (("cars_train", train), ("cars_test", test))
        for name, number in _read_annotations(path, ["fname", "class"])["rows"]
    ]
    return names, rows


def _read_annotations(path: str, fields: list[str]) -> dict[str, Any]:
    """Return the variables of a MATLAB file, and as "rows" the fields of its annotations."""
    file = read_matlab(CARS, path, squeeze_me=True)
    annotations = np.atleast_1d(file.get("annotations", np.empty(0)))
    if not set(fields) <= set(annotations.dtype.names or ()) or len(annotations) == 0:
        raise CARS.damaged(path, f"lacks annotations with {fields}")
    file["rows"] = [tuple(row[field] for field in fields) for row in annotations]
    return file


def _class_names(path: str, file: dict[str, Any]) -> list[str]:
    """Return the names of the classes that a MATLAB file holds."""
    if "class_names" not in file:
        raise CARS.damaged(path, "lacks the variable 'class_names'")
    return [str(name) for name in np.atleast_1d(file["class_names"])]


def load_sop(folder: PathLike) -> Products:
    r"""List Stanford Online Products [1]_: 120,053 photos of 22,634 products.

    Parameters
    ----------
    folder : str or path-like
        ``Stanford_Online_Products``, or the folder that contains it.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,); ``target``, the official
        numbers of the products, int64 of shape (n,); ``super_target``, names of
        the twelve kinds of products, shape (n,); ``train`` and ``test``, the
        rows of the official parts, which share no product; ``DESCR``. The usual
        split is ``split_protocol("zero-shot", products.target,
        test=products.test)``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] H. O. Song, Y. Xiang, S. Jegelka, S. Savarese. "Deep metric learning via
       lifted structured feature embedding". CVPR 2016.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_sop
    >>> head = "image_id class_id super_class_id path\n"
    >>> with TemporaryDirectory() as folder:
    ...     Path(folder, "mug_final").mkdir()
    ...     for i, part in enumerate(["train", "test"], start=1):
    ...         Path(folder, f"mug_final/{i}.JPG").touch()
    ...         text = f"{head}{i} {i} 1 mug_final/{i}.JPG\n"
    ...         size = Path(folder, f"Ebay_{part}.txt").write_text(text)
    ...     products = load_sop(folder)
    >>> products.target, products.super_target, products.test
    (array([1, 2]), array(['mug', 'mug'], dtype='<U3'), array([1]))
    """
    folder = check_folder(folder)
    root = SOP.locate(folder, ["Stanford_Online_Products"], "Ebay_train.txt") or folder
    rows, sizes = [], []
    for part in ("train", "test"):
        path = SOP.find(root, f"Ebay_{part}.txt")
        header, *listed = SOP.rows(path, 4) or [[]]
        if header != ["image_id", "class_id", "super_class_id", "path"] or not listed:
            raise SOP.damaged(path, f"begins with {' '.join(header)!r}")
        target = SOP.integers(path, [row[1] for row in listed])
        rows += [(row[3], number) for row, number in zip(listed, target)]
        sizes.append(len(listed))
    names, target = zip(*rows)
    paths = [os.path.join(root, *name.split("/")) for name in names]
    every = np.arange(len(paths))
    return Products(
        data=SOP.existing(root, paths, "Ebay_train.txt or Ebay_test.txt"),
        target=np.array(target),
        super_target=np.array([name.split("/")[0].removesuffix("_final") for name in names]),
        train=every[: sizes[0]],
        test=every[sizes[0] :],
        DESCR=f"Stanford Online Products, {len(paths)} photos of {len(set(target))} products in "
        f"{root}.",
    )


def load_shopee(folder: PathLike) -> Offers:
    r"""List the training part of Shopee's product matching challenge [1]_.

    34,250 offers with a photo and a title; offers of the same product form one of
    11,014 groups. The test part has no labels.

    Parameters
    ----------
    folder : str or path-like
        Folder with ``train.csv`` and ``train_images``.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,), in which a photo of several
        offers occurs several times; ``target``, the numbers of the groups, int64
        of shape (n,); ``title`` and ``posting_id``, arrays of str, shape (n,);
        ``DESCR``. The data have no official split: use `ClassDisjointKFold`.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] "Shopee - Price match guarantee". Kaggle, 2021.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_shopee
    >>> text = "posting_id,image,image_phash,title,label_group\ntrain_1,a.jpg,0,A mug,249114794\n"
    >>> with TemporaryDirectory() as folder:
    ...     size = Path(folder, "train.csv").write_text(text)
    ...     Path(folder, "train_images").mkdir()
    ...     Path(folder, "train_images/a.jpg").touch()
    ...     offers = load_shopee(folder)
    >>> offers.target, offers.title
    (array([249114794]), array(['A mug'], dtype='<U5'))
    """
    folder = check_folder(folder)
    path = SHOPEE.find(folder, "train.csv")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = ("posting_id", "image", "title", "label_group")
    if not rows or any(row.get(name) is None for row in rows for name in wanted):
        raise SHOPEE.damaged(path, f"lacks values in the columns {', '.join(wanted)}")
    photos = SHOPEE.find(folder, "train_images")
    paths = [os.path.join(photos, row["image"]) for row in rows]
    target = SHOPEE.integers(path, [row["label_group"] for row in rows])
    return Offers(
        data=SHOPEE.existing(folder, paths, "train.csv"),
        target=target,
        title=np.array([row["title"] for row in rows]),
        posting_id=np.array([row["posting_id"] for row in rows]),
        DESCR=f"Shopee, {len(rows)} offers of {len(set(target.tolist()))} products in "
        f"{printable(folder)}.",
    )
