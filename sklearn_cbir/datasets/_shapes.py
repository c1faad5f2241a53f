"""Drawn images, for docs and tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from sklearn_cbir._typing import RandomState
from sklearn_cbir._validation import check_boolean, check_integer, check_real

__all__ = ["make_shapes"]

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ((0.85, 0.2, 0.2), (0.2, 0.7, 0.25), (0.2, 0.35, 0.9), (0.9, 0.8, 0.15))


def make_shapes(
    n_samples: int = 200,
    *,
    n_classes: int = 4,
    image_size: int = 32,
    multilabel: bool = False,
    noise: float = 0.05,
    random_state: RandomState = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw small labelled images of colored shapes.

    A class is a shape in a color. Position, size, rotation, shade and
    background vary. So raw pixels cannot tell many classes apart (with 16
    classes, one nearest neighbor in five is right), but a small net learns
    them.

    Parameters
    ----------
    n_samples : int, default=200
        Number of images.

    n_classes : int, default=4
        Number of classes, at most 16: a circle, square, triangle or cross in
        one of four colors. Up to 4 they differ in both.

    image_size : int, default=32
        Height and width in px.

    multilabel : bool, default=False
        Whether images hold one to three shapes of different classes.

    noise : float, default=0.05
        Standard deviation of the noise, relative to the range of values.

    random_state : int, RandomState instance or None, default=0
        Seed; the same seed draws the same images.

    Returns
    -------
    images : ndarray of shape (n_samples, image_size, image_size, 3), uint8
        The images.

    y : ndarray of shape (n_samples,) or (n_samples, n_classes), int64
        Class indices, whose counts differ by at most one; or 0/1 columns.

    Examples
    --------
    >>> images, y = make_shapes(12, random_state=0)
    >>> images.shape, y.shape
    ((12, 32, 32, 3), (12,))
    """
    n_samples = check_integer(n_samples, "n_samples", minimum=1)
    n_classes = check_integer(n_classes, "n_classes", minimum=1, maximum=16)
    image_size = check_integer(image_size, "image_size", minimum=8)
    noise = check_real(noise, "noise", minimum=0)
    check_boolean(multilabel, "multilabel")
    rng = check_random_state(random_state)
    y = rng.permutation(np.arange(n_samples) % n_classes)
    classes = [[label] for label in y]
    if multilabel:
        classes = [_add_others(label, n_classes, rng) for label in y]
        y = np.array([np.bincount(labels, minlength=n_classes) for labels in classes])
    images = np.stack([_draw(labels, image_size, noise, rng) for labels in classes])
    return images, y


def _add_others(label: int, n_classes: int, rng: np.random.RandomState) -> list[int]:
    """Return one to three different classes, `label` among them."""
    others = rng.permutation(np.delete(np.arange(n_classes), label))
    return [label, *others[: rng.randint(3)]]


def _draw(
    labels: Sequence[int], size: int, noise: float, rng: np.random.RandomState
) -> NDArray[np.uint8]:
    """Draw one image with one shape per label."""
    # A background of one shade that changes towards one side.
    axis = np.linspace(-0.1, 0.1, size)
    slope = rng.uniform(-1, 1, size=2)
    background = rng.uniform(0.25, 0.75, size=3)
    image = background + (slope[0] * axis[:, None] + slope[1] * axis)[:, :, None]  # (H, W, 3)
    cells = rng.permutation(4)  # shapes of one image lie in different quarters
    for label, cell in zip(labels, cells):
        if len(labels) == 1:
            radius = rng.uniform(0.18, 0.32)
            center = rng.uniform(radius, 1 - radius, size=2)
        else:
            radius = rng.uniform(0.15, 0.22)
            center = 0.25 + 0.5 * np.array(divmod(cell, 2)) + rng.uniform(-0.04, 0.04, size=2)
        color = np.array(COLORS[(label + label // 4) % 4]) + rng.uniform(-0.15, 0.15, size=3)
        cover = _cover(SHAPES[label % 4], size, center, radius, rng.uniform(0, 2 * np.pi))
        image += cover[:, :, None] * (color - image)
    image += rng.normal(scale=noise, size=image.shape)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _cover(
    shape: str, size: int, center: NDArray[np.float64], radius: float, angle: float
) -> NDArray[np.float64]:
    """Return how much of every pixel (size, size) a shape covers, 0 to 1."""
    places = (np.arange(size) + 0.5) / size
    down, right = (places[:, None] - center[0]) / radius, (places - center[1]) / radius
    u = np.cos(angle) * right + np.sin(angle) * down
    v = np.cos(angle) * down - np.sin(angle) * right
    # How far inside the unit shape, in radii; negative outside.
    if shape == "circle":
        inside = 1 - np.hypot(u, v)
    elif shape == "square":
        inside = 0.8 - np.maximum(np.abs(u), np.abs(v))
    elif shape == "triangle":
        inside = 0.5 - np.maximum(v, np.abs(u) * np.sqrt(3) / 2 - v / 2)
    else:
        u, v = np.abs(u), np.abs(v)
        inside = np.maximum(
            np.minimum(0.95 - u, 0.3 - v), np.minimum(0.3 - u, 0.95 - v)
        )  # two bars
    return np.clip(inside * radius * size + 0.5, 0, 1)
