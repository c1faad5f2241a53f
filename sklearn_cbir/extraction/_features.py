"""The shards of a finished folder as one array-like of rows."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sklearn_cbir._files import is_there, replacement
from sklearn_cbir._typing import FilePaths, Positions
from sklearn_cbir._validation import text_array
from sklearn_cbir.extraction._shards import Shard, open_rows, read_manifest, strange


def load_features(folder: str | os.PathLike[str]) -> "FeatureShards":
    """Open the folder of a finished `extract`, without the estimator.

    Parameters
    ----------
    folder : str or path
        Folder that `extract` wrote.

    Returns
    -------
    FeatureShards
        The shards, as `extract` returned them. Rows are read when you use them.

    Raises
    ------
    ValueError
        If `extract` did not write the folder, or if it has a newer format or is not
        complete.

    See Also
    --------
    extract : Write the folder.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn.preprocessing import Normalizer
    >>> from sklearn_cbir.extraction import extract
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shards = extract(Normalizer(), np.array([[3.0, 4.0], [0.0, 2.0]]), folder)
    ...     load_features(folder).load()
    array([[0.6, 0.8],
           [0. , 1. ]])
    """
    return FeatureShards(folder)


class FeatureShards:
    """Rows in shards on disk, in the order of their images.

    An array-like: ``np.asarray(features)`` and estimators read all rows into memory.

    Parameters
    ----------
    folder : str or path
        Folder of a finished `extract`.

    Attributes
    ----------
    folder : Path
        The folder of the shards, as given.

    shards : list of Path
        The files of rows, in order.

    shape : tuple
        (n_rows, n_features).

    dtype : dtype
        Type of the rows, that of the estimator's `transform`.

    positions : ndarray of shape (n_rows,), int64
        Position in `X` of every row; all positions unless images were skipped.

    skipped : dict of int to str
        Position in `X` of every image that could not be read, and why.

    temporary : list of int
        Positions in `skipped` of images whose file could not be fetched; the same call
        of `extract` tries them again.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn.preprocessing import Normalizer
    >>> from sklearn_cbir.extraction import extract
    >>> folder = tempfile.TemporaryDirectory()
    >>> features = extract(Normalizer(), np.eye(5), folder.name, shard_size=2)
    >>> features
    FeatureShards(5 rows x 5, float64, 3 shards)
    >>> gallery = np.load(features.merge(folder.name + "/gallery.npy"), mmap_mode="r")
    >>> gallery.shape
    (5, 5)
    >>> del gallery
    >>> folder.cleanup()
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder: Path = Path(folder)
        manifest = read_manifest(self.folder)
        n_shards = -(-manifest["n_samples"] // manifest["shard_size"])
        shards = [Shard(self.folder, number) for number in range(n_shards)]
        n_finished = sum(is_there(shard.rows) for shard in shards)
        if "n_rows" not in manifest or n_finished < n_shards:
            raise ValueError(
                f"{str(folder)!r} is not complete: {n_finished} of {n_shards} shards are "
                "finished. Call extract again, with the same arguments, to continue."
            )
        skipped = {int(position): why for position, why in manifest["skipped"].items()}
        self.shards: list[Path] = [shard.rows for shard in shards]
        self.shape: tuple[int, int] = (manifest["n_rows"], manifest["n_features"])
        self.dtype: np.dtype[np.generic] = np.dtype(manifest["dtype"])
        self.skipped: dict[int, str] = skipped
        self.temporary: list[int] = [int(position) for position in manifest.get("temporary", [])]
        self.positions: Positions = np.delete(np.arange(manifest["n_samples"]), list(skipped))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        n_rows, n_features = self.shape
        kind = f"{n_rows} rows x {n_features}, {self.dtype}, {len(self.shards)} shards"
        if self.skipped:
            kind += f", {len(self.skipped)} images skipped"
        return f"FeatureShards({kind})"

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        if copy is False:
            raise ValueError("The rows of several files cannot be one array without a copy.")
        return np.asarray(self.load(), dtype=dtype)

    @property
    def ids(self) -> FilePaths | Positions:
        """Paths of the images of the rows, or their positions in `X` if they were not files."""
        found: list[str] = []
        for number, path in enumerate(self.shards):
            about = Shard(path.parent, number).read_about()
            if about["files"] is None:
                return self.positions
            dropped = set(about["skipped"])
            names = enumerate((name for name, *_ in about["files"]), about["first"])
            found += [name for position, name in names if str(position) not in dropped]
        return text_array(found)

    def load(self) -> NDArray[np.generic]:
        """Read all rows into memory.

        Returns
        -------
        ndarray of shape (n_rows, n_features)
            In the order of `X`.
        """
        rows = np.empty(self.shape, dtype=self.dtype)
        start = 0
        for block in self._blocks():
            rows[start : start + len(block)] = block
            start += len(block)
        return rows

    def merge(self, path: str | os.PathLike[str]) -> Path:
        """Write all rows to one ``.npy`` file, shard by shard.

        No more than one shard is in memory at a time. The file appears when it is
        complete; ``np.load(path, mmap_mode="r")`` opens it without reading it.

        Parameters
        ----------
        path : str or path
            File to write. Any name; nothing is appended.

        Returns
        -------
        Path
            The file.
        """
        target = Path(path)
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": self.shape,
        }
        with replacement(target) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in self._blocks():
                file.write(np.ascontiguousarray(block).data)
        return target

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield the rows of every shard, checked against the manifest."""
        n_rows = 0
        for path in self.shards:
            block = open_rows(path)
            if not len(block):
                continue
            if block.dtype != self.dtype or block.shape[1] != self.shape[1]:
                raise ValueError(strange(path))
            n_rows += len(block)
            if n_rows > len(self):
                raise ValueError(strange(path))
            yield block
        if n_rows < len(self):
            raise ValueError(f"{strange(self.folder)} {len(self) - n_rows} rows are missing.")
