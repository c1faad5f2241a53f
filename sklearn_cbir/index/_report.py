"""Results of `evaluate` as pages for a notebook: means, classes, and the worst queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from sklearn_cbir._html import (
    SIDE,
    cell,
    escaped,
    lines,
    missing,
    page,
    paragraph,
    pixels_or_faults,
    table,
    thumbnail,
)
from sklearn_cbir.images import ImageReadError, check_images
from sklearn_cbir.index._evaluation import (
    KEYS,
    MOST_QUERIES,
    Shown,
    counted,
    lowest_classes,
    told_of,
)

MOST_CLASSES = 10
MOST_METRICS = 30


def page_of_evaluation(result: Mapping[str, Any], shown: Shown | None) -> str | None:
    """Return the page of one metric, or None for what lacks its keys."""
    if not result.keys() >= KEYS:
        return None
    return page(paragraph(told_of(result, shown)), *_classes(result), *_queries(result, shown))


def page_of_evaluations(results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the table of several metrics."""
    rows = [
        cell(escaped(metric)) + cell(f"{result['score']:.4f}") + cell(f"{len(result['worst']):,}")
        for metric, result in list(results.items())[:MOST_METRICS]
    ]
    more = _more(len(results) - len(rows), "metric")
    return page(table(rows, ["metric", "mean", "queries"]), *more)


def _classes(result: Mapping[str, Any]) -> list[str]:
    """Return the table of the classes with the lowest means."""
    lowest = lowest_classes(result, MOST_CLASSES)
    rows = [cell(escaped(label)) + cell(mean) for label, mean in lowest]
    return [
        paragraph("Lowest classes"),
        table(rows, ["class", "mean"]),
        *_more(len(result["classes"]) - len(rows), "class"),
    ]


def _queries(result: Mapping[str, Any], shown: Shown | None) -> list[str]:
    """Return the worst queries, with their photos where ids are names of files."""
    rows = result["worst"][:MOST_QUERIES]
    ids = None if shown is None else shown.ids
    photos = None if ids is None else _photos(ids)
    names = [str(row) for row in rows] if ids is None else [PurePath(i).name or i for i in ids]
    labels = [""] * len(rows) if shown is None else shown.labels
    values = [f"{value:.4f}" for value in result["per_query"][rows]]
    more = _more(len(result["worst"]) - len(rows), "query")
    texts = [[*map(escaped, text)] for text in zip(names, labels, values)]
    if photos is None:
        body = table(("".join(map(cell, text)) for text in texts), ["query", "label", "value"])
    else:
        squares = (cell(photo, lines(text)) for photo, text in zip(photos, texts))
        body = table(["".join(squares)])
    return [paragraph("Worst queries"), body, *more]


def _photos(ids: Sequence[str]) -> list[str] | None:
    """Return the photos that ids name; None if no id is the name of a readable file."""
    try:
        found = pixels_or_faults(check_images(list(ids)), SIDE)
    except ValueError:  # what cannot be the name of a file
        return None
    if all(isinstance(photo, ImageReadError) for photo in found):
        return None
    return [
        missing(photo) if isinstance(photo, ImageReadError) else thumbnail(photo, name)
        for photo, name in zip(found, ids)
    ]


def _more(n: int, what: str) -> list[str]:
    """Return a line that says how many more there are."""
    return [paragraph(f"and {counted(n, f'more {what}')}")] if n > 0 else []
