"""What a gallery outside the process costs: exact search in memory, a milvus file, a server.

    python benchmarks/external.py [--rows 10000 60000] [--features 64 512] [--uri URI]

Without --uri, a milvus-lite server is started on this machine. Every cell runs in a process of
its own: rows that are taken in per second, milliseconds per call of `kneighbors` with 1 and with
100 queries (k = 10, cosine), and what the gallery adds to the memory of the process.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import _milvus_client

ENGINES = ("memory", "file", "server")


def resident():
    """Return the memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def make_rows(n, d, seed):
    """Return rows around 100 centers."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(1).normal(size=(100, d))
    rows = rng.normal(size=(n, d)).astype(np.float32)
    return rows + centers[rng.integers(100, size=n)].astype(np.float32)


def milliseconds(retriever, queries, repeats):
    """Return the median time of a call."""
    retriever.kneighbors(queries)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        retriever.kneighbors(queries)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def measure(uri, n, d):
    """Return the numbers of one cell."""
    external = {"algorithm": "milvus", "uri": uri} if uri else {"algorithm": "exact"}
    retriever = NeighborsRetriever(10, **external)
    queries = make_rows(100, d, seed=2)
    NeighborsRetriever(10, **external).fit(queries).kneighbors(queries)  # imports and connects
    before = resident()
    rows = make_rows(n, d, seed=0)
    start = time.perf_counter()
    retriever.fit(rows)
    taken = time.perf_counter() - start
    del rows
    return {
        "rows_per_second": n / taken,
        "ms_1": milliseconds(retriever, queries[:1], 15),
        "ms_100": milliseconds(retriever, queries, 5),
        "mb": resident() - before,
    }


def start_server(folder):
    """Start a milvus-lite server; return its process and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [Path(sys.executable).with_name("milvus-lite"), "server", "--data-dir", folder]
    process = subprocess.Popen(
        [*command, "--port", port, "--host", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    uri = f"http://127.0.0.1:{port}"
    _milvus_client.call(uri, "list_collections", doing="waiting", patience=60)
    return process, uri


def run_cell(engine, uri, n, d):
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        uri = {"memory": "", "file": str(Path(folder, "gallery.db")), "server": uri}[engine]
        command = [sys.executable, __file__, "--cell", uri, str(n), str(d)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 60_000])
    parser.add_argument("--features", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--uri", help="address of a server to measure instead")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(measure(args.cell[0], int(args.cell[1]), int(args.cell[2]))))
        return
    print("| rows | features | gallery in | rows/s taken in | ms, 1 query | ms, 100 queries | MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        process, uri = (None, args.uri) if args.uri else start_server(folder)
        try:
            for d in args.features:
                for n in args.rows:
                    for engine in args.engines:
                        cell = run_cell(engine, uri, n, d)
                        numbers = "{rows_per_second:,.0f} | {ms_1:.1f} | {ms_100:.0f} | {mb:.0f}"
                        print(f"| {n:,} | {d} | {engine} | {numbers.format(**cell)} |", flush=True)
        finally:
            if process is not None:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
