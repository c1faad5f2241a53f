"""The table of a collection: SQLite, which commits as a whole or not at all.

Values are bound, never written into the text of a query. The write-ahead log lets others read the
last commit while one writes; with ``synchronous=FULL`` a commit is on the disk before it is one.
"""

import json
import os
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.collection._network import check_is_local, network_file_system
from sklearn_cbir.collection._segments import Batch, RowFormat, Segment, sync_folder

FILE = "collection.sqlite"
FORMAT = 1
APPLICATION = 0x63626972  # "cbir", by which a file can be told from other databases
WAIT = 10  # seconds for another's commit
SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE root (number INTEGER PRIMARY KEY, path BLOB NOT NULL, from_index BLOB);
CREATE TABLE segment (name TEXT PRIMARY KEY, first INTEGER NOT NULL, capacity INTEGER NOT NULL);
CREATE TABLE batch (first INTEGER PRIMARY KEY, n_rows INTEGER NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE photo (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again
    root INTEGER NOT NULL REFERENCES root,
    path BLOB NOT NULL,   -- below the root, as the system spells it, with slashes
    folder TEXT NOT NULL, -- below the root, to be shown
    name TEXT NOT NULL,   -- of the file, to be shown
    label TEXT,
    size INTEGER,         -- bytes, and time of change in ns, of when the file was read
    modified INTEGER,
    hash BLOB,            -- of all bytes
    width INTEGER,
    height INTEGER,
    taken TEXT,
    state TEXT NOT NULL,  -- 'ready', 'unreadable' or 'away'
    reason TEXT,          -- why it could not be read when that was last tried
    row INTEGER UNIQUE,
    UNIQUE (root, path)
);
CREATE INDEX photo_of_hash ON photo (hash);
"""
COUNTS = ("version", "generation", "n_rows")  # integers of `about`
KEYS = {"kind", "n_features", "dtype", "labels", "exclude", "follow_links", "extractor"}
FOUND = ("number", "root", "path", "label")  # what a hit is made of

Photo = Mapping[str, Any]  # columns of a line
Found = TypeVar("Found")
TABLES: "weakref.WeakSet[Table]" = weakref.WeakSet()  # that are open


class Table:
    """The lines of a collection.

    Parameters
    ----------
    folder : str
        The folder of the collection.

    read_only : bool
        Whether nothing is written.
    """

    def __init__(self, folder: str, *, read_only: bool) -> None:
        self.folder, self.read_only = folder, read_only
        self.path = os.path.join(folder, FILE)
        self.lock = ProcessLock()  # one thread at a time has the connection
        self._of_parents: list[sqlite3.Connection] = []  # of processes that this was forked from
        self._is_closed = False
        with self.telling():
            self._process: int | None = os.getpid()  # that connected, None after let_go
            self._connection = self._connect()
        TABLES.add(self)
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    # Opening -------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: str, about: Mapping[str, Any], roots: Iterable[tuple]) -> "Table":
        """Make the table, beside its place; it is one when it is put there."""
        path = os.path.join(folder, FILE)
        for name in os.listdir(folder):
            if name.startswith((f"{FILE}.part", f"{FILE}-")):  # of a process that died
                os.unlink(os.path.join(folder, name))
        with telling(path):
            connection = sqlite3.connect(f"{path}.part", isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(f"PRAGMA application_id={APPLICATION}")
                schema = f"BEGIN;{SCHEMA}PRAGMA user_version={FORMAT};"
                connection.executescript(schema)
                connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
                connection.executemany("INSERT INTO root VALUES (?, ?, ?)", roots)
                connection.execute("COMMIT")
                connection.execute("PRAGMA journal_mode=WAL")  # from the next commit on
            finally:
                connection.close()
        os.replace(f"{path}.part", path)
        sync_folder(folder)
        return cls(folder, read_only=False)

    @staticmethod
    def is_there(folder: str) -> bool:
        """Say whether a folder has a table, which is there when it was made to its end."""
        return os.path.exists(os.path.join(folder, FILE))

    def _connect(self) -> sqlite3.Connection:
        """Return a connection, for reading only where nothing can be written."""
        if not os.path.exists(self.path):
            raise FileNotFoundError(
                f"There is no collection in {self.folder!r}: it has no {FILE}. Make one with "
                "PhotoCollection.create."
            )
        writable = os.access(self.path, os.W_OK) and os.access(self.folder, os.W_OK)
        self.read_only = self.read_only or not writable
        if not self.read_only:
            check_is_local(self.folder)
        self._seen = None
        if not writable or (self.read_only and network_file_system(self.folder)):
            return self._connect_to_what_stays()  # there is no place for what readers share
        try:
            return self._connect_by("ro" if self.read_only else "rw")
        except sqlite3.OperationalError:
            if not self.read_only or _has_content(f"{self.path}-wal"):
                raise
            return self._connect_to_what_stays()  # nor is there on a disk that is full

    def _connect_to_what_stays(self) -> sqlite3.Connection:
        """Return a connection that writes nothing at all, and takes the file as it is."""
        if _has_content(log := f"{self.path}-wal"):
            raise PermissionError(
                f"{self.path!r} cannot be written here, and its last commits are in {log!r}. "
                "Open it once where it can be written, on a disk of its machine, or copy the "
                "whole folder to such a place."
            )
        self._seen = _state_of(self.path)
        return self._connect_by("ro&immutable=1")

    def _connect_by(self, mode: Literal["rw", "ro", "ro&immutable=1"]) -> sqlite3.Connection:
        connection = sqlite3.connect(
            _address(self.path, mode),
            uri=True,
            isolation_level=None,
            timeout=WAIT,
            check_same_thread=False,
        )
        connection.row_factory = sqlite3.Row
        try:
            _run(connection, "PRAGMA synchronous=FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _check(self) -> None:
        """Raise unless the table is of a format that is known."""
        with self.reading():
            found = self.ask("PRAGMA user_version").fetchone()[0]
            is_ours = self.ask("PRAGMA application_id").fetchone()[0] == APPLICATION
        if not is_ours or not found:
            raise ValueError(
                f"{self.path!r} is not a collection, but another database. Make one in another "
                "folder with PhotoCollection.create."
            )
        if found > FORMAT:
            raise ValueError(
                f"The collection in {self.folder!r} is of format {found}; this version of "
                f"sklearn_cbir reads up to {FORMAT}. Install a newer version."
            )

    def close(self) -> None:
        """Give the files back."""
        with self.lock:
            self._connection.close()
            self._is_closed = True

    def let_go(self) -> None:
        """Close the connection until the next query, unless one is running now.

        SQLite takes locks per process, and in a child that is forked it believes to have those of
        its parent: the log would be deleted while the child writes into it.
        """
        if self.lock.lock.acquire(timeout=1):
            try:
                is_connected = not self._is_closed and self._process == os.getpid()
                if is_connected and not self._connection.in_transaction:
                    self._connection.close()
                    self._process = None
            finally:
                self.lock.lock.release()

    def __del__(self) -> None:
        if "_connection" in vars(self) and self._process == os.getpid():
            self._connection.close()

    # Reading and writing -------------------------------------------------------------------------

    def ask(self, query: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        """Run one query with values that are bound to its question marks."""
        if self._process != os.getpid():  # a connection does not outlive a fork
            if self._process is not None:
                self._of_parents.append(self._connection)  # nor may it be closed here
            self._process, self._connection = os.getpid(), self._connect()
        return _run(self._connection, query, tuple(values))

    def integers(self, query: str, values: Iterable[Any] = ()) -> NDArray[np.int64]:
        """Return the one column of a query, of integers, without a line of each in memory."""
        cursor = self.ask(query, values)
        cursor.row_factory = None
        return np.fromiter(chain.from_iterable(cursor), dtype=np.int64)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See one commit, the last, for as long as the block lasts."""
        with self.lock, self.telling():
            self._follow()
            self.ask("BEGIN")
            try:
                yield
            finally:
                self.ask("ROLLBACK")
            if self._is_behind():  # pages of before and after may be mixed
                raise OSError(f"{self.path!r} was changed while it was read. Repeat the call.")

    def look_again(self) -> None:
        """See the last commit from here on, in a block that is reading."""
        self.ask("ROLLBACK")
        self._follow()
        self.ask("BEGIN")

    def _follow(self) -> None:
        """Connect anew where SQLite takes a file for one that never changes, and it did."""
        if self._is_behind():
            if self._process == os.getpid():
                self._connection.close()
            self._process, self._connection = os.getpid(), self._connect()

    def _is_behind(self) -> bool:
        """Say whether others have written into a file that cannot be written here."""
        return self._seen is not None and self._seen != _state_of(self.path)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write all that the block writes, or nothing of it."""
        with self.lock, self.telling():
            self.ask("BEGIN IMMEDIATE")
            try:
                yield
                self.ask("UPDATE about SET value = value + 1 WHERE key = 'version'")
                self.commit()
            except BaseException:
                if self._connection.in_transaction:
                    self.ask("ROLLBACK")
                raise

    def commit(self) -> None:
        """End a transaction: from here on it is on the disk."""
        self.ask("COMMIT")

    def checkpoint(self) -> None:
        """Move the log into the table, so that the folder can be copied and read as it is."""
        with self.lock, self.telling():
            self.ask("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turn errors of the database into errors of files that say what to do."""
        if self._is_closed:
            raise ValueError(
                f"The collection in {self.folder!r} is closed. Open it again with "
                "PhotoCollection.open."
            )
        with telling(self.path):
            yield

    # What is known --------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """Return the facts about the whole collection."""
        about = dict(map(tuple, self.ask("SELECT key, value FROM about")))
        if KEYS - about.keys():
            raise sqlite3.DatabaseError("the description of the whole collection is missing")
        return _whole(about, *(about.get(name) for name in COUNTS))

    def set_about(self, **values: Any) -> None:
        """Set facts about the whole collection."""
        for key, value in values.items():
            self.ask("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def version(self) -> int:
        """Return a number that every commit raises."""
        return self.ask("SELECT value FROM about WHERE key = 'version'").fetchone()[0]

    def segments(self) -> list[Segment]:
        """Return the segments, in the order of their rows."""
        found = self.ask("SELECT name, first, capacity FROM segment ORDER BY first")
        return [_whole(Segment(*line), line["first"], line["capacity"]) for line in found]

    def add_rows(self, segments: Iterable[Segment], batches: Iterable[Batch]) -> None:
        """Add rows: the new segments, and the batches in them."""
        for segment in segments:
            self.ask("INSERT INTO segment VALUES (?, ?, ?)", segment)
        for batch in batches:
            self.ask("INSERT INTO batch VALUES (?, ?, ?)", batch)

    def forget_rows(self) -> None:
        """Remove all rows."""
        self.ask("DELETE FROM segment")
        self.ask("DELETE FROM batch")

    def batches(self) -> list[Batch]:
        """Return the batches, one per commit, in the order of the rows."""
        found = self.ask("SELECT first, n_rows, checksum FROM batch ORDER BY first")
        return [_whole(Batch(*line), line["first"], line["n_rows"]) for line in found]

    def last_batch(self) -> Batch | None:
        """Return the batch of the last commit."""
        query = "SELECT first, n_rows, checksum FROM batch ORDER BY first DESC LIMIT 1"
        line = self.ask(query).fetchone()
        return None if line is None else _whole(Batch(*line), line["first"], line["n_rows"])

    def batch_of(self, row: int) -> Batch | None:
        """Return the batch of a row."""
        query = "SELECT first, n_rows, checksum FROM batch WHERE first <= ? ORDER BY first DESC"
        line = self.ask(f"{query} LIMIT 1", (row,)).fetchone()
        return None if line is None else _whole(Batch(*line), line["first"], line["n_rows"])

    def row_format(self) -> RowFormat | None:
        """Return how rows are stored, None before there is one."""
        about = self.about()
        if about["n_features"] is None:
            return None
        return RowFormat(about["kind"], about["n_features"])

    def photos(self, columns: Iterable[str], where: str = "1", values: Iterable[Any] = ()) -> Any:
        """Return lines, by their number: names and conditions are ours, values are bound."""
        listed = ", ".join(columns)
        return self.ask(f"SELECT {listed} FROM photo WHERE {where} ORDER BY number", values)

    def number_of_rows(self, n_rows: int) -> NDArray[np.int64]:
        """Return the number of the photo of every row, -1 if no photo uses it, (n_rows,)."""
        in_order = "FROM photo WHERE row IS NOT NULL ORDER BY row"
        found = np.full(n_rows, -1, dtype=np.int64)
        found[self.integers(f"SELECT row {in_order}")] = self.integers(f"SELECT number {in_order}")
        return found

    def faults(self) -> list[str]:
        """Return the faults of the table that can be found without the rows."""
        faults = [line[0] for line in self.ask("PRAGMA integrity_check") if line[0] != "ok"]
        if self.ask("PRAGMA foreign_key_check").fetchone() is not None:
            faults.append("there are photos of unknown folders")
        n_rows = self.about()["n_rows"]
        lines = self.photos(("*",))  # all of them can be read
        if n_lost := sum(not _is_row(line["row"], n_rows) for line in lines):
            faults.append(f"{n_lost} photos have missing rows")
        return faults

    def roots(self) -> list[tuple[int, bytes, bytes | None]]:
        """Return the number of each root, where it was, and how it is reached from the index."""
        query = "SELECT number, path, from_index FROM root ORDER BY number"
        return [tuple(line) for line in self.ask(query)]

    def place_root(self, number: int, path: bytes, from_index: bytes | None) -> None:
        """Store the place of a root."""
        query = "UPDATE root SET path = ?, from_index = ? WHERE number = ?"
        self.ask(query, (path, from_index, number))

    def some_of(self, root: int, n: int) -> list[tuple[bytes, int | None]]:
        """Return the paths and sizes of up to `n` photos of a root, from among all numbers."""
        line = self.ask("SELECT min(number), max(number) FROM photo").fetchone()
        if line[0] is None:
            return []
        step = max(1, (line[1] - line[0]) // n)
        numbers = json.dumps(list(range(line[0], line[1] + 1, step))[:n])
        spread = "number IN (SELECT value FROM json_each(?)) AND root = ?"
        found = self.photos(("path", "size"), spread, (numbers, root)).fetchall()
        if not found:  # most of these are gone, or of other roots
            query = "SELECT path, size FROM photo WHERE root = ? LIMIT ?"
            found = self.ask(query, (root, n)).fetchall()
        return [(line["path"], line["size"]) for line in found]

    def put(self, number: int | None, photo: Photo) -> None:
        """Write columns of a line, a new one if it has no number yet."""
        names = list(photo)
        if number is None:
            marks = ", ".join("?" * len(names))
            query = f"INSERT INTO photo ({', '.join(names)}) VALUES ({marks})"
            self.ask(query, photo.values())
        else:
            places = ", ".join(f"{name} = ?" for name in names)
            self.ask(f"UPDATE photo SET {places} WHERE number = ?", (*photo.values(), number))

    def drop(self, numbers: Iterable[int]) -> None:
        """Delete lines."""
        listed = json.dumps(list(numbers))
        self.ask("DELETE FROM photo WHERE number IN (SELECT value FROM json_each(?))", (listed,))


def _run(connection: sqlite3.Connection, query: str, values: tuple = ()) -> sqlite3.Cursor:
    try:
        return connection.execute(query, values)
    except UnicodeDecodeError as error:  # of a message that quotes what is damaged
        raise sqlite3.DatabaseError("it holds invalid text") from error


def _is_row(row: Any, n_rows: int) -> bool:
    """Say whether there is a row of this number, or a photo has none."""
    return row is None or (isinstance(row, int) and 0 <= row < n_rows)


def _whole(found: Found, *integers: Any) -> Found:
    """Return the lines if required integers are integers; damaged pages may hold anything."""
    if any(type(value) is not int for value in integers):
        raise sqlite3.DatabaseError("it holds lines without required values")
    return found


@contextmanager
def telling(path: str) -> Iterator[None]:
    """Turn errors of a database into errors of files that say what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text, code = str(error), getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 255
        if code == sqlite3.SQLITE_ERROR:  # our queries are right, so that the table is not
            raise _damaged(path, error) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            text = "another program has locked it for over 10 seconds; end it and try again"
        elif code == sqlite3.SQLITE_FULL:
            text = "the disk is full; everything committed before is complete"
        elif code == sqlite3.SQLITE_IOERR:
            text = f"{text}; is the disk full? Everything committed before is complete"
        raise OSError(f"The table {path!r} cannot be used: {text}.") from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: sqlite3.Error) -> ValueError:
    return ValueError(
        f"{path!r} is not a collection, or it is damaged ({error}). Put back a copy of the "
        "whole folder, or create the collection again; your photos stay unchanged."
    )


def _has_content(path: str) -> bool:
    return os.path.exists(path) and os.path.getsize(path) > 0


def _state_of(path: str) -> tuple[int, ...]:
    """Return a state of a file that every write changes."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _address(path: str, mode: str) -> str:
    """Return the address of a database; names may hold any character or byte."""
    return f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode={mode}"


def _let_go_of_all() -> None:
    for table in list(TABLES):
        table.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_let_go_of_all)
