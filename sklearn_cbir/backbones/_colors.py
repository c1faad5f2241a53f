"""Mean and standard deviation of the colors of pixels."""

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._validation import shortened

SMALLEST_STD = 1e-6  # smaller ones leave nothing but rounding


def colors(values: ArrayLike, parameter: str) -> tuple[float, ...]:
    """Return three floats, one per color."""
    try:
        found = np.broadcast_to(np.asarray(values, dtype=np.float64), (3,))
    except (TypeError, ValueError, OverflowError):
        found = np.full(3, np.nan)
    if not np.isfinite(found).all() or (parameter == "std" and (found <= 0).any()):
        raise ValueError(
            f"{parameter}={shortened(values)} must hold three finite numbers for colors from 0 to "
            "1, those of std positive."
        )
    return tuple(found.tolist())


def check_colors(values: ArrayLike, parameter: str) -> None:
    """Raise for a mean or std that colors from 0 to 1 cannot have.

    Saved networks may have been trained with others, which `build_backbone` takes.
    """
    found = np.array(colors(values, parameter))
    least = SMALLEST_STD if parameter == "std" else 0.0
    if (found < least).any() or (found > 1).any():
        divided = " Divide values for pixels from 0 to 255 by 255." * bool(found.max() > 1)
        raise ValueError(
            f"{parameter}={shortened(values)} must hold three numbers from {least:g} to 1, "
            f"because pixels are from 0 to 1.{divided}"
        )
