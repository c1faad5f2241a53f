"""Data sets of (image, label) pairs, as torch and torchvision have them."""

from typing import Any

import numpy as np

from sklearn_cbir._typing import Elements, Labels
from sklearn_cbir._validation import shortened
from sklearn_cbir.images._batches import Images
from sklearn_cbir.images._checking import check_images


def images_of(dataset: Elements, *, max_pixels: int | None = None) -> tuple[Images, Labels]:
    """Split a data set of torch into images and labels.

    Parameters
    ----------
    dataset : object
        A data set with a length, whose elements are (image, label) pairs, such
        as ``torchvision.datasets.ImageFolder`` or a
        ``torch.utils.data.Subset`` of one. An image is anything that
        `check_images` takes in a list; a tensor of shape (C, H, W), as
        ``ToTensor`` makes it, counts as channels first. Leave out transforms
        that change the range of pixels, such as ``Normalize``.

    max_pixels : int, default=None
        As in `check_images`.

    Returns
    -------
    images : Images
        The images; they are loaded when they are read, and not kept.

    labels : ndarray of shape (n,) or (n, n_labels)
        Labels, from ``dataset.targets`` if it exists, else from the elements, which
        are all loaded once.

    Raises
    ------
    ValueError
        If the data set has no length, or does not hold pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.images import images_of
    >>> pairs = [(np.zeros((8, 8), np.uint8), "dark"), (np.full((8, 8), 255, np.uint8), "light")]
    >>> images, labels = images_of(pairs)
    >>> images.read([1], 2).max(), labels
    (np.uint8(255), array(['dark', 'light'], dtype='<U5'))
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(
            f"dataset is {shortened(dataset)} of type {type(dataset).__name__}, without a "
            "length or elements by position. Pass list(dataset) if it fits into memory."
        )
    if len(dataset):
        _check_pair(dataset[0], dataset)
    images = check_images(_Firsts(dataset), max_pixels=max_pixels)
    return images, np.asarray([_plain(label) for label in _labels_of(dataset)])


def _check_pair(element: object, dataset: Elements) -> None:
    if not isinstance(element, (tuple, list)) or len(element) < 2:
        raise ValueError(
            f"dataset[0] is {shortened(element)}, not a pair of an image and a label. Pass a "
            f"data set of pairs, or use {type(dataset).__name__} itself as images."
        )


class _Firsts:
    """The images of a data set of pairs, as a sequence."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> object:
        image = self.dataset[position][0]
        is_tensor = hasattr(image, "detach") and image.ndim == 3
        if is_tensor and image.shape[0] in (1, 3, 4):  # torch has channels first
            return image.permute(1, 2, 0)
        return image


def _labels_of(dataset: Any) -> list[Any]:
    """Return the labels of a data set, without its images where it lists them."""
    inner, indices = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if inner is not None and indices is not None and len(indices) == len(dataset):
        labels = _labels_of(inner)
        return [labels[index] for index in indices]
    targets = getattr(dataset, "targets", None)
    if targets is None or len(targets) != len(dataset) or not _are_as_listed(dataset):
        return [dataset[position][1] for position in range(len(dataset))]
    change = getattr(dataset, "target_transform", None)
    return [label if change is None else change(label) for label in targets]


def _are_as_listed(dataset: object) -> bool:
    """Say whether labels are `targets`, changed by target_transform alone."""
    return type(getattr(dataset, "transforms", None)).__name__ in ("NoneType", "StandardTransform")


def _plain(label: Any) -> Any:
    """Return a tensor with a label as what it holds."""
    return label.tolist() if hasattr(label, "detach") else label
