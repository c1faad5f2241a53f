"""Trunks: what goes in and comes out, weights from files, rows of features, and pooling."""

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cbir.backbones import (
    BACKBONES,
    build_backbone,
    build_mlp,
    freeze_batch_norm,
    read_weights,
    row_statistics,
)
from sklearn_cbir.backbones._probe import IMAGENET_MEAN, IMAGENET_STD
from sklearn_cbir.backbones._weights import load_state
from sklearn_cbir.pooling import POOLINGS, GeMPooling

MAPS = torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]])
SMALL_NET = "squeezenet1_1"  # 5 MB, no classifier with a Linear layer
NET_WITH_LINEAR = "mobilenet_v3_small"


def images(n=2, size=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def vectors(trunk, *arguments):
    with torch.no_grad():
        return trunk.eval()(images(*arguments))


class Colors(nn.Module):
    """The mean color: what a trunk hands to its network."""

    def forward(self, x):
        return x.mean(dim=(2, 3))


# Pooling.


@pytest.mark.parametrize(("name", "value"), [("avg", 1.5), ("max", 3.0), ("gem", 2.08008382)])
def test_pooling_of_given_maps(name, value):
    assert POOLINGS[name]()(MAPS).item() == pytest.approx(value)


def test_gem_goes_from_the_mean_to_the_maximum():
    assert GeMPooling(p=1)(MAPS).item() == pytest.approx(1.5)
    assert GeMPooling(p=30)(MAPS).item() == pytest.approx(3, rel=0.05)


def test_exponent_of_gem_is_learned_and_zero_maps_are_safe():
    pool = GeMPooling()
    (pool(MAPS).sum() + pool(torch.zeros(1, 2, 3, 3)).sum()).backward()
    assert torch.isfinite(pool.p.grad)
    assert pool.p.grad > 0
    assert "p=3" in repr(pool)


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_pooling_gives_one_value_per_channel(name):
    assert POOLINGS[name]()(torch.rand(4, 5, 3, 7)).shape == (4, 5)


# Built-in nets.


@pytest.mark.parametrize("size", [1, 5, 28, 35, 64])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_built_in_net_takes_images_of_any_size(name, size):
    trunk = build_backbone(name)
    assert trunk.image_size is None
    assert trunk.resize_size is None
    got = vectors(trunk, 2, size)
    assert got.shape == (2, trunk.width)
    assert got.dtype == torch.float32


@pytest.mark.parametrize("pooling", [*sorted(POOLINGS), "auto", GeMPooling(p=4)], ids=str)
def test_pooling_is_a_name_or_a_module(pooling):
    trunk = build_backbone("small", pooling=pooling)
    assert vectors(trunk).shape == (2, trunk.width)
    assert trunk.pooling is not pooling


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_spec_and_state_build_the_same_trunk_again(name):
    trunk = build_backbone(
        name, pooling="gem", image_size=40, resize_size=44, mean=0.4, std=(0.1, 0.2, 0.3)
    )
    again = build_backbone(**trunk.spec)
    again.load_state_dict(trunk.state_dict())
    assert (again.image_size, again.resize_size, again.spec) == (40, 44, trunk.spec)
    torch.testing.assert_close(vectors(again), vectors(trunk), rtol=0, atol=0)


def test_new_weights_repeat_with_the_global_seed():
    trunks = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            trunks.append(build_backbone("small"))
    torch.testing.assert_close(vectors(trunks[0]), vectors(trunks[1]), rtol=0, atol=0)


def test_built_in_nets_learn_to_tell_noise_from_stripes():
    x = images(32, 12)
    x[16:, :, ::2] = 0
    y = torch.arange(32) // 16
    for name in BACKBONES:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            trunk = build_backbone(name)
            network = nn.Sequential(trunk, nn.Linear(trunk.width, 2))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        assert (network(x).argmax(dim=1) == y).all(), name


# Preprocessing and users' modules.


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "layout"),
    [
        (3, 1, 2, torch.contiguous_format),  # its gradient crashes under channels last
        (3, 1, 1, torch.channels_last),
        (3, 3, 2, torch.channels_last),
        (16, 1, 2, torch.channels_last),
    ],
)
def test_strided_convolutions_of_few_channels_are_not_channels_last(
    channels, kernel, stride, layout
):
    stem = nn.Conv2d(3, channels, 3)
    net = nn.Sequential(stem, nn.Conv2d(channels, 8, kernel, stride))
    assert build_backbone(net).memory_format == layout


def test_trunk_normalizes_colors_by_mean_and_std():
    trunk = build_backbone(Colors(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    x = images()
    expected = (x.double().mean(dim=(2, 3)) / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor(
        [0.5, 0.25, 0.2]
    )
    torch.testing.assert_close(trunk(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_module_is_copied_and_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[1].eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    trunk = build_backbone(net, weights="pretrained")
    trunk.train()(images()).sum().backward()
    trunk.features[0].weight.data.zero_()
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    assert net[0].weight.grad is None
    assert [layer.training for layer in net] == [True, False]


def test_probing_leaves_batch_statistics_and_modes_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[1].eval()
    trunk = build_backbone(net)
    assert trunk.features[1].num_batches_tracked == 0
    assert [layer.training for layer in trunk.features] == [True, False]


@pytest.mark.parametrize("pooling", ["auto", "max"])
def test_module_may_give_feature_maps(pooling):
    trunk = build_backbone(nn.Conv2d(3, 7, 3), pooling=pooling)
    assert trunk.width == 7
    assert vectors(trunk).shape == (2, 7)


def test_module_for_one_size_is_probed_at_that_size():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 150 * 150, 5))
    trunk = build_backbone(net, image_size=150)
    assert (trunk.width, trunk.image_size, trunk.resize_size) == (5, 150, 150)
    with pytest.raises(ValueError, match="Sequential does not take images of 96 x 96 pixels"):
        build_backbone(net)


@pytest.mark.parametrize(
    ("net", "given"),
    [
        (nn.Flatten(2), r"a tensor of shape \(1, 3, 9216\)"),
        (nn.Flatten(0), r"a tensor of shape \(27648,\)"),
        (nn.AdaptiveMaxPool2d(2, return_indices=True), "tuple"),
    ],
    ids=["3-D", "no rows", "tuple"],
)
def test_module_that_gives_no_vectors_raises(net, given):
    with pytest.raises(ValueError, match=f"into {given}. It must give a tensor of vectors"):
        build_backbone(net)


def test_pooling_of_vectors_or_into_maps_raises():
    with pytest.raises(ValueError, match="pooling='gem' needs a feature map, and backbone=Colors"):
        build_backbone(Colors(), pooling="gem")
    with pytest.raises(ValueError, match="It must give vectors"):
        build_backbone("small", pooling=nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match=r"pooling='cls' is not known. Use one of \['auto', 'avg'"):
        build_backbone("small", weights=None, pooling="cls")
    with pytest.raises(ValueError, match="pooling='gme' is not known. Did you mean 'gem'"):
        build_backbone("small", pooling="gme")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet81", "'resnet81' is not known. The nearest names are 'resnet"),
        ("zzzzzz", r"'zzzzzz' is not known.* Use one of \['resnet9', 'small'"),
        (nn.Flatten, "neither a name nor a network"),
        (18, "backbone=18 is neither a name nor a network"),
    ],
    ids=str,
)
def test_unknown_backbone_raises(backbone, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(backbone)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"image_size": 0}, "image_size=0 must be an integer of at least 1"),
        ({"image_size": 32.5}, "image_size=32.5 must be an integer"),
        ({"resize_size": -1}, "resize_size=-1 must be an integer"),
        ({"mean": (0.5, 0.5)}, "mean=.* must hold three finite numbers"),
        ({"mean": "blue"}, "mean='blue' must hold three finite numbers"),
        ({"std": 0.0}, "std=0.0 must hold three finite numbers"),
    ],
    ids=str,
)
def test_bad_preprocessing_raises(parameters, message):
    with pytest.raises(ValueError, match=message):
        build_backbone("small", **parameters)


# Batch normalization.


def test_frozen_batch_norm_stays_frozen_while_training():
    trunk = build_backbone("small")
    trunk.frozen_batch_norm = True
    before = [buffer.clone() for buffer in trunk.buffers()]
    trunk.train()
    trunk(images()).sum().backward()
    assert all(map(torch.equal, before, trunk.buffers()))
    assert trunk.training
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.weight.grad is not None for norm in norms)


def test_freezing_touches_batch_normalization_only():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.BatchNorm2d(2), nn.LayerNorm(2))
    freeze_batch_norm(network)
    assert [layer.training for layer in network] == [False, True, False, True]


# Torchvision's networks.

LIGHT = {
    "resnet18": 512,
    "mobilenet_v2": 1280,
    "squeezenet1_1": 512,
    "mobilenet_v3_small": 1024,
    "shufflenet_v2_x0_5": 1024,
    "inception_v3": 2048,
}
HEAVY = {
    "squeezenet1_0": 512,
    "alexnet": 4096,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "convnext_tiny": 768,
    "swin_t": 768,
    "vit_b_16": 768,
    "maxvit_t": 512,
    "googlenet": 1024,
    "mnasnet0_5": 1280,
    "regnet_y_400mf": 440,
}
ALL = [*LIGHT.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in HEAVY.items())]
WITHOUT_OWN_AVERAGE = ("alexnet", "convnext", "maxvit", "mobilenet_v3", "vgg", "vit")


@pytest.mark.parametrize(("name", "width"), [*ALL, ("vgg19", 4096)])
def test_torchvision_network_gives_what_enters_its_classifier(name, width):
    trunk = build_backbone(name)
    assert trunk.width == width
    assert vectors(trunk, 2, trunk.image_size or 96).shape == (2, width)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        *(case for case in ALL if "vit_b_16" not in getattr(case, "values", case)),
        pytest.param("vgg19", 4096, marks=pytest.mark.slow),
    ],
)
def test_pooling_replaces_the_networks_own(name, width):
    trunks = []
    for pooling in ("auto", "avg", "gem"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            trunks.append(build_backbone(name, pooling=pooling))
    own, average, gem = (vectors(trunk, 2, trunk.image_size or 96) for trunk in trunks)
    assert gem.shape == average.shape
    if name.startswith(WITHOUT_OWN_AVERAGE):
        assert average.shape[1] <= width
    else:
        torch.testing.assert_close(own, average, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_vit_takes_other_sizes_and_folds_its_patches_into_a_map(tmp_path):
    trunk = build_backbone("vit_b_32", image_size=64)
    assert vectors(trunk, 2, 64).shape == (2, 768)
    torch.save(trunk.features.state_dict(), tmp_path / "vit.pt")
    larger = build_backbone("vit_b_32", image_size=96, weights=tmp_path / "vit.pt")
    assert vectors(larger, 2, 96).shape == (2, 768)
    folded = build_backbone("vit_b_32", image_size=64, pooling="avg", weights=tmp_path / "vit.pt")
    with torch.no_grad():
        maps = folded.eval().unpooled(images(2, 64))
    assert maps.shape == (2, 768, 2, 2)
    assert folded.n_channels == 768
    with pytest.raises(ValueError, match="does not take images of 65 x 65 pixels"):
        build_backbone("vit_b_32", image_size=65)


def test_size_follows_the_weights(tmp_path):
    path = save(tmp_path, torchvision_state(SMALL_NET))
    sizes = []
    for parameters in ({}, {"weights": path}, {"weights": path, "image_size": 64}):
        trunk = build_backbone(SMALL_NET, **parameters)
        sizes.append((trunk.image_size, trunk.resize_size))
    assert sizes == [(None, None), (224, 224), (64, 64)]


def test_image_too_small_for_the_network_raises():
    with pytest.raises(ValueError, match="'squeezenet1_1' does not take images of 8 x 8 pixels"):
        build_backbone(SMALL_NET, image_size=8)


def test_broken_torchvision_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="pip install --upgrade torch torchvision"):
        build_backbone("resnet18")
    assert build_backbone("small").width == 256


def test_built_in_nets_do_not_import_libraries_of_networks():
    code = (
        "import sys; from sklearn_cbir.backbones import build_backbone; "
        "build_backbone('small'); "
        "assert not {'torchvision', 'timm', 'open_clip', 'huggingface_hub'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# Weights from files.


def torchvision_state(name):
    from torchvision.models import get_model

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return get_model(name).state_dict()


def save(folder, state, name="weights.pt"):
    torch.save(state, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def state():
    return torchvision_state(NET_WITH_LINEAR)


def assert_same_features(path, state):
    trunk = build_backbone(NET_WITH_LINEAR, weights=path, pooling="avg")
    expected = {f"0{key.removeprefix('features')}": value for key, value in state.items()}
    for key, value in trunk.features.state_dict().items():
        torch.testing.assert_close(value, expected[key].to(value.dtype), rtol=0, atol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        lambda state: {key: v.half() if v.is_floating_point() else v for key, v in state.items()},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {key: v for key, v in state.items() if not key.startswith("classifier.3")},
        lambda state: state | {"classifier.3.weight": torch.zeros(7, 1024)},
        lambda state: {key: v for key, v in state.items() if "num_batches_tracked" not in key},
    ],
    ids=[
        "as saved",
        "half precision",
        "parallel",
        "compiled",
        "checkpoint",
        "checkpoint of timm",
        "no classifier",
        "other classifier",
        "before torch 0.4.1",
    ],
)
def test_weights_load_from_whatever_training_saved(change, state, tmp_path):
    path = save(tmp_path, change(dict(state)))
    half = any(value.dtype == torch.float16 for value in read_weights(path).values())
    expected = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    assert_same_features(str(path), expected)


def test_inception_is_the_published_one_without_its_second_classifier(tmp_path):
    from torchvision.models import inception_v3

    # As published: a second classifier, and colors changed inside the network.
    model = inception_v3(init_weights=False, aux_logits=True, transform_input=True)
    path = save(tmp_path, model.state_dict())
    trunk = build_backbone("inception_v3", weights=path).eval()
    assert (trunk.image_size, trunk.resize_size, trunk.width) == (299, 299, 2048)
    assert not any("Aux" in name for name in trunk.state_dict())
    image = images(1, 299)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    model.fc = nn.Identity()
    with torch.no_grad():
        expected = model.eval()((image / 255 - mean) / std)
        torch.testing.assert_close(trunk(image), expected, rtol=1e-3, atol=1e-4)


def test_weights_load_into_built_in_nets_and_modules(tmp_path):
    net = build_backbone("small").features
    path = save(tmp_path, net.state_dict())
    for backbone in ("small", build_backbone("small").features):
        trunk = build_backbone(backbone, weights=path, mean=0.5, std=0.25)
        expected = build_backbone(net, mean=0.5, std=0.25)
        torch.testing.assert_close(vectors(trunk), vectors(expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if "features.0" not in k}, r"5 missing \(features"),
        (lambda s: s | {"neck.bias": torch.zeros(3)}, r"1 unexpected \(neck.bias\)"),
        (
            lambda s: s | {"features.0.0.weight": torch.zeros(16, 1, 3, 3)},
            r"1 of another shape \(features.0.0.weight \(16, 1, 3, 3\), not \(16, 3, 3, 3\)\)",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit_raise(change, message, state, tmp_path):
    path = save(tmp_path, change(dict(state)))
    with pytest.raises(ValueError, match=f"do not fit backbone='{NET_WITH_LINEAR}': .*{message}"):
        build_backbone(NET_WITH_LINEAR, weights=path)


class Exploit:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "does not hold a state dict"),
        ({}, "does not hold a state dict"),
        ({"epoch": 3}, "does not hold a state dict"),
        (Exploit(), "cannot be read as a state dict"),
    ],
    ids=["list", "empty", "numbers", "code"],
)
def test_file_without_a_state_dict_raises(content, message, tmp_path, capsys):
    with pytest.raises(ValueError, match=message):
        read_weights(save(tmp_path, content))
    assert capsys.readouterr().out == ""


def test_file_that_is_not_one_of_weights_raises(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"not weights" * 10)
    with pytest.raises(ValueError, match=r"weights\.pt' cannot be read as a state dict"):
        read_weights(tmp_path / "weights.pt")


def test_safetensors_are_read_by_their_own_package(tmp_path, monkeypatch):
    package, reader = ModuleType("safetensors"), ModuleType("safetensors.torch")
    package.SafetensorError = KeyError
    reader.load_file = lambda path: {"module.weight": torch.ones(len(path.read_bytes()))}
    monkeypatch.setitem(sys.modules, "safetensors", package)
    monkeypatch.setitem(sys.modules, "safetensors.torch", reader)
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"12")
    assert read_weights(path)["weight"].tolist() == [1, 1]
    reader.load_file = {}.pop  # raises a KeyError
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        read_weights(path)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pt' is not a file"):
        build_backbone("small", weights=tmp_path / "gone.pt")


@pytest.mark.parametrize("word", ["DEFAULT", "IMAGENET1K_V1", "IMAGENET1K_SWAG_E2E_V1"])
def test_torchvisions_words_for_weights_lead_to_ours(word):
    with pytest.raises(FileNotFoundError, match="torchvision's own are 'pretrained'"):
        build_backbone("resnet18", weights=word)


def test_missing_safetensors_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "net.safetensors").write_bytes(b"0")
    with pytest.raises(ImportError, match="pip install safetensors"):
        read_weights(tmp_path / "net.safetensors")


def test_old_names_of_densenet_are_understood():
    net = nn.ModuleDict({"denselayer1": nn.ModuleDict({"norm1": nn.BatchNorm2d(2)})})
    state = {key.replace("norm1", "norm.1"): v + 1 for key, v in net.state_dict().items()}
    load_state(net, state, "net")
    assert net["denselayer1"]["norm1"].weight.tolist() == [2, 2]


@pytest.mark.parametrize("word", ["pretrained", "imagenet"])
def test_pretrained_weights_of_a_built_in_net_raise(word):
    with pytest.raises(ValueError, match="no pretrained weights for backbone='small'"):
        build_backbone("small", weights=word)


def test_pretrained_weights_come_from_the_cache_by_both_words(tmp_path, monkeypatch, state):
    from torchvision.models import get_model_weights

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    file_name = get_model_weights(NET_WITH_LINEAR).DEFAULT.url.rpartition("/")[2]
    save(tmp_path / "checkpoints", state, file_name)
    for word in ("pretrained", "imagenet"):
        assert_same_features(word, state)


def test_failed_download_says_how_to_go_on(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr("sklearn_cbir.backbones._hub.urlopen", fail)
    with pytest.raises(ConnectionError, match="no route to host") as caught:
        build_backbone("resnet18", weights="pretrained")
    for advice in ("resnet18-", str(tmp_path / "checkpoints"), "weights=...", "weights=None"):
        assert advice in str(caught.value)


# Rows of features.


def test_row_statistics_are_those_of_numpy(rng):
    rows = rng.normal(size=(1000, 5)) * [1, 1e6, 1e-6, 3, 1] + [0, 1e6, 5, -1e4, 0]
    got = row_statistics(rows, chunk=64)
    np.testing.assert_allclose(got["mean"], rows.mean(axis=0))
    np.testing.assert_allclose(got["std"], rows.std(axis=0))


@pytest.mark.parametrize("value", [0, 0.1, -7e5, 1e300, 1e-300])
def test_constant_columns_have_unit_std(value):
    statistics = row_statistics(np.full((1001, 2), value), chunk=10)
    np.testing.assert_array_equal(statistics["std"], 1)
    np.testing.assert_allclose(statistics["mean"], value)


def test_row_statistics_of_huge_numbers_are_finite():
    statistics = row_statistics(np.array([[1e308], [-1e308]]))
    assert statistics == {"mean": [0], "std": [1e308]}


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e300])
def test_mlp_does_not_see_the_scale_of_its_rows(scale, rng):
    rows = rng.normal(size=(20, 6))
    outputs = []
    for X in (rows, rows * scale + scale):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            trunk = build_mlp(6, **row_statistics(X))
        outputs.append(trunk(torch.from_numpy(X)))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


def test_mlp_stays_finite_far_from_its_training_rows():
    trunk = build_mlp(3, **row_statistics(np.random.default_rng(0).normal(size=(9, 3))))
    rows = torch.tensor([[1e300, -1e300, 0], [1e308, 1e308, 1e308]], dtype=torch.float64)
    assert torch.isfinite(trunk(rows)).all()
    assert torch.isfinite(trunk(torch.full((1, 3), 3e38))).all()


@pytest.mark.parametrize("n_features", [1, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mlp_gives_float32_vectors_of_its_width(n_features, dtype):
    trunk = build_mlp(n_features)
    got = trunk(torch.ones(3, n_features, dtype=dtype))
    assert (got.shape, got.dtype) == ((3, trunk.width), torch.float32)
    assert trunk.image_size is None


def test_spec_and_state_build_the_same_mlp_again(rng):
    rows = rng.normal(size=(8, 4)) * 100
    trunk = build_mlp(4, **row_statistics(rows))
    again = build_backbone(**trunk.spec)
    again.load_state_dict(trunk.state_dict())
    rows = torch.from_numpy(rows)
    torch.testing.assert_close(again(rows), trunk(rows), rtol=0, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.0, -4.39])
def test_an_exponent_of_gem_below_the_bound_counts_as_the_bound(p):
    maps = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    powers = maps.double().clamp(min=1e-6).numpy() ** 0.1
    pooled = GeMPooling(p)(maps).detach()
    np.testing.assert_allclose(pooled, powers.mean(axis=(2, 3)) ** 10, rtol=1e-4)
    assert (pooled > maps.amin(dim=(2, 3))).all()
