"""From ten thousand photos on a disk to answers, as a user has it: time, memory and disk.

    python benchmarks/end_to_end.py PHOTOS [--n 10000] [--fewer 1000] [--out end_to_end]
        [--turns 3] [--only mobilenet_v2 openvino]

JPEG photos of 3 megapixels are made of those below the folder PHOTOS, enlarged and with noise, in
OUT/photos; once all photos have been used, again mirrored, and then upside down. Each cell is a
network with random weights, a runtime and a number of cores, in processes of their own that see so
many cores:

- a new collection is made of all photos;
- it takes in what is new, which is nothing (`cbir sync`);
- a new process answers a photo (`cbir search`) and a number (`cbir like`);
- one process answers many photos and many numbers, one at a time.

Cells that would take long index `--fewer` photos, and are not asked. What is not measured with
10,000 photos is computed from the time of a photo once a quarter is done, and marked by "~". Times
are by the wall, with processor time beside them. Every finished cell is in OUT/end_to_end.json and
not run again; the photos stay there, too. The tables are printed and in OUT/end_to_end.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageOps

from _data import Cells

NETWORKS = {"mobilenet_v2": "mobilenet_v2", "vit_small": "timm/vit_small_patch16_224"}
RUNTIMES, CORES = ("torch", "openvino"), (1, 2)
SIDES, SIDE = (2048, 1536), 224
SLOW = {("vit_small", "torch", 1), ("vit_small", "torch", 2), ("vit_small", "openvino", 1)}
N_PHOTOS, N_NUMBERS = 100, 300
FEW, MANY = 10_000, 1_000_000
WAITS = ("again", "first_photo", "first_number")

INDEX = """
import json, sys, time
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.persistence import load
place, photos, extractor = sys.argv[1:]
times = {}
def note(done, n):
    times[done] = time.perf_counter(), time.process_time()
with PhotoCollection.create(place, photos, load(extractor)) as collection:
    report = collection.sync(progress=note)
assert not report.unreadable, report
quarter = min(done for done in times if done >= report.added // 4)
begin, end = times[quarter], times[report.added]
wall, processor = (1000 * (b - a) / (report.added - quarter) for a, b in zip(begin, end))
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
found = {"n": report.added, "ms_each": wall, "processor_ms_each": processor}
print(json.dumps(found | {"peak_mb": peak * 1024 / 1e6}))
"""
ASK = """
import json, sys, time
from statistics import median
from sklearn_cbir.collection import PhotoCollection
place, n_photos, n_numbers = sys.argv[1], *map(int, sys.argv[2:])
def timed(name, ask, values):
    times = []
    for value in values:
        start = time.perf_counter(), time.process_time()
        ask(value)
        end = time.perf_counter(), time.process_time()
        times.append([1000 * (b - a) for a, b in zip(start, end)])
    warm = zip(*times[min(10, len(times) // 2):])
    return dict(zip((f"{name}_ms", f"{name}_processor_ms"), map(median, warm)))
def ask_by_photo(number):
    assert paths[number] in [hit.path for hit in collection.search([paths[number]], k=10)[0]]
with PhotoCollection.open(place) as collection:
    items = collection.items()
    paths = dict(zip(items["number"].tolist(), items["path"].tolist()))
    step = max(1, len(paths) // n_photos)
    numbers = list(paths)
    found = timed("photo", ask_by_photo, numbers[::step])
    print(json.dumps(
        found | timed("number", lambda it: collection.like([it], k=10), numbers[:n_numbers])
    ))
"""


def make_photo(source, target, times_used):
    """Write a photo of 3 megapixels, upright or lying as its source is."""
    rng = np.random.default_rng(list(target.name.encode()))
    with Image.open(source) as photo:
        sides = SIDES if photo.width >= photo.height else SIDES[::-1]
        half = tuple(side // 2 for side in sides)
        small = photo.convert("RGB").resize(half, Image.Resampling.BICUBIC)
    if times_used:
        small = ImageOps.mirror(small) if times_used % 2 else ImageOps.flip(small)
    noise = rng.integers(-20, 21, (*half[::-1], 1), dtype=np.int16)
    pixels = np.clip(np.asarray(small) + noise, 0, 255).astype(np.uint8)
    large = Image.fromarray(pixels).resize(sides, Image.Resampling.BILINEAR)
    part = target.with_suffix(".part")
    large.save(part, "JPEG", quality=90)
    part.replace(target)


def write_photos(folder, sources, n):
    """Write the photos that are not there yet, a thousand in a folder."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = []
        for number in range(n):
            target = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                source = sources[number % len(sources)]
                made.append(pool.submit(make_photo, source, target, number // len(sources)))
        for one in made:
            one.result()


def write_extractor(path, network, runtime):
    from sklearn_cbir import CNNFeatureExtractor
    from sklearn_cbir.persistence import save

    extractor = CNNFeatureExtractor(NETWORKS[network], weights=None, loss=None, image_size=SIDE)
    extractor.set_params(runtime=runtime, device="cpu", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is random, and so are its features
        save(extractor.fit(np.zeros((2, SIDE, SIDE, 3), dtype=np.uint8)), path)


def run(cores, *command):
    """Run Python in a new process on so many cores; return what it prints, and its seconds."""
    kept = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    seen = sorted(os.sched_getaffinity(0))[:cores]
    if len(seen) < cores:
        raise RuntimeError(f"{cores} cores are asked for, and {len(seen)} are here.")
    start, used = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)],
        env=kept | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        preexec_fn=lambda: os.sched_setaffinity(0, seen),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    wall, after = time.perf_counter() - start, os.times()
    cpu = sum(after[2:4]) - sum(used[2:4])
    return done.stdout, {"s": wall, "processor_s": cpu}


def measure(out, photos, network, runtime, cores, turns):
    """Return the plain numbers of one cell."""
    place, extractor = out / "collection", out / "extractor.cbir"
    shutil.rmtree(place, ignore_errors=True)
    write_extractor(extractor, network, runtime)
    printed, seconds = run(cores, "-c", INDEX, place, photos, extractor)
    found = json.loads(printed) | {f"index_{name}": value for name, value in seconds.items()}
    found |= sizes(place)
    if turns:
        a_photo = min(photos.rglob("*.jpg"))
        words_of = {
            "again": ("sync",),
            "first_photo": ("search", a_photo),
            "first_number": ("like", 1),
        }
        for name in WAITS:
            command = ("-m", "sklearn_cbir", *words_of[name], "--index", place, "--quiet")
            times = [run(cores, *command)[1] for _ in range(turns)]
            for what in times[0]:
                found[f"{name}_{what}"] = median(seconds[what] for seconds in times)
        found |= json.loads(run(cores, "-c", ASK, place, N_PHOTOS, N_NUMBERS)[0])
    shutil.rmtree(place)
    extractor.unlink()
    return found


def sizes(place):
    """Return megabytes on the disk, of all of a collection and of its parts."""
    parts = {"rows_mb": "rows-*", "table_mb": "collection.sqlite*", "extractor_mb": "*.cbir"}
    found = {
        name: sum(path.stat().st_blocks * 512 for path in place.glob(pattern)) / 1e6
        for name, pattern in parts.items()
    }
    return found | {"disk_mb": sum(found.values())}


def table(head, lines):
    rule = "|---" * len(head) + "|"
    return "\n".join([row(head), rule, *map(row, lines)])


def row(values):
    return f"| {' | '.join(values)} |"


def tables(cells, photo_mb):
    """Return the tables of finished cells, as text."""
    index, ask, disk, many = [], [], {}, []
    for (network, runtime, cores), cell in cells.items():
        name, left = [network, runtime, str(cores)], FEW - cell["n"]
        each = cell["ms_each"], cell["processor_ms_each"]
        index.append(
            [
                *name,
                "~" * bool(left) + f"{cell['index_s'] + left * each[0] / 1000:.0f}",
                "~" * bool(left) + f"{cell['index_processor_s'] + left * each[1] / 1000:.0f}",
                *(f"{ms:.1f}" for ms in each),
                f"{cell['peak_mb']:.0f}",
                f"{cell['n']:,}",
            ]
        )
        stored = (cell["rows_mb"] + cell["table_mb"]) / cell["n"] * MANY / 1000
        hours = [f"{ms * MANY / 1000 / 3600:.1f}" for ms in each]
        many.append([*name, *hours, f"{stored:.1f}"])
        if "photo_ms" in cell:
            waits = [
                f"{cell[f'{what}_s']:.2f} ({cell[f'{what}_processor_s']:.2f})" for what in WAITS
            ]
            warm = [
                f"{cell[f'{what}_ms']:.1f} ({cell[f'{what}_processor_ms']:.1f})"
                for what in ("photo", "number")
            ]
            ask.append([*name, *waits, *warm])
            parts = [cell[f"{part}_mb"] for part in ("rows", "table", "extractor", "disk")]
            photos_mb = photo_mb * cell["n"]
            disk[network] = [network, f"{photos_mb:,.0f}", *(f"{part:.1f}" for part in parts)]
    cell = ["network", "runtime", "cores"]
    two = ["s", "processor s", "ms a photo", "processor ms", "memory, MB", "photos measured"]
    ask_head = ["nothing new, s", "first photo, s", "first number, s", "photo, ms", "number, ms"]
    disk_head = ["network", "photos", "rows", "table", "network", "index, MB"]
    return "\n\n".join(
        [
            table([*cell, *two], index),
            table([*cell, *ask_head], ask),
            table(disk_head, disk.values()),
            table([*cell, "hours", "processor hours", "GB on disk"], many),
        ]
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of JPEG photos, however small")
    parser.add_argument("--n", type=int, default=FEW)
    parser.add_argument("--fewer", type=int, default=1000, help="photos of cells that are slow")
    parser.add_argument("--out", type=Path, default=Path("end_to_end"))
    parser.add_argument("--turns", type=int, default=3, help="of processes that answer once")
    parser.add_argument("--only", nargs="*", default=[], help="networks, runtimes, cores to run")
    options = parser.parse_args(arguments)
    sources = sorted(options.photos.rglob("*.jpg"))
    if not sources:
        parser.error(f"There are no photos (*.jpg) below {options.photos}.")
    n, fewer = options.n, min(options.fewer, options.n)
    cells, shown = Cells(options.out / "end_to_end.json"), {}
    folders = {size: options.out / f"photos-{size}" for size in {n, fewer}}
    for size, folder in folders.items():
        write_photos(folder, sources, size)
    for name in product(NETWORKS, RUNTIMES, CORES):
        if set(options.only) <= set(map(str, name)):
            size = fewer if name in SLOW else n
            shown[name] = cells.run(
                " ".join(map(str, name)),
                partial(measure, options.out, folders[size], *name, options.turns * (size == n)),
                settings={"n": size, "sides": SIDES},
            )
    photo_mb = sum(path.stat().st_size for path in folders[n].rglob("*.jpg")) / n / 1e6
    text = f"{tables(shown, photo_mb)}\n\n{cells.origin()}\n"
    (options.out / "end_to_end.md").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
