"""Displays show what was found, mark it by color and sign, and leave their data alone."""

import copy
import sys

import numpy as np
import pandas
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from PIL import Image
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.display import PrecisionRecallDisplay, RetrievalDisplay
from sklearn_cbir.display._sheet import NEUTRAL, RIGHT, WRONG, shorten
from sklearn_cbir.images import check_images
from sklearn_cbir.metrics import mean_average_precision, precision_recall_curve

GALLERY_LABELS = np.array([0, 0, 1, 1, 2, 2])


@pytest.fixture
def gallery(rng):
    """Six gray images (8, 6) whose mean brightness is their place in the gallery."""
    return np.full((6, 8, 6), np.arange(6)[:, None, None] * 40, dtype=np.uint8)


@pytest.fixture
def files(gallery, tmp_path):
    paths = [str(tmp_path / f"image{i}.png") for i in range(len(gallery))]
    for path, pixels in zip(paths, gallery):
        Image.fromarray(pixels).save(path)
    return np.array(paths)


class Brightness(TransformerMixin, BaseEstimator):
    """Mean gray as the only feature; counts the images that it was given."""

    def fit(self, X, y=None):
        self.n_seen_ = 0
        return self

    def transform(self, X):
        self.n_seen_ += len(X)
        images = [np.asarray(Image.open(x)) if isinstance(x, str) else x for x in X]
        return np.array([[float(np.mean(image))] for image in images])


@pytest.fixture
def search(gallery):
    """A pipeline whose nearest gallery image is the one of nearest brightness."""
    pipe = make_pipeline(Brightness(), NeighborsRetriever(metric="euclidean", n_neighbors=2))
    return pipe.fit(gallery, GALLERY_LABELS)


def frame_color(ax):
    return to_hex(ax.spines["left"].get_edgecolor()).upper()


def signs(ax):
    return [line.get_marker() for line in ax.lines]


def shown_gray(ax):
    return int(ax.images[0].get_array()[0, 0, 0])


def texts(display):
    return [text.get_text() for text in display.figure_.axes[0].texts]


# RetrievalDisplay ----------------------------------------------------------------------------


def test_results_are_shown_in_the_order_found(search, gallery):
    display = RetrievalDisplay.from_estimator(
        search, gallery[[2, 5]], gallery_images=gallery, n_neighbors=3
    )
    gray = [[shown_gray(ax) for ax in row] for row in display.axes_]
    # The query, then itself, then by distance in brightness; the lower row first at ties.
    assert gray == [[80, 80, 40, 120], [200, 200, 160, 120]]


def test_right_and_wrong_differ_by_color_and_by_sign(search, gallery):
    display = RetrievalDisplay.from_estimator(
        search, gallery[:1], [0], gallery_images=gallery, n_neighbors=3
    )
    query, *results = display.axes_[0]
    assert frame_color(query) == NEUTRAL
    assert signs(query) == []
    assert display.right.tolist() == [[True, True, False]]
    assert [frame_color(ax) for ax in results] == [RIGHT, RIGHT, WRONG]
    tick, cross = signs(results[0])[1], signs(results[2])[1]
    assert len(tick.vertices) != len(cross.vertices)
    assert "shares a label with the query" in texts(display)


def test_one_shared_label_of_several_is_right(gallery):
    columns = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1]])
    display = RetrievalDisplay.from_predictions(
        [[0, 1, 2]],
        images=gallery[:1],
        gallery_images=gallery[:3],
        y=[[0, 1, 1]],
        gallery_labels=columns,
        class_names=["a", "b", "c"],
    )
    assert display.right.tolist() == [[True, True, True]]
    assert display.query_labels == ["b, c"]
    assert display.result_labels.tolist() == [["a, c", "a, b", "c"]]


def test_nothing_is_marked_without_labels_of_the_queries(search, gallery):
    display = RetrievalDisplay.from_estimator(search, gallery[:1], gallery_images=gallery)
    assert display.right is None
    assert {frame_color(ax) for ax in display.axes_.ravel()} == {NEUTRAL}
    assert "shares none" not in texts(display)


def test_plotting_again_changes_no_data(search, gallery):
    display = RetrievalDisplay.from_estimator(
        search, gallery[:2], [0, 0], gallery_images=gallery, n_neighbors=2
    )
    names = ["right", "distances", "query_labels", "result_labels", "result_ids", "unit"]
    before = {name: copy.deepcopy(getattr(display, name)) for name in names}
    first = display.figure_
    display.plot(captions=["id"], image_size=0.5)
    assert display.figure_ is not first
    for name in names:
        assert np.array_equal(before[name], getattr(display, name)), name


def test_only_the_queries_shown_are_computed(search, gallery):
    seen = search[0].n_seen_
    display = RetrievalDisplay.from_estimator(
        search, gallery, gallery_images=gallery, n_queries=2, n_neighbors=1
    )
    assert search[0].n_seen_ - seen == 2
    assert [shown_gray(ax) for ax in display.axes_[:, 0]] == [0, 200]  # spread evenly


def test_queries_are_chosen_by_row(search, gallery):
    display = RetrievalDisplay.from_estimator(
        search, gallery, GALLERY_LABELS, gallery_images=gallery, queries=[4, 1], n_neighbors=1
    )
    assert [shown_gray(ax) for ax in display.axes_[:, 0]] == [160, 40]
    assert display.query_labels == ["2", "0"]


KINDS = {"array": np.asarray, "list": list, "series": pandas.Series, "images": check_images}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_queries_may_be_any_sequence(kind, files):
    paths = FunctionTransformer(lambda X: list(check_images(X).read(slice(None), 8)))
    pipe = make_pipeline(paths, Brightness(), NeighborsRetriever(metric="euclidean"))
    pipe.fit(files, neighborsretriever__ids=files)
    display = RetrievalDisplay.from_estimator(pipe, kind(files), queries=[4, 1], n_neighbors=1)
    assert display.result_ids.tolist() == [["image4.png"], ["image1.png"]]


def test_queries_may_be_sparse(gallery):
    rows = sparse.coo_array(np.eye(6))
    retriever = NeighborsRetriever().fit(rows.toarray())
    pipe = make_pipeline(FunctionTransformer(lambda X: X.toarray(), accept_sparse=True), retriever)
    display = RetrievalDisplay.from_estimator(
        pipe, rows, images=gallery, gallery_images=gallery, queries=[4], n_neighbors=1
    )
    assert display.result_ids.tolist() == [["4"]]


def test_file_names_as_ids_bring_their_images(files):
    pipe = make_pipeline(Brightness(), NeighborsRetriever(metric="euclidean"))
    pipe.fit(files, GALLERY_LABELS, neighborsretriever__ids=files)
    display = RetrievalDisplay.from_estimator(
        pipe, files[:1], [0], ids=files[:1], n_neighbors=2, captions=["id", "distance"]
    )
    assert [shown_gray(ax) for ax in display.axes_[0]] == [0, 40, 80]
    assert {"image1.png", "40.000"} < set(texts(display))


def test_gallery_is_searched_for_its_own_rows_without_themselves(files):
    retriever = NeighborsRetriever(metric="euclidean").fit(
        np.arange(6.0)[:, None], GALLERY_LABELS, ids=files
    )
    display = RetrievalDisplay.from_estimator(retriever, None, queries=[0, 3], n_neighbors=1)
    assert [[shown_gray(ax) for ax in row] for row in display.axes_] == [[0, 40], [120, 80]]
    assert display.right.tolist() == [[True], [True]]


def test_only_rows_left_in_are_shown_each_as_its_own_image(files):
    rows, mask = np.arange(6.0)[:, None], np.array([0, 0, 1, 1, 0, 1], dtype=bool)
    retriever = NeighborsRetriever(metric="euclidean").fit(rows, GALLERY_LABELS, ids=files)
    of_gallery = {"X": None, "queries": [0, 3]}
    of_others = {"X": rows[[0, 3]], "ids": [files[0], files[3]], "images": files[:2]}
    for where in (mask, {files[2], files[3], files[5]}):
        for asked in (of_gallery, of_others):
            display = RetrievalDisplay.from_estimator(
                retriever, **asked, n_neighbors=2, where=where
            )
            results = [[shown_gray(ax) for ax in row[1:]] for row in display.axes_]
            assert results == [[80, 120], [80, 200]]


def test_refitted_search_over_pipelines_is_accepted(gallery):
    flat = FunctionTransformer(lambda X: X.reshape(len(X), -1).astype(float))
    pipe = make_pipeline(flat, NeighborsRetriever())
    images, y = np.concatenate([gallery, gallery]), np.tile(GALLERY_LABELS, 2)
    one_fold = [(np.arange(6), np.arange(6, 12))]
    grid = GridSearchCV(pipe, {"neighborsretriever__metric": ["euclidean"]}, cv=one_fold)
    with pytest.warns(UserWarning, match="find themselves"):
        grid.fit(images, y)
    for estimator in (grid, FrozenEstimator(grid)):
        display = RetrievalDisplay.from_estimator(estimator, images[:2], gallery_images=images)
        assert display.axes_.shape == (2, 6)


def test_bits_are_counted_in_bits(gallery):
    codes = np.array([[0, 0], [0, 1], [1, 1]], dtype=np.uint8)
    retriever = NeighborsRetriever(metric="hamming").fit(codes)
    display = RetrievalDisplay.from_estimator(
        retriever, codes[:1], images=gallery[:1], gallery_images=gallery[:3], n_neighbors=3
    )
    assert {"0 bits", "1 bit", "2 bits"} < set(texts(display))


def test_class_names_replace_integers(search, gallery):
    display = RetrievalDisplay.from_estimator(
        search, gallery[:1], [0], gallery_images=gallery, class_names=["low", "mid", "high"]
    )
    assert display.query_labels == ["low"]
    assert display.result_labels.tolist() == [["low", "low", "mid", "mid", "high"]]


def test_dollar_signs_in_file_names_are_no_formulas(gallery):
    display = RetrievalDisplay.from_predictions(
        [[0]], images=gallery[:1], gallery_images=gallery[:1], gallery_ids=["a$b_$.png"]
    )
    display.figure_.canvas.draw()
    assert "a$b_$.png" in texts(display)


def test_given_axes_are_drawn_inside(search, gallery):
    figure, axes = plt.subplots(1, 2)
    display = RetrievalDisplay.from_estimator(
        search, gallery[:2], gallery_images=gallery, ax=axes[1]
    )
    assert display.figure_ is figure
    assert plt.get_fignums() == [figure.number]
    box, outer = display.axes_[0, 0].get_window_extent(), axes[1].get_window_extent()
    assert outer.x0 <= box.x0 < box.x1 <= outer.x1
    assert outer.y0 <= box.y0 < box.y1 <= outer.y1


def test_cells_do_not_overlap_and_lie_inside_the_figure(search, gallery):
    display = RetrievalDisplay.from_estimator(search, gallery, gallery_images=gallery, n_queries=3)
    boxes = [ax.get_window_extent() for ax in display.axes_.ravel()]
    width, height = display.figure_.canvas.get_width_height()
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("skirt", 8, "skirt"),
        ("a long class name", 8, "a long …"),
        ("0123456789abcdef.jpg", 12, "01234…ef.jpg"),
        ("a.bcdefghijklm", 8, "a.bcdef…"),
    ],
)
def test_long_texts_are_cut_to_the_cell(text, width, short):
    assert shorten(text, width) == short
    assert len(short) <= width


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "ids of the gallery are numbers"),
        ({"gallery_images": np.zeros((5, 8, 6), np.uint8)}, "has 5 images, but the gallery has 6"),
        ({"queries": [6]}, "names row 6, but there are 6"),
        ({"queries": [0.5]}, "must be a list of row numbers"),
        ({"n_queries": 0}, "n_queries=0 must be an integer of at least 1"),
        ({"captions": ["size"]}, "names 'size'"),
    ],
)
def test_unclear_wishes_are_refused(search, gallery, options, message):
    if "gallery_images" not in options and options:
        options = {"gallery_images": gallery, **options}
    with pytest.raises(ValueError, match=message):
        RetrievalDisplay.from_estimator(search, gallery, **options)


def test_feature_rows_cannot_be_shown():
    retriever = NeighborsRetriever().fit(np.eye(3))
    with pytest.raises(ValueError, match="feature rows, which cannot be shown. Pass images"):
        RetrievalDisplay.from_estimator(retriever, np.eye(3), n_neighbors=1)


@pytest.mark.parametrize("display", [RetrievalDisplay, PrecisionRecallDisplay])
def test_estimators_that_do_not_search_are_refused(display):
    with pytest.raises(ValueError, match="StandardScaler does not search"):
        display.from_estimator(StandardScaler().fit(np.eye(2)), np.eye(2))


@pytest.mark.parametrize("display", [RetrievalDisplay, PrecisionRecallDisplay])
def test_estimators_must_be_fitted(display, gallery):
    with pytest.raises(NotFittedError):
        display.from_estimator(make_pipeline(Brightness(), NeighborsRetriever()), gallery)


@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        ([[6]], {}, "positions go from 6 to 6, but the gallery has rows 0 to 5"),
        ([[0.0]], {}, "dtype float64"),
        ([0], {}, r"shape \(1,\)"),
        ([[0], [1]], {}, "2 rows, but there are 1 images"),
        ([[0]], {"distances": [0.1]}, r"distances has shape \(1,\)"),
        ([[0]], {"y": ["a"], "gallery_labels": GALLERY_LABELS}, "can never be equal"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(gallery, positions, options, message):
    with pytest.raises(ValueError, match=message):
        RetrievalDisplay.from_predictions(
            positions, images=gallery[:1], gallery_images=gallery, **options
        )


@pytest.mark.parametrize("missing", ["matplotlib", "matplotlib.pyplot"])
def test_without_matplotlib_the_extra_is_named(monkeypatch, search, gallery, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    for draw in (RetrievalDisplay.from_estimator, PrecisionRecallDisplay.from_estimator):
        with pytest.raises(ImportError, match=r"pip install 'sklearn-cbir\[plot\]'"):
            draw(search, gallery, GALLERY_LABELS)


# PrecisionRecallDisplay ----------------------------------------------------------------------


@pytest.fixture
def vectors(rng):
    """Queries and a gallery of two clusters, with labels."""
    y = np.repeat([0, 1], 10)
    gallery = rng.normal(size=(20, 3)) + y[:, None] * 2
    queries = rng.normal(size=(6, 3)) + np.array([0, 0, 0, 1, 1, 1])[:, None] * 2
    return queries, np.array([0, 0, 0, 1, 1, 1]), gallery, y


def test_curve_of_an_estimator_is_that_of_its_distances(vectors):
    queries, y_queries, gallery, y = vectors
    retriever = NeighborsRetriever(metric="euclidean").fit(gallery, y)
    distances = np.linalg.norm(queries[:, None] - gallery[None], axis=2)
    display = PrecisionRecallDisplay.from_estimator(retriever, queries, y_queries)
    precision, recall = precision_recall_curve(y_queries, y, distances)
    np.testing.assert_allclose(display.precision, precision)
    np.testing.assert_allclose(display.recall, recall)
    expected = mean_average_precision(y_queries, y, distances)
    assert display.mean_average_precision == pytest.approx(expected)
    np.testing.assert_array_equal(display.line_.get_xdata(), display.recall)
    np.testing.assert_array_equal(display.line_.get_ydata(), display.precision)


def test_curve_of_codes_averages_over_equal_numbers_of_bits(rng):
    codes, y = rng.integers(0, 2, size=(30, 6), dtype=np.uint8), rng.integers(0, 3, size=30)
    retriever = NeighborsRetriever(metric="hamming").fit(codes[:20], y[:20])
    display = PrecisionRecallDisplay.from_estimator(retriever, codes[20:], y[20:])
    distances = (codes[20:, None] != codes[None, :20]).sum(axis=2)
    precision, recall = precision_recall_curve(y[20:], y[:20], distances)
    np.testing.assert_allclose(display.precision, precision)
    np.testing.assert_allclose(display.recall, recall)


def test_curve_averages_over_ties_and_queries():
    # Query 0: one hit among two at the first distance, so half a hit after the first result.
    display = PrecisionRecallDisplay.from_predictions(
        [0, 1], [0, 1, 1], [[0.5, 0.5, 0.9], [0.9, 0.1, 0.2]]
    )
    np.testing.assert_allclose(
        display.precision, [(0.5 + 1) / 2, (0.5 + 1) / 2, (1 / 3 + 2 / 3) / 2]
    )
    np.testing.assert_allclose(display.recall, [(0.5 + 0.5) / 2, 1, 1])


def test_curve_of_the_gallery_itself_leaves_every_row_out(vectors):
    _, _, gallery, y = vectors
    retriever = NeighborsRetriever(metric="euclidean").fit(gallery, y)
    display = PrecisionRecallDisplay.from_estimator(retriever, None)
    assert len(display.precision) == len(gallery) - 1
    assert display.mean_average_precision == pytest.approx(retriever.score())


def test_curve_ranks_the_rows_left_in(vectors):
    queries, y_queries, gallery, y = vectors
    mask = np.arange(20) % 3 > 0
    retriever = NeighborsRetriever(metric="euclidean").fit(gallery, y)
    alone = NeighborsRetriever(metric="euclidean").fit(gallery[mask], y[mask])
    display = PrecisionRecallDisplay.from_estimator(retriever, queries, y_queries, where=mask)
    expected = PrecisionRecallDisplay.from_estimator(alone, queries, y_queries)
    np.testing.assert_allclose(display.precision, expected.precision)
    np.testing.assert_allclose(display.recall, expected.recall)
    display = PrecisionRecallDisplay.from_estimator(retriever, None, where=mask)
    assert display.mean_average_precision == pytest.approx(retriever.score(where=mask))


def test_chance_is_the_precision_of_the_whole_gallery(vectors):
    queries, y_queries, gallery, y = vectors
    retriever = NeighborsRetriever().fit(gallery, y)
    display = PrecisionRecallDisplay.from_estimator(
        retriever, queries, y_queries, plot_chance_level=True
    )
    assert display.chance_level_.get_ydata()[0] == pytest.approx(0.5)
    assert "chance (0.500)" in display.ax_.get_legend_handles_labels()[1]


def test_curves_share_axes_and_take_line_options(vectors):
    queries, y_queries, gallery, y = vectors
    scaled = make_pipeline(StandardScaler(), NeighborsRetriever()).fit(gallery, y)
    first = PrecisionRecallDisplay.from_estimator(scaled, queries, y_queries)
    second = PrecisionRecallDisplay.from_estimator(
        scaled, queries, y_queries, name="again", ax=first.ax_, color="black", linewidth=3
    )
    assert second.figure_ is first.figure_
    assert (second.line_.get_color(), second.line_.get_linewidth()) == ("black", 3)
    labels = second.ax_.get_legend_handles_labels()[1]
    assert [label.split(" ")[0] for label in labels] == ["StandardScaler", "again"]


def test_plotting_a_curve_again_changes_no_data(vectors):
    queries, y_queries, gallery, y = vectors
    retriever = NeighborsRetriever().fit(gallery, y)
    display = PrecisionRecallDisplay.from_estimator(retriever, queries, y_queries)
    before = display.precision.copy(), display.recall.copy(), display.name
    display.plot(name="other", plot_chance_level=True)
    np.testing.assert_array_equal(before[0], display.precision)
    np.testing.assert_array_equal(before[1], display.recall)
    assert before[2] == display.name


def test_queries_without_anything_relevant_warn_once():
    with pytest.warns(UndefinedMetricWarning, match="1 of 2 queries") as caught:
        PrecisionRecallDisplay.from_predictions([0, 7], [0, 1], [[0.1, 0.2], [0.1, 0.2]])
    assert len(caught) == 1


def test_curve_needs_labels(vectors):
    queries, y_queries, gallery, _ = vectors
    with pytest.raises(ValueError, match="labels of the gallery"):
        PrecisionRecallDisplay.from_estimator(NeighborsRetriever().fit(gallery), queries, y_queries)


def test_wide_letters_are_counted_by_their_width():
    assert shorten("写真" * 3, 10) == "写真" * 3
    assert shorten("写真" * 20, 10) == "写真写真写…"  # 5 letters as wide as 8.25
    assert shorten("写真" * 20 + ".jpg", 14) == "写真写…写真.jpg"
    assert shorten("a" * 20 + ".jpg", 14) == "a" * 7 + "…aa.jpg"
    assert shorten("a" * 20, 14) == "a" * 13 + "…"
