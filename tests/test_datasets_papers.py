"""Data sets of the papers, on tiny folders in the layout in which they are distributed."""

import json
import os
import pickle
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import (
    crop_images,
    load_cars,
    load_cifar10,
    load_cub,
    load_fashion_multilabel,
    load_grocery,
    load_holidays,
    load_mirflickr,
    load_nuswide,
    load_oxford5k,
    load_paris6k,
    load_shopee,
    load_sop,
    load_svhn,
)
from sklearn_cbir.datasets._landmarks import PARIS_WITHOUT_IMAGE
from sklearn_cbir.images import check_images
from sklearn_cbir.metrics import mean_average_precision, trapezoid_mean_average_precision
from sklearn_cbir.model_selection import (
    split_group_folds,
    split_protocol,
    split_unseen_products,
)


def write(folder, files):
    """Write text or bytes under the given names; None makes an empty file."""
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else (content or "").encode())
    return folder


def images(names):
    return dict.fromkeys(names)


def below(paths, folder):
    return [Path(path).relative_to(folder).as_posix() for path in paths]


# CIFAR-10 -------------------------------------------------------------------------------------

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


class _AsPython2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings: as the files of CIFAR-10 are."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(b"T" + len(value).to_bytes(4, "little") + value)

    dispatch[bytes] = save_bytes


@pytest.fixture
def cifar(rng):
    """Three images per batch, as stored, and their labels."""
    pixels = rng.integers(0, 256, (6, 3, 3072), dtype=np.uint8)
    return pixels, rng.integers(0, 10, (6, 3))


def write_binary(folder, pixels, labels):
    for name, rows, y in zip(BATCHES, pixels, labels):
        stored = np.column_stack([y.astype(np.uint8), rows])
        write(folder, {f"{name}.bin": stored.tobytes()})


def write_python(folder, pixels, labels, protocol=2, python2=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, y in zip(BATCHES, pixels, labels):
        batch = {"data": rows, "labels": y.tolist(), "batch_label": name, "filenames": ["a.png"]}
        with open(folder / name, "wb") as file:
            pickler = _AsPython2 if python2 else pickle.Pickler
            pickler(file, protocol=protocol).dump(batch)


def check_cifar(found, pixels, labels):
    assert found.data.shape == (18, 32, 32, 3)
    assert found.data.dtype == np.uint8
    # Red is the first plane of 1,024 bytes, row after row.
    assert found.data[4, 1, 2].tolist() == pixels[1, 1, [34, 1024 + 34, 2048 + 34]].tolist()
    assert found.target.tolist() == labels.ravel().tolist()
    assert found.train.tolist() == list(range(15))
    assert found.test.tolist() == [15, 16, 17]
    assert found.target_names[3] == "cat"


@pytest.mark.parametrize("place", ["", "cifar-10-batches-bin"], ids=["folder", "parent"])
def test_cifar10_binary(tmp_path, cifar, place):
    write_binary(tmp_path / place, *cifar)
    check_cifar(load_cifar10(tmp_path), *cifar)


@pytest.mark.parametrize("place", ["", "cifar-10-batches-py"], ids=["folder", "parent"])
@pytest.mark.parametrize(
    ("protocol", "python2"), [(2, True), (2, False), (4, False)], ids=["as published", "2", "4"]
)
def test_cifar10_python(tmp_path, cifar, place, protocol, python2):
    write_python(tmp_path / place, *cifar, protocol=protocol, python2=python2)
    check_cifar(load_cifar10(tmp_path), *cifar)


class _Evil:
    def __reduce__(self):
        return open, ("ran.txt", "w")


def test_a_pickle_runs_nothing(tmp_path, cifar, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_python(tmp_path, *cifar)
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps({"data": _Evil(), "labels": [1]}))
    with pytest.raises(ValueError, match=r"data_batch_2' is not a batch.*asks to run.*is refused"):
        load_cifar10(tmp_path)
    assert not (tmp_path / "ran.txt").exists()
    pickle.loads((tmp_path / "data_batch_2").read_bytes())["data"].close()
    assert (tmp_path / "ran.txt").exists()  # it would have


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a batch of CIFAR-10"),
        (b"not a pickle", "is not a batch of CIFAR-10"),
        (pickle.dumps([1, 2]), "is not a batch of CIFAR-10"),
        (pickle.dumps({"data": np.zeros((2, 3072)), "labels": [1, 2]}), "pixels are 'f8'"),
        (
            pickle.dumps({"data": np.zeros((2, 9), np.uint8), "labels": [1, 2]}),
            r"has pixels \(2, 9\)",
        ),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 12]}),
            "has labels from 1 to 12",
        ),
    ],
    ids=["empty", "text", "list", "floats", "size", "labels"],
)
def test_damaged_batches_are_refused(tmp_path, cifar, content, message):
    write_python(tmp_path, *cifar)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_cifar10(tmp_path)


def test_damaged_binary_batches_are_refused(tmp_path, cifar):
    write_binary(tmp_path, *cifar)
    path = tmp_path / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has 9218 bytes, no multiple of 3073"):
        load_cifar10(tmp_path)
    path.write_bytes(bytes([11]) * 3073)
    with pytest.raises(ValueError, match="has labels from 11 to 11"):
        load_cifar10(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_4.bin.*get the data from"):
        load_cifar10(tmp_path)


# SVHN -----------------------------------------------------------------------------------------


def write_digits(path, digits, first=0):
    X = np.zeros((32, 32, 3, len(digits)), dtype=np.uint8)
    X[1, 2, 0] = first + np.arange(len(digits))
    savemat(path, {"X": X, "y": np.array(digits)[:, None]})


def test_svhn(tmp_path):
    write_digits(tmp_path / "train_32x32.mat", [10, 3, 9])
    write_digits(tmp_path / "test_32x32.mat", [1, 10], first=3)
    digits = load_svhn(tmp_path)
    assert digits.data.shape == (5, 32, 32, 3)
    assert digits.data[:, 1, 2, 0].tolist() == [0, 1, 2, 3, 4]
    assert digits.target.tolist() == [0, 3, 9, 1, 0]
    assert (digits.train.tolist(), digits.test.tolist()) == ([0, 1, 2], [3, 4])
    assert "extra" not in digits
    with pytest.raises(FileNotFoundError, match=r"lacks extra_32x32.mat. load_svhn reads"):
        load_svhn(tmp_path, extra=True)
    write_digits(tmp_path / "extra_32x32.mat", [5])
    assert load_svhn(tmp_path, extra=True).extra.tolist() == [5]
    split = split_protocol("svhn", digits.target, test=digits.test)
    assert split.gallery.tolist() == [0, 1, 2]


def test_damaged_digits_are_refused(tmp_path):
    write_digits(tmp_path / "train_32x32.mat", [1])
    path = tmp_path / "test_32x32.mat"
    for content, message in (
        ({"X": np.zeros((32, 32, 3, 1), np.uint8)}, "lacks the variables 'X' and 'y'"),
        ({"X": np.zeros((32, 32, 3, 1), np.uint8), "y": [[0]]}, "has labels from 0 to 0"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1]]}, r"\(32, 32, 3, 2\), 1 labels"),
        ({"X": np.zeros((32, 32, 3, 1)), "y": [[1]]}, "has images float64"),
    ):
        savemat(path, content)
        with pytest.raises(ValueError, match=message):
            load_svhn(tmp_path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="is not a MATLAB file"):
        load_svhn(tmp_path)


# NUS-WIDE -------------------------------------------------------------------------------------


@pytest.fixture
def nuswide(tmp_path):
    """Four photos; concept c20 is the rarest that is among the 21 most frequent."""
    listed = ["sea\\0001_1.jpg", "sea\\0002_2.jpg", "actor\\0001_3.jpg", "dog\\0001_4.jpg"]
    files = {"ImageList/Imagelist.txt": "\n".join(listed) + "\n"}
    for i in range(81):
        # c00..c19 are of photos 0 and 1, c20 of photo 2 alone, the others of nobody but c80.
        columns = ["1", "1", "0", "0"] if i < 20 else ["0", "0", str(int(i == 20)), "0"]
        if i == 80:
            columns = ["1", "1", "1", "0"]
        files[f"Groundtruth/AllLabels/Labels_c{i:02d}.txt"] = "\n".join(columns) + "\n"
    files |= images(f"Flickr/{name}".replace("\\", "/") for name in listed)
    files["ImageList/TrainImagelist.txt"] = f"{listed[2]}\n{listed[0]}\n"
    files["ImageList/TestImagelist.txt"] = f"{listed[1]}\n{listed[3]}\n"
    return write(tmp_path, files)


def test_nuswide_keeps_the_most_frequent_labels(nuswide):
    photos = load_nuswide(nuswide)
    assert below(photos.data, nuswide / "Flickr") == [
        *("sea/0001_1.jpg", "sea/0002_2.jpg", "actor/0001_3.jpg"),
    ]
    # 80 three times, 0 to 19 twice: 20 is the only other one that occurs, but 21 are full.
    assert photos.target_names == [*(f"c{i:02d}" for i in range(20)), "c80"]
    assert photos.target.tolist() == [[1] * 21, [1] * 21, [0] * 20 + [1]]
    assert photos.target.dtype == np.uint8
    assert (photos.train.tolist(), photos.test.tolist()) == ([0, 2], [1])
    assert (photos.n_unlabelled, photos.n_missing) == (1, 0)


def test_nuswide_with_all_labels_and_photos(nuswide):
    photos = load_nuswide(nuswide, n_labels=81, drop_unlabelled=False)
    assert photos.target.shape == (4, 81)
    assert photos.target[2].nonzero()[0].tolist() == [20, 80]
    assert photos.test.tolist() == [1, 3]
    assert photos.n_unlabelled == 0
    (nuswide / "ImageList/TestImagelist.txt").unlink()
    assert load_nuswide(nuswide).test is None
    with pytest.raises(ValueError, match="n_labels=10 is not known. Use one of 21, 81"):
        load_nuswide(nuswide, n_labels=10)


def test_photos_of_nuswide_that_are_gone(nuswide):
    (nuswide / "Flickr/sea/0001_1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images that .* lists, such as .*0001"):
        load_nuswide(nuswide)
    photos = load_nuswide(nuswide, skip_missing=True)
    assert len(photos.data) == len(photos.target) == 2
    assert (photos.n_missing, photos.train.tolist(), photos.test.tolist()) == (1, [1], [0])
    shutil.rmtree(nuswide / "Flickr/sea")
    shutil.rmtree(nuswide / "Flickr/actor")
    with pytest.raises(FileNotFoundError, match="lacks every image"):
        load_nuswide(nuswide, skip_missing=True)


def test_damaged_lists_of_nuswide_are_refused(nuswide):
    labels = nuswide / "Groundtruth/AllLabels/Labels_c07.txt"
    labels.write_text("1\n0\n1\n")
    with pytest.raises(ValueError, match=r"Labels_c07.txt' is not one 0 or 1 for each of the 4"):
        load_nuswide(nuswide)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"81 files Labels_\*.txt; .* has 80"):
        load_nuswide(nuswide)
    labels.write_text("1\n1\n0\n0\n")
    (nuswide / "ImageList/TrainImagelist.txt").write_text("sea\\9.jpg\n")
    with pytest.raises(ValueError, match="names 'sea/9.jpg', which is not an image"):
        load_nuswide(nuswide)
    (nuswide / "ImageList/Imagelist.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks ImageList/Imagelist.txt or"):
        load_nuswide(nuswide)


# MIRFLICKR ------------------------------------------------------------------------------------


def write_mirflickr(folder, photos="mirflickr", texts="mirflickr25k_annotations_v080"):
    files = images(f"{photos}/im{i}.jpg" for i in (1, 2, 3, 10))
    files[f"{texts}/README.txt"] = "24 + 14 files"
    for i in range(24):
        files[f"{texts}/label{i:02d}.txt"] = "2\r\n10\r\n" if i == 5 else "1\r\n"
    for i in range(14):
        files[f"{texts}/label{i:02d}_r1.txt"] = "3\n" if i == 2 else ""
    return write(folder, files)


@pytest.mark.parametrize(
    ("photos", "texts"),
    [
        ("mirflickr", "mirflickr25k_annotations_v080"),
        (".", "annotations"),
        ("images", "annotations_v080"),
        ("mirflickr", "mirflickr/annotations"),
    ],
)
def test_mirflickr(tmp_path, photos, texts):
    folder = write_mirflickr(tmp_path, photos, texts)
    found = load_mirflickr(folder)
    assert below(found.data, folder / photos) == ["im1.jpg", "im2.jpg", "im10.jpg"]
    assert found.target_names == [f"label{i:02d}" for i in range(24)]
    assert found.target[:, 5].tolist() == [0, 1, 1]
    assert found.target[:, 6].tolist() == [1, 0, 0]
    assert found.n_unlabelled == 1
    more = load_mirflickr(folder, n_labels=38)
    assert more.target_names[:3] == ["label00", "label00_r1", "label01"]
    assert more.target.shape == (4, 38)
    assert more.target[:, more.target_names.index("label02_r1")].tolist() == [0, 0, 1, 0]
    assert len(load_mirflickr(folder, drop_unlabelled=False).data) == 4


def test_what_mirflickr_lacks_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks 'im1.jpg'"):
        load_mirflickr(tmp_path)
    folder = write_mirflickr(tmp_path)
    texts = folder / "mirflickr25k_annotations_v080"
    (texts / "label03.txt").write_text("4\n")
    with pytest.raises(FileNotFoundError, match=r"'im4.jpg', which '.*label03.txt' lists"):
        load_mirflickr(folder)
    (texts / "label03.txt").write_text("one\n")
    with pytest.raises(ValueError, match=r"label03.txt' has other values in place of integers"):
        load_mirflickr(folder)
    (texts / "label03.txt").unlink()
    with pytest.raises(FileNotFoundError, match="texts of 24 labels; .* has 23"):
        load_mirflickr(folder)


# Zero-shot retrieval --------------------------------------------------------------------------

CUB = {
    "images.txt": "1 001.Albatross/A_1.jpg\n2 002.Bunting/B_1.jpg\n3 002.Bunting/B_2.jpg\n",
    "image_class_labels.txt": "1 1\n2 2\n3 2\n",
    "train_test_split.txt": "1 0\n2 1\n3 0\n",
    "classes.txt": "1 001.Albatross\n2 002.Bunting\n",
    **images(["images/001.Albatross/A_1.jpg"]),
    **images(f"images/002.Bunting/B_{i}.jpg" for i in (1, 2)),
}


@pytest.mark.parametrize("place", ["", "CUB_200_2011"], ids=["folder", "parent"])
def test_cub(tmp_path, place):
    write(tmp_path / place, CUB)
    birds = load_cub(tmp_path)
    assert below(birds.data, tmp_path / place / "images") == [
        *("001.Albatross/A_1.jpg", "002.Bunting/B_1.jpg", "002.Bunting/B_2.jpg"),
    ]
    assert birds.target.tolist() == [0, 1, 1]
    assert birds.target_names == ["001.Albatross", "002.Bunting"]
    assert (birds.train.tolist(), birds.test.tolist()) == ([1], [0, 2])
    split = split_protocol("zero-shot", birds.target)
    assert (split.train.tolist(), split.query.tolist()) == ([0], [1, 2])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "1 001.Albatross\n", "names classes that classes.txt lacks"),
        ("image_class_labels.txt", "1 1\n2 2\n", "lists other images than images.txt"),
        ("train_test_split.txt", "1\n", "has 1 words on line 1, not 2"),
    ],
)
def test_damaged_lists_of_cub_are_refused(tmp_path, name, text, message):
    write(tmp_path, {**CUB, name: text})
    with pytest.raises(ValueError, match=message):
        load_cub(tmp_path)


@pytest.mark.parametrize("name", [name for name in CUB if name.endswith((".txt", "B_2.jpg"))])
def test_what_cub_lacks_is_named(tmp_path, name):
    write(tmp_path, CUB)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{Path(name).name}.*www.vision.caltech.edu"):
        load_cub(tmp_path)


def structs(fields, rows):
    return np.array([rows], dtype=[(name, object) for name in fields])


CAR_NAMES = np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], dtype=object)
BOX = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]


def test_cars_of_one_list(tmp_path):
    fields = ["relative_im_path", *BOX, "class", "test"]
    rows = [(f"car_ims/00000{i}.jpg", 1, 1, 9, 9, 1 + (i == 2), int(i > 1)) for i in (1, 2, 3)]
    write(tmp_path, images(row[0] for row in rows))
    file = {"annotations": structs(fields, rows), "class_names": CAR_NAMES}
    savemat(tmp_path / "cars_annos.mat", file)
    cars = load_cars(tmp_path)
    assert below(cars.data, tmp_path) == [row[0] for row in rows]
    assert cars.target.tolist() == [0, 1, 0]
    assert cars.target_names == CAR_NAMES[0].tolist()
    assert (cars.train.tolist(), cars.test.tolist()) == ([0], [1, 2])
    (tmp_path / "car_ims/000003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images .* such as .*000003.jpg"):
        load_cars(tmp_path)
    savemat(tmp_path / "cars_annos.mat", {"annotations": structs(fields, rows)})
    with pytest.raises(ValueError, match="lacks the variable 'class_names'"):
        load_cars(tmp_path)
    savemat(tmp_path / "cars_annos.mat", {"class_names": CAR_NAMES[:, :1]})
    with pytest.raises(ValueError, match="lacks annotations with"):
        load_cars(tmp_path)


@pytest.mark.parametrize("place", ["", "devkit"], ids=["beside", "inside"])
def test_cars_of_the_devkit(tmp_path, place):
    write(tmp_path, images(["devkit/x", "cars_train/00001.jpg", "cars_test/00001.jpg"]))
    with pytest.raises(FileNotFoundError, match=r"lacks devkit/cars_meta.mat or cars_annos.mat"):
        load_cars(tmp_path)
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": CAR_NAMES})
    fields = [*BOX, "class", "fname"]
    train = {"annotations": structs(fields, [(1, 1, 9, 9, 2, "00001.jpg")])}
    savemat(tmp_path / "devkit/cars_train_annos.mat", train)
    with pytest.raises(FileNotFoundError, match="cars_test_annos_withlabels.mat"):
        load_cars(tmp_path)
    path = tmp_path / place / "cars_test_annos_withlabels.mat"
    savemat(path, {"annotations": structs(fields, [(1, 1, 9, 9, 1, "00001.jpg")])})
    cars = load_cars(tmp_path)
    assert below(cars.data, tmp_path) == ["cars_train/00001.jpg", "cars_test/00001.jpg"]
    assert cars.target.tolist() == [1, 0]
    assert (cars.train.tolist(), cars.test.tolist()) == ([0], [1])
    savemat(path, {"annotations": structs(fields, [(1, 1, 9, 9, 3, "00001.jpg")])})
    with pytest.raises(ValueError, match="has classes from 2 to 3"):
        load_cars(tmp_path)


SOP_HEAD = "image_id class_id super_class_id path\n"
SOP = {
    "Ebay_train.txt": f"{SOP_HEAD}1 1 1 bicycle_final/11_0.JPG\n2 1 1 bicycle_final/11_1.JPG\n",
    "Ebay_test.txt": f"{SOP_HEAD}3 11319 2 coffee_maker_final/12_0.JPG\n",
    **images([*(f"bicycle_final/11_{i}.JPG" for i in (0, 1)), "coffee_maker_final/12_0.JPG"]),
}


@pytest.mark.parametrize("place", ["", "Stanford_Online_Products"], ids=["folder", "parent"])
def test_sop(tmp_path, place):
    write(tmp_path / place, SOP)
    products = load_sop(tmp_path)
    assert below(products.data, tmp_path / place)[1:] == [
        *("bicycle_final/11_1.JPG", "coffee_maker_final/12_0.JPG"),
    ]
    assert products.target.tolist() == [1, 1, 11319]
    assert products.super_target.tolist() == ["bicycle", "bicycle", "coffee_maker"]
    assert (products.train.tolist(), products.test.tolist()) == ([0, 1], [2])
    split = split_protocol("zero-shot", products.target, test=products.test)
    assert (split.train.tolist(), split.query.tolist()) == ([0, 1], [2])


def test_what_sop_lacks_is_named(tmp_path):
    write(tmp_path, {**SOP, "Ebay_test.txt": "1 2 3 a.JPG\n"})
    with pytest.raises(ValueError, match="Ebay_test.txt' begins with '1 2 3 a.JPG'"):
        load_sop(tmp_path)
    write(tmp_path, {"Ebay_test.txt": ""})
    with pytest.raises(ValueError, match="Ebay_test.txt' begins with ''"):
        load_sop(tmp_path)
    write(tmp_path, {"Ebay_test.txt": SOP_HEAD + "1 2 3 mug_final/a.JPG\n"})
    with pytest.raises(FileNotFoundError, match="1 of the 3 images"):
        load_sop(tmp_path)
    (tmp_path / "Ebay_test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks Ebay_test.txt. load_sop reads"):
        load_sop(tmp_path)


def test_shopee(tmp_path):
    text = (
        "posting_id,image,image_phash,title,label_group\n"
        'train_129,a.jpg,94974f937d4c2433,"Paper Bag, Victoria",249114794\n'
        "train_338,a.jpg,94974f937d4c2433,Paper Bag,249114794\n"
        "train_228,b.jpg,af3f9460c2838f0f,Tape,2937985045\n"
    )
    write(tmp_path, {"train.csv": text, **images(["train_images/a.jpg", "train_images/b.jpg"])})
    offers = load_shopee(tmp_path)
    assert below(offers.data, tmp_path / "train_images") == ["a.jpg", "a.jpg", "b.jpg"]
    assert offers.target.tolist() == [249114794, 249114794, 2937985045]
    assert offers.title[0] == "Paper Bag, Victoria"
    assert offers.posting_id.tolist() == ["train_129", "train_338", "train_228"]
    (tmp_path / "train_images/b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images that train.csv lists"):
        load_shopee(tmp_path)
    write(tmp_path, {"train.csv": "posting_id,image,title\n1,a.jpg,x\n"})
    with pytest.raises(ValueError, match="lacks values in the columns posting_id, image, title"):
        load_shopee(tmp_path)
    (tmp_path / "train.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks train.csv.*www.kaggle.com"):
        load_shopee(tmp_path)


# Places ---------------------------------------------------------------------------------------

OXFORD = {
    **images(f"oxbuild_images/keble_00000{i}.jpg" for i in range(6)),
    **images(f"oxbuild_images/all_souls_00000{i}.jpg" for i in range(2)),
    "gt_files_170407/keble_1_query.txt": "oxc1_keble_000001 136.5 34.1 648.5 955.7\n",
    "gt_files_170407/keble_1_good.txt": "keble_000001\nkeble_000003\n",
    "gt_files_170407/keble_1_ok.txt": "keble_000004\n",
    "gt_files_170407/keble_1_junk.txt": "keble_000000\nkeble_000005\n",
    "gt_files_170407/all_souls_1_query.txt": "oxc1_all_souls_000000 1 2 3 4",
    "gt_files_170407/all_souls_1_good.txt": "all_souls_000000\n",
    "gt_files_170407/all_souls_1_ok.txt": "",
    "gt_files_170407/all_souls_1_junk.txt": "",
}


def official_ap(ranked, relevant, junk):
    """Area under the curve as the program that comes with Oxford5k sums it up."""
    old_recall, old_precision, area, found, place = 0.0, 1.0, 0.0, 0, 0
    for name in ranked:
        if name in junk:
            continue
        found += name in relevant
        place += 1
        recall, precision = found / len(relevant), found / place
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def test_oxford5k(tmp_path):
    oxford = load_oxford5k(write(tmp_path, OXFORD))
    names = [Path(path).stem for path in oxford.data]
    assert names == [
        *(f"all_souls_00000{i}" for i in (0, 1)),
        *(f"keble_00000{i}" for i in range(6)),
    ]
    assert oxford.query_names == ["all_souls_1", "keble_1"]
    assert [Path(path).stem for path in oxford.query_data] == ["all_souls_000000", "keble_000001"]
    assert oxford.query.tolist() == [0, 3]
    assert oxford.query_boxes.tolist() == [[1, 2, 3, 4], [136.5, 34.1, 648.5, 955.7]]
    assert oxford.target.T.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 1, 1, 0]]
    assert [rows.tolist() for rows in oxford.junk] == [[], [2, 7]]


def test_the_official_score_comes_out(tmp_path, rng):
    oxford = load_oxford5k(write(tmp_path, OXFORD))
    # Ranking of keble_1: junk, hit, junk, miss, hit, hit, ... -> hits at 0, 2, 3 without junk.
    order = [7, 3, 2, 0, 5, 6, 1, 4]
    distances = np.empty((2, 8))
    distances[:, order] = np.arange(8)
    known = oxford.query_target, oxford.target, distances
    scores = trapezoid_mean_average_precision(*known, exclude=oxford.junk, per_query=True)
    assert scores[1] == pytest.approx(0.76388889)
    plain = mean_average_precision(*known, exclude=oxford.junk, per_query=True)
    assert plain[1] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # all_souls_1 has no junk: its one hit stands at rank 4.
    assert scores[0] == pytest.approx((0 / 3 + 1 / 4) / 2)
    assert plain[0] == pytest.approx(1 / 4)
    for _ in range(20):
        distances = rng.random((2, 8))
        scores = trapezoid_mean_average_precision(
            oxford.query_target, oxford.target, distances, exclude=oxford.junk, per_query=True
        )
        for query in range(2):
            relevant = set(np.flatnonzero(oxford.target[:, query]))
            expected = official_ap(np.argsort(distances[query]), relevant, oxford.junk[query])
            assert scores[query] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"gt_files_170407/keble_1_ok.txt": "keble_000009\n"}, "'keble_000009.jpg', which"),
        ({"gt_files_170407/keble_1_query.txt": "oxc1_x 1 2 3 4\n"}, "'x.jpg', the photo of query"),
        ({"gt_files_170407/new_1_query.txt": "keble_000001 1 2 3 4\n"}, "lacks 'new_1_good.txt'"),
    ],
    ids=["image", "query", "list"],
)
def test_what_oxford5k_lacks_is_named(tmp_path, files, message):
    with pytest.raises(FileNotFoundError, match=message):
        load_oxford5k(write(tmp_path, OXFORD | files))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"gt_files_170407/keble_1_junk.txt": "keble_000003\n"}, "lists images that are relevant"),
        ({"gt_files_170407/keble_1_query.txt": "keble_000001 1 2 3\n"}, "4 words on line 1, not 5"),
        ({"gt_files_170407/keble_1_query.txt": "keble_000001 a b c d\n"}, "is not a name and box"),
        ({"gt_files_170407/keble_1_query.txt": "\n"}, "is not a name and box"),
        ({"copy/keble_000001.jpg": None}, "holds both .* identifies images by their names"),
    ],
    ids=["junk", "box", "numbers", "empty", "twice"],
)
def test_damaged_lists_of_oxford5k_are_refused(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        load_oxford5k(write(tmp_path, OXFORD | files))


def test_oxford5k_needs_images_and_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks a list \*_query.txt. load_oxford5k reads"):
        load_oxford5k(write(tmp_path, images(["a.jpg"])))
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="lacks an image"):
        load_oxford5k(write(tmp_path, {"a_1_query.txt": "a 1 2 3 4"}))


def test_paris6k_leaves_out_what_is_no_image(tmp_path):
    assert len(PARIS_WITHOUT_IMAGE) == 20
    names = ["paris_louvre_000001", "paris_louvre_000136", "paris_triomphe_000002"]
    files = images(f"paris/{name.split('_')[1]}/{name}.jpg" for name in names)
    files |= {
        "gt/louvre_1_query.txt": "paris_louvre_000001 1 2 30.5 40\n",
        "gt/louvre_1_good.txt": "paris_louvre_000001\nparis_louvre_000136\n",
        "gt/louvre_1_ok.txt": "",
        "gt/louvre_1_junk.txt": "paris_triomphe_000002\n",
    }
    paris = load_paris6k(write(tmp_path, files))
    assert below(paris.data, tmp_path / "paris") == [
        *("louvre/paris_louvre_000001.jpg", "triomphe/paris_triomphe_000002.jpg"),
    ]
    assert paris.target.ravel().tolist() == [1, 0]
    assert paris.junk[0].tolist() == [1]
    assert paris.n_ignored == 1


def test_holidays(tmp_path):
    names = [f"jpg1/{n}.jpg" for n in (100100, 100000, 100001)] + ["jpg2/149902.jpg"]
    files = images([*names, "jpg2/149900.JPG", "jpg2/notes.txt", "jpg2/cover.jpg"])
    holidays = load_holidays(write(tmp_path, files))
    assert [Path(path).stem for path in holidays.data] == [
        *("100000", "100001", "100100", "149900", "149902"),
    ]
    assert holidays.target.tolist() == [1000, 1000, 1001, 1499, 1499]
    assert holidays.query.tolist() == [0, 2, 3]
    split = split_protocol("holidays", holidays.target)
    assert split.query.tolist() == holidays.query.tolist()
    # Query 0: a miss, then its photo: (0/1 + 1/2) / 2. Query 3: its photo first.
    distances = np.array([[0, 3, 2, 9, 9], [9, 9, 0, 9, 9], [4, 5, 6, 0, 1]])
    scores = trapezoid_mean_average_precision(
        holidays.target[holidays.query],
        holidays.target,
        distances,
        exclude=holidays.query,
        per_query=True,
    )
    assert scores[[0, 2]].tolist() == [0.25, 1.0]
    (tmp_path / "jpg2/149900.JPG").unlink()
    with pytest.raises(FileNotFoundError, match="'149900.jpg', the query of its group"):
        load_holidays(tmp_path)
    with pytest.raises(ValueError, match="holds both"):
        load_holidays(write(tmp_path, images(["jpg1/100101.jpg", "jpg2/100101.jpg"])))
    shutil.rmtree(tmp_path / "jpg1")
    (tmp_path / "jpg2/149902.jpg").unlink()
    (tmp_path / "jpg2/100101.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="lacks images called by a number"):
        load_holidays(tmp_path)


def test_a_part_of_holidays_asks_with_the_first_photo_that_is_there(tmp_path):
    write(tmp_path, images(f"{n}.jpg" for n in (100001, 100002, 100100, 100101, 100205)))
    with pytest.raises(FileNotFoundError, match=r"'100000.jpg', the query .* \(skip_missing=True"):
        load_holidays(tmp_path)
    holidays = load_holidays(tmp_path, skip_missing=True)
    assert holidays.target.tolist() == [1000, 1000, 1001, 1001, 1002]
    assert holidays.query.tolist() == [0, 2]  # and 100205 finds nobody
    assert "3 groups, 2 queries" in holidays.DESCR
    with pytest.raises(ValueError, match="skip_missing=1 must be True or False"):
        load_holidays(tmp_path, skip_missing=1)


def test_boxes_are_cut_out(tmp_path):
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[5:10, 12:20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    paths = [tmp_path / "a.png", tmp_path / "gray.png", str(tmp_path / "a.png")]
    boxes = [[12, 5, 20, 10], [11.6, 4.7, 20.4, 10.3], [-5, -5, 300, 12]]
    parts = crop_images(paths, boxes)
    assert [part.size for part in parts] == [(8, 5), (8, 5), (30, 12)]
    assert [part.mode for part in parts] == ["RGB"] * 3
    assert np.asarray(parts[0]).min() == np.asarray(parts[1]).min() == 255
    assert np.array_equal(np.asarray(parts[2]), pixels[:12])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[1, 2, 3]], r"boxes has shape \(1, 3\) for 1 images"),
        ([[0, 0, 1, 1], [0, 0, 1, 1]], r"boxes has shape \(2, 4\) for 1 images"),
        ([[0, 0, np.nan, 1]], "four finite numbers"),
        ([[5, 5, 5, 9]], r"Nothing of .* 10 x 10 px, is inside its box \[5, 5, 5, 9\]"),
        ([[20, 0, 30, 5]], "Nothing of"),
    ],
    ids=["three", "two", "nan", "empty", "outside"],
)
def test_boxes_that_cannot_be_cut_are_refused(tmp_path, boxes, message):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        crop_images([tmp_path / "a.png"], boxes)


# All ------------------------------------------------------------------------------------------

LOADERS = [
    *(load_cars, load_cifar10, load_cub, load_holidays, load_mirflickr, load_nuswide),
    *(load_oxford5k, load_paris6k, load_shopee, load_sop, load_svhn),
]


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
def test_an_empty_folder_tells_where_the_data_are(tmp_path, load):
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path)
    message = str(error.value)
    assert f"{load.__name__} reads " in message
    assert "Nothing is downloaded: get the data from http" in message
    with pytest.raises(FileNotFoundError, match="folder='.*missing' does not exist"):
        load(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        load(tmp_path / "file")


def test_photos_and_cropped_queries_run_through_an_extractor(tmp_path, rng):
    folder = write(
        tmp_path, OXFORD | {"gt_files_170407/keble_1_query.txt": "keble_000001 2 2 30 20"}
    )
    for path in sorted(folder.rglob("*.jpg")):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)
    oxford = load_oxford5k(folder)
    extractor = CNNFeatureExtractor(
        "small", weights=None, image_size=16, max_epochs=1, random_state=0
    ).fit(oxford.data, oxford.target)
    gallery = extractor.transform(oxford.data)
    queries = extractor.transform(crop_images(oxford.query_data, oxford.query_boxes))
    whole = extractor.transform(oxford.query_data)
    assert queries.shape == (2, gallery.shape[1])
    assert np.array_equal(whole, gallery[oxford.query])
    assert not np.allclose(queries, whole)
    score = trapezoid_mean_average_precision(
        oxford.query_target, oxford.target, 1 - queries @ gallery.T, exclude=oxford.junk
    )
    assert 0 < score <= 1


# Grocery --------------------------------------------------------------------------------------

GROCERY_HEAD = (
    "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic\n"
)
GROCERY_PATHS = [
    *("train/Fruit/Apple/Gala/Gala_001.jpg", "train/Fruit/Apple/Fuji/Fuji_001.jpg"),
    *("val/Fruit/Pear/Pear_001.jpg", "test/Fruit/Apple/Gala/Gala_001.jpg"),
]
GROCERY = {
    "classes.csv": GROCERY_HEAD + "Gala,0,Apple,0,/a.jpg\nFuji,2,Apple,0,/a.jpg\nPear,1,Pear,1,\n",
    "train.txt": f"{GROCERY_PATHS[0]}, 0, 0\n{GROCERY_PATHS[1]}, 2, 0\n",
    "val.txt": f"{GROCERY_PATHS[2]}, 1, 1\n",
    "test.txt": f"{GROCERY_PATHS[3]}, 0, 0\n",
    **images(GROCERY_PATHS),
}
AS_CSV = {
    name.replace(".txt", ".csv"): "path,fine,coarse\n" + text.replace(", ", ",")
    if name.endswith(".txt")
    else text
    for name, text in GROCERY.items()
}


@pytest.mark.parametrize("place", ["", "dataset", "GroceryStoreDataset-master/dataset"])
@pytest.mark.parametrize("files", [GROCERY, AS_CSV], ids=["txt", "csv"])
def test_grocery(tmp_path, place, files):
    write(tmp_path / place, files)
    groceries = load_grocery(tmp_path)
    assert below(groceries.data, tmp_path / place) == GROCERY_PATHS
    assert groceries.target.tolist() == [0, 2, 1, 0]
    assert groceries.target_names == ["Gala", "Pear", "Fuji"]
    assert groceries.coarse_target.tolist() == [0, 0, 1, 0]
    assert groceries.coarse_names == ["Apple", "Pear"]
    assert (groceries.train.tolist(), groceries.validation.tolist()) == ([0, 1], [2])
    assert groceries.test.tolist() == [3]
    assert groceries.target.dtype == groceries.coarse_target.dtype == np.int64


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.csv", "Gala,0,Apple,0\n", "lacks values in the columns Class Name"),
        ("classes.csv", GROCERY_HEAD + "Gala,0,Apple\n", "lacks values in the columns"),
        ("classes.csv", GROCERY_HEAD + "Gala,1,Apple,0,\n", "does not number its products 0, 1"),
        ("classes.csv", GROCERY_HEAD + "Gala,0,Apple,3,\n", "does not number its coarse classes"),
        ("val.txt", "", "val.txt' is not a list of path, product and coarse class"),
        ("val.txt", f"{GROCERY_PATHS[2]} 1 1\n", "is not a list of path, product and coarse class"),
        ("val.txt", f"{GROCERY_PATHS[2]}, one, 1\n", "has other values in place of integers"),
        ("val.txt", f"{GROCERY_PATHS[2]}, 3, 1\n", "has products from 3 to 3, of 3"),
        ("val.txt", f"{GROCERY_PATHS[2]}, 1, 0\n", "Pear_001.jpg' in another coarse class than"),
    ],
)
def test_damaged_lists_of_grocery_are_refused(tmp_path, name, text, message):
    write(tmp_path, {**GROCERY, name: text})
    with pytest.raises(ValueError, match=message):
        load_grocery(tmp_path)


@pytest.mark.parametrize("name", ["classes.csv", "train.txt", "val.txt", GROCERY_PATHS[3]])
def test_what_grocery_lacks_is_named(tmp_path, name):
    write(tmp_path, GROCERY)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{Path(name).name}.*github.com/marcusklasson"):
        load_grocery(tmp_path)


# A file of fashion ----------------------------------------------------------------------------

FASHION_NAMES = ["gender=Men", "type=Tie", "type=Bag", "color=Red", "color=Blue"]


def write_fashion(folder, **changed):
    """Write five photos, of which the first and the last have equal bytes."""
    photos = []
    for shade in (10, 60, 120, 180, 10):
        buffer = BytesIO()
        Image.new("RGB", (6, 8), (shade, 0, 0)).save(buffer, "JPEG")
        photos.append(buffer.getvalue())
    content = {
        "jpeg": np.frombuffer(b"".join(photos), np.uint8),
        "ends": np.cumsum([len(photo) for photo in photos]),
        "labels": np.array([[1, 1, 0, 1, 0], [0, 0, 1, 1, 0], [1, 0, 1, 0, 1]] + 2 * [[0] * 5]),
        "names": np.array(FASHION_NAMES),
        "files": np.array([f"{i}.jpg" for i in range(5)]),
    }
    path = folder / "photos.npz"
    np.savez(path, **{k: v for k, v in (content | changed).items() if v is not None})
    return path, photos


def test_photos_with_equal_bytes_are_left_out_before_any_split(tmp_path):
    path, photos = write_fashion(tmp_path)
    found = load_fashion_multilabel(path, kinds=["type", "color"])
    assert found.data.tolist() == photos[1:4]
    assert found.files.tolist() == ["1.jpg", "2.jpg", "3.jpg"]
    assert found.target.tolist() == [[0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert found.target.dtype == np.uint8
    assert found.target_names == FASHION_NAMES[1:]
    assert found.n_duplicates == 2
    whole = load_fashion_multilabel(path, kinds=None, drop_duplicates=False)
    assert whole.data.tolist() == photos
    assert (whole.target.shape, whole.target_names) == ((5, 5), FASHION_NAMES)
    assert whole.n_duplicates == 0


def test_photos_of_the_file_are_read_as_images(tmp_path):
    path, _ = write_fashion(tmp_path)
    found = load_fashion_multilabel(path, kinds=["type"])
    pixels = check_images(found.data).read([2, 0], 8, 8)
    assert pixels.shape == (2, 8, 8, 3)
    assert np.abs(pixels[:, 4, 4, 0].astype(int) - [180, 60]).max() <= 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": None}, r"photos.npz' is not a file of photos: it lacks \['names'\]"),
        ({"jpeg": np.zeros(9)}, "jpeg is not uint8 in one row"),
        ({"ends": np.array([1, 2, 3, 4, 5])}, "ends are not ascending integers up to the length"),
        ({"ends": np.array([5, 2, 3])}, "ends are not ascending integers up to the length"),
        ({"ends": np.zeros(0, int)}, "ends are not ascending integers up to the length"),
        ({"labels": np.zeros((4, 5), int)}, "labels must have one row of 0 and 1"),
        ({"labels": np.full((5, 5), 2)}, "labels must have one row of 0 and 1"),
        ({"names": np.array(["a", "b", "c", "d", "e"])}, "names are not of the form kind=value"),
        ({"files": np.array(["a.jpg"])}, "files must have one name for each of ends"),
    ],
    ids=str,
)
def test_damaged_files_of_photos_are_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        load_fashion_multilabel(write_fashion(tmp_path, **changed)[0], kinds=None)


@pytest.mark.parametrize("kinds", [["shape"], "type", []])
def test_kinds_of_labels_that_the_file_has_not_are_named(tmp_path, kinds):
    with pytest.raises(ValueError, match=r"kinds=.* must be some of \['gender', 'type', 'color'\]"):
        load_fashion_multilabel(write_fashion(tmp_path)[0], kinds=kinds)


# The data themselves --------------------------------------------------------------------------

REAL = Path(os.environ.get("CBIR_DATA_DIR", "no such folder"))


def real(name):
    return pytest.param(
        REAL / name,
        marks=pytest.mark.skipif(
            not (REAL / name).exists(), reason=f"CBIR_DATA_DIR names no folder that has {name}"
        ),
        id=name,
    )


@pytest.mark.parametrize("folder", [real("grocery")])
def test_unseen_products_of_grocery_store(folder):
    groceries = load_grocery(folder)
    assert [len(part) for part in (groceries.train, groceries.validation, groceries.test)] == [
        *(2640, 296, 2485),
    ]
    assert (len(groceries.target_names), len(groceries.coarse_names)) == (81, 43)
    parts = {"train": groceries.train, "test": groceries.test}
    split = split_unseen_products(groceries.target, groceries.coarse_target, **parts)
    assert (len(split.gallery), len(split.query)) == (1069, 985)
    for part in (split.gallery, split.query):
        assert np.unique(groceries.target[part]).tolist() == list(range(44, 81))
    validation = np.unique(groceries.target[split.validation.query])
    assert len(validation) == 8
    trained = np.unique(groceries.target[split.train])
    assert np.union1d(trained, validation).tolist() == list(range(38))
    assert len(trained) == 30


@pytest.mark.parametrize("folder", [real("holidays")])
def test_groups_of_holidays(folder):
    holidays = load_holidays(folder, skip_missing=True)
    assert (len(holidays.data), len(holidays.query)) == (805, 299)
    listed = json.loads((folder / "gnd.json").read_text())
    names = [Path(path).name for path in holidays.data]
    assert names == listed["images"]
    for entry, query in zip(listed["queries"], holidays.query, strict=True):
        assert names[query] == entry["query"]
        group = np.flatnonzero(holidays.target == holidays.target[query])
        assert sorted(names[row] for row in group) == sorted([*entry["good"], entry["query"]])
        assert entry["junk"] == [entry["query"]]
    folds = split_group_folds(holidays.target)
    assert sum(len(fold.query) for fold in folds) == 299
    assert sorted(len(fold.query) for fold in folds) == [59, 60, 60, 60, 60]


@pytest.mark.parametrize("path", [real("fashion_multilabel.npz")])
def test_labels_of_the_fashion_photos(path):
    photos = load_fashion_multilabel(path)
    assert photos.target.shape == (12000 - 156, 76)
    assert photos.n_duplicates == 156
    assert photos.target.any(axis=1).all()
    shared = photos.target.astype(np.float32) @ photos.target.T
    np.fill_diagonal(shared, 0)
    n_pairs = len(shared) * (len(shared) - 1)
    levels = [float((shared >= level).sum() / n_pairs) for level in (1, 2, 3)]
    assert levels == pytest.approx([0.31, 0.08, 0.01], abs=0.005)
