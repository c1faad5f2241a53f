"""Perceptual hash: codes that hardly change when a photo is saved again, scaled or cropped."""

import itertools
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._typing import ImagesLike
from sklearn_cbir._validation import check_boolean
from sklearn_cbir.descriptors._descriptor import LUMINANCE, Descriptor, read_in_batches
from sklearn_cbir.images import check_images

SIDE = 32  # px, what photos are resized to
# Half waves per side, down and across together, that bits look at: of gray; of blue and of red less
# gray, which JPEG keeps coarsely.
HIGHEST, HIGHEST_OF_COLOR = 16, 8
RADIUS, RADIUS_WITH_COLOR = 30, 40  # bits within which photos are the same
CHANNELS = np.stack([LUMINANCE, [0, 0, 1] - LUMINANCE, [1, 0, 0] - LUMINANCE]).astype(np.float64)
# Rounding to whole gray levels moves a coefficient by 0.1 (standard deviation). What is nearer to 0
# than this has no sign of its own.
ROUNDING = 0.5


class PerceptualHash(Descriptor):
    """Perceptual hash: signs of the low frequencies of a photo, 152 bits.

    Copies of a photo that were saved again, scaled, brightened or slightly cropped
    differ in few bits, other photos in about half of them. A photo is resized to
    32 x 32 gray pixels, whatever its shape. The middle counts more than the margin,
    which a crop removes. A bit is 1 if a coefficient of the discrete cosine
    transform is positive [1]_ [2]_.

    Parameters
    ----------
    color : bool, default=False
        Whether colors count, too: 240 bits. Then fewer photos of different things on
        similar backgrounds are near, and photos of one thing in two colors are not the
        same. Gray copies of color photos are not the same either.

    turned : bool, default=False
        Whether `transform_forms` returns all eight turned and mirrored forms, so
        that `NearDuplicates` finds turned and mirrored copies, too. `transform` does
        not change.

    See Also
    --------
    sklearn_cbir.duplicates.NearDuplicates : Groups of photos that are the same.

    Notes
    -----
    There is one bit per frequency (u, v), in half waves down and across, with
    ``0 < u + v <= 16``, ordered by u and then v. With `color`, the bits of blue minus gray
    and of red minus gray follow, with ``0 < u + v <= 8``. [1]_ and [2]_ have 64 bits,
    compare coefficients with their median, and weight all pixels equally. Here pixels are
    weighted by the Hann window, ``sin(pi * (x + 0.5) / 32) ** 2`` down and across, and
    coefficients are compared with 0. With the 64 bits, cropped photos are often no nearer
    than other photos; the guide has the numbers.

    A coefficient within 0.5 of 0, in gray levels and an orthonormal transform, cannot be
    distinguished from rounding and gives 0. If more than half of the gray coefficients are
    such, the photo is flat, such as a blank page or a clear sky. Then the bits of such
    coefficients encode its mean color instead: signs of waves through the RGB cube. So
    flat photos of similar colors are near each other, and others are not.

    References
    ----------
    .. [1] C. Zauner. "Implementation and Benchmarking of Perceptual Image Hash
       Functions". Master's thesis, Upper Austria University of Applied Sciences,
       Hagenberg, 2010; on the DCT based hash of pHash by E. Klinger and D.
       Starkweather, phash.org.
    .. [2] N. Krawetz. "Looks Like It". The Hacker Factor Blog, 2011.

    Examples
    --------
    >>> from sklearn_cbir.datasets import make_shapes
    >>> from sklearn_cbir.descriptors import PerceptualHash
    >>> images, _ = make_shapes(3, random_state=0)
    >>> codes = PerceptualHash().transform(images)
    >>> codes.shape, codes.dtype
    ((3, 152), dtype('uint8'))
    >>> darker = PerceptualHash().transform(images // 4 * 3)
    >>> (codes != darker).sum(axis=1), int((codes[0] != codes[1]).sum())
    (array([2, 4, 3]), 75)
    """

    if TYPE_CHECKING:

        def fit_transform(
            self, X: ImagesLike, y: object = None, **fit_params: object
        ) -> NDArray[np.uint8]:
            """Fit, and transform the same rows."""
            ...

    def __init__(self, color: bool = False, *, turned: bool = False) -> None:
        self.color = color
        self.turned = turned

    @property
    def near_duplicates(self) -> tuple[str, float]:
        """Distance and radius within which photos are the same, for `NearDuplicates`."""
        return "hamming", RADIUS_WITH_COLOR if self.color else RADIUS

    def transform(self, X: ImagesLike) -> NDArray[np.uint8]:
        """Return one code per image.

        Parameters
        ----------
        X : images
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_bits), uint8
            152 bits, or 240 with `color`, 0 or 1, for the metric "hamming"; in the order of `X`.
        """
        layout, _ = self._check()
        images = check_images(X)
        codes = np.empty((len(images), len(layout.channel)), dtype=np.uint8)
        for rows, pixels in read_in_batches(images, SIDE, resize_mode="squash"):
            codes[rows] = perceptual_hash(pixels, layout)
        return codes

    def transform_forms(self, X: ImagesLike) -> NDArray[np.uint8]:
        """Return the codes that each image has if it is turned and mirrored.

        They are computed from its code, by exchanging and flipping bits, so it does not
        matter which of two photos you take in its forms. The code of a turned photo
        differs from the form in few bits: those of coefficients that are nearly 0.

        Parameters
        ----------
        X : images
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_forms, n_bits), uint8
            The code as it is. With ``turned=True``, also turned to the left by one, two
            and three quarters, and the same four of the image mirrored left to right.
            ``n_forms`` is 8, else 1.
        """
        layout, is_turned = self._check()
        codes = self.transform(X)
        return forms_of(codes, layout) if is_turned else codes[:, None]

    def _check(self) -> tuple["Layout", bool]:
        """Return what the bits are, and whether turned forms are wanted."""
        color = check_boolean(self.color, "color")
        return layout_of(color), check_boolean(self.turned, "turned")

    @property
    def _n_features_out(self) -> int:
        return len(layout_of(self.color).channel)


class Layout(NamedTuple):
    """What every bit looks at: arrays (n_bits,)."""

    channel: NDArray[np.int64]  # 0 is gray
    down: NDArray[np.int64]  # half waves
    across: NDArray[np.int64]
    transposed: NDArray[np.int64]  # the bit of the same channel with down and across exchanged


@lru_cache
def layout_of(color: bool) -> Layout:
    """Return what the bits are; the mean, no half wave down and across, is left out."""
    highest = (HIGHEST, HIGHEST_OF_COLOR, HIGHEST_OF_COLOR) if color else (HIGHEST,)
    bits = [
        (channel, down, across)
        for channel, most in enumerate(highest)
        for down, across in itertools.product(range(most + 1), repeat=2)
        if 0 < down + across <= most
    ]
    transposed = [bits.index((channel, across, down)) for channel, down, across in bits]
    channel, down, across = np.array(bits).T
    return Layout(channel, down, across, np.array(transposed))


def perceptual_hash(pixels: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """Return the codes (n, n_bits) of RGB images (n, SIDE, SIDE, 3)."""
    channels = CHANNELS[: layout.channel.max() + 1]
    values = np.moveaxis(pixels @ channels.T, 3, 1)  # (n, n_channels, SIDE, SIDE)
    values = values - values.mean(axis=(2, 3), keepdims=True)
    transformed = waves() @ values @ waves().T
    coefficients = transformed[:, layout.channel, layout.down, layout.across]
    codes = (coefficients > ROUNDING).astype(np.uint8)
    is_rounded = np.abs(coefficients) <= ROUNDING
    is_flat = is_rounded[:, layout.channel == 0].mean(axis=1) > 0.5
    by_color = color_code(pixels[is_flat].mean(axis=(1, 2)), codes.shape[1])
    codes[is_flat] = np.where(is_rounded[is_flat], by_color, codes[is_flat])
    return codes


@lru_cache
def waves() -> NDArray[np.float64]:
    """Return the rows (HIGHEST + 1, SIDE) of the orthonormal DCT-II, times Hann's window."""
    position = (np.arange(SIDE) + 0.5) / SIDE
    rows = np.cos(np.pi * np.arange(HIGHEST + 1)[:, None] * position) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return rows * np.sin(np.pi * position) ** 2


def color_code(colors: NDArray[np.float64], n_bits: int) -> NDArray[np.uint8]:
    """Return the codes (n, n_bits) of colors (n, 3): like ones have near codes, others have not.

    Every bit is the sign of a wave through the RGB cube, of its own direction and phase.
    """
    directions = np.array(sorted(itertools.product(range(9), repeat=3), key=sum))
    phases = np.arange(n_bits) * (np.sqrt(5) - 1) / 2  # the golden ratio spreads them evenly
    half_waves = colors / 256 @ directions[1 : n_bits + 1].T + phases  # (n, n_bits)
    return (np.floor(half_waves) % 2).astype(np.uint8)


def forms_of(codes: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """Return the codes (n, 8, n_bits) of turned and mirrored images, from those of the images.

    Mirrored, an odd wave changes its sign; transposed, down and across change places. A turn to the
    left is a transposition, mirrored top to bottom.
    """
    is_odd_down, is_odd_across = (
        (half_waves % 2).astype(np.uint8) for half_waves in (layout.down, layout.across)
    )
    forms = []
    for code in (codes, codes ^ is_odd_across):
        for _ in range(4):
            forms.append(code)
            code = code[:, layout.transposed] ^ is_odd_down
    return np.stack(forms, axis=1)
