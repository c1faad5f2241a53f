"""The user's own modules in files without pickle: by name, with the tensors of a state dict.

A file holds neither classes nor attributes. The user who loads it says what builds a module of each
name, so a file can only use these names, and fill tensors of the same shapes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sklearn_cbir._fingerprint import fingerprint
from sklearn_cbir._hidden_state import hidden_state
from sklearn_cbir._validation import shortened

Builder: TypeAlias = Callable[[], nn.Module]
Modules: TypeAlias = Iterable[type[nn.Module]] | Mapping[str, Builder] | None
# Types of tensors that a file may name, and those of numpy that stand for what numpy lacks.
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.complex64, torch.complex128),
    )
}
STAND_INS = {torch.bfloat16: torch.int16}


def builders_of(modules: Modules) -> dict[str, Builder]:
    """Return what builds modules, by name, of a dictionary of such or of classes."""
    wanted = (
        "Pass a list of classes of modules, or a dictionary of names and of functions that build "
        "modules."
    )
    if isinstance(modules, (str, type, nn.Module)) or not isinstance(modules, Iterable | None):
        raise ValueError(f"modules={shortened(modules)} is not a list. {wanted}")
    if isinstance(modules, Mapping):
        named: list[tuple[object, object]] = list(modules.items())
    else:
        classes = [] if modules is None else list(modules)
        named = [(getattr(cls, "__name__", cls), cls) for cls in classes]
    found: dict[str, Builder] = {}
    for name, build in named:
        if not isinstance(name, str) or not callable(build) or isinstance(build, nn.Module):
            raise ValueError(
                f"modules holds an object of class {type(build).__name__}, not the class. {wanted}"
                if isinstance(build, nn.Module)
                else f"modules holds {shortened(build)}, called {shortened(name)}. {wanted}"
            )
        if name in found:
            raise ValueError(
                f"modules holds two classes with the name {name!r}. Pass a dictionary with "
                "names of your own."
            )
        found[name] = cast(Builder, build)
    return found


def name_of(module: nn.Module, builders: dict[str, Builder], where: str) -> str | None:
    """Return the name of what builds such a module, None if nothing does, or say what differs."""
    differences = []
    for name, build in builders.items():
        if isinstance(build, type) and build is not type(module):
            continue
        built = _build(name, build)
        if type(built) is not type(module):
            continue
        difference = _difference(module, built)
        if difference is None:
            return name
        differences.append(
            f"modules[{name!r}] builds another {type(module).__name__}: {difference}"
        )
    if not differences:
        return None
    raise ValueError(
        f"{where} cannot be saved without pickle: {'; '.join(differences)}. Pass a function "
        "that builds the same module, and keep everything that training changes in parameters "
        "and buffers."
    )


def tensors_of(module: nn.Module) -> Iterator[tuple[str, str, torch.Tensor | None]]:
    """Yield name, type and values of what a state dict holds; None where they are kept elsewhere.

    One tensor under several names is given under the first, and None under the others.
    """
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        is_elsewhere = id(tensor) in seen or (0 in tensor.stride() and not tensor.any())
        seen.add(id(tensor))
        if is_elsewhere:
            yield name, dtype, None
        else:
            values = tensor.detach().cpu()
            yield name, dtype, values.contiguous().view(STAND_INS.get(values.dtype, values.dtype))


def frozen_of(module: nn.Module) -> list[str]:
    """Return the names of the parameters that are not trained."""
    return [name for name, tensor in module.named_parameters() if not tensor.requires_grad]


def rebuilt(
    name: str,
    build: Builder,
    tensors: dict[str, tuple[str, torch.Tensor | None]],
    frozen: list[str],
) -> nn.Module:
    """Return a new module with the tensors of a file."""
    module = _build(name, build)
    state = module.state_dict(keep_vars=True)
    values = {k: v.view(DTYPES[dtype]) for k, (dtype, v) in tensors.items() if v is not None}
    wrong = sorted(state.keys() ^ tensors.keys()) or [
        key for key, value in values.items() if state[key].shape != value.shape
    ]
    if wrong:
        raise ValueError(
            f"modules[{name!r}] builds other tensors than the file holds: {len(wrong)} differ "
            f"({', '.join(wrong[:3])}). Pass a function that builds the module that was saved."
        )
    filled: set[int] = set()
    for key, (dtype, _) in tensors.items():
        if key in values:
            state[key].data = values[key]
        elif id(state[key]) not in filled:  # else it is one under several names
            state[key].data = torch.zeros((), dtype=DTYPES[dtype]).expand(state[key].shape)
        filled.add(id(state[key]))
    for key, parameter in module.named_parameters():
        parameter.requires_grad_(key not in frozen)
    return module


def _build(name: str, build: Builder) -> nn.Module:
    """Return what `build` builds, without moving torch's generators on."""
    try:
        with torch.random.fork_rng(devices=[]):
            module = build()
    except TypeError as error:
        raise ValueError(
            f"modules[{name!r}] cannot be called without arguments ({error}). Pass a dictionary "
            f"with a function that builds the module, as in {{{name!r}: lambda: ...}}."
        ) from error
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"modules[{name!r}] gives {shortened(module)}, which is not a module of torch."
        )
    return module.to("cpu")


def _difference(module: nn.Module, built: nn.Module) -> str | None:
    """Return what of a module is not rebuilt by filling the tensors of another one, or None."""
    state, other = (part.state_dict(keep_vars=True) for part in (module, built))
    values = [*state.values(), *other.values()]
    if any(map(is_lazy, values)):
        return "it has lazy layers, whose shapes are not known yet"
    if not all(
        isinstance(value, torch.Tensor) and value.dtype in DTYPES.values() for value in values
    ):
        return "its state dict holds more than tensors of plain numbers"
    if state.keys() != other.keys():
        return f"of their tensors differ {', '.join(sorted(state.keys() ^ other.keys())[:3])}"
    for name, tensor in state.items():
        if tensor.shape != other[name].shape:
            return f"{name} has shape {tuple(tensor.shape)}, and not {tuple(other[name].shape)}"
    if _ties(state) != _ties(other):
        return "other tensors are one under several names"
    hidden, rebuilt = (
        {key: fingerprint(value) for key, value in hidden_state(part).items()}
        for part in (module, built)
    )
    for key in sorted(hidden.keys() | rebuilt.keys()):
        if hidden.get(key) != rebuilt.get(key):
            return f"{'.'.join(filter(None, key))} differs, which is not part of the state dict"
    return None


def _ties(state: dict[str, torch.Tensor]) -> list[int]:
    """Return of every tensor the position of the first that it is."""
    ids = [id(tensor) for tensor in state.values()]
    return [ids.index(one) for one in ids]
