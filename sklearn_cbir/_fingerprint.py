"""When two parameters are the same: what a checkpoint's name is made from."""

import functools
import inspect
import os
from pathlib import Path

from torch import nn

_NOT_A_PARAMETER = {"training"}


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
