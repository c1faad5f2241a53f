"""What systems, disks and other processes do to a collection, for real where that is possible."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from photo_cases import IMAGES, LONG_AGO, write
from PIL import Image

from sklearn_cbir.collection import PhotoCollection, _sync, _table
from sklearn_cbir.descriptors import GISTDescriptor

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it forks")

NOBODY = 65534
NEW_MOUNTS, PRIVATE, BIND, REMOUNT, READ_ONLY = 0x20000, 0x44000, 0x1000, 0x20, 1  # of Linux


@pytest.fixture
def place():
    """A folder that everybody may look into, and that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="collection-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def photos(place):
    """Twelve photos."""
    for number in range(12):
        write(place / "photos" / f"{number:02d}.png", number)
    return place / "photos"


def in_child(what):
    """Run something in a forked process, and raise what is raised there."""
    wait_for(begin_child(what))


def begin_child(what):
    """Begin something in a forked process; no other thread may be using SQLite, which has locks."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which do nothing here
        child = os.fork()
    if child == 0:
        code = 1
        try:
            what()
            code = 0
        except Unable:
            code = 2
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-50_000:])
        finally:
            os._exit(code)
    os.close(writer)
    return child, reader


def wait_for(begun):
    """Wait until a forked process ends, and raise what is raised there."""
    child, reader = begun
    with open(reader, "rb") as file:
        said = file.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 2:
        pytest.skip("this needs rights to mount")
    assert code == 0, said


class Unable(Exception):
    """What is tried needs rights that are not there."""


def mount(source, target, kind, flags, data=""):
    libc = ctypes.CDLL(None, use_errno=True)
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    *texts, data = texts
    if libc.mount(*texts, ctypes.c_ulong(flags), data):
        raise Unable(os.strerror(ctypes.get_errno()))


def with_own_mounts():
    """Have mounts that nobody else sees, or raise `Unable`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(NEW_MOUNTS):
        raise Unable
    mount("none", "/", None, PRIVATE)


# Disks -------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="needs mounts of Linux")
def test_a_disk_that_is_full_keeps_the_last_commit(photos, place, monkeypatch):
    """A real one, of memory; how much room there is decides where a sync ends."""
    monkeypatch.setattr(_sync, "PHOTOS_AT_ONCE", 2)
    monkeypatch.setattr(_sync, "PHOTOS_PER_COMMIT", 3)
    disk = place / "disk"
    disk.mkdir()
    PhotoCollection.create(place / "c", photos, GISTDescriptor()).close()  # what it needs is loaded

    def fill():
        with_own_mounts()
        n_found = set()
        for size in range(16, 330, 28):  # KiB
            mount("none", disk, "tmpfs", 0, f"size={size}k")
            with suppress(OSError):
                PhotoCollection.create(disk / "c", photos, GISTDescriptor()).sync()
            n = 0
            if (disk / "c" / "collection.sqlite").exists():
                with PhotoCollection.open(disk / "c", read_only=True) as collection:
                    collection.check()
                    n = len(collection)
                    assert len(collection.search(IMAGES[:1], 100)[0]) == n
            else:
                with pytest.raises(FileNotFoundError):
                    PhotoCollection.open(disk / "c")
            mount("none", disk, "tmpfs", REMOUNT, "size=9m")
            if not (disk / "c" / "collection.sqlite").exists():
                PhotoCollection.create(disk / "c", photos, GISTDescriptor()).close()
            with PhotoCollection.open(disk / "c") as collection:
                assert collection.sync().added == 12 - n
                collection.check()
                assert len(collection.search(IMAGES[:1], 100)[0]) == 12
            n_found.add(n)
            ctypes.CDLL(None).umount2(os.fsencode(disk), 2)
        assert {0, 12} < n_found

    in_child(fill)


@pytest.mark.skipif(sys.platform != "linux", reason="needs mounts of Linux")
def test_a_compaction_without_room_changes_nothing(photos, place):
    disk = place / "disk"
    disk.mkdir()
    PhotoCollection.create(place / "c", photos, GISTDescriptor()).close()

    def fill():
        with_own_mounts()
        mount("none", disk, "tmpfs", 0, "size=9m")
        with PhotoCollection.create(disk / "c", photos, GISTDescriptor()) as collection:
            collection.sync()
            (photos / "03.png").unlink()
            collection.sync()
            before, found = collection.items(), collection.search(IMAGES[:3], 100)
            with open(disk / "rest", "wb", 0) as file, suppress(OSError):
                while True:
                    file.write(bytes(1000))
            with pytest.raises(OSError, match="No space left|the disk is full"):
                collection.compact()
            collection.check()
            assert collection.search(IMAGES[:3], 100) == found
            with PhotoCollection.open(disk / "c", read_only=True) as reader:
                assert reader.items()["number"].tolist() == before["number"].tolist()
            (disk / "rest").unlink()
            assert collection.compact() == 1
            collection.check()
            assert collection.search(IMAGES[:3], 100) == found

    in_child(fill)


@pytest.mark.skipif(sys.platform != "linux", reason="needs mounts of Linux")
def test_a_disk_that_cannot_be_written_is_searched(photos, place):
    with PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor()) as collection:
        collection.sync()
        expected = collection.search(IMAGES[:3], 100)

    def look():
        with_own_mounts()
        mount(photos, photos, None, BIND)
        mount("none", photos, None, BIND | REMOUNT | READ_ONLY)
        with PhotoCollection.open(photos / ".cbir") as collection:
            assert collection.read_only
            assert collection.search(IMAGES[:3], 100) == expected
            collection.check()
            with pytest.raises(PermissionError, match="cannot be written: its folder or its disk"):
                collection.sync()
        with pytest.raises(OSError, match="Read-only file system"):
            PhotoCollection.create(photos / ".other", photos, GISTDescriptor())

    in_child(look)


# Rights ------------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes somebody else"
)


def become_nobody():
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@needs_root
def test_what_may_not_be_looked_at_is_named_and_not_gone(photos, place):
    write(photos / "closed" / "20.png", 20)
    write(photos / "no_names" / "21.png", 21)
    with PhotoCollection.create(place / "c", photos, GISTDescriptor()) as collection:
        collection.sync()  # and what it needs is loaded
    write(photos / "closed" / "22.png", 22)
    write(photos / "secret.png", 23)
    write(photos / "00.png", 24)
    for path in (place / "c", *(place / "c").iterdir()):
        os.chown(path, NOBODY, NOBODY)
    closed = {"closed": 0, "no_names": 0o444, "secret.png": 0, "00.png": 0}
    for name, mode in closed.items():
        (photos / name).chmod(mode)

    def look():
        become_nobody()
        with PhotoCollection.open(place / "c") as collection:
            with pytest.warns(UserWarning, match=r"cannot be opened: 2, such as .*\(Permission"):
                report = collection.sync()
            assert (report.n_changes, report.unreadable) == (0, 1)
            items = collection.items()
            of_name = dict(zip(items["name"].tolist(), items["state"].tolist()))
            assert of_name["secret.png"] == "away"
            assert of_name["00.png"] == of_name["20.png"] == of_name["21.png"] == "ready"
            assert len(collection.search(IMAGES[:1], 100)[0]) == 14

    in_child(look)
    for name in closed:
        (photos / name).chmod(0o755)
    with PhotoCollection.open(place / "c") as collection:
        report = collection.sync()
        assert (report.added, report.changed, report.removed) == (2, 1, 0)
        assert len(collection.search(IMAGES[:1], 100)[0]) == 16


@needs_root
def test_a_collection_of_somebody_else_is_searched_and_not_changed(photos, place):
    with PhotoCollection.create(place / "c", photos, GISTDescriptor()) as collection:
        collection.sync()
        expected = collection.search(IMAGES[:3], 100)

    def look():
        become_nobody()
        with PhotoCollection.open(place / "c") as collection:
            assert collection.read_only
            assert collection.search(IMAGES[:3], 100) == expected
            for change in (collection.sync, collection.compact):
                with pytest.raises(
                    PermissionError, match="cannot be written: its folder or its disk"
                ):
                    change()

    names = sorted(os.listdir(place / "c"))
    in_child(look)
    assert sorted(os.listdir(place / "c")) == names


# Others who write --------------------------------------------------------------------------------


def test_two_syncs_at_once_are_one_sync_and_one_error(photos, place, monkeypatch):
    collection = PhotoCollection.create(place / "c", photos, GISTDescriptor())
    other = PhotoCollection.open(place / "c")
    transform, is_in, may_go_on = GISTDescriptor.transform, threading.Event(), threading.Event()

    def wait(self, X):
        is_in.set()
        assert may_go_on.wait(60)
        return transform(self, X)

    with monkeypatch.context() as patched:
        patched.setattr(GISTDescriptor, "transform", wait)
        reports = []
        thread = threading.Thread(target=lambda: reports.append(collection.sync()))
        thread.start()
        assert is_in.wait(60)
        for one in (collection, other):
            for change in (one.sync, one.compact, lambda one=one: one.relocate(photos)):
                with pytest.raises(BlockingIOError, match="Another process is writing"):
                    change()
        code = (
            "import sys; from sklearn_cbir.collection._lock import only_writer\n"
            "try:\n    with only_writer(sys.argv[1]): print('free')\n"
            "except BlockingIOError: print('held')"
        )
        command = [sys.executable, "-c", code, str(place / "c" / "lock")]
        assert subprocess.check_output(command, text=True).strip() == "held"
        may_go_on.set()
        thread.join(60)
    assert subprocess.check_output(command, text=True).strip() == "free"
    assert reports[0].added == 12
    assert (other.sync().unchanged, len(other)) == (12, 12)
    other.check()
    collection.close()
    other.close()


@pytest.mark.parametrize("how", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_table_that_another_program_holds_is_searched(photos, place, monkeypatch, how):
    monkeypatch.setattr(_table, "WAIT", 0.05)
    with PhotoCollection.create(place / "c", photos, GISTDescriptor()) as collection:
        collection.sync()
        write(photos / "new.png", 20)
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "c.execute(sys.argv[2]); print('held', flush=True); input()"
        )
        command = [sys.executable, "-c", code, str(place / "c" / "collection.sqlite"), how]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
            assert held.stdout.readline().strip() == b"held"
            with pytest.raises(OSError, match="another program has locked it"):
                collection.sync()
            assert len(collection.search(IMAGES[:1], 100)[0]) == 12
            held.communicate(b"\n")
        assert collection.sync().added == 1
        collection.check()


def test_readers_see_whole_commits_while_another_process_writes(photos, place):
    with PhotoCollection.create(place / "c", photos, GISTDescriptor()) as collection:
        collection.sync()
        collection.search(IMAGES[:1])

    def write_often():
        with PhotoCollection.open(place / "c") as writer:
            for trial in range(25):
                os.replace(photos / f"{trial % 12:02d}.png", photos / "kept")
                write(photos / f"{trial % 12:02d}.png", 12 + trial % 18)
                (photos / "kept").unlink()
                assert writer.sync().changed == 1
                assert writer.compact() == 1

    failed, begun = [], begin_child(write_often)
    thread = threading.Thread(target=lambda: failed.append(raised_by(wait_for, begun)))
    thread.start()
    with PhotoCollection.open(place / "c", read_only=True) as reader:
        n_states = set()
        while thread.is_alive():
            hits = reader.search(IMAGES[:1], 100)[0]
            assert sorted(hit.number for hit in hits) == list(range(1, 13))
            with PhotoCollection.open(place / "c", read_only=True) as another:
                assert len(another.retriever().ids_) == 12
            n_states.add(reader._view.version)
        thread.join()
        assert failed == [None]
        reader.check()
    assert len(n_states) > 2


@pytest.mark.parametrize("is_open", [False, True])
def test_what_a_forked_process_writes_stays(photos, place, is_open):
    """SQLite believes in a child to have the locks of its parent."""
    collection = PhotoCollection.create(place / "c", photos, GISTDescriptor())
    collection.sync()
    collection.search(IMAGES[:1])
    asked, answered = os.pipe(), os.pipe()

    def follow():
        for n in (12, 13, 14):
            assert os.read(asked[0], 1) == b"?"
            assert len(collection) == n
            assert len(collection.search(IMAGES[:1], 100)[0]) == n
            if n == 13:
                write(photos / "of_the_child.png", 21)
                assert collection.sync().added == 1
            os.write(answered[1], b"!")
        assert os.read(asked[0], 1) == b"?"

    def let_follow():
        os.write(asked[1], b"?")
        assert os.read(answered[0], 1) == b"!"

    failed, begun = [], begin_child(follow)
    thread = threading.Thread(target=lambda: failed.append(raised_by(wait_for, begun)))
    thread.start()
    try:
        let_follow()
        if not is_open:
            collection.close()  # the last connection of a process takes the log away
        write(photos / "of_another.png", 20)
        with PhotoCollection.open(place / "c") as other:
            assert other.sync().added == 1
        let_follow()
        with PhotoCollection.open(place / "c") as other:
            assert (other.sync().n_changes, len(other)) == (0, 14)
            other.compact()
            other.check()
        let_follow()
        if is_open:
            assert len(collection.search(IMAGES[:1], 100)[0]) == 14
    finally:
        os.write(asked[1], b"?")
        thread.join(60)
        collection.close()
        for end in (*asked, *answered):
            os.close(end)
    assert failed == [None]


def raised_by(function, *args):
    """Return what a function raises, None if it raises nothing."""
    try:
        function(*args)
    except BaseException as error:
        return error
    return None


# Files that change -------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["vanish", "shrink", "grow", "other", "folder"])
@pytest.mark.parametrize("is_known", [False, True])
def test_a_file_that_changes_during_a_sync_is_right_after_the_next(
    photos, place, monkeypatch, change, is_known
):
    path = photos / "new.png"
    with PhotoCollection.create(place / "c", photos, GISTDescriptor()) as collection:
        if is_known:
            write(path, 20)
            collection.sync()
        write(path, 21)
        listing = _sync.list_photos

        def list_and_change(*args):
            found = listing(*args)
            content = path.read_bytes()
            path.unlink()
            if change == "folder":
                path.mkdir()
            elif change == "other":
                write(path, 22)
            elif change != "vanish":
                path.write_bytes(content[:-500] if change == "shrink" else content + bytes(500))
            return found

        with monkeypatch.context() as patched:
            patched.setattr(_sync, "list_photos", list_and_change)
            collection.sync()
        collection.check()
        report = collection.sync()
        items = collection.items()
        states = dict(zip(items["name"].tolist(), items["state"].tolist()))
        hit = collection.search(IMAGES[[21, 22][change == "other"]][None], 1)[0][0]
        if change in ("vanish", "folder"):
            assert "new.png" not in states
            assert len(collection) == 12
        elif change == "shrink":
            assert states["new.png"] == "unreadable"
        else:
            assert (states["new.png"], Path(hit.path)) == ("ready", path)
            assert items["size"][items["name"] == "new.png"] == path.stat().st_size
        assert collection.sync().n_changes == 0
        assert report.unreadable == (change == "shrink")


def test_clocks_that_go_wrong_lose_no_change(photos, place):
    """Times of change that go back, or lie ahead, are as good as any."""
    with PhotoCollection.create(place / "c", photos, GISTDescriptor()) as collection:
        collection.sync()
        for number, time in enumerate((0, 1, -(10**9), 2**33 * 10**9, LONG_AGO - 1)):
            path = photos / f"{number:02d}.png"
            write(path, 20 + number)
            with suppress(OverflowError):  # as far as the disk knows
                os.utime(path, ns=(LONG_AGO, time))
        assert collection.sync().changed == 5
        assert collection.sync().n_changes == 0
        for number in range(5):
            hit = collection.search(IMAGES[20 + number][None], 1)[0][0]
            assert Path(hit.path).name == f"{number:02d}.png"


def test_equal_times_of_another_size_are_a_change(photos, place):
    path = photos / "00.png"
    with PhotoCollection.create(place / "c", photos, GISTDescriptor()) as collection:
        collection.sync()
        before = path.stat()
        Image.fromarray(IMAGES[20]).save(path, compress_level=0)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert collection.sync().changed == 1


# Photos of all kinds -----------------------------------------------------------------------------


def test_every_kind_of_file_is_a_photo_or_has_a_reason(photos, place):
    image, rng = Image.fromarray(IMAGES[20]), np.random.default_rng(0)
    image.convert("CMYK").save(photos / "cmyk.jpg")
    image.save(photos / "moving.gif", save_all=True, append_images=[Image.fromarray(IMAGES[21])])
    image.save(photos / "wrong.png", format="JPEG")
    Image.fromarray(rng.integers(0, 2**16, (20, 20), np.uint16)).save(photos / "deep.png")
    Image.new("RGB", (1, 1), "red").save(photos / "one.png")
    Image.new("RGB", (50, 50)).save(photos / "black.png")
    Image.new("1", (20_000, 20_000)).save(photos / "bomb.png")
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "name.jpg").write_bytes(os.fsencode(photos / "00.png"))
    (photos / "page.jpg").write_text("<html>")
    (photos / "cut.png").write_bytes((photos / "00.png").read_bytes()[:-200])
    with PhotoCollection.create(place / "c", photos, GISTDescriptor()) as collection:
        report = collection.sync()
        assert (report.added, report.unreadable) == (23, 5)
        items = collection.items()
        reasons = dict(zip(items["name"].tolist(), items["reason"].tolist()))
        assert {name: reason for name, reason in reasons.items() if reason} == {
            "bomb.png": "20000 x 20000 = 400,000,000 pixels are more than the 300,000,000 that are "
            "allowed",
            "empty.jpg": "there are no bytes",
            "name.jpg": reasons["name.jpg"],
            "page.jpg": reasons["page.jpg"],
            "cut.png": reasons["cut.png"],
        }
        assert "not an image" in reasons["name.jpg"]
        assert "an HTML page" in reasons["page.jpg"]
        hits = collection.search([photos / "moving.gif", photos / "wrong.png"], 1)
        assert [Path(of[0].path).name for of in hits] == ["moving.gif", "wrong.png"]
        sizes = dict(zip(items["name"].tolist(), items["width"].tolist()))
        assert (sizes["bomb.png"], sizes["one.png"], sizes["empty.jpg"]) == (20_000, 1, -1)
        collection.check()


@pytest.mark.skipif(sys.platform != "linux", reason="paths have other limits")
def test_a_path_that_is_too_long_is_named(photos, place):
    """Deeper than a path may be long: files are there, but have no name by which to open them."""
    home = os.getcwd()
    try:
        os.chdir(photos)
        for _ in range(20):
            os.mkdir("n" * 240)
            os.chdir("n" * 240)
        shutil.copy(photos / "00.png", "deep.png")
        os.chdir(home)
        collection = PhotoCollection.create(place / "c", photos, GISTDescriptor())
        with pytest.warns(UserWarning, match=f"1, such as .*{os.strerror(errno.ENAMETOOLONG)}"):
            assert collection.sync().added == 12
        collection.close()
    finally:
        os.chdir(home)
        subprocess.run(["rm", "-rf", photos], check=True)
        photos.mkdir()
