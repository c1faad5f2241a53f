"""Models of images and text by open_clip: by name, from a description, or from the hub.

The *source* of such a network is plain JSON with the whole configuration of open_clip, and the
tokenizer if it keeps words. A name becomes a source once; a network from a file is built from the
source, without looking up registry, hub or tag again.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from sklearn_cbir.backbones._hub import (
    FOLDER,
    HUB,
    config_of,
    file_at,
    file_of,
    is_place,
    look_for,
    weights_of,
)
from sklearn_cbir.backbones._names import import_library, unknown_backbone, unknown_tag
from sklearn_cbir.backbones._probe import Net, Pooling
from sklearn_cbir.backbones._timm import without_classifier
from sklearn_cbir.backbones._tokenizer import byte_pairs, hugging_face
from sklearn_cbir.backbones._tokens import Maps
from sklearn_cbir.backbones._weights import PUBLISHED, Weights, load_state, read_weights
from sklearn_cbir.backbones._words import Words

CONFIG = "open_clip_config.json"
# "pretrained" is a tag of the first of these families that a model has: open data without limits
# on use, the larger the better. Of several, or where there is none of them, the last one listed.
PREFERRED = ("datacomp_xl", "datacomp1b", "laion2b", "openai")
# How a model without a module for its text tower calls the parts of it.
BARE_TEXT = re.compile("text_projection|positional_embedding|token_embedding|transformer|ln_final")
# Neither tower has these: what makes scores of distances, a decoder of captions, and sizes.
NOT_READ = ("logit_", "text_decoder.", "input_resolution", "context_length", "vocab_size")

Source: TypeAlias = Mapping[str, Any]


@dataclass
class Model:
    """A model as the registry of open_clip, the hub or a folder describes it, and its weights."""

    config: dict[str, Any]
    preprocessing: dict[str, Any]
    weights: Path | None
    tag: str | None = None


def from_open_clip(
    name: str,
    weights: Weights,
    pooling: Pooling,
    image_size: int | None,
    source: Source | None = None,
    words: bool = False,
) -> Net:
    """Return the network of a name, without ``"open_clip/"``, or of a source made from a name.

    The vectors are the projected ones, which match those of text, unless another pooling is
    requested; only with them the network can keep words.
    """
    open_clip = import_library("open_clip")
    words = words and pooling == "auto"
    file = None if weights is None else Path(weights)
    if source is None:
        in_place = is_place(name)
        model = _in_place(name, weights) if in_place else _registered(open_clip, name, weights)
        source, file = _source_of(open_clip, name, model, words), model.weights
    config, reading = source["config"], source["preprocessing"]
    size = image_size or _side(config["vision_cfg"].get("image_size", 224), name)
    tokenizer = source["tokenizer"] if words else None
    towers = _towers(config, size, tokenizer is not None, name)
    if file is not None:
        _load(towers, read_weights(file), name)
    _resize(towers["visual"], size, name)
    return Net(
        _with_pooling(towers["visual"], pooling),
        image_size=size,
        mean=tuple(reading["mean"]),
        std=tuple(reading["std"]),
        one_size=True,
        resize_mode=reading["resize_mode"],
        interpolation="bilinear" if reading["interpolation"] == "bilinear" else "bicubic",
        fill=(reading["fill_color"],) * 3,
        source_resize=size,
        source=source,
        words=None if tokenizer is None else Words(towers["text"], tokenizer),
    )


# What a name stands for --------------------------------------------------------------------------


def _registered(open_clip: ModuleType, name: str, weights: Weights) -> Model:
    """Return the model of a name in open_clip's registry."""
    key, backbone = name.replace("/", "-"), f"open_clip/{name}"
    config = open_clip.get_model_config(key)
    if config is None:
        raise unknown_backbone(backbone)
    tags = open_clip.list_pretrained_tags_by_model(key)
    tag = _tag_of(weights, tags, backbone)
    # Without a tag it is still likely that images are wanted as the published weights want them.
    described = open_clip.get_pretrained_cfg(key, tag or _default_tag(tags) or "")
    if tag is None:
        file = None if weights is None else Path(weights)
    else:
        file = _file_of_tag(described, backbone)
        # Where model and tag disagree, open_clip warns, and takes the model's; the weights of the
        # tag were trained with what either of them says.
        config["quick_gelu"] = bool(config.get("quick_gelu") or described.get("quick_gelu"))
    return Model(config, described, file, tag)


def _tag_of(weights: Weights, tags: list[str], backbone: str) -> str | None:
    """Return the tag that `weights` names, None if that is a file, or nothing."""
    if not isinstance(weights, str):
        return None
    if weights in PUBLISHED:
        tag = _default_tag(tags)
        if tag is None:
            raise unknown_tag(backbone, weights, tags)
        return tag
    tag = weights.lower().replace("-", "_")  # as open_clip does
    if tag in tags:
        return tag
    if Path(weights).is_file() or Path(weights).suffix or len(Path(weights).parts) > 1:
        return None
    raise unknown_tag(backbone, weights, tags)


def _default_tag(tags: list[str]) -> str | None:
    """Return the tag that "pretrained" means, None if there is none."""
    for family in PREFERRED:
        members = [tag for tag in tags if tag.startswith(family)]
        if members:
            return members[-1]
    return tags[-1] if tags else None


def _file_of_tag(described: dict[str, Any], backbone: str) -> Path:
    """Return the file of weights at the place that open_clip names."""
    place, _, file = described["hf_hub"].rpartition("/")
    if not place:
        return file_at(described["url"], backbone)
    if not file:
        return weights_of(HUB + place, backbone)
    return file_of(HUB + place, f"{Path(file).stem}.safetensors", file, backbone=backbone)


def _in_place(name: str, weights: Weights) -> Model:
    """Return the model in a repository of the hub, or in a folder."""
    backbone = f"open_clip/{name}"
    found = config_of(name, CONFIG, backbone)
    file = weights_of(name, backbone) if weights in PUBLISHED else weights
    return Model(
        config=found.get("model_cfg", found),
        preprocessing=found.get("preprocess_cfg", {}),
        weights=None if file is None else Path(file),
    )


def _source_of(open_clip: ModuleType, name: str, model: Model, words: bool) -> Source:
    """Describe a model, and its weights, in plain JSON; `wordless` says why it has no words."""
    config = dict(model.config)
    config["vision_cfg"] = config["vision_cfg"] | {"timm_model_pretrained": False}
    config["text_cfg"] = config["text_cfg"] | {"hf_model_pretrained": False}
    usual = asdict(open_clip.transform.PreprocessCfg())
    reading = open_clip.transform.merge_preprocess_dict(usual, model.preprocessing)
    source = {
        "library": "open_clip",
        "version": open_clip.__version__,
        "name": name,
        "tag": model.tag,
        "licence": None,
        "config": config,
        "preprocessing": reading,
        "tokenizer": None,
        "wordless": None,
    }
    if words:
        try:
            source["tokenizer"] = _tokenizer_of(name, config["text_cfg"])
        except (ImportError, OSError, ValueError) as error:  # its images work without
            source["wordless"] = str(error)
    return json.loads(json.dumps(source))


def _tokenizer_of(name: str, text_config: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer of a model, as plain JSON."""
    backbone, tokenizer = f"open_clip/{name}", text_config.get("hf_tokenizer_name")
    if text_config.get("hf_model_name"):
        raise ValueError(
            f"The text tower of backbone={backbone!r} is {text_config['hf_model_name']!r} of "
            "the package transformers, which this package does not use."
        )
    if tokenizer:
        place = name if name.startswith(FOLDER) else HUB + tokenizer
        return hugging_face(text_config, lambda file: look_for(place, file, backbone=backbone))
    if "siglip" in name.lower() and not is_place(name):
        raise ValueError(
            f"The configuration of backbone={backbone!r} names no tokenizer. Set hf_tokenizer_name "
            "in its text_cfg."
        )
    return byte_pairs(text_config)


# The network -------------------------------------------------------------------------------------


def _side(size: int | list[int], name: str) -> int:
    """Return the side of the square images that a model was made for."""
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ValueError(
            f"backbone={'open_clip/' + name!r} takes images of {height} x {width} pixels, but "
            "only square images are possible."
        )
    return height


def _towers(config: dict[str, Any], size: int, with_text: bool, name: str) -> nn.ModuleDict:
    """Return the image tower and the text tower, with new weights."""
    # Public are only whole models, with a text tower which may be several times as large.
    from open_clip.model import _build_text_tower, _build_vision_tower

    width, quick_gelu = config["embed_dim"], config.get("quick_gelu", False)
    vision = dict(config["vision_cfg"])
    if not vision.get("timm_model_name"):  # else it is resized when it has its weights
        vision["image_size"] = size
    try:
        towers = {"visual": _build_vision_tower(width, vision, quick_gelu)}
        if with_text:
            towers["text"] = _build_text_tower(width, config["text_cfg"], quick_gelu)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"backbone={'open_clip/' + name!r} cannot be built for images of {size} x {size} "
            f"pixels ({error})."
        ) from error
    for tower in towers.values():
        if hasattr(tower, "output_tokens"):
            tower.output_tokens = False  # vectors alone
    return nn.ModuleDict(towers)


def _load(towers: nn.ModuleDict, state: dict[str, torch.Tensor], name: str) -> None:
    """Load a state dict in any form that open_clip reads, at the size of the network."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import resize_pos_embed

    model = cast(Any, SimpleNamespace(visual=towers["visual"]))
    try:
        state = convert_state_dict(model, dict(state))
        resize_pos_embed(state, model)
    except (KeyError, AttributeError, RuntimeError, ValueError):
        pass  # of another network: what is missing is counted below
    skipped = NOT_READ if "text" in towers else (*NOT_READ, "text.")
    state = {f"text.{k}" if BARE_TEXT.match(k) else k: value for k, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(skipped)}
    load_state(towers, state, f"open_clip/{name}")


def _resize(visual: nn.Module, size: int, name: str) -> None:
    """Fit a tower that is a network of timm, and its position embeddings, to a size of images."""
    if not hasattr(visual, "trunk") or visual.image_size == (size, size):
        return
    try:
        cast(Any, visual).set_input_size(size)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"backbone={'open_clip/' + name!r} does not take images of {size} x {size} pixels "
            f"({error}). Set image_size to a size that it takes."
        ) from error


def _with_pooling(visual: Any, pooling: Pooling) -> nn.Module:
    """Return the image tower, or its part before its own pooling and projection."""
    if pooling == "auto":
        return visual
    if hasattr(visual, "trunk"):
        visual.trunk.reset_classifier(0, "")
        return without_classifier(visual.trunk, pooling)
    if hasattr(visual, "attnpool"):
        visual.attnpool = nn.Identity()
        return visual
    visual.proj = visual.attn_pool = None
    return Maps(visual, _patches)


def _patches(visual: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the patch tokens of the last layer as maps (n, channels, height, width)."""
    width = visual.transformer.width
    is_normed = visual.ln_post.normalized_shape == (width,)  # else it is of what was pooled
    found = visual.forward_intermediates(
        pixels, indices=1, normalize_intermediates=is_normed, intermediates_only=True
    )
    return found["image_intermediates"][-1]
