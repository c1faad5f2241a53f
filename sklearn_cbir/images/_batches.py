"""Images of any origin, read batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sklearn_cbir._fingerprint import fingerprint
from sklearn_cbir._threads import in_threads, slices
from sklearn_cbir._typing import Indices, Interpolation, ResizeMode, Rows
from sklearn_cbir._validation import (
    as_numpy,
    check_integer,
    check_not_masked,
    with_progress,
)
from sklearn_cbir.images._decoding import MOST_THREADS, SLACK, fit, to_rgb, to_uint8
from sklearn_cbir.images._faults import ImageReadError, check_process, fault_of, with_others
from sklearn_cbir.images._opening import reason_of
from sklearn_cbir.images._resizing import Resizing

if TYPE_CHECKING:
    import torch

    from sklearn_cbir.images._sources import ImageSource

ImageShape: TypeAlias = tuple[int, int, int]  # height, width and channels
Size: TypeAlias = int | tuple[int, int] | None  # of a square, or height and width
Result = TypeVar("Result")
BLOCK = 64  # images decoded between two updates of a progress bar
PROOF = 8  # px: what is decoded only to see whether it can be
EXPECTED = (
    "Images are arrays of shape (n, height, width) or (n, height, width, 1 | 3 | 4), or a "
    "sequence of paths, encoded photos (bytes), PIL images or arrays"
)


class Images:
    """Checked images, read batch by batch; `check_images` makes them.

    Selecting rows never reads or copies pixels, so scikit-learn's splitters and searches take
    images as they take arrays. The same image gives the same pixels alone and in any batch, as
    path, PIL image or array.

    Parameters
    ----------
    source : ArrayOfImages, Files, ListOfImages or LazyImages
        Source of the pixels; `check_images` makes it.

    rows : ndarray of shape (n,)
        Rows of the source.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.images import check_images
    >>> images = check_images(np.zeros((10, 28, 28), dtype=np.uint8))
    >>> images.shape, images.image_shape
    ((10, 28, 28, 1), (28, 28, 1))
    >>> images.read([0, 3], 32).shape
    (2, 32, 32, 3)
    """

    def __init__(self, source: ImageSource, rows: NDArray[np.int64]) -> None:
        self._source = source
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: Indices) -> Images:
        return Images(self._source, np.atleast_1d(self._rows[indices]))

    def __repr__(self) -> str:
        kind = "files" if self.is_path else "any sizes"
        if self.image_shape is not None:
            kind = f"shape {self.image_shape}"
        return f"Images({len(self)}, {kind})"

    def __array__(self, dtype: object = None, copy: object = None) -> NoReturn:
        raise ValueError(
            f"{self!r} is not an array: images are read when they are needed. "
            "read(slice(None), size) gives their pixels."
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C) of arrays of one shape, (n,) of all other images."""
        return (len(self), *(self.image_shape or ()))

    @property
    def image_shape(self) -> ImageShape | None:
        """(H, W, C) of arrays of one shape; None for files, PIL images and mixed shapes."""
        return self._source.shape

    @property
    def is_path(self) -> bool:
        """Whether the images are files."""
        return self._source.is_path

    @property
    def holds_dictionaries(self) -> bool:
        """Whether the images are a list of dictionaries."""
        return self._source.holds_dictionaries

    @property
    def paths(self) -> NDArray[np.str_] | None:
        """Paths of files, a str array of shape (n,); None for other images."""
        return self._source.names(self._rows)

    def read(
        self,
        indices: Indices,
        size: Size = None,
        resize: int | None = None,
        *,
        resize_mode: ResizeMode = "cover",
        interpolation: Interpolation = "bilinear",
        fill: Sequence[int] = (0, 0, 0),
    ) -> NDArray[np.uint8]:
        """Return pixels.

        Parameters
        ----------
        indices : array-like of int or bool, or slice
            Which images.

        size : int or tuple (height, width), default=None
            Side of the square crop in the middle, in px. Or the sides of a rectangle,
            without `resize`: images are resized until they just cover it. None keeps
            the images' own size, which works only if `image_shape` is not None.

        resize : int, default=None
            The shorter side is resized to this before the crop, in px; with "squash"
            both sides, with "longest" the longer one. None means `size`.

        resize_mode : {"cover", "shortest", "squash", "longest"}, default="cover"
            How to fit images of another shape, see `Resizing`.

        interpolation : {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}, \
                default="bilinear"
            Filter, with antialiasing, except for "nearest".

        fill : sequence of 3 int, default=(0, 0, 0)
            Color of the padding of "longest", RGB in 0..255.

        Returns
        -------
        ndarray of shape (n, height, width, 3), dtype uint8
            RGB in 0..255; gray is repeated, float images are rounded.

        Raises
        ------
        ImageReadError
            For the first image, in this order, that cannot be read; its
            `faults` list all of these images that cannot be read.
        ValueError
            For a `resize` below `size`, an unknown mode or filter, and a fill
            that is not a color.
        """
        rows = np.atleast_1d(self._rows[indices])
        height, width, resize = self._output_size(size, resize)
        resizing = Resizing.of(
            {"resize_mode": resize_mode, "interpolation": interpolation, "fill": fill}
        )
        native = self._native(height, width, resize)
        if native is not None:
            return native.gather(rows)
        pixels = np.empty((len(rows), height, width, 3), dtype=np.uint8)

        def read_block(block: slice) -> list[ImageReadError]:
            faults = []
            for i in range(block.start, block.stop):
                try:
                    image = self._guard(self._load, rows[i], height, width, resize, resizing)
                    pixels[i] = np.atleast_3d(np.asarray(image))
                except ImageReadError as fault:
                    faults.append(fault)
            return faults

        # A few blocks per thread keep all of them busy and handing over cheap.
        found = in_threads(
            read_block, slices(len(rows), max(1, len(rows) // 32)), most=MOST_THREADS
        )
        if faults := [fault for block in found for fault in block]:
            raise with_others(faults)
        return pixels

    def pil_image(self, index: int) -> Image.Image:
        """Return one image as a viewer shows it: in its own size, upright, on white.

        Parameters
        ----------
        index : int
            Which image.

        Returns
        -------
        PIL.Image.Image
            A new image in RGB, without EXIF.

        Raises
        ------
        ImageReadError
            If it cannot be read.
        """
        return self._guard(self._copy_whole, self._rows[index])

    def check_readable(self, progress: bool = False) -> None:
        """Check every image without decoding it; some damage shows only later.

        A path must lead to a regular file with the header of a known format, an
        allowed size, and the end of its format; a file without this end is
        decoded to be sure. Other damage shows only when the image is read:
        `cached` reads all.

        Parameters
        ----------
        progress : bool, default=False
            Whether to draw a progress bar.

        Raises
        ------
        ImageReadError
            For the first faulty image; the message counts the others, and its
            `faults` list all.
        """
        if faults := self.find_faults(progress=progress):
            raise with_others(faults)

    def find_faults(self, *, decode: bool = False, progress: bool = False) -> list[ImageReadError]:
        """Find all images that cannot be read.

        Parameters
        ----------
        decode : bool, default=False
            Whether to decode every image, which finds the faults that `read` would
            find; False checks as `check_readable` does.

        progress : bool, default=False
            Whether to draw a progress bar.

        Returns
        -------
        list of ImageReadError
            One per faulty image, in order; empty if there are no faults.
        """
        if isinstance(self._source, ArrayOfImages):
            return []
        look = self._try_decoding if decode else self._source.check
        blocks = slices(len(self), BLOCK)
        bar = with_progress(
            blocks, total=len(blocks), description="Checking images", enabled=progress
        )
        faults: list[ImageReadError] = []
        for block in bar:
            faults += filter(
                None,
                in_threads(
                    lambda row: self._find_fault(look, row), self._rows[block], most=MOST_THREADS
                ),
            )
        return faults

    def cached(
        self,
        size: Size = None,
        resize: int | None = None,
        max_bytes: int = 2**30,
        progress: bool = False,
        *,
        resize_mode: ResizeMode = "cover",
        interpolation: Interpolation = "bilinear",
        fill: Sequence[int] = (0, 0, 0),
    ) -> Images:
        """Decode all images once, if they fit into memory.

        Parameters
        ----------
        size : int or tuple (height, width), default=None
            As for `read`.

        resize : int, default=None
            As for `read`.

        max_bytes : int, default=2**30
            Maximum number of bytes of the decoded images.

        progress : bool, default=False
            Whether to draw a progress bar.

        resize_mode, interpolation, fill : str, str and sequence of 3 int
            As for `read`.

        Returns
        -------
        Images
            Decoded images of `size`; or these, if they need no decoding or
            would take more than `max_bytes`.

        Raises
        ------
        ImageReadError
            For the first image that cannot be read; its `faults` list all.
        """
        height, width, resize = self._output_size(size, resize)
        native = self._native(height, width, resize)
        if native is not None and native.pixels.dtype == np.uint8:
            return self
        if len(self) * height * width * 3 > max_bytes:
            return self
        pixels = np.empty((len(self), height, width, 3), dtype=np.uint8)
        blocks = slices(len(self), BLOCK)
        faults: list[ImageReadError] = []
        for block in with_progress(
            blocks, total=len(blocks), description="Reading images", enabled=progress
        ):
            try:
                pixels[block] = self.read(
                    block,
                    size,
                    resize,
                    resize_mode=resize_mode,
                    interpolation=interpolation,
                    fill=fill,
                )
            except ImageReadError as error:  # all are named, not the first only
                faults += error.faults
        if faults:
            raise with_others(faults)
        return Images(ArrayOfImages(pixels), np.arange(len(self)))

    def fingerprint(self) -> str:
        """Return a hash of the pixels; of path, size and time of change for files.

        Returns
        -------
        str
            The same for the same images in the same order.
        """
        blocks = slices(len(self), BLOCK)
        # Block by block: selecting rows copies them.
        return fingerprint(
            [fingerprint(self._source.fingerprint(self._rows[block]), "X") for block in blocks]
        )

    def part(self, positions: Rows) -> Images:
        """Return some of the images, renumbered, without data of the others.

        Parameters
        ----------
        positions : slice or array-like of int
            Which images.

        Returns
        -------
        Images
            Their pickle holds only their own data.
        """
        rows = self._rows[positions]
        return Images(self._source.take(rows), np.arange(len(rows)))

    def _limited(self, max_pixels: float) -> Images:
        """Return the images under another `max_pixels`."""
        return Images(self._source.limited(max_pixels), self._rows)

    def _output_size(self, size: Size, resize: int | None) -> tuple[int, int, int | None]:
        """Return height, width and the checked `resize`; None just covers height and width."""
        if size is None:
            if self.image_shape is None:
                kind = "files" if self.is_path else "images of any sizes"
                raise ValueError(f"X holds {kind}, which must be resized: pass a size in px.")
            return self.image_shape[0], self.image_shape[1], None
        if isinstance(size, tuple) and len(size) == 2 and resize is None:
            height, width = (check_integer(side, "size", minimum=1) for side in size)
            return height, width, None
        size = check_integer(size, "size", minimum=1)
        resize = size if resize is None else check_integer(resize, "resize", minimum=1)
        if resize < size:
            raise ValueError(
                f"resize={resize} is smaller than size={size}, the square cut from the resized "
                "image. Use at least the same."
            )
        return size, size, resize

    def _native(self, height: int, width: int, resize: int | None) -> ArrayOfImages | None:
        """Return the source if reading is only a selection of array rows."""
        source = self._source
        is_array = isinstance(source, ArrayOfImages)
        if is_array and source.shape[:2] == (height, width) and resize in (None, height):
            return source
        return None

    def _selected_from(
        self, size: Size = None, resize: int | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
        """Return pixels and rows of them that `read` would give as they are, or None."""
        pixels = getattr(self._source, "pixels", None)
        if pixels is None or pixels.dtype != np.uint8 or pixels.shape[3] != 3:
            return None
        is_native = self._native(*self._output_size(size, resize)) is not None
        return (pixels, self._rows) if is_native else None

    def _load(
        self, row: int, height: int, width: int, resize: int | None, resizing: Resizing
    ) -> Image.Image:
        """Return one PIL image (RGB or L) of the wanted size."""
        with self._source.show(row, max(height, width) if resize is None else resize) as image:
            return fit(image, height, width, resize, resizing)

    def _guard(self, function: Callable[..., Result], row: int, *args: object) -> Result:
        """Call ``function(row, *args)``; whatever it raises names row and path."""
        try:
            return function(row, *args)
        except MemoryError:
            raise
        except Exception as error:
            check_process(error)
            path, about = self._source.describe(row)
            reason, way = reason_of(error, self._source.origin(row))
            number = getattr(error, "errno", None)
            raise fault_of(int(row), path, reason, way, number, about) from error

    def _copy_whole(self, row: int) -> Image.Image:
        with self._source.show(row, None) as image:
            return Image.fromarray(np.asarray(image.convert("RGB")))

    def _try_decoding(self, row: int) -> None:
        self._load(row, PROOF, PROOF, PROOF, Resizing())

    def _find_fault(self, look: Callable[[int], None], row: int) -> ImageReadError | None:
        """Return the fault of one image that `look` raises, or None."""
        try:
            self._guard(look, row)
        except ImageReadError as fault:
            return fault


# Arrays of pixels: shape, dtype and values, or an error that says which --------------------------


class ArrayOfImages:
    """Images of one shape (n, H, W, 1 | 3 | 4) and one checked dtype."""

    is_path: bool = False
    holds_dictionaries: bool = False

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels: np.ndarray = pixels
        _, *sides = pixels.shape
        height, width, n_channels = sides
        self.shape: ImageShape = (height, width, n_channels)

    def __len__(self) -> int:
        return len(self.pixels)

    def limited(self, max_pixels: float) -> ArrayOfImages:
        return self  # nothing is decoded

    def describe(self, row: int) -> tuple[str | None, str | None]:
        return None, None

    def origin(self, row: int) -> str | bytes | None:
        return None

    def names(self, rows: NDArray[np.int64]) -> NDArray[np.str_] | None:
        return None

    def take(self, rows: NDArray[np.int64]) -> ArrayOfImages:
        return ArrayOfImages(self.pixels[rows])

    def gather(self, rows: NDArray[np.int64] | int) -> NDArray[np.uint8]:
        return to_rgb(to_uint8(self.pixels[rows]))

    @contextmanager
    def show(self, row: int, resize: int | None) -> Iterator[Image.Image]:
        yield Image.fromarray(np.ascontiguousarray(self.gather(row)))

    def fingerprint(self, rows: NDArray[np.int64]) -> object:
        return self.pixels[rows]


def pixels_of(X: ArrayLike | torch.Tensor, name: str) -> np.ndarray:
    """Return an array, or a tensor wherever it is, as a NumPy array; no copy in memory."""
    if isinstance(X, np.ma.MaskedArray):
        check_not_masked(X, name, "a pixel")
    return np.asarray(as_numpy(X) if hasattr(X, "detach") else X)


def check_stack(pixels: np.ndarray) -> np.ndarray:
    """Return an array of images of one size as (n, H, W, C)."""
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4):
        raise ValueError(
            f"X has shape {pixels.shape}, which looks like one image: wrap it in a list, [X]."
        )
    if pixels.ndim not in (3, 4):
        rows = " 2-D arrays are feature rows, not images." if pixels.ndim == 2 else ""
        raise ValueError(f"X has shape {pixels.shape}.{rows} {EXPECTED}.")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    _check_shape(pixels.shape[1:], pixels.shape, "X", "X.transpose(0, 2, 3, 1)")
    _check_dtype(pixels, "X")
    # One block of about 16M pixels at a time, so that a memory map is never loaded whole.
    step = max(1, 2**24 // pixels[0].size)
    for start in range(0, len(pixels), step):
        _check_values(pixels[start : start + step], "X[{}]", start)
    if _is_16_bit(pixels):
        check_16_bit(pixels)
    return pixels


def check_item(pixels: np.ndarray, name: str) -> np.ndarray:
    """Return one image array as (H, W, C); errors call it `name`."""
    if pixels.ndim not in (2, 3):
        raise ValueError(f"{name} has shape {pixels.shape}. {EXPECTED}.")
    shape = pixels.shape
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    _check_shape(pixels.shape, shape, name, "image.transpose(1, 2, 0)")
    _check_dtype(pixels, name)
    _check_values(pixels[None], name)
    return pixels


def _check_shape(
    image_shape: tuple[int, ...], shape: tuple[int, ...], name: str, remedy: str
) -> None:
    """Raise unless (H, W, C) has pixels, and 1, 3 or 4 channels last."""
    if image_shape[2] not in (1, 3, 4):
        if image_shape[0] in (1, 3, 4):
            raise ValueError(
                f"{name} has shape {shape}, which looks channels-first: pass {remedy}."
            )
        raise ValueError(f"{name} has shape {shape}. {EXPECTED}.")
    if 0 in image_shape:
        raise ValueError(f"{name} has shape {shape}: images without pixels.")


def _check_dtype(pixels: np.ndarray, name: str) -> None:
    """Raise unless the dtype fixes what the values mean."""
    kind, itemsize = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "f" or (kind == "u" and itemsize <= 2):
        return
    hint = "X.astype(np.uint8) * 255" if kind == "b" else "X.astype(np.uint8)"
    raise ValueError(
        f"{name} has dtype {pixels.dtype}. Images are uint8 (0 to 255), uint16 (0 to 65535) or "
        f"float (0 to 1): convert them, for example by {hint} if that fits the values."
    )


def _check_values(pixels: np.ndarray, name: str, first_row: int = 0) -> None:
    """Raise if float pixels (n, H, W, C) are not all in [0, 1]; `name` has room for the row."""
    if pixels.dtype.kind != "f":
        return
    with np.errstate(invalid="ignore"):
        if pixels.min() >= -SLACK and pixels.max() <= 1 + SLACK:  # NaN fails
            return
        low, high = pixels.min(axis=(1, 2, 3)), pixels.max(axis=(1, 2, 3))  # (n,)
        bad = int(np.flatnonzero(~((low >= -SLACK) & (high <= 1 + SLACK)))[0])
    where = name.format(first_row + bad)
    if not (np.isfinite(low[bad]) and np.isfinite(high[bad])):
        raise ValueError(f"{where} contains NaN or infinity. Pixels must be finite.")
    raise ValueError(
        f"{where} has pixels from {low[bad]:g} to {high[bad]:g}, but float images must be in 0 "
        "to 1. Pass uint8 for 0 to 255, or scale them."
    )


def _is_16_bit(pixels: np.ndarray) -> bool:
    return pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2


def check_16_bit(images: Iterable[np.ndarray]) -> None:
    """Raise, for all of them, if any uint16 image holds 8-bit values."""
    reasons = enumerate(map(reason_of_16_bit, images))
    faults = [fault_of(row, None, *reason) for row, reason in reasons if reason is not None]
    if faults:
        raise with_others(faults)


def reason_of_16_bit(pixels: np.ndarray) -> tuple[str, str] | None:
    """Return why a uint16 image of 8-bit values, which would be black, is refused, and what to do.

    None for all other images.
    """
    high = pixels.max() if _is_16_bit(pixels) else 0
    if not 0 < high < 256:
        return None
    return (
        f"dtype uint16, but no pixel is above {high}, although 16-bit images go to 65535: all of "
        "it would be black",
        "Pass X.astype(np.uint8) if these are 8-bit images, scale them",
    )
