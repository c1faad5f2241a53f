"""What `where` costs in a gallery outside the process, beside the same search without it.

    python benchmarks/external_filters.py [--rows 100000] [--features 64] [--uri URI]

Without --uri, a local file that milvus-lite reads in this process, so that processor time counts
the server's work too; with a server elsewhere, take the wall clock's column. For shares of the
rows that are left in, one by one or all in one run: milliseconds of `kneighbors` (k = 10, cosine)
with 1 and with 100 queries, with a mask that is seen for the first time and with one used again;
how many results were asked for per query; and how long the expression was that the server read.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import _milvus_client

SHARES = (0.9, 0.5, 0.1, 0.01)
REPEATS = 5
HEAD = (
    "| left in | rows | queries | ms, first | ms, again | ms on the wall | of no filter "
    "| results per query | bytes of expression |"
)


class Requests:
    """Notes the searches that a server is asked for; used in place of `call`."""

    def __init__(self, call):
        self.call, self.searches = call, []

    def __call__(self, address, method, *arguments, **options):
        if method == "search":
            self.searches.append(options)
        return self.call(address, method, *arguments, **options)

    def take(self, n_queries):
        """Return results asked for per query, and the length of the longest expression."""
        asked, self.searches = self.searches, []
        results = sum(len(options["data"]) * options["limit"] for options in asked)
        return results / n_queries, max(len(options["filter"]) for options in asked)


def milliseconds(ask):
    """Return the processor time and the time on the wall of a call."""
    processor, wall = time.process_time(), time.perf_counter()
    ask()
    return 1000 * (time.process_time() - processor), 1000 * (time.perf_counter() - wall)


def make_masks(n, share, rng):
    """Return masks that leave in a share of `n` rows, by name."""
    run = np.zeros(n, dtype=bool)
    run[n // 20 : n // 20 + round(share * n)] = True
    return {"spread": rng.random(n) < share, "one run": run}


def measure(retriever, queries, mask, requests):
    """Return medians of milliseconds, of a first call and of later ones, and what was asked."""
    first, again = [], []
    for repeat in range(REPEATS):
        fresh = mask if mask is None else np.roll(mask, repeat)
        ask = lambda fresh=fresh: retriever.kneighbors(queries, where=fresh)  # noqa: E731
        first.append(milliseconds(ask)[0])
        requests.take(len(queries))
        again.append(milliseconds(ask))
        asked = requests.take(len(queries))
    return np.median(first), *np.median(again, axis=0), *asked


def run(args, uri):
    """Print a table as it is measured."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(args.rows, args.features)).astype(np.float32)
    retriever = NeighborsRetriever(10, algorithm="milvus", uri=uri, verbose=1).fit(rows)
    _milvus_client.call = requests = Requests(_milvus_client.call)
    print(f"{args.rows:,} rows of {args.features} numbers\n\n{HEAD}\n{'|---' * 9}|", flush=True)
    for n_queries in (1, 100):
        queries = rng.normal(size=(n_queries, args.features)).astype(np.float32)
        retriever.kneighbors(queries)  # loads what is loaded once
        requests.take(n_queries)
        plain = measure(retriever, queries, None, requests)
        masks = {("all", ""): None}
        for share in args.shares:
            found = make_masks(args.rows, share, rng).items()
            masks |= {(f"{share:g}", kind): mask for kind, mask in found}
        for (share, kind), mask in masks.items():
            first, again, wall, results, size = measure(retriever, queries, mask, requests)
            numbers = f"{first:.0f} | {again:.0f} | {wall:.0f} | {again / plain[1]:.2f}"
            print(f"| {share} | {kind} | {n_queries} | {numbers} | {results:.0f} | {size:,} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--uri", help="address of a server to measure instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(args, args.uri or str(Path(folder, "gallery.db")))


if __name__ == "__main__":
    main()
