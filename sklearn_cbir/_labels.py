"""Who is relevant to whom: the one definition for training and for scoring."""

import numbers

import numpy as np
from scipy import sparse
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

# What labels of numpy's kinds are called; labels of two kinds are never equal.
KINDS = {"b": "boolean", "i": "number", "u": "number", "f": "number", "M": "date", "m": "duration"}


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
    # * 1.0: a boolean product loses the count, and one of uint8 wraps at 256.
    return (y * 1.0) @ (z * 1.0).T


def check_labels(y, *, name="y", n=None):
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
        Labels as given, or float32 0/1 columns.

    Raises
    ------
    ValueError
        For missing, continuous, NaN or mixed labels, bytes, or a wrong number of
        rows.

    Examples
    --------
    >>> check_labels(["cat", "dog"])
    array(['cat', 'dog'], dtype='<U3')
    """
    if y is None:
        raise ValueError(
            f"This needs labels, but {name} is None. Pass {name} with one label per row."
        )
    y = _dense(y, name)
    if n is not None and len(y) != n:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {n} rows in X, "
            f"{len(y)} labels in {name}."
        )
    if y.ndim == 2 and y.shape[1] > 1:
        return _check_columns(y, name)
    y = column_or_1d(y, warn=True) if y.ndim > 1 else y
    return _check_single(y, name)


def _dense(y, name):
    if sparse.issparse(y):
        return y.toarray()
    if hasattr(y, "detach"):
        y = y.detach().cpu()
    if isinstance(y, (list, tuple)):
        y = _from_list(y, name)
    y = np.asarray(y)
    if y.ndim not in (1, 2):
        raise ValueError(
            f"{name} has shape {y.shape}. Pass one label per row, shape (n,), or 0/1 columns, "
            "shape (n, n_labels)."
        )
    return y


def _from_list(y, name):
    """Return an array that keeps what asarray would turn into text: NaN and numbers among str."""
    if any(isinstance(label, str) for label in y):
        return np.array([*y, None], dtype=object)[:-1]
    try:
        return np.asarray(y)
    except ValueError as error:
        raise ValueError(
            f"{name} holds lists of labels of different lengths. Turn them into 0/1 columns with "
            "MultiLabelBinarizer."
        ) from error


def _kind(label):
    if isinstance(label, str):
        return "str"
    return "number" if isinstance(label, numbers.Number) else type(label).__name__


def _check_columns(y, name):
    # NaN fails the comparison too.
    if y.dtype.kind not in "buif" or not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{name} has shape {y.shape}, so its columns are labels and must be 0 or 1, but it "
            f"holds other values. Binarize it, for example with MultiLabelBinarizer."
        )
    return y.astype(np.float32)


def _check_single(y, name):
    if y.dtype.kind == "O":
        kinds = sorted({_kind(label) for label in y})
        if kinds in (["set"], ["frozenset"], ["list"], ["tuple"]):
            raise ValueError(
                f"{name} holds a {kinds[0]} of labels per row. Turn them into 0/1 columns with "
                "MultiLabelBinarizer."
            )
        if len(kinds) > 1 or kinds == ["NoneType"]:
            raise ValueError(
                f"{name} mixes labels of the types {kinds}. Use one type and no missing labels."
            )
        y = np.array(y.tolist())
    if y.dtype.kind == "S" and len(y):
        raise ValueError(
            f"{name} holds bytes such as {y.item(0)!r}. Turn them into text with "
            f"np.char.decode({name})."
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int(np.flatnonzero(~np.isfinite(y))[0])
        raise ValueError(
            f"{name}[{row}] is {y[row]}: Input {name} contains NaN or infinity. "
            "Drop those rows or label them."
        )
    if len(y) and type_of_target(y, input_name=name) in ("continuous", "unknown"):
        raise ValueError(
            f"Unknown label type: {name} holds continuous values such as {y[0]!r}. Labels are "
            "classes: integers or strings."
        )
    return y


def encode_labels(y, *, name="y", n=None):
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
    classes, encoded = np.unique(y, return_inverse=True)
    return encoded.astype(np.int64), classes


def labeled_rows(y):
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


def check_same_kind(y_queries, y_gallery):
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
