"""What the server of `cbir serve` costs beside the bare search, and how soon its page is there.

    OMP_NUM_THREADS=1 python benchmarks/serve.py [--photos 100000] [--columns 512]
        [--requests 10000] [--uploads 12] [--screens 5] [--weights mobilenet_v2.pt]

1. A click (more like this, 60 results) and the same within a folder, beside the bare engine call;
   a page of a folder; and fifty clicks at once, beside one.
2. Memory (RssAnon) before and after many requests.
3. A made JPEG of 12 megapixels, uploaded and searched by, beside its decoding and the forward pass
   of MobileNetV2 alone, whose features are projected to as many numbers as the rows have. Without
   `--weights` the network is untrained, which takes as long.
4. The first screen: `cbir serve` in a process of its own on 10,000 photos, each cut out of one of
   the photos that ship with the tests; Chromium opens the address as soon as it is printed. The
   screen is painted when there was a first contentful paint and all thumbnails of the window
   (1280 x 800) are loaded and drawn. No thumbnail is kept before. And the same where all photos
   have 12 megapixels.

0 leaves a part out. The rows are random, and of parts 1 to 3 no photo is there: what is measured
asks for none. Their requests go through the whole application, without a network. Times are wall
time, medians, and mean something on a machine that does nothing else. Each line has its bar.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.random_projection import GaussianRandomProjection

from _data import environment
from _serving import (
    HEADERS,
    collection_with_rows,
    large_photos,
    line,
    small_photos,
    to_first_screens,
)
from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.serve import create_app

N_TURNS, N_AT_ONCE = 40, 50
N_ON_SCREEN, N_LARGE = 10_000, 40
OVERHEAD, OF_UPLOAD, TIMES_ONE, OF_SCREEN = 15, 50, 5, 1.0  # ms, ms, times, s
GROWTH = 5.0  # MB


async def ask(app, query=None, path="/api/v1/search", content=None):
    """Ask as a server does; return what is answered."""
    body = content if query is None else json.dumps(query).encode()
    kind = b"application/json" if content is None else b"application/octet-stream"
    sent = []
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET" if body is None else "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "headers": [*HEADERS, (b"content-type", kind)],
    }

    async def receive():
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent
    return json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


async def timed(app, query):
    start = time.perf_counter()
    await ask(app, query)
    return time.perf_counter() - start


def bare(collection, number, where=None):
    """Return the seconds of the bare search: the engine alone, one row and 60 results."""
    view, mask = collection._look(), collection._mask(where)
    rows = None if mask.all() else mask
    start = time.perf_counter()
    view.retriever.kneighbors(None, 60, ids=[number - 1], where=rows)
    return time.perf_counter() - start


def ms(values):
    return 1000 * float(np.median(values))


def tell(what, value, most, unit):
    """Print a figure and whether it is within its bar."""
    print(f"{what} (at most {most} {unit}): {'met' if value <= most else 'MISSED'}", flush=True)


def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))


# Parts -------------------------------------------------------------------------------------------


async def clicks(collection, app, rng):
    """Print what clicks cost, alone and many at once."""
    n = len(collection)
    inside = 4 + 10 * rng.permutation(n // 10)[: 2 * N_TURNS]
    for title, where, some in (
        ("a click", None, 1 + rng.permutation(n)[:N_TURNS]),
        ("a click within a folder", {"folder": "year3"}, inside[:N_TURNS]),
    ):
        query = {} if where is None else {"where": where}
        await ask(app, {"like": [int(some[0])], **query, "limit": 59})
        served, engine = [], []
        for number in some:  # side by side: the machine is not always as fast
            with collection._table.reading():
                engine.append(bare(collection, int(number), where))
            served.append(await timed(app, {"like": [int(number)], **query, "max_distance": 2}))
        more = ms(served) - ms(engine)
        what = f"{title}: {ms(served):.1f} ms, the bare engine {ms(engine):.1f}, {more:.1f} more"
        tell(what, more, OVERHEAD, "ms")
    turns = [{"where": {"folder": "year3"}, "offset": 60 * turn} for turn in range(N_TURNS)]
    print(f"a page of a folder: {ms([await timed(app, query) for query in turns]):.1f} ms")
    numbers = [int(number) for number in 1 + rng.permutation(n)]
    ratios, p95s, processor = [], [], []
    for turn in range(3):
        some = numbers[turn * 100 :][: N_TURNS + N_AT_ONCE]
        before = time.process_time()
        single = [await timed(app, {"like": [number]}) for number in some[:N_TURNS]]
        one, before = (time.process_time() - before) / N_TURNS, time.process_time()
        at_once = (timed(app, {"like": [number]}) for number in some[N_TURNS:])
        p95s.append(float(np.percentile(await asyncio.gather(*at_once), 95)))
        processor.append((time.process_time() - before) / one)
        ratios.append(p95s[-1] / np.median(single))
    ratio = float(np.median(ratios))
    share = float(np.median(processor))
    what = f"{N_AT_ONCE} clicks at once: 95 % within {ms(p95s):.0f} ms, {ratio:.1f} times one"
    what += f" ({share:.1f} times its processor time)"
    tell(what, ratio, TIMES_ONE, "times")


async def memory(app, n, n_requests, rng):
    """Print what is left in memory by many requests."""
    numbers = 1 + rng.permutation(n)
    before, step = anonymous(), max(1, n_requests // 10)
    for turn in range(n_requests):
        if turn % 50 == 0:
            await ask(app, {"like": [int(numbers[turn % n])]})
        else:
            await ask(app, {"offset": turn % 9000, "where": {"folder": f"year{turn % 10}"}})
        if turn == step:
            before = anonymous()
    after = anonymous()
    what = f"memory after {step:,} requests {before:.0f} MB, after {n_requests:,} {after:.0f} MB"
    tell(what, after - before, GROWTH, "MB more")


async def uploads(app, collection, photos):
    """Print what an upload and a search by it cost beside decoding and the forward pass.

    The processor time is printed, too, which a busy machine changes less.
    """
    served, alone, processor = [], [], []
    for turn, photo in enumerate([photos[-1], *photos]):
        start, before = time.perf_counter(), time.process_time()
        collection.extractor.transform([photo])
        middle, between = time.perf_counter(), time.process_time()
        kept = await ask(app, path="/api/v1/upload", content=photo)
        await ask(app, {"upload": kept["upload"]})
        if turn:  # the first one loads what is not there yet
            alone.append(middle - start)
            served.append(time.perf_counter() - middle)
            processor.append(time.process_time() - between - (between - before))
    more = ms(np.subtract(served, alone))
    what = f"an upload and a search by it: {ms(served):.1f} ms, decoding and the forward pass alone"
    what = f"{what} {ms(alone):.1f}, {more:.1f} more ({ms(processor):.1f} ms of processor time)"
    tell(what, more, OF_UPLOAD, "ms")


# -------------------------------------------------------------------------------------------------


async def of_requests(folder, options):
    rng = np.random.default_rng(1)
    with collection_with_rows(
        folder, GISTDescriptor(), (line(row) for row in range(options.photos)), options.columns
    ) as collection:
        app = create_app(collection, token=None)
        state = await ask(app, path="/api/v1/state")
        assert state["n_ready"] == len(collection)
        await ask(app, {})
        await clicks(collection, app, rng)
        if options.requests:
            await memory(app, len(collection), options.requests, rng)


async def of_uploads(folder, extractor, options):
    lines = (line(row) for row in range(options.photos))
    with collection_with_rows(folder, extractor, lines, options.columns) as collection:
        app = create_app(collection, token=None)
        await ask(app, path="/api/v1/state")
        await uploads(app, collection, large_photos(options.uploads))


def of_screens(folder, extractor, options):
    for title, make in (
        ("small photos", lambda at: small_photos(at, N_ON_SCREEN)),
        ("photos of 12 megapixels", lambda at: large_photos(N_LARGE, at, N_ON_SCREEN)),
    ):
        place = folder / title
        place.mkdir()
        lines = make(place)
        with collection_with_rows(place, extractor, lines, options.columns):
            pass
        found = list(to_first_screens(place, options.screens))
        seconds, paint, ready = (float(np.median(values)) for values in zip(*found))
        print(f"{title}: `cbir serve` prints its address after {ready:.1f} s")
        what = f"{title}: first paint after {paint:.2f} s, all thumbnails after {seconds:.2f} s"
        tell(what, seconds, OF_SCREEN, "s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--uploads", type=int, default=12)
    parser.add_argument("--screens", type=int, default=5)
    parser.add_argument("--weights", help="a state dict of MobileNetV2")
    options = parser.parse_args()
    print(environment())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.photos:
            asyncio.run(of_requests(folder / "clicks", options))
        if options.uploads or options.screens:
            print(f"MobileNetV2, {'with weights' if options.weights else 'untrained'}")
            extractor = make_pipeline(
                CNNFeatureExtractor("mobilenet_v2", weights=options.weights, loss=None),
                GaussianRandomProjection(options.columns, random_state=0),
            ).fit(make_shapes(2)[0])
        if options.uploads:
            asyncio.run(of_uploads(folder / "uploads", extractor, options))
        if options.screens:
            of_screens(folder, extractor, options)


if __name__ == "__main__":
    main()
