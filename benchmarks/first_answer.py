"""What a process waits for its first answer, and what threads reach that ask at the same time.

    python benchmarks/first_answer.py [--parts threads] [--only codes] [--turns 7] [--folder made]

1. Processes of their own, in turns: load what was saved, and ask once. What numba compiled is on
   the disk ("kept"), or has to be compiled again if it is needed ("none").
2. Answers of a process that has given some.
3. Two and eight threads that ask one retriever, beside two processes that do the same work, and two
   threads that transform images, each with an extractor of its own. "With a gate" are eight
   threads of which no more than there are cores ask at a time.

One thread per library. Ratios are of medians: of processor time in 1 and 2, by the wall in 3. With
`--folder` lines that were measured are kept there, and a run that was cut off goes on.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is imported

import joblib
import numpy as np
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from _data import environment
from _search.data import clustered
from sklearn_cbir import NeighborsRetriever

ASK = "import sys, joblib, numpy; r = joblib.load({!r}); r.kneighbors(numpy.load({!r}))"
SEARCH = """
from sklearn_cbir.persistence import load
load({search!r}).predict([{photo!r}])
"""
BARE = """
import numpy, torch
from PIL import Image
from torchvision.models import mobilenet_v2
net = mobilenet_v2(weights=None)
net.load_state_dict(torch.load({state!r}, weights_only=True))
net.eval()
photo = numpy.array(Image.open({photo!r}).convert("RGB").resize((224, 224), Image.BILINEAR))
x = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
x = (x - mean) / std
with torch.inference_mode():
    row = net.features(x).mean(dim=(2, 3)).numpy()[0]
rows = numpy.load({rows!r})
products = rows @ (row / numpy.linalg.norm(row))
nearest = numpy.argpartition(-products, 10)[:10]
nearest[numpy.argsort(-products[nearest])]
"""
# Asks for a while in some threads, once all processes are ready, and prints answers per second.
THREADS = """
import contextlib, os, sys, threading, time, joblib, numpy
path, queries, n_threads, size, n, gated = sys.argv[1:]
gate = threading.Semaphore(os.cpu_count()) if int(gated) else contextlib.nullcontext()
r, Q, size, n = joblib.load(path), numpy.load(queries), int(size), int(n)
for _ in range(101):  # whatever is made once it pays is there
    r.kneighbors(Q[:1])
r.kneighbors(Q)
def ask():
    for i in range(n):
        first = (i * size) % (len(Q) - size + 1)
        with gate:
            r.kneighbors(Q[first : first + size])
print("ready", flush=True)
sys.stdin.readline()
begin = time.perf_counter()
threads = [threading.Thread(target=ask) for _ in range(int(n_threads))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(time.perf_counter() - begin)
"""
TRANSFORM = """
import sys, threading, time, numpy
from sklearn_cbir.persistence import load
n_threads, n, runtime = int(sys.argv[3]), int(sys.argv[5]), sys.argv[7]
extractors = [load(sys.argv[1]).set_params(runtime=runtime) for _ in range(n_threads)]
images = numpy.load(sys.argv[2])
import torch; torch.set_num_threads(1)
for extractor in extractors: extractor.transform(images)
print("ready", flush=True)
sys.stdin.readline()
begin = time.perf_counter()
def work(extractor):
    for _ in range(n): extractor.transform(images)
threads = [threading.Thread(target=work, args=(extractor,)) for extractor in extractors]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(time.perf_counter() - begin)
"""


def fitted(folder, name, n, n_columns, metric="cosine", algorithm="exact"):
    """Save a retriever, scikit-learn's search by brute force, and queries; return their paths."""
    paths = [folder / f"{name}.{kind}" for kind in ("ours", "theirs", "npy")]
    if not all(path.exists() for path in paths):
        rows, queries = clustered(n, n_columns)
        if metric == "hamming":
            rows, queries = (rows > 0).astype(np.uint8), (queries > 0).astype(np.uint8)
        np.save(paths[2], queries[:1000])
        theirs = NearestNeighbors(n_neighbors=10, algorithm="brute", metric=metric)
        joblib.dump(theirs.fit(rows), paths[1])
        ours = NeighborsRetriever(metric=metric, algorithm=algorithm, random_state=0)
        joblib.dump(ours.fit(rows), paths[0])
    one = folder / f"{name}-one.npy"
    np.save(one, np.load(paths[2])[:1])
    return *map(str, paths), str(one)


def asking(*arguments):
    """Return a function that makes the scripts of ours and of the peer."""

    def make(folder):
        ours, theirs, _, one = fitted(folder, *arguments)
        return ASK.format(ours, one), ASK.format(theirs, one)

    return make


def searching(exported):
    """Return a function that makes the scripts that search one photo among 10,000 rows."""

    def make(folder):
        paths = {
            name: str(folder / name) for name in ("state", "photo.jpg", "rows.npy", "net.onnx")
        }
        search = str(folder / ("onnx.cbir" if exported else "torch.cbir"))
        if not Path(search).exists():
            make_search(paths, search, exported)
        bare = BARE.format(state=paths["state"], photo=paths["photo.jpg"], rows=paths["rows.npy"])
        return SEARCH.format(search=search, photo=paths["photo.jpg"]), bare

    return make


def make_search(paths, search, exported):
    import torch
    from torchvision.models import mobilenet_v2

    from sklearn_cbir import CNNFeatureExtractor, OnnxExtractor, to_onnx
    from sklearn_cbir.persistence import save

    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (20, 15, 3)).astype(np.uint8))
    photo.resize((2000, 1500), Image.Resampling.BICUBIC).save(paths["photo.jpg"], quality=90)
    rows = rng.random((10_000, 1280), dtype=np.float32)
    np.save(paths["rows.npy"], rows / np.linalg.norm(rows, axis=1, keepdims=True))
    torch.save(mobilenet_v2(weights=None).state_dict(), paths["state"])
    extractor: object = CNNFeatureExtractor(
        "mobilenet_v2", weights=None, loss=None, image_size=224, device="cpu", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is random, and so are its features
        extractor = extractor.fit(np.zeros((1, 224, 224, 3), dtype=np.uint8))
    if exported:
        to_onnx(extractor, paths["net.onnx"])
        extractor = OnnxExtractor(paths["net.onnx"])
        extractor.transform(np.zeros((1, 224, 224, 3), dtype=np.uint8))  # it reads the file
    retriever = NeighborsRetriever(algorithm="exact").fit(np.load(paths["rows.npy"]))
    save(make_pipeline(extractor, retriever), search)


# What is asked, the bars with what numba compiled on the disk and without, what makes the scripts.
FIRST = {
    "20,000 x 64 floats": (1.0, 2.0, asking("small", 20_000, 64)),
    "60,000 x 512 floats": (1.0, 2.0, asking("large", 60_000, 512)),
    "100,000 x 64 codes": (1.0, 2.0, asking("codes", 100_000, 64, "hamming")),
    "60,000 x 512 graph": (1.2, 2.0, asking("graph", 60_000, 512, "cosine", "nndescent")),
    "a photo, MobileNetV2": (1.3, 2.0, searching(exported=False)),
    "a photo, MobileNetV2 from ONNX": (0.65, 2.0, searching(exported=True)),
}
# Retrievers, numbers of queries at a time, and how many times each thread asks.
ASKED = {
    "exact": (("large", 60_000, 512), {1: 300, 100: 20}),
    "codes": (("million", 1_000_000, 64, "hamming"), {1: 4000, 100: 100}),
    "graph": (("graph", 60_000, 512, "cosine", "nndescent"), {1: 4000, 100: 100}),
}


def measure_first(name, folder, turns):
    bar, bar_without, make = FIRST[name]
    scripts = dict(zip(("ours", "theirs"), make(folder)))
    for script in scripts.values():  # byte code is on the disk, and files are in memory
        run(script)
    for cache, of_cache in (("kept", bar), ("none", bar_without)):
        cpu, wall = ({key: [] for key in scripts} for _ in range(2))
        for _ in range(turns):
            for key, script in scripts.items():
                with tempfile.TemporaryDirectory() as empty:
                    more = {} if cache == "kept" else {"NUMBA_CACHE_DIR": empty}
                    for times, seconds in zip((cpu, wall), run(script, more)):
                        times[key].append(seconds)
        cpu, wall = ({key: float(np.median(v)) for key, v in of.items()} for of in (cpu, wall))
        ratio = cpu["ours"] / cpu["theirs"]
        yield (
            f"| {name} | {cache} | {cpu['ours']:.2f} | {cpu['theirs']:.2f} | {ratio:.2f} | "
            f"{wall['ours'] / wall['theirs']:.2f} | {said(ratio, of_cache)} |"
        )


def said(ratio, bar, at_least=False):
    met = ratio >= bar if at_least else ratio <= bar
    return f"{bar:g} {'met' if met else 'missed'}"


def run(script, more=None):
    """Run a process; return its seconds of processor time and by the wall."""
    used, start = children(), time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True, env=environment_of(more))
    return children() - used, time.perf_counter() - start


def environment_of(more=None):
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(Path(__file__).parent.parent)} | (more or {})


def children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_warm(_folder, turns):
    rows, queries = clustered(2_000, 64)
    y, query = np.arange(2_000) % 10, queries[:1]
    for metric in ("cosine", "euclidean"):
        theirs = NearestNeighbors(n_neighbors=10, algorithm="brute", metric=metric).fit(rows)
        ours = NeighborsRetriever(metric=metric).fit(rows)
        yield compare(
            f"`kneighbors` of 2,000 x 64, {metric}",
            lambda ours=ours: ours.kneighbors(query),
            lambda theirs=theirs: theirs.kneighbors(query),
            0.27,
            turns,
        )
    theirs = make_pipeline(StandardScaler(), KNeighborsClassifier(10)).fit(rows, y)
    ours = make_pipeline(StandardScaler(), NeighborsRetriever()).fit(rows, y)
    yield compare(
        "`predict` of a Pipeline",
        lambda: ours.predict(query),
        lambda: theirs.predict(query),
        0.5,
        turns,
    )


def compare(name, ours, theirs, bar, turns, n=200):
    times = {ours: [], theirs: []}
    for _ in range(turns + 1):  # the first is not counted
        for function, measured in times.items():
            start = time.process_time()
            for _ in range(n):
                function()
            measured.append((time.process_time() - start) / n)
    of_ours, of_theirs = (float(np.median(measured[1:])) for measured in times.values())
    ratio = of_ours / of_theirs
    return (
        f"| {name} | {of_ours * 1e3:.3f} | {of_theirs * 1e3:.3f} | {ratio:.2f} | "
        f"{said(ratio, bar)} |"
    )


def measure_threads(name, folder, turns):
    arguments, sizes = ASKED[name]
    ours, _, queries, _ = fitted(folder, *arguments)
    ways = {"processes": (1, 1), "two": (2,), "eight": (8,), "gate": (8,)}
    for size, n in sizes.items():
        rates = rates_of(ways, THREADS, (ours, queries), size, n, turns)
        to_two = {way: rates[way] / rates["two"] for way in ("eight", "gate")}
        yield (
            f"{beside(f'{name}, {size} at a time', rates)} {to_two['eight']:.2f} | "
            f"{said(to_two['eight'], 0.95, True)} | {to_two['gate']:.2f} |"
        )


def measure_extractors(folder, turns):
    images = folder / "images.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3)).astype(np.uint8))
    searching(exported=False)(folder)
    extractor = folder / "extractor.cbir"
    if not extractor.exists():
        from sklearn_cbir.persistence import load, save

        save(load(folder / "torch.cbir")[0], extractor)
    ways = {"processes": (1, 1), "two": (2,)}
    for runtime in ("torch", "openvino"):
        rates = rates_of(ways, TRANSFORM, (extractor, images), 4, 10, turns, runtime)
        yield beside(f"two extractors, {runtime}", rates)


def rates_of(ways, script, files, size, n, turns, *more):
    """Return how much is done in a second by each way, a tuple of threads per process."""
    rates = {way: [] for way in ways}
    for _ in range(turns):
        for way, threads in ways.items():
            each = 2 * n // sum(threads)  # all do the same work
            asked = [(*files, n_threads, size, each, int(way == "gate")) for n_threads in threads]
            seconds = together([(*one, *more) for one in asked], script)
            rates[way].append(each * sum(threads) * size / seconds)
    return {way: float(np.median(values)) for way, values in rates.items()}


def beside(name, rates):
    two = rates["two"] / rates["processes"]
    return f"| {name} | {rates['processes']:,.0f} | {two:.2f} | {said(two, 0.85, True)} |"


def together(arguments, script):
    """Run processes that start to work at the same time; return the seconds of the last."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment_of(),
        )
        for each in arguments
    ]
    for process in running:
        process.stdout.readline()
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in running)


class Lines:
    """Lines of the tables, which are printed; those of an earlier run are in a file."""

    def __init__(self, path):
        self.path = path
        self.kept = json.loads(path.read_text()) if path.exists() else {}

    def show(self, name, measure):
        """Print what `measure()` yields, unless it was measured in full."""
        if name in self.kept:
            print(*self.kept[name], sep="\n", flush=True)
            return
        lines = []
        for line in measure():
            print(line, flush=True)
            lines.append(line)
        self.kept[name] = lines
        self.path.write_text(json.dumps(self.kept, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", nargs="*", help="parts of the names of what is measured")
    parser.add_argument("--folder", help="keeps what is made and measured, for another run")
    options = parser.parse_args()
    print(json.dumps(environment()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        lines = Lines(folder / "lines.json")
        for part in options.parts:
            header, measures = PARTS[part]
            print(f"\n{header}")
            for name, measure in measures.items():
                if not options.only or any(asked in name for asked in options.only):
                    lines.show(f"{part} {name}", partial(measure, folder, options.turns))


# What is printed above the lines of a part, and what makes these.
PARTS = {
    "first": (
        "| first answer | compiled | ours s | peer s | ratio | by the wall | bar |",
        {name: partial(measure_first, name) for name in FIRST},
    ),
    "warm": ("| warm | ours ms | peer ms | ratio | bar |", {"warm": measure_warm}),
    "threads": (
        "| threads | two processes, per s | two threads | bar | eight to two | bar | with a gate |",
        {name: partial(measure_threads, name) for name in ASKED}
        | {"extractors": measure_extractors},
    ),
}


if __name__ == "__main__":
    main()
