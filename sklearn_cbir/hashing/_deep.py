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

    A layer with one output per bit ends the network and the loss makes the
    signs of its outputs alike for similar images. The default is the loss
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
        classification model of torchvision by name, one of timm's as
        ``"timm/NAME"``, the images' half of one of open_clip's as
        ``"open_clip/NAME"``, or a module of your own, which is copied and never
        trained in place. None is a small built-in net for images of about 28 to
        64 px. 2-D rows train a small MLP instead.

    weights : {"pretrained", "imagenet", "packaged"}, tag, path or None, default=None
        Where the backbone's weights come from: the library that its name belongs
        to, a Python package that holds them, for
        ``"timm/tf_efficientnet_lite0"`` that of the extra ``demo``, a tag of
        open_clip's, a file with a state dict, or None for random ones;
        "imagenet" is an older word for "pretrained". Built-in nets have no
        pretrained weights. A module of your own keeps the weights that it has. A
        file counts as pretrained, for a name as for a module. A module without a
        file does too, unless this is None or its batch norms are all fresh, with
        means of 0 and variances of 1; without batch norms nothing tells.

    pooling : {"auto", "avg", "max", "gem"}, default="auto"
        How a feature map becomes a vector; "auto" is the backbone's own way.

    enhance : {None, "se", "cbam", "conv"}, default=None
        The feature enhancement layer of [1]_, which is only drawn there: what
        it is and where it stands is inferred. Here it weighs or changes the
        backbone's last feature map, before it is pooled: "se" weighs the
        channels (squeeze and excitation [2]_), "cbam" the channels and then
        the places (convolutional block attention [3]_), "conv" adds two 3 x 3
        convolutions. It starts as the identity and learns with the new
        layers. None was chosen by measurement: on CIFAR-10 attention gained
        nothing, and "conv" less than a larger backbone in the same time. Not
        used for 2-D rows; needs a `pooling` other than "auto" for networks of
        torchvision, which pool their maps themselves.

    hash_layer : {"auto", "linear", "divided", "latent"}, default="auto"
        The last layer. "linear": every bit sees all features. "divided": all
        features are turned into 50 per bit, and every bit sees its own 50
        (divide and encode [4]_). "latent": linear, started with biases of 1
        and small weights, as in [5]_. "auto" is what the loss asks for:
        "divided" for "dnnh", else "linear".

    hash_std : float, "auto" or None, default="auto"
        Standard deviation of the normal distribution from which a linear hash
        layer draws its first weights; its biases start at 0. "auto" is what the
        loss asks for: 0.01 for "dpsh", as the authors of other losses on bits
        start ([6]_, [7]_), and else None, the start of torch's own layers. It
        matters where features are long, as under ``pooling="max"``. Not used
        for 2-D rows, and by no other hash layer than "linear".

    image_size : int, default=None
        Side in px that images are resized and cropped to; None takes the
        backbone's own size, or for a net of any size the size of the arrays
        and 64 px for files.

    resize_size : int or "source", default=None
        Side in px that an image is resized to before its middle, of
        ``image_size``, is cut out: the shorter side, both or the longer one, as
        the weights expect. None is ``image_size``, which cuts off least.
        "source" is what the source of the weights itself resizes to: images are
        those of its own transform then.

    mean, std : sequence of 3 floats, default=None
        Normalization of pixels in [0, 1] for a module of your own; None takes
        the backbone's.

    loss : str or torch.nn.Module, default="dfeh"
        A name of `sklearn_cbir.losses.LOSSES` or any module or function called as
        ``loss(outputs, y)`` that does not want one output per class. Pass an object
        with your settings: a class is called without arguments.

    augment : {"auto", "crop"}, callable or None, default="auto"
        How training images are changed at random: "auto" crops and flips left-right,
        "crop" does not flip, for letters and the like. A callable takes and
        returns one uint8 tensor (3, height, width), and keeps nothing from call
        to call; generators that it draws from are seeded for every batch.

    batch_size : int, default=100
        How many images a step trains on, and a batch of `transform` holds.

    sampling : {"auto", "uniform", "balanced", "class_random", "mined"}, \
            default="auto"
        "balanced" draws classes, then images of each, all classes and all
        images of a class equally often over all epochs, so that most of a
        class far larger than the others may never be used; "auto" does so
        for losses that compare images with each other.
        "class_random" draws both with replacement. "mined" makes tuples of an
        image, one of its class, and the nearest ones of other classes in a
        pool, at most one of each; the network as it is before every epoch
        says which are near. Their number is the ``n_negatives`` of the loss,
        or 5.

    n_per_class : int, default=None
        How many images of a class a balanced or class-random batch holds; None
        means an equal share of the batch for every class, but at least 4.

    pool_size : int, default=20000
        At most so many training images, drawn anew for every epoch, are
        searched by ``sampling="mined"``.

    head_epochs : int, default=None
        How many epochs train the head alone, with the trunk frozen, before
        `max_epochs` train all of it; None means 5 with pretrained weights, and 0
        without them and where `fit` goes on.

    max_epochs : int, default=30
        Epochs in which everything is trained; 0 trains the head alone, for
        `head_epochs`, and leaves the trunk as it is.

    optimizer : {"adamw", "adam", "sgd"} or torch optimizer class, default="adamw"
        "sgd" has Nesterov momentum 0.9.

    lr : float, default=0.003
        The highest rate at which the new layers learn.

    trunk_lr : float, default=None
        The highest rate at which the trunk learns; None means ``lr``, or a
        tenth of it with pretrained weights.

    loss_lr : float, default=None
        The highest rate at which parameters of the loss, such as proxies, learn;
        None means ``lr``.

    weight_decay : float, default=0.01
        How strongly weight matrices decay in every step; biases, norms and
        parameters of the loss do not decay.

    schedule : {"one_cycle", "cosine", "constant"}, default="one_cycle"
        How rates change over the steps of a phase.

    early_stopping : bool, default=False
        Hold out images, stop when their loss no longer falls and keep the
        best weights.

    validation_fraction : float, default=0.1
        Share of every class that early stopping holds out, rounded; a class
        keeps at least 2 images in training (1 under a classification loss).
        Of 0/1 columns, a share of the rows, and no row with a label that would
        keep fewer.

    n_iter_no_change : int, default=5
        After how many epochs without improvement early stopping ends the
        training.

    tol : float, default=1e-4
        Smallest fall of the loss that counts as an improvement.

    warm_start : bool, default=False
        Whether `fit` goes on from the network, and from the proxies or codes of
        the loss, that an earlier `fit` of this object has left; `weights` are
        not read again. Classes, kind and size of the input and the layers must
        be the same. Optimizer, schedule and seed start anew; `n_iter_` and
        `history_` go on.

    checkpoint_dir : path, default=None
        Folder for one file per combination of parameters and data, replaced
        after every epoch; a fit that was cut off goes on from it, and one that
        was finished is not repeated.

    num_workers : int, default=0
        How many processes load images. They change no bit of the network, and
        are started once per fit; 0 is used inside processes of joblib and the
        like.

    autocast : bool, default=False
        Train in bfloat16 where that is safe: faster on processors and GPUs
        that have it, slightly less exact. On a processor where it is slower,
        which is measured once, `fit` trains in float32, with a warning.
        `transform` stays in float32.

    device : str, default="auto"
        Where torch computes; "auto" prefers a GPU and is resolved whenever it is
        used.

    runtime : {"auto", "torch", "openvino"}, default="auto"
        What computes in `transform` on a processor; torch alone trains, and
        computes on GPUs. "openvino", of the extra ``[openvino]``, is faster once
        it has taken a second or two to convert the network. "auto" takes it where
        it is installed, once 400 images of 224 px, or as many pixels, were asked
        for, and never for a backbone or `pooling` of your own. Results are torch's
        but for 1e-5 of their length. Torch computes where OpenVINO cannot.

    random_state : int, RandomState instance or None, default=None
        Seeds everything random, augmentations and losses of your own
        included; equal seeds give equal bits at the same number of torch
        threads. Global generators are seeded meanwhile, and put back.

    verbose : int, default=0
        Above 0, progress bars are drawn on standard error.

    Attributes
    ----------
    history_ : list of dict
        Tells of every epoch: "epoch", "phase" ("head" or "all"), "loss", "lr",
        "seconds", and "valid_loss" under early stopping.

    n_iter_ : int
        How many epochs were trained, under ``warm_start=True`` by all fits.

    classes_ : ndarray of shape (n_classes,)
        The labels seen by `fit`.

    runtime_ : str
        What `runtime` stands for on this machine, "torch" or "openvino"; "torch"
        once the network could not be converted.

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
            What `fit` takes, of the same kind.

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
