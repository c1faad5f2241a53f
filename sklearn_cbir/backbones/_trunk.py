"""The trunk that all backbones become, and the network without its classifier that it wraps."""

from dataclasses import dataclass

import torch
from torch import nn

from sklearn_cbir.backbones._probe import name_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class Net:
    """A network without its classifier, and the images it was made for."""

    features: nn.Module
    image_size: int | None = None
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    one_size: bool = False
    n_channels: int | None = None  # of its feature maps, where that is known without a trial


class Trunk(nn.Module):
    """A network from uint8 images to one vector each.

    Built by `build_backbone`.

    Parameters
    ----------
    features : Module
        From normalized images to feature maps or vectors.

    pooling : Module
        From what `features` gives to vectors.

    width : int
        Length of the vectors.

    spec : dict
        Arguments of `build_backbone` that build this trunk again, without its
        weights.

    n_channels : int, default=None
        Channels of the feature maps; None if `features` gives vectors.

    Attributes
    ----------
    image_size, resize_size : int or None
        Images come as the centered square of `image_size` pixels of an image
        whose shorter side has `resize_size` pixels. None: any size.

    frozen_batch_norm : bool
        Whether batch normalization keeps its statistics while training.

    memory_format : torch.memory_format
        Layout that `features` works with: channels last, which is faster, unless
        its ``forward`` fails on that.

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

    def __init__(self, features, pooling, width, spec, n_channels=None):
        super().__init__()
        self.features = features
        self.pooling = pooling
        self.width = width
        self.spec = spec
        self.n_channels = n_channels
        self.image_size = spec["image_size"]
        self.resize_size = spec["resize_size"]
        self.frozen_batch_norm = False
        self.memory_format = torch.channels_last
        self._fresh_norms = []
        # In units of uint8, (3, 1, 1); not persistent, since `spec` carries them.
        mean, std = (
            255 * torch.tensor(spec[key], dtype=torch.float32).reshape(3, 1, 1)
            for key in ("mean", "std")
        )
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images):
        """Vectors (n, width) of uint8 images (n, 3, height, width)."""
        return self.pool(self.unpooled(images))

    def unpooled(self, images):
        """Return feature maps, or vectors where the network has none.

        Parameters
        ----------
        images : uint8 tensor of shape (n, 3, height, width)
            As `forward` takes them.

        Returns
        -------
        tensor of shape (n, n_channels, h, w) or (n, width)
            What `features` gives.
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
        self._check_maps(maps, len(images))
        return maps

    def _check_maps(self, maps, n):
        """Raise unless the network gives for `n` images what it gave for one."""
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
                "there too: take its second output out, such as aux_logits=False."
            )
        raise ValueError(
            f"backbone={name} gives a tensor of shape {tuple(maps.shape)} for {n} images in "
            f"{mode}, but it gave {'vectors' if is_vectors else 'feature maps'} of {wanted[1]} "
            "numbers for one image before. It must give the same for every image, in any number, "
            "in training and in evaluation."
        )

    def pool(self, maps):
        """Return vectors of what `unpooled` gives.

        Parameters
        ----------
        maps : tensor of shape (n, n_channels, h, w) or (n, width)
            Feature maps or vectors.

        Returns
        -------
        tensor of shape (n, width), float32
            What `forward` returns.
        """
        vectors = self.pooling(maps)
        if vectors.shape != (len(maps), self.width):
            raise ValueError(
                f"pooling={type(self.pooling).__name__} makes {tuple(vectors.shape)} of feature "
                f"maps {tuple(maps.shape)}. It must make vectors ({len(maps)}, {self.width}), as "
                "it did before."
            )
        return vectors.float()

    def train(self, mode=True):
        """Switch to training, leaving frozen batch normalization as it is."""
        super().train(mode)
        if self.frozen_batch_norm:
            freeze_batch_norm(self)
            for module in self._fresh_norms:
                module.train(mode)
        return self

    @property
    def fresh_norms(self):
        """Numbers of the batch norms that learn their statistics, None if all of them do."""
        if not self.frozen_batch_norm:
            return None
        return [n for n, norm in enumerate(_running_norms(self)) if norm in self._fresh_norms]

    def keep_statistics(self, fresh=None):
        """Freeze the batch norms, but for those that have no statistics to keep yet.

        Parameters
        ----------
        fresh : list of int, default=None
            Numbers of those, as `fresh_norms` gives them; None looks at the
            statistics.
        """
        self.frozen_batch_norm = True
        norms = _running_norms(self)
        if fresh is None:
            self._fresh_norms = [norm for norm in norms if _is_fresh(norm)]
        else:
            self._fresh_norms = [norms[number] for number in fresh]


def is_trained(network):
    """Whether normalization shows training: True without running statistics, which tell nothing.

    The statistics decide and not the count of batches, which converted and old files lack.
    """
    norms = _running_norms(network)
    return not norms or not all(map(_is_fresh, norms))


def _running_norms(network):
    """Return the layers that normalize with running statistics: batch norms of any make."""
    return [
        module
        for module in network.modules()
        if isinstance(getattr(module, "running_mean", None), torch.Tensor)
        and isinstance(getattr(module, "running_var", None), torch.Tensor)
    ]


def _is_fresh(norm):
    """Whether the statistics are those that a new layer has."""
    return bool((norm.running_mean == 0).all() and (norm.running_var == 1).all())


def freeze_batch_norm(network):
    """Let batch normalization use the statistics it has; its weights still train.

    So does any other layer with running statistics, such as an instance norm
    that tracks them.

    Lasts until the next ``network.train()``; set ``trunk.frozen_batch_norm``
    to make it last.

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
