"""The page of `cbir serve`, in a real browser and over a real collection.

Chromium is that of the distribution: `apt-get install chromium`.
"""

import gzip
import importlib
import io
import json
import os
import re
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.datasets import make_shapes

DATA = Path(__file__).parent / "data"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
KINDS = [
    *("red circle", "green square", "blue triangle", "yellow cross"),
    *("green circle", "blue square", "yellow triangle", "red cross"),
]
N_DRAWINGS = 144
HOSTILE = "<img src=x onerror=alert(1)>.jpg"
TAKEN = 36867  # EXIF: when a photo was taken
FOUND = ".tile:not(.skeleton):not([hidden])"
MORE = "#more"

pytestmark = [
    pytest.mark.browser,
    # Playwright runs an event loop of its own in the thread of the tests.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def skip_or_fail(reason):
    """Skip, but where the browser has to be there: in .ci/run."""
    if os.environ.get("CBIR_NEEDS_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


def needed(module, extra):
    """Return a module, or skip."""
    try:
        return importlib.import_module(module)
    except ImportError:
        skip_or_fail(f"{module} is not installed: it comes with the extra {extra}.")


# What is served -----------------------------------------------------------------------------------


def jpeg(image, year=None):
    """A photo as bytes, taken in a year."""
    exif, content = Image.Exif(), io.BytesIO()
    if year:
        exif.get_ifd(0x8769)[TAKEN] = f"{year}:06:15 12:00:00"
    Image.fromarray(image).save(content, "JPEG", quality=95, exif=exif)
    return content.getvalue()


def write_photos(folder):
    """Drawings in folders by their kind, with a hostile name, a damaged file and equal ones."""
    drawings, kinds = make_shapes(N_DRAWINGS, n_classes=8, image_size=64, random_state=0)
    for number, (drawing, kind) in enumerate(zip(drawings, kinds)):
        place = folder / KINDS[kind] / f"{number:03}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(jpeg(drawing, year=2020 + number % 4))
    red, blue = drawings[kinds == 0][0], drawings[kinds == 5][0]
    (folder / "both.jpg").write_bytes(jpeg(np.concatenate([red, blue], axis=1)))
    (folder / HOSTILE).write_bytes(jpeg(drawings[1][::-1]))
    first = folder / KINDS[kinds[0]] / "000.jpg"
    larger = Image.open(first).resize((96, 96))
    larger.save(first.with_name("000 larger.jpg"), quality=95)
    (folder / "torn.jpg").write_bytes(first.read_bytes()[:700])
    return drawings, kinds


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of photos, the drawings and their kinds."""
    folder = tmp_path_factory.mktemp("page") / "shapes"
    folder.mkdir()
    return folder, *write_photos(folder)


@pytest.fixture(scope="module")
def collection(drawn):
    needed("open_clip", "clip")
    name = f"open_clip/local-dir:{DATA / 'shapes_clip'}"
    extractor = CNNFeatureExtractor(name, weights="pretrained", loss=None)
    extractor.fit(drawn[1][:2])
    made = PhotoCollection.create(drawn[0] / ".cbir", drawn[0], extractor, labels="folder")
    with made:
        made.sync()
        yield made


@pytest.fixture(scope="module")
def reader(collection):
    """The same collection, to be asked beside the server."""
    with PhotoCollection.open(collection.path, read_only=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(collection):
    """The address that `cbir serve` would print."""
    uvicorn = needed("uvicorn", "serve")
    from sklearn_cbir.serve import create_app

    app = create_app(collection, token="letmein")
    config = uvicorn.Config(app, log_level="error", ws="none", lifespan="on")
    running = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser():
    sync_playwright = needed("playwright.sync_api", "test").sync_playwright
    if not CHROMIUM:
        skip_or_fail("There is no Chromium: apt-get install chromium.")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, server):
    """A function that opens the page; what goes wrong inside of it fails the test."""
    faults, contexts = [], []

    def note(message):
        # What a request answers from 400 on is said in the console, too; the page has to say it.
        if message.type == "error" and "Failed to load resource" not in message.text:
            faults.append(message.text)

    def dialog(shown):
        faults.append(f"alert: {shown.message}")
        shown.dismiss()

    def open_page(address="", width=1280, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            reduced_motion="reduce",
            **options,
        )
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("dialog", dialog)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{server}?token=letmein{address}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture
def page(opened):
    shown = opened()
    arrived(shown)
    return shown


# What a user sees and does ------------------------------------------------------------------------


def arrived(page, summary=r"\d+ photos"):
    """Wait until an answer is shown."""
    page.wait_for_function(
        "(text) => new RegExp(text).test(document.getElementById('summary').textContent)"
        " && !document.querySelector('#grid[aria-busy]')",
        arg=summary,
    )


def names(page, within="#grid"):
    shown = page.locator(f"{within} {FOUND} .caption span:first-child")
    return shown.all_text_contents()


def distances(page):
    return [
        float(text) for text in page.locator(f"#grid {FOUND} .distance").all_text_contents() if text
    ]


def answered(page):
    """Names and distances of what is shown."""
    return list(zip(names(page), distances(page)))


def expected(reader, liked, unliked=(), k=60):
    """Names and distances of what the collection itself finds, by names."""
    number = {name: int(n) for n, name in zip(*map(reader.items().get, ("number", "name")))}
    found = reader.like([number[one] for one in liked], [number[one] for one in unliked], k=k)
    return [(Path(hit.path).name, round(hit.distance, 3)) for hit in found]


def kinds_of(page, drawn, n):
    """Kinds of the first results; None for what is no drawing of its own."""
    _, _, kinds = drawn
    shown = [re.match(r"(\d{3})( larger)?\.jpg$", name) for name in names(page)[:n]]
    return [KINDS[kinds[int(one[1])]] if one else None for one in shown]


def tile(page, name):
    return page.locator(f"#grid {FOUND}").filter(has_text=name).locator(".open")


def chips(page):
    return page.locator("#chips p").all_text_contents()


def click(page, name, **options):
    tile(page, name).click(**options)
    arrived(page, "nearest first")


def transfer(page, content):
    """What a drop and a paste hand over."""
    return page.evaluate_handle(
        """(bytes) => {
          const transfer = new DataTransfer();
          const photo = new Uint8Array(bytes);
          transfer.items.add(new File([photo], "mine.jpg", { type: "image/jpeg" }));
          return transfer;
        }""",
        list(content),
    )


def choose_folder(page, name):
    page.locator("#folder").fill(name)
    press(page, "Enter")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def focused(page):
    return page.evaluate("document.activeElement.textContent")


def violations(page):
    """What axe-core finds wrong, in short."""
    with gzip.open(DATA / "axe" / "axe.min.js.gz", "rt", encoding="utf-8") as file:
        page.evaluate(file.read())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        (one["id"], [(node["html"][:200], node["failureSummary"]) for node in one["nodes"][:3]])
        for one in found
    ]


# Searching ----------------------------------------------------------------------------------------


def test_all_photos_are_there_at_first(page):
    assert page.title() == "shapes · Photo search"
    hint = "Click one to find more like it."
    assert page.locator("#summary").text_content() == f"60 of {N_DRAWINGS + 3} photos. {hint}"
    assert len(names(page)) == 60
    assert distances(page) == []
    page.wait_for_function("(img) => img.complete", arg=page.query_selector(f"#grid {FOUND} img"))
    assert not page.locator("#distance-box").is_visible()  # nothing has a distance yet


def test_a_click_finds_more_like_a_photo(page, reader):
    click(page, "002.jpg")
    assert chips(page) == ["More like002.jpg"]
    assert answered(page) == expected(reader, ["002.jpg"])
    assert "like=" in page.url
    other = names(page)[0]
    click(page, other)
    assert chips(page) == [f"More like{other}"]
    assert answered(page) == expected(reader, [other])


@pytest.mark.parametrize("by", ["shift-click", "key", "tool"])
def test_less_like_a_photo(page, reader, by):
    click(page, "002.jpg")
    shown = names(page)
    unwanted = tile(page, shown[1])
    if by == "shift-click":
        unwanted.click(modifiers=["Shift"])
    elif by == "key":
        unwanted.focus()
        press(page, "-")
    else:
        unwanted.hover()
        page.get_by_role("button", name=f"Less like {shown[1]}").click()
    page.locator(".chip.unlike").wait_for()
    arrived(page, "nearest first")
    assert chips(page) == ["More like002.jpg", f"Less like{shown[1]}"]
    assert answered(page) == expected(reader, ["002.jpg"], [shown[1]])
    page.get_by_role("button", name=f"Remove {shown[1]} from the search").click()
    page.locator(".chip.unlike").wait_for(state="detached")
    arrived(page, "nearest first")
    assert names(page) == shown


def test_nothing_is_unlike_before_something_is_like(page):
    tile(page, "002.jpg").click(modifiers=["Shift"])
    assert "Search first" in page.locator("#said").text_content()
    assert len(names(page)) == 60
    tile(page, "002.jpg").hover()
    assert not page.get_by_role("button", name="Less like 002.jpg").is_visible()


@pytest.mark.parametrize("by", ["drop", "paste", "choose"])
def test_a_photo_from_outside(page, drawn, by):
    folder, _, kinds = drawn
    content = (folder / KINDS[kinds[7]] / "007.jpg").read_bytes()
    if by == "choose":
        photo = {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": content}
        page.locator("#file").set_input_files(photo)
    elif by == "drop":
        handed = transfer(page, content)
        is_shown = page.evaluate(  # at once: the sign goes soon after the last dragover
            """(dataTransfer) => {
              const over = new DragEvent("dragover", { dataTransfer, bubbles: true });
              document.body.dispatchEvent(over);
              return document.getElementById("drop").checkVisibility();
            }""",
            handed,
        )
        assert is_shown
        page.dispatch_event("body", "drop", {"dataTransfer": handed})
    else:
        page.evaluate(
            """(clipboardData) => document.body.dispatchEvent(
              new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }))""",
            transfer(page, content),
        )
    arrived(page, "nearest first")
    assert chips(page) == ["More likemine.jpg"]
    assert names(page)[0] == "007.jpg"
    assert distances(page)[0] < 0.01
    page.reload()
    arrived(page, "nearest first")
    assert names(page)[0] == "007.jpg"
    assert chips(page) == ["More likemine.jpg"]


def test_what_is_no_photo_is_said_so(page):
    page.locator("#file").set_input_files(
        {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"}
    )
    notice = page.locator("#notice")
    notice.wait_for()
    assert "cannot be used" in notice.text_content()
    assert notice.get_by_role("button", name="Choose another photo").is_visible()
    assert len(names(page)) == 60
    page.locator("#file").set_input_files(
        {"name": "mine.txt", "mimeType": "text/plain", "buffer": b"no photo"}
    )
    page.get_by_text("mine.txt is not an image.").wait_for()


def test_an_uploaded_photo_that_is_gone_is_said_so(opened):
    page = opened("#upload=AAAAAAAAAAAAAAAAAAAAAA")
    notice = page.locator("#notice")
    notice.wait_for()
    assert "The photo that you searched with is gone" in notice.text_content()
    notice.get_by_role("button", name="See all photos").click()
    arrived(page)
    assert len(names(page)) == 60


@pytest.mark.parametrize("by", ["mouse", "keys"])
def test_a_part_of_a_photo(page, drawn, by):
    """The photo shows a red circle and, to the right of it, a blue square."""
    page.locator(MORE).click()
    page.locator(MORE).click()
    arrived(page, f"{N_DRAWINGS + 3} photos")
    tile(page, "both.jpg").focus()
    press(page, "Enter")
    page.locator("#viewer").wait_for()
    page.wait_for_function("() => document.getElementById('large').naturalWidth > 0")
    if by == "mouse":
        box = page.locator("#frame").bounding_box()
        right, bottom = box["x"] + box["width"], box["y"] + box["height"]
        page.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] + 1)
        page.mouse.down()
        page.mouse.move(right - 1, bottom - 1, steps=4)
        page.mouse.up()
        page.get_by_role("button", name="Search by this part").click()
    else:
        press(page, "r", *["ArrowUp"] * 13, *["Shift+ArrowDown"] * 25, *["ArrowRight"] * 13)
        press(page, "Enter")
    arrived(page, "nearest first")
    assert chips(page) == ["More likea part of both.jpg"]
    left, top, right, bottom = map(
        float, re.search(r"box=([\d.+]+)", page.url)[1].replace("+", " ").split()
    )
    assert left == pytest.approx(0.5, abs=0.02)
    assert (top, right, bottom) == pytest.approx((0, 1, 1), abs=0.02)
    assert kinds_of(page, drawn, 4).count("blue square") >= 3
    page.locator("#chips .look").click()  # and it can be drawn anew
    page.locator("#region").wait_for()
    frame, region = page.locator("#frame").bounding_box(), page.locator("#region").bounding_box()
    assert region["x"] - frame["x"] == pytest.approx(frame["width"] / 2, abs=0.03 * frame["width"])


def test_words(page, drawn):
    press(page, "/")
    page.keyboard.type("a blue square")
    press(page, "Enter")
    arrived(page, "nearest first")
    assert chips(page) == ["Wordsa blue square"]
    assert kinds_of(page, drawn, 5).count("blue square") >= 4  # one is in a photo of both
    press(page, "Escape")
    page.locator("#query").wait_for(state="hidden")
    assert page.locator("#words").input_value() == ""


# Narrowing ----------------------------------------------------------------------------------------


def test_filters(page, drawn):
    _, _, kinds = drawn
    page.locator("#label").select_option("=red circle")
    arrived(page, r"^\d+ photos; the filters leave out")
    assert set(kinds_of(page, drawn, 60)) == {"red circle"}
    n = np.count_nonzero(kinds == 0)
    assert len(names(page)) in (n, n + 1)  # photo 0 is there twice
    page.locator("#from").select_option("2021")
    page.locator("#to").select_option("2021")
    page.wait_for_function("() => location.hash.includes('to=2021')")
    arrived(page, r"^\d+ photos; the filters leave out")
    left = {f"{i:03}.jpg" for i in np.flatnonzero(kinds == 0) if 2020 + i % 4 == 2021}
    page.wait_for_function(
        f"() => document.querySelectorAll('#grid {FOUND}').length == {len(left)}"
    )
    assert set(names(page)) == left
    choose_folder(page, "green square")
    notice = page.locator("#notice")
    notice.wait_for()
    assert "No photo meets all of the filters." in notice.text_content()
    notice.get_by_role("button", name="Reset filters").click()
    arrived(page, "^60 of")
    assert page.locator("#label").input_value() == ""


def test_years_are_a_range(page):
    def chosen():
        return [page.locator(name).input_value() for name in ("#from", "#to")]

    page.locator("#from").select_option("2022")
    arrived(page, "of 72 photos")
    assert chosen() == ["2022", ""]
    page.locator("#to").select_option("2021")
    arrived(page, "of 36 photos|^36 photos")
    assert chosen() == ["2021", "2021"]
    page.goto(f"{page.url.partition('#')[0]}#from=2022&to=2021")
    arrived(page, "of 72 photos")
    assert chosen() == ["2021", "2022"]


MANY = 3_000


@pytest.fixture
def many_folders(opened, browser, server):
    """The page of a collection with thousands of folders, of which one has a long name."""

    def answer(route):
        real = route.fetch()
        state = real.json()
        names = [f"{place}/{place % 30 + 1990}/part {place}" for place in range(MANY)]
        more = [{"folder": name, "n_photos": 1} for name in [*names, f"zoo/{'long ' * 60}name"]]
        route.fulfill(response=real, json={**state, "folders": [*state["folders"], *more]})

    def open_page(**options):
        page = opened(**options)
        page.route("**/api/v1/state", answer)
        page.reload()
        arrived(page)
        return page

    return open_page


def test_a_folder_of_thousands_is_found_by_a_part_of_its_path(many_folders):
    page = many_folders()
    page.locator("#folder").click()
    options = page.locator("#folder-list [role=option]")
    assert options.first.text_content() == "all"
    assert [text[:3] for text in options.all_text_contents()] == [
        *("all", "blu", "blu", "gre", "gre", "red", "red", "yel", "yel", "zoo"),
    ]  # and not what is in the many, one level below
    assert "type a part of the path" in page.locator("#folder-note").text_content()
    page.keyboard.type("part")
    assert options.count() == 100
    page.locator("#folder").fill("1991 PART 271")
    assert options.all_text_contents() == ["271/1991/part 2711"]
    press(page, "Escape")
    assert not options.first.is_visible()
    assert page.locator("#folder").input_value() == ""
    page.keyboard.type("green")
    assert [text[:6] for text in options.all_text_contents()] == ["green "] * 2
    press(page, "ArrowDown", "Enter")
    page.wait_for_function("() => location.hash == '#folder=green+square'")
    arrived(page, r"^\d+ photos; the filters leave out")
    assert page.locator("#folder").input_value() == "green square"
    page.keyboard.type("no such folder")
    assert page.get_by_text("No folder has this in its path.").is_visible()
    press(page, "ArrowDown", "ArrowUp", "Enter", "Tab")
    assert page.locator("#folder").input_value() == "green square"
    page.locator("#folder").click()
    options.first.click()
    arrived(page, "^60 of")


def test_filters_of_a_phone_stay_within_it(many_folders):
    page = many_folders(width=400)
    page.get_by_role("button", name="Filters").click()
    click(page, "002.jpg")
    page.locator("#folder").fill("long")
    assert page.locator("#folder-list [role=option]").count() == 1
    wide = page.evaluate(
        """() => [...document.querySelectorAll("#filters, #filters *")]
          .filter((one) => one.getBoundingClientRect().right > innerWidth)
          .map((one) => one.outerHTML)"""
    )
    assert not wide
    assert not violations(page)


def test_the_largest_distance(page):
    click(page, "002.jpg")
    before = distances(page)
    slider = page.locator("#distance")
    slider.focus()
    press(page, *["PageDown"] * 4)
    page.wait_for_function("() => location.hash.includes('max=')")
    arrived(page, "nearest first")
    most = float(re.search(r"max=([\d.]+)", page.url)[1])
    assert 0 < most < before[-1]
    page.wait_for_function(
        f"() => document.querySelectorAll('#grid {FOUND}').length < {len(before)}"
    )
    assert distances(page) == [one for one in before if one <= most]
    slider.focus()
    press(page, "Home")  # the nearest is always in
    page.wait_for_function(f"() => document.querySelectorAll('#grid {FOUND}').length < 3")
    arrived(page, "nearest first")
    least = float(re.search(r"max=([\d.]+)", page.url)[1])
    assert distances(page) == [one for one in before if one <= least]
    assert distances(page)
    page.goto(re.sub(r"max=[\d.]+", "max=0", page.url))
    notice = page.locator("#notice")
    notice.wait_for()
    notice.get_by_role("button", name="Any distance").click()
    arrived(page, "nearest first")
    assert distances(page) == before


def test_more_photos_than_a_page(page):
    click(page, "002.jpg")
    for n, text in ((120, f"120 of {N_DRAWINGS + 3}"), (N_DRAWINGS + 2, N_DRAWINGS + 2)):
        page.locator(MORE).click()
        arrived(page, f"^{text} photos, nearest first")
        assert len(set(page.locator("#grid .open").all_text_contents())) >= n - 1
    assert not page.locator(MORE).is_visible()
    assert distances(page) == sorted(distances(page))
    page.reload()
    arrived(page, f"^{N_DRAWINGS + 2} photos, nearest first")


# Other views --------------------------------------------------------------------------------------


def test_duplicates_say_what_would_be_kept(page, drawn):
    page.locator("[data-view=duplicates]").click()
    page.locator("#distance").focus()
    arrived(page, "near-duplicates")
    group = page.locator(".group").filter(has_text="000 larger.jpg").first
    assert group.get_by_role("heading").text_content().endswith("keep 000 larger.jpg")
    kept = group.locator(".tile").filter(has=page.locator(".badge"))
    assert kept.count() == 1
    assert "96 \N{MULTIPLICATION SIGN} 96" in kept.text_content()
    press(page, "Home")
    page.wait_for_function("() => location.hash.includes('radius=0')")
    page.locator("#notice").wait_for()
    assert "No near-duplicates" in page.locator("#notice").text_content()
    assert "filters" not in page.locator("#notice").text_content()
    choose_folder(page, "red cross")
    page.get_by_text("Only photos that meet the filters are compared.").wait_for()


def test_duplicates_are_looked_at_and_not_searched_by(opened, drawn):
    page = opened("#view=duplicates", permissions=["clipboard-read", "clipboard-write"])
    arrived(page, "near-duplicates")
    first, second = page.locator(".group").first.locator(".tile").all()[:2]
    assert not first.locator(".distance").text_content()
    assert second.locator(".distance").text_content()
    second.locator(".open").click()
    page.locator("#viewer").wait_for()
    assert "view=duplicates" in page.url
    assert "like=" not in page.url
    assert not page.locator("#viewer-unlike").is_visible()
    page.locator("#close").click()
    page.locator("#viewer").wait_for(state="hidden")
    count = page.locator("#summary").text_content()
    page.get_by_role("button", name=re.compile("^Copy path")).first.click()
    said = page.locator("#said")
    page.get_by_text(re.compile(r"^Copied \d+ path")).wait_for()
    box = said.bounding_box()
    assert box["y"] + box["height"] <= 800  # wherever the page is
    assert page.locator("#summary").text_content() == count


def test_unreadable_photos_say_why(page):
    page.locator("[data-view=unreadable]").click()
    row = page.locator("tbody tr")
    row.wait_for()
    name, _, why, _ = row.locator("td").all_text_contents()
    assert name == "torn.jpg"
    assert "truncated" in why
    assert page.locator("#summary").text_content() == "1 photo cannot be read."


def test_a_sync_takes_in_a_new_photo(page, drawn):
    folder, drawings, _ = drawn
    new = folder / "new.jpg"
    new.write_bytes(jpeg(drawings[3][:, ::-1]))
    try:
        page.get_by_role("button", name="Sync").click()
        page.get_by_text("Synced: 1 added").wait_for(timeout=30_000)
        arrived(page, f"^60 of {N_DRAWINGS + 4} photos")
    finally:
        new.unlink()
        page.get_by_role("button", name="Sync").click()
        page.get_by_text("Synced: 1 removed").wait_for(timeout=30_000)
    page.get_by_role("button", name="Dismiss").click()
    assert not page.locator("#progress").is_visible()


# The address --------------------------------------------------------------------------------------


def test_back_forward_reload_and_a_shared_address(page):
    click(page, "002.jpg")
    first = names(page)
    choose_folder(page, "red cross")
    arrived(page, "the filters leave out")
    narrowed = names(page)
    assert narrowed != first
    page.go_back()
    arrived(page, r"nearest first\.")
    assert names(page) == first
    page.go_back()
    arrived(page, "^60 of")
    assert chips(page) == []
    page.go_forward()
    page.go_forward()
    arrived(page, "the filters leave out")
    page.reload()
    arrived(page, "the filters leave out")
    assert names(page) == narrowed
    assert page.locator("#folder").input_value() == "red cross"
    other = page.context.new_page()
    other.goto(page.url)
    arrived(other, "the filters leave out")
    assert names(other) == narrowed
    assert chips(other) == ["More like002.jpg"]


def test_back_and_reload_keep_the_place_on_the_page(page):
    page.locator(MORE).click()
    arrived(page, "^120 of")
    last = page.locator(f"#grid {FOUND} .open").nth(110)
    last.scroll_into_view_if_needed()
    place = page.evaluate("scrollY")
    assert place > 500

    def is_back():
        page.wait_for_function("(place) => Math.abs(scrollY - place) < 2", arg=place)

    last.click()
    arrived(page, "nearest first")
    assert page.evaluate("scrollY") == 0
    page.go_back()
    arrived(page, "^120 of")
    is_back()
    page.locator("[data-view=duplicates]").dispatch_event("click")  # a click of Playwright scrolls
    arrived(page, "near-duplicates")
    page.go_back()
    is_back()
    page.wait_for_function("(place) => Math.abs(history.state.y - place) < 2", arg=place)
    page.reload()
    arrived(page, "^120 of")
    is_back()


@pytest.mark.parametrize(
    "address",
    [
        "#like=1e9&like=-1&shown=99999999&max=x&open=<b>",
        "#view=other&region=1&box=2+0+0+0",
        "#%E0%A4%A",
    ],
)
def test_an_address_that_makes_no_sense_shows_all_photos(opened, address):
    page = opened(address)
    arrived(page, r"\d+ photos")
    assert len(names(page)) >= 60


@pytest.mark.parametrize("address", ["#like=999999", "#open=999999"])
def test_a_photo_that_is_not_there_is_said_so(opened, address):
    page = opened(address)
    notice = page.locator("#notice")
    notice.wait_for()
    assert "999999" in notice.text_content()
    notice.get_by_role("button", name="See all photos").click()
    arrived(page, "^60 of")


def test_a_server_that_does_not_answer_is_said_so(page):
    page.route("**/api/v1/search", lambda route: route.abort())
    tile(page, "002.jpg").click()
    notice = page.locator("#notice")
    notice.wait_for()
    assert "Nothing answers" in notice.text_content()
    page.unroute("**/api/v1/search")
    notice.get_by_role("button", name="Try again").click()
    arrived(page, "nearest first")
    assert chips(page) == ["More like002.jpg"]


# Keys, sizes, colors ------------------------------------------------------------------------------


def test_everything_goes_by_keys(page):
    for _ in range(30):
        press(page, "Tab")
        if "open" in page.evaluate("document.activeElement.className"):
            break
    first, *others = names(page)
    assert focused(page) == first
    press(page, "ArrowRight")
    assert focused(page) == others[0]
    press(page, "ArrowDown", "ArrowUp", "End", "Home")
    assert focused(page) == first
    press(page, "Space")
    arrived(page, "nearest first")
    assert chips(page) == [f"More like{first}"]
    nearest = names(page)[0]
    assert focused(page).startswith(f"{nearest}, distance 0.")
    press(page, "+")
    page.wait_for_function("() => document.querySelectorAll('.chip').length == 2")
    arrived(page, "nearest first")
    press(page, "Enter")
    page.locator("#viewer").wait_for()
    shown = page.locator("#viewer-name").text_content()
    press(page, "ArrowRight")
    page.wait_for_function(
        "(name) => document.getElementById('viewer-name').textContent != name", arg=shown
    )
    shown = page.locator("#viewer-name").text_content()
    press(page, "Escape")
    page.locator("#viewer").wait_for(state="hidden")
    page.wait_for_function(
        "(name) => document.activeElement.textContent.startsWith(name)", arg=shown
    )
    press(page, "?")
    page.locator("#keys").wait_for()
    press(page, "Escape", "Escape")
    page.locator("#query").wait_for(state="hidden")


def test_a_double_click_looks_closer_and_searches_nothing(page):
    tile(page, "002.jpg").dblclick()
    page.locator("#viewer").wait_for()
    page.wait_for_function("() => document.getElementById('viewer-name').textContent == '002.jpg'")
    assert "like=" not in page.url
    page.go_back()
    page.locator("#viewer").wait_for(state="hidden")
    assert chips(page) == []


def test_the_path_is_copied(opened, drawn):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    arrived(page)
    tile(page, "002.jpg").focus()
    press(page, "Enter")
    page.get_by_role("button", name="Copy path").click()
    page.get_by_text("Copied the path.").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert Path(copied) == drawn[0] / KINDS[drawn[2][2]] / "002.jpg"


def test_a_name_is_text_and_never_html(opened):
    page = opened("#shown=200")
    arrived(page, f"^{N_DRAWINGS + 3} photos")
    click(page, HOSTILE)
    assert chips(page) == [f"More like{HOSTILE}"]
    page.locator("#chips .look").click()
    page.locator("#viewer").wait_for()
    assert page.locator("#viewer-name").text_content() == HOSTILE
    assert page.locator("img[src=x]").count() == 0


def test_a_phone(opened):
    page = opened(width=400)
    arrived(page)

    def is_wide():
        return page.evaluate("document.documentElement.scrollWidth > innerWidth")

    assert not is_wide()
    assert not page.locator("#folder").is_visible()
    page.get_by_role("button", name="Filters").click()
    assert page.locator("#folder").is_visible()
    click(page, "002.jpg")
    assert not is_wide()
    page.get_by_role("button", name=f"Look closer at {names(page)[0]}").click()
    page.locator("#viewer").wait_for()
    box = page.locator("#viewer").bounding_box()
    assert box["x"] == 0
    assert box["width"] <= 400
    page.locator("#close").click()
    for view in ("duplicates", "unreadable"):
        page.locator(f"[data-view={view}]").click()
        page.locator("#panel").wait_for()
        assert not is_wide()


def test_the_name_leads_to_all_photos(page):
    click(page, "002.jpg")
    page.get_by_role("link", name="shapes").click()
    arrived(page, "^60 of")
    assert chips(page) == []


def test_dark_and_light(opened):
    def brightness(scheme):
        page = opened(scheme=scheme)
        arrived(page)
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3])) / 3

    assert brightness("dark") < 50 < 200 < brightness("light")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_axe_finds_no_violation(opened, width, scheme):
    page = opened(width=width, scheme=scheme)
    arrived(page)
    found = {"all": violations(page)}
    click(page, "002.jpg")
    if width == 400:
        page.locator("#toggle-filters").click()
    tile(page, names(page)[1]).click(modifiers=["Shift"])
    page.locator(".chip.unlike").wait_for()
    arrived(page, "nearest first")
    found["search"] = violations(page)
    tile(page, names(page)[0]).focus()
    press(page, "Enter", "r")
    page.locator("#region").wait_for()
    found["viewer"] = violations(page)
    press(page, "Escape", "Escape")
    page.locator("#viewer").wait_for(state="hidden")
    for view in ("duplicates", "unreadable"):
        page.locator(f"[data-view={view}]").click()
        page.locator(f"#panel {'.group' if view == 'duplicates' else 'table'}").first.wait_for()
        found[view] = violations(page)
    page.goto(f"{page.url.partition('#')[0]}#like=999999")
    page.locator("#notice").wait_for()
    found["notice"] = violations(page)
    wrong = {where: what for where, what in found.items() if what}
    assert not wrong, json.dumps(wrong, indent=1)
