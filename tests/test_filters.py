"""Filters: `where` says which rows of a gallery a search may find, by a mask or by ids."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import config_context
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index._filter import RowFilter

N = 60
NAMES = [f"{i}.jpg" for i in range(N)]
MASK = np.arange(N) % 3 == 0
LEFT = [name for name, is_left in zip(NAMES, MASK) if is_left]


@pytest.fixture
def gallery(rng):
    """A retriever with labels and text ids, and its rows."""
    X, y = rng.normal(size=(N, 8)), np.arange(N) % 4
    return NeighborsRetriever(3).fit(X, y, ids=NAMES), X, y


# What can be given ------------------------------------------------------------------------------


def arrow(values):
    return pytest.importorskip("pyarrow").array(values)


def polars(values):
    return pytest.importorskip("polars").Series(values)


MASKS = {
    "array": np.asarray,
    "list": np.ndarray.tolist,
    "tuple": tuple,
    "objects": lambda mask: mask.astype(object),
    "strided": lambda mask: np.repeat(mask, 2)[::2],
    "Series": pd.Series,
    "other index": lambda mask: pd.Series(mask, index=range(100, 100 + N)),
    "nullable": lambda mask: pd.Series(mask, dtype="boolean"),
    "arrow": arrow,
    "polars": polars,
    "nothing masked": np.ma.array,
}
IDS = {
    "list": list,
    "array": np.array,
    "objects": lambda ids: np.array(ids, dtype=object),
    "reversed": lambda ids: ids[::-1],
    "twice": lambda ids: ids + ids,
    "set": set,
    "frozenset": frozenset,
    "keys": lambda ids: dict.fromkeys(ids).keys(),
    "Series": pd.Series,
    "Index": pd.Index,
    "arrow": arrow,
    "generator": lambda ids: (id_ for id_ in ids),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_anything_that_holds_one_bool_per_row(kind, gallery):
    retriever, X, _ = gallery
    expected = retriever.predict(X, where=LEFT)
    np.testing.assert_array_equal(retriever.predict(X, where=MASKS[kind](MASK)), expected)
    assert set(expected.ravel()) <= set(LEFT)


@pytest.mark.parametrize("kind", IDS)
def test_ids_come_in_any_order_and_container(kind, gallery):
    retriever, X, _ = gallery
    for found, expected in zip(
        retriever.kneighbors(X, where=IDS[kind](LEFT)), retriever.kneighbors(X, where=MASK)
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_filter_is_not_read_again_when_its_array_changes(gallery):
    retriever, X, _ = gallery
    mask = MASK.copy()
    before = retriever.predict(X, where=mask)
    mask[:] = ~mask
    assert not set(retriever.predict(X, where=mask).ravel()) & set(LEFT)
    np.testing.assert_array_equal(retriever.predict(X, where=MASK), before)


def test_ids_that_are_bools_need_a_mask():
    retriever = NeighborsRetriever(1).fit(np.eye(3), ids=[True, False, "a"])
    assert retriever.predict(np.eye(3)[:1], where=[False, True, True]).tolist() == [[False]]
    assert retriever.predict(np.eye(3)[:1], where=["a"]).tolist() == [["a"]]
    with pytest.raises(ValueError, match="where is a mask of 1 bools, but the gallery has 3 rows"):
        retriever.predict(np.eye(3)[:1], where=[True])


def test_rows_left_out_may_ask(gallery):
    retriever, X, _ = gallery
    asking = [name for name in NAMES if name not in LEFT][:5]
    by_id = retriever.kneighbors(None, len(LEFT), ids=asking, where=LEFT)
    rows = X[[NAMES.index(name) for name in asking]]
    for found, expected in zip(by_id, retriever.kneighbors(rows, len(LEFT), where=LEFT)):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    every = retriever.predict(where=LEFT)
    assert every.shape == (N, 3)
    assert not (every == np.array(NAMES)[:, None]).any()


# What cannot ------------------------------------------------------------------------------------

REFUSED = {
    "unknown": (["0.jpg", "x.jpg"], "1 of 2 ids of where are not in the gallery, such as 'x.jpg'"),
    "another type": ([0, 1], r"where\[0\]=0 is not one of text such as '0.jpg'"),
    "one name": ("0.jpg", "where='0.jpg' is one string. Wrap it in a list"),
    "one bool": (True, "where=True is one id"),
    "no ids": ([], "where is empty, so it matches no row"),
    "an empty set": (set(), "where is empty"),
    "no row": (np.zeros(N, bool), "where matches no row: it is False for all 60 rows"),
    "too short": (MASK[:-1], "where is a mask of 59 bools, but the gallery has 60 rows"),
    "too long": ([*MASK, True], "where is a mask of 61 bools, but the gallery has 60 rows"),
    "a column": (MASK[:, None], r"where has shape \(60, 1\). A mask has one bool for each"),
    "a frame": (pd.DataFrame({"a": MASK}), r"where has shape \(60, 1\)"),
    "a scalar": (np.array(True), r"where has shape \(\). A mask"),
    "0 and 1": (MASK.astype(int), "where holds nothing but 0 and 1, .* pass dtype bool"),
    "0.0 and 1.0": (MASK.astype(float), "where holds nothing but 0 and 1, .* pass dtype bool"),
    "missing": (pd.Series([None, *MASK[1:]], dtype="boolean"), r"where\[0\] is .*NA.*, among boo"),
    "something else": ([*MASK[:-1], "a"], r"where\[59\] is 'a', among bools"),
    "masked": (np.ma.array(MASK, mask=MASK), r"where\[0\] is masked"),
    "no id": ([None], r"where\[0\] is None. Ids are text"),
    "complex": (MASK.astype(complex), "Complex data not supported: where"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_filter_is_one_clear_error(kind, gallery):
    retriever, X, y = gallery
    where, message = REFUSED[kind]
    for ask in (
        lambda: retriever.kneighbors(X, where=where),
        lambda: retriever.radius_neighbors(X, 1.0, where=where),
        lambda: retriever.predict(ids=NAMES[:2], where=where),
        lambda: retriever.score(X, y, where=where),
        lambda: retriever.evaluate(where=where),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    retriever.kneighbors(X)


def test_numbers_that_are_a_mask_are_no_ids_even_if_these_are_there(rng):
    X = rng.normal(size=(N, 8))
    retriever = NeighborsRetriever(1).fit(X)
    with pytest.raises(ValueError, match="of dtype int64: these count as ids. For a mask, pass dt"):
        retriever.predict(X, where=MASK.astype(int))
    assert set(retriever.predict(X, where=[0, 1]).ravel()) == {0, 1}
    two = NeighborsRetriever(1).fit(X[:2])
    assert two.predict(X, where=[1, 1]).tolist() == [[1]] * N


def test_fewer_rows_than_neighbors_is_an_error_that_counts_them(gallery):
    retriever, X, _ = gallery
    for ask in (retriever.kneighbors, lambda X, where: retriever.predict(X, where=where)):
        with pytest.raises(ValueError, match="n_neighbors=3, but where matches 2 of 60 rows"):
            ask(X, where=NAMES[:2])
    assert retriever.kneighbors(X, 2, where=NAMES[:2])[1].shape == (N, 2)
    message = (
        "where matches 2 of 60 rows, and a query is one of these rows, but does not find itself"
    )
    with pytest.raises(ValueError, match=f"n_neighbors=2, but {message}"):
        retriever.kneighbors(None, 2, ids=["1.jpg", "5.jpg"], where=NAMES[:2])
    with pytest.raises(ValueError, match=message):
        retriever.kneighbors(X[:1], 2, ids=["0.jpg"], where=NAMES[:2])
    assert retriever.kneighbors(None, 2, ids=["5.jpg"], where=NAMES[:2])[1].tolist()
    assert retriever.kneighbors(None, 1, ids=["1.jpg"], where=NAMES[:2])[1].tolist() == [[0]]
    assert retriever.radius_neighbors(None, 9, ids=["1.jpg"], where=["1.jpg"])[1][0].tolist() == []


def test_queries_are_checked_behind_a_filter_too(gallery):
    retriever, X, _ = gallery
    X = X.copy()
    X[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"X\[1, 2\] is nan"):
        retriever.predict(X, where=MASK)
    with pytest.raises(ValueError, match="8 features"):
        retriever.predict(X[:1, 1:], where=MASK)


# Scores -----------------------------------------------------------------------------------------


def plain_average_precision(relevant):
    """The average precision of one ranked list of bools; NaN if nothing is relevant."""
    hits = [
        sum(relevant[: rank + 1]) / (rank + 1) for rank, is_hit in enumerate(relevant) if is_hit
    ]
    return np.mean(hits) if hits else np.nan


def plain_scores(y, y_queries, distances, left, own):
    """Average precision and recall@5 of every query, by loops over the rows that are left in."""
    scores = {"map": [], "recall@5": []}
    for query in range(len(distances)):
        rows = [row for row in left if row != own[query]]
        rows.sort(key=lambda row: distances[query][row])
        relevant = [bool(y[row] == y_queries[query]) for row in rows]
        scores["map"].append(plain_average_precision(relevant))
        scores["recall@5"].append(any(relevant[:5]) if any(relevant) else np.nan)
    return scores


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "hamming"])
@pytest.mark.parametrize("algorithm", ["exact", "faiss"])
@pytest.mark.filterwarnings("ignore:.*have nothing relevant")
def test_scores_are_those_of_loops_over_the_rows_left_in(metric, algorithm, rng):
    if algorithm == "faiss":
        pytest.importorskip("faiss")
        if metric == "hamming":
            pytest.skip("codes are searched exactly")
    X, y = rng.normal(size=(N, 64)), np.arange(N) % 7
    queries, y_queries = rng.normal(size=(20, 64)), np.arange(20) % 7
    if metric == "hamming":  # no two codes are as far from a query
        X, queries = np.tri(N, 64, dtype=np.uint8)[rng.permutation(N)], np.zeros((20, 64), np.uint8)
        distances = X.sum(axis=1) + np.zeros((20, 1))
    elif metric == "euclidean":
        distances = np.linalg.norm(queries[:, None] - X, axis=2)
    else:
        norms = np.linalg.norm(X, axis=1) * np.linalg.norm(queries, axis=1)[:, None]
        distances = 1 - queries @ X.T / norms
    retriever = NeighborsRetriever(3, metric=metric, algorithm=algorithm).fit(X, y, ids=NAMES)
    left = np.flatnonzero(MASK & (y != 5))  # no row of one class is left in
    where = [NAMES[row] for row in left]
    expected = plain_scores(y, y_queries, distances, left, [-1] * 20)
    results = retriever.evaluate(queries, y_queries, scoring=list(expected), where=where)
    for scoring, values in expected.items():
        np.testing.assert_allclose(results[scoring].per_query, values, atol=1e-12)
        assert np.isnan(values).tolist() == (y_queries == 5).tolist()
    if metric == "euclidean":  # the gallery itself, of which some rows are left in
        own = np.linalg.norm(X[:, None] - X, axis=2)
        expected = plain_scores(y, y, own, left, np.arange(N))
        results = retriever.evaluate(scoring=list(expected), where=where)
        for scoring, values in expected.items():
            np.testing.assert_allclose(results[scoring].per_query, values, atol=1e-12)


def test_a_query_with_nothing_relevant_left_in_does_not_count(gallery):
    retriever, _, y = gallery
    with pytest.raises(ValueError, match="relevant"):
        retriever.score(ids=[NAMES[0]], where=y == 1)
    with pytest.warns(UndefinedMetricWarning, match="1 of 2 queries have nothing relevant"):
        assert 0 < retriever.score(ids=NAMES[:2], where=y == 1) <= 1


@pytest.mark.parametrize("rerank", ["query_expansion", "diffusion", lambda q, d, p, e: -d])
def test_scores_of_few_rows_left_in_are_reranked_too(rerank, gallery):
    retriever, X, y = gallery
    retriever.set_params(rerank=rerank, rerank_depth=10)
    where = np.isin(np.arange(N), [0, 4, 8, 11])
    alone = NeighborsRetriever(3, rerank=rerank, rerank_depth=10)
    alone.fit(X[where], y[where], ids=np.array(NAMES)[where])
    asked = {"X": X[y == 0] + 0.1, "y": y[y == 0]}
    found = retriever.evaluate(**asked, where=where).per_query
    np.testing.assert_allclose(found, alone.evaluate(**asked).per_query)


# Warnings of copies -----------------------------------------------------------------------------


def test_copies_are_warned_of_only_where_they_are_left_in(gallery):
    retriever, X, y = gallery
    with pytest.warns(UserWarning, match="100% of the queries are equal to rows of the gallery"):
        retriever.score(X[MASK], y[MASK], where=MASK)
    others = [f"./{name}" for name in LEFT]
    with pytest.warns(UserWarning, match="100% of the 20 queries whose ids"):
        retriever.predict(X[MASK], ids=others, where=MASK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retriever.score(X[MASK], y[MASK], where=~MASK)
        retriever.predict(X[MASK], ids=others, where=~MASK)
        retriever.predict(X[MASK], ids=LEFT, where=~MASK)  # found, though left out
        retriever.score(X[MASK], y[MASK], ids=LEFT, where=MASK)


# Beside scikit-learn ----------------------------------------------------------------------------


def test_a_pipeline_passes_filters_on_with_and_without_routing(rng):
    X, y = rng.normal(size=(N, 8)), np.arange(N) % 4
    plain = make_pipeline(StandardScaler(), NeighborsRetriever(3)).fit(X, y)
    expected = plain[-1].predict(plain[:-1].transform(X), where=MASK)
    np.testing.assert_array_equal(plain.predict(X, where=MASK), expected)
    assert MASK[expected].all()
    with config_context(enable_metadata_routing=True):
        asking = NeighborsRetriever(3).set_predict_request(where=True)
        routed = make_pipeline(StandardScaler(), asking).fit(X, y)
        np.testing.assert_array_equal(routed.predict(X, where=MASK), expected)
        with pytest.raises(Exception, match="where"):  # nobody has asked for it
            plain.predict(X, where=MASK)
        scoring = NeighborsRetriever(3).set_score_request(where=True)
        scored = make_pipeline(StandardScaler(), scoring).fit(X, y)
        found = scored.score(X[:20] + 0.1, y[:20], where=MASK)
    expected = plain[-1].score(plain[:-1].transform(X[:20] + 0.1), y[:20], where=MASK)
    assert found == expected


def test_rows_ask_a_pipeline_by_their_ids_through_its_last_step(rng):
    X = rng.normal(size=(N, 8))
    pipe = make_pipeline(StandardScaler(), NeighborsRetriever(3)).fit(X)
    with pytest.raises(TypeError):
        pipe.predict(ids=[0, 1])
    assert pipe[-1].predict(ids=[0, 1], where=MASK).shape == (2, 3)


# What a filter is -------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=300), st.data())
def test_numbers_and_positions_are_those_of_a_list(bools, data):
    mask = np.array(bools)
    left = [position for position, is_left in enumerate(bools) if is_left]
    row_filter = RowFilter(mask)
    assert len(row_filter) == len(left)
    positions = data.draw(st.lists(st.integers(-1, len(bools) - 1), max_size=9))
    numbers = [left.index(p) if p in left else -1 for p in positions]
    assert row_filter.numbers(np.array(positions, dtype=np.int64)).tolist() == numbers
    if left:
        some = data.draw(st.lists(st.integers(0, len(left) - 1), min_size=1, max_size=2))
        for _ in range(2):  # by counts, and then by the positions that are known
            assert row_filter.at(np.array([some])).tolist() == [[left[number] for number in some]]
            assert row_filter.positions.tolist() == left
    assert row_filter.mask.tolist() == bools
    assert row_filter.is_like(RowFilter(mask.copy()))
    mask[0] = not mask[0]
    assert not row_filter.is_like(RowFilter(mask))
    for array in (row_filter.mask, row_filter.positions):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0


def test_a_filter_used_again_is_the_same_and_engines_are_not_made_anew(gallery):
    retriever, X, _ = gallery
    held = retriever._gallery
    first = held.filter(MASK)
    assert held.filter(held.mask(MASK.tolist())) is held.filter(held.mask(LEFT)) is first
    engine = held.engine.filtered(first)
    assert held.engine.filtered(held.filter(MASK.copy())) is engine
    other = held.filter(~MASK)
    assert held.engine.filtered(other) is not engine
    copied = pickle.loads(pickle.dumps(retriever))
    assert not {"_filter", "_filtered"} & {*vars(copied._gallery), *vars(copied._gallery.engine)}
    np.testing.assert_array_equal(copied.predict(X, where=MASK), retriever.predict(X, where=MASK))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("n", [64, 500, 5000])
def test_one_query_of_codes_reads_a_mask_where_codes_are_near(share, n, rng):
    """By the mask itself, or by a filter, once it comes again: the answers of a plain list."""
    X = rng.integers(0, 2, (n, 70), dtype=np.uint8)
    retriever = NeighborsRetriever(3, metric="hamming", algorithm="exact").fit(X)
    for mask in rng.random((3, n)) < share:
        mask[rng.choice(n, 4, replace=False)] = True
        for row in (0, n - 1, np.flatnonzero(mask)[0]):
            distances = (X[mask] != X[row]).sum(axis=1)
            order = np.argsort(distances, kind="stable")
            positions = np.flatnonzero(mask)[order]
            others = positions != row
            for _ in range(3):
                found = retriever.kneighbors(X[[row]], where=mask)
                np.testing.assert_array_equal(found[0][0], distances[order][:3])
                np.testing.assert_array_equal(found[1][0], positions[:3])
                found = retriever.kneighbors(ids=[row], where=mask)
                np.testing.assert_array_equal(found[0][0], distances[order][others][:3])
                np.testing.assert_array_equal(found[1][0], positions[others][:3])


def test_a_mask_that_is_written_into_is_read_anew(rng):
    X = rng.integers(0, 2, (300, 64), dtype=np.uint8)
    retriever = NeighborsRetriever(1, metric="hamming").fit(X)
    mask = np.zeros(300, dtype=bool)
    for row in range(0, 300, 7):  # one and the same array
        mask[:] = False
        mask[row] = True
        assert retriever.kneighbors(X[:1], where=mask)[1].tolist() == [[row]]
    mask[:] = True
    assert retriever.kneighbors(X[9:10], where=mask)[1].tolist() == [[9]]


def test_one_query_may_ask_for_all_that_a_mask_leaves_in_and_no_more(rng):
    X = rng.integers(0, 2, (9000, 64), dtype=np.uint8)
    retriever = NeighborsRetriever(3, metric="hamming", algorithm="exact").fit(X)
    mask = np.zeros(9000, dtype=bool)
    mask[[5, 4500, 8999]] = True
    for row in (0, 5):
        assert sorted(retriever.kneighbors(X[[row]], where=mask[:])[1][0]) == [5, 4500, 8999]
    assert sorted(retriever.kneighbors(ids=[0], where=mask[:])[1][0]) == [5, 4500, 8999]
    assert sorted(retriever.kneighbors(ids=[5], n_neighbors=2, where=mask[:])[1][0]) == [4500, 8999]
    with pytest.raises(ValueError, match="matches 3 of 9000 rows, and a query is one"):
        retriever.kneighbors(ids=[5], where=mask[:])
    with pytest.raises(ValueError, match="n_neighbors=4, but where matches 3 of 9000 rows"):
        retriever.kneighbors(X[:1], 4, where=mask[:])
