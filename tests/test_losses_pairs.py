"""Contrastive, multi-level and likelihood losses at values worked out elsewhere."""

import itertools
import math

import numpy as np
import pytest
import torch
from loss_cases import (
    MULTIPLE_LABELS,
    SINGLE_LABELS,
    label_sets,
    make_outputs,
    value_and_gradient,
)

from sklearn_cbir.losses import (
    ContrastiveLoss,
    DCHLoss,
    DPSHLoss,
    HashNetLoss,
    MultilevelLoss,
)

SAME = torch.tensor([0, 0])
DIFFERENT = torch.tensor([0, 1])


# Contrastive.


@pytest.mark.parametrize(
    ("y", "distance", "expected"),
    [(SAME, 0.6, 0.18), (DIFFERENT, 0.6, 0.08), (DIFFERENT, 1.2, 0.0), (SAME, 0.0, 0.0)],
    ids=["similar", "too near", "beyond the margin", "equal"],
)
def test_contrastive_at_given_distances(y, distance, expected):
    features = torch.tensor([[0.0, 0.0], [distance, 0.0]])
    assert ContrastiveLoss()(features, y).item() == pytest.approx(expected)


def test_contrastive_weighs_the_kinds_of_pairs():
    features = torch.tensor([[0.0], [0.6], [1.0]])
    y = torch.tensor([0, 0, 1])
    # similar 0.18; dissimilar 0 at the margin and 0.6 ** 2 / 2 = 0.18
    assert ContrastiveLoss()(features, y).item() == pytest.approx(0.12)
    assert ContrastiveLoss(similar_weight="balanced")(features, y).item() == pytest.approx(0.135)


@pytest.mark.parametrize("y", [SAME, DIFFERENT], ids=["similar", "dissimilar"])
def test_equal_rows_have_a_finite_slope(y):
    _, gradient = value_and_gradient(lambda f: ContrastiveLoss()(f, y), [[1.0, 2.0], [1.0, 2.0]])
    assert np.isfinite(gradient).all()


# Multi-level similarity.

LABELS = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]])
CODES = [
    [0.8, -0.6, 0.5, 0.9],
    [0.7, -0.5, -0.4, 0.6],
    [0.9, -0.7, 0.6, 0.8],
    [-0.8, 0.6, 0.7, -0.5],
]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("idhn", 0.10979513 + 0.1 * 0.3375),
        ("isdh", 1.09798439 + 0.1 * 0.3375),
        ("cosine", 0.01783977 + 0.1 * 0.3375),
    ],
)
def test_multilevel_at_given_codes(form, expected):
    loss = MultilevelLoss(form, squash=None)
    value, gradient = value_and_gradient(lambda u: loss(u, LABELS), CODES)
    assert value == pytest.approx(expected, abs=1e-8)
    if form == "idhn":
        expected = [-0.04967757, 0.03904882, 0.00467660, -0.04026793]
        np.testing.assert_allclose(gradient[0], expected, atol=1e-8)


@pytest.mark.parametrize(
    ("form", "pairs"),
    [
        ("idhn", {(0, 1): 0.00130447, (0, 2): 0.06504356, (0, 3): 0.22541265, (0, 0): 0.07339341}),
        ("isdh", {(0, 1): 0.01220311, (0, 3): 2.25412652}),
    ],
)
def test_pairs_of_multilevel_at_given_codes(form, pairs):
    # The loss of two rows is the mean of both orders and of each row with itself.
    loss = MultilevelLoss(form, quantization_weight=0, squash=None)

    def total(rows):
        codes = torch.tensor([CODES[row] for row in rows], dtype=torch.float64)
        return loss(codes, LABELS[rows]).item() * len(rows) ** 2

    for (i, j), expected in pairs.items():
        got = total([i]) if i == j else (total([i, j]) - total([i]) - total([j])) / 2
        assert got == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("codes", "y"),
    [([[1.0] * 4, [1.0] * 4], SAME), ([[1.0] * 4, [-1.0] * 4], DIFFERENT)],
    ids=["equal and similar", "opposite and dissimilar"],
)
def test_perfect_codes_cost_the_tail_of_the_likelihood(codes, y):
    loss = MultilevelLoss(squash=None)(torch.tensor(codes, dtype=torch.float64), y)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-5)))


def test_soft_pairs_are_at_rest_where_the_product_says_their_similarity():
    # A cosine of 1 / 2: as many bits equal as different.
    y = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]).float()
    loss = MultilevelLoss(quantization_weight=0, squash=None)
    codes = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1]], requires_grad=True)
    pair = loss(codes, y) * 4 - loss(codes[:1], y[:1]) - loss(codes[1:], y[1:])
    pair.backward()
    assert pair.item() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(codes.grad, 0, atol=1e-6)


def test_binary_similarity_asks_only_whether_a_label_is_shared():
    # The third and the fourth share one label of two, the first none with any.
    y = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]]).float()
    outputs = torch.tensor([[1.0, 1], [1, -1], [-1, -1], [1, 1]], dtype=torch.float64)
    loss = MultilevelLoss(similarity="binary", quantization_weight=0, squash=None)
    total = 0.0
    for i in range(4):
        for j in range(4):
            logit = 5 * float(outputs[i] @ outputs[j]) / 2
            similar = {i, j} in ({0, 1}, {2, 3}) or i == j
            total += math.log(1 + math.exp(logit)) - similar * logit
    assert loss(outputs, y).item() == pytest.approx(total / 16)
    assert loss(outputs, y) != MultilevelLoss(quantization_weight=0, squash=None)(outputs, y)


@pytest.mark.parametrize("squash", ["softsign", "tanh"])
def test_multilevel_squashes_its_outputs(squash):
    outputs = make_outputs()
    squashed = {"softsign": outputs / (1 + outputs.abs()), "tanh": outputs.tanh()}[squash]
    expected = MultilevelLoss(squash=None)(squashed, MULTIPLE_LABELS)
    assert MultilevelLoss(squash=squash)(outputs, MULTIPLE_LABELS) == expected


# Likelihoods.


@pytest.mark.parametrize(
    ("codes", "y", "expected"),
    [
        ([[1.0] * 12, [1.0] * 12], SAME, 0.002476),
        ([[1.0] * 12, [-1.0] * 12], DIFFERENT, 0.002476),
        ([[1.0] * 12, [1.0] * 12], DIFFERENT, 6.0025),
        ([[0.0] * 12, [0.0] * 12], DIFFERENT, math.log(2) + 0.1),
    ],
    ids=["equal", "opposite", "equal but dissimilar", "zero"],
)
def test_dpsh_at_given_codes(codes, y, expected):
    assert DPSHLoss()(torch.tensor(codes), y).item() == pytest.approx(expected, abs=5e-5)


def test_dpsh_is_the_sum_of_the_paper_over_its_ordered_pairs():
    outputs, y, eta = make_outputs(), SINGLE_LABELS, 10.0
    n, n_bits = outputs.shape
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                theta = (outputs[i] @ outputs[j]).item() / 2
                total += math.log1p(math.exp(theta)) - theta * (y[i] == y[j]).item()
        total += eta * (outputs[i] - outputs[i].sign()).square().sum().item()
    loss = DPSHLoss(quantization_weight=eta * n_bits / (n - 1))
    assert loss(outputs, y).item() == pytest.approx(total / (n * (n - 1)))


def test_slope_of_dpsh_is_that_of_the_paper():
    outputs, y = make_outputs(), SINGLE_LABELS
    loss = DPSHLoss(quantization_weight=0)
    _, gradient = value_and_gradient(lambda u: loss(u, y), outputs.tolist())
    similar = (y[:, None] == y).double()
    slopes = torch.sigmoid(outputs @ outputs.T / 2) - similar
    slopes.fill_diagonal_(0)
    # half the sum over j of (sigma - s) u_j, twice since both rows of a pair learn, over 30 pairs
    np.testing.assert_allclose(gradient, slopes @ outputs / 30, atol=1e-12)


def test_hashnet_gives_both_kinds_of_pairs_half_of_the_weight():
    # 2 ordered similar pairs with h h' = 0, 4 dissimilar ones likewise: all cost log 2
    outputs = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
    y = torch.tensor([0, 0, 1])
    assert HashNetLoss()(outputs, y).item() == pytest.approx(math.log(2))
    outputs = torch.tensor([[20.0, 20.0], [20.0, 20.0], [0.0, 0.0]])
    expected = (math.log(1 + math.exp(-10)) + math.log(2)) / 2
    assert HashNetLoss()(outputs, y).item() == pytest.approx(expected, rel=1e-5)


def test_hashnet_weighs_similar_pairs_by_the_labels_they_share():
    # similar pairs (0, 1) with 1 of 2 labels and (0, 2) with 1 of 1; (1, 2) similar too: 1 of 2
    y = torch.tensor([[1, 0], [1, 1], [1, 0]])
    outputs = make_outputs(3)
    costs = {
        pair: HashNetLoss()(outputs[list(pair)], y[list(pair)]).item()
        for pair in ((0, 1), (0, 2), (1, 2))
    }
    expected = (0.5 * costs[0, 1] + costs[0, 2] + 0.5 * costs[1, 2]) / 2
    assert HashNetLoss()(outputs, y).item() == pytest.approx(expected)


def test_multilevel_weighs_the_kinds_of_pairs():
    outputs, y = make_outputs(3), torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    parameters = {"quantization_weight": 0.0, "squash": None, "similarity": "binary"}
    rows, near, far = outputs.tolist(), [], []
    for i, j in itertools.product(range(3), repeat=2):
        logit = 5 * sum(a * b for a, b in zip(rows[i], rows[j])) / 4
        similar = i == j or {i, j} == {0, 1}  # five of nine
        cost = math.log(1 + math.exp(logit)) - (logit if similar else 0)
        (near if similar else far).append(cost)
    assert (len(near), len(far)) == (5, 4)
    for weight, expected in (
        (None, (sum(near) + sum(far)) / 9),
        (2.0, (2 * sum(near) + sum(far)) / 14),
        ("balanced", (sum(near) / 5 + sum(far) / 4) / 2),
    ):
        loss = MultilevelLoss(similar_weight=weight, **parameters)
        assert loss(outputs, y).item() == pytest.approx(expected), weight
    with pytest.raises(ValueError, match="similar_weight='even' is not known"):
        MultilevelLoss(similar_weight="even")


def test_hashnet_sharpens_from_one_to_its_final_beta():
    loss = HashNetLoss(final_beta=5.0)
    betas = []
    for epoch in range(4):
        loss.start_epoch(epoch, 4)
        betas.append(loss.beta)
    np.testing.assert_allclose(betas, np.sqrt([1, 9, 17, 25]))
    outputs = make_outputs()
    expected = HashNetLoss()(5 * outputs, SINGLE_LABELS)
    torch.testing.assert_close(loss(outputs, SINGLE_LABELS), expected)
    loss.start_epoch(0, 1)
    assert loss.beta == 1


def test_dch_at_given_codes():
    opposite = torch.tensor([[30.0, 30.0], [-30.0, -30.0]])  # d = 2
    assert DCHLoss()(opposite, DIFFERENT).item() == pytest.approx(math.log(11), rel=1e-5)
    assert DCHLoss()(opposite, SAME).item() == pytest.approx(math.log(1.1), rel=1e-5)
    halfway = torch.tensor([[30.0, 30.0], [30.0, -30.0]])  # d = 1
    assert DCHLoss(gamma=2)(halfway, DIFFERENT).item() == pytest.approx(math.log(3), rel=1e-5)
    # abs(h) = (1, 0) has the cosine sqrt(1 / 2) with ones
    one_bit = torch.tensor([[30.0, 0.0], [30.0, 0.0]])
    quantization = math.log(1 + (1 - math.sqrt(0.5)) / 20)
    assert DCHLoss(quantization_weight=3.0)(one_bit, SAME).item() == pytest.approx(
        3 * quantization, rel=1e-4
    )


def test_dch_of_the_code_at_given_codes():
    loss = DCHLoss(2.0, 0.5, form="code")
    codes = torch.tensor([[30.0, 30.0], [30.0, -30.0], [-30.0, -30.0]])  # squared: 4, 8, 4
    # Five of the nine pairs, rows with themselves included, are similar.
    near, far = 9 / 5 * math.log(1 + 4.001 / 2), math.log(1 + 2 / 8.001) + math.log(1 + 2 / 4.001)
    value = loss(codes, torch.tensor([0, 0, 1])).item()
    assert value == pytest.approx((near + far) / 3, rel=1e-5)
    half = torch.tensor([[30.0, 0.0], [30.0, 0.0]])  # (abs(h) - 1) ** 2 is 0 and 1
    expected = math.log(1 + 0.001 / 2) + 0.5 * 0.5
    assert loss(half, SAME).item() == pytest.approx(expected, rel=1e-5)


def dch_of_the_code(outputs, labels, gamma, quantization_weight):
    codes = [[math.tanh(u) for u in row] for row in outputs]
    n = len(codes)
    similar = [[bool(a & b) for b in labels] for a in labels]
    weight = n * n / sum(map(sum, similar))
    total = 0
    for i, j in itertools.permutations(range(n), 2):
        p = gamma / (sum((a - b) ** 2 for a, b in zip(codes[i], codes[j])) + 0.001 + gamma)
        total -= weight * math.log(p) if similar[i][j] else math.log(1 - p)
    quantization = [(abs(h) - 1) ** 2 for row in codes for h in row]
    mean = sum(quantization) / len(quantization)
    return total / (n * (n - 1)) + quantization_weight * mean


@pytest.mark.parametrize("y", [SINGLE_LABELS, MULTIPLE_LABELS], ids=["single", "multiple"])
def test_dch_of_the_code_equals_plain_loops(y):
    outputs = make_outputs().requires_grad_()
    loss = DCHLoss(5.0, 0.3, form="code")
    expected = dch_of_the_code(outputs.tolist(), label_sets(y), 5.0, 0.3)
    assert loss(outputs, y).item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.gradcheck(lambda rows: loss(rows, y), (outputs,))


@pytest.mark.parametrize("form", ["paper", "code"])
def test_equal_codes_of_different_classes_stay_finite_under_dch(form):
    outputs = torch.full((4, 48), 1.2345, requires_grad=True)
    loss = DCHLoss(form=form)(outputs, torch.arange(4))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastiveLoss(margin=-1), "margin=-1 must be"),
        (lambda: ContrastiveLoss(similar_weight="even"), "similar_weight='even' is not known"),
        (lambda: MultilevelLoss("dhn"), "form='dhn' is not known"),
        (lambda: MultilevelLoss(squash="relu"), "squash='relu' is not known"),
        (lambda: HashNetLoss(final_beta=0.5), "final_beta=0.5 must be"),
        (lambda: DCHLoss(gamma=0), "gamma=0 must be"),
        (lambda: DCHLoss(form="port"), "form='port' is not known"),
    ],
)
def test_bad_parameters_of_pair_losses_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
