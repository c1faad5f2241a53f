"""Photos that tests of collections write: drawings in files that were changed long ago."""

import os
from pathlib import Path

from PIL import Image

from sklearn_cbir.datasets import make_shapes

IMAGES, _ = make_shapes(40, random_state=0)
LONG_AGO = 1_600_000_000 * 10**9  # ns


def write(path, number, **options):
    """Write photo `number` as a file of its own time."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(IMAGES[number]).save(path, **options)
    os.utime(path, ns=(LONG_AGO, LONG_AGO + number))
    return path
