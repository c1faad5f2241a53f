"""What approximate engines share: an index that is never trusted alone.

Distances are measured on the rows themselves, and a query for which the index gives too
few, repeated or removed rows is answered exactly. A few rows are held out of the index until they
have told which share of the true neighbors it finds. Rows that are added later are searched exactly
beside it, until they are many, and so are those that were held out, where the index takes no more.
"""

import warnings

import numpy as np
from sklearn.utils import check_random_state

from sklearn_cbir._kinds import Kept
from sklearn_cbir.index._copies import Copies
from sklearn_cbir.index._exact import CosineEngine, EuclideanEngine

EXACT = {"cosine": CosineEngine, "euclidean": EuclideanEngine}
# Fewer rows are searched exactly: comparing them all is faster than any index.
ROWS_AT_LEAST = 1000
# So many rows tell how many neighbors are found; each is dear if the index never takes it.
ROWS_HELD_OUT = 200
# Share of rows outside the index (added since, or removed) at which it is built again.
STALE = 0.05
# So many neighbors are looked for in the index if fewer are the rule, for re-rankers above all.
NEIGHBORS = 128
# Standard errors that the mean of other queries is lower by in one of 20 cases.
LUCK = 1.64
# Squared distances that differ by less than this share may be rounded into any order.
FLAT = 1e-5


class ApproximateEngine(Kept):
    """An index over most rows, and an exact search over the others.

    A subclass owes `algorithm`, `most`, `efforts`, `_make(rows)` and `_ask(index,
    queries, k, effort)`, which returns numbers of indexed rows and their squared distances,
    infinite where nothing was found. Indexed rows are compared by the Euclidean
    distance, those of unit length too, which it orders as the cosine does.
    """

    algorithm = None  # its name
    efforts = ()  # how hard to search; the first that reaches the target is taken
    index_name = "_cached_index"  # of the attribute that holds the index: by this name not pickled
    skips_removed = False  # whether `_ask` returns no row that was removed
    # Positions of rows that repeat an earlier one, which is indexed for all, and its position.
    copies = firsts = ()

    def __init__(
        self, metric, *, n_neighbors=10, recall_target=0.95, n_jobs=None, random_state=None
    ):
        self.exact = EXACT[metric]()
        self.n_neighbors = n_neighbors
        self.recall_target = recall_target
        self.n_jobs = n_jobs
        self.random_state = random_state

    @property
    def most(self):
        """The largest number of neighbors for which the index is asked."""
        raise NotImplementedError

    def build(self, rows):
        """Hold a copy of `rows` and index them."""
        return self.build_on(self.exact.build(rows))

    def build_on(self, exact):
        """Index the rows of an exact engine."""
        self.exact = exact
        self.seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._build()
        return self

    def __len__(self):
        return len(self.exact)

    def __getstate__(self):
        state = vars(self).copy()  # other threads may add what they remember
        state = {key: value for key, value in state.items() if not key.startswith("_cached")}
        if self.index_name in state:
            return state
        # An index that is built again holds only rows that are still there.
        return {**state, "members": self.members[self.members >= 0]}

    @property
    def name(self):
        """What answers: few rows have no index."""
        return self.algorithm if len(self.members) else "exact"

    @property
    def rows(self):
        """The gallery, as it is compared."""
        return self.exact.rows

    def encode(self, rows):
        """Return rows in the form in which they are compared."""
        return self.exact.encode(rows)

    def query_radius(self, queries, radii):
        """Return lists of the distances and positions of all rows within each radius, exactly."""
        return self.exact.query_radius(queries, radii)

    def distances(self, queries):
        """Return the exact distances to all rows."""
        return self.exact.distances(queries)

    def relocate(self, place):
        """Return None: the rows are in memory."""
        return None

    def query(self, queries, k):
        """Return distances and positions of about the `k` nearest rows, both (n_queries, k)."""
        if not len(self.members) or k > self.reach:
            return self.exact.query(queries, k)
        return self._query(queries, k, self._effort(k))

    def _query(self, queries, k, effort):
        """Return the same, searching so hard."""
        index = self._index()
        if index is None:
            return self.exact.query(queries, k)
        positions, lacking = self._from_index(index, queries, k, effort)
        which, column = np.nonzero(positions >= 0)
        distances = np.full(positions.shape, np.inf)
        distances[which, column] = self.exact.measure(queries, which, positions[which, column])
        distances, positions = self._with_loose(queries, k, distances, positions)
        order = np.lexsort((positions, distances), axis=1)[:, :k]
        distances = np.take_along_axis(distances, order, axis=1)
        positions = np.take_along_axis(positions, order, axis=1)
        positions[lacking] = 0  # which may be none now
        distances, positions = self._copies().nearest(distances, positions, k)
        if lacking.any():
            distances[lacking], positions[lacking] = self.exact.query(queries[lacking], k)
        return distances, positions

    def add(self, rows):
        """Return an engine with `rows` appended, beside the index until it is built again."""
        loose = np.r_[self.loose, np.arange(len(self), len(self) + len(rows))]
        return self._with(vars(self).copy(), self.exact.add(rows), self.members, loose)

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        state = vars(self).copy()  # a query of another thread may put the index there meanwhile
        moved = np.cumsum(np.r_[0, np.bincount(positions, minlength=len(self))[:-1] == 0])
        moved[positions] = -1
        copies, moved = self._copies().moved(moved)
        state.update(copies=copies.positions, firsts=copies.firsts)
        loose = moved[self.loose]
        members = np.append(moved, -1)[self.members]  # -1 are those that were removed before
        if self.index_name not in state:
            members = members[members >= 0]
        return self._with(state, self.exact.remove(positions), members, loose[loose >= 0])

    def _copies(self):
        """Return which rows have another in the index."""
        if "_cached_copies" not in vars(self):
            self._cached_copies = Copies(len(self), self.copies, self.firsts)
        return self._cached_copies

    def _with(self, state, exact, members, loose):
        """Return an engine over other rows, indexed again if too much has changed."""
        engine = object.__new__(type(self))
        vars(engine).update(state)  # the index with it, unlike a copy
        engine.exact, engine.loose = exact, loose
        engine.members = members.astype(np.int32)
        engine._forget()
        outside = len(loose) - self.n_loose + np.count_nonzero(members < 0)
        if outside > STALE * len(exact):
            vars(engine).pop(self.index_name, None)
            engine._build()
        return engine

    def _forget(self):
        """Forget what was remembered of other rows."""
        for name in ("_cached_loose", "_cached_copies"):
            vars(self).pop(name, None)

    def _build(self):
        """Choose the rows to index, index them and measure the recall."""
        rows, copies = self.exact.rows, self.exact.find_copies()
        self.copies, self.firsts = copies.positions, copies.firsts
        self._forget()
        eligible = copies.without(np.flatnonzero(rows.any(axis=1)))
        if len(eligible) < ROWS_AT_LEAST or not self._can_build():
            self.copies = self.firsts = ()
            self.members, self.loose = np.arange(0, dtype=np.int32), np.arange(len(rows))
            self.n_loose, self.recall = 0, 1.0
            return
        generator = np.random.default_rng(self.seed)
        held_out = generator.choice(eligible, self._n_held_out(len(eligible)), replace=False)
        # Position of every indexed row; -1 if it was removed since.
        self.members = np.setdiff1d(eligible, held_out).astype(np.int32)
        self.loose = np.setdiff1d(copies.without(np.arange(len(rows))), self.members)
        self._measure_recall(rows[held_out])
        if self._admit(held_out):
            self.members = np.concatenate([self.members, held_out.astype(np.int32)])
            self.loose = np.setdiff1d(self.loose, held_out)
            self._forget()
        self.n_loose = len(self.loose)

    def _n_held_out(self, n):
        """Return how many of `n` rows tell what share of the neighbors is found."""
        return ROWS_HELD_OUT

    def _measure_recall(self, queries):
        """Search harder until enough neighbors of rows that are not indexed are found."""
        k, widest = min(self.n_neighbors, self.most - 1), self.most - 1
        self.effort, self.recall = self._enough(queries, k)
        effort, recall = self._enough(queries, widest)
        self.widest = widest, effort
        # More neighbors than are asked for as a rule are found as surely, or exactly.
        self.reach = self.most if recall >= self.recall_target else k + 1
        if self.recall < self.recall_target:
            warnings.warn(
                f"algorithm={self.algorithm!r} finds {self.recall:.3f} of the true {k} nearest "
                f"neighbors, less than recall_target={self.recall_target}. Use "
                "algorithm='exact', or a lower target if that is enough.",
                UserWarning,
                stacklevel=6,
            )

    def _enough(self, queries, k):
        """Return an effort that finds enough of the `k` nearest rows, and the share it finds."""
        furthest = self.exact.query(queries, k + 1)[0][:, -1:]
        for effort in self.efforts:
            found = self._query(queries, k + 1, effort)[0] <= furthest  # the row itself among them
            shares = (np.count_nonzero(found, axis=1) - 1) / k
            # Reached by luck, the target would be missed by other queries.
            luck = LUCK * shares.std() / np.sqrt(len(shares))
            if shares.mean() - luck >= self.recall_target:
                break
        return effort, float(shares.mean())

    def _effort(self, k):
        """Return how hard to search for `k` neighbors, the query itself perhaps among them."""
        if k <= self.n_neighbors + 1:
            return self.effort
        widest, effort = self.widest
        share = np.log(k / self.n_neighbors) / np.log(widest / self.n_neighbors)
        return max(self.effort, self.effort + share * (effort - self.effort))

    def _from_index(self, index, queries, k, effort):
        """Return what the index finds, -1 where it found nothing, and which answers lack rows."""
        gone = 0 if self.skips_removed else np.count_nonzero(self.members < 0)
        # Two at least, to see whether they can be told apart.
        numbers, squares = self._ask(index, queries, max(k, 2) + min(k, gone), effort)
        # A slot that was not filled may hold the number of some row all the same.
        filled = np.isfinite(squares)
        positions = np.where(filled, self.members[numbers], -1)
        in_order = np.sort(numbers, axis=1)
        lacking = ~filled.all(axis=1) | (in_order[:, 1:] == in_order[:, :-1]).any(axis=1)
        lacking |= np.count_nonzero(positions >= 0, axis=1) < k
        lacking |= ~queries.any(axis=1)  # a zero row has no direction to follow
        # From far away all rows look alike.
        with np.errstate(invalid="ignore"):
            spread = squares[:, -1] - squares[:, 0]
            lacking |= (spread <= FLAT * squares[:, -1]) & (squares[:, -1] > 0)
        return positions, lacking

    def _with_loose(self, queries, k, distances, positions):
        """Append columns for the rows that are not indexed and as near as the k-th found."""
        if not len(self.loose):
            return distances, positions
        if "_cached_loose" not in vars(self):
            self._cached_loose = self.exact._with(self.exact.rows[self.loose])
        furthest = np.partition(distances, k - 1, axis=1)[:, k - 1]
        furthest[np.isinf(furthest)] = 0  # these queries are answered exactly
        which, found, measured = self._cached_loose.within(queries, furthest)
        counts = np.bincount(which, minlength=len(queries))
        column = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = len(queries), counts.max(initial=0)
        more_distances, more_positions = np.full(shape, np.inf), np.full(shape, -1)
        more_distances[which, column] = measured
        more_positions[which, column] = self.loose[found]
        return np.hstack([distances, more_distances]), np.hstack([positions, more_positions])

    def _index(self):
        """Return the index, made if it is not there; None where it cannot be."""
        if self.index_name not in vars(self):
            setattr(self, self.index_name, self._make(self.exact.rows[self.members]))
        return vars(self)[self.index_name]

    def _can_build(self):
        """Say whether the index can be made here."""
        return True

    def _make(self, rows):
        """Return an index of `rows`."""
        raise NotImplementedError

    def _admit(self, positions):
        """Add the rows at `positions` to the index, behind all others, if it can; say whether."""
        return False

    def _ask(self, index, queries, k, effort):
        """Return numbers and distances of the nearest indexed rows, (n_queries, k) each."""
        raise NotImplementedError
