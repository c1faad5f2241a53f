"""The example that users run first works on drawings, on few photos and on flat folders."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.utils import Bunch

from sklearn_cbir.datasets import load_drawings

EXAMPLE = Path(__file__).parent.parent / "examples" / "search_photos.py"
ENV = os.environ | {"PYTHONPATH": str(EXAMPLE.parent.parent)}
CLOTHING = Path(__file__).parent / "data" / "clothing"
spec = importlib.util.spec_from_file_location("search_photos", EXAMPLE)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)

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


def test_without_weights_the_small_net_is_taken_and_it_is_said(monkeypatch, capsys):
    def offline(*arguments, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(example, "build_backbone", offline)
    assert example.choose_network(None)["weights"] is None
    assert "No ImageNet weights: no network" in capsys.readouterr().out
    assert example.choose_network("a.pt")["weights"] == "a.pt"


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
