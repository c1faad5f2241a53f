"""Every table of the papers runs on a tiny stand-in with the layout of its data set."""

import importlib
from pathlib import Path

import numpy as np
import paper_folders
import pytest
import torch
import torchvision

from sklearn_cbir.datasets import make_shapes

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUICK = ["--epochs", "1", "--seeds", "1", "--rates", "0.003"]


@pytest.fixture
def papers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("papers")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    return path


def run(papers, table, data, out, *more):
    papers.main([table, "--data", str(data), "--out", str(out), *QUICK, *map(str, more)])
    return (out / f"{table}.md").read_text()


def save_weights(folder, name):
    torch.save(getattr(torchvision.models, name)().state_dict(), folder / f"{name}.pt")


@pytest.mark.slow
def test_the_hashing_table_has_every_method_and_no_cell_runs_twice(papers, folder, tmp_path):
    data = paper_folders.cifar10(folder)
    text = run(papers, "dfeh-cifar10", data, tmp_path)
    assert text.count("\n| ") == 18
    assert {"LSH", "KSH", "dfeh", "dch"} <= set(text.replace("|", " ").split())
    written = (tmp_path / "dfeh-cifar10.json").read_text()
    assert run(papers, "dfeh-cifar10", data, tmp_path) == text
    assert (tmp_path / "dfeh-cifar10.json").read_text() == written


@pytest.mark.slow
def test_the_table_of_classical_hashers(papers, folder, tmp_path):
    text = run(papers, "hashers-cifar10", paper_folders.cifar10_batches(folder), tmp_path)
    assert text.count("\n| ") == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "write"),
    [("dfeh-ablation", paper_folders.cifar10), ("dfeh-svhn", paper_folders.svhn)],
)
def test_the_ablation_tables(papers, folder, tmp_path, table, write):
    text = run(papers, table, write(folder), tmp_path)
    assert "weights 0.1" in text
    assert "cbam" in text


@pytest.mark.slow
def test_the_hashing_table_of_photos_with_several_labels(papers, folder, tmp_path):
    more = "--n-queries", 2, "--image-size", 32
    text = run(papers, "dfeh-nuswide", paper_folders.nuswide(folder), tmp_path, *more)
    assert text.count("\n| ") == 18


def test_mosaics_show_four_images_and_carry_their_labels(papers):
    multi_label = importlib.import_module("_papers.multi_label")
    images, y = make_shapes(40, image_size=16, random_state=0)
    y = np.unique(y, return_inverse=True)[1]
    tiled, labels = multi_label.mosaics(images, y, 10, repeats=False, seed=0)
    assert tiled.shape == (10, 32, 32, 3)
    rows = np.random.default_rng(0).permutation(40).reshape(10, 2, 2)
    np.testing.assert_array_equal(tiled[3][:16, 16:], images[rows[3, 0, 1]])
    np.testing.assert_array_equal(np.flatnonzero(labels[3]), np.unique(y[rows[3]]))


@pytest.mark.slow
def test_the_multi_label_table_of_mosaics(papers, folder, tmp_path):
    text = run(papers, "multi-label-mosaics", paper_folders.cifar10(folder), tmp_path)
    assert "binary similarity" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nuswide", "mirflickr"])
def test_the_multi_label_tables_of_photos(papers, folder, tmp_path, name):
    save_weights(tmp_path, "resnet18")
    data = getattr(paper_folders, name)(folder)
    more = ["--n-queries", 6, "--n-train", 130, "--image-size", 32]
    more += ["--backbone", "resnet18", "--weights-dir", tmp_path]
    assert "multi-level" in run(papers, f"multi-label-{name}", data, tmp_path, *more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "row"), [("zero-shot-omniglot", "CPF"), ("lrml-omniglot", "staircase")]
)
def test_tables_of_unseen_drawings(papers, tmp_path, table, row):
    data = Path(__file__).parent / "data" / "omniglot_small1.npz"
    assert row in run(papers, table, data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cub", "cars", "sop", "shopee"])
def test_tables_of_unseen_products(papers, folder, tmp_path, name):
    save_weights(tmp_path, "resnet18")
    more = "--backbone", "resnet18", "--weights-dir", tmp_path, "--image-size", 32
    data = getattr(paper_folders, name)(folder)
    assert "multi-similarity" in run(papers, f"zero-shot-{name}", data, tmp_path, *more)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["squared-hinge", "lrml-photos"])
def test_tables_of_photos(papers, folder, tmp_path, table):
    save_weights(tmp_path, "squeezenet1_0")
    more = "--weights-dir", tmp_path, "--image-size", 32
    text = run(papers, table, paper_folders.photos(folder), tmp_path, *more)
    assert "squeezenet1_0" in text or "staircase" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["oxford5k", "paris6k", "holidays"])
def test_tables_of_places(papers, folder, tmp_path, name):
    save_weights(tmp_path, "resnet18")
    data = getattr(paper_folders, name)(folder)
    places = paper_folders.photos(tmp_path / "places", n=24) / "train"
    more = ["--weights-dir", tmp_path, "--backbone", "resnet18", "--image-size", 32]
    text = run(papers, f"lrml-{name}", data, tmp_path, *more, "--train-data", places)
    assert "staircase" in text


def test_a_table_without_weights_says_where_to_put_them(papers, folder, tmp_path):
    with pytest.raises(SystemExit, match="No weights in --weights-dir=None"):
        run(papers, "squared-hinge", paper_folders.photos(folder), tmp_path)
