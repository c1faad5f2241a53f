"""The graph over rows in half precision beside the same over single precision.

    OMP_NUM_THREADS=1 python benchmarks/half_graph.py [--n 20000] [--columns 128 512]

Rows are of 100 clusters, under the cosine distance. Times are processor time of one thread,
medians of nine turns, in which the two storages take turns; recall@10 is that of 1,000 queries,
against an exact search over the rows as they were given.
"""

import argparse
import time

import numpy as np

from _search.data import clustered
from sklearn_cbir import NeighborsRetriever

STORAGES = ("copy", "float16")
TURNS, N_ALONE = 9, 200


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--columns", type=int, nargs="+", default=[128, 512])
    options = parser.parse_args()
    print(
        "| rows | storage | bytes per row: rows, codes, edges | recall@10 | us per query | alone |"
    )
    print("|---|---|---|---|---|---|")
    for n_columns in options.columns:
        rows, queries = clustered(options.n, n_columns)
        for storage, cells in compared(rows, queries).items():
            print(f"| {options.n:,} x {n_columns} | {storage} | {' | '.join(cells)} |", flush=True)


def compared(rows, queries):
    """Return the cells of a row of the table for each storage."""
    exact = NeighborsRetriever(10, algorithm="exact").fit(rows)
    expected = exact.kneighbors(queries, return_distance=False)
    graphs = {
        storage: NeighborsRetriever(10, algorithm="nndescent", storage=storage, random_state=0).fit(
            rows
        )
        for storage in STORAGES
    }
    together, alone = ({storage: [] for storage in STORAGES} for _ in range(2))
    for _ in range(TURNS):
        for storage, graph in graphs.items():
            together[storage].append(seconds_per_query(graph, [queries]))
            alone[storage].append(seconds_per_query(graph, np.split(queries[:N_ALONE], N_ALONE)))
    return {
        storage: [
            bytes_of(graph._gallery.engine, rows),
            f"{recall(graph.kneighbors(queries, return_distance=False), expected):.3f}",
            *(f"{1e6 * np.median(of[storage]):.1f}" for of in (together, alone)),
        ]
        for storage, graph in graphs.items()
    }


def seconds_per_query(graph, batches):
    """Return the processor time that a query takes, asked in these batches."""
    started = time.process_time()
    for batch in batches:
        graph.kneighbors(batch)
    return (time.process_time() - started) / sum(map(len, batches))


def recall(found, expected):
    """Return the mean share of the true neighbors that were found."""
    return np.mean([np.isin(*pair).mean() for pair in zip(expected, found)])


def bytes_of(engine, rows):
    """Return the bytes that a row takes, its code, and its edges."""
    graph, n = engine.index, len(rows)
    held = 2 if hasattr(engine.exact, "store") else rows.itemsize
    codes = rows.shape[1] + 4 if graph.n_coded else 0
    edges = (graph.edges.nbytes + graph.starts.nbytes) / n
    return f"{held * rows.shape[1]}, {codes}, {edges:.0f}"


if __name__ == "__main__":
    main()
