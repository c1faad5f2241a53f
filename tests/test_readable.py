"""Images that cannot be read: all are named at once, by cause, and can be left out."""

import builtins
import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.images import ImageReadError, Images, check_images, readable_images

IMAGES, LABELS = make_shapes(12, random_state=0)


@pytest.fixture
def paths(tmp_path):
    """Files of the images, which a test may damage."""
    found = [str(tmp_path / f"{i:02d}.png") for i in range(len(IMAGES))]
    for path, image in zip(found, IMAGES):
        Image.fromarray(image).save(path)
    return found


def spoil(path):
    """Damage the pixels behind a good header, before a good end."""
    with open(path, "r+b") as file:
        content = file.read()
        start = content.index(b"IDAT") + 4
        file.seek(start)
        file.write(bytes(len(content) - 16 - start))


def extractor(**params):
    return CNNFeatureExtractor(
        "small", weights=None, image_size=32, max_epochs=1, random_state=0, **params
    )


def indices(error):
    return [fault.index for fault in error.faults]


def failing_open(monkeypatch, number, paths):
    """Let the operating system refuse some files."""
    real = builtins.open

    def refuse(path, *args, **kwargs):
        if str(path) in paths:
            raise OSError(number, "simulated", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)


@pytest.mark.parametrize("act", ["fit", "transform", "gist", "cached", "read"])
def test_damage_that_only_decoding_shows_is_named_in_all_images(paths, act):
    fitted = extractor(batch_size=4).fit(paths, LABELS)
    for row in (1, 6, 11):  # a batch each
        spoil(paths[row])
    check_images(paths).check_readable()
    acts = {
        "fit": lambda: extractor().fit(paths, LABELS),
        "transform": lambda: fitted.transform(paths),
        "gist": lambda: GISTDescriptor(16).transform(paths),
        "cached": lambda: check_images(paths).cached(16),
        "read": lambda: check_images(paths).read(range(12), 16),
    }
    with pytest.raises(ImageReadError, match=r"^X\[1\] .*01.png': .*by cause: 3 x") as raised:
        acts[act]()
    assert indices(raised.value) == [1, 6, 11]
    assert [fault.path for fault in raised.value.faults] == [paths[i] for i in (1, 6, 11)]
    assert str(raised.value).count("more cannot be read") == 1
    assert not any("more cannot be read" in str(fault) for fault in raised.value.faults)


def test_a_single_fault_is_its_own_list(paths):
    spoil(paths[3])
    with pytest.raises(ImageReadError) as raised:
        check_images(paths).cached(16)
    assert raised.value.faults == (raised.value,)


def test_all_faults_survive_a_pickle(paths):
    with pytest.raises(ImageReadError) as raised:
        check_images([*paths, "a.jpg", "b.jpg"]).check_readable()
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value)
    assert [str(fault) for fault in again.faults] == [str(f) for f in raised.value.faults]
    assert [(f.index, f.path, f.errno) for f in again.faults] == [
        (12, "a.jpg", errno.ENOENT),
        (13, "b.jpg", errno.ENOENT),
    ]


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN]
)
def test_a_fault_of_the_place_is_told_from_one_of_the_image(paths, number, monkeypatch):
    spoil(paths[0])
    failing_open(monkeypatch, number, paths[1:2])
    faults = check_images(paths).find_faults(decode=True)
    assert [(fault.index, fault.errno, fault.is_temporary) for fault in faults] == [
        (0, None, False),
        (1, number, True),
    ]
    found = readable_images(paths)
    assert [fault.index for fault in found.faults] == [0, 1]
    assert [fault.index for fault in found.temporary] == [1]
    assert "Repair it" in str(faults[0])
    assert "Make it readable" in str(faults[1])


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_are_no_fault_of_an_image(paths, number, monkeypatch):
    failing_open(monkeypatch, number, paths)
    images = check_images(paths)
    for act in (images.check_readable, lambda: images.read([0], 8), lambda: readable_images(paths)):
        with pytest.raises(OSError, match="Too many files are open") as raised:
            act()
        assert raised.value.errno == number


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_a_file_that_vanishes_during_the_training_costs_no_training(paths, in_pipeline):
    def remove(image):
        Path(paths[4]).unlink(missing_ok=True)
        return image

    network = extractor(augment=remove)
    fit = (
        make_pipeline(network, NeighborsRetriever(3)).fit if in_pipeline else network.fit_transform
    )
    with pytest.raises(
        ImageReadError, match=r"^X\[4\] .* after the training, which is kept"
    ) as raised:
        fit(paths, LABELS)
    assert indices(raised.value) == [4]
    Image.fromarray(IMAGES[4]).save(paths[4])
    assert network.transform(paths).shape == (12, 256)


# Leaving out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, check_images])
def test_what_cannot_be_read_is_left_out_with_its_labels_and_ids(paths, kind):
    spoil(paths[2])
    ids = pd.Series(range(100, 112), index=range(50, 62))
    found = readable_images(kind(paths), LABELS, ids, None)
    kept = [i for i in range(12) if i != 2]
    y, kept_ids, nothing = found.arrays
    assert type(found.data) is type(kind(paths))
    assert check_images(found.data).paths.tolist() == [paths[i] for i in kept]
    assert y.tolist() == LABELS[kept].tolist()
    assert kept_ids.tolist() == [100 + i for i in kept]
    assert nothing is None
    assert found.positions.tolist() == kept
    assert [fault.index for fault in found.faults] == [2]
    extractor().fit(found.data, y)


def test_a_data_frame_stays_one(paths):
    spoil(paths[2])
    found = readable_images(pd.DataFrame({"path": paths}))
    assert found.data["path"].tolist() == paths[:2] + paths[3:]


def test_some_rows_of_images_are_told_by_their_own_place(paths):
    spoil(paths[7])
    images = check_images(paths)[[9, 7, 8, 7]]
    found = readable_images(images, ["a", "b", "c", "d"])
    assert found.arrays == [["a", "c"]]
    assert found.data.paths.tolist() == [paths[9], paths[8]]


@pytest.mark.parametrize(
    "kind",
    [list, tuple, pd.Series, lambda x: np.array(x, dtype=object), lambda x: pd.DataFrame({"p": x})],
)
@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA, ""])
def test_rows_that_name_no_image_are_left_out(paths, kind, nothing):
    spoil(paths[4])
    found = readable_images(kind([paths[0], nothing, paths[2], paths[4], nothing]), list("abcde"))
    assert found.arrays == [["a", "c"]]
    assert found.positions.tolist() == [0, 2]
    assert [fault.index for fault in found.faults] == [1, 3, 4]
    assert found.faults[0].reason == "there is no path"
    assert str(found.faults[1]).startswith(f"X[3] {paths[4]!r}: ")
    assert check_images(found.data).paths.tolist() == [paths[0], paths[2]]
    with pytest.raises(ImageReadError, match="3 x there is no path"):
        readable_images(kind([nothing, "", nothing]))


def test_headers_alone_are_checked_where_that_is_wanted(paths):
    spoil(paths[2])
    with open(paths[4], "wb"):
        pass
    assert readable_images(paths, verify="header").positions.tolist() == [
        i for i in range(12) if i != 4
    ]


def test_arrays_and_pil_images_are_images_too():
    assert readable_images(IMAGES, LABELS).positions.tolist() == list(range(12))
    photos = [Image.fromarray(IMAGES[0]), Image.new("I", (8, 8))]
    assert readable_images(photos).data == photos[:1]


def test_nothing_readable_and_wrong_lengths_are_errors(paths):
    with pytest.raises(ImageReadError, match="2 x the file does not exist"):
        readable_images(["a.jpg", "b.jpg"])
    with pytest.raises(ValueError, match=r"arrays\[1\] has 3 rows, but X has 12 images"):
        readable_images(paths, LABELS, [1, 2, 3])
    with pytest.raises(ValueError, match="verify='full' is not known"):
        readable_images(paths, verify="full")


def test_a_file_that_is_away_for_a_while_costs_one_epoch_of_a_training(
    paths, tmp_path, monkeypatch
):
    monkeypatch.setattr("sklearn_cbir._base.CACHE_BYTES", 0)  # files are read in every epoch
    parameters = {"weights": None, "image_size": 32, "max_epochs": 4, "batch_size": 4}
    network = CNNFeatureExtractor(
        "small", **parameters, random_state=0, checkpoint_dir=tmp_path / "checkpoints"
    )
    expected = clone(network).set_params(checkpoint_dir=None).fit(paths, LABELS)
    real, calls = Images.read, []

    def read(images, *arguments, **options):
        calls.append(1)
        if len(calls) == 8:
            os.rename(paths[5], f"{paths[5]}.away")
        return real(images, *arguments, **options)

    monkeypatch.setattr(Images, "read", read)
    with pytest.raises(ImageReadError, match=r"X\[5\] .*the file does not exist"):
        network.fit(paths, LABELS)
    os.rename(f"{paths[5]}.away", paths[5])
    n_before = len(calls)
    network.fit(paths, LABELS)
    assert len(calls) - n_before < 12  # three batches in each of four epochs
    assert np.array_equal(network.transform(paths), expected.transform(paths))
