"""The place of the index: as given, in the given folder, or in a folder above it."""

import os
from argparse import Namespace

HIDDEN, TABLE = ".cbir", "collection.sqlite"


def is_index(folder: str) -> bool:
    """Say whether an index lies in a folder, whole or not."""
    return os.path.exists(os.path.join(folder, TABLE))


def index_in(folder: str) -> str | None:
    """Return the index that a folder is, or that lies hidden in it."""
    for place in (folder, os.path.join(folder, HIDDEN)):
        if is_index(place):
            return os.path.abspath(place)
    return None


def found_index(options: Namespace, photo: str | None = None) -> str:
    """Return the index that a command is about, or raise; a photo may lie below its folder."""
    given = options.index or getattr(options, "folder", None)
    if given is not None:
        given = os.path.expanduser(given)
        if found := index_in(given):
            return found
        raise FileNotFoundError(f"There is no index in {given!r}. {_way(given)}")
    here = os.getcwd()
    found = _index_above(here) or (photo and _index_above(os.path.dirname(os.path.abspath(photo))))
    if found:
        return found
    beside = ", nor above the photo" if photo else ""
    raise FileNotFoundError(
        f"There is no index in {here!r}, nor in a folder above{beside}. {_way('FOLDER')} If there "
        "is one elsewhere, say where with --index DIR."
    )


def _index_above(folder: str) -> str | None:
    """Return the index that lies in a folder, or in the nearest one above that has one."""
    while True:
        if found := index_in(folder):
            return found
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above


def _way(folder: str) -> str:
    return f"Make one of a folder of photos with `cbir index {folder}`."


def new_index(options: Namespace) -> str:
    """Return the place for the new index of some folders."""
    if options.index is not None:
        return os.path.abspath(os.path.expanduser(options.index))
    if len(options.folders) > 1:
        raise ValueError("Several folders need a place for their index: --index DIR.")
    return os.path.join(os.path.abspath(os.path.expanduser(options.folders[0])), HIDDEN)
