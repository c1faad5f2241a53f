"""Find photos that are there twice, or nearly so, as a scikit-learn clusterer."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_cbir._labels import check_labels
from sklearn_cbir._threads import slices
from sklearn_cbir._typing import ImagesLike, LabelsLike, Positions, Transformer
from sklearn_cbir._validation import (
    check_choice,
    check_real,
    check_verbose,
    progress_bar,
    shortened,
    state_of_version,
)
from sklearn_cbir.descriptors import GISTDescriptor, PerceptualHash
from sklearn_cbir.images import ImageReadError, Images, check_images, is_feature_rows
from sklearn_cbir.images._contents import first_equal, sizes_of
from sklearn_cbir.images._faults import called, moved, row_of, with_others
from sklearn_cbir.images._readable import rows_of, telling_all_faults
from sklearn_cbir.index._checking import as_array, check_rows
from sklearn_cbir.index._groups import group_rows

__all__ = ["NearDuplicates"]

STATE_FORMAT = 1
IMAGES_AT_ONCE = 256  # that are described in one call of the descriptor
MOST_PAIRS = 10**8  # that `leaks` lists
FROM_PARTITION = ("labels_", "groups_")
METRICS = ("cosine", "euclidean", "hamming")
DESCRIPTORS: dict[str, Callable[[], Any]] = {"phash": PerceptualHash, "gist": GISTDescriptor}


class NearDuplicates(ClusterMixin, BaseEstimator):
    """Group photos that differ only in how they were saved, scaled or cropped.

    Files with the same bytes are found first, and described once. Then two photos are
    linked if their descriptions are within `radius`, by exact search. All photos that
    links connect, directly or through others, are one group, so the ends of a long
    chain may differ by more.

    Parameters
    ----------
    descriptor : {"phash", "gist"} or transformer, default="phash"
        Describes a photo: `PerceptualHash`, `GISTDescriptor`, or any transformer of
        images. A fitted one is used directly, any other is cloned and fitted on `X`,
        without labels. 2-D rows are used directly, and need no descriptor.

    radius : float, default=None
        Largest distance between two descriptions, included; a number of bits for the
        Hamming distance. None means the radius of the descriptor, if it has one. Rows,
        and other descriptors, need a number: look at pairs before you trust it.

    metric : {"cosine", "euclidean", "hamming"}, default=None
        Distance. None means that of the descriptor, or else ``"hamming"`` for codes of
        {0, 1}, uint8, and ``"cosine"`` for floats. Rows need a name.

    n_jobs : int, default=None
        Number of processes that describe photos: None means 1, or the setting of
        `joblib.parallel_config`; -1 means all cores. Files are always read, and codes
        compared, in threads. The result is the same.

    verbose : int, default=0
        Above 0, `fit` shows its progress.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), int64
        Number of the group of every photo, in the order of the first photos of the
        groups; -1 for a photo without a duplicate.

    groups_ : list of ndarray of shape (n_members,), int64
        Positions of the photos of every group, ascending. Group ``i`` has the label ``i``.

    partition_ : ndarray of shape (n_samples,), int64
        As `labels_`, but each photo without a duplicate has its own number: pass it to
        `GroupKFold` as `groups`.

    keep_ : ndarray of shape (n_samples,), bool
        Which photos to keep: all without a duplicate, and one of every group. That one
        has the most pixels; ties go to the largest file, then to one that is not a
        link, then to the first path, then to the first. Rows have no size, so for them
        this needs `files`.

    descriptor_ : transformer
        The descriptor that was used; None for rows.

    metric_ : str
        Distance that was used.

    radius_ : float
        Radius that was used.

    n_features_in_ : int
        Numbers per row, if `X` was 2-D rows.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` had names.

    See Also
    --------
    NeighborsRetriever : Compares a new photo with a gallery.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.datasets import make_shapes
    >>> from sklearn_cbir.duplicates import NearDuplicates
    >>> images, _ = make_shapes(4, random_state=0)
    >>> darker = (images[1:2] * 0.8).astype(np.uint8)
    >>> X = np.concatenate([images, images[:1], darker])
    >>> found = NearDuplicates("gist").fit(X)
    >>> found.labels_
    array([ 0,  1, -1, -1,  0,  1])
    >>> len(X[found.keep_])
    4
    >>> found.leaks(["train", "train", "train", "test", "test", "test"])
    array([[0, 4],
           [1, 5]])
    """

    labels_: Positions
    groups_: list[Positions]
    partition_: Positions
    descriptor_: Any
    metric_: str
    radius_: float
    n_features_in_: int
    feature_names_in_: NDArray[np.object_]
    _keep: NDArray[np.bool_] | None

    def __init__(
        self,
        descriptor: Literal["phash", "gist"] | Transformer = "phash",
        *,
        radius: float | None = None,
        metric: Literal["cosine", "euclidean", "hamming"] | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.descriptor = descriptor
        self.radius = radius
        self.metric = metric
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X: ImagesLike, y: object = None, *, files: ImagesLike | None = None) -> Self:
        """Find the groups.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            Photos: arrays (n, H, W) or (n, H, W, C), a sequence of paths, encoded
            photos, PIL images or arrays. Or rows that describe them: floats, or {0, 1}
            under the Hamming distance.

        y : None
            Not used.

        files : images, default=None
            The photos that the rows describe, best as paths: photos with the same
            bytes are in one group, and `keep_` is available. If `X` holds images,
            the photos from which they were made. For the last step of a pipeline,
            ``fit(paths, nearduplicates__files=paths)``.

        Returns
        -------
        NearDuplicates
            The fitted clusterer.

        Raises
        ------
        ImageReadError
            If photos cannot be read; its `faults` list all of them.

        ValueError
            If rows come without `metric` or `radius`, if they do not fit `metric`, or if
            `files` and `X` differ in number.
        """
        check_verbose(self.verbose)
        self._check_distance()
        if is_feature_rows(X):
            descriptor, partition, photos = None, *self._group_rows(X, files)
        else:
            descriptor, partition, photos = self._group_images(X, files)
        self.descriptor_ = descriptor
        self._set_groups(partition)
        self._keep = None
        if photos is not None:
            with called("X" if files is None else "files"):
                self._keep = _largest_of_each(self.groups_, photos)
        return self

    def fit_predict(
        self, X: ImagesLike, y: object = None, *, files: ImagesLike | None = None
    ) -> Positions:
        """Find the groups, and return the number of every photo's group.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            As in `fit`.

        y : None
            Not used.

        files : images, default=None
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,), int64
            `labels_`.
        """
        return self.fit(X, files=files).labels_

    def leaks(self, groups: LabelsLike) -> Positions:
        """Return the pairs of photos that are in one group, but in different sets.

        Parameters
        ----------
        groups : array-like of shape (n_samples,)
            Which set every photo is in, such as ``"train"`` or ``"test"``.

        Returns
        -------
        ndarray of shape (n_pairs, 2), int64
            Positions, the smaller first, in order.

        Raises
        ------
        ValueError
            If `groups` does not hold one value per photo, or if there are more than 100
            million pairs: then the radius is too large.

        Examples
        --------
        >>> rows = [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]]
        >>> found = NearDuplicates(radius=0.05, metric="cosine").fit(rows)
        >>> found.leaks(["train", "test", "test"])
        array([[0, 1]])
        """
        check_is_fitted(self)
        sets = _check_sets(groups, len(self.partition_))
        _check_number_of_pairs(self.partition_, sets)
        pairs = [
            _pairs_across(members, sets[members])
            for members in self.groups_
            if (sets[members] != sets[members[0]]).any()
        ]
        found = np.concatenate([np.empty((0, 2), dtype=np.int64), *pairs])
        return found[np.lexsort((found[:, 1], found[:, 0]))]

    @property
    def keep_(self) -> NDArray[np.bool_]:
        """Which photos to keep."""
        check_is_fitted(self)
        if self._keep is None:
            raise AttributeError(
                "keep_ chooses by the size of photos, and rows have no size. Pass the photos "
                "too: fit(X, files=paths)."
            )
        return self._keep

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_state_format": STATE_FORMAT}
        return {name: value for name, value in state.items() if name not in FROM_PARTITION}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state_of_version(type(self), state, STATE_FORMAT))
        if "partition_" in vars(self):
            self._set_groups(self.partition_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _check_distance(self) -> None:
        """Raise unless radius and metric are None, or a number and a name."""
        if self.radius is not None:
            check_real(self.radius, "radius", minimum=0)
        if self.metric is not None:
            check_choice(self.metric, "metric", METRICS)

    def _group_rows(self, X: Any, files: ImagesLike | None) -> tuple[Positions, Images | None]:
        """Return the groups of 2-D rows, and the photos that they describe, if they are known."""
        if self.metric is None or self.radius is None:
            raise ValueError(
                f"radius={self.radius} and metric={self.metric!r}, but X holds 2-D rows, which "
                "have no metric and no radius of their own. Pass both, such as "
                "metric='cosine', radius=0.05."
            )
        X = as_array(X)
        _check_codes(X, self.metric, "X holds")
        rows = check_rows(X, self.metric, type(self).__name__)
        validate_data(self, X, skip_check_array=True)
        photos = None if files is None else _check_files(files, len(rows))
        links = None
        if photos is not None:
            with called("files"):
                links = np.arange(len(rows)), self._first_equal(photos)
        groups = self._grouped(rows, self.metric, self.radius, links=links)
        self.metric_, self.radius_ = self.metric, self.radius
        return groups, photos

    def _group_images(self, X: Any, files: ImagesLike | None) -> tuple[Any, Positions, Images]:
        """Return the descriptor of images, their groups, and the photos whose sizes count."""
        images = check_images(X)
        photos = images if files is None else _check_files(files, len(images))
        descriptor = _resolved(self.descriptor)
        metric, radius = self._distance_of(descriptor)
        with called("X" if files is None else "files"):
            first = self._first_equal(photos)
        distinct, place = np.unique(first, return_inverse=True)
        with telling_all_faults(images, progress=self.verbose > 0):
            of_X = _Selection(X, images)
            descriptor = _fitted(descriptor, of_X, distinct)
            forms = self._describe(descriptor, of_X, distinct, metric)
        metric = metric or _metric_of(forms)
        groups = self._grouped(forms[:, 0], metric, radius, forms if forms.shape[1] > 1 else None)
        self.metric_, self.radius_ = metric, radius
        for name in ("n_features_in_", "feature_names_in_"):  # of rows, in an earlier fit
            vars(self).pop(name, None)
        return descriptor, groups[place], photos

    def _distance_of(self, descriptor: Any) -> tuple[str | None, float]:
        """Return distance and radius: as given, else those of the descriptor."""
        own_metric, own_radius = getattr(descriptor, "near_duplicates", (None, None))
        metric = self.metric or own_metric
        if self.radius is not None:
            return metric, self.radius
        if own_radius is None or metric != own_metric:
            with_metric = "" if self.metric is None else f" with metric={self.metric!r}"
            raise ValueError(
                f"radius=None, but {type(descriptor).__name__} has no radius of its "
                f"own{with_metric}. Pass a number: look at pairs of neighbors first, to see up "
                "to which distance photos are the same."
            )
        return metric, own_radius

    def _first_equal(self, photos: Images) -> Positions:
        """Return the first photo of the same bytes of each."""
        with telling_all_faults(photos, progress=self.verbose > 0):
            return first_equal(photos, progress=self.verbose > 0)

    def _describe(
        self, descriptor: Any, of_X: "_Selection", positions: Positions, metric: str | None
    ) -> NDArray[Any]:
        """Return the descriptions of some images, (n, n_forms, n_columns)."""
        blocks = [positions[part] for part in slices(len(positions), IMAGES_AT_ONCE)]
        described = Parallel(n_jobs=self.n_jobs, return_as="generator")(
            delayed(_forms_of)(descriptor, of_X.at(block), block) for block in blocks
        )
        forms = []
        with progress_bar(len(positions), "Describing images", self.verbose > 0) as advance:
            for block, found in zip(blocks, cast("Iterable[NDArray[Any]]", described)):
                forms.append(_check_forms(found, block, descriptor, metric))
                advance(len(block))
        return np.concatenate(forms)

    def _grouped(
        self,
        rows: NDArray[Any],
        metric: str,
        radius: float,
        forms: NDArray[Any] | None = None,
        links: tuple[Positions, Positions] | None = None,
    ) -> Positions:
        """Return the groups of rows; a row that is alone is a group, too."""
        with progress_bar(len(rows), "Comparing images", self.verbose > 0) as advance:
            return group_rows(rows, metric, radius, forms, links, advance)

    def _set_groups(self, partition: Positions) -> None:
        """Set all attributes that depend on the group of every photo."""
        sizes = np.bincount(partition)
        is_group = sizes > 1
        label = np.where(is_group, np.cumsum(is_group) - 1, -1)
        self.partition_ = partition
        self.labels_ = label[partition]
        order = np.argsort(self.labels_, kind="stable")[np.count_nonzero(~is_group) :]
        self.groups_ = np.split(order, np.cumsum(sizes[is_group])[:-1]) if len(order) else []


class _Selection:
    """Some of the images of the user, in their original form if possible.

    Transformers of other packages take lists and arrays, and know nothing of `Images`.

    Parameters
    ----------
    X : images
        The images, as passed.

    images : Images
        The same, checked.
    """

    def __init__(self, X: Any, images: Images) -> None:
        self.X, self.images = X, images

    def at(self, positions: Positions) -> Any:
        """Return the images at some positions, renumbered."""
        if isinstance(self.X, (list, tuple, np.ndarray)):
            return rows_of(self.X, positions)
        return self.images.part(positions)


# Descriptors -------------------------------------------------------------------------------------


def _resolved(descriptor: Any) -> Any:
    """Return the descriptor of a name, or an object that transforms."""
    if isinstance(descriptor, str):
        return DESCRIPTORS[check_choice(descriptor, "descriptor", DESCRIPTORS)]()
    if isinstance(descriptor, type) or not hasattr(descriptor, "transform"):
        raise ValueError(
            f"descriptor={shortened(descriptor)} has no transform. Use one of "
            f"{', '.join(map(repr, DESCRIPTORS))}, or a transformer of images, such as "
            "GISTDescriptor()."
        )
    return descriptor


def _fitted(descriptor: Any, of_X: _Selection, positions: Positions) -> Any:
    """Return a descriptor as it is, or a copy that is fitted to some images."""
    if not hasattr(descriptor, "fit"):
        return descriptor
    try:
        check_is_fitted(descriptor)
    except NotFittedError:
        with _telling_rows(positions):
            return clone(descriptor).fit(of_X.at(positions))
    return descriptor


def _forms_of(descriptor: Any, images: Any, positions: Positions) -> NDArray[Any]:
    """Return the query forms of images, (n, n_forms, n_columns); the first is unchanged."""
    with _telling_rows(positions):
        if hasattr(descriptor, "transform_forms"):
            return descriptor.transform_forms(images)
        described = descriptor.transform(images)
    rows = np.asarray(described)
    return rows[:, None] if rows.ndim == 2 else rows


@contextmanager
def _telling_rows(positions: Positions) -> Iterator[None]:
    """Let an error of some images name their places among all."""
    try:
        yield
    except ImageReadError as error:
        if error.index is None:
            raise
        faults = [moved(fault, int(positions[row_of(fault)])) for fault in error.faults]
        raise with_others(faults) from error


def _check_forms(
    forms: NDArray[Any], positions: Positions, descriptor: Any, metric: str | None
) -> NDArray[Any]:
    """Return the descriptions of some images, if they are rows that the distance can compare."""
    name = type(descriptor).__name__
    if forms.ndim != 3 or len(forms) != len(positions) or forms.dtype.kind not in "buif":
        raise ValueError(
            f"descriptor={shortened(descriptor)} gives {forms.dtype} of shape {forms.shape} for "
            f"{len(positions)} images. Pass a transformer that gives one row of numbers per image."
        )
    finite = np.isfinite(forms).all(axis=(1, 2))
    if not finite.all():
        row = positions[np.argmin(finite)]
        raise ValueError(f"{name} gives NaN or infinity for X[{row}]. Distances need numbers.")
    _check_codes(forms, metric, f"{name} gives")
    if metric == "hamming" or _is_codes(forms):
        return forms
    if forms.dtype in (np.float32, np.float64):
        return forms
    return forms.astype(np.float32 if forms.dtype == np.float16 else np.float64)


def _metric_of(forms: NDArray[Any]) -> str:
    """Return the distance for the rows of a descriptor that has no own distance."""
    return "hamming" if _is_codes(forms) else "cosine"


def _is_codes(rows: Any) -> bool:
    """Say whether rows are codes, {0, 1} of type uint8 or bool."""
    kind = getattr(getattr(rows, "dtype", None), "str", "")
    return kind in ("|u1", "|b1") and rows.size > 0 and rows.max() <= 1


def _check_codes(rows: Any, metric: str | None, subject: str) -> None:
    """Raise for codes under a distance of floats."""
    if metric in ("cosine", "euclidean") and _is_codes(rows):
        raise ValueError(
            f"{subject} codes of 0 and 1, {rows.dtype}, but metric={metric!r} compares floats. "
            "Use metric='hamming' and a radius in bits; or X.astype(float), if they are not "
            "codes."
        )


# Photos ------------------------------------------------------------------------------------------


def _check_files(files: ImagesLike, n: int) -> Images:
    """Return the photos that belong to `n` rows or images."""
    with called("files"):
        photos = check_images(files)
    if len(photos) != n:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {n} in X, "
            f"{len(photos)} in files. Pass one photo per row."
        )
    return photos


def _largest_of_each(groups: list[Positions], photos: Images) -> NDArray[np.bool_]:
    """Say which photos to keep: all but the smaller ones of every group."""
    keep = np.ones(len(photos), dtype=bool)
    if not groups:
        return keep
    members = np.concatenate(groups)
    number = np.repeat(np.arange(len(groups)), list(map(len, groups)))
    sizes = sizes_of(photos, members)
    paths = photos[members].paths
    if paths is None:
        is_link, place = np.zeros(len(members), dtype=bool), members  # their order
    else:
        is_link = np.array([_is_link(path) for path in paths])
        place = np.unique(paths, return_inverse=True)[1]
    order = np.lexsort((members, place, is_link, -sizes.file_bytes, -sizes.pixels, number))
    firsts = order[np.searchsorted(number, np.arange(len(groups)))]
    keep[members] = False
    keep[members[firsts]] = True
    return keep


def _is_link(path: str) -> bool:
    """Say whether a path leads through a link: to a photo that has another path."""
    return os.path.realpath(path) != os.path.abspath(path)


# Groups and sets ---------------------------------------------------------------------------------


def _check_sets(groups: LabelsLike, n: int) -> Positions:
    """Return the number of the set of every photo."""
    sets = check_labels(groups, name="groups", n=n)
    if sets.ndim != 1:
        raise ValueError(
            f"groups has shape {sets.shape}. Pass one value per photo, such as 'train' or 'test'."
        )
    return np.unique(sets, return_inverse=True)[1]


def _check_number_of_pairs(partition: Positions, sets: Positions) -> None:
    """Raise if photos of one group and different sets are too many pairs to list."""
    n_sets = int(sets.max()) + 1
    shared = np.unique(partition * n_sets + sets, return_counts=True)[1]
    n_pairs = (np.square(np.bincount(partition)).sum() - np.square(shared).sum()) // 2
    if n_pairs > MOST_PAIRS:
        raise ValueError(
            f"{n_pairs:,} pairs are in one group and different sets; the largest group has "
            f"{np.bincount(partition).max():,} photos. Use a smaller radius."
        )


def _pairs_across(members: Positions, sets: Positions) -> Positions:
    """Return the pairs of the members of a group that are in different sets, (n_pairs, 2)."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for one in np.unique(sets)[:-1]:
        left, right = members[sets == one], members[sets > one]
        pairs.append(np.stack(np.broadcast_arrays(left[:, None], right), axis=-1).reshape(-1, 2))
    return np.sort(np.concatenate(pairs), axis=1)
