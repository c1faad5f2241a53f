"""One walk over a value and all that it holds, into one hash."""

import contextlib
import copyreg
import ctypes
import enum
import functools
import hashlib
import importlib
import importlib.util
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

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator

from sklearn_cbir._fingerprint._code import instructions, is_dynamic, modules_imported, names_read
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
    "num_workers",
    "refit_time_",
    "verbose",
    "warm_start",
    "_skl_callbacks",
    "_training_state",
}
# Where a class stands, what is written about it, and what Python notes down for itself.
_NOT_OF_A_CLASS = {
    "__abstractmethods__",
    "__annotate__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__dataclass_fields__",  # in the methods that were made of them
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__orig_bases__",
    "__parameters__",
    "__qualname__",
    "__slotnames__",
    "__static_attributes__",
    "__weakref__",
    "_abc_impl",
    "_backward_cls",  # torch makes it of an autograd function, with a running number
    "_value2member_map_",
}
# Names that say where code stands: a script and the module of the same code have others.
_OF_A_PLACE = {"__doc__", "__file__", "__loader__", "__name__", "__package__", "__spec__"}
_HAS_DOCSTRING = 0x4000000  # in the flags of code, from Python 3.14 on
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
    types.GeneratorType: "a generator, whose place cannot be read",
    types.CoroutineType: "a coroutine, whose place cannot be read",
    ctypes.CDLL: "a compiled library",
}


class Unknown(ValueError):
    """What a value is cannot be told: compiled or dynamic code. The message says what and why."""


def fingerprint(value, name="value", *, files=False, of=None):
    """Return a hash of a value, the same in every process; `name` is for errors.

    What the user's own code and objects hold is looked at with the files that texts in it name;
    `files` says whether `value` itself is, `of` an estimator that it is an attribute of.
    """
    walk = Walk([name], files=files if of is None else _is_own(type(of)))
    if issubclass(type(value), (np.bool_, np.integer, np.float64)):
        value = value.item()  # as a search over an array gives them
    try:
        walk.add(value)
    except Unknown:
        raise
    except RecursionError as error:
        raise Unknown(f"{name} is nested too deeply to be looked at") from error
    except Exception as error:  # of code of others: what refuses to be looked at is not known
        walk.unknown(f"not to be looked at ({type(error).__name__}: {first_line(error)})")
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
        self._path = path  # names on the way to the value, for errors
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
        """Raise: what is being walked over cannot be known."""
        raise Unknown(f"{'.'.join(self._path)} is {reason}")

    def add(self, value, name=None):
        """Feed a value; `name` is what it is called in the thing that holds it."""
        if name is not None:
            self.put(name)
            self._path.append(name)
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
            self._path.pop()  # after an error the path stays, and says where

    def add_named(self, items):
        """Feed a mapping of names whose order says nothing."""
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
        """Walk over what something of the user's own holds, or else an estimator of a library."""
        before, self._files = self._files, own
        yield
        self._files = before

    def _handler(self, value):
        for kinds, handler in (*_torch_handlers(), *_HANDLERS):
            if isinstance(value, kinds):
                return handler
        return Walk._instance

    def _add_file(self, path):
        """Feed what is in a file that is named by a value; nothing if there is none."""
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
            self._key(key)
            self._path.append(str(key) if isinstance(key, (str, int)) else "...")
            self.add(item)
            self._path.pop()
        del self._open[id(values)]

    def _key(self, key):
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
        """Members by what they are: the order of a set differs from process to process."""
        self.put("set")
        self._class(type(values))
        self.put(*sorted(self._apart(value) for value in values))
        self.add_named(getattr(values, "__dict__", {}))

    def _apart(self, value):
        """Return the hash of a value that is walked over in no particular order."""
        walk = Walk(self._path, files=self._files, numbers=self._numbers)
        walk.add(value)
        return walk.hexdigest()

    # Code ----------------------------------------------------------------------------------

    def _function(self, function):
        module = function.__globals__.get("__name__")
        library = library_of(module)
        if is_dynamic(function):
            self.unknown(f"{function.__qualname__}, and what that runs cannot be known")
        if hasattr(function, "_torchdynamo_orig_callable"):
            self.unknown("compiled by torch.compile")
        if library and found_by_name(function):
            self.put("library", library, function.__module__, function.__qualname__)
            return
        if not self.is_new(function):
            return
        self.put("function", function.__name__)
        code = function.__code__
        self._code(code)
        if library and hasattr(function, "registry"):  # of singledispatch, with a cache in it
            self._mapping(dict(function.registry))
            return
        with self.of(own=library is None):
            if library is None:
                self._read(function.__code__, function.__globals__)
            self.add(function.__defaults__)
            self.add_named(function.__kwdefaults__ or {})
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
                self.add(cell, name)
            self.add_named(vars(function))

    def _cell(self, cell):
        try:
            value = cell.cell_contents
        except ValueError:
            self.put("empty")
        else:
            self.add(value)

    def _code(self, code):
        """What code does: no names of files, numbers of lines or docstrings."""
        self.put("code")
        flags = code.co_flags & ~_HAS_DOCSTRING
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, flags
        self._constant((*counts, code.co_varnames, code.co_freevars, code.co_cellvars))
        for name, argument in instructions(code):
            self.put(name)
            self._constant(argument)
        self.put(getattr(code, "co_exceptiontable", b""))

    def _constant(self, value):
        if isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, tuple):
            self.put("tuple", str(len(value)))
            for item in value:
                self._constant(item)
        else:
            self._key(value)

    def _read(self, code, namespace):
        """What code reads by global names, and what it imports while it runs."""
        for chain in names_read(code):
            self.put("global", *chain)
            if chain[0] in _OF_A_PLACE:
                continue
            self._path.append(chain[0])
            self._global(chain, namespace)
            self._path.pop()
        for level, name, names in modules_imported(code):
            self.put("import", name, *names)
            self._path.append(name)
            self._import(level, name, names, namespace)
            self._path.pop()

    def _global(self, chain, namespace):
        """What a global name stands for; of a module, what the attributes stand for."""
        builtins = sys.modules["builtins"]
        holder = namespace if chain[0] in namespace else vars(builtins)
        if chain[0] not in holder:
            self.put("unbound")
            return
        self._attributes(holder[chain[0]], chain[1:])

    def _attributes(self, value, names):
        """Follow attributes through modules, and feed what stands at the end."""
        names, library, depth = list(names), None, len(self._path)
        while isinstance(value, types.ModuleType):
            library = library or library_of(value.__name__)
            if not names:
                break
            self._path.append(names[0])
            try:
                value = getattr(value, names.pop(0))
            except AttributeError:
                value, library = None, "missing"
        if library is None or is_dynamic(value) or _is_own_code(value) or _is_operator(value):
            self.add(value)
        else:
            self.put("library", library)  # the name has been fed
        del self._path[depth:]

    def _import(self, level, name, names, namespace):
        try:
            name = importlib.util.resolve_name("." * level + name, namespace.get("__package__"))
            library = library_of(name)
            module = None if library else importlib.import_module(name)
        except (ImportError, ValueError):
            self.put("missing")
            return
        if library:
            self.put("library", library)
        elif names and "*" not in names:
            for one in names:
                if not hasattr(module, one) and importlib.util.find_spec(f"{name}.{one}"):
                    importlib.import_module(f"{name}.{one}")
                self._attributes(module, [one])
        else:
            self.add(module)

    def _class(self, cls):
        library = library_of(cls.__module__)
        is_heap_type = cls.__flags__ & (1 << 9)
        if library and (not is_heap_type or found_by_name(cls)):
            self.put("library", library, cls.__module__, cls.__qualname__)
            return
        if not library and is_compiled(cls.__module__):
            self.unknown(f"of the compiled class {cls.__module__}.{cls.__qualname__}")
        if not self.is_new(cls):
            return
        self.put("class", cls.__name__)
        for base in (type(cls), *cls.__bases__):
            self._class(base)
        self.add_named({k: v for k, v in vars(cls).items() if k not in _NOT_OF_A_CLASS})

    def _module(self, module):
        """All of a module that code does not name attribute by attribute."""
        library = library_of(module.__name__)
        if library:
            self.put("library", library, module.__name__)
        elif is_compiled(module.__name__):
            self.unknown(f"the compiled module {module.__name__}")
        elif self.is_new(module):
            self.put("module")
            self.add_named({k: v for k, v in vars(module).items() if not k.startswith("__")})

    def _builtin(self, function):
        """A compiled function, or such a method of an object."""
        owner = function.__self__
        if is_dynamic(function):
            self.unknown(f"{function.__name__}, and what that runs cannot be known")
        self.put("builtin", function.__name__)
        if owner is None or isinstance(owner, types.ModuleType):
            module = function.__module__ or getattr(owner, "__name__", None)
            library = library_of(module)
            if library is None:
                self.unknown(f"a compiled function of {module}")
            self.put(library, module)
        else:
            self.add(owner)

    def _descriptor(self, descriptor):
        self.put("descriptor", descriptor.__name__)
        self._class(descriptor.__objclass__)

    def _method(self, method):
        self.put("method")
        self.add(method.__func__)
        self.add(method.__self__)

    def _wrapper(self, wrapper):
        self.put(type(wrapper).__name__)
        self.add(wrapper.__func__)

    def _property(self, value):
        self.put("property")
        self._class(type(value))
        for function in (value.fget, value.fset, value.fdel):
            self.add(function)

    def _partial(self, value):
        self.put("partial")
        self._class(type(value))
        self.add(value.func)
        self.add(value.args)
        self.add_named(value.keywords)
        self.add_named(vars(value))

    def _cached(self, value):
        """A function that remembers results, whatever they are now."""
        self.put("cached", repr(sorted(value.cache_parameters().items())))
        self.add(value.__wrapped__)

    # Instances -----------------------------------------------------------------------------

    def _enum(self, member):
        self.put("enum")
        self._class(type(member))
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
            self._class(type(array))
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
        self._class(type(matrix))
        rows = matrix.tocsr(copy=True)
        rows.sum_duplicates()
        for part in (np.array(rows.shape), rows.data, rows.indices, rows.indptr):
            self.add(part)

    def _generator(self, generator):
        """The state of a generator; libraries' global ones are one and the same thing."""
        if generator is random._inst or generator is np.random.mtrand._rand:
            self.put("the global generator")
            return
        self._class(type(generator))
        if isinstance(generator, random.SystemRandom):
            return
        if isinstance(generator, random.Random):
            self.add(generator.getstate())
        elif isinstance(generator, np.random.RandomState):
            self.add(generator.get_state(legacy=False))
        else:
            self.add(getattr(generator, "bit_generator", generator).state)

    def _estimator(self, estimator):
        """What an estimator of scikit-learn's kind was told and has learned."""
        if not self.is_new(estimator):
            return
        self._class(type(estimator))
        with self.of(own=_is_own(type(estimator))):
            self.add_named(result_state(estimator))

    def _instance(self, value):
        """Any other object: its class, and what pickle would keep of it."""
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
        self._class(kind)
        wrapped = getattr(value, "__wrapped__", None)
        if library_of(kind.__module__) and isinstance(wrapped, types.FunctionType):
            self.add(wrapped)  # compiled or remembered by a library
            return
        reduced = self._reduced(value)
        if isinstance(reduced, str):
            self._place(value, reduced)
            return
        function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        with self.of(own=self._files or _is_own(kind)):
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
        """Feed what pickle would find by its name alone."""
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
        """Attributes in no order, without those that were computed on demand."""
        attributes, slots = state, None
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            attributes, slots = state
        for part in (attributes, slots):
            part = {} if part is None else part  # nothing was computed on demand yet
            if isinstance(part, dict) and all(isinstance(name, str) for name in part):
                self.add_named({k: v for k, v in part.items() if not _is_cache(kind, k)})
            else:
                self.add(part)


_C_DATA = ctypes.c_int.__mro__[-2]  # what all types of ctypes derive from


def result_state(estimator):
    """Return the attributes of an estimator that what it gives depends on."""
    state = estimator.__getstate__()
    state = state if isinstance(state, dict) else {"state": state}
    return {
        k: v
        for k, v in state.items()
        if k not in NOT_IN_RESULT and not _is_cache(type(estimator), k)
    }


def _is_own(kind):
    return library_of(kind.__module__) is None


def _is_cache(kind, name):
    return isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)


def _is_own_code(value):
    """Say whether a name of a library now stands for code of the user's own."""
    if isinstance(value, types.FunctionType):
        return library_of(value.__globals__.get("__name__")) is None
    return isinstance(value, type) and _is_own(value)


def first_line(error):
    """Return how the message of an error begins."""
    return str(error).partition("\n")[0][:100]


def _is_operator(value):
    """Say whether a value is an operator of torch, which anybody may register."""
    return type(value).__module__ == "torch._ops"


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
    (types.FunctionType, Walk._function),
    (enum.Enum, Walk._enum),
    (type, Walk._class),
    (types.ModuleType, Walk._module),
    (types.BuiltinFunctionType, Walk._builtin),
    (types.MethodType, Walk._method),
    (_DESCRIPTORS, Walk._descriptor),
    ((staticmethod, classmethod), Walk._wrapper),
    (property, Walk._property),
    (functools.partial, Walk._partial),
    (functools._lru_cache_wrapper, Walk._cached),
    (types.CodeType, Walk._code),
    (types.CellType, Walk._cell),
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
