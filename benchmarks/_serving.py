"""Collections of photos for `serve.py`, and a browser that looks at the first screen."""

import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.collection._segments import Batch, RowFormat, append_rows

HEADERS = [(b"host", b"localhost")]
PHOTOS = Path(__file__).parent.parent / "tests" / "data" / "clothing"
# Called in every frame until what is in the window is there, and then not any more.
WATCH = """
() => {
  const isInWindow = (one) => {
    const box = one.getBoundingClientRect();
    return box.top < innerHeight && box.bottom > 0;
  };
  const look = () => {
    const shown = [...document.querySelectorAll(".tile:not(.skeleton)")].filter(isInWindow);
    const images = shown.map((one) => one.querySelector("img"));
    const isThere = shown.length && images.every((one) => one?.complete && one.naturalWidth);
    if (!isThere) return requestAnimationFrame(look);
    // A frame with them has been drawn when the next one begins.
    Promise.all(images.map((one) => one.decode())).then(() =>
      requestAnimationFrame(() => setTimeout(() => {
        const paint = performance.getEntriesByName("first-contentful-paint")[0];
        window.firstScreen = [
          performance.timeOrigin + performance.now(),
          performance.timeOrigin + paint.startTime,
          shown.length,
        ];
      })));
    return undefined;
  };
  requestAnimationFrame(look);
}
"""


def collection_with_rows(folder, extractor, lines, n_columns):
    """Make a collection of photos with these lines, and with random rows."""
    folder.mkdir(exist_ok=True)
    collection = PhotoCollection.create(folder / ".cbir", folder, extractor)
    rng, format, table = (
        np.random.default_rng(0),
        RowFormat("float16", n_columns),
        collection._table,
    )
    segments, first, lines = [], 0, iter(lines)
    while part := list(itertools.islice(lines, 10_000)):
        rows = rng.normal(size=(len(part), n_columns)).astype(np.float32)
        rows, before = format.encoded(rows), len(segments)
        segments = append_rows(collection.path, format, segments, first, rows, 0)
        with table.writing():
            table.add_rows(segments[before:], [Batch.of(first, rows)])
            table.set_about(n_rows=first + len(part), **format._asdict())
            for row, one in enumerate(part, first):
                table.put(None, one | {"root": 1, "state": "ready", "row": row})
        first += len(part)
    return collection


def line(row):
    """Return the line of a photo in one of a hundred folders."""
    folder = f"year{row % 10}/place{row % 100}"
    return {
        "path": f"{folder}/{row}.jpg".encode(),
        "folder": folder,
        "name": f"{row}.jpg",
        "label": f"kind{row % 7}",
        "size": 1_000_000,
        "modified": row,
        "width": 4000,
        "height": 3000,
        "taken": f"{2000 + row % 20}-07-01 10:00:00",
    }


def line_of(path, row, size):
    """Return the line of a photo that is there."""
    status = path.stat()
    there = {"size": status.st_size, "modified": status.st_mtime_ns}
    place = {"path": f"{path.parent.name}/{path.name}".encode(), "folder": path.parent.name}
    return line(row) | place | there | {"name": path.name, "width": size[0], "height": size[1]}


def small_photos(folder, n):
    """Write photos that are cut out of others; yield their lines."""
    rng = np.random.default_rng(0)
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.rglob("*.jpg"))]
    for row in range(n):
        whole = photos[row % len(photos)]
        width, height = (int(side * rng.uniform(0.7, 0.95)) for side in whole.size)
        left = int(rng.integers(whole.size[0] - width))
        top = int(rng.integers(whole.size[1] - height))
        path = folder / f"place{row % 100}" / f"{row}.jpg"
        path.parent.mkdir(exist_ok=True)
        whole.crop((left, top, left + width, top + height)).save(path, quality=90)
        yield line_of(path, row, (width, height))


def large_photos(n, folder=None, n_links=0):
    """Return made photos of 12 megapixels; or write and link them, and yield lines of the links."""
    rng, made = np.random.default_rng(0), []
    paths = sorted(PHOTOS.rglob("*.jpg"))
    for row in range(n):
        photo = Image.open(paths[row % len(paths)]).convert("RGB")
        photo = photo.resize((4000, 3000), Image.Resampling.BICUBIC)
        noise = rng.integers(-6, 7, (3000, 4000, 1))
        file = io.BytesIO()
        grainy = np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(file, "JPEG", quality=88)
        made.append(file.getvalue())
    return made if folder is None else _linked(made, folder, n_links)


def _linked(made, folder, n):
    for row in range(n):
        path = folder / f"place{row % 100}" / f"{row}.jpg"
        path.parent.mkdir(exist_ok=True)
        if row < len(made):
            path.write_bytes(made[row])
        else:
            at = row % len(made)
            os.link(folder / f"place{at % 100}" / f"{at}.jpg", path)
        yield line_of(path, row, (4000, 3000))


def to_first_screens(folder, n):
    """Serve photos and open the page, `n` times.

    Yields seconds from the address to the whole screen and to the first paint, and from the start
    of the command to the address.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    command = [sys.executable, "-m", "sklearn_cbir", "serve", str(folder), "--port", "0"]
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=program, args=options)
        for _ in range(n):
            shutil.rmtree(folder / ".cbir" / "thumbnails", ignore_errors=True)
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            page = context.new_page()
            page.add_init_script(f"({WATCH})()")
            begin = time.time()
            with subprocess.Popen([*command, "--no-browser"], stderr=subprocess.PIPE) as server:
                address = server.stderr.readline().decode().removeprefix("Serving at ").strip()
                start = time.time()
                page.goto(address)
                page.wait_for_function("() => window.firstScreen")
                whole, paint, n_shown = page.evaluate("() => window.firstScreen")
                server.send_signal(signal.SIGINT)
                server.stderr.read()
            context.close()
            assert n_shown >= 12, n_shown
            yield whole / 1000 - start, paint / 1000 - start, start - begin
        browser.close()
