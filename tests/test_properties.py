"""What holds for any input, tried on those that hypothesis makes up: references are plain loops."""

import itertools

import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.codes import (
    hamming_distances,
    hamming_radius,
    hamming_top_k,
    pack_codes,
    unpack_codes,
)
from sklearn_cbir.metrics import mean_average_precision, precision_at_k, recall_in_radius

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies
few = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
IDS = st.one_of(
    st.text(max_size=4),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.binary(max_size=3),
    st.tuples(st.integers(0, 2), st.text(max_size=1)),
    st.floats(allow_nan=False, width=16),
)
KINDS = {
    "text": st.text(max_size=4),
    "numbers": st.integers(0, 2**64 - 1),
    "signed": st.integers(-(2**63), 2**63 - 1),
    "any": IDS,
}


def key_of(id_):
    """Return what tells ids apart: equal and hashed alike, but True is not 1."""
    return (isinstance(id_, bool), id_)


def is_added(retriever, rows, ids):
    """Add rows, unless their ids are of a type that those of the gallery are not."""
    try:
        retriever.partial_fit(rows, ids=ids)
    except ValueError as error:
        if "they can never be equal" not in str(error):
            raise
        return False
    return True


@st.composite
def histories(draw):
    """Ids to fit with, and batches that are added or removed afterwards."""
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    ids = draw(st.lists(kind, min_size=4, max_size=16, unique_by=key_of))
    first = draw(st.integers(1, len(ids) - 1))
    cuts = sorted(draw(st.sets(st.integers(first, len(ids)), max_size=3)) | {first, len(ids)})
    gone = draw(st.lists(st.sampled_from(ids), max_size=3, unique_by=key_of))
    return ids[:first], [ids[a:b] for a, b in itertools.pairwise(cuts)], gone


@few
@given(histories())
def test_ids_name_their_rows_through_every_change(history):
    first, batches, gone = history
    place = {key_of(id_): i for i, id_ in enumerate(itertools.chain(first, *batches))}
    rows = np.eye(len(place))

    def rows_of(ids):
        return rows[[place[key_of(id_)] for id_ in ids]]

    held = list(first)
    retriever = NeighborsRetriever(1, algorithm="exact").fit(rows_of(held), ids=held)
    for batch in batches:
        if is_added(retriever, rows_of(batch), batch):
            held += batch
    present = set(map(key_of, held))
    gone = [id_ for id_ in gone if key_of(id_) in present][: len(held) - 1]
    retriever.remove(gone)
    away = set(map(key_of, gone))
    held = [id_ for id_ in held if key_of(id_) not in away]
    assert list(map(key_of, retriever.ids_.tolist())) == list(map(key_of, held))
    np.testing.assert_array_equal(retriever.rows(held[::-1]), rows_of(held[::-1]))
    found = retriever.predict(rows_of(held)).ravel().tolist()
    assert list(map(key_of, found)) == list(map(key_of, held))


@few
@given(st.data())
def test_codes_are_compared_bit_by_bit(data):
    n_bits, n = data.draw(st.integers(1, 140)), data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    queries, gallery = (rng.random((m, n_bits)) < 0.1 + 0.8 * rng.random() for m in (3, n))
    packed = pack_codes(queries), pack_codes(gallery)
    np.testing.assert_array_equal(unpack_codes(packed[1], n_bits), gallery)
    wanted = (queries[:, None] != gallery[None]).sum(axis=2)
    np.testing.assert_array_equal(hamming_distances(*packed), wanted)
    k = data.draw(st.integers(1, n))
    order = np.argsort(wanted, axis=1, kind="stable")
    np.testing.assert_array_equal(hamming_top_k(*packed, k)[1], order[:, :k])
    radius = data.draw(st.integers(0, n_bits))
    for row, found in enumerate(hamming_radius(*packed, radius)[1]):
        wanted_here = [i for i in order[row] if wanted[row, i] <= radius]
        assert found.tolist() == wanted_here


@st.composite
def rankings(draw):
    """Distances with ties, what is relevant, and the order of every way to break the ties."""
    n = draw(st.integers(2, 6))
    number = st.sampled_from([0.0, -0.0, 0.1, 1 / 3, 2.0, 1e300, float("inf")])
    distances = np.array(draw(st.lists(number, min_size=n, max_size=n)))
    relevant = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    relevant[draw(st.integers(0, n - 1))] = True
    orders = [
        order
        for order in itertools.permutations(range(n))
        if all(distances[a] <= distances[b] for a, b in itertools.pairwise(order))
    ]
    return distances, relevant, orders


@few
@given(rankings(), st.integers(1, 6))
def test_metrics_are_means_over_the_orders_of_ties(ranking, k):
    distances, relevant, orders = ranking
    k = min(k, len(distances))
    hits = np.array([relevant[list(order)] for order in orders])
    precision = hits.cumsum(axis=1) / np.arange(1, len(distances) + 1)
    wanted = ((precision * hits).sum(axis=1) / relevant.sum()).mean()
    labels = np.where(relevant, 1, 0)
    assert abs(mean_average_precision([1], labels, distances[None]) - wanted) < 1e-12
    wanted = hits[:, :k].mean()
    assert abs(precision_at_k([1], labels, distances[None], k=k) - wanted) < 1e-12
    inside = (distances <= 1 / 3)[relevant].mean()
    assert abs(recall_in_radius([1], labels, distances[None], radius=1 / 3) - inside) < 1e-12
