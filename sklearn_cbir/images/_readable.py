"""Find all unreadable images at once, and leave them out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._typing import Elements, ImagesLike
from sklearn_cbir._validation import check_choice
from sklearn_cbir.images._batches import Images
from sklearn_cbir.images._checking import check_images
from sklearn_cbir.images._faults import ImageReadError, fault_of, moved, row_of, with_others

# More are not looked through after a failure: that would take hours, and the error waits for it.
MAX_SCANNED = 20_000


class ReadableImages(Bunch):
    """What `readable_images` finds."""

    data: ImagesLike
    arrays: list[Any]  # of the types of those that were passed
    positions: NDArray[np.int64]
    faults: list[ImageReadError]
    temporary: list[ImageReadError]


def readable_images(
    X: ImagesLike,
    *arrays: ArrayLike | Elements | None,
    verify: Literal["decode", "header"] = "decode",
    progress: bool = False,
) -> ReadableImages:
    """Leave out the images that cannot be read, with their labels and ids.

    Parameters
    ----------
    X : images
        Images in any form that estimators take. Rows of a table without an image (None,
        NaN, empty text) are left out too.

    *arrays : array-like of shape (n_samples, ...) or None
        One value per image: labels, ids, weights. None stays None.

    verify : {"decode", "header"}, default="decode"
        ``"decode"`` decodes every image, a JPEG at an eighth of its size, so no later
        read fails, unless a file changes. ``"header"`` is faster and finds the images
        that `fit` refuses before it trains.

    progress : bool, default=False
        Whether to draw a progress bar.

    Returns
    -------
    Bunch
        With ``data``, the readable images, of the type of `X`; ``arrays``, a list
        of `arrays` without the rows of the others; ``positions``, the remaining
        rows of `X`, int64; ``faults``, a list with one ImageReadError per image
        that is left out; ``temporary``, those faults that may pass because only
        access failed (a missing file, no permission, a missing share).

    Raises
    ------
    ValueError
        If `X` holds no images, or an array has another length.

    ImageReadError
        If none of the images can be read.

    Examples
    --------
    >>> from sklearn_cbir.images import readable_images
    >>> from PIL import Image
    >>> photos = [Image.new("RGB", (8, 8)), Image.new("I", (8, 8))]
    >>> found = readable_images(photos, ["red", "green"])
    >>> len(found.data), found.arrays, found.positions
    (1, [['red']], array([0]))
    >>> found.faults[0].reason
    '32-bit integer pixels have no fixed range, so it must be converted to 8 or 16 bit'
    """
    check_choice(verify, "verify", ("decode", "header"))
    X, named, faults = named_rows(X)
    n = len(named) + len(faults)
    try:
        images = check_images(X) if len(named) else None
    except ImageReadError as error:  # pixels of arrays are looked at here
        dark = [row_of(fault) for fault in error.faults]
        faults += [moved(fault, int(named[row_of(fault)])) for fault in error.faults]
        lit = np.delete(np.arange(len(named)), dark)
        named, X = named[lit], rows_of(X, lit)
        images = check_images(X) if len(named) else None
    for number, array in enumerate(arrays):
        if array is not None and _num_samples(array) != n:
            raise ValueError(
                f"arrays[{number}] has {_num_samples(array)} rows, but X has {n} images. Pass one "
                "row per image."
            )
    left = np.arange(0)
    if images is not None:
        found = images.find_faults(decode=verify == "decode", progress=progress)
        left = np.flatnonzero(~np.isin(images._rows, [row_of(fault) for fault in found]))
        if len(named) < n:  # some of X have no name: `images` are the others
            found = [moved(fault, int(named[row_of(fault)])) for fault in found]
        faults = sorted([*faults, *found], key=row_of)
    if not len(left):
        raise with_others(faults)
    positions = named[left]
    return ReadableImages(
        data=rows_of(X, left),
        arrays=[None if array is None else rows_of(array, positions) for array in arrays],
        positions=positions,
        faults=faults,
        temporary=[fault for fault in faults if fault.is_temporary],
    )


def named_rows(X: Any) -> tuple[Any, NDArray[np.int64], list[ImageReadError]]:
    """Return the rows of `X` that name an image, their positions, and a fault per other row.

    Tables have rows without a path: None, NaN, or empty text.
    """
    values = X.iloc[:, 0] if hasattr(X, "iloc") and getattr(X, "ndim", 1) == 2 else X
    if hasattr(values, "to_pylist"):  # pyarrow's own to_numpy refuses text
        values = np.asarray(values)
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
    is_list = isinstance(values, (list, tuple))
    if not is_list and not (isinstance(values, np.ndarray) and values.dtype.kind in "OU"):
        return X, np.arange(_num_samples(values)), []
    empty = [row for row, value in enumerate(values) if _names_nothing(value)]
    faults = [fault_of(row, None, "there is no path", "Name its file") for row in empty]
    named = np.delete(np.arange(len(values)), empty)
    return (rows_of(X, named) if empty and len(named) else X), named, faults


def _names_nothing(value: object) -> bool:
    """Say whether an element of a table is no path: empty or missing."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, str)) and (value != value or value == "")


def rows_of(X: Any, positions: NDArray[np.int64]) -> Any:
    """Return some rows of what a user passed, of the same type where it can be selected."""
    if isinstance(X, tuple):
        return tuple(X[position] for position in positions)
    if isinstance(X, list) or hasattr(X, "shape") or hasattr(X, "to_pylist"):
        return _safe_indexing(X, positions)
    return check_images(X)[positions]  # lazily, as they were


@contextmanager
def telling_all_faults(images: object, progress: bool = False) -> Iterator[None]:
    """Let an error of the block that names one unreadable image name all of `images`."""
    try:
        yield
    except ImageReadError as error:
        tell_all_faults(error, images, progress)
        raise


def tell_all_faults(error: ImageReadError, images: object, progress: bool = False) -> None:
    """Raise an error that names all unreadable images, if there are more than `error` names.

    The call is lost anyway, and who has repaired one image wants no second error.
    """
    if error.index is None or not isinstance(images, Images) or len(images) > MAX_SCANNED:
        return
    known = {row_of(fault): fault for fault in error.faults}
    found = {row_of(fault): fault for fault in images.find_faults(decode=True, progress=progress)}
    faults = [found.get(index) or known[index] for index in sorted(known | found)]
    if len(faults) > len(known):
        raise with_others(faults) from error
