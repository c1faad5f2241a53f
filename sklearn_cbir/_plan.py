"""From parameters and labels to the plan of a training, checked against loss and network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sklearn_cbir._checkpoint import Checkpoint
from sklearn_cbir._devices import Seeds, bfloat16_cost, derived_seed
from sklearn_cbir._labels import labeled_rows, unique_labels
from sklearn_cbir._network import Network
from sklearn_cbir._validation import check_sample_weight, resolve, shortened, warn_user
from sklearn_cbir.backbones._probe import name_of
from sklearn_cbir.losses import (
    LOSSES,
    output_of,
    sampling_of,
    takes_sample_weight,
    takes_soft_targets,
)
from sklearn_cbir.losses._base import Demands

if TYPE_CHECKING:
    from sklearn_cbir._typing import EstimatorSampling, LossFunction, Optimizer, Sampling, Schedule

N_NEGATIVES = 5  # of every query that is mined for, unless the loss has an n_negatives


class TrainingParameters:
    """Parameters that a training reads, of every estimator that trains a network."""

    loss: str | LossFunction | None
    mixup: float
    head_epochs: int | None
    max_epochs: int
    optimizer: Optimizer
    lr: float
    trunk_lr: float | None
    loss_lr: float | None
    weight_decay: float
    schedule: Schedule
    batch_size: int
    sampling: EstimatorSampling
    n_per_class: int | None
    pool_size: int
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    tol: float
    num_workers: int
    autocast: bool


def _sgd(groups, lr, weight_decay):
    return torch.optim.SGD(groups, lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True)


OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": _sgd}


def _one_cycle(done):
    """Linear rise over the first quarter, then a half cosine down to zero."""
    return 4 * done if done < 0.25 else (1 + math.cos(math.pi * (4 * done - 1) / 3)) / 2


# Share of the phase that is done, 0 to 1 -> factor of the learning rate.
SCHEDULES = {
    "one_cycle": _one_cycle,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}


def check_optimizer(optimizer: Any) -> None:
    """Raise for an unknown name, and for an object that cannot be called."""
    if not callable(resolve(optimizer, OPTIMIZERS, "optimizer", own="a torch optimizer class")):
        raise ValueError(
            f"optimizer={shortened(optimizer)} is neither a name nor a torch optimizer class."
        )


@dataclass(frozen=True)
class Plan:
    """The settings of one training; equal names mean the parameters of the estimators."""

    # Rows
    train_rows: NDArray[np.int64]
    held_out_rows: NDArray[np.int64]  # for early stopping
    weights: NDArray[np.float32] | None  # of all rows
    # Batches
    batch_size: int
    sampling: Sampling
    n_per_class: int | None
    pool_size: int
    n_negatives: int
    mixup: float
    num_workers: int
    # Steps
    optimizer: Any
    lr: float
    trunk_lr: float
    loss_lr: float
    weight_decay: float
    schedule: str
    autocast: bool
    # Epochs
    head_epochs: int
    max_epochs: int
    n_epochs: int  # of both phases
    n_iter_no_change: int
    tol: float
    # Where, and from which state
    seeds: Seeds
    device: torch.device
    checkpoint: Checkpoint | None
    state: dict[str, Any] | None  # what the checkpoint holds of an earlier run


def plan_training(
    estimator: TrainingParameters,
    network: Network,
    loss: LossFunction,
    demands: Demands,
    y: NDArray[Any],
    *,
    weights: NDArray[np.float32] | None,
    goes_on: bool,
    seeds: Seeds,
    device: torch.device,
    checkpoint: Checkpoint | None,
    state: dict[str, Any] | None,
) -> Plan:
    """Return the plan of a training: parameters resolved; raise if nothing would be trained."""
    pretrained = getattr(network.trunk, "frozen_batch_norm", False)
    head_epochs = _count_head_epochs(estimator, network, loss, pretrained and not goes_on)
    lr = _rate(estimator.lr)
    usual_trunk_lr = 0.1 * lr if pretrained else lr
    train_rows, held_out_rows = split_rows(estimator, y, loss, seeds.fit)
    return Plan(
        train_rows=train_rows,
        held_out_rows=held_out_rows,
        weights=weights,
        batch_size=estimator.batch_size,
        sampling=_sampling(estimator, demands.sampling),
        n_per_class=estimator.n_per_class,
        pool_size=estimator.pool_size,
        n_negatives=getattr(loss, "n_negatives", N_NEGATIVES),
        mixup=estimator.mixup,
        num_workers=estimator.num_workers,
        optimizer=estimator.optimizer,
        lr=lr,
        trunk_lr=usual_trunk_lr if estimator.trunk_lr is None else _rate(estimator.trunk_lr),
        loss_lr=lr if estimator.loss_lr is None else _rate(estimator.loss_lr),
        weight_decay=estimator.weight_decay,
        schedule=estimator.schedule,
        autocast=estimator.autocast and _pays_in_bfloat16(device),
        head_epochs=head_epochs,
        max_epochs=estimator.max_epochs,
        n_epochs=head_epochs + estimator.max_epochs,
        n_iter_no_change=estimator.n_iter_no_change,
        tol=estimator.tol,
        seeds=seeds,
        device=device,
        checkpoint=checkpoint,
        state=state,
    )


def _pays_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster on a device; warn if it is not."""
    cost = bfloat16_cost() if device.type == "cpu" else 0.0
    if cost >= 1:
        warn_user(
            f"autocast=True trains in float32: a step in bfloat16 takes {cost:.1f} times as long "
            "on this processor. Use autocast=False."
        )
    return cost < 1


def _sampling(estimator: TrainingParameters, demanded: Sampling) -> Sampling:
    """Return how batches are drawn: as the user says, or as the loss demands."""
    return demanded if estimator.sampling == "auto" else estimator.sampling


def _rate(rate: float) -> float:
    """Return a checked rate as a float; integers may be too large for one."""
    try:
        return float(rate)
    except OverflowError:
        return math.inf


# What can be trained -----------------------------------------------------------------------------


def _count_head_epochs(
    estimator: TrainingParameters, network: Network, loss: LossFunction, usual: bool
) -> int:
    """Return the epochs with a frozen trunk; raise, or warn, if they would train nothing."""
    own = list(getattr(loss, "parameters", list)())
    named = list(network.named_parameters())
    if not any(parameter.requires_grad for parameter in [*(p for _, p in named), *own]):
        raise ValueError(
            f"Nothing can be trained: backbone={name_of(network.trunk.spec['backbone'])} has no "
            "parameter with requires_grad=True, and there is no other layer. Unfreeze some of "
            "its parameters, add a layer with n_components, or use it untrained, with "
            "loss=None."
        )
    head = [(name, parameter) for name, parameter in named if not name.startswith("trunk.")]
    nothing_new = not any(parameter.requires_grad for parameter in [*(p for _, p in head), *own])
    n_epochs = estimator.head_epochs
    if n_epochs is None:
        n_epochs = 5 if usual else 0
    if not estimator.max_epochs and (nothing_new or not n_epochs):
        raise ValueError(_nothing_to_train(nothing_new))
    if n_epochs and nothing_new:
        if estimator.head_epochs is not None:
            warn_user(
                f"head_epochs={n_epochs} are left out: they train new layers on the trunk or "
                "parameters of the loss, and here there are none. Only the "
                f"max_epochs={estimator.max_epochs} epochs of the trunk are trained."
            )
        n_epochs = 0
    trained = named if estimator.max_epochs else head
    if not any(p.requires_grad for name, p in trained if not name.startswith("classifier.")):
        warn_user(
            "No parameter that transform uses is trained: only a classifier or the loss learns "
            "here, and fit drops it at the end. Add a layer with n_components, or train the "
            "trunk."
        )
    return n_epochs


def _nothing_to_train(nothing_new: bool) -> str:
    if nothing_new:
        return (
            "max_epochs=0 does not train the trunk, and there are no new layers and no "
            "parameters of the loss, so nothing would be trained. Use max_epochs=1 or more, or "
            "n_components."
        )
    return (
        "max_epochs=0 trains only the head, for head_epochs, but there are none: None means 0 "
        "unless the weights are pretrained, and in a fit that continues. Use head_epochs=1 or "
        "more, or max_epochs=1 or more."
    )


# Labels and weights ------------------------------------------------------------------------------


def check_loss(estimator: TrainingParameters, loss: LossFunction | None, weights: object) -> None:
    """Raise if a loss does not take its arguments: weights of rows, or mixed labels."""
    if weights is not None and (loss is None or not takes_sample_weight(loss)):
        why = (
            "trains nothing"
            if loss is None
            else "has no terms of single rows that weights could multiply"
        )
        raise ValueError(
            f"sample_weight was given, but loss={shortened(estimator.loss)} {why}. Leave "
            "sample_weight out, or use a loss with sample_weight = True, such as one of "
            f"{[name for name, kind in LOSSES.items() if getattr(kind, 'sample_weight', False)]}."
        )
    if estimator.mixup and loss is not None and not takes_soft_targets(loss):
        raise ValueError(
            f"mixup={shortened(estimator.mixup)} makes shares of labels, which "
            f"{type(loss).__name__} does not take. Use mixup=0.0, or a loss with soft_targets = "
            "True, such as loss='softmax' or loss='cpf'."
        )


def check_target(
    estimator: TrainingParameters,
    loss: LossFunction,
    demands: Demands,
    data: Any,
    y: NDArray[Any],
    classes: NDArray[Any],
    sample_weight: ArrayLike | None,
) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None, NDArray[Any]]:
    """Return data, labels, weights and classes without the rows that have no label or weight."""
    weights = None
    if sample_weight is not None:
        weights = check_sample_weight(sample_weight, len(y))
    if y.ndim == 2 or weights is not None:
        counting = labeled_rows(y)
        if weights is not None:
            counting = counting[weights[counting] > 0]
        if len(counting) < len(y):
            data, y = data[counting], y[counting]
            weights = None if weights is None else weights[counting]
            if y.ndim == 1:
                present, y = unique_labels(y)
                classes = classes[present]
    name = type(estimator).__name__
    need = None  # what nothing can be done with where no two rows are similar
    if demands.sampling != "uniform":
        need = f"{type(loss).__name__} has no similar images to move together"
    elif estimator.sampling == "mined":
        need = "sampling='mined' has no pairs to draw"
    if y.ndim == 2:
        _check_columns(name, y, need)
    else:
        _check_classes(name, y, classes, need)
    return data, y, weights, classes


def _check_classes(name: str, y: NDArray[Any], classes: NDArray[Any], need: str | None) -> None:
    """Raise if there is one class, or if pairs are needed and there are as many classes as rows."""
    if len(classes) < 2:
        raise ValueError(
            f"{name} needs at least 2 classes to train, got 1 class: "
            f"{shortened(classes.tolist()[0])}."
        )
    if need and len(classes) == len(y):
        raise ValueError(
            f"All {len(y)} images have a class of their own, so no two are similar and {need}. "
            "Give at least one class two images."
        )


def _check_columns(name: str, y: NDArray[Any], need: str | None) -> None:
    """Raise if there are no rows of 0/1 columns, no two differ, or none are similar."""
    if not len(y):
        raise ValueError(
            f"{name} learns from labels, but no row of y has one: all are zeros. Label some rows."
        )
    if (y == y[0]).all():
        raise ValueError(
            f"{name} needs rows with different labels to train, but all {len(y)} labeled rows of "
            "y are equal."
        )
    if need and y.sum(axis=0).max() < 2:
        raise ValueError(
            f"No two of the {len(y)} images share a label, so {need}. Give at least one label two "
            "images."
        )
    if y.all(axis=0).any():
        warn_user(
            f"Column {int(y.all(axis=0).argmax())} of y is 1 in all rows, so every two rows "
            "share a label and none are dissimilar. Drop this column."
        )


# Rows that are held out --------------------------------------------------------------------------


def split_rows(
    estimator: TrainingParameters, y: NDArray[Any], loss: LossFunction, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and the rows held out for early stopping.

    Every class gives its share, rounded. For losses that compare images, and if pairs are mined,
    it gives at least two or none and keeps at least two; otherwise it keeps at least one. With 0/1
    columns, rows are drawn, and every label keeps as many.
    """
    rows = np.arange(len(y)) if y.ndim == 2 else np.flatnonzero(y >= 0)
    if not estimator.early_stopping:
        return rows, rows[:0]
    rng = np.random.default_rng(derived_seed(seed, 2))
    is_mined = _sampling(estimator, sampling_of(loss)) == "mined"
    least = 1 if output_of(loss) == "classes" and not is_mined else 2
    share = estimator.validation_fraction
    if y.ndim == 1:
        groups = [np.flatnonzero(y == label) for label in range(int(y.max()) + 1)]
        sizes = list(map(len, groups))
        held_out = np.concatenate([_drawn(group, share, least, rng) for group in groups])
    else:
        sizes = y.sum(axis=0).astype(int)
        held_out = _drawn_columns(y, share, least, rng)
    held_out = np.sort(held_out)
    if not len(held_out):
        raise ValueError(
            f"early_stopping=True with validation_fraction={share}: no "
            f"{'class' if y.ndim == 1 else 'label'} is large enough to hold out an image (the "
            f"smallest has {min(sizes)}, the largest {max(sizes)}). Use early_stopping=False or "
            "a larger share."
        )
    return np.setdiff1d(rows, held_out), held_out


def _drawn(
    group: NDArray[np.int64], share: float, least: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return rows of one class that are held out, at least `least` or none."""
    n = min(round(share * len(group)), len(group) - least)
    return rng.permutation(group)[: n if n >= least else 0]


def _drawn_columns(
    y: NDArray[Any], share: float, least: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return rows of 0/1 columns that are held out: none that a label cannot spare."""
    wanted = round(share * len(y))
    left = y.sum(axis=0)
    drawn: list[int] = []
    for row in rng.permutation(len(y)):
        if len(drawn) == wanted:
            break
        if (left[y[row] > 0] > least).all():
            left -= y[row]
            drawn.append(row)
    return np.array(drawn if len(drawn) >= least else [], dtype=np.int64)
