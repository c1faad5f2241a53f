"""Learning to rank and multiple loss: negatives are held at distances that grow by rank."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from sklearn_cbir._labels import shared_labels
from sklearn_cbir._typing import LastLayer
from sklearn_cbir._validation import check_boolean, check_choice, check_integer, check_real
from sklearn_cbir.losses._base import Loss, full_precision, on_labeled_rows
from sklearn_cbir.losses._pairs import euclidean_distances

Form = Literal["staircase", "ranked_list"]
Negatives = Literal["hardest", "bottom"]
Reduction = Literal["mean", "sum"]


def staircase_loss(
    positive: torch.Tensor,
    negatives: torch.Tensor,
    *,
    margin: float = 0.85,
    step: float = 0.05,
    positive_margin: float = 0.0,
) -> torch.Tensor:
    """Cost of tuples if the negative of rank r should be at ``margin + r step``.

    Half the squared distance by which the positive is too far, plus half the
    squared distances by which the negatives are too near.

    Parameters
    ----------
    positive : tensor of shape (n_tuples,)
        Distance of every query from its positive.

    negatives : tensor of shape (n_tuples, n_negatives)
        Distances from its negatives, in any order; infinite if one is missing.

    margin, step, positive_margin : float, default=0.85, 0.05, 0.0
        As in `LRMLLoss`.

    Returns
    -------
    tensor of shape (n_tuples,)
        Cost of every tuple.

    Examples
    --------
    >>> import torch
    >>> staircase_loss(torch.tensor([0.5]), torch.tensor([[0.6, 0.7, 0.8, 0.9, 1.0]]))
    tensor([0.1938])
    """
    ranked = negatives.sort(dim=1).values
    steps = torch.arange(ranked.shape[1], device=ranked.device, dtype=ranked.dtype)
    too_far = F.relu(positive - positive_margin)
    too_near = F.relu(margin + step * steps - ranked)
    return (too_far.square() + too_near.square().sum(dim=1)) / 2


def ranked_list_loss(
    positive: torch.Tensor,
    negatives: torch.Tensor,
    *,
    boundary: float = 1.2,
    gap: float = 0.4,
    temperature: float = 10.0,
    negative_weight: float = 0.5,
) -> torch.Tensor:
    """Cost of tuples with one boundary for all negatives; nearer ones weigh more.

    Parameters
    ----------
    positive : tensor of shape (n_tuples,)
        Distance of every query from its positive.

    negatives : tensor of shape (n_tuples, n_negatives)
        Distances from its negatives, in any order; infinite if one is missing.

    boundary, gap, temperature, negative_weight : float, default=1.2, 0.4, 10.0, 0.5
        As in `LRMLLoss`.

    Returns
    -------
    tensor of shape (n_tuples,)
        Cost of every tuple.

    Examples
    --------
    >>> import torch
    >>> ranked_list_loss(torch.tensor([1.0]), torch.tensor([[0.7, 0.9, 1.0, 1.1, 1.3]]))
    tensor([0.3295])
    """
    near = negatives < boundary
    too_near = torch.where(near, boundary - negatives, 0)
    # The weights are constants of the step: no gradient flows through them.
    weights = torch.where(near, torch.exp(temperature * too_near.detach()), 0)
    push = (weights * too_near).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-12)
    pull = F.relu(positive - (boundary - gap))
    return (1 - negative_weight) * pull + negative_weight * push


class LRMLLoss(Loss):
    """Learning to rank and multiple loss: the rank of a negative sets its distance.

    From the labels, the loss forms tuples within the batch: a query, one positive
    and five negatives. [1]_ states this number, and that negatives of different
    rank belong at different distances; its equations are not known. "staircase"
    is the contrastive loss of [2]_ with a margin that grows with the rank,
    "ranked_list" has the weights of [3]_. With the staircase the nearest
    negative has the smallest margin, so negatives spread out; ``step=0`` is
    exactly the contrastive loss of [2]_. Distances are Euclidean, between
    features of unit length, as `CNNFeatureExtractor` gives them.

    A batch has a tuple for every ordered pair of rows that share a label; their
    mean is the expected cost of a random positive. In [2]_, positives are drawn
    at random and negatives come from a pool. With ``sampling="mined"`` an
    estimator makes batches of such tuples, but the other rows of the batch
    count too.

    Parameters
    ----------
    form : {"staircase", "ranked_list"}, default="staircase"
        Cost of a tuple: `staircase_loss` or `ranked_list_loss`.

    margin : float, default=0.85
        Distance from which the nearest negative costs nothing, for "staircase".

    step : float, default=0.05
        How much the margin grows with each rank. ``margin + step (n_negatives -
        1)`` should stay below 1.41, the distance of random rows.

    positive_margin : float, default=0.0
        Distance up to which a positive costs nothing, for "staircase".

    boundary : float, default=1.2
        Distance from which a negative costs nothing, for "ranked_list".

    gap : float, default=0.4
        How far inside the boundary positives should be, for "ranked_list".

    temperature : float, default=10.0
        How much more the nearer negatives weigh, for "ranked_list".

    negative_weight : float, default=0.5
        Share of the negatives in the cost, for "ranked_list".

    n_negatives : int, default=5
        Negatives per tuple; if there are fewer, all of them.

    negatives : {"hardest", "bottom"}, default="hardest"
        The nearest negatives, or the farthest ones. The "bottom five ranked by
        similarity" of [1]_ can mean either; the farthest cost almost nothing.

    one_per_class : bool, default=True
        Whether to use at most one negative of each class, or of each set of
        labels, as in [2]_.

    reduction : {"mean", "sum"}, default="mean"
        Mean or sum over the tuples. The code of [2]_ sums.

    References
    ----------
    .. [1] L. Fan, H. Zhao, H. Zhao, P. Liu, H. Hu. "Image retrieval based on
       learning to rank and multiple loss". ISPRS International Journal of
       Geo-Information 8(9), 2019.
    .. [2] F. Radenović, G. Tolias, O. Chum. "Fine-tuning CNN image retrieval
       with no human annotation". IEEE TPAMI 41, 2019.
    .. [3] X. Wang, Y. Hua, E. Kodirov, G. Hu, R. Garnier, N. M. Robertson.
       "Ranked list loss for deep metric learning". CVPR 2019.

    Examples
    --------
    >>> import torch
    >>> features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    >>> round(LRMLLoss()(features, torch.tensor([0, 0, 1, 1])).item(), 4)
    0.2804
    """

    output: LastLayer = "features"

    def __init__(
        self,
        form: Form = "staircase",
        margin: float = 0.85,
        step: float = 0.05,
        positive_margin: float = 0.0,
        boundary: float = 1.2,
        gap: float = 0.4,
        temperature: float = 10.0,
        negative_weight: float = 0.5,
        n_negatives: int = 5,
        negatives: Negatives = "hardest",
        one_per_class: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.form: Form = check_choice(form, "form", get_args(Form))
        self.margin: float = check_real(margin, "margin", minimum=0)
        self.step: float = check_real(step, "step", minimum=0)
        self.positive_margin: float = check_real(positive_margin, "positive_margin", minimum=0)
        self.boundary: float = check_real(boundary, "boundary", minimum=0)
        self.gap: float = check_real(gap, "gap", minimum=0)
        self.temperature: float = check_real(temperature, "temperature", minimum=0)
        self.negative_weight: float = check_real(
            negative_weight, "negative_weight", minimum=0, maximum=1
        )
        self.n_negatives: int = check_integer(n_negatives, "n_negatives", minimum=1)
        self.negatives: Negatives = check_choice(negatives, "negatives", get_args(Negatives))
        self.one_per_class: bool = check_boolean(one_per_class, "one_per_class")
        self.reduction: Reduction = check_choice(reduction, "reduction", get_args(Reduction))

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of features (n, d)."""
        distances = euclidean_distances(outputs)
        similar = shared_labels(y, y) > 0
        negatives = self._negatives(distances, similar, y)  # (n, n_negatives)
        positive = similar & ~torch.eye(len(similar), dtype=torch.bool, device=similar.device)
        queries, positives = positive.nonzero(as_tuple=True)
        costs = self._tuple_costs(distances[queries, positives], negatives[queries])
        total = costs.sum() / (max(len(costs), 1) if self.reduction == "mean" else 1)
        return total.to(full_precision(outputs).dtype)

    def _tuple_costs(self, positive: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """Cost of every tuple (n_tuples,)."""
        if self.form == "staircase":
            names = ("margin", "step", "positive_margin")
            cost = staircase_loss
        else:
            names = ("boundary", "gap", "temperature", "negative_weight")
            cost = ranked_list_loss
        return cost(positive, negatives, **{name: getattr(self, name) for name in names})

    def _negatives(
        self, distances: torch.Tensor, similar: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """Distances of every row's negatives (n, n_negatives), infinite where there are none."""
        order = distances.detach() if self.negatives == "hardest" else -distances.detach()
        order = torch.where(similar, torch.inf, order)
        if self.one_per_class:
            classes = torch.unique(y, dim=0, return_inverse=True)[1]
            ranks = order.argsort(dim=1, stable=True).argsort(dim=1)  # of every row, from 0
            first = ranks.new_full(ranks.shape, len(ranks))
            first.scatter_reduce_(1, classes.expand_as(ranks), ranks, "amin")  # of every class
            order = torch.where(ranks == first[:, classes], order, torch.inf)
        n_negatives = min(self.n_negatives, len(distances))
        chosen = order.argsort(dim=1, stable=True)[:, :n_negatives]
        there = order.gather(1, chosen) < torch.inf
        return torch.where(there, distances.gather(1, chosen), torch.inf)
