"""Photos that were uploaded: in memory, under random ids, so many and no more."""

import secrets
from collections import OrderedDict
from threading import Lock

from sklearn_cbir.serve._answers import Failure

MOST_UPLOADS, MOST_BYTES = 64, 2**28


class Uploads:
    """What was uploaded last, or asked for last.

    Parameters
    ----------
    most : int
        How many photos are kept.

    most_bytes : int
        How many bytes they have together.
    """

    def __init__(self, most: int = MOST_UPLOADS, most_bytes: int = MOST_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.lock = Lock()
        self.photos: OrderedDict[str, bytes] = OrderedDict()  # the one to go first is first
        self.n_bytes = 0

    def keep(self, photo: bytes) -> str:
        """Keep a photo and return its id, by which nobody else finds it."""
        name = secrets.token_urlsafe(16)
        with self.lock:
            self.photos[name] = photo
            self.n_bytes += len(photo)
            while len(self.photos) > self.most or self.n_bytes > self.most_bytes:
                _, gone = self.photos.popitem(last=False)
                self.n_bytes -= len(gone)
        return name

    def photo(self, name: str) -> bytes:
        """Return a photo that is kept."""
        with self.lock:
            if name in self.photos:
                self.photos.move_to_end(name)
                return self.photos[name]
        raise Failure(
            404,
            "The uploaded photo is gone: the server was restarted, or many photos were "
            "uploaded since. Upload it again.",
        )

    def drop(self, name: str) -> None:
        """Forget a photo, if it is kept."""
        with self.lock:
            self.n_bytes -= len(self.photos.pop(name, b""))
