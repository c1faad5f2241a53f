"""Formats: which can be read here, the kind of a file by its first bytes, and truncated files."""

import functools
import importlib
import io
import os
import pickle
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image, features
from PIL.ImageFile import ImageFile

from sklearn_cbir.images._faults import Refusal

# Only these of Pillow's: it hands EPS to Ghostscript, and other rare formats to other parsers.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Bmp", "Gif", "Tiff")
_REGISTER_LOCK = threading.Lock()

# What is read ----------------------------------------------------------------------------------


def readable_formats() -> tuple[str, ...]:
    """Return the formats that can be read now, by their names in Pillow.

    Those of `FORMATS`; AVIF if Pillow was built with it; HEIF if pi-heif is installed; and every
    format whose opener another package has registered with Pillow.
    """
    _load_plugins()
    foreign = [name for name, (opener, _) in Image.OPEN.items() if not _is_pillows(opener)]
    avif = ["AVIF"] if _has_avif() else []
    return tuple(dict.fromkeys([*FORMATS, *avif, *foreign]))


def _has_avif() -> bool:
    """Say whether Pillow was built with AVIF; versions that know none warn of being asked."""
    return "avif" in features.modules and bool(features.check("avif"))


def readable_extensions() -> tuple[str, ...]:
    """Return the file extensions that can be read here.

    JPEG, PNG, WebP, BMP, GIF and TIFF always; AVIF if Pillow was built with
    it; HEIC if the extra ``heif`` is installed; and every format whose opener
    another package has registered with Pillow.

    Returns
    -------
    tuple of str
        In lower case, with the dot, sorted.

    Examples
    --------
    >>> from sklearn_cbir.images import readable_extensions
    >>> {".jpg", ".jpeg", ".png", ".webp", ".tif"} <= set(readable_extensions())
    True
    """
    formats = (*readable_formats(), "MPO")  # several JPEGs in one, which Pillow opens as a JPEG
    return tuple(sorted(ending for ending, name in Image.EXTENSION.items() if name in formats))


def foreign_openers():
    """Return the formats that other packages have registered with Pillow: name -> (opener, accept).

    Functions that cannot be pickled are left out; an opener alone refuses other formats itself.
    """
    _load_plugins()
    pairs = {name: pair for name, pair in Image.OPEN.items() if not _is_pillows(pair[0])}
    pairs = {name: (opener, _picklable(accept)) for name, (opener, accept) in pairs.items()}
    return {name: pair for name, pair in pairs.items() if _picklable(pair[0]) is not None}


def _picklable(function):
    try:
        pickle.dumps(function)
    except Exception:  # whatever an object of another package raises
        return None
    return function


def register_openers(openers):
    """Register openers that another process had, where this one lacks them."""
    for name, (opener, accept) in openers.items():
        if name not in Image.OPEN:
            Image.register_open(name, opener, accept)


def _is_pillows(opener):
    return (getattr(opener, "__module__", None) or "").split(".")[0] == "PIL"


@functools.cache
def _load_plugins():
    """Import Pillow's plugins of our formats, and register pi-heif if it is there."""
    for name in _PLUGINS:
        importlib.import_module(f"PIL.{name}ImagePlugin")
    if _has_avif():
        importlib.import_module("PIL.AvifImagePlugin")
    with _REGISTER_LOCK:
        if "HEIF" not in Image.OPEN:
            try:
                from pi_heif import register_heif_opener
            except ImportError:
                return
            register_heif_opener()


# Pillow's own limit ----------------------------------------------------------------------------


class _OwnLimit(threading.local):
    """The limit of pixels of what this thread is reading; None outside of this package."""

    max_pixels: float | None = None


_own = _OwnLimit()


def check_size(size: tuple[int, int], max_pixels: float) -> None:
    """Raise if an image of `size` px, (width, height), is larger than allowed."""
    width, height = size
    if width * height > max_pixels:
        raise Refusal(
            f"{width} x {height} = {width * height:,} pixels are more than the {max_pixels:,} "
            "that are allowed",
            "If memory is enough, allow more with check_images(X, max_pixels=...)",
        )


@contextmanager
def own_limit(max_pixels: float) -> Iterator[None]:
    """Read under our limit instead of Pillow's, in this thread alone.

    Pillow refuses above twice `Image.MAX_IMAGE_PIXELS`, whatever the caller allows, and that is
    one number for all threads of the process.
    """
    _install_own_limit()
    before, _own.max_pixels = _own.max_pixels, max_pixels
    try:
        yield
    finally:
        _own.max_pixels = before


@functools.cache
def _install_own_limit():
    """Have Pillow ask us first; whoever reads outside of `own_limit` gets Pillow's own answer."""
    check = getattr(Image, "_decompression_bomb_check", None)
    if check is None:  # a Pillow without a limit of its own
        return

    @functools.wraps(check)
    def check_unless_ours(size, **options):
        if _own.max_pixels is None:
            check(size, **options)
        elif options.get("error_only"):  # asked before memory is taken; else we ask later
            check_size(size, _own.max_pixels)

    Image._decompression_bomb_check = check_unless_ours


# What a file is ---------------------------------------------------------------------------------

_HEIC = b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split()
_AVIF = b"avif avis".split()
_BEGINNINGS = (  # what a file begins with -> what it is
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop file (PSD)"),
    (b"FUJIFILMCCD-RAW", "a camera raw file (RAF)"),
    (b"IIU\0", "a camera raw file (RW2)"),
    (b"IIRO", "a camera raw file (ORF)"),
    (b"IIRS", "a camera raw file (ORF)"),
    (b"MMOR", "a camera raw file (ORF)"),
    (b"FOVb", "a camera raw file (X3F)"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document (EPS)"),
    (b"gimp xcf", "a GIMP file (XCF)"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance image (HDR)"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"icns", "an icon (ICNS)"),
    (b"DDS ", "a texture (DDS)"),
    (b"qoif", "a QOI image"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (b"FLV\x01", "a video (FLV)"),
    (b"\0\0\x01\xba", "a video (MPEG)"),
    (b"\x93NUMPY", "a NumPy file (.npy)"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"version https://git-lfs", "a pointer of git-lfs"),
)
_TEXTS = (
    (b"<svg", "an SVG drawing"),
    (b"<html", "an HTML page"),
    (b"<!doctype html", "an HTML page"),
)

_WITHOUT_IMAGE = (
    "page",
    "archive",
    "gzip file",
    "itself",
    "QuickTime)",
    "WebM)",
    "(FLV)",
    "(AVI)",
    "(MPEG)",
    ".npy)",
)


def kind_of(head: bytes) -> str | None:
    """Name the kind of a file by its first bytes `head`, such as "a PDF document", or None."""
    if head[4:8] == b"ftyp":
        return _kind_of_container(head)
    if head[:4] == b"RIFF":
        return {b"AVI ": "a video (AVI)", b"WEBP": "a WebP image"}.get(head[8:12])
    if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":
        return "a camera raw file (CR2)"
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<?xml", b"<!--")) and b"<svg" in text:
        return "an SVG drawing"
    return next((kind for beginning, kind in _TEXTS if text.startswith(beginning)), None)


def _kind_of_container(head: bytes) -> str:
    """Return the name of the kind of an ISO base media file, by its brands."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
    if any(brand in _AVIF for brand in brands):
        return "an AVIF image"
    if any(brand in _HEIC for brand in brands):
        return "a HEIC image"
    if brands[0] == b"crx ":
        return "a camera raw file (CR3)"
    return "a video (MP4 or QuickTime)"


def way_out_of(kind: str | None) -> str:
    """Return advice about a file of a kind that is not read here."""
    if kind == "a HEIC image":
        return "Install pi-heif, which reads it (pip install 'sklearn-cbir[heif]')"
    if kind == "an AVIF image":
        return "Install a Pillow that reads it (11.3 or newer)"
    if kind is not None and kind.endswith(_WITHOUT_IMAGE):
        return "Pass an image"
    return "Convert it to JPEG or PNG"


# Whether a file is whole -------------------------------------------------------------------------


def looks_whole(image: ImageFile) -> bool:
    """Say whether an opened file ends as its format wants it to; False if that is not seen."""
    file = image.fp
    if file is None:  # of an opener that has read all of it
        return False
    place = file.tell()  # where Pillow goes on reading
    try:
        size = file.seek(0, os.SEEK_END)
        return _ENDS.get(image.format or "", _never)(image, file, size)
    finally:
        file.seek(place)


def _never(image, file, size):
    return False


def _read_at(file, offset, n):
    """Return up to `n` bytes from a place in a file."""
    file.seek(max(offset, 0))
    return file.read(n)


def _jpeg_is_whole(image, file, size):
    """Say whether the end marker is there; a motion photo has its video behind it."""
    if _read_at(file, size - 2, 2) == b"\xff\xd9":
        return True
    # Inside of coded data 0xff is followed by 0 or a restart marker, so this is the end.
    at = _start_of_scan(file, size)
    return at is not None and b"\xff\xd9" in _read_at(file, at, size)


def _start_of_scan(file, size):
    """Return where the coded data of a JPEG begins, behind the thumbnails of its headers."""
    at = 2
    while at + 4 <= size:
        marker, length = struct.unpack(">2sH", _read_at(file, at, 4))
        if marker[:1] != b"\xff":
            return None
        if marker == b"\xff\xda":
            return at + 2 + length
        at += 2 + length
    return None


def _png_is_whole(image, file, size):
    return _read_at(file, size - 12, 12).endswith(b"IEND\xaeB`\x82")


def _gif_is_whole(image, file, size):
    return _read_at(file, size - 1, 1) == b"\x3b"


def _webp_is_whole(image, file, size):
    return size >= struct.unpack("<I", _read_at(file, 4, 4))[0] + 8


def _bmp_is_whole(image, file, size):
    return size >= struct.unpack("<I", _read_at(file, 2, 4))[0] > 0


def _tiff_is_whole(image: ImageFile, file: IO[bytes], size: int) -> bool:
    """Say whether the strips or tiles of this page lie inside the file."""
    tags = tags_of(image)
    for offsets, lengths in ((273, 279), (324, 325)):
        if offsets in tags and lengths in tags:
            pairs = list(zip(_as_tuple(tags[offsets]), _as_tuple(tags[lengths])))
            return len(pairs) > 0 and all(at > 0 and at + n <= size for at, n in pairs)
    return False


def tags_of(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of a TIFF, or of a file whose EXIF block Pillow has taken for one."""
    return getattr(image, "tag_v2", {})


def _as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def _container_is_whole(image, file, size):
    """Say whether the boxes of a file of ISO base media fill it."""
    at = 0
    while at + 8 <= size:
        n, large = struct.unpack(">I4xQ", _read_at(file, at, 16).ljust(16, b"\0"))
        n = {0: size - at, 1: large}.get(n, n)
        if n < 8:
            return False
        at += n
    return at == size


_ENDS: dict[str, Callable[[ImageFile, IO[bytes], int], bool]] = {
    "JPEG": _jpeg_is_whole,
    "MPO": _jpeg_is_whole,
    "PNG": _png_is_whole,
    "GIF": _gif_is_whole,
    "WEBP": _webp_is_whole,
    "BMP": _bmp_is_whole,
    "TIFF": _tiff_is_whole,
    "AVIF": _container_is_whole,
    "HEIF": _container_is_whole,
}


# PNG with much text -------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")


def without_text(data: bytes) -> io.BytesIO:
    """Return a PNG as a file without its text, which Pillow reads up to a limit only.

    XMP that is not compressed stays: it may say how the image is turned.
    """
    kept, at = [_PNG], len(_PNG)
    while at + 8 <= len(data):
        n, kind = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at : at + 12 + n]
        if kind not in _TEXT_CHUNKS or chunk[8:].startswith(b"XML:com.adobe.xmp\0\0"):
            kept.append(chunk)
        at += 12 + n
    return io.BytesIO(b"".join(kept))
