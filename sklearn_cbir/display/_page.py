"""Rows of images as HTML for a notebook: like matplotlib's picture, and bounded in size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sklearn_cbir._html import (
    RIGHT,
    WRONG,
    box,
    cell,
    escaped,
    lines,
    missing,
    page,
    paragraph,
    table,
    thumbnail,
)
from sklearn_cbir.display._cells import Cell
from sklearn_cbir.images import ImageReadError, Text
from sklearn_cbir.images._faults import count_causes

MOST_QUERIES = MOST_RESULTS = 8  # 72 images, some 300 kB


@dataclass(frozen=True)
class Square:
    """An image, the text below it, and whether it is right (None: unknown)."""

    shown: Cell
    texts: Sequence[str]
    right: bool | None = None


def page_of_groups(
    rows: Sequence[Sequence[Square]], titles: Sequence[str], n_more: Sequence[int], n_groups: int
) -> str:
    """Return the page of groups, the first of each apart, out of `n_groups` that there are."""
    body = table(
        (
            "".join([*map(_cell, row), *([cell(box(f"{more:,} more"))] if more else [])])
            for row, more in zip(rows, n_more)
        ),
        titles,
    )
    notes = ["✓ is kept"] if any(square.right for row in rows for square in row) else []
    if n_groups > len(rows):
        n_hidden = n_groups - len(rows)
        notes.append(f"{n_hidden:,} more group{'s are' if n_hidden > 1 else ' is'} not shown")
    return page(body, *map(paragraph, [*notes, *_notes_of_faults(rows)]))


def page_of_results(
    rows: Sequence[Sequence[Square]], n_more_results: int, n_more_queries: int
) -> str:
    """Return the page of queries, each with its results, and of how many more there are."""
    squares = [square for row in rows for square in row]
    titles = ["query", *range(1, len(rows[0]))]
    notes = []
    if any(square.right is not None for square in squares):
        notes.append("✓ shares a label with the query, ✗ shares none")
    if n_more_results > 0:
        notes.append(f"{n_more_results:,} more results of every query are not shown")
    if n_more_queries > 0:
        notes.append(f"{n_more_queries:,} more queries are not shown")
    body = table(("".join(map(_cell, row)) for row in rows), titles)
    return page(body, *map(paragraph, [*notes, *_notes_of_faults(rows)]))


def _notes_of_faults(rows: Sequence[Sequence[Square]]) -> list[str]:
    """Return a line on the images that cannot be read, if any."""
    cells = [square.shown for row in rows for square in row]
    faults = [shown for shown in cells if isinstance(shown, ImageReadError)]
    if not faults:
        return []
    causes = count_causes(fault.reason or "cannot be read" for fault in faults)
    return [f"{len(faults)} of the images cannot be read ({causes})"]


def _cell(square: Square) -> str:
    """Return the cell of an image; color and sign say whether it is right."""
    color = {None: None, True: RIGHT, False: WRONG}[square.right]
    sign = {None: "", True: "✓ ", False: "✗ "}[square.right]
    first, *others = [*map(escaped, square.texts), ""]
    mark = f'<b style="color:{color}">{sign}</b>' if sign else ""
    return cell(_image(square, color), lines([mark + first, *filter(None, others)]))


def _image(square: Square, color: str | None) -> str:
    if isinstance(square.shown, Text):
        return box(square.shown, color)
    if isinstance(square.shown, ImageReadError):
        return missing(square.shown, color)
    return thumbnail(square.shown, ", ".join(square.texts), color)
