"""Work off the event loop: few threads, so many that wait, and no longer than that."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from sklearn_cbir.serve._answers import Failure

T = TypeVar("T")
P = ParamSpec("P")

MOST_WAITING = 400  # calls
LONGEST_WAIT, LONGEST_CALL = 60.0, 120.0  # seconds


class Workers:
    """Threads that others wait for.

    Parameters
    ----------
    n : int
        How many threads there are.

    name : str
        What they are called.

    longest_wait : float, default=60.0
        Seconds that a call waits for a thread before it is given up.
    """

    def __init__(self, n: int, name: str, longest_wait: float = LONGEST_WAIT) -> None:
        self.threads = ThreadPoolExecutor(n, thread_name_prefix=name)
        self.longest_wait, self.n_waiting = longest_wait, 0

    async def run(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Return what a call returns, or say that too many wait."""
        if self.n_waiting >= MOST_WAITING:
            raise busy()
        self.n_waiting += 1
        future = self.threads.submit(call, *args, **options)
        # Not to be cancelled as long as it runs: its thread would be busy all the same.
        waited: asyncio.Future[Any] = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait([waited], timeout=self.longest_wait)
            if not done and future.cancel():
                raise busy()
            if not done:
                done, _ = await asyncio.wait([waited], timeout=LONGEST_CALL)
            if not done:
                raise Failure(503, "This took too long. Try again, or with a smaller photo.")
            return waited.result()
        finally:
            self.n_waiting -= 1
            if not waited.done():
                future.cancel()
                waited.add_done_callback(_let_go)

    def close(self) -> None:
        """Let go of what waits, and end when what runs is done."""
        self.threads.shutdown(wait=False, cancel_futures=True)


def busy() -> Failure:
    """Return the failure of a server that has too much to do."""
    return Failure(
        503, "The server has too much to do. Try again in a moment.", {"Retry-After": "5"}
    )


def _let_go(waited: "asyncio.Future[Any]") -> None:
    """Look at what a call raised that nobody waits for any more."""
    if not waited.cancelled():
        waited.exception()
