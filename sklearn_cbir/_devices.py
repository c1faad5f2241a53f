"""Where torch computes, and its seeds."""

import contextlib

import numpy as np
import torch

from sklearn_cbir._locks import ProcessLock


def resolve_device(device):
    """Return the torch device that `device` stands for now; "auto" prefers a GPU."""
    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise ValueError(
                f"device={device!r} is not known to torch. Use 'auto', 'cpu', 'cuda' or 'mps'."
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


LOCK = ProcessLock()


@contextlib.contextmanager
def seeded(seed, device):
    """Seed torch inside the block; its global generators are untouched afterwards.

    They are shared by all threads, so that one block runs at a time.
    """
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else []
    with LOCK, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def derived_seed(*parts):
    """Return a seed that depends on every one of the integers `parts`."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
