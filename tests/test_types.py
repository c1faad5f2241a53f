"""Types hold: for what users write, and for every name that a stub promises.

Pyright is asked once, about all files: it takes most of its time to read torch.
"""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_cbir

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGE = Path(sklearn_cbir.__file__).parent
# Not the settings of this package, but those that an editor has.
AS_USERS_HAVE_IT = {"pythonVersion": "3.11", "reportUnnecessaryTypeIgnoreComment": "error"}
STUBS = sorted(PACKAGE.rglob("*.pyi"))


def _pyright(*arguments):
    """What pyright reports, as it is written by ``--outputjson``."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},  # no look for a newer one
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stderr
    return json.loads(done.stdout)


def _readme_example():
    """Return the first code of README, and the types of the two names that its reader has."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    return f"query_paths: list[str] = []\nquery_labels: list[str] = []\n{block.group(1)}"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return what pyright says of a file."""
    folder = tmp_path_factory.mktemp("users")
    shutil.copytree(HERE / "typing", folder, dirs_exist_ok=True)
    (folder / "readme.py").write_text(_readme_example(), encoding="utf-8")
    (folder / "pyrightconfig.json").write_text(json.dumps(AS_USERS_HAVE_IT), encoding="utf-8")
    report = _pyright("--project", folder)
    assert report["summary"]["filesAnalyzed"] >= 2

    def of_file(name):
        return [
            f"{Path(fault['file']).name}:{fault['range']['start']['line'] + 1}: {fault['message']}"
            for fault in report["generalDiagnostics"]
            if name in fault["file"]
        ]

    return of_file


def test_the_example_of_readme_has_no_type_error(found):
    assert found("readme.py") == []


def test_what_users_write_has_no_type_error(found):
    assert found("user_code.py") == []


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
