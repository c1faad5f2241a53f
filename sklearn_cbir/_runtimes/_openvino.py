"""A network as a graph of OpenVINO: converted, compared with torch, run."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.jit._trace import TracerWarning

from sklearn_cbir._devices import first_line
from sklearn_cbir._locks import renew_in_forked_children
from sklearn_cbir._network import MultiScale, Network
from sklearn_cbir._threads import n_beside

N_COMPARED = 3  # images of noise, which must get torch's vectors
TOLERANCE = 1e-5  # of a vector's length
PACKAGE = Path(__file__).parent.parent
LIBRARIES = ("torch", "torchvision", "timm", "open_clip", "openvino")
_STARTED: list[int] = []  # the process that has compiled a graph


class NotConverted(Exception):
    """Why a network cannot be run by OpenVINO."""


def is_installed() -> bool:
    """Whether there is an OpenVINO."""
    return importlib.util.find_spec("openvino") is not None


def is_left_behind() -> bool:
    """Whether the threads of OpenVINO are in the process that this was forked from.

    Whoever asks it then, or lets go of what it has compiled, waits for them for ever.
    """
    return bool(_STARTED) and _STARTED[0] != os.getpid()


class Converted:
    """A network for images of one size, in any number; any thread may ask.

    Raises NotConverted if it cannot be converted, or if its vectors are others than torch's.
    """

    def __init__(self, seen: Network | MultiScale, size: tuple[int, ...]) -> None:
        self._compared: set[int] = set()  # sizes of batches
        try:
            self._model = _model_of(seen, size)
            self._begin()
            noise = np.random.default_rng(0).integers(0, 256, (N_COMPARED, 3, *size))
            images = torch.from_numpy(noise.astype(np.uint8))
            _compare(self._run(images), images, seen)
        except NotConverted:
            raise
        except Exception as error:
            raise NotConverted(f"{type(error).__name__}: {first_line(error)}") from error
        renew_in_forked_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child, where torch computes; what was compiled is never freed."""
        for kept in (self._compiled, self._idle):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        self._begin()

    def _begin(self) -> None:
        # By number of threads, and how many ask at a time.
        self._compiled: dict[tuple[int, int], Any] = {}
        self._idle: dict[tuple[int, int], list[Any]] = {}  # requests of which no one asks
        self._compiling = threading.Lock()

    def embed(self, images: torch.Tensor, seen: Network | MultiScale) -> torch.Tensor:
        """Return the vectors of uint8 images (n, 3, height, width).

        Kernels are made for every size of a batch, and OpenVINO 2026.4 gave numbers at random for
        networks with CBAM: of the first batch of every size one image is given to torch too.
        """
        vectors = self._run(images)
        n = len(images)
        if n not in self._compared:
            _compare(vectors[-1:], images[-1:], seen)
            self._compared.add(n)
        return vectors

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        key = torch.get_num_threads(), n_beside()
        with self._compiling:
            if key not in self._compiled:
                self._compiled[key], self._idle[key] = _compiled(self._model, *key), []
        idle = self._idle[key]
        try:
            request = idle.pop()
        except IndexError:
            request = self._compiled[key].create_infer_request()
        vectors = request.infer({0: images.contiguous().numpy()})[0]  # a copy
        idle.append(request)
        return torch.from_numpy(vectors)


def _compare(vectors: torch.Tensor, images: torch.Tensor, seen: Network | MultiScale) -> None:
    """Raise unless images have the vectors that torch gives them."""
    with torch.no_grad():
        expected = seen.embed(images).float()
    is_alike = vectors.shape == expected.shape and vectors.dtype == expected.dtype
    if is_alike:
        distances, lengths = (rows.norm(dim=1) for rows in (vectors - expected, expected))
        is_alike = bool((distances <= TOLERANCE * lengths).all())
    if not is_alike:
        raise NotConverted("its vectors differ from those of torch")


class _Whole(nn.Module):
    """From pixels to vectors."""

    def __init__(self, seen: Network | MultiScale) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.seen.embed(images)


def _model_of(seen: Network | MultiScale, size: tuple[int, ...]) -> Any:
    """Return a graph for images (n, 3, height, width) of one size.

    The frontend is asked and not ``openvino.convert_model``, which reports to Intel that it runs.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, 3, *size, dtype=torch.uint8)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        decoder = TorchScriptPythonDecoder(_Whole(seen).eval(), example_input=(example,))
    if place := _decides_by_values(told):
        raise NotConverted(f"its code depends on values of tensors, in {place}")
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    model.reshape(openvino.PartialShape([-1, 3, *size]))
    return model


def _decides_by_values(told: list[warnings.WarningMessage]) -> str | None:
    """Return where code of the user's own has left the graph, as an ``if`` over a tensor does."""
    for one in told:
        if issubclass(one.category, TracerWarning) and not _is_known(one.filename):
            return f"{one.filename}:{one.lineno}"
    return None


def _is_known(filename: str) -> bool:
    """Whether a file is of this package or of a library whose networks it names."""
    specs = [importlib.util.find_spec(name) for name in LIBRARIES]
    folders = [place for spec in specs if spec for place in spec.submodule_search_locations or ()]
    return not {PACKAGE, *map(Path, folders)}.isdisjoint(Path(filename).parents)


def _compiled(model: Any, n_threads: int, n_beside: int) -> Any:
    """Return a model for this processor, in float32 even where that is slower.

    So many ask it at a time, and each has so many threads.
    """
    _STARTED[:] = [os.getpid()]
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": n_threads * n_beside,
        "NUM_STREAMS": n_beside,  # a stream answers one request at a time
        "ENABLE_CPU_PINNING": False,  # two networks would share a core
    }
    with _own_signal_stack():
        return _core().compile_model(model, "CPU", options)


@cache
def _core() -> Any:
    """Return what compiles, never to be freed: a thread may have its stack for signals."""
    import openvino

    core = openvino.Core()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(core))
    return core


class _SignalStack(ctypes.Structure):
    """A ``stack_t`` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def _own_signal_stack() -> Iterator[None]:
    """Give the thread back the stack on which it handles signals.

    OpenVINO puts one of its own in its place, and unmaps it when it is freed, in whatever thread:
    the next signal, such as that of Ctrl-C, would end the process.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    kept = _SignalStack()
    is_known = libc is not None and libc.sigaltstack(None, ctypes.byref(kept)) == 0
    try:
        yield
    finally:
        if libc is not None and is_known:
            libc.sigaltstack(ctypes.byref(kept), None)
