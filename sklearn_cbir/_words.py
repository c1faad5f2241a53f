"""Words together with images: rows of texts by the text tower, and sums of rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from sklearn_cbir._network import Network
from sklearn_cbir._validation import shortened
from sklearn_cbir.images import ImageReadError, Images, Text, check_images
from sklearn_cbir.images._faults import moved, noted, row_of, with_others
from sklearn_cbir.images._sources import kind_of_item
from sklearn_cbir.images._text import checked_words

Features: TypeAlias = NDArray[np.float32]  # (n, width)
ROUNDING = 8 * float(np.finfo(np.float32).eps)  # of unit rows that cancel out, per term
KNOWING = "CNNFeatureExtractor('open_clip/ViT-B-32', loss=None)"


class TextEncoder(nn.Module):
    """A network that takes texts, by their numbers, instead of images."""

    def __init__(self, network: Network, texts: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.placement = network.placement
        self.memory_format = network.memory_format
        self.texts = texts

    def embed(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the unit rows of some texts, (n, width)."""
        texts = [self.texts[number] for number in numbers.tolist()]
        return functional.normalize(self.network.trunk.words.encode(texts))


def checked_texts(texts: Any) -> list[str]:
    """Return a sequence of texts as a list, or raise."""
    if isinstance(texts, (str, Text)):
        raise ValueError(f"texts is {shortened(texts)}, one text: wrap it in a list, [texts].")
    try:
        found = list(texts)
    except TypeError as error:
        raise ValueError(
            f"texts is {shortened(texts)} of type {type(texts).__name__}. Pass a list of str."
        ) from error
    if not found:
        raise ValueError("texts is empty. Pass at least one text.")
    return [checked_words(text, f"texts[{row}]") for row, text in enumerate(found)]


def embed_mixed(
    elements: list[Any],
    encode: Callable[[list[str]], Features],
    embed: Callable[[Images], Features],
) -> Features:
    """Return one row per image, text or sum of them.

    `encode` makes unit rows of texts, `embed` of images; its errors number its own arguments.
    """
    texts = {row: element for row, element in enumerate(elements) if isinstance(element, Text)}
    photos = [row for row in range(len(elements)) if row not in texts]
    terms = [term for text in texts.values() for term in text.terms]
    words = list(dict.fromkeys(term.words for term in terms if term.words is not None))
    of_words = dict(zip(words, encode(words))) if words else {}
    of_images = iter(_embed_terms(texts, embed))

    def unit_row(row: int, text: Text) -> Features:
        parts = [
            (sign, next(of_images) if own_words is None else of_words[own_words])
            for sign, own_words, _ in text.terms
        ]
        return parts[0][1] if len(parts) == 1 else _unit_sum(parts, row, text)

    found = {row: unit_row(row, text) for row, text in texts.items()}
    if photos:
        found |= zip(photos, _embed_some([elements[row] for row in photos], photos, embed))
    return np.stack([found[row] for row in range(len(elements))])


def _unit_sum(parts: list[tuple[int, Features]], row: int, text: Text) -> Features:
    """Return the signed sum of unit rows, scaled to unit length."""
    total = np.sum([sign * unit.astype(np.float64) for sign, unit in parts], axis=0)
    length = np.linalg.norm(total)
    if length <= ROUNDING * len(parts):
        raise ValueError(
            f"X[{row}], {shortened(text)}, has length 0: its terms cancel out, and nothing is "
            "left to search with. Leave one of them out."
        )
    return (total / length).astype(np.float32)


def _embed_terms(texts: dict[int, Text], embed: Callable[[Images], Features]) -> list[Features]:
    """Return the rows of the images in sums, in order; each kind of images by itself."""
    images = [
        (row, term.image) for row, text in texts.items() for term in text.terms if not term.words
    ]
    kinds = [kind_of_item(image) for _, image in images]
    found: dict[int, Features] = {}
    for kind in dict.fromkeys(kinds):
        places = [place for place, other in enumerate(kinds) if other == kind]
        rows, of_kind = zip(*(images[place] for place in places))
        try:
            found |= zip(places, _embed_some(list(of_kind), rows, embed))
        except ImageReadError as error:
            if kind != "a path":
                raise
            raise noted(
                error, "In a sum, a str is the path of a photo; write words as Text()."
            ) from error
    return [found[place] for place in range(len(images))]


def _embed_some(
    images: list[Any], rows: Sequence[int], embed: Callable[[Images], Features]
) -> Features:
    """Return the rows of images that are at, or in, some `rows` of X, which errors name."""
    try:
        return embed(check_images(images))
    except ImageReadError as error:
        raise with_others([moved(fault, rows[row_of(fault)]) for fault in error.faults]) from error
    except ValueError as error:
        message = re.sub(r"\bX\[(\d+)\]", lambda at: f"X[{rows[int(at[1])]}]", str(error))
        raise ValueError(message) from error
