"""Features of photos in memory: each runtime beside loops of torch, ratios of medians in one run.

    python benchmarks/features.py [--nets mobilenet_v2 resnet18] [--turns 5] [--fresh [N ...]]

The baseline is the fastest of six loops in inference mode: batches of 1, 8 and 32, channels last
or not, pixels to unit rows. All computes with one thread, in turns, and is timed by processor time.
`--fresh` starts processes for 1, 32 and 1,000 photos, imports and conversion included, beside such
that import torch and torchvision alone.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir._network import Network
from sklearn_cbir.backbones import build_backbone

NETS = {
    "mobilenet_v2": "mobilenet_v2",
    "resnet18": "resnet18",
    "vgg19": "vgg19",
    "inception_v3": "inception_v3",
    "resnet50": "resnet50",
    "vit_small": "timm/vit_small_patch16_224",
}
RUNTIMES = ("torch", "openvino")
SIDE, N = 224, 32
BATCHES = (1, 8, 32)
LAYOUTS = {"rows": torch.contiguous_format, "channels last": torch.channels_last}
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
FRESH = (1, 32, 1000)

# A process of its own: what a user would write with torch and torchvision alone, and with this
# package. Both draw the weights and the photos.
BARE = """
import numpy, torch, torchvision
torch.set_num_threads(1)
net = torchvision.models.get_model({net!r}, weights=None)
net.set_submodule({classifier!r}, torch.nn.Identity())
net.eval().to(memory_format=torch.channels_last)
photos = numpy.random.default_rng(0).integers(0, 256, ({n}, {side}, {side}, 3), dtype=numpy.uint8)
mean, std = 255 * torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
rows = []
with torch.inference_mode():
    for start in range(0, {n}, {batch}):
        pixels = torch.from_numpy(photos[start : start + {batch}]).permute(0, 3, 1, 2)
        rows.append(torch.nn.functional.normalize(net((pixels - mean) / std)))
rows = torch.cat(rows).numpy()
"""
OURS = """
import numpy, torch, warnings
from sklearn_cbir import CNNFeatureExtractor
torch.set_num_threads(1)
warnings.simplefilter("ignore")
photos = numpy.random.default_rng(0).integers(0, 256, ({n}, {side}, {side}, 3), dtype=numpy.uint8)
extractor = CNNFeatureExtractor(
    {net!r}, weights=None, loss=None, image_size={side}, random_state=0, runtime={runtime!r}
)
rows = extractor.fit(photos[:1]).transform(photos)
"""
# What stands behind the features, and the batch of the fastest loop of torch.
ALONE = {"mobilenet_v2": ("classifier", 1), "resnet18": ("fc", 8), "resnet50": ("fc", 8)}


def photos(n):
    pixels = np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def network(net, layout=torch.channels_last):
    torch.manual_seed(0)
    trunk = build_backbone(NETS[net], weights=None, image_size=SIDE)
    trunk.memory_format = layout
    return Network(trunk, unit_length=True).eval().to(memory_format=layout)


def extractor(net, runtime):
    made = CNNFeatureExtractor(
        NETS[net], weights=None, loss=None, image_size=SIDE, random_state=0, runtime=runtime
    )
    return made.fit(photos(1).permute(0, 2, 3, 1).numpy())


def loop(net, images, batch):
    with torch.inference_mode():
        return torch.cat([net.embed(piece) for piece in images.split(batch)]).numpy()


def spent(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def sgemm():
    a = torch.ones(1024, 1024)
    return 2 * 1024**3 / spent(lambda: a @ a)


def measure(net, turns):
    """Print one row: milliseconds a photo, ratios, largest difference, preparation."""
    images = photos(N)
    pixels = images.permute(0, 2, 3, 1).numpy()
    works = {}
    for layout, form in LAYOUTS.items():
        made, seen = network(net, form), images.contiguous(memory_format=form)
        for batch in BATCHES:
            works[layout, batch] = lambda made=made, seen=seen, batch=batch: loop(made, seen, batch)
    ours = {runtime: extractor(net, runtime) for runtime in RUNTIMES}
    for made in ours.values():  # the weights that the loops have
        made._network.load_state_dict(network(net).state_dict())
    works |= {runtime: lambda made=made: made.transform(pixels) for runtime, made in ours.items()}
    prepared = {name: spent(work) for name, work in works.items()}  # and warm
    rows = {name: works[name]() for name in RUNTIMES}
    difference = np.abs(rows["torch"] - rows["openvino"]).max()
    times = {name: [] for name in works}
    flops = []
    for _ in range(turns):
        for name, work in works.items():
            times[name].append(spent(work))
        flops.append(sgemm())
    found = {name: 1e3 * float(np.median(values)) / N for name, values in times.items()}
    baseline, best = min((value, name) for name, value in found.items() if name not in RUNTIMES)
    print(
        f"| {net} | {baseline:.1f} ({best[0]}, {best[1]}) | {found['torch'] / baseline:.2f} | "
        f"{found['openvino'] / baseline:.2f} | {difference:.0e} | "
        f"{prepared['openvino'] - found['openvino'] * N / 1e3:.1f} | "
        f"{np.median(flops) / 1e9:.0f} |",
        flush=True,
    )
    return {runtime: found[runtime] / baseline for runtime in RUNTIMES}


def fresh(net, numbers, turns):
    """Print processor seconds of whole processes: bare torch, and `transform` by each runtime."""
    classifier, batch = ALONE[net]
    for n in numbers:
        asked = {"net": net, "n": n, "side": SIDE}
        codes = {"bare": BARE.format(**asked, classifier=classifier, batch=batch)}
        codes |= {name: OURS.format(**asked, runtime=name) for name in ("auto", "torch")}
        took = {name: [] for name in codes}
        for _ in range(turns):
            for name, code in codes.items():
                took[name].append(_process(code))
        took = {name: float(np.median(values)) for name, values in took.items()}
        ratios = " | ".join(f"{took[name] / took['bare']:.2f}" for name in ("auto", "torch"))
        print(f"| {net} | {n:,} | {took['bare']:.2f} | {ratios} |", flush=True)


def _process(code):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def processor():
    """Return what the processor can do, of what matters here."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = set(next(line for line in file if line.startswith("flags")).split())
    except (OSError, StopIteration):
        return platform.processor()
    return ", ".join(flag for flag in FLAGS if flag in flags)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--fresh", nargs="*", type=int, help="numbers of photos, else 1 32 1000")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"Processor: {processor()}; torch {torch.__version__}; one thread")
    if options.fresh is not None:
        print("| net | photos | bare torch s | auto | torch |\n|---|---|---|---|---|")
        for net in filter(ALONE.get, options.nets):
            fresh(net, options.fresh or FRESH, options.turns)
        return
    print("| net | best loop ms | torch | openvino | difference | preparation s | sgemm GF/s |")
    print("|---|---|---|---|---|---|---|")
    found = [measure(net, options.turns) for net in options.nets]
    for runtime in RUNTIMES:
        mean = np.exp(np.mean([np.log(ratios[runtime]) for ratios in found]))
        print(f"geometric mean, {runtime}: {mean:.2f}")


if __name__ == "__main__":
    main()
