"""Base of the descriptors: they learn nothing, and read images in small batches."""

from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, gen_batches

from sklearn_cbir._typing import ImagesLike, ResizeMode
from sklearn_cbir.images import Images, check_images
from sklearn_cbir.images._readable import telling_all_faults

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # of red, green and blue
BATCH_PIXELS = 2**18  # bounds the memory of the filtered images of a batch


class Descriptor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Images to rows, one by one; a subclass implements `transform`, and `_check` of parameters."""

    def fit(self, X: ImagesLike, y: object = None) -> Self:
        """Check parameters and images; nothing is learned.

        Parameters
        ----------
        X : images
            Arrays (n, H, W) or (n, H, W, C) with C in 1, 3, 4, uint8 or float
            in [0, 1]; a sequence of paths, encoded photos, PIL images or
            arrays.

        y : None
            Not used.

        Returns
        -------
        self : object
            The estimator.
        """
        self._check()
        check_images(X).check_readable()
        return self

    def _check(self) -> object:
        """Return what was checked; raise if a parameter has a value that it cannot have."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return True


def read_in_batches(
    images: Images, size: int, resize_mode: ResizeMode = "cover"
) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """Give all images as pixels (n, size, size, 3), a few at a time, and which they are."""
    with telling_all_faults(images):
        for rows in gen_batches(len(images), max(1, BATCH_PIXELS // size**2)):
            yield rows, images.read(rows, size, resize_mode=resize_mode)
