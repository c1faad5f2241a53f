"""Triplets and LRML at values worked out elsewhere."""

import numpy as np
import pytest
import torch
from loss_cases import MULTIPLE_LABELS, SINGLE_LABELS, make_outputs, value_and_gradient

from sklearn_cbir.losses import (
    DNNHLoss,
    LRMLLoss,
    TripletLoss,
    ranked_list_loss,
    staircase_loss,
    triplet_loss,
)

# Triplets. Rows on a line, with squared distances 1, 4 and so on.

LINE = torch.tensor([[0.0], [1.0], [1.2], [3.0]])
CLASSES = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("triplets", "costs"),
    [
        # anchor 0: D_p = 1, D_n = 1.44 and 9; anchor 1: 1, 0.04 and 4; anchor 2: 3.24, 1.44 and
        # 0.04; anchor 3: 3.24, 9 and 4
        ("semihard", [0.56, 0, 4.24 - 1.44, 0.24]),
        ("hardest", [0.56, 1.96, 4.2, 0.24]),
        ("all", [0.56, 0, 1.96, 0, 2.8, 4.2, 0, 0.24]),
    ],
)
def test_triplets_at_given_distances(triplets, costs):
    loss = TripletLoss(margin=1.0, triplets=triplets)(LINE, CLASSES)
    assert loss.item() == pytest.approx(np.mean(costs))


@pytest.mark.parametrize("triplets", ["semihard", "all", "hardest"])
@pytest.mark.parametrize("y", [SINGLE_LABELS, MULTIPLE_LABELS], ids=["single", "multiple"])
def test_slope_of_every_choice_of_triplets(triplets, y):
    outputs = make_outputs().requires_grad_()
    loss = TripletLoss(margin=3.0, triplets=triplets)
    assert torch.autograd.gradcheck(lambda rows: loss(rows, y), (outputs,))


@pytest.mark.parametrize("triplets", ["semihard", "all", "hardest"])
@pytest.mark.parametrize(
    "y", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0, 1]], ids=["one class", "all alone", "one alone"]
)
def test_missing_triplets_have_no_cost_and_finite_slopes(triplets, y):
    features = make_outputs(4).requires_grad_()
    loss = TripletLoss(triplets=triplets)(features, torch.tensor(y))
    loss.backward()
    assert torch.isfinite(features.grad).all()
    if len(set(y)) != 2:
        assert loss == 0


def test_triplets_by_running_sums_equal_all_differences():
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(30, 30, generator=generator, dtype=torch.float64)
    relevance = torch.randint(4, (30, 30), generator=generator)
    costs = torch.relu(0.3 + distances[:, :, None] - distances[:, None, :])
    different = ~torch.eye(30, dtype=torch.bool)
    kept = relevance[:, :, None] > relevance[:, None, :]
    kept &= different[:, :, None] & different[:, None, :]
    expected = costs[kept].mean()
    torch.testing.assert_close(triplet_loss(distances, relevance, 0.3), expected)


# DNNH.


def test_dnnh_of_equal_codes_costs_its_margin():
    assert DNNHLoss()(torch.full((4, 12), 0.7), CLASSES) == 1
    assert DNNHLoss(margin=0.25)(torch.zeros(4, 12), CLASSES) == 0.25


def test_dnnh_stays_between_zero_and_the_number_of_bits_plus_one():
    perfect = torch.tensor([[50.0] * 6, [50.0] * 6, [-50.0] * 6, [-50.0] * 6])
    assert DNNHLoss()(perfect, CLASSES) == 0
    assert DNNHLoss()(perfect[[0, 2, 1, 3]], CLASSES) == 4  # of 1 + 6 and 1 - 6 + 6: (7 + 1) / 2
    assert DNNHLoss()(perfect[[0, 2, 1, 3]], torch.tensor([0, 0, 1, 2])).item() == 4


def test_slope_of_a_dnnh_triplet_is_that_of_the_paper():
    outputs, y = make_outputs(3), torch.tensor([0, 0, 1])
    values = torch.sigmoid(outputs)
    _, gradient = value_and_gradient(lambda u: DNNHLoss()(u, y), outputs.tolist())
    a, b, c = values
    # Triplets (a, b, c) and (b, a, c), both with a cost; 2 (far - near) and so on, over 2
    expected = torch.stack([(c - b) + (a - b), (b - a) + (c - a), (a - c) + (b - c)])
    np.testing.assert_allclose(gradient, expected * values * (1 - values), atol=1e-12)


def test_threshold_of_dnnh_stops_the_slope_outside_its_width():
    outputs = [[0.1, 3.0], [-0.1, -3.0], [0.05, 2.0]]
    y = torch.tensor([0, 0, 1])
    loss = DNNHLoss(threshold_width=0.1)
    value, gradient = value_and_gradient(lambda u: loss(u, y), outputs)
    rounded = torch.sigmoid(torch.tensor(outputs, dtype=torch.float64))
    rounded[:, 1] = torch.tensor([1.0, 0.0, 1.0])
    squared = [(rounded[i] - rounded[j]).square().sum() for i, j in ((0, 1), (0, 2), (1, 2))]
    expected = (max(0, 1 + squared[0] - squared[1]) + max(0, 1 + squared[0] - squared[2])) / 2
    assert value == pytest.approx(expected.item())
    np.testing.assert_array_equal(np.array(gradient)[:, 1], 0)
    assert (np.array(gradient)[:2, 0] != 0).all()


def test_dnnh_ranks_rows_by_the_labels_they_share():
    # Only the first row has neighbors that share 2, 1 and 0 of its labels.
    y = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]).float()
    outputs = torch.tensor([[9.0, 9.0], [9.0, 9.0], [9.0, -9.0], [-9.0, -9.0]])
    assert DNNHLoss(margin=0.0)(outputs, y) == 0
    assert DNNHLoss(margin=0.0)(outputs[[0, 2, 1, 3]], y) > 0


# LRML.

DISTANCES = torch.tensor([[0.6, 0.7, 0.8, 0.9, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("positive", "negatives", "step", "expected"),
    [
        (0.5, [0.6, 0.7, 0.8, 0.9, 1.0], 0.0, 0.16875),
        (0.5, [0.6, 0.7, 0.8, 0.9, 1.0], 0.05, 0.19375),
        (0.5, [1.0, 0.7, 0.6, 0.9, 0.8], 0.05, 0.19375),
        (0.0, [0.85, 0.9, 0.95, 1.0, 1.05], 0.05, 0.0),
        (0.5, [0.8] * 5, 0.05, 0.19375),
        (0.5, [0.6, np.inf, np.inf, np.inf, np.inf], 0.05, 0.125 + 0.03125),
    ],
    ids=["equal margins", "staircase", "unsorted", "satisfied", "ties", "one negative"],
)
def test_staircase_at_given_distances(positive, negatives, step, expected):
    positive, negatives = (torch.tensor([d], dtype=torch.float64) for d in (positive, negatives))
    costs = staircase_loss(positive, negatives, step=step)
    assert costs.item() == pytest.approx(expected, abs=1e-8)


def test_slope_of_the_staircase_is_what_each_negative_is_too_near():
    _, gradient = value_and_gradient(
        lambda d: staircase_loss(torch.zeros(1), d).sum(), DISTANCES.tolist()
    )
    np.testing.assert_allclose(gradient, [[-0.25, -0.2, -0.15, -0.1, -0.05]], atol=1e-12)


def test_ranked_list_at_given_distances():
    negatives = torch.tensor([[0.7, 0.9, 1.0, 1.1, 1.3]], dtype=torch.float64)
    positive = torch.ones(1, dtype=torch.float64)
    assert ranked_list_loss(positive, negatives).item() == pytest.approx(0.32950479, abs=1e-8)
    pull = ranked_list_loss(positive, negatives, negative_weight=0.0)
    push = ranked_list_loss(positive, negatives, negative_weight=1.0)
    assert pull.item() == pytest.approx(0.2)
    assert push.item() == pytest.approx(0.45900958, abs=1e-8)


def test_slope_of_the_ranked_list_freezes_its_weights():
    negatives = [[0.7, 0.9, 1.0, 1.1, 1.3]]
    _, gradient = value_and_gradient(
        lambda d: ranked_list_loss(torch.ones(1), d, negative_weight=1.0).sum(), negatives
    )
    weights = [0.83095266, 0.11245721, 0.04137070, 0.01521943, 0]
    np.testing.assert_allclose(gradient, -np.array([weights]), atol=1e-8)


def test_ranked_list_without_negatives_has_its_positive_term():
    nothing = torch.full((1, 5), torch.inf)
    assert ranked_list_loss(torch.ones(1), nothing).item() == pytest.approx(0.1)


@pytest.mark.parametrize("form", ["staircase", "ranked_list"])
def test_lrml_forms_its_tuples_from_the_labels(form):
    # Query 0 on a line: positive at 0.3, negatives of five classes at 0.5, 0.6, ... , 1.0
    places = torch.tensor([[0.0], [0.3], [0.5], [0.6], [0.7], [0.8], [0.9], [1.0], [0.51]])
    y = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 1])
    cost = {"staircase": staircase_loss, "ranked_list": ranked_list_loss}[form]

    def tuples(first, second):
        return cost(torch.tensor([0.3, 0.3]), torch.tensor([first, second])).tolist()

    spread = tuples([0.5, 0.6, 0.7, 0.8, 0.9], [0.2, 0.3, 0.4, 0.5, 0.6])
    # Row 8 is of the class of row 2 and of no other tuple's: nothing else changes but its own pair.
    others = cost(torch.full((2,), 0.01), _nearest_five(places, y, (2, 8))).tolist()
    loss = LRMLLoss(form)(places, y)
    assert loss.item() == pytest.approx(np.mean(spread + others), rel=1e-5)
    loss = LRMLLoss(form, reduction="sum")(places, y)
    assert loss.item() == pytest.approx(np.sum(spread + others), rel=1e-5)
    crowded = tuples([0.5, 0.51, 0.6, 0.7, 0.8], [0.2, 0.21, 0.3, 0.4, 0.5])
    loss = LRMLLoss(form, one_per_class=False)(places, y)
    others = cost(torch.full((2,), 0.01), _nearest_five(places, y, (2, 8), False)).tolist()
    assert loss.item() == pytest.approx(np.mean(crowded + others), rel=1e-5)


def _nearest_five(places, y, rows, one_per_class=True):
    """Distances of the five nearest rows of other classes, at most one of each."""
    found = []
    for row in rows:
        nearest = {}
        for k in range(len(y)):
            if y[k] != y[row]:
                key = int(y[k]) if one_per_class else k
                distance = abs(places[k] - places[row]).item()
                nearest[key] = min(distance, nearest.get(key, np.inf))
        found.append(sorted(nearest.values())[:5])
    return torch.tensor(found)


def test_bottom_negatives_are_the_farthest_in_order_of_nearness():
    places = torch.tensor([[0.0], [0.1], [0.2], [0.3], [0.4]])
    y = torch.tensor([0, 0, 1, 2, 3])
    far = LRMLLoss(negatives="bottom", n_negatives=2)(places, y)
    expected = staircase_loss(torch.tensor([0.1, 0.1]), torch.tensor([[0.3, 0.4], [0.2, 0.3]]))
    assert far.item() == pytest.approx(expected.mean().item())


def test_lrml_without_a_step_is_the_contrastive_loss_of_its_tuples():
    places = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.6, 0.0]])
    # tuples (0, 1) and (1, 0): 0.125 each, negative at 0.6 and at 0.1
    loss = LRMLLoss(step=0.0)(places, torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx((0.25 + 0.25**2 / 2 + 0.75**2 / 2) / 2)


@pytest.mark.parametrize("parameters", [{"form": "ranked_list"}, {"negatives": "bottom"}], ids=str)
def test_other_forms_of_lrml_stay_finite_without_positives_or_negatives(parameters):
    for y in ([0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 1, 2]):
        features = make_outputs(4).requires_grad_()
        loss = LRMLLoss(**parameters)(features, torch.tensor(y))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TripletLoss(triplets="easy"), "triplets='easy' is not known"),
        (lambda: DNNHLoss(threshold_width=0.6), "threshold_width=0.6 must be"),
        (lambda: LRMLLoss("list"), "form='list' is not known"),
        (lambda: LRMLLoss(n_negatives=0), "n_negatives=0 must be"),
        (lambda: LRMLLoss(negatives="easy"), "negatives='easy' is not known"),
        (lambda: LRMLLoss(one_per_class="yes"), "one_per_class='yes' must be True or False"),
    ],
)
def test_bad_parameters_of_ranking_losses_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
