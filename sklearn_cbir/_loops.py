"""Compiled loops that are loaded once that pays: loading them takes longer than many answers."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from sklearn_cbir._locks import ProcessLock

# The environment variable that has the first answer wait for compiled loops.
COMPILE_FIRST = "CBIR_COMPILE_FIRST"

Loaded = TypeVar("Loaded")


class Loops(Generic[Loaded]):
    """A module of compiled loops, without which the same is computed more slowly.

    Parameters
    ----------
    load : callable
        Imports and returns it, or None where it cannot be compiled; or raises ImportError.

    work : float
        How much is computed without it in the time that it takes to load.
    """

    def __init__(self, load: Callable[[], Loaded], work: float) -> None:
        self._import, self._work = load, work
        self._n_done = 0.0  # so far, without the loops; threads may forget some
        self._is_loaded = self._has_failed = False
        self._loading = ProcessLock()

    def load(self) -> Loaded:
        """Return the loops, whatever it takes."""
        loops = self._import()
        self._is_loaded = True
        return loops

    def once_it_pays(self, work: float) -> Loaded | None:
        """Return the loops for some work, or None if to do it without them takes less.

        They are loaded once all work so far, with this, would have paid for it; other threads do
        theirs without them meanwhile, unless it pays alone.
        """
        if self._is_loaded:
            return self._import()
        if self._has_failed:
            return None
        self._n_done += work
        is_first = os.environ.get(COMPILE_FIRST, "0") not in ("", "0")
        if self._n_done < self._work and not is_first:
            return None
        if not self._loading.lock.acquire(blocking=is_first or work >= self._work):
            return None
        try:
            return self.load()
        except ImportError:
            self._has_failed = True
            return None
        finally:
            self._loading.lock.release()
