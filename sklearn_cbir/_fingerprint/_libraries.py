"""Whether code belongs to an installed library, identified by its version, or to the user."""

import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import site
import sys
import sysconfig
import types
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def library_of(module_name):
    """Return name and version of the installed library that a module belongs to, or None.

    None is the user's own: scripts, notebooks, modules beside them, and packages installed in
    editable mode, whose code changes without a new version.
    """
    return _library(module_name) if isinstance(module_name, str) and module_name else None


@functools.cache
def _library(module_name):
    top = module_name.partition(".")[0]
    if top == PACKAGE.name:
        return _this_package()
    place = _place(module_name)
    if top in sys.stdlib_module_names and (place is None or _is_under(place, _stdlib_folders())):
        return f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    if place is None:
        return None
    names = [top] if _installed(top, place) else _distributions().get(top, [])
    found = {name: _installed(name, place) for name in names}
    # The local part ("+cpu") says how a version was built, not what it is.
    versions = [f"{name} {v.partition('+')[0]}" for name, v in sorted(found.items()) if v]
    return ", ".join(versions) or None


def _place(module_name):
    """Return the file of a module, or the folder of a package without one; None if built in."""
    module = sys.modules.get(module_name)
    spec = getattr(module, "__spec__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(module_name)
        except (ImportError, AttributeError, ValueError):
            return None
    place = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    if place in (None, "built-in", "frozen", "namespace"):
        folders = list(getattr(spec, "submodule_search_locations", None) or [])
        return Path(folders[0]).resolve() if folders else None
    return Path(place).resolve()


def _installed(name, place):
    """Return the version of a distribution if `place` is where it was installed."""
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    folder = Path(str(distribution.locate_file(""))).resolve()
    # A folder of sources may hold the notes of a build, but not the list of what was installed.
    is_installed = _is_under(folder, _site_folders()) or distribution.read_text("RECORD")
    return distribution.version if is_installed and _is_under(place, [folder]) else None


_distributions = functools.cache(importlib.metadata.packages_distributions)


@functools.cache
def _site_folders():
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    folders += [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    return [Path(folder).resolve() for folder in folders]


@functools.cache
def _stdlib_folders():
    return [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]


def _is_under(place, folders):
    return any(place == folder or folder in place.parents for folder in folders)


@functools.cache
def _this_package():
    """Return the version of this package and a hash of its sources, which may be a checkout."""
    content = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        content.update(path.relative_to(PACKAGE).as_posix().encode())
        content.update(path.read_bytes().replace(b"\r\n", b"\n"))
    version = getattr(sys.modules[PACKAGE.name], "__version__", "")
    return f"{PACKAGE.name} {version} {content.hexdigest()[:16]}"


def is_compiled(module_name):
    """Say whether a module is an extension: it has no code that could be looked at."""
    place = getattr(sys.modules.get(module_name), "__file__", None) or ""
    return place.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


def found_by_name(value):
    """Say whether a function or class is what its module has under its name."""
    found = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = (
            vars(found).get(name)
            if isinstance(found, types.ModuleType)
            else (getattr(found, name, None))
        )
    return found is value
