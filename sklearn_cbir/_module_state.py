"""State dicts as they are kept and loaded, and copies of modules without their weights."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from sklearn_cbir._validation import warn_user
from sklearn_cbir.backbones._probe import detached


def without_weights(module):
    """Return a copy whose tensors of the state dict are zeros that take no room.

    Everything else that training has changed is in it: buffers that are not persistent, counters,
    extra state.
    """
    return _with_zeros(module, _state_tensors(module))


def with_room(module):
    """Return a copy of a result of `without_weights` into which weights can be loaded."""
    module = copy.deepcopy(module, detached(module))
    for tensor in _state_tensors(module):
        if 0 in tensor.stride():
            tensor.data = torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
    return module


def without_copies(
    module: nn.Module, weights: Mapping[str, NDArray[Any]]
) -> tuple[nn.Module, list[str]]:
    """Return a copy without the tensors whose values, to the last bit, `weights` has too.

    Returned with it are their names, for `fill`.
    """
    tensors = module.state_dict(keep_vars=True)
    names = [name for name in tensors if name in weights and _has(tensors[name], weights[name])]
    return _with_zeros(module, [tensors[name] for name in names], on_cpu=False), names


def fill(module: nn.Module, names: Iterable[str], weights: Mapping[str, NDArray[Any]]) -> None:
    """Give a module the tensors that `without_copies` has left out."""
    tensors = module.state_dict(keep_vars=True)
    for name in names:
        tensors[name].data = _of(weights[name]).to(tensors[name].device, tensors[name].dtype)


def _of(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor of its own: arrays that are mapped into memory may not be written."""
    return torch.from_numpy(np.array(array))


def _has(tensor: object, array: NDArray[Any]) -> bool:
    """Whether an array holds the numbers of a tensor, perhaps in a type that loses none of them."""
    kinds = (torch.Tensor, nn.Parameter)  # no lazy ones, which have no numbers yet
    if not isinstance(tensor, torch.Tensor) or type(tensor) not in kinds:
        return False
    values = tensor.detach().cpu()
    if values.shape != array.shape or values.numel() < 2:
        return False
    return torch.equal(_bits(values), _bits(_of(array).to(values.dtype)))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def _state_tensors(module):
    values = module.state_dict(keep_vars=True).values()
    return [value for value in values if isinstance(value, torch.Tensor)]


def _with_zeros(module: nn.Module, tensors: list[torch.Tensor], on_cpu: bool = True) -> nn.Module:
    """Return a copy of a module in which some tensors are zeros that take no room."""
    zeros = {id(tensor): _zeros_like(tensor, on_cpu) for tensor in tensors}
    with torch.no_grad():
        return copy.deepcopy(module, detached(module) | zeros)


def _zeros_like(tensor: torch.Tensor, on_cpu: bool) -> torch.Tensor:
    device = "cpu" if on_cpu else tensor.device
    zeros = torch.zeros((), dtype=tensor.dtype, device=device).expand(tensor.shape)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(zeros, requires_grad=tensor.requires_grad)
    return zeros


def copied_state(module):
    """Return a state dict that later training does not change."""
    state = module.state_dict()
    return {
        name: value.detach().clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }


def load_values(module, values):
    """Load the values of a state dict; other values do not change.

    Updating the module's own dict keeps the version numbers that its layers check. It also allows
    for weights that a module hides, which its dict does not show.
    """
    state = module.state_dict()
    state.update(values)
    unexpected = module.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(
            f"The saved weights do not fit {type(module).__name__}: it has no "
            f"{', '.join(sorted(unexpected)[:3])}."
        )


def warn_of_pickling(trunk, name):
    """Warn if torch does not pickle a part of the trunk of an estimator called `name`."""
    if any(map(is_parametrized, trunk.modules())):
        reason = "modules with parametrizations, such as spectral_norm and weight_norm"
        way_out = "Take them out for that, with torch.nn.utils.parametrize.remove_parametrizations."
    elif any(isinstance(part, torch.jit.ScriptModule) for part in trunk.modules()):
        reason = "modules that torch.jit has scripted or traced"
        way_out = "Pass the module that they were made of."
    else:
        return
    warn_user(
        f"{name} trains and transforms with this backbone or pooling, but cannot be pickled: torch "
        f"does not pickle {reason}. {way_out}"
    )
