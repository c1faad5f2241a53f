"""What a gallery outside the process costs: exact search in memory, a milvus file, a server.

    python benchmarks/external.py [--rows 10000 60000] [--features 64 512] [--bits 64] [--uri URI]

Without --uri, a milvus-lite server is started on this machine. Every cell runs in a process of
its own: rows that are taken in per second, milliseconds per call of `kneighbors` with 1 and with
100 queries (k = 10; cosine for features, Hamming for bits), what the gallery adds to the memory of
the process, and the seconds that another process needs to load it and to answer its first query.
Below the table: how many queries a process may ask before loading the gallery into its memory
would have been faster, on the straight lines through the smallest and the largest gallery.
"""

import argparse
import json
import os
import pickle
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
EXTRAPOLATED = (10_000, 100_000, 1_000_000, 10_000_000)  # rows for which break-even is computed
HEAD = (
    "| rows | of | gallery in | rows/s taken in | ms, 1 query | ms, 100 queries | MB | s, ready |"
)
ROW = "{rows_per_second:,.0f} | {ms_1:.1f} | {ms_100:.0f} | {mb:.0f} | {ready_s:.2f}"


def resident():
    """Return the memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def make_rows(n, width, kind, seed):
    """Return rows around 100 centers, or random codes."""
    rng = np.random.default_rng(seed)
    if kind == "bits":
        return rng.integers(0, 2, size=(n, width), dtype=np.uint8)
    centers = np.random.default_rng(1).normal(size=(100, width))
    rows = rng.normal(size=(n, width)).astype(np.float32)
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


def measure(uri, n, width, kind):
    """Return the numbers of one cell."""
    external = {"algorithm": "milvus", "uri": uri} if uri else {"algorithm": "exact"}
    metric = "hamming" if kind == "bits" else "cosine"
    retriever = NeighborsRetriever(10, metric=metric, **external)
    queries = make_rows(100, width, kind, seed=2)
    NeighborsRetriever(10, metric=metric, **external).fit(queries).kneighbors(queries)  # imports
    before = resident()
    rows = make_rows(n, width, kind, seed=0)
    start = time.perf_counter()
    retriever.fit(rows)
    taken = time.perf_counter() - start
    del rows
    cell = {
        "rows_per_second": n / taken,
        "ms_1": milliseconds(retriever, queries[:1], 15),
        "ms_100": milliseconds(retriever, queries, 5),
        "mb": resident() - before,
    }
    return {**cell, "ready_s": seconds_until_ready(retriever, queries[:1], uri)}


def seconds_until_ready(retriever, query, uri):
    """Return how long another process takes to load a retriever and to answer a query."""
    with tempfile.NamedTemporaryFile() as file:
        pickle.dump(query, file)
        pickle.dump(retriever, file)
        file.flush()
        if uri and _milvus_client.is_local(uri):  # a file serves one process at a time
            from milvus_lite import server_manager_instance

            _milvus_client.forget(uri)
            server_manager_instance.release_server(uri)
        command = [sys.executable, __file__, "--ready", file.name]
        times = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(5)
        ]
    if uri:
        _milvus_client.erase(uri, retriever.collection_)  # what was pickled is kept otherwise
    return float(np.median(times))


def load(path):
    """Return the seconds from the first byte that is read to the first answer."""
    with open(path, "rb") as file:
        query = pickle.load(file)
        start = time.perf_counter()
        pickle.load(file).kneighbors(query)
        return time.perf_counter() - start


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


def run_cell(engine, uri, n, width, kind):
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        uri = {"memory": "", "file": str(Path(folder, "gallery.db")), "server": uri}[engine]
        command = [sys.executable, __file__, "--cell", uri, str(n), str(width), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def line(cells, engine, sizes, name):
    """Return seconds as a function of the rows: a line through two sizes that does not fall."""
    (small, low), (large, high) = [(n, cells[engine, n][name]) for n in (sizes[0], sizes[-1])]
    slope = max(0.0, high - low) / (large - small)
    scale = 1e-3 if name.startswith("ms") else 1
    return lambda n: scale * (low + slope * (n - small))


def break_even(cells, engine, sizes):
    """Return, by rows, how many queries one by one pay outside; inf if any number does."""
    ready, asked = (
        [line(cells, place, sizes, name) for place in ("memory", engine)]
        for name in ("ready_s", "ms_1")
    )
    found = {}
    for n in EXTRAPOLATED:
        saved, lost = ready[0](n) - ready[1](n), asked[1](n) - asked[0](n)
        found[n] = max(0.0, saved / lost) if lost > 0 else np.inf
    return found


def print_break_even(cells, engines, sizes, label):
    for engine in engines:
        if engine != "memory" and ("memory", sizes[0]) in cells and len(sizes) > 1:
            found = break_even(cells, engine, sizes)
            numbers = ", ".join(f"{n:,} rows: {queries:.0f}" for n, queries in found.items())
            print(f"{label}, {engine}: queries up to which it is faster than loading: {numbers}")


def run_all(args, uri):
    """Print a table, and what follows from it, as it is measured."""
    print(f"load average {os.getloadavg()[0]:.1f}\n\n{HEAD}\n{'|---' * 8}|", flush=True)
    summaries = []
    for kind, widths in (("numbers", args.features), ("bits", args.bits)):
        for width in widths:
            cells, label = {}, f"{width} {kind}"
            for n in args.rows:
                for engine in args.engines:
                    cells[engine, n] = run_cell(engine, uri, n, width, kind)
                    numbers = ROW.format(**cells[engine, n])
                    print(f"| {n:,} | {label} | {engine} | {numbers} |", flush=True)
            summaries.append((cells, args.engines, args.rows, label))
    print()
    for summary in summaries:
        print_break_even(*summary)
    print(f"load average {os.getloadavg()[0]:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 60_000])
    parser.add_argument("--features", type=int, nargs="*", default=[64, 512])
    parser.add_argument("--bits", type=int, nargs="*", default=[64])
    parser.add_argument("--uri", help="address of a server to measure instead")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--ready", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ready:
        print(load(args.ready))
        return
    if args.cell:
        uri, n, width, kind = args.cell
        print(json.dumps(measure(uri, int(n), int(width), kind)))
        return
    with tempfile.TemporaryDirectory() as folder:
        process, uri = (None, args.uri) if args.uri else start_server(folder)
        try:
            run_all(args, uri)
        finally:
            if process is not None:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
