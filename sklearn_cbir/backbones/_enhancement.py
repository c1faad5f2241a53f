"""Feature enhancement: feature maps to feature maps of the same shape, at first the identity.

Gates are twice the published ones, so that weights of 0 make them 1; the layers after them have
weights, which can undo a factor of 2.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

REDUCTION = 16  # channels per hidden unit of a channel gate


class ChannelGate(nn.Module):
    """Two layers without biases from one value per channel to another; the second starts at 0."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        n_hidden = max(1, n_channels // REDUCTION)
        self.squeeze: nn.Linear = nn.Linear(n_channels, n_hidden, bias=False)
        self.excite: nn.Linear = nn.Linear(n_hidden, n_channels, bias=False)
        nn.init.zeros_(self.excite.weight)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.excite(functional.relu(self.squeeze(values)))


class SqueezeExcitation(nn.Module):
    """Weight every channel, by a function of the means of all channels.

    J. Hu, L. Shen, G. Sun. "Squeeze-and-excitation networks". CVPR 2018, equations 2 to 4.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.gate: ChannelGate = ChannelGate(n_channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        weights = 2 * torch.sigmoid(self.gate(maps.mean(dim=(2, 3))))
        return maps * weights[:, :, None, None]


class CBAM(nn.Module):
    """Weight every channel, by the means and the maxima of all, then every place likewise.

    S. Woo, J. Park, J.-Y. Lee, I. S. Kweon. "CBAM: convolutional block attention module". ECCV
    2018, equations 1 to 3; the places' gate is a 7 x 7 convolution.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.gate: ChannelGate = ChannelGate(n_channels)
        self.places: nn.Conv2d = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        nn.init.zeros_(self.places.weight)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        scores = self.gate(maps.mean(dim=(2, 3))) + self.gate(maps.amax(dim=(2, 3)))
        maps = maps * 2 * torch.sigmoid(scores)[:, :, None, None]
        summary = torch.stack([maps.mean(dim=1), maps.amax(dim=1)], dim=1)  # (n, 2, H, W)
        return maps * 2 * torch.sigmoid(self.places(summary))


class ResidualConvolution(nn.Module):
    """Add two 3 x 3 convolutions of the maps to them; the scale of the second starts at 0."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(n_channels)
        self.layers: nn.Sequential = nn.Sequential(
            nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False),
            last,
        )
        nn.init.zeros_(last.weight)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.layers(maps)


# Each is called with the number of channels.
ENHANCEMENTS: dict[str, Callable[[int], nn.Module]] = {
    "se": SqueezeExcitation,
    "cbam": CBAM,
    "conv": ResidualConvolution,
}
