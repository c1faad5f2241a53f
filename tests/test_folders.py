"""Real folders: what servers keep there, what cannot be looked at, any names, any tree."""

import itertools
import os
import socket
import sys
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sklearn_cbir.datasets import (
    IGNORED_NAMES,
    _folders,
    load_holidays,
    load_image_folder,
    load_oxford5k,
)
from sklearn_cbir.images import check_images


@pytest.fixture
def fill(tmp_path):
    """Return a function that creates empty files, and returns their folder."""

    def make(*names, folder="photos"):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(tmp_path / folder)

    return make


def listed(folder, **options):
    photos = load_image_folder(folder, shuffle=False, **options)
    return [os.path.relpath(path, folder) for path in photos.data]


# What other programs keep beside photos ---------------------------------------------------------

KEPT = ["cat/1.jpg", "dog/2.jpg"]
OTHERS = [
    "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
    "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg",
    "cat/@EADIR/2.jpg",
    "#recycle/old.jpg",
    "#snapshot/daily/1.jpg",
    "@Recycle/1.jpg",
    "@Recently-Snapshot/1.jpg",
    "$RECYCLE.BIN/S-1-5/$R1.jpg",
    "$Recycle.Bin/2.jpg",
    "System Volume Information/1.jpg",
    "lost+found/1.jpg",
    "_gsdata_/_saved_/1.jpg",
    "__MACOSX/cat/1.jpg",
    "__MACOSX/cat/._1.jpg",
    "cat/._1.jpg",
    ".Trash-1000/files/1.jpg",
    ".thumbnails/normal/1.png",
    ".picasaoriginals/1.jpg",
    ".dropbox.cache/1.jpg",
    ".stversions/1.jpg",
    ".sync/Archive/1.jpg",
    ".AppleDouble/1.jpg",
    ".@__thumb/1.jpg",
    "dog/.git/1.jpg",
    "Catalog Previews.lrdata/A/1.jpg",
    "Fotos.photoslibrary/resources/derivatives/1.jpg",
    "node_modules/pkg/logo.png",
    "venv/lib/python3/site-packages/pkg/logo.png",
    "2024/CaptureOne/Cache/Thumbnails/1.jpg",
    "Shop.cocatalog/Cache/Previews/1.jpg",
    "Catalog.lrcat-data/1.jpg",
    "appdata_oc1/preview/1.jpg",
]


@pytest.mark.parametrize("name", OTHERS)
def test_what_servers_and_programs_keep_is_no_photo_and_no_class(fill, name):
    folder = fill(*KEPT, name)
    photos = load_image_folder(folder, shuffle=False)
    assert listed(folder) == KEPT
    assert photos.target_names == ["cat", "dog"]
    assert photos.n_ignored == 0
    assert sum(photos.excluded.values()) == 1
    assert "1 files and folders excluded (" in photos.DESCR
    assert len(listed(folder, exclude=(), labels=False)) == 3


def test_names_that_only_look_alike_stay(fill):
    names = ["eaDir/1.jpg", "recycle/1.jpg", "trash/1.jpg", "x/my @eaDir/1.jpg", "x/synophoto.jpg"]
    assert listed(fill(*names)) == sorted(names)


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["out"], ["a/1.jpg", "a/raw/2.jpg", "b/3_thumb.jpg"]),
        ("OUT/", ["a/1.jpg", "a/raw/2.jpg", "b/3_thumb.jpg"]),
        (["a/raw", "*_thumb.*"], ["a/1.jpg", "out/4.jpg"]),
        (["*/raw"], ["a/1.jpg", "b/3_thumb.jpg", "out/4.jpg"]),
        ([Path("out"), b"b"], ["a/1.jpg", "a/raw/2.jpg"]),
        ((), ["a/1.jpg", "a/raw/2.jpg", "b/3_thumb.jpg", "out/4.jpg"]),
        ((*IGNORED_NAMES, "[ab]"), ["out/4.jpg"]),
        (["**/raw", "**/b/*.jpg"], ["a/1.jpg", "out/4.jpg"]),
    ],
)
def test_patterns_of_the_user(fill, exclude, left):
    folder = fill("a/1.jpg", "a/raw/2.jpg", "b/3_thumb.jpg", "out/4.jpg")
    assert listed(folder, exclude=exclude) == left


def test_absolute_patterns_are_paths_too(fill, monkeypatch):
    folder = fill("a/1.jpg", "out/4.jpg", "a/out/2.jpg")
    out = os.path.join(folder, "out")
    for exclude in (out, [out], [Path(out)], [os.fsencode(out)]):
        assert load_image_folder(folder, exclude=exclude).excluded == {"out": 2}
    assert listed(folder, exclude=[os.path.join(folder, "a", "out")]) == ["a/1.jpg", "out/4.jpg"]
    monkeypatch.chdir(folder)
    assert load_image_folder(
        "a", labels=False, exclude=os.path.join(out, "..", "a", "out")
    ).excluded


@pytest.mark.parametrize("exclude", [5, [1], [None], True])
def test_what_is_no_pattern_is_named(fill, exclude):
    with pytest.raises(ValueError, match=r"exclude=.* must be a sequence of patterns, such as"):
        load_image_folder(fill(*KEPT), exclude=exclude)


def test_a_folder_whose_images_are_all_excluded_says_so(fill):
    with pytest.raises(ValueError, match=r"0 other files and 2 excluded \(\*: 2\)"):
        load_image_folder(fill(*KEPT), exclude="*")


def test_patterns_match_accents_in_any_form(fill):
    folder = fill(unicodedata.normalize("NFD", "Müll/1.jpg"), "cat/1.jpg")
    assert listed(folder, exclude=[unicodedata.normalize("NFC", "müll")]) == ["cat/1.jpg"]


# What cannot be looked at -----------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_cannot_be_looked_at_is_left_out_with_one_warning(fill, monkeypatch):
    folder = Path(fill(*KEPT, "private/3.jpg", "gone/4.jpg"))
    (folder / "cat" / "self.jpg").symlink_to(folder / "cat" / "self.jpg")
    (folder / "ping").symlink_to(folder / "pong")
    (folder / "pong").symlink_to(folder / "ping")
    (folder / "cat" / "up").symlink_to(folder)
    os.mkfifo(folder / "dog" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder / "dog")
        server.bind("socket.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "private":
            raise PermissionError(13, "Permission denied", path)
        if os.path.basename(path) == "gone":
            raise FileNotFoundError(2, "No such file or directory", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"7 entries of .* left out, such as '.*self.jpg': Too"):
        assert listed(folder) == KEPT
    with pytest.warns(UserWarning, match="cannot be opened"):
        photos = load_image_folder(folder)
    assert len(photos.faults) == 7
    assert "7 entries that cannot be opened" in photos.DESCR


def test_data_sets_of_papers_are_found_beside_what_cannot_be_looked_at(fill):
    folder = Path(fill("jpg/100000.jpg", "jpg/@eaDir/100000.jpg/100001.jpg", folder="holidays"))
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.warns(UserWarning, match=r"1 entry of .* is left out, such as '.*loop'"):
        assert len(load_holidays(folder).data) == 1
    folder = fill("a.jpg", "lists/a_1_good.txt", "lists/.hidden/a_1_good.txt", folder="oxford")
    for kind in ("ok", "junk"):
        Path(folder, f"lists/a_1_{kind}.txt").touch()
    Path(folder, "lists/a_1_good.txt").write_text("a\n")
    Path(folder, "lists/a_1_query.txt").write_text("oxc1_a 0 0 9 9\n")
    assert len(load_oxford5k(folder).data) == 1


def test_trees_deeper_than_pythons_stack_are_listed(tmp_path, monkeypatch):
    n = sys.getrecursionlimit() + 200
    monkeypatch.chdir(tmp_path)
    for _ in range(n):
        os.mkdir("d")
        os.chdir("d")
    Path("1.jpg").touch()
    try:
        photos = load_image_folder(tmp_path, labels=False)
        assert photos.data.tolist() == [os.path.join(tmp_path, *["d"] * n, "1.jpg")]
    finally:  # pytest removes folders by recursion
        os.remove("1.jpg")
        for _ in range(n):
            os.chdir("..")
            os.rmdir("d")


def test_links_between_folders_list_everything_once_per_class(fill):
    names = "abcdefghijkl"
    folder = Path(fill(*(f"{name}/1.jpg" for name in names)))
    for one, other in itertools.permutations(names, 2):
        (folder / one / f"to_{other}").symlink_to(folder / other)  # 10 ** 9 ways lead through
    everything = listed(folder, labels=False)
    assert everything == [f"{name}/1.jpg" for name in names]
    photos = load_image_folder(folder)
    assert Counter(photos.target) == dict.fromkeys(names, len(names))
    assert {"a/1.jpg", "a/to_b/1.jpg", "b/to_a/1.jpg"} <= set(listed(folder))


def test_a_link_lists_what_lies_outside_and_keeps_what_lies_inside_in_its_place(fill, tmp_path):
    folder = Path(fill("a/deep/1.jpg", "b/2.jpg", folder="library"))
    outside = Path(fill("c/3.jpg", folder="elsewhere"))
    (folder / "a" / "a_link").symlink_to(folder / "a" / "deep")
    (folder / "a" / "up").symlink_to(tmp_path)
    (folder / "more").symlink_to(outside)
    assert listed(folder, labels=False) == ["a/deep/1.jpg", "a/up/elsewhere/c/3.jpg", "b/2.jpg"]
    assert "more/c/3.jpg" in listed(folder)


def test_one_long_path_takes_the_memory_of_one(fill):
    names = [f"a/{i:03d}.jpg" for i in range(200)]
    deep = "/".join(["d" * 250] * 10) + "/1.jpg"
    photos = load_image_folder(fill(*names, deep), shuffle=False)
    assert photos.data.nbytes < 100_000  # 2 million if all were as wide as the longest
    assert [os.path.basename(path) for path in photos.data[[0, -1]]] == ["000.jpg", "1.jpg"]
    assert photos.target_names == ["a", "d" * 250]


# Trees without classes --------------------------------------------------------------------------


def test_any_tree_is_listed_without_labels(fill):
    folder = fill("loose.jpg", "2024/a/1.jpg", "2024/2.JPG", "cat/3.jpg")
    with pytest.raises(ValueError, match="pass labels=False to list all images"):
        load_image_folder(folder)
    photos = load_image_folder(folder, labels=False, shuffle=False)
    assert listed(folder, labels=False) == ["2024/2.JPG", "2024/a/1.jpg", "cat/3.jpg", "loose.jpg"]
    assert photos.target is None
    assert photos.target_names == []
    for wrong in (1, "no", None):
        with pytest.raises(ValueError, match="labels=.* must be True or False"):
            load_image_folder(folder, labels=wrong)


def test_classes_without_photos_are_no_classes(fill):
    folder = Path(fill("cat/1.jpg", "dog/notes.txt"))
    (folder / "empty" / "deeper").mkdir(parents=True)
    assert load_image_folder(folder).target_names == ["cat"]


# What a listing leaves out ----------------------------------------------------------------------


def test_what_is_left_out_is_said_by_ending(fill):
    folder = fill("a/1.jpg", "a/2.TXT", "a/3.txt", "b/README", "b/4.mov", "a/5.jpg.txt")
    photos = load_image_folder(folder)
    assert photos.ignored == {".txt": 3, "": 1, ".mov": 1}
    assert photos.n_ignored == 5
    assert "5 other files ignored (.txt: 3, no ending: 1, .mov: 1)" in photos.DESCR


def test_photos_that_nothing_here_reads_are_warned_of(fill, monkeypatch):
    folder = fill("a/1.jpg", "a/2.HEIC", "b/3.heic", "b/4.avif", "b/5.cr2", "b/6.txt")
    monkeypatch.setattr(_folders, "readable_extensions", lambda: (".jpg", ".png"))
    with pytest.warns(UserWarning, match=r"4 photos .*\.heic: 2, .*\.avif: 1, \.cr2: 1") as caught:
        photos = load_image_folder(folder)
    assert len(caught) == 1
    for way in ("sklearn-cbir[heif]", "Pillow 11.3", "Convert the others to JPEG or PNG"):
        assert way in str(caught[0].message)
    assert photos.ignored[".heic"] == 2
    with pytest.raises(ValueError, match=r"4 other files \(.*Images end in .jpg, .png\. HEIC"):
        load_image_folder(Path(folder, "b"))


def test_photos_that_are_read_are_listed(fill, monkeypatch):
    folder = fill("a/1.jpg", "a/2.HEIC", "b/3.avif")
    monkeypatch.setattr(_folders, "readable_extensions", lambda: (".jpg", ".heic", ".avif"))
    assert listed(folder) == ["a/1.jpg", "a/2.HEIC", "b/3.avif"]


# Names ------------------------------------------------------------------------------------------

STRANGE = [
    "new\nline.jpg",
    "tab\t.jpg",
    " blank .jpg",
    "$x^2$.jpg",
    "[bold]red.jpg",
    "😀👩‍👩‍👧.jpg",
    "שלום.jpg",
    "%s{0}\\.jpg",
    "-rf.jpg",
    "\x1b[31mred.jpg",
]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names in any bytes")
def test_names_in_any_bytes_are_listed_and_read(tmp_path):
    names = [*map(os.fsencode, STRANGE), b"caf\xe9.jpg", b"\xff\xfe.jpg", b"bad \xf0\x9f.jpg"]
    (tmp_path / "a").mkdir()
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), b"a", name), "wb") as file:
            Image.new("RGB", (8, 8), "red").save(file, "JPEG")
    photos = load_image_folder(tmp_path)
    assert sorted(os.path.basename(os.fsencode(path)) for path in photos.data) == sorted(names)
    assert np.all(check_images(photos.data).read(slice(None), 8)[..., 0] > 250)


@pytest.mark.parametrize("twin", [unicodedata.normalize("NFD", "Café"), "café", "CAFÉ"])
def test_classes_that_look_alike_are_warned_of_by_name(fill, twin):
    folder = fill("Café/1.jpg", f"{twin}/2.jpg", "dog/1.jpg")
    if len(os.listdir(folder)) < 3:
        pytest.skip("this file system takes them for one")
    with pytest.warns(UserWarning, match=r"1 name stands for several classes, .*'Caf\\xe9'"):
        assert len(load_image_folder(folder).target_names) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image_folder(folder, labels=False)
