"""Medians of routines that are called in turns, and which of their peers are installed."""

import importlib
import os
import time

import numpy as np

PEERS = ("faiss", "hnswlib", "torch", "usearch", "ngtpy", "svs")
MODULES = {"usearch": "usearch.index"}
SECONDS = 0.03  # shorter calls are repeated: a tick of the clock is longer than some of them
ROUNDS_AT_MOST = 3
NOISY = 0.25  # middle half of the times, relative to the median, above which a cell is repeated
_limits = []  # kept alive


def find_peers(names=None):
    """Return the peers that can be imported, by name, and say which cannot."""
    found = {}
    for name in names or PEERS:
        try:
            found[name] = importlib.import_module(MODULES.get(name, name))
        except (ImportError, OSError):  # or made for another processor
            print(f"{name} is not installed: its columns stay empty.")
    return found


def set_threads(n_threads, peers):
    """Give every engine the same number of threads."""
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = str(n_threads)  # what this package's own threads follow
    if "faiss" in peers:
        peers["faiss"].omp_set_num_threads(n_threads)
    if "torch" in peers:
        peers["torch"].set_num_threads(n_threads)
    _limits.append(threadpool_limits(n_threads))


def compare(routines, options):
    """Return median milliseconds per call, of processor time and by the wall, and ratios.

    ``ratio`` is ours to the fastest other; with one thread it is of processor time, which other
    work on the machine disturbs least.
    """
    calls = {}
    for name, routine in routines.items():
        routine()
        start = time.perf_counter()
        routine()
        calls[name] = max(1, int(SECONDS / (time.perf_counter() - start)))
    cpu, wall = ({name: [] for name in routines} for _ in range(2))
    for _ in range(ROUNDS_AT_MOST):
        for _ in range(options.repeats):
            for name, routine in routines.items():
                used, start = time.process_time(), time.perf_counter()
                for _ in range(calls[name]):
                    routine()
                wall[name].append((time.perf_counter() - start) / calls[name])
                cpu[name].append((time.process_time() - used) / calls[name])
        times = cpu if options.threads == 1 else wall
        if max(map(_spread, times.values())) < NOISY:
            break
    result = {
        "ms": {name: float(np.median(values)) * 1e3 for name, values in cpu.items()},
        "wall_ms": {name: float(np.median(values)) * 1e3 for name, values in wall.items()},
        "rounds": len(cpu["ours"]),
        "threads": options.threads,
    }
    judged = judged_ms(result)
    others = {name: value for name, value in judged.items() if name != "ours"}
    if others:
        result["best"] = min(others, key=others.get)
        result["ratio"] = round(judged["ours"] / others[result["best"]], 3)
        result["wall_ratio"] = round(
            result["wall_ms"]["ours"] / result["wall_ms"][result["best"]], 3
        )
    return result


def judged_ms(result):
    """Return what a cell is judged by: processor time if it has one thread, else the wall's."""
    return result["ms" if result["threads"] == 1 else "wall_ms"]


def _spread(values):
    low, middle, high = np.percentile(values, [25, 50, 75])
    return (high - low) / middle


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(values))))
