"""Folders come in a repeatable order with the right labels; drawn images can be learned."""

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from sklearn_cbir.datasets import load_drawings, load_image_folder, make_shapes
from sklearn_cbir.images import check_images

DATA = Path(__file__).parent / "data"


@pytest.fixture
def make_folder(tmp_path):
    """Return a function that creates empty files of the given names, and returns their folder."""

    def make(*names, folder="photos"):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(tmp_path / folder)

    return make


def names_of(photos, folder):
    return [os.path.relpath(path, folder) for path in photos.data]


# Folders --------------------------------------------------------------------------------------


def test_sub_folders_are_classes_and_deeper_ones_belong_to_them(make_folder):
    folder = make_folder("cat/1.jpg", "cat/old/2.jpg", "dog/a/b/c/1.jpg", "dog/0.jpg")
    photos = load_image_folder(folder, shuffle=False)
    assert names_of(photos, folder) == [
        "cat/1.jpg",
        "cat/old/2.jpg",
        "dog/0.jpg",
        "dog/a/b/c/1.jpg",
    ]
    assert photos.target.tolist() == ["cat", "cat", "dog", "dog"]
    assert photos.target_names == ["cat", "dog"]
    assert photos.data.dtype.kind == photos.target.dtype.kind == "U"


def test_a_flat_folder_has_no_labels(make_folder):
    photos = load_image_folder(make_folder("b.jpg", "a.png"), shuffle=False)
    assert [os.path.basename(path) for path in photos.data] == ["a.png", "b.jpg"]
    assert photos.target is None
    assert photos.target_names == []


def test_labels_stay_with_their_paths_in_any_order(make_folder):
    folder = make_folder(*[f"{label}/{i}.jpg" for label in "abc" for i in range(10)])
    photos = load_image_folder(folder, random_state=3)
    assert [Path(path).parent.name for path in photos.data] == photos.target.tolist()
    assert sorted(photos.data) == load_image_folder(folder, shuffle=False).data.tolist()


def test_the_order_is_seeded_and_mixes_the_classes(make_folder):
    folder = make_folder(*[f"{label}/{i}.jpg" for label in "abc" for i in range(10)])
    default = load_image_folder(folder)
    assert default.data.tolist() == load_image_folder(folder, random_state=0).data.tolist()
    assert default.data.tolist() != load_image_folder(folder, random_state=1).data.tolist()
    assert len(set(default.target[:10])) == 3
    generator = np.random.RandomState(0)
    first, second = (load_image_folder(folder, random_state=generator).data for _ in range(2))
    assert first.tolist() == default.data.tolist()
    assert second.tolist() != first.tolist()


def test_the_order_depends_on_names_alone(make_folder, monkeypatch):
    names = [f"{label}/{i}.jpg" for label in "abc" for i in range(10)]
    folder = make_folder(*names)
    other = make_folder(*reversed(names), folder="elsewhere")
    expected = names_of(load_image_folder(folder), folder)
    assert names_of(load_image_folder(other), other) == expected
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = sorted(scandir(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return self.entries

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert names_of(load_image_folder(folder), folder) == expected


def test_what_is_hidden_or_no_image_is_ignored_and_counted(make_folder):
    folder = make_folder(
        *("cat/1.JPG", "cat/2.jpeg", "cat/3.TIFF", "cat/notes.txt", "README", "dog/Thumbs.db"),
        *("cat/.4.jpg", ".git/5.jpg", "dog/._6.jpg"),
    )
    photos = load_image_folder(folder)
    assert sorted(names_of(photos, folder)) == ["cat/1.JPG", "cat/2.jpeg", "cat/3.TIFF"]
    assert photos.target_names == ["cat"]
    assert photos.n_ignored == 3
    assert "3 images of 1 classes" in photos.DESCR
    assert "3 other files ignored" in photos.DESCR


def test_links_are_followed_but_never_in_a_circle(make_folder, tmp_path):
    folder = Path(make_folder("cat/1.jpg", "cat/in/2.jpg"))
    make_folder("3.jpg", folder="dogs")
    (folder / "dog").symlink_to(tmp_path / "dogs")
    (folder / "dog too").symlink_to(tmp_path / "dogs")
    (folder / "cat" / "in" / "up").symlink_to(folder)
    (folder / "cat" / "self").symlink_to(folder / "cat")
    (folder / "cat" / "4.jpg").symlink_to(folder / "cat" / "missing.jpg")
    photos = load_image_folder(folder, shuffle=False)
    # The dangling link is listed: reading names it, where silence would lose a photo.
    assert names_of(photos, folder) == [
        *("cat/1.jpg", "cat/4.jpg", "cat/in/2.jpg", "dog/3.jpg", "dog too/3.jpg"),
    ]
    with pytest.raises(ValueError, match="4.jpg': a link to a file that does not exist"):
        check_images(photos.data[1:2]).check_readable()


def test_folders_are_given_as_str_path_bytes_home_and_relative(make_folder, monkeypatch):
    folder = make_folder("cat/1.jpg")
    monkeypatch.chdir(Path(folder).parent)
    monkeypatch.setenv("HOME", str(Path(folder).parent))
    for given in (folder, Path(folder), os.fsencode(folder), "~/photos"):
        assert load_image_folder(given).data.tolist() == [os.path.join(folder, "cat", "1.jpg")]
    assert load_image_folder("photos").data.tolist() == [os.path.join("photos", "cat", "1.jpg")]


def test_names_in_any_writing_are_listed(make_folder):
    folder = make_folder("kočka ü/фото 1.jpg", "狗/写真.png")
    photos = load_image_folder(folder, shuffle=False)
    assert photos.target.tolist() == ["kočka ü", "狗"]
    assert all(os.path.exists(path) for path in photos.data)


def test_folders_without_a_meaning_are_refused(make_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="folder='.*missing' does not exist"):
        load_image_folder(tmp_path / "missing")
    (tmp_path / "file.jpg").touch()
    with pytest.raises(NotADirectoryError, match="is a file. Pass the folder that holds it"):
        load_image_folder(tmp_path / "file.jpg")
    empty = tmp_path / "empty"
    (empty / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no images, 0 other files. Images end in .jpg"):
        load_image_folder(empty)
    (empty / "film.mov").touch()
    with pytest.raises(ValueError, match="holds no images, 1 other files"):
        load_image_folder(empty)
    mixed = make_folder("cat/1.jpg", "loose.jpg", "dog/1.jpg")
    with pytest.raises(ValueError, match=r"1 images next to its sub-folders, such as 'loose.jpg'"):
        load_image_folder(mixed)


def test_photos_that_ship_are_read_and_split():
    photos = load_image_folder(DATA / "clothing")
    assert photos.target_names == ["dress", "hat", "pants", "shoes", "t-shirt"]
    assert len(photos.data) == 40
    images = check_images(photos.data)
    images.check_readable()
    assert images.read(slice(None), 32).std() > 20
    for train, test in StratifiedKFold(4).split(photos.data, photos.target):
        assert set(photos.target[train]) == set(photos.target[test]) == set(photos.target_names)


# Drawings -------------------------------------------------------------------------------------


def test_drawings_have_characters_alphabets_and_drawers():
    drawings = load_drawings(DATA / "omniglot_small1.npz")
    assert drawings.data.shape == (2720, 35, 35)
    assert drawings.data.dtype == np.uint8
    assert (drawings.data.min(), drawings.data.max()) == (0, 255)
    names, counts = np.unique(drawings.target, return_counts=True)
    assert names.tolist() == sorted(drawings.target_names)
    assert len(names) == 136
    assert (counts == 20).all()
    assert len(np.unique(drawings.alphabet)) == 5
    for name, alphabet in zip(drawings.target, drawings.alphabet):
        assert name.split("/")[0] == alphabet
    for name in names[:3]:
        assert sorted(drawings.drawer[drawings.target == name]) == list(range(1, 21))


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3), y=np.zeros(3))
    with pytest.raises(
        ValueError, match=r"a.npz' is not a file of drawings: it lacks \['alphabet'"
    ):
        load_drawings(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.array([{}]))
    with pytest.raises(ValueError, match="is not a file of drawings"):
        load_drawings(tmp_path / "b.npz")
    with pytest.raises(FileNotFoundError):
        load_drawings(tmp_path / "missing.npz")


# Shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_classes", "size"), [(1, 8), (4, 32), (16, 65)], ids=str)
def test_shapes_are_valid_images_of_balanced_classes(n_classes, size):
    images, y = make_shapes(50, n_classes=n_classes, image_size=size)
    assert images.shape == (50, size, size, 3)
    assert images.dtype == np.uint8
    assert check_images(images).image_shape == (size, size, 3)
    counts = np.bincount(y, minlength=n_classes)
    assert counts.max() - counts.min() <= 1
    assert len(np.unique(images.reshape(50, -1), axis=0)) == 50


def test_the_same_seed_draws_the_same_images_and_leaves_the_global_generator():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    (images, y), (again, y_again), (other, _) = (make_shapes(20, random_state=s) for s in (0, 0, 1))
    assert np.array_equal(images, again)
    assert np.array_equal(y, y_again)
    assert not np.array_equal(images, other)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_several_labels_are_columns_of_one_to_three_shapes():
    images, y = make_shapes(300, n_classes=6, multilabel=True)
    assert images.shape == (300, 32, 32, 3)
    assert y.shape == (300, 6)
    assert set(np.unique(y)) == {0, 1}
    assert set(y.sum(axis=1)) == {1, 2, 3}
    assert (y.mean(axis=0) > 0.2).all()
    _, few = make_shapes(30, n_classes=2, multilabel=True)
    assert set(few.sum(axis=1)) <= {1, 2}


def test_the_shape_of_a_class_has_its_color():
    images, y = make_shapes(400, n_classes=16, noise=0)
    # The brightest deviation from the background's mean is the shape's color.
    strong = np.abs(images - images.mean(axis=(1, 2), keepdims=True)).sum(axis=3)
    places = strong.reshape(400, -1).argsort(axis=1)[:, -20:]
    colors = np.take_along_axis(images.reshape(400, -1, 3), places[..., None], axis=1)
    color_of_class = (y + y // 4) % 4
    probe = LogisticRegression(max_iter=1000).fit(np.median(colors, axis=1) / 255, color_of_class)
    assert probe.score(np.median(colors, axis=1) / 255, color_of_class) > 0.9
    # Every pair of a shape and a color occurs once.
    classes = np.arange(16)
    assert len({(c % 4, (c + c // 4) % 4) for c in classes.tolist()}) == 16


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 0}, "n_samples=0 must be an integer of at least 1"),
        ({"n_classes": 17}, "n_classes=17 must be an integer from 1 to 16"),
        ({"image_size": 4}, "image_size=4 must be an integer of at least 8"),
        ({"noise": -1}, "noise=-1 must be a number of at least 0"),
    ],
    ids=str,
)
def test_shapes_that_cannot_be_drawn_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_shapes(**parameters)
