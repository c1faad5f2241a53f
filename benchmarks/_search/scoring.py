"""Mean average precision of whole rankings beside what evaluation scripts do."""

import numpy as np
from sklearn.metrics import average_precision_score

from _search.timing import compare
from sklearn_cbir.metrics import hamming_mean_average_precision, mean_average_precision

N_CLASSES = 10
N_BITS = 48
# Slow routines are timed on a part of the queries and scaled.
PART_ARGSORT, PART_SCIKIT_LEARN = 200, 40


def run(cells, options):
    n_queries, n_gallery = (1_000, 10_000) if options.quick else (10_000, 50_000)
    codes = cells.run(
        f"scores of codes {n_queries} x {n_gallery}", measure_codes, n_queries, n_gallery, options
    )
    n_queries = n_queries * 2 // 5
    floats = cells.run(
        f"scores of floats {n_queries} x {n_gallery}", measure_floats, n_queries, n_gallery, options
    )
    return "\n\n".join([table(codes), table(floats)])


def average_precisions(y_queries, y_gallery, distances):
    """Rank by argsort, as evaluation scripts of hashing papers do."""
    values = []
    for label, row in zip(y_queries, distances):
        ranks = np.flatnonzero((y_gallery == label)[np.argsort(row)]) + 1
        values.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return np.mean(values)


def measure_codes(n_queries, n_gallery, options):
    rng = np.random.default_rng(0)
    y_queries, y_gallery = (rng.integers(0, N_CLASSES, n) for n in (n_queries, n_gallery))
    words = rng.integers(0, 2, (N_CLASSES, N_BITS), dtype=np.uint8)
    queries, gallery = (
        words[y] ^ (rng.random((len(y), N_BITS)) < 0.3).astype(np.uint8)
        for y in (y_queries, y_gallery)
    )
    signs, gallery_signs = (2.0 * codes - 1 for codes in (queries, gallery))
    parts = {
        "ours": n_queries,
        "matrix and argsort": PART_ARGSORT,
        "average_precision_score": PART_SCIKIT_LEARN,
    }

    def distances(name):
        return (N_BITS - signs[: parts[name]] @ gallery_signs.T) / 2

    def by_scikit_learn():
        for label, row in zip(y_queries, distances("average_precision_score")):
            average_precision_score(y_gallery == label, -row)

    routines = {
        "ours": lambda: hamming_mean_average_precision(y_queries, y_gallery, queries, gallery),
        "matrix and argsort": lambda: average_precisions(
            y_queries[:PART_ARGSORT], y_gallery, distances("matrix and argsort")
        ),
        "average_precision_score": by_scikit_learn,
    }
    what = f"{n_queries:,} queries on {n_gallery:,} codes of {N_BITS} bits"
    return _per_query(compare(routines, options), parts) | {"what": what}


def measure_floats(n_queries, n_gallery, options):
    rng = np.random.default_rng(0)
    y_queries, y_gallery = (rng.integers(0, N_CLASSES, n) for n in (n_queries, n_gallery))
    centers = rng.normal(size=(N_CLASSES, 512)) / 4
    queries, gallery = (
        (centers[y] + rng.normal(size=(len(y), 512))).astype(np.float32)
        for y in (y_queries, y_gallery)
    )

    class Distances:
        shape = n_queries, n_gallery
        block_size = 100

        def __getitem__(self, rows):
            return -(queries[rows] @ gallery.T)

    def by_argsort():
        for start in range(0, n_queries, 100):
            rows = slice(start, start + 100)
            average_precisions(y_queries[rows], y_gallery, -(queries[rows] @ gallery.T))

    routines = {
        "ours": lambda: mean_average_precision(y_queries, y_gallery, Distances()),
        "argsort loop": by_argsort,
    }
    what = f"{n_queries:,} queries on {n_gallery:,} rows of 512 floats, products included"
    parts = dict.fromkeys(routines, n_queries)
    return _per_query(compare(routines, options), parts) | {"what": what}


def _per_query(result, parts):
    """Turn milliseconds per call into microseconds per query."""
    for kind in ("ms", "wall_ms"):
        times = result.pop(kind)
        result[kind.replace("ms", "us_per_query")] = {
            name: value * 1e3 / parts[name] for name, value in times.items()
        }
    for name in ("ratio", "wall_ratio", "best"):
        result.pop(name)
    return result | {"parts": parts}


def table(result):
    us, wall = result["us_per_query"], result["wall_us_per_query"]
    lines = [
        f"mAP of {result['what']}:",
        "",
        "| routine | queries timed | us per query | ours / it | by the wall |",
        "|---|---|---|---|---|",
    ]
    for name, n_queries in result["parts"].items():
        lines.append(
            f"| {name} | {n_queries:,} | {us[name]:.1f} | {us['ours'] / us[name]:.4f} | "
            f"{wall['ours'] / wall[name]:.4f} |"
        )
    return "\n".join(lines)
