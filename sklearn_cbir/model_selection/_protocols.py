"""The splits of published comparisons, as rows drawn by a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch, check_random_state

from sklearn_cbir._labels import check_labels, labeled_rows
from sklearn_cbir._typing import LabelsLike, Positions, RandomState
from sklearn_cbir._validation import check_choice, check_integer, shortened

__all__ = ["PROTOCOLS", "split_protocol"]

REQUIRED = object()


class Split(Bunch):
    """Rows of the parts of a data set."""

    query: Positions
    train: Positions
    gallery: Positions
    exclude: Positions | None


def split_protocol(
    protocol: str,
    y: LabelsLike,
    *,
    test: ArrayLike | None = None,
    n_queries: int | None = None,
    n_train: int | None = None,
    random_state: RandomState = 0,
) -> Split:
    """Split rows into queries, training and gallery as the papers do.

    You can change the numbers that a protocol draws, so that it fits other data.
    "Per class" means this many of every class or label; an image drawn for one label
    does not count for another.

    ================  ===============================  =====================  ===============
    protocol          queries                          training               gallery
    ================  ===============================  =====================  ===============
    ``cifar10-59k``   100 per class                    500 per class          all but queries
    ``cifar10-54k``   100 per class                    500 per class          all but both
    ``cifar10-full``  `test`, or else 1,000 per class  the gallery            all but queries
    ``dsh-released``  `test`                           all but `test`         `test`
    ``svhn``          `test`                           the gallery            all but queries
    ``nuswide-2100``  100 per label                    500 per label          all but queries
    ``nuswide-10k``   10,000                           the gallery            all but queries
    ``nuswide-5k``    5,000                            10,000 of the gallery  all but queries
    ``mirflickr``     2,000                            5,000 of the gallery   all but queries
    ``coco``          5,000                            10,000 of the gallery  all but queries
    ``zero-shot``     last half of classes, or `test`  the other classes      the queries
    ``holidays``      the first of every group         none                   all
    ================  ===============================  =====================  ===============

    Parameters
    ----------
    protocol : str
        A key of `PROTOCOLS`.

    y : array-like of shape (n,) or (n, n_labels)
        One label per row, or 0/1 columns. Rows without any label stay in the
        gallery and are never drawn.

    test : array-like of int or bool, default=None
        The rows of the official test part, or a mask of shape (n,), for the
        protocols that use it.

    n_queries : int, default=None
        Another number of queries, per class if the number of the protocol is.

    n_train : int, default=None
        Another number of training images, per class if the number of the protocol is.

    random_state : int, RandomState instance or None, default=0
        Seed of what is drawn.

    Returns
    -------
    Bunch
        With ``query``, ``train`` and ``gallery``, rows as int64 arrays, ascending;
        ``exclude``, for the parameter of metrics with this name: per query the row *of
        the gallery* that is the query itself and is not ranked, or None if that
        cannot happen or, in ``dsh-released``, was not prevented.

    Raises
    ------
    ValueError
        If the protocol is unknown, does not use a parameter or needs `test`; or if
        there are too few rows: the message says of what.

    Notes
    -----
    The guide on data sets says which papers use which protocol. Fit unsupervised
    methods on the gallery of ``cifar10-59k``, supervised ones on its training images.
    Choose no setting by the scores of these queries: split the training images again
    for that.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.model_selection import split_protocol
    >>> y = np.repeat(np.arange(10), 6000)
    >>> split = split_protocol("cifar10-59k", y)
    >>> len(split.query), len(split.train), len(split.gallery)
    (1000, 5000, 59000)
    """
    chosen = PROTOCOLS[check_choice(protocol, "protocol", PROTOCOLS)]
    y = check_labels(y)
    given = {"test": test, "n_queries": n_queries, "n_train": n_train}
    options = chosen.with_given(protocol, {k: v for k, v in given.items() if v is not None})
    if test is not None and n_queries is not None:
        raise ValueError("test names the queries, so n_queries has no effect. Leave one out.")
    if test is not None:
        options["test"] = check_rows(options["test"], len(y))
    for name in options.keys() & {"n_queries", "n_train"}:
        options[name] = check_integer(options[name], name, minimum=1)
    split = chosen.split(y, rng=check_random_state(random_state), **options)
    for part in ("query", "gallery"):
        if len(split[part]) == 0:
            raise ValueError(f"protocol={protocol!r} leaves no {part} of the {len(y)} rows.")
    return split


@dataclass(frozen=True)
class Protocol:
    """How rows are split, and the options that may be changed with their defaults."""

    split: Callable[..., Split]
    options: dict[str, Any]

    def with_given(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the options with what the user gave instead."""
        foreign = sorted(given.keys() - self.options.keys())
        if foreign:
            raise ValueError(
                f"protocol={name!r} does not use {foreign[0]}. It takes "
                f"{', '.join(self.options) or 'no options'}."
            )
        options = {**self.options, **given}
        lacking = [option for option, value in options.items() if value is REQUIRED]
        if lacking:
            raise ValueError(
                f"protocol={name!r} needs {lacking[0]}, the rows of the official test part, "
                "such as the field test in the result of a loader of sklearn_cbir.datasets."
            )
        return options


def check_rows(rows: ArrayLike, n: int, name: str = "test") -> Positions:
    """Return distinct rows, ascending, from rows or a mask."""
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n,):
        return np.flatnonzero(rows)
    if rows.dtype.kind not in "iu" or rows.ndim != 1:
        raise ValueError(
            f"{name} has dtype {rows.dtype} and shape {rows.shape}. Pass rows, or a mask of shape "
            f"({n},)."
        )
    found = np.unique(rows).astype(np.int64)
    if len(found) < len(rows):
        raise ValueError(f"{name} names a row twice.")
    if len(found) and not (found[0] >= 0 and found[-1] < n):
        raise ValueError(f"{name} names rows outside 0 to {n - 1}.")
    return found


# The protocols --------------------------------------------------------------------------------


def _per_class(
    y: np.ndarray,
    *,
    rng: np.random.RandomState,
    n_queries: int,
    n_train: int,
    train_in_gallery: bool = True,
) -> Split:
    free = np.ones(len(y), dtype=bool)
    query = _draw_per_class(y, n_queries, free, rng, "n_queries")
    outside = [query]
    train = _draw_per_class(y, n_train, free, rng, "n_train")
    if not train_in_gallery:
        outside.append(train)
    return _parts(query, train, others(len(y), *outside))


def _per_class_apart(
    y: np.ndarray, *, rng: np.random.RandomState, n_queries: int, n_train: int
) -> Split:
    return _per_class(y, rng=rng, n_queries=n_queries, n_train=n_train, train_in_gallery=False)


def _rest_is_both(
    y: np.ndarray, *, rng: np.random.RandomState, test: Positions | None, n_queries: int = 0
) -> Split:
    query = test
    if query is None:
        free = np.ones(len(y), dtype=bool)
        query = _draw_per_class(y, n_queries, free, rng, "n_queries")
    rest = others(len(y), query)
    return _parts(query, rest, rest)


def _test_searches_itself(y: np.ndarray, *, rng: np.random.RandomState, test: Positions) -> Split:
    return _parts(test, others(len(y), test), test)


def _at_random(
    y: np.ndarray, *, rng: np.random.RandomState, n_queries: int, n_train: int | None = None
) -> Split:
    labeled = labeled_rows(y)
    wanted = n_queries + (n_train or 0)
    if wanted > len(labeled):
        raise ValueError(
            f"n_queries={n_queries}{f' and n_train={n_train}' if n_train else ''} are more than "
            f"the {len(labeled)} labelled rows. Use smaller numbers."
        )
    drawn = rng.permutation(labeled)
    query = np.sort(drawn[:n_queries])
    gallery = others(len(y), query)
    train = gallery if n_train is None else np.sort(drawn[n_queries:wanted])
    return _parts(query, train, gallery)


def _by_class(y: np.ndarray, *, rng: np.random.RandomState, test: Positions | None) -> Split:
    check_single(y)
    if test is None:
        classes = np.unique(y)
        test = np.flatnonzero(np.isin(y, classes[(len(classes) + 1) // 2 :]))
    train = others(len(y), test)
    both = np.intersect1d(y[test], y[train])
    if len(both):
        raise ValueError(
            f"test shares {len(both)} classes with the other rows, such as "
            f"{shortened(both.tolist()[0])}. "
            "Zero-shot retrieval needs unseen test classes: remove the shared ones from one part."
        )
    return _parts(test, train, test, exclude=np.arange(len(test)))


def _first_of_every_group(y: np.ndarray, *, rng: np.random.RandomState) -> Split:
    check_single(y)
    query = np.sort(np.unique(y, return_index=True)[1])
    return _parts(query, np.empty(0, dtype=np.int64), np.arange(len(y)), exclude=query)


def check_single(y: np.ndarray, name: str = "y") -> np.ndarray:
    """Return labels unless they are columns."""
    if y.ndim == 2:
        raise ValueError(
            f"{name} has {y.shape[1]} label columns, but this protocol splits classes. Pass one "
            "label per row."
        )
    return y


def _draw_per_class(
    y: np.ndarray, n: int, free: np.ndarray, rng: np.random.RandomState, parameter: str
) -> Positions:
    """Draw `n` free rows of every class or label, and mark them as taken."""
    if y.ndim == 2:
        names, members = np.arange(y.shape[1]), [np.flatnonzero(column) for column in y.T]
    else:
        names, position = np.unique(y, return_inverse=True)
        ends = np.cumsum(np.bincount(position))[:-1]
        members = np.split(np.argsort(position, kind="stable"), ends)
    drawn = []
    # The rarest first: rows with several labels must not be taken by the frequent ones.
    for place in np.argsort([len(rows) for rows in members], kind="stable"):
        rows = members[place][free[members[place]]]
        if len(rows) < n:
            raise ValueError(
                f"{parameter}={n} rows of every class are needed, but class "
                f"{shortened(names.tolist()[place])} has {len(rows)} left. "
                f"Use a smaller {parameter}."
            )
        chosen = rng.permutation(rows)[:n]
        free[chosen] = False
        drawn.append(chosen)
    return np.sort(np.concatenate(drawn))


def others(n: int, *parts: Positions) -> Positions:
    """Return the rows that are in none of the parts."""
    mask = np.ones(n, dtype=bool)
    for rows in parts:
        mask[rows] = False
    return np.flatnonzero(mask)


def _parts(
    query: Positions, train: Positions, gallery: Positions, exclude: Positions | None = None
) -> Split:
    return Split(query=query, train=train, gallery=gallery, exclude=exclude)


PROTOCOLS: dict[str, Protocol] = {
    "cifar10-59k": Protocol(_per_class, {"n_queries": 100, "n_train": 500}),
    "cifar10-54k": Protocol(_per_class_apart, {"n_queries": 100, "n_train": 500}),
    "cifar10-full": Protocol(_rest_is_both, {"test": None, "n_queries": 1000}),
    "dsh-released": Protocol(_test_searches_itself, {"test": REQUIRED}),
    "svhn": Protocol(_rest_is_both, {"test": REQUIRED}),
    "nuswide-2100": Protocol(_per_class, {"n_queries": 100, "n_train": 500}),
    "nuswide-10k": Protocol(_at_random, {"n_queries": 10_000}),
    "nuswide-5k": Protocol(_at_random, {"n_queries": 5_000, "n_train": 10_000}),
    "mirflickr": Protocol(_at_random, {"n_queries": 2_000, "n_train": 5_000}),
    "coco": Protocol(_at_random, {"n_queries": 5_000, "n_train": 10_000}),
    "zero-shot": Protocol(_by_class, {"test": None}),
    "holidays": Protocol(_first_of_every_group, {}),
}
