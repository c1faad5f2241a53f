"""What holds for any input, tried on those that hypothesis makes up: references are plain loops."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from metric_cases import (
    IN_RADIUS,
    VARIANTS,
    call,
    coded,
    labels_that_share,
    loop_average_precision,
    over_orders,
)
from sklearn.exceptions import UndefinedMetricWarning

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.codes import (
    HammingDistances,
    hamming_distances,
    hamming_radius,
    hamming_top_k,
    pack_codes,
    unpack_codes,
)
from sklearn_cbir.metrics import METRICS, mean_average_precision

few = settings(max_examples=2 * settings.default.max_examples)
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


# Of these the first `k` of ties in the best order are no bound: see `mean_average_precision`.
OVER_HITS = {"wmap", "map over hits", "wmap over hits"}


@st.composite
def rankings(draw):
    """Distances with ties, labels that are shared with the query, and rows that are left out."""
    n = draw(st.integers(1, 5))
    number = st.sampled_from([0.0, -0.0, 0.1, 1 / 3, 2.0, 1e300, float("inf")])
    distances = draw(st.lists(number, min_size=n, max_size=n))
    shared = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    left_out = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return np.array(distances), np.array(shared), left_out


def asked(ranking, how):
    """Return what a metric takes: 0/1 columns, distances, and rows to leave out in one form."""
    distances, shared, left_out = ranking
    out = np.flatnonzero(left_out)
    exclude = {"mask": left_out[None], "rows": [out], "none": None}[how]
    if how == "none":
        left_out = np.zeros_like(left_out)
    return (*labels_that_share(shared, 3), distances[None]), exclude, ~left_out


@few
@given(rankings(), st.integers(1, 6), st.sampled_from(["mask", "rows", "none"]))
@example((np.zeros(3), np.arange(3), np.zeros(3, dtype=bool)), 2, "mask")
@pytest.mark.parametrize("name", VARIANTS)
def test_metrics_are_means_over_the_orders_of_ties(name, ranking, k, how):
    metric, loop = VARIANTS[name]
    arguments, exclude, kept = asked(ranking, how)
    distances, shared = ranking[0][kept], ranking[1][kept]
    k = min(k, max(len(shared), 1))
    value = call(metric, name, *arguments, k=k, exclude=exclude, per_query=True)[0]
    if not shared.any():
        assert np.isnan(value)
        return
    values = over_orders(loop, shared.tolist(), distances, k)
    assert value == pytest.approx(np.mean(values), abs=1e-12)
    first, last = (
        call(metric, name, *arguments, k=k, exclude=exclude, ties=ties, per_query=True)[0]
        for ties in ("optimistic", "pessimistic")
    )
    if name not in OVER_HITS or k == len(shared):  # else one hit may score more than it and others
        assert last - 1e-12 <= min(values) <= max(values) <= first + 1e-12
    by_position = sorted(range(len(shared)), key=lambda i: distances[i])
    value = call(metric, name, *arguments, k=k, exclude=exclude, ties="stable", per_query=True)[0]
    assert value == pytest.approx(loop(shared[by_position].tolist(), k), abs=1e-12)


def in_radius(shared, n_relevant):
    """Return what the metrics of a radius say of the items inside, in their order."""
    n_hits = sum(count > 0 for count in shared)
    return {
        "precision_in_radius": n_hits / len(shared) if shared else 0.0,
        "recall_in_radius": n_hits / n_relevant,
        "success_in_radius": float(len(shared) > 0),
        "map_in_radius": loop_average_precision(shared, len(shared), "hits"),
    }


@few
@given(rankings(), st.sampled_from([0, 0.1, 1 / 3, 2]), st.sampled_from(["mask", "rows", "none"]))
def test_metrics_of_a_radius_count_what_is_inside(ranking, radius, how):
    arguments, exclude, kept = asked(ranking, how)
    distances, shared = ranking[0][kept], ranking[1][kept]
    inside = distances <= radius
    for name in IN_RADIUS:
        value = METRICS[name](*arguments, radius=radius, exclude=exclude, per_query=True)[0]
        if not shared.any():
            assert np.isnan(value)
            continue
        values = over_orders(
            lambda counts, k, name=name: in_radius(counts, np.count_nonzero(shared))[name],
            shared[inside].tolist(),
            distances[inside],
            None,
        )
        assert value == pytest.approx(np.mean(values), abs=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 20), st.booleans())
@pytest.mark.parametrize("name", METRICS)
def test_codes_score_as_the_matrix_of_their_distances(name, seed, n_bits, graded):
    rng = np.random.default_rng(seed)
    y_queries, y_gallery, *codes = coded(rng, graded, n_bits)
    exclude = rng.integers(-1, 150, 20)
    compared = HammingDistances(*map(pack_codes, codes))
    values = (
        call(METRICS[name], name, y_queries, y_gallery, d, k=7, exclude=exclude, per_query=True)
        for d in (compared, hamming_distances(*map(pack_codes, codes)))
    )
    np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-14)


@few
@given(st.data())
def test_a_mean_leaves_out_queries_without_anything_relevant(data):
    n = data.draw(st.integers(1, 6))
    labels = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    y_queries, y_gallery = data.draw(labels), data.draw(labels)
    weight = data.draw(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=n, max_size=n))
    distances = np.random.default_rng(n).random((n, n))
    values = mean_average_precision(y_queries, y_gallery, distances, per_query=True)
    assert np.isnan(values).tolist() == [label not in y_gallery for label in y_queries]
    scored = ~np.isnan(values)
    if not scored.any():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        mean = mean_average_precision(y_queries, y_gallery, distances, sample_weight=weight)
    wanted = sum(v * w for v, w in zip(values, weight) if v == v)
    assert mean == pytest.approx(wanted / np.array(weight)[scored].sum())
