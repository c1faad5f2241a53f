"""Random changes of training batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sklearn_cbir._randomness import Draws, one_torch_thread
from sklearn_cbir._threads import in_threads
from sklearn_cbir._typing import Interpolation
from sklearn_cbir._validation import check_choice, resolve, shortened
from sklearn_cbir.images._decoding import MOST_THREADS
from sklearn_cbir.images._resizing import FILTERS

if TYPE_CHECKING:
    import torch

# uint8 (n, H, W, 3) and the source of all randomness -> a new batch
BatchTransform: TypeAlias = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]
Augment: TypeAlias = "Literal['auto', 'crop'] | Callable[[torch.Tensor], torch.Tensor] | None"
NAMES: dict[str, float] = {"auto": 0.5, "crop": 0.0}  # share of the images that are flipped
SMALL = 64  # px: images up to here are shifted, larger ones zoomed into


def resolve_augmentation(
    augment: Augment, image_size: int | None = None, interpolation: Interpolation = "bilinear"
) -> BatchTransform:
    """Return the function that changes training batches at random.

    Parameters
    ----------
    augment : "auto", "crop", callable or None
        `"crop"` shifts images of up to 64 px by up to an eighth of the size
        (4 px of 32, edges reflected). From larger ones it crops a random
        part, 60 to 100 percent of the area, and resizes it back. `"auto"`
        also flips half of the images left-right, which is wrong if a mirror
        image is another thing, such as a letter. A callable takes one uint8
        tensor (3, H, W) at a time and returns the same kind, as the
        transforms of torchvision do. All its random numbers, from `random`,
        numpy, torch or its own generators, come from the `rng` of the batch;
        the seeds of its own generators do not matter. It must not keep any
        other state between calls, because that differs between processes.
        None changes nothing.

    image_size : int, default=None
        Size of the images in px; None takes the size of each batch.

    interpolation : {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}, \
            default="bilinear"
        Filter to resize crops.

    Returns
    -------
    callable
        ``f(batch, rng) -> batch`` on uint8 (n, H, W, 3), with a
        `numpy.random.Generator`; the input does not change.

    Raises
    ------
    ValueError
        For another name or type, and for an unknown filter.

    Examples
    --------
    >>> import numpy as np
    >>> batch = np.zeros((8, 32, 32, 3), dtype=np.uint8)
    >>> resolve_augmentation("auto")(batch, np.random.default_rng(0)).shape
    (8, 32, 32, 3)
    """
    if augment is None:
        return _augment_nothing
    if isinstance(augment, str):
        flip = NAMES.get(augment)
        if flip is None:
            flip = resolve(augment, NAMES, "augment", own="your own callable, or None")
        resample = FILTERS[check_choice(interpolation, "interpolation", FILTERS)]
        return partial(_augment_auto, image_size=image_size, flip=flip, resample=resample)
    if not callable(augment):
        raise ValueError(
            f"augment={shortened(augment)} is not callable. Use 'auto', 'crop', None or a callable."
        )
    if isinstance(augment, type):
        raise ValueError(
            f"augment={shortened(augment)} is a class. Pass an object of it, such as "
            f"{augment.__name__}()."
        )
    return partial(_augment_each, transform=augment, draws=Draws(augment))


def _augment_nothing(
    batch: NDArray[np.uint8],
    rng: np.random.Generator,  # noqa: ARG001 - as every augmentation
) -> NDArray[np.uint8]:
    """Return the batch."""
    return batch


def _augment_auto(
    batch: NDArray[np.uint8],
    rng: np.random.Generator,
    image_size: int | None,
    flip: float,
    resample: Image.Resampling,
) -> NDArray[np.uint8]:
    """Flip a share of the images, and shift small ones or zoom into large ones."""
    size = max(batch.shape[1:3]) if image_size is None else image_size
    if size <= SMALL:
        return _shift_and_flip(batch, rng, flip)
    return _zoom_and_flip(batch, rng, flip, resample)


def _shift_and_flip(
    batch: NDArray[np.uint8], rng: np.random.Generator, flip: float
) -> NDArray[np.uint8]:
    """Cut each image from itself padded by reflection, a share of them flipped."""
    n, height, width, _ = batch.shape
    rows = _shifted(height, n, rng)  # (n, H): the row that comes to each place
    columns = _shifted(width, n, rng)  # (n, W)
    flipped = rng.random(n) < flip
    columns[flipped] = columns[flipped, ::-1]
    # One lookup of whole pixels: (n, H, W) positions in the (n * H * W) pixels of the batch.
    rows += np.arange(n)[:, None] * height
    return batch.reshape(-1, 3).take(rows[:, :, None] * width + columns[:, None, :], axis=0)


def _shifted(side: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return n rows of 0..side-1, shifted by up to an eighth, reflected at the ends."""
    reach = min(max(1, side // 8), side - 1)
    places = np.abs(np.arange(side) + rng.integers(-reach, reach + 1, size=(n, 1)))
    return np.where(places >= side, 2 * (side - 1) - places, places)


def _zoom_and_flip(
    batch: NDArray[np.uint8], rng: np.random.Generator, flip: float, resample: Image.Resampling
) -> NDArray[np.uint8]:
    """Resize a random part of each image to the whole, a share of them flipped."""
    n, height, width, _ = batch.shape
    area = rng.uniform(0.6, 1.0, size=n)
    stretch = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), size=n) / 2)
    cut_height = np.minimum(np.sqrt(area) / stretch, 1) * height
    cut_width = np.minimum(np.sqrt(area) * stretch, 1) * width
    top = rng.random(n) * (height - cut_height)
    left = rng.random(n) * (width - cut_width)
    boxes = np.stack([left, top, left + cut_width, top + cut_height], axis=1)
    # Rounding may leave the image by a hair, which Pillow refuses.
    boxes = np.clip(boxes, 0, [width, height, width, height])
    flipped = rng.random(n) < flip
    out = np.empty_like(batch, order="C")

    def zoom(i: int) -> None:
        image = Image.fromarray(np.ascontiguousarray(batch[i]))
        pixels = np.asarray(image.resize((width, height), resample, box=tuple(boxes[i])))
        out[i] = pixels[:, ::-1] if flipped[i] else pixels

    for _ in in_threads(zoom, range(n), most=MOST_THREADS):
        pass
    return out


def _augment_each(
    batch: NDArray[np.uint8],
    rng: np.random.Generator,
    transform: Callable[[torch.Tensor], torch.Tensor],
    draws: Draws,
) -> NDArray[np.uint8]:
    """Apply a user's transform image by image; all that it draws comes from `rng`."""
    import torch

    out = np.empty_like(batch, order="C")
    with draws.seeded(int(rng.integers(2**63))), one_torch_thread():
        for i, pixels in enumerate(batch):
            image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))
            changed = transform(image)
            _check_augmented(changed, image)
            out[i] = changed.numpy().transpose(1, 2, 0)
    return out


def _check_augmented(changed: object, image: torch.Tensor) -> None:
    """Raise unless a user's transform returned the same kind of tensor as its input."""
    dtype, shape = getattr(changed, "dtype", None), getattr(changed, "shape", None)
    if dtype == image.dtype and shape == image.shape:
        return
    got = f"{dtype} {tuple(shape)}" if shape is not None else type(changed).__name__
    raise ValueError(
        f"augment returned {got} for {image.dtype} {tuple(image.shape)}. It must return the "
        "same type and shape: leave out Normalize and ToDtype, because the network scales "
        "pixels itself."
    )
