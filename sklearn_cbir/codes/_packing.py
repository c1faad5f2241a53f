"""Rows of bits to 64-bit words and back."""

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._typing import Codes, PackedCodes
from sklearn_cbir._validation import check_integer, check_not_masked

__all__ = ["pack_codes", "unpack_codes"]

WORD = 64


def pack_codes(codes: ArrayLike) -> PackedCodes:
    """Pack rows of bits into 64-bit words.

    Bit ``j`` of a row becomes bit ``j % 64`` (the one of value ``2 ** (j % 64)``)
    of word ``j // 64``; the last word is padded with zeros. The result is stored
    word by word (Fortran order), as searches read it. It does not record the number
    of bits: codes of 8 and of 16 bits both take one word, and searches compare them
    as if the shorter ones ended in zeros.

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


def unpack_codes(packed: ArrayLike, n_bits: int) -> Codes:
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
    packed = check_packed(packed, "packed")
    n_bits = check_integer(n_bits, "n_bits", minimum=1, maximum=WORD * packed.shape[1])
    rows = np.ascontiguousarray(packed).astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(rows, axis=1, count=n_bits, bitorder="little")


def _check_bits(codes: ArrayLike) -> Codes:
    """Return a uint8 matrix of zeros and ones."""
    check_not_masked(codes, "codes", "a bit")
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


def check_packed(packed: ArrayLike, name: str) -> PackedCodes:
    """Return a matrix of 64-bit words."""
    check_not_masked(packed, name, "a word")
    packed = np.asarray(packed)
    if packed.ndim != 2 or packed.dtype != np.uint64 or packed.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {packed.shape} and dtype {packed.dtype}. Pass packed codes, "
            "shape (n, n_words) and dtype uint64, as pack_codes returns them."
        )
    return packed
