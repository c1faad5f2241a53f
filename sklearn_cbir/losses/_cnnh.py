"""CNNH: target codes from the similarity matrix first, then a network that learns them."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sklearn_cbir._labels import shared_labels
from sklearn_cbir._typing import LastLayer, Sampling
from sklearn_cbir._validation import check_integer
from sklearn_cbir.losses._base import (
    Loss,
    check_is_set_up,
    class_targets,
    full_precision,
    on_labeled_rows,
    row_weights,
)

Array = npt.NDArray[np.float64]
_MOST_LABEL_SETS = 1000  # stage 1 costs their square in memory and time


class CNNHLoss(Loss):
    """Convolutional neural network hashing: learn codes of a factored similarity.

    Stage 1, in `setup`, finds codes H of -1 and +1 whose products approximate the
    similarities S: +1 for rows that share a label, -1 for others. It minimizes
    ``|S - H H' / n_bits| ** 2`` over one coordinate after another, between -1
    and 1, and rounds. Stage 2, the loss, is the binary cross entropy between
    these bits and the sigmoids of the outputs.

    Unlike in [1]_, stage 1 finds one code per class, weighted by its number of
    images. The optimum is the same, since S depends only on labels, and the time
    grows with the number of classes, not with its square. With several labels
    per image, there is one code per set of labels, for the 1,000 most frequent
    sets; any other set gets the code of the set with the most similar label
    vector. The variant CNNH+ also classifies from the features before the hash
    layer. A loss on the outputs cannot do that, so CNNH+ is not offered.

    Parameters
    ----------
    n_sweeps : int, default=5
        Maximum number of passes of stage 1 over all coordinates; it stops after
        a pass that changes nothing.

    Attributes
    ----------
    codes : tensor of shape (n_sets, n_bits)
        Target codes of -1 and +1; made by `setup`.

    label_sets : tensor of shape (n_sets, n_labels) or None
        The labels of each code, as vectors of unit length. None with more than
        1,000 classes: then each class has its own code, in their order.

    References
    ----------
    .. [1] R. Xia, Y. Pan, H. Lai, C. Liu, S. Yan. "Supervised hashing for image
       retrieval via image representation learning". AAAI 2014.

    Examples
    --------
    >>> import torch
    >>> loss = CNNHLoss()
    >>> loss.setup(n_outputs=4, y=torch.tensor([0, 1, 1]))
    >>> torch.equal(loss.codes[0], -loss.codes[1])
    True
    >>> round(loss(torch.zeros(1, 4), torch.tensor([0])).item(), 4)
    0.6931
    """

    output: LastLayer = "bits"
    sampling: Sampling = "uniform"
    sample_weight = True
    codes: torch.Tensor | None
    label_sets: torch.Tensor | None

    def __init__(self, n_sweeps: int = 5) -> None:
        super().__init__()
        self.n_sweeps: int = check_integer(n_sweeps, "n_sweeps", minimum=1)
        self.register_buffer("codes", None)
        self.register_buffer("label_sets", None)

    def setup(
        self,
        *,
        n_outputs: int,
        y: npt.ArrayLike | torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Find the target codes: stage 1."""
        y = torch.as_tensor(y)
        if y.ndim == 1 and (n_classes := int(y.max()) + 1) > _MOST_LABEL_SETS:
            counts = torch.bincount(y).clamp(min=1).double()
            start = _start(n_classes, n_outputs, generator)
            codes = _factor_classes(
                (counts / counts.mean()).numpy(), start, self.n_sweeps, generator
            )
            self.codes, self.label_sets = _signs(codes), None
            return
        sets, counts = _label_sets(y)
        similarity = 2.0 * (shared_labels(sets, sets) > 0).numpy() - 1
        weights = (counts / counts.mean()).numpy()
        start = _start(len(sets), n_outputs, generator)
        codes = _factor(similarity, weights, start, self.n_sweeps, generator)
        self.codes = _signs(codes)
        self.label_sets = F.normalize(sets, dim=1)

    @on_labeled_rows
    def forward(
        self, outputs: torch.Tensor, y: torch.Tensor, *, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Loss of outputs (n, n_bits)."""
        codes = check_is_set_up(self, self.codes)
        outputs = full_precision(outputs)
        if self.label_sets is None:
            nearest = y if y.ndim == 1 else y.argmax(dim=1)
        else:
            labels = class_targets(y, self.label_sets.shape[1], self.label_sets.dtype)
            nearest = (labels @ self.label_sets.T).argmax(dim=1)  # the same set has the cosine 1
        bits = (codes[nearest] > 0).to(outputs.dtype)
        costs = F.binary_cross_entropy_with_logits(outputs, bits, reduction="none")
        return (row_weights(sample_weight, outputs) * costs).mean()


def _start(n_sets: int, n_bits: int, generator: torch.Generator | None) -> Array:
    """Return the codes that stage 1 begins with, float64 from -1 to 1."""
    return 2 * torch.rand(n_sets, n_bits, generator=generator, dtype=torch.float64).numpy() - 1


def _signs(codes: Array) -> torch.Tensor:
    return torch.from_numpy(np.where(codes >= 0, 1, -1)).float()


def _label_sets(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct label rows (n_sets, n_labels) and how often each occurs."""
    if y.ndim == 1:
        counts = torch.bincount(y).double()
        return torch.eye(len(counts)), counts.clamp(min=1)
    sets, counts = torch.unique(y.float(), dim=0, return_counts=True)
    # Single labels come in the order of the classes.
    sets, counts = sets.flip(0), counts.flip(0)
    sets, counts = sets[sets.sum(dim=1) > 0], counts[sets.sum(dim=1) > 0]
    if not len(sets):
        raise ValueError("No row of y has a label. CNNHLoss learns from labels: label some rows.")
    frequent = counts.argsort(descending=True, stable=True)[:_MOST_LABEL_SETS].sort().values
    return sets[frequent], counts[frequent].double()


def _factor(
    similarity: Array,
    weights: Array,
    codes: Array,
    n_sweeps: int,
    generator: torch.Generator | None,
) -> Array:
    """Minimize the weighted square of ``codes codes' - n_bits similarity``; all (n, n) float64."""
    residual = codes @ codes.T - codes.shape[1] * similarity
    for _ in range(n_sweeps):
        before = codes.copy()
        for position in torch.randperm(codes.size, generator=generator).tolist():
            _move(codes, residual, weights, *divmod(position, codes.shape[1]))
        if np.allclose(codes, before, rtol=0, atol=1e-6):
            break
    return codes


def _factor_classes(
    weights: Array, codes: Array, n_sweeps: int, generator: torch.Generator | None
) -> Array:
    """Minimize as `_factor` where every two of the n sets are dissimilar, as classes are.

    With S = 2 I - 1 a residual is ``codes[i] @ codes[k] + n_bits``, less ``2 n_bits`` on the
    diagonal: a move needs the moments of the codes alone, not n residuals.
    """
    n_bits = codes.shape[1]
    moments = codes.T @ (weights[:, None] * codes)  # (n_bits, n_bits)
    totals = weights @ codes
    for _ in range(n_sweeps):
        before = codes.copy()
        for position in torch.randperm(codes.size, generator=generator).tolist():
            i, j = divmod(position, n_bits)
            code, weight, value = codes[i], weights[i], codes[i, j]
            own = code @ code - n_bits
            slope = code @ moments[:, j] + n_bits * (totals[j] - 2 * weight * value)
            step = _best_step(slope, moments[j, j], weight, own, value)
            change = weight * step * code
            moments[j] += change
            moments[:, j] += change
            moments[j, j] += weight * step**2
            totals[j] += weight * step
            codes[i, j] += step
        if np.allclose(codes, before, rtol=0, atol=1e-6):
            break
    return codes


def _move(codes: Array, residual: Array, weights: Array, i: int, j: int) -> None:
    """Move one coordinate to the best of few values and keep `residual` up to date, in place."""
    column, value, weight, own = codes[:, j], codes[i, j], weights[i], residual[i, i]
    slope = (weights * residual[i]) @ column
    step = _best_step(slope, (weights * column) @ column, weight, own, value)
    residual[i] += step * column
    residual[:, i] += step * column
    residual[i, i] += step**2
    codes[i, j] += step


def _best_step(slope, squares, weight, own, value):
    """Return the step of a coordinate that lowers the objective most.

    `slope` is over 4 weight, `squares` the weighted sum of squares of the column, `own` the
    residual of the row with itself, `value` where the coordinate is.
    """
    curvature = squares + weight * (value**2 + own)  # over 4 weight, as the slope
    newton = np.clip(-slope / curvature, -1 - value, 1 - value) if curvature > 0 else 0.0
    # The objective is of degree 4, so the ends of the interval may beat the Newton step.
    steps = np.array([0.0, newton, -1 - value, 1 - value])
    bend = squares - weight * value**2
    change = 2 * steps * (slope - weight * own * value) + steps**2 * bend
    change += weight / 2 * ((own + 2 * steps * value + steps**2) ** 2 - own**2)
    return steps[change.argmin()]
