"""The files below a folder, without what other programs keep there, whatever state it is in."""

import fnmatch
import os
import re
import unicodedata
import warnings
from dataclasses import dataclass, field

# Names of files and folders, or with a slash the ends of paths, that hold no photos of the user.
IGNORED_NAMES = (
    ".*",  # hidden: .git, .thumbnails, .Trash-1000, .@__thumb, .AppleDouble, ._photo.jpg, ...
    *("@eaDir", "#recycle", "#snapshot", "SYNOPHOTO_THUMB_*", "SYNOFILE_THUMB_*"),  # Synology
    *("@Recycle", "@Recently-Snapshot", "@Transcode", "@__thumb"),  # QNAP
    *("$RECYCLE.BIN", "RECYCLER", "System Volume Information", "found.000"),  # Windows
    *("__MACOSX", "Network Trash Folder", "Temporary Items"),  # macOS
    *("lost+found", "_gsdata_", "node_modules"),
    *("*.lrdata", "*.aplibrary/Thumbnails", "*.aplibrary/Previews"),  # Lightroom, Aperture
    *("*.photoslibrary/resources", "*.photoslibrary/database", "*.photoslibrary/private"),
    *("*.photoslibrary/scopes", "*.photoslibrary/Thumbnails", "*.photolibrary/Thumbnails"),
)


@dataclass
class Tree:
    """What lies below a folder."""

    files: list = field(default_factory=list)  # parts of the path below the folder, sorted
    excluded: dict = field(default_factory=dict)  # pattern -> number of entries
    faults: list = field(default_factory=list)  # (path, why) of entries that cannot be looked at


def look_through(folder, exclude=None):
    """Return the `Tree` of a folder; links are followed, but never in a circle."""
    tree = Tree()
    pattern_of = _matcher(IGNORED_NAMES if exclude is None else _as_patterns(exclude))
    left = [(folder, (), frozenset())]  # not by recursion: trees may be deeper than Python's stack
    while left:
        path, parts, parents = left.pop()
        try:
            status = os.stat(path)
            here = (status.st_dev, status.st_ino)
            if here in parents and here[1]:
                continue
            with os.scandir(path) as entries:
                entries = list(entries)
        except OSError as error:
            if not parts:
                raise
            tree.faults.append((path, error.strerror))
            continue
        for entry in entries:
            found = (*parts, entry.name)
            if pattern := pattern_of(found):
                tree.excluded[pattern] = tree.excluded.get(pattern, 0) + 1
                continue
            try:
                if entry.is_dir():
                    left.append((entry.path, found, parents | {here}))
                elif entry.is_file() or entry.is_symlink():  # a dangling link is named on reading
                    tree.files.append(found)
                else:
                    tree.faults.append((entry.path, "a pipe, socket or device"))
            except OSError as error:
                tree.faults.append((entry.path, error.strerror))
    tree.files.sort()
    tree.faults.sort()
    return tree


def walk(folder):
    """Return the parts below `folder` of every file, sorted; warn of what cannot be looked at."""
    tree = look_through(folder)
    warn_of_faults(folder, tree, stacklevel=4)
    return tree.files


def warn_of_faults(folder, tree, stacklevel):
    """Warn once of all entries that were left out because they cannot be looked at."""
    if tree.faults:
        path, why = tree.faults[0]
        n = len(tree.faults)
        warnings.warn(
            f"{n} {'entry' if n == 1 else 'entries'} of folder={folder!r} cannot be looked at and "
            f"{'is' if n == 1 else 'are'} left out, such as {path!r}: {why}.",
            stacklevel=stacklevel,
        )


def _as_patterns(exclude):
    """Return patterns as a tuple of str, with slashes and without one at either end."""
    if isinstance(exclude, (str, bytes, os.PathLike)):
        exclude = (exclude,)
    patterns = [os.fsdecode(pattern).replace(os.sep, "/") for pattern in exclude]
    return tuple(pattern.removeprefix("./").strip("/") for pattern in patterns)


def _matcher(patterns):
    """Return a function that gives the first pattern that the parts of a path match, or None."""
    names = [pattern for pattern in patterns if "/" not in pattern]
    paths = [pattern for pattern in patterns if "/" in pattern]
    by_name, by_path = _compiled(names), _compiled(paths)

    def pattern_of(parts):
        if match := by_name(_plain(parts[-1])):
            return names[match.lastindex - 1]
        if paths and (match := by_path(_plain("/".join(parts)))):
            return paths[match.lastindex - 1]
        return None

    return pattern_of


def _compiled(patterns):
    """Return the match of any of some shell patterns; its last group is which."""
    if not patterns:
        return lambda text: None
    return re.compile(
        "|".join(f"({fnmatch.translate(_plain(pattern))})" for pattern in patterns)
    ).match


def _plain(text):
    """Return a name without case, its accents in one form: as Windows and macOS compare names."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
