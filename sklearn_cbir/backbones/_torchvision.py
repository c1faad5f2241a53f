"""Torchvision's classification networks: everything before the classifier, found by name."""

from types import ModuleType
from typing import Any

import torch
from torch import nn

from sklearn_cbir.backbones._hub import file_at
from sklearn_cbir.backbones._names import import_torchvision, unknown_backbone
from sklearn_cbir.backbones._probe import Net, Pooling
from sklearn_cbir.backbones._tokens import Maps
from sklearn_cbir.backbones._weights import PUBLISHED, Weights, load_state, read_weights
from sklearn_cbir.images import Resizing

CLASSIFIERS = ("classifier", "fc", "heads", "head")
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


def from_torchvision(name: str, weights: Weights, pooling: Pooling, image_size: int | None) -> Net:
    models = import_torchvision().models
    names = models.list_models(module=models)
    if name not in names:
        raise unknown_backbone(name)
    published = models.get_model_weights(name).DEFAULT
    recipe = published.transforms()
    trained_at = recipe.crop_size[0]
    one_size = name.startswith(("vit_", "maxvit_"))
    size = image_size or trained_at
    model = _construct(models, name, size if one_size else None)
    if weights is not None:
        state = read_weights(file_at(published.url, name) if weights in PUBLISHED else weights)
        if "encoder.pos_embedding" in state:
            state = models.vision_transformer.interpolate_embeddings(size, model.patch_size, state)
        load_state(model, state, name, (f"{_last_layer(model)}.", *AUXILIARY))
    # Inception was trained on colors from -1 to 1, which torchvision hides inside the network.
    centered = name in ("inception_v3", "googlenet")
    return Net(
        _without_classifier(model, name, pooling),
        image_size=trained_at if weights is not None or one_size else None,
        mean=(0.5,) * 3 if centered else tuple(recipe.mean),
        std=(0.5,) * 3 if centered else tuple(recipe.std),
        one_size=one_size,
        source_resize=recipe.resize_size[0] * size // trained_at,
        source_resizing=Resizing("shortest", recipe.interpolation.value),
    )


def _construct(models: ModuleType, name: str, size: int | None) -> nn.Module:
    """Network with new weights; `size` is for networks that take only one size."""
    options: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        # Their own initialization takes seconds, and batch normalization makes up for it.
        options = {"aux_logits": False, "init_weights": False, "transform_input": False}
    elif size is not None:
        options = {"input_size": (size, size)} if name == "maxvit_t" else {"image_size": size}
    try:
        return models.get_model(name, weights=None, **options)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"backbone={name!r} does not take images of {size} x {size} pixels ({error}). Set "
            "image_size to a size that it takes."
        ) from error


def _last_layer(model: nn.Module) -> str:
    """Name of the layer that gives one score per class."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    # SqueezeNet has none: it scores by a convolution.
    return linear[-1] if linear else "classifier"


def _without_classifier(model: nn.Module, name: str, pooling: Pooling) -> nn.Module:
    """All that comes before the last layer; before the network's own pooling if it is replaced."""
    if pooling == "auto":
        last = _last_layer(model)
        pool = nn.AdaptiveAvgPool2d(1) if name.startswith("squeezenet") else nn.Identity()
        model.set_submodule(last, pool)
        return model
    if name.startswith("vit_"):
        return Maps(model, _tokens, n_prefix=1)
    layers = []
    for child_name, child in model.named_children():
        if child_name in ("avgpool", *CLASSIFIERS):
            break
        layers.extend(child if isinstance(child, nn.ModuleList) else [child])
    # DenseNet applies its last ReLU outside its layers.
    return nn.Sequential(*layers, *[nn.ReLU()] * name.startswith("densenet"))


def _tokens(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the last tokens of a ViT, (n, 1 + patches, width), the class token first."""
    patches = model._process_input(pixels)
    return model.encoder(torch.cat([model.class_token.expand(len(pixels), -1, -1), patches], dim=1))
