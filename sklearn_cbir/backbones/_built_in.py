"""Small nets for two processor cores and images of 28 to 64 pixels: the BACKBONES table."""

from collections.abc import Callable

import torch
from torch import nn

from sklearn_cbir.backbones._probe import Net
from sklearn_cbir.backbones._weights import PUBLISHED, Weights, load_state, read_weights


def _convolutions(n_in: int, *layers: tuple[int, bool]) -> list[nn.Sequential]:
    """Return 3 x 3 convolutions with batch norm and ReLU, of (channels, whether size halves)."""
    made = []
    for n_out, halves in layers:
        convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        parts = [convolution, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
        if halves:  # ceil_mode: 7 pixels become 4, and images of any size pass
            parts.append(nn.MaxPool2d(2, ceil_mode=True))
        made.append(nn.Sequential(*parts))
        n_in = n_out
    return made


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        layers = [(n_channels, False)] * 2
        self.layers = nn.Sequential(*_convolutions(n_channels, *layers))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.layers(maps)


def _small() -> nn.Module:
    """Four convolutions, 32 to 256 channels."""
    return nn.Sequential(*_convolutions(3, (32, True), (64, True), (128, True), (256, False)))


def _resnet9() -> nn.Module:
    """Eight convolutions, two residual blocks, 32 to 256 channels."""
    return nn.Sequential(
        *_convolutions(3, (32, False), (64, True)),
        _Residual(64),
        *_convolutions(64, (128, True), (256, True)),
        _Residual(256),
    )


BACKBONES: dict[str, Callable[[], nn.Module]] = {"small": _small, "resnet9": _resnet9}
N_CHANNELS = 256  # of the feature maps of all of them, for images of any size


def built_in(name: str, weights: Weights) -> Net:
    if weights in PUBLISHED:
        raise ValueError(
            f"There are no pretrained weights for backbone={name!r}. Use weights=None, or another "
            "network, such as 'resnet18' of torchvision."
        )
    features = BACKBONES[name]()
    if weights is not None:
        load_state(features, read_weights(weights), name)
    return Net(features, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), n_channels=N_CHANNELS)
