"""Locks that stay usable in forked processes."""

import os
import threading


class ProcessLock:
    """A lock that a forked child gets anew, in case another thread of its parent held it."""

    def __init__(self):
        self._renew()

    def _renew(self):
        self._process, self._lock = os.getpid(), threading.RLock()

    def __enter__(self):
        if self._process != os.getpid():
            self._renew()
        self._lock.acquire()

    def __exit__(self, *error):
        self._lock.release()
