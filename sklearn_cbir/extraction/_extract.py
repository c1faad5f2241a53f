"""`extract`: finished shards are kept, missing shards are made."""

import copy
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_cbir._fingerprint import KEY_VERSION, Unknown, fingerprint, fitted_parts
from sklearn_cbir._typing import ImagesLike, Transformer
from sklearn_cbir._validation import (
    check_choice,
    check_integer,
    check_verbose,
    progress_bar,
    shortened,
)
from sklearn_cbir.extraction._features import FeatureShards
from sklearn_cbir.extraction._shards import (
    FORMAT,
    MANIFEST,
    Shard,
    check_folder,
    check_found,
    summary,
    write_json,
    write_manifest,
)
from sklearn_cbir.extraction._source import Source
from sklearn_cbir.extraction._work import write_all
from sklearn_cbir.images._faults import count_causes


def extract(
    estimator: Transformer,
    X: ImagesLike,
    folder: str | os.PathLike[str],
    *,
    shard_size: int = 1024,
    on_error: Literal["raise", "skip"] = "raise",
    on_change: Literal["raise", "extract"] = "raise",
    n_jobs: int | None = None,
    verbose: int = 0,
) -> FeatureShards:
    """Transform images into files, shard by shard, on all workers of joblib.

    The same call continues an interrupted one: finished shards are kept, and no shard
    is ever half written. A folder of another estimator or of other images is an error.

    Parameters
    ----------
    estimator : estimator
        Any fitted transformer, or pipeline without its retriever, that gives one
        dense row per image: features, embeddings or codes.

    X : images or array-like of shape (n_samples, n_features)
        Input of `estimator`: paths, arrays or PIL images, or rows. The workers open the
        paths. `Images` keep their limit of pixels.

    folder : str or path
        Folder for the shards; made if it does not exist. Workers on other machines must
        reach it under the same absolute path.

    shard_size : int, default=1024
        Images per shard. With a multiple of the estimator's ``batch_size``, rows are
        equal, bit by bit, to those of one `transform` of all images.

    on_error : {"raise", "skip"}, default="raise"
        ``"raise"``: an image that cannot be read is an error that names it. ``"skip"``:
        it gets no row, is listed in ``skipped``, and a warning counts such images. This
        includes rows of a table without a path (None, NaN, empty text). If a file only
        could not be reached (no permission, a missing share), or has changed, the same
        call tries it again; finished rows stay while their files are away.

    on_change : {"raise", "extract"}, default="raise"
        What to do if files have changed, in size or time, since their shards were
        written: raise an error that names them, or make these shards again.

    n_jobs : int, default=None
        Number of workers: None means 1, or the setting of `joblib.parallel_config`; -1
        means all cores.

    verbose : int, default=0
        Whether to draw a progress bar.

    Returns
    -------
    FeatureShards
        The rows on disk, in the order of `X`.

    Raises
    ------
    ImageReadError
        If an image cannot be read, with ``on_error="raise"``; its `faults` list all
        unreadable images among those without a row, if these are at most 20,000, else
        those of its shard. With ``on_error="skip"``, if no image can be read, or if the
        folder of all images is missing. Finished shards are kept.

    ValueError
        If the folder belongs to another estimator or other images, or images have
        changed since their shards were written; the folder stays unchanged.

    See Also
    --------
    load_features : Open the folder later, without the estimator.

    Notes
    -----
    Estimators are compared by their parameters and fitted attributes; your own code
    in them by its content and that of the functions it calls; files by path, size and
    time of change; anything else by content. ``device``, ``verbose``, ``n_jobs``,
    ``num_workers``, ``memory`` and ``checkpoint_dir`` may change between two calls.
    The runtime of ``runtime="auto"`` depends on the number of all images and is
    compared: a folder cannot be continued with another runtime. If the estimator has
    parts that cannot be compared, for example compiled code, you get a warning, and
    the folder cannot be continued.

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
        raise ValueError(
            f"estimator={shortened(estimator)} has no transform. Pass a fitted transformer."
        )
    check_is_fitted(estimator)
    shard_size = check_integer(shard_size, "shard_size", minimum=1)
    check_choice(on_error, "on_error", ("raise", "skip"))
    check_verbose(verbose)
    check_choice(on_change, "on_change", ("raise", "extract"))
    source = Source(X, shard_size, on_error)
    estimator = _settled(estimator, len(source))
    place = Path(folder).absolute()  # workers may stand elsewhere
    manifest = {
        "format": FORMAT,
        **_identity(estimator),
        "input": source.hash(),
        "n_samples": len(source),
        "shard_size": shard_size,
    }
    is_new = check_folder(place, manifest)
    if is_new and "unknown" in manifest:
        warnings.warn(
            f"{manifest['unknown']}. So this estimator cannot be compared with another one: if "
            "this call is interrupted, it cannot be continued.",
            UserWarning,
            stacklevel=2,
        )
    shards = [Shard(place, number) for number in range(source.n_shards)]
    looks = [shard.look(source) for shard in shards]
    check_found(looks, on_error, on_change)
    missing = [look for look in looks if not look.is_finished]
    if missing:
        write_json(place / MANIFEST, manifest)
    with progress_bar(len(source), "Extracting", verbose > 0) as advance:
        advance(len(source) - sum(source.size(look.shard.number) for look in missing))
        for n_images in write_all(estimator, source, missing, on_error, n_jobs):
            advance(n_images)
    found = summary(shards)
    write_manifest(place, manifest | found)
    for name in (f".{MANIFEST}.*", ".shard-*", ".estimator-*", "..estimator-*"):
        for left in place.glob(f"{name}.part"):  # of processes that were killed
            with suppress(OSError):  # a finished folder may be for reading only
                left.unlink()
    features = FeatureShards(place)
    if features.skipped:
        warnings.warn(_what_is_skipped(features, found["reasons"]), stacklevel=2)
    return features


def _settled(estimator: Any, n: int) -> Any:
    """Return an estimator that computes its rows of `n` images in one way, shard by shard."""
    if isinstance(estimator, Pipeline):
        settled = copy.copy(estimator)
        settled.steps = [(name, _settled(step, n)) for name, step in estimator.steps]
        return settled
    return estimator._settled(n) if hasattr(type(estimator), "_settled") else estimator


def _identity(estimator: Transformer) -> dict[str, object]:
    """Return the identity of an estimator in a manifest, equal for those that transform alike."""
    identity = {
        "estimator_class": f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        "key_version": KEY_VERSION,
    }
    try:
        parts = fitted_parts(estimator)
    except Unknown as error:
        return identity | {"estimator": None, "unknown": str(error)}
    return identity | {"estimator": fingerprint(sorted(parts.items())), "parts": parts}


def _what_is_skipped(features: FeatureShards, reasons: Mapping[str, str]) -> str:
    """Return the warning of images that have no row, by cause."""
    n_skipped, n_temporary = len(features.skipped), len(features.temporary)
    text = (
        f"{n_skipped} of {n_skipped + len(features)} images have no row, because they cannot be "
        f"read: {count_causes(reasons.values())}. `skipped` names them."
    )
    if n_temporary:
        text += (
            f" The files of {n_temporary} could not be reached, perhaps only now: the same call "
            "tries them again."
        )
    return text
