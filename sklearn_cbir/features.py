"""CNNFeatureExtractor: images to feature vectors, trained with a loss of choice."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sklearn_cbir._base import NetworkTransformer
from sklearn_cbir._batches import ArraySource, ImageSource
from sklearn_cbir._devices import resolve_device, shielded
from sklearn_cbir._network import MultiScale, Network
from sklearn_cbir._validation import (
    Rule,
    check_boolean,
    check_integer,
    check_scales,
    optional,
    shortened,
    warn_user,
)
from sklearn_cbir._words import KNOWING, TextEncoder, checked_texts, embed_mixed
from sklearn_cbir.backbones._probe import name_of
from sklearn_cbir.images import Images
from sklearn_cbir.images._text import rows_with_words
from sklearn_cbir.losses._base import Demands, fresh_loss

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
    from sklearn_cbir.images._batches import ImageShape

__all__ = ["CNNFeatureExtractor"]

ONE_SCALE = (1.0,)
OF_WORDS = f"and a network that was trained on words, such as {KNOWING}"


class CNNFeatureExtractor(NetworkTransformer):
    """Features of a neural network, fine-tuned with the loss that you choose.

    `fit` trains the network to classify, with the squared hinge loss of [1]_ or
    another one. `transform` returns the features: the input of the classifier.
    On a pretrained trunk, `fit` first trains the head alone, then the whole
    network; the statistics of pretrained batch norms do not change.

    Parameters come in five groups, in this order:

    - network: `backbone`, `weights`, `pooling`, `n_components`, `normalize`,
      `image_size`, `resize_size`, `scales`, `mean`, `std`, `words`
    - loss: `loss`
    - batches: `augment`, `mixup`, `batch_size`, `sampling`, `n_per_class`,
      `pool_size`
    - epochs and rates: `head_epochs`, `max_epochs`, `optimizer`, `lr`,
      `trunk_lr`, `loss_lr`, `weight_decay`, `schedule`, `early_stopping`,
      `validation_fraction`, `n_iter_no_change`, `tol`
    - running: `warm_start`, `checkpoint_dir`, `num_workers`, `autocast`,
      `device`, `runtime`, `random_state`, `verbose`

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="resnet18"
        A built-in net (see `sklearn_cbir.backbones.BACKBONES`), any
        classification model of torchvision by name, a model of timm as
        ``"timm/NAME"``, the image tower of a model of open_clip as
        ``"open_clip/NAME"``, or a module of your own, which is copied and never
        trained in place. For 2-D rows, a small MLP is trained instead.

    weights : {"pretrained", "imagenet", "packaged"}, tag, path or None, default="pretrained"
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

    n_components : int, default=None
        Length of the vectors; an additional linear layer makes them. None keeps
        the width of the backbone.

    normalize : bool, default=True
        Scale the vectors to unit length.

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

    scales : sequence of float, default=(1.0,)
        `transform` resizes every image by each of these and averages the
        vectors, as in [2]_ with ``(1, 2**-0.5, 0.5)``; training is not changed.
        Only for images, and for backbones that take them in these sizes.

    mean, std : sequence of 3 floats, default=None
        Mean and standard deviation of pixels in [0, 1], for a module of your own;
        None takes the backbone's.

    words : bool, default=True
        Whether to keep the text tower of the network, if it has one, for
        `encode_text` and for `Text` in `X`. False leaves it out, which saves
        memory and about half the size of files. With a loss, or with your own
        `pooling`, it is never kept: words and images would no longer match.

    loss : str, torch.nn.Module or None, default="squared_hinge"
        A name of `sklearn_cbir.losses.LOSSES` or any module or function called as
        ``loss(outputs, y)``. Pass an object with your settings: a class is called
        without arguments. None trains nothing: the network is used as it is,
        and feature rows are at most scaled to unit length.

    augment : {"auto", "crop"}, callable or None, default="auto"
        How training images are changed at random: "auto" crops and flips left-right,
        "crop" does not flip, for letters and the like. A callable takes and
        returns one uint8 tensor (3, height, width), and must not keep state between
        calls; the generators that it draws from are seeded for every batch.

    mixup : float, default=0.0
        Above 0, training images and their labels are mixed in pairs, by a share
        drawn from Beta(mixup, mixup). Only for losses that take soft
        targets, such as "softmax" and "cpf".

    batch_size : int, default=32
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
        and 0 without them or if `fit` goes on. They are left out, with a warning,
        if the trunk has no new layers on it and the loss no parameters.

    max_epochs : int, default=10
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
    DeepHasher : Binary codes instead of features.
    CPFEmbedder : Embeddings for classes that were never trained on.

    References
    ----------
    .. [1] A. Rahman, E. Winarko, K. Mustofa. "Content-based product image
       retrieval using squared-hinge loss trained convolutional neural
       networks". International Journal of Electrical and Computer Engineering
       13(5), 2023.
    .. [2] F. Radenović, G. Tolias, O. Chum. "Fine-tuning CNN image retrieval
       with no human annotation". IEEE TPAMI 41, 2019.

    Examples
    --------
    >>> from sklearn_cbir import CNNFeatureExtractor
    >>> from sklearn_cbir.datasets import make_shapes
    >>> images, y = make_shapes(60, random_state=0)
    >>> extractor = CNNFeatureExtractor("small", weights=None, max_epochs=1, random_state=0)
    >>> extractor.fit(images, y).transform(images[:2]).shape
    (2, 256)
    """

    # As the base declares them: a checker would take them for any text.
    pooling: Pooling | nn.Module
    resize_size: ResizeSize
    augment: Augment
    optimizer: Optimizer
    schedule: Schedule
    sampling: EstimatorSampling
    runtime: Runtime

    _transform_rules: ClassVar[Mapping[str, Rule]] = {
        **NetworkTransformer._transform_rules,
        "scales": check_scales,
    }
    _rules: ClassVar[Mapping[str, Rule]] = {
        **NetworkTransformer._rules,
        "n_components": optional(partial(check_integer, minimum=1)),
        "normalize": check_boolean,
        "scales": check_scales,
        "words": check_boolean,
    }

    if TYPE_CHECKING:

        def fit_transform(
            self, X: ImagesLike, y: LabelsLike | None = None, **fit_params: object
        ) -> NDArray[np.float32]:
            """Train, and return vectors."""
            ...

    def __init__(
        self,
        backbone: str | nn.Module | None = "resnet18",
        *,
        weights: str | os.PathLike[str] | None = "pretrained",
        pooling: Pooling | nn.Module = "auto",
        n_components: int | None = None,
        normalize: bool = True,
        image_size: int | None = None,
        resize_size: ResizeSize = None,
        scales: Sequence[float] = (1.0,),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        words: bool = True,
        loss: str | LossFunction | None = "squared_hinge",
        augment: Augment = "auto",
        mixup: float = 0.0,
        batch_size: int = 32,
        sampling: EstimatorSampling = "auto",
        n_per_class: int | None = None,
        pool_size: int = 20000,
        head_epochs: int | None = None,
        max_epochs: int = 10,
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
        self.backbone = backbone
        self.weights = weights
        self.pooling = pooling
        self.n_components = n_components
        self.normalize = normalize
        self.image_size = image_size
        self.resize_size = resize_size
        self.scales = scales
        self.mean = mean
        self.std = std
        self.words = words
        self.loss = loss
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

    def transform(self, X: ImagesLike) -> NDArray[np.float32]:
        """Return one vector per image, text or row.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            As for `fit`: images of any kind and size if it was fitted on
            images, else rows. After a fit on arrays without `image_size`,
            images of another size are resized until they just cover the size
            of the arrays, and cropped to their middle. If `encode_text` works,
            a list may hold `Text` among the images, or only `Text`.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32
            In the order of `X`.

        Raises
        ------
        ValueError
            For texts, as in `encode_text`, or if a sum of texts and images has
            length 0.
        """
        elements = rows_with_words(X)
        return self._embed(X) if elements is None else self._embed_mixed(elements)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector per text, in the space of the images' vectors.

        Distances of texts to photos are on another scale than those of photos to
        photos, even in the same retriever: compare each kind only with itself,
        and give each its own threshold.

        Parameters
        ----------
        texts : sequence of str
            What the photos show, such as "a red dress". Text that is too long for
            the network is cut off, with a warning.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), float32
            In the order of `texts`.

        Raises
        ------
        ValueError
            If the network was not trained on words, or if its words no longer
            match the vectors of `transform`: after training, with a `pooling` other
            than "auto", and with other `scales` than ``(1.0,)``. For one `str`, an
            empty list, and elements that are empty or no text.

        See Also
        --------
        sklearn_cbir.images.Text : Words, and sums of words and photos, in `X`.
        """
        found = checked_texts(texts)
        with shielded():
            self._check_transform()
            network = self._fitted_network()
            self._check_words(network)
            return self._infer(TextEncoder(network, found), ArraySource(np.arange(len(found))))

    def _embed_mixed(self, elements: list[Any]) -> NDArray[np.float32]:
        """Return the vectors of images, texts and sums of them."""
        with shielded():
            self._check_transform()
            network = self._fitted_network()
            self._check_words(network)
            if not network.unit_length:
                raise ValueError(
                    "X holds texts, whose vectors have unit length, but normalize=False does "
                    "not scale the vectors of images. Use normalize=True."
                )
            return embed_mixed(elements, self.encode_text, self._embed)

    def _check_words(self, network: Network) -> None:
        """Raise unless the network encodes words in the space of the vectors of `transform`."""
        trunk, pooling = network.trunk, network.trunk.spec.get("pooling", "auto")
        way = f"Use {KNOWING}"
        if hasattr(self, "n_features_in_"):
            reason = "it was fitted on 2-D feature rows"
        elif hasattr(self, "classes_"):
            reason = (
                "training has moved the vectors of images but not those of words, so they no "
                "longer match"
            )
        elif not isinstance(pooling, str) or pooling != "auto":
            reason = (
                f"pooling={shortened(pooling)} changes the vectors of images, so they do not "
                "match those of words"
            )
            way = f"Use pooling='auto', {OF_WORDS}"
        elif check_scales(self.scales, "scales") != ONE_SCALE:
            reason = (
                f"scales={shortened(self.scales)} changes the vectors of images, so they do not "
                "match those of words"
            )
            way = f"Use scales=(1.0,), {OF_WORDS}"
        elif trunk.words is None and not self.words:
            reason = "words=False has left out its text tower"
            way = f"Use words=True, {OF_WORDS}"
        elif trunk.words is None:
            untold = f"backbone={name_of(trunk.spec['backbone'])} was not trained on words"
            reason = (trunk.wordless or untold).rstrip(".")
        else:
            return
        raise ValueError(f"{type(self).__name__} cannot encode words: {reason}. {way}.")

    def _training_loss(self) -> LossFunction | None:
        if self.loss is None and self.n_components is not None:
            raise ValueError(
                f"n_components={self.n_components} with loss=None: the layer that makes them "
                "would stay random. Choose a loss, or add PCA after the extractor."
            )
        return fresh_loss(self.loss)

    def _network_ending(self, loss: LossFunction | None, demands: Demands | None) -> dict[str, Any]:
        if demands is not None and demands.output == "bits":
            raise ValueError(
                f"loss={shortened(self.loss)} learns binary codes. Use "
                f"DeepHasher(loss={shortened(self.loss)})."
            )
        return {"n_components": self.n_components, "unit_length": self.normalize}

    def _check_network(self, network: Network, data: NDArray[Any] | Images) -> None:
        if tuple(self.scales) != ONE_SCALE:
            self._check_sizes(network, self._source(data, network.trunk, training=False))
        is_random = self.loss is None and self.weights is None and isinstance(self.backbone, str)
        if is_random and not isinstance(data, np.ndarray):
            warn_user(
                "loss=None and weights=None: the network is random, and so are its features. "
                "Give it weights or a loss."
            )

    def _seen(self, network: Network, source: ArraySource | ImageSource) -> Network | MultiScale:
        scales = check_scales(self.scales, "scales")
        if scales == ONE_SCALE:
            return network
        self._check_sizes(network, source)
        return MultiScale(network, scales)

    def _check_sizes(self, network: Network, source: ArraySource | ImageSource) -> None:
        """Raise unless the network takes images at every scale."""
        if isinstance(source, ArraySource):
            raise ValueError(
                f"scales={shortened(self.scales)} resizes images, and X holds 2-D feature rows. "
                "Use scales=(1.0,)."
            )
        # Arrays that are not resized have one shape.
        size = source.size or cast("ImageShape", source.images.image_shape)[:2]
        height, width = size if isinstance(size, tuple) else (size, size)
        device = resolve_device(self.device)
        black = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=device)
        for scale in check_scales(self.scales, "scales"):
            try:
                with network.placement.keep(network, device), torch.inference_mode():
                    MultiScale(network, (scale,)).embed(black)
            except (RuntimeError, AssertionError) as error:
                raise ValueError(
                    f"The backbone cannot take images of {height} x {width} pixels at scale "
                    f"{scale} ({error}). Use scales=(1.0,), a larger image_size, or another "
                    "backbone."
                ) from error
