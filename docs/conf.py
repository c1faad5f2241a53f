"""Sphinx configuration: python -m sphinx -W --keep-going docs docs/_build."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import example_order  # noqa: E402
import public_api  # noqa: E402

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
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "tasklist"]
myst_heading_anchors = 3
# An unknown single-backtick name in a docstring is literal text, not an error.
default_role = "literal"

public_api.write_api_page(HERE / "generated")
autosummary_generate = True
autosummary_generate_overwrite = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
suppress_warnings = ["ref.citation"]  # a paper may be cited in the summary alone
numpydoc_xref_param_type = False

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
}

html_theme = "pydata_sphinx_theme"
html_title = "sklearn_cbir"
html_static_path = ["_static"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
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


def setup(app):
    """Run after numpydoc, which escapes the names that it documents itself."""
    app.connect("autodoc-process-docstring", tidy_docstring, priority=900)
