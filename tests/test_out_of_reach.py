"""A file that is out of reach for a while is not damaged, and nobody is told to delete it."""

import errno
import os
import pathlib

import numpy as np
import paper_folders
import pytest
import torch

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.datasets import load_cifar10, load_image_folder, load_nuswide, make_shapes

NUMBERS = [errno.EACCES, errno.EIO, errno.ESTALE]


@pytest.fixture
def out_of_reach(monkeypatch):
    """A set of names that the system refuses to open and to look at, and with which error."""
    refused = {}
    open_, stat = open, os.stat

    def check(path):
        number = refused.get(os.path.basename(os.fspath(path))) if not isinstance(path, int) else 0
        if number:
            raise OSError(number, os.strerror(number), str(path))

    def refuse_open(path, *args, **kwargs):
        check(path)
        return open_(path, *args, **kwargs)

    def refuse_stat(path, *args, **kwargs):
        check(path)
        return stat(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse_open)
    monkeypatch.setattr(os, "stat", refuse_stat)
    return refused


@pytest.mark.parametrize("number", NUMBERS)
def test_a_checkpoint_out_of_reach_is_not_called_corrupt(tmp_path, out_of_reach, number):
    images, y = make_shapes(8, random_state=0)
    network = CNNFeatureExtractor(
        "small", weights=None, max_epochs=1, random_state=0, checkpoint_dir=tmp_path
    ).fit(images, y)
    (checkpoint,) = tmp_path.glob("*.pt")
    before = checkpoint.read_bytes()
    out_of_reach[checkpoint.name] = number
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        network.fit(images, y)
    assert raised.value.errno == number
    out_of_reach.clear()
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("number", NUMBERS)
def test_weights_out_of_reach_are_not_called_no_state_dict(tmp_path, out_of_reach, number):
    torch.save(build_backbone("small", weights=None).state_dict(), tmp_path / "weights.pt")
    real = pathlib.Path.is_file
    out_of_reach["weights.pt"] = number
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "is_file", lambda path: path.name == "weights.pt" or real(path))
        with pytest.raises(OSError, match=os.strerror(number)):
            build_backbone("small", weights=str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("number", NUMBERS)
def test_folders_out_of_reach_are_not_called_missing(tmp_path, out_of_reach, number):
    out_of_reach["photos"] = number
    (tmp_path / "photos").mkdir()
    for load in (load_image_folder, load_cifar10, load_nuswide):
        with pytest.raises(OSError, match=os.strerror(number)):
            load(tmp_path / "photos")


def test_a_batch_out_of_reach_is_not_called_damaged(tmp_path, out_of_reach):
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        np.zeros(3073, dtype=np.uint8).tofile(tmp_path / name)
    out_of_reach["data_batch_3.bin"] = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        load_cifar10(tmp_path)


def test_photos_out_of_reach_are_not_dropped_as_missing(tmp_path, out_of_reach):
    paper_folders.nuswide(tmp_path)
    photos = load_nuswide(tmp_path, n_labels=81, drop_unlabelled=False, skip_missing=True)
    out_of_reach[os.path.basename(photos.data[3])] = errno.ESTALE
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        load_nuswide(tmp_path, n_labels=81, drop_unlabelled=False, skip_missing=True)
