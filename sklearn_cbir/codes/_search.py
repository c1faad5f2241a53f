"""Exact search of packed codes by Hamming distance.

Compiled loops do the work. If numba cannot run, or before it pays to load them, numpy gives the
same results.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from types import ModuleType
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from sklearn_cbir._loops import Loops
from sklearn_cbir._threads import in_threads, slices
from sklearn_cbir._typing import PackedCodes, Positions
from sklearn_cbir._validation import check_integer, check_real
from sklearn_cbir.codes._packing import WORD, check_packed

__all__ = ["HammingDistances", "hamming_distances", "hamming_radius", "hamming_top_k"]

Counted: TypeAlias = NDArray[np.int32]  # differing bits
LeftIn: TypeAlias = PackedCodes | NDArray[np.bool_]
Masks: TypeAlias = tuple[PackedCodes | None, NDArray[np.uint8] | None]  # bits or bytes, or neither


# Pairs whose intermediate results (8 bytes each) the numpy routes hold at once.
PAIRS_AT_ONCE = 2**20
# Pairs that numpy compares in the time that it takes to load the compiled loops.
PAIRS_TO_LOAD = 2**26
# A distance that no codes have.
FURTHER = np.iinfo(np.int32).max
# Below this, starting a second thread costs more than it saves.
PAIRS_PER_THREAD = 5e7
# Pieces that work is divided into at least, so that no thread waits long for the last.
PIECES = 8


def hamming_distances(queries: ArrayLike, gallery: ArrayLike) -> Counted:
    """Count the bits in which every query differs from every gallery code.

    Parameters
    ----------
    queries : array of shape (n_queries, n_words), uint64
        Packed codes.

    gallery : array of shape (n_gallery, n_words), uint64
        Packed codes of the same length in bits; only the number of words is checked.

    Returns
    -------
    ndarray of shape (n_queries, n_gallery), int32
        Numbers of bits (scikit-learn's "hamming" gives the fraction).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.codes import hamming_distances, pack_codes
    >>> codes = pack_codes(np.array([[0, 0, 0], [0, 1, 1]]))
    >>> hamming_distances(codes, codes)
    array([[0, 2],
           [2, 0]], dtype=int32)
    """
    queries, gallery = _check_pair(queries, gallery)
    distances = np.empty((len(queries), len(gallery)), dtype=np.int32)
    compiled = kernels_for(len(queries), len(gallery))
    if compiled is None:
        for rows in _query_blocks(distances.shape):
            distances[rows] = measure(queries[rows], gallery)
        return distances
    by_query, by_word = layout(queries, gallery)
    run_in_threads(
        lambda rows: compiled.measure_all(by_query[rows], by_word, distances[rows]),
        distances.shape,
    )
    return distances


def hamming_top_k(queries: ArrayLike, gallery: ArrayLike, k: int) -> tuple[Counted, Positions]:
    """Find the `k` nearest gallery codes of every query, exactly.

    Parameters
    ----------
    queries : array of shape (n_queries, n_words), uint64
        Packed codes.

    gallery : array of shape (n_gallery, n_words), uint64
        Packed codes of the same length. In the memory layout of `pack_codes` they
        are searched in place, otherwise they are copied first.

    k : int
        Number of neighbors, from 1 to ``n_gallery``.

    Returns
    -------
    distances : ndarray of shape (n_queries, k), int32
        Numbers of differing bits, smallest first.

    indices : ndarray of shape (n_queries, k), int64
        Gallery rows; at equal distance the smaller row comes first.

    Raises
    ------
    ValueError
        If `k` is out of bounds or the codes do not have the same length.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.codes import hamming_top_k, pack_codes
    >>> gallery = pack_codes(np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 1]]))
    >>> distances, indices = hamming_top_k(gallery[:1], gallery, k=3)
    >>> distances
    array([[0, 1, 2]], dtype=int32)
    >>> indices
    array([[0, 1, 3]])
    """
    queries, gallery = _check_pair(queries, gallery)
    n = len(gallery)
    k = check_integer(k, "k", minimum=1)
    if k > n:
        raise ValueError(f"k={k} is more than the {n} codes of the gallery.")
    return nearest_codes(queries, gallery, k)


def nearest_codes(
    queries: PackedCodes, gallery: PackedCodes, k: int, left_in: LeftIn | None = None
) -> tuple[Counted, Positions]:
    """Answer `hamming_top_k` if some codes may be left out.

    `left_in` has one bit for each code that may be found, 64 per word, from the lowest; or one bool
    for each, of which only those of near codes are read. At least `k` codes may be found.
    """
    n = len(gallery)
    distances = np.empty((len(queries), k), dtype=np.int32)
    indices = np.empty((len(queries), k), dtype=np.int64)
    compiled = kernels_for(len(queries), n)
    if compiled is None:
        numbers = np.arange(n) if left_in is None else _positions_left(left_in, n)
        codes = gallery if left_in is None else gallery[numbers]
        for rows in _query_blocks((len(queries), n)):
            # One integer that sorts by distance, then by row.
            keys = measure(queries[rows], codes) * np.int64(n) + numbers
            nearest = np.sort(np.partition(keys, k - 1, axis=1)[:, :k], axis=1)
            distances[rows], indices[rows] = np.divmod(nearest, n)
        return distances, indices
    by_query, by_word = layout(queries, gallery)
    masks = _as_masks(left_in)
    n_wanted = len(queries) * n / PAIRS_PER_THREAD
    step = -(-_piece(n, len(queries)) // WORD) * WORD
    if n_wanted >= 2 and len(queries) < PIECES and 4 * k <= step:  # few queries, many codes
        parts = list(
            in_threads(
                partial(_top_k_of, compiled, by_query, by_word, k, masks),
                slices(n, step),
                n_wanted,
            )
        )
        return _first_of(parts, k)
    run_in_threads(
        lambda rows: compiled.top_k(
            by_query[rows], by_word, k, 0, n, distances[rows], indices[rows], *masks
        ),
        (len(queries), n),
    )
    return distances, indices


def _as_masks(left_in: LeftIn | None) -> Masks:
    """Return bits, and bytes, of which the compiled loops take one or none."""
    if left_in is None:
        return None, None
    if left_in.dtype == bool:
        return None, _bytes(cast(NDArray[np.bool_], left_in))
    return cast(PackedCodes, left_in), None


def _positions_left(left_in: LeftIn, n: int) -> Positions:
    """Return the rows of which the bits are ones."""
    if left_in.dtype == bool:
        return np.flatnonzero(left_in)
    return np.flatnonzero(np.unpackbits(left_in.view(np.uint8), count=n, bitorder="little"))


def _top_k_of(
    compiled: ModuleType,
    by_query: PackedCodes,
    by_word: PackedCodes,
    k: int,
    masks: Masks,
    part: slice,
) -> tuple[Counted, Positions]:
    """Return distances and rows of the nearest codes of a part of the gallery.

    Where fewer than `k` are left in, what is missing is further than any code.
    """
    shape = len(by_query), min(k, part.stop - part.start)
    found = np.full(shape, FURTHER, dtype=np.int32), np.empty(shape, dtype=np.int64)
    compiled.top_k(by_query, by_word, shape[1], part.start, part.stop, *found, *masks)
    return found


def _first_of(parts: list[tuple[Counted, Positions]], k: int) -> tuple[Counted, Positions]:
    """Return the nearest of what was found in parts of the gallery, which come in its order."""
    distances, indices = map(np.hstack, zip(*parts))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1)


def hamming_radius(
    queries: ArrayLike, gallery: ArrayLike, radius: float
) -> tuple[list[Counted], list[Positions]]:
    """Find all gallery codes within `radius` differing bits of every query.

    Parameters
    ----------
    queries : array of shape (n_queries, n_words), uint64
        Packed codes.

    gallery : array of shape (n_gallery, n_words), uint64
        Packed codes of the same length in bits; only the number of words is checked.

    radius : float
        Largest number of differing bits, included.

    Returns
    -------
    distances : list of n_queries arrays, int32
        Numbers of differing bits, smallest first.

    indices : list of n_queries arrays, int64
        Gallery rows; at equal distance the smaller row comes first.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.codes import hamming_radius, pack_codes
    >>> gallery = pack_codes(np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 1]]))
    >>> hamming_radius(gallery[:2], gallery, radius=1)[1]
    [array([0, 1]), array([1, 0, 3])]
    """
    queries, gallery = _check_pair(queries, gallery)
    return codes_within(queries, gallery, check_real(radius, "radius", minimum=0))


def codes_within(
    queries: PackedCodes, gallery: PackedCodes, radius: float, left_in: PackedCodes | None = None
) -> tuple[list[Counted], list[Positions]]:
    """Answer `hamming_radius` if some codes may be left out, as in `nearest_codes`."""
    # No two codes differ in more bits than they have.
    radius = int(min(radius, WORD * gallery.shape[1]))
    counts, distances, indices = list_within(queries, gallery, radius, left_in)
    ends = np.cumsum(counts)
    found_distances, found_indices = [], []
    for start, end in zip(ends - counts, ends):
        order = np.argsort(distances[start:end], kind="stable")
        found_distances.append(distances[start:end][order])
        found_indices.append(indices[start:end][order])
    return found_distances, found_indices


class HammingDistances:
    """Distances between two sets of codes, computed when you take rows.

    The functions of `sklearn_cbir.metrics` take it instead of a matrix of
    distances, and count codes per distance instead of sorting.

    Parameters
    ----------
    queries : array of shape (n_queries, n_words), uint64
        Packed codes.

    gallery : array of shape (n_gallery, n_words), uint64
        Packed codes of the same length in bits; only the number of words is checked.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.codes import HammingDistances, pack_codes
    >>> codes = pack_codes(np.array([[0, 0, 0], [0, 1, 1]]))
    >>> HammingDistances(codes, codes)[1:]
    array([[2, 0]], dtype=int32)
    """

    queries: PackedCodes
    gallery: PackedCodes
    ndim: int = 2

    def __init__(self, queries: ArrayLike, gallery: ArrayLike) -> None:
        self.queries, self.gallery = _check_pair(queries, gallery)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of queries and of gallery codes."""
        return len(self.queries), len(self.gallery)

    def __len__(self) -> int:
        return len(self.queries)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(np.int32 if dtype is None else dtype, copy=False)

    def __getitem__(self, rows: slice) -> Counted:
        """Return the distances of a slice of the queries."""
        return hamming_distances(self.queries[rows], self.gallery)


@lru_cache(maxsize=1)
def kernels() -> ModuleType | None:
    """Return the module of compiled loops, or None where numba cannot compile them."""
    try:
        from sklearn_cbir.codes import _kernels
    except ImportError:
        return None
    return _kernels


LOOPS: Loops[ModuleType | None] = Loops(lambda: kernels(), PAIRS_TO_LOAD)


def kernels_for(n_queries: int, n_gallery: int) -> ModuleType | None:
    """Return the module of compiled loops, or None where, or as long as, numpy does the work."""
    return LOOPS.once_it_pays(n_queries * n_gallery)


def pack_bools(bools: NDArray[np.bool_]) -> tuple[PackedCodes, Positions, int]:
    """Return bits of bools, 64 to a word from the lowest, how many are set before each, and in all.

    Compiled loops do it where they are loaded anyway.
    """
    words = np.empty(-(-len(bools) // WORD), dtype=np.uint64)
    n_before = np.empty(len(words), dtype=np.int64)
    compiled = kernels() if kernels.cache_info().currsize else None
    if compiled is not None:
        return words, n_before, compiled.pack_bools(_bytes(bools), words, n_before)
    words[-1:] = 0
    packed = np.packbits(bools, bitorder="little")
    words.astype("<u8", copy=False).view(np.uint8)[: len(packed)] = packed
    counts = np.bitwise_count(words)
    np.cumsum(counts, out=n_before)
    total = int(n_before[-1]) if len(words) else 0
    n_before -= counts
    return words, n_before, total


def _bytes(bools: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return bools as the compiled loops read them."""
    read_only = np.ascontiguousarray(bools).view(np.uint8)
    read_only.flags.writeable = False  # as memory-mapped ones are: one type for all
    return read_only


def layout(queries: PackedCodes, gallery: PackedCodes) -> tuple[PackedCodes, PackedCodes]:
    """Return queries row by row and the gallery word by word, as the compiled loops read them."""
    by_query, by_word = np.ascontiguousarray(queries).view(), np.ascontiguousarray(gallery.T).view()
    # Memory-mapped codes are read-only, and to numba that is a type of its own: one for all.
    by_query.flags.writeable = by_word.flags.writeable = False
    return by_query, by_word


def run_in_threads(work: Callable[[slice], object], shape: tuple[int, int]) -> None:
    """Call ``work(rows)`` for slices of the queries of compiled loops, in threads if that pays."""
    n_queries, n_gallery = shape
    n_wanted = n_queries * n_gallery / PAIRS_PER_THREAD
    if n_wanted < 2:
        work(slice(0, n_queries))
        return
    for _ in in_threads(work, slices(n_queries, _piece(n_queries, n_gallery)), n_wanted):
        pass


def _piece(n: int, n_others: int) -> int:
    """Return how many of `n` queries or codes are compared with all of the others in one go.

    That takes 0.1 s at most, so that Ctrl-C is heard, and leaves several pieces per thread.
    """
    return max(1, min(int(10 * PAIRS_PER_THREAD) // max(1, n_others), -(-n // PIECES)))


def _query_blocks(shape: tuple[int, int]) -> list[slice]:
    """Return slices of queries for the numpy routes."""
    return slices(shape[0], max(1, PAIRS_AT_ONCE // max(1, shape[1])))


def measure(queries: PackedCodes, gallery: PackedCodes) -> Counted:
    """Return the distances of a block of queries by numpy, int32."""
    distances = np.zeros((len(queries), len(gallery)), dtype=np.int32)
    for word in range(queries.shape[1]):
        distances += np.bitwise_count(queries[:, word, None] ^ gallery[None, :, word])
    return distances


def count_within(
    queries: PackedCodes, gallery: PackedCodes, radius: int, left_in: PackedCodes | None = None
) -> Positions:
    """Return how many items lie within the radius of each query, (n_queries,)."""
    shape = len(queries), len(gallery)
    counts = np.zeros(len(queries), dtype=np.int64)
    compiled = kernels_for(*shape)
    if compiled is None:
        codes = gallery if left_in is None else gallery[_positions_left(left_in, shape[1])]
        for rows in _query_blocks(shape):
            counts[rows] = np.count_nonzero(measure(queries[rows], codes) <= radius, axis=1)
        return counts
    by_query, by_word = layout(queries, gallery)
    run_in_threads(
        lambda rows: compiled.count_within(by_query[rows], by_word, radius, counts[rows], left_in),
        shape,
    )
    return counts


def list_within(
    queries: PackedCodes, gallery: PackedCodes, radius: int, left_in: PackedCodes | None = None
) -> tuple[Positions, Counted, Positions]:
    """Return how many items lie within the radius of each query, their distances and rows."""
    shape = len(queries), len(gallery)
    compiled = kernels_for(*shape)
    if compiled is None:
        counts = np.zeros(len(queries), dtype=np.int64)
        distances, indices = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        numbers = np.arange(len(gallery)) if left_in is None else _positions_left(left_in, shape[1])
        codes = gallery if left_in is None else gallery[numbers]
        for rows in _query_blocks(shape):
            block = measure(queries[rows], codes)
            within = block <= radius
            counts[rows] = within.sum(axis=1)
            distances.append(block[within])
            indices.append(numbers[np.nonzero(within)[1]])
        return counts, np.concatenate(distances), np.concatenate(indices)
    counts = count_within(queries, gallery, radius, left_in)
    by_query, by_word = layout(queries, gallery)
    starts = np.cumsum(counts) - counts
    distances = np.empty(counts.sum(), dtype=np.int32)
    indices = np.empty(counts.sum(), dtype=np.int64)
    run_in_threads(
        lambda rows: compiled.list_within(
            by_query[rows], by_word, radius, starts[rows], distances, indices, left_in
        ),
        shape,
    )
    return counts, distances, indices


def _check_pair(queries: ArrayLike, gallery: ArrayLike) -> tuple[PackedCodes, PackedCodes]:
    """Return packed codes of one and the same length."""
    queries, gallery = check_packed(queries, "queries"), check_packed(gallery, "gallery")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} words of 64 bits per code, the gallery has "
            f"{gallery.shape[1]}. Use codes of one length."
        )
    return queries, gallery
