"""The table of engines; here one is chosen, checked and made from a retriever's parameters.

A new engine is a class that inherits `Engine`, and its line in `ENGINES`.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._validation import check_choice, shortened
from sklearn_cbir.index._checking import FLOATS, as_array, check_rows, column_names
from sklearn_cbir.index._engine import Engine, EngineFamily
from sklearn_cbir.index._exact_engines import EXACT
from sklearn_cbir.index._faiss import FaissEngine
from sklearn_cbir.index._hamming import PackedRows
from sklearn_cbir.index._milvus import MilvusEngine
from sklearn_cbir.index._milvus_rows import KeptRows
from sklearn_cbir.index._nndescent import HalfNNDescentEngine, NNDescentEngine
from sklearn_cbir.index._stored import RowStore, check_file

ENGINES: dict[str, type[Engine] | EngineFamily] = {
    "exact": EXACT,
    "nndescent": EngineFamily(NNDescentEngine, HalfNNDescentEngine),
    "faiss": FaissEngine,
    "milvus": MilvusEngine,
}
IN_FILES = ("memory_map",)  # storages whose rows are in a file of the user's
# Up to either of these, comparing with every row is fast enough for anybody.
EXACT_UP_TO_ROWS = 20_000
EXACT_UP_TO_NUMBERS = 5_000_000


def choose_algorithm(
    metric: Literal["cosine", "euclidean", "hamming"],
    n_rows: int,
    n_features: int,
    expected_queries: int | None = None,
) -> str:
    """Return the algorithm for ``"auto"``.

    Codes are searched exactly, and so are floats up to 20,000 rows or 5,000,000
    numbers. Above, the graph is built, unless `expected_queries` are too few to
    regain the time of building it.

    Parameters
    ----------
    metric : {"cosine", "euclidean", "hamming"}
        Distance.

    n_rows : int
        Rows of the gallery.

    n_features : int
        Numbers per row.

    expected_queries : int, default=None
        Number of queries in one process; None means many.

    Returns
    -------
    str
        A key of `ENGINES`.

    Examples
    --------
    >>> choose_algorithm("cosine", 10_000, 512), choose_algorithm("hamming", 10**6, 64)
    ('exact', 'exact')
    >>> choose_algorithm("cosine", 60_000, 512)
    'nndescent'
    >>> choose_algorithm("cosine", 60_000, 512, expected_queries=1_000)
    'exact'
    """
    numbers = n_rows * n_features
    if metric == "hamming" or n_rows <= EXACT_UP_TO_ROWS or numbers <= EXACT_UP_TO_NUMBERS:
        return "exact"
    if expected_queries is not None:
        # Measured on two cores: compiling takes about 22 s in every process.
        build = 22 + 6e-5 * n_rows * (1 + n_features / 512)
        if expected_queries * 2e-11 * numbers * (1 + 64 / n_features) < build:
            return "exact"
    return "nndescent"


def check_engine_parameters(parameters, metric):
    """Raise unless an engine serves a retriever's parameters, with the metric of its gallery."""
    algorithm, storage, uri = parameters.algorithm, parameters.storage, parameters.uri
    known = dict.fromkeys(name for line in ENGINES.values() for name in line.metrics)
    check_choice(parameters.metric, "metric", known)
    check_choice(algorithm, "algorithm", ("auto", *ENGINES))
    check_choice(storage, "storage", EXACT.storages)
    line = ENGINES["exact" if algorithm == "auto" else algorithm]
    if metric not in line.metrics:
        raise ValueError(_not_searched(metric, algorithm))
    if uri is not None and not line.needs_address:
        others = " or ".join(repr(name) for name, other in ENGINES.items() if other.needs_address)
        raise ValueError(
            f"uri={shortened(uri)} is given, but algorithm={algorithm!r} keeps the gallery "
            f"in memory. Use algorithm={others}, or uri=None."
        )
    if line.find(metric, storage) is None:
        able = " or ".join(repr(other) for other in line.storages if line.find(metric, other))
        raise ValueError(
            f"storage={storage!r} cannot be used for metric={metric!r} with algorithm="
            f"{algorithm!r}. "
            f"Use {able}."
        )


def _not_searched(metric: str, algorithm: str) -> str:
    """Say that an algorithm does not have a metric, and which others have."""
    if metric == "hamming":
        return (
            f"algorithm={algorithm!r} does not search binary codes. Exact search is "
            "faster for them: use 'auto' or 'exact'."
        )
    able = " or ".join(repr(name) for name, line in ENGINES.items() if metric in line.metrics)
    return f"algorithm={algorithm!r} does not search metric={metric!r}. Use algorithm={able}."


def check_gallery(X: Any, parameters: Any, owner: str) -> tuple[Any, NDArray[np.object_] | None]:
    """Return the rows to fit and the names of their columns, by a retriever's parameters.

    Rows are finite numbers, codes, or a file that is not read yet; names are None if they have
    none. `owner` is the name of the estimator, for messages.
    """
    if isinstance(X, (RowStore, KeptRows, PackedRows)):
        return X, None
    if parameters.storage in IN_FILES:
        return check_file(X, owner), None
    X = as_array(X)
    names = column_names(X)
    dtype = (np.float32,) if parameters.storage == "float16" else FLOATS
    return check_rows(X, parameters.metric, owner, dtype), names


def exact_in_memory(parameters):
    """Return what to change of a retriever's parameters to search arrays exactly, in memory."""
    changes = {"algorithm": "exact", "uri": None}
    return changes | {"storage": "copy"} if parameters.storage in IN_FILES else changes


def algorithm_for(parameters, metric, n_rows, n_features):
    """Return the name of the algorithm for a gallery of this size, by a retriever's parameters."""
    if parameters.algorithm != "auto":
        return parameters.algorithm
    if parameters.storage != "copy":
        return "exact"
    return choose_algorithm(metric, n_rows, n_features, parameters.expected_queries)


def make_engine(parameters: Any, metric: str, n_rows: int, n_features: int) -> Engine:
    """Return an engine without rows for a gallery of this size, by a retriever's parameters."""
    line = ENGINES[algorithm_for(parameters, metric, n_rows, n_features)]
    engine: Any = line.find(metric, parameters.storage)
    return engine.made_for(parameters, metric)


def add_rows(engine: Engine, rows: np.ndarray, parameters: Any) -> Engine:
    """Return an engine with `rows` appended; many rows may ask for another algorithm."""
    engine = engine.add(rows)
    size = engine.metric, len(engine), rows.shape[1]
    if engine.is_exact and engine.in_memory and algorithm_for(parameters, *size) != engine.name:
        return make_engine(parameters, *size).build_on(engine)
    return engine
