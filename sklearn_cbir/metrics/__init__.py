"""Retrieval metrics: labels and distances in, one number out; larger is better."""

from sklearn_cbir._validation import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "_averaging": ["mean_over_queries", "mean_per_class", "worst_queries"],
        "_clustering": ["cluster_agreement", "pair_f1"],
        "_codes": ["hamming_mean_average_precision"],
        "_curves": ["precision_recall_curve", "radius_precision_recall_curve"],
        "_cutoff": [
            "acg_at_k",
            "ndcg_at_k",
            "precision_at_k",
            "recall_at_k",
            "set_recall_at_k",
        ],
        "_precision": [
            "map_at_r",
            "map_c",
            "mean_average_precision",
            "trapezoid_mean_average_precision",
            "weighted_mean_average_precision",
        ],
        "_radius": [
            "best_f1_radius",
            "mean_average_precision_in_radius",
            "per_class_thresholds",
            "precision_in_radius",
            "recall_in_radius",
            "success_in_radius",
            "threshold_f1",
            "threshold_f1_curve",
        ],
        "_scoring": ["METRICS", "evaluate", "parse_metric"],
    },
)
