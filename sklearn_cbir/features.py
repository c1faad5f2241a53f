"""CNNFeatureExtractor: images to feature vectors, trained with a loss of choice."""

import torch

from sklearn_cbir._base import NetworkTransformer
from sklearn_cbir._batches import ArraySource
from sklearn_cbir._devices import resolve_device
from sklearn_cbir._network import MultiScale
from sklearn_cbir._validation import check_integer, check_real, shortened, warn_user
from sklearn_cbir.losses import output_of, takes_soft_targets


class CNNFeatureExtractor(NetworkTransformer):
    """Features of a convolutional network, fine-tuned with a loss of choice.

    The network is trained to classify, with the squared hinge loss of [1]_ or
    another one; then its classifier is set aside and what entered it is the
    feature. Transfer learning comes first: the head alone is trained on top of
    a pretrained trunk whose batch norms stay as they are, then all of it.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="resnet18"
        A built-in net (see `sklearn_cbir.backbones.BACKBONES`), any
        classification model of torchvision by name, or a module of your own,
        which is copied and never trained in place. 2-D rows train a small MLP
        instead.

    weights : {"imagenet"}, path or None, default="imagenet"
        Where the backbone's weights come from: torchvision's own, a file with a
        state dict, or None for random ones. Built-in nets have no ImageNet
        weights. A module of your own keeps the weights that it has. A file counts as
        pretrained, for a name as for a module. A module without a file does
        too, unless this is None or its batch norms are all fresh, with means of
        0 and variances of 1; without batch norms nothing tells.

    pooling : {"auto", "avg", "max", "gem"}, default="auto"
        How a feature map becomes a vector; "auto" is the backbone's own way.

    loss : str, torch.nn.Module or None, default="squared_hinge"
        A name of `sklearn_cbir.losses.LOSSES` or any module called as
        ``loss(outputs, y)``. None trains nothing: the network is used as it is
        and feature rows pass unchanged but for their length.

    n_components : int, default=None
        Length of the vectors, made by one linear layer more; None keeps the
        width of the backbone.

    normalize : bool, default=True
        Scale the vectors to unit length.

    image_size : int, default=None
        Side in px that images are resized and cropped to; None takes the
        backbone's own size, or for a net of any size the size of the arrays
        and 64 px for files.

    scales : sequence of float, default=(1.0,)
        `transform` resizes every image by each of these and averages the
        vectors, as in [2]_ with ``(1, 2**-0.5, 0.5)``; training is not changed.
        Only for images, and for backbones that take them in these sizes.

    mean, std : sequence of 3 floats, default=None
        Normalization of pixels in [0, 1] for a module of your own; None takes
        the backbone's.

    augment : {"auto", "crop"}, callable or None, default="auto"
        Random changes of training images; "auto" crops and flips left-right,
        "crop" does not flip, for letters and the like. A callable takes and
        returns one uint8 tensor (3, height, width), and keeps nothing from call
        to call; generators that it draws from are seeded for every batch.

    mixup : float, default=0.0
        Above 0, training images and their labels are mixed in pairs, by a share
        drawn from Beta(mixup, mixup). Only for losses that take soft
        targets, such as "softmax" and "cpf".

    head_epochs : int, default=None
        Epochs with the trunk frozen, before `max_epochs` of all of it; None
        means 5 with pretrained weights, 0 without and where `fit` goes on. Left
        out, with a warning, where nothing is new beside the trunk.

    max_epochs : int, default=10
        Epochs in which everything is trained; 0 trains the head alone, for
        `head_epochs`, and leaves the trunk as it is.

    optimizer : {"adamw", "adam", "sgd"} or torch optimizer class, default="adamw"
        "sgd" has Nesterov momentum 0.9.

    lr : float, default=0.003
        Highest learning rate of the new layers.

    trunk_lr : float, default=None
        The same for the trunk; None means ``lr``, or a tenth of it with
        pretrained weights.

    loss_lr : float, default=None
        The same for parameters of the loss, such as proxies; None means
        ``lr``.

    weight_decay : float, default=0.01
        Of weight matrices; biases, norms and the loss have none.

    schedule : {"one_cycle", "cosine", "constant"}, default="one_cycle"
        How rates change over the steps of a phase.

    batch_size : int, default=32
        Images per step, and per batch of `transform`.

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
        Images of a class in a balanced or class-random batch; None means an
        equal share of the batch for every class, but at least 4.

    pool_size : int, default=20000
        At most so many training images, drawn anew for every epoch, are
        searched by ``sampling="mined"``.

    early_stopping : bool, default=False
        Hold out images, stop when their loss no longer falls and keep the
        best weights.

    validation_fraction : float, default=0.1
        Share of every class that early stopping holds out, rounded; a class
        keeps at least 2 images in training (1 under a classification loss).
        Of 0/1 columns, a share of the rows, and no row with a label that would
        keep fewer.

    n_iter_no_change : int, default=5
        Epochs without improvement before early stopping.

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
        Loader processes, which change no bit of the network; they are
        started once per fit. 0 is used inside processes of joblib and the like.

    autocast : bool, default=False
        Train in bfloat16 where that is safe: faster on processors and GPUs
        that have it, slightly less exact. `transform` stays in float32.

    device : str, default="auto"
        Torch device; "auto" prefers a GPU and is resolved whenever it is
        used.

    random_state : int, RandomState instance or None, default=None
        Seed of everything random, augmentations and losses of your own
        included; equal seeds give equal bits at the same number of torch
        threads. Global generators are seeded meanwhile, and put back.

    verbose : int, default=0
        Above 0, progress bars on standard error.

    Attributes
    ----------
    history_ : list of dict
        One per epoch: "epoch", "phase" ("head" or "all"), "loss", "lr",
        "seconds", and "valid_loss" under early stopping.

    n_iter_ : int
        Epochs trained, under ``warm_start=True`` by all fits.

    classes_ : ndarray of shape (n_classes,)
        The labels seen by `fit`.

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

    def __init__(
        self,
        backbone="resnet18",
        *,
        weights="imagenet",
        pooling="auto",
        loss="squared_hinge",
        n_components=None,
        normalize=True,
        image_size=None,
        scales=(1.0,),
        mean=None,
        std=None,
        augment="auto",
        mixup=0.0,
        head_epochs=None,
        max_epochs=10,
        optimizer="adamw",
        lr=0.003,
        trunk_lr=None,
        loss_lr=None,
        weight_decay=0.01,
        schedule="one_cycle",
        batch_size=32,
        sampling="auto",
        n_per_class=None,
        pool_size=20000,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        tol=1e-4,
        warm_start=False,
        checkpoint_dir=None,
        num_workers=0,
        autocast=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.pooling = pooling
        self.loss = loss
        self.n_components = n_components
        self.normalize = normalize
        self.image_size = image_size
        self.scales = scales
        self.mean = mean
        self.std = std
        self.augment = augment
        self.mixup = mixup
        self.head_epochs = head_epochs
        self.max_epochs = max_epochs
        self.optimizer = optimizer
        self.lr = lr
        self.trunk_lr = trunk_lr
        self.loss_lr = loss_lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.batch_size = batch_size
        self.sampling = sampling
        self.n_per_class = n_per_class
        self.pool_size = pool_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.num_workers = num_workers
        self.autocast = autocast
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _network_ending(self, loss, n_classes):
        output = "features" if loss is None else output_of(loss)
        if output == "bits":
            raise ValueError(
                f"loss={shortened(self.loss)} learns binary codes. Use "
                f"DeepHasher(loss={shortened(self.loss)})."
            )
        classifier = n_classes if output == "classes" else None
        return {
            "n_components": self.n_components,
            "n_classes": classifier,
            "unit_length": self.normalize,
        }

    def _check_parameters(self):
        super()._check_parameters()
        if self.n_components is None:
            return
        check_integer(self.n_components, "n_components", minimum=1)
        if self.loss is None:
            raise ValueError(
                f"n_components={self.n_components} with loss=None: the layer that makes them "
                "would stay random. Choose a loss, or put PCA after the extractor."
            )

    def _training_loss(self):
        loss = super()._training_loss()
        if self.mixup and loss is not None and not takes_soft_targets(loss):
            raise ValueError(
                f"mixup={shortened(self.mixup)} makes shares of labels, which "
                f"{type(loss).__name__} does "
                "not take. Use mixup=0.0, or a loss with soft_targets = True, such as "
                "loss='softmax' or loss='cpf'."
            )
        return loss

    def _build_network(self, data, loss, y, seed, start=None):
        network = super()._build_network(data, loss, y, seed, start)
        if self._checked_scales() != (1.0,):
            self._check_sizes(network, self._source(data, network.trunk, training=False))
        is_random = loss is None and self.weights is None and isinstance(self.backbone, str)
        if is_random and not hasattr(self, "n_features_in_"):
            warn_user(
                "loss=None and weights=None: the network is random, and so are its features. "
                "Give it weights or a loss."
            )
        return network

    def _check_transform_parameters(self):
        super()._check_transform_parameters()
        self._checked_scales()

    def _infer(self, network, source):
        scales = self._checked_scales()
        if scales != (1.0,):
            self._check_sizes(network, source)
            network = MultiScale(network, scales)
        return super()._infer(network, source)

    def _checked_scales(self):
        """Return the scales as floats."""
        try:
            is_text = isinstance(self.scales, (str, bytes, bytearray))
            given = () if is_text else self.scales
            scales = tuple(check_real(scale, "scales", minimum=1e-3) for scale in given)
        except (TypeError, ValueError):
            scales = ()
        if not scales:
            raise ValueError(
                f"scales={shortened(self.scales)} must be a sequence of numbers above 0, such as "
                "(1.0, 0.7, 0.5)."
            )
        return scales

    def _check_sizes(self, network, source):
        """Raise unless the network takes images at every scale."""
        if isinstance(source, ArraySource):
            raise ValueError(
                f"scales={shortened(self.scales)} resizes images, and X holds 2-D feature rows. "
                "Use "
                "scales=(1.0,)."
            )
        size = source.size or source.images.image_shape[:2]
        height, width = size if isinstance(size, tuple) else (size, size)
        device = resolve_device(self.device)
        black = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=device)
        for scale in self._checked_scales():
            try:
                with network.placement.keep(network, device), torch.inference_mode():
                    MultiScale(network, (scale,)).embed(black)
            except (RuntimeError, AssertionError) as error:
                raise ValueError(
                    f"The backbone does not take images of {height} x {width} pixels at scale "
                    f"{scale} ({error}). Use scales=(1.0,), a larger image_size, or "
                    "another backbone."
                ) from error
