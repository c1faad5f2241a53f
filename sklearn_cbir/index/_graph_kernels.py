"""Compiled loops that make a graph of near rows and walk through it; imported when needed."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sklearn_cbir.codes._kernels import compiled, fast, inlined

LINE = 64  # bytes that memory gives at once
LINES_AHEAD = 8  # of a row, asked for before it is compared; the processor foresees the others


@intrinsic
def prefetch_row(typing_context, rows, row):
    """Ask memory for the start of a row, so that several rows are on their way at once."""

    def generate(context, builder, signature, arguments):
        rows_type, row_type = signature.args
        rows = context.make_array(rows_type)(context, builder, arguments[0])
        row = context.cast(builder, arguments[1], row_type, types.intp)
        n_columns = cgutils.unpack_tuple(builder, rows.shape, 2)[1]
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        prefetch = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        )
        read, often, data = (ir.Constant(flag, value) for value in (0, 3, 1))
        first = builder.bitcast(builder.gep(rows.data, [builder.mul(row, n_columns)]), byte)
        size = builder.mul(n_columns, rows.itemsize)
        for line in range(LINES_AHEAD):
            offset = ir.Constant(size.type, line * LINE)
            with builder.if_then(builder.icmp_signed("<", offset, size)):
                builder.call(prefetch, [builder.gep(first, [offset]), read, often, data])
        return context.get_dummy_value()

    return types.none(rows, row), generate


@fast
def square(a, b):
    """Return the squared distance of two vectors."""
    total = a[0] * 0
    for j in range(a.shape[0]):
        difference = a[j] - b[j]
        total += difference * difference
    return total


@compiled
def prune(rows, neighbors, squares, most, slack):
    """Keep of every row's neighbors those to which no kept one is nearer by far, at most `most`.

    `neighbors` and `squares` are (n, k), nearest first, -1 where none is; the result is (n, most),
    -1 at the end. Neighbors are numbers of `rows`, of which there may be more than n.
    """
    n, k = neighbors.shape
    kept = np.full((n, most), -1, dtype=np.int32)
    for row in range(n):
        size = 0
        for column in range(k):
            candidate = neighbors[row, column]
            if candidate < 0:
                continue
            wanted = True
            for other in range(size):
                between = square(rows[kept[row, other]], rows[candidate])
                if slack * between < squares[row, column]:
                    wanted = False
                    break
            if wanted:
                kept[row, size] = candidate
                size += 1
                if size == most:
                    break
    return kept


@compiled
def join(rows, kept, most):
    """Let links lead both ways: starts (n + 1,) and links, those of row i from ``starts[i]`` on.

    A row that too many others link to keeps `most`, chosen as in `prune` without slack.
    """
    n = len(kept)
    degrees = np.zeros(n, dtype=np.int64)
    for row in range(n):
        for other in kept[row]:
            if other >= 0:
                degrees[row] += 1
                degrees[other] += 1
    ends = np.cumsum(degrees)
    everything = np.empty(ends[-1], dtype=np.int32)
    squares = np.empty(ends[-1], dtype=rows.dtype)
    filled = ends - degrees
    for row in range(n):
        for other in kept[row]:
            if other >= 0:
                between = square(rows[row], rows[other])
                everything[filled[row]], squares[filled[row]] = other, between
                everything[filled[other]], squares[filled[other]] = row, between
                filled[row] += 1
                filled[other] += 1
    starts = np.zeros(n + 1, dtype=np.int64)
    links = np.empty(ends[-1], dtype=np.int32)
    size = 0
    for row in range(n):
        first, own = size, everything[ends[row] - degrees[row] : ends[row]]
        near = squares[ends[row] - degrees[row] : ends[row]]
        crowded = len(own) > most
        for place in np.argsort(near):
            wanted = True
            for link in links[first:size]:
                if link == own[place] or (
                    crowded and square(rows[link], rows[own[place]]) < near[place]
                ):
                    wanted = False
                    break
            if wanted and size - first < most:
                links[size] = own[place]
                size += 1
        starts[row + 1] = size
    return starts, links[:size].copy()


@compiled
def cover(neighbors):
    """Choose rows of which every other row is a neighbor."""
    n, k = neighbors.shape
    covered = np.zeros(n, dtype=np.bool_)
    chosen = np.empty(n, dtype=np.int32)
    size = 0
    for row in range(n):
        if not covered[row]:
            chosen[size] = row
            size += 1
            for column in range(k):
                if neighbors[row, column] >= 0:
                    covered[neighbors[row, column]] = True
    return chosen[:size].copy()


@compiled
def reach(starts, links, first):
    """Say which rows links lead to from the rows `first`."""
    n = len(starts) - 1
    reached = np.zeros(n, dtype=np.bool_)
    waiting = np.empty(n, dtype=np.int64)
    size = 0
    for row in first:
        if not reached[row]:
            reached[row] = True
            waiting[size] = row
            size += 1
    while size:
        size -= 1
        row = waiting[size]
        for link in links[starts[row] : starts[row + 1]]:
            if not reached[link]:
                reached[link] = True
                waiting[size] = link
                size += 1
    return reached


@inlined
def meet(links, seen, mark, fresh, n_fresh):
    """Append the links that were not seen before, without a branch that nobody foresees."""
    for link in links:
        fresh[n_fresh] = link
        n_fresh += seen[link] != mark
        seen[link] = mark
    return n_fresh


@fast
def walk(rows, places, starts, links, queries, entries, turns, effort, found, squares):
    """Follow links to nearer and nearer rows, from one of `entries`, (n_queries,), on.

    Queries are answered in the order `turns`.
    The row of node i is ``rows[places[i]]``; where that is -1 the row was removed, and the way
    leads through. Of the `effort` nearest nodes met, whose links are all followed, the nearest are
    written into `found` and `squares`, both (n_queries, k), nearest first.
    """
    n, k = len(places), found.shape[1]
    seen = np.zeros(n, dtype=np.uint8)
    fresh = np.empty(n + 1, dtype=np.int32)
    between = np.empty(n, dtype=np.float32)
    bits = between.view(np.int32)  # of numbers that are not negative: in the same order
    # Distance, node, and whether its links were followed, in one integer: they move together.
    pool = np.empty(effort, dtype=np.int64)
    mark = 0
    for row in turns:
        query = queries[row]
        mark += 1
        if mark == 256:
            seen[:] = 0
            mark = 1
        size = current = 0
        fresh[0], n_fresh = entries[row], 1
        seen[entries[row]] = mark
        while True:
            item = 0
            while item < n_fresh:
                if places[fresh[item]] >= 0:
                    prefetch_row(rows, places[fresh[item]])
                    item += 1
                else:  # take the links of a removed row for those that led to it
                    gone = fresh[item]
                    n_fresh -= 1
                    fresh[item] = fresh[n_fresh]
                    gone_links = links[starts[gone] : starts[gone + 1]]
                    n_fresh = meet(gone_links, seen, mark, fresh, n_fresh)
            for item in range(n_fresh):
                between[item] = square(query, rows[places[fresh[item]]])
            for item in range(n_fresh):
                entry = (np.int64(bits[item]) << 32) | (np.int64(fresh[item]) << 1)
                if size < effort:
                    size += 1
                elif entry >= pool[size - 1]:
                    continue
                slot = size - 1
                while slot > 0 and pool[slot - 1] > entry:
                    pool[slot] = pool[slot - 1]
                    slot -= 1
                pool[slot] = entry
                current = min(current, slot)
            while current < size and pool[current] & 1:
                current += 1
            if current == size:
                break
            node = (pool[current] & 0xFFFFFFFF) >> 1
            pool[current] |= 1
            n_fresh = meet(links[starts[node] : starts[node + 1]], seen, mark, fresh, 0)
        for slot in range(min(size, k)):
            found[row, slot] = (pool[slot] & 0xFFFFFFFF) >> 1
            bits[0] = pool[slot] >> 32
            squares[row, slot] = between[0]
