"""Types hold: for what users write, for every public name, and in the package itself.

Pyright runs three times: with the settings that users have, on the public names, on the package.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sklearn_cbir

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGE = Path(sklearn_cbir.__file__).parent
spec = importlib.util.spec_from_file_location("public_api", ROOT / "docs" / "public_api.py")
public_api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(public_api)
MODULES = public_api.public_modules()
# Not the settings of this package, but those that an editor has.
AS_USERS_HAVE_IT = {"pythonVersion": "3.11", "reportUnnecessaryTypeIgnoreComment": "error"}
STUBS = sorted(PACKAGE.rglob("*.pyi"))


def _pyright(*arguments, stubs=False):
    """What pyright reports, as it is written by ``--outputjson``."""
    paths = [str(ROOT), *([str(ROOT / "typings")] if stubs else [])]
    environment = {
        **os.environ,
        # On the public names pyright asks the first Python on the path what is installed.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",  # no look for a newer one
    }
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stderr
    return json.loads(done.stdout)


def _faults(report, name=""):
    """Where errors are in the files of a name, and what they say."""
    return [
        f"{Path(fault['file']).name}:{fault['range']['start']['line'] + 1}: {fault['message']}"
        for fault in report["generalDiagnostics"]
        if name in fault["file"] and fault["severity"] == "error"
    ]


def _readme_example():
    """Return the Python code of README."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert len(blocks) == 2
    return "\n".join(blocks)


@pytest.fixture(scope="module")
def of_users(tmp_path_factory):
    """Return what pyright says of what users write."""
    folder = tmp_path_factory.mktemp("users")
    shutil.copytree(HERE / "typing", folder, dirs_exist_ok=True)
    (folder / "readme.py").write_text(_readme_example(), encoding="utf-8")
    (folder / "pyrightconfig.json").write_text(json.dumps(AS_USERS_HAVE_IT), encoding="utf-8")
    report = _pyright("--project", folder)
    assert report["summary"]["filesAnalyzed"] == 3
    return report


def test_the_example_of_readme_has_no_type_error(of_users):
    assert _faults(of_users, "readme.py") == []


def test_what_users_write_has_no_type_error(of_users):
    assert _faults(of_users, "user_code.py") == []


def test_what_users_get_wrong_is_reported_line_by_line(of_users):
    assert _faults(of_users, "wrong_uses.py") == []  # an ignored error that is none is one


def test_user_code_has_every_public_name():
    names = set(re.findall(r"\w+", (HERE / "typing" / "user_code.py").read_text("utf-8")))
    public = {name for module in MODULES.values() for name in public_api.public_objects(module)}
    assert public - names == set()


def test_the_package_has_no_type_error():
    report = _pyright(stubs=True)  # half a minute, nearly all of it to read torch
    assert report["summary"]["filesAnalyzed"] > 150
    assert _faults(report) == []


def test_no_file_of_the_package_is_kept_from_the_checker_and_hardly_a_line():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pyright"]
    assert settings["include"] == ["sklearn_cbir"]
    assert not {"ignore", "exclude"} & set(settings)
    ignoring = [
        f"{path.name}:{number}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(r"# (pyright|type):", line)
    ]
    assert len(ignoring) <= 10, ignoring


def test_nearly_all_public_types_are_known():
    # What is inherited from scikit-learn, which has no types, is said in typings.
    report = _pyright("--verifytypes", "sklearn_cbir", "--ignoreexternal", stubs=True)
    known = report["typeCompleteness"]
    unknown = [
        symbol["name"]
        for symbol in known["symbols"]
        if symbol["isExported"] and not symbol["isTypeKnown"]
    ]
    assert known["completenessScore"] >= 0.98, unknown


def test_hardly_a_public_type_is_any():
    types = dict(_public_types())
    loose = sorted(name for name, text in types.items() if re.search(r"\bAny\b", text))
    assert len(types) > 300
    assert len(loose) <= 0.03 * len(types), loose


def _public_types():
    """Names of public functions, methods and attributes, and what their annotations say."""
    found = set()
    for module in MODULES.values():
        for value in public_api.public_objects(module).values():
            if inspect.isclass(value):
                found.update(c for c in value.__mro__ if c.__module__.startswith("sklearn_cbir."))
            elif inspect.isfunction(value):
                found.add(value)
    for value in found:
        body = ast.parse(Path(inspect.getsourcefile(value)).read_text("utf-8")).body
        name = f"{value.__module__}.{value.__name__}"
        if inspect.isfunction(value):
            yield name, _annotations(body, value.__name__)
            continue
        cls = next(line for line in body if getattr(line, "name", None) == value.__name__)
        for line in cls.body:
            member = getattr(line, "name", getattr(getattr(line, "target", None), "id", "_"))
            if member == "__init__" or not member.startswith("_"):
                yield f"{name}.{member}", _annotations(cls.body, member)


def _annotations(body, name):
    """What the annotations of a name say, of its overloads alone if it has some."""
    functions = [line for line in body if getattr(line, "name", None) == name]
    overloads = [f for f in functions if "overload" in map(ast.unparse, f.decorator_list)]
    nodes = [line for line in body if ast.unparse(getattr(line, "target", ast.Pass())) == name]
    for function in overloads or functions:
        nodes += [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
        nodes.append(ast.arg("return", function.returns))
    return " ".join(ast.unparse(node.annotation) for node in nodes if node.annotation)


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_a_stub_names_what_its_package_has(stub):
    name = ".".join([sklearn_cbir.__name__, *stub.parent.relative_to(PACKAGE).parts])
    package = importlib.import_module(name)
    imports = [line for line in ast.parse(stub.read_text("utf-8")).body if hasattr(line, "names")]
    assert all(alias.name == alias.asname for line in imports for alias in line.names)
    names, modules = (
        {alias.name for line in imports if (line.module == name) is own for alias in line.names}
        for own in (False, True)
    )
    assert names == set(package.__all__)
    assert modules == (set(dir(package)) - names if package is sklearn_cbir else set())
    assert all(hasattr(package, name) for name in names | modules)
