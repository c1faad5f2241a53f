"""codespell knows no misspelling in the words of the project, as pyproject.toml configures it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = [
    *("README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", ".ci", ".github"),
    *("sklearn_cbir", "docs", "examples", "benchmarks", "typings", "tests"),
]

codespell_lib = pytest.importorskip("codespell_lib")


def misspelled(capsys, monkeypatch, *names):
    """Return what codespell prints, run where its settings are."""
    monkeypatch.chdir(ROOT)
    n_found = codespell_lib.main("--check-hidden", *map(str, names))
    printed = capsys.readouterr().out.splitlines()
    assert bool(n_found) is bool(printed)
    return printed


def test_words_are_spelled_right(capsys, monkeypatch):
    assert misspelled(capsys, monkeypatch, *TEXTS) == []


def test_a_misspelling_is_found(capsys, monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    wrong = "receive".replace("ei", "ie")
    page.write_text(f"Lew and Bui are names.\nThey {wrong} words.\n")
    found = misspelled(capsys, monkeypatch, page)
    assert len(found) == 1
    assert "page.md:2" in found[0]
    assert "receive" in found[0]
