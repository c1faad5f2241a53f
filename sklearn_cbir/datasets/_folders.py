"""Any folder of images -> paths with labels."""

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._typing import FilePaths, PathLike, RandomState
from sklearn_cbir._validation import check_boolean, printable, text_array
from sklearn_cbir.datasets._files import check_folder
from sklearn_cbir.datasets._walk import look_through, warn_of_faults
from sklearn_cbir.images import readable_extensions

__all__ = ["load_image_folder"]

# The endings that are told first, and those of photos that may have no decoder here.
COMMON = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".avif", ".tif", ".tiff", ".bmp", ".gif")
HEIF = (".heic", ".heif", ".hif", ".heics", ".heifs")
PHOTOS = (
    *HEIF,
    *(".avif", ".avifs", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".psd", ".psb", ".tga", ".pcx"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".hdr", ".qoi", ".xcf", ".wdp", ".jxr"),
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc"),
    *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl"),
    *(".sr2", ".srf", ".srw", ".x3f"),
)


class ImageFolder(Bunch):
    """Result of `load_image_folder`."""

    data: FilePaths
    target: NDArray[np.str_] | None
    target_names: list[str]
    n_ignored: int
    ignored: dict[str, int]
    excluded: dict[str, int]
    faults: list[tuple[str, str]]
    DESCR: str


def load_image_folder(
    folder: PathLike,
    *,
    labels: bool = True,
    exclude: Sequence[str] | None = None,
    shuffle: bool = True,
    random_state: RandomState = 0,
) -> ImageFolder:
    """List the images of a folder; its sub-folders are the classes.

    Nothing is read: pass the paths to any estimator. The class of an image is its top
    sub-folder, however deep it is. The order depends only on the names, so it is the
    same on every machine. Links to folders are followed, and a linked image is listed
    once in every class.

    Parameters
    ----------
    folder : str or path-like
        Folder with one sub-folder per class, or with the images themselves.

    labels : bool, default=True
        Whether sub-folders are classes. False lists the images of any tree,
        such as a photo library with images next to its sub-folders.

    exclude : sequence of str, default=None
        Patterns to leave out, with ``*``, ``?`` and ``[...]``, in any case: names of
        files and folders, or, with a slash, paths below `folder` (also absolute ones;
        ``**/`` is any folder). None takes ``IGNORED_NAMES``: hidden files, and files
        that servers and programs keep next to photos (thumbnails, trash); to add
        patterns, pass ``(*IGNORED_NAMES, "out")``. An empty sequence leaves out
        nothing.

    shuffle : bool, default=True
        Whether to shuffle. False sorts by class and path; then splitters that do not
        shuffle, such as scikit-learn's default, separate whole classes.

    random_state : int, RandomState instance or None, default=0
        Seed of the order.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,); ``target``, an array of
        class names, shape (n,), None if there are no sub-folders or with
        ``labels=False``; ``target_names``, the sorted class names; ``n_ignored``,
        the number of files that are not images, without those that `exclude` left
        out; ``ignored``, the same number by file ending, such as ``{".txt": 3}``;
        ``excluded``, how many files and folders each pattern left out;
        ``faults``, paths that could not be opened, and why; ``DESCR``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.

    ValueError
        If it holds no images, or, with ``labels=True``, images next to the
        sub-folders.

    Warns
    -----
    UserWarning
        If there are photos of a kind that cannot be read here
        (`sklearn_cbir.images.readable_extensions` lists the readable endings),
        entries that cannot be opened (no permission, links in a circle, pipes),
        or classes whose names differ only in case or in the form of their
        accents. Each kind gives one warning, with a count.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
    ...         path = Path(folder, name)
    ...         path.parent.mkdir(exist_ok=True)
    ...         path.touch()
    ...     photos = load_image_folder(folder, shuffle=False)
    >>> photos.target
    array(['cat', 'cat', 'dog'], dtype='<U3')
    """
    check_boolean(labels, "labels")
    check_boolean(shuffle, "shuffle")
    folder = check_folder(folder)
    tree = look_through(folder, exclude, apart=labels)
    endings = readable_extensions()
    images: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for parts in tree.files:
        (images if parts[-1].lower().endswith(endings) else others).append(parts)
    ignored = _count_endings(parts[-1] for parts in others)
    _check_found(folder, images, ignored, tree.excluded, labels)
    warn_of_faults(folder, tree, stacklevel=3)
    _warn_of_photos(folder, ignored)
    labelled = labels and len(images[0]) > 1
    if labelled:
        _warn_of_twins({parts[0] for parts in images})
    if shuffle:
        order = check_random_state(random_state).permutation(len(images))
        images = [images[i] for i in order]
    target = np.array([parts[0] for parts in images]) if labelled else None
    target_names = [] if target is None else np.unique(target).tolist()
    n_ignored = sum(ignored.values())
    return ImageFolder(
        data=text_array(os.path.join(folder, *parts) for parts in images),
        target=target,
        target_names=target_names,
        n_ignored=n_ignored,
        ignored=ignored,
        excluded=dict(sorted(tree.excluded.items())),
        faults=tree.faults,
        DESCR=f"{len(images)} images of {len(target_names)} classes in {printable(folder)}; "
        f"{n_ignored} other files ignored{_in_brackets(ignored)}; "
        f"{sum(tree.excluded.values())} files and folders "
        f"excluded{_in_brackets(tree.excluded)}; {len(tree.faults)} entries that cannot be "
        "opened.",
    )


def _count_endings(names: Iterable[str]) -> dict[str, int]:
    """Count files by their ending in lower case, most frequent first."""
    counts = Counter(os.path.splitext(name)[1].lower() for name in names)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _in_brackets(counts: Mapping[str, int], n: int = 8) -> str:
    """Return counts by name, such as `` (.txt: 3, no ending: 1)``."""
    shown = [f"{printable(name) or 'no ending'}: {count}" for name, count in counts.items()]
    more = ", ..." if len(shown) > n else ""
    return f" ({', '.join(shown[:n])}{more})" if shown else ""


def _check_found(
    folder: str,
    images: list[tuple[str, ...]],
    ignored: dict[str, int],
    excluded: dict[str, int],
    labels: bool,
) -> None:
    """Raise unless there are images, and under `labels` all of them in sub-folders or none."""
    if not images:
        endings = readable_extensions()
        endings = [ending for ending in COMMON if ending in endings] + [
            ending for ending in endings if ending not in COMMON
        ]
        n_excluded = sum(excluded.values())
        left_out = f" and {n_excluded} excluded{_in_brackets(excluded)}" if excluded else ""
        raise ValueError(
            f"folder={folder!r} holds no images, {sum(ignored.values())} other files"
            f"{_in_brackets(ignored)}{left_out}. Images end in {', '.join(endings)}."
            f"{_way_to_read(ignored)}"
        )
    loose = [parts[0] for parts in images if len(parts) == 1]
    if labels and 0 < len(loose) < len(images):
        raise ValueError(
            f"folder={folder!r} holds {len(loose)} images next to its sub-folders, such as "
            f"{loose[0]!r}, which have no class. Move them into a sub-folder, leave them out "
            "with exclude=, or pass labels=False to list all images without classes."
        )


def _warn_of_photos(folder: str, ignored: dict[str, int]) -> None:
    """Warn of photos that are left out as nothing here can read them."""
    photos = {ending: n for ending, n in ignored.items() if ending in PHOTOS}
    if photos:
        warnings.warn(
            f"folder={folder!r} holds {sum(photos.values())} photos that are left out, because "
            f"they cannot be read here{_in_brackets(photos)}.{_way_to_read(photos)}",
            stacklevel=3,
        )


def _way_to_read(ignored: dict[str, int]) -> str:
    """Return advice for photos among ignored files (ending: count), as sentences to append."""
    ways = ""
    if any(ending in HEIF for ending in ignored):
        ways += " HEIC is read with the extra [heif]: pip install 'sklearn-cbir[heif]'."
    if any(ending in (".avif", ".avifs") for ending in ignored):
        ways += " AVIF is read with Pillow 11.3 or newer."
    if any(ending in PHOTOS and ending not in (*HEIF, ".avif", ".avifs") for ending in ignored):
        ways += " Convert the others to JPEG or PNG." if ways else " Convert them to JPEG or PNG."
    return ways


def _warn_of_twins(names: set[str]) -> None:
    """Warn of classes that look alike: they differ in case, or in how accents are encoded."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), []).append(name)
    twins = [group for group in groups.values() if len(group) > 1]
    if twins:
        shown = "; ".join(" and ".join(map(ascii, group)) for group in twins[:5])
        warnings.warn(
            f"{len(twins)} {'name stands' if len(twins) == 1 else 'names stand'} for several "
            f"classes, which differ in case or in the form of their letters only: {shown}. Merge "
            "their folders if they are one class.",
            stacklevel=3,
        )
