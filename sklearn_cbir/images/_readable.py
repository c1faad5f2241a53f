"""All images that cannot be read at once, and what is left without them."""

from contextlib import contextmanager

import numpy as np
from sklearn.utils import Bunch, _safe_indexing
from sklearn.utils.validation import _num_samples

from sklearn_cbir._validation import check_choice
from sklearn_cbir.images._batches import Images
from sklearn_cbir.images._checking import check_images
from sklearn_cbir.images._faults import ImageReadError, with_others

# More are not looked through after a failure: that would take hours, and the error waits for it.
MAX_SCANNED = 20_000


def readable_images(X, *arrays, verify="decode", progress=False):
    """Leave out the images that cannot be read, with their labels and ids.

    Parameters
    ----------
    X : images
        What any estimator of images takes.

    *arrays : array-like of shape (n_samples, ...) or None
        What belongs to the images: labels, ids, weights. None stays None.

    verify : {"decode", "header"}, default="decode"
        ``"decode"`` decodes every image, a JPEG at an eighth of its size, so that
        no later read fails, unless a file changes. ``"header"`` is faster and
        finds what `fit` refuses before it trains.

    progress : bool, default=False
        Whether to draw a progress bar.

    Returns
    -------
    Bunch
        With ``data``, the images that can be read, of the type of `X`;
        ``arrays``, a list of `arrays` without the rows of the others;
        ``positions``, the rows of `X` that are left, int64; ``faults``, a list
        with one ImageReadError per image that is left out, whose
        ``is_temporary`` says whether it may be read later.

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
    images = check_images(X)
    for number, array in enumerate(arrays):
        if array is not None and _num_samples(array) != len(images):
            raise ValueError(
                f"arrays[{number}] has {_num_samples(array)} rows, but X has {len(images)} "
                "images. Pass one row per image."
            )
    faults = images.find_faults(decode=verify == "decode", progress=progress)
    positions = np.flatnonzero(~np.isin(images._rows, [fault.index for fault in faults]))
    if not len(positions):
        raise with_others(faults)
    return Bunch(
        data=_rows_of(X, positions),
        arrays=[None if array is None else _rows_of(array, positions) for array in arrays],
        positions=positions,
        faults=faults,
    )


def _rows_of(X, positions):
    """Return some rows of what a user passed, of the same type where it can be selected."""
    if isinstance(X, tuple):
        return tuple(X[position] for position in positions)
    if isinstance(X, (list, Images)) or hasattr(X, "shape") or hasattr(X, "iloc"):
        return X[positions] if isinstance(X, Images) else _safe_indexing(X, positions)
    return check_images(X)[positions]  # lazily, as they were


@contextmanager
def telling_all_faults(images, progress=False):
    """Let an error of the block that names one unreadable image name all of `images`.

    The call is lost anyway, and who has repaired one image wants no second error.
    """
    try:
        yield
    except ImageReadError as error:
        if error.index is None or not isinstance(images, Images) or len(images) > MAX_SCANNED:
            raise
        known = {fault.index: fault for fault in error.faults}
        found = {fault.index: fault for fault in images.find_faults(decode=True, progress=progress)}
        faults = [found.get(index) or known[index] for index in sorted(known | found)]
        if len(faults) == len(known):
            raise
        raise with_others(faults) from error
