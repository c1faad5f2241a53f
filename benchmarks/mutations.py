"""Change one place of the code at a time, and see whether a test notices.

    python benchmarks/mutations.py --seed 1 [--n 400] [--processes 2] [--rooms metrics ...]

All changes that cosmic-ray would make to the rooms are listed, N of them are drawn, and for each
the tests that execute the changed line run on a copy of the last commit, quickest first, until one
fails: some of them for all mutants, again with ten times the time where that ran out, then all
others for those that are left. What is left out, and why: `_mutations/listing.py` and
`_mutations/recording.py`. Which test executes which line is recorded once and kept for as long as
the package and the test file stay. Every result is written to OUT at once, so that a run that was
cut off goes on. It needs `pip install cosmic-ray coverage`, beside what the tests need, and a
system that can fork.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import subprocess
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from operator import itemgetter
from pathlib import Path

from _mutations import forking
from _mutations.choosing import Tests
from _mutations.listing import COMPILING, ROOMS, files_of, list_mutants
from _mutations.recording import OF_LOOPS, find_test_files, record, run_tests

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a second for every mutant
}
# Most mutants fall by the quickest of the tests that execute them; the rest meet all others, too.
QUICKEST = {"most": 400, "seconds": 30}
# Of each round: what came of its mutants before, its tests, and how slow these may become.
ROUNDS = ((None, QUICKEST, 3), ("time", QUICKEST, 30), (None, {}, 3))
SECONDS_TO_RECORD = 600  # for one test file


def main():
    options = _parse()
    out = Path(options.out).resolve()
    commit = _git("rev-parse", "HEAD")[:12]
    trees = [_unpack(commit, out / f"tree-{number}") for number in range(options.processes)]
    mutants = _draw(list_mutants(trees[0], options.rooms), options.n, options.seed, trees[0])
    context = multiprocessing.get_context("spawn")
    waiting = context.Queue()
    for tree in trees:
        waiting.put(tree)
    with ProcessPoolExecutor(options.processes, context, _start, (waiting,)) as pool:
        kernels = [file for file in files_of(trees[0]) if _is_compiled(trees[0], file)]
        files = find_test_files(trees[0], options.tests)
        recorded = _record(pool, commit, files, out / "lines")
        of_loops = [file for file in files if Path(file).stem in OF_LOOPS]
        loops = _record(pool, commit, of_loops, out / "lines", kernels)
        tests = Tests(trees[0], recorded), Tests(trees[0], loops)
        results = out / f"{commit}.jsonl"
        for outcome, limits, patience in ROUNDS:
            tries = _find_tries(mutants, tests, kernels, _read(results), outcome, limits, patience)
            _run(pool, tries, results, patience)
    _report(mutants, results, trees[0], f"seed {options.seed}, commit {commit}")


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rooms", nargs="+", default=ROOMS, help="of the package; default: all")
    parser.add_argument("--tests", default="*", help="names of test files; default: all")
    parser.add_argument("--out", default=ROOT / "out" / "mutations")
    return parser.parse_args()


def _git(*arguments):
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _unpack(commit, tree):
    """Return a copy of a commit; what was compiled for an earlier one stays."""
    tree.mkdir(parents=True, exist_ok=True)
    for file in [*tree.rglob("*.py")]:
        file.unlink()
    archive = subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", tree], stdin=archive.stdout, check=True)
    return str(tree)


def _draw(mutants, n, seed, tree):
    """Return `n` mutants that Python can read."""
    random.Random(seed).shuffle(mutants)
    drawn = []
    for mutant in mutants:
        if len(drawn) == n:
            break
        with warnings.catch_warnings(action="ignore"):
            try:
                compile(mutant.apply(Path(tree, mutant.file).read_text()), mutant.file, "exec")
            except SyntaxError:
                continue
        drawn.append(mutant)
    return drawn


def _is_compiled(tree, file):
    text = Path(tree, file).read_text()
    return any(f"\n@{name}\n" in text for name in COMPILING)


# In the processes of the pool -------------------------------------------------------------------


def _start(waiting):
    global TREE
    TREE = waiting.get()
    forking.prepare(ENVIRONMENT)


def _record_file(file, only):
    return forking.forked(record, (file, TREE, only), TREE, SECONDS_TO_RECORD)


def _try(mutant, tests, seconds, uncompiled):
    """Return what came of one mutant: the test that failed, "time", "crash", or None.

    Time is out after `seconds` and what the first test needs to begin.
    """
    path = Path(TREE, mutant.file)
    source, stamp = path.read_text(), path.stat()
    start = time.monotonic()
    try:
        path.write_text(mutant.apply(source))
        # A time that no version had: what Python has compiled is not taken for this one's.
        later = stamp.st_mtime + 1 + int(time.time()) % 10**8
        os.utime(path, (later, later))
        found = forking.forked(run_tests, (tests, uncompiled), TREE, 15 + seconds)
    finally:
        path.write_text(source)
        os.utime(path, (stamp.st_atime, stamp.st_mtime))
    return {"found": found, "seconds": round(time.monotonic() - start, 1)}


# ------------------------------------------------------------------------------------------------


def _record(pool, commit, files, folder, kernels=None):
    """Return what every test file executes; of `kernels` where they are given, uncompiled."""
    folder.mkdir(exist_ok=True)
    blobs = dict(
        reversed(line.split(None, 2)[2].split("\t"))
        for line in _git("ls-tree", "-r", commit, "tests").splitlines()
    )
    shared = [_git("rev-parse", f"{commit}:sklearn_cbir"), kernels]
    shared += [blob for file, blob in blobs.items() if "/test_" not in file]
    found, waiting = {}, {}
    for file in files:
        key = hashlib.sha256(repr((shared, blobs.get(file))).encode()).hexdigest()[:16]
        kept = folder / f"{Path(file).stem}-{key}.json"
        if kept.exists():
            found[file] = json.loads(kept.read_text())
        else:
            waiting[pool.submit(_record_file, file, kernels)] = file, kept
    for future in as_completed(waiting):
        file, kept = waiting[future]
        tests = future.result()
        if not isinstance(tests, dict):
            print(f"not recorded: {file} ({tests})", flush=True)
            found[file] = {}
            continue
        kept.write_text(json.dumps(tests))
        found[file] = tests
        seconds = sum(test["seconds"] for test in tests.values())
        print(f"recorded {len(tests)} tests, {seconds:.0f} s: {file}", flush=True)
    return found


def _find_tries(mutants, tests, kernels, done, outcome, limits, patience):
    """Return the mutants of which `outcome` came before, with the tests that they are to meet."""
    tries = []
    for mutant in mutants:
        before = done.get(mutant.key, {"tests": 0, "found": None})
        if before["found"] != outcome or (outcome == "time" and before["patience"] >= patience):
            continue
        uncompiled = mutant.file in kernels
        n_done = before["tests"] if outcome is None else 0
        chosen, seconds = tests[uncompiled].of(mutant, n_done, **limits)
        if chosen or mutant.key not in done:
            tries.append((patience * seconds, n_done + len(chosen), mutant, chosen, uncompiled))
    return sorted(tries, key=itemgetter(0))


def _run(pool, tries, results, patience):
    """Try mutants, and write each result as it comes."""
    waiting = {}
    for seconds, n_tests, mutant, chosen, uncompiled in tries:
        future = pool.submit(_try, mutant, chosen, seconds, uncompiled)
        waiting[future] = mutant, n_tests
    with results.open("a") as file:
        for number, future in enumerate(as_completed(waiting), 1):
            mutant, n_tests = waiting[future]
            result = {"key": mutant.key, "tests": n_tests, "patience": patience}
            result |= future.result()
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(
                f"{number}/{len(waiting)}",
                result["seconds"],
                mutant.key,
                result["found"],
                flush=True,
            )


def _read(results):
    if not results.exists():
        return {}
    rows = map(json.loads, results.read_text().splitlines())
    return {row["key"]: row for row in rows}


def _report(mutants, results, tree, title):
    done = _read(results)
    outcomes = Counter()
    for mutant in mutants:
        row = done[mutant.key]
        outcome = {None: "survived", "time": "time-out"}.get(row["found"], "caught")
        outcomes[outcome] += 1
        if outcome != "caught":
            print(f"\n{outcome}, {row['tests']} tests, line {mutant.line}")
            print(mutant.diff(Path(tree, mutant.file).read_text()))
    n = len(mutants)
    caught, late = outcomes["caught"], outcomes["time-out"]
    print(f"\n{title}: of {n} mutants {caught} were caught by a test, {late} ran out of time,")
    print(f"{outcomes['survived']} survived: {(caught + late) / n:.1%} caught, ", end="")
    print(f"{caught / n:.1%} without what ran out of time.")


if __name__ == "__main__":
    main()
