"""One file, PIL image or array -> upright 8-bit pixels."""

import math
import os
import stat
import struct

import numpy as np
from PIL import ExifTags, Image

from sklearn_cbir._locks import ProcessLock

# Only these: Pillow hands EPS to Ghostscript, and other rare formats to other parsers.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000

# Bilinear with antialiasing is what torchvision's weights were evaluated with; bicubic rings at
# the edges of drawings.
FILTER = Image.Resampling.BILINEAR
SLACK = 1e-6  # rounding above 1 or below 0 that interpolation leaves in float images
_TURNS = {  # EXIF orientation -> what turns it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A PIL image that is still a file reads itself when first used, which two threads must not do.
PIL_LOCK = ProcessLock()
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and a value


def reason_of(error, path):
    """Say what went wrong in words that do not depend on Pillow."""
    if isinstance(error, FileNotFoundError):
        return _reason_missing(path)
    if isinstance(error, PermissionError):
        return "permission to read the file is denied"
    if isinstance(error, Image.UnidentifiedImageError):
        if _is_empty(path):
            return "the file is empty"
        return f"not an image that can be read ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and error.errno is not None:
        return f"the file cannot be opened ({error.strerror})"
    text = str(error).rstrip(".")
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return f"truncated ({text})"
    return f"the image cannot be decoded ({type(error).__name__}: {text})"


def _reason_missing(path):
    """Say why there is no file at `path`."""
    if path is not None and os.path.islink(path):
        return "a link to a file that does not exist"
    if path is not None and "://" in path:
        return "the file does not exist (addresses are not downloaded)"
    return "the file does not exist"


def _is_empty(path):
    try:
        return os.path.getsize(path) == 0
    except OSError:  # gone since
        return False


# One image -----------------------------------------------------------------------------------


class Refusal(Exception):
    """A reason to refuse an image that is ours, not Pillow's."""


def _check_file(path):
    """Raise unless `path` is a regular file: opening a pipe would block for ever."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise Refusal("a folder, not an image; load_image_folder lists the images in it")
    if not stat.S_ISREG(mode):
        raise Refusal("not a regular file (a pipe, socket or device)")


def check_header(image, max_pixels):
    """Raise if size or mode show that the image must not or cannot be decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise Refusal(
            f"{width} x {height} = {width * height:,} pixels are more than the {max_pixels:,} "
            "that are allowed"
        )
    if image.mode == "I":
        raise Refusal(
            "32-bit integer pixels have no fixed range, so it must be converted to 8 or 16 bit"
        )


def open_file(path, max_pixels):
    """Return the image of a file, its header read and checked, its pixels not yet decoded."""
    _check_file(path)
    image = Image.open(path, formats=FORMATS)
    try:
        check_header(image, max_pixels)
    except BaseException:
        image.close()
        raise
    return image


def viewable(image):
    """Return a decoded PIL image as RGB or L of 8 bit, upright, without transparency."""
    shown = _in_8_bit(image)
    turn = _TURNS.get(orientation_of(image))
    return shown if turn is None else shown.transpose(turn)


def _in_8_bit(image):
    """Return a decoded PIL image as RGB or L, transparency laid on white."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode == "F":
        return _from_float(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def orientation_of(image):
    """Return the EXIF orientation, 1 if there is none or the EXIF block is broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever a broken block raises: viewers show such photos too
        return 1


def _from_16_bit(image):
    """Return 16-bit gray as 8-bit; Pillow's own conversion clips at 255."""
    pixels = np.asarray(image).astype(np.uint16)
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]  # 12 in some microscopes' files
    gray = (pixels >> (bits - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow turns 8-bit files only
        gray = 255 - gray
    if "transparency" in image.info:
        gray[pixels == image.info["transparency"]] = 255
    return Image.fromarray(gray)


def _from_float(image):
    """Return float gray in [0, 1] as 8-bit; Pillow's own conversion makes it black."""
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if not (low >= -SLACK and high <= 1 + SLACK):  # NaN fails too
        raise Refusal(f"float pixels from {low:g} to {high:g}, but they must be in 0 to 1")
    return Image.fromarray(to_uint8(pixels))


def to_uint8(pixels):
    """Return checked float, 16-bit or 8-bit pixels as uint8."""
    if pixels.dtype.kind == "f":
        return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def to_rgb(pixels):
    """Return uint8 (..., 1, 3 or 4) as (..., 3): gray replicated, transparency on white."""
    if pixels.shape[-1] == 3:
        return pixels
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    alpha = pixels[..., 3:].astype(np.uint16)
    blend = pixels[..., :3] * alpha + 255 * (255 - alpha)  # at most 255 * 255
    return ((blend.astype(np.uint32) + 127) // 255).astype(np.uint8)


def fit(image, size, resize):
    """Resize the short side to `resize`, cut the middle square of `size`, in one step."""
    scale = resize / min(image.size)
    # Whole pixels of the resized image, so that a cut without resizing copies pixels.
    left, top = (round((side * scale - size) / 2) / scale for side in image.size)
    box = (left, top, left + size / scale, top + size / scale)
    if scale == 1:
        return image.crop(tuple(int(edge) for edge in box))
    width, height = image.size
    box = (max(left, 0), max(top, 0), min(box[2], width), min(box[3], height))
    return image.resize((size, size), FILTER, box=box, reducing_gap=2.0)


def draft(image, resize):
    """Let a JPEG decode itself no larger than needed."""
    # Twice what is wanted leaves the antialiasing to the resize, as for any other format: with
    # once, pixels differ from those of the whole image by 2 levels on average, with twice by 0.3.
    scale = 2 * resize / min(image.size)
    if scale < 1:
        image.draft(None, tuple(math.ceil(side * scale) for side in image.size))


def looks_whole(image):
    """Say whether an opened file ends as its format wants it to."""
    file = image.fp
    place = file.tell()  # where Pillow goes on reading
    head = _read_at(file, 0, os.SEEK_SET, 12)
    tail = _read_at(file, -12, os.SEEK_END, 12)
    size = file.tell()
    file.seek(place)
    if image.format in ("JPEG", "MPO"):
        return tail.endswith(b"\xff\xd9")
    if image.format == "PNG":
        return tail.endswith(b"IEND\xaeB`\x82")
    if image.format == "GIF":
        return tail.endswith(b"\x3b")
    if image.format == "WEBP":
        return size >= struct.unpack("<I", head[4:8])[0] + 8
    if image.format == "BMP":
        return size >= struct.unpack("<I", head[2:6])[0] > 0
    return False


def _read_at(file, offset, whence, n):
    """Return `n` bytes from a place in a file."""
    file.seek(offset, whence)
    return file.read(n)
