"""Softmax and squared hinge at values worked out elsewhere."""

import numpy as np
import pytest
import torch
from loss_cases import (
    MULTIPLE_LABELS,
    N_OUTPUTS,
    SINGLE_LABELS,
    label_sets,
    make_outputs,
    value_and_gradient,
)

from sklearn_cbir.losses import SoftmaxLoss, SquaredHingeLoss

SCORES = [[2.0, 0.5, -1.5], [0.2, -0.3, 0.4]]


def test_softmax_at_given_scores():
    scores, y = torch.tensor(SCORES), torch.tensor([0, 1])
    assert SoftmaxLoss()(scores, y).item() == pytest.approx(0.88267413)
    assert SoftmaxLoss()(scores[:1], y[:1]).item() == pytest.approx(0.22580205)


def test_softmax_takes_soft_rows():
    scores = torch.tensor(SCORES)
    soft = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0]])
    losses = [SoftmaxLoss()(scores, torch.tensor([c, 1])).item() for c in (0, 1)]
    expected = 0.7 * losses[0] + 0.3 * losses[1]
    assert SoftmaxLoss()(scores, soft).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("form", "value", "gradient"),
    [
        # margins [0, 1.5, 0] and [1.2, 1.3, 1.4]: (2.25 + 5.09) / 2
        ("ovr", 3.67, [[0, 1.5, 0], [1.2, -1.3, 1.4]]),
        ("ovr_mean", 1.22333333, [[0, 0.5, 0], [0.4, -0.43333333, 0.46666667]]),
        # 1 + s_j - s_y = 1.5 and 1.7 in the second row only: (2.25 + 2.89) / 2, slopes 1.5 and 1.7
        ("crammer_singer", 2.57, [[0, 0, 0], [1.5, -3.2, 1.7]]),
        # the larger one only: 2.89 / 2
        ("crammer_singer_max", 1.445, [[0, 0, 0], [0, -1.7, 1.7]]),
    ],
)
def test_squared_hinge_at_given_scores(form, value, gradient):
    loss = SquaredHingeLoss(form)
    got = value_and_gradient(lambda scores: loss(scores, torch.tensor([0, 1])), SCORES)
    assert got[0] == pytest.approx(value)
    np.testing.assert_allclose(got[1], gradient, atol=1e-8)


@pytest.mark.parametrize(
    ("form", "value"),
    [("ovr", 3), ("ovr_mean", 1), ("crammer_singer", 2), ("crammer_singer_max", 1)],
)
def test_squared_hinge_of_zero_scores_counts_the_terms(form, value):
    assert SquaredHingeLoss(form)(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])) == value


@pytest.mark.parametrize("form", ["ovr", "ovr_mean"])
def test_squared_hinge_beyond_the_margin_is_flat(form):
    scores = [[1.0, -1.0, -2.0], [-1.0, 3.0, -1.0]]
    loss = SquaredHingeLoss(form)
    value, gradient = value_and_gradient(lambda s: loss(s, torch.tensor([0, 1])), scores)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("form", "combine"), [("crammer_singer", sum), ("crammer_singer_max", max)]
)
def test_crammer_singer_with_several_labels_compares_every_right_with_wrong_classes(form, combine):
    scores, y = make_outputs(), MULTIPLE_LABELS
    total = 0
    for row, own in zip(scores.tolist(), label_sets(y)):
        wrong = set(range(N_OUTPUTS)) - own
        for right in own:
            total += combine(max(0, 1 + row[j] - row[right]) ** 2 for j in wrong)
    assert SquaredHingeLoss(form)(scores, y).item() == pytest.approx(total / len(scores))


@pytest.mark.parametrize("form", ["crammer_singer", "crammer_singer_max"])
def test_crammer_singer_costs_nothing_where_all_or_no_classes_are_right(form):
    scores = make_outputs(2).requires_grad_()
    loss = SquaredHingeLoss(form)(scores, torch.tensor([[0.0] * 4, [1.0] * 4]))
    loss.backward()
    assert loss == 0
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("form", ["ovr", "ovr_mean"])
@pytest.mark.parametrize("class_weight", ["balanced", [1.0, 10.0, 0.5, 3.0]], ids=str)
@pytest.mark.parametrize("y", [SINGLE_LABELS, MULTIPLE_LABELS], ids=["single", "multiple"])
def test_class_weight_in_plain_loops(form, class_weight, y):
    scores, sets = make_outputs(), label_sets(y)
    loss = SquaredHingeLoss(form, class_weight).double()
    loss.setup(n_outputs=N_OUTPUTS, y=y)
    total = 0
    for row, own in zip(scores.tolist(), sets):
        for c, score in enumerate(row):
            n_own = sum(c in other for other in sets)
            if class_weight == "balanced":
                weight = len(sets) / (2 * (n_own if c in own else len(sets) - n_own))
            else:
                weight = class_weight[c] if c in own else 1
            total += weight * max(0, 1 - (1 if c in own else -1) * score) ** 2
    expected = total / len(sets) / (N_OUTPUTS if form == "ovr_mean" else 1)
    assert loss(scores, y).item() == pytest.approx(expected)
    point = scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, y), (point,))


def test_balanced_class_weight_gives_a_class_and_its_rest_equal_weight():
    y = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    loss = SquaredHingeLoss(class_weight="balanced")
    loss.setup(n_outputs=3, y=y)
    gradient = value_and_gradient(lambda scores: loss(scores, y), np.zeros((10, 3)).tolist())[1]
    # Class 0: 6 rows of weight 10 / 12 pull up, 4 of weight 10 / 8 push down.
    np.testing.assert_allclose(np.sum(gradient, axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.abs(gradient).sum(axis=0), 2, rtol=1e-6)


def test_class_weight_scales_the_terms_of_a_rows_own_class():
    scores, y = torch.tensor(SCORES), torch.tensor([0, 1])
    # 2.25 + (1.44 + 10 * 1.69 + 1.96), over two rows
    loss = SquaredHingeLoss(class_weight=[1, 10, 100])
    assert loss(scores, y).item() == pytest.approx((2.25 + 20.3) / 2)


def test_bad_class_weights_raise():
    for form in ("crammer_singer", "crammer_singer_max"):
        with pytest.raises(ValueError, match=f"no meaning with form='{form}'"):
            SquaredHingeLoss(form, class_weight="balanced")
    with pytest.raises(ValueError, match="class_weight='even' is not known"):
        SquaredHingeLoss(class_weight="even")
    with pytest.raises(ValueError, match=r"shape \(2,\), but there are 3 classes"):
        SquaredHingeLoss(class_weight=[1, 2])(torch.tensor(SCORES), torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match="Call setup"):
        SquaredHingeLoss(class_weight="balanced")(torch.tensor(SCORES), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "class_weight",
    [[1, -5, 1], [1, np.nan, 1], [1, np.inf, 1], 2.0, [[1, 2, 3]], {0: 1, 1: 2}, ["1", "2", "3"]],
    ids=["negative", "NaN", "infinite", "number", "2-D", "dict", "text"],
)
def test_class_weights_must_be_weights(class_weight):
    with pytest.raises(ValueError, match="class_weight=.*finite number of at least 0 per class"):
        SquaredHingeLoss(class_weight=class_weight)


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_class_weights_of_any_sequence(kind):
    loss = SquaredHingeLoss(class_weight=kind([1.0, 10.0, 0.0]))
    expected = SquaredHingeLoss(class_weight=[1.0, 10.0, 0.0])
    rows = torch.tensor(SCORES), torch.tensor([0, 1])
    assert loss(*rows) == expected(*rows)
