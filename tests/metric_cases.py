"""What the tests of the metrics share: plain references, their variants, labels and codes."""

import math
from functools import partial
from itertools import permutations

import numpy as np

from sklearn_cbir.metrics import METRICS

# Each reference scores one ranked list: `shared` labels of every result in order, `k` results.


def loop_average_precision(shared, k, denominator="relevant", gain=lambda count: count > 0):
    n_relevant = sum(count > 0 for count in shared)
    total = hits = 0
    for rank in range(1, k + 1):
        if shared[rank - 1] > 0:
            hits += 1
            total += sum(gain(count) for count in shared[:rank]) / rank
    divisor = {"relevant": n_relevant, "hits": hits, "min_k": min(n_relevant, k)}[denominator]
    return total / divisor if divisor else 0.0


def loop_map_at_r(shared, k):
    return loop_average_precision(shared, sum(count > 0 for count in shared))


def loop_trapezoid(shared, k):
    ranks = [rank for rank, count in enumerate(shared) if count > 0]  # from 0
    total = 0
    for found, rank in enumerate(ranks):
        before = found / rank if rank else 1.0
        total += (before + (found + 1) / (rank + 1)) / 2
    return total / len(ranks)


def loop_ndcg(shared, k):
    def gain(counts):
        return sum((2**c - 1) / math.log2(rank + 2) for rank, c in enumerate(counts[:k]))

    return gain(shared) / gain(sorted(shared, reverse=True))


REFERENCES = {
    "map": loop_average_precision,
    "precision": lambda shared, k: sum(c > 0 for c in shared[:k]) / k,
    "recall": lambda shared, k: float(any(c > 0 for c in shared[:k])),
    "set_recall": lambda shared, k: sum(c > 0 for c in shared[:k]) / sum(c > 0 for c in shared),
    "ndcg": loop_ndcg,
    "acg": lambda shared, k: sum(shared[:k]) / k,
    "wmap": partial(loop_average_precision, denominator="hits", gain=lambda count: count),
    "map_at_r": loop_map_at_r,
    "trapezoid_map": loop_trapezoid,
    "precision_in_radius": None,  # without a first k; tested in test_metrics_radius.py
    "recall_in_radius": None,
    "map_in_radius": None,
    "success_in_radius": None,
}
IN_RADIUS = {name for name, loop in REFERENCES.items() if loop is None}
VARIANTS = {
    **{name: (METRICS[name], loop) for name, loop in REFERENCES.items() if loop},
    **{
        f"{name} over {denominator}": (
            partial(METRICS[name], denominator=denominator),
            partial(REFERENCES[name], denominator=denominator),
        )
        for name in ("map", "wmap")
        for denominator in ("relevant", "hits", "min_k")
    },
}
WITHOUT_K = {"map_at_r", "trapezoid_map", *IN_RADIUS}


def labels_that_share(counts, n_labels):
    """A query with all labels and gallery rows that have so many of them."""
    return np.ones((1, n_labels), dtype=int), np.tri(n_labels + 1, n_labels, -1, dtype=int)[counts]


def over_orders(loop, shared, distances, k):
    """The values of all orders that the distances leave open."""
    values = []
    for order in permutations(range(len(shared))):
        ranked = sorted(order, key=lambda item: distances[item])
        values.append(loop([shared[item] for item in ranked], k))
    return values


def call(metric, name, *arguments, k=None, **options):
    if k is not None and name not in WITHOUT_K:
        options["k"] = k
    return metric(*arguments, **options)


def coded(rng, graded, n_bits=12):
    query_codes = rng.integers(0, 2, (20, n_bits), dtype=np.uint8)
    gallery_codes = rng.integers(0, 2, (150, n_bits), dtype=np.uint8)
    if graded:
        y_queries, y_gallery = rng.integers(0, 2, (20, 5)), rng.integers(0, 2, (150, 5))
        y_queries[:, 0] = 1
    else:
        y_queries, y_gallery = rng.integers(0, 4, 20), rng.integers(0, 3, 150)
    return y_queries, y_gallery, query_codes, gallery_codes
