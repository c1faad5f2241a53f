"""The parts of a fitted estimator, so that an error can name the part that differs."""

from typing import Any

from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from sklearn_cbir._fingerprint._walk import fingerprint, result_state


def fitted_parts(estimator, name="estimator"):
    """Return the fingerprint of every parameter and fitted attribute that the results depend on."""
    if not isinstance(estimator, BaseEstimator):
        return {name: fingerprint(estimator, name)}
    state = result_state(estimator)
    steps: Any = state.pop("steps") if isinstance(estimator, Pipeline) else ()
    parts = {f"{name}'s class": fingerprint(type(estimator), f"the class of {name}")}
    for key, value in state.items():
        parts[f"{name}.{key}"] = fingerprint(value, f"{name}.{key}", of=estimator)
    for step, part in steps:
        parts |= fitted_parts(part, f"{name}.{step}")
    return parts
