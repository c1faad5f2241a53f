"""Pooling: feature maps (n, channels, height, width) -> vectors (n, channels)."""

import torch
from torch import nn

SMALLEST_P: float = 0.1


class AveragePooling(nn.Module):
    """Mean of every channel.

    Examples
    --------
    >>> import torch
    >>> AveragePooling()(torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]]))
    tensor([[1.5000]])
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Vectors (n, channels) of feature maps (n, channels, height, width)."""
        return maps.mean(dim=(2, 3))


class MaxPooling(nn.Module):
    """Largest value of every channel.

    Examples
    --------
    >>> import torch
    >>> MaxPooling()(torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]]))
    tensor([[3.]])
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Vectors (n, channels) of feature maps (n, channels, height, width)."""
        return maps.amax(dim=(2, 3))


class GeMPooling(nn.Module):
    """Generalized mean of every channel, with a learned exponent [1]_.

    Parameters
    ----------
    p : float, default=3.0
        First value of the exponent; 1 is the mean, infinity the maximum. Training
        may lower it, but values below 0.1 count as 0.1: below 0, the smallest
        activations would decide.

    eps : float, default=1e-6
        Smaller activations count as this value.

    References
    ----------
    .. [1] F. Radenović, G. Tolias, O. Chum. "Fine-tuning CNN image retrieval
       with no human annotation". IEEE TPAMI 41, 2019.

    Examples
    --------
    >>> import torch
    >>> pooled = GeMPooling()(torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]]))
    >>> round(pooled.item(), 4)
    2.0801
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p: nn.Parameter = nn.Parameter(torch.tensor(float(p)))
        self.eps: float = eps

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Vectors (n, channels) of feature maps (n, channels, height, width)."""
        p = self.p.clamp(min=SMALLEST_P)
        return maps.clamp(min=self.eps).pow(p).mean(dim=(2, 3)).pow(1 / p)

    def extra_repr(self) -> str:
        """Exponent as it is now."""
        return f"p={self.p.item():.4g}, eps={self.eps}"


POOLINGS: dict[str, type[nn.Module]] = {"avg": AveragePooling, "max": MaxPooling, "gem": GeMPooling}
