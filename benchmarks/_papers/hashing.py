"""DFEH's tables: thirteen methods, and later losses, on CIFAR-10, SVHN or NUS-WIDE."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from _data import fingerprint
from _papers._compare import Part, Row, Task, compare, described, spread
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
SHARED_LAYER = {"hash_layer": "linear"}
BY_NAME = {  # rows that are run with --full or by their names
    "dfeh, own layer": (DFEHLoss(), {"enhance": "cbam"}),
    "dfeh, plain mean of pairs": (DFEHLoss(similar_weight=None), SHARED_LAYER),
    "dnnh, own layer": ("dnnh", {"hash_layer": "divided"}),
}
EVERY_LENGTH = ("dfeh", "dsh")  # by default; the others at 48 bits
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
# That for NUS-WIDE; of the rows with three digits no more are at hand, and where two lengths are
# given, that these are 12 and 48 bits is inferred.
NUSWIDE_PAPER = {
    "LSH": (0.3329, 0.3392, 0.3450, 0.3474),
    "SH": ("0.340", None, None, "0.333"),
    "ITQ": (0.3425, 0.3464, 0.3522, 0.3576),
    "CCA-ITQ": ("0.387", None, None, "0.419"),
    "MLH": ("0.383", None, None, "0.399"),
    "BRE": ("0.356", None, None, "0.359"),
    "KSH": (0.4331, 0.4592, 0.4695, 0.4692),
    "cnnh": ("0.432", None, None, "0.445"),
    "dlbhc": ("0.466", None, None, "0.492"),
    "dnnh": ("0.547", "0.537", "0.526", "0.525"),
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


def task_of(images, y, n_train, out, *, n_gallery=None, gist=True, scoring=("map",)):
    """Return the task on `images`, of which the first `n_train` train.

    The first `n_gallery` are searched, by default the same; the rest asks, once per final
    setting. Trials are made of training images alone.
    """
    rows = np.random.default_rng(0).permutation(n_train)
    n_queries = min(TRIAL_QUERIES, n_train // 5)
    kept = np.sort(rows[n_queries : n_queries + TRIAL_ROWS])
    gallery, asking = np.split(np.arange(len(y)), [n_gallery or n_train])
    inputs = {"images": images}
    if gist:
        inputs["gist"] = _gist(images, out)
    return Task(
        inputs=inputs,
        y=y,
        tuning=Part(kept, kept, np.sort(rows[:n_queries])),
        final=Part(np.arange(n_train), gallery, asking),
        scoring=scoring,
        metric="hamming",
    )


def _gist(images, out):
    """Return the descriptors of all images, from the file that an earlier run wrote."""
    path = Path(out) / f"gist-{fingerprint(images)}.npy"
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
    results = {}

    def fill(row, bits, **trials):
        settings = {"seeds": options.seeds, "final": final | {"bits": bits}, **trials}
        found = compare(cells, [row], task, label=f" {bits} bits", **settings)
        results.update({(name, bits): records for name, records in found.items()})

    deep_rows = _deep_rows(options)
    for row in deep_rows:
        # The rate is chosen at 48 bits and kept for the other lengths.
        fill(row, 48, tuning=tuning | {"bits": 48})
    for bits in BITS:
        for name in CLASSICAL if "gist" in task.inputs else ():
            fill(Row(name, partial(classical, name), features="gist"), bits)
        for row in deep_rows:
            wanted = options.full or row.name in EVERY_LENGTH
            if bits != 48 and wanted and (row.name, 48) in results:
                fill(replace(row, rates=(results[row.name, 48][0]["lr"],)), bits)
    return report(results, task.scoring, paper)


def _deep_rows(options):
    """Return the rows of networks; variants of a method with --full or by name."""
    losses = {name: (name, SHARED_LAYER) for name in (*EVERY_LENGTH, *DEEP, *LATER)}
    # Cells are told apart by parameters, from those of earlier defaults too.
    losses["dfeh"] = DFEHLoss(), SHARED_LAYER
    losses["dpsh"] = "dpsh", SHARED_LAYER | {"hash_std": 0.01}
    losses |= {
        name: own for name, own in BY_NAME.items() if options.full or name in (options.rows or ())
    }
    rates = options.rates or RATES
    return [Row(name, partial(deep, loss, **own), rates) for name, (loss, own) in losses.items()]


def _shared(options):
    """Return the settings of all networks."""
    return {
        "backbone": options.backbone,
        "image_size": options.image_size,
        "checkpoints": options.out / "checkpoints",
    }


def report(results, measures, paper):
    """Return a table per measure, with the paper's mAP in brackets behind the first, and the times.

    Methods are in the order of the first measure at 48 bits, best last.
    """
    names = sorted(
        (name for name, bits in results if bits == 48),
        key=lambda name: np.mean([r[measures[0]] for r in results[name, 48]]),
    )
    lengths = [f"{bits} bits" for bits in BITS]
    lines = []
    for measure in measures:
        published = paper if measure == measures[0] else {}
        rows = [
            [
                name,
                *_beside(_by_length(results, name, measure, spread), published.get(name)),
                _rate(results[name, 48][0]["lr"]),
            ]
            for name in names
        ]
        lines += [*_markdown([measure, *lengths, "rate"], rows), ""]
    # Of the processor, which other work on the machine disturbs least.
    times = [[name, *_by_length(results, name, "cpu_seconds", _seconds)] for name in names]
    head = "seconds of training, coding and scoring"
    return "\n".join([*lines, *_markdown([head, *lengths], times)])


def _beside(ours, paper):
    """Return texts with the paper's numbers in brackets behind them, where there are some."""
    if paper is None:
        return ours
    shown = (f"{number:.4f}" if isinstance(number, float) else number for number in paper)
    return [
        text if number is None else f"{text} ({number})".strip()
        for text, number in zip(ours, shown)
    ]


def _rate(lr):
    return "" if lr is None else f"{lr:g}"


def _by_length(results, name, column, show):
    """Return one column of the records of a method as text, by length; "" where it was not run."""
    found = [results.get((name, bits)) for bits in BITS]
    return ["" if records is None else show([r[column] for r in records]) for records in found]


def _seconds(values):
    return f"{np.mean(values):.0f}"


def _markdown(heads, rows):
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


# Classical hashers alone -------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """What a classical hasher has to reach."""

    gain: float  # mean average precision above chance
    seconds: float  # one core's, to fit all training rows: 50,000 of CIFAR-10


BARS = {
    "LSH": Bar(0.02, 5),
    "SH": Bar(0.02, 5),
    "ITQ": Bar(0.05, 5),
    "CCA-ITQ": Bar(0.05, 5),
    "MLH": Bar(0.05, 300),
    "BRE": Bar(0.05, 300),
    "KSH": Bar(0.05, 300),
}
WITH_LABELS = ("CCA-ITQ", "MLH", "BRE", "KSH")
WITHOUT_LABELS = "ITQ"  # the best of the others
TOLERANCE = 0.01


class ShuffledLabels:
    """A hasher that is taught the labels of other rows."""

    def __init__(self, hasher, seed):
        self.hasher = hasher
        self.seed = seed

    def fit(self, X, y):
        self.hasher.fit(X, np.random.default_rng(self.seed).permutation(y))
        return self

    def transform(self, X):
        return self.hasher.transform(X)


def mistaught(kind, *, seed, **settings):
    """Return a classical hasher that learns from shuffled labels."""
    return ShuffledLabels(classical(kind, seed=seed, **settings), seed)


def check_hashers(cells, task, options):
    """Return a table of every classical hasher against its bars; what is missed is a problem.

    GIST of the trial images: the training rows are searched, the held-out ones ask. Shuffled labels
    are two questions. With all labels shuffled, in training and in the score, every hasher must be
    at chance; one that is not has seen labels or rows that it should not. With training labels
    alone shuffled, and true ones in the score, a hasher that learns from labels must be no better
    than ITQ, which sees none: codes of GIST are above chance without any label, so it need not be
    at chance. Both allow for 0.01.
    """
    shuffled = np.random.default_rng(0).permutation(task.y)
    kept = replace(task, final=task.tuning)
    lost = replace(kept, y=shuffled)
    chance = _chance(kept)
    results = {name: _checked(cells, name, (kept, lost, task), options) for name in CLASSICAL}
    without = results[WITHOUT_LABELS].get("map")
    rows = []
    for name, found in results.items():
        if found.keys() >= _needed(name):
            missed = misses(name, found, chance, without)
            cells.problems += [f"{name}: {problem}." for problem in missed]
            taught = f"{found['mistaught']:.4f}" if "mistaught" in found else ""
            shown = [found["text"], f"{found['lost']:.4f}", taught, f"{found['seconds']:.1f}"]
            rows.append([name, *shown, "; ".join(missed) or "met"])
    heads = ["mAP", "all labels shuffled", "training labels shuffled", "fit of all, s", "bars"]
    lines = [*_markdown(["hasher", *heads], rows), "", f"Chance is {chance:.4f}."]
    return "\n".join(lines)


def _needed(name):
    """Return what has to be measured before a hasher is judged."""
    return {"map", "lost", "seconds"} | ({"mistaught"} if name in WITH_LABELS else set())


def _checked(cells, name, tasks, options):
    """Return the means over seeds and the time of one hasher; what is not finished is missing."""
    kept, lost, whole = tasks
    row = Row(name, partial(classical, name), features="gist")
    taught = replace(row, make=partial(mistaught, name))
    trials = {"map": (row, kept, ""), "lost": (row, lost, ", all labels shuffled")}
    if name in WITH_LABELS:
        trials["mistaught"] = (taught, kept, ", training labels shuffled")
    found = {}
    for key, (trial, part, label) in trials.items():
        settings = {"seeds": options.seeds, "final": {"bits": 48}, "label": f" 48 bits{label}"}
        for records in compare(cells, [trial], part, **settings).values():
            scores = [record["map"] for record in records]
            found[key] = np.mean(scores)
            found.setdefault("text", spread(scores))
    with cells.row(name):
        depends = described(row.make, {"bits": 48, "seed": 0}, data=whole.fingerprint(whole.final))
        fit = cells.run(
            f"{name} fit of {len(whole.final.train)}", _fit, row, whole, settings=depends
        )
        found["seconds"] = fit["cpu_seconds"]
    return found


def misses(name, found, chance, without):
    """Return what a hasher misses, as text; `without` is the score of the best without labels."""
    bar, missed = BARS[name], []
    if found["map"] - chance < bar.gain:
        missed.append(f"mAP {found['map'] - chance:.4f} above chance, not {bar.gain:g}")
    if abs(found["lost"] - chance) > TOLERANCE:
        missed.append(f"mAP {found['lost']:.4f} with all labels shuffled, not {chance:.4f}")
    if "mistaught" in found and without is None:
        missed.append(f"not judged on shuffled training labels before {WITHOUT_LABELS} is finished")
    elif found.get("mistaught", 0) > (without or 0) + TOLERANCE:
        missed.append(
            f"mAP {found['mistaught']:.4f} with training labels shuffled, above {WITHOUT_LABELS}'s "
            f"{without:.4f}"
        )
    if found["seconds"] > bar.seconds:
        missed.append(f"fit of all in {found['seconds']:.1f} s, not {bar.seconds:g}")
    return missed


def _chance(task):
    """Return the share of the gallery that is relevant to a query, on average."""
    gallery, queries = task.y[task.final.gallery], task.y[task.final.queries]
    return np.mean([np.mean(gallery == label) for label in queries])


def _fit(row, task):
    train = task.final.train
    row.make(bits=48, seed=0).fit(task.take("gist", train), task.y[train])
    return {"rows": len(train)}


# Ablations -----------------------------------------------------------------------------------

# mAP in the paper. Its rows of terms have lost their names; that the first has the contrastive
# term alone, the second quantization and the third balance beside it, is inferred.
ABLATION_PAPER = {
    "cifar10": {
        "all terms, weights 0.01": "0.6874 and 0.6774",
        "weights 0": "0.5436 and 0.6253",
        "weights 0.001": "0.6047",
        "weights 0.1": "0.2543",
        "no balance": "0.6654",
        "no quantization": "0.6546",
    },
    "svhn": {
        "all terms, weights 0.01": "0.8624 and 0.8242",
        "weights 0": "0.7966 and 0.7862",
        "weights 0.001": "0.8362",
        "weights 0.1": "0.7841",
        "no balance": "0.8068",
        "no quantization": "0.7934",
    },
}


def ablations(cells, task, options):
    """Return DFEH's ablations on the tuning part: weights, terms, network and pair weight."""
    lr = (options.rates or (1e-2,))[0]
    settings = _shared(options) | {"bits": 12, "lr": lr, "epochs": options.epochs}
    everything = partial(deep, DFEHLoss())
    rows = [Row("all terms, weights 0.01", everything)]
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
            Row(f"enhance={kind!r}", partial(everything, enhance=kind))
            for kind in ("se", "cbam", "conv")
        ),
    ]
    held_out = replace(task, final=task.tuning)
    fixed = {"seeds": options.seeds, "label": " 12 bits"}
    results = compare(cells, rows, held_out, final=settings, **fixed)
    net = "small" if options.backbone == "resnet9" else "resnet9"
    network = [Row(f"backbone={net!r}", everything)]
    return results | compare(cells, network, held_out, final=settings | {"backbone": net}, **fixed)
