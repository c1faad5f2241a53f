"""Count the files that warm calls walk through, and how often they go from one to another.

    python benchmarks/trips.py [NAME ...] [--steps]

A trip is one call of the public interface. Counted are this package's frames in the calling
thread: files, distinct functions, calls, and switches, which are two calls one after the other
that are in different files. The fewer, the less a reader has to turn pages.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np

import sklearn_cbir
from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever

ROOT = str(Path(sklearn_cbir.__file__).parent) + "/"
HIDDEN = {"<listcomp>", "<genexpr>"}


def walk(call):
    """Return the file and the name of every function of the package that is called, in order."""
    steps = []

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(ROOT) and code.co_name not in HIDDEN:
            steps.append((code.co_filename.removeprefix(ROOT), code.co_name))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return steps


def trips(folder):
    """Return calls by name; each makes what it asks when it is first called."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 32)).astype(np.float32)
    queries = rng.normal(size=(5, 32)).astype(np.float32)
    images = rng.integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
    labels, classes = np.arange(2000) % 7, np.arange(40) % 4
    file, database = f"{folder}/rows.npy", f"{folder}/rows.db"
    np.save(file, rows)

    def exact():
        return NeighborsRetriever(5, algorithm="exact")

    def query(asked, gallery=rows, **parameters):
        retriever = NeighborsRetriever(5, **parameters).fit(gallery)
        return lambda: retriever.kneighbors(asked)

    return {
        "fit": lambda: lambda: exact().fit(rows),
        "exact": lambda: query(queries, algorithm="exact"),
        "one": lambda: query(queries[:1], algorithm="exact"),
        "codes": lambda: query(queries > 0, rows > 0, metric="hamming"),
        "stored": lambda: query(queries, file, storage="memory_map", algorithm="exact"),
        "milvus": lambda: query(queries, algorithm="milvus", uri=database),
        "score": lambda: lambda: exact().fit(rows, labels).score(queries, labels[:5]),
        "training": lambda: (
            lambda: CNNFeatureExtractor("small", weights=None, max_epochs=1).fit(images, classes)
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="trips to count; none means all")
    parser.add_argument("--steps", action="store_true", help="print every call too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'trip':10}{'files':>6}{'functions':>11}{'calls':>7}{'switches':>10}")
        for name, make in trips(folder).items():
            if options.names and name not in options.names:
                continue
            call = make()
            call()
            call()
            steps = walk(call)
            files = [file for file, _ in steps]
            n_switches = sum(one != other for one, other in itertools.pairwise(files))
            counts = len(set(files)), len(set(steps)), len(steps), n_switches
            print("{:10}{:>6}{:>11}{:>7}{:>10}".format(name, *counts), flush=True)
            if options.steps:
                for before, (file, function) in zip(["", *files], steps):
                    print(f"    {'' if file == before else file:40}{function}")


if __name__ == "__main__":
    main()
