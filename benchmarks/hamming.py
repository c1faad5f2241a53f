"""Exact search and scoring of codes beside other ways: ratios of medians in one run.

    python benchmarks/hamming.py [--quick] [--wall] [--repeats 5]

Three tables: `hamming_top_k` against `faiss.IndexBinaryFlat` (needs `pip install faiss-cpu`); mean
average precision of codes against a matrix with argsort and against scikit-learn's; and of floats
against an argsort loop. One thread each and processor time, which other work on the machine
disturbs least; `--wall` takes all threads and wall time.
"""

import argparse
import itertools
import os
import time

import numpy as np
from sklearn.metrics import average_precision_score

from sklearn_cbir.codes import hamming_top_k, pack_codes
from sklearn_cbir.metrics import hamming_mean_average_precision, mean_average_precision

GALLERIES = [(10_000, 48), (10_000, 64), (60_000, 48), (60_000, 64), (60_000, 128), (60_000, 256)]
LARGE = [(1_000_000, 48), (1_000_000, 64), (1_000_000, 128), (1_000_000, 256)]
N_CLASSES = 10


def medians(routines, repeats, clock):
    """Median seconds of each routine, called in turns."""
    times = {name: [] for name in routines}
    for routine in routines.values():
        routine()
    for _ in range(repeats):
        for name, routine in routines.items():
            start = clock()
            routine()
            times[name].append(clock() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def time_search(gallery, queries, k, repeats, clock):
    """Median seconds of one search by us and by faiss."""
    import faiss

    index = faiss.IndexBinaryFlat(gallery.shape[1])
    index.add(np.packbits(gallery, axis=1, bitorder="little"))
    as_bytes = np.packbits(queries, axis=1, bitorder="little")
    packed_gallery, packed = pack_codes(gallery), pack_codes(queries)
    # Short calls many times over: a clock tick is longer than one of them.
    calls = range(max(1, int(2e6 / (len(gallery) * len(queries)))))
    routines = {
        "ours": lambda: [hamming_top_k(packed, packed_gallery, k) for _ in calls],
        "faiss": lambda: [index.search(as_bytes, k) for _ in calls],
    }
    seconds = medians(routines, repeats, clock)
    return seconds["ours"] / len(calls), seconds["faiss"] / len(calls)


def search_table(galleries, repeats, clock, wall):
    import faiss

    if not wall:
        faiss.omp_set_num_threads(1)
    print(
        "| codes | bits | queries | k | ours ms | faiss ms | ratio |\n|---|---|---|---|---|---|---|"
    )
    ratios = []
    rng = np.random.default_rng(0)
    for n, n_bits in galleries:
        gallery = rng.integers(0, 2, (n, n_bits), dtype=np.uint8)
        queries = rng.integers(0, 2, (1000, n_bits), dtype=np.uint8)
        for n_queries, k in itertools.product((1, 100, 1000), (10, 100)):
            ours, theirs = time_search(gallery, queries[:n_queries], k, repeats, clock)
            ratios.append(ours / theirs)
            print(
                f"| {n:,} | {n_bits} | {n_queries} | {k} | {ours * 1e3:.3f} | {theirs * 1e3:.3f} "
                f"| {ratios[-1]:.2f} |",
                flush=True,
            )
    mean = float(np.exp(np.log(ratios).mean()))
    print(f"\ngeometric mean {mean:.2f}, largest {max(ratios):.2f}, {len(ratios)} cells\n")


def average_precisions(y_queries, y_gallery, distances):
    """Rank by argsort, as evaluation scripts of hashing papers do."""
    values = []
    for label, row in zip(y_queries, distances):
        ranks = np.flatnonzero((y_gallery == label)[np.argsort(row)]) + 1
        values.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return np.mean(values)


def print_per_query(rows):
    """Print the time of each routine per query, and relative to the first."""
    print("| routine | queries timed | us per query | ours / it |\n|---|---|---|---|")
    times = {name: seconds / n * 1e6 for name, (seconds, n) in rows.items()}
    for name, (_, n) in rows.items():
        print(f"| {name} | {n} | {times[name]:.1f} | {times['ours'] / times[name]:.3f} |")
    print()


def code_scoring_table(n_queries, n_gallery, repeats, clock):
    rng = np.random.default_rng(0)
    y_queries, y_gallery = (rng.integers(0, N_CLASSES, n) for n in (n_queries, n_gallery))
    words = rng.integers(0, 2, (N_CLASSES, 48), dtype=np.uint8)
    queries, gallery = (
        words[y] ^ (rng.random((len(y), 48)) < 0.3).astype(np.uint8) for y in (y_queries, y_gallery)
    )
    few, fewer = min(n_queries, 200), min(n_queries, 40)
    signs, gallery_signs = (2.0 * codes - 1 for codes in (queries, gallery))

    def by_argsort():
        distances = (48 - signs[:few] @ gallery_signs.T) / 2
        average_precisions(y_queries[:few], y_gallery, distances)

    def by_scikit_learn():
        distances = (48 - signs[:fewer] @ gallery_signs.T) / 2
        for label, row in zip(y_queries, distances):
            average_precision_score(y_gallery == label, -row)

    routines = {
        "ours": lambda: hamming_mean_average_precision(y_queries, y_gallery, queries, gallery),
        "matrix and argsort": by_argsort,
        "average_precision_score": by_scikit_learn,
    }
    seconds = medians(routines, repeats, clock)
    print(f"mAP of {n_queries:,} queries on {n_gallery:,} codes of 48 bits\n")
    print_per_query(dict(zip(seconds, zip(seconds.values(), (n_queries, few, fewer)))))


def float_scoring_table(n_queries, n_gallery, repeats, clock):
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
    seconds = medians(routines, repeats, clock)
    print(f"mAP of {n_queries:,} queries on {n_gallery:,} rows of 512 floats, products included\n")
    print_per_query({name: (value, n_queries) for name, value in seconds.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller galleries, fewer queries")
    parser.add_argument("--wall", action="store_true", help="all threads and wall time")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if not arguments.wall:
        os.environ["OMP_NUM_THREADS"] = "1"
    clock = time.perf_counter if arguments.wall else time.process_time
    n_queries, n_gallery = (1_000, 10_000) if arguments.quick else (10_000, 50_000)
    code_scoring_table(n_queries, n_gallery, arguments.repeats, clock)
    float_scoring_table(n_queries // 10, n_gallery, arguments.repeats, clock)
    galleries = GALLERIES[:3] if arguments.quick else GALLERIES + LARGE
    try:
        search_table(galleries, arguments.repeats, clock, arguments.wall)
    except ImportError:
        print("Searching is compared with faiss, which is not installed: pip install faiss-cpu")


if __name__ == "__main__":
    main()
