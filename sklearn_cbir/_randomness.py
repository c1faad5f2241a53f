"""Seeds for whatever the code of others draws random numbers from."""

import contextlib
import functools
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
# Their functions draw from the global generators, which are seeded anyway.
_LIBRARIES = {"numpy", "scipy", "torch", "torchvision", "PIL", "sklearn", "sklearn_cbir"}
_LIBRARIES |= set(sys.stdlib_module_names)


@contextlib.contextmanager
def drawing_from(seed, *sources):
    """Seed all that `sources` can draw from inside the block; it is untouched afterwards.

    That are the global generators of `random`, numpy and torch (on the CPU), and every generator
    that is held, closed over or named by a source, such as an augmentation. They are shared by
    all threads, so that one block runs at a time.
    """
    import torch

    shared = random.seed.__self__, np.random.mtrand._rand, torch.default_generator
    generators = [_wrapped(one) for one in find_generators(*shared, *sources)]
    with _LOCK:
        states = [one.state() for one in generators]
        try:
            for number, one in enumerate(generators):
                one.seed(
                    int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])
                )
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            for one, state in zip(generators, states):
                one.restore(state)


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


def find_generators(*sources):
    """Return the generators that objects and functions reach, each once, in a fixed order."""
    import torch

    kinds = random.Random, np.random.Generator, np.random.RandomState, _BIT_GENERATOR
    kinds = *kinds, torch.Generator
    found = []
    seen = {}  # by id; it holds the objects, whose ids are not given away meanwhile
    waiting = list(reversed(sources))
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, _PLAIN) or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, kinds):
            # That of the operating system has no seed.
            found += [] if isinstance(thing, random.SystemRandom) else [thing]
        else:
            waiting.extend(reversed(list(_parts_of(thing))))
    return found


def _parts_of(thing):
    """Yield what an object, function, class or collection is made of."""
    if isinstance(thing, dict):
        yield from list(thing.values())
    elif isinstance(thing, (list, tuple, deque)):
        yield from list(thing)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, types.FunctionType):
        yield from _parts_of_function(thing)
    elif isinstance(thing, (staticmethod, classmethod)):
        yield thing.__func__
    elif isinstance(thing, property):
        yield from (thing.fget, thing.fset)
    elif isinstance(thing, type):
        if not _is_of_library(thing):
            yield from (dict(vars(cls)) for cls in thing.__mro__ if not _is_of_library(cls))
    elif not isinstance(thing, types.ModuleType):
        yield getattr(thing, "__self__", None)  # of bound methods, the compiled ones too
        yield getattr(thing, "__func__", None)
        yield getattr(thing, "__wrapped__", None)
        yield from list(getattr(thing, "__dict__", {}).values())
        for cls in type(thing).__mro__:
            slots = vars(cls).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                yield getattr(thing, name, None)
        yield type(thing)


def _parts_of_function(function):
    """Yield defaults, what is closed over, and what is named of the function's module."""
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
