"""Rows and queries of users, checked and encoded before an engine searches them.

The number and the names of columns are part of a gallery. Queries are compared with those of the
gallery that they search, even if another thread fits a new gallery now.
"""

import os
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples, check_array

from sklearn_cbir._typing import Positions
from sklearn_cbir._validation import as_numpy, check_not_masked, shortened, warn_user
from sklearn_cbir.index._filter import RowFilter, as_mask, has_at_least

FLOATS = (np.float64, np.float32)
NAMES_AT_MOST = 5  # in a message


class Asked(NamedTuple):
    """A request to a gallery: encoded queries, and an engine over the rows that may be found."""

    engine: Any  # an `Engine`, of which rows are numbered among those left in; or a `Masked`
    queries: Any  # (n_queries, n_columns), as they are compared
    excluded: Positions | None  # number of the row that each query leaves out, -1: none
    places: Positions | None  # position of each query in the gallery, -1: none; None without ids
    row_filter: RowFilter | None

    def positions(self, found: Positions) -> Positions:
        """Return the positions in the whole gallery of rows that the engine has found."""
        return found if self.row_filter is None else self.row_filter.at(found)


def check_rows(X, metric, owner, dtype=FLOATS, name="X"):
    """Return `X` as finite floats of one of the types, or as it is for codes.

    `owner` is the name of the estimator and `name` the name of the argument, for messages.
    """
    if metric == "hamming":
        # uint8 stays uint8; the engine names what is neither 0 nor 1.
        return check_array(X, input_name=name, estimator=owner, ensure_all_finite=False)
    with np.errstate(over="ignore", invalid="ignore"):
        X = check_array(
            X, input_name=name, estimator=owner, dtype=list(dtype), ensure_all_finite=False
        )
    check_finite(X, name=name)
    return X


def ask(X, ids, where, gallery, owner, k=0, is_plain=False):
    """Return the request to a gallery from the arguments of a search; see `Asked`.

    `k` is the least number of rows that each query needs; with `is_plain` it needs nothing else.
    """
    mask = None if where is None else gallery.mask(where)
    if X is None:
        queries, places = gallery.queries(ids)
    else:
        queries = gallery.engine.encode(check_queries(X, gallery, owner))
        places = None if ids is None else gallery.query_positions(ids, len(queries))
    if mask is None:
        return Asked(gallery.engine, queries, places, places, None)
    if is_plain and len(queries) == 1 and gallery.is_new(mask):
        asked = _ask_masked(gallery.engine, queries, places, mask, k)
        if asked is not None:
            return asked
    row_filter = gallery.filter(mask)
    excluded = None if places is None else row_filter.numbers(places)
    if excluded is not None and (excluded < 0).all():
        excluded = None  # no query is among the rows left in, so that each may find all of them
    _check_left(row_filter, k, excluded)
    return Asked(gallery.engine.filtered(row_filter), queries, excluded, places, row_filter)


def _ask_masked(engine, query, place, mask, k):
    """Return a request for one query and a mask, without a filter made of it, or None."""
    masked = engine.masked(mask)
    if masked is None:
        return None
    excluded = None if place is None or place[0] < 0 or not mask[place[0]] else place
    if not has_at_least(mask, k + (excluded is not None)):
        return None  # which is an error that says how many there are
    return Asked(masked, query, excluded, place, None)


def _check_left(row_filter, k, excluded):
    """Raise unless a filter leaves in the `k` rows that each query needs."""
    n = len(row_filter)
    if k > n - (excluded is not None):
        asks = ", and a query is one of these rows, but does not find itself" * (k == n)
        raise ValueError(
            f"n_neighbors={k}, but where matches {n} of {row_filter.n_rows} rows{asks}. Ask for "
            "fewer results, or match more rows."
        )


def check_uncut(where: Any, X: Any, n: int) -> None:
    """Raise if `where` may be a mask of queries instead of the `n` rows of a gallery.

    In a search over parameters, scikit-learn cuts every routed argument of `score` that has the
    length of the data to the queries of a fold. Only its length shows that a mask was cut, and not
    even that if a fold has as many queries as its gallery has rows.
    """
    if _num_samples(X) == n and as_mask(where, n) is not None:
        raise ValueError(
            f"where is a mask of {n} bools, and there are {n} queries and {n} rows in the "
            "gallery: it may belong to the queries, because a parameter search cuts arguments "
            "to the queries. Pass ids of the gallery instead, or call evaluate."
        )


def check_queries(X: Any, gallery: Any, owner: str, name: str = "X") -> np.ndarray:
    """Return `X`, the argument of that name, as rows of the type and the columns of a gallery."""
    if _is_plain(X, gallery, name):
        return X
    X = as_array(X, name)
    _check_names(column_names(X), gallery.feature_names, owner)
    X = check_rows(X, gallery.metric, owner, (_input_dtype(gallery.engine),), name)
    if X.shape[1] != gallery.n_features:
        raise ValueError(
            f"{name} has {X.shape[1]} features, but {owner} is expecting {gallery.n_features} "
            "features as input."
        )
    return X


def _is_plain(X, gallery, name):
    """Return whether queries need no check, which takes longer than a search.

    Raises for numbers that are not finite. If columns have names, the check compares them.
    """
    if (
        type(X) is not np.ndarray
        or X.ndim != 2
        or len(X) == 0
        or X.shape[1] != gallery.n_features
        or gallery.feature_names is not None
    ):
        return False
    if gallery.metric == "hamming":
        return X.dtype.kind in "bui"
    if X.dtype != _input_dtype(gallery.engine):
        return False
    check_finite(X, name=name)
    return True


def _input_dtype(engine):
    """Return the type in which an engine takes queries."""
    return engine.input_dtype or engine.rows.dtype


def as_array(X, name="X"):
    """Return arrays of other libraries as those of numpy, data frames as they are; no paths."""
    if isinstance(X, (str, os.PathLike)):
        raise ValueError(
            f"{name}={str(X)!r} is a path, not rows. Load it with np.load, or fit with "
            "storage='memory_map' to search a .npy file directly."
        )
    return as_numpy(X, name)


def column_names(X):
    """Return the names of the columns of a data frame, if all are text; None of anything else."""
    names = getattr(X, "column_names", None)  # of a table of Arrow, whose columns are arrays
    names = getattr(X, "columns", None) if names is None else names
    if names is None or not len(names):
        return None
    types = sorted({type(name).__qualname__ for name in names})
    if len(types) > 1 and "str" in types:
        raise TypeError(
            "Feature names are only supported if all input features have string names, but your "
            f"input has {types} as feature name / column name types. Convert them all to strings, "
            "by X.columns = X.columns.astype(str) for example, or none of them."
        )
    return np.asarray(names, dtype=object) if types == ["str"] else None


def _check_names(names, known, owner):
    """Raise if columns have other names than those of the gallery; warn if one has none.

    The sentences are scikit-learn's, whose checks of estimators look for them.
    """
    if names is None and known is None:
        return
    if known is None:
        warn_user(f"X has feature names, but {owner} was fitted without feature names")
    elif names is None:
        warn_user(f"X does not have valid feature names, but {owner} was fitted with feature names")
    elif list(names) != list(known):
        unseen, missing = sorted(set(names) - set(known)), sorted(set(known) - set(names))
        message = "The feature names should match those that were passed during fit.\n"
        if unseen:
            message += f"Feature names unseen at fit time:\n{_listed(unseen)}"
        if missing:
            message += f"Feature names seen at fit time, yet now missing:\n{_listed(missing)}"
        if not unseen and not missing:
            message += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(message)


def _listed(names):
    shown = [f"- {name}\n" for name in names[:NAMES_AT_MOST]]
    return "".join(shown) + ("- ...\n" if len(names) > NAMES_AT_MOST else "")


def check_finite(X, first=0, name="X"):
    """Raise if a number of `X` is not finite; `first` is the row that ``X[0]`` is of all."""
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not np.isfinite(X.sum())
    if suspect and not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        kind = "NaN" if np.isnan(X[row, column]) else f"infinity or too large for {X.dtype}"
        raise ValueError(
            f"Input {name} contains {kind}: {name}[{first + row}, {column}] is {X[row, column]}. "
            "Distances need finite numbers: leave the row out, or impute."
        )


def check_radius(radius, n_queries):
    """Return one radius per query, float64, of one number or one per query; infinity is one."""
    if radius is None:
        raise ValueError("radius is None. Pass the largest distance, such as 0.2.")
    rule = f"Give one number of at least 0, or one for each of the {n_queries} queries."
    check_not_masked(radius, "radius")
    try:
        radii = np.asarray(radius)
    except (TypeError, ValueError):  # lists of several lengths
        radii = np.asarray("")
    if radii.dtype.kind not in "iuf":
        raise ValueError(f"radius={radius!r:.60} is not a number. {rule}")
    if radii.shape not in ((), (n_queries,)):
        raise ValueError(f"radius has shape {radii.shape}. {rule}")
    wrong = np.flatnonzero(~(radii.ravel() >= 0))  # NaN is none of them
    if len(wrong):
        where = (
            f"radius[{wrong[0]}]={radii[wrong[0]]}" if radii.ndim else f"radius={shortened(radius)}"
        )
        raise ValueError(f"{where} is not a distance. {rule}")
    return np.broadcast_to(radii.astype(np.float64), (n_queries,))
