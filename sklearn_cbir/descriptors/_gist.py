"""GIST: the magnitudes of Gabor filters over the cells of a grid."""

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sklearn_cbir._typing import ImagesLike
from sklearn_cbir._validation import check_boolean, check_integer
from sklearn_cbir.descriptors._descriptor import LUMINANCE, Descriptor, read_in_batches
from sklearn_cbir.images import check_images

GRID = 4  # blocks along a side
SCALES = 4
ORIENTATIONS = 8


class GISTDescriptor(Descriptor):
    """GIST: the strength of edges of each scale and orientation in each place.

    The mean magnitudes of 32 Gabor filters, 4 scales of 8 orientations, over
    the 16 cells of a 4 x 4 grid: 512 values [1]_. Gray values are divided by
    the local contrast first. Papers compare classical hashing methods on this
    feature.

    Parameters
    ----------
    image_size : int, default=32
        Side in px that images are resized and cropped to, at least 16.

    stretch : bool, default=False
        True: gray values are the plain mean of red, green and blue, stretched to
        0 to 255 in every image, as in the authors' program LMgist. False: they are
        the luminance, not stretched.

    Notes
    -----
    Filters are Gaussians in the polar frequency plane, with center frequencies
    of ``0.3 / 1.85 ** scale`` cycles per px. The filters and the contrast
    normalization are those of LMgist, not of [1]_. The order of values and the
    mirrored margins, a quarter of the side, are our own.

    References
    ----------
    .. [1] A. Oliva, A. Torralba. "Modeling the shape of the scene: a holistic
       representation of the spatial envelope". International Journal of
       Computer Vision 42(3), 2001.

    Examples
    --------
    >>> from sklearn_cbir.datasets import make_shapes
    >>> from sklearn_cbir.descriptors import GISTDescriptor
    >>> images, _ = make_shapes(20, random_state=0)
    >>> features = GISTDescriptor().transform(images)
    >>> features.shape, features.dtype
    ((20, 512), dtype('float32'))
    """

    # Distance and radius within which photos are the same, for `NearDuplicates`.
    near_duplicates: ClassVar[tuple[str, float]] = ("cosine", 0.035)

    if TYPE_CHECKING:

        def fit_transform(
            self, X: ImagesLike, y: object = None, **fit_params: object
        ) -> NDArray[np.float32]:
            """Fit, and transform the same rows."""
            ...

    stretch: bool = False  # of what was saved before there was a choice

    def __init__(self, image_size: int = 32, *, stretch: bool = False) -> None:
        self.image_size = image_size
        self.stretch = stretch

    def transform(self, X: ImagesLike) -> NDArray[np.float32]:
        """Return one feature row per image.

        Parameters
        ----------
        X : images
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_samples, 512), float32
            Mean magnitudes, by scale (finest first), orientation, row and
            column of the grid; in the order of `X`.
        """
        size = self._check()
        images = check_images(X)
        features = np.empty((len(images), self._n_features_out), dtype=np.float32)
        for rows, pixels in read_in_batches(images, size):
            features[rows] = gist(stretched(pixels) if self.stretch else pixels @ LUMINANCE)
        return features

    def _check(self) -> int:
        """Return the checked size."""
        check_boolean(self.stretch, "stretch")
        return check_integer(self.image_size, "image_size", minimum=16)

    @property
    def _n_features_out(self) -> int:
        return SCALES * ORIENTATIONS * GRID**2


def stretched(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean of the colors (n, size, size), stretched to 0..255 in every image."""
    gray = pixels.mean(axis=3, dtype=np.float32)
    gray -= gray.min(axis=(1, 2), keepdims=True)
    largest = gray.max(axis=(1, 2), keepdims=True)
    return gray * (255 / np.where(largest > 0, largest, 1))


def gist(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the descriptors (n, 512) of gray images (n, size, size) in 0..255."""
    n, size, _ = gray.shape
    margin = size // 4
    padded = np.pad(gray, [(0, 0), (margin, margin), (margin, margin)], mode="symmetric")
    spectra = fft.fft2(even_contrast(padded))
    inside = slice(margin, margin + size)
    averages = cell_averages(size)
    features = np.empty((n, SCALES * ORIENTATIONS, GRID, GRID), dtype=np.float32)
    for index, gains in enumerate(gabor_gains(size + 2 * margin)):
        responses = fft.ifft2(spectra * gains, overwrite_x=True)[:, inside, inside]
        features[:, index] = averages @ np.abs(responses) @ averages.T
    return features.reshape(n, -1)


def even_contrast(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take away what varies slowly, in the logarithm, and divide by the local contrast."""
    gains = low_pass_gains(gray.shape[1])
    logarithms = np.log1p(gray)
    details = logarithms - fft.irfft2(fft.rfft2(logarithms) * gains, gray.shape[1:])
    variance = fft.irfft2(fft.rfft2(details**2) * gains, gray.shape[1:])
    return details / (0.2 + np.sqrt(np.abs(variance)))


@lru_cache
def low_pass_gains(size: int) -> NDArray[np.float32]:
    """Return the gains of a Gaussian low-pass, one half at 4 cycles per image."""
    x, y = np.fft.rfftfreq(size, 1 / size), np.fft.fftfreq(size, 1 / size)[:, None]
    return np.exp(-(x**2 + y**2) * np.log(2) / 4**2).astype(np.float32)


@lru_cache
def gabor_gains(size: int) -> NDArray[np.float32]:
    """Return the gains (32, size, size) of filters that pass one direction of waves each."""
    x, y = np.fft.fftfreq(size), np.fft.fftfreq(size)[:, None]  # cycles per px
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    gains = []
    for scale in range(SCALES):
        offset = radius / (0.3 / 1.85**scale) - 1
        for orientation in range(ORIENTATIONS):
            turn = angle - np.pi * orientation / ORIENTATIONS
            turn = (turn + np.pi) % (2 * np.pi) - np.pi  # to [-pi, pi)
            gains.append(np.exp(-3.5 * offset**2 - 2 * np.pi * turn**2))
    return np.stack(gains).astype(np.float32)


@lru_cache
def cell_averages(size: int) -> NDArray[np.float32]:
    """Return the matrix (4, size) that averages the pixels of every cell along a side."""
    cell = np.arange(size) * GRID // size
    member = cell == np.arange(GRID)[:, None]
    return (member / member.sum(axis=1, keepdims=True)).astype(np.float32)
