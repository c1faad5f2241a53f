"""Where images come from: files, one array, or items of a sequence, each opened alone."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._typing import Elements
from sklearn_cbir._validation import shortened
from sklearn_cbir.images._batches import (
    EXPECTED,
    ArrayOfImages,
    ImageShape,
    check_item,
    pixels_of,
    reason_of_16_bit,
)
from sklearn_cbir.images._decoding import is_turned, to_rgb, to_uint8, viewable
from sklearn_cbir.images._faults import Refusal
from sklearn_cbir.images._formats import foreign_openers, own_limit, register_openers
from sklearn_cbir.images._opening import (
    PIL_LOCK,
    bytes_behind,
    check_opened,
    check_whole,
    is_shared,
    is_unread,
    opened,
)
from sklearn_cbir.images._text import Text

# A path, an encoded photo, an image, its pixels, or a dictionary with one of these; rows of images.
Item: TypeAlias = Any
Rows: TypeAlias = NDArray[np.integer]
ENCODED = (bytes, bytearray, memoryview, io.BytesIO)  # a photo as it is in its file
_ITEM_LOCK = ProcessLock()  # a sequence of the user's need not bear two threads


class _Source:
    """Images by row; what is common to all that are opened one by one."""

    shape: ImageShape | None = None
    is_path: bool = False
    holds_dictionaries: bool = False

    def __init__(self, max_pixels: float) -> None:
        self.max_pixels: float = max_pixels

    def names(self, rows: Rows) -> NDArray[np.str_] | None:
        """Return the paths of some files, as an array of text."""
        return None

    def limited(self, max_pixels: float) -> Self:
        """Return the images under another `max_pixels`."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__, max_pixels=max_pixels)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Another process has not registered what this one has: HEIC, say.
        return self.__dict__ | {"_openers": foreign_openers()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        register_openers(state.pop("_openers", {}))
        self.__dict__.update(state)


class Files(_Source):
    """Paths: an array of text, or `Paths`."""

    is_path: bool = True

    def __init__(self, paths: NDArray[np.str_] | Paths, max_pixels: float) -> None:
        super().__init__(max_pixels)
        self.paths: NDArray[np.str_] | Paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, row: int) -> str:
        return str(self.paths[row])

    def describe(self, row: int) -> tuple[str | None, str | None]:
        return self.path(row), None

    def origin(self, row: int) -> str | bytes | None:
        return self.path(row)

    @contextmanager
    def show(self, row: int, resize: int | None) -> Iterator[Image.Image]:
        with opened(self.path(row), self.max_pixels, resize) as image:
            yield viewable(image)

    def check(self, row: int) -> None:
        check_whole(self.path(row), self.max_pixels)

    def fingerprint(self, rows: Rows) -> object:
        paths = self.names(rows)
        return paths, [_status_of(path) for path in paths]

    def take(self, rows: Rows) -> Files:
        return Files(self.names(rows), self.max_pixels)

    def names(self, rows: Rows) -> NDArray[np.str_]:
        """Return some of the paths as an array of text."""
        return self.paths[rows] if isinstance(self.paths, np.ndarray) else self.paths.array(rows)


def _status_of(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


class Paths:
    """Paths one behind the other in one buffer, which forked workers share.

    An array of text has room for the longest path in every row.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [path.encode("utf-8", "surrogatepass") for path in paths]
        self.ends: NDArray[np.int64] = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self.text: NDArray[np.uint8] = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        start = self.ends[row - 1] if row > 0 else 0
        return self.text[start : self.ends[row]].tobytes().decode("utf-8", "surrogatepass")

    def array(self, rows: Rows) -> NDArray[np.str_]:
        """Return some of the paths as an array of text."""
        return np.array([self[row] for row in rows])


class ListOfImages(_Source):
    """PIL images, encoded photos, dictionaries, or arrays of mixed sizes (H, W, 1 | 3 | 4)."""

    def __init__(self, items: NDArray[np.object_], max_pixels: float) -> None:
        super().__init__(max_pixels)
        self.items: Any = items  # no array but any sequence in LazyImages
        self.holds_dictionaries: bool = isinstance(items[0], Mapping)
        # Reading the size of a PIL image would load some kinds of files, for their EXIF block.
        shapes = {getattr(item, "shape", None) for item in items if isinstance(item, np.ndarray)}
        is_one = len(shapes) == 1 and isinstance(items[0], np.ndarray)
        self.shape: ImageShape | None = shapes.pop() if is_one else None

    def __len__(self) -> int:
        return len(self.items)

    def __getstate__(self) -> dict[str, Any]:
        items = self.items.copy()
        for row, item in enumerate(items):
            items[row] = _picklable(item)
        return super().__getstate__() | {"items": items}

    def item(self, row: int) -> Item:
        return self.items[row]

    def take(self, rows: Rows) -> ListOfImages:
        return ListOfImages(self.items[rows], self.max_pixels)

    def describe(self, row: int) -> tuple[str | None, str | None]:
        return describe(self.item(row))

    def origin(self, row: int) -> str | bytes | None:
        return bytes_or_path(self.item(row))

    @contextmanager
    def show(self, row: int, resize: int | None) -> Iterator[Image.Image]:
        with shown(self.item(row), self.max_pixels, resize) as image:
            yield image

    def check(self, row: int) -> None:
        """Raise if what is known without decoding shows a fault; arrays were checked whole."""
        item = self.item(row)
        again = encoded_again(item) if isinstance(item, Image.Image) and is_unread(item) else None
        if again is not None:
            check_whole(again.data, self.max_pixels, again.format)
        elif isinstance(item, Image.Image):
            check_opened(item, self.max_pixels)
        elif (source := bytes_or_path(item)) is not None:
            check_whole(source, self.max_pixels, getattr(item, "format", None))

    def fingerprint(self, rows: Rows) -> object:
        return [content_of(self.item(row)) for row in rows]


class LazyImages(ListOfImages):
    """A sequence of the user; its items are loaded when they are read, and not kept."""

    def __init__(self, sequence: Elements, max_pixels: float) -> None:
        _Source.__init__(self, max_pixels)
        self.items = sequence
        self.n: int = len(sequence)

    def __len__(self) -> int:
        return self.n

    def __getstate__(self) -> dict[str, Any]:
        return _Source.__getstate__(self)

    def take(self, rows: Rows) -> LazyImages:
        return LazyImages(SomeOf(self.items, rows), self.max_pixels)

    def item(self, row: int) -> Item:
        try:
            with _ITEM_LOCK:
                item = self.items[int(row)]
        except OSError:  # the place may be at fault: a share that is gone
            raise
        except Exception as error:
            raise Refusal(
                f"X[{row}] cannot be loaded: {type(error).__name__}: {shortened(str(error), 200)}",
                "Mend the sequence",
            ) from error
        try:
            item = check_element(item, "it")
        except ValueError as error:
            raise Refusal(str(error).rstrip("."), "Mend the sequence") from error
        warn_of_turned([item])
        return item

    def describe(self, row: int) -> tuple[str | None, str | None]:
        try:
            return describe(self.item(row))
        except Exception:  # asking again may fail again, or otherwise
            return None, None

    def origin(self, row: int) -> str | bytes | None:
        try:
            return bytes_or_path(self.item(row))
        except Exception:
            return None

    def check(self, row: int) -> None:
        """Do nothing: items are asked for once, when they are read."""


ImageSource: TypeAlias = Files | ArrayOfImages | ListOfImages


class SomeOf:
    """Some elements of a sequence, as a sequence."""

    def __init__(self, sequence: Elements, rows: Rows) -> None:
        self.sequence: Elements = sequence
        self.rows: Rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> object:
        return self.sequence[int(self.rows[position])]


# One item of a sequence --------------------------------------------------------------------------


class Encoded:
    """An image that was opened by the user: the bytes behind it, its format and its frame."""

    format: str | None = None  # of pickles without one

    def __init__(
        self, data: bytes, frame: int | None, filename: str | None, format: str | None
    ) -> None:
        self.format = format
        self.data: bytes = data
        self.frame: int | None = frame
        self.filename: str | None = filename


def encoded_again(image: ImageFile.ImageFile) -> Encoded | None:
    """Return the encoded bytes and the frame of a PIL image without decoding it, or None."""
    data = bytes_behind(image)
    if data is None:
        return None
    frame = image.tell() or (None if image.format == "TIFF" else 0)  # None: no thumbnail
    return Encoded(data, frame, getattr(image, "filename", None), image.format)


class UnreadImages(list):
    """A list whose opened PIL images stay unread when it is pickled, and are so in the copy.

    Their own pickle decodes them, and keeps what was decoded.
    """

    def __reduce__(self):
        return _open_again, (self._encoded(), foreign_openers())

    def copy(self):
        """Return a list of other images, opened anew."""
        return _open_again(self._encoded())

    def _encoded(self):
        return [_picklable(item) for item in self]


def _picklable(item):
    """Return an item as it can be pickled, undecoded, and told from others by its pickle."""
    if isinstance(item, Image.Image):
        return (encoded_again(item) or item) if is_unread(item) else item
    if isinstance(item, (memoryview, io.BytesIO)):
        return bytes_or_path(item)
    if isinstance(item, Mapping) and isinstance(item.get("bytes"), memoryview):
        return {**item, "bytes": bytes(item["bytes"])}
    return item


def _open_again(items, openers=()):
    register_openers(dict(openers))
    return [_reopened(item) if isinstance(item, Encoded) else item for item in items]


def _reopened(encoded: Encoded) -> Image.Image:
    image = Image.open(io.BytesIO(encoded.data))
    image.filename = encoded.filename or ""
    if encoded.frame is not None:
        image.seek(encoded.frame)
    return image


def kept(item: Item) -> Item:
    """Return how an item of a list is kept: a file with a shared place to read at, as its bytes."""
    if isinstance(item, Image.Image) and is_unread(item) and is_shared(item):
        return encoded_again(item) or item
    return item


def check_element(item: object, name: str) -> Item:
    """Return one element of a sequence as an image that can be opened, or raise."""
    if is_path(item):
        return item
    if kind_of_item(item) is None:
        raise ValueError(refusal_of(item, name))
    if not is_arraylike(item):
        return item
    pixels = check_item(pixels_of(item, name), name)
    if reason := reason_of_16_bit(pixels):
        raise ValueError(f"{name} has {reason[0]}.")
    return pixels


def warn_of_turned(items: Sequence[object]) -> None:
    """Warn of PIL images that are no files any more, but carry the tag of one that is turned.

    Whether the caller has turned them cannot be known: `rotate` leaves the tag, as `convert` does.
    """
    new = (item for item in items if isinstance(item, Image.Image))
    n = sum(is_turned(item) for item in new if not isinstance(item, ImageFile.ImageFile))
    if n:
        warnings.warn(
            f"PIL images that were changed after they were opened ({n:,} of {len(items):,}) "
            "still have the EXIF orientation tag of the photo, and are turned by it. If you "
            "had turned them already, for example with rotate, they are turned twice: use "
            "PIL.ImageOps.exif_transpose, which removes the tag.",
            stacklevel=4,
        )


def is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    """Say whether `value` is the name of a file."""
    return isinstance(value, (str, os.PathLike))


def is_arraylike(value: object) -> TypeGuard[np.ndarray]:
    """Say whether `value` is an array, or a tensor of torch."""
    return hasattr(value, "ndim") and hasattr(value, "__array__") and not is_single(value)


def is_single(value: object) -> bool:
    """Say whether `value` is one image, other than an array, or words in the place of one."""
    return is_path(value) or isinstance(value, (*ENCODED, Image.Image, Mapping, Encoded, Text))


def is_open_file(value: object) -> bool:
    """Say whether `value` is a file that was opened by the user."""
    return hasattr(value, "read") and hasattr(value, "seek")


def kind_of_item(item: object) -> str | None:
    """Return the kind of image that an element of a sequence is, or None."""
    if isinstance(item, np.bytes_):
        return None
    if is_path(item):
        return "a path"
    if isinstance(item, ENCODED):
        return "an encoded photo"
    if isinstance(item, (Image.Image, Encoded)):
        return "a PIL image"
    if isinstance(item, Mapping):
        return "a dictionary" if _photo_in(item) is not None else None
    if is_arraylike(item) and item.ndim:
        return "an array"
    return None


def _photo_in(item: Mapping[str, Any]) -> Item:
    """Return the bytes of a dictionary, or else the path, or None."""
    for key, kinds in (("bytes", ENCODED), ("path", (str, os.PathLike))):
        if item.get(key) is not None:
            return item[key] if isinstance(item[key], kinds) else None
    return None


def refusal_of(item: object, name: str) -> str:
    """Say why an element of a sequence is no image."""
    if isinstance(item, np.bytes_):
        return BYTES_ARRAY
    if isinstance(item, Text):
        return (
            f"{name} is {shortened(item)}, and words have no pixels. Pass images here: words "
            "work in transform of a CNNFeatureExtractor whose network understands them, and in "
            "predict of a pipeline that begins with one."
        )
    if isinstance(item, Mapping):
        return (
            f"{name} is a dictionary with the keys {shortened(list(item))}. A dictionary holds "
            "the photo under 'bytes', or its name under 'path'. If X is a table of images and "
            "labels, pass only the column of images, such as X['image']."
        )
    if is_open_file(item):
        return f"{name} is an open file. Pass its path, or its content: file.read()."
    if isinstance(item, tuple) and len(item) == 2:
        return (
            f"{name} is a pair. Pass only images: images_of(X) splits (image, label) pairs; for "
            "(path, label) pairs, pass [path for path, _ in X]."
        )
    return f"{name} is {shortened(item)} of type {type(item).__name__}. {EXPECTED}."


BYTES_ARRAY = (
    "X is an array of fixed-width bytes (dtype S), which drops zeros at the end of a photo. "
    "Pass a list of bytes; if these are file names, [os.fsdecode(name) for name in X]."
)


def bytes_or_path(item: Item) -> str | bytes | None:
    """Return the path or the bytes that an item is read from; None for pixels."""
    if isinstance(item, Mapping):
        item = _photo_in(item)
    if is_path(item):
        return os.fsdecode(item)
    if isinstance(item, io.BytesIO):
        return item.getvalue()
    if isinstance(item, Encoded):
        return item.data
    return bytes(item) if isinstance(item, (bytes, bytearray, memoryview)) else None


def describe(item: Item) -> tuple[str | None, str | None]:
    """Return path, and what else an error says of an item."""
    if isinstance(item, (Image.Image, Encoded)):
        return getattr(item, "filename", None) or None, None
    source = bytes_or_path(item)
    if isinstance(source, bytes):
        path = item.get("path") if isinstance(item, Mapping) else None
        return path, f"{type(source).__name__}, {len(source):,} long"
    return source, None


@contextmanager
def shown(item: Item, max_pixels: float, resize: int | None) -> Iterator[Image.Image]:
    """Give the decoded, upright image of an item, which is left as it is."""
    if isinstance(item, np.ndarray):
        yield Image.fromarray(np.ascontiguousarray(to_rgb(to_uint8(item))))
        return
    frame = format = None
    if isinstance(item, Image.Image):
        again = encoded_again(item) if is_unread(item) else None
        if again is None:
            yield _shown_as_it_is(item, max_pixels)
            return
        item = again
    if isinstance(item, Encoded):
        frame, format = item.frame, item.format
    source = bytes_or_path(item)
    assert source is not None  # pixels and images were shown above
    with opened(source, max_pixels, resize, frame=frame, format=format) as image:
        yield viewable(image)


def _shown_as_it_is(image: Image.Image, max_pixels: float) -> Image.Image:
    """Return a PIL image that the user has read or made."""
    check_opened(image, max_pixels)
    with PIL_LOCK, own_limit(max_pixels):
        image.load()
    return viewable(image)


def content_of(item: Item) -> object:
    """Return the identity of an item: its pixels or bytes, or its path, size and time of change."""
    if isinstance(item, np.ndarray):
        return item
    if isinstance(item, (Image.Image, Encoded)):
        with shown(item, float("inf"), None) as image:
            return image.mode, image.size, image.tobytes()
    source = bytes_or_path(item)
    return (source, _status_of(source)) if isinstance(source, str) else source
