"""Losses over the pairs of a batch, by the number of labels that two rows share."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from sklearn_cbir._labels import shared_labels
from sklearn_cbir._typing import LastLayer
from sklearn_cbir._validation import check_choice, check_real
from sklearn_cbir.losses._base import Loss, full_precision, on_labeled_rows
from sklearn_cbir.losses._hashing import (
    SimilarWeight,
    check_similar_weight,
    mean_of_kinds,
    pair_mean,
    quantization_loss,
    squared_distances,
)

Form = Literal["idhn", "isdh", "cosine"]
Squash = Literal["softsign", "tanh"] | None
Similarity = Literal["cosine", "binary"]


def euclidean_distances(features: torch.Tensor) -> torch.Tensor:
    """Distances between all rows (n, n); the slope at 0 is 0, not infinite."""
    # At 0 the clamp stops the gradient before the square root, whose slope there is infinite.
    return squared_distances(features).clamp(min=1e-12).sqrt()


class ContrastiveLoss(Loss):
    """Move rows together that share a label, and others `margin` apart [1]_.

    The mean over the pairs of a batch: ``D ** 2 / 2`` for similar rows and
    ``max(0, margin - D) ** 2 / 2`` for others, where D is their Euclidean
    distance: equation 4 of [1]_. Unlike in `DSHLoss`, the margin is a distance,
    not a squared distance.

    Parameters
    ----------
    margin : float, default=1.0
        Distance beyond which a dissimilar pair costs nothing. Features of
        unit length, which `CNNFeatureExtractor` gives, are at most 2 apart.

    similar_weight : None, "balanced" or float, default=None
        Weight of a similar pair; a dissimilar pair has weight 1. None: all pairs
        have weight 1, as in [1]_. "balanced": each kind makes half of the mean.

    References
    ----------
    .. [1] R. Hadsell, S. Chopra, Y. LeCun. "Dimensionality reduction by
       learning an invariant mapping". CVPR 2006.

    Examples
    --------
    >>> import torch
    >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> round(ContrastiveLoss()(features, torch.tensor([0, 1, 1])).item(), 4)
    0.0685
    """

    output: LastLayer = "features"

    def __init__(self, margin: float = 1.0, similar_weight: SimilarWeight = None) -> None:
        super().__init__()
        self.margin: float = check_real(margin, "margin", minimum=0)
        self.similar_weight: SimilarWeight = check_similar_weight(similar_weight)

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of features (n, d)."""
        similar = shared_labels(y, y) > 0
        misses = F.relu(self.margin - euclidean_distances(outputs))
        costs = torch.where(similar, squared_distances(outputs), misses.square()) / 2
        return pair_mean(costs, similar, self.similar_weight).to(full_precision(outputs).dtype)


class MultilevelLoss(Loss):
    """Codes with distances that follow the cosine of their label vectors [1]_.

    The similarity s of two rows is the cosine of their 0/1 label vectors, from
    0 to 1. Pairs with s below 0.01 or above 0.99 are hard and get a likelihood;
    the others are soft, and their inner product is fitted to s. [1]_ states this
    s, but not the loss on it: the forms "idhn" and "isdh" are from two papers
    that use the same similarity. The mean is over all ordered pairs, including
    each row with itself.

    Parameters
    ----------
    form : {"idhn", "isdh", "cosine"}, default="idhn"
        With ``w = beta u v / n_bits`` for outputs u and v: "idhn" [2]_ has
        ``log(1 + exp(w)) - s w`` for hard pairs and ``gamma n_bits ((u v /
        n_bits + 1) / 2 - s) ** 2`` for soft ones. "isdh" [3]_ has ``gamma (log(1
        + exp(w)) - s w)`` for hard pairs and ``(s - sigmoid(w)) ** 2`` for soft
        ones. "cosine" fits ``(cos(u, v) + 1) / 2`` to s by least squares for all
        pairs.

    beta : float, default=5.0
        Steepness of the likelihood.

    gamma : float, default=None
        Weight gamma in `form`; None means 0.1 for "idhn" and 10 for "isdh", as in
        the code of their authors.

    quantization_weight : float, default=0.1
        Weight of the mean distance of all outputs from -1 or +1.

    squash : {"softsign", "tanh", None}, default="softsign"
        Function of the outputs before all terms, as in [2]_; [1]_ does not say.

    similarity : {"cosine", "binary"}, default="cosine"
        "binary" takes s = 1 for rows that share a label and 0 for others. It is
        not known whether [1]_ compares itself with this: its abstract says only
        "reference models".

    similar_weight : None, "balanced" or float, default=None
        Weight of a pair that shares a label; any other pair has weight 1. None:
        all pairs have weight 1. "balanced": each kind makes half of the mean. As
        far as is known, [1]_ has no such weight.

    References
    ----------
    .. [1] B. Qiang et al. "Large-scale multi-label image retrieval using
       residual network with hash layer". ICACI 2019.
    .. [2] Z. Zhang, Q. Zou, Y. Lin, L. Chen, S. Wang. "Improved deep hashing
       with soft pairwise similarity for multi-label image retrieval". IEEE
       Transactions on Multimedia 22, 2020.
    .. [3] Z. Zhang, Q. Zou et al. "Instance similarity deep
       hashing for multi-label image retrieval". arXiv:1803.02987, 2018.

    Examples
    --------
    >>> import torch
    >>> y = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]])
    >>> outputs = torch.tensor(
    ...     [[0.8, -0.6, 0.5, 0.9], [0.7, -0.5, -0.4, 0.6], [0.9, -0.7, 0.6, 0.8],
    ...      [-0.8, 0.6, 0.7, -0.5]]
    ... )
    >>> round(MultilevelLoss(squash=None)(outputs, y).item(), 4)
    0.1435
    """

    output: LastLayer = "bits"
    similar_weight: SimilarWeight = None  # of pickles that were made before there was a choice

    def __init__(
        self,
        form: Form = "idhn",
        beta: float = 5.0,
        gamma: float | None = None,
        quantization_weight: float = 0.1,
        squash: Squash = "softsign",
        similarity: Similarity = "cosine",
        similar_weight: SimilarWeight = None,
    ) -> None:
        super().__init__()
        self.form: Form = check_choice(form, "form", get_args(Form))
        self.beta: float = check_real(beta, "beta", minimum=0)
        self.gamma: float | None = gamma if gamma is None else check_real(gamma, "gamma", minimum=0)
        self.quantization_weight: float = check_real(
            quantization_weight, "quantization_weight", minimum=0
        )
        self.squash: Squash = check_choice(squash, "squash", ("softsign", "tanh", None))
        self.similarity: Similarity = check_choice(similarity, "similarity", get_args(Similarity))
        self.similar_weight = check_similar_weight(similar_weight)

    @on_labeled_rows
    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        outputs = full_precision(outputs)
        if self.squash is not None:
            outputs = {"softsign": F.softsign, "tanh": torch.tanh}[self.squash](outputs)
        costs = self._pair_costs(outputs, self._similarities(y, outputs.dtype))
        quantization = quantization_loss(outputs) / outputs.shape[1]
        return self._mean(costs, y) + self.quantization_weight * quantization

    def _mean(self, costs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean over all ordered pairs, each row with itself included."""
        if self.similar_weight is None:
            return costs.mean()
        similar = shared_labels(y, y) > 0
        return mean_of_kinds(costs, similar, ~similar, self.similar_weight)

    def _similarities(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Similarity s of every ordered pair (n, n)."""
        if self.similarity == "binary":
            return (shared_labels(y, y) > 0).to(dtype)
        return _label_cosines(y, dtype)

    def _pair_costs(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cost of every ordered pair (n, n)."""
        if self.form == "cosine":
            unit = F.normalize(outputs, dim=1)
            return ((unit @ unit.T + 1) / 2 - targets).square()
        agreement = outputs @ outputs.T / outputs.shape[1]
        logits = self.beta * agreement
        hard = F.softplus(logits) - targets * logits
        if self.form == "idhn":
            gamma = 0.1 if self.gamma is None else self.gamma
            soft = gamma * outputs.shape[1] * ((agreement + 1) / 2 - targets).square()
        else:
            hard = (10.0 if self.gamma is None else self.gamma) * hard
            soft = (targets - torch.sigmoid(logits)).square()
        # Equal labels have a cosine of 0.99999... only.
        return torch.where((targets > 0.99) | (targets < 0.01), hard, soft)


def _label_cosines(y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cosine of the label vectors of all rows (n, n)."""
    if y.ndim == 1:
        return shared_labels(y, y).to(dtype)
    unit = F.normalize(y.to(dtype), dim=1)
    return unit @ unit.T
