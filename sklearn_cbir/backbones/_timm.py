"""Networks of timm without their classifiers: by name, from a description, or from the hub.

What builds a network is its *source*: plain JSON that names timm's function for the architecture
and holds the arguments of its constructor, and the configuration that its weights were trained
with. A name is made a source once; a network that comes out of a file is built of the source, and
neither hub nor tag are looked up again.
"""

import contextlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

from sklearn_cbir._typing import ResizeMode
from sklearn_cbir.backbones._probe import Net, Pooling
from sklearn_cbir.backbones._tokens import Maps
from sklearn_cbir.backbones._weights import (
    PUBLISHED,
    Weights,
    load_state,
    read_weights,
    without_prefix,
)

OLDEST = (1, 0, 31)  # version
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
    """Return the network of a name, without ``"timm/"``, or of a source that was made of one."""
    timm = _import_timm()
    if source is None:
        source = _source_of(timm, name)
    config = source["config"]
    trained_at = min(config["input_size"][1:])
    one_size = bool(config.get("fixed_input_size"))
    size = image_size or trained_at
    model = _construct(timm, source, size if one_size else None)
    if weights is not None:
        state = _download(timm, name) if weights in PUBLISHED else read_weights(weights)
        _load(timm, model, source, state)
    reading = timm.data.resolve_model_data_config(model)
    red, green, blue = (round(255 * value) for value in reading["mean"])  # what timm pads with
    return Net(
        _without_classifier(model, pooling),
        image_size=trained_at if weights is not None or one_size else None,
        mean=tuple(reading["mean"]),
        std=tuple(reading["std"]),
        one_size=one_size,
        source=source,
        resize_mode=RESIZE_MODES[reading["crop_mode"]],
        interpolation=reading["interpolation"],
        fill=(red, green, blue),
        source_resize=math.floor(size / reading["crop_pct"]),
    )


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"Backbones whose names begin with 'timm/' need timm ({error}). Install it with "
            "pip install 'sklearn-cbir[timm]'."
        ) from error
    version = tuple(int(part) for part in timm.__version__.split(".")[:3] if part.isdigit())
    if version < OLDEST:
        raise ImportError(
            f"Backbones whose names begin with 'timm/' need timm {'.'.join(map(str, OLDEST))} or "
            f"later, and this is {timm.__version__}. Install it with "
            "pip install --upgrade 'sklearn-cbir[timm]'."
        )
    return timm


def _source_of(timm: ModuleType, name: str) -> Source:
    """Describe a network, and the weights that are published for it, in plain JSON."""
    kind, place = timm.models.parse_model_name(name)
    arguments: Mapping[str, Any] = {}
    if kind is None:
        architecture, tag = timm.models.split_model_name_tag(place)
        if not timm.is_model(architecture):
            raise ValueError(f"backbone={'timm/' + name!r} is not known to timm.")
        found = timm.get_pretrained_cfg(place)
        config = {} if found is None else found.to_dict(remove_source=True)
    else:
        config, architecture, arguments = _read_config(timm, kind, place)
        tag = config.get("tag")
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
    """Network with new weights; `size` is that of networks which take one size only."""
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
            f"backbone={'timm/' + source['name']!r} does not take images of {size} x {size} pixels "
            f"({error}). Set image_size to what it takes."
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
    classifiers = source["config"].get("classifier") or ()
    if isinstance(classifiers, str):
        classifiers = (classifiers,)
    name = f"timm/{source['name']}"
    load_state(model, state, name, tuple(f"{classifier}." for classifier in classifiers))


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


def _without_classifier(model: nn.Module, pooling: Pooling) -> nn.Module:
    """All that comes before the classifier; before the network's own pooling if it is replaced."""
    if pooling == "auto":
        return model
    n_prefix = getattr(model, "num_prefix_tokens", 0)
    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    return Maps(model, _features, n_prefix, channels_last)


def _features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the last tokens or maps, before they are pooled."""
    return model.forward_features(pixels)


# Files of the hub, or of a folder ----------------------------------------------------------------


def _read_config(timm: ModuleType, kind: str, place: str) -> tuple[dict[str, Any], str, Source]:
    """Return configuration, architecture and arguments of a network on the hub or in a folder."""
    from_hub = timm.models.load_model_config_from_hf
    return (from_hub if kind == "hf-hub" else timm.models.load_model_config_from_path)(place)


def _download(timm: ModuleType, name: str) -> State:
    """Return the state dict that is published under a name."""
    kind, place = timm.models.parse_model_name(name)
    if kind == "local-dir":
        return timm.models.load_state_dict_from_path(place)
    return timm.models.load_state_dict_from_hf(place if kind else f"timm/{place}")
