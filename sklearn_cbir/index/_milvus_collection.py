"""The collection of a gallery on a Milvus server: the form of its rows there, and their life."""

import os
import random
import re
import time
import uuid
import weakref

import numpy as np

from sklearn_cbir._kinds import Kept
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.codes import pack_codes, unpack_codes
from sklearn_cbir.index import _milvus_client as server
from sklearn_cbir.index._milvus_filter import join_answers

WORD = 64
ROWS_PER_CALL = 5000
BYTES_PER_ANSWER = 2**25
BYTES_PER_WRITE = 2**23
WRITES = ("upsert", "delete", "flush")
YEAR_2020 = 1_577_836_800


class Collection(Kept):
    """One collection of a server: its rows, and who may erase them.

    It belongs to the process that made it, and is dropped when no engine of that process
    needs it any longer, or when the process ends. After it was pickled it is kept: from then
    on nothing erases it, or a row of it that a pickle may use. Later rows are erased when they
    are removed, or when no engine is left and they were not pickled either (unless the process
    ends with an open local file: then they stay, unseen).
    """

    def __init__(self, uri, prefix, metric, width):
        self.uri, self.name = uri, f"{prefix}_{uuid.uuid4().hex}"
        self.metric, self.width = metric, width
        self.is_binary = metric == "hamming"
        self._start(is_kept=False)

    @classmethod
    def named(cls, uri, name, metric, width):
        """Return a collection of that name, there or not yet, which is kept for good."""
        collection = object.__new__(cls)
        is_binary = metric == "hamming"
        collection.__setstate__(
            {"uri": uri, "name": name, "metric": metric, "width": width, "is_binary": is_binary}
        )
        collection.is_checked = True  # by whoever keeps it
        return collection

    def _start(self, *, is_kept):
        self.is_checked = not is_kept
        self._lock, self._writing = ProcessLock(), ProcessLock()
        self._engines = weakref.WeakSet()  # of this process, over rows of this collection
        self.tombstones = np.empty(0, np.int64)  # keys that were removed and may be erased
        self._note(is_kept)

    def _note(self, is_kept):
        self._ownership = Ownership(self.uri, self.name, is_kept)
        server.when_unused(self, self._ownership.give_up)

    def _own(self):
        """Return what this process has written; one that was forked has written nothing yet."""
        if self._ownership.process != os.getpid():
            if not self._ownership.is_kept:
                raise RuntimeError(
                    f"This gallery (collection {self.name!r}) was fitted in the parent process, "
                    "which will drop it. Save it there first, or fit here."
                )
            self._note(is_kept=True)
        return self._ownership

    def __getstate__(self):
        with self._lock:
            self._own().keep()
        names = ("uri", "name", "metric", "width", "is_binary")
        return {name: vars(self)[name] for name in names}

    def __setstate__(self, state):
        vars(self).update(state)
        self._start(is_kept=True)

    def __deepcopy__(self, memo):
        return self

    def at(self, uri):
        """Return the same collection at another address; it is kept for good now."""
        collection = object.__new__(Collection)
        collection.__setstate__({**self.__getstate__(), "uri": uri})
        return collection

    def look_in(self, folder):
        """Take the local file of the same name in a folder if there is none where it was."""
        beside = os.path.join(os.path.abspath(folder), re.split(r"[\\/]", self.uri)[-1])
        if server.is_local(self.uri) and not os.path.exists(self.uri) and os.path.exists(beside):
            self.__setstate__({**self.__getstate__(), "uri": beside})

    @property
    def row_bytes(self):
        """Size of a row on the wire."""
        return -(-self.width // WORD) * 8 if self.is_binary else 4 * self.width

    @property
    def result_bytes(self):
        """Size of a result of a search on the wire: of codes, no more than a key."""
        return 8 if self.metric == "hamming" else self.row_bytes

    @property
    def rows_per_read(self):
        """How many rows to read in one call."""
        return max(1, min(ROWS_PER_CALL, BYTES_PER_ANSWER // self.row_bytes))

    @property
    def rows_per_write(self):
        """How many rows to write in one call."""
        return max(1, min(ROWS_PER_CALL, BYTES_PER_WRITE // self.row_bytes))

    def create(self):
        """Make it on the server; codes as bits if the server knows them, else as -1 and 1."""
        try:
            self._create()
        except RuntimeError:
            if not self.is_binary:
                raise
            self.is_binary = False
            self._create()

    def _create(self):
        pymilvus = server.import_pymilvus()
        kinds = pymilvus.DataType
        schema = pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", kinds.INT64, is_primary=True)
        index = pymilvus.MilvusClient.prepare_index_params()
        if self.is_binary:
            dim = WORD * -(-self.width // WORD)
            schema.add_field("row", kinds.BINARY_VECTOR, dim=dim)
            index.add_index("row", index_type="BIN_FLAT", metric_type="HAMMING")
        else:
            schema.add_field("row", kinds.FLOAT_VECTOR, dim=max(2, self.width))
            metric = "L2" if self.metric == "euclidean" else "IP"
            index.add_index("row", index_type="FLAT", metric_type=metric)
        self._call(
            "create_collection",
            schema=schema,
            index_params=index,
            consistency_level="Strong",
            doing="making a collection",
        )

    def open(self):
        """Raise if it is not there."""
        if server.is_local(self.uri) and not os.path.exists(self.uri):
            raise FileNotFoundError(
                f"The file of this gallery, {self.uri}, is missing. Put it back, or call "
                "relocate(uri) with its new place."
            )
        if not self._call("has_collection", doing="looking for a collection"):
            raise RuntimeError(
                f"{self.uri} has no collection {self.name!r}, in which this gallery was saved. "
                "Check the server and database, call relocate(uri) with the right one, or fit "
                "again."
            )
        self._call("load_collection", doing="loading a collection")

    def count(self):
        """Return how many rows it has, of whomever."""
        fields = ["count(*)"]
        found = self._call("query", filter="", output_fields=fields, doing="counting rows")
        return int(found[0]["count(*)"])

    def is_there(self):
        """Say whether the server has it; if so, have it searched, and note how codes are there."""
        if not self._call("has_collection", doing="looking for a collection"):
            return False
        about = self._call("describe_collection", doing="looking at a collection")
        kinds = [field["type"] for field in about["fields"]]
        self.is_binary = server.import_pymilvus().DataType.BINARY_VECTOR in kinds
        self._call("load_collection", doing="loading a collection")
        return True

    def erase(self, keys):
        """Erase rows by their keys; it is no error if there are none."""
        for start in range(0, len(keys), ROWS_PER_CALL):
            part = keys[start : start + ROWS_PER_CALL].tolist()
            self._call("delete", ids=part, doing="erasing rows")

    def erase_from(self, first):
        """Erase rows whose keys are not below `first`."""
        expression = f"key >= {first} and key < {2**63 - 1}"
        self._call("delete", filter=expression, doing="erasing rows")

    def drop(self):
        """Take it off the server, with all rows."""
        self._call("drop_collection", doing="dropping a collection")

    def take_keys(self, n, above):
        """Return `n` keys that are larger than `above` and that nobody else writes."""
        with self._lock:
            return self._own().take_keys(n, int(above))

    def write(self, keys, rows):
        """Write rows; writing them again changes nothing."""
        data = [{"key": key, "row": row} for key, row in zip(keys.tolist(), self._to_wire(rows))]
        self._call("upsert", data=data, doing="inserting rows")

    def flush(self, n_new):
        """Have the server put new rows into the form that it searches fastest, if they are many."""
        if n_new > ROWS_PER_CALL:
            self._call("flush", doing="settling rows")

    def read(self, keys):
        """Return those of the sorted `keys` that are there, and their rows."""
        found = self._call(
            "query", ids=keys.tolist(), output_fields=["key", "row"], doing="reading rows"
        )
        there = np.array([entry["key"] for entry in found], dtype=np.int64)
        order = np.argsort(there)
        rows = self._from_wire([entry["row"] for entry in found])
        return there[order], rows[order]

    def search(self, queries, k, filters):
        """Return, per query, keys, similarities or distances, and rows, the nearest first.

        Codes come without rows: their distances are exact. Each of the expressions in `filters`
        says which rows may come, and is a search of its own; an empty one lets all come.
        """
        if len(filters) == 1:
            return self._search(queries, k, filters[0])
        parts = [self._search(queries, k, expression) for expression in filters]
        largest_first = self.metric == "cosine"
        return [join_answers(found, k, largest_first=largest_first) for found in zip(*parts)]

    def _search(self, queries, k, expression):
        """Search with one expression; as many queries at once as have answers of a fair size."""
        step = max(1, BYTES_PER_ANSWER // (k * self.result_bytes))
        answers = []
        for start in range(0, len(queries), step):
            found = self._call(
                "search",
                data=list(self._to_wire(queries[start : start + step])),
                limit=k,
                anns_field="row",
                output_fields=["key"] if self.metric == "hamming" else ["key", "row"],
                filter=expression,
                doing="searching",
            )
            answers += map(self._parsed, found)
        return answers

    def _parsed(self, hits):
        keys = np.array(hits.ids, dtype=np.int64)
        values = np.array(hits.distances, dtype=np.float64)
        if self.metric != "hamming":
            return keys, values, self._from_wire([hit["entity"]["row"] for hit in hits])
        # Of rows of -1 and 1, the inner product is their length less twice what differs.
        return keys, values if self.is_binary else (self.width - values) / 2, None

    def discard(self, keys):
        """Have rows erased once no engine holds them, unless a pickle may."""
        with self._lock:
            self.tombstones = np.union1d(self.tombstones, keys)

    def hold(self, engine):
        """Note that an engine needs its rows."""
        with self._lock:
            self._engines.add(engine)

    def sweep(self):
        """Erase what was discarded and nobody holds."""
        if not len(self.tombstones) or self._ownership.process != os.getpid():
            return
        with self._lock:
            self.tombstones = self.tombstones[self._ownership.may_erase(self.tombstones)]
            held = [np.isin(self.tombstones, engine.keys) for engine in self._engines]
            free = self.tombstones[~np.any(held, axis=0)] if held else self.tombstones
        self.erase(free)
        with self._lock:
            self.tombstones = np.setdiff1d(self.tombstones, free)

    def release(self):
        """Drop it, unless it is kept; say nothing if that fails."""
        self._ownership.give_up()

    def _call(self, method, *, doing, **options):
        if method in WRITES:  # one after the other: milvus-lite mixes up those that come together
            with self._writing:
                return server.call(self.uri, method, self.name, doing=doing, **options)
        try:
            return server.call(self.uri, method, self.name, doing=doing, **options)
        except RuntimeError:
            if method not in ("query", "search"):
                raise
        # A server that was started again has the rows, but may not have loaded them.
        server.call(self.uri, "load_collection", self.name, doing="loading a collection")
        return server.call(self.uri, method, self.name, doing=doing, **options)

    def _to_wire(self, rows):
        """Return rows as the server stores them: bytes of codes, or at least two floats each."""
        if self.is_binary:
            return [row.tobytes() for row in np.ascontiguousarray(rows, dtype="<u8")]
        if self.metric == "hamming":
            rows = 2 * unpack_codes(rows, self.width).astype(np.float32) - 1
        if self.width == 1:  # a server wants two numbers at least
            rows = np.pad(rows, ((0, 0), (0, 1)))
        return np.ascontiguousarray(rows)

    def _from_wire(self, values):
        """Return rows, floats or packed codes, of values that the server sent."""
        if self.is_binary:
            joined = b"".join(value[0] if isinstance(value, list) else value for value in values)
            return np.frombuffer(joined, "<u8").reshape(len(values), -1)
        rows = np.array(values, dtype=np.float32).reshape(len(values), max(2, self.width))
        rows = rows[:, : self.width]
        return pack_codes((rows > 0).astype(np.uint8)) if self.metric == "hamming" else rows


class Ownership:
    """Rows that this process has written into a collection, and which of them were pickled."""

    def __init__(self, uri, name, is_kept):
        self.uri, self.name, self.is_kept = uri, name, is_kept
        self.process = os.getpid()
        self.first = self.next = 0  # keys written and not pickled: from `first`, below `next`

    def take_keys(self, n, above):
        if not self.next:
            # Two processes that load one gallery and add rows must not choose the same keys. So a
            # key begins with the time in seconds, or later if older keys are ahead of it, and
            # ends with 31 random bits.
            seconds = max(int(time.time() - YEAR_2020), (above >> 31) + 1)
            noise = random.SystemRandom().getrandbits(31)
            self.first = self.next = (seconds << 31) + noise
        keys = np.arange(self.next, self.next + n)
        self.next += n
        return keys

    def keep(self):
        self.is_kept, self.first = True, self.next

    def may_erase(self, keys):
        return (self.first <= keys) & (keys < self.next)

    def give_up(self, at_end=False):
        """Drop the collection, or erase what no pickle holds."""
        if self.process != os.getpid():
            return
        if not self.is_kept:
            server.erase(self.uri, self.name, at_end=at_end)
        elif self.first < self.next:
            server.erase(self.uri, self.name, range(self.first, self.next), at_end=at_end)
