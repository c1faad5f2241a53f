"""State dicts as they are kept and loaded, and copies of modules without their weights."""

import copy

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from sklearn_cbir._validation import warn_user
from sklearn_cbir.backbones._probe import detached


def without_weights(module):
    """Return a copy whose tensors of the state dict are zeros that take no room.

    Everything else that training has changed is in it: buffers that are not persistent, counters,
    extra state.
    """
    without = {id(tensor): _zeros_like(tensor) for tensor in _state_tensors(module)}
    with torch.no_grad():
        return copy.deepcopy(module, detached(module) | without)


def with_room(module):
    """Return a copy of what `without_weights` made that weights can be loaded into."""
    module = copy.deepcopy(module, detached(module))
    for tensor in _state_tensors(module):
        if 0 in tensor.stride():
            tensor.data = torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
    return module


def _state_tensors(module):
    values = module.state_dict(keep_vars=True).values()
    return [value for value in values if isinstance(value, torch.Tensor)]


def _zeros_like(tensor):
    zeros = torch.zeros((), dtype=tensor.dtype, device="cpu").expand(tensor.shape)
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
    """Load the values of a state dict; what it lacks stays as it is.

    Updating the module's own dict keeps the version numbers that its layers look at. What that
    dict does not show, as where a module hides some of its weights, is not missed.
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
