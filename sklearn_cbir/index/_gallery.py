"""The gallery of a retriever: an engine, and the id and the label of every position."""

import numbers
import weakref
from collections.abc import Iterable, Set
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sklearn_cbir._kinds import Kept
from sklearn_cbir._labels import (
    check_labels,
    check_same_columns,
    check_same_kind,
    comparable_labels,
    expand_labels,
    label_names,
    merge_classes,
    unique_labels,
)
from sklearn_cbir._locks import ProcessLock
from sklearn_cbir._validation import is_fair_width, shortened, text_array
from sklearn_cbir.index._engine import Engine, remembered
from sklearn_cbir.index._filter import RowFilter, as_mask, check_no_numbers_for_bools
from sklearn_cbir.index._growing import BOOLEANS, IdTable, append, delete, id_key
from sklearn_cbir.index._rows import read_only

if TYPE_CHECKING:
    from sklearn_cbir.index._targets import GalleryTargets

TEXT, NUMBERS, OBJECTS = "text", "whole numbers", "objects"  # kinds of ids
SHARE_TO_FILTER = 0.25  # of rows left in: of more, copies are worth it after many queries only
IDS_TO_SCAN_FOR = 8  # more are looked up in a table of all
IDS_TO_FILL = 5_000  # into the table at once
AS_LIST = ("tolist", "to_pylist", "to_list")  # of numpy and pandas, Arrow, Polars


@dataclass(frozen=True)
class Gallery(Kept):
    """One consistent state; a retriever replaces it as a whole when rows come or go."""

    metric: str
    engine: Engine
    ids: "GalleryIds"
    labels: "GalleryLabels | GalleryTargets | None"
    n_features: int
    feature_names: np.ndarray | None = None  # (n_features,), of the columns, if they have some

    def __len__(self):
        return len(self.engine)

    def __getstate__(self):
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state):
        """Set the stored state; earlier versions stored the columns as a dictionary."""
        columns = state.pop("columns", {})
        if columns:
            state["n_features"] = columns["n_features_in_"]
            state["feature_names"] = columns.get("feature_names_in_")
        vars(self).update(state)

    def check_labels(self, y):
        """Raise unless new rows come with labels exactly if the gallery has them."""
        if (y is None) != (self.labels is None):
            raise ValueError(
                "The gallery has labels, but y is None. Pass y with the new rows."
                if y is None
                else "The gallery has no labels. Leave y out, or fit again with y."
            )

    def find(self, ids, way_out="Leave them out.", name="ids"):
        """Return the positions of ids that are all there; `name` is that of their argument."""
        positions = self.ids.find(ids, name)
        if (positions < 0).any():
            missing = ids[positions < 0]
            of = "" if name == "ids" else f" of {name}"
            raise ValueError(
                f"{len(missing)} of {len(ids)} ids{of} are not in the gallery, such as "
                f"{_shown(missing.tolist()[0])}. {way_out}"
            )
        return positions

    def mask(self, where):
        """Return which rows a mask or ids of a user leave in, (n,), bool."""
        mask = as_mask(where, len(self))
        if mask is None:
            mask = np.zeros(len(self), dtype=bool)
            mask[self._find_to_leave_in(where)] = True
        return mask

    def filter(self, mask):
        """Return the filter of a mask. The last one is remembered: an equal one is the same."""
        row_filter, known = RowFilter(mask), vars(self).get("_filter")
        if known is None or not known.is_like(row_filter):
            known = vars(self)["_filter"] = row_filter
        return known

    def is_new(self, mask):
        """Say whether a mask is another array than the one before, or leaves many rows in.

        One query gains nothing then from a filter, which is made for masks that come again.
        """
        last, n_left = vars(self).get("_last_mask", (None, None))
        if last is None or last() is not mask:
            vars(self)["_last_mask"] = weakref.ref(mask), None
            return True
        if n_left is None:
            n_left = int(np.count_nonzero(mask))
            vars(self)["_last_mask"] = last, n_left
        return n_left > SHARE_TO_FILTER * len(mask)

    def _find_to_leave_in(self, where):
        """Return the positions of ids that a filter leaves in, of which one may be there twice."""
        ids = check_ids(where, unique=False, name="where")
        if not len(ids):
            raise ValueError(
                "where is empty, so it matches no row. Name at least one row of the gallery."
            )
        check_no_numbers_for_bools(ids, len(self))
        return self.find(ids, name="where")

    def ask(self, ids):
        """Return the positions of ids that ask, in their order."""
        if isinstance(ids, Set):
            raise ValueError(f"ids={ids!r:.60} is a set, which has no order. Give a list.")
        positions = self.find(check_ids(ids, unique=False), "Pass the rows of such queries as X.")
        if not len(positions):
            raise ValueError("ids is empty. Name at least one row of the gallery, or pass X.")
        return positions

    def find_to_remove(self, ids):
        """Return the positions of ids of which some are not removed."""
        positions = self.find(ids, "Nothing was removed.")
        if len(positions) == len(self):
            raise ValueError(
                f"This would remove all {len(self)} rows of the gallery. Fit a new one instead."
            )
        return positions

    def relocate(self, place):
        """Return the gallery with its rows in another place."""
        engine = self.engine.relocate(place)
        if engine is None:
            raise ValueError(
                f"place={str(place)!r}: the rows of this gallery are in memory, not in a file "
                "or on a server. There is nothing to relocate: leave this call out."
            )
        return replace(self, engine=engine)

    def elsewhere(self, uri):
        """Return the error that the parameter of the retriever is not where the gallery is."""
        return ValueError(
            f"uri={shortened(uri)} was set after fit, but the gallery is at "
            f"{self.engine.given_uri!r}. Call relocate(uri) if you moved it there, or fit again "
            "to make a new one there."
        )

    def remove(self, positions):
        """Return the gallery without the rows at `positions`."""
        labels = None if self.labels is None else self.labels.remove(positions)
        engine, ids = self.engine.remove(positions), self.ids.remove(positions)
        return replace(self, engine=engine, ids=ids, labels=labels)

    def queries(self, ids):
        """Return the rows that have the ids, or all, as encoded queries, and their positions."""
        if ids is None:
            return self.engine.rows, np.arange(len(self))
        positions = self.ask(ids)
        return self.engine.rows[positions], positions

    def query_positions(self, ids, n_queries):
        """Return the position in the gallery of every query (-1: none), or None for no ids."""
        if ids is None:
            return None
        ids = check_ids(ids, n_queries, unique=False)
        # One rule for all queries with ids, or what one may ask would depend on the others.
        return self.ids.find(ids) if self.ids.given else None


class GalleryIds(Kept):
    """The id of every position: the caller's, or numbers that are never used twice.

    Ids that follow others share their memory and their table, as rows do.
    """

    lock = ProcessLock()  # held while something is remembered
    _held: Any  # the ids, or a range of them

    def __init__(self, ids, n):
        self.given = ids is not None
        self._held, self.next_id = range(n), n
        self._room, self._table = None, IdTable(n)
        if self.given:
            values = check_ids(ids, n)
            self._held, self._room = append(values, values[:0])

    @property
    def values(self):
        """The ids, as an array that cannot be written; numbers in a row are held as a range."""
        if not isinstance(self._held, range):
            return read_only(self._held)
        return read_only(self._counted)

    @remembered
    def _counted(self):
        """The numbers of a range, as an array."""
        return np.arange(self._held.start, self._held.stop)

    @remembered
    def kind(self):
        """The kind of these ids, in one word."""
        return _kind(self.values)

    @remembered
    def _types(self):
        """The types of ids that are objects."""
        return set(map(type, self.values.tolist()))

    def __len__(self):
        return len(self._held)

    def __getstate__(self):
        # The look-up table and counted numbers are made again, not stored.
        return {"given": self.given, "values": self._held, "next_id": self.next_id}

    def __setstate__(self, state):
        self.given, self._held, self.next_id = (state[k] for k in ("given", "values", "next_id"))
        self._room, self._table = None, IdTable(len(self))

    def at(self, positions):
        """Return the ids of an array of positions."""
        if isinstance(self._held, range):
            return positions + self._held.start
        return self._held[positions]

    def add(self, ids, n):
        """Return the ids with those of `n` new positions appended."""
        if (ids is not None) != self.given:
            have, way = (
                (f"its own ids, such as {_shown(self.values[0])}", "Pass ids for the new rows too")
                if self.given
                else ("counted ids", "Leave ids out here too, or fit again with ids")
            )
            raise ValueError(f"The gallery has {have}. {way}.")
        if not self.given:
            return self._counted_on(n)
        new = check_ids(ids, n)
        known = np.flatnonzero(self.find(new) >= 0)
        if len(known):
            raise ValueError(
                f"ids[{known[0]}]={_shown(new[known[0]])} is in the gallery already. "
                "Remove it first, or leave the row out."
            )
        held, new = _alike(self._held, new)
        more = self._with(*append(held, new, self._room if held is self._held else None))
        more.next_id, more.kind = self.next_id + n, self.kind
        if "_types" in vars(self):  # else they are looked for when they are asked for
            more._types = self._types.union(map(type, new.tolist()))
        if self._table.claim(len(self), len(more)):
            more._table = self._table
        return more

    def _counted_on(self, n):
        """Return counted ids with those of `n` new positions appended."""
        next_id = self.next_id + n
        if isinstance(self._held, range) and self._held.stop == self.next_id:
            more = self._with(range(self._held.start, next_id), None)
        else:
            new = np.arange(self.next_id, next_id)
            more = self._with(*append(self.values, new, self._room))
        more.next_id = next_id
        return more

    def remove(self, positions):
        """Return the ids without those at `positions`."""
        return self._with(*delete(self.values, positions))

    def find(self, ids, name="ids"):
        """Return the position of every id, -1 where the gallery does not have it.

        `name` is that of the argument that the ids are from, for messages.
        """
        if isinstance(self._held, range) and ids.dtype.kind in "iu":
            ids = ids.astype(np.int64, copy=False)  # those from 2**63 on are negative: not there
            inside = (ids >= self._held.start) & (ids < self._held.stop)
            return np.where(inside, ids - self._held.start, -1)
        kind, listed = self.kind, ids.tolist()
        is_of_kind = {TEXT: _is_text, NUMBERS: _is_integer, OBJECTS: self._may_equal}[kind]
        for row, id_ in enumerate(listed):
            if not is_of_kind(id_):
                of = f"one of {kind}"
                if kind == OBJECTS:
                    names = sorted(known.__name__ for known in self._types)
                    of = f"of the type {' or '.join(names)},"
                raise ValueError(
                    f"{name}[{row}]={_shown(id_)} is not {of} such as {_shown(self.values[0])}, "
                    "like the ids of the gallery: they can never be equal. Use one type for "
                    "both."
                )
        return np.array(self._find(listed), dtype=np.int64)

    def _find(self, listed):
        """Return the position of every id of a list, -1 where the gallery does not have it."""
        n, filled = len(self), self._table.filled
        if filled >= n or len(listed) > IDS_TO_SCAN_FOR or self.values.dtype.kind == "O":
            self._table.fill(self.values, n)
            return [self._table.find(id_, n) for id_ in listed]
        # To fill the table takes as long as some ten scans: it is filled on the way.
        rest = self.values[filled:]
        found = [self._table.find(id_, n) for id_ in listed]
        for row, id_ in enumerate(listed):
            if found[row] < 0 and not (isinstance(id_, str) and id_.endswith("\0")):
                here = np.flatnonzero(rest == id_)  # an array of text ignores NUL at an end
                found[row] = filled + int(here[0]) if len(here) else -1
        self._table.fill(self.values, min(n, filled + max(IDS_TO_FILL, n // 16)))
        return found

    def _may_equal(self, id_):
        """Say whether an id of this type can be one of these, which are of any types."""
        kind = type(id_)
        return kind in self._types or any(_are_alike(kind, known) for known in self._types)

    def _with(self, values, room):
        ids = GalleryIds.__new__(GalleryIds)
        if not self.given and len(values) and values[-1] - values[0] == len(values) - 1:
            values, room = range(int(values[0]), int(values[-1]) + 1), None  # they only ever grow
        ids.given, ids._held, ids.next_id = self.given, values, self.next_id
        ids._room, ids._table = room, IdTable(len(values))
        return ids


class GalleryLabels(Kept):
    """The label of every position, stored as small class numbers or 0/1 columns."""

    names: list[str | int] | None = None  # of the columns, where they have some
    classes: Any  # sorted, of labels that are one each; None for 0/1 columns
    codes: np.ndarray
    _room: Any = None  # behind the codes, for more

    def __init__(self, y: Any, n: int) -> None:
        names, y = label_names(y), check_labels(y, n=n)
        self.names = names if y.ndim == 2 else None  # of the columns, where they have some
        if y.ndim == 2:
            self.classes, self.codes = None, y.astype(np.uint8)
        else:
            self.classes, codes = unique_labels(y)
            self.codes = codes.astype(np.min_scalar_type(len(self.classes)))

    @property
    def values(self) -> np.ndarray:
        """Labels as they were given."""
        if self.classes is None:
            return read_only(self.codes)
        return expand_labels(self.classes, self.codes)

    @property
    def some(self):
        """A few labels, which show the kind of all."""
        return self.codes[:1] if self.classes is None else self.classes[:1]

    def add(self, y, n):
        """Return the labels with those of `n` new positions appended."""
        new = GalleryLabels(y, n)
        check_same_kind(new.some, self.some)
        check_same_columns(y, self.names)
        if self.classes is None:
            return self._with(None, *self._followed_by(new.codes))
        known, added = comparable_labels(self.classes, new.classes)
        place = known[:-1].searchsorted(added)
        if (known[place] == added).all():  # no class is new
            return self._with(self.classes, *self._followed_by(place[new.codes]))
        classes, (old, added) = merge_classes(self.classes, new.classes)
        codes = np.concatenate([old[self.codes], added[new.codes]])
        return self._with(classes, codes.astype(np.min_scalar_type(len(classes))))

    def remove(self, positions):
        """Return the labels without those at `positions`."""
        return self._with(self.classes, *delete(self.codes, positions))

    def __getstate__(self):
        state = {"classes": self.classes, "codes": self.codes}
        return state if self.names is None else {**state, "names": self.names}

    def _followed_by(self, codes):
        """Return the codes with others behind them, and their room."""
        return append(self.codes, codes, self._room)

    def _with(self, classes, codes, room=None):
        labels = GalleryLabels.__new__(GalleryLabels)
        labels.classes, labels.codes, labels._room = classes, codes, room
        labels.names = self.names
        return labels


def check_ids(ids, n=None, *, unique=True, name="ids"):
    """Return ids as a 1-D array of text, whole numbers or other hashable objects.

    `name` is that of their argument, for messages.
    """
    listed = _listed(ids)
    if isinstance(listed, (str, bytes, bytearray)) or not isinstance(listed, Iterable):
        kind = "one id" if not isinstance(listed, Iterable) else "one string"
        raise ValueError(f"{name}={shortened(listed)} is {kind}. Wrap it in a list.")
    if n is not None and isinstance(listed, Set):
        raise ValueError(f"ids={listed!r:.60} is a set, which has no order. Give one id per row.")
    if getattr(ids, "ndim", 1) != 1:
        raise ValueError(f"{name} has shape {ids.shape}. Give one id per row, in one dimension.")
    listed = [id_.as_py() if hasattr(id_, "as_py") else id_ for id_ in listed]  # of Arrow
    if n is not None and len(listed) != n:
        raise ValueError(f"There are {len(listed)} ids for {n} rows. Give one per row.")
    for row, id_ in enumerate(listed):
        if not _is_hashable(id_) or _is_missing(id_):
            raise ValueError(
                f"{name}[{row}] is {shortened(id_)}. Ids are text, whole numbers or other hashable "
                "objects, such as paths, and none may be missing."
            )
    if unique and len(set(listed)) < len(listed):
        _check_repeats(list(map(id_key, listed)), listed)
    if all(map(_is_text, listed)):
        return text_array(map(str.__str__, listed))  # of subclasses, the text itself
    if all(map(_is_integer, listed)):
        return _of_numbers(listed, name)
    return np.fromiter(listed, dtype=object, count=len(listed))


def _check_repeats(keys, listed):
    """Raise if one of the keys of ids is there twice."""
    seen = {}
    row = next((i for i, key in enumerate(keys) if seen.setdefault(key, i) != i), None)
    if row is not None:
        raise ValueError(
            f"ids[{row}]={_shown(listed[row])} repeats ids[{seen[keys[row]]}]. Each id must "
            "name one row: make them unique."
        )


def _of_numbers(listed, name):
    """Return whole numbers as int64, or as uint64 if they need it."""
    low, high = min(listed, default=0), max(listed, default=0)
    if not -(2**63) <= low <= high < 2**64:
        row = listed.index(low if low < -(2**63) else high)
        raise ValueError(
            f"{name}[{row}]={_shown(listed[row])} does not fit into 64 bits. Use text instead."
        )
    _check_fit_together(low, high, name)
    return np.array(listed, dtype=np.int64 if high < 2**63 else np.uint64)


def _check_fit_together(low, high, name="ids"):
    if low < 0 and high >= 2**63:
        raise ValueError(
            f"{name} hold {_shown(low)} and {_shown(high)}: no 64-bit type can hold both. Use "
            "text instead."
        )


def _listed(ids):
    """Return ids as Python has them, but times: of some units it has but numbers."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "mM":
        return list(ids)
    as_list = next((name for name in AS_LIST if hasattr(ids, name)), None)
    return getattr(ids, as_list)() if as_list else ids


def _is_hashable(value):
    """Say whether a value has a hash; a tuple has one if all that it holds have."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _are_alike(one, other):
    """Say whether values of two types may be equal and stand for one id: True is not 1."""
    if any(issubclass(of, BOOLEANS) for of in (one, other)):
        return issubclass(one, BOOLEANS) and issubclass(other, BOOLEANS)
    if issubclass(one, numbers.Number):
        return issubclass(other, numbers.Number)
    return issubclass(one, other) or issubclass(other, one)


def _is_missing(value):
    """Return whether a value is missing: NaN and its like do not equal themselves."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA does not say
        return True


def _is_text(value):
    return isinstance(value, str)


def _is_integer(value):
    # numpy counts durations among whole numbers.
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.timedelta64))


def _kind(values):
    """Return the kind of ids, in one word."""
    if values.dtype.kind == "O":  # long text too
        return TEXT if all(map(_is_text, values)) else OBJECTS
    return {"U": TEXT, "i": NUMBERS, "u": NUMBERS}.get(values.dtype.kind, OBJECTS)


def _alike(held, new):
    """Return ids and new ones as arrays of one type, those that are held as they are if they can.

    Text is of fixed width as long as that takes memory of the order of the sum of the lengths.
    """
    if held.dtype.kind == "U" and not (new.dtype.kind == "U" and new.itemsize <= held.itemsize):
        is_fair = new.dtype.kind == "U" and is_fair_width(
            new.itemsize // 4,
            sum(int(np.strings.str_len(values).sum()) for values in (held, new)),
            len(held) + len(new),
        )
        held = held.astype(new.dtype if is_fair else object)
    if {held.dtype.kind, new.dtype.kind} == {"i", "u"} and len(new):
        _check_fit_together(min(held.min(), new.min()), max(held.max(), new.max()))
        return held.astype(np.uint64, copy=False), new.astype(np.uint64, copy=False)
    return held, new.astype(held.dtype, copy=False)


def _shown(value):
    if isinstance(value, np.generic) and value.dtype.kind not in "mM":
        value = value.item()
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:97]}..."
