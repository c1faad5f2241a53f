"""Tokens of vision transformers as feature maps, so that they can be pooled like any other."""

import math
from collections.abc import Callable

import torch
from torch import nn

from sklearn_cbir.backbones._probe import NoFeatureMapError


class Maps(nn.Module):
    """A network of tokens, or of maps in any layout, that gives maps (n, channels, height, width).

    Parameters
    ----------
    network : Module
        Whose weights these are.

    features : callable
        What gives its last tokens (n, n_prefix + height * width, channels) or maps: its class's
        function that is called with `network` and with the images.

    n_prefix : int, default=0
        Tokens in front that are of no place: those of the class, and registers.

    channels_last : bool, default=False
        Whether maps come as (n, height, width, channels).
    """

    def __init__(
        self,
        network: nn.Module,
        features: Callable[[nn.Module, torch.Tensor], torch.Tensor],
        n_prefix: int = 0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.features = features
        self.n_prefix = n_prefix
        self.channels_last = channels_last

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = self.features(self.network, pixels)
        n_dimensions = found.ndim if isinstance(found, torch.Tensor) else 0
        if n_dimensions == 3:
            height, width = pixels.shape[2:]
            return fold(found[:, self.n_prefix :], height / width)
        if n_dimensions != 4:
            shape = tuple(found.shape) if n_dimensions else type(found).__name__
            raise NoFeatureMapError(f"its last layer gives {shape}")
        return found.permute(0, 3, 1, 2) if self.channels_last else found


def fold(tokens: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
    """Return patch tokens (n, height * width, channels) as maps (n, channels, height, width).

    Parameters
    ----------
    tokens : tensor of shape (n, height * width, channels)
        Row by row, and nothing else among them.

    ratio : float, default=1.0
        Height of the images by their width.

    Raises
    ------
    NoFeatureMapError
        If they fill no grid of that shape.
    """
    n_tokens = tokens.shape[1]
    height = max(1, round(math.sqrt(n_tokens * ratio)))
    width = n_tokens // height
    if height * width != n_tokens or abs(height - ratio * width) >= 1:
        raise NoFeatureMapError(
            f"its {n_tokens} patch tokens do not fill a grid of the image's shape"
        )
    return tokens.transpose(1, 2).unflatten(2, (height, width))
