"""Classical hashers: the family by common checks, each core step against a plain reference."""

import itertools
import pickle
import warnings

import numpy as np
import pytest
from hasher_cases import HASHERS, N_TRAIN, RANDOM, easy, hasher_of, map_of
from scipy.linalg import eigh, orthogonal_procrustes
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import estimator_checks_generator

from sklearn_cbir import hashing
from sklearn_cbir.hashing import (
    BREHasher,
    CCAITQHasher,
    DeepHasher,
    HasherMixin,
    ITQHasher,
    KSHHasher,
    LSHHasher,
    SpectralHasher,
    _base as base,
    _bre as bre,
    _cca_itq as cca,
    _ksh as ksh,
    _mlh as mlh,
    _spectral as spectral,
)


def _legacy_rng(seed):
    return np.random.RandomState(seed)


# The family -----------------------------------------------------------------------------------


def _checks(name):
    with warnings.catch_warnings():
        # The array-API check skips itself where its switch is off.
        warnings.simplefilter("ignore")
        hasher = hasher_of(name, 2).set_params(**QUICK.get(name, {}))
        checks = estimator_checks_generator(hasher, legacy=True)
        return [(hasher, check) for hasher, check in checks if _check_name(check) != ARRAY_API]


def _check_name(check):
    return getattr(check, "func", check).__name__


ARRAY_API = "check_array_api_input"
QUICK = {"MLHHasher": {"max_epochs": 2}}
CHECKS = {name: _checks(name) for name in HASHERS}


@pytest.mark.parametrize(
    ("hasher", "check"),
    [
        pytest.param(hasher, check, id=f"{name}-{_check_name(check)}")
        for name, checks in CHECKS.items()
        for hasher, check in checks
    ],
)
def test_scikit_learn_check(hasher, check):
    check(hasher)


@pytest.mark.parametrize("name", HASHERS)
def test_at_least_40_checks_run(name):
    assert len(CHECKS[name]) >= 40


def test_every_hasher_of_rows_is_tested():
    public = {name: getattr(hashing, name) for name in hashing.__all__}
    family = {name for name, cls in public.items() if issubclass(cls, HasherMixin)}
    assert family - {"HasherMixin", "DeepHasher"} == HASHERS.keys()
    assert issubclass(DeepHasher, HasherMixin)


@pytest.mark.parametrize("name", HASHERS)
def test_codes_are_the_signs_of_the_projection(name):
    X, y = easy()
    hasher = hasher_of(name, 12).fit(X[:N_TRAIN], y[:N_TRAIN])
    codes = hasher.transform(X)
    assert codes.shape == (400, 12)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, hasher.project(X) >= 0)
    assert len(hasher.get_feature_names_out()) == 12


@pytest.mark.parametrize("name", HASHERS)
def test_unseen_rows_have_the_same_codes_alone(name):
    X, y = easy()
    hasher = hasher_of(name, 12).fit(X[:N_TRAIN], y[:N_TRAIN])
    unseen = X[N_TRAIN:]
    alone = np.concatenate([hasher.transform(unseen[i : i + 1]) for i in range(20)])
    np.testing.assert_array_equal(alone, hasher.transform(unseen)[:20])


@pytest.mark.parametrize("name", HASHERS)
def test_equal_seeds_give_equal_codes_and_leave_the_global_generator_alone(name):
    X, y = easy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, other = (hasher_of(name, 12).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(one.project(X), other.project(X))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one)).project(X), one.project(X))


@pytest.mark.parametrize("name", RANDOM)
def test_other_seeds_give_other_codes(name):
    X, y = easy()
    one, other = (hasher_of(name, 12, random_state=seed).fit(X, y) for seed in (0, 1))
    assert (one.transform(X) != other.transform(X)).any()


@pytest.mark.parametrize("name", HASHERS)
def test_codes_beat_chance_on_easy_data(name):
    X, y = easy()
    n_bits = 16
    chance = map_of(
        hasher_of("LSHHasher", n_bits).fit(X), X, np.random.default_rng(0).permutation(y)
    )
    assert chance < 0.23
    hasher = hasher_of(name, n_bits).fit(X[:N_TRAIN], y[:N_TRAIN])
    assert map_of(hasher, X, y) > chance + 0.15


@pytest.mark.parametrize("name", HASHERS)
def test_no_bit_is_the_same_for_all_rows(name):
    X, y = easy()
    shares = hasher_of(name, 12).fit(X, y).transform(X).mean(axis=0)
    assert shares.min() > 0.02
    assert shares.max() < 0.98


@pytest.mark.parametrize("name", [name for name in HASHERS if name != "ITQHasher"])
def test_more_bits_than_features(name):
    X, y = easy()
    assert hasher_of(name, 40).fit(X[:, :5], y).transform(X[:, :5]).shape == (400, 40)


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("LSHHasher", "n_bits", 0),
        ("LSHHasher", "n_bits", 8.0),
        ("SpectralHasher", "range", "max"),
        ("ITQHasher", "n_iter", 0),
        ("CCAITQHasher", "reg", -1),
        ("BREHasher", "kernel", "cosine"),
        ("BREHasher", "neighbor_frac", 2),
        ("BREHasher", "supervised", "yes"),
        ("BREHasher", "n_train", 1),
        ("MLHHasher", "rho", 5),
        ("MLHHasher", "lam", 1.5),
        ("MLHHasher", "lr", np.inf),
        ("KSHHasher", "n_anchors", 0),
    ],
)
def test_bad_parameter_is_named(name, parameter, value, rng):
    hasher = hasher_of(name, 4).set_params(**{parameter: value})
    with pytest.raises(ValueError, match=f"{parameter}="):
        hasher.fit(rng.standard_normal((20, 6)), np.arange(20) % 2)


# LSH ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orthogonal", [False, True])
def test_lsh_differs_in_the_angle_over_pi(orthogonal, rng):
    X = rng.standard_normal((2, 8))
    hasher = LSHHasher(100_000, center=False, orthogonal=orthogonal, random_state=0).fit(X)
    one, other = hasher.transform(X)
    angle = np.arccos(X[0] @ X[1] / np.linalg.norm(X[0]) / np.linalg.norm(X[1]))
    assert (one != other).mean() == pytest.approx(angle / np.pi, abs=0.01)


def test_lsh_without_center_ignores_lengths(rng):
    X = rng.standard_normal((20, 8))
    hasher = LSHHasher(32, center=False, random_state=0).fit(X)
    np.testing.assert_array_equal(hasher.transform(X), hasher.transform(7 * X))


def test_lsh_with_center_ignores_shifts(rng):
    X = rng.standard_normal((20, 8))
    one, other = (LSHHasher(32, random_state=0).fit_transform(Z) for Z in (X, X + 9))
    np.testing.assert_array_equal(one, other)


def test_lsh_groups_are_orthonormal(rng):
    normals = LSHHasher(13, orthogonal=True, random_state=0).fit(np.eye(5)).components_
    for group in (normals[:5], normals[5:10], normals[10:]):
        np.testing.assert_allclose(group @ group.T, np.eye(len(group)), atol=1e-12)


# Spectral hashing -----------------------------------------------------------------------------


def test_spectral_modes_of_a_worked_box():
    modes, eigenvalues = spectral.smoothest_modes(np.array([1.0, 0.5]), 6)
    # Squared frequencies in units of pi: 1, 4 = 4, 9, 16 = 16.
    np.testing.assert_allclose(eigenvalues / np.pi**2, [1, 4, 4, 9, 16, 16])
    assert sorted(map(tuple, modes)) == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]


def test_spectral_modes_are_the_smoothest_of_all(rng):
    for _ in range(5):
        extent, n_modes = rng.uniform(0, 2, 4), 7
        waves = range(1, n_modes + 1)
        everything = [(k * np.pi / r, a, k) for a, r in enumerate(extent) for k in waves]
        expected = [(axis, k) for _, axis, k in sorted(everything)[:n_modes]]
        modes, eigenvalues = spectral.smoothest_modes(extent, n_modes)
        assert list(map(tuple, modes)) == expected
        assert (np.diff(eigenvalues) >= 0).all()


def test_spectral_single_bit_splits_the_longest_axis_in_the_middle():
    X = np.column_stack([np.linspace(0, 8, 9), np.zeros(9)])
    values = SpectralHasher(1).fit(X).project(np.array([[0.0, 0], [3.9, 0], [4.1, 0], [8, 0]]))
    np.testing.assert_allclose(np.abs(values[[0, 3], 0]), 1)
    assert np.sign(values[0]) == np.sign(values[1]) == -np.sign(values[2])


@pytest.mark.parametrize("bounds", ["minmax", "percentile"])
def test_spectral_projection_equals_the_formula(bounds, rng):
    X = rng.standard_normal((60, 5)) * [5, 3, 2, 1, 1]
    hasher = SpectralHasher(9, range=bounds).fit(X)
    axes = np.linalg.svd(X - X.mean(axis=0))[2]
    along = (X - X.mean(axis=0)) @ (axes * np.sign((axes * hasher.components_).sum(1))[:, None]).T
    low, high = (
        (along.min(0), along.max(0))
        if bounds == "minmax"
        else np.percentile(along, [5, 95], axis=0)
    )
    for bit, (axis, k) in enumerate(hasher.modes_):
        position = (along[:, axis] - low[axis]) / (high[axis] - low[axis])
        expected = np.sin(np.pi / 2 + k * np.pi * position)
        np.testing.assert_allclose(hasher.project(X)[:, bit], expected, atol=1e-9)


def test_spectral_refuses_equal_rows():
    with pytest.raises(ValueError, match="equal"):
        SpectralHasher(4).fit(np.full((10, 3), 0.1))


def test_principal_axes_are_those_of_the_svd(rng):
    X = base.center(rng.standard_normal((50, 6)) * np.arange(1, 7))[1]
    axes = base.principal_axes(X, 3)
    expected = np.linalg.svd(X)[2][:3]
    np.testing.assert_allclose(np.abs((axes * expected).sum(axis=1)), 1)
    assert (axes[np.arange(3), np.abs(axes).argmax(axis=1)] > 0).all()


# ITQ ------------------------------------------------------------------------------------------


def test_itq_loss_never_grows(rng):
    X = rng.standard_normal((100, 12)) * np.arange(1, 13)
    losses = ITQHasher(8, random_state=0).fit(X).losses_
    assert (np.diff(losses) <= 1e-9 * losses[0]).all()
    assert losses[-1] < losses[0]


def test_itq_loss_is_the_squared_distance_to_signs(rng):
    X = rng.standard_normal((100, 12)) * np.arange(1, 13)
    before = ITQHasher(8, n_iter=5, random_state=0).fit(X)
    after = ITQHasher(8, n_iter=6, random_state=0).fit(X)
    values = before.project(X)
    direct = ((np.where(values >= 0, 1, -1) - values) ** 2).sum()
    assert after.losses_[5] == pytest.approx(direct)


def test_itq_rotation_solves_the_procrustes_problem(rng):
    X = rng.standard_normal((100, 12)) * np.arange(1, 13)
    hasher = ITQHasher(8, n_iter=4, random_state=0).fit(X)
    longer = ITQHasher(8, n_iter=5, random_state=0).fit(X)
    components = (X - X.mean(axis=0)) @ base.principal_axes(X - X.mean(axis=0), 8).T
    codes = np.where(hasher.project(X) >= 0, 1.0, -1.0)
    rotation, _ = orthogonal_procrustes(components, codes)
    np.testing.assert_allclose(longer.project(X), components @ rotation, atol=1e-8)


def test_itq_components_are_orthonormal(rng):
    components = ITQHasher(8, random_state=0).fit(rng.standard_normal((100, 12))).components_
    np.testing.assert_allclose(components @ components.T, np.eye(8), atol=1e-12)


@pytest.mark.parametrize("shape", [(50, 6), (7, 20)])
def test_itq_refuses_more_bits_than_axes(shape, rng):
    with pytest.raises(ValueError, match="n_bits=8 .* at most 6"):
        ITQHasher(8).fit(rng.standard_normal(shape))


# CCA-ITQ --------------------------------------------------------------------------------------


def test_cca_directions_are_uncorrelated_and_of_unit_variance(rng):
    X, Y = rng.standard_normal((80, 6)), np.eye(3)[rng.integers(3, size=80)]
    X, Y = base.center(X)[1], base.center(Y)[1]
    W, correlations = cca.canonical_directions(X, Y, 1e-4)
    C_xx = X.T @ X / 80
    C_xx += 1e-4 * np.trace(C_xx) / 6 * np.eye(6)
    np.testing.assert_allclose(W.T @ C_xx @ W, np.eye(6), atol=1e-9)
    assert (np.diff(correlations) <= 1e-12).all()
    assert 0 <= correlations.min() <= correlations.max() <= 1


def test_cca_correlations_are_cosines_between_the_two_spaces(rng):
    X = base.center(rng.standard_normal((80, 6)))[1]
    Y = base.center(X[:, :3] + rng.standard_normal((80, 3)))[1]
    _, correlations = cca.canonical_directions(X, Y, 1e-12)
    cosines = np.linalg.svd(np.linalg.qr(X)[0].T @ np.linalg.qr(Y)[0], compute_uv=False)
    np.testing.assert_allclose(correlations[:3], cosines, rtol=1e-6)
    np.testing.assert_allclose(correlations[3:], 0, atol=1e-5)


def test_cca_correlates_in_one_direction_less_than_classes():
    X, y = easy(n_classes=5)
    correlations = CCAITQHasher(20, random_state=0).fit(X, y).correlations_
    assert correlations.shape == (20,)
    assert correlations[3] > 0.5
    np.testing.assert_allclose(correlations[4:], 0, atol=1e-3)


def test_cca_codes_do_not_depend_on_the_unit_of_the_features():
    X, y = easy()
    one, other = (CCAITQHasher(8, random_state=0).fit_transform(Z, y) for Z in (X, 1000 * X))
    np.testing.assert_array_equal(one, other)


def test_cca_loss_never_grows():
    losses = CCAITQHasher(8, random_state=0).fit(*easy()).losses_
    assert (np.diff(losses) <= 1e-9 * losses[0]).all()


# BRE ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hasher", [BREHasher(8, n_train=50, random_state=0)], ids=repr)
def test_where_the_origin_lies_changes_no_code(hasher):
    X = np.random.default_rng(0).normal(size=(80, 6))
    moved = X + 4  # what is added is subtracted without a rounding that a code could tell
    np.testing.assert_array_equal(hasher.fit(moved).transform(moved), hasher.fit(X).transform(X))


def _bre_descent(rng, n=14, n_bits=3, n_anchors=4, whole=False):
    X = rng.standard_normal((n, 5))
    kernels = X @ X.T
    kernels[3] = kernels[:, 3] = 0  # a row without crossings
    i, j = bre.random_pairs(n, 0.4, _legacy_rng(0))
    anchors = np.stack([rng.permutation(n)[:n_anchors] for _ in range(n_bits)])
    weights = rng.standard_normal(anchors.shape)
    if whole:  # many equal crossings, and rows that some anchors do not move
        kernels = rng.choice([-2.0, -1, 0, 1, 2], (n, n))
        weights = rng.integers(-4, 5, anchors.shape) / 4
    return bre.Descent(kernels, anchors, weights, i, j, rng.uniform(size=(n, n))[i, j])


def _bre_objective(descent, weights):
    """Half the squared errors, from nothing but weights, in plain loops."""
    n_bits = len(weights)
    bits = np.zeros((n_bits, len(descent.kernels)))
    for p in range(n_bits):
        for i in range(len(descent.kernels)):
            total = 0.0
            for anchor, weight in zip(descent.anchors[p], weights[p]):
                total += weight * descent.kernels[i, anchor]
            bits[p, i] = total >= 0
    errors = 0.0
    for i, j, wanted in zip(descent.i, descent.j, descent.wanted):
        errors += ((bits[:, i] != bits[:, j]).sum() / n_bits - wanted) ** 2
    return errors / 2


@pytest.mark.parametrize("whole", [False, True])
def test_bre_weight_is_the_best_of_all(whole, rng):
    for _ in range(3):
        descent = _bre_descent(rng, whole=whole)
        for bit, k in itertools.product(range(3), range(2)):
            kernel = descent.kernels[:, descent.anchors[bit, k]]
            movable = kernel != 0
            crossings = descent.weights[bit, k] - descent.sums[bit][movable] / kernel[movable]
            crossings = np.unique(crossings)
            middles = (crossings[1:] + crossings[:-1]) / 2
            objectives = []
            for weight in [crossings[0] - 1, *middles, crossings[-1] + 1]:
                weights = descent.weights.copy()
                weights[bit, k] = weight
                objectives.append(_bre_objective(descent, weights))
            descent.update(bit, k)
            assert descent.objective == pytest.approx(min(objectives))


def test_bre_objective_is_kept_exactly_and_never_grows(rng):
    descent = _bre_descent(rng)
    losses = descent.run(4, 0, _legacy_rng(0))
    assert (np.diff(losses) <= 0).all()
    assert descent.objective == pytest.approx(_bre_objective(descent, descent.weights), abs=1e-9)


def test_bre_moves_no_weight_where_nothing_can_be_gained(rng):
    start = _bre_descent(rng)
    known = start.kernels, start.anchors, start.weights.copy(), start.i, start.j
    descent = bre.Descent(*known, start.wanted + start.errors)  # all as it is wanted
    descent.run(2, 0, _legacy_rng(0))
    np.testing.assert_array_equal(descent.weights, start.weights)


@pytest.mark.parametrize(
    ("fraction", "n_others"), [(0.0, 1), (0.26, 3), (0.5, 5), (0.9, 9), (1.0, 9)], ids=str
)
def test_bre_pairs_every_row_with_its_share_of_others(fraction, n_others):
    i, j = bre.random_pairs(10, fraction, _legacy_rng(0))
    assert np.bincount(i).tolist() == [n_others] * 10
    assert (i != j).all()
    assert len(set(zip(i, j))) == len(i)


@pytest.mark.parametrize("tol", [0.0, 0.02, 0.1, 0.9])
def test_bre_stops_at_the_first_sweep_that_gains_too_little(tol, rng):
    whole = _bre_descent(np.random.default_rng(0)).run(30, -1.0, _legacy_rng(1))
    losses = _bre_descent(np.random.default_rng(0)).run(30, tol, _legacy_rng(1))
    gains = 1 - whole[1:] / whole[:-1]
    n_sweeps = 1 + np.flatnonzero(gains <= tol)[0]
    np.testing.assert_array_equal(losses, whole[: n_sweeps + 1])


@pytest.mark.parametrize("max_iter", [1, 2])
def test_bre_counts_its_sweeps(max_iter, rng):
    rows = rng.standard_normal((40, 4))
    hasher = BREHasher(3, max_iter=max_iter, tol=0, neighbor_frac=0.5, random_state=0).fit(rows)
    assert hasher.n_iter_ == len(hasher.losses_) - 1 == max_iter


def test_bre_takes_distances_in_the_space_of_the_kernel_up_to_a_factor(rng):
    rows = rng.standard_normal((12, 3))
    squares = ((rows[:, None] - rows) ** 2).sum(axis=2)
    found = bre.kernel_distances(rows @ rows.T)
    np.testing.assert_allclose(found, squares / squares.max(), atol=1e-12)
    assert (found >= 0).all()
    assert bre.kernel_distances(np.ones((3, 3))).tolist() == np.zeros((3, 3)).tolist()


def test_bre_with_labels_parts_two_blobs():
    X, y = make_blobs(120, 8, centers=2, cluster_std=0.5, random_state=1)
    codes = BREHasher(8, random_state=0).fit(X, y).transform(X).astype(int)
    distances = np.abs(codes[:, None] - codes[None]).mean(axis=2)
    same = y[:, None] == y
    assert distances[same].mean() < 0.01
    assert distances[~same].mean() > 0.99


def test_bre_without_labels_follows_the_distances():
    X, _ = easy()
    hasher = BREHasher(32, n_train=200, random_state=0).fit(X)
    Z = X - X.mean(axis=0)
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    codes = hasher.transform(X).astype(int)
    hamming = np.abs(codes[:, None] - codes[None]).sum(axis=2)
    assert np.corrcoef(hamming.ravel(), np.square(Z[:, None] - Z).sum(2).ravel())[0, 1] > 0.8


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_bre_projection_is_the_weighted_sum_of_kernels(kernel):
    X, y = easy()
    hasher = BREHasher(4, kernel=kernel, n_train=50, max_iter=1, random_state=0).fit(X, y)
    row = X[300] - hasher.mean_
    row /= np.linalg.norm(row)
    expected = np.zeros(4)
    for anchor, weights in zip(hasher.anchors_, hasher.components_.T):
        distance = ((row - anchor) ** 2).sum()
        value = np.exp(-distance / (2 * hasher.squared_width_))
        expected += weights * (row @ anchor if kernel == "linear" else value)
    np.testing.assert_allclose(hasher.project(X[300:301])[0], expected, rtol=1e-9)


def test_bre_ignores_labels_where_it_is_told_to():
    X, y = easy()
    hasher = BREHasher(8, supervised=False, n_train=60, max_iter=1, random_state=0)
    np.testing.assert_array_equal(
        clone(hasher).fit(X, y).transform(X), clone(hasher).fit(X).transform(X)
    )
    with pytest.raises(ValueError, match="requires y"):
        hasher.set_params(supervised=True).fit(X)


# MLH ------------------------------------------------------------------------------------------


def _mlh_loss(distance, similar, n_bits, rho):
    if similar:
        return max(distance - rho + 1, 0) / (n_bits - rho + 1)
    return max(rho - distance + 1, 0) / (rho + 1)


@pytest.mark.parametrize("similar", [False, True])
def test_mlh_worst_codes_equal_brute_force(similar, rng):
    n_bits, rho = 4, 2
    table = mlh.hinge_table(n_bits, rho)
    corners = list(itertools.product([-1, 1], repeat=n_bits))
    a, b = rng.standard_normal((2, 10, n_bits)) / 3
    g, h, maximum = mlh.worst_codes(a, b, np.repeat(table[[int(similar)]], 10, axis=0))
    for row in range(10):
        best = max(
            _mlh_loss(sum(s != t for s, t in zip(one, other)), similar, n_bits, rho)
            + np.dot(one, a[row])
            + np.dot(other, b[row])
            for one in corners
            for other in corners
        )
        reached = _mlh_loss((g[row] != h[row]).sum(), similar, n_bits, rho)
        assert maximum[row] == pytest.approx(best)
        assert reached + g[row] @ a[row] + h[row] @ b[row] == pytest.approx(best)


def test_mlh_bound_is_above_the_loss(rng):
    n_bits, rho = 6, 3
    table = mlh.hinge_table(n_bits, rho)
    weights = rng.standard_normal((n_bits, 5)) / 4
    for similar in (0, 1):
        x, z = rng.standard_normal((2, 1, 5))
        bound, _ = mlh.bound_and_descent(weights, x, z, table[[similar]])
        distance = ((x @ weights.T >= 0) != (z @ weights.T >= 0)).sum()
        assert bound >= _mlh_loss(distance, similar, n_bits, rho) - 1e-12
        assert table[similar, distance] == pytest.approx(_mlh_loss(distance, similar, n_bits, rho))


def test_mlh_descent_is_minus_the_gradient_of_the_bound(rng):
    table = mlh.hinge_table(6, 2)
    weights = rng.standard_normal((6, 5)) / 4
    x, z = rng.standard_normal((2, 8, 5))
    losses = table[np.arange(8) % 2]
    _, descent = mlh.bound_and_descent(weights, x, z, losses)
    for k, m in itertools.product(range(6), range(5)):
        step = np.zeros_like(weights)
        step[k, m] = 1e-6
        above, _ = mlh.bound_and_descent(weights + step, x, z, losses)
        below, _ = mlh.bound_and_descent(weights - step, x, z, losses)
        assert -descent[k, m] == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_mlh_does_not_move_for_pairs_that_are_right_by_far():
    weights = 10 * np.eye(4)
    x = np.array([[1.0, 1, 1, 1], [1, 1, 1, 1]])
    z = np.array([[1.0, 1, 1, 1], [-1, -1, -1, -1]])
    bound, descent = mlh.bound_and_descent(weights, x, z, mlh.hinge_table(4, 2)[[1, 0]])
    assert bound == 0
    assert (descent == 0).all()


def test_mlh_steps_are_those_of_the_paper_with_balance(rng):
    X = np.column_stack([rng.standard_normal((20, 3)), np.ones(20)])
    weights, table = rng.standard_normal((4, 4)), mlh.hinge_table(4, 2)
    pairs = mlh.Pairs(np.arange(20) % 4)
    hasher = hashing.MLHHasher(4, lam=0.25, lr=0.2, momentum=0.5, batch_size=8, max_epochs=3)
    hasher.set_params(weight_decay=0.1, balance=0.7)
    found, losses = hasher._descend(X, pairs, table, weights, _legacy_rng(1))
    drawn, velocity, expected_losses = _legacy_rng(1), 0, []
    for epoch in range(3):
        near, far = pairs.similar(4, drawn), pairs.dissimilar(12, drawn)
        bounds = 0
        for step in range(2):  # 20 rows, 8 pairs a step: 2 similar ones, 6 others
            batch = [(pair, 1) for pair in near[2 * step : 2 * step + 2]]
            batch += [(pair, 0) for pair in far[6 * step : 6 * step + 6]]
            descent, scores = -0.1 * weights, 0
            for (i, j), similar in batch:
                bound, slope = mlh.bound_and_descent(weights, X[[i]], X[[j]], table[[similar]])
                descent = descent + slope / 8
                scores = scores + weights @ (X[i] + X[j]) / 16
                bounds += bound / 16
            descent[:, -1] -= 0.7 * np.clip(scores, -0.5, 0.5)
            velocity = 0.5 * velocity + 0.2 * (1 - (epoch + step / 2) / 3) * descent
            weights = weights + velocity
        expected_losses.append(bounds)
    np.testing.assert_allclose(found, weights, rtol=1e-9)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)


@pytest.mark.parametrize("rho", range(1, 7))
def test_mlh_loss_of_the_worst_distance_is_one_for_every_rho(rho):
    dissimilar, similar = mlh.hinge_table(6, rho)
    assert dissimilar[0] == similar[6] == 1
    assert dissimilar[rho] > dissimilar[rho + 1 :].sum() == 0
    assert similar[rho] > similar[: rho - 1].sum() == 0


def test_mlh_bits_start_balanced():
    X, y = easy()
    outputs = hasher_of("MLHHasher", 12, lr=0, max_epochs=1).fit(X, y).project(X)
    np.testing.assert_allclose(np.median(outputs, axis=0), 0, atol=1e-12)
    assert (outputs.std(axis=0) > 0.01).all()


def test_mlh_bound_falls():
    losses = hasher_of("MLHHasher", 16).fit(*easy()).losses_
    assert losses[-5:].mean() < losses[:5].mean()


@pytest.mark.parametrize("several", [False, True], ids=["classes", "columns"])
def test_mlh_pairs_are_what_they_say(several, rng):
    y = np.array([0, 1, 1, 2, 2, 2, 3, 0])
    Y = np.eye(5)[y]
    if several:
        Y[[0, 4, 7], [1, 4, 2]] = 1
        Y[6] = 0  # no label at all
    pairs = mlh.Pairs(Y if several else y)
    similar, dissimilar = (
        pairs.similar(2000, _legacy_rng(0)),
        pairs.dissimilar(2000, _legacy_rng(0)),
    )
    shared = Y @ Y.T > 0
    every = {(i, j) for i in range(8) for j in range(8) if i != j}
    assert set(map(tuple, similar)) == {(i, j) for i, j in every if shared[i, j]}
    assert set(map(tuple, dissimilar)) == {(i, j) for i, j in every if not shared[i, j]}


# KSH ------------------------------------------------------------------------------------------


def _ksh_problem(rng, n=30, n_anchors=6, n_bits=5):
    Y = np.eye(4)[rng.integers(4, size=n)]
    Y[rng.integers(n, size=5), 0] = 1
    dense = n_bits * np.where(Y @ Y.T > 0, 1.0, -1.0)
    residual = ksh.Residual(*base.label_groups(Y.astype(np.float32), "n_labeled"), n_bits)
    K = rng.standard_normal((n, n_anchors))
    return base.center(K)[1], dense, residual


def test_ksh_takes_its_kernel_from_the_rows_that_it_is_told(rng):
    X, y = rng.standard_normal((60, 3)), rng.integers(3, size=60)
    parameters = {"n_anchors": 5, "n_labeled": 20, "random_state": 0}
    of_all = KSHHasher(4, kernel_rows="all", **parameters).fit(X, y)
    squared = ((X[:, None] - of_all.anchors_) ** 2).sum(axis=2)
    assert of_all.squared_width_ == pytest.approx(squared.mean())
    kernels = np.exp(-squared / (2 * squared.mean()))
    np.testing.assert_allclose(of_all.kernel_mean_, kernels.mean(axis=0))
    np.testing.assert_allclose(of_all.project(X).mean(axis=0), 0, atol=1e-9)
    of_labeled = KSHHasher(4, **parameters).fit(X, y)
    np.testing.assert_array_equal(of_labeled.anchors_, of_all.anchors_)
    assert abs(of_labeled.squared_width_ - of_all.squared_width_) > 0.01
    every = [
        KSHHasher(4, n_labeled=60, n_anchors=5, kernel_rows=k, random_state=0).fit(X, y)
        for k in ("all", "labeled")
    ]
    np.testing.assert_allclose(every[0].kernel_mean_, every[1].kernel_mean_)
    with pytest.raises(ValueError, match="kernel_rows='each' is not known"):
        KSHHasher(4, kernel_rows="each").fit(X, y)


def test_ksh_residual_acts_as_the_full_matrix(rng):
    _, dense, residual = _ksh_problem(rng)
    for _ in range(3):
        v = rng.standard_normal((30, 2))
        np.testing.assert_allclose(residual @ v, dense @ v, atol=1e-9)
        np.testing.assert_allclose(residual @ v[:, 0], dense @ v[:, 0], atol=1e-9)
        code = np.sign(rng.standard_normal(30))
        residual.subtract(code)
        dense = dense - np.outer(code, code)


def test_ksh_slope_equals_finite_differences(rng):
    K, dense, residual = _ksh_problem(rng)
    a = rng.standard_normal(6)

    def cost(a):
        phi = 2 / (1 + np.exp(-K @ a)) - 1
        return -phi @ dense @ phi

    value, slope = ksh.smooth_cost(K @ a, residual)
    assert value == pytest.approx(cost(a))
    for k, step in enumerate(1e-6 * np.eye(6)):
        expected = (cost(a + step) - cost(a - step)) / 2e-6
        assert (K.T @ slope)[k] == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_ksh_climbs(rng):
    K, _, residual = _ksh_problem(rng)
    a = rng.standard_normal(6)
    climbed, n_steps = ksh.ascend(K, residual, a, 100)
    assert 1 <= n_steps <= 100
    assert ksh.smooth_cost(K @ climbed, residual)[0] < ksh.smooth_cost(K @ a, residual)[0]


def nesterov(K, R, a, max_iter):
    """Nesterov's accelerated descent as in the paper, every product in full."""

    def cost(a):
        phi = np.tanh(K @ a / 2)
        return -phi @ R @ phi

    def gradient(a):
        phi = np.tanh(K @ a / 2)
        return -K.T @ ((1 - phi**2) * (R @ phi))

    older, old, L, previous = 0.0, 1.0, 1.0, a
    n_steps = 0
    while n_steps < max_iter:
        n_steps += 1
        point = a + (older - 1) / old * (a - previous)
        slope = gradient(point)
        while cost(point - slope / L) > cost(point) - slope @ slope / (2 * L):
            L *= 2
        previous, a = a, point - slope / L
        older, old = old, (1 + np.sqrt(1 + 4 * old * old)) / 2
        if abs(cost(a) - cost(previous)) <= 0.01 * len(K):
            break
    return a, n_steps


@pytest.mark.parametrize("max_iter", [1, 2, 3, 5, 100])
def test_ksh_climbs_as_the_paper_does(max_iter, rng):
    K, dense, residual = _ksh_problem(rng)
    K = K / np.linalg.norm(K, axis=1, keepdims=True)
    start = 0.1 * rng.normal(size=K.shape[1])
    found, n_steps = ksh.ascend(K, residual, start, max_iter)
    expected, n_expected = nesterov(K, dense, start, max_iter)
    assert n_steps == n_expected
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert n_steps == max_iter or max_iter == 100


def test_ksh_starts_from_the_generalized_eigenvector(rng):
    K, dense, residual = _ksh_problem(rng)
    components, _ = ksh.fit_bits(K, residual, 3, 1)
    for a in components:
        _, vectors = eigh(K.T @ dense @ K, K.T @ K)
        start = vectors[:, -1]
        codes = [np.where(K @ weights >= 0, 1.0, -1.0) for weights in (start, a)]
        explained = [code @ dense @ code for code in codes]
        assert explained[1] >= explained[0] - 1e-9
        dense = dense - np.outer(codes[1], codes[1])
    np.testing.assert_array_equal(residual.codes, np.where(K @ components.T >= 0, 1, -1))


def test_ksh_starts_alike_in_every_unit_of_the_kernels(rng, monkeypatch):
    monkeypatch.setattr(ksh, "ascend", lambda K, residual, start, max_iter: (start, 0))
    K, _, residual = _ksh_problem(rng)
    components, _ = ksh.fit_bits(K, residual, 3, 1)
    for unit in (1e-4, 1e4):
        residual.codes = residual.codes[:, :0]
        scaled, _ = ksh.fit_bits(K * unit, residual, 3, 1)
        np.testing.assert_allclose(scaled * unit, components, rtol=1e-6)


def test_ksh_of_equal_rows_has_one_code():
    X = np.ones((12, 3))
    assert (
        len(np.unique(KSHHasher(4, n_anchors=5).fit_transform(X, np.arange(12) % 2), axis=0)) == 1
    )


def test_ksh_first_bit_beats_random_weights(rng):
    K, dense, residual = _ksh_problem(rng)
    components, _ = ksh.fit_bits(K, residual, 1, 100)
    candidates = np.column_stack([components[0], rng.standard_normal((6, 200))])
    codes = np.where(K @ candidates >= 0, 1, -1)
    explained = np.einsum("ic,ij,jc->c", codes, dense, codes)
    assert explained[0] >= np.percentile(explained[1:], 99)


def test_ksh_residual_norm_follows_from_what_bits_explain(rng):
    K, dense, residual = _ksh_problem(rng)
    ksh.fit_bits(K, residual, 4, 20)
    norm, left = np.square(dense).sum(), dense
    for code in residual.codes.T:
        norm += len(code) ** 2 - 2 * code @ left @ code
        left = left - np.outer(code, code)
    assert np.square(dense - residual.codes @ residual.codes.T).sum() == pytest.approx(norm)


def test_ksh_first_bit_is_the_label_of_two_blobs():
    X, y = make_blobs(120, 8, centers=2, cluster_std=0.5, random_state=1)
    bit = KSHHasher(4, n_anchors=30, random_state=0).fit(X, y).transform(X)[:, 0]
    assert (bit == y).mean() in (0, 1)


def test_ksh_projection_is_the_sum_of_centered_kernels():
    X, y = easy()
    hasher = KSHHasher(4, n_anchors=20, max_iter=5, random_state=0).fit(X, y)
    expected = np.zeros(4)
    for anchor, mean, weights in zip(hasher.anchors_, hasher.kernel_mean_, hasher.components_.T):
        distance = ((X[7] - anchor) ** 2).sum()
        expected += weights * (np.exp(-distance / (2 * hasher.squared_width_)) - mean)
    np.testing.assert_allclose(hasher.project(X[7:8])[0], expected, rtol=1e-7, atol=1e-9)
