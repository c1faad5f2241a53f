"""The contract of search engines: all methods and attributes that a search may use.

Rows go in; distances and positions come out. An engine has no labels, no ids and no estimator.

The answers of an engine never change (those of an approximate one keep their recall): `add` and
`remove` return another engine, so a search sees one consistent gallery while another thread adds
rows. Successive engines share memory: arrays grow into spare room that earlier engines do not see.
An engine only changes what it remembers: values that follow from its rows, computed at first use.
They cost memory, save time, and change no answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._kinds import Kept
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._typing import Sliced
from sklearn_cbir.index._filter import RowFilter

Value = TypeVar("Value")
# Distances and positions, one array of each per query.
Lists = tuple[list[NDArray], list[NDArray]]


class remembered:
    """A value that an engine computes once, in the first thread that needs it; never pickled.

    From then on it is an attribute of the engine, so reading it costs no call. Its class has a
    `lock`, which is held during the computation. Type checkers see the value.
    """

    make: Callable[[Any], Any]

    def __new__(cls, make: Callable[[Any], Value]) -> Value:
        """Take the method that computes the value."""
        self = object.__new__(cls)
        self.make, self.__doc__ = make, make.__doc__
        return cast(Value, self)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, engine: Any, owner: type) -> Any:
        if engine is None:
            return self
        with engine.lock:
            known = vars(engine)
            if self.name not in known:
                known[self.name] = self.make(engine)
            return known[self.name]


def derived(make: Callable[[Any], Value]) -> Value:
    """Return a property that replaces an attribute of a base class.

    Type checkers see the value; a property in the place of an attribute would be an error.
    """
    return cast(Value, property(make))


class Engine(Kept, ABC):
    """A gallery of rows that answers queries; the table in `_engines` names them all.

    A subclass defines the abstract methods, the attributes below, and in `pickled` the names of the
    attributes that a file must hold: all others are made again.
    """

    # What a subclass owes besides its methods: attributes, or `derived` from others.
    metric: str  # the name of the distance
    name: str  # the algorithm that answers
    rows: NDArray  # the gallery as it is compared, (n, n_columns), or what is sliced like an array

    # What an engine can do. It is asked of the class, before there is an engine.
    metrics: ClassVar[tuple[str, ...]]
    storages: ClassVar[tuple[str, ...]] = ("copy",)
    needs_address: ClassVar[bool] = False  # whether its rows live elsewhere, under a `uri`
    is_exact: ClassVar[bool] = True  # whether `query` finds all of the nearest rows
    options: ClassVar[tuple[str, ...]] = ()  # the retriever's parameters that it is made with
    pickled: ClassVar[tuple[str, ...]]
    # What earlier versions called attributes that were saved, and what they are called now.
    renamed: ClassVar[dict[str, str]] = {}
    lock: ClassVar[ProcessLock] = ProcessLock()  # held while something is remembered

    # What holds unless an engine says otherwise.
    recall: float = 1.0  # share of the true neighbors that `query` finds
    in_memory: bool = True  # whether all rows are, as they are compared
    input_dtype: str | None = None  # in which queries are taken; None is the type of the rows
    block_size: int | None = None  # how many queries to score at once, if that matters
    given_uri: str | None = None  # where its rows are, as the caller spelled it
    collection: Any = None  # what holds the rows there, and has a name

    def __init__(self, metric: str | None = None) -> None:
        """Make an engine without rows; an engine with a single metric needs no `metric`."""

    @classmethod
    def find(cls, metric: str, storage: str = "copy") -> "type[Engine] | None":
        """Return the engine of a metric and a storage, which is this one or none."""
        return cls if metric in cls.metrics and storage in cls.storages else None

    @classmethod
    def made_for(cls, parameters: Any, metric: str) -> Self:
        """Return an engine without rows, with those parameters of a retriever that it takes."""
        return cls(metric, **{name: getattr(parameters, name) for name in cls.options})

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def build(self, rows: NDArray) -> Self:
        """Hold a copy of `rows`, (n, n_features), as the gallery, and return the engine."""

    def build_on(self, exact: "Engine") -> Self:
        """Hold the rows of an exact engine of the same metric, and return the engine."""
        return self.build(exact.decode(exact.rows, None))

    @abstractmethod
    def encode(self, rows: NDArray) -> NDArray:
        """Return rows in the form in which they are compared; every query comes through here."""

    def decode(self, rows: NDArray, n_features: int | None) -> NDArray:
        """Return a copy of encoded rows in the form in which they can be asked with."""
        return np.array(rows[:])

    def as_held(self, queries: NDArray) -> NDArray:
        """Return encoded queries as they would be if they were rows of the gallery."""
        return queries

    @abstractmethod
    def query(self, queries: NDArray, k: int) -> tuple[NDArray, NDArray]:
        """Return distances and positions of the `k` nearest rows, both (n_queries, k).

        The nearest come first; equal distances are in the order of positions.
        """

    @abstractmethod
    def query_radius(self, queries: NDArray, radii: NDArray) -> Lists:
        """Return lists of distances and positions of all rows within each query's radius, exactly.

        One radius per query, or one for all; each list holds one array per query, nearest first.
        """

    @abstractmethod
    def distances(self, queries: NDArray) -> NDArray | Sliced:
        """Return the exact distances to all rows, (n_queries, n), for scoring."""

    def cut_off(self, k: int) -> "Engine":
        """Return an engine for metrics of the first `k` results.

        If reading all rows is expensive, its `distances` are infinite beyond the k-th nearest row
        and its ties.
        """
        return self

    @abstractmethod
    def add(self, rows: NDArray) -> Self:
        """Return an engine with `rows` appended."""

    @abstractmethod
    def remove(self, positions: NDArray) -> Self:
        """Return an engine without the rows at `positions`; later positions move up."""

    def filtered(self, row_filter: RowFilter) -> "Engine":
        """Return an engine over the rows that a filter leaves in, numbered among them.

        It answers like an engine built of these rows only; an approximate one with its `recall`.
        The engine of the last filter is remembered; nothing is ever added to it or removed.
        """
        known = vars(self).get("_filtered")
        if known is None or known[0] is not row_filter:
            known = vars(self)["_filtered"] = row_filter, self._left_in(row_filter)
        return known[1]

    def masked(self, mask: NDArray[np.bool_]) -> "Masked | None":
        """Return an object that answers one query among the rows of a mask, without a filter.

        None if that would take longer, because all of the mask must be read.
        """
        return None

    def _left_in(self, row_filter: RowFilter) -> "Engine":
        """Answer `filtered` for a filter that is not remembered."""
        return self.remove(np.flatnonzero(~row_filter.mask))

    def relocate(self, place: str) -> Self | None:
        """Return an engine whose rows are in another place; None if they are in memory."""
        return None

    @derived
    def exact(self) -> "Engine":
        """An engine over the same rows that answers exactly."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()  # another thread may be remembering something
        return {name: state[name] for name in self.pickled if name in state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({self.renamed.get(name, name): value for name, value in state.items()})

    def knows(self, name: str) -> bool:
        """Say whether a value that is remembered was computed yet."""
        return name in vars(self)

    def _like(self, **changes: Any) -> Self:
        """Return an engine that differs from this one by `changes` and remembers nothing."""
        engine = object.__new__(type(self))
        vars(engine).update({**self.__getstate__(), **changes})
        return engine


class Masked(Protocol):
    """The answer of an engine to a mask: one search, by positions in the whole gallery."""

    def __len__(self) -> int:
        """Return the number of rows of the whole gallery."""
        ...

    def query(self, queries: NDArray, k: int) -> tuple[NDArray, NDArray]:
        """Answer as `Engine.query` among the rows of the mask, of which there are `k`."""
        ...


class EngineFamily:
    """Engines of one algorithm, each for some metrics and storages; used as if it were one class.

    Parameters
    ----------
    *members : subclasses of Engine
        No two of them serve the same metric and storage.
    """

    def __init__(self, *members: type[Engine]):
        self.members = members
        self.metrics = _united(member.metrics for member in members)
        self.storages = _united(member.storages for member in members)
        self.needs_address = any(member.needs_address for member in members)

    def __call__(self, metric: str, *, storage: str = "copy", **options: Any) -> Any:
        """Return an engine without rows, of the class that serves metric and storage."""
        member = self.find(metric, storage)
        if member is None:
            raise ValueError(f"No engine has metric={metric!r} and storage={storage!r}.")
        return member(metric, **options)

    def find(self, metric: str, storage: str = "copy") -> type[Engine] | None:
        """Return the engine of a metric and a storage, None if there is none."""
        found = (member.find(metric, storage) for member in self.members)
        return next((member for member in found if member is not None), None)


def _united(parts):
    """Return what is in any of the parts, once, in order."""
    return tuple(dict.fromkeys(item for part in parts for item in part))
