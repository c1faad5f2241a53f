"""Names of a package that are imported on first use: its stub is the list of them."""

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LEFT_OUT = {"torch", "torchvision", "skorch"}  # where a network is run that was exported


def lazy_exports(
    package: str,
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` that import names and modules on first use.

    The names are those that ``__init__.pyi`` beside the package's ``__init__.py`` imports. Type
    checkers read the same file, so that they know all names while none is loaded.
    """
    origin = _names_in(pkgutil.get_data(package, "__init__.pyi") or b"", package)

    def __getattr__(name: str) -> object:
        if name in origin:
            with explained(name):
                value = getattr(importlib.import_module(origin[name]), name)
            importlib.import_module(package).__dict__[name] = value
            return value
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        found = pkgutil.iter_modules(importlib.import_module(package).__path__)
        return sorted({*origin, *(module.name for module in found if module.name[0] != "_")})

    return __getattr__, __dir__, sorted(origin)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Say of a failed import, where it is torch that is missing, what to do."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in LEFT_OUT:
            raise
        raise ModuleNotFoundError(
            f"{name} needs {missing}, which is not installed. Run: pip install torch torchvision "
            "skorch. To compute vectors without torch, export the network with "
            "sklearn_cbir.to_onnx where torch is, and use an OnnxExtractor (cbir index "
            "--extractor FILE).",
            name=error.name,
        ) from error


def _names_in(stub: bytes, package: str) -> dict[str, str]:
    """Modules of the names that a stub imports; what it imports from the package are modules."""
    return {
        alias.name: str(line.module)
        for line in ast.parse(stub).body
        if isinstance(line, ast.ImportFrom) and line.module != package
        for alias in line.names
    }
