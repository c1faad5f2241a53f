"""What adding rows to a graph one by one takes, beside hnswlib, and what is found then.

    python benchmarks/adding.py [--rows 100000] [--add 10000] [--columns 128 512]

Both have one thread and take the same rows in turns, a hundred at a time. Times are milliseconds of
processor time per row, without the first call, which loads what is compiled. After half of the
rows, a hundred old ones are removed here. Recall is that of 10 neighbors of 1,000 rows of the
gallery, old and new, against an exact search.
"""

import argparse
import os
import time

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is imported

import hnswlib
import numpy as np

from sklearn_cbir import NeighborsRetriever

IN_TURN, N_QUERIES, N_REMOVED = 100, 1000, 100
DATA = {
    # Components that fall off as those of photos do, and no clusters, which is hard to search.
    "spectrum": lambda rng, n, d: rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.5,
    "clusters": lambda rng, n, d: (
        np.random.default_rng(9).normal(size=(300, d))[rng.integers(300, size=n)]
        + 0.3 * rng.normal(size=(n, d))
    ),
}


def unit_rows(kind, n, n_columns):
    rows = DATA[kind](np.random.default_rng(0), n, n_columns).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(action, row):
    start = time.process_time()
    action(row)
    return (time.process_time() - start) * 1e3


def recall(retriever, ids):
    engine = retriever._gallery.engine
    queries = retriever.rows(ids)
    found = engine.query(engine.encode(queries), 11)[1]
    expected = engine.exact.query(engine.encode(queries), 11)[1]
    return np.mean([len(set(a) & set(b)) - 1 for a, b in zip(found, expected)]) / 10


def measure(kind, n_columns, options):
    n, n_more = options.rows, options.add
    rows = unit_rows(kind, n + n_more, n_columns)
    retriever = NeighborsRetriever(10, algorithm="nndescent", n_jobs=1, random_state=0)
    retriever.fit(rows[:n])
    peer = hnswlib.Index("l2", n_columns)
    peer.init_index(n + n_more, M=16, ef_construction=100)
    peer.set_num_threads(1)
    peer.add_items(rows[:n])
    fitted, ours, theirs, rng = retriever.recall_, [], [], np.random.default_rng(1)
    for start in range(n, n + n_more, IN_TURN):
        one_by_one = np.split(rows[start : start + IN_TURN], len(rows[start : start + IN_TURN]))
        ours += [timed(retriever.partial_fit, row) for row in one_by_one]
        theirs += [timed(peer.add_items, row) for row in one_by_one]
        if start == n + n_more // 2:
            retriever.remove(rng.choice(n, N_REMOVED, replace=False))
    first, *ours = ours
    ids = retriever.ids_
    old, new = (rng.permutation(of)[:N_QUERIES] for of in (ids[ids < n], ids[ids >= n]))
    recalls = [recall(retriever, ids) for ids in (old, new)]
    peers = np.median(theirs), np.quantile(theirs, 0.999), sum(theirs) / 1e3
    mine = np.median(ours), np.quantile(ours, 0.999), max(ours), sum(ours) / 1e3
    print(
        f"| {kind} {n:,} + {n_more:,} x {n_columns} | {first:.0f} | {mine[0]:.2f} | "
        f"{mine[1]:.2f} | {mine[2]:.1f} | {mine[3]:.1f} | {peers[0]:.2f} | {peers[1]:.2f} | "
        f"{peers[2]:.1f} | {mine[3] / peers[2]:.2f} | {recalls[0]:.3f} | {recalls[1]:.3f} | "
        f"{fitted:.3f}, {retriever.recall_:.3f} |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--add", type=int, default=10_000)
    parser.add_argument("--columns", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    options = parser.parse_args()
    print(
        "| rows | first | median | 99.9 % | largest | total s | hnswlib: median | 99.9 % | total s "
        "| ratio of totals | recall of old | of new | `recall_` before, after |"
    )
    print("|---" * 13 + "|")
    for n_columns in options.columns:
        for kind in options.data:
            measure(kind, n_columns, options)


if __name__ == "__main__":
    main()
