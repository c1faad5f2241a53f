"""Queries become calls of a `PhotoCollection`, made by one thread, and hits become photos."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.images import ImageReadError, Text
from sklearn_cbir.serve._answers import Failure
from sklearn_cbir.serve._catalog import Catalog, Catalogs
from sklearn_cbir.serve._pictures import (
    MOST_PIXELS,
    MOST_PIXELS_HERE,
    Pictures,
    Source,
    no_memory,
    read,
    source_of,
)
from sklearn_cbir.serve._query import MOST_RESULTS, Page, Query
from sklearn_cbir.serve._uploads import Uploads

MOST_TOGETHER = 50  # clicks that are answered by one reading of the rows
AT_ONCE = 240  # results that are found together: three pages and a bit
KEPT = 128  # queries whose results are remembered, for paging and for going back


class Search:
    """What is asked of a collection, one call at a time.

    Parameters
    ----------
    collection : PhotoCollection
        The collection.

    uploads : Uploads
        Photos that were uploaded.

    pictures : Pictures
        Decodes photos.
    """

    def __init__(self, collection: PhotoCollection, uploads: Uploads, pictures: Pictures) -> None:
        self.collection, self.uploads, self.pictures = collection, uploads, pictures
        self.catalogs = Catalogs(collection)
        self.found: OrderedDict[Any, tuple[int, NDArray, NDArray]] = OrderedDict()
        self._has_words: bool | None = None

    @property
    def has_words(self) -> bool:
        """Whether the collection can be searched by words; this loads the extractor."""
        if self._has_words is None:
            try:
                self.collection.extractor.transform([Text("a photo")])
                self._has_words = True
            except (ValueError, TypeError, AttributeError):
                self._has_words = False
        return self._has_words

    @property
    def duplicates_radius(self) -> float | None:
        """The radius of near-duplicates that the extractor has, if it has one."""
        return getattr(self.collection.extractor, "near_duplicates", (None, None))[1]

    def state(self) -> dict[str, Any]:
        """Return what the collection is."""
        catalog = self.catalogs.current()
        about = catalog.about
        metric, largest = None, None
        if about["kind"] is not None:
            is_codes = about["kind"] == "codes"
            metric, largest = ("hamming", about["n_features"]) if is_codes else ("cosine", 2.0)
        counts = ("n_photos", "n_ready", "n_unreadable", "n_away")
        return {
            "version": catalog.version,
            "roots": about["roots"],
            **{name: about[name] for name in counts},
            **catalog.counts,
            "has_words": self.has_words,
            "is_writable": not self.collection.read_only,
            "metric": metric,
            "max_distance": largest,
            "duplicates_radius": self.duplicates_radius,
        }

    def unreadable(self, page: Page) -> dict[str, Any]:
        """Return photos that cannot be read, each with its reason."""
        catalog = self.catalogs.current()
        positions = np.flatnonzero(~catalog.is_ready)
        photos = [with_state(catalog, at) for at in _on(page, positions)]
        return {**_paged(page, len(positions)), "n_photos": len(positions), "photos": photos}

    def facts(self, number: int) -> dict[str, Any]:
        """Return what is known of one photo."""
        catalog = self.catalogs.current()
        at = catalog.position(number)
        if at is None:
            raise no_photo(number)
        return with_state(catalog, at)

    def search(self, query: Query, waiting: Sequence[Query] = ()) -> dict[str, Any]:
        """Return one page of results; those of others that wait are found by the way."""
        catalog = self.catalogs.current()
        self._find_together(query, waiting, catalog)
        asked = {
            name: [catalog.facts(_known(catalog, number)) for number in numbers]
            for name, numbers in (("like", query.like), ("unlike", query.unlike))
        }
        positions = catalog.left_by(query.where)
        page = query.page
        if query.is_listing:
            photos = [catalog.facts(at) for at in _on(page, positions)]
            n_found = len(positions)
        else:
            numbers, distances = self._found_by(query, catalog)
            if query.max_distance is not None:
                n = int(np.searchsorted(distances, query.max_distance, side="right"))
                numbers, distances = numbers[:n], distances[:n]
            on = slice(page.offset, page.offset + page.limit)
            photos = self._described(numbers[on], distances[on], catalog)
            n_found = len(numbers)
        return {
            "version": catalog.version,
            **_paged(page, n_found),
            "n_photos": len(positions),
            "photos": photos,
            "asked": asked,
        }

    def prepare(self) -> None:
        """Load what the first screen, a click and an upload need: networks, kernels, the photos."""
        state = self.state()
        self.search(Query())
        if state["n_ready"]:
            catalog = self.catalogs.current()
            first = catalog.items["number"][int(np.argmax(catalog.is_ready))]
            with suppress(Failure):  # which whoever clicks is told
                self.search(Query(like=(first,)))

    def take_in(self, name: str) -> None:
        """Search by an upload, which is asked for next, so that it is decoded once."""
        self._found_by(Query(upload=name), self.catalogs.current())

    def has_found(self, query: Query) -> bool:
        """Say whether the results of a query are remembered."""
        return self._is_found(query, self.catalogs.current())

    def groups(self, groups: Sequence[Sequence[Any]], page: Page) -> list[list[dict[str, Any]]]:
        """Return groups of hits as groups of photos, the one to keep first."""
        catalog = self.catalogs.current()
        found = []
        for group in _on(page, groups):
            photos = []
            for hit in group:
                if (at := catalog.position(hit.number)) is not None:
                    size = catalog.items["size"][at]
                    keep = hit is group[0]
                    more = {"distance": _number(hit.distance), "keep": keep, "size": size}
                    photos.append(catalog.facts(at) | more)
            found.append(photos)
        return found

    # Inside --------------------------------------------------------------------------------------

    def _found_by(self, query: Query, catalog: Catalog) -> tuple[NDArray, NDArray]:
        """Return numbers and distances of results, some more than are asked for."""
        wanted = _wanted(query.page)
        key = catalog.version, query.key
        if self._is_found(query, catalog):
            self.found.move_to_end(key)
            return self.found[key][1:]
        k = -(-wanted // AT_ONCE) * AT_ONCE
        try:
            hits = self._ask(query, k, catalog)
        except ImageReadError as error:
            raise Failure(422, f"The photo cannot be read: {error.reason or error}.") from None
        except ValueError as error:
            raise Failure(400, str(error)) from None
        except MemoryError:
            raise no_memory() from None
        numbers = np.array([hit.number for hit in hits], dtype=np.int64)
        distances = np.array([hit.distance for hit in hits], dtype=np.float64)
        self._remember(key, k, numbers, distances)
        return numbers, distances

    def _remember(self, key: Any, k: int, numbers: NDArray, distances: NDArray) -> None:
        """Remember results, and forget those that were asked for longest ago."""
        self.found[key] = k, numbers, distances
        self.found.move_to_end(key)
        while len(self.found) > KEPT:
            self.found.popitem(last=False)

    def _find_together(self, query: Query, waiting: Sequence[Query], catalog: Catalog) -> None:
        """Answer clicks that wait at the same time by one reading of the rows."""
        if not query.is_click or not self._is_new(query, catalog):
            return
        wanted = {query.like[0]: query}
        for other in waiting:
            if other.is_click and other.where == query.where and self._is_new(other, catalog):
                wanted.setdefault(other.like[0], other)
        if len(wanted) < 2:
            return
        together = list(wanted)[:MOST_TOGETHER]
        k = max(_wanted(wanted[number].page) for number in together)
        with suppress(ValueError):  # one of them is gone since, say: then each asks alone
            found = self.collection.like_each(together, k, query.where)
            for number, distances, numbers in zip(together, *found):
                key = catalog.version, wanted[number].key
                self._remember(key, k, numbers.copy(), distances.copy())

    def _is_new(self, query: Query, catalog: Catalog) -> bool:
        """Say whether a click can be answered, and has to be."""
        at = catalog.position(query.like[0])
        can_be = at is not None and bool(catalog.is_ready[at])
        return can_be and not self._is_found(query, catalog)

    def _is_found(self, query: Query, catalog: Catalog) -> bool:
        """Say whether the results of a query are remembered, as many as are asked for."""
        found = self.found.get((catalog.version, query.key))
        return found is not None and found[0] >= _wanted(query.page)

    def _ask(self, query: Query, k: int, catalog: Catalog) -> list[Any]:
        """Return hits, the nearest first."""
        X: list[Any] = []
        if query.upload is not None:
            X.append(self.uploads.photo(query.upload))
        if query.region is not None:
            content, most_pixels = self._content(query.region.of, catalog)
            X.append(self.pictures.cropped(content, query.region.box, most_pixels))
        n_photos = len(X)
        if query.words is not None:
            if not self.has_words:
                raise Failure(
                    400,
                    "The network of this collection does not understand words. Search with a "
                    "photo, or make the collection with a network that was trained on words.",
                )
            X.append(Text(query.words))
        where = query.where or None
        if not n_photos:
            return self._hits(query, X, k, where)
        with self.pictures.slots:  # the extractor decodes them
            return self._hits(query, X, k, where)

    def _hits(self, query: Query, X: list[Any], k: int, where: Any) -> list[Any]:
        if len(X) == 1 and not query.like and not query.unlike:
            return self.collection.search(X, k, where)[0]
        return self.collection.like(query.like, query.unlike, X=X or None, k=k, where=where)

    def _content(self, of: int | str, catalog: Catalog) -> tuple[bytes, int]:
        """Return the file of a photo, uploaded or in the collection, and its most pixels."""
        if isinstance(of, str):
            return self.uploads.photo(of), MOST_PIXELS
        return read(source_in(catalog, _known(catalog, of))), MOST_PIXELS_HERE

    def _described(
        self, numbers: NDArray[np.int64], distances: NDArray[np.float64], catalog: Catalog
    ) -> list[dict[str, Any]]:
        """Return what is said of hits; those that are gone since are left out."""
        found = catalog.positions(numbers)
        if None in found:  # a sync was faster
            catalog = self.catalogs.current()
            found = catalog.positions(numbers)
        return [
            catalog.facts(at) | {"distance": _number(distance)}
            for at, distance in zip(found, distances.tolist())
            if at is not None
        ]


def with_state(catalog: Catalog, at: int) -> dict[str, Any]:
    """Return what is known of a photo, and whether it can be read."""
    reason = catalog.items["reason"][at] or None
    return {**catalog.facts(at), "state": catalog.items["state"][at], "reason": reason}


def source_in(catalog: Catalog, at: int) -> Source:
    """Return the file of a photo."""
    path, number = catalog.items["path"][at], catalog.items["number"][at]
    return source_of(number, path, catalog.about["roots"])


def no_photo(number: int) -> Failure:
    """Return the failure of a number that no photo has."""
    return Failure(404, f"There is no photo with the number {number}.")


def _known(catalog: Catalog, number: int) -> int:
    """Return the position of a photo that can be asked for."""
    at = catalog.position(number)
    if at is None:
        raise no_photo(number)
    if not catalog.is_ready[at]:
        raise Failure(400, f"Photo {number} cannot be read, so you cannot search with it.")
    return at


def _wanted(page: Page) -> int:
    """Return how many results show whether there is another page."""
    return min(page.offset + page.limit, MOST_RESULTS) + 1


def _on(page: Page, found: Any) -> Any:
    part = found[page.offset : page.offset + page.limit]
    return part.tolist() if isinstance(part, np.ndarray) else part


def _paged(page: Page, n_found: int) -> dict[str, Any]:
    return {"offset": page.offset, "has_more": n_found > page.offset + page.limit}


def _number(distance: float) -> float:
    """Return a distance as it is told: rounding leaves no less than 0."""
    return max(0.0, float(distance))
