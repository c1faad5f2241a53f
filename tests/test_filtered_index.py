"""Filters of approximate engines: as sure as the recall says, whatever a filter leaves out."""

import copy
import pickle
import threading

import numpy as np
import pytest
from search_cases import make_clusters, recall

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index import ENGINES, _approximate, _faiss
from sklearn_cbir.index._approximate import FilteredIndex

N, N_CLUSTERS = 3000, 30


def clusters_of(n, seed=0):
    """The cluster of every row that `make_clusters` returns."""
    return np.random.default_rng(seed).integers(N_CLUSTERS, size=n)


@pytest.fixture(scope="module", params=["nndescent", "faiss_lists", "faiss_graph"])
def algorithm(request):
    """Every index; of few rows it answers filters all the same."""
    name, _, kind = request.param.partition("_")
    if name == "faiss":
        pytest.importorskip("faiss")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ENGINES[name].find("euclidean"), "rows_per_neighbor", 1)
        if kind == "graph":
            patch.setattr(_faiss, "GRAPH_FROM_ROWS", 1000)
        yield name


@pytest.fixture(scope="module")
def rows():
    # Classes are wide and near each other, so that a query has neighbors in several.
    return make_clusters(N, spread=0.6)


@pytest.fixture(scope="module")
def queries():
    return make_clusters(300, spread=0.6, seed=2)


@pytest.fixture(scope="module")
def fitted(algorithm, rows):
    """A retriever that no test changes."""
    return NeighborsRetriever(algorithm=algorithm, metric="euclidean", random_state=0).fit(rows)


def exact_of(rows):
    return NeighborsRetriever(algorithm="exact", metric="euclidean").fit(rows)


def assert_exact(retriever, rows, queries, mask, k=10):
    """What is found is what comparing all finds, to the last bit."""
    found = retriever.kneighbors(queries, k, where=mask)
    for one, other in zip(found, exact_of(rows).kneighbors(queries, k, where=mask)):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def asked(monkeypatch):
    """How many queries every exact search has had."""
    asked = []
    engine = type(exact_of(np.eye(3))._gallery.engine)
    search = engine.query

    def query(self, queries, k):
        asked.append(len(queries))
        return search(self, queries, k)

    monkeypatch.setattr(engine, "query", query)
    return asked


@pytest.mark.parametrize("share", [0.99, 0.9, 0.5, 0.25])
def test_what_is_left_in_by_chance_is_found_by_the_index(share, fitted, rows, queries, asked):
    mask = np.random.default_rng(3).random(N) < share
    assert fitted.recall_ >= 0.95
    found = fitted.kneighbors(queries, where=mask)[1]
    assert sum(asked) < len(queries) / 10  # all others without comparing all
    assert recall(found, exact_of(rows).kneighbors(queries, where=mask)[1]) >= 0.95


def test_an_index_is_asked_for_what_a_filter_needs_and_some_more(fitted, queries, monkeypatch):
    engine, asked = type(fitted._gallery.engine), []
    search = engine._ask

    def ask(self, index, queries, k, ef_search):
        asked.append((k, len(queries)))
        return search(self, index, queries, k, ef_search)

    monkeypatch.setattr(engine, "_ask", ask)
    for every, k in [(1000, 10), (10, 10), (2, 10), (2, 4)]:
        is_every = np.arange(N) % every == 0
        mask = is_every if every == 2 else ~is_every
        share = mask.mean()
        asked.clear()
        fitted.kneighbors(queries, k, where=mask)
        (first, n_first), *more = asked
        assert n_first == len(queries)
        assert k / share < first < k / share + 2.5 * np.sqrt(k) / share
        # What too few were left in of is asked for four times as much.
        reach = fitted._gallery.engine.filter_reach
        for (before, _), (n, _) in zip(asked, more):
            assert n == min(4 * before, reach)
        assert sum(n for _, n in more) < 0.1 * len(queries)


@pytest.mark.parametrize("n_kept", [27, 15, 8, 4])
def test_queries_of_classes_that_are_left_out_find_as_much_as_others(n_kept, fitted, rows, queries):
    mask, within = clusters_of(N) < n_kept, clusters_of(300, seed=2) < n_kept
    found = fitted.kneighbors(queries, where=mask)[1]
    expected = exact_of(rows).kneighbors(queries, where=mask)[1]
    assert mask[found].all()
    for which in (within, ~within):
        assert recall(found[which], expected[which]) >= 0.95


@pytest.mark.parametrize("size", [5, 12, 25, 60, 150])
def test_what_is_found_does_not_depend_on_the_size_of_the_group_that_is_left_out(size, algorithm):
    # Photos of one scene say, whose own scene is left out: all that is near a query.
    n_groups, spread = N // size, 0.3
    rows = make_clusters(N, 8, n_groups, spread=spread)
    group = np.random.default_rng(0).integers(n_groups, size=N)
    retriever = NeighborsRetriever(algorithm=algorithm, random_state=0).fit(rows)
    exact, shares = NeighborsRetriever(algorithm="exact").fit(rows), []
    queries = make_clusters(500, 8, n_groups, spread=spread, seed=2)
    group_of_query = np.random.default_rng(2).integers(n_groups, size=500)
    for left_out in range(30):
        mine, mask = queries[group_of_query == left_out], group != left_out
        if len(mine):
            found, expected = (r.kneighbors(mine, where=mask)[1] for r in (retriever, exact))
            shares += [len(set(a) & set(b)) / 10 for a, b in zip(found, expected)]
    assert np.mean(shares) >= 0.95


def test_queries_with_nothing_left_in_nearby_are_answered_exactly(fitted, rows, queries):
    nearest = np.unique(fitted.kneighbors(queries[:3], 300)[1])
    mask = np.ones(N, dtype=bool)
    mask[nearest] = False
    assert_exact(fitted, rows, queries[:3], mask)


def test_few_rows_left_in_are_compared_with_every_query(algorithm, fitted, rows, queries, asked):
    mask = np.arange(N) < 40
    assert_exact(fitted, rows, queries, mask)
    asked.clear()
    fitted.kneighbors(queries, where=mask)
    assert sum(asked) == len(queries)


def test_an_index_answers_only_where_that_takes_less_time(
    fitted, rows, queries, asked, monkeypatch
):
    mask = np.arange(N) % 10 > 0
    fitted.kneighbors(queries, where=mask)
    assert sum(asked) < len(queries)
    monkeypatch.setattr(type(fitted._gallery.engine), "rows_per_neighbor", 1000)
    assert_exact(fitted, rows, queries, mask)


def test_any_number_of_neighbors_up_to_all_that_are_left_in(fitted, rows, queries):
    mask = np.arange(N) != 1234
    for k in (1, 11, 100, 256, 257, N - 1):
        distances, positions = fitted.kneighbors(queries[:20], k, where=mask)
        assert positions.shape == (20, k)
        assert mask[positions].all()
        assert (np.diff(distances, axis=1) >= 0).all()
        assert all(len(set(row)) == k for row in positions)
        expected = exact_of(rows).kneighbors(queries[:20], k, where=mask)[1]
        assert recall(positions, expected) >= 0.95
    assert_exact(fitted, rows, queries[:20], mask, N - 1)


def test_a_copy_is_found_where_the_row_that_it_repeats_is_left_out(algorithm, rows):
    # Every row stands three times; only the first of them is in the index.
    rows = np.vstack([rows[:1500]] * 3)
    retriever = NeighborsRetriever(algorithm=algorithm, metric="euclidean", random_state=0)
    retriever.fit(rows)
    queries = rows[:100] + 1e-3
    for first, second, third in [(0, 1, 1), (0, 0, 1), (1, 0, 1), (0, 1, 0)]:
        mask = np.repeat([first, second, third], 1500) == 1
        mask[[7, 1507, 3007]] = False  # and one that is not there at all
        found = retriever.kneighbors(queries, 6, where=mask)
        expected = exact_of(rows).kneighbors(queries, 6, where=mask)
        assert recall(found[1], expected[1]) >= 0.95
        sure = (found[1] == expected[1]).all(axis=1)
        assert sure.mean() >= 0.7
        np.testing.assert_array_equal(found[0][sure], expected[0][sure])


def test_rows_beside_the_index_are_found_whether_it_has_others_or_not(algorithm, rows, queries):
    retriever = NeighborsRetriever(algorithm=algorithm, metric="euclidean", random_state=0)
    retriever.fit(rows)
    retriever.partial_fit(queries[:100])  # too few to be indexed
    every = np.vstack([rows, queries[:100]])
    only, all_but_one = np.arange(N + 100) >= N, np.arange(N + 100) != N + 1
    assert_exact(retriever, every, queries, only)
    distances, found = retriever.kneighbors(queries[:100], where=all_but_one)
    assert (found[:, 0] == N + np.arange(100)).sum() == 99
    assert (distances[:, 0] == 0).sum() == 99
    assert not (found == N + 1).any()


def test_zero_rows_and_queries_of_zeros_are_left_in_or_out(algorithm, rows, queries):
    rows, queries = rows.copy(), queries.copy()
    rows[10:13], queries[0] = 0, 0
    retriever = NeighborsRetriever(algorithm=algorithm, random_state=0).fit(rows)  # cosine
    exact = NeighborsRetriever(algorithm="exact").fit(rows)
    for left_out in ([10], [11, 12], [10, 11, 12]):
        mask = ~np.isin(np.arange(N), left_out)
        found, expected = (r.kneighbors(queries, where=mask) for r in (retriever, exact))
        np.testing.assert_array_equal(found[1][0], expected[1][0])
        assert recall(found[1], expected[1]) >= 0.95


def test_filters_follow_a_gallery_that_changes(algorithm, fitted, rows, queries):
    retriever = copy.deepcopy(fitted)
    mask = np.arange(N) % 3 > 0
    before = retriever.kneighbors(queries, where=mask)[1]
    gone = np.unique(before[:, 0])[:100]
    retriever.remove(gone)
    left = np.delete(np.arange(N), gone)
    found = left[retriever.kneighbors(queries, where=mask[left])[1]]
    expected = left[exact_of(rows[left]).kneighbors(queries, where=mask[left])[1]]
    assert recall(found, expected) >= 0.95
    assert mask[found].all()
    assert not np.isin(found, gone).any()


def test_a_loaded_gallery_answers_filters_alike(fitted, queries):
    mask = np.arange(N) % 4 > 0
    loaded = pickle.loads(pickle.dumps(fitted))
    for found, expected in zip(
        loaded.kneighbors(queries, where=mask), fitted.kneighbors(queries, where=mask)
    ):
        np.testing.assert_array_equal(found, expected)


def test_what_was_saved_before_there_were_filters_answers_them_exactly(fitted, rows, queries):
    state = pickle.loads(pickle.dumps(fitted))
    for name in ("filter_reach", "filter_ef_search"):
        vars(state._gallery.engine).pop(name)
    assert_exact(pickle.loads(pickle.dumps(state)), rows, queries, np.arange(N) % 4 > 0)


def test_an_index_that_finds_too_few_of_the_last_neighbors_leaves_filters_to_exact_search(
    algorithm, rows, queries, monkeypatch
):
    monkeypatch.setattr(
        _approximate.ApproximateEngine,
        "_shares_of_last",
        lambda self, queries, n, *more: np.ones(5) * (n < 60),
    )
    retriever = NeighborsRetriever(algorithm=algorithm, metric="euclidean", random_state=0)
    engine = retriever.fit(rows)._gallery.engine
    assert engine.filter_reach == 40
    assert_exact(retriever, rows, queries, np.arange(N) % 3 == 0)
    monkeypatch.setattr(
        _approximate.ApproximateEngine, "_shares_of_last", lambda *arguments: np.zeros(5)
    )
    assert retriever.fit(rows)._gallery.engine.filter_reach == 0
    assert_exact(retriever, rows, queries, np.arange(N) % 10 > 0)


@pytest.mark.parametrize(
    ("n_neighbors", "rows_per_neighbor", "reach"),
    [(128, 1, 256), (129, 1, 0), (10, 149, 256), (10, 150, 0)],
)
def test_only_what_may_be_asked_for_is_probed_for_filters(
    n_neighbors, rows_per_neighbor, reach, algorithm, rows, monkeypatch
):
    # The last n_neighbors of twice as many, in less time than all 3,000 rows are compared in.
    engine = ENGINES[algorithm].find("euclidean")
    monkeypatch.setattr(engine, "rows_per_neighbor", rows_per_neighbor)
    monkeypatch.setattr(engine, "_shares_of_last", lambda *arguments: np.ones(5))
    retriever = NeighborsRetriever(
        n_neighbors, algorithm=algorithm, recall_target=0.5, random_state=0
    )
    assert retriever.fit(rows)._gallery.engine.filter_reach == reach


def test_the_search_for_filters_grows_to_four_times_that_without_until_it_finds_enough(
    algorithm, rows, monkeypatch
):
    tried = []

    def shares(self, queries, n, k, nearest, ef_search):
        tried.append(ef_search)
        return np.ones(5) * (len(set(tried)) > 2)

    monkeypatch.setattr(_approximate.ApproximateEngine, "_shares_of_last", shares)
    retriever = NeighborsRetriever(algorithm=algorithm, metric="euclidean", random_state=0)
    engine = retriever.fit(rows)._gallery.engine
    steps = sorted(set(tried))
    more = engine.ef_search / steps[0]  # than was tried, once a graph holds the probe rows
    assert 1 <= more < 1.2
    assert steps[-1] <= 4 * steps[0]
    assert engine.filter_reach == 256
    assert engine.filter_ef_search == pytest.approx(more * steps[2])


def test_queries_with_a_filter_are_answered_alike_alone_and_together(fitted, queries):
    mask = np.isin(clusters_of(N), np.arange(0, N_CLUSTERS, 2))  # some are asked again, or exactly
    together = fitted.kneighbors(queries[:60], where=mask)
    alone = [fitted.kneighbors(query[None], where=mask) for query in queries[:60]]
    for part in range(2):
        np.testing.assert_array_equal(np.vstack([one[part] for one in alone]), together[part])


def test_two_threads_with_filters_of_their_own(fitted, queries):
    masks = [np.arange(N) % 10 > 0, np.arange(N) % 10 < 9]
    expected = [fitted.kneighbors(queries, where=mask)[1] for mask in masks]
    wrong = []

    def ask(mask, right):
        for _ in range(5):
            wrong.extend((fitted.kneighbors(queries, where=mask)[1] != right).ravel())

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(masks, expected)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(wrong)


def test_a_filtered_index_is_an_engine_of_what_is_left_in(fitted, rows, queries):
    mask = np.arange(N) % 5 > 0
    engine = fitted._gallery.engine.filtered(fitted._gallery.filter(mask))
    assert isinstance(engine, FilteredIndex)
    assert len(engine) == mask.sum()
    assert engine.name == fitted.algorithm_
    assert engine.metric == "euclidean"
    assert engine.recall == fitted.recall_
    np.testing.assert_array_equal(engine.rows, fitted._gallery.engine.rows[mask])
    grown = engine.add(queries[:2])
    assert len(grown) == len(engine) + 2
    assert len(grown.remove(np.arange(5))) == len(engine) - 3
    assert len(engine.remove(np.arange(5))) == len(engine) - 5


def test_the_first_row_that_is_left_in_is_found_as_any_other(fitted, rows):
    mask = np.random.default_rng(0).random(N) < 0.7
    first = np.flatnonzero(mask)[0]
    distances, positions = fitted.kneighbors(rows[[first, N - 1]], 5, where=mask)
    filtered = fitted._gallery.engine._filtered[1]
    assert isinstance(filtered, FilteredIndex)
    assert (positions[0, 0], distances[0, 0]) == (first, 0)
    near = rows[first] + np.zeros((40, 1), dtype=rows.dtype)
    assert (fitted.kneighbors(near, 5, where=mask)[1][:, 0] == first).all()
