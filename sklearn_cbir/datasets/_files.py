"""Folders and files of data sets: found, or named in the error with where they come from."""

import os
from dataclasses import dataclass

import numpy as np

from sklearn_cbir._files import is_there


def check_folder(folder):
    """Return the path of an existing folder as str."""
    folder = os.path.expanduser(os.fsdecode(folder))
    if not is_there(folder):
        raise FileNotFoundError(f"folder={folder!r} does not exist.")
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"folder={folder!r} is a file. Pass the folder it lies in.")
    return folder


@dataclass(frozen=True)
class Distribution:
    """How a data set is distributed, and what to say when a part of it is missing."""

    loader: str
    layout: str  # what the folder holds, ending a sentence
    url: str

    def locate(self, folder, subfolders, marker):
        """Return the first of `folder` and its `subfolders` that holds `marker`, or None."""
        for part in ("", *subfolders):
            if is_there(os.path.join(folder, part, marker)):
                return os.path.join(folder, part)
        return None

    def find(self, folder, *names):
        """Return the path of the first of `names` that exists in `folder`."""
        for name in names:
            if is_there(os.path.join(folder, name)):
                return os.path.join(folder, name)
        raise self.missing(folder, " or ".join(names))

    def missing(self, folder, what):
        """Return the error for something that is not there."""
        return FileNotFoundError(
            f"folder={folder!r} lacks {what}. {self.loader} reads {self.layout}. Nothing is "
            f"downloaded: get the data from {self.url}."
        )

    def damaged(self, path, why):
        """Return the error for a file that holds something else."""
        return ValueError(
            f"{path!r} {why}, which {self.loader} cannot read. Get the data from {self.url} again."
        )

    def rows(self, path, n_columns):
        """Return the words of every line of a text file, `n_columns` a line."""
        with open(path, encoding="utf-8") as file:
            rows = [line.split(maxsplit=n_columns - 1) for line in file if line.strip()]
        for number, row in enumerate(rows, start=1):
            if len(row) != n_columns:
                raise self.damaged(path, f"has {len(row)} words on line {number}, not {n_columns}")
        return [[word.strip() for word in row] for row in rows]

    def integers(self, path, words):
        """Return words of a text file as an array of integers."""
        try:
            return np.array([int(word) for word in words], dtype=np.int64)
        except ValueError as error:
            raise self.damaged(path, f"holds no integers where they belong ({error})") from error

    def existing(self, folder, paths, listed_in):
        """Return `paths` as an array if all of them exist."""
        absent = [path for path in paths if not is_there(path)]
        if absent:
            raise self.missing(
                folder,
                f"{len(absent)} of the {len(paths)} images that {listed_in} lists, such as "
                f"{absent[0]!r}",
            )
        return np.array(paths)
