"""`Text`: words in X together with images, and sums of words and images."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sklearn_cbir._validation import shortened
from sklearn_cbir.images._batches import check_item, pixels_of

if TYPE_CHECKING:
    import torch

# What may be added to words, beside words: one image, in a form that may be an element of X.
Photo: TypeAlias = Union[
    str,
    os.PathLike[str],
    bytes,
    bytearray,
    memoryview,
    io.BytesIO,
    Image.Image,
    NDArray[np.number],
    "torch.Tensor",
]
SIGNS = {1: "+", -1: "-"}


class Term(NamedTuple):
    """One part of a `Text`: words, or else an image."""

    sign: int
    words: str | None
    image: Any  # a path as str, an encoded photo as bytes, a PIL image or an array


@dataclass(frozen=True, init=False, repr=False, eq=False, slots=True)
class Text:
    """Words to search photos with, or a sum of words and photos.

    Use it in `X` as a query: in ``transform`` of a `CNNFeatureExtractor` whose network
    understands words, and in ``predict`` of a pipeline that begins with one, alone or
    among photos. A plain ``str`` there is the path of a photo.

    ``+`` and ``-`` make sums of texts and photos, in which a plain ``str`` is a
    path too. The row of a sum is the sum of the unit rows of its terms, scaled
    to unit length.

    Parameters
    ----------
    words : str
        What the photos show, such as "a red dress".

    Attributes
    ----------
    terms : tuple of (sign, words, image)
        The terms, in order. `sign` is 1 or -1. `words` is None for an image, and
        `image` is None for words.

    See Also
    --------
    sklearn_cbir.features.CNNFeatureExtractor.encode_text : Rows of words alone.

    Notes
    -----
    A photo in a sum is a path, an encoded photo (bytes), a PIL image or an array. PIL
    images and arrays are not copied: do not change them. Sums are equal if their terms
    are equal, in the same order.

    Examples
    --------
    >>> from sklearn_cbir import Text
    >>> Text("a red dress")
    Text('a red dress')
    >>> "harbor.jpg" + Text("at night") - Text("people")
    'harbor.jpg' + Text('at night') - Text('people')
    """

    terms: tuple[Term, ...]

    # NumPy leaves sums with arrays to `__radd__` and `__rsub__`.
    __array_ufunc__: ClassVar[None] = None

    def __init__(self, words: str) -> None:
        _set_terms(self, (Term(1, checked_words(words, "words"), None),))

    def __add__(self, other: Text | Photo) -> Text:
        return _sum_of(self, 1, other)

    def __radd__(self, other: Text | Photo | int) -> Text:
        if isinstance(other, int) and other == 0:  # what the built-in sum() begins with
            return self
        return _sum_of(other, 1, self)

    def __sub__(self, other: Text | Photo) -> Text:
        return _sum_of(self, -1, other)

    def __rsub__(self, other: Text | Photo) -> Text:
        return _sum_of(other, -1, self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Text):
            return NotImplemented
        pairs = zip(self.terms, other.terms)
        return len(self.terms) == len(other.terms) and all(_are_equal(*pair) for pair in pairs)

    def __hash__(self) -> int:
        # Pixels may change, so they are left out: equal sums have one hash all the same.
        return hash(tuple(term[:2] if _has_pixels(term) else term for term in self.terms))

    def __float__(self) -> float:
        # What reads rows of numbers asks for this.
        raise TypeError(
            f"{shortened(self)} is not a row of numbers. Put a CNNFeatureExtractor with a network "
            "of words before this step, or pass rows of its encode_text."
        )

    def __repr__(self) -> str:
        return self._written(repr, lambda words: f"Text({words!r})")

    def __str__(self) -> str:
        return self._written(_short_name, str)

    def _written(self, path: Callable[[str], str], words: Callable[[str], str]) -> str:
        """Return the sum as it is written, its paths and words as two functions write them."""
        text = ""
        for sign, own_words, image in self.terms:
            text += f" {SIGNS[sign]} " if text else ""
            if own_words is not None:
                text += words(own_words)
            else:
                text += path(image) if isinstance(image, str) else _description(image)
        return text


def _set_terms(text: Text, terms: tuple[Term, ...]) -> None:
    object.__setattr__(text, "terms", terms)  # as a frozen class sets its own


def _sum_of(first: object, sign: int, second: object) -> Text:
    """Return the sum, or difference, of two operands of which one is a `Text`."""
    terms = _terms_of(first), _terms_of(second)
    if terms[0] is None or terms[1] is None:
        return NotImplemented
    both = Text.__new__(Text)
    _set_terms(both, (*terms[0], *(term._replace(sign=sign * term.sign) for term in terms[1])))
    return both


def _terms_of(operand: object) -> tuple[Term, ...] | None:
    """Return what an operand adds to a sum, None if it is neither a text nor an image."""
    if isinstance(operand, Text):
        return operand.terms
    image = _image_of(operand)
    return None if image is None else (Term(1, None, image),)


def _image_of(operand: Any) -> Any:
    """Return an image as sums keep it, None of anything else."""
    if isinstance(operand, (str, os.PathLike)):
        path = str(os.fsdecode(operand))  # text of NumPy as Python's
        if not path:
            raise ValueError("The path of a photo in a sum is empty. Words are Text('...').")
        return path
    if isinstance(operand, io.BytesIO):
        return operand.getvalue()
    if isinstance(operand, (bytes, bytearray, memoryview)):
        return bytes(operand)
    if isinstance(operand, Image.Image):
        return operand
    if not hasattr(operand, "__array__") or not getattr(operand, "ndim", 0):
        return None
    if operand.ndim not in (2, 3):  # NumPy and pandas would say something else
        raise TypeError(
            f"An array of shape {tuple(operand.shape)} is not an image. Add to each, such as "
            "[photo + text for photo in X]."
        )
    return check_item(pixels_of(operand, "The image"), "The image")


def _has_pixels(term: Term) -> bool:
    """Say whether a term is an image in memory, which may change."""
    return term.image is not None and not isinstance(term.image, (str, bytes))


def _are_equal(one: Term, other: Term) -> bool:
    if one[:2] != other[:2] or type(one.image) is not type(other.image):
        return False
    if isinstance(one.image, np.ndarray):
        return np.array_equal(one.image, other.image)
    return one.image is other.image or one.image == other.image


def _short_name(path: str) -> str:
    """Return the name of a file without its folders, a long one without its middle."""
    name = PurePath(path).name
    return name if len(name) <= 20 else f"{name[:9]}…{name[-9:]}"


def _description(image: Any) -> str:
    """Return what an image is that has no name."""
    if isinstance(image, bytes):
        return f"<photo of {len(image):,} bytes>"
    return f"<array {image.shape}>" if isinstance(image, np.ndarray) else "<PIL image>"


def checked_words(words: object, name: str) -> str:
    """Return words that can be searched with, or raise."""
    if isinstance(words, Text):
        raise ValueError(f"{name} is {shortened(words)} already. Pass text (str).")
    if not isinstance(words, str):
        raise ValueError(
            f"{name} is {shortened(words)} of type {type(words).__name__}. Words are text (str)."
        )
    if not words.strip():
        raise ValueError(f"{name} is {words!r}, which is empty. Pass words.")
    return str(words)  # text of NumPy as Python's


# Words among what a user passes ------------------------------------------------------------------


def rows_with_words(X: object) -> list[Any] | None:
    """Return the elements of `X` if any of them is a `Text`, else None; all of them are looked at.

    Lists, tuples and columns of objects may hold words. Other sequences are not asked for what they
    hold before it is read.
    """
    if isinstance(X, Text):
        raise ValueError(f"X is {shortened(X)}, one text: wrap it in a list, [X].")
    elements = _objects_in(X)
    if elements is None or not any(isinstance(element, Text) for element in elements):
        return None
    return list(elements)


def _objects_in(X: Any) -> Any:
    """Return a list or a column that may hold any objects, None of anything else."""
    if isinstance(X, (list, tuple)):
        return X
    if hasattr(X, "iloc") and getattr(X, "ndim", 1) == 2:
        X = X.iloc[:, 0] if X.shape[1] == 1 else None
    dtype = getattr(X, "dtype", None)
    if str(dtype) not in ("object", "Object"):  # NumPy and pandas, polars
        return None
    values = np.asarray(X)
    return values.ravel() if values.ndim == 1 or values.shape[1:] == (1,) else None
