"""What an exported network costs beside the estimator that it comes from: milliseconds an image.

    python benchmarks/handing_over.py [--repeats 5] [--only mobilenet_v2 ...]

Both transform the same arrays, in turns, with one thread each; times are medians of processor
time. The networks are random, which changes no time. The last two lines are processes of their own
that load a file and give one row: torch's by `persistence`, the other by `OnnxExtractor`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch

from sklearn_cbir import CNNFeatureExtractor, OnnxExtractor, to_onnx
from sklearn_cbir.persistence import save

# Backbone: the size of its images in px, and how many are transformed.
NETWORKS = {
    "small": (32, 1024),
    "resnet9": (32, 1024),
    "mobilenet_v2": (224, 64),
    "resnet18": (224, 64),
    "resnet50": (224, 32),
    "timm/tf_efficientnet_lite0": (224, 64),
    "timm/vit_tiny_patch16_224": (224, 64),
}
FIRST_ROW = """
import sys, resource, numpy as np
image = np.zeros((1, 224, 224, 3), dtype=np.uint8)
if sys.argv[1].endswith(".onnx"):
    from sklearn_cbir import OnnxExtractor
    extractor = OnnxExtractor(sys.argv[1], n_threads=1)
else:
    from sklearn_cbir.persistence import load
    extractor = load(sys.argv[1])
extractor.transform(image)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
"""


def random_extractor(name, size):
    extractor = CNNFeatureExtractor(
        name, weights=None, loss=None, image_size=size, device="cpu", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is random, and so are its features
        return extractor.fit(np.zeros((1, size, size, 3), dtype=np.uint8))


def milliseconds(functions, repeats, n):
    """Return medians of processor time per image of functions that are called in turns."""
    times = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(repeats):
        for function, measured in zip(functions, times):
            start = time.process_time()
            function()
            measured.append(time.process_time() - start)
    return [1000 * float(np.median(measured)) / n for measured in times]


def compare(name, folder, repeats):
    size, n = NETWORKS[name]
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, 3)).astype(np.uint8)
    extractor, path = random_extractor(name, size), folder / "network.onnx"
    to_onnx(extractor, path)
    exported = OnnxExtractor(path, n_threads=1)
    a, b = milliseconds(
        [lambda: extractor.transform(images), lambda: exported.transform(images)], repeats, n
    )
    difference = np.linalg.norm(extractor.transform(images) - exported.transform(images), axis=1)
    megabytes = path.stat().st_size / 1e6
    print(
        f"| {name}, {size} px | {a:.3f} | {b:.3f} | {b / a:.2f} | {megabytes:.1f} | "
        f"{difference.max():.1e} |",
        flush=True,
    )


def first_row(folder):
    extractor = random_extractor("mobilenet_v2", 224)
    save(extractor, folder / "network.cbir")
    to_onnx(extractor, folder / "network.onnx")
    print("\n| mobilenet_v2, to the first row | s | MB of memory |\n|---|---|---|")
    for name, file in (("torch", "network.cbir"), ("onnxruntime", "network.onnx")):
        command = [sys.executable, "-c", FIRST_ROW, str(folder / file)]
        seconds, megabytes = map(float, subprocess.check_output(command).split())
        print(f"| {name} | {seconds:.1f} | {megabytes:.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | torch, ms | onnxruntime, ms | ratio | file, MB | largest difference |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            compare(name, Path(folder), options.repeats)
        first_row(Path(folder))


if __name__ == "__main__":
    main()
