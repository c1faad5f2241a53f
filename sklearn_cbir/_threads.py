"""Work that is cut into pieces and done on several threads, in order."""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar, cast

Piece = TypeVar("Piece")
Made = TypeVar("Made")
_THREAD = threading.local()  # `n_beside`, in those that share the cores


def slices(n: int, step: int) -> list[slice]:
    """Return the slices of at most `step` rows that cover `n` rows."""
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def in_threads(
    work: Callable[[Piece], Made],
    pieces: Iterable[Piece],
    n_wanted: float = math.inf,
    *,
    most: int | None = None,
) -> Iterator[Made]:
    """Yield ``work(piece)`` in order; the first piece that fails, in order, raises.

    Parameters
    ----------
    work : callable
        What is done with each piece.

    pieces : iterable
        Pieces of the work.

    n_wanted : float, default=math.inf
        How many threads pay: fewer than 2 means that none are started.

    most : int, default=None
        More threads than these do not help.

    Yields
    ------
    object
        What `work` returned.
    """
    pieces = list(pieces)
    n_threads = 1
    if min(n_wanted, len(pieces)) >= 2:
        n_threads = min(n_cores(), most or len(pieces), len(pieces))
    if n_threads < 2:
        yield from map(work, pieces)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        yield from pool.map(work, pieces)


def in_order(
    work: Callable[[Piece], Made],
    pieces: Iterable[Piece],
    n_threads: int,
    n_at_once: int,
    begin: Callable[[], object] = lambda: None,
) -> Generator[Made]:
    """Yield ``work(piece)`` in order, of pieces that are asked for one by one.

    Whoever stops early, or is interrupted, waits for the pieces that are worked on, and no thread
    is left. Work that would be cut into pieces itself is not, inside a piece.

    Parameters
    ----------
    work : callable
        What is done with each piece; the first piece that fails, in order, raises.

    pieces : iterable
        Pieces of the work.

    n_threads : int
        How many threads work.

    n_at_once : int
        Most pieces that are worked on, or done and not asked for.

    begin : callable
        Called by each thread before it works.

    Yields
    ------
    object
        What `work` returned.
    """

    def begin_beside() -> None:
        _THREAD.n_beside = n_threads
        begin()

    pool = ThreadPoolExecutor(n_threads, initializer=begin_beside)
    left = iter(pieces)
    try:
        begun = deque(pool.submit(work, piece) for piece in islice(left, n_at_once))
        while begun:
            made = begun.popleft().result()
            begun.extend(pool.submit(work, piece) for piece in islice(left, 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Yield what an iterator makes; the next piece is made meanwhile if there is a core for it."""
    if n_cores() < 2:
        yield from pieces
        return
    end = object()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(next, pieces, end)
        while (piece := made.result()) is not end:
            made = pool.submit(next, pieces, end)
            yield cast(Piece, piece)


def n_cores() -> int:
    """Return how many cores there are for this thread: all of the process, or one of `in_order`."""
    from joblib import cpu_count

    if n_beside() > 1:
        return 1
    # What joblib sets in its workers, so that they do not fight for cores.
    share = os.environ.get("OMP_NUM_THREADS", "")
    return min(cpu_count(), int(share)) if share.isdecimal() and int(share) else cpu_count()


def n_beside() -> int:
    """Return how many threads of `in_order` do what this one does, this one included."""
    return getattr(_THREAD, "n_beside", 1)
