"""Loader processes that live during a whole training and read on request."""

import contextlib
import io
import mmap
import multiprocessing
import os
import pickle
import tempfile
import threading
import traceback
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

try:
    import cloudpickle
except ImportError:  # older versions of joblib carry it
    from joblib.externals import cloudpickle

IN_LINE = 2**16  # bytes; larger arrays are not pickled but mapped from a file
PAGE = 64  # bytes that arrays in the file are aligned to


@contextlib.contextmanager
def loader_processes(readers, n_workers):
    """Give a function that yields ``readers[i].read(*args)`` of every ``(i, *args)``, in order.

    `n_workers` processes read ahead. They are started when they are first needed, hold the readers
    as they are then, and end with the block. Under another start method than fork they are sent
    the readers once, arrays through one file that all of them map. An error keeps its class and
    gets the lines of code of the process as a note; a process that dies is an error.
    """
    with contextlib.ExitStack() as stack:
        pool = _Pool(_Readers(readers, n_workers, stack), n_workers)
        try:
            yield pool.read
        except (RuntimeError, ValueError) as error:
            pool.explain(error)
            raise
        finally:
            pool.close()


class _Pool:
    """torch's loader with a list of keys that changes from pass to pass."""

    def __init__(self, readers, n_workers):
        self.n_workers = n_workers
        self.keys = []
        self.running: Any = None  # torch's iterator, of a class that it hides
        self.loader = DataLoader(
            readers,
            batch_size=None,
            sampler=self.keys,
            num_workers=n_workers,
            persistent_workers=True,
            generator=torch.Generator(),  # not torch's own, which the training draws from
            worker_init_fn=_begin,
        )

    def read(self, keys):
        """Yield what is read for each of the keys."""
        self.keys[:] = keys
        if not keys:
            return
        if self.running is None and not _forks():
            self.loader.dataset.pack()  # pyright: ignore[reportAttributeAccessIssue] - `_Readers`
        self.running = iter(self.loader)
        for result in self.running:
            if isinstance(result, _Failure):
                result.throw()
            yield result

    def explain(self, error):
        """Raise another error if a process has died: torch's is raised anywhere, of any cause."""
        codes = [one.exitcode for one in getattr(self.running, "_workers", ())]
        codes = [code for code in codes if code is not None]
        if not codes:
            return
        hint = "" if _forks() else " A script needs the guard `if __name__ == '__main__':` too."
        raise RuntimeError(
            f"A loader process ended with exit code {codes[0]} (-9: killed, usually because "
            f"memory was full). Use fewer than num_workers={self.n_workers}, or 0.{hint}"
        ) from error

    def close(self):
        """End the processes now, whoever still holds a traceback with the iterator."""
        if self.running is not None:
            self.running._shutdown_workers()
            for process in self.running._workers:  # torch does not wait for those that it kills
                process.join()
        self.running = None


class _Readers(Dataset):
    """Objects with a method `read`, and what is needed to send them to another process."""

    def __init__(self, readers, n_workers, stack):
        self.readers = readers
        self.n_workers = n_workers
        self.stack = stack
        self.packed = None

    def __getitem__(self, key):
        number, *args = key
        try:
            return self.readers[number].read(*args)
        except KeyboardInterrupt:  # the training hears of it by itself
            raise
        except BaseException as error:
            return _Failure(error)

    def pack(self):
        """Pickle the readers, functions without a name too; large arrays go to a file."""
        buffers = []

        def keep(buffer):
            large = buffer.raw().nbytes > IN_LINE
            if large:
                buffers.append(buffer.raw())
            return not large

        try:
            file = io.BytesIO()
            _Pickler(file, protocol=5, buffer_callback=keep).dump(self.readers)
            data = file.getvalue()
        except Exception as error:
            raise ValueError(
                f"num_workers={self.n_workers} sends X and augment to other processes, where "
                f"pickle fails: {error}. Use num_workers=0, or an augment without locks, "
                "connections and the like."
            ) from error
        folder = self.stack.enter_context(
            tempfile.TemporaryDirectory(prefix="sklearn_cbir-", ignore_cleanup_errors=True)
        )
        path = os.path.join(folder, "arrays")
        places = []
        with open(path, "wb") as file:
            for buffer in buffers:
                file.write(bytes(-file.tell() % PAGE))
                places.append((file.tell(), buffer.nbytes))
                file.write(buffer)
        self.packed = data, path, places

    def __getstate__(self):
        return self.packed

    def __setstate__(self, packed):
        data, path, places = packed
        buffers = []
        if places:
            with open(path, "rb") as file:
                # A change stays in the process that makes it.
                pages = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            buffers = [pages[start : start + n_bytes] for start, n_bytes in places]
        self.readers = pickle.loads(data, buffers=buffers)


class _Pickler(cloudpickle.Pickler):
    """Sends arrays that are mapped from a file of the user's by its name."""

    def reducer_override(self, thing):
        mapped = thing
        while isinstance(mapped, np.ndarray) and not isinstance(mapped.base, mmap.mmap):
            mapped = mapped.base
        # What was changed in a copy on write ("c") is not in the file.
        if not isinstance(mapped, np.memmap) or mapped.mode == "c" or mapped.filename is None:
            return super().reducer_override(thing)
        if not thing.flags.c_contiguous:
            return super().reducer_override(thing)
        start = mapped.offset + _address(thing) - _address(mapped)
        return np.memmap, (mapped.filename, thing.dtype, "r", start, thing.shape)


def _address(array):
    return array.__array_interface__["data"][0]


class _Failure:
    """An error of another process, with the lines of code that led to it."""

    def __init__(self, error):
        self.lines = "".join(traceback.format_exception(error))
        self.name = type(error).__name__
        self.message = traceback.format_exception_only(error)[-1].strip().partition(": ")[2]
        self.data = None
        with contextlib.suppress(Exception):
            data = cloudpickle.dumps(error)
            if type(pickle.loads(data)) is type(error):
                self.data = data

    def throw(self):
        error = RuntimeError(f"A loader process failed with {self.name}: {self.message}")
        with contextlib.suppress(Exception):
            error = error if self.data is None else pickle.loads(self.data)
        BaseException.add_note(error, f"In a loader process:\n{self.lines}")
        raise error


def _begin(number):  # noqa: ARG001 - torch gives it
    """Prepare a process: it does not know its number, and ends when that of the training does."""
    # An augmentation that is told that, and in which, process it runs would not do the same.
    # Torch's types hide the place.
    torch.utils.data._utils.worker._worker_info = None  # pyright: ignore[reportAttributeAccessIssue]
    if not _forks():
        # torch looks at the parent's number, which is that of the server under forkserver.
        threading.Thread(
            target=_end_with, args=[multiprocessing.parent_process()], daemon=True
        ).start()


def _end_with(process):
    process.join()
    os._exit(1)


def _forks():
    return multiprocessing.get_start_method() == "fork"
