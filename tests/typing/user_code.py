"""What users write; nothing of it runs, pyright must have nothing to say."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir import NeighborsRetriever


def fitted_estimators_are_themselves(X: NDArray[np.float64], y: NDArray[np.int64]) -> None:
    assert_type(NeighborsRetriever(metric="hamming").fit(X, y), NeighborsRetriever)
