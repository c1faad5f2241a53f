"""Estimators that are exported, each trained for a moment, and the images that they see."""

import warnings

from torchvision.models import VisionTransformer

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher
from sklearn_cbir.datasets import make_shapes

IMAGES, LABELS = make_shapes(24, n_classes=3, random_state=0)


def small_extractor(**parameters):
    """Return an extractor of a random net, for tests of files that ask for no more."""
    return fitted(CNNFeatureExtractor("small", weights=None, loss=None, **parameters))


def fitted(estimator, images=IMAGES):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so little training is worth warnings
        return estimator.fit(images, LABELS[: len(images)])


def _of(cls, backbone, **parameters):
    return cls(backbone=backbone, max_epochs=1, batch_size=12, random_state=0, **parameters)


def tiny_vit():
    """Return a vision transformer of torchvision with two layers, which gives its class token."""
    vit = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48
    )
    vit.heads = vit.heads.__class__()
    return vit


CASES = {
    "several scales": lambda: _of(
        CNNFeatureExtractor, "small", weights=None, pooling="max", scales=(1, 2**-0.5, 1.3)
    ),
    "resnet9, GeM, a layer more": lambda: _of(
        CNNFeatureExtractor,
        "resnet9",
        weights=None,
        pooling="gem",
        n_components=12,
        normalize=False,
    ),
    "divided layer, CBAM": lambda: _of(
        DeepHasher, "small", n_bits=12, hash_layer="divided", enhance="cbam"
    ),
    "latent layer, squeeze and excitation": lambda: _of(
        DeepHasher, "small", n_bits=70, hash_layer="latent", enhance="se"
    ),
    "residual convolutions": lambda: _of(DeepHasher, "small", n_bits=64, enhance="conv"),
    "embedder": lambda: _of(CPFEmbedder, "small", n_components=16),
    "vision transformer": lambda: _of(CNNFeatureExtractor, tiny_vit(), weights=None),
}
LARGE_CASES = {
    name: lambda name=name, size=size: CNNFeatureExtractor(
        name, weights=None, loss=None, image_size=size, random_state=0
    )
    for name, size in {
        "mobilenet_v2": 64,
        "resnet18": 32,
        "vit_b_16": 32,
        "timm/test_vit": 160,
        "timm/test_efficientnet": 64,
    }.items()
}
