"""The script that looks at every built page finds what is wrong with one, and nothing else."""

import sys
from pathlib import Path

import pytest
from PIL import Image
from test_page import CHROMIUM, needed, skip_or_fail

sys.path.append(str(Path(__file__).parent.parent / "docs"))

PAGE = """<!doctype html><html lang="en" data-theme="light"><head><title>Page</title><style>
body { background: white; color: black; }
[data-theme="dark"] .only-light { background: black; color: #333; }
.box { overflow-x: auto; }
.wide { width: 900px; }
</style></head><body><main id="top">BODY</main></body></html>"""
RIGHT = """
<p>Text, <a href="other.html#part">a link</a>, <a href="#top">up</a>,
<a href="https://no.where/x">out</a></p>
<img src="picture.png" alt="A picture">
<div class="box"><div class="wide">what is wide is scrolled in its box</div></div>
"""


@pytest.fixture
def look():
    """The script, which needs playwright."""
    needed("playwright", "test")
    import look_at_pages

    return look_at_pages


@pytest.fixture
def site(tmp_path):
    """A folder with a page that is right, and one to link to; it returns how to add a page."""
    Image.new("RGB", (20, 20), "red").save(tmp_path / "picture.png")

    def write(name, body):
        (tmp_path / name).write_text(PAGE.replace("BODY", body), encoding="utf-8")
        return tmp_path

    write("other.html", '<p id="part">Part</p>')
    write("right.html", RIGHT)
    return write


@pytest.mark.parametrize(
    ("body", "what", "where"),
    [
        ('<a href="gone.html">x</a>', "dead link", "gone.html"),
        ('<a href="other.html#gone">x</a>', "dead link", "other.html#gone"),
        ('<a href="#gone">x</a>', "dead link", "#gone"),
        ('<a href="../outside.html">x</a>', "dead link", "../outside.html"),
        ('<a href="picture.png">x</a><a href="gone.pdf">x</a>', "dead link", "gone.pdf"),
        ('<img src="picture.png">', "no alternative text", "picture.png"),
        ('<img src="picture.png" alt=" ">', "no alternative text", "picture.png"),
    ],
)
def test_what_the_files_show(body, what, where, site, look):
    folder = site("wrong.html", RIGHT + body)
    (folder.parent / "outside.html").write_text("not of the site")
    assert look.pages_of(folder) == ["other.html", "right.html", "wrong.html"]
    found = list(look.faults_of_files(folder, look.pages_of(folder)))
    assert found == [("wrong.html", what, where)]


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_only_a_browser_shows(site, look, capsys):
    if CHROMIUM is None:
        skip_or_fail("There is no Chromium: apt-get install chromium.")
    site("wide.html", RIGHT + '<div id="here" class="wide">all too wide</div>')
    site(
        "pale.html", RIGHT + '<p style="color: #999">hard to read</p><p style="color: #999">too</p>'
    )
    site("whole.html", '<div class="box"><h1>Title</h1><p class="wide">wide page</p></div>')
    folder = site("night.html", RIGHT + '<p class="only-light">hard to read at night</p>')
    (folder / "damaged.png").write_bytes((folder / "picture.png").read_bytes()[:20])
    site("damaged.html", RIGHT + '<img src="damaged.png" alt="A picture">')
    assert look.main([str(folder)]) == 1
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(page, what) for page, what, _ in lines[:-1]] == [
        ("damaged.html", "dead picture"),
        ("night.html", "contrast, dark: #333333 on #000000, 1.66"),
        ("pale.html", "contrast, light: #999999 on #ffffff, 2.84"),
        ("pale.html", "contrast, dark: #999999 on #ffffff, 2.84"),
        ("whole.html", "wider than 400 px"),
        ("wide.html", "wider than 400 px"),
    ]
    assert "damaged.png" in lines[0][2]
    assert lines[4][2] == "#top p.wide: wide page (1 in all)"
    assert lines[5][2] == "#here div.wide: all too wide (1 in all)"
    assert lines[-1] == ["7 pages, 6 faults"]
    assert look.main([str(folder), "right.html"]) == 0


def test_what_is_missing_is_said(look, site, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="empty holds no pages. Build them first"):
        look.main([str(tmp_path / "empty")])
    monkeypatch.setattr(look.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="There is no Chromium"):
        look.main([str(site("other.html", "<p>Part</p>"))])
