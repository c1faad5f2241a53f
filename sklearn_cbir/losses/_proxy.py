"""Losses on features that compare them with one learned proxy per class: ``loss(outputs, y)``."""

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_cbir._typing import LastLayer
from sklearn_cbir._validation import check_real
from sklearn_cbir.losses._base import (
    Loss,
    class_targets,
    count_labels,
    full_precision,
    on_labeled_rows,
)

# The paper's values per data set, read from its code; arguments of CPFLoss and CPFEmbedder.
CPF_CONSTANTS: dict[str, dict[str, float]] = {
    "cub": {"tau": 0.38, "psi": 0.2, "sp": 9.0, "sn": 9.0, "mu": 0.0, "b": 2.0},
    "cars": {"tau": 0.38, "psi": 0.2, "sp": 9.0, "sn": 9.0, "mu": 0.0, "b": 2.0},
    "sop": {"tau": 0.38, "psi": 0.2, "sp": 3.0, "sn": 8.0, "mu": 1.0, "b": 2.0},
    "shopee": {"tau": 0.25, "psi": 0.25, "sp": 1.5, "sn": 1.0, "mu": 1.0, "b": 2.0},
}


def cpf_loss(
    cosines: torch.Tensor,
    targets: torch.Tensor,
    *,
    tau: float = 0.38,
    psi: float = 0.38,
    sp: float = 3.0,
    sn: float = 8.0,
    mu: float = 1.0,
    b: float = 2.0,
    weights: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """Consistent penalizing field of cosines: 1 minus a soft F1 of the batch.

    Parameters
    ----------
    cosines : tensor of shape (n, n_classes)
        Cosine of every feature with every proxy.

    targets : tensor of shape (n, n_classes)
        1 at the class of a row and 0 elsewhere, or soft weights.

    tau, psi, sp, sn, mu, b : float, default=0.38, 0.38, 3.0, 8.0, 1.0, 2.0
        As in `CPFLoss`.

    weights : tensor that broadcasts to (n, n_classes), default=1.0
        Weight of every term.

    Returns
    -------
    tensor
        A scalar in [0, 1).

    Examples
    --------
    >>> import torch
    >>> cosines = torch.tensor([[0.7, 0.4, 0.3], [0.5, 0.6, -0.2]])
    >>> targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> loss = cpf_loss(cosines, targets, tau=0.38, psi=0.2, sp=9, sn=9, mu=0)
    >>> round(loss.item(), 4)
    0.9207
    """
    # The exponential weights are constants of the step: no gradient flows through them.
    pull = torch.exp(sp * (1 - cosines.detach()))
    push = torch.exp(sn * (cosines.detach() - mu))
    # Neither relu nor clamp: the slope at a cosine of exactly 0 is 1.
    true_positive = b + 2 * (weights * targets * torch.where(cosines >= 0, cosines, 0)).sum()
    positive = (weights * targets * (1 - cosines) * pull).sum()
    gated = torch.where(cosines > tau, weights * (1 - targets) * (cosines - psi) * push, 0)
    penalty = positive + gated.sum()
    # (P + N) / (TP + P + N): without the cancellation of 1 - TP / (TP + P + N)
    return penalty / (true_positive + penalty)


class CPFLoss(Loss):
    """Consistent penalizing field: one threshold for all classes [1]_.

    Every class has a learned proxy. The proxy of its class pulls a feature, and
    proxies of other classes push it if their cosine exceeds `tau`, with weights
    that grow exponentially with the error. The loss is a ratio over the whole
    batch, not a mean over its rows: it depends on the batch size, and gradients
    of parts of a batch do not add up to the gradient of the whole.
    ``CPFLoss(**CPF_CONSTANTS["cub"])`` has the values of [1]_ for a data set.

    Parameters
    ----------
    tau : float, default=0.38
        Cosine above which the proxy of another class pushes.

    psi : float, default=0.38
        Cosine from which that push is counted; at most `tau`, else terms
        would be negative. [1]_ leaves it at 0.2 for CUB, Cars and SOP.

    sp, sn : float, default=3.0, 8.0
        Steepness of the weights of pull and push. [1]_: 9 and 9 for CUB and
        Cars, 3 and 8 for SOP, 1.5 and 1 for Shopee.

    mu : float, default=1.0
        Cosine at which the weight of a push is 1. [1]_: 0 for CUB and Cars, 1
        for SOP and Shopee.

    b : float, default=2.0
        Smoothing of the ratio.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_outputs)
        The proxies, of any length; made by `setup` and trained with the network.

    References
    ----------
    .. [1] C. Liu, W. She, M. Chen, X. Li, S. X. Yang. "Consistent penalizing
       field loss for zero-shot image retrieval". Expert Systems with
       Applications 236, 2024.

    Examples
    --------
    >>> import torch
    >>> loss = CPFLoss(tau=0.38, psi=0.2, sp=9.0, sn=9.0, mu=0.0)
    >>> loss.setup(n_outputs=2, y=torch.tensor([0, 1, 2]))
    >>> loss.proxies.data = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
    >>> features = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    >>> round(loss(features, torch.tensor([1, 0])).item(), 4)
    0.9413
    """

    output: LastLayer = "features"
    soft_targets = True
    sample_weight = True

    proxies: nn.Parameter | None

    def __init__(
        self,
        tau: float = 0.38,
        psi: float = 0.38,
        sp: float = 3.0,
        sn: float = 8.0,
        mu: float = 1.0,
        b: float = 2.0,
    ) -> None:
        super().__init__()
        self.tau: float = check_real(tau, "tau", minimum=-1, maximum=1)
        self.psi: float = check_real(psi, "psi", minimum=-1, maximum=1)
        if psi > tau:
            raise ValueError(
                f"psi={psi!r} is above tau={tau!r}: between the two, the cost of separating "
                "rows would be negative. Use psi <= tau."
            )
        self.sp: float = check_real(sp, "sp", minimum=0)
        self.sn: float = check_real(sn, "sn", minimum=0)
        self.mu: float = check_real(mu, "mu")
        self.b: float = check_real(b, "b", minimum=0)
        self.register_parameter("proxies", None)

    def setup(
        self,
        *,
        n_outputs: int,
        y: npt.ArrayLike | torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw one proxy per class, Xavier uniform."""
        proxies = torch.empty(len(count_labels(y)), n_outputs)
        self.proxies = nn.Parameter(nn.init.xavier_uniform_(proxies, generator=generator))

    @on_labeled_rows
    def forward(
        self, outputs: torch.Tensor, y: torch.Tensor, *, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Loss of features (n, n_outputs); `y` may hold soft rows."""
        if self.proxies is None:
            raise RuntimeError(
                "CPFLoss has no proxies yet. Call setup(n_outputs=..., y=...) before the loss."
            )
        outputs = full_precision(outputs)
        targets = class_targets(y, len(self.proxies), outputs.dtype)
        proxies = self.proxies.to(outputs.dtype)
        cosines = F.normalize(outputs, dim=1) @ F.normalize(proxies, dim=1).T  # (n, n_classes)
        return cpf_loss(
            cosines,
            targets,
            tau=self.tau,
            psi=self.psi,
            sp=self.sp,
            sn=self.sn,
            mu=self.mu,
            b=self.b,
            # Not scaled to a mean of 1: a row of weight 2 counts as two rows do.
            weights=1.0 if sample_weight is None else sample_weight.to(cosines)[:, None],
        )
