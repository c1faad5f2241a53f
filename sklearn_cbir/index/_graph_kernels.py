"""Compiled loops that make a graph of near rows and walk through it; imported when needed."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from sklearn_cbir._compiled import compiled, fast, inlined

LINE = 64  # bytes that memory gives at once
LINES_AHEAD = 8  # of a row, asked for before it is compared; the processor foresees the others
EDGE_LINES_AHEAD = 2  # of the edges that are likely to be followed next
GROUPS_TO_ENTER = 4  # whose entry points are compared with a query
CODE_LARGEST = 127  # of one byte
QUERY_LARGEST = 32766  # of two bytes, rounding included


@intrinsic
def prefetch_row(typing_context, rows, row):
    """Ask memory for the start of a row, so that several rows are on their way at once."""

    def generate(context, builder, signature, arguments):
        rows = context.make_array(signature.args[0])(context, builder, arguments[0])
        row = context.cast(builder, arguments[1], signature.args[1], types.intp)
        n_columns = cgutils.unpack_tuple(builder, rows.shape, 2)[1]
        first = builder.gep(rows.data, [builder.mul(row, n_columns)])
        _prefetch(builder, first, LINES_AHEAD, builder.mul(n_columns, rows.itemsize))
        return context.get_dummy_value()

    return types.none(rows, row), generate


@intrinsic
def prefetch_edges(typing_context, edges, start):
    """Ask memory for the edges of a node, which begin at `start`."""

    def generate(context, builder, signature, arguments):
        edges = context.make_array(signature.args[0])(context, builder, arguments[0])
        start = context.cast(builder, arguments[1], signature.args[1], types.intp)
        size = ir.Constant(start.type, EDGE_LINES_AHEAD * LINE)
        _prefetch(builder, builder.gep(edges.data, [start]), EDGE_LINES_AHEAD, size)
        return context.get_dummy_value()

    return types.none(edges, start), generate


def _prefetch(builder, first, n_lines, size):
    """Ask memory for the lines from an address on, as far as they lie within `size` bytes."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    prefetch = builder.module.declare_intrinsic(
        "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    )
    read, often, data = (ir.Constant(flag, value) for value in (0, 3, 1))
    first = builder.bitcast(first, byte)
    for line in range(n_lines):
        offset = ir.Constant(size.type, line * LINE)
        with builder.if_then(builder.icmp_signed("<", offset, size)):
            builder.call(prefetch, [builder.gep(first, [offset]), read, often, data])


HALF_BIAS = 2.0**112  # by which the exponents of half and single precision differ


@intrinsic
def from_half(typing_context, bits):
    """Return the number whose half precision these bits are, but for infinity and NaN.

    By shifts, since not every processor has an instruction for it.
    """

    def generate(context, builder, signature, arguments):
        word = ir.IntType(32)
        bits = builder.zext(arguments[0], word)
        sign = builder.shl(builder.and_(bits, ir.Constant(word, 0x8000)), ir.Constant(word, 16))
        rest = builder.shl(builder.and_(bits, ir.Constant(word, 0x7FFF)), ir.Constant(word, 13))
        number = builder.bitcast(builder.or_(sign, rest), ir.FloatType())
        return builder.fmul(number, ir.Constant(ir.FloatType(), HALF_BIAS))

    return types.float32(types.uint16), generate


def as_float(number):
    """Return a number of a row, which may be the bits of one in half precision."""
    return number.view(np.float16) if number.dtype == np.uint16 else number


@overload(as_float)
def _as_float(number):
    if number == types.uint16:
        return lambda number: from_half(number)
    return lambda number: number


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
def meet(nodes, first, last, visited, visit, fresh, n_fresh):
    """Append the nodes from `first` to `last` that were not visited before, without a branch."""
    for place in range(first, last):
        node = nodes[place]
        fresh[n_fresh] = node
        n_fresh += visited[node] != visit
        visited[node] = visit
    return n_fresh


@inlined
def as_entry(bits, node):
    """Return one integer of the bits of a distance and a node, in the order of the distances."""
    return ((bits ^ ((bits >> 63) & 0x7FFFFFFF)) << 32) | (np.int64(node) << 1)


@inlined
def squared_distance(rows, place, query):
    """Return `square` of a row and the query, summed in their own type."""
    total = query.dtype.type(0)
    for j in range(rows.shape[1]):
        difference = as_float(rows[place, j]) - query[j]
        total += difference * difference
    return np.float32(total)


@inlined
def dot(codes, node, query_code):
    """Return the product of whole numbers of one byte and of two bytes."""
    total = np.int32(0)
    for j in range(codes.shape[1]):
        total = np.int32(total + np.int32(codes[node, j]) * np.int32(query_code[j]))
    return total


@inlined
def put(candidates, size, entry):
    """Move an entry, which is behind all others or the last of them, to its place; return that."""
    slot = size - 1
    while slot > 0 and candidates[slot - 1] > entry:
        candidates[slot] = candidates[slot - 1]
        slot -= 1
    candidates[slot] = entry
    return slot


@inlined
def choose_groups(similarity, chosen):
    """Write the most similar groups into `chosen`, and return how many they are."""
    size = 0
    for group in range(len(similarity)):
        if size < len(chosen):
            size += 1
        elif similarity[group] <= similarity[chosen[size - 1]]:
            continue
        slot = size - 1
        while slot > 0 and similarity[chosen[slot - 1]] < similarity[group]:
            chosen[slot] = chosen[slot - 1]
            slot -= 1
        chosen[slot] = group
    return size


@fast
def quantize(rows, indexed, center, steps, codes, norms):
    """Write the rows of nodes as whole numbers of steps from the center, and their squared norms.

    The row of node i is ``rows[indexed[i]]``; one that was removed stays as it is.
    """
    for node in range(len(indexed)):
        place = indexed[node]
        if place < 0:
            continue
        total = np.float32(0)
        for j in range(rows.shape[1]):
            step = steps[j]
            number = (
                np.rint((as_float(rows[place, j]) - center[j]) / step) if step > 0 else step * 0
            )
            number = min(max(number, -CODE_LARGEST), CODE_LARGEST)
            codes[node, j] = np.int8(number)
            total += np.float32(number * step) * np.float32(number * step)
        norms[node] = total


@inlined
def quantize_query(query, center, steps, products, query_code):
    """Write the code of a query, whose products with codes fit four bytes; return its unit.

    Twice the unit times such a product is what the product of the query and a row, both seen from
    the center, takes off their squared distance.
    """
    largest = total = np.float32(0)
    for j in range(len(query)):
        products[j] = (query[j] - center[j]) * steps[j]
        largest = max(largest, abs(products[j]))
        total += abs(products[j])
    unit = max(largest / np.float32(QUERY_LARGEST), total * np.float32(1 / 2**24))
    per_unit = np.float32(1) / unit if unit > 0 else np.float32(0)
    for j in range(len(query)):
        query_code[j] = np.int16(np.rint(products[j] * per_unit))
    return np.float32(2) * unit


@fast
def walk(
    rows,
    indexed,
    starts,
    edges,
    queries,
    codes,
    norms,
    center,
    steps,
    similarity,
    group_starts,
    entry_points,
    turns,
    ef_search,
    found,
    squares,
):
    """Search the graph by a beam, from the entry points of the groups most similar to each query.

    Those of a group are ``entry_points[group_starts[group]:group_starts[group + 1]]``; `similarity`
    is (n_queries, n_groups). Queries are answered in the order `turns`.
    The row of node i is ``rows[indexed[i]]``; where that is -1 the row was removed, and the way
    leads through, as it does where a node is beyond `indexed`: its row came later. The candidate
    list holds the `ef_search` nearest nodes met, whose edges are all followed; the nearest are
    written into `found` and `squares`, both (n_queries, k), in order.
    Rows are floats, or the bits of half precision.
    The first nodes are compared by `codes`, as `quantize` writes them, and the candidates by
    their rows in the end; without codes, all are compared by their rows.
    """
    n, k, n_coded = len(starts) - 1, found.shape[1], len(codes)
    visited = np.zeros(n, dtype=np.uint8)
    fresh = np.empty(n + 1, dtype=np.int32)
    between = np.empty(n, dtype=np.float32)
    bits = between.view(np.int32)
    # Distance, node, and whether its edges were followed, in one integer: they move together.
    candidates = np.empty(ef_search, dtype=np.int64)
    groups = np.empty(GROUPS_TO_ENTER, dtype=np.int64)
    products = np.zeros(queries.shape[1], dtype=np.float32)
    query_code = np.zeros(queries.shape[1], dtype=np.int16)
    unit = norm = np.float32(0)
    visit = 0  # what marks the nodes that this query has met
    for row in turns:
        query = queries[row]
        if n_coded:
            unit = quantize_query(query, center, steps, products, query_code)
            norm = squared_distance(queries, row, center)  # which codes leave out
        visit += 1
        if visit == 256:
            visited[:] = 0
            visit = 1
        size = current = n_fresh = 0
        for item in range(choose_groups(similarity[row], groups)):
            first, last = group_starts[groups[item]], group_starts[groups[item] + 1]
            n_fresh = meet(entry_points, first, last, visited, visit, fresh, n_fresh)
        while True:
            item = 0
            while item < n_fresh:
                node = fresh[item]
                if node < len(indexed) and indexed[node] >= 0:
                    if node < n_coded:
                        prefetch_row(codes, node)
                    else:
                        prefetch_row(rows, indexed[node])
                    item += 1
                else:  # take the edges of a row that is not there for those that led to it
                    n_fresh -= 1
                    fresh[item] = fresh[n_fresh]
                    first, last = starts[node], starts[node + 1]
                    n_fresh = meet(edges, first, last, visited, visit, fresh, n_fresh)
            ahead = current + 1
            while ahead < size and candidates[ahead] & 1:
                ahead += 1
            if ahead < size:  # the next node, unless a nearer one is met now
                prefetch_edges(edges, starts[(candidates[ahead] & 0xFFFFFFFF) >> 1])
            for item in range(n_fresh):
                node = fresh[item]
                if node < n_coded:
                    product = np.float32(dot(codes, node, query_code))
                    between[item] = norms[node] - unit * product
                else:
                    between[item] = squared_distance(rows, indexed[node], query) - norm
            for item in range(n_fresh):
                entry = as_entry(np.int64(bits[item]), fresh[item])
                if size < ef_search:
                    size += 1
                elif entry >= candidates[size - 1]:
                    continue
                current = min(current, put(candidates, size, entry))
            while current < size and candidates[current] & 1:
                current += 1
            if current == size:
                break
            node = (candidates[current] & 0xFFFFFFFF) >> 1
            candidates[current] |= 1
            n_fresh = meet(edges, starts[node], starts[node + 1], visited, visit, fresh, 0)
        if n_coded:
            for slot in range(size):
                prefetch_row(rows, indexed[(candidates[slot] & 0xFFFFFFFF) >> 1])
            for slot in range(size):
                node = (candidates[slot] & 0xFFFFFFFF) >> 1
                between[0] = squared_distance(rows, indexed[node], query)
                put(candidates, slot + 1, as_entry(np.int64(bits[0]), node))
        for slot in range(min(size, k)):
            found[row, slot] = (candidates[slot] & 0xFFFFFFFF) >> 1
            bits[0] = candidates[slot] >> 32
            squares[row, slot] = between[0]
