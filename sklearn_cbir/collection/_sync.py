"""Update a collection to its folders: new, changed, moved and removed photos.

Photos are read in the order of their names. So an interrupted sync and the next one together do
the same as a single sync, in the same order.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._threads import ahead
from sklearn_cbir._typing import Transformer
from sklearn_cbir.collection._keeper import RowKeeper, Values
from sklearn_cbir.collection._labels import LabelOf
from sklearn_cbir.collection._listing import (
    Listed,
    Listing,
    Root,
    is_unseen,
    list_photos,
    shown,
)
from sklearn_cbir.collection._photo import content_hash, facts_of
from sklearn_cbir.collection._segments import RowFormat, Segment, damaged
from sklearn_cbir.collection._table import Table
from sklearn_cbir.extraction._work import transform_readable
from sklearn_cbir.images._faults import Refusal, row_of
from sklearn_cbir.images._opening import check_file

BYTES_AT_MOST = 2**32  # of a photo: none of 300 million pixels has as many
PHOTOS_AT_ONCE, BYTES_AT_ONCE = 32, 2**27  # in one call of the extractor; two calls' are in memory
PHOTOS_PER_COMMIT, SECONDS_PER_COMMIT = 300, 30.0
JUST_NOW = 2 * 10**9  # ns: a file that was changed so lately may change again at the same time
KNOWN = ("number", "root", "path", "size", "modified", "hash", "state", "row", "label")


@dataclass(frozen=True)
class SyncReport:
    """Result of a sync: how many photos were added, changed, moved and so on.

    Parameters
    ----------
    added, changed, moved, removed : int
        Numbers of new photos, of photos with other content, of photos at another place, and of
        photos that are gone.

    unchanged : int
        Number of unchanged photos.

    unreadable : int
        Number of photos without a row, because they cannot be read; `PhotoCollection.items` says
        why.

    ignored : dict of str to int
        Numbers of files that are not photos, or of a kind that cannot be read here, by ending.

    relabeled : int, default=0
        Number of photos of which only the label in the table of labels has changed.

    Examples
    --------
    >>> from sklearn_cbir.collection import SyncReport
    >>> report = SyncReport(
    ...     added=3, changed=0, moved=0, removed=1, unchanged=9, unreadable=0, ignored={".txt": 2}
    ... )
    >>> report.n_changes
    4
    """

    added: int
    changed: int
    moved: int
    removed: int
    unchanged: int
    unreadable: int
    ignored: dict[str, int]
    relabeled: int = 0

    @property
    def n_changes(self) -> int:
        """Number of photos that have changed."""
        return self.added + self.changed + self.moved + self.removed + self.relabeled


@dataclass
class Difference:
    """The differences between the folders and the table."""

    to_read: list[tuple[Listed, Any]]  # each with its line of the table, None if it is new
    gone: dict[int, bytes | None]  # number -> hash
    n_unchanged: int
    ignored: Counter[str]  # files that are no photos, by their ending
    relabeled: dict[int, str | None]  # number -> label, of photos that are not to be read


def difference(listings: list[Listing], table: Table, retry: bool, label_of: LabelOf) -> Difference:
    """Return the differences from the table: by size and time of change, and by label."""
    known = {(line["root"], line["path"]): line for line in table.photos(KNOWN)}
    found = Difference([], {}, 0, Counter(), {})
    for listing in listings:
        found.ignored.update(listing.ignored)
        for photo in listing.photos:
            line = known.pop((photo.root, photo.path), None)
            if line is None or _is_to_read(photo, line, retry):
                found.to_read.append((photo, line))
            elif line["label"] != (label := label_of(photo.root, photo.path)):
                found.relabeled[line["number"]] = label
            else:
                found.n_unchanged += 1
    unseen = list({place for listing in listings for place in listing.unseen})
    for (_, path), line in known.items():
        if not is_unseen(path, unseen):
            found.gone[line["number"]] = line["hash"]
    return found


def _is_to_read(photo: Listed, line: Any, retry: bool) -> bool:
    """Say whether a known photo must be read again."""
    if line["state"] == "away" or (retry and line["state"] == "unreadable"):
        return True
    return (photo.size, photo.modified) != (line["size"], line["modified"])


@dataclass
class Read:
    """A photo whose file was read, or could not be."""

    listed: Listed
    line: Any  # of the table, None if it is new
    content: bytes = b""
    hash: bytes = b""
    reason: str | None = None  # why it could not be
    is_gone: bool = False
    becomes: dict[str, Any] | None = None  # columns of its line, once that is decided

    def __post_init__(self) -> None:
        self.number: int | None = None if self.line is None else self.line["number"]

    @property
    def line_hash(self) -> bytes | None:
        """Hash of what the table knows, None if it knows nothing."""
        return None if self.line is None else self.line["hash"]


class Sync:
    """One run of a sync; the caller holds the lock.

    Parameters
    ----------
    table : Table
        The table to write.

    keeper : RowKeeper
        The keeper of the rows.

    extractor : callable
        Returns the extractor; it is called if there is something to embed.

    retry : bool
        Whether to try unreadable photos again although they have not changed.

    label_of : callable
        Returns the label of a photo from its root and its path below it.

    advance : callable
        Called with the number of photos that are newly done.
    """

    def __init__(
        self,
        table: Table,
        keeper: RowKeeper,
        extractor: Callable[[], Transformer],
        retry: bool,
        label_of: LabelOf,
        advance: Callable[[int], None],
    ) -> None:
        self.table, self.extractor, self.retry, self.advance = table, extractor, retry, advance
        self.keeper, self.label_of = keeper, label_of
        with table.reading():
            about = table.about()
            self.format = table.row_format()
            self.segments: list[Segment] = table.segments()
        self.n_rows, self.generation = about["n_rows"], about["generation"]
        self.dtype = about["dtype"]
        self.started = time.time_ns()
        self.report = SyncReport(0, 0, 0, 0, 0, 0, {})
        self.sound: set[int] = set()  # first rows of batches that are as they were written
        self.is_committing = False
        self._begin()

    def _begin(self) -> None:
        """Begin a new commit."""
        self.lines: list[tuple[int | None, dict[str, Any]]] = []
        self.values: list[NDArray] = []  # encoded rows, behind those that are counted
        self.row_of: dict[bytes, int] = {}  # of these, by the hash of their photo
        self.fresh: dict[bytes, int] = {}  # of these, what no photo has yet
        self.stored: Values | None = None
        self.since = time.monotonic()

    def run(self, found: Difference) -> SyncReport:
        """Apply all differences, commit by commit."""
        self._relabel(found.relabeled)
        self.gone = dict(found.gone)
        self.left_at: dict[bytes, list[int]] = {}  # hash -> photos that are not where they were
        for number, content in sorted(self.gone.items(), reverse=True):
            if content is not None:
                self.left_at.setdefault(content, []).append(number)
        try:
            self._take_in_all(ahead(_read_in_chunks(found.to_read)))
        except BaseException:
            if not self.is_committing:  # which is done as a whole, or not at all
                self._commit()
            raise
        self._commit(gone=list(self.gone))
        self._count(removed=len(self.gone), unchanged=found.n_unchanged)
        with self.table.reading():
            query = "SELECT count(*) FROM photo WHERE state != 'ready'"
            self._count(unreadable=self.table.ask(query).fetchone()[0])
        return replace(self.report, ignored=dict(found.ignored))

    def _relabel(self, labels: dict[int, str | None]) -> None:
        """Write new labels of photos that have not changed."""
        if labels:
            with self.table.writing():
                for number, label in labels.items():
                    self.table.put(number, {"label": label})
        self._count(relabeled=len(labels))

    def _take_in_all(self, chunks: Iterator[list[Read]]) -> None:
        """Take in chunk by chunk, and commit from time to time."""
        for chunk in chunks:
            self._take_in(chunk)
            self.advance(len(chunk))
            is_time = time.monotonic() - self.since > SECONDS_PER_COMMIT
            if len(self.lines) >= PHOTOS_PER_COMMIT or is_time:
                self._commit()

    # One chunk -----------------------------------------------------------------------------------

    def _take_in(self, chunk: list[Read]) -> None:
        """Make the new line of every photo; embed photos with new content."""
        rest = [photo for photo in chunk if not self._is_settled(photo)]
        unknown = {photo.hash: photo for photo in rest if self._row_like(photo) is None}
        reasons = self._embed(unknown)
        for photo in rest:
            line = {**self._known(photo), **facts_of(photo.content), "hash": photo.hash}
            if photo.hash in reasons:
                line |= {"row": None, "state": "unreadable", "reason": reasons[photo.hash]}
            else:
                line |= {"row": self._own_row(photo), "state": "ready", "reason": None}
            photo.becomes = line
            self._count(**{"added" if photo.line_hash is None else "changed": 1})
        # In the order of names, which so is that of the numbers of new ones.
        self.lines += [(photo.number, photo.becomes) for photo in chunk if photo.becomes]

    def _is_settled(self, photo: Read) -> bool:
        """Write a photo if it need not be decoded; return whether that was so."""
        if photo.reason is not None:
            self._put_off(photo)
            return True
        line = photo.line
        if line is not None and line["hash"] == photo.hash:  # the same, changed again or touched
            if line["row"] is None and (self.retry or line["state"] == "away"):
                return False
            photo.becomes = self._known(photo)
            if line["row"] is not None:
                photo.becomes["reason"] = None  # of a time when the file could not be read
            is_relabeled = photo.becomes["label"] != line["label"]
            self._count(**{"relabeled" if is_relabeled else "unchanged": 1})
            return True
        if line is None and self.left_at.get(photo.hash):
            photo.number = self.left_at[photo.hash].pop()
            del self.gone[photo.number]
            photo.becomes = self._known(photo)
            self._count(moved=1)
            return True
        return False

    def _put_off(self, photo: Read) -> None:
        """Note why a file could not be read; its content is unknown."""
        if photo.is_gone:  # since it was listed: the next sync says so
            return
        if photo.line is not None and photo.line["row"] is not None:  # it can still be found
            label = self.label_of(photo.listed.root, photo.listed.path)
            photo.becomes = {"modified": None, "reason": photo.reason, "label": label}
        else:
            line = {"state": "away", "reason": photo.reason}
            photo.becomes = self._names(photo.listed) | line

    def _known(self, photo: Read) -> dict[str, Any]:
        """Return the columns of a photo that depend only on its file."""
        listed = photo.listed
        is_recent = abs(self.started - listed.modified) < JUST_NOW
        modified = None if is_recent else listed.modified
        return self._names(listed) | {"size": listed.size, "modified": modified}

    def _names(self, listed: Listed) -> dict[str, Any]:
        """Return the columns that depend on the place of a photo."""
        folder, name = shown(listed.path)
        return {
            "root": listed.root,
            "path": listed.path,
            "folder": folder,
            "name": name,
            "label": self.label_of(listed.root, listed.path),
        }

    def _embed(self, photos: dict[bytes, Read]) -> dict[bytes, str]:
        """Make rows of photos; return the reasons for missing ones, by the hash of the photo."""
        if not photos:
            return {}
        hashes = list(photos)
        contents = [photo.content for photo in photos.values()]
        rows, faults = transform_readable(self.extractor(), contents)
        reasons = {hashes[row_of(fault)]: fault.reason or str(fault) for fault in faults}
        readable = [content for content in hashes if content not in reasons]
        if readable:
            _check_finite(rows, [photos[content].listed.place for content in readable])
            for content, value in zip(readable, self._encoded(rows), strict=True):
                self.row_of[content] = self.fresh[content] = self._add(value)
        return reasons

    def _encoded(self, rows: NDArray) -> NDArray:
        """Return rows of the extractor in the stored format, which the first rows decide."""
        if self.format is None:
            self.format = RowFormat.of(rows, self.dtype)
        if rows.shape[1] != self.format.n_features:
            raise ValueError(
                f"The extractor gives {rows.shape[1]} numbers for a photo, but the rows of this "
                f"collection have {self.format.n_features}. Create another collection for this "
                "extractor."
            )
        return self.format.encoded(rows)

    def _add(self, value: NDArray) -> int:
        """Append one encoded row, and return its number."""
        self.values.append(value)
        return self.n_rows + len(self.values) - 1

    def _row_like(self, photo: Read) -> int | None:
        """Return a row of the same content, None if the photo must be embedded."""
        if photo.hash in self.row_of:
            return self.row_of[photo.hash]
        same = self.table.photos(("row",), "hash = ? AND row IS NOT NULL", (photo.hash,))
        line = same.fetchone()
        return None if line is None else line["row"]

    def _own_row(self, photo: Read) -> int:
        """Return the row that was made for a photo, or a copy of the row of one that equals it."""
        if photo.hash in self.fresh:
            return self.fresh.pop(photo.hash)
        row = self._row_like(photo)
        assert row is not None  # or it would have been embedded
        assert self.format is not None
        if row >= self.n_rows:
            return self._add(self.values[row - self.n_rows])
        stored = self.stored or self.keeper.read(self.format, self.segments, self.n_rows)
        self.stored = stored
        self._check_is_sound(row, stored)
        return self._add(np.array(stored[row : row + 1])[0])

    def _check_is_sound(self, row: int, stored: Values) -> None:
        """Raise if the batch of a row is damaged: a copy would get a valid checksum."""
        batch = self.table.batch_of(row)
        if batch is None or batch.first in self.sound:
            return
        has_photo = np.zeros(self.n_rows, dtype=bool)
        has_photo[self.table.integers("SELECT row FROM photo WHERE row IS NOT NULL")] = True
        if fault := self.keeper.fault(batch, stored, has_photo):
            raise damaged(self.table.folder, fault)
        self.sound.add(batch.first)

    def _count(self, **more: int) -> None:
        known = {name: getattr(self.report, name) + n for name, n in more.items()}
        self.report = replace(self.report, **known)

    # One commit ----------------------------------------------------------------------------------

    def _commit(self, gone: list[int] | tuple[()] = ()) -> None:
        """Write rows to the disk, then commit their number and their photos."""
        if not self.lines and not gone:
            return
        self.is_committing = True
        first, segments = self.n_rows, self.segments
        values = np.array(self.values) if self.values else None
        if values is not None:
            assert self.format is not None  # there is a row
            segments = self.keeper.append(self.format, segments, first, values, self.generation)
        with self.table.writing():
            if values is not None:
                self._count_rows(segments, first, values)
            for number, line in self.lines:
                self.table.put(number, line)
            self.table.drop(gone)
        self.segments = segments
        self.n_rows += len(self.values)
        self._begin()
        self.is_committing = False

    def _count_rows(self, segments: list[Segment], first: int, values: NDArray) -> None:
        """Commit the number of rows."""
        assert self.format is not None
        self.table.add_rows(segments[len(self.segments) :], [self.keeper.batch(first, values)])
        self.table.set_about(n_rows=first + len(values), **self.format._asdict())


def _check_finite(rows: NDArray, places: list[str]) -> None:
    """Raise, with the name of the photo, if the extractor gives a row that is not finite."""
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        place = places[int(np.argmin(np.isfinite(rows).all(axis=1)))]
        raise ValueError(
            f"The extractor gives a row that is not finite for {place!r}; such a row cannot be "
            "searched. Remove the photo, or create a collection with an extractor that can "
            "read it. Everything committed before is kept."
        )


def _read_in_chunks(to_read: list[tuple[Listed, Any]]) -> Iterator[list[Read]]:
    """Yield photos with the content of their files, as many at a time as may be in memory."""
    chunk, size = [], 0
    for listed, line in to_read:
        chunk.append(_read(listed, line))
        size += listed.size
        if len(chunk) == PHOTOS_AT_ONCE or size > BYTES_AT_ONCE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _read(listed: Listed, line: Any) -> Read:
    try:
        check_file(listed.place)
        size = os.path.getsize(listed.place)
        if size > BYTES_AT_MOST:
            return Read(listed, line, reason=f"{size:,} bytes are more than a photo has")
        with open(listed.place, "rb") as file:
            content = file.read()
    except Refusal as refusal:  # another kind of file is there since it was listed
        return Read(listed, line, reason=str(refusal))
    except OSError as error:
        if error.errno is None:
            raise
        is_gone = isinstance(error, FileNotFoundError)
        return Read(listed, line, reason=error.strerror, is_gone=is_gone)
    return Read(listed, line, content, content_hash(content))


def list_all(
    roots: list[Root], exclude: list[str] | None, follow_links: bool, index: str, table: Table
) -> list[Listing]:
    """List the photos of all roots, or raise if one may be a place where no disk is mounted."""
    listings = [list_photos(root, exclude, follow_links, index) for root in roots]
    for root, listing in zip(roots, listings):
        if listing.photos or listing.ignored or listing.unseen:
            continue
        if table.photos(("number",), "root = ?", (root.number,)).fetchone() is not None:
            raise FileNotFoundError(
                f"The folder {root.path!r} is empty, but the collection has photos from it. Is "
                "a disk or a share not mounted? Nothing was changed. If you deleted all of "
                "them, create the collection again."
            )
    return listings
