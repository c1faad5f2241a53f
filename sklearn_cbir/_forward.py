"""Batches of a source through a network, in order: images are read beside the forward passes."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_cbir._devices import shielded
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._threads import in_order, n_cores
from sklearn_cbir.images import ImageReadError

Embed = Callable[[torch.Tensor], torch.Tensor]
Ticks = Callable[[range], Iterable[int]]
Rows = NDArray[np.float32]
# Of one forward pass on a processor: hardly slower than more, and what is in use at a time, 58 MB
# for an EfficientNet that pads, glibc keeps when it is freed. The system clears the rest anew.
PIXELS_AT_ONCE = 3 * 224 * 224
MOST_KEPT = 2**25 - 2**14  # bytes of a block that glibc may learn to keep
MOST_THREADS = 8  # of Python: more wait for each other
BATCHES_AHEAD = 4  # at most, beside the one that is needed


class Source(Protocol):
    """Feature rows or images, of which batches are read."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def read(self, indices: NDArray[Any], rng: np.random.Generator | None = None) -> torch.Tensor:
        """Return some rows, changed at random if a generator is given."""
        ...

    def subset(self, indices: NDArray[Any]) -> Source:
        """Return a source of some of the rows."""
        ...


def forward(
    embed: Embed,
    source: Source,
    batch_size: int,
    device: torch.device,
    ticks: Ticks | None = None,
    *,
    is_shareable: bool = False,
) -> Generator[Rows]:
    """Yield the vectors of the rows of `source`, in order, in pieces of a batch or less.

    On a processor every thread reads a part of a batch and computes with it, by itself: nobody
    waits for anybody, and a row depends neither on the number of threads nor on how fast they are.
    With one thread of torch (``torch.set_num_threads(1)``) all is done by the caller.

    On a GPU threads read ahead, and the caller computes. On a processor, if `embed` is not
    shareable, the caller reads a batch, then computes: a module of the user's own may keep
    something from one call to the next.
    """
    batches = _Batches(source, batch_size, ticks)
    if not hasattr(source, "n_pixels"):  # rows of numbers, or texts: there is nothing to decode
        return _one_by_one(embed, batches, device)
    if device.type != "cpu":
        return _read_ahead(embed, batches, device)
    keep_freed_memory()
    if not is_shareable:
        return _one_by_one(embed, batches, device)
    return _side_by_side(embed, batches, device)


class _Batches:
    """The rows of a source as batches, and these as parts that are no larger than is good."""

    def __init__(self, source: Source, batch_size: int, ticks: Ticks | None) -> None:
        self.source, self.batch_size, self.ticks = source, batch_size, ticks
        n_pixels = getattr(source, "n_pixels", 1)
        self.part_size = max(1, min(batch_size, PIXELS_AT_ONCE // n_pixels))
        self.n_parts = -(-batch_size // self.part_size)  # of a whole batch

    def __iter__(self) -> Iterator[range]:
        starts = range(0, len(self.source), self.batch_size)
        for start in starts if self.ticks is None else self.ticks(starts):
            yield self._at(start)

    def _at(self, start: int) -> range:
        return range(start, min(start + self.batch_size, len(self.source)))

    def parts_of(self, batch: range) -> list[NDArray[np.int64]]:
        """Return the rows of each part of a batch."""
        return [
            np.array(batch[i : i + self.part_size]) for i in range(0, len(batch), self.part_size)
        ]

    def parts(self) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of all parts of all batches."""
        for start in range(0, len(self.source), self.batch_size):
            yield from self.parts_of(self._at(start))

    def taken(self, made: Iterator[Any]) -> Iterator[list[Any]]:
        """Yield what was made of the parts of each batch; an error names what is wrong in it."""
        for batch in self:
            try:
                yield [next(made) for _ in self.parts_of(batch)]
            except ImageReadError:
                self.source.read(np.array(batch))  # raises what names all faults of the batch
                raise


def _one_by_one(embed: Embed, batches: _Batches, device: torch.device) -> Generator[Rows]:
    """Read a batch, then compute with it."""
    for batch in batches:
        yield _numbers(embed(batches.source.read(np.array(batch)).to(device)))


def _side_by_side(embed: Embed, batches: _Batches, device: torch.device) -> Generator[Rows]:
    """Let every thread read parts and compute with them."""

    def compute(rows: NDArray[np.int64]) -> Rows:
        with shielded(), torch.inference_mode():
            return _numbers(embed(batches.source.read(rows).to(device)))

    n_threads = torch.get_num_threads()
    if n_threads == 1 or len(batches.source) <= batches.part_size:
        made = map(compute, batches.parts())
        for rows in batches.taken(made):
            yield from rows
        return
    n_workers = min(n_threads, n_cores(), MOST_THREADS, (1 + BATCHES_AHEAD) * batches.n_parts)
    made = in_order(
        compute,
        batches.parts(),
        n_workers,
        2 * n_workers,
        lambda: limit_this_thread(max(1, n_threads // n_workers)),
    )
    with closing(made):
        for rows in batches.taken(made):
            yield from rows


def _read_ahead(embed: Embed, batches: _Batches, device: torch.device) -> Generator[Rows]:
    """Compute with one batch while the next are read, and the vectors of the last are fetched."""
    n_parts = 3 * batches.n_parts  # one more batch is filled in below, and one may be sent still
    n_workers = min(n_cores(), MOST_THREADS, n_parts)
    made = in_order(batches.source.read, batches.parts(), n_workers, n_parts)
    fetched: Callable[[], Rows] | None = None
    with closing(made):
        for parts in batches.taken(made):
            images = _joined(parts, device).to(device, non_blocking=True)
            last, fetched = fetched, _fetching(embed(images).float(), device)
            del parts, images
            if last is not None:  # the next one is on its way
                yield last()
    if fetched is not None:
        yield fetched()


def _joined(parts: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return the images of a batch, in memory from which a GPU of CUDA fetches them by itself."""
    n, (_, *sides) = sum(map(len, parts)), parts[0].shape
    batch = torch.empty(
        (n, *sides),
        dtype=parts[0].dtype,
        memory_format=torch.channels_last,
        pin_memory=device.type == "cuda",
    )
    return torch.cat(parts, out=batch)


def _fetching(vectors: torch.Tensor, device: torch.device) -> Callable[[], Rows]:
    """Begin to copy vectors from a GPU, and return what waits for them."""
    if device.type != "cuda":
        return lambda: _numbers(vectors)
    here = torch.empty(vectors.shape, pin_memory=True)
    here.copy_(vectors, non_blocking=True)
    is_here = torch.cuda.Event()
    is_here.record(torch.cuda.current_stream(device))

    def wait() -> Rows:
        is_here.synchronize()
        return here.numpy().copy()  # memory that is pinned is used again

    return wait


def _numbers(vectors: torch.Tensor) -> Rows:
    return vectors.float().cpu().numpy()


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MB that a network has freed for the next layer, or the next call.

    It keeps blocks as large as the largest that was freed, up to 32 MB, and twice as much at the
    end of the heap. So one is freed, without being touched.
    """
    np.empty(MOST_KEPT, dtype=np.uint8)


# Threads of torch --------------------------------------------------------------------------------

_LIMITING = ProcessLock()


def limit_this_thread(n: int) -> None:
    """Let torch compute with `n` threads in this thread, which is new, and in no other."""
    with _LIMITING:
        for_new_threads = torch.get_num_threads()
        torch.set_num_threads(n)  # in threads that are new from now on, too
        other = threading.Thread(target=torch.set_num_threads, args=[for_new_threads])
        other.start()
        other.join()
