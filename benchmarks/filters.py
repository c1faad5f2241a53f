"""What `where` costs: searches of what a filter leaves in, beside the same searches of all rows.

    OMP_NUM_THREADS=1 python benchmarks/filters.py [GALLERY ...] [--out FOLDER] [--quick]

Galleries are in 100 classes: 1,000,000 codes of 64 bits, and 200,000 x 256 floats under both
distances, searched exactly, also with the int8 copy of the rows that single queries get after a
hundred of them. Filters leave in a share of the rows: any, or the classes that are furthest from
the first query, so that all that is near is left out. Each is new, or used again.

Calls with and without a filter take turns in one process. Times are medians of processor time in
milliseconds. A batch of 1,000 queries may take the share left in + .10 of the time of all rows, a
single query 1.2 of it; the run fails if one takes more. Finished cells are in OUT/filters.json and
not run again. --quick takes a twentieth of the rows, where calls are no measure of anything, and
three calls.
"""

import argparse
import sys
import time
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np

from _data import Cells
from sklearn_cbir import NeighborsRetriever

SHARES = (0.9, 0.5, 0.1, 0.01)
N_CLASSES, N_QUERIES, K = 100, 1000, 10
N_WARM = 110  # single queries before there is an int8 copy of the rows
CALLS = {1: 201, N_QUERIES: 5}
# Name: rows, columns, parameters, and whether there is an int8 copy.
GALLERIES = {
    "codes": (1_000_000, 64, {"metric": "hamming"}, False),
    "cosine": (200_000, 256, {"metric": "cosine"}, False),
    "euclidean": (200_000, 256, {"metric": "euclidean"}, False),
    "cosine int8": (200_000, 256, {"metric": "cosine"}, True),
    "euclidean int8": (200_000, 256, {"metric": "euclidean"}, True),
}
HEAD = (
    "| gallery | queries | left in | filter | ms of all | ms | of all | bar |",
    "|---" * 8 + "|",
)


class Gallery:
    """Rows of classes, their retriever, queries of the same classes, and filters."""

    def __init__(self, name, is_quick):
        n, n_columns, parameters, self.has_copy = GALLERIES[name]
        n = n // 20 if is_quick else n
        self.rng = np.random.default_rng(0)
        centers = self.rng.standard_normal((N_CLASSES, n_columns)).astype(np.float32)
        self.y = self.rng.integers(0, N_CLASSES, n)
        classes = self.rng.integers(0, N_CLASSES, N_QUERIES)
        rows, self.queries = self._of(centers, self.y), self._of(centers, classes)
        if parameters["metric"] == "hamming":
            rows, self.queries = (rows > 0).astype(np.uint8), (self.queries > 0).astype(np.uint8)
        self.retriever = NeighborsRetriever(K, algorithm="exact", **parameters).fit(rows)
        products = centers @ centers[classes[0]]
        self.nearness = products[self.y]  # of every row's class to that of the first query

    def _of(self, centers, y):
        noise = self.rng.standard_normal((len(y), centers.shape[1]), dtype=np.float32)
        return centers[y] + noise

    def masks(self, kind, share):
        """Yield masks that leave in about a share of the rows, each another one."""
        while True:
            mask = self.rng.random(len(self.y)) < share
            if kind == "far":
                mask = self.nearness <= np.quantile(self.nearness, share)
                mask[self.rng.integers(0, len(mask), 9)] = False  # seen for the first time
            yield mask


def milliseconds(ask):
    """Return the processor time of a call."""
    started = time.process_time()
    ask()
    return 1000 * (time.process_time() - started)


@lru_cache(maxsize=1)
def warm_gallery(name, is_quick):
    """Return a gallery in which everything is made and compiled that later calls only use."""
    gallery = Gallery(name, is_quick)
    ask, query = gallery.retriever.kneighbors, gallery.queries[:1]
    ask(query)
    ask(query, where=next(gallery.masks("any", 0.9)))
    if gallery.has_copy:
        for query in gallery.queries[:N_WARM]:
            ask(query[None])
    return gallery


def measure(name, is_quick, n_queries, share, kind, is_fresh, n_calls):
    """Return the median times of calls without and with a filter, which take turns."""
    gallery = warm_gallery(name, is_quick)
    ask, queries = gallery.retriever.kneighbors, gallery.queries[:n_queries]
    masks = list(islice(gallery.masks(kind, share), n_calls))
    mask = masks[0].copy()
    if not is_fresh:
        for _ in range(9 if n_queries == 1 else 1):
            ask(queries, where=mask)
    times = []
    for other in masks:
        times.append([milliseconds(partial(ask, queries)), 0])
        if is_fresh:
            mask[:] = other  # as warm as one that was made just now,
        given = mask[:] if is_fresh else mask  # and not the array that came before
        times[-1][1] = milliseconds(partial(ask, queries, where=given))
    of_all, of_some = np.median(times, axis=0).tolist()
    return {"all": of_all, "filtered": of_some}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("galleries", nargs="*", help=f"of {', '.join(GALLERIES)}; none means all")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    cells, lines, missed = Cells(options.out / "filters.json"), [], []
    for name in options.galleries or GALLERIES:
        for n_queries in (1,) if name.endswith("int8") else CALLS:
            for share in SHARES:
                for kind, is_fresh in (("any", True), ("any", False), ("far", True)):
                    n_calls = 3 if options.quick else CALLS[n_queries]
                    arguments = name, options.quick, n_queries, share, kind, is_fresh, n_calls
                    key = f"{name}, {n_queries}, {share}, {kind}, {is_fresh}"
                    settings = {"quick": True} if options.quick else None
                    times = cells.run(key, measure, *arguments, settings=settings)
                    ratio = times["filtered"] / times["all"]
                    bar = 1.2 if n_queries == 1 else share + 0.1
                    how = f"{kind}, {'new' if is_fresh else 'again'}"
                    missed += [key] * (ratio > bar)
                    lines.append(
                        f"| {name} | {n_queries} | {share} | {how} | {times['all']:.2f} | "
                        f"{times['filtered']:.2f} | {ratio:.2f} | {bar:.2f} |"
                    )
    table = "\n".join([*HEAD, *lines]) + f"\n\n{cells.origin()}\n"
    (options.out / "filters.md").write_text(table)
    print(table)
    if missed and not options.quick:
        sys.exit("Missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
