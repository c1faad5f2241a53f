"""The query: a photo or words, and conditions on the photos."""

import os
import re
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from sklearn_cbir.images import Text, readable_extensions

# Endings of photos that cannot be read everywhere, and are no words all the same.
OTHER_ENDINGS = (".heic", ".heif", ".avif")
TEXT, INTEGER, TIME = "text", "integer", "time"
COLUMNS = {
    "folder": TEXT,
    "label": TEXT,
    "name": TEXT,
    "taken": TIME,
    "width": INTEGER,
    "height": INTEGER,
}
A_TIME = re.compile(r"\d{4}(-\d\d(-\d\d([ T]\d\d(:\d\d(:\d\d)?)?)?)?)?")
WORDS_WAY = "To search for words that look like a photo, use --text."


def as_query(options: Namespace) -> str | Text:
    """Return the path of the photo, or the words, that are searched for."""
    given: list[str] = options.query
    if options.text:
        return Text(" ".join(given))
    photos = given if options.photo else [part for part in given if _is_photo(part)]
    if len(given) > 1 and not options.photo:  # "red" of many words may be a folder, too
        photos = [part for part in photos if _looks_like_one(part) or os.path.isfile(part)]
    if not photos:
        return Text(" ".join(given))
    if len(given) > 1:
        raise ValueError(
            f"Search for one photo at a time, or for words: {photos[0]!r} is a photo. {WORDS_WAY}"
        )
    path = os.path.expanduser(given[0])
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path!r} is a folder, not a photo. {WORDS_WAY}")
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no photo {path!r}. {WORDS_WAY}")
    return path


def _is_photo(part: str) -> bool:
    """Say whether a word of the shell means a photo."""
    return _looks_like_one(part) or os.path.exists(part)


def _looks_like_one(part: str) -> bool:
    """Say whether a word of the shell is a path, or ends as photos do."""
    separators = {os.sep, os.altsep or os.sep, "/"}
    is_path = any(separator in part for separator in separators)
    endings = (*readable_extensions(), *OTHER_ENDINGS)
    return is_path or part.lower().endswith(endings)


# Conditions --------------------------------------------------------------------------------------


def as_where(conditions: Sequence[str] | None, roots: Sequence[str]) -> dict[str, Any] | None:
    """Return conditions ``COLUMN=VALUE`` as a collection takes them."""
    where: dict[str, Any] = {}
    for condition in conditions or ():
        column, is_one, value = condition.partition("=")
        column = column.strip()
        if not is_one:
            raise ValueError(f"--where {condition}: write COLUMN=VALUE, such as folder=holiday.")
        if column not in COLUMNS:
            hint = " For a year, write taken=2023." if column in ("year", "date") else ""
            raise ValueError(
                f"--where {condition}: there is no column {column!r}, but {', '.join(COLUMNS)}."
                + hint
            )
        if column in where:
            raise ValueError(
                f"--where {condition}: there is already a condition for {column}. Give several "
                f"values as {column}=A,B; a range as {column}=LOW..HIGH."
                if COLUMNS[column] != TEXT
                else f"--where {condition}: there is already a condition for {column}. Give "
                f"several values as {column}=A,B."
            )
        where[column] = _value(condition, column, value, roots)
    return where or None


def _value(condition: str, column: str, value: str, roots: Sequence[str]) -> Any:
    """Return one value, a list, or a range (low, high)."""
    kind = COLUMNS[column]
    if kind == TEXT:
        values: list[Any] = [_text(column, part, roots) for part in _parts(value)]
        return values if len(values) > 1 else values[0]
    if ".." in value:
        low, _, high = value.partition("..")
        if not low.strip() and not high.strip():
            raise ValueError(f"--where {condition}: a range needs an end, such as {column}=LOW..")
        return tuple(_ordered(condition, kind, end) for end in (low, high))
    values = [_ordered(condition, kind, part) for part in _parts(value)]
    return values if len(values) > 1 else values[0]


def _parts(value: str) -> list[str]:
    """Return the parts between commas; a comma after a backslash does not separate."""
    return [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", value)]


def _text(column: str, value: str, roots: Sequence[str]) -> str | None:
    if column == "folder":
        return _folder(value, roots)
    return value or None


def _folder(value: str, roots: Sequence[str]) -> str:
    """Return a folder as it is called below its root."""
    if os.path.isabs(value):
        place = os.path.realpath(value)
        for root in map(os.path.realpath, roots):
            if place == root or place.startswith(root.rstrip(os.sep) + os.sep):
                value = os.path.relpath(place, root)
                break
        else:
            raise ValueError(f"--where folder={value}: it is not in a folder of the index.")
    value = value.replace(os.sep, "/")
    return "/".join(part for part in value.split("/") if part not in ("", "."))


def _ordered(condition: str, kind: str, value: str) -> str | int | None:
    """Return a time or a number; an empty one is None."""
    value = value.strip()
    if not value:
        return None
    if kind == INTEGER:
        if not value.isascii() or not value.isdecimal():
            raise ValueError(f"--where {condition}: {value!r} is not a number of pixels.")
        return int(value)
    if not A_TIME.fullmatch(value):
        raise ValueError(
            f"--where {condition}: {value!r} is not a time such as 2024, 2024-05, 2024-05-01 or "
            "'2024-05-01 09:30'."
        )
    return value.replace("T", " ")
