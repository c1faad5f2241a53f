"""What a collection costs beside doing without one.

    OMP_NUM_THREADS=1 python benchmarks/collection.py [--photos 2000] [--width 640]
        [--files 20000] [--rows 1000000]

1. The first sync of JPEG photos with resnet18, beside a bare loop that decodes them with Pillow and
   runs the same network. Both take turns, batch by batch; the sync lists, hashes and stores, too,
   and loads its network.
2. A sync of files of which none is new, beside a walk by `os.scandir` that asks for the status of
   each; and one with ten new photos, beside that, loading the network, and what the bare loop takes
   for ten.
3. A collection of rows of 512 numbers, in half precision, opened and asked once in a new process:
   by the wall, and the memory that it takes beside the files that are mapped (RssAnon).

Times are processor time, but where it says "wall": medians of five turns, and of the first sync
one. Each line has its bar, that of the issue which asked for it. 0 leaves a part out. With
OMP_NUM_THREADS=1, which it asks for, nothing runs beside what is timed.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from _data import environment
from sklearn_cbir import CNNFeatureExtractor, persistence
from sklearn_cbir._threads import n_cores
from sklearn_cbir.collection import PhotoCollection, _segments, _sync
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor

TURNS, BATCH, SIDE = 5, 32, 224
ASK = """
import sys, time
import numpy as np
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.descriptors import GISTDescriptor

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))

def ask(work):
    start, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - start, time.perf_counter() - wall, anonymous() - before

rng = np.random.default_rng(0)
queries = rng.integers(0, 255, (100, 64, 64, 3), dtype=np.uint8)
GISTDescriptor().transform(queries[:1])
before = anonymous()

def first():
    global photos
    photos = PhotoCollection.open(sys.argv[1], read_only=True)
    photos.search(queries[:1], 10)

print(*ask(first))
print(*ask(lambda: photos.search(queries[:1], 10)))
print(*ask(lambda: photos.search(queries[:1], 10, where={"folder": "3"})))
print(*ask(lambda: photos.search(queries[:1], 10, where={"taken": ("2005", "2010")})))
print(*ask(lambda: photos.like([5, 7], unlike=[9])))
print(*ask(lambda: photos.search(queries, 10)))
"""
ASKED = (
    "opened and asked once",
    "asked again",
    "where: a folder, 5% of the photos",
    "where: six years, 24%",
    "like two photos, unlike one",
    "100 queries at once",
)


def seconds(work, *of):
    """Return the processor seconds that some work takes."""
    start = time.process_time()
    work(*of)
    return time.process_time() - start


def write_photos(folder, n, width, seed=0):
    """Write JPEG photos of about the size that a camera gives; return their paths."""
    rng, paths = np.random.default_rng(seed), []
    noise = rng.normal(scale=6, size=(width * 3 // 4, width, 3))
    for number in range(n):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        photo = coarse.resize((width, width * 3 // 4), Image.Resampling.BICUBIC)
        pixels = np.clip(np.asarray(photo) + np.roll(noise, number, axis=0), 0, 255)
        paths.append(str(folder / f"{seed}-{number:06d}.jpg"))
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def make_extractor():
    images, y = make_shapes(20, random_state=0)
    extractor = CNNFeatureExtractor("resnet18", weights=None, image_size=SIDE, max_epochs=1)
    return extractor.fit(images, y)


@torch.inference_mode()
def decode_and_forward(network, paths):
    """Return the rows of a few photos, by Pillow and torch alone."""
    pixels = np.empty((len(paths), SIDE, SIDE, 3), dtype=np.uint8)
    for number, path in enumerate(paths):
        with Image.open(path) as photo:
            scale = 2 * SIDE / min(photo.size)
            photo.draft("RGB", tuple(math.ceil(side * scale) for side in photo.size))
            width, height = photo.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
            small = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box)
            pixels[number] = np.asarray(small.convert("RGB"))
    return network.embed(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()


def first_sync(folder, n, width):
    """Time a first sync and a bare loop, which take turns; return processor seconds of both."""
    write_photos(folder, n, width)
    extractor = make_extractor()
    network, chunks, bare = extractor._fitted_network(), _sync._read_in_chunks, []

    def in_turns(to_read):
        for chunk in chunks(to_read):
            paths = [photo.listed.place for photo in chunk]
            bare.append(seconds(decode_and_forward, network, paths))
            yield chunk

    with PhotoCollection.create(folder / ".cbir", folder, extractor) as collection:
        _sync._read_in_chunks = in_turns
        try:
            both = seconds(collection.sync)
        finally:
            _sync._read_in_chunks = chunks
        first = sorted(folder.glob("*.jpg"))[:BATCH]
        numbers = {Path(hit[0].path).name for hit in collection.search(list(map(str, first)), 1)}
        assert numbers == {path.name for path in first}
    return both - sum(bare), sum(bare)


def walk(folder):
    """List all files below a folder with their status, as barely as it can be done."""
    found, folders = [], [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    found.append((entry.path, entry.stat().st_mtime_ns))
    return found


def nothing_new(folder, n, width):
    """Yield times of a bare walk, of syncs with nothing new and ten new, and the bar of these."""
    (photo,) = write_photos(folder, 1, width)
    content = Path(photo).read_bytes()
    for number in range(n):  # copies are embedded once
        path = folder / f"{number % 100}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
    os.utime(photo, ns=(10**18, 10**18))
    extractor = make_extractor()
    with PhotoCollection.create(folder / ".cbir", folder, extractor) as collection:
        assert collection.sync().added == n + 1

    def sync(added):
        with PhotoCollection.open(folder / ".cbir") as collection:
            assert collection.sync().added == added

    def load():
        return persistence.load(folder / ".cbir" / "extractor.cbir")._fitted_network()

    network = load()
    for turn in range(1, TURNS + 1):
        bare, same = seconds(walk, folder), seconds(sync, 0)
        paths = write_photos(folder, 10, width, seed=turn)
        for path in paths:
            os.utime(path, ns=(10**18, 10**18))
        ten = seconds(sync, 10)
        parts = seconds(load) + seconds(decode_and_forward, network, paths)
        yield bare, same, ten, 3 * bare + 0.3 + parts


def many_rows(folder, n):
    """Make a collection of random rows; yield what new processes that ask it say."""
    (folder / "photos").mkdir()
    with PhotoCollection.create(folder / "c", folder / "photos", GISTDescriptor()) as collection:
        table, format = collection._table, _segments.RowFormat("float16", 512)
        segments, rng = [], np.random.default_rng(0)
        for first in range(0, n, 50_000):
            rows = rng.normal(size=(min(50_000, n - first), 512)).astype(np.float32)
            values = format.encoded(rows)
            with table.writing():
                before = len(segments)
                segments = _segments.append_rows(table.folder, format, segments, first, values, 0)
                starts = range(0, len(values), _sync.PHOTOS_PER_COMMIT)
                parts = [(at, values[at : at + _sync.PHOTOS_PER_COMMIT]) for at in starts]
                batches = [_segments.Batch.of(first + at, part) for at, part in parts]
                table.add_rows(segments[before:], batches)
                for row in range(first, first + len(values)):
                    table.put(None, line_of(row, rng.bytes(16)))
                table.set_about(n_rows=first + len(values), **format._asdict())
        table.checkpoint()
    for _ in range(TURNS):
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(folder / "c")],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        yield [[float(number) for number in line.split()] for line in done.stdout.splitlines()]


def line_of(row, content):
    """Return what the table holds of a photo."""
    folder, name = f"{row % 20}/{row // 1000}", f"IMG_{row}.jpg"
    return {
        "root": 1,
        "path": f"{folder}/{name}".encode(),
        "folder": folder,
        "name": name,
        "label": f"{row % 20}",
        "size": 3_000_000 + row,
        "modified": 10**18 + row,
        "hash": content,
        "width": 4000,
        "height": 3000,
        "taken": f"20{row % 25:02d}-05-01 09:30:00",
        "state": "ready",
        "row": row,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--width", type=int, default=640, help="of the photos, in px")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asked = parser.parse_args()
    if n_cores() > 1:
        parser.error("set OMP_NUM_THREADS=1: what is timed in turns must not run side by side")
    print(environment())
    with tempfile.TemporaryDirectory() as folder:
        if asked.photos:
            ours, bare = first_sync(Path(folder), asked.photos, asked.width)
            print(f"first sync of {asked.photos}: {ours:.1f} s, bare loop {bare:.1f} s")
            print(f"  ratio {ours / bare:.3f}, bar 1.05")
    with tempfile.TemporaryDirectory() as folder:
        if asked.files:
            times = zip(*nothing_new(Path(folder), asked.files, asked.width))
            bare, same, ten, bar = map(median, times)
            print(f"bare walk of {asked.files} files: {bare:.3f} s")
            print(f"nothing new: {same:.3f} s, bar {3 * bare + 0.3:.3f} s")
            print(f"ten new, with the network: {ten:.3f} s, bar {bar:.3f} s")
    with tempfile.TemporaryDirectory() as folder:
        if asked.rows:
            turns = np.array(list(many_rows(Path(folder), asked.rows)))
            for what, (processor, wall, memory) in zip(ASKED, np.median(turns, axis=0)):
                print(f"{what}: {processor:.2f} s, {wall:.2f} s wall, {memory:.0f} MB so far")
            print("  bars of the first: 2 s wall, 200 MB")


if __name__ == "__main__":
    main()
