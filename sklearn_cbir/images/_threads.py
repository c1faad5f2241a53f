"""Decoding on a few threads, order kept."""

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import joblib

Item = TypeVar("Item")
Result = TypeVar("Result")


def _n_threads() -> int:
    """Return how many threads decode: Pillow gives way while it works, more than 8 do not help."""
    # A joblib worker is told its share of the cores through the environment.
    share = os.environ.get("OMP_NUM_THREADS", "")
    limit = int(share) if share.isdigit() and int(share) > 0 else 8
    return min(8, limit, joblib.cpu_count())


def in_threads(function: Callable[[Item], Result], items: Collection[Item]) -> Iterator[Result]:
    """Yield ``function(item)`` in order; the first item that fails, in order, raises."""
    n_threads = min(_n_threads(), len(items))
    if n_threads < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        yield from pool.map(function, items)


def blocks_of(n: int, size: int) -> list[slice]:
    """Return slices of `size` that cover `n` rows."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
