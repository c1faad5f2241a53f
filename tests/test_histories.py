"""Whatever happens to a gallery, it answers as a plain list of its rows would."""

import copy
import itertools
import math
import pickle
import sys
import threading
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sklearn_cbir import NeighborsRetriever, persistence
from sklearn_cbir.index import _approximate, _nndescent
from sklearn_cbir.index._linking import LinkedGraph
from sklearn_cbir.metrics import mean_average_precision

# Small whole numbers: many rows are equal, or equally far, and loops compute the same distance.
ROWS = {
    "euclidean": st.tuples(*[st.integers(-2, 2)] * 3),
    "cosine": st.tuples(*[st.integers(-2, 2)] * 3),
    "hamming": st.tuples(*[st.integers(0, 1)] * 9),
}
IDS = {
    "counted": None,
    "numbers": lambda i: 3 * i - 20,
    "text": lambda i: "x" * (i % 4) + str(i),
    "pairs": lambda i: (i % 2, str(i)) if i % 3 else (b"%d" % i,),
}
ENGINES = {
    "euclidean": {"metric": "euclidean", "algorithm": "exact"},
    "cosine": {"metric": "cosine", "algorithm": "exact"},
    "hamming": {"metric": "hamming", "algorithm": "exact"},
    "float16": {"metric": "euclidean", "algorithm": "exact", "storage": "float16"},
    "memory_map": {"metric": "euclidean", "algorithm": "exact", "storage": "memory_map"},
    "faiss": {"metric": "euclidean", "algorithm": "faiss"},
}


def euclidean(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)))


def cosine(a, b):
    lengths = sum(x * x for x in a) * sum(y * y for y in b)
    return 1 - sum(x * y for x, y in zip(a, b)) / math.sqrt(lengths) if lengths else 1.0


def hamming(a, b):
    return sum(x != y for x, y in zip(a, b))


DISTANCES = {"euclidean": euclidean, "cosine": cosine, "hamming": hamming}


@dataclass
class PlainList:
    """What a gallery should be: rows, ids and labels in the order in which they came."""

    metric: str
    rows: list = field(default_factory=list)
    ids: list = field(default_factory=list)
    labels: list | None = None

    def distances(self, queries):
        """Return the distances (n_queries, n_rows)."""
        distance = DISTANCES[self.metric]
        return np.array([[distance(query, row) for row in self.rows] for query in queries])

    def ranking(self, distances, own):
        """Return all positions but `own`, nearest first, the smaller at equal distance."""
        others = (i for i in range(len(self.rows)) if i != own)
        return sorted(others, key=lambda i: (distances[i], i))

    def without(self, gone):
        """Return the list without some positions."""
        kept = [i for i in range(len(self.rows)) if i not in gone]
        labels = None if self.labels is None else [self.labels[i] for i in kept]
        rows, ids = ([values[i] for i in kept] for values in (self.rows, self.ids))
        return PlainList(self.metric, rows, ids, labels)


def check_answers(retriever, plain, queries):
    """Compare everything that can be asked; own rows are left out where the gallery asks."""
    assert retriever.ids_.tolist() == plain.ids
    assert retriever.n_samples_fit_ == len(plain.rows)
    if plain.labels is None:
        assert retriever.y_ is None
    else:
        assert retriever.y_.tolist() == plain.labels
    everybody = range(len(plain.rows))
    _check_nearest(retriever, plain, queries, [-1] * len(queries), X=np.array(queries))
    if len(plain.rows) > 1:
        _check_nearest(retriever, plain, plain.rows, everybody)
        some = [i for i in everybody if i % 2][::-1]
        ids = retriever.ids_[some]
        _check_nearest(retriever, plain, [plain.rows[i] for i in some], some, ids=ids)
    _check_within(retriever, plain, queries)
    _check_like(retriever, plain)


def _check_nearest(retriever, plain, queries, own, **asked):
    wanted = plain.distances(queries)
    n_others = len(plain.rows) - (own[0] >= 0)
    for k in {1, (n_others + 1) // 2, n_others}:
        distances, positions = retriever.kneighbors(n_neighbors=k, **asked)
        for query, of_query in enumerate(wanted):
            order = plain.ranking(of_query, own[query])[:k]
            found = positions[query].tolist()
            np.testing.assert_allclose(distances[query], of_query[order], atol=1e-6)
            np.testing.assert_allclose(distances[query], of_query[found], atol=1e-6)
            assert len({*found} - {own[query]}) == k
            # Cosines that are equal on paper may differ by rounding, and so come in any order.
            assert plain.metric == "cosine" or found == order
    retriever.n_neighbors = k
    predicted = retriever.predict(**asked)
    assert predicted.tolist() == [[plain.ids[i] for i in row] for row in positions]


def _check_within(retriever, plain, queries):
    radius = {"euclidean": 2, "cosine": 0.7, "hamming": 4}[plain.metric]
    wanted = plain.distances(queries)
    distances, positions = retriever.radius_neighbors(np.array(queries), radius)
    for query, of_query in enumerate(wanted):
        assert positions[query].tolist() == np.flatnonzero(of_query <= radius).tolist()
        np.testing.assert_allclose(distances[query], of_query[of_query <= radius], atol=1e-6)


def check_filtered(retriever, plain, queries, left, where):
    """Compare what is found among rows left in with a list of these alone, in its positions."""
    alone = plain.without(set(range(len(plain.rows))) - set(left))
    wanted = alone.distances(queries)
    retriever.n_neighbors = 1
    for k in {1, (len(left) + 1) // 2, len(left)}:
        found = retriever.kneighbors(np.array(queries), k, where=where)
        _check_filtered(alone, left, wanted, [-1] * len(queries), *found)
    if len(left) > 1:  # rows that are left in ask, and rows that are not
        asking = [*range(len(plain.rows))][-4:][::-1]
        own = [left.index(i) if i in left else -1 for i in asking]
        rows = [plain.rows[i] for i in asking]
        found = retriever.kneighbors(None, len(left) - 1, ids=retriever.ids_[asking], where=where)
        _check_filtered(alone, left, alone.distances(rows), own, *found)
    radius = {"euclidean": 2, "cosine": 0.7, "hamming": 4}[plain.metric]
    positions = retriever.radius_neighbors(np.array(queries), radius, where=where)[1]
    for found, of_query in zip(positions, wanted):
        assert found.tolist() == [left[i] for i in np.flatnonzero(of_query <= radius)]


def _check_filtered(alone, left, wanted, own, distances, positions):
    for query, of_query in enumerate(wanted):
        order = alone.ranking(of_query, own[query])[: len(positions[query])]
        found = [left.index(position) for position in positions[query].tolist()]
        np.testing.assert_allclose(distances[query], of_query[order], atol=1e-6)
        np.testing.assert_allclose(distances[query], of_query[found], atol=1e-6)
        assert len({*found} - {own[query]}) == len(order)
        assert alone.metric == "cosine" or found == order


def _check_like(retriever, plain):
    """The last row is liked; the first is not, which weighs half as much."""
    liked, unliked = plain.rows[-1], plain.rows[0]
    if len(plain.rows) < 3 or not (any(liked) or any(unliked)):
        return
    values = {  # of a code, the bits of the one that is liked have the majority
        "hamming": lambda row: hamming(row, liked),
        "cosine": lambda row: 2 * cosine(row, liked) - cosine(row, unliked),
        "euclidean": lambda row: 2 * euclidean(row, liked) ** 2 - euclidean(row, unliked) ** 2,
    }[plain.metric]
    n = len(plain.rows) - 2
    found = retriever.like(retriever.ids_[-1:], retriever.ids_[:1], n_neighbors=n)[1][0].tolist()
    assert sorted(found) == list(range(1, n + 1))
    ranked = [values(plain.rows[i]) for i in found]
    assert all(after >= before - 1e-6 for before, after in itertools.pairwise(ranked))


class History(RuleBasedStateMachine):
    """What may happen to a gallery; after every change it is compared with the plain list."""

    def __init__(self, options, folder):
        super().__init__()
        self.options = options
        self.folder = folder
        self.numbers = itertools.count()
        self.past = []  # copies that were left behind, and what they should still hold

    def some_rows(self, data, least=1):
        return data.draw(st.lists(ROWS[self.options["metric"]], min_size=least, max_size=6))

    def new_ids(self, n):
        numbers = [next(self.numbers) for _ in range(n)]
        return numbers if self.make_id is None else [self.make_id(i) for i in numbers]

    def check(self, data):
        check_answers(self.retriever, self.plain, self.some_rows(data))

    def arguments(self, rows):
        """Return what `fit` and `partial_fit` take besides rows, and hold it in the list."""
        ids, labels = self.new_ids(len(rows)), [i % 3 for i in range(len(rows))]
        self.plain.rows += rows
        self.plain.ids += ids
        if self.plain.labels is not None:
            self.plain.labels += labels
        return {
            "y": None if self.plain.labels is None else labels,
            "ids": None if self.make_id is None else ids,
        }

    @initialize(data=st.data(), kind=st.sampled_from(sorted(IDS)), labels=st.booleans())
    def fit_first(self, data, kind, labels):
        self.retriever = NeighborsRetriever(**self.options)
        self.fit(data, kind, labels)

    @rule(data=st.data(), kind=st.sampled_from(sorted(IDS)), labels=st.booleans())
    def fit(self, data, kind, labels):
        self.make_id = IDS[kind]
        self.numbers = itertools.count()
        self.plain = PlainList(self.options["metric"], labels=[] if labels else None)
        rows = self.some_rows(data, least=2)
        X = np.array(rows, dtype=data.draw(st.sampled_from(["f4", "f8"])))
        if self.options.get("storage") == "memory_map":
            path = self.folder / f"{len(list(self.folder.iterdir()))}.npy"
            np.save(path, X)
            X = path
        self.retriever.fit(X, **self.arguments(rows))
        self.check(data)

    @rule(data=st.data())
    def partial_fit(self, data):
        rows = self.some_rows(data)
        self.retriever.partial_fit(np.array(rows), **self.arguments(rows))
        self.check(data)

    @precondition(lambda self: len(self.plain.rows) > 1)
    @rule(data=st.data())
    def remove(self, data):
        places = st.sets(st.integers(0, len(self.plain.rows) - 1), min_size=1)
        gone = sorted(data.draw(places))[: len(self.plain.rows) - 1]
        self.retriever.remove(self.retriever.ids_[gone])
        self.plain = self.plain.without(gone)
        self.check(data)

    @rule(data=st.data(), how=st.sampled_from(["copy", "pickle", "file"]))
    def go_on_with_a_copy(self, data, how):
        self.past.append((self.retriever, copy.deepcopy(self.plain)))
        if how == "copy":
            self.retriever = copy.deepcopy(self.retriever)
        elif how == "pickle":
            self.retriever = pickle.loads(pickle.dumps(self.retriever))
        else:
            persistence.save(self.retriever, self.folder / "gallery.cbir")
            self.retriever = persistence.load(self.folder / "gallery.cbir")
        self.check(data)

    @rule(data=st.data(), adds=st.booleans())
    def ask_from_two_threads_during_a_change(self, data, adds):
        """Every answer is that of the gallery before, or that of the gallery behind the change."""
        queries = np.array(self.some_rows(data))
        before = self.retriever.set_params(n_neighbors=1).predict(queries).tolist()
        answers, changed = [], threading.Event()

        def ask():
            while not changed.is_set():
                answers.append(self.retriever.predict(queries).tolist())

        threads = [threading.Thread(target=ask) for _ in range(2)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            if adds or len(self.plain.rows) == 1:
                rows = self.some_rows(data)
                self.retriever.partial_fit(np.array(rows), **self.arguments(rows))
            else:
                self.retriever.remove(self.retriever.ids_[:1])
                self.plain = self.plain.without([0])
        finally:
            changed.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)
        after = self.retriever.predict(queries).tolist()
        assert all(answer in (before, after) for answer in answers)
        self.check(data)

    def a_filter(self, data):
        """Return positions that are left in, and how a user says so."""
        n = len(self.plain.rows)
        left = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
        mask = np.isin(np.arange(n), left)
        return left, data.draw(st.sampled_from([mask, self.retriever.ids_[left[::-1]]]))

    @rule(data=st.data())
    def ask_with_filters(self, data):
        for _ in range(2):
            left, where = self.a_filter(data)
            check_filtered(self.retriever, self.plain, self.some_rows(data), left, where)

    @rule(data=st.data())
    def ask_from_two_threads_with_filters_of_their_own(self, data):
        queries = np.array(self.some_rows(data))
        self.retriever.n_neighbors = 1
        asked = [self.a_filter(data)[1] for _ in range(2)]
        wanted = [self.retriever.predict(queries, where=where).tolist() for where in asked]
        answers = []

        def ask(where, right):
            found = (self.retriever.predict(queries, where=where) for _ in range(5))
            answers.extend(positions.tolist() == right for positions in found)

        threads = [threading.Thread(target=ask, args=pair) for pair in zip(asked, wanted)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
        finally:
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)
        assert answers == [True] * 10

    @precondition(lambda self: self.plain.labels is not None and self.plain.metric != "cosine")
    @rule(data=st.data(), label=st.integers(0, 2))
    def score_with_a_filter(self, data, label):
        left, where = self.a_filter(data)
        labels = [self.plain.labels[i] for i in left]
        queries = self.some_rows(data)
        y, distances = [label] * len(queries), self.plain.distances(queries)[:, left]
        if label not in labels or len(queries) == len(self.plain.rows):
            return
        wanted = mean_average_precision(y, labels, distances)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "[0-9]+% of the queries are equal")
            found = self.retriever.score(np.array(queries), y, where=where)
        assert found == pytest.approx(wanted)

    @precondition(lambda self: self.plain.labels is not None and self.plain.metric != "cosine")
    @rule(data=st.data(), label=st.integers(0, 2))
    def score(self, data, label):
        if label not in self.plain.labels:
            return
        queries = self.some_rows(data)
        y, distances = [label] * len(queries), self.plain.distances(queries)
        wanted = mean_average_precision(y, self.plain.labels, distances)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "[0-9]+% of the queries are equal")
            assert self.retriever.score(np.array(queries), y) == pytest.approx(wanted)

    def teardown(self):
        for retriever, plain in self.past:
            check_answers(retriever, plain, plain.rows[:3])


# Rows of which no two are equally far from a third: of what ties at the end of a list, a graph may
# name another.
APART = [tuple(row) for row in np.random.default_rng(0).normal(size=(120, 3)).astype("f4").tolist()]


class GraphHistory(History):
    """A gallery of so many rows that it has a graph, which is searched to its end."""

    def some_rows(self, data, least=1):
        rows = data.draw(st.lists(st.sampled_from(APART), min_size=least, max_size=6))
        return [*APART[:60], *rows] if least == 2 else rows  # which `fit` asks for


@pytest.mark.parametrize("options", ENGINES.values(), ids=list(ENGINES))
def test_a_gallery_answers_as_a_plain_list_whatever_happened_to_it(options, tmp_path):
    run_state_machine_as_test(lambda: History(options, tmp_path))


def test_a_graph_answers_as_a_plain_list_whatever_is_linked_or_removed(tmp_path, monkeypatch):
    few = {"ROWS_AT_LEAST": 45, "NEIGHBORS": 24, "PROBE_ROWS": 1}
    for name, value in few.items():
        monkeypatch.setattr(_approximate, name, value)
    monkeypatch.setattr(_nndescent, "PROBE_ROWS", 1)
    of_all = {"ef_searches": (100,), "rows_per_neighbor": 0.1, "neighbors_limit": 40}
    for name, value in of_all.items():
        monkeypatch.setattr(_nndescent.NNDescentEngine, name, value)
    options = {"metric": "euclidean", "algorithm": "nndescent", "random_state": 0}
    linked, link = [], LinkedGraph.link
    monkeypatch.setattr(
        LinkedGraph, "link", lambda *arguments: linked.append(1) or link(*arguments)
    )
    histories = settings(max_examples=20, stateful_step_count=10)
    run_state_machine_as_test(lambda: GraphHistory(options, tmp_path), settings=histories)
    assert len(linked) > 5
