"""What all losses share, and how to read what any loss needs, also a loss of the user."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast, get_args

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_cbir._typing import HashLayer, LastLayer, LossFunction, Sampling
from sklearn_cbir._validation import check_choice, check_real, resolve, shortened

Forward = TypeVar("Forward", bound=Callable[..., torch.Tensor])
Made = TypeVar("Made", bound=torch.Tensor)


class Loss(torch.nn.Module):
    """Base of the losses; it prints the parameters of the constructor."""

    output: LastLayer
    sampling: Sampling
    hash_layer: HashLayer
    hash_std: float | None
    soft_targets: bool
    sample_weight: bool
    __call__: Callable[..., torch.Tensor]  # torch itself promises nothing

    def extra_repr(self) -> str:
        """Parameters as they were given."""
        names = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names if hasattr(self, name))


def on_labeled_rows(forward: Forward) -> Forward:
    """Pass only the labeled rows of a batch to a loss; without any, the loss is 0."""

    @functools.wraps(forward)
    def forward_labeled(
        self: Loss, outputs: torch.Tensor, y: torch.Tensor, **weights: torch.Tensor | None
    ) -> torch.Tensor:
        if y.ndim == 2:
            labeled = (y > 0).any(dim=1)
            if not labeled.any():
                return 0.0 * full_precision(outputs).sum()
            if not labeled.all():
                outputs, y = outputs[labeled], y[labeled]
                weights = {k: v if v is None else v[labeled] for k, v in weights.items()}
        return forward(self, outputs, y, **weights)

    return cast(Forward, forward_labeled)


def with_labels(y: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
    """Labels of the rows that have one, as a tensor; class indices are one each."""
    y = torch.as_tensor(y)
    return y if y.ndim == 1 else y[(y > 0).any(dim=1)]


def class_targets(y: torch.Tensor, n_outputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows (n, n_outputs) of label weights, from class indices or from rows that are so already."""
    if y.ndim == 1:
        return F.one_hot(y, n_outputs).to(dtype)
    return y.to(dtype)


def full_precision(outputs: torch.Tensor) -> torch.Tensor:
    """Outputs in float32 at least: squares and exponentials overflow half precision."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def count_labels(y: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
    """Number of training rows that carry each label, float32 (n_labels,)."""
    y = torch.as_tensor(y)
    return torch.bincount(y).float() if y.ndim == 1 else y.float().sum(dim=0)


def label_shares(y: torch.Tensor, n_outputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows (n, n_outputs) that share 1 out among their labels."""
    targets = class_targets(y, n_outputs, dtype)
    return targets / targets.sum(dim=1, keepdim=True)


def row_weights(sample_weight: torch.Tensor | None, outputs: torch.Tensor) -> torch.Tensor | float:
    """Weights of rows (n, 1) with a mean of 1, to make a mean a weighted one; 1 without any."""
    if sample_weight is None:
        return 1.0
    weights = sample_weight.to(outputs)[:, None]
    mean = weights.mean()
    return weights / torch.where(mean > 0, mean, 1)


def check_is_set_up(loss: Loss, made: Made | None) -> Made:
    """Return `made`, which `setup` makes, or raise if it is not there."""
    if made is None:
        raise RuntimeError(
            f"{type(loss).__name__} is not set up. Call setup(n_outputs=..., y=...) before the "
            "loss."
        )
    return made


# What is asked of any loss ----------------------------------------------------------------------


# What torch's own losses expect from the last layer when they are given class indices or 0/1 rows.
TORCH_CLASSIFICATION_LOSSES = (
    nn.CrossEntropyLoss,
    nn.NLLLoss,
    nn.MultiMarginLoss,
    nn.MultiLabelSoftMarginLoss,
    nn.BCEWithLogitsLoss,
)
_FUNCTIONS = (
    F.cross_entropy,
    F.nll_loss,
    F.multi_margin_loss,
    F.multilabel_soft_margin_loss,
    F.binary_cross_entropy_with_logits,
)


def is_of_torch(
    loss: object,
    classes: type | tuple[type, ...] = TORCH_CLASSIFICATION_LOSSES,
    functions: tuple[Callable[..., torch.Tensor], ...] = _FUNCTIONS,
) -> bool:
    """Whether a loss is one of torch's own for classes: a module, a function or a part of one."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return isinstance(loss, classes) or any(loss is function for function in functions)


def output_of(loss: LossFunction) -> LastLayer:
    """Return the kind of last layer that a loss needs.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``output`` decides. Without it, torch's own
        classification losses need classes, and all others features.

    Returns
    -------
    {"classes", "features", "bits"}
        One score per class, features of any width, or one output per bit.

    Examples
    --------
    >>> import torch
    >>> from sklearn_cbir.losses import DSHLoss, output_of
    >>> output_of(DSHLoss()), output_of(torch.nn.CrossEntropyLoss())
    ('bits', 'classes')
    """
    default = "classes" if is_of_torch(loss) else "features"
    return _asked(loss, "output", default, get_args(LastLayer))


def sampling_of(loss: LossFunction) -> Sampling:
    """Return how to draw the batches for a loss.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``sampling`` decides. Without it, batches are
        uniform for losses on classes, else balanced.

    Returns
    -------
    {"uniform", "balanced", "class_random", "mined"}
        As `sampling` of the estimators that train a network; ``"auto"`` there
        takes this value.

    Examples
    --------
    >>> from sklearn_cbir.losses import DSHLoss, SoftmaxLoss, sampling_of
    >>> sampling_of(DSHLoss()), sampling_of(SoftmaxLoss())
    ('balanced', 'uniform')
    """
    default = "uniform" if output_of(loss) == "classes" else "balanced"
    return _asked(loss, "sampling", default, get_args(Sampling))


def hash_layer_of(loss: LossFunction) -> HashLayer:
    """Return the hash layer that a loss needs.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``hash_layer`` decides. Without it, the layer
        is linear.

    Returns
    -------
    {"linear", "divided", "latent"}
        As in `DeepHasher`.

    Examples
    --------
    >>> from sklearn_cbir.losses import DNNHLoss, DSHLoss, hash_layer_of
    >>> hash_layer_of(DNNHLoss()), hash_layer_of(DSHLoss())
    ('divided', 'linear')
    """
    return _asked(loss, "hash_layer", "linear", get_args(HashLayer))


def hash_std_of(loss: LossFunction) -> float | None:
    """Return the standard deviation that a loss needs for a new linear hash layer, or None."""
    asked = getattr(loss, "hash_std", None)
    return None if asked is None else check_real(asked, "loss.hash_std", minimum=0)


def takes_soft_targets(loss: LossFunction) -> bool:
    """Return whether a loss takes rows with shares of labels, as mixup makes them.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``soft_targets`` decides. Without it, only
        torch's own cross entropies take them.

    Returns
    -------
    bool
        Whether ``loss(outputs, y)`` takes rows of weights from 0 to 1.

    Examples
    --------
    >>> from sklearn_cbir.losses import CPFLoss, DSHLoss, takes_soft_targets
    >>> takes_soft_targets(CPFLoss()), takes_soft_targets(DSHLoss())
    (True, False)
    """
    functions = F.cross_entropy, F.binary_cross_entropy_with_logits
    default = is_of_torch(loss, (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss), functions)
    return bool(getattr(loss, "soft_targets", default))


def takes_sample_weight(loss: LossFunction) -> bool:
    """Return whether a loss takes a weight for every row.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``sample_weight`` decides. Without it, the loss
        takes none.

    Returns
    -------
    bool
        True if the call is ``loss(outputs, y, sample_weight=weights)``.

    Examples
    --------
    >>> from sklearn_cbir.losses import DSHLoss, SoftmaxLoss, takes_sample_weight
    >>> takes_sample_weight(SoftmaxLoss()), takes_sample_weight(DSHLoss())
    (True, False)
    """
    return getattr(loss, "sample_weight", False) is True


class Demands(NamedTuple):
    """What a loss needs from the network and from the batches."""

    output: LastLayer
    sampling: Sampling


def demands_of(loss: LossFunction | None) -> Demands | None:
    """Return all that a training must know of a loss; None for None."""
    return None if loss is None else Demands(output_of(loss), sampling_of(loss))


def _asked(loss: object, name: str, default: Any, options: tuple[str, ...]) -> Any:
    """Return an attribute of a loss, which must be one of the options."""
    value = getattr(loss, name, default)
    if isinstance(value, str) and value in options:
        return value
    return check_choice(value, f"loss.{name}", options)


def name_of_loss(loss: object) -> str:
    """Return the name of a loss for messages: of a function, or of the class of an object."""
    return getattr(loss, "__qualname__", type(loss).__name__)


def call_of(loss: object, how: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return ``function(*args, **kwargs)``; errors name the loss, and `how` it is called."""
    try:
        return function(*args, **kwargs)
    except TypeError as error:  # of another signature, or no function at all
        raise ValueError(f"loss={name_of_loss(loss)} is called as {how}: {error}.") from error
    except Exception as error:
        error.add_note(f"Raised by loss={name_of_loss(loss)}, called as {how}.")
        raise


def fresh_loss(loss: str | LossFunction | type[LossFunction] | None) -> LossFunction | None:
    """Return a new loss to train, or None for None; the user's object is never trained.

    Parameters
    ----------
    loss : str, callable, class or None
        A name in `LOSSES`, an object that is copied, or a class that is called.

    Returns
    -------
    callable or None
        ``loss(outputs, y)``.
    """
    from sklearn_cbir.losses import LOSSES  # the table of those that are built on this

    if isinstance(loss, str) and loss in LOSSES:
        chosen = LOSSES[loss]
    else:
        chosen = resolve(loss, LOSSES, "loss", own="your own torch module")
    if chosen is None:
        return None
    if not callable(chosen):
        raise ValueError(
            f"loss={shortened(chosen)} cannot be called. Use one of {sorted(LOSSES)}, or a module "
            "called as loss(outputs, y)."
        )
    if isinstance(chosen, type):
        fresh = call_of(chosen, "a class, without arguments", chosen)
    else:
        fresh = copy.deepcopy(chosen)
    if is_of_torch(fresh, nn.NLLLoss, (F.nll_loss,)):
        raise ValueError(
            f"{name_of_loss(fresh)} needs log-probabilities. Use torch.nn.CrossEntropyLoss()."
        )
    return fresh


def set_up(
    loss: LossFunction, *, n_outputs: int, y: torch.Tensor, generator: torch.Generator
) -> None:
    """Tell a loss all labels before the training, if it has `setup`.

    One of torch's own with weights of classes must have a weight for every output.
    """
    if output_of(loss) == "classes":
        check_class_weights(loss, n_outputs)
    setup = getattr(loss, "setup", None)
    if setup is not None:
        how = "setup(n_outputs=..., y=..., generator=...)"
        call_of(loss, how, setup, n_outputs=n_outputs, y=y, generator=generator)


def check_class_weights(loss: object, n_classes: int) -> None:
    """Raise if one of torch's own losses has weights for another number of classes."""
    if not isinstance(loss, TORCH_CLASSIFICATION_LOSSES):
        return
    # That of BCEWithLogitsLoss may be one per row or term.
    names = "pos_weight", *["weight"] * (not isinstance(loss, nn.BCEWithLogitsLoss))
    for name in names:
        weights = getattr(loss, name, None)
        if weights is not None and weights.numel() > 1:
            check_one_per_class(f"{name} of loss={type(loss).__name__}", len(weights), n_classes)


def check_one_per_class(name: str, n_weights: int, n_classes: int) -> None:
    if n_weights != n_classes:
        raise ValueError(
            f"{name} has shape ({n_weights},), but there are {n_classes} classes. Pass one weight "
            "per class."
        )
