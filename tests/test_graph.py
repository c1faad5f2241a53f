"""The loops of the graph, beside plain ones."""

import copy
import itertools
import pickle

import numba
import numpy as np
import pytest

from sklearn_cbir.index import _graph_kernels as kernels
from sklearn_cbir.index._graph import NeighborGraph, _grouped, _linked_from, link_rows
from sklearn_cbir.index._nndescent import NNDescentEngine

N, DEGREE = 300, 12


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def rows(request):
    return np.random.default_rng(0).normal(size=(N, 5)).astype(request.param)


def squares_of(rows):
    difference = rows[:, None].astype(np.float64) - rows[None]
    return (difference**2).sum(axis=2)


def find_neighbors(rows):
    squares = squares_of(rows)
    numbers = np.argsort(squares, axis=1, kind="stable")[:, : DEGREE + 1]
    found = np.take_along_axis(squares, numbers, axis=1)
    numbers[:, 0] = -1  # the row itself
    return numbers.astype(np.int32), found


def links_of(starts, links):
    return [links[start:stop].tolist() for start, stop in itertools.pairwise(starts)]


@pytest.mark.parametrize("slack", [1.0, 1.2])
def test_prune_drops_what_a_kept_neighbor_is_nearer_to(rows, slack):
    neighbors, squares = find_neighbors(rows)
    between = squares_of(rows)
    kept = kernels.prune(rows, neighbors, squares, 4, slack)
    for row in range(N):
        expected = []
        for candidate, far in zip(neighbors[row], squares[row]):
            if candidate >= 0 and all(slack * between[candidate, k] >= far for k in expected):
                expected.append(candidate)
        assert [link for link in kept[row] if link >= 0] == expected[:4]


def test_joined_links_lead_both_ways(rows):
    kept = kernels.prune(rows, *find_neighbors(rows), 6, 1.0)
    expected = [set() for _ in range(N)]
    for row in range(N):
        for link in kept[row][kept[row] >= 0]:
            expected[row].add(int(link))
            expected[link].add(row)
    found = links_of(*kernels.symmetrize(rows, kept, N))
    assert [set(links) for links in found] == expected
    assert all(len(set(links)) == len(links) for links in found)
    between = squares_of(rows)
    assert all((np.diff(between[row, links]) >= 0).all() for row, links in enumerate(found))


def test_joined_links_are_few_where_many_link_to_a_row():
    # 40 rows around one: each links to the middle, which keeps those in different directions.
    rng = np.random.default_rng(0)
    rows = np.vstack([np.zeros((1, 3)), rng.normal(size=(40, 3))])
    rows[1:] /= np.linalg.norm(rows[1:], axis=1, keepdims=True)
    kept = np.zeros((41, 1), dtype=np.int32)
    kept[0] = -1
    links = links_of(*kernels.symmetrize(rows, kept, 8))
    assert 1 <= len(links[0]) <= 8
    between = squares_of(rows)
    assert all(between[a, b] >= 1 for a in links[0] for b in links[0] if a != b)
    assert links[1:] == [[0]] * 40


def test_every_row_is_a_neighbor_of_one_that_was_chosen(rows):
    neighbors, _ = find_neighbors(rows)
    chosen = kernels.dominating_set(neighbors)
    assert len(chosen) < N / 2
    assert {*neighbors[chosen].ravel(), *chosen} == {-1, *range(N)}


def search(graph, rows, places, queries, k, effort):
    return graph.search(rows, places.astype(np.int32), queries, k, effort)


def test_a_walk_that_keeps_everything_in_mind_is_exact(rows):
    graph, order = link_rows(rows, find_neighbors)
    queries = np.random.default_rng(1).normal(size=(300, 5)).astype(rows.dtype)
    numbers, squares = search(graph, rows, order, queries, 7, N)
    expected = ((queries[:, None] - rows[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(order[numbers], np.argsort(expected, axis=1)[:, :7])
    np.testing.assert_allclose(squares, np.sort(expected, axis=1)[:, :7], rtol=1e-5)


def test_rows_that_come_later_are_linked_and_found(rows):
    first = rows[:250]
    graph, order = link_rows(first, find_neighbors)
    number = np.full(N + 1, -1, dtype=np.int32)
    number[order], number[250:N] = np.arange(250), np.arange(250, N)
    number[7] = -1  # a row that is not in the graph
    neighbors, squares = (part[250:] for part in find_neighbors(rows))
    graph.extend(rows, neighbors, squares, number)
    assert len(graph) == N
    kept = kernels.prune(rows, neighbors, squares, 24, 1.2)
    links = links_of(graph.starts, graph.edges)
    for new, expected in enumerate(kept, start=250):
        expected = {number[row] for row in expected[expected >= 0]} - {-1}
        assert expected <= set(links[new])
        assert all(new in links[link] for link in expected)
    order = np.concatenate([order, np.arange(250, N)])
    numbers, _ = search(graph, rows, order, rows[250:], 1, 60)
    np.testing.assert_array_equal(order[numbers[:, 0]], np.arange(250, N))


def test_the_nearest_of_some_rows_are_told_whatever_their_lengths():
    rng = np.random.default_rng(0)
    few = rng.normal(size=(30, 4)) * np.geomspace(0.1, 10, 30)[:, None]
    rows = np.concatenate([few, rng.normal(size=(200, 4)) * rng.uniform(0.1, 10, (200, 1))])
    nearest = squares_of(rows)[30:, :30].argmin(axis=1)
    graph = NeighborGraph(np.zeros(31, dtype=np.int32), np.zeros(0, np.int32), np.arange(30), few)
    np.testing.assert_array_equal(graph._nearest_entry(rows[30:]), nearest)
    chosen = rng.permutation(30)
    nothing = np.zeros(231, dtype=np.int64), np.zeros(0, dtype=np.int32)
    links = links_of(*_linked_from(rows, *nothing, chosen, np.arange(30, 230)))
    assert (
        links == [(30 + np.flatnonzero(nearest == row)).tolist() for row in range(30)] + [[]] * 200
    )


def test_rows_that_were_removed_are_passed_but_not_found(rows):
    graph, order = link_rows(rows, find_neighbors)
    queries = np.random.default_rng(1).normal(size=(40, 5)).astype(rows.dtype)
    keep = np.sort(np.random.default_rng(2).permutation(N)[:90])
    places = np.full(N, -1)
    places[keep] = np.arange(90)
    numbers, _ = search(graph, rows[keep], places[order], queries, 90, 90)
    # Each is reached through the others.
    assert (np.sort(order[numbers], axis=1) == keep).all()
    numbers, squares = search(graph, rows[keep], places[order], queries, 95, 95)
    assert (numbers[:, 90:] == -1).all()
    assert np.isinf(squares[:, 90:]).all()


def test_near_rows_have_near_numbers(rows):
    graph, order = link_rows(rows, find_neighbors)
    assert sorted(order) == list(range(N))
    begin = squares_of(rows)[np.ix_(order, order[graph.entry_points])].argmin(axis=1)
    assert (np.diff(begin) >= 0).all()
    neighbors = kernels.prune(rows, *find_neighbors(rows), 24, 1.2)
    for number, links in enumerate(links_of(graph.starts, graph.edges)):
        kept = neighbors[order[number]]
        assert set(kept[kept >= 0]) <= set(order[links])


def test_groups_without_a_near_row_between_them_are_linked(monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._graph.MAX_ENTRY_POINTS", 3)
    rng = np.random.default_rng(0)
    rows = np.repeat(100 * rng.normal(size=(20, 5)), 15, axis=0) + rng.normal(size=(N, 5))
    graph, _ = link_rows(rows, find_neighbors)
    assert len(graph.entry_points) <= 3
    reached, waiting = set(), [int(graph.entry_points[0])]
    links = links_of(graph.starts, graph.edges)
    while waiting:
        row = waiting.pop()
        if row not in reached:
            reached.add(row)
            waiting += links[row]
    assert len(reached) == N


def test_rows_that_all_choose_the_same_neighbors_take_few_steps(rows, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._graph.MAX_ENTRY_POINTS", 10)
    n_compared = []

    def find_the_first(rows):
        n_compared.append(len(rows))
        numbers = np.tile(np.arange(5, dtype=np.int32), (len(rows), 1))
        numbers[np.arange(5), np.arange(5)] = -1
        return numbers, np.ones(numbers.shape)

    graph, _ = link_rows(rows, find_the_first)
    assert len(n_compared) == 2  # the second step would leave almost as many again, and so on
    assert len(graph.entry_points) == 10
    reached = kernels.reachable(graph.starts, graph.edges, graph.entry_points)
    assert reached.all()


def test_groups_of_rows_are_linked_again_as_long_as_that_halves_them(rows, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._graph.MAX_ENTRY_POINTS", 2)
    n_compared = []
    graph, _ = link_rows(rows, lambda few: n_compared.append(len(few)) or find_neighbors(few))
    assert all(after < before / 2 for before, after in itertools.pairwise(n_compared))
    # The last step leaves rows of which all that it compared are neighbors: these few.
    assert n_compared[-1] > 2 >= len(graph.entry_points)
    assert len(n_compared) > 2


def test_many_queries_at_once_are_answered_as_one_by_one(rows, monkeypatch):
    # One byte per row says by which of 255 queries it was seen; every 255th query is in a place
    # that no other comes by.
    monkeypatch.setattr("sklearn_cbir.index._graph.MAX_ENTRY_POINTS", 1)
    graph, order = link_rows(rows, find_neighbors)
    asked = np.where(np.arange(600) % 255 == 0, rows[:, 0].argmin(), rows[:, 0].argmax())
    queries = rows[asked]
    numbers, squares = search(graph, rows, order, queries, 5, 10)
    for i in range(0, 600, 51):
        alone = search(graph, rows, order, queries[i : i + 1], 5, 10)
        np.testing.assert_array_equal(numbers[i : i + 1], alone[0])
        np.testing.assert_array_equal(squares[i : i + 1], alone[1])


def test_groups_of_entry_points_hold_each_once_around_their_middle(monkeypatch):
    rng = np.random.default_rng(0)
    for n in (1, 5, 64, 700, 1500):
        few, nodes = rng.normal(size=(n, 4)), rng.permutation(10_000)[:n].astype(np.int32)
        centers, _, starts, grouped = _grouped(few, nodes)
        assert sorted(grouped) == sorted(nodes)
        assert len(centers) == len(starts) - 1 <= max(64, n // 8)
        place = {node: few[i] for i, node in enumerate(nodes)}
        for center, members in zip(centers, links_of(starts, grouped)):
            np.testing.assert_allclose(center, np.mean([place[i] for i in members], axis=0))


def test_equal_entry_points_are_one_group():
    centers, half_squares, starts, nodes = _grouped(np.ones((100, 3)), np.arange(100))
    assert len(centers) == 1
    assert half_squares == [1.5]
    assert starts.tolist() == [0, 100]
    assert nodes.tolist() == list(range(100))


def with_codes(rows, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._graph.BYTES_AT_LEAST", 0)
    graph, order = link_rows(rows, find_neighbors)
    graph.choose_codes(rows, order.astype(np.int32), rows[:100], 7)
    assert graph.n_coded == len(graph)
    return graph, order


def test_codes_are_within_half_a_step_of_the_rows(rows, monkeypatch):
    graph, order = with_codes(rows, monkeypatch)
    codes, norms, center, steps = graph._codes(rows, order).arrays
    assert codes.dtype == np.int8
    np.testing.assert_allclose(np.ptp(rows, axis=0), 254 * steps, rtol=1e-5)
    error = np.abs(center + steps * codes - rows[order])
    assert (error <= 0.501 * steps).all()
    np.testing.assert_allclose(norms, ((steps * codes) ** 2).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("far", [0, 1, 1e3])
def test_codes_lead_to_the_distances_of_the_rows_themselves(far, rows, monkeypatch):
    graph, order = with_codes(rows, monkeypatch)
    queries = np.random.default_rng(1).normal(size=(300, 5)).astype(rows.dtype) + rows.dtype.type(
        far
    )
    numbers, squares = search(graph, rows, order, queries, 7, N)
    expected = ((queries[:, None] - rows[None]).astype(np.float64) ** 2).sum(axis=2)
    np.testing.assert_allclose(squares, np.sort(expected, axis=1)[:, :7], rtol=1e-5)
    found = np.take_along_axis(expected, order[numbers].astype(np.int64), axis=1)
    np.testing.assert_allclose(found, squares, rtol=1e-5)


def test_codes_find_nearly_what_rows_find_with_as_much_search(rows, monkeypatch):
    graph, order = with_codes(rows, monkeypatch)
    queries = np.random.default_rng(1).normal(size=(300, 5)).astype(rows.dtype)
    by_codes = search(graph, rows, order, queries, 5, 15)[0]
    # Whatever the codes say is what the walk goes by.
    codes, norms, *others = graph._codes(rows, order).arrays
    graph._made_codes.arrays = 0 * codes, norms, *others
    assert (by_codes != search(graph, rows, order, queries, 5, 15)[0]).mean() > 0.1
    graph._use_codes(None, 0)
    by_rows = search(graph, rows, order, queries, 5, 15)[0]
    assert np.mean([np.isin(*nodes).mean() for nodes in zip(by_codes, by_rows)]) > 0.98


@pytest.mark.parametrize(("effort", "more"), [(5, 1), (15, 1), (16, 2), (40, 3)])
def test_codes_keep_more_candidates_of_which_they_take_one_for_another(
    effort, more, rows, monkeypatch
):
    graph, order = with_codes(rows, monkeypatch)
    found = search(graph, rows, order, rows[:50], effort + more + 1, effort)[0]
    assert (found[:, :-1] >= 0).all()
    assert (found[:, -1] == -1).all()
    graph._use_codes(None, 0)
    found = search(graph, rows, order, rows[:50], effort + 1, effort)[0]
    assert (found[:, -1] == -1).all()


def test_rows_that_codes_cannot_tell_apart_are_compared_themselves(rows, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._graph.BYTES_AT_LEAST", 0)
    rows = np.vstack([rows, np.full((1, 5), 1e4, dtype=rows.dtype)])  # as long as all steps
    squares = squares_of(rows)
    near = np.argsort(squares, axis=1, kind="stable")[:, : DEGREE + 1].astype(np.int32)
    near[:, 0] = -1
    far = np.take_along_axis(squares, np.maximum(near, 0), axis=1)
    graph, order = link_rows(rows, lambda few: (near, far) if len(few) > N else find_neighbors(few))
    graph.choose_codes(rows, order.astype(np.int32), rows[:100], 7)
    assert not graph.n_coded
    assert len(graph._codes(rows, order).arrays[0]) == 0


@pytest.mark.parametrize(("n_columns", "dtype"), [(31, np.float32), (15, np.float64)])
def test_short_rows_are_compared_themselves(n_columns, dtype):
    rows = np.random.default_rng(0).normal(size=(N, n_columns)).astype(dtype)
    graph, order = link_rows(rows, find_neighbors)
    graph.choose_codes(rows, order.astype(np.int32), rows[:50], 5)
    assert not graph.n_coded
    wider = np.hstack([rows, rows[:, :1]])
    graph, order = link_rows(wider, find_neighbors)
    graph.choose_codes(wider, order.astype(np.int32), wider[:50], 5)
    assert graph.n_coded == len(graph)


def test_rows_that_come_after_the_codes_are_found_among_them(rows, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._graph.BYTES_AT_LEAST", 0)
    graph, order = link_rows(rows[:250], find_neighbors)
    graph.choose_codes(rows, order.astype(np.int32), rows[:50], 5)
    assert graph.n_coded == len(graph)
    number = np.full(N, -1, dtype=np.int32)
    number[order], number[250:] = np.arange(250), np.arange(250, N)
    neighbors, squares = (part[250:] for part in find_neighbors(rows))
    graph.extend(rows, neighbors, squares, number)
    order = np.concatenate([order, np.arange(250, N)])
    queries = np.random.default_rng(1).normal(size=(300, 5)).astype(rows.dtype)
    expected = np.argsort(((queries[:, None] - rows[None]) ** 2).sum(axis=2), axis=1)[:, :7]
    for n_coded in (250, N):
        numbers, _ = search(graph, rows, order, queries, 7, N)
        assert len(graph._codes(rows, order).arrays[0]) == graph.n_coded == n_coded
        np.testing.assert_array_equal(order[numbers], expected)
        numbers, _ = search(graph, rows, order, rows[250:], 1, 15)
        assert (order[numbers[:, 0]] == np.arange(250, N)).mean() > 0.9
        graph.code_all()


def test_rows_that_were_removed_have_no_code_and_are_passed(rows, monkeypatch):
    graph, order = with_codes(rows, monkeypatch)
    graph = pickle.loads(pickle.dumps(graph))  # which makes the codes anew
    keep = np.sort(np.random.default_rng(2).permutation(N)[:90])
    places = np.full(N, -1)
    places[keep] = np.arange(90)
    numbers, _ = search(graph, rows[keep], places[order], rows[:40], 90, 90)
    assert (np.sort(order[numbers], axis=1) == keep).all()


def test_a_pickle_has_no_codes_and_those_of_earlier_versions_use_none(rows, monkeypatch):
    graph, order = with_codes(rows, monkeypatch)
    expected = search(graph, rows, order, rows[:50], 5, 15)
    state = graph.__getstate__()
    assert not any(name.startswith("_") for name in state)
    restored = pickle.loads(pickle.dumps(graph))
    for one, other in zip(search(restored, rows, order, rows[:50], 5, 15), expected):
        np.testing.assert_array_equal(one, other)
    del state["n_coded"], state["code_range"]
    former = type(graph).__new__(type(graph))
    former.__setstate__(state)
    assert not former.n_coded


def test_numbers_too_large_for_codes_are_refused_quietly(monkeypatch):
    monkeypatch.setattr("sklearn_cbir.index._graph.BYTES_AT_LEAST", 0)
    rows = np.random.default_rng(0).normal(size=(N, 5))
    graph, order = link_rows(rows, find_neighbors)
    large = (rows * 1e37).astype(np.float32)
    graph.choose_codes(large, order.astype(np.int32), large[:50], 5)
    numbers, squares = search(graph, large, order, large[:50], 5, 15)
    assert np.isinf(squares).any() or not graph.n_coded
    assert ((numbers >= 0) & (numbers < N)).all()


DAMAGES = {
    "edges begin elsewhere": lambda g: {"starts": np.r_[np.int32(1), g.starts[1:]]},
    "edges end later": lambda g: {"edges": np.r_[g.edges, np.int32(0)]},
    "edges end earlier": lambda g: {"edges": g.edges[:-1]},
    "a node ends before it starts": lambda g: {
        "starts": np.r_[g.starts[:1], g.starts[-1:], g.starts[2:]]
    },
    "an edge to nothing": lambda g: {"edges": np.r_[g.edges[:-1], np.int32(-1)]},
    "an edge beyond the last node": lambda g: {"edges": np.r_[g.edges[:-1], np.int32(len(g))]},
    "an entry beyond the last node": lambda g: {"entry_points": g.entry_points + len(g)},
    "an entry too few": lambda g: {"entry_points": g.entry_points[1:]},
    "a row too few": lambda g: {"entry_rows": g.entry_rows[1:]},
    "a square too few": lambda g: {"entry_squares": g.entry_squares[1:]},
    "no entry": lambda g: {
        name: getattr(g, name)[:0] for name in ("entry_points", "entry_rows", "entry_squares")
    },
    "codes of more nodes": lambda g: {"n_coded": len(g) + 1, "code_range": [g.entry_rows[0]] * 2},
    "codes of no range": lambda g: {"n_coded": 1},
    "codes of fewer columns": lambda g: {"n_coded": 1, "code_range": [g.entry_rows[0, 1:]] * 2},
    "starts that are no integers": lambda g: {"starts": g.starts.astype(float)},
    "edges that are no integers": lambda g: {"edges": g.edges.astype(float)},
    "entries that are no integers": lambda g: {"entry_points": g.entry_points.astype(float)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_graph_is_refused_before_loops_walk_through_it(damage, rows):
    graph, _ = link_rows(rows, find_neighbors)
    restored = type(graph).__new__(type(graph))
    restored.__setstate__(vars(graph))
    assert len(restored) == N
    with pytest.raises(ValueError, match="graph of this gallery is damaged"):
        restored.__setstate__(vars(graph) | DAMAGES[damage](graph))


@pytest.fixture(scope="module")
def engine():
    rows = np.random.default_rng(0).normal(size=(1100, 4)).astype(np.float32)
    return NNDescentEngine("euclidean", random_state=0).build(rows)


@pytest.mark.parametrize("part", ["a node more", "a node less", "another row", "wider rows"])
def test_a_graph_of_another_gallery_is_refused(part, engine):
    state = engine.__getstate__()
    indexed, index = state["indexed"], copy.copy(state["index"])
    if part == "a node more":
        indexed = indexed[:-1]
    elif part == "a node less":
        indexed = np.r_[indexed, indexed[:1]]
    elif part == "another row":
        indexed = np.r_[indexed[:-1], np.int32(len(engine))]
    else:
        index.entry_rows = np.pad(index.entry_rows, ((0, 0), (0, 1)))
    restored = object.__new__(NNDescentEngine)
    restored.__setstate__(state)
    with pytest.raises(ValueError, match="not that of this gallery"):
        restored.__setstate__(state | {"indexed": indexed, "index": index})


def test_all_numbers_of_half_precision_are_read_as_they_are():
    @numba.njit
    def read(rows):
        numbers = np.empty(len(rows), dtype=np.float32)
        for i in range(len(rows)):
            numbers[i] = kernels.as_float(rows[i])
        return numbers

    bits = np.arange(2**16, dtype=np.uint16)
    numbers = bits.view(np.float16)
    is_finite = np.isfinite(numbers)
    np.testing.assert_array_equal(read(bits)[is_finite], numbers[is_finite].astype(np.float32))
    floats = np.array([-0.0, 1e-40, 3.25, 1e30])
    np.testing.assert_array_equal(read(floats), floats.astype(np.float32))


def test_the_most_similar_groups_are_chosen_in_order():
    rng = np.random.default_rng(0)
    for n in (1, 3, 4, 5, 60):
        for _ in range(20):
            similarity = rng.integers(0, 30, n).astype(np.float32)
            chosen = np.full(4, -1)
            size = kernels.choose_groups(similarity, chosen)
            assert size == min(n, 4)
            expected = np.argsort(-similarity, kind="stable")[:size]
            np.testing.assert_array_equal(chosen[:size], expected)


@pytest.mark.parametrize("n_queries", [1, 3])
def test_fewer_queries_than_columns_are_answered_by_codes_as_many_are(n_queries, rows, monkeypatch):
    graph, order = with_codes(rows, monkeypatch)
    queries = np.random.default_rng(1).normal(size=(60, 5)).astype(rows.dtype)
    together = search(graph, rows, order, queries, 5, 9)
    few = search(graph, rows, order, queries[:n_queries], 5, 9)
    for one, other in zip(few, together):
        np.testing.assert_array_equal(one, other[:n_queries])
