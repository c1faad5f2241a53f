"""The cells of a sheet: pixels, the fault of an image, or words; and the text below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._typing import Labels
from sklearn_cbir._validation import warn_user
from sklearn_cbir.display._sheet import Sheet
from sklearn_cbir.images import ImageReadError, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixels: TypeAlias = NDArray[np.uint8]
Cell: TypeAlias = Pixels | ImageReadError | Text  # what is drawn


def warn_of_faults(found: Iterable[Cell]) -> None:
    """Warn once of the images that are drawn as empty squares."""
    faults = [one for one in found if isinstance(one, ImageReadError)]
    if faults:
        named = {fault.path: fault.reason for fault in faults}
        shown = "; ".join(f"{path!r}: {reason}" for path, reason in list(named.items())[:5])
        warn_user(
            f"{len(faults)} of the images cannot be read and are drawn as empty squares ({shown}"
            f"{'; ...' if len(named) > 5 else ''})."
        )


def draw(
    sheet: Sheet,
    row: int,
    column: int,
    cell: Cell,
    right: bool | None = None,
) -> Axes:
    """Draw an image, the reason why there is none, or a text; return the axes."""
    if isinstance(cell, Text):
        return sheet.words(row, column, str(cell))
    if isinstance(cell, ImageReadError):
        reason = (cell.reason or "cannot be read").split(" (")[0]  # without details
        return sheet.missing(row, column, reason, right)
    return sheet.result(row, column, cell, right)


def distance_text(distance: Any, unit: str | None) -> str:
    """Return a distance with its unit; counts without decimals."""
    if unit == "bits":
        return f"{distance:.0f} bit" + ("" if distance == 1 else "s")
    text = f"{distance:.0f}" if np.issubdtype(type(distance), np.integer) else f"{distance:.3f}"
    return f"{text} {unit}" if unit else text


def file_name(value: object) -> str:
    """Return the name of a file without its folders, or the id as it is."""
    return PurePath(value).name if isinstance(value, (str, PurePath)) else str(value)


def label_texts(labels: Labels, class_names: Sequence[str] | None) -> list[str]:
    """Return one line of text per label, or per row of 0/1 columns."""
    if labels.ndim == 2:
        names = np.asarray(np.arange(labels.shape[1]) if class_names is None else class_names)
        return [", ".join(map(str, names[row > 0])) or "no label" for row in labels]
    if class_names is None or labels.dtype.kind not in "iu":
        return [str(label) for label in labels]
    return [str(class_names[label]) for label in labels]
