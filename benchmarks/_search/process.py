"""Processes of their own: how long until the first answer, and how much memory at most."""

import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.neighbors import NearestNeighbors

from _search.data import clustered
from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.persistence import save

WORKING_MEMORY = 64  # MiB

MEMORY_OF = [
    (10_000, 512, "cosine", "exact"),
    (60_000, 512, "cosine", "exact"),
    (60_000, 512, "euclidean", "exact"),
    (1_000_000, 64, "hamming", "exact"),
    (60_000, 512, "cosine", "nndescent"),
    (60_000, 512, "cosine", "faiss"),
]
START = {
    "ours": "import pickle; r = pickle.load(open('{folder}/ours.pickle', 'rb'))",
    "ours, persistence.load": (
        "from sklearn_cbir.persistence import load; r = load('{folder}/ours.cbir')"
    ),
    "scikit-learn": "import pickle; r = pickle.load(open('{folder}/theirs.pickle', 'rb'))",
}
ASK = "; import numpy; r.kneighbors(numpy.load('{folder}/query.npy'))"

MEMORY = """
import numpy as np
from sklearn import set_config
from sklearn_cbir import NeighborsRetriever
set_config(working_memory={working})
def make():
    return NeighborsRetriever(metric={metric!r}, algorithm={algorithm!r}, random_state=0)
# All that is compiled comes first, as its memory is not the gallery's: pynndescent is from some
# 22,000 rows on, the screen once a hundred single queries were asked.
small = np.random.default_rng(0).integers(0, 2, (25_000, 64)).astype({dtype!r})
make().fit(small, np.arange(25_000) % 5).score(small[:9], np.arange(9) % 5)
from sklearn_cbir.index._int8_kernels import Int8Rows
Int8Rows(np.ones((9, 2), 'f')).multiply(np.ones(2, 'f'))
def read(what):
    for line in open('/proc/self/status'):
        if line.startswith(what):
            return int(line.split()[1]) / 1024
def peak_of(work):
    open('/proc/self/clear_refs', 'w').write('5')  # the peak starts again from what is held now
    work()
    return read('VmHWM')
X, Q = np.load({gallery!r}), np.load({queries!r})
y = np.arange(len(X), dtype=np.int8) % 10
before = read('VmRSS')
r = make().fit(X, y)
held = read('VmRSS')
def search():
    r.kneighbors(Q)
    for row in range(101):  # one by one, as a service is asked
        r.kneighbors(Q[row : row + 1])
peaks = [peak_of(search), peak_of(lambda: r.score(Q, np.arange(len(Q)) % 10))]
print(before, held, *peaks, r._gallery.engine.rows.nbytes / 2**20)
"""


def run(cells, options):
    start = cells.run("start 20000 x 64", measure_start, options)
    memory = [
        cells.run(f"memory of {algorithm} {n} x {d} {metric}", measure_memory, *setting, options)
        for setting in MEMORY_OF
        for n, d, metric, algorithm in [setting]
        if not options.quick
    ]
    return "\n\n".join([start_table(start), *([memory_table(memory)] if memory else [])])


def measure_start(options):
    folder = Path(options.out) / "start"
    folder.mkdir(parents=True, exist_ok=True)
    gallery, queries = clustered(20_000, 64)
    ours = NeighborsRetriever(10, metric="euclidean", algorithm="exact").fit(gallery)
    theirs = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(gallery)
    (folder / "ours.pickle").write_bytes(pickle.dumps(ours, protocol=5))
    (folder / "theirs.pickle").write_bytes(pickle.dumps(theirs, protocol=5))
    save(ours, folder / "ours.cbir")
    np.save(folder / "query.npy", queries[:1])
    cpu, wall = ({name: [] for name in START} for _ in range(2))
    for _ in range(max(7, options.repeats)):
        for name, load in START.items():
            used, start = _children(), time.perf_counter()
            script = (load + ASK).format(folder=folder)
            subprocess.run([sys.executable, "-c", script], check=True, env=_environment())
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(_children() - used)
    sizes = {
        name: (folder / file).stat().st_size / gallery.nbytes
        for name, file in zip(START, ("ours.pickle", "ours.cbir", "theirs.pickle"))
    }
    return {
        "cpu_s": {name: float(np.median(values)) for name, values in cpu.items()},
        "wall_s": {name: float(np.median(values)) for name, values in wall.items()},
        "size": sizes,
    }


def _children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _environment():
    package = Path(__file__).parent.parent.parent
    return os.environ | {"PYTHONPATH": str(package)}


def measure_memory(n, d, metric, algorithm, options):
    folder = Path(options.out) / "memory"
    folder.mkdir(parents=True, exist_ok=True)
    gallery, queries = clustered(n, d)
    dtype = "float32"
    if metric == "hamming":
        gallery, queries, dtype = gallery > 0, queries > 0, "bool"
    np.save(folder / "gallery.npy", gallery)
    np.save(folder / "queries.npy", queries)
    script = MEMORY.format(
        working=WORKING_MEMORY,
        dtype=dtype,
        metric=metric,
        algorithm=algorithm,
        gallery=str(folder / "gallery.npy"),
        queries=str(folder / "queries.npy"),
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, env=_environment(), capture_output=True
    ).stdout
    before, held, searched, scored, size = map(float, printed.split())
    return {
        "what": f"{n:,} x {d} {metric}, {algorithm}",
        "gallery_mib": size,
        "held_mib": held - before,
        "search_mib": searched - before,
        "score_mib": scored - before,
        "bound_mib": 2 * size + WORKING_MEMORY,
    }


def start_table(result):
    theirs = "scikit-learn"
    lines = [
        "| process that answers one query | s of processor | to scikit-learn | s by the wall "
        "| to scikit-learn | file / vectors |",
        "|---|---|---|---|---|---|",
    ]
    for name, used in result["cpu_s"].items():
        wall = result["wall_s"]
        lines.append(
            f"| {name} | {used:.3f} | {used / result['cpu_s'][theirs]:.2f} | {wall[name]:.3f} | "
            f"{wall[name] / wall[theirs]:.2f} | {result['size'][name]:.3f} |"
        )
    return "\n".join(lines)


def memory_table(results):
    lines = [
        "Memory in MiB beyond the imports and the caller's array, with "
        f"`working_memory={WORKING_MEMORY}`: of the rows, of the process after the fit, and at "
        "most while it searches and scores; the bound is twice the rows and the working memory:",
        "",
        "| gallery | rows | held | search | score | bound |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        numbers = [
            result[f"{name}_mib"] for name in ("gallery", "held", "search", "score", "bound")
        ]
        lines.append(f"| {result['what']} | {' | '.join(f'{value:.0f}' for value in numbers)} |")
    return "\n".join(lines)
