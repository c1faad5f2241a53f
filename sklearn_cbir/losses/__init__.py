"""Training losses: ``loss(outputs, y)`` is a scalar to minimize.

`outputs` are (n, d); `y` holds class indices (n,) or rows of 0/1 labels (n, n_labels), and soft
rows if the loss has ``soft_targets = True``. A row of zeros has no label and is left out.
Attributes of a loss say what it needs. ``output`` is the kind of the last layer of the network:
"classes", "features" or "bits". ``hash_layer`` says how bits are made, ``hash_std`` how their
weights start, and ``sampling`` how batches are drawn, as the parameter of the estimators does. A
loss with ``sample_weight = True`` is called as ``loss(outputs, y, sample_weight=weights)``, with
one weight per row.

A loss that must know all labels before training has ``setup(*, n_outputs, y, generator)``. It is
called once, with the number of outputs per row, all training labels, (n,) or (n, n_labels), and a
`torch.Generator`, or None for torch's own. A loss that changes during training has
``start_epoch(epoch, n_epochs)``. Any torch module with these signatures works as well.
"""

from sklearn_cbir.losses._base import (
    Loss,
    hash_layer_of,
    output_of,
    sampling_of,
    takes_sample_weight,
    takes_soft_targets,
)
from sklearn_cbir.losses._classification import (
    SoftmaxLoss,
    SquaredHingeLoss,
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
