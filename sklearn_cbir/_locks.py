"""Locks that stay usable in forked processes, and other state to renew after a fork."""

import os
import threading
import weakref


def in_forked_children(function):
    """Call `function` in every child that is forked from now on; where nothing forks, never."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


RENEWED = weakref.WeakSet()  # ``thing.renew()`` is called in every forked child


def renew_in_forked_children(thing):
    """Call ``thing.renew()`` in every forked child, as long as there is `thing`."""
    RENEWED.add(thing)


def _renew_all():
    for thing in list(RENEWED):
        thing.renew()


in_forked_children(_renew_all)  # at once: there is no second thread in the child yet


class ProcessLock:
    """A reentrant lock that is free in a forked child if another thread of its parent held it.

    Attributes
    ----------
    lock : threading.RLock
        The lock of this process; ``with`` the object or ``with`` this is the same.
    """

    def __init__(self):
        self.lock = threading.RLock()
        renew_in_forked_children(self)

    def renew(self):
        """Make the lock of a child that was forked just now; the thread that forked keeps it."""
        if not self.lock._is_owned():  # pyright: ignore[reportAttributeAccessIssue] - not in typeshed
            self.lock = threading.RLock()

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *error):
        self.lock.release()
