"""What the pictures of pictures.py are made of: places in inches, photos, words, boxes, arrows."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

LARGEST = 60_000  # bytes
# Colors of Okabe and Ito, told apart with any color vision.
GREEN, RED, BLUE, ORANGE, GRAY = "#009E73", "#D55E00", "#0072B2", "#E69F00", "#8C8C8C"
INK, PALE = "#1A1A1A", "#EEF3F7"
WIDTH = 5.2  # inches, 728 px; 10 points are 10 px where a picture is 375 px wide
SIX = [BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9"]
LOOKS = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def spotlight(photo: Image.Image, share: np.ndarray) -> np.ndarray:
    """Return a photo that is as bright at each place as its share (h, w) is large."""
    light = Image.fromarray((share / share.max()).astype(np.float32)).resize(photo.size, 2)
    return (np.asarray(photo) * np.clip(0.15 + 0.85 * np.asarray(light), 0, 1)[..., None]).astype(
        np.uint8
    )


def canvas(width: float, height: float):
    """Return a figure whose axes are inches, without anything on them."""
    figure = plt.figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return figure, ax


def put(ax, image, x: float, y: float, side: float, color: str | None = None, text: str = ""):
    """Draw a photo inside a square, a frame of a color around it and words below."""
    if isinstance(image, (str, Path)):
        image = Image.open(image).convert("RGB")
    pixels = np.asarray(image).squeeze()
    h, w = pixels.shape[:2]
    scale = side / max(h, w)
    left, bottom = x + (side - scale * w) / 2, y + (side - scale * h) / 2
    extent = (left, left + scale * w, bottom, bottom + scale * h)
    gray = {"cmap": "gray", "vmin": 0, "vmax": 255} if pixels.ndim == 2 else {}
    ax.imshow(pixels, extent=extent, aspect="auto", interpolation="antialiased", zorder=2, **gray)
    if color:
        ax.add_patch(plt.Rectangle(extent[::2], scale * w, scale * h, fill=False, lw=2.5,
                                   edgecolor=color, zorder=3))  # fmt: skip
    if text:
        write(ax, x + side / 2, y - 0.1, text, size=9, color=color or INK)
    ax.set(xlim=(0, ax.figure.get_figwidth()), ylim=(0, ax.figure.get_figheight()))


def heat(ax, values, x: float, y: float, w: float, h: float, cmap: str = "viridis", vmax=None):
    """Draw numbers as colors."""
    ax.imshow(values, extent=(x, x + w, y, y + h), aspect="auto", cmap=cmap, vmax=vmax, vmin=0)
    ax.add_patch(plt.Rectangle((x, y), w, h, fill=False, lw=0.8, edgecolor=INK))
    ax.set(xlim=(0, ax.figure.get_figwidth()), ylim=(0, ax.figure.get_figheight()))


def write(ax, x: float, y: float, text: str, **looks):
    """Write words around a place."""
    ax.text(x, y, text, **{"ha": "center", "va": "center", "color": INK} | looks)


def box(ax, x: float, y: float, w: float, h: float, text: str, color: str = PALE, **looks):
    """Draw a box with words in it."""
    ax.add_patch(FancyBboxPatch((x + 0.05, y + 0.05), w - 0.1, h - 0.1, "round,pad=0.05", lw=1,
                                facecolor=color, edgecolor=INK))  # fmt: skip
    write(ax, x + w / 2, y + h / 2, text, **looks)


def arrow(ax, start: Sequence[float], end: Sequence[float], color: str = INK):
    """Draw an arrow."""
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color,
                                 shrinkA=0, shrinkB=0))  # fmt: skip


def mark(right: bool) -> str:
    """Return the sign of a result."""
    return "✓ " if right else "✗ "


def sheet_of(rows, height: float):
    """Return rows of photos with words below them."""
    n = max(map(len, rows))
    side = (WIDTH - 0.1 * (n + 1)) / n
    figure, ax = canvas(WIDTH, height * len(rows))
    for line, tiles in enumerate(rows):
        y = height * (len(rows) - 1 - line) + 0.22
        for number, (image, text) in enumerate(tiles):
            put(ax, image, 0.1 + (side + 0.1) * number, y, side)
            write(ax, 0.1 + (side + 0.1) * number + side / 2, y - 0.11, text)
    return figure


def drawn(function: Callable) -> Image.Image:
    """Return what a function draws, 728 pixels wide."""
    with mpl.rc_context(LOOKS):
        figure = function()
        if isinstance(figure, Image.Image):
            return figure
        file = io.BytesIO()
        figure.savefig(file, dpi=728 / figure.get_figwidth(), facecolor="white")
        plt.close(figure)
    return Image.open(file).convert("RGB")


def save(image: Image.Image, path: Path) -> None:
    """Write an image as a file that is small enough for the repository."""
    image.save(path, lossless=True, method=6)
    if path.stat().st_size > LARGEST // 2:
        image.save(path, quality=80, method=6)
    assert path.stat().st_size < LARGEST, path
