"""A collection keeps up with its folders, finds what they hold, and says clearly what it cannot."""

import os
import shutil
import sqlite3
import sys
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import joblib
import numpy as np
import pytest
from photo_cases import IMAGES, LONG_AGO, write
from PIL import Image
from sklearn.pipeline import make_pipeline

from sklearn_cbir import NeighborsRetriever, persistence
from sklearn_cbir.collection import Hit, PhotoCollection, _keeper, _segments, _sync
from sklearn_cbir.collection._lock import only_writer
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.hashing import LSHHasher
from sklearn_cbir.images import ImageReadError


@pytest.fixture
def photos(tmp_path):
    """Six photos in three folders."""
    root = tmp_path / "photos"
    for number, name in enumerate(["a/0.png", "a/1.png", "b/2.png", "b/c/3.png", "4.png", "5.png"]):
        write(root / name, number)
    return root


@pytest.fixture
def collection(photos):
    with PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor()) as collection:
        collection.sync()
        yield collection


@pytest.fixture
def count_embedded(monkeypatch):
    """Count the images that are embedded."""
    counted = []
    transform = GISTDescriptor.transform

    def counting(self, X):
        counted.append(len(X))
        return transform(self, X)

    monkeypatch.setattr(GISTDescriptor, "transform", counting)
    return counted


def names(hits):
    """The names of the photos that were found for the first query."""
    return [Path(hit.path).name for hit in hits[0]]


def numbers_by_name(collection):
    items = collection.items()
    return dict(zip(items["name"].tolist(), items["number"].tolist()))


# Search ------------------------------------------------------------------------------------------


def test_a_photo_finds_itself_first(collection, photos):
    hits = collection.search([photos / "b" / "2.png", photos / "5.png"], k=3)
    assert [len(of_query) for of_query in hits] == [3, 3]
    assert [of_query[0].path for of_query in hits] == [
        str(photos / "b" / "2.png"),
        str(photos / "5.png"),
    ]
    assert isinstance(hits[0][0], Hit)
    assert hits[0][0].distance == pytest.approx(0, abs=1e-6)


def test_what_is_found_is_what_a_retriever_over_all_photos_finds(collection):
    items = collection.items()
    rows = GISTDescriptor().transform(items["path"].tolist())
    retriever = NeighborsRetriever(6, algorithm="exact").fit(rows, ids=items["number"])
    queries = IMAGES[10:14]
    expected = GISTDescriptor().transform(queries)
    found = collection.search(queries, k=6)
    assert [[hit.number for hit in hits] for hits in found] == retriever.predict(expected).tolist()
    distances = [[hit.distance for hit in hits] for hits in found]
    np.testing.assert_allclose(distances, retriever.kneighbors(expected)[0], atol=1e-3)


def test_the_retriever_answers_as_the_collection_does(collection, tmp_path):
    retriever = collection.retriever()
    persistence.save(retriever, tmp_path / "gallery.cbir")
    loaded = persistence.load(tmp_path / "gallery.cbir")
    hits = collection.search(IMAGES[10:13], k=4)
    rows = GISTDescriptor().transform(IMAGES[10:13])
    for one in (retriever, loaded):
        distances, positions = one.kneighbors(rows, 4)
        assert [[hit.number for hit in of] for of in hits] == one.ids_[positions].tolist()
        assert [[hit.distance for hit in of] for of in hits] == distances.tolist()


def test_a_retriever_names_paths_if_it_is_told_to(collection, photos):
    ids = collection.retriever(ids="path").ids_.tolist()
    assert ids == collection.items()["path"].tolist()
    assert str(photos / "b" / "c" / "3.png") in ids
    with pytest.raises(ValueError, match="ids='name' is not known"):
        collection.retriever(ids="name")


def test_what_holds_for_the_whole_collection_is_told_without_its_extractor(photos, monkeypatch):
    write(photos / "6.png", 6).write_bytes(b"no photo")
    extractor = make_pipeline(GISTDescriptor(), LSHHasher(16)).fit(IMAGES)
    exclude = ["out"]
    with PhotoCollection.create(photos / ".cbir", photos, extractor, exclude=exclude) as made:
        assert made.about()["kind"] is made.metric is None
        made.sync()
    monkeypatch.setattr("sklearn_cbir.collection._collection.load", None)
    with PhotoCollection.open(photos / ".cbir") as collection:
        assert (collection.roots, collection.metric) == ([str(photos)], "hamming")
        assert collection.about() == {
            "path": str(photos / ".cbir"),
            "roots": [str(photos)],
            "n_photos": 7,
            "n_ready": 6,
            "n_unreadable": 1,
            "n_away": 0,
            "extractor": "GISTDescriptor -> LSHHasher",
            "kind": "codes",
            "n_rows": 6,
            "n_features": 16,
            "labels": None,
            "uri": None,
            "exclude": exclude,
            "follow_links": False,
        }


def test_the_extractor_can_be_asked_for(collection):
    assert collection.metric == "cosine"
    row = collection.extractor.transform(IMAGES[:1])
    np.testing.assert_array_equal(row, GISTDescriptor().transform(IMAGES[:1]))


def test_more_results_than_photos_are_all_photos(collection):
    assert len(collection.search(IMAGES[:1], k=100)[0]) == 6


def test_an_empty_collection_finds_nothing(tmp_path):
    (tmp_path / "photos").mkdir()
    with PhotoCollection.create(tmp_path / "c", tmp_path / "photos", GISTDescriptor()) as empty:
        assert empty.sync().n_changes == 0
        assert empty.search(IMAGES[:2]) == [[], []]
        assert len(empty) == 0
        empty.check()
        with pytest.raises(ValueError, match="no photos that can be read"):
            empty.retriever()


def test_float32_rows_are_those_of_the_extractor(photos, tmp_path):
    with PhotoCollection.create(
        tmp_path / "c", photos, GISTDescriptor(), dtype="float32"
    ) as collection:
        collection.sync()
        rows = GISTDescriptor().transform(collection.items()["path"].tolist())
        retriever = NeighborsRetriever(6, algorithm="exact").fit(rows)
        queries = GISTDescriptor().transform(IMAGES[7:9])
        distances = [[hit.distance for hit in of] for of in collection.search(IMAGES[7:9], k=6)]
        np.testing.assert_allclose(distances, retriever.kneighbors(queries)[0], atol=1e-6)
        assert collection.retriever().kneighbors(queries, 6)[0] == pytest.approx(
            np.array(distances), abs=1e-6
        )


def test_codes_are_compared_by_bits(photos, tmp_path):
    pipeline = make_pipeline(GISTDescriptor(), LSHHasher(70, random_state=0)).fit(IMAGES)
    with PhotoCollection.create(tmp_path / "c", photos, pipeline) as collection:
        collection.sync()
        (photos / "4.png").unlink()
        collection.sync()
        paths = collection.items()["path"].tolist()
        retriever = NeighborsRetriever(5, metric="hamming").fit(pipeline.transform(paths))
        expected = retriever.kneighbors(pipeline.transform(IMAGES[9:12]))[0].tolist()
        hits = collection.search(IMAGES[9:12], k=5)
        assert [[hit.distance for hit in of] for of in hits] == expected
        found = collection.retriever().kneighbors(pipeline.transform(IMAGES[9:12]), 5)[0]
        assert found.tolist() == expected


def test_a_query_that_cannot_be_read_is_an_error(collection, tmp_path):
    (tmp_path / "no.jpg").write_text("no photo")
    with pytest.raises(ImageReadError, match=r"no\.jpg"):
        collection.search([tmp_path / "no.jpg"])


# Keeping up --------------------------------------------------------------------------------------


def test_a_second_sync_embeds_nothing(collection, count_embedded):
    report = collection.sync()
    assert (report.n_changes, report.unchanged, count_embedded) == (0, 6, [])


def test_the_extractor_is_loaded_for_new_photos_only(photos, monkeypatch):
    PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor()).sync()
    collection = PhotoCollection.open(photos / ".cbir")
    monkeypatch.setattr(
        "sklearn_cbir.collection._collection.load", lambda *_: pytest.fail("it was loaded")
    )
    assert collection.sync().n_changes == 0


def test_new_photos_are_found_after_a_sync(collection, photos, count_embedded):
    write(photos / "new" / "7.png", 7)
    report = collection.sync()
    assert (report.added, report.unchanged, count_embedded) == (1, 6, [1])
    assert names(collection.search(IMAGES[7:8], k=1)) == ["7.png"]


def test_a_changed_photo_is_found_as_it_is_now(collection, photos):
    number = numbers_by_name(collection)["4.png"]
    write(photos / "4.png", 8)
    assert collection.sync().changed == 1
    hit = collection.search(IMAGES[8:9], k=1)[0][0]
    assert (hit.number, hit.path) == (number, str(photos / "4.png"))
    assert len(collection.search(IMAGES[:1], k=100)[0]) == 6


def test_a_photo_that_was_only_touched_keeps_its_row(collection, photos, count_embedded):
    os.utime(photos / "4.png", ns=(LONG_AGO, LONG_AGO + 999))
    report = collection.sync()
    assert (report.n_changes, report.unchanged, count_embedded) == (0, 6, [])


def test_a_moved_photo_keeps_its_number_and_is_not_decoded(collection, photos, count_embedded):
    number = numbers_by_name(collection)["3.png"]
    os.rename(photos / "b" / "c" / "3.png", photos / "a" / "three.png")
    report = collection.sync()
    assert (report.moved, report.removed, report.added, count_embedded) == (1, 0, 0, [])
    hit = collection.search(IMAGES[3:4], k=1)[0][0]
    assert (hit.number, hit.path) == (number, str(photos / "a" / "three.png"))


def test_a_copy_is_not_decoded_and_is_a_photo_of_its_own(collection, photos, count_embedded):
    shutil.copy2(photos / "4.png", photos / "copy.png")
    report = collection.sync()
    assert (report.added, count_embedded) == (1, [])
    assert set(names(collection.search(IMAGES[4:5], k=2))) == {"4.png", "copy.png"}
    (photos / "4.png").unlink()
    assert collection.sync().removed == 1
    assert names(collection.search(IMAGES[4:5], k=1)) == ["copy.png"]


def test_equal_new_photos_are_decoded_once(collection, photos, count_embedded):
    write(photos / "x.png", 9)
    write(photos / "y.png", 9)
    assert collection.sync().added == 2
    assert count_embedded == [1]
    assert set(names(collection.search(IMAGES[9:10], k=2))) == {"x.png", "y.png"}


def test_two_photos_that_change_names_are_not_decoded(collection, photos, count_embedded):
    os.rename(photos / "4.png", photos / "keep")
    os.rename(photos / "5.png", photos / "4.png")
    os.rename(photos / "keep", photos / "5.png")
    collection.sync()
    assert count_embedded == []
    assert names(collection.search(IMAGES[4:5], k=1)) == ["5.png"]
    assert names(collection.search(IMAGES[5:6], k=1)) == ["4.png"]


def test_numbers_are_never_used_again(collection, photos):
    last = max(numbers_by_name(collection).values())
    gone = next(name for name, number in numbers_by_name(collection).items() if number == last)
    next(photos.rglob(gone)).unlink()
    write(photos / "new.png", 11)
    report = collection.sync()
    assert (report.removed, report.added) == (1, 1)
    assert numbers_by_name(collection)["new.png"] == last + 1


def test_what_cannot_be_read_is_kept_with_its_reason_and_tried_again(collection, photos):
    (photos / "bad.jpg").write_bytes(b"no photo")
    os.utime(photos / "bad.jpg", ns=(LONG_AGO, LONG_AGO))
    report = collection.sync()
    assert (report.added, report.unreadable) == (1, 1)
    items = collection.items()
    at = items["name"].tolist().index("bad.jpg")
    assert items["state"][at] == "unreadable"
    assert "not an image" in items["reason"][at]
    assert len(collection.search(IMAGES[:1], k=100)[0]) == 6
    again = collection.sync()
    assert (again.n_changes, again.unchanged, again.unreadable) == (0, 7, 1)
    write(photos / "bad.jpg", 12)
    assert collection.sync().changed == 1
    assert names(collection.search(IMAGES[12:13], k=1)) == ["bad.jpg"]


def test_retry_tries_unreadable_photos_again(collection, photos, monkeypatch):
    write(photos / "new.png", 13)
    with monkeypatch.context() as patched:
        fault = ImageReadError("X[0]: no decoder.", 0, None, "no decoder")
        patched.setattr(_sync, "transform_readable", lambda _, images: (np.empty((0, 0)), [fault]))
        assert collection.sync().unreadable == 1
    assert collection.sync().unreadable == 1
    assert collection.sync(retry=True).unreadable == 0
    assert names(collection.search(IMAGES[13:14], k=1)) == ["new.png"]


def test_a_file_that_cannot_be_fetched_is_tried_every_time(collection, photos, monkeypatch):
    write(photos / "new.png", 13)
    write(photos / "4.png", 14)

    def out_of_reach(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(_sync, "open", out_of_reach, raising=False)
        report = collection.sync()
    assert (report.n_changes, report.unreadable) == (0, 1)
    items = collection.items()
    state = dict(zip(items["name"].tolist(), items["state"].tolist()))
    assert (state["new.png"], state["4.png"]) == ("away", "ready")  # the old row can be found
    assert names(collection.search(IMAGES[4:5], k=1)) == ["4.png"]
    report = collection.sync()
    assert (report.added, report.changed, report.unreadable) == (1, 1, 0)
    assert names(collection.search(IMAGES[14:15], k=1)) == ["4.png"]


def test_a_file_that_vanishes_during_a_sync_is_left_to_the_next(collection, photos, monkeypatch):
    write(photos / "new.png", 13)
    listing = _sync.list_photos

    def list_and_lose(*args):
        found = listing(*args)
        (photos / "new.png").unlink()
        return found

    monkeypatch.setattr(_sync, "list_photos", list_and_lose)
    assert collection.sync().n_changes == 0
    assert len(collection) == 6


def test_a_file_that_was_changed_just_now_is_looked_at_again(collection, photos):
    path = photos / "4.png"
    Image.fromarray(IMAGES[15]).save(path)
    collection.sync()
    status = path.stat()
    content = bytearray(path.read_bytes())
    Image.fromarray(IMAGES[16]).save(path)
    new = path.read_bytes()
    path.write_bytes(new + bytes(max(0, len(content) - len(new))))  # of the same size, or larger
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    collection.sync()
    assert names(collection.search(IMAGES[16:17], k=1)) == ["4.png"]


def test_clocks_that_are_set_back_change_nothing(collection, photos):
    os.utime(photos / "4.png", ns=(0, 10**9))
    write(photos / "new.png", 17)
    os.utime(photos / "new.png", ns=(0, 4_000_000_000 * 10**9))
    assert collection.sync().added == 1
    assert collection.sync().n_changes == 0


def test_many_commits_give_what_one_gives(photos, tmp_path, monkeypatch):
    for number in range(6, 30):
        write(photos / f"{number}.png", number)
    with PhotoCollection.create(tmp_path / "one", photos, GISTDescriptor()) as one:
        one.sync()
        monkeypatch.setattr(_sync, "PHOTOS_PER_COMMIT", 3)
        monkeypatch.setattr(_sync, "PHOTOS_AT_ONCE", 2)
        monkeypatch.setattr(_segments, "ROWS_AT_LEAST", 4)
        with PhotoCollection.create(tmp_path / "many", photos, GISTDescriptor()) as many:
            many.sync()
            many.check()
            assert len(list((tmp_path / "many").glob("rows-*.npy"))) > 2
            for name, column in one.items().items():
                assert column.tolist() == many.items()[name].tolist()
            assert one.search(IMAGES[:20], 30) == many.search(IMAGES[:20], 30)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("where", ["transform", "facts_of", "put", "append"])
def test_what_is_whole_is_kept_when_a_sync_is_stopped(photos, tmp_path, monkeypatch, where, stop):
    for number in range(6, 20):
        write(photos / f"{number}.png", number)
    monkeypatch.setattr(_sync, "PHOTOS_AT_ONCE", 4)
    places = {
        "transform": GISTDescriptor,
        "facts_of": _sync,
        "put": _sync.Table,
        "append": _keeper.FileKeeper,
    }
    do, calls = getattr(places[where], where), []
    # In the third group of four; of the rest, in the only commit there is.
    after = {"transform": 2, "facts_of": 9, "put": 3, "append": 0}[where]

    def stopping(*given, **named):
        calls.append(given)
        if len(calls) > after:
            raise stop
        return do(*given, **named)

    with PhotoCollection.create(tmp_path / "index", photos, GISTDescriptor()) as collection:
        with monkeypatch.context() as patched:
            patched.setattr(places[where], where, stopping)
            with pytest.raises(stop):
                collection.sync()
        kept = {"transform": 8, "facts_of": 8, "put": 0, "append": 0}[where]
        collection.check()
        assert len(collection) == kept
        assert collection.sync().added == 20 - kept
        collection.check()
        with PhotoCollection.create(tmp_path / "whole", photos, GISTDescriptor()) as whole:
            whole.sync()
            for name, column in whole.items().items():
                assert column.tolist() == collection.items()[name].tolist()
            assert whole.search(IMAGES[:20], 30) == collection.search(IMAGES[:20], 30)


@pytest.mark.parametrize("cores", ["1", "2"])
def test_the_next_photos_are_read_while_some_are_embedded(photos, tmp_path, monkeypatch, cores):
    monkeypatch.setenv("OMP_NUM_THREADS", cores)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(_sync, "PHOTOS_AT_ONCE", 2)
    embedded, was_read, read = [], threading.Event(), _sync._read
    transform = GISTDescriptor.transform

    def reading(listed, line):
        if listed.path == b"a/0.png":  # the third
            was_read.set()
        return read(listed, line)

    def embedding(self, X):
        embedded.append(was_read.wait(10 if cores == "2" else 0))
        return transform(self, X)

    monkeypatch.setattr(_sync, "_read", reading)
    monkeypatch.setattr(GISTDescriptor, "transform", embedding)
    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor()) as collection:
        assert collection.sync().added == 6
        assert collection.items()["name"].tolist() == [
            "4.png",
            "5.png",
            "0.png",
            "1.png",
            "2.png",
            "3.png",
        ]
    assert embedded == [cores == "2", True, True]


def test_a_sync_that_fails_waits_for_what_is_read_ahead(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(_sync, "PHOTOS_AT_ONCE", 1)

    def failing(self, X):
        raise RuntimeError("no more")

    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor()) as collection:
        with monkeypatch.context() as patch:
            patch.setattr(GISTDescriptor, "transform", failing)
            before = threading.active_count()
            with pytest.raises(RuntimeError, match="no more"):
                collection.sync()
            assert threading.active_count() == before
        assert collection.sync().added == 6


def test_readers_follow_the_last_commit(collection, photos):
    with PhotoCollection.open(photos / ".cbir", read_only=True) as reader:
        assert len(reader.search(IMAGES[:1], k=100)[0]) == 6
        write(photos / "new.png", 18)
        (photos / "5.png").unlink()
        collection.sync()
        assert names(reader.search(IMAGES[18:19], k=1)) == ["new.png"]
        assert "5.png" not in names(reader.search(IMAGES[5:6], k=100))


def test_links_are_not_followed_unless_asked_for(photos, tmp_path):
    if sys.platform == "win32":
        pytest.skip("links need a right there")
    write(tmp_path / "elsewhere" / "9.png", 9)
    os.symlink(tmp_path / "elsewhere", photos / "link")
    os.symlink(photos, photos / "circle")
    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor()) as collection:
        assert collection.sync().added == 6
    with PhotoCollection.create(
        tmp_path / "d", photos, GISTDescriptor(), follow_links=True
    ) as collection:
        assert collection.sync().added == 7


def test_what_is_excluded_and_what_is_no_photo_is_left_out(photos, tmp_path):
    (photos / "note.txt").write_text("x")
    write(photos / ".thumbnails" / "9.png", 9)
    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor()) as collection:
        report = collection.sync()
        assert (report.added, report.ignored) == (6, {".txt": 1})
    with PhotoCollection.create(
        tmp_path / "d", photos, GISTDescriptor(), exclude=["b"]
    ) as collection:
        assert collection.sync().added == 5  # what is hidden too


def test_progress_is_shown_on_standard_error(collection, photos, capsys):
    write(photos / "new.png", 18)
    collection.sync(verbose=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Taking in photos" in captured.err


# What is known of photos -------------------------------------------------------------------------


def test_items_say_what_is_known(photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x9003] = ""
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 09:30:00"
    path = photos / "a" / "lying.jpg"
    Image.fromarray(IMAGES[9]).resize((20, 10)).save(path, exif=exif)
    with PhotoCollection.create(
        photos / ".cbir", photos, GISTDescriptor(), labels="folder"
    ) as collection:
        collection.sync()
        items = collection.items()
        at = items["name"].tolist().index("lying.jpg")
        assert {name: column[at] for name, column in items.items()} == {
            "number": at + 1,
            "path": str(path),
            "folder": "a",
            "name": "lying.jpg",
            "label": "a",
            "size": path.stat().st_size,
            "width": 10,
            "height": 20,
            "taken": "2024-05-01 09:30:00",
            "state": "ready",
            "reason": "",
        }
        frame = collection.to_frame()
        assert frame.loc[at + 1, "taken"].year == 2024
        assert frame["label"].isna().tolist() == (items["label"] == "").tolist()
        assert frame["width"].tolist() == items["width"].tolist()


def test_labels_are_top_folders(photos):
    with PhotoCollection.create(
        photos / ".cbir", photos, GISTDescriptor(), labels="folder"
    ) as collection:
        collection.sync()
        hits = collection.search(IMAGES[3:6], k=1)
        assert [of[0].label for of in hits] == ["b", None, None]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"folder": "b"}, {"2.png", "3.png"}),
        ({"folder": "b/c"}, {"3.png"}),
        ({"folder": ""}, {"0.png", "1.png", "2.png", "3.png", "4.png", "5.png"}),
        ({"folder": ["a", "b/c"]}, {"0.png", "1.png", "3.png"}),
        ({"name": "4.png"}, {"4.png"}),
        ({"name": ["4.png", "5.png", "none"]}, {"4.png", "5.png"}),
        ({"name": ("2", "4.png")}, {"2.png", "3.png", "4.png"}),
        ({"label": "a", "name": "1.png"}, {"1.png"}),
        ({"label": None}, {"4.png", "5.png"}),
        ({"width": (1, 10**6)}, {"0.png", "1.png", "2.png", "3.png", "4.png", "5.png"}),
        ({"width": (None, 1)}, set()),
        ({"height": IMAGES.shape[1], "folder": "a"}, {"0.png", "1.png"}),
        ({"taken": (date(2020, 1, 1), None)}, set()),
        ({"name": "' OR 1 --"}, set()),
        ([1, 2], {"4.png", "5.png"}),
        ({3}, {"0.png"}),
        ([], set()),
        ([True, False, False, True, False, False], {"4.png", "1.png"}),
    ],
)
def test_where_leaves_photos_in(photos, where, expected):
    with PhotoCollection.create(
        photos / ".cbir", photos, GISTDescriptor(), labels="folder"
    ) as collection:
        collection.sync()
        assert set(names(collection.search(IMAGES[:1], 10, where))) == expected


def test_a_range_of_times_takes_the_end_whole(photos):
    exif = Image.Exif()
    for day in (1, 2, 3):
        exif.get_ifd(0x8769)[0x9003] = f"2024:05:0{day} 12:00:00"
        write(photos / f"day{day}.jpg", day + 20, exif=exif)
    with PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor()) as collection:
        collection.sync()
        where = {"taken": ("2024-05-02", "2024-05-02")}
        assert names(collection.search(IMAGES[:1], 10, where)) == ["day2.jpg"]
        where = {"taken": (date(2024, 5, 2), "2024")}
        assert set(names(collection.search(IMAGES[:1], 10, where))) == {"day2.jpg", "day3.jpg"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"color": "red"}, "'color', which does not exist. Use one of 'folder', 'label'"),
        ({"width": "wide"}, "holds integers"),
        ({"width": True}, "holds integers"),
        ({"width": 2**70}, "not a number of pixels"),
        ({"name": 4}, "holds text"),
        ({"name": ("a",)}, "which means a range"),
        ({"taken": 2024}, "Give a date"),
        ([7], "has 1 of 1 that are not the number of a photo, such as 7"),
        ({"width": (9, 5)}, "is a range that ends before it begins"),
        ({"taken": ("2024-05", "2023")}, "is a range that ends before it begins"),
        ({"taken": "2023-13"}, "'2023-13'. Give a date"),
        ({"taken": "2023-02-30"}, "'2023-02-30'. Give a date"),
        ([True], "mask of shape"),
        (["4.png"], "must be numbers of photos"),
    ],
)
def test_a_condition_that_says_nothing_is_an_error(collection, where, message):
    with pytest.raises(ValueError, match=message):
        collection.search(IMAGES[:1], 3, where)


# Likes, duplicates, scores -----------------------------------------------------------------------


def test_likes_are_those_of_a_retriever_over_all_photos(collection):
    items = collection.items()
    rows = GISTDescriptor().transform(items["path"].tolist())
    retriever = NeighborsRetriever(algorithm="exact", storage="float16").fit(
        rows, ids=items["number"]
    )
    for given in (
        {"ids": [1]},
        {"ids": [1, 4], "unlike": [2]},
        {"ids": [3], "where": [2, 4, 5]},
    ):
        k = 2
        distances, found = retriever.like(n_neighbors=k, **given)
        numbers = given.pop("ids")
        hits = collection.like(numbers, k=k, **given)
        assert [hit.number for hit in hits] == retriever.ids_[found][0].tolist()
        np.testing.assert_allclose([hit.distance for hit in hits], distances[0], atol=1e-6)
    assert len(collection.like([1], unlike=[2], k=100)) == 4
    assert collection.like(X=IMAGES[3:4], k=1) == collection.search(IMAGES[3:4], k=1)[0]
    assert collection.like([1], where=[1]) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Nothing is liked"),
        ({"numbers": [99]}, "numbers has 1 of 1 that are not the number of a photo, such as 99"),
        ({"numbers": [1, 2], "unlike": [2]}, "2 is in numbers and in unlike"),
        ({"numbers": "1"}, "must be numbers of photos"),
        ({"numbers": [7]}, "names 7, a photo that cannot be read"),
    ],
)
def test_a_like_that_says_nothing_is_an_error(collection, photos, given, message):
    (photos / "z.png").write_bytes(b"no photo")
    collection.sync()
    with pytest.raises(ValueError, match=message):
        collection.like(**given)


def test_duplicates_are_groups_with_the_one_to_keep_first(collection, photos):
    shutil.copy2(photos / "4.png", photos / "copy.png")
    large = Image.fromarray(IMAGES[2]).resize((150, 150))
    large.save(photos / "large.png")
    collection.sync()
    groups = collection.duplicates()
    assert [[Path(hit.path).name for hit in group] for group in groups] == [
        ["4.png", "copy.png"],
        ["large.png", "2.png"],
    ]
    assert groups[0][1].distance == 0
    assert 0 < groups[1][1].distance < 0.05
    assert groups[1][0].distance == 0
    assert collection.duplicates(where={"folder": "b"}) == []
    assert len(collection.duplicates(radius=2)[0]) == 8


def test_duplicates_need_a_radius_if_the_extractor_has_none(photos, tmp_path):
    pipeline = make_pipeline(GISTDescriptor(), LSHHasher(16, random_state=0)).fit(IMAGES)
    with PhotoCollection.create(tmp_path / "c", photos, pipeline) as collection:
        collection.sync()
        with pytest.raises(ValueError, match="Pipeline has no radius of its own"):
            collection.duplicates()
        shutil.copy2(photos / "4.png", photos / "copy.png")
        collection.sync()
        (group,) = collection.duplicates(radius=0)
        assert [hit.distance for hit in group] == [0, 0]


def test_a_score_is_that_of_all_photos_with_labels(photos):
    with PhotoCollection.create(
        photos / ".cbir", photos, GISTDescriptor(), labels="folder"
    ) as collection:
        with pytest.raises(ValueError, match="no photos with labels"):
            collection.score()
        collection.sync()
        items = collection.items()
        has_label = items["label"] != ""
        rows = GISTDescriptor().transform(items["path"][has_label].tolist())
        retriever = NeighborsRetriever(algorithm="exact", storage="float16")
        retriever.fit(rows, items["label"][has_label])
        assert collection.score() == pytest.approx(retriever.score(), abs=1e-9)
        assert collection.score("precision@1") == pytest.approx(
            retriever.set_params(scoring="precision@1").score()
        )
        with pytest.raises(ValueError, match="relevant"):
            collection.score(where={"name": ["0.png", "2.png"]})


# Names -------------------------------------------------------------------------------------------


def test_any_name_that_a_file_may_have_is_kept(photos, tmp_path):
    odd = ["new\nline.png", " blank .png", "'quote\".png", "Ünïcödé 写真.png"]
    odd += [unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")]
    odd += ["Case.png", "case.png"]
    if sys.platform == "linux":
        odd.append(os.fsdecode(b"not-utf8-\xff.png"))
    made = []
    for number, name in enumerate(odd, start=6):
        if not (photos / name).exists():  # as another, where case and accents do not count
            made.append(write(photos / name, number))
    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor()) as collection:
        assert collection.sync().added == 6 + len(made)
        assert collection.sync().n_changes == 0
        for path in made:
            hit = collection.search([path], k=1)[0][0]
            assert hit.path == str(path)
            assert Path(hit.path).exists()
        assert "new\\nline.png" in collection.items()["name"].tolist()
        where = {"name": unicodedata.normalize("NFD", "é.png")}
        found = collection.search(IMAGES[:1], 10, where)
        assert len(found[0]) == len([path for path in made if path.name in odd[4:6]])
        collection.to_frame()


# Places ------------------------------------------------------------------------------------------


def test_photos_and_collection_can_be_moved_together(collection, photos, tmp_path, count_embedded):
    collection.close()
    os.rename(photos, tmp_path / "elsewhere")
    with PhotoCollection.open(tmp_path / "elsewhere" / ".cbir") as moved:
        assert moved.sync().n_changes == 0
        assert count_embedded == []
        assert moved.search(IMAGES[4:5], k=1)[0][0].path == str(tmp_path / "elsewhere" / "4.png")


def test_a_collection_beside_its_photos_moves_with_them(photos, tmp_path):
    with PhotoCollection.create(tmp_path / "index", photos, GISTDescriptor()) as collection:
        collection.sync()
    (tmp_path / "new").mkdir()
    os.rename(photos, tmp_path / "new" / "photos")
    os.rename(tmp_path / "index", tmp_path / "new" / "index")
    with PhotoCollection.open(tmp_path / "new" / "index") as moved:
        assert moved.sync().n_changes == 0


def test_a_collection_that_was_moved_alone_knows_where_its_photos_are(
    collection, photos, tmp_path, count_embedded
):
    collection.close()
    home = tmp_path / "home"
    home.mkdir()
    write(home / "4.png", 20)  # of a name that the collection knows, but another photo
    os.rename(photos / ".cbir", home / "index")
    with PhotoCollection.open(home / "index") as moved:
        assert moved.sync().n_changes == 0
        assert count_embedded == []
        assert moved.search(IMAGES[4:5], k=1)[0][0].path == str(photos / "4.png")


def test_a_collection_and_photos_that_were_moved_apart_take_in_no_others(
    collection, photos, tmp_path, count_embedded
):
    collection.close()
    os.rename(photos / ".cbir", tmp_path / "index")
    os.rename(photos, tmp_path / "elsewhere")
    write(photos / "4.png", 20)
    write(tmp_path / "4.png", 20)
    with PhotoCollection.open(tmp_path / "index") as moved:
        with pytest.raises(FileNotFoundError, match="was moved, or its photos were.* relocate"):
            moved.sync()
        assert (len(moved), count_embedded) == (6, [])
        moved.relocate(tmp_path / "elsewhere")
        assert moved.sync().n_changes == 0


def test_a_copy_of_photos_and_collection_is_one_of_the_copies(collection, photos, tmp_path):
    collection.close()
    shutil.copytree(photos, tmp_path / "copy")
    with PhotoCollection.open(tmp_path / "copy" / ".cbir") as copied:
        assert copied.search(IMAGES[4:5], k=1)[0][0].path == str(tmp_path / "copy" / "4.png")
        (tmp_path / "copy" / "4.png").unlink()
        assert copied.sync().removed == 1
        for path in [*(tmp_path / "copy").glob("*.png"), *(tmp_path / "copy").glob("*/**/*.png")]:
            path.unlink()  # and those that were copied are none of its own
        with pytest.raises(FileNotFoundError, match="is empty, but the collection has photos"):
            copied.sync()


def test_folders_that_were_all_moved_are_relocated_one_by_one(photos, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    write(more / "9.png", 9)
    with PhotoCollection.create(tmp_path / "c", [photos, more], GISTDescriptor()) as collection:
        collection.sync()
        os.rename(photos, tmp_path / "a")
        os.rename(more, tmp_path / "b")
        collection.relocate(tmp_path / "a", of=photos)
        collection.relocate(tmp_path / "b", of=more)
        assert collection.sync().n_changes == 0


def test_photos_that_follow_a_collection_later_are_found_beside_it(photos, tmp_path):
    with PhotoCollection.create(tmp_path / "index", photos, GISTDescriptor()) as collection:
        collection.sync()
    (tmp_path / "new").mkdir()
    os.rename(tmp_path / "index", tmp_path / "new" / "index")
    os.rename(photos, tmp_path / "on_its_way")
    with PhotoCollection.open(tmp_path / "new" / "index") as moved:
        with pytest.raises(FileNotFoundError, match="is missing"):
            moved.sync()
        os.rename(tmp_path / "on_its_way", tmp_path / "new" / "photos")
        assert moved.sync().n_changes == 0


def test_a_root_that_is_gone_is_an_error_and_no_photo_is(photos, tmp_path):
    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor()) as collection:
        collection.sync()
        os.rename(photos, tmp_path / "unplugged")
        with pytest.raises(FileNotFoundError, match="is missing. Is a disk"):
            collection.sync()
        photos.mkdir()  # where a disk is mounted
        with pytest.raises(FileNotFoundError, match="is empty, but the collection has photos"):
            collection.sync()
        photos.rmdir()
        os.rename(tmp_path / "unplugged", photos)
        assert collection.sync().n_changes == 0
        assert len(collection) == 6


def test_photos_below_a_folder_that_cannot_be_listed_are_not_gone(collection, photos, monkeypatch):
    scandir = os.scandir

    def no_permission(path="."):
        if Path(os.fsdecode(path)).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", no_permission)
    with pytest.warns(UserWarning, match=r"cannot be opened: 1, such as .*/b' \(Permission den"):
        report = collection.sync()
    assert (report.removed, len(collection)) == (0, 6)


@pytest.mark.parametrize("how", ["same", "inner", "outer", "link"])
def test_roots_in_one_another_are_an_error(photos, tmp_path, how):
    if how == "link":
        os.symlink(photos, tmp_path / "link")
    other = {"same": photos, "inner": photos / "a", "outer": tmp_path, "link": tmp_path / "link"}
    with pytest.raises(ValueError, match="and one is inside the other"):
        PhotoCollection.create(tmp_path / "c", [photos, other[how]], GISTDescriptor())


def test_several_roots_make_one_collection(photos, tmp_path):
    write(tmp_path / "more" / "4.png", 9)
    roots = [photos, tmp_path / "more"]
    with PhotoCollection.create(tmp_path / "c", roots, GISTDescriptor()) as collection:
        assert collection.sync().added == 7
        assert collection.search(IMAGES[9:10], k=1)[0][0].path == str(roots[1] / "4.png")


def test_a_collection_among_its_photos_has_to_be_hidden(photos):
    with pytest.raises(ValueError, match="is among its photos"):
        PhotoCollection.create(photos / "index", photos, GISTDescriptor())
    with pytest.raises(ValueError, match="inside the folder of the collection"):
        PhotoCollection.create(photos, photos / "a", GISTDescriptor())
    assert sorted(os.listdir(photos)) == ["4.png", "5.png", "a", "b"]


def test_a_hidden_collection_is_never_listed(photos):
    with PhotoCollection.create(
        photos / ".cbir", photos, GISTDescriptor(), exclude=()
    ) as collection:
        write(photos / ".cbir" / "9.png", 9)
        assert collection.sync().added == 6


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"roots": []}, ValueError, "roots is empty"),
        ({"roots": [3]}, ValueError, "which is not a path"),
        ({"roots": "nowhere"}, FileNotFoundError, "There is no folder"),
        ({"roots": __file__}, NotADirectoryError, "is a file"),
        ({"extractor": 3}, ValueError, "has no transform"),
        ({"extractor": GISTDescriptor}, ValueError, "has no transform"),
        ({"dtype": "int8"}, ValueError, "dtype='int8' is not known"),
        ({"labels": "column"}, FileNotFoundError, "is neither an existing file nor 'folder'"),
        ({"labels": 3}, ValueError, "labels=3 must be 'folder', a CSV file"),
        ({"exclude": 3}, ValueError, "must be a sequence of patterns"),
        ({"path": __file__}, NotADirectoryError, "is a file"),
        ({"path": Path(__file__).parent}, FileExistsError, "is not empty"),
    ],
)
def test_what_cannot_be_created_is_one_error(photos, tmp_path, changes, error, message):
    given = {"path": tmp_path / "c", "roots": photos, "extractor": GISTDescriptor(), **changes}
    with pytest.raises(error, match=message):
        PhotoCollection.create(**given)
    assert not (tmp_path / "c").exists()


def test_a_collection_is_not_made_over_another(collection, photos):
    with pytest.raises(FileExistsError, match="There is already a collection in"):
        PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor(16))
    assert collection.sync().n_changes == 0


# Compacting and moving ---------------------------------------------------------------------------


def test_a_compaction_leaves_out_what_no_photo_has(collection, photos, count_embedded):
    (photos / "a" / "1.png").unlink()
    write(photos / "4.png", 9)
    collection.sync()
    before, found = collection.items(), collection.search(IMAGES[:20], 10)
    assert collection.compact() == 2
    assert collection.compact() == 0
    collection.check()
    count_embedded.clear()
    assert collection.sync().n_changes == 0
    assert count_embedded == []
    assert collection.items()["number"].tolist() == before["number"].tolist()
    assert collection.search(IMAGES[:20], 10) == found
    assert [path.name for path in (photos / ".cbir").glob("rows-*")] == ["rows-0001-0000.npy"]
    write(photos / "new.png", 18)
    collection.sync()
    assert names(collection.search(IMAGES[18:19], 1)) == ["new.png"]


def test_a_reader_follows_a_compaction(collection, photos):
    with PhotoCollection.open(photos / ".cbir", read_only=True) as reader:
        reader.search(IMAGES[:1])
        (photos / "a" / "0.png").unlink()
        collection.sync()
        collection.compact()
        assert reader.search(IMAGES[:9], 10) == collection.search(IMAGES[:9], 10)


def test_photos_that_were_moved_alone_are_found_again(photos, tmp_path, count_embedded):
    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor()) as collection:
        collection.sync()
        count_embedded.clear()
        os.rename(photos, tmp_path / "new")
        (tmp_path / "other").mkdir()
        with pytest.raises(ValueError, match="None of 6 photos of the collection that were"):
            collection.relocate(tmp_path / "other")
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            collection.relocate(tmp_path / "none")
        collection.relocate(tmp_path / "new")
        assert collection.sync().n_changes == 0
        assert count_embedded == []
        path = collection.search([tmp_path / "new" / "5.png"], 1)[0][0].path
        assert path == str(tmp_path / "new" / "5.png")


def test_one_of_several_roots_is_relocated_by_name(photos, tmp_path):
    write(tmp_path / "more" / "9.png", 9)
    roots = [photos, tmp_path / "more"]
    with PhotoCollection.create(tmp_path / "c", roots, GISTDescriptor()) as collection:
        collection.sync()
        os.rename(tmp_path / "more", tmp_path / "new")
        with pytest.raises(ValueError, match="several folders"):
            collection.relocate(tmp_path / "new")
        with pytest.raises(ValueError, match="is not a folder of this collection"):
            collection.relocate(tmp_path / "new", of=tmp_path / "new")
        os.rename(tmp_path / "new", photos / "inside")
        with pytest.raises(ValueError, match="is inside the other"):
            collection.relocate(photos / "inside", of=tmp_path / "more")
        os.rename(photos / "inside", tmp_path / "new")
        collection.relocate(tmp_path / "new", of=tmp_path / "more")
        assert collection.sync().n_changes == 0


# Opening -----------------------------------------------------------------------------------------


def test_no_collection_is_one_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no collection"):
        PhotoCollection.open(tmp_path)
    (tmp_path / "collection.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(ValueError, match="is not a collection, or it is damaged"):
        PhotoCollection.open(tmp_path)
    (tmp_path / "collection.sqlite").unlink()
    sqlite3.connect(tmp_path / "collection.sqlite").execute("CREATE TABLE other (x)").close()
    with pytest.raises(ValueError, match="is not a collection"):
        PhotoCollection.open(tmp_path)


def test_a_newer_format_is_one_error(collection, photos):
    collection.close()
    connection = sqlite3.connect(photos / ".cbir" / "collection.sqlite")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ValueError, match=r"format 99; .* reads up to 1. Install a newer"):
        PhotoCollection.open(photos / ".cbir")


def test_another_extractor_is_one_error(collection, photos):
    collection.close()
    persistence.save(GISTDescriptor(16), photos / ".cbir" / "extractor.cbir")
    write(photos / "new.png", 9)
    with PhotoCollection.open(photos / ".cbir") as opened:
        for ask in (opened.sync, opened.check, lambda: opened.search(IMAGES[:1])):
            with pytest.raises(ValueError, match="is another extractor than the one that made"):
                ask()


def test_a_damaged_row_is_one_error(collection, photos):
    path = next((photos / ".cbir").glob("rows-*.npy"))
    collection.close()
    content = bytearray(path.read_bytes())
    content[130] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: rows 0 to 5 have changed"):
        PhotoCollection.open(photos / ".cbir")


def test_check_finds_a_damaged_row_of_an_earlier_commit(collection, photos):
    write(photos / "new.png", 9)
    collection.sync()
    collection.check()
    path = next((photos / ".cbir").glob("rows-*.npy"))
    content = bytearray(path.read_bytes())
    content[130] ^= 1
    path.write_bytes(content)
    opened = PhotoCollection.open(photos / ".cbir")
    with pytest.raises(ValueError, match="rows 0 to 5 have changed"):
        opened.check()


@pytest.mark.parametrize("how", ["shorter", "missing", "other"])
def test_a_damaged_segment_is_one_error(collection, photos, how):
    collection.close()
    path = next((photos / ".cbir").glob("rows-*.npy"))
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(content[:-1] if how == "shorter" else b"x" * len(content))
    with pytest.raises(ValueError, match="is damaged: rows-0000-0000.npy"):
        PhotoCollection.open(photos / ".cbir")


def test_a_segment_is_a_file_of_numpy(collection, photos):
    rows = np.load(next((photos / ".cbir").glob("rows-*.npy")))
    assert rows.dtype == np.float16
    norms = np.linalg.norm(rows[:6].astype(np.float32), axis=1)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-3)
    assert not rows[6:].any()


def test_what_is_open_for_reading_only_writes_nothing(collection, photos):
    with PhotoCollection.open(photos / ".cbir", read_only=True) as opened:
        assert opened.read_only
        assert names(opened.search(IMAGES[4:5], k=1)) == ["4.png"]
        with pytest.raises(
            PermissionError, match="cannot be written: .* opened with read_only=True"
        ):
            opened.sync()


def test_a_collection_that_cannot_be_written_is_read(collection, photos, monkeypatch):
    collection.close()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    before = sorted(os.listdir(photos / ".cbir"))
    with PhotoCollection.open(photos / ".cbir") as opened:
        assert opened.read_only
        assert names(opened.search(IMAGES[4:5], k=1)) == ["4.png"]
    assert sorted(os.listdir(photos / ".cbir")) == before
    (photos / ".cbir" / "collection.sqlite-wal").write_bytes(b"commits")
    with pytest.raises(PermissionError, match="its last commits are in"):
        PhotoCollection.open(photos / ".cbir")


def test_a_second_writer_is_one_error(collection, photos):
    with PhotoCollection.open(photos / ".cbir") as other:
        held = only_writer(str(photos / ".cbir" / "lock"))
        with held, pytest.raises(BlockingIOError, match="Another process is writing"):
            other.sync()
        assert other.sync().n_changes == 0


def test_a_locked_database_is_one_error(photos, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.collection._table.WAIT", 0.05)
    with PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor()) as collection:
        other = sqlite3.connect(photos / ".cbir" / "collection.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match="another program has locked it"):
            collection.sync()
        other.close()
        assert collection.sync().added == 6


def test_a_full_disk_leaves_the_last_commit(collection, photos, monkeypatch):
    write(photos / "new.png", 9)

    def full(*args):
        raise OSError(28, "No space left on device")

    for name in ("write", "fsync", "ftruncate"):
        with monkeypatch.context() as patched:
            patched.setattr(_segments, "ROWS_AT_LEAST", 1)
            patched.setattr(os, name, full)
            if name != "ftruncate":
                with pytest.raises(OSError, match="No space left"):
                    collection.sync()
        collection.check()
        assert len(collection) == 6
        assert names(collection.search(IMAGES[4:5], k=1)) == ["4.png"]
    assert collection.sync().added == 1


def test_an_extractor_that_gives_no_numbers_is_one_error(collection, photos, monkeypatch):
    write(photos / "new.png", 9)
    for rows, message in (
        (np.full((1, 512), np.nan, np.float32), "not finite"),
        (np.ones((1, 3), np.float32), "gives 3 numbers for a photo"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(GISTDescriptor, "transform", lambda *_, rows=rows: rows)
            with pytest.raises(ValueError, match=message):
                collection.sync()
    assert collection.sync().added == 1


def test_threads_may_share_a_collection(collection):
    expected = [collection.search(IMAGES[i : i + 1], 3) for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: collection.search(IMAGES[i : i + 1], 3), range(20)))
    assert found == expected
