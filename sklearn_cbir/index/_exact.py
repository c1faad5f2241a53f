"""Exact search over float rows under the cosine or the Euclidean distance."""

import math

import numpy as np
from sklearn import get_config

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir.index._center import Center
from sklearn_cbir.index._copies import Copies
from sklearn_cbir.index._every_row import EveryRow
from sklearn_cbir.index._growing import append, with_room
from sklearn_cbir.index._nearly_equal import PAIRS_PER_NEIGHBOR, narrowed
from sklearn_cbir.index._picking import Nearest, Within, finfo, first_of_ties, lowest, reached
from sklearn_cbir.index._rows import row_blocks

# Affinities held at once: they stay in the processor's cache.
AFFINITIES_AT_ONCE = 2**21
# Numbers of float64 held at once where pairs are measured: they stay there too.
DIFFERENCES_AT_ONCE = 2**18
# Rows that caches do not hold are read fastest one after the other, for one query.
BYTES_TO_STREAM = 2**24
# So few queries of larger rows are screened by bytes, once a hundred were asked: to make the bytes
# takes two readings of the rows, and the import of numba and its memory.
BYTES_TO_SCREEN = 2**26
QUERIES_TO_SCREEN = 3
QUERIES_BEFORE_SCREEN = 100
FAILURES_IN_A_ROW = 8  # of a screen, after which it is given up
# A product whose right factor has to be turned first takes up to nine times as long. Of small
# galleries a turned copy is kept; for large ones, the product of few queries is turned instead.
BYTES_TO_COPY = 2**25
FEW_QUERIES = 16
PRODUCTS_TO_TURN = 2**18  # at once, in the processor's cache
# Bytes that a pair takes which may be wanted: its numbers, its distance, what sorts it.
BYTES_PER_PAIR = 100
# Squared distances of a product below so many of its rounding errors are measured again.
ERRORS_OF_CLOSE = 1024
LOCK = ProcessLock()


class ExactEngine(EveryRow):
    """Search every row: a matrix product screens, the rows themselves decide.

    The product gives the affinity (larger is nearer) of a query to all rows up to
    a bounded rounding error. What that error leaves among the nearest is measured
    again as the length of a difference in float64. So equal rows are exactly
    tied, whatever else is searched in the same call, and no distance is negative.
    """

    _per_row = {}  # names of what is remembered of every row, and how it is computed

    def build(self, rows):
        """Hold a copy of `rows`, in the form in which they are compared, with room for more."""
        held, room = with_room(rows.shape, rows.dtype)
        self.rows = self.encode(rows, held)
        self._cached_room = room
        return self

    def add(self, rows):
        """Return an engine with `rows` appended; what is known of the others is kept."""
        engine = super().add(rows)
        for name, of_rows in self._per_row.items():
            if name in vars(self):
                new = of_rows(engine.rows[len(self) :])
                vars(engine)[name] = append(vars(self)[name], new)[0]
        return engine

    def query(self, queries, k):
        """Return distances and positions of the `k` nearest rows, both (n_queries, k)."""
        screen = self._screen_for(len(queries))
        if len(queries) == 1 or screen is not None:
            error = self._error(queries)
            if self._is_safe(error).all():
                each = [
                    self._query_one(queries[i : i + 1], k, error[i], screen)
                    for i in range(len(queries))
                ]
                return each[0] if len(each) == 1 else tuple(map(np.concatenate, zip(*each)))
        distances = np.empty((len(queries), k))
        positions = np.empty((len(queries), k), dtype=np.int64)
        for block, values, found, copies in self._nearest(queries, k):
            distances[block], positions[block] = copies.nearest(values, found, k)
        return distances, positions

    def query_distinct(self, queries, k):
        """Return the same among rows that repeat no earlier one, at least `k` of them."""
        self.find_copies()
        found = [pair for _, *pair, _ in self._nearest(queries, k)]
        return tuple(map(np.concatenate, zip(*found)))

    def _nearest(self, queries, k):
        """Yield blocks of queries, the nearest rows but for copies, nearest first, and copies."""
        for block, which, found, measured, copies in self._measured(queries, k=k):
            order = np.lexsort((measured, which))
            first = which.searchsorted(np.arange(block.stop - block.start))
            nearest = order[first[:, None] + np.arange(min(k, copies.n_distinct))]
            yield block, measured[nearest], found[nearest], copies

    def _query_one(self, query, k, error, screen):
        """Return the same for one query in few steps: a call takes longer than what it computes."""
        copies = self._known_copies()
        n = min(k, copies.n_distinct)
        found = None if screen is None else self._screened(screen, query, n, error, copies)
        if found is None:
            affinity = self._affinity(query, slice(None))[0]
            copies.leave_out(affinity)
            floor = reached(affinity, n) - (2 * error).astype(affinity.dtype)
            if len(copies):  # of which whole groups may consist
                floor = max(floor, lowest(affinity.dtype))
            found = np.flatnonzero(affinity >= floor)
        self._look_for_copies(len(found) - n)  # for the next query
        measured = self.measure(query, np.zeros(len(found), dtype=np.int64), found)
        order = np.argsort(measured, kind="stable")[:n]
        return copies.nearest(measured[order][None], found[order][None], k)

    def _screened(self, screen, query, k, error, copies):
        """Return the rows that bytes cannot tell from the nearest; None if they are many."""
        many = len(self) // 16  # which take as long to measure as all to read
        if k > many // 4:
            return None
        affinity, slack = screen.multiply(query[0])
        affinity = self._from_product(affinity, slice(None))
        copies.leave_out(affinity)
        slack += error.astype(slack.dtype)
        floor = max(reached(affinity - slack, k), lowest(affinity.dtype))
        found = np.flatnonzero(affinity + slack >= floor)
        if len(found) <= many:
            self._cached_failures = 0
            return found
        self._cached_failures = vars(self).get("_cached_failures", 0) + 1
        if self._cached_failures > FAILURES_IN_A_ROW:
            self._cached_screen = None
        return None

    def _screen_for(self, n_queries):
        """Return what screens a few queries; it is made once enough were asked to pay for it.

        None for more queries, for rows that are fast to read or would take more than the working
        memory in bytes, and where numba cannot compile.
        """
        if not 0 < n_queries <= QUERIES_TO_SCREEN or not self.in_memory:
            return None
        if self.rows.nbytes <= BYTES_TO_SCREEN or not _fits(self.rows.size):
            return None
        self._cached_asked = vars(self).get("_cached_asked", 0) + n_queries
        if self._cached_asked <= QUERIES_BEFORE_SCREEN:
            return None
        return self._remembered("_cached_screen", _make_screen)

    def _remembered(self, name, make):
        """Return what `make` makes of the rows, once, whichever thread needs it first."""
        if name not in vars(self):
            with LOCK:
                if name not in vars(self):
                    setattr(self, name, make(self.rows))
        return vars(self)[name]

    def query_radius(self, queries, radii):
        """Return lists of the distances and positions of all rows within each query's radius."""
        which, found, measured = self.within(queries, np.broadcast_to(radii, len(queries)))
        order = np.lexsort((measured, which))
        stops = which.searchsorted(np.arange(1, len(queries)))
        return np.split(measured[order], stops), np.split(found[order], stops)

    def within(self, queries, radii):
        """Return all pairs within the radius of their query, by query and then by position.

        Which query, which position, and the distance: three arrays, one entry per pair.
        """
        parts = []
        for block, which, found, measured, copies in self._measured(queries, radii=radii):
            inside = measured <= radii[block][which]
            pairs = copies.within(which[inside], found[inside], measured[inside])
            parts.append((pairs[0] + block.start, *pairs[1:]))
        return tuple(np.concatenate(part) for part in zip(*parts))

    def distances(self, queries):
        """Return the distances to all rows, (n_queries, n), as exact as one product is.

        What is so close that the rounding of the product would show is measured in float64.
        """
        copies = self.find_copies()
        distances = self._by_product(queries)
        close = self._close(queries)
        close[~self._is_safe(self._error(queries))] = np.inf
        for row in np.flatnonzero(~(distances.min(axis=1) > close)):
            # All that is not surely further.
            found = copies.without(np.flatnonzero(~(distances[row] > close[row])))
            distances[row, found] = self.measure(queries, np.full(len(found), row), found)
        if len(copies):
            distances[:, copies.positions] = distances[:, copies.firsts]
        return distances

    def _by_product(self, queries):
        return self._from_affinity(queries, self._affinity(queries, slice(None)))

    def measure(self, queries, which, positions):
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

    def _blocks(self, n_queries, k=1):
        """Yield blocks of some hundred queries, more of them if the gallery is small."""
        # A product of long rows copies its factors first, which pays for many queries at once.
        at_once = 256 if self.rows.shape[1] < 256 else 1024
        largest = max(at_once, AFFINITIES_AT_ONCE // (2 * max(1, len(self))))
        n_columns = max(self._tile(at_once), k * BYTES_PER_PAIR // 16)
        return row_blocks(n_queries, n_columns, itemsize=32, largest=largest)

    def _tile(self, n_queries):
        """Return how many rows are screened at once."""
        return min(len(self), max(1024, AFFINITIES_AT_ONCE // n_queries))

    def _measured(self, queries, k=None, radii=None):
        """Yield blocks of queries, the pairs that may be wanted, their distances, and copies.

        Pairs are ordered by query, which is counted from the start of its block, then by position.
        Rows that are among the copies are in none.
        """
        waiting = list(self._blocks(len(queries), k or 1))[::-1]
        while waiting:
            block = waiting.pop()
            known, copies = "_cached_copies" in vars(self), self._known_copies()
            of_block = None if radii is None else radii[block]
            pairs = self._pairs(queries[block], k, of_block, copies)
            n_more = len(self) + 1
            if pairs is not None:
                n_more = len(pairs) - (k or 0) * (block.stop - block.start)
            self._look_for_copies(n_more)
            if not known and "_cached_copies" in vars(self):
                waiting.append(block)
                continue
            if pairs is None:  # too many rows are equally near: fewer queries at once
                middle = (block.start + block.stop) // 2
                waiting += [slice(middle, block.stop), slice(block.start, middle)]
                continue
            if k is not None and known and n_more > PAIRS_PER_NEIGHBOR * k * len(queries[block]):
                pairs = narrowed(self, queries[block], pairs, min(k, copies.n_distinct))
            pairs.sort()
            which, found = np.divmod(pairs, len(self))
            del pairs
            yield block, which, found, self.measure(queries[block], which, found), copies

    def find_copies(self):
        """Return which rows repeat others; a search does not look for them before it pays."""
        return self._remembered("_cached_copies", Copies.among)

    def _known_copies(self):
        """Return which rows repeat others if that was looked for, else none."""
        copies = vars(self).get("_cached_copies")
        return Copies(len(self)) if copies is None else copies

    def _look_for_copies(self, n_more):
        """Find which rows repeat others, once it pays.

        It pays once as many pairs were left by the screen beyond those that are wanted, `n_more`
        of them now, as there are rows: to measure them takes as long.
        """
        if "_cached_copies" not in vars(self):
            self._cached_more = vars(self).get("_cached_more", 0) + n_more
            if self._cached_more > len(self):
                self.find_copies()

    def _pairs(self, queries, k, radius, copies):
        """Return all pairs that may be wanted, and a few more, as query * len(self) + position.

        None if there are several queries and more pairs than the working memory holds.
        """
        error = self._error(queries)
        flat = self._flat(queries)
        safe = self._is_safe(error) & ~flat
        all_safe, exact, n = safe.all(), None, len(self)
        slack = (2 * error if all_safe else np.where(safe, 2 * error, 0)).astype(self.rows.dtype)
        if radius is None:
            k = min(k, copies.n_distinct)
            exact = self._are_exact(queries, safe)
            if exact is not None:
                slack[exact] = 0
            select = Nearest(k, n, slack)
        else:
            select = Within(self._floor(queries, radius) - slack)
        tile = self._tile(len(queries))
        room = np.inf
        if len(queries) > 1:
            room = max(n, get_config()["working_memory"] * 2**20 // BYTES_PER_PAIR)
            room -= n * np.count_nonzero(~safe)
        place = np.empty(len(queries) * tile, dtype=self.rows.dtype)
        parts = []
        for start in range(0, n, tile):
            affinity = self._affinity(queries, slice(start, start + tile), place)
            copies.leave_out(affinity, start)
            picked = select(affinity, room)
            if picked is None:
                return None
            room -= len(picked)
            if tile < n or exact is not None:
                value = affinity.take(picked)
                which, column = np.divmod(picked, affinity.shape[1])
                parts.append((which * n + column + start, value))
        if parts:
            picked, value = (np.concatenate(part) for part in zip(*parts))
            keep = (value >= select.limit[picked // n]) & safe[picked // n]
            picked, value = picked[keep], value[keep]
        if exact is not None and len(picked) > k * len(queries):
            picked = first_of_ties(picked, value, n, k, exact)
        if all_safe:
            return picked
        picked = picked[safe[picked // n]]
        firsts = copies.without(np.arange(n))
        parts = [picked, (np.flatnonzero(~safe & ~flat)[:, None] * n + firsts).ravel()]
        firsts = firsts[:k]  # of rows that are equally far
        parts.append((np.flatnonzero(flat)[:, None] * n + firsts).ravel())
        return np.concatenate(parts)

    def _flat(self, queries):
        """Say which queries are equally far from all rows."""
        return np.zeros(len(queries), dtype=bool)

    def _are_exact(self, queries, safe):
        """Say for which queries affinities are not rounded: of whole numbers that are not large.

        None for none. To look at all rows pays where many pairs were left once.
        """
        if "_cached_copies" not in vars(self):
            return None
        largest = self._remembered("_cached_largest_whole", _largest_whole)
        if largest == np.inf:
            return None
        largest = np.maximum(np.abs(queries).max(axis=1), largest).astype(np.float64)
        is_small = 4 * self.rows.shape[1] * largest**2 <= 1 / finfo(self.rows.dtype).eps
        exact = safe & is_small & (queries == np.rint(queries)).all(axis=1)
        return exact if exact.any() else None

    def _affinity(self, queries, part, place=None):
        """Return affinities of queries to a slice of the rows, (n_queries, n_rows)."""
        with np.errstate(over="ignore", invalid="ignore"):
            product = self._product(queries, part, place)
        return self._from_product(product, part)

    def _product(self, queries, part, place=None):
        """Return all products of queries and some rows, in `place` if given: new memory is slow."""
        n_queries = len(queries)
        if n_queries > 1 and self.in_memory and self.rows.nbytes <= BYTES_TO_COPY:
            columns, few = self._remembered("_cached_columns", _as_columns)[:, part], 0
        else:
            columns, few = self.rows[part].T, FEW_QUERIES
        shape = n_queries, columns.shape[1]
        out = np.empty(shape, self.rows.dtype) if place is None else place[: math.prod(shape)]
        out = out.reshape(shape)
        if n_queries == 1 and columns.nbytes > BYTES_TO_STREAM:
            return np.vecdot(columns.T, queries, out=out[0])[None]
        if 1 < n_queries <= few:
            step = PRODUCTS_TO_TURN // n_queries
            for start in range(0, shape[1], step):
                rows = slice(start, start + step)
                out[:, rows] = (columns[:, rows].T @ queries.T).T
            return out
        return np.matmul(queries, columns, out=out)

    def _is_safe(self, error):
        """Say for which queries the product cannot overflow."""
        limits = finfo(self.rows.dtype)
        with np.errstate(invalid="ignore"):
            return error < limits.max * limits.eps


class CosineEngine(ExactEngine):
    """Rows of unit length; a zero row has distance 1 to everything."""

    metric = "cosine"

    def encode(self, rows, out=None):
        """Return rows of unit length, in `out` if given; zero rows stay zero."""
        return unit_rows(rows, out)

    def _from_product(self, product, part):
        return product

    def _close(self, queries):
        return np.full(len(queries), ERRORS_OF_CLOSE * float(finfo(self.rows.dtype).eps))

    def _error(self, queries):
        eps = float(finfo(self.rows.dtype).eps)
        return np.full(len(queries), (2 * self.rows.shape[1] + 16) * eps)

    def _flat(self, queries):
        return ~queries.any(axis=1)

    def _floor(self, queries, radius):
        within_all = 3  # no distance is above 2, and the type may not hold the radius
        return np.full(len(queries), 1 - np.minimum(radius, within_all), dtype=self.rows.dtype)

    def _from_affinity(self, queries, affinity):
        np.subtract(1, affinity, out=affinity)
        return np.clip(affinity, 0, 2, out=affinity)

    def _from_difference(self, difference):
        # 1 - u.v for unit rows, whose lengths are rounded
        return np.minimum(np.vecdot(difference, difference) / 2, 2)

    def measure(self, queries, which, positions):
        """Return the distances of the pairs ``(queries[which], rows[positions])``, float64."""
        distances = super().measure(queries, which, positions)
        empty_queries, empty_rows = ~queries.any(axis=1), self._empty_rows()
        if empty_queries.any() or empty_rows.any():
            distances[empty_queries[which] | empty_rows[positions]] = 1
        return distances

    @staticmethod
    def _are_empty(rows):
        return ~rows.any(axis=1)

    _per_row = {"_cached_empty": _are_empty}

    def _empty_rows(self):
        if "_cached_empty" not in vars(self):
            self._cached_empty = self._are_empty(self.rows)
        return self._cached_empty


class EuclideanEngine(ExactEngine):
    """Rows as they are, up to a power of two that keeps squares within range."""

    metric = "euclidean"
    scale = 1.0

    def build(self, rows):
        """Hold a copy of `rows`, scaled if their squares would leave the range."""
        self._fit_range(float(max(rows.max(), -rows.min())))
        return super().build(rows)

    def _fit_range(self, peak):
        """Choose the scale for rows of which no number exceeds `peak`."""
        if peak > 0 and not 1e-6 < peak < 1e6:
            exponent = np.clip(np.frexp(peak)[1], -1000, 1000)
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
                f"X holds {np.abs(rows).max():.3g}, too far beyond the gallery, whose largest "
                f"number is about {1 / self.scale:.3g}, to be compared in {rows.dtype}. Scale the "
                "rows alike before."
            )
        return scaled

    @staticmethod
    def _half_squares_of(rows):
        return np.einsum("ij,ij->i", rows, rows) / 2

    _per_row = {"_cached_half_squares": _half_squares_of}

    def _half_squares(self):
        if "_cached_half_squares" not in vars(self):
            self._cached_half_squares = self._half_squares_of(self.rows)
        return self._cached_half_squares

    def _from_product(self, product, part):
        # q.g - |g|^2 / 2 = (|q|^2 - |q - g|^2) / 2
        with np.errstate(over="ignore", invalid="ignore"):
            product -= self._half_squares()[part]
        return product

    def _error(self, queries):
        limits = finfo(self.rows.dtype)
        lengths = _lengths(queries.astype(np.float64, copy=False))
        with np.errstate(over="ignore"):
            # Relative, but for products below the normal numbers: the largest rows may be gone.
            squares = float(limits.eps) * (lengths + self._longest()) ** 2 + float(limits.tiny)
            return (2 * self.rows.shape[1] + 16) * squares

    def _longest(self):
        if "_cached_longest" not in vars(self):
            self._cached_longest = np.sqrt(2 * float(self._half_squares().max()))
        return self._cached_longest

    def _by_product(self, queries):
        center = self._center()
        if center is None:
            return super()._by_product(queries)
        return self._from_affinity(*center.affinities(self.rows, queries))

    def _center(self):
        return self._remembered("_cached_center", Center.of)

    def _close(self, queries):
        limits, center = finfo(self.rows.dtype), self._center()
        longest = self._longest()
        if center is not None:
            queries, longest = queries - center.mean, center.reach
        lengths = _lengths(queries.astype(np.float64, copy=False))
        relative = np.sqrt(float(limits.eps)) * np.hypot(lengths, longest)
        absolute = np.sqrt(self.rows.shape[1] * float(limits.tiny))
        return np.sqrt(ERRORS_OF_CLOSE) * np.hypot(relative, absolute) / self.scale

    def _floor(self, queries, radius):
        lengths = _lengths(queries.astype(np.float64, copy=False))
        with np.errstate(over="ignore", invalid="ignore"):
            floor = (lengths**2 - (radius * self.scale) ** 2) / 2
            return floor.astype(self.rows.dtype)

    def _from_affinity(self, queries, affinity):
        squares = np.einsum("ij,ij->i", queries, queries)[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(affinity, -2, out=affinity)
            affinity += squares
            np.maximum(affinity, 0, out=affinity)
            np.sqrt(affinity, out=affinity)
        if self.scale == 1:
            return affinity
        return affinity.astype(np.float64, copy=False) / self.scale  # maybe beyond their type

    def _from_difference(self, difference):
        return _lengths(difference) / self.scale


def _as_columns(rows):
    """Return the rows as columns, which products of few queries read faster."""
    return np.ascontiguousarray(rows.T)


def _fits(n_bytes):
    """Say whether so many bytes fit into the working memory."""
    return n_bytes <= get_config()["working_memory"] * 2**20


def _make_screen(rows):
    """Return a screen of `rows`, or None where numba cannot compile it."""
    try:
        from sklearn_cbir.index._screen import ByteScreen
    except ImportError:
        return None
    return ByteScreen(rows)


def _largest_whole(rows):
    """Return the largest number of rows in size if all are whole numbers, else infinity."""
    largest = 0.0
    for part in row_blocks(*rows.shape, itemsize=32, largest=2**14):
        block = rows[part]
        if not (block == np.rint(block)).all():
            return np.inf
        largest = max(largest, float(np.abs(block).max()))
    return largest


def unit_rows(rows, out=None):
    """Return rows of unit length, in `out` if given; zero rows stay zero."""
    rows = np.divide(rows, row_peaks(rows), out=out)  # squares neither over- nor underflow now
    rows /= row_lengths(rows)
    return rows


def row_peaks(rows):
    """Return the largest number of every row, in size, (n, 1); 1 for zero rows."""
    found = np.maximum(rows.max(axis=1, keepdims=True), -rows.min(axis=1, keepdims=True))
    return np.where(found > 0, found, 1)


def row_lengths(rows):
    """Return the length of every row, (n, 1), of which the peak is 1; 1 for zero rows."""
    found = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return np.where(found > 0, found, 1)


def _lengths(difference):
    """Return the length of every row without over- or underflow."""
    with np.errstate(over="ignore", under="ignore"):
        squares = np.vecdot(difference, difference)
    odd = np.flatnonzero(~((squares > 1e-290) & (squares < np.inf)))
    lengths = np.sqrt(squares)
    if len(odd):
        peaks = np.abs(difference[odd]).max(axis=1)
        scaled = difference[odd] / np.where(peaks > 0, peaks, 1)[:, None]
        lengths[odd] = np.sqrt(np.einsum("ij,ij->i", scaled, scaled)) * peaks
    return lengths
