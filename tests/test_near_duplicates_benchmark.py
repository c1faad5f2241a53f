"""The benchmark of duplicates counts pairs as it says, and its bars hold on what ships."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("near_duplicates")


def test_pairs_are_counted_as_by_hand(benchmark):
    # Found are 0-1, 0-2, 1-2 and 3-4; right are 0-1, 3-4 and 3-5, 4-5, which are not found.
    found = np.array([0, 0, 0, 1, 1, -1, -1])
    groups = np.array([0, 0, 1, 2, 2, 2, 3])
    f1, precision, recall = benchmark.pair_scores(found, groups)
    assert (f1, precision, recall) == (2 * 2 / (4 + 4), 2 / 4, 2 / 4)


def test_photos_of_two_scenes_are_counted_unless_they_are_of_the_same_bytes(benchmark, tmp_path):
    names = ["100000.jpg", "100001.jpg", "100100.jpg", "100101.jpg"]
    contents = [b"a", b"b", b"c", b"a"]
    for name, content in zip(names, contents):
        (tmp_path / name).write_bytes(content)
    rows = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=np.uint8)
    paths = [tmp_path / name for name in names]
    # Within 1 bit: 0-1 of one scene; 1-2 and 1-3 of two; 0-3 are the same bytes.
    assert benchmark.across_scenes(paths, rows, "hamming", 1) == (1, 2, 3, 1)


def test_five_copies_are_those_that_are_named(benchmark):
    photo = Image.new("RGB", (100, 50), (100, 120, 140))
    copies = benchmark.copies(photo)
    assert [copy.size for copy in copies] == [(100, 50), (100, 50), (33, 16), (100, 50), (92, 46)]
    assert copies[3].getpixel((0, 0)) == (130, 156, 182)


@pytest.mark.slow
def test_the_bars_hold_on_the_photos_that_ship(benchmark, capsys):
    benchmark.main([])  # it fails where a bar, or the radius of a descriptor, is missed
    assert "| PerceptualHash | 1.000 | 1.000 | 30 of 152 bits |" in capsys.readouterr().out
