"""Output for users: photos that a search found, and the progress of a sync."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sklearn_cbir.collection._listing import as_place

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Hit:
    """A photo that a search found.

    Parameters
    ----------
    number : int
        The number of the photo in its collection, which no other photo ever gets.

    path : str
        Its path.

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
    """Return the sort key that puts the photo to keep first among equal ones."""
    n_pixels = (line["width"] or 0) * (line["height"] or 0)
    return -n_pixels, -(line["size"] or 0), line["number"]


def as_frame(items: dict[str, NDArray], integers: Collection[str]) -> "pandas.DataFrame":
    """Return the items of a collection as a table of pandas; some of them are whole numbers."""
    import pandas

    texts = {name: items[name].astype(object) for name in items if name not in integers}
    # As objects: names that are no text of Unicode fit into nothing else.
    frame = pandas.DataFrame(texts, index=items["number"], dtype=object)
    frame.index.name = "number"
    for name in ("height", "width", "size"):
        known = pandas.array(items[name], dtype="Int64")
        known[items[name] < 0] = pandas.NA
        frame.insert(list(texts).index("label") + 1, name, known)
    frame["taken"] = pandas.to_datetime(frame["taken"].mask(frame["taken"] == ""))
    for name in ("label", "reason"):
        frame[name] = frame[name].mask(frame[name] == "", None)
    return frame


def telling(
    progress: Callable[[int, int], object], total: int, draw: Callable[[int], None]
) -> Callable[[int], None]:
    """Return a function that a sync calls with every step; it calls `progress` with all so far."""
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        draw(steps)
        progress(done, total)

    progress(0, total)
    return advance
