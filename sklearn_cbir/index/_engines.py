"""The table of engines, and which of them ``algorithm="auto"`` takes."""

from sklearn_cbir._validation import check_choice, shortened
from sklearn_cbir.index._exact import CosineEngine, EuclideanEngine
from sklearn_cbir.index._faiss import FaissEngine
from sklearn_cbir.index._hamming import HammingEngine
from sklearn_cbir.index._milvus import MilvusEngine
from sklearn_cbir.index._nndescent import NNDescentEngine
from sklearn_cbir.index._stored import StoredCosineEngine, StoredEuclideanEngine

EXACT = {"cosine": CosineEngine, "euclidean": EuclideanEngine, "hamming": HammingEngine}
STORED = {"cosine": StoredCosineEngine, "euclidean": StoredEuclideanEngine}
STORAGES = ("copy", "float16", "memory_map")
# Up to either of these, comparing with every row is fast enough for anybody.
EXACT_UP_TO_ROWS = 20_000
EXACT_UP_TO_NUMBERS = 5_000_000


def exact_engine(metric, **options):
    """Return an engine that compares every query with every row."""
    return EXACT[metric]()


ENGINES = {
    "exact": exact_engine,
    "nndescent": NNDescentEngine,
    "faiss": FaissEngine,
    "milvus": MilvusEngine,
}
EXTERNAL = {"milvus"}  # engines whose rows live elsewhere, under an address


def choose_algorithm(metric, n_rows, n_features, expected_queries=None):
    """Return the algorithm that ``"auto"`` stands for.

    Codes are searched exactly. So are rows of floats up to 20,000 rows or
    5,000,000 numbers; above, the graph is built unless `expected_queries` are
    too few to win back the time that building takes.

    Parameters
    ----------
    metric : {"cosine", "euclidean", "hamming"}
        Distance.

    n_rows : int
        Rows of the gallery.

    n_features : int
        Numbers per row.

    expected_queries : int, default=None
        Queries that one process will ask; None means many.

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


def check_engine_parameters(metric, algorithm, storage, uri):
    """Raise unless there is an engine of this algorithm, storage and place for the metric."""
    check_choice(algorithm, "algorithm", ("auto", *ENGINES))
    if metric == "hamming" and algorithm not in ("auto", "exact", *EXTERNAL):
        raise ValueError(
            f"algorithm={algorithm!r} does not search binary codes. Exact search is "
            "faster for them: use 'auto' or 'exact'."
        )
    if uri is not None and algorithm not in EXTERNAL:
        raise ValueError(
            f"uri={shortened(uri)} is given, but algorithm={algorithm!r} keeps the gallery "
            "in memory. Use algorithm='milvus', or uri=None."
        )
    check_choice(storage, "storage", STORAGES)
    is_exact = metric != "hamming" and algorithm in ("auto", "exact")
    if storage != "copy" and not is_exact:
        raise ValueError(
            f"storage={storage!r} is for floats that are searched exactly, not for "
            f"metric={metric!r} with algorithm={algorithm!r}. Use 'copy'."
        )


def algorithm_for(retriever, metric, n_rows, n_features):
    """Return the name of the algorithm for a gallery of this size."""
    if retriever.storage != "copy":
        return "exact"
    if retriever.algorithm != "auto":
        return retriever.algorithm
    return choose_algorithm(metric, n_rows, n_features, retriever.expected_queries)


def make_engine(retriever, metric, n_rows, n_features):
    """Return an empty engine for a gallery of this size, by the parameters of a retriever."""
    if retriever.storage != "copy":
        return STORED[metric]()
    algorithm = algorithm_for(retriever, metric, n_rows, n_features)
    if algorithm in EXTERNAL:
        where = {"uri": retriever.uri, "collection": retriever.collection}
        return ENGINES[algorithm](metric, **where, verbose=retriever.verbose)
    return ENGINES[algorithm](
        metric,
        n_neighbors=retriever.n_neighbors,
        recall_target=retriever.recall_target,
        n_jobs=retriever.n_jobs,
        random_state=retriever.random_state,
    )
