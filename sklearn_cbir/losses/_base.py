"""What all losses share: how they print, and how labels become targets."""

import inspect

import torch
import torch.nn.functional as F


class Loss(torch.nn.Module):
    """Print the constructor's parameters, so that no search hides a margin."""

    def extra_repr(self):
        """Parameters as they were given."""
        names = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names if hasattr(self, name))


def class_targets(y, n_outputs, dtype):
    """Rows (n, n_outputs) of label weights, from class indices or from rows that are so already."""
    if y.ndim == 1:
        return F.one_hot(y, n_outputs).to(dtype)
    return y.to(dtype)


def full_precision(outputs):
    """Outputs in float32 at least: squares and exponentials overflow half precision."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def count_labels(y):
    """Number of training rows that carry each label, float32 (n_labels,)."""
    y = torch.as_tensor(y)
    return torch.bincount(y).float() if y.ndim == 1 else y.float().sum(dim=0)
