"""The common part of the three network estimators: input, network, training, inference, state."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from sklearn_cbir._batches import ArraySource, ImageSource
from sklearn_cbir._checkpoint import Checkpoint
from sklearn_cbir._devices import (
    OwnDraws,
    Seeds,
    resolve_device,
    seed_of,
    seeded,
    shielded,
    use_one_thread_if_forked,
)
from sklearn_cbir._fingerprint import KEY_VERSION, Unknown, fingerprint, library_of
from sklearn_cbir._going_on import Start
from sklearn_cbir._labels import encode_labels
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._module_state import warn_of_pickling
from sklearn_cbir._network import (
    AnyTrunk,
    Embedder,
    Network,
    PassRows,
    as_given,
    infer,
    portable_state,
    rebuilt_network,
    stored_once,
    training_state,
    warn_of_collapse,
)
from sklearn_cbir._plan import (
    OPTIMIZERS,
    SCHEDULES,
    TrainingParameters,
    check_loss,
    check_optimizer,
    check_target,
    plan_training,
)
from sklearn_cbir._runtimes import ByRuntime, check_runtime
from sklearn_cbir._typing import Sampling
from sklearn_cbir._validation import (
    Rule,
    as_numpy,
    check_boolean,
    check_choice,
    check_folder,
    check_integer,
    check_named,
    check_parameters,
    check_path,
    check_rate,
    check_real,
    check_verbose,
    optional,
    shortened,
    state_of_version,
    warn_user,
    with_progress,
)
from sklearn_cbir.backbones import build_backbone, build_mlp, row_statistics
from sklearn_cbir.backbones._colors import check_colors
from sklearn_cbir.backbones._trunk import Trunk, check_resize_size, is_trained, origin_of
from sklearn_cbir.backbones._weights import PUBLISHED
from sklearn_cbir.images import (
    ImageReadError,
    Images,
    Resizing,
    check_images,
    is_feature_rows,
    resolve_augmentation,
)
from sklearn_cbir.images._augmentation import NAMES as AUGMENTATIONS
from sklearn_cbir.images._faults import noted
from sklearn_cbir.images._readable import tell_all_faults
from sklearn_cbir.losses._base import Demands, demands_of, fresh_loss, set_up

if TYPE_CHECKING:
    from sklearn_cbir._typing import (
        ImagesLike,
        LabelsLike,
        LossFunction,
        Pooling,
        RandomState,
        ResizeSize,
    )
    from sklearn_cbir.images._augmentation import Augment
    from sklearn_cbir.images._batches import ImageShape

STATE_FORMAT = 2
REBUILDING = ProcessLock()  # one network is enough for all threads
DEFAULT_BACKBONE = "resnet9"
FILE_SIZE = 64  # px, for files under a net that takes any size
CACHE_BYTES = 2**30  # decoded training images are kept up to here, then decoded every epoch
SAMPLINGS = ["auto", *get_args(Sampling)]
# They change where or how loudly a fit runs, or `transform` alone, not what comes out of a fit.
_NOT_IN_FIT = {
    *("device", "verbose", "num_workers", "checkpoint_dir", "scales", "warm_start"),
    "words",  # which a training never keeps
    "runtime",  # torch alone trains
}

_at_least_0, _at_least_1 = (partial(check_integer, minimum=least) for least in (0, 1))
_at_least_2, _not_negative = partial(check_integer, minimum=2), partial(check_real, minimum=0.0)


class NetworkTransformer(
    TrainingParameters,
    ByRuntime,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Base of the estimators that train a network on images or on feature rows.

    A subclass lists its parameters and defines the end of its network (`_network_ending`); it may
    override `_training_loss` and `_after_training`. If it lacks a parameter that is read here, it
    sets a class attribute with its value.
    """

    # Parameters that are read here, beside those of every training.
    backbone: str | nn.Module | None
    weights: str | os.PathLike[str] | None
    pooling: Pooling | nn.Module
    image_size: int | None
    resize_size: ResizeSize
    mean: Sequence[float] | None
    std: Sequence[float] | None
    augment: Augment
    words: bool = False  # read only where nothing is trained
    warm_start: bool
    checkpoint_dir: str | os.PathLike[str] | None
    device: str | torch.device
    random_state: RandomState
    verbose: int | bool

    # Fitted attributes.
    history_: list[dict[str, Any]]
    n_iter_: int
    classes_: NDArray[Any]
    n_features_out_: int
    n_features_in_: int
    image_shape_: ImageShape | None
    _network_state: dict[str, Any]
    _network: Network | None
    _training_state: dict[str, Any]

    _gives: ClassVar[Literal["vector", "code"]] = "vector"
    # What `transform` reads too: it may have been set after fit.
    _transform_rules: ClassVar[Mapping[str, Rule]] = {
        "batch_size": _at_least_1,
        "runtime": check_runtime,
        "verbose": check_verbose,
    }
    _rules: ClassVar[Mapping[str, Rule]] = {
        "batch_size": _at_least_2,
        "runtime": check_runtime,
        "verbose": check_verbose,
        "warm_start": check_boolean,
        "max_epochs": _at_least_0,
        "head_epochs": optional(_at_least_0),
        "num_workers": _at_least_0,
        "early_stopping": check_boolean,
        "n_iter_no_change": _at_least_1,
        "validation_fraction": partial(check_real, minimum=0.0, maximum=0.9),
        "tol": _not_negative,
        "weight_decay": _not_negative,
        "lr": check_rate,
        "trunk_lr": optional(check_rate),
        "loss_lr": optional(check_rate),
        "schedule": partial(check_choice, options=sorted(SCHEDULES)),
        "sampling": partial(check_choice, options=SAMPLINGS),
        "pool_size": _at_least_1,
        "mixup": _not_negative,
        "n_per_class": optional(_at_least_2),
        "autocast": check_boolean,
        "image_size": optional(_at_least_1),
        "resize_size": optional(check_resize_size),
        "mean": optional(check_colors),
        "std": optional(check_colors),
        "weights": partial(check_path, what="'pretrained', a path to a state dict"),
        "checkpoint_dir": check_folder,
        "optimizer": partial(check_named, names=OPTIMIZERS, otherwise=check_optimizer),
        "augment": partial(check_named, names=AUGMENTATIONS, otherwise=resolve_augmentation),
    }

    # What a subclass owes ------------------------------------------------------------------

    @abstractmethod
    def _network_ending(self, loss: LossFunction | None, demands: Demands | None) -> dict[str, Any]:
        """Return keyword arguments of Network for a loss, which is None if nothing is trained."""

    def _training_loss(self) -> LossFunction | None:
        """Return a fresh loss, or None to train nothing; the user's object is never trained."""
        return fresh_loss(self.loss)

    def _hold_out_classes(
        self, y: NDArray[Any], seed: int, start: Start | None = None
    ) -> NDArray[Any]:
        """Return labels for training; -1 marks images of classes that are not trained on."""
        return y

    def _check_network(self, network: Network, data: NDArray[Any] | Images) -> None:
        """Raise unless the new network can do what the parameters of `transform` require."""

    def _after_training(
        self,
        network: Network,
        source: ArraySource | ImageSource,
        y: NDArray[Any],
        target: NDArray[Any],
        seed: int,
    ) -> None:
        """Set further fitted attributes; `target` are the labels that were trained on."""

    # scikit-learn's interface --------------------------------------------------------------

    @with_callbacks
    def fit(
        self,
        X: ImagesLike,
        y: LabelsLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train on images or feature rows.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            Arrays (n, H, W) or (n, H, W, C) with C in 1, 3, 4, uint8 or float
            in [0, 1]; a sequence of paths, encoded photos, PIL images or
            arrays; or 2-D rows of features, which train a small MLP instead of
            the backbone.

        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels of one type, or 0/1 columns, dense or sparse. Rows of zeros
            are unlabeled and left out; -1 is a class like any other. A single
            column holds one label per row: 0 and 1 in it are two classes.

        sample_weight : array-like of shape (n_samples,), default=None
            Weight of every row in the loss, at least 0; rows of weight 0 are
            left out. Only for losses that take weights, see
            `sklearn_cbir.losses.takes_sample_weight`. The loss of a batch is
            the weighted mean over its rows, so a row of weight 2 counts like
            two equal rows in the same batch. How batches are drawn does not
            depend on weights.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            For unreadable images (ImageReadError, whose `faults` list all of
            them with index, path and reason), bad labels or bad parameters;
            if possible, before training starts.
        FloatingPointError
            If the loss or the weights become infinite or NaN; the message names
            epoch, batch and learning rate.
        """
        before = vars(self).copy()
        try:
            return self._fit(X, y, sample_weight)
        except BaseException:
            # As before fit, but for what scikit-learn needs to tear its callbacks down.
            callbacks = {k: v for k, v in vars(self).items() if "_callback" in k}
            vars(self).clear()
            vars(self).update(before | callbacks)
            raise

    def transform(self, X: ImagesLike) -> NDArray[np.number]:
        """Return one vector per image or row.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            As for `fit`: images of any kind and size if it was fitted on
            images, else rows. After a fit on arrays without `image_size`,
            images of another size are resized until they just cover the size
            of the arrays, and cropped to their middle.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            In the order of `X`.
        """
        return self._embed(X)

    def fit_transform(
        self, X: ImagesLike, y: LabelsLike | None = None, **fit_params: object
    ) -> NDArray[np.number]:
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
            If an image can no longer be read after the training. The estimator
            stays fitted.
        """
        before = vars(self).get("_network_state")
        try:
            return super().fit_transform(X, y, **fit_params)
        except ImageReadError as error:
            if vars(self).get("_network_state") is before:
                raise
            note = (
                f"This happened after the training, which is kept: {type(self).__name__} is "
                "fitted, and you can call its transform again."
            )
            raise noted(error, note) from error

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = self.loss is not None
        tags.target_tags.two_d_labels = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return "_network_state" in vars(self)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__().copy()
        network = state.pop("_network", None)
        if network is not None and isinstance(self.backbone, nn.Module):
            # What a module counts in transform is not in what fit has left.
            state["_network_state"] = state["_network_state"] | portable_state(network)
        state["_state_format"] = STATE_FORMAT
        return stored_once(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(as_given(state_of_version(type(self), state, STATE_FORMAT)))
        vars(self).pop("runtime_", None)  # of earlier versions; found where it is asked for

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    # Fit -----------------------------------------------------------------------------------

    def _fit(self, X: ImagesLike, y: LabelsLike | None, sample_weight: ArrayLike | None) -> Self:
        with shielded():
            device = resolve_device(self.device)
            check_parameters(self, self._rules)
            loss = self._training_loss()
            demands = demands_of(loss)
            ending = self._network_ending(loss, demands)
            if sample_weight is not None or self.mixup:
                check_loss(self, loss, sample_weight)
            start = self._start() if self.warm_start else None
            data = self._check_input(X, reset=True)
            given = {"X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
            try:
                if loss is None or demands is None:
                    self._fit_untrained(data, ending, start)
                else:
                    self._fit_trained(data, len(data), loss, demands, ending, start, device, given)
            except ImageReadError as error:
                tell_all_faults(error, data, self.verbose > 0)
                raise
        return self

    def _start(self) -> Start | None:
        """Return the earlier fit that `warm_start` goes on from, None if nothing was trained."""
        was_trained = "_network_state" in vars(self) and "classes_" in vars(self)
        return Start(self) if was_trained else None

    def _fit_untrained(
        self, data: NDArray[Any] | Images, ending: dict[str, Any], start: Start | None
    ) -> None:
        """Take the network as it is built."""
        if start is not None:
            raise ValueError(
                "warm_start=True continues training, but loss=None trains nothing. Use a loss, "
                "or warm_start=False."
            )
        use_one_thread_if_forked()
        with OwnDraws(seed_of(self.random_state)):
            is_rows = isinstance(data, np.ndarray)
            trunk = PassRows(data.shape[1]) if is_rows else self._build_trunk(None, self.words)
            network = Network(trunk, **ending)
        self._check_network(network, data)
        self._keep(network, self._source(data, network.trunk, training=False), [])
        for name in ("classes_", "_training_state"):
            vars(self).pop(name, None)

    def _fit_trained(
        self,
        data: NDArray[Any] | Images,
        n: int,
        loss: LossFunction,
        demands: Demands,
        ending: dict[str, Any],
        start: Start | None,
        device: torch.device,
        given: dict[str, Any],
    ) -> None:
        """Build the network, train it on `n` rows, and keep it; `given` are arguments of `fit`."""
        from sklearn_cbir._training import OnEpoch, as_module, make_optimizer, train

        y, classes = encode_labels(self._given_labels(given["y"]), n=n)
        data, y, weights, classes = check_target(
            self, loss, demands, data, y, classes, given["metadata"]["sample_weight"]
        )
        if start is not None:
            start.check(data, y, classes, vars(self).get("feature_names_in_"))
        checkpoint = state = None
        if self.checkpoint_dir is not None:
            checkpoint = self._checkpoint(data, y, weights, start)
            state = checkpoint.load() if checkpoint else None
        seed = seed_of(self.random_state)
        seeds = Seeds.of(seed if state is None else state["seed"])
        own_draws = OwnDraws(seeds.fit)
        with seeded(seeds.fit, device):  # torch's global generators: the training draws from them
            target = self._hold_out_classes(y, seeds.fit, start)
            ending["n_classes"] = len(classes) if demands.output == "classes" else None
            with own_draws:
                network = self._build_network(data, ending, loss, target, seeds.fit, start)
            self._check_network(network, data)
            plan = plan_training(
                self,
                network,
                loss,
                demands,
                target,
                weights=weights,
                goes_on=start is not None,
                seeds=seeds,
                device=device,
                checkpoint=checkpoint,
                state=state,
            )
            if not isinstance(self.optimizer, str):  # tried before images are decoded
                make_optimizer(plan, network, as_module(loss), head_only=False)
            source = self._source(data, network.trunk, training=True)
            if start is not None and isinstance(source, ImageSource):
                start.check_reading(source)
            on_epoch = OnEpoch(self, plan, given, partial(self._snapshot, network, source))
            history = train(network, loss, source, target, plan, on_epoch)
            self._after_training(network, source, y, target, seeds.fit)
            self._keep(network, source, history if start is None else start.continued(history))
            self.classes_ = classes
            self._training_state = training_state(network, loss, y, target, vars(self))
            warn_of_collapse(
                network,
                source,
                target,
                seed=seeds.look,
                batch_size=2 * self.batch_size,  # without gradients there is room for two
                device=device,
                gives=self._gives,
                loss=loss,
                lr=self.lr,
            )

    def _check_input(self, X: ImagesLike, *, reset: bool) -> NDArray[Any] | Images:
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
            for name in ("n_features_in_", "feature_names_in_", "image_shape_"):
                vars(self).pop(name, None)
            self.image_shape_ = images.image_shape
        images.check_readable(progress=self.verbose > 0)
        return images

    # Network ---------------------------------------------------------------------------------

    def _build_network(
        self,
        data: NDArray[Any] | Images,
        ending: dict[str, Any],
        loss: LossFunction,
        y: NDArray[Any],
        seed: int,
        start: Start | None,
    ) -> Network:
        """Return the network that is trained, and tell the loss how it ends, and all labels."""
        if isinstance(data, np.ndarray):
            statistics = row_statistics(data) if start is None else start.row_statistics()
            trunk = build_mlp(data.shape[1], **statistics)
            # Rows have no feature map, and their features are short.
            ending = ending | {"enhance": None, "hash_std": None}
        else:
            trunk = self._build_trunk(start)
        network = Network(trunk, **ending)
        set_up(
            loss,
            n_outputs=network.width if network.classifier is None else ending["n_classes"],
            y=torch.from_numpy(y if y.ndim == 2 else y[y >= 0]),
            generator=torch.Generator().manual_seed(seed),
        )
        if start is not None:
            start.carry_over(network, loss)
        return network

    def _build_trunk(self, start: Start | None, words: bool = False) -> Trunk:
        """Return a new trunk for images; `build_backbone` copies a module."""
        shape = (FILE_SIZE, FILE_SIZE) if self.image_shape_ is None else self.image_shape_[:2]
        parameters: dict[str, Any] = {
            "backbone": DEFAULT_BACKBONE if self.backbone is None else self.backbone,
            "weights": self.weights,
            "pooling": self.pooling,
            "image_size": self.image_size,
            "resize_size": self.resize_size,
            "input_shape": shape,
            "mean": self.mean,
            "std": self.std,
            "words": words,
        }
        if start is not None:
            parameters |= start.backbone_parameters(self.image_size)
        trunk = cast(Trunk, build_backbone(**parameters))
        if isinstance(self.backbone, nn.Module) or isinstance(self.pooling, nn.Module):
            warn_of_pickling(trunk, type(self).__name__)
        if start is None or start.trunk is None:
            pretrained = self.weights is not None
            if self.weights in PUBLISHED and isinstance(self.backbone, nn.Module):
                pretrained = is_trained(trunk)  # its own weights
            if pretrained:
                # Statistics estimated again from few photos are worse than those of the weights.
                trunk.keep_statistics()
        return trunk

    def _source(
        self, data: NDArray[Any] | Images, trunk: AnyTrunk, *, training: bool
    ) -> ArraySource | ImageSource:
        """Return the batches' source, decoded once if it fits the cache."""
        if isinstance(data, np.ndarray):
            return ArraySource(data)
        if trunk.image_size is not None:
            size, resize = trunk.image_size, trunk.resize_size
        else:  # that of arrays
            size = resize = FILE_SIZE if self.image_shape_ is None else None
        resizing, augment, seen = trunk.resizing, None, data
        if training:
            augment = resolve_augmentation(self.augment, size, resizing.interpolation)
            seen = data.cached(size, resize, CACHE_BYTES, self.verbose > 0, **vars(resizing))
        # What was decoded is cut already.
        selected = seen._selected_from(size, resize if seen is data else None)
        return ImageSource(seen, size, resize, augment, selected, resizing)

    def _given_labels(self, y: LabelsLike | None) -> LabelsLike:
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None. "
                f"loss={shortened(self.loss)} learns from labels: pass one per image."
            )
        return y

    # Checkpoint ------------------------------------------------------------------------------

    def _checkpoint(
        self,
        data: NDArray[Any] | Images,
        y: NDArray[Any],
        weights: NDArray[np.float32] | None,
        start: Start | None,
    ) -> Checkpoint | None:
        """Return the file that belongs to these parameters and data, None if none can."""
        params = {k: v for k, v in self.get_params(deep=False).items() if k not in _NOT_IN_FIT}
        if start is not None and start.trunk is not None:
            del params["weights"]  # not read again
        elif self.weights in PUBLISHED:
            params["weights"] = "imagenet"  # synonyms are one training
        try:
            # Each by itself: what two parameters share does not outlive `clone`.
            parts = [fingerprint(type(self), type(self).__name__), library_of("torch")]
            parts += [fingerprint(v, k, files=k == "weights") for k, v in sorted(params.items())]
            library, files = origin_of(self.backbone)
            parts += [library_of(library)] * bool(library)
            parts += [fingerprint(file, "backbone", files=True) for file in files]
        except Unknown as error:
            warn_user(
                f"checkpoint_dir={str(self.checkpoint_dir)!r}: {error}. So no checkpoint can be "
                "matched to this fit: it trains from the start and keeps none."
            )
            return None
        pixels = data if isinstance(data, np.ndarray) else data.fingerprint()
        earlier = None if start is None else start.key()
        key = fingerprint([KEY_VERSION, parts, pixels, y, weights, earlier])
        return Checkpoint(self.checkpoint_dir, type(self).__name__, key)

    # State -----------------------------------------------------------------------------------

    def _snapshot(self, network: Network, source: ArraySource | ImageSource) -> dict[str, Any]:
        """Return the fitted attributes that make a copy of this estimator transform."""
        reading = None
        if isinstance(source, ImageSource):
            reading = {"size": source.size, "resize": source.resize, **vars(source.resizing)}
        return {
            "_network_state": portable_state(network) | {"reading": reading},
            "_network": None,
            "n_features_out_": network.width,
            "history_": [],
        }

    def _keep(
        self,
        network: Network,
        source: ArraySource | ImageSource,
        history: list[dict[str, Any]],
    ) -> None:
        """Set the fitted attributes; those that are saved hold no objects of torch."""
        for name, value in self._snapshot(network, source).items():
            setattr(self, name, value)
        self._network = network
        self.history_ = history
        self.n_iter_ = len(history)
        if self.runtime == "openvino":
            self._usable_runtime(network)  # told now rather than by the first transform

    def _fitted_network(self) -> Network:
        """Return the trained network, built again if this came out of a file."""
        use_one_thread_if_forked()
        network = vars(self).get("_network")
        if network is None:
            with REBUILDING:
                network = vars(self).get("_network")
                if network is None:
                    network = self._network = rebuilt_network(self._network_state)
        return network

    # Inference -------------------------------------------------------------------------------

    def _embed(self, X: ImagesLike) -> NDArray[np.float32]:
        """Return the network's vectors, (n, width)."""
        with shielded():
            self._check_transform()
            data = self._check_input(X, reset=False)
            network = self._fitted_network()
            source = ArraySource(data) if isinstance(data, np.ndarray) else self._read_again(data)
            try:
                return self._vectors(network, source)
            except ImageReadError as error:
                tell_all_faults(error, data, self.verbose > 0)
                raise

    def _check_transform(self) -> None:
        """Raise unless this is fitted, with a valid device and valid parameters of `transform`."""
        check_is_fitted(self)
        resolve_device(self.device)
        check_parameters(self, self._transform_rules)

    def _infer(self, network: Embedder, source: ArraySource | ImageSource) -> NDArray[np.float32]:
        ticks = partial(
            with_progress,
            total=-(-len(source) // self.batch_size),
            description=f"{type(self).__name__}: transform",
            enabled=self.verbose > 0,
        )
        return infer(network, source, self.batch_size, resolve_device(self.device), ticks)

    def _read_again(self, images: Images) -> ImageSource:
        """Return a source of images in the size that the network was fitted on."""
        reading = self._network_state["reading"]
        size, resize = reading["size"], reading["resize"]
        shape = self.image_shape_
        if size is None and shape is not None and (images.image_shape or ())[:2] != shape[:2]:
            size = shape[:2]  # fitted on arrays of their own size
        selected = images._selected_from(size, resize)
        return ImageSource(images, size, resize, None, selected, Resizing.of(reading))
