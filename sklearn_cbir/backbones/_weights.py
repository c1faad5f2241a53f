"""Trained weights: files -> state dicts -> networks."""

import os
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from sklearn_cbir._files import is_of_content

Weights: TypeAlias = str | os.PathLike[str] | None  # "pretrained", a file, or none
PUBLISHED = ("pretrained", "imagenet")  # the words for the weights that a network is published with
# Where files of trainings keep a state dict, the best first: what was averaged over the training.
OF_TORCHVISION = re.compile("IMAGENET1K_|DEFAULT$")  # how it calls published weights
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "encoder")


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a state dict from a file.

    Parameters
    ----------
    path : str or path
        A file that ``torch.save`` wrote, or one that ends in .safetensors.
        Nothing in it is executed.

    Returns
    -------
    dict of str to Tensor
        On the CPU, without the prefixes that parallel or compiled training
        adds to the names.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    ValueError
        If it holds anything else than a state dict.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "weights.pt")
    ...     torch.save({"module.weight": torch.ones(2)}, path)
    ...     read_weights(path)
    {'weight': tensor([1., 1.])}
    """
    file = Path(path)
    if not file.is_file():
        published = " torchvision's own are 'pretrained'." * bool(OF_TORCHVISION.match(str(file)))
        raise FileNotFoundError(
            f"weights={str(file)!r} is not a file.{published} Pass the path of a state dict, "
            "'pretrained' or None."
        )
    try:
        state = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    except ImportError:
        raise
    except Exception as error:  # torch and safetensors raise of any kind, for what they cannot read
        if not is_of_content(error):
            raise
        raise ValueError(
            f"weights={str(file)!r} cannot be read as a state dict ({_fault(file, error)}). If "
            "it was downloaded, delete it and download it again. If it is yours, save it with "
            "torch.save(network.state_dict(), path)."
        ) from error
    for key in NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors = isinstance(state, dict) and all(isinstance(v, torch.Tensor) for v in state.values())
    if not tensors or not state:
        raise ValueError(
            f"weights={str(file)!r} does not hold a state dict of names and tensors. Save it "
            "with torch.save(network.state_dict(), path)."
        )
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in state.items()}


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f"Reading weights={str(path)!r} needs safetensors. Install it with "
            "pip install safetensors."
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _fault(path: Path, error: Exception) -> str:
    """Return what is wrong with a file; torch's own message advises to run the code in it."""
    with path.open("rb") as file:
        start = file.read(200).lstrip()
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is the pointer to a large file in Git: git lfs pull downloads the file"
    if start.startswith(b"<"):
        return "it is a web page"
    if "TorchScript" in str(error):
        return (
            "it is a TorchScript archive, which is code; if you trust it, "
            "torch.jit.load(path).state_dict() gives its weights"
        )
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        return f"it holds {found.group(1)}, which is code" if found else "it is not a file of torch"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def without_prefix(state: dict[str, torch.Tensor], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the part of a state dict that holds all `names` behind one prefix, if there is one.

    Networks are published inside of others: ``timm_model.`` by Hugging Face, ``visual.trunk.`` by
    open_clip, ``backbone.`` by whoever trained one.
    """
    names = [name for name in names if not name.endswith("num_batches_tracked")]
    if not names or names[0] in state:
        return state
    for key in state:
        prefix = key.removesuffix(names[0])
        if prefix.endswith(".") and all(prefix + name in state for name in names):
            return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    return state


def load_state(
    model: nn.Module, state: dict[str, torch.Tensor], name: str, optional: tuple[str, ...] = ()
) -> None:
    """Load all of `state` into `model`; names that start with `optional` are left as they are."""
    state = without_prefix(state, model.state_dict().keys())
    # Torchvision's DenseNet files have one dot more than its networks.
    state = {re.sub(r"(denselayer\d+\.\w+)\.(\d\.)", r"\1\2", k): v for k, v in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(optional)}
    target = model.state_dict()
    needed = {k for k in target if not k.startswith(optional) and "num_batches_tracked" not in k}
    shapes = [
        f"{key} {tuple(state[key].shape)}, not {tuple(target[key].shape)}"
        for key in target
        if key in state and state[key].shape != target[key].shape
    ]
    faults = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in (
            ("missing", needed - state.keys()),
            ("unexpected", state.keys() - target.keys()),
            ("of another shape", set(shapes)),
        )
        if keys
    ]
    if faults:
        raise ValueError(
            f"The weights do not fit backbone={name!r}: of its {len(target)} tensors "
            f"{'; '.join(faults)}. Pass the weights of the same network."
        )
    # Updating the model's own dict keeps the version numbers that its layers look at.
    target.update(state)
    model.load_state_dict(target)
