"""Whatever write a process is killed at, what a collection has committed is whole."""

import mmap
import os
import shutil
import signal
import struct
import sys
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from sklearn_cbir.collection import PhotoCollection, _segments, _sync
from sklearn_cbir.collection._table import Table
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it kills forked processes")

IMAGES, _ = make_shapes(24, random_state=0)
LONG_AGO = 1_600_000_000 * 10**9  # ns
EVENTS = ("write", "ftruncate", "fsync", "replace", "unlink", "rename")


def write(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(IMAGES[number]).save(path)
    os.utime(path, ns=(LONG_AGO, LONG_AGO + number))


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


class Killed:
    """Run something in a forked process that ends at one of its writes, as if it were killed.

    Parameters
    ----------
    what : callable
        What to run.
    """

    def __init__(self, what):
        self.what = what
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


def kill_everywhere(before, tmp_path, what, afterwards):
    """Kill `what` at every event, do it `afterwards` again, and compare with doing it once."""
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(before, undisturbed)
    killed = Killed(lambda: what(undisturbed))
    assert not killed.at(0)
    n_events = killed.n_events
    assert n_events > 10
    expected = state(undisturbed)
    for event in range(1, n_events + 1):
        folder = tmp_path / "killed"
        shutil.copytree(before, folder)
        killed = Killed(lambda folder=folder: what(folder))
        assert killed.at(event)
        with PhotoCollection.open(folder / ".cbir") as collection:
            collection.check()
            if what is sync_in:  # what was committed is not done again
                version = collection._table.version()
                assert version >= 2 + killed.n_commits
        afterwards(folder)
        assert_same(state(folder), expected)
        shutil.rmtree(folder)


def test_a_sync_that_is_killed_at_any_write_is_continued(before, tmp_path):
    kill_everywhere(before, tmp_path, sync_in, sync_in)


def test_a_compaction_that_is_killed_at_any_write_changes_nothing_or_is_done(before, tmp_path):
    sync_in(before)
    kill_everywhere(before, tmp_path, compact_in, compact_in)


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

    killed, event = Killed(relocate), 1
    while killed.at(event):
        event += 1
        with PhotoCollection.open(index) as collection:
            collection.relocate(tmp_path / "new")
            assert collection.sync().n_changes == 0
            items = collection.items()
            assert items["number"].tolist() == expected["number"].tolist()
            assert items["name"].tolist() == expected["name"].tolist()
    assert event > 2


def test_a_sync_that_is_killed_at_random_is_continued(before, tmp_path, rng):
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(before, undisturbed)
    sync_in(undisturbed)
    expected = state(undisturbed)
    for _ in range(20):
        folder = tmp_path / "killed"
        shutil.copytree(before, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if child == 0:
            sync_in(folder)
            os._exit(0)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sync_in(folder)
        assert_same(state(folder), expected)
        shutil.rmtree(folder)


def test_a_creation_that_is_killed_at_any_write_can_be_done_again(tmp_path):
    photos, event = tmp_path / "photos", 1
    write(photos / "0.png", 0)

    def create():
        PhotoCollection.create(tmp_path / "index", photos, GISTDescriptor()).close()

    while Killed(create).at(event):
        event += 1
        if not Table.is_there(str(tmp_path / "index")):
            create()
        with PhotoCollection.open(tmp_path / "index") as collection:
            assert collection.sync().added == 1
            collection.check()
        shutil.rmtree(tmp_path / "index")
    assert event > 5
