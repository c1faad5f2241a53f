"""Arrays of pixels: shape, dtype and values, or an error that says which."""

import numpy as np

from sklearn_cbir._validation import as_numpy, check_not_masked
from sklearn_cbir.images._faults import fault_of, with_others

EXPECTED = (
    "Images are arrays of shape (n, height, width) or (n, height, width, 1 | 3 | 4), or a "
    "sequence of paths, encoded photos (bytes), PIL images or arrays"
)
SLACK = 1e-6  # rounding above 1 or below 0 that interpolation leaves in float images


def pixels_of(X, name):
    """Return an array, or a tensor wherever it is, as a NumPy array; no copy in memory."""
    check_not_masked(X, name, "a pixel")
    return np.asarray(as_numpy(X) if hasattr(X, "detach") else X)


def check_stack(pixels):
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
    check_16_bit(pixels)
    return pixels


def check_item(pixels, name):
    """Return one image array as (H, W, C); errors call it `name`."""
    if pixels.ndim not in (2, 3):
        raise ValueError(f"{name} has shape {pixels.shape}. {EXPECTED}.")
    shape = pixels.shape
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    _check_shape(pixels.shape, shape, name, "image.transpose(1, 2, 0)")
    _check_dtype(pixels, name)
    _check_values(pixels[None], name)
    return pixels


def _check_shape(image_shape, shape, name, remedy):
    """Raise unless (H, W, C) has pixels, and 1, 3 or 4 channels last."""
    if image_shape[2] not in (1, 3, 4):
        if image_shape[0] in (1, 3, 4):
            raise ValueError(
                f"{name} has shape {shape}, which looks channels-first: pass {remedy}."
            )
        raise ValueError(f"{name} has shape {shape}. {EXPECTED}.")
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


def _check_values(pixels, name, first_row=0):
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


def check_16_bit(images):
    """Raise, for all of them, if any uint16 image holds 8-bit values."""
    reasons = enumerate(map(reason_of_16_bit, images))
    faults = [fault_of(row, None, *reason) for row, reason in reasons if reason is not None]
    if faults:
        raise with_others(faults)


def reason_of_16_bit(pixels):
    """Return why a uint16 image of 8-bit values, which would be black, is refused, and what to do.

    None for all other images.
    """
    high = pixels.max() if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2 else 0
    if not 0 < high < 256:
        return None
    return (
        f"dtype uint16, but no pixel is above {high}, where 16-bit images go to 65535: all of it "
        "would be black",
        "Pass X.astype(np.uint8) if these are 8-bit images, scale them",
    )
