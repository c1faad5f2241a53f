"""What a collection costs beside doing without one.

    python benchmarks/collection.py [--photos 2000] [--files 20000] [--rows 1000000]

1. The first sync of JPEG photos, beside a loop that decodes them and asks the network for rows.
2. A sync of files of which none is new, beside a walk by `os.scandir` that asks for the status of
   each; and one with ten new photos.
3. A collection of rows of 512 numbers, in half precision, opened and asked once in a new process.

Times are processor time, the best of three turns; 0 leaves a part out. Memory is RssAnon.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from _data import environment
from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.collection import PhotoCollection, _segments
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor

TURNS = 3
ASK = """
import resource, sys, time
import numpy as np
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.descriptors import GISTDescriptor

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))

query = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), dtype=np.uint8)
GISTDescriptor().transform(query)
before, start, wall = anonymous(), time.process_time(), time.perf_counter()
collection = PhotoCollection.open(sys.argv[1], read_only=True)
collection.search(query, 10)
print(time.process_time() - start, time.perf_counter() - wall, anonymous() - before)
start = time.process_time()
collection.search(query, 10)
print(time.process_time() - start)
"""


def first_sync(folder, n):
    """Time a first sync and a bare loop; return processor seconds of both."""
    rng = np.random.default_rng(0)
    for number in range(n):
        coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        photo.save(folder / f"{number:06d}.jpg", quality=90)
    images, y = make_shapes(20, random_state=0)
    extractor = CNNFeatureExtractor("resnet18", weights=None, image_size=224, max_epochs=1).fit(
        images, y
    )
    paths = sorted(map(str, folder.glob("*.jpg")))
    start = time.process_time()
    for first in range(0, n, 32):
        extractor.transform(paths[first : first + 32])
    bare = time.process_time() - start
    with PhotoCollection.create(folder / ".cbir", folder, extractor) as collection:
        start = time.process_time()
        collection.sync()
        return time.process_time() - start, bare


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


def nothing_new(folder, n):
    """Time syncs with nothing new, and with ten new photos, and a bare walk."""
    image = make_shapes(1, random_state=0)[0][0]
    Image.fromarray(image).save(folder / "one.png")
    content = (folder / "one.png").read_bytes()
    for number in range(n):
        path = folder / f"{number % 100}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content + number.to_bytes(4, "little"))
        os.utime(path, ns=(10**18, 10**18))
    with PhotoCollection.create(folder / ".cbir", folder, GISTDescriptor()) as collection:
        collection.sync()
    bare = best(lambda: walk(folder))

    def sync():
        with PhotoCollection.open(folder / ".cbir") as collection:
            return collection.sync()

    same = best(sync)
    for number in range(10):
        Image.fromarray(image[number:]).save(folder / f"new{number}.png")
    start = time.process_time()
    assert sync().added == 10
    return same, time.process_time() - start, bare


def best(work):
    """Return the processor seconds of the best of some turns."""
    taken = []
    for _ in range(TURNS):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def many_rows(folder, n):
    """Make a collection of random rows, and ask it in a new process."""
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
                for segment in segments[before:]:
                    table.ask("INSERT INTO segment VALUES (?, ?, ?)", segment)
                batch = first, len(values), _segments.checksum(values)
                table.ask("INSERT INTO batch VALUES (?, ?, ?)", batch)
                for row in range(first, first + len(values)):
                    name = f"{row}.jpg"
                    about = {"root": 1, "path": name.encode(), "folder": "", "name": name}
                    table.put(None, {**about, "state": "ready", "row": row})
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
        yield [float(number) for number in done.stdout.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asked = parser.parse_args()
    print(environment())
    with tempfile.TemporaryDirectory() as folder:
        if asked.photos:
            ours, bare = first_sync(Path(folder), asked.photos)
            print(f"first sync: {ours:.1f} s, bare loop {bare:.1f} s, ratio {ours / bare:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        if asked.files:
            same, ten, bare = nothing_new(Path(folder), asked.files)
            print(f"nothing new: {same:.2f} s, bare walk {bare:.2f} s, bar {3 * bare + 0.3:.2f} s")
            print(f"ten new: {ten:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        if asked.rows:
            for first, wall, memory, again in many_rows(Path(folder), asked.rows):
                print(f"opened and asked: {first:.2f} s ({wall:.2f} s by the wall clock)")
                print(f"  {memory:.0f} MB of memory; asked again: {again:.2f} s")


if __name__ == "__main__":
    main()
