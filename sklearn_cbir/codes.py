"""Binary codes: pack them into 64-bit words and search them by Hamming distance, exactly."""

import numpy as np

from sklearn_cbir._validation import check_integer, check_real

__all__ = [
    "HammingDistances",
    "hamming_distances",
    "hamming_radius",
    "hamming_top_k",
    "pack_codes",
    "unpack_codes",
]

WORD = 64
# Pairs whose intermediate results (8 bytes each) are held at once by the numpy route.
PAIRS_AT_ONCE = 2**20


def pack_codes(codes):
    """Pack rows of bits into 64-bit words.

    Bit ``j`` of a row becomes bit ``j % 64`` (the one of value ``2 ** (j % 64)``)
    of word ``j // 64``; the last word is filled up with zeros. The result is laid
    out word by word (Fortran order), as the searches read it.

    Parameters
    ----------
    codes : array-like of shape (n, n_bits)
        Zeros and ones of any numeric or boolean type.

    Returns
    -------
    ndarray of shape (n, n_words), uint64
        ``n_words`` is ``n_bits / 64``, rounded up.

    Raises
    ------
    ValueError
        If `codes` is not a matrix of zeros and ones.

    Examples
    --------
    >>> import numpy as np
    >>> pack_codes(np.array([[1, 0, 0], [0, 1, 1]], dtype=np.uint8))
    array([[1],
           [6]], dtype=uint64)
    """
    codes = _check_bits(codes)
    n, n_bits = codes.shape
    n_words = -(-n_bits // WORD)
    packed = np.zeros((n, n_words * 8), dtype=np.uint8)
    packed[:, : -(-n_bits // 8)] = np.packbits(codes, axis=1, bitorder="little")
    return np.asfortranarray(packed.view("<u8").astype(np.uint64, copy=False))


def unpack_codes(packed, n_bits):
    """Undo `pack_codes`.

    Parameters
    ----------
    packed : array of shape (n, n_words), uint64
        Codes as `pack_codes` returns them.

    n_bits : int
        Length of a code in bits, at most ``64 * n_words``.

    Returns
    -------
    ndarray of shape (n, n_bits), uint8
        Zeros and ones.

    Examples
    --------
    >>> import numpy as np
    >>> unpack_codes(np.array([[1], [6]], dtype=np.uint64), n_bits=3)
    array([[1, 0, 0],
           [0, 1, 1]], dtype=uint8)
    """
    packed = _check_packed(packed, "packed")
    n_bits = check_integer(n_bits, "n_bits", minimum=1, maximum=WORD * packed.shape[1])
    rows = np.ascontiguousarray(packed).astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(rows, axis=1, count=n_bits, bitorder="little")


def hamming_distances(queries, gallery):
    """Count the bits in which every query differs from every gallery code.

    Parameters
    ----------
    queries : array of shape (n_queries, n_words), uint64
        Packed codes.

    gallery : array of shape (n_gallery, n_words), uint64
        Packed codes of the same length.

    Returns
    -------
    ndarray of shape (n_queries, n_gallery), int32
        Numbers of bits (scikit-learn's "hamming" gives the fraction).

    Examples
    --------
    >>> import numpy as np
    >>> codes = pack_codes(np.array([[0, 0, 0], [0, 1, 1]]))
    >>> hamming_distances(codes, codes)
    array([[0, 2],
           [2, 0]], dtype=int32)
    """
    queries, gallery = _check_pair(queries, gallery)
    distances = np.empty((len(queries), len(gallery)), dtype=np.int32)
    for rows in _query_blocks(len(queries), len(gallery)):
        _count_into(distances[rows], queries[rows], gallery)
    return distances


def hamming_top_k(queries, gallery, k):
    """Find the `k` nearest gallery codes of every query, exactly.

    Parameters
    ----------
    queries : array of shape (n_queries, n_words), uint64
        Packed codes.

    gallery : array of shape (n_gallery, n_words), uint64
        Packed codes of the same length. Codes laid out as `pack_codes` returns
        them are searched in place, others are copied first.

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
    >>> gallery = pack_codes(np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 1]]))
    >>> distances, indices = hamming_top_k(gallery[:1], gallery, k=3)
    >>> distances
    array([[0, 1, 2]], dtype=int32)
    >>> indices
    array([[0, 1, 3]])
    """
    queries, gallery = _check_pair(queries, gallery)
    k = _check_k(k, len(gallery))
    n = len(gallery)
    distances = np.empty((len(queries), k), dtype=np.int32)
    indices = np.empty((len(queries), k), dtype=np.int64)
    for rows in _query_blocks(len(queries), n):
        # One integer that sorts by distance, then by row.
        keys = hamming_distances(queries[rows], gallery) * np.int64(n) + np.arange(n)
        nearest = np.sort(np.partition(keys, k - 1, axis=1)[:, :k], axis=1)
        distances[rows], indices[rows] = np.divmod(nearest, n)
    return distances, indices


def hamming_radius(queries, gallery, radius):
    """Find all gallery codes within `radius` differing bits of every query.

    Parameters
    ----------
    queries : array of shape (n_queries, n_words), uint64
        Packed codes.

    gallery : array of shape (n_gallery, n_words), uint64
        Packed codes of the same length.

    radius : float
        Largest number of differing bits, itself included.

    Returns
    -------
    distances : list of n_queries arrays, int32
        Numbers of differing bits, smallest first.

    indices : list of n_queries arrays, int64
        Gallery rows; at equal distance the smaller row comes first.

    Examples
    --------
    >>> import numpy as np
    >>> gallery = pack_codes(np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 1]]))
    >>> hamming_radius(gallery[:2], gallery, radius=1)[1]
    [array([0, 1]), array([1, 0, 3])]
    """
    queries, gallery = _check_pair(queries, gallery)
    radius = check_real(radius, "radius", minimum=0)
    distances, indices = [], []
    for rows in _query_blocks(len(queries), len(gallery)):
        for row in hamming_distances(queries[rows], gallery):
            found = np.flatnonzero(row <= radius)
            found = found[np.argsort(row[found], kind="stable")]
            distances.append(row[found])
            indices.append(found.astype(np.int64, copy=False))
    return distances, indices


class HammingDistances:
    """Distances between two sets of codes, computed when rows are asked for.

    The functions of `sklearn_cbir.metrics` take it in place of a matrix of
    distances and count per distance instead of sorting.

    Parameters
    ----------
    queries : array of shape (n_queries, n_words), uint64
        Packed codes.

    gallery : array of shape (n_gallery, n_words), uint64
        Packed codes of the same length.

    Examples
    --------
    >>> import numpy as np
    >>> codes = pack_codes(np.array([[0, 0, 0], [0, 1, 1]]))
    >>> HammingDistances(codes, codes)[1:]
    array([[2, 0]], dtype=int32)
    """

    def __init__(self, queries, gallery):
        self.queries, self.gallery = _check_pair(queries, gallery)

    @property
    def shape(self):
        """Number of queries and of gallery codes."""
        return len(self.queries), len(self.gallery)

    def __getitem__(self, rows):
        """Return the distances of a slice of the queries."""
        return hamming_distances(self.queries[rows], self.gallery)


def _check_bits(codes):
    """Return a uint8 matrix of zeros and ones."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] == 0:
        raise ValueError(
            f"codes has shape {codes.shape}. Pass one row of bits per item: (n, n_bits)."
        )
    if codes.dtype.kind not in "buif":
        raise ValueError(f"codes has dtype {codes.dtype}. Pass zeros and ones as numbers.")
    if codes.dtype.kind == "b" or codes.size == 0:
        return codes.astype(np.uint8)
    # NaN fails both comparisons.
    valid = codes <= 1 if codes.dtype.kind == "u" else (codes == 0) | (codes == 1)
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        raise ValueError(
            f"codes[{row}, {column}] is {codes[row, column]}, but codes hold only 0 and 1. "
            "Binarize first, for example with (X >= 0).astype(np.uint8)."
        )
    return codes.astype(np.uint8, copy=False)


def _check_packed(packed, name):
    """Return a matrix of 64-bit words."""
    packed = np.asarray(packed)
    if packed.ndim != 2 or packed.dtype != np.uint64 or packed.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {packed.shape} and dtype {packed.dtype}. Pass packed codes, "
            "shape (n, n_words) and dtype uint64, as pack_codes returns them."
        )
    return packed


def _check_pair(queries, gallery):
    """Return packed codes of one and the same length."""
    queries, gallery = _check_packed(queries, "queries"), _check_packed(gallery, "gallery")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} words of 64 bits per code, the gallery has "
            f"{gallery.shape[1]}. Use codes of one length."
        )
    return queries, gallery


def _check_k(k, n_gallery):
    """Return `k` as an int between 1 and the size of the gallery."""
    k = check_integer(k, "k", minimum=1)
    if k > n_gallery:
        raise ValueError(f"k={k} is more than the {n_gallery} codes of the gallery.")
    return k


def _query_blocks(n_queries, n_gallery):
    """Yield slices of queries whose distances fit into a cache."""
    step = max(1, PAIRS_AT_ONCE // max(1, n_gallery))
    for start in range(0, n_queries, step):
        yield slice(start, min(start + step, n_queries))


def _count_into(distances, queries, gallery):
    """Write the distances of a block, word by word."""
    distances[:] = np.bitwise_count(queries[:, 0, None] ^ gallery[None, :, 0])
    for word in range(1, queries.shape[1]):
        distances += np.bitwise_count(queries[:, word, None] ^ gallery[None, :, word])
