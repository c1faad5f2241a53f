"""How far pretrained encoders find photos before any training, and what they cost.

    python benchmarks/untrained.py --weights-dir FOLDER --photos clothing/validation
        [--grocery FOLDER] [--holidays FOLDER] [--download] [--encoders NAME ...] [--out FOLDER]

The table has one row an encoder, by default those that people ask for today. A row is searched
with if its weights are a file in WEIGHTS-DIR, called by the name without the library, such as
mobilenet_v2.pt or vit_small_patch16_dinov3.lvd1689m.safetensors; --download fetches the others.
What a photo costs is measured for all rows, in one run, since weights do not change it.

PHOTOS holds one sub-folder a label, and every photo asks for the others; so do the test photos of
the products 41 to 80 of Grocery Store. HOLIDAYS is scored by its own protocol. Finished cells are
kept in OUT/untrained.json and not run again. Of encoders of timm, the command also compares the
vectors with those of timm's own model and transform, and fails where they are not the same.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

from _data import Cells, keep_freed_memory
from _untrained.collections import COLUMNS, add_folders, load_given
from _untrained.encoders import chosen, of_encoder
from _untrained.measures import ROUNDS, TIMED, agreement, costs, search

SAME = 0.9999  # the least cosine to the vectors of timm
HEADS = ("encoder", "licence", "px", "length", "bytes", "ms a photo")
NOT_RUN = "not run here"


def found_by(cells, encoder, weights, collection, options):
    """Return mAP and P@1 of an encoder in a collection, None without weights."""
    if weights is None:
        return None
    at = f"{encoder.backbone}, {collection.name}"
    how = {"pooling": options.pooling, "rerank": options.rerank}
    settings = of_encoder(encoder, weights) | how | {"data": collection.content}
    measure = partial(search, encoder, weights, collection, **how)
    try:
        return cells.run(at, measure, settings=settings)
    except (ConnectionError, PermissionError) as error:  # of --download: no network, or gated
        print(f"{at}: {error}", flush=True)
        return None


def compare_with_timm(cells, encoder, weights, collection):
    """Return a line that says how near the vectors are to timm's own, and note what is wrong."""
    settings = of_encoder(encoder, weights) | {"data": collection.content}
    name = f"{encoder.backbone}, beside timm's own transform and model"
    measure = partial(agreement, encoder, weights, collection.photos)
    cosine = cells.run(name, measure, settings=settings)["cosine"]
    if cosine < SAME:
        cells.problems.append(f"{name}: a cosine of {cosine:.6f}, not {SAME}.")
    return f"{name}: cosine at least {cosine:.6f}."


def run(cells, encoders, collections, options):
    """Fill the table and return its text."""
    settings = {
        "encoders": [f"{encoder.backbone} {encoder.image_size}" for encoder in encoders],
        "photos": collections[0].content,
    }
    measure = partial(costs, encoders, collections[0].photos)
    name = f"costs, {TIMED} photos, median of {ROUNDS} rounds"
    costs_of = cells.run(name, measure, settings=settings)["encoders"]
    heads = [*HEADS]
    for collection in collections:
        heads += [f"{collection.name} ({len(collection.photos)}): mAP", "P@1"]
    lines, notes = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"], []
    for encoder in encoders:
        weights = encoder.weights(options.weights_dir, options.download)
        found = [found_by(cells, encoder, weights, into, options) for into in collections]
        lines.append(line_of(encoder, costs_of[encoder.backbone], found))
        if all(found) and encoder.backbone.startswith("timm/") and options.pooling == "auto":
            notes.append(compare_with_timm(cells, encoder, weights, collections[0]))
    return "\n\n".join(["\n".join(lines), *notes])


def line_of(encoder, cost, found):
    """Return a row of the table; `found` are the scores in every collection, None if not run."""
    values = [f"`{encoder.backbone}`", cost["licence"], encoder.image_size]
    values += [cost["length"], cost["bytes"], f"{cost['ms']:.0f}"]
    for scores in found:
        values += [f"{scores[c]:.3f}" for c in COLUMNS] if scores else [NOT_RUN, ""]
    return f"| {' | '.join(map(str, values))} |"


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    parser.add_argument("--weights-dir", type=Path, help="folder of NAME*.pt or .safetensors")
    parser.add_argument("--download", action="store_true", help="fetch weights that are not there")
    parser.add_argument("--encoders", nargs="+", help="any backbones by name, instead of the list")
    parser.add_argument("--pooling", default="auto", choices=("auto", "avg", "max", "gem"))
    parser.add_argument("--rerank", choices=("k_reciprocal",), help="of the whole ranking")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.collections = load_given(parser, options)
    return options


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(1)
    cells = Cells(options.out / "untrained.json")
    table = run(cells, chosen(options.encoders), options.collections, options)
    text = f"{table}\n\n{cells.origin()}"
    (options.out / "untrained.md").write_text(text + "\n")
    print(f"\n{text}")
    if cells.problems:
        raise SystemExit("\n".join(cells.problems))


if __name__ == "__main__":
    keep_freed_memory()
    main()
