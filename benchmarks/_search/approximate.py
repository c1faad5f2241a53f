"""Approximate search: recall, and queries per second at a recall of 0.95, beside its peers."""

import time
import warnings

import numpy as np

from _search.data import N_QUERIES, clustered, photo_components
from sklearn_cbir import NeighborsRetriever

K, TARGET = 10, 0.95
PHOTOS = [(2_000, 64), (10_000, 64), (50_000, 64), (10_000, 512)]
MADE = [(60_000, 64), (60_000, 512), (200_000, 64)]
TIGHT = (60_000, 512)
SPREAD_OF_TIGHT = 0.15
EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
ENGINES = ("nndescent", "faiss")


def run(cells, options):
    results = []
    for name, load in _sets(options):
        results.append(cells.run(f"approximate {name}", measure, load, options))
    return table(results)


def _sets(options):
    made = [(10_000, 64)] if options.quick else MADE
    for n, d in made:
        yield f"clusters {n} x {d}", lambda n=n, d=d: (*clustered(n, d), f"clusters {n:,} x {d}")
    if not options.quick:
        n, d = TIGHT
        yield (
            f"tight clusters {n} x {d}",
            lambda: (*clustered(n, d, spread=SPREAD_OF_TIGHT), f"tight clusters {n:,} x {d}"),
        )
    if options.data:
        for n, d in PHOTOS[:1] if options.quick else PHOTOS:
            yield f"photos {n} x {d}", lambda n=n, d=d: _photos(options.data, n, d)


def _photos(path, n, d):
    rows, queries = photo_components(path)
    return rows[:n, :d], queries[:, :d], f"photos {n:,} x {d}"


def measure(load, options):
    gallery, queries, name = load()
    # Euclidean distances of unit rows are in the order of cosines, for every engine.
    gallery, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (gallery, queries))
    exact = NeighborsRetriever(K, metric="euclidean", algorithm="exact").fit(gallery)
    furthest = exact.kneighbors(queries)[0][:, -1:] * (1 + 1e-6)

    def recall(positions):
        found = np.linalg.norm(gallery[positions] - queries[:, None], axis=2)
        return float((found <= furthest).mean())

    engines = {"exact": ({}, lambda: exact.kneighbors(queries)[1])}
    for engine in ENGINES:
        if engine != "faiss" or "faiss" in options.peers:
            engines[f"ours, {engine}"] = _ours(engine, gallery, queries)
    for peer, build in PEERS.items():
        if peer.split()[0] in options.peers:
            engines[peer] = _peer(build, gallery, queries, recall, options)
    times = _in_turns({engine: ask for engine, (_, ask) in engines.items()}, options)
    result = {"what": name, "engines": {}}
    for engine, (known, ask) in engines.items():
        result["engines"][engine] = {
            "recall": round(recall(ask()), 4),
            "us_per_query": times[engine] * 1e6 / N_QUERIES,
            **known,
        }
    peers = [result["engines"][peer] for peer in PEERS if peer in engines]
    best = min((peer["us_per_query"] for peer in peers if peer["recall"] >= TARGET), default=0)
    for engine in ENGINES:
        found = result["engines"].get(f"ours, {engine}")
        if found is not None and best:
            found["throughput_to_best"] = round(best / found["us_per_query"], 3)
            result[engine] = found["throughput_to_best"]
    return result


def _in_turns(asks, options):
    """Return the median seconds of processor time of every routine, all called in turns."""
    used = {name: [] for name in asks}
    for repeat in range(-1, max(7, options.repeats)):
        for name, ask in asks.items():
            start = time.process_time()
            ask()
            if repeat >= 0:  # the first call finds nothing in the caches
                used[name].append(time.process_time() - start)
    return {name: float(np.median(times)) for name, times in used.items()}


def _ours(engine, gallery, queries):
    """Return what is known of an engine of ours, and how to ask it."""
    start = time.process_time()
    retriever = NeighborsRetriever(
        K, metric="euclidean", algorithm=engine, random_state=0, n_jobs=1
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        retriever.fit(gallery)
    built = time.process_time() - start
    warned = any("recall_target" in str(warning.message) for warning in caught)
    effort = getattr(retriever._gallery.engine, "ef_search", None)
    known = {"build_s": built, "warned": warned, "setting": effort}
    return known, lambda: retriever.kneighbors(queries)[1]


def _peer(build, gallery, queries, recall, options):
    """Search harder until the target is reached; return what is known, and how to ask."""
    start = time.process_time()
    ask, settings = build(gallery, options)
    built = time.process_time() - start
    for setting in settings:
        if recall(ask(queries, setting)) >= TARGET:
            break
    return {"build_s": built, "setting": setting}, lambda: ask(queries, setting)


def _hnsw(gallery, options):
    index = options.peers["faiss"].IndexHNSWFlat(gallery.shape[1], 16)
    index.hnsw.efConstruction = 100
    index.add(gallery)

    def ask(queries, effort):
        index.hnsw.efSearch = effort
        return index.search(queries, K)[1]

    return ask, EFFORTS


def _ivf(gallery, options):
    faiss = options.peers["faiss"]
    d = gallery.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, int(2 * np.sqrt(len(gallery))))
    index.train(gallery)
    index.add(gallery)

    def ask(queries, n_probes):
        index.nprobe = n_probes
        return index.search(queries, K)[1]

    return ask, PROBES


def _hnswlib(gallery, options):
    index = options.peers["hnswlib"].Index("l2", gallery.shape[1])
    index.init_index(len(gallery), M=16, ef_construction=100, random_seed=0)
    index.set_num_threads(options.threads)
    index.add_items(gallery)

    def ask(queries, effort):
        index.set_ef(effort)
        return index.knn_query(queries, K)[0].astype(np.int64)

    return ask, EFFORTS


PEERS = {"faiss HNSW": _hnsw, "faiss IVF": _ivf, "hnswlib": _hnswlib}


def table(results):
    lines = [
        "| rows | engine | recall@10 | us per query | build s | setting | throughput / best peer |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for name, found in result["engines"].items():
            built = f"{found['build_s']:.1f}" if "build_s" in found else ""
            warned = " (warned)" if found.get("warned") else ""
            lines.append(
                f"| {result['what']} | {name} | {found['recall']:.3f}{warned} | "
                f"{found['us_per_query']:.1f} | {built} | {found.get('setting', '')} | "
                f"{found.get('throughput_to_best', '')} |"
            )
    return "\n".join(lines)
