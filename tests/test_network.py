"""What stands between trunk and outputs: enhancement of feature maps, and hash layers."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from sklearn_cbir import DeepHasher, persistence
from sklearn_cbir._network import HASH_LAYERS, SLICE, DividedLayer, Network
from sklearn_cbir.backbones import ENHANCEMENTS, build_backbone
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.losses import LOSSES, DNNHLoss, DPSHLoss, hash_layer_of
from sklearn_cbir.losses._base import demands_of


def hasher(**parameters):
    parameters = {"backbone": "small", "max_epochs": 1, "random_state": 0} | parameters
    return DeepHasher(8, **parameters)


def random_weights(module, seed=0):
    """The module in float64, evaluating, none of its weights 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.double().eval()


def random_maps(n=2, n_channels=32, height=4, width=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(n, n_channels, height, width, generator=generator, dtype=torch.float64)
    return maps.requires_grad_()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Enhancement.


@pytest.mark.parametrize("name", sorted(ENHANCEMENTS))
def test_enhancement_starts_as_the_identity_and_learns(name):
    torch.manual_seed(0)  # hidden units must be alive
    layer = ENHANCEMENTS[name](32).double()
    maps = random_maps()
    out = layer(maps)
    assert torch.equal(out, maps)
    target = torch.rand(out.shape, generator=torch.Generator().manual_seed(2)).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in layer.parameters()]
    losses = []
    for _ in range(5):
        loss = (layer(maps.detach()) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # The layer that starts at 0 keeps the others from learning in the first step only.
    assert not any(map(torch.equal, before, layer.parameters()))


def test_squeeze_and_excitation_by_hand():
    layer = ENHANCEMENTS["se"](2)
    layer.gate.squeeze.weight.data = torch.tensor([[1.0, 0.5]])
    layer.gate.excite.weight.data = torch.tensor([[1.0], [-1.0]])
    maps = torch.tensor([[[[0.0, 2.0]], [[1.0, 3.0]]]])  # means 1 and 2
    # Hidden unit 1 + 1 = 2; gates 2 sigmoid(2) and 2 sigmoid(-2).
    expected = torch.tensor([[[[0, 2 * 1.76159416]], [[0.23840584, 3 * 0.23840584]]]])
    torch.testing.assert_close(layer(maps), expected)
    layer.gate.squeeze.weight.data = torch.tensor([[-1.0, 0.25]])  # the ReLU closes
    torch.testing.assert_close(layer(maps), maps)


def test_cbam_by_hand():
    layer = ENHANCEMENTS["cbam"](2)
    layer.gate.squeeze.weight.data = torch.tensor([[1.0, 0.5]])
    layer.gate.excite.weight.data = torch.tensor([[0.5], [-0.5]])
    center = layer.places.weight.data[0, :, 3, 3]
    center.copy_(torch.tensor([1.0, -1.0]))
    maps = torch.tensor([[[[0.0, 2.0]], [[1.0, 3.0]]]])
    # Means 1, 2 give 2, maxima 2, 3 give 3.5; scores 2.75 and -2.75.
    channels = 2 * sigmoid(np.array([2.75, -2.75]))
    weighed = np.array([[0.0, 2.0], [1.0, 3.0]]) * channels[:, None]
    places = 2 * sigmoid(weighed.mean(axis=0) - weighed.max(axis=0))
    assert channels == pytest.approx([1.87982670, 0.12017330])
    assert places == pytest.approx([0.96996572, 0.30904369])
    expected = torch.tensor((weighed * places).reshape(1, 2, 1, 2), dtype=torch.float32)
    torch.testing.assert_close(layer(maps), expected)


def gate_loop(gate, values):
    """Scores of every channel, from one value for each."""
    squeeze, excite = (layer.weight.tolist() for layer in (gate.squeeze, gate.excite))
    hidden = [max(0.0, sum(w * v for w, v in zip(row, values))) for row in squeeze]
    return [sum(w * h for w, h in zip(row, hidden)) for row in excite]


def channel_loop(image, scores):
    return np.stack([channel * 2 * sigmoid(score) for channel, score in zip(image, scores)])


def place_loop(image, kernel):
    """Every place times the gate of a 7 x 7 window of mean and maximum over channels."""
    out = image.copy()
    height, width = image.shape[1:]
    for i in range(height):
        for j in range(width):
            score = 0.0
            for k in range(max(0, i - 3), min(height, i + 4)):
                for m in range(max(0, j - 3), min(width, j + 4)):
                    place = image[:, k, m]
                    score += kernel[0, k - i + 3, m - j + 3] * place.mean()
                    score += kernel[1, k - i + 3, m - j + 3] * place.max()
            out[:, i, j] *= 2 * sigmoid(score)
    return out


@pytest.mark.parametrize("name", ["se", "cbam"])
def test_gates_equal_plain_loops(name):
    layer, maps = random_weights(ENHANCEMENTS[name](32)), random_maps()
    assert layer.gate.squeeze.weight.shape == (2, 32)
    expected = []
    for image in maps.detach().numpy():
        scores = np.array(gate_loop(layer.gate, [channel.mean() for channel in image]))
        if name == "cbam":
            scores += gate_loop(layer.gate, [channel.max() for channel in image])
        image = channel_loop(image, scores)
        if name == "cbam":
            image = place_loop(image, layer.places.weight.detach().numpy()[0])
        expected.append(image)
    np.testing.assert_allclose(layer(maps).detach().numpy(), expected, rtol=1e-9)
    assert torch.autograd.gradcheck(layer, (maps,), fast_mode=True)


def test_few_channels_have_one_hidden_unit():
    assert ENHANCEMENTS["se"](3).gate.squeeze.weight.shape == (1, 3)


@pytest.mark.parametrize("name", sorted(ENHANCEMENTS))
def test_enhancement_belongs_to_the_head(name):
    network = Network(build_backbone("small"), 8, enhance=name)
    head = {n: p for n, p in network.named_parameters() if not n.startswith("trunk.")}
    assert any(n.startswith("enhancement.") for n in head)
    network.trunk_is_frozen = True
    network.train()
    assert network.enhancement.training
    assert not network.trunk.training
    network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).sum().backward()
    assert all(p.grad is not None for p in head.values())
    assert all(p.grad is None for p in network.trunk.parameters())


@pytest.mark.parametrize("name", sorted(ENHANCEMENTS))
def test_enhancement_changes_nothing_before_training(name):
    torch.manual_seed(0)
    trunk = build_backbone("small")
    enhanced, plain = Network(trunk, 8, enhance=name), Network(trunk, 8)
    plain.neck = enhanced.neck
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(enhanced.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("name", sorted(ENHANCEMENTS))
def test_enhanced_hasher_survives_pickle_and_file(name, tmp_path):
    images, y = make_shapes(24, random_state=0)
    fitted = hasher(enhance=name, pooling="gem").fit(images, y)
    expected = fitted.project(images)
    assert np.abs(expected - hasher(pooling="gem").fit(images, y).project(images)).max() > 1e-6
    persistence.save(fitted, tmp_path / "hasher.cbir")
    for again in (pickle.loads(pickle.dumps(fitted)), persistence.load(tmp_path / "hasher.cbir")):
        assert again.enhance == name
        np.testing.assert_array_equal(again.project(images), expected)


def test_enhancement_of_a_torchvision_network_needs_its_map():
    images, y = make_shapes(8, n_classes=2, random_state=0)
    with pytest.raises(ValueError, match="enhance='se' needs a feature map, and backbone='resnet1"):
        hasher(backbone="resnet18", enhance="se").fit(images, y)
    fitted = hasher(backbone="resnet18", pooling="avg", enhance="se").fit(images, y)
    assert fitted._network.enhancement.gate.squeeze.weight.shape == (32, 512)


def test_rows_are_not_enhanced():
    X, y = make_blobs(40, 4, centers=3, random_state=0)
    plain = hasher().fit(X, y)
    np.testing.assert_array_equal(hasher(enhance="cbam").fit(X, y).project(X), plain.project(X))


@pytest.mark.parametrize("parameter", ["enhance", "hash_layer"])
def test_unknown_layers_raise(parameter):
    X, y = make_blobs(8, 4, centers=2, random_state=0)
    with pytest.raises(ValueError, match=f"{parameter}='own' is not known. Use one of"):
        hasher(**{parameter: "own"}).fit(X, y)


# Hash layers.


def test_block_diagonal_layer_has_51_parameters_a_bit():
    n_bits = 12
    layer = DividedLayer(256, n_bits)
    blocks = {name: p.numel() for name, p in layer.named_parameters() if "features" not in name}
    assert sum(blocks.values()) == 51 * n_bits
    assert layer.features.weight.shape == (SLICE * n_bits, 256)


def test_every_bit_sees_its_own_slice_only():
    layer = random_weights(DividedLayer(6, 4))
    features = torch.randn(3, 4 * SLICE, dtype=torch.float64, requires_grad=True)
    for bit in range(4):
        (slope,) = torch.autograd.grad(layer.encode(features)[:, bit].sum(), features)
        by_slice = slope.reshape(3, 4, SLICE)
        assert (by_slice[:, bit] != 0).all()
        assert (by_slice[:, [other for other in range(4) if other != bit]] == 0).all()


def test_divided_layer_equals_one_linear_layer_per_slice():
    layer, x = random_weights(DividedLayer(6, 4)), torch.randn(5, 6, dtype=torch.float64)
    features = torch.relu(layer.features(x))
    expected = torch.empty(5, 4, dtype=torch.float64)
    for bit in range(4):
        one = nn.Linear(SLICE, 1).double()
        one.weight.data, one.bias.data = layer.weight.data[[bit]], layer.bias.data[[bit]]
        expected[:, bit] = one(features[:, bit * SLICE : (bit + 1) * SLICE])[:, 0]
    torch.testing.assert_close(layer(x), expected)


def test_latent_layer_starts_with_biases_of_one_and_small_weights():
    torch.manual_seed(0)
    layer = HASH_LAYERS["latent"](256, 48)
    assert (layer.bias == 1).all()
    assert layer.weight.std().item() == pytest.approx(0.005, rel=0.05)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"loss": "dpsh"}, 0.01),
        ({"loss": "dpsh", "hash_std": None}, None),
        ({"loss": "dpsh", "hash_layer": "divided"}, None),
        ({"loss": "dsh"}, None),
        ({"loss": "dsh", "hash_std": 0.2}, 0.2),
    ],
    ids=str,
)
def test_hash_std_is_the_loss_s_unless_it_is_named(parameters, expected):
    estimator = DeepHasher(64, **parameters)
    loss = estimator._training_loss()
    ending = estimator._network_ending(loss, demands_of(loss))
    assert ending["hash_std"] == expected
    torch.manual_seed(0)
    trunk = build_backbone("small", input_shape=(32, 32))
    neck = Network(trunk, **ending).neck
    if expected is not None:
        assert neck.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert neck.weight.mean().item() == pytest.approx(0, abs=expected / 20)
        assert (neck.bias == 0).all()
    elif ending["hash_layer"] == "linear":
        limit = trunk.width**-0.5
        assert 0.95 * limit < neck.weight.abs().max() <= limit
        assert neck.bias.abs().max() > 0


def test_small_weights_keep_the_likelihood_of_long_features_low():
    torch.manual_seed(0)
    images, y = make_shapes(40, random_state=0)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    trunk = build_backbone("small", input_shape=(32, 32), pooling="max")
    costs = {
        std: DPSHLoss()(Network(trunk, 48, hash_std=std)(x), torch.from_numpy(y)).item()
        for std in (None, 0.01)
    }
    assert costs[0.01] < 1.5 < 3 < costs[None]


def test_rows_start_as_torch_starts_them():
    X, y = make_blobs(40, 4, centers=3, random_state=0)
    plain = hasher(loss="dpsh", hash_std=None).fit(X, y).project(X)
    np.testing.assert_array_equal(hasher(loss="dpsh").fit(X, y).project(X), plain)


@pytest.mark.parametrize("hash_std", ["small", -0.1, True, np.nan])
def test_a_bad_start_is_named(hash_std):
    X, y = make_blobs(8, 4, centers=2, random_state=0)
    with pytest.raises(ValueError, match="hash_std="):
        hasher(hash_std=hash_std).fit(X, y)


def test_a_start_of_another_version_goes_on(tmp_path):
    images, y = make_shapes(24, n_classes=3, random_state=0)
    first = hasher(loss="dpsh", hash_std=None, backbone="small").fit(images, y)
    first.set_params(hash_std="auto", warm_start=True).fit(images, y)
    assert first.n_iter_ == 2 * first.max_epochs


def test_the_loss_chooses_the_layer_unless_it_is_named():
    assert {n for n in LOSSES if hash_layer_of(LOSSES[n]()) != "linear"} == {"dnnh"}
    X, y = make_blobs(40, 4, centers=3, random_state=0)
    kinds = {
        (loss, layer): type(hasher(loss=loss, hash_layer=layer).fit(X, y)._network.neck)
        for loss in ("dnnh", "dfeh")
        for layer in ("auto", "linear", "divided")
    }
    assert kinds["dnnh", "auto"] is kinds["dfeh", "divided"] is DividedLayer
    assert kinds["dfeh", "auto"] is kinds["dnnh", "linear"] is nn.Linear


def test_a_loss_that_asks_for_an_unknown_layer_raises():
    loss = DNNHLoss()
    loss.hash_layer = "curved"
    with pytest.raises(ValueError, match="loss.hash_layer='curved' is not known"):
        hash_layer_of(loss)


def test_divided_hasher_survives_pickle_and_file(tmp_path):
    X, y = make_blobs(40, 4, centers=3, random_state=0)
    fitted = hasher(loss="dnnh").fit(X, y)
    persistence.save(fitted, tmp_path / "hasher.cbir")
    for again in (pickle.loads(pickle.dumps(fitted)), persistence.load(tmp_path / "hasher.cbir")):
        np.testing.assert_array_equal(again.project(X), fitted.project(X))
