"""Decorators of compiled loops; who imports this loads numba."""

from numba import config, njit

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set, and these loops exist only compiled.")

# The order of a sum may change, infinity stays what it is.
FREE_SUMS = {"reassoc", "contract", "nsz"}


def compiled(function, **options):
    """Compile on first call, for all Python threads at once, and keep the machine code on disk."""
    options = {"nogil": True, **options}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return njit(**options)(function)


def fast(function):
    """Compile with sums in any order, which lets one instruction add several numbers."""
    return compiled(function, fastmath=FREE_SUMS)


def inlined(function):
    """Write into its callers before they are compiled: a call would count references to arrays."""
    return compiled(function, inline="always")
