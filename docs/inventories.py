"""What the pages name of other libraries, and where it is explained.

The build makes inventories for intersphinx of these tables, so that it needs no network. A name
that its library does not have is an error, and one that no page refers to is a warning.
"""

import inspect
import pkgutil
import zlib
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

ADDRESSES = {
    "sklearn": "https://scikit-learn.org/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "joblib": "https://joblib.readthedocs.io/en/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
    "pillow": "https://pillow.readthedocs.io/en/stable/",
}
# Objects of Python by library: the page of each, in which it is an anchor by its name.
OBJECTS = {
    "sklearn": dict.fromkeys(
        (
            "sklearn.base.BaseEstimator.get_metadata_routing",
            "sklearn.base.BaseEstimator.get_params",
            "sklearn.base.BaseEstimator.set_params",
            "sklearn.base.ClassNamePrefixFeaturesOutMixin.get_feature_names_out",
            "sklearn.base.TransformerMixin.fit_transform",
            "sklearn.base.TransformerMixin.set_output",
            "sklearn.model_selection.GridSearchCV",
            "sklearn.model_selection.GroupKFold",
            "sklearn.model_selection.StratifiedKFold",
            "sklearn.model_selection.train_test_split",
            "sklearn.pipeline.Pipeline",
            "sklearn.pipeline.make_pipeline",
            "sklearn.preprocessing.MultiLabelBinarizer",
            "sklearn.preprocessing.Normalizer",
            "sklearn.preprocessing.StandardScaler",
            "sklearn.utils.Bunch",
        ),
        "modules/generated/{}.html",
    ),
    "numpy": {
        "numpy.ndarray": "reference/generated/numpy.ndarray.html",
        "numpy.random.Generator": "reference/random/generator.html",
        "numpy.random.default_rng": "reference/random/generator.html",
        "numpy.random.RandomState": "reference/random/legacy.html",
    },
    "scipy": {"scipy.sparse.csr_matrix": "reference/generated/scipy.sparse.csr_matrix.html"},
    "torch": {
        "torch.Generator": "generated/torch.Generator.html",
        "torch.Tensor": "tensors.html",
        "torch.nn.Module": "generated/torch.nn.Module.html",
        "torch.nn.parameter.Parameter": "generated/torch.nn.parameter.Parameter.html",
        "torch.optim.Optimizer": "optim.html",
    },
    "joblib": {"joblib.parallel_config": "generated/joblib.parallel_config.html"},
    "matplotlib": {
        "matplotlib.axes.Axes": "api/_as_gen/matplotlib.axes.Axes.html",
        "matplotlib.collections.PathCollection": "api/collections_api.html",
        "matplotlib.figure.Figure": "api/_as_gen/matplotlib.figure.Figure.html",
        "matplotlib.lines.Line2D": "api/_as_gen/matplotlib.lines.Line2D.html",
        "matplotlib.pyplot.show": "api/_as_gen/matplotlib.pyplot.show.html",
        "matplotlib.pyplot.subplots": "api/_as_gen/matplotlib.pyplot.subplots.html",
    },
    "pillow": {
        "PIL.Image.Image": "reference/Image.html",
        "PIL.Image.open": "reference/Image.html",
        "PIL.ImageOps.exif_transpose": "reference/ImageOps.html",
    },
}
# Terms of the glossaries.
TERMS = {
    "sklearn": ("estimator", "transformer"),
    "numpy": ("array_like",),
}
# Pages, without the ending.
PAGES = {
    "sklearn": {
        "computing/computational_performance": "Computational performance",
        "computing/parallelism": "Parallelism, resource management, and configuration",
        "computing/scaling_strategies": "Strategies to scale computationally: bigger data",
        "datasets": "Dataset loading utilities",
        "developers/develop": "Developing scikit-learn estimators",
        "metadata_routing": "Metadata Routing",
        "model_persistence": "Model persistence",
        "modules/clustering": "Clustering",
        "modules/compose": "Pipelines and composite estimators",
        "modules/cross_validation": "Cross-validation",
        "modules/decomposition": "Decomposing signals in components",
        "modules/feature_extraction": "Feature extraction",
        "modules/grid_search": "Tuning the hyper-parameters of an estimator",
        "modules/manifold": "Manifold learning",
        "modules/model_evaluation": "Metrics and scoring",
        "modules/multiclass": "Multiclass and multioutput algorithms",
        "modules/neighbors": "Nearest Neighbors",
        "modules/outlier_detection": "Novelty and outlier detection",
        "modules/preprocessing": "Preprocessing data",
        "modules/random_projection": "Random projection",
        "visualizations": "Visualizations",
    },
}
# Sections of pages, by their labels.
LABELS = {
    "sklearn": {
        "text_feature_extraction": (
            "modules/feature_extraction.html#text-feature-extraction",
            "Text feature extraction",
        ),
    },
}
# What the types of parameters say, and what that is.
TYPES = {
    "array-like": ":term:`array-like <numpy:array_like>`",
    "ndarray": "numpy.ndarray",
    "RandomState": "numpy.random.RandomState",
    "numpy.random.Generator": ":class:`numpy.random.Generator`",
    "CSR": "scipy.sparse.csr_matrix",
    "tensor": "torch.Tensor",
    "Parameter": "torch.nn.parameter.Parameter",
    "optimizer": "torch.optim.Optimizer",
    "Module": "torch.nn.Module",
    "torch.nn.Module": ":class:`torch.nn.Module`",
    "torch.Generator": ":class:`torch.Generator`",
    "Axes": "matplotlib.axes.Axes",
    "Figure": "matplotlib.figure.Figure",
    "Line2D": "matplotlib.lines.Line2D",
    "PathCollection": "matplotlib.collections.PathCollection",
    "PIL.Image.Image": ":class:`PIL.Image.Image`",
    "Bunch": "sklearn.utils.Bunch",
    "sklearn.utils.Bunch": ":class:`sklearn.utils.Bunch`",
    "Pipeline": "sklearn.pipeline.Pipeline",
    "estimator": ":term:`sklearn:estimator`",
    "transformer": ":term:`sklearn:transformer`",
}


def entries(library):
    """Return ``{(kind, name): (place below the address, title)}`` of a library."""
    found = {}
    for name, page in OBJECTS[library].items():
        found[_kind(name), name] = (f"{page.format(_page_of(name))}#{name}", "-")
    for name in TERMS.get(library, ()):
        found["std:term", name] = (f"glossary.html#term-{name}", "-")
    for name, (place, title) in LABELS.get(library, {}).items():
        found["std:label", name] = (place, title)
    for name, title in PAGES.get(library, {}).items():
        found["std:doc", name] = (f"{name}.html", title)
    return found


def _kind(name):
    if inspect.isclass(pkgutil.resolve_name(name)):
        return "py:class"
    return "py:method" if _page_of(name) != name else "py:function"


def _page_of(name):
    """Return the class of a method, which has no page of its own, or else the name."""
    parent = name.rpartition(".")[0]
    return parent if inspect.isclass(pkgutil.resolve_name(parent)) else name


def write(folder):
    """Write the inventories into `folder`, and return what `intersphinx_mapping` has to be."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    mapping = {}
    for library, address in ADDRESSES.items():
        head = f"# Sphinx inventory version 2\n# Project: {library}\n# Version: \n"
        head += "# The remainder of this file is compressed using zlib.\n"
        lines = [
            f"{name} {kind} 1 {place} {title}\n"
            for (kind, name), (place, title) in entries(library).items()
        ]
        path = Path(folder, f"{library}.inv")
        path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
        mapping[library] = (address, str(path))
    return mapping


def setup(app):
    """Warn of entries that no page refers to, after all pages were written."""
    seen, pages = set(), set()

    def look(app, doctree, page):
        pages.add(page)
        seen.update(link.get("refuri", "") for link in doctree.findall(nodes.reference))

    def say(app, error):
        if error is not None or pages != app.env.found_docs:
            return
        # The code of examples gets its links when its page is written.
        examples = Path(app.outdir, "generated", "examples").glob("*.html")
        code = "".join(page.read_text(encoding="utf-8") for page in examples)
        for library, address in ADDRESSES.items():
            for (_, name), (place, _) in entries(library).items():
                if address + place not in seen and f'"{address}{place}"' not in code:
                    logger = logging.getLogger(__name__)
                    logger.warning("inventories.py: no page refers to %s of %s", name, library)

    app.connect("doctree-resolved", look)
    app.connect("build-finished", say, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
