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

    The network is trained to classify, with the squared hinge loss of [1]_ or
    another one; then its classifier is set aside and what entered it is the
    feature. Transfer learning comes first: the head alone is trained on top of
    a pretrained trunk whose batch norms stay as they are, then all of it.

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
        classification model of torchvision by name, one of timm's as
        ``"timm/NAME"``, the images' half of one of open_clip's as
        ``"open_clip/NAME"``, or a module of your own, which is copied and never
        trained in place. 2-D rows train a small MLP instead.

    weights : {"pretrained", "imagenet", "packaged"}, tag, path or None, default="pretrained"
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

    n_components : int, default=None
        Length of the vectors, made by one linear layer more; None keeps the
        width of the backbone.

    normalize : bool, default=True
        Scale the vectors to unit length.

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

    scales : sequence of float, default=(1.0,)
        `transform` resizes every image by each of these and averages the
        vectors, as in [2]_ with ``(1, 2**-0.5, 0.5)``; training is not changed.
        Only for images, and for backbones that take them in these sizes.

    mean, std : sequence of 3 floats, default=None
        Normalization of pixels in [0, 1] for a module of your own; None takes
        the backbone's.

    words : bool, default=True
        Whether the network keeps what it knows of words, if it does, for
        `encode_text` and for `Text` in `X`. False leaves it out, which saves
        memory and files about half their size. It is never kept with a loss or a
        `pooling` of one's own, after which words and images no longer agree.

    loss : str, torch.nn.Module or None, default="squared_hinge"
        A name of `sklearn_cbir.losses.LOSSES` or any module or function called as
        ``loss(outputs, y)``. Pass an object with your settings: a class is called
        without arguments. None trains nothing: the network is used as it is
        and feature rows pass unchanged but for their length.

    augment : {"auto", "crop"}, callable or None, default="auto"
        How training images are changed at random: "auto" crops and flips left-right,
        "crop" does not flip, for letters and the like. A callable takes and
        returns one uint8 tensor (3, height, width), and keeps nothing from call
        to call; generators that it draws from are seeded for every batch.

    mixup : float, default=0.0
        Above 0, training images and their labels are mixed in pairs, by a share
        drawn from Beta(mixup, mixup). Only for losses that take soft
        targets, such as "softmax" and "cpf".

    batch_size : int, default=32
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
        without them and where `fit` goes on. They are left out, with a warning,
        where nothing is new beside the trunk.

    max_epochs : int, default=10
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
            What `fit` takes: images of any kind and size if it was fitted on
            images, else rows. After a fit on arrays, without image_size,
            images of another size are resized until they just cover that of
            the arrays, and the middle is cut out. A list of images may hold
            `Text` too, or nothing else, where `encode_text` can be asked.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32
            In the order of `X`.

        Raises
        ------
        ValueError
            For texts, as `encode_text`, or if a sum of texts and images has
            length 0.
        """
        elements = rows_with_words(X)
        return self._embed(X) if elements is None else self._embed_mixed(elements)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector per text, in the space of the images' vectors.

        Distances of texts to photos are on another scale than those of photos to
        photos, even if all of them are searched by the same retriever: compare
        them among themselves, and give each a threshold of its own.

        Parameters
        ----------
        texts : sequence of str
            What the photos show, such as "a red dress". What is longer than the
            network reads is cut off, with a warning.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), float32
            In the order of `texts`.

        Raises
        ------
        ValueError
            If the network knows no words, or its words are not in the space of
            what `transform` gives: after training, with a `pooling` of one's own,
            and with several `scales`. For one `str`, an empty list, and texts
            that are empty or none.

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
        """Raise unless the network knows words, in the space of what `transform` gives."""
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
                f"pooling={shortened(pooling)} makes other vectors of images than those that "
                "words were trained with"
            )
            way = f"Use pooling='auto', {OF_WORDS}"
        elif check_scales(self.scales, "scales") != ONE_SCALE:
            reason = (
                f"scales={shortened(self.scales)} makes other vectors of images than those that "
                "words were trained with"
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
