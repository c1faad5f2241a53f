"""Folders and files of data sets; errors name missing ones, and where to get them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._files import is_there
from sklearn_cbir._typing import PathLike


def check_folder(folder: PathLike) -> str:
    """Return the path of an existing folder as str."""
    path = os.path.expanduser(os.fsdecode(folder))
    if not is_there(path):
        raise FileNotFoundError(f"folder={path!r} does not exist.")
    if not os.path.isdir(path):
        raise NotADirectoryError(f"folder={path!r} is a file. Pass the folder that holds it.")
    return path


@dataclass(frozen=True)
class Distribution:
    """How a data set is distributed, and what to say when a part of it is missing."""

    loader: str
    layout: str  # what the folder holds, ending a sentence
    url: str

    def locate(self, folder: str, subfolders: Iterable[str], marker: str) -> str | None:
        """Return the first of `folder` and its `subfolders` that holds `marker`, or None."""
        for part in ("", *subfolders):
            if is_there(os.path.join(folder, part, marker)):
                return os.path.join(folder, part)
        return None

    def find(self, folder: str, *names: str) -> str:
        """Return the path of the first of `names` that exists in `folder`."""
        for name in names:
            if is_there(os.path.join(folder, name)):
                return os.path.join(folder, name)
        raise self.missing(folder, " or ".join(names))

    def missing(self, folder: str, what: str) -> FileNotFoundError:
        """Return the error for something that is not there."""
        return FileNotFoundError(
            f"folder={folder!r} lacks {what}. {self.loader} reads {self.layout}. Nothing is "
            f"downloaded: get the data from {self.url}."
        )

    def damaged(self, path: str, why: str) -> ValueError:
        """Return the error for a file that holds something else."""
        return ValueError(
            f"{path!r} {why}, which {self.loader} cannot read. Get the data from {self.url} again."
        )

    def rows(self, path: str, n_columns: int) -> list[list[str]]:
        """Return the words of every line of a text file, `n_columns` a line."""
        with open(path, encoding="utf-8") as file:
            rows = [line.split(maxsplit=n_columns - 1) for line in file if line.strip()]
        for number, row in enumerate(rows, start=1):
            if len(row) != n_columns:
                raise self.damaged(path, f"has {len(row)} words on line {number}, not {n_columns}")
        return [[word.strip() for word in row] for row in rows]

    def integers(self, path: str, words: Iterable[str]) -> NDArray[np.int64]:
        """Return words of a text file as an array of integers."""
        try:
            return np.array([int(word) for word in words], dtype=np.int64)
        except ValueError as error:
            raise self.damaged(path, f"has other values in place of integers ({error})") from error

    def existing(self, folder: str, paths: Sequence[str], listed_in: str) -> NDArray[np.str_]:
        """Return `paths` as an array if all of them exist."""
        absent = [path for path in paths if not is_there(path)]
        if absent:
            raise self.missing(
                folder,
                f"{len(absent)} of the {len(paths)} images that {listed_in} lists, such as "
                f"{absent[0]!r}",
            )
        return np.array(paths)
