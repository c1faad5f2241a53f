"""Backbones: name or module -> a trunk that turns images, or rows, into vectors."""

import copy

import torch
from torch import nn

from sklearn_cbir._validation import check_integer, resolve, shortened
from sklearn_cbir.backbones._built_in import BACKBONES, built_in
from sklearn_cbir.backbones._colors import colors
from sklearn_cbir.backbones._enhancement import ENHANCEMENTS
from sklearn_cbir.backbones._probe import (
    in_float32,
    name_of,
    pooled_width,
    prepared,
    probe,
    takes_channels_last,
)
from sklearn_cbir.backbones._rows import RowTrunk, build_mlp, row_statistics
from sklearn_cbir.backbones._torchvision import from_torchvision
from sklearn_cbir.backbones._trunk import Net, Trunk, freeze_batch_norm
from sklearn_cbir.backbones._weights import load_state, read_weights
from sklearn_cbir.pooling import POOLINGS, AveragePooling

PROBED_AT = 96  # px

__all__ = [
    "BACKBONES",
    "ENHANCEMENTS",
    "RowTrunk",
    "Trunk",
    "build_backbone",
    "build_mlp",
    "freeze_batch_norm",
    "read_weights",
    "row_statistics",
]


def build_backbone(
    backbone,
    *,
    weights=None,
    pooling="auto",
    image_size=None,
    resize_size=None,
    input_shape=None,
    mean=None,
    std=None,
    in_features=None,
):
    """Build a trunk, with or without trained weights.

    New weights are torch's own initialization, drawn from torch's global
    generator: seed it inside ``torch.random.fork_rng()`` for a repeatable net.

    Parameters
    ----------
    backbone : str or Module
        A name in `BACKBONES`, one of torchvision's classification networks,
        or a module from normalized images (n, 3, height, width) to vectors or
        feature maps. A module is copied, with the weights it has, to the CPU
        and to float32.

    weights : {"imagenet", None} or path, default=None
        Torchvision's weights, downloaded on first use; none; or a file with a
        state dict (.pt, .pth, .safetensors), in which the classifier may be
        missing or of any size. A module keeps its own for "imagenet".

    pooling : {"auto", "avg", "max", "gem"} or Module, default="auto"
        What turns the last feature map into a vector. "auto" is the network's
        own: what enters its classifier, which is a hidden layer for VGG and
        AlexNet and the class token for a ViT.

    image_size : int, default=None
        Side of the square images in pixels; None is the size the weights were
        trained at, or any size where nothing binds it.

    resize_size : int, default=None
        Length of the shorter side before the center is cut out; None is
        `image_size`, which cuts off least. Torchvision evaluates its weights
        with 232 or 256 for 224, which classifies better and finds worse.

    input_shape : tuple of int, default=None
        Height and width in pixels of the images that come where no
        `image_size` binds them; None tries the network with 96 x 96. Lazy
        layers take their shapes from it, and networks of one size are refused
        where it is another.

    mean, std : sequence of 3 floats, default=None
        Of the training images' colors in [0, 1]; None is what the weights
        expect, and ImageNet's for a module.

    in_features : int, default=None
        If given, `build_mlp` for rows of this many features; `backbone`,
        `weights` and the sizes are not used.

    Returns
    -------
    Trunk
        In training mode, on the CPU.

    Raises
    ------
    ValueError
        For an unknown name, weights that do not fit, a network that cannot
        take images of that size or with 3 channels, or has no weights.

    FileNotFoundError
        If there is no file `weights`.

    ConnectionError
        If ImageNet weights are neither cached nor can be downloaded.

    ImportError
        If torchvision is needed and does not work with the torch at hand.

    Examples
    --------
    >>> import torch
    >>> trunk = build_backbone("small")
    >>> trunk(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 256])
    """
    if in_features is not None:
        return build_mlp(in_features, mean=mean, std=std)
    for name, size in (("image_size", image_size), ("resize_size", resize_size)):
        if size is not None:
            check_integer(size, name, minimum=1)
    net = _find(backbone, weights, pooling, image_size)
    image_size = net.image_size if image_size is None else int(image_size)
    resize_size = image_size if resize_size is None else int(resize_size)
    if input_shape is not None:
        input_shape = tuple(check_integer(side, "input_shape", minimum=1) for side in input_shape)
    spec = {
        "backbone": backbone,
        "weights": None,
        "pooling": pooling,
        "image_size": image_size,
        "resize_size": resize_size,
        "input_shape": input_shape,
        "mean": tuple(net.mean) if mean is None else colors(mean, "mean"),
        "std": tuple(net.std) if std is None else colors(std, "std"),
    }
    if net.n_channels is not None and isinstance(pooling, str):
        return Trunk(net.features, _named_pooling(pooling), net.n_channels, spec, net.n_channels)
    size = input_shape if image_size is None else (image_size, image_size)
    if not net.one_size:
        # What takes 96 pixels takes more, and smaller is faster.
        size = [min(side, PROBED_AT) for side in size or (PROBED_AT,) * 2]
    size = size or (PROBED_AT,) * 2
    n_dimensions, channels = probe(net.features, backbone, size)
    if isinstance(backbone, nn.Module) and weights not in (None, "imagenet"):
        # Only now have lazy layers the shapes that weights fit into.
        load_state(net.features, read_weights(weights), name_of(backbone))
    pool = _make_pooling(pooling, n_dimensions, backbone)
    width = pooled_width(pool, n_dimensions, channels)
    trunk = Trunk(net.features, pool, width, spec, channels if n_dimensions == 4 else None)
    if isinstance(backbone, nn.Module) and not takes_channels_last(net.features, size):
        trunk.memory_format = torch.contiguous_format
    return trunk


def _find(backbone, weights, pooling, image_size):
    """Net of a name or a module, with its weights."""
    if isinstance(backbone, nn.Module):
        return Net(prepared(backbone), one_size=True)
    if not isinstance(backbone, str):
        raise ValueError(
            f"backbone={shortened(backbone)} is neither a name nor a network. Pass a name, or an "
            "instance "
            "of torch.nn.Module."
        )
    if backbone in BACKBONES:
        return built_in(backbone, weights)
    return from_torchvision(backbone, weights, pooling, image_size)


def _make_pooling(pooling, n_dimensions, backbone):
    """Pooling module, if there is a feature map to pool."""
    if n_dimensions == 4:
        if isinstance(pooling, str):
            return _named_pooling(pooling)
        if isinstance(pooling, nn.Module):
            return in_float32(copy.deepcopy(pooling).to("cpu"))
        raise ValueError(
            f"pooling={shortened(pooling)} is neither a name nor a module. Use 'auto' or one of "
            f"{sorted(POOLINGS)}."
        )
    if not (isinstance(pooling, str) and pooling == "auto"):
        raise ValueError(
            f"pooling={shortened(pooling)} needs a feature map, and backbone={name_of(backbone)} "
            "gives vectors. Use pooling='auto'."
        )
    return nn.Identity()


def _named_pooling(name):
    """Return a new pooling module; those with a name keep the number of channels."""
    if name == "auto":
        return AveragePooling()
    return resolve(name, POOLINGS, "pooling")()
