"""What a user passes -> `Images`, or one clear error."""

import os

import numpy as np
from PIL import Image
from scipy import sparse

from sklearn_cbir._validation import check_integer
from sklearn_cbir.images._batches import ArrayOfImages, Files, Images, ListOfImages
from sklearn_cbir.images._decoding import MAX_PIXELS, SLACK
from sklearn_cbir.images._faults import fault_of

_EXPECTED = (
    "Images are arrays of shape (n, height, width) or (n, height, width, 1 | 3 | 4), or a "
    "sequence of paths, PIL images or arrays"
)


def is_feature_rows(X):
    """Say whether `X` is meant as 2-D feature rows, not as images.

    Parameters
    ----------
    X : object
        What a user passed to an estimator.

    Returns
    -------
    bool
        True for 2-D and 1-D numbers, data frames, sparse matrices and lists
        of number lists, whatever their faults; False for paths, PIL images
        and stacks or lists of image arrays.

    Examples
    --------
    >>> is_feature_rows([[1.0, 2.0], [3.0, 4.0]])
    True
    >>> is_feature_rows(["a.jpg", "b.jpg"])
    False
    """
    if isinstance(X, Images) or _is_single(X):
        return False
    if sparse.issparse(X):
        return True
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and _is_row(X[0])
    shape = getattr(X, "shape", None)
    if shape is None:
        return hasattr(X, "__array__") and is_feature_rows(np.asarray(X))
    if len(shape) == 2:
        return 0 in shape or not _is_single(_first(X))
    return len(shape) < 2 and not (len(shape) == 1 and shape[0] > 0 and _is_item(_first(X)))


def _is_row(value):
    """Say whether `value`, an element of a list, is a row of numbers or a number."""
    if _is_single(value):
        return False
    if isinstance(value, (list, tuple)):
        nested = len(value) > 0 and isinstance(value[0], (list, tuple, np.ndarray))
        return not nested and not (len(value) > 0 and _is_single(value[0]))
    shape = getattr(value, "shape", ())
    return len(shape) < 2 and not (shape and shape[0] > 0 and _is_single(_first(value)))


def _first(X):
    """Return the first element of a non-empty 1-D or 2-D array, series or frame."""
    return np.asarray(X[:1] if not hasattr(X, "iloc") else X.iloc[:1]).ravel()[0]


def _is_path(value):
    return isinstance(value, (str, bytes, os.PathLike))


def _is_single(value):
    """Say whether `value` is one path or one PIL image."""
    return _is_path(value) or isinstance(value, Image.Image)


def _is_item(value):
    """Say whether `value`, an element of a 1-D array, is an image."""
    return _is_single(value) or getattr(value, "ndim", 0) in (2, 3)


def check_images(X, *, max_pixels=MAX_PIXELS):
    """Check what a user passed as images; nothing is read yet.

    Parameters
    ----------
    X : array-like of images
        An array of shape (n, height, width) or (n, height, width, channels)
        with 1, 3 or 4 channels; or a sequence of paths, of PIL images, or of
        such images as arrays of any sizes. uint8 means 0..255, uint16
        0..65535, float 0..1 (rounded to 1/255). Arrays, series and data
        frames of one column work as sequences.

    max_pixels : int, default=50_000_000
        Larger files are refused before they are decoded.

    Returns
    -------
    Images
        The images; arrays are referred to, not copied.

    Raises
    ------
    ValueError
        If `X` has no images, or a shape, type or values that images cannot
        have; it names the shape or the row.

    Notes
    -----
    Pixels are what a viewer shows. EXIF turns an image upright; transparent
    parts are white; 16-bit gray keeps its upper 8 bits and float TIFF in 0..1
    is scaled; CMYK, LAB, palettes and gray become RGB; of several frames the
    first is read. Color profiles are not applied. JPEG, PNG, WEBP, BMP, GIF
    and TIFF are read, whatever the file is called.

    A truncated file is an error, unless another library has switched on
    ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES``. A JPEG with altered bytes inside
    may decode to other pixels, which nothing can notice.

    Examples
    --------
    >>> import numpy as np
    >>> check_images(np.zeros((2, 3, 32, 32)))
    Traceback (most recent call last):
        ...
    ValueError: X has shape (2, 3, 32, 32), which looks channels-first...
    """
    if isinstance(X, Images):
        return X
    if _is_single(X):
        kind = "a path" if _is_path(X) else "a PIL image"
        raise ValueError(f"X is {kind}, not a sequence of images: wrap it in a list, [X].")
    X = _as_array_or_list(X)
    if len(X) == 0:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={np.shape(X)}) while a minimum of 1 is required."
        )
    max_pixels = check_integer(max_pixels, "max_pixels", minimum=1)
    if isinstance(X, list):
        source = _from_list(X, max_pixels)
    elif X.ndim > 1 and X.dtype.kind in "USO" and X.size and _is_single(X.flat[0]):
        raise ValueError(f"X holds paths in shape {X.shape}. Pass one per row, shape (n,).")
    elif X.dtype.kind == "U":
        source = Files(_check_path_array(X), max_pixels)
    else:
        source = _from_array(X)
    return Images(source, np.arange(len(source)))


def _as_array_or_list(X):
    """Return a numeric or str array, or a list of things to look at one by one."""
    if isinstance(X, (list, tuple)):
        if len(X) and isinstance(X[0], (list, tuple)):
            return _nested_array(X)
        return list(X)
    if hasattr(X, "to_numpy"):
        X = X.to_numpy()
    if not hasattr(X, "__array__"):
        raise ValueError(f"X is {X!r:.60} of type {type(X).__name__}. {_EXPECTED}.")
    X = _array(X)
    if X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "USO":
        X = X[:, 0]
    if X.ndim == 0:
        raise ValueError(f"X is one value, {X!r:.60}. {_EXPECTED}.")
    return list(X) if X.ndim == 1 and X.dtype.kind in "SO" else X


def _array(X):
    """Return an array, or torch's tensor wherever it is, as a NumPy array; no copy in memory."""
    return np.asarray(X.detach().cpu() if hasattr(X, "detach") else X)


def _nested_array(X):
    """Return nested lists of numbers as an array."""
    try:
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(f"X is a list of lists of different lengths. {_EXPECTED}.") from error


def _check_path_array(paths):
    """Return an array of paths if none is empty."""
    empty = np.flatnonzero(paths == "")
    if len(empty):
        raise fault_of(int(empty[0]), "", "the path is empty")
    return paths


def _from_list(items, max_pixels):
    """Return the source for a list of paths, of PIL images, or of arrays."""
    kind = _kind(items[0], 0)
    for row, item in enumerate(items):
        if _kind(item, row) != kind:
            raise ValueError(
                f"X[0] is {kind}, but X[{row}] is {_kind(item, row)}. Pass only one of them."
            )
    if kind == "a path":
        return Files(np.array([_path(item, row) for row, item in enumerate(items)]), max_pixels)
    if kind == "an array":
        items = [_check_item(_array(item), row) for row, item in enumerate(items)]
        _check_16_bit([item for item in items if item.dtype.itemsize == 2])
    objects = np.empty(len(items), dtype=object)
    for row, item in enumerate(items):  # NumPy would look inside, were they assigned at once
        objects[row] = item
    return ListOfImages(objects, max_pixels)


def _kind(item, row):
    """Return what one element of a sequence is."""
    if _is_path(item):
        return "a path"
    if isinstance(item, Image.Image):
        return "a PIL image"
    if hasattr(item, "__array__"):
        return "an array"
    raise ValueError(f"X[{row}] is {item!r:.60} of type {type(item).__name__}. {_EXPECTED}.")


def _path(item, row):
    """Return one path as str."""
    path = os.fsdecode(item)
    if not path:
        raise fault_of(row, path, "the path is empty")
    if "\0" in path:  # NumPy would drop it silently at the end
        raise fault_of(row, path, "the path holds a null character")
    return path


def _from_array(pixels):
    """Return the source for an array of images of one size."""
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4):
        raise ValueError(
            f"X has shape {pixels.shape}, which looks like one image: wrap it in a list, [X]."
        )
    if pixels.ndim not in (3, 4):
        rows = " 2-D arrays are feature rows, not images." if pixels.ndim == 2 else ""
        raise ValueError(f"X has shape {pixels.shape}.{rows} {_EXPECTED}.")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    _check_shape(pixels.shape[1:], pixels.shape, "X", "X.transpose(0, 2, 3, 1)")
    _check_dtype(pixels, "X")
    # One block of about 16M pixels at a time, so that a memory map is never loaded whole.
    step = max(1, 2**24 // pixels[0].size)
    for start in range(0, len(pixels), step):
        _check_values(pixels[start : start + step], start)
    if pixels.dtype.itemsize == 2:
        _check_16_bit(pixels)
    return ArrayOfImages(pixels)


def _check_item(pixels, row):
    """Return one image array as (H, W, C)."""
    name = f"X[{row}]"
    if pixels.ndim not in (2, 3):
        raise ValueError(f"{name} has shape {pixels.shape}. {_EXPECTED}.")
    shape = pixels.shape
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    _check_shape(pixels.shape, shape, name, "image.transpose(1, 2, 0)")
    _check_dtype(pixels, name)
    _check_values(pixels[None], row)
    return pixels


def _check_shape(image_shape, shape, name, remedy):
    """Raise unless (H, W, C) has pixels, and 1, 3 or 4 channels last."""
    if image_shape[2] not in (1, 3, 4):
        if image_shape[0] in (1, 3, 4):
            raise ValueError(
                f"{name} has shape {shape}, which looks channels-first: pass {remedy}."
            )
        raise ValueError(f"{name} has shape {shape}. {_EXPECTED}.")
    if 0 in image_shape:
        raise ValueError(f"{name} has shape {shape}: images without pixels.")


def _check_dtype(pixels, name):
    """Raise unless the dtype fixes what the values mean."""
    kind, itemsize = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "f" or (kind == "u" and itemsize <= 2):
        return
    hint = "X.astype(np.uint8) * 255" if kind == "b" else "X.astype(np.uint8)"
    raise ValueError(
        f"{name} has dtype {pixels.dtype}. Images are uint8 (0 to 255), uint16 (0 to 65535) or "
        f"float (0 to 1): convert them, for example by {hint} if that fits the values."
    )


def _check_values(pixels, first_row):
    """Raise with the row if float pixels (n, H, W, C) are not all in [0, 1]."""
    if pixels.dtype.kind != "f":
        return
    with np.errstate(invalid="ignore"):
        if pixels.min() >= -SLACK and pixels.max() <= 1 + SLACK:  # NaN fails
            return
        low, high = pixels.min(axis=(1, 2, 3)), pixels.max(axis=(1, 2, 3))  # (n,)
        bad = int(np.flatnonzero(~((low >= -SLACK) & (high <= 1 + SLACK)))[0])
    where = f"X[{first_row + bad}]"
    if not (np.isfinite(low[bad]) and np.isfinite(high[bad])):
        raise ValueError(f"{where} contains NaN or infinity. Pixels must be finite.")
    raise ValueError(
        f"{where} has pixels from {low[bad]:g} to {high[bad]:g}, but float images must be in 0 "
        "to 1. Pass uint8 for 0 to 255, or scale them."
    )


def _check_16_bit(images):
    """Raise if uint16 images hold 8-bit values: all of them would be black."""
    high = max((image.max() for image in images if image.dtype.kind == "u"), default=0)
    if 0 < high < 256:
        raise ValueError(
            f"X has dtype uint16, but no pixel is above {high}, where 16-bit images go to 65535. "
            "Pass X.astype(np.uint8) if these are 8-bit images."
        )
