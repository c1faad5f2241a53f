"""Losses on bits: a classifier, trained with the network, predicts the labels from the bits."""

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_cbir._typing import LastLayer, Sampling
from sklearn_cbir._validation import check_real
from sklearn_cbir.losses._base import (
    Loss,
    check_is_set_up,
    count_labels,
    full_precision,
    label_shares,
    on_labeled_rows,
    row_weights,
)


class _ClassifierLoss(Loss):
    """A linear classifier on bits, made from the outputs; the network has one output per bit."""

    output: LastLayer = "bits"
    sampling: Sampling = "uniform"
    sample_weight = True
    weight: nn.Parameter | None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("weight", None)

    def setup(
        self,
        *,
        n_outputs: int,
        y: npt.ArrayLike | torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the classifier's weights."""
        weight = torch.empty(len(count_labels(y)), n_outputs)
        limit = n_outputs**-0.5  # as torch's own linear layer
        self.weight = nn.Parameter(nn.init.uniform_(weight, -limit, limit, generator=generator))

    def _classification(
        self,
        codes: torch.Tensor,
        y: torch.Tensor,
        weights: torch.Tensor | float,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Cross entropy of the classifier's scores of codes (n, n_bits)."""
        weight = check_is_set_up(self, self.weight)
        scores = F.linear(codes, weight.to(codes.dtype), bias)
        return F.cross_entropy(scores, weights * label_shares(y, len(weight), codes.dtype))


class DLBHCLoss(_ClassifierLoss):
    """Deep learning of binary hash codes: classify from sigmoid outputs [1]_.

    A linear classifier on ``sigmoid(outputs)``, trained with the network by
    cross entropy and dropped afterwards. This is only the loss of [1]_, which
    also re-ranks the images within a Hamming radius by the features of another
    layer. [1]_ has one class per image; here each 0/1 label of a row gets an
    equal share. [1]_ starts the hash layer with biases of 1 and small weights,
    and the classifier learns at ten times the rate:
    ``DeepHasher(loss="dlbhc", hash_layer="latent", loss_lr=10 * lr)``.

    The two weights add the terms of SSDH, a later method of the authors [2]_;
    there both are 1.

    Parameters
    ----------
    quantization_weight : float, default=0.0
        Weight of the mean of ``0.25 - (h - 0.5) ** 2`` for sigmoid outputs h;
        the term is 0 if they are 0 or 1.

    balance_weight : float, default=0.0
        Weight of the mean over rows of ``(mean(h) - 0.5) ** 2``: as many ones
        as zeros in each code.

    Attributes
    ----------
    weight : Parameter of shape (n_classes, n_bits)
        Weights of the classifier; made by `setup`.

    bias : Parameter of shape (n_classes,)
        Biases of the classifier.

    References
    ----------
    .. [1] K. Lin, H.-F. Yang, J.-H. Hsiao, C.-S. Chen. "Deep learning of binary
       hash codes for fast image retrieval". CVPR workshops, 2015.
    .. [2] H.-F. Yang, K. Lin, C.-S. Chen. "Supervised learning of semantics-
       preserving hash via deep convolutional neural networks". IEEE TPAMI 40,
       2018.

    Examples
    --------
    >>> import torch
    >>> loss = DLBHCLoss()
    >>> loss.setup(n_outputs=2, y=torch.tensor([0, 1]))
    >>> loss.weight.data = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> round(loss(torch.tensor([[9.0, -9.0]]), torch.tensor([0])).item(), 4)
    0.127
    """

    bias: nn.Parameter | None

    def __init__(self, quantization_weight: float = 0.0, balance_weight: float = 0.0) -> None:
        super().__init__()
        self.quantization_weight: float = check_real(
            quantization_weight, "quantization_weight", minimum=0
        )
        self.balance_weight: float = check_real(balance_weight, "balance_weight", minimum=0)
        self.register_parameter("bias", None)

    def setup(
        self,
        *,
        n_outputs: int,
        y: npt.ArrayLike | torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the classifier's weights; its biases start at 0."""
        super().setup(n_outputs=n_outputs, y=y, generator=generator)
        self.bias = nn.Parameter(torch.zeros(len(check_is_set_up(self, self.weight))))

    @on_labeled_rows
    def forward(
        self, outputs: torch.Tensor, y: torch.Tensor, *, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        bias = check_is_set_up(self, self.bias)
        codes = torch.sigmoid(full_precision(outputs))
        weights = row_weights(sample_weight, codes)
        quantization = (weights * (0.25 - (codes - 0.5).square())).mean()
        balance = (weights * (codes.mean(dim=1, keepdim=True) - 0.5).square()).mean()
        return (
            self._classification(codes, y, weights, bias.to(codes.dtype))
            + self.quantization_weight * quantization
            + self.balance_weight * balance
        )


class GreedyHashLoss(_ClassifierLoss):
    """Greedy hash: classify from the bits themselves [1]_.

    A linear classifier without bias on the signs of the outputs, trained with
    the network by cross entropy. The backward pass skips the signs: an output
    gets the gradient of its bit. The term ``mean(abs(abs(u) - 1) ** 3)`` keeps
    the outputs u near their signs. [1]_ has one class per image; here each 0/1
    label of a row gets an equal share.

    Parameters
    ----------
    quantization_weight : float, default=0.1
        Weight of that term. The authors' code: 0.1 for CIFAR-10 and 1 for
        ImageNet.

    Attributes
    ----------
    weight : Parameter of shape (n_classes, n_bits)
        Weights of the classifier; made by `setup`.

    References
    ----------
    .. [1] S. Su, C. Zhang, K. Han, Y. Tian. "Greedy hash: towards fast
       optimization for accurate hash coding in CNN". NeurIPS 2018.

    Examples
    --------
    >>> import torch
    >>> loss = GreedyHashLoss(quantization_weight=0)
    >>> loss.setup(n_outputs=2, y=torch.tensor([0, 1]))
    >>> loss.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> round(loss(torch.tensor([[0.3, -0.1]]), torch.tensor([0])).item(), 4)
    0.1269
    """

    def __init__(self, quantization_weight: float = 0.1) -> None:
        super().__init__()
        self.quantization_weight: float = check_real(
            quantization_weight, "quantization_weight", minimum=0
        )

    @on_labeled_rows
    def forward(
        self, outputs: torch.Tensor, y: torch.Tensor, *, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        outputs = full_precision(outputs)
        weights = row_weights(sample_weight, outputs)
        # Exactly the signs forward, the identity backward.
        signs = torch.where(outputs >= 0, 1.0, -1.0).to(outputs) + (outputs - outputs.detach())
        quantization = (weights * (outputs.abs() - 1).abs().pow(3)).mean()
        return self._classification(signs, y, weights) + self.quantization_weight * quantization
