"""Relevance feedback: one query of what is liked and what is not, beside a plain reference."""

import itertools
import math
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, strategies as st
from search_cases import fit_case
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cbir import NeighborsRetriever

N, N_FEATURES = 60, 9
NAMES = [f"{i}.jpg" for i in range(N)]
CASES = {
    "exact": {"algorithm": "exact"},
    "euclidean": {"metric": "euclidean"},
    "codes": {"metric": "hamming"},
    "float16": {"storage": "float16"},
    "file": {"storage": "memory_map"},
    "file, euclidean": {"storage": "memory_map", "metric": "euclidean"},
    "nndescent": {"algorithm": "nndescent"},
    "faiss": {"algorithm": "faiss", "metric": "euclidean"},
    "milvus": {"algorithm": "milvus"},
    "codes in milvus": {"algorithm": "milvus", "metric": "hamming"},
}


@pytest.fixture(params=CASES)
def case(request, tmp_path, rng):
    """A retriever with text ids, and its rows."""
    X = rng.normal(size=(N, N_FEATURES)).astype(np.float32)
    X[7] = X[3]
    return fit_case(CASES[request.param], X, tmp_path, k=4, ids=NAMES)


def named(*positions):
    return [NAMES[i] for i in positions]


def cosine_distance(a, b):
    norms = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
    return 1 - sum(x * y for x, y in zip(a, b)) / norms


def squared_distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b))


def bits_that_differ(a, b):
    return sum(x != y for x, y in zip(a, b))


def criterion(distance, row, liked, unliked, weight):
    """The mean distance to what is liked less `weight` times that to what is not, by loops."""
    near = sum(distance(row, p) for p in liked) / len(liked)
    far = sum(distance(row, n) for n in unliked) / len(unliked) if unliked else 0
    return near - weight * far


def best_code(liked, unliked, weight, n_bits):
    """The code of least criterion among all that there are, the first of those that tie."""
    codes = itertools.product([0, 1], repeat=n_bits)
    return min(
        codes, key=lambda c: round(criterion(bits_that_differ, c, liked, unliked, weight), 9)
    )


def plain_like(X, metric, liked, unliked, weight):
    """Positions of all rows that were not judged, in the order of the criterion."""
    rows = [[float(x) for x in row] for row in X]
    p, n = [rows[i] for i in liked], [rows[i] for i in unliked]
    if metric == "hamming":
        code = best_code(p, n, weight, len(rows[0]))
        values = [bits_that_differ(row, code) for row in rows]
    else:
        distance = {"cosine": cosine_distance, "euclidean": squared_distance}[metric]
        values = [round(criterion(distance, row, p, n, weight), 6) for row in rows]
    rest = [i for i in range(len(rows)) if i not in {*liked, *unliked}]
    return sorted(rest, key=lambda i: (values[i], i))


@pytest.mark.parametrize(
    ("liked", "unliked", "weight"),
    [([4, 9, 30], [], 0.5), ([4, 9], [11, 50, 3], 0.5), ([4], [11], 0.9), ([4, 9, 7], [8, 2], 0.2)],
    ids=["likes alone", "both", "one of each, nearly as heavy", "light"],
)
def test_rows_are_ranked_by_their_distance_to_likes_less_that_to_the_others(
    case, liked, unliked, weight
):
    retriever, _ = case
    # As they are held: rounded, in half precision.
    expected = plain_like(retriever.rows(), retriever.metric, liked, unliked, weight)
    for k in (1, 5, N - len(liked) - len(unliked)):
        distances, positions = retriever.like(
            named(*liked), named(*unliked), unlike_weight=weight, n_neighbors=k
        )
        assert distances.shape == positions.shape == (1, k)
        assert positions.dtype == np.int64
        assert positions[0].tolist() == expected[:k]
        assert (np.diff(distances[0]) >= 0).all()


@given(data=st.data(), metric=st.sampled_from(["cosine", "euclidean", "hamming"]))
def test_whatever_is_judged_what_is_left_comes_in_the_order_of_the_criterion(data, metric):
    bounds = (0, 1) if metric == "hamming" else (-3, 3)
    n, width = data.draw(st.integers(2, 10)), data.draw(st.integers(1, 4))
    row = st.lists(st.integers(*bounds), min_size=width, max_size=width)
    rows = data.draw(
        st.lists(row if metric == "hamming" else row.filter(any), min_size=n, max_size=n)
    )
    said = data.draw(st.lists(st.sampled_from("+-  "), min_size=n, max_size=n))  # likes, dislikes
    mask = data.draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    weight = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.75]))
    liked, unliked = ([i for i in range(n) if said[i] == sign] for sign in "+-")
    assume(liked)
    left = [i for i in range(n) if said[i] == " " and (mask is None or mask[i])]
    p, q = [rows[i] for i in liked], [rows[i] for i in unliked]
    if metric == "cosine":
        units = np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
        away = weight * units[unliked].mean(axis=0) if unliked else 0
        assume(
            np.abs(units[liked].mean(axis=0) - away).max() > 1e-6
        )  # else nothing has a direction
    X = np.array(rows, dtype=np.uint8 if metric == "hamming" else np.float64)
    retriever = NeighborsRetriever(metric=metric).fit(X)
    options = {"unlike_weight": weight, "where": mask}
    with pytest.raises(ValueError, match="are left without the"):
        retriever.like(liked, unliked, n_neighbors=len(left) + 1, **options)
    if left:
        found = retriever.like(liked, unliked, n_neighbors=len(left), **options)[1][0].tolist()
        assert sorted(found) == left
        if metric == "hamming":
            code = best_code(p, q, weight, width)
            values = [bits_that_differ(rows[i], code) for i in found]
        else:
            distance = {"cosine": cosine_distance, "euclidean": squared_distance}[metric]
            values = [criterion(distance, rows[i], p, q, weight) for i in found]
        assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))


def test_like_one_row_is_what_asks_by_its_id(case):
    retriever, _ = case
    for found, asked in zip(retriever.like(["3.jpg"]), retriever.kneighbors(ids=["3.jpg"])):
        np.testing.assert_array_equal(found, asked)
    row = retriever.rows(["3.jpg"])
    for found, asked in zip(retriever.like(X=row), retriever.kneighbors(row)):
        np.testing.assert_array_equal(found, asked)


def test_neither_order_nor_repeats_nor_the_kind_of_list_matters(case):
    retriever, _ = case
    expected = retriever.like(named(4, 9, 30), named(11, 50))
    for ids, unlike in [
        (named(30, 4, 9), named(50, 11)),
        (named(9, 4, 9, 30, 30), named(50, 11, 50)),
        (set(named(4, 9, 30)), frozenset(named(11, 50))),
        (pd.Series(named(4, 9, 30)), np.array(named(11, 50))),
    ]:
        for found, same in zip(retriever.like(ids, unlike), expected):
            np.testing.assert_array_equal(found, same)


def test_without_weight_what_is_not_liked_is_left_out_and_nothing_more(case):
    retriever, _ = case
    nearest = retriever.like(named(4, 9), n_neighbors=6)[1][0]
    out = nearest[[0, 3]]
    distances, positions = retriever.like(named(4, 9), named(*out), unlike_weight=0)
    assert positions[0].tolist() == [i for i in nearest if i not in out]
    expected = retriever.like(named(4, 9), n_neighbors=6)[0][0, [1, 2, 4, 5]]
    np.testing.assert_array_equal(distances[0], expected)
    for asking in range(5):  # alone, it asks as it is: to the last bit
        every = retriever.kneighbors(ids=named(asking), n_neighbors=N - 1)
        found = retriever.like(named(asking), named(40), unlike_weight=0, n_neighbors=N - 2)
        for some, all_ in zip(found, every):
            np.testing.assert_array_equal(some[0], all_[0, every[1][0] != 40])


def test_rows_that_are_not_in_the_gallery_are_liked_and_not(case):
    retriever, _ = case
    rows = retriever.rows(named(4, 9, 11))
    mixed = retriever.like(named(4), X=rows[1:2], unlike_X=rows[2:], n_neighbors=N - 1)[1][0]
    assert {9, 11} < set(mixed)  # a row without an id is not left out, equal or not
    expected = plain_like(retriever.rows(), retriever.metric, [4, 9], [11], 0.5)
    assert [i for i in mixed if i not in (9, 11)] == expected


def test_empty_arguments_are_as_if_they_were_left_out(case):
    retriever, X = case
    expected = retriever.like(named(4))
    for options in [
        {"unlike": []},
        {"unlike": None},
        {"unlike": set()},
        {"X": X[:0]},
        {"unlike_X": []},
        {"X": pd.DataFrame(X[:0])},
    ]:
        for found, same in zip(retriever.like(named(4), **options), expected):
            np.testing.assert_array_equal(found, same)


def test_as_many_can_be_asked_for_as_are_left(case):
    retriever, _ = case
    positions = retriever.like(NAMES[:30], NAMES[30:57], n_neighbors=3)[1]
    assert sorted(positions[0]) == [57, 58, 59]
    for k in (4, 100):
        message = rf"n_neighbors={k}, but of 60 rows 3 are left without the 57 of ids and unlike"
        with pytest.raises(ValueError, match=message):
            retriever.like(NAMES[:30], NAMES[30:57], n_neighbors=k)
    with pytest.raises(ValueError, match="of 60 rows 0 are left"):
        retriever.like(NAMES, n_neighbors=1)


@pytest.mark.parametrize("by", ["mask", "ids"])
def test_a_filter_says_which_rows_may_be_found_and_not_which_may_be_liked(case, by, rng):
    retriever, _ = case
    mask = rng.random(N) < 0.5
    mask[[4, 11]], mask[[9, 50]] = True, False
    where = mask if by == "mask" else set(named(*np.flatnonzero(mask)))
    liked, unliked = [4, 9], [11, 50]
    expected = plain_like(retriever.rows(), retriever.metric, liked, unliked, 0.5)
    expected = [i for i in expected if mask[i]]
    k = len(expected)
    every = retriever.like(named(*liked), named(*unliked), n_neighbors=N - 4)
    for n in (1, 4, k):
        found = retriever.like(named(*liked), named(*unliked), n_neighbors=n, where=where)
        assert found[1][0].tolist() == expected[:n]
        np.testing.assert_allclose(found[0][0], every[0][0][mask[every[1][0]]][:n], atol=1e-6)
    message = rf"n_neighbors={k + 1}, but of {k + 2} rows that where leaves in {k} are left"
    with pytest.raises(ValueError, match=message):
        retriever.like(named(*liked), named(*unliked), n_neighbors=k + 1, where=where)


def test_a_filter_holds_for_the_reranker_too(case):
    retriever, _ = case
    lengths = []

    def furthest_first(queries, distances, positions, engine):
        lengths.append((len(engine), positions.shape))
        return -np.arange(distances.shape[1])[None]

    mask = np.arange(N) % 2 == 0
    plain = retriever.like(named(4, 9), named(11), n_neighbors=29, where=mask)
    retriever.set_params(rerank=furthest_first)
    found = retriever.like(named(4, 9), named(11), n_neighbors=29, where=mask)
    assert found[1].tolist() == plain[1][:, ::-1].tolist()
    assert lengths == [(30, (1, 29))]


def test_a_mean_of_directions_worked_by_hand():
    gallery = [[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [5.0, 5.0]]
    retriever = NeighborsRetriever(1).fit(gallery)
    # (1, 0) and (0, 1) have the mean (1, 1) / 2; less half of (-1, 0) it is (2, 1) / 2.
    distances, positions = retriever.like([0, 1], [2])
    assert positions.tolist() == [[3]]
    assert distances[0, 0] == pytest.approx(1 - 3 / math.sqrt(10))


def test_a_point_worked_by_hand():
    gallery = [[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, -1.0], [2.0, 0.0]]
    retriever = NeighborsRetriever(2, metric="euclidean").fit(gallery)
    # The means are (1, 0) and (0, 4): ((1, 0) - (0, 4) / 2) / (1 - 1 / 2) is (2, -4).
    distances, positions = retriever.like([0, 1], [2])
    assert positions.tolist() == [[3, 4]]
    np.testing.assert_allclose(distances, [[3.0, 4.0]])


@pytest.mark.parametrize(
    ("liked", "unliked", "weight", "code"),
    [
        ([[1, 1, 0], [1, 0, 0], [1, 1, 1]], [], 0.5, [1, 1, 0]),
        ([[1, 1, 0], [1, 0, 0]], [], 0.5, [1, 0, 0]),  # a tie is 0
        # Above a half by (1/2, 0, 0) against (1/2, 1/2, -1/2): the second goes, the third comes.
        ([[1, 1, 0], [1, 0, 1]], [[1, 1, 0]], 0.5, [1, 0, 1]),
        # (3/5, 4/5) - 1/5 is (2/5, 3/5), of 4/5: a tie, whatever floats make of it, and no tie.
        ([[1, 1], [1, 1], [1, 1], [0, 1], [0, 0]], [[1, 1]], 0.2, [0, 1]),
    ],
    ids=["majority", "tie", "negatives", "rounded tie"],
)
def test_codes_vote_bit_by_bit(liked, unliked, weight, code):
    codes = list(itertools.product([0, 1], repeat=len(code)))
    retriever = NeighborsRetriever(1, metric="hamming").fit(codes)
    distances, positions = retriever.like(
        X=liked, unlike_X=unliked, unlike_weight=weight, n_neighbors=1
    )
    assert [*codes[positions[0, 0]]] == code
    assert distances.tolist() == [[0]]


def test_under_the_euclidean_distance_the_origin_does_not_matter(rng):
    X = rng.normal(size=(40, 5))
    expected = NeighborsRetriever(metric="euclidean").fit(X).like([0, 1], [2, 3])
    for moved in (X + 100, X @ np.linalg.qr(rng.normal(size=(5, 5)))[0]):
        found = NeighborsRetriever(metric="euclidean").fit(moved).like([0, 1], [2, 3])
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_allclose(found[0], expected[0])


def test_under_the_cosine_distance_lengths_do_not_matter(rng):
    X = rng.normal(size=(40, 5))
    expected = NeighborsRetriever().fit(X).like([0, 1], [2, 3])
    scaled = NeighborsRetriever().fit(X * rng.uniform(0.1, 1e3, size=(40, 1))).like([0, 1], [2, 3])
    np.testing.assert_array_equal(scaled[1], expected[1])
    np.testing.assert_allclose(scaled[0], expected[0])


def test_the_reranker_sees_the_query_and_what_was_not_judged(case):
    retriever, _ = case
    seen = []

    def furthest_first(queries, distances, positions, engine):
        seen.append((queries.shape, positions.copy()))
        return -distances + np.arange(distances.shape[1]) * -1e-9

    plain = retriever.like(named(4, 9), named(11), n_neighbors=8)
    retriever.set_params(rerank=furthest_first, rerank_depth=6)
    found = retriever.like(named(4, 9), named(11), n_neighbors=8)
    order = [5, 4, 3, 2, 1, 0, 6, 7]
    assert found[1][0].tolist() == plain[1][0, order].tolist()
    np.testing.assert_array_equal(found[0], plain[0][:, order])
    assert [shape[0] for shape, _ in seen] == [1]
    assert seen[0][1].tolist() == plain[1][:, :6].tolist()
    retriever.set_params(rerank_depth=100)
    assert retriever.like(named(4, 9), named(11), n_neighbors=2)[1].shape == (1, 2)
    assert seen[1][1].shape == (1, N - 3)


def test_named_rerankers_reorder_what_was_found(rng):
    X = rng.normal(size=(40, 8))
    plain = NeighborsRetriever(39).fit(X)
    for name in ("query_expansion", "alpha_query_expansion", "k_reciprocal", "diffusion"):
        found = NeighborsRetriever(39, rerank=name).fit(X).like([0, 5], [7], n_neighbors=37)
        expected = plain.like([0, 5], [7], n_neighbors=37)
        assert sorted(found[1][0]) == sorted(expected[1][0])
        assert found[1].tolist() != expected[1].tolist()


def test_what_an_index_would_miss_between_likes_that_differ_is_found(rng):
    pytest.importorskip("faiss")
    centers = rng.normal(size=(500, 64))
    X = (centers.repeat(10, axis=0) + 0.3 * rng.normal(size=(5000, 64))).astype(np.float32)
    index, exact = (NeighborsRetriever(algorithm=name).fit(X) for name in ("faiss", "exact"))
    for liked in rng.choice(5000, size=(30, 5), replace=False).tolist():
        for where in (None, np.arange(5000) % 2 == 0):
            found, expected = (r.like(liked, where=where) for r in (index, exact))
            np.testing.assert_array_equal(found, expected)


def test_positions_are_those_of_the_gallery_as_it_is(case):
    retriever, X = case
    retriever.remove(named(0, 5))
    retriever.partial_fit(X[5:6], ids=["new.jpg"])
    positions = retriever.like(["new.jpg", "4.jpg"], ["11.jpg"], n_neighbors=N - 4)[1]
    ids = retriever.ids_.tolist()
    judged = [ids.index("new.jpg"), ids.index("4.jpg")], [ids.index("11.jpg")]
    expected = plain_like(retriever.rows(), retriever.metric, *judged, 0.5)
    assert positions[0].tolist() == expected
    with pytest.raises(ValueError, match=r"1 of 2 ids are not in the gallery, such as '5.jpg'"):
        retriever.like(["5.jpg", "4.jpg"])


def test_equal_names_of_columns_are_asked_for(rng):
    X = pd.DataFrame(rng.normal(size=(20, 3)), columns=["a", "b", "c"])
    retriever = NeighborsRetriever(3).fit(X)
    found = retriever.like([1], X=X[:1], unlike_X=X[4:6])[1]
    assert found.shape == (1, 3)
    with pytest.raises(ValueError, match="feature names should match"):
        retriever.like([1], unlike_X=X.rename(columns={"a": "z"}))


def test_the_last_step_of_a_pipeline_is_asked_with_rows_of_those_before(rng):
    X = rng.normal(size=(30, 4))
    search = make_pipeline(StandardScaler(), NeighborsRetriever(3)).fit(X)
    found = search[-1].like(X=search[:-1].transform(X[:2]))[1]
    both = search[-1].like([0, 1], n_neighbors=28)[1]
    assert [i for i in found[0] if i > 1] == both[0, : np.sum(found > 1)].tolist()


FLOATS = [[1.0, 0.0], [0.5, 1.0], [-2.0, 0.0], [0.3, 0.3]]
NOTHING = "Nothing is liked. Pass at least one id of the gallery, or one row as X"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, NOTHING),
        ({"ids": []}, NOTHING),
        ({"ids": np.array([]), "X": np.empty((0, 2))}, NOTHING),
        ({"unlike": ["a"]}, NOTHING),
        ({"unlike_X": FLOATS[:1]}, NOTHING),
        ({"ids": "a"}, r"ids='a' is one string. Wrap it in a list"),
        ({"ids": 3}, r"ids=3 is one id. Wrap it in a list"),
        ({"ids": ["a"], "unlike": "b"}, r"unlike='b' is one string. Wrap it in a list"),
        ({"ids": FLOATS}, r"ids\[0\] is \[1.0, 0.0\]. Ids are text"),
        ({"ids": np.array(FLOATS)}, r"ids has shape \(4, 2\). Give one id per row"),
        ({"ids": ["a", None]}, r"ids\[1\] is None"),
        ({"ids": ["a", 5]}, r"ids\[1\]=5 is not one of text such as 'a'"),
        ({"ids": ["a"], "unlike": [5]}, r"unlike\[0\]=5 is not one of text such as 'a'"),
        ({"ids": ["a", "z"]}, r"1 of 2 ids are not in the gallery, such as 'z'.*as X"),
        (
            {"ids": ["a"], "unlike": ["z"]},
            r"1 of 1 ids of unlike are not in the gallery, such as 'z'.*as unlike_X",
        ),
        ({"ids": ["a", "b"], "unlike": ["b"]}, "'b' is in ids and in unlike. Take it out of one"),
        ({"X": [[np.nan, 1]]}, r"Input X contains NaN: X\[0, 0\]"),
        ({"ids": ["a"], "X": [[np.inf, 1]]}, r"Input X contains infinity"),
        ({"ids": ["a"], "unlike_X": [[1, np.nan]]}, r"Input unlike_X contains NaN: unlike_X\[0, 1"),
        ({"X": [[1, 2, 3]]}, "X has 3 features, but NeighborsRetriever is expecting 2 features"),
        ({"ids": ["a"], "unlike_X": np.ones((2, 3))}, "unlike_X has 3 features.*expecting 2"),
        ({"X": [1.0, 2.0]}, "Expected 2D array, got 1D array"),
        ({"X": "a.jpg"}, "X='a.jpg' is a path, not rows"),
        ({"ids": ["a"], "unlike_X": "a.jpg"}, "unlike_X='a.jpg' is a path, not rows"),
        ({"X": 5}, "Expected 2D array, got scalar"),
        ({"ids": ["a", "c"]}, "cancel each other: their weighted mean is zero"),
        ({"X": [[3.0, 4.0], [-6.6, -8.8]]}, "which has no direction"),
        ({"ids": ["a"], "unlike_weight": 1}, "unlike_weight=1 must be below 1"),
        ({"ids": ["a"], "unlike_weight": -0.1}, "unlike_weight=-0.1 must be a number from 0 to 1"),
        ({"ids": ["a"], "unlike_weight": "all"}, "unlike_weight='all' must be a finite number"),
        ({"ids": ["a"], "n_neighbors": 0}, "n_neighbors=0 must be an integer of at least 1"),
        ({"ids": ["a"], "n_neighbors": 4}, "n_neighbors=4, but of 4 rows 3 are left"),
        ({"ids": ["a"], "where": ["a"]}, "of 1 rows that where leaves in 0 are left without the 1"),
        ({"ids": ["a"], "where": ["z"]}, "1 of 1 ids of where are not in the gallery"),
        ({"ids": ["a"], "where": [False] * 4}, "where matches no row"),
    ],
    ids=str,
)
def test_bad_input_is_one_clear_error(arguments, message):
    retriever = NeighborsRetriever(1).fit(FLOATS, ids=["a", "b", "c", "d"])
    with pytest.raises(ValueError, match=message):
        retriever.like(**arguments)


@pytest.mark.parametrize("side", ["X", "unlike_X"])
def test_floats_are_no_codes(side):
    retriever = NeighborsRetriever(1, metric="hamming").fit([[0, 1], [1, 1], [1, 0]])
    with pytest.raises(ValueError, match="is 0.5, but codes hold only 0 and 1"):
        retriever.like([0], **{side: [[0.5, 1.0]]})


def test_opposites_do_not_cancel_where_something_else_has_a_direction():
    retriever = NeighborsRetriever(1).fit(FLOATS, ids=["a", "b", "c", "d"])
    found = retriever.like(["a", "c"], ["b"])
    np.testing.assert_array_equal(found[1], retriever.kneighbors([[-0.5, -1]], 4)[1][:, 2:3])
    euclidean = NeighborsRetriever(1, metric="euclidean").fit(FLOATS)
    assert euclidean.like([0, 2])[1].tolist() == [[3]]  # their mean is a place as any other


def test_a_row_of_zeros_asks_alone_and_has_no_direction_in_a_mean():
    retriever = NeighborsRetriever(2).fit([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert retriever.like([0])[0].tolist() == [[1.0, 1.0]]
    np.testing.assert_array_equal(retriever.like([0, 1])[1], retriever.like([1], [0])[1])


def test_a_mean_too_large_for_the_rows_is_an_error():
    rows = np.array([[3e38, 0], [-3e38, 0], [1, 1]], dtype=np.float32)
    retriever = NeighborsRetriever(1, metric="euclidean").fit(rows)
    with pytest.raises(ValueError, match="does not fit into float32. Lower unlike_weight"):
        retriever.like([0], [1])
    assert retriever.like([0, 1])[1].tolist() == [[2]]


def test_each_call_is_of_one_gallery_while_another_thread_changes_it(rng):
    X = rng.normal(size=(300, 8))
    retriever = NeighborsRetriever(1).fit(X, ids=[str(i) for i in range(300)])
    done, wrong = threading.Event(), []

    def change():
        for i in range(50, 250):
            retriever.remove([str(i)])
            retriever.partial_fit(X[i : i + 1], ids=[f"again {i}"])
        done.set()

    changing = threading.Thread(target=change)
    changing.start()
    n = 0
    while not done.is_set() or n < 5:
        n += 1
        distances, positions = retriever.like(["3", "4"], ["270"], n_neighbors=296)
        if len(set(positions[0])) != 296 or not (np.diff(distances[0]) >= 0).all():
            wrong.append(positions)
    changing.join()
    assert not wrong
