"""Losses by name, with parameters that are drawn, and what all networks of a table share."""

import inspect
import warnings
from contextlib import contextmanager

import torch

from sklearn_cbir.losses import LOSSES

PARAMETER = "loss__"
PML = {  # of pytorch-metric-learning
    "arcface": "ArcFaceLoss",
    "proxy_nca": "ProxyNCALoss",
    "multi_similarity": "MultiSimilarityLoss",
}


def loss_of(name, parameters, seed=0):
    """Return the loss; what it draws is drawn by the seed. `name` may be None or a loss."""
    if not isinstance(name, str):
        return name
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _kind(name)(**parameters)


def parted(settings):
    """Return the parameters of the loss, by their own names, and the other settings."""
    of_loss = {name: value for name, value in settings.items() if name.startswith(PARAMETER)}
    others = {name: value for name, value in settings.items() if name not in of_loss}
    return {name.removeprefix(PARAMETER): value for name, value in of_loss.items()}, others


def loss_settings(make, settings):
    """Return all parameters of the loss that a partial names first, None where it names none."""
    name = make.args[0] if make.args else None
    if not isinstance(name, str) or name not in (*LOSSES, *PML):
        return None
    kind = _kind(name)
    given, _ = parted(settings | make.keywords)
    known = inspect.signature(kind).parameters
    defaults = {of.name: of.default for of in known.values() if of.default is not of.empty}
    plain = {name: of for name, of in (defaults | given).items() if _is_plain(of)}
    return {"name": kind.__name__, **plain}


def _kind(name):
    if name in PML:
        from pytorch_metric_learning import losses

        return getattr(losses, PML[name])
    return LOSSES[name]


def _is_plain(value):
    return value is None or isinstance(value, (bool, int, float, str))


def trained_in(precision):
    """Return the parameters of a network of this precision."""
    return {"autocast": {"float32": False, "bf16": True}[precision]}


@contextmanager
def one_precision(precision):
    """End where a network would be trained in another precision than the caption says."""
    with warnings.catch_warnings():
        if precision == "bf16":
            warnings.filterwarnings("error", message="autocast=True trains in float32")
        yield
