"""DeepHasher: images or features to binary codes, learned end to end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sklearn_cbir._base import NetworkTransformer
from sklearn_cbir._network import HASH_LAYERS
from sklearn_cbir._validation import Rule, check_choice, check_integer, check_real, shortened
from sklearn_cbir.backbones import ENHANCEMENTS
from sklearn_cbir.hashing._base import HasherMixin
from sklearn_cbir.losses._base import Demands, fresh_loss, hash_layer_of, hash_std_of

if TYPE_CHECKING:
    from sklearn_cbir._typing import (
        Enhancement,
        EstimatorSampling,
        HashLayer,
        ImagesLike,
        LossFunction,
        Optimizer,
        Pooling,
        RandomState,
        ResizeSize,
        Runtime,
        Schedule,
    )
    from sklearn_cbir.images._augmentation import Augment


def _check_hash_std(value: object, parameter: str) -> object:
    """Return the start of the hash layer: "auto", None or a deviation of at least 0."""
    if value is None or isinstance(value, str):
        return check_choice(value, parameter, ("auto", None))
    return check_real(value, parameter, minimum=0)


class DeepHasher(HasherMixin, NetworkTransformer):
    """Binary codes from a network with a hash layer.

    The last layer of the network has one output per bit, and the loss makes
    the signs of its outputs equal for similar images. The default is the loss
    of deep features enhance and semantic-preserving hashing, DFEH [1]_.

    Parameters come in five groups, in this order:

    - network: `n_bits`, `backbone`, `weights`, `pooling`, `enhance`,
      `hash_layer`, `hash_std`, `image_size`, `resize_size`, `mean`, `std`
    - loss: `loss`
    - batches: `augment`, `batch_size`, `sampling`, `n_per_class`, `pool_size`
    - epochs and rates: `head_epochs`, `max_epochs`, `optimizer`, `lr`,
      `trunk_lr`, `loss_lr`, `weight_decay`, `schedule`, `early_stopping`,
      `validation_fraction`, `n_iter_no_change`, `tol`
    - running: `warm_start`, `checkpoint_dir`, `num_workers`, `autocast`,
      `device`, `runtime`, `random_state`, `verbose`

    Parameters
    ----------
    n_bits : int, default=48
        Length of the codes.

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

    enhance : {None, "se", "cbam", "conv"}, default=None
        The feature enhancement layer of [1]_. The paper only draws it; what it is
        and where it stands is inferred. Here it weights or changes the
        backbone's last feature map, before pooling: "se" weights the
        channels (squeeze and excitation [2]_), "cbam" the channels and then
        the places (convolutional block attention [3]_), "conv" adds two 3 x 3
        convolutions. It starts as the identity and learns with the new
        layers. The default is None because, measured on CIFAR-10, attention
        gained nothing, and "conv" less than a larger backbone in the same time.
        Not used for 2-D rows. Networks of torchvision pool their maps
        themselves, so they need a `pooling` other than "auto".

    hash_layer : {"auto", "linear", "divided", "latent"}, default="auto"
        The last layer. "linear": every bit sees all features. "divided": a
        layer makes 50 features per bit, and every bit sees only its own 50
        (divide and encode [4]_). "latent": linear, with first biases of 1
        and small first weights, as in [5]_. "auto" takes the layer of the
        loss: "divided" for "dnnh", else "linear".

    hash_std : float, "auto" or None, default="auto"
        Standard deviation of the normal distribution from which a linear hash
        layer draws its first weights; its biases start at 0. "auto" takes the
        value of the loss: 0.01 for "dpsh", as the authors of other losses on bits
        do ([6]_, [7]_), else None, the initialization of torch. It matters if
        features are long, as with ``pooling="max"``. Only ``hash_layer="linear"``
        uses it, and not for 2-D rows.

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

    loss : str or torch.nn.Module, default="dfeh"
        A name of `sklearn_cbir.losses.LOSSES` or any module or function called as
        ``loss(outputs, y)`` that does not need one output per class. Pass an object
        with your settings: a class is called without arguments.

    augment : {"auto", "crop"}, callable or None, default="auto"
        How training images are changed at random: "auto" crops and flips left-right,
        "crop" does not flip, for letters and the like. A callable takes and
        returns one uint8 tensor (3, height, width), and must not keep state between
        calls; the generators that it draws from are seeded for every batch.

    batch_size : int, default=100
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

    n_per_class : int, default=None
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

    lr : float, default=0.003
        Highest learning rate of the new layers.

    trunk_lr : float, default=None
        Highest learning rate of the trunk; None means `lr`, or a tenth of it with
        pretrained weights.

    loss_lr : float, default=None
        Highest learning rate of the parameters of the loss, such as proxies; None
        means `lr`.

    weight_decay : float, default=0.01
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
    NeighborsRetriever : Finds the nearest codes with ``metric="hamming"``.

    References
    ----------
    .. [1] Zhao, Liu. "Leveraging deep features enhance and semantic-
       preserving hashing for image retrieval". Electronics 11(15), 2022.
    .. [2] J. Hu, L. Shen, G. Sun. "Squeeze-and-excitation networks". CVPR
       2018.
    .. [3] S. Woo, J. Park, J.-Y. Lee, I. S. Kweon. "CBAM: convolutional block
       attention module". ECCV 2018.
    .. [4] H. Lai, Y. Pan, Y. Liu, S. Yan. "Simultaneous feature learning and
       hash coding with deep neural networks". CVPR 2015.
    .. [5] K. Lin, H.-F. Yang, J.-H. Hsiao, C.-S. Chen. "Deep learning of binary
       hash codes for fast image retrieval". CVPR workshops, 2015.
    .. [6] Z. Cao, M. Long, J. Wang, P. S. Yu. "HashNet: deep learning to hash by
       continuation". ICCV 2017.
    .. [7] J. T. Hoe, K. W. Ng, T. Zhang, C. S. Chan, Y.-Z. Song, T. Xiang. "One
       loss for all: deep hashing with a single cosine similarity based
       learning objective". NeurIPS 2021.

    Examples
    --------
    >>> from sklearn_cbir import DeepHasher
    >>> from sklearn_cbir.datasets import make_shapes
    >>> images, y = make_shapes(60, random_state=0)
    >>> hasher = DeepHasher(12, max_epochs=1, random_state=0).fit(images, y)
    >>> codes = hasher.transform(images)
    >>> codes.shape, codes.dtype
    ((60, 12), dtype('uint8'))
    """

    # As the base declares them: a checker would take them for any text.
    pooling: Pooling | nn.Module
    resize_size: ResizeSize
    augment: Augment
    optimizer: Optimizer
    schedule: Schedule
    sampling: EstimatorSampling
    runtime: Runtime

    mixup: float = 0.0  # no parameter: losses on codes take no shares of labels
    _gives = "code"
    _rules: ClassVar[Mapping[str, Rule]] = {
        **NetworkTransformer._rules,
        "n_bits": partial(check_integer, minimum=1),
        "enhance": partial(check_choice, options=[None, *ENHANCEMENTS]),
        "hash_layer": partial(check_choice, options=["auto", *HASH_LAYERS]),
        "hash_std": _check_hash_std,
    }

    def __init__(
        self,
        n_bits: int = 48,
        *,
        backbone: str | nn.Module | None = None,
        weights: str | os.PathLike[str] | None = None,
        pooling: Pooling | nn.Module = "auto",
        enhance: Enhancement | None = None,
        hash_layer: Literal["auto"] | HashLayer = "auto",
        hash_std: Literal["auto"] | float | None = "auto",
        image_size: int | None = None,
        resize_size: ResizeSize = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        loss: str | LossFunction | None = "dfeh",
        augment: Augment = "auto",
        batch_size: int = 100,
        sampling: EstimatorSampling = "auto",
        n_per_class: int | None = None,
        pool_size: int = 20000,
        head_epochs: int | None = None,
        max_epochs: int = 30,
        optimizer: Optimizer = "adamw",
        lr: float = 0.003,
        trunk_lr: float | None = None,
        loss_lr: float | None = None,
        weight_decay: float = 0.01,
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
        self.n_bits = n_bits
        self.backbone = backbone
        self.weights = weights
        self.pooling = pooling
        self.enhance = enhance
        self.hash_layer = hash_layer
        self.hash_std = hash_std
        self.image_size = image_size
        self.resize_size = resize_size
        self.mean = mean
        self.std = std
        self.loss = loss
        self.augment = augment
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

    def project(self, X: ImagesLike) -> NDArray[np.float32]:
        """Return the real outputs whose signs are the bits.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            As for `fit`, of the same kind.

        Returns
        -------
        ndarray of shape (n_samples, n_bits), float32
            A bit of the code is 1 where this is 0 or more.
        """
        return self._embed(X)

    def _training_loss(self) -> LossFunction | None:
        if self.loss is None:
            raise ValueError("loss=None learns no codes. Choose a loss, such as loss='dfeh'.")
        return fresh_loss(self.loss)

    def _network_ending(self, loss: LossFunction | None, demands: Demands | None) -> dict[str, Any]:
        if loss is None or demands is None or demands.output == "classes":
            raise ValueError(
                f"loss={shortened(self.loss)} needs one output per class, but DeepHasher has "
                "one per bit. Use a hashing loss, such as loss='dfeh', or CNNFeatureExtractor."
            )
        layer = hash_layer_of(loss) if self.hash_layer == "auto" else self.hash_layer
        std = hash_std_of(loss) if self.hash_std == "auto" else self.hash_std
        return {
            "n_components": self.n_bits,
            "hash_layer": layer,
            "hash_std": std if layer == "linear" else None,
            "enhance": self.enhance,
        }
