"""Rows that no photo has any more are left out: new files, one commit, and the old ones are away.

Until the commit the old rows are what there is, and after it the new ones are. Files that the table
does not name are taken away whenever somebody opens the collection for writing: those that were
replaced, and those of a process that died. A reader that still has them mapped keeps them.
"""

import os
from contextlib import suppress

import numpy as np

from sklearn_cbir._threads import slices
from sklearn_cbir.collection._segments import (
    Batch,
    RowFormat,
    Segment,
    StoredValues,
    append_rows,
    damaged,
)
from sklearn_cbir.collection._table import Table

ROWS_AT_ONCE = 2**12  # that are copied, and have one checksum


def compact_rows(table: Table) -> int:
    """Leave out rows that no photo has, and return how many; whoever calls holds the lock.

    What is copied gets checksums of its own, so that rows which are damaged are found before.
    """
    with table.reading():
        about, format, segments = table.about(), table.row_format(), table.segments()
        of_rows = table.batches()
        lines = table.ask("SELECT row FROM photo WHERE row IS NOT NULL ORDER BY row").fetchall()
    rows = np.array([line[0] for line in lines], dtype=np.int64)
    n_dead = about["n_rows"] - len(rows)
    if not n_dead or format is None:
        return 0
    generation = about["generation"] + 1
    old = StoredValues(table.folder, format, segments, about["n_rows"])
    if faults := [fault for batch in of_rows if (fault := batch.fault(old))]:
        raise damaged(table.folder, "; ".join(faults))
    segments, batches = _copy(old, rows, table.folder, format, generation)
    with table.writing():
        table.forget_rows()
        table.add_rows(segments, batches)
        # Each goes to where no row is any more, as none goes up and they come in their order.
        for new, row in enumerate(rows.tolist()):
            table.ask("UPDATE photo SET row = ? WHERE row = ?", (new, row))
        table.set_about(n_rows=len(rows), generation=generation)
    return n_dead


def _copy(
    old: StoredValues, rows: np.ndarray, folder: str, format: RowFormat, generation: int
) -> tuple[list[Segment], list[Batch]]:
    """Write rows into files of another generation; return these, and their batches."""
    segments: list[Segment] = []
    batches = []
    for part in slices(len(rows), ROWS_AT_ONCE):
        values = np.ascontiguousarray(old[rows[part]])
        segments = append_rows(folder, format, segments, part.start, values, generation)
        batches.append(Batch.of(part.start, values))
    return segments, batches


def take_away_leftovers(table: Table) -> None:
    """Delete files of rows that the table does not name; whoever calls holds the lock."""
    with table.reading():
        named = {segment.name for segment in table.segments()}
    for name in os.listdir(table.folder):
        if name.startswith("rows-") and name.endswith(".npy") and name not in named:
            with suppress(OSError):  # Windows does not delete what somebody has mapped
                os.unlink(os.path.join(table.folder, name))
