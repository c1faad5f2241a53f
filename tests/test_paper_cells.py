"""Cells of the papers' tables: what is drawn, listed, kept apart, gone on with, and left out."""

import importlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import loguniform

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def compare():
    return importlib.import_module("_papers._compare")


@pytest.fixture
def data():
    return importlib.import_module("_data")


@dataclass
class Scaled:
    """Rows as they are, with noise that depends on the settings and the seed."""

    lr: float
    seed: int
    weight: float = 0.0

    def fit(self, X, y):
        return self

    def transform(self, X):
        noise = np.random.default_rng(self.seed).normal(size=X.shape)
        return (X + self.weight * noise).astype(np.float32)


def scaled(kind, *, lr, seed, weight=0.0, **shared):
    return Scaled(lr, seed, weight)


RANGES = {"lr": loguniform(1e-4, 1e-1), "weight": loguniform(0.01, 10)}


@pytest.fixture
def task(compare):
    rng = np.random.default_rng(0)
    y = np.arange(90) % 6
    X = np.eye(6)[y] + 0.5 * rng.normal(size=(90, 6))
    train, chosen, asked = np.split(np.arange(90), [50, 70])
    return compare.Task(
        inputs={"images": X},
        y=y,
        tuning=compare.Part(train, train, chosen),
        final=compare.Part(train, train, asked),
        scoring=("map", "recall@1"),
    )


def rows_of(compare, *names):
    return [compare.Row(name, partial(scaled, name), RANGES) for name in names]


def run(compare, data, task, out, plan=None, until=np.inf, rows=("first", "second"), **others):
    cells = data.Cells(out / "cells.json", until=until)
    given = rows_of(compare, *rows)
    results = compare.compare(cells, given, task, plan or compare.Plan(), final={}, **others)
    return results, cells


def test_every_row_tries_twelve_drawn_settings_that_its_cells_list(compare, data, task, tmp_path):
    results, cells = run(compare, data, task, tmp_path)
    trials = [cell for name, cell in cells.cells.items() if name.startswith("choose first")]
    assert len(trials) == 12
    drawn = importlib.import_module("_papers._rules").draw_settings(RANGES)
    assert [{name: of["settings"][name] for name in RANGES} for of in trials] == drawn
    final = results["first"][0]
    assert [trial["setting"] for trial in final["trials"]] == drawn
    assert [trial["map"] for trial in final["trials"]] == [of["map"] for of in trials]
    best = max(final["trials"], key=lambda trial: trial["map"])["setting"]
    assert final["setting"] == best
    assert final["settings"]["weight"] == best["weight"]
    assert json.loads((tmp_path / "cells.json").read_text()) == json.loads(json.dumps(cells.cells))


def test_the_same_seed_gives_the_same_cells_and_a_second_run_none(compare, data, task, tmp_path):
    first, cells = run(compare, data, task, tmp_path / "one")
    again, others = run(compare, data, task, tmp_path / "two")
    assert cells.cells.keys() == others.cells.keys()
    assert [[r["map"] for r in of] for of in first.values()] == [
        [r["map"] for r in of] for of in again.values()
    ]
    before = (tmp_path / "one" / "cells.json").read_bytes()
    run(compare, data, task, tmp_path / "one")
    assert (tmp_path / "one" / "cells.json").read_bytes() == before


@pytest.mark.parametrize("other", [{"precision": "bf16"}, {"device": "cuda"}])
def test_precision_and_device_are_part_of_a_cell(compare, data, task, tmp_path, other):
    plan = compare.Plan(seeds=1, rates=(0.01,))
    _, cells = run(compare, data, task, tmp_path, plan)
    _, more = run(compare, data, task, tmp_path, replace(plan, **other))
    assert len(cells.cells) == 2
    assert len(more.cells) == 4
    (name, value), *_ = other.items()
    assert {cell["settings"][name] for cell in more.cells.values()} == {
        value,
        getattr(plan, name),
    }


def test_a_cell_that_was_cut_off_begins_again(compare, data, task, tmp_path, monkeypatch):
    began = []

    def cut(*args, **kwargs):
        began.append(args)
        if len(began) == 15:  # the second of the last trainings
            raise KeyboardInterrupt
        return scores(*args, **kwargs)

    scores = compare.scores_of
    monkeypatch.setattr(compare, "scores_of", cut)
    with pytest.raises(KeyboardInterrupt):
        run(compare, data, task, tmp_path, rows=["first"])
    assert len(json.loads((tmp_path / "cells.json").read_text())) == 13 + 1
    monkeypatch.setattr(compare, "scores_of", scores)
    results, cells = run(compare, data, task, tmp_path, rows=["first"])
    assert len(results["first"]) == 3
    assert len(cells.cells) == 12 + 3


def test_what_does_not_fit_is_not_begun_and_is_listed(compare, data, task, tmp_path):
    plan = compare.Plan(seeds=2)
    run(compare, data, task, tmp_path, plan, rows=["first"])
    results, cells = run(compare, data, task, tmp_path, plan, until=0)
    assert len(results["first"]) == 2
    assert results["second"] == []
    (missing,) = cells.missing
    assert missing.startswith("choose second, lr=")
    text = compare.report(results, task, task.scoring, pairs=[("first", "second")])
    assert "| second | not run | not run |  |" in text
    assert "better" not in text


def test_two_runs_of_a_table_lose_no_cell(compare, data, tmp_path):
    one, two = (data.Cells(tmp_path / "cells.json") for _ in range(2))
    one.run("a", lambda: {"map": 0.1})
    two.run("b", lambda: {"map": 0.2})
    one.run("c", lambda: {"map": 0.3})
    cells = json.loads((tmp_path / "cells.json").read_text())
    assert {name: cell["map"] for name, cell in cells.items()} == {"a": 0.1, "b": 0.2, "c": 0.3}
    assert two.run("c", lambda: pytest.fail("it is there")) is two.cells["c"]


def test_a_table_takes_the_settings_that_another_has_chosen(compare, data, task, tmp_path):
    (row,) = rows_of(compare, "first")
    cells = data.Cells(tmp_path / "cells.json", until=0)
    with cells.row("first"):
        compare.choose(cells.beside("other"), row, task, compare.Plan(), {})
    assert [name.partition(",")[0] for name in cells.missing] == ["choose first"]
    cells = data.Cells(tmp_path / "cells.json")
    chosen = compare.choose(cells.beside("other"), row, task, compare.Plan(), {})
    others = json.loads((tmp_path / "other.json").read_text())
    assert len(others) == 12
    assert not cells.cells
    again = data.Cells(tmp_path / "cells.json", rows=["second"], again=True).beside("new")
    assert (again.rows, again.again) == (["second"], True)  # so that it runs nothing new
    own = data.Cells(tmp_path / "other.json", until=0)  # there is nothing left to run
    assert compare.choose(own, row, task, compare.Plan(), {}) == chosen


def test_a_row_that_is_tuned_as_another_has_its_setting_but_for_its_own(
    compare, data, task, tmp_path
):
    cells = data.Cells(tmp_path / "cells.json")
    (leader,) = rows_of(compare, "leader")
    make = partial(leader.make, weight=0.0)
    follower = replace(leader, name="follower", make=make, tuned_as=leader)
    results = compare.compare(cells, [follower, leader], task, compare.Plan(), final={})
    chosen = results["leader"][0]["setting"]
    assert results["follower"][0]["setting"] == {"lr": chosen["lr"]}
    assert len(cells.cells) == 12 + 3 + 3  # the trials are those of the leader
    assert not any(key.startswith("choose follower") for key in cells.cells)
    fixed = follower.fixed({"lr": 0.5})
    assert fixed.tuned_as is None
    assert fixed.ranges == {"lr": [0.5]}


def test_rows_at_an_end_of_the_rates_that_were_tried_are_named(compare):
    def chosen(lr):
        trials = [{"setting": {"lr": tried, "weight": 1.0}} for tried in (0.1, 0.001, 0.01)]
        return [{"setting": {"lr": lr, "weight": 1.0}, "trials": trials}]

    rows = {"low": chosen(0.001), "inside": chosen(0.01), "high": chosen(0.1), "not run": []}
    rows["untrained"] = [{"setting": {}, "trials": []}]
    rows["fixed"] = [{"setting": {"lr": 0.1}, "trials": []}]
    text = compare.rates_at_an_end(rows)
    assert text == "At an end of the rates that were tried: low (lowest), high (highest)."
    assert compare.rates_at_an_end({"inside": rows["inside"]}) == ""


def test_once_more_the_same_digits_come_out_and_nothing_new_is_run(
    compare, data, task, tmp_path, monkeypatch
):
    deciding = [("first", "second")]  # close, so that there are five seeds
    run(compare, data, task, tmp_path, deciding=deciding)
    path = tmp_path / "cells.json"
    before = path.read_bytes()
    trained = []
    measured = compare._measured
    monkeypatch.setattr(
        compare, "_measured", lambda *given: trained.append(given) or measured(*given)
    )
    cells = data.Cells(path, again=True)
    rows = rows_of(compare, "first", "second", "new")
    results = compare.compare(cells, rows, task, compare.Plan(), final={}, deciding=deciding)
    numbers = [len(results[name]) for name in ("first", "second", "new")]
    assert numbers == [5, 5, 0]
    assert len(trained) == 2
    assert cells.problems == []
    assert len(cells.compared) == 2
    assert all(
        of.endswith("by 0.000000, in the same environment") for of in cells.compared.values()
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(("fact", "value", "n_problems"), [("cpu", "other", 0), (None, None, 1)])
def test_other_digits_are_a_fault_in_the_same_environment_alone(
    compare, data, task, tmp_path, fact, value, n_problems
):
    _, cells = run(compare, data, task, tmp_path, rows=("first",))
    changed = next(cell for key, cell in cells.cells.items() if ", seed 0 [" in key)
    changed["recall@1"] += 0.001
    if fact is not None:
        changed["environment"][fact] = value
    cells.path.write_text(json.dumps(cells.cells))
    cells = data.Cells(cells.path, again=True)
    compare.compare(cells, rows_of(compare, "first"), task, compare.Plan(), final={})
    assert "recall@1 differs by 0.001000" in next(iter(cells.compared.values()))
    assert len(cells.problems) == n_problems


def test_a_cell_longer_than_what_is_left_is_not_begun(data, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(data.time, "monotonic", lambda: clock[0])
    cells = data.Cells(tmp_path / "cells.json", until=100.0)
    for n in range(3):
        cells.run(f"long {n}", dict, kind="long")
        cells.cells[f"long {n}"]["seconds"] = 60.0
    clock[0] = 50.0
    with pytest.raises(data.NotRun):
        cells.run("long 3", dict, kind="long")
    assert cells.run("short", dict, kind="short")["seconds"] == 0
    assert cells.missing == ["long 3"]
    clock[0] = 100.0
    with pytest.raises(data.NotRun):
        cells.run("another", dict, kind="short")


def test_close_rows_that_decide_get_five_seeds(compare, data, task, tmp_path):
    deciding = [("first", "second")]
    numbers = {}
    for name, weights in (("close", (0.5, 0.51)), ("far", (0.1, 5.0))):
        rows = [
            compare.Row(row, partial(scaled, row, weight=weight), {"lr": [0.1]})
            for row, weight in zip(("first", "second", "third"), (*weights, 1.0))
        ]
        for core in (False, True):
            cells = data.Cells(tmp_path / f"{name}.json")
            plan = compare.Plan(core=core)
            found = compare.compare(cells, rows, task, plan, final={}, deciding=deciding)
            numbers[name, core] = [len(records) for records in found.values()]
    assert numbers["close", False] == [5, 5, 3]
    assert numbers["close", True] == [3, 3, 3]
    assert numbers["far", False] == [3, 3, 3]


def test_verdicts_and_chance_stand_below_the_rows(compare, data, task, tmp_path):
    rows = [
        compare.Row(name, partial(scaled, name, weight=weight), {"lr": [0.1]})
        for name, weight in (("good", 0.0), ("as good", 0.0), ("bad", 10.0))
    ]
    results = compare.compare(
        data.Cells(tmp_path / "cells.json"), rows, task, compare.Plan(), final={}
    )
    pairs = [("good", "bad"), ("good", "as good")]
    text = compare.report(results, task, task.scoring, pairs=pairs)
    chance = compare.chance_of(task)
    assert f"| chance | {chance['map']:.4f} | {chance['recall@1']:.4f} |  |" in text
    assert chance["recall@1"] == pytest.approx(1 / 6, abs=0.02)
    verdicts = text.split("By map:")[1].splitlines()
    assert [line.split(" | ")[-1] for line in verdicts if line.startswith("| good")] == [
        "better |",
        "level |",
    ]


def test_queries_that_leave_rows_out_are_scored_without_them(compare, task):
    part = task.final
    same = [np.flatnonzero(task.y[part.gallery] == task.y[row])[1:] for row in part.queries]
    only = replace(part, exclude=same)
    estimator = Scaled(0.1, 0)
    X = task.inputs["images"]
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    found = compare.scores_of(task, only, estimator)
    ranks = []
    for row, left_out in zip(part.queries, same, strict=True):
        kept = np.setdiff1d(part.gallery, part.gallery[left_out])
        similarities = X[kept] @ X[row]
        (relevant,) = similarities[task.y[kept] == task.y[row]]
        ranks.append(1 + (similarities > relevant).sum())
    assert found["map"] == pytest.approx(np.mean(1 / np.array(ranks)), abs=1e-5)
    none = replace(part, exclude=[np.array([], dtype=int)] * len(part.queries))
    plain = compare.scores_of(task, part, estimator)
    assert compare.scores_of(task, none, estimator)["map"] == pytest.approx(plain["map"])
    assert task.fingerprint(only) != task.fingerprint(part)


def test_parameters_of_the_loss_are_part_of_a_cell():
    losses = importlib.import_module("_papers._losses")
    make = partial(scaled, "dfeh", loss__balance="bit")
    found = losses.loss_settings(make, {"lr": 0.1, "loss__balance_weight": 0.3})
    assert found["name"] == "DFEHLoss"
    assert (found["balance"], found["balance_weight"]) == ("bit", 0.3)
    assert found["quantization_weight"] == 0.01  # of its defaults
    assert losses.loss_settings(partial(scaled, "KSH"), {}) is None


def test_bf16_that_is_not_faster_is_an_error():
    losses = importlib.import_module("_papers._losses")
    text = "autocast=True trains in float32: a step in bfloat16 takes 9.0 times as long"
    with pytest.raises(UserWarning, match="9.0 times"), losses.one_precision("bf16"):
        importlib.import_module("warnings").warn(text, stacklevel=1)


# All tables -----------------------------------------------------------------------------------


@pytest.fixture
def papers(monkeypatch):
    """The command with two tables, of which one fits, one does not, and one has no data."""
    module = importlib.import_module("papers")
    began = []

    def table(name, cells, options):
        """A table."""
        with cells.row("row"):
            began.append((name, options.core, options.data.name, options.epochs))
            if name == "second" and not options.core:
                cells.until = 0
            core = "core" if options.core else "rest"
            cells.run(core, dict, settings={"precision": options.precision})
        return f"{name} of {len(cells.cells)}"

    tables = {name: (partial(table, name), {"epochs": 7}) for name in ("first", "second", "third")}
    monkeypatch.setattr(module, "TABLES", tables)
    monkeypatch.setattr(
        module, "ORDER", (("first", "a"), ("third", "absent"), ("second", "b", "a"))
    )
    return SimpleNamespace(main=module.main, began=began)


def test_all_runs_what_decides_in_every_table_first_and_says_what_is_missing(
    papers, tmp_path, capsys
):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    arguments = ["all", "--data-dir", tmp_path, "--hours", 1, "--out", tmp_path / "out"]
    papers.main([*map(str, arguments)])
    assert papers.began == [
        ("first", True, "a", 7),
        ("second", True, "b", 7),
        ("first", False, "a", 7),
        ("second", False, "b", 7),
    ]
    text = capsys.readouterr().out
    assert "Finished: first.\nNot run, third:\n  its data are not there: " in text
    assert text.endswith("Not run, second:\n  rest\n")
    assert (tmp_path / "out" / "first.md").read_text().startswith("first of 2\n")
    assert "in float32 on cpu." in (tmp_path / "out" / "first.md").read_text()
    before = (tmp_path / "out" / "first.json").read_bytes()
    papers.main([*map(str, arguments)])
    assert (tmp_path / "out" / "first.json").read_bytes() == before


def test_all_begins_no_cell_after_its_hours(papers, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    arguments = ["all", "--data-dir", tmp_path, "--hours", 0, "--out", tmp_path / "out", "--core"]
    papers.main([*map(str, arguments), "--tables", "first"])
    assert "Finished: none.\nNot run, first:\n  core\n" in capsys.readouterr().out
    assert not (tmp_path / "out" / "first.json").exists()


@pytest.mark.parametrize("arguments", [["all", "--hours", "1"], ["dfeh-cifar10"]], ids=str)
def test_a_command_says_which_folder_it_lacks(arguments, capsys):
    papers = importlib.import_module("papers")
    with pytest.raises(SystemExit):
        papers.main(arguments)
    assert "needs --data" in capsys.readouterr().err


def test_every_table_of_all_is_one(monkeypatch):
    papers = importlib.import_module("papers")
    names = [name for name, *_ in papers.ORDER]
    assert len(set(names)) == len(names)
    assert set(names) <= papers.TABLES.keys()
