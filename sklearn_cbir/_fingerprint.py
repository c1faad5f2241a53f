"""When two parameters or estimators are the same: names of checkpoints, folders of shards."""

import functools
import inspect
import os
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from torch import nn

_NOT_A_PARAMETER = {"training"}
# They change where, how fast or how loudly an estimator works, or tell how it was fitted.
_NOT_IN_RESULT = {
    "checkpoint_dir",
    "device",
    "history_",
    "memory",
    "n_jobs",
    "num_workers",
    "verbose",
    "_skl_callbacks",
}


def fingerprint(value):
    """Return plain values that joblib hashes alike exactly for parameters that train alike."""
    if isinstance(value, nn.Module):
        return _of_module(value)
    if isinstance(value, functools.partial):
        keywords = {name: fingerprint(item) for name, item in value.keywords.items()}
        return fingerprint(value.func), [fingerprint(item) for item in value.args], keywords
    if inspect.isfunction(value):
        return _of_function(value)
    if isinstance(value, type) or inspect.isbuiltin(value):
        return value.__module__, value.__qualname__
    if isinstance(value, (list, tuple)):
        return [fingerprint(item) for item in value]
    if isinstance(value, (str, Path)) and os.path.isfile(value):
        status = os.stat(value)
        return str(value), status.st_size, status.st_mtime_ns
    return value


def fitted_fingerprint(value):
    """Return plain values that joblib hashes alike exactly for estimators that transform alike."""
    if isinstance(value, BaseEstimator):
        state = {k: v for k, v in value.__getstate__().items() if k not in _NOT_IN_RESULT}
        return type(value).__module__, type(value).__qualname__, fitted_fingerprint(state)
    if isinstance(value, dict):
        return {key: fitted_fingerprint(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fitted_fingerprint(item) for item in value]
    if isinstance(value, np.ndarray):
        return np.asarray(value, order="C")  # however it lies in memory, or in a mapped file
    if isinstance(value, (str, Path)):
        return value  # what was read from a file is part of the state
    return fingerprint(value)


def _of_module(module):
    """Classes and plain attributes of all its parts, and its weights."""
    parts = []
    for name, part in module.named_modules():
        plain = {
            key: fingerprint(item)
            for key, item in vars(part).items()
            if not key.startswith("_") and key not in _NOT_A_PARAMETER
        }
        parts.append((name, type(part).__module__, type(part).__qualname__, plain))
    weights = {key: item.detach().cpu().numpy() for key, item in module.state_dict().items()}
    return parts, weights


def _of_function(function):
    """Code, constants, defaults and what it closes over: lambdas share one name."""
    code = function.__code__
    cells = [fingerprint(cell.cell_contents) for cell in function.__closure__ or ()]
    return (
        function.__module__,
        function.__qualname__,
        code.co_code,
        repr(code.co_consts),
        code.co_names,
        repr(function.__defaults__),
        repr(function.__kwdefaults__),
        cells,
    )
