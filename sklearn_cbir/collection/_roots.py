"""The folders of a collection: checked when it is made, found again when something was moved."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from sklearn_cbir._typing import PathLike
from sklearn_cbir._validation import shortened
from sklearn_cbir.collection._listing import Root, as_place, parts_below
from sklearn_cbir.collection._table import Table

LOOKED_AT = 100  # photos, by which a folder is known again

Line: TypeAlias = tuple[int, bytes, bytes | None]  # of the table
Photos: TypeAlias = Sequence[tuple[bytes, int | None]]  # path below the root, and size
SomeOf: TypeAlias = Callable[[int], Photos]  # of the root of that number


def check_roots(roots: PathLike | Sequence[PathLike], index: str) -> list[str]:
    """Return folders of photos as absolute paths; raise if one is inside another."""
    listed: list[Any] = [roots]
    if not isinstance(roots, (str, bytes, os.PathLike)) and isinstance(roots, Iterable):
        listed = list(roots)
    if not listed:
        raise ValueError("roots is empty. Pass the folder that holds the photos, or several.")
    found: list[str] = []
    for root in listed:
        path = as_path(root, "roots holds")
        check_is_folder(path)
        for other in found:
            if is_below(path, other) or is_below(other, path):
                raise ValueError(
                    f"roots holds {other!r} and {path!r}, and one is inside the other, so "
                    "photos would be there twice. Leave the inner one out."
                )
        _check_index(index, path)
        found.append(path)
    return found


def as_path(given: Any, what: str = "path is") -> str:
    """Return an absolute path; an empty one, as of a variable that is not set, is an error."""
    if not isinstance(given, (str, bytes, os.PathLike)) or not os.fspath(given):
        raise ValueError(f"{what} {shortened(given)}, which is not a path of a folder.")
    return os.path.abspath(os.path.expanduser(os.fsdecode(given)))


def check_is_folder(path: str) -> None:
    """Raise unless a folder of photos is there."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no folder {path!r}.")
    if not os.path.isdir(path):
        raise NotADirectoryError(f"{path!r} is a file. Pass the folder that holds it.")


def _check_index(index: str, root: str) -> None:
    """Raise if a collection is among its photos, and not hidden."""
    if is_below(root, index):
        raise ValueError(
            f"The photos are in {root!r}, inside the folder of the collection, {index!r}. Put "
            "the collection elsewhere, such as into a folder '.cbir' next to the photos."
        )
    parts = parts_below(index, root)
    if parts is not None and not any(part.startswith(".") for part in parts):
        raise ValueError(
            f"The folder of the collection, {index!r}, is among its photos, in {root!r}. Hide "
            f"it, as in {os.path.join(root, '.cbir')!r}, or put it elsewhere."
        )


def is_below(path: str, folder: str) -> bool:
    """Say whether a path is a folder or lies in it, links resolved."""
    return parts_below(path, folder) is not None


def as_lines(roots: Iterable[str], index: str) -> list[Line]:
    """Return the lines of roots for the table: each path, and its path from the index."""
    return [_as_line(Root(number, root), index) for number, root in enumerate(roots, 1)]


def _as_line(root: Root, index: str) -> Line:
    return root.number, os.fsencode(root.path), from_index(index, root.path)


def from_index(index: str, place: str) -> bytes | None:
    """Return how a place is reached from the index, None if it is not."""
    try:
        return os.fsencode(os.path.relpath(place, index).replace(os.sep, "/"))
    except ValueError:  # on another drive of Windows
        return None


def found_roots(lines: Iterable[Line], index: str, some_of: SomeOf) -> list[Root]:
    """Return where the roots are now: where they were, or as far from the index as they were.

    Where these differ, something was moved, and a root is where some of its photos are. One that
    holds the index is looked for where the index is first, so that a copy of both is whole.
    """
    return [_found_root(line, index, some_of) for line in lines]


def _found_root(line: Line, index: str, some_of: SomeOf) -> Root:
    number, there, way = line[0], os.fsdecode(line[1]), line[2]
    if way is None or (near := _near(index, way)) == there:
        return Root(number, there)
    holds_index = set(way.split(b"/")) == {b".."}
    places = [near, there] if holds_index else [there, near]
    photos = some_of(number)
    for place in places:
        if os.path.isdir(place) and (not photos or holds(place, photos)):
            return Root(number, place)
    return Root(number, there, is_lost=any(map(os.path.isdir, places)))


def keep_places(table: Table, roots: Iterable[Root], index: str) -> None:
    """Store the new places of roots, if something was moved."""
    places = [_as_line(root, index) for root in roots]
    with table.reading():
        known = table.roots()
    if places != known:
        with table.writing():
            for place in places:
                table.place_root(*place)


def check_found(roots: Iterable[Root], index: str) -> None:
    """Raise if the photos of a root cannot be found after a move."""
    for root in roots:
        if root.is_lost:
            raise FileNotFoundError(
                f"The collection in {index!r} was moved, or its photos were: no known photo was "
                f"found in {root.path!r}, or at the old place relative to the collection. "
                "Nothing was changed. Call relocate with the new folder of the photos."
            )


def near_or_there(
    place: str,
    near: bytes | None,
    index: str,
    is_there: Callable[[str], bool] = os.path.isdir,
) -> str:
    """Return the old place if it exists, else the place with the old path from the index."""
    if near is None or is_there(place) or not is_there(_near(index, near)):
        return place
    return _near(index, near)


def _near(index: str, near: bytes) -> str:
    return os.path.normpath(os.path.join(index, *os.fsdecode(near).split("/")))


# After a move ------------------------------------------------------------------------------------


def root_of(roots: Sequence[Root], of: PathLike | None) -> Root:
    """Return the root that a user means, which is the only one or is named."""
    listed = ", ".join(repr(root.path) for root in roots)
    if of is None:
        if len(roots) > 1:
            raise ValueError(f"The collection has several folders: {listed}. Choose one with of=.")
        return roots[0]
    place = as_path(of, "of is")
    for root in roots:
        if root.path == place:
            return root
    raise ValueError(f"of={place!r} is not a folder of this collection, which has {listed}.")


def check_holds(place: str, photos: Photos) -> None:
    """Raise unless a folder has one of some photos at least, if there are any."""
    if photos and not holds(place, photos):
        raise ValueError(
            f"None of {len(photos)} photos of the collection that were looked for is in "
            f"{place!r}. Pass the folder that was moved: with any other folder, a sync would "
            "count all photos as deleted."
        )


def holds(place: str, photos: Photos) -> bool:
    """Say whether a folder has one of some photos at least, of the size that is known."""
    return any(_is_there(as_place(place, path), size) for path, size in photos)


def _is_there(path: str, size: int | None) -> bool:
    try:
        return size in (os.stat(path).st_size, None)  # None: it could never be read
    except OSError:
        return False
