"""What a row that knows nothing would score: the expectation over all orders of the gallery."""

import numpy as np

from sklearn_cbir.metrics import evaluate, threshold_f1


def chance_levels(y_queries, y_gallery, scoring, *, exclude=None):
    """Return the expected score of a random order, by name of the metric.

    It is exact: metrics average over all orders of items at the same distance, and here all are.
    `scoring` are names, or a dictionary of metrics by name.
    """
    metrics = scoring if isinstance(scoring, dict) else dict(zip(scoring, scoring))
    weights = None
    if exclude is None:  # queries with the same labels have the same chance
        labels = np.asarray(y_queries)
        y_queries, weights = np.unique(labels, axis=0, return_counts=True)
    asked = y_queries, y_gallery, _equal(y_queries, y_gallery)
    options = {"exclude": exclude, "sample_weight": weights}
    return {name: float(evaluate(metric, *asked, **options)) for name, metric in metrics.items()}


def chance_of_f1(y_queries, y_gallery, *, exclude=None):
    """Return the F1 of what knows nothing: all is taken as the same."""
    distances = _equal(y_queries, y_gallery)
    return float(threshold_f1(y_queries, y_gallery, distances, radius=0.0, exclude=exclude))


def _equal(y_queries, y_gallery):
    return np.broadcast_to(np.float64(0), (len(y_queries), len(y_gallery)))
