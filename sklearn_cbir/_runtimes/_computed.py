"""Which runtime computes, and for how many images."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._network import OWN_PARTS, MultiScale, Network
from sklearn_cbir._runtimes._openvino import Converted, NotConverted, is_installed, is_left_behind
from sklearn_cbir._validation import warn_user

if TYPE_CHECKING:
    from sklearn_cbir._typing import Runtime

ENOUGH = 400 * 224**2  # pixels; from there on it pays to convert a network
AT_ONCE = 6 * 224**2  # pixels for torch; tensors above 32 MB are new memory for every layer
CONVERTING = ProcessLock()  # one conversion at a time

Graphs: TypeAlias = dict[object, Converted | NotConverted]  # by scales and size of the images
Embed: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
Used: TypeAlias = Literal["torch", "openvino"]


def usable(
    runtime: Runtime, trunk: Mapping[str, Any], device: torch.device
) -> tuple[Used, str | None]:
    """Return the runtime in use here, and why it is not the requested one; None if it is.

    `trunk` is the spec of the network's trunk.
    """
    if runtime == "torch" or device.type != "cpu" or "image_size" not in trunk:
        return "torch", None
    if not is_installed():
        return "torch", "openvino is not installed: pip install 'sklearn-cbir[openvino]'"
    if is_left_behind():
        return "torch", "OpenVINO was used in the process that this one was forked from"
    if runtime == "auto" and any(isinstance(trunk[name], nn.Module) for name in OWN_PARTS):
        # What a fixed graph may get wrong, and nobody has looked at.
        return "torch", "your own backbone or pooling is converted only with runtime='openvino'"
    return "openvino", None


def is_enough(n_images: int, size: tuple[int, ...]) -> bool:
    """Whether it pays to convert a network for so many images of a height and width."""
    return n_images * math.prod(size) >= ENOUGH


def warn_once(network: Network, message: str) -> None:
    """Warn once for each network."""
    kept = _KEPT.setdefault(network, _Kept())
    if not kept.is_told:
        kept.is_told = True
        warn_user(message)


@dataclass
class _Kept:
    """State that is kept as long as its network exists."""

    n_pixels: int = 0  # that were asked for
    is_told: bool = False
    converted: Graphs = field(default_factory=dict)


_KEPT: WeakKeyDictionary[Network, _Kept] = WeakKeyDictionary()


def cannot_be_converted(network: Network) -> bool:
    """Whether a conversion of a network was tried and failed, for any size of images."""
    kept = _KEPT.get(network)
    return kept is not None and any(
        isinstance(found, NotConverted) for found in list(kept.converted.values())
    )


class Computed(nn.Module):
    """A network on a processor, which another runtime may replace.

    Parameters
    ----------
    seen : Network or MultiScale
        Makes the vectors.

    runtime : {"torch", "openvino"}
        Runtime that may be used.

    is_late : bool
        Whether torch computes until enough images were requested.

    n_images : int
        Number of images in this request.

    Attributes
    ----------
    failed : str or None
        Why the network could not be converted, if a conversion was tried.
    """

    def __init__(
        self, seen: Network | MultiScale, runtime: Used, is_late: bool, n_images: int
    ) -> None:
        super().__init__()
        self.seen = seen
        self.placement = seen.placement
        self.memory_format = seen.memory_format
        self.is_shareable = seen.is_shareable
        self.runtime = runtime
        self.is_late = is_late
        self.n_images = n_images
        self.failed: str | None = None
        self._embed: Embed | None = None
        self._choosing = threading.Lock()

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the vectors of uint8 images (n, 3, height, width), which all have one size."""
        with self._choosing:  # once for all threads
            if self._embed is None:
                self._embed = self._choose(tuple(images.shape[2:]))
        try:
            return self._embed(images)
        except NotConverted as error:
            self._graphs[self._key] = error
            self.failed = str(error)
            self._embed = self._in_pieces
            return self._in_pieces(images)

    def _choose(self, size: tuple[int, ...]) -> Embed:
        if self.runtime == "torch":
            return self._in_pieces
        if isinstance(self.seen, MultiScale):
            network, scales = self.seen.network, tuple(self.seen.scales)
        else:
            network, scales = self.seen, (1.0,)
        with CONVERTING:
            kept = _KEPT.setdefault(network, _Kept())
            kept.n_pixels += self.n_images * math.prod(size)
            if self.is_late and kept.n_pixels < ENOUGH:
                return self._in_pieces
            self._graphs, self._key = kept.converted, (scales, size)
            if self._key not in self._graphs:
                self._graphs[self._key] = _converted(self.seen, size)
            converted = self._graphs[self._key]
        if isinstance(converted, Converted):
            return partial(converted.embed, seen=self.seen)
        self.failed = str(converted)
        return self._in_pieces

    def _in_pieces(self, images: torch.Tensor) -> torch.Tensor:
        """Return torch's vectors of a batch, in pieces of a size with which it is fast."""
        n = max(1, AT_ONCE // math.prod(images.shape[2:]))
        return torch.cat([self.seen.embed(piece) for piece in images.split(n)])


def _converted(seen: Network | MultiScale, size: tuple[int, ...]) -> Converted | NotConverted:
    try:
        return Converted(seen, size)
    except NotConverted as reason:
        return reason
