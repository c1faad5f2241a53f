"""The arguments of a new collection, checked before anything is written."""

import os
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_cbir._validation import shortened
from sklearn_cbir.collection._table import Table

EXTRACTOR, LOCK = "extractor.cbir", "lock"  # names of files in the folder of a collection


def check_patterns(exclude: Any) -> list[str] | None:
    """Return patterns of files to leave out, as a list of text."""
    if exclude is None:
        return None
    listed = [exclude] if isinstance(exclude, (str, bytes, os.PathLike)) else exclude
    try:
        return [os.fsdecode(pattern) for pattern in listed]
    except TypeError:
        raise ValueError(
            f"exclude={shortened(exclude)} must be a sequence of patterns, such as ('out',)."
        ) from None


def check_extractor(extractor: Any) -> BaseEstimator:
    """Return the extractor if it is one that can be saved and is fitted."""
    if not isinstance(extractor, BaseEstimator) or not hasattr(extractor, "transform"):
        raise ValueError(
            f"extractor={shortened(extractor)} has no transform. Pass a fitted transformer, or a "
            "pipeline without its retriever."
        )
    check_is_fitted(extractor)
    return extractor


def check_is_free(folder: str) -> None:
    """Raise unless a folder is free for a collection; leftovers of a creation may be in it."""
    if Table.is_there(folder):
        raise FileExistsError(
            f"There is already a collection in {folder!r}. Open it with PhotoCollection.open, "
            "or delete the folder; your photos stay unchanged."
        )
    if os.path.isdir(folder):
        own = (EXTRACTOR, LOCK, "collection.sqlite", ".extractor.cbir")
        others = [name for name in os.listdir(folder) if not name.startswith(own)]
        if others:
            raise FileExistsError(
                f"{folder!r} is not empty: it holds {others[0]!r}. Pass another folder, for the "
                "collection alone."
            )
    elif os.path.exists(folder):
        raise NotADirectoryError(f"{folder!r} is a file. Pass a folder for the collection.")
