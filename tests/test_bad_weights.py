"""What named networks are given that they cannot use: files, folders, configurations, sources."""

import json

import pytest
import torch
from torch import nn

from sklearn_cbir.backbones import build_backbone, read_weights

timm = pytest.importorskip("timm")
pytest.importorskip("open_clip")
safetensors = pytest.importorskip("safetensors.torch")

CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 9, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def whole():
    """A file of weights for "timm/test_vit"."""
    torch.manual_seed(0)
    return safetensors.save(timm.create_model("test_vit", num_classes=0).state_dict())


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("scripted") / "net.pt"
    # Of a kind that depends on the version of torch.
    with pytest.warns((FutureWarning, DeprecationWarning), match="deprecated"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    return path


# Files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:4],
        lambda content: content + b"more",
        lambda content: (2**60).to_bytes(8, "little") + content[8:],
        lambda content: bytes(len(content)),
        lambda content: b"",
    ],
    ids=["half", "a byte less", "four bytes", "more", "length", "zeros", "nothing"],
)
def test_damaged_safetensors_are_one_error_that_names_the_file(damage, whole, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(whole))
    with pytest.raises(
        ValueError, match=r"model\.safetensors' cannot be read .* delete it and download"
    ):
        build_backbone("timm/test_vit", weights=path)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net.bin", "net.onnx"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "it is the pointer to a large file in Git: git lfs pull",
        ),
        (b"<!DOCTYPE html><html>no such file</html>", "it is a web page"),
        (b"\x08\x07\x12\x05torch", None),
        (bytes(range(256)) * 4, None),
    ],
    ids=["empty", "pointer", "page", "onnx", "noise"],
)
def test_files_that_are_no_weights_say_what_they_are(name, content, fault, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' cannot be read as a state dict \(") as caught:
        read_weights(tmp_path / name)
    assert fault is None or f"({fault}" in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch advises to run what is in it


def test_torchscript_archives_are_refused(scripted, tmp_path):
    with pytest.raises(ValueError, match=r"TorchScript archive, which is code; .*torch\.jit\.load"):
        build_backbone("timm/test_vit", weights=scripted)


def test_whole_modules_are_refused(tmp_path):
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"it holds torch\.nn\.modules\.container\.Sequential, wh"):
        read_weights(tmp_path / "net.pt")


@pytest.mark.parametrize("backbone", ["timm/test_resnet", "resnet18", "small"])
def test_weights_of_another_network_are_counted(backbone, whole, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=rf"backbone='{backbone}': of its \d+ tensors \d+ missing"):
        build_backbone(backbone, weights=path)


# The cache --------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Where the cache of the hub has the weights of "timm/test_vit", and nothing else is asked."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--timm--test_vit.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return folder / "snapshots" / ("0" * 40) / "model.safetensors"


def test_weights_in_the_cache_need_no_network(cached, whole):
    cached.write_bytes(whole)
    assert build_backbone("timm/test_vit", weights="pretrained").width == 64


def test_half_a_file_in_the_cache_is_named_to_be_deleted(cached, whole):
    cached.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"/model\.safetensors' cannot be read .* delete it and download"
    ):
        build_backbone("timm/test_vit", weights="pretrained")


@pytest.mark.parametrize(
    ("backbone", "repository"),
    [("timm/test_vit", "timm/test_vit.r160_in1k"), ("open_clip/ViT-B-32", "laion/CLIP-ViT-B-32")],
)
def test_without_a_network_both_libraries_raise_the_same_error(backbone, repository, cached):
    with pytest.raises(
        ConnectionError, match=f"{cached.parents[3]}, and .*{repository}.* weights="
    ):
        build_backbone(backbone, weights="pretrained")


def test_a_tag_of_timm_belongs_into_the_name():
    with pytest.raises(
        ValueError, match=r"part of the name: backbone='timm/resnet18\.a1_in1k', wei"
    ):
        build_backbone("timm/resnet18", weights="a1_in1k")


# Folders ----------------------------------------------------------------------------------------


def folder_of(tmp_path, name, content):
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return f"local-dir:{tmp_path}"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"architectures": ["ViTModel"], "model_type": "vit"},
        {"architecture": 7},
        {"architecture": "test_vit", "model_args": {"unknown": 1}},
        {"architecture": "test_vit", "pretrained_cfg": None},
        {"architecture": "test_vit", "pretrained_cfg": {"input_size": 3}},
        {"architecture": "test_vit", "pretrained_cfg": {"mean": "gray"}},
        {"architecture": "test_vit", "pretrained_cfg": {"interpolation": "magic"}},
        {"architecture": "of a later timm"},
    ],
    ids=lambda config: str(config)[:60],
)
def test_a_configuration_that_timm_does_not_read_is_one_error(config, tmp_path):
    place = folder_of(tmp_path, "config.json", config)
    with pytest.raises(ValueError, match="backbone='timm/local-dir:|mean='gray'|='magic'"):
        build_backbone(f"timm/{place}")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_cfg": {"vision_cfg": {}}},
        {"model_cfg": {key: value for key, value in CLIP.items() if key != "text_cfg"}},
        {"model_cfg": CLIP | {"vision_cfg": {"unknown": 1}}},
        {"model_cfg": CLIP | {"vision_cfg": None}},
        {"model_cfg": CLIP, "preprocess_cfg": {"resize_mode": "magic"}},
        {"model_cfg": CLIP, "preprocess_cfg": {"mean": 0.5}},
    ],
    ids=lambda config: str(config)[:60],
)
def test_a_configuration_that_open_clip_does_not_read_is_one_error(config, tmp_path):
    place = folder_of(tmp_path, "open_clip_config.json", config)
    with pytest.raises(
        ValueError, match="backbone='open_clip/local-dir:|resize_mode='magic'|mean="
    ):
        build_backbone(f"open_clip/{place}")


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_a_folder_without_a_name_is_none(library):
    with pytest.raises(FileNotFoundError, match="names a folder that does not exist: ''"):
        build_backbone(f"{library}/local-dir:")


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    place = folder_of(tmp_path, "config.json", {"architecture": "test_vit"})
    assert build_backbone(f"timm/{place}").width == 64
    with pytest.raises(ValueError, match=r"does not hold any of model\.safetensors, pytorch_model"):
        build_backbone(f"timm/{place}", weights="pretrained")


# What files describe ----------------------------------------------------------------------------


def test_a_source_of_another_version_is_one_error():
    spec = build_backbone("timm/test_vit").spec
    source = {key: value for key, value in spec["source"].items() if key != "config"}
    with pytest.raises(ValueError, match="not one that this version of timm reads .KeyError"):
        build_backbone(**spec | {"source": source})
    source = spec["source"] | {"architecture": "of_later", "version": "9.0"}
    with pytest.raises(ValueError, match=r"made by timm 9\.0, and this is .* has no 'of_later'"):
        build_backbone(**spec | {"source": source})
