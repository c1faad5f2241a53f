"""The search benchmark runs, goes on where it was cut off, and says what it left out."""

import importlib
import json
from pathlib import Path

import pytest
import threadpoolctl

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def search(monkeypatch):
    """The command, with galleries of a few hundred rows and nobody beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    search = importlib.import_module("search")
    timing = importlib.import_module("_search.timing")
    codes = importlib.import_module("_search.codes")
    floats = importlib.import_module("_search.floats")
    for module, name, value in (
        (timing, "PEERS", ("a_package_that_nobody_has",)),
        (timing, "SECONDS", 0),
        (timing, "NOISY", float("inf")),
        (codes, "QUICK_SIZES", (300,)),
        (codes, "BITS", (64,)),
        (codes, "BATCHES", (1, 3)),
        (floats, "BATCHES", (1, 3)),
        (codes, "MORE", [(300, 64, 2, 1)]),
        (floats, "QUICK_SETS", [(300, 8)]),
        (floats, "MORE", [(300, 8, "cosine", 2, 1)]),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what the command sets is restored
    monkeypatch.setattr(threadpoolctl, "threadpool_limits", lambda n: n)
    return search


@pytest.mark.slow
def test_tables_and_plots_come_from_cells_that_run_once(search, tmp_path, capsys):
    command = ["codes", "floats", "scale", "--quick", "--repeats", "1", "--out", str(tmp_path)]
    search.main([*command, "--plots", str(tmp_path / "plots")])
    printed = capsys.readouterr().out
    assert "a_package_that_nobody_has is not installed" in printed
    assert "| 300 | 64 | 3 | 100 |" in printed
    assert "of 4 cells reach their bar" in printed
    cells = json.loads((tmp_path / "search.json").read_text())
    assert len(cells) == 2 * 2 + 1 + 2 * 2 + 1
    plots = {path.name for path in (tmp_path / "plots").iterdir()}
    assert plots == {"search_codes.png", "search_floats.png"}
    search.main(command)
    assert json.loads((tmp_path / "search.json").read_text()) == cells


def test_plots_leave_out_cells_of_other_tables(search, tmp_path):
    plots = importlib.import_module("_search.plots")
    cell = {"n": 60_000, "bits": 64, "queries": 100, "k": 10, "ms": {"ours": 1.0}}
    plots.draw({"codes 60000": cell, "codes of the page on scale": {"ms": {"ours": 9.0}}}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["search_codes.png"]


def test_an_unknown_task_is_named(search, capsys):
    with pytest.raises(SystemExit):
        search.main(["speed"])
    assert "There is no task 'speed'" in capsys.readouterr().err
