"""Every loss against plain loops, finite differences and what all losses share."""

import inspect
import math

import pytest
import torch
from loss_cases import (
    MULTIPLE_LABELS,
    N_OUTPUTS,
    SINGLE_LABELS,
    label_sets,
    make_loss,
    make_outputs,
)

from sklearn_cbir.losses import (
    LOSSES,
    CPFLoss,
    DFEHLoss,
    SoftmaxLoss,
    output_of,
    sampling_of,
    takes_soft_targets,
)

NAMES = sorted(LOSSES)
# Detached weights and a straight-through step: their own tests freeze or replace them.
NOT_ITS_OWN_SLOPE = {"cpf", "greedyhash"}
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


def contrastive_reference(outputs, labels, similar_weight=1):
    n, n_bits = len(outputs), len(outputs[0])
    total, weights = 0, 0
    for i in range(n):
        for j in range(i):
            distance = sum((a - b) ** 2 for a, b in zip(outputs[i], outputs[j]))
            similar = bool(labels[i] & labels[j])
            weight = similar_weight if similar else 1
            total += weight * (distance if similar else max(0, 2 * n_bits - distance)) / 2
            weights += weight
    return total / weights


def quantization_reference(outputs):
    return sum(abs(abs(u) - 1) for row in outputs for u in row) / len(outputs)


def dsh_reference(outputs, labels, loss):
    return contrastive_reference(outputs, labels) + 2 * 0.01 * quantization_reference(outputs)


def dfeh_reference(outputs, labels, loss):
    balance = sum(sum(row) ** 2 / len(row) for row in outputs) / len(outputs)
    return (
        contrastive_reference(outputs, labels, similar_weight=2)
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


def squared_distance(a, b):
    return sum((x - z) ** 2 for x, z in zip(a, b))


def dot(a, b):
    return sum(x * z for x, z in zip(a, b))


def sign(value):
    return 1 if value >= 0 else -1


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def ordered_pairs(n):
    return [(i, j) for i in range(n) for j in range(n) if i != j]


def feature_contrastive_reference(outputs, labels, loss):
    costs = []
    for i, j in ordered_pairs(len(outputs)):
        squared = squared_distance(outputs[i], outputs[j])
        similar = bool(labels[i] & labels[j])
        costs.append(squared / 2 if similar else max(0, 1 - math.sqrt(squared)) ** 2 / 2)
    return sum(costs) / len(costs)


def triplet_reference(outputs, labels, loss):
    costs, n = [], len(outputs)
    for a, p in ordered_pairs(n):
        others = [k for k in range(n) if not labels[a] & labels[k]]
        if labels[a] & labels[p] and others:
            near = squared_distance(outputs[a], outputs[p])
            far = [squared_distance(outputs[a], outputs[k]) for k in others]
            chosen = min([d for d in far if d > near], default=max(far))
            costs.append(max(0, 0.2 + near - chosen))
    return sum(costs) / len(costs)


def lrml_reference(outputs, labels, loss):
    costs, n = [], len(outputs)
    for q, p in ordered_pairs(n):
        if not labels[q] & labels[p]:
            continue
        nearest = {}  # of every set of labels
        for k in range(n):
            if not labels[q] & labels[k]:
                distance = math.sqrt(squared_distance(outputs[q], outputs[k]))
                key = frozenset(labels[k])
                nearest[key] = min(distance, nearest.get(key, math.inf))
        cost = squared_distance(outputs[q], outputs[p]) / 2
        for rank, distance in enumerate(sorted(nearest.values())[:5]):
            cost += max(0, 0.85 + 0.05 * rank - distance) ** 2 / 2
        costs.append(cost)
    return sum(costs) / len(costs)


def multilevel_reference(outputs, labels, loss):
    codes = [[u / (1 + abs(u)) for u in row] for row in outputs]
    n, n_bits, total = len(codes), len(codes[0]), 0
    for i in range(n):
        for j in range(n):
            product = dot(codes[i], codes[j])
            similarity = len(labels[i] & labels[j]) / math.sqrt(len(labels[i]) * len(labels[j]))
            if 0.01 <= similarity <= 0.99:
                total += 0.1 * n_bits * ((product + n_bits) / (2 * n_bits) - similarity) ** 2
            else:
                logit = 5 * product / n_bits
                total += math.log(1 + math.exp(logit)) - similarity * logit
    return total / n**2 + 0.1 * quantization_reference(codes) / n_bits


def dpsh_reference(outputs, labels, loss):
    costs = []
    for i, j in ordered_pairs(len(outputs)):
        logit = dot(outputs[i], outputs[j]) / 2
        costs.append(math.log(1 + math.exp(logit)) - (logit if labels[i] & labels[j] else 0))
    quantization = [(u - sign(u)) ** 2 for row in outputs for u in row]
    return sum(costs) / len(costs) + 0.1 * sum(quantization) / len(quantization)


def weighted_mean_reference(costs, labels):
    """`costs[i, j]` with the weights of HashNet."""
    n_similar = sum(bool(labels[i] & labels[j]) for i, j in costs)
    total = weights = 0
    for (i, j), cost in costs.items():
        if labels[i] & labels[j]:
            jaccard = len(labels[i] & labels[j]) / len(labels[i] | labels[j])
            weight = len(costs) / n_similar * jaccard
        else:
            weight = len(costs) / (len(costs) - n_similar)
        total += weight * cost
        weights += weight
    return total / weights


def hashnet_reference(outputs, labels, loss):
    codes = [[math.tanh(u) for u in row] for row in outputs]
    costs = {}
    for i, j in ordered_pairs(len(codes)):
        logit = 10 / len(codes[0]) * dot(codes[i], codes[j])
        costs[i, j] = math.log(1 + math.exp(logit)) - (logit if labels[i] & labels[j] else 0)
    return weighted_mean_reference(costs, labels)


def dch_reference(outputs, labels, loss):
    codes = [[math.tanh(u) for u in row] for row in outputs]
    n_bits = len(codes[0])

    def distance(a, b):
        return n_bits / 2 * (1 - dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)))

    costs = {}
    for i, j in ordered_pairs(len(codes)):
        d = distance(codes[i], codes[j]) + 1e-6
        costs[i, j] = math.log(1 + 20 / d) + (math.log(d / 20) if labels[i] & labels[j] else 0)
    ones = [1] * n_bits
    quantization = [math.log(1 + distance([abs(h) for h in row], ones) / 20) for row in codes]
    return weighted_mean_reference(costs, labels) + 0.1 * sum(quantization) / len(codes)


def dnnh_reference(outputs, labels, loss):
    codes = [[sigmoid(u) for u in row] for row in outputs]
    costs = []
    for i, j in ordered_pairs(len(codes)):
        for k in set(range(len(codes))) - {i, j}:
            if len(labels[i] & labels[j]) > len(labels[i] & labels[k]):
                near = squared_distance(codes[i], codes[j])
                costs.append(max(0, 1 + near - squared_distance(codes[i], codes[k])))
    return sum(costs) / len(costs)


def dlbhc_reference(outputs, labels, loss):
    scores = [
        [dot(w, map(sigmoid, row)) + b for w, b in zip(loss.weight.tolist(), loss.bias.tolist())]
        for row in outputs
    ]
    return softmax_reference(scores, labels, loss)


def greedyhash_reference(outputs, labels, loss):
    scores = [[dot(w, map(sign, row)) for w in loss.weight.tolist()] for row in outputs]
    quantization = [abs(abs(u) - 1) ** 3 for row in outputs for u in row]
    return softmax_reference(scores, labels, loss) + 0.1 * sum(quantization) / len(quantization)


def bit_entropy_reference(outputs, targets, steepness):
    """Mean binary cross entropy of the sigmoid with targets of -1 and +1."""
    costs = [
        -math.log(sigmoid(steepness * u * (1 if t > 0 else -1)))
        for row, target in zip(outputs, targets)
        for u, t in zip(row, target)
    ]
    return sum(costs) / len(costs)


def csq_reference(outputs, labels, loss):
    centers = []
    for own in labels:
        votes = [sum(loss.centers[c, k].item() for c in own) for k in range(len(outputs[0]))]
        centers.append([v if v else tie for v, tie in zip(votes, loss.ties.tolist())])
    quantization = [(abs(math.tanh(u)) - 1) ** 2 for row in outputs for u in row]
    entropy = bit_entropy_reference(outputs, centers, 2)
    return entropy + 0.0001 * sum(quantization) / len(quantization)


def orthohash_reference(outputs, labels, loss):
    centers = loss.centers.tolist()
    scores = []
    for row, own in zip(outputs, labels):
        length = math.sqrt(dot(row, row) * len(row))
        margins = [0.2 if c in own else 0 for c in range(len(centers))]
        scores.append([8 * (dot(row, o) / length - m) for o, m in zip(centers, margins)])
    return softmax_reference(scores, labels, loss)


def cnnh_reference(outputs, labels, loss):
    known = label_sets(loss.label_sets)
    targets = []
    for own in labels:
        likeness = [len(own & other) / math.sqrt(len(other)) for other in known]
        targets.append(loss.codes[likeness.index(max(likeness))].tolist())
    return bit_entropy_reference(outputs, targets, 1)


REFERENCES = {
    "softmax": softmax_reference,
    "squared_hinge": squared_hinge_reference,
    "contrastive": feature_contrastive_reference,
    "triplet": triplet_reference,
    "lrml": lrml_reference,
    "cpf": cpf_reference,
    "dsh": dsh_reference,
    "dfeh": dfeh_reference,
    "multilevel": multilevel_reference,
    "cnnh": cnnh_reference,
    "dlbhc": dlbhc_reference,
    "dnnh": dnnh_reference,
    "dpsh": dpsh_reference,
    "hashnet": hashnet_reference,
    "greedyhash": greedyhash_reference,
    "csq": csq_reference,
    "orthohash": orthohash_reference,
    "dch": dch_reference,
}


def test_every_loss_has_a_reference():
    assert REFERENCES.keys() == LOSSES.keys()


# What all losses share.


@LABELS
@pytest.mark.parametrize("name", NAMES)
def test_loss_equals_plain_loops(name, y):
    loss, outputs = make_loss(name), make_outputs()
    expected = REFERENCES[name](outputs.tolist(), label_sets(y), loss)
    assert loss(outputs, y).item() == pytest.approx(expected, rel=1e-6)


@LABELS
@pytest.mark.parametrize("name", sorted(set(NAMES) - NOT_ITS_OWN_SLOPE))
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
    of_classes = {"softmax", "squared_hinge"}
    of_features = {"contrastive", "triplet", "lrml", "cpf"}
    expected = "classes" if name in of_classes else "features" if name in of_features else "bits"
    assert output_of(LOSSES[name]()) == expected


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


def test_losses_that_compare_rows_sample_balanced_batches():
    assert sampling_of(SoftmaxLoss()) == "uniform"
    assert sampling_of(DFEHLoss()) == "balanced"
    assert sampling_of(CPFLoss()) == "balanced"
    one_by_one = {"softmax", "squared_hinge", "cnnh", "dlbhc", "greedyhash", "csq", "orthohash"}
    assert {name for name in NAMES if sampling_of(LOSSES[name]()) == "uniform"} == one_by_one


def test_losses_that_say_so_take_shares_of_labels():
    y = MULTIPLE_LABELS.double() * 0.5
    soft = {name for name in NAMES if takes_soft_targets(LOSSES[name]())}
    assert soft == {"softmax", "cpf"}
    for name in soft:
        assert torch.isfinite(make_loss(name)(make_outputs(), y))
    assert takes_soft_targets(torch.nn.CrossEntropyLoss())
    assert not takes_soft_targets(torch.nn.MultiMarginLoss())
    assert not takes_soft_targets(lambda outputs, y: outputs.sum())


@pytest.mark.parametrize("name", [n for n in NAMES if hasattr(LOSSES[n], "setup")])
def test_setup_draws_from_its_generator_only(name):
    state = torch.get_rng_state()
    a, b = make_loss(name), make_loss(name)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]), key


@pytest.mark.parametrize("name", ["dlbhc", "greedyhash", "csq", "orthohash", "cnnh", "cpf"])
def test_loss_that_was_not_set_up_says_so(name):
    with pytest.raises(RuntimeError, match=r"Call setup\(n_outputs=..., y=...\) before the loss"):
        LOSSES[name]()(torch.zeros(2, 4), torch.tensor([0, 1]))
