"""Rows of a collection on a Milvus server, or in a file of milvus-lite; `keeper_of` chooses.

The key of a row is its number in the table. Each collection has its own collection in Milvus; a
compaction makes another. Rows that the table does not count (those past its count, and those of
removed photos) are ignored by readers, overwritten by the next writer, and erased under the lock.
"""

import os
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from sklearn_cbir._threads import slices
from sklearn_cbir._typing import PathLike
from sklearn_cbir._validation import shortened
from sklearn_cbir.collection._keeper import FileKeeper, RowKeeper
from sklearn_cbir.collection._roots import from_index, near_or_there
from sklearn_cbir.collection._segments import Batch, Segment, SegmentGoneError, damaged
from sklearn_cbir.collection._table import Table
from sklearn_cbir.index import _milvus_client as server
from sklearn_cbir.index._milvus_collection import Collection
from sklearn_cbir.index._milvus_rows import KeptRows
from sklearn_cbir.index._rows import row_keys
from sklearn_cbir.neighbors import NeighborsRetriever

ENDLESS = 2**62  # rows that fit into a collection of Milvus


def keeper_of(table: Table, uri: PathLike | None = None) -> RowKeeper:
    """Return the keeper of the rows of a collection; `uri` is their new place, if they moved."""
    with table.reading():
        about = table.about()
    if about.get("uri") is not None:
        return ServerKeeper(table, about, uri)
    if uri is not None:
        raise ValueError(
            f"uri={shortened(uri)}, but the collection in {table.folder!r} keeps its rows in "
            "files. Leave uri out."
        )
    return FileKeeper(table)


def check_server(uri: PathLike) -> str:
    """Return the address of a server that answers, or of a local file; raise if there is none."""
    address = server.check_address(os.fsdecode(uri) if isinstance(uri, bytes) else uri)
    server.call(address, "list_collections", doing="looking for the server")
    return address


def server_lines(address: str, index: str) -> dict[str, Any]:
    """Return the lines about the place of rows for the table, without a password."""
    return address_lines(address, index) | {"server_name": f"sklearn_cbir_{uuid.uuid4().hex}"}


def address_lines(address: str, index: str) -> dict[str, Any]:
    """Return the lines about an address for the table; a file may move with the collection."""
    near = from_index(index, address) if server.is_local(address) else None
    return {"uri": os.fsencode(address), "uri_from_index": near}


def found_address(about: Mapping[str, Any], index: str) -> str:
    """Return where the server is, or the file is now."""
    address = os.fsdecode(about["uri"])
    if not server.is_local(address):
        return address
    return near_or_there(address, about["uri_from_index"], index, os.path.exists)


class ServerKeeper(RowKeeper):
    """Rows on a server.

    Parameters
    ----------
    table : Table
        The table.

    about : mapping
        What it says of the whole collection.

    uri : str or path, default=None
        Where the rows are now, if not where it says.
    """

    def __init__(self, table: Table, about: Mapping[str, Any], uri: PathLike | None) -> None:
        super().__init__(table)
        self.address = found_address(about, table.folder) if uri is None else check_server(uri)
        self.name = about["server_name"]

    @property
    def uri(self) -> str:
        """The address of the server, or of the file."""
        return self.address

    def append(self, format, segments, n_rows, values, generation):
        """Send rows to the server, which has them in its log and finds them when this returns.

        A flush would add nothing to that, and milvus-lite writes files then that a process which is
        killed leaves torn.
        """
        if segments:
            collection = self._there(format, segments)
        else:
            name = f"{self.name}_{generation}"
            collection = Collection.named(self.address, name, format.metric, format.n_features)
            if collection.is_there():  # of a process that died before its first commit
                collection.drop()
            collection.is_binary = format.metric == "hamming"  # if the server knows them
            collection.create()
            segments = [Segment(name, 0, ENDLESS)]
        for part in slices(len(values), collection.rows_per_write):
            collection.write(n_rows + np.arange(part.start, part.stop), values[part])
        return segments

    def read(self, format, segments, n_rows) -> KeptRows:
        """Return the rows that the table counts, which are not read yet."""
        sums = [batch.checksum for batch in self.table.batches()]
        hashes = np.frombuffer(b"".join(sums), dtype="<u8").astype(np.uint64, copy=False)
        if len(hashes) != n_rows:
            raise damaged(self.folder, f"it has checksums of {len(hashes):,} of {n_rows:,} rows")
        return KeptRows(self._there(format, segments), hashes)

    def _there(self, format, segments):
        """Return the collection of Milvus that has the rows; raise if it is not there."""
        name = segments[0].name
        if server.is_local(self.address) and not os.path.exists(self.address):
            raise FileNotFoundError(
                f"The rows of the collection in {self.folder!r} are in {self.address!r}, which "
                "is missing. Put it back, or give its new place to PhotoCollection.open(path, "
                "uri=...)."
            )
        collection = Collection.named(self.address, name, format.metric, format.n_features)
        if not collection.is_there():
            what = f"its rows are not at {self.address}, which has no {name!r}"
            raise SegmentGoneError(*damaged(self.folder, what).args)
        return collection

    def retriever(self, values: KeptRows, format):
        """Return a retriever that lets the server search."""
        retriever = NeighborsRetriever(
            metric=format.metric, algorithm="milvus", uri=values.collection.uri
        )
        rows: Any = values
        return retriever.fit(rows)

    def batch(self, first, values):
        """Return a batch with a checksum of every row, as single rows are erased."""
        return Batch(first, len(values), row_keys(values).astype("<u8", copy=False).tobytes())

    def fault(self, batch, values, has_photo):
        """Read back the rows of a batch that photos have."""
        if values is None:
            return batch.fault(None)
        rows = np.arange(batch.first, batch.first + batch.n_rows)
        rows = rows if has_photo is None else rows[has_photo[rows]]
        n_lost = n_wrong = 0
        for part in slices(len(rows), values.collection.rows_per_read):
            keys, found = values.collection.read(rows[part])
            n_lost += part.stop - part.start - len(keys)
            n_wrong += np.count_nonzero(row_keys(found) != values.row_hashes[keys])
        if not n_lost and not n_wrong:
            return None
        return (
            f"of rows {batch.first:,} to {batch.first + batch.n_rows - 1:,}, {n_lost:,} are no "
            f"longer at {self.address} and {n_wrong:,} are not those that were written"
        )

    def take_away_leftovers(self):
        """Drop collections that the table does not name, and erase rows that no photo has."""
        with self.table.reading():
            segments, format = self.table.segments(), self.table.row_format()
            n_rows = self.table.about()["n_rows"]
            lines = self.table.ask("SELECT row FROM photo WHERE row IS NOT NULL").fetchall()
        named = {segment.name for segment in segments}
        for name in server.call(self.address, "list_collections", doing="listing collections"):
            if name.startswith(f"{self.name}_") and name not in named:
                server.call(self.address, "drop_collection", name, doing="dropping a collection")
        if not segments or format is None:
            return
        collection = self._there(format, segments)
        if collection.count() != len(lines):
            rows = np.array([line[0] for line in lines], dtype=np.int64)
            collection.erase_from(n_rows)
            collection.erase(np.setdiff1d(np.arange(n_rows), rows))

    def close(self):
        """Release a local file for other processes: it serves one at a time."""
        if server.is_local(self.address):
            server.give_back(self.address)
