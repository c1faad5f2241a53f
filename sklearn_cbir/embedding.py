"""CPFEmbedder: unit-length embeddings under one threshold for all classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sklearn_cbir._base import NetworkTransformer
from sklearn_cbir._batches import ArraySource, ImageSource
from sklearn_cbir._devices import derived_seed
from sklearn_cbir._going_on import Start
from sklearn_cbir._network import Network
from sklearn_cbir._validation import Rule, check_integer, check_real, warn_user
from sklearn_cbir.losses import CPFLoss
from sklearn_cbir.losses._base import Demands
from sklearn_cbir.metrics import best_f1_radius, threshold_f1_curve

if TYPE_CHECKING:
    from sklearn_cbir._typing import (
        EstimatorSampling,
        ImagesLike,
        LabelsLike,
        LossFunction,
        Optimizer,
        Pooling,
        RandomState,
        ResizeSize,
        Runtime,
        Schedule,
    )
    from sklearn_cbir.images._augmentation import Augment

__all__ = ["THRESHOLD_ROWS", "CPFEmbedder"]

THRESHOLD_ROWS = 2000  # at most so many images choose the threshold


class CPFEmbedder(NetworkTransformer):
    """Embeddings trained with the consistent penalizing field loss.

    Unit-length embeddings for retrieval among new classes, which are not in
    the training data. The CPF loss [1]_ holds all classes to the same cosine
    threshold, so one number, `threshold_`, decides whether two images show the
    same thing. ``CPFEmbedder(**CPF_CONSTANTS["cub"])``, with the table of
    `sklearn_cbir.losses`, has the values of [1]_ for a data set.

    Parameters come in five groups, in this order:

    - network: `n_components`, `backbone`, `weights`, `pooling`, `image_size`,
      `resize_size`, `mean`, `std`
    - loss: `tau`, `psi`, `sp`, `sn`, `mu`, `b`, `threshold_fraction`
    - batches: `augment`, `mixup`, `batch_size`, `sampling`, `n_per_class`,
      `pool_size`
    - epochs and rates: `head_epochs`, `max_epochs`, `optimizer`, `lr`,
      `trunk_lr`, `loss_lr`, `weight_decay`, `schedule`, `early_stopping`,
      `validation_fraction`, `n_iter_no_change`, `tol`
    - running: `warm_start`, `checkpoint_dir`, `num_workers`, `autocast`,
      `device`, `runtime`, `random_state`, `verbose`

    Parameters
    ----------
    n_components : int, default=128
        Length of the embeddings.

    backbone : str, torch.nn.Module or None, default=None
        A built-in net (see `sklearn_cbir.backbones.BACKBONES`), any
        classification model of torchvision by name, a model of timm as
        ``"timm/NAME"``, the image tower of a model of open_clip as
        ``"open_clip/NAME"``, or a module of your own, which is copied and never
        trained in place. None is a small built-in net for images of about 28 to
        64 px. For 2-D rows, a small MLP is trained instead.

    weights : {"pretrained", "imagenet", "packaged"}, tag, path or None, default=None
        Where the backbone's weights come from. "pretrained", or its older name
        "imagenet": published weights, from the library of the backbone.
        "packaged": a Python package, for ``"timm/tf_efficientnet_lite0"`` the one
        of the extra ``demo``. Or a tag of open_clip, a file with a state dict, or
        None for random weights.
        Built-in nets have no pretrained weights. A module of your own keeps its
        weights. None does not count as pretrained, and neither does a module
        without a file if it has batch norms and all are new (means 0, variances
        1); everything else does.

    pooling : {"auto", "avg", "max", "gem"}, default="auto"
        How to make a vector from a feature map; "auto" is the backbone's own way.

    image_size : int, default=None
        Side in px that images are resized and cropped to. None takes the
        backbone's own size; for a net that takes any size, the size of the
        arrays, and 64 px for files.

    resize_size : int or "source", default=None
        Side in px that an image is resized to before it is cropped to its middle,
        of `image_size`: the shorter side, both or the longer one, as the weights
        expect. None is `image_size`, which cuts off least. "source" is the size
        of the transform that was published with the weights: images are then
        prepared as that transform does.

    mean, std : sequence of 3 floats, default=None
        Mean and standard deviation of pixels in [0, 1], for a module of your own;
        None takes the backbone's.

    tau : float, default=0.38
        Cosine above which the proxy of another class pushes. [1]_: 0.38 for
        CUB, Cars and SOP, 0.25 for Shopee.

    psi : float, default=0.38
        Cosine from which that push is counted; at most `tau`. [1]_: 0.2 for
        CUB, Cars and SOP, 0.25 for Shopee.

    sp : float, default=3.0
        Steepness of the weights of the pull to the own proxy. [1]_: 9 for CUB
        and Cars, 3 for SOP, 1.5 for Shopee.

    sn : float, default=8.0
        Steepness of the weights of the push from other proxies. [1]_: 9 for
        CUB and Cars, 8 for SOP, 1 for Shopee.

    mu : float, default=1.0
        Cosine at which the weight of a push is 1. [1]_: 0 for CUB and Cars, 1
        for SOP and Shopee.

    b : float, default=2.0
        Smoothing of the ratio.

    threshold_fraction : float, default=0.1
        Share of the classes, at least two, that `fit` leaves out of training to
        choose `threshold_` on them. 0 chooses it on the training images, which
        gives a threshold that is too high for new classes. `fit` does the same
        with too few classes, with a warning, and with multi-label targets.

    augment : {"auto", "crop"}, callable or None, default="auto"
        How training images are changed at random: "auto" crops and flips left-right,
        "crop" does not flip, for letters and the like. A callable takes and
        returns one uint8 tensor (3, height, width), and must not keep state between
        calls; the generators that it draws from are seeded for every batch.

    mixup : float, default=0.0
        Above 0, training images and their labels are mixed in pairs, by a share
        drawn from Beta(mixup, mixup). [1]_: 0.35 for Shopee.

    batch_size : int, default=90
        How many images one training step, or one batch of `transform`, takes.

    sampling : {"auto", "uniform", "balanced", "class_random", "mined"}, \
            default="auto"
        How batches are drawn. "uniform" shuffles all images. "balanced" draws
        classes, then images of each: over all epochs all classes come equally
        often, and all images of a class, so most images of a very large class
        may never be used. "auto" is "balanced" for losses that compare images
        with each other, else "uniform". "class_random" draws classes and images
        with replacement. "mined" makes tuples: an image, another of its class,
        and its nearest ones of other classes in a pool, at most one per class.
        Before every epoch, the network computes which are near. A tuple has as
        many of them as the ``n_negatives`` of the loss says, or 5.

    n_per_class : int, default=2
        How many images of a class are in a batch of "balanced" or "class_random".
        None means an equal share of the batch for every class, but at least 4.

    pool_size : int, default=20000
        Size of the pool that ``sampling="mined"`` searches: at most so many
        training images, drawn again for every epoch.

    head_epochs : int, default=None
        How many epochs train the head alone, with the trunk frozen, before
        `max_epochs` train the whole network. None means 5 with pretrained weights,
        and 0 without them or if `fit` goes on.

    max_epochs : int, default=30
        Epochs that train the whole network. 0 trains the head alone, for
        `head_epochs`, and leaves the trunk as it is.

    optimizer : {"adamw", "adam", "sgd"} or torch optimizer class, default="adamw"
        "sgd" has Nesterov momentum 0.9.

    lr : float, default=0.001
        Highest learning rate of the new layers.

    trunk_lr : float, default=None
        Highest learning rate of the trunk; None means `lr`, or a tenth of it with
        pretrained weights.

    loss_lr : float, default=None
        Highest learning rate of the parameters of the loss, such as proxies; None
        means `lr`.

    weight_decay : float, default=0.0004
        Decay of weight matrices in every step. Biases, norms and parameters of
        the loss do not decay.

    schedule : {"one_cycle", "cosine", "constant"}, default="one_cycle"
        How learning rates change over the steps of a phase.

    early_stopping : bool, default=False
        Hold out images, stop when their loss no longer falls, and keep the
        best weights.

    validation_fraction : float, default=0.1
        Share of every class that early stopping holds out, rounded; a class
        keeps at least 2 images in training (1 with a classification loss).
        With 0/1 columns, it is a share of the rows, and no row is held out if
        one of its labels would keep fewer images.

    n_iter_no_change : int, default=5
        Early stopping ends the training after so many epochs without
        improvement.

    tol : float, default=1e-4
        Smallest decrease of the loss that counts as an improvement.

    warm_start : bool, default=False
        Whether `fit` goes on from the last `fit` of this object: from its network,
        and from the proxies or codes of its loss. `weights` are not read again.
        Classes, layers, and kind and size of the input must be the same.
        Optimizer, schedule and seed start again; `n_iter_` and `history_` go on.

    checkpoint_dir : path, default=None
        Folder for checkpoints, one file per combination of parameters and data,
        replaced after every epoch. If `fit` was interrupted, the same call goes on
        from the file; if it had finished, it is not repeated.

    num_workers : int, default=0
        How many processes load images. They start once per fit, and the network
        is the same, bit by bit, for any number. In worker processes, such as those
        of joblib, 0 is used.

    autocast : bool, default=False
        Train in bfloat16 where that is safe: faster on processors and GPUs
        that support it, and slightly less exact. On a processor, this is measured
        once; if bfloat16 is slower, `fit` trains in float32, with a warning.
        `transform` always computes in float32.

    device : str, default="auto"
        Where torch computes; "auto" prefers a GPU and is resolved in every call.

    runtime : {"auto", "torch", "openvino"}, default="auto"
        Library that computes `transform` on a processor. Training, and `transform`
        on GPUs, always use torch. "openvino" needs the extra ``[openvino]``. It is
        faster, after a second or two to convert the network; its vectors differ
        from torch's by at most 1e-5 of their length, and torch computes if it
        cannot. "auto" uses it if it is installed and `transform` was asked for 400
        images of 224 px in all, or as many pixels, but never for a backbone or
        `pooling` of your own.

    random_state : int, RandomState instance or None, default=None
        Seed of everything random, also in your own augmentations and losses. Equal
        seeds give equal bits with the same number of torch threads. Global
        generators are seeded during `fit`, and restored after it.

    verbose : int, default=0
        Above 0, progress bars appear on standard error.

    Attributes
    ----------
    threshold_ : float
        Cosine above which two images show the same thing: the threshold with the
        highest mean F1 over the images of the held-out classes. The radius for
        ``metric="cosine"`` is ``1 - threshold_``.

    history_ : list of dict
        One dict per epoch: "epoch", "phase" ("head" or "all"), "loss", "lr",
        "seconds", and with early stopping "valid_loss".

    n_iter_ : int
        Number of trained epochs; with ``warm_start=True``, of all fits.

    classes_ : ndarray of shape (n_classes,)
        The labels seen by `fit`.

    runtime_ : str
        The runtime in use on this machine, "torch" or "openvino"; "torch" after a
        conversion of the network has failed.

    n_features_out_ : int
        Length of the vectors.

    n_features_in_ : int
        Number of features, after `fit` on 2-D rows.

    See Also
    --------
    CNNFeatureExtractor : Embeddings with other losses.

    References
    ----------
    .. [1] C. Liu, W. She, M. Chen, X. Li, S. X. Yang. "Consistent penalizing
       field loss for zero-shot image retrieval". Expert Systems with
       Applications 236, 2024.

    Examples
    --------
    >>> from sklearn_cbir import CPFEmbedder
    >>> from sklearn_cbir.datasets import make_shapes
    >>> images, y = make_shapes(60, random_state=0)
    >>> embedder = CPFEmbedder(16, max_epochs=1, random_state=0).fit(images, y)
    >>> embedder.transform(images).shape
    (60, 16)
    >>> -1 <= embedder.threshold_ <= 1
    True
    """

    # As the base declares them: a checker would take them for any text.
    pooling: Pooling | nn.Module
    resize_size: ResizeSize
    augment: Augment
    optimizer: Optimizer
    schedule: Schedule
    sampling: EstimatorSampling
    runtime: Runtime
    threshold_: float

    loss: str | LossFunction | None = "cpf"  # no parameter: its constants are
    _rules: ClassVar[Mapping[str, Rule]] = {
        **NetworkTransformer._rules,
        "n_components": partial(check_integer, minimum=1),
        "threshold_fraction": partial(check_real, minimum=0.0, maximum=0.9),
    }

    if TYPE_CHECKING:

        def transform(self, X: ImagesLike) -> NDArray[np.float32]:
            """Return vectors."""
            ...

        def fit_transform(
            self, X: ImagesLike, y: LabelsLike | None = None, **fit_params: object
        ) -> NDArray[np.float32]:
            """Train, and return vectors."""
            ...

    def __init__(
        self,
        n_components: int = 128,
        *,
        backbone: str | nn.Module | None = None,
        weights: str | os.PathLike[str] | None = None,
        pooling: Pooling | nn.Module = "auto",
        image_size: int | None = None,
        resize_size: ResizeSize = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        tau: float = 0.38,
        psi: float = 0.38,
        sp: float = 3.0,
        sn: float = 8.0,
        mu: float = 1.0,
        b: float = 2.0,
        threshold_fraction: float = 0.1,
        augment: Augment = "auto",
        mixup: float = 0.0,
        batch_size: int = 90,
        sampling: EstimatorSampling = "auto",
        n_per_class: int | None = 2,
        pool_size: int = 20000,
        head_epochs: int | None = None,
        max_epochs: int = 30,
        optimizer: Optimizer = "adamw",
        lr: float = 0.001,
        trunk_lr: float | None = None,
        loss_lr: float | None = None,
        weight_decay: float = 0.0004,
        schedule: Schedule = "one_cycle",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        warm_start: bool = False,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        num_workers: int = 0,
        autocast: bool = False,
        device: str | torch.device = "auto",
        runtime: Runtime = "auto",
        random_state: RandomState = None,
        verbose: int | bool = 0,
    ) -> None:
        self.n_components = n_components
        self.backbone = backbone
        self.weights = weights
        self.pooling = pooling
        self.image_size = image_size
        self.resize_size = resize_size
        self.mean = mean
        self.std = std
        self.tau = tau
        self.psi = psi
        self.sp = sp
        self.sn = sn
        self.mu = mu
        self.b = b
        self.threshold_fraction = threshold_fraction
        self.augment = augment
        self.mixup = mixup
        self.batch_size = batch_size
        self.sampling = sampling
        self.n_per_class = n_per_class
        self.pool_size = pool_size
        self.head_epochs = head_epochs
        self.max_epochs = max_epochs
        self.optimizer = optimizer
        self.lr = lr
        self.trunk_lr = trunk_lr
        self.loss_lr = loss_lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.num_workers = num_workers
        self.autocast = autocast
        self.device = device
        self.runtime = runtime
        self.random_state = random_state
        self.verbose = verbose

    def _training_loss(self) -> CPFLoss:
        return CPFLoss(self.tau, self.psi, self.sp, self.sn, self.mu, self.b)

    def _network_ending(self, loss: LossFunction | None, demands: Demands | None) -> dict[str, Any]:
        return {"n_components": self.n_components, "unit_length": True}

    def _hold_out_classes(
        self, y: NDArray[Any], seed: int, start: Start | None = None
    ) -> NDArray[Any]:
        """Return labels with -1 for the classes that choose the threshold."""
        if y.ndim == 2:
            return y
        if start is not None and start.held_out is not None:
            return _without(y, start.held_out)
        if self.threshold_fraction == 0:
            return y
        sizes = np.bincount(y)
        n_held_out = max(2, round(self.threshold_fraction * len(sizes)))
        pairs = np.flatnonzero(sizes >= 2)
        # Two classes must be left to train on, and one of them must have similar images.
        if len(sizes) < n_held_out + 2 or len(pairs) < n_held_out + 1:
            warn_user(
                f"CPFEmbedder got {len(sizes)} classes, {len(pairs)} of them with two images or "
                f"more: too few to hold out {n_held_out}. threshold_ is chosen on the training "
                "images and will be too high for new classes. Use more classes, a smaller "
                "threshold_fraction, or threshold_fraction=0."
            )
            return y
        rng = np.random.default_rng(derived_seed(seed, 3))
        held_out = rng.permutation(pairs)[:n_held_out]
        return _without(y, held_out)

    def _after_training(
        self,
        network: Network,
        source: ArraySource | ImageSource,
        y: NDArray[Any],
        target: NDArray[Any],
        seed: int,
    ) -> None:
        """Choose the threshold on the held-out classes, or else on all images."""
        if y.ndim == 2:
            rows = np.flatnonzero((y[:, y.sum(axis=0) > 1] > 0).any(axis=1))
        else:
            has_match = np.bincount(y)[y] > 1
            rows = np.flatnonzero(has_match & (target == -1))
            rows = rows if len(rows) else np.flatnonzero(has_match)
        rows = _whole_classes(rows, y, THRESHOLD_ROWS, seed)
        embeddings = self._infer(network, source.subset(rows))
        self.threshold_ = _best_threshold(embeddings, y[rows])


def _without(y: NDArray[Any], held_out: NDArray[Any]) -> NDArray[Any]:
    """Return labels with -1 for the classes held out; the other classes are renumbered."""
    kept = np.setdiff1d(np.arange(y.max() + 1), held_out)
    return np.where(np.isin(y, held_out), -1, np.searchsorted(kept, y))


def _whole_classes(
    rows: NDArray[np.int64], y: NDArray[Any], n: int, seed: int
) -> NDArray[np.int64]:
    """Return at most about `n` of the rows, class by class, so that matches stay together."""
    if len(rows) <= n:
        return rows
    rng = np.random.default_rng(derived_seed(seed, 4))
    if y.ndim == 2:
        return np.sort(rng.permutation(rows)[:n])
    chosen = []
    for label in rng.permutation(np.unique(y[rows])):
        members = rows[y[rows] == label]
        chosen.append(rng.permutation(members)[: max(2, n // 2)])
        if sum(map(len, chosen)) >= n:
            break
    return np.sort(np.concatenate(chosen))


def _best_threshold(embeddings: NDArray[np.float32], y: NDArray[Any]) -> float:
    """Return the cosine with the highest mean F1 of "above it, the same thing"."""
    distances = np.clip(1 - embeddings @ embeddings.T, 0, 2)
    # Similar pairs are the near ones: most candidates lie there.
    radii = np.unique(np.quantile(distances, np.linspace(0, 1, 201) ** 2))
    own = np.eye(len(y), dtype=bool)
    curve = threshold_f1_curve(y, y, distances, radii=radii, exclude=own)
    curve = curve[~np.isnan(curve).any(axis=1)]
    radius, _ = best_f1_radius(radii, curve)
    return 1 - float(radius)  # of all queries: a number
