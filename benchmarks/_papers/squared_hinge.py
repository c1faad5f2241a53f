"""Squared hinge against softmax and no training, on photos in one folder per class."""

from functools import partial

import numpy as np
import torch
from scipy.stats import loguniform
from torch import nn

from _data import find_weights
from _papers._compare import Part, Plan, Row, Task, compare, report, trial_of
from _papers._losses import loss_of, parted, trained_in
from sklearn_cbir import CNNFeatureExtractor

RATES = loguniform(3e-4, 3e-2)
PAPER = ("vgg19", "inception_v3", "mobilenet_v2", "resnet18")
LITE = "timm/tf_efficientnet_lite0.in1k"
BACKBONES = (*PAPER, LITE, "squeezenet1_0")
HEADS = ("mobilenet_v2", LITE, "timm/tf_efficientnet_lite2.in1k", "squeezenet1_0")
LOSSES = ("softmax", "squared_hinge")
COLUMNS = ("map", "precision@10")
NORMED = "squeezenet1_0, norm"  # before its classifier
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def task_of(train, queries):
    """Return the task: `train` is searched; a third of it asks when settings are chosen."""
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


def products_task(groceries):
    """Return the task on the 81 products of Grocery Store, all of them trained on.

    Photos of the official training part are searched by those of the test part; where settings
    are chosen, a third of the training part asks the others.
    """
    train, queries = np.asarray(groceries.train), np.asarray(groceries.test)
    rows = np.random.default_rng(0).permutation(train)
    asking, kept = np.split(rows, [len(rows) // 3])
    return Task(
        inputs={"images": groceries.data},
        y=groceries.target,
        tuning=Part(kept, kept, asking),
        final=Part(train, train, queries),
        scoring=COLUMNS,
    )


def networks(options, names=BACKBONES):
    """Return the networks to compare, with their weights: those at hand, or all of the paper's."""
    names = options.backbone.split(",") if options.backbone else names
    found = {name: find_weights(options.weights_dir, name) for name in names}
    if not options.backbone:
        missing = [name for name in PAPER if found.get(name) is None]
        if options.full and missing:
            raise SystemExit(
                f"--full needs the weights of {', '.join(missing)}: put torchvision's state dicts "
                f"as NAME.pt into the folder given as --weights-dir ({options.weights_dir})."
            )
        found = {name: path for name, path in found.items() if path is not None}
    if not found:
        raise SystemExit(
            f"No weights in --weights-dir={options.weights_dir}. Put torchvision's state dicts "
            f"there as NAME.pt, with a NAME of {', '.join(names)}."
        )
    return found


def extractor(
    loss, *, backbone, weights, lr=1e-3, seed, epochs, image_size, precision, norm=False, **params
):
    """Return a network trained in two phases: its head, then all of it."""
    head, rest = epochs
    of_loss, params = parted(params)
    network = {"weights": None if weights is None else str(weights)}
    if norm:
        backbone, network = normed(weights), {"weights": "pretrained", "pooling": "avg", **IMAGENET}
    return CNNFeatureExtractor(
        backbone,
        loss=loss_of(loss, of_loss, seed),
        lr=lr,
        head_epochs=head,
        max_epochs=rest,
        image_size=image_size,
        batch_size=32,
        random_state=seed,
        verbose=1,
        **network,
        **trained_in(precision),
        **params,
    )


def normed(weights):
    """Return SqueezeNet with a norm over its last feature map, each image's by itself."""
    from torchvision.models import squeezenet1_0

    with torch.random.fork_rng():
        network = squeezenet1_0()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return nn.Sequential(network.features, nn.GroupNorm(1, 512))


def settings_of(options, backbone, weights, task, *, head=5 / 8):
    """Return the settings of the last training and of the trials.

    A share of the epochs trains the `head` alone: of eight, five.
    """
    alone = min(round(options.epochs * head), options.epochs - 1)
    epochs = alone, options.epochs - alone
    trial = tuple(trial_of(n, task) if n else 0 for n in epochs)
    shared = {"backbone": backbone, "weights": weights, "image_size": options.image_size}
    return {"final": shared | {"epochs": epochs}, "tuning": shared | {"epochs": trial}}


def run(cells, task, options, *, norm=True):
    """Fill the table, network by network; return its text."""
    plan = Plan.of(options)
    results, pairs = {}, []
    for backbone, weights in networks(options).items():
        kinds = {backbone: {}}
        if norm and backbone == "squeezenet1_0":
            kinds[NORMED] = {"norm": True}
        for name, own in kinds.items():
            rows = [Row("untrained", partial(extractor, None, **own), seeds=1)]
            rows += [Row(loss, partial(extractor, loss, **own), {"lr": RATES}) for loss in LOSSES]
            budgets = settings_of(options, backbone, weights, task)
            deciding = {"label": f" {name}", "deciding": [LOSSES]}
            found = compare(cells, rows, task, plan, **budgets, **deciding)
            results |= {f"{name}: {row}": of for row, of in found.items()}
            pairs.append((f"{name}: {LOSSES[1]}", f"{name}: {LOSSES[0]}"))
    text = report(results, task, [*COLUMNS, "cpu_seconds"], first="network", pairs=pairs)
    return "\n\n".join([text, *gains(results, pairs)])


def gains(results, pairs):
    """Return, per finished pair, what the first row gains in points and in percent."""
    lines = []
    for pair in pairs:
        if all(results.get(name) for name in pair):
            row, other = (np.mean([record["map"] for record in results[name]]) for name in pair)
            gain = f"{100 * (row - other):+.1f} points of mAP, {100 * (row / other - 1):+.1f} %"
            lines.append(f"{pair[0]} gains {gain}.")
    return ["\n".join(lines)] if lines else []
