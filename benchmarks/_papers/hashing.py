"""DFEH's tables: thirteen methods, and later losses, on CIFAR-10, SVHN or NUS-WIDE."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from _papers._compare import Part, Row, Task, compare, spread
from sklearn_cbir import DeepHasher
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.hashing import (
    BREHasher,
    CCAITQHasher,
    ITQHasher,
    KSHHasher,
    LSHHasher,
    MLHHasher,
    SpectralHasher,
)
from sklearn_cbir.losses import DFEHLoss

CLASSICAL = {
    "LSH": LSHHasher,
    "SH": SpectralHasher,
    "ITQ": ITQHasher,
    "CCA-ITQ": CCAITQHasher,
    "MLH": MLHHasher,
    "BRE": BREHasher,
    "KSH": KSHHasher,
}
DEEP = ("cnnh", "dlbhc", "dnnh", "dpsh", "dsh", "dfeh")
LATER = ("hashnet", "greedyhash", "csq", "orthohash", "dch")
BITS = (12, 24, 36, 48)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TRIAL_EPOCHS = 5
TRIAL_ROWS = 15_000
TRIAL_QUERIES = 5_000

# mAP at 12, 24, 36 and 48 bits in the paper's table for CIFAR-10.
CIFAR10_PAPER = {
    "LSH": (0.1319, 0.1367, 0.1407, 0.1492),
    "SH": (0.1319, 0.1278, 0.1364, 0.1320),
    "ITQ": (0.1080, 0.1088, 0.1117, 0.1184),
    "CCA-ITQ": (0.1653, 0.1960, 0.2085, 0.2176),
    "MLH": (0.1844, 0.1994, 0.2053, 0.2094),
    "BRE": (0.1576, 0.1624, 0.1684, 0.1717),
    "KSH": (0.2956, 0.3732, 0.4019, 0.4167),
    "cnnh": (0.5326, 0.5613, 0.5631, 0.5563),
    "dlbhc": (0.5504, 0.5810, 0.5769, 0.5883),
    "dnnh": (0.5711, 0.5868, 0.5892, 0.5911),
    "dpsh": (0.6534, 0.6546, 0.6610, 0.6632),
    "dsh": (0.6776, 0.7213, 0.7465, 0.7568),
    "dfeh": (0.6753, 0.7216, 0.7641, 0.7864),
}
NUSWIDE_PAPER = {
    "LSH": (0.3329, 0.3392, 0.3450, 0.3474),
    "ITQ": (0.3425, 0.3464, 0.3522, 0.3576),
    "KSH": (0.4331, 0.4592, 0.4695, 0.4692),
    "dpsh": (0.5652, 0.5743, 0.5876, 0.5881),
    "dsh": (0.5601, 0.5783, 0.5814, 0.5877),
    "dfeh": (0.5674, 0.5788, 0.5863, 0.5921),
}


def classical(kind, *, bits, seed, **unused):
    """Return a classical hasher; it reads GIST and has no rate."""
    hasher = CLASSICAL[kind](bits)
    if "random_state" in hasher.get_params():
        hasher.set_params(random_state=seed)
    return hasher


def deep(loss, *, bits, lr, seed, epochs, backbone, checkpoints=None, **params):
    """Return a hasher with a small network, the same for every loss."""
    return DeepHasher(
        bits,
        loss=loss,
        backbone=backbone,
        pooling="max",
        batch_size=200,
        max_epochs=epochs,
        lr=lr,
        autocast=True,
        checkpoint_dir=checkpoints,
        random_state=seed,
        verbose=1,
        **params,
    )


def task_of(images, y, n_train, out, *, gist=True):
    """Return the task on `images`, of which the first `n_train` train and are searched.

    The rest asks, once per final setting; trials are made of training images alone.
    """
    rows = np.random.default_rng(0).permutation(n_train)
    n_queries = min(TRIAL_QUERIES, n_train // 5)
    kept = np.sort(rows[n_queries : n_queries + TRIAL_ROWS])
    train, rest = np.arange(n_train), np.arange(n_train, len(y))
    inputs = {"images": images}
    if gist:
        inputs["gist"] = _gist(images, out)
    return Task(
        inputs=inputs,
        y=y,
        tuning=Part(kept, kept, np.sort(rows[:n_queries])),
        final=Part(train, train, rest),
        metric="hamming",
    )


def _gist(images, out):
    """Return the descriptors of all images, from the file that an earlier run wrote."""
    path = Path(out) / f"gist-{len(images)}.npy"
    if path.exists():
        return np.load(path)
    rows = GISTDescriptor().transform(images)
    part = path.with_suffix(".part.npy")
    np.save(part, rows)
    part.replace(path)  # a run that is cut off leaves no half a file to go on from
    return rows


def run(cells, task, options, paper):
    """Fill the table: every method at 48 bits; DFEH, DSH and the quick ones at every length."""
    shared = _shared(options)
    tuning = shared | {"epochs": min(options.epochs, TRIAL_EPOCHS)}
    final = shared | {"epochs": options.epochs}
    quick = [Row(name, partial(classical, name), features="gist") for name in CLASSICAL]
    shared_net = {"hash_layer": "linear"}
    slow = [
        Row(loss, partial(deep, loss, **shared_net), options.rates or RATES)
        for loss in (*DEEP, *LATER)
    ]
    if options.full:  # with the layers of their own that two methods have
        for name, own in (("dfeh", {"enhance": "cbam"}), ("dnnh", {"hash_layer": "divided"})):
            slow.append(
                Row(f"{name}, own layer", partial(deep, name, **own), options.rates or RATES)
            )
    rates, results = {}, {}
    for row in sorted(slow, key=lambda row: row.name not in ("dfeh", "dsh")):
        # The rate is chosen at 48 bits and kept for the other lengths.
        settings = {"final": final | {"bits": 48}, "tuning": tuning | {"bits": 48}}
        found = compare(cells, [row], task, seeds=options.seeds, label=" 48 bits", **settings)
        results[row.name, 48] = found[row.name]
        rates[row.name] = found[row.name][0]["lr"]
    for bits in BITS:
        some = [row for row in slow if options.full or row.name in ("dfeh", "dsh")]
        fixed = [Row(row.name, row.make, (rates[row.name],)) for row in some if bits != 48]
        for row in (*(quick if "gist" in task.inputs else ()), *fixed):
            settings = {"final": final | {"bits": bits}}
            found = compare(
                cells, [row], task, seeds=options.seeds, label=f" {bits} bits", **settings
            )
            results[row.name, bits] = found[row.name]
    return report(results, paper)


def _shared(options):
    """Return the settings of all networks."""
    return {
        "backbone": options.backbone,
        "image_size": options.image_size,
        "checkpoints": options.out / "checkpoints",
    }


def report(results, paper):
    """Return the table: ours by length, the paper's beside it, best at 48 bits last."""
    names = sorted(
        {name for name, _ in results},
        key=lambda name: np.mean([r["map"] for r in results[name, 48]]),
    )
    heads = [f"{bits} bits" for bits in BITS] + ["48 bits, paper", "rate", "time, s"]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        cells = [
            spread([r["map"] for r in results[name, bits]]) if (name, bits) in results else ""
            for bits in BITS
        ]
        last = results[name, 48][0]
        published = f"{paper[name][3]:.4f}" if name in paper else ""
        rate = "" if last["lr"] is None else f"{last['lr']:g}"
        lines.append(
            f"| {name} | {' | '.join(cells)} | {published} | {rate} | {last['cpu_seconds']:.0f} |"
        )
    return "\n".join(lines)


# Classical hashers alone -------------------------------------------------------------------


def check_hashers(cells, task, options):
    """Return a table: how far above chance every classical hasher is, and how long it fits.

    GIST of the trial images: the training rows are searched, the held-out ones ask. Chance is
    measured with the same code on labels that were shuffled over all images.
    """
    shuffled = np.random.default_rng(0).permutation(task.y)
    lost = replace(task, y=shuffled, final=task.tuning)
    kept = replace(task, final=task.tuning)
    lines = ["| hasher | mAP | on shuffled labels | fit of all, s of one core |", "|---" * 4 + "|"]
    for name in CLASSICAL:
        row = Row(name, partial(classical, name), features="gist")
        found = [
            compare(cells, [row], part, seeds=options.seeds, final={"bits": 48}, label=label)[name]
            for part, label in ((kept, " 48 bits"), (lost, " 48 bits, shuffled"))
        ]
        fit = cells.run(f"{name} fit of {len(task.final.train)}", _fit, row, task)
        values = [spread([record["map"] for record in records]) for records in found]
        lines.append(f"| {name} | {' | '.join(values)} | {fit['cpu_seconds']:.1f} |")
    return "\n".join(lines)


def _fit(row, task):
    train = task.final.train
    row.make(bits=48, seed=0).fit(task.take("gist", train), task.y[train])
    return {"rows": len(train)}


# Ablations -----------------------------------------------------------------------------------


def ablations(cells, task, options):
    """Return DFEH's ablations on the tuning part: weights, terms, network and pair weight."""
    lr = (options.rates or (1e-2,))[0]
    settings = _shared(options) | {"bits": 12, "lr": lr, "epochs": options.epochs}
    rows = [Row("all terms, weights 0.01", partial(deep, DFEHLoss()))]
    for weight in (0.0, 0.001, 0.1):
        loss = DFEHLoss(quantization_weight=weight, balance_weight=weight)
        rows.append(Row(f"weights {weight:g}", partial(deep, loss)))
    rows += [
        Row("no balance", partial(deep, DFEHLoss(balance_weight=0))),
        Row("no quantization", partial(deep, DFEHLoss(quantization_weight=0))),
        Row("balance per bit", partial(deep, DFEHLoss(balance="bit"))),
        Row("plain mean of pairs", partial(deep, DFEHLoss(similar_weight=None))),
        Row("similar pairs weigh 3", partial(deep, DFEHLoss(similar_weight=3.0))),
        *(
            Row(f"enhance={kind!r}", partial(deep, DFEHLoss(), enhance=kind))
            for kind in ("se", "cbam", "conv")
        ),
    ]
    held_out = replace(task, final=task.tuning)
    results = compare(cells, rows, held_out, seeds=options.seeds, final=settings, label=" 12 bits")
    if options.full:
        for net in ("small", "resnet9"):
            found = compare(
                cells,
                [Row(f"backbone={net!r}", partial(deep, DFEHLoss()))],
                held_out,
                seeds=options.seeds,
                final=settings | {"backbone": net},
                label=" 12 bits",
            )
            results |= found
    return results
