"""`llms.txt`, and the Markdown of the pages beside them."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.append(str(DOCS))

import llms  # noqa: E402
import public_api  # noqa: E402
from example_order import ORDER  # noqa: E402

TITLES = {
    "index": "Start",
    "guide/words": "Search with words",
    "guide/duplicates": "Find duplicates",
    "generated/objects/sklearn_cbir.Text": "Text",
}


def test_every_page_has_its_sentence():
    written = [*DOCS.glob("*.md"), *(DOCS / "guide").glob("*.md")]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in written}
    pages |= {f"generated/examples/{Path(name).stem}" for name in ORDER} | {"generated/api"}
    assert set(llms.SENTENCES) == pages - {"guide/index"}
    assert all(sentence.endswith(".") for sentence in llms.SENTENCES.values())
    assert len(set(llms.SENTENCES.values())) == len(llms.SENTENCES)


def test_contents_are_lists_of_links():
    sections = {
        "Guide": [("Search", "a.html.md", "Finds.")],
        "API": [("`load`", "b.html", "Reads.")],
    }
    assert llms.contents(sections) == [
        *("", "## Guide", "", "- [Search](a.html.md): Finds."),
        *("", "## API", "", "- [`load`](b.html): Reads."),
    ]


@pytest.mark.parametrize(
    ("link", "built"),
    [
        ("[](duplicates.md)", "[Find duplicates](duplicates.html.md)"),
        ("[groups](duplicates.md#what-a-group-is)", "[groups](duplicates.html.md#what-a-group-is)"),
        ("[](../index.md)", "[Start](../index.html.md)"),
        ("[here](#part)", "[here](#part)"),
        ("[](#the-part)", "[the part](#the-part)"),
        (
            "```{figure} a.png\n[](../index.md)\n```",
            "```{figure} a.png\n[Start](../index.html.md)\n```",
        ),
        (
            "[](../generated/objects/sklearn_cbir.Text.rst)",
            "[Text](../generated/objects/sklearn_cbir.Text.html)",
        ),
        (
            "[clustering](inv:sklearn:std:doc#modules/clustering)",
            "[clustering](https://scikit-learn.org/stable/modules/clustering.html)",
        ),
        (
            "[texts](inv:sklearn:std:label#text_feature_extraction)",
            "[texts](https://scikit-learn.org/stable/modules/feature_extraction.html"
            "#text-feature-extraction)",
        ),
        ("[paper](https://doi.org/10.3390/x.md)", "[paper](https://doi.org/10.3390/x.md)"),
        ("```python\nrows[](words.md)\n```", "```python\nrows[](words.md)\n```"),
    ],
)
def test_links_lead_to_pages_as_they_are_built(link, built):
    text = "Before\n{}\nafter, [](words.md).\n"
    found = llms.plain_markdown(text.format(link), "guide/words", TITLES)
    assert found == text.format(built).replace(
        "[](words.md).", "[Search with words](words.html.md)."
    )


def test_all_links_of_the_written_pages_are_known():
    objects = [f"generated/objects/{name}" for name in public_api.documented()]
    pages = [*llms.SENTENCES, "guide/index", "generated/examples/index", *objects]
    listed = {page: f"title of {page}" for page in pages}
    for page in filter(llms.has_markdown, listed):
        text = llms.plain_markdown((DOCS / f"{page}.md").read_text("utf-8"), page, listed)
        prose = "".join(part for part in llms.FENCE.split(text) if not llms.is_code(part))
        prose = re.sub(r"`[^`\n]+`", "code", prose)
        assert "](inv:" not in prose
        assert "[](" not in prose
        places = re.findall(r"\]\(([\w./-]+)(?=[)#])", prose)
        assert [place for place in places if not place.endswith((".html", ".html.md"))] == []
