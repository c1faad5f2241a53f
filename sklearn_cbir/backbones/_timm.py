"""Networks of timm without their classifiers: by name, from a description, or from the hub.

A network is built from its *source*: plain JSON with the name of timm's function for the
architecture, the arguments of its constructor, and the configuration of its weights. A name becomes
a source once; a network from a file is built from the source, without looking up hub or tag again.
"""

import contextlib
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

from sklearn_cbir._typing import ResizeMode
from sklearn_cbir.backbones._colors import colors
from sklearn_cbir.backbones._hub import HUB, config_of, file_at, file_of, is_place, weights_of
from sklearn_cbir.backbones._names import import_library, unknown_backbone, unknown_tag
from sklearn_cbir.backbones._packaged import PACKAGED, packaged_weights
from sklearn_cbir.backbones._probe import Net, Pooling
from sklearn_cbir.backbones._tokens import Maps
from sklearn_cbir.backbones._weights import (
    PUBLISHED,
    Weights,
    load_state,
    read_weights,
    without_prefix,
)

CONFIG = "config.json"
STRIDE = 32  # px, of networks that take what other networks take
# How modules of timm call what renames the tensors of a published file and fits them to a size.
CONVERSIONS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
LABELS = ("label_names", "label_descriptions", "description", "notes")  # of no use here, and long
# timm's crop_mode -> Resizing's resize_mode, where `crop_pct` is not applied
RESIZE_MODES: dict[str, ResizeMode] = {
    "center": "shortest",
    "squash": "squash",
    "border": "longest",
}

Source: TypeAlias = Mapping[str, Any]
State: TypeAlias = dict[str, torch.Tensor]


def from_timm(
    name: str,
    weights: Weights,
    pooling: Pooling,
    image_size: int | None,
    source: Source | None = None,
) -> Net:
    """Return the network of a name, without ``"timm/"``, or of a source made from a name."""
    timm = import_library("timm")
    if source is None:
        source = _source_of(timm, name)
    config = source["config"]
    trained_at = min(config["input_size"][1:])
    one_size = bool(config.get("fixed_input_size"))
    # Some take any size above their smallest, or multiples of their patches.
    any_size = not (one_size or config.get("min_input_size") or trained_at % STRIDE)
    size = image_size or trained_at
    model = _construct(timm, source, size if one_size else None)
    if weights is not None:
        _load(timm, model, source, _state_of(timm, name, source, weights, model))
    reading = timm.data.resolve_model_data_config(model)
    mean = colors(reading["mean"], "mean")
    red, green, blue = (round(255 * value) for value in mean)  # what timm pads with
    return Net(
        without_classifier(model, pooling),
        image_size=trained_at if weights is not None or one_size else None,
        mean=mean,
        std=colors(reading["std"], "std"),
        one_size=not any_size,
        source=source,
        resize_mode=RESIZE_MODES.get(reading["crop_mode"], "shortest"),
        interpolation=reading["interpolation"],
        fill=(red, green, blue),
        source_resize=math.floor(size / reading["crop_pct"]),
    )


def _state_of(
    timm: ModuleType,
    name: str,
    source: Source,
    weights: str | os.PathLike[str],
    model: nn.Module,
) -> State:
    """Read the weights of a network: packaged, published, or the user's own."""
    if weights == PACKAGED:
        return packaged_weights(f"timm/{name}", model.state_dict())
    return read_weights(_file_of(timm, name, source["architecture"], weights))


def _source_of(timm: ModuleType, name: str) -> Source:
    """Describe a network, and the weights that are published for it, in plain JSON."""
    arguments: Mapping[str, Any] = {}
    if is_place(name):
        config, architecture, arguments = _read_config(timm, name)
        tag = config.get("tag")
    else:
        architecture, tag = timm.models.split_model_name_tag(name)
        config = _registered(timm, name, architecture, tag).to_dict()
    config = timm.models.filter_pretrained_cfg(config, remove_source=True)
    config = {"input_size": (3, 224, 224)} | config
    source = {
        "library": "timm",
        "version": timm.__version__,
        "name": name,
        "architecture": config.get("architecture") or architecture,
        "tag": tag or config.get("tag"),
        "licence": config.get("license"),
        "arguments": dict(arguments) | {"num_classes": 0},
        "config": {key: value for key, value in config.items() if key not in LABELS},
    }
    return json.loads(json.dumps(source))


def _construct(timm: ModuleType, source: Source, size: int | None) -> nn.Module:
    """Network with new weights; `size` is for networks that take only one size."""
    if not timm.is_model(source["architecture"]):
        raise ValueError(
            f"backbone={'timm/' + source['name']!r} was made by timm {source['version']}, and "
            f"this is {timm.__version__}, which has no {source['architecture']!r}. Install that "
            "version."
        )
    arguments = dict(source["arguments"])
    if size is not None:
        arguments["img_size"] = (size, size)
    try:
        return timm.create_model(
            source["architecture"], pretrained_cfg=_with_tuples(source["config"]), **arguments
        )
    except (AssertionError, ValueError) as error:
        if size is None:
            raise
        raise ValueError(
            f"backbone={'timm/' + source['name']!r} does not take images of {size} x {size} "
            f"pixels ({error}). Set image_size to a size that it takes."
        ) from error


def _with_tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}


def _load(timm: ModuleType, model: nn.Module, source: Source, state: State) -> None:
    """Load a state dict in any form that timm reads, at the size of the network."""
    state = without_prefix(state, model.state_dict().keys())
    convert = _conversion(timm, source["architecture"])
    if convert is not None:
        # What it cannot convert is of another network, and what that lacks is counted below.
        with contextlib.suppress(KeyError, IndexError, AttributeError, RuntimeError, ValueError):
            state = convert(state, model)
    load_state(model, state, f"timm/{source['name']}", _prefixes_of_classifiers(model, source))


def _prefixes_of_classifiers(model: nn.Module, source: Source) -> tuple[str, ...]:
    """Return how names of tensors begin that the network without its classifiers lacks."""
    named = source["config"].get("classifier") or ()
    prefixes = []
    for name in (named,) if isinstance(named, str) else named:
        parent = name.rpartition(".")[0]  # which may hold a norm too, and is gone as a whole
        if parent and not any(key.startswith(f"{parent}.") for key in model.state_dict()):
            prefixes.append(f"{parent}.")
        prefixes.append(f"{name}.")
    return tuple(prefixes)


def _conversion(timm: ModuleType, architecture: str) -> Callable[[State, nn.Module], State] | None:
    """Return timm's function that fits a published state dict to a network, None if it has none."""
    module = sys.modules[timm.models.model_entrypoint(architecture).__module__]
    convert = next((getattr(module, name) for name in CONVERSIONS if hasattr(module, name)), None)
    if convert is None:
        return None
    parameters = inspect.signature(convert).parameters
    if "model" not in parameters:
        return lambda state, model: convert(state)
    options: dict[str, Any] = {}  # what timm itself gives to it
    if "adapt_layer_scale" in parameters:
        options["adapt_layer_scale"] = architecture.startswith("deit3")
    if "interpolation" in parameters and ("radio" in architecture or "flexi" in architecture):
        options |= {"interpolation": "bilinear", "antialias": False}
    return partial(convert, **options)


def without_classifier(model: nn.Module, pooling: Pooling) -> nn.Module:
    """All that comes before the classifier; before the network's own pooling if it is replaced."""
    if pooling == "auto":
        return model
    n_prefix = getattr(model, "num_prefix_tokens", 0)
    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    return Maps(model, _features, n_prefix, channels_last)


def _features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the last tokens or maps, before they are pooled."""
    return model.forward_features(pixels)


# Names and their files ---------------------------------------------------------------------------


def _registered(timm: ModuleType, name: str, architecture: str, tag: str) -> Any:
    """Return timm's description of the weights that are published under a name."""
    backbone = f"timm/{name}"
    if not timm.is_model(architecture):
        raise unknown_backbone(backbone)
    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = _tags_of(timm, architecture)
        raise unknown_tag(f"timm/{architecture}", tag, tags) from None
    return found or timm.models.PretrainedCfg()


def _tags_of(timm: ModuleType, architecture: str) -> list[str]:
    """Return the tags of the weights that are published for an architecture."""
    names = timm.list_models(f"{architecture}.*", pretrained=True)
    return [name.partition(".")[2] for name in names]


def _read_config(timm: ModuleType, place: str) -> tuple[dict[str, Any], str, Source]:
    """Return configuration, architecture and arguments of a network on the hub or in a folder."""
    backbone = f"timm/{place}"
    config_of(place, CONFIG, backbone)  # which tells what is wrong with it
    folder = file_of(place, CONFIG, backbone=backbone).parent
    try:
        return timm.models._hub.load_model_config_from_path(folder)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"backbone={backbone!r} cannot be built: its {CONFIG} is not a configuration of "
            f"timm ({type(error).__name__}: {error})."
        ) from error


def _file_of(
    timm: ModuleType, name: str, architecture: str, weights: str | os.PathLike[str]
) -> str | os.PathLike[str]:
    """Return the file of weights, which is published under the name or the user's own."""
    if weights in PUBLISHED:
        return _published_weights(timm, name)
    if isinstance(weights, str) and weights in _tags_of(timm, architecture):
        raise ValueError(
            f"weights={weights!r} is a tag, which for timm is part of the name: backbone="
            f"{f'timm/{architecture}.{weights}'!r}, weights='pretrained'."
        )
    return weights


def _published_weights(timm: ModuleType, name: str) -> Path:
    """Return the file of the weights that are published under a name."""
    backbone = f"timm/{name}"
    if is_place(name):
        return weights_of(name, backbone)
    found = timm.get_pretrained_cfg(name)
    if found is not None and found.hf_hub_id:
        return weights_of(HUB + found.hf_hub_id, backbone)
    if found is not None and found.url:
        return file_at(found.url, backbone)
    raise ValueError(
        f"No weights are published for backbone={backbone!r}. Use weights=None, or the path of a "
        "file."
    )
