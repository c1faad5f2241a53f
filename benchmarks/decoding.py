"""From large JPEG photos to features: decoding beside the network, and one after the other.

    python benchmarks/decoding.py PHOTOS [--n 500] [--turns 5] [--backbone mobilenet_v2]
        [--runtime torch]

JPEG photos of 12 megapixels are made of those below the folder PHOTOS, enlarged, with noise, in a
temporary folder; every fifth is another one, and the others are links to it. In turns:

- "beside": `transform`, with as many threads as torch has here. Run it with two:
  ``taskset -c 0,1`` leaves two cores, and without OMP_NUM_THREADS torch takes both;
- "after": `transform` with one thread, which decodes some photos, computes with them, and so on;
- decoding alone, with one thread.

The bar is by the wall: beside, at most 1.15 of the processor time of after, shared by the cores.
Where other work runs beside, the wall says little: the processor time of both stands next to it.
All rows are compared, and are equal bit by bit. Memory is the highest that a turn adds (VmHWM).
"""

import argparse
import os
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from _data import environment
from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir._threads import n_cores
from sklearn_cbir.images import check_images

SIDES, SIZE = (4000, 3000), 224
LINKS, BAR = 5, 1.15


def make_photo(source, target, seed):
    """Write a photo of 12 megapixels, upright or lying as its source is."""
    rng = np.random.default_rng(seed)
    with Image.open(source) as photo:
        sides = SIDES if photo.width >= photo.height else SIDES[::-1]
        large = photo.convert("RGB").resize(sides, Image.Resampling.BICUBIC)
    noise = rng.integers(-6, 7, (*sides[::-1], 1), dtype=np.int16)
    pixels = np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(target, quality=90)


def write_photos(folder, sources, n):
    """Write photos, of which every `LINKS` are one file with as many names; return their paths."""
    paths = [folder / f"{number:04d}.jpg" for number in range(n)]
    made = paths[::LINKS]
    with ThreadPoolExecutor(n_cores()) as pool:
        step = max(1, len(sources) // len(made))
        list(pool.map(make_photo, sources[::step], made, range(len(made))))
    for number, path in enumerate(paths):
        if number % LINKS:
            os.link(paths[number - number % LINKS], path)
    return list(map(str, paths))


@contextmanager
def threads(n):
    """Leave so many threads to torch and to decoding."""
    before, n_before = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = str(n)  # decoding reads it
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(n_before)
    del os.environ["OMP_NUM_THREADS"]
    if before is not None:
        os.environ["OMP_NUM_THREADS"] = before


def highest(name="VmHWM"):
    """Return the most memory in MB that this process has had since `forget`."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def forget():
    """Let `highest` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def flags():
    """Return which wide instructions the processor has."""
    known = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    return [name for name in known if name.startswith(("avx", "amx"))]


def timed(work, paths):
    """Return what `work` gives, and its seconds by the wall and of processor time, and MB."""
    forget()
    begun = highest("VmRSS")
    start = time.perf_counter(), time.process_time(), os.times().system
    found = work(paths)
    end = time.perf_counter(), time.process_time(), os.times().system
    return found, [b - a for a, b in zip(start, end)] + [highest() - begun]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--runtime", default="torch", choices=["torch", "openvino"])
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="loss=None and weights=None")
        extractor = CNNFeatureExtractor(options.backbone, weights=None, loss=None, image_size=SIZE)
        extractor.set_params(runtime=options.runtime).fit(
            np.zeros((2, SIZE, SIZE, 3), dtype=np.uint8)
        )

    def decode(paths):
        resize = extractor._network_state["reading"]["resize"]
        for start in range(0, len(paths), 3):
            check_images(paths[start : start + 3]).read(slice(None), SIZE, resize)

    works = {"beside": extractor.transform, "after": extractor.transform, "decoding": decode}
    times = {name: [] for name in works}
    cores = min(n_cores(), torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        sources = sorted(options.photos.rglob("*.jpg"))
        paths = write_photos(Path(folder), sources, options.n)
        for n in (cores, 1):  # what is made once
            with threads(n):
                extractor.transform(paths[:32])
        for turn in np.array_split(np.array(paths), options.turns):
            found = {}
            for name, work in works.items():
                with threads(cores if name == "beside" else 1):
                    found[name], spent = timed(work, list(turn))
                times[name].append([*(1000 * second / len(turn) for second in spent[:3]), spent[3]])
            assert np.array_equal(found["beside"], found["after"])
    print(environment() | {"runtime": options.runtime, "flags": flags()})
    print("| ms a photo | by the wall | processor time | of it in the system | MB more |")
    print("|---|---|---|---|---|")
    middle = {name: [median(column) for column in zip(*rows)] for name, rows in times.items()}
    for name, row in middle.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    beside, after = (np.array(times[name]) for name in ("beside", "after"))
    by_wall = median(beside[:, 0] / (after[:, 1] / cores))
    print(f"by the wall / (processor time of after / {cores}): {by_wall:.3f} (bar {BAR})")
    print(f"processor time of beside / of after: {median(beside[:, 1] / after[:, 1]):.3f}")


if __name__ == "__main__":
    main()
