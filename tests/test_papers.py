"""Every table of the papers runs on a tiny stand-in with the layout of its data set."""

import importlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from sklearn_cbir.datasets import make_shapes

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUICK = ["--epochs", "1", "--seeds", "1", "--rates", "0.003"]


@pytest.fixture
def papers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("papers")


def write_cifar10(path):
    """Write JPEG streams of drawn shapes in the layout of the CIFAR-10 file."""
    content = {}
    for part, n in (("train", 120), ("test", 40)):
        images, y = make_shapes(n, image_size=32, random_state=n)
        streams = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG")
            streams.append(buffer.getvalue())
        content[f"jpeg_{part}"] = np.frombuffer(b"".join(streams), dtype=np.uint8)
        content[f"offset_{part}"] = np.cumsum([0, *map(len, streams)])
        content[f"y_{part}"] = np.unique(y, return_inverse=True)[1]
    np.savez(path, **content)
    return path


def write_photos(folder, n=12):
    images, y = make_shapes(2 * n, image_size=32, random_state=0)
    for number, (image, label) in enumerate(zip(images, y)):
        path = folder / ("train" if number < n else "validation") / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def run(papers, table, data, out, *more):
    papers.main([table, "--data", str(data), "--out", str(out), *QUICK, *more])
    return (out / f"{table}.md").read_text()


@pytest.mark.slow
def test_the_hashing_table_has_every_method_and_no_cell_runs_twice(papers, tmp_path, capsys):
    data = write_cifar10(tmp_path / "cifar10.npz")
    text = run(papers, "dfeh-cifar10", data, tmp_path)
    assert text.count("\n| ") == 18
    assert {"LSH", "KSH", "dfeh", "dch"} <= set(text.replace("|", " ").split())
    written = (tmp_path / "dfeh-cifar10.json").read_text()
    assert run(papers, "dfeh-cifar10", data, tmp_path) == text
    assert (tmp_path / "dfeh-cifar10.json").read_text() == written


@pytest.mark.slow
def test_the_table_of_classical_hashers(papers, tmp_path):
    text = run(papers, "hashers-cifar10", write_cifar10(tmp_path / "cifar10.npz"), tmp_path)
    assert text.count("\n| ") == 7


@pytest.mark.slow
def test_the_ablation_table(papers, tmp_path):
    text = run(papers, "dfeh-ablation", write_cifar10(tmp_path / "cifar10.npz"), tmp_path)
    assert "weights 0.1" in text
    assert "cbam" in text


def test_the_multi_label_table(papers, tmp_path):
    mosaics = importlib.import_module("_papers.multi_label")
    images, y = make_shapes(40, image_size=16, random_state=0)
    y = np.unique(y, return_inverse=True)[1]
    tiled, labels = mosaics.mosaics(images, y, 10, repeats=False, seed=0)
    assert tiled.shape == (10, 32, 32, 3)
    rows = np.random.default_rng(0).permutation(40).reshape(10, 2, 2)
    np.testing.assert_array_equal(tiled[3][:16, 16:], images[rows[3, 0, 1]])
    np.testing.assert_array_equal(np.flatnonzero(labels[3]), np.unique(y[rows[3]]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "column"), [("zero-shot-omniglot", "CPF"), ("lrml-omniglot", "staircase")]
)
def test_tables_of_unseen_drawings(papers, tmp_path, table, column):
    data = Path(__file__).parent / "data" / "omniglot_small1.npz"
    assert column in run(papers, table, data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["squared-hinge", "lrml-photos"])
def test_tables_of_photos(papers, tmp_path, table):
    torch.save(torchvision.models.squeezenet1_0().state_dict(), tmp_path / "squeezenet1_0.pt")
    more = "--weights-dir", str(tmp_path), "--image-size", "32"
    text = run(papers, table, write_photos(tmp_path / "photos"), tmp_path, *more)
    assert "squeezenet1_0" in text or "staircase" in text


def test_a_table_without_weights_says_where_to_put_them(papers, tmp_path):
    with pytest.raises(SystemExit, match="No weights in --weights-dir=None"):
        run(papers, "squared-hinge", write_photos(tmp_path / "photos"), tmp_path)
