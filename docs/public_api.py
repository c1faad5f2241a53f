"""The public API, read from the package: one list for the API page and for the tests of it."""

import importlib
import inspect
import pkgutil
from pathlib import Path

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
