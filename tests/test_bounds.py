"""Numbers that a parameter may be: the smallest and the largest pass, one beyond is refused."""

import inspect

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from sklearn_cbir import hashing
from sklearn_cbir.losses import LOSSES
from sklearn_cbir.metrics import cluster_agreement, precision_at_k, worst_queries
from sklearn_cbir.sampling import (
    balanced_batches,
    class_random_batches,
    mined_batches,
    uniform_batches,
)

# Parameters of losses with other bounds than 0 and nothing.
OF_LOSSES = {
    "tau": (-1, 1),
    "psi": (-1, 1),
    "mu": (None, None),
    "final_beta": (1, 1e6),
    "n_negatives": (1, None),
    "n_sweeps": (1, None),
    ("dch", "gamma"): (1e-6, None),
    ("lrml", "negative_weight"): (0, 1),
}
MAY_BE_NONE = {("dsh", "margin"), ("dfeh", "margin"), ("multilevel", "gamma"), ("hashnet", "alpha")}
MAY_BE_NONE |= {("contrastive", "similar_weight"), ("multilevel", "similar_weight")}  # or a number


def numbers_of(cls):
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if type(p.default) in (int, float)]


LOSS_NUMBERS = [
    (name, parameter)
    for name, cls in LOSSES.items()
    for parameter in numbers_of(cls) + sorted(p for loss, p in MAY_BE_NONE if loss == name)
]


def beyond(low, high, whole):
    step = 1 if whole else 1e-9
    below = [] if low is None else [low - step]
    return below + ([] if high is None else [high * (1 + 1e-9) if not whole else high + 1])


@pytest.mark.parametrize(("loss", "parameter"), LOSS_NUMBERS)
def test_numbers_of_a_loss(loss, parameter):
    bounds = OF_LOSSES.get((loss, parameter), OF_LOSSES.get(parameter, (0, None)))
    whole = parameter.startswith("n_")
    for value in bounds:
        if value is not None:
            others = {"tau": 1} if parameter == "psi" else {"psi": -1} if parameter == "tau" else {}
            assert getattr(LOSSES[loss](**{parameter: value, **others}), parameter) == value
    for value in beyond(*bounds, whole):
        with pytest.raises(ValueError, match=f"{parameter}="):
            LOSSES[loss](**{parameter: value})


# Of hashers they are checked by `fit`. Bits: at least 1.
OF_HASHERS = {
    "BREHasher": {
        "n_anchors_per_bit": (1, None),
        "n_train": (2, None),
        "neighbor_frac": (0, 1),
        "max_iter": (1, None),
        "tol": (0, None),
    },
    "CCAITQHasher": {"reg": (0, None), "n_iter": (1, None)},
    "ITQHasher": {"n_iter": (1, None)},
    "KSHHasher": {"n_anchors": (1, None), "n_labeled": (1, None), "max_iter": (1, None)},
    "LSHHasher": {},
    "MLHHasher": {
        "rho": (1, 2),
        "lam": (0, 1),
        "lr": (0, None),
        "momentum": (0, 1),
        "weight_decay": (0, None),
        "balance": (0, None),
        "batch_size": (1, None),
        "max_epochs": (1, None),
    },
    "SpectralHasher": {},
}
HASHER_NUMBERS = [
    (name, parameter, bounds)
    for name, parameters in OF_HASHERS.items()
    for parameter, bounds in ({"n_bits": (1, None)} | parameters).items()
]
REALS = {"neighbor_frac", "tol", "reg", "lam", "lr", "momentum", "weight_decay", "balance"}
# One row is too few to learn from, which is another error.
LEARN_NOTHING = {("KSHHasher", "n_labeled")}


def test_every_number_of_a_hasher_has_bounds():
    for name, parameters in OF_HASHERS.items():
        numbers = {"n_bits", *numbers_of(getattr(hashing, name))}
        assert numbers - set(parameters) == {"n_bits"}, name


@pytest.mark.parametrize(("name", "parameter", "bounds"), HASHER_NUMBERS)
def test_numbers_of_a_hasher(name, parameter, bounds):
    X, y = make_blobs(40, 6, centers=3, random_state=0)

    def fit(value):
        hasher = getattr(hashing, name)(n_bits=2)
        quick = {"max_iter": 1, "max_epochs": 1, "n_iter": 1, "supervised": False}
        hasher.set_params(**{key: v for key, v in quick.items() if key in hasher.get_params()})
        return hasher.set_params(**{parameter: value}).fit(X, y)

    for value in bounds:
        if value is not None and (name, parameter) not in LEARN_NOTHING:
            fit(value)
    for value in beyond(*bounds, parameter not in REALS):
        with pytest.raises(ValueError, match=f"{parameter}="):
            fit(value)


BATCHES = {
    "uniform": lambda rng, batch_size=2: uniform_batches(8, batch_size, rng),
    "balanced": lambda rng, batch_size=4, n_per_class=2: balanced_batches(
        np.arange(8) % 2, batch_size, n_per_class, rng
    ),
    "class_random": lambda rng, batch_size=4, n_per_class=2: class_random_batches(
        np.arange(8) % 2, batch_size, n_per_class, rng
    ),
    "mined": lambda rng, batch_size=4, n_negatives=1, pool_size=4: mined_batches(
        np.arange(8) % 2, batch_size, n_negatives, pool_size, rng, lambda rows: np.eye(8)[rows]
    ),
}


@pytest.mark.parametrize("name", BATCHES)
def test_numbers_of_batches(name, rng):
    parameters = list(inspect.signature(BATCHES[name]).parameters)[1:]
    for parameter in parameters:
        least = 2 if parameter == "n_per_class" else 1
        assert len(BATCHES[name](rng, **{parameter: least})) >= 1
        with pytest.raises(ValueError, match=f"{parameter}={least - 1}"):
            BATCHES[name](rng, **{parameter: least - 1})


def test_numbers_of_metrics():
    y, distances = np.array([0, 0, 1]), np.arange(9.0).reshape(3, 3)
    assert precision_at_k(y, y, distances, k=1) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="k=0"):
        precision_at_k(y, y, distances, k=0)
    assert len(worst_queries([0.5, 0.25, 1], 1)) == 1
    with pytest.raises(ValueError, match="n=0"):
        worst_queries([0.5, 0.25, 1], 0)
    for n in (1, 3):
        assert 0 <= cluster_agreement(np.eye(3), y, n_clusters=n)[0] <= 1
    for n in (0, 4):
        with pytest.raises(ValueError, match=f"n_clusters={n}"):
            cluster_agreement(np.eye(3), y, n_clusters=n)
