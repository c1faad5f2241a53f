"""What the estimators cost beside hand-written loops: ratios of medians in one run.

    python benchmarks/training.py [--photos FOLDER] [--repeats 5]

Three pairs, interleaved: `fit` against a plain torch loop of the same net, batch size, optimizer
and schedule on 32 px arrays; `transform` against a bare inference loop; reading JPEG files
against a bare decoding loop.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.datasets import load_image_folder, make_shapes
from sklearn_cbir.images import check_images

BATCH, EPOCHS, LR = 128, 2, 1e-3


def estimator(**params):
    return CNNFeatureExtractor(
        "resnet9",
        weights=None,
        loss="softmax",
        augment=None,
        max_epochs=EPOCHS,
        batch_size=BATCH,
        lr=LR,
        weight_decay=0.01,
        schedule="constant",
        random_state=0,
        **params,
    )


class Net(torch.nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.trunk = build_backbone("resnet9")
        self.classifier = torch.nn.Linear(self.trunk.width, n_classes)

    def forward(self, x):
        return self.classifier(self.trunk(x))


def as_tensor(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def hand_written_fit(images, y):
    torch.manual_seed(0)
    net = Net(len(np.unique(y)))
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01)
    x, targets = as_tensor(images), torch.from_numpy(y)
    net.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(x[rows]), targets[rows])
            loss.backward()
            optimizer.step()
            loss.item()
    return net


def hand_written_transform(net, images):
    net.eval()
    with torch.inference_mode():
        rows = [net.trunk(batch) for batch in as_tensor(images).split(BATCH)]
        return torch.nn.functional.normalize(torch.cat(rows)).numpy()


def bare_decode(paths, size):
    out = np.empty((len(paths), size, size, 3), dtype=np.uint8)
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            image.draft("RGB", (size, size))
            image = image.convert("RGB")
            scale = size / min(image.size)
            width, height = (max(size, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            left, top = (width - size) // 2, (height - size) // 2
            out[i] = image.crop((left, top, left + size, top + size))
    return out


def write_photos(folder, n=200):
    """Noise with structure at 256 px, as JPEG files."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((340, 256), Image.Resampling.BICUBIC).save(
            folder / f"{i:03d}.jpg", quality=90
        )


def compare(name, ours, theirs, repeats):
    """Time both in turn and print the ratio of the medians."""
    ours(), theirs()
    times = {ours: [], theirs: []}
    for _ in range(repeats):
        for function, measured in times.items():
            start = time.perf_counter()
            function()
            measured.append(time.perf_counter() - start)
    a, b = np.median(times[ours]), np.median(times[theirs])
    print(f"| {name} | {a:.3f} | {b:.3f} | {a / b:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; default: generated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--n", type=int, default=4096, help="images of the first two rows")
    options = parser.parse_args()
    images, y = make_shapes(options.n, random_state=0)
    fitted, net = estimator().fit(images, y), hand_written_fit(images, y)
    print("| | ours, s | by hand, s | ratio |\n|---|---|---|---|")
    compare(
        f"fit, {options.n} x 32 px, {EPOCHS} epochs",
        lambda: estimator().fit(images, y),
        lambda: hand_written_fit(images, y),
        options.repeats,
    )
    compare(
        f"transform, {options.n} x 32 px",
        lambda: fitted.transform(images),
        lambda: hand_written_transform(net, images),
        options.repeats,
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        if options.photos is None:
            write_photos(Path(folder))
        paths = load_image_folder(options.photos or folder).data[:400]
        compare(
            f"read {len(paths)} JPEG files at 224 px",
            lambda: check_images(paths).read(np.arange(len(paths)), 224, resize=224),
            lambda: bare_decode(paths, 224),
            options.repeats,
        )


if __name__ == "__main__":
    main()
