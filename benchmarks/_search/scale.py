"""What 100 million rows would cost: computed from the slopes of cells, and checked by simulation.

Random codes take the time of any others, so that a gallery of 100 million of them is made and
searched at its full size, beside what the slope says.
"""

import math
import tempfile
from functools import lru_cache

import external
import numpy as np
from sklearn import config_context

from _search import codes
from _search.data import clustered
from _search.timing import compare
from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.codes import hamming_top_k

N = 100_000_000
MACHINE_GIB = 256
USABLE = 0.8  # of a machine's memory
DISK = 2e9  # bytes per second that a fast disk gives
D, MEASURED = 512, 60_000  # of the floats whose slopes are taken
BITS, CODES = (64, 128, 256), 1_000_000  # and of the codes
HELD = 16  # bytes per row that a retriever keeps of rows on a server


def run(cells, options):
    if not options.quick:
        for batch in (1, 100):
            for storage in ("copy", "float16"):
                name = f"{storage} {MEASURED} x {D}, {batch} queries"
                cells.run(name, measure_stored, storage, batch, options)
            for bits in BITS:
                cells.run(
                    _codes(CODES, bits, batch), codes.measure, CODES, bits, batch, 10, options
                )
                cells.run(_codes(N, bits, batch), measure_codes, bits, batch, options)
        for kind, width in (("bits", 64), ("numbers", D)):
            cells.run(f"milvus {width} {kind}", measure_milvus, width, kind)
    return f"{table(cells.cells)}\n\n{simulated(cells.cells)}"


def _codes(n, bits, batch):
    return f"codes {n} x {bits}, {batch} queries, k 10"


@lru_cache(maxsize=1)
def _random_codes(bits):
    words = np.random.default_rng(0).integers(2**64, size=(bits // 64, N), dtype=np.uint64)
    return words.T  # word by word, as they are searched


def measure_codes(bits, n_queries, options):
    gallery = _random_codes(bits)
    queries = np.random.default_rng(1).integers(2**64, size=(n_queries, bits // 64), dtype="u8")
    return compare({"ours": lambda: hamming_top_k(queries, gallery, 10)}, options)


def measure_milvus(width, kind):
    """Return the numbers of a gallery on a milvus-lite server."""
    with tempfile.TemporaryDirectory() as folder:
        process, uri = external.start_server(folder)
        try:
            return external.run_cell("server", uri, MEASURED, width, kind)
        finally:
            process.kill()
            process.wait()


def measure_stored(storage, n_queries, options):
    gallery, queries = clustered(MEASURED, D)
    retriever = NeighborsRetriever(storage=storage, algorithm="exact").fit(gallery)
    queries = queries[:n_queries]
    # Little memory for one query: no copy in bytes, which 100 million rows do not get.
    few = 16 if storage == "copy" and n_queries == 1 else None
    with config_context(working_memory=few):
        return compare({"ours": lambda: retriever.kneighbors(queries)}, options)


def table(cells):
    lines = [
        "| gallery | engine | memory, GiB | machines | one query, s | of 100, s each | build, h |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = [*code_rows(cells), *float_rows(cells), *milvus_rows(cells)]
    for gallery, engine, n_bytes, one, many, build in rows:
        gib = n_bytes * N / 2**30
        machines = math.ceil(gib / (USABLE * MACHINE_GIB))
        numbers = [_shown(value) for value in (one, many, build)]
        lines.append(f"| {gallery} | {engine} | {gib:.1f} | {machines} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def simulated(cells):
    """Codes at full size: what the slope says, and what was measured."""
    lines = [
        "| random codes | one query, s: slope | measured | of 100, s each: slope | measured |",
        "|---|---|---|---|---|",
    ]
    for bits in BITS:
        slope = _per_query(cells, _codes(CODES, bits, "{}"), CODES)
        found = _per_query(cells, _codes(N, bits, "{}"), N)
        numbers = [_shown(value) for pair in zip(slope, found) for value in pair]
        lines.append(f"| {bits} bits | {' | '.join(numbers)} |")
    return "\n".join(lines)


def code_rows(cells):
    """Codes: compared one by one, so that time grows with their number."""
    for bits in BITS:
        times = _per_query(cells, _codes(CODES, bits, "{}"), CODES)
        yield f"{bits}-bit codes", '`"exact"`', bits / 8, *times, None


def milvus_rows(cells):
    """Rows on a server, which compares all of them."""
    for kind, width, gallery, n_bytes in (
        ("bits", 64, "64-bit codes", 8),
        ("numbers", D, f"{D} numbers", 4 * D),
    ):
        cell = cells.get(f"milvus {width} {kind}")
        if cell is not None:
            one, many = (cell[name] / 1e3 * N / MEASURED for name in ("ms_1", "ms_100"))
            build = N / cell["rows_per_second"] / 3600
            yield gallery, '`"milvus"`', n_bytes + HELD, one, many / 100, build


def float_rows(cells):
    """512 numbers: what compares all rows grows with them, a graph with their logarithm."""
    gallery = f"{D} numbers"
    name = f"{MEASURED} x {D}"
    exact = _per_query(cells, f"copy {name}, {{}} queries", MEASURED)
    yield gallery, '`"exact"`', 4 * D, *exact, None
    half = _per_query(cells, f"float16 {name}, {{}} queries", MEASURED)
    yield gallery, '`"exact"`, `storage="float16"`', 2 * D, *half, None
    read = 4 * D * N / DISK  # once for up to 1,024 queries; 12 bytes of norms stay in memory
    many = None if exact[1] is None else max(read / 100, exact[1])
    yield gallery, '`"exact"`, `storage="memory_map"`', 12, read, many, None
    found = cells.get(f"approximate clusters {name}", {}).get("engines", {})
    steps = math.log(N) / math.log(MEASURED)
    # Beside the rows: some 22 links; or the rows once more in the index, and 32 links.
    for engine, measured, more in (
        ("nndescent", "ours, nndescent", 24 * 4),
        ("faiss", "faiss HNSW", 4 * D + 34 * 4),
    ):
        if measured in found:
            query = found[measured]["us_per_query"] / 1e6 * steps
            build = found[measured]["build_s"] / 3600 * N / MEASURED * steps
            yield gallery, f'`"{engine}"`', 4 * D + more, query, query, build


def _per_query(cells, name, n):
    """Return seconds per query, asked alone and of a hundred, for N rows."""
    found = [(cells.get(name.format(batch)), batch) for batch in (1, 100)]
    return [
        None if cell is None else cell["ms"]["ours"] / 1e3 / batch * N / n for cell, batch in found
    ]


def _shown(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
