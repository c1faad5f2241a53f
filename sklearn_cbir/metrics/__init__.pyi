from sklearn_cbir.metrics._averaging import (
    mean_over_queries as mean_over_queries,
    mean_per_class as mean_per_class,
    worst_queries as worst_queries,
)
from sklearn_cbir.metrics._clustering import (
    cluster_agreement as cluster_agreement,
    pair_f1 as pair_f1,
)
from sklearn_cbir.metrics._codes import (
    hamming_mean_average_precision as hamming_mean_average_precision,
)
from sklearn_cbir.metrics._curves import (
    precision_recall_curve as precision_recall_curve,
    radius_precision_recall_curve as radius_precision_recall_curve,
)
from sklearn_cbir.metrics._cutoff import (
    acg_at_k as acg_at_k,
    ndcg_at_k as ndcg_at_k,
    precision_at_k as precision_at_k,
    recall_at_k as recall_at_k,
    set_recall_at_k as set_recall_at_k,
)
from sklearn_cbir.metrics._precision import (
    map_at_r as map_at_r,
    map_c as map_c,
    mean_average_precision as mean_average_precision,
    trapezoid_mean_average_precision as trapezoid_mean_average_precision,
    weighted_mean_average_precision as weighted_mean_average_precision,
)
from sklearn_cbir.metrics._radius import (
    mean_average_precision_in_radius as mean_average_precision_in_radius,
    precision_in_radius as precision_in_radius,
    recall_in_radius as recall_in_radius,
    success_in_radius as success_in_radius,
)
from sklearn_cbir.metrics._scoring import (
    METRICS as METRICS,
    evaluate as evaluate,
    parse_metric as parse_metric,
)
from sklearn_cbir.metrics._thresholds import (
    best_f1_radius as best_f1_radius,
    per_class_thresholds as per_class_thresholds,
    threshold_f1 as threshold_f1,
    threshold_f1_curve as threshold_f1_curve,
)
