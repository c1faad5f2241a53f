"""Every public object explains itself: docstring, defaults, example, source, place in the docs."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate
from sklearn.base import BaseEstimator

DOCS = Path(__file__).parent.parent / "docs"
spec = importlib.util.spec_from_file_location("public_api", DOCS / "public_api.py")
public_api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(public_api)

MODULES = public_api.public_modules()

# Checks of numpydoc.validate that are off, and why.
OFF = {
    "GL01": "summaries start beside the opening quotes",
    "GL02": "a one-line docstring closes on its line",
    "SS05": "it takes a plural noun for a verb in the third person",
    "ES01": "one line is enough where it says everything",
    "PR08": "descriptions may start with a literal such as 1 or None",
    "PR09": "descriptions may end with a formula or a list",
    "RT01": "a fit that returns self, a forward whose summary names the result",
    "RT02": "a named return value reads better than its type alone",
    "RT04": "as PR08",
    "RT05": "as PR09",
    "YD01": "a generator may be documented as Returns",
    "SA01": "the API page stands in for See Also",
    "EX01": "checked below, for objects and not for their methods",
}
# Methods whose arguments are known from torch, scikit-learn or the package's own contracts.
KNOWN_METHODS = {"forward", "train", "extra_repr", "setup", "fit", "fit_transform", "transform"}


def _public_objects():
    """Classes and functions of the package, each once, under the name of its definition."""
    found = {}
    for module in MODULES.values():
        for value in public_api.public_objects(module).values():
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


def _public_methods(cls):
    """Methods and properties that this package itself defines for `cls`."""
    for parent in cls.__mro__:
        if not parent.__module__.startswith("sklearn_cbir"):
            continue
        for name, member in vars(parent).items():
            if name.startswith("_"):
                continue
            if isinstance(member, (classmethod, staticmethod, property)) or inspect.isfunction(
                member
            ):
                yield f"{parent.__module__}.{parent.__qualname__}.{name}"


OBJECTS = _public_objects()
CLASSES = {name: value for name, value in OBJECTS.items() if inspect.isclass(value)}
ESTIMATORS = {name: cls for name, cls in CLASSES.items() if issubclass(cls, BaseEstimator)}
METHODS = sorted({name for cls in CLASSES.values() for name in _public_methods(cls)})
FROM_PAPERS = {
    name: cls
    for name, cls in CLASSES.items()
    if re.search(r"\.(losses|hashing|embedding|reranking|descriptors)\b", name)
    and not name.endswith("Mixin")
}


def _faults(name, off):
    return [f"{code}: {text}" for code, text in validate(name)["errors"] if code not in off]


def _documented_defaults(value):
    """Yield ``(parameter, stated default or None)`` from the Parameters section."""
    for entry in get_doc_object(value)["Parameters"]:
        names = [name.strip().lstrip("*") for name in entry.name.split(",")]
        stated = re.search(r"default\s*[=:]?\s*(.+)$", entry.type)
        if not stated:
            defaults = [None] * len(names)
        elif len(names) > 1 and stated.group(1).count(",") == len(names) - 1:
            defaults = stated.group(1).split(",")  # a, b : float, default=1.0, 2.0
        else:
            defaults = [stated.group(1)] * len(names)
        yield from zip(names, (default and default.strip() for default in defaults))


def _literal(text):
    try:
        return ast.literal_eval(text.strip("`"))
    except (ValueError, SyntaxError):
        return text.strip("`")


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_is_valid_numpydoc(name):
    value, off = OBJECTS[name], set(OFF)
    constructor = getattr(getattr(value, "__init__", None), "__module__", "")  # object: none
    if inspect.isclass(value) and not constructor.startswith("sklearn_cbir"):
        off |= {"PR01"}  # a constructor of torch, of Exception or of object
    assert _faults(name, off) == []


@pytest.mark.parametrize("name", METHODS)
def test_method_docstring_is_valid_numpydoc(name):
    off = set(OFF)
    if name.rsplit(".", 1)[1] in KNOWN_METHODS:
        off |= {"PR01"}
    assert _faults(name, off) == []


@pytest.mark.parametrize("name", OBJECTS)
def test_summary_fits_its_line(name):
    assert len(inspect.getdoc(OBJECTS[name]).splitlines()[0]) <= 79


@pytest.mark.parametrize("name", OBJECTS)
def test_documented_defaults_are_those_of_the_signature(name):
    parameters = inspect.signature(OBJECTS[name]).parameters
    for parameter, stated in _documented_defaults(OBJECTS[name]):
        default = parameters[parameter].default
        if default is inspect.Parameter.empty:
            assert stated is None, f"{parameter} has no default"
        else:
            assert stated is not None, f"the default of {parameter} is not stated"
            assert _literal(stated) in (default, repr(default), str(default)), parameter


@pytest.mark.parametrize("name", OBJECTS)
def test_object_shows_an_example(name):
    value = OBJECTS[name]
    if inspect.isclass(value) and issubclass(value, Exception):
        return  # an error is shown by what raises it
    assert ">>>" in "".join(get_doc_object(value)["Examples"])


@pytest.mark.parametrize("name", FROM_PAPERS)
def test_method_from_a_paper_names_it(name):
    assert get_doc_object(FROM_PAPERS[name])["References"]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_parameters_are_keyword_only_except_the_first(name):
    kinds = [p.kind for p in inspect.signature(ESTIMATORS[name]).parameters.values()]
    assert set(kinds[1:]) <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_init_of_an_estimator_has_no_docstring_of_its_own(name):
    assert "__init__" not in vars(ESTIMATORS[name]) or not ESTIMATORS[name].__init__.__doc__


@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_it_is_for(name):
    first_line = (MODULES[name].__doc__ or "").strip().splitlines()[0]
    assert first_line.endswith(".")


def test_api_page_lists_every_public_name():
    page = public_api.api_page()
    listed = set(re.findall(r"^(?:   |`)(\w+)`?", page, flags=re.MULTILINE))
    public = {name for module in MODULES.values() for name in public_api.public_objects(module)}
    assert public - listed == set()


def test_api_page_has_a_place_for_every_public_module():
    placed = [name for names in public_api.SECTIONS.values() for name in names]
    assert set(MODULES) <= set(placed)
    assert len(placed) == len(set(placed))


def _calls_in_text(text):
    """Yield calls of public names in the literals of a text, parsed, with how they are written."""
    for literal in re.findall(r"`+([^`]+)`+", text):
        written = " ".join(literal.split())
        try:  # `name=` without a value stands for any
            tree = ast.parse(re.sub(r"=(?=[,)])", "=...", written), mode="eval")
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield node, written


def _parameters(value):
    """Names of the parameters; None if any name is taken."""
    parameters = inspect.signature(value).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def test_calls_in_sentences_have_parameters_that_exist():
    root = Path(__file__).parents[1]
    named = {name.rpartition(".")[2]: _parameters(value) for name, value in OBJECTS.items()}
    texts = [*DOCS.glob("*.md"), *DOCS.glob("guide/*.md"), *root.glob("sklearn_cbir/**/*.py")]
    wrong, n_calls = [], 0
    for path in [root / "README.md", root / "CHANGELOG.md", *texts]:
        for call, written in _calls_in_text(path.read_text(encoding="utf-8")):
            if (known := named.get(call.func.id)) is None:
                continue
            n_calls += 1
            given = {keyword.arg for keyword in call.keywords} - {None}
            wrong += [f"{path.name}: {written}: {name}" for name in given - known]
    assert wrong == []
    assert n_calls > 80


def test_documented_default_is_read_from_the_type():
    def example(a, b=1, c=2.0, d=3.0):
        """Do it.

        Parameters
        ----------
        a : int
            One.

        b : int or None, default=1
            Two.

        c, d : float, default=2.0, 3.0
            Three and four.
        """

    stated = dict(_documented_defaults(example))
    assert stated == {"a": None, "b": "1", "c": "2.0", "d": "3.0"}


def test_the_first_release_tells_what_is_there_and_not_how_it_came_to_be():
    """Nobody had what was before it: an entry says what the package does, under "Added"."""
    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()
    first = changelog[changelog.rindex("\n## ") :]
    assert re.findall(r"^### (.*)", first, re.MULTILINE) == ["Added", "Known limits"]
