"""Exact search over float rows under the cosine or the Euclidean distance.

A matrix product gives the similarity of queries and rows (larger is nearer) up to a bounded
rounding error. What that error leaves among the nearest is re-scored: measured again as the length
of a difference, in float64. Candidates are found by one of three tactics, which `query` chooses:
tiles of the gallery for many queries, one product for a single query, and, for a few queries of a
large gallery, products with an int8 copy of the rows before those.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config

from sklearn_cbir.index._center import Center
from sklearn_cbir.index._copies import Copies
from sklearn_cbir.index._engine import Engine, remembered
from sklearn_cbir.index._growing import append, delete, with_room
from sklearn_cbir.index._left_in import filtered_class
from sklearn_cbir.index._nearly_equal import PAIRS_PER_NEIGHBOR, narrowed
from sklearn_cbir.index._norms import half_squared_norms, is_zero, l2_normalize, safe_norms
from sklearn_cbir.index._picking import Nearest, Within, finfo, first_of_ties, kth_bound, lowest
from sklearn_cbir.index._prefilter import Prefilter
from sklearn_cbir.index._rows import row_blocks

# Queries that share one reading of rows that are long or not in memory, if the memory allows.
QUERIES_AT_ONCE = 1024
# Similarities held at once: they stay in the processor's cache.
SIMILARITIES_AT_ONCE = 2**21
# Numbers of float64 held at once where pairs are re-scored: they stay there too.
DIFFERENCES_AT_ONCE = 2**18
# Rows that caches do not hold are read fastest one after the other, for one query.
BYTES_TO_STREAM = 2**24
# So few queries of a gallery of more bytes are worth an int8 copy of the rows.
QUERIES_TO_PREFILTER = 3
BYTES_TO_PREFILTER = 2**26
# A product whose right factor has to be transposed first takes up to nine times as long. Of small
# galleries a transposed copy is kept; for large ones, the product of few queries is transposed.
BYTES_TO_COPY = 2**25
FEW_QUERIES = 16
PRODUCTS_TO_TRANSPOSE = 2**18  # at once, in the processor's cache
# Bytes that a candidate pair takes: its numbers, its distance, what sorts it.
BYTES_PER_PAIR = 100
# Squared distances of a product below so many of its rounding errors are measured again.
ERRORS_OF_CLOSE = 1024


class ExactEngine(Engine):
    """Compare every query with every row: a matrix product first, then the rows themselves.

    Equal rows are exactly tied, whatever else is searched in the same call, and no distance is
    negative.

    A subclass owes `encode`, and what ties its distance to the similarity: the abstract methods.
    """

    name = "exact"
    pickled = ("rows",)
    rows: NDArray  # (n, n_features), as they are compared
    scale: float = 1.0  # what they were multiplied by
    # What is remembered of every row, and how it is computed: it grows with the rows.
    _per_row: ClassVar[dict[str, Callable]] = {}
    _room = None  # behind the rows, for more
    _known_copies: Copies | None = None  # which rows repeat others, once that was looked for
    _n_left_over = 0  # pairs that products have left beyond those wanted, in all queries so far

    @abstractmethod
    def encode(self, rows: NDArray, out: NDArray | None = None) -> NDArray:
        """Return rows in the form in which they are compared, in `out` if given."""

    @abstractmethod
    def _error(self, queries: NDArray) -> NDArray:
        """Return how far a similarity may be from the true one, (n_queries,)."""

    @abstractmethod
    def _from_product(self, product: NDArray, part: slice) -> NDArray:
        """Return similarities, of products (n_queries, n_rows) with a slice of the rows."""

    @abstractmethod
    def _from_similarity(self, queries: NDArray, similarity: NDArray) -> NDArray:
        """Return distances, of similarities (n_queries, n), whose memory they may take."""

    @abstractmethod
    def _from_difference(self, difference: NDArray) -> NDArray:
        """Return distances, (n_pairs,), of differences of encoded rows in double precision."""

    @abstractmethod
    def _least_similarity(self, queries: NDArray, radius: NDArray) -> NDArray:
        """Return the similarity of a row at the radius of each query, (n_queries,)."""

    @abstractmethod
    def _close(self, queries: NDArray) -> NDArray:
        """Return the distance of each query below which the rounding of a product shows."""

    def _fit_range(self, largest: float) -> None:
        """Choose the scale for rows of which no number exceeds `largest`, if it needs one."""

    def __len__(self) -> int:
        return self.rows.shape[0]

    def build(self, rows):
        """Hold a copy of `rows`, in the form in which they are compared, with room for more."""
        held, self._room = with_room(rows.shape, rows.dtype)
        self.rows = self.encode(rows, held)
        return self

    def add(self, rows):
        """Return an engine with `rows` appended; what is known of the others is kept."""
        engine = self._over(*append(self.rows, self.encode(rows), self._room))
        for name, of_rows in self._per_row.items():
            if self.knows(name):
                new = of_rows(engine.rows[len(self) :])
                vars(engine)[name] = append(vars(self)[name], new)[0]
        return engine

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        return self._over(*delete(self.rows, positions))

    def _left_in(self, row_filter):
        """Return an engine over the rows that a filter leaves in."""
        return filtered_class(type(self)).of(self, row_filter)

    def _over(self, rows, room=None):
        """Return an engine like this one over other encoded rows, which have room behind them."""
        return self._like(rows=rows, _room=room)

    def query(self, queries, k):
        """Return distances and positions of the `k` nearest rows, both (n_queries, k)."""
        prefilter = self._prefilter_for(len(queries))
        if len(queries) == 1 or prefilter is not None:
            error = self._error(queries)
            if self._cannot_overflow(error).all():
                return self._query_one_by_one(queries, k, error, prefilter)
        return self._query_in_tiles(queries, k)

    def query_distinct(self, queries, k):
        """Answer `query` among rows that repeat no earlier one, at least `k` of them."""
        self.find_copies()
        found = [pair for _, *pair, _ in self._nearest(queries, k)]
        distances, positions = map(np.concatenate, zip(*found))
        return distances, positions

    def _query_in_tiles(self, queries, k):
        """Answer `query` by products of blocks of queries with tiles of the rows."""
        distances = np.empty((len(queries), k))
        positions = np.empty((len(queries), k), dtype=np.int64)
        for block, values, found, copies in self._nearest(queries, k):
            if copies is not None:
                values, found = copies.nearest(values, found, k)
            distances[block], positions[block] = values, found
        return distances, positions

    def _nearest(self, queries, k):
        """Yield blocks of queries, the nearest rows but for copies, nearest first, and copies."""
        for block, which, found, rescored, copies in self._rescored(queries, k=k):
            order = np.lexsort((rescored, which))
            first = which.searchsorted(np.arange(block.stop - block.start))
            n = k if copies is None else min(k, copies.n_distinct)
            nearest = order[first[:, None] + np.arange(n)]
            yield block, rescored[nearest], found[nearest], copies

    def _query_one_by_one(self, queries, k, error, prefilter):
        """Answer `query` by one product per query, of the prefilter if there is one."""
        if len(queries) == 1:
            return self._query_one(queries, k, error[0], prefilter)
        each = [
            self._query_one(queries[i : i + 1], k, error[i], prefilter) for i in range(len(queries))
        ]
        distances, positions = map(np.concatenate, zip(*each))
        return distances, positions

    def _query_one(self, query, k, error, prefilter):
        """Answer `query` for one query, (1, n_features), in few steps: they are what takes time."""
        copies = self._copies_to_leave_out()
        n = k if copies is None else min(k, copies.n_distinct)
        found = None
        if prefilter is not None:
            found = prefilter.candidates(self, query, n, error, copies)
        if found is None:
            similarity = self._similarity(query, slice(None))[0]
            floor = -np.inf
            if copies is not None:
                copies.leave_out(similarity)
                floor = lowest(similarity.dtype)  # whole groups of columns may be copies
            margin = (2 * error).astype(similarity.dtype)
            found = np.flatnonzero(similarity >= max(kth_bound(similarity, n) - margin, floor))
        self._look_for_copies(len(found) - n)  # for the next query
        rescored = self.rescore(query, np.zeros(len(found), dtype=np.int64), found)
        order = rescored.argsort(kind="stable")[:n]
        distances, positions = rescored[order][None], found[order][None]
        return (distances, positions) if copies is None else copies.nearest(distances, positions, k)

    def _prefilter_for(self, n_queries):
        """Return the prefilter for a few queries of a large gallery, or None."""
        if not 0 < n_queries <= QUERIES_TO_PREFILTER or not self.in_memory:
            return None
        return self._prefilter.ready(n_queries) if self.rows.nbytes > BYTES_TO_PREFILTER else None

    @remembered
    def _prefilter(self):
        return Prefilter(self.rows)

    def _screened(self, int8_rows, query):
        """Return similarities of one query by an int8 copy, and how far they may be off."""
        product, margin = int8_rows.multiply(query[0])
        return self._from_product(product, slice(None)), margin

    def query_radius(self, queries, radii):
        """Return lists of the distances and positions of all rows within each query's radius."""
        which, found, rescored = self.within(queries, np.broadcast_to(radii, len(queries)))
        order = np.lexsort((rescored, which))
        stops = which.searchsorted(np.arange(1, len(queries)))
        return np.split(rescored[order], stops), np.split(found[order], stops)

    def within(self, queries, radii):
        """Return all pairs within the radius of their query, by query and then by position.

        Which query, which position, and the distance: three arrays, one entry per pair.
        """
        parts = []
        for block, which, found, rescored, copies in self._rescored(queries, radii=radii):
            inside = rescored <= radii[block][which]
            pairs = which[inside], found[inside], rescored[inside]
            if copies is not None:
                pairs = copies.within(*pairs)
            parts.append((pairs[0] + block.start, *pairs[1:]))
        return tuple(np.concatenate(part) for part in zip(*parts))

    def distances(self, queries):
        """Return the distances to all rows, (n_queries, n), as exact as one product is.

        What is so close that the rounding of the product would show is re-scored in float64.
        """
        copies = self.find_copies()
        distances = self._by_product(queries)
        close = self._close(queries)
        close[~self._cannot_overflow(self._error(queries))] = np.inf
        for row in np.flatnonzero(~(distances.min(axis=1) > close)):
            # All that is not surely further.
            found = copies.without(np.flatnonzero(~(distances[row] > close[row])))
            distances[row, found] = self.rescore(queries, np.full(len(found), row), found)
        if len(copies):
            distances[:, copies.positions] = distances[:, copies.firsts]
        return distances

    def _by_product(self, queries):
        """Return distances to all rows, (n_queries, n), rounded as a product rounds them."""
        return self._from_similarity(queries, self._similarity(queries, slice(None)))

    def rescore(self, queries: NDArray, which: NDArray, positions: NDArray) -> NDArray:
        """Return the distances of the pairs ``(queries[which], rows[positions])``, float64."""
        distances = np.empty(len(which))
        queries = queries.astype(np.float64, copy=False)
        step = max(1, DIFFERENCES_AT_ONCE // self.rows.shape[1])
        for start in range(0, len(which), step):
            part = slice(start, start + step)
            # Converted first: a difference of two types takes longer.
            difference = self.rows.take(positions[part], axis=0).astype(np.float64, copy=False)
            difference -= queries.take(which[part], axis=0)
            distances[part] = self._from_difference(difference)
        return distances

    def rescore_rows(self, query: NDArray, rows: NDArray) -> NDArray:
        """Return the distances of one query, (1, n_features), and encoded rows, float64 (n,)."""
        return self._from_difference(rows.astype(np.float64) - query)

    def _blocks(self, n_queries, k=1):
        """Yield blocks of queries that share one reading of the rows.

        They are some hundred, more if the gallery is small, or if reading it takes long.
        """
        # A product of long rows copies its factors first, which pays for many queries at once.
        at_once = 256 if self.in_memory and self.rows.shape[1] < 256 else QUERIES_AT_ONCE
        largest = at_once
        if self.in_memory:
            largest = max(at_once, SIMILARITIES_AT_ONCE // (2 * max(1, len(self))))
        n_columns = max(self._tile(at_once), k * BYTES_PER_PAIR // 16)
        return row_blocks(n_queries, n_columns, itemsize=32, largest=largest)

    def _tile(self, n_queries):
        """Return how many rows are compared at once."""
        tile = min(len(self), max(1024, SIMILARITIES_AT_ONCE // n_queries))
        if self.in_memory:
            return tile
        budget = get_config()["working_memory"] * 2**20 / 4
        return max(1, min(tile, int(budget // (self.rows.shape[1] * self.rows.itemsize))))

    def _rescored(self, queries, k=None, radii=None) -> Iterator[tuple]:
        """Yield blocks of queries, candidate pairs with their distances, and copies, if any.

        Pairs are ordered by query, which is counted from the start of its block, then by position.
        Rows that are among the copies are in none.
        """
        waiting = list(self._blocks(len(queries), k or 1))[::-1]
        while waiting:
            block = waiting.pop()
            known, copies = self._known_copies is not None, self._copies_to_leave_out()
            of_block = None if radii is None else radii[block]
            pairs = self._candidates(queries[block], k, of_block, copies)
            n_more = len(self) + 1
            if pairs is not None:
                n_more = len(pairs) - (k or 0) * (block.stop - block.start)
            self._look_for_copies(n_more)
            if not known and self._known_copies is not None:
                waiting.append(block)
                continue
            if pairs is None:  # too many rows are equally near: fewer queries at once
                middle = (block.start + block.stop) // 2
                waiting += [slice(middle, block.stop), slice(block.start, middle)]
                continue
            if k is not None and known and n_more > PAIRS_PER_NEIGHBOR * k * len(queries[block]):
                n = k if copies is None else min(k, copies.n_distinct)
                pairs = narrowed(self, queries[block], pairs, n)
            pairs.sort()
            which, found = np.divmod(pairs, len(self))
            del pairs
            yield block, which, found, self.rescore(queries[block], which, found), copies

    @remembered
    def _copies(self):
        self._known_copies = Copies.among(self.rows)
        return self._known_copies

    def find_copies(self) -> Copies:
        """Return which rows repeat others; a search does not look for them before it pays."""
        return self._copies

    def _copies_to_leave_out(self):
        """Return which rows repeat others if some are known to, else None."""
        copies = self._known_copies
        return None if copies is None or copies.n_copies == 0 else copies

    def _look_for_copies(self, n_more):
        """Find which rows repeat others, once it pays.

        It pays once as many pairs were left by products beyond those that are wanted, `n_more`
        of them now, as there are rows: to re-score them takes as long.
        """
        if self._known_copies is None:
            self._n_left_over += n_more
            if self._n_left_over > len(self):
                self.find_copies()

    def _candidates(self, queries, k, radius, copies):
        """Return all pairs that may be wanted, and a few more, as query * len(self) + position.

        None if there are several queries and more pairs than the working memory holds.
        """
        error, n = self._error(queries), len(self)
        is_alike = self._are_all_alike(queries)
        safe = self._cannot_overflow(error) & ~is_alike
        all_safe, exact = safe.all(), None
        margin = (2 * error if all_safe else np.where(safe, 2 * error, 0)).astype(self.rows.dtype)
        if radius is None:
            k = k if copies is None else min(k, copies.n_distinct)
            exact = self._are_exact(queries, safe)
            if exact is not None:
                margin[exact] = 0
            select = Nearest(k, n, margin)
        else:
            select = Within(self._least_similarity(queries, radius) - margin)
        room = np.inf
        if len(queries) > 1:
            room = max(n, get_config()["working_memory"] * 2**20 // BYTES_PER_PAIR)
            room -= n * np.count_nonzero(~safe)
        picked = self._pick(queries, select, room, copies, keep_values=exact is not None)
        if picked is None:
            return None
        picked, value = picked
        if value is not None:
            keep = (value >= select.limit[picked // n]) & safe[picked // n]
            picked, value = picked[keep], value[keep]
        if exact is not None and len(picked) > k * len(queries):
            picked = first_of_ties(picked, value, n, k, exact)
        if all_safe:
            return picked
        firsts = np.arange(n) if copies is None else copies.without(np.arange(n))
        unsafe = np.flatnonzero(~safe & ~is_alike), firsts
        alike = np.flatnonzero(is_alike), firsts[:k]
        more = [(which[:, None] * n + found).ravel() for which, found in (unsafe, alike)]
        return np.concatenate([picked[safe[picked // n]], *more])

    def _pick(self, queries, select, room, copies, *, keep_values):
        """Return the pairs that `select` takes out of tiles of similarities, and these or None.

        Similarities are returned if there are several tiles, where the last one may raise what is
        taken of the first, or if `keep_values`. None if there are more pairs than `room`.
        """
        n, tile = len(self), self._tile(len(queries))
        memory = np.empty(len(queries) * tile, dtype=self.rows.dtype)
        parts = []
        for start in range(0, n, tile):
            similarity = self._similarity(queries, slice(start, start + tile), memory)
            if copies is not None:
                copies.leave_out(similarity, start)
            picked = select(similarity, room)
            if picked is None:
                return None
            if tile >= n and not keep_values:
                return picked, None
            room -= len(picked)
            value = similarity.take(picked)
            which, column = np.divmod(picked, similarity.shape[1])
            parts.append((which * n + column + start, value))
        return tuple(map(np.concatenate, zip(*parts)))

    def _are_all_alike(self, queries):
        """Say which queries are equally far from all rows."""
        return np.zeros(len(queries), dtype=bool)

    def _are_exact(self, queries, safe):
        """Say for which queries products are not rounded: of whole numbers that are not large.

        None for none. To look at all rows pays where many pairs were left once.
        """
        if self._known_copies is None or self._largest_whole == np.inf:
            return None
        largest = np.maximum(np.abs(queries).max(axis=1), self._largest_whole).astype(np.float64)
        is_small = 4 * self.rows.shape[1] * largest**2 <= 1 / finfo(self.rows.dtype).eps
        exact = safe & is_small & (queries == np.rint(queries)).all(axis=1)
        return exact if exact.any() else None

    @remembered
    def _largest_whole(self):
        """The largest number of rows, in size, if all are whole numbers; else infinity."""
        return _largest_whole(self.rows)

    def _similarity(self, queries, part, memory=None):
        """Return similarities of queries to a slice of the rows, (n_queries, n_rows).

        Rows that are not in memory are read tile by tile.
        """
        if not self.in_memory:
            start, stop, _ = part.indices(len(self))
            tile = self._tile(max(1, len(queries)))
            if stop - start > tile:
                similarity = np.empty((len(queries), stop - start), dtype=self.rows.dtype)
                for first in range(start, stop, tile):
                    piece = slice(first, min(first + tile, stop))
                    similarity[:, first - start : piece.stop - start] = self._similarity(
                        queries, piece
                    )
                return similarity
        with np.errstate(over="ignore", invalid="ignore"):
            product = self._product(queries, part, memory)
        return self._from_product(product, part)

    def _product(self, queries, part, memory=None):
        """Return products of queries and a slice of the rows, (n_queries, n_rows).

        They are written into `memory` if it is given: new memory is slow.
        """
        n_queries = len(queries)
        if n_queries > 1 and self.in_memory and self.rows.nbytes <= BYTES_TO_COPY:
            columns, few = self._transposed[:, part], 0
        else:
            columns, few = self.rows[part].T, FEW_QUERIES
        shape = n_queries, columns.shape[1]
        out = np.empty(shape, self.rows.dtype) if memory is None else memory[: math.prod(shape)]
        out = out.reshape(shape)
        if n_queries == 1 and columns.nbytes > BYTES_TO_STREAM:
            return np.vecdot(columns.T, queries, out=out[0])[None]
        if 1 < n_queries <= few:
            step = PRODUCTS_TO_TRANSPOSE // n_queries
            for start in range(0, shape[1], step):
                rows = slice(start, start + step)
                out[:, rows] = (columns[:, rows].T @ queries.T).T
            return out
        return np.matmul(queries, columns, out=out)

    @remembered
    def _transposed(self):
        """A copy of the rows as columns, which products of few queries read faster."""
        return np.ascontiguousarray(self.rows.T)

    def _cannot_overflow(self, error):
        """Say for which queries the product cannot overflow, by its rounding errors."""
        limits = finfo(self.rows.dtype)
        with np.errstate(invalid="ignore"):
            return error < limits.max * limits.eps


class CosineEngine(ExactEngine):
    """Rows of norm 1; a zero row has distance 1 to everything. Their product is the similarity."""

    metric = "cosine"
    metrics = ("cosine",)
    encode = staticmethod(l2_normalize)  # pyright: ignore[reportAssignmentType] - no call between
    _per_row: ClassVar = {"_is_zero": is_zero}

    @remembered
    def _is_zero(self):
        return is_zero(self.rows)

    def _from_product(self, product, part):
        return product

    def _close(self, queries):
        return np.full(len(queries), ERRORS_OF_CLOSE * float(finfo(self.rows.dtype).eps))

    def _error(self, queries):
        eps = float(finfo(self.rows.dtype).eps)
        return np.full(len(queries), (2 * self.rows.shape[1] + 16) * eps)

    def _are_all_alike(self, queries):
        return ~queries.any(axis=1)

    def _least_similarity(self, queries, radius):
        within_all = 3  # no distance is above 2, and the type may not hold the radius
        return np.full(len(queries), 1 - np.minimum(radius, within_all), dtype=self.rows.dtype)

    def _from_similarity(self, queries, similarity):
        np.subtract(1, similarity, out=similarity)
        return np.clip(similarity, 0, 2, out=similarity)

    def _from_difference(self, difference):
        # 1 - u.v for unit rows, whose norms are rounded
        return np.minimum(np.vecdot(difference, difference) / 2, 2)

    def rescore(self, queries, which, positions):
        """Return the distances of the pairs ``(queries[which], rows[positions])``, float64."""
        distances = super().rescore(queries, which, positions)
        query_is_zero, row_is_zero = np.logical_not(queries.any(axis=1)), self._are_zero(positions)
        if query_is_zero.any() or row_is_zero.any():
            distances[query_is_zero[which] | row_is_zero] = 1
        return distances

    def _are_zero(self, positions):
        """Say which of the rows at some positions are zero."""
        return self._is_zero[positions]

    def rescore_rows(self, query, rows):
        """Return the distances of one query, (1, n_features), and encoded rows, float64 (n,)."""
        distances = super().rescore_rows(query, rows)
        distances[~rows.any(axis=1) | ~query.any()] = 1
        return distances


class EuclideanEngine(ExactEngine):
    """Rows as they are, up to a power of two that keeps squares within range.

    The similarity is q.g - |g|^2 / 2 = (|q|^2 - |q - g|^2) / 2.
    """

    metric = "euclidean"
    metrics = ("euclidean",)
    pickled = ("rows", "scale")
    _per_row: ClassVar = {"_half_squares": half_squared_norms}

    def build(self, rows):
        """Hold a copy of `rows`, scaled if their squares would leave the range."""
        self._fit_range(float(max(rows.max(), -rows.min())))
        return super().build(rows)

    def _fit_range(self, largest):
        if largest > 0 and not 1e-6 < largest < 1e6:
            exponent = np.clip(np.frexp(largest)[1], -1000, 1000)
            if exponent > -150:  # such rows may be float32, which has to hold the scale
                exponent = max(exponent, -126)
            self.scale = 2.0**-exponent

    def encode(self, rows, out=None):
        """Return a copy of the rows in C order, scaled, in `out` if given."""
        scaled = np.empty(rows.shape, rows.dtype) if out is None else out
        if self.scale == 1:
            scaled[:] = rows
            return scaled
        with np.errstate(over="ignore"):
            np.multiply(rows, rows.dtype.type(self.scale), out=scaled)
        if not np.isfinite(scaled).all():
            raise ValueError(
                f"X holds {np.abs(rows).max():.3g}, but the largest number of the gallery is about "
                f"{1 / self.scale:.3g}: {rows.dtype} cannot compare them. Scale all rows in the "
                "same way first."
            )
        return scaled

    def decode(self, rows, n_features):
        """Return a copy of encoded rows as they were given."""
        rows = rows[:]
        return rows / rows.dtype.type(self.scale) if self.scale != 1 else rows.copy()

    @remembered
    def _half_squares(self):
        return half_squared_norms(self.rows)

    @remembered
    def _longest(self):
        """The largest norm of a row."""
        return np.sqrt(2 * float(self._half_squares.max()))

    @remembered
    def _center(self):
        """The mean of rows that are far from the origin, else None."""
        return Center.of(self.rows)

    def _from_product(self, product, part):
        with np.errstate(over="ignore", invalid="ignore"):
            product -= self._half_squares[part]
        return product

    def _error(self, queries):
        limits = finfo(self.rows.dtype)
        norms = safe_norms(queries.astype(np.float64, copy=False))
        with np.errstate(over="ignore"):
            # Relative, but for products below the normal numbers: the largest rows may be gone.
            squares = float(limits.eps) * (norms + self._longest) ** 2 + float(limits.tiny)
            return (2 * self.rows.shape[1] + 16) * squares

    def _by_product(self, queries):
        if self._center is None:
            return super()._by_product(queries)
        return self._from_similarity(*self._center.similarities(self.rows, queries))

    def _close(self, queries):
        limits, center, longest = finfo(self.rows.dtype), self._center, self._longest
        if center is not None:
            queries, longest = queries - center.mean, center.reach
        norms = safe_norms(queries.astype(np.float64, copy=False))
        relative = np.sqrt(float(limits.eps)) * np.hypot(norms, longest)
        absolute = np.sqrt(self.rows.shape[1] * float(limits.tiny))
        return np.sqrt(ERRORS_OF_CLOSE) * np.hypot(relative, absolute) / self.scale

    def _least_similarity(self, queries, radius):
        norms = safe_norms(queries.astype(np.float64, copy=False))
        with np.errstate(over="ignore", invalid="ignore"):
            least = (norms**2 - (radius * self.scale) ** 2) / 2
            return least.astype(self.rows.dtype)

    def _from_similarity(self, queries, similarity):
        squares = np.einsum("ij,ij->i", queries, queries)[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(similarity, -2, out=similarity)
            similarity += squares
            np.maximum(similarity, 0, out=similarity)
            np.sqrt(similarity, out=similarity)
        if self.scale == 1:
            return similarity
        return similarity.astype(np.float64, copy=False) / self.scale  # maybe beyond their type

    def _from_difference(self, difference):
        return safe_norms(difference) / self.scale


def _largest_whole(rows):
    """Return the largest number of rows in size if all are whole numbers, else infinity."""
    largest = 0.0
    for part in row_blocks(*rows.shape, itemsize=32, largest=2**14):
        block = rows[part]
        if not (block == np.rint(block)).all():
            return np.inf
        largest = max(largest, float(np.abs(block).max()))
    return largest
