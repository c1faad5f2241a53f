"""The command `cbir`: finds its index, answers in lines, and says in one line what is wrong."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.pipeline import make_pipeline

import sklearn_cbir
from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever, persistence
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.cli import _commands, _extractors, _parser, main
from sklearn_cbir.cli._parser import EXAMPLES, build_parser
from sklearn_cbir.cli._query import as_query, as_where
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor, PerceptualHash
from sklearn_cbir.images import Text

IMAGES, _ = make_shapes(20, random_state=0)
SHAPES_CLIP = Path(__file__).parent / "data" / "shapes_clip"
NAMES = ["a/0.png", "a/1.png", "b/2.png", "b/c/3.png", "4.png"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="names and signals of POSIX")


def write(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(IMAGES[number]).save(path, "PNG")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Five photos in three folders, with an index; nobody changes them."""
    root = tmp_path_factory.mktemp("made")
    for number, name in enumerate(NAMES):
        write(root / name, number)
    for path in (root / name for name in NAMES):
        os.utime(path, (1_600_000_000, 1_600_000_000))  # long ago: what is new is read twice
    extractor = GISTDescriptor()
    with PhotoCollection.create(root / ".cbir", root, extractor, labels="folder") as collection:
        collection.sync()
    return root


@pytest.fixture
def photos(made, tmp_path, monkeypatch):
    """A copy of them, which is the working folder."""
    root = Path(shutil.copytree(made, tmp_path / "photos"))
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def cbir(capsys):
    """Run the command; return its exit code, what it found line by line, and what it told."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, [line.split("\t") for line in said.out.splitlines()], said.err

    return run


@pytest.fixture
def found_bytes(monkeypatch):
    """Run the command; return all that it writes on standard output."""

    def run(*words):
        stream = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr("sys.stdout", stream)
        main([str(word) for word in words])
        stream.flush()
        return stream.buffer.getvalue()

    return run


def names(lines):
    return [Path(line[-1]).name for line in lines]


def fails(answer):
    """Return the error of a command, which is one line and all that it says."""
    code, lines, told = answer
    assert (code, lines) == (2, [])
    assert told.startswith("cbir: ")
    assert told.count("\n") == 1
    return told


def start(*words, **options):
    command = [sys.executable, "-m", "sklearn_cbir", *map(str, words)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, **options)


# Where the index is ------------------------------------------------------------------------------


def test_an_index_is_made_in_the_folder_and_hidden(tmp_path, cbir):
    root = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        write(root / name, number)
    code, lines, told = cbir("index", root, "--features", "gist")
    assert (code, lines) == (0, [])
    assert "5 added" in told
    assert "5 photos, described by GISTDescriptor." in told
    size = sum(path.stat().st_size for path in (root / ".cbir").iterdir()) / 1e6
    assert f"The index is the hidden folder {root / '.cbir'} ({size:.1f} MB)." in told
    search = re.search(r"cbir (search) PHOTO (--index) (\S+), or: cbir serve \3\n", told)
    assert names(cbir("search", root / "4.png", *search.groups()[1:])[1])[0] == "4.png"
    with PhotoCollection.open(root / ".cbir") as collection:
        assert len(collection) == 5
        assert isinstance(collection.extractor, GISTDescriptor)


def test_options_decide_how_an_index_is_made(tmp_path, cbir):
    for number, name in enumerate([*NAMES, "drafts/7.png", "@eaDir/8.png"]):
        write(tmp_path / name, number)
    (tmp_path / "link.png").symlink_to(tmp_path / "4.png")
    options = ["--features", "phash", "--labels", "folder", "--exclude", "drafts", "--follow-links"]
    assert cbir("index", tmp_path, *options)[0] == 0
    with PhotoCollection.open(tmp_path / ".cbir") as collection:
        assert isinstance(collection.extractor, PerceptualHash)
        found = collection.items()
        assert sorted(found["name"].tolist()) == sorted([*map(os.path.basename, NAMES), "link.png"])
        assert set(found["label"].tolist()) == {"", "a", "b"}
    index = tmp_path / "other"
    other = tmp_path / "a"
    assert (
        cbir("index", other, "--features", "gist", "--dtype", "float32", "--index", index)[0] == 0
    )
    with PhotoCollection.open(index) as collection:
        assert collection.about()["kind"] == "float32"
        assert collection.roots == [str(other)]


def test_labels_come_from_a_table(photos, tmp_path, cbir):
    table = tmp_path / "kinds.csv"
    table.write_text("path,kind\na/0.png,round\nb/2.png,square\n")
    index = ["--index", tmp_path / "index"]
    options = ["--features", "gist", "--labels", table]
    assert "label" in fails(cbir("index", photos, *index, *options))
    assert "--labels FILE" in fails(cbir("index", photos, *index, "--label-column", "kind"))
    assert cbir("index", photos, *index, *options, "--label-column", "kind")[0] == 0
    found = cbir("search", "4.png", "--where", "label=round", *index)[1]
    assert names(found) == ["0.png"]
    assert "a table" in "".join(line[0] for line in cbir("info", *index)[1])


def test_rows_may_be_kept_elsewhere(photos, tmp_path, cbir):
    pytest.importorskip("milvus_lite")
    index = ["--index", tmp_path / "index"]
    server = tmp_path / "rows.db"
    assert cbir("index", photos, *index, "--features", "gist", "--uri", server)[0] == 0
    assert names(cbir("search", "4.png", "-k", 1, *index)[1]) == ["4.png"]
    assert str(server) in "".join(line[0] for line in cbir("info", *index)[1])
    moved = server.rename(tmp_path / "moved.db")
    assert cbir("relocate", "--uri", moved, *index)[0] == 0
    assert names(cbir("search", "4.png", "-k", 1, *index)[1]) == ["4.png"]
    assert "--uri" in fails(cbir("relocate", *index))


def test_several_folders_need_a_place_for_their_index(photos, tmp_path, cbir):
    folders = photos / "a", photos / "b"
    told = fails(cbir("index", *folders, "--features", "gist"))
    assert "--index DIR" in told
    assert cbir("index", *folders, "--features", "gist", "--index", tmp_path / "index")[0] == 0
    assert cbir("info", tmp_path / "index", "--json")[0] == 0


def test_commands_look_where_they_are_told_then_in_the_folder_then_upwards(
    photos, tmp_path, cbir, monkeypatch
):
    query = photos / "4.png"
    for index in (photos / ".cbir", photos):
        assert names(cbir("search", query, "-k", 1, "--index", index)[1]) == ["4.png"]
        assert names(cbir("--index", index, "search", query, "-k", 1)[1]) == ["4.png"]
        assert cbir("info", index)[0] == 0
    monkeypatch.chdir(tmp_path)
    assert names(cbir("search", query, "-k", 1)[1]) == ["4.png"]  # above the photo
    monkeypatch.chdir(photos / "b" / "c")
    assert names(cbir("search", query, "-k", 1)[1]) == ["4.png"]
    other = tmp_path / "other"
    write(other / "0.png", 0)
    assert cbir("index", other, "--features", "gist")[0] == 0
    assert cbir("info", other, "--json")[1] != cbir("info", "--json")[1]
    assert cbir("info", other, "--index", photos, "--json")[1] == cbir("info", "--json")[1]


def test_no_index_is_one_error_that_says_how_to_make_one(photos, tmp_path, cbir, monkeypatch):
    told = fails(cbir("info", photos / "a"))  # which has none, though the folder above has one
    assert f"no index in {str(photos / 'a')!r}" in told
    assert "cbir index" in told
    assert "no index in" in fails(cbir("search", "4.png", "--index", tmp_path))
    monkeypatch.chdir(tmp_path)
    # Whoever runs the tests may have an index above the folder of temporary files.
    monkeypatch.setattr("sklearn_cbir.cli._place.is_index", lambda folder: False)
    told = fails(cbir("sync"))
    assert "nor in a folder above" in told
    assert "--index DIR" in told


def test_what_is_no_index_is_not_written_over(tmp_path, cbir):
    write(tmp_path / "0.png", 0)
    table = tmp_path / ".cbir" / "collection.sqlite"
    table.parent.mkdir()
    table.write_bytes(b"something else" * 1000)
    for command in (["index", tmp_path], ["info", tmp_path]):
        assert str(table) in fails(cbir(*command))
    assert table.read_bytes() == b"something else" * 1000


def test_a_place_that_cannot_be_written_is_named_with_the_way_out(tmp_path, cbir, monkeypatch):
    write(tmp_path / "0.png", 0)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr("os.makedirs", refuse)
    told = fails(cbir("index", tmp_path, "--features", "gist"))
    assert f"{str(tmp_path / '.cbir')!r} (Permission denied)" in told
    assert "--index DIR" in told


def test_an_index_that_is_there_is_synced_unless_another_is_asked_for(photos, tmp_path, cbir):
    write(photos / "new.png", 9)
    code, _, told = cbir("index", photos)
    assert code == 0
    assert "already" in told
    assert "1 added" in told
    for option in (["--features", "gist"], ["--follow-links"], ["--dtype", "float32"]):
        told = fails(cbir("index", photos, *option))
        assert option[0] in told
        assert "cbir sync" in told
    told = fails(cbir("index", photos / "a", "--index", photos / ".cbir"))
    assert f"belongs to {photos}" in told


@pytest.mark.parametrize("folder", ["missing", "a/0.png"])
def test_only_folders_are_indexed(photos, cbir, folder):
    assert folder in fails(cbir("index", folder, "--features", "gist"))
    assert not (photos / "missing").exists()


def test_a_folder_without_photos_is_nothing_found(tmp_path, cbir):
    code, _, told = cbir("index", tmp_path, "--features", "gist")
    assert code == 1
    assert "no photos" in told
    code, lines, told = cbir("search", write(tmp_path / "0.png", 0), "--index", tmp_path)
    assert (code, lines) == (1, [])
    assert "`cbir sync`" in told


# What is asked -----------------------------------------------------------------------------------


def test_results_are_lines_of_distance_number_and_path(photos, cbir):
    code, lines, told = cbir("search", "b/2.png", "-k", 3)
    with PhotoCollection.open(photos / ".cbir") as collection:
        (hits,) = collection.search(["b/2.png"], k=3)
    assert (code, told) == (0, "")
    assert lines == [[f"{hit.distance:.4f}", str(hit.number), hit.path] for hit in hits]
    assert lines[0][2] == str(photos / "b" / "2.png")


def test_distances_of_codes_are_whole_numbers(tmp_path, cbir):
    for number, name in enumerate(NAMES):
        write(tmp_path / name, number)
    cbir("index", tmp_path, "--features", "phash")
    _, lines, _ = cbir("search", tmp_path / "4.png", "--index", tmp_path)
    assert lines[0][0] == "0"
    assert all(line[0].isdecimal() for line in lines)


def test_results_are_objects_of_json_or_paths_alone(photos, cbir, found_bytes):
    code, lines, _ = cbir("search", "a/1.png", "-k", 2, "--json")
    found = [json.loads(line[0]) for line in lines]
    assert code == 0
    assert list(found[0]) == ["distance", "number", "path", "label"]
    assert found[0]["path"] == str(photos / "a" / "1.png")
    assert found[0]["label"] == "a"
    assert str(found[0]["number"]) == cbir("search", "a/1.png")[1][0][1]
    assert (
        found_bytes("search", "a/1.png", "-k", 1, "-0")
        == os.fsencode(photos / "a" / "1.png") + b"\0"
    )


def write_odd_name(photos):
    path = os.fsencode(photos) + b"/line\nbreak \xff\x1b[31m.png"
    try:
        Path(os.fsdecode(path)).write_bytes((photos / "4.png").read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    return path


@POSIX
def test_odd_names_are_escaped_in_lines_and_exact_between_nul(photos, cbir, found_bytes):
    path = write_odd_name(photos)
    cbir("sync")
    shown = str(photos / r"line\nbreak \udcff\x1b[31m.png")
    lines = cbir("search", os.fsdecode(path), "-k", 2)[1]
    assert [line[2] for line in lines] == [str(photos / "4.png"), shown]
    objects = cbir("search", os.fsdecode(path), "-k", 2, "--json")[1]
    assert os.fsencode(json.loads(objects[1][0])["path"]) == path
    paths = found_bytes("search", os.fsdecode(path), "-k", 2, "--null").split(b"\0")
    assert paths == [os.fsencode(photos / "4.png"), path, b""]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["4.png"], "4.png"),
        (["a/0.png"], "a/0.png"),
        (["no ending"], "no ending"),  # it exists
        (["a", "red", "dress"], Text("a red dress")),
        (["a red dress"], Text("a red dress")),
        (["b", "red"], Text("b red")),  # folders are no photos
        (["4.png", "--text"], Text("4.png")),
        (["a", "4.png", "--text"], Text("a 4.png")),
        (["no ending", "--photo"], "no ending"),
    ],
)
def test_a_photo_is_told_from_words(photos, words, expected):
    write(photos / "no ending", 0)
    assert as_query(build_parser().parse_args(["search", *words])) == expected


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["5.png"], "no photo '5.png'"),
        (["5.HEIC"], "no photo '5.HEIC'"),
        (["red/dress"], "no photo 'red/dress'"),
        (["dress", "--photo"], "no photo 'dress'"),
        (["b"], "'b' is a folder"),
        (["4.png", "red"], "one photo at a time"),
        (["4.png", "a/0.png"], "one photo at a time"),
    ],
)
def test_what_is_neither_a_photo_nor_words_is_an_error(photos, cbir, words, told):
    error = fails(cbir("search", *words))
    assert told in error
    assert "--text" in error


def test_a_query_that_is_no_image_is_named(photos, cbir):
    Path("text.png").write_text("no image")
    told = fails(cbir("search", "text.png"))
    assert told.startswith("cbir: The photo 'text.png' cannot be read: ")
    assert "X[0]" not in told


def test_words_need_a_network_that_knows_some(photos, cbir):
    told = fails(cbir("search", "a", "red", "dress"))
    assert "GISTDescriptor" in told
    assert "open_clip/ViT-B-32" in told


def test_words_find_photos(tmp_path, cbir, monkeypatch):
    drawings, kinds = make_shapes(40, n_classes=8, random_state=1)
    for number, (drawing, kind) in enumerate(zip(drawings, kinds)):
        Image.fromarray(drawing).save(tmp_path / f"{kind}-{number}.png")
    monkeypatch.chdir(tmp_path)
    backbone = f"open_clip/local-dir:{SHAPES_CLIP}"
    assert cbir("index", ".", "--backbone", backbone)[0] == 0
    lines = cbir("search", "a", "red", "circle", "-k", 3)[1]
    assert len({name[0] for name in names(lines)}) == 1
    assert lines == cbir("search", "a red circle", "-k", 3)[1]
    assert lines != cbir("search", "a blue triangle", "-k", 3)[1]


# Conditions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "where"),
    [
        (None, None),
        (["folder=holiday"], {"folder": "holiday"}),
        (["folder=./holiday/sea/"], {"folder": "holiday/sea"}),
        (["folder=/photos/holiday/sea"], {"folder": "holiday/sea"}),
        (["folder=/photos"], {"folder": ""}),
        (["folder=a,b"], {"folder": ["a", "b"]}),
        ([r"folder=a\,b"], {"folder": "a,b"}),
        (["name=a..b=c.png"], {"name": "a..b=c.png"}),
        (["label=shoes,"], {"label": ["shoes", None]}),
        (["label="], {"label": None}),
        (["taken=2023"], {"taken": "2023"}),
        (["taken=2023-05..2024"], {"taken": ("2023-05", "2024")}),
        (["taken=2024-05-01T09:30.."], {"taken": ("2024-05-01 09:30", None)}),
        (["taken="], {"taken": None}),
        (["width=1000"], {"width": 1000}),
        (["width=100,200"], {"width": [100, 200]}),
        (["width=..800", "height=600.."], {"width": (None, 800), "height": (600, None)}),
    ],
)
@POSIX
def test_conditions_are_read(conditions, where):
    assert as_where(conditions, ["/photos"]) == where


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("folder", "write COLUMN=VALUE"),
        ("size=3", "no column 'size', but folder, label, name, taken, width, height"),
        ("year=2023", "write taken=2023"),
        ("width=wide", "'wide' is not a number of pixels"),
        ("width=-3", "'-3' is not a number of pixels"),
        ("width=..", "a range needs an end"),
        ("taken=May", "'May' is not a time such as"),
        ("folder=/elsewhere", "is not in a folder of the index"),
    ],
)
def test_conditions_that_cannot_be_read_are_named(photos, cbir, condition, told):
    error = fails(cbir("search", "4.png", "--where", condition))
    assert f"--where {condition}" in error
    assert told in error


def test_a_column_has_one_condition(photos, cbir):
    error = fails(cbir("like", 1, "--where", "folder=a", "--where", "folder=b"))
    assert "folder=A,B" in error
    assert "LOW..HIGH" in fails(cbir("like", 1, "--where", "width=1..", "--where", "width=..2"))


def test_a_year_is_all_of_it(photos, cbir):
    exif = Image.Exif()
    for number, taken in enumerate(["2023:05:01 09:30:00", "2024:01:01 00:00:00"], 10):
        exif[306] = taken
        Image.fromarray(IMAGES[number]).save(photos / f"{number}.jpg", exif=exif)
    cbir("sync")
    for condition, expected in {
        "taken=2023": ["10.jpg"],
        "taken=2023,2024-01": ["10.jpg", "11.jpg"],
        "taken=2023-05-01T09:30": ["10.jpg"],
        "taken=2023-06..": ["11.jpg"],
        "taken=..2024": ["10.jpg", "11.jpg"],
        "taken=": ["0.png", "1.png", "2.png", "3.png", "4.png"],
    }.items():
        assert sorted(names(cbir("search", "4.png", "--where", condition)[1])) == expected, (
            condition
        )


def test_conditions_say_which_photos_are_found(photos, cbir):
    found = names(cbir("search", "4.png", "--where", "folder=b")[1])
    assert sorted(found) == ["2.png", "3.png"]
    assert names(cbir("search", "4.png", "--where", f"folder={photos / 'b' / 'c'}")[1]) == ["3.png"]
    found = names(cbir("like", 1, "--where", "folder=a,b", "--where", "name=1.png,2.png")[1])
    assert sorted(found) == ["1.png", "2.png"]
    code, lines, told = cbir("search", "4.png", "--where", "width=1000..")
    assert (code, lines) == (1, [])
    assert "Nothing was found" in told


# Likes, duplicates, scores -----------------------------------------------------------------------


def test_likes_are_numbers_of_photos(photos, cbir):
    with PhotoCollection.open(photos / ".cbir") as collection:
        hits = collection.like([1, 2], unlike=[3], k=2)
    lines = cbir("like", 1, 2, "--unlike", 3, "-k", 2)[1]
    assert [int(line[1]) for line in lines] == [hit.number for hit in hits]
    assert "no photo 99 in this index" in fails(cbir("like", 1, 99))
    assert "1" in fails(cbir("like", 1, "--unlike", 1))


def test_duplicates_are_groups_with_the_one_to_keep_first(photos, cbir, found_bytes):
    code, lines, told = cbir("duplicates")
    assert (code, lines) == (1, [])
    assert "No duplicates were found" in told
    for name in ("b/twice.png", "thrice.png"):
        (photos / name).write_bytes((photos / "a" / "1.png").read_bytes())
    cbir("sync")
    code, lines, told = cbir("duplicates")
    assert code == 0
    assert [(line[0], line[1]) for line in lines] == [("1", "0.0000")] * 3
    assert names(lines) == ["1.png", "twice.png", "thrice.png"]
    assert (
        told
        == "1 group of likely duplicates: 3 photos, 2 of them likely copies. Nothing is deleted.\n"
    )
    assert cbir("duplicates", "--where", "name=1.png,twice.png")[2] == (
        "1 group of likely duplicates: 2 photos, 1 of them a likely copy. Nothing is deleted.\n"
    )
    assert cbir("duplicates", "--quiet")[2] == ""
    assert names(cbir("duplicates", "--others")[1]) == ["twice.png", "thrice.png"]
    assert json.loads(cbir("duplicates", "--json")[1][2][0])["group"] == 1
    assert found_bytes("duplicates", "--others", "-0", "--where", "folder=b") == b""  # alone there
    assert found_bytes("duplicates", "--others", "-0").count(b"\0") == 2


def test_scores_are_of_labels(photos, tmp_path, cbir):
    with PhotoCollection.open(photos / ".cbir") as collection:
        expected = collection.score("precision@1")
    assert cbir("score", "--metric", "precision@1")[1] == [[f"{expected:.4f}"]]
    found = json.loads(cbir("score", "--metric", "precision@1", "--json")[1][0][0])
    assert found == {"metric": "precision@1", "score": expected}
    told = cbir("score")[2]
    assert told == (
        "mean average precision, over 4 photos that search for others with their label:\n"
    )
    assert cbir("score", "--metric", "precision@1")[2].startswith("precision@1, over 4 photos")
    assert cbir("score", "--quiet")[2] == ""
    assert "best" in fails(cbir("score", "--metric", "best"))
    cbir("index", photos, "--index", tmp_path / "index", "--features", "gist")
    assert "--labels folder" in fails(cbir("score", tmp_path / "index"))


def test_scores_of_labels_are_listed_the_lowest_first(photos, cbir):
    write(photos / "alone" / "8.png", 8)
    write(photos / "b" / "9.png", 9)
    cbir("sync")
    with PhotoCollection.open(photos / ".cbir") as collection:
        with pytest.warns(UndefinedMetricWarning):
            found = collection.evaluate()
        with pytest.warns(UndefinedMetricWarning):
            assert found.score == collection.score()
        expected = dict(zip(found.classes.tolist(), found.per_class.tolist()))
    code, lines, told = cbir("score", "--per-class")
    assert code == 0
    low, high = sorted(["a", "b"], key=expected.__getitem__)
    assert expected[low] < expected[high]
    assert lines == [[f"{expected[low]:.4f}", low], [f"{expected[high]:.4f}", high], ["-", "alone"]]
    assert told.startswith(
        "1 photo left out: no other photo has their label.\n"
        f"mean average precision {found.score:.4f}, over 5 photos"
    )
    records = [json.loads(line[0]) for line in cbir("score", "--per-class", "--json")[1]]
    assert records[0] == {"metric": "map", "label": low, "score": expected[low]}
    assert records[2] == {"metric": "map", "label": "alone", "score": None}
    assert cbir("score", "--per-class", "--quiet")[1:] == (lines, "")


# Keeping up --------------------------------------------------------------------------------------


def test_sync_takes_in_what_is_new_and_says_so(photos, cbir):
    write(photos / "new.png", 9)
    (photos / "a" / "0.png").rename(photos / "moved.png")
    (photos / "4.png").unlink()
    (photos / "broken.png").write_text("no image")
    (photos / "film.mov").write_text("")
    code, lines, told = cbir("sync", photos)
    assert (code, lines) == (0, [])
    assert "2 added, 1 moved, 1 removed, 3 as before" in told
    assert "1 photo cannot be read" in told
    assert "1 x .mov" in told
    code, lines, told = cbir("sync", "--json", "--quiet")
    assert told == ""
    assert json.loads(lines[0][0])["unchanged"] == 6
    code, lines, _ = cbir("info", "--unreadable")
    assert code == 0
    assert lines[0][1] == str(photos / "broken.png")
    assert lines[0][2]
    write(photos / "broken.png", 10)
    cbir("sync", "--retry")
    assert cbir("info", "--unreadable")[:2] == (1, [])


def test_info_says_what_the_index_is(photos, cbir):
    code, lines, _ = cbir("info")
    text = "\n".join(line[0] for line in lines)
    assert code == 0
    assert re.search(f"^photos in: +{photos}$", text, flags=re.MULTILINE)
    assert "5 can be searched, 0 cannot be read" in text
    assert "GISTDescriptor" in text
    (line,) = cbir("info", "--json")[1]
    about = json.loads(line[0])
    assert (about["n_photos"], about["labels"]) == (5, "folder")
    assert about["bytes"] > 1000


def test_check_says_whether_all_is_as_it_was(photos, cbir):
    code, lines, told = cbir("check")
    assert (code, lines) == (0, [])
    assert "not damaged" in told
    (rows,) = (photos / ".cbir").glob("rows-*.npy")
    content = bytearray(rows.read_bytes())
    content[150] ^= 1
    rows.write_bytes(content)
    code, lines, told = cbir("check")
    assert (code, lines) == (1, [])
    assert told.startswith("cbir: ")
    assert "no index" in fails(cbir("check", photos / "a"))
    assert str(photos / ".cbir") in told


def test_compact_takes_away_rows(photos, cbir):
    (photos / "4.png").unlink()
    cbir("sync")
    assert "1 row" in cbir("compact")[2]
    assert "0 rows" in cbir("compact")[2]


def test_photos_that_were_moved_alone_are_found_again(photos, tmp_path, cbir, monkeypatch):
    index = tmp_path / "index"
    cbir("index", photos / "b", "--index", index, "--features", "gist")
    monkeypatch.chdir(tmp_path)
    (photos / "b").rename(tmp_path / "moved")
    assert "relocate" in fails(cbir("sync", index))
    assert cbir("relocate", tmp_path / "moved", "--index", index)[0] == 0
    assert "2 as before" in cbir("sync", index)[2]
    assert "none" in fails(cbir("relocate", photos / "a", "--index", index)).lower()


# Export ------------------------------------------------------------------------------------------


def test_csv_and_json_hold_what_is_known_of_photos(photos, tmp_path, cbir):
    (photos / "broken,.png").write_text("no image")
    cbir("sync")
    with PhotoCollection.open(photos / ".cbir") as collection:
        items = collection.items()
    assert cbir("export", tmp_path / "a.csv")[0] == 0
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    cbir("export", tmp_path / "a.json")
    objects = json.loads((tmp_path / "a.json").read_text())
    assert list(objects[0]) == list(lines[0]) == list(items)
    assert [line["path"] for line in lines] == items["path"].tolist()
    assert [one["path"] for one in objects] == items["path"].tolist()
    assert [one["width"] for one in objects] == [*items["width"].tolist()[:-1], None]
    assert (objects[-1]["state"], objects[-1]["taken"], lines[-1]["width"]) == (
        "unreadable",
        None,
        "",
    )
    lines = cbir("export", "-")[1]
    assert "\n".join(line[0] for line in lines) + "\n" == (tmp_path / "a.csv").read_text()


def test_rows_are_exported_with_what_they_are_of(photos, tmp_path, cbir):
    (photos / "a" / "broken.png").write_text("no image")
    cbir("sync")
    assert "5 photos" in cbir("export", tmp_path / "rows.npz")[2]
    with np.load(tmp_path / "rows.npz") as found:
        rows, paths = found["rows"], found["path"].tolist()
        assert found["state"].tolist() == ["ready"] * 5
    assert sorted(os.path.relpath(path, photos) for path in paths) == sorted(NAMES)
    expected = GISTDescriptor().transform(paths)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, expected, atol=1e-3)


def test_a_search_is_exported_that_finds_paths(photos, tmp_path, cbir):
    cbir("export", tmp_path / "search.cbir")
    search = persistence.load(tmp_path / "search.cbir")
    query = photos / "b" / "2.png"
    found = search.predict([query])[0].tolist()
    assert found == [line[2] for line in cbir("search", query)[1]]
    other = tmp_path / "index"
    assert cbir("index", photos, "--index", other, "--extractor", tmp_path / "search.cbir")[0] == 0
    assert [line[2] for line in cbir("search", query, "--index", other)[1]] == found


@POSIX
def test_odd_names_are_exported_as_they_are(photos, tmp_path, cbir):
    path = write_odd_name(photos)
    cbir("sync")
    cbir("export", tmp_path / "a.csv")
    assert path in (tmp_path / "a.csv").read_bytes()
    cbir("export", tmp_path / "a.json")
    objects = json.loads((tmp_path / "a.json").read_text(encoding="ascii"))
    assert os.fsencode(objects[-1]["path"]) == path
    cbir("export", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        assert os.fsencode(found["path"][-1]) == path


@POSIX
def test_csv_on_a_terminal_is_escaped(photos, cbir, monkeypatch):
    extra = photos / "a\x1b[31m.png"
    extra.write_bytes((photos / "4.png").read_bytes())
    cbir("sync")
    assert any("\x1b[31m" in line[0] for line in cbir("export", "-")[1])
    monkeypatch.setattr("sklearn_cbir.cli._export.is_terminal", lambda stream: True)
    lines = cbir("export", "-")[1]
    assert not any("\x1b" in line[0] for line in lines)
    assert any(r"\x1b[31m" in line[0] for line in lines)


def test_a_file_that_is_there_is_kept_unless_it_is_forced(photos, tmp_path, cbir):
    out = tmp_path / "a.csv"
    out.write_text("mine")
    assert "--force" in fails(cbir("export", out))
    assert out.read_text() == "mine"
    assert cbir("export", out, "--force")[0] == 0
    assert out.read_text().startswith("number,path")
    told = fails(cbir("export", tmp_path / "a.xls"))
    assert ".csv, .json, .npz, .cbir" in told


# Networks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A state dict of the net "small"."""
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.manual_seed(0)
    torch.save(build_backbone("small", weights=None).state_dict(), path)
    return path


def test_a_network_is_used_as_its_weights_are(photos, tmp_path, cbir, weights):
    index = tmp_path / "index"
    options = ["--backbone", "small", "--weights", weights, "--device", "cpu"]
    assert cbir("index", photos, "--index", index, *options)[0] == 0
    with PhotoCollection.open(index) as collection:
        extractor = collection.extractor
        assert (extractor.backbone, extractor.loss, extractor.weights) == (
            "small",
            None,
            str(weights),
        )
        rows = collection.retriever().rows()
        paths = collection.items()["path"].tolist()
    alone = CNNFeatureExtractor("small", weights=weights, loss=None, device="cpu").fit(paths)
    np.testing.assert_allclose(rows, alone.transform(paths), atol=1e-3)
    told = fails(cbir("duplicates", index))
    assert "--radius" in told
    copy = write(photos / "copy.png", 0)
    for command in re.findall(r"`cbir ([^`]*(?:phash|duplicates)[^`]*)`", told):
        code, lines, _ = cbir(*shlex.split(command))
        assert code == 0
    assert sorted(names(lines)) == ["0.png", "copy.png"]
    copy.unlink()
    cbir("sync", index)
    assert cbir("duplicates", index, "--radius", 1e-9)[0] == 1
    assert "CNNFeatureExtractor('small')" in cbir("info", index)[1][3][0]


def test_what_needs_no_network_loads_no_torch(photos, tmp_path, cbir, weights):
    index = tmp_path / "index"
    cbir("index", photos, "--index", index, "--backbone", "small", "--weights", weights)
    program = """
import sys
from sklearn_cbir.cli import main
for words in (["--help"], ["info"], ["sync"], ["export", "-"], ["like", "1"], ["compact"]):
    assert main([*words, "--index", sys.argv[1]]) == 0, words
    assert "torch" not in sys.modules, words
    assert words[0] != "--help" or "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, index], check=True, capture_output=True)


def test_an_index_that_names_no_network_has_the_default(photos, tmp_path, cbir, monkeypatch):
    asked = []
    monkeypatch.setattr(_extractors, "default_network", lambda: ("no such network", "pretrained"))
    told = fails(cbir("index", photos, "--index", tmp_path / "index"))
    assert "no such network" in told
    monkeypatch.undo()
    monkeypatch.setattr(_extractors, "find_spec", lambda name: asked.append(name))
    assert _extractors.default_network() == ("mobilenet_v2", "pretrained")
    monkeypatch.setattr(_extractors, "find_spec", lambda name: name)
    assert _extractors.default_network() == ("timm/tf_efficientnet_lite0", "packaged")
    assert asked


def test_without_weights_and_connection_the_ways_out_are_named(photos, tmp_path, cbir, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))

    def no_answer(ask, patience):
        raise TimeoutError("no answer within 1.5 seconds")

    monkeypatch.setattr("sklearn_cbir.backbones._hub.first_answer", no_answer)
    index = tmp_path / "index"
    told = fails(cbir("index", photos, "--index", index, "--backbone", "mobilenet_v2"))
    for way in ("--weights FILE", "--features gist", "sklearn-cbir[demo]", "no answer within"):
        assert way in told
    assert "weights=None" not in told
    assert not index.exists()


def test_a_network_is_never_a_random_one(photos, tmp_path, cbir):
    for options in (["--backbone", "small"], ["--backbone", "small", "--weights", "None"]):
        told = fails(cbir("index", photos, "--index", tmp_path / "index", *options))
        assert "weights" in told
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "options",
    [
        "--features gist --backbone small",
        "--extractor a.cbir --features gist",
        "--weights a.pt",
        "--features gist --weights a.pt",
        "--features gist --device cpu",
        "--features gist --trust",
    ],
)
def test_options_that_exclude_each_other_are_named(photos, tmp_path, cbir, options):
    told = fails(cbir("index", photos, "--index", tmp_path / "index", *options.split()))
    assert all(option in told for option in options.split() if option in ("--trust", "--weights"))
    assert "--trust" in options or options.split()[0] in told
    assert not (tmp_path / "index").exists()


def test_pickles_are_opened_only_if_they_are_trusted(photos, tmp_path, cbir):
    path = tmp_path / "search.joblib"
    rows = GISTDescriptor().transform(IMAGES[:3])
    joblib.dump(make_pipeline(GISTDescriptor(), NeighborsRetriever(1).fit(rows)), path)
    index = tmp_path / "index"
    told = fails(cbir("index", photos, "--index", index, "--extractor", path))
    assert "--trust" in told
    assert not index.exists()
    assert cbir("index", photos, "--index", index, "--extractor", path, "--trust")[0] == 0
    assert names(cbir("search", "4.png", "-k", 1, "--index", index)[1]) == ["4.png"]
    persistence.save(NeighborsRetriever(1).fit(rows), tmp_path / "alone.cbir")
    told = fails(
        cbir("index", photos, "--index", index / "b", "--extractor", tmp_path / "alone.cbir")
    )
    assert "does not make rows" in told
    path.rename(tmp_path / "renamed.cbir")
    renamed = tmp_path / "renamed.cbir"
    assert "renamed" in fails(cbir("index", photos, "--index", index / "b", "--extractor", renamed))


# Sheets ------------------------------------------------------------------------------------------


def test_results_are_drawn(photos, tmp_path, cbir):
    sheets = [tmp_path / f"{name}.png" for name in ("found", "like", "liked", "twice")]
    assert "Drew" in cbir("search", "4.png", "-k", 3, "--sheet", sheets[0])[2]
    assert cbir("like", 1, 2, "--unlike", 3, "--sheet", sheets[1])[0] == 0
    assert cbir("like", 1, "--sheet", sheets[2])[0] == 0
    assert cbir("duplicates", "--radius", 2, "--sheet", sheets[3])[0] == 0
    for sheet in sheets:
        with Image.open(sheet) as image:
            assert min(image.size) > 100
            assert len(image.convert("RGB").getcolors(2**24)) > 10


def test_what_cannot_be_drawn_is_said_before_the_search(photos, tmp_path, cbir, monkeypatch):
    assert ".png" in fails(cbir("search", "4.png", "--sheet", "found.xyz"))
    assert "no folder" in fails(cbir("search", "4.png", "--sheet", tmp_path / "missing" / "a.png"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = fails(cbir("search", "4.png", "--sheet", tmp_path / "a.png"))
    assert "pip install 'sklearn-cbir[plot]'" in told


# Errors and streams ------------------------------------------------------------------------------


def test_help_shows_every_command_with_examples(cbir):
    code, lines, told = cbir("--help")
    text = "\n".join(line[0] for line in lines)
    assert (code, told) == (0, "")
    assert set(EXAMPLES) == set(_commands.COMMANDS)
    for command in EXAMPLES:
        assert f"    {command}" in text
        code, lines, _ = cbir(command, "--help")
        assert code == 0
        assert any(line[0].startswith(f"  cbir {command}") for line in lines if line[0])
    code, lines, told = cbir()
    assert (code, lines) == (2, [])
    assert "cbir index ~/Pictures" in told


def test_examples_of_the_help_and_the_guide_can_be_typed():
    guide = Path(__file__).parents[1] / "docs" / "guide" / "command_line.md"
    texts = "\n".join([_parser.ABOUT, *EXAMPLES.values(), guide.read_text(encoding="utf-8")])
    examples = re.findall(r"^(?:  |\$ )cbir (.*?)(?:   .*|[|&].*)?$", texts, flags=re.MULTILINE)
    assert len(examples) > 40
    for example in examples:
        assert build_parser().parse_args(shlex.split(example)).command in example


def test_the_guide_names_every_command_and_option():
    guide = Path(__file__).parents[1] / "docs" / "guide" / "command_line.md"
    text = guide.read_text(encoding="utf-8")
    helps = [build_parser().format_help()]
    for command in EXAMPLES:
        assert re.search(f"`{command}[` ]|cbir {command}", text), command
        with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as help_of_one:
            build_parser().parse_args([command, "--help"])
        helps.append(help_of_one.getvalue())
    options = set(re.findall(r"(?<![\w-])--[a-z-]+", "".join(helps))) - {"--version", "--of"}
    assert [option for option in sorted(options) if option not in text] == []


@pytest.mark.parametrize(
    "words", [["find"], ["search"], ["like", "one"], ["search", "4.png", "-k", "0"], ["sync", "-x"]]
)
def test_wrong_uses_are_one_line(cbir, words):
    assert "--help" in fails(cbir(*words))


@pytest.mark.parametrize("error", [ValueError("bad"), OSError(28, "No space"), ImportError("bad")])
def test_known_errors_are_one_line_and_a_traceback_on_demand(
    photos, cbir, monkeypatch, error, capsys
):
    def fail(options):
        raise error

    monkeypatch.setitem(_commands.COMMANDS, "info", fail)
    told = fails(cbir("info"))
    assert "bad" in told or "No space" in told
    code, _, told = cbir("info", "--debug")
    assert code == 2
    assert "Traceback" in told
    monkeypatch.setenv("CBIR_DEBUG", "1")
    assert "Traceback" in cbir("info")[2]
    monkeypatch.setenv("CBIR_DEBUG", "0")
    assert "Traceback" not in cbir("info")[2]


def test_warnings_are_one_line(photos, cbir, monkeypatch):
    def warn(options):
        warnings.warn("something\nis odd", stacklevel=1)
        return 0

    monkeypatch.setitem(_commands.COMMANDS, "info", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cbir("info") == (0, [], "cbir: warning: something is odd\n")


def test_errors_that_nobody_expects_keep_their_traceback(photos, monkeypatch):
    def fail(options):
        raise RuntimeError("a fault of ours")

    monkeypatch.setitem(_commands.COMMANDS, "info", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["info"])


@POSIX
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_streams_that_lack_characters_get_escapes(photos, cbir, monkeypatch, encoding):
    name = "\u6d77\u0153.png"
    (photos / name).write_bytes((photos / "4.png").read_bytes())
    cbir("sync")
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, newline="\n") for _ in range(2)]
    monkeypatch.setattr("sys.stdout", streams[0])
    monkeypatch.setattr("sys.stderr", streams[1])
    assert main(["search", name, "-k", "2"]) == 0
    assert main(["export", "-"]) == 0
    assert main(["search", "\u6d77/"]) == 2
    found, told = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    escaped = name.encode(encoding, "backslashreplace").decode(encoding)
    assert found.count(escaped) == 3
    assert told.startswith("cbir: There is no photo")


def test_threads_are_said_to_libraries_and_forgotten(photos, cbir, monkeypatch):
    seen = []
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)

    def look(options):
        seen.append((os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]))
        return 0

    monkeypatch.setitem(_commands.COMMANDS, "sync", look)
    assert cbir("sync", "--threads", 2)[0] == 0
    assert seen == [("2", "2")]
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ


def test_the_command_is_installed_under_its_name():
    root = Path(sklearn_cbir.__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"cbir": "sklearn_cbir.cli:main"}


# Processes of their own --------------------------------------------------------------------------


@POSIX
def test_a_closed_pipe_says_nothing(photos):
    for words in (["search", "4.png"], ["--help"]):
        read, written = os.pipe()
        os.close(read)
        with start(*words, stdout=written) as process:
            os.close(written)
            assert process.stderr.read() == b"", words
        assert process.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_results_that_cannot_be_written_are_an_error(photos, cbir, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        told = cbir("info")[2]
        monkeypatch.undo()
    assert told == "cbir: The results cannot be written (No space left on device).\n"


def test_an_interruption_says_what_is_kept(photos, cbir, monkeypatch):
    for number in range(5, 12):
        write(photos / f"{number}.png", number)
    taken = []

    def interrupt(self, X):
        if taken:
            raise KeyboardInterrupt
        taken.extend(X)
        return transform(self, X)

    transform = GISTDescriptor.transform
    monkeypatch.setattr("sklearn_cbir.collection._sync.PHOTOS_AT_ONCE", 2)
    monkeypatch.setattr(GISTDescriptor, "transform", interrupt)
    code, lines, told = cbir("sync")
    assert (code, lines) == (130, [])
    assert told == (
        "cbir: Stopped. 7 photos are in the index, and are kept; the next `cbir sync` continues.\n"
    )
    monkeypatch.setattr(GISTDescriptor, "transform", transform)
    assert "5 added, 7 as before" in cbir("sync")[2]


@POSIX
def test_ctrl_c_ends_a_sync_with_one_line(photos):
    write(photos / "new.png", 9)
    program = """
import signal, sys, time
from sklearn_cbir.cli import main
from sklearn_cbir.descriptors import GISTDescriptor

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it

def wait(self, X):
    print("busy", flush=True)
    time.sleep(60)

GISTDescriptor.transform = wait
sys.exit(main(["sync"]))
"""
    command = [sys.executable, "-c", program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        told = process.stderr.read().decode()
    assert process.returncode == 130
    assert told.startswith("cbir: Stopped. 5 photos are in the index")
    assert told.count("\n") == 1


@POSIX
def test_bars_are_drawn_on_a_terminal_alone(photos, cbir):
    import pty

    write(photos / "new.png", 9)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sklearn_cbir", "sync"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stderr=theirs, env=environment):
        os.close(theirs)
        told = b""
        while part := _read(ours):
            told += part
    os.close(ours)
    assert b"Taking in photos" in told
    assert b"100%" in told
    assert b"1 added, 5 as before" in told
    write(photos / "newer.png", 10)
    assert cbir("sync")[2] == "Photos: 1 added, 6 as before.\n"


def _read(terminal):
    try:
        return os.read(terminal, 2**16)
    except OSError:  # its other end is closed
        return b""
