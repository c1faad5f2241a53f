"""Compiled loops that are loaded no sooner than it pays: the same answers before and after."""

import os
import pickle
import subprocess
import sys
import threading
from types import ModuleType

import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir._loops import COMPILE_FIRST, Loops
from sklearn_cbir.codes import (
    HammingDistances,
    _search,
    hamming_distances,
    hamming_radius,
    hamming_top_k,
    pack_codes,
)
from sklearn_cbir.metrics import mean_average_precision

MODULE = ModuleType("loops")


@pytest.fixture
def later(monkeypatch):
    """Loops are loaded once it pays, as for users."""
    monkeypatch.setenv(COMPILE_FIRST, "0")


def test_loops_are_loaded_once_the_work_without_them_has_paid(later):
    loads = []
    loops = Loops(lambda: loads.append(1) or MODULE, 100)
    assert [loops.once_it_pays(40) for _ in range(3)] == [None, None, MODULE]
    assert loops.once_it_pays(0) is MODULE


def test_much_work_loads_them_at_once(later):
    assert Loops(lambda: MODULE, 100).once_it_pays(100) is MODULE


def test_loops_that_were_loaded_for_something_else_are_taken(later):
    loops = Loops(lambda: MODULE, 100)
    loops.load()
    assert loops.once_it_pays(1) is MODULE


@pytest.mark.parametrize(("value", "expected"), [("1", MODULE), ("0", None), ("", None)])
def test_the_first_answer_waits_for_loops_if_it_is_told_to(value, expected, monkeypatch):
    monkeypatch.setenv(COMPILE_FIRST, value)
    assert Loops(lambda: MODULE, 100).once_it_pays(1) is expected


def test_loops_that_cannot_be_compiled_are_tried_once(later):
    tries = []

    def load():
        tries.append(1)
        raise ImportError("no compiler")

    loops = Loops(load, 100)
    assert [loops.once_it_pays(60) for _ in range(4)] == [None] * 4
    assert len(tries) == 1
    with pytest.raises(ImportError, match="no compiler"):
        loops.load()


def test_other_threads_work_without_loops_while_one_loads_them(later):
    loading, go_on = threading.Event(), threading.Event()

    def load():
        loading.set()
        assert go_on.wait(30)
        return MODULE

    loops, found = Loops(load, 100), []
    first = threading.Thread(target=lambda: found.append(loops.once_it_pays(100)))
    first.start()
    assert loading.wait(30)
    assert loops.once_it_pays(1) is None
    waiting = threading.Thread(target=lambda: found.append(loops.once_it_pays(100)))
    waiting.start()
    go_on.set()
    first.join()
    waiting.join()
    assert found == [MODULE, MODULE]
    assert loops.once_it_pays(1) is MODULE


@pytest.mark.parametrize("n_bits", [7, 64, 150])
def test_codes_are_counted_alike_with_and_without_loops(n_bits, rng, later, monkeypatch):
    gallery, queries = (rng.integers(0, 2, (n, n_bits)) for n in (3000, 20))
    codes = pack_codes(queries), pack_codes(gallery)
    y, graded = np.arange(3000) % 7, rng.integers(0, 2, (3000, 5))
    graded[:, 0] = 1

    def answers():
        distances = HammingDistances(*codes)
        return [
            hamming_distances(*codes),
            *hamming_top_k(*codes, 25),
            *(np.concatenate(found) for found in hamming_radius(*codes, n_bits / 3)),
            mean_average_precision(y[:20], y, distances),
            mean_average_precision(graded[:20], graded, distances),
        ]

    monkeypatch.setattr(_search, "LOOPS", Loops(_search.kernels, 1))
    with_loops = answers()
    assert _search.LOOPS._is_loaded
    monkeypatch.setattr(_search, "LOOPS", Loops(_search.kernels, 1e12))
    without = answers()
    assert not _search.LOOPS._is_loaded
    for one, other in zip(with_loops, without):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Codes, and a graph that finds less than all, with queries and what a process is to find."""
    rng = np.random.default_rng(0)
    rows, queries = (rng.normal(size=(n, 24)).astype(np.float32) for n in (3000, 50))
    codes = NeighborsRetriever(metric="hamming").fit(rows > 0)
    graph = NeighborsRetriever(algorithm="nndescent", recall_target=0.5, random_state=0).fit(rows)
    exact = NeighborsRetriever(algorithm="exact").fit(rows)
    assert (graph.kneighbors(queries)[1] != exact.kneighbors(queries)[1]).any()
    answers = [r.kneighbors(queries) for r in (graph, exact)], codes.kneighbors(queries > 0)
    path = tmp_path_factory.mktemp("loops") / "saved.pickle"
    path.write_bytes(pickle.dumps((codes, graph, queries, answers)))
    return path


FRESH = """
import pickle, sys
import numpy as np
from sklearn_cbir.codes import _search
from sklearn_cbir.index import _graph
codes, graph, queries, (of_graph, of_codes) = pickle.load(open(sys.argv[1], "rb"))
def is_same(found, expected):
    return all(map(np.array_equal, found, expected))
def with_numba():
    return "numba" in sys.modules
print(is_same(codes.kneighbors(queries > 0), of_codes), with_numba())
print([is_same(graph.kneighbors(queries), found) for found in of_graph], with_numba())
_search.LOOPS._work = _graph.LOOPS._work = 1
print(is_same(codes.kneighbors(queries > 0), of_codes), with_numba())
print([is_same(graph.kneighbors(queries), found) for found in of_graph])
"""


def printed_by_a_process(saved, **surroundings):
    """Return the lines that a process prints which loads what was saved."""
    return subprocess.run(
        [sys.executable, "-c", FRESH, saved],
        env=os.environ | surroundings,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def test_a_process_answers_first_without_numba_and_then_with_it(saved):
    printed = printed_by_a_process(saved, **{COMPILE_FIRST: "0"})
    # The graph is answered exactly at first, and as in the process that built it from then on.
    assert printed == ["True False", "[False, True] False", "True True", "[True, False]"]


def test_a_process_that_is_told_to_compile_first_does(saved):
    printed = printed_by_a_process(saved, **{COMPILE_FIRST: "1"})
    assert printed[:2] == ["True True", "[True, False] True"]


def test_a_saved_graph_is_answered_exactly_where_numba_compiles_nothing(saved):
    printed = printed_by_a_process(saved, NUMBA_DISABLE_JIT="1")
    assert printed == ["True True", "[False, True] True", "True True", "[False, True]"]
