"""The input of an extraction: parts of `X`, and hashes that identify a call."""

import errno
import os
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from sklearn_cbir._fingerprint import fingerprint
from sklearn_cbir._typing import Rows
from sklearn_cbir.images import ImageReadError, Images, check_images, is_feature_rows
from sklearn_cbir.images._faults import moved, row_of, with_others
from sklearn_cbir.images._readable import named_rows
from sklearn_cbir.images._sources import UnreadImages

FileStatus: TypeAlias = list[Any]  # path, size and time of change, as JSON has them


class Source:
    """The images or rows of a call, shard by shard."""

    def __init__(self, X: Any, shard_size: int, on_error: str = "raise") -> None:
        self.paths: NDArray[np.str_] | None = None
        # Faults of rows without a path, which are to be skipped.
        self.nameless: list[ImageReadError] = []
        named_X, named = X, np.arange(0)
        if on_error == "skip":
            named_X, named, self.nameless = named_rows(X)
        if self.nameless and not len(named):
            raise with_others(self.nameless)
        if self.nameless and hasattr(X, "to_pylist"):  # a column of pyarrow
            X = X.to_pylist()
        self.holds_images = not is_feature_rows(named_X)
        if self.holds_images:
            images = check_images(named_X)
            if self.nameless and images.holds_dictionaries:
                check_images(X)  # raises: only a table of paths may have rows without one
            self.paths = paths = images.paths
            if self.nameless and paths is not None:
                self.paths = np.full(len(named) + len(self.nameless), "", dtype=paths.dtype)
                self.paths[named] = paths
            # A list or an array stays what it is, for estimators of other packages. Not
            # dictionaries: the files that they name are told by size and time of change.
            is_plain = isinstance(X, (list, tuple)) or hasattr(X, "shape")
            X = X if is_plain and not images.holds_dictionaries else images
        self.X: Any = cast(Any, X).tocsr() if sparse.issparse(X) else X
        self.n_samples = _num_samples(X)
        if not self.n_samples:
            raise ValueError("X has 0 sample(s), while a minimum of 1 is required.")
        self.shard_size = shard_size
        self.n_shards = -(-self.n_samples // shard_size)

    def __len__(self) -> int:
        return self.n_samples

    def _block(self, number: int) -> slice:
        start = number * self.shard_size
        return slice(start, min(start + self.shard_size, self.n_samples))

    def size(self, number: int) -> int:
        """Return the number of images of one shard."""
        block = self._block(number)
        return block.stop - block.start

    def part(self, number: int) -> tuple[int, Any]:
        """Return the position of the first image of a shard, and the images."""
        block = self._block(number)
        return block.start, some_of(self.X, block)

    def files(self, number: int) -> list[FileStatus] | None:
        """Return path, size and time of change of the files of a shard; None for other images."""
        if self.paths is None:
            return None
        return [_file_status(str(path)) for path in self.paths[self._block(number)]]

    def nameless_in(self, number: int) -> list[ImageReadError]:
        """Return the faults of images of one shard that have no path."""
        block = self._block(number)
        start, stop = (
            bisect_left(self.nameless, end, key=row_of) for end in (block.start, block.stop)
        )
        return self.nameless[start:stop]

    def any_readable(self, positions: list[int]) -> bool:
        """Say whether any of some images can be read now."""
        if not positions:
            return False
        images = check_images(some_of(self.X, positions))
        return len(images.find_faults(decode=True)) < len(images)

    def faults_of(self, numbers: Iterable[int]) -> list[ImageReadError]:
        """Return the faults of all images of some shards."""
        blocks = [self._block(number) for number in numbers]
        positions = np.concatenate([np.arange(block.start, block.stop) for block in blocks])
        found = check_images(some_of(self.X, positions)).find_faults(decode=True)
        return [moved(fault, int(positions[row_of(fault)])) for fault in found]

    def check_place(self) -> None:
        """Raise if the folder that holds all files is away, as when a share is."""
        if self.paths is None:
            return
        for folder in self._folders:
            if number := _fault_of_folder(folder):
                raise ImageReadError(
                    f"{folder!r}, the folder of all images, cannot be reached: "
                    f"{os.strerror(number)}. Is a share or a disk not mounted? Finished shards "
                    "are kept, and no image is left out: call extract again when the folder is "
                    "back.",
                    path=folder,
                    reason="the folder is away",
                    errno=number,
                )

    @cached_property
    def _folders(self) -> list[str]:
        """The deepest folder that holds all files; one per drive."""
        named = () if self.paths is None else map(str, self.paths)
        paths = [path for path in named if path and not _is_address(path)]
        folders = {os.path.dirname(path) for path in paths}
        drives: dict[tuple[str, bool], list[str]] = {}
        for folder in folders:
            kind = os.path.splitdrive(folder)[0], os.path.isabs(folder)
            drives.setdefault(kind, []).append(folder)
        return [os.path.commonpath(found) or os.curdir for found in drives.values()]

    def hash(self) -> str:
        """Return a hash of the paths, or else of the contents."""
        if self.paths is not None:
            return fingerprint(self.paths, "X")
        return fingerprint([_content_hash(self.part(i)[1]) for i in range(self.n_shards)])


def some_of(X: Any, positions: Rows) -> Any:
    """Return some rows or images, so that a pickle of them holds no others."""
    if isinstance(X, Images):
        return X.part(positions)
    part = _safe_indexing(X, positions)
    return UnreadImages(part) if isinstance(part, (list, tuple)) else part


def _is_address(path: str) -> bool:
    """Say whether what was passed as a path is an address, which is in no folder."""
    return "://" in path or path.startswith("data:")


def _fault_of_folder(folder: str) -> int:
    """Return the number of the error of a folder that cannot be listed or holds nothing, or 0."""
    try:
        with os.scandir(folder) as entries:
            return 0 if next(entries, None) else errno.ENOENT
    except OSError as error:
        return error.errno or errno.EIO


def _file_status(path: str) -> FileStatus:
    """Return path, bytes and time of change in ns; a file that is not there has none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return [path, None, None]
    return [path, status.st_size, status.st_mtime_ns]


def _content_hash(part: Any) -> str:
    if isinstance(part, Images):
        return part.fingerprint()
    if isinstance(part, UnreadImages):
        part = part.copy()  # a hash decodes them
    to_numpy = getattr(part, "to_numpy", None)
    return fingerprint(part if to_numpy is None else to_numpy(), "X")
