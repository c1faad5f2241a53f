"""Labels, distances and options of a metric, checked and ready to be ranked block by block."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn import get_config

from sklearn_cbir._labels import (
    check_labels,
    check_same_columns,
    check_same_kind,
    comparable_labels,
    label_names,
    shared_labels,
)
from sklearn_cbir._threads import slices
from sklearn_cbir._typing import Floats, LabelsLike, Positions, Sliced
from sklearn_cbir._validation import as_numpy, check_integer, check_not_masked, shortened

MAX_ROWS_AT_ONCE = 128


class Relevance:
    """Checked labels of queries and gallery, ready to say which gallery rows are relevant."""

    n_levels: int
    # Of labels that are one each:
    gallery_class: Positions
    by_class: Positions  # rows of the gallery, sorted by class
    starts: Positions  # where each class starts among them
    query_class: Positions

    def __init__(
        self, y_queries: LabelsLike, y_gallery: LabelsLike, shape: tuple[int, ...]
    ) -> None:
        check_same_columns(y_queries, label_names(y_gallery))
        self.y_queries = check_labels(y_queries, name="y_queries")
        self.y_gallery = check_labels(y_gallery, name="y_gallery")
        check_same_kind(self.y_queries, self.y_gallery)
        if len(shape) != 2 or shape != (len(self.y_queries), len(self.y_gallery)):
            raise ValueError(
                f"distances has shape {tuple(shape)}, but there are {len(self.y_queries)} labels "
                f"of queries and {len(self.y_gallery)} of the gallery. It needs one row per query "
                "and one column per gallery item."
            )
        if 0 in shape:
            raise ValueError(
                f"distances has shape {tuple(shape)}: there must be at least one query and one "
                "gallery item."
            )
        if self.graded:
            self.n_levels = self.y_gallery.shape[1] + 1
        else:
            self.n_levels = 2
            self._group_gallery()

    @property
    def graded(self) -> bool:
        """Whether items may share more than one label."""
        return self.y_queries.ndim == 2

    def rows(self, queries: slice) -> Iterator[tuple[Positions, Positions | None]]:
        """Yield the relevant gallery rows, ascending, of a slice of queries, and shared labels."""
        if self.graded:
            for shared in shared_labels(self.y_queries[queries], self.y_gallery):
                positions = np.flatnonzero(shared)
                yield positions, shared[positions].astype(np.int64)
        else:
            for code in self.query_class[queries]:
                yield self.by_class[self.starts[code] : self.starts[code + 1]], None

    def shared(self, queries: Positions, items: Positions) -> Positions:
        """Count the labels that single queries share with single gallery rows."""
        if self.graded:
            return (self.y_queries[queries] * self.y_gallery[items]).sum(axis=1).astype(np.int64)
        return (self.query_class[queries] == self.gallery_class[items]).astype(np.int64)

    def _group_gallery(self) -> None:
        """Sort the gallery by class, once, and find the class of every query."""
        y_queries, y_gallery = comparable_labels(self.y_queries, self.y_gallery)
        classes, self.gallery_class = np.unique(y_gallery, return_inverse=True)
        self.by_class = np.argsort(self.gallery_class, kind="stable")
        # The last class, without members, is that of labels that the gallery lacks.
        counts = np.bincount(self.gallery_class, minlength=len(classes) + 1)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        place = np.searchsorted(classes, y_queries)
        known = classes[np.minimum(place, len(classes) - 1)] == y_queries
        self.query_class = np.where(known, place, len(classes))


def query_blocks(shape: tuple[int, ...], distances: Sliced | None = None) -> list[slice]:
    """Return slices of queries that fit into scikit-learn's working memory."""
    n_queries, n_gallery = shape
    # Distances and their sorted copy, float64 at worst.
    fitting = int(get_config()["working_memory"] * 2**20 // (16 * n_gallery))
    step = getattr(distances, "block_size", None) or max(1, min(MAX_ROWS_AT_ONCE, fitting))
    return slices(n_queries, step)


def check_distances(distances: Any) -> Sliced:
    """Return distances as an array, or as they are if they are made when sliced."""
    distances = as_numpy(distances, "distances")
    if sparse.issparse(distances):
        raise ValueError(
            f"distances is a sparse matrix of shape {distances.shape} that holds "
            f"{distances.nnz} of them; the others are unknown, not 0. Pass an array of all "
            "distances, or score with NeighborsRetriever."
        )
    if hasattr(distances, "shape") and not isinstance(distances, np.ndarray):
        return distances
    distances = np.asarray(distances)
    if distances.dtype.kind not in "buif":
        raise ValueError(f"distances has dtype {distances.dtype}. Pass real numbers.")
    return distances


def read_block(distances: Sliced, rows: slice) -> np.ndarray:
    """Return the distances of a slice of queries, all of them numbers."""
    block = np.asarray(distances[rows])
    # The maximum is NaN if anything is, and costs less than asking each.
    if block.dtype.kind == "f" and np.isnan(block.max(initial=-np.inf)):
        row, column = np.argwhere(np.isnan(block))[0]
        raise ValueError(
            f"distances[{rows.start + row}, {column}] is NaN: it cannot be ranked. Look for NaN "
            "or zero vectors in the rows behind the distances."
        )
    return block


def check_k(k: int | None, n_gallery: int) -> int | None:
    """Return `k` as an int of at most the size of the gallery, or None."""
    if k is None:
        return None
    k = check_integer(k, "k", minimum=1)
    if k > n_gallery:
        raise ValueError(
            f"k={k} is more than the {n_gallery} items of the gallery. Use a smaller k, or k=None "
            "for all of them."
        )
    return k


def check_exclude(exclude: ArrayLike | None, shape: tuple[int, ...]) -> list[Positions] | None:
    """Return, per query, the gallery rows that are not ranked; None if all are."""
    if exclude is None:
        return None
    n_queries, n_gallery = shape
    if isinstance(exclude, (list, tuple)) and any(np.ndim(rows) for rows in exclude):
        rows = [_excluded_rows(row, query, n_gallery) for query, row in enumerate(exclude)]
        _check_excluded(rows, n_queries, n_gallery)
        return rows
    check_not_masked(exclude, "exclude", "the number of a row")
    exclude = np.asarray(exclude)
    if exclude.dtype == bool and exclude.shape == (n_queries, n_gallery):
        return [np.flatnonzero(row) for row in exclude]
    if exclude.dtype.kind in "iu" and exclude.shape == (n_queries,):
        rows = [own[own != -1] for own in exclude[:, None]]
        _check_excluded(rows, n_queries, n_gallery)
        return rows
    raise ValueError(
        f"exclude has shape {exclude.shape} and dtype {exclude.dtype}. Pass a boolean mask of "
        f"shape ({n_queries}, {n_gallery}), one gallery row per query (-1: none), or a list of "
        "arrays of gallery rows."
    )


def _excluded_rows(row: ArrayLike, query: int, n_gallery: int) -> Positions:
    """Return the gallery rows, ascending, of one entry of a list: their numbers, or a mask."""
    row = np.asarray(row)
    if row.dtype == bool and row.shape == (n_gallery,):
        return np.flatnonzero(row)
    if row.dtype.kind in "iu" or row.size == 0:
        return np.unique(row if row.size else row.astype(np.int64))
    raise ValueError(
        f"exclude[{query}] has shape {row.shape} and dtype {row.dtype}. Pass numbers of gallery "
        f"rows, or a boolean mask of shape ({n_gallery},)."
    )


def _check_excluded(rows: list[Positions], n_queries: int, n_gallery: int) -> None:
    """Raise unless there is one list of existing gallery rows per query."""
    if len(rows) != n_queries:
        raise ValueError(
            f"exclude holds {len(rows)} lists of gallery rows for {n_queries} queries."
        )
    for query, row in enumerate(rows):
        if len(row) and not (row[0] >= 0 and row[-1] < n_gallery):
            raise ValueError(
                f"exclude[{query}] names a gallery row outside 0 to {n_gallery - 1}: {row}."
            )


def check_radii(radii: ArrayLike) -> Floats:
    """Return radii, at least one and all of them finite numbers, as float64."""
    check_not_masked(radii, "radii")
    try:
        checked = np.asarray(radii, dtype=np.float64)
    except (TypeError, ValueError):
        checked = np.empty(0)
    if checked.ndim != 1 or not len(checked) or not np.isfinite(checked).all():
        raise ValueError(
            f"radii={shortened(radii)} must be a list of at least one finite number. To include "
            "everything, pass a radius larger than all distances."
        )
    return checked
