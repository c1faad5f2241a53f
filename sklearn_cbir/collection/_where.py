"""Conditions on photos, as queries with bound values."""

import datetime
import json
import numbers
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._typing import WhereLike
from sklearn_cbir._validation import as_numpy, shortened
from sklearn_cbir.collection._listing import as_shown

Condition: TypeAlias = tuple[str, list[Any]]  # for the table: text, and the values of its marks
# Returns the numbers of all photos, ascending, or those among some.
Known: TypeAlias = Callable[[list[int] | None], NDArray[np.int64]]
Where: TypeAlias = Mapping[str, Any] | WhereLike

ALL: Condition = "1", []
TIME = re.compile(r"\d{4}(-\d\d(-\d\d( \d\d(:\d\d(:\d\d)?)?)?)?)?")


def as_condition(where: Where | None, known: Known) -> Condition:
    """Return the condition that a user gives: columns, a mask of all photos, or their numbers."""
    if where is None:
        return ALL
    if isinstance(where, Mapping):
        parts = [_of_column(name, value) for name, value in where.items()]
        bound = [value for _, values in parts for value in values]
        return " AND ".join(["1", *(text for text, _ in parts)]), bound
    return number_in(check_numbers(where, known, "where"))


def number_in(numbers: Sequence[int]) -> Condition:
    """Return the condition that a photo has one of some numbers."""
    return _among("number", list(numbers))


def check_numbers(given: Any, known: Known, name: str) -> list[int]:
    """Return the numbers of photos that a mask or numbers stand for."""
    found = np.asarray(list(given) if isinstance(given, Set) else as_numpy(given, name))
    if found.dtype.kind == "b":
        of_all = known(None)
        if found.shape != of_all.shape:
            raise ValueError(
                f"{name} is a mask of shape {found.shape}, but the collection has {len(of_all)} "
                "photos. Give one bool for each, in the order of items()."
            )
        return of_all[found].tolist()
    if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
        raise ValueError(
            f"{name}={shortened(given)} must be numbers of photos, or a mask"
            + (", or a dictionary of columns." if name == "where" else " of all.")
        )
    missing = found[~np.isin(found, known(found.tolist()))]
    if len(missing):
        raise ValueError(
            f"{name} has {len(missing)} of {len(found)} that are not the number of a photo, "
            f"such as {missing[0]}. items()['number'] lists all numbers."
        )
    return found.tolist()


def _of_column(name: Any, value: Any) -> Condition:
    """Return the condition on one column."""
    if name not in COLUMNS:
        raise ValueError(
            f"where has the column {shortened(name)}, which does not exist. Use one of "
            f"{', '.join(map(repr, COLUMNS))}."
        )
    check = COLUMNS[name]
    if isinstance(value, tuple):
        return _between(name, value, check)
    if isinstance(value, (list, Set, np.ndarray)):
        values = [None if one is None else check(name, one) for one in value]
    else:
        values = [None if value is None else check(name, value)]
    known = [one for one in values if one is not None]
    if name == "folder":
        return _below(known)
    text, bound = _in_times(known) if name == "taken" else _among(name, known)
    return (f"({text} OR {name} IS NULL)" if None in values else text), bound


def _among(name: str, values: list[Any]) -> Condition:
    return f"{name} IN (SELECT value FROM json_each(?))", [json.dumps(values)]


def _in_times(values: list[str]) -> Condition:
    """Return the condition that a photo was taken in one of some times, such as years or days."""
    parts = ["0", *("substr(taken, 1, length(?)) = ?" for _ in values)]
    return f"({' OR '.join(parts)})", [value for value in values for _ in range(2)]


def _below(folders: list[str]) -> Condition:
    """Return the condition that a photo lies in one of some folders, or below."""
    parts, values = ["0"], []
    for folder in folders:
        folder = folder.strip("/")
        parts.append("(? = '' OR folder = ? OR substr(folder, 1, length(?) + 1) = ? || '/')")
        values += [folder] * 4
    return f"({' OR '.join(parts)})", values


def _between(name: str, value: tuple, check: Callable[[str, Any], Any]) -> Condition:
    """Return the condition of a range, both ends included; None leaves an end open."""
    if len(value) != 2:
        raise ValueError(
            f"where[{name!r}]={shortened(value)} is a tuple, which means a range: (low, high), "
            "with None for an open end. For one of several values, pass a list."
        )
    low, high = (None if end is None else check(name, end) for end in value)
    if _is_reversed(low, high):
        raise ValueError(
            f"where[{name!r}]={shortened(value)} is a range that ends before it begins."
        )
    parts, values = [f"{name} IS NOT NULL"], []
    if low is not None:
        parts.append(f"{name} >= ?")
        values.append(low)
    if high is not None:  # of text, "2024" is the whole year
        of_high = f"substr({name}, 1, length(?))" if isinstance(high, str) else name
        parts.append(f"{of_high} <= ?")
        values += [high, high] if isinstance(high, str) else [high]
    return f"({' AND '.join(parts)})", values


def _is_reversed(low: Any, high: Any) -> bool:
    """Say whether a range ends before it begins; of text, "2024" ends with the year."""
    if low is None or high is None:
        return False
    return (low[: len(high)] if isinstance(low, str) else low) > high


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"where[{name!r}] is {shortened(value)}, but this column holds text.")
    return as_shown(value)


def _time(name: str, value: Any) -> str:
    if isinstance(value, datetime.datetime):
        return str(value.replace(tzinfo=None, microsecond=0))
    if isinstance(value, datetime.date):
        return str(value)
    text = value.replace("T", " ") if isinstance(value, str) else ""
    if not TIME.fullmatch(text) or not _is_on_calendar(text):
        raise ValueError(
            f"where[{name!r}] is {shortened(value)}. Give a date, or text such as '2024-05' or "
            "'2024-05-01 09:30:00'."
        )
    return text


def _is_on_calendar(text: str) -> bool:
    """Return whether a time exists; missing parts are those of the first of January."""
    try:
        datetime.datetime.fromisoformat(text + "0001-01-01 00:00:00"[len(text) :])
    except ValueError:
        return False
    return True


def _integer(name: str, value: Any) -> int:
    is_number = isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))
    if not is_number:
        raise ValueError(f"where[{name!r}] is {shortened(value)}, but this column holds integers.")
    if abs(int(value)) >= 2**63:
        raise ValueError(f"where[{name!r}] is {shortened(value)}, which is not a number of pixels.")
    return int(value)


COLUMNS: dict[str, Callable[[str, Any], Any]] = {
    "folder": _text,
    "label": _text,
    "taken": _time,
    "width": _integer,
    "height": _integer,
    "name": _text,
}
