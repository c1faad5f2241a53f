"""Who asks: rows of the gallery by their ids, each left out of its own results, with any engine."""

import datetime
import uuid
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from search_cases import fit_case

from sklearn_cbir import NeighborsRetriever, persistence
from sklearn_cbir.display import RetrievalDisplay
from sklearn_cbir.model_selection import retrieval_scorer

N = 60
NAMES = [f"{i}.jpg" for i in range(N)]
CASES = {
    "exact": {"algorithm": "exact"},
    "euclidean": {"metric": "euclidean"},
    "codes": {"metric": "hamming"},
    "float16": {"storage": "float16"},
    "file": {"storage": "memory_map"},
    "nndescent": {"algorithm": "nndescent"},
    "faiss": {"algorithm": "faiss"},
    "milvus": {"algorithm": "milvus"},
    "codes in milvus": {"algorithm": "milvus", "metric": "hamming"},
}


@pytest.fixture(params=CASES)
def case(request, tmp_path, rng):
    """A retriever with text ids, and its rows."""
    X = rng.normal(size=(N, 12)).astype(np.float32)
    X[7] = X[3]
    y = np.arange(N) % 4
    return *fit_case(CASES[request.param], X, tmp_path, k=3, y=y, ids=NAMES), y


ASKED = [9, 3, 40, 3, 7]  # 3 and 7 are equal rows


def test_rows_of_the_gallery_ask_by_their_ids(case):
    retriever, _, _ = case
    ids = [NAMES[i] for i in ASKED]
    for found, every in zip(retriever.kneighbors(None, 5, ids=ids), retriever.kneighbors(None, 5)):
        np.testing.assert_array_equal(found, every[ASKED])
    np.testing.assert_array_equal(retriever.predict(ids=ids), retriever.predict()[ASKED])
    graph = retriever.kneighbors_graph(None, 4, "distance", ids=ids)
    assert (graph != retriever.kneighbors_graph(None, 4, "distance")[ASKED]).nnz == 0
    radius = float(np.median(retriever.kneighbors(None, 5)[0]))
    for found, every in zip(
        retriever.radius_neighbors(None, radius, ids=ids), retriever.radius_neighbors(None, radius)
    ):
        for one, other in zip(found, every[ASKED]):
            np.testing.assert_array_equal(one, other)


def test_rows_of_the_gallery_are_scored_by_their_ids(case):
    retriever, _, y = case
    ids = [NAMES[i] for i in ASKED]
    every = retriever.evaluate().per_query[ASKED]
    np.testing.assert_allclose(retriever.evaluate(None, ids=ids).per_query, every, rtol=1e-6)
    assert retriever.score(None, ids=ids) == pytest.approx(every.mean())
    weight = [1, 0, 0, 2, 0]
    weighted = np.average(every, weights=weight)
    assert retriever.score(None, y[ASKED], weight, ids=ids) == pytest.approx(weighted)


def test_rows_are_given_as_they_can_be_asked_with(case):
    retriever, X, _ = case
    rows = retriever.rows([NAMES[i] for i in ASKED])
    if retriever.metric == "cosine":
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
    half = 1e-3 if retriever.storage == "float16" else 1e-6
    np.testing.assert_allclose(rows, X[ASKED], atol=half)
    assert rows.dtype == X.dtype
    np.testing.assert_array_equal(retriever.rows()[ASKED], rows)
    positions = retriever.kneighbors(rows, 1)[1].ravel()
    np.testing.assert_array_equal(positions, [9, 3, 40, 3, 3])  # the first of equal rows
    rows[:] = 0
    assert retriever.rows(NAMES[:1]).any()


def test_one_radius_per_query(case):
    retriever, X, _ = case
    radii = np.array([0.0, np.inf, *np.sort(retriever.kneighbors(X[2:6], 4)[0])[:, -1]])
    distances, positions = retriever.radius_neighbors(X[:6], radii, sort_results=True)
    for row, radius in enumerate(radii):
        alone = retriever.radius_neighbors(X[row : row + 1], radius, sort_results=True)
        np.testing.assert_array_equal(distances[row], alone[0][0])
        np.testing.assert_array_equal(positions[row], alone[1][0])
    assert sorted(positions[1]) == list(range(N))
    graph = retriever.radius_neighbors_graph(X[:6], radii, mode="distance")
    assert graph.shape == (6, N)
    assert np.diff(graph.indptr).tolist() == [len(found) for found in positions]
    own = retriever.radius_neighbors_graph(None, np.inf, ids=NAMES[:2])
    assert own.toarray().sum(axis=1).tolist() == [N - 1, N - 1]
    assert own[0, 0] == own[1, 1] == 0


@pytest.mark.parametrize(
    ("radius", "message"),
    [
        (-0.1, r"radius=-0.1 is not a distance"),
        (np.nan, r"radius=nan is not a distance"),
        ([0.1, np.nan], r"radius\[1\]=nan is not a distance"),
        ([0.1, 0.2, 0.3], r"radius has shape \(3,\).*one for each of the 2 queries"),
        ([[0.1], [0.2]], r"radius has shape \(2, 1\)"),
        ("0.1", r"radius='0.1' is not a number"),
        (True, "radius=True is not a number"),
        ([0.1, [0.2]], "is not a number"),
        (None, "radius is None"),
    ],
)
def test_what_is_no_radius_is_refused(radius, message):
    retriever = NeighborsRetriever().fit(np.eye(3))
    with pytest.raises(ValueError, match=message):
        retriever.radius_neighbors(np.eye(3)[:2], radius)


def test_counted_ids_ask_too(rng):
    X = rng.normal(size=(20, 5))
    retriever = NeighborsRetriever(2).fit(X).remove([0])
    expected = NeighborsRetriever(2).fit(X[1:]).kneighbors()[1] + 1
    np.testing.assert_array_equal(retriever.predict(ids=[5, 1]), expected[[4, 0]])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["0.jpg", "x.jpg"], "1 of 2 ids are not in the gallery, such as 'x.jpg'. Pass the rows"),
        ([], "ids is empty"),
        ({"0.jpg"}, "is a set, which has no order"),
        ("0.jpg", "ids='0.jpg' is one string"),
        ([0], r"ids\[0\]=0 is not one of text such as '0.jpg'"),
        (np.array([["0.jpg"]]), r"ids has shape \(1, 1\)"),
        ([("0.jpg", [1])], r"ids\[0\] is \('0.jpg', \[1\]\)"),
    ],
)
def test_ids_that_cannot_ask_are_refused(ids, message):
    retriever = NeighborsRetriever(1).fit(np.eye(N), np.arange(N) % 2, ids=NAMES)
    for ask in (retriever.kneighbors, retriever.predict, retriever.score, retriever.rows):
        with pytest.raises(ValueError, match=message):
            ask(ids=ids)
    with pytest.raises(ValueError, match=message):
        retriever.radius_neighbors(None, 1, ids=ids)


# ---------------------------------------------------------------- ids of many types


def columns():
    """Names in what holds columns of tables."""
    arrow = pytest.importorskip("pyarrow")
    return {
        "chunked": arrow.chunked_array([NAMES[:20], NAMES[20:]]),
        "arrow": arrow.array(NAMES),
        "dictionary": arrow.array(NAMES).dictionary_encode(),
        "scalars": list(arrow.array(NAMES)),
        "pandas": pd.Series(NAMES, dtype=pd.ArrowDtype(arrow.string())),
        "numpy": np.array(NAMES, dtype=np.dtypes.StringDType()),
    }


@pytest.mark.parametrize("kind", ["chunked", "arrow", "dictionary", "scalars", "pandas", "numpy"])
def test_columns_of_tables_are_plain_text(kind, rng, tmp_path):
    column = columns()[kind]
    X, y = rng.normal(size=(N, 8)), np.arange(N) % 20
    retriever = NeighborsRetriever(2, scoring="recall@1").fit(X, y, ids=column)
    assert retriever.ids_.tolist() == NAMES
    assert retriever.predict(X[:1], ids=column[:1])[0, 0] != NAMES[0]
    named = NeighborsRetriever(2, scoring="recall@1").fit(X, y, ids=NAMES)
    assert retriever.score(X, y, ids=NAMES) == named.score(X, y, ids=column) == named.score()
    assert retriever_score(retriever, X, y, column) == named.score()
    with pytest.raises(ValueError, match=r"ids\[0\]='0.jpg' is in the gallery already"):
        retriever.partial_fit(X[:1], y[:1], ids=column[:1])
    persistence.save(retriever, tmp_path / "gallery.cbir")
    assert persistence.load(tmp_path / "gallery.cbir").remove(column[:3]).n_samples_fit_ == N - 3


def retriever_score(retriever, X, y, ids):
    return retrieval_scorer("recall@1")(retriever, X, y, ids=ids)


OTHERS = {
    "paths": [Path(name) for name in NAMES],
    "bytes": [name.encode() for name in NAMES],
    "uuids": [uuid.UUID(int=i) for i in range(N)],
    "tuples": [(name, 0) for name in NAMES],
    "dates": [datetime.date(2020, 1, 1) + datetime.timedelta(i) for i in range(N)],
    "floats": np.arange(N) / 2,
    "numbers": np.arange(N),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_ids_of_another_type_are_an_error_everywhere(kind, rng):
    X, y = rng.normal(size=(N, 8)), np.arange(N) % 20
    retriever = NeighborsRetriever(1, scoring="recall@1").fit(X, y, ids=OTHERS[kind])
    assert retriever.score(X, y, ids=OTHERS[kind]) == retriever.score()
    message = "like the ids of the gallery: they can never be equal"
    calls = [
        lambda: retriever.kneighbors(X[:1], ids=NAMES[:1]),
        lambda: retriever.radius_neighbors(X[:1], 1, ids=NAMES[:1]),
        lambda: retriever.predict(X[:1], ids=NAMES[:1]),
        lambda: retriever.score(X, y, ids=NAMES),
        lambda: retriever_score(retriever, X, y, NAMES),
        lambda: retriever.partial_fit(X[:1], y[:1], ids=NAMES[:1]),
        lambda: retriever.remove(NAMES[:1]),
        lambda: retriever.rows(NAMES[:1]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    text = NeighborsRetriever(1).fit(X, y, ids=NAMES)
    with pytest.raises(ValueError, match=message):
        text.score(X, y, ids=OTHERS[kind])


def test_true_is_not_the_id_1():
    retriever = NeighborsRetriever(1).fit(np.eye(3), ids=[1, 2.5, "a"])
    with pytest.raises(ValueError, match=r"ids\[0\]=True is not of the type float or int or str"):
        retriever.remove([True])
    assert retriever.remove([1.0]).ids_.tolist() == [2.5, "a"]  # numbers are equal as in Python


@pytest.mark.parametrize("spelling", ["./{}.jpg", "{}.JPG", "photos/{}.jpg"])
def test_ids_of_another_spelling_are_warned_of(spelling, rng):
    X, y = rng.normal(size=(N, 8)), np.arange(N) % 20
    retriever = NeighborsRetriever(1, scoring="recall@1").fit(X, y, ids=NAMES)
    others = [spelling.format(i) for i in range(N)]
    message = "100% of the 60 queries whose ids the gallery does not have are equal to rows"
    for score in (retriever.score, lambda *a, ids: retriever_score(retriever, *a, ids)):
        with pytest.warns(UserWarning, match=message):
            assert score(X, y, ids=others) == 1
    with pytest.warns(UserWarning, match="100% of the 30 queries whose ids"):
        retriever.score(X, y, ids=NAMES[:30] + others[30:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retriever.score(rng.normal(size=(N, 8)), y, ids=others)


def test_searches_warn_of_ids_of_another_spelling_too(case):
    retriever, X, _ = case
    others = [f"./{name}" for name in NAMES]
    message = "queries whose ids the gallery does not have are equal to rows of the gallery"
    for search in (
        retriever.kneighbors,
        retriever.predict,
        lambda X, ids: retriever.radius_neighbors(X, 1.0, ids=ids),
        lambda X, ids: retriever.kneighbors_graph(X, ids=ids),
    ):
        for n in (2, 10):
            with pytest.warns(UserWarning, match=f"100% of the {n} {message}"):
                search(X[:n], ids=others[:n])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            search(X[:10], ids=NAMES[:10])
            search(X[:1], ids=others[:1])  # a copy of another name, for all that is known
            search(X[:10], ids=[*NAMES[:9], "new.jpg"])


def test_a_display_shows_rows_that_are_asked_for_by_id(rng):
    pytest.importorskip("matplotlib").use("agg")
    images = rng.integers(256, size=(N, 8, 8, 3), dtype=np.uint8)
    retriever = NeighborsRetriever(3).fit(rng.normal(size=(N, 8)), ids=NAMES)
    shown = RetrievalDisplay.from_estimator(
        retriever, None, gallery_images=images, ids=["40.jpg", "3.jpg"], n_neighbors=3
    )
    np.testing.assert_array_equal(shown.result_ids, retriever.predict(ids=["40.jpg", "3.jpg"]))


@pytest.mark.parametrize("how", ["copy", "memory_map", "float16", "faiss", "milvus"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_what_is_within_a_radius_is_at_most_that_far(how, metric, rng, tmp_path):
    X = rng.normal(size=(60, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", X)
    parameters = {"algorithm": "exact", "storage": how}
    if how in ("faiss", "milvus"):
        pytest.importorskip("milvus_lite" if how == "milvus" else how)
        parameters = {"algorithm": how, "uri": str(tmp_path / "rows.db") if how[0] == "m" else None}
    given = tmp_path / "rows.npy" if how == "memory_map" else X
    retriever = NeighborsRetriever(metric=metric, **parameters).fit(given)
    distances, positions = retriever.kneighbors(X[:5], 60)
    for radius in (*distances[0, [1, 7, 30]], *np.quantile(distances, [0.05, 0.4]), np.inf, 1e300):
        near, found = retriever.radius_neighbors(X[:5], radius)
        for row in range(5):
            inside = distances[row] <= radius
            np.testing.assert_array_equal(np.sort(found[row]), np.sort(positions[row][inside]))
            np.testing.assert_array_equal(np.sort(near[row]), distances[row][inside])
