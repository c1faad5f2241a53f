"""`cbir export`: the data of an index, in a file of another kind."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from sklearn.pipeline import make_pipeline

from sklearn_cbir._files import replacement
from sklearn_cbir._validation import printable
from sklearn_cbir.cli._printing import is_terminal, put_text
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.persistence import save

INTEGERS = ("number", "size", "width", "height")


def check_out(out: str, is_forced: bool) -> None:
    """Raise before anything is read if a file cannot be written, or should not."""
    if out == "-":
        return
    if os.path.splitext(out)[1].lower() not in WRITERS:
        raise ValueError(
            f"{out!r} has an unknown ending. Write to a file that ends in {', '.join(WRITERS)}, "
            "or to - for CSV on standard output."
        )
    if not os.path.isdir(folder := os.path.dirname(os.path.abspath(out))):
        raise FileNotFoundError(f"There is no folder {folder!r} to write {out!r} into.")
    if os.path.lexists(out) and not is_forced:
        raise FileExistsError(f"{out!r} exists already. To overwrite it, use --force.")


def write_out(collection: PhotoCollection, out: str) -> int:
    """Write all photos, and return how many."""
    if out != "-":
        return WRITERS[os.path.splitext(out)[1].lower()](collection, out)
    items = collection.items()
    for line in _csv(items, printable if is_terminal(sys.stdout) else str):
        put_text(line)
    return len(items["number"])


def _csv(items: dict[str, np.ndarray], shown: Callable[[str], str]) -> Iterator[str]:
    """Yield lines of CSV, the names of the columns first; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for values in [list(items), *_values(items)]:
        writer.writerow("" if value is None else shown(str(value)) for value in values)
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _values(items: dict[str, np.ndarray]) -> Iterator[list[Any]]:
    """Yield the values of every photo, None for what is not known."""
    columns = [
        [None if value == missing else value for value in items[name].tolist()]
        for name in items
        for missing in (-1 if name in INTEGERS else "",)
    ]
    folder = list(items).index("folder")
    for values in zip(*columns):
        line = list(values)
        line[folder] = line[folder] or ""  # the root itself
        yield line


def _write_csv(collection: PhotoCollection, out: str) -> int:
    items = collection.items()
    with replacement(out) as file:
        for line in _csv(items, str):
            file.write(line.encode("utf-8", "surrogateescape"))
    return len(items["number"])


def _write_json(collection: PhotoCollection, out: str) -> int:
    items = collection.items()
    lines = [json.dumps(dict(zip(items, values))) for values in _values(items)]
    with replacement(out) as file:
        file.write(("[\n" + ",\n".join(lines) + "\n]\n").encode("ascii"))
    return len(lines)


def _write_npz(collection: PhotoCollection, out: str) -> int:
    """Write the rows of photos that have one, and what is known of each."""
    retriever, items = collection.retriever(), collection.items()
    numbers = retriever.ids_
    at = np.searchsorted(items["number"], numbers)  # which are in order
    columns = {name: _plain(values[at]) for name, values in items.items()}
    with replacement(out) as file:
        _save_arrays(file, rows=retriever.rows(), **columns)
    return len(numbers)


def _save_arrays(file: IO[bytes], **arrays: np.ndarray) -> None:
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  # its allow_pickle is a keyword


def _plain(values: np.ndarray) -> np.ndarray:
    """Return an array that needs no pickle."""
    return values.astype(str) if values.dtype == object else values


def _write_cbir(collection: PhotoCollection, out: str) -> int:
    """Write a pipeline that finds paths."""
    retriever = collection.retriever(ids="path")
    retriever.set_params(n_neighbors=min(retriever.n_neighbors, len(retriever.ids_)))
    save(make_pipeline(collection.extractor, retriever), out)
    return len(retriever.ids_)


WRITERS: dict[str, Callable[[PhotoCollection, str], int]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".npz": _write_npz,
    ".cbir": _write_cbir,
}
