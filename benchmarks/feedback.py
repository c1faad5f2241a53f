"""What likes and dislikes are worth: mAP after rounds in which three results are judged.

    python benchmarks/feedback.py --weights-dir FOLDER --photos clothing/validation
        [--grocery FOLDER] [--holidays FOLDER] [--encoders NAME ...] [--out FOLDER] [--quick]

A photo asks for the others of its label. In every round the first three results that were not
judged yet are: those of its label join it in `ids`, the others go to `unlike`, and
`NeighborsRetriever.like` asks again. Compared are weights of what is not liked; 0 is likes alone.

Two measures, since what was judged would count for itself otherwise [1]. "Frozen": what was shown
keeps the rank at which it was, the rest follows in the new order, so that all rounds and weights
rank the same photos. "Residual": the ranking of what was not judged, beside that of the plain
query; its photos differ from round to round, and become few and hard, so that only the two numbers
of one cell can be compared. Queries that have nothing relevant left are no part of it.

Weights are compared on the first collection, and what that chose is read on the others. Vectors
and finished cells are kept in OUT and not computed again.

[1] C. D. Manning, P. Raghavan, H. Schütze. "Introduction to information retrieval". Cambridge
    University Press, 2008, section 9.1.5.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch

from _data import Cells, keep_freed_memory, paired_bootstrap
from _untrained.collections import add_folders, load_given
from _untrained.encoders import chosen
from _untrained.measures import extractor
from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.hashing import ITQHasher

ENCODERS = ("mobilenet_v2", "timm/tf_efficientnet_lite0.in1k")
FORMS = ("cosine", "64 bits of ITQ", "these bits as floats")
ROUNDS, JUDGED = 3, 3
ALL_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
USUAL, CHOSEN = 0.2, 0.5  # of text books, and what the clothing photos chose
QUERIES, QUICK_QUERIES = 300, 20  # at most, drawn by a seed


def vectors(folder, encoder, weights, collection):
    """Return the vectors of all photos, computed once."""
    name = f"{encoder.backbone.replace('/', '-')} {collection.name} {collection.content}.npy"
    file = folder / name
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(
            file, extractor(encoder, weights).fit(collection.photos).transform(collection.photos)
        )
    return np.load(file)


def gallery_of(form, rows):
    """Return a retriever over rows, or over codes that are learned from them.

    Among bits as floats, the query is the share of votes of every bit, and no code.
    """
    if form == "cosine":
        return NeighborsRetriever(algorithm="exact").fit(rows)
    codes = ITQHasher(64, random_state=0).fit_transform(rows)
    if form == "64 bits of ITQ":
        return NeighborsRetriever(metric="hamming").fit(codes)
    return NeighborsRetriever(metric="euclidean", algorithm="exact").fit(codes.astype(np.float32))


def simulate(gallery, y, queries, weight):
    """Return frozen, residual and plain residual AP, lists (n_queries, 1 + ROUNDS) each.

    NaN, written as None, is where nothing relevant is left.
    """
    values = np.array([ask(gallery, y, query, weight) for query in queries])
    names = ("frozen", "residual", "plain residual")
    per_query = {name: _listed(values[:, :, i]) for i, name in enumerate(names)}
    final = float(np.mean(values[:, -1, 0]))
    return {"frozen at last": final, "per query": per_query}


def ask(gallery, y, query, weight):
    """Return the three values of one query, after no round and after each."""
    liked, unliked, shown, values = [query], [], [], []
    for _ in range(1 + ROUNDS):
        n_left = len(y) - 1 - len(shown)
        found = gallery.like(liked, unliked, unlike_weight=weight, n_neighbors=n_left)[1][0]
        if not shown:
            plain = found
        unjudged = plain[np.isin(plain, shown, invert=True)]
        rankings = np.concatenate([shown, found]).astype(int), found, unjudged
        values.append([average_precision(y[ranking] == y[query]) for ranking in rankings])
        judged = found[:JUDGED].tolist()
        for row in judged:
            (liked if y[row] == y[query] else unliked).append(row)
        shown += judged
    return values


def average_precision(relevant):
    """Return the mean precision at the ranks of what is relevant, NaN for nothing."""
    ranks = np.flatnonzero(relevant)
    return np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1)) if len(ranks) else np.nan


def _listed(values):
    return [[None if np.isnan(v) else round(float(v), 6) for v in row] for row in values]


def measure(cells, options, encoder, collection, form, weight):
    """Return what was simulated, as arrays by measure (n_queries, 1 + ROUNDS)."""
    n = QUICK_QUERIES if options.quick else QUERIES
    queries = np.sort(np.random.default_rng(0).permutation(collection.queries)[:n])
    weights = encoder.weights(options.weights_dir, False)
    if weights is None:
        raise SystemExit(f"--weights-dir has no weights of {encoder.backbone}.")

    def run():
        rows = vectors(options.out / "feedback", encoder, weights, collection)
        return simulate(gallery_of(form, rows), collection.y, queries.tolist(), weight)

    settings = {"data": collection.content, "n": n, "rounds": ROUNDS, "judged": JUDGED}
    name = f"{encoder.backbone}, {collection.name}, {form}, weight {weight}"
    per_query = cells.run(name, run, settings=settings)["per query"]
    return {key: np.array(value, dtype=float) for key, value in per_query.items()}


def table_of_weights(simulated, encoders, collection):
    """Return frozen mAP after the last round by weight, of all encoders and forms."""
    head = ["encoder", "rows", *map(str, ALL_WEIGHTS)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for encoder in encoders:
        for form in FORMS:
            found = [simulated(encoder, collection, form, weight) for weight in ALL_WEIGHTS]
            numbers = [f"{of['frozen'][:, -1].mean():.3f}" for of in found]
            lines.append(f"| `{encoder.backbone}` | {form} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def table_of_rounds(simulated, encoders, collections):
    """Return mAP after every round, with the gain over the plain query and over likes alone."""
    head = ["photos", "encoder", "rows", "weight", *(f"after {n}" for n in range(1 + ROUNDS))]
    head += ["gain over the plain query", "over likes alone"]
    head += [f"residual after {n}: plain, this (queries)" for n in range(1, 1 + ROUNDS)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for collection in collections:
        for encoder in encoders:
            for form in FORMS:
                weights = 0.0, USUAL, CHOSEN
                found = [simulated(encoder, collection, form, weight) for weight in weights]
                for weight, of in zip(weights, found):
                    cells = [collection.name, f"`{encoder.backbone}`", form, str(weight)]
                    lines.append(f"| {' | '.join(cells + line_of(of, found[0]))} |")
    return "\n".join(lines)


def line_of(of, likes):
    """Return the numbers of one row of the table of rounds, as text."""
    frozen = of["frozen"]
    numbers = [f"{value:.3f}" for value in frozen.mean(axis=0)]
    numbers.append(interval(frozen[:, 0], frozen[:, -1]))
    numbers.append("" if of is likes else interval(likes["frozen"][:, -1], frozen[:, -1]))
    for n in range(1, 1 + ROUNDS):
        plain, this = (np.nanmean(of[key][:, n]) for key in ("plain residual", "residual"))
        numbers.append(f"{plain:.3f}, {this:.3f} ({np.isfinite(of['residual'][:, n]).sum()})")
    return numbers


def interval(before, after):
    mean, low, high = paired_bootstrap(before, after)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    parser.add_argument("--weights-dir", type=Path, required=True, help="folder of NAME*.pt")
    parser.add_argument("--encoders", nargs="+", default=ENCODERS)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_QUERIES} queries of each")
    options = parser.parse_args(arguments)
    options.collections = load_given(parser, options)
    return options


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(1)
    cells = Cells(options.out / "feedback.json")
    encoders = chosen(options.encoders)
    simulated = partial(measure, cells, options)
    tables = [
        table_of_weights(simulated, encoders, options.collections[0]),
        table_of_rounds(simulated, encoders, options.collections),
    ]
    text = "\n\n".join([*tables, cells.origin()])
    (options.out / "feedback.md").write_text(text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    keep_freed_memory()
    main()
