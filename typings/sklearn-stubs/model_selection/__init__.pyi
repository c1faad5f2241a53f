from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

class BaseCrossValidator:
    def split(
        self, X: Any, y: Any = None, groups: object = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]: ...
    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int: ...
