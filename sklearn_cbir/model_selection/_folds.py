"""Folds of classes."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_random_state
from sklearn.utils.metadata_routing import UNUSED

from sklearn_cbir._labels import check_labels
from sklearn_cbir._typing import Elements, LabelsLike, Positions, RandomState
from sklearn_cbir._validation import check_boolean, check_integer, shortened

__all__ = ["ClassDisjointKFold"]


class ClassDisjointKFold(BaseCrossValidator):
    """K folds of classes: no class of a test fold is in its training fold.

    The split for retrieval among unseen classes. Use it with
    ``retrieval_scorer(gallery="queries")``, because the fitted gallery holds nothing of
    the test classes. The numbers of classes in the folds differ by at most one.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2 and at most the number of classes.

    shuffle : bool, default=False
        Whether classes are distributed in random order. Otherwise each fold takes
        neighbors in sorted order; ``n_splits=2`` trains on the last half of the
        classes and tests on the first, then the other way round.

    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cbir.model_selection import ClassDisjointKFold
    >>> y = np.array(["cat", "dog", "cat", "cow", "ant"])
    >>> for train, test in ClassDisjointKFold(n_splits=2).split(np.zeros((5, 1)), y):
    ...     print(y[train], y[test])
    ['dog' 'cow'] ['cat' 'cat' 'ant']
    ['cat' 'cat' 'ant'] ['dog' 'cow']
    """

    # scikit-learn passes groups to every splitter; this one has none.
    __metadata_request__split = {"groups": UNUSED}

    def __init__(
        self, n_splits: int = 5, *, shuffle: bool = False, random_state: RandomState = None
    ) -> None:
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups : object
            Ignored.

        Returns
        -------
        int
            Number of folds.
        """
        return check_integer(self.n_splits, "n_splits", minimum=2)

    def split(
        self, X: ArrayLike | Elements, y: LabelsLike | None = None, groups: object = None
    ) -> Iterator[tuple[Positions, Positions]]:
        """Yield the rows of training and test folds.

        Parameters
        ----------
        X : sequence of length n_samples
            Only its length counts.

        y : array-like of shape (n_samples,)
            One label per row.

        groups : object
            Ignored.

        Yields
        ------
        train : ndarray of int
            Rows of the other classes.

        test : ndarray of int
            All rows of the classes of this fold.

        Raises
        ------
        ValueError
            If `y` is missing or has several labels per row, or there are fewer
            classes than folds.
        """
        yield from super().split(X, y, groups)

    def _iter_test_masks(
        self, X: object = None, y: LabelsLike | None = None, groups: object = None
    ) -> Iterator[NDArray[np.bool_]]:
        """Yield, fold by fold, which rows are of its classes."""
        n_splits = self.get_n_splits()
        check_boolean(self.shuffle, "shuffle")
        if not self.shuffle and self.random_state is not None:
            raise ValueError(
                f"random_state={shortened(self.random_state)} has no effect without shuffling. "
                "Leave it out or set shuffle=True."
            )
        y = check_labels(y)
        if y.ndim == 2:
            raise ValueError(
                f"y has {y.shape[1]} label columns, but rows that share labels cannot be split "
                "into disjoint classes. Pass one label per row."
            )
        classes, members = np.unique(y, return_inverse=True)
        if len(classes) == 1:
            only = classes.tolist()[0]
            raise ValueError(
                f"y holds the single class {shortened(only)}. At least two are needed to split."
            )
        if len(classes) < n_splits:
            raise ValueError(
                f"n_splits={n_splits} is more than the {len(classes)} classes in y. Use at most "
                f"n_splits={len(classes)}."
            )
        order = np.arange(len(classes))
        if self.shuffle:
            check_random_state(self.random_state).shuffle(order)
        for fold in np.array_split(order, n_splits):
            yield np.isin(members, fold)
