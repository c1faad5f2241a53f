"""Exact search of codes beside `faiss.IndexBinaryFlat` and numpy."""

import itertools
from functools import lru_cache

import numpy as np

from _search.timing import compare, geometric_mean, judged_ms
from sklearn_cbir.codes import hamming_top_k, pack_codes

SIZES, BITS, BATCHES, KS = (
    (10_000, 60_000, 1_000_000),
    (48, 64, 128, 256),
    (1, 100, 1000),
    (10, 100),
)
QUICK_SIZES = (10_000, 60_000)
MORE = [(60_000, 64, 100, 1), (60_000, 64, 100, 1000), (60_000, 512, 100, 10)]  # for the plots
PAIRS_FOR_NUMPY = 6_000_000  # it would take longer than all others together


def run(cells, options):
    sizes = QUICK_SIZES if options.quick else SIZES
    settings = list(itertools.product(sizes, BITS, BATCHES, KS)) + MORE
    results = [
        cells.run(f"codes {n} x {bits}, {batch} queries, k {k}", measure, *setting, options)
        for setting in settings
        for n, bits, batch, k in [setting]
    ]
    return table(results[: len(results) - len(MORE)])


@lru_cache(maxsize=1)
def _data(n, n_bits):
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, (n, n_bits), np.uint8), rng.integers(0, 2, (1000, n_bits), np.uint8)


def measure(n, n_bits, n_queries, k, options):
    gallery, queries = _data(n, n_bits)
    packed_gallery, packed = pack_codes(gallery), pack_codes(queries[:n_queries])
    routines = {"ours": lambda: hamming_top_k(packed, packed_gallery, k)}
    if "faiss" in options.peers:
        index = options.peers["faiss"].IndexBinaryFlat(n_bits)
        index.add(np.packbits(gallery, axis=1, bitorder="little"))
        as_bytes = np.packbits(queries[:n_queries], axis=1, bitorder="little")
        routines["faiss"] = lambda: index.search(as_bytes, k)
    if n * n_queries <= PAIRS_FOR_NUMPY:
        by_row = np.ascontiguousarray(packed_gallery)
        routines["numpy"] = lambda: _by_numpy(packed, by_row, k)
    result = compare(routines, options)
    return result | {"n": n, "bits": n_bits, "queries": n_queries, "k": k}


def _by_numpy(queries, gallery, k):
    for query in queries:
        distances = np.bitwise_count(query ^ gallery).sum(axis=1, dtype=np.int32)
        nearest = np.argpartition(distances, k)[:k] if k < len(gallery) else np.arange(k)
        nearest[np.argsort(distances[nearest], kind="stable")]


def table(results):
    lines = [
        "| codes | bits | queries | k | ours ms | faiss ms | numpy ms | ours / best | by wall |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ms = [_shown(judged_ms(result).get(name)) for name in ("ours", "faiss", "numpy")]
        lines.append(
            f"| {result['n']:,} | {result['bits']} | {result['queries']} | {result['k']} | "
            f"{' | '.join(ms)} | {result.get('ratio', '')} | {result.get('wall_ratio', '')} |"
        )
    ratios = [
        judged_ms(result)["ours"] / judged_ms(result)["faiss"]
        for result in results
        if "faiss" in result["ms"]
    ]
    if ratios:
        lines += [
            "",
            f"Against faiss: geometric mean {geometric_mean(ratios):.2f}, largest "
            f"{max(ratios):.2f}, {sum(ratio > 1 for ratio in ratios)} of {len(ratios)} cells "
            "above 1.",
        ]
    return "\n".join(lines)


def _shown(milliseconds):
    return "" if milliseconds is None else f"{milliseconds:.3f}"
