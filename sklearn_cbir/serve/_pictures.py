"""Photos for the browser: encoded again, upright, and without EXIF; thumbnails are kept.

A photo is opened only inside its folder: links to other places are not followed.
"""

import hashlib
import io
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock, Semaphore
from typing import Literal, NamedTuple

from PIL import Image

from sklearn_cbir._files import replace_file
from sklearn_cbir.images._decoding import shown_size
from sklearn_cbir.images._opening import opened, reason_of
from sklearn_cbir.images._sources import shown
from sklearn_cbir.serve._answers import Failure

FOLDER = "thumbnails"  # in that of the collection
THUMBNAIL, PHOTO, LARGEST_PHOTO = 320, 2048, 4096  # px of the longer side
MOST_PIXELS = 100_000_000  # of an upload
MOST_PIXELS_HERE = 300_000_000  # of a photo of the collection
LARGEST_FILE = 2**29  # bytes
MOST_KEPT = 2**25  # bytes of thumbnails in memory, where nothing can be written
N_WORKERS = 2  # that decode
LONGEST_PROFILE = 2**16
HEAD_OF_WEBP = b"RIFF"


class Source(NamedTuple):
    """The file of a photo, as it is now."""

    number: int
    path: str  # without links
    size: int
    modified: int  # ns

    @property
    def key(self) -> str:
        """A name for what is made of it: another one when the file is another."""
        text = f"{self.size} {self.modified} {THUMBNAIL} ".encode() + os.fsencode(self.path)
        return hashlib.blake2b(text, digest_size=16).hexdigest()


class Pictures:
    """Photos as they are shown.

    Parameters
    ----------
    index : str
        The folder of the collection.

    is_writable : bool
        Whether thumbnails are kept there; else they are kept in memory.
    """

    def __init__(self, index: str, is_writable: bool) -> None:
        self.slots = Semaphore(N_WORKERS)  # whoever decodes has one
        self.lock = Lock()
        self.folder = _own_folder(index) if is_writable else None
        self.kept: OrderedDict[str, bytes] = OrderedDict()
        self.n_bytes = 0

    def thumbnail(self, source: Source) -> bytes:
        """Return a thumbnail, WebP."""
        found = self._found(source)
        if found is None:
            found = self.encoded(read(source), THUMBNAIL, "WEBP", MOST_PIXELS_HERE)
            self._keep(source, found)
        return found

    def encoded(
        self, content: bytes, side: int, format: Literal["WEBP", "JPEG"], most_pixels: int
    ) -> bytes:
        """Return a photo of at most `side` pixels a side, encoded anew."""
        image, profile = self._decoded(content, most_pixels, side)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        quality = {"WEBP": {"quality": 80, "method": 2}, "JPEG": {"quality": 88}}[format]
        image.save(file, format, icc_profile=profile, **quality)
        return file.getvalue()

    def size_of(self, content: bytes) -> tuple[int, int]:
        """Return width and height of an uploaded photo as it is shown, by what its header says."""
        try:
            with opened(content, MOST_PIXELS, decode=False) as image:
                return shown_size(image)
        except Exception as error:  # whatever a decoder raises
            raise unreadable(error, content) from None

    def cropped(
        self, content: bytes, box: tuple[float, float, float, float], most_pixels: int
    ) -> bytes:
        """Return a part of a photo as a file; `box` is in fractions of its sides."""
        image, _ = self._decoded(content, most_pixels)
        width, height = image.size
        left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
        right = max(left + 1, min(round(box[2] * width), width))
        bottom = max(top + 1, min(round(box[3] * height), height))
        file = io.BytesIO()
        image.crop((left, top, right, bottom)).save(file, "PNG", compress_level=0)
        return file.getvalue()

    def _decoded(
        self, content: bytes, most_pixels: int, side: int | None = None
    ) -> tuple[Image.Image, bytes | None]:
        """Return the pixels alone, and the profile of their colors."""
        resize = None if side is None else max(1, side // 2)  # of the shorter side, at least twice
        try:
            with self.slots, shown(content, most_pixels, resize) as image:
                profile = image.info.get("icc_profile") or b""
                pixels = Image.new(image.mode, image.size)
                pixels.paste(image)
        except MemoryError:
            raise no_memory() from None
        except Exception as error:  # whatever a decoder raises
            raise unreadable(error, content) from None
        is_rgb = profile[16:20] == b"RGB " and pixels.mode == "RGB"
        return pixels, profile if is_rgb and len(profile) <= LONGEST_PROFILE else None

    # Keeping -------------------------------------------------------------------------------------

    def _found(self, source: Source) -> bytes | None:
        """Return a thumbnail that was kept."""
        with self.lock:
            if source.key in self.kept:
                self.kept.move_to_end(source.key)
                return self.kept[source.key]
        if self.folder is not None:
            with suppress(OSError):
                content = self._place(source).read_bytes()
                return content if content[:4] == HEAD_OF_WEBP else None
        return None

    def _keep(self, source: Source, content: bytes) -> None:
        """Keep a thumbnail, in memory if the disk is full."""
        if self.folder is not None:
            with suppress(OSError):
                place = self._place(source)
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if _is_inside(str(place.parent), str(self.folder.parent)):
                    replace_file(place, content)
                    return
        with self.lock:
            self.n_bytes += len(content) - len(self.kept.get(source.key, b""))
            self.kept[source.key] = content
            while self.n_bytes > MOST_KEPT:
                self.n_bytes -= len(self.kept.popitem(last=False)[1])

    def _place(self, source: Source) -> Path:
        """Return where a thumbnail is kept: numbers and a hash make its name, and no other text."""
        assert self.folder is not None
        return self.folder / str(source.number // 1000) / f"{source.number}-{source.key}.webp"

    def sweep(self, numbers: Iterable[int]) -> None:
        """Delete thumbnails of other photos than these, and all but the last of each."""
        if self.folder is None:
            return
        known, newest = set(numbers), dict[int, tuple[int, Path]]()
        for place in list(self.folder.glob("*/*-*.webp")):
            number, _, _ = place.name.partition("-")
            with suppress(OSError, ValueError):
                at = place.stat().st_mtime_ns
                if int(number) not in known:
                    place.unlink()
                elif (before := newest.get(int(number))) is None or before[0] < at:
                    newest[int(number)] = at, place
                    if before is not None:
                        before[1].unlink()
                else:
                    place.unlink()


def no_memory() -> Failure:
    """Return the failure of a photo that is too large for now."""
    return Failure(503, "There is not enough memory for this photo now.")


def unreadable(error: Exception, content: bytes) -> Failure:
    """Return the failure of a photo that a decoder cannot read."""
    reason, way = reason_of(error, content)
    way = "Take another file" if way.startswith("Pass ") else way  # that is for Python
    return Failure(422, f"The photo cannot be read: {reason}. {way}.")


# Files -------------------------------------------------------------------------------------------


def source_of(number: int, path: str, roots: Iterable[str]) -> Source:
    """Return the file of a photo, which has to lie below a folder of the collection."""
    real = os.path.realpath(path)
    if not any(_is_inside(real, root) for root in roots):
        raise Failure(
            404,
            "The photo is a link to a file outside of the folders, which is not shown. "
            "Copy the file into a folder.",
        )
    try:
        status = os.stat(real)
    except OSError as error:
        raise _gone(error) from None
    if not stat.S_ISREG(status.st_mode):
        raise Failure(404, "The photo is not a file any more. Sync the collection.")
    return Source(number, real, status.st_size, status.st_mtime_ns)


def read(source: Source) -> bytes:
    """Return what is in the file of a photo, if nobody put another thing in its place meanwhile."""
    if source.size > LARGEST_FILE:
        raise Failure(422, f"The file has {source.size:,} bytes, which is too large to show.")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.open(source.path, flags | getattr(os, "O_BINARY", 0))
        with open(file, "rb") as opened:
            status = os.fstat(file)
            is_same = stat.S_ISREG(status.st_mode) and status.st_size == source.size
            if not is_same or os.path.realpath(source.path) != source.path:
                raise Failure(404, "The photo was changed just now. Try again.")
            return opened.read(LARGEST_FILE)
    except OSError as error:
        raise _gone(error) from None


def _gone(error: OSError) -> Failure:
    if isinstance(error, FileNotFoundError):
        return Failure(404, "The file of this photo is gone. Sync the collection.")
    return Failure(404, f"The file of this photo cannot be opened: {error.strerror}.")


def _is_inside(path: str, folder: str) -> bool:
    """Say whether a path lies in a folder, links resolved."""
    inside, outside = os.path.realpath(path), os.path.realpath(folder)
    return inside.startswith(outside.rstrip(os.sep) + os.sep)


def _own_folder(index: str) -> Path | None:
    """Return the folder of thumbnails, None if it leads out of that of the collection."""
    place = os.path.join(index, FOLDER)
    return Path(place) if _is_inside(place, index) else None
