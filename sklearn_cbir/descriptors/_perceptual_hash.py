"""Perceptual hash: codes that hardly change when a photo is saved, scaled or cropped anew."""

import itertools
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._typing import ImagesLike
from sklearn_cbir._validation import check_boolean
from sklearn_cbir.descriptors._descriptor import LUMINANCE, Descriptor, read_in_batches
from sklearn_cbir.images import check_images

SIDE = 32  # px, what photos are resized to
HIGHEST = 16  # half waves per side, down and across together
# What every bit looks at: half waves down and across. The mean, (0, 0), is left out.
FREQUENCIES = [
    (down, across)
    for down, across in itertools.product(range(HIGHEST + 1), repeat=2)
    if 0 < down + across <= HIGHEST
]
DOWN, ACROSS = np.array(FREQUENCIES).T
TRANSPOSED = [FREQUENCIES.index((across, down)) for down, across in FREQUENCIES]
IS_ODD_DOWN, IS_ODD_ACROSS = (DOWN % 2).astype(np.uint8), (ACROSS % 2).astype(np.uint8)
N_BITS = len(FREQUENCIES)
# Rounding to whole gray levels moves a coefficient by 0.1 (standard deviation). What is nearer to 0
# than this has no sign of its own.
ROUNDING = 0.5


class PerceptualHash(Descriptor):
    """Perceptual hash: signs of the low frequencies of a photo, 152 bits.

    Photos that are the same but for how they were saved, scaled, brightened or
    slightly cropped differ in few bits, others in about half of them. A photo is
    resized to 32 x 32 gray pixels, whatever its shape; the middle counts more
    than the margin, which a crop takes away; and every bit says whether a
    coefficient of the discrete cosine transform is positive [1]_ [2]_.

    Parameters
    ----------
    turned : bool, default=False
        Whether `transform_forms` gives all eight turned and mirrored forms, so
        that `NearDuplicates` finds turned and mirrored copies, too. `transform` is
        the same.

    See Also
    --------
    sklearn_cbir.duplicates.NearDuplicates : Groups of photos that are the same.

    Notes
    -----
    Bits are those of the frequencies (u, v), in half waves down and across, with
    ``0 < u + v <= 16``, by u and then v. Unlike [1]_ and [2]_, which have 64 bits,
    compare with the median and weigh all pixels alike, pixels are weighed by Hann's
    window, ``sin(pi * (x + 0.5) / 32) ** 2`` down and across, and compared with
    0. Under both, radii at which crops are found and other photos are not are
    hardly there (see the guide).

    A coefficient within 0.5 of 0, in gray levels and an orthonormal transform, is not
    told from rounding and gives 0. A photo that has no other is flat, such
    as a blank page. Its code says its mean color instead: signs of waves through the RGB
    cube. So flat photos of like colors are near, and others are not.

    References
    ----------
    .. [1] C. Zauner. "Implementation and Benchmarking of Perceptual Image Hash
       Functions". Master's thesis, Upper Austria University of Applied Sciences,
       Hagenberg, 2010, section 3.2.1; after pHash of E. Klinger and D.
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

    # Distance and radius within which photos are the same, for `NearDuplicates`.
    near_duplicates: ClassVar[tuple[str, float]] = ("hamming", 30)

    if TYPE_CHECKING:

        def fit_transform(
            self, X: ImagesLike, y: object = None, **fit_params: object
        ) -> NDArray[np.uint8]:
            """Fit, and transform the same rows."""
            ...

    def __init__(self, turned: bool = False) -> None:
        self.turned = turned

    def transform(self, X: ImagesLike) -> NDArray[np.uint8]:
        """Return one code per image.

        Parameters
        ----------
        X : images
            What `fit` takes.

        Returns
        -------
        ndarray of shape (n_samples, 152), uint8
            Bits, 0 or 1, for the metric "hamming"; in the order of `X`.
        """
        self._check()
        images = check_images(X)
        codes = np.empty((len(images), N_BITS), dtype=np.uint8)
        for rows, pixels in read_in_batches(images, SIDE, resize_mode="squash"):
            codes[rows] = perceptual_hash(pixels)
        return codes

    def transform_forms(self, X: ImagesLike) -> NDArray[np.uint8]:
        """Return the codes that each image has if it is turned and mirrored.

        They are made of its code, whose bits change places and are turned over, so that
        it does not matter which of two photos is asked in its forms. The code of
        a photo that was turned differs from the form in few bits, those of coefficients
        that are nearly 0.

        Parameters
        ----------
        X : images
            What `fit` takes.

        Returns
        -------
        ndarray of shape (n_samples, n_forms, 152), uint8
            The code as it is; with ``turned=True`` then turned to the left by one, two
            and three quarters, and the same four of the image that was mirrored
            left to right first. ``n_forms`` is 8, or else 1.
        """
        codes = self.transform(X)
        return forms_of(codes) if self.turned else codes[:, None]

    def _check(self) -> bool:
        """Return the checked option."""
        return check_boolean(self.turned, "turned")

    @property
    def _n_features_out(self) -> int:
        return N_BITS


def perceptual_hash(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the codes (n, N_BITS) of RGB images (n, SIDE, SIDE, 3)."""
    gray = pixels @ LUMINANCE.astype(np.float64)
    gray -= gray.mean(axis=(1, 2), keepdims=True)
    coefficients = (waves() @ gray @ waves().T)[:, DOWN, ACROSS]
    codes = (coefficients > ROUNDING).astype(np.uint8)
    is_flat = (np.abs(coefficients) <= ROUNDING).all(axis=1)
    codes[is_flat] = color_code(pixels[is_flat].mean(axis=(1, 2)))
    return codes


@lru_cache
def waves() -> NDArray[np.float64]:
    """Return the rows (HIGHEST + 1, SIDE) of the orthonormal DCT-II, times Hann's window."""
    position = (np.arange(SIDE) + 0.5) / SIDE
    rows = np.cos(np.pi * np.arange(HIGHEST + 1)[:, None] * position) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return rows * np.sin(np.pi * position) ** 2


def color_code(colors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the codes (n, N_BITS) of colors (n, 3): like ones have near codes, others have not.

    Every bit is the sign of a wave through the RGB cube, of its own direction and phase.
    """
    directions = np.array(sorted(itertools.product(range(9), repeat=3), key=sum))
    phases = np.arange(N_BITS) * (np.sqrt(5) - 1) / 2  # the golden ratio spreads them evenly
    half_waves = colors / 256 @ directions[1 : N_BITS + 1].T + phases  # (n, N_BITS)
    return (np.floor(half_waves) % 2).astype(np.uint8)


def forms_of(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the codes (n, 8, N_BITS) of turned and mirrored images, from those of the images.

    Mirrored, an odd wave changes its sign; transposed, down and across change places. A turn to the
    left is a transposition, mirrored top to bottom.
    """
    forms = []
    for code in (codes, codes ^ IS_ODD_ACROSS):
        for _ in range(4):
            forms.append(code)
            code = code[:, TRANSPOSED] ^ IS_ODD_DOWN
    return np.stack(forms, axis=1)
