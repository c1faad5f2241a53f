"""The bytes of images: which images are equal, and how large they are."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sklearn_cbir._threads import in_threads, slices
from sklearn_cbir._typing import Positions
from sklearn_cbir._validation import with_progress
from sklearn_cbir.images._batches import ArrayOfImages, Images
from sklearn_cbir.images._decoding import MOST_THREADS
from sklearn_cbir.images._faults import ImageReadError, with_others
from sklearn_cbir.images._opening import check_file, is_unread, opened
from sklearn_cbir.images._sources import (
    Encoded,
    Files,
    Item,
    bytes_or_path,
    content_of,
    encoded_again,
)

Found = TypeVar("Found")
BLOCK = 256  # images between two updates of a progress bar


class Sizes(NamedTuple):
    """How large images are: pixels, and bytes of the file; 0 bytes where there is no file."""

    pixels: NDArray[np.int64]
    file_bytes: NDArray[np.int64]


def first_equal(images: Images, progress: bool = False) -> Positions:
    """Return for every image the first one of the same bytes, itself where no earlier one has them.

    Of files the bytes are compared, of arrays and decoded images the pixels. A file is read if
    another one has its size.

    Parameters
    ----------
    images : Images
        Checked images.

    progress : bool, default=False
        Whether to draw a progress bar.

    Returns
    -------
    ndarray of shape (n,), int64
        Positions among the images.

    Raises
    ------
    ImageReadError
        If a file is not there or cannot be read; its `faults` are all such files.
    """
    first = np.arange(len(images))
    to_read = first
    if images.is_path:
        sizes = _of_each(images, first, _file_size, "Looking for files", progress)
        n_of_size = Counter(sizes)
        to_read = np.flatnonzero([n_of_size[size] > 1 for size in sizes])
    known: dict[bytes, int] = {}
    digests = _of_each(images, to_read, _digest, "Comparing files", progress)
    for position, digest in zip(to_read.tolist(), digests):
        first[position] = known.setdefault(digest, position)
    return first


def sizes_of(images: Images, positions: Positions) -> Sizes:
    """Return the sizes of some images, without decoding them.

    Parameters
    ----------
    images : Images
        Checked images.

    positions : ndarray of shape (n,), int64
        Which of them.

    Returns
    -------
    Sizes
        Two arrays of shape (n,).

    Raises
    ------
    ImageReadError
        If some cannot be read; its `faults` are all of them.
    """
    found = _of_each(images, positions, _size, "", progress=False)
    pixels, file_bytes = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return Sizes(pixels, file_bytes)


def _of_each(
    images: Images,
    positions: Positions,
    look: Callable[[Any, int], Found],
    description: str,
    progress: bool,
) -> list[Found]:
    """Return ``look(source, row)`` of some images, or one error of all of which it fails."""

    def found_or_fault(row: int) -> Found | ImageReadError:
        try:
            return images._guard(lambda row: look(images._source, row), row)
        except ImageReadError as fault:
            return fault

    found: list[Found] = []
    faults: list[ImageReadError] = []
    blocks = slices(len(positions), BLOCK)
    bar = with_progress(blocks, total=len(blocks), description=description, enabled=progress)
    for block in bar:
        rows = images._rows[positions[block]].tolist()
        for one in in_threads(found_or_fault, rows, most=MOST_THREADS):
            faults.append(one) if isinstance(one, ImageReadError) else found.append(one)
    if faults:
        raise with_others(faults)
    return found


def _item(source: Any, row: int) -> Item:
    """Return one image as it is held: a path, bytes, a PIL image or pixels."""
    if isinstance(source, ArrayOfImages):
        return source.pixels[row]
    item = source.path(row) if isinstance(source, Files) else source.item(row)
    if isinstance(item, Image.Image) and is_unread(item):
        return encoded_again(item) or item
    return item


def _file_size(source: Files, row: int) -> int:
    check_file(source.path(row))
    return os.path.getsize(source.path(row))


def _digest(source: Any, row: int) -> bytes:
    """Return a hash of the bytes of one image, which stands for them."""
    item = _item(source, row)
    data = bytes_or_path(item)
    if isinstance(data, str):
        check_file(data)
        with open(data, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    if isinstance(item, Encoded) and item.frame:  # one image of several
        return _hash(item.data, item.frame)
    if isinstance(item, np.ndarray):
        return _hash(np.ascontiguousarray(item).data, item.dtype.str, item.shape)
    if data is None:  # a PIL image that was decoded, or made
        mode, size, data = cast("tuple[str, tuple[int, int], bytes]", content_of(item))
        return _hash(data, mode, size)
    return _hash(data)


def _hash(data: bytes | memoryview, *kind: object) -> bytes:
    """Return a hash of bytes, and of what tells what they are."""
    digest = hashlib.sha256(repr(kind).encode() if kind else b"")
    digest.update(data)
    return digest.digest()


def _size(source: Any, row: int) -> tuple[int, int]:
    """Return the pixels of one image, and the bytes that it is stored in."""
    item = _item(source, row)
    if isinstance(item, np.ndarray):
        return item.shape[0] * item.shape[1], 0
    data = bytes_or_path(item)
    if data is None:
        return item.size[0] * item.size[1], 0
    file_bytes = os.path.getsize(data) if isinstance(data, str) else len(data)
    frame, format = (item.frame, item.format) if isinstance(item, Encoded) else (None, None)
    with opened(data, source.max_pixels, decode=False, frame=frame, format=format) as image:
        return image.size[0] * image.size[1], file_bytes
