"""Who is relevant to whom: the one definition for training and for scoring."""

import numbers
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from scipy import sparse
from sklearn.utils.validation import column_or_1d

from sklearn_cbir._typing import LabelsLike, Positions
from sklearn_cbir._validation import is_fair_width, shortened, text_array

if TYPE_CHECKING:
    import torch

# What labels of numpy's kinds are called; labels of two kinds are never equal.
KINDS = {"b": "boolean", "i": "number", "u": "number", "f": "number", "M": "date", "m": "duration"}


@overload
def shared_labels(y: np.ndarray, z: np.ndarray) -> np.ndarray: ...
@overload
def shared_labels(y: "torch.Tensor", z: "torch.Tensor") -> "torch.Tensor": ...
def shared_labels(y, z):
    """Count the labels that every row of `y` shares with every row of `z`.

    Parameters
    ----------
    y : array or tensor of shape (n,) or (n, n_labels)
        One label per row, or one 0/1 column per label.

    z : array or tensor of shape (m,) or (m, n_labels)
        Labels of the same form.

    Returns
    -------
    array or tensor of shape (n, m)
        Boolean for 1-D labels, floating counts for 0/1 columns; rows are
        relevant to each other where it is positive.

    Examples
    --------
    >>> import numpy as np
    >>> shared_labels(np.array([0, 1]), np.array([1, 1, 0]))
    array([[False, False,  True],
           [ True,  True, False]])
    >>> shared_labels(np.array([[1, 1, 0]]), np.array([[1, 1, 1], [0, 0, 1]]))
    array([[2., 0.]])
    """
    if y.ndim == 1:
        return y[:, None] == z[None, :]
    return _as_numbers(y) @ _as_numbers(z).T


def _as_numbers(y):
    """As floats: a product of booleans loses the count, and one of uint8 wraps at 256."""
    if hasattr(y, "is_floating_point"):  # torch's default dtype, which may be any, is not asked
        return y if y.is_floating_point() else y.float()
    return y * 1.0


def check_labels(y: LabelsLike | None, *, name: str = "y", n: int | None = None) -> np.ndarray:
    """Return labels as a 1-D array, or as float32 0/1 columns (n, n_labels).

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_labels), dense or sparse
        One label per row, or 0/1 columns.

    name : str, default="y"
        What messages call it.

    n : int, default=None
        Number of rows that `y` must have.

    Returns
    -------
    ndarray of shape (n,) or (n, n_labels)
        Labels as given, or float32 0/1 columns. Text is an array of objects
        where a fixed width would waste memory, or drop NUL characters.

    Raises
    ------
    ValueError
        For missing, masked, continuous, NaN or mixed labels, bytes, other
        objects, numbers beyond 64 bits, or a wrong number of rows.

    Examples
    --------
    >>> check_labels(["cat", "dog"])
    array(['cat', 'dog'], dtype='<U3')
    """
    if y is None:
        raise ValueError(
            f"This needs labels, but {name} is None. Pass {name} with one label per row."
        )
    rows = _dense(y, name)
    if n is not None and len(rows) != n:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {n} rows in X, "
            f"{len(rows)} labels in {name}."
        )
    if rows.ndim == 2 and rows.shape[1] > 1:
        return _check_columns(rows, name)
    rows = column_or_1d(rows, warn=True) if rows.ndim > 1 else rows
    return _check_single(rows, name)


def _dense(y: Any, name: str) -> np.ndarray:
    if sparse.issparse(y):
        return y.toarray()
    if hasattr(y, "detach"):
        y = y.detach().cpu()
        y = y.float() if y.dtype.itemsize == 2 and y.is_floating_point() else y  # bfloat16, say
    if isinstance(y, (list, tuple)):
        y = _from_list(y, name)
    if isinstance(y, np.ma.MaskedArray):
        _check_mask(y, name)
    y = np.asarray(y)
    if y.dtype.kind == "T":
        y = y.astype(object)
    if y.ndim not in (1, 2):
        raise ValueError(
            f"{name} has shape {y.shape}. Pass one label per row, shape (n,), or 0/1 columns, "
            "shape (n, n_labels)."
        )
    return y


def _from_list(y: list | tuple, name: str) -> np.ndarray:
    """Return an array that keeps what asarray would change: one type for labels of several."""
    types = set(map(type, y))
    if (len(types) < 2 and all(map(_has_dtype, types))) or any(map(_is_row, types)):
        try:
            return np.asarray(y)
        except ValueError as error:
            raise ValueError(
                f"{name} holds lists of labels of different lengths. Turn them into 0/1 columns "
                "with MultiLabelBinarizer."
            ) from error
    return np.fromiter(y, dtype=object, count=len(y))


def _has_dtype(kind: type) -> bool:
    """Whether numpy has a dtype that keeps all values of a type as they are."""
    return issubclass(kind, (bool, float, bytes, np.generic)) and not issubclass(kind, str)


def _is_row(kind: type) -> bool:
    """Whether values of a type may be rows of labels, not labels."""
    scalars = str, bytes, np.generic, type(np.ma.masked)
    return hasattr(kind, "__len__") and not issubclass(kind, scalars)


def _check_mask(y: np.ma.MaskedArray, name: str) -> None:
    masked = np.ma.getmaskarray(y)
    rows = np.flatnonzero(masked.reshape(len(y), -1).any(axis=1)) if masked.any() else []
    if len(rows):
        raise ValueError(
            f"{name}[{rows[0]}] is masked, one of {len(rows)} rows: a masked value is not a "
            "label. Drop those rows or label them."
        )


def _kind(label: object) -> str:
    if isinstance(label, str):
        return "str"
    if isinstance(label, (bool, np.bool_)):
        return "bool"
    # numpy counts durations among whole numbers.
    is_number = isinstance(label, numbers.Number) and not isinstance(label, np.timedelta64)
    return "number" if is_number else type(label).__name__


def _check_columns(y: np.ndarray, name: str) -> np.ndarray:
    if y.dtype.kind == "O" and all(
        isinstance(value, (numbers.Number, np.bool_)) for value in y.flat
    ):
        y = y.astype(np.float64)  # columns of a DataFrame, some of them boolean
    # NaN fails the comparison too.
    if y.dtype.kind not in "buif" or not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{name} has shape {y.shape}, so its columns are labels and must be 0 or 1, but it "
            f"holds other values. Binarize it, for example with MultiLabelBinarizer."
        )
    return y.astype(np.float32)


def _check_single(y: np.ndarray, name: str) -> np.ndarray:
    if y.dtype.kind == "O":
        y = _from_objects(y.tolist(), name)
    if y.dtype.kind == "S" and len(y):
        raise ValueError(
            f"{name} holds bytes such as {shortened(y.item(0))}. Turn them into text with "
            f"np.char.decode({name})."
        )
    if y.dtype.kind in "fMm" and not np.isfinite(y).all():
        row = int(np.flatnonzero(~np.isfinite(y))[0])
        raise ValueError(
            f"{name}[{row}] is {y[row]}: Input {name} contains NaN or infinity. "
            "Drop those rows or label them."
        )
    if y.dtype.kind == "c" or (y.dtype.kind == "f" and (y != np.trunc(y)).any()):
        raise ValueError(
            f"Unknown label type: {name} holds continuous values such as {shortened(y[0])}. "
            "Labels are classes: integers or strings."
        )
    if y.dtype.kind not in "biufUSMmO":
        raise ValueError(f"{name} has dtype {y.dtype}. Labels are integers or strings.")
    return y


def _from_objects(labels: list, name: str) -> np.ndarray:
    """Return the array of a list of Python's objects, which must be of one kind."""
    kinds = sorted(set(map(_kind, labels)))
    if kinds in (["set"], ["frozenset"], ["list"], ["tuple"]):
        raise ValueError(
            f"{name} holds a {kinds[0]} of labels per row. Turn them into 0/1 columns with "
            "MultiLabelBinarizer."
        )
    if len(kinds) > 1 or kinds == ["NoneType"]:
        missing = [row for row, label in enumerate(labels) if _is_missing(label)]
        found = f", {name}[{missing[0]}] being {shortened(labels[missing[0]])}" if missing else ""
        raise ValueError(
            f"{name} mixes labels of the types {kinds}{found}. Use one type and no missing labels."
        )
    if kinds == ["number"]:
        return _from_numbers(labels, name)
    if kinds == ["str"]:
        return text_array(map(str.__str__, labels))  # of subclasses, the text itself
    return _of_numpys_own(np.array(labels), name)


def _of_numpys_own(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind == "O" and len(array):
        kind = type(array[0]).__name__
        raise ValueError(
            f"{name} holds labels of the type {kind}, such as {_short(array[0])}. Labels are "
            f"integers or strings: [str(label) for label in {name}] makes strings of them."
        )
    return array


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_missing(label: object) -> bool:
    try:
        return label is None or bool(label != label)
    except (TypeError, ValueError):  # pandas.NA does not say
        return True


def _from_numbers(labels: list, name: str) -> np.ndarray:
    """Return an array of numbers with all of their digits."""
    floats = [label for label in labels if not isinstance(label, numbers.Integral)]
    if floats:
        floats = _of_numpys_own(np.array(floats), name)
        whole = floats.dtype.kind == "f" and (floats == np.trunc(floats)) & np.isfinite(floats)
        others = [int(label) for label in labels if isinstance(label, numbers.Integral)]
        if not np.all(whole) or max(map(abs, others), default=0) <= 2**53:
            return np.array(labels, dtype=np.promote_types(floats.dtype, np.float64))
        labels = list(map(int, labels))
    low, high = min(labels), max(labels)
    if not -(2**63) <= low <= high < 2**64:
        row = labels.index(low if low < -(2**63) else high)
        raise ValueError(
            f"{name}[{row}] is {shortened(labels[row])}, which does not fit into 64 bits. Use text "
            f"instead: [str(label) for label in {name}]."
        )
    _check_fit_together(low, high, name)
    return np.array(labels, dtype=np.int64 if high < 2**63 else np.uint64)


def _check_fit_together(low: int, high: int, name: str) -> None:
    if low < 0 and high >= 2**63:
        raise ValueError(
            f"{name} holds {low} and {high}: no 64-bit type can hold both. Use text instead: "
            f"[str(label) for label in {name}]."
        )


def unique_labels(y: np.ndarray) -> tuple[np.ndarray, Positions]:
    """Return the sorted classes of 1-D labels, and the class of every row.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Labels as `check_labels` returns them.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The distinct labels.

    codes : ndarray of shape (n,), int64
        ``classes[codes]`` are the labels.

    Examples
    --------
    >>> unique_labels(np.array(["dog", "cat", "dog"]))
    (array(['cat', 'dog'], dtype='<U3'), array([1, 0, 1]))
    """
    classes, codes = np.unique(y, return_inverse=True)
    if classes.dtype.kind == "O":
        classes = text_array(classes.tolist())
    return classes, codes.astype(np.int64)


def expand_labels(classes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return ``classes[codes]``; text as objects where a fixed width would waste memory.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Distinct labels.

    codes : ndarray of shape (n,)
        Class of every row.

    Returns
    -------
    ndarray of shape (n,)
        Label of every row.

    Examples
    --------
    >>> expand_labels(np.array(["cat", "dog"]), np.array([1, 1, 0]))
    array(['dog', 'dog', 'cat'], dtype='<U3')
    """
    if classes.dtype.kind == "U":
        lengths = np.strings.str_len(classes)[codes]
        if not is_fair_width(lengths.max(initial=0), lengths.sum(), len(lengths)):
            return classes.astype(object)[codes]
    return classes[codes]


def comparable_labels(y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays of labels of one kind in types whose ``==`` and ``<`` are exact.

    numpy compares int64 with uint64, and both with floats, as float64, which has 53 bits, and
    widens text to the longest of both.

    Parameters
    ----------
    y, z : ndarray of shape (n,) and (m,)
        Labels of one kind as `check_labels` returns them.

    Returns
    -------
    y, z : ndarray
        The same labels: whole numbers as int64, as uint64, or as Python's; text of one type of
        which a fixed width does not waste memory, or as objects.

    Examples
    --------
    >>> comparable_labels(np.array([2**62 + 1]), np.array([2**62], dtype=np.uint64))
    (array([4611686018427387905]), array([4611686018427387904]))
    """
    kinds = {y.dtype.kind, z.dtype.kind}
    if kinds <= {"i", "u", "f"} and len(kinds) > 1:
        y, z = _whole_numbers(y), _whole_numbers(z)
    if kinds <= {"M", "m"}:
        unit = np.promote_types(y.dtype, z.dtype)
        return _in_unit(y, unit), _in_unit(z, unit)
    if y.dtype.kind != z.dtype.kind:  # int64 and uint64 beyond it, or text of both forms
        return y.astype(object), z.astype(object)
    if kinds == {"U"} and y.dtype != z.dtype:  # numpy makes both as wide as the longest
        lengths = np.concatenate([np.strings.str_len(y), np.strings.str_len(z)])
        if not is_fair_width(lengths.max(initial=0), lengths.sum(), len(lengths)):
            return y.astype(object), z.astype(object)
    return y, z


def _in_unit(y: np.ndarray, unit: np.dtype) -> np.ndarray:
    """Return dates or durations in a finer unit, which may not reach as far."""
    finer = y.astype(unit)
    beyond = np.flatnonzero(finer.astype(y.dtype) != y)
    if len(beyond):
        raise ValueError(
            f"The label {y[beyond[0]]} does not fit into {unit}, the type of the labels that it is "
            "compared with. Use one unit for both."
        )
    return finer


def _whole_numbers(y: np.ndarray) -> np.ndarray:
    """Return whole numbers as int64, or as uint64 or Python's own where they need it."""
    low, high = (int(y.min()), int(y.max())) if len(y) else (0, 0)
    if low >= -(2**63) and high < 2**63:
        return y.astype(np.int64)
    if low >= 0 and high < 2**64:
        return y.astype(np.uint64)
    return np.array([*map(int, y), None], dtype=object)[:-1]


def merge_classes(
    old: np.ndarray, new: np.ndarray
) -> tuple[np.ndarray, tuple[Positions, Positions]]:
    """Return the union of two arrays of classes, and the numbers of both in it.

    Parameters
    ----------
    old, new : ndarray of shape (n,) and (m,)
        Distinct labels of one kind.

    Returns
    -------
    classes : ndarray
        The sorted union.

    numbers : pair of ndarray of shape (n,) and (m,), int64
        Where the classes of each stand in it.

    Examples
    --------
    >>> merge_classes(np.array([1, 3]), np.array([2, 3], dtype=np.uint64))
    (array([1, 2, 3]), (array([0, 2]), array([1, 2])))
    """
    both = np.concatenate(comparable_labels(old, new))
    if both.dtype.kind == "O" and KINDS.get(old.dtype.kind) == "number":
        _check_fit_together(min(both), max(both), "y")
        both = both.astype(np.uint64 if max(both) >= 2**63 else np.int64)
    classes, numbers = unique_labels(both)
    return classes, (numbers[: len(old)], numbers[len(old) :])


def encode_labels(
    y: LabelsLike | None, *, name: str = "y", n: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Turn labels into what losses and samplers take.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_labels), dense or sparse
        One label of any type per row, or 0/1 columns.

    name : str, default="y"
        What messages call it.

    n : int, default=None
        Number of rows that `y` must have.

    Returns
    -------
    encoded : ndarray of shape (n,), int64, or (n, n_labels), float32
        Class indices, or the columns.

    classes : ndarray
        What the indices stand for; ``arange(n_labels)`` for columns.

    Examples
    --------
    >>> encode_labels(["dog", "cat", "dog"])
    (array([1, 0, 1]), array(['cat', 'dog'], dtype='<U3'))
    """
    y = check_labels(y, name=name, n=n)
    if y.ndim == 2:
        return y, np.arange(y.shape[1])
    classes, encoded = unique_labels(y)
    return encoded, classes


def labeled_rows(y: np.ndarray) -> Positions:
    """Return the numbers of the rows that carry a label.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_labels)
        Labels as `check_labels` or `encode_labels` return them.

    Returns
    -------
    ndarray of int
        All rows of 1-D labels, and of 0/1 columns those that are not all 0.

    Examples
    --------
    >>> labeled_rows(np.array([[1, 0], [0, 0], [1, 1]]))
    array([0, 2])
    """
    return np.arange(len(y)) if y.ndim == 1 else np.flatnonzero(y.any(axis=1))


def label_names(y: object) -> list[str | int] | None:
    """Return the names of the columns of a table of labels, None if it has none.

    Parameters
    ----------
    y : array-like
        Labels as they were given, before `check_labels`.

    Returns
    -------
    list of str or int, or None
        One name per column, of tables of pandas, Polars and Arrow with two columns or more.

    Examples
    --------
    >>> import pandas as pd
    >>> label_names(pd.DataFrame({"cat": [0, 1], "dog": [1, 1]}))
    ['cat', 'dog']
    """
    names: Any = getattr(y, "column_names", getattr(y, "columns", None))  # of Arrow, and of others
    is_counted = type(names).__name__ == "RangeIndex"  # by pandas, of what has no names
    if is_counted or not hasattr(names, "__len__") or len(names) < 2:
        return None
    names = names.tolist() if hasattr(names, "tolist") else list(names)
    return names if all(isinstance(name, (str, int)) for name in names) else None


def check_same_columns(y: object, names: list[str | int] | None) -> None:
    """Raise if labels are a table with other columns than those of the gallery.

    Parameters
    ----------
    y : array-like
        Labels as they were given.

    names : list of str or int, or None
        Columns of the gallery's labels as `label_names` returns them.

    Raises
    ------
    ValueError
        If both have names that differ: columns are compared by position.

    Examples
    --------
    >>> check_same_columns([[0, 1]], ["cat", "dog"])
    """
    given = label_names(y)
    if given is None or names is None or given == names or len(given) != len(names):
        return  # that there are more of them is said of arrays too
    place = next(i for i, name in enumerate(names) if given[i] != name)
    raise ValueError(
        f"Columns of labels are compared by position, but column {place} of y is "
        f"{shortened(given[place])}, and that of the gallery is {shortened(names[place])}. Give "
        f"both the same columns in the same order, for example y.reindex(columns=...)."
    )


def check_same_kind(y_queries: np.ndarray, y_gallery: np.ndarray) -> None:
    """Raise if the two sets of labels could never be equal: neither "1" nor True is 1.

    Parameters
    ----------
    y_queries, y_gallery : ndarray
        Labels as `check_labels` returns them.
    """
    if y_queries.ndim != y_gallery.ndim:
        raise ValueError(
            f"The queries' labels have shape {y_queries.shape}, the gallery's {y_gallery.shape}. "
            "Give both as one label per row, or both as 0/1 columns."
        )
    if y_queries.ndim == 2 and y_queries.shape[1] != y_gallery.shape[1]:
        raise ValueError(
            f"The queries have {y_queries.shape[1]} label columns, the gallery has "
            f"{y_gallery.shape[1]}. Use the same columns for both."
        )
    kinds = [KINDS.get(y.dtype.kind, "text") for y in (y_queries, y_gallery)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"The queries' labels are {y_queries.dtype} ({kinds[0]}), the gallery's are "
            f"{y_gallery.dtype} ({kinds[1]}): they can never be equal. Use one type for both."
        )
