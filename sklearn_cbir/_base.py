"""What the three network estimators share: input, network, training, inference, state."""

import contextlib
import functools
import inspect
import os

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from sklearn_cbir._batches import ArraySource, ImageSource
from sklearn_cbir._checkpoint import Checkpoint
from sklearn_cbir._collapse import warn_of_collapse
from sklearn_cbir._devices import (
    OwnDraws,
    resolve_device,
    seeded,
    shielded,
    use_one_thread_if_forked,
)
from sklearn_cbir._fingerprint import KEY_VERSION, Unknown, fingerprint, library_of
from sklearn_cbir._going_on import Start, training_state
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._module_state import warn_of_pickling
from sklearn_cbir._network import Network, PassRows, portable_state, rebuilt_network
from sklearn_cbir._plan import RATES, count_classes, plan_batches, plan_settings, split_rows
from sklearn_cbir._targets import check_target, check_weights
from sklearn_cbir._training import OPTIMIZERS, SCHEDULES, as_module, infer, train
from sklearn_cbir._validation import (
    as_numpy,
    check_boolean,
    check_choice,
    check_integer,
    check_rate,
    check_real,
    check_verbose,
    progress,
    resolve,
    shortened,
    warn_user,
)
from sklearn_cbir.backbones import build_backbone, build_mlp, row_statistics
from sklearn_cbir.backbones._colors import check_colors
from sklearn_cbir.backbones._trunk import is_trained
from sklearn_cbir.images import (
    ImageReadError,
    check_images,
    is_feature_rows,
    resolve_augmentation,
)
from sklearn_cbir.images._faults import noted
from sklearn_cbir.images._readable import telling_all_faults
from sklearn_cbir.losses._base import fresh_loss, set_up

STATE_FORMAT = 1
REBUILDING = ProcessLock()  # one network is enough for all threads
DEFAULT_BACKBONE = "resnet9"
FILE_SIZE = 64  # px, for files under a net that takes any size
CACHE_BYTES = 2**30  # decoded training images are kept up to here, then decoded every epoch
SAMPLINGS = ["auto", "uniform", "balanced", "class_random", "mined"]
# They change where or how loudly a fit runs, or `transform` alone, not what comes out of a fit.
_NOT_IN_KEY = {"device", "verbose", "num_workers", "checkpoint_dir", "scales", "warm_start"}


class NetworkTransformer(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Base of the estimators that train a network on images or on feature rows.

    A subclass lists its parameters and says how its network ends (`_network_ending`); it may
    override `_training_loss` and `_after_training`.
    """

    _gives = "vector"
    mixup = 0.0  # a parameter of those whose losses take soft targets

    # What a subclass owes ------------------------------------------------------------------

    def _network_ending(self, loss, n_classes):
        """Return keyword arguments of Network for a loss, which is None if nothing is trained."""
        raise AssertionError("a subclass defines this")

    def _training_loss(self):
        """Return a fresh loss, or None to train nothing; the user's object is never trained."""
        return fresh_loss(self.loss)

    def _hold_out_classes(self, y, seed, start=None):
        """Return labels for training; -1 marks images of classes that are not trained on."""
        return y

    def _after_training(self, source, y, target, seed):
        """Set further fitted attributes; `target` are the labels that were trained on."""

    # scikit-learn's interface --------------------------------------------------------------

    @with_callbacks
    def fit(self, X, y=None, *, sample_weight=None):
        """Train on images or feature rows.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            Arrays (n, H, W) or (n, H, W, C) with C in 1, 3, 4, uint8 or float
            in [0, 1]; a sequence of paths, encoded photos, PIL images or
            arrays; or 2-D rows of features, which train a small MLP instead of
            the backbone.

        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels of any one type, or 0/1 columns, dense or sparse. Rows of zeros
            are unlabeled and left out; -1 is a class like any other. A single
            column holds one label per row: 0 and 1 in it are two classes.

        sample_weight : array-like of shape (n_samples,), default=None
            Weight of every row in the loss, at least 0; rows of weight 0 are
            left out as if they were not there. Only for losses that take
            weights, see `sklearn_cbir.losses.takes_sample_weight`. A batch
            costs the weighted mean of its rows, so that a row of weight 2
            counts as two rows do that always come in one batch; which rows
            come into a batch, and how often, does not depend on weights.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            For unreadable images (ImageReadError, whose `faults` are all of
            them, with index, path and reason), bad labels or bad parameters;
            before training starts where that is possible.
        FloatingPointError
            If the loss becomes infinite or NaN; names epoch, batch and rate.
        """
        before = vars(self).copy()
        try:
            with shielded():
                return self._fit(X, y, sample_weight)
        except BaseException:
            # As before fit, but for what scikit-learn needs to tear its callbacks down.
            callbacks = {k: v for k, v in vars(self).items() if "_callback" in k}
            vars(self).clear()
            vars(self).update(before | callbacks)
            raise

    def _fit(self, X, y, sample_weight):
        given = {"X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
        self._check_parameters()
        start = Start.of(self)
        data = self._check_input(X, reset=True)
        loss = self._training_loss()
        weights = check_weights(self, sample_weight, len(data), loss)
        classes = None
        if loss is not None:
            data, y, weights, classes = check_target(self, data, y, weights, loss)
        if start is not None:
            start.check(loss, data, y, classes, vars(self).get("feature_names_in_"))
        checkpoint = None if loss is None else self._checkpoint(data, y, weights, start)
        state = checkpoint.load() if checkpoint else None
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        seed = seed if state is None else state["seed"]
        device = resolve_device(self.device)
        target = None if loss is None else self._hold_out_classes(y, seed, start)
        use_one_thread_if_forked()
        # Training draws from torch's global generators; a network alone need not wait for them.
        draws = contextlib.nullcontext() if loss is None else seeded(seed, device)
        with draws, telling_all_faults(data, self.verbose > 0):
            with OwnDraws(seed):
                network = self._build_network(data, loss, target, seed, start)
            if loss is not None:  # before images are decoded
                rows = split_rows(self, target, loss, seed)
                settings = plan_settings(self, network, loss, goes_on=start is not None)
                settings.make_optimizer(network, as_module(loss), head_only=False)
            source = self._source(data, network.trunk, training=loss is not None)
            if start is not None and isinstance(source, ImageSource):
                start.check_reading(source)
            history = []
            if loss is not None:
                run = {"seed": seed, "device": device, "checkpoint": checkpoint, "state": state}
                plan = {"settings": settings, "rows": rows, "weights": weights}
                history = self._train(network, loss, source, target, plan, given, run)
            history = history if start is None else start.continued(history)
            self._keep(network, source, classes, history)
            if loss is not None:
                self._training_state = training_state(self, network, loss, y, target)
                self._after_training(source, y, target, seed)
                named = {"gives": self._gives, "loss": loss, "lr": self.lr}
                warn_of_collapse(network, source, target, seed, device, **named)
        return self

    def transform(self, X):
        """Return one vector per image or row.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            What `fit` takes: images of any kind and size if it was fitted on
            images, else rows. After a fit on arrays, without image_size,
            images of another size are resized until they just cover that of
            the arrays, and the middle is cut out.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            In the order of `X`.
        """
        return self._embed(X)

    def fit_transform(self, X, y=None, **fit_params):
        """Train, and return one vector per image or row, as `transform` does.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            As for `fit`.

        y : array-like, default=None
            As for `fit`.

        **fit_params : dict
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            In the order of `X`.

        Raises
        ------
        ImageReadError
            If an image can no longer be read after the training, which is kept.
        """
        before = vars(self).get("_network_state")
        try:
            return super().fit_transform(X, y, **fit_params)
        except ImageReadError as error:
            if vars(self).get("_network_state") is before:
                raise
            note = (
                f"This was noticed after the training, which is kept: {type(self).__name__} is "
                "fitted, and its transform can be called again."
            )
            raise noted(error, note) from error

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = getattr(self, "loss", "cpf") is not None
        tags.target_tags.two_d_labels = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self):
        return "_network_state" in vars(self)

    def __getstate__(self):
        state = super().__getstate__().copy()
        network = state.pop("_network", None)
        if network is not None and isinstance(self.backbone, nn.Module):
            # What a module counts in transform is not in what fit has left.
            state["_network_state"] = state["_network_state"] | portable_state(network)
        state["_state_format"] = STATE_FORMAT
        return state

    def __setstate__(self, state):
        found = state.pop("_state_format", STATE_FORMAT)
        if found > STATE_FORMAT:
            raise ValueError(
                f"This {type(self).__name__} was saved in format {found}; this version of "
                f"sklearn_cbir reads up to {STATE_FORMAT}. Install a newer version."
            )
        # What was saved before there was a parameter does what its default does.
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.default is not parameter.empty:
                state.setdefault(name, parameter.default)
        super().__setstate__(state)

    @property
    def _n_features_out(self):
        return self.n_features_out_

    # Input -----------------------------------------------------------------------------------

    def _check_parameters(self):
        self._check_transform_parameters()
        check_boolean(self.warm_start, "warm_start")
        check_integer(self.max_epochs, "max_epochs", minimum=0)
        if self.head_epochs is not None:
            check_integer(self.head_epochs, "head_epochs", minimum=0)
        check_integer(self.batch_size, "batch_size", minimum=2)
        check_integer(self.num_workers, "num_workers", minimum=0)
        check_integer(self.n_iter_no_change, "n_iter_no_change", minimum=1)
        check_real(self.validation_fraction, "validation_fraction", minimum=0.0, maximum=0.9)
        check_real(self.tol, "tol", minimum=0.0)
        check_real(self.weight_decay, "weight_decay", minimum=0.0)
        for name in RATES:
            if getattr(self, name) is not None or name == "lr":
                check_rate(getattr(self, name), name)
        check_choice(self.schedule, "schedule", sorted(SCHEDULES))
        check_choice(self.sampling, "sampling", SAMPLINGS)
        check_integer(self.pool_size, "pool_size", minimum=1)
        check_real(self.mixup, "mixup", minimum=0.0)
        if self.n_per_class is not None:
            check_integer(self.n_per_class, "n_per_class", minimum=2)
        optimizer = resolve(self.optimizer, OPTIMIZERS, "optimizer", own="a torch optimizer class")
        if not callable(optimizer):
            raise ValueError(
                f"optimizer={shortened(optimizer)} is no name and no torch optimizer class."
            )
        for name in ("normalize", "early_stopping", "autocast"):
            if hasattr(self, name):
                check_boolean(getattr(self, name), name)
        self._check_paths()
        if self.image_size is not None:
            check_integer(self.image_size, "image_size", minimum=1)
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                check_colors(getattr(self, name), name)
        resolve_augmentation(self.augment)

    def _check_transform_parameters(self):
        """Check what `transform` reads too: it may have been set after fit."""
        check_integer(self.batch_size, "batch_size", minimum=1)
        check_verbose(self.verbose)
        resolve_device(self.device)

    def _check_paths(self):
        """Raise for paths of another type, and for a folder that is none."""
        if not isinstance(self.weights, (str, os.PathLike, type(None))):
            raise ValueError(
                f"weights={shortened(self.weights)} must be 'imagenet', a path to a state dict, "
                "or None."
            )
        folder = self.checkpoint_dir
        if not isinstance(folder, (str, os.PathLike, type(None))):
            raise ValueError(
                f"checkpoint_dir={shortened(folder)} must be the path of a folder, or None."
            )
        if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
            raise ValueError(f"checkpoint_dir={str(folder)!r} is a file. Pass a folder, or None.")

    def _check_input(self, X, *, reset):
        """Return feature rows as an array, or checked images; the kind is fixed by fit."""
        is_rows = is_feature_rows(X)
        if not reset and is_rows != hasattr(self, "n_features_in_"):
            kinds = "images", "2-D feature rows"
            raise ValueError(
                f"{type(self).__name__} was fitted on {kinds[not is_rows]}, but X holds "
                f"{kinds[is_rows]}. Pass the same kind of data."
            )
        if is_rows:
            return validate_data(self, as_numpy(X), dtype=[np.float64, np.float32], reset=reset)
        images = check_images(X)
        if reset:
            self.__dict__.pop("n_features_in_", None)
            self.__dict__.pop("feature_names_in_", None)
            self.__dict__.pop("image_shape_", None)
        images.check_readable(progress=self.verbose > 0)
        return images

    # Network ---------------------------------------------------------------------------------

    def _build_network(self, data, loss, y, seed, start=None):
        ending = self._network_ending(loss, None if loss is None else count_classes(y))
        if isinstance(data, np.ndarray):
            n_features = data.shape[1]
            trunk = PassRows(n_features)
            if loss is not None:
                statistics = row_statistics(data) if start is None else start.row_statistics()
                trunk = build_mlp(n_features, **statistics)
        else:
            trunk = build_backbone(**self._backbone_parameters(data, start))
            warn_of_pickling(trunk, type(self).__name__)
        network = Network(trunk, **ending)
        goes_on = start is not None and start.trunk is not None
        if not isinstance(data, np.ndarray) and not goes_on and self._is_pretrained(trunk):
            # Statistics estimated again from few photos are worse than those of the weights.
            trunk.keep_statistics()
        if loss is not None:
            generator = torch.Generator().manual_seed(seed)
            n_outputs = network.classifier.out_features if network.classifier else network.width
            trained_on = torch.from_numpy(y if y.ndim == 2 else y[y >= 0])
            set_up(loss, n_outputs=n_outputs, y=trained_on, generator=generator)
        if start is not None:
            start.carry_over(network, loss)
        return network

    def _backbone_parameters(self, images, start):
        """Return keyword arguments of build_backbone, which copies a module."""
        names = ("weights", "pooling", "image_size", "mean", "std")
        backbone = DEFAULT_BACKBONE if self.backbone is None else self.backbone
        shape = (FILE_SIZE, FILE_SIZE) if images.image_shape is None else images.image_shape[:2]
        own = {"backbone": backbone, "input_shape": shape}
        own |= {name: getattr(self, name) for name in names}
        return own if start is None else own | start.backbone_parameters(self.image_size)

    def _is_pretrained(self, trunk):
        """Whether the trunk has trained weights: of a file, of a name, or a module's own."""
        if self.weights != "imagenet" or not isinstance(self.backbone, nn.Module):
            return self.weights is not None
        return is_trained(trunk)

    def _source(self, data, trunk, training):
        """Return the batches' source, decoded once if it fits the cache."""
        if isinstance(data, np.ndarray):
            return ArraySource(data)
        size, resize = self._read_size(data, trunk)
        self.image_shape_ = data.image_shape
        if training:
            data = data.cached(
                size, resize=resize, max_bytes=CACHE_BYTES, progress=self.verbose > 0
            )
        augment = resolve_augmentation(self.augment, size) if training else None
        return ImageSource(data, size, resize, augment)

    def _read_size(self, images, trunk):
        """Return the input size in px, None for the arrays' own, and the size resized to."""
        if trunk.image_size is not None:
            return trunk.image_size, trunk.resize_size
        return (None, None) if images.image_shape is not None else (FILE_SIZE, FILE_SIZE)

    # Training --------------------------------------------------------------------------------

    def _train(self, network, loss, source, y, plan, given, run):
        """Train the network in place and return the history; `given` is what `fit` was."""
        settings, (kept, held_out) = plan["settings"], plan["rows"]
        draw = functools.partial(plan_batches, self, source, y, weights=plan["weights"])
        batches = draw(kept, loss, run["seed"], training=True)
        valid = None
        if len(held_out):
            valid = draw(held_out, loss, run["seed"], training=False)
        n_epochs = settings.head_epochs + settings.max_epochs
        with (
            self._fit_task(n_epochs, given, network, source) as end_epoch,
            _epoch_bar(n_epochs, type(self).__name__, self.verbose > 0) as advance,
        ):

            def on_epoch(record):
                advance(record)
                return end_epoch()

            return train(network, loss, batches, valid, settings, on_epoch=on_epoch, **run)

    @contextlib.contextmanager
    def _fit_task(self, n_epochs, given, network, source):
        """Give a function that tells scikit-learn's callbacks of an epoch; True is stop."""
        data = {"estimator": self} | given
        context = self._init_callback_context(max_subtasks=n_epochs)
        context.call_on_fit_task_begin(**data)

        def end_epoch():
            task = context.subcontext(task_name="epoch")
            task.call_on_fit_task_begin(**data)
            snapshot = functools.partial(self._snapshot, network, source)
            return task.call_on_fit_task_end(**data, reconstruction_attributes=snapshot)

        yield end_epoch
        context.call_on_fit_task_end(**data)

    def _checkpoint(self, data, y, weights, start):
        """Return the file that belongs to these parameters and data, or None."""
        if self.checkpoint_dir is None:
            return None
        params = {k: v for k, v in self.get_params(deep=False).items() if k not in _NOT_IN_KEY}
        if start is not None and start.trunk is not None:
            del params["weights"]  # not read again
        try:
            # Each by itself: what two parameters share does not outlive `clone`.
            parts = [fingerprint(type(self), type(self).__name__), library_of("torch")]
            parts += [fingerprint(v, k, files=k == "weights") for k, v in sorted(params.items())]
        except Unknown as error:
            warn_user(
                f"checkpoint_dir={str(self.checkpoint_dir)!r}: {error}. So it cannot be known "
                "whether a checkpoint belongs to this fit, which trains from the start and keeps "
                "none."
            )
            return None
        pixels = data if isinstance(data, np.ndarray) else data.fingerprint()
        earlier = None if start is None else start.key()
        key = fingerprint([KEY_VERSION, parts, pixels, y, weights, earlier])
        return Checkpoint(self.checkpoint_dir, type(self).__name__, key)

    # State -----------------------------------------------------------------------------------

    def _snapshot(self, network, source):
        """Return the fitted attributes that make a copy of this estimator transform."""
        reading = None
        if isinstance(source, ImageSource):
            reading = {"size": source.size, "resize": source.resize}
        return {
            "_network_state": portable_state(network) | {"reading": reading},
            "_network": None,
            "n_features_out_": network.width,
            "history_": [],
        }

    def _keep(self, network, source, classes, history):
        """Set the fitted attributes; nothing of torch is among them."""
        for name, value in self._snapshot(network, source).items():
            setattr(self, name, value)
        self._network = network.eval()
        self.history_ = history
        self.n_iter_ = len(history)
        self.__dict__.pop("classes_", None)
        self.__dict__.pop("_training_state", None)
        if classes is not None:
            self.classes_ = classes

    def _fitted_network(self):
        """Return the trained network, built again if this came out of a file."""
        use_one_thread_if_forked()
        if self.__dict__.get("_network") is None:
            with REBUILDING:
                if self.__dict__.get("_network") is None:
                    self._network = rebuilt_network(self._network_state)
        return self._network

    def _embed(self, X):
        """Return the network's vectors, float32 (n, width)."""
        with shielded():
            return self._embed_shielded(X)

    def _embed_shielded(self, X):
        check_is_fitted(self)
        self._check_transform_parameters()
        data = self._check_input(X, reset=False)
        network = self._fitted_network()
        if isinstance(data, np.ndarray):
            source = ArraySource(data)
        else:
            source = ImageSource(data, *self._reading(data))
        with telling_all_faults(data, self.verbose > 0):
            return self._infer(network, source)

    def _infer(self, network, source):
        ticks = functools.partial(
            progress,
            total=-(-len(source) // self.batch_size),
            description=f"{type(self).__name__}: transform",
            enabled=self.verbose > 0,
        )
        return infer(network, source, self.batch_size, resolve_device(self.device), ticks)

    def _reading(self, images):
        """Return the size that images are read in, and the size resized to, before the cut."""
        size, resize = (self._network_state["reading"][name] for name in ("size", "resize"))
        if size is None and (images.image_shape or ())[:2] != self.image_shape_[:2]:
            size = self.image_shape_[:2]  # fitted on arrays of their own size
        return size, resize


@contextlib.contextmanager
def _epoch_bar(n_epochs, name, enabled):
    """Give a function that shows the record of an epoch on a rich progress bar."""
    if not enabled:
        yield lambda record: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{name}: fit", total=n_epochs)

        def advance(record):
            losses = [f"{key} {record[key]:.4f}" for key in ("loss", "valid_loss") if key in record]
            text = f"{name}: fit, {', '.join(losses)}"
            bar.update(task, completed=record["epoch"], description=text)

        yield advance
