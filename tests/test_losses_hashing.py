"""DSH, DFEH and their parts at values worked out elsewhere."""

import numpy as np
import pytest
import torch
from loss_cases import make_outputs, value_and_gradient

from sklearn_cbir.losses import (
    DFEHLoss,
    DSHLoss,
    balance_loss,
    contrastive_loss,
    pair_mean,
    quantization_loss,
    squared_distances,
)

CODES = [[0.9, -0.8, 1.1, -1.0], [0.7, -1.2, 0.9, -0.6], [-0.5, 0.9, 1.0, 0.4]]
SAME_FIRST_TWO = torch.tensor([0, 0, 1])


def test_dfeh_at_given_codes():
    value, gradient = value_and_gradient(
        lambda u: DFEHLoss(similar_weight=None)(u, SAME_FIRST_TWO), CODES
    )
    assert value == pytest.approx(0.46476667, abs=1e-8)
    # To the other terms, 0.01 * 2 / 3 times the mean of its row.
    expected = [
        [-0.403, 0.70366667, 0.037, 0.33366667],
        [-0.47033333, 0.563, -0.037, 0.46966667],
        [0.873, -1.267, 0.003, -0.80033333],
    ]
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


def test_dfeh_with_balance_averaged_over_bits_at_given_codes():
    loss = DFEHLoss(similar_weight=None, balance_reduction="mean")
    value, gradient = value_and_gradient(lambda u: loss(u, SAME_FIRST_TWO), CODES)
    assert value == pytest.approx(0.46269167, abs=1e-8)
    expected = [
        [-0.40325, 0.70341667, 0.03675, 0.33341667],
        [-0.47008333, 0.56325, -0.03675, 0.46991667],
        [0.87075, -1.26925, 0.00075, -0.80258333],
    ]
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


def test_parts_of_dfeh_at_given_codes():
    codes = torch.tensor(CODES, dtype=torch.float64)
    similar = SAME_FIRST_TWO[:, None] == SAME_FIRST_TWO
    # pairs (1, 2), (1, 3), (2, 3): 0.2, 0.59, 0.57
    assert contrastive_loss(codes, similar, margin=8).item() == pytest.approx(1.36 / 3)
    assert quantization_loss(codes).item() == pytest.approx(0.86666667)
    assert quantization_loss(codes, "l2").item() == pytest.approx(0.32666667)
    assert balance_loss(codes).item() == pytest.approx(0.06916667)
    assert balance_loss(codes, "bit").item() == pytest.approx(0.35722222)
    # Sums of the codes: 0.2, -0.2 and 1.8; of the bits: 1.1, -1.1, 3.0 and -1.2.
    of_codes, of_bits = (0.04 + 0.04 + 3.24) / 3 / 4, (1.21 + 1.21 + 9 + 1.44) / 9
    assert balance_loss(codes, reduction="sum").item() == pytest.approx(of_codes)
    assert balance_loss(codes, "bit", "sum").item() == pytest.approx(of_bits)


@pytest.mark.parametrize("n_bits", [12, 24, 48])
def test_balance_pulls_about_as_hard_as_quantization_at_equal_weights(n_bits):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(200, n_bits, generator=generator).requires_grad_()

    def pull(term):
        return torch.autograd.grad(term, outputs)[0].norm().item()

    of_quantization = pull(quantization_loss(outputs))
    assert 0.2 < pull(balance_loss(outputs, reduction="sum")) / of_quantization < 1
    assert pull(balance_loss(outputs)) / of_quantization < 0.05


def test_dfeh_of_an_earlier_pickle_keeps_its_balance():
    earlier = DFEHLoss(balance_reduction="mean")
    state = {k: v for k, v in vars(earlier).items() if k != "balance_reduction"}
    unpickled = DFEHLoss.__new__(DFEHLoss)
    unpickled.__setstate__(state)
    codes = make_outputs(3)
    assert unpickled(codes, SAME_FIRST_TWO) == earlier(codes, SAME_FIRST_TWO)


def test_dsh_at_given_codes():
    codes = torch.tensor(CODES, dtype=torch.float64)
    assert DSHLoss()(codes, SAME_FIRST_TWO).item() == pytest.approx(0.47066667, abs=1e-8)
    once = DSHLoss(quantization_reduction="sample")(codes, SAME_FIRST_TWO)
    assert once.item() == pytest.approx(1.36 / 3 + 0.0086666667)


@pytest.mark.parametrize("loss", [DFEHLoss(), DSHLoss(), DFEHLoss(quantization="l2")], ids=repr)
def test_perfect_codes_cost_exactly_nothing(loss):
    codes = torch.tensor([[1.0, 1, -1, -1], [1, 1, -1, -1], [-1, -1, 1, 1]])
    assert loss(codes, SAME_FIRST_TWO) == 0
    assert balance_loss(codes, "bit").item() == pytest.approx(1 / 9)


def test_zero_codes_of_different_classes_cost_the_margin():
    codes = torch.zeros(2, 4)
    y = torch.tensor([0, 1])
    assert contrastive_loss(codes, torch.eye(2).bool(), margin=8) == 4
    assert quantization_loss(codes) == 4
    assert DFEHLoss()(codes, y).item() == pytest.approx(4.04)


def test_quantization_pushes_zero_away_from_zero():
    for norm in ("l1", "l2"):
        _, gradient = value_and_gradient(lambda u, n=norm: quantization_loss(u, n), [[0.0]])
        assert gradient[0][0] < 0


def test_squared_distances_are_exact_at_large_offsets():
    codes = torch.tensor([[1000.0, 1000.0], [1000.0, 1000.0], [1000.5, 1000.0]])
    expected = [[0, 0, 0.25], [0, 0, 0.25], [0.25, 0.25, 0]]
    np.testing.assert_allclose(squared_distances(codes).tolist(), expected, atol=1e-9)


def test_similar_weight_shifts_the_mean_between_the_kinds_of_pairs():
    codes = torch.tensor(CODES, dtype=torch.float64)
    y = SAME_FIRST_TWO
    similar, dissimilar = 0.2, (0.59 + 0.57) / 2  # mean pair costs
    rest = DFEHLoss(similar_weight=None)(codes, y).item() - 1.36 / 3
    for weight, expected in (
        ("balanced", (similar + dissimilar) / 2),
        (2.0, (2 * similar + 2 * dissimilar) / 4),
        (0.0, dissimilar),
        (1.0, 1.36 / 3),
    ):
        loss = DFEHLoss(similar_weight=weight)(codes, y).item()
        assert loss - rest == pytest.approx(expected), weight


def test_pair_mean_without_weighted_pairs_is_zero():
    assert pair_mean(torch.ones(2, 2), torch.ones(2, 2).bool(), similar_weight=0.0) == 0
    assert pair_mean(torch.ones(1, 1), torch.ones(1, 1).bool()) == 0


def test_squash_bounds_the_codes():
    codes = torch.tensor(CODES, dtype=torch.float64)
    plain = DFEHLoss()(torch.tanh(codes), SAME_FIRST_TWO)
    assert DFEHLoss(squash="tanh")(codes, SAME_FIRST_TWO) == plain


def test_rows_that_share_one_label_are_similar():
    codes = make_outputs(3)
    shared = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    assert DFEHLoss()(codes, shared) == DFEHLoss()(codes, SAME_FIRST_TWO)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"margin": -1}, "margin=-1 must be a number of at least 0"),
        ({"quantization": "l3"}, "quantization='l3' is not known"),
        ({"balance": "row"}, "balance='row' is not known"),
        ({"balance_reduction": "max"}, "balance_reduction='max' is not known"),
        ({"similar_weight": "even"}, "similar_weight='even' is not known"),
        ({"similar_weight": -2}, "similar_weight=-2 must be"),
        ({"squash": "relu"}, "squash='relu' is not known"),
    ],
    ids=str,
)
def test_bad_parameters_of_dfeh_raise(parameters, message):
    with pytest.raises(ValueError, match=message):
        DFEHLoss(**parameters)
