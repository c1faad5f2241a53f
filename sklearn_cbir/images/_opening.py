"""Files, encoded photos and PIL images, opened under one limit; and messages for failures."""

import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias, TypeGuard, cast

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.images._decoding import EXTENT, check_high, viewable
from sklearn_cbir.images._faults import Refusal
from sklearn_cbir.images._formats import (
    check_size,
    kind_of,
    looks_whole,
    own_limit,
    readable_formats,
    tags_of,
    way_out_of,
    without_text,
)

Source: TypeAlias = str | bytes  # a path, or what is in a file
MAX_PIXELS = 300_000_000  # 1.2 GB while it is decoded; phones make up to 200 million
ALONE = 50_000_000  # px: images above are decoded one at a time, whatever the number of threads
SMALLEST = 1  # px: lets a JPEG decode itself as small as it can, to see whether it is whole

# A PIL image that is still a file reads itself when first used, which two threads must not do.
PIL_LOCK = ProcessLock()
_LARGE_LOCK = ProcessLock()
_HEAD = 256  # bytes that tell what a file is
_SUBFILE_TYPE, _BITS, _SAMPLES, _SAMPLE_FORMAT = 254, 258, 277, 339  # TIFF tags
_FORMATS_OF = {
    "a HEIC image": "HEIF",
    "an AVIF image": "AVIF",
    "a JPEG image": "JPEG",
    "a PNG image": "PNG",
    "a GIF image": "GIF",
    "a WebP image": "WEBP",
}
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating point", 5: "complex", 6: "complex"}


# Opening ---------------------------------------------------------------------------------------


def check_file(path: str) -> None:
    """Raise unless `path` is a regular file: opening a pipe would block for ever."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise Refusal(
            "a folder, not an image", "Pass the images in it, which load_image_folder lists"
        )
    if not stat.S_ISREG(mode):
        raise Refusal("not a regular file (a pipe, socket or device)", "Pass a file")


@contextmanager
def opened(
    source: Source,
    max_pixels: float,
    resize: int | None = None,
    decode: bool = True,
    frame: int | None = None,
    format: str | None = None,
) -> Iterator[ImageFile.ImageFile]:
    """Open and decode a path or the bytes of a file, a JPEG no larger than `resize` needs.

    `format` is one more that may be read: that of an image which the caller has opened.
    """
    if isinstance(source, str):
        check_file(source)
    with own_limit(max_pixels), ExitStack() as stack:
        image = stack.enter_context(_identified(source, format))
        _choose_page(image, frame)
        whole = image.size
        if resize is not None:
            draft(image, resize)
        check_header(image, max_pixels, whole)
        if decode:
            if math.prod(image.size) > ALONE:
                stack.enter_context(_LARGE_LOCK)
            image = _loaded(image, source, stack)
        yield image


def check_whole(source: Source, max_pixels: float, format: str | None = None) -> None:
    """Raise if the header, or a cheap check of the rest, shows a fault."""
    with opened(source, max_pixels, SMALLEST, decode=False, format=format) as image:
        if image.mode != "F" and looks_whole(image):
            return
    # The look was no proof: files with something behind their end are fine.
    with opened(source, max_pixels, SMALLEST, format=format) as image:
        if image.mode == "F":
            viewable(image)  # raises if values are out of range


def _identified(source: Source, format: str | None = None) -> ImageFile.ImageFile:
    """Return the image, its header read."""
    foreign = [format] if format is not None and format in Image.OPEN else []
    formats = (*readable_formats(), *foreign)
    file = source if isinstance(source, str) else io.BytesIO(source)
    try:
        image = Image.open(file, formats=formats)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):
            raise
        return Image.open(without_text(_all_of(source)), formats=("PNG",))
    kind = kind_of(_head_of(source)) if image.format == "TIFF" else None
    if kind is not None:  # a camera raw file, whose preview Pillow would read
        image.close()
        raise Refusal(f"{kind}, not an image that can be read", way_out_of(kind))
    return image


def _all_of(source: Source) -> bytes:
    if not isinstance(source, str):
        return source
    with open(source, "rb") as file:
        return file.read()


def _loaded(image: ImageFile.ImageFile, source: Source, stack: ExitStack) -> ImageFile.ImageFile:
    """Return the decoded image; text of a PNG that is too long for Pillow is left out."""
    raw_mode = _raw_mode_of(image)
    try:
        image.load()
    except ValueError as error:
        if "MAX_TEXT" not in str(error):
            raise
        image = stack.enter_context(Image.open(without_text(_all_of(source)), formats=("PNG",)))
        image.load()
    if raw_mode in _LOW_BYTES and not _is_lit(image):
        _check_low_bytes(source, raw_mode)
    return image


def _choose_page(image: ImageFile.ImageFile, frame: int | None) -> None:
    """Go to the frame asked for; of a TIFF that begins with a thumbnail, to the whole image."""
    if frame is not None:
        image.seek(frame)
    elif image.format == "TIFF" and _is_reduced(image):
        for page in range(1, getattr(image, "n_frames", 1)):
            image.seek(page)
            if not _is_reduced(image):
                return
        raise Refusal(
            "a TIFF with reduced images only, as camera raw files are", "Convert it to JPEG or PNG"
        )


def _is_reduced(image: Image.Image) -> bool:
    return bool(tags_of(image).get(_SUBFILE_TYPE, 0) & 1)


def draft(image: Image.Image, resize: int) -> None:
    """Let a JPEG decode itself no larger than needed."""
    # Twice what is wanted leaves the antialiasing to the resize, as for any other format: with
    # once, pixels differ from those of the whole image by 2 levels on average, with twice by 0.3.
    scale = 2 * resize / min(image.size)
    if scale < 1:
        width, height = image.size
        drafted = image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))
        if drafted is not None:
            image.info[EXTENT] = drafted[1]


def check_header(
    image: Image.Image, max_pixels: float, whole: tuple[int, int] | None = None
) -> None:
    """Raise if size or mode show that the image must not or cannot be decoded."""
    if 0 in image.size:
        raise Refusal(f"{image.size[0]} x {image.size[1]} pixels: the image is empty")
    # All coefficients of a progressive JPEG are in memory, however small it is decoded.
    is_progressive = image.info.get("progressive")
    check_size(whole if whole is not None and is_progressive else image.size, max_pixels)
    tags = tags_of(image)
    is_signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if image.mode == "I" or is_signed:
        kind = f"{'signed ' if is_signed else ''}{tags.get(_BITS, (32,))[0]}-bit integer"
        raise Refusal(
            f"{kind} pixels have no fixed range, so it must be converted to 8 or 16 bit",
            "Convert it to unsigned pixels",
        )


# 16 bit per color: Pillow keeps the upper byte, and no more --------------------------------------

_LOW_BYTES = {  # how pixels are unpacked -> how else, so that bands hold the lower bytes
    **{
        f"{mode};16{order}": (f"{mode};16{other}", "RGB")
        for mode in ("RGB", "RGBA", "RGBX")
        for order, other in ("BL", "LB")
    },
    "LA;16B": ("RGBA", "G"),  # upper and lower byte of gray, then of alpha
}


def _raw_mode_of(image: Image.Image):
    """Return how the pixels of an opened image will be unpacked, or None."""
    tile = getattr(image, "tile", None) or [(None, None, None, None)]
    arguments = tile[0][3]
    return arguments[0] if isinstance(arguments, tuple) and arguments else arguments


def _is_lit(image: Image.Image) -> bool:
    """Say whether any color of a decoded image is above 0."""
    return any(_largest(image, band) for band in image.getbands() if band != "A")


def _largest(image: Image.Image, band: str) -> int:
    """Return the largest value of a band."""
    return cast(int, image.getchannel(band).getextrema()[1])  # of one band: a number, no pair


def _check_low_bytes(source, raw_mode):
    """Raise if a black image of 16 bit per color holds values, all of them below 256."""
    other, bands = _LOW_BYTES[raw_mode]
    with _identified(source) as image:
        image.tile = [_unpacked_as(tile, other) for tile in image.tile]
        image.load()
        high = max(_largest(image, band) for band in bands)
    check_high(high)


def _unpacked_as(tile, raw_mode):
    arguments = tile[3]
    arguments = (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
    return tile._replace(args=arguments)


# PIL images --------------------------------------------------------------------------------------


def is_unread(image: Image.Image) -> TypeGuard[ImageFile.ImageFile]:
    """Say whether a PIL image is a file that was opened and not decoded yet."""
    if not isinstance(image, ImageFile.ImageFile) or getattr(image, "fp", None) is None:
        return False
    return bool(image.tile) or not _has_pixels(image)


def _has_pixels(image: Image.Image) -> bool:
    """Say whether a PIL image is decoded; one that was closed is not."""
    try:
        return image.im is not None
    except (AssertionError, ValueError):  # not decoded yet; closed
        return False


def check_opened(image: Image.Image, max_pixels: float) -> None:
    """Raise if a PIL image must not be decoded, or cannot be as its file is closed."""
    has_file = getattr(image, "fp", None) is not None or hasattr(image, "_heif_file")
    if not has_file and not _has_pixels(image):
        raise Refusal(
            "the image cannot be decoded: it was closed, as close() and verify() do",
            "Open it again",
        )
    check_header(image, max_pixels)


def bytes_behind(image: ImageFile.ImageFile) -> bytes | None:
    """Return the bytes that an unread PIL image was opened from, leaving it as it is; or None.

    Its file has one place to read at, which threads and forked processes share.
    """
    file = image.fp
    try:
        if file is None:
            return None
        if isinstance(file, io.BytesIO):
            return file.getvalue()
        if hasattr(os, "pread") and isinstance(getattr(file, "raw", None), io.FileIO):
            return _read_in_place(file.fileno())
        with PIL_LOCK:
            place = file.tell()
            file.seek(0)
            data = file.read()
            file.seek(place)
            return data
    except (AttributeError, OSError, ValueError):  # closed, or an object of another kind
        return None


def is_shared(image: ImageFile.ImageFile) -> bool:
    """Say whether reading an unread image moves a place that other processes read at too."""
    file = image.fp
    in_place = hasattr(os, "pread") and isinstance(getattr(file, "raw", None), io.FileIO)
    return not in_place and not isinstance(file, io.BytesIO)


def _read_in_place(number: int) -> bytes:
    """Return all bytes of an open file, its place left alone."""
    parts, at = [], 0
    while part := os.pread(number, 2**24, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


# Reasons -----------------------------------------------------------------------------------------


def reason_of(error: Exception, source: Source | None) -> tuple[str, str]:
    """Say what went wrong in words that do not depend on Pillow, and the way out.

    `source` is a path, the bytes of a file, or None for an image that is neither.
    """
    if isinstance(error, Refusal):
        return str(error), error.way
    is_text = isinstance(source, str) and source.startswith("data:")  # may be too long for a name
    if isinstance(error, FileNotFoundError) or (is_text and isinstance(error, OSError)):
        return _reason_missing(source)
    if isinstance(error, PermissionError):
        return "permission to read the file is denied", "Make it readable"
    if isinstance(error, Image.UnidentifiedImageError):
        return _reason_unknown(source)
    if isinstance(error, OSError) and error.errno is not None:
        return f"the file cannot be opened ({error.strerror})", "Make it readable"
    text = str(error).rstrip(".")
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return f"truncated ({text})", "Repair it"
    return f"the image cannot be decoded ({type(error).__name__}: {text})", "Repair it"


def _reason_missing(path: Source | None) -> tuple[str, str]:
    """Say why there is no file at `path`."""
    if isinstance(path, str) and os.path.islink(path):
        return "a link to a file that does not exist", "Mend the link"
    if isinstance(path, str) and path.startswith("data:"):
        return "the file does not exist (a data URI is not decoded)", (
            "Pass its bytes, base64.b64decode(uri.split(',')[1])"
        )
    if isinstance(path, str) and "://" in path:
        return "the file does not exist (addresses are not downloaded)", (
            "Download it and pass its path or its bytes"
        )
    return "the file does not exist", "Check the path"


def _reason_unknown(source: Source | None) -> tuple[str, str]:
    """Return the kind of a file whose format Pillow does not know."""
    try:
        head = None if source is None else _head_of(source)
    except OSError:  # gone since
        head = None
    if head == b"":
        return ("the file is empty" if isinstance(source, str) else "there are no bytes"), (
            "Get it again"
        )
    kind = kind_of(head) if head else None
    if kind is not None and _FORMATS_OF.get(kind) in readable_formats():
        return f"{kind} that is truncated or damaged", "Repair it"
    if kind is not None:
        return f"{kind}, not an image that can be read{_formats_text()}", way_out_of(kind)
    if source is not None and head and head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _reason_tiff(source)
    if isinstance(source, bytes) and _is_like_a_name(source):
        return f"not an image that can be read{_formats_text()}", (
            "Pass os.fsdecode(name) if it is the name of a file, as bytes are the photo itself"
        )
    return f"not an image that can be read{_formats_text()}", "Repair it"


def _head_of(source: Source) -> bytes:
    if not isinstance(source, str):
        return bytes(source[:_HEAD])
    with open(source, "rb") as file:
        return file.read(_HEAD)


def _formats_text() -> str:
    return f" ({', '.join(readable_formats())})"


def _is_like_a_name(data: bytes) -> bool:
    """Say whether bytes may be a path: short, one line of text."""
    return len(data) < 4096 and all(byte >= 32 for byte in data)


def _reason_tiff(source: Source) -> tuple[str, str]:
    """Say which pixels a TIFF has that Pillow does not decode."""
    try:
        data = io.BytesIO(_all_of(source))
        head = data.read(8)
        tags = ImageFileDirectory_v2(head + data.read(8) if 43 in head[2:4] else head)
        data.seek(tags.next)
        tags.load(data)
        bits = np.unique(tags[_BITS])
        samples, kinds = tags.get(_SAMPLES, 1), tags.get(_SAMPLE_FORMAT, (1,))
        kind = _SAMPLE_FORMATS.get(np.ravel(kinds)[0], "unknown")
    except Exception:  # whatever a broken directory raises
        return "a TIFF whose directory cannot be read", "Repair it"
    if list(bits) in ([8], [16]) and kind == "unsigned":
        return "a TIFF that cannot be decoded", "Save it again without compression"
    widths = " and ".join(f"{width:g}" for width in bits)
    return (
        f"a TIFF of {samples} {kind} {widths}-bit samples per pixel, which are not decoded",
        "Convert it to 8 or 16 bit without sign",
    )
