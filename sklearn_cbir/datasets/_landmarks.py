"""Photos of places, with queries of their own: Oxford5k, Paris6k and Holidays."""

import os
import re
from collections.abc import Set
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._typing import Elements, PathLike
from sklearn_cbir._validation import check_boolean, printable
from sklearn_cbir.datasets._files import Distribution, check_folder
from sklearn_cbir.datasets._walk import walk
from sklearn_cbir.images import Images, check_images

__all__ = ["crop_images", "load_holidays", "load_oxford5k", "load_paris6k"]

Name = TypeVar("Name", str, int)
OXFORD = Distribution(
    "load_oxford5k",
    "the images (*.jpg) and the lists *_query.txt, *_good.txt, *_ok.txt and *_junk.txt, in any "
    "sub-folders",
    "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/",
)
PARIS = Distribution(
    "load_paris6k", OXFORD.layout, "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/"
)
HOLIDAYS = Distribution(
    "load_holidays",
    "images called 100000.jpg, 100001.jpg, ... in any sub-folders",
    "https://lear.inrialpes.fr/~jegou/data.php",
)
# Files of the archive that hold no image; the site lists them, and everybody leaves them out.
PARIS_WITHOUT_IMAGE = frozenset(
    f"paris_{name}"
    for name in (
        *("louvre_000136", "louvre_000146", "moulinrouge_000422", "museedorsay_001059"),
        *("notredame_000188", "pantheon_000284", "pantheon_000960", "pantheon_000974"),
        *("pompidou_000195", "pompidou_000196", "pompidou_000201", "pompidou_000467"),
        *("pompidou_000640", "sacrecoeur_000299", "sacrecoeur_000330", "sacrecoeur_000353"),
        *("triomphe_000662", "triomphe_000833", "triomphe_000863", "triomphe_000867"),
    )
)


class Buildings(Bunch):
    """Result of `load_oxford5k` and `load_paris6k`."""

    data: NDArray[np.str_]
    target: NDArray[np.uint8]
    query_data: NDArray[np.str_]
    query_boxes: NDArray[np.float64]
    query_target: NDArray[np.uint8]
    query_names: list[str]
    query: NDArray[np.int64]
    junk: list[NDArray[np.int64]]
    n_ignored: int
    DESCR: str


def load_oxford5k(folder: PathLike) -> Buildings:
    r"""List Oxford5k [1]_: 5,062 photos and 55 queries of eleven buildings.

    A query is the part of a photo inside a box: pass
    ``crop_images(oxford.query_data, oxford.query_boxes)`` to an estimator. In the
    official score, images that are good or ok for a query are relevant. Junk, where
    the building is hardly visible, is not ranked::

        trapezoid_mean_average_precision(
            oxford.query_target, oxford.target, distances, exclude=oxford.junk
        )

    The photo of a query is in the gallery, and relevant.

    Parameters
    ----------
    folder : str or path-like
        Folder with the images and the lists of the ground truth, in any
        sub-folders.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,), sorted by name; ``target``,
        uint8 of shape (n, n_queries), 1 where an image is relevant to a query;
        ``query_data``, the paths of the photos of the queries, shape
        (n_queries,); ``query_boxes``, float64 of shape (n_queries, 4): left, top,
        right and bottom in px; ``query_target``, uint8 of shape (n_queries,
        n_queries), ones on the diagonal: a query shares its own column with the
        images relevant to it; ``query_names``, such as "all_souls_1", sorted;
        ``query``, the rows of the photos of the queries in ``data``; ``junk``, per
        query the rows that are not ranked; ``n_ignored``, how many files without
        an image were left out; ``DESCR``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] J. Philbin, O. Chum, M. Isard, J. Sivic, A. Zisserman. "Object retrieval
       with large vocabularies and fast spatial matching". CVPR 2007.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_oxford5k
    >>> lists = {"query": "oxc1_keble_000001 10 20.5 90 80", "good": "keble_000001\n"}
    >>> lists |= {"ok": "keble_000002\n", "junk": "keble_000003\n"}
    >>> with TemporaryDirectory() as folder:
    ...     for kind, text in lists.items():
    ...         size = Path(folder, f"keble_1_{kind}.txt").write_text(text)
    ...     for i in (1, 2, 3, 4):
    ...         Path(folder, f"keble_00000{i}.jpg").touch()
    ...     oxford = load_oxford5k(folder)
    >>> oxford.target.ravel(), oxford.junk, oxford.query_boxes
    (array([1, 1, 0, 0], dtype=uint8), [array([2])], array([[10. , 20.5, 90. , 80. ]]))
    """
    return _load_buildings(OXFORD, "Oxford5k", folder, frozenset())


def load_paris6k(folder: PathLike) -> Buildings:
    r"""List Paris6k [1]_: 6,392 photos and 55 queries of eleven places.

    As `load_oxford5k`. Twenty files of the archive hold no image; they are left
    out, also from the lists.

    Parameters
    ----------
    folder : str or path-like
        Folder with the images and the lists of the ground truth, in any
        sub-folders.

    Returns
    -------
    Bunch
        As `load_oxford5k`.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file is missing; the message says which, and where to get it.

    ValueError
        If a file holds something else.

    References
    ----------
    .. [1] J. Philbin, O. Chum, M. Isard, J. Sivic, A. Zisserman. "Lost in
       quantization: improving particular object retrieval in large scale image
       databases". CVPR 2008.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_paris6k
    >>> lists = {"query": "paris_louvre_000001 10 20 90 80", "good": "paris_louvre_000001\n"}
    >>> lists |= {"ok": "", "junk": ""}
    >>> with TemporaryDirectory() as folder:
    ...     for kind, text in lists.items():
    ...         size = Path(folder, f"louvre_1_{kind}.txt").write_text(text)
    ...     for i in (1, 2, 136):
    ...         Path(folder, f"paris_louvre_{i:06d}.jpg").touch()
    ...     paris = load_paris6k(folder)
    >>> paris.target.ravel(), paris.n_ignored
    (array([1, 0], dtype=uint8), 1)
    """
    return _load_buildings(PARIS, "Paris6k", folder, PARIS_WITHOUT_IMAGE)


def _load_buildings(
    distribution: Distribution, title: str, folder: PathLike, without_image: Set[str]
) -> Buildings:
    """Return the Bunch of Oxford5k or Paris6k."""
    folder = check_folder(folder)
    images: dict[str, str] = {}
    lists: dict[str, str] = {}
    n_ignored = 0
    for parts in walk(folder):
        stem, extension = os.path.splitext(parts[-1])
        path = os.path.join(folder, *parts)
        if extension.lower() == ".jpg" and stem in without_image:
            n_ignored += 1
        elif extension.lower() == ".jpg":
            _add_once(distribution, folder, images, stem, path)
        elif re.fullmatch(r".+_(query|good|ok|junk)", stem) and extension == ".txt":
            _add_once(distribution, folder, lists, stem, path)
    queries = sorted(stem.removesuffix("_query") for stem in lists if stem.endswith("_query"))
    if not queries or not images:
        raise distribution.missing(folder, "an image" if queries else "a list *_query.txt")
    names = sorted(images)
    position = {name: row for row, name in enumerate(names)}

    def rows_of(query: str, kind: str) -> NDArray[np.int64]:
        path = lists.get(f"{query}_{kind}")
        if path is None:
            raise distribution.missing(folder, repr(f"{query}_{kind}.txt"))
        listed = [name for (name,) in distribution.rows(path, 1) if name not in without_image]
        absent = [name for name in listed if name not in position]
        if absent:
            raise distribution.missing(folder, f"'{absent[0]}.jpg', which {path!r} lists")
        return np.array([position[name] for name in listed], dtype=np.int64)

    target = np.zeros((len(names), len(queries)), dtype=np.uint8)
    junk, photos, boxes = [], [], []
    for column, query in enumerate(queries):
        relevant = [*rows_of(query, "good"), *rows_of(query, "ok")]
        junk.append(rows_of(query, "junk"))
        if np.isin(relevant, junk[-1]).any():
            raise distribution.damaged(lists[f"{query}_junk"], "lists images that are relevant")
        target[relevant, column] = 1
        photo, box = _read_query(distribution, lists[f"{query}_query"])
        if photo not in position:
            raise distribution.missing(folder, f"'{photo}.jpg', the photo of query {query!r}")
        photos.append(position[photo])
        boxes.append(box)
    data = np.array([images[name] for name in names])
    return Buildings(
        data=data,
        target=target,
        query_data=data[photos],
        query_boxes=np.array(boxes),
        query_target=np.eye(len(queries), dtype=np.uint8),
        query_names=queries,
        query=np.array(photos),
        junk=junk,
        n_ignored=n_ignored,
        DESCR=f"{title}, {len(names)} photos and {len(queries)} queries in "
        f"{printable(folder)}; {n_ignored} "
        "files without an image left out.",
    )


def _add_once(
    distribution: Distribution, folder: str, files: dict[Name, str], stem: Name, path: str
) -> None:
    """Keep the path of a file unless another one has its name."""
    if stem in files:
        raise ValueError(
            f"folder={folder!r} holds both {files[stem]!r} and {path!r}. {distribution.loader} "
            "identifies images by their names: pass a folder with one copy of the data."
        )
    files[stem] = path


def _read_query(distribution: Distribution, path: str) -> tuple[str, list[float]]:
    """Return the name of the photo of a query, and its box."""
    (row, *_) = distribution.rows(path, 5) or [[]]
    try:
        photo, box = row[0], [float(edge) for edge in row[1:]]
    except (IndexError, ValueError) as error:
        raise distribution.damaged(path, "is not a name and box of a query") from error
    return photo.removeprefix("oxc1_"), box  # Oxford's queries alone carry the prefix


def crop_images(
    paths: Elements, boxes: ArrayLike, *, max_pixels: int | None = None
) -> list[Image.Image]:
    """Crop images to boxes: the queries of Oxford5k and Paris6k.

    Images are read as estimators read them: turned upright by EXIF, 16 bits
    scaled to 8, transparency on white.

    Parameters
    ----------
    paths : sequence of images, length n
        One image per box: paths, or whatever `sklearn_cbir.images.check_images`
        takes.

    boxes : array-like of shape (n, 4)
        Left, top, right and bottom in px of the upright image, as a viewer
        shows it. They are rounded to integers and cut off at the edges of the
        image.

    max_pixels : int, default=None
        Larger images are an error, as in `sklearn_cbir.images.check_images`.

    Returns
    -------
    list of PIL.Image.Image
        The crops, in RGB; any estimator of images takes them.

    Raises
    ------
    ImageReadError
        If an image cannot be read; the message names its row and path.

    ValueError
        If there is not one box per image, or if a box is outside its image.

    Examples
    --------
    >>> from PIL import Image
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import crop_images
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (100, 60)).save(f"{folder}/a.png")
    ...     parts = crop_images([f"{folder}/a.png"], [[10, 10, 50, 40]])
    >>> parts[0].size
    (40, 30)
    """
    edges = np.asarray(boxes, dtype=np.float64)
    if edges.shape != (len(paths), 4) or not np.isfinite(edges).all():
        raise ValueError(
            f"boxes has shape {edges.shape} for {len(paths)} images. Pass four finite numbers per "
            "image: left, top, right and bottom."
        )
    images = check_images(paths, max_pixels=max_pixels)
    return [_crop(images, row, np.rint(box).astype(int)) for row, box in enumerate(edges)]


def _crop(images: Images, row: int, box: NDArray[np.int64]) -> Image.Image:
    """Return the part of one image that lies inside a box."""
    image = images.pil_image(row)
    left, top = np.maximum(box[:2], 0)
    right, bottom = np.minimum(box[2:], image.size)
    if left >= right or top >= bottom:
        paths = images[row].paths
        name = f"image {row}" if paths is None else repr(paths[0])
        raise ValueError(
            f"Nothing of {name}, {image.width} x {image.height} px, is inside its box "
            f"{box.tolist()}. Boxes are left, top, right and bottom of the upright image."
        )
    return Image.fromarray(np.asarray(image)[top:bottom, left:right].copy())


class Holidays(Bunch):
    """Result of `load_holidays`."""

    data: NDArray[np.str_]
    target: NDArray[np.int64]
    query: NDArray[np.int64]
    DESCR: str


def load_holidays(folder: PathLike, *, skip_missing: bool = False) -> Holidays:
    """List INRIA Holidays [1]_: 1,491 photos in 500 groups of one place each.

    The name of a photo has its group: ``100203.jpg`` is number 3 of group 1002.
    Number 0 of a group is its query and is left out of its own results::

        trapezoid_mean_average_precision(
            holidays.target[holidays.query], holidays.target, distances,
            exclude=holidays.query,
        )

    Photos are as they were distributed. Some of them lie on their side; scores are
    higher if you turn them upright.

    Parameters
    ----------
    folder : str or path-like
        Folder with the photos, in any sub-folders.

    skip_missing : bool, default=False
        Whether photos may be missing. Then the first existing photo of a group is
        its query, and a group with one photo has no query. If False, a group
        without its number 0 is an error. A search among fewer photos is easier.

    Returns
    -------
    Bunch
        With ``data``, an array of paths, shape (n,), in the order of their
        numbers; ``target``, the groups, int64 of shape (n,); ``query``, the rows
        of the queries, ascending; ``DESCR``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If the photos or the query of a group are missing; the message says where
        to get them.

    ValueError
        If two photos have the same number.

    References
    ----------
    .. [1] H. Jegou, M. Douze, C. Schmid. "Hamming embedding and weak geometric
       consistency for large scale image search". ECCV 2008.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_cbir.datasets import load_holidays
    >>> with TemporaryDirectory() as folder:
    ...     for number in (100000, 100001, 100100, 100101, 100102):
    ...         Path(folder, f"{number}.jpg").touch()
    ...     holidays = load_holidays(folder)
    >>> holidays.target, holidays.query
    (array([1000, 1000, 1001, 1001, 1001]), array([0, 2]))
    """
    check_boolean(skip_missing, "skip_missing")
    folder = check_folder(folder)
    photos: dict[int, str] = {}
    for parts in walk(folder):
        match = re.fullmatch(r"(\d+)\.jpg", parts[-1], flags=re.IGNORECASE)
        if match:
            path = os.path.join(folder, *parts)
            _add_once(HOLIDAYS, folder, photos, int(match.group(1)), path)
    if not photos:
        raise HOLIDAYS.missing(folder, "images called by a number")
    numbers = np.array(sorted(photos))
    groups, query = numbers // 100, np.flatnonzero(numbers % 100 == 0)
    without_query = np.setdiff1d(groups, groups[query])
    if skip_missing:
        _, first, sizes = np.unique(groups, return_index=True, return_counts=True)
        query = first[sizes > 1]
    elif len(without_query):
        raise HOLIDAYS.missing(
            folder,
            f"'{without_query[0] * 100}.jpg', the query of its group (skip_missing=True takes the "
            "first that is there)",
        )
    return Holidays(
        data=np.array([photos[number] for number in numbers.tolist()]),
        target=groups,
        query=query,
        DESCR=f"Holidays, {len(numbers)} photos in {len(np.unique(groups))} groups, {len(query)} "
        f"queries in {printable(folder)}.",
    )
