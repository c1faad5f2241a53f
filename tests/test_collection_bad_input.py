"""What a disk, a system, other programs and users do to a collection: all is well, or one error."""

import os
import shutil
import sqlite3
import sys
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from photo_cases import IMAGES, LONG_AGO, write
from PIL import Image

from sklearn_cbir.collection import PhotoCollection, _segments, _sync, _table
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.images import Text


@pytest.fixture
def photos(tmp_path):
    """Four photos."""
    root = tmp_path / "photos"
    for number in range(4):
        write(root / f"{number}.png", number)
    return root


@pytest.fixture
def collection(photos):
    with PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor()) as collection:
        collection.sync()
        yield collection


def names(hits):
    """The names of the photos that were found for the first query."""
    return [Path(hit.path).name for hit in hits[0]]


def states(collection):
    """State and reason of every photo, by its name."""
    items = collection.items()
    of_state = zip(items["state"].tolist(), items["reason"].tolist())
    return dict(zip(items["name"].tolist(), of_state))


def flip(path, place):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


# What is damaged ---------------------------------------------------------------------------------


def test_a_compaction_does_not_take_damaged_rows_for_good(collection, photos):
    write(photos / "new.png", 9)
    collection.sync()
    (photos / "1.png").unlink()
    collection.sync()
    flip(next((photos / ".cbir").glob("rows-*.npy")), 130)  # of a commit before the last
    before = {path.name: path.read_bytes() for path in (photos / ".cbir").glob("*.npy")}
    with pytest.raises(ValueError, match="is damaged: rows 0 to 3 have changed"):
        collection.compact()
    assert before == {path.name: path.read_bytes() for path in (photos / ".cbir").glob("*.npy")}
    with pytest.raises(ValueError, match="is damaged: rows 0 to 3 have changed"):
        collection.check()


def test_a_copy_of_a_photo_does_not_take_its_damaged_row_for_good(collection, photos):
    write(photos / "new.png", 9)
    collection.sync()
    segment = next((photos / ".cbir").glob("rows-*.npy"))
    flip(segment, 130)
    shutil.copy2(photos / "1.png", photos / "copy.png")
    with pytest.raises(ValueError, match="is damaged: rows 0 to 3 have changed"):
        collection.sync()
    assert len(collection) == 5
    flip(segment, 130)
    assert collection.sync().added == 1
    collection.check()


def test_a_row_that_is_not_finite_names_its_photo(collection, photos, monkeypatch):
    transform = GISTDescriptor.transform

    def some_infinite(self, X):
        rows = transform(self, X)
        rows[1:2, 7] = np.inf
        return rows

    write(photos / "8.png", 8)
    write(photos / "9.png", 9)
    with monkeypatch.context() as patched:
        patched.setattr(GISTDescriptor, "transform", some_infinite)
        with pytest.raises(ValueError, match=r"row that is not finite for '.*9\.png'; such"):
            collection.sync()
    assert collection.sync().added == 2


def test_a_damaged_table_never_answers_by_an_error_that_says_nothing(collection, photos, rng):
    collection.close()
    path = photos / ".cbir" / "collection.sqlite"
    whole, n_whole = path.read_bytes(), 0
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    for trial in range(40):
        content = bytearray(whole)
        if trial % 3 == 0:
            del content[rng.integers(len(content)) :]
        for place in rng.choice(used[used < len(content)], 5) if content else ():
            content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        said = "damaged"
        try:
            with PhotoCollection.open(photos / ".cbir", read_only=True) as opened:
                opened.check()
            n_whole += 1
        except ValueError as error:
            said = str(error)
        assert "damaged" in said or "is another extractor" in said
    assert n_whole < 20


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM about WHERE key = 'generation'",
        "UPDATE about SET value = NULL WHERE key = 'n_rows'",
        "DROP TABLE segment",
        "UPDATE batch SET n_rows = 'many'",
        "UPDATE photo SET root = 7",
        "UPDATE photo SET row = -1 WHERE number = 1",
        "UPDATE photo SET row = 99 WHERE number = 1",
    ],
)
def test_a_table_that_says_what_cannot_be_is_found(collection, photos, change):
    collection.close()
    connection = sqlite3.connect(photos / ".cbir" / "collection.sqlite", isolation_level=None)
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute(change)
    connection.close()
    with (
        pytest.raises(ValueError, match="damaged"),
        PhotoCollection.open(photos / ".cbir") as opened,
    ):
        opened.check()


def test_a_reader_follows_a_compaction_that_ends_while_it_looks(collection, photos, monkeypatch):
    (photos / "1.png").unlink()
    collection.sync()
    expected = collection.search(IMAGES[:4], 3)
    collection.close()
    open_segment = _segments.open_segment
    todo = ["compact"]
    monkeypatch.setattr(_table, "WAIT", 0.05)  # for readers, before the log is moved

    def compact_first(*args):
        if todo:
            todo.pop()
            with PhotoCollection.open(photos / ".cbir") as writer:
                writer.compact()
        return open_segment(*args)

    with PhotoCollection.open(photos / ".cbir", read_only=True) as reader:
        reader._view = None
        monkeypatch.setattr(_segments, "open_segment", compact_first)
        assert reader.search(IMAGES[:4], 3) == expected
        assert not todo
    (lost,) = (photos / ".cbir").glob("rows-*.npy")
    lost.unlink()
    with pytest.raises(ValueError, match="is damaged: rows-0001-0000.npy is missing"):
        PhotoCollection.open(photos / ".cbir", read_only=True)


def test_a_closed_collection_says_that_it_is(collection):
    collection.close()
    for ask in (collection.sync, collection.items, collection.compact, lambda: len(collection)):
        with pytest.raises(ValueError, match="is closed. Open it again with"):
            ask()
    collection.close()


# Conditions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        ("2024", True),
        ("2024-05", True),
        ("2024-05-02", True),
        (date(2024, 5, 2), True),
        (datetime(2024, 5, 2, 12, 30), True),
        ("2024-05-02 12:30", True),
        ("2024-05-02T12:30:00", True),
        (["1999", "2024-05"], True),
        (("2024-05-02T12", None), True),
        (("2024-05-02T13", None), False),
        ("2024-06", False),
        (["1999", None], False),
        ([], False),
    ],
)
def test_times_are_as_wide_as_they_are_said(photos, taken, found):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:05:02 12:30:00"
    write(photos / "taken.jpg", 9, exif=exif)
    with PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor()) as collection:
        collection.sync()
        hits = collection.search(IMAGES[:1], 10, {"taken": taken})
        assert ("taken.jpg" in names(hits)) == found
        assert len(hits[0]) == (4 if taken == ["1999", None] else int(found))


@pytest.mark.parametrize("taken", ["May 2024", "2024-5-1", "", "24", 2024, ("yesterday", None)])
def test_a_text_that_is_no_time_is_an_error(collection, taken):
    with pytest.raises(ValueError, match=r"where\['taken'\] is .* Give a date, or text such as"):
        collection.search(IMAGES[:1], 3, {"taken": taken})


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_conditions_take_names_as_they_are_on_the_disk(photos, tmp_path):
    odd = os.fsdecode(b"\xff\nodd")
    write(photos / odd / "9.png", 9)
    write(photos / f"{odd}.png", 10)
    with PhotoCollection.create(
        tmp_path / "c", photos, GISTDescriptor(), labels="folder"
    ) as collection:
        collection.sync()
        shown = "\\udcff\\nodd"
        for where in ({"folder": odd}, {"label": odd}, {"label": [odd]}, {"folder": shown}):
            assert names(collection.search(IMAGES[:1], 10, where)) == ["9.png"]
        for where in ({"name": f"{odd}.png"}, {"name": (odd, f"{odd}.png")}):
            assert names(collection.search(IMAGES[:1], 10, where)) == [f"{odd}.png"]


# Tables that others write ------------------------------------------------------------------------


def test_an_error_of_a_new_table_is_one_of_its_file(photos, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(_table.sqlite3, "connect", full)
        with pytest.raises(OSError, match=r"collection\.sqlite' cannot be used: the disk is full"):
            PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor())
    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor()) as collection:
        assert collection.sync().added == 4


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_collection_may_lie_in_a_folder_of_any_name(photos, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff #?%20&immutable=1'\n")
    os.rename(photos, odd)
    with PhotoCollection.create(odd / ".cbir", odd, GISTDescriptor()) as collection:
        assert collection.sync().added == 4
    with PhotoCollection.open(odd / ".cbir") as collection:
        assert collection.search([odd / "3.png"], 1)[0][0].path == str(odd / "3.png")
    os.rename(odd, photos)
    with PhotoCollection.open(photos / ".cbir", read_only=True) as collection:
        assert collection.search([photos / "3.png"], 1)[0][0].path == str(photos / "3.png")


def test_who_may_not_write_follows_those_who_do(collection, photos, monkeypatch):
    collection.close()
    path = photos / ".cbir" / "collection.sqlite"
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        reader = PhotoCollection.open(photos / ".cbir")
    assert reader.read_only
    assert len(reader.search(IMAGES[:1], 10)[0]) == 4
    with PhotoCollection.open(photos / ".cbir") as writer:
        write(photos / "new.png", 9)
        (photos / "0.png").unlink()
        writer.sync()
        writer.compact()
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        assert names(reader.search(IMAGES[9:10], 1)) == ["new.png"]
        assert len(reader) == 4
        items = reader._table.photos
        monkeypatch.setattr(
            reader._table, "photos", lambda *args: (os.utime(path), items(*args))[1]
        )
        with pytest.raises(OSError, match="was changed while it was read"):
            reader.items()
        monkeypatch.undo()
        assert len(reader) == 4
    reader.close()


# Folders -----------------------------------------------------------------------------------------


def test_an_index_that_is_named_by_a_link_is_not_listed_either(photos, tmp_path):
    os.symlink(photos, tmp_path / "link")
    write(photos / ".cbir" / "inside.png", 9)
    shutil.move(photos / ".cbir" / "inside.png", tmp_path / "inside.png")
    index = tmp_path / "link" / ".cbir"
    with PhotoCollection.create(index, photos, GISTDescriptor(), exclude=()) as collection:
        shutil.move(tmp_path / "inside.png", index / "inside.png")
        report = collection.sync()
        assert (report.added, report.ignored) == (4, {})


@pytest.mark.parametrize("how", ["dots", "link", "up"])
def test_an_index_among_its_photos_is_seen_by_any_name(photos, tmp_path, how):
    os.symlink(photos, tmp_path / "link")
    index = {
        "dots": tmp_path / "other" / ".." / "photos" / "index",
        "link": tmp_path / "link" / "index",
        "up": photos / ".hidden" / ".." / "index",
    }[how]
    with pytest.raises(ValueError, match="is among its photos"):
        PhotoCollection.create(index, photos, GISTDescriptor())
    with pytest.raises(ValueError, match="inside the folder of the collection"):
        PhotoCollection.create(tmp_path / "photos", tmp_path / "link", GISTDescriptor())


def test_roots_are_compared_as_folders_and_not_as_names(photos, tmp_path, monkeypatch):
    """A system that does not tell case apart, or has a folder mounted twice, is acted out."""
    (tmp_path / "PHOTOS" / "sub").mkdir(parents=True)
    samefile = os.path.samefile

    def same(path, other):
        return samefile(*(Path(str(name).replace("PHOTOS", "photos")) for name in (path, other)))

    roots = [photos, tmp_path / "PHOTOS" / "sub"]
    PhotoCollection.create(tmp_path / "c", roots, GISTDescriptor()).close()
    monkeypatch.setattr(os.path, "samefile", same)
    with pytest.raises(ValueError, match="one is inside the other"):
        PhotoCollection.create(tmp_path / "d", roots, GISTDescriptor())
    with pytest.raises(ValueError, match="is among its photos"):
        PhotoCollection.create(tmp_path / "PHOTOS" / "index", photos, GISTDescriptor())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": ""}, "path is '', which is not a path of a folder"),
        ({"path": None}, "path is None, which is not a path"),
        ({"path": 3}, "path is 3, which is not a path"),
        ({"roots": ""}, "roots holds '', which is not a path"),
        ({"roots": [""]}, "roots holds '', which is not a path"),
        ({"roots": None}, "roots holds None, which is not a path"),
    ],
)
def test_what_is_no_path_is_one_error(photos, tmp_path, monkeypatch, given, message):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    valid = {"path": tmp_path / "c", "roots": photos, "extractor": GISTDescriptor()}
    with pytest.raises(ValueError, match=message):
        PhotoCollection.create(**{**valid, **given})
    assert os.listdir() == []
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: c.relocate(""), "root is '', which is not a path of a folder"),
        (lambda c: c.relocate(None), "root is None, which is not a path"),
        (lambda c: c.relocate(".", of=3), "of is 3, which is not a path"),
        (lambda _: PhotoCollection.open(""), "path is '', which is not a path"),
    ],
)
def test_what_is_no_path_is_one_error_later_too(collection, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(collection)


# Kinds of files ----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_never_hangs_a_sync(photos, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "folder.jpg").mkdir()
    for name, place in {
        "to_pipe.jpg": tmp_path / "pipe",
        "zero.jpg": "/dev/zero",
        "gone.jpg": tmp_path / "gone",
        "loop.jpg": photos / "loop.jpg",
    }.items():
        os.symlink(place, photos / name)
    for follow_links, n, such in (
        (True, 4, r"loop\.jpg' \(Too many"),
        (False, 1, r"pipe\.jpg' \(a pipe, socket or device"),
    ):
        with PhotoCollection.create(
            tmp_path / f"c{n}", photos, GISTDescriptor(), follow_links=follow_links
        ) as collection:
            with pytest.warns(UserWarning, match=f"cannot be opened: {n}, such as .*{such}"):
                report = collection.sync()
            assert (report.added, report.unreadable) == (4, 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_in_the_place_of_a_photo_never_hangs_a_sync(collection, photos, monkeypatch):
    write(photos / "new.png", 9)
    os.utime(photos / "0.png")
    listing = _sync.list_photos

    def list_and_exchange(*args):
        found = listing(*args)
        for name in ("0.png", "new.png"):
            (photos / name).unlink()
            os.mkfifo(photos / name)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(_sync, "list_photos", list_and_exchange)
        report = collection.sync()
    assert (report.n_changes, report.unreadable) == (0, 1)
    assert states(collection)["new.png"] == (
        "away",
        "not a regular file (a pipe, socket or device)",
    )
    assert len(collection.search(IMAGES[:1], 10)[0]) == 4
    for name in ("0.png", "new.png"):
        (photos / name).unlink()
    write(photos / "new.png", 9)
    assert collection.sync().removed == 1
    assert states(collection)["new.png"] == ("ready", "")


def test_a_file_that_is_too_large_for_a_photo_is_not_read(collection, photos, monkeypatch):
    write(photos / "huge.png", 9)
    monkeypatch.setattr(_sync, "BYTES_AT_MOST", 100)
    assert collection.sync().unreadable == 1
    size = (photos / "huge.png").stat().st_size
    assert states(collection)["huge.png"] == ("away", f"{size:,} bytes are more than a photo has")


def test_a_reason_that_is_over_is_forgotten(collection, photos, monkeypatch):
    os.utime(photos / "0.png", ns=(LONG_AGO, LONG_AGO + 10**10))

    def out_of_reach(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(_sync, "open", out_of_reach, raising=False)
        collection.sync()
    assert states(collection)["0.png"] == ("ready", "Permission denied")
    assert collection.sync().n_changes == 0
    assert states(collection)["0.png"] == ("ready", "")


# Making ------------------------------------------------------------------------------------------


def test_a_collection_is_never_made_in_the_place_of_another_database(photos, tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    path = folder / "collection.sqlite"
    sqlite3.connect(path).execute("CREATE TABLE other (x)").connection.close()
    content = path.read_bytes()
    with pytest.raises(FileExistsError, match="There is already a collection in"):
        PhotoCollection.create(folder, photos, GISTDescriptor())
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match="is not a collection, but another database"):
        PhotoCollection.open(folder)


def test_what_a_creation_has_left_is_no_part_of_the_next(photos, tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    for suffix in ("-wal", "-shm", "-journal", ".part", ".part-journal"):
        (folder / f"collection.sqlite{suffix}").write_bytes(b"left over" * 1000)
    with PhotoCollection.create(folder, photos, GISTDescriptor()) as collection:
        assert collection.sync().added == 4
        collection.check()


# Queries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("photo.png", r"^X is a path, .* wrap it in a list"),
        (b"junk", "^X is an encoded photo, .* wrap it in a list"),
        ([], "0 sample"),
        (None, "^X is None"),
        ([None], r"^X\[0\] is None"),
        ([3], r"^X\[0\] is 3 of type int"),
        (["lost.png"], r"^X\[0\] 'lost.png': the file does not exist"),
        ([b"junk"], r"^X\[0\] \(bytes, 4 long\): not an image"),
        ([os.curdir], r"^X\[0\] '.': a folder, not an image"),
        ([os.devnull], r"^X\[0\] .*not a regular file"),
        (np.zeros((2, 2)), "2-D arrays are feature rows"),
        (Text("a dog"), "^X is .* words have no pixels"),
    ],
)
def test_a_query_that_is_no_image_is_one_error(collection, X, message):
    with pytest.raises(ValueError, match=message):
        collection.search(X)
    if X is not None:
        for name in ("X", "unlike_X"):
            said = message.replace("X", name)
            given = {"numbers": [1], name: X}
            with pytest.raises(ValueError, match=said):
                collection.like(**given)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None, "3"])
def test_a_number_of_results_that_is_none_is_one_error(collection, k):
    for ask in (lambda: collection.search(IMAGES[:1], k), lambda: collection.like([1], k=k)):
        with pytest.raises(ValueError, match=f"k={k!r} must be an integer of at least 1"):
            ask()
    assert len(collection.search(IMAGES[:1], 10**30)[0]) == 4


@pytest.mark.parametrize(
    "numbers", [[0], [-1], [5], [2**63], [2**70], [1.0], [True], ["1"], [None], [[1]], 1, None]
)
def test_numbers_of_no_photo_are_one_error(collection, numbers):
    with pytest.raises(ValueError, match="^numbers"):
        collection.like(numbers)
    if numbers is not None:
        with pytest.raises(ValueError, match="^where"):
            collection.search(IMAGES[:1], 3, numbers)
