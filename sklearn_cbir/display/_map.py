"""GalleryMapDisplay: the rows of a gallery in two dimensions, some of them as photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.utils import check_random_state

from sklearn_cbir._html import SIDE, pixels_or_faults
from sklearn_cbir._labels import check_labels
from sklearn_cbir._typing import (
    Estimator,
    Floats,
    ImagesLike,
    Labels,
    LabelsLike,
    Positions,
    RandomState,
)
from sklearn_cbir._validation import check_integer, check_real, shortened
from sklearn_cbir.display._cells import Cell, label_texts, warn_of_faults
from sklearn_cbir.display._sheet import drawable, new_axes, pyplot, told_apart
from sklearn_cbir.display._steps import split_steps
from sklearn_cbir.images import ImageReadError, Images, check_images
from sklearn_cbir.images._faults import with_others

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure, SubFigure

    from sklearn_cbir.neighbors import NeighborsRetriever

# Colors of Okabe and Ito, told apart with any color vision; with a marker each, 21 looks.
COLORS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#1A1A1A"]
LOOKS = [(color, marker) for marker in "os^" for color in COLORS]
OTHERS = "#BBBBBB"
LEGEND_WIDTH = 24  # characters of the name of a class
POINT = 14  # area of a point, in square points
FRAME = 5 / 72  # inches that the frame of a photo takes
MOST_TRIES = 5000  # points that are tried for photos


class GalleryMapDisplay:
    """Map of a gallery: its rows as points in two dimensions, some of them as photos.

    Similar rows are close together, as far as two dimensions can show it. Points
    have the color and the marker of their class, photos a frame of this color; only
    the 21 largest classes have their own. Photos are drawn if they are known, and
    if they do not hide each other.

    Use `from_estimator` or `from_predictions` to make one.

    Parameters
    ----------
    points : ndarray of shape (n_points, 2), float64
        Places on the map.

    positions : ndarray of shape (n_points,), int64, default=None
        Their rows in the gallery; None means all rows, in order.

    labels : sequence of n_points str, default=None
        Names of their classes; None draws all in one color.

    images : Images of length n_points, default=None
        Their photos; None draws points only.

    name : str, default=None
        Text at the axes, such as the name of the reducer.

    Attributes
    ----------
    scatters_ : list of matplotlib PathCollection
        The points of every class in the last `plot`; the small classes come last.

    shown_ : ndarray of shape (n_images,), int64
        Numbers of the points that were drawn as photos.

    ax_ : matplotlib Axes
        Axes of the last `plot`.

    figure_ : matplotlib Figure
        Its figure.

    See Also
    --------
    RetrievalDisplay : Some queries with their results.

    Examples
    --------
    >>> from sklearn_cbir import NeighborsRetriever
    >>> from sklearn_cbir.datasets import make_shapes
    >>> from sklearn_cbir.display import GalleryMapDisplay
    >>> images, y = make_shapes(40, random_state=0)
    >>> search = NeighborsRetriever().fit(images.reshape(40, -1).astype(float), y)
    >>> display = GalleryMapDisplay.from_estimator(search, gallery_images=images, n_images=10)
    >>> display.points.shape, display.shown_.shape
    ((40, 2), (10,))
    """

    scatters_: list[PathCollection]
    shown_: Positions
    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(
        self,
        points: Floats,
        *,
        positions: Positions | None = None,
        labels: Sequence[str] | None = None,
        images: Images | None = None,
        name: str | None = None,
    ) -> None:
        self.points: Floats = points
        self.positions: Positions | None = positions
        self.labels: Sequence[str] | None = labels
        self.images: Images | None = images
        self.name: str | None = name
        self._is_guess = False  # whether ids are taken for names of files

    @classmethod
    def from_estimator(
        cls,
        estimator: Estimator,
        *,
        reducer: Any = None,
        gallery_images: ImagesLike | None = None,
        gallery_labels: LabelsLike | None = None,
        class_names: Sequence[str] | None = None,
        n_samples: int = 5000,
        n_images: int = 100,
        random_state: RandomState = 0,
        ax: Axes | None = None,
    ) -> Self:
        """Reduce the rows of a gallery to two dimensions and draw them.

        Parameters
        ----------
        estimator : NeighborsRetriever, Pipeline or search over them
            A fitted retriever, a fitted Pipeline that ends in one, or a grid
            search that was refitted.

        reducer : transformer with ``fit_transform``, default=None
            Transformer of the rows to two columns, such as scikit-learn's ``TSNE()`` or
            ``umap.UMAP()``. A copy is fitted, without labels. None is
            ``PCA(n_components=2)``.

        gallery_images : images, default=None
            Photos of the gallery, in the order of its rows; if None and if the ids of
            the gallery are names of files, these files are read.

        gallery_labels : array-like, default=None
            Labels of the gallery; None takes the labels of `fit`.

        class_names : sequence of str, default=None
            Names for integer labels or for label columns.

        n_samples : int, default=5000
            Maximum number of rows to draw; of a larger gallery, a random sample.

        n_images : int, default=100
            As for `plot`.

        random_state : int, RandomState instance or None, default=0
            Chooses the rows and the photos.

        ax : matplotlib Axes, default=None
            As for `plot`.

        Returns
        -------
        GalleryMapDisplay
            The map, drawn.

        Raises
        ------
        ValueError
            If the reducer does not make two finite numbers of every row, or if the number
            of images or labels is not the number of rows.
        """
        pyplot()
        retriever = split_steps(estimator)[1]
        n = retriever.n_samples_fit_
        limit = check_integer(n_samples, "n_samples", minimum=1)
        rng = check_random_state(random_state)
        rows = np.arange(n) if n <= limit else np.sort(rng.choice(n, limit, replace=False))
        labels = _labels_of(retriever, gallery_labels)
        display = cls(
            _reduced(retriever.rows(None if n <= limit else retriever.ids_[rows]), reducer),
            positions=rows.astype(np.int64),
            labels=None if labels is None else label_texts(labels[rows], class_names),
            name="PCA" if reducer is None else type(reducer).__name__,
        )
        if gallery_images is None:
            display.images = _files_of(retriever.ids_[rows])
            display._is_guess = True
        else:
            display.images = _check_length(check_images(gallery_images), "gallery_images", n)[rows]
        return display.plot(ax, n_images=n_images, random_state=rng)

    @classmethod
    def from_predictions(
        cls,
        points: ArrayLike,
        *,
        images: ImagesLike | None = None,
        y: LabelsLike | None = None,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        n_images: int = 100,
        random_state: RandomState = 0,
        ax: Axes | None = None,
    ) -> Self:
        """Draw points that were computed before.

        Parameters
        ----------
        points : array-like of shape (n_points, 2)
            Places on the map.

        images : images, default=None
            Their photos, n_points of them.

        y : array-like of shape (n_points,) or (n_points, n_labels), default=None
            Their labels.

        class_names : sequence of str, default=None
            Names for integer labels or for label columns.

        name : str, default=None
            Text at the axes.

        n_images : int, default=100
            As for `plot`.

        random_state : int, RandomState instance or None, default=0
            Chooses the photos.

        ax : matplotlib Axes, default=None
            As for `plot`.

        Returns
        -------
        GalleryMapDisplay
            The map, drawn.

        Raises
        ------
        ValueError
            If the points are not two finite numbers each, or shapes do not agree.
        """
        pyplot()
        places = _check_points(points, "points")
        labels = None if y is None else check_labels(y, name="y", n=len(places))
        display = cls(
            places,
            labels=None if labels is None else label_texts(labels, class_names),
            name=name,
        )
        if images is not None:
            display.images = _check_length(check_images(images), "images", len(places))
        return display.plot(ax, n_images=n_images, random_state=random_state)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        n_images: int = 100,
        image_size: float = 0.4,
        random_state: RandomState = 0,
    ) -> Self:
        """Draw the map, without changing the data.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.

        n_images : int, default=100
            Maximum number of photos to draw; there are fewer if no more have room next
            to each other. Only these are read. 0 draws points only.

        image_size : float, default=0.4
            The longer side of a photo, in inches.

        random_state : int, RandomState instance or None, default=0
            Chooses the photos.

        Returns
        -------
        GalleryMapDisplay
            The display itself.

        Raises
        ------
        ImportError
            Without matplotlib, which the extra ``[plot]`` installs.

        ImageReadError
            If photos were passed, and none of the chosen ones can be read.

        Warns
        -----
        UserWarning
            If some cannot be read; they are drawn as empty squares.
        """
        n_images = check_integer(n_images, "n_images", minimum=0)
        image_size = check_real(image_size, "image_size", minimum=0.01)
        rng = check_random_state(random_state)
        self.ax_ = new_axes(7.5, 6.0) if ax is None else ax
        self.figure_ = self.ax_.figure
        classes = _classes(self.labels, len(self.points))
        self.scatters_ = [_scatter(self.ax_, self.points[one.rows], one) for one in classes]
        self._dress(is_own=ax is None)
        self.shown_ = np.empty(0, dtype=np.int64)
        if self.images is not None and n_images:
            chosen = _with_room(self.ax_, self.points, image_size, n_images, rng)
            found = pixels_or_faults(self.images[chosen], SIDE)
            if not _is_no_photo(found, self._is_guess):
                warn_of_faults(found)
                colors = {row: one.color for one in classes for row in one.rows.tolist()}
                for row, cell in zip(chosen, found):
                    _draw_photo(self.ax_, self.points[row], cell, colors[int(row)], image_size)
                self.shown_ = chosen
        return self

    def _dress(self, is_own: bool) -> None:
        """Draw the legend, name the axes, and give a figure of its own the final layout."""
        ax = self.ax_
        ax.set(xticks=[], yticks=[])
        ax.margins(0.08)
        if self.name is not None:
            name = drawable(self.name)
            ax.set(xlabel=f"{name} 1", ylabel=f"{name} 2")
        if self.labels is not None:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        if is_own:
            ax.set_aspect("equal", adjustable="datalim")
            cast("Figure", self.figure_).draw_without_rendering()


@dataclass(frozen=True)
class _Class:
    """Points of one class, or of all small ones, and how they look."""

    rows: Positions
    name: str
    color: str
    marker: str


def _classes(labels: Sequence[str] | None, n: int) -> list[_Class]:
    """Return the largest classes by name, each with a look of its own, then all others in gray."""
    if labels is None:
        return [_Class(np.arange(n), "", *LOOKS[0])]
    names, of, counts = np.unique(np.array(labels), return_inverse=True, return_counts=True)
    large = np.sort(np.argsort(-counts, kind="stable")[: len(LOOKS)])
    ordered = sorted(large, key=lambda number: _by_number(str(names[number])))
    texts = told_apart([drawable(str(names[number])) for number in ordered], LEGEND_WIDTH)
    found = [
        _Class(np.flatnonzero(of == number), text, *look)
        for number, text, look in zip(ordered, texts, LOOKS)
    ]
    n_small = len(names) - len(large)
    if n_small:
        name = f"{n_small:,} smaller class{'es' * (n_small > 1)}"
        found.append(_Class(np.flatnonzero(~np.isin(of, large)), name, OTHERS, "o"))
    return found


def _by_number(name: str) -> tuple[bool, float, str]:
    """Return the sort key of a name: 2 comes before 10."""
    is_number = name.isascii() and name.isdecimal()
    return not is_number, float(name) if is_number else 0, name


def _scatter(ax: Axes, points: Floats, one: _Class) -> PathCollection:
    name = one.name.replace("$", r"\$")  # no formula
    label = name if not name.startswith("_") else f"\u200b{name}"  # else it has no legend
    looks: dict[str, Any] = {"color": one.color, "marker": one.marker, "label": label}
    return ax.scatter(points[:, 0], points[:, 1], s=POINT, linewidths=0, alpha=0.8, **looks)


def _with_room(
    ax: Axes, points: Floats, side: float, n: int, rng: np.random.RandomState
) -> Positions:
    """Return up to `n` points whose photos do not overlap, in a random order."""
    _ = ax.viewLim  # matplotlib computes the limits when they are asked for
    ax.apply_aspect()
    places = ax.transData.transform(points) / ax.figure.dpi  # inches
    chosen: list[int] = []
    for row in rng.permutation(len(points))[:MOST_TRIES]:
        gaps = np.abs(places[chosen] - places[row]).max(axis=1)
        if (gaps >= side + FRAME).all():
            chosen.append(int(row))
        if len(chosen) == n:
            break
    return np.array(chosen, dtype=np.int64)


def _is_no_photo(found: Sequence[Cell], is_guess: bool) -> bool:
    """Whether guessed file names are no photos; raise if photos were passed."""
    faults = [cell for cell in found if isinstance(cell, ImageReadError)]
    if len(faults) < len(found):
        return False
    if is_guess:
        return True
    raise with_others(faults)


def _draw_photo(ax: Axes, point: Floats, cell: Cell, color: str, side: float) -> None:
    """Draw a photo at a point, or an empty square in its place."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    pixels = cell if isinstance(cell, np.ndarray) else np.full((8, 8, 3), 242, dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    photo = OffsetImage(np.asarray(image), zoom=side * 72 / max(image.size))
    frame = {"edgecolor": color, "linewidth": 1.5}
    box = AnnotationBbox(photo, tuple(point), pad=0.05, bboxprops=frame)
    box.set_in_layout(False)  # else the axes shrink, and photos that had room overlap
    ax.add_artist(box)


# What users pass ----------------------------------------------------------------------------------


def _reduced(rows: NDArray[Any], reducer: Any) -> Floats:
    """Return two columns of the rows, from a copy of the reducer."""
    if reducer is None:
        if min(rows.shape) < 2:
            raise ValueError(
                f"A gallery of {rows.shape[0]} rows of {rows.shape[1]} numbers has no map: PCA "
                "needs two of each. Pass your own reducer, or points to from_predictions."
            )
        reducer = PCA(n_components=2, random_state=0)
    if isinstance(reducer, type) or not hasattr(reducer, "fit_transform"):
        raise ValueError(
            f"reducer={shortened(reducer)} must be a transformer with fit_transform, such as "
            "sklearn.manifold.TSNE(). Pass points from another source to from_predictions."
        )
    copy = cast(Any, clone(reducer, safe=False))
    floats = rows.astype(np.float32) if rows.dtype.kind == "u" else rows  # codes
    return _check_points(
        copy.fit_transform(floats), f"What {type(reducer).__name__} returned", len(rows)
    )


def _check_points(given: Any, name: str, n: int | None = None) -> Floats:
    """Return two finite floats per point."""
    points = np.asarray(given)
    n = len(points) if n is None and points.ndim else n
    if points.shape != (n, 2) or not n or points.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} has shape {points.shape} and dtype {points.dtype}. A map needs two numbers "
            "per point, shape (n_points, 2); reducers have n_components=2 for it."
        )
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        row = np.flatnonzero(~np.isfinite(points).all(axis=1))[0]
        raise ValueError(f"{name} has {points[row]} in row {row}. Points must be finite.")
    return points


def _check_length(images: Images, name: str, n: int) -> Images:
    """Return images, if there are as many as rows."""
    if len(images) != n:
        raise ValueError(
            f"{name} has {len(images)} images, but there are {n} rows. Pass one image per row, in "
            "the order of the rows."
        )
    return images


def _labels_of(retriever: NeighborsRetriever, given: LabelsLike | None) -> Labels | None:
    """Return the labels of the gallery, if they are classes."""
    if given is not None:
        return check_labels(given, name="gallery_labels", n=retriever.n_samples_fit_)
    labels = retriever.y_
    return None if labels is None or labels.dtype.kind == "f" else labels


def _files_of(ids: NDArray[np.generic]) -> Images | None:
    """Return the files that ids name, if they may be names of files."""
    if ids.dtype.kind not in "USO":
        return None
    try:
        return check_images(list(ids))
    except (TypeError, ValueError):
        return None
