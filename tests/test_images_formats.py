"""Real photos: formats, sizes, and what a file of another kind is called."""

import io
import pickle
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin, features

from sklearn_cbir.images import (
    ImageReadError,
    _sources as sources,
    check_images,
    readable_extensions,
)

HEIC = Path(__file__).parent / "data" / "turned.heic"  # red left of blue, turned by 90 degrees
AVIF = ["AVIF"] if ".avif" in readable_extensions() else []
THUMBNAIL = 254  # TIFF tag: 1 marks a page that is a reduced image


@pytest.fixture
def pixels():
    down, right = np.mgrid[0:1:48j, 0:1:64j]
    return np.rint(255 * np.stack([down, right, (down + right) / 2], axis=2)).astype(np.uint8)


def encoded(image, kind, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read_one(item, size=48, **options):
    return check_images([item], **options).read([0], size)[0]


def both_refuse(item, message, **options):
    images = check_images([item], **options)
    for act in (images.check_readable, lambda: images.read([0], 48)):
        with pytest.raises(ImageReadError, match=message):
            act()


def png_chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, bits, color, rows):
    """A PNG of any header; `rows` may be fewer than it says."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows))]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts, png_chunk(b"IEND", b"")])


def tiff(pixels, bits, sample_format):
    """An uncompressed TIFF of pixels (H, W, samples) of any type."""
    height, width, samples = pixels.shape
    data = pixels.tobytes()
    tags = [
        *((256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1)),
        *((262, 3, 2 if samples == 3 else 1), (273, 4, 8), (277, 3, samples)),
        *((278, 3, height), (279, 4, len(data)), (339, 3, sample_format)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = b"II*\0" + struct.pack("<I", 8 + len(data))
    return start + data + struct.pack("<H", len(tags)) + entries + bytes(4)


# Formats ---------------------------------------------------------------------------------------


def test_the_endings_of_all_formats_that_can_be_read_are_known():
    endings = readable_extensions()
    assert endings == tuple(sorted(endings))
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif"} < {*endings}
    assert (".avif" in endings) == ("avif" in features.modules and features.check("avif"))
    assert ".heic" in endings  # pi-heif is of the test extra
    assert not {".eps", ".pdf", ".ico", ".psd"} & {*endings}


def test_heic_is_named_without_an_opener_and_read_with_any_that_is_registered(tmp_path):
    program = f"""
import sys
sys.modules["pi_heif"] = None
from PIL import Image, ImageFile
from sklearn_cbir.images import check_images, readable_extensions
print(".heic" in readable_extensions())
try:
    check_images([{str(HEIC)!r}]).check_readable()
except ValueError as error:
    print("a HEIC image" in str(error), "pip install 'sklearn-cbir[heif]'" in str(error))
class Own(ImageFile.ImageFile):
    format = "OWN"
    def _open(self):
        self._mode, self._size = "L", (4, 4)
        self.tile = [ImageFile._Tile("raw", (0, 0, 4, 4), 3, ("L", 0, 1))]
Image.register_open("OWN", Own, lambda head: head.startswith(b"own"))
Image.register_extension("OWN", ".own")
print(".own" in readable_extensions(), check_images([b"own" + bytes([9] * 16)]).read([0], 2).max())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True", "True", "True", "9"]


def test_workers_read_what_this_process_has_an_opener_for(monkeypatch):
    pickled = pickle.dumps(check_images([str(HEIC)]))
    monkeypatch.delitem(Image.OPEN, "HEIF")  # as in a process that has registered nothing
    assert pickle.loads(pickled).read([0], 8).shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    "as_item", [str, Path.read_bytes, Image.open], ids=["path", "bytes", "pil"]
)
def test_heic_is_read_upright_whatever_it_is_called(as_item, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(HEIC.read_bytes())
    item = as_item(path)
    top, bottom = read_one(item, 8)[[0, -1]].astype(int)
    assert np.abs(top - [255, 0, 0]).max() < 8
    assert np.abs(bottom - [0, 0, 255]).max() < 8
    if isinstance(item, Image.Image):
        item.close()


@pytest.mark.skipif(not AVIF, reason="Pillow was built without AVIF")
def test_avif_is_read_and_a_truncated_one_is_found(pixels, tmp_path):
    data = encoded(pixels, "AVIF", quality=95)
    path = tmp_path / "a.avif"
    path.write_bytes(data)
    check_images([path]).check_readable()
    assert np.abs(read_one(path).astype(int) - pixels[:, 8:56]).mean() < 4
    for kept in (len(data) // 2, len(data) - 1):
        both_refuse(data[:kept], "truncated|cannot be decoded")
    both_refuse(HEIC.read_bytes()[:-50], "a HEIC image that is truncated or damaged")


@pytest.mark.skipif(not AVIF, reason="Pillow was built without AVIF")
def test_avif_is_turned_upright(pixels):
    exif = Image.Exif()
    exif[274] = 6
    turned = read_one(encoded(pixels, "AVIF", exif=exif, quality=95))
    assert np.abs(turned.astype(int) - np.rot90(pixels, -1)[8:56]).mean() < 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\x0a" + bytes(40), "a JPEG XL image.* Convert it to JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "a JPEG 2000 image"),
        (b"8BPS\0\1" + bytes(40), r"a Photoshop file \(PSD\).* Convert it"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(40), r"a camera raw file \(RAF\).* Convert it"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", r"a camera raw file \(CR3\)"),
        (b"<?xml version='1.0'?>\n<svg xmlns=", "an SVG drawing"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", r"a video \(MP4 or QuickTime\).* Pass an image"),
        (b"\0\0\0\x14ftypqt  ", "a video"),
        (b"\x1aE\xdf\xa3\x01", r"a video \(Matroska or WebM\)"),
        (b"<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of git-lfs"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript document"),
        (b"photos/a.jpg", r"\(bytes, 12 long\): not an image .* Pass os.fsdecode\(name\) if"),
        (b"", "there are no bytes"),
    ],
    ids=lambda value: value[:12].decode("latin1").strip() if isinstance(value, bytes) else "",
)
def test_what_a_file_is_instead_of_a_photo_is_named(content, message, tmp_path):
    both_refuse(content, message)
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    if b"photos" not in content and content:
        both_refuse(path, message)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("JPEG", "JPEG"), ("PNG", "PNG"), ("GIF", "GIF"), ("WEBP", "WebP")],
)
def test_a_photo_cut_in_its_header_is_called_by_its_format(kind, name, pixels):
    both_refuse(encoded(pixels, kind)[:14], rf"(a {name} image that is |long\): )truncated")


def test_camera_raw_files_are_named_instead_of_showing_their_preview(pixels):
    preview = bytearray(tiff(pixels, 8, 1))
    assert read_one(bytes(preview)).shape == (48, 48, 3)
    preview[8:12] = b"CR\2\0"
    both_refuse(bytes(preview), r"a camera raw file \(CR2\), not an image.* Convert it to JPEG")


@pytest.mark.parametrize(
    ("path", "way"),
    [
        ("missing.jpg", "does not exist. Check the path, or leave it out"),
        ("https://example.org/a.jpg", "Download it and pass its path or its bytes, or"),
        ("data:image/png;base64,iVBORw0KGgo=", r"base64.b64decode"),
        (".", "a folder, not an image. Pass the images in it, which load_image_folder lists"),
    ],
)
def test_the_way_out_fits_the_reason(path, way):
    with pytest.raises(ImageReadError, match=way) as raised:
        check_images([path]).check_readable()
    assert "Repair" not in str(raised.value)


# Large photos ----------------------------------------------------------------------------------


def test_a_jpeg_is_as_large_as_it_is_decoded(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16320, 12240), (10, 200, 30)).save(path, quality=50)  # 200 million pixels
    images = check_images([path], max_pixels=4_000_000)
    images.check_readable()
    assert images.read([0], 224).shape == (1, 224, 224, 3)  # at an eighth: 2040 x 1530
    with pytest.raises(ImageReadError, match=r"4080 x 3060 = 12,484,800 .*max_pixels=\.\.\."):
        images.read([0], 1000)


def test_all_of_a_progressive_jpeg_counts_as_it_is_in_memory(pixels):
    photo = Image.fromarray(pixels).resize((640, 480))
    both_refuse(encoded(photo, "JPEG", progressive=True), "640 x 480 = 307,200", max_pixels=300_000)
    assert read_one(encoded(photo, "JPEG"), max_pixels=300_000).shape == (48, 48, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_photos_above_pillows_limits_are_read_without_a_warning(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # instead of 89 million
    data = encoded(Image.new("L", (100, 100), 7), kind)
    check_images([data]).check_readable()
    assert (read_one(data) == 7).all()
    with pytest.raises(Image.DecompressionBombError):  # others are limited as before
        Image.open(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["WEBP", "GIF", *AVIF])
def test_pillows_limit_holds_in_other_threads_while_ours_is_read(kind, monkeypatch):
    data = encoded(Image.new("RGB", (100, 100), (7, 7, 7)), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    faults, stop = [], threading.Event()

    def open_elsewhere():
        while not stop.is_set():
            try:
                Image.open(io.BytesIO(data)).load()
                faults.append("opened")
            except Image.DecompressionBombError:
                pass

    other = threading.Thread(target=open_elsewhere)
    other.start()
    try:
        for _ in range(30):
            assert np.abs(read_one(data).astype(int) - 7).max() < 4
    finally:
        stop.set()
        other.join()
    assert faults == []


def test_a_webp_that_is_too_large_is_refused_before_memory_is_taken_for_it():
    data = encoded(Image.new("RGB", (200, 200)), "WEBP")
    both_refuse(data, "200 x 200 = 40,000 pixels are more than the 30,000", max_pixels=30_000)


def test_a_bomb_is_refused_before_it_is_decoded():
    bomb = png(60_000, 60_000, 8, 2, bytes(1000))
    both_refuse(bomb, r"3,600,000,000 pixels .* allow more .* check_images\(X, max_pixels=\.\.\.\)")


def test_images_that_were_checked_can_be_given_another_limit():
    data = encoded(Image.new("RGB", (200, 200)), "PNG")
    strict = check_images([data, data], max_pixels=30_000)
    assert check_images(strict) is strict
    wider = check_images(strict[1:], max_pixels=50_000)
    assert wider.read([0], 8).shape == (1, 8, 8, 3)
    both_refuse(data, "40,000", max_pixels=39_999)
    with pytest.raises(ImageReadError, match="40,000"):
        pickle.loads(pickle.dumps(strict)).read([0], 8)
    with pytest.raises(ImageReadError, match=r"X\[1\] .*40,000"):
        strict[1:].check_readable()


# Files that are looked at, not decoded ------------------------------------------------------------


@pytest.fixture
def count_decoded(monkeypatch):
    decoded = []
    load = sources.opened.__wrapped__.__globals__["_loaded"]
    counting = lambda image, *args: decoded.append(image.size) or load(image, *args)  # noqa: E731
    monkeypatch.setitem(sources.opened.__wrapped__.__globals__, "_loaded", counting)
    return decoded


def test_motion_photos_and_tiff_are_not_decoded_to_be_checked(pixels, count_decoded, rng):
    photo = encoded(pixels, "JPEG", exif=Image.Exif(), quality=95)
    motion = photo + b"\0\0\0\x18ftypmp42" + rng.bytes(5000)
    tiffs = [encoded(pixels, "TIFF", compression=kind) for kind in (None, "tiff_lzw", "jpeg")]
    check_images([photo, motion, *tiffs]).check_readable()
    assert count_decoded == []
    assert np.array_equal(read_one(motion), read_one(photo))
    for data in (photo[: len(photo) // 2], photo[: len(photo) // 2] + bytes(100)):
        both_refuse(data, "truncated|cannot be decoded")
    for data in tiffs:
        both_refuse(data[: len(data) // 2], "truncated|cannot be|not an image|TIFF")


def test_a_jpeg_that_must_be_decoded_to_be_checked_is_decoded_small(rng, count_decoded):
    photo = Image.fromarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))
    data = encoded(photo, "JPEG").replace(b"\xff\xda", b"\xff\xff\xda", 1) + bytes(99)
    check_images([data]).check_readable()
    assert count_decoded == [(80, 60)]


# PNG and TIFF -------------------------------------------------------------------------------------


def test_a_png_with_much_text_is_read_and_its_text_never_unpacked(pixels):
    plain = encoded(pixels, "PNG")
    text = PngImagePlugin.PngInfo()
    for name in ("prompt", "workflow"):
        text.add_text(name, "node " * 400_000, zip=True)
    behind = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 * 2**20)))
    for data in (encoded(pixels, "PNG", pnginfo=text), plain[:-12] + behind + plain[-12:]):
        check_images([data]).check_readable()
        assert np.array_equal(read_one(data), pixels[:, 8:56])


def test_a_png_with_much_text_is_still_turned_as_it_says(pixels):
    text, exif = PngImagePlugin.PngInfo(), Image.Exif()
    text.add_text("workflow", "node " * 400_000, zip=True)
    exif[274] = 3
    data = encoded(pixels, "PNG", pnginfo=text, exif=exif)
    assert np.array_equal(read_one(data), pixels[::-1, ::-1][:, 8:56])


@pytest.mark.parametrize(
    ("dtype", "samples", "bits", "kind", "message"),
    [
        (np.float32, 3, 32, 3, "a TIFF of 3 floating point 32-bit samples per pixel"),
        (np.float64, 1, 64, 3, "a TIFF of 1 floating point 64-bit samples per pixel"),
        (np.complex64, 1, 64, 6, "complex 64-bit samples"),
        (np.int16, 1, 16, 2, "signed 16-bit integer pixels have no fixed range"),
        (np.int8, 1, 8, 2, "signed 8-bit integer pixels have no fixed range"),
        (np.int32, 1, 32, 2, "signed 32-bit integer pixels have no fixed range"),
        (np.uint32, 1, 32, 1, r": 32-bit integer pixels have no fixed range"),
    ],
)
def test_a_tiff_of_other_pixels_is_refused_by_what_they_are(dtype, samples, bits, kind, message):
    data = tiff(np.zeros((4, 4, samples), dtype), bits, kind)
    both_refuse(data, rf"{message}.* Convert it")


def test_the_thumbnail_before_a_tiff_is_skipped(pixels, tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[THUMBNAIL] = 1
    small, file = Image.new("RGB", (8, 6), "red"), io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file, True) as pages:
        small.save(pages, format="TIFF", tiffinfo=tags)
        pages.newFrame()
        Image.fromarray(pixels).save(pages, format="TIFF")
        pages.newFrame()
    assert np.array_equal(read_one(file.getvalue()), pixels[:, 8:56])
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        assert np.array_equal(read_one(opened), pixels[:, 8:56])
    both_refuse(encoded(small, "TIFF", tiffinfo=tags), "reduced images only")


@pytest.mark.parametrize("value", [1, 200, 255])
@pytest.mark.parametrize(
    "kind", ["gray", "gray_tiff", "rgb", "rgba", "gray_alpha", "rgb_tiff", "pil"]
)
def test_16_bit_with_8_bit_values_is_refused_as_in_arrays(kind, value):
    gray = np.full((9, 9), value, np.uint16)
    item = {
        "gray": lambda: encoded(gray, "PNG"),
        "gray_tiff": lambda: encoded(gray, "TIFF"),
        "rgb": lambda: png(9, 9, 16, 2, (b"\0" + 27 * struct.pack(">H", value)) * 9),
        "rgba": lambda: png(9, 9, 16, 6, (b"\0" + 9 * struct.pack(">4H", 0, 0, value, 65535)) * 9),
        "gray_alpha": lambda: png(9, 9, 16, 4, (b"\0" + 9 * struct.pack(">2H", value, 9999)) * 9),
        "rgb_tiff": lambda: tiff(np.full((9, 9, 3), value, np.uint16), 16, 1),
        "pil": lambda: Image.fromarray(gray),
    }[kind]()
    with pytest.raises(ImageReadError, match=f"16-bit pixels, but none is above {value}, although"):
        read_one(item, 8)


@pytest.mark.parametrize("value", [0, 256, 65535])
def test_16_bit_that_is_black_or_more_is_read(value):
    for data in (
        encoded(np.full((9, 9), value, np.uint16), "PNG"),
        png(9, 9, 16, 4, (b"\0" + 9 * struct.pack(">2H", value, 65535)) * 9),
        png(9, 9, 16, 2, (b"\0" + 27 * struct.pack(">H", value)) * 9),
    ):
        assert (read_one(data, 8) == value >> 8).all()
