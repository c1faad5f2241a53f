"""Continuous targets that a gallery carries for a regressor behind it, and that nothing scores."""

import numpy as np

from sklearn_cbir._kinds import Kept
from sklearn_cbir.index._gallery import GalleryLabels


class GalleryTargets(Kept):
    """The targets of every position, one number or one row of numbers each."""

    def __init__(self, y, n):
        self.values = np.array(y, dtype=np.float64)
        if len(self.values) != n:
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {n} rows in X, "
                f"{len(self.values)} targets in y."
            )

    def add(self, y, n):
        """Return the targets with those of `n` new positions appended."""
        new = GalleryTargets(y, n).values
        if new.shape[1:] != self.values.shape[1:]:
            raise ValueError(
                f"y has shape {new.shape}, but the gallery's targets have {self.values.shape}. "
                "Pass as many per row."
            )
        return self._with(np.concatenate([self.values, new]))

    def remove(self, positions):
        """Return the targets without those at `positions`."""
        return self._with(np.delete(self.values, positions, axis=0))

    def _with(self, values):
        return GalleryTargets(values, len(values))


def hold_labels(y, n):
    """Return the form of `y` in a gallery of `n` rows: labels, or targets."""
    return GalleryTargets(y, n) if _is_continuous(y) else GalleryLabels(y, n)


def _is_continuous(y):
    """Say whether these are finite numbers of which some are not whole."""
    # An array of text would give all labels the width of the longest.
    is_text = isinstance(y, (list, tuple)) and any(isinstance(label, str) for label in y)
    if is_text or np.ma.is_masked(y):
        return False
    try:
        y = np.asarray(y)
    except (TypeError, ValueError, RuntimeError):  # check_labels says what is wrong
        return False
    if y.dtype.kind != "f" or y.ndim not in (1, 2) or not np.isfinite(y).all():
        return False
    return bool((y != np.floor(y)).any())
