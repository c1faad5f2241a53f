"""Models of two layers in the manner of open_clip: configs, tokenizers, files."""

import json

TEXTS = ["a red circle", "A  photo of a dress &amp; a shoe!", "don't", "x" * 40, "b " * 40]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
CLIP = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
CUSTOM = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
CONFIGS = {
    "tiny-vit": CLIP,
    "tiny-quickgelu": CLIP | {"quick_gelu": True},
    "tiny-pooled": CLIP
    | {"vision_cfg": VISION | {"pool_type": "avg", "no_ln_pre": True, "final_ln_after_pool": True}},
    "tiny-custom": CLIP | {"custom_text": True, "init_logit_bias": -10, "text_cfg": TEXT | CUSTOM},
    "tiny-resnet": CLIP
    | {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}},
    "tiny-timm": CLIP
    | {
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160},
    },
    "tiny-convnext": CLIP
    | {"vision_cfg": {"timm_model_name": "test_convnext", "image_size": 160, "timm_pool": "avg"}},
    "tiny-coca": CLIP
    | {
        "custom_text": True,
        "vision_cfg": VISION
        | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
    },
}


def write_config(folder, name, config):
    """Write a config as open_clip registers it."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    return path


def tokenizer_of_words(*, pad="<pad>", end="</s>", more=()):
    """Return a tokenizer of the package tokenizers that knows some words, and ends every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [pad, end, "<unk>", *more, "a", "red", "blue", "circle", "square", "dress"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([pad, end, "<unk>", *more])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, 1)]
    )
    return tokenizer


def write_tokenizer(folder, tokenizer=None, **stated):
    """Write the files of a tokenizer of Hugging Face; `stated` is in its tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    (tokenizer or tokenizer_of_words()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return folder


def write_model(folder, config, state=None, **preprocessing):
    """Write the files of a model as a repository of the hub holds them."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    described = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    if state is not None:
        state = {name: value.contiguous() for name, value in state.items()}
        save_file(state, folder / "open_clip_model.safetensors")
    return folder
