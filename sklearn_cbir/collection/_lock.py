"""A lock of the operating system, which is free again when its process dies, however it dies."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_writer(path: str) -> Iterator[None]:
    """Hold the lock that a file stands for; it is an error if another process holds it.

    The file stays: to delete it would let two hold a lock of one name.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _take(file)
        except OSError as error:
            raise BlockingIOError(
                error.errno,
                "Another process is writing to this collection. Wait until it has finished, or "
                "end it; its lock",
                path,
            ) from error
        try:
            yield
        finally:
            _give_back(file)
    finally:
        os.close(file)


# What a system lacks is imported by nobody who does not write to a collection.


def _take(file: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _give_back(file: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
