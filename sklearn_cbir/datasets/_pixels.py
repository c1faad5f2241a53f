"""Data sets that are distributed as arrays of pixels: CIFAR-10 and SVHN."""

import os
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._files import is_of_content
from sklearn_cbir._typing import PathLike
from sklearn_cbir._validation import check_boolean, printable
from sklearn_cbir.datasets._files import Distribution, check_folder

__all__ = ["load_cifar10", "load_svhn"]

CIFAR10 = Distribution(
    "load_cifar10",
    "data_batch_1 to data_batch_5 and test_batch, all of them with or all without '.bin'",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)
CIFAR10_BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
CIFAR10_NAMES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]
IMAGE_BYTES = 3 * 32 * 32

SVHN = Distribution(
    "load_svhn",
    "train_32x32.mat and test_32x32.mat (cropped digits)",
    "http://ufldl.stanford.edu/housenumbers/",
)


class LabelledPixels(Bunch):
    """Images as arrays of pixels, each with one label."""

    data: NDArray[np.uint8]
    target: NDArray[np.int64]
    target_names: list[str]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    DESCR: str


class Digits(LabelledPixels):
    """Result of `load_svhn`."""

    extra: NDArray[np.int64]  # if asked for


def load_cifar10(folder: PathLike) -> LabelledPixels:
    """Load CIFAR-10 [1]_: 60,000 images of 32 x 32 px in ten classes.

    The binary and the Python version hold the same images; if both exist, the binary
    one is read. The Python version consists of pickles. Pickles can usually run any
    code when they are opened; here they are read without running any.

    Parameters
    ----------
    folder : str or path-like
        Folder with the six batches, or with ``cifar-10-batches-bin`` or
        ``cifar-10-batches-py`` in it.

    Returns
    -------
    Bunch
        With ``data``, uint8 of shape (60000, 32, 32, 3); ``target``, class
        indices, int64 of shape (60000,); ``target_names``; ``train`` and
        ``test``, the rows of the official parts, 50,000 and 10,000;
        ``DESCR``. `split_protocol` makes the splits of the hashing papers.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a batch is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] A. Krizhevsky. "Learning multiple layers of features from tiny images".
       Technical report, University of Toronto, 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_cifar10
    >>> with TemporaryDirectory() as folder:
    ...     for name in ["test_batch", *(f"data_batch_{i}" for i in range(1, 6))]:
    ...         batch = np.zeros((2, 1 + 3 * 32 * 32), dtype=np.uint8)  # label and pixels
    ...         Path(folder, f"{name}.bin").write_bytes(batch.tobytes())
    ...     images = load_cifar10(folder)
    6146...
    >>> images.data.shape, images.target_names[0], images.test
    ((12, 32, 32, 3), 'airplane', array([10, 11]))
    """
    folder = check_folder(folder)
    ending, read = ".bin", _read_binary_batch
    root = CIFAR10.locate(folder, ["cifar-10-batches-bin"], "data_batch_1.bin")
    if root is None:
        ending, read = "", _read_pickled_batch
        root = CIFAR10.locate(folder, ["cifar-10-batches-py"], "data_batch_1")
    if root is None:
        raise CIFAR10.missing(folder, "'data_batch_1.bin' or 'data_batch_1'")
    batches = [read(CIFAR10.find(root, name + ending)) for name in CIFAR10_BATCHES]
    pixels, target = (np.concatenate(parts) for parts in zip(*batches))
    n_test = len(batches[-1][1])
    rows = np.arange(len(target))
    return LabelledPixels(
        # Planes of colors, as they are stored, to colors of pixels.
        data=np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)),
        target=target,
        target_names=list(CIFAR10_NAMES),
        train=rows[:-n_test],
        test=rows[-n_test:],
        DESCR=f"CIFAR-10, {len(rows)} images of 10 classes in "
        f"{printable(root)}; the last {n_test} are the "
        "official test images.",
    )


def _read_binary_batch(path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels (n, 3072) and labels (n,) of one file of the binary version."""
    rows = np.fromfile(path, dtype=np.uint8)
    if len(rows) == 0 or len(rows) % (1 + IMAGE_BYTES):
        raise CIFAR10.damaged(path, f"has {len(rows)} bytes, no multiple of {1 + IMAGE_BYTES}")
    rows = rows.reshape(-1, 1 + IMAGE_BYTES)
    return rows[:, 1:], _check_classes(path, rows[:, 0])


def _read_pickled_batch(path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels (n, 3072) and labels (n,) of one file of the Python version."""
    with open(path, "rb") as file:
        try:
            batch = _InertUnpickler(file, encoding="latin1").load()
            pixels, labels = batch["data"].array(), batch["labels"]
            labels = np.array(labels, dtype=np.int64)
        except Exception as error:  # a file of something else can raise whatever it likes
            if not is_of_content(error):
                raise
            raise CIFAR10.damaged(path, f"is not a batch of CIFAR-10 ({error})") from error
    if pixels.shape != (len(labels), IMAGE_BYTES) or len(labels) == 0:
        raise CIFAR10.damaged(path, f"has pixels {pixels.shape} and {len(labels)} labels")
    return pixels, _check_classes(path, labels)


def _check_classes(path: str, labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return labels as int64 if all of them are classes of CIFAR-10."""
    labels = labels.astype(np.int64)
    if labels.min() < 0 or labels.max() > 9:
        raise CIFAR10.damaged(path, f"has labels from {labels.min()} to {labels.max()}")
    return labels


class _InertArray:
    """Stands for an array in a pickle: keeps what was stored, calls nothing."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        self.state = state

    def array(self):
        """Return the stored bytes as a uint8 array."""
        _, shape, dtype, in_columns, raw = self.state
        if dtype.code != "u1":
            raise ValueError(f"its pixels are {dtype.code!r}, not 'u1'")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 stored bytes as str
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if in_columns else "C")


class _InertType:
    """Stands for a dtype in a pickle."""

    def __init__(self, code, *arguments):
        self.code = code

    def __setstate__(self, state):
        pass


class _InertUnpickler(pickle.Unpickler):
    """Reads lists, dicts, text and arrays of bytes; whatever else a pickle asks for is refused."""

    KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"): _InertArray,
        ("numpy._core.multiarray", "_reconstruct"): _InertArray,
        ("numpy", "ndarray"): _InertArray,
        ("numpy", "dtype"): _InertType,
        # How Python 3 stores bytes in the old protocols.
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    }

    def find_class(self, module, name):
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it asks to run {module}.{name}, which is refused")
        return self.KNOWN[module, name]


def load_svhn(folder: PathLike, *, extra: bool = False) -> Digits:
    """Load SVHN [1]_: house numbers cut into digits of 32 x 32 px.

    Parameters
    ----------
    folder : str or path-like
        Folder with ``train_32x32.mat`` and ``test_32x32.mat``.

    extra : bool, default=False
        Whether to load ``extra_32x32.mat`` too, 531,131 easier digits (1.6 GB).

    Returns
    -------
    Bunch
        With ``data``, uint8 of shape (99289, 32, 32, 3); ``target``, the digits
        0 to 9, int64 of shape (99289,) (the files write 10 for 0);
        ``target_names``; ``train``, ``test`` and, with `extra`, ``extra``, the
        rows of the parts; ``DESCR``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu, A. Y. Ng. "Reading
       digits in natural images with unsupervised feature learning". NIPS
       workshop on deep learning, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.io import savemat
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_svhn
    >>> digits = {"X": np.zeros((32, 32, 3, 2), dtype=np.uint8), "y": [[10], [7]]}
    >>> with TemporaryDirectory() as folder:
    ...     savemat(f"{folder}/train_32x32.mat", digits)
    ...     savemat(f"{folder}/test_32x32.mat", digits)
    ...     images = load_svhn(folder)
    >>> images.data.shape, images.target, images.test
    ((4, 32, 32, 3), array([0, 7, 0, 7]), array([2, 3]))
    """
    check_boolean(extra, "extra")
    folder = check_folder(folder)
    parts = ["train", "test", "extra"] if extra else ["train", "test"]
    read = [_read_digits(SVHN.find(folder, f"{part}_32x32.mat")) for part in parts]
    data, target = (np.concatenate(arrays) for arrays in zip(*read))
    ends = np.cumsum([len(labels) for _, labels in read])
    rows = dict(zip(parts, np.split(np.arange(len(target)), ends[:-1])))
    sizes = ", ".join(f"{len(rows[part])} {part}" for part in parts)
    return Digits(
        data=data,
        target=target,
        target_names=[str(digit) for digit in range(10)],
        **rows,
        DESCR=f"SVHN, {len(target)} digits in {printable(folder)}: {sizes}.",
    )


def _read_digits(path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (n, 32, 32, 3) and digits (n,) of one file."""
    file = read_matlab(SVHN, path)
    if not {"X", "y"} <= set(file):
        raise SVHN.damaged(path, "lacks the variables 'X' and 'y'")
    images, digits = file["X"], file["y"].ravel().astype(np.int64)
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(digits)):
        raise SVHN.damaged(path, f"has images {images.dtype} {images.shape}, {len(digits)} labels")
    if digits.min() < 1 or digits.max() > 10:
        raise SVHN.damaged(path, f"has labels from {digits.min()} to {digits.max()}")
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), digits % 10


def read_matlab(distribution: Distribution, path: str, **options: Any) -> dict[str, Any]:
    """Return the variables of a MATLAB file."""
    from scipy.io import loadmat

    try:
        return loadmat(path, **options)
    except Exception as error:  # of a file of something else: many kinds
        if not is_of_content(error):
            raise
        name = os.path.basename(path)
        raise distribution.damaged(path, f"is not a MATLAB file ({name}: {error})") from error
