"""The files below a folder, without files of other programs, even if some cannot be opened."""

import fnmatch
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sklearn_cbir._typing import PathLike
from sklearn_cbir._validation import shortened

Parts: TypeAlias = tuple[str, ...]  # of a path below a folder

# Names of files and folders, or with a slash the ends of paths, that hold no photos of the user.
IGNORED_NAMES: tuple[str, ...] = (
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
    """The files below a folder."""

    files: list[Parts] = field(default_factory=list)  # below the folder, sorted
    excluded: dict[str, int] = field(default_factory=dict)  # pattern, in their order -> entries
    faults: list[tuple[str, str]] = field(default_factory=list)  # (path, why) of what is not seen


def look_through(
    folder: str,
    exclude: Iterable[PathLike] | None = None,
    apart: bool = True,
    follow_links: bool = True,
) -> Tree:
    """Return the `Tree` of a folder.

    Links are followed, or else left out. A linked folder is listed once, at its own place if that
    is in the tree; otherwise links to each other would list it again and again. With `apart` it is
    listed once for every top sub-folder, as these are classes.
    """
    tree = Tree()
    patterns = IGNORED_NAMES if exclude is None else _as_patterns(exclude, folder)
    pattern_of = _matcher(patterns)
    seen: set[tuple[Parts, int, int]] = (
        set()
    )  # folders, each with the top sub-folder that it was listed for
    # Not by recursion: trees may be deeper than Python's stack.
    own: list[tuple[str, Parts, bool]] = [(folder, (), False)]
    linked: list[tuple[str, Parts, bool]] = []
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
            tree.faults.append((path, str(error.strerror)))
            continue
        for entry in entries:
            found = (*parts, entry.name)
            if pattern := pattern_of(found):
                tree.excluded[pattern] = tree.excluded.get(pattern, 0) + 1
                continue
            try:
                if not follow_links and _leads_elsewhere(entry):
                    continue
                if entry.is_dir():
                    by_link = is_linked or _leads_elsewhere(entry)
                    (linked if by_link else own).append((entry.path, found, by_link))
                elif entry.is_file() or not os.path.exists(entry.path):  # it is named on reading
                    tree.files.append(found)
                else:
                    tree.faults.append((entry.path, "a pipe, socket or device"))
            except OSError as error:
                tree.faults.append((entry.path, str(error.strerror)))
    tree.excluded = {name: tree.excluded[name] for name in patterns if name in tree.excluded}
    tree.files.sort()
    tree.faults.sort()
    return tree


def _leads_elsewhere(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry is a link, or a junction of Windows."""
    is_junction = getattr(entry, "is_junction", None)
    return entry.is_symlink() or (is_junction is not None and is_junction())


def walk(folder: str) -> list[Parts]:
    """Return the parts below `folder` of every file, sorted; warn of what cannot be looked at."""
    tree = look_through(folder)
    warn_of_faults(folder, tree, stacklevel=4)
    return tree.files


def warn_of_faults(folder: str, tree: Tree, stacklevel: int) -> None:
    """Warn once of all entries that were left out because they cannot be looked at."""
    if tree.faults:
        path, why = tree.faults[0]
        n = len(tree.faults)
        warnings.warn(
            f"{n} {'entry' if n == 1 else 'entries'} of folder={folder!r} cannot be opened and "
            f"{'is' if n == 1 else 'are'} left out, such as {path!r}: {why}.",
            stacklevel=stacklevel,
        )


def _as_patterns(exclude: PathLike | Iterable[PathLike], folder: str) -> tuple[str, ...]:
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


def _below(pattern: str, folder: str) -> str:
    """Return one pattern, its path counted from `folder`."""
    if os.path.isabs(pattern):
        inside = os.path.normpath(pattern).removeprefix(folder.rstrip(os.sep) + os.sep)
        pattern = pattern if inside == os.path.normpath(pattern) else inside
    pattern = pattern.replace(os.sep, "/").removeprefix("./").strip("/")
    # A name is looked for at any depth anyway.
    return pattern[3:] if pattern.startswith("**/") and "/" not in pattern[3:] else pattern


def _matcher(patterns: tuple[str, ...]) -> Callable[[Parts], str | None]:
    """Return a function that gives the first pattern that the parts of a path match, or None."""
    names = [pattern for pattern in patterns if "/" not in pattern]
    paths = [pattern for pattern in patterns if "/" in pattern]
    by_name = _compiled(names)
    # With a slash in front "**/" may stand for no folder at all.
    by_path = _compiled([pattern if pattern[:3] == "**/" else f"/{pattern}" for pattern in paths])

    def pattern_of(parts: Parts) -> str | None:
        if (number := by_name(_plain(parts[-1]))) is not None:
            return names[number]
        if paths and (number := by_path(_plain("/" + "/".join(parts)))) is not None:
            return paths[number]
        return None

    return pattern_of


def _compiled(patterns: Sequence[str]) -> Callable[[str], int | None]:
    """Return a function that gives the number of the first shell pattern that matches, or None."""
    if not patterns:
        return lambda text: None
    any_of = re.compile(
        "|".join(f"({fnmatch.translate(_plain(pattern))})" for pattern in patterns)
    ).match

    def number_of(text: str) -> int | None:
        match = any_of(text)
        return None if match is None or match.lastindex is None else match.lastindex - 1

    return number_of


def _plain(text: str) -> str:
    """Return a name without case, its accents in one form: as Windows and macOS compare names."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
