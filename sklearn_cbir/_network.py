"""The network of an estimator: its layers, its device, its vectors, and its saved state."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from sklearn_cbir._devices import OwnDraws, first_line
from sklearn_cbir._fingerprint import fingerprint
from sklearn_cbir._forward import Source, forward
from sklearn_cbir._hidden_state import hidden_state
from sklearn_cbir._labels import shared_labels
from sklearn_cbir._locks import RENEWED
from sklearn_cbir._module_state import fill, load_values, with_room, without_copies, without_weights
from sklearn_cbir._validation import warn_user
from sklearn_cbir.backbones import ENHANCEMENTS, RowTrunk, Trunk
from sklearn_cbir.backbones._trunk import build_again, gives
from sklearn_cbir.images import Resizing

OWN_PARTS = {"backbone": "features", "pooling": "pooling"}  # of a trunk: the user's own modules
SLICE = 50  # features behind every output of a divided layer
N_LOOKED_AT = 128  # training images that are looked at after a training
ROUNDING = 4 * np.finfo(np.float32).eps  # of the largest value: what a search no longer sees


class DividedLayer(nn.Module):
    """Divide and encode: every output sees a slice of `SLICE` features that no other one sees."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.features = nn.Linear(n_in, SLICE * n_out)
        limit = SLICE**-0.5  # as torch's own linear layer
        self.weight = nn.Parameter(torch.empty(n_out, SLICE).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-limit, limit))

    def forward(self, x):
        # Without the ReLU this would be one linear layer.
        return self.encode(functional.relu(self.features(x)))

    def encode(self, features):
        """Return (n, n_out) from the slices (n, n_out * SLICE)."""
        slices = features.unflatten(1, self.weight.shape)
        return (slices * self.weight).sum(dim=2) + self.bias


def _latent_layer(n_in, n_out):
    layer = nn.Linear(n_in, n_out)
    nn.init.normal_(layer.weight, std=0.005)
    nn.init.ones_(layer.bias)
    return layer


# Each is called with the lengths of what goes in and comes out.
HASH_LAYERS = {"linear": nn.Linear, "divided": DividedLayer, "latent": _latent_layer}


def _enhancement(name, trunk):
    if trunk.n_channels is None:
        raise ValueError(
            f"enhance={name!r} needs a feature map, and backbone={trunk.spec['backbone']!r} with "
            f"pooling={trunk.spec['pooling']!r} gives vectors. With a named network, use "
            "pooling='avg', 'max' or 'gem' to get its feature map; or use enhance=None."
        )
    return ENHANCEMENTS[name](trunk.n_channels)


class Network(nn.Module):
    """Trunk, a neck that makes the vector, and a classifier for losses that need one.

    `enhance` names what happens to the trunk's feature maps before they are pooled, `hash_layer`
    what the neck is, and `hash_std` is the deviation of its weights at the start.
    """

    def __init__(
        self,
        trunk,
        n_components=None,
        n_classes=None,
        unit_length=False,
        enhance=None,
        hash_layer="linear",
        hash_std=None,
    ):
        super().__init__()
        self.placement = Placement()
        self.trunk = trunk
        self.width = n_components or trunk.width
        self.enhancement = _enhancement(enhance, trunk) if enhance else None
        make_neck = HASH_LAYERS[hash_layer]
        try:
            self.neck = make_neck(trunk.width, n_components) if n_components else nn.Identity()
        except (RuntimeError, TypeError, MemoryError) as error:
            raise ValueError(
                f"A layer from {trunk.width} to {n_components} numbers cannot be made "
                f"({first_line(error)}). Use fewer components, or fewer bits."
            ) from error
        if hash_std is not None and isinstance(self.neck, nn.Linear):
            nn.init.normal_(self.neck.weight, std=hash_std)
            nn.init.zeros_(self.neck.bias)
        self.classifier = nn.Linear(self.width, n_classes) if n_classes else None
        self.unit_length = unit_length
        self.memory_format = getattr(trunk, "memory_format", torch.channels_last)
        self.trunk_is_frozen = False  # then it stays in eval mode, and only the head is trained
        # Plain values to build it again, without weights.
        self.spec = {
            "trunk": trunk.spec,
            "n_components": n_components,
            "n_classes": n_classes,
            "unit_length": unit_length,
            "enhance": enhance,
            "hash_layer": hash_layer,
        }

    def portable_spec(self):
        """Return `spec` with the user's own modules as training has left them, without weights."""
        trunk = dict(self.spec["trunk"])
        for name, part in OWN_PARTS.items():
            if isinstance(trunk.get(name), nn.Module):
                trunk[name] = without_weights(getattr(self.trunk, part))
        return self.spec | {"trunk": trunk}

    @property
    def is_shareable(self):
        """Whether threads may compute side by side: a module of one's own may keep something."""
        spec = self.spec["trunk"]
        return not any(isinstance(spec.get(part), nn.Module) for part in OWN_PARTS)

    def train(self, mode=True):
        """Set the mode; a frozen trunk stays in eval mode."""
        super().train(mode)
        if self.trunk_is_frozen:
            self.trunk.eval()
        return self

    def vectors(self, x):
        """Return the outputs of the neck, (n, width), not normalized."""
        enhance, trunk = self.enhancement, self.trunk
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.trunk_is_frozen):
            features = trunk(x) if enhance is None else trunk.unpooled(x)
        if enhance is not None:
            features = trunk.pool(enhance(features))
        return self.neck(features)

    def embed(self, x):
        """Return the vector that `transform` gives, (n, width)."""
        vectors = self.vectors(x)
        return functional.normalize(vectors) if self.unit_length else vectors

    def forward(self, x):
        """Return the outputs for the loss: class scores, or the vectors that `transform` gives."""
        return self.embed(x) if self.classifier is None else self.classifier(self.vectors(x))


class Placement:
    """The device of a network, which is moved only while no thread computes with it."""

    def __init__(self):
        self.renew()
        RENEWED.add(self)  # in forked children

    def __reduce__(self):
        return Placement, ()

    def renew(self):
        """Forget the users, who are threads of the process that this one was forked from."""
        self._left = threading.Condition()
        self._n_users = 0
        self._device = None

    @contextlib.contextmanager
    def keep(self, network, device):
        """Keep `network` on `device`, ready to embed, as long as the block runs."""
        with self._left:
            self._left.wait_for(lambda: not self._n_users or self._device == device)
            if not self._n_users:
                network.to(device, memory_format=network.memory_format).eval()
                self._device = device
            self._n_users += 1
        try:
            yield
        finally:
            with self._left:
                self._n_users -= 1
                self._left.notify_all()


class MultiScale(nn.Module):
    """A network that sees every image at several scales: the mean of its vectors."""

    def __init__(self, network, scales):
        super().__init__()
        self.network = network
        self.placement = network.placement
        self.memory_format = network.memory_format
        self.is_shareable = network.is_shareable
        self.scales = scales
        # Torch has two filters with antialiasing.
        is_bicubic = network.trunk.resizing.interpolation == "bicubic"
        self.interpolation = "bicubic" if is_bicubic else "bilinear"

    def embed(self, x):
        """Return the mean vector, (n, width), of unit length if each of them is."""
        seen = (_resized(x, scale, self.interpolation) for scale in self.scales)
        vectors = [self.network.embed(images) for images in seen]
        mean = torch.stack(vectors).mean(dim=0)
        return functional.normalize(mean) if self.network.unit_length else mean


def _resized(x, scale, interpolation):
    """Images (n, 3, height, width) resized; only those that stay are still uint8."""
    if scale == 1:
        return x
    size = [max(1, round(scale * int(side))) for side in x.shape[2:]]  # int: also when traced
    resized = functional.interpolate(x.float(), size, mode=interpolation, antialias=True)
    # As in an image: bicubic passes black and white beside edges.
    return resized.clamp(0, 255) if interpolation == "bicubic" else resized


class PassRows(nn.Module):
    """Feature rows as they are: the trunk of an estimator that trains nothing."""

    image_size: None = None
    resize_size: None = None
    resizing: Resizing = Resizing()

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.width = n_features
        self.spec = {"n_features": n_features}

    def forward(self, x):
        return x


AnyTrunk: TypeAlias = Trunk | RowTrunk | PassRows

# What it gives ---------------------------------------------------------------------------------


class Embedder(Protocol):
    """A module that makes vectors of batches, on any device.

    With ``is_shareable = True``, several threads may call it at a time.
    """

    placement: Placement

    def embed(self, x: torch.Tensor, /) -> torch.Tensor:
        """Return one vector per row, (n, width)."""
        ...


def infer(
    network: Embedder,
    source: Source,
    batch_size: int,
    device: torch.device,
    ticks: Callable[[range], Iterable[int]] | None = None,
) -> NDArray[np.float32]:
    """Return `network.embed` of every row of `source`, (n, d), in order."""
    outputs: list[NDArray[np.float32]] = []
    n_done = 0
    is_shareable = getattr(network, "is_shareable", False)
    found = forward(network.embed, source, batch_size, device, ticks, is_shareable=is_shareable)
    with network.placement.keep(network, device), torch.inference_mode(), contextlib.closing(found):
        for rows in found:
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"X[{n_done + bad[0]}]: the network gave NaN or infinity. Check its weights."
                )
            outputs.append(rows)
            n_done += len(rows)
    return np.concatenate(outputs)


def warn_of_collapse(
    network: Network,
    source: Source,
    y: NDArray[Any],
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    gives: str,
    loss: object,
    lr: float,
) -> None:
    """Warn if nearly all images, of several labels, get one vector or code; -1 is no label."""
    rows = np.arange(len(y)) if y.ndim == 2 else np.flatnonzero(y >= 0)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(rows)[:N_LOOKED_AT])
    try:
        vectors = _vectors_of(network, source, rows, batch_size, device)
    except ValueError:
        return  # a file gone meanwhile: no reason to lose the training
    if not np.isfinite(vectors).all():
        return
    if gives == "code":
        alike = _equal(vectors >= 0)
    elif network.unit_length and network.width == 1:
        return  # 1 or -1, whatever they are of
    else:
        alike = _close(vectors)
    y = y[rows[alike]]
    if alike.mean() >= 0.95 and (shared_labels(y, y) == 0).mean() >= 0.1:
        name = getattr(loss, "__qualname__", type(loss).__name__)
        warn_user(
            f"{alike.sum()} of {len(rows)} training images get the same {gives} after training "
            f"with loss {name} at lr={lr!r}, although not all share a label: a search cannot "
            "tell them apart. Lower lr, train longer, or use another loss."
        )


def _vectors_of(
    network: Network,
    source: Source,
    rows: NDArray[np.int64],
    batch_size: int,
    device: torch.device,
) -> NDArray[np.float32]:
    """Return the vectors of a few rows, without the threads of `infer`, which pay for many."""
    with network.placement.keep(network, device), torch.inference_mode():
        parts = [
            network.embed(source.read(rows[start : start + batch_size]).to(device)).float().cpu()
            for start in range(0, len(rows), batch_size)
        ]
    return torch.cat(parts).numpy()


def _equal(codes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows are the most frequent one."""
    _, numbers, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return numbers.reshape(-1) == counts.argmax()  # numpy 2.0 gives a column


def _close(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows are the same but for rounding."""
    far = np.abs(vectors - np.median(vectors, axis=0)).max(axis=1)
    return far <= ROUNDING * np.abs(vectors).max()


# State -----------------------------------------------------------------------------------------


def portable_state(network: Network) -> dict[str, Any]:
    """Return a network as plain values, arrays and modules without weights, to be built again."""
    state = {"spec": network.portable_spec(), "weights": as_arrays(network.state_dict())}
    found = gives(network.trunk)
    return state if found is None else state | {"gives": found}


def stored_once(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an estimator whose own modules lack the weights that its network has.

    What training has changed is stored as it is, and as it was for another fit. Their names stand
    under "_shared".
    """
    shared = {}
    for parameter, weights in _weights_of_parts(state):
        state[parameter], shared[parameter] = without_copies(state[parameter], weights)
    return state | {"_shared": shared} if shared else state


def as_given(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an estimator whose own modules have all their weights again."""
    shared = state.pop("_shared", {})
    for parameter, weights in _weights_of_parts(state):
        fill(state[parameter], shared.get(parameter, ()), weights)
    return state


def _weights_of_parts(state: dict[str, Any]) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield the parameters that are modules, with the weights that the network has of each."""
    weights = state.get("_network_state", {}).get("weights", {})
    for parameter, part in OWN_PARTS.items():
        if isinstance(state.get(parameter), nn.Module):
            start = f"trunk.{part}."
            found = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            yield parameter, found


def as_arrays(state: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the tensors of a state dict as arrays; extra state goes with its module."""
    return {
        name: np.array(value.detach().cpu().numpy(), order="C")
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def training_state(
    network: Network, loss: object, y: NDArray[Any], target: NDArray[Any], asked: dict[str, Any]
) -> dict[str, Any]:
    """Return the state of a training, beside its network, that a fit with `warm_start` needs.

    It is what the loss has learned or drawn, which classes of `y` are not trained on, where
    `target` is -1, None for columns; and of the trunk what the user `asked` for (image_size,
    backbone, pooling), and which batch norms had no statistics to keep, None if none are kept.
    """
    learned = as_arrays(loss.state_dict()) if isinstance(loss, nn.Module) else {}
    is_kept = getattr(network.trunk, "frozen_batch_norm", False)
    trunk = {
        "image_size": None if asked["image_size"] is None else int(asked["image_size"]),
        "fresh_norms": network.trunk.fresh_norms if is_kept else None,
        "attributes": own_attributes(asked),
    }
    return {
        "loss": {"class": class_of(loss), "state": learned} if learned else None,
        "held_out": None if y.ndim == 2 else np.unique(y[target == -1]),
        "trunk": trunk,
    }


def own_attributes(asked: Mapping[str, Any]) -> dict[str, str]:
    """Return fingerprints of what the user's modules hold beside layers and weights."""
    found = {}
    for parameter in OWN_PARTS:
        module = asked[parameter]
        if isinstance(module, nn.Module):
            for (path, name), value in hidden_state(module).items():
                place = ".".join(filter(None, (parameter, path, name)))
                found[place] = fingerprint(value)
    return found


def class_of(thing: object) -> str:
    """Return the name by which a class is known again."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def rebuilt_network(state: dict[str, Any]) -> Network:
    """Return the network of a result of `portable_state`, ready to embed."""
    spec = state["spec"]
    with OwnDraws(0):  # all that is drawn is replaced by the weights
        trunk = _rebuilt_trunk(spec["trunk"], state.get("gives"))
        network = Network(trunk, **{k: v for k, v in spec.items() if k != "trunk"})
    # np.array: memory-mapped weights are read-only, and torch would write through that.
    weights = {k: torch.from_numpy(np.array(v)) for k, v in state["weights"].items()}
    load_values(network, weights)
    return network.eval()


def _rebuilt_trunk(spec: dict[str, Any], gives: tuple[int, int] | None) -> AnyTrunk:
    if "n_features" in spec:
        return PassRows(**spec)
    spec = {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in spec.items()}
    spec = {k: with_room(v) if isinstance(v, nn.Module) else v for k, v in spec.items()}
    return build_again(spec, gives)
