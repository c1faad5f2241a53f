"""Several metrics at once: one reading of the distances, and the values of each alone."""

from functools import partial

import numpy as np
import pytest
from sklearn import config_context

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.index._exact import ExactEngine
from sklearn_cbir.metrics import (
    ndcg_at_k,
    precision_at_k,
    threshold_f1,
)
from sklearn_cbir.metrics._scoring import evaluate_each

NAMES = ["map", "ndcg@20", "precision@5", "wmap", "trapezoid_map"]
RADIUS = ["precision_in_radius", "recall_in_radius", "map_in_radius", "success_in_radius"]
N_QUERIES, N_GALLERY = 60, 300


def first_is_right(y_queries, y_gallery, distances):
    return y_gallery[distances.argmin(axis=1)] == y_queries


OWN = [first_is_right, partial(precision_at_k, k=3), partial(threshold_f1, radius=0.5)]


class Counted:
    """Distances that count how often a row of them is read, and the largest block."""

    def __init__(self, distances):
        self.distances, self.shape = distances, distances.shape
        self.n_read = self.largest = 0

    def __getitem__(self, rows):
        block = self.distances[rows]
        self.n_read += len(block)
        self.largest = max(self.largest, len(block))
        return block


@pytest.fixture
def data(rng):
    """Labels of queries and gallery, and distances with ties."""
    y_queries, y_gallery = rng.integers(6, size=N_QUERIES), rng.integers(5, size=N_GALLERY)
    return y_queries, y_gallery, rng.integers(1, 40, (N_QUERIES, N_GALLERY)) / 20


@pytest.mark.parametrize("own", [False, True], ids=["all ranked", "own left out"])
def test_metrics_together_read_each_row_once_and_say_what_each_says_alone(data, own, rng):
    y_queries, y_gallery, distances = data
    positions = rng.integers(-1, N_GALLERY, N_QUERIES) if own else None
    names = [*NAMES, *RADIUS, *OWN, partial(ndcg_at_k, ties="stable")]
    counted = Counted(distances)
    values = evaluate_each(names, y_queries, y_gallery, counted, positions)
    assert counted.n_read == N_QUERIES
    for name, together in zip(names, values):
        (alone,) = evaluate_each([name], y_queries, y_gallery, distances, positions)
        np.testing.assert_array_equal(together, alone)


def test_blocks_of_several_metrics_stay_within_the_working_memory(data):
    counted = Counted(data[2])
    with config_context(working_memory=0.02):
        evaluate_each([*NAMES, *RADIUS, *OWN], *data[:2], counted)
    assert counted.n_read == N_QUERIES
    assert 16 * N_GALLERY * counted.largest <= 0.02 * 2**20 < 16 * N_GALLERY * N_QUERIES


@pytest.mark.parametrize("storage", ["copy", "float16", "memory_map"])
def test_five_metrics_of_a_gallery_cost_one_reading_of_it(storage, rng, tmp_path, monkeypatch):
    rows = rng.normal(size=(N_GALLERY, 8)).astype(np.float32)
    gallery = tmp_path / "rows.npy"
    np.save(gallery, rows)
    y, asked = rng.integers(5, size=N_GALLERY), []
    distances = ExactEngine.distances

    def noted(engine, queries):
        asked.append(len(queries))
        return distances(engine, queries)

    monkeypatch.setattr(ExactEngine, "distances", noted)
    stored = storage == "memory_map"
    retriever = NeighborsRetriever(storage=storage).fit(str(gallery) if stored else rows, y)
    together = retriever.evaluate(rows[:N_QUERIES] + 0.1, y[:N_QUERIES], scoring=NAMES)
    assert sum(asked) == N_QUERIES
    for name in NAMES:
        alone = retriever.evaluate(rows[:N_QUERIES] + 0.1, y[:N_QUERIES], scoring=name)
        np.testing.assert_array_equal(together[name].per_query, alone.per_query)


def test_a_re_ranked_gallery_is_ranked_once_and_read_once_more_for_its_radii(rng):
    asked = []

    def furthest_first(queries, distances, positions, engine):
        asked.append(len(queries))
        return -distances

    rows, y = rng.normal(size=(N_GALLERY, 8)), rng.integers(5, size=N_GALLERY)
    retriever = NeighborsRetriever(rerank=furthest_first).fit(rows, y)
    names = ["map", "precision_in_radius", "ndcg@20", first_is_right]
    together = retriever.evaluate(scoring=names)
    assert sum(asked) == N_GALLERY
    for name in names:
        alone = retriever.evaluate(scoring=name)
        np.testing.assert_array_equal(together[name].per_query, alone.per_query)


@pytest.mark.parametrize("n_labels", [1, 4], ids=["classes", "labels"])
def test_codes_are_counted_once_for_all_metrics(n_labels, rng, monkeypatch):
    from sklearn_cbir.metrics import _walk

    counts = []
    count_codes = _walk.count_codes

    def noted(*arguments):
        for rows, found in count_codes(*arguments):
            counts.append(rows.stop - rows.start)
            yield rows, found

    monkeypatch.setattr(_walk, "count_codes", noted)
    codes = rng.integers(2, size=(N_GALLERY, 20))
    y = rng.integers(5, size=N_GALLERY)
    if n_labels > 1:
        y = rng.integers(2, size=(N_GALLERY, n_labels))
        y[:, 0] = 1
    retriever = NeighborsRetriever(metric="hamming").fit(codes, y)
    names = [*NAMES, "acg@7", *RADIUS]
    together = retriever.evaluate(scoring=names)
    assert sum(counts) == N_GALLERY
    for name in names:
        alone = retriever.evaluate(scoring=name)
        np.testing.assert_array_equal(together[name].per_query, alone.per_query)


def test_metrics_of_the_first_results_share_the_longest_list_of_a_server(tmp_path, rng):
    pytest.importorskip("milvus_lite")
    rows = rng.normal(size=(80, 8)).astype(np.float32)
    y = rng.integers(4, size=80)
    place = str(tmp_path / "gallery.db")
    retriever = NeighborsRetriever(3, algorithm="milvus", uri=place).fit(rows, y)
    engine = retriever._gallery.engine
    reads, lists = [], []
    cls = type(engine)
    with pytest.MonkeyPatch.context() as patch:
        whole, cut_off = cls.distances, cls.cut_off
        patch.setattr(
            cls,
            "distances",
            lambda self, queries: reads.append(len(queries)) or whole(self, queries),
        )
        patch.setattr(cls, "cut_off", lambda self, k: lists.append(k) or cut_off(self, k))
        names = ["map", "precision@2", "recall@1", "ndcg", "ndcg@9"]
        together = retriever.evaluate(rows[:20] + 0.01, y[:20], scoring=names)
    assert sum(reads) == 20
    assert lists == [9]
    for name in names:
        alone = retriever.evaluate(rows[:20] + 0.01, y[:20], scoring=name)
        np.testing.assert_array_equal(together[name].per_query, alone.per_query)


def test_a_first_k_within_a_radius_takes_one_reading(data):
    counted = Counted(data[2])
    evaluate_each(["map_in_radius"], *data[:2], counted)
    assert counted.n_read == N_QUERIES
