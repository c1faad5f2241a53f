"""Tokenizers of open_clip's models: text -> ids, built from plain JSON without the hub.

Most models split text by the byte pairs in open_clip's wheel; the others, such as SigLIP, by a
``tokenizer.json`` of Hugging Face, which the package tokenizers reads.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

CONTEXT_LENGTH = 77  # tokens, where a config does not say it
# What the tokens of each role are called, where the files of a tokenizer do not say it.
USUAL_TOKENS = {
    "bos": ("<s>", "<bos>", "<|startoftext|>"),
    "eos": ("</s>", "<eos>", "<|endoftext|>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>", "<|endoftext|>"),
}


class Tokenizer:
    """Ids of text, cleaned, cut and filled to one length.

    `spec` is plain JSON; the tokenizer is built for the first text.
    """

    options: ClassVar[dict[str, Any]]  # of open_clip's `tokenizer_kwargs`, with their defaults

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[dict[str, Any]]]:
        return type(self), (self.spec,)  # not what has been made of it

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, bool]:
        """Return ids (n, context_length), and whether a text was too long for them."""
        found = [self.split(text) for text in texts]
        ids = torch.tensor([ids for ids, _ in found], dtype=torch.long)
        is_cut = any(is_cut for _, is_cut in found)
        return ids.reshape(len(texts), self.spec["context_length"]), is_cut

    def split(self, text: str) -> tuple[list[int], bool]:
        """Return the ids of a text, and whether some had to be left out."""
        raise NotImplementedError


class BytePairs(Tokenizer):
    """OpenAI's byte pairs, whose vocabulary is part of open_clip."""

    options = {"clean": "lower", "additional_special_tokens": None}

    @cached_property
    def splitter(self) -> Any:
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(**{name: self.spec[name] for name in self.options})

    def split(self, text: str) -> tuple[list[int], bool]:
        room = self.spec["context_length"] - 2
        ids = self.splitter.encode(text)
        kept = [self.splitter.sot_token_id, *ids[:room], self.splitter.eot_token_id]
        return kept + [0] * (room + 2 - len(kept)), len(ids) > room


class HuggingFace(Tokenizer):
    """The tokenizer of a ``tokenizer.json``, as open_clip uses it through transformers."""

    options = {"clean": "whitespace", "strip_sep_token": False}

    @cached_property
    def clean(self) -> Callable[[str], str]:
        from open_clip.tokenizer import get_clean_fn

        return get_clean_fn(self.spec["clean"])

    @cached_property
    def splitter(self) -> Any:
        splitter = _import_tokenizers().Tokenizer.from_str(self.spec["json"])
        if self.spec["mode"] != "clips":
            length = self.spec["context_length"]
            splitter.enable_truncation(length, direction=self.spec["truncation_side"])
            splitter.enable_padding(
                length=length, direction=self.spec["padding_side"], pad_id=self.spec["pad"]
            )
        return splitter

    def split(self, text: str) -> tuple[list[int], bool]:
        # One at a time: several would start threads, and warn of later forks.
        text = self.clean(text)
        if self.spec["mode"] == "clips":
            return self._clips(self.splitter.encode(text, add_special_tokens=False).ids)
        found = self.splitter.encode(text)
        ids = [0 if number == self.spec["sep"] else number for number in found.ids]
        return ids, len(found.overflowing) > 0

    def _clips(self, ids: list[int]) -> tuple[list[int], bool]:
        """Put CLIPS's tokens first and last, and that of the class at the end of all."""
        room = self.spec["context_length"] - 3
        kept = [self.spec["bos"], *ids[:room], self.spec["eos"]]
        filled = kept + [self.spec["pad"]] * (room + 2 - len(kept))
        return [*filled, self.spec["cls"]], len(ids) > room


KINDS: dict[str, type[Tokenizer]] = {"byte pairs": BytePairs, "tokenizer.json": HuggingFace}


def tokenizer_of(spec: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer that a spec of `byte_pairs` or `hugging_face` describes."""
    return KINDS[spec["kind"]](spec)


# How it is described ----------------------------------------------------------------------------


def byte_pairs(text_config: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of the tokenizer of a model without one of Hugging Face.

    Raises
    ------
    ValueError
        For options that this package does not know.
    """
    return _common("byte pairs", text_config)


def hugging_face(text_config: dict[str, Any], find: Callable[[str], Path | None]) -> dict[str, Any]:
    """Return the spec of a tokenizer of Hugging Face.

    Parameters
    ----------
    text_config : dict
        open_clip's `text_cfg` of the model.

    find : callable
        Returns the path of a file of the tokenizer's repository, by its name, None if it has none.

    Raises
    ------
    ValueError
        For options that this package does not know, or files that lack what is needed.

    ImportError
        Without the package tokenizers.
    """
    spec = _common("tokenizer.json", text_config)
    name, mode = text_config["hf_tokenizer_name"], text_config.get("tokenizer_mode") or ""
    splitter = _read_tokenizer(find("tokenizer.json"), name)
    stated = _read_json(find("special_tokens_map.json")) | _read_json(find("tokenizer_config.json"))
    filling, cutting = splitter.padding or {}, splitter.truncation or {}
    strips = spec.pop("strip_sep_token")
    roles = ("pad", "bos", "eos", "cls") if mode == "clips" else ("pad", "sep")[: 1 + strips]
    ids = {role: _id_of(role, stated, filling, splitter, name) for role in roles}
    splitter.no_padding()
    splitter.no_truncation()
    is_gemma = str(stated.get("tokenizer_class")).startswith("Gemma")
    usual_side = "left" if is_gemma else "right"
    return spec | {
        "name": name,
        "mode": mode,
        "json": splitter.to_str(),
        "padding_side": stated.get("padding_side") or filling.get("direction") or usual_side,
        "truncation_side": stated.get("truncation_side") or cutting.get("direction") or "right",
        **dict.fromkeys(USUAL_TOKENS),
        **ids,
    }


def _common(kind: str, text_config: dict[str, Any]) -> dict[str, Any]:
    """Return what both kinds have: their length, and the options of `tokenizer_kwargs`."""
    given, known = text_config.get("tokenizer_kwargs") or {}, KINDS[kind].options
    if given.keys() - known.keys():
        raise ValueError(f"Its tokenizer has unknown options, {sorted(given.keys() - known)}.")
    length = text_config.get("context_length") or CONTEXT_LENGTH
    return {"kind": kind, "context_length": length, **known, **given}


def _id_of(
    role: str, stated: dict[str, Any], filling: dict[str, Any], splitter: Any, name: str
) -> int:
    """Return the id of the token of a role."""
    token = _token_of(role, stated, filling, splitter)
    number = None if token is None else splitter.token_to_id(token)
    if number is None:
        raise ValueError(f"The tokenizer {name!r} does not say which its {role} token is.")
    return number


def _token_of(
    role: str, stated: dict[str, Any], filling: dict[str, Any], splitter: Any
) -> str | None:
    """Return the token that a file states, else a usual one that is there."""
    key = f"{role}_token"
    if key in stated:
        token = stated[key]
        return token["content"] if isinstance(token, dict) else token
    if role == "pad" and filling:
        return filling["pad_token"]
    there = [t for t in USUAL_TOKENS[role] if splitter.token_to_id(t) is not None]
    return there[0] if there else None


def _read_tokenizer(path: Path | None, name: str) -> Any:
    if path is None:
        raise ValueError(
            f"The tokenizer {name!r} has no tokenizer.json, the only kind that can be read."
        )
    tokenizers = _import_tokenizers()
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(f"{path} is not a tokenizer.json ({error}).") from error


def _read_json(path: Path | None) -> dict[str, Any]:
    return {} if path is None else json.loads(path.read_text(encoding="utf-8"))


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            f"The words of this model need the package tokenizers ({error}). Install it with "
            "pip install 'sklearn-cbir[clip]'; searching with images works without it."
        ) from error
    return tokenizers
