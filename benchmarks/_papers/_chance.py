"""What a row that knows nothing would score: the expectation over all orders of the gallery."""

import numpy as np

from sklearn_cbir.metrics import evaluate


def chance_levels(y_queries, y_gallery, scoring, *, exclude=None):
    """Return the expected score of a random order, by name of the metric.

    It is exact: metrics average over all orders of items at the same distance, and here all are.
    """
    distances = np.broadcast_to(np.float64(0), (len(y_queries), len(y_gallery)))
    asked = y_queries, y_gallery, distances
    return {name: float(evaluate(name, *asked, exclude=exclude)) for name in scoring}
