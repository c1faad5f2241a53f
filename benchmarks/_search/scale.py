"""What 100 million rows would cost: computed from the slopes of the other tasks' cells."""

import math

from _search.data import clustered
from _search.timing import compare
from sklearn_cbir import NeighborsRetriever

N = 100_000_000
MACHINE_GIB = 256
USABLE = 0.8  # of a machine's memory
DISK = 2e9  # bytes per second that a fast disk gives
D, MEASURED = 512, 60_000  # of the floats whose slopes are taken


def run(cells, options):
    if not options.quick:
        for batch in (1, 100):
            cells.run(f"float16 {MEASURED} x {D}, {batch} queries", measure_half, batch, options)
    return table(cells.cells)


def measure_half(n_queries, options):
    gallery, queries = clustered(MEASURED, D)
    retriever = NeighborsRetriever(storage="float16", algorithm="exact").fit(gallery)
    queries = queries[:n_queries]
    return compare({"ours": lambda: retriever.kneighbors(queries)}, options)


def table(cells):
    lines = [
        "| gallery | engine | memory, GiB | machines | one query, s | of 100, s each | build, h |",
        "|---|---|---|---|---|---|---|",
    ]
    for gallery, engine, n_bytes, one, many, build in [*code_rows(cells), *float_rows(cells)]:
        gib = n_bytes * N / 2**30
        machines = math.ceil(gib / (USABLE * MACHINE_GIB))
        numbers = [_shown(value) for value in (one, many, build)]
        lines.append(f"| {gallery} | {engine} | {gib:.1f} | {machines} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def code_rows(cells):
    """Codes: compared one by one, so that time grows with their number."""
    for bits in (64, 128, 256):
        n = 1_000_000
        times = _per_query(cells, f"codes {n} x {bits}, {{}} queries, k 10", n)
        yield f"{bits}-bit codes", '`"exact"`', bits / 8, *times, None


def float_rows(cells):
    """512 numbers: what compares all rows grows with them, a graph with their logarithm."""
    gallery = f"{D} numbers"
    name = f"{MEASURED} x {D}"
    exact = _per_query(cells, f"floats {name} cosine, {{}} queries, k 10", MEASURED)
    yield gallery, '`"exact"`', 4 * D, *exact, None
    half = _per_query(cells, f"float16 {name}, {{}} queries", MEASURED)
    yield gallery, '`"exact"`, `storage="float16"`', 2 * D, *half, None
    read = 4 * D * N / DISK  # once for up to 1,024 queries; 12 bytes of norms stay in memory
    many = None if exact[1] is None else max(read / 100, exact[1])
    yield gallery, '`"exact"`, `storage="memory_map"`', 12, read, many, None
    found = cells.get(f"approximate clusters {name}", {}).get("engines", {})
    steps = math.log(N) / math.log(MEASURED)
    # One copy of the rows for the exact answers, one in the index, and 30 or 32 links.
    for engine, measured, links in (
        ("nndescent", "ours, nndescent", 30 * 12),
        ("faiss", "faiss HNSW", 34 * 4),
    ):
        if measured in found:
            query = found[measured]["us_per_query"] / 1e6 * steps
            build = found[measured]["build_s"] / 3600 * N / MEASURED * steps
            yield gallery, f'`"{engine}"`', 2 * 4 * D + links, query, query, build


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
