"""What a module holds beside its state dict, and copies of modules without their weights."""

import copy

import torch
from torch import nn

from sklearn_cbir.backbones._probe import detached

_OF_EVERY_MODULE = {*vars(nn.Module())}
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


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


def hidden_state(module):
    """Return ``{(path, name): value}`` of what the state dict leaves out and a file can hold.

    That is buffers that are not persistent and attributes of plain values and tensors, those of
    torch's own layers left out.
    """
    found = {}
    for path, part in module.named_modules():
        hidden = {name: part._buffers[name] for name in part._non_persistent_buffers_set}
        if not type(part).__module__.startswith("torch.nn."):
            own = {k: v for k, v in vars(part).items() if k not in _OF_EVERY_MODULE}
            hidden |= {name: value for name, value in own.items() if _is_plain(value)}
        found |= {(path, name): _detached(value) for name, value in hidden.items()}
    return found


def set_hidden_state(module, hidden):
    """Set what `hidden_state` returned."""
    for (path, name), value in hidden.items():
        part = module.get_submodule(path)
        if name in part._buffers:
            part._buffers[name] = None if value is None else value.to(_device_of(part, name))
        else:
            setattr(part, name, value)


def _device_of(part, name):
    buffer = part._buffers[name]
    return "cpu" if buffer is None else buffer.device


def _is_plain(value):
    """Whether a checkpoint can hold a value, and read it without executing anything."""
    if isinstance(value, dict):
        return all(isinstance(k, _PLAIN) and _is_plain(v) for k, v in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return type(value) in (torch.Tensor, *_PLAIN)


def _detached(value):
    """A copy that later training does not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_detached, value))
    return value


def copied_state(module):
    """Return a state dict that later training does not change."""
    state = module.state_dict()
    return {
        name: value.detach().clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }
