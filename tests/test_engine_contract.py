"""What every engine promises, whichever it is: one suite for all lines of the table of engines.

Cases come from `ENGINES`: each engine with each metric and storage that it says it has. Two engines
that are made here stand for those to come: one in memory, and one whose rows are under an address.
"""

import copy
import os
import pickle
import sys
import threading
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from search_cases import assert_sound, make_clusters, recall, shares_found

from sklearn_cbir import NeighborsRetriever, persistence
from sklearn_cbir._kinds import kind_of
from sklearn_cbir.index import ENGINES, _faiss
from sklearn_cbir.index._engine import Engine, remembered
from sklearn_cbir.index._nndescent import NNDescentEngine

N, N_FEATURES = 1200, 12
PACKAGES = {"faiss": "faiss", "milvus": "milvus_lite"}  # what an engine needs beside the package
SERVER = {}  # rows by address, of the engine that has one


class Plain(Engine):
    """All distances, by the definition, in double precision."""

    metrics = ("cosine", "euclidean")
    name = "plain"
    pickled = ("metric", "rows")

    def __init__(self, metric):
        self.metric = metric

    def __len__(self):
        return len(self.rows)

    def build(self, rows):
        return self._over(self.encode(rows))

    def encode(self, rows):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(norms > 0, norms, 1) if self.metric == "cosine" else rows.copy()

    def distances(self, queries):
        queries, rows = queries.astype(float), np.asarray(self.rows).astype(float)
        squares = np.array([np.square(rows - query).sum(axis=1) for query in queries])
        if self.metric == "euclidean":
            return np.sqrt(squares)
        is_zero = ~queries.any(axis=1)[:, None] | ~rows.any(axis=1)
        return np.where(is_zero, 1, np.minimum(squares / 2, 2))

    def query(self, queries, k):
        distances = self.distances(queries)
        positions = np.argsort(distances, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(distances, positions, axis=1), positions

    def query_radius(self, queries, radii):
        distances, positions = self.query(queries, len(self))
        counts = (distances <= np.broadcast_to(radii, len(queries))[:, None]).sum(axis=1)
        return [[row[:n] for row, n in zip(of, counts)] for of in (distances, positions)]

    def add(self, rows):
        return self._over(np.concatenate([self.rows, self.encode(rows)]))

    def remove(self, positions):
        return self._over(np.delete(self.rows, positions, axis=0))

    def _over(self, rows):
        return self._like(rows=rows)


class Remote(Plain):
    """The same over rows that a server keeps; here is where."""

    name = "remote"
    needs_address = True
    options = ("uri",)
    pickled = ("metric", "given_uri", "key", "input_dtype")
    in_memory = False
    key = 0

    def __init__(self, metric, *, uri=None):
        super().__init__(metric)
        self.given_uri = uri

    def __len__(self):
        return self.n

    @property
    def rows(self):
        return SERVER[self.given_uri][self.key]

    @remembered
    def n(self):
        return len(self.rows)

    def build(self, rows):
        self.input_dtype = rows.dtype.name
        return super().build(rows)

    def relocate(self, place):
        SERVER[place][self.key]
        return self._like(given_uri=place)

    def _over(self, rows):
        database = SERVER.setdefault(self.given_uri, {})
        database[len(database) + 1] = rows
        return self._like(key=len(database))


TABLE = {**ENGINES, "plain": Plain, "remote": Remote}


@dataclass(frozen=True)
class Case:
    """An engine with one metric and storage."""

    algorithm: str
    metric: str
    storage: str
    is_graph_of_faiss: bool = False  # which only large galleries have

    def __str__(self):
        kind = self.algorithm
        if self.storage != "copy":
            kind = self.storage if self.algorithm == "exact" else f"{kind}_{self.storage}"
        return f"{kind}{'_graph' * self.is_graph_of_faiss}-{self.metric}"

    @property
    def engine(self):
        return TABLE[self.algorithm].find(self.metric, self.storage)

    @property
    def keeps_double_precision(self):
        """Whether rows are compared as they are given."""
        return self.storage != "float16" and self.algorithm != "milvus"

    def make(self, folder, n_neighbors=5, **options):
        """Return a retriever that is not fitted."""
        if self.engine.needs_address:
            options["uri"] = str(folder / "gallery.db")
        parameters = {"metric": self.metric, "algorithm": self.algorithm, "storage": self.storage}
        return NeighborsRetriever(n_neighbors, random_state=0, **parameters, **options)

    def fit(self, rows, folder, y=None, ids=None, **options):
        """Return a retriever of these rows, which a file holds if the storage is one."""
        if self.storage == "memory_map":
            np.save(folder / "rows.npy", rows)
            rows = folder / "rows.npy"
        return self.make(folder, **options).fit(rows, y, ids=ids)

    def reference(self, rows, y=None, ids=None, n_neighbors=5):
        """Return an exact retriever in memory, of rows that are rounded as this storage does."""
        retriever = NeighborsRetriever(n_neighbors, metric=self.metric, algorithm="exact")
        if self.storage == "float16":
            rounded = NeighborsRetriever(metric=self.metric, storage="float16").fit(rows)
            rows = rounded.rows()
        return retriever.fit(rows, y, ids=ids)

    def assert_alike(self, found, expected):
        """Distances are the same bit by bit, where the rows that are compared are."""
        if self.engine.name in ("plain", "remote") or self.storage == "float16":
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(found, expected)


CASES = [
    Case(algorithm, metric, storage)
    for algorithm, line in TABLE.items()
    for storage in line.storages
    for metric in line.metrics
    if line.find(metric, storage) is not None
]
FAISS_GRAPHS = [Case("faiss", metric, "copy", True) for metric in ("cosine", "euclidean")]
CASES[-4:-4] = FAISS_GRAPHS
EXACT = [case for case in CASES if case.engine.is_exact]
APPROXIMATE = [case for case in CASES if not case.engine.is_exact]
IN_MEMORY = [case for case in CASES if not case.engine.needs_address]


@pytest.fixture(scope="module")
def case(request):
    """One engine; it is in the table, and what it needs is there."""
    case = request.param
    if case.algorithm in PACKAGES:
        pytest.importorskip(PACKAGES[case.algorithm])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, case.algorithm, TABLE[case.algorithm])
        if case.is_graph_of_faiss:
            patch.setattr(_faiss, "GRAPH_FROM_ROWS", 1000)
        if not case.engine.is_exact:  # of so few rows, filters would leave all to exact search
            patch.setattr(case.engine, "rows_per_neighbor", 1)
        yield case


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=str, indirect=True)


def make_rows(metric, n=N, seed=0):
    """Rows of four classes with copies and a zero row, and their classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    rows = (rng.normal(size=(n, N_FEATURES)) + 2 * np.eye(N_FEATURES)[y]).astype(np.float32)
    rows[n // 10 : n // 10 + 10] = rows[n // 10 - 1]
    rows[5] = 0
    return ((rows > 0.5).astype(np.uint8) if metric == "hamming" else rows), y


@pytest.fixture(scope="module")
def rows(case):
    return make_rows(case.metric)[0]


@pytest.fixture(scope="module")
def queries(case):
    return make_rows(case.metric, 25, seed=1)[0]


@pytest.fixture(scope="module")
def fitted(case, rows, tmp_path_factory):
    """A retriever that no test changes."""
    return case.fit(rows, tmp_path_factory.mktemp("gallery"))


def remembered_names(engine):
    """Names of what an engine makes again rather than hold it in a file."""
    attributes = [item for cls in engine.__mro__ for item in vars(cls).items()]
    names = {name for name, value in attributes if isinstance(value, remembered)}
    return names - set(engine.pickled)


def join(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_table_serves_every_metric_in_every_way_it_says():
    assert {case.metric for case in CASES} == {"cosine", "euclidean", "hamming"}
    assert {case.algorithm for case in CASES} == TABLE.keys()
    assert len(set(map(str, CASES))) == len(CASES)


@each(CASES)
def test_an_engine_is_of_its_class_and_says_what_it_is(case, fitted):
    engine = fitted._gallery.engine
    assert isinstance(engine, Engine)
    assert type(engine) is case.engine
    assert engine.metric == engine.exact.metric == case.metric
    assert engine.name == fitted.algorithm_ == case.algorithm
    assert len(engine) == len(engine.rows) == fitted.n_samples_fit_ == N
    assert 0.95 <= engine.recall == fitted.recall_ <= 1
    assert (engine.given_uri is not None) == case.engine.needs_address
    assert set(engine.__getstate__()) <= set(engine.pickled)
    # An engine with a collection of its own shows its name.
    assert hasattr(fitted, "collection_") == (engine.collection is not None)


def check_answers(case, rows, folder):
    """Whatever is asked, also after changes, the answers are those of an exact search in memory."""
    y, names = make_rows(case.metric)[1], np.array([f"{i}.jpg" for i in range(N)])
    queries, y_queries = make_rows(case.metric, 25, seed=1)
    found = case.fit(rows[:1100], folder, y[:1100], ids=names[:1100])
    expected = case.reference(rows[:1100], y[:1100], ids=names[:1100])
    assert found.recall_ == 1
    for change in ("none", "add", "remove", "pickle"):
        if change == "add":
            found.partial_fit(rows[1100:], y[1100:], ids=names[1100:])
            is_rounded = case.storage == "float16"
            more = found.rows(names[1100:]) if is_rounded else rows[1100:]
            expected.partial_fit(more, y[1100:], ids=names[1100:])
        if change == "remove":
            for retriever in (found, expected):
                retriever.remove(names[40:115])
        if change == "pickle":
            found = pickle.loads(pickle.dumps(found))
        assert found.algorithm_ == case.algorithm
        for ask in (
            lambda r: r.kneighbors(queries),
            lambda r: r.kneighbors(queries, 1),
            lambda r: r.kneighbors(queries, 130),
            lambda r: r.kneighbors(queries[:1]),
            lambda r: r.kneighbors(ids=names[:30]),
            lambda r: r.kneighbors(rows[:30], ids=names[:30]),
        ):
            distances, positions = zip(ask(found), ask(expected))
            case.assert_alike(*distances)
            if case.storage != "float16":  # where distances differ in their last bits
                np.testing.assert_array_equal(*positions)
        case.assert_alike(*(r.transform(queries).toarray() for r in (found, expected)))
        np.testing.assert_array_equal(*(r.predict(queries) for r in (found, expected)))
        scores = [r.score(queries, y_queries) for r in (found, expected)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-12)
        held = [r.rows(names[:9]) for r in (found, expected)]
        np.testing.assert_allclose(*held, rtol=1e-6)


@each(EXACT)
def test_answers_are_those_of_an_exact_search_in_memory(case, rows, tmp_path):
    check_answers(case, rows, tmp_path)


@each([case for case in EXACT if case.metric != "hamming" and case.keeps_double_precision])
def test_answers_in_double_precision_are_those_of_an_exact_search(case, rows, tmp_path):
    check_answers(case, rows.astype(np.float64), tmp_path)


@each([case for case in CASES if case.algorithm == "faiss" and not case.is_graph_of_faiss])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_index_that_scans_every_list_is_exact_in_everything(
    dtype, case, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(_faiss.FaissEngine, "ef_searches", (10**6,))
    check_answers(case, rows.astype(dtype), tmp_path)


@each(CASES)
@pytest.mark.parametrize("scoring", ["map", "map@20", "precision@3", "recall@1", "ndcg@10"])
def test_scores_are_exact(scoring, case, rows, queries, tmp_path):
    y, y_queries = make_rows(case.metric)[1][:300], make_rows(case.metric, 25, seed=1)[1]
    pair = case.fit(rows[:300], tmp_path, y), case.reference(rows[:300], y)
    for arguments in ((queries, y_queries), (None, None)):
        per_query = [r.evaluate(*arguments, scoring=scoring).per_query for r in pair]
        np.testing.assert_allclose(*per_query, rtol=0, atol=1e-12)


@each(CASES)
def test_radii_are_exact(case, rows, queries, fitted):
    expected = case.reference(rows)
    every = np.unique(expected.kneighbors(queries, 200)[0])
    radius = every[len(every) // 4 : len(every) // 4 + 2].mean()  # at which no row is
    for found, wanted in zip(
        fitted.radius_neighbors(queries, radius)[1], expected.radius_neighbors(queries, radius)[1]
    ):
        np.testing.assert_array_equal(found, wanted)


# Filters: what is left in is searched as a gallery of these rows alone ---------------------------

NAMES = np.array([f"{i}.jpg" for i in range(N)])
# Copies of one row stand at 119 to 129, a zero row at 5; some are left in, and some are not.
MASKS = {
    "half": np.arange(N) % 2 == 1,
    "few": np.isin(np.arange(N), [5, 60, 121, 122, 125, 301, 302, 303, 700, 1199]),
    "most": ~np.isin(np.arange(N), [0, 5, 119, 120, 600]),
    "all": np.ones(N, dtype=bool),
}


@pytest.fixture(scope="module")
def filtered(case, rows, tmp_path_factory):
    """A retriever with labels and ids that no test changes."""
    y = make_rows(case.metric)[1]
    return case.fit(rows, tmp_path_factory.mktemp("gallery"), y, ids=NAMES)


def left_alone(case, retriever, rows, mask):
    """An exact retriever that was fitted on the rows that a mask leaves in, and nothing else."""
    held = retriever.rows() if case.storage == "float16" else rows
    y = make_rows(case.metric)[1]
    alone = NeighborsRetriever(5, metric=case.metric, algorithm="exact")
    return alone.fit(held[mask], y[mask], ids=NAMES[mask])


def assert_left_alone(case, mask, found, expected):
    """Distances and positions are those of the rows left in, which have positions in all."""
    case.assert_alike(found[0], expected[0])
    if case.storage != "float16":  # where distances differ in their last bits
        np.testing.assert_array_equal(found[1], np.flatnonzero(mask)[expected[1]])


@each(CASES)
@pytest.mark.parametrize("share", MASKS)
def test_a_filter_leaves_what_a_gallery_of_these_rows_would_answer(
    share, case, rows, queries, filtered
):
    mask = MASKS[share]
    alone, left = left_alone(case, filtered, rows, mask), NAMES[mask]
    inside, outside = left[:4], NAMES[~mask][:4]
    exact = case.engine.is_exact or share == "few"
    for where in (mask, left, set(left.tolist()), pd.Series(mask), mask.tolist()):
        for asked in (queries, queries[:1], queries[:3]):
            found = filtered.kneighbors(asked, where=where)
            if exact:
                assert_left_alone(case, mask, found, alone.kneighbors(asked))
            assert mask[found[1]].all()
        assert set(filtered.predict(queries[:2], where=where).ravel()) <= set(left)
    for k in (1, 3, mask.sum() - 1):
        found = filtered.kneighbors(None, k, ids=inside, where=mask)
        if exact:
            assert_left_alone(case, mask, found, alone.kneighbors(None, k, ids=inside))
        assert not (NAMES[found[1]] == inside[:, None]).any()
    found = filtered.kneighbors(rows[mask][:4], ids=inside, where=mask)
    if exact:
        assert_left_alone(case, mask, found, alone.kneighbors(rows[mask][:4], ids=inside))
    if len(outside):  # queries that are left out themselves may find all others
        found = filtered.kneighbors(None, mask.sum(), ids=outside, where=mask)
        assert (np.sort(found[1]) == np.flatnonzero(mask)).all()


@each(CASES)
def test_a_filter_finds_as_surely_as_the_gallery_does(case, rows, filtered):
    queries = make_rows(case.metric, 400, seed=1)[0]
    for mask in MASKS.values():
        found = filtered.kneighbors(queries, where=mask)[1]
        expected = left_alone(case, filtered, rows, mask).kneighbors(queries)[1]
        assert recall(found, np.flatnonzero(mask)[expected]) >= 0.95


@each(CASES)
@pytest.mark.parametrize("share", MASKS)
@pytest.mark.filterwarnings("ignore:.*have nothing relevant")
def test_radii_and_scores_are_of_what_a_filter_leaves_in(share, case, rows, queries, filtered):
    mask, y_queries = MASKS[share], make_rows(case.metric, 25, seed=1)[1]
    alone = left_alone(case, filtered, rows, mask)
    every = np.unique(alone.kneighbors(queries, min(200, mask.sum()))[0])
    radius = every[len(every) // 4 : len(every) // 4 + 2].mean()  # at which no row is
    arguments = {"sort_results": True, "return_distance": False}
    found = filtered.radius_neighbors(queries, radius, where=mask, **arguments)
    expected = alone.radius_neighbors(queries, radius, **arguments)
    for row in range(len(queries)):
        if case.storage == "float16":
            assert set(found[row]) == set(np.flatnonzero(mask)[expected[row]])
        else:
            np.testing.assert_array_equal(found[row], np.flatnonzero(mask)[expected[row]])
    inside = NAMES[mask][:9]
    for scoring in ("map", "map@5", "recall@1"):
        for asked in ({"X": queries, "y": y_queries}, {"ids": inside}):
            per_query = [
                filtered.evaluate(scoring=scoring, where=mask, **asked).per_query,
                alone.evaluate(scoring=scoring, **asked).per_query,
            ]
            # Products may round two distances that are all but equal into another order.
            np.testing.assert_allclose(*per_query, rtol=0, atol=1e-5)
    score = filtered.score(queries, y_queries, where=NAMES[mask])
    assert score == pytest.approx(alone.score(queries, y_queries), abs=1e-5)


@each(CASES)
def test_rerankers_see_what_a_filter_leaves_in(case, rows, queries, filtered):
    seen = []

    def rerank(queries, distances, positions, engine):
        seen.append((len(engine), engine.rows[positions[0]], engine.query(queries[:1], 3)[1]))
        return -distances

    mask = MASKS["half"]
    alone = left_alone(case, filtered, rows, mask)
    for rerank_ in (rerank, "query_expansion"):
        for retriever in (filtered, alone):
            retriever.set_params(rerank=rerank_, rerank_depth=8)
        try:
            found = filtered.kneighbors(queries, where=mask)
            expected = alone.kneighbors(queries)
        finally:
            filtered.set_params(rerank=None)
        if case.engine.is_exact:
            assert_left_alone(case, mask, found, expected)
    for found, expected in zip(*seen):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@each(CASES)
def test_a_filter_follows_the_gallery_and_is_not_held_by_copies(case, rows, queries, tmp_path):
    retriever = case.fit(rows, tmp_path, ids=NAMES)
    left = NAMES[MASKS["half"]]
    before = retriever.predict(queries, where=left)
    changed = copy.deepcopy(retriever)
    changed.remove(np.unique(before[:, 0]).tolist())
    changed.partial_fit(queries[12:17], ids=["a", "b", "c", "d", "e"])
    where = [*np.setdiff1d(left, before[:, 0])[-20:], "a", "b", "c", "d", "e"]
    distances, positions = changed.kneighbors(queries[12:17], where=where)
    found = changed.ids_[positions]
    assert all(name in row for name, row in zip("abcde", found))
    assert set(found.ravel()) <= set(where)
    if case.storage != "float16":
        assert (distances[:, 0] == 0).all()
    np.testing.assert_array_equal(retriever.predict(queries, where=left), before)
    for held in (retriever._gallery, retriever._gallery.engine):
        state = pickle.loads(pickle.dumps(held))
        assert not {"_filter", "_filtered"} & set(vars(state))


@each(CASES)
def test_threads_with_filters_of_their_own_get_their_own_answers(case, queries, filtered):
    masks = [MASKS["half"], ~MASKS["half"]]
    expected = [filtered.kneighbors(queries, where=mask)[1] for mask in masks]
    wrong = []

    def ask(mask, right):
        for _ in range(5):
            wrong.extend((filtered.kneighbors(queries, where=mask)[1] != right).ravel())

    join([threading.Thread(target=ask, args=pair) for pair in zip(masks, expected)])
    assert not any(wrong)


@each(CASES)
@pytest.mark.parametrize("k", [1, 10, 11, 30, 128, 129, N])
def test_any_number_of_neighbors_is_answered_soundly(k, case, queries, fitted):
    distances, positions = fitted.kneighbors(queries, k)
    assert distances.shape == positions.shape == (len(queries), k)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert np.isfinite(distances).all()
    assert all(len(set(row)) == k for row in positions)
    tied = np.diff(distances, axis=1) == 0
    if case.engine.is_exact or k > 128:
        assert (np.diff(positions, axis=1)[tied] > 0).all()
    if k > 128 and not case.engine.is_exact:  # beyond what the recall speaks for: exact
        engine = fitted._gallery.engine
        expected = engine.exact.query(engine.encode(queries), k)
        np.testing.assert_array_equal(positions, expected[1])


@each(CASES)
def test_queries_are_answered_alike_alone_and_together(case, queries, fitted):
    together = fitted.kneighbors(queries)
    alone = [fitted.kneighbors(queries[i : i + 1]) for i in range(len(queries))]
    for part in range(2):
        np.testing.assert_array_equal(np.concatenate([one[part] for one in alone]), together[part])


@each(CASES)
def test_the_gallery_asked_about_itself_leaves_each_row_out(case, rows, fitted):
    positions = fitted.kneighbors(return_distance=False)
    assert not (positions == np.arange(N)[:, None]).any()
    expected = case.reference(rows).kneighbors(return_distance=False)
    assert recall(positions, expected) >= 0.95


@each(CASES)
def test_an_engine_answers_the_same_when_rows_come_and_go(case, rows, queries, tmp_path):
    before = case.fit(rows, tmp_path)._gallery.engine
    encoded = before.encode(queries)
    expected = before.query(encoded, 9)
    after = before.add(rows[:20]).remove(np.arange(30))
    assert (len(before), len(after)) == (N, N - 10)
    for found, wanted in zip(before.query(encoded, 9), expected):
        np.testing.assert_array_equal(found, wanted)


@each(CASES)
@pytest.mark.parametrize("how", ["pickle", "deepcopy", "save"])
def test_a_copy_answers_alike_and_holds_nothing_that_was_remembered(
    how, case, queries, fitted, tmp_path
):
    before = fitted.kneighbors(queries)
    if how == "save":
        if kind_of(case.engine) is None:
            pytest.skip("engines of a user are not saved without pickle")
        persistence.save(fitted, tmp_path / "saved")
        copied = persistence.load(tmp_path / "saved")
    else:
        copied = copy.deepcopy(fitted) if how == "deepcopy" else pickle.loads(pickle.dumps(fitted))
    assert not set(vars(copied._gallery.engine)) & remembered_names(case.engine)
    for found, expected in zip(copied.kneighbors(queries), before):
        np.testing.assert_array_equal(found, expected)
    assert copied.recall_ == fitted.recall_
    assert (copied.partial_fit(queries).n_samples_fit_, fitted.n_samples_fit_) == (N + 25, N)


@each(CASES)
def test_a_gallery_is_moved_only_where_it_is_at_an_address_or_in_a_file(case, rows, tmp_path):
    retriever = case.fit(rows, tmp_path)
    if case.storage == "memory_map" or case.algorithm == "milvus":
        return  # what moves there is in the tests of those
    if not case.engine.needs_address:
        with pytest.raises(ValueError, match="are in memory"):
            retriever.relocate(str(tmp_path / "elsewhere"))
        return
    expected = retriever.kneighbors(rows[:5])
    SERVER["elsewhere"] = SERVER.pop(retriever.uri)
    with pytest.raises(KeyError):
        retriever.relocate("nowhere")
    assert retriever.relocate("elsewhere").uri == "elsewhere"
    np.testing.assert_array_equal(retriever.kneighbors(rows[:5]), expected)
    retriever.set_params(uri="other")
    with pytest.raises(ValueError, match="uri='other' was set after fit"):
        retriever.kneighbors(rows[:5])


@each(IN_MEMORY)
def test_only_engines_elsewhere_take_an_address(case, rows):
    algorithm = case.algorithm
    retriever = NeighborsRetriever(metric=case.metric, algorithm=algorithm, uri="somewhere.db")
    with pytest.raises(ValueError, match=f"algorithm='{algorithm}' keeps the gallery in memory"):
        retriever.fit(rows)


@each(CASES)
def test_a_metric_or_a_storage_that_an_engine_lacks_is_refused(case, rows, tmp_path):
    for metric in ("cosine", "euclidean", "hamming"):
        if TABLE[case.algorithm].find(metric) is None:
            with pytest.raises(ValueError, match=f"algorithm='{case.algorithm}' does not search"):
                case.make(tmp_path).set_params(metric=metric, storage="copy").fit(rows)
    for storage in ("float16", "memory_map"):
        if TABLE[case.algorithm].find(case.metric, storage) is None:
            with pytest.raises(ValueError, match=f"storage='{storage}' cannot be used for metric="):
                case.make(tmp_path).set_params(storage=storage).fit(rows)


class Manhattan(Plain):
    """A metric that no other engine has."""

    metrics = ("manhattan",)

    def encode(self, rows):
        return rows.copy()

    def distances(self, queries):
        return np.abs(queries[:, None] - self.rows).sum(axis=2, dtype=np.float64)


def test_an_engine_may_have_a_metric_of_its_own(monkeypatch):
    rows, y = make_rows("euclidean", 200)
    with pytest.raises(ValueError, match="metric='manhattan' is not known"):
        NeighborsRetriever(metric="manhattan").fit(rows)
    monkeypatch.setitem(ENGINES, "manhattan", Manhattan)
    retriever = NeighborsRetriever(3, metric="manhattan", algorithm="manhattan").fit(rows, y)
    distances, positions = retriever.kneighbors(rows[:2] + 0.01)
    expected = np.abs(rows[:2, None].astype(float) + 0.01 - rows).sum(axis=2)
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :3], rtol=1e-5)
    assert positions[:, 0].tolist() == [0, 1]
    assert 0 < retriever.score() <= 1
    with pytest.raises(ValueError, match="'auto' does not search metric='manhattan'. Use algorith"):
        NeighborsRetriever(metric="manhattan").fit(rows)


@each(CASES)
def test_hostile_queries_are_one_clear_error(case, rows, tmp_path):
    retriever = case.fit(rows, tmp_path)
    for query, message in (
        (rows[0], "Reshape your data"),
        (np.zeros((2, 11)), "X has 11 features.*expecting 12"),
        (np.zeros((2, 13)), "X has 13 features.*expecting 12"),
        (np.zeros((1, 100_000)), "X has 100000 features.*expecting 12"),
        (np.zeros((0, 12)), "0 sample"),
        (np.full((1, 12), np.nan), r"\[0, 0\]"),
        (np.full((1, 12), np.inf), r"\[0, 0\]"),
        ([["a"] * 12], "(?i)convert"),
    ):
        with pytest.raises(ValueError, match=message):
            retriever.kneighbors(query)
        with pytest.raises(ValueError, match=message):
            retriever.partial_fit(query)
    for k in (0, -1, 2.5, True, "3"):
        with pytest.raises(ValueError, match="n_neighbors="):
            retriever.kneighbors(rows[:2], k)
    with pytest.raises(ValueError, match="n_neighbors = 1201, n_samples_fit = 1200"):
        retriever.kneighbors(rows[:2], 1201)
    with pytest.raises(ValueError, match="Expected n_neighbors < n_samples_fit.* = 1200"):
        retriever.kneighbors(None, 1200)
    assert (np.sort(retriever.kneighbors(rows[:2], 1200)[1]) == np.arange(1200)).all()
    assert retriever.n_samples_fit_ == 1200


@each(CASES)
def test_copies_of_a_row_fill_every_slot_in_order(case, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 12)).astype(np.float32)
    rows = np.tile((rows > 0).astype(np.uint8) if case.metric == "hamming" else rows, (4, 1))
    distances, positions = case.fit(rows, tmp_path).kneighbors(rows[:30], 4)
    expected = NeighborsRetriever(4, metric=case.metric, algorithm="exact").fit(rows)
    if case.storage == "float16":  # rounded rows are a little away from their queries
        assert (np.diff(positions, axis=1) == 300).all()
    else:
        assert (distances == 0).all()
    if case.metric != "hamming":  # codes of 12 bits have other copies, too
        np.testing.assert_array_equal(positions, expected.kneighbors(rows[:30])[1])


@each(CASES)
def test_threads_and_forked_children_get_the_answers_of_one(case, rows, tmp_path):
    retriever = case.fit(rows, tmp_path)
    expected = retriever.kneighbors(rows[:10])[1]
    right = []

    def ask():
        alone = [retriever.kneighbors(rows[row : row + 1])[1][0] for row in range(10)]
        right.append((np.array(alone) == expected).all())

    join([threading.Thread(target=ask) for _ in range(4)])
    assert right == [True] * 4
    # What a child may ask of a server is in the tests of it.
    if case.engine.needs_address or not hasattr(os, "fork"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons: forking is unwise
        child = os.fork()
    if child == 0:
        code = 1
        try:
            grown = retriever.partial_fit(rows[:1])
            found = [r.kneighbors(rows[5:10])[1] for r in (retriever, grown)]
            code = 0 if all((each == expected[5:]).mean() > 0.9 for each in found) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@each(CASES)
def test_threads_that_search_while_others_change_see_one_gallery(case, tmp_path):
    rows = np.random.default_rng(0).standard_normal((1100, 12)).astype(np.float32)
    if case.metric == "hamming":
        rows = np.unique((rows > 0).astype(np.uint8), axis=0)
    n, names = len(rows), [f"row {i}" for i in range(len(rows))]
    retriever = case.fit(rows, tmp_path, ids=names)
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            found = retriever.predict(rows[:9])[:, 0].tolist()
            if found != names[:9]:
                wrong.append(found)

    def change(name, first):
        for i in range(6):
            retriever.partial_fit(rows[20 + i : 21 + i], ids=[f"{name} {i}"])
            retriever.remove(names[first + i : first + i + 1])

    searching = [threading.Thread(target=search) for _ in range(2)]
    for thread in searching:
        thread.start()
    try:
        join([threading.Thread(target=change, args=args) for args in (("a", 30), ("b", 40))])
    finally:
        stop.set()
        for thread in searching:
            thread.join()
    assert wrong == []
    assert len(set(retriever.ids_)) == retriever.n_samples_fit_ == n
    assert {f"{name} {i}" for name in "ab" for i in range(6)} < set(retriever.ids_)


@each(CASES)
def test_few_rows_are_searched_exactly(case, tmp_path):
    rows = np.eye(5, dtype=np.uint8 if case.metric == "hamming" else np.float32)
    retriever = case.fit(rows, tmp_path, n_neighbors=3)
    assert retriever.algorithm_ == (case.algorithm if case.engine.is_exact else "exact")
    assert retriever.recall_ == 1.0
    assert retriever.predict(rows)[:, 0].tolist() == [0, 1, 2, 3, 4]


@each(CASES)
def test_the_seed_fixes_the_answers_and_leaves_the_global_generator(
    case, rows, queries, fitted, tmp_path
):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    again = case.fit(rows, tmp_path)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    np.testing.assert_array_equal(again.kneighbors(queries), fitted.kneighbors(queries))


# Approximate engines, on what metric learning makes and graphs get lost in -----------------------


@pytest.fixture(scope="module")
def clusters():
    return make_clusters(3000)


@pytest.fixture(scope="module")
def near():
    """Queries of the same clusters."""
    return make_clusters(300, seed=2)


@pytest.fixture(scope="module")
def approximate(case, clusters, tmp_path_factory):
    return case.fit(clusters, tmp_path_factory.mktemp("gallery"), n_neighbors=10)


@pytest.fixture(scope="module")
def exact(case, clusters):
    return case.reference(clusters, n_neighbors=10)


@each(APPROXIMATE)
def test_tight_clusters_are_searched_with_high_recall(case, approximate, exact, near):
    assert approximate.algorithm_ == case.algorithm
    assert approximate.recall_ >= 0.95
    expected, found = exact.kneighbors(near), approximate.kneighbors(near)
    assert recall(found[1], expected[1]) >= 0.95
    # Nobody ends in another cluster.
    scale = 0.05 if case.metric == "cosine" else 0.2
    np.testing.assert_allclose(found[0][:, 0], expected[0][:, 0], atol=scale)


@each(APPROXIMATE)
@pytest.mark.parametrize("k", [1, 10, 11, 30, 128, 129, 3000])
def test_more_neighbors_are_found_as_surely(k, case, approximate, exact, near):
    assert_sound(approximate, near[:40], k)
    found, expected = approximate.kneighbors(near, k)[1], exact.kneighbors(near, k)[1]
    if k <= 128:
        assert recall(found, expected) >= (0.94 if case.algorithm == "faiss" else 0.95)
    elif case.storage == "float16":  # equal but for rounding are equal in another order
        positions = [np.sort(part, axis=1) for part in (found, expected)]
        np.testing.assert_array_equal(*positions)
        assert recall(found[:, :10], expected[:, :10]) >= 0.99
    else:  # beyond what the recall speaks for: exact
        np.testing.assert_array_equal(found, expected)


@each(APPROXIMATE)
def test_hostile_answers_of_the_index_are_replaced(case, approximate, near, monkeypatch):
    def ask(self, index, queries, k, ef_search):
        nodes = np.tile(np.arange(k), (len(queries), 1))
        squares = np.ones(nodes.shape, dtype=np.float32)
        nodes[::3, 1:] = nodes[::3, :1]  # the same row again and again
        squares[1::3, 2:] = np.inf  # slots that were not filled
        return nodes, squares

    monkeypatch.setattr(case.engine, "_ask", ask)
    engine = approximate._gallery.engine
    encoded = engine.encode(near)
    found, expected = engine.query(encoded, 10), engine.exact.query(encoded, 10)
    for row in [*range(0, 300, 3), *range(1, 300, 3)]:
        np.testing.assert_array_equal(found[1][row], expected[1][row])
    assert all(len(set(row)) == 10 for row in found[1])


@each([case for case in APPROXIMATE if case.metric == "cosine"])
def test_one_neighbor_is_found_by_the_index(case, clusters, near, tmp_path, monkeypatch):
    retriever = case.fit(clusters, tmp_path, n_neighbors=1)
    engine = retriever._gallery.engine
    asked = []
    exact = engine.exact.query
    monkeypatch.setattr(engine.exact, "query", lambda q, k: asked.append(len(q)) or exact(q, k))
    found = retriever.kneighbors(near)[1]
    assert asked == []  # no query was given to the exact engine
    assert (found == exact(engine.encode(near), 1)[1]).mean() >= 0.95


@each(APPROXIMATE)
def test_a_gallery_of_mostly_zero_rows(case, clusters, tmp_path):
    gallery = np.vstack([clusters[:1100], np.zeros((15_000, 32), np.float32)])
    retriever = case.fit(gallery, tmp_path)
    assert (retriever.kneighbors(clusters[:50])[1][:, 0] == np.arange(50)).mean() > 0.95


@each([case for case in APPROXIMATE if case.metric == "cosine"])
def test_zero_and_repeated_rows(case, clusters, near, tmp_path):
    gallery = np.vstack([clusters, np.zeros((50, 32), np.float32), np.tile(clusters[:1], (300, 1))])
    retriever = case.fit(gallery, tmp_path, n_neighbors=10, recall_target=0)
    distances, positions = retriever.kneighbors(np.zeros((2, 32)), 5)
    assert (distances == 1).all()
    assert positions.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert_sound(retriever, near, 10)
    assert not np.isin(retriever.kneighbors(near)[1], np.arange(3000, 3050)).any()
    rounding = 1e-7 if case.storage == "float16" else 0
    assert (retriever.kneighbors(clusters[:1], 30)[0] <= rounding).all()


@each([case for case in APPROXIMATE if case.metric == "euclidean"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_euclidean_rows_of_any_scale(scale, case, clusters, near, tmp_path):
    scaled, queries = clusters * np.float32(scale), near * np.float32(scale)
    retriever = case.fit(scaled, tmp_path, n_neighbors=10)
    expected = case.reference(scaled, n_neighbors=10).kneighbors(queries)
    assert recall(retriever.kneighbors(queries)[1], expected[1]) >= 0.95
    assert retriever.recall_ >= 0.95
    assert_sound(retriever, np.full((2, 32), 1e5 * scale, dtype=np.float32), 10)


@each(APPROXIMATE)
def test_rows_added_and_removed_show_at_once(case, clusters, near, tmp_path, monkeypatch):
    more = make_clusters(400, seed=3)
    retriever = case.fit(clusters, tmp_path, n_neighbors=10)
    built, build = [], case.engine._build
    monkeypatch.setattr(case.engine, "_build", lambda self: built.append(1) or build(self))
    retriever.partial_fit(more[:100])
    assert (retriever.predict(more[:100])[:, 0] == np.arange(3000, 3100)).all()
    victims = retriever.predict(near[:3])[:, :9].ravel()
    retriever.remove(np.unique(victims))
    assert not built  # too little has changed to build again
    assert not np.isin(retriever.predict(near), victims).any()
    assert_sound(retriever, near, 10)
    loaded = pickle.loads(pickle.dumps(retriever))
    if "index" in case.engine.pickled:
        np.testing.assert_array_equal(loaded.predict(near), retriever.predict(near))
    assert recall(loaded.predict(near), retriever.predict(near)) >= 0.99
    retriever.partial_fit(more[100:])
    links = case.engine is NNDescentEngine
    assert len(built) == (not links)
    left = np.delete(np.vstack([clusters, more]), np.unique(victims), axis=0)
    expected = case.reference(left, n_neighbors=10).kneighbors(near, return_distance=False)
    assert recall(retriever.kneighbors(near, return_distance=False), expected) >= 0.95
    assert retriever.remove(retriever.ids_[900:]).algorithm_ == "exact"  # too few for an index


@each(APPROXIMATE)
def test_low_recall_warns(case, tmp_path, monkeypatch):
    monkeypatch.setattr(case.engine, "ef_searches", (1,))
    rows = np.random.default_rng(0).standard_normal((3000, 200)).astype(np.float32)
    name = case.algorithm
    with pytest.warns(UserWarning, match=f"algorithm='{name}' finds 0.* less than recall_target"):
        retriever = case.fit(rows, tmp_path, n_neighbors=10, recall_target=1.0)
    assert retriever.recall_ < (0.5 if str(case).startswith("faiss-") else 1)


@each(APPROXIMATE)
def test_many_threads_get_the_answers_of_one(case, approximate, near):
    expected = approximate.kneighbors(near, return_distance=False)
    wrong = []

    def ask():
        wrong.extend(
            row
            for row in range(len(near))
            if (approximate.kneighbors(near[row : row + 1])[1][0] != expected[row]).any()
        )

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        join([threading.Thread(target=ask) for _ in range(4)])
    finally:
        sys.setswitchinterval(before)
    assert wrong == []


@pytest.mark.slow
@each([case for case in APPROXIMATE if case.metric == "cosine"])
@pytest.mark.parametrize("n_features", [64, 512])
@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
def test_recall_or_a_warning_on_20000_rows(n_features, spread, case, tmp_path):
    rows = make_clusters(20_000, n_features, 100, spread)
    queries = make_clusters(5_000, n_features, 100, spread, seed=2)
    retriever = case.fit(rows, tmp_path, n_neighbors=10)
    expected = case.reference(rows, n_neighbors=10).kneighbors(queries, return_distance=False)
    shares = shares_found(retriever.kneighbors(queries, return_distance=False), expected)
    # The index is sure of its target for queries like its probe; these are others.
    margin = 2 * shares.std() / np.sqrt(len(shares))
    assert shares.mean() + margin >= 0.95
    assert margin < 0.006
    assert abs(shares.mean() - retriever.recall_) < 0.03
