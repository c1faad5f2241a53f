"""Re-rankers against plain loops written from the papers, and on a planted manifold."""

import itertools
import math
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.model_selection import retrieval_scorer
from sklearn_cbir.reranking import (
    RERANKERS,
    AlphaQueryExpansion,
    AverageQueryExpansion,
    DiffusionReranker,
    KReciprocalReranker,
)

METRICS = ("cosine", "euclidean", "hamming")
CASES = [
    (name, metric) for name in RERANKERS for metric in METRICS if metric in RERANKERS[name].metrics
]


def make_rows(rng, n, metric, n_features=12):
    if metric == "hamming":
        return rng.integers(0, 2, (n, 70), dtype=np.uint8)
    return rng.normal(size=(n, n_features)) + 0.7


# ------------------------------------------------------- references, row by row


def distance(a, b, metric):
    if metric == "hamming":
        return sum(abs(float(x) - float(y)) for x, y in zip(a, b))
    if metric == "euclidean":
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)))
    dot = sum(x * y for x, y in zip(a, b))
    return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def weighted_mean(rows, weights, metric):
    rows = [unit(row) if metric == "cosine" else [float(x) for x in row] for row in rows]
    total = sum(weights)
    return [sum(w * row[j] for w, row in zip(weights, rows)) / total for j in range(len(rows[0]))]


def average_reference(query, results, metric, n_neighbors=5):
    members = [query, *results[:n_neighbors]]
    mean = weighted_mean(members, [1] * len(members), metric)
    return [distance(mean, row, metric) for row in results]


def alpha_reference(query, results, metric, n_neighbors=10, alpha=3.0):
    members = [query, *results[:n_neighbors]]
    weights = [max(0, 1 - distance(query, row, metric)) ** alpha for row in members]
    mean = weighted_mean(members, weights, metric)
    return [distance(mean, row, metric) for row in results]


def nearest_sets(table, k):
    """The k nearest rows of every row, and itself."""
    sets = []
    for i, row in enumerate(table):
        others = sorted((j for j in range(len(row)) if j != i), key=lambda j: (row[j], j))
        sets.append([i, *others[:k]])
    return sets


def k_reciprocal_reference(
    query, results, metric, n_neighbors=20, n_averaged=6, distance_weight=0.3, form="paper"
):
    if form == "code":
        code = n_neighbors, n_averaged, distance_weight
        return k_reciprocal_code_reference(query, results, metric, *code)
    rows = [query, *results]
    table = [[distance(a, b, metric) for b in rows] for a in rows]
    largest = max(map(max, table))
    table = [[d / largest for d in row] for row in table]

    def reciprocal(k):
        near = nearest_sets(table, k)
        return [{j for j in near[i] if i in near[j]} for i in range(len(rows))]

    whole, half = reciprocal(n_neighbors), reciprocal((n_neighbors + 1) // 2)
    features = []
    for i in range(len(rows)):
        expanded = set(whole[i])
        for j in whole[i]:
            if len(whole[i] & half[j]) >= 2 / 3 * len(half[j]):
                expanded |= half[j]
        values = [math.exp(-table[i][j]) if j in expanded else 0 for j in range(len(rows))]
        features.append([value / sum(values) for value in values])
    near = nearest_sets(table, n_averaged - 1)
    features = [
        [sum(features[j][c] for j in near[i]) / len(near[i]) for c in range(len(rows))]
        for i in range(len(rows))
    ]
    numbers = []
    for i in range(1, len(rows)):
        smaller = sum(min(a, b) for a, b in zip(features[0], features[i]))
        larger = sum(max(a, b) for a, b in zip(features[0], features[i]))
        jaccard = 1 - smaller / larger
        numbers.append((1 - distance_weight) * jaccard + distance_weight * table[0][i])
    return numbers


def k_reciprocal_code_reference(query, results, metric, n_neighbors, n_averaged, distance_weight):
    """What the authors' program does, row by row."""
    rows = [query, *results]
    power = 2 if metric == "euclidean" else 1  # the others are squared lengths already
    table = [[distance(a, b, metric) ** power for b in rows] for a in rows]
    table = [[d / max(row) for d in row] for row in table]
    near, half = nearest_sets(table, n_neighbors), nearest_sets(table, round(n_neighbors / 2))
    features = []
    for i, row in enumerate(table):
        mutual = [j for j in near[i] if i in near[j]]
        expanded = set(mutual)
        for j in mutual:
            of_neighbor = [c for c in half[j] if j in half[c]]
            if len(set(of_neighbor) & set(mutual)) > 2 / 3 * len(of_neighbor):
                expanded |= set(of_neighbor)
        values = [math.exp(-row[j]) if j in expanded else 0 for j in range(len(rows))]
        features.append([value / sum(values) for value in values])
    nearest = nearest_sets(table, n_averaged - 1)
    means = [np.mean([features[j] for j in nearest[i]], axis=0) for i in range(len(rows))]
    smaller = [np.minimum(means[0], mean).sum() for mean in means[1:]]
    return [
        (1 - distance_weight) * (1 - s / (2 - s)) + distance_weight * d
        for s, d in zip(smaller, table[0][1:])
    ]


def diffusion_reference(query, results, metric, n_neighbors=10, n_sources=5, alpha=0.9, gamma=3.0):
    rows = [query, *results]
    table = [[distance(a, b, metric) for b in rows] for a in rows]
    near = nearest_sets(table, n_neighbors)

    def similarity(i, j):
        if metric == "cosine":
            return max(0, 1 - table[i][j]) ** gamma
        power = 2 if metric == "euclidean" else 1
        reach = [table[k][near[k][-1]] ** power for k in (i, j)]
        return math.exp(-(table[i][j] ** power) / math.sqrt(reach[0] * reach[1]))

    n = len(results)
    among = nearest_sets([row[1:] for row in table[1:]], n_neighbors)
    graph = [[0.0] * n for _ in range(n)]
    for i, j in itertools.permutations(range(n), 2):
        if j in among[i] and i in among[j]:
            graph[i][j] = similarity(i + 1, j + 1)
    degrees = [sum(row) for row in graph]
    start = [0.0] * n
    for j in near[0][1:][:n_sources]:
        start[j - 1] = similarity(0, j)
    flow = list(start)
    for _ in range(400):  # the flow itself, not the equation of its balance
        flow = [
            start[i]
            + alpha
            * sum(
                graph[i][j] / math.sqrt(degrees[i] * degrees[j]) * flow[j]
                for j in range(n)
                if graph[i][j]
            )
            for i in range(n)
        ]
    return [-f for f in flow]


REFERENCES = {
    "query_expansion": average_reference,
    "alpha_query_expansion": alpha_reference,
    "k_reciprocal": k_reciprocal_reference,
    "diffusion": diffusion_reference,
}


def test_every_reranker_has_a_reference():
    assert REFERENCES.keys() == RERANKERS.keys()


def assert_agrees(rerank, reference, metric, rng, **parameters):
    gallery, queries = make_rows(rng, 60, metric), make_rows(rng, 3, metric)
    retriever = NeighborsRetriever(60, metric=metric, rerank_depth=25).fit(gallery)
    plain = retriever.kneighbors(queries)[1]
    found = retriever.set_params(rerank=rerank).kneighbors(queries)[1]
    for query, before, after in zip(queries, plain, found):
        results = gallery[before[:25]].tolist()
        numbers = np.round(reference(query.tolist(), results, metric, **parameters), 9)
        order = np.lexsort((np.arange(25), numbers))  # ties stay in the order of the distances
        np.testing.assert_array_equal(after[:25], before[:25][order])
        np.testing.assert_array_equal(after[25:], before[25:])


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_reranker_agrees_with_its_reference(name, metric, rng):
    assert_agrees(name, REFERENCES[name], metric, rng)


@pytest.mark.parametrize(
    ("reranker", "metric"),
    [
        (AverageQueryExpansion(1), "euclidean"),
        (AverageQueryExpansion(99), "hamming"),
        (AlphaQueryExpansion(4, alpha=0.5), "cosine"),
        (AlphaQueryExpansion(99, alpha=7.0), "cosine"),
        (KReciprocalReranker(7, n_averaged=1, distance_weight=0.1), "euclidean"),
        (KReciprocalReranker(99, n_averaged=3, distance_weight=0.5), "cosine"),
        (KReciprocalReranker(6, n_averaged=99, distance_weight=0.0), "hamming"),
        (KReciprocalReranker(form="code"), "euclidean"),
        (KReciprocalReranker(5, n_averaged=1, form="code"), "cosine"),
        (KReciprocalReranker(6, n_averaged=3, form="code"), "hamming"),
        (DiffusionReranker(4, n_sources=1, alpha=0.5), "hamming"),
        (DiffusionReranker(99, n_sources=99, alpha=0.8, gamma=1.0), "cosine"),
        (DiffusionReranker(3, n_sources=2, alpha=0.7), "euclidean"),
    ],
    ids=str,
)
def test_reranker_with_other_parameters_agrees_with_its_reference(reranker, metric, rng):
    names = {cls: name for name, cls in RERANKERS.items()}
    reference = REFERENCES[names[type(reranker)]]
    assert_agrees(reranker, reference, metric, rng, **reranker.get_params())


@pytest.mark.parametrize("form", ["paper", "code"])
def test_k_reciprocal_at_given_rows(form):
    square = np.subtract.outer([0.0, 2, 3, 7], [0, 2, 3, 7]) ** 2
    reranker = KReciprocalReranker(2, n_averaged=1, distance_weight=0.0, form=form)
    found = reranker._reorder(square, "euclidean")
    # Mutual neighbors of 0 and of 2 are 0, 2 and 3; 7 has none but itself.
    if form == "paper":
        query, result = np.array([0, 2, 3]) / 7, np.array([2, 0, 1]) / 7
    else:
        query, result = np.array([0, 4, 9]) / 49, np.array([4, 0, 1]) / 25
    weights = [np.exp(-row) / np.exp(-row).sum() for row in (query, result)]
    common = np.minimum(*weights).sum()
    assert found[0] == pytest.approx(1 - common / (2 - common))
    assert found[2] == 1


# ------------------------------------------------------------------- claims


def chains(rng, n_classes=5, n=40):
    """Classes that are thin arcs on the sphere: far ends of one are further than another class."""
    rows = []
    for _ in range(n_classes):
        frame = np.linalg.qr(rng.normal(size=(6, 6)))[0][:, :2]
        angle = np.linspace(0, 2.2, n)
        rows.append(np.column_stack([np.cos(angle), np.sin(angle)]) @ frame.T)
    X = np.concatenate(rows) + 0.02 * rng.normal(size=(n_classes * n, 6))
    return X, np.repeat(np.arange(n_classes), n)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("name", RERANKERS)
def test_reranking_finds_more_on_a_planted_manifold(name, metric, rng):
    if metric not in RERANKERS[name].metrics:
        return
    X, y = chains(rng)
    retriever = NeighborsRetriever(metric=metric).fit(X, y)
    plain = retriever.score()
    gain = 0.05 if name in ("diffusion", "k_reciprocal") else 0.0
    assert retriever.set_params(rerank=name).score() > plain + gain


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "reranker",
    [
        AverageQueryExpansion(0),
        AlphaQueryExpansion(0),
        KReciprocalReranker(distance_weight=1.0),
        DiffusionReranker(alpha=0.0),
    ],
    ids=str,
)
def test_a_reranker_that_is_switched_off_changes_nothing(reranker, metric, rng):
    if metric not in reranker.metrics:
        return
    if isinstance(reranker, DiffusionReranker) and metric != "cosine":
        return  # its sources are ordered by a similarity of their own
    gallery, queries = make_rows(rng, 50, metric), make_rows(rng, 9, metric)
    y = rng.integers(3, size=50)
    plain = NeighborsRetriever(40, metric=metric).fit(gallery, y)
    turned = NeighborsRetriever(40, metric=metric, rerank=reranker).fit(gallery, y)
    for before, after in zip(plain.kneighbors(queries), turned.kneighbors(queries)):
        np.testing.assert_array_equal(before, after)
    assert turned.score(queries, y[:9]) == pytest.approx(plain.score(queries, y[:9]))


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_one_result_stays_where_it_is(name, metric, rng):
    rows = make_rows(rng, 20, metric)
    plain = NeighborsRetriever(19, metric=metric).fit(rows)
    turned = NeighborsRetriever(19, metric=metric, rerank=name, rerank_depth=1).fit(rows)
    np.testing.assert_array_equal(plain.kneighbors()[1], turned.kneighbors()[1])


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_each_query_is_looked_at_alone(name, metric, rng):
    gallery, queries = make_rows(rng, 40, metric), make_rows(rng, 5, metric)
    retriever = NeighborsRetriever(20, metric=metric, rerank=name).fit(gallery)
    together = retriever.predict(queries)
    for query, expected in zip(queries, together):
        np.testing.assert_array_equal(retriever.predict(query[None])[0], expected)


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_a_query_of_the_gallery_is_left_out_of_the_reranking_too(name, metric, rng):
    rows = make_rows(rng, 40, metric)
    retriever = NeighborsRetriever(20, metric=metric, rerank=name).fit(rows)
    own = retriever.kneighbors()[1][7]
    others = np.delete(np.arange(40), 7)
    without = NeighborsRetriever(20, metric=metric, rerank=name).fit(rows[others])
    np.testing.assert_array_equal(own, others[without.kneighbors(rows[7:8])[1][0]])


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_rows_without_direction_and_equal_rows_give_numbers(name, metric):
    rows = np.zeros((12, 3), dtype=np.uint8 if metric == "hamming" else float)
    rows[6:, 1] = 1
    positions = NeighborsRetriever(12, metric=metric, rerank=name).fit(rows).kneighbors(rows)[1]
    assert (np.sort(positions, axis=1) == np.arange(12)).all()


def test_the_scale_of_euclidean_rows_does_not_matter(rng):
    gallery, queries = make_rows(rng, 40, "euclidean"), make_rows(rng, 4, "euclidean")
    for name in ("query_expansion", "k_reciprocal", "diffusion"):
        expected = NeighborsRetriever(20, metric="euclidean", rerank=name).fit(gallery)
        scaled = clone(expected).fit(gallery * 2.0**60)
        assert np.array_equal(scaled.predict(queries * 2.0**60), expected.predict(queries))


# ------------------------------------------------------- as parameters of a search


def test_a_grid_over_rerank_means_something(rng):
    X, y = chains(rng)
    search = make_pipeline(StandardScaler(with_std=False), NeighborsRetriever(scoring="map"))
    grid = {"neighborsretriever__rerank": [None, *RERANKERS, DiffusionReranker(3)]}
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    tuned = GridSearchCV(search, grid, cv=folds).fit(X, y)
    scores = tuned.cv_results_["mean_test_score"]
    assert len(set(scores)) == len(scores)
    assert tuned.best_params_["neighborsretriever__rerank"] is not None
    inner = {"rerank__n_neighbors": [2, 8], "rerank_depth": [20, 60]}
    deep = GridSearchCV(NeighborsRetriever(rerank=KReciprocalReranker()), inner, cv=folds).fit(X, y)
    assert len(set(deep.cv_results_["mean_test_score"])) == 4
    among = retrieval_scorer("map", gallery="queries")
    plain = clone(tuned.best_estimator_).set_params(neighborsretriever__rerank=None).fit(X, y)
    assert among(tuned.best_estimator_, X, y) > among(plain, X, y)


@pytest.mark.parametrize("name", RERANKERS)
def test_a_name_means_the_class_with_its_defaults(name, rng):
    X, y = chains(rng, n=20)
    by_name = NeighborsRetriever(rerank=name).fit(X, y)
    by_object = NeighborsRetriever(rerank=RERANKERS[name]()).fit(X, y)
    assert by_name.score() == by_object.score()
    copies = [clone(by_object).fit(X, y), pickle.loads(pickle.dumps(by_object))]
    assert all(copy.score() == by_name.score() for copy in copies)


@pytest.mark.parametrize(
    ("rerank", "metric", "message"),
    [
        ("k_reciprocall", "cosine", "Did you mean 'k_reciprocal'"),
        (3, "cosine", "rerank=3 is not known. Use one of"),
        ("alpha_query_expansion", "hamming", "not defined for metric='hamming'. It needs metric="),
        (AlphaQueryExpansion(), "euclidean", "is not defined for metric='euclidean'"),
        (AverageQueryExpansion(-1), "cosine", "n_neighbors=-1"),
        (AlphaQueryExpansion(alpha=-1), "cosine", "alpha=-1"),
        (KReciprocalReranker(0), "cosine", "n_neighbors=0"),
        (KReciprocalReranker(n_averaged=0), "cosine", "n_averaged=0"),
        (KReciprocalReranker(distance_weight=1.1), "cosine", "distance_weight=1.1"),
        (KReciprocalReranker(form="matlab"), "cosine", "form='matlab' is not known"),
        (DiffusionReranker(n_sources=0), "cosine", "n_sources=0"),
        (DiffusionReranker(alpha=1), "cosine", "alpha=1 never converges"),
        (DiffusionReranker(gamma=-2), "cosine", "gamma=-2"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_parameters_are_an_error_in_fit(rerank, metric, message):
    with pytest.raises(ValueError, match=message):
        NeighborsRetriever(metric=metric, rerank=rerank).fit(np.eye(3, dtype=np.uint8))
