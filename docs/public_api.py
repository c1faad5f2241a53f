"""The public API, read from the package: one list for the API page and for the tests of it."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from torch.nn import Module

import sklearn_cbir

# Every public module stands here once; its names are read from the module itself.
SECTIONS = {
    "Headline names": ["sklearn_cbir"],
    "Images": ["images", "datasets", "descriptors"],
    "Networks and losses": ["backbones", "pooling", "losses", "sampling"],
    "Estimators": ["features", "embedding", "hashing", "whitening", "extraction"],
    "Search": ["neighbors", "duplicates", "reranking", "index", "codes"],
    "Photos on the disk": ["collection", "serve", "cli"],
    "Scoring": ["metrics", "model_selection"],
    "Saving and handing over": ["persistence", "export", "onnx_extractor"],
    "Seeing, testing": ["display", "testing"],
}
HEAD = """# API

Every public name, by module. The pages behind the names are generated from the docstrings.
"""


def public_modules():
    """Return the public modules, by their name inside the package."""
    found = {"sklearn_cbir": sklearn_cbir}
    for info in pkgutil.iter_modules(sklearn_cbir.__path__):
        if not info.name.startswith("_"):
            found[info.name] = importlib.import_module(f"sklearn_cbir.{info.name}")
    return found


def public_objects(module):
    """Return ``{name: object}``: ``__all__``, or else what the module itself defines."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in sorted(module.__all__)}
    return {
        name: value
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and _is_defined_in(module, name, value)
    }


def _is_defined_in(module, name, value):
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.".startswith(f"{module.__name__}.")
    return name.isupper()


def documented():
    """Return ``{name: object}`` of everything with a page: under the first name that it has."""
    modules, found, seen = public_modules(), {}, set()
    for name in [name for names in SECTIONS.values() for name in names]:
        for short, value in public_objects(modules[name]).items():
            if callable(value) and value not in seen:
                seen.add(value)
                found[f"{modules[name].__name__}.{short}"] = value
    return found


def page_names():
    """Return the names that a docstring may call an object by, and the name of its page.

    Classes are known by their last name, too.
    """
    pages = documented()
    by_object = {value: name for name, value in pages.items()}
    found = {name.rpartition(".")[2]: name for name in pages if inspect.isclass(pages[name])}
    for module in public_modules().values():
        for short, value in public_objects(module).items():
            if callable(value):
                found[f"{module.__name__}.{short}"] = by_object[value]
    return found


def inherited_methods():
    """Return ``{class: [[method, summary, where scikit-learn explains it]]}``."""
    found = {}
    for name, value in documented().items():
        methods = _methods_of_sklearn(value) if inspect.isclass(value) else []
        if methods:
            found[name] = [[method, *_explained(value, method)] for method in methods]
    return found


def summary(value):
    """Return the first paragraph of a docstring as one line, without citations."""
    words = " ".join(inspect.getdoc(value).partition("\n\n")[0].split())
    return re.sub(r" ?\[\d+\]_", "", words)


def _methods_of_sklearn(cls):
    """Return the public methods that are scikit-learn's code, or made by it (`set_fit_request`)."""
    owners = {
        name: next(one for one in cls.__mro__ if name in vars(one))
        for name in dir(cls)
        if not name.startswith("_") and callable(getattr(cls, name))
    }
    return [
        name
        for name, owner in owners.items()
        if owner.__module__.startswith("sklearn.") or re.fullmatch(r"set_\w+_request", name)
    ]


def _explained(cls, method):
    """Return the first sentence of a docstring, and the name of scikit-learn's page or None."""
    words = summary(getattr(cls, method))
    for owner in (BaseEstimator, TransformerMixin, ClassNamePrefixFeaturesOutMixin):
        if hasattr(owner, method) and issubclass(cls, owner):
            return words, f"sklearn.base.{owner.__name__}.{method}"
    return words, None


def modules_of_torch():
    """Return the names of the public classes that are modules of torch."""
    pages = documented().items()
    return [name for name, value in pages if inspect.isclass(value) and issubclass(value, Module)]


def guide_pages(docs):
    """Return ``{name: pages of the guide that link to it, or name it, or are on its module}``."""
    paths = [Path(docs, "tutorial.md"), *sorted(Path(docs, "guide").glob("*.md"))]
    texts = {
        f"/{path.relative_to(docs).with_suffix('').as_posix()}": path.read_text(encoding="utf-8")
        for path in paths
    }
    found = {}
    for name, value in documented().items():
        named = re.compile(_names_it(name, value))
        module = re.compile(rf"^Modules?: .*`{name.rpartition('.')[0]}`", flags=re.MULTILINE)
        for pattern in (rf"objects/{re.escape(name)}\.rst", named, module):
            if pages := [page for page, text in texts.items() if re.search(pattern, text)]:
                found[name] = pages
                break
    return found


def _names_it(name, value):
    """Return a pattern for a name in a text; a function's may be a word of English."""
    module, _, short = name.rpartition(".")
    if inspect.isclass(value):
        return rf"\b{short}\b"
    module = re.escape(module.removeprefix("sklearn_cbir."))
    return rf"from sklearn_cbir[\w.]* import [^\n]*\b{short}\b|\b{module}\.{short}\b|`{short}(\(|`)"


def api_page():
    """Return the Markdown of the API page: a table per module, each object listed once."""
    modules = public_modules()
    blocks, seen = [HEAD], set()
    for title, names in SECTIONS.items():
        tables = [_module_table(modules[name], seen) for name in names if name in modules]
        if any(tables):
            blocks += [f"## {title}\n", *filter(None, tables)]
    return "\n".join(blocks)


def _module_table(module, seen):
    objects = public_objects(module)
    listed = [name for name, value in objects.items() if callable(value) and value not in seen]
    seen.update(objects[name] for name in listed)
    tables = {name: value for name, value in objects.items() if not callable(value)}
    if not listed and not tables:
        return ""
    lines = [f"### `{module.__name__}`", "", inspect.getdoc(module).splitlines()[0], ""]
    if listed:
        lines += ["```{eval-rst}", f".. currentmodule:: {module.__name__}", ""]
        lines += [".. autosummary::", "   :toctree: objects", "   :nosignatures:", ""]
        lines += [f"   {name}" for name in listed] + ["```", ""]
    for name, value in tables.items():
        keys = ", ".join(f"`{key!r}`" for key in value) if isinstance(value, dict) else ""
        lines += [f"`{name}`" + (f": {keys}." if keys else ""), ""]
    return "\n".join(lines)


def write_api_page(folder):
    """Write ``api.md`` into `folder`, unless it stands there already."""
    path = Path(folder) / "api.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = api_page()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    print(api_page())
