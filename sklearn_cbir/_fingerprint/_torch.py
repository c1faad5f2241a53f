"""The content of modules, tensors and generators of torch."""

import torch
from torch import fx, nn
from torch.utils.hooks import RemovableHandle

_OWN_OPERATORS = {"aten", "prim", "prims", "quantized", "torchvision"}  # of torch and torchvision
# `fit` sets the mode of all parts; a graph is in the code that was made of it.
_NOT_OF_A_MODULE = {"training", "_graph", "_tracer_cls", "_codegen"}
_TABLES = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}


def _module(walk, module):
    """Class, hooks and all attributes of a module, its parts, parameters and buffers."""
    if isinstance(module, torch.jit.ScriptModule):
        walk.unknown("compiled by torch.jit")
    is_wrapped = type(module).__module__.startswith("torch._dynamo")
    if is_wrapped or getattr(module, "_compiled_call_impl", None) is not None:
        walk.unknown("compiled by torch.compile")
    if not walk.is_new(module):
        return
    walk.put("network")
    if isinstance(module, fx.GraphModule):
        walk.put(module.code)
    else:
        walk.add(type(module))
    attributes = vars(module)
    for table in ("_parameters", "_buffers", "_modules"):
        walk.put(table, str(len(attributes[table])))
        for name, value in attributes[table].items():  # in their order
            walk.add(value, name)
    walk.put("not persistent", *sorted(attributes["_non_persistent_buffers_set"]))
    hooks = {name for name in attributes if "_hooks" in name}
    for name in sorted(hooks):
        _hooks(walk, name, attributes)
    left_out = hooks | _TABLES | _NOT_OF_A_MODULE
    with walk.of(own=True):
        walk.add_named({name: v for name, v in attributes.items() if name not in left_out})


def _hooks(walk, name, attributes):
    """Hooks in their order: their keys count all hooks of the process."""
    hooks = attributes[name] or {}
    owner = next((k for k in ("_forward_pre_hooks", "_forward_hooks") if name.startswith(k)), name)
    positions = {key: position for position, key in enumerate(attributes[owner] or {})}
    walk.put(name, str(len(hooks)))
    for key, hook in hooks.items():
        walk.put(str(positions.get(key, "")))
        walk.add(hook, name)


def _tensor(walk, tensor):
    """Feed type, shape, values, and whether it is trained; not its device."""
    if not walk.is_new(tensor):
        return
    walk.put("tensor")
    walk.add(type(tensor))
    walk.put(str(tensor.dtype), str(tensor.requires_grad))
    for hooks in (tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)):
        walk.put("hooks")
        for hook in (hooks or {}).values():
            walk.add(hook)
    attributes = {k: v for k, v in vars(tensor).items() if k != "_backward_hooks"}
    walk.add_named(attributes)
    if nn.parameter.is_lazy(tensor):
        walk.put("without values yet")
        return
    try:
        values = tensor.detach().cpu().resolve_conj().resolve_neg()
        values = values.to_dense() if values.layout != torch.strided else values
        walk.put(str(tuple(values.shape)))
        walk.add(values.contiguous().reshape(-1).view(torch.uint8).numpy())
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        walk.unknown(f"a tensor, whose values cannot be read ({str(error).partition(chr(10))[0]})")


def _generator(walk, generator):
    if generator is torch.default_generator:
        walk.put("the global generator")
        return
    walk.put("generator", str(generator.device.type))
    walk.add(generator.get_state())


def _plain(walk, value):
    """What is wholly said by its text."""
    walk.put(type(value).__name__, str(value))


def _operator(walk, operator):
    """An operator by its name, unless the user's own is behind it."""
    name = str(operator)
    if name.partition(".")[0] not in _OWN_OPERATORS:
        walk.unknown(f"the operator {name}, whose code torch holds")
    walk.put("operator", name)


def _handle(walk, handle):  # noqa: ARG001 - as all of this table
    """What takes a hook away again; it knows the hook by a number that counts all of them."""
    walk.put("handle")


HANDLERS = (
    (RemovableHandle, _handle),
    ((torch._ops.OpOverload, torch._ops.OpOverloadPacket), _operator),
    (nn.Module, _module),
    (torch.Tensor, _tensor),
    (torch.Generator, _generator),
    ((torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size), _plain),
)
