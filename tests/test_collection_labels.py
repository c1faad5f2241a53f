"""Labels of a collection come from a table that names its photos, and follow what it says."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from photo_cases import IMAGES, LONG_AGO, write

from sklearn_cbir.collection import PhotoCollection, _sync
from sklearn_cbir.descriptors import GISTDescriptor

CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for number, name in enumerate(["0.png", "a/1.png", "a/2.png", "b c/3.png"]):
        write(root / name, number)
    return root


@pytest.fixture
def make(photos):
    """Make a collection whose labels come from a table with that text."""

    def made(text, place="labels.csv", *, column=None, roots=photos, encoding="utf-8"):
        file = photos / place
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(text.encode(encoding))
        labels = file if column is None else (file, column)
        return PhotoCollection.create(photos / ".cbir", roots, GISTDescriptor(), labels=labels)

    return made


def labels_of(collection):
    items = collection.items()
    return dict(zip(items["name"].tolist(), items["label"].tolist()))


# What a table says -------------------------------------------------------------------------------


def test_labels_are_found_asked_for_and_scored(make, photos):
    write(photos / "4.png", 4)
    text = "path,label\n0.png,sky\na/1.png,sea\na/2.png,sky\nb c/3.png,\n4.png,sea\n"
    with make(text) as collection:
        collection.sync()
        assert labels_of(collection) == {
            "0.png": "sky",
            "1.png": "sea",
            "2.png": "sky",
            "3.png": "",
            "4.png": "sea",
        }
        hits = collection.search(IMAGES[:1], where={"label": "sky"})[0]
        assert {(Path(hit.path).name, hit.label) for hit in hits} == {
            ("0.png", "sky"),
            ("2.png", "sky"),
        }
        assert collection.search(IMAGES[:1], where={"label": None})[0][0].path.endswith("3.png")
        assert 0 <= collection.score("precision@1") <= 1
        frame = collection.to_frame()
        assert frame["label"].isna().tolist() == [name == "3.png" for name in frame["name"]]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath;label\r\na/1.png;x, y\r\n",  # as Excel writes it
        "path\tlabel\na/1.png\tx, y\n",
        '"path";"label"\n"a/1.png";"x, y"\n',
        'label,year,path\n"x, y",2024,./a/1.png\n\n',
        'path , label \na\\1.png,"x, y"\n',
        'path,label\na//1.png,"x, y "',
    ],
)
def test_a_table_may_be_spelled_in_several_ways(make, text):
    with make(text) as collection:
        collection.sync()
        assert labels_of(collection)["1.png"] == "x, y"


def test_the_column_of_labels_has_any_name(make):
    with make("path,label,kind\n0.png,no,yes\n", column="kind") as collection:
        collection.sync()
        assert labels_of(collection)["0.png"] == "yes"


def test_paths_may_be_absolute_or_from_the_folder_of_the_table(make, photos, tmp_path):
    text = f"path,label\n{photos / '0.png'},zero\n../photos/a/1.png,one\nb c/3.png,three\n"
    with make(text, "../tables/labels.csv") as collection:
        collection.sync()
        assert labels_of(collection) == {
            "0.png": "zero",
            "1.png": "one",
            "2.png": "",
            "3.png": "three",
        }


def test_names_are_compared_in_one_form_of_their_accents(make, photos):
    write(photos / unicodedata.normalize("NFD", f"{CAFE}.png"), 5)
    with make(f"path,label\n{CAFE}.png,{unicodedata.normalize('NFD', CAFE)}\n") as collection:
        collection.sync()
        assert labels_of(collection)[f"{CAFE}.png"] == CAFE
        assert len(collection.search(IMAGES[:1], where={"label": CAFE})[0]) == 1


def test_names_that_differ_in_their_accents_alone_are_told_if_spelled_exactly(make, photos):
    forms = [unicodedata.normalize(form, f"{CAFE}.png") for form in ("NFC", "NFD")]
    for number, name in enumerate(forms):
        write(photos / name, number + 5)
    if len({*os.listdir(photos)} & {*forms}) < 2:
        pytest.skip("this file system has one of them")
    with make(f"path,label\n{forms[0]},c\n{forms[1]},d\n") as collection:
        collection.sync()
        items = collection.items()
        names = [Path(path).name for path in items["path"]]
        assert {name: label for name, label in zip(names, items["label"]) if label} == dict(
            zip(forms, "cd")
        )


def test_a_path_of_several_roots_is_passed_over_unless_absolute(make, photos, tmp_path):
    other = tmp_path / "other"
    write(other / "0.png", 6)
    text = f"path,label\n0.png,which\n{other / '0.png'},that\n"
    with make(text, roots=[photos, other]) as collection:
        with pytest.warns(UserWarning, match="1 of 2 lines of .* match several photos"):
            collection.sync()
        items = collection.items()
        of_path = dict(zip(items["path"].tolist(), items["label"].tolist()))
        assert of_path[str(other / "0.png")] == "that"
        assert of_path[str(photos / "0.png")] == ""


def test_lines_without_a_photo_are_a_warning_and_photos_without_a_line_are_not(make):
    lines = "".join(f"no{number}.png,x\n" for number in range(5))
    with make(f"path,label\n0.png,sky\n{lines}") as collection:
        with pytest.warns(
            UserWarning, match=r"5 of 6 lines of .*'no0.png', 'no1.png', 'no2.png'\. They"
        ):
            report = collection.sync()
        assert report.added == 4
        assert labels_of(collection)["0.png"] == "sky"


# Keeping up --------------------------------------------------------------------------------------


def test_changed_labels_are_taken_over_without_decoding(make, photos, monkeypatch):
    with make("path,label\n0.png,sky\na/1.png,sea\n") as collection:
        collection.sync()
        monkeypatch.setattr(_sync, "transform_readable", lambda *_: pytest.fail("it decodes"))
        monkeypatch.setattr(_sync, "open", lambda *_: pytest.fail("it reads"), raising=False)
        (photos / "labels.csv").write_text("path,label\n0.png,sky\na/1.png,lake\na/2.png,sky\n")
        report = collection.sync()
        assert (report.relabeled, report.unchanged, report.n_changes) == (2, 2, 2)
        assert labels_of(collection) == {
            "0.png": "sky",
            "1.png": "lake",
            "2.png": "sky",
            "3.png": "",
        }
        assert collection.sync().n_changes == 0


def test_new_changed_moved_and_touched_photos_have_their_labels(make, photos):
    text = "path,label\n0.png,zero\na/1.png,one\na/2.png,two\nb c/3.png,three\n"
    with make(text) as collection:
        collection.sync()
        write(photos / "new.png", 7)
        write(photos / "0.png", 8)
        os.rename(photos / "a/1.png", photos / "moved.png")
        os.utime(photos / "a/2.png", ns=(LONG_AGO, LONG_AGO + 99))
        table = "path,label\nnew.png,n\n0.png,z\nmoved.png,m\na/2.png,t\nb c/3.png,three\n"
        (photos / "labels.csv").write_text(table)
        report = collection.sync()
        counts = report.added, report.changed, report.moved, report.relabeled, report.unchanged
        assert counts == (1, 1, 1, 1, 1)
        expected = {"new.png": "n", "0.png": "z", "moved.png": "m", "2.png": "t", "3.png": "three"}
        assert labels_of(collection) == expected


def test_a_table_among_photos_moves_with_them(make, photos, tmp_path):
    make("path,label\n0.png,sky\n", "notes/labels.csv").close()
    there = tmp_path / "there"
    shutil.copytree(photos, there)  # the old ones stay, and are not looked at
    (there / "notes/labels.csv").write_text("path,label\n0.png,cloud\n")
    with PhotoCollection.open(there / ".cbir") as collection:
        collection.sync()
        assert labels_of(collection)["0.png"] == "cloud"


def test_a_table_among_photos_that_were_moved_alone_is_found_with_them(photos, tmp_path):
    (photos / "labels.csv").write_text("path,label\n0.png,sky\n")
    labels = photos / "labels.csv"
    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor(), labels=labels) as made:
        made.sync()
        os.rename(photos, tmp_path / "there")
        made.relocate(tmp_path / "there")
        assert made.sync().n_changes == 0
        assert labels_of(made)["0.png"] == "sky"


def test_a_table_beside_the_collection_moves_with_it(make, photos, tmp_path):
    make("path,label\n0.png,sky\n", "../labels.csv").close()
    os.makedirs(tmp_path / "there")
    for name in ("photos", "labels.csv"):
        os.rename(tmp_path / name, tmp_path / "there" / name)
    with PhotoCollection.open(tmp_path / "there/photos/.cbir") as collection:
        collection.sync()
        assert labels_of(collection)["0.png"] == "sky"


def test_a_table_that_was_moved_can_be_named(make, photos, tmp_path):
    with make("path,label\n0.png,sky\n") as collection:
        collection.sync()
        os.rename(photos / "labels.csv", tmp_path / "other.csv")
        with pytest.raises(FileNotFoundError, match=r"labels.csv' is missing.*relocate"):
            collection.sync()
        collection.relocate(tmp_path / "other.csv")
        assert collection.sync().n_changes == 0


# Faults ------------------------------------------------------------------------------------------

FAULTS = [
    (b"", ValueError, "has an empty first line"),
    (b"\npath,label\n", ValueError, "has an empty first line"),
    (b"name,label\n0.png,x\n", ValueError, "has no column 'path'; its first line names 'name', 'l"),
    (b"path;kind\n0.png;x\n", ValueError, "has no column 'label'; its first line names 'path', 'k"),
    (b"path,label,label\n0.png,x,y\n", ValueError, "has several columns 'label'"),
    (b"path,label\n0.png,x\na/1.png,\xe9\n", ValueError, "is not UTF-8, at line 3"),
    ("path,label\n0.png,x\n".encode("utf-16"), ValueError, "is not UTF-8, at line 1"),
    (b"path,label\n0.png,x\na/1.png,x,y\n", ValueError, "Line 3 of .* has 3 fields, .* 2 columns"),
    (b"path,label\n0.png\n", ValueError, "Line 2 of .* has 1 fields"),
    (b'path,label\n0.png,"x\na/1.png,y\n', ValueError, "is not a CSV file, at line 2"),
]


@pytest.mark.parametrize(("content", "error", "message"), FAULTS)
def test_a_table_that_cannot_be_read_changes_nothing(make, photos, content, error, message):
    with make("path,label\n0.png,sky\n") as collection:
        collection.sync()
        write(photos / "new.png", 7)
        (photos / "labels.csv").write_bytes(content)
        with pytest.raises(error, match=message):
            collection.sync()
        assert labels_of(collection) == {"0.png": "sky", "1.png": "", "2.png": "", "3.png": ""}
    with pytest.raises(error, match=message):
        PhotoCollection.create(
            photos / ".other", photos, GISTDescriptor(), labels=photos / "labels.csv"
        )
    assert not (photos / ".other").exists()


@pytest.mark.parametrize("lines", ["0.png,a\n./0.png,b\n", "0.png,a\n0.png,\n", "no,a\nno,b\n"])
def test_two_labels_of_one_photo_are_an_error_and_equal_lines_are_none(make, photos, lines):
    with make("path,label\n0.png,sky\n0.png,sky\n") as collection:
        collection.sync()
        (photos / "labels.csv").write_text(f"path,label\n{lines}")
        with pytest.raises(ValueError, match="Lines 2 and 3 of .* two labels: 'a' and"):
            collection.sync()
        assert labels_of(collection)["0.png"] == "sky"


@pytest.mark.parametrize("labels", [("a.csv",), ("a.csv", 3), np.zeros(2), {"path": "label"}])
def test_what_is_no_table_is_one_error(photos, labels):
    with pytest.raises(ValueError, match="must be 'folder', a CSV file"):
        PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor(), labels=labels)
