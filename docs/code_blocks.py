"""Run the code of a page: python docs/code_blocks.py tutorial.md writes its pictures to _static.

Fences that open with ```python run in order, in one namespace per page. A ```text fence directly
behind one is what it prints ("..." stands for anything). Other fences are only shown.
"""

import contextlib
import doctest
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
DATA = DOCS.parent / "tests" / "data"
# What pages find beside them: a folder of photos, and a model of images and words.
FOLDERS = {"catalogue": DATA / "clothing", "shapes_clip": DATA / "shapes_clip"}
sys.path.insert(0, str(DOCS.parent))  # pages run elsewhere, with the package of this checkout
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def pages():
    """Return the pages that hold code to run."""
    found = [path for path in DOCS.rglob("*.md") if "_build" not in path.parts]
    return sorted(path for path in found if any(code for _, code, _ in blocks(path)))


def blocks(path):
    """Yield the line, the code and the expected output (or None) of every python fence."""
    text = path.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    for fence, after in zip(fences, [*fences[1:], None]):
        if fence.group(1) != "python":
            continue
        follows = after is not None and after.group(1) == "text"
        follows = follows and not text[fence.end() : after.start()].strip()
        line = text[: fence.start()].count("\n") + 2
        yield line, fence.group(2), after.group(2) if follows else None


def run(path, folder):
    """Run a page inside `folder`, which gets those that pages read."""
    for name, source in FOLDERS.items():
        shutil.copytree(source, Path(folder, name), dirs_exist_ok=True)
    here = os.getcwd()
    os.chdir(folder)
    try:
        namespace = {"__name__": "__main__"}
        for line, code, expected in blocks(path):
            printed = io.StringIO()
            # Empty lines before the code make tracebacks name the line of the page.
            program = compile("\n" * (line - 1) + code, str(path), "exec")
            with contextlib.redirect_stdout(printed):
                exec(program, namespace)
            _check(path, line, expected, printed.getvalue())
    finally:
        os.chdir(here)


def _check(path, line, expected, printed):
    """Raise unless a block prints what its page says."""
    if expected is None:
        return
    if not doctest.OutputChecker().check_output(expected, printed, FLAGS):
        raise AssertionError(
            f"{path.name}, line {line} prints\n{printed}\nwhere the page says\n{expected}"
        )


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "Agg"
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            run(DOCS / name, folder)
            for picture in Path(folder).glob("*.png"):
                whole = Image.open(picture).convert("RGB")
                # A third of the bytes; other methods merge the colors of small things.
                small = whole.quantize(256, Image.Quantize.MAXCOVERAGE)
                small.save(DOCS / "_static" / picture.name, optimize=True)
                print(f"docs/_static/{picture.name}")
