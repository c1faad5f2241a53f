"""Losses of the user's own: what they are called in messages, and who is to blame."""

import contextlib
import copy
from collections.abc import Iterator

import torch.nn.functional as F
from torch import nn

from sklearn_cbir._typing import LossFunction
from sklearn_cbir._validation import resolve, shortened
from sklearn_cbir.losses import LOSSES
from sklearn_cbir.losses._classification import is_of_torch


def name_of_loss(loss: object) -> str:
    """Return how messages call a loss: by the name of a function, or by the class of an object."""
    return getattr(loss, "__qualname__", type(loss).__name__)


@contextlib.contextmanager
def called_as(loss: object, how: str) -> Iterator[None]:
    """Say of which loss an error is, and how what has raised it is called."""
    try:
        yield
    except TypeError as error:  # of another signature, or no function at all
        raise ValueError(f"loss={name_of_loss(loss)} is called as {how}: {error}.") from error
    except Exception as error:
        error.add_note(f"Raised by loss={name_of_loss(loss)}, called as {how}.")
        raise


def fresh_loss(loss: str | LossFunction | type[LossFunction] | None) -> LossFunction | None:
    """Return a loss to be trained, or None for None; the user's object is never trained.

    Parameters
    ----------
    loss : str, callable, class or None
        A name in `LOSSES`, an object that is copied, or a class that is called.

    Returns
    -------
    callable or None
        ``loss(outputs, y)``.
    """
    chosen = resolve(loss, LOSSES, "loss", own="your own torch module")
    if chosen is None:
        return None
    if not callable(chosen):
        raise ValueError(
            f"loss={shortened(chosen)} cannot be called. Use one of {sorted(LOSSES)}, or a module "
            "called as loss(outputs, y)."
        )
    if isinstance(chosen, type):
        with called_as(chosen, "a class, without arguments"):
            fresh = chosen()
    else:
        fresh = copy.deepcopy(chosen)
    if is_of_torch(fresh, nn.NLLLoss, (F.nll_loss,)):
        raise ValueError(
            f"{name_of_loss(fresh)} wants log-probabilities. Use torch.nn.CrossEntropyLoss()."
        )
    return fresh
