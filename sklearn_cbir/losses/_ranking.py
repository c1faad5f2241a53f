"""Losses over the triplets of a batch: the positive should be nearer than the negative."""

from typing import Literal, get_args

import torch

from sklearn_cbir._labels import shared_labels
from sklearn_cbir._typing import HashLayer, LastLayer
from sklearn_cbir._validation import check_choice, check_real
from sklearn_cbir.losses._base import Loss, full_precision, on_labeled_rows
from sklearn_cbir.losses._hashing import squared_distances

Triplets = Literal["semihard", "all", "hardest"]


def triplet_loss(distances: torch.Tensor, relevance: torch.Tensor, margin: float) -> torch.Tensor:
    """Mean over triplets of ``max(0, margin + D[i, j] - D[i, k])``.

    Parameters
    ----------
    distances : tensor of shape (n, n)
        Distance of every row from every row.

    relevance : tensor of shape (n, n)
        Rows i, j and k, all different, are a triplet if ``relevance[i, j] >
        relevance[i, k]``.

    margin : float
        How much farther row k must be than row j.

    Returns
    -------
    tensor
        A scalar; 0 if there are no triplets.

    Examples
    --------
    >>> import torch
    >>> distances = torch.tensor([[0.0, 2.0, 3.0], [2.0, 0.0, 1.0], [3.0, 1.0, 0.0]])
    >>> y = torch.tensor([0, 0, 1])
    >>> triplet_loss(distances, y[:, None] == y, margin=1.0)
    tensor(1.)
    """
    different = ~torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    total, n_triplets = distances.sum() * 0.0, 0
    for level in torch.unique(relevance):
        nearer, farther = (relevance == level) & different, (relevance < level) & different
        total = total + _triplet_costs(distances, nearer, farther, margin)
        n_triplets = n_triplets + (nearer.sum(dim=1) * farther.sum(dim=1)).sum()
    return total / max(int(n_triplets), 1)


def _triplet_costs(
    distances: torch.Tensor, nearer: torch.Tensor, farther: torch.Tensor, margin: float
) -> torch.Tensor:
    """Sum of the triplets' costs in n ** 2 log n steps: sorted distances and their running sums."""
    far = torch.where(farther, distances, torch.inf).sort(dim=1).values
    sums = torch.where(far < torch.inf, far, 0).cumsum(dim=1)
    sums = torch.cat([torch.zeros_like(sums[:, :1]), sums], dim=1)  # (n, n + 1)
    limits = margin + distances
    n_violations = torch.searchsorted(far.detach(), limits.detach())  # (n, n)
    costs = n_violations * limits - sums.gather(1, n_violations)
    return torch.where(nearer, costs, 0).sum()


class TripletLoss(Loss):
    """Keep rows with other labels farther away than rows that share one [1]_.

    A triplet is an anchor, a positive row that shares a label with it, and a
    negative row that does not. It costs ``max(0, margin + D(anchor, positive) -
    D(anchor, negative))`` with squared Euclidean distances D, equation 3 of
    [1]_. The loss is the mean over the triplets of the batch.

    Parameters
    ----------
    margin : float, default=0.2
        Difference of squared distances from which a triplet costs nothing.
        For features of unit length, as `CNNFeatureExtractor` gives them, it is
        at most 4.

    triplets : {"semihard", "all", "hardest"}, default="semihard"
        "semihard" takes, for every pair of anchor and positive, the nearest
        negative that is farther than the positive, or the farthest negative if
        there is none [1]_. "all" takes every triplet. "hardest" takes the farthest
        positive and the nearest negative of every anchor [2]_.

    References
    ----------
    .. [1] F. Schroff, D. Kalenichenko, J. Philbin. "FaceNet: a unified
       embedding for face recognition and clustering". CVPR 2015.
    .. [2] A. Hermans, L. Beyer, B. Leibe. "In defense of the triplet loss for
       person re-identification". arXiv:1703.07737, 2017.

    Examples
    --------
    >>> import torch
    >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> round(TripletLoss(margin=1.0)(features, torch.tensor([0, 1, 1])).item(), 4)
    0.3
    """

    output: LastLayer = "features"

    def __init__(self, margin: float = 0.2, triplets: Triplets = "semihard") -> None:
        super().__init__()
        self.margin: float = check_real(margin, "margin", minimum=0)
        self.triplets: Triplets = check_choice(triplets, "triplets", get_args(Triplets))

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of features (n, d)."""
        distances = squared_distances(outputs)
        similar = shared_labels(y, y) > 0
        if self.triplets == "all":
            loss = triplet_loss(distances, similar, self.margin)
        else:
            loss = self._chosen(distances, similar)
        return loss.to(full_precision(outputs).dtype)

    def _chosen(self, distances: torch.Tensor, similar: torch.Tensor) -> torch.Tensor:
        """Mean cost where every pair, or every anchor, has one negative."""
        positive = similar & ~torch.eye(len(similar), dtype=torch.bool, device=similar.device)
        far = torch.where(similar, torch.inf, distances).sort(dim=1).values  # negatives first
        n_negatives = (~similar).sum(dim=1, keepdim=True)
        if self.triplets == "hardest":
            distances = torch.where(positive, distances, -torch.inf).amax(dim=1, keepdim=True)
            positive, position = positive.any(dim=1, keepdim=True), torch.zeros_like(n_negatives)
        else:
            farther = torch.searchsorted(far.detach(), distances.detach(), right=True)
            position = torch.minimum(farther, n_negatives - 1).clamp(min=0)
        chosen = positive & (n_negatives > 0)
        # Where nothing is chosen inf - inf must not reach the backward pass.
        nearest = torch.where(chosen, far.gather(1, position), 0)
        costs = torch.relu(self.margin + torch.where(chosen, distances, 0) - nearest)
        return torch.where(chosen, costs, 0).sum() / chosen.sum().clamp(min=1)


class DNNHLoss(Loss):
    """Triplets of sigmoid outputs: the loss of deep neural network hashing.

    With ``v = sigmoid(u)`` for outputs u, a triplet costs ``max(0, margin +
    |v - v_near| ** 2 - |v - v_far| ** 2)``, equation 2 of [1]_, where the near
    row shares more labels with the anchor than the far one does. The mean is
    over all triplets of the batch.

    In the divide-and-encode module of [1]_, every bit sees its own slice of the
    features. It is the last layer of the network: `DeepHasher` uses it for this
    loss, which has ``hash_layer = "divided"``. Unlike in [1]_, a linear layer
    makes the features from the pooled maps, 50 per bit; in [1]_ they are the
    means of the maps of a last convolution.

    Parameters
    ----------
    margin : float, default=1.0
        Difference of squared distances from which a triplet costs nothing.

    threshold_width : float, default=0.5
        Half the width of the interval around 0.5 in which v is unchanged; v
        becomes 0 below it and 1 above it, without a gradient. 0.5 changes
        nothing, like the public re-implementation by others
        (HYPJUDY/caffe-dnnh). The width in [1]_ is not known, and we found no code
        of its authors.

    References
    ----------
    .. [1] H. Lai, Y. Pan, Y. Liu, S. Yan. "Simultaneous feature learning and
       hash coding with deep neural networks". CVPR 2015.

    Examples
    --------
    >>> import torch
    >>> DNNHLoss()(torch.zeros(3, 12), torch.tensor([0, 0, 1]))
    tensor(1.)
    """

    output: LastLayer = "bits"
    hash_layer: HashLayer = "divided"

    def __init__(self, margin: float = 1.0, threshold_width: float = 0.5) -> None:
        super().__init__()
        self.margin: float = check_real(margin, "margin", minimum=0)
        self.threshold_width: float = check_real(
            threshold_width, "threshold_width", minimum=0, maximum=0.5
        )

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        values = torch.sigmoid(full_precision(outputs))
        passes = (values - 0.5).abs() <= self.threshold_width
        values = torch.where(passes, values, (values.detach() > 0.5).to(values.dtype))
        loss = triplet_loss(squared_distances(values), shared_labels(y, y), self.margin)
        return loss.to(values.dtype)
