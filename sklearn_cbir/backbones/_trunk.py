"""The trunk, the common form of all backbones, and how to build it from a name or a module."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypedDict, cast, overload

import torch
from numpy.typing import ArrayLike
from torch import nn

from sklearn_cbir._typing import Color, Interpolation, ResizeMode, ResizeSize
from sklearn_cbir._validation import check_integer, resolve, shortened
from sklearn_cbir.backbones._built_in import BACKBONES, built_in
from sklearn_cbir.backbones._colors import colors
from sklearn_cbir.backbones._hub import files_of, is_place
from sklearn_cbir.backbones._open_clip import from_open_clip
from sklearn_cbir.backbones._packaged import PACKAGED, packaged_file
from sklearn_cbir.backbones._probe import (
    Net,
    Pooling,
    has_narrow_strides,
    in_float32,
    name_of,
    pooled_width,
    prepared,
    probe,
    takes_channels_last,
)
from sklearn_cbir.backbones._rows import RowTrunk, build_mlp
from sklearn_cbir.backbones._timm import from_timm
from sklearn_cbir.backbones._torchvision import from_torchvision
from sklearn_cbir.backbones._weights import PUBLISHED, Weights, load_state, read_weights
from sklearn_cbir.backbones._words import Words
from sklearn_cbir.images import Resizing
from sklearn_cbir.pooling import POOLINGS, AveragePooling

PROBED_AT = 96  # px
# Libraries of named networks by the prefix of the names; bare names are built in or torchvision's.
# Each is called with the rest of the name, weights, pooling, image_size and source.
SOURCES: dict[str, Callable[..., Net]] = {"timm": from_timm, "open_clip": from_open_clip}


class TrunkSpec(TypedDict):
    """Arguments of `build_backbone` that build a trunk for images, without its weights."""

    backbone: str | nn.Module
    weights: None
    pooling: Pooling
    image_size: int | None
    resize_size: int | None
    input_shape: tuple[int, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Mapping[str, Any] | None
    words: bool
    # Files of earlier versions lack these, and mean the defaults of `Net`.
    resize_mode: ResizeMode
    interpolation: Interpolation
    fill: Color


class Trunk(nn.Module):
    """A network from uint8 images to one vector each.

    `build_backbone` builds it.

    Parameters
    ----------
    features : Module
        Turns normalized images into feature maps or vectors.

    pooling : Module
        Turns feature maps or vectors into vectors.

    width : int
        Length of the vectors.

    spec : dict
        Arguments of `build_backbone` that build this trunk again, without its
        weights.

    n_channels : int, default=None
        Channels of the feature maps; None if `features` gives vectors.

    words : Module, default=None
        Its ``encode(texts)`` turns a sequence of str into vectors (n, width),
        float32, not scaled to unit length, in the space of the vectors of images.
        None if the network has no text tower, or it was not requested.

    Attributes
    ----------
    image_size, resize_size : int or None
        Images are resized so that the shorter side, both or the longer one, as
        `resizing` says, have `resize_size` pixels, and cropped to the centered
        square of `image_size` pixels. None: any size.

    frozen_batch_norm : bool
        Whether batch normalization keeps its statistics during training.

    wordless : str or None
        Why there are no `words` although they were requested, in a sentence.

    memory_format : torch.memory_format
        Memory layout of `features`: channels last, which is faster, unless its
        ``forward`` fails with it.

    Examples
    --------
    >>> import torch
    >>> from sklearn_cbir.backbones import build_backbone
    >>> trunk = build_backbone("small", image_size=32)
    >>> type(trunk).__name__, trunk.width, trunk.image_size
    ('Trunk', 256, 32)
    >>> trunk(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 256])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        features: nn.Module,
        pooling: nn.Module,
        width: int,
        spec: TrunkSpec,
        n_channels: int | None = None,
        words: Words | None = None,
    ) -> None:
        super().__init__()
        self.features: nn.Module = features
        self.pooling: nn.Module = pooling
        self.width: int = width
        self.spec: TrunkSpec = spec
        self.n_channels: int | None = n_channels
        self.words: Words | None = words
        self.image_size: int | None = spec["image_size"]
        self.resize_size: int | None = spec["resize_size"]
        self.frozen_batch_norm: bool = False
        self.memory_format: torch.memory_format = torch.channels_last
        self._fresh_norms: list[nn.Module] = []
        # In units of uint8, (3, 1, 1); not persistent, since `spec` carries them.
        mean, std = (
            255 * torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)
            for values in (spec["mean"], spec["std"])
        )
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def resizing(self) -> Resizing:
        """How images are resized."""
        spec = self.spec
        return Resizing(spec["resize_mode"], spec["interpolation"], spec["fill"])

    @property
    def wordless(self) -> str | None:
        """Why there are no words although they were requested."""
        return (self.spec["source"] or {}).get("wordless")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Vectors (n, width) of uint8 images (n, 3, height, width)."""
        return self.pool(self.unpooled(images))

    def unpooled(self, images: torch.Tensor) -> torch.Tensor:
        """Return feature maps, or vectors if the network has none.

        Parameters
        ----------
        images : uint8 tensor of shape (n, 3, height, width)
            As `forward` takes them.

        Returns
        -------
        tensor of shape (n, n_channels, h, w) or (n, width)
            The output of `features`.
        """
        try:
            pixels = (images.to(self.mean.dtype) - self.mean) / self.std
            if self.memory_format == torch.contiguous_format:
                pixels = pixels.contiguous()
            maps = self.features(pixels)
        except Exception as error:
            name = name_of(self.spec["backbone"])
            error.add_note(f"Raised by backbone={name} on images of shape {tuple(images.shape)}.")
            raise
        self._check_maps(maps, images.shape[0])
        return maps

    def _check_maps(self, maps, n):
        """Raise unless the output for `n` images has the shape of the output for one."""
        is_vectors = self.n_channels is None
        wanted = (n, self.width if is_vectors else self.n_channels)
        is_tensor = isinstance(maps, torch.Tensor)
        if is_tensor and maps.shape[:2] == wanted and maps.ndim == (2 if is_vectors else 4):
            return
        name = name_of(self.spec["backbone"])
        mode = "training" if self.training else "evaluation"
        if not is_tensor:
            raise ValueError(
                f"backbone={name} gives {type(maps).__name__} in {mode}. It must give a tensor "
                "there too: remove its second output, for example with aux_logits=False."
            )
        raise ValueError(
            f"backbone={name} gives a tensor of shape {tuple(maps.shape)} for {n} images in "
            f"{mode}, but it gave {'vectors' if is_vectors else 'feature maps'} of {wanted[1]} "
            "numbers for one image before. It must give the same for every image, in any number, "
            "in training and in evaluation."
        )

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the vectors of feature maps.

        Parameters
        ----------
        maps : tensor of shape (n, n_channels, h, w) or (n, width)
            Feature maps or vectors, as `unpooled` returns them.

        Returns
        -------
        tensor of shape (n, width), float32
            The vectors, as `forward` returns them.
        """
        vectors = self.pooling(maps)
        if vectors.shape != (maps.shape[0], self.width):
            raise ValueError(
                f"pooling={type(self.pooling).__name__} makes {tuple(vectors.shape)} of feature "
                f"maps {tuple(maps.shape)}. It must make vectors ({len(maps)}, {self.width}), as "
                "it did before."
            )
        return vectors.float()

    def train(self, mode: bool = True) -> Self:
        """Switch to training; frozen batch normalization stays as it is."""
        super().train(mode)
        if self.frozen_batch_norm:
            freeze_batch_norm(self)
            for module in self._fresh_norms:
                module.train(mode)
        return self

    @property
    def fresh_norms(self) -> list[int] | None:
        """Numbers of the batch norms that learn their statistics, None if all learn them."""
        if not self.frozen_batch_norm:
            return None
        return [n for n, norm in enumerate(_running_norms(self)) if norm in self._fresh_norms]

    def keep_statistics(self, fresh: list[int] | None = None) -> None:
        """Freeze the batch norms, except those that have no statistics yet.

        Parameters
        ----------
        fresh : list of int, default=None
            Numbers of the exceptions, as in `fresh_norms`; None decides by the
            statistics.
        """
        self.frozen_batch_norm = True
        norms = _running_norms(self)
        if fresh is None:
            self._fresh_norms = [norm for norm in norms if _is_fresh(norm)]
        else:
            self._fresh_norms = [norms[number] for number in fresh]


def is_trained(network: nn.Module) -> bool:
    """Whether normalization shows training: True without running statistics, which tell nothing.

    The statistics decide and not the count of batches, which converted and old files lack.
    """
    norms = _running_norms(network)
    return not norms or not all(map(_is_fresh, norms))


def _running_norms(network: nn.Module) -> list[nn.Module]:
    """Return the layers that normalize with running statistics: batch norms of any make."""
    return [
        module
        for module in network.modules()
        if isinstance(getattr(module, "running_mean", None), torch.Tensor)
        and isinstance(getattr(module, "running_var", None), torch.Tensor)
    ]


def _is_fresh(norm: nn.Module) -> bool:
    """Whether the statistics are those that a new layer has."""
    mean, var = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
    return bool((mean == 0).all() and (var == 1).all())


def freeze_batch_norm(network: nn.Module) -> None:
    """Freeze the statistics of batch normalization; its weights still train.

    This includes any other layer with running statistics, such as an instance
    norm that tracks them.

    The next ``network.train()`` ends it; set ``trunk.frozen_batch_norm`` to
    make it permanent.

    Parameters
    ----------
    network : Module
        Changed in place.

    Examples
    --------
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> freeze_batch_norm(network)
    >>> network[0].training, network[1].training
    (True, False)
    """
    for module in _running_norms(network):
        module.eval()


# How it is built --------------------------------------------------------------------------------


@overload
def build_backbone(
    backbone: str | nn.Module,
    *,
    weights: Weights = ...,
    pooling: Pooling = ...,
    image_size: int | None = ...,
    resize_size: ResizeSize = ...,
    input_shape: Sequence[int] | None = ...,
    mean: ArrayLike | None = ...,
    std: ArrayLike | None = ...,
    resize_mode: ResizeMode | None = ...,
    interpolation: Interpolation | None = ...,
    fill: Sequence[int] | None = ...,
    source: Mapping[str, Any] | None = ...,
    words: bool = ...,
    in_features: None = ...,
) -> Trunk: ...
@overload
def build_backbone(
    backbone: str | nn.Module | None,
    *,
    weights: Weights = ...,
    pooling: Pooling = ...,
    image_size: int | None = ...,
    resize_size: ResizeSize = ...,
    input_shape: Sequence[int] | None = ...,
    mean: ArrayLike | None = ...,
    std: ArrayLike | None = ...,
    resize_mode: ResizeMode | None = ...,
    interpolation: Interpolation | None = ...,
    fill: Sequence[int] | None = ...,
    source: Mapping[str, Any] | None = ...,
    words: bool = ...,
    in_features: int,
) -> RowTrunk: ...
def build_backbone(
    backbone: str | nn.Module | None,
    *,
    weights: Weights = None,
    pooling: Pooling = "auto",
    image_size: int | None = None,
    resize_size: ResizeSize = None,
    input_shape: Sequence[int] | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    resize_mode: ResizeMode | None = None,
    interpolation: Interpolation | None = None,
    fill: Sequence[int] | None = None,
    source: Mapping[str, Any] | None = None,
    words: bool = False,
    in_features: int | None = None,
) -> Trunk | RowTrunk:
    """Build a trunk, with or without trained weights.

    New weights have the initialization of torch, drawn from its global
    generator: seed it inside ``torch.random.fork_rng()`` for a repeatable net.

    Parameters
    ----------
    backbone : str, Module or None
        A name in `BACKBONES`; a classification network of torchvision;
        ``"timm/NAME"`` or ``"timm/NAME.TAG"``, a network of timm;
        ``"open_clip/NAME"``, the image tower of a model of open_clip; or a
        module from normalized images (n, 3, height, width) to vectors or feature
        maps. NAME may also be ``hf-hub:ORG/REPOSITORY`` or ``local-dir:PATH``. A
        module is copied, with its weights, to the CPU and to float32.

    weights : {"pretrained", "imagenet", "packaged", None}, tag or path, \
            default=None
        "pretrained", or its older name "imagenet": the published weights of the
        network, downloaded on first use; a module keeps its own weights.
        "packaged": weights from a Python package, without a download, for
        ``"timm/tf_efficientnet_lite0"`` and ``"timm/tf_efficientnet_lite2"``. A
        tag of open_clip; there "pretrained" takes the tag of DataComp, else of
        LAION-2B, else of OpenAI, else the last one listed. Or a file with a state
        dict (.pt, .pth, .safetensors), in which the classifier may be missing or
        of any size. None: new weights.

    pooling : {"auto", "avg", "max", "gem"} or Module, default="auto"
        How to make a vector from the last feature map. "auto" is the network's
        own way: the input of its classifier, which is a hidden layer for VGG and
        AlexNet and the class token for most ViTs. The others pool the patch
        tokens of a ViT as a map, without class token and registers.

    image_size : int, default=None
        Side of the square images in pixels. None is the size at which the weights
        were trained, or any size if the network takes any. Position embeddings
        of another size are interpolated.

    resize_size : int or "source", default=None
        Length of the shorter side before the crop to the center (of both sides
        for "squash", of the longer one for "longest"). None is `image_size`, which
        cuts off least. "source" is the size of the transform that was published
        with the weights: torchvision evaluates its weights with 232 or 256 for
        224, which is better for classification and worse for retrieval.

    input_shape : tuple of int, default=None
        Height and width in pixels of the images if there is no `image_size`; None
        tries the network with 96 x 96. Lazy layers take their shapes from it, and
        a network for one size is an error if this is another.

    mean, std : sequence of 3 floats, default=None
        Mean and standard deviation of the training images' colors in [0, 1];
        None takes the values that the weights expect, and ImageNet's for a module.

    resize_mode : {"cover", "shortest", "squash", "longest"}, default=None
        How to fit images of another shape, see `sklearn_cbir.images.Resizing`.
        None takes the mode that the weights expect, and "cover" for torchvision,
        for built-in nets and for a module.

    interpolation : {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}, \
            default=None
        Filter; None takes the filter that the weights expect, else "bilinear".

    fill : sequence of 3 int, default=None
        Color of the padding of "longest", RGB in 0..255; None takes the color that
        the weights expect, else black.

    source : mapping, default=None
        ``spec["source"]`` of a trunk from one of the libraries in `SOURCES`: it
        builds the network again, without looking up its name or its tag.

    words : bool, default=False
        Whether the trunk also gets the text tower, if `backbone` is of open_clip
        and ``pooling="auto"``; see `Trunk.words`.

    in_features : int, default=None
        If given, the result is that of `build_mlp`, for rows with this many
        features; `backbone`, `weights` and the sizes are not used.

    Returns
    -------
    Trunk or RowTrunk
        In training mode, on the CPU; a RowTrunk if `in_features` is given.

    Raises
    ------
    ValueError
        For an unknown name, weights that do not fit, and a network that cannot
        take images of that size or with 3 channels, or has no published weights.
        For a `resize_size` below `image_size`, or without one, and for "source"
        if the weights have no transform of their own.

    FileNotFoundError
        If there is no file `weights`.

    ConnectionError
        If pretrained weights are neither cached nor can be downloaded.

    ImportError
        If timm or the package of packaged weights is needed and not installed,
        or torchvision does not work with the torch at hand.

    Examples
    --------
    >>> import torch
    >>> trunk = build_backbone("small")
    >>> trunk(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 256])
    """
    if in_features is not None:
        return build_mlp(in_features, mean=mean, std=std)
    return _build(
        backbone,
        weights=weights,
        pooling=pooling,
        image_size=image_size,
        resize_size=resize_size,
        input_shape=input_shape,
        mean=mean,
        std=std,
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill=fill,
        source=source,
        words=words,
    )


def build_again(spec: Mapping[str, Any], gives: tuple[int, int] | None) -> Trunk | RowTrunk:
    """Build the trunk of a `spec`, without a trial if what `gives` said of it is known."""
    return build_backbone(**spec) if gives is None else _build(**spec, gives=gives)


def gives(trunk: nn.Module) -> tuple[int, int] | None:
    """Return what a trial of a network with a name finds: its dimensions and channels.

    None for a network of the user's own, which a trial also gives its lazy layers, and for rows.
    """
    if not isinstance(trunk, Trunk) or not isinstance(trunk.spec["backbone"], str):
        return None
    return (2, trunk.width) if trunk.n_channels is None else (4, trunk.n_channels)


def _build(
    backbone: str | nn.Module | None,
    *,
    weights: Weights,
    pooling: Pooling,
    image_size: int | None,
    resize_size: ResizeSize,
    input_shape: Sequence[int] | None,
    mean: ArrayLike | None,
    std: ArrayLike | None,
    resize_mode: ResizeMode | None = None,
    interpolation: Interpolation | None = None,
    fill: Sequence[int] | None = None,
    source: Mapping[str, Any] | None = None,
    words: bool = False,
    gives: tuple[int, int] | None = None,
) -> Trunk:
    """Build a trunk for images; `gives` are the dimensions and channels of what comes out."""
    if image_size is not None:
        check_integer(image_size, "image_size", minimum=1)
    if resize_size is not None:
        check_resize_size(resize_size, "resize_size")
    net = _find(backbone, weights, pooling, image_size, source, words)
    image_size = net.image_size if image_size is None else int(image_size)
    resizing = _resizing_of(
        net,
        unchanged=resize_size == "source",
        given={"resize_mode": resize_mode, "interpolation": interpolation, "fill": fill},
    )
    resize_size = _resize_size(resize_size, image_size, net, backbone)
    shape = None if input_shape is None else tuple(input_shape)
    if shape is not None and not all(type(side) is int and side > 0 for side in shape):
        shape = tuple(check_integer(side, "input_shape", minimum=1) for side in shape)
    spec: TrunkSpec = {
        "backbone": cast("str | nn.Module", backbone),  # all else was refused above
        "weights": None,
        "pooling": pooling,
        "image_size": image_size,
        "resize_size": resize_size,
        "input_shape": shape,
        "mean": tuple(net.mean) if mean is None else colors(mean, "mean"),
        "std": tuple(net.std) if std is None else colors(std, "std"),
        "source": net.source,
        "words": net.words is not None,
        "resize_mode": resizing.resize_mode,
        "interpolation": resizing.interpolation,
        "fill": resizing.fill,
    }
    if net.n_channels is not None and isinstance(pooling, str):
        return Trunk(net.features, _named_pooling(pooling), net.n_channels, spec, net.n_channels)
    size = shape if image_size is None else (image_size, image_size)
    size = size or (PROBED_AT,) * 2
    if not net.one_size:
        # What takes 96 pixels takes more, and smaller is faster.
        size = tuple(min(side, PROBED_AT) for side in size)
    n_dimensions, channels = gives or probe(net.features, backbone, size)
    if isinstance(backbone, nn.Module) and weights is not None and weights not in PUBLISHED:
        # Only now have lazy layers the shapes that weights fit into.
        load_state(net.features, read_weights(weights), name_of(backbone))
    pool = _make_pooling(pooling, n_dimensions, backbone)
    width = pooled_width(pool, n_dimensions, channels)
    n_channels = channels if n_dimensions == 4 else None
    trunk = Trunk(net.features, pool, width, spec, n_channels, net.words)
    is_own = isinstance(backbone, nn.Module)
    if has_narrow_strides(net.features) or (is_own and not takes_channels_last(net.features, size)):
        trunk.memory_format = torch.contiguous_format
    return trunk


def _find(
    backbone: object,
    weights: Weights,
    pooling: Pooling,
    image_size: int | None,
    source: Mapping[str, Any] | None,
    words: bool,
) -> Net:
    """Net of a name or a module, with its weights."""
    if weights == PACKAGED:
        packaged_file(backbone)  # or says what is missing
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
    library, _, name = backbone.partition("/")
    if library in SOURCES:
        options = {"words": words} if library == "open_clip" else {}
        try:
            return SOURCES[library](name, weights, pooling, image_size, source, **options)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            if source is None and not is_place(name):
                raise
            raise ValueError(
                f"backbone={backbone!r} cannot be built: its configuration is not one that this "
                f"version of {library} reads ({type(error).__name__}: {error}). Look for what "
                "is missing in it, or install the version that made it."
            ) from error
    return from_torchvision(backbone, weights, pooling, image_size)


def origin_of(backbone: object) -> tuple[str | None, list[str]]:
    """Return the library that a name has as its prefix, and the files of the folder it names."""
    library, _, name = backbone.partition("/") if isinstance(backbone, str) else ("", "", "")
    if library not in SOURCES:
        return None, []
    return library, [str(file) for file in files_of(name)]


def check_resize_size(size: object, parameter: str) -> None:
    """Raise unless `size` is a number of pixels, or "source"."""
    if not isinstance(size, str):
        check_integer(size, parameter, minimum=1)
    elif size != "source":
        raise ValueError(f"{parameter}={shortened(size)} must be a number of pixels, or 'source'.")


def _resize_size(
    resize_size: ResizeSize, image_size: int | None, net: Net, backbone: object
) -> int | None:
    """Return the side to resize to, or raise if no crop fits into it."""
    if resize_size is None:
        return image_size
    shown = f"resize_size={resize_size!r}"
    if resize_size == "source" and net.source_resize is None:
        raise ValueError(
            f"{shown} takes the size from the transform that was published with the weights, and "
            f"backbone={name_of(backbone)} has none. Use a number of pixels, or None."
        )
    if image_size is None:
        raise ValueError(
            f"{shown} without image_size: backbone={name_of(backbone)} takes any size, so the "
            "size of the crop is unknown. Set image_size too."
        )
    resize = cast(int, net.source_resize) if resize_size == "source" else int(resize_size)
    if resize < image_size:
        raise ValueError(
            f"{shown} is smaller than image_size={image_size}, the square cut from the resized "
            "image. Use at least the same."
        )
    return resize


def _resizing_of(net: Net, *, unchanged: bool, given: dict[str, Any]) -> Resizing:
    """Return how images are resized: as given, or by the source unchanged, or by the network."""
    resizing = Resizing(net.resize_mode, net.interpolation, net.fill)
    if unchanged and net.source_resizing is not None:
        resizing = net.source_resizing
    given = {name: value for name, value in given.items() if value is not None}
    # What a library's configuration says is checked too; what is known here need not be.
    checked = given or net.source is not None
    return Resizing.of(vars(resizing) | given) if checked else resizing


def _make_pooling(pooling: Pooling, n_dimensions: int, backbone: object) -> nn.Module:
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


def _named_pooling(name: str) -> nn.Module:
    """Return a new pooling module; those with a name keep the number of channels."""
    return resolve(name, {"auto": AveragePooling, **POOLINGS}, "pooling")()
