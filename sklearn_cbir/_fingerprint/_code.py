"""The instructions and names of a function's code, without its file and line numbers."""

import builtins
import dis
import importlib
import runpy
import types

# What they run or give cannot be read off the code that calls them.
_DYNAMIC = (
    builtins.__import__,
    builtins.compile,
    builtins.eval,
    builtins.exec,
    builtins.globals,
    importlib.import_module,
    runpy.run_module,
    runpy.run_path,
)
_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD"}


def is_dynamic(value):
    """Return whether a function runs or returns code that its caller does not show."""
    return any(value is function for function in _DYNAMIC)


def instructions(code):
    """Yield the name of every instruction, and its constant or name, or number, or None."""
    for one in dis.get_instructions(code):
        if one.opname == "EXTENDED_ARG":
            continue
        # Only constants that are used: not the docstring.
        is_named = isinstance(one.argval, (str, tuple)) and one.opcode not in dis.hasjrel
        yield one.opname, one.argval if one.opcode in dis.hasconst or is_named else one.arg


def names_read(code):
    """Return the globals that code reads, each with the attributes read of it, sorted.

    ``np.random.rand(3)`` reads ``("np", "random", "rand")``. Code inside of it counts.
    """
    found, chain = set(), None
    for one in dis.get_instructions(code):
        if one.opname in _ATTRIBUTE and chain is not None:
            chain += (one.argval,)
            continue
        if chain is not None:
            found.add(chain)
        chain = (one.argval,) if one.opname in _GLOBAL else None
    if chain is not None:
        found.add(chain)
    return sorted(found.union(*map(names_read, _inner(code))))


def modules_imported(code):
    """Return the modules that code imports while it runs: (level, name, names from it), sorted."""
    found, constants = set(), []
    for one in dis.get_instructions(code):
        if one.opname == "IMPORT_NAME":
            level, names = constants[-2:]
            found.add((level, one.argval, tuple(names or ())))
        elif one.opcode in dis.hasconst or one.opname == "LOAD_SMALL_INT":
            constants.append(one.argval)
    return sorted(found.union(*map(modules_imported, _inner(code))))


def _inner(code):
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
