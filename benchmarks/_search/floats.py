"""Exact search of floats beside faiss, torch, scikit-learn and numpy."""

import itertools
from functools import lru_cache

import numpy as np
from sklearn.neighbors import NearestNeighbors

from _search.data import clustered
from _search.timing import compare, judged_ms
from sklearn_cbir import NeighborsRetriever

SETS = [
    (2_000, 64),
    (10_000, 64),
    (50_000, 64),
    (60_000, 64),
    (200_000, 64),
    (10_000, 512),
    (60_000, 512),
]
QUICK_SETS = SETS[:2]
METRICS, BATCHES = ("cosine", "euclidean"), (1, 100, 1000)
MORE = [(60_000, 64, "cosine", 100, k) for k in (1, 100)] + [
    (10_000, d, "cosine", 100, 10) for d in (128, 256)
]
AT_ONCE = 100  # queries of one product
QUERIES_BEFORE = 101  # a service has been asked some single queries before it is timed
ENGINES = ("ours", "faiss", "torch", "numpy", "scikit-learn")


def run(cells, options):
    sets = QUICK_SETS if options.quick else SETS
    settings = [
        (n, d, metric, batch, 10)
        for (n, d), metric, batch in itertools.product(sets, METRICS, BATCHES)
    ]
    results = [
        cells.run(f"floats {n} x {d} {metric}, {batch} queries, k {k}", measure, *setting, options)
        for setting in settings + MORE
        for n, d, metric, batch, k in [setting]
    ]
    return table(results[: len(settings)])


@lru_cache(maxsize=1)
def _fitted(n, d, metric, k):
    gallery, queries = clustered(n, d)
    ours = NeighborsRetriever(k, metric=metric, algorithm="exact").fit(gallery)
    theirs = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(gallery)
    return gallery, queries, ours, theirs


def measure(n, d, metric, n_queries, k, options):
    gallery, queries, ours, theirs = _fitted(n, d, metric, k)
    queries = queries[:n_queries]
    half_squares = None
    unit = _unit if metric == "cosine" else lambda rows: rows
    gallery = unit(gallery)
    if metric == "euclidean":
        half_squares = np.einsum("ij,ij->i", gallery, gallery) / 2
    routines = {
        "ours": lambda: ours.kneighbors(queries),
        "numpy": lambda: _by_numpy(unit(queries), gallery, half_squares, k),
        "scikit-learn": lambda: theirs.kneighbors(queries),
    }
    if "faiss" in options.peers:
        faiss = options.peers["faiss"]
        index = faiss.IndexFlatIP(d) if metric == "cosine" else faiss.IndexFlatL2(d)
        index.add(gallery)
        routines["faiss"] = lambda: index.search(unit(queries), k)
    if "torch" in options.peers:
        torch = options.peers["torch"]
        rows = torch.from_numpy(gallery)
        less = None if half_squares is None else torch.from_numpy(half_squares)
        routines["torch"] = lambda: _by_torch(torch.from_numpy(unit(queries)), rows, less, k)
    if n_queries == 1:
        for _ in range(QUERIES_BEFORE):
            ours.kneighbors(queries)
    result = compare(routines, options)
    result |= {"n": n, "d": d, "metric": metric, "queries": n_queries, "k": k}
    judged = judged_ms(result)
    result["to_scikit_learn"] = round(judged["ours"] / judged["scikit-learn"], 3)
    return result


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _by_numpy(queries, gallery, half_squares, k):
    for start in range(0, len(queries), AT_ONCE):
        affinity = queries[start : start + AT_ONCE] @ gallery.T
        if half_squares is not None:
            affinity -= half_squares
        nearest = np.argpartition(affinity, -k, axis=1)[:, -k:]
        np.take_along_axis(
            nearest, np.argsort(-np.take_along_axis(affinity, nearest, 1), axis=1), 1
        )


def _by_torch(queries, gallery, half_squares, k):
    for start in range(0, len(queries), AT_ONCE):
        affinity = queries[start : start + AT_ONCE] @ gallery.T
        if half_squares is not None:
            affinity -= half_squares
        affinity.topk(k)


def is_met(result):
    """Say whether the cell reaches its bar."""
    judged = judged_ms(result)
    others = min(value for name, value in judged.items() if name != "ours")
    if result["queries"] > 1:
        return judged["ours"] <= 1.2 * others
    large = result["n"] * result["d"] >= 3e6
    return judged["ours"] <= 2 * others + 0.15 and (not large or result["to_scikit_learn"] <= 0.2)


def table(results):
    lines = [
        f"| rows | numbers | distance | queries | {' ms | '.join(ENGINES)} ms | ours / best "
        "| / scikit-learn | bar |",
        "|---" * (4 + len(ENGINES) + 3) + "|",
    ]
    for result in results:
        ms = " | ".join(
            f"{judged_ms(result)[name]:.3f}" if name in result["ms"] else "" for name in ENGINES
        )
        lines.append(
            f"| {result['n']:,} | {result['d']} | {result['metric']} | {result['queries']} | "
            f"{ms} | {result['ratio']} | {result['to_scikit_learn']} | "
            f"{'met' if is_met(result) else 'missed'} |"
        )
    met = sum(map(is_met, results))
    return "\n".join([*lines, "", f"{met} of {len(results)} cells reach their bar."])
