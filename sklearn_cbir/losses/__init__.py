"""Training losses: ``loss(outputs, y)`` is a scalar to minimize.

`outputs` are (n, d); `y` holds class indices (n,) or rows of 0/1 labels (n, n_labels), and soft
rows where a loss says ``soft_targets = True``. A row of zeros has no label and is left out.
``output`` names what the last layer of the network must give: "classes", "features" or "bits";
``hash_layer`` how bits are made. A loss with ``sample_weight = True`` is called with weights of the
rows, ``loss(outputs, y, sample_weight=weights)``. One that must know all labels beforehand has
``setup(*, n_outputs, y, generator)``, one that changes as it trains ``start_epoch(epoch,
n_epochs)``. Any torch module with this signature works as well.
"""

from typing import get_args

import torch.nn.functional as F
from torch import nn

from sklearn_cbir._typing import HashLayer, LastLayer, LossFunction, Sampling
from sklearn_cbir._validation import check_choice
from sklearn_cbir.losses._base import Loss
from sklearn_cbir.losses._classification import (
    SoftmaxLoss,
    SquaredHingeLoss,
    is_of_torch,
    squared_hinge_loss,
)
from sklearn_cbir.losses._classified import DLBHCLoss, GreedyHashLoss
from sklearn_cbir.losses._cnnh import CNNHLoss
from sklearn_cbir.losses._codebook import CSQLoss, OrthoHashLoss, hash_centers
from sklearn_cbir.losses._hashing import (
    DFEHLoss,
    DSHLoss,
    balance_loss,
    contrastive_loss,
    pair_mean,
    quantization_loss,
    squared_distances,
)
from sklearn_cbir.losses._likelihood import DCHLoss, DPSHLoss, HashNetLoss
from sklearn_cbir.losses._lrml import LRMLLoss, ranked_list_loss, staircase_loss
from sklearn_cbir.losses._pairs import ContrastiveLoss, MultilevelLoss
from sklearn_cbir.losses._proxy import CPF_CONSTANTS, CPFLoss, cpf_loss
from sklearn_cbir.losses._ranking import DNNHLoss, TripletLoss, triplet_loss

LOSSES: dict[str, type[Loss]] = {
    "softmax": SoftmaxLoss,
    "squared_hinge": SquaredHingeLoss,
    "contrastive": ContrastiveLoss,
    "triplet": TripletLoss,
    "lrml": LRMLLoss,
    "cpf": CPFLoss,
    "dsh": DSHLoss,
    "dfeh": DFEHLoss,
    "multilevel": MultilevelLoss,
    "cnnh": CNNHLoss,
    "dlbhc": DLBHCLoss,
    "dnnh": DNNHLoss,
    "dpsh": DPSHLoss,
    "hashnet": HashNetLoss,
    "greedyhash": GreedyHashLoss,
    "csq": CSQLoss,
    "orthohash": OrthoHashLoss,
    "dch": DCHLoss,
}


def output_of(loss: LossFunction) -> LastLayer:
    """What a loss expects from the last layer.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``output`` decides. Without one, torch's own
        classification losses expect classes and anything else features.

    Returns
    -------
    {"classes", "features", "bits"}
        One score per class, features of free width, or one output per bit.

    Examples
    --------
    >>> import torch
    >>> output_of(DSHLoss()), output_of(torch.nn.CrossEntropyLoss())
    ('bits', 'classes')
    """
    default = "classes" if is_of_torch(loss) else "features"
    return check_choice(getattr(loss, "output", default), "loss.output", get_args(LastLayer))


def sampling_of(loss: LossFunction) -> Sampling:
    """How the batches of a loss are drawn.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``sampling`` decides. Without one, batches are
        uniform for losses on classes, and else hold several rows per class.

    Returns
    -------
    {"uniform", "balanced"}
        Uniform batches, or class-balanced ones.

    Examples
    --------
    >>> sampling_of(DSHLoss()), sampling_of(SoftmaxLoss())
    ('balanced', 'uniform')
    """
    default = "uniform" if output_of(loss) == "classes" else "balanced"
    return check_choice(getattr(loss, "sampling", default), "loss.sampling", get_args(Sampling))


def hash_layer_of(loss: LossFunction) -> HashLayer:
    """How a loss wants its bits made from the features.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``hash_layer`` decides. Without one, the layer
        is linear.

    Returns
    -------
    {"linear", "divided", "latent"}
        As in `DeepHasher`.

    Examples
    --------
    >>> hash_layer_of(DNNHLoss()), hash_layer_of(DSHLoss())
    ('divided', 'linear')
    """
    default: HashLayer = "linear"
    return check_choice(
        getattr(loss, "hash_layer", default), "loss.hash_layer", get_args(HashLayer)
    )


def takes_soft_targets(loss: LossFunction) -> bool:
    """Whether rows of labels may hold shares of a label, as mixup makes them.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``soft_targets`` decides. Without one, torch's
        own cross entropies take them and nothing else does.

    Returns
    -------
    bool
        Whether ``loss(outputs, y)`` takes rows of weights from 0 to 1.

    Examples
    --------
    >>> takes_soft_targets(CPFLoss()), takes_soft_targets(DSHLoss())
    (True, False)
    """
    functions = F.cross_entropy, F.binary_cross_entropy_with_logits
    default = is_of_torch(loss, (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss), functions)
    return bool(getattr(loss, "soft_targets", default))


def takes_sample_weight(loss: LossFunction) -> bool:
    """Whether a loss weighs the terms of its rows.

    Parameters
    ----------
    loss : callable
        Any loss; its attribute ``sample_weight`` decides. Without one, it does
        not.

    Returns
    -------
    bool
        Whether it is called as ``loss(outputs, y, sample_weight=weights)``.

    Examples
    --------
    >>> takes_sample_weight(SoftmaxLoss()), takes_sample_weight(DSHLoss())
    (True, False)
    """
    return getattr(loss, "sample_weight", False) is True


__all__ = [
    "CPF_CONSTANTS",
    "LOSSES",
    "CNNHLoss",
    "CPFLoss",
    "CSQLoss",
    "ContrastiveLoss",
    "DCHLoss",
    "DFEHLoss",
    "DLBHCLoss",
    "DNNHLoss",
    "DPSHLoss",
    "DSHLoss",
    "GreedyHashLoss",
    "HashNetLoss",
    "LRMLLoss",
    "MultilevelLoss",
    "OrthoHashLoss",
    "SoftmaxLoss",
    "SquaredHingeLoss",
    "TripletLoss",
    "balance_loss",
    "contrastive_loss",
    "cpf_loss",
    "hash_centers",
    "hash_layer_of",
    "output_of",
    "pair_mean",
    "quantization_loss",
    "ranked_list_loss",
    "sampling_of",
    "squared_distances",
    "squared_hinge_loss",
    "staircase_loss",
    "takes_sample_weight",
    "takes_soft_targets",
    "triplet_loss",
]
