"""pynndescent's descent as machine code that is kept on disk: compiling it takes some 20 s.

numba keeps no function that is given another one at run time, as pynndescent's loops are given
their distance, or that asks for the number of threads by an address of this process. So they are
compiled again, unchanged, with both known beforehand.
"""

import hashlib
import inspect
from contextlib import suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numba
import pynndescent
from numba.extending import overload
from numba.np.ufunc.parallel import _iget_num_threads
from pynndescent import pynndescent_ as original
from pynndescent.distances import squared_euclidean

from sklearn_cbir._compiled import compiled

PARAMETERS = (
    *("data", "n_neighbors", "rng_state", "max_candidates", "dist", "n_iters", "delta"),
    *("init_graph", "rp_tree_init", "leaf_array", "low_memory", "verbose", "kernel"),
)


def squared_distance(x, y):
    """Stand for a distance in compiled code; as a type, it takes no place in memory."""
    raise NotImplementedError


@overload(squared_distance)
def _call_squared_distance(x, y):  # noqa: ARG001
    return lambda x, y: squared_euclidean(x, y)


@numba.njit()
def _n_threads():
    return _iget_num_threads()


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


def _nn_descent():
    """Return pynndescent's `nn_descent`, which asks for the number of threads by its name."""
    threads = ModuleType("numba")
    vars(threads).update(vars(numba))
    vars(threads)["get_num_threads"] = _n_threads
    internal = numba.njit()(_with_globals(original.nn_descent_internal.py_func, numba=threads))
    return numba.njit()(
        _with_globals(original.nn_descent.py_func, numba=threads, nn_descent_internal=internal)
    )


_nn_descent_of_any_distance = _nn_descent()


def _compile(version):
    """Return `nn_descent` for the squared Euclidean distance."""

    def descend(
        data,
        n_neighbors,
        rng_state,
        max_candidates,
        n_iters,
        delta,
        init_graph,
        rp_tree_init,
        leaf_array,
        low_memory,
        verbose,
        kernel,
    ):
        assert version  # what is enclosed is in the key of what numba keeps: nothing else may be
        return _nn_descent_of_any_distance(
            data,
            n_neighbors,
            rng_state,
            max_candidates,
            squared_distance,
            n_iters,
            delta,
            init_graph,
            rp_tree_init,
            leaf_array,
            low_memory,
            verbose,
            kernel,
        )

    # Other threads wait, as they do for pynndescent: two of them in numba's simplest threading
    # layer would end the process.
    return compiled(descend, nogil=False)


def kept_class() -> Any:
    """Return pynndescent's class, whose constructor calls what is kept; None if it is another."""
    signature = inspect.signature(original.nn_descent.py_func)
    constructor: Any = original.NNDescent.__init__
    is_known = tuple(signature.parameters) == PARAMETERS
    if not is_known or "nn_descent" not in constructor.__code__.co_names:
        return None
    kept = _compile(_version())

    def nn_descent(*values, **options):
        bound = signature.bind(*values, **options)
        bound.apply_defaults()
        given = dict(bound.arguments)
        if given.pop("dist") is squared_euclidean:
            with suppress(numba.errors.NumbaError):
                return kept(*given.values())
        return original.nn_descent(*values, **options)

    class KeptNNDescent(original.NNDescent):
        """Finds what `NNDescent` finds, by the same steps."""

        __init__ = _with_globals(constructor, nn_descent=nn_descent)

    return KeptNNDescent
