"""One walk over a value and all that it holds, into one hash."""

import contextlib
import copyreg
import ctypes
import enum
import functools
import hashlib
import inspect
import io
import os
import random
import struct
import sys
import threading
import types
import weakref
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator

from sklearn_cbir._fingerprint._functions import (
    add_builtin,
    add_cached,
    add_cell,
    add_class,
    add_code,
    add_descriptor,
    add_function,
    add_method,
    add_module,
    add_partial,
    add_property,
    add_wrapper,
    is_own,
)
from sklearn_cbir._fingerprint._libraries import found_by_name, is_compiled, library_of

BLOCK_BYTES = 2**24
FILE_BYTES = 2**26  # files up to here are read, larger ones are known by size and time of change
# They change where, how fast or how loudly an estimator works, or tell how it was fitted.
NOT_IN_RESULT = {
    "checkpoint_dir",
    "cv_results_",
    "device",
    "history_",
    "memory",
    "n_jobs",
    "n_threads",
    "num_workers",
    "providers",
    "refit_time_",
    "verbose",
    "warm_start",
    "_skl_callbacks",
    "_training_state",
}
_DESCRIPTORS = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_UNREADABLE = {
    io.IOBase: "an open file",
    threading.Thread: "a thread",
    threading.local: "different in every thread",
    types.GeneratorType: "a generator, whose position cannot be read",
    types.CoroutineType: "a coroutine, whose position cannot be read",
    ctypes.CDLL: "a compiled library",
}


class Unknown(ValueError):
    """A value cannot be read, such as compiled or dynamic code. The message says what and why."""


def fingerprint(value, name="value", *, files=False, of=None):
    """Return a hash of a value, the same in every process; `name` is for errors.

    The user's own code and objects are read together with the files that their texts name. `files`
    says whether `value` itself is; `of` is the estimator of which it is an attribute.
    """
    walk = Walk([name], files=files if of is None else is_own(type(of)))
    if issubclass(type(value), (np.bool_, np.integer, np.float64)):
        value = value.item()  # as a search over an array gives them
    try:
        walk.add(value)
    except Unknown:
        raise
    except RecursionError as error:
        raise Unknown(f"{name} is nested too deeply to be read") from error
    except Exception as error:  # of code of others: what refuses to be looked at is not known
        walk.unknown(f"unreadable ({type(error).__name__}: {first_line(error)})")
    return walk.hexdigest()


# How values of Python's own types become bytes.
_ATOMS = {
    type(None): lambda value: b"",
    type(...): lambda value: b"",
    type(NotImplemented): lambda value: b"",
    bool: lambda value: b"%d" % value,
    int: lambda value: hex(value).encode(),
    float: lambda value: struct.pack("<d", value),
    complex: lambda value: struct.pack("<dd", value.real, value.imag),
    str: lambda value: value.encode("utf-8", "surrogatepass"),
    bytes: bytes,
    bytearray: bytes,
}


class Walk:
    """A hash that is fed one value after the other, whatever they hold."""

    def __init__(self, path, *, files=False, numbers=()):
        self._hash = hashlib.sha256()
        self.path = path  # names on the way to the value, for errors
        self._numbers = dict(numbers)  # id -> number of what may be met again, and the thing
        self._open = {}  # id -> depth of the containers around the value
        self._files = files  # whether texts may be names of files that are read

    def hexdigest(self):
        return self._hash.hexdigest()

    def put(self, *parts):
        """Feed text or bytes, each with its length, so that no two sequences are alike."""
        for part in parts:
            part = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            self._hash.update(b"%d:" % len(part))
            self._hash.update(part)

    def unknown(self, reason):
        """Raise an error: the current value cannot be read."""
        raise Unknown(f"{'.'.join(self.path)} is {reason}")

    def add(self, value, name=None):
        """Feed a value; `name` is its name in the object that holds it."""
        if name is not None:
            self.put(name)
            self.path.append(name)
        kind = type(value)
        if kind in _ATOMS:
            self.put(kind.__name__, _ATOMS[kind](value))
            if kind is str:
                self._add_file(value)
        elif kind in (list, tuple):
            self._sequence(value)
        elif kind is dict:
            self._mapping(value)
        else:
            self._handler(value)(self, value)
        if name is not None:
            self.path.pop()  # after an error the path stays, and says where

    def add_named(self, items):
        """Feed a mapping of names whose order does not matter."""
        self.put("names", str(len(items)))
        for name, item in sorted(items.items(), key=lambda pair: str(pair[0])):
            self.add(item, str(name))

    def is_new(self, value):
        """Say whether this very thing is met for the first time; feed its number if not."""
        if id(value) in self._numbers:
            self.put("again", str(self._numbers[id(value)][0]))
            return False
        # The thing is kept with its number: its address must not be given to another one.
        self._numbers[id(value)] = len(self._numbers), value
        return True

    @contextlib.contextmanager
    def of(self, *, own):
        """Feed the content of a user's own object, or of an estimator of a library."""
        before, self._files = self._files, own
        yield
        self._files = before

    def _handler(self, value):
        for kinds, handler in (*_torch_handlers(), *_HANDLERS):
            if isinstance(value, kinds):
                return handler
        return Walk._instance

    def _add_file(self, path):
        """Feed the content of a file that a value names; nothing if there is none."""
        if not self._files:
            return
        try:
            status = os.stat(path)
            is_file = os.path.isfile(path)
        except (OSError, ValueError):
            return
        if not is_file:
            return
        self.put("file", str(status.st_size))
        if status.st_size > FILE_BYTES:
            self.put(str(status.st_mtime_ns))
            return
        try:
            self.put(hashlib.sha256(Path(path).read_bytes()).digest())
        except OSError:
            self.put(str(status.st_mtime_ns))

    # Containers ----------------------------------------------------------------------------

    def _sequence(self, values):
        if self._is_around(values):
            return
        self._open[id(values)] = len(self._open)
        self.put(type(values).__name__, str(len(values)))
        for value in values:
            self.add(value)
        del self._open[id(values)]

    def _mapping(self, values):
        """Items in their order, which code may follow."""
        if self._is_around(values):
            return
        self._open[id(values)] = len(self._open)
        self.put("dict", str(len(values)))
        for key, item in values.items():
            self.key(key)
            self.path.append(str(key) if isinstance(key, (str, int)) else "...")
            self.add(item)
            self.path.pop()
        del self._open[id(values)]

    def key(self, key):
        if type(key) in _ATOMS:
            self.put(type(key).__name__, _ATOMS[type(key)](key))  # the name of no file
        else:
            self.add(key)

    def _is_around(self, values):
        """Say whether a container holds itself; feed how far up it is then."""
        if id(values) not in self._open:
            return False
        self.put("around", str(len(self._open) - self._open[id(values)]))
        return True

    def _set(self, values):
        """Feed members in a fixed order, because the order of a set differs between processes."""
        self.put("set")
        add_class(self, type(values))
        self.put(*sorted(self._apart(value) for value in values))
        self.add_named(getattr(values, "__dict__", {}))

    def _apart(self, value):
        """Return the hash of a value that is walked over in no particular order."""
        walk = Walk(self.path, files=self._files, numbers=self._numbers)
        walk.add(value)
        return walk.hexdigest()

    # Instances -----------------------------------------------------------------------------

    def _enum(self, member):
        self.put("enum")
        add_class(self, type(member))
        self.put(str(member.name))
        self.add(member.value)

    def _path_of_file(self, path):
        self.put("path", str(path))
        self._add_file(path)

    def _lock(self, lock):
        self.put("lock")

    def _reference(self, reference):
        self.put("reference")
        self.add(reference())

    def _array(self, array):
        if isinstance(array, np.ma.MaskedArray):
            self.put("masked", repr(array.fill_value))
            add_class(self, type(array))
            self.add(np.ma.getmaskarray(array))
            array = np.ma.getdata(array)
        if type(array) not in (np.ndarray, np.memmap):
            self._instance(array)
            return
        self._dtype(array.dtype)
        self.put("array", str(array.shape))
        if array.dtype.hasobject:
            self._sequence(array.ravel().tolist())
            return
        # Block by block: the bytes of all of it may be too many.
        array = array.reshape(1) if not array.ndim else array
        rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            self._hash.update(array[start : start + rows].tobytes())

    def _dtype(self, dtype):
        self.put("dtype", repr(dtype.descr) if dtype.names else dtype.str)

    def _scalar(self, scalar):
        self._dtype(scalar.dtype)
        self.put(scalar.tobytes())

    def _sparse(self, matrix):
        self.put("sparse", matrix.format)
        add_class(self, type(matrix))
        rows = matrix.tocsr(copy=True)
        rows.sum_duplicates()
        for part in (np.array(rows.shape), rows.data, rows.indices, rows.indptr):
            self.add(part)

    def _generator(self, generator):
        """The state of a generator; libraries' global ones are one and the same thing."""
        if generator is random._inst or generator is np.random.mtrand._rand:
            self.put("the global generator")
            return
        add_class(self, type(generator))
        if isinstance(generator, random.SystemRandom):
            return
        if isinstance(generator, random.Random):
            self.add(generator.getstate())
        elif isinstance(generator, np.random.RandomState):
            self.add(generator.get_state(legacy=False))
        else:
            self.add(getattr(generator, "bit_generator", generator).state)

    def _estimator(self, estimator):
        """Feed the parameters and learned attributes of an estimator like scikit-learn's."""
        if not self.is_new(estimator):
            return
        add_class(self, type(estimator))
        with self.of(own=is_own(type(estimator))):
            self.add_named(result_state(estimator))

    def _instance(self, value):
        """Feed any other object: its class, and the state that pickle would store."""
        for kinds, reason in _UNREADABLE.items():
            if isinstance(value, kinds):
                self.unknown(reason)
        kind = type(value)
        if kind.__module__ in ("ctypes", "_ctypes") or isinstance(value, _C_DATA):
            self.unknown("of ctypes, and compiled")
        if _is_named(value):
            self.put("library", library_of(value.__module__), value.__module__, value.__qualname__)
            return
        if not self.is_new(value):
            return
        self.put("instance")
        add_class(self, kind)
        wrapped = getattr(value, "__wrapped__", None)
        if library_of(kind.__module__) and isinstance(wrapped, types.FunctionType):
            self.add(wrapped)  # compiled or remembered by a library
            return
        reduced = self._reduced(value)
        if isinstance(reduced, str):
            self._place(value, reduced)
            return
        function, arguments, state, items, pairs = cast(Any, (*reduced, None, None, None)[:5])
        with self.of(own=self._files or is_own(kind)):
            self.add(function)
            self.add(tuple(arguments))
            self._state(kind, state)
            for found in (items, pairs):
                self.put("items")
                for item in found or ():
                    self.add(item)

    def _reduced(self, value):
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            return value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception as error:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            self.unknown(f"a {kind}, whose state cannot be read ({first_line(error)})")

    def _place(self, value, name):
        """Feed an object that pickle would find only by its name."""
        module = getattr(value, "__module__", None) or type(value).__module__
        found = functools.reduce(
            lambda holder, part: getattr(holder, part, None),
            name.split("."),
            sys.modules.get(module),
        )
        if found is not value or not (library_of(module) or not is_compiled(module)):
            self.unknown(f"known by the name {name!r} alone, and may be compiled")
        self.put("place", name, library_of(module) or "")
        self.add_named(getattr(value, "__dict__", {}))

    def _state(self, kind, state):
        """Attributes and slots in no order, without those that were computed on demand."""
        parts: Any = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        parts = [{} if part is None else part for part in parts]  # none was computed on demand yet
        if not all(isinstance(part, dict) and all(map(_is_name, part)) for part in parts):
            self.add(state)
            return
        named = {k: v for part in parts for k, v in part.items()}
        self.add_named({k: v for k, v in named.items() if not _is_cache(kind, k)})


def _is_name(key):
    return isinstance(key, str)


_C_DATA = ctypes.c_int.__mro__[-2]  # what all types of ctypes derive from


def result_state(estimator):
    """Return the attributes of an estimator on which its results depend."""
    state = estimator.__getstate__()
    state = state if isinstance(state, dict) else {"state": state}
    if hasattr(type(estimator), "_in_result"):  # of ours: it knows itself
        state = estimator._in_result(state)
    return {
        k: v
        for k, v in state.items()
        if k not in NOT_IN_RESULT and not _is_cache(type(estimator), k)
    }


def _is_cache(kind, name):
    return isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)


def first_line(error):
    """Return how the message of an error begins."""
    return str(error).partition("\n")[0][:100]


def _is_named(value):
    """Say whether an object is a function of a library, though of a type of its own."""
    names = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not callable(value) or not all(isinstance(name, str) for name in names):
        return False
    return library_of(names[0]) is not None and found_by_name(value)


@functools.cache
def _import_torch_handlers():
    from sklearn_cbir._fingerprint._torch import HANDLERS

    return HANDLERS


def _torch_handlers():
    return _import_torch_handlers() if "torch" in sys.modules else ()


_HANDLERS = (
    (types.FunctionType, add_function),
    (enum.Enum, Walk._enum),
    (type, add_class),
    (types.ModuleType, add_module),
    (types.BuiltinFunctionType, add_builtin),
    (types.MethodType, add_method),
    (_DESCRIPTORS, add_descriptor),
    ((staticmethod, classmethod), add_wrapper),
    (property, add_property),
    (functools.partial, add_partial),
    (functools._lru_cache_wrapper, add_cached),
    (types.CodeType, add_code),
    (types.CellType, add_cell),
    (types.MappingProxyType, Walk._mapping),
    (weakref.ref, Walk._reference),
    (_LOCKS, Walk._lock),
    (PurePath, Walk._path_of_file),
    (np.ndarray, Walk._array),
    (np.generic, Walk._scalar),
    (np.dtype, Walk._dtype),
    (sparse.spmatrix, Walk._sparse),
    (sparse.sparray, Walk._sparse),
    (
        (random.Random, np.random.RandomState, np.random.Generator, np.random.BitGenerator),
        Walk._generator,
    ),
    (BaseEstimator, Walk._estimator),
    ((set, frozenset), Walk._set),
)
