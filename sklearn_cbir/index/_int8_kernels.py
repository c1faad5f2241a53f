"""Rows quantized to one byte per number, and their products; imported when needed."""

import numpy as np

from sklearn_cbir._compiled import compiled, fast
from sklearn_cbir.index._rows import read_only

ROUNDED_UP = 1 + 1e-6  # what is rounded afterwards stays above the number itself


class Int8Rows:
    """Rows by scalar quantization: whole numbers times a scale, and the norm of the residual.

    A row is ``scale * code + residual``, so its product with a query is that of the query with
    ``scale * code`` but for at most the norm of the query times that of the residual.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features), float32 or float64
        Rows, which are not kept.
    """

    def __init__(self, rows):
        self._codes = np.empty(rows.shape, dtype=np.int8)
        self._scales, self._residuals = np.empty((2, len(rows)), dtype=rows.dtype)
        _quantize(read_only(rows), self._codes, self._scales, self._residuals)

    def multiply(self, query):
        """Return products with all rows, and how far from the true ones each may be, both (n,).

        The rounding errors of a product of `n_features` numbers come on top of it.
        """
        products = np.empty(len(self._codes), dtype=self._scales.dtype)
        _multiply(self._codes, self._scales, read_only(query), products)
        norm = ROUNDED_UP * np.sqrt(np.square(query, dtype=np.float64).sum())
        return products, self._residuals * products.dtype.type(norm)


@compiled
def _quantize(rows, codes, scales, residuals):
    """Write every row as its scale times whole numbers up to 127, and the norm of the residual."""
    number = rows.dtype.type
    for i in range(rows.shape[0]):
        row, code = rows[i], codes[i]
        largest = number(0)
        for j in range(rows.shape[1]):
            largest = max(largest, abs(row[j]))
        scales[i] = largest / number(127)
        scale = np.float64(scales[i])  # as it is stored
        to_code = 1 / scale if scale > 0 else 0.0
        for j in range(rows.shape[1]):
            code[j] = np.int8(min(max(np.rint(row[j] * to_code), -127.0), 127.0))
        squares = 0.0
        for j in range(rows.shape[1]):
            residual = row[j] - scale * code[j]
            squares += residual * residual
        residuals[i] = np.sqrt(squares) * ROUNDED_UP


@fast
def _multiply(codes, scales, query, products):
    """Write the product of the query and of every row without its residual."""
    number = query.dtype.type
    for i in range(codes.shape[0]):
        code = codes[i]
        total = number(0)
        for j in range(codes.shape[1]):
            total += query[j] * number(code[j])
        products[i] = total * scales[i]
