"""Seeds for whatever the code of others draws random numbers from."""

import contextlib
import inspect
import random
import sys
import types
from collections import deque

import numpy as np

from sklearn_cbir._locks import ProcessLock

_LOCK = ProcessLock()
_BIT_GENERATOR = np.random.BitGenerator
_PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None), np.ndarray, np.generic)
# Where objects, bound methods (compiled ones too), partials, decorators and properties hold things.
_HELD = "__dict__", "__self__", "__func__", "__wrapped__", "func", "args", "keywords", "fget"
# Their functions draw from the global generators, which are seeded anyway.
_LIBRARIES = {"numpy", "scipy", "torch", "torchvision", "PIL", "sklearn", "sklearn_cbir", "skorch"}
_LIBRARIES |= {"joblib", "numba", "dask", "pandas", "polars", "pyarrow", "matplotlib", "rich"}
_LIBRARIES |= {"timm", "open_clip", "transformers", "pytorch_metric_learning", "torchmetrics"}
_LIBRARIES |= {"IPython", "pytest", "_pytest"}  # large, and named by code that runs under them
_LIBRARIES |= set(sys.stdlib_module_names)


class Draws:
    """The generators that objects and functions of others can draw from.

    These are the global ones of `random`, numpy and torch (on the CPU), and all that a source, such
    as an augmentation, holds, closes over or names. Its code is searched once, its objects every
    time.
    """

    def __init__(self, *sources):
        self.sources = sources
        self._found = []

    @contextlib.contextmanager
    def seeded(self, seed):
        """Seed the generators inside the block; they are untouched afterwards.

        They are shared by all threads, so that one block runs at a time.
        """
        import torch

        with _LOCK:
            generators = [_wrapped(one) for one in self._find()]
            states = [one.state() for one in generators]
            try:
                for number, one in enumerate(generators):
                    one.seed(_mixed(seed, number))
                torch.default_generator.manual_seed(seed)
                yield
            finally:
                for one, state in zip(generators, states):
                    one.restore(state)

    def _find(self):
        import torch

        if self._found:
            found = find_generators(*self._found, *self.sources, code=False)
        else:
            shared = random.seed.__self__, np.random.mtrand._rand, torch.default_generator
            found = find_generators(*shared, *self.sources)
        self._found = found
        return found

    def __getstate__(self):
        return {"sources": self.sources, "_found": []}  # another process has generators of its own


@contextlib.contextmanager
def one_torch_thread():
    """Sum in one order inside the block: with one torch thread, as in a loader process."""
    import torch

    n_threads = torch.get_num_threads()
    if n_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def find_generators(*sources, code=True):
    """Return the generators that objects reach, each once, in a fixed order.

    `code` says whether to look through functions and classes as well.
    """
    import torch

    kinds = random.Random, np.random.Generator, np.random.RandomState, _BIT_GENERATOR
    kinds = *kinds, torch.Generator
    found = []
    seen = {}  # by id; it holds the objects, whose ids are not given away meanwhile
    waiting = list(reversed(sources))
    while waiting:
        thing = waiting.pop()
        # Of the type, not the thing: a proxy may be asked nothing.
        if issubclass(type(thing), _PLAIN) or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if issubclass(type(thing), kinds):
            # That of the operating system has no seed.
            found += [] if issubclass(type(thing), random.SystemRandom) else [thing]
        elif code or not issubclass(type(thing), (type, types.FunctionType)):
            waiting.extend(reversed(list(_parts_of(thing))))
    return found


def _parts_of(thing):
    """Yield the parts of an object, function, class or collection."""
    kind = type(thing)
    if issubclass(kind, dict):
        yield from list(dict.values(thing))
    elif issubclass(kind, (list, tuple, deque)):
        yield from list(thing)
    elif issubclass(kind, types.FunctionType):
        yield from _parts_of_function(thing)
    elif issubclass(kind, type):
        if not _is_of_library(thing):
            yield from (dict(vars(cls)) for cls in thing.__mro__ if not _is_of_library(cls))
    elif not issubclass(kind, types.ModuleType):
        names = list(_HELD)
        for cls in kind.__mro__:
            slots = vars(cls).get("__slots__", ())
            names += [slots] if isinstance(slots, str) else list(slots)
        for name in names:
            with contextlib.suppress(Exception):  # not there, or not to be asked
                yield object.__getattribute__(thing, name)
        yield kind


def _parts_of_function(function):
    """Yield defaults, closure variables, and named globals of the function's module."""
    yield from (function.__defaults__, function.__kwdefaults__, vars(function))
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not bound yet
            yield cell.cell_contents
    if _is_of_library(function):
        return
    names = dict.fromkeys(_names_in(function.__code__))
    spaces = [function.__globals__]
    for space in spaces:
        for thing in map(space.get, names):
            if not isinstance(thing, types.ModuleType):
                yield thing
            elif not _is_of_library(thing) and not any(vars(thing) is other for other in spaces):
                spaces.append(vars(thing))


def _names_in(code):
    """Yield the names that code looks up, inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _names_in(constant)


def _is_of_library(thing):
    name = thing.__name__ if inspect.ismodule(thing) else getattr(thing, "__module__", None)
    return isinstance(name, str) and name.split(".")[0] in _LIBRARIES


def _mixed(*parts):
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


# One way to speak to all kinds of generators --------------------------------------------------


def _wrapped(generator):
    if isinstance(generator, random.Random):
        return _OfPython(generator)
    if isinstance(generator, np.random.RandomState):
        return _OfRandomState(generator)
    if isinstance(generator, np.random.Generator):
        return _OfNumpy(generator.bit_generator)
    return _OfNumpy(generator) if isinstance(generator, _BIT_GENERATOR) else _OfTorch(generator)


class _OfPython:
    def __init__(self, generator):
        self.state = generator.getstate
        self.seed = generator.seed
        self.restore = generator.setstate


class _OfTorch:
    def __init__(self, generator):
        self.state = generator.get_state
        self.seed = generator.manual_seed
        self.restore = generator.set_state


class _OfNumpy:
    def __init__(self, bits):
        self.bits = bits

    def state(self):
        return self.bits.state

    def seed(self, seed):
        self.bits.state = type(self.bits)(seed).state

    def restore(self, state):
        self.bits.state = state


class _OfRandomState:
    """The legacy class, which also keeps every second normal number for the next call."""

    def __init__(self, generator):
        self.generator = generator
        self.restore = generator.set_state

    def state(self):
        return self.generator.get_state(legacy=False)

    def seed(self, seed):
        fresh = np.random.RandomState(type(self.generator._bit_generator)(seed))
        self.generator.set_state(fresh.get_state(legacy=False))
