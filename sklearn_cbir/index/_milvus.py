"""Exact search in a collection of a Milvus server, or of a file that milvus-lite reads.

The server finds candidates: it compares every query with every row (its FLAT index) in float32
and returns the nearest and a few more. They are re-scored here as in the exact engines, so
distances and the order of ties are equal, bit by bit. If rounding or ties leave open whether the
server has held back a result, it is asked for more, and in the end all rows are read in blocks.

Rows are named by keys, whole numbers that grow with the position and are never used twice.
A position is the place of its key among the keys that an engine holds, so `remove` moves
positions up without a change on the server, and rows of others in the collection are passed
over.
"""

import re
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config

from sklearn_cbir._kinds import former_classes
from sklearn_cbir._threads import slices
from sklearn_cbir._validation import progress_bar, shortened
from sklearn_cbir.codes import HammingDistances
from sklearn_cbir.index import _milvus_client as server
from sklearn_cbir.index._engine import Engine, derived, remembered
from sklearn_cbir.index._exact_engines import EXACT
from sklearn_cbir.index._milvus_collection import BYTES_PER_ANSWER, Collection
from sklearn_cbir.index._milvus_filter import KeyFilter
from sklearn_cbir.index._milvus_rows import FirstResults, KeptRows, ServerRows
from sklearn_cbir.index._rows import find_copies, row_keys, summed_row_keys

QUERIES_PER_CALL = 100
MOST = 16_384  # results that a server gives at most
SPARE = 8
SAMPLE = 16  # rows that are compared when a saved gallery is first used
NAME = "[A-Za-z_][A-Za-z0-9_]{0,199}"


class MilvusEngine(Engine):
    """Rows on a server; keys, and a 64-bit hash of every row, here.

    `rescorer` is an exact engine without rows, which says how they are encoded, and measures again
    what the server has found.
    """

    name = "milvus"
    metrics = EXACT.metrics
    needs_address = True
    options = ("uri", "collection", "verbose")
    pickled = (
        "rescorer",
        "uri",
        "given_uri",
        "prefix",
        "verbose",
        "input_dtype",
        "collection",
        "keys",
        "row_hashes",
        "hash_format",
    )
    renamed: ClassVar = {"form": "rescorer", "marks": "row_hashes", "mark_format": "hash_format"}
    in_memory = False
    rescorer: Any  # an `ExactEngine`, or a `HammingEngine`
    hash_format = 1  # of engines that were saved without one
    key_filter: KeyFilter | None = None  # of an engine that was filtered, for the server

    def __init__(self, metric, *, uri=None, collection=None, verbose=0):
        self.metric, self.rescorer = metric, EXACT(metric)
        self.uri, self.given_uri = server.check_address(uri), uri
        self.prefix = "sklearn_cbir" if collection is None else collection
        self.verbose = verbose
        if not (isinstance(self.prefix, str) and re.fullmatch(NAME, self.prefix)):
            raise ValueError(
                f"collection={shortened(self.prefix)} is not a name of a collection. Use letters, "
                "digits and underscores, not beginning with a digit."
            )

    def build(self, rows):
        """Write `rows` into a new collection, or hold those of one that somebody else keeps."""
        if isinstance(rows, KeptRows):
            return self._hold(rows)
        server.clean_up()
        self.input_dtype = rows.dtype.name  # queries are read like rows: both are rounded once
        if self.metric != "hamming":  # one that has seen the range scales what would overflow
            extremes = np.array([[rows.max()], [rows.min()]])
            self.rescorer = self.rescorer.build(extremes)._over(None)
            if self.metric == "euclidean" and abs(np.log2(self.rescorer.scale)) > 120:
                raise ValueError(
                    f"X holds numbers of about {1 / self.rescorer.scale:.3g}, too large or too "
                    "small for Euclidean distances in single precision. Scale all rows first."
                )
        first = self.encode(rows[:1])
        width = rows.shape[1] if self.metric == "hamming" else first.shape[1]
        self.collection = Collection(self.uri, self.prefix, self.metric, width)
        self.keys, self.row_hashes = np.empty(0, np.int64), np.empty(0, np.uint64)
        self.hash_format = 2
        try:
            self.collection.create()
            written = self._write(rows)
        except BaseException:
            self.collection.release()
            raise
        self.keys, self.row_hashes = written
        self.collection.hold(self)
        return self

    def _hold(self, rows):
        is_code = self.metric == "hamming"
        self.input_dtype = "uint8" if is_code else "float32"
        if not is_code:  # of unit length: nothing is scaled
            self.rescorer = self.rescorer.build(np.array([[1.0], [-1.0]], "f4"))._over(None)
        self.collection, self.row_hashes, self.hash_format = rows.collection, rows.row_hashes, 2
        self.keys = np.arange(len(rows))
        self.collection.hold(self)
        return self

    def __len__(self):
        return len(self.keys)

    def __setstate__(self, state):
        super().__setstate__(state)
        self.metric = self.rescorer.metric
        self.collection.hold(self)

    @derived
    def rows(self) -> Any:
        """The gallery as it is compared, read from the server where it is sliced."""
        return ServerRows(self)

    @derived
    def block_size(self) -> int | None:
        """How many queries to score at once: each time, all rows are read."""
        return max(1, int(get_config()["working_memory"] * 2**20 // (16 * len(self))))

    def encode(self, rows):
        """Return rows in the form in which they are compared: single precision, or packed codes."""
        rows = self.rescorer.encode(rows)
        return rows if self.metric == "hamming" else rows.astype(np.float32, copy=False)

    def decode(self, rows, n_features):
        """Return a copy of encoded rows in the form in which they can be asked with."""
        return self.rescorer.decode(rows, n_features)

    def add(self, rows):
        """Return an engine with `rows` appended."""
        server.clean_up()
        self._ready()
        keys, hashes = self._write(rows)
        return self._with(np.append(self.keys, keys), np.append(self.row_hashes, hashes))

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        server.clean_up()
        self._ready()
        self.collection.discard(self.keys[positions])
        return self._with(np.delete(self.keys, positions), np.delete(self.row_hashes, positions))

    def query(self, queries, k):
        """Return distances and positions of the `k` nearest rows, both (n_queries, k)."""
        distances = np.empty((len(queries), k), np.int32 if self.metric == "hamming" else float)
        positions = np.empty((len(queries), k), dtype=np.int64)
        for row, (values, found) in enumerate(self.up_to_kth(queries, k, ties=False)):
            order = np.lexsort((found, values))[:k]
            distances[row], positions[row] = values[order], found[order]
        return distances, positions

    def query_radius(self, queries, radii):
        """Return lists of the distances and positions of all rows within each query's radius."""
        queries = queries[:]
        parts = [([], []) for _ in range(len(queries))]
        for start, engine in self._blocks():
            for part, values, found in zip(parts, *engine.query_radius(queries, radii)):
                part[0].append(values)
                part[1].append(found + start)
        distances, positions = [], []
        for part in parts:
            values, found = map(np.concatenate, part)
            order = np.lexsort((found, values))
            distances.append(values[order])
            positions.append(found[order])
        return distances, positions

    def distances(self, queries):
        """Return the exact distances to all rows, which are read in blocks."""
        if self.metric == "hamming":
            return HammingDistances(queries[:], self.rows[:])
        # Distances of scaled rows may be beyond single precision.
        is_scaled = getattr(self.rescorer, "scale", 1) != 1
        distances = np.empty((len(queries), len(self)), float if is_scaled else np.float32)
        for start, engine in self._blocks():
            distances[:, start : start + len(engine)] = engine.distances(queries)
        # Products of two blocks may round the distances of equal rows differently.
        copies, firsts = self._copies
        distances[:, copies] = distances[:, firsts]
        return distances

    @remembered
    def _copies(self):
        """Positions of rows that repeat an earlier one, and the first position of each."""
        return find_copies(self.rows)

    @remembered
    def comparable_hashes(self):
        """One hash per row, as `row_keys` makes it; those of old galleries are made here."""
        if self.hash_format > 1:
            return self.row_hashes
        parts = slices(len(self), self.collection.rows_per_read)
        return np.concatenate([row_keys(self.rows[part]) for part in parts])

    def cut_off(self, k: int) -> Any:
        """Return an engine whose `distances` stop at the `k`-th nearest row and its ties."""
        return FirstResults(self, k) if k < len(self) else self

    def _left_in(self, row_filter):
        """Return an engine over the rows that a filter leaves in, which has the server filter."""
        self._ready()
        positions = row_filter.positions
        engine = self._with(self.keys[positions], self.row_hashes[positions])
        engine.key_filter = KeyFilter(self.keys, row_filter)
        return engine

    def _with(self, keys, row_hashes):
        """Return an engine over other rows of the same collection."""
        engine = object.__new__(type(self))
        engine.__setstate__({**self.__getstate__(), "keys": keys, "row_hashes": row_hashes})
        return engine

    def relocate(self, place):
        """Return an engine over the same collection at another address, which must have it."""
        state = {**self.__getstate__(), "uri": server.check_address(place), "given_uri": place}
        state["collection"] = self.collection.at(state["uri"])
        engine = object.__new__(type(self))
        engine.__setstate__(state)
        engine._check()
        return engine

    def _hash(self, rows):
        """Return the hash of every row, made as those that this engine has."""
        return row_keys(rows) if self.hash_format > 1 else summed_row_keys(rows)

    def _ready(self):
        """Check a gallery that was loaded, once, and erase what nobody holds any more."""
        if not self.collection.is_checked:
            self._check()
        if len(self.collection.tombstones):
            self.collection.sweep()

    def _check(self):
        """Raise unless the rows are still there, and still the same."""
        collection = self.collection
        collection.open()
        n = collection.count()
        sample = np.unique(np.linspace(0, len(self) - 1, SAMPLE).astype(int))
        wrong = n < len(self)
        if not wrong:
            keys, rows = collection.read(self.keys[sample])
            wrong = len(keys) < len(sample) or (self._hash(rows) != self.row_hashes[sample]).any()
        if wrong:
            raise RuntimeError(
                f"The collection {collection.name!r} of {collection.uri} has {n} rows and is "
                f"not the collection that this gallery of {len(self)} rows was saved with: "
                "something else has changed it. Fit again."
            )
        collection.is_checked = True

    def _write(self, rows):
        """Send rows in batches; return their keys and hashes once all are acknowledged."""
        collection = self.collection
        keys = collection.take_keys(len(rows), above=self.keys[-1:].max(initial=-1))
        hashes = np.empty(len(rows), dtype=np.uint64)
        step, sent = collection.rows_per_write, 0
        try:
            with progress_bar(len(rows), "Inserting", self.verbose > 0) as advance:
                for start in range(0, len(rows), step):
                    part = slice(start, start + step)
                    encoded = self.encode(rows[part])
                    hashes[part] = self._hash(encoded)
                    collection.write(keys[part], encoded)
                    sent += len(encoded)
                    advance(len(encoded))
            collection.flush(len(rows))
        except BaseException as error:
            collection.discard(keys[: sent + step])
            if not isinstance(error, ConnectionError):
                raise
            raise ConnectionError(
                f"{error} It had confirmed {sent} of {len(rows)} new rows. None of them is in "
                "the gallery: all rows are added, or none."
            ) from error
        return keys, hashes

    def _blocks(self):
        """Yield the first position of blocks of rows, and an exact engine over each."""
        self._ready()
        step = self.collection.rows_per_read
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            yield start, self.rescorer._over(self.read(np.arange(start, stop)))

    def read(self, positions):
        """Return the rows at a few positions."""
        wanted = self.keys[positions]
        keys, rows = self.collection.read(wanted)
        if len(keys) != len(wanted):
            raise self._lost(len(wanted) - len(keys))
        return rows

    def _lost(self, n):
        collection = self.collection
        return RuntimeError(
            f"{n} rows of this gallery are no longer in the collection {collection.name!r} of "
            f"{collection.uri}: something else has erased them. Fit again."
        )

    def up_to_kth(self, queries, k, *, ties):
        """Yield, per query, distances and positions of all rows as near as the k-th nearest.

        In no order, and perhaps with some that are further. Without `ties` only those that
        come first may be there of rows as far as the k-th.
        """
        self._ready()
        for start in range(0, len(queries), QUERIES_PER_CALL):
            block = queries[start : start + QUERIES_PER_CALL]
            names = [query.tobytes() for query in block]
            rows = {name: row for row, name in enumerate(names)}
            # Equal queries are asked once: in a tie that is dear.
            found = dict(zip(rows, self._answers(block[list(rows.values())], k, ties)))
            yield from (found[name] for name in names)

    def _answers(self, queries, k, ties) -> list[Any]:
        """Return distances and positions of each query of one call, as a list."""
        found: list[Any] = self._ask(queries, k)
        for row, result in enumerate(found):
            if result is None and self.metric == "hamming" and not ties and k < MOST:
                found[row] = self._first_ties(queries[row : row + 1], k)
        open_ = [row for row, result in enumerate(found) if result is None]
        if open_:
            for row, result in zip(open_, self._read_all(queries[open_], k, ties)):
                found[row] = result
        return found

    def _ask(self, queries, k) -> list[tuple[NDArray, NDArray] | None]:
        """Ask the server; return one pair per query, None where it cannot be sure."""
        found: list[Any] = [None] * len(queries)
        left = np.arange(len(queries))
        if self.metric == "cosine":  # what has no length is as far from everything
            is_zero = ~queries.any(axis=1)
            for row in np.flatnonzero(is_zero):
                found[row] = np.ones(len(self)), np.arange(len(self))
            left = left[~is_zero]
        for limit, expressions in self._searches(len(left), k):
            if not len(left):
                break
            answers = self.collection.search(queries[left], limit, expressions)
            rescored = self._rescored(queries[left], answers)
            for row, answer, result in zip(left, answers, rescored):
                if self._is_sure(queries[row], k, limit, answer, result[0]):
                    found[row] = result
            left = np.array([row for row in left if found[row] is None], dtype=np.int64)
        return found

    def _searches(self, n_queries, k):
        """Yield how many results to ask for and expressions, at first and if they do not do."""
        most = MOST
        if self.metric != "hamming":
            most = max(1, min(MOST, BYTES_PER_ANSWER // self.collection.row_bytes))
        if k > most:
            return
        wanted, expressions = min(k + SPARE, most), [""]
        if self.key_filter is not None:
            among_all = min(self.key_filter.among_all(wanted), most)
            passed_over = n_queries * (among_all - wanted) * self.collection.result_bytes
            if not self.key_filter.can_be_told:
                wanted = among_all
            elif among_all < most and self.key_filter.costs_more_than(passed_over):
                yield among_all, expressions
            expressions = self.key_filter.expressions
        while wanted < most:
            yield wanted, expressions
            wanted *= 4
        yield most, expressions

    def _rescored(self, queries, answers):
        """Return distances and positions of the rows of this engine among answers, per query."""
        known, found = np.append(self.keys, -1), []  # -1 is the key of no row
        for query, (keys, values, rows) in zip(queries, answers):
            positions = np.searchsorted(self.keys, keys)
            ours = np.flatnonzero(known[positions] == keys)
            if self.metric == "hamming":  # what the server has counted is exact
                distances = values[ours].astype(np.int32)
            else:
                distances = self.rescorer.rescore_rows(query[None], rows[ours])
            found.append((distances, positions[ours]))
        return found

    def _is_sure(self, query, k, wanted, answer, distances):
        """Say whether no row that the server held back can be among the `k` nearest."""
        if len(distances) == len(self.keys):
            return True
        keys, values, _ = answer
        if len(keys) < wanted:
            raise self._lost(len(self) - len(distances))
        if len(distances) < k:
            return False
        return np.partition(distances, k - 1)[k - 1] < self._beyond(query, float(values[-1]))

    def _beyond(self, query, last):
        """Return a distance below which no row has fallen that came after the `last` value."""
        if self.metric == "hamming":
            return last
        # No server adds up fewer than four products side by side.
        error = 2 * (len(query) / 4 + 16) * np.finfo(np.float32).eps
        if self.metric == "cosine":
            return 1 - last - error
        length = 2 * np.sqrt(np.einsum("i,i->", query, query, dtype=float)) + np.sqrt(last)
        return np.sqrt(max(0.0, last - error * length**2)) / self.rescorer.scale

    def _first_ties(self, query, k):
        """Return the `k` nearest of codes of which more tie than a server gives.

        The distance of the k-th is known. Of the rows that have it, those that come first are
        found by asking for leading parts of the gallery, until the part fits.
        """
        told = "" if self.key_filter is None else self.key_filter.expression
        answers = self.collection.search(query, MOST, [told])
        (nearest,) = self._rescored(query, answers)
        limit = np.partition(nearest[0], k - 1)[k - 1] if len(nearest[0]) >= k else None
        if limit is None:
            return None
        nearer = nearest[0] < limit
        missing = k - np.count_nonzero(nearer)
        low, high = missing, len(self)
        while low <= high:
            middle = (low + high) // 2
            leading = f"key <= {self.keys[middle - 1]}"
            if self.key_filter is not None:
                leading = self.key_filter.and_leading(leading)
            (answer,) = self.collection.search(query, MOST, [leading])
            ((distances, positions),) = self._rescored(query, [answer])
            tied = distances == limit
            if np.count_nonzero(tied) < missing:
                low = middle + 1
            elif len(answer[0]) < MOST or answer[1][-1] > limit:
                parts = zip(nearest, (distances, positions))
                return tuple(np.append(near[nearer], far[tied]) for near, far in parts)
            else:
                high = middle - 1
        return None

    def _read_all(self, queries, k, ties):
        """Return one pair per query, from all rows, read in blocks."""
        if ties:
            return [(row, np.arange(len(self))) for row in self.distances(queries)[:]]
        best = [np.empty((len(queries), 0)), np.empty((len(queries), 0), dtype=np.int64)]
        for start, engine in self._blocks():
            distances, positions = engine.query(queries, min(k, len(engine)))
            both = np.hstack([best[0], distances]), np.hstack([best[1], positions + start])
            order = np.lexsort(both[::-1], axis=1)[:, :k]
            best = [np.take_along_axis(values, order, axis=1) for values in both]
        return list(zip(*best))


# Pickles of before there were kinds look for the collection here.
__getattr__ = former_classes(__name__)
