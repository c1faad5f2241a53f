"""Reading the benchmarks' data, and writing down what came out and where it ran."""

import hashlib
import io
import itertools
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

import joblib
import numpy as np
from PIL import Image


def load_cifar10(path, part):
    """Return uint8 images (n, 32, 32, 3) and labels of "train" or "test".

    The file holds CIFAR-10 as JPEG bytes: `jpeg_train` (one stream), `offset_train` (n + 1,) and
    `y_train`, and the same for test.
    """
    with np.load(path) as file:
        stream, offsets = file[f"jpeg_{part}"], file[f"offset_{part}"]
        y = file[f"y_{part}"]
    images = np.empty((len(y), 32, 32, 3), dtype=np.uint8)
    for i, (start, end) in enumerate(itertools.pairwise(offsets)):
        images[i] = Image.open(io.BytesIO(stream[start:end].tobytes())).convert("RGB")
    return images, y.astype(np.int64)


def load_cifar10_parts(path):
    """Return images and labels, training images first, and how many of them train.

    `path` is a file as `load_cifar10` takes it, or the folder in which CIFAR-10 is distributed.
    """
    from sklearn_cbir import datasets

    if Path(path).is_dir():
        images = datasets.load_cifar10(path)
        return images.data, images.target, len(images.train)
    parts = [load_cifar10(path, part) for part in ("train", "test")]
    images, y = (np.concatenate(values) for values in zip(*parts))
    return images, y, len(parts[0][1])


def fingerprint(images, *others):
    """Return a short name of images, arrays or paths, and of the arrays that belong to them.

    Of files it knows name and size: the same data in another folder are the same data.
    """
    if isinstance(images[0], bytes):
        images = [hashlib.sha256(image).hexdigest() for image in images]
    elif not isinstance(images[0], np.ndarray):
        images = np.array([f"{Path(path).name} {os.path.getsize(path)}" for path in images])
    return joblib.hash([images, *others])[:8]


def stored(path, make):
    """Return the array of an earlier run from its file, or make and write it."""
    path = Path(path)
    if not path.exists():
        part = path.with_suffix(".part.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, make())
        part.replace(path)  # a run that is cut off leaves no half a file to go on from
    return np.load(path)


def find_weights(folder, backbone):
    """Return the state dict of a network in `folder`, or None.

    A file is called by the name without the library, with or without the tag, and may go on with
    an underscore or the hash of a download: ``tf_efficientnet_lite0_fp16.pt`` is of
    ``"timm/tf_efficientnet_lite0.in1k"``.
    """
    name, _, tag = backbone.rpartition("/")[2].partition(".")
    pattern = rf"{re.escape(name)}(\.{re.escape(tag)})?(_\w+|-[0-9a-f]{{8}})?\.(pt|pth|safetensors)"
    files = sorted(Path(folder).iterdir()) if folder else []
    return next((file for file in files if re.fullmatch(pattern, file.name)), None)


def keep_freed_memory():
    """Start again with glibc told to keep freed blocks.

    It returns large ones to the kernel otherwise, and training pays for fresh pages at every step.
    """
    keep = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
    if sys.platform == "linux" and not keep.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | keep)


def environment():
    """Return where and on what a benchmark ran."""
    import sklearn
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "date": date.today().isoformat(),
        "commit": commit,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__.split("+")[0],
        "threads": torch.get_num_threads(),
        "scikit-learn": sklearn.__version__,
        "python": platform.python_version(),
    }


def _cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


class NotRun(Exception):
    """A cell is not there, and its row is not one of those to run, or it does not fit."""


# Where these are the same, a cell comes out the same once more, to the digits that are printed.
PLACE = ("cpu", "gpu", "threads", "torch")
PRINTED = 5e-5
TIMES = ("seconds", "cpu_seconds", "training_seconds")


class Cells:
    """Finished results in one JSON file; a cell that is there is not run again.

    `rows` are the names of the rows to run, None for all; of the others only what is finished
    is shown. After `until`, a time of `time.monotonic`, no cell begins, and before it none that
    would end later by the times of the cells of its kind. `missing` has what was not run for that,
    and `problems` collects what makes the command fail once its table is printed. With `again`
    nothing new is run, but seed 0 of every row once more, and `compared` says what came of each.
    """

    def __init__(self, path, rows=None, until=math.inf, again=False):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.cells = self._read()
        self.rows = rows
        self.until = until
        self.again = again
        self.compared = {}
        self.known_rows = []
        self.missing = []
        self.problems = []
        self._shown = []
        self._may_run = True

    def beside(self, table):
        """Return the cells of another table of the folder, which this one needs, too."""
        others = Cells(self.path.with_name(f"{table}.json"), self.rows, self.until, self.again)
        others.missing, others.known_rows = self.missing, self.known_rows
        return others

    @contextmanager
    def row(self, name):
        """Run the cells of one row of a table; leave at the first that may not be run."""
        self.known_rows.append(name)
        self._may_run = self.rows is None or name in self.rows
        try:
            with suppress(NotRun):
                yield
        finally:
            self._may_run = True

    def run(self, name, function, *args, settings=None, kind=None):
        """Return the result of a cell, running it only if it is not there yet.

        `settings` are plain values on which the result depends. Under others, it is another
        cell, which is kept beside the first. Cells of one `kind` take about as long.
        """
        key = cell_key(name, settings)
        if key not in self.cells:  # another process may have run it
            self.cells = self._read() | self.cells
        if key in self.cells:
            is_asked = self.again and self._may_run and name.endswith(", seed 0")
            if is_asked and key not in self.compared:  # rows that get more seeds come twice
                self._compare(key, function(*args))
        else:
            if self.again or not self._may_run:
                raise NotRun(key)
            if not self._fits(kind):
                self.missing.append(name)
                raise NotRun(key)
            where = environment()
            started, used = time.perf_counter(), time.process_time()
            result = function(*args)
            result["seconds"] = round(time.perf_counter() - started, 1)
            result["cpu_seconds"] = round(time.process_time() - used, 1)
            about = {"settings": settings, "environment": where}
            self.cells[key] = result | about | ({} if kind is None else {"kind": kind})
            self._write()
        numbers = {k: v for k, v in self.cells[key].items() if isinstance(v, (int, float))}
        print(key, numbers, flush=True)
        self._shown.append(key)
        return self.cells[key]

    def _read(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def _write(self):
        """Write all cells, with those that another process has written meanwhile."""
        self.cells = self._read() | self.cells
        part = self.path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(self.cells, indent=1))
        part.replace(self.path)

    def _compare(self, key, result):
        """Note by how much a cell has changed; where it ran in the same place, that is a fault."""
        before, here = self.cells[key], environment()
        names = [of for of, value in before.items() if isinstance(value, float)]
        names = [of for of in names if of not in TIMES]
        differences = np.abs([before[of] - result[of] for of in names])
        largest = differences.argmax()  # the first NaN, where there is one
        text = f"{names[largest]} differs by {differences[largest]:.6f}"
        is_same = all(before["environment"].get(fact) == here[fact] for fact in PLACE)
        self.compared[key] = f"{text}, in {'the same' if is_same else 'another'} environment"
        if is_same and not differences[largest] < PRINTED:
            self.problems.append(f"{key}: {self.compared[key]}.")

    def _fits(self, kind):
        """Return whether a cell ends in time, by the median of its kind; an unknown kind does."""
        left = self.until - time.monotonic()
        of_kind = [cell["seconds"] for cell in self.cells.values() if cell.get("kind") == kind]
        return left > 0 and (kind is None or not of_kind or np.median(of_kind) <= left)

    def origin(self):
        """Return where, when and how long the cells ran that were asked for, as text."""
        shown = [self.cells[key] for key in dict.fromkeys(self._shown)]
        minutes = sum(cell["cpu_seconds"] for cell in shown) / 60
        parts = [f"{len(shown)} cells, {minutes:.1f} processor minutes"]
        for fact in ("commit", "date", "cpu", "cores", "threads", "gpu", "torch"):
            values = {cell["environment"].get(fact) for cell in shown} - {None}
            if values:
                parts.append(f"{fact} {', '.join(sorted(map(str, values)))}")
        return "; ".join(parts) + "."

    def unknown_rows(self):
        """Return which of the rows to run no table has."""
        return [name for name in self.rows or () if name not in self.known_rows]


def cell_key(name, settings):
    """Return the name of a cell with a short name of its settings."""
    if settings is None:
        return name
    text = json.dumps(settings, sort_keys=True)
    return f"{name} [{hashlib.sha256(text.encode()).hexdigest()[:8]}]"


def paired_bootstrap(a, b, *, n=10000, seed=0):
    """Return mean(b - a) and its 95 % interval over resampled queries."""
    rng = np.random.default_rng(seed)
    difference = np.asarray(b) - np.asarray(a)
    means = [rng.choice(difference, len(difference)).mean() for _ in range(n)]
    low, high = np.percentile(means, [2.5, 97.5])
    return difference.mean(), low, high
