"""One byte per number of the rows of a graph: less to read for every row that a walk meets."""

import numpy as np

from sklearn_cbir.index._rows import read_only

CODE_LARGEST = 127
BYTES_AT_LEAST = 128  # of a row, below which its first cache line brings most of it


class NodeCodes:
    """Rows of nodes by scalar quantization, each column with a step of its own.

    The row of node i is about ``center + steps * codes[i]``, and ``norms[i]`` the squared norm of
    ``steps * codes[i]``.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
        Rows, which are not kept.

    indexed : ndarray of shape (n_nodes,)
        Position of the row of every node; -1 if it was removed.

    center, steps : ndarray of shape (n_features,)
        Of `code_range`.

    quantize : callable, optional
        The compiled loop, if there are nodes.
    """

    def __init__(self, rows, indexed, center, steps, quantize=None):
        codes = np.zeros((len(indexed), rows.shape[1]), dtype=np.int8)
        norms = np.zeros(len(indexed), dtype=np.float32)
        if quantize is not None:
            quantize(*map(read_only, (rows, indexed, center, steps)), codes, norms)
        self.arrays = codes, norms, center, steps  # that a walk takes


def code_range(rows):
    """Return the center of every column, in the type of the rows, and its step, float32."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    return low / 2 + high / 2, ((high / 2 - low / 2) / CODE_LARGEST).astype(np.float32)
