"""The code of the pages runs and prints what they say."""

import re
import sys
from pathlib import Path

import pytest

from sklearn_cbir.backbones import BACKBONES
from sklearn_cbir.index import ENGINES
from sklearn_cbir.losses import LOSSES
from sklearn_cbir.metrics import METRICS
from sklearn_cbir.model_selection import PROTOCOLS
from sklearn_cbir.pooling import POOLINGS
from sklearn_cbir.reranking import RERANKERS

DOCS = Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS))

import code_blocks  # noqa: E402

LONG = {"tutorial.md", "guide/display.md", "guide/tuning.md"}  # they train for tens of seconds
GUIDE = list((DOCS / "guide").glob("*.md"))
PAGES = {path.relative_to(DOCS).as_posix(): path for path in code_blocks.pages()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in PAGES]
)
def test_code_of_the_page_runs(name, tmp_path):
    code_blocks.run(PAGES[name], tmp_path)


def test_code_that_prints_something_else_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match="line 2 prints"):
        code_blocks.run(page, tmp_path / "run")


def test_only_output_directly_behind_code_is_compared(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(2)\n```\n\nSome words.\n\n```text\n3\n```\n")
    assert [expected for _, _, expected in code_blocks.blocks(page)] == [None]


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_pictures_and_pages_that_are_named_exist(path):
    if path.is_relative_to(DOCS / "generated") or path.is_relative_to(DOCS / "_build"):
        return
    text = path.read_text(encoding="utf-8")
    pictures = re.findall(r"^```\{(?:image|figure)\} (\S+)$", text, flags=re.MULTILINE)
    links = re.findall(r"\]\(([\w./]+\.md)", text)
    for name in [*pictures, *links]:
        assert (path.parent / name).exists(), name


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for folder in (DOCS, DOCS / "guide"):
        text = (folder / "index.md").read_text(encoding="utf-8")
        for block in re.findall(r"```\{toctree\}\n(.*?)```", text, flags=re.DOTALL):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {folder / f"{name}.md" for name in names}
    pages = {*DOCS.glob("*.md"), *(DOCS / "guide").glob("*.md")} - {DOCS / "index.md"}
    assert pages - listed == set()


@pytest.mark.parametrize(
    ("page", "table"),
    [
        ("losses", LOSSES),
        ("metrics", METRICS),
        ("datasets", PROTOCOLS),
        ("backbones", BACKBONES),
        ("backbones", POOLINGS),
        ("search_engines", ENGINES),
        ("reranking", RERANKERS),
    ],
    ids=["losses", "metrics", "protocols", "backbones", "poolings", "engines", "rerankers"],
)
def test_guide_names_everything_in_the_table(page, table):
    text = (DOCS / "guide" / f"{page}.md").read_text(encoding="utf-8")
    assert [name for name in table if f'"{name}' not in text] == []


@pytest.mark.parametrize("name", sorted({path.name for path in GUIDE} - {"index.md"}))
def test_a_page_of_the_guide_leads_to_the_api_examples_and_scikit_learn(name):
    links = (DOCS / "guide" / name).read_text("utf-8").rpartition("\n## See also\n")[2]
    for kind in ("../generated/objects/", "../generated/examples/", "inv:sklearn:"):
        assert f"]({kind}" in links
    scripts = {path.stem for path in (DOCS.parent / "examples").glob("*.py")}
    assert set(re.findall(r"generated/examples/(\w+)\.rst", links)) <= scripts
