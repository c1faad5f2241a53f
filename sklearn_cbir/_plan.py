"""Parameters and labels -> what is trained on: settings, batches, rows that are held out."""

import functools

import numpy as np

from sklearn_cbir._batches import Batches
from sklearn_cbir._devices import derived_seed
from sklearn_cbir._training import Settings
from sklearn_cbir._validation import check_rate, warn_user
from sklearn_cbir.backbones._probe import name_of
from sklearn_cbir.losses import output_of, sampling_of
from sklearn_cbir.sampling import (
    balanced_batches,
    class_random_batches,
    mined_batches,
    uniform_batches,
)

RATES = ("lr", "trunk_lr", "loss_lr")
N_NEGATIVES = 5  # of every query that is mined for, unless the loss has an n_negatives
GO_ON = {"balanced", "mined"}  # samplings whose decks of rows go on from epoch to epoch


def plan_settings(estimator, network, loss, goes_on=False):
    """Return what the training loop is asked to do."""
    pretrained = getattr(network.trunk, "frozen_batch_norm", False)
    loss_parameters = list(getattr(loss, "parameters", list)())
    if not any(p.requires_grad for p in [*network.parameters(), *loss_parameters]):
        raise ValueError(
            f"Nothing can be trained: backbone={name_of(network.trunk.spec['backbone'])} has no "
            "parameter with requires_grad=True, and there is no layer beside it. Free some of its "
            "parameters, add a layer by n_components, or use it as it is, with loss=None."
        )
    head_epochs = estimator.head_epochs
    if head_epochs is None:
        head_epochs = 5 if pretrained and not goes_on else 0
    new = [parameter for _, parameter in network.head_parameters()] + loss_parameters
    nothing_new = not any(parameter.requires_grad for parameter in new)
    if not estimator.max_epochs and (nothing_new or not head_epochs):
        raise ValueError(_nothing_to_train(nothing_new))
    if head_epochs and nothing_new:
        if estimator.head_epochs is not None:
            warn_user(
                f"head_epochs={head_epochs} are left out: they train what is new beside the "
                "trunk, and here nothing is, neither a layer nor a parameter of the loss. Only "
                f"the max_epochs={estimator.max_epochs} epochs of the trunk are trained."
            )
        head_epochs = 0
    _warn_if_vectors_stay(estimator, network)
    lr, trunk_lr, loss_lr = (
        None if rate is None else check_rate(rate, name)
        for name, rate in ((name, getattr(estimator, name)) for name in RATES)
    )
    if trunk_lr is None:
        trunk_lr = 0.1 * lr if pretrained else lr
    return Settings(
        optimizer=estimator.optimizer,
        lr=lr,
        trunk_lr=trunk_lr,
        loss_lr=lr if loss_lr is None else loss_lr,
        weight_decay=estimator.weight_decay,
        schedule=estimator.schedule,
        head_epochs=head_epochs,
        max_epochs=estimator.max_epochs,
        batch_size=estimator.batch_size,
        n_iter_no_change=estimator.n_iter_no_change,
        tol=estimator.tol,
        autocast=estimator.autocast,
    )


def _warn_if_vectors_stay(estimator, network):
    """Warn where all that is trained is left behind: the classifier, parameters of the loss."""
    parts = network.named_parameters() if estimator.max_epochs else network.head_parameters()
    if not any(p.requires_grad for name, p in parts if not name.startswith("classifier.")):
        warn_user(
            "No parameter that transform uses is trained: what learns here, a classifier or the "
            "loss, is left behind after fit. Add a layer by n_components, or train the trunk."
        )


def _nothing_to_train(nothing_new):
    if nothing_new:
        return (
            "max_epochs=0 leaves the trunk as it is, and here nothing is new beside it, neither a "
            "layer nor a parameter of the loss, so that nothing would be trained. Use "
            "max_epochs=1 or more, or n_components."
        )
    return (
        "max_epochs=0 trains the head alone, for head_epochs, but there are none: None means 0 "
        "unless the weights are pretrained, and where a fit goes on. Use head_epochs=1 or more, or "
        "max_epochs=1 or more."
    )


def plan_batches(estimator, source, y, rows, loss, seed, *, training, weights=None):
    """Return epochs over `rows`, class-balanced if the loss compares images in the batch."""
    sampling = sampling_of(loss) if estimator.sampling == "auto" else estimator.sampling
    if not training and sampling != "uniform":
        sampling = "balanced"  # the same held-out images in every epoch
    size = min(estimator.batch_size, len(rows))
    batch_seed = derived_seed(seed, int(training))
    if sampling == "uniform":
        plan = functools.partial(uniform_batches, len(rows), size)
    elif sampling == "mined":
        n_negatives = getattr(loss, "n_negatives", N_NEGATIVES)
        plan = functools.partial(mined_batches, y[rows], size, n_negatives, estimator.pool_size)
    else:
        draw = balanced_batches if sampling == "balanced" else class_random_batches
        # Classes held out may be small: more of each would be copies of the same images.
        n_per_class = _images_per_class(estimator, size, count_classes(y)) if training else 2
        plan = functools.partial(draw, y[rows], size, n_per_class)
    return Batches(
        source,
        y,
        _Epochs(plan, rows, batch_seed, mines=sampling == "mined", goes_on=sampling in GO_ON),
        seed=batch_seed,
        augmented=training,
        weights=weights,
        mixup=estimator.mixup,
        num_workers=estimator.num_workers,
    )


def _images_per_class(estimator, size, n_classes):
    return estimator.n_per_class or max(4, size // n_classes)


def split_rows(estimator, y, loss, seed):
    """Return the rows to train on and the rows held out for early stopping.

    Every class gives its share, rounded. For losses that compare images, and where pairs are
    mined, it gives at least two or none and keeps at least two; otherwise it keeps at least one.
    Of 0/1 columns rows are drawn, and every label keeps as many.
    """
    rows = np.arange(len(y)) if y.ndim == 2 else np.flatnonzero(y >= 0)
    if not estimator.early_stopping:
        return rows, rows[:0]
    rng = np.random.default_rng(derived_seed(seed, 2))
    least = 1 if output_of(loss) == "classes" and estimator.sampling != "mined" else 2
    share = estimator.validation_fraction
    if y.ndim == 1:
        groups = [np.flatnonzero(y == c) for c in range(count_classes(y))]
        sizes = list(map(len, groups))
        held_out = np.concatenate([_drawn(group, share, least, rng) for group in groups])
    else:
        sizes = y.sum(axis=0).astype(int)
        held_out = _drawn_columns(y, share, least, rng)
    held_out = np.sort(held_out)
    if not len(held_out):
        raise ValueError(
            f"early_stopping=True with validation_fraction={share}: no "
            f"{'class' if y.ndim == 1 else 'label'} is large enough to give an image (the smallest "
            f"has {min(sizes)}, the largest {max(sizes)}). Use early_stopping=False or a larger "
            "share."
        )
    return np.setdiff1d(rows, held_out), held_out


def _drawn(group, share, least, rng):
    """Return rows of one class that are held out, at least `least` or none."""
    n = min(round(share * len(group)), len(group) - least)
    return rng.permutation(group)[: n if n >= least else 0]


def _drawn_columns(y, share, least, rng):
    """Return rows of 0/1 columns that are held out: none that a label cannot spare."""
    wanted = round(share * len(y))
    left = y.sum(axis=0)
    drawn = []
    for row in rng.permutation(len(y)):
        if len(drawn) == wanted:
            break
        if (left[y[row] > 0] > least).all():
            left -= y[row]
            drawn.append(row)
    return np.array(drawn if len(drawn) >= least else [], dtype=np.int64)


def count_classes(y):
    """Number of classes or label columns; -1 is none."""
    return y.shape[1] if y.ndim == 2 else int(y.max()) + 1


class _Epochs:
    """Epochs of batches of some of the rows, each with a generator of its own.

    Decks go on from epoch to epoch. They depend on the seed alone: an epoch that does not follow
    the last one draws those before it again. A plan that mines is given embeddings of its rows.
    """

    def __init__(self, plan, rows, seed, *, mines, goes_on):
        self.plan = plan
        self.rows = rows
        self.seed = seed
        self.mines = mines
        self.goes_on = goes_on
        self.decks = {}
        self.next = 0  # epoch that the decks are ready for

    def __call__(self, epoch, embed=None):
        if self.goes_on:
            if epoch < self.next:
                self.decks, self.next = {}, 0
            for earlier in range(self.next, epoch):
                self._draw(earlier, None)
            self.next = epoch + 1
        return [self.rows[indices] for indices in self._draw(epoch, embed)]

    def _draw(self, epoch, embed):
        options = {"decks": self.decks} if self.goes_on else {}
        if self.mines and embed is not None:
            options["embed"] = lambda indices: embed(self.rows[indices])
        return self.plan(np.random.default_rng((self.seed, epoch)), **options)
