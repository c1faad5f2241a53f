"""Networks of timm by name: what comes out, what is saved, and weights in their published forms."""

import json
import shutil
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, persistence
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.backbones._tokens import fold
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.pooling import AveragePooling

timm = pytest.importorskip("timm")

VIT = "timm/test_vit"  # 0.3 M weights, a class token, one size of images
RESNET = "timm/test_resnet"
# Larger networks are built with fewer and narrower layers, by the configuration of a folder.
SMALLER = {
    "dinov2": {
        "architecture": "vit_small_patch14_reg4_dinov2",
        "model_args": {"embed_dim": 48, "depth": 2, "num_heads": 2, "img_size": 56},
        "pretrained_cfg": {"input_size": [3, 56, 56], "fixed_input_size": True, "tag": "own"},
    },
    "swin": {
        "architecture": "swin_tiny_patch4_window7_224",
        "model_args": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 4], "img_size": 56},
        "pretrained_cfg": {"input_size": [3, 56, 56], "fixed_input_size": True},
    },
    "hiera": {
        "architecture": "hiera_tiny_224",
        "model_args": {"embed_dim": 24, "num_heads": 1, "stages": [1, 1, 1, 1], "img_size": 64},
        "pretrained_cfg": {"input_size": [3, 64, 64], "fixed_input_size": True},
    },
}
N_PREFIX = 5  # the class token and four registers of "dinov2"
FAMILIES = {
    "vit": {"backbone": VIT, "image_size": 64},
    "resnet": {"backbone": RESNET, "image_size": 64},
    "efficientnet": {"backbone": "timm/test_efficientnet", "image_size": 64},
    "dinov2": {},
    "convnext": {"backbone": "timm/test_convnext2", "image_size": 64},
    "mambaout": {"backbone": "timm/test_mambaout", "image_size": 64},
    "nfnet": {"backbone": "timm/test_nfnet", "image_size": 64},
    "maxvit": {"backbone": "timm/test_maxvit"},
    "coatnet": {"backbone": "timm/test_coatnet", "image_size": 64},
    "byobnet": {"backbone": "timm/test_byobnet", "image_size": 64},
    "vit_relpos": {"backbone": "timm/test_vit_relpos", "image_size": 64},
    "mobilenetv3": {"backbone": "timm/mobilenetv3_small_050", "image_size": 64},
    "swin": {},
    "hiera": {},
}
CORE = ("vit", "resnet", "efficientnet", "dinov2")
ELSEWHERE = """
import sys
from pathlib import Path
import joblib
import numpy as np
from sklearn_cbir import persistence

folder = Path(sys.argv[1])
X = np.load(folder / "images.npy")
for file in sorted(folder.glob("*.joblib")):
    for end, load in ((".joblib", joblib.load), (".cbir", persistence.load)):
        np.save(file.with_suffix(end + ".npy"), load(file.with_suffix(end)).transform(X))
"""


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(12, n_classes=3, random_state=0)


@pytest.fixture
def folder(tmp_path):
    """Write the configuration of a smaller network, and return the backbone that is built of it."""

    def write(name):
        place = tmp_path / f"{name}_source"
        place.mkdir()
        (place / "config.json").write_text(json.dumps(SMALLER[name]), encoding="utf-8")
        return f"timm/local-dir:{place}"

    return write


def images(n=2, size=160):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def vectors(trunk, x):
    with torch.no_grad():
        return trunk.eval()(x)


def normalized(trunk, x):
    return (x - trunk.mean) / trunk.std


def fitted(shapes, cls=CNNFeatureExtractor, **parameters):
    defaults = {"weights": None, "max_epochs": 1, "batch_size": 12, "random_state": 0}
    return cls(**defaults | parameters).fit(*shapes)


def saved_weights(path, network=None):
    """Write the weights of timm's own network, and return it with the path."""
    network = timm.create_model("test_vit", num_classes=7) if network is None else network
    torch.save(network.state_dict(), path)
    return network.eval()


# What comes out.


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_mambaout"])
def test_vector_is_what_the_network_itself_hands_to_its_classifier(name, tmp_path):
    own = saved_weights(tmp_path / "net.pt", timm.create_model(name))
    own.reset_classifier(0)
    trunk = build_backbone(f"timm/{name}", weights=tmp_path / "net.pt")
    x = images(2, trunk.image_size)
    with torch.no_grad():
        expected = own(normalized(trunk, x))
    torch.testing.assert_close(vectors(trunk, x), expected, rtol=1e-4, atol=1e-5)


def test_pooling_sees_patch_tokens_without_class_token_and_registers(folder):
    trunk = build_backbone(folder("dinov2"), pooling="avg")
    x = images(2, 56)
    own = trunk.features.network.eval()
    with torch.no_grad():
        tokens = own.forward_features(normalized(trunk, x))
        expected = own.forward_intermediates(
            normalized(trunk, x), indices=1, norm=True, intermediates_only=True
        )[-1]
        maps = trunk.eval().unpooled(x)
    assert tokens.shape == (2, N_PREFIX + 16, 48)
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(vectors(trunk, x), tokens[:, N_PREFIX:].mean(dim=1))


@pytest.mark.parametrize("name", ["test_convnext2", "test_mambaout", "test_maxvit"])
def test_maps_of_any_layout_have_their_channels_second(name):
    trunk = build_backbone(f"timm/{name}", pooling="gem")
    with torch.no_grad():
        maps = trunk.eval().unpooled(images(2, trunk.image_size or 96))
    assert maps.shape[:2] == (2, trunk.n_channels)
    assert maps.shape[2] == maps.shape[3] > 1
    assert trunk.n_channels == trunk.features.network.num_features


def test_pooling_may_be_a_module(folder):
    trunk = build_backbone(folder("swin"), pooling=AveragePooling())
    assert vectors(trunk, images(2, 56)).shape == (2, trunk.width)


def test_a_network_without_one_grid_of_tokens_says_so():
    with pytest.raises(
        ValueError, match=r"'timm/coat_lite_tiny' has no feature map to pool: its 5"
    ):
        build_backbone("timm/coat_lite_tiny", pooling="gem", image_size=224)


@pytest.mark.parametrize(("n_tokens", "ratio"), [(2, 1), (50, 1), (16, 2), (15, 1)])
def test_tokens_that_fill_no_grid_of_the_shape_of_the_image_are_refused(n_tokens, ratio):
    with pytest.raises(ValueError, match=f"its {n_tokens} patch tokens do not fill a grid"):
        fold(torch.zeros(1, n_tokens, 3), ratio)


def test_tokens_are_folded_row_by_row():
    tokens = torch.arange(6.0).reshape(1, 6, 1)
    assert fold(tokens, ratio=2 / 3).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]
    assert fold(tokens, ratio=3 / 2).tolist() == [[[[0, 1], [2, 3], [4, 5]]]]


def test_a_network_with_a_least_size_is_tried_at_its_own():
    trunk = build_backbone("timm/bat_resnext26ts", image_size=256)
    assert trunk.width == 2048


def test_size_follows_the_weights_unless_the_network_has_one(tmp_path):
    saved_weights(tmp_path / "net.pt", timm.create_model("test_resnet"))
    assert build_backbone(RESNET).image_size is None
    assert build_backbone(RESNET, weights=tmp_path / "net.pt").image_size == 160
    assert build_backbone(VIT).image_size == 160
    with pytest.raises(ValueError, match=f"'{VIT}' does not take images of 15 x 15 pixels"):
        build_backbone(VIT, image_size=15)


def test_position_embeddings_are_interpolated_as_timm_does(tmp_path):
    path = tmp_path / "net.pt"
    saved_weights(path)
    trunk = build_backbone(VIT, weights=path, image_size=96)
    own = timm.create_model(
        "test_vit",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 7},
        num_classes=0,
        img_size=96,
    ).eval()
    x = images(2, 96)
    with torch.no_grad():
        expected = own(normalized(trunk, x))
    torch.testing.assert_close(vectors(trunk, x), expected, rtol=1e-4, atol=1e-5)


# What is saved.


@pytest.mark.parametrize("pooling", ["auto", "gem"])
@pytest.mark.parametrize("name", [VIT, "timm/test_resnet.r160_in1k"])
def test_spec_is_plain_json_that_builds_the_trunk_again_without_its_name(name, pooling):
    trunk = build_backbone(name, pooling=pooling)
    spec = json.loads(json.dumps(trunk.spec))
    again = build_backbone(**spec | {"backbone": "timm/gone.from_the_registry"})
    again.load_state_dict(trunk.state_dict())
    x = images(2, trunk.image_size or 96)
    np.testing.assert_array_equal(vectors(again, x), vectors(trunk, x))
    assert again.spec["source"] == trunk.spec["source"]


def test_source_says_what_it_is_and_whose():
    source = build_backbone("timm/test_vit.r160_in1k").spec["source"]
    assert (source["library"], source["version"]) == ("timm", timm.__version__)
    assert (source["architecture"], source["tag"]) == ("test_vit", "r160_in1k")
    assert source["licence"] == "apache-2.0"


def test_a_network_that_this_timm_lacks_names_the_version_that_has_it():
    spec = build_backbone(RESNET).spec
    source = spec["source"] | {"architecture": "test_resnet_of_tomorrow", "version": "9.0"}
    with pytest.raises(ValueError, match=rf"made by timm 9.0, and this is {timm.__version__}, wh"):
        build_backbone(**spec | {"source": source})


@pytest.mark.parametrize(
    "names",
    [CORE, pytest.param(tuple(FAMILIES.keys() - set(CORE)), marks=pytest.mark.slow)],
    ids=["core", "rest"],
)
def test_families_train_and_come_out_of_files_in_another_process(names, shapes, folder, tmp_path):
    x = shapes[0]
    np.save(tmp_path / "images.npy", x)
    answers = {}
    for name in names:
        options = FAMILIES[name] or {"backbone": folder(name)}
        extractor = fitted(shapes, **options)
        answers[name] = extractor.transform(x)
        assert np.isfinite(answers[name]).all()
        joblib.dump(extractor, tmp_path / f"{name}.joblib")
        persistence.save(extractor, tmp_path / f"{name}.cbir")
        shutil.rmtree(options["backbone"].partition("local-dir:")[2], ignore_errors=True)
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in names:
        for end in (".joblib", ".cbir"):
            np.testing.assert_array_equal(np.load(tmp_path / f"{name}{end}.npy"), answers[name])


# Weights in published forms.


@pytest.mark.parametrize(
    "form",
    [
        lambda state: state,
        lambda state: {f"timm_model.{k}": v for k, v in state.items()},  # of Hugging Face
        lambda state: {f"visual.trunk.{k}": v for k, v in state.items()} | {"logit_scale": ONE},
        lambda state: {"state_dict": {k: v + 1 for k, v in state.items()}, "state_dict_ema": state},
        lambda state: {f"module._orig_mod.{k}": v.half() for k, v in state.items()},
    ],
    ids=["timm", "hugging_face", "open_clip", "training", "parallel_half"],
)
@pytest.mark.parametrize("end", [".pt", ".safetensors"])
def test_published_forms_of_weights_are_one_network(form, end, tmp_path):
    state = {
        k: v.half().float() for k, v in saved_weights(tmp_path / "net.pt").state_dict().items()
    }
    torch.save(state, tmp_path / "net.pt")
    published, path = form(state), tmp_path / f"published{end}"
    if end == ".pt":
        torch.save(published, path)
    elif "state_dict" in published:
        pytest.skip("safetensors hold tensors alone")
    else:
        pytest.importorskip("safetensors.torch").save_file(published, path)
    x = images()
    expected = vectors(build_backbone(VIT, weights=tmp_path / "net.pt"), x)
    np.testing.assert_array_equal(vectors(build_backbone(VIT, weights=path), x), expected)


ONE = torch.ones(())


def test_weights_as_the_authors_of_dinov2_name_them(folder, tmp_path):
    backbone = folder("dinov2")
    trunk = build_backbone(backbone)
    state = trunk.features.state_dict()
    own = {k.replace("reg_token", "register_tokens"): v for k, v in state.items()}
    # Theirs adds an embedding to the class token as well, timm has added it already.
    own["pos_embed"] = torch.cat([torch.zeros(1, 1, 48), state["pos_embed"]], dim=1)
    torch.save(own | {"mask_token": torch.zeros(1, 48)}, tmp_path / "dinov2.pth")
    again = build_backbone(backbone, weights=tmp_path / "dinov2.pth")
    x = images(2, 56)
    torch.testing.assert_close(vectors(again, x), vectors(trunk, x))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext2", "efficientvit_m0"])
def test_files_may_hold_a_classifier_or_not(name, tmp_path):
    state = timm.create_model(name).state_dict()
    torch.save(state, tmp_path / "with.pt")
    without = timm.create_model(name, num_classes=0).state_dict().keys()
    torch.save({key: state[key] for key in without}, tmp_path / "without.pt")
    found = []
    for file in ("with.pt", "without.pt"):
        trunk = build_backbone(f"timm/{name}", weights=tmp_path / file)
        found.append(dict(trunk.features.state_dict()))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_weights_of_another_network_count_what_is_missing(tmp_path):
    saved_weights(tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"do not fit backbone='timm/test_resnet': of its \d+ ten"):
        build_backbone(RESNET, weights=tmp_path / "net.pt")


# What the package does to networks.


@pytest.mark.parametrize("word", ["pretrained", "imagenet"])
def test_both_words_ask_for_the_published_weights(word, folder, tmp_path):
    backbone = folder("dinov2")
    weights = build_backbone(backbone).features.state_dict()
    torch.save(weights, tmp_path / "dinov2_source" / "pytorch_model.bin")
    trunk = build_backbone(backbone, weights=word)
    torch.testing.assert_close(dict(trunk.features.state_dict()), dict(weights), rtol=0, atol=0)


def test_batch_norms_of_pretrained_weights_keep_their_statistics(shapes, tmp_path):
    net = timm.create_model("test_resnet")
    with torch.no_grad():
        net(images(8, 64) / 64 - 2)  # gives batch norms statistics
    saved_weights(tmp_path / "net.pt", net)
    options = {"backbone": RESNET, "weights": tmp_path / "net.pt", "image_size": 64}
    extractor = fitted(shapes, **options)
    assert [epoch["phase"] for epoch in extractor.history_] == ["head"] * 5 + ["all"]
    kept = extractor._network_state["weights"]["trunk.features.bn1.running_mean"]
    np.testing.assert_array_equal(kept, net.bn1.running_mean)


@pytest.mark.parametrize("backbone", [VIT, RESNET])
def test_maps_are_enhanced_and_hashed(backbone, shapes):
    options = {"pooling": "gem", "enhance": "se", "image_size": 64, "n_bits": 8}
    codes = fitted(shapes, DeepHasher, backbone=backbone, **options).transform(shapes[0])
    assert codes.shape == (12, 8)
    with pytest.raises(ValueError, match=r"enhance='se' needs a feature map"):
        fitted(shapes, DeepHasher, backbone=backbone, **options | {"pooling": "auto"})


def test_embedder_goes_on_from_its_network_without_the_folder_it_came_from(shapes, folder):
    backbone = folder("dinov2")
    options = {"backbone": backbone, "warm_start": True, "pooling": "avg"}
    options["threshold_fraction"] = 0
    embedder = fitted(shapes, CPFEmbedder, **options)
    shutil.rmtree(backbone.partition("local-dir:")[2])
    assert embedder.fit(*shapes).n_iter_ == 2


def test_finished_training_is_not_repeated(shapes, tmp_path):
    options = {"backbone": VIT, "image_size": 32, "checkpoint_dir": tmp_path}
    first = fitted(shapes, **options)
    again = fitted(shapes, **options)
    assert again.history_ == first.history_  # its seconds too
    np.testing.assert_array_equal(again.transform(shapes[0]), first.transform(shapes[0]))


def test_training_is_repeated_for_another_network_in_the_same_folder(shapes, folder, tmp_path):
    backbone = folder("dinov2")
    options = {"backbone": backbone, "checkpoint_dir": tmp_path / "checkpoints"}
    first = fitted(shapes, **options)
    other = SMALLER["dinov2"]["model_args"] | {"depth": 1}
    config = json.dumps(SMALLER["dinov2"] | {"model_args": other})
    (tmp_path / "dinov2_source" / "config.json").write_text(config, encoding="utf-8")
    again = fitted(shapes, **options)
    assert len(again._network_state["weights"]) < len(first._network_state["weights"])


def test_networks_of_any_size_are_seen_at_several_scales(shapes):
    extractor = fitted(shapes, backbone=RESNET, image_size=64, scales=(1.0, 0.5))
    one = extractor.transform(shapes[0])
    assert np.abs(extractor.set_params(scales=(1.0,)).transform(shapes[0]) - one).max() > 1e-4
    with pytest.raises(ValueError, match="scales"):
        fitted(shapes, backbone="timm/test_vit_relpos", image_size=64, scales=(1.0, 0.5))


def test_without_timm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-cbir\[timm\]'"):
        build_backbone(VIT)


def test_a_timm_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(timm, "__version__", "1.0.9")
    with pytest.raises(ImportError, match=r"1\.0\.31 or later, and this is 1\.0\.9"):
        build_backbone(VIT)
