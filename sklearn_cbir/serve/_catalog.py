"""Facts about all photos, read once per version of the collection."""

import unicodedata
from collections import Counter
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._typing import Positions
from sklearn_cbir.collection import PhotoCollection

KEPT = 32  # conditions whose photos are remembered


class Catalog:
    """The photos of one version, by position in the order of their numbers."""

    def __init__(self, collection: PhotoCollection) -> None:
        self.version = collection.version  # before what follows, which may be newer
        self.about = collection.about()
        items = collection.items()
        self.numbers: NDArray[np.int64] = items["number"]
        self.is_ready: NDArray[np.bool_] = items["state"] == "ready"
        self.items = {name: column.tolist() for name, column in items.items()}
        years = [int(text[:4]) if text else -1 for text in self.items["taken"]]
        self.years = np.array(years, dtype=np.int64)
        self.folders, self.folder_of = _distinct(self.items["folder"])
        self.labels, self.label_of = _distinct(self.items["label"])
        self.found: dict[str, Positions] = {}  # condition -> photos that it leaves in

    def position(self, number: int) -> int | None:
        """Return the position of a photo, None if no photo has the number."""
        at = int(self.numbers.searchsorted(number))
        return at if at < len(self.numbers) and self.numbers[at] == number else None

    def positions(self, numbers: NDArray[np.int64]) -> list[int | None]:
        """Return the position of each of some photos, as `position` does."""
        if not len(self.numbers):
            return [None] * len(numbers)
        found = self.numbers.searchsorted(numbers)
        is_there = self.numbers[np.minimum(found, len(self.numbers) - 1)] == numbers
        return [at if is_here else None for at, is_here in zip(found.tolist(), is_there.tolist())]

    def facts(self, at: int) -> dict[str, Any]:
        """Return what is said of a photo."""
        items = self.items
        width, height = items["width"][at], items["height"][at]
        return {
            "number": items["number"][at],
            "name": items["name"][at],
            "folder": items["folder"][at],
            "label": items["label"][at] or None,
            "distance": None,
            "width": width if width >= 0 else None,
            "height": height if height >= 0 else None,
            "taken": items["taken"][at] or None,
            "path": items["path"][at],
        }

    def left_by(self, where: dict[str, Any]) -> Positions:
        """Return the positions of photos that can be found and that a condition leaves in."""
        key = repr(sorted(where.items()))
        if key not in self.found:
            if len(self.found) >= KEPT:
                self.found.clear()
            self.found[key] = np.flatnonzero(self._mask(where))
        return self.found[key]

    def _mask(self, where: dict[str, Any]) -> NDArray[np.bool_]:
        mask = self.is_ready.copy()
        if folder := unicodedata.normalize("NFC", where.get("folder", "")).strip("/"):
            is_below = [one == folder or one.startswith(f"{folder}/") for one in self.folders]
            mask &= np.array(is_below, dtype=bool)[self.folder_of]
        if "label" in where:
            wanted = where["label"] if isinstance(where["label"], list) else [where["label"]]
            texts = {"" if one is None else unicodedata.normalize("NFC", one) for one in wanted}
            mask &= np.array([one in texts for one in self.labels], dtype=bool)[self.label_of]
        if "taken" in where:
            first, last = where["taken"]
            mask &= self.years >= int(first or 0)
            mask &= self.years <= int(last or 9999)
        return mask

    @cached_property
    def counts(self) -> dict[str, list[dict[str, Any]]]:
        """How many photos that can be found each folder, label and year has."""
        below: Counter[str] = Counter({"": 0})
        for folder, n in self._counted(self.folders, self.folder_of):
            below[""] += n
            parts = folder.split("/") if folder else []
            below.update({"/".join(parts[: i + 1]): n for i in range(len(parts))})
        labels = Counter(dict(self._counted(self.labels, self.label_of)))
        years = Counter(self.years[self.is_ready].tolist())
        return {
            "folders": [{"folder": name, "n_photos": below[name]} for name in sorted(below)],
            "labels": [
                {"label": name or None, "n_photos": labels[name]}
                for name in sorted(labels, key=lambda name: (not name, name))
            ],
            "years": [
                {"year": None if year < 0 else year, "n_photos": years[year]}
                for year in sorted(years, key=lambda year: (year < 0, year))
            ],
        }

    def _counted(self, names: list[str], of: Positions) -> list[tuple[str, int]]:
        counts = np.bincount(of[self.is_ready], minlength=len(names)).tolist()
        return [(name, n) for name, n in zip(names, counts) if n]


class Catalogs:
    """The catalog of the last version, made anew when there is another.

    Parameters
    ----------
    collection : PhotoCollection
        The collection.
    """

    def __init__(self, collection: PhotoCollection) -> None:
        self.collection, self.lock = collection, Lock()
        self.last: Catalog | None = None

    def current(self) -> Catalog:
        """Return the catalog of what was committed last."""
        with self.lock:
            if self.last is None or self.last.version != self.collection.version:
                self.last = Catalog(self.collection)
            return self.last

    def with_photo(self, number: int) -> tuple[Catalog, int | None]:
        """Return a catalog that has a photo, the last one if it does, and where it stands there."""
        catalog = self.last
        at = None if catalog is None else catalog.position(number)
        if catalog is None or at is None:
            catalog = self.current()
            at = catalog.position(number)
        return catalog, at


def _distinct(column: list[str]) -> tuple[list[str], Positions]:
    """Return the values of a column, each once, and which of them every photo has."""
    values: dict[str, int] = {}
    of = [values.setdefault(value, len(values)) for value in column]
    return list(values), np.array(of, dtype=np.int64)
