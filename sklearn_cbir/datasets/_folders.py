"""Any folder of images -> paths with labels."""

import os

import numpy as np
from sklearn.utils import Bunch, check_random_state

from sklearn_cbir._validation import check_boolean
from sklearn_cbir.datasets._files import EXTENSIONS, check_folder, walk

__all__ = ["load_image_folder"]


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
    check_boolean(shuffle, "shuffle")
    folder = check_folder(folder)
    files = list(walk(folder))  # parts of the path below the folder
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
