"""RetrievalDisplay: queries and their results, marked as right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_cbir._html import SIDE, pixels_or_faults
from sklearn_cbir._labels import check_labels, check_same_kind, comparable_labels, shared_labels
from sklearn_cbir._typing import (
    Elements,
    Estimator,
    ImagesLike,
    Labels,
    LabelsLike,
    Positions,
    WhereLike,
)
from sklearn_cbir._validation import check_integer, shortened
from sklearn_cbir.display._cells import (
    Cell,
    distance_text,
    draw,
    file_name,
    label_texts,
    warn_of_faults,
)
from sklearn_cbir.display._page import MOST_QUERIES, MOST_RESULTS, Square, page_of_results
from sklearn_cbir.display._sheet import Sheet, check_drawing, is_open
from sklearn_cbir.display._steps import n_rows, split_steps, take_rows
from sklearn_cbir.images import ImageReadError, Images, Text, check_images, is_feature_rows
from sklearn_cbir.images._faults import count_causes
from sklearn_cbir.images._text import rows_with_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Captions: TypeAlias = Sequence[Literal["label", "distance", "id"]]
Queries: TypeAlias = Images | Sequence[object]  # a sequence where texts are among images
THUMBNAIL = 224  # px: files and images of mixed sizes are cut to squares of this side


class RetrievalDisplay:
    """Picture of queries and their nearest gallery images, in order.

    One row per query: the query, then its results, the nearest first. If labels
    are known, a result that shares a label with its query has a green frame and a
    tick, any other an orange frame and a cross.

    Use `from_estimator` or `from_predictions` to make one. Files, and images
    of mixed sizes, are cropped to a square in their middle; a `Text` is shown as
    its words. In a notebook, a display without an open figure shows itself in HTML
    with small photos; that needs no matplotlib.

    Parameters
    ----------
    query_images : Images of length n_queries, or sequence
        As `sklearn_cbir.images.check_images` returns them; a sequence of images
        and texts if any of them is a `Text`.

    result_images : Images of length n_queries * n_neighbors
        Results of the first query, then of the second, ...

    right : ndarray of shape (n_queries, n_neighbors), dtype bool, default=None
        Whether a result shares a label with its query; None marks nothing.

    distances : ndarray of shape (n_queries, n_neighbors), default=None
        Distances of the results, in the unit of the metric.

    query_labels : sequence of n_queries str, default=None
        Texts below the queries.

    result_labels : ndarray of shape (n_queries, n_neighbors), default=None
        Labels of the results, as text.

    result_ids : ndarray of shape (n_queries, n_neighbors), default=None
        Ids of the results, as text.

    unit : str, default=None
        What is written after a distance, such as "bits".

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure of the last `plot`.

    axes_ : ndarray of shape (n_queries, 1 + n_neighbors)
        Its axes: the query of every row, then the results.

    See Also
    --------
    PrecisionRecallDisplay : All queries and all ranks, as one curve.
    GalleryMapDisplay : The whole gallery in two dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.display import RetrievalDisplay
    >>> images = np.random.default_rng(0).integers(0, 256, (9, 16, 16), dtype=np.uint8)
    >>> display = RetrievalDisplay.from_predictions(
    ...     [[4, 7, 8], [2, 5, 3]], images=images[:2], gallery_images=images
    ... )
    >>> display.axes_.shape
    (2, 4)
    """

    figure_: Figure
    axes_: NDArray[np.object_]

    def __init__(
        self,
        query_images: Images | Sequence[object],
        result_images: Images,
        *,
        right: NDArray[np.bool_] | None = None,
        distances: NDArray[np.number] | None = None,
        query_labels: Sequence[str] | None = None,
        result_labels: NDArray[np.object_] | None = None,
        result_ids: NDArray[np.object_] | None = None,
        unit: str | None = None,
    ) -> None:
        self.query_images: Images | Sequence[object] = query_images
        self.result_images: Images = result_images
        self.right: NDArray[np.bool_] | None = right
        self.distances: NDArray[np.number] | None = distances
        self.query_labels: Sequence[str] | None = query_labels
        self.result_labels: NDArray[np.object_] | None = result_labels
        self.result_ids: NDArray[np.object_] | None = result_ids
        self.unit: str | None = unit
        self._captions: Captions | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Estimator,
        X: ImagesLike | None,
        y: LabelsLike | None = None,
        *,
        images: ImagesLike | None = None,
        gallery_images: ImagesLike | None = None,
        gallery_labels: LabelsLike | None = None,
        class_names: Sequence[str] | None = None,
        queries: ArrayLike | None = None,
        n_queries: int = 5,
        n_neighbors: int = 5,
        ids: ArrayLike | None = None,
        where: WhereLike | None = None,
        captions: Captions | None = None,
        draw: bool = True,
        ax: Axes | None = None,
    ) -> Self:
        """Search for some queries and draw the results.

        Parameters
        ----------
        estimator : NeighborsRetriever, Pipeline or search over them
            A fitted retriever, a fitted Pipeline that ends in one, or a grid
            search that was refitted.

        X : images, array-like of shape (n_samples, n_features), or None
            Queries, as the estimator takes them; only the shown rows are computed.
            None: images of the gallery are the queries, and each searches the rest
            of the gallery.

        y : array-like of shape (n_samples,) or (n_samples, n_labels), default=None
            Labels of the queries. None marks nothing as right or wrong.

        images : images, default=None
            Images to show for the queries; None shows `X`. A `Text` is shown as its
            words.

        gallery_images : images, default=None
            Images to show for the gallery, in the order of its rows; None reads
            the files that the ids of the gallery name.

        gallery_labels : array-like, default=None
            Labels of the gallery; None takes the labels of `fit`.

        class_names : sequence of str, default=None
            Names for integer labels or for label columns.

        queries : array-like of int, default=None
            Rows to show: of `X`, or without `X` of `ids`, or else of the gallery. None
            takes `n_queries` rows, evenly spread.

        n_queries : int, default=5
            Number of queries to show.

        n_neighbors : int, default=5
            Number of results per query.

        ids : array-like of shape (n_samples,), default=None
            Ids of the queries. A query whose id you also passed to `fit` is left out
            of its own results. Without `X`: ids of the gallery, whose rows are the
            queries.

        where : array-like of bool of shape (n_samples_fit_,), or ids, default=None
            Rows of the gallery that may be found, as in the `kneighbors` of a
            `NeighborsRetriever`.

        captions : sequence of {"label", "distance", "id"}, default=None
            As for `plot`.

        draw : bool, default=True
            Whether to draw at once, with matplotlib. A display that was not drawn
            shows itself in a notebook all the same, and can be drawn by `plot`.

        ax : matplotlib Axes, default=None
            As for `plot`.

        Returns
        -------
        RetrievalDisplay
            The picture, drawn unless ``draw=False``.

        Raises
        ------
        ValueError
            If the images of the queries or of the gallery are unknown.
        """
        check_drawing(draw, ax)
        steps, retriever = split_steps(estimator)
        if gallery_labels is None:
            gallery_labels = retriever.y_
        if X is None:
            asked = retriever.ids_ if ids is None else ids
            asked = take_rows(asked, _chosen_rows(queries, n_queries, n_rows(asked)))
            rows = retriever._positions(asked)
            distances, positions = retriever.kneighbors(None, n_neighbors, ids=asked, where=where)
            shown = _gallery_rows(gallery_images, retriever.ids_, rows)
            y = gallery_labels if y is None else y
        else:
            elements = rows_with_words(X)
            X = X if elements is None else elements
            rows = _chosen_rows(queries, n_queries, n_rows(X))
            asked = take_rows(X, rows)
            vectors = asked if steps is None else steps.transform(asked)
            ids = None if ids is None else take_rows(ids, rows)
            distances, positions = retriever.kneighbors(vectors, n_neighbors, ids=ids, where=where)
            shown = _query_rows(images, asked, rows)
        flat = positions.ravel()
        display = cls(
            shown,
            _gallery_rows(gallery_images, retriever.ids_, flat),
            distances=distances,
            result_ids=_grid(map(file_name, retriever.ids_[flat]), len(rows)),
            unit="bits" if retriever.metric == "hamming" else None,
        )
        labels = None if y is None else check_labels(y, name="y")[rows]
        display._set_labels(labels, gallery_labels, positions, class_names)
        display._captions = captions
        display._lines(captions)  # names that are not known
        return display.plot(ax, captions=captions) if draw else display

    @classmethod
    def from_predictions(
        cls,
        positions: ArrayLike,
        distances: ArrayLike | None = None,
        *,
        images: ImagesLike,
        gallery_images: ImagesLike,
        y: LabelsLike | None = None,
        gallery_labels: LabelsLike | None = None,
        gallery_ids: Elements | None = None,
        class_names: Sequence[str] | None = None,
        unit: str | None = None,
        captions: Captions | None = None,
        draw: bool = True,
        ax: Axes | None = None,
    ) -> Self:
        """Draw results that were computed before.

        Parameters
        ----------
        positions : array-like of shape (n_queries, n_neighbors), dtype int
            Rows of `gallery_images`, nearest first, as `kneighbors` returns
            them.

        distances : array-like of shape (n_queries, n_neighbors), default=None
            Their distances.

        images : images
            The queries, n_queries of them.

        gallery_images : images
            The gallery.

        y : array-like of shape (n_queries,) or (n_queries, n_labels), default=None
            Labels of the queries. None marks nothing as right or wrong.

        gallery_labels : array-like, default=None
            Labels of the gallery, of the same form.

        gallery_ids : sequence, default=None
            Ids of the gallery; None takes the positions.

        class_names : sequence of str, default=None
            Names for integer labels or for label columns.

        unit : str, default=None
            What is written after a distance, such as "bits".

        captions : sequence of {"label", "distance", "id"}, default=None
            As for `plot`.

        draw : bool, default=True
            Whether to draw at once, with matplotlib. A display that was not drawn
            shows itself in a notebook all the same, and can be drawn by `plot`.

        ax : matplotlib Axes, default=None
            As for `plot`.

        Returns
        -------
        RetrievalDisplay
            The picture, drawn unless ``draw=False``.

        Raises
        ------
        ValueError
            If shapes do not agree or a position is outside the gallery.
        """
        check_drawing(draw, ax)
        shown, gallery = _checked(images), check_images(gallery_images)
        rows = _check_positions(positions, len(shown), len(gallery))
        flat = rows.ravel()
        ids = flat if gallery_ids is None else [gallery_ids[row] for row in flat.tolist()]
        display = cls(
            shown,
            gallery[flat],
            distances=None if distances is None else _check_distances(distances, rows.shape),
            result_ids=_grid(map(file_name, ids), len(rows)),
            unit=unit,
        )
        labels = None if y is None else check_labels(y, name="y", n=len(rows))
        display._set_labels(labels, gallery_labels, rows, class_names)
        display._captions = captions
        display._lines(captions)  # names that are not known
        return display.plot(ax, captions=captions) if draw else display

    def plot(
        self, ax: Axes | None = None, *, captions: Captions | None = None, image_size: float = 1.1
    ) -> Self:
        """Draw the picture, without changing the data.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw inside; None makes a figure of fitting size.

        captions : sequence of {"label", "distance", "id"}, default=None
            Lines below a result; None writes the label, or without labels the
            id, and the distance.

        image_size : float, default=1.1
            Side of an image in inches, in a figure of its own.

        Returns
        -------
        RetrievalDisplay
            The display itself.

        Raises
        ------
        ImportError
            Without matplotlib, which the extra ``[plot]`` installs.

        ImageReadError
            If none of the queries, or none of the results, can be read.

        Warns
        -----
        UserWarning
            If some cannot be read; they are drawn as squares with the reason.
        """
        lines = self._lines(captions)
        n_queries = len(self.query_images)
        n_results = len(self.result_images) // n_queries
        marks = self.right
        has_legend = marks is not None
        sheet = Sheet(n_queries, n_results, max(len(lines), 1), image_size, has_legend)
        sheet.open(ax)
        sheet.titles(["query", *range(1, n_results + 1)])
        queries, results = _cells(self.query_images), _cells(self.result_images)
        warn_of_faults([*queries, *results])
        axes = np.empty((n_queries, 1 + n_results), dtype=object)
        for row in range(n_queries):
            axes[row, 0] = draw(sheet, row, 0, queries[row])
            sheet.caption(row, 0, [] if self.query_labels is None else [self.query_labels[row]])
            for rank in range(n_results):
                right = None if marks is None else bool(marks[row, rank])
                pixels = results[row * n_results + rank]
                axes[row, 1 + rank] = draw(sheet, row, 1 + rank, pixels, right)
                sheet.caption(row, 1 + rank, [line(row, rank) for line in lines])
        if has_legend:
            sheet.legend(["shares a label with the query", "shares none"])
        self.figure_ = sheet.figure
        self.axes_ = axes
        return self

    def _repr_html_(self) -> str | None:
        if is_open(getattr(self, "figure_", None)):
            return None  # a notebook shows the figure
        n_queries = len(self.query_images)
        n_results = len(self.result_images) // n_queries
        n_rows, n_ranks = min(n_queries, MOST_QUERIES), min(n_results, MOST_RESULTS)
        results = self._results_to_show(n_rows, n_ranks, n_results)
        queries = _read_each(self.query_images[:n_rows], SIDE)
        names = [] if self.query_labels is None else self.query_labels
        rows = [
            [Square(query, names[row : row + 1]), *results[row * n_ranks : (row + 1) * n_ranks]]
            for row, query in enumerate(queries)
        ]
        return page_of_results(rows, n_results - n_ranks, n_queries - n_rows)

    def _results_to_show(self, n_rows: int, n_ranks: int, n_results: int) -> list[Square]:
        """Return the first results of the first queries, one query after another."""
        places = [(row, rank) for row in range(n_rows) for rank in range(n_ranks)]
        found = self.result_images[np.array([row * n_results + rank for row, rank in places])]
        written, marks = self._lines(self._captions), self.right
        return [
            Square(
                pixels,
                [line(*place) for line in written],
                None if marks is None else bool(marks[place]),
            )
            for pixels, place in zip(_read_each(found, SIDE), places)
        ]

    def _set_labels(
        self,
        y: Labels | None,
        gallery_labels: LabelsLike | None,
        positions: Positions,
        class_names: Sequence[str] | None,
    ) -> None:
        """Set the known labels, and which results are right if both sides have labels."""
        if y is not None:
            self.query_labels = label_texts(y, class_names)
        if gallery_labels is None:
            return
        labels = check_labels(gallery_labels, name="gallery_labels")
        texts = label_texts(labels[positions.ravel()], class_names)
        self.result_labels = _grid(texts, len(positions))
        if y is not None:
            check_same_kind(y, labels)
            if y.ndim == 1:
                y, labels = comparable_labels(y, labels)
            shared = shared_labels(y, labels)  # (n_queries, n_gallery)
            self.right = np.take_along_axis(shared, positions, axis=1) > 0

    def _lines(self, captions: Captions | None) -> list[Callable[[int, int], str]]:
        """Return one function per line of a caption, ``(row, rank) -> text``."""
        known: dict[str, Callable[[int, int], str]] = {}
        labels, ids, distances = self.result_labels, self.result_ids, self.distances
        if labels is not None:
            known["label"] = lambda row, rank: labels[row, rank]
        elif ids is not None:
            known["id"] = lambda row, rank: ids[row, rank]
        if distances is not None:
            known["distance"] = lambda row, rank: distance_text(distances[row, rank], self.unit)
        if captions is None:
            return list(known.values())
        if ids is not None:
            known["id"] = lambda row, rank: ids[row, rank]
        for name in captions:
            if name not in known:
                raise ValueError(
                    f"captions={shortened(captions)} names {shortened(name)}. Known here: "
                    f"{sorted(known)}."
                )
        return [known[name] for name in captions]


# Which images ---------------------------------------------------------------------------------


def _chosen_rows(queries: ArrayLike | None, n_queries: int, n: int) -> Positions:
    """Return the rows to show: those asked for, or `n_queries` spread evenly over `n`."""
    if queries is None:
        n_queries = min(check_integer(n_queries, "n_queries", minimum=1), n)
        return np.linspace(0, n - 1, n_queries).round().astype(np.int64)
    rows = np.atleast_1d(queries)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
        raise ValueError(f"queries={shortened(queries)} must be a list of row numbers of X.")
    outside = rows[(rows < -n) | (rows >= n)]
    if len(outside):
        raise ValueError(f"queries names row {outside[0]}, but there are {n} queries.")
    return rows % n


def _query_rows(images: ImagesLike | None, asked: Any, rows: Positions) -> Queries:
    """Return the images of the chosen queries; `asked` are the chosen rows of X."""
    if images is not None:
        shown = _checked(images)
        return shown[rows] if isinstance(shown, Images) else [shown[row] for row in rows]
    if is_feature_rows(asked):
        raise ValueError(
            "X holds feature rows, which cannot be shown. Pass images, one image per row of X."
        )
    return _checked(asked)


def _checked(queries: ImagesLike) -> Queries:
    """Return the queries of the user, if all of them can be shown."""
    elements = rows_with_words(queries)
    if elements is None:
        return check_images(queries)
    if photos := _photos_in(elements):
        check_images(photos)
    return elements


def _photos_in(queries: Sequence[object]) -> list[object]:
    return [query for query in queries if not isinstance(query, Text)]


def _gallery_rows(
    gallery_images: ImagesLike | None, ids: NDArray[np.generic], rows: Positions
) -> Images:
    """Return the images of the given rows of the gallery."""
    if gallery_images is not None:
        images = check_images(gallery_images)
        if len(images) != len(ids):
            raise ValueError(
                f"gallery_images has {len(images)} images, but the gallery has {len(ids)} "
                "rows. Pass its images in the order of its rows."
            )
        return images[rows]
    if np.asarray(ids).dtype.kind not in "USO":
        raise ValueError(
            "gallery_images is None, and the ids of the gallery are numbers, not file names. Pass "
            "gallery_images, the images that the gallery was fitted on, or fit with ids=paths."
        )
    return check_images([ids[row] for row in rows])


def _read_each(images: Queries, side: int) -> Sequence[Cell]:
    """Return the content of each cell: pixels, a fault, or a text."""
    if isinstance(images, Images):
        return pixels_or_faults(images, side)
    photos = _photos_in(images)
    read = iter(pixels_or_faults(check_images(photos), side) if photos else [])
    return [image if isinstance(image, Text) else next(read) for image in images]


def _cells(images: Queries) -> Sequence[Cell]:
    """Return the content of each cell, if any image can be read."""
    found = _read_each(images, THUMBNAIL)
    faults = [one for one in found if isinstance(one, ImageReadError)]
    if len(faults) == len(found):
        raise _nothing_to_draw(faults)
    return found


def _nothing_to_draw(faults: Sequence[ImageReadError]) -> ImageReadError:
    """Return the error for images that all cannot be read."""
    first = faults[0]
    causes = count_causes(fault.reason or str(fault) for fault in faults)
    such = "" if first.path is None else f", such as {first.path!r}"
    return ImageReadError(
        f"None of the {len(faults)} images to draw can be read{such} ({causes}). The ids of the "
        "gallery were used as names of files. If they are not, or if the files were moved, pass "
        "gallery_images, the images in the order of the rows of the gallery.",
        *(first.index, first.path, first.reason, first.errno, faults),
    )


def _check_positions(given: ArrayLike, n_queries: int, n_gallery: int) -> Positions:
    """Return positions as an int array (n_queries, n_neighbors) inside the gallery."""
    positions = np.asarray(given)
    if positions.ndim != 2 or positions.dtype.kind not in "iu" or 0 in positions.shape:
        raise ValueError(
            f"positions has shape {positions.shape} and dtype {positions.dtype}. Pass integers of "
            "shape (n_queries, n_neighbors)."
        )
    if len(positions) != n_queries:
        raise ValueError(
            f"positions has {len(positions)} rows, but there are {n_queries} images of queries."
        )
    if positions.min() < 0 or positions.max() >= n_gallery:
        raise ValueError(
            f"positions go from {positions.min()} to {positions.max()}, but the gallery has rows 0 "
            f"to {n_gallery - 1}."
        )
    return positions


def _check_distances(given: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.number]:
    """Return distances as an array of `shape`."""
    distances = np.asarray(given)
    if distances.shape != shape:
        raise ValueError(f"distances has shape {distances.shape}, but positions has {shape}.")
    return distances


# What is written ------------------------------------------------------------------------------


def _grid(texts: Iterable[str], n_queries: int) -> NDArray[np.object_]:
    """Arrange one text per result as (n_queries, n_neighbors)."""
    return np.array(list(texts), dtype=object).reshape(n_queries, -1)
