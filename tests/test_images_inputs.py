"""What can be passed as images: any sequence, encoded photos, dictionaries, opened images."""

import collections.abc
import gzip
import io
import multiprocessing
import os
import pickle
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.validation import _num_samples
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import crop_images, make_shapes
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.extraction import extract
from sklearn_cbir.images import (
    ImageReadError,
    check_images,
    images_of,
    is_feature_rows,
    readable_images,
)

PHOTOS = sorted(str(path) for path in (Path(__file__).parent / "data" / "clothing").glob("*/*"))[:6]
ORIENTATION = 274


@pytest.fixture
def pixels():
    down, right = np.mgrid[0:1:48j, 0:1:64j]
    return np.rint(255 * np.stack([down, right, (down + right) / 2], axis=2)).astype(np.uint8)


@pytest.fixture
def photos():
    return [Path(path).read_bytes() for path in PHOTOS]


@pytest.fixture
def expected():
    return check_images(PHOTOS).read(slice(None), 32)


@pytest.fixture
def opened():
    images = [Image.open(path) for path in PHOTOS]
    yield images
    for image in images:
        image.close()


class Lazy(collections.abc.Sequence):
    """A sequence that makes its elements when they are asked for, as a column of datasets does."""

    def __init__(self, make, n):
        self.make = make
        self.n = n
        self.asked = []

    def __len__(self):
        return self.n

    def __getitem__(self, position):
        assert type(position) is int
        self.asked.append(position)
        return self.make(position)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# Encoded photos -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [bytes, bytearray, memoryview, io.BytesIO, lambda data: {"bytes": data, "path": "gone.jpg"}],
    ids=["bytes", "bytearray", "memoryview", "BytesIO", "dictionary"],
)
def test_encoded_photos_give_what_their_files_give(kind, photos, expected):
    images = check_images([kind(photo) for photo in photos])
    images.check_readable()
    assert not is_feature_rows([kind(photo) for photo in photos])
    assert np.array_equal(images.read(slice(None), 32), expected)
    assert images.fingerprint() == check_images([kind(photo) for photo in photos]).fingerprint()
    assert images.fingerprint() != check_images([kind(p + b"\0") for p in photos]).fingerprint()
    again = pickle.loads(pickle.dumps(images[2:]))
    assert np.array_equal(again.read([0], 32)[0], expected[2])


@pytest.mark.parametrize(
    "column",
    [
        lambda items: pd.Series(items, index=range(9, 9 - len(items), -1)),
        lambda items: pd.DataFrame({"photo": items}),
        lambda items: np.array([*items, None], dtype=object)[:-1],
        tuple,
    ],
    ids=["Series", "DataFrame", "array", "tuple"],
)
def test_columns_of_photos_and_dictionaries_are_read(column, photos, expected):
    for items in (
        photos,
        [{"bytes": None, "path": path} for path in PHOTOS],
        [{"path": Path(path)} for path in PHOTOS],
    ):
        X = column(items)
        assert not is_feature_rows(X)
        assert np.array_equal(check_images(X).read(slice(None), 32), expected)


def test_text_arrays_of_any_width_hold_paths(expected):
    X = np.array(PHOTOS, dtype=np.dtypes.StringDType())
    assert not is_feature_rows(X)
    assert np.array_equal(check_images(X).read(slice(None), 32), expected)


def test_a_table_of_images_and_labels_is_refused_by_its_columns():
    class Table(Lazy):
        shape = (3, 2)

    X = Table(lambda i: {"image": PHOTOS[i], "label": i}, 3)
    assert not is_feature_rows(X)
    with pytest.raises(ValueError, match=r"pass only the column of images, such as X\['image'\]"):
        check_images(X)


def test_columns_of_structures_are_read_as_polars_has_them(photos, expected):
    class Struct:
        """The type of such a column, by its name."""

    class Column:
        dtype, shape = Struct(), (len(photos),)

        def to_list(self):
            return [{"bytes": photo, "path": None} for photo in photos]

    kinds = np.dtype([("bytes", object), ("path", object)])
    structured = np.array([(photo, None) for photo in photos], dtype=kinds)
    for X in (Column(), structured):
        assert not is_feature_rows(X)
        assert np.array_equal(check_images(X).read(slice(None), 32), expected)


def test_columns_of_pyarrow_are_read(photos, expected):
    pa = pytest.importorskip("pyarrow")
    structs = [{"bytes": photo, "path": None} for photo in photos]
    for items in (photos, PHOTOS, structs):
        array = pa.array(items)
        for X in (
            array,
            pa.chunked_array([array]),
            pd.Series(pd.arrays.ArrowExtensionArray(array)),
        ):
            assert not is_feature_rows(X)
            assert np.array_equal(check_images(X).read(slice(None), 32), expected)


def test_errors_of_photos_say_what_they_are_and_never_hold_them(photos):
    half = photos[3][: len(photos[3]) // 2]
    message = rf"^X\[3\] \(bytes, {len(half):,} long\): truncated"
    with pytest.raises(ImageReadError, match=message):
        check_images([*photos[:3], half]).check_readable()
    named = {"bytes": half, "path": "a/b.jpg"}
    with pytest.raises(ImageReadError, match=r"^X\[0\] 'a/b.jpg' \(bytes, .* long\): truncated"):
        check_images([named]).read([0], 32)
    large = bytes(3_000_000)
    for act in (
        lambda: check_images([large]).check_readable(),
        lambda: check_images([large, "a.jpg"]),
        lambda: check_images([[large], [large, large]]),
        lambda: check_images(["x" * 3_000_000]).check_readable(),
        lambda: check_images(large),
        lambda: check_images({"photo": large}),
        lambda: check_images(iter([large])),
        lambda: check_images([{"photo": large}]),
        lambda: check_images([(large, 1)]),
        lambda: check_images([None, large]),
        lambda: check_images(np.array([large])),
        lambda: check_images([photos[0]], max_pixels=large),
        lambda: GISTDescriptor(image_size=large).fit([photos[0]]),
    ):
        with pytest.raises(ValueError, match=r"\.$") as raised:
            act()
        assert len(str(raised.value)) < 1000


def test_arrays_of_fixed_width_bytes_are_refused_as_they_cut_photos(photos):
    X = np.array(photos)
    for act in (
        lambda: check_images(X),
        lambda: check_images(list(X)),
        lambda: check_images(X[:, None]),
    ):
        with pytest.raises(ValueError, match=r"dtype S.*drops zeros.*os.fsdecode"):
            act()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([{"image": b"x"}], r"X\[0\] is a dictionary with the keys \['image'\].*'bytes'.*'path'"),
        ([{"bytes": None, "path": None}], r"X\[0\] is a dictionary with the keys"),
        ([{"bytes": "a.jpg"}], r"X\[0\] is a dictionary with the keys"),
        ([{"path": "a.jpg"}, {}], r"X\[1\] is a dictionary with the keys \[\]"),
        (["a.jpg", b"x"], r"X\[0\] is a path, but X\[1\] is an encoded photo"),
        ([b"x", None], r"X\[1\] is None of type NoneType"),
        ([0.5, "a.jpg"], r"X\[0\] is 0.5 of type float"),
        ([("a.jpg", 1), ("b.jpg", 0)], r"X\[0\] is a pair.*\[path for path, _ in X\]"),
        ([(Image.new("L", (4, 4)), 1)], r"X\[0\] is a pair.*images_of\(X\)"),
        (Lazy(lambda i: (Image.new("L", (4, 4)), i), 3), r"X\[0\] is a pair.*images_of\(X\)"),
        (Lazy(lambda i: None, 3), r"X\[0\] is None of type NoneType"),
        ((path for path in PHOTOS), r"type generator.*Pass list\(X\)"),
        (map(str, PHOTOS), r"type map.*Pass list\(X\)"),
        ({*PHOTOS}, r"type set.*Pass list\(X\)"),
        ({"image": PHOTOS}, "of type dict"),
        (np.full((2, 4, 4, 3), "1"), r"X has dtype <U1 and holds paths in shape \(2, 4, 4, 3\)"),
    ],
)
def test_what_is_no_sequence_of_images_is_refused_with_the_way_out(X, message):
    assert not is_feature_rows(X)
    with pytest.raises(ValueError, match=message) as raised:
        check_images(X)
    assert str(raised.value).endswith(".")


def test_an_open_file_is_refused():
    with (
        open(PHOTOS[0], "rb") as file,
        pytest.raises(ValueError, match=r"X\[0\] is an open file\. Pass its path, or .*read\(\)"),
    ):
        check_images([file])


# Sequences that are read late -----------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda i: PHOTOS[i],
        lambda i: Path(PHOTOS[i]).read_bytes(),
        lambda i: {"path": PHOTOS[i]},
        lambda i: Image.open(io.BytesIO(Path(PHOTOS[i]).read_bytes())),
    ],
    ids=["paths", "bytes", "dictionaries", "opened"],
)
def test_elements_of_a_sequence_are_asked_for_when_they_are_read(make, expected):
    X = Lazy(make, len(PHOTOS))
    assert not is_feature_rows(X)
    images = check_images(X)
    images.check_readable()
    assert set(X.asked) == {0}  # to see what they are
    X.asked.clear()
    assert np.array_equal(images[2:].read([0, 2], 32), expected[[2, 4]])
    assert sorted(X.asked) == [2, 4]
    assert images.fingerprint() == check_images(Lazy(make, len(PHOTOS))).fingerprint()
    assert images[:2].fingerprint() != images[1:3].fingerprint()
    assert np.array_equal(images.part([3]).read([0], 32)[0], expected[3])


def test_rows_of_numbers_in_any_sequence_are_features():
    assert is_feature_rows(Lazy(lambda i: [0.5, 1.0], 3))


def test_a_sequence_that_fails_is_named_by_row():
    def make(i):
        return {0: PHOTOS[0], 1: np.zeros((3, 8, 8), np.uint8)}[i]

    images = check_images(Lazy(make, 3))
    with pytest.raises(ImageReadError, match=r"^X\[1\]: it has shape \(3, 8, 8\), which looks ch"):
        images.read([0, 1], 8)
    with pytest.raises(ImageReadError, match=r"^X\[2\]: X\[2\] cannot be loaded: KeyError: '2'"):
        images.read([2], 8)


def test_arrays_of_a_lazy_sequence_mean_what_arrays_mean(rng):
    X = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for make in (lambda i: X[i], lambda i: X[i] / 255, lambda i: torch.from_numpy(X[i])):
        assert np.array_equal(check_images(Lazy(make, 3)).read(slice(None), 8), X)


def small(**options):
    return CNNFeatureExtractor("small", weights=None, image_size=16, random_state=0, **options)


def test_estimators_and_extract_take_lazy_sequences(tmp_path):
    X, y = Lazy(lambda i: PHOTOS[i], 6), [0, 1] * 3
    fitted = small(max_epochs=1).fit(X, y)
    rows = small(max_epochs=1).fit(PHOTOS, y).transform(PHOTOS)
    assert np.array_equal(fitted.transform(X), rows)
    for images in (X, check_images(X), check_images([Path(p).read_bytes() for p in PHOTOS])):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        assert np.allclose(extract(fitted, images, folder, shard_size=4), rows, atol=1e-6)
    assert GISTDescriptor().transform(X).shape == (6, 512)


def test_extract_keeps_the_limit_of_its_images(tmp_path):
    fitted = GISTDescriptor()
    path = tmp_path / "a.png"
    Image.new("L", (200, 200)).save(path)
    strict = check_images([path] * 3, max_pixels=30_000)
    with pytest.raises(ImageReadError, match="40,000 pixels are more than the 30,000"):
        extract(fitted, strict, tmp_path / "out")
    features = extract(fitted, check_images(strict, max_pixels=40_000), tmp_path / "out")
    assert features.shape == (3, 512)
    assert list(features.ids) == [str(path)] * 3


def test_extract_notices_that_a_file_of_a_dictionary_has_changed(tmp_path, photos):
    X = [{"path": str(tmp_path / f"{i}.jpg")} for i in range(3)]
    for item, photo in zip(X, photos):
        Path(item["path"]).write_bytes(photo)
    extract(GISTDescriptor(), X, tmp_path / "out")
    Path(X[1]["path"]).write_bytes(photos[4])
    with pytest.raises(ValueError, match="other images"):
        extract(GISTDescriptor(), X, tmp_path / "out")


def test_extract_leaves_opened_images_unread_in_workers_too(opened, tmp_path):
    rows = GISTDescriptor().transform(PHOTOS)
    for n_jobs in (1, 2):
        features = extract(GISTDescriptor(), opened, tmp_path / str(n_jobs), n_jobs=n_jobs)
        assert np.array_equal(features.load(), rows)
    assert all(image.tile for image in opened)


# Data sets of torch ---------------------------------------------------------------------------


def test_images_and_labels_of_an_image_folder(tmp_path):
    for i, path in enumerate(PHOTOS):
        place = tmp_path / "ab"[i % 2] / f"{i}.jpg"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(Path(path).read_bytes())
    folder = ImageFolder(tmp_path)
    images, labels = images_of(folder)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    whole = [ImageOps.exif_transpose(Image.open(path)) for path, _ in folder.samples]
    assert np.array_equal(images.read(slice(None), 32), check_images(whole).read(slice(None), 32))
    part = torch.utils.data.Subset(folder, [4, 0])
    images, labels = images_of(part)
    assert labels.tolist() == [1, 0]
    assert len(images) == 2
    tensors = v2.Compose([v2.ToImage(), v2.Resize((16, 16)), v2.ToDtype(torch.float32, scale=True)])
    changed = ImageFolder(tmp_path, transform=tensors, target_transform=lambda label: f"c{label}")
    images, labels = images_of(changed)
    assert images.read([0], 16).shape == (1, 16, 16, 3)
    assert labels.tolist() == ["c0"] * 3 + ["c1"] * 3
    with pytest.raises(ValueError, match=r"X\[0\] is a pair.*images_of\(X\)"):
        check_images(folder)


def test_labels_come_from_the_elements_where_nothing_lists_them():
    pairs = Lazy(lambda i: (np.full((4, 4), i, np.uint8), torch.tensor(i)), 3)
    images, labels = images_of(pairs)
    assert labels.tolist() == [0, 1, 2]
    assert images.read(slice(None), 4)[:, 0, 0, 0].tolist() == [0, 1, 2]
    for dataset, message in [
        (iter([1]), r"list\(dataset\)"),
        ([3], r"dataset\[0\] is 3, not a pair"),
    ]:
        with pytest.raises(ValueError, match=message):
            images_of(dataset)


# PIL images that the caller has opened --------------------------------------------------------


def test_opened_images_are_read_as_their_files_and_left_unread(opened, expected):
    images = check_images(opened)
    images.check_readable()
    assert np.array_equal(images.read(slice(None), 32), expected)
    images.fingerprint()
    pickle.loads(pickle.dumps(images)).read([0], 32)
    assert all(image.tile for image in opened)  # nothing is kept decoded
    opened[0].load()
    assert check_images(opened).read([0], 32).shape == (1, 32, 32, 3)


def test_an_opened_image_that_is_truncated_is_found_before_training(photos):
    half = Image.open(io.BytesIO(photos[0][: len(photos[0]) // 2]))
    with pytest.raises(ImageReadError, match=r"^X\[1\]: truncated"):
        check_images([Image.new("L", (8, 8)), half]).check_readable()


@pytest.mark.parametrize("close", ["close", "verify"])
def test_an_opened_image_whose_file_is_closed_is_named(close, opened):
    getattr(opened[1], close)()
    images = check_images(opened)
    for act in (images.check_readable, lambda: images.read([0, 1], 8)):
        with pytest.raises(ImageReadError, match=r"^X\[1\] .*it was closed.* Open it again"):
            act()


@pytest.mark.parametrize("kind", ["file", "bytes", "zip", "gzip"])
def test_opened_images_are_read_whatever_they_were_opened_from(kind, photos, expected, tmp_path):
    with ExitStack() as stack:
        if kind == "zip":
            archive = stack.enter_context(zipfile.ZipFile(tmp_path / "a", "w"))
            archive.writestr("a.jpg", photos[0])
        opener = {
            "file": lambda: open(PHOTOS[0], "rb"),  # noqa: SIM115
            "bytes": lambda: io.BytesIO(photos[0]),
            "zip": lambda: archive.open("a.jpg"),
            "gzip": lambda: gzip.open(io.BytesIO(gzip.compress(photos[0]))),  # noqa: SIM115
        }[kind]
        images = check_images([Image.open(stack.enter_context(opener()))])
        for _ in range(2):
            assert np.array_equal(images.read([0], 32)[0], expected[0])


def _read_in_child(images, start, queue):
    queue.put(images.read(start, 32))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_read_the_same_opened_images(opened, expected):
    images = check_images(opened * 4)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    order = np.arange(len(images))
    children = [
        context.Process(target=_read_in_child, args=(images, order, queue)) for _ in range(3)
    ]
    for child in children:
        child.start()
    for _ in children:
        assert np.array_equal(queue.get(timeout=60), np.concatenate([expected] * 4))
    for child in children:
        child.join()


def test_a_frame_that_the_caller_went_to_is_read(tmp_path):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    for name in ("a.gif", "a.tif", "a.webp", "a.png"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        with Image.open(tmp_path / name) as image:
            image.seek(2)
            images = check_images([image])
            assert (images.read([0], 8) == (0, 0, 255)).all()
            again = pickle.loads(pickle.dumps(images))
            assert (again.read([0], 8) == (0, 0, 255)).all()


def turned_photo(pixels, kind, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encoded(Image.fromarray(pixels), kind, exif=exif, **options)


UPRIGHT_BY_TAG = {
    "convert": lambda image: image.convert("RGB"),
    "copy": lambda image: image.copy(),
    "resize": lambda image: image.resize(image.size),
    "crop": lambda image: image.crop((0, 0, *image.size)),
    "filter": lambda image: image.point(lambda value: value),
}


@pytest.mark.parametrize("change", UPRIGHT_BY_TAG.values(), ids=UPRIGHT_BY_TAG)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_images_made_of_a_turned_photo_are_turned_by_its_tag_and_warned_of(kind, change, pixels):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = turned_photo(pixels, kind, **options)
    upright = check_images([data]).read([0], 48)
    with Image.open(io.BytesIO(data)) as image:
        made = change(image)
    with pytest.warns(UserWarning, match=r"changed after they were opened \(1 of 2\)"):
        images = check_images([made, Image.new("RGB", (8, 8))])
    assert np.array_equal(images.read([0], 48), upright)
    with pytest.warns(UserWarning, match=r"\(1 of 1\).*use PIL.ImageOps.exif_transp"):
        assert np.array_equal(check_images(Lazy(lambda _: made, 1)).read([0], 48), upright)


def test_a_tiff_is_turned_by_pillow_when_it_is_decoded_and_not_again(pixels):
    with Image.open(io.BytesIO(turned_photo(pixels, "TIFF"))) as image:
        upright = np.rot90(pixels, -1)[8:56]
        for one in (image, image.convert("RGB"), image):
            assert np.array_equal(check_images([one]).read([0], 48)[0], upright)


def test_only_exif_transpose_tells_that_a_photo_has_been_turned(pixels):
    with Image.open(io.BytesIO(turned_photo(pixels, "PNG"))) as image:
        upright = np.rot90(pixels, -1)[8:56]
        assert np.array_equal(check_images([image]).read([0], 48)[0], upright)
        made = [
            ImageOps.exif_transpose(image),
            ImageOps.exif_transpose(image).convert("RGB"),
            ImageOps.exif_transpose(image.convert("RGB")),
            Image.fromarray(np.asarray(ImageOps.exif_transpose(image))),
        ]
        for one in made:
            assert np.array_equal(check_images([one]).read([0], 48)[0], upright)
        with pytest.warns(UserWarning, match="for example with rotate, they are turned twice"):
            images = check_images([image.rotate(-90, expand=True)])
        assert np.array_equal(images.read([0], 48)[0], np.rot90(pixels, -2)[:, 8:56])
        image.load()
        assert np.array_equal(check_images([image]).read([0], 48)[0], upright)


# Boxes ----------------------------------------------------------------------------------------


def test_boxes_are_those_of_the_upright_image(pixels, tmp_path):
    path = tmp_path / "phone.png"
    path.write_bytes(turned_photo(pixels, "PNG"))
    upright = np.rot90(pixels, -1)  # 64 high, 48 wide
    for item in (path, path.read_bytes()):
        (part,) = crop_images([item], [[10, 50, 40, 64]])
        assert np.array_equal(np.asarray(part), upright[50:64, 10:40])
        assert np.array_equal(check_images([part]).read([0], 14)[0], upright[50:64, 18:32])


def test_boxes_show_what_a_viewer_shows(tmp_path):
    gray = np.full((20, 20), 119 * 257, np.uint16)
    Image.fromarray(gray).save(tmp_path / "16.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    parts = crop_images([tmp_path / "16.png", tmp_path / "clear.png"], [[2, 2, 9, 9]] * 2)
    assert [np.unique(np.asarray(part)).tolist() for part in parts] == [[119], [255]]
    (tmp_path / "broken.png").write_bytes(b"text")
    with pytest.raises(ImageReadError, match=r"X\[0\] .*broken.png': not an image"):
        crop_images([tmp_path / "broken.png"], [[0, 0, 2, 2]])
    with pytest.raises(ImageReadError, match="400 pixels are more than the 399"):
        crop_images([tmp_path / "16.png"], [[0, 0, 2, 2]], max_pixels=399)


# A network that was fitted on arrays ----------------------------------------------------------


@pytest.fixture(scope="module")
def shapes():
    images, y = make_shapes(12, n_classes=3, random_state=0)
    images = images[:, 2:]  # 30 x 32
    network = CNNFeatureExtractor("small", weights=None, max_epochs=1, random_state=0)
    return images, network.fit(images, y)


def test_a_network_fitted_on_arrays_can_be_asked_with_images_of_any_kind(shapes, tmp_path):
    images, network = shapes
    rows = network.transform(images)
    opaque = np.concatenate([images, np.full_like(images[..., :1], 255)], axis=3)
    pictures = [Image.fromarray(image) for image in images]
    files = [encoded(picture, "PNG") for picture in pictures]
    for X in (pictures, list(images), opaque, files, images / 255):
        assert np.allclose(network.transform(X), rows, atol=1e-6)
    gray = images[..., :1]
    assert np.array_equal(network.transform(gray), network.transform(np.repeat(gray, 3, axis=3)))


def test_images_of_another_size_are_resized_until_they_cover_that_of_the_arrays(shapes):
    images, network = shapes
    doubled = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)  # 60 x 64
    wide = np.pad(images, [(0, 0), (0, 0), (10, 10), (0, 0)])  # the middle is cut out
    rows = network.transform(images)
    assert np.array_equal(network.transform(wide), rows)
    near = network.transform(doubled)
    assert (np.einsum("ij,ij->i", near, rows) > 0.98 * np.linalg.norm(near, axis=1)).all()
    assert network.transform([Image.new("L", (300, 7))]).shape == (1, rows.shape[1])


# Memory ---------------------------------------------------------------------------------------


def test_paths_take_the_memory_of_their_text_not_of_the_longest():
    paths = [f"photos/{i:05d}.jpg" for i in range(10_000)] + ["x" * 4000 + "/é\udcff.jpg"]
    images = check_images(paths)
    assert len(pickle.dumps(images)) < 20 * len("".join(paths))
    assert len(pickle.dumps(images)) < 500_000  # an array of text would take 160 MB
    assert images[[5, 10_000, 0]].paths.tolist() == [paths[5], paths[10_000], paths[0]]


class ArrowColumn:
    """A column as pyarrow has it: no shape, and a to_numpy that refuses text."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, position):
        return self.values[position]

    def __array__(self, dtype=None, copy=None):
        return np.array([*self.values, None], dtype=object)[:-1]

    def to_pylist(self):
        return self.values

    def to_numpy(self):
        raise ValueError("zero_copy_only was True")


def test_readable_images_takes_columns_of_arrow(photos):
    for values in (PHOTOS, photos):
        found = readable_images(ArrowColumn([*values[:2], None, values[2]]), [*"abcd"])
        assert found.arrays == [["a", "b", "d"]]
        assert found.positions.tolist() == [0, 1, 3]
        expected = GISTDescriptor().transform(values[:3])
        assert np.array_equal(GISTDescriptor().transform(found.data), expected)


@pytest.mark.parametrize("kind", [memoryview, io.BytesIO], ids=["memoryview", "BytesIO"])
def test_photos_in_memory_are_extracted_and_pickled(kind, photos, tmp_path):
    expected = GISTDescriptor().transform(photos)
    for fold in (list, tuple):
        shards = extract(GISTDescriptor(), fold(map(kind, photos)), tmp_path, shard_size=4)
        assert np.array_equal(np.asarray(shards), expected)
    images = check_images([{"bytes": kind(photo), "path": None} for photo in photos])
    again = pickle.loads(pickle.dumps(images))
    assert np.array_equal(GISTDescriptor().transform(again), expected)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "JPEG2000"])
def test_images_that_the_caller_opened_are_read_in_formats_of_pillow_only(kind, pixels):
    data = encoded(Image.fromarray(pixels), kind)
    with Image.open(io.BytesIO(data)) as image:
        images = check_images([image])
        images.check_readable()
        for one in (images, pickle.loads(pickle.dumps(images))):
            assert np.abs(one.read([0], 48)[0].astype(int) - pixels[:, 8:56]).max() < 3
            one.check_readable()
    with pytest.raises(ImageReadError, match="not an image that can be read"):
        check_images([data]).read([0], 48)


def test_no_images_are_refused_as_no_rows_are(photos):
    for images in (check_images(photos), check_images(np.zeros((3, 8, 8), np.uint8))):
        with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
            GISTDescriptor().transform(images[[]])


# Pixels that have no color ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "as_X", [np.stack, list, lambda items: Lazy(items.__getitem__, len(items))]
)
def test_16_bit_images_of_8_bit_values_are_refused_one_by_one(as_X, rng):
    lit = rng.integers(0, 2**16, (3, 9, 9), dtype=np.uint16)
    dark = np.full((9, 9), 200, np.uint16)
    X = as_X([lit[0], dark, lit[1], dark, lit[2]])
    with pytest.raises(ImageReadError, match=r"X\[1\].*no pixel is above 200") as raised:
        check_images(X).read(slice(None), 9)
    assert [fault.index for fault in raised.value.faults] == [1, 3]
    found = readable_images(X, list("abcde"))
    assert found.positions.tolist() == [0, 2, 4]
    assert found.arrays == [["a", "c", "e"]]
    assert [fault.index for fault in found.faults] == [1, 3]
    read = check_images(found.data).read(slice(None), 9)
    assert np.array_equal(read[..., 0], lit >> 8)
    with pytest.raises(ImageReadError, match="1 more cannot be read"):
        readable_images(X[1:4:2] if not isinstance(X, Lazy) else [dark, dark])


def test_tensors_in_bfloat16_are_read(pixels):
    tensor = torch.from_numpy(pixels / 255).bfloat16()
    expected = np.rint(tensor.float().numpy() * 255)
    for X in (tensor[None], [tensor], Lazy(lambda _: tensor, 1)):
        assert np.array_equal(check_images(X).read([0], (48, 64))[0], expected)


def test_odd_modes_and_sizes_of_pil_images(pixels):
    gray = Image.fromarray(pixels[..., 0])
    with_alpha = Image.merge("LA", [gray, Image.new("L", gray.size, 255)])
    premultiplied = check_images([with_alpha.convert("La")]).read([0], 48)
    assert np.array_equal(premultiplied, check_images([gray]).read([0], 48))
    images = check_images([Image.new("RGB", (0, 5))])
    for look in (images.check_readable, lambda: images.read([0], 8)):
        with pytest.raises(ImageReadError, match="0 x 5 pixels: the image is empty"):
            look()


def test_an_open_file_is_refused_by_what_it_is():
    with open(PHOTOS[0], "rb") as file:
        with pytest.raises(ValueError, match=r"X is an open file.*\[X.name\]"):
            check_images(file)
        with pytest.raises(ValueError, match=r"X\[0\] is an open file.*file.read\(\)"):
            check_images([file])


# scikit-learn's splitters and searches ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one array", "paths", "a lazy sequence"])
def test_splitters_count_and_select_checked_images_unread(kind, rng):
    X = {
        "one array": rng.integers(0, 256, (30, 12, 16, 3), dtype=np.uint8),
        "paths": [f"photo{i}.jpg" for i in range(30)],
        "a lazy sequence": Lazy([np.full((8, 9), i, np.uint8) for i in range(30)].__getitem__, 30),
    }[kind]
    images, y = check_images(X), np.arange(30)
    assert _num_samples(images) == len(images) == images.shape[0] == 30
    asked = len(getattr(X, "asked", []))
    train, test, y_train, y_test = train_test_split(images, y, test_size=9, random_state=0)
    assert train.shape == (21, *images.shape[1:])
    assert np.array_equal(train._rows, y_train)
    assert np.array_equal(test._rows, y_test)
    folds = list(KFold(3).split(images))
    assert [len(held_out) for _, held_out in folds] == [10, 10, 10]
    assert np.array_equal(_safe_indexing(images, y > 25)._rows, [26, 27, 28, 29])
    assert indexable(images, y)[0] is images
    assert len(pickle.loads(pickle.dumps(images[3:5]))) == 2
    assert len(getattr(X, "asked", [])) == asked
    with pytest.raises(ValueError, match="is not an array: images are read when they are needed"):
        np.asarray(images)


def test_searches_over_checked_images_score_as_over_what_they_are_made_of():
    X, y = make_shapes(36, image_size=16, random_state=0)
    search = GridSearchCV(
        make_pipeline(GISTDescriptor(), KNeighborsClassifier()),
        {"gistdescriptor__image_size": [16, 24]},
        cv=3,
    )
    expected = search.fit(X, y).cv_results_["mean_test_score"]
    lazy = Lazy(X.__getitem__, len(X))
    for images in (check_images(X), check_images(lazy)):
        assert np.array_equal(search.fit(images, y).cv_results_["mean_test_score"], expected)
        scores = cross_val_score(search.best_estimator_, images, y, cv=3)
        assert scores.mean() == pytest.approx(expected.max())
