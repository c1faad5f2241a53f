"""pynndescent's compiled loops, kept on disk: the same neighbors, none of another version."""

import os
import subprocess
import sys

import numpy as np
import pytest
from search_cases import make_clusters

from sklearn_cbir.index import _kept_descent, _nndescent

pytestmark = pytest.mark.ann
OPTIONS = {"metric": "euclidean", "n_neighbors": 12, "random_state": 3}

BUILD = """
import numba, numpy as np
from sklearn_cbir.index import _kept_descent
numba.get_num_threads()  # starts them
rows = np.random.default_rng(0).normal(size=(900, 8)).astype(np.float32)
steps, before = [], _kept_descent.compiled
_kept_descent.compiled = lambda *a, **o: steps.append(before(*a, **o)) or steps[-1]
_kept_descent.kept_class()(rows, metric="euclidean", n_neighbors=12, random_state=3, n_jobs=1)
for kind in ("cache_hits", "cache_misses"):
    print(sum(sum(getattr(step.stats, kind).values()) for step in steps))
"""
# Steps that a build by one thread takes, beside two that are enclosed in others.
STEPS = (
    *("sort_updates_by_block", "apply_sorted_graph_update_array", "build_candidates_owner"),
    *("generate_graph_update_array_batched", "apply_graph_update_array", "deheap_sort"),
)


@pytest.fixture(scope="module")
def rows():
    return np.ascontiguousarray(make_clusters(1500), dtype=np.float32)


def build(nndescent, rows, n_jobs=1):
    with _nndescent._numba_threads(n_jobs) as n_threads:
        return nndescent(rows, n_jobs=n_threads, **OPTIONS)


@pytest.fixture(scope="module")
def kept(rows):
    kept = _kept_descent.kept_class()
    build(kept, rows)  # compiled or read
    return kept


@pytest.mark.slow  # compiles all of pynndescent
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_the_neighbors_are_those_of_pynndescent_to_the_last_bit(rows, kept, n_jobs):
    import numba
    from pynndescent import NNDescent

    n_jobs = min(n_jobs, numba.config.NUMBA_NUM_THREADS)
    found, expected = (
        of(rows, n_jobs=n_jobs, **OPTIONS).neighbor_graph for of in (kept, NNDescent)
    )
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


def test_a_second_process_reads_what_the_first_has_compiled(kept):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(len(STEPS) + 2), "0"]


def test_what_another_version_of_pynndescent_left_is_not_read(kept):
    def stored(version, is_parallel=False):
        steps = [getattr(_kept_descent.original, name) for name in STEPS]
        again = [_kept_descent._kept(step, version, is_parallel) for step in steps]
        return [
            one._cache.load_overload(signature, one.targetctx) is not None
            for step, one in zip(here, again)
            for signature in step.signatures
        ]

    version = _kept_descent._version()
    names = _kept_descent._descent(version, False).__globals__
    names = names | names["nn_descent_internal"].__globals__
    names = names | names["process_candidates"].__globals__
    here = [names[name] for name in STEPS]
    assert all(step.signatures for step in here)
    assert all(stored(version))
    assert not any(stored("another"))


def test_a_version_is_what_the_files_of_pynndescent_hold(monkeypatch, tmp_path):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "loops.py").write_text("a = 1")
    monkeypatch.setattr(_kept_descent.pynndescent, "__file__", str(tmp_path / "__init__.py"))
    before = _kept_descent._version()
    assert _kept_descent._version() == before
    (tmp_path / "loops.py").write_text("a = 2")
    assert _kept_descent._version() != before


@pytest.mark.parametrize(
    ("table", "name"),
    [
        *(("CALLERS", "nn_descent"), ("CALLERS", "process_candidates")),
        *(("PARAMETERS", "nn_descent"), ("PARAMETERS", "init_random")),
    ],
)
def test_a_pynndescent_that_is_not_known_builds_by_itself(monkeypatch, table, name):
    from pynndescent import NNDescent

    known = getattr(_kept_descent, table)
    monkeypatch.setitem(known, name, (*known[name], "another"))
    assert _kept_descent.kept_class() is None
    assert _nndescent._import_nndescent() is NNDescent


def test_a_package_whose_parts_have_moved_builds_by_itself(monkeypatch):
    from pynndescent import NNDescent

    monkeypatch.delattr(_kept_descent, "kept_class")
    assert _nndescent._import_nndescent() is NNDescent


def test_steps_that_cannot_be_compiled_so_are_those_of_pynndescent(monkeypatch, rows):
    import numba

    states = []

    def fail(rng_state, **arguments):
        states.append(rng_state.copy())
        rng_state += 1
        raise numba.errors.TypingError("of another numba")

    def nn_descent(*values, **options):
        states.append(values[2].copy())
        return np.full((1, 1), 7), np.zeros((1, 1))

    nn_descent.py_func = _kept_descent.original.nn_descent.py_func
    monkeypatch.setattr(_kept_descent, "_descent", lambda version, is_parallel: fail)
    monkeypatch.setattr(_kept_descent.original, "nn_descent", nn_descent)
    index = build(_kept_descent.kept_class(), rows[:100])
    np.testing.assert_array_equal(index.neighbor_graph[0], [[0]])  # before whom the row itself is
    assert index._neighbor_graph[0] == 7
    np.testing.assert_array_equal(*states)  # it draws the same numbers
