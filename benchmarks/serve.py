"""What the server of `cbir serve` costs beside the bare search.

    python benchmarks/serve.py [--photos 100000] [--columns 512] [--requests 10000]

1. A click (more like this, 60 results) and the same within a folder, beside the bare engine call;
   and a page of a folder.
2. Fifty clicks at once, beside one.
3. The data of a first screen: the state and the first page.
4. Memory (RssAnon) before and after many requests.

The rows are random, and no photo is there: what is measured asks for none. Requests go through the
whole application, without a network. Times are wall time, medians.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from _data import environment
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.collection._segments import Batch, RowFormat, append_rows
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.serve import create_app

N_TURNS, N_AT_ONCE = 40, 50
HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json")]


def make(folder, n, n_columns):
    """Make a collection of photos that are not there, with random rows."""
    collection = PhotoCollection.create(folder / ".cbir", folder, GISTDescriptor())
    rng, format, table = (
        np.random.default_rng(0),
        RowFormat("float16", n_columns),
        collection._table,
    )
    segments, first = [], 0
    while first < n:
        part = min(10_000, n - first)
        rows = format.encoded(rng.normal(size=(part, n_columns)).astype(np.float32))
        before = len(segments)
        segments = append_rows(collection.path, format, segments, first, rows, 0)
        with table.writing():
            table.add_rows(segments[before:], [Batch.of(first, rows)])
            table.set_about(n_rows=first + part, **format._asdict())
            for row in range(first, first + part):
                table.put(None, line(row))
        first += part
    return collection


def line(row):
    """Return the line of a photo in one of a hundred folders."""
    folder = f"year{row % 10}/place{row % 100}"
    return {
        "root": 1,
        "path": f"{folder}/{row}.jpg".encode(),
        "folder": folder,
        "name": f"{row}.jpg",
        "label": f"kind{row % 7}",
        "size": 1_000_000,
        "modified": row,
        "width": 4000,
        "height": 3000,
        "taken": f"{2000 + row % 20}-07-01 10:00:00",
        "state": "ready",
        "row": row,
    }


async def ask(app, query=None, path="/api/v1/search"):
    """Ask as a server does; return what is answered."""
    body = b"" if query is None else json.dumps(query).encode()
    sent = []
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET" if query is None else "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "headers": HEADERS,
    }

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

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


def median(values):
    return f"{1000 * float(np.median(values)):.1f} ms"


def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))


async def measure(collection, n_requests):
    n, rng = len(collection), np.random.default_rng(1)
    start = time.perf_counter()
    app = create_app(collection, token=None)
    state = await ask(app, path="/api/v1/state")
    await ask(app, {})
    print(f"first screen: {1000 * (time.perf_counter() - start):.0f} ms")
    assert state["n_ready"] == n
    folder = {"folder": "year3"}
    inside = 4 + 10 * rng.permutation(n // 10)[: 2 * N_TURNS]
    for title, where, some in (
        ("a click", None, 1 + rng.permutation(n)[:N_TURNS]),
        ("a click within a folder", folder, inside[:N_TURNS]),
    ):
        query = {} if where is None else {"where": where}
        await ask(app, {"like": [int(some[0])], **query, "limit": 59})
        served, engine = [], []
        for number in some:  # side by side: the machine is not always as fast
            with collection._table.reading():
                engine.append(bare(collection, int(number), where))
            served.append(await timed(app, {"like": [int(number)], **query, "max_distance": 2}))
        print(f"{title}: {median(served)}, the bare engine {median(engine)}")
    pages = [await timed(app, {"where": folder, "offset": 60 * turn}) for turn in range(N_TURNS)]
    print(f"a page of a folder: {median(pages)}")
    numbers = [int(number) for number in 1 + rng.permutation(n)]
    single = [await timed(app, {"like": [number]}) for number in numbers[:N_TURNS]]
    many = numbers[N_TURNS : N_TURNS + N_AT_ONCE]
    taken = await asyncio.gather(*(timed(app, {"like": [number]}) for number in many))
    p95 = float(np.percentile(taken, 95))
    print(
        f"{N_AT_ONCE} clicks at once: 95 % within {1000 * p95:.0f} ms, "
        f"{p95 / np.median(single):.1f} times the median of one"
    )
    before, step = anonymous(), max(1, n_requests // 10)
    for turn in range(n_requests):
        if turn % 50 == 0:
            await ask(app, {"like": [numbers[turn % n]]})
        else:
            await ask(app, {"offset": turn % 9000, "where": {"folder": f"year{turn % 10}"}})
        if turn == step:
            before = anonymous()
    print(f"memory after {step:,} requests {before:.0f} MB, after {n_requests:,} {anonymous():.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    print(environment())
    with (
        tempfile.TemporaryDirectory() as folder,
        make(Path(folder), options.photos, options.columns) as collection,
    ):
        asyncio.run(measure(collection, options.requests))


if __name__ == "__main__":
    main()
