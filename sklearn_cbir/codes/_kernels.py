"""Compiled loops over packed codes; imported when first needed.

Galleries come word by word, shape (n_words, n), so that neighboring items lie side by side. Some
loops take `left_in`, one bit for each item that may be found, `LANES` to a word, from the lowest,
or `bools`, one byte for each, of which only those of near items are read, unless few are set: then
only the codes of those are. Without them all items may be found, and nothing looks at them.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sklearn_cbir._compiled import compiled, inlined

LANES = 64  # items per step of the search; one bit of a word each
LINE = 8  # words that memory gives at once
AHEAD = 512  # items between those that are asked for and those that are compared
BOOLS_AHEAD = 2048  # the same of bools, of which an eighth as many bytes pass
SAMPLED = 64  # places where bools are looked at, to say whether few are set
CAPACITY_OF_FEW = 16  # items for each that may be listed
SHARE_OF_FEW = 1 / 50  # so that hardly ever more than 4 of `LANES` are
ONCE, OFTEN = 0, 3  # what a cache is told of a line
TILE = 2048  # items that stay in the first-level cache while a block of queries passes over them
QUERIES = 64  # queries that share a tile
CANDIDATES = 2**20  # candidates (12 bytes) of all of them


@intrinsic
def popcount(typing_context, word):
    """Count the ones of a 64-bit word."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def trailing_zeros(typing_context, word):
    """Return the position of the lowest one of a 64-bit word that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def nearer_lanes(typing_context, gallery, item, queries, query, limit):
    """Say by one bit each which of `LANES` items, from `item` on, are nearer than `limit`.

    Written as vector instructions: from a loop, numba does not make a mask.
    """

    def generate(context, builder, signature, arguments):
        gallery_type, _, queries_type, _, _ = signature.args
        gallery = context.make_array(gallery_type)(context, builder, arguments[0])
        queries = context.make_array(queries_type)(context, builder, arguments[2])
        _, item, _, query, limit = arguments
        n_words, n = cgutils.unpack_tuple(builder, gallery.shape, 2)
        word = ir.IntType(64)
        vector = ir.VectorType(word, LANES)
        undefined = ir.Constant(vector, ir.Undefined)
        lanes = ir.VectorType(ir.IntType(32), LANES)
        count_ones = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), f"llvm.ctpop.v{LANES}i64"
        )

        def spread(value):
            first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(first, undefined, ir.Constant(lanes, [0] * LANES))

        before = builder.block
        loop = builder.append_basic_block("word")
        after = builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(item.type)
        distances = builder.phi(vector)
        start = builder.add(builder.mul(index, n), item)
        place = builder.gep(gallery.data, [start])
        items = builder.load(builder.bitcast(place, vector.as_pointer()), align=8)
        place = builder.add(builder.mul(query, n_words), index)
        bits = builder.xor(items, spread(builder.load(builder.gep(queries.data, [place]))))
        longer = builder.add(distances, builder.call(count_ones, [bits]))
        next_index = builder.add(index, ir.Constant(item.type, 1))
        for value, first, following in (
            (index, ir.Constant(item.type, 0), next_index),
            (distances, ir.Constant(vector, [0] * LANES), longer),
        ):
            value.add_incoming(first, before)
            value.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", next_index, n_words), loop, after)
        builder.position_at_end(after)
        return builder.bitcast(builder.icmp_unsigned("<", longer, spread(limit)), word)

    return types.uint64(gallery, types.intp, queries, types.intp, types.uint64), generate


def call_prefetch(builder, place, keep):
    """Write the instruction that asks memory for what is at a place, to be kept from 0 to 3."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    prefetch = builder.module.declare_intrinsic(
        "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    )
    read, keep, data = (ir.Constant(flag, value) for value in (0, keep, 1))
    builder.call(prefetch, [builder.bitcast(place, byte), read, keep, data])


@intrinsic
def prefetch_lanes(typing_context, gallery, item):
    """Ask memory for `LANES` items from `item` on; beyond the gallery this does nothing.

    One query passes over the gallery as fast as memory gives it. Processors foresee one stream
    of addresses better than one for each word, so that without this longer codes would wait.
    """

    def generate(context, builder, signature, arguments):
        gallery_type, _ = signature.args
        gallery = context.make_array(gallery_type)(context, builder, arguments[0])
        item = arguments[1]
        n_words, n = cgutils.unpack_tuple(builder, gallery.shape, 2)
        with cgutils.for_range(builder, n_words) as loop:
            start = builder.add(builder.mul(loop.index, n), item)
            for line in range(0, LANES, LINE):
                place = builder.add(start, ir.Constant(item.type, line))
                call_prefetch(builder, builder.gep(gallery.data, [place]), ONCE)
        return context.get_dummy_value()

    return types.none(gallery, types.intp), generate


@intrinsic
def prefetch_bools(typing_context, bools, item):
    """Ask memory for the bytes of `LANES` items from `item` on."""

    def generate(context, builder, signature, arguments):
        bools = context.make_array(signature.args[0])(context, builder, arguments[0])
        call_prefetch(builder, builder.gep(bools.data, [arguments[1]]), OFTEN)
        return context.get_dummy_value()

    return types.none(bools, types.intp), generate


@intrinsic
def lanes_of_bools(typing_context, bools, item):
    """Say by one bit each which of `LANES` bytes, from `item` on, are not 0."""

    def generate(context, builder, signature, arguments):
        bools_type, _ = signature.args
        bools = context.make_array(bools_type)(context, builder, arguments[0])
        vector = ir.VectorType(ir.IntType(8), LANES)
        place = builder.bitcast(builder.gep(bools.data, [arguments[1]]), vector.as_pointer())
        zero = ir.Constant(vector, [0] * LANES)
        is_set = builder.icmp_unsigned("!=", builder.load(place, align=1), zero)
        return builder.bitcast(is_set, ir.IntType(64))

    return types.uint64(bools, types.intp), generate


@inlined
def distance(queries, query, gallery, item):
    """Count the bits in which one query and one item differ."""
    count = 0
    for word in range(gallery.shape[0]):
        count += popcount(queries[query, word] ^ gallery[word, item])
    return count


@inlined
def nearer_items(gallery, item, stop, queries, query, limit):
    """Say by one bit each which of up to `LANES` items before `stop` are nearer than `limit`."""
    if item + LANES <= stop:
        return nearer_lanes(gallery, item, queries, query, np.uint64(limit))
    mask = np.uint64(0)
    for lane in range(stop - item):
        if distance(queries, query, gallery, item + lane) < limit:
            mask |= np.uint64(1) << np.uint64(lane)
    return mask


@inlined
def items_left_in(bools, item, stop):
    """Say by one bit each which of up to `LANES` items before `stop` have a byte that is not 0."""
    if item + LANES <= stop:
        return lanes_of_bools(bools, item)
    mask = np.uint64(0)
    for lane in range(stop - item):
        mask |= np.uint64(bools[item + lane] != 0) << np.uint64(lane)
    return mask


@inlined
def are_few_left_in(bools, begin, end):
    """Say whether few of the items from `begin` to `end` are left in, by a sample of them."""
    step = max((end - begin) // (SAMPLED * LANES), 1) * LANES
    n_seen = n_left = 0
    for item in range(begin, end, step):
        n_left += popcount(items_left_in(bools, item, end))
        n_seen += LANES
    return n_left <= SHARE_OF_FEW * n_seen


@inlined
def list_left_in(bools, start, stop, listed):
    """Write the items of a tile that are left in; return how many.

    Four of `LANES` are written whether or not so many are set: processors do not foresee it.
    """
    n = 0
    for item in range(start, stop, LANES):
        mask = items_left_in(bools, item, stop)
        n_set = popcount(mask)
        for place in range(4):
            listed[n + place] = item + trailing_zeros(mask)
            mask &= mask - np.uint64(1)
        for place in range(4, n_set):
            listed[n + place] = item + trailing_zeros(mask)
            mask &= mask - np.uint64(1)
        n += n_set
    return n


@compiled
def drop_far(items, distances, size, limit):
    """Keep the candidates within `limit`, in order; return how many."""
    kept = 0
    for place in range(size):
        if distances[place] <= limit:
            items[kept] = items[place]
            distances[kept] = distances[place]
            kept += 1
    return kept


@compiled
def write_nearest(items, distances, size, limit, counts, k, found_distances, found_items):
    """Write the k nearest of candidates by counting, those further than `limit` apart.

    `counts` are how many candidates have each distance; they are used up.
    """
    place = 0
    for far in range(limit + 1):
        place, counts[far] = place + counts[far], place
    for candidate in range(size):
        far = distances[candidate]
        if far <= limit:
            place = counts[far]
            counts[far] += 1
            if place < k:
                found_distances[place] = far
                found_items[place] = items[candidate]


@compiled
def top_k_of_few(queries, gallery, k, begin, end, found_distances, found_items, bools):
    """Answer `top_k` for one query, if few items are left in; say whether they are."""
    if len(queries) > 1 or not are_few_left_in(bools, begin, end):
        return False
    capacity = (end - begin) // CAPACITY_OF_FEW + LANES
    listed = np.empty(TILE + LANES, np.int64)
    items = np.empty(capacity, np.int64)
    distances = np.empty(capacity, np.int32)
    counts = np.zeros(64 * len(gallery) + 1, np.int64)
    size = 0
    for start in range(begin, end, TILE):
        n_listed = list_left_in(bools, start, min(start + TILE, end), listed)
        if size + n_listed > capacity:
            return False
        for place in range(n_listed):
            far = distance(queries, 0, gallery, listed[place])
            items[size] = listed[place]
            distances[size] = far
            counts[far] += 1
            size += 1
    write_nearest(
        items, distances, size, len(counts) - 1, counts, k, found_distances[0], found_items[0]
    )
    return True


@compiled
def top_k(queries, gallery, k, begin, end, found_distances, found_items, left_in=None, bools=None):
    """Write the k nearest of the items from `begin` to `end`, by distance and then by position.

    Fewer are written if fewer are left in; `begin` is then a multiple of `LANES`.

    Per query, `limit` is the distance below which an item still changes the result: fewer than
    k items lie below it (`n_below`), at least k lie below or on it. Items come in order of their
    position, so one on the limit never displaces another.
    """
    n_words, n_queries = len(gallery), len(queries)
    if bools is not None and top_k_of_few(
        queries, gallery, k, begin, end, found_distances, found_items, bools
    ):
        return
    capacity = min(4 * k, end - begin)  # at most 2 k candidates are ever within the limit
    n_rows = max(1, min(QUERIES, n_queries, CANDIDATES // capacity))
    items = np.empty((n_rows, capacity), np.int64)
    distances = np.empty((n_rows, capacity), np.int32)
    counts = np.empty((n_rows, 64 * n_words + 2), np.int64)
    sizes = np.empty(n_rows, np.int64)
    limits = np.empty(n_rows, np.int64)
    n_below = np.empty(n_rows, np.int64)
    for first in range(0, n_queries, n_rows):
        n_block = min(n_rows, n_queries - first)
        counts[:] = 0
        sizes[:] = 0
        n_below[:] = 0
        limits[:] = 64 * n_words + 1
        for start in range(begin, end, TILE):
            stop = min(start + TILE, end)
            for row in range(n_block):
                limit, size, below = limits[row], sizes[row], n_below[row]
                for item in range(start, stop, LANES):
                    if row == 0:
                        prefetch_lanes(gallery, item + AHEAD)
                    mask = nearer_items(gallery, item, stop, queries, first + row, limit)
                    if left_in is not None:
                        mask &= left_in[item // LANES]
                    if bools is not None and mask:
                        prefetch_bools(bools, item + BOOLS_AHEAD)
                        mask &= items_left_in(bools, item, stop)
                    while mask:
                        candidate = item + trailing_zeros(mask)
                        mask &= mask - np.uint64(1)
                        far = distance(queries, first + row, gallery, candidate)
                        if far >= limit:
                            continue
                        if size == capacity:
                            size = drop_far(items[row], distances[row], size, limit)
                        items[row, size] = candidate
                        distances[row, size] = far
                        size += 1
                        counts[row, far] += 1
                        below += 1
                        while below >= k:
                            limit -= 1
                            below -= counts[row, limit]
                limits[row], sizes[row], n_below[row] = limit, size, below
        for row in range(n_block):
            write_nearest(
                items[row],
                distances[row],
                sizes[row],
                limits[row],
                counts[row],
                k,
                found_distances[first + row],
                found_items[first + row],
            )


@compiled
def count_within(queries, gallery, radius, counts, left_in=None):
    """Write how many items lie within `radius` of every query."""
    n = gallery.shape[1]
    for query in range(len(queries)):
        count = 0
        for item in range(0, n, LANES):
            mask = nearer_items(gallery, item, n, queries, query, radius + 1)
            if left_in is not None:
                mask &= left_in[item // LANES]
            count += popcount(mask)
        counts[query] = count


@compiled
def list_within(queries, gallery, radius, starts, found_distances, found_items, left_in=None):
    """Write the items within `radius` of query i, by position, from ``starts[i]`` on."""
    n = gallery.shape[1]
    for query in range(len(queries)):
        place = starts[query]
        for item in range(0, n, LANES):
            mask = nearer_items(gallery, item, n, queries, query, radius + 1)
            if left_in is not None:
                mask &= left_in[item // LANES]
            while mask:
                candidate = item + trailing_zeros(mask)
                mask &= mask - np.uint64(1)
                found_items[place] = candidate
                found_distances[place] = distance(queries, query, gallery, candidate)
                place += 1


@compiled
def pack_bools(bools, words, n_before):
    """Write one bit per byte that is not 0, and how many there are before each word; return all."""
    n, total = len(bools), 0
    for place in range(len(words)):
        word = items_left_in(bools, place * LANES, n)
        words[place], n_before[place] = word, total
        total += popcount(word)
    return total


@compiled
def measure(queries, query, gallery, start, stop, distances):
    """Write the distances of the items from `start` to `stop`."""
    # Sliced before the loop: indexing from `start` would keep it from being vectorized.
    words = gallery[0, start:stop]
    near = distances[: stop - start]
    mine = queries[query, 0]
    for item in range(stop - start):
        near[item] = popcount(mine ^ words[item])
    for word in range(1, gallery.shape[0]):
        words = gallery[word, start:stop]
        mine = queries[query, word]
        for item in range(stop - start):
            near[item] += popcount(mine ^ words[item])


@compiled
def measure_all(queries, gallery, distances):
    """Write the matrix of distances."""
    for query in range(len(queries)):
        for start in range(0, gallery.shape[1], TILE):
            stop = min(start + TILE, gallery.shape[1])
            measure(queries, query, gallery, start, stop, distances[query, start:stop])


@compiled
def count_distances(queries, query, gallery, start, stop, buffer, counts, total):
    """Add to `total` how many items from `start` to `stop` lie at each distance."""
    counts[:] = 0
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        measure(queries, query, gallery, first, last, buffer)
        n_fours = (last - first) // 4 * 4
        # Four tables: items at one distance would wait for each other's sum.
        for item in range(0, n_fours, 4):
            counts[0, buffer[item]] += 1
            counts[1, buffer[item + 1]] += 1
            counts[2, buffer[item + 2]] += 1
            counts[3, buffer[item + 3]] += 1
        for item in range(n_fours, last - first):
            counts[0, buffer[item]] += 1
    for far in range(counts.shape[1]):
        total[far] += counts[0, far] + counts[1, far] + counts[2, far] + counts[3, far]


def tile_of_distances(gallery):
    """Return where the distances of a tile fit, in as few bytes as hold the longest."""
    longest = 64 * gallery.shape[0]
    return np.empty(TILE, np.uint16 if longest < 2**16 else np.uint32)


def count_by_class(queries, gallery, starts, stops, totals, hits):
    """Count items, and those from ``starts[i]`` to ``stops[i]``, at each distance of query i."""
    buffer = tile_of_distances(gallery)
    fill_by_class(queries, gallery, starts, stops, totals, hits, buffer)


@compiled
def fill_by_class(queries, gallery, starts, stops, totals, hits, buffer):
    """Do the work of `count_by_class`."""
    counts = np.empty((4, totals.shape[1]), np.int32)
    n = gallery.shape[1]
    for query in range(len(queries)):
        count_distances(queries, query, gallery, 0, n, buffer, counts, totals[query])
        start, stop = starts[query], stops[query]
        count_distances(queries, query, gallery, start, stop, buffer, counts, hits[query])


def count_by_labels(queries, gallery, *labels_and_counts):
    """Count items, relevant items and their gains at each distance, and items per shared labels.

    Labels are packed like codes. The arguments are those of `fill_by_labels` without the last.
    """
    arguments = [queries, gallery, *labels_and_counts, tile_of_distances(gallery)]
    fill_by_labels(*arguments)


@compiled
def fill_by_labels(
    queries, gallery, query_labels, gallery_labels, gains, totals, hits, gain, levels, buffer
):
    """Do the work of `count_by_labels`."""
    n = gallery.shape[1]
    found = np.empty((totals.shape[1], levels.shape[1]), np.int64)  # by distance, shared labels
    for query in range(len(queries)):
        found[:] = 0
        for start in range(0, n, TILE):
            stop = min(start + TILE, n)
            measure(queries, query, gallery, start, stop, buffer)
            for item in range(stop - start):
                shared = 0
                for word in range(gallery_labels.shape[0]):
                    shared += popcount(
                        query_labels[query, word] & gallery_labels[word, start + item]
                    )
                found[buffer[item], shared] += 1
        for far in range(len(found)):
            totals[query, far] += found[far, 0]
            for shared in range(1, found.shape[1]):
                n_items = found[far, shared]
                if n_items:
                    totals[query, far] += n_items
                    hits[query, far] += n_items
                    levels[query, shared] += n_items
                    for number in range(len(gains)):
                        gain[query, number, far] += n_items * gains[number, shared]
