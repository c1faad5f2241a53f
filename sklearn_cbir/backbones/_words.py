"""Words: the text tower of a model of images and text, and its tokenizer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sklearn_cbir._validation import warn_user
from sklearn_cbir.backbones._tokenizer import tokenizer_of

AT_ONCE = 64  # texts


class Words(nn.Module):
    """Texts to vectors, in the space of the vectors of the same model's images.

    Parameters
    ----------
    tower : Module
        Turns ids (n, context_length) into vectors (n, width).

    tokenizer : dict
        Tokenizer that makes the ids, as plain JSON.
    """

    def __init__(self, tower: nn.Module, tokenizer: dict[str, Any]) -> None:
        super().__init__()
        self.tower: nn.Module = tower
        self.tokenizer = tokenizer_of(tokenizer)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Return vectors (n, width) of n texts, float32, not scaled to unit length.

        If a text is too long for the model, its end is left out, with a warning.
        """
        ids, is_cut = self.tokenizer(texts)
        if is_cut:
            # The same for all texts, so that Python says it once although they come in batches.
            warn_user(
                f"Some texts are longer than the {ids.shape[1]} tokens that the model reads: "
                "the rest is ignored."
            )
        device = next(self.tower.parameters()).device
        with torch.no_grad():
            parts = [self.tower(some.to(device)).float() for some in ids.split(AT_ONCE)]
        return torch.cat(parts)
