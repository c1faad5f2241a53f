"""Approximate search: recall, and queries per second at a recall of 0.95, beside its peers.

Queries are asked at once, and some of them one at a time.
"""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from _search.data import N_QUERIES, clustered, photo_components
from sklearn_cbir import NeighborsRetriever

K, TARGET = 10, 0.95
PHOTOS = [(2_000, 64), (10_000, 64), (50_000, 64), (10_000, 512)]
MADE = [(60_000, 64), (60_000, 512), (200_000, 64)]
TIGHT = (60_000, 512)
SPREAD_OF_TIGHT = 0.15
EFFORTS = (10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512)
EPSILONS = (0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.14, 0.2, 0.3, 0.4)
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
EDGES = (8, 16, 32)  # M of a peer's graph
LISTS = (1, 2, 4)  # times the root of the number of rows
LARGE = 1_000_000  # rows, from which on a peer is built with the middle one only
ENGINES = ("nndescent", "faiss")
ALONE = 200  # queries that are asked one at a time
TIMES = ("us_per_query", "us_alone")


def run(cells, options):
    results = []
    for name, load in _sets(options):
        if options.sets and name not in options.sets:
            continue
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

    engines = {"exact": ({}, lambda queries: exact.kneighbors(queries)[1])}
    for engine in ENGINES:
        if engine != "faiss" or "faiss" in options.peers:
            engines[f"ours, {engine}"] = _ours(engine, gallery, queries)
    for peer, (build, sizes) in PEERS.items():
        if peer.split()[0] in options.peers:
            for size in sizes if len(gallery) < LARGE else sizes[1:2]:
                engines.update(_peer(peer, build, size, gallery, queries, recall, options))
    times = _in_turns({engine: ask for engine, (_, ask) in engines.items()}, queries, options)
    result = {"what": name, "engines": {}}
    for engine, (known, ask) in engines.items():
        result["engines"][engine] = {
            "recall": round(recall(ask(queries)), 4),
            **dict(zip(TIMES, times[engine])),
            **known,
        }
    _interpolate(result["engines"])
    _compare(result)
    return result


def _compare(result):
    """Add what our throughput is to that of the best peer of each kind."""
    for engine in ENGINES:
        found = result["engines"].get(f"ours, {engine}")
        for kind in ("graph", "IVF"):
            for time_of, name in zip(TIMES, ("to", "alone_to")):
                least = _least(result["engines"], kind, time_of)
                if found is not None and least:
                    found[f"{name}_{kind.lower()}"] = round(least / found[time_of], 3)
        if found is not None and {"to_graph", "to_ivf"} <= set(found):
            result[engine] = found["throughput_to_best"] = min(found["to_graph"], found["to_ivf"])


def _least(engines, kind, time_of):
    """Return the least time of the peers of a kind that reach the target; 0 if none does."""
    return min(
        (
            found[time_of]
            for name, found in engines.items()
            if found.get("at_target") and ("IVF" in name) == (kind == "IVF")
        ),
        default=0,
    )


def _in_turns(asks, queries, options):
    """Return the median microseconds per query of every routine, asked all and one at a time.

    All are called in turns, and the time is that of the processor.
    """
    alone = [queries[i : i + 1] for i in range(ALONE)]
    used = {name: ([], []) for name in asks}
    for repeat in range(-1, max(7, options.repeats)):
        for name, ask in asks.items():
            for place, pieces in enumerate(([queries], alone)):
                start = time.process_time()
                for piece in pieces:
                    ask(piece)
                if repeat >= 0:  # the first call finds nothing in the caches
                    used[name][place].append(time.process_time() - start)
    per_query = np.array([N_QUERIES, ALONE]) / 1e6
    return {
        name: [*map(float, np.median(times, axis=1) / per_query)] for name, times in used.items()
    }


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
    return known, lambda queries: retriever.kneighbors(queries)[1]


def _peer(peer, build, size, gallery, queries, recall, options):
    """Search harder until the target is reached; return this setting and the one before it."""
    start = time.process_time()
    ask, settings = build(gallery, size, options)
    built = time.process_time() - start
    tried = []
    for setting in settings:
        tried.append(setting)
        if recall(ask(queries, setting)) >= TARGET:
            break
    return {
        f"{peer} {size}, {setting}": (
            {"build_s": built, "setting": setting, "peer": f"{peer} {size}"},
            lambda queries, setting=setting: ask(queries, setting),
        )
        for setting in tried[-2:]
    }


def _interpolate(engines):
    """Put the time at the target in the place of those at the settings around it."""
    peers = {}
    for name in [name for name, found in engines.items() if "peer" in found]:
        found = engines.pop(name)
        peers.setdefault(found.pop("peer"), []).append(found)
    for peer, around in peers.items():
        found = around[-1]
        found["at_target"] = found["recall"] >= TARGET
        if found["at_target"] and len(around) == 2:
            for time_of in TIMES:
                recalls, times = zip(*((one["recall"], one[time_of]) for one in around))
                found[time_of] = float(np.interp(TARGET, recalls, times))
            found["recall"] = TARGET
        engines[peer] = found


def _hnsw(gallery, n_edges, options):
    index = options.peers["faiss"].IndexHNSWFlat(gallery.shape[1], n_edges)
    index.hnsw.efConstruction = 100
    index.add(gallery)

    def ask(queries, effort):
        index.hnsw.efSearch = effort
        return index.search(queries, K)[1]

    return ask, EFFORTS


def _ivf(gallery, times_root, options):
    faiss = options.peers["faiss"]
    d = gallery.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, int(times_root * np.sqrt(len(gallery))))
    index.train(gallery)
    index.add(gallery)

    def ask(queries, n_probes):
        index.nprobe = n_probes
        return index.search(queries, K)[1]

    return ask, PROBES


def _hnswlib(gallery, n_edges, options):
    index = options.peers["hnswlib"].Index("l2", gallery.shape[1])
    index.init_index(len(gallery), M=n_edges, ef_construction=100, random_seed=0)
    index.set_num_threads(options.threads)
    index.add_items(gallery)

    def ask(queries, effort):
        index.set_ef(effort)
        return index.knn_query(queries, K)[0].astype(np.int64)

    return ask, EFFORTS


def _usearch(gallery, n_edges, options):
    index = options.peers["usearch"].Index(
        ndim=gallery.shape[1], metric="l2sq", connectivity=n_edges, expansion_add=100
    )
    index.add(np.arange(len(gallery)), gallery, threads=options.threads)

    def ask(queries, effort):
        index.expansion_search = effort
        return index.search(queries, K, threads=options.threads).keys.astype(np.int64)

    return ask, EFFORTS


def _ngt(gallery, n_edges, options):
    ngt, folder = options.peers["ngtpy"], tempfile.TemporaryDirectory()
    path = str(Path(folder.name) / "index")
    ngt.create(path, gallery.shape[1], edge_size_for_creation=n_edges, distance_type="L2")
    index = ngt.Index(path)
    index.batch_insert(gallery.astype(np.float32), num_threads=options.threads)

    def ask(queries, epsilon, folder=folder):  # which is kept as long as the index is asked
        found = [index.search(query, K, epsilon, with_distance=False) for query in queries]
        return np.array(found, dtype=np.int64)

    return ask, EPSILONS


def _svs(gallery, n_edges, options):
    svs = options.peers["svs"]
    parameters = svs.VamanaBuildParameters(graph_max_degree=2 * n_edges, window_size=100, alpha=1.2)
    rows = np.ascontiguousarray(gallery, dtype=np.float32)
    index = svs.Vamana.build(parameters, rows, svs.DistanceType.L2, num_threads=options.threads)

    def ask(queries, effort):
        index.search_window_size = effort
        return index.search(np.ascontiguousarray(queries, dtype=np.float32), K)[0].astype(np.int64)

    return ask, EFFORTS


PEERS = {
    "faiss HNSW": (_hnsw, EDGES),
    "faiss IVF": (_ivf, LISTS),
    "hnswlib": (_hnswlib, EDGES),
    "usearch": (_usearch, EDGES),
    "ngtpy": (_ngt, EDGES),
    "svs": (_svs, EDGES),
}


def table(results):
    lines = [
        "| rows | engine | recall@10 | us per query | us alone | build s | setting | / graph "
        "| / IVF | alone / graph | alone / IVF |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = ("to_graph", "to_ivf", "alone_to_graph", "alone_to_ivf")
    for result in results:
        for name, found in result["engines"].items():
            built = f"{found['build_s']:.1f}" if "build_s" in found else ""
            warned = " (warned)" if found.get("warned") else ""
            lines.append(
                f"| {result['what']} | {name} | {found['recall']:.3f}{warned} | "
                f"{found['us_per_query']:.1f} | {found['us_alone']:.1f} | {built} | "
                f"{found.get('setting', '')} | "
                f"{' | '.join(str(found.get(ratio, '')) for ratio in ratios)} |"
            )
    return "\n".join(lines)
