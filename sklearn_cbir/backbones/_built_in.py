"""Small nets for two processor cores and images of 28 to 64 pixels: the BACKBONES table."""

from torch import nn

from sklearn_cbir.backbones._trunk import Net
from sklearn_cbir.backbones._weights import load_state, read_weights


def _convolution(n_in, n_out, *, pool=False):
    """3 x 3 convolution, batch normalization, ReLU, and half the size if `pool`."""
    layers = [
        nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    ]
    # ceil_mode: 7 pixels become 4, and images of any size pass.
    return nn.Sequential(*layers, *[nn.MaxPool2d(2, ceil_mode=True)] * pool)


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, n_channels):
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(n_channels, n_channels), _convolution(n_channels, n_channels)
        )

    def forward(self, maps):
        return maps + self.layers(maps)


def _small():
    """Four convolutions, 32 to 256 channels."""
    return nn.Sequential(
        _convolution(3, 32, pool=True),
        _convolution(32, 64, pool=True),
        _convolution(64, 128, pool=True),
        _convolution(128, 256),
    )


def _resnet9():
    """Eight convolutions, two residual blocks, 32 to 256 channels."""
    return nn.Sequential(
        _convolution(3, 32),
        _convolution(32, 64, pool=True),
        _Residual(64),
        _convolution(64, 128, pool=True),
        _convolution(128, 256, pool=True),
        _Residual(256),
    )


BACKBONES = {"small": _small, "resnet9": _resnet9}


def built_in(name, weights):
    if weights == "imagenet":
        raise ValueError(
            f"There are no ImageNet weights for backbone={name!r}. Use weights=None, or a network "
            "of torchvision such as 'resnet18'."
        )
    features = BACKBONES[name]()
    if weights is not None:
        load_state(features, read_weights(weights), name)
    return Net(features, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
