"""A map of a gallery: its rows, their classes, and the right photos at the right places."""

import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.offsetbox import AnnotationBbox
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.manifold import TSNE
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.display import GalleryMapDisplay, RetrievalDisplay
from sklearn_cbir.display._sheet import told_apart
from sklearn_cbir.images import ImageReadError

N = 60
ROWS = np.random.default_rng(0).normal(size=(N, 5)) * [5, 3, 1, 1, 1]
LABELS = np.arange(N) % 3
IMAGES = np.full((N, 8, 6), np.arange(N)[:, None, None] * 4, dtype=np.uint8)


@pytest.fixture
def paths(tmp_path):
    found = [str(tmp_path / f"{i}.png") for i in range(N)]
    for path, pixels in zip(found, IMAGES):
        Image.fromarray(pixels).save(path)
    return found


def search_of(ids=None, y=LABELS, rows=ROWS):
    return NeighborsRetriever(metric="euclidean").fit(rows, y, ids=ids)


def photos(display):
    """The place, the pixels and the color of the frame of every photo."""
    boxes = [one for one in display.ax_.get_children() if isinstance(one, AnnotationBbox)]
    frames = [to_hex(one.patch.get_edgecolor()).upper() for one in boxes]
    return [(one.xy, one.offsetbox.get_data(), frame) for one, frame in zip(boxes, frames)]


def legend(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def test_points_are_those_of_the_reducer_in_the_order_of_the_gallery():
    display = GalleryMapDisplay.from_estimator(search_of())
    expected = PCA(2, random_state=0).fit_transform(ROWS)
    np.testing.assert_allclose(display.points, expected, atol=1e-5)
    assert display.positions.tolist() == list(range(N))
    assert display.ax_.get_xlabel() == "PCA 1"
    assert display.figure_ is display.ax_.figure


def test_any_reducer_is_copied_and_fitted():
    for reducer in (TSNE(random_state=0, perplexity=5), make_pipeline(StandardScaler(), PCA(2))):
        display = GalleryMapDisplay.from_estimator(search_of(), reducer=reducer)
        expected = reducer.__class__(**reducer.get_params(deep=False)).fit_transform(
            search_of().rows()
        )
        np.testing.assert_allclose(display.points, expected, rtol=1e-4, atol=1e-4)
    reducer = TSNE(random_state=0, perplexity=5)
    GalleryMapDisplay.from_estimator(search_of(), reducer=reducer)
    with pytest.raises(NotFittedError):
        check_is_fitted(reducer)


def test_every_class_has_its_points_color_and_sign():
    names = ["ten", "$one$", "_two"]
    display = GalleryMapDisplay.from_estimator(search_of(), class_names=names)
    looks = {}
    for scatter, text in zip(display.scatters_, legend(display)):
        looks[text] = to_hex(scatter.get_facecolor()[0])
        label = [r"\$one\$", "\u200b_two", "ten"].index(text)
        rows = np.flatnonzero([1, 2, 0][label] == LABELS)
        np.testing.assert_allclose(scatter.get_offsets(), display.points[rows])
    assert len(set(looks.values())) == len(looks) == 3
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (
            [f"/home/ada/Pictures/2024/summer/{kind}" for kind in ("hat", "shirt", "shoes/left")],
            ["…hat", "…shirt", "…shoes/left"],
        ),
        (
            [r"C:\photos\of last year\hats", r"C:\photos\of last year\shoes", r"C:\photos\ties"],
            [r"…of last year\hats", r"…of last year\shoes", "…ties"],
        ),
        (
            [f"telephone with 256 GB, {color}" for color in ("black", "green", "white")],
            [f"telephone w…56 GB, {color}" for color in ("black", "green", "white")],
        ),
        (["photos/a", "photos/b", "photos/c"], ["photos/a", "photos/b", "photos/c"]),
    ],
    ids=["folders", "Windows", "products", "short"],
)
def test_long_names_stay_different_in_the_legend(names, written):
    display = GalleryMapDisplay.from_estimator(search_of(), class_names=names)
    assert legend(display) == written


def test_wide_letters_of_long_names_are_counted_as_wide():
    texts = ["木" * 20 + end for end in "abc"]
    assert told_apart(texts, 24) == ["木" * 7 + "…" + "木" * 6 + end for end in "abc"]


def test_small_classes_share_a_look_and_are_counted():
    y = np.r_[np.repeat(np.arange(21), 2), np.arange(100, 118)]
    display = GalleryMapDisplay.from_predictions(ROWS[:, :2], y=y)
    assert legend(display) == [*map(str, range(21)), "18 smaller classes"]
    assert [len(scatter.get_offsets()) for scatter in display.scatters_] == [2] * 21 + [18]
    looks = {
        (to_hex(s.get_facecolor()[0]), len(s.get_paths()[0].vertices)) for s in display.scatters_
    }
    assert len(looks) == 22


def test_without_labels_or_with_numbers_to_predict_there_is_one_color():
    for search in (search_of(y=None), search_of(y=LABELS + 0.5)):
        display = GalleryMapDisplay.from_estimator(search)
        assert len(display.scatters_) == 1
        assert display.ax_.get_legend() is None


def test_several_labels_are_named_together():
    y = np.array([[1, 0, 1], [1, 0, 0]] * (N // 2))
    display = GalleryMapDisplay.from_estimator(search_of(y=y), class_names=["a", "b", "c"])
    assert legend(display) == ["a", "a, c"]


@pytest.mark.parametrize("kind", ["files", "images"])
def test_photos_stand_at_their_points_with_the_color_of_their_class(paths, kind):
    if kind == "files":
        display = GalleryMapDisplay.from_estimator(search_of(paths), n_images=15)
    else:
        display = GalleryMapDisplay.from_estimator(search_of(), gallery_images=IMAGES, n_images=15)
    drawn = photos(display)
    assert len(drawn) == len(display.shown_) == len(set(display.shown_.tolist())) > 5
    colors = {int(text): scatter for scatter, text in zip(display.scatters_, legend(display))}
    for row, (place, pixels, frame) in zip(display.shown_, drawn):
        np.testing.assert_allclose(place, display.points[row])
        assert int(np.asarray(pixels)[0, 0, 0]) == row * 4
        assert frame == to_hex(colors[LABELS[row]].get_facecolor()[0]).upper()


def test_photos_do_not_hide_each_other_and_lie_in_the_axes():
    display = GalleryMapDisplay.from_estimator(search_of(), gallery_images=IMAGES)
    display.figure_.canvas.draw()
    renderer = display.figure_.canvas.get_renderer()
    boxes = [
        one.patch.get_window_extent(renderer)
        for one in display.ax_.get_children()
        if isinstance(one, AnnotationBbox)
    ]
    assert len(boxes) > 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert max(box.height for box in boxes) < 0.48 * display.figure_.dpi
    middles = display.ax_.get_window_extent(renderer)
    assert all(middles.contains((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2) for b in boxes)


def test_the_same_photos_and_rows_are_chosen_every_time():
    def chosen(**options):
        display = GalleryMapDisplay.from_estimator(
            search_of(), gallery_images=IMAGES, n_samples=30, n_images=10, **options
        )
        return display.positions.tolist(), display.shown_.tolist()

    first = chosen()
    assert chosen() == first
    other = chosen(random_state=1)
    assert other[0] != first[0]
    assert other[1] != first[1]
    assert len(first[0]) == len(set(first[0])) == 30


def test_a_sample_of_the_gallery_keeps_rows_labels_and_photos_together(paths):
    for options in ({}, {"gallery_images": IMAGES, "gallery_labels": LABELS}):
        display = GalleryMapDisplay.from_estimator(search_of(paths), n_samples=20, **options)
        expected = PCA(2, random_state=0).fit_transform(ROWS[display.positions])
        np.testing.assert_allclose(display.points, expected, atol=1e-5)
        assert display.labels == [str(label) for label in LABELS[display.positions]]
        grays = [int(np.asarray(pixels)[0, 0, 0]) for _, pixels, _ in photos(display)]
        assert grays == (display.positions[display.shown_] * 4).tolist()


def test_only_the_photos_that_are_drawn_are_read(paths):
    display = GalleryMapDisplay.from_estimator(search_of(paths), n_images=5)
    for row in set(range(N)) - set(display.shown_.tolist()):
        with open(paths[row], "wb") as file:
            file.write(b"no photo")
    again = GalleryMapDisplay.from_estimator(search_of(paths), n_images=5)
    assert again.shown_.tolist() == display.shown_.tolist()


def test_ids_that_are_no_files_leave_points_alone():
    for ids in (None, [f"sku-{i}" for i in range(N)], ["\0" * i for i in range(N)]):
        display = GalleryMapDisplay.from_estimator(search_of(ids))
        assert photos(display) == []
        assert len(display.shown_) == 0
    display = GalleryMapDisplay.from_estimator(search_of(), gallery_images=IMAGES, n_images=0)
    assert photos(display) == []


def test_a_photo_that_cannot_be_read_is_an_empty_square_and_a_warning(paths):
    display = GalleryMapDisplay.from_estimator(search_of(paths), n_images=5)
    lost = int(display.shown_[2])
    with open(paths[lost], "wb") as file:
        file.write(b"no photo")
    with pytest.warns(UserWarning, match=rf"1 of the images cannot .*{lost}\.png") as caught:
        display.plot()
    assert caught[0].filename == __file__
    (pixels,) = (p for row, (_, p, _) in zip(display.shown_, photos(display)) if row == lost)
    assert set(np.asarray(pixels).ravel().tolist()) == {242}


def test_photos_that_were_passed_and_cannot_be_read_are_an_error(tmp_path):
    lost = [str(tmp_path / f"lost{i}.jpg") for i in range(N)]
    with pytest.raises(ImageReadError, match="does not exist"):
        GalleryMapDisplay.from_estimator(search_of(), gallery_images=lost)


def test_codes_have_a_map():
    codes = (ROWS > 0).astype(np.uint8)
    search = NeighborsRetriever(metric="hamming").fit(codes, LABELS)
    display = GalleryMapDisplay.from_estimator(search)
    expected = PCA(2, random_state=0).fit_transform(codes.astype(float))
    np.testing.assert_allclose(np.abs(display.points), np.abs(expected), atol=1e-4)


def test_given_axes_are_drawn_on_and_the_display_comes_back():
    figure, axes = plt.subplots(1, 2, sharex=True, sharey=True)
    display = GalleryMapDisplay.from_predictions(
        ROWS[:, :2], images=IMAGES, y=LABELS, name="mine", ax=axes[1]
    )
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert plt.get_fignums() == [figure.number]
    assert display.ax_.get_ylabel() == "mine 2"
    figure.canvas.draw()
    before = display.points.copy()
    assert display.plot(n_images=3, image_size=0.2) is display
    assert display.figure_ is not figure
    assert len(display.shown_) == 3
    np.testing.assert_array_equal(display.points, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reducer": PCA(3)}, r"What PCA returned has shape \(60, 3\) .*n_components=2"),
        ({"reducer": PCA}, "must be a transformer with fit_transform"),
        ({"reducer": "tsne"}, "reducer='tsne' must be a transformer"),
        ({"gallery_images": IMAGES[:5]}, "gallery_images has 5 images, but there are 60 rows"),
        ({"gallery_labels": LABELS[:5]}, "gallery_labels"),
        ({"n_samples": 0}, "n_samples=0 must be an integer of at least 1"),
        ({"n_images": -1}, "n_images=-1 must be an integer of at least 0"),
    ],
)
def test_unclear_wishes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GalleryMapDisplay.from_estimator(search_of(), **options)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0.0, np.nan]], "in row 0. Points must be finite"),
        (np.zeros((0, 2)), r"shape \(0, 2\)"),
        (3.0, r"shape \(\)"),
        ([["a", "b"]], "dtype <U1"),
    ],
)
def test_places_that_are_not_two_numbers_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        GalleryMapDisplay.from_predictions(points)


def test_a_gallery_of_one_column_needs_a_reducer():
    with pytest.raises(ValueError, match="60 rows of 1 numbers has no map: PCA needs two of each"):
        GalleryMapDisplay.from_estimator(search_of(rows=ROWS[:, :1]))


def test_what_does_not_search_is_refused():
    with pytest.raises(ValueError, match="StandardScaler does not search"):
        GalleryMapDisplay.from_estimator(StandardScaler().fit(ROWS))
    with pytest.raises(NotFittedError):
        GalleryMapDisplay.from_estimator(NeighborsRetriever())


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw in (
        lambda: GalleryMapDisplay.from_estimator(search_of()),
        lambda: GalleryMapDisplay.from_predictions(ROWS[:, :2]),
    ):
        with pytest.raises(ImportError, match=r"pip install 'sklearn-cbir\[plot\]'"):
            draw()


def test_warnings_of_results_name_the_line_of_the_user(paths):
    with open(paths[1], "wb") as file:
        file.write(b"no photo")
    with pytest.warns(UserWarning, match="1 of the images cannot be read") as caught:
        RetrievalDisplay.from_predictions([[0, 1]], images=IMAGES[:1], gallery_images=paths)
    assert caught[0].filename == __file__
