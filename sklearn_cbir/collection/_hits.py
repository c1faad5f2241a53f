"""What users are told: photos that a search has found, and how far a sync is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn_cbir.collection._listing import as_place


@dataclass(frozen=True)
class Hit:
    """A photo that a search has found.

    Parameters
    ----------
    number : int
        The number of the photo in its collection, which no other photo ever gets.

    path : str
        Where it is.

    distance : float
        Its distance from the query: 0 for the same photo.

    label : str or None
        Its label, if it has one.

    Examples
    --------
    >>> from sklearn_cbir.collection import Hit
    >>> Hit(number=7, path="photos/sea.jpg", distance=0.25, label=None)
    Hit(number=7, path='photos/sea.jpg', distance=0.25, label=None)
    """

    number: int
    path: str
    distance: float
    label: str | None


def hit_of(line: Any, places: dict[int, str], distance: float) -> Hit:
    """Return the photo of a line of the table; `places` are the roots by number."""
    path = as_place(places[line["root"]], line["path"])
    return Hit(line["number"], path, float(distance), line["label"])


def worth(line: Any) -> tuple[int, int, int]:
    """Return by what the photo to keep comes first among equal ones."""
    n_pixels = (line["width"] or 0) * (line["height"] or 0)
    return -n_pixels, -(line["size"] or 0), line["number"]


def telling(
    progress: Callable[[int, int], object], total: int, draw: Callable[[int], None]
) -> Callable[[int], None]:
    """Return what a sync calls with every step: it tells `progress` of all steps so far."""
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        draw(steps)
        progress(done, total)

    progress(0, total)
    return advance
