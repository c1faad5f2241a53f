"""Folders of photos, files of drawings, and drawn shapes -> images with labels."""

import os
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state

from sklearn_cbir._validation import check_integer, check_real

__all__ = ["load_drawings", "load_image_folder", "make_shapes"]

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"),
    *(".bmp", ".gif", ".tif", ".tiff"),
)


# Folders --------------------------------------------------------------------------------------


def load_image_folder(folder, *, shuffle=True, random_state=0):
    """List the images of a folder; its sub-folders are the classes.

    Nothing is read: the paths go to any estimator as they are. An image
    belongs to the class of the top sub-folder it lies in, however deep. The
    order depends on the names alone, so it is the same on every machine.

    Parameters
    ----------
    folder : str or path-like
        Folder with one sub-folder per class, or with the images themselves.

    shuffle : bool, default=True
        Whether to shuffle; False sorts by class and path. Splitters that do
        not shuffle, as scikit-learn's take by default, would put whole
        classes apart.

    random_state : int, RandomState instance or None, default=0
        Seed of the order.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,); ``target``, an array of
        class names, shape (n,), None if the images have no sub-folders;
        ``target_names``, the sorted class names; ``n_ignored``, the number of
        files that are not images, hidden ones not counted; ``DESCR``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.

    ValueError
        If it holds no images, or some beside the sub-folders.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
    ...         path = Path(folder, name)
    ...         path.parent.mkdir(exist_ok=True)
    ...         path.touch()
    ...     photos = load_image_folder(folder, shuffle=False)
    >>> photos.target
    array(['cat', 'cat', 'dog'], dtype='<U3')
    """
    folder = os.path.expanduser(os.fsdecode(folder))
    if not os.path.exists(folder):
        raise FileNotFoundError(f"folder={folder!r} does not exist.")
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"folder={folder!r} is a file. Pass the folder it lies in.")
    files = list(_walk(folder, ()))  # parts of the path below the folder
    images = sorted(parts for parts in files if parts[-1].lower().endswith(EXTENSIONS))
    _check_found(folder, images, files)
    if shuffle:
        order = check_random_state(random_state).permutation(len(images))
        images = [images[i] for i in order]
    labelled = len(images[0]) > 1
    target = np.array([parts[0] for parts in images]) if labelled else None
    target_names = np.unique(target).tolist() if labelled else []
    n_ignored = len(files) - len(images)
    return Bunch(
        data=np.array([os.path.join(folder, *parts) for parts in images]),
        target=target,
        target_names=target_names,
        n_ignored=n_ignored,
        DESCR=f"{len(images)} images of {len(target_names)} classes in {folder}; {n_ignored} "
        "other files ignored.",
    )


def _walk(folder, parts, parents=frozenset()):
    """Yield the parts below `folder` of every file; links are followed, but never in a circle."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in parents:
        return
    with os.scandir(folder) as entries:
        entries = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, (*parts, entry.name), parents | {here})
        else:
            yield (*parts, entry.name)


def _check_found(folder, images, files):
    """Raise unless there are images, all of them in sub-folders or none."""
    if not images:
        raise ValueError(
            f"folder={folder!r} holds no images, {len(files)} other files. Images end in "
            f"{', '.join(EXTENSIONS)}."
        )
    loose = [parts[0] for parts in images if len(parts) == 1]
    if 0 < len(loose) < len(images):
        raise ValueError(
            f"folder={folder!r} holds {len(loose)} images beside its sub-folders, such as "
            f"{loose[0]!r}, which have no class. Move them into a sub-folder."
        )


# Files ----------------------------------------------------------------------------------------


def load_drawings(path):
    """Load small drawings of characters, by alphabet and drawer (Omniglot [1]_).

    Parameters
    ----------
    path : str or path-like
        An ``.npz`` file as ``tests/data/omniglot_small1.npz`` of the project:
        2,720 drawings of 136 characters from five alphabets.

    Returns
    -------
    Bunch
        With ``data``, uint8 of shape (n, height, width), ink 255 on 0;
        ``target``, the names of the characters, shape (n,); ``alphabet``, the
        names of the alphabets, shape (n,); ``drawer``, the numbers of the
        people, shape (n,); ``target_names``; ``DESCR``. Hold out whole
        alphabets to test on characters that were never trained on.

    Raises
    ------
    ValueError
        If the file holds something else.

    References
    ----------
    .. [1] B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum. "Human-level concept
       learning through probabilistic program induction". Science 350, 2015.

    Examples
    --------
    >>> drawings = load_drawings("tests/data/omniglot_small1.npz")
    >>> drawings.data.shape
    (2720, 35, 35)
    >>> drawings.target[0], drawings.alphabet[0], drawings.drawer[0]
    (np.str_('Balinese/character01'), np.str_('Balinese'), np.int8(1))
    """
    with np.load(path, allow_pickle=False) as file:
        wanted = {"x", "y", "character_names", "alphabet", "alphabet_names", "drawer"}
        missing = sorted(wanted - set(file))
        if missing:
            raise ValueError(f"{os.fspath(path)!r} is no file of drawings: it lacks {missing}.")
        return Bunch(
            data=file["x"],
            target=file["character_names"][file["y"]],
            target_names=file["character_names"].tolist(),
            alphabet=file["alphabet_names"][file["alphabet"]],
            drawer=file["drawer"],
            DESCR=f"Omniglot drawings, {Path(path).name}; MIT licence.",
        )


# Drawn images ---------------------------------------------------------------------------------

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ((0.85, 0.2, 0.2), (0.2, 0.7, 0.25), (0.2, 0.35, 0.9), (0.9, 0.8, 0.15))


def make_shapes(
    n_samples=200, *, n_classes=4, image_size=32, multilabel=False, noise=0.05, random_state=0
):
    """Draw small labelled images of colored shapes.

    A class is a shape in a color. Position, size, rotation, shade and
    background vary, so that the raw pixels tell many classes apart badly (16
    of them: one nearest neighbor in five is right), but a small net learns
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
        Standard deviation of the noise, as a part of the range of values.

    random_state : int, RandomState instance or None, default=0
        Seed; the same seed draws the same images.

    Returns
    -------
    images : ndarray of shape (n_samples, image_size, image_size, 3), uint8
        The images.

    y : ndarray of shape (n_samples,) or (n_samples, n_classes), int64
        Class indices, as equally many of each as possible; or 0/1 columns.

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
    rng = check_random_state(random_state)
    y = rng.permutation(np.arange(n_samples) % n_classes)
    classes = [[label] for label in y]
    if multilabel:
        classes = [_add_others(label, n_classes, rng) for label in y]
        y = np.array([np.bincount(labels, minlength=n_classes) for labels in classes])
    images = np.stack([_draw(labels, image_size, noise, rng) for labels in classes])
    return images, y


def _add_others(label, n_classes, rng):
    """Return one to three different classes, `label` among them."""
    others = rng.permutation(np.delete(np.arange(n_classes), label))
    return [label, *others[: rng.randint(3)]]


def _draw(labels, size, noise, rng):
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


def _cover(shape, size, center, radius, angle):
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
