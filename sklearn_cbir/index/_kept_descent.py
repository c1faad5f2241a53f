"""pynndescent's descent, with compiled steps in a cache on disk: compiling them takes seconds.

numba does not cache a function that takes another function at run time, as pynndescent's loops take
their distance, or that reads the number of threads by an address of this process. So the steps are
compiled again, unchanged, with a fixed distance, and without code for threads if there is only one.
Functions that only call the steps run as Python, unchanged from pynndescent: compiled, they would
include all steps once more.
"""

import hashlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from types import CellType, FunctionType
from typing import Any

import numba
import numpy as np
import pynndescent
from numba.extending import overload
from pynndescent import pynndescent_ as original
from pynndescent.distances import squared_euclidean
from pynndescent.kernels import KERNEL_SQEUCLIDEAN
from pynndescent.pynndescent_ import generate_leaf_updates, init_random

from sklearn_cbir._compiled import compiled

# Functions that Python runs, and the steps that each is known to call.
CALLERS = {
    "nn_descent": ("init_rp_tree", "init_random", "nn_descent_internal", "deheap_sort"),
    "init_rp_tree": (
        *("generate_leaf_updates", "sort_updates_by_block"),
        "apply_sorted_graph_update_array",
    ),
    "nn_descent_internal": ("build_candidates_owner", "process_candidates"),
    "process_candidates": (
        *("generate_graph_update_array_batched", "apply_graph_update_array"),
        *("sort_updates_by_block", "apply_sorted_graph_update_array"),
    ),
}
PARAMETERS = {
    "nn_descent": (
        *("data", "n_neighbors", "rng_state", "max_candidates", "dist", "n_iters", "delta"),
        *("init_graph", "rp_tree_init", "leaf_array", "low_memory", "verbose", "kernel"),
    ),
    "generate_leaf_updates": (
        *("updates", "n_updates_per_thread", "leaf_block", "current_graph", "data", "dist"),
        "n_threads",
    ),
    "init_random": ("n_neighbors", "data", "heap", "dist", "rng_state"),
}


def squared_distance(x, y):
    """Stand for a distance in compiled code; as a type, it takes no place in memory."""
    raise NotImplementedError


@overload(squared_distance)
def _call_squared_distance(x, y):  # noqa: ARG001
    return lambda x, y: squared_euclidean(x, y)


def _with_globals(function: Any, **others: Any) -> FunctionType:
    """Return a Python function that finds other things under the names of its module."""
    names = {**function.__globals__, **others}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _version():
    """Return what pynndescent's code is: numba compares only the file of the function it keeps."""
    digest = hashlib.sha256()
    for path in sorted(Path(inspect.getfile(pynndescent)).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _options(step: Any, is_parallel: bool) -> dict[str, Any]:
    """Return how pynndescent compiles a step, with or without the machinery of threads."""
    options = {key: value for key, value in step.targetoptions.items() if key != "nopython"}
    # Other threads wait, as they do for pynndescent: two of them in numba's simplest threading
    # layer would end the process.
    parallel = {"parallel": True} if is_parallel and options.pop("parallel", False) else {}
    options.pop("parallel", None)
    return {**options, **parallel, "locals": step.locals, "nogil": False}


def _kept(step: Any, version: str, is_parallel: bool, function: Any = None) -> Any:
    """Return a step that is kept on disk under another name, and found by this version alone.

    `function` is what is kept and calls the step, if that is not the step itself.
    """
    function = function or step.py_func
    name = f"kept_{function.__name__}"
    about = f"{version}, {'parallel' if is_parallel else 'serial'}"
    # What is enclosed is in the key of what numba keeps, though the code does not use it.
    code = function.__code__.replace(co_name=name, co_qualname=name, co_freevars=("about",))
    cells = (CellType(about),)
    copy = FunctionType(code, function.__globals__, name, function.__defaults__, cells)
    copy.__qualname__, copy.__module__ = name, function.__module__
    options = _options(step, is_parallel) if function is step.py_func else {"nogil": False}
    return compiled(copy, **options)


def _leaf_updates(updates, n_updates_per_thread, leaf_block, graph, data, n_threads):
    generate_leaf_updates(
        updates, n_updates_per_thread, leaf_block, graph, data, squared_distance, n_threads
    )


def _random_neighbors(n_neighbors, data, heap, rng_state):
    init_random(n_neighbors, data, heap, squared_distance, rng_state)


def _kept_without_distance(
    step: Any, caller: Any, version: str, is_parallel: bool
) -> Callable[..., Any]:
    """Return a step that is given its distance, which is kept by way of one that is not."""
    name = step.py_func.__name__
    of_any = numba.njit(**_options(step, is_parallel))(step.py_func)
    kept = _kept(step, version, is_parallel, _with_globals(caller, **{name: of_any}))
    place = PARAMETERS[name].index("dist")

    def call(*values):
        kept(*values[:place], *values[place + 1 :])

    return call


@lru_cache
def _descent(version: str, is_parallel: bool) -> FunctionType:
    """Return `nn_descent` for the squared Euclidean distance."""
    steps: dict[str, Any] = {
        step.py_func.__name__: _kept_without_distance(step, caller, version, is_parallel)
        for step, caller in (
            (generate_leaf_updates, _leaf_updates),
            (init_random, _random_neighbors),
        )
    }
    for name in {name for called in CALLERS.values() for name in called} - {*CALLERS, *steps}:
        steps[name] = _kept(getattr(original, name), version, is_parallel)
    for name in reversed(CALLERS):
        steps[name] = _with_globals(getattr(original, name).py_func, **steps)
    return steps["nn_descent"]


def _is_known() -> bool:
    """Say whether pynndescent's functions call each other as they do in the known version."""
    functions = {name: getattr(original, name).py_func for name in {**CALLERS, **PARAMETERS}}
    return (
        all(
            set(called) <= set(functions[name].__code__.co_names)
            for name, called in CALLERS.items()
        )
        and all(
            tuple(inspect.signature(functions[name]).parameters) == parameters
            for name, parameters in PARAMETERS.items()
        )
        and "nn_descent" in original.NNDescent.__init__.__code__.co_names
    )


def kept_class() -> Any:
    """Return pynndescent's class, whose constructor calls what is kept; None if it is another."""
    if not _is_known():
        return None
    descent_of = partial(_descent, _version())
    signature = inspect.signature(original.nn_descent.py_func)

    def nn_descent(*values, **options):
        bound = signature.bind(*values, **options)
        bound.apply_defaults()
        given = bound.arguments
        is_kept = given["dist"] is squared_euclidean and given["kernel"] == KERNEL_SQEUCLIDEAN
        if is_kept and given["init_graph"] is original.EMPTY_GRAPH:
            random_state = np.copy(given["rng_state"])
            with suppress(numba.errors.NumbaError):
                return descent_of(numba.get_num_threads() > 1)(**given)
            given["rng_state"][:] = random_state
        return original.nn_descent(*values, **options)

    class KeptNNDescent(original.NNDescent):
        """Finds what `NNDescent` finds, by the same steps."""

        __init__ = _with_globals(original.NNDescent.__init__, nn_descent=nn_descent)

    return KeptNNDescent
