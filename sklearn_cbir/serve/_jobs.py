"""Long work, in threads of its own and with connections of its own: searches go on meanwhile."""

import logging
import time
from collections import OrderedDict
from dataclasses import asdict
from threading import Event, Lock, Thread
from typing import Any

from sklearn_cbir.collection import Hit, PhotoCollection
from sklearn_cbir.serve._answers import Failure
from sklearn_cbir.serve._pictures import Pictures

KEPT = 8  # answers of near-duplicates

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The server ends."""


class SyncJob:
    """A sync, of which there is one at a time.

    Parameters
    ----------
    collection : PhotoCollection
        What is searched; the sync opens it once more.

    pictures : Pictures
        Whose thumbnails of photos that are gone are deleted.
    """

    def __init__(self, collection: PhotoCollection, pictures: Pictures) -> None:
        self.collection, self.pictures = collection, pictures
        self.lock, self.is_stopped = Lock(), Event()
        self.state: dict[str, Any] = {"state": "idle"}
        self.since = 0.0
        self.thread: Thread | None = None

    def start(self, retry: bool) -> dict[str, Any]:
        """Begin a sync, and return how far it is."""
        if self.collection.read_only:
            raise Failure(403, "The collection cannot be written, so it cannot be synced.")
        with self.lock:
            if self.state["state"] == "running":
                raise Failure(409, "A sync is already running. Wait until it is done.")
            self.state = {"state": "running", "done": None, "total": None}
            self.since = time.monotonic()
            self.thread = Thread(target=self._run, args=(retry,), name="cbir-sync", daemon=True)
            self.thread.start()
        return self.progress()

    def progress(self) -> dict[str, Any]:
        """Return how far the sync is."""
        with self.lock:
            if self.state["state"] != "running":
                return self.state
            return {**self.state, "seconds": round(time.monotonic() - self.since, 1)}

    def stop(self) -> None:
        """End the sync, which keeps what was committed, and wait for it."""
        self.is_stopped.set()
        if self.thread is not None:
            self.thread.join(timeout=60)

    def _run(self, retry: bool) -> None:
        try:
            with opened_again(self.collection) as collection:
                report = collection.sync(retry, progress=self._advance)
                found: dict[str, Any] = {"state": "done", "report": asdict(report)}
                self.pictures.sweep(collection.items()["number"].tolist())
        except Stopped:
            found = {"state": "failed", "error": "The server was ended."}
        except (OSError, ValueError, ImportError) as error:
            found = {"state": "failed", "error": str(error)}
        except Exception:
            logger.exception("The sync failed")
            found = {
                "state": "failed",
                "error": "The sync failed. The output of the server has the details.",
            }
        with self.lock:
            self.state = {**found, "seconds": round(time.monotonic() - self.since, 1)}

    def _advance(self, done: int, total: int) -> None:
        if self.is_stopped.is_set():
            raise Stopped
        with self.lock:
            self.state |= {"done": done, "total": total}


class DuplicatesJob:
    """Groups of near-duplicates, which take long: found once for every version, and remembered.

    Parameters
    ----------
    collection : PhotoCollection
        What is searched.
    """

    def __init__(self, collection: PhotoCollection) -> None:
        self.collection, self.lock = collection, Lock()
        self.running: Any = None  # what is asked for now
        self.found: OrderedDict[Any, list[list[Hit]] | Failure] = OrderedDict()

    def groups(self, version: int, radius: float, where: dict[str, Any]) -> list[list[Hit]] | None:
        """Return the groups, None as long as they are being found."""
        asked = version, radius, repr(sorted(where.items()))
        with self.lock:
            if asked in self.found:
                found = self.found[asked]
                if isinstance(found, Failure):
                    del self.found[asked]  # the next one tries again
                    raise found
                return found
            if self.running is None:
                self.running = asked
                Thread(
                    target=self._run,
                    args=(asked, radius, where),
                    name="cbir-duplicates",
                    daemon=True,
                ).start()
        return None

    def _run(self, asked: Any, radius: float, where: dict[str, Any]) -> None:
        found: list[list[Hit]] | Failure
        try:
            with opened_again(self.collection, read_only=True) as collection:
                found = collection.duplicates(radius, where or None)
        except (OSError, ValueError) as error:
            found = Failure(400, str(error))
        except Exception:
            logger.exception("The search for near-duplicates failed")
            found = Failure(500, "The search failed. The output of the server has the details.")
        with self.lock:
            self.running = None
            self.found[asked] = found
            while len(self.found) > KEPT:
                self.found.popitem(last=False)


def opened_again(collection: PhotoCollection, read_only: bool = False) -> PhotoCollection:
    """Return the collection with a connection of its own."""
    is_read_only = read_only or collection.read_only
    return PhotoCollection(
        collection.path,
        read_only=is_read_only,
        uri=collection.about()["uri"] if is_read_only else None,  # else it is noted
        modules=collection._modules,
    )
