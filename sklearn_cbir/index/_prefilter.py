"""An int8 copy of the rows, which tells most of them from the nearest of a few queries."""

import numpy as np
from sklearn import get_config

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.index._picking import kth_bound, lowest

# To quantize takes two readings of the rows, and the import of numba and its memory.
QUERIES_BEFORE = 100
FAILURES_IN_A_ROW = 8  # after which it is given up
LOCK = ProcessLock()


class Prefilter:
    """An int8 copy of rows that is made once enough was asked, and given up where it fails.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
        Rows, as they are compared.
    """

    def __init__(self, rows):
        self.rows = rows
        self.int8_rows, self.is_made = None, False
        self.n_asked = self.n_failures = 0

    def ready(self, n_queries):
        """Count queries; return the prefilter if it may be asked, else None.

        It may not before enough was asked to pay for it, where it would take more than the working
        memory, and where numba cannot compile.
        """
        if self.rows.size > get_config()["working_memory"] * 2**20:
            return None
        self.n_asked += n_queries
        if self.n_asked <= QUERIES_BEFORE:
            return None
        if not self.is_made:
            with LOCK:
                if not self.is_made:
                    self.int8_rows, self.is_made = _quantized(self.rows), True
        return None if self.int8_rows is None else self

    def candidates(self, engine, query, k, error, copies):
        """Return the rows that it cannot tell from the `k` nearest; None if they are many.

        `query` has the shape (1, n_features); `error` is that of its similarities.
        """
        int8_rows, many = self.int8_rows, len(engine) // 16  # many: as long to re-score as all
        if int8_rows is None or k > many // 4:
            return None
        similarity, margin = engine._screened(int8_rows, query)
        if copies is not None:
            copies.leave_out(similarity)
        margin += error.astype(margin.dtype)
        floor = max(kth_bound(similarity - margin, k), lowest(similarity.dtype))
        found = np.flatnonzero(similarity + margin >= floor)
        if len(found) <= many:
            self.n_failures = 0
            return found if len(similarity) == len(engine) else engine.row_filter.numbers(found)
        self.n_failures += 1
        if self.n_failures > FAILURES_IN_A_ROW:
            self.int8_rows = None
        return None


def _quantized(rows):
    """Return the int8 copy of rows, or None where numba cannot compile what makes it."""
    try:
        from sklearn_cbir.index._int8_kernels import Int8Rows
    except ImportError:
        return None
    return Int8Rows(rows)
