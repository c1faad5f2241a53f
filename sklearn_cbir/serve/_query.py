"""JSON bodies: requests are checked before anything is read or computed."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sklearn_cbir._validation import shortened
from sklearn_cbir.serve._answers import Failure

PAGE, LONGEST_PAGE, MOST_RESULTS = 60, 200, 10_000
MOST_JUDGED, MOST_WORDS, MOST_NAMES = 100, 1000, 1000
LARGEST = 2**63  # of what the table holds

Where = dict[str, Any]  # as PhotoCollection takes it


class Region(NamedTuple):
    """A part of a photo."""

    of: int | str  # a number, or the id of an upload
    box: tuple[float, float, float, float]  # left, top, right, bottom in fractions


@dataclass(frozen=True)
class Page:
    """The requested part of the results."""

    offset: int = 0
    limit: int = PAGE


@dataclass(frozen=True)
class Query:
    """A search."""

    like: tuple[int, ...] = ()
    unlike: tuple[int, ...] = ()
    upload: str | None = None
    region: Region | None = None
    words: str | None = None
    where: Where = field(default_factory=dict)
    max_distance: float | None = None
    page: Page = field(default_factory=Page)

    @property
    def is_listing(self) -> bool:
        """Whether all photos are asked for, and not those that are like something."""
        has_photo = self.like or self.upload is not None or self.region is not None
        return not has_photo and self.words is None and not self.unlike

    @property
    def is_click(self) -> bool:
        """Whether photos are asked for that are like one of the collection, and no more."""
        more = (self.upload, self.region, self.words)
        return len(self.like) == 1 and not self.unlike and more == (None, None, None)

    @property
    def key(self) -> str:
        """What is asked for, whatever the page: the same text for the same query."""
        parts = (self.like, self.unlike, self.upload, self.region, self.words)
        return json.dumps([*parts, self.where, self.max_distance], sort_keys=True)


class Duplicates(NamedTuple):
    """A search for near-duplicates."""

    radius: float | None
    where: Where
    page: Page


def parse(body: bytes) -> Any:
    """Return what a body of JSON says, an object."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Failure(400, "The body is not JSON. Send an object, such as {}.") from None
    if not isinstance(found, dict):
        raise Failure(400, "The body must be an object, such as {}.")
    return found


def query_of(body: Mapping[str, Any]) -> Query:
    """Return the search that a body asks for."""
    given = _checked(
        body,
        {
            "like": _numbers,
            "unlike": _numbers,
            "upload": _upload,
            "region": _region,
            "words": _words,
            "where": _where,
            "max_distance": _distance,
            **PAGING,
        },
    )
    page = page_of(given, PAGE)
    query = Query(page=page, **{name: given[name] for name in given if name not in PAGING})
    if both := set(query.like) & set(query.unlike):
        raise Failure(400, f"Photo {min(both)} is in like and in unlike. Take it out of one.")
    has_liked = query.like or query.upload or query.region or query.words
    if query.unlike and not has_liked:
        raise Failure(400, "unlike alone finds nothing. Add photos to like.")
    return query


def duplicates_of(body: Mapping[str, Any]) -> Duplicates:
    """Return the search for near-duplicates that a body asks for."""
    given = _checked(body, {"radius": _distance, "where": _where, **PAGING})
    return Duplicates(given.get("radius"), given.get("where", {}), page_of(given, 20))


def retry_of(body: Mapping[str, Any]) -> bool:
    """Return whether a sync tries unreadable photos again."""
    return _checked(body, {"retry": _boolean}).get("retry", False)


def page_of(given: Mapping[str, int], limit: int) -> Page:
    """Return which results are asked for; `limit` of them if nothing is said."""
    page = Page(given.get("offset", 0), given.get("limit", limit))
    if page.offset + page.limit > MOST_RESULTS:
        raise Failure(
            400,
            f"offset + limit is {page.offset + page.limit:,}, but only {MOST_RESULTS:,} results "
            "can be shown. Narrow the search.",
        )
    return page


def _checked(body: Mapping[str, Any], checks: Mapping[str, Callable[[str, Any], Any]]) -> Any:
    """Return the parts of a body, each as its check returns it; null is as if left out."""
    for name in body:
        if name not in checks:
            known = ", ".join(checks)
            raise Failure(400, f"The part {shortened(name)} does not exist. Use {known}.")
    return {name: checks[name](name, body[name]) for name in body if body[name] is not None}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(map(_is_integer, value)):
        raise Failure(400, f"{name} is {shortened(value)}. Give a list of numbers of photos.")
    if len(value) > MOST_JUDGED:
        raise Failure(400, f"{name} has {len(value)} numbers. Give at most {MOST_JUDGED}.")
    return tuple(dict.fromkeys(value))


def _upload(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 64:
        raise Failure(400, f"{name} is {shortened(value)}, which is not an id of an upload.")
    return value


def _words(name: str, value: Any) -> str | None:
    if not isinstance(value, str) or len(value) > MOST_WORDS:
        raise Failure(400, f"{name} must be text of at most {MOST_WORDS:,} characters.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Failure(400, f"{name} is not Unicode text.") from None
    return value.strip() or None


def _region(name: str, value: Any) -> Region:
    of = value.get("of") if isinstance(value, dict) else None
    box = value.get("box") if isinstance(value, dict) else None
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_fraction, box)):
        raise Failure(
            400,
            f"{name} must be an object with of, a number or the id of an upload, and box, "
            "[left, top, right, bottom] from 0 to 1.",
        )
    left, top, right, bottom = map(float, box)
    if left >= right or top >= bottom:
        raise Failure(400, f"The box {box} of {name} is empty. Draw a larger one.")
    if not isinstance(of, int) or not _is_integer(of):
        of = _upload(f"{name}.of", of)
    return Region(of, (left, top, right, bottom))


def _is_fraction(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _distance(name: str, value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < LARGEST or not math.isfinite(value):
        raise Failure(400, f"{name} is {shortened(value)}. Give a number from 0 on.")
    return float(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Failure(400, f"{name} is {shortened(value)}. Give true or false.")
    return value


def _offset(name: str, value: Any) -> int:
    if not _is_integer(value) or value < 0:
        raise Failure(400, f"{name} is {shortened(value)}. Give a number from 0 on.")
    return value


def _limit(name: str, value: Any) -> int:
    if not _is_integer(value) or not 1 <= value <= LONGEST_PAGE:
        raise Failure(400, f"{name} is {shortened(value)}. Give a number from 1 to {LONGEST_PAGE}.")
    return value


def _where(name: str, value: Any) -> Where:
    """Return a condition as the collection takes it."""
    if not isinstance(value, dict):
        raise Failure(400, f"{name} is {shortened(value)}. Give an object, such as {{}}.")
    where: Where = {}
    for column, wanted in value.items():
        if column == "folder" and (wanted is None or _is_text(wanted)):
            where |= {} if wanted is None else {"folder": wanted}
        elif column == "label" and (wanted is None or _is_text(wanted) or _are_labels(wanted)):
            where["label"] = wanted
        elif column == "years" and (wanted is None or _are_years(wanted)):
            where |= {} if wanted in (None, [None, None]) else {"taken": _years(*wanted)}
        elif column in ("folder", "label", "years"):
            raise Failure(
                400, f"{name}.{column} is {shortened(wanted)}, which is not a valid value."
            )
        else:
            raise Failure(400, f"{name} has {shortened(column)}. Use folder, label and years.")
    return where


def _is_text(value: Any) -> bool:
    """Say whether something is text of Unicode: half a pair of surrogates is none."""
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode()


def _are_labels(value: Any) -> bool:
    is_list = isinstance(value, list) and len(value) <= MOST_NAMES
    return is_list and all(one is None or _is_text(one) for one in value)


def _are_years(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and all(one is None or (_is_integer(one) and 0 <= one <= 9999) for one in value)


def _years(first: int | None, last: int | None) -> tuple[str | None, str | None]:
    return (None if first is None else f"{first:04}", None if last is None else f"{last:04}")


PAGING: dict[str, Callable[[str, Any], Any]] = {"offset": _offset, "limit": _limit}
