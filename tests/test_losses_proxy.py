"""CPF at values worked out elsewhere."""

import math

import numpy as np
import pytest
import torch
from loss_cases import MULTIPLE_LABELS, value_and_gradient

from sklearn_cbir.losses import CPF_CONSTANTS, CPFLoss, cpf_loss

DEFAULTS = {"tau": 0.2, "psi": 0.2, "sp": 1.0, "sn": 1.0, "mu": 0.0}
CUB = {"tau": 0.38, "psi": 0.2, "sp": 9.0, "sn": 9.0, "mu": 0.0}
SOP = {"tau": 0.38, "psi": 0.2, "sp": 3.0, "sn": 8.0, "mu": 1.0}
SHOPEE = {"tau": 0.25, "psi": 0.25, "sp": 1.5, "sn": 1.0, "mu": 1.0}
TWO_ROWS = [[1.0, 0, 0], [0, 1.0, 0]]
CPF_CASES = {
    "defaults": (
        [[0.9, 0.1, 0.3], [0.5, 0.6, -0.2]],
        TWO_ROWS,
        DEFAULTS,
        0.21096434,
        [[-0.20419421, 0, 0.16807828], [0.20529128, -0.25233858, 0]],
    ),
    "CUB": (
        [[0.7, 0.4, 0.3], [0.5, 0.6, -0.2]],
        TWO_ROWS,
        CUB,
        0.92072792,
        [[-0.05206113, 0.04999686, 0], [0.12297244, -0.08173078, 0]],
    ),
    "SOP": ([[0.7, 0.4, 0.3], [0.5, 0.6, -0.2]], TWO_ROWS, SOP, 0.31066194, None),
    "soft targets": (
        [[0.5, 0.3, -0.1]],
        [[0.7, 0.3, 0.0]],
        SHOPEE,
        0.32771964,
        [[-0.31110058, -0.12588530, 0]],
    ),
    "perfect": ([[1.0, 0, -1.0]], [[1.0, 0, 0]], DEFAULTS, 0, [[-0.25, 0, 0]]),
    "negative cosine": ([[-0.5, 0]], [[1.0, 0]], DEFAULTS, 0.77070882, [[-0.11781116, 0]]),
    "orthogonal": ([[0.0, 0]], [[1.0, 0]], DEFAULTS, 0.57611688, [[-0.48841244, 0]]),
}


@pytest.mark.parametrize("case", CPF_CASES)
def test_cpf_at_given_cosines(case):
    cosines, targets, parameters, expected, expected_gradient = CPF_CASES[case]
    targets = torch.tensor(targets, dtype=torch.float64)
    value, gradient = value_and_gradient(lambda c: cpf_loss(c, targets, **parameters), cosines)
    assert value == pytest.approx(expected, abs=1e-8)
    if expected_gradient is not None:
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)


def test_constants_of_the_paper_are_those_of_its_code():
    given = {"cub": CUB, "cars": CUB, "sop": SOP, "shopee": SHOPEE}
    assert {name: constants | {"b": 2.0} for name, constants in given.items()} == CPF_CONSTANTS
    cosines, targets, _, expected, _ = CPF_CASES["soft targets"]
    value = cpf_loss(torch.tensor(cosines), torch.tensor(targets), **CPF_CONSTANTS["shopee"])
    assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("case", sorted(CPF_CASES))
def test_gradient_of_cpf_freezes_the_exponential_weights(case):
    cosines, targets, p, _, _ = CPF_CASES[case]
    if case == "orthogonal":
        cosines = [[1e-3, 0]]  # the slope of the clamp at 0 is one-sided
    cosines, targets = np.array(cosines), np.array(targets)
    pull, push = np.exp(p["sp"] * (1 - cosines)), np.exp(p["sn"] * (cosines - p["mu"]))

    def frozen(c):
        true_positive = 2 + 2 * (targets * np.maximum(c, 0)).sum()
        positive = (targets * (1 - c) * pull).sum()
        negative = ((1 - targets) * (c - p["psi"]) * push * (c > p["tau"])).sum()
        return 1 - true_positive / (true_positive + positive + negative)

    _, gradient = value_and_gradient(
        lambda c: cpf_loss(c, torch.tensor(targets), **p), cosines.tolist()
    )
    steps = 1e-6 * np.eye(cosines.size).reshape(-1, *cosines.shape)
    expected = [(frozen(cosines + step) - frozen(cosines - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(np.ravel(gradient), expected, atol=1e-7)


def cpf_with_proxies():
    loss = CPFLoss(**CUB)
    loss.setup(n_outputs=2, y=torch.tensor([0, 1, 2]))
    loss.proxies.data = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
    return loss


def test_cpf_at_given_features_and_proxies():
    loss = cpf_with_proxies().double()
    y = torch.tensor([1, 0])
    value, gradient = value_and_gradient(lambda e: loss(e, y), [[3.0, 4.0], [1.0, 0.0]])
    assert value == pytest.approx(0.94128286, abs=1e-8)
    np.testing.assert_allclose(gradient, [[0.01970036, -0.01477527], [0, 0]], atol=1e-8)
    expected = [[0, 0.10904906], [-0.00703909, 0], [0, 0]]
    np.testing.assert_allclose(loss.proxies.grad, expected, atol=1e-8)


def test_cpf_ignores_the_lengths_of_features_and_proxies():
    loss, y = cpf_with_proxies(), torch.tensor([1, 0, 2])
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0], [-2.0, 1.0]])
    before = loss(features, y)
    loss.proxies.data *= torch.tensor([[2.0], [0.1], [30.0]])
    torch.testing.assert_close(loss(features * torch.tensor([[5.0], [0.2], [7.0]]), y), before)


def test_cpf_stays_between_zero_and_one():
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 30.0):
        loss = CPFLoss(sp=scale, sn=scale, tau=0.3, psi=0.3)
        loss.setup(n_outputs=8, y=torch.arange(20), generator=generator)
        features = torch.randn(50, 8, generator=generator)
        y = torch.randint(20, (50,), generator=generator)
        assert 0 <= loss(features, y) <= 1


def test_cpf_draws_its_proxies_from_the_generator():
    losses = [CPFLoss() for _ in range(3)]
    for loss, seed in zip(losses, (0, 0, 1)):
        generator = torch.Generator().manual_seed(seed)
        loss.setup(n_outputs=16, y=np.array([0, 1, 2, 3, 3]), generator=generator)
    torch.testing.assert_close(losses[0].proxies, losses[1].proxies)
    assert not torch.equal(losses[0].proxies, losses[2].proxies)
    # Xavier uniform: a = sqrt(6 / (4 + 16))
    assert losses[0].proxies.shape == (4, 16)
    assert 0.4 < losses[0].proxies.abs().max() < math.sqrt(0.3)


def test_cpf_has_one_proxy_per_label_column():
    loss = CPFLoss()
    loss.setup(n_outputs=3, y=MULTIPLE_LABELS)
    assert loss.proxies.shape == (4, 3)
    assert [name for name, _ in loss.named_parameters()] == ["proxies"]


def test_cpf_without_setup_or_with_psi_above_tau_raises():
    with pytest.raises(RuntimeError, match="Call setup"):
        CPFLoss()(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="psi=0.5 is above tau=0.4"):
        CPFLoss(tau=0.4, psi=0.5)
