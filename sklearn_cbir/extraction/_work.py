"""The work on missing shards, here or on joblib's workers."""

import hashlib
import pickle

import joblib
import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples

from sklearn_cbir._files import replace_file, replacement
from sklearn_cbir.extraction._shards import strange, write_json
from sklearn_cbir.images import ImageReadError, check_images
from sklearn_cbir.images._faults import moved

_LOADED = {}  # the estimator of the last call, by the hash of its pickle


def write_all(estimator, source, missing, on_error, n_jobs):
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
    tasks = (Task(shard, source, path, key, on_error) for shard in missing)
    try:
        yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
            delayed(_write_shard)(task) for task in tasks
        )
    finally:
        _LOADED.pop(key, None)
        path.unlink(missing_ok=True)


class Task:
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
                raise ValueError(strange(self.estimator_path))  # before anything in it is run
            _LOADED.clear()
            _LOADED[self.key] = pickle.loads(pickled)
        return _LOADED[self.key]


def _write_shard(task):
    """Transform the images of one shard and write its two files; return how many they are."""
    rows, faults = _transform(task.estimator(), task.part, task.first, task.skip)
    skipped = {str(fault.index): str(fault) for fault in faults}
    about = {"first": task.first, "files": task.files, "skipped": skipped}
    write_json(task.shard.about, about)
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
            found_in_X = [moved(fault, int(first + kept[fault.index])) for fault in found]
            if not skip:
                raise _refusal(found_in_X) from error
            faults += found_in_X
            kept = np.delete(kept, [fault.index for fault in found])
    return np.empty((0, 0), dtype=np.float32), faults


def _find_faults(part, error):
    """Return a fault for every image that cannot be read; `error` if only the estimator knows."""
    found = check_images(part).find_faults(decode=True)
    return found or ([error] if error.index is not None else [])


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
