"""Processes that have imported the libraries, but not the package, and fork for every run."""

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

LIBRARIES = [
    "numpy",
    "scipy.sparse",
    "scipy.stats",
    "scipy.optimize",
    "joblib",
    "pandas",
    "PIL.Image",
    "rich.progress",
    "sklearn",
    "sklearn.datasets",
    "sklearn.linear_model",
    "sklearn.model_selection",
    "sklearn.neighbors",
    "sklearn.pipeline",
    "sklearn.utils.estimator_checks",
    "torch",
    "torchvision",
    "torchvision.models",
    "skorch",
    "numba",
    "numba.extending",
    "matplotlib.pyplot",
    "pytorch_metric_learning.losses",
    "pytest",
    "hypothesis",
    "_pytest.doctest",
]
MEMORY = 2**33  # bytes that a run may hold


def prepare(environment):
    """Import what all runs need, and nothing of the package."""
    os.environ.update(environment)
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not any(name.startswith("sklearn_cbir") for name in sys.modules)


def forked(function, arguments, tree, seconds):
    """Return what ``function(*arguments)`` returns in a fork that stands in `tree`.

    That is "time" if it does not end within `seconds` of processor time, or four times as much by
    the clock, and "crash" if the process ends without an answer. What it prints is beside the tree.
    """
    answer = Path(f"{tree}.json")
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            _enter(tree, seconds)
            answer.write_text(json.dumps(function(*arguments)))
        except Exception:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(0)
    status = _wait(child, time.monotonic() + 4 * seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what it has started
    if status is None:
        os.waitpid(child, 0)
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return "time"
    return json.loads(answer.read_text()) if answer.exists() else "crash"


def _enter(tree, seconds):
    os.setsid()
    file = os.open(f"{tree}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 10))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)


def _wait(child, end):
    """Return the status of a process that ends before `end`, or None."""
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.02)
    return None
