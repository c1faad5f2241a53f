"""Names of classes in saved files and pickles: kinds, not private modules.

A kind never changes. Its class may move to another module at any time; then change its line of
`KINDS`. Public classes need no kind: files name them by the path that users import.
"""

import importlib
from collections.abc import Callable
from typing import Any, SupportsIndex

PACKAGE = "sklearn_cbir"
# Kind: where its class is now.
KINDS = {
    "gallery": "index._gallery.Gallery",
    "gallery ids": "index._gallery.GalleryIds",
    "gallery labels": "index._gallery.GalleryLabels",
    "gallery targets": "index._targets.GalleryTargets",
    "cosine": "index._exact.CosineEngine",
    "euclidean": "index._exact.EuclideanEngine",
    "hamming": "index._hamming.HammingEngine",
    "stored cosine": "index._stored.StoredCosineEngine",
    "stored euclidean": "index._stored.StoredEuclideanEngine",
    "half rows": "index._stored.HalfRows",
    "row file": "index._stored.RowFile",
    "faiss": "index._faiss.FaissEngine",
    "nndescent": "index._nndescent.NNDescentEngine",
    "half nndescent": "index._nndescent.HalfNNDescentEngine",
    "neighbor graph": "index._graph.NeighborGraph",
    "milvus": "index._milvus.MilvusEngine",
    "milvus collection": "index._milvus_collection.Collection",
}
# Where files of format 1, and pickles of that time, say that a class is. Nothing is added here,
# and nothing taken away.
FORMER = {
    "sklearn_cbir.index._gallery.Gallery": "gallery",
    "sklearn_cbir.index._gallery.GalleryIds": "gallery ids",
    "sklearn_cbir.index._gallery.GalleryLabels": "gallery labels",
    "sklearn_cbir.index._targets.GalleryTargets": "gallery targets",
    "sklearn_cbir.index._exact.CosineEngine": "cosine",
    "sklearn_cbir.index._exact.EuclideanEngine": "euclidean",
    "sklearn_cbir.index._hamming.HammingEngine": "hamming",
    "sklearn_cbir.index._stored.StoredCosineEngine": "stored cosine",
    "sklearn_cbir.index._stored.StoredEuclideanEngine": "stored euclidean",
    "sklearn_cbir.index._stored.HalfRows": "half rows",
    "sklearn_cbir.index._stored.RowFile": "row file",
    "sklearn_cbir.index._faiss.FaissEngine": "faiss",
    "sklearn_cbir.index._nndescent.NNDescentEngine": "nndescent",
    "sklearn_cbir.index._graph.NeighborGraph": "neighbor graph",
    "sklearn_cbir.index._milvus.MilvusEngine": "milvus",
    "sklearn_cbir.index._milvus.Collection": "milvus collection",
}
# Classes that are saved as what another one makes of their state.
SAVED_AS = {"index._linking.LinkedGraph": "neighbor graph"}
_PLACES = {**{place: kind for kind, place in KINDS.items()}, **SAVED_AS}
_KIND_AT = {f"{PACKAGE}.{place}": kind for place, kind in _PLACES.items()}


def kind_of(cls: type) -> str | None:
    """Return the kind of a class, or None if it has none, as subclasses of users have not."""
    return _KIND_AT.get(f"{cls.__module__}.{cls.__qualname__}")


def class_of(kind: str) -> type:
    """Return the class of a kind, whose module is imported; raise if there is no such kind."""
    if kind not in KINDS:
        raise ValueError(
            f"This was saved with a {kind!r}, which this version of sklearn_cbir does not know. "
            "Install a newer version."
        )
    module, _, name = KINDS[kind].rpartition(".")
    return getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)


def of_kind(kind: str) -> object:
    """Return a new object of a kind, without a state; pickles call this, and set the state."""
    return object.__new__(class_of(kind))


# The place that pickles name, which is public and stays.
of_kind.__module__ = f"{PACKAGE}.index"


class Kept:
    """What a pickle calls by its kind; a subclass that has none is pickled as any object is."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        kind = kind_of(type(self))
        if kind is None:
            return super().__reduce_ex__(protocol)
        return of_kind, (kind,), self.__getstate__()


def former_classes(module: str) -> Callable[[str], type]:
    """Return the `__getattr__` of a module that classes have left, for those that pickles seek."""

    def __getattr__(name: str) -> type:
        if f"{module}.{name}" not in FORMER:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return class_of(FORMER[f"{module}.{name}"])

    return __getattr__
