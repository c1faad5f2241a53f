from collections.abc import Iterator
from typing import Any

import numpy as np

class InputTags:
    two_d_array: bool
    three_d_array: bool
    string: bool
    sparse: bool
    allow_nan: bool
    pairwise: bool

class TargetTags:
    required: bool
    one_d_labels: bool
    two_d_labels: bool
    multi_output: bool

class TransformerTags:
    preserves_dtype: list[str]

class Tags:
    estimator_type: str | None
    target_tags: TargetTags
    transformer_tags: TransformerTags
    input_tags: InputTags
    requires_fit: bool
    non_deterministic: bool
    no_validation: bool

class Bunch(dict[str, Any]):
    def __init__(self, **fields: Any) -> None: ...

def check_random_state(
    seed: int | np.random.RandomState | None,
) -> np.random.RandomState: ...
def gen_batches(n: int, batch_size: int, *, min_batch_size: int = 0) -> Iterator[slice]: ...
def get_tags(estimator: object) -> Tags: ...
def _safe_indexing(X: Any, indices: object, *, axis: int = 0) -> Any: ...
