"""Look at every built page: `python docs/look_at_pages.py docs/_build`.

It prints page, fault and place, one per line, and fails if there is any: a link within the site, or
its fragment, that leads nowhere; a picture that is not there, or has no alternative text; what is
wider than a window of 400 px; and text whose contrast is below that of WCAG AA, in light and dark,
as axe-core finds it. It needs Chromium (`apt-get install chromium`) and the extra `test`.
"""

import argparse
import gzip
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

AXE = Path(__file__).parent.parent / "tests" / "data" / "axe" / "axe.min.js.gz"
WIDTH = 400  # px, of a phone
THEMES = ("light", "dark")
# What reaches beyond the window, unless it is in a box that scrolls; one that holds the heading is
# the page itself. Formulas are drawn by a script from the network.
WIDER = """() => {
    const width = document.documentElement.clientWidth;
    const scrolls = (one) => one && one !== document.body && (
        ['auto', 'scroll'].includes(getComputedStyle(one).overflowX) && !one.querySelector('h1')
        || scrolls(one.parentElement));
    return [...document.body.querySelectorAll('*')].filter((one) => one.checkVisibility()
        && one.getBoundingClientRect().right > width + 1 && !scrolls(one.parentElement)
        && ![...one.children].some((child) => child.getBoundingClientRect().right > width + 1)
        && !one.closest('.math, dialog'));
}"""
DEAD = "() => [...document.images].filter((one) => one.complete && !one.naturalWidth)"
PLACE = """(one) => {
    const names = [one.localName, ...one.classList].join('.');
    const near = one.closest('[id]');
    const text = (one.getAttribute('src') || one.textContent).trim().replace(/\\s+/g, ' ');
    return `${near ? '#' + near.id + ' ' : ''}${names}: ${text.slice(0, 60)}`;
}"""
CONTRAST = """async () => {
    const options = { runOnly: ['color-contrast'], resultTypes: ['violations'], elementRef: false };
    const found = await axe.run(document, options);
    return found.violations.flatMap((one) => one.nodes).map((node) => {
        const { fgColor, bgColor, contrastRatio } = node.any[0].data;
        return [`${fgColor} on ${bgColor}, ${contrastRatio}`, node.html.slice(0, 80)];
    });
}"""


class Fault(NamedTuple):
    """What is wrong with a page."""

    page: str
    what: str
    where: str


class Content(HTMLParser):
    """What a page links to, shows, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors, self.links, self.pictures = {""}, [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Note what a tag says."""
        said = dict(attrs)
        self.anchors |= {said[key] for key in ("id", "name") if said.get(key)}
        if tag in ("a", "link") and said.get("href"):
            self.links.append(said["href"])
        if tag in ("img", "source", "script") and said.get("src"):
            self.links.append(said["src"])
        if tag == "img":
            self.pictures.append((said.get("src", ""), said.get("alt")))


def faults_of_files(folder: Path, pages: list[str]) -> Iterator[Fault]:
    """Yield dead links, and pictures without an alternative text."""
    everything = {
        path.relative_to(folder).as_posix(): Content(path.read_text(encoding="utf-8"))
        for path in folder.rglob("*.html")
    }
    for page in pages:
        for link in dict.fromkeys(everything[page].links):
            if not urlsplit(link).scheme and not leads_somewhere(link, page, folder, everything):
                yield Fault(page, "dead link", link)
        for source, alternative in everything[page].pictures:
            if not (alternative or "").strip():
                yield Fault(page, "no alternative text", source)


def leads_somewhere(link: str, page: str, folder: Path, everything: dict[str, Content]) -> bool:
    """Return whether a link within the site has its page and its anchor."""
    place, fragment = urldefrag(link)
    target = (folder / page).parent / unquote(urlsplit(place).path) if place else folder / page
    name = target.resolve()
    if not name.is_relative_to(folder) or not name.is_file():
        return False
    found = everything.get(name.relative_to(folder).as_posix())
    return found is None or unquote(fragment) in found.anchors


def faults_in_a_browser(
    browser: Browser, folder: Path, pages: list[str], width: int = WIDTH
) -> Iterator[Fault]:
    """Yield what only a drawn page shows."""
    axe = gzip.decompress(AXE.read_bytes()).decode()
    with served(folder) as address:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, reduced_motion="reduce"
        )
        outside = re.compile(rf"^(?!{re.escape(address)})|/favicon\.ico$")
        context.route(outside, lambda route: route.abort())
        page = context.new_page()
        for name in pages:
            page.goto(f"{address}{name}", wait_until="load")
            yield from (Fault(name, "dead picture", where) for where in places(page, DEAD))
            if wider := places(page, WIDER):
                yield Fault(name, f"wider than {width} px", f"{wider[0]} ({len(wider)} in all)")
            page.evaluate(axe)
            for theme in THEMES:
                page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
                first = dict(reversed(page.evaluate(CONTRAST)))  # of every two colors
                for colors, element in first.items():
                    yield Fault(name, f"contrast, {theme}: {colors}", element)
        context.close()


def places(page: Page, found: str) -> list[str]:
    """Return where the elements are that an expression finds."""
    return page.evaluate(f"() => ({found})().map({PLACE})")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder and say where."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pages_of(folder: Path) -> list[str]:
    """Return all pages, without what themes lay in the folder of styles."""
    pages = [path.relative_to(folder).as_posix() for path in folder.rglob("*.html")]
    return sorted(page for page in pages if not page.startswith("_static/"))


def faults_of(folder: Path, pages: list[str]) -> Iterator[Fault]:
    """Yield all faults of pages."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("There is no Chromium to look with: apt-get install chromium.")
    yield from faults_of_files(folder, pages)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield from faults_in_a_browser(browser, folder, pages)
        browser.close()


def main(arguments: list[str]) -> int:
    """Print all faults, and return whether there are any."""
    parser = argparse.ArgumentParser(description="Look at every built page.")
    parser.add_argument("folder", type=Path, help="where Sphinx built the pages")
    parser.add_argument("pages", nargs="*", help="such as guide/words.html; all without")
    chosen = parser.parse_args(arguments)
    folder = chosen.folder.resolve()
    pages = chosen.pages or pages_of(folder)
    if not pages:
        sys.exit(f"{folder} holds no pages. Build them first: python -m sphinx docs {folder}")
    n_faults = 0
    for fault in faults_of(folder, pages):
        n_faults += 1
        print(*fault, sep="\t", flush=True)
    print(f"{len(pages)} pages, {n_faults} faults")
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
