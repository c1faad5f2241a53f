"""Images of any origin, read batch by batch."""

import numpy as np
from PIL import Image

from sklearn_cbir._fingerprint import fingerprint
from sklearn_cbir._validation import check_integer, progress as progress_bar
from sklearn_cbir.images._decoding import fit
from sklearn_cbir.images._faults import ImageReadError, check_process, fault_of, with_others
from sklearn_cbir.images._opening import reason_of
from sklearn_cbir.images._sources import ArrayOfImages
from sklearn_cbir.images._threads import blocks_of, in_threads

BLOCK = 64  # images decoded between two updates of a progress bar
PROOF = 8  # px: what is decoded only to see whether it can be


class Images:
    """Checked images, read batch by batch; made by `check_images`.

    Selecting rows never reads or copies pixels, so scikit-learn's splitters and searches take
    images as they take arrays. The same image gives the same pixels alone and in any batch, as
    path, PIL image or array.

    Parameters
    ----------
    source : object
        Where the pixels come from; made by `check_images`.

    rows : ndarray of shape (n,)
        Rows of the source.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.images import check_images
    >>> images = check_images(np.zeros((10, 28, 28), dtype=np.uint8))
    >>> images.shape, images.image_shape
    ((10, 28, 28, 1), (28, 28, 1))
    >>> images.read([0, 3], 32).shape
    (2, 32, 32, 3)
    """

    def __init__(self, source, rows):
        self._source = source
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, indices):
        return Images(self._source, np.atleast_1d(self._rows[indices]))

    def __repr__(self):
        kind = "files" if self.is_path else "any sizes"
        if self.image_shape is not None:
            kind = f"shape {self.image_shape}"
        return f"Images({len(self)}, {kind})"

    def __array__(self, dtype=None, copy=None):
        raise ValueError(
            f"{self!r} is no array: images are read when they are needed. read(slice(None), size) "
            "gives their pixels."
        )

    @property
    def shape(self):
        """(n, H, W, C) of arrays of one shape, (n,) of all other images."""
        return (len(self), *(self.image_shape or ()))

    @property
    def image_shape(self):
        """(H, W, C) of arrays of one shape; None for files, PIL images and mixed shapes."""
        return self._source.shape

    @property
    def is_path(self):
        """Whether the images are files."""
        return self._source.is_path

    @property
    def holds_dictionaries(self):
        """Whether the images are a list of dictionaries."""
        return self._source.holds_dictionaries

    @property
    def paths(self):
        """Paths of files, a str array of shape (n,); None for other images."""
        return self._source.names(self._rows) if self.is_path else None

    def read(self, indices, size=None, resize=None):
        """Return pixels.

        Parameters
        ----------
        indices : array-like of int or bool, or slice
            Which images.

        size : int or tuple (height, width), default=None
            Side of the square that is cut from the middle, in px, or the sides of
            a rectangle, without `resize`: images are resized until they just cover
            it. None keeps the images' own size, which only works where
            `image_shape` is not None.

        resize : int, default=None
            The short side is resized to this before the cut, in px, bilinear
            with antialiasing; None means `size`.

        Returns
        -------
        ndarray of shape (n, height, width, 3), dtype uint8
            RGB in 0..255; gray is replicated, float images are rounded.

        Raises
        ------
        ImageReadError
            For the first image, in this order, that cannot be read; its
            `faults` are all of these images that cannot.
        """
        rows = np.atleast_1d(self._rows[indices])
        height, width, resize = self._output_size(size, resize)
        if self._is_native(height, width, resize):
            return self._source.gather(rows)
        pixels = np.empty((len(rows), height, width, 3), dtype=np.uint8)

        def read_block(block):
            faults = []
            for i in range(block.start, block.stop):
                try:
                    image = self._guard(self._load, rows[i], height, width, resize)
                    pixels[i] = np.atleast_3d(np.asarray(image))
                except ImageReadError as fault:
                    faults.append(fault)
            return faults

        # A few blocks per thread keep all of them busy and handing over cheap.
        found = in_threads(read_block, blocks_of(len(rows), max(1, len(rows) // 32)))
        if faults := [fault for block in found for fault in block]:
            raise with_others(faults)
        return pixels

    def pil_image(self, index):
        """Return one image as a viewer shows it: in its own size, upright, on white.

        Parameters
        ----------
        index : int
            Which image.

        Returns
        -------
        PIL.Image.Image
            A new image in RGB, without EXIF.

        Raises
        ------
        ImageReadError
            If it cannot be read.
        """
        return self._guard(self._copy_whole, self._rows[index])

    def check_readable(self, progress=False):
        """Look at every image without decoding it, as far as that shows a fault.

        A path must lead to a regular file with the header of a known format,
        of a size that is allowed, that ends as its format does; one that does
        not end so is decoded to be sure. Other damage shows only when the
        image is read: `cached` reads all.

        Parameters
        ----------
        progress : bool, default=False
            Whether to draw a progress bar.

        Raises
        ------
        ImageReadError
            For the first image at fault, saying how many more there are; its
            `faults` are all.
        """
        if faults := self.find_faults(progress=progress):
            raise with_others(faults)

    def find_faults(self, *, decode=False, progress=False):
        """Look for all images that cannot be read.

        Parameters
        ----------
        decode : bool, default=False
            Whether to decode every image, which finds what `read` would; False
            looks as `check_readable` does.

        progress : bool, default=False
            Whether to draw a progress bar.

        Returns
        -------
        list of ImageReadError
            One per image at fault, in order; empty if all is well.
        """
        if isinstance(self._source, ArrayOfImages):
            return []
        look = self._try_decoding if decode else self._source.check
        blocks = blocks_of(len(self), BLOCK)
        bar = progress_bar(
            blocks, total=len(blocks), description="Checking images", enabled=progress
        )
        faults = []
        for block in bar:
            faults += filter(
                None, in_threads(lambda row: self._find_fault(look, row), self._rows[block])
            )
        return faults

    def cached(self, size=None, resize=None, max_bytes=2**30, progress=False):
        """Decode all images once, if they fit.

        Parameters
        ----------
        size : int or tuple (height, width), default=None
            As for `read`.

        resize : int, default=None
            As for `read`.

        max_bytes : int, default=2**30
            Most bytes that the decoded images may take.

        progress : bool, default=False
            Whether to draw a progress bar.

        Returns
        -------
        Images
            Decoded images of `size`; or these, if they need no decoding or
            would take more than `max_bytes`.

        Raises
        ------
        ImageReadError
            For the first image that cannot be read; its `faults` are all.
        """
        height, width, resize = self._output_size(size, resize)
        if self._is_native(height, width, resize) and self._source.pixels.dtype == np.uint8:
            return self
        if len(self) * height * width * 3 > max_bytes:
            return self
        pixels = np.empty((len(self), height, width, 3), dtype=np.uint8)
        blocks = blocks_of(len(self), BLOCK)
        faults = []
        for block in progress_bar(
            blocks, total=len(blocks), description="Reading images", enabled=progress
        ):
            try:
                pixels[block] = self.read(block, size, resize)
            except ImageReadError as error:  # all are named, not the first only
                faults += error.faults
        if faults:
            raise with_others(faults)
        return Images(ArrayOfImages(pixels), np.arange(len(self)))

    def fingerprint(self):
        """Return a hash of the pixels; of path, size and time of change for files.

        Returns
        -------
        str
            The same for the same images in the same order.
        """
        blocks = blocks_of(len(self), BLOCK)
        # Block by block: selecting rows copies them.
        return fingerprint(
            [fingerprint(self._source.fingerprint(self._rows[block]), "X") for block in blocks]
        )

    def part(self, positions):
        """Return some of the images, numbered anew, without what belongs to the others.

        Parameters
        ----------
        positions : slice or array-like of int
            Which images.

        Returns
        -------
        Images
            A pickle of them is no larger than they are.
        """
        rows = self._rows[positions]
        return Images(self._source.take(rows), np.arange(len(rows)))

    def _limited(self, max_pixels):
        """Return the same images under another limit."""
        return Images(self._source.limited(max_pixels), self._rows)

    def _output_size(self, size, resize):
        """Return height, width and the checked `resize`; None just covers height and width."""
        if size is None:
            if self.image_shape is None:
                kind = "files" if self.is_path else "images of any sizes"
                raise ValueError(f"X holds {kind}, which must be resized: pass a size in px.")
            return *self.image_shape[:2], None
        if isinstance(size, tuple) and len(size) == 2 and resize is None:
            return *(check_integer(side, "size", minimum=1) for side in size), None
        size = check_integer(size, "size", minimum=1)
        resize = size if resize is None else check_integer(resize, "resize", minimum=1)
        if resize < size:
            raise ValueError(
                f"resize={resize} is smaller than size={size}, the square cut from the resized "
                "image. Use at least the same."
            )
        return size, size, resize

    def _is_native(self, height, width, resize):
        """Say whether reading is only a selection of array rows."""
        return (
            isinstance(self._source, ArrayOfImages)
            and self.image_shape[:2] == (height, width)
            and resize in (None, height)
        )

    def _load(self, row, height, width, resize):
        """Return one PIL image (RGB or L) of the wanted size."""
        with self._source.show(row, max(height, width) if resize is None else resize) as image:
            return fit(image, height, width, resize)

    def _guard(self, function, row, *args):
        """Call ``function(row, *args)``; whatever it raises names row and path."""
        try:
            return function(row, *args)
        except MemoryError:
            raise
        except Exception as error:
            check_process(error)
            path, about = self._source.describe(row)
            reason, way = reason_of(error, self._source.origin(row))
            number = getattr(error, "errno", None)
            raise fault_of(int(row), path, reason, way, number, about) from error

    def _copy_whole(self, row):
        with self._source.show(row, None) as image:
            return Image.fromarray(np.asarray(image.convert("RGB")))

    def _try_decoding(self, row):
        self._load(row, PROOF, PROOF, PROOF)

    def _find_fault(self, look, row):
        """Return the fault of one image that `look` raises, or None."""
        try:
            self._guard(look, row)
        except ImageReadError as fault:
            return fault
