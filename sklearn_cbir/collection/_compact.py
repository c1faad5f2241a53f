"""Remove rows that no photo uses: write new files, commit once, and delete the old files.

Before the commit the old rows are valid, after it the new ones. Whoever opens the collection for
writing deletes files that the table does not name: replaced files, and those of a process that
died. A reader that still has them mapped keeps them. On a server, collections take the place of
files.
"""

import numpy as np

from sklearn_cbir._threads import slices
from sklearn_cbir.collection._keeper import RowKeeper, Values
from sklearn_cbir.collection._segments import Batch, RowFormat, Segment, damaged
from sklearn_cbir.collection._table import Table

ROWS_AT_ONCE = 2**12  # that are copied, and have one checksum


def compact_rows(table: Table, keeper: RowKeeper) -> int:
    """Remove rows that no photo uses, and return how many; the caller holds the lock.

    Copies get new checksums, so all rows are checked for damage first.
    """
    with table.reading():
        about, format, segments = table.about(), table.row_format(), table.segments()
        of_rows = table.batches()
        rows = table.integers("SELECT row FROM photo WHERE row IS NOT NULL ORDER BY row")
    n_dead = about["n_rows"] - len(rows)
    if not n_dead or format is None:
        return 0
    generation = about["generation"] + 1
    old = keeper.read(format, segments, about["n_rows"])
    has_photo = np.isin(np.arange(about["n_rows"]), rows)
    if faults := [fault for batch in of_rows if (fault := keeper.fault(batch, old, has_photo))]:
        raise damaged(table.folder, "; ".join(faults))
    segments, batches = _copy(old, rows, keeper, format, generation)
    with table.writing():
        table.forget_rows()
        table.add_rows(segments, batches)
        # Each goes to where no row is any more, as none goes up and they come in their order.
        for new in np.flatnonzero(rows != np.arange(len(rows))).tolist():
            table.ask("UPDATE photo SET row = ? WHERE row = ?", (new, int(rows[new])))
        table.set_about(n_rows=len(rows), generation=generation)
    return n_dead


def _copy(
    old: Values, rows: np.ndarray, keeper: RowKeeper, format: RowFormat, generation: int
) -> tuple[list[Segment], list[Batch]]:
    """Keep rows in another generation; return where it is, and its batches."""
    segments: list[Segment] = []
    batches = []
    for part in slices(len(rows), ROWS_AT_ONCE):
        values = np.ascontiguousarray(old[rows[part]])
        segments = keeper.append(format, segments, part.start, values, generation)
        batches.append(keeper.batch(part.start, values))
    return segments, batches
