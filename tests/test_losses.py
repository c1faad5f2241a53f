"""Every loss against plain loops, finite differences and values worked out elsewhere."""

import inspect
import math

import numpy as np
import pytest
import torch

from sklearn_cbir.losses import (
    LOSSES,
    CPFLoss,
    DFEHLoss,
    DSHLoss,
    SoftmaxLoss,
    SquaredHingeLoss,
    balance_loss,
    contrastive_loss,
    cpf_loss,
    output_of,
    pair_mean,
    quantization_loss,
    sampling_of,
    squared_distances,
)

NAMES = sorted(LOSSES)
N_OUTPUTS = 4  # classes, bits or features

SCORES = [[2.0, 0.5, -1.5], [0.2, -0.3, 0.4]]
CODES = [[0.9, -0.8, 1.1, -1.0], [0.7, -1.2, 0.9, -0.6], [-0.5, 0.9, 1.0, 0.4]]
SINGLE_LABELS = torch.tensor([0, 1, 1, 3, 0, 2])
MULTIPLE_LABELS = torch.tensor(
    [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 1, 1], [0, 1, 0, 0]]
).float()
LABELS = pytest.mark.parametrize("y", [SINGLE_LABELS, MULTIPLE_LABELS], ids=["single", "multiple"])


# References: the same losses in plain Python, (outputs, label sets, loss) -> float.


def softmax_reference(outputs, labels, loss):
    total = 0
    for scores, own in zip(outputs, labels):
        normalizer = sum(math.exp(score) for score in scores)
        total += sum(-math.log(math.exp(scores[c]) / normalizer) / len(own) for c in own)
    return total / len(outputs)


def squared_hinge_reference(outputs, labels, loss):
    total = 0
    for scores, own in zip(outputs, labels):
        for c, score in enumerate(scores):
            sign = 1 if c in own else -1
            total += max(0, 1 - sign * score) ** 2
    return total / len(outputs)


def contrastive_reference(outputs, labels):
    n, n_bits = len(outputs), len(outputs[0])
    total = 0
    for i in range(n):
        for j in range(i):
            distance = sum((a - b) ** 2 for a, b in zip(outputs[i], outputs[j]))
            similar = bool(labels[i] & labels[j])
            total += (distance if similar else max(0, 2 * n_bits - distance)) / 2
    return total / (n * (n - 1) / 2)


def quantization_reference(outputs):
    return sum(abs(abs(u) - 1) for row in outputs for u in row) / len(outputs)


def dsh_reference(outputs, labels, loss):
    return contrastive_reference(outputs, labels) + 2 * 0.01 * quantization_reference(outputs)


def dfeh_reference(outputs, labels, loss):
    balance = sum((sum(row) / len(row)) ** 2 for row in outputs) / len(outputs)
    return (
        contrastive_reference(outputs, labels)
        + 0.01 * quantization_reference(outputs)
        + 0.01 * balance
    )


def cpf_reference(outputs, labels, loss):
    def unit(row):
        length = math.sqrt(sum(value**2 for value in row))
        return [value / length for value in row]

    true_positive, positive, negative = 2.0, 0.0, 0.0
    for row, own in zip(outputs, labels):
        for c, proxy in enumerate(loss.proxies.tolist()):
            cosine = sum(a * b for a, b in zip(unit(row), unit(proxy)))
            if c in own:
                true_positive += 2 * max(cosine, 0)
                positive += (1 - cosine) * math.exp(3 * (1 - cosine))
            elif cosine > 0.38:
                negative += (cosine - 0.38) * math.exp(8 * (cosine - 1))
    return 1 - true_positive / (true_positive + positive + negative)


REFERENCES = {
    "softmax": softmax_reference,
    "squared_hinge": squared_hinge_reference,
    "dsh": dsh_reference,
    "dfeh": dfeh_reference,
    "cpf": cpf_reference,
}


def test_every_loss_has_a_reference():
    assert REFERENCES.keys() == LOSSES.keys()


# What all losses share.


def make_loss(name, y=MULTIPLE_LABELS):
    loss = LOSSES[name]()
    if hasattr(loss, "setup"):
        loss.setup(n_outputs=N_OUTPUTS, y=y, generator=torch.Generator().manual_seed(0))
    return loss.double()


def make_outputs(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, N_OUTPUTS, dtype=torch.float64, generator=generator)


def label_sets(y):
    if y.ndim == 1:
        return [{label} for label in y.tolist()]
    return [set(np.flatnonzero(row).tolist()) for row in y.numpy()]


def value_and_gradient(function, point):
    point = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    value = function(point)
    value.backward()
    return value.item(), point.grad.tolist()


@LABELS
@pytest.mark.parametrize("name", NAMES)
def test_loss_equals_plain_loops(name, y):
    loss, outputs = make_loss(name), make_outputs()
    expected = REFERENCES[name](outputs.tolist(), label_sets(y), loss)
    assert loss(outputs, y).item() == pytest.approx(expected, rel=1e-6)


@LABELS
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"cpf"}))
def test_gradient_equals_finite_differences(name, y):
    outputs = make_outputs().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: make_loss(name)(rows, y), (outputs,))


@pytest.mark.parametrize("name", NAMES)
def test_class_indices_equal_one_hot_rows(name):
    loss, outputs = make_loss(name), make_outputs()
    rows = torch.nn.functional.one_hot(SINGLE_LABELS, N_OUTPUTS).float()
    torch.testing.assert_close(loss(outputs, SINGLE_LABELS), loss(outputs, rows))


@LABELS
@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_batch_does_not_matter(name, y):
    loss, outputs = make_loss(name), make_outputs()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(loss(outputs[order], y[order]), loss(outputs, y))


@pytest.mark.parametrize(
    "y",
    [torch.tensor([0, 1, 2, 3]), torch.tensor([2, 2, 2, 2]), torch.zeros(4, N_OUTPUTS)],
    ids=["no positives", "no negatives", "no labels"],
)
@pytest.mark.parametrize("name", NAMES)
def test_batch_without_pairs_of_a_kind_gives_finite_gradients(name, y):
    outputs = make_outputs(4).requires_grad_()
    loss = make_loss(name)(outputs, y)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_zero_outputs_and_a_batch_of_one_give_finite_gradients(name):
    outputs = torch.zeros(1, N_OUTPUTS, requires_grad=True)
    loss = make_loss(name)(outputs, torch.tensor([1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_outputs_give_a_float32_loss(name, dtype):
    loss = make_loss(name).float()
    outputs = (30 * make_outputs()).to(dtype)
    value = loss(outputs, SINGLE_LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(outputs.float(), SINGLE_LABELS))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_steps_lower_the_loss(name):
    outputs = make_outputs().requires_grad_()
    loss = make_loss(name)
    before = loss(outputs, SINGLE_LABELS)
    optimizer = torch.optim.Adam([outputs, *loss.parameters()], lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        loss(outputs, SINGLE_LABELS).backward()
        optimizer.step()
    assert loss(outputs, SINGLE_LABELS) < 0.8 * before


@pytest.mark.parametrize("name", NAMES)
def test_loss_prints_its_parameters(name):
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    for parameter in parameters:
        if parameter.kind == parameter.POSITIONAL_OR_KEYWORD:
            assert f"{parameter.name}={parameter.default!r}" in repr(LOSSES[name]())


@pytest.mark.parametrize("name", NAMES)
def test_loss_says_what_the_last_layer_must_be(name):
    expected = {"softmax": "classes", "squared_hinge": "classes", "cpf": "features"}
    assert output_of(LOSSES[name]()) == expected.get(name, "bits")


def test_losses_of_torch_and_of_users_have_an_output():
    assert output_of(torch.nn.CrossEntropyLoss()) == "classes"
    assert output_of(torch.nn.MultiMarginLoss()) == "classes"
    assert output_of(torch.nn.Module()) == "features"
    assert output_of(lambda outputs, y: outputs.sum()) == "features"


def test_unknown_output_or_sampling_raises():
    loss = torch.nn.Module()
    loss.output = "logits"
    with pytest.raises(ValueError, match="loss.output='logits' is not known"):
        output_of(loss)
    loss.output = "bits"
    loss.sampling = "hard"
    with pytest.raises(ValueError, match="loss.sampling='hard' is not known"):
        sampling_of(loss)


def test_only_losses_on_classes_sample_uniformly():
    assert sampling_of(SoftmaxLoss()) == "uniform"
    assert sampling_of(DFEHLoss()) == "balanced"
    assert sampling_of(CPFLoss()) == "balanced"


# Softmax and squared hinge.


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
    ],
)
def test_squared_hinge_at_given_scores(form, value, gradient):
    loss = SquaredHingeLoss(form)
    got = value_and_gradient(lambda scores: loss(scores, torch.tensor([0, 1])), SCORES)
    assert got[0] == pytest.approx(value)
    np.testing.assert_allclose(got[1], gradient, atol=1e-8)


@pytest.mark.parametrize(("form", "value"), [("ovr", 3), ("ovr_mean", 1), ("crammer_singer", 2)])
def test_squared_hinge_of_zero_scores_counts_the_terms(form, value):
    assert SquaredHingeLoss(form)(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])) == value


@pytest.mark.parametrize("form", ["ovr", "ovr_mean"])
def test_squared_hinge_beyond_the_margin_is_flat(form):
    scores = [[1.0, -1.0, -2.0], [-1.0, 3.0, -1.0]]
    loss = SquaredHingeLoss(form)
    value, gradient = value_and_gradient(lambda s: loss(s, torch.tensor([0, 1])), scores)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_crammer_singer_with_several_labels_compares_every_right_with_every_wrong_class():
    scores, y = make_outputs(), MULTIPLE_LABELS
    total = 0
    for row, own in zip(scores.tolist(), label_sets(y)):
        for right in own:
            for wrong in set(range(N_OUTPUTS)) - own:
                total += max(0, 1 + row[wrong] - row[right]) ** 2
    loss = SquaredHingeLoss("crammer_singer")(scores, y)
    assert loss.item() == pytest.approx(total / len(scores))


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
    with pytest.raises(ValueError, match="no meaning with form='crammer_singer'"):
        SquaredHingeLoss("crammer_singer", class_weight="balanced")
    with pytest.raises(ValueError, match="class_weight='even' is not known"):
        SquaredHingeLoss(class_weight="even")
    with pytest.raises(ValueError, match=r"shape \(2,\), but there are 3 classes"):
        SquaredHingeLoss(class_weight=[1, 2])(torch.tensor(SCORES), torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match="Call setup"):
        SquaredHingeLoss(class_weight="balanced")(torch.tensor(SCORES), torch.tensor([0, 1]))


# DSH and DFEH.

SAME_FIRST_TWO = torch.tensor([0, 0, 1])


def test_dfeh_at_given_codes():
    value, gradient = value_and_gradient(lambda u: DFEHLoss()(u, SAME_FIRST_TWO), CODES)
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
    rest = DFEHLoss()(codes, y).item() - 1.36 / 3
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
        ({"similar_weight": "even"}, "similar_weight='even' is not known"),
        ({"similar_weight": -2}, "similar_weight=-2 must be"),
        ({"squash": "relu"}, "squash='relu' is not known"),
    ],
    ids=str,
)
def test_bad_parameters_of_dfeh_raise(parameters, message):
    with pytest.raises(ValueError, match=message):
        DFEHLoss(**parameters)


# CPF.

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
