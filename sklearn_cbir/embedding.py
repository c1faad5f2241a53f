"""CPFEmbedder: unit-length embeddings under one threshold for all classes."""

import numpy as np

from sklearn_cbir._base import NetworkTransformer
from sklearn_cbir._devices import derived_seed
from sklearn_cbir._validation import check_integer, check_real, warn_user
from sklearn_cbir.losses import CPFLoss
from sklearn_cbir.metrics import best_f1_radius, threshold_f1_curve

THRESHOLD_ROWS = 2000  # at most so many images choose the threshold


class CPFEmbedder(NetworkTransformer):
    """Embeddings trained with the consistent penalizing field loss.

    Unit-length embeddings for retrieval among classes that were never trained
    on. The CPF loss [1]_ holds all classes to the same cosine threshold, so
    that one number, `threshold_`, tells whether two images show the same
    thing. ``CPFEmbedder(**CPF_CONSTANTS["cub"])``, with the table of
    `sklearn_cbir.losses`, has the values of [1]_ for a data set.

    Parameters
    ----------
    n_components : int, default=128
        Length of the embeddings.

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
        Share of the classes, at least two, that are left out of training and
        choose `threshold_`; 0 chooses it on the training images, where it
        comes out too high for new classes. That is done too with fewer than
        four classes, with a warning, and with multi-label targets.

    backbone : str, torch.nn.Module or None, default=None
        A built-in net (see `sklearn_cbir.backbones.BACKBONES`), any
        classification model of torchvision by name, or a module of your own,
        which is copied and never trained in place. None is a small built-in
        net for images of about 28 to 64 px. 2-D rows train a small MLP
        instead.

    weights : {"imagenet"}, path or None, default=None
        Where the backbone's weights come from: torchvision's own, a file with a
        state dict, or None for random ones. Built-in nets have no ImageNet
        weights. A module of your own keeps the weights that it has. A file counts as
        pretrained, for a name as for a module. A module without a file does
        too, unless this is None or its batch norms are all fresh, with means of
        0 and variances of 1; without batch norms nothing tells.

    pooling : {"auto", "avg", "max", "gem"}, default="auto"
        How a feature map becomes a vector; "auto" is the backbone's own way.

    image_size : int, default=None
        Side in px that images are resized and cropped to; None takes the
        backbone's own size, or for a net of any size the size of the arrays
        and 64 px for files.

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
        drawn from Beta(mixup, mixup). [1]_: 0.35 for Shopee.

    head_epochs : int, default=None
        Epochs with the trunk frozen, before `max_epochs` of all of it; None
        means 5 with pretrained weights, 0 without and where `fit` goes on.

    max_epochs : int, default=30
        Epochs in which everything is trained; 0 trains the head alone, for
        `head_epochs`, and leaves the trunk as it is.

    optimizer : {"adamw", "adam", "sgd"} or torch optimizer class, default="adamw"
        "sgd" has Nesterov momentum 0.9.

    lr : float, default=0.001
        Highest learning rate of the new layers.

    trunk_lr : float, default=None
        The same for the trunk; None means ``lr``, or a tenth of it with
        pretrained weights.

    loss_lr : float, default=None
        The same for parameters of the loss, such as proxies; None means
        ``lr``.

    weight_decay : float, default=0.0004
        Of weight matrices; biases, norms and the loss have none.

    schedule : {"one_cycle", "cosine", "constant"}, default="one_cycle"
        How rates change over the steps of a phase.

    batch_size : int, default=90
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

    n_per_class : int, default=2
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
    threshold_ : float
        Cosine above which two images show the same thing: the one with the
        highest mean F1 over the images of the held-out classes. As a radius
        under ``metric="cosine"`` it is ``1 - threshold_``.

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

    def __init__(
        self,
        n_components=128,
        *,
        tau=0.38,
        psi=0.38,
        sp=3.0,
        sn=8.0,
        mu=1.0,
        b=2.0,
        threshold_fraction=0.1,
        backbone=None,
        weights=None,
        pooling="auto",
        image_size=None,
        mean=None,
        std=None,
        augment="auto",
        mixup=0.0,
        head_epochs=None,
        max_epochs=30,
        optimizer="adamw",
        lr=0.001,
        trunk_lr=None,
        loss_lr=None,
        weight_decay=0.0004,
        schedule="one_cycle",
        batch_size=90,
        sampling="auto",
        n_per_class=2,
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
        self.n_components = n_components
        self.tau = tau
        self.psi = psi
        self.sp = sp
        self.sn = sn
        self.mu = mu
        self.b = b
        self.threshold_fraction = threshold_fraction
        self.backbone = backbone
        self.weights = weights
        self.pooling = pooling
        self.image_size = image_size
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

    def _check_parameters(self):
        super()._check_parameters()
        check_integer(self.n_components, "n_components", minimum=1)
        check_real(self.threshold_fraction, "threshold_fraction", minimum=0.0, maximum=0.9)

    def _training_loss(self):
        return CPFLoss(self.tau, self.psi, self.sp, self.sn, self.mu, self.b)

    def _network_ending(self, loss, n_classes):
        return {"n_components": self.n_components, "unit_length": True}

    def _hold_out_classes(self, y, seed, start=None):
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
                f"more: too few to hold {n_held_out} out. threshold_ is chosen on the training "
                "images and will be too high for new classes. Give it more classes, a smaller "
                "threshold_fraction, or threshold_fraction=0."
            )
            return y
        rng = np.random.default_rng(derived_seed(seed, 3))
        held_out = rng.permutation(pairs)[:n_held_out]
        return _without(y, held_out)

    def _after_training(self, source, y, target, seed):
        """Choose the threshold on the held-out classes, or else on all images."""
        if y.ndim == 2:
            rows = np.flatnonzero((y[:, y.sum(axis=0) > 1] > 0).any(axis=1))
        else:
            has_match = np.bincount(y)[y] > 1
            rows = np.flatnonzero(has_match & (target == -1))
            rows = rows if len(rows) else np.flatnonzero(has_match)
        rows = _whole_classes(rows, y, THRESHOLD_ROWS, seed)
        embeddings = self._infer(self._network, source.subset(rows))
        self.threshold_ = _best_threshold(embeddings, y[rows])


def _without(y, held_out):
    """Return labels with -1 for the classes held out; those that are kept are numbered anew."""
    kept = np.setdiff1d(np.arange(y.max() + 1), held_out)
    return np.where(np.isin(y, held_out), -1, np.searchsorted(kept, y))


def _whole_classes(rows, y, n, seed):
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


def _best_threshold(embeddings, y):
    """Return the cosine with the highest mean F1 of "above it, the same thing"."""
    distances = np.clip(1 - embeddings @ embeddings.T, 0, 2)
    # Similar pairs are the near ones: most candidates lie there.
    radii = np.unique(np.quantile(distances, np.linspace(0, 1, 201) ** 2))
    own = np.eye(len(y), dtype=bool)
    curve = threshold_f1_curve(y, y, distances, radii=radii, exclude=own)
    curve = curve[~np.isnan(curve).any(axis=1)]
    return 1 - best_f1_radius(radii, curve)[0]
