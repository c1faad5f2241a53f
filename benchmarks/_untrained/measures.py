"""What is measured of an encoder: how far it finds, what it costs, whether it is its source's."""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.images import check_images

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
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for i, path in enumerate(photos[:COMPARED]):
            copies.append(Path(folder, f"{i}.png"))
            with Image.open(path) as image:
                image.convert("RGB").save(copies[-1])
        network = extractor(encoder, weights).fit(check_images(copies))
        ours = network.transform(copies)
        theirs = vectors_of_timm(encoder, weights, copies)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    return {"cosine": float(np.min(np.sum(ours * theirs, axis=1)))}


def vectors_of_timm(encoder, weights, photos):
    """Return the vectors of timm's own model and transform, by nothing of this package."""
    import timm

    name = encoder.backbone.removeprefix("timm/")
    size = encoder.image_size
    is_file = Path(weights).is_file()
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    model = timm.create_model(name, pretrained=not is_file, **({"img_size": size} if fixed else {}))
    if is_file:
        timm.models.load_checkpoint(model, weights)  # which fails if a tensor is missing
    model.reset_classifier(0)
    reading = timm.data.resolve_model_data_config(model) | {"input_size": (3, size, size)}
    transform = timm.data.create_transform(**reading | {"crop_pct": 1.0})
    vectors = []
    with torch.inference_mode():
        for photo in photos:
            with Image.open(photo) as image:
                vectors.append(model.eval()(transform(image.convert("RGB"))[None]))
    return torch.cat(vectors).numpy()
