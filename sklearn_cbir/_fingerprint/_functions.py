"""The content of functions, classes and modules: their code, and all that it names."""

import functools
import importlib
import importlib.util
import sys
import types

from sklearn_cbir._fingerprint._code import instructions, is_dynamic, modules_imported, names_read
from sklearn_cbir._fingerprint._libraries import found_by_name, is_compiled, library_of

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
    "__slots__",  # nor their descriptors: a copy in another process may have attributes instead
    "__static_attributes__",
    "__weakref__",
    "_abc_impl",
    "_backward_cls",  # torch makes it of an autograd function, with a running number
    "_value2member_map_",
}
# Names that say where code stands: a script and the module of the same code have others.
_OF_A_PLACE = {"__doc__", "__file__", "__loader__", "__name__", "__package__", "__spec__"}
_HAS_DOCSTRING = 0x4000000  # in the flags of code, from Python 3.14 on


def add_function(walk, function):
    module = function.__globals__.get("__name__")
    library = library_of(module)
    if is_dynamic(function):
        walk.unknown(f"{function.__qualname__}, which may run any code")
    if hasattr(function, "_torchdynamo_orig_callable"):
        walk.unknown("compiled by torch.compile")
    # A decorator of a library gives its own code the module and the name of what it decorates.
    if library and library_of(function.__module__) and found_by_name(function):
        walk.put("library", library, function.__module__, function.__qualname__)
        return
    if not walk.is_new(function):
        return
    walk.put("function", function.__name__)
    code = function.__code__
    add_code(walk, code)
    if library and hasattr(function, "registry"):  # of singledispatch, with a cache in it
        walk.add(dict(function.registry))
        return
    with walk.of(own=library is None):
        if library is None:
            _read(walk, function.__code__, function.__globals__)
        walk.add(function.__defaults__)
        walk.add_named(function.__kwdefaults__ or {})
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            walk.add(cell, name)
        walk.add_named(vars(function))


def add_cell(walk, cell):
    try:
        value = cell.cell_contents
    except ValueError:
        walk.put("empty")
    else:
        walk.add(value)


def add_code(walk, code):
    """Feed the instructions of code, without file names, line numbers and docstrings."""
    walk.put("code")
    flags = code.co_flags & ~_HAS_DOCSTRING
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, flags
    _constant(walk, (*counts, code.co_varnames, code.co_freevars, code.co_cellvars))
    for name, argument in instructions(code):
        walk.put(name)
        _constant(walk, argument)
    walk.put(getattr(code, "co_exceptiontable", b""))


def _constant(walk, value):
    if isinstance(value, types.CodeType):
        add_code(walk, value)
    elif isinstance(value, tuple):
        walk.put("tuple", str(len(value)))
        for item in value:
            _constant(walk, item)
    else:
        walk.key(value)


def _read(walk, code, namespace):
    """Feed the globals that code reads, and the modules that it imports at run time."""
    for chain in names_read(code):
        walk.put("global", *chain)
        if chain[0] in _OF_A_PLACE:
            continue
        walk.path.append(chain[0])
        _global(walk, chain, namespace)
        walk.path.pop()
    for level, name, names in modules_imported(code):
        walk.put("import", name, *names)
        walk.path.append(name)
        _import(walk, level, name, names, namespace)
        walk.path.pop()


def _global(walk, chain, namespace):
    """What a global name stands for; of a module, what the attributes stand for."""
    builtins = sys.modules["builtins"]
    holder = namespace if chain[0] in namespace else vars(builtins)
    if chain[0] not in holder:
        walk.put("unbound")
        return
    _attributes(walk, holder[chain[0]], chain[1:])


def _attributes(walk, value, names):
    """Follow attributes through modules, and feed what stands at the end."""
    names, library, depth = list(names), None, len(walk.path)
    while isinstance(value, types.ModuleType):
        library = library or library_of(value.__name__)
        if not names:
            break
        walk.path.append(names[0])
        try:
            value = getattr(value, names.pop(0))
        except AttributeError:
            value, library = None, "missing"
    if library is None or is_dynamic(value) or _is_own_code(value) or _is_operator(value):
        walk.add(value)
    else:
        walk.put("library", library)  # the name has been fed
    del walk.path[depth:]


def _import(walk, level, name, names, namespace):
    try:
        name = importlib.util.resolve_name("." * level + name, namespace.get("__package__"))
        library = library_of(name)
        module = None if library else importlib.import_module(name)
    except (ImportError, ValueError):
        walk.put("missing")
        return
    if library:
        walk.put("library", library)
    elif names and "*" not in names:
        for one in names:
            if not hasattr(module, one) and importlib.util.find_spec(f"{name}.{one}"):
                importlib.import_module(f"{name}.{one}")
            _attributes(walk, module, [one])
    else:
        walk.add(module)


def add_class(walk, cls):
    library = library_of(cls.__module__)
    is_heap_type = cls.__flags__ & (1 << 9)
    if library and (not is_heap_type or found_by_name(cls)):
        walk.put("library", library, cls.__module__, cls.__qualname__)
        return
    if not library and is_compiled(cls.__module__):
        walk.unknown(f"of the compiled class {cls.__module__}.{cls.__qualname__}")
    if not walk.is_new(cls):
        return
    walk.put("class", cls.__name__)
    for base in (type(cls), *cls.__bases__):
        add_class(walk, base)
    left_out = _NOT_OF_A_CLASS | {k for k, v in vars(cls).items() if _is_slot(v)}
    walk.add_named({k: v for k, v in vars(cls).items() if k not in left_out})


def _is_slot(value):
    return isinstance(value, types.MemberDescriptorType)


def add_module(walk, module):
    """All of a module that code does not name attribute by attribute."""
    library = library_of(module.__name__)
    if library:
        walk.put("library", library, module.__name__)
    elif is_compiled(module.__name__):
        walk.unknown(f"the compiled module {module.__name__}")
    elif walk.is_new(module):
        walk.put("module")
        walk.add_named({k: v for k, v in vars(module).items() if not k.startswith("__")})


def add_builtin(walk, function):
    """A compiled function, or such a method of an object."""
    owner = function.__self__
    if is_dynamic(function):
        walk.unknown(f"{function.__name__}, which may run any code")
    walk.put("builtin", function.__name__)
    if owner is None or isinstance(owner, types.ModuleType):
        module = function.__module__ or getattr(owner, "__name__", None)
        library = library_of(module)
        if library is None:
            walk.unknown(f"a compiled function of {module}")
        walk.put(library, module)
    else:
        walk.add(owner)


def add_descriptor(walk, descriptor):
    walk.put("descriptor", descriptor.__name__)
    add_class(walk, descriptor.__objclass__)


def add_method(walk, method):
    walk.put("method")
    walk.add(method.__func__)
    walk.add(method.__self__)


def add_wrapper(walk, wrapper):
    walk.put(type(wrapper).__name__)
    walk.add(wrapper.__func__)


def add_property(walk, value):
    walk.put("property")
    add_class(walk, type(value))
    for function in (value.fget, value.fset, value.fdel):
        walk.add(function)


def add_partial(walk, value):
    walk.put("partial")
    add_class(walk, type(value))
    walk.add(value.func)
    walk.add(value.args)
    walk.add_named(value.keywords)
    walk.add_named(vars(value))


def add_cached(walk, value):
    """A function that remembers results, whatever they are now."""
    walk.put("cached", repr(sorted(value.cache_parameters().items())))
    walk.add(value.__wrapped__)


def is_own(kind):
    return library_of(kind.__module__) is None


def _is_own_code(value):
    """Return whether a name of a library now refers to the user's own code."""
    while isinstance(value, (functools.partial, functools._lru_cache_wrapper)):
        value = value.func if isinstance(value, functools.partial) else value.__wrapped__
    if isinstance(value, types.FunctionType):
        names = value.__globals__.get("__name__"), value.__module__
        return not all(map(library_of, names))
    return isinstance(value, type) and is_own(value)


def _is_operator(value):
    """Say whether a value is an operator of torch, which anybody may register."""
    return type(value).__module__ == "torch._ops"
