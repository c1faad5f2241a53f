"""Rows and queries of an estimator, checked before an engine sees them."""

import os

import numpy as np
from sklearn.utils.validation import validate_data

from sklearn_cbir._validation import as_numpy, check_not_masked, shortened


def check_rows(estimator, X, metric, engine=None, dtype=(np.float64, np.float32)):
    """Return `X` as finite floats of the engine's type, or as it is for codes."""
    if isinstance(X, (str, os.PathLike)):
        raise ValueError(
            f"X={str(X)!r} is a path, not rows. Load it with np.load, or fit with "
            "storage='memory_map' to search a .npy file as it is."
        )
    X = as_numpy(X)
    if metric == "hamming":
        # uint8 stays uint8; the engine names what is neither 0 nor 1.
        return validate_data(estimator, X, reset=engine is None, ensure_all_finite=False)
    if engine is not None and _is_plain(estimator, X, engine):
        check_finite(X)
        return X
    dtype = list(dtype) if engine is None else _dtype_of(engine)
    with np.errstate(over="ignore", invalid="ignore"):
        X = validate_data(estimator, X, reset=engine is None, dtype=dtype, ensure_all_finite=False)
    check_finite(X)
    return X


def _is_plain(estimator, X, engine):
    """Say whether these queries are as `validate_data` would return them.

    It takes longer than a search of a few thousand rows by one query.
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and len(X) > 0
        and X.shape[1] == estimator.n_features_in_
        and X.dtype == _dtype_of(engine)
        and not hasattr(estimator, "feature_names_in_")  # it warns of queries without
    )


def _dtype_of(engine):
    """Return the type in which an engine takes queries: that of its rows, if it says no other."""
    return getattr(engine, "input_dtype", None) or engine.rows.dtype


def check_finite(X, first=0):
    """Raise if a number of `X` is not finite; `first` is the row that ``X[0]`` is of all."""
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not np.isfinite(X.sum())
    if suspect and not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        kind = "NaN" if np.isnan(X[row, column]) else f"infinity or too large for {X.dtype}"
        raise ValueError(
            f"Input X contains {kind}: X[{first + row}, {column}] is {X[row, column]}. "
            "Distances need finite numbers: leave the row out, or impute."
        )


def check_radius(radius, n_queries):
    """Return one radius per query, float64, of one number or one per query; infinity is one."""
    if radius is None:
        raise ValueError("radius is None. Say within which distance to search, such as 0.2.")
    rule = f"Give one number of at least 0, or one for each of the {n_queries} queries."
    check_not_masked(radius, "radius")
    try:
        radii = np.asarray(radius)
    except (TypeError, ValueError):  # lists of several lengths
        radii = np.asarray("")
    if radii.dtype.kind not in "iuf":
        raise ValueError(f"radius={radius!r:.60} is no number. {rule}")
    if radii.shape not in ((), (n_queries,)):
        raise ValueError(f"radius has shape {radii.shape}. {rule}")
    wrong = np.flatnonzero(~(radii.ravel() >= 0))  # NaN is none of them
    if len(wrong):
        where = (
            f"radius[{wrong[0]}]={radii[wrong[0]]}" if radii.ndim else f"radius={shortened(radius)}"
        )
        raise ValueError(f"{where} is no distance. {rule}")
    return np.broadcast_to(radii.astype(np.float64), (n_queries,))
