"""Squared hinge against softmax and no training, on photos in one folder per class."""

from functools import partial

import numpy as np

from _data import find_weights, paired_bootstrap
from _papers._compare import Part, Row, Task, compare, spread
from sklearn_cbir import CNNFeatureExtractor

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
PAPER = ("vgg19", "inception_v3", "mobilenet_v2", "resnet18")
BACKBONES = (*PAPER, "squeezenet1_0")
LOSSES = ("softmax", "squared_hinge")
COLUMNS = ("map", "precision@10")


def task_of(train, queries):
    """Return the task: `train` is searched; a third of it asks when rates are chosen."""
    n_train = len(train.data)
    rows = np.random.default_rng(0).permutation(n_train)
    asking, kept = np.split(rows, [n_train // 3])
    everything = np.arange(n_train)
    return Task(
        inputs={"images": np.concatenate([train.data, queries.data])},
        y=np.concatenate([train.target, queries.target]),
        tuning=Part(kept, kept, asking),
        final=Part(everything, everything, np.arange(n_train, n_train + len(queries.data))),
        scoring=COLUMNS,
    )


def networks(options):
    """Return the networks to compare, with their weights: those at hand, or all of the paper's."""
    names = options.backbone.split(",") if options.backbone else BACKBONES
    found = {name: find_weights(options.weights_dir, name) for name in names}
    if not options.backbone:
        missing = [name for name in PAPER if found[name] is None]
        if options.full and missing:
            raise SystemExit(
                f"--full needs the weights of {', '.join(missing)}: put torchvision's state dicts "
                f"as NAME.pt into the folder given as --weights-dir ({options.weights_dir})."
            )
        found = {name: path for name, path in found.items() if path is not None}
    if not found:
        raise SystemExit(
            f"No weights in --weights-dir={options.weights_dir}. Put torchvision's state dicts "
            f"there as NAME.pt, with a NAME of {', '.join(BACKBONES)}."
        )
    return found


def extractor(loss, *, backbone, weights, lr=1e-3, seed, epochs, image_size, **params):
    """Return a network trained in two phases: its head, then all of it."""
    head, rest = epochs
    return CNNFeatureExtractor(
        backbone,
        weights=None if weights is None else str(weights),
        loss=loss,
        lr=lr,
        head_epochs=head,
        max_epochs=rest,
        image_size=image_size,
        batch_size=32,
        autocast=True,
        random_state=seed,
        verbose=1,
        **params,
    )


def settings_of(options, backbone, weights, *, head=5 / 8):
    """Return the settings of the last training and of the trials, which have half the epochs.

    A share of the epochs trains the `head` alone: of eight, five.
    """
    shared = {"backbone": backbone, "weights": weights, "image_size": options.image_size}

    def budget(epochs):
        alone = min(round(epochs * head), epochs - 1)
        return shared | {"epochs": (alone, epochs - alone)}

    return {"final": budget(options.epochs), "tuning": budget(max(1, options.epochs // 2))}


def run(cells, task, options):
    """Fill the table, network by network; return its text."""
    heads = ["network", "features", "rate", "mAP", "P@10", *EPOCHS]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    notes = []
    for backbone, weights in networks(options).items():
        settings = {"label": f" {backbone}"} | settings_of(options, backbone, weights)
        bare = [Row("untrained", partial(extractor, None))]
        results = compare(cells, bare, task, seeds=1, **settings)
        rows = [Row(loss, partial(extractor, loss), options.rates or RATES) for loss in LOSSES]
        results |= compare(cells, rows, task, seeds=options.seeds, **settings)
        lines += [_line(backbone, name, records) for name, records in results.items()]
        if results.keys() >= set(LOSSES):
            notes.append(f"{backbone}: {_gain(*(results[loss] for loss in LOSSES))}")
    return "\n".join([*lines, "", *notes])


def _gain(softmax, squared_hinge):
    """Return what the second loss gains, from the means over seeds of every query."""
    means = (
        np.nanmean([record["per_query"] for record in records], axis=0)
        for records in (softmax, squared_hinge)
    )
    gain, low, high = paired_bootstrap(*means)
    return f"squared hinge - softmax {gain:+.4f} mAP, 95 % {low:+.4f} to {high:+.4f}"


def _line(backbone, name, records):
    values = [spread([r[column] for r in records]) for column in COLUMNS]
    rate = "" if records[0]["lr"] is None else f"{records[0]['lr']:g}"
    curves = [record["losses"] for record in records if record["losses"]]
    values.extend(
        f"{np.mean([until(losses) for losses in curves]):.1f}" if curves else ""
        for until in EPOCHS.values()
    )
    return f"| {backbone} | {name} | {rate} | {' | '.join(values)} |"


def epochs_to_end(losses):
    """Return the epochs until the loss stays within 1 % of its last value."""
    return _epochs_within(losses, abs(losses[-1]))


def epochs_of_way(losses):
    """Return the epochs until the loss has gone 99 % of the way from its first to its last value.

    Losses of other scales and other smallest values compare by this.
    """
    return _epochs_within(losses, abs(losses[0] - losses[-1]))


def _epochs_within(losses, scale):
    far = np.flatnonzero(np.abs(np.array(losses) - losses[-1]) > 0.01 * scale)
    return int(far[-1]) + 2 if len(far) else 1


EPOCHS = {"epochs to 1 % of the last loss": epochs_to_end, "to 99 % of the way": epochs_of_way}
