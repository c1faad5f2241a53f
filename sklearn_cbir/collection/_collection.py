"""`PhotoCollection`, the public class of a collection: it reads the table and searches the rows."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._typing import Floats, ImagesLike, Metric, PathLike, Positions, Transformer
from sklearn_cbir._validation import (
    check_boolean,
    check_choice,
    check_integer,
    check_verbose,
    progress_bar,
    shortened,
    text_array,
)
from sklearn_cbir.collection._compact import compact_rows
from sklearn_cbir.collection._creation import (
    EXTRACTOR,
    LOCK,
    check_extractor,
    check_is_free,
    check_patterns,
)
from sklearn_cbir.collection._hits import Hit, as_frame, hit_of, telling, worth
from sklearn_cbir.collection._keeper import Values
from sklearn_cbir.collection._labels import NO_LABELS, Labels, LabelsLike, as_about, check_labels
from sklearn_cbir.collection._listing import Root, as_place
from sklearn_cbir.collection._lock import only_writer
from sklearn_cbir.collection._network import check_is_local
from sklearn_cbir.collection._roots import (
    LOOKED_AT,
    as_lines,
    as_path,
    check_found,
    check_holds,
    check_roots,
    found_roots,
    keep_places,
    root_of,
)
from sklearn_cbir.collection._segments import (
    SegmentGoneError,
    damaged,
    distances_from,
    not_of_photos,
)
from sklearn_cbir.collection._server import (
    address_lines,
    check_server,
    keeper_of,
    server_lines,
)
from sklearn_cbir.collection._sync import Sync, SyncReport, difference, list_all
from sklearn_cbir.collection._table import FOUND, Table
from sklearn_cbir.collection._where import ALL, Where, as_condition, check_numbers, number_in
from sklearn_cbir.duplicates import NearDuplicates
from sklearn_cbir.images._faults import called
from sklearn_cbir.index._evaluation import Evaluation
from sklearn_cbir.index._stored import HalfRows
from sklearn_cbir.neighbors import NeighborsRetriever
from sklearn_cbir.persistence import load, save, saved_description, saved_digest

if TYPE_CHECKING:
    import pandas

    from sklearn_cbir._saved_modules import Modules

TEXTS = ("folder", "name", "label", "taken", "state", "reason")
INTEGERS = ("number", "size", "width", "height")
MASKS_KEPT = 8  # of conditions that were asked last: a page of results has that of the one before


@dataclass(frozen=True)
class View:
    """The rows of one commit, as a search uses them."""

    version: int
    rows_of: tuple[int, int]  # generation and number of rows, on which the retriever depends
    values: Values | None  # None: no row yet
    retriever: NeighborsRetriever | None
    is_left: NDArray[np.bool_] | None  # which rows a photo has; None: all
    masks: dict[Any, NDArray[np.bool_]] = field(default_factory=dict)  # condition -> rows
    numbers: list[Positions] = field(default_factory=list)  # of the photos of rows, once asked for


class PhotoCollection:
    """A search over folders of photos that you can keep up to date.

    It is stored in its own folder. Make one with `create`, add photos with `sync`, and
    `search`. Another day, `open` it: the next `sync` adds what is new, changed, moved or deleted,
    and decodes and embeds only new photos. It survives crashes at any moment. Photos are read
    and never changed.

    Parameters
    ----------
    path : str or path
        The folder of a collection that `create` has made.

    read_only : bool, default=False
        Whether nothing is written. A collection that cannot be written is always read-only.

    uri : str or path, default=None
        Where the rows are now, if their server or their file of milvus-lite has moved; the
        collection stores it.

    modules : list of classes or dict of str to callable, default=None
        Classes of your own torch modules in the extractor, as
        :func:`~sklearn_cbir.persistence.load` takes them.

    Attributes
    ----------
    path : str
        The folder of the collection.

    read_only : bool
        Whether nothing can be written.

    See Also
    --------
    NeighborsRetriever : Searches rows in memory.
    sklearn_cbir.extraction.extract : Writes the rows of a fixed list of photos.

    Notes
    -----
    The folder holds an SQLite database, the rows in ``.npy`` files, and the extractor. It
    must be on a disk of this machine: locks of network file systems are not reliable.
    One process writes at a time; any number read, and see the last commit.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sklearn_cbir.collection import PhotoCollection
    >>> from sklearn_cbir.datasets import make_shapes
    >>> from sklearn_cbir.descriptors import GISTDescriptor
    >>> images, _ = make_shapes(5, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number, image in enumerate(images):
    ...         Image.fromarray(image).save(Path(folder, f"{number}.png"))
    ...     with PhotoCollection.create(Path(folder, ".cbir"), folder, GISTDescriptor()) as photos:
    ...         added = photos.sync().added
    ...         hits = photos.search([Path(folder, "3.png")], k=2)
    >>> added, [Path(hit.path).name for hit in hits[0]][0]
    (5, '3.png')
    """

    def __init__(
        self,
        path: PathLike,
        *,
        read_only: bool = False,
        uri: PathLike | None = None,
        modules: "Modules" = None,
    ) -> None:
        self.path = as_path(path)
        self._modules = modules
        self._extractor: Any = None
        self._view: View | None = None
        self._table = Table(self.path, read_only=check_boolean(read_only, "read_only"))
        self.read_only = self._table.read_only
        try:
            self._keeper = keeper_of(self._table, uri)
            with self._table.reading():
                self._check_last_batch()
            if uri is not None and not self.read_only:
                self._note(address_lines(check_server(uri), self.path))
        except BaseException:
            self.close()
            raise
        self._take_away_leftovers()

    @classmethod
    def create(
        cls,
        path: PathLike,
        roots: PathLike | Sequence[PathLike],
        extractor: Transformer,
        *,
        dtype: Literal["float16", "float32"] = "float16",
        labels: LabelsLike = None,
        exclude: Sequence[str] | None = None,
        follow_links: bool = False,
        uri: PathLike | None = None,
        modules: "Modules" = None,
    ) -> Self:
        """Make a collection, without photos yet.

        Parameters
        ----------
        path : str or path
            Folder of the collection; made if it does not exist. Among the photos it must be
            hidden, such as ``PHOTOS/.cbir``.

        roots : str, path or sequence of them
            Folders of photos; sub-folders are included. No folder may be inside another.

        extractor : transformer
            Makes one row per photo: any fitted estimator or pipeline that
            :func:`~sklearn_cbir.persistence.save` can save. Codes of {0, 1} are compared by
            bits, floats by their cosine.

        dtype : {"float16", "float32"}, default="float16"
            Type in which rows of floats are stored, of unit length.

        labels : {"folder"}, str, path or tuple, default=None
            How photos get labels. ``"folder"``: the top folder below the root that contains
            the photo. A path: a CSV file with the columns ``path`` and ``label``, or
            ``(file, column)`` to name the column of labels. It is read again by every `sync`.
            Its paths are relative to the roots, or else to its own folder, or absolute.

        exclude : sequence of str, default=None
            Patterns of files and folders to leave out, as in
            :func:`~sklearn_cbir.datasets.load_image_folder`. None leaves out hidden files,
            and files that servers and programs keep next to photos.

        follow_links : bool, default=False
            Whether links to files and folders are followed.

        uri : str or path, default=None
            Where the rows are: the address of a Milvus server, or a local file whose name
            ends in ``.db``, as in :class:`~sklearn_cbir.NeighborsRetriever`. There they have
            single precision. None keeps them in files next to the table.

        modules : list of classes or dict of str to callable, default=None
            Classes of your own torch modules in `extractor`.

        Returns
        -------
        PhotoCollection
            The collection, open for writing.

        Raises
        ------
        FileExistsError
            If there is a collection in the folder, or something else.

        ValueError
            If a root is inside another, if the collection is among the photos and not
            hidden, if the extractor cannot be saved, or if the table of labels lacks these
            columns or cannot be read.

        OSError
            If the folder of the collection is on a network file system. The photos may be
            on one.

        ConnectionError
            If the server at `uri` does not answer.
        """
        folder = as_path(path)
        places = check_roots(roots, folder)
        check_choice(dtype, "dtype", ("float16", "float32"))
        labels_from = check_labels(labels)
        check_boolean(follow_links, "follow_links")
        patterns = check_patterns(exclude)
        estimator = check_extractor(extractor)
        check_is_local(folder)
        check_is_free(folder)
        os.makedirs(folder, exist_ok=True)
        with only_writer(os.path.join(folder, LOCK)):
            check_is_free(folder)  # nobody else was faster
            address = None if uri is None else check_server(uri)
            save(estimator, os.path.join(folder, EXTRACTOR), modules)
            about = {
                "version": 0,  # raised by every commit
                "generation": 0,  # raised when rows get other places
                "n_rows": 0,
                "kind": None,
                "n_features": None,
                "dtype": dtype if address is None else "float32",
                **({} if address is None else server_lines(address, folder)),
                **as_about(labels_from, list(starmap(Root, enumerate(places, 1))), folder),
                "exclude": None if patterns is None else json.dumps(patterns),
                "follow_links": int(follow_links),
                "extractor": saved_digest(os.path.join(folder, EXTRACTOR)),
            }
            Table.create(folder, about, as_lines(places, folder)).close()
        return cls(folder, modules=modules)

    @classmethod
    def open(
        cls,
        path: PathLike,
        *,
        read_only: bool = False,
        uri: PathLike | None = None,
        modules: "Modules" = None,
    ) -> Self:
        """Open an existing collection; the extractor is loaded at its first use.

        Parameters
        ----------
        path : str or path
            The folder of the collection.

        read_only : bool, default=False
            Whether nothing is written.

        uri : str or path, default=None
            Where the rows are now, if their server or their file of milvus-lite has moved; the
            collection stores it.

        modules : list of classes or dict of str to callable, default=None
            Classes of your own torch modules in the extractor.

        Returns
        -------
        PhotoCollection
            The collection.

        Raises
        ------
        FileNotFoundError
            If there is no collection.

        ValueError
            If it has a newer format, or is damaged: a file has another size or another
            beginning, or the last commit has changed. `check` checks all data.

        PermissionError
            If it cannot be written, but its log still holds commits.

        OSError
            If it is on a network file system and `read_only` is False.

        ConnectionError
            If the server of its rows does not answer.
        """
        return cls(path, read_only=read_only, uri=uri, modules=modules)

    def close(self) -> None:
        """Close the files of the collection; leaving a ``with`` block does the same."""
        if "_keeper" in vars(self):
            self._keeper.close()
        self._table.close()
        self._view = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __len__(self) -> int:
        with self._table.reading():
            return self._table.ask("SELECT count(*) FROM photo").fetchone()[0]

    @property
    def roots(self) -> list[str]:
        """Folders of photos, where they are now."""
        with self._table.reading():
            return [root.path for root in self._roots()]

    @property
    def metric(self) -> str | None:
        """How rows are compared, ``"cosine"`` or ``"hamming"``; None before there is one."""
        with self._table.reading():
            format = self._table.row_format()
        return None if format is None else format.metric

    @property
    def version(self) -> int:
        """Number that every commit of any process raises; if it is equal, so are the data."""
        with self._table.reading():
            return self._table.version()

    @property
    def extractor(self) -> Any:
        """The transformer that makes the rows of photos; loaded at first use."""
        return self._loaded()

    def about(self) -> dict[str, Any]:
        """Return facts about the whole collection, without loading the extractor.

        Returns
        -------
        dict of str to object
            ``path`` and ``roots``; ``n_photos``, and of these ``n_ready``, ``n_unreadable`` and
            ``n_away``, by their state; ``extractor``, in short; ``kind`` of the rows
            (``"float16"``, ``"float32"``, ``"codes"``, or None before there is one), ``n_rows``
            and ``n_features``; ``uri`` of the server that has the rows, or None;
            ``labels``, ``exclude`` and ``follow_links`` as given to `create`.
        """
        with self._table.reading():
            about = self._table.about()
            query = "SELECT state, count(*) FROM photo GROUP BY state"
            counts = dict(map(tuple, self._table.ask(query)))
            roots = [root.path for root in self._roots()]
        return {
            "path": self.path,
            "roots": roots,
            "n_photos": sum(counts.values()),
            **{f"n_{state}": counts.get(state, 0) for state in ("ready", "unreadable", "away")},
            "extractor": saved_description(os.path.join(self.path, EXTRACTOR)),
            **{name: about[name] for name in ("kind", "n_rows", "n_features", "labels")},
            "uri": self._keeper.uri,
            "exclude": None if about["exclude"] is None else json.loads(about["exclude"]),
            "follow_links": bool(about["follow_links"]),
        }

    # Keeping up ----------------------------------------------------------------------------------

    def sync(
        self,
        retry: bool = False,
        *,
        verbose: int = 0,
        progress: Callable[[int, int], object] | None = None,
    ) -> SyncReport:
        """Add what is new, changed, moved and deleted in the folders.

        A photo is read again if its size or its time of change is different. If its content
        is already known from another place, it is not decoded. The work is committed every 300
        photos or 30 seconds, and when an exception ends it; the next sync continues.

        Parameters
        ----------
        retry : bool, default=False
            Whether unreadable photos are tried again although they have not changed, for
            example after you installed a decoder. Files that only could not be reached (no
            permission, a missing share) are tried every time.

        verbose : int, default=0
            Above 0, shows the progress on standard error.

        progress : callable, default=None
            Called with the number of finished photos, and of all photos to read: first with 0,
            after the folders are listed. An exception in it ends the sync, and the next one
            continues.

        Returns
        -------
        SyncReport
            How many photos were added, changed, moved and removed.

        Raises
        ------
        FileNotFoundError
            If a root is missing, or is empty although the collection has photos from it, for
            example because a disk is not mounted. Then no photo counts as deleted. Or if the
            table of labels is missing.

        ValueError
            If the table of labels gives a photo two labels, for example. Then nothing changes.

        BlockingIOError
            If another process writes to the collection.

        OSError
            If the disk is full, for example. Everything committed before is complete.
        """
        check_boolean(retry, "retry")
        check_verbose(verbose)
        if progress is not None and not callable(progress):
            raise ValueError(f"progress={shortened(progress)} must be a function of two numbers.")
        self._check_writable()
        with only_writer(os.path.join(self.path, LOCK)):
            table = self._table
            with table.reading():
                about, roots = table.about(), self._roots()
            check_found(roots, self.path)
            exclude = None if about["exclude"] is None else json.loads(about["exclude"])
            labels = Labels(about, roots, self.path)
            with table.telling():
                listings = list_all(roots, exclude, bool(about["follow_links"]), self.path, table)
                keep_places(table, roots, self.path)
                label_of = labels.of(listings)
                found = difference(listings, table, retry, label_of)
                n = len(found.to_read)
                with progress_bar(n, "Taking in photos", verbose > 0, unit="photos") as draw:
                    advance = draw if progress is None else telling(progress, n, draw)
                    sync = Sync(table, self._keeper, self._loaded, retry, label_of, advance)
                    report = sync.run(found)
            table.checkpoint()
            self._keeper.take_away_leftovers()
        return report

    def check(self) -> None:
        """Check all stored data, byte by byte; damage is an error.

        Raises
        ------
        ValueError
            If the database, a row or the extractor has changed; the message says what.
        """
        with self._table.reading():
            view, faults = self._look(), self._table.faults()
            of_rows = [
                self._keeper.fault(batch, view.values, view.is_left)
                for batch in self._table.batches()
            ]
            faults += [fault for fault in of_rows if fault]
        if faults:
            raise damaged(self.path, "; ".join(faults))
        self._check_extractor()
        load(os.path.join(self.path, EXTRACTOR), self._modules)

    def compact(self) -> int:
        """Remove the rows of deleted and changed photos.

        Searches skip such rows, but they use disk space until then. New files are written and
        then replace the old ones at once; numbers of photos do not change. The disk needs space
        for both.

        Returns
        -------
        int
            How many rows were removed.

        Raises
        ------
        BlockingIOError
            If another process writes to the collection.

        OSError
            If the disk is full, for example. The collection is unchanged.
        """
        self._check_writable()
        with only_writer(os.path.join(self.path, LOCK)):
            n_dead = compact_rows(self._table, self._keeper)
            self._table.checkpoint()
        self._view = None  # and with it the map of the old files
        self._take_away_leftovers()
        return n_dead

    def relocate(self, root: PathLike, *, of: PathLike | None = None) -> None:
        """Set the new place of a folder of photos that was moved alone.

        You need this only if photos and collection were not moved together. No photo is read;
        the next `sync` compares them.

        Parameters
        ----------
        root : str or path
            Where the folder is now. Or the table of labels, if it was moved.

        of : str or path, default=None
            The old folder, if the collection has several.

        Raises
        ------
        ValueError
            If none of the photos looked for is there, or the folder is inside another root.

        FileNotFoundError
            If there is no such folder.
        """
        self._check_writable()
        with only_writer(os.path.join(self.path, LOCK)):
            with self._table.reading():
                about, roots = self._table.about(), self._roots()
            if about["labels"] == "table" and of is None and os.path.isfile(root):
                table = check_labels((root, about["labels_column"]))
                self._set_about(as_about(table, roots, self.path))
                return
            with self._table.reading():
                moved = root_of(roots, of)
                some = self._table.some_of(moved.number, n=LOOKED_AT)
            known = [other for other in roots if other != moved and not other.is_lost]
            others = [other.path for other in known if os.path.isdir(other.path)]
            place = as_path(root, "root is")
            check_roots([*others, place], self.path)
            check_holds(place, some)
            ((_, path, way),) = as_lines([place], self.path)
            with self._table.writing():
                self._table.place_root(moved.number, path, way)
            self._table.checkpoint()

    # Asking --------------------------------------------------------------------------------------

    def search(self, X: ImagesLike, k: int = 10, where: Where | None = None) -> list[list[Hit]]:
        """Find the photos that are nearest to each query.

        Parameters
        ----------
        X : images
            Queries for the extractor: a sequence of paths, encoded photos, PIL images or
            arrays, or `Text` if its network understands words.

        k : int, default=10
            Number of results. There are fewer if there are fewer photos.

        where : dict, array-like of bool or of int, default=None
            Which photos may be found; None means all. ``{column: value}``, conditions that must
            all hold, for the columns ``"folder"`` (with its sub-folders), ``"label"``,
            ``"taken"``, ``"width"``, ``"height"`` and ``"name"``. The value is one value, a
            list of values, or a tuple (low, high), where either may be None. Or a mask, one
            bool for each photo in the order of `items`, or numbers of photos.

        Returns
        -------
        list of list of Hit
            For every query, the nearest first. Empty if no photo meets `where`.

        Raises
        ------
        ValueError
            If `where` names a column that does not exist, or a value of another type.

        ImageReadError
            If a query cannot be read.
        """
        k = check_integer(k, "k", minimum=1)
        rows = np.asarray(self._loaded().transform(X))
        with self._table.reading():
            view, mask = self._look(), self._mask(where)
            k = min(k, int(np.count_nonzero(mask)))
            if view.retriever is None or not k:
                return [[] for _ in rows]
            all_rows = None if mask.all() else mask
            distances, found = view.retriever.kneighbors(rows, k, where=all_rows)
            return self._hits(distances, found)

    def like(
        self,
        numbers: Sequence[int] = (),
        unlike: Sequence[int] = (),
        *,
        X: ImagesLike | None = None,
        unlike_X: ImagesLike | None = None,
        k: int = 10,
        where: Where | None = None,
    ) -> list[Hit]:
        """Find photos similar to some and not to others, which are left out.

        Parameters
        ----------
        numbers : sequence of int, default=()
            Numbers of liked photos.

        unlike : sequence of int, default=()
            Numbers of disliked photos.

        X : images, default=None
            Liked photos that are not in the collection, or words.

        unlike_X : images, default=None
            Disliked photos that are not in the collection, or words.

        k : int, default=10
            Number of results. There are fewer if there are fewer photos.

        where : dict, array-like of bool or of int, default=None
            Which photos may be found, as in `search`.

        Returns
        -------
        list of Hit
            The nearest first.

        Raises
        ------
        ValueError
            If nothing is liked, if a number does not belong to a photo that can be found, or
            if it is both liked and disliked.

        See Also
        --------
        NeighborsRetriever.like : Explains how the query is made.
        """
        k = check_integer(k, "k", minimum=1)
        rows, unlike_rows = self._rows_asked(X, "X"), self._rows_asked(unlike_X, "unlike_X")
        with self._table.reading():
            view = self._look()
            liked = self._rows_of_numbers(numbers, "numbers")
            unliked = self._rows_of_numbers(unlike, "unlike")
            if both := set(liked) & set(unliked):
                number = liked[min(both)]
                raise ValueError(
                    f"{number} is in numbers and in unlike. Take it out of one of them."
                )
            mask = self._mask(where).copy()
            mask[[*liked, *unliked]] = False
            k = min(k, int(np.count_nonzero(mask)))
            if view.retriever is None or not k:
                return []
            found = view.retriever.like(
                [*liked], [*unliked], X=rows, unlike_X=unlike_rows, n_neighbors=k, where=mask
            )
            return self._hits(*found)[0]

    def like_each(
        self, numbers: Sequence[int], k: int = 10, where: Where | None = None
    ) -> tuple[list[Floats], list[Positions]]:
        """Find photos similar to each of several, in one pass over the rows.

        For many photos this is faster than `like`, which makes a `Hit` of each result.

        Parameters
        ----------
        numbers : sequence of int
            Numbers of photos, each of which is left out of its own results.

        k : int, default=10
            Number of results. There are fewer if there are fewer photos.

        where : dict, array-like of bool or of int, default=None
            Which photos may be found, as in `search`.

        Returns
        -------
        distances : list of ndarray of shape (k,), float64
            For every number, the nearest first.

        found : list of ndarray of shape (k,), int64
            Numbers of the photos found.

        Raises
        ------
        ValueError
            If a number does not belong to a photo that can be found.
        """
        k = check_integer(k, "k", minimum=1)
        with self._table.reading():
            view, number_of = self._look(), self._rows_of_numbers(numbers, "numbers")
            row_of = {number: row for row, number in number_of.items()}
            asked, mask = [row_of[number] for number in numbers], self._mask(where)
            if view.retriever is None or not asked:
                return [], []
            if np.count_nonzero(mask) > k:
                all_rows = None if mask.all() else mask
                distances, rows = view.retriever.kneighbors(None, k, ids=asked, where=all_rows)
                return [*distances.astype(np.float64)], [*self._numbers_of_rows(rows)]
        # How many are left depends on who asks.
        each = [self.like([number], k=k, where=where) for number in numbers]
        return (
            [np.array([hit.distance for hit in hits], dtype=np.float64) for hits in each],
            [np.array([hit.number for hit in hits], dtype=np.int64) for hits in each],
        )

    def duplicates(
        self, radius: float | None = None, where: Where | None = None
    ) -> list[list[Hit]]:
        """Group photos that differ only in how they were saved, scaled or cropped.

        Parameters
        ----------
        radius : float, default=None
            Largest distance between two photos of a pair. None means the radius of the
            extractor; `PerceptualHash` and `GISTDescriptor` have one. For others, look at
            pairs first.

        where : dict, array-like of bool or of int, default=None
            Which photos are grouped, as in `search`.

        Returns
        -------
        list of list of Hit
            Groups in the order of their numbers. The first photo of a group is the one to keep:
            the most pixels, then the largest file, then the smallest number. Distances are
            from this photo.

        Raises
        ------
        ValueError
            If `radius` is None, and the extractor has none.

        See Also
        --------
        sklearn_cbir.duplicates.NearDuplicates : Defines a group.
        """
        if radius is None:
            radius = getattr(self._loaded(), "near_duplicates", (None, None))[1]
        if radius is None:
            raise ValueError(
                f"radius=None, but {type(self._loaded()).__name__} has no radius of its own. Pass "
                "a number: look at the distances of some pairs first."
            )
        with self._table.reading():
            values, format = self._look().values, self._table.row_format()
            lines = self._lines_with_rows(where)
            if values is None or format is None or not lines:
                return []
            rows = format.decoded(values[np.array([line["row"] for line in lines])])
            groups = NearDuplicates(radius=radius, metric=format.metric).fit(rows).groups_
            places = {root.number: root.path for root in self._roots()}
        found = []
        for group in groups:
            first, *others = sorted(group.tolist(), key=lambda at: worth(lines[at]))
            away = distances_from(rows[first], rows[[first, *others]], format.metric)
            of_group = zip([first, *others], away.tolist())
            found.append([hit_of(lines[at], places, distance) for at, distance in of_group])
        return sorted(found, key=lambda hits: min(hit.number for hit in hits))

    def score(self, scoring: str | Metric = "map", where: Where | None = None) -> float:
        """Return how well photos find others with their label; each is a query once.

        Parameters
        ----------
        scoring : str or callable, default="map"
            The metric, as in :class:`~sklearn_cbir.NeighborsRetriever`.

        where : dict, array-like of bool or of int, default=None
            Which photos are queries and may be found, as in `search`. Photos without a label
            are left out.

        Returns
        -------
        float
            Larger is better.

        Raises
        ------
        ValueError
            If no photos have labels, or no two photos share one.
        """
        return self._labelled(where).set_params(scoring=scoring).score()

    def evaluate(self, scoring: str | Metric = "map", where: Where | None = None) -> Evaluation:
        """Compute a metric per photo and per label, as `score` does, with the worst first.

        Parameters
        ----------
        scoring : str or callable, default="map"
            The metric, as in `score`.

        where : dict, array-like of bool or of int, default=None
            Which photos are queries and may be found, as in `score`.

        Returns
        -------
        :class:`~sklearn.utils.Bunch`
            As `NeighborsRetriever.evaluate` returns it; queries are the photos with labels,
            in the order of their numbers.

        Raises
        ------
        ValueError
            If no photos have labels, or no two photos share one.
        """
        return self._labelled(where).evaluate(scoring=scoring)

    def items(self) -> dict[str, NDArray]:
        """Return the facts about all photos, in the order of their numbers.

        Returns
        -------
        dict of str to ndarray of shape (n_photos,)
            ``number``, ``path``, ``folder`` and ``name``, ``label``, ``size`` in bytes,
            ``width``, ``height``, ``taken``, ``state`` and ``reason``. Unknown values are
            -1, or empty text. ``state`` is ``"ready"``, ``"unreadable"`` (``reason`` says
            why), or ``"away"`` if the file could not be fetched.
        """
        with self._table.reading():
            places = {root.number: root.path for root in self._roots()}
            lines = self._table.photos((*INTEGERS, *TEXTS, "root", "path")).fetchall()
        columns: dict[str, NDArray] = {
            name: np.array([-1 if line[name] is None else line[name] for line in lines], np.int64)
            for name in INTEGERS
        }
        columns["path"] = text_array(as_place(places[line["root"]], line["path"]) for line in lines)
        columns |= {name: text_array(line[name] or "" for line in lines) for name in TEXTS}
        order = ("number", "path", "folder", "name", "label", "size", "width", "height")
        return {name: columns[name] for name in (*order, "taken", "state", "reason")}

    def to_frame(self) -> "pandas.DataFrame":
        """Return `items` as a table of pandas, with missing values for unknown ones.

        Returns
        -------
        pandas.DataFrame
            One line per photo, by its number; ``taken`` holds times.
        """
        return as_frame(self.items(), INTEGERS)

    def retriever(self, ids: Literal["number", "path"] = "number") -> NeighborsRetriever:
        """Return a retriever over a copy of the rows, in memory.

        It holds the collection as it is now, and no later `sync` changes it. You can score it,
        save it and change its parameters. Its distances are those of `search`.

        Parameters
        ----------
        ids : {"number", "path"}, default="number"
            Whether the ids are the numbers or the paths of the photos.

        Returns
        -------
        NeighborsRetriever
            Fitted; it has labels if all photos do.
        """
        check_choice(ids, "ids", ("number", "path"))
        with self._table.reading():
            view = self._look()
            lines = self._lines_with_rows()
            if view.values is None or not lines:
                raise ValueError("The collection has no photos that can be read. Call sync first.")
            rows = np.array([line["row"] for line in lines], dtype=np.int64)
            labels = [line["label"] for line in lines]
            places = {root.number: root.path for root in self._roots()}
            return self._fitted(
                view.values,
                rows,
                y=None if None in labels else labels,
                ids=[
                    line["number"]
                    if ids == "number"
                    else as_place(places[line["root"]], line["path"])
                    for line in lines
                ],
            )

    # Inside --------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self.read_only:
            raise PermissionError(
                f"The collection in {self.path!r} cannot be written: its folder or its disk does "
                "not allow it, or it was opened with read_only=True."
            )

    def _note(self, about: dict[str, Any]) -> None:
        """Store facts about the whole collection."""
        with only_writer(os.path.join(self.path, LOCK)):
            self._set_about(about)

    def _set_about(self, about: dict[str, Any]) -> None:
        with self._table.writing():
            self._table.set_about(**about)
        self._table.checkpoint()

    def _take_away_leftovers(self) -> None:
        """Delete leftover rows, unless another process is writing now."""
        if not self.read_only:
            with suppress(BlockingIOError), only_writer(os.path.join(self.path, LOCK)):
                self._keeper.take_away_leftovers()

    def _roots(self) -> list[Root]:
        """Return where the roots are now."""
        return found_roots(
            self._table.roots(), self.path, partial(self._table.some_of, n=LOOKED_AT)
        )

    def _loaded(self) -> Any:
        """Return the extractor, loaded when it is first needed."""
        if self._extractor is None:
            self._check_extractor()
            self._extractor = load(os.path.join(self.path, EXTRACTOR), self._modules)
        return self._extractor

    def _check_extractor(self) -> None:
        """Raise if another extractor than this one made the rows."""
        path = os.path.join(self.path, EXTRACTOR)
        with self._table.reading():
            digest = self._table.about()["extractor"]
        if saved_digest(path) != digest:
            raise ValueError(
                f"{path!r} is another extractor than the one that made the rows of this "
                "collection, so rows cannot be compared. Put the old file back, or create the "
                "collection again with the new extractor."
            )

    def _check_last_batch(self) -> None:
        """Raise if the rows of the last commit have changed."""
        view, batch = self._look(), self._table.last_batch()
        if batch is None:
            return
        if fault := self._keeper.fault(batch, view.values, view.is_left):
            raise damaged(self.path, fault)

    def _look(self) -> View:
        """Return the view of the last commit; every read begins with it."""
        table, view = self._table, self._view
        if view is not None and view.version == table.version():
            return view
        while True:
            generation = table.about()["generation"]
            try:
                self._view = self._view_of_commit()
                return self._view
            except SegmentGoneError:  # another process has compacted since this commit
                table.look_again()
                if table.about()["generation"] == generation:
                    raise

    def _view_of_commit(self) -> View:
        """Return the view of the commit that is being read."""
        table, view = self._table, self._view
        about, format = table.about(), table.row_format()
        rows_of = about["generation"], about["n_rows"]
        if view is not None and view.rows_of == rows_of:
            values, retriever = view.values, view.retriever
        elif format is None or not about["n_rows"]:
            values = retriever = None
        else:
            values = self._keeper.read(format, table.segments(), about["n_rows"])
            retriever = self._keeper.retriever(values, format)
        is_left = self._is_left(about["n_rows"])
        return View(about["version"], rows_of, values, retriever, is_left)

    def _is_left(self, n_rows: int) -> NDArray[np.bool_] | None:
        """Return which rows a photo has, None if all have one."""
        if self._table.ask("SELECT count(row) FROM photo").fetchone()[0] == n_rows:
            return None
        return self._rows_where("1", [], n_rows)

    def _rows_where(self, where: str, bound: list[Any], n_rows: int) -> NDArray[np.bool_]:
        """Return which rows have a photo that a condition leaves in."""
        mask = np.zeros(n_rows, dtype=bool)
        query = f"SELECT row FROM photo WHERE row IS NOT NULL AND ({where})"
        mask[self._table.integers(query, bound)] = True
        return mask

    def _mask(self, where: Where | None) -> NDArray[np.bool_]:
        """Return which rows may be found."""
        view = self._look()
        n_rows = view.rows_of[1]
        if where is None:
            return np.ones(n_rows, dtype=bool) if view.is_left is None else view.is_left
        text, bound = as_condition(where, self._numbers)
        asked = text, *bound
        if asked not in view.masks:
            mask = self._rows_where(text, bound, n_rows)
            while len(view.masks) >= MASKS_KEPT:
                del view.masks[next(iter(view.masks))]
            view.masks[asked] = mask
        return view.masks[asked]

    def _lines_with_rows(self, where: Where | None = None) -> list[Any]:
        """Return the lines of photos that may be found, in the order of their rows."""
        text, bound = as_condition(where, self._numbers)
        query = f"SELECT * FROM photo WHERE row IS NOT NULL AND ({text}) ORDER BY row"
        return self._table.ask(query, bound).fetchall()

    def _rows_asked(self, X: ImagesLike | None, name: str) -> NDArray | None:
        """Return the rows of photos that are not in the collection."""
        if X is None:
            return None
        extractor = self._loaded()
        with called(name):
            return np.asarray(extractor.transform(X))

    def _rows_of_numbers(self, numbers: Sequence[int], name: str) -> dict[int, int]:
        """Return the rows of photos, and the number of each."""
        asked = check_numbers(numbers, self._numbers, name)
        lines = {line["number"]: line["row"] for line in self._lines_with_rows(asked)}
        missing = [number for number in asked if number not in lines]
        if missing:
            raise ValueError(f"{name} names {missing[0]}, a photo that cannot be read.")
        return {lines[number]: number for number in asked}

    def _numbers_of_rows(self, rows: Positions) -> Positions:
        """Return the numbers of the photos of some rows, in any shape."""
        view = self._look()
        if not view.numbers:
            view.numbers.append(self._table.number_of_rows(view.rows_of[1]))
        found = view.numbers[0][rows]
        if (found < 0).any():
            raise not_of_photos(self.path)
        return found

    def _numbers(self, among: Sequence[int] | None = None) -> Positions:
        """Return the numbers of all photos, or those among some that photos have, ascending."""
        condition, bound = ALL if among is None else number_in(among)
        query = f"SELECT number FROM photo WHERE {condition} ORDER BY number"
        return self._table.integers(query, bound)

    def _labelled(self, where: Where | None) -> NeighborsRetriever:
        """Return a retriever over copies of the rows that have labels."""
        with self._table.reading():
            values = self._look().values
            lines = [line for line in self._lines_with_rows(where) if line["label"] is not None]
            if values is None or not lines:
                raise ValueError(NO_LABELS)
            rows = np.array([line["row"] for line in lines], dtype=np.int64)
            return self._fitted(values, rows, y=[line["label"] for line in lines])

    def _fitted(self, values: Values, rows: Positions, **of_rows: Any) -> NeighborsRetriever:
        """Return a retriever over copies of some rows."""
        format = self._table.row_format()
        assert format is not None  # there are rows
        if format.kind == "float16":
            half: Any = HalfRows.of_unit_values(values[rows].astype(np.float16, copy=False))
            return NeighborsRetriever(algorithm="exact", storage="float16").fit(half, **of_rows)
        copies = format.decoded(values[rows])
        return NeighborsRetriever(metric=format.metric, algorithm="exact").fit(copies, **of_rows)

    def _hits(self, distances: NDArray, found: Positions) -> list[list[Hit]]:
        """Return the photos of rows that were found, (n_queries, k)."""
        places = {root.number: root.path for root in self._roots()}
        wanted = json.dumps(np.unique(found).tolist())
        condition = "row IN (SELECT value FROM json_each(?))"
        lines = self._table.photos((*FOUND, "row"), condition, (wanted,))
        of_row = {line["row"]: line for line in lines}
        if not of_row.keys() >= set(found.flat):
            raise not_of_photos(self.path)
        return [
            [hit_of(of_row[row], places, distance) for row, distance in zip(rows, of_query)]
            for rows, of_query in zip(found.tolist(), distances.tolist())
        ]
