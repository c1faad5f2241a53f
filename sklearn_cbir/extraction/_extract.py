"""`extract`: what is finished is kept, what is missing is made."""

from pathlib import Path

from sklearn.utils.validation import check_is_fitted

from sklearn_cbir._validation import check_choice, check_integer, check_verbose, progress_bar
from sklearn_cbir.extraction._features import FeatureShards
from sklearn_cbir.extraction._shards import (
    FORMAT,
    MANIFEST,
    Shard,
    check_folder,
    summary,
    write_json,
)
from sklearn_cbir.extraction._source import Source, estimator_hash
from sklearn_cbir.extraction._work import write_all


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
    check_verbose(verbose)
    source = Source(X, shard_size)
    folder = Path(folder).absolute()  # workers may stand elsewhere
    manifest = {
        "format": FORMAT,
        "estimator_class": f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        "estimator": estimator_hash(estimator),
        "input": source.hash(),
        "n_samples": len(source),
        "shard_size": shard_size,
    }
    check_folder(folder, manifest)
    shards = [Shard(folder, number) for number in range(source.n_shards)]
    missing = [shard for shard in shards if not shard.is_finished(source, on_error)]
    if missing:
        write_json(folder / MANIFEST, manifest)
    with progress_bar(len(source), "Extracting", verbose > 0) as advance:
        advance(len(source) - sum(source.size(shard.number) for shard in missing))
        for n_images in write_all(estimator, source, missing, on_error, n_jobs):
            advance(n_images)
    write_json(folder / MANIFEST, manifest | summary(shards))
    for name in (f".{MANIFEST}.*", ".shard-*", ".estimator-*", "..estimator-*"):
        for left in folder.glob(f"{name}.part"):  # of processes that were killed
            left.unlink(missing_ok=True)
    return FeatureShards(folder)
