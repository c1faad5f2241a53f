"""Write what language models read first: `llms.txt`, and the Markdown of the pages beside them.

The form is that of https://llmstxt.org: a title, a paragraph, and links with one sentence each.
Beside a page `guide/words.html` lies its Markdown, `guide/words.html.md`, whose links lead to pages
as they are built.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath, splitext

import inventories
import public_api
from docutils import nodes

# What each page is for, by its name; `tests/test_llms.py` says which are missing.
SENTENCES = {
    "index": "What the package does, and three ways to start: photos, labels, research.",
    "install": "What to install for which task, with sizes and platforms.",
    "tutorial": "Train a search, score it, look at it, shrink it to bits, tune it and save it.",
    "protocols": "What the papers state about each method, and what had to be inferred.",
    "results": "Tables of scores on real data, each with its command, machine and commit.",
    "contributing": "How to change the package: layers, docstrings, types, tests, faults.",
    "policy": "What stays as it is between versions, for how long, and which files load.",
    "limits": "What may be expected to be otherwise and is left as it is, with reasons.",
    "glossary": "Terms of image retrieval, as they are used here.",
    "generated/api": "Every public name, by module.",
    "guide/choosing": "Six questions that lead from a task to a pipeline.",
    "guide/recipes": "Short answers: new photos, tables, deployment, clusters, wrong labels.",
    "guide/images": "What counts as an image, which formats are read, how photos are resized.",
    "guide/datasets": "Loaders of the data sets of the papers, and splits that do not leak.",
    "guide/backbones": "Networks with their weights, and how the estimators train them.",
    "guide/losses": "All losses by name, what they ask of labels, and how to write one.",
    "guide/hashing": "Codes of some bytes instead of vectors: deep and classical hashers.",
    "guide/embedding": "Vectors for classes that nobody trained on, and one threshold for all.",
    "guide/whitening": "Give less weight to directions of features that say little.",
    "guide/retrieval": "A gallery that is searched, grows and shrinks.",
    "guide/asking": "Queries by ids, filters, likes and dislikes; clusters and outliers.",
    "guide/words": "Find photos with words, by networks such as CLIP.",
    "guide/duplicates": "Photos that are stored twice, exactly or nearly, and splits that leak.",
    "guide/reranking": "Reorder the first results by what they have in common.",
    "guide/metrics": "What a score means, all metrics, ties, weights and traps.",
    "guide/tuning": "Grid searches over networks, losses, codes and distances.",
    "guide/saving": "One file for a whole search, and who may load it.",
    "guide/handing_over": "A fitted network as one ONNX file, run without torch.",
    "guide/display": "Pictures of queries with results, curves, and maps of a gallery.",
    "guide/extraction": "Rows of very many photos, in files, with any number of processes.",
    "guide/collection": "Folders of photos as a search that takes in what is new, moved or gone.",
    "guide/command_line": "The commands of `cbir`, from a folder to results, without Python.",
    "guide/serve": "The page of `cbir serve`, in the browser.",
    "guide/serve_api": "The JSON that `cbir serve` answers to other programs.",
    "guide/search_engines": "Exact and approximate engines, and which one is taken.",
    "guide/external_gallery": "Rows in Milvus, a database, shared by several machines.",
    "guide/benchmarks": "Measured times and memory, beside those of other libraries.",
    "guide/scale": "What each engine needs for 100 million rows, computed and simulated.",
    "generated/examples/search_a_folder": "Pretrained features, and nothing to train.",
    "generated/examples/train_on_labels": "Sub-folders as labels, scores before and after.",
    "generated/examples/tune_a_search": "Loss, size and distance, chosen by cross-validation.",
    "generated/examples/look_at_mistakes": "The hardest class and the worst queries, as pictures.",
    "generated/examples/shrink_to_codes": "Six bytes per photo, scored beside vectors.",
    "generated/examples/recognize_new_products": "Train on some products, search others.",
    "generated/examples/search_several_labels": "Graded relevance, NDCG and codes.",
    "generated/examples/find_the_same_object": "Instance search with three re-rankers.",
    "generated/examples/write_a_loss": "A loss of your own in a few lines of torch.",
    "generated/examples/use_a_loss_of_another_library": "Losses of pytorch-metric-learning.",
    "generated/examples/find_duplicates": "Groups of equal photos, and what to keep.",
    "generated/examples/search_with_words": "Words, and sums of words and photos, as queries.",
    "generated/examples/keep_a_folder_up_to_date": "A collection that follows its folder.",
    "generated/examples/search_20000_rows": "Exact answers from memory and from Milvus.",
}
LINK = re.compile(r"\[([^\]]*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"(^```[^\n]*\n.*?^```$)", flags=re.MULTILINE | re.DOTALL)


def contents(sections):
    """Return the lines of links: `sections` are ``{title: [(name, address, sentence)]}``."""
    lines = []
    for title, links in sections.items():
        lines += ["", f"## {title}", ""]
        for name, address, sentence in links:
            lines.append(f"- [{name}]({address}): {sentence}")
    return lines


def plain_markdown(text, page, titles):
    """Return the Markdown of a page with links as they are in the built pages.

    `titles` has the title of every page by its name, such as ``guide/words``.
    """

    def changed(link):
        name, target = link.groups()
        place, _, anchor = target.partition("#")
        anchor = anchor and f"#{anchor}"
        if place == "inv:sklearn:std:doc":
            return f"[{name}]({inventories.ADDRESSES['sklearn']}{anchor[1:]}.html)"
        if place == "inv:sklearn:std:label":
            label = inventories.LABELS["sklearn"][anchor[1:]][0]
            return f"[{name}]({inventories.ADDRESSES['sklearn']}{label})"
        other, ending = splitext(normpath(f"{PurePosixPath(page).parent}/{place}"))
        if target.startswith("#"):
            return f"[{name or anchor[1:].replace('-', ' ')}]({target})"
        if other not in titles or ending not in (".md", ".rst"):
            return link[0]
        built = f"{other}.html" + (".md" if has_markdown(other) else "")
        return f"[{name or titles[other]}]({relpath(built, PurePosixPath(page).parent)}{anchor})"

    parts = FENCE.split(text)
    return "".join(part if is_code(part) else LINK.sub(changed, part) for part in parts)


def is_code(part):
    """Return whether a part of a page is code, and neither text nor the caption of a picture."""
    return part.startswith("```") and not part.startswith("```{")


def has_markdown(page):
    """Return whether a page is written, and not made by the build."""
    return not page.startswith("generated/")


def sections_of(env):
    """Return ``{title: [(name, address, sentence)]}`` of all pages, in the order of the menus."""

    def link(page):
        address = f"{page}.html" + (".md" if has_markdown(page) else "")
        return env.titles[page].astext(), address, SENTENCES[page]

    guide, examples = "guide/index", "generated/examples/index"
    lists = {page: env.toctree_includes.get(page, []) for page in ("index", guide, examples)}
    single = [page for page in lists["index"] if page not in lists]
    return {
        "Guide": [link(page) for page in ("index", *lists[guide])],
        "Examples": [link(page) for page in lists[examples]],
        "More": [link(page) for page in single],
        "API": [
            (f"`{name}`", f"generated/objects/{name}.html", public_api.summary(value))
            for name, value in public_api.documented().items()
        ],
    }


def write_all(app, error):
    """Write `llms.txt` and the Markdown of all pages."""
    if error is not None or app.builder.name != "html":
        return
    env, out = app.env, Path(app.outdir)
    paragraph = next(env.get_doctree("index").findall(nodes.paragraph)).astext()
    lines = [f"# {app.config.project}", "", "> " + " ".join(paragraph.split())]
    lines += contents(sections_of(env))
    (out / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    titles = {page: title.astext() for page, title in env.titles.items()}
    for page in filter(has_markdown, titles):
        text = Path(env.doc2path(page)).read_text(encoding="utf-8")
        text = plain_markdown(text, page, titles)
        (out / f"{page}.html.md").write_text(text, encoding="utf-8")


def setup(app):
    """Write after the pages."""
    app.connect("build-finished", write_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
