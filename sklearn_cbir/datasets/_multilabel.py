"""Photos with several labels each: NUS-WIDE and MIRFLICKR-25K."""

import os
import re
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._files import is_there
from sklearn_cbir._typing import PathLike
from sklearn_cbir._validation import check_boolean, check_choice, printable
from sklearn_cbir.datasets._files import Distribution, check_folder

__all__ = ["load_mirflickr", "load_nuswide"]

NUSWIDE = Distribution(
    "load_nuswide",
    "ImageList/Imagelist.txt, Groundtruth/AllLabels/Labels_*.txt and the images in Flickr/",
    "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html",
)
MIRFLICKR = Distribution(
    "load_mirflickr",
    "im1.jpg, im2.jpg, ... in the folder or in mirflickr/, and the texts of the labels in "
    "mirflickr25k_annotations_v080/, annotations_v080/ or annotations/",
    "https://press.liacs.nl/mirflickr/mirdownload.html",
)
N_CONCEPTS = 81


class LabelledPhotos(Bunch):
    """Photos with several labels each."""

    data: NDArray[np.str_]
    target: NDArray[np.uint8]
    target_names: list[str]
    n_unlabelled: int
    DESCR: str


class NUSWide(LabelledPhotos):
    """Result of `load_nuswide`."""

    train: NDArray[np.int64] | None
    test: NDArray[np.int64] | None
    n_missing: int


def load_nuswide(
    folder: PathLike,
    *,
    n_labels: Literal[21, 81] = 21,
    drop_unlabelled: bool = True,
    skip_missing: bool = False,
) -> NUSWide:
    r"""List NUS-WIDE [1]_: 269,648 photos with 81 labels, checked by people.

    Parameters
    ----------
    folder : str or path-like
        Folder with ``ImageList``, ``Groundtruth`` and ``Flickr`` (also called
        ``images``), as the archives unpack.

    n_labels : {21, 81}, default=21
        Labels to keep: the 21 most frequent, as the hashing papers do, or all.

    drop_unlabelled : bool, default=True
        Whether to leave out photos with none of these labels, to which nothing is
        relevant; with 21 labels, 195,834 photos remain.

    skip_missing : bool, default=False
        Whether to leave out listed photos that are missing; otherwise they are an
        error. Many are no longer online. A search among fewer photos is easier.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,); ``target``, uint8 0/1
        columns of shape (n, n_labels); ``target_names``, the labels, sorted;
        ``train`` and ``test``, the rows of the official parts, None if its list
        is missing; ``n_unlabelled`` and ``n_missing``, how many photos were left
        out; ``DESCR``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] T.-S. Chua, J. Tang, R. Hong, H. Li, Z. Luo, Y. Zheng. "NUS-WIDE: a
       real-world web image database from National University of Singapore".
       CIVR 2009.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_nuswide
    >>> with TemporaryDirectory() as folder:
    ...     for part in ("ImageList", "Groundtruth/AllLabels", "Flickr/sea"):
    ...         Path(folder, part).mkdir(parents=True)
    ...     for name in ("1.jpg", "2.jpg"):
    ...         Path(folder, "Flickr/sea", name).touch()
    ...     size = Path(folder, "ImageList/Imagelist.txt").write_text("sea\\1.jpg\nsea\\2.jpg")
    ...     for i in range(81):
    ...         labels = Path(folder, f"Groundtruth/AllLabels/Labels_{i:02d}.txt")
    ...         size = labels.write_text("1\n0\n" if i < 9 else "0\n0\n")
    ...     photos = load_nuswide(folder)
    >>> photos.target.shape, photos.n_unlabelled
    ((1, 21), 1)
    """
    check_choice(n_labels, "n_labels", (21, N_CONCEPTS))
    check_boolean(drop_unlabelled, "drop_unlabelled")
    check_boolean(skip_missing, "skip_missing")
    folder = check_folder(folder)
    list_file = NUSWIDE.find(folder, "ImageList/Imagelist.txt", "ImageList/ImageList.txt")
    listed = _listed(list_file)
    names, target = _read_concepts(folder, list_file, len(listed))
    if n_labels < N_CONCEPTS:
        kept = np.sort(np.argsort(-target.sum(axis=0, dtype=np.int64), kind="stable")[:n_labels])
        names, target = [names[i] for i in kept], target[:, kept]
    photos = NUSWIDE.find(folder, "Flickr", "images")
    paths = [os.path.join(photos, *name) for name in listed]
    labelled = target.any(axis=1) | (not drop_unlabelled)
    kept = np.flatnonzero(labelled)
    if skip_missing:
        kept = np.array([row for row in kept if is_there(paths[row])], dtype=np.int64)
    if len(kept) == 0:
        raise NUSWIDE.missing(folder, f"every image that {list_file!r} lists")
    n_unlabelled, n_missing = np.sum(~labelled), np.sum(labelled) - len(kept)
    return NUSWide(
        data=NUSWIDE.existing(folder, [paths[row] for row in kept], repr(list_file)),
        target=target[kept],
        target_names=names,
        **{part: _rows_of_part(folder, part, listed, kept) for part in ("train", "test")},
        n_unlabelled=int(n_unlabelled),
        n_missing=int(n_missing),
        DESCR=f"NUS-WIDE, {len(kept)} photos with {n_labels} labels in "
        f"{printable(folder)}; {n_unlabelled} "
        f"without a label and {n_missing} missing ones left out.",
    )


def _listed(path: str) -> list[tuple[str, ...]]:
    """Return the parts of every path that a list of NUS-WIDE holds; it is written on Windows."""
    with open(path, encoding="utf-8") as file:
        return [tuple(re.split(r"[\\/]", line.strip())) for line in file if line.strip()]


def _read_concepts(folder: str, list_file: str, n: int) -> tuple[list[str], NDArray[np.uint8]]:
    """Return the names of the 81 labels, sorted, and their 0/1 columns (n, 81)."""
    place = NUSWIDE.find(folder, "Groundtruth/AllLabels", "AllLabels")
    files = sorted(name for name in os.listdir(place) if re.fullmatch(r"Labels_.+\.txt", name))
    if len(files) != N_CONCEPTS:
        raise NUSWIDE.missing(
            folder, f"{N_CONCEPTS} files Labels_*.txt; {place!r} has {len(files)}"
        )
    target = np.empty((n, N_CONCEPTS), dtype=np.uint8)
    for column, name in enumerate(files):
        path = os.path.join(place, name)
        with open(path, encoding="utf-8") as file:
            values = file.read().split()
        if len(values) != n or not set(values) <= {"0", "1"}:
            raise NUSWIDE.damaged(
                path, f"is not one 0 or 1 for each of the {n} images of {list_file!r}"
            )
        target[:, column] = np.array(values, dtype=np.uint8)
    return [name[len("Labels_") : -len(".txt")] for name in files], target


def _rows_of_part(
    folder: str, part: str, listed: list[tuple[str, ...]], kept: Iterable[int]
) -> NDArray[np.int64] | None:
    """Return the rows, among those kept, of an official part; None if its list is not there."""
    path = os.path.join(folder, "ImageList", f"{part.capitalize()}Imagelist.txt")
    if not is_there(path):
        return None
    members = set(_listed(path))
    unknown = members - set(listed)
    if unknown:
        raise NUSWIDE.damaged(path, f"names {'/'.join(min(unknown))!r}, which is not an image")
    return np.flatnonzero([listed[row] in members for row in kept])


def load_mirflickr(
    folder: PathLike, *, n_labels: Literal[24, 38] = 24, drop_unlabelled: bool = True
) -> LabelledPhotos:
    r"""List MIRFLICKR-25K [1]_: 25,000 photos with 24 or 38 labels.

    Parameters
    ----------
    folder : str or path-like
        Folder with the photos, or with ``mirflickr``, and next to them
        ``mirflickr25k_annotations_v080``, as the archives unpack.

    n_labels : {24, 38}, default=24
        24 labels of what people saw in the photo; 38 adds 14 labels (``_r1``) of
        photos in which the same thing is prominent.

    drop_unlabelled : bool, default=True
        Whether to leave out photos without a label, to which nothing is relevant;
        24,581 photos remain.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,), in the order of the
        numbers; ``target``, uint8 0/1 columns of shape (n, n_labels);
        ``target_names``, the labels, sorted; ``n_unlabelled``, how many photos
        were left out; ``DESCR``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] M. J. Huiskes, M. S. Lew. "The MIR Flickr retrieval evaluation". ACM
       MIR 2008.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_mirflickr
    >>> with TemporaryDirectory() as folder:
    ...     texts = Path(folder, "mirflickr25k_annotations_v080")
    ...     texts.mkdir()
    ...     for i in range(24):
    ...         size = Path(texts, f"label{i:02d}.txt").write_text("1\n3\n")
    ...     for i in (1, 2, 3):
    ...         Path(folder, f"im{i}.jpg").touch()
    ...     photos = load_mirflickr(folder)
    >>> photos.target.shape, photos.n_unlabelled
    ((2, 24), 1)
    """
    check_choice(n_labels, "n_labels", (24, 38))
    check_boolean(drop_unlabelled, "drop_unlabelled")
    folder = check_folder(folder)
    place, numbers = _numbered_photos(folder)
    names, target = _read_annotations(folder, n_labels, numbers)
    kept = np.flatnonzero(target.any(axis=1) | (not drop_unlabelled))
    n_unlabelled = len(numbers) - len(kept)
    if len(kept) == 0:
        raise MIRFLICKR.missing(folder, "a label for any of its images")
    return LabelledPhotos(
        data=np.array([os.path.join(place, f"im{numbers[row]}.jpg") for row in kept]),
        target=target[kept],
        target_names=names,
        n_unlabelled=n_unlabelled,
        DESCR=f"MIRFLICKR-25K, {len(kept)} photos with {n_labels} labels in {printable(folder)}; "
        f"{n_unlabelled} without a label left out.",
    )


def _numbered_photos(folder: str) -> tuple[str, NDArray[np.int64]]:
    """Return where im1.jpg, im2.jpg, ... lie, and their numbers, ascending."""
    place = MIRFLICKR.locate(folder, ["mirflickr", "images"], "im1.jpg")
    if place is None:
        raise MIRFLICKR.missing(folder, "'im1.jpg'")
    found = (re.fullmatch(r"im(\d+)\.jpg", name) for name in os.listdir(place))
    return place, np.sort([int(match.group(1)) for match in found if match])


def _read_annotations(
    folder: str, n_labels: int, numbers: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.uint8]]:
    """Return the names of the labels, sorted, and their 0/1 columns (n, n_labels)."""
    places = ["mirflickr25k_annotations_v080", "annotations_v080", "annotations"]
    place = MIRFLICKR.find(folder, *places, *(f"mirflickr/{name}" for name in places))
    names = sorted(
        name[: -len(".txt")]
        for name in os.listdir(place)
        if name.endswith(".txt")
        and name != "README.txt"
        and (n_labels == 38 or not name.endswith("_r1.txt"))
    )
    if len(names) != n_labels:
        raise MIRFLICKR.missing(
            folder, f"the texts of {n_labels} labels; {place!r} has {len(names)}"
        )
    target = np.zeros((len(numbers), n_labels), dtype=np.uint8)
    for column, name in enumerate(names):
        path = os.path.join(place, f"{name}.txt")
        members = MIRFLICKR.integers(path, [word for (word,) in MIRFLICKR.rows(path, 1)])
        absent = np.setdiff1d(members, numbers)
        if len(absent):
            raise MIRFLICKR.missing(folder, f"'im{absent[0]}.jpg', which {path!r} lists")
        target[np.searchsorted(numbers, members), column] = 1
    return names, target
