"""Compiled loops that make a graph of near rows and walk through it; imported when needed."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sklearn_cbir._compiled import compiled, fast, inlined

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
def prune(rows, neighbors, squares, degree, alpha):
    """Keep of every row's neighbors those to which no kept one is nearer by far, at most `degree`.

    `neighbors` and `squares` are (n, k), nearest first, -1 where none is; the result is
    (n, degree), -1 at the end. Neighbors are positions of `rows`, which may be more than n.
    """
    n, k = neighbors.shape
    kept = np.full((n, degree), -1, dtype=np.int32)
    for row in range(n):
        size = 0
        for column in range(k):
            candidate = neighbors[row, column]
            if candidate < 0:
                continue
            wanted = True
            for other in range(size):
                between = square(rows[kept[row, other]], rows[candidate])
                if alpha * between < squares[row, column]:
                    wanted = False
                    break
            if wanted:
                kept[row, size] = candidate
                size += 1
                if size == degree:
                    break
    return kept


@compiled
def symmetrize(rows, kept, max_degree):
    """Let edges lead both ways: starts (n + 1,) and edges, those of row i from ``starts[i]`` on.

    A row that too many others have chosen keeps `max_degree`, as `prune` does with alpha 1.
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
    edges = np.empty(ends[-1], dtype=np.int32)
    size = 0
    for row in range(n):
        first, own = size, everything[ends[row] - degrees[row] : ends[row]]
        near = squares[ends[row] - degrees[row] : ends[row]]
        crowded = len(own) > max_degree
        for place in np.argsort(near):
            wanted = True
            for node in edges[first:size]:
                if node == own[place] or (
                    crowded and square(rows[node], rows[own[place]]) < near[place]
                ):
                    wanted = False
                    break
            if wanted and size - first < max_degree:
                edges[size] = own[place]
                size += 1
        starts[row + 1] = size
    return starts, edges[:size].copy()


@compiled
def dominating_set(neighbors):
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
def reachable(starts, edges, entry_points):
    """Say which rows edges lead to from the entry points."""
    n = len(starts) - 1
    reached = np.zeros(n, dtype=np.bool_)
    waiting = np.empty(n, dtype=np.int64)
    size = 0
    for row in entry_points:
        if not reached[row]:
            reached[row] = True
            waiting[size] = row
            size += 1
    while size:
        size -= 1
        row = waiting[size]
        for node in edges[starts[row] : starts[row + 1]]:
            if not reached[node]:
                reached[node] = True
                waiting[size] = node
                size += 1
    return reached


@inlined
def meet(nodes, visited, visit, fresh, n_fresh):
    """Append the nodes that were not visited before, without a branch."""
    for node in nodes:
        fresh[n_fresh] = node
        n_fresh += visited[node] != visit
        visited[node] = visit
    return n_fresh


@fast
def walk(rows, indexed, starts, edges, queries, entries, turns, ef_search, found, squares):
    """Search the graph by a beam, from one entry point per query, `entries`, (n_queries,).

    Queries are answered in the order `turns`.
    The row of node i is ``rows[indexed[i]]``; where that is -1 the row was removed, and the way
    leads through. The candidate list holds the `ef_search` nearest nodes met, whose edges are all
    followed; the nearest are written into `found` and `squares`, both (n_queries, k), in order.
    """
    n, k = len(indexed), found.shape[1]
    visited = np.zeros(n, dtype=np.uint8)
    fresh = np.empty(n + 1, dtype=np.int32)
    between = np.empty(n, dtype=np.float32)
    bits = between.view(np.int32)  # of numbers that are not negative: in the same order
    # Distance, node, and whether its edges were followed, in one integer: they move together.
    candidates = np.empty(ef_search, dtype=np.int64)
    visit = 0  # what marks the nodes that this query has met
    for row in turns:
        query = queries[row]
        visit += 1
        if visit == 256:
            visited[:] = 0
            visit = 1
        size = current = 0
        fresh[0], n_fresh = entries[row], 1
        visited[entries[row]] = visit
        while True:
            item = 0
            while item < n_fresh:
                if indexed[fresh[item]] >= 0:
                    prefetch_row(rows, indexed[fresh[item]])
                    item += 1
                else:  # take the edges of a removed row for those that led to it
                    gone = fresh[item]
                    n_fresh -= 1
                    fresh[item] = fresh[n_fresh]
                    beyond = edges[starts[gone] : starts[gone + 1]]
                    n_fresh = meet(beyond, visited, visit, fresh, n_fresh)
            for item in range(n_fresh):
                between[item] = square(query, rows[indexed[fresh[item]]])
            for item in range(n_fresh):
                entry = (np.int64(bits[item]) << 32) | (np.int64(fresh[item]) << 1)
                if size < ef_search:
                    size += 1
                elif entry >= candidates[size - 1]:
                    continue
                slot = size - 1
                while slot > 0 and candidates[slot - 1] > entry:
                    candidates[slot] = candidates[slot - 1]
                    slot -= 1
                candidates[slot] = entry
                current = min(current, slot)
            while current < size and candidates[current] & 1:
                current += 1
            if current == size:
                break
            node = (candidates[current] & 0xFFFFFFFF) >> 1
            candidates[current] |= 1
            n_fresh = meet(edges[starts[node] : starts[node + 1]], visited, visit, fresh, 0)
        for slot in range(min(size, k)):
            found[row, slot] = (candidates[slot] & 0xFFFFFFFF) >> 1
            bits[0] = candidates[slot] >> 32
            squares[row, slot] = between[0]
