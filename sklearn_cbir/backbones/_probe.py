"""Trial of a network on one black image: its output, or the reason why there is none."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from sklearn_cbir._typing import Color, Interpolation, ResizeMode
from sklearn_cbir._validation import shortened
from sklearn_cbir.backbones._words import Words
from sklearn_cbir.images import Resizing

USUAL_SIZES = (28, 32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 384, 448, 512)
OTHER_CHANNELS = (1, 2, 4)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NARROW = 16  # channels
COMPLEX = (torch.complex32, torch.complex64, torch.complex128)


Pooling: TypeAlias = Literal["auto", "avg", "max", "gem"] | nn.Module


@dataclass
class Net:
    """A network without its classifier, and the images it was made for.

    `resize_mode`, `interpolation` and `fill` are those of `Resizing`. `source_resize` is what the
    source of the weights itself resizes to before it cuts `image_size` out, or the size that was
    asked for, and `source_resizing` how, where that is another way.
    """

    features: nn.Module
    image_size: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    one_size: bool = False
    n_channels: int | None = None  # of its feature maps, where that is known without a trial
    source: Mapping[str, Any] | None = None  # plain JSON that builds it again without looking it up
    words: Words | None = None  # what makes such vectors of text
    resize_mode: ResizeMode = "cover"
    interpolation: Interpolation = "bilinear"
    fill: Color = (0, 0, 0)
    source_resize: int | None = None
    source_resizing: Resizing | None = None


class NoFeatureMapError(ValueError):
    """The output of a network cannot be arranged as a map; the text is the end of a sentence."""


def prepared(backbone: nn.Module) -> nn.Module:
    """Return a copy of a user's module on the CPU, in float32, whatever it was made in."""
    name = name_of(backbone)
    tensors = [*backbone.parameters(), *backbone.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError(
            f"backbone={name} is on the device 'meta', which holds no numbers. Give it weights: "
            "backbone.to_empty(device='cpu'), then load a state dict."
        )
    try:
        with torch.no_grad():  # else copies of scripted modules hang on the graph
            module = copy.deepcopy(backbone, detached(backbone))
        for own, given in zip(module.parameters(), backbone.parameters()):
            if own.requires_grad != given.requires_grad:
                own.requires_grad_(given.requires_grad)
        module.to("cpu")
    except Exception as error:
        raise ValueError(
            f"backbone={name} cannot be copied ({type(error).__name__}: {error}). Pass a module "
            "that copy.deepcopy can copy."
        ) from error
    return in_float32(module)


def detached(module: nn.Module) -> dict[int, torch.Tensor]:
    """Return a memo for copy.deepcopy: copies of tensors that torch does not copy.

    These are results kept as attributes, such as the weight of the last forward under the older
    spectral_norm and weight_norm, and buffers of lazy layers that have no shape yet.
    """
    kept = [value for part in module.modules() for value in vars(part).values()]
    results = [v for v in kept if isinstance(v, torch.Tensor) and v.grad_fn is not None]
    lazy = [buffer for buffer in module.buffers() if isinstance(buffer, UninitializedBuffer)]
    without_shape: dict[int, torch.Tensor] = {
        # Its metaclass is untyped, so that pyright does not see its constructor.
        id(v): UninitializedBuffer(device=v.device, dtype=v.dtype)  # pyright: ignore[reportCallIssue]
        for v in lazy
    }
    return {id(value): value.detach().clone() for value in results} | without_shape


def in_float32(module: nn.Module) -> nn.Module:
    """Convert a module in place if it has weights of another floating type."""
    parameters = {tensor.dtype for tensor in module.parameters()}
    buffers = {tensor.dtype for tensor in module.buffers()}
    # Buffers in float64 are there for a reason; networks train in float32.
    other = parameters - {torch.float32} | buffers - {torch.float32, torch.float64}
    return module.float() if any(dtype.is_floating_point for dtype in other) else module


def probe(features: nn.Module, backbone: object, size: Sequence[int]) -> tuple[int, int]:
    """Return the numbers of dimensions and of channels of the output for an image of `size`."""
    if any(map(is_lazy, [*features.parameters(), *features.buffers()])):
        _shape_lazy_layers(features, backbone, size)
    try:
        output = _outputs(features, size)
    except NoFeatureMapError as error:
        raise ValueError(
            f"backbone={name_of(backbone)} has no feature map to pool: {error}. Use pooling='auto'."
        ) from error
    except Exception as error:
        raise ValueError(_explain(features, backbone, size, error)) from error
    if not _is_usable(output):
        raise ValueError(
            f"backbone={name_of(backbone)} turns images (n, 3, height, width) into "
            f"{_describe(output)}. It must give a tensor of vectors (n, width) or of feature maps "
            "(n, channels, height, width), of real numbers."
        )
    return output.ndim, output.shape[1]


def _is_usable(output: object) -> bool:
    """Whether the output for one image can become a vector."""
    if not isinstance(output, torch.Tensor) or output.is_complex():
        return False
    return output.ndim in (2, 4) and len(output) == 1 and output.numel() > 0


def takes_channels_last(features: nn.Module, size: Sequence[int]) -> bool:
    """Whether a network works with torch's channels-last layout, under which ``view`` may fail."""
    try:
        with torch.no_grad():
            network = copy.deepcopy(features, detached(features)).eval()
            network.to(memory_format=torch.channels_last)
            network(_black(size).contiguous(memory_format=torch.channels_last))
    except Exception:
        return False
    return True


def has_narrow_strides(features: nn.Module) -> bool:
    """Whether a 1 x 1 convolution of few channels has strides.

    Under channels last its gradient writes beyond its memory: oneDNN 3.12 (torch 2.14), below 16
    channels, as in the stems of FastViT, MobileOne and RepVGG.
    """
    return any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels < NARROW
        for layer in features.modules()
    )


def name_of(backbone: object) -> str:
    """Return the name of a backbone for messages: its name, or the class of a module."""
    return repr(backbone) if isinstance(backbone, str) else type(backbone).__name__


def _shape_lazy_layers(features: nn.Module, backbone: object, size: Sequence[int]) -> None:
    """Let lazy layers take their shape from images of `size`."""
    modes = [(module, module.training) for module in features.modules()]
    try:
        with torch.no_grad():
            features.eval()(_black(size))
    except Exception as error:
        raise ValueError(_explain(features, backbone, size, error)) from error
    finally:
        for module, training in modes:
            module.training = training


def _outputs(features: nn.Module, size: Sequence[int], n_channels: int = 3) -> torch.Tensor:
    """The output for one black image; counters and buffers of the network do not change."""
    # Weights are shared, the rest is copied; lazy layers have no weights to share.
    shared = {id(tensor): tensor for tensor in features.parameters() if not is_lazy(tensor)}
    with torch.no_grad():
        return copy.deepcopy(features, shared | detached(features)).eval()(_black(size, n_channels))


def _black(size: Sequence[int], n_channels: int = 3) -> torch.Tensor:
    return torch.zeros(1, n_channels, *size, dtype=torch.float32)


def _works(features: nn.Module, size: Sequence[int], n_channels: int = 3) -> bool:
    try:
        _outputs(features, size, n_channels)
    except Exception:
        return False
    return True


def _explain(features: nn.Module, backbone: object, size: Sequence[int], error: Exception) -> str:
    """Say why a network fails: its channels, the size of the images, or something else."""
    name, (height, width) = name_of(backbone), size
    for n_channels in OTHER_CHANNELS:
        if _works(features, size, n_channels):
            return (
                f"backbone={name} takes images with {n_channels} "
                f"channel{'s' * (n_channels > 1)}, but backbones always get 3: gray images are "
                "repeated, transparent ones put on white. Put a layer in front that makes "
                f"{n_channels} channels from 3, such as torch.nn.Conv2d(3, {n_channels}, 1)."
            )
    found = f"backbone={name} does not take images of {height} x {width} pixels"
    reason = f"{type(error).__name__}: {error}".strip().rstrip(".")
    sizes = [side for side in USUAL_SIZES if _works(features, (side, side))]
    if sizes:
        listed = ", ".join(map(str, sizes))
        advice = f"Of the usual sizes it takes {listed}: set image_size to a size that it takes."
    else:
        advice = (
            "None of the usual sizes works either. Set image_size to a size that it takes, or "
            "look for the fault in its forward."
        )
    return f"{found} ({reason}). {advice}"


def _describe(output: object) -> str:
    shape = getattr(output, "shape", None)
    if shape is None:
        return type(output).__name__
    kind = " of complex numbers" * (getattr(output, "dtype", None) in COMPLEX)
    return f"a tensor of shape {tuple(shape)}{kind}"


def pooled_width(pool: nn.Module, n_dimensions: int, channels: int) -> int:
    """Length of the vectors that `pool` makes of feature maps."""
    if n_dimensions == 2:
        return channels
    with torch.no_grad():
        pooled = pool(torch.ones(2, channels, 3, 3, dtype=torch.float32))
    if not isinstance(pooled, torch.Tensor) or pooled.ndim != 2 or len(pooled) != 2:
        raise ValueError(
            f"pooling={shortened(pool)} turns feature maps (n, channels, height, width) into "
            f"{_describe(pooled)}. It must give vectors (n, width)."
        )
    return pooled.shape[1]
