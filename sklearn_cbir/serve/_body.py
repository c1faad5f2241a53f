"""Bodies of requests, read up to a limit of bytes and of time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from sklearn_cbir.serve._answers import Failure
from sklearn_cbir.serve._workers import busy

LARGEST_JSON, LARGEST_UPLOAD = 2**18, 2**26  # bytes
MOST_IN_FLIGHT = 2**28  # bytes of all bodies that arrive at once
LONGEST = 60.0  # seconds


class Bodies:
    """What arrives at once.

    Parameters
    ----------
    longest : float, default=60.0
        Seconds in which a body has to arrive.
    """

    def __init__(self, longest: float = LONGEST) -> None:
        self.longest, self.n_bytes = longest, 0

    async def read(self, request: Request, most: int) -> bytes:
        """Return a body of at most so many bytes."""
        said = request.headers.get("content-length", "0")
        if not said.isdecimal() or int(said) > most:
            raise _too_large(most)
        try:
            return await asyncio.wait_for(self._read(request, most), self.longest)
        except TimeoutError:
            raise Failure(
                408,
                f"The body did not arrive within {self.longest:.0f} seconds. Try again.",
                {"Connection": "close"},
            ) from None
        except ClientDisconnect:
            raise Failure(400, "The body was cut off. Send it again.") from None

    async def _read(self, request: Request, most: int) -> bytes:
        parts, size = [], 0
        try:
            async for part in request.stream():
                size += len(part)
                self.n_bytes += len(part)
                if size > most:
                    raise _too_large(most)
                if self.n_bytes > MOST_IN_FLIGHT:
                    raise busy()
                parts.append(part)
        finally:
            self.n_bytes -= size
        return b"".join(parts)


def _too_large(most: int) -> Failure:
    return Failure(
        413,
        f"The body is larger than {most // 1024:,} KiB, which is the most. Send a smaller one.",
        {"Connection": "close"},
    )


def check_type(request: Request, *allowed: str) -> None:
    """Raise unless a body is of one of some types; a page of another site cannot send these."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not any(given == one or (one.endswith("/") and given.startswith(one)) for one in allowed):
        named = " or ".join(f"{one}..." if one.endswith("/") else one for one in allowed)
        raise Failure(415, f"The body must be sent as Content-Type: {named}.")
