"""The device of torch, and its seeds."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sklearn_cbir._locks import ProcessLock, in_forked_children
from sklearn_cbir._validation import shortened

if TYPE_CHECKING:
    from sklearn_cbir._typing import RandomState


def resolve_device(device: object) -> torch.device:
    """Return the torch device for `device`; "auto" prefers a GPU.

    Raises ValueError for a device that does not exist, or that holds no numbers, such as "meta".
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not isinstance(device, (str, torch.device)):
        raise ValueError(
            f"device={shortened(device)} must be 'auto', or the name of a torch device."
        )
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={shortened(device)} is not known to torch. Use 'auto', 'cpu', 'cuda' or 'mps'."
        ) from error
    try:
        torch.zeros(1, device=found).cpu()
    except Exception as error:
        raise ValueError(
            f"device={shortened(device)} cannot be used here ({first_line(error)}). Choose "
            "another one, or let the estimator choose: set_params(device='auto')."
        ) from error
    return found


def first_line(error: BaseException) -> str:
    """Return how the message of an error begins."""
    return str(error).strip().partition("\n")[0].rstrip(".")


# What the caller has set -----------------------------------------------------------------------


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Compute in float32, with gradients and on the CPU unless told otherwise.

    Whatever the caller set for all of torch, in this thread, does not reach the block: default
    dtype and device, ``inference_mode``, ``no_grad``, ``autocast``.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.enter_context(_Float32())
        yield


class _Float32(TorchFunctionMode):
    """New tensors of this thread are float32 where torch's default would decide."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("dtype") is None and self._would_decide(function, args, kwargs):
            kwargs = kwargs | {"dtype": torch.float32}
        return function(*args, **kwargs)

    def _would_decide(self, function, args, kwargs):
        if function in _FLOATING_FOR_FLOATS and not any(hasattr(value, "dtype") for value in args):
            return function(*args, **kwargs).is_floating_point()
        return function in _FLOATING


# Bfloat16 --------------------------------------------------------------------------------------


@functools.cache
def bfloat16_cost() -> float:
    """Return how many times as long as in float32 this processor takes for a step in bfloat16.

    Measured once in a process, in some hundredths of a second where it pays.
    """
    images = torch.ones(8, 32, 28, 28).contiguous(memory_format=torch.channels_last)
    weights = torch.ones(32, 32, 3, 3, requires_grad=True)
    took: dict[bool, list[float]] = {False: [], True: []}
    for enabled in (False, True) * 4:  # in turns; the first ones make kernels
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            maps = functional.conv2d(images, weights, padding=1)
        maps.float().sum().backward()
        took[enabled].append(time.perf_counter() - start)
    return min(took[True][1:]) / min(took[False][1:])


# Forked processes ------------------------------------------------------------------------------

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


in_forked_children(_note_fork)


def use_one_thread_if_forked() -> None:
    """Compute with one torch thread in a forked process, from its first network on.

    A child has none of the threads that torch has started in its parent, but would wait for them.
    """
    global _forked
    if _forked:
        torch.set_num_threads(1)
        _forked = False


# Seeds -----------------------------------------------------------------------------------------

LOCK = ProcessLock()  # of the global generators


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch on the CPU and on a device; afterwards its global generators are as before.

    Generators of other devices are neither seeded nor read. All threads share the generators, so
    only one block runs at a time.
    """
    use_one_thread_if_forked()
    with LOCK.lock:
        states = [(one, one.get_state()) for one in {torch.default_generator, generator_of(device)}]
        try:
            reseed(seed, device)
            yield
        finally:
            for one, state in states:
                one.set_state(state)


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's global generators inside `seeded`."""
    torch.default_generator.manual_seed(seed)
    generator_of(device).manual_seed(seed)


def generator_of(device: torch.device) -> torch.Generator:
    """Return the global generator that is drawn from on a torch device."""
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    if device.type not in ("cuda", "xpu"):
        return torch.default_generator
    module = torch.get_device_module(device)
    module.init()
    index = module.current_device() if device.index is None else device.index
    return module.default_generators[index]


class OwnDraws(TorchFunctionMode):
    """Draw new weights of this thread from their own generator.

    The global generator of torch is neither read nor advanced, so no thread waits for it, and draws
    of other threads change no weight. The draws are those of `seeded` with the same seed on the
    CPU.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _DRAWS and kwargs.get("generator") is None:
            kwargs = kwargs | {"generator": self.generator}
        return function(*args, **kwargs)


def _functions(module: Any, names: str) -> set[Callable[..., Any]]:
    return {getattr(module, name) for name in names.split() if hasattr(module, name)}


# What takes a generator; of torch.nn.init too, whose functions call the others unseen.
_DRAWS = {
    *_functions(torch, "bernoulli multinomial normal rand randint randn randperm"),
    *_functions(torch.Tensor, "bernoulli bernoulli_ cauchy_ exponential_ geometric_ log_normal_"),
    *_functions(torch.Tensor, "multinomial normal_ random_ uniform_"),
    *_functions(nn.init, "kaiming_normal_ kaiming_uniform_ normal_ orthogonal_ sparse_"),
    *_functions(nn.init, "trunc_normal_ uniform_ xavier_normal_ xavier_uniform_"),
}


# What makes tensors of torch's default dtype: always, or of Python's floats.
_FLOATING = _functions(torch, "empty eye linspace logspace ones rand randn zeros")
_FLOATING_FOR_FLOATS = _functions(torch, "arange as_tensor full tensor")


@dataclass(frozen=True)
class Seeds:
    """The seed of a fit, and the seeds of its parts."""

    fit: int
    batches: int
    held_out_batches: int
    look: int  # at what the training has led to

    @classmethod
    def of(cls, fit: int) -> Self:
        """Derive the seeds of the parts."""
        return cls(fit, derived_seed(fit, 1), derived_seed(fit, 0), derived_seed(fit, 5))


def seed_of(random_state: RandomState) -> int:
    """Draw the seed of a fit."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def derived_seed(*parts: int) -> int:
    """Return a seed that depends on every one of the integers `parts`."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
