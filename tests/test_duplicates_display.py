"""Groups of duplicates: what is kept first and marked, the furthest next, and what is not shown."""

import copy
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from PIL import Image
from sklearn.pipeline import make_pipeline

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.descriptors import GISTDescriptor, PerceptualHash
from sklearn_cbir.display import DuplicatesDisplay
from sklearn_cbir.display._sheet import NEUTRAL, RIGHT
from sklearn_cbir.duplicates import NearDuplicates
from sklearn_cbir.images import ImageReadError

PHOTOS = sorted(Path(__file__).parent.glob("data/clothing/*/*.jpg"))[:3]


@pytest.fixture
def paths(tmp_path):
    """Three photos; of the first three copies, the second cropped; of the second one."""
    names = ["a.png", "b.png", "c.png", "a-small.png", "a-cropped.png", "a-gray.png", "b-small.png"]
    a, b, c = (Image.open(path).convert("RGB") for path in PHOTOS)
    cropped = a.crop((5, 7, a.width - 5, a.height - 7))
    small = [image.resize((image.width // 2, image.height // 2)) for image in (a, b)]
    images = [a, b, c, small[0], cropped, a.convert("L").convert("RGB"), small[1]]
    for name, image in zip(names, images):
        image.save(tmp_path / name)
    return [str(tmp_path / name) for name in names]


@pytest.fixture
def gray():
    """Six gray images whose brightness is their place."""
    return np.full((6, 8, 12), np.arange(6)[:, None, None] * 40, dtype=np.uint8)


def frame_color(ax):
    return to_hex(ax.spines["left"].get_edgecolor()).upper()


def texts(display):
    return [text.get_text() for text in display.figure_.axes[0].texts]


def shown_gray(row):
    return [None if ax is None else int(ax.images[0].get_array()[0, 0, 0]) for ax in row]


def test_a_row_is_a_group_what_is_kept_first_and_then_the_furthest(paths):
    found = NearDuplicates().fit(paths)
    display = DuplicatesDisplay.from_estimator(found, paths)
    first, second = display.groups
    assert sorted(first) == [0, 3, 4, 5]
    assert second.tolist() == [1, 6]
    assert first[0] == np.flatnonzero(found.keep_)[0]
    codes = PerceptualHash().transform(paths).astype(int)
    far = np.abs(codes[first] - codes[first[0]]).sum(axis=1)
    assert display.distances[0].tolist() == far.tolist()
    assert first[1] == 4
    assert far[1] == far.max() > far[2] >= far[3]


def test_one_other_photo_has_no_order(paths):
    found = NearDuplicates().fit(paths)
    assert "furthest first" in texts(DuplicatesDisplay.from_estimator(found, paths))
    written = texts(DuplicatesDisplay.from_estimator(found, paths, groups=[1]))
    assert "other" in written
    assert "furthest first" not in written


def test_what_is_kept_is_marked_by_color_and_sign(paths):
    display = DuplicatesDisplay.from_estimator(NearDuplicates().fit(paths), paths)
    kept, *others = display.axes_[0]
    assert frame_color(kept) == RIGHT
    assert len(kept.lines) == 2
    assert {frame_color(ax) for ax in others} == {NEUTRAL}
    assert not any(ax.lines for ax in others)
    assert display.axes_[1, 2] is None


def test_captions_say_name_size_and_distance(paths):
    found = NearDuplicates().fit(paths)
    written = texts(DuplicatesDisplay.from_estimator(found, paths))
    kilobytes = round(Path(paths[0]).stat().st_size / 1000)
    assert {"a.png", "a-small.png", f"128 x 171, {kilobytes} kB"} <= set(written)
    assert any(text.endswith(" bits") for text in written)
    written = texts(DuplicatesDisplay.from_estimator(found, paths, captions=["distance"]))
    assert "a.png" not in written


def test_photos_are_shown_whole(paths):
    display = DuplicatesDisplay.from_estimator(NearDuplicates().fit(paths), paths)
    assert display.axes_[0, 0].images[0].get_array().shape == (171, 128, 3)


def test_it_is_said_how_many_more_photos_and_groups_there_are(gray):
    labels = [0, 0, 0, 0, 1, 1]
    display = DuplicatesDisplay.from_predictions(labels, images=gray, n_groups=1, n_photos=2)
    assert shown_gray(display.axes_[0, :2]) == [0, 40]
    assert [text.get_text() for text in display.axes_[0, 2].texts] == ["2 more"]
    assert "1 more group" in texts(display)
    assert display.axes_.shape == (1, 3)


def test_the_largest_groups_are_shown_or_those_asked_for(gray):
    labels = [0, 0, 1, 1, 1, -1]
    display = DuplicatesDisplay.from_predictions(labels, images=gray)
    assert [shown_gray(row) for row in display.axes_] == [[80, 120, 160], [0, 40, None]]
    display = DuplicatesDisplay.from_predictions(labels, images=gray, groups=[0])
    assert [shown_gray(row) for row in display.axes_] == [[0, 40]]


def test_labels_of_any_clusterer_are_drawn(gray):
    display = DuplicatesDisplay.from_predictions(
        [7, -1, 7, 3, 7, 3],
        images=gray,
        keep=[False, True, True, False, False, True],
        distances=[0.25, 0, 0, 0.5, 0.75, 0],
    )
    assert [shown_gray(row) for row in display.axes_] == [[80, 160, 0], [200, 120, None]]
    assert [far.tolist() for far in display.distances] == [[0, 0.75, 0.25], [0, 0.5]]
    assert {"0.750", "0.500", "photo 4"} <= set(texts(display))


def test_nothing_is_marked_if_nothing_says_what_is_kept(paths):
    rows = GISTDescriptor().transform(paths)
    found = NearDuplicates(metric="cosine", radius=0.05).fit(rows)
    display = DuplicatesDisplay.from_estimator(found, rows, images=paths)
    assert frame_color(display.axes_[0, 0]) == NEUTRAL
    assert display.groups[0][0] == 0
    assert "kept" not in texts(display)


def test_a_pipeline_describes_the_photos_again(paths):
    pipe = make_pipeline(GISTDescriptor(), NearDuplicates(metric="cosine", radius=0.05))
    pipe.fit(paths, nearduplicates__files=paths)
    display = DuplicatesDisplay.from_estimator(pipe, paths)
    alone = NearDuplicates("gist", radius=0.05).fit(paths)
    expected = DuplicatesDisplay.from_estimator(alone, paths)
    for far, of_expected in zip(display.distances, expected.distances):
        np.testing.assert_allclose(far, of_expected, atol=1e-6)
    assert frame_color(display.axes_[0, 0]) == RIGHT


def test_a_turned_copy_is_as_far_as_its_nearest_form(paths, tmp_path):
    Image.open(paths[2]).rotate(90, expand=True).save(tmp_path / "turned.png")
    paths.append(str(tmp_path / "turned.png"))
    found = NearDuplicates(PerceptualHash(turned=True)).fit(paths)
    number = found.labels_[-1]
    display = DuplicatesDisplay.from_estimator(found, paths, groups=[number])
    assert display.distances[0][1] <= found.radius_


def test_plotting_again_changes_no_data(gray):
    display = DuplicatesDisplay.from_predictions(
        [0, 0, 0, 1, 1, 1], images=gray, distances=[0, 1, 2, 0, 2, 1]
    )
    before = copy.deepcopy((display.groups, display.distances, display.n_groups))
    axes = plt.figure().add_subplot()
    assert display.plot(axes, n_photos=2, captions=["name"]) is display
    assert display.figure_ is axes.figure
    assert str(before) == str((display.groups, display.distances, display.n_groups))


def test_a_photo_that_is_gone_is_drawn_as_a_square_with_the_reason(paths):
    found = NearDuplicates().fit(paths)
    labels, keep = found.labels_, found.keep_
    Path(paths[3]).unlink()
    with pytest.warns(UserWarning, match=r"1 of the images .*a-small\.png"):
        display = DuplicatesDisplay.from_predictions(labels, images=paths, keep=keep)
    assert sum(bool(ax.texts) for ax in display.axes_[0]) == 1
    for path in paths:
        Path(path).unlink(missing_ok=True)
    with pytest.raises(ImageReadError, match=r"a\.png"):
        DuplicatesDisplay.from_predictions(labels, images=paths, keep=keep)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [2]}, "groups names group 2, but there are groups 0 to 1"),
        ({"groups": ["a"]}, "groups=.* must be a list of numbers"),
        ({"n_groups": 0}, "n_groups=0"),
        ({"n_photos": 1}, "n_photos=1"),
        ({"captions": ["distance"]}, r"names 'distance'. Known here: \['name', 'size'\]"),
        ({"keep": [True] * 6}, "keep has 3 photos of the group of photo 0"),
        ({"keep": [False] * 6}, "keep has 0 photos of the group of photo 0"),
        ({"keep": [0] * 6}, "keep has .*one boolean per image"),
        ({"distances": [1.0]}, "distances has shape .* one number per image"),
        ({"labels": [-1] * 6}, "every photo is alone"),
        ({"labels": [0, 0]}, "labels has shape .* one integer per image"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_unclear_wishes_are_refused(gray, options, message):
    labels = options.pop("labels", [0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match=message):
        DuplicatesDisplay.from_predictions(labels, images=gray, **options)


def test_other_photos_than_those_of_the_fit_are_refused(paths):
    found = NearDuplicates().fit(paths)
    with pytest.raises(ValueError, match="6 images, but the estimator was fitted on 7"):
        DuplicatesDisplay.from_estimator(found, paths[1:])
    with pytest.raises(ValueError, match="finds no duplicates"):
        DuplicatesDisplay.from_estimator(NeighborsRetriever().fit(np.eye(3)), paths)
    rows = PerceptualHash().transform(paths)
    with pytest.raises(ValueError, match="feature rows, which cannot be shown"):
        DuplicatesDisplay.from_estimator(found, rows)


def test_images_of_groups_of_rows_come_beside_the_rows(rng):
    rows = np.repeat(rng.standard_normal((2, 4)), 2, axis=0)
    found = NearDuplicates(metric="cosine", radius=0.01).fit(rows)
    images = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="fitted on rows. Pass these rows as X, and the photos as"):
        DuplicatesDisplay.from_estimator(found, images)
    assert len(DuplicatesDisplay.from_estimator(found, rows, images=images).groups) == 2
