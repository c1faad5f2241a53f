"""The mutation run asks the tests that execute a change, and no others."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SOURCE = """
FACTOR = 2


class Scale:
    shift = 1

    def up(self, x, twice=False):
        if (
            twice
            and x
        ):
            x = 2 * x
        return FACTOR * x

    def down(self, x):
        return x / self.shift
"""
RECORDED = {
    "tests/test_a.py": {
        "tests/test_a.py::twice": {"seconds": 0.2, "lines": {"a.py": [9, 10, 11, 13, 14]}},
        "tests/test_a.py::once": {"seconds": 0.1, "lines": {"a.py": [9, 10, 14]}},
        "tests/test_a.py::slow": {"seconds": 9.0, "lines": {"a.py": [14]}},
        "tests/test_a.py::down": {"seconds": 0.3, "lines": {"a.py": [17]}},
    }
}


@pytest.mark.parametrize(
    ("line", "column", "expected"),
    [
        (13, 16, ["twice"]),  # a statement
        (11, 12, ["once", "twice"]),  # a condition, on whichever of its lines
        (8, 30, ["once", "twice", "slow"]),  # a default: of all that call the function
        (2, 9, ["once", "twice", "slow"]),  # what the code names
        (6, 12, ["down"]),
    ],
)
def test_tests_that_execute_a_change_run_quickest_first(
    line, column, expected, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tests = importlib.import_module("_mutations.choosing").Tests(tmp_path, RECORDED)
    (tmp_path / "a.py").write_text(SOURCE)
    mutant = SimpleNamespace(file="a.py", line=line, column=column)
    chosen, seconds = tests.of(mutant)
    assert [test.partition("::")[2] for test in chosen] == expected
    assert seconds == pytest.approx(sum(RECORDED["tests/test_a.py"][t]["seconds"] for t in chosen))
    assert tests.of(mutant, seconds=0.0)[0] == tests.of(mutant, most=1)[0] == chosen[:1]
    assert tests.of(mutant, n_done=1)[0] == chosen[1:]  # in a second round
