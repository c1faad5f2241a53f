"""Learning to rank: distances that grow with the rank of a negative against equal ones."""

from functools import partial

from _papers import squared_hinge, zero_shot
from _papers._compare import Row, compare
from sklearn_cbir.losses import LRMLLoss

LOSSES = {
    "triplet": "triplet",
    "equal distances (delta = 0)": LRMLLoss(step=0.0),
    "staircase (delta = 0.05)": LRMLLoss(step=0.05),
    "ranked list": LRMLLoss("ranked_list"),
}

RATES = (1e-3, 1e-2)  # on photos


def run_photos(cells, task, options):
    """Fill the table on photos: a pretrained network, GeM pooling, its own features."""
    (backbone, weights), *_ = squared_hinge.networks(options).items()
    rows = [
        Row(name, partial(squared_hinge.extractor, loss, pooling="gem"), options.rates or RATES)
        for name, loss in LOSSES.items()
    ]
    # The features are the trunk's own: there is no head to train before.
    budgets = squared_hinge.settings_of(options, backbone, weights, head=0)
    return compare(cells, rows, task, seeds=options.seeds, label=f" {backbone}", **budgets)


def run_drawings(cells, task, options):
    """Fill the table on drawings of unseen characters: a small net from scratch, GeM pooling."""
    rows = [
        Row(name, partial(zero_shot.extractor, loss), options.rates or zero_shot.RATES)
        for name, loss in LOSSES.items()
    ]
    final = {
        "backbone": options.backbone,
        "weights": None,
        "pooling": "gem",
        "augment": "crop",
        "autocast": True,
        "max_epochs": options.epochs,
        "batch_size": 90,
        "n_per_class": 2,
    }
    return compare(cells, rows, task, seeds=options.seeds, final=final)
