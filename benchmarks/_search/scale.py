"""What 100 million rows would cost: computed from the slopes of the other tasks' cells."""

import math

N = 100_000_000
MACHINE_GIB = 256
USABLE = 0.8  # of a machine's memory


def run(cells, options):
    return table(cells.cells)


def table(cells):
    rows = [*code_rows(cells), *float_rows(cells)]
    lines = [
        "| gallery | engine | memory, GiB | machines | one query, ms "
        "| of 100, ms each | build, h |",
        "|---|---|---|---|---|---|---|",
    ]
    for gallery, engine, n_bytes, one, many, build in rows:
        gib = n_bytes * N / 2**30
        machines = math.ceil(gib / (USABLE * MACHINE_GIB))
        numbers = [_shown(value) for value in (one, many, build)]
        lines.append(f"| {gallery} | {engine} | {gib:.1f} | {machines} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def code_rows(cells):
    """Codes: compared one by one, so that time grows with their number."""
    for bits in (64, 128, 256):
        times = []
        for batch in (1, 100):
            cell = cells.get(f"codes 1000000 x {bits}, {batch} queries, k 10")
            times.append(None if cell is None else cell["ms"]["ours"] / batch * N / 1e6)
        yield f"{bits}-bit codes", '`"exact"`', bits / 8, *times, None


def float_rows(cells):
    """512 numbers: exact search grows with the rows, lists with their root, graphs with the log."""
    gallery, d, n = "512 numbers", 512, 60_000
    exact = []
    for batch in (1, 100):
        cell = cells.get(f"floats {n} x {d} cosine, {batch} queries, k 10")
        exact.append(None if cell is None else cell["ms"]["ours"] / batch * N / n)
    yield gallery, '`"exact"`', 4 * d, *exact, None
    yield gallery, '`"exact"`, `storage="float16"`', 2 * d, None, None, None
    cell = cells.get(f"approximate clusters {n} x {d}")
    found = {} if cell is None else cell["engines"]
    more_log = math.log(N) / math.log(n)
    # One copy of the rows is searched exactly, the index holds another.
    for engine, links, time, build in (
        ("nndescent", 30 * 12, more_log, N / n * more_log),
        ("faiss", 8, math.sqrt(N / n), (N / n) ** 1.5),
    ):
        ours = found.get(f"ours, {engine}")
        if ours is not None:
            yield (
                gallery,
                f'`"{engine}"`',
                2 * 4 * d + links,
                None,
                ours["us_per_query"] / 1e3 * time,
                ours["build_s"] / 3600 * build,
            )


def _shown(value):
    if value is None:
        return ""
    return f"{value:,.1f}" if value >= 0.1 else f"{value:.3f}"
