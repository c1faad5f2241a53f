"""Filters of a graph and of faiss: how much they find and how long it takes, beside no filter.

    python benchmarks/approximate_filters.py [--rows 200000] [--features 128] [--engines faiss]
        [--data cifar10_jpeg.npz]

Rows around 100 centers, wide classes and tight ones, or, with --data, 64 principal components of
49,000 photos of ten classes; 10 neighbors of 1,000 queries in one call and of 20
one by one, each of those with a mask that is seen for the first time. Masks leave rows in at
random, or whole classes: queries are of these ("classes, own") or of the others ("classes, other").
Times are of the processor. "exactly" is the share of queries that was compared with all that is
left in; "selector" is the recall of faiss itself with an `IDSelector`, on the same lists.

The last table says from which share on the index is asked: what it takes to be asked for enough
neighbors, what exact search of the rows left in takes, and how many of these are compared in the
time of one neighbor more. `rows_per_neighbor` of the engine lies between its last two columns.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from _search.data import photo_components
from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import ENGINES
from sklearn_cbir.index._approximate import FilteredIndex

K, N_CLASSES, N_QUERIES, N_SINGLE = 10, 100, 1000, 20
SHARES = (0.9, 0.5, 0.1, 0.02)
SHARES_OF_COSTS = (0.5, 0.25, 0.1, 0.05)
SPREADS = {"wide": 1.0, "tight": 0.2}
HEAD = (
    "| classes | engine | left in | which | recall | us | of no filter | exactly | us, one new "
    "| of no filter | selector |"
)
HEAD_OF_COSTS = (
    "| classes | engine | left in | us, index | us, exact | us, one by index | us, one exact "
    "| rows per neighbor | of one |"
)


def make_rows(n, d, spread):
    """Return rows and queries around centers, and the class of each; components fall off."""
    rng = np.random.default_rng(0)
    scales = np.arange(1, d + 1) ** -0.5
    centers = rng.normal(size=(N_CLASSES, d)) * scales
    classes = rng.integers(N_CLASSES, size=n + N_QUERIES)
    rows = (centers[classes] + spread * rng.normal(size=(n + N_QUERIES, d)) * scales).astype("f4")
    return rows[:n], rows[n:], classes[:n], classes[n:]


def photos(path):
    """Return components of photos, of which some are queries, and the class of each."""
    rows, classes = photo_components(path)[0][:, :64], np.load(path)["y_train"]
    order = np.random.default_rng(1).permutation(len(rows))
    rows, classes = rows[order].astype("f4"), classes[order]
    return rows[N_QUERIES:], rows[:N_QUERIES], classes[N_QUERIES:], classes[:N_QUERIES]


def seconds(ask, *arguments, repeats=3, **options):
    """Return the median seconds of the processor that a call takes."""
    used = []
    for _ in range(repeats + 1):  # the first finds nothing in the caches
        start = time.process_time()
        ask(*arguments, **options)
        used.append(time.process_time() - start)
    return float(np.median(used[1:]))


def share_found(found, expected):
    """Return the recall of positions."""
    return np.mean([len(set(a) & set(b)) / K for a, b in zip(found, expected)])


def masks_of(share, classes, of_queries):
    """Yield names, masks, and which queries are asked."""
    rng = np.random.default_rng(round(1000 * share))
    yield "at random", rng.random(len(classes)) < share, np.ones(len(of_queries), dtype=bool)
    n_classes = classes.max() + 1
    left_in = np.isin(np.arange(n_classes), rng.permutation(n_classes)[: round(share * n_classes)])
    if not left_in.any():
        return
    yield "classes, own", left_in[classes], left_in[of_queries]
    yield "classes, other", left_in[classes], ~left_in[of_queries]


class Counted:
    """An exact engine that counts the queries it is asked."""

    def __init__(self, engine):
        self.engine, self.n = engine, 0

    def query(self, queries, k):
        self.n += len(queries)
        return self.engine.query(queries, k)


def share_answered_exactly(retriever, mask, queries):
    """Return which share of the queries the index does not answer."""
    gallery = retriever._gallery
    engine = gallery.engine.filtered(gallery.filter(mask))
    if not isinstance(engine, FilteredIndex):
        return 1.0
    counted = vars(engine)["exact"] = Counted(engine.exact)
    engine.query(gallery.engine.encode(queries), K)
    vars(engine)["exact"] = counted.engine
    return counted.n / len(queries)


def of_selector(retriever, mask, queries):
    """Return positions that lists of faiss find by themselves, as far as they have any."""
    import faiss

    engine = retriever._gallery.engine
    selector = faiss.IDSelectorBitmap(np.packbits(mask[engine.indexed], bitorder="little"))
    parameters = faiss.SearchParametersIVF(nprobe=int(engine.ef_search), sel=selector)
    found = engine.index.search(engine.encode(queries), K, params=parameters)[1]
    return np.where(found >= 0, engine.indexed[found], -1)


def seconds_one_by_one(retriever, queries, masks):
    """Return the median seconds of one query after the other, each with its own mask or None."""
    retriever.kneighbors(queries[:1], where=masks[-1])
    used = []
    for row in range(N_SINGLE):
        query, mask = queries[row % len(queries)][None], masks[row % len(masks)]
        start = time.process_time()
        retriever.kneighbors(query, where=mask)
        used.append(time.process_time() - start)
    return float(np.median(used))


def fresh(mask):
    """Return masks that differ in one row each."""
    masks = np.tile(mask, (N_SINGLE, 1))
    masks[np.arange(N_SINGLE), np.flatnonzero(mask)[:N_SINGLE]] = False
    return list(masks)


def measure(what, name, retriever, exact, queries, classes, of_queries):
    """Print the lines of one engine."""
    unfiltered = seconds(retriever.kneighbors, queries) / len(queries)
    one = seconds_one_by_one(retriever, queries, [None])
    for share in SHARES:
        for which, mask, asked in masks_of(share, classes, of_queries):
            ours = queries[asked]
            found = retriever.kneighbors(ours, where=mask)[1]
            expected = exact.kneighbors(ours, where=mask)[1]
            used = seconds(retriever.kneighbors, ours, where=mask) / len(ours)
            exactly = share_answered_exactly(retriever, mask, ours)
            single = seconds_one_by_one(retriever, ours, fresh(mask))
            selector = ""
            if name == "faiss":
                selector = f"{share_found(of_selector(retriever, mask, ours), expected):.3f}"
            print(
                f"| {what} | {name} | {share:g} | {which} | {share_found(found, expected):.3f} "
                f"| {used * 1e6:.0f} | {used / unfiltered:.1f} | {exactly:.2f} "
                f"| {single * 1e6:.0f} | {single / one:.1f} | {selector} |",
                flush=True,
            )


def costs(what, name, engine, queries):
    """Return lines on what asking for more costs, beside comparing all that is left in."""

    def by_index(queries, k):
        return engine._query(engine.index, queries, k, engine.filter_ef_search)

    lines = []
    encoded = engine.encode(queries)
    for share in SHARES_OF_COSTS:
        ask = int(1.5 * K / share)
        if ask > engine.filter_reach:
            continue
        left = engine.rows[np.random.default_rng(0).random(len(engine)) < share]
        left = NeighborsRetriever(metric="euclidean", algorithm="exact").fit(left)._gallery.engine
        ways = {"index": (by_index, ask), "least": (by_index, K), "exact": (left.query, K)}
        times = {
            (way, size): seconds(query, encoded[:size], k) / size
            for way, (query, k) in ways.items()
            for size in (N_QUERIES, 1)
        }
        per_row = [times["exact", size] / len(left) for size in (N_QUERIES, 1)]
        per_neighbor = [
            (times["index", size] - times["least", size]) / (ask - K) for size in (N_QUERIES, 1)
        ]
        lines.append(
            f"| {what} | {name} | {share:g} "
            + "".join(
                f"| {times[way, size] * 1e6:.0f} "
                for size in (N_QUERIES, 1)
                for way in ("index", "exact")
            )
            + "".join(f"| {a / b:.0f} " for a, b in zip(per_neighbor, per_row))
            + "|"
        )
    return lines


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--engines", nargs="+", default=["nndescent", "faiss"], choices=ENGINES)
    parser.add_argument("--data", help="cifar10_jpeg.npz, or the folder of the binary files")
    options = parser.parse_args()
    sets = {
        name: partial(make_rows, options.rows, options.features, spread)
        for name, spread in SPREADS.items()
    }
    if options.data:
        sets = {"photos": partial(photos, options.data)}
    print(HEAD + "\n" + "|---" * HEAD.count(" |") + "|")
    lines = []
    for what, load in sets.items():
        rows, queries, classes, of_queries = load()
        exact = NeighborsRetriever(K, metric="euclidean", algorithm="exact").fit(rows)
        for name in options.engines:
            start = time.process_time()
            retriever = NeighborsRetriever(
                K, metric="euclidean", algorithm=name, random_state=0, n_jobs=1
            ).fit(rows)
            engine = retriever._gallery.engine
            print(
                f"{what} {name}: built in {time.process_time() - start:.1f} s, recall "
                f"{engine.recall:.3f}, filters ask for up to {engine.filter_reach} neighbors with "
                f"{engine.filter_ef_search:g} (else {engine.ef_search:g})",
                file=sys.stderr,
            )
            measure(what, name, retriever, exact, queries, classes, of_queries)
            lines += costs(what, name, engine, queries)
    print("\n" + HEAD_OF_COSTS + "\n" + "|---" * HEAD_OF_COSTS.count(" |") + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
