"""The files below a folder, without what other programs keep there, whatever state it is in."""

import fnmatch
import os
import re
import unicodedata
import warnings
from dataclasses import dataclass, field

from sklearn_cbir._validation import shortened

# Names of files and folders, or with a slash the ends of paths, that hold no photos of the user.
IGNORED_NAMES = (
    ".*",  # hidden: .git, .thumbnails, .Trash-1000, .@__thumb, .AppleDouble, ._photo.jpg, ...
    *("@eaDir", "#recycle", "#snapshot", "SYNOPHOTO_THUMB_*", "SYNOFILE_THUMB_*"),  # Synology
    *("@Recycle", "@Recently-Snapshot", "@Transcode", "@__thumb"),  # QNAP
    *("$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information", "found.000"),  # Windows
    *("__MACOSX", "Network Trash Folder", "Temporary Items"),  # macOS
    *("lost+found", "_gsdata_", "trashbox", "*appdata_*/preview", "*.trickplay"),  # other servers
    *("node_modules", "site-packages", "__pycache__"),  # pictures of programs
    *("*.lrdata", "*.lrcat-data", "*CaptureOne/Cache", "*.cocatalog/Cache", "iPod Photo Cache"),
    *("*.aplibrary/Thumbnails", "*.aplibrary/Previews"),
    *("*.photoslibrary/resources", "*.photoslibrary/database", "*.photoslibrary/private"),
    *("*.photoslibrary/scopes", "*.photoslibrary/Thumbnails", "*.photolibrary/Thumbnails"),
)


@dataclass
class Tree:
    """What lies below a folder."""

    files: list = field(default_factory=list)  # parts of the path below the folder, sorted
    excluded: dict = field(default_factory=dict)  # pattern, in their order -> number of entries
    faults: list = field(default_factory=list)  # (path, why) of entries that cannot be looked at


def look_through(folder, exclude=None, apart=True):
    """Return the `Tree` of a folder.

    Links are followed. A folder that they lead to is listed once, under its own place if it has one
    in the tree: links that lead to each other would list it on every way there is. With `apart`
    it is listed once for every top sub-folder, as these are classes.
    """
    tree = Tree()
    patterns = IGNORED_NAMES if exclude is None else _as_patterns(exclude, folder)
    pattern_of = _matcher(patterns)
    seen = set()  # folders, each with the top sub-folder that it was listed for
    # Not by recursion: trees may be deeper than Python's stack.
    own, linked = [(folder, (), False)], []
    while own or linked:
        path, parts, is_linked = (own or linked).pop()
        try:
            status = os.stat(path)
            top = parts[:1] if apart else ()
            here = (top, status.st_dev, status.st_ino)
            if is_linked and status.st_ino and (here in seen or ((), *here[1:]) in seen):
                continue
            seen.add(here)
            with os.scandir(path) as entries:
                entries = sorted(entries, key=lambda entry: entry.name, reverse=True)
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
                    by_link = is_linked or _leads_elsewhere(entry)
                    (linked if by_link else own).append((entry.path, found, by_link))
                elif entry.is_file() or entry.is_symlink():  # a dangling link is named on reading
                    tree.files.append(found)
                else:
                    tree.faults.append((entry.path, "a pipe, socket or device"))
            except OSError as error:
                tree.faults.append((entry.path, error.strerror))
    tree.excluded = {name: tree.excluded[name] for name in patterns if name in tree.excluded}
    tree.files.sort()
    tree.faults.sort()
    return tree


def _leads_elsewhere(entry):
    """Say whether a folder is a link, or a junction of Windows."""
    return entry.is_symlink() or (hasattr(entry, "is_junction") and entry.is_junction())


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


def _as_patterns(exclude, folder):
    """Return patterns as a tuple of str, with slashes and without one at either end."""
    if isinstance(exclude, (str, bytes, os.PathLike)):
        exclude = (exclude,)
    try:
        patterns = [os.fsdecode(pattern) for pattern in exclude]
    except TypeError:
        raise ValueError(
            f"exclude={shortened(exclude)} must be a sequence of patterns, such as "
            "(*IGNORED_NAMES, 'out')."
        ) from None
    return tuple(_below(pattern, os.path.abspath(folder)) for pattern in patterns)


def _below(pattern, folder):
    """Return one pattern, its path counted from `folder`."""
    if os.path.isabs(pattern):
        inside = os.path.normpath(pattern).removeprefix(folder.rstrip(os.sep) + os.sep)
        pattern = pattern if inside == os.path.normpath(pattern) else inside
    pattern = pattern.replace(os.sep, "/").removeprefix("./").strip("/")
    # A name is looked for at any depth anyway.
    return pattern[3:] if pattern.startswith("**/") and "/" not in pattern[3:] else pattern


def _matcher(patterns):
    """Return a function that gives the first pattern that the parts of a path match, or None."""
    names = [pattern for pattern in patterns if "/" not in pattern]
    paths = [pattern for pattern in patterns if "/" in pattern]
    by_name = _compiled(names)
    # With a slash in front "**/" may stand for no folder at all.
    by_path = _compiled([pattern if pattern[:3] == "**/" else f"/{pattern}" for pattern in paths])

    def pattern_of(parts):
        if match := by_name(_plain(parts[-1])):
            return names[match.lastindex - 1]
        if paths and (match := by_path(_plain("/" + "/".join(parts)))):
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
