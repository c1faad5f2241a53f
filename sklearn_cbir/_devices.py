"""Where torch computes, and its seeds."""

import contextlib

import numpy as np
import torch

from sklearn_cbir._locks import ProcessLock


def resolve_device(device):
    """Return the torch device that `device` stands for now; "auto" prefers a GPU.

    Raises ValueError for a device that is not there, or that holds no numbers, as "meta".
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"device={device!r} must be 'auto', or the name of a torch device.")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not known to torch. Use 'auto', 'cpu', 'cuda' or 'mps'."
        ) from error
    try:
        torch.zeros(1, device=found).cpu()
    except Exception as error:
        raise ValueError(
            f"device={device!r} cannot be used here ({first_line(error)}). Choose one that is "
            "there, or let it be chosen: set_params(device='auto')."
        ) from error
    return found


def first_line(error):
    """Return how the message of an error begins."""
    return str(error).strip().partition("\n")[0].rstrip(".")


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
