"""Make the pictures of the page of `cbir serve`: `python docs/screenshots.py`.

It serves the photos that ship with the tests and looks at them with Chromium, which has to be
installed (`apt-get install chromium`). The rest is in the extras `serve`, `demo` and `test`.
"""

import io
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, Route, sync_playwright

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.serve import create_app

HERE = Path(__file__).parent
CLOTHING = HERE.parent / "tests" / "data" / "clothing"
NETWORK = "timm/tf_efficientnet_lite0"
LARGEST = 150_000  # bytes
COPIES = 3  # photos that are there again, smaller
SHOWN = "/home/ada/Pictures"  # where the photos seem to be


def main() -> None:
    """Write all pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary, "clothes")
        shutil.copytree(CLOTHING, photos)
        for path in sorted(photos.rglob("*.jpg"))[::13][:COPIES]:
            smaller = Image.open(path)
            smaller.thumbnail((120, 120))
            smaller.save(path.with_name(f"{path.stem[:8]} small.jpg"), quality=90)
        with collection_of(photos) as collection, served(collection) as address:
            take_all(address, temporary)


def take_all(address: str, temporary: str) -> None:
    """Take the pictures of a page, in which a temporary folder has another name."""

    def rename(route: Route) -> None:
        answer = route.fetch()
        if answer.headers["content-type"] == "application/json":
            route.fulfill(response=answer, body=answer.text().replace(temporary, SHOWN))
        else:
            route.fulfill(response=answer)

    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page_of = partial(opened_page, browser, address, rename)
        with page_of(1280, 800, "light") as page:
            search(page)
            save(page, "serve_search")
            page.goto(f"{address}#view=duplicates&radius=0.15")
            page.locator(".group").first.wait_for()
            save(page, "serve_duplicates")
        with page_of(1280, 800, "dark") as page:
            select_a_part(page)
            save(page, "serve_part")
        with page_of(400, 800, "dark") as page:
            search(page)
            save(page, "serve_phone")
        browser.close()


def search(page: Page) -> None:
    """Look for shoes, and not for one of the results."""
    photo(page, "shoes").click()
    page.locator(".distance", has_text="0.").first.wait_for()
    page.locator(".tile .open").nth(4).click(modifiers=["Shift"])
    page.locator(".chip.unlike").wait_for()
    page.wait_for_function("() => !document.querySelector('#grid[aria-busy]')")
    page.mouse.move(0, 0)
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")


def select_a_part(page: Page) -> None:
    """Draw a rectangle on a photo."""
    photo(page, "t-shirt").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('large').naturalWidth > 0")
    box = page.locator("#frame").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.65 * box["height"], steps=5)
    page.mouse.up()


def photo(page: Page, folder: str):
    """Return the first photo of a folder, as it is shown among all."""
    name = sorted(path.name for path in (CLOTHING / folder).iterdir())[0]
    return page.locator(".tile").filter(has_text=name).locator(".open")


def save(page: Page, name: str) -> None:
    """Write what is shown as a file small enough for the repository."""
    page.wait_for_load_state("networkidle")
    page.wait_for_function(
        "() => !document.querySelector('#grid[aria-busy]')"
        " && [...document.images].every((one) => one.complete || one.loading == 'lazy')"
    )
    path = HERE / "_static" / f"{name}.webp"
    Image.open(io.BytesIO(page.screenshot())).save(path, quality=80, method=6)
    assert path.stat().st_size < LARGEST, path
    print(path.relative_to(HERE.parent), path.stat().st_size)


@contextmanager
def opened_page(
    browser: Browser,
    address: str,
    rename: Callable[[Route], None],
    width: int,
    height: int,
    scheme: str,
) -> Iterator[Page]:
    """Open the page in a window of a size."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
        has_touch=width < 720,
        is_mobile=width < 720,
    )
    page = context.new_page()
    page.route("**/api/**", rename)
    page.goto(address)
    page.locator(".tile:not(.skeleton)").first.wait_for()
    yield page
    context.close()


@contextmanager
def collection_of(photos: Path) -> Iterator[PhotoCollection]:
    """Make a collection of a folder."""
    extractor = CNNFeatureExtractor(NETWORK, weights="packaged", loss=None)
    extractor.fit(sorted(map(str, photos.rglob("*.jpg")))[:2])
    with PhotoCollection.create(photos / ".cbir", photos, extractor, labels="folder") as made:
        made.sync()
        yield made


@contextmanager
def served(collection: PhotoCollection) -> Iterator[str]:
    """Serve a collection and say where."""
    config = uvicorn.Config(create_app(collection, token=None), log_level="error", ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    main()
