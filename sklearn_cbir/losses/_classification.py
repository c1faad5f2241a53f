"""Losses on one score per class, ``loss(scores, y)``; the features are what enters that layer."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sklearn_cbir._typing import LastLayer
from sklearn_cbir._validation import check_choice, shortened
from sklearn_cbir.losses._base import (
    Loss,
    check_one_per_class,
    class_targets,
    count_labels,
    full_precision,
    label_shares,
    on_labeled_rows,
    row_weights,
    with_labels,
)


class SoftmaxLoss(Loss):
    """Cross entropy of the softmax of the scores.

    The baseline of [1]_, next to the squared hinge. In rows of 0/1 labels,
    each label of a row gets an equal share.

    References
    ----------
    .. [1] A. Rahman, E. Winarko, K. Mustofa. "Content-based product image
       retrieval using squared-hinge loss trained convolutional neural
       networks". International Journal of Electrical and Computer Engineering
       13(5), 2023.

    Examples
    --------
    >>> import torch
    >>> scores = torch.tensor([[2.0, 0.5, -1.5], [0.2, -0.3, 0.4]])
    >>> round(SoftmaxLoss()(scores, torch.tensor([0, 1])).item(), 4)
    0.8827
    """

    output: LastLayer = "classes"
    soft_targets = True
    sample_weight = True

    @on_labeled_rows
    def forward(
        self, outputs: torch.Tensor, y: torch.Tensor, *, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean cross entropy of scores (n, n_classes)."""
        outputs = full_precision(outputs)
        if y.ndim == 1 and sample_weight is None:
            return F.cross_entropy(outputs, y)
        shares = label_shares(y, outputs.shape[1], outputs.dtype)
        return F.cross_entropy(outputs, row_weights(sample_weight, outputs) * shares)


Form = Literal["ovr", "ovr_mean", "crammer_singer", "crammer_singer_max"]
ClassWeight = Literal["balanced"] | Sequence[float] | np.ndarray | torch.Tensor | None


def squared_hinge_loss(
    scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """Sum over classes and mean over rows of ``max(0, 1 - t s) ** 2``, t = -1 or 1.

    Parameters
    ----------
    scores : tensor of shape (n, n_classes)
        Without a softmax: scores between 0 and 1 never reach the margin.

    targets : tensor of shape (n, n_classes)
        1 for the classes of a row, 0 for the others.

    weights : tensor that broadcasts to (n, n_classes), default=1.0
        Weight of every term.

    Returns
    -------
    tensor
        A scalar.

    Examples
    --------
    >>> import torch
    >>> squared_hinge_loss(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor(3.)
    """
    margins = F.relu(1 - (2 * targets - 1) * scores)
    return (weights * margins.square()).sum(dim=1).mean()


class SquaredHingeLoss(Loss):
    """Squared hinge loss of one linear classifier per class.

    Parameters
    ----------
    form : {"ovr", "ovr_mean", "crammer_singer", "crammer_singer_max"}, \
            default="ovr"
        "ovr": one class against the rest, summed over the classes, as in [2]_.
        "ovr_mean": the mean over the classes, as in Keras. "crammer_singer":
        the difference from the score of the right class, ``max(0, 1 + s_j -
        s_y) ** 2``, summed over the wrong classes j. "crammer_singer_max": the
        same for the worst of them. It is not known which one [1]_ uses.

    class_weight : None, "balanced" or array-like of shape (n_classes,), \
            default=None
        Weight of the term of a row's own class, at least 0, in the order of the
        sorted classes; it multiplies a weight of the row. "balanced" gives, for
        every class, its rows and all other rows the same total weight, as
        scikit-learn does for two classes; without it, many other classes outvote
        the one. Only for "ovr" and "ovr_mean".

    References
    ----------
    .. [1] A. Rahman, E. Winarko, K. Mustofa. "Content-based product image
       retrieval using squared-hinge loss trained convolutional neural
       networks". International Journal of Electrical and Computer Engineering
       13(5), 2023.
    .. [2] Y. Tang. "Deep learning using linear support vector machines". ICML
       workshop on challenges in representation learning, 2013.

    Examples
    --------
    >>> import torch
    >>> scores = torch.tensor([[2.0, 0.5, -1.5], [0.2, -0.3, 0.4]])
    >>> round(SquaredHingeLoss()(scores, torch.tensor([0, 1])).item(), 4)
    3.67
    """

    output: LastLayer = "classes"
    sample_weight = True

    term_weights: torch.Tensor | None

    def __init__(self, form: Form = "ovr", class_weight: ClassWeight = None) -> None:
        super().__init__()
        self.class_weight: ClassWeight = _check_class_weight(class_weight)
        self.form: Form = check_choice(form, "form", get_args(Form))
        if form in _CRAMMER_SINGER and class_weight is not None:
            raise ValueError(
                f"class_weight={shortened(class_weight)} has no meaning with form={form!r}. "
                "Use form='ovr', or class_weight=None."
            )
        # Not persistent: a fit that goes on counts anew.
        self.register_buffer("term_weights", None, persistent=False)

    def setup(
        self,
        *,
        n_outputs: int,
        y: npt.ArrayLike | torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Count the classes for ``class_weight="balanced"``."""
        if not isinstance(self.class_weight, str):
            if self.class_weight is not None:
                check_one_per_class("class_weight", len(self.class_weight), n_outputs)
            return
        y = with_labels(y)
        own = torch.zeros(n_outputs)
        counts = count_labels(y)
        own[: len(counts)] = counts
        other = len(y) - own
        # (2, n_outputs): weight of a 0 and of a 1 in each column
        self.term_weights = len(y) / (2 * torch.stack([other, own]).clamp(min=1))

    @on_labeled_rows
    def forward(
        self, outputs: torch.Tensor, y: torch.Tensor, *, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean over rows of scores (n, n_classes)."""
        outputs = full_precision(outputs)
        targets = class_targets(y, outputs.shape[1], outputs.dtype)
        weights = row_weights(sample_weight, outputs)
        if self.form in _CRAMMER_SINGER:
            return _CRAMMER_SINGER[self.form](_wrong_against_right(outputs, targets, weights))
        loss = squared_hinge_loss(outputs, targets, weights * self._weights(outputs, targets))
        return loss / outputs.shape[1] if self.form == "ovr_mean" else loss

    def _weights(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | float:
        """Weight of every term, (n, n_classes) or a number."""
        if self.class_weight is None:
            return 1.0
        if isinstance(self.class_weight, str):
            if self.term_weights is None:
                raise RuntimeError(
                    "class_weight='balanced' counts the training labels. Call setup(n_outputs=..., "
                    "y=...) before the loss."
                )
            other, own = self.term_weights.to(outputs)
        else:
            own = torch.as_tensor(self.class_weight).to(outputs)
            other = torch.ones_like(own)
            check_one_per_class("class_weight", len(own), outputs.shape[1])
        return targets * own + (1 - targets) * other


def _check_class_weight(class_weight: ClassWeight) -> ClassWeight:
    """Return the weights if they are None, "balanced" or finite numbers of at least 0."""
    if class_weight is None:
        return None
    if isinstance(class_weight, str):
        return check_choice(class_weight, "class_weight", (None, "balanced"))
    try:
        weights = torch.as_tensor(class_weight, dtype=torch.float64)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        weights = torch.tensor(torch.nan)
    if weights.ndim != 1 or not (weights.isfinite() & (weights >= 0)).all():
        raise ValueError(
            f"class_weight={shortened(class_weight)} must be None, 'balanced' or a list of one "
            "finite number of at least 0 per class."
        )
    return class_weight


def _wrong_against_right(
    scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | float
) -> torch.Tensor:
    """Squared hinge of every wrong class against every right one, (n, right, wrong)."""
    margins = F.relu(1 + scores[:, None, :] - scores[:, :, None])
    pairs = (weights * targets)[:, :, None] * (1 - targets)[:, None, :]
    return pairs * margins.square()


# Mean over rows and sum over right classes: of all wrong classes, or of the worst.
_CRAMMER_SINGER: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "crammer_singer": lambda costs: costs.sum(dim=(1, 2)).mean(),
    "crammer_singer_max": lambda costs: costs.amax(dim=2).sum(dim=1).mean(),
}
