"""Facts about one photo from the bytes of its file, before it is embedded."""

import hashlib
from datetime import datetime
from typing import Any

from PIL import ExifTags
from PIL.Image import Image

from sklearn_cbir.images._opening import opened

LYING = (5, 6, 7, 8)  # EXIF orientations of photos whose sides are exchanged


def content_hash(content: bytes) -> bytes:
    """Return the hash that identifies equal files."""
    return hashlib.blake2b(content, digest_size=16).digest()


def facts_of(content: bytes) -> dict[str, Any]:
    """Return the facts in the header of a photo; missing ones are None.

    Sides are those that a viewer shows. The time is text such as ``"2024-05-01 09:30:00"``.
    """
    facts: dict[str, Any] = {"width": None, "height": None, "taken": None}
    try:
        with opened(content, float("inf"), decode=False) as image:
            width, height = image.size
            if _orientation(image) in LYING:
                width, height = height, width
            facts |= {"width": width, "height": height, "taken": _taken(image)}
    except MemoryError:
        raise
    except Exception:  # whatever a decoder raises: whether the photo can be read is seen later
        pass
    return facts


def _orientation(image: Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken block of EXIF
        return 1


def _taken(image: Image) -> str | None:
    """Return when a photo was taken, as its camera says."""
    try:
        exif = image.getexif()
        text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        text = text or exif.get(ExifTags.Base.DateTime)
        return str(datetime.strptime(str(text).strip()[:19], "%Y:%m:%d %H:%M:%S"))
    except Exception:  # no time, a broken block of EXIF, a month 13
        return None
