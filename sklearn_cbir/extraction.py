"""Images to feature shards on disk: on many processes or machines, and resumable.

The folder holds ``manifest.json``, which says what was extracted by what, and per shard a ``.json``
file, which says what its rows are, and a ``.npy`` file of rows. The last is written last: a shard
that has it is finished.
"""

import hashlib
import json
import os
import pickle
from pathlib import Path

import joblib
import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, check_is_fitted

from sklearn_cbir._files import replace_file, replacement
from sklearn_cbir._validation import check_choice, check_integer, progress_bar
from sklearn_cbir.images import ImageReadError, Images, check_images, is_feature_rows

__all__ = ["FeatureShards", "extract", "load_features"]

FORMAT = 1
MANIFEST = "manifest.json"
# What must be the same for a folder to be continued, and what to call it.
WANTED = {
    "estimator": "another estimator or other parameters",
    "input": "other images",
    "n_samples": "other images",
    "shard_size": "another shard_size",
}


def extract(estimator, X, folder, *, shard_size=1024, on_error="raise", n_jobs=None, verbose=0):
    """Transform images shard by shard into files, on as many workers as joblib has.

    A call that was cut off, at whatever moment, is continued by the same call:
    finished shards are kept, and none is ever half written. A folder of another
    estimator or of other images is refused.

    Parameters
    ----------
    estimator : estimator
        Any fitted transformer, or pipeline without its retriever, that gives one
        dense row per image: features, embeddings or codes.

    X : images or array-like of shape (n_samples, n_features)
        What `estimator` transforms: paths, arrays or PIL images, or rows. Paths are
        opened by the workers.

    folder : str or path
        Where the shards go; made if it does not exist. Workers on other machines
        must see it under the same absolute path.

    shard_size : int, default=1024
        Images per shard. A multiple of the estimator's ``batch_size`` gives the
        bits that one `transform` of everything would give.

    on_error : {"raise", "skip"}, default="raise"
        Whether an image that cannot be read is an error that names it, or has no
        row in the result, which lists it in ``skipped``.

    n_jobs : int, default=None
        Number of workers: None is 1, or what ``joblib.parallel_config`` says; -1
        is all cores.

    verbose : int, default=0
        Whether to draw a progress bar.

    Returns
    -------
    FeatureShards
        The rows on disk, in the order of `X`.

    Raises
    ------
    ImageReadError
        For an image that cannot be read, under ``on_error="raise"``. Finished
        shards are kept.

    ValueError
        If the folder belongs to another estimator or other images, or an image has
        changed since its shard was written; nothing is changed then.

    See Also
    --------
    load_features : Open the folder later, without the estimator.

    Notes
    -----
    The estimator is compared by its parameters and fitted attributes, files by path,
    size and time of change, anything else by content. ``device``, ``verbose``,
    ``n_jobs``, ``num_workers``, ``memory`` and ``checkpoint_dir`` may change between
    two calls.

    Two calls at a time into one folder are not supported.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_cbir import CNNFeatureExtractor
    >>> from sklearn_cbir.datasets import make_shapes
    >>> images, y = make_shapes(20, random_state=0)
    >>> extractor = CNNFeatureExtractor("small", weights=None, max_epochs=1).fit(images, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     features = extract(extractor, images, folder, shard_size=8)
    ...     len(features.shards), np.allclose(features, extractor.transform(images), atol=1e-6)
    (3, True)
    """
    if not hasattr(estimator, "transform"):
        raise ValueError(f"estimator={estimator!r} has no transform. Pass a fitted transformer.")
    check_is_fitted(estimator)
    shard_size = check_integer(shard_size, "shard_size", minimum=1)
    check_choice(on_error, "on_error", ("raise", "skip"))
    source = _Source(X, shard_size)
    folder = Path(folder).absolute()  # workers may stand elsewhere
    manifest = {
        "format": FORMAT,
        "estimator_class": f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        "estimator": _estimator_hash(estimator),
        "input": source.hash(),
        "n_samples": len(source),
        "shard_size": shard_size,
    }
    _check_folder(folder, manifest)
    shards = [_Shard(folder, number) for number in range(source.n_shards)]
    missing = [shard for shard in shards if not shard.is_finished(source, on_error)]
    if missing:
        _write_json(folder / MANIFEST, manifest)
    with progress_bar(len(source), "Extracting", verbose > 0) as advance:
        advance(len(source) - sum(source.size(shard.number) for shard in missing))
        for n_images in _write_all(estimator, source, missing, on_error, n_jobs):
            advance(n_images)
    _write_json(folder / MANIFEST, manifest | _summary(shards))
    for name in (f".{MANIFEST}.*", ".shard-*", ".estimator-*", "..estimator-*"):
        for left in folder.glob(f"{name}.part"):  # of processes that were killed
            left.unlink(missing_ok=True)
    return FeatureShards(folder)


def load_features(folder):
    """Open the folder of a finished `extract`, without the estimator.

    Parameters
    ----------
    folder : str or path
        Folder that `extract` wrote.

    Returns
    -------
    FeatureShards
        What `extract` returned. Rows are read when they are asked for.

    Raises
    ------
    ValueError
        If the folder was not written by `extract`, is of a newer format, or is not
        complete.

    See Also
    --------
    extract : Write the folder.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn.preprocessing import Normalizer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shards = extract(Normalizer(), np.array([[3.0, 4.0], [0.0, 2.0]]), folder)
    ...     load_features(folder).load()
    array([[0.6, 0.8],
           [0. , 1. ]])
    """
    return FeatureShards(folder)


class FeatureShards:
    """Rows in shards on disk, in the order of the images that they belong to.

    An array-like: ``np.asarray(features)`` and estimators read all rows into memory.

    Parameters
    ----------
    folder : str or path
        Folder of a finished `extract`.

    Attributes
    ----------
    folder : Path
        As given.

    shards : list of Path
        The files of rows, in order.

    shape : tuple
        (n_rows, n_features).

    dtype : dtype
        Of the rows: that of the estimator's `transform`.

    positions : ndarray of shape (n_rows,), int64
        Position in `X` of every row; all of them unless images were skipped.

    skipped : dict of int to str
        Position in `X` of every image that could not be read, and why.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn.preprocessing import Normalizer
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

    def __init__(self, folder):
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        n_shards = -(-manifest["n_samples"] // manifest["shard_size"])
        shards = [_Shard(self.folder, number) for number in range(n_shards)]
        n_finished = sum(shard.rows.exists() for shard in shards)
        if "n_rows" not in manifest or n_finished < n_shards:
            raise ValueError(
                f"{str(folder)!r} is not complete: {n_finished} of {n_shards} shards are finished. "
                "Call extract again, with the same arguments, to go on."
            )
        self.shards = [shard.rows for shard in shards]
        self.shape = manifest["n_rows"], manifest["n_features"]
        self.dtype = np.dtype(manifest["dtype"])
        self.skipped = {int(position): why for position, why in manifest["skipped"].items()}
        self.positions = np.delete(np.arange(manifest["n_samples"]), list(self.skipped))

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        n_rows, n_features = self.shape
        kind = f"{n_rows} rows x {n_features}, {self.dtype}, {len(self.shards)} shards"
        return f"FeatureShards({kind})"

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("The rows of several files cannot be one array without a copy.")
        return np.asarray(self.load(), dtype=dtype)

    @property
    def ids(self):
        """Paths of the rows' images, or their positions in `X` if those were no files."""
        found = []
        for number, path in enumerate(self.shards):
            about = _Shard(path.parent, number).read_about()
            if about["files"] is None:
                return self.positions
            dropped = set(about["skipped"])
            names = enumerate((name for name, *_ in about["files"]), about["first"])
            found += [name for position, name in names if str(position) not in dropped]
        return np.array(found)

    def load(self):
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

    def merge(self, path):
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
        path = Path(path)
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": self.shape,
        }
        with replacement(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in self._blocks():
                file.write(np.ascontiguousarray(block).data)
        return path

    def _blocks(self):
        """Yield the rows of every shard, checked against the manifest."""
        n_rows = 0
        for path in self.shards:
            block = _open_rows(path)
            if not len(block):
                continue
            if block.dtype != self.dtype or block.shape[1] != self.shape[1]:
                raise ValueError(_strange(path))
            n_rows += len(block)
            if n_rows > len(self):
                raise ValueError(_strange(path))
            yield block
        if n_rows < len(self):
            raise ValueError(f"{_strange(self.folder)} {len(self) - n_rows} rows are missing.")


# What is extracted ---------------------------------------------------------------------------


class _Source:
    """The images or rows of a call, shard by shard."""

    def __init__(self, X, shard_size):
        self.paths = None
        if not is_feature_rows(X):
            self.paths = check_images(X).paths
            if isinstance(X, Images):
                X = _plain(X)
        self.X = X.tocsr() if sparse.issparse(X) else X
        self.n_samples = _num_samples(X)
        if not self.n_samples:
            raise ValueError("X has 0 sample(s), while a minimum of 1 is required.")
        self.shard_size = shard_size
        self.n_shards = -(-self.n_samples // shard_size)

    def __len__(self):
        return self.n_samples

    def _block(self, number):
        start = number * self.shard_size
        return slice(start, min(start + self.shard_size, self.n_samples))

    def size(self, number):
        """Return the number of images of one shard."""
        block = self._block(number)
        return block.stop - block.start

    def part(self, number):
        """Return the position of the first image of a shard, and the images."""
        block = self._block(number)
        return block.start, _safe_indexing(self.X, block)

    def files(self, number):
        """Return path, size and time of change of the files of a shard; None for other images."""
        if self.paths is None:
            return None
        return [_file_status(str(path)) for path in self.paths[self._block(number)]]

    def hash(self):
        """Return a hash of the paths, or else of the contents."""
        if self.paths is not None:
            return joblib.hash(self.paths)
        return joblib.hash([_content_hash(self.part(i)[1]) for i in range(self.n_shards)])


def _plain(images):
    """Return what `Images` were made from."""
    if not images.is_path:
        raise ValueError("X is Images of no files. Pass the arrays or PIL images themselves.")
    return images.paths


def _file_status(path):
    """Return path, bytes and time of change in ns; a file that is not there has none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return [path, None, None]
    return [path, status.st_size, status.st_mtime_ns]


def _content_hash(part):
    if sparse.issparse(part):
        return joblib.hash([part.shape, part.data, part.indices, part.indptr])
    if hasattr(part, "to_numpy"):
        part = part.to_numpy()
    return joblib.hash(part, coerce_mmap=True)


def _estimator_hash(estimator):
    from sklearn_cbir._fingerprint import fitted_fingerprint  # torch: not to open a folder

    return joblib.hash(fitted_fingerprint(estimator))


# Work ----------------------------------------------------------------------------------------

_LOADED = {}  # the estimator of the last call, by the hash of its pickle


def _write_all(estimator, source, missing, on_error, n_jobs):
    """Write the missing shards; yield the number of images of each that is finished."""
    if not missing:
        return
    # Workers read the estimator from the folder, once each: those too that join later.
    pickled = pickle.dumps(joblib.wrap_non_picklable_objects(estimator, keep_wrapper=False))
    key = hashlib.sha256(pickled).hexdigest()
    path = missing[0].rows.parent / f".estimator-{key[:16]}.part"
    replace_file(path, pickled)
    del pickled
    _LOADED[key] = estimator  # for work in this process
    tasks = (_Task(shard, source, path, key, on_error) for shard in missing)
    try:
        yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
            delayed(_write_shard)(task) for task in tasks
        )
    finally:
        _LOADED.pop(key, None)
        path.unlink(missing_ok=True)


class _Task:
    """One shard to write; one object, as Dask keeps large arguments on a worker that may die."""

    def __init__(self, shard, source, path, key, on_error):
        self.shard = shard
        self.first, self.part = source.part(shard.number)
        self.files = source.files(shard.number)
        self.estimator_path = path
        self.key = key
        self.skip = on_error == "skip"

    def estimator(self):
        """Return the estimator, read by the first task of a process."""
        if self.key not in _LOADED:
            pickled = self.estimator_path.read_bytes()
            if hashlib.sha256(pickled).hexdigest() != self.key:
                raise ValueError(_strange(self.estimator_path))  # before anything in it is run
            _LOADED.clear()
            _LOADED[self.key] = pickle.loads(pickled)
        return _LOADED[self.key]


def _write_shard(task):
    """Transform the images of one shard and write its two files; return how many they are."""
    rows, faults = _transform(task.estimator(), task.part, task.first, task.skip)
    skipped = {str(fault.index): str(fault) for fault in faults}
    about = {"first": task.first, "files": task.files, "skipped": skipped}
    _write_json(task.shard.about, about)
    with replacement(task.shard.rows) as file:
        np.lib.format.write_array(file, rows, allow_pickle=False)
    return _num_samples(task.part)


def _transform(estimator, part, first, skip):
    """Return a row per readable image, and a fault, by its place in `X`, per other image."""
    n = _num_samples(part)
    kept, faults = np.arange(n), []
    while len(kept):
        images = part if len(kept) == n else _safe_indexing(part, kept)
        try:
            return _check_rows(estimator.transform(images), len(kept), estimator), faults
        except ImageReadError as error:
            found = _find_faults(images, error)
            if not found:
                raise  # by no image in particular
            moved = [_moved(fault, int(first + kept[fault.index])) for fault in found]
            if not skip:
                raise _refusal(moved) from error
            faults += moved
            kept = np.delete(kept, [fault.index for fault in found])
    return np.empty((0, 0), dtype=np.float32), faults


def _find_faults(part, error):
    """Return a fault for every image that cannot be read; `error` if only the estimator knows."""
    images = check_images(part)
    found = []
    for row in range(len(images)):
        try:
            images.read([row], size=8)
        except ImageReadError as fault:
            found.append(fault)
    return found or ([error] if error.index is not None else [])


def _moved(fault, index):
    """Return the same fault, of another row."""
    message = str(fault).replace(f"X[{fault.index}]", f"X[{index}]", 1)
    return ImageReadError(message, index, fault.path)


def _refusal(faults):
    """Return the error for a shard with images that cannot be read."""
    others = f" {len(faults) - 1} more of its shard cannot be read." if len(faults) > 1 else ""
    way = "Finished shards are kept: call extract again, or pass on_error='skip' to leave it out."
    return ImageReadError(f"{faults[0]}{others} {way}", faults[0].index, faults[0].path)


def _check_rows(rows, n, estimator):
    """Return what `transform` gave as an array (n, n_features)."""
    name = type(estimator).__name__
    if sparse.issparse(rows):
        raise ValueError(
            f"{name}.transform gives a sparse matrix, and shards are dense rows. Leave the "
            "retriever out: pass pipeline[:-1]."
        )
    rows = np.asarray(rows)
    if rows.ndim != 2 or len(rows) != n or rows.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}.transform gives {rows.dtype} of shape {rows.shape} for {n} images. Pass an "
            "estimator that gives one row of numbers per image."
        )
    return np.ascontiguousarray(rows)


# Files ---------------------------------------------------------------------------------------


class _Shard:
    """The two files of one shard."""

    def __init__(self, folder, number):
        self.number = number
        self.rows = folder / f"shard-{number:05d}.npy"
        self.about = folder / f"shard-{number:05d}.json"

    def is_finished(self, source, on_error):
        """Say whether the rows are there, and raise if they are not those of the images now."""
        if not self.rows.exists():
            return False
        about = self.read_about()
        if len(_open_rows(self.rows)) != source.size(self.number) - len(about["skipped"]):
            raise ValueError(_strange(self.rows))
        now = source.files(self.number) or []
        for before, after in zip(about["files"] or [], now):
            if before != after:
                raise ValueError(
                    f"{after[0]!r} has changed since {str(self.rows)!r} was written. Delete that "
                    "file to extract its images again, or use another folder."
                )
        if about["skipped"] and on_error == "raise":
            message = next(iter(about["skipped"].values()))
            raise ImageReadError(
                f"{message} An earlier call has skipped it: pass on_error='skip' again, or delete "
                f"{str(self.rows)!r} to try again.",
                int(next(iter(about["skipped"]))),
            )
        return True

    def read_about(self):
        """Return what the rows are: position of the first, files, and skipped images."""
        return _read_json(self.about)


def _check_folder(folder, manifest):
    """Raise unless the folder is new, or was begun by the same call."""
    if not (folder / MANIFEST).exists():
        if any(folder.glob("shard-*")):
            raise ValueError(
                f"{str(folder)!r} holds shards but no {MANIFEST}. Use another folder, or delete "
                "them."
            )
        folder.mkdir(parents=True, exist_ok=True)
        return
    found = _read_manifest(folder)
    for name, meaning in WANTED.items():
        if found[name] != manifest[name]:
            raise ValueError(
                f"{str(folder)!r} holds shards of {meaning}. Use another folder, or delete this "
                "one to start anew."
            )


def _read_manifest(folder):
    """Return the manifest of a folder if this version can read it."""
    path = folder / MANIFEST
    if not path.exists():
        raise ValueError(
            f"{str(folder)!r} holds no {MANIFEST}. Pass a folder that extract has written."
        )
    manifest = _read_json(path)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    is_newer = isinstance(found, int) and found > FORMAT  # may hold anything
    if not isinstance(found, int) or not (is_newer or WANTED.keys() <= manifest.keys()):
        raise ValueError(f"{str(path)!r} was not written by extract. Use another folder.")
    if is_newer:
        raise ValueError(
            f"{str(folder)!r} was written in format {found}; this version of sklearn_cbir reads "
            f"up to {FORMAT}. Install a newer version."
        )
    return manifest


def _summary(shards):
    """Return what is known of the rows when all shards are there."""
    kinds, n_rows, skipped = {}, 0, {}
    for shard in shards:
        rows = _open_rows(shard.rows)
        skipped |= shard.read_about()["skipped"]
        n_rows += len(rows)
        if len(rows):
            kinds.setdefault((rows.dtype.str, rows.shape[1]), shard.rows)
    if not kinds:
        first = next(iter(skipped))
        raise ImageReadError(f"None of {len(skipped)} images can be read. {skipped[first]}")
    if len(kinds) > 1:
        one, other = list(kinds.items())[:2]
        raise ValueError(
            f"Rows differ: {one[0][0]} of width {one[0][1]} in {str(one[1])!r}, {other[0][0]} of "
            f"width {other[0][1]} in {str(other[1])!r}. Pass an estimator that gives all images "
            "rows of one kind."
        )
    ((dtype, n_features),) = kinds
    return {"dtype": dtype, "n_features": n_features, "n_rows": n_rows, "skipped": skipped}


def _open_rows(path):
    """Return the rows of a shard, mapped into memory."""
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(_strange(path)) from error


def _strange(path):
    return (
        f"{str(path)!r} is not as it was written: truncated, or replaced. Delete the shard and "
        "call extract again."
    )


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(_strange(path)) from error


def _write_json(path, content):
    replace_file(path, json.dumps(content, indent=1).encode())
