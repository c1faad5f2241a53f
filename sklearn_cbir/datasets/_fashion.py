"""A file of product photos with several kinds of labels."""

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._validation import check_boolean, shortened

__all__ = ["load_fashion_multilabel"]

ARRAYS = ("jpeg", "ends", "labels", "names", "files")


class FashionPhotos(Bunch):
    """Result of `load_fashion_multilabel`."""

    data: NDArray[np.object_]
    target: NDArray[np.uint8]
    target_names: list[str]
    files: NDArray[np.str_]
    n_duplicates: int
    DESCR: str


def load_fashion_multilabel(
    path: str | os.PathLike[str],
    *,
    kinds: Sequence[str] | None = ("subCategory", "articleType", "colorgroup"),
    drop_duplicates: bool = True,
) -> FashionPhotos:
    """Load small product photos with labels of several kinds, from one file.

    It is made for Kaggle's "Fashion Product Images (Small)", whose table has the kind
    and the color of every product; you can store any photos in this form.

    Parameters
    ----------
    path : str or path-like
        An ``.npz`` file with ``jpeg``, the concatenated bytes of all photos,
        uint8; ``ends``, where each ends, integers of shape (n,);
        ``labels``, 0/1 columns of shape (n, n_labels); ``names``, the labels as
        ``"kind=value"``, shape (n_labels,); ``files``, the names of the photos,
        shape (n,).

    kinds : sequence of str, default=("subCategory", "articleType", "colorgroup")
        Kinds of labels to keep; None keeps all.

    drop_duplicates : bool, default=True
        Whether to leave out all photos that have the same bytes as another photo.
        Such pairs would find each other across any split, and their labels may
        contradict each other.

    Returns
    -------
    Bunch
        With ``data``, an array of `bytes`, shape (n,), which every estimator of
        images takes; ``target``, uint8 0/1 columns of shape (n, n_labels);
        ``target_names``, such as "colorgroup=Blue"; ``files``, the names of the
        photos, shape (n,); ``n_duplicates``, how many photos were left out;
        ``DESCR``.

    Raises
    ------
    ValueError
        If the file holds something else, or no labels of one of the kinds.

    Examples
    --------
    >>> import numpy as np
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_fashion_multilabel
    >>> content = {"jpeg": np.frombuffer(b"onetwoone", np.uint8), "ends": [3, 6, 9]}
    >>> content |= {"labels": [[1, 0], [0, 1], [1, 0]], "names": ["type=Tie", "type=Bag"]}
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/photos.npz", **content, files=["1.jpg", "2.jpg", "3.jpg"])
    ...     photos = load_fashion_multilabel(f"{folder}/photos.npz", kinds=["type"])
    >>> photos.data, photos.target, photos.n_duplicates
    (array([b'two'], dtype=object), array([[0, 1]], dtype=uint8), 2)
    """
    check_boolean(drop_duplicates, "drop_duplicates")
    with np.load(path, allow_pickle=False) as file:
        missing = sorted(set(ARRAYS) - set(file))
        if missing:
            raise ValueError(f"{os.fspath(path)!r} is not a file of photos: it lacks {missing}.")
        jpeg, ends, labels, names, files = (file[name] for name in ARRAYS)
    _check_arrays(path, jpeg, ends, labels, names, files)
    columns = _columns(names.tolist(), kinds)
    photos = np.empty(len(ends), dtype=object)
    photos[:] = [
        jpeg[start:end].tobytes() for start, end in itertools.pairwise([0, *ends.tolist()])
    ]
    kept = np.arange(len(photos))
    if drop_duplicates:
        copies = Counter(photos.tolist())
        kept = np.array([row for row in kept if copies[photos[row]] == 1], dtype=np.int64)
    n_duplicates = len(photos) - len(kept)
    return FashionPhotos(
        data=photos[kept],
        target=labels[np.ix_(kept, columns)].astype(np.uint8),
        target_names=names[columns].tolist(),
        files=files[kept],
        n_duplicates=n_duplicates,
        DESCR=f"{len(kept)} photos with {len(columns)} labels, {Path(path).name}; {n_duplicates} "
        "photos with the same bytes as another one left out.",
    )


def _check_arrays(
    path: str | os.PathLike[str],
    jpeg: NDArray[np.generic],
    ends: NDArray[np.generic],
    labels: NDArray[np.generic],
    names: NDArray[np.generic],
    files: NDArray[np.generic],
) -> None:
    """Raise unless the arrays of a file belong together."""
    faults = {
        "jpeg is not uint8 in one row": jpeg.dtype != np.uint8 or jpeg.ndim != 1,
        "ends are not ascending integers up to the length of jpeg": ends.ndim != 1
        or ends.dtype.kind not in "iu"
        or len(ends) == 0
        or not (np.diff(ends.astype(np.int64), prepend=0) > 0).all()
        or ends[-1] != len(jpeg),
        "labels must have one row of 0 and 1 for each of ends and one column for each of names": (
            labels.shape != (len(ends), len(names)) or not np.isin(labels, (0, 1)).all()
        ),
        "names are not of the form kind=value": names.dtype.kind != "U"
        or not all("=" in name for name in names.tolist()),
        "files must have one name for each of ends": files.dtype.kind != "U"
        or files.shape != (len(ends),),
    }
    found = [fault for fault, is_there in faults.items() if is_there]
    if found:
        raise ValueError(f"{os.fspath(path)!r} is not a file of photos: {found[0]}.")


def _columns(names: list[str], kinds: Sequence[str] | None) -> NDArray[np.int64]:
    """Return the columns of the labels of some kinds."""
    kind_of = [name.split("=")[0] for name in names]
    if kinds is None:
        return np.arange(len(names))
    if isinstance(kinds, str) or not set(kinds) <= set(kind_of) or not len(kinds):
        raise ValueError(
            f"kinds={shortened(kinds)} must be some of {list(dict.fromkeys(kind_of))}, as a list, "
            "or None for all."
        )
    return np.flatnonzero(np.isin(kind_of, list(kinds)))
