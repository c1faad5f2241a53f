"""Make the picture of what a notebook shows: `python docs/notebook_page.py`.

It runs guide/display.md as far as its section on notebooks, and looks at the pages of both lines
there with Chromium, which has to be installed (`apt-get install chromium`).
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from code_blocks import DOCS, FOLDERS, blocks
from PIL import Image, ImageChops

PAGE = DOCS / "guide" / "display.md"
STYLE = "<meta charset='utf-8'><style>body {font: 14px sans-serif; margin: 12px}</style>"
SIZE = "890,1400"  # larger than what is shown


def main() -> None:
    """Write docs/_static/notebook_page.webp."""
    os.environ["MPLBACKEND"] = "Agg"
    with tempfile.TemporaryDirectory() as folder:
        for name, source in FOLDERS.items():
            shutil.copytree(source, Path(folder, name))
        os.chdir(folder)
        pages = [shown._repr_html_() for shown in results()]
        Path("page.html").write_text(STYLE + "<hr>".join(pages), encoding="utf-8")
        picture = photographed(Path(folder, "page.html"))
        picture.save(DOCS / "_static" / "notebook_page.webp", quality=80)
        os.chdir(DOCS)


def results() -> list:
    """Return what the lines of the block on notebooks give."""
    namespace: dict = {"__name__": "__main__"}
    for _, code, _ in blocks(PAGE):
        if "draw=False" in code:
            return [eval(line, namespace) for line in code.splitlines()]
        exec(code, namespace)
    raise AssertionError(f"{PAGE.name} draws everything.")


def photographed(page: Path) -> Image.Image:
    """Return the picture of a page, without what is empty around it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program is not None, "Install Chromium: apt-get install chromium."
    target = page.with_suffix(".png")
    options = ["--headless", "--no-sandbox", f"--window-size={SIZE}", f"--screenshot={target}"]
    subprocess.run([program, *options, page.as_uri()], check=True, capture_output=True)
    whole = Image.open(target).convert("RGB")
    box = ImageChops.difference(whole, Image.new("RGB", whole.size, "white")).getbbox()
    return whole.crop((0, 0, whole.width, box[3] + 12))


if __name__ == "__main__":
    main()
