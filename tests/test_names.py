"""Names in any bytes are drawn and printed, and what cannot be read is drawn as what it is."""

import os
import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir._validation import printable
from sklearn_cbir.datasets import load_image_folder
from sklearn_cbir.display import RetrievalDisplay
from sklearn_cbir.images import ImageReadError

ROWS = np.arange(6.0)[:, None]


@pytest.fixture
def paths(tmp_path):
    found = [str(tmp_path / f"image{i}.png") for i in range(6)]
    for i, path in enumerate(found):
        Image.new("RGB", (12, 10), (40 * i,) * 3).save(path)
    return found


def texts(display):
    """All texts of the figure, of the cells too."""
    return [text.get_text() for text in display.figure_.findobj(plt.Text) if text.get_text()]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.jpg", "plain name.jpg"),
        ("new\nline\ttab", "new\\nline\\ttab"),
        ("\x1b[31mred", "\\x1b[31mred"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf\\udce9.jpg"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("9.41\u202fPM", "9.41\u202fPM"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("שלום фото 写真", "שלום фото 写真"),
        ("[bold]$x$", "[bold]$x$"),
        (7, "7"),
    ],
)
def test_names_are_printed_on_one_line(text, shown):
    assert printable(text) == shown


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names in any bytes")
@pytest.mark.parametrize("name", [b"caf\xe9.png", b"two\nlines.png", b"$a_b.png", b"[b]a\\.png"])
def test_names_in_any_bytes_are_drawn_and_described(tmp_path, name):
    folder = os.path.join(os.fsencode(tmp_path), b"f" + name)
    os.mkdir(folder)
    for i in range(3):
        with open(os.path.join(folder, b"%d" % i + name), "wb") as file:
            Image.new("RGB", (9, 9), (i, i, i)).save(file, "PNG")
    photos = load_image_folder(folder, shuffle=False)
    photos.DESCR.encode()
    assert "\n" not in photos.DESCR
    search = NeighborsRetriever(2).fit(ROWS[:3], photos.data, ids=photos.data)
    display = RetrievalDisplay.from_estimator(search, None, n_neighbors=2, captions=["id", "label"])
    display.figure_.canvas.draw()
    assert all("\n" not in text for text in texts(display))
    shown = printable(os.fsdecode(name)).removesuffix(".png")
    assert any(shown in text for text in texts(display))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("狗.png", "□.png"),
        ("שלום.png", "שלום.png"),
        ("Ünïcødé ☃.png", "Ünïcødé ☃.png"),
        ("👩\u200d👧\ufe0f.png", None),  # depends on the version of the font
    ],
)
def test_letters_that_the_font_lacks_are_boxes_without_a_warning(tmp_path, name, shown):
    paths = [str(tmp_path / f"{i}{name}") for i in range(3)]
    for path in paths:
        Image.new("RGB", (9, 9)).save(path)
    search = NeighborsRetriever(2).fit(ROWS[:3], ids=paths)
    display = RetrievalDisplay.from_estimator(search, None, n_neighbors=2, captions=["id"])
    display.figure_.canvas.draw()  # warnings are errors
    assert shown is None or f"0{shown}" in texts(display)


def test_a_gallery_photo_that_is_gone_is_drawn_as_such_and_named(paths):
    search = NeighborsRetriever(2).fit(ROWS, [0, 0, 1, 1, 2, 2], ids=paths)
    os.remove(paths[1])
    with open(paths[4], "wb") as file:
        file.write(b"no image")
    with pytest.warns(
        UserWarning, match=r"empty squares \('.*image1.png': the file does"
    ) as caught:
        display = RetrievalDisplay.from_estimator(search, None, [0, 0, 1, 1, 2, 2], n_queries=6)
    assert len(caught) == 1
    assert "image4.png': not an image" in str(caught[0].message)
    assert "X[" not in str(caught[0].message)
    assert any("does" in text and "exist" in text for text in texts(display))
    assert display.axes_.shape == (6, 6)


def test_ids_that_are_no_files_at_all_are_an_error(paths):
    search = NeighborsRetriever(2).fit(ROWS, ids=[f"item {i}" for i in range(6)])
    with pytest.raises(ImageReadError, match=r"None of the .* such as 'item .*pass gallery_images"):
        RetrievalDisplay.from_estimator(search, ROWS[:2], images=paths[:2])
