"""Arrays and tables of ids that grow without copies, while readers use their earlier state."""

import numpy as np

from sklearn_cbir._locks import ProcessLock

ROOM_AT_LEAST = 64  # rows
ROOM_SHARE = 8  # one row of room for so many rows; what is not used takes no memory on most systems
LOCK = ProcessLock()  # held for some microseconds
BOOLEANS = (bool, np.bool_)
KEYS = {True: object(), False: object()}


class Room:
    """Spare memory after an array, into which the next arrays grow.

    Each is a view of the same buffer, longer than the one before. You can append to the longest,
    because no other array uses the memory after it. Appending to a shorter one makes a copy.
    """

    def __init__(self, shape, dtype):
        n, *columns = shape
        self._length = n
        self._buffer = np.empty((n + max(ROOM_AT_LEAST, n // ROOM_SHARE), *columns), dtype)

    def first(self, n):
        """Return the first rows of the buffer."""
        return self._buffer[:n]

    def claim(self, n, n_after):
        """Say whether an array of `n` rows may grow to `n_after`, and let nobody else do it."""
        with LOCK:
            if self._length != n or n_after > len(self._buffer):
                return False
            self._length = n_after
            return True


def with_room(shape, dtype):
    """Return an empty array with room behind it, and the room."""
    room = Room(shape, dtype)
    return room.first(shape[0]), room


def append(array, more, room=None):
    """Return `array` with `more` behind it, in `room` if it is the last there, and the room."""
    n, n_after = len(array), len(array) + len(more)
    if room is None or not room.claim(n, n_after):
        room = Room((n_after, *array.shape[1:]), array.dtype)
        room.first(n)[:] = array
    grown = room.first(n_after)
    grown[n:] = more
    return grown, room


def delete(array, positions):
    """Return a copy of `array` without the values at `positions`, and its room."""
    keep = np.ones(len(array), dtype=bool)
    keep[positions] = False
    kept, room = with_room((np.count_nonzero(keep), *array.shape[1:]), array.dtype)
    edges = np.flatnonzero(np.diff(keep, prepend=False, append=False)).reshape(-1, 2)
    if len(edges) <= len(array) // 64:  # whole blocks are copied fastest
        place = 0
        for start, stop in edges:
            kept[place : place + stop - start] = array[start:stop]
            place += stop - start
    else:
        kept[:] = array[keep]
    return kept, room


def id_key(id_):
    """Return the key of an id in a table: it distinguishes True and False from 1 and 0."""
    return KEYS[bool(id_)] if isinstance(id_, BOOLEANS) else id_


class IdTable:
    """The position of every id, shared by the ids that follow each other as an array's `Room` is.

    It is filled from the first position on, as far as it is asked to.
    """

    def __init__(self, n):
        self.filled = 0  # so many positions are in it
        self._length, self._positions = n, {}

    def claim(self, n, n_after):
        """Say whether `n` ids may grow to `n_after`, and let nobody else do it."""
        with LOCK:
            if self._length != n:
                return False
            self._length = n_after
            return True

    def fill(self, ids, stop):
        """Take in the positions below `stop` of an array of ids."""
        with LOCK:
            start = self.filled
            if start < stop:
                new = ids[start:stop].tolist()
                if ids.dtype.kind == "O":
                    new = map(id_key, new)
                self._positions.update(zip(new, range(start, stop)))
                self.filled = stop

    def find(self, id_, n):
        """Return the position of an id among the first `n`, -1 if it is not there."""
        position = self._positions.get(id_key(id_), -1)
        return position if position < n else -1
