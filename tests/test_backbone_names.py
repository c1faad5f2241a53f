"""Names of backbones that no library knows: what may have been meant, and what is not installed."""

import os
import sys

import pytest

from sklearn_cbir.backbones import _names, build_backbone

timm = pytest.importorskip("timm")
open_clip = pytest.importorskip("open_clip")


def message_of(backbone, **options):
    with pytest.raises(ValueError, match="backbone=") as caught:
        build_backbone(backbone, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("vit_small_patch14_dinov2", "'timm/vit_small_patch14_dinov2'"),
        ("vit_small_patch14_dinov2.lvd142m", "'timm/vit_small_patch14_dinov2.lvd142m'"),
        ("ViT-B-16-SigLIP2", "'open_clip/ViT-B-16-SigLIP2'"),
        ("ViT-B/32", "'vit_b_32' or 'open_clip/ViT-B-32'"),
        ("ResNet18", "'resnet18' or 'timm/resnet18'"),
        ("tim/test_vit", "'timm/test_vit'"),
        ("timm/ViT-B-16-SigLIP2", "'open_clip/ViT-B-16-SigLIP2'"),
        ("timm/small", "'small'"),
        ("clip", "'open_clip/ViT-B-32'"),
        ("openai/clip-vit-base-patch32", "'open_clip/ViT-B-32'"),
        ("google/siglip2-base-patch16-224", "'open_clip/ViT-B-16-SigLIP2'"),
        ("facebook/dinov2-small", "'timm/vit_small_patch14_dinov2'"),
        ("dinov2_vitb14_reg", "'timm/vit_base_patch14_reg4_dinov2'"),
        ("facebook/dinov3-vits16-pretrain-lvd1689m", "'timm/vit_small_patch16_dinov3'"),
    ],
)
def test_a_network_of_another_library_is_named_as_that_library_does(name, meant):
    assert f"backbone={name!r} is not known. Did you mean {meant}? Use one of" in message_of(name)


def test_what_others_call_a_network_leads_to_one_that_is_there():
    known, missing = _names._known_names()
    assert not missing
    assert set(_names.ELSEWHERE.values()) <= set(known)
    assert not set(_names.ELSEWHERE) & set(map(_names._plain, known))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet19", "'resnet9', 'resnet18' or 'timm/resnet18'"),
        ("siglip2", "'open_clip/ViT-B-16-SigLIP2', '"),
        ("dinov2", "'timm/vit_base_patch14_dinov2', 'timm/vit_giant_patch14_dinov2' or 'timm/"),
        ("timm/test_vitt", "'timm/test_vit', 'timm/test_vit2' or 'timm/test_vit3'"),
    ],
)
def test_other_names_are_told_the_three_nearest(name, nearest):
    assert f"The nearest names are {nearest}" in message_of(name)


@pytest.mark.parametrize("name", ["", "timm/", "a\nb", "x" * 10_000])
def test_names_that_are_like_none_are_an_error_too(name):
    message = message_of(name)
    assert "Use one of ['resnet9', 'small']" in message
    assert len(message) < 600


def test_a_place_without_a_library_is_told_how_to_name_one():
    message = message_of("hf-hub:timm/resnet18.a1_in1k")
    assert "Use 'timm/hf-hub:timm/resnet18.a1_in1k' or 'open_clip/hf-hub:" in message


def test_a_tag_that_a_network_lacks_lists_those_it_has():
    message = message_of("timm/vit_small_patch14_dinov2.lvd142n", weights="pretrained")
    assert "'lvd142n' is not a tag of the weights of backbone='timm/vit_small_patch14_d" in message
    assert "Use one of ['lvd142m']" in message


@pytest.mark.parametrize(("package", "extra"), [("timm", "timm"), ("open_clip", "clip")])
def test_a_library_that_is_missing_says_what_to_install(package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"need {package} .*'sklearn-cbir\[{extra}\]'"):
        _names.import_library(package)
    assert f"Names of '{package}' were not looked up: not installed." in message_of("resnet19")


def test_a_library_that_is_too_old_says_what_to_install(monkeypatch):
    monkeypatch.setattr(timm, "__version__", "1.0.9.dev0")
    with pytest.raises(
        ImportError, match=r"need timm 1\.0\.31 or later, and this is 1\.0\.9\.dev0"
    ):
        build_backbone("timm/test_vit")


@pytest.mark.parametrize("own", [{}, {"TOKENIZERS_PARALLELISM": "true"}])
def test_no_variable_of_the_environment_is_set(own, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    for variable in own.items():
        monkeypatch.setenv(*variable)
    monkeypatch.delitem(sys.modules, "open_clip.tokenizer")
    monkeypatch.delitem(sys.modules, "open_clip")
    before = dict(os.environ)
    _names.import_library("open_clip")
    assert dict(os.environ) == before
