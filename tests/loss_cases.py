"""Labels, outputs and gradients that the tests of the losses share."""

import numpy as np
import torch

from sklearn_cbir.losses import LOSSES

N_OUTPUTS = 4  # classes, bits or features
SINGLE_LABELS = torch.tensor([0, 1, 1, 3, 0, 2])
MULTIPLE_LABELS = torch.tensor(
    [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 1, 1], [0, 1, 0, 0]]
).float()


def make_loss(name, y=MULTIPLE_LABELS):
    loss = LOSSES[name]()
    if hasattr(loss, "setup"):
        loss.setup(n_outputs=N_OUTPUTS, y=y, generator=torch.Generator().manual_seed(0))
    return loss.double()


def make_outputs(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, N_OUTPUTS, dtype=torch.float64, generator=generator)


def label_sets(y):
    if y.ndim == 1:
        return [{label} for label in y.tolist()]
    return [set(np.flatnonzero(row).tolist()) for row in y.numpy()]


def value_and_gradient(function, point):
    point = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    value = function(point)
    value.backward()
    return value.item(), point.grad.tolist()
