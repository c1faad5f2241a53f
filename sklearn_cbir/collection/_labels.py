"""Labels of photos: from the top folder, or from a table, a CSV file with paths and labels."""

import csv
import io
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from sklearn_cbir._typing import PathLike
from sklearn_cbir._validation import printable, shortened, warn_user
from sklearn_cbir.collection._listing import Listing, Root, as_place, top_folder
from sklearn_cbir.collection._roots import as_path, from_index, near_or_there

PATH, LABEL = "path", "label"  # columns
SEPARATORS = (",", ";", "\t")
SHOWN = 3  # lines that a warning shows
NO_LABELS = (
    "There are no photos with labels. create(labels='folder') takes top folders as labels, and "
    "create(labels='labels.csv') reads a table."
)

LabelsLike: TypeAlias = Literal["folder"] | PathLike | tuple[PathLike, str] | None
LabelOf: TypeAlias = Callable[[int, bytes], str | None]  # of a root and the path below it


class LabelTable(NamedTuple):
    """A CSV file with a line per photo."""

    place: str
    column: str  # of the label


class Entry(NamedTuple):
    """A line of a table of labels."""

    line: int
    path: str
    label: str | None


def check_labels(labels: LabelsLike) -> Literal["folder"] | LabelTable | None:
    """Return where labels come from; a table must be there, and can be read."""
    if labels is None or (isinstance(labels, str) and labels == "folder"):
        return "folder" if labels else None
    file, column = labels if isinstance(labels, tuple) and len(labels) == 2 else (labels, LABEL)
    if not isinstance(file, (str, bytes, os.PathLike)) or not isinstance(column, str):
        raise ValueError(
            f"labels={shortened(labels)} must be 'folder', a CSV file with the columns 'path' and "
            "'label', a tuple of such a file and the column's name, or None."
        )
    table = LabelTable(as_path(file), column)
    if not os.path.isfile(table.place):
        raise FileNotFoundError(
            f"labels={shortened(labels)} is neither an existing file nor 'folder'. Pass the "
            "path of a CSV file with the columns 'path' and 'label'."
        )
    read_entries(table)
    return table


# What the collection keeps of it -----------------------------------------------------------------


def as_about(
    labels: Literal["folder"] | LabelTable | None, roots: Sequence[Root], index: str
) -> dict[str, Any]:
    """Return the stored source of labels; a table among the photos moves with them."""
    if not isinstance(labels, LabelTable):
        return {"labels": labels}
    place, number, near = labels.place, None, from_index(index, labels.place)
    for root in roots:
        if labels.place.startswith(root.path.rstrip(os.sep) + os.sep):
            place = os.path.relpath(labels.place, root.path).replace(os.sep, "/")
            number, near = root.number, None
    return {
        "labels": "table",
        "labels_root": number,
        "labels_path": os.fsencode(place),  # below the root, if there is one
        "labels_from_index": near,
        "labels_column": labels.column,
    }


def found_table(about: Mapping[str, Any], roots: Sequence[Root], index: str) -> LabelTable:
    """Return where the table is now: below its root, where it was, or as far from the index."""
    place = os.fsdecode(about["labels_path"])
    for root in roots:
        if root.number == about["labels_root"]:
            return LabelTable(as_place(root.path, about["labels_path"]), about["labels_column"])
    place = near_or_there(place, about["labels_from_index"], index, os.path.isfile)
    return LabelTable(place, about["labels_column"])


class Labels:
    """The labels of one sync; a table is read completely, before anything else."""

    def __init__(self, about: Mapping[str, Any], roots: Sequence[Root], index: str) -> None:
        self.kind, self.roots = about["labels"], roots
        if self.kind == "table":
            self.table = found_table(about, roots, index)
            self.entries = read_entries(self.table)

    def of(self, listings: Iterable[Listing]) -> LabelOf:
        """Return a function from a listed photo to its label."""
        if self.kind == "folder":
            return lambda _, path: top_folder(path)
        if self.kind is None:
            return lambda *_: None
        photos = [(photo.root, photo.path) for listing in listings for photo in listing.photos]
        labels = _labels_of(self.entries, _Names(photos, self.roots, self.table), self.table)
        return lambda root, path: labels.get((root, path))


# The file ----------------------------------------------------------------------------------------


def read_entries(table: LabelTable) -> list[Entry]:
    """Return the lines of a table; raise one error for its faults."""
    rows = _rows(table)
    header, columns = rows[0][1], []
    for name in (PATH, table.column):
        if header.count(name) != 1:
            n = "no column" if name not in header else "several columns"
            listed = ", ".join(map(repr, header))
            raise ValueError(
                f"{table.place!r} has {n} {name!r}; its first line names {listed}. It needs a "
                "column 'path' and a column of labels: 'label', or the column in labels=(file, "
                "column)."
            )
        columns.append(header.index(name))
    entries = []
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(
                f"Line {line} of {table.place!r} has {len(row)} fields, but its first line "
                f"names {len(header)} columns. Put text that contains the separator into double "
                "quotes."
            )
        path, label = (row[column] for column in columns)
        label = unicodedata.normalize("NFC", printable(label.strip()))
        entries.append(Entry(line, path, label or None))
    return entries


def _rows(table: LabelTable) -> list[tuple[int, list[str]]]:
    """Return the number of each line and its fields; names of columns have no blanks around."""
    try:
        with open(table.place, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The table of labels {table.place!r} is missing. Nothing was changed: put it back, "
            "or call relocate with its new place."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{table.place!r} is not UTF-8, at line {line}. Save it as CSV in UTF-8."
        ) from None
    first = text.partition("\n")[0].rstrip("\r")
    headers = {separator: _header(first, separator) for separator in SEPARATORS}
    wanted = {PATH, table.column}
    separator = max(SEPARATORS, key=lambda one: (wanted <= set(headers[one]), len(headers[one])))
    if not headers[separator]:
        raise ValueError(f"{table.place!r} has an empty first line, which must name the columns.")
    return [(1, headers[separator]), *_lines(text, separator, table)]


def _header(line: str, separator: str) -> list[str]:
    fields = next(csv.reader([line], delimiter=separator), [])
    return [field.strip() for field in fields]


def _lines(text: str, separator: str, table: LabelTable) -> list[tuple[int, list[str]]]:
    """Return the lines behind the first that are not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, line = [], 0
    try:
        for row in reader:
            if row and line:
                rows.append((line + 1, row))
            line = reader.line_num
    except csv.Error as error:
        raise ValueError(
            f"{table.place!r} is not a CSV file, at line {line + 1}: {error}. A double quote in a "
            "field is written twice, between double quotes."
        ) from None
    return rows


# Which photo a line names ------------------------------------------------------------------------


class _Names:
    """Photos by how a table may spell them."""

    def __init__(
        self, photos: list[tuple[int, bytes]], roots: Sequence[Root], table: LabelTable
    ) -> None:
        self.roots, self.folder = roots, os.path.dirname(table.place)
        self.exact: dict[tuple[int, str], tuple[int, bytes]] = {}
        self.alike: dict[tuple[int, str], list[tuple[int, bytes]]] = {}
        for root, path in photos:
            text = os.fsdecode(path)
            self.exact[root, text] = root, path
            self.alike.setdefault((root, _in_one_form(text)), []).append((root, path))

    def photos_of(self, path: str) -> list[tuple[int, bytes]]:
        """Return the photos that a path may mean: none, one, or several."""
        for spelled in dict.fromkeys((path, path.replace("\\", "/"))):
            if found := self._below_roots(spelled) or self._absolute(spelled):
                return found
        return []

    def _below_roots(self, path: str) -> list[tuple[int, bytes]]:
        text = posixpath.normpath(path)
        return [photo for root in self.roots for photo in self._at(root.number, text)]

    def _absolute(self, path: str) -> list[tuple[int, bytes]]:
        """Return the photo of an absolute path, or of one from the folder of the table."""
        place = os.path.normpath(os.path.join(self.folder, path))
        found = []
        for root in self.roots:
            above = root.path.rstrip(os.sep) + os.sep
            if _in_one_form(place).startswith(_in_one_form(above)):
                inside = os.sep.join(place.split(os.sep)[above.count(os.sep) :])
                found += self._at(root.number, inside.replace(os.sep, "/"))
        return found

    def _at(self, root: int, text: str) -> list[tuple[int, bytes]]:
        if (root, text) in self.exact:
            return [self.exact[root, text]]
        return self.alike.get((root, _in_one_form(text)), [])


def _in_one_form(text: str) -> str:
    return unicodedata.normalize("NFC", printable(text))


def _labels_of(
    entries: list[Entry], names: _Names, table: LabelTable
) -> dict[tuple[int, bytes], str | None]:
    """Return the label of every photo that a line names; warn of lines that name none, or two."""
    first: dict[Any, Entry] = {}  # of a photo, or of a path that is of none
    unknown, ambiguous = [], []
    labels = {}
    for entry in entries:
        photos = names.photos_of(entry.path)
        if len(photos) == 1:
            labels[photos[0]] = entry.label
        else:
            (ambiguous if photos else unknown).append(entry.path)
        other = first.setdefault(photos[0] if len(photos) == 1 else entry.path, entry)
        if other.label != entry.label:
            raise ValueError(
                f"Lines {other.line} and {entry.line} of {table.place!r} give "
                f"{shortened(entry.path)} two labels: {shortened(other.label)} and "
                f"{shortened(entry.label)}. Nothing was changed: leave one of the lines."
            )
    for paths, what in (
        (unknown, "name no photo of the collection"),
        (ambiguous, "match several photos (an absolute path matches one)"),
    ):
        if paths:
            some = ", ".join(shortened(path) for path in paths[:SHOWN])
            warn_user(
                f"{len(paths):,} of {len(entries):,} lines of {table.place!r} {what}, such as "
                f"{some}. They are ignored."
            )
    return labels
