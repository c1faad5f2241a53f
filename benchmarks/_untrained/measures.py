"""What is measured of an encoder: how far it finds, what it costs, whether it is its source's."""

import tempfile
import time
import warnings

import numpy as np
from PIL import Image

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.backbones import build_backbone

ROUNDS = 5
TIMED = 8  # photos a round
COMPARED = 64  # photos


def extractor(encoder, weights, pooling="auto"):
    """Return an encoder as it is, at its size."""
    return CNNFeatureExtractor(
        encoder.backbone,
        weights=weights,
        loss=None,
        pooling=pooling,
        image_size=encoder.image_size,
        batch_size=32,
        words=False,
    )


def search(encoder, weights, collection, pooling, rerank):
    """Score a collection by the vectors of an encoder."""
    network = extractor(encoder, weights, pooling).fit(collection.photos)
    return collection.score(network.transform(collection.photos), rerank)


def costs(encoders, photos):
    """Return of every encoder what a photo costs.

    Milliseconds are processor time of reading and encoding, the median of rounds in which the
    encoders take turns. Time and length do not depend on weights, so that none are needed.
    """
    photos = photos[:TIMED]
    networks = {encoder.backbone: _with_new_weights(encoder, photos) for encoder in encoders}
    times = {name: [] for name in networks}
    for _ in range(ROUNDS):
        for name, network in networks.items():
            started = time.process_time()
            network.transform(photos)
            times[name].append(1000 * (time.process_time() - started) / len(photos))
    of_vector = {encoder.backbone: _vector_and_licence(encoder) for encoder in encoders}
    return {
        "encoders": {
            name: of_vector[name] | {"ms": float(np.median(values))}
            for name, values in times.items()
        }
    }


def _with_new_weights(encoder, photos):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loss=None and weights=None")
        return extractor(encoder, None).fit(photos)


def _vector_and_licence(encoder):
    trunk = build_backbone(encoder.backbone, weights=None, image_size=encoder.image_size)
    source = trunk.spec["source"] or {}
    return {
        "length": trunk.width,
        "bytes": 4 * trunk.width,  # float32
        "licence": source.get("licence") or encoder.licence or "not stated",
    }


def agreement(encoder, weights, photos):
    """Return the smallest cosine between our vectors and those of timm's own transform and model.

    The transform cuts nothing off beyond the square (``crop_pct=1.0``). The photos are PNG
    copies, since JPEG files are decoded at a reduced size here.
    """
    from agreement import by_timm  # which needs timm

    name, size = encoder.backbone.removeprefix("timm/"), encoder.image_size
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for i, path in enumerate(photos[:COMPARED]):
            copies.append(f"{folder}/{i}.png")
            with Image.open(path) as image:
                image.convert("RGB").save(copies[-1], compress_level=1)
        ours = extractor(encoder, weights).fit_transform(copies)
        theirs = by_timm(name, weights, copies, image_size=size, crop_pct=1.0)
    return {"cosine": float(np.min(np.sum(ours * theirs, axis=1)))}
