"""Whether a network of timm sees what timm itself shows it: vectors beside those of its own code.

    python benchmarks/agreement.py --data FOLDER NAME=WEIGHTS [NAME=WEIGHTS ...] [--step 8]

NAME is a network of timm, WEIGHTS a file with its state dict. Photos are copied to PNG first, since
JPEG is decoded at a reduced size here. Printed are the cosines of the vectors, the least and the
median, where timm's transform cuts nothing off (`crop_pct=1.0`), and where it is unchanged
(`resize_size="source"`).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.preprocessing import normalize

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import load_image_folder


def by_timm(name, weights, photos, image_size=None, **changes):
    """Return vectors of unit length by timm's own model and transform.

    `weights` are a file, or "pretrained"; `image_size` is another one than the network's own.
    """
    source = {"pretrained": True} if weights == "pretrained" else {"checkpoint_path": weights}
    if image_size is not None:
        changes["input_size"] = (3, image_size, image_size)
        if timm.get_pretrained_cfg(name).fixed_input_size:
            source["img_size"] = image_size
    model = timm.create_model(name, **source).eval()
    model.reset_classifier(0)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config | changes)
    with torch.inference_mode():
        vectors = [model(transform(Image.open(photo))[None])[0].numpy() for photo in photos]
    return normalize(np.stack(vectors))


def by_package(name, weights, photos, **parameters):
    """Return vectors of unit length by the extractor."""
    extractor = CNNFeatureExtractor(f"timm/{name}", weights=weights, loss=None, **parameters)
    return extractor.fit_transform(photos)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", metavar="NAME=WEIGHTS")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--step", type=int, default=1, help="take every so manieth photo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = []
        for number, photo in enumerate(load_image_folder(options.data).data[:: options.step]):
            photos.append(f"{folder}/{number}.png")
            Image.open(photo).convert("RGB").save(photos[-1], compress_level=1)
        for network in options.networks:
            name, _, weights = network.partition("=")
            for case, parameters, changes in (
                ("whole photos", {}, {"crop_pct": 1.0}),
                ("unchanged", {"resize_size": "source"}, {}),
            ):
                own = by_package(name, weights, photos, **parameters)
                cosines = (own * by_timm(name, weights, photos, **changes)).sum(axis=1)
                least, median = cosines.min(), np.median(cosines)
                print(
                    f"{name}, {case}, {len(photos)} photos: least {least:.7f}, median {median:.7f}"
                )


if __name__ == "__main__":
    main()
