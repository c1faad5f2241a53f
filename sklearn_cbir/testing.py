"""Checks for estimators that take images, also for those of other packages."""

import functools
import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.utils import get_tags

from sklearn_cbir._typing import ImageTransformer
from sklearn_cbir._validation import check_boolean
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.images import ImageReadError

__all__ = ["check_image_estimator"]

Transformer = TypeVar("Transformer")

N_IMAGES = 24


@overload
def check_image_estimator(
    estimator: ImageTransformer, *, generate_only: Literal[False] = ...
) -> None: ...
@overload
def check_image_estimator(
    estimator: ImageTransformer, *, generate_only: Literal[True]
) -> list[tuple[str, Callable[[], None]]]: ...
def check_image_estimator(
    estimator: ImageTransformer, *, generate_only: bool = False
) -> list[tuple[str, Callable[[], None]]] | None:
    """Check that a transformer keeps this package's promises for images.

    scikit-learn's own estimator checks use only 2-D rows; these use stacks
    of arrays, paths, encoded photos, PIL images and multi-label targets.

    Parameters
    ----------
    estimator : estimator object
        An unfitted transformer of images; it is cloned. Give it few epochs
        and a fixed `random_state`.

    generate_only : bool, default=False
        Return the checks instead of running them.

    Returns
    -------
    list of tuple (str, callable)
        Name and check, each called without arguments, if `generate_only`.

    Raises
    ------
    AssertionError
        From the first check that fails.

    Examples
    --------
    >>> from sklearn_cbir import DeepHasher
    >>> hasher = DeepHasher(8, backbone="small", max_epochs=1, random_state=0)
    >>> checks = check_image_estimator(hasher, generate_only=True)
    >>> len(checks) >= 15
    True
    """
    check_boolean(generate_only, "generate_only")
    chosen = [*INPUT_CHECKS]
    tags = get_tags(estimator).target_tags
    if tags.required:
        chosen += LABEL_CHECKS
        if tags.two_d_labels:
            chosen.append(check_multi_label_targets)
    checks = [(check.__name__, functools.partial(check, estimator)) for check in chosen]
    if generate_only:
        return checks
    for _, check in checks:
        check()
    return None


@functools.lru_cache
def _data() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, y = make_shapes(N_IMAGES, n_classes=3, random_state=0)
    images.flags.writeable = False
    return images, y


@functools.lru_cache
def _fit_pickled(key: bytes) -> bytes:
    return pickle.dumps(clone(pickle.loads(key)).fit(*_data()))


def _fitted(estimator: Transformer) -> Transformer:
    """Fit once for all checks that only transform."""
    return pickle.loads(_fit_pickled(pickle.dumps(clone(estimator))))


def _save(images: NDArray[np.uint8], folder: str) -> list[str]:
    paths = []
    for i, image in enumerate(images):
        paths.append(str(Path(folder) / f"{i:02d}.png"))
        Image.fromarray(image).save(paths[-1])
    return paths


def _assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def _assert_raises(
    error: type[Exception], parts: list[str], function: Callable[..., object], *args: object
) -> None:
    message = None
    try:
        function(*args)
    except error as raised:
        message = str(raised)
    assert message is not None, f"{error.__name__} was not raised by {function} on bad input"
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} is not in the message: {message}"


def check_image_with_arrays(estimator: ImageTransformer) -> None:
    """One finite row of features or bits per image, and their names."""
    images, _ = _data()
    fitted = _fitted(estimator)
    rows = fitted.transform(images)
    assert rows.ndim == 2
    assert len(rows) == len(images)
    assert rows.dtype in (np.float32, np.uint8)
    assert np.isfinite(rows).all()
    assert len(fitted.get_feature_names_out()) == rows.shape[1]


def check_image_with_equal_seeds(estimator: ImageTransformer) -> None:
    """Two fits with one seed give the same rows, as does fit_transform."""
    images, y = _data()
    expected = clone(estimator).fit(images, y).transform(images)
    np.testing.assert_array_equal(clone(estimator).fit(images, y).transform(images), expected)
    np.testing.assert_array_equal(clone(estimator).fit_transform(images, y), expected)


def check_image_with_subsets(estimator: ImageTransformer) -> None:
    """An image gives the same row alone, in a batch and in another order."""
    images, _ = _data()
    fitted = _fitted(estimator)
    transform = getattr(fitted, "project", fitted.transform)
    rows = transform(images)
    _assert_same(np.concatenate([transform(images[i : i + 1]) for i in range(4)]), rows[:4])
    _assert_same(transform(images[::-1])[::-1], rows)


def check_image_with_paths(estimator: ImageTransformer) -> None:
    """Paths as str, Path and array give the same rows, and train."""
    images, y = _data()
    with tempfile.TemporaryDirectory() as folder:
        paths = _save(images, folder)
        fitted = clone(estimator).fit(paths, y)
        rows = fitted.transform(paths)
        assert np.isfinite(rows).all()
        for others in ([Path(path) for path in paths], np.array(paths)):
            np.testing.assert_array_equal(fitted.transform(others), rows)


def check_image_with_pil_images(estimator: ImageTransformer) -> None:
    """PIL images give what the files of the same pixels give."""
    images, y = _data()
    pictures = [Image.fromarray(image) for image in images]
    with tempfile.TemporaryDirectory() as folder:
        paths = _save(images, folder)
        fitted = clone(estimator).fit(paths, y)
        np.testing.assert_array_equal(fitted.transform(pictures), fitted.transform(paths))


def check_image_with_encoded_photos(estimator: ImageTransformer) -> None:
    """Bytes of files, and a sequence that reads them late, give what the files give."""
    images, y = _data()
    with tempfile.TemporaryDirectory() as folder:
        paths = _save(images, folder)
        photos = [Path(path).read_bytes() for path in paths]
        fitted = clone(estimator).fit(_Late(photos), y)
        rows = fitted.transform(paths)
        for others in (photos, _Late(photos), [{"bytes": photo} for photo in photos]):
            np.testing.assert_array_equal(fitted.transform(others), rows)


class _Late(Sequence):
    """A sequence that is no list."""

    def __init__(self, items: list[bytes]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position):
        return self.items[position]


def check_image_with_mixed_sizes(estimator: ImageTransformer) -> None:
    """Images of different sizes train and transform together."""
    images, y = _data()
    mixed = [image[: 24 + i % 8] for i, image in enumerate(images)]
    assert len(clone(estimator).fit(mixed, y).transform(mixed)) == len(mixed)


def check_image_with_gray(estimator: ImageTransformer) -> None:
    """(n, H, W) and (n, H, W, 1) are the same images."""
    images, y = _data()
    gray = images[..., 0]
    fitted = clone(estimator).fit(gray, y)
    rows = fitted.transform(gray)
    np.testing.assert_array_equal(fitted.transform(gray[..., None]), rows)


def check_image_with_floats(estimator: ImageTransformer) -> None:
    """Floats in [0, 1] mean what uint8 means; values outside are an error."""
    images, _ = _data()
    fitted = _fitted(estimator)
    transform = getattr(fitted, "project", fitted.transform)
    _assert_same(transform(images / np.float32(255)), transform(images))
    _assert_raises(ValueError, ["1"], fitted.transform, images.astype(np.float32))


def check_image_with_nan(estimator: ImageTransformer) -> None:
    """NaN pixels are an error that names the image."""
    images, y = _data()
    bad = images / np.float32(255)
    bad[17, 3, 3] = np.nan
    _assert_raises(ValueError, ["NaN", "17"], clone(estimator).fit, bad, y)
    _assert_raises(ValueError, ["NaN", "17"], _fitted(estimator).transform, bad)


def check_image_with_broken_file(estimator: ImageTransformer) -> None:
    """A file that cannot be read is named with its position, in fit and transform."""
    images, y = _data()
    with tempfile.TemporaryDirectory() as folder:
        paths = _save(images, folder)
        fitted = clone(estimator).fit(paths, y)
        Path(paths[5]).write_bytes(b"not an image")
        for function, args in ((clone(estimator).fit, (paths, y)), (fitted.transform, (paths,))):
            _assert_raises(ImageReadError, ["X[5]", "05.png"], function, *args)


def check_image_with_single_path(estimator: ImageTransformer) -> None:
    """A str is not a list of paths."""
    _, y = _data()
    _assert_raises(ValueError, ["list"], clone(estimator).fit, "photo.jpg", y)


def check_image_with_no_images(estimator: ImageTransformer) -> None:
    """Zero images are an error."""
    images, y = _data()
    _assert_raises(ValueError, ["0"], clone(estimator).fit, images[:0], y[:0])


def check_image_with_channels_first(estimator: ImageTransformer) -> None:
    """(n, 3, H, W) is an error."""
    images, y = _data()
    wrong = images.transpose(0, 3, 1, 2)
    _assert_raises(ValueError, ["shape"], clone(estimator).fit, wrong, y)


def check_image_with_read_only_input(estimator: ImageTransformer) -> None:
    """Read-only, Fortran-ordered and reversed arrays work and stay as they are."""
    images, y = _data()
    before = images.tobytes()
    rows = _fitted(estimator).transform(images)
    for view in (np.asfortranarray(images), images[::-1][::-1]):
        np.testing.assert_array_equal(_fitted(estimator).transform(view), rows)
    clone(estimator).fit(images, y)
    assert images.tobytes() == before


def check_image_with_pickle(estimator: ImageTransformer) -> None:
    """A pickled copy gives the same rows, and a clone is unfitted."""
    images, _ = _data()
    fitted = _fitted(estimator)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.transform(images), fitted.transform(images))
    assert not [name for name in vars(clone(fitted)) if name.endswith("_")]


def check_labels_of_any_type(estimator: ImageTransformer) -> None:
    """Strings, booleans' integers and floats that are classes train alike."""
    images, y = _data()
    expected = clone(estimator).fit(images, y).transform(images)
    names = np.array(["a", "b", "c"])
    for labels in (names[y], list(names[y]), y.astype(np.float64), (y + 5).astype(object)):
        np.testing.assert_array_equal(
            clone(estimator).fit(images, labels).transform(images), expected
        )


def check_labels_of_wrong_length(estimator: ImageTransformer) -> None:
    """A missing label is an error with both numbers; so are no labels at all."""
    images, y = _data()
    _assert_raises(ValueError, [str(len(y)), str(len(y) - 1)], clone(estimator).fit, images, y[:-1])
    _assert_raises(ValueError, ["y"], clone(estimator).fit, images, None)


def check_multi_label_targets(estimator: ImageTransformer) -> None:
    """0/1 columns train, dense and sparse alike."""
    from scipy import sparse

    images, y = make_shapes(N_IMAGES, multilabel=True, random_state=0)
    expected = clone(estimator).fit(images, y).transform(images)
    rows = clone(estimator).fit(images, sparse.csr_array(y)).transform(images)
    np.testing.assert_array_equal(rows, expected)


INPUT_CHECKS = (
    check_image_with_arrays,
    check_image_with_equal_seeds,
    check_image_with_subsets,
    check_image_with_paths,
    check_image_with_pil_images,
    check_image_with_encoded_photos,
    check_image_with_mixed_sizes,
    check_image_with_gray,
    check_image_with_floats,
    check_image_with_nan,
    check_image_with_broken_file,
    check_image_with_single_path,
    check_image_with_no_images,
    check_image_with_channels_first,
    check_image_with_read_only_input,
    check_image_with_pickle,
)
LABEL_CHECKS = (check_labels_of_any_type, check_labels_of_wrong_length)
