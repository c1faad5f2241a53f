"""Splits with a held-out part for choosing settings, as rows drawn by a seed."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._labels import check_labels, labeled_rows
from sklearn_cbir._typing import LabelsLike, Positions, RandomState
from sklearn_cbir._validation import check_boolean, check_integer, check_real
from sklearn_cbir.model_selection._protocols import check_rows, check_single, others

__all__ = ["split_group_folds", "split_multilabel", "split_unseen_products"]


class Search(Bunch):
    """Rows of the queries, of the training and of the gallery."""

    query: Positions
    train: Positions
    gallery: Positions
    exclude: Positions | list[Positions] | None


class TunedSplit(Search):
    """The rows of the final search, and those for choosing settings."""

    validation: Search


def split_unseen_products(
    y: LabelsLike,
    coarse: LabelsLike,
    *,
    train: ArrayLike,
    test: ArrayLike,
    first_unseen: float = 41,
    n_validation: int = 8,
    junk: bool = False,
    random_state: RandomState = 0,
) -> TunedSplit:
    """Split Grocery Store into seen and unseen products, with official parts.

    Products below `first_unseen` are seen, the others unseen; a coarse class with
    both kinds is left out. Of the unseen products, photos of the official test part
    are the queries, and photos of the training part the gallery. Some seen products
    are used in the same way to choose settings and thresholds; training photos of the
    other seen products are for training. On Grocery Store "Milk" is left out, the
    products 0 to 37 are seen and 44 to 80 unseen: 985 queries search 1,069 photos.

    Parameters
    ----------
    y : array-like of shape (n,)
        The number of the product of every photo.

    coarse : array-like of shape (n,)
        The coarse class of every photo, one for all photos of a product.

    train : array-like of int or bool
        Rows of the official training part, or a mask of shape (n,).

    test : array-like of int or bool
        Rows of the official test part, or a mask. Rows in neither part are not used.

    first_unseen : float, default=41
        The first number of an unseen product.

    n_validation : int, default=8
        Number of seen products for choosing settings, drawn by the seed.

    junk : bool, default=False
        Whether photos of the coarse class of a query, but of another product, are
        left out of its ranking. Otherwise they are wrong results.

    random_state : int, RandomState instance or None, default=0
        Seed of what is drawn.

    Returns
    -------
    Bunch
        With ``query``, ``train`` and ``gallery``, rows as int64 arrays, ascending;
        ``exclude``, for the parameter of metrics with this name: None, or with `junk`
        a list with, per query, the rows *of the gallery* that are not ranked;
        ``validation``, a Bunch of the same four to choose settings with, and with the
        same ``train``.

    Raises
    ------
    ValueError
        If there are too few products or rows (the message says of what), or if a
        product has two coarse classes.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.model_selection import split_unseen_products
    >>> y = np.tile(np.arange(6), 2)  # six products, two photos each
    >>> coarse = np.tile([0, 1, 2, 2, 3, 3], 2)
    >>> parts = {"train": np.arange(6), "test": np.arange(6, 12)}
    >>> split = split_unseen_products(
    ...     y, coarse, **parts, first_unseen=3, n_validation=1, junk=True
    ... )
    >>> split.query, split.gallery, split.exclude  # 2 and 3 share a coarse class
    (array([10, 11]), array([4, 5]), [array([1]), array([0])])
    >>> y[split.train], y[split.validation.query]
    (array([0]), array([1]))
    """
    y = check_single(check_labels(y))
    coarse = check_single(check_labels(coarse, name="coarse", n=len(y)), "coarse")
    check_integer(n_validation, "n_validation", minimum=1)
    check_boolean(junk, "junk")
    _check_products(y, coarse)
    parts = check_rows(train, len(y), "train"), check_rows(test, len(y), "test")
    if len(np.intersect1d(*parts)):
        raise ValueError(
            f"train and test share {len(np.intersect1d(*parts))} rows. Leave each in one part."
        )
    unseen = y >= check_real(first_unseen, "first_unseen")
    kept = ~np.isin(coarse, np.intersect1d(coarse[unseen], coarse[~unseen]))
    seen = np.unique(y[kept & ~unseen])
    if n_validation >= len(seen):
        raise ValueError(
            f"n_validation={n_validation} of {len(seen)} seen products leave none to train on. "
            "Use a smaller number."
        )
    validation = check_random_state(random_state).permutation(seen)[:n_validation]
    held_out = np.isin(y, validation)
    rows = parts[0][(kept & ~unseen & ~held_out)[parts[0]]]

    def search(of: np.ndarray) -> dict[str, Positions | list[Positions] | None]:
        gallery, query = (part[of[part]] for part in parts)
        exclude = None
        if junk:
            alike = [
                (coarse[gallery] == coarse[row]) & (y[gallery] != y[row]) for row in query.tolist()
            ]
            exclude = [np.flatnonzero(row) for row in alike]
        return {"query": query, "train": rows, "gallery": gallery, "exclude": exclude}

    split = TunedSplit(**search(kept & unseen), validation=Search(**search(held_out)))
    for name, part in (("unseen", split), ("validation", split.validation)):
        for of in ("query", "gallery"):
            if not len(part[of]):
                raise ValueError(
                    f"No {of} is left of the {name} products: none of their photos is in "
                    f"{'test' if of == 'query' else 'train'}."
                )
    return split


def _check_products(y: np.ndarray, coarse: np.ndarray) -> None:
    """Raise unless products are numbers with one coarse class each."""
    if y.dtype.kind not in "iuf":
        raise ValueError(
            f"y has dtype {y.dtype}. Pass numbers of products, which first_unseen divides into "
            "seen and unseen ones."
        )
    order = np.lexsort((np.unique(coarse, return_inverse=True)[1], y))
    same, other = y[order][1:] == y[order][:-1], coarse[order][1:] != coarse[order][:-1]
    both = y[order][1:][same & other]
    if len(both):
        raise ValueError(f"Product {both.tolist()[0]} has two coarse classes. Pass one each.")


def split_group_folds(
    groups: LabelsLike, *, n_folds: int = 5, random_state: RandomState = 0
) -> list[TunedSplit]:
    """Split groups of photos into folds: train on the others, search within one.

    The first photo of a group is its query, as in INRIA Holidays, and is left out
    of its own results; a group of one photo has no query. The queries of a fold
    search only the photos of that fold; all other folds are for training. To choose
    settings, search one of these and train on the rest.

    Parameters
    ----------
    groups : array-like of shape (n,)
        The group of every photo, as ``load_holidays(...).target``.

    n_folds : int, default=5
        Number of folds, at least 3. Groups are spread evenly.

    random_state : int, RandomState instance or None, default=0
        Seed of the assignment of groups to folds.

    Returns
    -------
    list of Bunch
        Per fold ``query``, ``train`` and ``gallery``, rows as int64 arrays,
        ascending; ``exclude``, per query the row *of the gallery* that is the query
        itself; ``validation``, a Bunch of the same four to choose settings on.

    Raises
    ------
    ValueError
        If there are fewer groups than folds.

    Examples
    --------
    >>> from sklearn_cbir.model_selection import split_group_folds
    >>> first, *_ = split_group_folds([10, 10, 11, 11, 12, 12], n_folds=3)
    >>> first.gallery, first.query, first.exclude, first.train
    (array([4, 5]), array([4]), array([0]), array([0, 1, 2, 3]))
    >>> first.validation.gallery, first.validation.train
    (array([2, 3]), array([0, 1]))
    """
    groups = check_single(check_labels(groups, name="groups"), "groups")
    check_integer(n_folds, "n_folds", minimum=3)
    names, first, number, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    queries = np.sort(first[sizes > 1])
    if n_folds > len(names):
        raise ValueError(f"n_folds={n_folds} are more than the {len(names)} groups.")
    fold = np.empty(len(names), dtype=np.int64)
    fold[check_random_state(random_state).permutation(len(names))] = np.arange(len(names)) % n_folds
    of_row = fold[number]

    def search(asked: int, *, without: tuple[int, ...]) -> dict[str, Positions]:
        gallery, query = np.flatnonzero(of_row == asked), queries[of_row[queries] == asked]
        train = np.flatnonzero(~np.isin(of_row, without))
        exclude = np.searchsorted(gallery, query)
        return {"query": query, "train": train, "gallery": gallery, "exclude": exclude}

    splits = []
    for asked in range(n_folds):
        chosen = (asked + 1) % n_folds
        validation = Search(**search(chosen, without=(asked, chosen)))
        splits.append(TunedSplit(**search(asked, without=(asked,)), validation=validation))
    return splits


def split_multilabel(
    y: LabelsLike,
    *,
    n_queries: int = 1000,
    n_validation: int = 1000,
    n_train: int = 5000,
    random_state: RandomState = 0,
) -> TunedSplit:
    """Split rows with several labels into two sets of queries, and a gallery.

    Both sets of queries, the final ones and those for choosing settings, are neither
    in the training rows nor in the gallery. The training rows are in the gallery.

    Parameters
    ----------
    y : array-like of shape (n, n_labels) or (n,)
        0/1 columns, or one label per row. Rows without any label stay in the
        gallery and are never drawn.

    n_queries : int, default=1000
        Number of final queries.

    n_validation : int, default=1000
        Number of queries for choosing settings.

    n_train : int, default=5000
        Number of training rows, drawn from the gallery.

    random_state : int, RandomState instance or None, default=0
        Seed of what is drawn.

    Returns
    -------
    Bunch
        With ``query``, ``train`` and ``gallery``, rows as int64 arrays, ascending;
        ``exclude``, None; ``validation``, a Bunch of the same four to choose
        settings with, which differs only in ``query``.

    Raises
    ------
    ValueError
        If there are too few labelled rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.model_selection import split_multilabel
    >>> y = np.ones((12, 3), dtype=int)
    >>> split = split_multilabel(y, n_queries=2, n_validation=2, n_train=5)
    >>> len(split.query), len(split.validation.query), len(split.gallery)
    (2, 2, 8)
    """
    y = check_labels(y)
    numbers = {"n_queries": n_queries, "n_validation": n_validation, "n_train": n_train}
    for name, number in numbers.items():
        check_integer(number, name, minimum=1)
    labeled = labeled_rows(y)
    if sum(numbers.values()) > len(labeled):
        raise ValueError(
            f"{', '.join(f'{name}={number}' for name, number in numbers.items())} are more than "
            f"the {len(labeled)} labelled rows. Use smaller numbers."
        )
    drawn = check_random_state(random_state).permutation(labeled)
    ends = np.cumsum(list(numbers.values()))
    query, validation, train = (np.sort(part) for part in np.split(drawn[: ends[-1]], ends[:-1]))
    rest = {"train": train, "gallery": others(len(y), query, validation), "exclude": None}
    return TunedSplit(query=query, **rest, validation=Search(query=validation, **rest))
