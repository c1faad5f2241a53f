"""Pixels mean what a viewer shows, and whatever cannot be read is named by row and path."""

import hashlib
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from torchvision.transforms import v2

from sklearn_cbir import _threads as threads
from sklearn_cbir.images import (
    ImageReadError,
    _sources as sources,
    check_images,
    is_feature_rows,
    resolve_augmentation,
)

PHOTOS = sorted(str(path) for path in (Path(__file__).parent / "data" / "clothing").glob("*/*"))
WHITE, BLACK = 255, 0
ORIENTATION, PHOTOMETRIC = 274, 262  # TIFF and EXIF tags


@pytest.fixture(params=[1, 4], ids=["one_thread", "threads"])
def n_threads(request, monkeypatch):
    monkeypatch.setattr(threads, "n_cores", lambda: request.param)
    return request.param


@pytest.fixture
def pixels(rng):
    """Smooth colors, 48 x 64, so that JPEG and resizing keep them."""
    down, right = np.mgrid[0:1:48j, 0:1:64j]
    return np.rint(255 * np.stack([down, right, (down + right) / 2], axis=2)).astype(np.uint8)


@pytest.fixture
def open_image():
    """Return `Image.open`, whose images are closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(Image.open(path))


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a PIL image, an array or bytes, and returns the path."""

    def write(name, content, **options):
        path = str(tmp_path / name)
        if isinstance(content, bytes):
            Path(path).write_bytes(content)
        else:
            image = content if isinstance(content, Image.Image) else Image.fromarray(content)
            image.save(path, **options)
        return path

    return write


def encoded(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def read_one(item, size=None, resize=None):
    """Read one image; None means the size of the short side: no resizing."""
    if size is None:
        with Image.open(item) if isinstance(item, (str, bytes)) else nullcontext(item) as image:
            size = min(image.size)
    return check_images([item]).read([0], size, resize)[0]


def png_chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def flat_png(width, height, bits=1, extra=b""):
    """A PNG of zeros, made without holding its pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    row = bytes(1 + (width * bits + 7) // 8)
    packer = zlib.compressobj()
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", rows)
        + png_chunk(b"IEND", b"")
    )


# Pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.tif", "a.gif"])
def test_lossless_files_give_their_own_pixels(name, pixels, save):
    pixels = pixels[:, :48] // 52 * 51  # few colors: GIF keeps them
    image = Image.fromarray(pixels)
    if name == "a.gif":
        image = image.quantize(256)
        pixels = np.asarray(image.convert("RGB"))
    path = save(name, image, **({"lossless": True} if name == "a.webp" else {}))
    assert np.array_equal(read_one(path), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_exif_orientation_turns_the_image_upright(name, orientation, pixels, save):
    turned = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p),
    }[orientation](pixels)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(name, pixels, exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    upright = save("upright.png", np.ascontiguousarray(turned))
    assert np.array_equal(read_one(path, 40, 44), read_one(upright, 40, 44))


def test_exif_orientation_of_a_jpeg_and_of_a_pil_image(pixels, save, open_image):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save("a.jpg", pixels, exif=exif, quality=95)
    upright = np.rot90(pixels, -1)[8:56]
    for item in (path, open_image(path)):
        assert np.abs(read_one(item, 48).astype(int) - upright).mean() < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("exif", [b"MM\0*\0\0\xff\xff\x01\x12", b"junk"], ids=["cut", "junk"])
def test_broken_exif_is_no_reason_to_refuse_a_photo(exif, name, pixels, save):
    path = save(name, pixels, exif=b"Exif\0\0" + exif)
    assert read_one(path, 48).shape == (48, 48, 3)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_gray_is_scaled_not_clipped(name, save):
    gradient = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    gray = read_one(save(name, gradient), 256)
    assert np.array_equal(gray[..., 0], gradient >> 8)
    assert abs(gray.mean() - 127.5) < 2


def test_16_bit_big_endian_and_inverted_tiff(save):
    gradient = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
    plain = read_one(save("a.tif", gradient), 32)
    assert np.array_equal(
        read_one(Image.frombytes("I;16B", (32, 32), gradient.astype(">u2"))), plain
    )
    inverted = read_one(save("b.tif", gradient, tiffinfo={PHOTOMETRIC: 0}), 32)
    assert np.array_equal(inverted, 255 - plain)


def test_12_bit_tiff_is_scaled_from_its_own_range(save):
    # Two rows of two pixels, (0, 4095) and (2048, 0), each row packed into three bytes.
    pixels = bytes.fromhex("000fff800000")
    tags = [
        *((256, 3, 2), (257, 3, 2), (258, 3, 12), (259, 3, 1), (262, 3, 1)),
        *((273, 4, 8), (277, 3, 1), (278, 3, 2), (279, 4, 6)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    data = b"II*\0" + struct.pack("<I", 14) + pixels + struct.pack("<H", len(tags)) + entries
    path = save("a.tif", data + bytes(4))
    assert read_one(path)[..., 0].tolist() == [[0, 255], [128, 0]]


def test_transparent_value_of_16_bit_png_is_white(save):
    data = bytearray(flat_png(8, 8, bits=16, extra=png_chunk(b"tRNS", struct.pack(">H", 0))))
    assert (read_one(save("a.png", bytes(data)), 8) == WHITE).all()
    assert (read_one(save("b.png", flat_png(8, 8, bits=16)), 8) == BLACK).all()


def test_float_tiff_in_0_to_1_is_scaled_and_anything_else_refused(rng, save):
    values = rng.random((16, 16)).astype(np.float32)
    read = read_one(save("a.tif", values), 16)
    assert np.array_equal(read[..., 0], np.rint(values * 255).astype(np.uint8))
    with pytest.raises(ImageReadError, match=r"X\[0\] .*float pixels from 0 to 2.* in 0 to 1"):
        read_one(save("b.tif", np.float32([[0, 2], [1, 1]])), 2)
    with pytest.raises(ImageReadError, match="float pixels"):
        check_images([save("c.tif", np.float32([[0, np.nan], [1, 1]]))]).check_readable()


def test_32_bit_integers_are_refused_before_decoding(save):
    path = save("a.tif", np.arange(16, dtype=np.int32).reshape(4, 4))
    for act in (lambda: check_images([path]).check_readable(), lambda: read_one(path, 4)):
        with pytest.raises(ImageReadError, match="32-bit integer pixels have no fixed range"):
            act()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "PA", "LA"])
def test_every_mode_becomes_three_channels(mode, pixels):
    gray = mode in ("1", "L", "LA")
    image = Image.fromarray(pixels).convert("RGB")
    if mode == "LAB":
        image = Image.merge("LAB", [image.getchannel(0), *Image.new("RGB", (64, 48)).split()[:2]])
    elif mode == "PA":
        image = image.convert("P").convert("PA")
    else:
        image = image.convert(mode)
    read = read_one(image)
    assert read.shape == (48, 48, 3)
    assert read.dtype == np.uint8
    if gray:
        assert (read == read[..., :1]).all()
    elif mode in ("RGB", "CMYK", "YCbCr", "HSV"):
        assert np.abs(read.astype(int) - pixels[:, 8:56]).mean() < 4


def test_cmyk_jpeg_keeps_its_colors(pixels, save):
    path = save("a.jpg", Image.fromarray(pixels).convert("CMYK"), quality=95)
    assert np.abs(read_one(path).astype(int) - pixels[:, 8:56]).mean() < 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_a_transparent_image_hides_does_not_matter(mode, rng, save):
    reads = []
    for i in range(2):
        hidden = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        image = Image.fromarray(hidden)
        if mode == "P":
            image = image.quantize(16)
            path = save(f"{i}.png", image, transparency=bytes(16))
        else:
            image.putalpha(0)
            path = save(f"{i}.png", image.convert(mode))
        reads.append(read_one(path))
    assert (reads[0] == WHITE).all()
    assert np.array_equal(*reads)


def test_half_transparent_pixels_are_laid_on_white_alike_in_files_and_arrays(rng, save):
    rgba = rng.integers(0, 256, (32, 32, 4), dtype=np.uint8)
    alpha = rgba[..., 3:] / 255
    expected = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    assert np.array_equal(read_one(save("a.png", rgba)), expected)
    assert np.array_equal(read_one(Image.fromarray(rgba)), expected)
    assert np.array_equal(check_images(rgba[None]).read([0])[0], expected)
    assert np.array_equal(check_images([rgba]).read([0])[0], expected)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.png"])
def test_the_first_of_several_frames_is_read(name, save):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if name == "a.webp" else {}
    path = save(name, frames[0], save_all=True, append_images=frames[1:], **options)
    assert (read_one(path) == (255, 0, 0)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 48), (48, 1), (2, 3)], ids=str)
def test_tiny_images_are_resized(shape, save):
    pixels = np.full((*shape, 3), 77, dtype=np.uint8)
    assert (read_one(save("a.png", pixels), 32) == 77).all()
    assert (check_images(pixels[None]).read([0], 32) == 77).all()


def test_gray_is_replicated_and_float_and_16_bit_scaled(rng):
    gray = rng.integers(0, 256, (5, 8, 9), dtype=np.uint8)
    expected = np.stack([gray] * 3, axis=-1)
    for X in (
        gray,
        gray[..., None],
        gray / 255,
        (gray / 255).astype(np.float32),
        gray * np.uint16(257),
    ):
        images = check_images(X)
        assert images.image_shape == (8, 9, 1)
        assert np.array_equal(images.read(np.arange(5)), expected)


def test_array_path_and_pil_image_give_the_same_pixels(pixels, save, open_image):
    pixels = np.ascontiguousarray(pixels[:, :48])
    path = save("a.png", pixels)
    for size, resize in [(48, None), (48, 56), (32, None), (32, 40), (64, 70)]:
        reads = [
            check_images(X).read([0], size, resize)
            for X in ([path], [open_image(path)], [pixels], pixels[None])
        ]
        for read in reads[1:]:
            assert np.array_equal(read, reads[0])


@pytest.mark.parametrize(("height", "width"), [(57, 32), (32, 57), (40, 240), (240, 40)])
def test_what_is_cut_out_are_the_pixels_of_the_whole_resized_image(height, width, rng):
    # Whichever of rows and columns Pillow resizes first: what rings is cut off between the two.
    pixels = rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
    options = {"resize_mode": "shortest", "interpolation": "bicubic"}
    got = check_images([pixels]).read([0], 56, **options)[0]
    scale = 56 / min(height, width)
    sides = int(width * scale), int(height * scale)
    whole = np.asarray(Image.fromarray(pixels).resize(sides, Image.Resampling.BICUBIC))
    top, left = (round((side - 56) / 2) for side in whole.shape[:2])
    whole = whole[top : top + 56, left : left + 56].astype(int)
    # Of long strips the whole is not made.
    assert np.abs(whole - got).mean() < (1e-9 if max(height, width) < 100 else 6)


def test_resizing_is_pillows_antialiased_bilinear_and_the_cut_is_central(pixels):
    resized = Image.fromarray(pixels).resize((43, 32), Image.Resampling.BILINEAR)
    expected = np.asarray(resized, dtype=int)[4:28, 9:33]
    read = check_images(pixels[None]).read([0], 24, 32)[0]
    # 64 px at exactly 32 / 48 are 42.67 px, not 43.
    assert np.abs(read - expected).mean() < 1.5
    checker = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(check_images(checker[None]).read([0], 16).astype(int) - 127).max() <= 1


def test_cutting_without_resizing_copies_pixels(rng):
    X = rng.integers(0, 256, (2, 33, 48, 3), dtype=np.uint8)
    read = check_images(X).read([0, 1], 20, 33)
    assert np.array_equal(read, X[:, 6:26, 14:34])


@pytest.mark.parametrize("size", [16, 50, 90])
def test_a_jpeg_that_decodes_itself_smaller_looks_as_the_whole_one(size, save, open_image):
    photos = [open_image(path).resize((400, 500)) for path in PHOTOS[:4]]
    for i, photo in enumerate(photos):
        jpeg = save(f"{i}.jpg", photo, quality=90)
        whole = save(f"{i}.png", open_image(jpeg))
        difference = read_one(jpeg, size).astype(int) - read_one(whole, size)
        assert np.abs(difference).mean() < 1


def test_a_jpeg_is_decoded_no_larger_than_needed(pixels, save, monkeypatch):
    path = save("a.jpg", np.zeros((1600, 2000, 3), np.uint8))
    sizes = []
    viewable = sources.viewable
    monkeypatch.setattr(sources, "viewable", lambda im: sizes.append(im.size) or viewable(im))
    read_one(path, 100)
    read_one(path, 800)
    assert sizes == [(250, 200), (2000, 1600)]


# Batches --------------------------------------------------------------------------------------


def test_an_image_is_the_same_alone_and_in_any_batch(n_threads):
    images = check_images(PHOTOS)
    together = images.read(np.arange(len(PHOTOS)), 40)
    alone = np.concatenate([images.read([i], 40) for i in range(len(PHOTOS))])
    assert np.array_equal(together, alone)
    order = [7, 3, 3, 30]
    assert np.array_equal(images.read(order, 40), together[order])
    assert np.array_equal(images[order].read([1, 3], 40), together[[3, 30]])
    assert np.array_equal(images[order][2:].read([1], 40), together[[30]])


@pytest.mark.parametrize(
    "indices", [slice(2, 5), [2, 3, 4], np.arange(10) // 3 == 1], ids=["slice", "list", "mask"]
)
def test_rows_are_selected_as_in_numpy(indices, rng):
    X = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    chosen = check_images(X)[indices]
    assert len(chosen) == 3
    assert np.array_equal(chosen.read(slice(None)), X[indices])
    assert np.array_equal(check_images(X).read(indices), X[indices])
    assert len(check_images(X)[4]) == 1


def test_paths_of_every_type_give_the_same_pixels(pixels, tmp_path, monkeypatch):
    path = tmp_path / "a photo ünï.png"
    Image.fromarray(pixels).save(path)
    monkeypatch.chdir(tmp_path)
    kinds = [str(path), path, np.str_(path), path.name, Path(path.name)]
    reads = check_images(kinds).read(np.arange(len(kinds)), 32)
    assert (reads == reads[0]).all()
    column = pd.Series(kinds[:1] * 3, index=[9, 4, 4])
    for X in (
        (str(path),),
        np.array([str(path)]),
        np.array([path, path], dtype=object),
        column,
        column.to_frame(),
        column.astype("string"),
        np.array([[str(path)]]),
    ):
        images = check_images(X)
        assert images.is_path
        assert images.image_shape is None
        assert np.array_equal(images.read([len(images) - 1], 32)[0], reads[0])


def test_a_path_that_is_not_valid_utf_8_is_read(pixels, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    Image.fromarray(pixels).save(path, "PNG")
    assert read_one(os.fsdecode(path)).shape == (48, 48, 3)


def test_sequences_hold_images_of_any_size(rng, save):
    arrays = [rng.integers(0, 256, s, dtype=np.uint8) for s in [(9, 9), (8, 20, 3), (30, 8, 1)]]
    objects = np.empty(3, dtype=object)
    for i, array in enumerate(arrays):
        objects[i] = array
    pil = [Image.fromarray(array.squeeze()) for array in arrays]
    frame = pd.Series(arrays)
    expected = check_images(arrays).read([0, 1, 2], 8)
    for X in (tuple(arrays), objects, pil, frame, np.array([*pil, None], dtype=object)[:3]):
        images = check_images(X)
        assert images.image_shape is None
        assert np.array_equal(images.read([0, 1, 2], 8), expected)
    with pytest.raises(ValueError, match="images of any sizes, which must be resized"):
        check_images(arrays).read([0])


def test_a_list_of_equal_arrays_has_a_shape_and_a_native_size(rng):
    X = rng.integers(0, 256, (4, 7, 9, 3), dtype=np.uint8)
    images = check_images(list(X))
    assert images.image_shape == (7, 9, 3)
    assert np.array_equal(images.read(slice(None)), X)
    nested = check_images((X / 255).tolist())
    assert np.array_equal(nested.read(slice(None)), X)


def test_tensors_are_arrays(rng):
    X = rng.integers(0, 256, (4, 7, 9, 3), dtype=np.uint8)
    for tensors in (torch.from_numpy(X), list(torch.from_numpy(X))):
        assert np.array_equal(check_images(tensors).read(slice(None)), X)
    with pytest.raises(ValueError, match="looks channels-first"):
        check_images(torch.zeros(2, 3, 32, 32, requires_grad=True))


def memory_map(X, path):
    np.save(path, X)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.float32, ">f4", np.float64])
def test_any_memory_layout_is_read_and_left_as_it_is(dtype, rng, tmp_path):
    X = rng.integers(0, 256, (6, 10, 8, 3))
    X = (
        X / 255
        if np.dtype(dtype).kind == "f"
        else X * (257 if np.dtype(dtype).itemsize == 2 else 1)
    ).astype(dtype)
    expected = check_images(X.copy()).read(slice(None))
    frozen = X.copy()
    frozen.flags.writeable = False
    layouts = {
        "frozen": frozen,
        "fortran": np.asfortranarray(X),
        "strided": np.repeat(X, 2, axis=2)[:, :, ::2],
        "negative": X[:, ::-1][:, ::-1],
        "mapped": memory_map(X, tmp_path / "X.npy"),
    }
    for name, layout in layouts.items():
        before = hashlib.sha256(layout.tobytes()).hexdigest()
        images = check_images(layout)
        read = images.read(slice(None))
        assert np.array_equal(read, expected), name
        resized = images.read(slice(None), 6)
        assert np.array_equal(resized, check_images(X).read(slice(None), 6)), name
        read[:] = 0
        resized[:] = 0
        resolve_augmentation("auto")(images.read([0, 1]), rng)
        assert hashlib.sha256(layout.tobytes()).hexdigest() == before, name


def test_lists_are_left_as_they_are(pixels):
    items = [Image.fromarray(pixels), Image.fromarray(pixels[::-1])]
    before = [(item.size, item.mode, item.tobytes()) for item in items]
    check_images(items).read([0, 1], 16)
    assert [(item.size, item.mode, item.tobytes()) for item in items] == before


def test_checked_images_are_checked_already():
    images = check_images(PHOTOS)
    assert check_images(images) is images


def test_images_survive_a_pickle():
    images = check_images(PHOTOS)[4:9]
    again = pickle.loads(pickle.dumps(images))
    assert np.array_equal(again.read(slice(None), 32), images.read(slice(None), 32))
    assert again.fingerprint() == images.fingerprint()


def test_threads_may_read_the_same_images(n_threads, open_image):
    lazy = [open_image(path) for path in PHOTOS[:8] * 2]
    expected = check_images(PHOTOS[:8] * 2).read(slice(None), 32)
    images = check_images(lazy)
    reads, start = [None] * 4, threading.Barrier(4)

    def work(i):
        start.wait()
        reads[i] = images.read(slice(None), 32)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # PIL images are decoded whole, files no larger than needed.
    for read in reads:
        assert np.array_equal(read, reads[0])
        assert np.abs(read.astype(int) - expected).mean() < 1


def test_many_paths_need_few_open_files(n_threads):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 32
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 16, hard))
    try:
        images = check_images(PHOTOS * 5)
        images.check_readable()
        assert images.read(slice(None), 16).shape == (200, 16, 16, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_importing_and_reading_needs_no_torch():
    program = (
        "import sys; from sklearn_cbir.images import check_images, resolve_augmentation\n"
        "import numpy as np\n"
        f"batch = check_images({PHOTOS[:2]!r}).read([0, 1], 32)\n"
        "resolve_augmentation('auto')(batch, np.random.default_rng(0))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("size", "resize", "message"),
    [
        (0, None, "size=0 must be an integer of at least 1"),
        (32.0, None, "size=32.0 must be an integer"),
        (32, 16, "resize=16 is smaller than size=32"),
        (None, None, "X holds files, which must be resized"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(size, resize, message):
    with pytest.raises(ValueError, match=message):
        check_images(PHOTOS).read([0], size, resize)


# Caching --------------------------------------------------------------------------------------


def test_cached_images_are_the_same_and_read_no_file(n_threads, save, pixels):
    path = save("a.png", pixels)
    images = check_images([path, *PHOTOS[:3]])
    cached = images.cached(32, 40)
    assert cached.image_shape == (32, 32, 3)
    expected = images.read(slice(None), 32, 40)
    os.remove(path)
    assert np.array_equal(cached.read(slice(None), 32), expected)
    assert np.array_equal(cached[[2, 0]].read([1], 32)[0], expected[0])


def test_what_does_not_fit_or_needs_no_decoding_is_not_cached(rng):
    images = check_images(PHOTOS)
    assert images.cached(32, max_bytes=len(PHOTOS) * 32 * 32 * 3 - 1) is images
    assert images.cached(32, max_bytes=len(PHOTOS) * 32 * 32 * 3) is not images
    arrays = check_images(rng.integers(0, 256, (3, 8, 8), dtype=np.uint8))
    assert arrays.cached() is arrays
    assert arrays.cached(8) is arrays
    floats = check_images(rng.random((3, 8, 8)))
    assert np.array_equal(floats.cached().read([2]), floats.read([2]))


def test_caching_finds_the_fault_that_no_look_at_the_file_shows(pixels, save):
    data = bytearray(encoded(pixels, "PNG"))
    data[len(data) // 2] ^= 0xFF
    path = save("a.png", bytes(data))
    images = check_images([PHOTOS[0], path])
    images.check_readable()
    with pytest.raises(ImageReadError, match=r"X\[1\] .*a\.png'"):
        images.cached(32)


def test_fingerprint_follows_pixels_and_files(rng, save, pixels):
    X = rng.integers(0, 256, (4, 8, 8), dtype=np.uint8)
    changed = X.copy()
    changed[3, 0, 0] ^= 1
    assert check_images(X).fingerprint() == check_images(X.copy()).fingerprint()
    assert check_images(X).fingerprint() != check_images(changed).fingerprint()
    assert check_images(X)[:3].fingerprint() == check_images(changed)[:3].fingerprint()
    assert check_images(list(X)).fingerprint() != check_images(list(changed)).fingerprint()
    path = save("a.png", pixels)
    before = check_images([path]).fingerprint()
    assert check_images([path]).fingerprint() == before
    save("a.png", pixels[:40])
    assert check_images([path]).fingerprint() != before
    one, other = Image.fromarray(pixels), Image.fromarray(pixels[::-1])
    assert check_images([one]).fingerprint() != check_images([other]).fingerprint()


def test_fingerprint_never_copies_all_pixels():
    images = check_images(np.zeros((2000, 64, 64), dtype=np.uint8))
    tracemalloc.start()
    try:
        images.fingerprint()
        assert tracemalloc.get_traced_memory()[1] < 2**21  # of 8 MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("enabled", [True, False])
def test_progress_is_drawn_on_standard_error_when_asked_for(enabled, capsys):
    images = check_images(PHOTOS)
    images.check_readable(progress=enabled)
    images.cached(16, progress=enabled)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("Checking images" in err) == enabled
    assert ("Reading images" in err) == enabled


# Faults of files ------------------------------------------------------------------------------


def both_refuse(path, message, max_pixels=50_000_000):
    """Assert that checking and reading fail with row, path and reason."""
    images = check_images([PHOTOS[0], PHOTOS[1], path], max_pixels=max_pixels)
    for act in (images.check_readable, lambda: images.read([0, 2], 32)):
        with pytest.raises(ImageReadError, match=message) as raised:
            act()
        error = raised.value
        assert str(error).startswith(f"X[2] {path!r}: ")
        assert str(error).endswith(".")
        assert (error.index, error.path) == (2, path)
        assert error.__cause__ is not None


def jpeg(pixels):
    return encoded(pixels, "JPEG", quality=95)


@pytest.mark.parametrize("kept", [0, 0.02, 0.2, 0.5, -2], ids=str)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_truncated_file_is_found_before_training(kind, kept, rng, save, n_threads):
    pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    data = encoded(pixels, kind)
    if (kind, kept) in (("PNG", -2), ("GIF", -2)):
        # Their last bytes hold no pixels.
        assert read_one(save("a", data[:kept])).shape == (48, 48, 3)
        return
    kept = kept if kept < 0 else int(kept * len(data))
    both_refuse(save("a", data[:kept]), "truncated|is empty|not an image|cannot be decoded")


def test_truncation_is_called_by_its_name(rng, save):
    pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    data = jpeg(pixels)
    both_refuse(save("a.jpg", data[: len(data) // 2]), r"truncated \(image file is truncated")
    both_refuse(save("b.jpg", b""), "the file is empty")


def test_bytes_behind_the_end_do_no_harm(pixels, save):
    for kind in ("JPEG", "PNG", "GIF"):
        path = save("a", encoded(pixels, kind) + b"\0" * 100)
        check_images([path]).check_readable()
        assert read_one(path).shape == (48, 48, 3)


def test_flipped_bytes_give_an_image_or_an_image_read_error(pixels, save, rng):
    data = jpeg(pixels)
    for _ in range(200):
        broken = bytearray(data)
        broken[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path = save("a.jpg", bytes(broken))
        with suppress(ImageReadError):
            assert read_one(path, 32).shape == (32, 32, 3)


def test_png_with_bad_checksum_is_refused_and_one_without_end_is_read(pixels, save):
    data = encoded(pixels, "PNG")
    at = data.index(b"IDAT")
    broken = data[: at + 20] + bytes([data[at + 20] ^ 0xFF]) + data[at + 21 :]
    with pytest.raises(ImageReadError, match=r"X\[0\] .*a\.png': "):
        read_one(save("a.png", broken), 48)
    whole = save("b.png", data[:-12])
    check_images([whole]).check_readable()
    assert np.array_equal(read_one(whole), pixels[:, 8:56])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"just text", "not an image that can be read"),
        (b"<!DOCTYPE html><title>404</title>", "not an image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that can be read"),
        (b"II*\0\x08\0\0\0\xff\xff", "X"),
    ],
    ids=["empty", "text", "html", "eps", "tiff"],
)
def test_a_file_that_is_no_image_is_named(content, message, save):
    both_refuse(save("a.jpg", content), message)


def test_paths_that_lead_to_no_file_are_named(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    both_refuse(str(folder), "a folder, not an image")
    both_refuse(str(tmp_path / "missing.jpg"), "the file does not exist")
    both_refuse("https://example.org/a.jpg", "addresses are not downloaded")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing.jpg")
    both_refuse(str(tmp_path / "dangling"), "a link to a file that does not exist")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    both_refuse(str(tmp_path / "loop"), "cannot be opened")
    both_refuse(str(tmp_path / ("x" * 300)), "cannot be opened")


def test_a_file_without_permission_is_named(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    images = check_images(PHOTOS[:1])
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageReadError, match=r"X\[0\] .*: permission to read the file is denied"):
        images.read([0], 32)


def test_a_pipe_is_refused_at_once(tmp_path):
    path = str(tmp_path / "pipe.jpg")
    os.mkfifo(path)
    both_refuse(path, "not a regular file")


@pytest.mark.parametrize(("path", "message"), [("", "empty"), ("a\0", "null")])
def test_impossible_paths_are_refused_when_they_are_passed(path, message):
    with pytest.raises(ImageReadError, match=rf"X\[1\] .*{message}"):
        check_images([PHOTOS[0], path])
    if isinstance(path, str) and not path.endswith("\0"):  # NumPy itself drops it
        with pytest.raises(ImageReadError, match=rf"X\[1\] .*{message}"):
            check_images(np.array([PHOTOS[0], path]))


def test_a_null_character_inside_a_str_array_is_found_on_reading():
    both_refuse_array = check_images(np.array(["a\0b.jpg"]))
    with pytest.raises(ImageReadError, match=r"X\[0\] .*null byte"):
        both_refuse_array.check_readable()


def test_too_many_pixels_are_refused_before_they_are_decoded(save, open_image):
    both_refuse(save("a.png", flat_png(8900, 9900)), "8900 x 9900 = 88,110,000 pixels")
    both_refuse(save("b.png", flat_png(20000, 20000)), "pixels")
    limited = save("c.png", flat_png(200, 200))
    both_refuse(limited, "200 x 200 = 40,000 pixels are more than the 30,000", max_pixels=30_000)
    with pytest.raises(ImageReadError, match="40,000 pixels are more"):
        check_images([open_image(limited)], max_pixels=30_000).read([0], 32)


def test_pillows_switch_for_truncated_files_is_left_alone(rng, save, monkeypatch):
    from PIL import ImageFile

    data = encoded(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), "PNG")
    path = save("a.png", data[: len(data) // 2])
    with pytest.raises(ImageReadError):
        read_one(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert read_one(path).shape == (48, 48, 3)


def test_the_first_fault_is_raised_and_the_others_are_counted(save, n_threads):
    bad = [save(f"{i}.jpg", b"text") for i in range(8)]
    images = check_images([PHOTOS[0], bad[0], *PHOTOS[:2], *bad[1:]])
    listed = r"X\[4\], X\[5\], X\[6\], X\[7\], X\[8\], \.\.\.\. In all, by cause: 8 x not an image"
    with pytest.raises(
        ImageReadError, match=rf"^X\[1\] .* 7 more cannot be read: {listed}"
    ) as raised:
        images.check_readable()
    assert raised.value.index == 1
    assert [fault.index for fault in raised.value.faults] == [1, 4, 5, 6, 7, 8, 9, 10]
    assert [fault.path for fault in raised.value.faults] == bad
    assert raised.value.__cause__ is not None
    images[[0, 2]].check_readable()
    # Rows keep the numbers that the user knows.
    with pytest.raises(ImageReadError, match=r"^X\[5\]"):
        images[5:].read([0], 32)


def test_the_first_bad_image_of_a_batch_raises(save, n_threads):
    bad = save("a.jpg", b"text")
    images = check_images([*PHOTOS[:20], bad, *PHOTOS[:20], bad])
    with pytest.raises(ImageReadError, match=r"^X\[20\]"):
        images.read(slice(None), 32)


def test_a_pil_image_that_cannot_be_read_is_named(rng, save, open_image):
    data = jpeg(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    path = save("a.jpg", data[: len(data) // 2])
    good = Image.new("RGB", (8, 8))
    with pytest.raises(ImageReadError, match=r"X\[1\] .*a\.jpg': truncated"):
        check_images([good, open_image(path)]).read([0, 1], 8)
    with pytest.raises(ImageReadError, match=r"^X\[0\]: truncated"):
        check_images([open_image(io.BytesIO(data[:-99]))]).read([0], 8)


def test_pil_images_are_checked_before_training_without_loading_them(save, open_image):
    good = Image.new("RGB", (8, 8))
    images = check_images([good, Image.new("I", (8, 8))])
    for act in (images.check_readable, lambda: images.read([0, 1], 8)):
        with pytest.raises(ImageReadError, match=r"^X\[1\]: 32-bit integer pixels"):
            act()
    large = open_image(save("a.png", flat_png(9000, 9000)))
    with pytest.raises(ImageReadError, match=r"X\[1\] .*81,000,000 pixels"):
        check_images([good, large], max_pixels=80_000_000).check_readable()
    with Image.open(save("b.png", np.zeros((8, 8), np.uint8))) as closed:
        pass
    with pytest.raises(ImageReadError, match=r"X\[1\] .*b\.png': the image cannot be decoded"):
        check_images([good, closed]).read([0, 1], 8)


def test_the_error_survives_a_pickle_and_what_loader_workers_do(save):
    path = save("a.jpg", b"text")
    with pytest.raises(ValueError, match="not an image") as raised:
        check_images([path]).read([0], 16)
    again = pickle.loads(pickle.dumps(raised.value))
    assert type(again) is ImageReadError
    assert (str(again), again.index, again.path) == (str(raised.value), 0, path)
    # A worker of torch's loader sends the text, from which the same type is made again.
    assert str(ImageReadError(str(again))) == str(again)


# Faults of arrays -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("a.jpg", r"X is a path, not a sequence of images: wrap it in a list, \[X\]\."),
        (np.str_("a.jpg"), "X is a path"),
        (b"a.jpg", r"X is an encoded photo, not a sequence of images: wrap it in a list"),
        (Path("a.jpg"), "X is a path"),
        (np.array("a.jpg"), "X is one value"),
        (Image.new("L", (8, 8)), "X is a PIL image"),
        (np.zeros((32, 32, 3)), r"shape \(32, 32, 3\), which looks like one image"),
        (np.zeros((32, 32)), "2-D arrays are feature rows"),
        (np.zeros(32), r"X has shape \(32,\)"),
        (np.zeros((2, 3, 32, 32)), "looks channels-first: pass X.transpose"),
        (np.zeros((2, 32, 32, 2)), r"X has shape \(2, 32, 32, 2\)\. Images are arrays of shape"),
        (np.zeros((2, 32, 32, 0)), r"\(2, 32, 32, 0\)"),
        (np.zeros((2, 0, 32, 3)), "images without pixels"),
        (np.zeros((2, 2, 8, 8, 3)), r"\(2, 2, 8, 8, 3\)"),
        (np.zeros((2, 8, 8), dtype=np.int64), "dtype int64. Images are uint8"),
        (np.zeros((2, 8, 8), dtype=complex), "dtype complex128"),
        (np.zeros((2, 8, 8), dtype=bool), r"dtype bool.*X.astype\(np.uint8\) \* 255"),
        (np.zeros((2, 8, 8), dtype=object), "dtype object"),
        (np.full((2, 8, 8), 200, dtype=np.uint16), "uint16, but no pixel is above 200"),
        ([np.full((8, 8), 200, dtype=np.uint16)], "uint16, but no pixel is above 200"),
        (np.zeros((0, 8, 8, 3)), r"0 sample\(s\) \(shape=\(0, 8, 8, 3\)\)"),
        ([], r"0 sample\(s\)"),
        ({}, r"X is \{\} of type dict"),
        (None, "X is None of type NoneType"),
        (iter(["a.jpg"]), "type list_iterator"),
        ([None], r"X\[0\] is None of type NoneType"),
        (["a.jpg", float("nan")], r"X\[1\] is nan of type float"),
        (["a.jpg", Image.new("L", (8, 8))], r"X\[0\] is a path, but X\[1\] is a PIL image"),
        ([np.zeros((8, 8)), np.zeros((3, 8, 8))], r"X\[1\] has shape \(3, 8, 8\), which looks ch"),
        ([np.zeros((8, 8)), np.zeros(8)], r"X\[1\] has shape \(8,\)"),
        ([np.zeros((8, 8)), np.zeros((8, 8), int)], r"X\[1\] has dtype int64"),
        (np.array([["a.jpg", "b.jpg"]]), r"paths in shape \(1, 2\)"),
        ([[[1, 2], [3]]], "lists of different lengths"),
        (pd.Series(["a.jpg", None]), r"X\[1\] is (None|nan)"),
    ],
)
def test_what_is_no_image_is_refused_with_the_way_out(X, message):
    with pytest.raises(ValueError, match=message) as raised:
        check_images(X)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize("as_list", [False, True], ids=["array", "list"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "NaN or infinity"),
        (np.inf, "NaN or infinity"),
        (255.0, "pixels from 0 to 255, but float images must be in 0 to 1"),
        (-0.5, "pixels from -0.5 to 0"),
    ],
    ids=str,
)
def test_bad_float_pixels_are_found_before_training_by_row(value, message, as_list):
    X = np.zeros((9, 8, 8, 3), dtype=np.float32)
    X[5, 3, 2, 1] = value
    with pytest.raises(ValueError, match=rf"^X\[5\] .*{message}"):
        check_images(list(X) if as_list else X)


def test_rows_are_counted_across_blocks_of_a_large_array():
    X = np.zeros((40, 512, 1024, 1), dtype=np.float16)  # 2 ** 19 pixels each
    X[37, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"^X\[37\] contains NaN"):
        check_images(X)


def test_rounding_beyond_0_and_1_is_forgiven():
    X = np.array([-1e-7, 1 + 1e-7]).reshape(1, 1, 2)
    assert check_images(X).read([0])[0, 0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    "X",
    [
        [["a.jpg", "b.jpg"]],
        [("a.jpg", "b.jpg")],
        np.array([["a.jpg", "b.jpg"]]),
        np.array([[Path("a.jpg"), Path("b.jpg")]], dtype=object),
        pd.DataFrame({"path": ["a.jpg"], "other": [1]}),
    ],
    ids=lambda X: f"{type(X).__name__}",
)
def test_several_paths_in_a_row_are_refused(X):
    with pytest.raises(ValueError, match=r"paths in shape \(1, 2\). Pass one per row, shape \(n,"):
        check_images(X)


def test_max_pixels_must_be_a_number():
    with pytest.raises(ValueError, match="max_pixels='many' must be an integer"):
        check_images(PHOTOS, max_pixels="many")


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((4, 3)),
        np.zeros((4, 1)),
        np.zeros((0, 3)),
        np.zeros(4),
        np.zeros((4, 3), dtype=object),
        np.zeros((4, 3), dtype=complex),
        [[1.0, 2.0], [3.0, 4.0]],
        [np.zeros(3), np.zeros(3)],
        [1.0, 2.0],
        pd.DataFrame({"a": [1.0], "b": [2.0]}),
        pd.Series([1.0, 2.0]),
        sparse.eye(3),
        sparse.eye_array(3).tocsr(),
        torch.zeros(4, 3),
    ],
    ids=lambda X: f"{type(X).__name__}",
)
def test_numbers_in_rows_are_features(X):
    assert is_feature_rows(X)


@pytest.mark.parametrize(
    "X",
    [
        "a.jpg",
        Path("a.jpg"),
        ["a.jpg"],
        [b"a.jpg"],
        [Path("a.jpg")],
        np.array(["a.jpg"]),
        np.array([["a.jpg"]]),
        np.array([Path("a.jpg")], dtype=object),
        np.array([["a.jpg", "b.jpg"]]),
        [["a.jpg"], ["b.jpg"]],
        [np.array(["a.jpg"])],
        [[Image.new("L", (8, 8))]],
        pd.DataFrame({"path": ["a.jpg"], "other": [1]}),
        pd.Series(["a.jpg"]),
        pd.DataFrame({"path": ["a.jpg"]}),
        [Image.new("L", (8, 8))],
        Image.new("L", (8, 8)),
        [np.zeros((8, 8))],
        np.zeros((2, 8, 8)),
        np.zeros((2, 8, 8, 3)),
        np.zeros((2, 8, 8)).tolist(),
        torch.zeros(2, 8, 8, 3),
        pd.Series([np.zeros((8, 8)), np.zeros((9, 9))]),
        [],
        {},
        None,
        check_images(np.zeros((2, 8, 8))),
    ],
    ids=lambda X: f"{type(X).__name__}",
)
def test_images_and_paths_are_no_features(X):
    assert not is_feature_rows(X)


# Augmentation ---------------------------------------------------------------------------------


def test_none_changes_nothing(rng):
    batch = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    assert resolve_augmentation(None, 8)(batch, rng) is batch


def test_small_images_are_flipped_and_shifted_with_reflected_edges(rng):
    batch = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    padded = np.pad(batch, [(0, 0), (4, 4), (4, 4), (0, 0)], mode="reflect")
    changed = resolve_augmentation("auto", 32)(batch, rng)
    seen = set()
    for image, source in zip(changed, padded):
        places = [
            (top, left, flipped)
            for top in range(9)
            for left in range(9)
            for flipped in (False, True)
            if np.array_equal(
                image, source[top : top + 32, left : left + 32][:, :: 1 - 2 * flipped]
            )
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert {top for top, _, _ in seen} == set(range(9))
    assert {left for _, left, _ in seen} == set(range(9))
    assert {flipped for _, _, flipped in seen} == {False, True}


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (28, 20), (65, 70), (224, 224)], ids=str)
def test_augmentation_keeps_shape_and_type_and_repeats_by_seed(shape, rng, n_threads):
    batch = rng.integers(0, 256, (6, *shape, 3), dtype=np.uint8)
    before = batch.copy()
    augment = resolve_augmentation("auto")
    changed = augment(batch, np.random.default_rng(1))
    assert changed.shape == batch.shape
    assert changed.dtype == np.uint8
    assert np.array_equal(batch, before)
    assert np.array_equal(changed, augment(batch, np.random.default_rng(1)))
    if min(shape) > 1:
        assert not np.array_equal(changed, augment(batch, np.random.default_rng(2)))


def test_large_images_are_zoomed_into_by_60_to_100_percent_of_the_area(rng):
    # A ramp in each direction shows which part was cut.
    down, right = np.mgrid[0:200, 0:200].astype(np.uint8)
    batch = np.stack([down, right, 0 * down], axis=2)[None].repeat(100, axis=0)
    changed = resolve_augmentation("auto", 200)(batch, rng).astype(int)
    heights = changed[:, -1, 0, 0] - changed[:, 0, 0, 0]
    widths = changed[:, 0, -1, 1] - changed[:, 0, 0, 1]
    areas = heights * np.abs(widths) / 200**2
    assert (areas > 0.57).all()
    assert (areas <= 1).all()
    assert areas.std() > 0.05
    assert 25 < (widths < 0).sum() < 75


def test_the_size_decides_how_images_are_augmented(rng):
    small = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    shifted = resolve_augmentation("auto", 64)(small, np.random.default_rng(0))
    assert np.array_equal(resolve_augmentation("auto")(small, np.random.default_rng(0)), shifted)
    # Only shifting keeps every pixel value as it was.
    assert all(set(a.ravel()) <= set(b.ravel()) for a, b in zip(shifted, small))


def test_transforms_of_torchvision_are_applied_image_by_image(rng):
    batch = rng.integers(0, 256, (16, 24, 24, 3), dtype=np.uint8)
    batch.flags.writeable = False
    state = torch.get_rng_state()
    augment = resolve_augmentation(v2.RandomHorizontalFlip(0.5), 24)
    changed = augment(batch, np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), state)
    kept = (changed == batch).all(axis=(1, 2, 3))
    flipped = (changed == batch[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ flipped).all()
    assert 0 < kept.sum() < 16
    torch.manual_seed(99)
    assert np.array_equal(changed, augment(batch, np.random.default_rng(0)))
    assert not np.array_equal(changed, augment(batch, np.random.default_rng(1)))


def test_augmentations_survive_a_pickle(rng):
    batch = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    for augment in (None, "auto", v2.RandomVerticalFlip()):
        function = resolve_augmentation(augment, 16)
        again = pickle.loads(pickle.dumps(function))
        expected = function(batch, np.random.default_rng(0))
        assert np.array_equal(again(batch, np.random.default_rng(0)), expected)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (v2.CenterCrop(4), r"returned torch.uint8 \(3, 4, 4\) for torch.uint8 \(3, 8, 8\)"),
        (v2.ToDtype(torch.float32, scale=True), "returned torch.float32.*leave out Normalize"),
        (lambda image: image.numpy(), "returned uint8"),
        (lambda image: None, "returned NoneType"),
    ],
    ids=["shape", "dtype", "array", "nothing"],
)
def test_a_transform_that_returns_something_else_is_refused(augment, message, rng):
    with pytest.raises(ValueError, match=message):
        resolve_augmentation(augment, 8)(np.zeros((2, 8, 8, 3), np.uint8), rng)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("atuo", r"augment='atuo' is not known. Did you mean 'auto'\?"),
        (3, "augment=3 is not callable. Use 'auto', 'crop', None or a callable"),
    ],
)
def test_other_augmentations_are_refused(augment, message):
    with pytest.raises(ValueError, match=message):
        resolve_augmentation(augment)


@pytest.mark.parametrize("size", [32, 96])
def test_crop_never_mirrors(size):
    half = np.zeros((64, size, size, 3), dtype=np.uint8)
    half[:, :, : size // 2] = 255
    left_is_brighter = {
        name: (
            lambda batch: (
                batch[:, :, : size // 4].mean((1, 2, 3))
                > batch[:, :, -(size // 4) :].mean((1, 2, 3))
            )
        )(resolve_augmentation(name)(half, np.random.default_rng(0)))
        for name in ("auto", "crop")
    }
    assert left_is_brighter["crop"].all()
    assert 0 < left_is_brighter["auto"].sum() < 64
