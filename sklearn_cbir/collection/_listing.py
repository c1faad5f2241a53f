"""Which photos lie below the folders of a collection, and how the table spells them."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sklearn_cbir._validation import printable, warn_user
from sklearn_cbir.datasets._walk import Parts, look_through
from sklearn_cbir.images import readable_extensions


class Root(NamedTuple):
    """A folder of photos."""

    number: int
    path: str
    is_lost: bool = False  # something was moved, and its photos are at none of its places


class Listed(NamedTuple):
    """A photo that was found."""

    root: int
    path: bytes  # below the root, as the table has it
    place: str  # the path by which it is opened
    size: int
    modified: int  # ns


@dataclass
class Listing:
    """The photos below a root, in the order of their names."""

    photos: list[Listed]
    ignored: dict[str, int]  # ending -> files that are no photos
    unseen: list[bytes]  # folders, with a slash behind, and files that could not be looked at


def list_photos(
    root: Root, exclude: Sequence[str] | None, follow_links: bool, index: str
) -> Listing:
    """List the photos below a root; it must be there, or nothing can be said of any photo.

    `index` is the folder of the collection, which may lie below the root and is left out.
    """
    if not os.path.isdir(root.path):
        raise FileNotFoundError(
            f"The folder {root.path!r} of this collection is missing. Is a disk or a share not "
            "mounted? Nothing was changed: sync again when it is back, or call relocate with "
            "its new place."
        )
    tree = look_through(root.path, exclude, apart=False, follow_links=follow_links)
    listing = Listing([], {}, [])
    endings, to_index = readable_extensions(), parts_below(index, root.path)
    for parts in tree.files:
        place = os.path.join(root.path, *parts)
        if to_index and parts[: len(to_index)] == to_index:
            continue
        if not parts[-1].lower().endswith(endings):
            ending = os.path.splitext(parts[-1])[1].lower()
            listing.ignored[ending] = listing.ignored.get(ending, 0) + 1
            continue
        try:
            status = os.stat(place)
        except FileNotFoundError:  # it went meanwhile
            continue
        except OSError as error:
            tree.faults.append((place, str(error.strerror)))
            continue
        found = Listed(root.number, as_bytes(parts), place, status.st_size, status.st_mtime_ns)
        listing.photos.append(found)
    for path, _ in tree.faults:
        parts = tuple(os.path.relpath(path, root.path).split(os.sep))
        listing.unseen += [as_bytes(parts), as_bytes(parts) + b"/"]
    if tree.faults:
        path, why = tree.faults[0]
        warn_user(
            f"Below {root.path!r} are folders or files that cannot be opened: "
            f"{len(tree.faults)}, such as {path!r} ({why}). Known photos there are kept, and "
            "new ones are not added."
        )
    return listing


def parts_below(path: str, folder: str) -> Parts | None:
    """Return the names on the way from a folder to a path, links resolved; None if it is elsewhere.

    A folder may have many names: in other case where that does not count, or mounted twice.
    """
    inside, outside = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    for place in (inside, *inside.parents):
        if place == outside or _is_same(place, outside):
            return inside.relative_to(place).parts
    return None


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def as_bytes(parts: Parts) -> bytes:
    """Return a path below a root as the table has it: the bytes of its names, with slashes."""
    return b"/".join(map(os.fsencode, parts))


def as_place(root: str, path: bytes) -> str:
    """Return the path by which a photo is opened."""
    return os.path.join(root, *(os.fsdecode(part) for part in path.split(b"/")))


def shown(path: bytes) -> tuple[str, str]:
    """Return folder and name of a photo as they are shown and asked for."""
    folder, _, name = as_shown(os.fsdecode(path)).rpartition("/")
    return folder, name


def as_shown(text: str) -> str:
    """Return a name in the one form in which it is shown and asked for."""
    return unicodedata.normalize("NFC", printable(text))


def top_folder(path: bytes) -> str | None:
    """Return the top folder below the root that a photo lies in, None if it lies in none."""
    folder = shown(path)[0]
    return folder.split("/")[0] or None


def is_unseen(path: bytes, unseen: list[bytes]) -> bool:
    """Say whether a photo may be there though it was not listed."""
    return any(path == place or (place[-1:] == b"/" and path.startswith(place)) for place in unseen)
