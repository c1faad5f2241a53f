"""One file, PIL image or array -> upright 8-bit pixels."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from sklearn_cbir.images._faults import Refusal
from sklearn_cbir.images._formats import tags_of
from sklearn_cbir.images._resizing import FILTERS, Resizing, resized_sides

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
MOST_THREADS = 8  # Pillow gives way while it works; more do not help
MOST_CUT_OFF = 4  # times what is kept: more of a resized image is not made, long strips are huge
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
_SWAPS = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
}
_FLIPS_ACROSS = {  # in the turned image, after rows and columns are swapped where they are
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
}
_FLIPS_DOWN = {
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
}
# Under this key of its `info`, a JPEG that was decoded smaller says where it ends, in fractions of
# its pixels: the last of 215 holds a quarter of one, of 857 rows at a quarter.
EXTENT = "sklearn_cbir.extent"
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and a value


def viewable(image: Image.Image) -> Image.Image:
    """Return a decoded PIL image as RGB or L of 8 bit, upright, without transparency."""
    shown = _in_8_bit(image)
    turn = _TURNS.get(_orientation_of(image))
    if turn is None:
        return shown
    turned = shown.transpose(turn)
    if EXTENT in shown.info:
        turned.info[EXTENT] = _turned_box(shown.info[EXTENT], turned.size, turn)
    return turned


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height that a PIL image has when it is upright; nothing is decoded."""
    width, height = image.size
    is_swapped = _TURNS.get(_orientation_of(image)) in _SWAPS
    return (height, width) if is_swapped else (width, height)


def _turned_box(box: Box, size: tuple[int, int], turn: Image.Transpose) -> Box:
    """Return where a box is in an image that was turned, and has `size` now."""
    left, top, right, bottom = box
    if turn in _SWAPS:
        left, top, right, bottom = top, left, bottom, right
    if turn in _FLIPS_ACROSS:
        left, right = size[0] - right, size[0] - left
    if turn in _FLIPS_DOWN:
        top, bottom = size[1] - bottom, size[1] - top
    return left, top, right, bottom


def is_turned(image: Image.Image) -> bool:
    """Say whether a PIL image carries a tag by which it is turned."""
    return _orientation_of(image) in _TURNS


def _in_8_bit(image: Image.Image) -> Image.Image:
    """Return a decoded PIL image as RGB or L, transparency laid on white."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode == "F":
        return _from_float(image)
    if image.mode == "La":  # Pillow turns it into no other mode
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none or the EXIF block is broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever a broken block raises: viewers show such photos too
        return 1


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit gray as 8-bit; Pillow's own conversion clips at 255."""
    pixels = np.asarray(image).astype(np.uint16)
    tags = tags_of(image)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]  # 12 in some microscopes' files
    check_high(int(pixels.max()), bits)
    gray = (pixels >> (bits - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow turns 8-bit files only
        gray = 255 - gray
    if "transparency" in image.info:
        gray[pixels == image.info["transparency"]] = 255
    return Image.fromarray(gray)


def check_high(high: int, bits: int = 16) -> None:
    """Raise if pixels of `bits` bit go no higher than would be black in 8 bit."""
    if 0 < high < 2 ** (bits - 8):
        raise Refusal(
            f"{bits}-bit pixels, but none is above {high}, although {bits}-bit images go to "
            f"{2**bits - 1}: all of it would be black",
            "Save it with 8 bits if these are 8-bit values, or scale them",
        )


def _from_float(image: Image.Image) -> Image.Image:
    """Return float gray in [0, 1] as 8-bit; Pillow's own conversion makes it black."""
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if not (low >= -SLACK and high <= 1 + SLACK):  # NaN fails too
        raise Refusal(
            f"float pixels from {low:g} to {high:g}, but they must be in 0 to 1", "Scale them"
        )
    return Image.fromarray(to_uint8(pixels))


def to_uint8(pixels: np.ndarray) -> NDArray[np.uint8]:
    """Return checked float, 16-bit or 8-bit pixels as uint8."""
    if pixels.dtype.kind == "f":
        return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8 (..., 1, 3 or 4) as (..., 3): gray replicated, transparency on white."""
    if pixels.shape[-1] == 3:
        return pixels
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    alpha = pixels[..., 3:].astype(np.uint16)
    blend = pixels[..., :3] * alpha + 255 * (255 - alpha)  # at most 255 * 255
    return ((blend.astype(np.uint32) + 127) // 255).astype(np.uint8)


def fit(
    image: Image.Image, height: int, width: int, resize: int | None, resizing: Resizing
) -> Image.Image:
    """Resize an image and cut the middle out; None just fits the cut.

    `resize` is the length of the shorter side, of both or of the longer one, by the mode.
    """
    if resizing.resize_mode == "cover":
        return _covering(image, height, width, resize, FILTERS[resizing.interpolation])
    resample = FILTERS[resizing.interpolation]
    left, top, right, bottom = extent = image.info.get(EXTENT, (0, 0, *image.size))
    whole = right - left, bottom - top
    sides = resized_sides(whole, (width, height), resize, resizing.resize_mode)
    if width * height < sides[0] * sides[1] <= MOST_CUT_OFF * width * height:
        # Pillow chooses by the size whether rows or columns come first, which changes pixels.
        image = image.resize(sides, resample, box=extent)
        left, top, right, bottom = 0, 0, *sides
    left, right, shown_width, margin_left = _middle(left, right, sides[0], width)
    top, bottom, shown_height, margin_top = _middle(top, bottom, sides[1], height)
    # Without Pillow's reducing_gap, which is faster for large photos, and other pixels.
    box = left, top, right, bottom
    part = image.resize((shown_width, shown_height), resample, box=box)
    if part.size == (width, height):
        return part
    padded = Image.new("RGB", (width, height), resizing.fill)
    padded.paste(part, (margin_left, margin_top))
    return padded


def _middle(start: float, stop: float, resized: int, cut: int) -> tuple[float, float, int, int]:
    """Return where the middle of a side begins and ends, its length resized, and the margin."""
    shown = min(resized, cut)
    first = round((resized - shown) / 2)
    begin, end = (start + edge * (stop - start) / resized for edge in (first, first + shown))
    return begin, end, shown, (cut - shown) // 2


def _covering(
    image: Image.Image, height: int, width: int, resize: int | None, resample: Image.Resampling
) -> Image.Image:
    """Scale both sides by one number, whatever fraction of a pixel that leaves."""
    if resize is None:
        scale = max(width / image.width, height / image.height)
    else:
        scale = resize / min(image.size)
    # Whole pixels of the resized image, so that a cut without resizing copies pixels.
    left, top = (
        round((side * scale - cut) / 2) / scale for side, cut in zip(image.size, (width, height))
    )
    box = (left, top, left + width / scale, top + height / scale)
    if scale == 1:
        left, top, right, bottom = (int(edge) for edge in box)
        return image.crop((left, top, right, bottom))
    box = (max(left, 0), max(top, 0), min(box[2], image.width), min(box[3], image.height))
    return image.resize((width, height), resample, box=box, reducing_gap=2.0)
