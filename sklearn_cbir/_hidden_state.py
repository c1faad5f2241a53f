"""State of modules, losses and optimizers outside their state dicts, in a form for checkpoints.

A value becomes a tuple of the name of its kind and its parts, which torch's safe reader accepts.
Other objects, such as those of the user's own classes, cannot be kept; only a change of them can be
detected.
"""

import collections
import random
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from sklearn_cbir._fingerprint import Unknown, fingerprint

_OF_EVERY_MODULE = {*vars(nn.Module())}
_HOOKS = sorted(name for name in _OF_EVERY_MODULE if name.endswith("_hooks"))
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# They are seeded anew in every epoch.
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_OTHERS = ("torch.", "torchvision.", "skorch.")  # whose objects keep nothing but plain values
_CONTAINERS = {
    kind.__name__: kind for kind in (list, tuple, set, frozenset, dict, collections.OrderedDict)
}


class NotKept(Exception):
    """A value that a checkpoint cannot hold."""


def hidden_state(part):
    """Return ``{(path, name): encoded value}`` of what the state dict of `part` leaves out.

    That is buffers that are not persistent, weights that a module does not show, and attributes of
    plain values, tensors and numpy arrays, also in containers. `part` may be an optimizer too.
    """
    known = _known(part)
    found = {}
    for path, owner in _owners(part):
        for name, value in _hidden(part, path, owner).items():
            try:
                registered = name in _registered(owner)
                found[path, name] = encoded(value, {} if registered else known)
            except (NotKept, RecursionError):
                continue
    return found


def set_hidden_state(part, hidden):
    """Set what `hidden_state` returned."""
    owners = dict(_owners(part))
    for (path, name), value in hidden.items():
        owner = owners[path]
        decoded: Any = _decoded(value, part)
        if name not in _registered(owner):
            setattr(owner, name, decoded)
        elif name in owner._parameters:
            with torch.no_grad():
                cast(torch.Tensor, owner._parameters[name]).copy_(decoded)
        else:
            buffer = owner._buffers[name]
            device = "cpu" if buffer is None else buffer.device
            owner._buffers[name] = None if decoded is None else decoded.to(device)


def unkept(part, tensors=()):
    """Return ``{(path, name): fingerprint}`` of attributes that a checkpoint cannot hold.

    A fingerprint that cannot be known is a new object every time, equal to no other. `tensors` are
    kept elsewhere.
    """
    known = _known(part) | {id(tensor): "" for tensor in tensors}
    found = {}
    for path, owner in _owners(part):
        if type(owner).__module__.startswith(_OTHERS):
            continue
        values = _hidden(part, path, owner)
        if isinstance(owner, nn.Module):
            values |= {name: vars(owner)[name] for name in _HOOKS if vars(owner)[name]}
        for name, value in values.items():
            try:
                encoded(value, known)
            except (NotKept, RecursionError):
                found[path, f"{type(owner).__name__}.{name}"] = _fingerprint(value)
    return found


def kept_state(state):
    """Return a state dict that a checkpoint can hold, or raise NotKept for its extra state."""
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return tensors | {k: encoded(value) for k, value in state.items() if k not in tensors}


def restored_state(kept):
    """Return the state dict that `kept_state` was given."""
    return {k: v if isinstance(v, torch.Tensor) else _decoded(v, None) for k, v in kept.items()}


def encoded(value, known=None):
    """Return a copy of a value that a checkpoint can hold, or raise NotKept."""
    known = known or {}
    if id(value) in known:
        return ("own", known[id(value)])
    kind = type(value)
    if kind is nn.Parameter and not known:
        return ("tensor", value.detach().clone(), False)
    if kind in _PLAIN:
        return ("plain", value)
    if kind is torch.Tensor:
        return ("tensor", value.detach().clone(), value.requires_grad and value.is_leaf)
    if kind is np.ndarray or isinstance(value, np.generic):
        return _encoded_array(value)
    if kind is collections.deque:
        return ("deque", [encoded(item, known) for item in value], value.maxlen)
    if _CONTAINERS.get(kind.__name__) is not kind:
        raise NotKept
    if isinstance(value, dict):
        items = [(encoded(key, known), encoded(item, known)) for key, item in value.items()]
    else:
        items = [encoded(item, known) for item in value]
    return (kind.__name__, items)


def _encoded_array(value):
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.names:
        raise NotKept
    kind = "array" if isinstance(value, np.ndarray) else "scalar"
    return (kind, array.dtype.str, list(array.shape), array.tobytes())


def _decoded(value, part):
    kind, content, *more = value
    if kind == "plain":
        return content
    if kind == "own":
        names = [one for one in content.split(".") if one]
        owner = part
        for name in names:
            owner = getattr(owner, name)
        return owner
    if kind == "tensor":
        tensor = content.clone().to(_device_of(part))
        return tensor.requires_grad_(more[0]) if more[0] else tensor
    if kind in ("array", "scalar"):
        array = np.empty(more[0], dtype=content)
        if array.size:
            array[...] = np.ndarray(more[0], dtype=content, buffer=more[1])
        return array if kind == "array" else array[()]
    if kind == "deque":
        return collections.deque([_decoded(item, part) for item in content], *more)
    if kind in ("dict", "OrderedDict"):
        items = [(_decoded(key, part), _decoded(item, part)) for key, item in content]
        return _CONTAINERS[kind](items)
    return _CONTAINERS[kind](_decoded(item, part) for item in content)


def _device_of(part):
    first = next(part.parameters(), None) if isinstance(part, nn.Module) else None
    return "cpu" if first is None else first.device


def _known(part):
    """Return the names of all modules, parameters and buffers by their ids."""
    if not isinstance(part, nn.Module):
        return {}
    named = [*part.named_modules(), *part.named_parameters(), *part.named_buffers()]
    return {id(value): name for name, value in named}


def _owners(part):
    """Return (path, object) of all parts that may have a state which no state dict shows."""
    if isinstance(part, nn.Module):
        return list(part.named_modules())
    return [] if type(part).__module__.startswith(_OTHERS) else [("", part)]


def _registered(owner):
    """Return the names of the parameters and buffers of a module; an optimizer has none."""
    if not isinstance(owner, nn.Module):
        return set()
    return {*owner._parameters.keys(), *owner._buffers.keys()}


def _hidden(part, path, owner):
    """Return attributes of `owner`, at `path` in `part`, that the state dict does not show."""
    if not isinstance(owner, nn.Module):
        usual = vars(torch.optim.SGD([torch.zeros(1)], lr=1.0))
        return {k: v for k, v in vars(owner).items() if k not in usual}
    shown = _shown(part, path, owner)
    hidden = {name: value for name, value in owner._buffers.items() if name not in shown}
    hidden |= {k: v for k, v in owner._parameters.items() if k not in shown and v is not None}
    own = {k: v for k, v in vars(owner).items() if k not in _OF_EVERY_MODULE}
    return hidden | {k: v for k, v in own.items() if not isinstance(v, _GENERATORS)}


def _shown(part, path, owner):
    """Return the names of the parameters and buffers of `owner` that the state dict shows."""
    if type(owner).state_dict is nn.Module.state_dict is type(part).state_dict:
        return _registered(owner) - owner._non_persistent_buffers_set
    prefix = f"{path}." if path else ""
    names = {name.removeprefix(prefix) for name in part.state_dict() if name.startswith(prefix)}
    return {name for name in names if "." not in name}


def _fingerprint(value):
    try:
        return fingerprint(value)
    except Unknown:
        return object()
