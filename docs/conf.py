"""Sphinx configuration: python -m sphinx -W --keep-going docs docs/_build."""

import inspect
import pkgutil
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import example_order  # noqa: E402
import inventories  # noqa: E402
import public_api  # noqa: E402
from docutils import nodes  # noqa: E402
from numpydoc.xref import DEFAULT_LINKS  # noqa: E402
from sphinx.addnodes import pending_xref  # noqa: E402

import sklearn_cbir  # noqa: E402

project = "sklearn_cbir"
author = copyright = "The sklearn_cbir developers"
version = release = sklearn_cbir.__version__

# No extension needs the network: the pages build offline.
extensions = [
    "myst_parser",
    "numpydoc",
    "parameter_groups",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "inventories",
    "llms",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "tasklist"]
myst_heading_anchors = 3
# A name in single backticks in a docstring leads to its page, or is literal text if it has none.
default_role = "name"
nitpicky = True

public_api.write_api_page(HERE / "generated")
autosummary_generate = True
autosummary_generate_overwrite = True
autosummary_context = {  # what the pages of objects say beside their docstrings
    "inherited": public_api.inherited_methods(),
    "modules_of_torch": public_api.modules_of_torch(),
    "guide_pages": public_api.guide_pages(HERE),
}
autodoc_typehints = "none"
numpydoc_show_class_members = False
suppress_warnings = ["ref.citation"]  # a paper may be cited in the summary alone
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
PAGE_NAMES = public_api.page_names()
LIBRARY_NAMES = {
    name: full
    for library in inventories.OBJECTS.values()
    for full in library
    for name in (full, full.rpartition(".")[2])
    if name == full or name[0].isupper()
}
numpydoc_xref_aliases = {
    **{name: name for name in DEFAULT_LINKS},  # of Python's own types everybody knows
    **{name: full for name, full in PAGE_NAMES.items() if "." not in name},
    **inventories.TYPES,
}
intersphinx_mapping = inventories.write(HERE / "generated" / "inventories")

# The examples are run by the build, with weights and photos that are there without a download.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "generated/examples",
    "backreferences_dir": "generated/backreferences",
    "filename_pattern": r"\.py$",
    "ignore_pattern": "|".join(map(re.escape, example_order.COMMANDS)),
    "within_subsection_order": "example_order.InOrder",
    "doc_module": ("sklearn_cbir",),
    "capture_repr": ("_repr_html_",),
    "write_computation_times": False,
    "remove_config_comments": True,  # which picture is the small one
}

# Buttons copy what is typed, and stand on nothing that is printed.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.highlight-text, .highlight-none) > div.highlight > pre"

html_theme = "pydata_sphinx_theme"
html_title = "sklearn_cbir"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_align": "left",
    "header_links_before_dropdown": 5,
    "footer_start": ["copyright"],
    "footer_end": [],
}

FITTED_NAME = re.compile(r"(?<![\w\\])([A-Za-z]\w*)_(?!\w)")


def tidy_docstring(app, what, name, obj, options, lines):
    """Keep `n_samples_fit_` from being read as a hyperlink, and citations out of summaries."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`+[^`]*`+)", line)
            bare = [
                re.sub(r"(?<![\w\\])([A-Za-z]\w*)_(?!\w)", r"\1\_", part) for part in parts[::2]
            ]
            parts[::2] = bare
            lines[i] = "".join(parts)
    summary = next((i for i, line in enumerate(lines) if line.strip()), None)
    if summary is not None:
        lines[summary] = re.sub(r"\s*\[R\w+-\d+\]_", "", lines[summary])


def page_name(text):
    """Return the full name of what has a page, or an anchor there: `PhotoCollection.sync`."""
    owner, _, member = text.rpartition(".")
    if text in PAGE_NAMES or owner not in PAGE_NAMES:
        return PAGE_NAMES.get(text)
    value = getattr(pkgutil.resolve_name(PAGE_NAMES[owner]), member, None)
    return f"{PAGE_NAMES[owner]}.{member}" if inspect.getdoc(value) else None


def name_role(role, rawtext, text, lineno, inliner, options=None, content=()):
    """Lead from `NeighborsRetriever`, or `PIL.Image.open`, to its page."""
    literal = nodes.literal(rawtext, text)
    target = page_name(text) or LIBRARY_NAMES.get(text)
    if target is None:
        return [literal], []
    link = pending_xref(rawtext, refdomain="py", reftype="obj", reftarget=target, refexplicit=True)
    link["refwarn"], link["refdoc"] = True, inliner.document.settings.env.docname
    link += literal
    return [link], []


def resolve_other_name(app, env, node, content):
    """Find what has its page under another of its names: "See Also" may use any."""
    name = page_name(node.get("reftarget", "")) if node.get("refdomain") == "py" else None
    if name is None:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)


def name_thumbnails(app, doctree, page):
    """Say of the picture of an example which one it is of."""
    for image in doctree.findall(nodes.image):
        example = re.search(r"/sphx_glr_(\w+)_thumb\.", image["uri"])
        if example and not image.get("alt"):
            title = app.env.titles[f"generated/examples/{example[1]}"].astext()
            image["alt"] = f"Picture of the example: {title}"


def setup(app):
    """Run after numpydoc, which escapes the names that it documents itself."""
    app.add_role("name", name_role)
    app.connect("autodoc-process-docstring", tidy_docstring, priority=900)
    app.connect("missing-reference", resolve_other_name)
    app.connect("doctree-resolved", name_thumbnails)
