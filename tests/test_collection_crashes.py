"""Whatever write a process is killed at, what a collection has committed is whole."""

import _sqlite3
import ctypes
import functools
import mmap
import os
import shutil
import signal
import struct
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from photo_cases import IMAGES, LONG_AGO, write
from sklearn.pipeline import make_pipeline

from sklearn_cbir.codes import unpack_codes
from sklearn_cbir.collection import PhotoCollection, _segments, _sync
from sklearn_cbir.collection._table import Table
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.hashing import LSHHasher

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it kills forked processes")

EVENTS = ("write", "ftruncate", "fsync", "replace", "unlink", "rename")


@pytest.fixture
def before(tmp_path, monkeypatch):
    """Photos and a collection that is behind them: new, changed, moved, removed, copied ones."""
    monkeypatch.setattr(_sync, "PHOTOS_AT_ONCE", 2)
    monkeypatch.setattr(_sync, "PHOTOS_PER_COMMIT", 4)
    monkeypatch.setattr(_segments, "ROWS_AT_LEAST", 8)
    folder = tmp_path / "before"
    for number in range(8):
        write(folder / f"{number}.png", number)
    with PhotoCollection.create(folder / ".cbir", folder, GISTDescriptor()) as collection:
        collection.sync()
    for number in range(8, 14):
        write(folder / f"{number:02d}.png", number)
    write(folder / "2.png", 14)
    (folder / "3.png").unlink()
    os.rename(folder / "4.png", folder / "moved.png")
    shutil.copy2(folder / "5.png", folder / "copy.png")
    (folder / "bad.png").write_bytes(b"no photo")
    os.utime(folder / "bad.png", ns=(LONG_AGO, LONG_AGO))
    return folder


def state(folder):
    """All that a collection says of its photos, and the row of each."""
    with PhotoCollection.open(folder / ".cbir") as collection:
        collection.check()
        items = collection.items()
        items["path"] = [os.path.relpath(path, folder) for path in items["path"]]
        said = {name: list(column) for name, column in items.items()}
        retriever = collection.retriever()
        rows = retriever.ids_.tolist(), retriever._gallery.engine.rows[:]
        return said, dict(zip(*rows))


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert set(found[1]) == set(expected[1])
    for number, row in expected[1].items():
        np.testing.assert_allclose(found[1][number], row, atol=2**-11)


class SQLiteFiles(ctypes.Structure):
    """What SQLite calls the system by; it lets tests put their own calls in the place."""

    _fields_ = [
        ("version", ctypes.c_int),
        ("sizes", ctypes.c_int * 2),
        ("names", ctypes.c_void_p * 3),
        ("methods", ctypes.c_void_p * 13),
        ("set", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)),
        ("get", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)),
    ]


INT, SIZE, POINTER = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p
CALLS_OF_SQLITE = {  # system call -> result and arguments
    b"pwrite64": (SIZE, INT, POINTER, SIZE, ctypes.c_int64),
    b"pwrite": (SIZE, INT, POINTER, SIZE, ctypes.c_int64),
    b"write": (SIZE, INT, POINTER, SIZE),
    b"ftruncate": (INT, INT, ctypes.c_int64),
    b"unlink": (INT, ctypes.c_char_p),
}
KEPT = []  # of what SQLite calls


def sqlite_files():
    """Return the table of SQLite's system calls, None if this build hides it."""
    try:
        library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        library.sqlite3_vfs_find.restype = ctypes.POINTER(SQLiteFiles)
        files = library.sqlite3_vfs_find(None)
    except (OSError, AttributeError):
        return None
    return files if files and files.contents.version >= 3 else None


def hook_sqlite(count):
    """Call `count` before and after SQLite changes a file; a write is torn in two."""
    files = sqlite_files()
    if files is None:
        return
    table = ctypes.cast(files, POINTER)
    for name, (result, *arguments) in CALLS_OF_SQLITE.items():
        kind = ctypes.CFUNCTYPE(result, *arguments)
        place = files.contents.get(table, name)
        if place:
            KEPT.append(kind(functools.partial(counted_call, count, kind(place))))
            files.contents.set(table, name, ctypes.cast(KEPT[-1], POINTER))


def counted_call(count, call, *args):
    """Call the system in the place of SQLite; a write is torn in two."""
    count()
    if len(args) >= 3 and args[2] > 1:  # file, data, size, and maybe where
        file, data, size, *at = args
        half = size // 2
        done = call(file, data, half, *at)
        if done < half:
            return done
        count()
        return done + max(0, call(file, data + half, size - half, *(start + half for start in at)))
    done = call(*args)
    count()
    return done


class Killed:
    """Run something in a forked process that ends at one of its writes, as if it were killed.

    Parameters
    ----------
    what : callable
        What to run.

    in_sqlite : bool, default=False
        Whether writes of SQLite itself are events too.
    """

    def __init__(self, what, in_sqlite=False):
        self.what, self.in_sqlite = what, in_sqlite
        self.shared = mmap.mmap(-1, 16)  # events, commits

    def at(self, event):
        """Run it until an event, whose number begins at 1; return whether it came so far."""
        self.shared[:] = bytes(16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads, which do nothing here
            child = os.fork()
        if child == 0:
            try:
                self._count_and_end(event)
                self.what()
                os._exit(0)
            except BaseException:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 9)
        return code == 9

    @property
    def n_events(self):
        return struct.unpack("qq", self.shared[:])[0]

    @property
    def n_commits(self):
        return struct.unpack("qq", self.shared[:])[1]

    def _count_and_end(self, event):
        def ends(function, commits=0):
            def counted(*args, **kwargs):
                self._count(event)
                if function is write_ and event and self.n_events == event + 1:
                    write_(args[0], bytes(args[1])[: len(args[1]) // 2])  # torn
                result = function(*args, **kwargs)
                if commits:
                    n_events, n_commits = struct.unpack("qq", self.shared[:])
                    self.shared[:] = struct.pack("qq", n_events, n_commits + 1)
                self._count(event)
                return result

            return counted

        write_ = os.write
        if self.in_sqlite:
            hook_sqlite(lambda: self._count(event))
        for name in EVENTS:
            setattr(os, name, ends(getattr(os, name)))
        Table.commit = ends(Table.commit, commits=1)

    def _count(self, event):
        n_events, n_commits = struct.unpack("qq", self.shared[:])
        self.shared[:] = struct.pack("qq", n_events + 1, n_commits)
        if n_events + 1 == event:
            os._exit(9)


def sync_in(folder):
    with PhotoCollection.open(folder / ".cbir") as collection:
        collection.sync()


def compact_in(folder):
    with PhotoCollection.open(folder / ".cbir") as collection:
        collection.compact()


def kill_everywhere(before, tmp_path, what, in_sqlite=False, choose=None):
    """Kill `what` at every event, or those chosen, do it again, and compare with doing it once."""
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(before, undisturbed)
    killed = Killed(lambda: what(undisturbed), in_sqlite)
    assert not killed.at(0)
    n_events = killed.n_events
    assert n_events > (40 if in_sqlite else 10)
    expected = state(undisturbed)
    events = range(1, n_events + 1)
    for event in events if choose is None else choose(events):
        folder = tmp_path / "killed"
        shutil.copytree(before, folder)
        killed = Killed(lambda folder=folder: what(folder), in_sqlite)
        assert killed.at(event)
        with PhotoCollection.open(folder / ".cbir") as collection:
            collection.check()
            if what is sync_in:  # what was committed is not done again
                version = collection._table.version()
                assert version >= 2 + killed.n_commits
        what(folder)
        assert_same(state(folder), expected)
        shutil.rmtree(folder)


def test_a_sync_that_is_killed_at_any_write_is_continued(before, tmp_path):
    kill_everywhere(before, tmp_path, sync_in)


def test_a_compaction_that_is_killed_at_any_write_changes_nothing_or_is_done(before, tmp_path):
    sync_in(before)
    kill_everywhere(before, tmp_path, compact_in)


needs_sqlite = pytest.mark.skipif(
    sqlite_files() is None, reason="this build of SQLite hides how it calls the system"
)


@needs_sqlite
@pytest.mark.parametrize("what", [sync_in, compact_in])
def test_what_is_killed_while_sqlite_writes_is_continued(before, tmp_path, rng, what):
    if what is compact_in:
        sync_in(before)
    some = functools.partial(rng.choice, size=10, replace=False)
    kill_everywhere(before, tmp_path, what, in_sqlite=True, choose=some)


@needs_sqlite
@pytest.mark.slow
@pytest.mark.parametrize("what", [sync_in, compact_in])
def test_what_is_killed_at_any_write_of_sqlite_is_continued(before, tmp_path, what):
    if what is compact_in:
        sync_in(before)
    kill_everywhere(before, tmp_path, what, in_sqlite=True)


def test_files_of_a_killed_compaction_are_taken_away(before, tmp_path):
    sync_in(before)
    killed = Killed(lambda: compact_in(before))
    assert killed.at(5)
    assert list((before / ".cbir").glob("rows-0001-*"))
    with PhotoCollection.open(before / ".cbir"):
        assert not list((before / ".cbir").glob("rows-0001-*"))


def test_a_relocation_that_is_killed_at_any_write_is_done_or_not(before, tmp_path):
    index = tmp_path / "index"
    with PhotoCollection.create(index, before, GISTDescriptor()) as collection:
        collection.sync()
        expected = collection.items()
    os.rename(before, tmp_path / "new")

    def relocate():
        with PhotoCollection.open(index) as collection:
            collection.relocate(tmp_path / "new")

    killed, event = Killed(relocate, in_sqlite=True), 1
    while killed.at(event):
        event += 1
        with PhotoCollection.open(index) as collection:
            collection.relocate(tmp_path / "new")
            assert collection.sync().n_changes == 0
            items = collection.items()
            assert items["number"].tolist() == expected["number"].tolist()
            assert items["name"].tolist() == expected["name"].tolist()
    assert event > 2


def kill_at_random(folder, what, seconds):
    """Kill a process that does something after some seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        try:
            what(folder)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def seconds_of(folder, what):
    """Return how long it takes in a process of its own, killed by nobody."""
    start = time.perf_counter()
    Killed(lambda: what(folder)).at(0)
    return time.perf_counter() - start


@pytest.mark.parametrize("what", [sync_in, compact_in])
def test_what_is_killed_at_random_is_continued(before, tmp_path, rng, what):
    if what is compact_in:
        sync_in(before)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(before, undisturbed)
    longest = seconds_of(undisturbed, what)
    expected = state(undisturbed)
    for _ in range(20):
        folder = tmp_path / "killed"
        shutil.copytree(before, folder)
        kill_at_random(folder, what, rng.uniform(0, longest))
        what(folder)
        assert_same(state(folder), expected)
        shutil.rmtree(folder)


def test_a_relocation_that_is_killed_at_random_is_done_or_not(before, tmp_path, rng):
    sync_in(before)
    (before / ".cbir").rename(tmp_path / "index")
    shutil.copytree(before, tmp_path / "copy")

    def relocate(folder):
        with PhotoCollection.open(tmp_path / "index") as collection:
            collection.relocate(folder)

    longest = seconds_of(before, relocate)
    with PhotoCollection.open(tmp_path / "index") as collection:
        expected = collection.items()["number"].tolist()
    places = [before, tmp_path / "copy"]
    for trial in range(20):
        kill_at_random(places[trial % 2], relocate, rng.uniform(0, longest))
        with PhotoCollection.open(tmp_path / "index") as collection:
            collection.check()
            assert collection.sync().n_changes == 0
            paths = collection.items()["path"].tolist()
            assert {Path(path).parent for path in paths} <= set(places)
            assert len({Path(path).parent for path in paths}) == 1
            assert collection.items()["number"].tolist() == expected
        relocate(places[trial % 2])


def test_codes_of_a_sync_that_is_killed_are_those_of_one_that_is_not(before, tmp_path, rng):
    hasher = LSHHasher(70, random_state=0)
    extractor = make_pipeline(GISTDescriptor(), hasher).fit(IMAGES)
    shutil.rmtree(before / ".cbir")
    PhotoCollection.create(before / ".cbir", before, extractor).close()

    def codes_in(folder):
        with PhotoCollection.open(folder / ".cbir") as collection:
            items = collection.items()
            ready = items["state"] == "ready"
            rows = collection.retriever()._gallery.engine.rows
            return items["name"][ready].tolist(), np.array(rows)

    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(before, undisturbed)
    killed = Killed(lambda: sync_in(undisturbed))
    killed.at(0)
    names, expected = codes_in(undisturbed)
    for event in rng.choice(range(1, killed.n_events + 1), 8, replace=False):
        folder = tmp_path / "killed"
        shutil.copytree(before, folder)
        assert Killed(lambda folder=folder: sync_in(folder)).at(event)
        sync_in(folder)
        found = codes_in(folder)
        assert found[0] == names
        photos = [folder / name for name in names]
        near_zero = np.abs(hasher.project(GISTDescriptor().transform(photos))) < 1e-5
        differs = unpack_codes(found[1], 70) != unpack_codes(expected, 70)
        assert not (differs & ~near_zero).any()
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("in_sqlite", "step"),
    [(False, 1), (True, 9), pytest.param(True, 1, marks=pytest.mark.slow)],
)
def test_a_creation_that_is_killed_at_any_write_can_be_done_again(tmp_path, in_sqlite, step):
    photos, event = tmp_path / "photos", 1
    write(photos / "0.png", 0)

    def create():
        PhotoCollection.create(tmp_path / "index", photos, GISTDescriptor()).close()

    while Killed(create, in_sqlite).at(event):
        event += step
        if not Table.is_there(str(tmp_path / "index")):
            with pytest.raises(FileNotFoundError, match="There is no collection"):
                PhotoCollection.open(tmp_path / "index")
            create()
        with PhotoCollection.open(tmp_path / "index") as collection:
            assert collection.sync().added == 1
            collection.check()
        shutil.rmtree(tmp_path / "index")
    assert event > 5
