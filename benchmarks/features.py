"""Features of photos in memory: each runtime beside loops of torch, ratios of medians in one run.

    python benchmarks/features.py [--nets mobilenet_v2 resnet18] [--turns 5] [--fresh]

The baseline is the fastest of six loops in inference mode: batches of 1, 8 and 32, channels last
or not, pixels to unit rows. All computes with one thread, in turns, and is timed by processor time.
`--fresh` starts a process for each of 1, 32 and 1,000 photos, imports and conversion included.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
import warnings

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

# What a user would write instead of `transform`, and the same by this package.
PLAIN = """
import numpy as np, torch
torch.set_num_threads(1)
from benchmarks_features import network, photos
net, images = network({net!r}), photos({n})
with torch.inference_mode():
    rows = [net.embed(piece) for piece in images.split({batch})]
"""
OURS = """
import numpy as np, torch, warnings
torch.set_num_threads(1)
from benchmarks_features import extractor, photos
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    extractor({net!r}, {runtime!r}).transform(photos({n}).permute(0, 2, 3, 1).numpy())
"""


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


def fresh(net, batch):
    """Print processor seconds of whole processes: a plain loop, and `transform`."""
    for n in FRESH:
        codes = {"plain": PLAIN.format(net=net, n=n, batch=batch)}
        codes |= {"ours": OURS.format(net=net, n=n, runtime="auto")}
        took = {name: min(_process(code) for _ in range(2)) for name, code in codes.items()}
        print(f"| {net} | {n} | {took['plain']:.2f} | {took['ours'] / took['plain']:.2f} |")


def _process(code):
    folder = os.path.dirname(os.path.abspath(__file__))
    code = code.replace("benchmarks_features", "features")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, *sys.path[1:]])}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment)
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
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--batch", type=int, default=8, help="of the plain loop of --fresh")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"Processor: {processor()}; torch {torch.__version__}; one thread")
    if options.fresh:
        print("| net | photos | plain s | ours / plain |\n|---|---|---|---|")
        for net in options.nets:
            fresh(net, options.batch)
        return
    print("| net | best loop ms | torch | openvino | difference | preparation s | sgemm GF/s |")
    print("|---|---|---|---|---|---|---|")
    found = [measure(net, options.turns) for net in options.nets]
    for runtime in RUNTIMES:
        mean = np.exp(np.mean([np.log(ratios[runtime]) for ratios in found]))
        print(f"geometric mean, {runtime}: {mean:.2f}")


if __name__ == "__main__":
    main()
