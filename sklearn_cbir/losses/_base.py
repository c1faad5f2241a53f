"""What all losses share: how they print, which rows they see, and how labels become targets."""

import functools
import inspect
from collections.abc import Callable
from typing import TypeVar, cast

import numpy.typing as npt
import torch
import torch.nn.functional as F

from sklearn_cbir._typing import HashLayer, LastLayer, Sampling

Forward = TypeVar("Forward", bound=Callable[..., torch.Tensor])
Made = TypeVar("Made", bound=torch.Tensor)


class Loss(torch.nn.Module):
    """Print the constructor's parameters, so that no search hides a margin."""

    output: LastLayer
    sampling: Sampling
    hash_layer: HashLayer
    soft_targets: bool
    sample_weight: bool
    __call__: Callable[..., torch.Tensor]  # torch itself promises nothing

    def extra_repr(self) -> str:
        """Parameters as they were given."""
        names = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names if hasattr(self, name))


def on_labeled_rows(forward: Forward) -> Forward:
    """Let a loss see only the rows of a batch that have a label; without any it costs 0."""

    @functools.wraps(forward)
    def forward_labeled(
        self: Loss, outputs: torch.Tensor, y: torch.Tensor, **weights: torch.Tensor | None
    ) -> torch.Tensor:
        if y.ndim == 2:
            labeled = (y > 0).any(dim=1)
            if not labeled.any():
                return 0.0 * full_precision(outputs).sum()
            if not labeled.all():
                outputs, y = outputs[labeled], y[labeled]
                weights = {k: v if v is None else v[labeled] for k, v in weights.items()}
        return forward(self, outputs, y, **weights)

    return cast(Forward, forward_labeled)


def with_labels(y: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
    """Labels of the rows that have one, as a tensor; class indices are one each."""
    y = torch.as_tensor(y)
    return y if y.ndim == 1 else y[(y > 0).any(dim=1)]


def class_targets(y: torch.Tensor, n_outputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows (n, n_outputs) of label weights, from class indices or from rows that are so already."""
    if y.ndim == 1:
        return F.one_hot(y, n_outputs).to(dtype)
    return y.to(dtype)


def full_precision(outputs: torch.Tensor) -> torch.Tensor:
    """Outputs in float32 at least: squares and exponentials overflow half precision."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def count_labels(y: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
    """Number of training rows that carry each label, float32 (n_labels,)."""
    y = torch.as_tensor(y)
    return torch.bincount(y).float() if y.ndim == 1 else y.float().sum(dim=0)


def label_shares(y: torch.Tensor, n_outputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows (n, n_outputs) that share 1 out among their labels."""
    targets = class_targets(y, n_outputs, dtype)
    return targets / targets.sum(dim=1, keepdim=True)


def row_weights(sample_weight: torch.Tensor | None, outputs: torch.Tensor) -> torch.Tensor | float:
    """Weights of rows (n, 1) with a mean of 1, to make a mean a weighted one; 1 without any."""
    if sample_weight is None:
        return 1.0
    weights = sample_weight.to(outputs)[:, None]
    mean = weights.mean()
    return weights / torch.where(mean > 0, mean, 1)


def check_is_set_up(loss: Loss, made: Made | None) -> Made:
    """Return `made`, which `setup` makes, or raise if it is not there."""
    if made is None:
        raise RuntimeError(
            f"{type(loss).__name__} is not set up. Call setup(n_outputs=..., y=...) before the "
            "loss."
        )
    return made
