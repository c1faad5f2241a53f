"""Rows that are linked into a graph as they come: the rule, the promises, who else is looking."""

import copy
import itertools
import pickle
import threading

import numpy as np
import pytest
from search_cases import assert_sound, make_clusters, recall

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import _linking_kernels as kernels, _nndescent
from sklearn_cbir.index._graph import NeighborGraph
from sklearn_cbir.index._linking import Edges, LinkedGraph, Probe
from sklearn_cbir.index._rows import read_only
from sklearn_cbir.persistence import load, save

N, N_MORE = 2000, 400


@pytest.fixture(scope="module")
def rows():
    return make_clusters(N + N_MORE)


@pytest.fixture(scope="module")
def queries():
    return make_clusters(300, seed=2)


@pytest.fixture(scope="module")
def fitted(rows):
    """A graph that no test changes."""
    return NeighborsRetriever(algorithm="nndescent", random_state=0).fit(rows[:N])


@pytest.fixture(scope="module")
def grown(fitted, rows):
    """The same with rows that came one by one; no test changes it either."""
    retriever = copy.copy(fitted)
    for row in range(N, N + N_MORE):
        retriever.partial_fit(rows[row : row + 1])
    return retriever


@pytest.fixture
def never_built(fitted, monkeypatch):
    monkeypatch.setattr(_nndescent.NNDescentEngine, "_build", None)


def engine_of(retriever):
    return retriever._gallery.engine


def exact_of(retriever):
    return NeighborsRetriever(algorithm="exact").fit(retriever.rows())


def assert_finds(retriever, queries, least=0.95):
    found = retriever.kneighbors(queries)[1]
    assert recall(found, exact_of(retriever).kneighbors(queries)[1]) >= least


def edges_of(graph):
    starts, edges = graph.compact()
    return [edges[start:stop].tolist() for start, stop in itertools.pairwise(starts)]


def assert_reached(graph, n):
    """Edges lead to every node from the entry points, and to nothing else."""
    edges, reached = edges_of(graph), set()
    waiting = graph.entry_points.tolist()
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += edges[node]
    assert reached == set(range(n))


class PlainGraph:
    """The rule of relative neighborhoods over lists, in double precision."""

    def __init__(self, rows, edges, parents, n_places):
        self.rows, self.n_places = rows.astype(np.float64), n_places
        self.edges, self.parents = [list(of) for of in edges], list(parents)
        self.removed = set()

    def square(self, a, b):
        return np.sum((self.rows[a] - self.rows[b]) ** 2)

    def link(self, node, near, degree, alpha):
        chosen = []
        for other in near:
            apart = self.square(node, other)
            if len(chosen) < degree and all(alpha * self.square(c, other) >= apart for c in chosen):
                chosen.append(other)
        self.edges.append(chosen)
        self.parents.append(-1)
        for head in chosen:
            self._add_back(head, node)
        for head in near:
            if self.parents[node] < 0:
                self._add_back(head, node)
        if self.parents[node] < 0:
            self.edges[node] = []

    def _add_back(self, head, node):
        is_sure = self.parents[node] < 0
        if len(self.edges[head]) < self.n_places:
            self.edges[head].append(node)
        else:
            stays = {other for other in self.edges[head] if self.parents[other] == head}
            stays |= {node} if is_sure else set()
            if len(stays) > self.n_places:
                return
            kept = []
            others = [*self.edges[head], node]
            alive = [other for other in others if other not in self.removed]
            alive.sort(key=lambda other: self.square(head, other))
            for other in [*alive, *(other for other in others if other in self.removed)]:
                left = len(stays - set(kept))
                hidden = other in self.removed or any(
                    near not in self.removed and self.square(near, other) < self.square(head, other)
                    for near in kept
                )
                if other in stays or (not hidden and len(kept) + left < self.n_places):
                    kept.append(other)
            self.edges[head] = kept
        if is_sure and node in self.edges[head]:
            self.parents[node] = head


def linked_by_both(rows, n_first, n_places, degree, n_near, removed=()):
    """Link rows behind a ring of the first ones; yield the edges of a plain graph, and of ours."""
    n = len(rows)
    ring = [[(node + 1) % n_first] for node in range(n_first)]
    starts = np.arange(n + 1, dtype=np.int32) * n_places
    edges = np.repeat(np.arange(n, dtype=np.int32), n_places)
    edges[starts[:n_first]] = np.ravel(ring)
    tree = kernels.spanning_tree(np.arange(n_first + 1), np.ravel(ring), np.array([0]))
    parents = np.full(n, -1, dtype=np.int32)
    parents[:n_first] = tree
    plain = PlainGraph(rows, ring, tree, n_places)
    indexed = np.arange(n, dtype=np.int32)
    for node in range(n_first, n):
        if node == n // 2:
            plain.removed.update(removed)
            indexed[list(removed)] = -1
        alive = np.array([other for other in range(node) if other not in plain.removed])
        squares = np.sum((rows[alive] - rows[node]) ** 2, axis=1)
        order = np.argsort(squares, kind="stable")[:n_near]
        near, squares = alive[order].astype(np.int32), squares[order]
        arrays = *map(read_only, (rows, indexed[: node + 1], starts)), edges, parents
        is_linked = kernels.link(*arrays, node, near, squares, degree, 1.2)
        plain.link(node, near.tolist(), degree, 1.2)
        assert is_linked == (plain.parents[node] >= 0)
        assert parents[: node + 1].tolist() == plain.parents
        found = edges[: starts[node + 1]].reshape(-1, n_places)
        yield [[e for e in of if e != head] for head, of in enumerate(found.tolist())], plain.edges


@pytest.mark.parametrize("removed", [(), range(3, 60, 4)])
@pytest.mark.parametrize(("n_places", "degree", "n_near"), [(12, 6, 20), (5, 4, 8), (2, 2, 3)])
def test_edges_follow_the_rule_of_relative_neighborhoods(n_places, degree, n_near, removed):
    rows = np.random.default_rng(0).normal(size=(150, 3)).astype(np.float32)
    for found, expected in linked_by_both(rows, 10, n_places, degree, n_near, removed):
        assert found == expected


def test_a_row_for_which_no_node_has_a_place_is_not_linked():
    # A ring whose only places lead on to the next, and one more row: its edge would cut the ring.
    rows = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    *_, (found, expected) = linked_by_both(rows, 4, 1, 1, 2)
    assert found == expected
    assert [] in found


def test_the_tree_leads_to_every_node_that_edges_lead_to():
    rng = np.random.default_rng(0)
    degrees = rng.integers(0, 4, 200)
    starts = np.concatenate([[0], np.cumsum(degrees)])
    edges = rng.integers(0, 200, starts[-1])
    entries = np.array([3, 77])
    parents = kernels.spanning_tree(starts, edges, entries)
    expected, waiting = {}, [*entries.tolist()]
    while waiting:  # breadth first
        node = waiting.pop(0)
        for other in edges[starts[node] : starts[node + 1]].tolist():
            if other not in expected and other not in entries:
                expected[other] = node
                waiting.append(other)
    assert {node: p for node, p in enumerate(parents.tolist()) if p >= 0} == expected


def test_rows_that_come_one_by_one_are_linked_and_found(grown, rows, queries):
    engine = engine_of(grown)
    assert isinstance(engine.index, LinkedGraph)
    assert len(engine.index) == len(engine.indexed) == N + N_MORE
    assert not len(engine.unindexed)
    assert grown.recall_ >= 0.95
    assert_finds(grown, queries)
    own = grown.kneighbors(rows[N:], 1)[1][:, 0]
    assert (own == np.arange(N, N + N_MORE)).mean() >= 0.99
    assert_sound(grown, queries, 10)
    assert_reached(engine.index, N + N_MORE)


def test_rows_of_places_where_no_row_was_are_found(fitted, never_built):
    retriever = copy.copy(fitted)
    new = -make_clusters(500, n_clusters=5, spread=0.02)
    retriever.partial_fit(new[:400])
    assert len(engine_of(retriever).index) == N + 400
    assert_finds(retriever, new[400:])


def test_rows_far_from_all_before_become_entry_points(fitted, rows):
    retriever = copy.copy(fitted)
    retriever.partial_fit(-rows[:50])
    engine = engine_of(retriever)
    graph, n = engine.index, len(engine_of(fitted).index.entry_points)
    assert n < len(graph.entry_points) <= n + 50
    assert len(engine_of(fitted).index.entry_points) == n
    held = engine.rows[engine.indexed[graph.entry_points]]
    np.testing.assert_array_equal(graph.entry_rows, held)
    np.testing.assert_allclose(graph.entry_squares, (held**2).sum(axis=1), rtol=1e-6)
    assert (retriever.kneighbors(-rows[:50], 1)[1][:, 0] == np.arange(N, N + 50)).all()


@pytest.mark.parametrize("n_gone", [100, 300])
def test_rows_come_and_go_without_building_anew(n_gone, fitted, rows, queries, never_built):
    retriever = copy.copy(fitted)
    rng = np.random.default_rng(0)
    for block in np.array_split(rows[N:], 10):
        retriever.partial_fit(block)
        retriever.remove(rng.choice(retriever.ids_, n_gone // 10, replace=False))
    engine = engine_of(retriever)
    assert len(retriever.ids_) == N + N_MORE - n_gone
    assert np.count_nonzero(engine.indexed < 0) == n_gone
    assert_reached(engine.index, N + N_MORE)
    assert_finds(retriever, queries)
    assert_sound(retriever, queries, 10)


def test_a_graph_is_built_anew_once_a_fifth_of_its_rows_was_removed(fitted):
    retriever = copy.copy(fitted)
    n = len(engine_of(retriever).index)
    retriever.remove(np.arange(n // 5))
    index = engine_of(retriever).index
    assert index is engine_of(fitted).index
    retriever.remove([n // 5])
    assert len(engine_of(retriever).index) == n - n // 5 - 1


def test_too_few_rows_for_a_graph_that_removing_leaves_are_searched_exactly(fitted, rows):
    retriever = copy.copy(fitted)
    retriever.remove(np.arange(900, N))
    assert retriever.algorithm_ == "exact"
    assert (retriever.kneighbors(rows[:900], 1)[1][:, 0] == np.arange(900)).all()
    retriever.partial_fit(rows[900:1100])
    assert retriever.algorithm_ == "nndescent"
    assert (retriever.kneighbors(rows[:1100], 1)[1][:, 0] == np.arange(1100)).all()


def test_so_many_rows_that_building_takes_less_time_are_not_linked(fitted, monkeypatch):
    rows = make_clusters(1000, seed=3)
    few, many = copy.copy(fitted), copy.copy(fitted)
    many.partial_fit(rows[:700])
    assert type(engine_of(many).index) is NeighborGraph
    few.partial_fit(rows[:600])
    assert isinstance(engine_of(few).index, LinkedGraph)


@pytest.mark.parametrize(("metric", "dtype"), [("cosine", np.float32), ("euclidean", np.float64)])
def test_copies_zeros_and_rows_far_away_are_found_among_linked_ones(metric, dtype):
    rows = make_clusters(1500, 8).astype(dtype)
    options = {"metric": metric, "random_state": 0}
    found = NeighborsRetriever(3, algorithm="nndescent", **options).fit(rows[:1300])
    expected = NeighborsRetriever(3, algorithm="exact", metric=metric).fit(rows[:1300])
    far = 1e4 * rows[1300:1310]
    new = np.vstack([rows[1300:], rows[7:9], rows[7:8], 0 * rows[:2], rows[1400:1402], far, far])
    for i in range(0, len(new), 5):
        for retriever in (found, expected):
            retriever.partial_fit(new[i : i + 5])
    engine = engine_of(found)
    assert len(engine.copies) >= 15  # of `far` again, of 7, 8, 7, and two more
    queries = np.vstack([rows[7:9], 0 * rows[:1], rows[1400:1402], far])
    for one, other in zip(found.kneighbors(queries), expected.kneighbors(queries)):
        np.testing.assert_array_equal(one, other)
    gone = [7, *range(1500, 1503)]
    for retriever in (found, expected):
        retriever.remove(gone)
        retriever.partial_fit(rows[7:8])
    for one, other in zip(found.kneighbors(queries), expected.kneighbors(queries)):
        np.testing.assert_array_equal(one, other)


def test_rows_that_come_are_asked_for_as_many_neighbors_as_queries_are(fitted, rows):
    retriever = copy.copy(fitted)
    for row in range(N, N + 70):
        retriever.partial_fit(rows[row : row + 1])
    asked = engine_of(retriever).probe.asked
    assert [len(found) for _, found, _ in asked] == [retriever.n_neighbors] * 2
    assert all(np.isfinite(found).all() for _, found, _ in asked)


def test_many_equal_rows_that_come_are_one_node(fitted, rows):
    retriever = copy.copy(fitted)
    retriever.partial_fit(np.repeat(rows[5:6], 300, axis=0))
    assert len(engine_of(retriever).index) == len(engine_of(fitted).index)
    found = retriever.kneighbors(rows[5:6], 200)[1][0]
    assert found.tolist() == [5, *range(N, N + 199)]


@pytest.mark.parametrize("how", ["pickle", "file", "deepcopy"])
def test_linked_rows_are_saved_and_go_on(how, grown, rows, queries, tmp_path):
    if how == "file":
        save(grown, tmp_path / "a.cbir")
        again = load(tmp_path / "a.cbir")
    else:
        again = copy.deepcopy(grown) if how == "deepcopy" else pickle.loads(pickle.dumps(grown))
    assert type(engine_of(again).index) is NeighborGraph
    assert again.recall_ == grown.recall_
    for one, other in zip(grown.kneighbors(queries), again.kneighbors(queries)):
        np.testing.assert_array_equal(one, other)
    again.partial_fit(queries[:50])
    assert len(engine_of(again).index) == N + N_MORE + 50
    assert_finds(again, queries)
    assert len(pickle.dumps(grown)) < engine_of(grown).rows.nbytes * 1.1 + 160 * (N + N_MORE)


def test_a_graph_that_was_saved_before_rows_were_linked_takes_them(fitted, rows, queries):
    state = engine_of(fitted).__getstate__()
    del state["built_recall"], state["built_ef_search"]
    engine = object.__new__(_nndescent.NNDescentEngine)
    engine.__setstate__(state)
    for row in range(N, N + 60):
        engine = engine.add(rows[row : row + 1])
    engine.probe = Probe((0.9,) * 60)
    engine = engine.add(rows[N + 60 : N + 61])
    assert engine.recall == pytest.approx(0.9)
    assert len(engine.index) == N + 61


def test_older_galleries_answer_from_their_own_rows_as_well_as_before(fitted, rows, queries):
    retriever = copy.copy(fitted)
    past = []
    for block in np.array_split(rows[N : N + 240], 8):
        retriever.partial_fit(block)
        past.append(copy.copy(retriever))
    for each in past:  # all share the memory of their edges
        assert engine_of(each).index._held is engine_of(retriever).index._held
        assert each.kneighbors(rows[: N + 240])[1].max() == len(each.ids_) - 1
        assert_finds(each, queries)
        assert_reached(engine_of(each).index, len(each.ids_))
    assert len(pickle.loads(pickle.dumps(past[0])).ids_) == N + 30


def test_two_that_grow_from_one_graph_do_not_meet(grown, queries):
    one, other = copy.copy(grown), copy.copy(grown)
    new = make_clusters(100, seed=5)
    for i in range(50):
        one.partial_fit(new[i : i + 1])
        other.partial_fit(new[i + 50 : i + 51])
    for retriever, own in ((one, new[:50]), (other, new[50:])):
        np.testing.assert_array_equal(
            retriever.kneighbors(own, 1)[1][:, 0], np.arange(N + N_MORE, N + N_MORE + 50)
        )
        assert_finds(retriever, queries)
        assert_reached(engine_of(retriever).index, N + N_MORE + 50)
    assert len(grown.ids_) == N + N_MORE
    assert_finds(grown, queries)


def test_memory_of_edges_is_copied_when_it_is_full(fitted, rows, queries):
    retriever = copy.copy(fitted)
    held = set()
    for block in np.array_split(rows[N:], 20):
        retriever.partial_fit(block)
        held.add(id(engine_of(retriever).index._held))
        engine_of(retriever).held_for_test = engine_of(retriever).index._held
    assert len(held) == 2  # there is room for an eighth
    assert_reached(engine_of(retriever).index, N + N_MORE)


def test_filters_radius_and_like_know_linked_rows(grown, rows, queries):
    exact = NeighborsRetriever(algorithm="exact").fit(rows)
    mask = np.arange(N + N_MORE) % 3 > 0
    found, expected = (r.kneighbors(queries, where=mask)[1] for r in (grown, exact))
    assert mask[found].all()
    assert recall(found, expected) >= 0.95
    only_new = np.arange(N + N_MORE) >= N
    np.testing.assert_array_equal(
        *(r.kneighbors(queries, where=only_new)[1] for r in (grown, exact))
    )
    for one, other in zip(
        grown.radius_neighbors(queries, 0.02), exact.radius_neighbors(queries, 0.02)
    ):
        for of_query, expected in zip(one, other):
            np.testing.assert_array_equal(of_query, expected)
    liked = grown.ids_[[N + 3, 5]]
    np.testing.assert_array_equal(*(r.like(liked, n_neighbors=20)[1] for r in (grown, exact)))
    asked = grown.ids_[N:]
    found, expected = (r.kneighbors(ids=asked)[1] for r in (grown, exact))
    assert recall(found, expected) >= 0.95
    assert not (found == np.arange(N, N + N_MORE)[:, None]).any()


def test_readers_in_other_threads_see_a_whole_gallery(fitted, rows, queries):
    retriever, done, wrong = copy.copy(fitted), threading.Event(), []

    def read():
        while not done.is_set():
            before = len(retriever.ids_)
            distances, positions = retriever.kneighbors(queries[:20])
            after = len(retriever.ids_)
            held = rows[positions.ravel()].astype(float).reshape(*positions.shape, -1)
            cosines = np.einsum("ijk,ik->ij", held, queries[:20].astype(float))
            lengths = np.linalg.norm(held, axis=2) * np.linalg.norm(queries[:20], axis=1)[:, None]
            if (
                positions.max() >= after
                or len(positions[0]) != 10
                or after < before
                or np.abs(distances - 1 + cosines / lengths).max() > 1e-5
                or any(len(set(of)) != 10 for of in positions.tolist())
            ):
                wrong.append((before, after, positions.max()))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for row in range(N, N + N_MORE):
        retriever.partial_fit(rows[row : row + 1])
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert_finds(retriever, queries)


@pytest.mark.parametrize("step", [3, 200, 10**6])
def test_the_probe_counts_what_is_found_of_what_is_nearest(step, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._linking.NUMBERS_COMPARED", step)
    monkeypatch.setattr("sklearn_cbir.index._linking.ROWS_AT_ONCE", 4)
    rng = np.random.default_rng(0)
    rows, indexed = rng.normal(size=(120, 4)).astype(np.float32), np.arange(100, dtype=np.int32)
    indexed[::7] = -1
    probe, expected = Probe((0.25,), n_waited=32), [0.25, 1.0, 0.9, 0.7, 0.0]
    for i, missed in enumerate([[], [0], [0, 3, 8], range(10)]):
        assert probe.is_waiting
        n, query = 60 + 10 * i, rows[110 + i]
        alive = indexed[:n][indexed[:n] >= 0]
        squares = np.sort(((rows[alive] - query) ** 2).sum(axis=1))
        probe = probe.ask(query, np.delete(squares, list(missed))[:10], n)
        for _ in range(32 * (i < 3)):
            assert not probe.is_waiting
            probe = probe.step(rows, indexed)
    n_steps = int(np.ceil(90 / max(1, step // 4)))
    for _ in range(n_steps):
        assert not probe.is_waiting
        assert probe.shares == (0.25,)
        probe = probe.step(rows, indexed)
    assert probe.shares == pytest.approx(expected)
    assert probe.n_waited == n_steps
    assert probe.recall is None


def test_a_probe_row_that_found_too_few_counts_what_is_there():
    rows, indexed = np.eye(8, dtype=np.float32), np.arange(3, dtype=np.int32)
    few, none = Probe(), Probe()
    for _ in range(16):
        few = few.ask(rows[7], np.array([2.0, 2.0, np.inf, np.inf]), 3)
        none = none.ask(rows[7], np.full(4, np.inf), 0)
    assert few.step(rows, indexed).shares == pytest.approx([2 / 3] * 16)
    assert none.step(rows, indexed).shares == (1.0,) * 16


def test_what_new_rows_tell_is_the_recall(fitted, rows, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._linking.ROWS_PER_PROBE", 2)
    retriever = copy.copy(fitted)
    measured = retriever.recall_
    retriever.partial_fit(rows[N : N + 300])
    probe = engine_of(retriever).probe
    # Every second row asks; 16 of them are compared while two come.
    assert len(probe.shares) == 16 * (300 // 33)
    assert retriever.recall_ == min(measured, np.mean(probe.shares))


def test_a_graph_searches_more_and_is_then_built_anew_where_new_rows_find_too_little(
    fitted, rows, monkeypatch
):
    engine, steps = engine_of(fitted), []
    while len(steps) < 30:
        steps.append((engine.ef_search, engine.widest[1], engine.filter_ef_search))
        probed = engine._like(probe=Probe((0.9,) * 50))
        before = probed.index
        engine = probed.add(rows[N : N + 1])
        if engine.index is not before and not isinstance(engine.index, LinkedGraph):
            break
        assert engine.recall == pytest.approx(0.9)
        assert engine.probe.shares == ()
        engine = engine._like(index=engine.index)
    found = np.array(steps)
    first = steps[0][0]
    known = [step for step in engine.ef_searches if first < step <= 4 * first]
    assert found[:, 0].tolist() == pytest.approx([first, *known])
    np.testing.assert_allclose(
        found / found[:, :1], np.tile(found[0] / found[0, 0], (len(found), 1))
    )
    assert engine.recall >= 0.95
    assert engine.ef_search == pytest.approx(first, rel=1e-3)  # some rows more


def test_without_compiled_loops_rows_stay_beside_the_graph(fitted, rows, monkeypatch):
    def fail():
        raise ImportError

    monkeypatch.setattr(_nndescent, "kernels", fail)
    retriever = copy.copy(fitted)
    retriever.partial_fit(rows[N : N + 50])
    engine = engine_of(retriever)
    assert engine.index is engine_of(fitted).index
    assert engine.unindexed.tolist() == list(range(N, N + 50))
    assert (retriever.kneighbors(rows[N : N + 50], 1)[1][:, 0] == np.arange(N, N + 50)).all()


def test_a_row_that_finds_no_place_is_searched_beside_the_graph(fitted, rows, monkeypatch):
    monkeypatch.setattr(LinkedGraph, "link", lambda *arguments: None)
    retriever = copy.copy(fitted)
    retriever.partial_fit(rows[N : N + 20])
    engine = engine_of(retriever)
    assert engine.unindexed.tolist() == list(range(N, N + 20))
    assert len(engine.indexed) == len(engine.index) == N
    assert (retriever.kneighbors(rows[N : N + 20], 1)[1][:, 0] == np.arange(N, N + 20)).all()


def test_memory_of_edges_holds_a_node_in_every_place(fitted):
    graph = engine_of(fitted).index
    held = Edges(graph)
    assert len(held.edges) == held.starts[-1]
    assert held.edges.min() >= 0
    assert held.edges.max() == len(held.parents) - 1
    assert (np.diff(held.starts) >= 48).all()
    for head, expected in enumerate(edges_of(graph)):
        places = held.edges[held.starts[head] : held.starts[head + 1]].tolist()
        assert places == [*expected, *[head] * (len(places) - len(expected))]
