"""How to resize an image to the size of a network: sides, filter, crop and padding."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

from PIL import Image

from sklearn_cbir._typing import Color, Interpolation, ResizeMode
from sklearn_cbir._validation import check_choice, check_integer, shortened

FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}


@dataclass(frozen=True)
class Resizing:
    """How to resize images to the size of a network.

    Weights were trained on images that were resized in one way, and expect the same way.

    Parameters
    ----------
    resize_mode : {"cover", "shortest", "squash", "longest"}, default="cover"
        "cover" and "shortest" resize the shorter side and crop to the middle.
        "cover" scales both sides by the same number; "shortest" rounds the
        longer side to whole pixels, as the transforms of torchvision, timm and
        open_clip do, which moves details by up to a pixel. "squash" resizes
        both sides, whatever the shape. "longest" resizes the longer side, and
        pads the shorter one on both ends.

    interpolation : {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}, \
            default="bilinear"
        Filter, with antialiasing, except for "nearest".

    fill : tuple of 3 int, default=(0, 0, 0)
        Color of the padding of "longest", RGB in 0..255.

    Examples
    --------
    >>> from sklearn_cbir.images import Resizing
    >>> Resizing("squash", "bicubic")
    Resizing(resize_mode='squash', interpolation='bicubic', fill=(0, 0, 0))
    """

    resize_mode: ResizeMode = "cover"
    interpolation: Interpolation = "bilinear"
    fill: Color = (0, 0, 0)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make it from the keys of a mapping that are parameters, and check the values.

        Parameters
        ----------
        values : mapping of str
            Other keys are ignored; None, or a missing key, means the default.

        Returns
        -------
        Resizing
            Its `fill` is a tuple.

        Raises
        ------
        ValueError
            For an unknown mode or interpolation, and for a fill that is not a color.
        """
        given = {name: values.get(name) for name in ("resize_mode", "interpolation", "fill")}
        checks = {"resize_mode": _check_mode, "interpolation": _check_filter, "fill": _check_color}
        return cls(**{k: checks[k](v, k) for k, v in given.items() if v is not None})


def _check_mode(value: object, parameter: str) -> object:
    return check_choice(value, parameter, get_args(ResizeMode))


def _check_filter(value: object, parameter: str) -> object:
    return check_choice(value, parameter, get_args(Interpolation))


def _check_color(value: Any, parameter: str) -> Color:
    """Return a color as three numbers."""
    try:
        red, green, blue = (check_integer(v, parameter, minimum=0, maximum=255) for v in value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{parameter}={shortened(value)} must be three integers from 0 to 255: red, green and "
            "blue."
        ) from error
    return red, green, blue


def resized_sides(
    sides: tuple[float, float], cut: tuple[int, int], resize: int | None, mode: ResizeMode
) -> tuple[int, int]:
    """Return width and height of the resized image, in whole pixels as torchvision rounds them.

    `cut` is what is cut from it, or what it is padded to; `resize` is its shorter side, both or
    the longer one, by the mode, and None is what just fits the cut.
    """
    goal = cut if resize is None else (resize, resize)
    if mode == "squash":
        return goal
    if mode == "shortest" and goal[0] == goal[1]:
        longer = int(goal[0] * max(sides) / min(sides))
        return (goal[0], longer) if sides[0] <= sides[1] else (longer, goal[0])
    ratios = [side / wanted for side, wanted in zip(sides, goal)]
    ratio = min(ratios) if mode == "shortest" else max(ratios)
    return max(1, round(sides[0] / ratio)), max(1, round(sides[1] / ratio))
