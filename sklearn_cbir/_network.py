"""The network of an estimator: trunk, neck and classifier."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sklearn_cbir._devices import OwnDraws, Placement, first_line
from sklearn_cbir._module_state import load_values, with_room, without_weights
from sklearn_cbir.backbones import ENHANCEMENTS, build_backbone

SLICE = 50  # features behind every output of a divided layer


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
            f"pooling={trunk.spec['pooling']!r} gives vectors. Networks of torchvision pool their "
            "maps themselves unless pooling is 'avg', 'max' or 'gem'; or use enhance=None."
        )
    return ENHANCEMENTS[name](trunk.n_channels)


class Network(nn.Module):
    """Trunk, a neck that makes the vector, and a classifier for losses that need one.

    `enhance` names what happens to the trunk's feature maps before they are pooled, `hash_layer`
    what the neck is.
    """

    def __init__(
        self,
        trunk,
        n_components=None,
        n_classes=None,
        unit_length=False,
        enhance=None,
        hash_layer="linear",
    ):
        super().__init__()
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
        self.classifier = nn.Linear(self.width, n_classes) if n_classes else None
        self.unit_length = unit_length
        self.placement = Placement()
        self.memory_format = getattr(trunk, "memory_format", torch.channels_last)
        self.trunk_is_frozen = False
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
        for name, part in (("backbone", "features"), ("pooling", "pooling")):
            if isinstance(trunk.get(name), nn.Module):
                trunk[name] = without_weights(getattr(self.trunk, part))
        return self.spec | {"trunk": trunk}

    def head_parameters(self):
        """Return the named parameters that do not belong to the trunk."""
        return [(n, p) for n, p in self.named_parameters() if not n.startswith("trunk.")]

    def freeze_trunk(self, frozen):
        """Train the head alone, with the trunk in eval mode, or everything."""
        self.trunk_is_frozen = frozen

    def train(self, mode=True):
        """Set the mode; a frozen trunk stays in eval mode."""
        super().train(mode)
        if self.trunk_is_frozen:
            self.trunk.eval()
        return self

    def vectors(self, x):
        """Return what the neck gives, (n, width), of any length."""
        enhanced = self.enhancement is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.trunk_is_frozen):
            features = self.trunk.unpooled(x) if enhanced else self.trunk(x)
        if enhanced:
            features = self.trunk.pool(self.enhancement(features))
        return self.neck(features)

    def embed(self, x):
        """Return the vector that `transform` gives, (n, width)."""
        vectors = self.vectors(x)
        return functional.normalize(vectors) if self.unit_length else vectors

    def forward(self, x):
        """Return what the loss takes: class scores, or the vectors that `transform` gives."""
        return self.embed(x) if self.classifier is None else self.classifier(self.vectors(x))


class MultiScale(nn.Module):
    """A network that sees every image at several scales: the mean of its vectors."""

    def __init__(self, network, scales):
        super().__init__()
        self.network = network
        self.placement = network.placement
        self.memory_format = network.memory_format
        self.scales = scales

    def embed(self, x):
        """Return the mean vector, (n, width), of unit length if each of them is."""
        vectors = [self.network.embed(_resized(x, scale)) for scale in self.scales]
        mean = torch.stack(vectors).mean(dim=0)
        return functional.normalize(mean) if self.network.unit_length else mean


def _resized(x, scale):
    """Images (n, 3, height, width) resized; only those that stay are still uint8."""
    if scale == 1:
        return x
    size = [max(1, round(scale * side)) for side in x.shape[2:]]
    return functional.interpolate(x.float(), size, mode="bilinear", antialias=True)


class PassRows(nn.Module):
    """Feature rows as they are: the trunk of an estimator that trains nothing."""

    image_size = None

    def __init__(self, n_features):
        super().__init__()
        self.width = n_features
        self.spec = {"n_features": n_features}

    def forward(self, x):
        return x


# State -----------------------------------------------------------------------------------------


def portable_state(network):
    """Return what builds a network again: plain values, arrays, and modules without weights."""
    weights = {
        name: np.array(value.cpu().numpy(), order="C")
        for name, value in network.state_dict().items()
        if isinstance(value, torch.Tensor)  # extra state goes with its module
    }
    return {"spec": network.portable_spec(), "weights": weights}


def rebuilt_network(state):
    """Return the network, ready to embed, of what `portable_state` has returned."""
    spec = state["spec"]
    with OwnDraws(0):  # all that is drawn is replaced by the weights
        trunk = _rebuilt_trunk(spec["trunk"])
        network = Network(trunk, **{k: v for k, v in spec.items() if k != "trunk"})
    # np.array: memory-mapped weights are read-only, and torch would write through that.
    weights = {k: torch.from_numpy(np.array(v)) for k, v in state["weights"].items()}
    load_values(network, weights)
    return network.eval()


def _rebuilt_trunk(spec):
    if "n_features" in spec:
        return PassRows(**spec)
    spec = {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in spec.items()}
    return build_backbone(
        **{k: with_room(v) if isinstance(v, nn.Module) else v for k, v in spec.items()}
    )
