"""From the input of a user to `Images`, or one clear error."""

import os
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sklearn_cbir._typing import ImagesLike
from sklearn_cbir._validation import as_numpy, check_integer, shortened
from sklearn_cbir.images._batches import (
    EXPECTED,
    ArrayOfImages,
    Images,
    check_16_bit,
    check_item,
    check_stack,
    pixels_of,
)
from sklearn_cbir.images._faults import fault_of
from sklearn_cbir.images._opening import MAX_PIXELS
from sklearn_cbir.images._sources import (
    BYTES_ARRAY,
    Files,
    ImageSource,
    LazyImages,
    ListOfImages,
    Paths,
    check_element,
    is_open_file,
    is_single,
    kept,
    kind_of_item,
    refusal_of,
    warn_of_turned,
)
from sklearn_cbir.images._text import Text


def is_feature_rows(X: object) -> bool:
    """Say whether `X` is meant as 2-D feature rows, not as images.

    Parameters
    ----------
    X : object
        The input of an estimator.

    Returns
    -------
    bool
        True for 2-D and 1-D numbers, data frames, sparse matrices and lists
        of lists of numbers, even if they have faults. False if any element is a
        path, an encoded photo, a dictionary, a PIL image or a `Text`, and for
        stacks or lists of image arrays. In a sequence that is not a list, the
        first element decides.

    Examples
    --------
    >>> is_feature_rows([[1.0, 2.0], [3.0, 4.0]])
    True
    >>> is_feature_rows(["a.jpg", "b.jpg"])
    False
    """
    if isinstance(X, Images) or (isinstance(X, np.ndarray) and X.ndim > 2):
        return False
    if sparse.issparse(X):  # first: one kind of them is a dictionary too
        return True
    if is_single(X):
        return False
    rows = _structures_as_list(X)
    if isinstance(rows, (list, tuple)):
        return len(rows) > 0 and _is_row(rows[0]) and not any(is_single(value) for value in rows)
    shape = getattr(rows, "shape", None)
    if shape is None and hasattr(rows, "__array__"):
        return is_feature_rows(np.asarray(rows))
    if shape is None:
        return (
            _is_sequence(rows) and len(rows) > 0 and _is_row(rows[0]) and _is_number_like(rows[0])
        )
    if _is_table(rows):
        return False
    if len(shape) == 2:  # shards have a shape, and no first row to look at
        no_photos = 0 in shape or not hasattr(rows, "__getitem__")
        return no_photos or not _is_photo(_first(rows))
    if (
        len(shape) == 1
        and shape[0] > 0
        and getattr(getattr(rows, "dtype", None), "kind", "") == "O"
    ):
        return not any(_is_item(value) for value in np.asarray(rows))
    return len(shape) < 2 and not (len(shape) == 1 and shape[0] > 0 and _is_item(_first(rows)))


def _is_row(value: Any) -> bool:
    """Say whether `value`, an element of a list, is a row of numbers or a number."""
    if is_single(value):
        return False
    if isinstance(value, (list, tuple)):
        nested = len(value) > 0 and isinstance(value[0], (list, tuple, np.ndarray))
        return not nested and not any(is_single(part) for part in value)
    shape = getattr(value, "shape", ())
    return len(shape) < 2 and not (shape and shape[0] > 0 and is_single(_first(value)))


def _is_table(X: Any) -> bool:
    """Say whether `X` is a data set whose elements are dictionaries, as those of datasets are."""
    is_bare = not hasattr(X, "__array__") and not hasattr(X, "iloc") and _is_sequence(X)
    return is_bare and len(X) > 0 and isinstance(X[0], Mapping)


def _is_number_like(value: object) -> bool:
    return isinstance(value, (int, float, list, tuple)) or hasattr(value, "dtype")


def _is_sequence(X: object) -> bool:
    """Say whether `X` has a length and elements by position, as data sets have."""
    has_items = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    return has_items and not isinstance(X, (Mapping, Set, type))


def _first(X: Any) -> Any:
    """Return the first element of a non-empty 1-D or 2-D array, series or frame."""
    head = X.iloc[:1] if hasattr(X, "iloc") else X[:1]
    # Not of arrays, whose dtype is checked by what rows are for.
    first = np.asarray(head if isinstance(head, np.ndarray) else as_numpy(head)).ravel()[0]
    return _as_dictionary(first) if isinstance(first, np.void) and first.dtype.names else first


def _as_dictionary(structure: Any) -> dict[str, Any]:
    """Return an element of a structured array, which polars has for its structures."""
    return dict(zip(structure.dtype.names, structure.tolist()))


def _is_photo(value: object) -> bool:
    """Say whether `value` is one image, other than an array or a dictionary of other things."""
    is_other = isinstance(value, Mapping) and kind_of_item(value) is None
    return is_single(value) and not is_other


def _is_item(value: object) -> bool:
    """Say whether `value`, an element of a 1-D array, is an image."""
    return is_single(value) or getattr(value, "ndim", 0) in (2, 3)


def check_images(X: ImagesLike, *, max_pixels: int | None = None) -> Images:
    """Check images of any kind, without reading them yet.

    Parameters
    ----------
    X : array-like of images
        An array of shape (n, height, width) or (n, height, width, channels)
        with 1, 3 or 4 channels; or a sequence of paths, of encoded photos
        (the content of a file as bytes, bytearray, memoryview or BytesIO), of
        dictionaries that hold a photo under ``"bytes"`` or else its path under
        ``"path"``, of PIL images, or of arrays of any sizes. uint8 means
        0..255, uint16 0..65535, float 0..1 (rounded to 1/255). Arrays, series
        and data frames of one column work as sequences.

        Any other object with a length and elements by position is a sequence, too, such
        as a column of the datasets library. Its elements are loaded one at a time, when
        they are read, and not kept.

    max_pixels : int, default=None
        Larger images are an error, before they are decoded. The limit counts decoded
        pixels: a JPEG can be decoded at a half, a quarter or an eighth of its size if
        that is enough. None means 300,000,000, or the limit of `X` if it is `Images`.
        Pillow's own limit is not used.

    Returns
    -------
    Images
        The images; arrays are not copied.

    Raises
    ------
    ValueError
        If `X` has no images, or a shape, type or values that images cannot
        have; the message names the shape or the row.

    See Also
    --------
    images_of : Images and labels of a data set of torch.

    Notes
    -----
    Pixels are those that a viewer shows. Images are turned upright by EXIF. Transparent
    parts become white. 16-bit gray keeps its upper 8 bits, and float TIFF in 0..1 is
    scaled. CMYK, LAB, palettes and gray become RGB. Of several frames the first is
    read, in a TIFF the first that is not a thumbnail. Color profiles are not applied.
    JPEG, PNG, WebP, BMP, GIF and TIFF are read, and AVIF, HEIC and others if
    `readable_extensions` lists them; the name of the file does not matter.

    An image with 16 bits per color and no value above 255 is an error, alone and among
    others: it would be black. It holds 8-bit values, or must be scaled.

    A PIL image from `PIL.Image.open` is read like its file, at its current frame, and
    is not loaded. Every PIL image is turned as its EXIF tag says, and Pillow keeps that
    tag in the images that ``convert``, ``resize``, ``crop``, ``rotate`` and others
    make. Turn photos with `PIL.ImageOps.exif_transpose`, which removes the tag: an
    image turned by ``rotate`` or ``transpose`` would be turned twice. A warning counts
    the new images with such a tag.

    Images above 50 million pixels are decoded one at a time.

    A truncated file is an error, unless another library has switched on
    ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES``. A JPEG with altered bytes inside may decode
    to other pixels, which nothing can detect.

    Examples
    --------
    >>> import numpy as np
    >>> check_images(np.zeros((2, 3, 32, 32)))
    Traceback (most recent call last):
        ...
    ValueError: X has shape (2, 3, 32, 32), which looks channels-first...
    """
    if max_pixels is not None:
        max_pixels = check_integer(max_pixels, "max_pixels", minimum=1)
    if isinstance(X, Images) and len(X):
        return X if max_pixels is None else X._limited(max_pixels)
    if isinstance(X, Text):
        raise ValueError(refusal_of(X, "X"))
    if not isinstance(X, np.ndarray) and is_single(X) and kind_of_item(X):
        raise ValueError(
            f"X is {kind_of_item(X)}, not a sequence of images: wrap it in a list, [X]."
        )
    images = X if isinstance(X, Images) else _as_array_or_list(X)
    if len(images) == 0:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={_shape_of(images)}) while a minimum of 1 is "
            "required."
        )
    source = _source_of(images, MAX_PIXELS if max_pixels is None else max_pixels)
    return Images(source, np.arange(len(source)))


def _shape_of(X):
    return np.shape(X) if isinstance(X, (list, np.ndarray)) else getattr(X, "shape", (0,))


def _source_of(X: Any, max_pixels: float) -> ImageSource:
    """Return where the images of a checked array, list or other sequence come from."""
    if isinstance(X, list):
        return _from_list(X, max_pixels)
    if not isinstance(X, np.ndarray):
        check_element(X[0], "X[0]")
        return LazyImages(X, max_pixels)
    if X.dtype.kind == "S":
        raise ValueError(BYTES_ARRAY)
    if X.ndim > 1 and X.dtype.kind in "UO" and X.size and is_single(X.flat[0]):
        raise ValueError(
            f"X has dtype {X.dtype} and holds paths in shape {X.shape}. Pass one per row, shape "
            "(n,); pixels are numbers."
        )
    if X.dtype.kind == "U":
        return Files(_check_path_array(X), max_pixels)
    return ArrayOfImages(check_stack(X))


def _as_array_or_list(X: Any) -> Any:
    """Return a numeric or str array, a list of things to look at one by one, or a lazy sequence."""
    if isinstance(X, (list, tuple)):
        if len(X) and isinstance(X[0], (list, tuple)) and not _is_pair(X[0]):
            return _nested_array(X)
        return list(X)
    X = X if isinstance(X, np.ndarray) else _structures_as_list(X)
    if hasattr(X, "to_numpy") and not hasattr(X, "to_pylist"):
        X = X.to_numpy()  # pyarrow's own refuses text
    if not hasattr(X, "__array__"):
        if _is_sequence(X):
            return X
        raise ValueError(_refusal_of_no_sequence(X))
    X = X if type(X) is np.ndarray else pixels_of(X, "X")
    if X.dtype.names is not None:  # a column of structures, of polars
        X = np.array([_as_dictionary(structure) for structure in X], dtype=object)
    if X.dtype.kind == "T":  # text of any width
        X = X.astype(object)
    if X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "USO":
        X = X[:, 0]
    if X.ndim == 0:
        raise ValueError(f"X is one value, {shortened(X[()])}. {EXPECTED}.")
    return list(X) if X.ndim == 1 and X.dtype.kind == "O" else X


def _structures_as_list(X: Any) -> Any:
    """Return a column of structures of polars as dictionaries, anything else as it is."""
    if hasattr(X, "to_series") and hasattr(X, "to_dicts") and X.shape[1] == 1:
        X = X.to_series()
    is_structured = type(getattr(X, "dtype", None)).__name__ == "Struct"
    return X.to_list() if is_structured and hasattr(X, "to_list") else X


def _is_pair(value: Any) -> bool:
    """Say whether `value` is an image with its label, as data sets of torch have them."""
    return len(value) == 2 and is_single(value[0]) and not is_single(value[1])


def _refusal_of_no_sequence(X: Any) -> str:
    """Say why something without length or elements by position is no sequence of images."""
    if is_open_file(X):
        return "X is an open file, not a sequence of images. Pass its path in a list, [X.name]."
    kind = f"X is {shortened(X)} of type {type(X).__name__}"
    if isinstance(X, Iterable) and not isinstance(X, Mapping):
        return (
            f"{kind}, whose images cannot be read a second time. Pass list(X), or any object "
            "with a length and elements by position."
        )
    if hasattr(X, "__getitem__") and not isinstance(X, (Mapping, type)):
        return f"{kind}, which has no length. Pass an object with __len__ and __getitem__."
    return f"{kind}. {EXPECTED}."


def _nested_array(X: Any) -> np.ndarray:
    """Return nested lists of numbers as an array."""
    try:
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(f"X is a list of lists of different lengths. {EXPECTED}.") from error


def _check_path_array(paths: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return an array of paths if none is empty."""
    empty = np.flatnonzero(paths == "")
    if len(empty):
        raise fault_of(int(empty[0]), "", "the path is empty", "Pass its name")
    return paths


def _from_list(items: list[Any], max_pixels: float) -> ImageSource:
    """Return the source for a list of images of one kind."""
    kinds = [_kind(item, row) for row, item in enumerate(items)]
    other = next((row for row, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        raise ValueError(
            f"X[0] is {kinds[0]}, but X[{other}] is {kinds[other]}. Pass only one of them."
        )
    if kinds[0] == "a path":
        return Files(Paths([_path(item, row) for row, item in enumerate(items)]), max_pixels)
    if kinds[0] == "an array":
        items = [
            check_item(pixels_of(item, f"X[{row}]"), f"X[{row}]") for row, item in enumerate(items)
        ]
        check_16_bit(items)
    if kinds[0] == "a PIL image":
        warn_of_turned(items)
    objects = np.empty(len(items), dtype=object)
    for row, item in enumerate(items):  # NumPy would look inside, were they assigned at once
        objects[row] = kept(item)
    return ListOfImages(objects, max_pixels)


def _kind(item: object, row: int) -> str:
    """Return the kind of the image `X[row]`, one of those of `kind_of_item`, or raise."""
    kind = kind_of_item(item)
    if kind is None:
        raise ValueError(refusal_of(item, f"X[{row}]"))
    return kind


def _path(item: Any, row: int) -> str:
    """Return one path as str."""
    path = os.fsdecode(item)
    if not path:
        raise fault_of(row, path, "the path is empty", "Pass its name")
    if "\0" in path:  # NumPy would drop it silently at the end
        raise fault_of(row, path, "the path holds a null character", "Pass its name")
    return path
