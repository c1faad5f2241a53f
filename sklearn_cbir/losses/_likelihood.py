"""Losses on bits: the likelihood of the similarity of pairs."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from sklearn_cbir._labels import shared_labels
from sklearn_cbir._typing import LastLayer
from sklearn_cbir._validation import check_choice, check_real
from sklearn_cbir.losses._base import Loss, full_precision, on_labeled_rows
from sklearn_cbir.losses._hashing import pair_mean, quantization_loss, squared_distances

Form = Literal["paper", "code"]


class DPSHLoss(Loss):
    """Deep pairwise-supervised hashing: likelihood of pairs plus quantization.

    With ``t = u v / 2`` for outputs u and v, a pair costs ``log(1 + exp(t)) -
    s t``, as in [1]_, where s is 1 if the rows share a label, else 0. Unlike in
    [1]_, both terms are means, not sums, and both rows of a pair come from the
    batch: [1]_ compares a batch with stored outputs of all training images.

    Large outputs at the start cost so much that they all shrink to 0, and then
    nothing more is learned. So the loss requires small first weights of the
    hash layer of `DeepHasher`, by ``hash_std = 0.01``.

    Parameters
    ----------
    quantization_weight : float, default=0.1
        Weight of the mean square of the differences between outputs and bits.
        With eta of [1]_, it is ``eta n_bits / (n - 1)``, because [1]_ sums over n
        training images and over all their ordered pairs: eta = 10 there is 0.1
        here for about ``100 n_bits`` images.

    References
    ----------
    .. [1] W.-J. Li, S. Wang, W.-C. Kang. "Feature learning based deep
       supervised hashing with pairwise labels". IJCAI 2016.

    Examples
    --------
    >>> import torch
    >>> outputs = torch.ones(2, 12)
    >>> round(DPSHLoss()(outputs, torch.tensor([0, 0])).item(), 6)
    0.002476
    """

    output: LastLayer = "bits"
    hash_std: float | None = 0.01

    def __init__(self, quantization_weight: float = 0.1) -> None:
        super().__init__()
        self.quantization_weight: float = check_real(
            quantization_weight, "quantization_weight", minimum=0
        )

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        outputs = full_precision(outputs)
        similar = shared_labels(y, y) > 0
        logits = outputs @ outputs.T / 2  # (n, n)
        costs = F.softplus(logits) - torch.where(similar, logits, 0)
        quantization = quantization_loss(outputs, "l2") / outputs.shape[1]
        return pair_mean(costs, similar) + self.quantization_weight * quantization


class HashNetLoss(Loss):
    """HashNet: a weighted likelihood of pairs whose tanh sharpens as it trains.

    With ``h = tanh(beta u)`` for outputs u, a pair costs ``log(1 + exp(alpha h
    h')) - s alpha h h'``. As in [1]_, all similar pairs together weigh as much as
    all dissimilar ones, and with several labels per row, the weight of a similar
    pair also has the share of common labels as a factor. Unlike in [1]_, all
    pairs are within one batch, not between two batches. The authors' code has
    these weights only if you give it the number of classes.

    Parameters
    ----------
    alpha : float, default=None
        Factor of the inner products; None means ``10 / n_bits``, as in the
        authors' code.

    final_beta : float, default=7.0
        Factor of the outputs in the last epoch. It grows from 1 as the square
        root of the epoch. The authors' code reaches 7.1, and changes it every 200
        steps, not between epochs. 1 keeps it constant; the maximum is 1e6.

    Attributes
    ----------
    beta : float
        The factor of the current epoch.

    References
    ----------
    .. [1] Z. Cao, M. Long, J. Wang, P. S. Yu. "HashNet: deep learning to hash by
       continuation". ICCV 2017.

    Examples
    --------
    >>> import torch
    >>> loss = HashNetLoss()
    >>> outputs = torch.tensor([[0.5, -0.5], [0.5, 0.5]])
    >>> round(loss(outputs, torch.tensor([0, 1])).item(), 4)
    0.6931
    >>> loss.start_epoch(4, 5)
    >>> loss.beta
    7.0
    """

    output: LastLayer = "bits"

    def __init__(self, alpha: float | None = None, final_beta: float = 7.0) -> None:
        super().__init__()
        self.alpha: float | None = alpha if alpha is None else check_real(alpha, "alpha", minimum=0)
        self.final_beta: float = check_real(final_beta, "final_beta", minimum=1, maximum=1e6)
        self.beta: float = 1.0

    def start_epoch(self, epoch: int, n_epochs: int) -> None:
        """Set `beta` for an epoch; it does not depend on earlier calls.

        Parameters
        ----------
        epoch : int
            Number of the epoch, counted from 0.

        n_epochs : int
            Number of epochs of the whole training.
        """
        done = epoch / max(n_epochs - 1, 1)
        self.beta = math.sqrt(1 + (self.final_beta**2 - 1) * done)

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        outputs = full_precision(outputs)
        similar = shared_labels(y, y) > 0
        codes = torch.tanh(self.beta * outputs)
        alpha = 10 / outputs.shape[1] if self.alpha is None else self.alpha
        logits = alpha * codes @ codes.T  # (n, n)
        costs = F.softplus(logits) - torch.where(similar, logits, 0)
        return _weighted_mean(costs, y)


class DCHLoss(Loss):
    """Deep Cauchy hashing: similar codes within a small Hamming radius.

    With ``h = tanh(u)`` for outputs u, ``d = n_bits (1 - cos(h, h')) / 2`` is the
    relaxed Hamming distance. A similar pair costs ``log(1 + d / gamma)`` and a
    dissimilar pair ``log(1 + gamma / d)``, weighted as in `HashNetLoss`; every
    row adds ``log(1 + d(abs(h), 1) / gamma)``, as in [1]_. The authors' code
    differs; ``form="code"`` is as there.

    Parameters
    ----------
    gamma : float, default=20.0
        Scale of the Cauchy distribution, in bits: the smaller, the more the loss
        depends on the nearest codes only. [1]_ tries 2 to 50; the authors' code
        has 20.

    quantization_weight : float, default=0.1
        Weight of the mean quantization cost of a row; [1]_ chooses it by
        cross-validation, the authors' code has 0, and a port of it 0.1.

    form : {"paper", "code"}, default="paper"
        "code" has other definitions: d is the squared Euclidean distance of h and
        h' plus 0.001, and the quantization is the mean of ``(abs(h) - 1) ** 2``.
        It takes the plain mean of the costs of pairs, where a dissimilar pair has
        weight 1, and a similar pair the number of all pairs divided by the number
        of similar pairs; both include the pairs of a row with itself.

    References
    ----------
    .. [1] Y. Cao, M. Long, B. Liu, J. Wang. "Deep Cauchy hashing for Hamming
       space retrieval". CVPR 2018.

    Examples
    --------
    >>> import torch
    >>> outputs = torch.tensor([[2.0, -2.0], [2.0, 2.0]])
    >>> round(DCHLoss(gamma=1.0)(outputs, torch.tensor([0, 1])).item(), 4)
    0.6931
    """

    output: LastLayer = "bits"
    form: Form = "paper"

    def __init__(
        self, gamma: float = 20.0, quantization_weight: float = 0.1, form: Form = "paper"
    ) -> None:
        super().__init__()
        self.gamma: float = check_real(gamma, "gamma", minimum=1e-6)
        self.quantization_weight: float = check_real(
            quantization_weight, "quantization_weight", minimum=0
        )
        self.form = check_choice(form, "form", get_args(Form))

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        outputs = full_precision(outputs)
        h = torch.tanh(outputs)
        pairs, quantization = (self._of_paper if self.form == "paper" else self._of_code)(h, y)
        return pairs.to(outputs.dtype) + self.quantization_weight * quantization

    def _of_paper(self, h: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cost of pairs and of quantization by the cosine."""
        n_bits = h.shape[1]
        unit = F.normalize(h, dim=1)
        # Half the squared distance of unit rows is 1 - cos, and never negative enough for a NaN.
        costs = self._costs(n_bits / 4 * squared_distances(unit) + 1e-6, y)
        from_bits = n_bits / 2 * (1 - unit.abs().sum(dim=1) / math.sqrt(n_bits))
        quantization = torch.log1p(from_bits.clamp(min=0) / self.gamma).mean()
        return _weighted_mean(costs, y), quantization

    def _of_code(self, h: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cost of pairs and of quantization as in the authors' code."""
        costs = self._costs(squared_distances(h).clamp(min=0) + 1e-3, y)
        similar = shared_labels(y, y) > 0
        weights = torch.where(similar, similar.numel() / similar.sum(), 1)
        different = ~torch.eye(len(h), dtype=torch.bool, device=h.device)
        total = torch.where(different, weights * costs, 0).sum()
        return total / different.sum().clamp(min=1), (h.abs() - 1).square().mean()

    def _costs(self, distances: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Cost of every ordered pair (n, n) by its distance."""
        similar = shared_labels(y, y) > 0
        return torch.log1p(torch.where(similar, distances / self.gamma, self.gamma / distances))


def _weighted_mean(costs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of different rows; both kinds weigh alike, common labels add to it."""
    shared = shared_labels(y, y).to(costs.dtype)
    different = ~torch.eye(len(costs), dtype=torch.bool, device=costs.device)
    similar, dissimilar = (shared > 0) & different, (shared == 0) & different
    if y.ndim == 2:  # Jaccard: shared labels among all labels of the two
        n_labels = y.to(costs.dtype).sum(dim=1)
        shared = shared / (n_labels[:, None] + n_labels - shared).clamp(min=1)
    n = different.sum().float()
    of_similar = n / similar.sum().clamp(min=1) * shared
    of_dissimilar = n / dissimilar.sum().clamp(min=1)
    # Without pairs of one kind the other kind has the weight 1.
    weights = torch.where(similar, of_similar, torch.where(dissimilar, of_dissimilar, 0))
    total = weights.sum()
    return torch.where(different, weights * costs, 0).sum() / torch.where(total > 0, total, 1)
