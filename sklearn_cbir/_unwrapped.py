"""What a search over parameters, or a frozen estimator, holds."""

from typing import Any

from sklearn.frozen import FrozenEstimator


def unwrapped(estimator: Any) -> Any:
    """Return the estimator that a refitted search or a frozen estimator holds; others as given."""
    while True:
        if hasattr(estimator, "best_estimator_"):  # of a frozen search, too
            estimator = estimator.best_estimator_
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        else:
            return estimator
