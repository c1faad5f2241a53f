"""The work on missing shards, here or on joblib's workers."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import joblib
import numpy as np
from scipy import sparse
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples

from sklearn_cbir._files import replace_file, replacement
from sklearn_cbir._typing import Transformer
from sklearn_cbir.extraction._shards import Look, strange, write_json
from sklearn_cbir.extraction._source import Source, some_of
from sklearn_cbir.images import ImageReadError, check_images
from sklearn_cbir.images._faults import moved, noted, row_of, with_others
from sklearn_cbir.images._readable import MAX_SCANNED

MAX_PASSING = 3  # times that a shard is tried again for a fault that is over when looked for
_LOADED: dict[str, Transformer] = {}  # the estimator of the last call, by the hash of its pickle


def write_all(
    estimator: Transformer,
    source: Source,
    missing: list[Look],
    on_error: str,
    n_jobs: int | None,
) -> Iterator[int]:
    """Write the shards of these looks; yield the number of images of each that is finished."""
    if not missing:
        return
    if on_error == "skip":
        source.check_place()
    # Workers read the estimator from the folder, once each: those too that join later.
    pickled = pickle.dumps(joblib.wrap_non_picklable_objects(estimator, keep_wrapper=False))
    key = hashlib.sha256(pickled).hexdigest()
    path = missing[0].shard.rows.parent / f".estimator-{key[:16]}.part"
    replace_file(path, pickled)
    del pickled
    _LOADED[key] = estimator  # for work in this process
    tasks = (Task(look, source, path, key, on_error) for look in missing)
    try:
        written = Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
            delayed(_write_shard)(task) for task in tasks
        )
        for n_images, n_temporary in cast("Iterable[tuple[int, int]]", written):
            if n_temporary:
                source.check_place()
            yield n_images
    except ImageReadError as error:
        numbers = [look.shard.number for look in missing]
        n = sum(map(source.size, numbers))
        if error.index is None or not source.holds_images or n > MAX_SCANNED:
            raise
        found = {row_of(fault): fault for fault in (*source.faults_of(numbers), *error.faults)}
        raise _with_all_faults([found[index] for index in sorted(found)]) from error
    finally:
        _LOADED.pop(key, None)
        path.unlink(missing_ok=True)


class Task:
    """One shard to write; one object, as Dask keeps large arguments on a worker that may die."""

    def __init__(self, look: Look, source: Source, path: Path, key: str, on_error: str) -> None:
        self.shard = look.shard
        # Rows that are there stay until there are at least as many: what was away may go again.
        self.n_rows = 0
        if look.is_there and not look.changed:
            self.n_rows = source.size(look.shard.number) - len(look.skipped)
        self.first, self.part = source.part(self.shard.number)
        self.nameless = source.nameless_in(self.shard.number)
        self.files = source.files(self.shard.number)
        self.estimator_path = path
        self.key = key
        self.skip = on_error == "skip"

    def estimator(self) -> Transformer:
        """Return the estimator, read by the first task of a process."""
        estimator = _LOADED.get(self.key)
        if estimator is None:
            pickled = self.estimator_path.read_bytes()
            if hashlib.sha256(pickled).hexdigest() != self.key:
                raise ValueError(strange(self.estimator_path))  # before anything in it is run
            estimator = pickle.loads(pickled)
            _LOADED.clear()
            _LOADED[self.key] = estimator
        return estimator


def _write_shard(task: Task) -> tuple[int, int]:
    """Write the two files of one shard; return how many images, and how many for now unreadable."""
    rows, faults = _transform(task.estimator(), task.part, task.first, task.skip, task.nameless)
    faults.sort(key=row_of)
    n_images, temporary = _num_samples(task.part), [f.index for f in faults if f.is_temporary]
    if len(rows) < task.n_rows:
        return n_images, len(temporary)
    about = {
        "first": task.first,
        "files": task.files,
        "skipped": {str(fault.index): str(fault) for fault in faults},
        "reasons": {str(fault.index): fault.reason or str(fault) for fault in faults},
        "temporary": temporary,
    }
    task.shard.rows.unlink(missing_ok=True)  # a shard that has rows has them of its description
    write_json(task.shard.about, about)
    with replacement(task.shard.rows) as file:
        np.lib.format.write_array(file, rows, allow_pickle=False)
    return n_images, len(temporary)


def _transform(
    estimator: Transformer, part: Any, first: int, skip: bool, nameless: list[ImageReadError]
) -> tuple[np.ndarray, list[ImageReadError]]:
    """Return a row per readable image, and a fault, by its place in `X`, per other image."""
    n, n_passing = _num_samples(part), 0
    faults = list(nameless)
    kept = np.delete(np.arange(n), [row_of(fault) - first for fault in faults])
    while len(kept):
        images = part if len(kept) == n else some_of(part, kept)
        try:
            return _check_rows(estimator.transform(images), len(kept), estimator), faults
        except ImageReadError as error:
            found = check_images(images).find_faults(decode=True)
            if not found and error.is_temporary and n_passing < MAX_PASSING:
                n_passing += 1  # it can be read again already
                continue
            if not found and error.index is not None:
                found = [error]  # only the estimator knows why
            if not found:
                raise  # by no image in particular
            found_in_X = [moved(fault, int(first + kept[row_of(fault)])) for fault in found]
            if not skip:
                raise _with_all_faults(found_in_X) from error
            faults += found_in_X
            kept = np.delete(kept, [row_of(fault) for fault in found])
    return np.empty((0, 0), dtype=np.float32), faults


def transform_readable(
    estimator: Transformer, images: list[Any]
) -> tuple[np.ndarray, list[ImageReadError]]:
    """Return a row per image that can be read, and a fault, by its position, per other image."""
    return _transform(estimator, images, 0, True, [])


def _with_all_faults(faults: list[ImageReadError]) -> ImageReadError:
    """Return the error for images that cannot be read."""
    what = "it" if len(faults) == 1 else "them"
    way = f"call extract again, or pass on_error='skip' to leave {what} out"
    return noted(with_others(faults), f"Finished shards are kept: {way}.")


def _check_rows(transformed: Any, n: int, estimator: Transformer) -> np.ndarray:
    """Return the result of `transform` as an array (n, n_features)."""
    name = type(estimator).__name__
    if sparse.issparse(transformed):
        raise ValueError(
            f"{name}.transform gives a sparse matrix, but shards need dense rows. Leave the "
            "retriever out: pass pipeline[:-1]."
        )
    rows = np.asarray(transformed)
    if rows.ndim != 2 or len(rows) != n or rows.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}.transform gives {rows.dtype} of shape {rows.shape} for {n} images. Pass an "
            "estimator that gives one row of numbers per image."
        )
    return np.ascontiguousarray(rows)
