"""DuplicatesDisplay: groups of duplicate photos, with the photos to keep marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.metrics import pairwise_distances

from sklearn_cbir._typing import Estimator, ImagesLike, Positions
from sklearn_cbir._validation import check_integer, shortened
from sklearn_cbir.display._cells import Pixels, distance_text, draw, file_name, warn_of_faults
from sklearn_cbir.display._page import MOST_QUERIES, MOST_RESULTS, Square, page_of_groups
from sklearn_cbir.display._sheet import Sheet, check_drawing, is_open
from sklearn_cbir.display._steps import split_clusterer, take_rows
from sklearn_cbir.images import ImageReadError, Images, check_images, is_feature_rows
from sklearn_cbir.images._contents import sizes_of
from sklearn_cbir.images._faults import with_others

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sklearn_cbir.duplicates import NearDuplicates

Captions: TypeAlias = Sequence[Literal["name", "size", "distance"]]
CAPTIONS = ("name", "size", "distance")
N_PHOTOS = 6  # of a group
THUMBNAIL = 224  # px, the longer side of what is drawn


class DuplicatesDisplay:
    """Picture of groups of duplicates and near-duplicates.

    One row per group: first the photo to keep, with a green frame and a
    tick, then the others, the farthest from it first, because these may not be
    copies. Photos are shown whole.

    Use `from_estimator` or `from_predictions` to make one.

    Parameters
    ----------
    images : Images
        All photos, as `sklearn_cbir.images.check_images` returns them.

    groups : list of ndarray of shape (n_members,), int64
        Positions of the photos of every group to show; the others are compared
        with the first.

    distances : list of ndarray of shape (n_members,), default=None
        Distances from the first of each group.

    has_kept : bool, default=True
        Whether the first of every group is the photo to keep.

    n_groups : int, default=None
        Number of all groups; None means that all are shown.

    unit : str, default=None
        What is written after a distance, such as "bits".

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure of the last `plot`.

    axes_ : ndarray of shape (n_groups, n_columns)
        Its axes, a row per group; None if a group has fewer photos.

    See Also
    --------
    sklearn_cbir.duplicates.NearDuplicates : Finds the groups.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.display import DuplicatesDisplay
    >>> images = np.random.default_rng(0).integers(0, 256, (5, 16, 16), dtype=np.uint8)
    >>> display = DuplicatesDisplay.from_predictions([0, -1, 0, 1, 1], images=images)
    >>> [group.tolist() for group in display.groups]
    [[0, 2], [3, 4]]
    >>> display.axes_.shape
    (2, 2)
    """

    figure_: Figure
    axes_: NDArray[np.object_]

    def __init__(
        self,
        images: Images,
        groups: list[Positions],
        *,
        distances: list[NDArray[np.number]] | None = None,
        has_kept: bool = True,
        n_groups: int | None = None,
        unit: str | None = None,
    ) -> None:
        self.images: Images = images
        self.groups: list[Positions] = groups
        self.distances: list[NDArray[np.number]] | None = distances
        self.has_kept: bool = has_kept
        self.n_groups: int | None = n_groups
        self.unit: str | None = unit
        self._n_photos: int = N_PHOTOS
        self._captions: Captions | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Estimator,
        X: Any,
        *,
        images: ImagesLike | None = None,
        groups: ArrayLike | None = None,
        n_groups: int = 5,
        n_photos: int = N_PHOTOS,
        captions: Captions | None = None,
        draw: bool = True,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the groups of a fitted estimator.

        Parameters
        ----------
        estimator : NearDuplicates or Pipeline
            Fitted, or a fitted Pipeline that ends in one.

        X : images or array-like of shape (n_samples, n_features)
            The data that the estimator was fitted on. The shown photos are described
            again, to compute their distances.

        images : images, default=None
            What to show; None shows `X`.

        groups : array-like of int, default=None
            Numbers of the groups to show, as in ``labels_``; None takes the
            `n_groups` largest.

        n_groups : int, default=5
            Number of groups to show.

        n_photos : int, default=6
            As for `plot`.

        captions : sequence of {"name", "size", "distance"}, default=None
            As for `plot`.

        draw : bool, default=True
            Whether to draw at once, with matplotlib. A display that was not drawn
            shows itself in a notebook all the same, and can be drawn by `plot`.

        ax : matplotlib Axes, default=None
            As for `plot`.

        Returns
        -------
        DuplicatesDisplay
            The picture, drawn unless ``draw=False``.

        Raises
        ------
        ValueError
            If there are no groups, or if `X` or `images` differ in number from the data of
            `fit`, or cannot be shown.
        """
        check_drawing(draw, ax)
        steps, found = split_clusterer(estimator)
        if images is None and is_feature_rows(X):
            raise ValueError(
                "X holds feature rows, which cannot be shown. Pass images, one image per row of X."
            )
        shown = check_images(X if images is None else images)
        _check_length(len(shown), len(found.labels_))
        chosen = _chosen_groups(groups, n_groups, found.groups_)
        keep = getattr(found, "keep_", None)  # unknown of rows without files
        display = cls(
            shown,
            [_kept_first(members, keep) for members in chosen],
            has_kept=keep is not None,
            n_groups=len(found.groups_),
            unit="bits" if found.metric_ == "hamming" else None,
        )
        display._set_distances(
            [_distances_from_first(found, steps, X, members) for members in display.groups]
        )
        display._set_looks(n_photos, captions)
        return display.plot(ax, n_photos=n_photos, captions=captions) if draw else display

    @classmethod
    def from_predictions(
        cls,
        labels: ArrayLike,
        *,
        images: ImagesLike,
        keep: ArrayLike | None = None,
        distances: ArrayLike | None = None,
        unit: str | None = None,
        groups: ArrayLike | None = None,
        n_groups: int = 5,
        n_photos: int = N_PHOTOS,
        captions: Captions | None = None,
        draw: bool = True,
        ax: Axes | None = None,
    ) -> Self:
        """Draw groups that any clusterer has computed.

        Parameters
        ----------
        labels : array-like of shape (n_samples,), dtype int
            Number of the group of every photo; negative for a photo without duplicates.

        images : images
            The photos.

        keep : array-like of shape (n_samples,), dtype bool, default=None
            Which photos are kept, one of every group; None marks none.

        distances : array-like of shape (n_samples,), default=None
            Distance of every photo from the photo to keep of its group, or without
            `keep` from the first.

        unit : str, default=None
            What is written after a distance, such as "bits".

        groups : array-like of int, default=None
            Numbers of the groups to show; None takes the `n_groups` largest.

        n_groups : int, default=5
            Number of groups to show.

        n_photos : int, default=6
            As for `plot`.

        captions : sequence of {"name", "size", "distance"}, default=None
            As for `plot`.

        draw : bool, default=True
            Whether to draw at once, with matplotlib. A display that was not drawn
            shows itself in a notebook all the same, and can be drawn by `plot`.

        ax : matplotlib Axes, default=None
            As for `plot`.

        Returns
        -------
        DuplicatesDisplay
            The picture, drawn unless ``draw=False``.

        Raises
        ------
        ValueError
            If there are no groups, if shapes do not agree, or if `keep` does not have
            exactly one photo of each shown group.
        """
        check_drawing(draw, ax)
        shown = check_images(images)
        members = _groups_of(_check_column(labels, "labels", "iu", len(shown)))
        kept = None if keep is None else _check_column(keep, "keep", "b", len(shown))
        far = (
            None if distances is None else _check_column(distances, "distances", "iuf", len(shown))
        )
        chosen = _chosen_groups(groups, n_groups, members)
        display = cls(
            shown,
            [_kept_first(group, kept) for group in chosen],
            has_kept=kept is not None,
            n_groups=len(members),
            unit=unit,
        )
        if far is not None:
            display._set_distances([far[group] for group in display.groups])
        display._set_looks(n_photos, captions)
        return display.plot(ax, n_photos=n_photos, captions=captions) if draw else display

    def plot(
        self,
        ax: Axes | None = None,
        *,
        n_photos: int = N_PHOTOS,
        captions: Captions | None = None,
        image_size: float = 1.1,
    ) -> Self:
        """Draw the picture, without changing the data.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw inside; None makes a figure of fitting size.

        n_photos : int, default=6
            Maximum number of photos per group, at least 2; the picture counts the
            others.

        captions : sequence of {"name", "size", "distance"}, default=None
            Lines below a photo; None writes all that are known: the name of the file, or
            else the position; the size in pixels and in bytes; and the distance.

        image_size : float, default=1.1
            Side of an image in inches, in a figure of its own.

        Returns
        -------
        DuplicatesDisplay
            The display itself.

        Raises
        ------
        ImportError
            Without matplotlib, which the extra ``[plot]`` installs.

        ImageReadError
            If none of the photos can be read.

        Warns
        -----
        UserWarning
            If some cannot be read; they are drawn as squares with the reason.
        """
        n_photos = check_integer(n_photos, "n_photos", minimum=2)
        lines = self._check_captions(captions)
        cells = [_read(self.images, members[:n_photos]) for members in self.groups]
        _check_readable([photo.cell for row in cells for photo in row])
        n_more = [len(members) - len(row) for members, row in zip(self.groups, cells)]
        n_columns = max(len(row) + (more > 0) for row, more in zip(cells, n_more))
        n_hidden = self._n_all() - len(self.groups)
        has_legend = self.has_kept or n_hidden > 0
        sheet = Sheet(len(cells), n_columns - 1, max(len(lines), 1), image_size, has_legend)
        sheet.open(ax)
        sheet.titles(self._titles())
        axes = np.full((len(cells), n_columns), None, dtype=object)
        for row, photos in enumerate(cells):
            for column, photo in enumerate(photos):
                right = True if self.has_kept and column == 0 else None
                axes[row, column] = draw(sheet, row, column, photo.cell, right)
                sheet.caption(row, column, [self._line(row, column, photo, name) for name in lines])
            if n_more[row]:
                axes[row, len(photos)] = sheet.words(row, len(photos), f"{n_more[row]:,} more")
        if self.has_kept:
            sheet.legend(["kept"])
        if n_hidden > 0:
            sheet.note(f"{n_hidden:,} more group{'s' * (n_hidden > 1)}")
        self.figure_ = sheet.figure
        self.axes_ = axes
        return self

    def _repr_html_(self) -> str | None:
        if is_open(getattr(self, "figure_", None)):
            return None  # a notebook shows the figure
        n_photos = min(self._n_photos, MOST_RESULTS)
        shown = [members[:n_photos] for members in self.groups[:MOST_QUERIES]]
        n_more = [len(members) - len(few) for members, few in zip(self.groups, shown)]
        lines = self._check_captions(self._captions)
        rows = [
            [
                Square(
                    photo.cell,
                    [self._line(row, column, photo, name) for name in lines],
                    True if self.has_kept and column == 0 else None,
                )
                for column, photo in enumerate(_read(self.images, few))
            ]
            for row, few in enumerate(shown)
        ]
        return page_of_groups(rows, self._titles(), n_more, self._n_all())

    def _titles(self) -> list[str]:
        """Return the titles above the first photo of every group, and above the others."""
        others = "others"
        if all(len(members) == 2 for members in self.groups):
            others = "other"
        elif self.distances is not None:
            others = "furthest first"
        return ["kept" if self.has_kept else "first", others]

    def _n_all(self) -> int:
        """Return the number of all groups."""
        return self.n_groups or len(self.groups)

    def _set_looks(self, n_photos: int, captions: Captions | None) -> None:
        """Set the options of the picture in a notebook, and check them."""
        self._n_photos = check_integer(n_photos, "n_photos", minimum=2)
        self._captions = captions
        self._check_captions(captions)

    def _set_distances(self, distances: list[NDArray[np.number]]) -> None:
        """Set distances from the first of every group, and order the others by them."""
        orders = [np.r_[0, 1 + np.argsort(-far[1:], kind="stable")] for far in distances]
        self.groups = [members[order] for members, order in zip(self.groups, orders)]
        self.distances = [far[order] for far, order in zip(distances, orders)]

    def _check_captions(self, captions: Captions | None) -> list[str]:
        """Return the names of the lines of a caption."""
        known = [name for name in CAPTIONS if name != "distance" or self.distances is not None]
        for name in known if captions is None else captions:
            if name not in known:
                raise ValueError(
                    f"captions={shortened(captions)} names {shortened(name)}. Known here: {known}."
                )
        return list(known if captions is None else captions)

    def _line(self, row: int, column: int, photo: _Photo, name: str) -> str:
        """Return one line below a photo."""
        if name == "name":
            return photo.name
        if name == "size":
            return photo.size
        assert self.distances is not None  # else it is no caption that is known
        return distance_text(self.distances[row][column], self.unit) if column else ""


@dataclass(frozen=True)
class _Photo:
    """A photo as it is drawn, and the text below it."""

    cell: Pixels | ImageReadError
    name: str
    size: str


# Groups -----------------------------------------------------------------------------------------


def _chosen_groups(
    given: ArrayLike | None, n_groups: int, groups: list[Positions]
) -> list[Positions]:
    """Return the groups to show: those asked for, or the largest."""
    if not groups:
        raise ValueError("There is nothing to draw: every photo is alone in its group.")
    if given is None:
        n_groups = check_integer(n_groups, "n_groups", minimum=1)
        sizes = np.array([len(members) for members in groups])
        return [groups[number] for number in np.argsort(-sizes, kind="stable")[:n_groups]]
    numbers = np.atleast_1d(given)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not len(numbers):
        raise ValueError(f"groups={shortened(given)} must be a list of numbers of groups.")
    outside = numbers[(numbers < 0) | (numbers >= len(groups))]
    if len(outside):
        raise ValueError(
            f"groups names group {outside[0]}, but there are groups 0 to {len(groups) - 1}."
        )
    return [groups[number] for number in numbers]


def _groups_of(labels: Positions) -> list[Positions]:
    """Return the positions of every group, in the order of their numbers."""
    order = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return np.split(order, starts[1:]) if len(order) else []


def _kept_first(members: Positions, keep: NDArray[np.bool_] | None) -> Positions:
    """Return the members of a group, that which is kept before the others."""
    if keep is None:
        return members
    kept = members[keep[members]]
    if len(kept) != 1:
        raise ValueError(
            f"keep has {len(kept)} photos of the group of photo {members[0]}. Keep exactly one of "
            "every group."
        )
    return np.r_[kept, members[~keep[members]]]


def _distances_from_first(
    found: NearDuplicates, steps: Any, X: Any, members: Positions
) -> NDArray[np.number]:
    """Return how far the members of a group are from the first, in any of its forms."""
    forms = _forms(found, steps, take_rows(X, members))  # (n_members, n_forms, n_columns)
    far = pairwise_distances(forms[0], forms[:, 0], metric=found.metric_).min(axis=0)
    return np.rint(far * forms.shape[2]) if found.metric_ == "hamming" else far


def _forms(found: NearDuplicates, steps: Any, X: Any) -> NDArray[Any]:
    """Return the descriptions of rows or photos of X, in all compared forms."""
    if steps is not None:
        X = steps.transform(X)
    if found.descriptor_ is None:
        if not is_feature_rows(X):
            raise ValueError(
                "X holds images, but the estimator was fitted on rows. Pass these rows as X, and "
                "the photos as images=."
            )
        return np.asarray(X)[:, None]
    if hasattr(found.descriptor_, "transform_forms"):
        return found.descriptor_.transform_forms(X)
    return np.asarray(found.descriptor_.transform(X))[:, None]


# What users pass ----------------------------------------------------------------------------------


def _check_length(n: int, n_fitted: int) -> None:
    """Raise unless there are as many photos as groups were found for."""
    if n != n_fitted:
        raise ValueError(
            f"There are {n} images, but the estimator was fitted on {n_fitted}. Pass the images "
            "of the fit."
        )


def _check_column(given: ArrayLike, name: str, kinds: str, n: int) -> NDArray[Any]:
    """Return one value per image, of some kinds of dtype."""
    values = np.asarray(given)
    if values.shape != (n,) or values.dtype.kind not in kinds:
        wanted = {"iu": "integer", "b": "boolean", "iuf": "number"}[kinds]
        raise ValueError(
            f"{name} has shape {values.shape} and dtype {values.dtype}, but there are {n} images. "
            f"Pass one {wanted} per image."
        )
    return values


# Photos -------------------------------------------------------------------------------------------


def _read(images: Images, positions: Positions) -> list[_Photo]:
    """Return some photos as they are drawn."""
    return [_photo(images, int(position)) for position in positions]


def _check_readable(cells: Sequence[Pixels | ImageReadError]) -> None:
    """Raise if nothing can be drawn, and warn of what cannot."""
    faults = [cell for cell in cells if isinstance(cell, ImageReadError)]
    if len(faults) == len(cells):
        raise with_others(faults)
    warn_of_faults(cells)


def _photo(images: Images, position: int) -> _Photo:
    """Return one photo as it is drawn."""
    paths = images[[position]].paths
    name = f"photo {position}" if paths is None else file_name(str(paths[0]))
    try:
        image = images.pil_image(position)
        file_bytes = int(sizes_of(images, np.array([position])).file_bytes[0])
    except ImageReadError as fault:
        return _Photo(fault, name, "")
    size = f"{image.width} x {image.height}"
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return _Photo(np.asarray(image), name, f"{size}{_bytes_text(file_bytes)}")


def _bytes_text(file_bytes: int) -> str:
    """Return the size of a file, or nothing if there is no file."""
    if not file_bytes:
        return ""
    if file_bytes < 10**6:
        return f", {max(1, round(file_bytes / 1000)):,} kB"
    return f", {file_bytes / 10**6:,.1f} MB"
