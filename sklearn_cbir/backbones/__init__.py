"""Backbones: name or module -> a trunk that turns images, or rows, into vectors."""

import copy

import numpy as np
import torch
from torch import nn

from sklearn_cbir._validation import check_integer, resolve
from sklearn_cbir.backbones._built_in import BACKBONES, built_in
from sklearn_cbir.backbones._enhancement import ENHANCEMENTS
from sklearn_cbir.backbones._rows import RowTrunk, build_mlp, row_statistics
from sklearn_cbir.backbones._torchvision import from_torchvision
from sklearn_cbir.backbones._trunk import Net, Trunk, freeze_batch_norm
from sklearn_cbir.backbones._weights import load_state, read_weights
from sklearn_cbir.pooling import POOLINGS

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
        feature maps. A module is copied, with the weights it has.

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
        take images of `image_size`.

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
    spec = {
        "backbone": backbone,
        "weights": None,
        "pooling": pooling,
        "image_size": image_size,
        "resize_size": resize_size,
        "mean": _colors(net.mean if mean is None else mean, "mean"),
        "std": _colors(net.std if std is None else std, "std"),
    }
    n_dimensions, channels = _probe(net, backbone, image_size)
    pool = _make_pooling(pooling, n_dimensions, backbone)
    width = _pooled_width(pool, n_dimensions, channels)
    return Trunk(net.features, pool, width, spec, channels if n_dimensions == 4 else None)


def _find(backbone, weights, pooling, image_size):
    """Net of a name or a module, with its weights."""
    if isinstance(backbone, nn.Module):
        features = copy.deepcopy(backbone)
        if weights not in (None, "imagenet"):
            load_state(features, read_weights(weights), type(backbone).__name__)
        return Net(features, one_size=True)
    if not isinstance(backbone, str):
        raise ValueError(
            f"backbone={backbone!r} is neither a name nor a network. Pass a name, or an instance "
            "of torch.nn.Module."
        )
    if backbone in BACKBONES:
        return built_in(backbone, weights)
    return from_torchvision(backbone, weights, pooling, image_size)


def _colors(values, parameter):
    """Three floats, one per color."""
    try:
        values = np.broadcast_to(np.asarray(values, dtype=np.float64), (3,))
    except (TypeError, ValueError):
        values = np.full(3, np.nan)
    if not np.isfinite(values).all() or (parameter == "std" and (values <= 0).any()):
        raise ValueError(
            f"{parameter} must hold three finite numbers for colors from 0 to 1, those of std "
            "positive."
        )
    return tuple(values.tolist())


def _probe(net, backbone, image_size):
    """Number of dimensions and of channels that come out for one black image."""
    size = image_size or 96
    if not net.one_size:
        # What takes 96 pixels takes more, and smaller is faster.
        size = min(size, 96)
    modes = [(module, module.training) for module in net.features.modules()]
    net.features.eval()
    try:
        with torch.no_grad():
            output = net.features(torch.zeros(1, 3, size, size))
    except RuntimeError as error:
        raise ValueError(
            f"backbone={_name(backbone)} does not take images of {size} x {size} pixels "
            f"({error}). Set image_size to what it takes."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 4) or len(output) != 1:
        raise ValueError(
            f"backbone={_name(backbone)} turns images (n, 3, height, width) into "
            f"{_describe(output)}. It must give a tensor of vectors (n, width) or of feature maps "
            "(n, channels, height, width)."
        )
    return output.ndim, output.shape[1]


def _describe(output):
    shape = getattr(output, "shape", None)
    return type(output).__name__ if shape is None else f"a tensor of shape {tuple(shape)}"


def _name(backbone):
    return repr(backbone) if isinstance(backbone, str) else type(backbone).__name__


def _make_pooling(pooling, n_dimensions, backbone):
    """Pooling module, if there is a feature map to pool."""
    if n_dimensions == 4:
        pool = resolve("avg" if pooling == "auto" else pooling, POOLINGS, "pooling")
        return copy.deepcopy(pool) if isinstance(pool, nn.Module) else pool()
    if pooling != "auto":
        raise ValueError(
            f"pooling={pooling!r} needs a feature map, and backbone={_name(backbone)} gives "
            "vectors. Use pooling='auto'."
        )
    return nn.Identity()


def _pooled_width(pool, n_dimensions, channels):
    """Length of the vectors that `pool` makes of feature maps."""
    if n_dimensions == 2:
        return channels
    with torch.no_grad():
        pooled = pool(torch.ones(2, channels, 3, 3))
    if pooled.ndim != 2 or len(pooled) != 2:
        raise ValueError(
            f"pooling={pool!r} turns feature maps (n, channels, height, width) into a tensor of "
            f"shape {tuple(pooled.shape)}. It must give vectors (n, width)."
        )
    return pooled.shape[1]
