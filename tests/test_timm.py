"""Networks of timm by name: what comes out, what is saved, and weights in their published forms."""

import json

import numpy as np
import pytest
import torch

from sklearn_cbir.backbones import build_backbone

timm = pytest.importorskip("timm")

VIT = "test_vit"  # 0.4 M weights, class token, one size of images


def images(n=2, size=160):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def vectors(trunk, x):
    with torch.no_grad():
        return trunk.eval()(x)


@pytest.mark.parametrize("pooling", ["auto", "gem"])
@pytest.mark.parametrize("name", [VIT, "test_resnet.r160_in1k"])
def test_spec_is_plain_json_that_builds_the_trunk_again_without_its_name(name, pooling):
    trunk = build_backbone(f"timm/{name}", pooling=pooling)
    spec = json.loads(json.dumps(trunk.spec))
    again = build_backbone(**spec | {"backbone": "timm/gone.from_the_registry"})
    again.load_state_dict(trunk.state_dict())
    x = images(2, trunk.image_size or 96)
    np.testing.assert_array_equal(vectors(again, x), vectors(trunk, x))


def test_source_says_what_it_is_and_whose():
    source = build_backbone("timm/test_vit.r160_in1k").spec["source"]
    assert (source["library"], source["version"]) == ("timm", timm.__version__)
    assert (source["architecture"], source["tag"]) == (VIT, "r160_in1k")
    assert source["licence"] == "apache-2.0"
