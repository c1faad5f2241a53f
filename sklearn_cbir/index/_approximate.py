"""The common part of approximate engines: an index that is never trusted alone.

Distances are re-scored on the rows themselves, and a query is answered exactly if the index gives
too few, repeated or removed rows for it. A few rows are held out of the index at first, to measure
which share of the true neighbors it finds: the recall probe. Rows that are added later are searched
exactly next to the index, until they are many; so is the probe, if the index takes no more rows. A
graph takes both.

If a filter leaves in most rows, the index is asked for more rows, and those left out are dropped.
The probe decides how many more: as many as are found surely, whichever of them are left in.
"""

import warnings
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.index._copies import Copies
from sklearn_cbir.index._engine import Engine, derived, remembered
from sklearn_cbir.index._exact_engines import EXACT
from sklearn_cbir.index._filter import RowFilter

# Fewer rows are searched exactly: comparing them all is faster than any index.
ROWS_AT_LEAST = 1000
# Rows of the recall probe; each is dear if the index never takes it.
PROBE_ROWS = 200
# Share of rows that are not indexed, or indexed and removed, at which the index is built again.
STALE = 0.05
# So many neighbors are looked for in the index if fewer are the rule, for re-rankers above all.
NEIGHBORS = 128
# The most that the index is asked for to find those that a filter leaves in.
MOST_TO_FILTER = 256
# So many times as much is asked for where too little of it was left in, or searched to be sure.
MORE = 4
# Products of numbers below which a second thread costs more than it saves.
PRODUCTS_PER_THREAD = 5e8
Z_95 = 1.64  # one-sided 95 % quantile of the normal distribution
# Squared distances that differ by less than this share may be rounded into any order.
FLAT = 1e-5


class ApproximateEngine(Engine):
    """An index over most rows, and an exact search over the others.

    Indexed rows are compared by the Euclidean distance, those of norm 1 too, which it orders as
    the cosine does.

    A subclass defines `algorithm`; `neighbors_limit`, beyond which it is faster to compare all
    rows; `ef_searches`, the amounts of search, ascending, of which the first that reaches the
    target is used (the size of the candidate list of a graph: efSearch; lists to scan: nprobe); and
    the abstract methods. `rows_per_neighbor` may be measured: how many rows are compared in the
    time that the index takes for one neighbor more.
    """

    metrics = ("cosine", "euclidean")
    is_exact = False
    options = ("n_neighbors", "recall_target", "n_jobs", "random_state")
    pickled = (
        "exact",
        *options,
        "seed",
        "indexed",
        "unindexed",
        "n_unindexed_at_build",
        "copies",
        "firsts",
        "recall",
        "ef_search",
        "widest",
        "reach",
        "filter_reach",
        "filter_ef_search",
    )
    renamed: ClassVar = {
        "members": "indexed",
        "loose": "unindexed",
        "n_loose": "n_unindexed_at_build",
        "effort": "ef_search",
        "graph": "index",
    }
    exact: Any = None  # the `ExactEngine` that holds the rows
    algorithm: str
    neighbors_limit: int
    ef_searches: tuple[float, ...]
    rows_per_neighbor: float = 100
    # What earlier versions saved was not probed for filters, which are answered exactly there.
    filter_reach: int = 0
    skips_removed = False  # whether `_ask` returns no row that was removed
    # Positions of rows that repeat an earlier one, which is indexed for all, and its position.
    copies: Any = ()
    firsts: Any = ()

    def __init__(
        self, metric, *, n_neighbors=10, recall_target=0.95, n_jobs=None, random_state=None
    ):
        self.exact = EXACT(metric)
        self.n_neighbors = n_neighbors
        self.recall_target = recall_target
        self.n_jobs = n_jobs
        self.random_state = random_state

    def build(self, rows):
        """Hold a copy of `rows` and index them."""
        return self.build_on(self.exact.build(rows))

    def build_on(self, exact: Any):
        """Index the rows of an exact engine."""
        self.exact = exact
        self.seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._build()
        return self

    def __len__(self) -> int:
        return len(self.exact)

    def __getstate__(self):
        state = super().__getstate__()
        if "index" not in state:  # one that is made again holds only rows that are still there
            state["indexed"] = state["indexed"][state["indexed"] >= 0]
        return state

    @property
    def most_neighbors(self):
        """The largest number of neighbors for which the index is asked."""
        return min(max(NEIGHBORS, self.n_neighbors + 1), self.neighbors_limit)

    @derived
    def metric(self) -> str:
        """The name of the distance."""
        return self.exact.metric

    @derived
    def name(self) -> str:
        """The name of the engine in use: few rows have no index."""
        return self.algorithm if len(self.indexed) else "exact"

    @derived
    def rows(self) -> NDArray:
        """The gallery, as it is compared."""
        return self.exact.rows

    def encode(self, rows):
        """Return rows in the form in which they are compared."""
        return self.exact.encode(rows)

    def decode(self, rows, n_features):
        """Return a copy of encoded rows in the form in which they can be asked with."""
        return self.exact.decode(rows, n_features)

    def as_held(self, queries):
        """Return queries as they would be if they were rows of the gallery."""
        return self.exact.as_held(queries)

    def query_radius(self, queries, radii):
        """Return lists of the distances and positions of all rows within each radius, exactly."""
        return self.exact.query_radius(queries, radii)

    def distances(self, queries):
        """Return the exact distances to all rows."""
        return self.exact.distances(queries)

    def query(self, queries, k):
        """Return distances and positions of about the `k` nearest rows, both (n_queries, k)."""
        if not len(self.indexed) or k > self.reach:
            return self.exact.query(queries, k)
        index, ef_search = self._usable_index(queries), self._ef_search_for(k)
        if index is None:
            return self.exact.query(queries, k)
        found = self._query_one(index, queries, k, ef_search) if len(queries) == 1 else None
        return self._query(index, queries, k, ef_search) if found is None else found

    def _query_one(self, index, query, k, ef_search):
        """Return the result of `_query` for one query, in few steps, because steps take time.

        None if the answer takes more than the index finds at once.
        """
        if len(self.unindexed) or len(self._copies):
            return None
        nodes, squares = (found[0] for found in self._ask(index, query, max(k, 2), ef_search))
        furthest, positions = squares[-1], self.indexed[nodes]
        if (
            not np.isfinite(squares).all()
            or positions.min() < 0
            or len(set(nodes.tolist())) < len(nodes)
            or (furthest - squares[0] <= FLAT * furthest and furthest > 0)
        ):
            return None
        distances = self._rescore(query, np.zeros(len(nodes), dtype=np.int64), positions)
        order = np.lexsort((positions, distances))[:k]
        return distances[order][None], positions[order][None]

    def _query(self, index, queries, k, ef_search):
        """Answer `query` with the index, searching as much as `ef_search` says."""
        positions, lacking = self._from_index(index, queries, k, ef_search)
        which, column = np.nonzero(positions >= 0)
        distances = np.full(positions.shape, np.inf)
        distances[which, column] = self._rescore(queries, which, positions[which, column])
        distances, positions = self._with_unindexed(queries, k, distances, positions)
        order = np.lexsort((positions, distances), axis=1)[:, :k]
        distances = np.take_along_axis(distances, order, axis=1)
        positions = np.take_along_axis(positions, order, axis=1)
        positions[lacking] = 0  # which may be none now
        distances, positions = self._copies.nearest(distances, positions, k)
        if lacking.any():
            distances[lacking], positions[lacking] = self.exact.query(queries[lacking], k)
        return distances, positions

    def _rescore(self, queries, which, positions, /):
        """Return the exact distances of the pairs ``(queries[which], rows[positions])``."""
        return self.exact.rescore(queries, which, positions)

    def add(self, rows):
        """Return an engine with `rows` appended, outside the index until it is built again."""
        unindexed = np.r_[self.unindexed, np.arange(len(self), len(self) + len(rows))]
        return self._over(self.exact.add(rows), self.indexed, unindexed, **self._held_index())

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        held = self._held_index()  # a query of another thread may make one meanwhile
        moved = np.cumsum(np.r_[0, np.bincount(positions, minlength=len(self))[:-1] == 0])
        moved[positions] = -1
        copies, moved = self._copies.moved(moved)
        unindexed = moved[self.unindexed]
        indexed = np.append(moved, -1)[self.indexed]  # -1 are those that were removed before
        if not held:
            indexed = indexed[indexed >= 0]
        changes = {"copies": copies.positions, "firsts": copies.firsts, **held}
        exact = self.exact.remove(positions)
        return self._over(exact, indexed, unindexed[unindexed >= 0], **changes)

    def _left_in(self, row_filter):
        """Return an engine over the rows that a filter leaves in, by the index where it may pay."""
        if not len(self.indexed) or not self.filter_reach:
            return self.exact.filtered(row_filter)
        return FilteredIndex(self, row_filter)

    @remembered
    def _copies(self):
        """Which rows have another in the index."""
        return Copies(len(self), self.copies, self.firsts)

    @remembered
    def _unindexed_rows(self):
        """An exact engine over the rows that are not indexed."""
        return self._exact_over(self.rows[self.unindexed])

    def _exact_over(self, rows):
        """Return an exact engine over some of the rows, in memory as they are compared."""
        return self.exact._over(rows)

    def _held_index(self):
        """Return the index, if it was made, for an engine that follows."""
        state = vars(self)
        return {"index": state["index"]} if "index" in state else {}

    def _over(self, exact, indexed, unindexed, **changes):
        """Return an engine over other rows, indexed again if too much has changed."""
        indexed = indexed.astype(np.int32, copy=False)
        n_not_indexed = len(unindexed) - self.n_unindexed_at_build
        n_removed = int(np.count_nonzero(indexed < 0))
        engine = self._like(exact=exact, indexed=indexed, unindexed=unindexed, **changes)
        if engine._is_stale(n_not_indexed, n_removed):
            vars(engine).pop("index", None)
            engine._build()
        return engine

    def _is_stale(self, n_not_indexed, n_removed):
        """Say whether so many rows were not indexed, or indexed and removed, that it is time to."""
        return n_not_indexed + n_removed > STALE * len(self)

    def _build(self):
        """Choose the rows to index, index them and measure the recall."""
        with self._rows_as_compared():
            rows, copies = self.exact.rows, self.exact.find_copies()
            self.copies, self.firsts = copies.positions, copies.firsts
            self._forget()
            eligible = copies.without(np.flatnonzero(rows.any(axis=1)))
            if len(eligible) < ROWS_AT_LEAST or not self._can_build():
                self.copies = self.firsts = ()
                self.indexed, self.unindexed = np.arange(0, dtype=np.int32), np.arange(len(rows))
                self.n_unindexed_at_build, self.recall = 0, 1.0
                return
            generator = np.random.default_rng(self.seed)
            probe = generator.choice(eligible, self._n_probe(len(eligible)), replace=False)
            # Position of every indexed row; -1 if it was removed since.
            self.indexed = np.setdiff1d(eligible, probe).astype(np.int32)
            self.unindexed = np.setdiff1d(copies.without(np.arange(len(rows))), self.indexed)
            self._measure_recall(rows[probe])
            if self._admit(probe):
                self.indexed = np.concatenate([self.indexed, probe.astype(np.int32)])
                self.unindexed = np.setdiff1d(self.unindexed, probe)
                self._forget()
            self.n_unindexed_at_build = len(self.unindexed)

    def _rows_as_compared(self) -> AbstractContextManager[None]:
        """Have all rows in memory as they are compared, while the index is built."""
        return nullcontext()

    def _forget(self):
        """Forget the remembered values of other rows."""
        for name in ("_copies", "_unindexed_rows"):
            vars(self).pop(name, None)

    def _n_probe(self, n: int) -> int:
        """Return how many of `n` rows are the recall probe."""
        return PROBE_ROWS

    def _measure_recall(self, queries):
        """Search more until enough neighbors of rows that are not indexed are found."""
        k, widest = min(self.n_neighbors, self.most_neighbors - 1), self.most_neighbors - 1
        most_to_filter = self._most_to_filter(k)
        nearest = self.exact.query(queries, max(widest, most_to_filter) + 1)[0]
        self.ef_search, self.recall = self._enough(queries, k, nearest)
        ef_search, recall = self._enough(queries, widest, nearest)
        self.widest = widest, ef_search
        # More neighbors than are asked for as a rule are found as surely, or exactly.
        self.reach = self.most_neighbors if recall >= self.recall_target else k + 1
        self._measure_filter_reach(queries, k, nearest[:, : most_to_filter + 1])
        if self.recall < self.recall_target:
            warnings.warn(
                f"algorithm={self.algorithm!r} finds {self.recall:.3f} of the true {k} nearest "
                f"neighbors, less than recall_target={self.recall_target}. Use "
                "algorithm='exact', or a lower target if that is enough.",
                UserWarning,
                stacklevel=6,
            )

    def _enough(self, queries, k, nearest):
        """Return the least that finds enough of the `k` nearest rows, and the share it finds.

        `nearest` holds true distances, the row itself before them, (n_queries, k + 1 at least).
        """
        furthest, enough = nearest[:, k, None], (0.0, 0.0)
        for ef_search in self.ef_searches:
            distances = self._query(self.index, queries, k + 1, ef_search)[0]  # the row among them
            shares = (np.count_nonzero(distances <= furthest, axis=1) - 1) / k
            shares = self._once_admitted(shares)
            enough = ef_search, float(shares.mean())
            if self._are_enough(shares):
                break
        return enough

    def _are_enough(self, shares):
        """Say whether the shares that were found, one per query, reach the target."""
        # Reached by chance, the target would be missed by other queries.
        margin = Z_95 * shares.std() / np.sqrt(len(shares))
        return shares.mean() - margin >= self.recall_target

    def _most_to_filter(self, k):
        """Return up to how many neighbors filters may ask for; 0 where the index never pays."""
        most = min(MOST_TO_FILTER, self.neighbors_limit, len(self) - 1)
        least = 2 * k  # which is asked for where a filter leaves in nearly all rows
        return most if most >= least and least * self.rows_per_neighbor < len(self) else 0

    def _measure_filter_reach(self, queries, k, nearest):
        """Find of how many neighbors the last `k` are found as surely as the first.

        A filter may leave in any of so many. `nearest` holds their true distances, the row itself
        before them, (n_queries, most + 1).
        """
        self.filter_reach, self.filter_ef_search = 0, self.ef_search
        most = nearest.shape[1] - 1
        if not most:
            return
        queries, nearest = queries[:PROBE_ROWS], nearest[:PROBE_ROWS]  # each is asked often
        least, largest = self.ef_search, MORE * self.ef_search
        for ef_search in (step for step in self.ef_searches if least <= step <= largest):
            reach = 0
            for n in _doubled(2 * k, most):
                if not self._are_enough(self._shares_of_last(queries, n, k, nearest, ef_search)):
                    break
                reach = n
            if reach > self.filter_reach:
                self.filter_reach, self.filter_ef_search = reach, ef_search
            if reach == most:
                break

    def _shares_of_last(self, queries, n, k, nearest, ef_search):
        """Return which share of the last `k` of `n` neighbors is found, (n_queries,)."""
        before, last = nearest[:, n - k, None], nearest[:, n, None]
        found = self._query(self.index, queries, n + 1, ef_search)[0]
        n_true, n_found = (
            np.count_nonzero((before < distances) & (distances <= last), axis=1)
            for distances in (nearest, found)
        )
        shares = np.where(n_true, np.minimum(n_found / np.maximum(n_true, 1), 1), 1)
        return self._once_admitted(shares)

    def _ef_search_for(self, k):
        """Return how much to search for `k` neighbors, the query itself perhaps among them."""
        if k <= self.n_neighbors + 1:
            return self.ef_search
        widest, ef_search = self.widest
        share = np.log(k / self.n_neighbors) / np.log(widest / self.n_neighbors)
        return max(self.ef_search, self.ef_search + share * (ef_search - self.ef_search))

    def _from_index(self, index, queries, k, ef_search, /):
        """Return positions of rows that the index finds, -1 for none, and which answers lack rows.

        Positions are (n_queries, n_found), n_found at least `k`.
        """
        gone = 0 if self.skips_removed else int(np.count_nonzero(self.indexed < 0))
        # Two at least, to see whether they can be told apart.
        nodes, squares = self._ask(index, queries, max(k, 2) + min(k, gone), ef_search)
        # A slot that was not filled may hold the number of some row all the same.
        filled = np.isfinite(squares)
        positions = np.where(filled, self.indexed[nodes], -1)
        in_order = np.sort(nodes, axis=1)
        lacking = ~filled.all(axis=1) | (in_order[:, 1:] == in_order[:, :-1]).any(axis=1)
        lacking |= np.count_nonzero(positions >= 0, axis=1) < k
        # From far away all rows look alike, and from the origin all of norm 1 are.
        with np.errstate(invalid="ignore"):
            spread = squares[:, -1] - squares[:, 0]
            lacking |= (spread <= FLAT * squares[:, -1]) & (squares[:, -1] > 0)
        return positions, lacking

    def _with_unindexed(self, queries, k, distances, positions):
        """Append columns for the rows that are not indexed and as near as the k-th found."""
        if not len(self.unindexed):
            return distances, positions
        furthest = np.partition(distances, k - 1, axis=1)[:, k - 1]
        furthest[np.isinf(furthest)] = 0  # these queries are answered exactly
        which, found, rescored = self._unindexed_rows.within(queries, furthest)
        counts = np.bincount(which, minlength=len(queries))
        column = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = len(queries), counts.max(initial=0)
        more_distances, more_positions = np.full(shape, np.inf), np.full(shape, -1)
        more_distances[which, column] = rescored
        more_positions[which, column] = self.unindexed[found]
        return np.hstack([distances, more_distances]), np.hstack([positions, more_positions])

    @remembered
    def index(self):
        """The index of the rows `indexed`, made when it is first needed."""
        return self._make(self.rows[self.indexed])

    def _usable_index(self, queries: NDArray):
        """Return the index; None where it cannot be made, or not for so few queries."""
        return self.index

    def _can_build(self) -> bool:
        """Say whether the index can be made here."""
        return True

    @abstractmethod
    def _make(self, rows: NDArray) -> Any:
        """Return an index of `rows`, a copy that may be changed."""

    def _admit(self, positions: NDArray) -> bool:
        """Add the rows at `positions` to the index, behind all others, if it can; say whether."""
        return False

    def _once_admitted(self, shares: NDArray) -> NDArray:
        """Return which shares are expected to be found once the probe rows are in the index."""
        return shares

    @abstractmethod
    def _ask(self, index: Any, queries: NDArray, k: int, ef_search: float) -> tuple:
        """Return ids of the nearest indexed rows, and their squared distances, (n_queries, k) each.

        Distances are infinite where nothing was found.
        """


class FilteredIndex(ApproximateEngine):
    """Rows that a filter leaves in, numbered among them, found by the index of all rows.

    The index is asked for more than is wanted, and what the filter leaves out is dropped; queries
    of which too little is left ask for more again, or exactly. To search on until enough is found
    would take less time and promise nothing: if all that is near a query is left out, what an
    index meets behind it is a matter of luck. Up to `filter_reach` neighbors, the last are found as
    surely as the first, and so it does not matter which of them are left in.

    Parameters
    ----------
    whole : ApproximateEngine
        An engine over all rows that has an index.

    row_filter : RowFilter
        The rows that are left in.
    """

    lock = ProcessLock()

    def __init__(self, whole: ApproximateEngine, row_filter: RowFilter):
        self.whole, self.row_filter = whole, row_filter
        self.algorithm, self.indexed, self.recall = whole.algorithm, whole.indexed, whole.recall
        self._heirs = None  # number of the first of every group that is left in, if there are any
        if len(whole._copies):
            copies, heirs = whole._copies.moved(row_filter.all_numbers)
            self.copies, self.firsts, self._heirs = copies.positions, copies.firsts, heirs
        unindexed = self._numbers(whole.unindexed)
        self.unindexed = unindexed[unindexed >= 0]

    @remembered
    def exact(self):
        """An exact engine over the same rows."""
        return self.whole.exact.filtered(self.row_filter)

    def __len__(self) -> int:
        return len(self.row_filter)

    def query(self, queries, k):
        """Return distances and numbers of about the `k` nearest rows, both (n_queries, k)."""
        share = len(self) / len(self.whole)
        # Mean and two standard deviations of how many are met until k are left in by chance.
        n = int(np.ceil((k + 2 * np.sqrt(k * (1 - share))) / share))
        whole = self.whole
        rows_per_neighbor = whole.rows_per_neighbor * whole.filter_ef_search / whole.ef_search
        if n > whole.filter_reach or n * rows_per_neighbor > len(self):
            return self.exact.query(queries, k)
        index = self._usable_index(queries)
        if index is None:
            return self.exact.query(queries, k)
        return self._query(index, queries, k, n)

    def _from_index(self, index, queries, k, n, /):
        """Return numbers of the nearest `k` that are left in, of `n` rows that the index finds."""
        reach, ef_search = self.whole.filter_reach, self.whole.filter_ef_search
        positions, lacking = self.whole._from_index(index, queries, n, ef_search)
        numbers = self._numbers(positions)
        is_left = numbers >= 0
        nearest = np.argsort(~is_left, axis=1, kind="stable")[:, :k]
        numbers = np.take_along_axis(numbers, nearest, axis=1)
        n_left, more = np.count_nonzero(is_left, axis=1), min(MORE * n, reach)
        too_few = n_left < k
        lacking |= too_few
        numbers[lacking] = -1
        # If about as large a share of more rows is left in, these may do.
        again = np.flatnonzero(too_few & (n_left * more >= k * n))
        if len(again) and more > n:
            numbers[again], lacking[again] = self._from_index(index, queries[again], k, more)
        return numbers, lacking

    def _rescore(self, queries, which, numbers, /):
        return self.whole.exact.rescore(queries, which, self.row_filter.at(numbers))

    def _numbers(self, positions):
        """Return the number of each row, or of the next that equals it, -1 if none is left in."""
        if self._heirs is None:
            return self.row_filter.numbers(positions)
        return np.where(positions >= 0, self._heirs[positions], -1)

    @remembered
    def _unindexed_rows(self):
        whole = self.whole
        return whole._exact_over(whole.rows[self.row_filter.at(self.unindexed)])

    def _usable_index(self, queries):
        return self.whole._usable_index(queries)

    def add(self, rows):
        """Return an exact engine with `rows` appended."""
        return self.exact.add(rows)

    def remove(self, positions):
        """Return an exact engine without the rows at `positions`."""
        return self.exact.remove(positions)

    def _make(self, rows):
        return self.whole._make(rows)

    def _ask(self, index, queries, k, ef_search):
        return self.whole._ask(index, queries, k, ef_search)


def _doubled(start, most):
    """Return `start` and its doubles below `most`, and `most`."""
    doubles = []
    while start < most:
        doubles.append(start)
        start *= 2
    return [*doubles, most]
