"""Losses on the real outputs of a hash layer, one per bit: ``loss(outputs, y)``."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from sklearn_cbir._labels import shared_labels
from sklearn_cbir._typing import LastLayer
from sklearn_cbir._validation import check_choice, check_real
from sklearn_cbir.losses._base import Loss, full_precision, on_labeled_rows

Norm = Literal["l1", "l2"]
Axis = Literal["code", "bit"]
Reduction = Literal["pair", "sample"]
BitReduction = Literal["sum", "mean"]
SimilarWeight = Literal["balanced"] | float | None
Squash = Literal["tanh"] | None


def squared_distances(outputs: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances between all rows.

    Parameters
    ----------
    outputs : tensor of shape (n, n_bits)
        Real outputs.

    Returns
    -------
    tensor of shape (n, n)
        In float64 if the device supports it.

    Examples
    --------
    >>> import torch
    >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[ 0., 25.],
            [25.,  0.]], dtype=torch.float64)
    """
    # Products cost a tenth of all differences; float64 undoes their cancellation. Not cdist(...) **
    # 2: its square root costs exactness at small distances.
    exact = outputs.float() if outputs.device.type == "mps" else outputs.double()
    lengths = exact.square().sum(dim=1)
    return lengths[:, None] + lengths[None, :] - 2 * exact @ exact.T


def pair_mean(
    costs: torch.Tensor, similar: torch.Tensor, similar_weight: SimilarWeight = None
) -> torch.Tensor:
    """Mean cost of the pairs of different rows.

    Parameters
    ----------
    costs : tensor of shape (n, n)
        Cost of every pair.

    similar : bool tensor of shape (n, n)
        Which pairs are similar.

    similar_weight : None, "balanced" or float, default=None
        Weight of a similar pair; a dissimilar pair has weight 1. None: all pairs
        have weight 1. "balanced": each kind makes half of the mean.

    Returns
    -------
    tensor
        A scalar; 0 if there are no pairs.

    Examples
    --------
    >>> import torch
    >>> costs = torch.tensor([[0.0, 6.0, 1.0], [6.0, 0.0, 2.0], [1.0, 2.0, 0.0]])
    >>> y = torch.tensor([0, 0, 1])
    >>> pair_mean(costs, y[:, None] == y)
    tensor(3.)
    >>> pair_mean(costs, y[:, None] == y, "balanced")
    tensor(3.7500)
    """
    different = ~torch.eye(len(costs), dtype=torch.bool, device=costs.device)
    return mean_of_kinds(costs, similar & different, ~similar & different, similar_weight)


def mean_of_kinds(
    costs: torch.Tensor,
    similar: torch.Tensor,
    dissimilar: torch.Tensor,
    similar_weight: SimilarWeight,
) -> torch.Tensor:
    """Return the mean cost of two kinds of pairs, weighted as in `pair_mean`."""
    similar_cost = torch.where(similar, costs, 0).sum()
    dissimilar_cost = torch.where(dissimilar, costs, 0).sum()
    n_similar, n_dissimilar = similar.sum().float(), dissimilar.sum().float()
    if similar_weight == "balanced":
        means = similar_cost / n_similar.clamp(min=1) + dissimilar_cost / n_dissimilar.clamp(min=1)
        return means / 2
    weight = 1.0 if similar_weight is None else similar_weight
    total = weight * n_similar + n_dissimilar
    # A batch without weighted pairs costs 0, not 0 / 0.
    return (weight * similar_cost + dissimilar_cost) / torch.where(total > 0, total, 1)


def check_similar_weight(similar_weight: SimilarWeight) -> SimilarWeight:
    """Return the weight if it is None, "balanced" or a number of at least 0."""
    if similar_weight is None or isinstance(similar_weight, str):
        return check_choice(similar_weight, "similar_weight", (None, "balanced"))
    return check_real(similar_weight, "similar_weight", minimum=0)


def contrastive_loss(
    outputs: torch.Tensor,
    similar: torch.Tensor,
    margin: float,
    similar_weight: SimilarWeight = None,
) -> torch.Tensor:
    """Return half the mean cost of pairs: similar rows attract, others repel.

    Parameters
    ----------
    outputs : tensor of shape (n, n_bits)
        Real outputs.

    similar : bool tensor of shape (n, n)
        Which pairs are similar.

    margin : float
        Squared distance beyond which a dissimilar pair costs nothing.

    similar_weight : None, "balanced" or float, default=None
        As in `pair_mean`.

    Returns
    -------
    tensor
        A scalar.

    Examples
    --------
    >>> import torch
    >>> outputs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> contrastive_loss(outputs, torch.eye(2).bool(), margin=6.0)
    tensor(1.)
    """
    distances = squared_distances(outputs)
    costs = torch.where(similar, distances, F.relu(margin - distances)) / 2
    return pair_mean(costs, similar, similar_weight).to(full_precision(outputs).dtype)


def quantization_loss(outputs: torch.Tensor, norm: Norm = "l1") -> torch.Tensor:
    """Mean over rows of the distance of all outputs from -1 or +1.

    Parameters
    ----------
    outputs : tensor of shape (n, n_bits)
        Real outputs.

    norm : {"l1", "l2"}, default="l1"
        Sum of absolute or of squared differences.

    Returns
    -------
    tensor
        A scalar.

    Examples
    --------
    >>> import torch
    >>> quantization_loss(torch.tensor([[1.0, -0.5], [0.0, -1.0]]))
    tensor(0.7500)
    """
    # The nearest code, 0 counting as +1: unlike ||u| - 1|, its slope at 0 is not 0.
    errors = outputs - torch.where(outputs.detach() >= 0, 1.0, -1.0).to(outputs.dtype)
    return (errors.abs() if norm == "l1" else errors.square()).sum(dim=1).mean()


def balance_loss(
    outputs: torch.Tensor, axis: Axis = "code", reduction: BitReduction = "mean"
) -> torch.Tensor:
    """Square of the mean output, which is 0 for as many +1 as -1.

    Parameters
    ----------
    outputs : tensor of shape (n, n_bits)
        Real outputs.

    axis : {"code", "bit"}, default="code"
        Mean of each row, or of each column of the batch.

    reduction : {"mean", "sum"}, default="mean"
        The mean of the squares, or n_bits times that: their sum over the bits,
        as `quantization_loss` sums its differences.

    Returns
    -------
    tensor
        A scalar.

    Examples
    --------
    >>> import torch
    >>> outputs = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    >>> balance_loss(outputs), balance_loss(outputs, axis="bit")
    (tensor(0.), tensor(1.))
    >>> balance_loss(outputs, axis="bit", reduction="sum")
    tensor(2.)
    """
    square = outputs.mean(dim=1 if axis == "code" else 0).square().mean()
    return square * outputs.shape[1] if reduction == "sum" else square


class DSHLoss(Loss):
    """Deep supervised hashing: contrastive pairs plus quantization [1]_.

    Rows are similar if they share a label.

    Parameters
    ----------
    margin : float, default=None
        Squared distance beyond which a dissimilar pair costs nothing; None
        means ``2 * n_bits``: half of the bits differ.

    quantization_weight : float, default=0.01
        Weight of the quantization term, alpha in [1]_.

    quantization_reduction : {"pair", "sample"}, default="pair"
        "pair" adds the quantization of both rows to every pair, as [1]_ does;
        "sample" adds the quantization of every row once, which is half as much,
        as the authors' code does.

    References
    ----------
    .. [1] H. Liu, R. Wang, S. Shan, X. Chen. "Deep supervised hashing for fast
       image retrieval". CVPR 2016.

    Examples
    --------
    >>> import torch
    >>> outputs = torch.tensor(
    ...     [[0.9, -0.8, 1.1, -1.0], [0.7, -1.2, 0.9, -0.6], [-0.5, 0.9, 1.0, 0.4]]
    ... )
    >>> round(DSHLoss()(outputs, torch.tensor([0, 0, 1])).item(), 4)
    0.4707
    """

    output: LastLayer = "bits"

    def __init__(
        self,
        margin: float | None = None,
        quantization_weight: float = 0.01,
        quantization_reduction: Reduction = "pair",
    ) -> None:
        super().__init__()
        self.margin: float | None = _check_margin(margin)
        self.quantization_weight: float = check_real(
            quantization_weight, "quantization_weight", minimum=0
        )
        self.quantization_reduction: Reduction = check_choice(
            quantization_reduction, "quantization_reduction", get_args(Reduction)
        )

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        outputs = full_precision(outputs)
        similar = shared_labels(y, y) > 0
        margin = 2 * outputs.shape[1] if self.margin is None else self.margin
        # Both members of a pair are quantized, hence the 2.
        weight = self.quantization_weight * (2 if self.quantization_reduction == "pair" else 1)
        return contrastive_loss(outputs, similar, margin) + weight * quantization_loss(outputs)


class DFEHLoss(Loss):
    """Contrastive, quantization and balance terms of semantic-preserving hashing.

    The loss of deep features enhance and semantic-preserving hashing [1]_. Its
    three terms and the weight 0.01 are known, its equations are not: their form
    here is inferred from the papers that [1]_ names, DSH [2]_ for the pairs and
    the quantization, SSDH [3]_ for the balance. There is no classification
    term. Rows are similar if they share a label.

    Parameters
    ----------
    margin : float, default=None
        Squared distance beyond which a dissimilar pair costs nothing; None
        means ``2 * n_bits``: half of the bits differ.

    quantization_weight : float, default=0.01
        Weight of the quantization term.

    balance_weight : float, default=0.01
        Weight of the balance term.

    quantization : {"l1", "l2"}, default="l1"
        Absolute or squared differences from -1 and +1.

    balance : {"code", "bit"}, default="code"
        Whether each code should have as many ones as zeros, or each bit, over
        the batch.

    similar_weight : None, "balanced" or float, default=2.0
        Weight of a similar pair; a dissimilar pair has weight 1. None: all pairs
        have weight 1, as in [1]_. "balanced": each kind makes half of the mean.
        The default differs from [1]_: on CIFAR-10 a weight of 1 learns much more
        slowly, and larger ones pull classes together that look alike.

    squash : {None, "tanh"}, default=None
        Function of the outputs before all terms; [1]_ has none.

    balance_reduction : {"sum", "mean"}, default="sum"
        "sum" adds the squares of mean outputs over the bits, as the quantization
        term adds its differences; "mean" is n_bits times smaller. The square of
        a code's sum is "sum" with n_bits times the weight. It is not known which
        of them [1]_ means. At equal weights and 12 to 48 bits, "sum" pulls 0.3 to
        1.0 times as hard as the quantization term, and "mean" 0.006 to 0.09
        times, which has no effect.

    References
    ----------
    .. [1] Zhao, Liu. "Leveraging deep features enhance and semantic-
       preserving hashing for image retrieval". Electronics 11(15), 2022.
    .. [2] H. Liu, R. Wang, S. Shan, X. Chen. "Deep supervised hashing for fast
       image retrieval". CVPR 2016.
    .. [3] H.-F. Yang, K. Lin, C.-S. Chen. "Supervised learning of semantics-
       preserving hash via deep convolutional neural networks". IEEE TPAMI 40,
       2018.

    Examples
    --------
    >>> import torch
    >>> outputs = torch.tensor(
    ...     [[0.9, -0.8, 1.1, -1.0], [0.7, -1.2, 0.9, -0.6], [-0.5, 0.9, 1.0, 0.4]]
    ... )
    >>> round(DFEHLoss(similar_weight=None)(outputs, torch.tensor([0, 0, 1])).item(), 4)
    0.4648
    """

    output: LastLayer = "bits"
    balance_reduction: BitReduction = "mean"  # of pickles that were made before there was a choice

    def __init__(
        self,
        margin: float | None = None,
        quantization_weight: float = 0.01,
        balance_weight: float = 0.01,
        quantization: Norm = "l1",
        balance: Axis = "code",
        similar_weight: SimilarWeight = 2.0,
        squash: Squash = None,
        balance_reduction: BitReduction = "sum",
    ) -> None:
        super().__init__()
        self.margin: float | None = _check_margin(margin)
        self.quantization_weight: float = check_real(
            quantization_weight, "quantization_weight", minimum=0
        )
        self.balance_weight: float = check_real(balance_weight, "balance_weight", minimum=0)
        self.quantization: Norm = check_choice(quantization, "quantization", get_args(Norm))
        self.balance: Axis = check_choice(balance, "balance", get_args(Axis))
        self.similar_weight: SimilarWeight = check_similar_weight(similar_weight)
        self.squash: Squash = check_choice(squash, "squash", (None, "tanh"))
        self.balance_reduction = check_choice(
            balance_reduction, "balance_reduction", get_args(BitReduction)
        )

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        outputs = full_precision(outputs)
        outputs = torch.tanh(outputs) if self.squash == "tanh" else outputs
        similar = shared_labels(y, y) > 0
        margin = 2 * outputs.shape[1] if self.margin is None else self.margin
        return (
            contrastive_loss(outputs, similar, margin, self.similar_weight)
            + self.quantization_weight * quantization_loss(outputs, self.quantization)
            + self.balance_weight * balance_loss(outputs, self.balance, self.balance_reduction)
        )


def _check_margin(margin: float | None) -> float | None:
    return margin if margin is None else check_real(margin, "margin", minimum=0)
