"""What each step of a search without training is worth: cut, pooling, scales, whitening, re-ranker.

    python benchmarks/untrained_steps.py --weights-dir FOLDER --clothing FOLDER --grocery FOLDER
        [--holidays FOLDER] [--encoders NAME ...] [--out FOLDER] [--quick]

CLOTHING holds train and validation, a folder per class each; GROCERY is read by `load_grocery`,
HOLIDAYS by `load_holidays`. Each step is chosen, with those before it, by the mean mAP of half of
clothing/train and eight seen products of Grocery. Whitening learns from the other half and from the
training photos of the other seen products. Asked are the unseen products, clothing/validation and
Holidays, which choose nothing. A re-ranker goes over the first hundred results.

Every row but the first is compared with the step before it, re-rankers with the search that they
rank again, over resampled queries, or classes for unseen products; see `_papers/_rules.py`.
The last row is what an order drawn at random scores.
Milliseconds are processor time: of a photo, read and encoded; and of a query asked alone. Vectors
and the steps of an encoder are kept in OUT and not computed again. --quick takes a few photos of
each set, which shows that everything runs, and nothing else.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from _data import Cells, fingerprint, keep_freed_memory
from _papers._compare import NOT_RUN
from _papers._rules import bootstrap_difference, holm, verdict
from _untrained.encoders import chosen, of_encoder
from _untrained.steps import CANDIDATES, RERANKERS, UNSEEN, Ladder, load

ENCODERS = ("mobilenet_v2", "timm/tf_efficientnet_lite0.in1k", "timm/tf_efficientnet_lite2.in1k")


def run(cells, encoders, options):
    """Return the table of all encoders whose weights are there."""
    data = load(options)
    learned, choosing, asking = data
    contents = [fingerprint(learned.photos, learned.y)]
    contents += [searched.content for searched in (*choosing, *asking)]
    ladders = {}
    for encoder in encoders:
        weights = encoder.weights(options.weights_dir, download=False)
        if weights is None:
            print(f"{encoder.backbone}: no weights in --weights-dir={options.weights_dir}.")
            continue
        ladder = Ladder(encoder, weights, data, options.out / "vectors", options.device)
        settings = of_encoder(encoder, weights)
        settings |= {"data": contents, "candidates": CANDIDATES}
        settings |= {"precision": "float32", "device": options.device}
        ladders[encoder.backbone] = []
        with cells.row(encoder.backbone):
            found = cells.run(
                f"steps of {encoder.backbone}", ladder.run, settings=settings, kind="steps"
            )
            ladders[encoder.backbone] = found["rows"]
    if not ladders:
        raise SystemExit(f"No weights of {', '.join(e.backbone for e in encoders)} are there.")
    return table(ladders, asking)


def table(ladders, asking):
    """Return the rows of all encoders as Markdown, each set with what the step is worth."""
    classes = {of.name: of.y[of.asking] if of.name == UNSEEN else None for of in asking}
    differences = {}
    for backbone, rows in ladders.items():
        for number, row in enumerate(rows[1:], start=1):
            for name, of in row["asked"].items():
                before = rows[step_before(rows, number)]["asked"][name]["scores"]
                differences[backbone, number, name] = bootstrap_difference(
                    of["scores"], before, classes=classes[name]
                )
    adjusted = dict(zip(differences, holm([found.p for found in differences.values()])))
    heads = ["encoder", "step", "chosen"]
    for of in asking:
        heads += [f"{of.name} ({len(of.asking)}): mAP", "worth", "ms a query"]
    lines = [f"| {' | '.join([*heads, 'ms a photo'])} |", "|---" * (len(heads) + 1) + "|"]
    empty = [""] * (len(heads) - 1)
    for backbone, rows in ladders.items():
        for number, row in enumerate(rows):
            shown = [f"`{backbone}`", row["step"], row["chosen"]]
            for name, of in row["asked"].items():
                at = backbone, number, name
                worth = worth_of(differences[at], adjusted[at]) if number else ""
                shown += [f"{np.mean(of['scores']):.3f}", worth, f"{of['ms']:.2f}"]
            lines.append(f"| {' | '.join([*shown, format(row['ms'], '.1f')])} |")
        if not rows:
            lines.append(f"| {' | '.join([f'`{backbone}`', NOT_RUN, *empty])} |")
    levels = [text for of in asking for text in (f"{of.chance():.3f}", "", "")]
    lines.append(f"| {' | '.join(['chance', '', '', *levels, ''])} |")
    return "\n".join(lines)


def step_before(rows, number):
    """Return the number of the row that a step is compared with."""
    while rows[number - 1]["step"] in RERANKERS:
        number -= 1
    return number - 1


def worth_of(difference, adjusted):
    """Return a difference as text, with its interval and the verdict."""
    interval = f"{difference.low:+.3f} to {difference.high:+.3f}"
    return f"{difference.mean:+.3f} ({interval}), {verdict(difference, adjusted)}"


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights-dir", type=Path, required=True, help="folder of NAME*.pt files")
    parser.add_argument("--clothing", type=Path, required=True)
    parser.add_argument("--grocery", type=Path, required=True)
    parser.add_argument("--holidays", type=Path)
    parser.add_argument("--encoders", nargs="+", default=ENCODERS)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="a few photos of each set")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(1)
    cells = Cells(options.out / "untrained_steps.json")
    text = f"{run(cells, chosen(options.encoders), options)}\n\n{cells.origin()}"
    (options.out / "untrained_steps.md").write_text(text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    keep_freed_memory()
    main()
